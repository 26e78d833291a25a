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
What a pretrained encoder loses on a task when it is converted to a Linformer before it is fine-tuned.

    python benchmarks/finetuning.py --model_name_or_path <encoder> --tasks mrpc stsb --max_seq_length 128 --projected_dims 32 \\
        --models original attention_pool --seeds 1 2 3 --output_dir stress -- --num_train_epochs 3 --learning_rate 1e-4
    python benchmarks/finetuning.py --help

The original and its Linformers start a seed from the same weights, the new head's among them, and are trained by run_glue.py
with the same arguments, those behind `--`. Each is judged after its last step, so that no run is the best of several.

Every finished run is a line in results.jsonl, and is not run again; finetuning.md has the table.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from itertools import product
from pathlib import Path

from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

from configuration_linformer.configuration_linformer import PROJECTION_TYPES
from convert_to_linformer import convert_to_linformer
from run_common import markdown_table

ROOT = Path(__file__).parent.parent
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
    parser.add_argument("--models", nargs="+", default=["original", "attention_pool"], choices=("original", *PROJECTION_TYPES))
    parser.add_argument("--projected_dims", nargs="+", type=int, default=[128], help="k of the Linformers.")
    parser.add_argument("--max_seq_length", type=int, default=512, help="n; the original reads no more than it can.")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1], help="Of the head, the batches and the dropout.")
    parser.add_argument("--data_dir", type=Path, help="A folder with the datasets, if not from the Hub.")
    parser.add_argument("--jobs", type=int, default=1, help="Runs at the same time, which share the cores.")
    parser.add_argument("script_arguments", nargs="*", help="Arguments of run_glue.py, behind --.")
    return parser.parse_args()


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


def save_start(task, model, k, seed, args, folder):
    """Saves the checkpoint that a run starts from."""
    set_seed(seed)
    # BERT's head has one dropout, the Linformer's, like RoBERTa's, two: without them the two do the same
    original = AutoModelForSequenceClassification.from_pretrained(
        args.model_name_or_path, num_labels=GLUE.get(task, (2,))[0], classifier_dropout=0.0
    )
    tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path)
    n = args.max_seq_length
    if model == "original":
        n = min(n, original.config.max_position_embeddings)
    else:
        original = convert_to_linformer(
            original, projected_dim=k, max_position_embeddings=n, projection_type=model
        )
    tokenizer.model_max_length = n
    original.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return n


def run(task, model, k, seed, args):
    """One fine-tuning, as a dictionary for results.jsonl."""
    name = "-".join(map(str, (task, model, args.max_seq_length, k, seed)))
    folder = args.output_dir / "runs" / name
    with SEEDED:
        n = save_start(task, model, k, seed, args, folder / "start")
    command = [sys.executable, str(ROOT / "run_glue.py"), "--model_name_or_path", str(folder / "start")]
    command += [*data_arguments(task, args), "--max_seq_length", str(n), "--do_train", "--do_eval", "--seed", str(seed)]
    command += ["--train_sampling_strategy", "group_by_length", "--output_dir", str(folder / "trained")]
    command += ["--save_strategy", "no", "--report_to", "none", *args.script_arguments]
    threads = str(max(1, (os.cpu_count() or 1) // args.jobs))
    with open(folder / "log.txt", "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": threads})
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{name} ended with {process.returncode}: see {folder / 'log.txt'}")
    metrics = json.loads((folder / "trained" / "all_results.json").read_text())
    metric = GLUE.get(task, (2, "accuracy"))[1]
    return {
        "task": task,
        "model": model,
        "n": args.max_seq_length,
        "k": k,
        "seed": seed,
        "arguments": " ".join(args.script_arguments),
        "metric": metric,
        "value": metrics[f"eval_{metric}"],
        "train_seconds": metrics["train_runtime"],
        "eval_seconds": metrics["eval_runtime"],
        "peak_memory_gib": usage.ru_maxrss / 2**20,
    }


def key(result):
    return tuple(result[name] for name in ("task", "model", "n", "k", "seed", "arguments"))


def make_table(results):
    """A line for each task and model: the mean over the seeds, and the standard deviation."""
    rows = {}
    for result in results:
        rows.setdefault((result["task"], result["n"], result["model"], result["k"], result["arguments"]), []).append(result)
    lines = []
    for (task, n, model, k, arguments), runs in rows.items():
        values = [100 * run["value"] for run in runs]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        minutes, memory = (statistics.mean(run[name] for run in runs) for name in ("train_seconds", "peak_memory_gib"))
        value = f"{statistics.mean(values):.1f}{spread}"
        lines.append(
            [task, runs[0]["metric"], n, model, k or "", value, len(runs), f"{minutes / 60:.1f}", f"{memory:.1f}", arguments]
        )
    header = ["task", "metric, %", "n", "model", "k", "mean ± std", "seeds", "minutes", "GiB", "arguments"]
    return markdown_table(header, lines)


def main():
    args = parse_arguments()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    path = args.output_dir / "results.jsonl"
    results = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {key(result) for result in results}
    arguments = " ".join(args.script_arguments)
    wanted = []
    for task, seed, model in product(args.tasks, args.seeds, args.models):
        for k in [None] if model == "original" else args.projected_dims:
            if (task, model, args.max_seq_length, k, seed, arguments) not in done:
                wanted.append((task, model, k, seed))
    for task in args.tasks:
        data_arguments(task, args)  # draws the samples, once

    with ThreadPoolExecutor(args.jobs) as pool:
        runs = [pool.submit(run, *each, args) for each in wanted]
        for result in map(Future.result, as_completed(runs)):
            results.append(result)
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")
            print(json.dumps(result), flush=True)
    table = make_table(results)
    (args.output_dir / "finetuning.md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
