"""Scripts in fresh Python processes, as on another machine."""

import json
import os
import subprocess
import sys
import tempfile
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
