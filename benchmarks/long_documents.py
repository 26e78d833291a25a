# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Compare an encoder that reads long documents in pieces of 512 tokens with the same encoder as a Linformer, read complete.

    python -m benchmarks.long_documents --model_name_or_path <encoder> --data_dir <folder> --output_dir long_documents
    python -m benchmarks.long_documents --help

The tasks are in long_tasks.py. All models of a task start from the same weights, and are trained on the same documents, with
the same number of tokens and the same learning rate. Each is trained and judged on several splits of the documents. A table
has the mean score over the splits with its standard error, and the difference to the best reading of pieces, which is paired
by split. A plot has the scores against the seconds per document.

The Linformer reads the pieces of a document as one sequence: each piece, with its special tokens, is a block, and the k
projected rows are all that a block sees of the others. So the difference to pieces is what these rows give.

Every finished run is a line in results.jsonl, and is not run again. A run that is killed leaves a checkpoint, and the same
command continues there. On a GPU everything is computed in bfloat16, and the weights are in float32. `--models seconds`
measures time and memory alone.
"""

import argparse
import json
import math
import statistics
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

from transformers_linformer.tables import markdown_table

from .long_tasks import TASKS
from .models import rows_of
from .reading import PIECE, seconds_and_memory
from .runs import keep_inputs, read_results, run_missing


# How the plot shows the readings, by the beginnings of their names
MARKERS = {
    "the first piece": {"marker": "o", "color": "C7"},
    "pieces": {"marker": "s", "color": "C0"},
    "complete": {"marker": "D", "color": "C3"},
}


def parse_arguments():
    description = __doc__.strip().splitlines()[0]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="The pretrained encoder.")
    parser.add_argument("--data_dir", required=True, help="The folder with movie_reviews, cuad, qmsum and wikitext.")
    parser.add_argument("--output_dir", required=True, type=Path, help="The folder for results, table and plot.")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS, help="The tasks, in this order.")
    parser.add_argument("--models", nargs="+", help="The models, of those that a task has. All are the default.")
    parser.add_argument("--splits", nargs="+", type=int, help="The splits. All of a task are the default.")
    parser.add_argument("--projected_dim", type=int, help="k. The default is that of a conversion: n / 32, and at most 256.")
    parser.add_argument("--timed_documents", type=int, default=64, help="The number of documents whose reading is timed.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="The torch device.")
    return parser.parse_args()


def device_name(device):
    if device.type == "cuda":
        return " ".join(torch.cuda.get_device_name(device).split()[:2])
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' * (threads > 1)}"


def measure_seconds(task, count):
    """
    Returns seconds per document and MiB above the weights of the three ways to read a document, untrained. A GPU reads 16
    documents at once, or their pieces. A CPU reads one document at once, or one piece, so that there is no padding.
    """
    documents = [document[: task.max_pieces] for document in task.documents[:count]]
    is_gpu = task.device.type == "cuda"
    pieces = task.new_reader(whole=False).eval()
    readings = {
        "first": (pieces, [document[:1] for document in documents]),
        "pieces": (pieces, documents if is_gpu else [piece for document in documents for piece in document.split(1)]),
        "whole": (task.new_reader(whole=True).eval(), documents),
    }
    costs = {}
    for name, (reader, inputs) in readings.items():
        seconds, memory = seconds_and_memory(reader, inputs, 16 if is_gpu else 1)
        costs[name] = (seconds / len(documents), memory)
    return costs


def mean_and_error(values):
    """Returns the mean and its standard error, which is not known for a single value."""
    return statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def summarise(task, results):
    """
    Returns a list with one dictionary per reading of a task: its name `reading`, its `score` and its `difference` to the best
    reading of pieces, as means with standard errors, the number of `splits`, and the `costs`, which are seconds per document
    and MiB, on each device.
    """
    scores, costs = {}, {}
    for result in results:
        if result["model"] == "seconds":
            costs[result["device"]] = result["costs"]
        else:
            for reading, score in result["scores"].items():
                scores.setdefault(reading, {})[result["split"]] = score
    of_pieces = {name: each for name, each in scores.items() if name.startswith(("pieces", "the first"))}
    sign = 1 if task.higher_is_better else -1
    best = max(of_pieces, key=lambda name: sign * statistics.mean(of_pieces[name].values()), default=None)
    rows = []
    for reading, each in scores.items():
        row = {"reading": reading, "score": mean_and_error(list(each.values())), "splits": len(each)}
        common = sorted(each.keys() & scores.get(best, {}).keys())
        if common and reading != best:
            row["difference"] = mean_and_error([each[split] - scores[best][split] for split in common])
        name = "first" if reading.startswith("the first") else "whole" if reading.startswith("complete") else "pieces"
        is_encoder = reading.startswith(("the first", "complete", "pieces"))
        row["costs"] = {device: cost[name] for device, cost in costs.items()} if is_encoder else {}
        rows.append(row)
    return rows


def make_table(task, rows):
    devices = sorted({device for row in rows for device in row["costs"]})

    def text(value):
        return "" if value is None else f"{value[0]:.3f} ± {value[1]:.3f}"

    def cost(row, device):
        seconds, memory = row["costs"].get(device, (None, None))
        if seconds is None:
            return ""
        amount = f"{seconds:.2f} s" if seconds > 0.1 else f"{seconds * 1000:.2f} ms"
        return amount + ("" if memory is None else f", {memory:.0f} MiB")

    header = ["reading", task.metric, "minus the best of pieces", "splits"] + [f"per document, {device}" for device in devices]
    return markdown_table(
        header,
        [
            [row["reading"], text(row["score"]), text(row.get("difference")), str(row["splits"])]
            + [cost(row, device) for device in devices]
            for row in rows
        ],
    )


def plot(summaries, path):
    """
    Plots the score of each reading against the time that a document takes, one panel per task, on the device on which the most
    tasks were timed.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    devices = [device for rows in summaries.values() for device in {device for row in rows for device in row["costs"]}]
    if not devices:
        return
    device = max(sorted(set(devices)), key=devices.count)
    summaries = {name: rows for name, rows in summaries.items() if any(device in row["costs"] for row in rows)}
    columns = min(3, len(summaries) + 1)
    rows_of_panels = -(-(len(summaries) + 1) // columns)
    size = (4 * columns, 3.2 * rows_of_panels)
    figure, axes = pyplot.subplots(rows_of_panels, columns, figsize=size, layout="constrained", squeeze=False)
    panels = axes.flatten().tolist()
    for axis, (name, rows) in zip(panels, summaries.items(), strict=False):
        axis.set(title=name.replace("_", " "), xlabel=f"seconds per document ({device})", ylabel=TASKS[name].metric)
        for index, row in enumerate(rows):
            score, error = row["score"]
            kind = next((kind for kind in MARKERS if row["reading"].startswith(kind)), None)
            if kind is None:
                if TASKS[name].higher_is_better:  # a perplexity without a model is far off
                    axis.axhline(score, color="C2", linestyle=":")
                continue
            seconds = row["costs"][device][0] * (1 + 0.02 * (index % 5 - 2))  # moved apart a little, to be seen
            face = "none" if row["reading"].endswith("untrained") else None
            axis.errorbar(seconds, score, error, markerfacecolor=face, linestyle="", **MARKERS[kind])
        if not TASKS[name].higher_is_better:
            axis.invert_yaxis()
        axis.set_xlim(0, 1.05 * axis.get_xlim()[1])
    legend = panels[len(summaries)]
    for axis in panels[len(summaries) :]:
        axis.axis("off")
    for kind, marker in MARKERS.items():
        legend.plot([], [], linestyle="", label=kind, **marker)
    legend.plot([], [], linestyle="", marker="s", color="black", markerfacecolor="none", label="hollow: untrained")
    legend.plot([], [], color="C2", linestyle=":", label="words are counted, no encoder")
    legend.legend(loc="center", frameon=False, title="bars: standard errors; higher is better")
    figure.savefig(path, dpi=120)


def write_summary(output_dir, results):
    summaries = {
        name: summarise(task, [result for result in results if result["task"] == name])
        for name, task in TASKS.items()
        if any(result["task"] == name for result in results)
    }
    tables = [f"## {name}\n\n{make_table(TASKS[name], rows)}" for name, rows in summaries.items()]
    (output_dir / "long_documents.md").write_text("\n\n".join(tables) + "\n", encoding="utf-8")
    (output_dir / "summary.json").write_text(json.dumps(summaries, indent=1) + "\n", encoding="utf-8")
    plot(summaries, output_dir / "long_documents.png")
    print("\n\n".join(tables))


def run_task(task, args, path):
    """Runs what the file at `path` does not hold yet of a task."""
    (name,) = (name for name, each in TASKS.items() if each is type(task))
    k = {"k": rows_of(PIECE * task.max_pieces, args.projected_dim, PIECE)}
    models = [model for model in task.models if args.models is None or model in args.models]
    splits = range(task.splits) if args.splits is None else args.splits
    wanted = [
        {"task": name, "model": model, "split": split} | ({} if model in ("words", "first") else k)
        for split in splits
        for model in models
    ]

    def checkpoint(each):
        return path.with_name("-".join(map(str, each.values())) + ".pt")

    for each in wanted:
        run_missing([each], lambda **each: {"scores": task.run(each["model"], each["split"], checkpoint(each))}, path, jobs=1)
        checkpoint(each).unlink(missing_ok=True)  # as the scores are in the file now
    if args.models is None or "seconds" in args.models:
        wanted = [{"task": name, "model": "seconds", "device": device_name(task.device)} | k]
        run_missing(wanted, lambda **_: {"costs": measure_seconds(task, args.timed_documents)}, path, jobs=1)


def main():
    args = parse_arguments()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    keep_inputs(args.output_dir, model_name_or_path=args.model_name_or_path, data_dir=args.data_dir)
    device = torch.device(args.device)
    original = AutoModel.from_pretrained(args.model_name_or_path, dtype=torch.float32).to(device)
    tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path)
    path = args.output_dir / "results.jsonl"
    for name in args.tasks:
        run_task(TASKS[name](original, tokenizer, args.data_dir, device, args.projected_dim), args, path)
    write_summary(args.output_dir, read_results(path))


if __name__ == "__main__":
    main()
