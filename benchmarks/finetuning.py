# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Measure what a pretrained encoder loses on a task when it is converted to a Linformer, before or after it is fine-tuned.

    python -m benchmarks.finetuning --model_name_or_path <encoder> --tasks mrpc stsb --max_seq_length 128 \\
        --projected_dims 32 --block_sizes 64 --models original attention_pool --seeds 1 2 3 --output_dir tasks \\
        -- --num_train_epochs 3 --learning_rate 1e-4 --per_device_train_batch_size 16
    python -m benchmarks.finetuning --help

For each seed, the original and its Linformers start from the same weights, those of the new head among them, and are trained
by linformer-glue with the same arguments, which are those after `--`. Each is evaluated after its last step, so no result is
the best of several. With `--convert after`, the original is fine-tuned, and the Linformers that are made of it are evaluated
without any training.

Every finished run is a line in results.jsonl, and is not run again. The table is written to finetuning.md.
"""

import argparse
import json
import statistics
import threading
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

from configuration_linformer import LinformerConfig
from configuration_linformer.configuration_linformer import PROJECTION_TYPES
from modeling_linformer import LinformerModel
from transformers_linformer import convert_to_linformer
from transformers_linformer.loading import max_input_length
from transformers_linformer.tables import markdown_table

from .runs import keep_inputs, run_command, run_missing


# The random generator belongs to the process, so only one run at a time may seed it and draw from it
SEEDED = threading.Lock()

# The number of labels and the metric of each task of GLUE, and of all other tasks
GLUE = {
    "cola": (2, "matthews_correlation"),
    "sst2": (2, "accuracy"),
    "mrpc": (2, "accuracy"),
    "stsb": (1, "spearmanr"),
    "qnli": (2, "accuracy"),
}
OTHER = (2, "accuracy")
# A sample of these is drawn, as their splits are sorted by label, or large: the dataset on the Hub, its configuration, the
# column of the text, the splits to train on and to evaluate on, and the number of examples of each split
SAMPLES = {
    "sst2": ("nyu-mll/glue", "sst2", "sentence", "train", "validation", 8000, None),
    "imdb": ("stanfordnlp/imdb", None, "text", "train", "test", 4000, 4000),
    "movie_reviews": ("movie_reviews", None, "text", "train", "validation", None, None),
}


def parse_arguments():
    description = __doc__.strip().splitlines()[0]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="The pretrained encoder.")
    parser.add_argument("--output_dir", required=True, type=Path, help="The folder for results, table and logs.")
    parser.add_argument("--tasks", nargs="+", required=True, choices=sorted({*GLUE, *SAMPLES}), help="The tasks to learn.")
    parser.add_argument(
        "--models",
        nargs="+",
        default=["original", "attention_pool"],
        choices=("original", *PROJECTION_TYPES),
        help="The original as it is, and the Linformers by their projection.",
    )
    parser.add_argument(
        "--projected_dims",
        nargs="+",
        default=["64"],
        help="The values of k of the Linformers. One of them may be a list with one k per layer, as in 32,48,48,32,16,16.",
    )
    parser.add_argument(
        "--block_sizes", nargs="+", type=int, default=[128], help="The values of b of the Linformers. 0 is for no blocks."
    )
    parser.add_argument(
        "--convert", default="before", choices=("before", "after"), help="Whether to convert before or after fine-tuning."
    )
    parser.add_argument(
        "--distilled_name_or_path",
        help="The model of linformer-distill from which the Linformers take their weights, except the head. By default they"
        " take the original's.",
    )
    parser.add_argument("--max_seq_length", type=int, default=512, help="n. The original reads no more than it can.")
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[1], help="The seeds of the head, the batches and the dropout."
    )
    parser.add_argument("--data_dir", type=Path, help="A folder with the datasets, if they do not come from the Hub.")
    parser.add_argument("--jobs", type=int, default=1, help="The number of runs at the same time, which share the cores.")
    parser.add_argument("glue_arguments", nargs="*", help="Arguments of linformer-glue, after --.")
    args = parser.parse_args()
    if args.convert == "after" and "original" not in args.models:
        parser.error("--convert after needs `original` among --models, because the original is converted.")
    if args.convert == "after" and args.distilled_name_or_path is not None:
        parser.error(
            "--distilled_name_or_path is where fine-tuning starts, and with --convert after no Linformer is fine-tuned."
        )
    return args


def data_arguments(task, data_dir, samples_dir):
    """Returns the arguments of linformer-glue for the task's data. Draws a sample into `samples_dir` if it is not there."""
    if task not in SAMPLES:
        name = "nyu-mll/glue" if data_dir is None else str(data_dir / "glue")
        return ["--task_name", task, "--dataset_name", name]
    name, configuration, column, *splits_and_sizes = SAMPLES[task]
    name = name if data_dir is None else str(data_dir / name.split("/")[-1])
    files = []
    for split, size in zip(splits_and_sizes[:2], splits_and_sizes[2:], strict=True):
        path = samples_dir / f"{task}-{split}.jsonl"
        if not path.exists():
            dataset = load_dataset(name, configuration, split=split).select_columns([column, "label"])
            dataset = dataset.shuffle(seed=0)
            dataset.take(size or len(dataset)).to_json(path)
        files.append(str(path))
    return ["--train_file", files[0], "--validation_file", files[1]]


def make_start(name_or_path, labels, model, n, k, block_size, distilled):
    """Returns the model that a run starts from, and the longest input that it reads."""
    # BERT's head has one dropout, and the Linformer's has two, as RoBERTa's: without dropout both heads do the same
    original = AutoModelForSequenceClassification.from_pretrained(name_or_path, num_labels=labels, classifier_dropout=0.0)
    if model == "original":
        return original, min(n, max_input_length(original.config))
    sizes = {
        "projected_dim": k if isinstance(k, int) else [int(of_layer) for of_layer in k.split(",")],
        "projection_type": model,
        "max_position_embeddings": n,
        "block_size": block_size,
    }
    if distilled is not None:
        sizes["max_position_embeddings"] = LinformerConfig.from_pretrained(distilled).max_position_embeddings
    linformer = convert_to_linformer(original, **sizes)
    if distilled is not None:
        encoder = LinformerModel.from_pretrained(distilled, add_pooling_layer=False, **sizes)
        linformer.base_model.load_state_dict(encoder.state_dict())
    return linformer, n


@dataclass
class FineTuning:
    """Fine-tunes and evaluates models that are made of one pretrained encoder. `jobs` is the number of runs at a time."""

    model_name_or_path: str
    output_dir: Path
    data_dir: Path | None
    jobs: int

    def data_arguments(self, task):
        return data_arguments(task, self.data_dir, self.output_dir / "data")

    def folder(self, *names):
        return self.output_dir / "runs" / "-".join(map(str, names))

    def run(self, task, model, n, k, seed, converted, arguments, block_size=None, distilled=None):
        """
        Fine-tunes and evaluates one model, or only evaluates one that is converted after fine-tuning.

        Returns the metric, its value after the last step, the loss, the times in seconds, and the peak of the memory.
        """
        names = [task, model, n, k, converted, seed]
        names += [] if block_size is None else [f"b{block_size}"]
        names += [] if distilled is None else Path(distilled).parts[-2:]
        folder = self.folder(*names)
        start = self.model_name_or_path
        if converted == "after":
            start = self.folder(task, "original", n, None, None, seed) / "trained"
        labels, metric = GLUE.get(task, OTHER)
        with SEEDED:
            set_seed(seed)
            start_model, longest = make_start(start, labels, model, n, k, block_size, distilled)
            start_model.save_pretrained(folder / "start")
        tokenizer = AutoTokenizer.from_pretrained(start)
        tokenizer.model_max_length = longest
        tokenizer.save_pretrained(folder / "start")

        command = ["--model_name_or_path", folder / "start", *self.data_arguments(task), "--max_seq_length", longest]
        command += ["--do_eval", "--seed", seed, "--train_sampling_strategy", "group_by_length"]
        command += [] if converted == "after" else ["--do_train", "--save_strategy", "no"]
        command += ["--report_to", "none", "--output_dir", folder / "trained", *arguments.split()]
        memory = run_command("glue", command, folder, self.jobs)
        metrics = json.loads((folder / "trained" / "all_results.json").read_text())
        return {
            "metric": metric,
            "value": metrics[f"eval_{metric}"],
            "eval_loss": metrics["eval_loss"],
            "train_seconds": metrics.get("train_runtime", 0),
            "eval_seconds": metrics["eval_runtime"],
            "peak_memory_gib": memory,
        }


def make_table(results):
    """Returns a table with a line per task and model: the mean over the seeds, and the standard deviation."""
    names = ("task", "metric", "n", "model", "k", "block_size", "converted", "distilled", "arguments")
    groups = {}
    for result in results:
        cells = ("" if result.get(name) is None else result[name] for name in names)
        groups.setdefault(tuple(cells), []).append(result)

    def mean(runs, name, digits):
        values = [run[name] for run in runs if name in run]
        return f"{statistics.mean(values):.{digits}f}" if values else ""

    rows = []
    for (*group, arguments), runs in groups.items():
        values = [100 * run["value"] for run in runs]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        minutes = statistics.mean(run["train_seconds"] for run in runs) / 60
        row = [*group, f"{statistics.mean(values):.1f}{spread}", len(runs), f"{minutes:.1f}"]
        rows.append([*row, mean(runs, "eval_seconds", 0), mean(runs, "peak_memory_gib", 1), arguments])
    header = ["task", "metric, %", "n", "model", "k", "b", "converted", "distilled", "mean ± std", "seeds"]
    header += ["training, minutes", "evaluation, s", "GiB", "arguments"]
    return markdown_table(header, rows)


def main():
    args = parse_arguments()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    keep_inputs(args.output_dir, model_name_or_path=args.model_name_or_path, data_dir=args.data_dir)
    fine_tuning = FineTuning(args.model_name_or_path, args.output_dir, args.data_dir, args.jobs)
    originals, linformers = [], []
    for task, seed, model in product(args.tasks, args.seeds, args.models):
        fine_tuning.data_arguments(task)  # draws the samples before several runs need them
        common = {"task": task, "model": model, "n": args.max_seq_length, "seed": seed}
        common["arguments"] = " ".join(args.glue_arguments)
        if model == "original":
            originals.append(common | {"k": None, "converted": None})
        else:
            if args.distilled_name_or_path is not None:
                common["distilled"] = args.distilled_name_or_path
            dims = [int(k) if k.isdecimal() else k for k in args.projected_dims]
            for k, block_size in product(dims, args.block_sizes):
                linformers.append(common | {"k": k, "block_size": block_size, "converted": args.convert})
    for wanted in (originals, linformers):  # what is converted after fine-tuning needs the original's run
        results = run_missing(wanted, fine_tuning.run, args.output_dir / "results.jsonl", args.jobs)
    table = make_table(results)
    (args.output_dir / "finetuning.md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
