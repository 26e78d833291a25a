# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Measure the time and memory of Linformers and of other encoders against the length of the input.

    python -m benchmarks.speed --output_dir speed                  # inference, on the CPU with one thread or on a GPU
    python -m benchmarks.speed --mode training --lengths 512 2048 4096 --output_dir speed-training
    python -m benchmarks.speed --show speed/speed.json more/speed.json --output_dir both  # of two numbers the first counts
    python -m benchmarks.speed --help

All models have the same sizes and random weights, and read the same random tokens. They take turns in one process, so that
other load affects all alike. Times are CPU times of one thread, or, on a GPU, times between two events. Peak memory is
measured in one process per model and length, and is what comes on top of the weights. Times are per layer. A model that
takes longer than `--max_seconds` at one length is left out at the later ones.

`linformer` is what a conversion gives by default: blocks, rows of `attention_pool`, and 64 global tokens, which
`linformer-no-global` lacks. `roberta-pieces` is what people do
with a long document: it is cut into pieces of 512 tokens, which RoBERTa reads one after another. `floor` is the matrix
products of the Linformer and nothing else: no pooling, no softmax, no norm, no GELU, no allocation. `linformer-paper` and
`floor-paper` have no blocks.

Writes speed.json, speed.md, and the plots time.png and memory.png.
"""

import json
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import transformers
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from transformers_linformer.tables import markdown_table

from .memory import peak_memory_of
from .models import MODELS, VOCAB_SIZE, Sizes, seconds_of, work_of


@dataclass
class SpeedArguments:
    """What to measure."""

    output_dir: str = field(metadata={"help": "The folder for numbers, tables and plots."})
    mode: str = field(default="inference", metadata={"choices": ["inference", "training"], "help": "What is timed."})
    lengths: list[int] = field(
        default_factory=lambda: [512, 1024, 2048, 4096, 8192, 16384], metadata={"help": "The lengths in tokens."}
    )
    models: list[str] = field(
        default_factory=lambda: ["linformer", "floor", "roberta-pieces", "roberta-sdpa"],
        metadata={
            "choices": list(MODELS),
            "metavar": "MODEL",
            "help": f"The models to measure, of which the first is what the others are compared with: {', '.join(MODELS)}.",
        },
    )
    batch_size: int = field(default=1, metadata={"help": "The number of documents that are read at once."})
    repeats: int = field(default=5, metadata={"help": "How often each model is timed. The median counts."})
    max_seconds: float = field(
        default=60.0, metadata={"help": "A model that takes longer is left out at the lengths after that one."}
    )
    show: list[str] = field(
        default_factory=list,
        metadata={"help": "Measure nothing, and show the models of these speed.json files, of runs of the same sizes."},
    )
    memory: bool = field(default=True, metadata={"help": "Whether to measure memory too."})
    memory_of: str | None = field(
        default=None,
        metadata={
            "choices": list(MODELS),
            "metavar": "MODEL",
            "help": "Print the peak memory of this model at the first length, and nothing else.",
        },
    )


# Measuring


def device():
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build(name, sizes, n, mode, batch_size):
    """
    Returns a function that does the work once, and the model's number of layers.

    Raises `NotImplementedError` for a floor that does not exist: there is one for inference with one document.
    """
    if name.startswith("floor") and (mode == "training" or batch_size > 1):
        raise NotImplementedError("the floor is for inference with one document")
    torch.manual_seed(0)
    model, layers = MODELS[name](sizes, n)
    if name != "linformer-int8":
        model = model.to(device(), getattr(torch, "bfloat16" if name.endswith("bfloat16") else sizes.dtype))
    input_ids = torch.randint(3, VOCAB_SIZE, (batch_size, n), device=device())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5) if mode == "training" else None

    def after_backward():
        optimizer.step()
        optimizer.zero_grad()

    return work_of(model, mode, {"input_ids": input_ids}, after_backward), layers


def time_all(models, sizes, lengths, mode, batch_size, repeats, max_seconds):
    """Returns a dictionary per model and length, with the median, the least and the most seconds per layer."""
    results, too_slow = [], set()
    for n in lengths:
        works = {}
        for name in models:
            if name in too_slow:
                continue
            try:
                works[name] = build(name, sizes, n, mode, batch_size)
            except NotImplementedError:
                continue
        times = {name: [] for name in works}
        for repeat in tqdm(range(repeats + 1), desc=f"n = {n}"):
            for name, (work, layers) in works.items():
                if name not in too_slow or not times[name]:
                    elapsed = seconds_of(work, device())
                    if repeat > 0 or elapsed > max_seconds:  # the first time is to warm up
                        times[name].append(elapsed / layers)
                    if elapsed > max_seconds:
                        too_slow.add(name)
        for name, values in times.items():
            spread = {"median": statistics.median(values), "least": min(values), "most": max(values)}
            results.append({"model": name, "n": n, "repeats": len(values), **spread})
    return results


def peak_memory(name, sizes, n, mode, batch_size):
    """Returns the bytes above the weights, and above what the libraries take once, whatever the size is."""
    small = replace(sizes, hidden_size=64, num_attention_heads=2, num_hidden_layers=1)
    work, _ = build(name, small, 64, mode, batch_size)
    work()
    work, _ = build(name, sizes, n, mode, batch_size)
    return peak_memory_of(work, device())


def measure_memory(timed, sizes, mode, batch_size):
    """Adds `memory`, in bytes, to the results of `time_all`. Each is measured in a process of its own."""
    for row in tqdm([row for row in timed if not row["model"].startswith("floor")], desc="memory"):
        options = {"memory_of": row["model"], "lengths": row["n"], "mode": mode, "batch_size": batch_size} | vars(sizes)
        command = [sys.executable, "-m", "benchmarks.speed", "--output_dir=."]  # where nothing is written
        command += [f"--{name}={value}" for name, value in options.items() if value is not None]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            print(f"{row['model']} at n = {row['n']}: {result.stderr.strip().splitlines()[-1]}")
        else:
            row["memory"] = int(result.stdout.splitlines()[-1])


# Results


def read_results(paths, models):
    """Returns the results of these models in files of earlier runs. Of several for a model and a length the first counts."""
    results = {}
    for path in paths:
        for row in json.loads(Path(path).read_text())["results"]:
            if row["model"] in models:
                results.setdefault((row["model"], row["n"]), row)
    return list(results.values())


def make_tables(results, models, lengths):
    by_key = {(row["model"], row["n"]): row for row in results}
    names = [name for name in models if any(row["model"] == name for row in results)]

    def table(title, cell):
        rows = [[n, *(cell(by_key.get((name, n)), by_key.get((names[0], n))) for name in names)] for n in lengths]
        return f"{title}\n\n{markdown_table(['n', *names], rows)}"

    def milliseconds(row, first):
        return f"{row['median'] * 1e3:.1f} ({row['least'] * 1e3:.1f} to {row['most'] * 1e3:.1f})" if row else ""

    def ratio(row, first):
        return f"{row['median'] / first['median']:.2f}" if row and first else ""

    def memory(row, first):
        return f"{row['memory'] / 2**20:.0f}" if row and "memory" in row else ""

    tables = [
        table("Milliseconds per layer, median (least to most)", milliseconds),
        table(f"How many times the time of {names[0]} each takes", ratio),
    ]
    if any("memory" in row for row in results):
        tables.append(table("MiB above the weights", memory))
    return "\n\n".join(tables)


def plot(results, models, lengths, key, scale, label, path):
    """Plots the results' values of a key, times the scale, against n."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    for index, name in enumerate(models):
        points = sorted((row["n"], row[key] * scale) for row in results if row["model"] == name and key in row)
        if points:
            is_linformer = name.startswith("linformer")
            axes.plot(
                *zip(*points),
                color=f"C{index}",  # a model's color is the same in both plots
                marker="osD^v<>PX*"[index % 10],
                linestyle="-" if is_linformer else "--",
                linewidth=2 if is_linformer else 1,
                label=name,
            )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, [str(n) for n in lengths], rotation=45)
    axes.set(xlabel="n, tokens", ylabel=label)
    axes.grid(color="0.9")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def main():
    parser = HfArgumentParser((SpeedArguments, Sizes), description=__doc__.strip().splitlines()[0])
    args, sizes = parser.parse_args_into_dataclasses()
    torch.set_num_threads(1)
    if args.memory_of is not None:
        print(peak_memory(args.memory_of, sizes, args.lengths[0], args.mode, args.batch_size))
        return
    if args.show:
        results = read_results(args.show, args.models)
        args.lengths = sorted({row["n"] for row in results})
    else:
        results = time_all(args.models, sizes, args.lengths, args.mode, args.batch_size, args.repeats, args.max_seconds)
        if args.memory:
            measure_memory(results, sizes, args.mode, args.batch_size)
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    machine = torch.cuda.get_device_name() if device().type == "cuda" else f"{platform.machine()}, one thread"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    numbers = {"arguments": vars(args) | vars(sizes), "machine": machine, **versions, "results": results}
    (folder / "speed.json").write_text(json.dumps(numbers, indent=1))
    tables = make_tables(results, args.models, args.lengths)
    (folder / "speed.md").write_text(tables + "\n")
    plot(results, args.models, args.lengths, "median", 1e3, "milliseconds per layer", folder / "time.png")
    if args.memory:
        plot(results, args.models, args.lengths, "memory", 2**-20, "MiB above the weights", folder / "memory.png")
    print(f"\n{tables}\n\nNumbers and plots are in {folder}")


if __name__ == "__main__":
    main()
