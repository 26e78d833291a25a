"""
Transformers' own common tests, those that each model in the library has to pass, run on the Linformer and its heads.

They are not in the installed package, only in the source archive of the same release, and nothing of them is copied into
this project: the first run fetches that archive from the package index and keeps its tests in a cache folder
(`$XDG_CACHE_HOME/transformers-linformer`). Without a connection and without that cache, this module is skipped.
"""

import functools
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import types
import unittest
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from filelock import FileLock
from transformers.models.auto import modeling_auto

from configuration_linformer import LinformerConfig
from modeling_linformer import (
    LinformerForMaskedLM,
    LinformerForMultipleChoice,
    LinformerForQuestionAnswering,
    LinformerForSequenceClassification,
    LinformerForTokenClassification,
    LinformerModel,
)


# The name under which the library's `tests/` is imported, away from this project's own
torch.set_num_threads(1)
PACKAGE = "transformers_tests"
MODULES = ("test_configuration_common", "test_modeling_common", "test_training_mixin")


def fetch_library_tests():
    """The folder that holds the package of the library's tests, fetched once a release."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "transformers-linformer"
    folder = cache / f"tests-{transformers.__version__}"
    cache.mkdir(parents=True, exist_ok=True)
    # pytest-xdist's workers all come here at the same time: one fetches, the others wait for it
    with FileLock(cache / "lock"), tempfile.TemporaryDirectory(dir=cache) as temporary:
        if not folder.exists():
            archive = download_archive(Path(temporary))
            package = Path(temporary, "unpacked", PACKAGE)
            package.mkdir(parents=True)
            package.joinpath("__init__.py").touch()
            root = f"transformers-{transformers.__version__}"
            with tarfile.open(archive) as files:
                for module in MODULES:
                    with files.extractfile(f"{root}/tests/{module}.py") as source:
                        package.joinpath(f"{module}.py").write_bytes(source.read())
            # The last step, so that a fetch that was cut off leaves nothing that looks whole
            os.rename(package.parent, folder)
    return folder


def download_archive(folder):
    release = f"transformers=={transformers.__version__}"
    # pip runs the archive's setup.py to learn its name and version. --no-build-isolation lets it use the setuptools that
    # torch has installed, instead of fetching one more.
    command = [sys.executable, "-m", "pip", "download", release, "--no-deps", "--no-binary", ":all:"]
    command += ["--no-build-isolation", "--no-cache-dir", "--quiet", "--retries", "1", "--timeout", "15"]
    result = subprocess.run([*command, "--dest", folder], capture_output=True, text=True)
    if result.returncode:
        pytest.skip(
            f"The common tests of {release} are in its source archive, which is neither in the cache nor to be had:"
            f" {result.stderr.strip()}",
            allow_module_level=True,
        )
    (archive,) = folder.glob("*.tar.gz")
    return archive


# What the tests import from files that the archive lacks: the tests of export and of `generate`, and values that each
# configuration has to keep
STUBS = {
    "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "utils.test_configuration_utils": {
        "config_common_kwargs": {
            "return_dict": False,
            "output_hidden_states": True,
            "dtype": "float16",
            "chunk_size_feed_forward": 5,
            "architectures": ["LinformerModel"],
            "id2label": {0: "label"},
            "label2id": {"label": 0},
            "problem_type": "regression",
        }
    },
}
for name, contents in STUBS.items():
    module = types.ModuleType(f"{PACKAGE}.{name}")
    vars(module).update(contents)
    sys.modules[module.__name__] = module

sys.path.insert(0, str(fetch_library_tests()))
from transformers_tests.test_configuration_common import ConfigTester  # noqa: E402
from transformers_tests.test_modeling_common import ModelTesterMixin, ids_tensor, random_attention_mask  # noqa: E402
from transformers_tests.test_training_mixin import TrainingTesterMixin  # noqa: E402
class LinformerModelTester:
    """Small configurations and random inputs, in the manner of the library's own model testers."""

    batch_size = 13
    seq_length = 13
    num_hidden_layers = 2
    num_attention_heads = 4
    hidden_size = 32
    vocab_size = 99
    num_labels = 3
    num_choices = 4
    is_training = True
    base_model_class = LinformerModel
    # What TrainingTesterMixin is to train
    causal_lm_class = LinformerForMaskedLM

    def __init__(self, parent, projected_dim=5, **config):
        self.parent = parent
        self.config = {"projected_dim": projected_dim, **config}
        # The attentions are n by k
        self.key_length = projected_dim

    def get_config(self):
        return LinformerConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=37,
            max_position_embeddings=64,
            hidden_dropout_prob=0.1,
            pad_token_id=0,
            num_labels=self.num_labels,
            **self.config,
        )

    def prepare_config_and_inputs_for_common(self):
        shape = (self.batch_size, self.seq_length)
        config = self.get_config()
        return config, {
            # Without the padding id, whose embedding is not trained
            "input_ids": ids_tensor(shape, self.vocab_size).clamp(min=config.pad_token_id + 1),
            "token_type_ids": ids_tensor(shape, config.type_vocab_size),
            "attention_mask": random_attention_mask(shape),
        }


AUTO_CLASSES = {
    "MODEL": LinformerModel,
    "MODEL_FOR_MASKED_LM": LinformerForMaskedLM,
    "MODEL_FOR_SEQUENCE_CLASSIFICATION": LinformerForSequenceClassification,
    "MODEL_FOR_TOKEN_CLASSIFICATION": LinformerForTokenClassification,
    "MODEL_FOR_QUESTION_ANSWERING": LinformerForQuestionAnswering,
    "MODEL_FOR_MULTIPLE_CHOICE": LinformerForMultipleChoice,
}

@pytest.fixture(autouse=True, scope="module")
def inside_the_library():
    """The common tests look up by name which classes take which labels; and none may ask the Hub for anything."""
    with pytest.MonkeyPatch.context() as patch:
        for task, model_class in AUTO_CLASSES.items():
            names = getattr(modeling_auto, f"{task}_MAPPING_NAMES")
            patch.setitem(names, LinformerConfig.model_type, model_class.__name__)
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


class LinformerModelTest(ModelTesterMixin, TrainingTesterMixin, unittest.TestCase):
    all_model_classes = tuple(AUTO_CLASSES.values())
    model_tester = None
    projection = {}

    def setUp(self):
        self.model_tester = LinformerModelTester(self, **self.projection)

    def test_config(self):
        ConfigTester(self, config_class=LinformerConfig, hidden_size=36).run_common_tests()

class LinformerMeanPoolTest(LinformerModelTest):
    projection = {"projection_type": "mean_pool"}

class LinformerConvTest(LinformerModelTest):
    projection = {"projection_type": "conv", "projection_sharing": "headwise", "projected_dim": 16}
