# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Measure how similar attentions for long inputs are to full attention, with the same pretrained weights, and how long they take.

    python -m benchmarks.attention_patterns --model_name_or_path <BERT> --dataset_name Salesforce/wikitext \\
        --dataset_config_name wikitext-2-v1 --output_dir patterns
    python -m benchmarks.attention_patterns --help

All models are the same BERT, without any training: its weights are loaded as a Linformer, a Longformer, a BigBird and a
Nystromformer, and its positions repeat up to n. What they are compared with is the same BERT with full attention. All read the
same documents in turns, in one process with one thread.

lsg-converter needs transformers 4.36. `--lsg_python` names a Python that has both, which is then started for that row.

Writes results.json and patterns.md.
"""

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path

import torch
import transformers
from transformers import AutoTokenizer, BertModel

from transformers_linformer import convert_to_linformer
from transformers_linformer.tables import markdown_table
from transformers_linformer.training.text import first_sequences, load_texts

from .models import Pieces
from .similarity import similarity


# Reads model, documents and the file to write from the command line
LSG = """
import sys, time, torch
from lsg_converter import LSGConverter
torch.set_num_threads(1)
documents = torch.load(sys.argv[2])
model, _ = LSGConverter(documents.shape[1]).convert_from_pretrained(sys.argv[1], architecture="BertModel")
model.eval()
hidden, seconds = [], []
with torch.no_grad():
    for document in documents.split(1):
        start = time.process_time()
        hidden.append(model(document, attention_mask=torch.ones_like(document)).last_hidden_state)
        seconds.append(time.process_time() - start)
torch.save((hidden, seconds), sys.argv[3])
"""


def parse_arguments():
    description = __doc__.strip().splitlines()[0]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="The BERT.")
    parser.add_argument("--dataset_name", required=True, help="The text of the documents.")
    parser.add_argument("--dataset_config_name", help="The configuration of that dataset.")
    parser.add_argument("--output_dir", required=True, type=Path, help="The folder for results and table.")
    parser.add_argument("--max_seq_length", type=int, default=4096, help="n.")
    parser.add_argument("--max_samples", type=int, default=8, help="The number of documents of n tokens.")
    parser.add_argument("--lsg_python", help="The Python of an environment with lsg-converter 0.1.9 and transformers 4.36.")
    return parser.parse_args()


def load_into(model, state, positions_before=0):
    """
    Loads the weights of a BERT into a model whose layers have the same names, and returns it.

    `positions_before` is the number of positions that no token has. Raises `ValueError` if the model has weights that a BERT
    lacks, other than those for global tokens, which start as those for all tokens.
    """
    ours = model.state_dict()
    names = {name: name.replace("_global", "") for name in ours}
    state = {name: state[source] for name, source in names.items() if source in state}
    name = "embeddings.position_embeddings.weight"
    repeated = torch.arange(len(ours[name]) - positions_before) % len(state[name])
    state[name] = torch.cat([ours[name][:positions_before], state[name][repeated]])
    missing = {name for name in ours if name not in state and not name.endswith("position_ids")}
    if missing:
        raise ValueError(f"a BERT has no weights for {', '.join(sorted(missing))}")
    model.load_state_dict(state, strict=False)
    return model.eval()


def make_models(name_or_path, n):
    """Returns the models by their names, of which the first one has full attention."""
    bert = BertModel.from_pretrained(name_or_path, add_pooling_layer=False).eval()
    state, fields = bert.state_dict(), bert.config.to_dict()
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
    fields = {name: fields[name] for name in (*names, "type_vocab_size", "layer_norm_eps", "pad_token_id")}

    def longformer(attention_window):
        first = fields["pad_token_id"] + 1
        config = transformers.LongformerConfig(**fields, max_position_embeddings=n + first, attention_window=attention_window)
        return load_into(transformers.LongformerModel(config, add_pooling_layer=False), state, first)

    config = transformers.BertConfig(**fields, max_position_embeddings=n)
    models = {"full attention": load_into(BertModel(config, add_pooling_layer=False), state)}
    models["pieces of 512"] = Pieces(bert)
    for block_size in (256, 512):
        linformer = convert_to_linformer(bert, max_position_embeddings=n, block_size=block_size)
        linformer.config.far_token_limit = None  # as full attention counts all tokens
        models[f"Linformer, k = {linformer.config.projected_dim}, b = {block_size}"] = linformer
    models["Longformer, window of 256"] = longformer(256)
    models["Longformer, window of 512"] = longformer(512)
    config = transformers.BigBirdConfig(**fields, max_position_embeddings=n, block_size=64, num_random_blocks=3)
    models["BigBird, blocks of 64, 3 random ones"] = load_into(
        transformers.BigBirdModel(config, add_pooling_layer=False), state
    )
    config = transformers.NystromformerConfig(**fields, max_position_embeddings=n, segment_means_seq_len=n, num_landmarks=64)
    nystromformer = transformers.NystromformerModel(config)
    for layer in nystromformer.encoder.layer:  # a convolution beside the attention, which a BERT lacks
        layer.attention.self.conv_kernel_size = None
        del layer.attention.self.conv
    models["Nystromformer, 64 landmarks"] = load_into(nystromformer, state, 2)
    return models


@torch.no_grad()
def read(models, documents):
    """Returns for each model its hidden states and its CPU seconds, a list of each with one entry per document."""
    found = {name: ([], []) for name in models}
    for number, document in enumerate(documents.split(1), start=1):
        for name, model in models.items():
            start = time.process_time()
            output = model(document)
            found[name][1].append(time.process_time() - start)
            found[name][0].append(output if isinstance(output, torch.Tensor) else output.last_hidden_state)
        print(f"document {number} of {len(documents)}", flush=True)
    return found


def read_with_lsg(python, model_name_or_path, documents, folder):
    torch.save(documents, folder / "documents.pt")
    paths = (model_name_or_path, folder / "documents.pt", folder / "lsg.pt")
    subprocess.run([python, "-c", LSG, *map(str, paths)], check=True)
    return torch.load(folder / "lsg.pt")


def main():
    args = parse_arguments()
    torch.set_num_threads(1)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    n = args.max_seq_length
    tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path)
    split = load_texts(args.dataset_name, args.dataset_config_name, streaming=True)["validation"]
    documents = first_sequences(split, tokenizer, n, args.max_samples)
    found = read(make_models(args.model_name_or_path, n), documents)
    if args.lsg_python is not None:
        found["lsg-converter 0.1.9"] = read_with_lsg(args.lsg_python, args.model_name_or_path, documents, args.output_dir)
    full, _ = found["full attention"]
    results, rows = {}, []
    for name, (hidden, seconds) in found.items():
        results[name] = {"similarity": similarity(torch.cat(hidden), torch.cat(full)), "seconds": seconds}
        measured = [f"{mean:.3f} ± {std:.3f}" for mean, std in results[name]["similarity"].values()]
        rows.append([name, *measured, f"{statistics.median(seconds):.2f}"])
    (args.output_dir / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    table = markdown_table(["attention", "per token", "per document", "CPU seconds"], rows)
    (args.output_dir / "patterns.md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
