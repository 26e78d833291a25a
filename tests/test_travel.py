"""Tests that a saved folder carries its code: every Auto class loads it where none of the packages is installed."""

import ast
import builtins
import json
import re
import runpy
import shutil
import sys

import pytest
import torch
import transformers
from packaging.version import parse
from processes import CODE, WITHOUT_PACKAGES, run_python, run_without_packages

import modeling_linformer
from configuration_linformer import LinformerConfig


HEADS = sorted(name for name in modeling_linformer.__all__ if name != "LinformerPreTrainedModel")


# What the code of a checkpoint may use from outside itself. This lists what is allowed, and not what is forbidden, as torch,
# transformers and the builtins have more ways to files, connections and processes than anybody can list (torch.load and
# torch.hub, torch.ops.load_library, transformers.utils.cached_file, ...). A new name belongs here once it is known to
# compute and to do nothing else.
ALLOWED = re.compile(
    r"""
    __all__ | NotImplementedError | ValueError | any | bool | classmethod | dict | dict\.fromkeys | float | getattr | int
    | isinstance | iter | len | list | max | min | next | property | range | set | slice | staticmethod | str | sum | super
    | tuple | zip
    | collections\.abc\.Callable | copy\.copy | dataclasses\.field | functools\.(partial | reduce) | math\.(inf | lcm | log)
    | typing\.NamedTuple | huggingface_hub\.dataclasses\.strict
    | torch\.(BoolTensor | LongTensor | Tensor | arange | as_tensor | autograd\.Function | bmm | bool | cat
        | compiler\.is_compiling | contiguous_format | empty | eye | finfo | float32 | float64 | full | inf | is_grad_enabled
        | long | matmul | no_grad | ones | ones_like | promote_types | special\.entr | tanh | tensor | where | zeros
        | zeros_like)
    | torch\.distributed\.(ReduceOp\.(MAX | MIN | SUM) | all_reduce)
    | torch\.nn\.([A-Z]\w+ | functional\.\w+)
    | transformers\.(
        activations\.(ACT2FN | gelu)
        | configuration_utils\.PreTrainedConfig
        | initialization\.\w+_
        | modeling_layers\.GradientCheckpointingLayer
        | modeling_outputs\.\w+
        | modeling_utils\.(ALL_ATTENTION_FUNCTIONS\.get_interface | PreTrainedModel)
        | processing_utils\.Unpack
        | pytorch_utils\.apply_chunking_to_forward
        | utils\.(TransformersKwargs | auto_docstring)
        | utils\.generic\.(can_return_tuple | maybe_autocast | merge_with_config_defaults)
        | utils\.import_utils\.is_tracing
        | utils\.output_capturing\.capture_outputs
        | utils\.versions\.require_version  # reads the version of an installed package
    )
    | \.\w+\.(?!(torch | nn | init | functools | math | transformers)\b)\w+  # what the code's other files define
    """,
    re.VERBOSE,
)
# The syntax does not tell the types of the code's own objects, so all of their methods are allowed except these
REFUSED = re.compile(r"\w*(eval|exec|file|hub|load|numpy|open|pretrained|read|save|write)\w*|__(?!(post_)?init__)\w+")

# Each folder in argv[1] is named after the head that saved it. Every Auto class loads it, and that head computes its outputs
# again and saves itself in a folder in argv[2].
LOAD_ALL = """
saved, resaved = map(pathlib.Path, sys.argv[1:])
loaded = {}
for folder in sorted(path for path in saved.iterdir() if path.is_dir()):
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    encoders = []
    for auto_class in auto_map:
        try:
            model = getattr(transformers, auto_class).from_pretrained(folder, trust_remote_code=True)
        except Exception as error:
            loaded[f"{folder.name} by {auto_class}"] = f"{type(error).__name__}: {error}"
            continue
        loaded[f"{folder.name} by {auto_class}"] = type(model).__name__
        assert type(model).__module__.startswith("transformers_modules."), type(model)
        if auto_class == "AutoConfig":
            continue
        encoders.append(model.base_model.encoder.state_dict())
        if type(model).__name__ == folder.name:
            inputs = torch.load(saved / f"{folder.name}.inputs.pt")
            with torch.no_grad():
                outputs = model.eval()(**inputs).to_tuple()
            model.save_pretrained(resaved / folder.name)
            torch.save(inputs, resaved / f"{folder.name}.inputs.pt")
            torch.save(outputs, resaved / f"{folder.name}.outputs.pt")
    # Whichever head loads the folder, the encoder has the weights that were saved
    for encoder in encoders:
        assert all(torch.equal(encoder[name], encoders[0][name]) for name in encoders[0])
print(json.dumps(loaded))
"""

# Tries to load each folder in argv[1], and prints the errors. The first one should load, or the others would prove nothing.
LOAD_ONE = """
errors = []
for folder, trust in json.loads(sys.argv[1]):
    try:
        transformers.AutoModel.from_pretrained(folder, trust_remote_code=trust)
        errors.append(None)
    except Exception as error:
        errors.append(f"{type(error).__name__}: {error}")
print(json.dumps(errors))
"""

# Makes of torch what it is if it is built with USE_DISTRIBUTED=0, as far as Python sees: its compiled part lacks what starts
# processes, and a private module cannot be imported. torchao, which transformers would import, needs that.
WITHOUT_DISTRIBUTED = """
import importlib.machinery, sys

class Remover:
    def find_spec(self, name, path=None, target=None):
        if name == "torch._C":
            spec = importlib.machinery.PathFinder.find_spec(name, path)
            execute = spec.loader.exec_module
            spec.loader.exec_module = lambda module: (execute(module), self.remove(module))
            return spec

    def remove(self, module):
        for name in ("_c10d_init", "_rpc_init", "_dist_autograd_init", "_faulty_agent_init"):
            vars(module).pop(name, None)

sys.meta_path.insert(0, Remover())
sys.modules |= dict.fromkeys(("torch.distributed._functional_collectives", "torchao"))
"""


def save(model_class, folder):
    torch.manual_seed(0)
    config = LinformerConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=37,
        max_position_embeddings=24,
        projected_dim=6,
    )
    model = getattr(modeling_linformer, model_class)(config).eval()
    model.save_pretrained(folder)
    return model


def test_every_auto_class_loads_what_any_head_saved(tmp_path):
    saved, resaved, resaved_again = (tmp_path / name for name in ("saved", "resaved", "resaved_again"))
    generator = torch.Generator().manual_seed(1)
    wanted = {}
    for head in HEADS:
        model = save(head, saved / head)
        shape = (2, 3, 9) if head == "LinformerForMultipleChoice" else (2, 9)
        lengths = torch.tensor([9, 4]).view(2, *[1] * (len(shape) - 1))
        inputs = {
            "input_ids": torch.randint(3, 50, shape, generator=generator),
            "attention_mask": (torch.arange(9) < lengths).long().expand(shape),
        }
        torch.save(inputs, saved / f"{head}.inputs.pt")
        with torch.no_grad():
            wanted[head] = model(**inputs).to_tuple()

    for source, target in ((saved, resaved), (resaved, resaved_again)):
        loaded = run_without_packages(LOAD_ALL, tmp_path, source, target)
        auto_map = LinformerConfig().auto_map
        assert loaded == {
            f"{head} by {auto_class}": reference.split(".")[-1] for head in HEADS for auto_class, reference in auto_map.items()
        }
        for head in HEADS:
            outputs = torch.load(target / f"{head}.outputs.pt")
            torch.testing.assert_close(outputs, wanted[head], atol=1e-6, rtol=0)
            assert {path.name for path in (target / head).glob("*.py")} == CODE


def test_a_torch_without_its_distributed_package_loads_every_head(tmp_path):
    script = """
assert not torch.distributed.is_available()
shapes = {}
for folder in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    auto_class = "AutoModel" + folder.name.removeprefix("Linformer").removesuffix("Model")
    model = getattr(transformers, auto_class).from_pretrained(folder, trust_remote_code=True)
    shape = (2, 3, 9) if "Choice" in folder.name else (2, 9)
    shapes[type(model).__name__] = model(input_ids=torch.ones(shape, dtype=torch.long))[0].shape
print(json.dumps(shapes))
"""
    for head in HEADS:
        save(head, tmp_path / "saved" / head)
    shapes = run_python(WITHOUT_DISTRIBUTED + WITHOUT_PACKAGES + script, tmp_path, tmp_path / "saved")
    assert shapes == {
        "LinformerModel": [2, 9, 32],
        "LinformerForMaskedLM": [2, 9, 50],
        "LinformerForSequenceClassification": [2, 2],
        "LinformerForTokenClassification": [2, 9, 2],
        "LinformerForQuestionAnswering": [2, 9],
        "LinformerForMultipleChoice": [2, 3],
    }


def test_it_is_the_folders_code_that_is_loaded(tmp_path):
    folder = tmp_path / "complete"
    save("LinformerForMaskedLM", folder)
    attempts = [(str(folder), True), (str(folder), False)]
    for name in sorted(CODE):
        without = shutil.copytree(folder, tmp_path / f"without_{name.removesuffix('.py')}")
        (without / name).unlink()
        attempts.append((str(without), True))

    loaded, untrusted, *incomplete = run_without_packages(LOAD_ONE, tmp_path, json.dumps(attempts))
    assert loaded is None
    assert "trust_remote_code=True" in untrusted
    for name, error in zip(sorted(CODE), incomplete, strict=True):
        assert error is not None and name in error


@pytest.mark.parametrize("trust_remote_code", [False, True])
def test_installed_and_imported_the_local_classes_are_loaded(tmp_path, trust_remote_code):
    if trust_remote_code and parse(transformers.__version__) < parse("5.5"):
        pytest.skip("transformers 5.4 loads a folder's code wherever it is trusted, whatever classes are registered")
    save("LinformerForMaskedLM", tmp_path)
    for auto_class, reference in LinformerConfig().auto_map.items():
        loaded = getattr(transformers, auto_class).from_pretrained(tmp_path, trust_remote_code=trust_remote_code)
        name = reference.split(".")[-1]
        assert type(loaded) is (LinformerConfig if auto_class == "AutoConfig" else getattr(modeling_linformer, name))


def test_an_older_transformers_is_refused_by_name(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "5.3.0")
    with pytest.raises(ImportError, match="transformers>=5.4.0 is required .* found transformers==5.3.0"):
        runpy.run_path(sys.modules[LinformerConfig.__module__].__file__)


def test_auto_map_names_every_head():
    references = LinformerConfig().auto_map
    assert references.pop("AutoConfig") == "configuration_linformer.LinformerConfig"
    assert sorted(set(references.values())) == [f"modeling_linformer.{head}" for head in HEADS]
    for auto_class in ("AutoModelForTextEncoding", "AutoModelForPreTraining"):  # as those of RoBERTa
        theirs = getattr(transformers, auto_class)._model_mapping[transformers.RobertaConfig].__name__
        assert references[auto_class] == f"modeling_linformer.{theirs.replace('Roberta', 'Linformer')}"


def imported_names(tree):
    """Returns where each imported name comes from, for example `{"nn": "torch.nn"}`."""
    origins = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            origins |= {alias.asname or alias.name: f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            for alias in node.names:
                package = alias.name.partition(".")[0]
                origins[alias.asname or package] = alias.name if alias.asname else package
    return origins


def forbidden(node, origins):
    """Yields what the code at and below the node uses although it may not. `origins` are its `imported_names`."""
    root, attributes = node, []
    while isinstance(root, ast.Attribute):
        attributes.insert(0, root.attr)
        root = root.value
    if isinstance(root, ast.Name) and (root.id in origins or root.id in dir(builtins) or root.id.startswith("__")):
        name = ".".join([origins.get(root.id, root.id), *attributes])
        if not ALLOWED.fullmatch(name):
            yield name
        return
    if isinstance(node, ast.Attribute) and REFUSED.fullmatch(node.attr):
        yield ast.unparse(node)
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and ast.unparse(node.args[0]) != "self":
        name = getattr(node.args[1], "value", None)  # of a constant
        if not isinstance(name, str) or REFUSED.fullmatch(name):
            yield ast.unparse(node)
    if isinstance(node, ast.alias) and node.name == "*":
        yield "*"
    for child in ast.iter_child_nodes(node):
        yield from forbidden(child, origins)


def forbidden_in(code):
    tree = ast.parse(code)
    return list(forbidden(tree, imported_names(tree)))


def test_the_code_needs_torch_and_transformers_only_and_opens_nothing(tmp_path):
    save("LinformerForMaskedLM", tmp_path)
    allowed = {
        "attention.py": {"functools", "math", "torch", "transformers", "."},
        "chunked_inference.py": {"torch", "typing"},
        "input_checks.py": {"torch", "transformers"},
        # huggingface_hub, which `strict` comes from, is a dependency of transformers
        "configuration_linformer.py": {"dataclasses", "huggingface_hub", "math", "transformers"},
        # save_pretrained copies modules that are imported relatively with one dot, but not with more
        "modeling_linformer.py": {"torch", "transformers", "."},
        "projections.py": {"copy", "torch", "transformers", "typing"},
        "sequence_parallel.py": {"torch", "."},
    }
    assert {path.name for path in tmp_path.glob("*.py")} == set(allowed) == CODE
    for name, packages in allowed.items():
        code = (tmp_path / name).read_text()
        imported = {re.match(r"\.+|\w+", origin)[0] for origin in imported_names(ast.parse(code)).values()}
        assert imported <= packages, name
        assert forbidden_in(code) == [], name
        assert forbidden_in(f"{code}\n\nopen('x')\n") == ["open"], name


@pytest.mark.parametrize(
    "planted",
    [
        "open('x')",
        "read = open",
        "eval('1')",
        "exec('1')",
        "compile('1', 'x', 'eval')",
        "__import__('os').system('x')",
        "__builtins__['open']('x')",
        "globals()['torch']",
        "import os\nos.system('x')",
        "import subprocess as s\ns.run('x')",
        "from urllib.request import urlopen\nurlopen('x')",
        "import importlib\nimportlib.import_module('os')",
        "from pathlib import Path\nPath('x').read_text()",
        "import torch\ntorch.load('x')",
        "import torch\ntorch.hub.load('x', 'y')",
        "import torch\ntorch.ops.load_library('x')",
        "import torch\ngetattr(torch, 'lo' + 'ad')('x')",
        "import torch as t\nf = t",
        "from torch import load\nload('x')",
        "from torch import *",
        "from torch import nn\nnn.modules.module.torch.load('x')",
        "from transformers.utils import cached_file\ncached_file('x', 'y')",
        "from transformers import PreTrainedModel\nPreTrainedModel.from_pretrained('x')",
        "self.config.save_pretrained('x')",
        "model.push_to_hub('x')",
        "getattr(model, 'push' + '_to_hub')('x')",
        "getattr(model, 'push_to_hub')('x')",
        "import torch\ngetattr(torch, 'special')",
        "from .projections import torch as t\nt.load('x')",
        "tensor.numpy().tofile('x')",
        "().__class__.__base__.__subclasses__()",
    ],
)
def test_what_would_be_forbidden_in_the_code(planted):
    assert forbidden_in(planted)
