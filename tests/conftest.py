import gc

import pytest
from hub_server import HubServer


# The fixtures import what they need themselves, as most tests need none of it


@pytest.fixture(scope="session", autouse=True)
def frozen_imports():
    """Spares the six collections of garbage of each `Trainer` half a second each, as what was imported is not looked at."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """
    Gives torch one thread, as `run_script` does: models are so small that a second one costs time, and with more threads the
    gradients of LayerNorm are summed in another order.
    """
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def hub():
    """Yields a Hub on loopback, see `hub_server`."""
    with HubServer() as hub:
        yield hub
    assert not [request for request in hub.requests if request.status == 501], "there were requests that the Hub does not know"


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """Returns the folder of the files that tiny runs read."""
    from tiny_runs import make_inputs

    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def log(monkeypatch, caplog):
    """Returns what is logged, which the logger of transformers otherwise keeps from pytest."""
    import transformers

    monkeypatch.setattr(transformers.utils.logging.get_logger("transformers"), "propagate", True)
    return caplog


@pytest.fixture(scope="session")
def finished_run(inputs, tmp_path_factory):
    """Returns the output folder of a run that has ended. Tests copy it before they change it."""
    from tiny_runs import MIDDLE, mlm_arguments

    from transformers_linformer.commands import mlm

    folder = tmp_path_factory.mktemp("finished") / "out"
    mlm.main(mlm_arguments(inputs, folder, *MIDDLE))
    return folder
