# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs of the project's commands and of a Trainer. Each finished run is kept as a line of a file, and is never run again."""

import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path

from transformers import TrainerCallback, TrainerState
from transformers.trainer_callback import ExportableState


def run_command(name, arguments, folder, jobs):
    """
    Runs a module of `transformers_linformer.commands`, and returns the peak of its memory in GiB.

    `jobs` is the number of such runs that share the cores. The log is written to log.txt in the folder.
    """
    command = [sys.executable, "-m", f"transformers_linformer.commands.{name}", *map(str, arguments)]
    folder.mkdir(parents=True, exist_ok=True)
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    with open(folder / "log.txt", "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={"OMP_NUM_THREADS": threads} | os.environ)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"The command {name} ended with {process.returncode}: see {folder / 'log.txt'}")
    return usage.ru_maxrss / 2**20


def read_results(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def is_finished(wanted, results):
    """Returns whether one of the results is of these arguments."""
    return any(wanted.items() <= result.items() for result in results)


def keep_result(result, path):
    """Makes a result a line of the file, and prints it."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")
    print(json.dumps(result), flush=True)


def keep_inputs(output_dir, **inputs):
    """
    Keeps in the file inputs.json what all results of a folder are of, such as the name of a model. Paths are made absolute.

    Raises `SystemExit` if the folder has files that were made of other inputs, because they would be taken for those of these.
    """
    paths = {name: Path(value) for name, value in inputs.items() if isinstance(value, (str, Path))}
    inputs |= {name: str(each.resolve() if each.exists() else each) for name, each in paths.items()}
    path = output_dir / "inputs.json"
    made = any(each != path for each in output_dir.iterdir())  # or else a first call may have been mistyped
    kept = json.loads(path.read_text(encoding="utf-8")) if made and path.exists() else {}
    for name, value in inputs.items():
        if kept.setdefault(name, value) != value:
            raise SystemExit(
                f"The files in {output_dir} are of `--{name} {kept[name]}`, and not of {value}: give another `--output_dir`."
                f" If it is the same and was only moved, change its path in {path}."
            )
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def run_missing(wanted, run, path, jobs):
    """
    Runs what the file at `path` does not hold yet, `jobs` runs at a time, and returns all results.

    Each of the `wanted` dictionaries holds the arguments of one run, and a result is these together with the dictionary
    that `run(**arguments)` returns. It becomes a line of the file as soon as its run has finished. All lines of the file
    are returned, those that were not asked for too.
    """
    results = read_results(path)
    missing = [each for each in wanted if not is_finished(each, results)]

    def result_of(each):
        return each | run(**each)

    with ThreadPoolExecutor(jobs) as pool:
        for result in map(Future.result, as_completed([pool.submit(result_of, each) for each in missing])):
            results.append(result)
            keep_result(result, path)
    return results


def mean_and_error(values, digits):
    """Returns the mean and, of several values, its standard error, as text."""
    if not values:
        return ""
    error = f" ± {statistics.stdev(values) / len(values) ** 0.5:.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{error}"


def digest(arguments):
    """Returns eight characters for a folder's name, which differ where the arguments of a run do."""
    return hashlib.sha256(json.dumps(arguments, sort_keys=True).encode()).hexdigest()[:8]


def add_training_arguments(parser, examples, save_steps):
    """Adds the arguments that `training_options` takes, but for the number of steps. `examples` says what a batch has."""
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="The seeds of weights, batches and dropout.")
    parser.add_argument("--learning_rate", type=float, default=1e-3, help="The highest learning rate.")
    parser.add_argument(
        "--warmup_ratio",
        type=float,
        default=0.1,
        help="The part of the steps in which the learning rate rises. In the others it falls to 0 along a line.",
    )
    parser.add_argument("--batch_size", type=int, default=32, help=f"The number of {examples} per step.")
    parser.add_argument("--save_steps", type=int, default=save_steps, help="The number of steps between checkpoints.")


def training_options(folder, seed, arguments, save_steps):
    """Returns the arguments of a Trainer for a run that goes on from its last checkpoint, as a dictionary."""
    return {
        "output_dir": folder,
        "seed": seed,
        "max_steps": arguments["max_steps"],
        "learning_rate": arguments["learning_rate"],
        "lr_scheduler_type": "linear",
        "warmup_steps": arguments["warmup_ratio"],  # a number below 1 is a part of all steps
        "per_device_train_batch_size": arguments["batch_size"],
        "train_sampling_strategy": "group_by_length",
        "save_steps": save_steps,
        "save_total_limit": 1,
        "restore_callback_states_from_checkpoint": True,
        "logging_steps": 50,
        "report_to": "none",
    }


class Stopwatch(TrainerCallback, ExportableState):
    """Adds up the seconds of all training steps. Checkpoints keep the sum, so that it has those before a run was killed."""

    def __init__(self, seconds=0.0):
        self.seconds = seconds

    def on_train_begin(self, *args, **kwargs):
        self.start = time.perf_counter()

    def on_step_end(self, *args, **kwargs):
        now = time.perf_counter()
        self.seconds += now - self.start
        self.start = now

    def on_save(self, *args, **kwargs):
        self.start = time.perf_counter()

    def state(self):
        return {"args": {}, "attributes": {"seconds": self.seconds}}


def has_ended(checkpoint):
    """Returns whether a checkpoint, or None, is that of the last step."""
    if checkpoint is None:
        return False
    state = TrainerState.load_from_json(Path(checkpoint) / "trainer_state.json")
    return state.global_step == state.max_steps
