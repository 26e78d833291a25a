"""Runs code and the project's commands in fresh Python processes, as on another machine."""

import gc
import importlib
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.multiprocessing import start_processes


ROOT = Path(__file__).parent.parent
# The files that travel with each checkpoint
CODE = {
    "attention.py",
    "chunked_inference.py",
    "input_checks.py",
    "configuration_linformer.py",
    "modeling_linformer.py",
    "projections.py",
    "sequence_parallel.py",
}

# After this code none of the packages can be imported, whatever is installed. The copies that come with a checkpoint can
# be: their names are `transformers_modules.<folder>.modeling_linformer`.
WITHOUT_PACKAGES = """
import importlib, json, pathlib, sys

PACKAGES = ("configuration_linformer", "modeling_linformer", "transformers_linformer")

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in PACKAGES:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocker())
for package in PACKAGES:
    try:
        importlib.import_module(package)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{package} can be imported")

import torch, transformers
"""

# What all forks share, see `run_in_forks`
multiprocessing.set_forkserver_preload(["transformers_linformer.commands.mlm", "transformers_linformer.commands.glue"])


def offline(home):
    """Returns the environment of a process that does not ask the Hub and keeps its cache in the folder `home`."""
    caches = ("HF_MODULES_CACHE", "HF_HUB_CACHE", "TRANSFORMERS_CACHE")
    kept = {name: value for name, value in os.environ.items() if name not in caches}
    return kept | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home)}


def launcher(processes):
    """Returns what stands between `python` and a command to run it in this many processes."""
    # accelerate's --cpu starts several processes only by MPI. Its --multi_gpu starts them by torchrun, and --use_cpu among
    # the command's own arguments keeps them off any GPU.
    options = ("-m", "accelerate.commands.launch", "--multi_gpu", f"--num_processes={processes}", "--num_machines=1")
    return *options, "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"


def script_process(tmp_path, script, arguments, launcher=()):
    """
    Returns the command line, and the options of `subprocess`, that run one of the project's commands as a user does.

    `script` is a file of the checkout, such as `run_mlm.py`, or the name of a module in `transformers_linformer.commands`.
    """
    # accelerate's launcher takes -m for a module as Python does
    program = [str(ROOT / script)] if script.endswith(".py") else ["-m", f"transformers_linformer.commands.{script}"]
    environment = offline(tmp_path / "hf") | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return [sys.executable, *launcher, *program, *arguments], {"env": environment, "cwd": tmp_path}


def run_script(tmp_path, script, arguments, launcher=()):
    """Runs a command to its end, and returns the `CompletedProcess` with its output as text."""
    command, options = script_process(tmp_path, script, arguments, launcher)
    return subprocess.run(command, capture_output=True, text=True, **options)


def run_in_forks(tmp_path, command, arguments, processes):
    """
    Runs a command in several processes, and returns what they print and log.

    They are forks of one process that has imported what they need, so that they take a third of the time of `launcher`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = Path(tempfile.mkdtemp(dir=tmp_path)) / "log.txt"
    start_processes(in_fork, (command, arguments, processes, port, log), processes, start_method="forkserver")
    return log.read_text(encoding="utf-8")


def in_fork(rank, command, arguments, processes, port, log):
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    os.environ.update({name: str(value) for name, value in ranks.items()}, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    torch.set_num_threads(1)
    gc.freeze()  # as in conftest.py
    importlib.import_module(f"transformers_linformer.commands.{command}").main(arguments)


def kill_script(tmp_path, script, arguments, checkpoint):
    """Starts a command and kills it as soon as it begins to write the checkpoint, of which it may leave only a part."""
    command, options = script_process(tmp_path, script, arguments)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    while not checkpoint.exists():
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()


def output_of(script, tmp_path, *arguments, environment=offline):
    """Returns what the script prints. It runs in a fresh process, in an empty folder, with an empty cache."""
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    (folder / "empty").mkdir()
    process = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=folder / "empty",
        env=environment(folder / "cache") | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def run_python(*args, **kwargs):
    """Returns the JSON that a script prints last, see `output_of`."""
    return json.loads(output_of(*args, **kwargs).splitlines()[-1])


def run_without_packages(script, tmp_path, *arguments, **options):
    """Does what `run_python` does, in a process that can import none of the packages."""
    return run_python(WITHOUT_PACKAGES + script, tmp_path, *arguments, **options)
