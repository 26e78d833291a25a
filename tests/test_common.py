"""
Runs transformers' own common tests, which every model in the library has to pass, on the Linformer and its heads.

These tests are not in the installed package, but only in the source archive of the same release, and nothing of them is
copied into this project. The first run fetches that archive with pip and keeps its tests in a cache folder,
`transformers-linformer` in `$XDG_CACHE_HOME` or `~/.cache`. With neither a connection nor that cache, this module is
skipped.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
import types
import unittest
import warnings
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import pytest
import transformers
from filelock import FileLock
from packaging.version import parse
from transformers.models.auto import modeling_auto
from transformers.testing_utils import torch_device

from configuration_linformer import LinformerConfig
from modeling_linformer import (
    LinformerForMaskedLM,
    LinformerForMultipleChoice,
    LinformerForQuestionAnswering,
    LinformerForSequenceClassification,
    LinformerForTokenClassification,
    LinformerModel,
)


# The tests that the library itself skips, by the reason that it gives. Both are patterns as in a shell. A skip that is not
# listed fails, so that no test is ever skipped unnoticed.
SKIPPED = {
    # The machine lacks something, mostly a GPU. With a GPU fewer tests are skipped.
    "test requires *": [
        "test_can_load_with_device_context_manager",
        "test_can_load_with_global_device_set",
        "test_cpu_offload",
        "test_disk_offload_*",
        "test_flash_attn_*",
        "test_flex_attention_with_grads",
        "test_kernels_can_load_without_crashing",
        "test_model_parallelism",
        "test_resize_*_with_deepspeed*",
        "test_sdpa_can_compile_dynamic",
        "test_sdpa_can_dispatch_on_flash",
        "test_torch_compile_for_training",
    ],
    # These run with RUN_SLOW=1 and a GPU
    "test is slow": [
        "test_flash_attn_*",
        "test_sdpa_can_compile_dynamic",
        "test_sdpa_can_dispatch_on_flash",
        "test_torch_compile_for_training",
    ],
    # This is for causal models
    "*doesn't have the attribute `_torch_compile_train_cls`.": ["test_torch_compile_for_training"],
    # An encoder neither generates nor decodes
    "No decoder-only language modeling head to check": ["test_causal_lm_loss_honors_shift_labels"],
    "No sequence-to-sequence language modeling head to check": ["test_encoder_decoder_loss_no_double_shift"],
    "Do not take a cache as input to forward": ["test_bc_cache_name_forward"],
    # The Linformer is one model with one configuration, and not several models put together
    "Model is not a composite model.": ["test_attn_implementation_composite_models"],
    "This model is not composite": ["test_can_set_attention_dynamically_composite_model"],
    "No subconfigs so the test does not make sense": ["test_internal_model_config_and_subconfig_are_same"],
    # This is how the library says "not composite". `test_sdpa_can_dispatch_non_composite_models` is for the Linformer, and
    # runs.
    "LinformerModel does not support SDPA": ["test_sdpa_can_dispatch_composite_models"],
    # Positions are learned and absolute. Each belongs to a column of E, so their number is fixed.
    "Model does not have position embeddings": ["test_resize_position_vector_embeddings"],
    "This model does not support RoPE scaling": ["test_model_rope_scaling_*"],
    "This model does not have RoPE": ["test_model_rope_with_partial_rotation"],
    "*LinformerModel'> has no axial RoPE layer defined.": ["test_vision_axial_rope"],
    "Model does not support sliding window mask": ["test_sliding_window_mask"],
    # Blocks and projected rows are counted from the left, so a mask that begins with padding is refused
    "A Linformer takes no padding on the left": ["test_eager_matches_sdpa_inference_*pad_left*"],
    # There is no mixture of experts
    "LinformerModel does not support grouped_mm": ["test_eager_matches_batched_and_grouped_inference_*"],
    "This model has no sparse experts.": ["test_moe_models_record_router_logits"],
    "This model has no `output_router_logits` in its config.": ["test_output_router_logits_from_config"],
    # A model may declare these, and the Linformer does not need them: weights that stay in float32, the conversion of
    # checkpoints with an older layout, and a plan to split its matrices over GPUs
    "Linformer* has no _keep_in_fp32_modules *": ["test_keep_in_fp32_modules*"],
    "No `_keep_in_fp32_modules_strict` defined": ["test_keep_in_fp32_modules_strict_also_hardcode_fp32"],
    "No conversion found for *": ["test_can_load_from_already_mapped_keys", "test_reverse_loading_mapping"],
    "Model does not have a TP plan.": ["test_tp_plan_matches_params"],
    "At least some parts of this model do not support flex attention": ["test_flex_attention_with_grads"],
}


# The name under which the library's `tests` are imported
PACKAGE = "transformers_tests"
MODULES = ("test_configuration_common", "test_modeling_common", "test_training_mixin")

# What these modules import from files that the archive lacks. The tests of export and of `generate` are left out. The values
# are those that every configuration has to keep.
STUBS = {
    "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "utils.test_configuration_utils": {
        "config_common_kwargs": {
            "architectures": ["LinformerModel"],
            "chunk_size_feed_forward": 5,
            "dtype": "float16",
            "id2label": {0: "label"},
            "label2id": {"label": 0},
            "output_hidden_states": True,
            "problem_type": "regression",
            "return_dict": False,
        }
    },
}


def library_tests_folder():
    """Returns the folder that holds the package of the library's tests, which the first run for a release fetches."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "transformers-linformer")
    folder = cache / f"tests-{transformers.__version__}"
    cache.mkdir(parents=True, exist_ok=True)
    # All workers of pytest-xdist come here at once. One of them fetches the tests, and the others wait for it.
    with FileLock(cache / "lock"):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=cache) as temporary:
                unpack(download(Path(temporary)), Path(temporary, "tests", PACKAGE))
                # The folder gets its name last, and at once, so that a run that is cut off leaves no part of it
                Path(temporary, "tests").rename(folder)
    return folder


def download(folder):
    """Downloads the source archive of the installed release into the folder, and returns its path."""
    release = f"transformers=={transformers.__version__}"
    # pip asks the archive's setup.py for its name. It need not fetch setuptools for that, as torch depends on it.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--retries", "1", "--timeout", "15"]
    command += ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest", folder, release]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        pytest.skip(
            f"the common tests of {release} are not in the cache, and pip cannot fetch its source archive (is there a"
            f" connection?): {result.stderr.strip().splitlines()[-1]}",
            allow_module_level=True,
        )
    (archive,) = folder.glob("*.tar.gz")
    return archive


def unpack(archive, package):
    """Makes the folder `package`, a Python package with the library's modules of tests."""
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    with tarfile.open(archive) as files:
        for module in MODULES:
            source = files.extractfile(f"transformers-{transformers.__version__}/tests/{module}.py")
            (package / f"{module}.py").write_bytes(source.read())


sys.path.append(str(library_tests_folder()))
for name, contents in STUBS.items():
    stub = types.ModuleType(f"{PACKAGE}.{name}")
    vars(stub).update(contents)
    sys.modules[stub.__name__] = stub
with warnings.catch_warnings():
    # pytest does not know the marks by which the library sorts its tests
    warnings.simplefilter("ignore", pytest.PytestUnknownMarkWarning)
    from transformers_tests.test_configuration_common import ConfigTester
    from transformers_tests.test_modeling_common import ModelTesterMixin, ids_tensor, random_attention_mask
    from transformers_tests.test_training_mixin import TrainingTesterMixin


AUTO_CLASSES = {
    "MODEL": LinformerModel,
    "MODEL_FOR_MASKED_LM": LinformerForMaskedLM,
    "MODEL_FOR_SEQUENCE_CLASSIFICATION": LinformerForSequenceClassification,
    "MODEL_FOR_TOKEN_CLASSIFICATION": LinformerForTokenClassification,
    "MODEL_FOR_QUESTION_ANSWERING": LinformerForQuestionAnswering,
    "MODEL_FOR_MULTIPLE_CHOICE": LinformerForMultipleChoice,
}


@pytest.fixture(autouse=True, scope="module")
def as_in_the_library():
    """Registers the classes, as the tests look up by name which labels a class takes, and keeps the tests off the Hub."""
    with pytest.MonkeyPatch.context() as patch:
        for task, model_class in AUTO_CLASSES.items():
            names = getattr(modeling_auto, f"{task}_MAPPING_NAMES")
            patch.setitem(names, LinformerConfig.model_type, model_class.__name__)
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


class LinformerModelTester:
    """Makes a small configuration and random inputs for it, as the library's tester for BERT does."""

    batch_size = 7
    seq_length = 13
    vocab_size = 99
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    num_labels = 3
    num_choices = 2
    is_training = True
    base_model_class = LinformerModel
    # TrainingTesterMixin trains this class
    causal_lm_class = LinformerForMaskedLM

    def __init__(self, parent, **projection):
        self.parent = parent
        self.projection = {"projected_dim": 5, **projection}
        # Attentions are n by the number of rows, or, with blocks, n by the tokens of a block and that number
        window = self.get_config().windows[0]
        rows = 5 if window is None else -(-self.seq_length // window)
        self.key_length = min(projection.get("block_size", 0), self.seq_length) + rows

    def get_config(self):
        return LinformerConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_labels=self.num_labels,
            intermediate_size=37,
            max_position_embeddings=64,
            pad_token_id=0,
            **self.projection,
        )

    def prepare_config_and_inputs_for_common(self):
        config = self.get_config()
        inputs = {
            # The id of padding is left out, as its embedding gets no gradient
            "input_ids": self.ids(self.vocab_size).clamp(min=config.pad_token_id + 1),
            "token_type_ids": self.ids(config.type_vocab_size),
            "attention_mask": random_attention_mask([self.batch_size, self.seq_length]),
        }
        return config, inputs

    def ids(self, size):
        return ids_tensor([self.batch_size, self.seq_length], size)

    def labels(self, size):
        return ids_tensor([self.batch_size], size)

    def create_and_check_model(self):
        config, inputs = self.prepare_config_and_inputs_for_common()
        model = LinformerModel(config).to(torch_device).eval()
        for names in (["input_ids"], ["input_ids", "token_type_ids"], list(inputs)):
            result = model(**{name: inputs[name] for name in names})
            self.check_shape(result.last_hidden_state, self.batch_size, self.seq_length, self.hidden_size)
            self.check_shape(result.pooler_output, self.batch_size, self.hidden_size)

    def create_and_check_for_masked_lm(self):
        result = self.create_and_run(LinformerForMaskedLM, labels=self.ids(self.vocab_size))
        self.check_shape(result.logits, self.batch_size, self.seq_length, self.vocab_size)

    def create_and_check_for_sequence_classification(self):
        result = self.create_and_run(LinformerForSequenceClassification, labels=self.labels(self.num_labels))
        self.check_shape(result.logits, self.batch_size, self.num_labels)

    def create_and_check_for_token_classification(self):
        result = self.create_and_run(LinformerForTokenClassification, labels=self.ids(self.num_labels))
        self.check_shape(result.logits, self.batch_size, self.seq_length, self.num_labels)

    def create_and_check_for_question_answering(self):
        start, end = self.labels(self.seq_length), self.labels(self.seq_length)
        result = self.create_and_run(LinformerForQuestionAnswering, start_positions=start, end_positions=end)
        self.check_shape(result.start_logits, self.batch_size, self.seq_length)
        self.check_shape(result.end_logits, self.batch_size, self.seq_length)

    def create_and_check_for_multiple_choice(self):
        result = self.create_and_run(LinformerForMultipleChoice, labels=self.labels(self.num_choices))
        self.check_shape(result.logits, self.batch_size, self.num_choices)

    def create_and_run(self, model_class, **labels):
        config, inputs = self.prepare_config_and_inputs_for_common()
        inputs = self.parent._prepare_for_class(inputs, model_class)
        result = model_class(config).to(torch_device).eval()(**inputs, **labels)
        self.check_shape(result.loss)
        self.parent.assertTrue(result.loss.isfinite())
        return result

    def check_shape(self, tensor, *shape):
        self.parent.assertEqual(tuple(tensor.shape), shape)


class LinformerModelTest(ModelTesterMixin, TrainingTesterMixin, unittest.TestCase):
    """Tests the default projection, one learned E = F for all layers and heads."""

    all_model_classes = tuple(AUTO_CLASSES.values())
    model_tester = None
    projection = {}

    def setUp(self):
        self.model_tester = LinformerModelTester(self, **self.projection)
        if "pad_left" in self.id():
            self.skipTest("A Linformer takes no padding on the left")

    def skipTest(self, reason):
        self.check_skip(self.id().rpartition(".")[2], reason)
        super().skipTest(reason)

    def check_skip(self, test, reason):
        for listed_reason, tests in SKIPPED.items():
            if fnmatch(reason, listed_reason) and any(fnmatch(test, pattern) for pattern in tests):
                return
        self.fail(
            f"{test} would be skipped, {reason!r}, and that is not listed. Make it run, or, if it cannot apply to a"
            " Linformer or on this machine, list it in SKIPPED."
        )

    def test_skips_are_listed(self):
        """Checks that skips by a decorator, which never call `skipTest`, are listed, and that all tests on the list exist."""
        if parse(transformers.__version__) < parse("5.24"):
            super().skipTest("the list is that of newer releases, which have other tests")
        for test in dir(self):
            reason = getattr(getattr(self, test), "__unittest_skip_why__", None)
            if reason is not None:
                self.check_skip(test, reason)
        for pattern in sum(SKIPPED.values(), []):
            exists = any(fnmatch(test, pattern) for test in dir(self))
            self.assertTrue(exists, f"SKIPPED lists {pattern!r}, but there is no such test.")

    def test_config(self):
        ConfigTester(self, config_class=LinformerConfig, hidden_size=36).run_common_tests()

    def test_model(self):
        self.model_tester.create_and_check_model()

    def test_for_masked_lm(self):
        self.model_tester.create_and_check_for_masked_lm()

    def test_for_sequence_classification(self):
        self.model_tester.create_and_check_for_sequence_classification()

    def test_for_token_classification(self):
        self.model_tester.create_and_check_for_token_classification()

    def test_for_question_answering(self):
        self.model_tester.create_and_check_for_question_answering()

    def test_for_multiple_choice(self):
        self.model_tester.create_and_check_for_multiple_choice()


@pytest.mark.slow("the two classes without this mark have blocks, rows with and without parameters")
class LinformerMeanPoolTest(LinformerModelTest):
    """Tests a projection without parameters."""

    projection = {"projection_type": "mean_pool", "projected_dim": 16}


class LinformerBlocksTest(LinformerModelTest):
    """Tests blocks and `attention_pool`, which a converted model has. The inputs have more than two blocks."""

    projection = {"projection_type": "attention_pool", "projected_dim": 16, "block_size": 4, "far_token_limit": 6}


@pytest.mark.slow("as above")
class LinformerConvTest(LinformerModelTest):
    """Tests an E and an F per layer, whose windows do not divide the length of the inputs."""

    projection = {"projection_type": "conv", "projection_sharing": "headwise", "projected_dim": 16}
