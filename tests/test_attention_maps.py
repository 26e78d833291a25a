"""Tests the attention to tokens that viewers of attention draw."""

import pytest
import torch

from configuration_linformer import LinformerConfig
from configuration_linformer.configuration_linformer import PROJECTION_SHARINGS, PROJECTION_TYPES
from modeling_linformer import LinformerForTokenClassification
from transformers_linformer import token_attentions
from transformers_linformer.errors import UsageError


HEADS = 3


def make_model(**config):
    sizes = {"vocab_size": 40, "num_hidden_layers": 2, "intermediate_size": 20, "max_position_embeddings": 24}
    config = {"hidden_size": 4 * HEADS, "num_attention_heads": HEADS, "projected_dim": 6, **sizes, **config}
    model = LinformerForTokenClassification(LinformerConfig(**config)).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model


def make_inputs(length):
    ids = torch.randint(2, 40, (2, length), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": (torch.arange(length) < torch.tensor([[length], [(length + 1) // 2]])).long()}


def attend(model, inputs):
    """Returns for each layer the values, (b, h, n', d / h), and the outputs of its attention, (b, h, n', d / h)."""
    layers = []

    def record(module, args, output):
        layers.append([module.split_heads(each).transpose(1, 2) for each in (module.value(args[0]), output[0])])

    handles = [layer.attention.self.register_forward_hook(record) for layer in model.base_model.encoder.layer]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return layers


@pytest.mark.parametrize("length", [1, 4, 13, 24])
@pytest.mark.parametrize("block_size", [0, 8, [2, 24]])
@pytest.mark.parametrize(
    "projection",
    [
        {"projection_type": "linear", "projection_sharing": "headwise"},
        *({"projection_type": "conv", "projection_sharing": name} for name in PROJECTION_SHARINGS if name != "headwise"),
        {"projection_type": "linear", "projection_sharing": "none"},
        {"projection_type": "mean_pool"},
        # With one feature per head, the maxima are those of single tokens
        {"projection_type": "max_pool", "hidden_size": HEADS},
        {"projection_type": "attention_pool"},
        {"projection_type": "attention_pool", "far_token_limit": 7},
        {"projection_type": "attention_pool", "num_global_tokens": 8},
        {"projection_type": "max_pool", "hidden_size": HEADS, "num_global_tokens": 4},
    ],
    ids=lambda config: "-".join(map(str, config.values())),
)
def test_the_product_with_the_values_is_the_output(projection, block_size, length):
    if "far_token_limit" in projection and block_size != 8:
        pytest.skip("a limit needs blocks in every layer")
    model, inputs = make_model(block_size=block_size, **projection), make_inputs(length)
    is_token = inputs["attention_mask"].bool()
    attentions = token_attentions(model, **inputs)
    for attention, (value, output) in zip(attentions, attend(model, inputs), strict=True):
        assert attention.shape == (2, HEADS, length, length)
        torch.testing.assert_close(attention @ value, output, atol=1e-5, rtol=1e-5)
        for row, of_row in enumerate(attention):  # no token attends to padding
            assert not of_row[:, is_token[row]][..., ~is_token[row]].any()


@pytest.mark.parametrize("block_size", [0, 8])
@pytest.mark.parametrize("projection_type", [name for name in PROJECTION_TYPES if name.endswith("pool")])
def test_the_weights_of_a_pooling_sum_to_one(projection_type, block_size):
    model = make_model(projection_type=projection_type, block_size=block_size)
    for attention in token_attentions(model, **make_inputs(23)):
        torch.testing.assert_close(attention.sum(-1), torch.ones(2, HEADS, 23))
        assert (attention >= 0).all()


def test_the_model_is_left_as_it_was():
    model = make_model()
    model.set_attn_implementation("sdpa")
    token_attentions(model, **make_inputs(9))
    assert model.config._attn_implementation == "sdpa"
    assert not any(layer._forward_pre_hooks for layer in model.base_model.encoder.layer)


def test_parts_of_a_sequence_are_refused():
    model = make_model()
    model.base_model.sequence_mesh = "a mesh"
    with pytest.raises(UsageError, match="complete sequences"):
        token_attentions(model, **make_inputs(9))
