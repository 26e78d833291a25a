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
How close a converted encoder is to the original: untrained, and after run_adaptation.py.

    python -m benchmarks.adaptation --model_name_or_path <encoder> --dataset_name Salesforce/wikitext \\
        --dataset_config_name wikitext-2-v1 --other_dataset_name stanfordnlp/imdb --output_dir adaptation
    python -m benchmarks.adaptation --help

Closeness is choose_k.py's: the cosine of last hidden states, per token and of the means over documents, on held-out
sequences of n tokens, of the text that the model was adapted to and of another.

Every finished run is a line in results.jsonl, and is not run again; adaptation.md has the table.
"""

import argparse
from itertools import product
from pathlib import Path

from transformers import AutoModel, AutoTokenizer

import choose_k
from configuration_linformer.configuration_linformer import PROJECTION_TYPES
from convert_to_linformer import convert_to_linformer
from modeling_linformer import LinformerModel
from run_common import markdown_table

from .runs import run_missing, run_script


BATCH_SIZE = 4
NAMES = ("projection_type", "k", "block_size", "tokens")


def parse_arguments():
    description = __doc__.strip().splitlines()[0]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="The pretrained encoder.")
    parser.add_argument("--output_dir", required=True, type=Path, help="The folder for results, table and logs.")
    parser.add_argument("--dataset_name", required=True, help="The text to adapt on, and to judge by.")
    parser.add_argument("--dataset_config_name", help="Its configuration.")
    parser.add_argument("--other_dataset_name", help="Text to judge by alone.")
    parser.add_argument("--projection_types", nargs="+", default=["attention_pool"], choices=PROJECTION_TYPES)
    parser.add_argument("--projected_dims", nargs="+", type=int, default=[16, 64, 128], help="k.")
    parser.add_argument("--block_sizes", nargs="+", type=int, default=[0, 64, 128, 256], help="b, 0 for no blocks.")
    parser.add_argument("--tokens", nargs="+", type=int, default=[0], help="Tokens to adapt on, 0 for none.")
    parser.add_argument("--max_seq_length", type=int, default=512, help="n.")
    parser.add_argument("--max_samples", type=int, default=32, help="Held-out sequences of n tokens of each text.")
    parser.add_argument("--learning_rate", type=float, default=3e-4)
    parser.add_argument("--jobs", type=int, default=1, help="Runs at the same time, which share the cores.")
    return parser.parse_args()


class Adaptation:
    def __init__(self, args):
        self.args = args
        self.original = AutoModel.from_pretrained(args.model_name_or_path).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path)
        datasets = {"same": (args.dataset_name, args.dataset_config_name), "other": (args.other_dataset_name, None)}
        self.sequences, self.states = {}, {}
        for name, (dataset, config) in datasets.items():
            if dataset is not None:
                text = {"dataset_name": dataset, "dataset_config_name": config}
                sequences = choose_k.read_sequences(self.tokenizer, args.max_seq_length, args.max_samples, **text)
                self.sequences[name] = sequences
                self.states[name] = choose_k.last_hidden_states(self.original, sequences, f"original, {name} text")

    def run(self, projection_type, k, block_size, tokens):
        """Converts, adapts, and gives the closeness."""
        args = self.args
        folder = args.output_dir / "runs" / f"{projection_type}-{k}-{block_size}-{tokens}"
        n = args.max_seq_length
        student = convert_to_linformer(
            self.original, projected_dim=k, max_position_embeddings=n, block_size=block_size, projection_type=projection_type
        )
        if tokens:
            student.save_pretrained(folder / "start")
            self.tokenizer.save_pretrained(folder / "start")
            arguments = ["--teacher_name_or_path", args.model_name_or_path, "--model_name_or_path", folder / "start"]
            arguments += ["--dataset_name", args.dataset_name, "--max_seq_length", n, "--do_train"]
            arguments += ["--dataset_config_name", args.dataset_config_name] if args.dataset_config_name else []
            arguments += ["--max_steps", round(tokens / (BATCH_SIZE * n)), "--warmup_steps", 20]
            arguments += ["--per_device_train_batch_size", BATCH_SIZE, "--learning_rate", args.learning_rate]
            arguments += ["--save_strategy", "no", "--report_to", "none", "--output_dir", folder / "adapted"]
            run_script("run_adaptation.py", arguments, folder, args.jobs)
            student = LinformerModel.from_pretrained(folder / "adapted")
        result = {}
        for name, sequences in self.sequences.items():
            hidden = choose_k.last_hidden_states(student.eval(), sequences, f"{projection_type}, k = {k}, b = {block_size}")
            result[name] = choose_k.closeness(hidden, self.states[name])
        return {"closeness": result}


def make_table(results, args):
    rows = []
    for result in sorted(results, key=lambda result: [result[name] for name in NAMES]):
        row = [result["projection_type"], result["k"], result["block_size"], f"{result['tokens'] / 1e6:g} M"]
        for measures in result["closeness"].values():
            row += [f"{mean:.3f} ± {std:.3f}" for mean, std in measures.values()]
        rows.append(row)
    header = ["projection", "k", "b", "tokens", "per token", "per document"]
    header += ["other text, per token", "per document"] if args.other_dataset_name else []
    return markdown_table(header, rows)


def main():
    args = parse_arguments()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    choices = product(args.projection_types, args.projected_dims, args.block_sizes, args.tokens)
    wanted = [dict(zip(NAMES, choice, strict=True)) for choice in choices]
    results = run_missing(wanted, Adaptation(args).run, args.output_dir / "results.jsonl", args.jobs)
    table = make_table(results, args)
    (args.output_dir / "adaptation.md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
