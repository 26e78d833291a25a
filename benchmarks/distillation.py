# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Measure how similar a converted encoder is to the original: untrained, and after linformer-distill.

    python -m benchmarks.distillation --model_name_or_path <encoder> --dataset_name Salesforce/wikitext \\
        --dataset_config_name wikitext-2-v1 --other_dataset_name stanfordnlp/imdb --output_dir distillation
    python -m benchmarks.distillation --help

Similarity is measured as benchmarks.choose_k does it: it is the cosine similarity of last hidden states, per token and of the
means over documents. The documents are held-out sequences of n tokens, of the text that the model was distilled on and of
another text.

Every finished run is a line in results.jsonl, and is not run again. The table is written to distillation.md.
"""

import argparse
from itertools import product
from pathlib import Path

from transformers import AutoModel, AutoTokenizer

from configuration_linformer.configuration_linformer import PROJECTION_TYPES
from modeling_linformer import LinformerModel
from transformers_linformer import convert_to_linformer
from transformers_linformer.tables import markdown_table
from transformers_linformer.training.text import first_sequences, load_texts

from .runs import keep_inputs, run_command, run_missing
from .similarity import last_hidden_states, similarity


BATCH_SIZE = 4
NAMES = ("projection_type", "k", "block_size", "tokens", "learning_rate", "seed")


def parse_arguments():
    description = __doc__.strip().splitlines()[0]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="The pretrained encoder.")
    parser.add_argument("--output_dir", required=True, type=Path, help="The folder for results, table and logs.")
    parser.add_argument("--dataset_name", required=True, help="The text to distil on and to measure on.")
    parser.add_argument("--dataset_config_name", help="The configuration of that dataset.")
    parser.add_argument("--other_dataset_name", help="A text to measure on only.")
    parser.add_argument(
        "--projection_types",
        nargs="+",
        default=["attention_pool"],
        choices=PROJECTION_TYPES,
        help="How n rows become k.",
    )
    parser.add_argument("--projected_dims", nargs="+", type=int, default=[16, 64, 128], help="The values of k.")
    parser.add_argument(
        "--block_sizes", nargs="+", type=int, default=[0, 64, 128, 256], help="The block sizes b. 0 is for no blocks."
    )
    parser.add_argument(
        "--tokens", nargs="+", type=int, default=[0], help="The numbers of tokens to distil on. 0 is for no training."
    )
    parser.add_argument("--max_seq_length", type=int, default=512, help="n.")
    parser.add_argument(
        "--max_samples", type=int, default=32, help="The number of held-out sequences of n tokens of each text."
    )
    parser.add_argument(
        "--learning_rates", nargs="+", type=float, default=[1e-4], help="The learning rates of the distillation."
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[42], help="The seeds of the distillation.")
    parser.add_argument("--jobs", type=int, default=1, help="The number of runs at the same time, which share the cores.")
    return parser.parse_args()


def read_sequences(dataset_name, dataset_config_name, tokenizer, max_seq_length, max_samples):
    """Returns sequences of the validation set, if there is one, or else of the first split, as (samples, n) token ids."""
    texts = load_texts(dataset_name, dataset_config_name, streaming=True)
    split = texts["validation"] if "validation" in texts else next(iter(texts.values()))
    return first_sequences(split, tokenizer, max_seq_length, max_samples)


def distil(student, tokenizer, teacher_name, text_arguments, max_seq_length, tokens, learning_rate, seed, folder, jobs):
    """Returns the student after distillation. `text_arguments` are the arguments of linformer-distill that name the text."""
    student.save_pretrained(folder / "start")
    tokenizer.save_pretrained(folder / "start")
    arguments = ["--teacher_name_or_path", teacher_name, "--model_name_or_path", folder / "start", *text_arguments]
    arguments += ["--max_seq_length", max_seq_length, "--do_train"]
    arguments += ["--max_steps", round(tokens / (BATCH_SIZE * max_seq_length)), "--warmup_steps", 20]
    arguments += ["--per_device_train_batch_size", BATCH_SIZE, "--learning_rate", learning_rate]
    arguments += ["--seed", seed]
    arguments += ["--save_strategy", "no", "--report_to", "none", "--output_dir", folder / "distilled"]
    run_command("distill", arguments, folder, jobs)
    return LinformerModel.from_pretrained(folder / "distilled")


def make_table(results, with_other_text):
    rows = []
    for result in sorted(results, key=lambda result: [result[name] or 0 for name in NAMES]):
        row = [result["projection_type"], result["k"], result["block_size"], f"{result['tokens'] / 1e6:g} M"]
        row += ["" if result[name] is None else result[name] for name in ("learning_rate", "seed")]
        for measures in result["similarity"].values():
            row += [f"{mean:.3f} ± {std:.3f}" for mean, std in measures.values()]
        rows.append(row)
    header = ["projection", "k", "b", "tokens", "learning rate", "seed", "per token", "per document"]
    header += ["other text, per token", "per document"] if with_other_text else []
    return markdown_table(header, rows)


def main():
    args = parse_arguments()
    n = args.max_seq_length
    args.output_dir.mkdir(parents=True, exist_ok=True)
    texts = ("dataset_name", "dataset_config_name", "other_dataset_name", "max_seq_length", "max_samples")
    keep_inputs(args.output_dir, **{name: getattr(args, name) for name in ("model_name_or_path", *texts)})
    original = AutoModel.from_pretrained(args.model_name_or_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path)
    datasets = {"same": (args.dataset_name, args.dataset_config_name)}
    if args.other_dataset_name is not None:
        datasets["other"] = (args.other_dataset_name, None)
    sequences = {name: read_sequences(*dataset, tokenizer, n, args.max_samples) for name, dataset in datasets.items()}
    states = {name: last_hidden_states(original, rows, f"original, {name} text") for name, rows in sequences.items()}
    text_arguments = ["--dataset_name", args.dataset_name]
    if args.dataset_config_name is not None:
        text_arguments += ["--dataset_config_name", args.dataset_config_name]

    def run(projection_type, k, block_size, tokens, learning_rate, seed):
        """Converts and distils, and returns the similarity to the original on each text."""
        student = convert_to_linformer(
            original, projected_dim=k, max_position_embeddings=n, block_size=block_size, projection_type=projection_type
        )
        if tokens:
            folder = args.output_dir / "runs" / f"{projection_type}-{k}-{block_size}-{tokens}-{learning_rate}-{seed}"
            teacher_name = args.model_name_or_path
            student = distil(
                student, tokenizer, teacher_name, text_arguments, n, tokens, learning_rate, seed, folder, args.jobs
            )
        student.eval()
        similarities = {}
        for name, rows in sequences.items():
            hidden = last_hidden_states(student, rows, f"{projection_type}, k = {k}, b = {block_size}")
            similarities[name] = similarity(hidden, states[name])
        return {"similarity": similarities}

    choices = [(0, None, None)] if 0 in args.tokens else []
    choices += product([number for number in args.tokens if number], args.learning_rates, args.seeds)
    models = product(args.projection_types, args.projected_dims, args.block_sizes)
    wanted = [dict(zip(NAMES, (*model, *choice), strict=True)) for model, choice in product(models, choices)]
    results = run_missing(wanted, run, args.output_dir / "results.jsonl", args.jobs)
    table = make_table(results, with_other_text=args.other_dataset_name is not None)
    (args.output_dir / "distillation.md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
