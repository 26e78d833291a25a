# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Kill runs of linformer-mlm and linformer-glue at random moments, and compare what they end with when started again.

    python -m benchmarks.kill --output_dir kills
    python -m benchmarks.kill --help

The runs are small, and train from scratch on texts that come with Python. In two of them the last step lies inside an epoch,
and the third stops early. Each first goes to its end undisturbed, and is started twice more, which must change no file. Then
it is killed, by SIGKILL, at moments drawn from the time between its first file and its end, and the same command is started
again. Its weights must be equal to those of the undisturbed run, bit for bit.

Every finished comparison is a line in results.jsonl, and is not made again. The table is written to kill.md.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from pydoc_data.topics import topics

from transformers_linformer.files import checksum
from transformers_linformer.tables import markdown_table

from .runs import run_command, run_missing


MODEL = (
    "hidden_size=32,num_hidden_layers=2,num_attention_heads=2,intermediate_size=64,max_position_embeddings=64,projected_dim=8"
)
COMMON = ("--do_train", "--do_eval", f"--config_overrides={MODEL}", "--vocab_size=500", "--per_device_train_batch_size=4")
COMMON += ("--max_steps=100", "--logging_steps=10", "--report_to=none", "--use_cpu", "--disable_tqdm=True")
TABLE = ("--train_file={folder}/texts.jsonl", "--validation_file={folder}/texts.jsonl")
EVALUATION = ("--eval_strategy=steps", "--eval_steps=10")
# The command and its own arguments. An epoch has 40 steps of linformer-glue
RUNS = {
    "mlm": ("mlm", ("--train_file={folder}/texts.txt", "--line_by_line", "--save_steps=10", "--save_total_limit=2")),
    "glue": ("glue", (*TABLE, *EVALUATION)),
    "glue that stops early": ("glue", (*TABLE, *EVALUATION, "--early_stopping_patience=3", "--learning_rate=3e-2")),
}


def parse_arguments():
    description = __doc__.strip().splitlines()[0]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output_dir", required=True, type=Path, help="The folder for results, table and runs.")
    parser.add_argument("--kills", type=int, default=20, help="The number of kills, which the runs take in turns.")
    parser.add_argument("--seed", type=int, default=0, help="The seed of the moments.")
    parser.add_argument("--jobs", type=int, default=1, help="The number of runs at the same time.")
    return parser.parse_args()


def write_texts(folder):
    """Writes 160 sentences, as lines and with labels, which say whether the topic begins with A to H or a to h."""
    names = sorted(topics)
    sentences = [(" ".join(text.split()), name.lower() < "i") for name in names for text in topics[name].split(". ")]
    sentences = random.Random(0).sample([each for each in sentences if 20 < len(each[0]) < 300], 160)
    (folder / "texts.txt").write_text("\n".join(text for text, _ in sentences), encoding="utf-8")
    rows = [json.dumps({"text": text, "label": str(label)}) for text, label in sentences]
    (folder / "texts.jsonl").write_text("\n".join(rows), encoding="utf-8")


def start_until_first_file(command, arguments, folder):
    """Starts a command, and returns its process once there is a file in its output folder."""
    program = [sys.executable, "-m", f"transformers_linformer.commands.{command}", *map(str, arguments)]
    with open(folder / "killed.txt", "w", encoding="utf-8") as log:
        process = subprocess.Popen(program, stdout=log, stderr=log)
    while process.poll() is None and not any((folder / "out").glob("*")):
        time.sleep(0.002)
    return process


def files_of(folder):
    """Returns the checksum and the time of each file in a folder."""
    return {path: (checksum(path), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def last_step(folder):
    """Returns the step of the newest checkpoint in the folder, which may be complete or not, or 0."""
    return max((int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*")), default=0)


class Comparison:
    """Does the runs in a folder. `seed` decides the moments of the kills."""

    def __init__(self, folder, seed, jobs):
        self.folder, self.seed, self.jobs = folder, seed, jobs
        self.undisturbed = {}

    def prepare(self, run, name):
        """Returns an empty folder, and the command and the arguments of a run in it."""
        folder = self.folder / "runs" / f"{run.replace(' ', '-')}-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_texts(folder)
        command, arguments = RUNS[run]
        return folder, command, [*COMMON, *(each.format(folder=folder) for each in arguments), f"--output_dir={folder}/out"]

    def do(self, run, kill):
        """Returns the result of a run that is killed for the time with this number, or, if that is 0, never."""
        return self.kill(run, kill) if kill else self.go_to_the_end(run)

    def go_to_the_end(self, run):
        folder, command, arguments = self.prepare(run, "undisturbed")
        process = start_until_first_file(command, arguments, folder)
        begin = time.monotonic()
        if process.wait():
            raise SystemExit(f"The command {command} ended with {process.returncode}: see {folder / 'killed.txt'}")
        seconds = time.monotonic() - begin
        files = files_of(folder / "out")
        for _ in range(2):
            run_command(command, arguments, folder, self.jobs)
        weights, is_same = checksum(folder / "out" / "model.safetensors"), files_of(folder / "out") == files
        state = json.loads((folder / "out" / "trainer_state.json").read_text(encoding="utf-8"))
        return {"seconds": seconds, "steps": state["global_step"], "weights": weights, "unchanged_when_finished": is_same}

    def kill(self, run, number):
        undisturbed = self.undisturbed[run]
        moments = random.Random(f"{self.seed} {run} {number}")
        while True:  # until it is killed before it ends
            seconds = moments.uniform(0, undisturbed["seconds"])
            folder, command, arguments = self.prepare(run, number)
            process = start_until_first_file(command, arguments, folder)
            time.sleep(seconds)
            process.kill()
            if process.wait() < 0:
                break
        step = last_step(folder / "out")
        run_command(command, arguments, folder, self.jobs)
        is_equal = checksum(folder / "out" / "model.safetensors") == undisturbed["weights"]
        if is_equal:
            shutil.rmtree(folder)
        return {"seconds": seconds, "last_checkpoint": step, "equal": is_equal}


def make_table(results):
    rows = []
    for run in RUNS:
        undisturbed, *killed = sorted((each for each in results if each["run"] == run), key=lambda each: each["kill"])
        equal = sum(each["equal"] for each in killed)
        steps = ", ".join(map(str, sorted(each["last_checkpoint"] for each in killed)))
        unchanged = "yes" if undisturbed["unchanged_when_finished"] else "no"
        rows.append([run, undisturbed["steps"], unchanged, len(killed), equal, steps])
    header = ["run", "steps", "unchanged when finished", "kills", "bit-equal afterwards", "last checkpoint at the kill"]
    return markdown_table(header, rows)


def main():
    args = parse_arguments()
    folder = args.output_dir.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    # The number of threads decides the last bits
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
    comparison = Comparison(folder, args.seed, args.jobs)
    wanted = [{"run": run, "kill": 0} for run in RUNS]
    results = run_missing(wanted, comparison.do, folder / "results.jsonl", args.jobs)
    comparison.undisturbed = {each["run"]: each for each in results if each["kill"] == 0}
    names = list(RUNS)
    wanted = [{"run": names[number % len(names)], "kill": number // len(names) + 1} for number in range(args.kills)]
    results = run_missing(wanted, comparison.do, folder / "results.jsonl", args.jobs)
    table = make_table(results)
    (folder / "kill.md").write_text(table + "\n", encoding="utf-8")
    print(table)
    if not all(each.get("equal", True) and each.get("unchanged_when_finished", True) for each in results):
        raise SystemExit("Some runs are not equal: their folders are kept.")


if __name__ == "__main__":
    main()
