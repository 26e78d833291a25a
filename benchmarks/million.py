# Copyright 2026 The transformers-linformer authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""
One document of a million tokens through an encoder of base size, on this machine.

    python -m benchmarks.million
    python -m benchmarks.million --help

The text is the documentation of Python, as often as needed, through a tokenizer trained on it. The encoder has 12 layers, d = 768
and random weights, and reads the whole document at once, on all cores. Prints the time and the peak memory of the process, all
of it; then, for what that means, the time of RoBERTa of the same size for the document's first 4,096 tokens, and for as many
pieces of 4,096 tokens as the document has.
"""

import argparse
import time

import torch
from datasets import Dataset
from transformers import RobertaConfig, RobertaModel

from configuration_linformer import LinformerConfig
from configuration_linformer.configuration_linformer import PROJECTION_TYPES
from modeling_linformer import LinformerModel
from run_common import train_tokenizer
from run_mlm import python_documentation

from .speed import resident_memory


PIECE = 4096
SIZES = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "type_vocab_size": 1}


def parse_arguments():
    description = __doc__.strip().splitlines()[0]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1_000_000, help="n.")
    parser.add_argument("--projected_dim", type=int, default=64, help="k.")
    parser.add_argument("--block_size", type=int, default=128, help="b.")
    parser.add_argument("--projection_type", default="attention_pool", choices=PROJECTION_TYPES)
    parser.add_argument("--num_hidden_layers", type=int, default=12)
    return parser.parse_args()


def read(model, input_ids):
    """Seconds."""
    start = time.perf_counter()
    with torch.no_grad():
        model(input_ids)
    return time.perf_counter() - start


def main():
    args = parse_arguments()
    n, vocab_size = args.tokens, 8192
    texts = [" ".join(text.split()) for text in python_documentation()]
    tokenizer = train_tokenizer(Dataset.from_dict({"text": texts}), vocab_size, n)
    document = " ".join(texts)
    start = time.perf_counter()
    input_ids = tokenizer(document, verbose=False, return_tensors="pt")["input_ids"]
    print(f"tokenizing {len(document):,} characters into {input_ids.shape[1]:,} tokens: {time.perf_counter() - start:.1f} s")
    input_ids = input_ids.repeat(1, -(-n // input_ids.shape[1]))[:, :n].contiguous()

    sizes = SIZES | {"vocab_size": len(tokenizer), "num_hidden_layers": args.num_hidden_layers}
    roberta = RobertaModel(RobertaConfig(**sizes, max_position_embeddings=PIECE + 2), add_pooling_layer=False).eval()
    read(roberta, input_ids[:, :PIECE])  # to warm up
    piece = read(roberta, input_ids[:, :PIECE])
    pieces = -(-n // PIECE)
    print(f"RoBERTa, the first {PIECE:,} tokens: {piece:.1f} s; {pieces} pieces of so many: {piece * pieces / 60:.1f} minutes")
    del roberta

    config = LinformerConfig(
        **sizes,
        max_position_embeddings=n,
        projected_dim=args.projected_dim,
        block_size=args.block_size,
        projection_type=args.projection_type,
    )
    model = LinformerModel(config, add_pooling_layer=False).eval()
    table, weights = (sum(p.numel() * 4 for p in module.parameters()) for module in (model.embeddings, model))
    first = read(model, input_ids[:, :PIECE])
    print(f"Linformer, the first {PIECE:,} tokens: {first:.1f} s; weights {weights / 1e9:.2f} GB, embeddings {table / 1e9:.2f} of it")
    seconds = read(model, input_ids)
    print(f"Linformer, all {n:,} tokens: {seconds / 60:.1f} minutes, {seconds / n * 1e6:.0f} microseconds a token")
    print(f"peak memory of the process, weights included: {resident_memory('VmHWM') / 1e9:.2f} GB; the output alone {n * 3072 / 1e9:.2f}")


if __name__ == "__main__":
    main()
