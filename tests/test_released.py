"""
Tests that this version loads the checkpoints of every released version, and computes the outputs that were saved with them.

`python tests/test_released.py` writes the checkpoints of the present version. The release command runs it.
"""

import json
import re
from pathlib import Path

import pytest
import torch
from processes import ROOT
from safetensors.torch import load_file, save_file

import modeling_linformer
from configuration_linformer import LinformerConfig
from transformers_linformer import __version__


RELEASED = Path(__file__).parent / "released"

SIZES = {
    "vocab_size": 30,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 24,
    "projected_dim": 6,
    "pad_token_id": 1,
}
# Each head, projection and kind of field at least once
CHECKPOINTS = {
    "linear": ("LinformerForMaskedLM", {}),
    "linear-none": ("LinformerForMultipleChoice", {"projected_dim": [6, 4], "projection_sharing": "none", "block_size": 4}),
    "conv": (
        "LinformerForQuestionAnswering",
        {"projection_type": "conv", "projection_sharing": "headwise"},
    ),
    "mean_pool": (
        "LinformerForTokenClassification",
        {"projection_type": "mean_pool", "block_size": [0, 8], "embedding_size": 6},
    ),
    "max_pool": ("LinformerModel", {"projection_type": "max_pool", "hidden_act": "relu"}),
    "attention_pool": (
        "LinformerForSequenceClassification",
        {
            "projected_dim": 12,
            "projection_type": "attention_pool",
            "block_size": 4,
            "position_period": 8,
            "far_token_limit": 6,
            "classifier_pooling": "mean",
            "num_labels": 3,
        },
    ),
}


def write_checkpoints(folder):
    """Writes each of `CHECKPOINTS`, with random parameters, and beside it inputs and the outputs for them."""
    for name, (model_class, config) in CHECKPOINTS.items():
        generator = torch.Generator().manual_seed(0)
        model = getattr(modeling_linformer, model_class)(LinformerConfig(**SIZES | config)).eval()
        for parameter in model.parameters():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
        model.save_pretrained(folder / name)
        for code in (folder / name).glob("*.py"):
            code.unlink()  # another version loads a checkpoint by its own classes
        input_ids = torch.randint(2, SIZES["vocab_size"], (2, 17), generator=generator)
        inputs = {"input_ids": input_ids, "attention_mask": (torch.arange(17) < torch.tensor([[17], [9]])).long()}
        if model_class == "LinformerForMultipleChoice":
            inputs = {key: tensor.unsqueeze(0) for key, tensor in inputs.items()}
        save_file(inputs, folder / name / "inputs.safetensors")
        with torch.no_grad():
            outputs = model(**inputs)
        save_file({key: tensor.contiguous() for key, tensor in outputs.items()}, folder / name / "outputs.safetensors")


@pytest.mark.parametrize("folder", sorted(RELEASED.glob("*/*")), ids=lambda folder: f"{folder.parent.name}-{folder.name}")
@torch.no_grad()
def test_released_checkpoints_give_their_outputs(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["linformer_version"] == folder.parent.name
    model_class = getattr(modeling_linformer, config["architectures"][0])
    model, info = model_class.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert model.config.linformer_version == folder.parent.name
    outputs, wanted = model(**load_file(folder / "inputs.safetensors")), load_file(folder / "outputs.safetensors")
    assert set(outputs) == set(wanted)
    for name, tensor in wanted.items():
        torch.testing.assert_close(outputs[name], tensor, atol=1e-4, rtol=0)  # other processors round otherwise


def test_every_version_has_checkpoints():
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert versions[0] == __version__
    assert {path.name for path in RELEASED.iterdir()} == set(versions)
    assert {path.name for path in (RELEASED / __version__).iterdir()} == set(CHECKPOINTS)


def test_a_checkpoint_names_the_version_that_saved_it(tmp_path):
    LinformerConfig(linformer_version="0.0.1").save_pretrained(tmp_path)
    assert LinformerConfig.from_pretrained(tmp_path).linformer_version == __version__


if __name__ == "__main__":
    write_checkpoints(RELEASED / __version__)
