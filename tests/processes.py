"""Scripts in fresh Python processes, as on another machine."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


ROOT = Path(__file__).parent.parent

# After this neither package can be imported, whatever is installed. The copies that come with a checkpoint stay free:
# they are `transformers_modules.<folder>.modeling_linformer`.
WITHOUT_PACKAGES = """
import importlib, json, pathlib, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("configuration_linformer", "modeling_linformer"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocker())
for package in ("configuration_linformer", "modeling_linformer"):
    try:
        importlib.import_module(package)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{package} can be imported")

import torch, transformers
"""


def offline(home):
    """The environment of a process without the Hub, that keeps its cache in the folder `home`."""
    caches = ("HF_MODULES_CACHE", "HF_HUB_CACHE", "TRANSFORMERS_CACHE")
    kept = {name: value for name, value in os.environ.items() if name not in caches}
    return kept | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home)}


# accelerate's --cpu starts one process, or several by MPI alone; its --multi_gpu launcher is torchrun, and the scripts'
# --use_cpu keeps them off any GPU
def launcher(processes):
    command = ("-m", "accelerate.commands.launch", "--multi_gpu", f"--num_processes={processes}", "--num_machines=1")
    return *command, "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"


def script_process(tmp_path, script, arguments, launcher=()):
    """The command, and the options of `subprocess`, that run one of the project's scripts as a user does."""
    command = [sys.executable, *launcher, str(ROOT / script), *arguments]
    return command, {"env": offline(tmp_path / "hf") | {"OMP_NUM_THREADS": "1"}, "cwd": tmp_path}


def run_script(tmp_path, script, arguments, launcher=()):
    command, options = script_process(tmp_path, script, arguments, launcher)
    return subprocess.run(command, capture_output=True, text=True, **options)


def kill_script(tmp_path, script, arguments, checkpoint):
    """Starts a script, and kills it as soon as it has begun to write the checkpoint, which may be half written then."""
    command, options = script_process(tmp_path, script, arguments)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    while not checkpoint.exists():
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()


def run_python(script, tmp_path, *arguments, environment=offline):
    """The JSON that the script prints last, run in a fresh process, in an empty folder, with an empty cache."""
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
    return json.loads(process.stdout.splitlines()[-1])


def run_without_packages(script, tmp_path, *arguments, **options):
    """`run_python`, where neither package can be imported."""
    return run_python(WITHOUT_PACKAGES + script, tmp_path, *arguments, **options)
