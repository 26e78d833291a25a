# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Many runs of the project's commands. Each finished run is kept as a line of a file, and is never run again."""

import json
import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor, as_completed


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


def run_missing(wanted, run, path, jobs):
    """
    Runs what the file at `path` does not hold yet, `jobs` runs at a time, and returns all results.

    Each of the `wanted` dictionaries holds the arguments of one run, and a result is these together with the dictionary
    that `run(**arguments)` returns. It becomes a line of the file as soon as its run has finished. All lines of the file
    are returned, those that were not asked for too.
    """
    results = read_results(path)
    missing = [each for each in wanted if not any(each.items() <= result.items() for result in results)]

    def result_of(each):
        return each | run(**each)

    with ThreadPoolExecutor(jobs) as pool:
        for result in map(Future.result, as_completed([pool.submit(result_of, each) for each in missing])):
            results.append(result)
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")
            print(json.dumps(result), flush=True)
    return results
