"""Tests the release command, in a clone in which the long steps, all tests and the wheel, do nothing."""

import datetime
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from processes import ROOT

from transformers_linformer import __version__


@pytest.fixture
def git(tmp_path):
    """Returns a function that runs git, and returns its output, in a repository of the present files of the checkout."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    clone = tmp_path / "clone"

    def run(*command):
        return subprocess.run(["git", *command], cwd=clone, check=True, capture_output=True, text=True).stdout

    files = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(files, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines():
        if (ROOT / name).exists():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    for step in ("nightly", "wheel"):
        (clone / ".ci" / step).write_text(f"#!/bin/sh\necho {step} >> .git/steps\n")
    python = clone / ".venv-ci" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    run("init", "--quiet", "--initial-branch=main")
    run("config", "user.name", "name")
    run("config", "user.email", "name@example.org")
    run("add", "--all")
    run("commit", "--quiet", "--message", "All files")
    run.folder = clone
    return run


def release(git):
    return subprocess.run([git.folder / ".ci" / "release"], capture_output=True, text=True)


def test_a_release_is_tested_dated_and_tagged(git):
    changelog = git.folder / "CHANGELOG.md"
    heading = f"## {__version__} (not released yet)"
    text = changelog.read_text(encoding="utf-8")
    changelog.write_text(re.sub("^## .*$", heading, text, count=1, flags=re.M), encoding="utf-8")
    shutil.rmtree(git.folder / "tests" / "released")
    git("commit", "--quiet", "--all", "--message", "Announce the version")
    process = release(git)
    assert process.returncode == 0, process.stderr
    assert process.stdout.endswith(f"git push origin main v{__version__}\n")
    assert (git.folder / ".git" / "steps").read_text().split() == ["nightly", "wheel"]
    today = datetime.date.today().isoformat()
    assert f"## {__version__} ({today})" in git("show", f"v{__version__}:CHANGELOG.md").splitlines()
    assert f"tests/released/{__version__}/linear/model.safetensors" in git("ls-tree", "-r", "--name-only", "HEAD").splitlines()
    assert git("status", "--porcelain") == ""
    assert "is released" in release(git).stderr


@pytest.mark.parametrize("case", ["changes", "branch", "changelog"])
def test_what_cannot_be_released(git, case):
    changelog = git.folder / "CHANGELOG.md"
    if case == "branch":
        git("checkout", "--quiet", "-b", "feature")
    else:
        changelog.write_text("# Changelog\n", encoding="utf-8")
    if case == "changelog":
        git("commit", "--quiet", "--all", "--message", "Nothing is announced")
    process = release(git)
    assert process.returncode == 1
    message = {"changes": "not committed", "branch": "and this is 'feature'", "changelog": "has no section"}[case]
    assert message in process.stderr and len(process.stderr.splitlines()) == 1
    assert git("tag") == "" and not (git.folder / ".git" / "steps").exists()


def test_the_pushed_tag_starts_the_workflow():
    path = ROOT / ".github" / "workflows" / "release.yml"
    if not path.exists():
        pytest.skip("needs a git checkout")
    workflow = yaml.safe_load(path.read_text())
    assert workflow[True]["push"]["tags"] == ["v*"]  # YAML takes the key `on` for a boolean
    build, publish = workflow["jobs"]["build"], workflow["jobs"]["publish"]
    assert {"run": ".ci/wheel"} in build["steps"]
    assert publish["needs"] == "build" and publish["permissions"] == {"id-token": "write"}
