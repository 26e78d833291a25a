# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Pretrain small models from scratch by masked language modeling, with full attention and with Linformer's, and compare them.

    python -m benchmarks.pretraining --output_dir pretraining
    python -m benchmarks.pretraining --output_dir longer --dataset_name Salesforce/wikitext \\
        --dataset_config_name wikitext-2-v1 --max_seq_length 512 -- --num_train_epochs 8
    python -m benchmarks.pretraining --help

A model is named as in `linear`, `linear/b32`, `linear/headwise` or `mean_pool/k8/b8/f8/r32`: its projection, and after it, in
any order, k, b and the sharing, if they are not n / 4, 0 and layerwise, the limit of far tokens (f), and the number of buckets
of relative positions (r), if there are any. `full` is full attention: one block of all tokens.

All are trained by linformer-mlm with the same arguments, on the same sequences and masks, with the same initial weights
except E. Arguments after `--` replace those that are set here. The default text is that of the demonstration. The perplexity
is that of held-out text, after the last step.

Every finished run is a line in results.jsonl, and is not run again. Writes pretraining.md, and the plot pretraining.png. With
`--timed_steps`, training steps of all models are timed at the end, which wants a quiet machine. The plot uses these times, and
seconds.json keeps them.
"""

import argparse
import json
import statistics
import time
from itertools import product
from pathlib import Path

import torch
from tqdm.auto import tqdm

from configuration_linformer import LinformerConfig
from modeling_linformer import LinformerForMaskedLM
from transformers_linformer.tables import markdown_table

from .models import linformer_fields
from .runs import digest, mean_and_error, run_command, run_missing


# Those of the demonstration, but for its epochs
VOCAB_SIZE, BATCH_SIZE = 8192, 16
ARGUMENTS = [
    "--do_train",
    "--do_eval",
    "--vocab_size",
    str(VOCAB_SIZE),
    "--per_device_train_batch_size",
    str(BATCH_SIZE),
    "--learning_rate",
    "2e-3",
]
ARGUMENTS += ["--warmup_steps", "200", "--num_train_epochs", "4", "--logging_steps", "100", "--report_to", "none"]
MODELS = ["full", "linear", "linear/b32", "mean_pool", "mean_pool/b32", "attention_pool/b32"]


def parse_arguments():
    description = __doc__.strip().splitlines()[0]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output_dir", required=True, type=Path, help="The folder for results, table, plot and logs.")
    parser.add_argument("--dataset_name", help="The text to learn, by default that of the demonstration.")
    parser.add_argument("--dataset_config_name", help="The configuration of that dataset.")
    parser.add_argument("--models", nargs="+", default=MODELS, help="The models, as described above.")
    parser.add_argument("--max_seq_length", type=int, default=128, help="n.")
    parser.add_argument("--hidden_size", type=int, default=128, help="d. Heads have 32 features.")
    parser.add_argument("--num_hidden_layers", type=int, default=2, help="The number of layers.")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="The seeds of weights, batches and masks.")
    parser.add_argument("--jobs", type=int, default=1, help="The number of runs at the same time, which share the cores.")
    parser.add_argument("--timed_steps", type=int, default=0, help="The number of steps of each model that are timed.")
    parser.add_argument("mlm_arguments", nargs="*", help="Arguments of linformer-mlm, after --.")
    return parser.parse_args()


def fields_of(model, n, hidden_size, num_hidden_layers, **_):
    """Returns the fields of a model's configuration, but for those of the tokenizer."""
    return {
        "hidden_size": hidden_size,
        "intermediate_size": 4 * hidden_size,
        "num_attention_heads": hidden_size // 32,
        "num_hidden_layers": num_hidden_layers,
        "max_position_embeddings": n,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        **linformer_fields(model, n),
    }


def seconds_per_step(models, common, steps):
    """
    Returns the median time of a training step of each model, as a dictionary of seconds. The models take turns, on batches
    of random tokens of which 15 % are predicted.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trained = {}
    for model in models:
        config = LinformerConfig(vocab_size=VOCAB_SIZE, sparse_prediction=True, **fields_of(model, **common))
        network = LinformerForMaskedLM(config).to(device).train()
        trained[model] = network, torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    times = {model: [] for model in models}
    for _ in tqdm(range(steps + 1), desc="Timed steps"):
        input_ids = torch.randint(VOCAB_SIZE, (BATCH_SIZE, common["n"]), device=device)
        labels = input_ids.masked_fill(torch.rand(input_ids.shape, device=device) > 0.15, -100)
        for model, (network, optimizer) in trained.items():
            start = time.perf_counter()
            network(input_ids, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[model].append(time.perf_counter() - start)
    return {model: statistics.median(each[1:]) for model, each in times.items()}


def curve_of(state):
    """Returns the list of step and perplexity of each evaluation that the state of a Trainer holds."""
    return [[entry["step"], entry["eval_perplexity"]] for entry in state["log_history"] if "eval_perplexity" in entry]


def make_table(results):
    """Returns a table with a line per model: the mean over the seeds, and the ratio to full attention, paired by seed."""
    names = ("n", "hidden_size", "num_hidden_layers", "text", "arguments")
    groups = {}
    for result in results:
        group = groups.setdefault(tuple(result[name] for name in names), {})
        group.setdefault(result["model"], {})[result["seed"]] = result
    rows = []
    for setting, models in groups.items():
        for model, runs in models.items():
            ratios = [
                run["perplexity"] / models["full"][seed]["perplexity"]
                for seed, run in runs.items()
                if seed in models.get("full", {})
            ]
            unigram = [run["perplexity"] / run["unigram_perplexity"] for run in runs.values()]
            row = [model, mean_and_error([run["perplexity"] for run in runs.values()], 1), mean_and_error(ratios, 3)]
            seconds = statistics.mean(run["train_seconds"] for run in runs.values())
            rows.append([*row, f"{statistics.mean(unigram):.3f}", len(runs), f"{seconds:.0f}", *setting])
    header = ["model", "perplexity", "divided by full attention's", "by unigrams'", "seeds", "training, s"]
    return markdown_table([*header, "n", "d", "layers", "text", "arguments"], rows)


def plot(results, seconds, path):
    """
    Draws the perplexity against the step, and against the seconds of training, as the mean over the seeds. `seconds` is a
    dictionary of the seconds per step; for other models it is that of their runs.
    """
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4), sharey=True)
    for model in dict.fromkeys(result["model"] for result in results):
        runs = [result for result in results if result["model"] == model and len(result["curve"]) > 1]
        if not runs:
            continue
        steps = [step for step, _ in runs[0]["curve"]]
        perplexities = [
            statistics.mean(values) for values in zip(*([p for _, p in run["curve"]] for run in runs), strict=True)
        ]
        of_runs = statistics.mean(run["train_seconds"] / run["curve"][-1][0] for run in runs)
        per_step = seconds.get(model, of_runs)
        axes[0].plot(steps, perplexities, label=model)
        axes[1].plot([step * per_step for step in steps], perplexities, label=model)
    for axis, label in zip(axes, ("step", "seconds of training"), strict=True):
        axis.set(xlabel=label, yscale="log")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("perplexity of held-out text")
    if axes[1].lines:
        axes[1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main():
    args = parse_arguments()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    text = ["--demo"] if args.dataset_name is None else ["--dataset_name", args.dataset_name]
    text += [] if args.dataset_config_name is None else ["--dataset_config_name", args.dataset_config_name]

    def run(model, seed, arguments, **_):
        """Pretrains one model. Returns perplexities, the curve of steps and perplexities, seconds, and peak memory."""
        folder = args.output_dir / "runs" / f"{model.replace('/', '-')}-{seed}-{digest(common)}"
        fields = fields_of(model, **common)
        overrides = ",".join(f"{name}={value}" for name, value in fields.items())
        command = [*ARGUMENTS, *text, "--output_dir", folder / "trained", "--config_overrides", overrides, "--seed", seed]
        command += ["--eval_strategy", "epoch", "--save_strategy", "epoch", "--save_total_limit", "1"]
        memory = run_command("mlm", [*command, *arguments.split()], folder, args.jobs)
        metrics = json.loads((folder / "trained" / "all_results.json").read_text())
        state = json.loads((folder / "trained" / "trainer_state.json").read_text())
        return {
            "perplexity": metrics["eval_perplexity"],
            "unigram_perplexity": metrics["eval_unigram_perplexity"],
            "curve": curve_of(state),
            "train_seconds": metrics["train_runtime"],
            "peak_memory_gib": memory,
        }

    common = {
        "n": args.max_seq_length,
        "hidden_size": args.hidden_size,
        "num_hidden_layers": args.num_hidden_layers,
        "text": " ".join(filter(None, [args.dataset_name and Path(args.dataset_name).name, args.dataset_config_name]))
        or "demo",
        "arguments": " ".join(args.mlm_arguments),
    }
    wanted = [{"model": model, "seed": seed, **common} for seed, model in product(args.seeds, args.models)]
    results = run_missing(wanted, run, args.output_dir / "results.jsonl", args.jobs)
    table = make_table(results)
    (args.output_dir / "pretraining.md").write_text(table + "\n", encoding="utf-8")
    seconds = {}
    if args.timed_steps:
        seconds = seconds_per_step(args.models, common, args.timed_steps)
        (args.output_dir / "seconds.json").write_text(json.dumps(seconds) + "\n", encoding="utf-8")
        print("".join(f"{model}: {value:.3f} s per step\n" for model, value in seconds.items()), end="")
    shown = [result for result in results if any(each.items() <= result.items() for each in wanted)]
    plot(shown, seconds, args.output_dir / "pretraining.png")
    print(table)


if __name__ == "__main__":
    main()
