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
"""Many runs of the project's scripts, of which each finished one is kept as a line of a file and never run again."""

import json
import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path


ROOT = Path(__file__).parent.parent


def run_script(script, arguments, folder, jobs):
    """Runs a script, one of `jobs` that share the cores, with its log in the folder. Gives its peak memory in GiB."""
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    folder.mkdir(parents=True, exist_ok=True)
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    with open(folder / "log.txt", "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={"OMP_NUM_THREADS": threads} | os.environ)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{script} ended with {process.returncode}: see {folder / 'log.txt'}")
    return usage.ru_maxrss / 2**20


def read_results(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def run_missing(wanted, run, path, jobs):
    """
    All results: those in the file, and, for each of the `wanted` dictionaries that no line of it begins with, that
    dictionary and what `run(**each)` gives, which becomes a line of the file as soon as it is there.
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
