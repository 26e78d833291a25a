"""
Tests that processes that share sequences compute what one process computes.

The processes that `sequence_worker.py` starts compare.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from processes import ROOT, offline


WORKER = Path(__file__).parent / "sequence_worker.py"


def run_workers(tmp_path, *arguments):
    environment = offline(tmp_path / "hf") | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, str(WORKER), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module", params=[pytest.param(2, marks=pytest.mark.slow("four processes have all that two have")), 4])
def found(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"processes-{request.param}")
    process = run_workers(folder, folder / "found.json", request.param)
    assert process.returncode == 0, process.stderr
    return json.loads((folder / "found.json").read_text())


def test_outputs_losses_and_gradients_are_those_of_one_process(found, subtests):
    compared = {name: far for name, far in found.items() if isinstance(far, dict) and "outputs" in far}
    assert len(compared) > 50
    for name, far in compared.items():
        with subtests.test(name):
            # in float64, except for the losses of tokens, which transformers computes in float32
            assert far["outputs"] < 1e-6
            assert far["gradients"] < 1e-9


def test_together_with_data_parallelism(found):
    if "data_parallel" not in found:
        pytest.skip("two replicas of two processes each need four")
    assert found["data_parallel"] < 1e-12


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("fewer tokens than processes", "is 1 tokens long, too few tokens for each of the"),
        (
            "fewer blocks than processes",
            "is 5 tokens long, too few parts of 5 tokens (whole blocks and windows) for each of the",
        ),
        (
            "a part that is not of whole blocks",
            "but each part except the last must consist of complete blocks and windows, a multiple of 5 tokens",
        ),
        ("no tokens", "the one of rank 1 has no token of it: the parts are [3, 0"),
        ("too long", "tokens long, but this model reads at most `max_position_embeddings` = 32"),
        ("dimensions", "`mesh` must have one dimension, got 2"),
    ],
)
def test_refusals(found, case, message):
    assert message in found["refusals"][case]


def test_a_process_that_dies_ends_the_others(tmp_path):
    process = run_workers(tmp_path, tmp_path / "found.json", 2, "--die")
    assert process.returncode == 1
    assert "process 1 terminated with exit code 9" in process.stderr
    assert not (tmp_path / "found.json").exists()
