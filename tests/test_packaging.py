"""The wheel and the source distribution hold what they should, and the commands of the wheel run."""

import configparser
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from processes import ROOT, offline

from configuration_linformer import configuration_linformer


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Builds both, and returns the folder of the unpacked wheel and the names of the files in the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "wheel")
    with tarfile.open(next(folder.glob("*.tar.gz"))) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    return folder / "wheel", names


def test_the_wheel_holds_every_module(distributions):
    wheel, _ = distributions
    packages = ("configuration_linformer", "modeling_linformer", "transformers_linformer")
    wanted = {path.relative_to(ROOT) for package in packages for path in (ROOT / package).rglob("*.py")}
    assert {path.relative_to(wheel) for path in wheel.rglob("*.py")} == wanted
    assert (wheel / "transformers_linformer" / "py.typed").exists()


def test_the_wheel_runs_its_commands(distributions, tmp_path):
    wheel, _ = distributions
    (points,) = wheel.glob("*.dist-info/entry_points.txt")
    modules = [line.partition(" = ")[2] for line in points.read_text().splitlines() if " = " in line]
    assert len(modules) == len(list((ROOT / "transformers_linformer" / "commands").glob("*.py"))) - 1  # __init__
    script = """
import importlib, json, sys
sys.argv = ["command", "--help"]
status = {}
for point in json.loads(sys.stdin.read()):
    module, _, function = point.partition(":")
    module = importlib.import_module(module)
    try:
        getattr(module, function)()
    except SystemExit as error:
        status[module.__file__] = error.code
print(json.dumps(status))
"""
    options = {"env": offline(tmp_path / "hf") | {"PYTHONPATH": str(wheel)}, "cwd": tmp_path}
    process = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps(modules), capture_output=True, text=True, **options
    )
    assert process.returncode == 0, process.stderr
    status = json.loads(process.stdout.splitlines()[-1])
    assert len(status) == len(modules) and set(status.values()) == {0}
    assert all(path.startswith(str(wheel)) for path in status)


def test_the_source_distribution_runs_its_tests(distributions):
    _, names = distributions
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if files.returncode:
        pytest.skip("needs a git checkout, which lists the project's files")
    wanted = {name for name in files.stdout.splitlines() if (ROOT / name).exists() and not name.startswith(".")}
    assert wanted <= names


def test_a_checkpoint_demands_no_newer_transformers_than_the_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    requirements = map(Requirement, setup["options"]["install_requires"].split())
    (floor,) = [each.specifier for each in requirements if each.name == "transformers"]
    (demanded,) = re.findall(r'require_version\("transformers>=([\d.]+)"', Path(configuration_linformer.__file__).read_text())
    assert Version(str(floor).removeprefix(">=")) >= Version(demanded)
