# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Read one document of a million tokens with an encoder of base size, and measure the time and the memory that this takes.

    python -m benchmarks.million
    python -m benchmarks.million --help

The text is the documentation of Python, repeated as often as needed, with a tokenizer that is trained on it. The encoder has
12 layers, d = 768 and random weights, and reads the complete document at once, on all cores. It has as many positions as the
document has tokens, rounded up to complete windows.

Prints the time, and the peak memory of the process with everything in it. For comparison it also prints the time that RoBERTa
of the same size takes for the first 4,096 tokens of the document, and for as many parts of 4,096 tokens as the document has.
"""

import argparse
import time

import torch
from transformers import RobertaConfig, RobertaModel

from configuration_linformer import LinformerConfig
from configuration_linformer.configuration_linformer import PROJECTION_TYPES
from modeling_linformer import LinformerModel
from transformers_linformer.tokenization import train_tokenizer
from transformers_linformer.training.text import demo_texts

from .memory import resident_memory


# The tokens that RoBERTa reads at once
PART = 4096
VOCAB_SIZE = 8192
SIZES = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "type_vocab_size": 1}


def parse_arguments():
    description = __doc__.strip().splitlines()[0]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1_000_000, help="The number of tokens of the document.")
    parser.add_argument("--projected_dim", type=int, default=256, help="k, the greatest number of rows.")
    parser.add_argument("--block_size", type=int, default=256, help="b. 0 is for no blocks.")
    parser.add_argument("--projection_type", default="attention_pool", choices=PROJECTION_TYPES, help="How n rows become k.")
    parser.add_argument("--num_hidden_layers", type=int, default=12, help="The number of layers.")
    return parser.parse_args()


def seconds_to_read(model, input_ids):
    start = time.perf_counter()
    with torch.no_grad():
        model(input_ids)
    return time.perf_counter() - start


def main():
    args = parse_arguments()
    n = args.tokens
    texts = demo_texts()["train"]
    tokenizer = train_tokenizer(texts, VOCAB_SIZE, n)
    document = " ".join(texts["text"])
    start = time.perf_counter()
    input_ids = tokenizer(document, verbose=False, return_tensors="pt")["input_ids"]
    seconds = time.perf_counter() - start
    print(f"tokenizing {len(document):,} characters into {input_ids.shape[1]:,} tokens takes {seconds:.1f} s")
    input_ids = input_ids.repeat(1, -(-n // input_ids.shape[1]))[:, :n].contiguous()

    sizes = SIZES | {"vocab_size": len(tokenizer), "num_hidden_layers": args.num_hidden_layers}
    roberta = RobertaModel(RobertaConfig(**sizes, max_position_embeddings=PART + 2), add_pooling_layer=False).eval()
    seconds_to_read(roberta, input_ids[:, :PART])  # to warm up
    seconds, parts = seconds_to_read(roberta, input_ids[:, :PART]), -(-n // PART)
    print(f"RoBERTa takes {seconds:.1f} s for the first {PART:,} tokens")
    print(f"RoBERTa would take {seconds * parts / 60:.1f} minutes for {parts} parts of {PART:,} tokens")
    del roberta

    window = 32
    while window * args.projected_dim < n:
        window *= 2
    longest = -(-n // max(window, args.block_size)) * max(window, args.block_size)
    config = LinformerConfig(
        **sizes,
        max_position_embeddings=longest,
        projected_dim=longest // window,
        block_size=args.block_size,
        projection_type=args.projection_type,
    )
    model = LinformerModel(config, add_pooling_layer=False).eval()
    table, weights = (sum(p.numel() * 4 for p in module.parameters()) for module in (model.embeddings, model))
    print(f"the Linformer's weights take {weights / 1e9:.2f} GB, of which the embeddings take {table / 1e9:.2f} GB")
    seconds = seconds_to_read(model, input_ids[:, :PART])
    print(f"the Linformer takes {seconds:.1f} s for the first {PART:,} tokens")
    seconds = seconds_to_read(model, input_ids)
    print(f"it takes {seconds / 60:.1f} minutes for all {n:,} tokens, {seconds / n * 1e6:.0f} microseconds per token")
    peak, output = resident_memory("VmHWM"), n * config.hidden_size * 4
    print(f"the process takes {peak / 1e9:.2f} GB at its peak, with the weights; the output alone has {output / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
