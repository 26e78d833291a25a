"""A saved folder carries its code: it loads where neither package is installed, under every Auto class."""

import ast
import json
import shutil

import pytest
import torch
import transformers
from processes import run_without_packages

import modeling_linformer
from configuration_linformer import LinformerConfig


HEADS = sorted(name for name in modeling_linformer.__all__ if name != "LinformerPreTrainedModel")
CODE = {"configuration_linformer.py", "modeling_linformer.py"}

# Each folder in argv[1] is named after the head that saved it. Every Auto class loads it; the head that saved it
# computes its outputs again and saves itself under argv[2].
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
    # Whichever head loads it, the encoder's weights are the saved ones
    for encoder in encoders:
        assert all(torch.equal(encoder[name], encoders[0][name]) for name in encoders[0])
print(json.dumps(loaded))
"""

# Tries each folder in argv, and prints the errors. The first should load, or the others would prove nothing.
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
            f"{head} by {auto_class}": reference.split(".")[-1]
            for head in HEADS
            for auto_class, reference in auto_map.items()
        }
        for head in HEADS:
            outputs = torch.load(target / f"{head}.outputs.pt")
            torch.testing.assert_close(outputs, wanted[head], atol=1e-6, rtol=0)
            assert {path.name for path in (target / head).glob("*.py")} == CODE


def test_it_is_the_folders_code_that_is_loaded(tmp_path):
    folder = tmp_path / "whole"
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
    save("LinformerForMaskedLM", tmp_path)
    for auto_class, reference in LinformerConfig().auto_map.items():
        loaded = getattr(transformers, auto_class).from_pretrained(tmp_path, trust_remote_code=trust_remote_code)
        name = reference.split(".")[-1]
        assert type(loaded) is (LinformerConfig if auto_class == "AutoConfig" else getattr(modeling_linformer, name))


def test_auto_map_names_every_head():
    references = LinformerConfig().auto_map
    assert references.pop("AutoConfig") == "configuration_linformer.LinformerConfig"
    assert sorted(references.values()) == [f"modeling_linformer.{head}" for head in HEADS]


def test_the_code_needs_torch_and_transformers_only(tmp_path):
    save("LinformerForMaskedLM", tmp_path)
    allowed = {
        # huggingface_hub is a dependency of transformers, and the home of `strict`
        "configuration_linformer.py": {"dataclasses", "huggingface_hub", "transformers"},
        "modeling_linformer.py": {"collections", "torch", "transformers", "."},
    }
    assert {path.name for path in tmp_path.glob("*.py")} == set(allowed) == CODE
    for name, packages in allowed.items():
        imported = set()
        for node in ast.walk(ast.parse((tmp_path / name).read_text())):
            if isinstance(node, ast.Import):
                imported.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                # Relative imports travel with one dot only
                imported.add("." * node.level or node.module.partition(".")[0])
        assert imported <= packages, name
