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
What a pretrained encoder loses on a task when it is converted to a Linformer, before it is fine-tuned or after it.

    python -m benchmarks.finetuning --model_name_or_path <encoder> --tasks mrpc stsb --max_seq_length 128 \\
        --projected_dims 32 --block_sizes 64 --models original attention_pool --seeds 1 2 3 --output_dir stress \\
        -- --num_train_epochs 3 --learning_rate 1e-4 --per_device_train_batch_size 16
    python -m benchmarks.finetuning --help

The original and its Linformers start a seed from the same weights, the new head's among them, and are trained by
run_glue.py with the same arguments, those behind `--`. Each is judged after its last step: no run is the best of several.
With `--convert after`, the original is fine-tuned, and the Linformers that are made of it are judged without any training.

Every finished run is a line in results.jsonl, and is not run again; finetuning.md has the table.
"""

import argparse
import json
import statistics
import threading
from functools import partial
from itertools import product
from pathlib import Path

from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

from configuration_linformer import LinformerConfig
from configuration_linformer.configuration_linformer import PROJECTION_TYPES
from convert_to_linformer import convert_to_linformer
from modeling_linformer import LinformerModel
from run_common import markdown_table

from .runs import run_missing, run_script


SEEDED = threading.Lock()  # the random generator is the process's

# The number of labels and what is measured
GLUE = {
    "cola": (2, "matthews_correlation"),
    "sst2": (2, "accuracy"),
    "mrpc": (2, "accuracy"),
    "stsb": (1, "spearmanr"),
    "qnli": (2, "accuracy"),
}
# Of these a sample is drawn, as their splits are sorted by label, or large: the dataset on the Hub, its configuration, the
# columns, the splits to train on and to judge by, and how many examples of each
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
    parser.add_argument("--tasks", nargs="+", required=True, choices=sorted({*GLUE, *SAMPLES}), help="What to learn.")
    parser.add_argument(
        "--models",
        nargs="+",
        default=["original", "attention_pool"],
        choices=("original", *PROJECTION_TYPES),
        help="The original as it is, or the Linformer with this projection.",
    )
    parser.add_argument(
        "--projected_dims", nargs="+", default=["64"], help="k of the Linformers, or one per layer, as in 32,48,48,32,16,16."
    )
    parser.add_argument("--block_sizes", nargs="+", type=int, default=[128], help="b of the Linformers, 0 for no blocks.")
    parser.add_argument("--convert", default="before", choices=("before", "after"), help="Before fine-tuning, or after it.")
    parser.add_argument(
        "--adapted_name_or_path", help="The Linformers' weights without the head, of run_adaptation.py; else the original's."
    )
    parser.add_argument("--max_seq_length", type=int, default=512, help="n; the original reads no more than it can.")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1], help="Of the head, the batches and the dropout.")
    parser.add_argument("--data_dir", type=Path, help="A folder with the datasets, if not from the Hub.")
    parser.add_argument("--jobs", type=int, default=1, help="Runs at the same time, which share the cores.")
    parser.add_argument("script_arguments", nargs="*", help="Arguments of run_glue.py, behind --.")
    args = parser.parse_args()
    if args.convert == "after" and "original" not in args.models:
        parser.error("--convert after needs `original` among --models: it is what is converted.")
    if args.convert == "after" and args.adapted_name_or_path is not None:
        parser.error("--adapted_name_or_path is where fine-tuning starts, and with --convert after no Linformer is fine-tuned.")
    return args


def data_arguments(task, args):
    """Arguments of run_glue.py that give it the task's data."""
    if task not in SAMPLES:
        name = "nyu-mll/glue" if args.data_dir is None else str(args.data_dir / "glue")
        return ["--task_name", task, "--dataset_name", name]
    name, configuration, column, *splits_and_sizes = SAMPLES[task]
    name = name if args.data_dir is None else str(args.data_dir / name.split("/")[-1])
    files = []
    for split, size in zip(splits_and_sizes[:2], splits_and_sizes[2:], strict=True):
        path = args.output_dir / "data" / f"{task}-{split}.jsonl"
        if not path.exists():
            dataset = load_dataset(name, configuration, split=split).select_columns([column, "label"])
            dataset = dataset.shuffle(seed=0)
            dataset.take(size or len(dataset)).to_json(path)
        files.append(str(path))
    return ["--train_file", files[0], "--validation_file", files[1]]


def save_start(task, model, n, k, block_size, seed, name_or_path, adapted, folder):
    """Saves the checkpoint that a run starts from, and gives the longest input that it reads."""
    set_seed(seed)
    # BERT's head has one dropout, the Linformer's, like RoBERTa's, two: without them the two do the same
    original = AutoModelForSequenceClassification.from_pretrained(
        name_or_path, num_labels=GLUE.get(task, (2,))[0], classifier_dropout=0.0
    )
    tokenizer = AutoTokenizer.from_pretrained(name_or_path)
    if model == "original":
        n = min(n, original.config.max_position_embeddings)
    else:
        dims = k if isinstance(k, int) else [int(of_layer) for of_layer in k.split(",")]
        positions = n if adapted is None else LinformerConfig.from_pretrained(adapted).max_position_embeddings
        sizes = {"projected_dim": dims, "projection_type": model, "max_position_embeddings": positions}
        sizes["block_size"] = block_size
        original = convert_to_linformer(original, **sizes)
    if adapted is not None:
        body = LinformerModel.from_pretrained(adapted, add_pooling_layer=False, **sizes)
        original.base_model.load_state_dict(body.state_dict())
    tokenizer.model_max_length = n
    original.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return n


def run(args, task, model, n, k, seed, converted, arguments, block_size=None, adapted=None):
    """One fine-tuning, or the judgement of one: what is measured, its value after the last step, times and memory."""
    runs = args.output_dir / "runs"
    names = (task, model, n, k, converted, seed) + (() if block_size is None else (f"b{block_size}",)) + (() if adapted is None else Path(adapted).parts[-2:])
    folder = runs / "-".join(map(str, names))
    start = args.model_name_or_path
    if converted == "after":
        start = runs / "-".join(map(str, (task, "original", n, None, None, seed))) / "trained"
    with SEEDED:
        longest = save_start(task, model, n, k, block_size, seed, start, adapted, folder / "start")
    command = ["--model_name_or_path", folder / "start", *data_arguments(task, args), "--max_seq_length", longest]
    command += ["--do_eval", "--seed", seed, "--train_sampling_strategy", "group_by_length"]
    command += [] if converted == "after" else ["--do_train", "--save_strategy", "no"]
    command += ["--report_to", "none", "--output_dir", folder / "trained", *arguments.split()]
    memory = run_script("run_glue.py", command, folder, args.jobs)
    metrics = json.loads((folder / "trained" / "all_results.json").read_text())
    metric = GLUE.get(task, (2, "accuracy"))[1]
    return {
        "metric": metric,
        "value": metrics[f"eval_{metric}"],
        "eval_loss": metrics["eval_loss"],
        "train_seconds": metrics.get("train_runtime", 0),
        "eval_seconds": metrics["eval_runtime"],
        "peak_memory_gib": memory,
    }


def make_table(results):
    """A line for each task and model: the mean over the seeds, and the standard deviation."""
    groups = {}
    for result in results:
        names = ("task", "metric", "n", "model", "k", "block_size", "converted", "adapted", "arguments")
        groups.setdefault(tuple(result.get(name) or "" for name in names), []).append(result)
    rows = []
    for (task, metric, n, model, k, block_size, converted, adapted, arguments), runs in groups.items():
        values = [100 * run["value"] for run in runs]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        training, judging = (statistics.mean(run[name] for run in runs) for name in ("train_seconds", "eval_seconds"))
        memory = statistics.mean(run["peak_memory_gib"] for run in runs)
        row = [task, metric, n, model, k, block_size, converted, adapted, f"{statistics.mean(values):.1f}{spread}", len(runs)]
        rows.append([*row, f"{training / 60:.1f}", f"{judging:.0f}", f"{memory:.1f}", arguments])
    header = ["task", "metric, %", "n", "model", "k", "b", "converted", "adapted", "mean ± std", "seeds"]
    header += ["training, minutes", "judging, s", "GiB", "arguments"]
    return markdown_table(header, rows)


def main():
    args = parse_arguments()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    originals, linformers = [], []
    for task, seed, model in product(args.tasks, args.seeds, args.models):
        data_arguments(task, args)  # draws the samples, once
        common = {"task": task, "model": model, "n": args.max_seq_length, "seed": seed}
        common["arguments"] = " ".join(args.script_arguments)
        if model == "original":
            originals.append(common | {"k": None, "converted": None})
        else:
            if args.adapted_name_or_path is not None:
                common["adapted"] = args.adapted_name_or_path
            dims = [int(k) if k.isdecimal() else k for k in args.projected_dims]
            for k, block_size in product(dims, args.block_sizes):
                linformers.append(common | {"k": k, "block_size": block_size, "converted": args.convert})
    for wanted in (originals, linformers):  # what is converted after fine-tuning needs the original's run
        results = run_missing(wanted, partial(run, args), args.output_dir / "results.jsonl", args.jobs)
    table = make_table(results)
    (args.output_dir / "finetuning.md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
