"""Tests tools that are used with a model: LoRA adapters, quantisation to 8 bits, and weights that are kept off the device."""

import copy

import pytest
import torch
from accelerate import cpu_offload
from torch import nn
from transformers import BitsAndBytesConfig

from configuration_linformer import LinformerConfig
from modeling_linformer import LinformerModel


# The models are so small that a second thread costs more time than it saves
torch.set_num_threads(1)

PAD, N, K, BLOCK = 1, 24, 6, 5

# The kernels of quantised layers take these hidden sizes
SIZES = {
    "vocab_size": 50,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": N,
    "projected_dim": K,
    "pad_token_id": PAD,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}

CONFIGS = [
    {"projection_type": name, "block_size": size}
    for name in ("linear", "conv", "mean_pool", "max_pool", "attention_pool")
    for size in (0, BLOCK)
]
# With one E per head, keys and values are computed for all tokens, and not for the projected rows alone
CONFIGS += [{"projection_type": "linear", "block_size": size, "projection_sharing": "none"} for size in (0, BLOCK)]
# In chunks of a long input, attention_pool gets the matrices of the modules by applying the modules to an identity matrix
LONG = {"max_position_embeddings": 600, "inference_chunk_size": 64}
CONFIGS += [{"projection_type": "attention_pool", "block_size": BLOCK, **LONG}]
configs = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: "-".join(map(str, config.values())))

ADAPTED = ("query", "key", "value")

# This warning comes from within peft
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def make_model(**config):
    """
    Returns a model in which every parameter is random, as the biases of a new model are zero, which would hide a lost bias.

    Matrices keep the scale of their inputs, as trained matrices do, because the softmax magnifies the errors of very large
    scores.
    """
    model = LinformerModel(LinformerConfig(**{**SIZES, **config}), add_pooling_layer=False).eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        scale = 0.5 if parameter.dim() == 1 else parameter.shape[-1] ** -0.5
        values = scale * torch.randn(parameter.shape, generator=generator) + name.endswith("LayerNorm.weight")
        parameter.data.copy_(values)
    return model


def hidden_states(model):
    """Returns those of two sequences, one of which is padded. Blocks and windows divide neither of the lengths."""
    length = model.config.max_position_embeddings - 1
    ids = torch.randint(PAD + 1, SIZES["vocab_size"], (2, length), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(length) < torch.tensor([[length], [13]])
    return model(ids.masked_fill(~mask, PAD), attention_mask=mask.long()).last_hidden_state


# --- LoRA ---


def make_adapted(model):
    """Returns `model` with random LoRA adapters, as new ones have B = 0, and change nothing."""
    peft = pytest.importorskip("peft", reason="LoRA adapters are peft's")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=list(ADAPTED)))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return adapted


def adapter_parameters(adapted, module):
    parameters = [p for name, p in adapted.named_parameters() if f".{module}.lora_" in name]
    assert len(parameters) == 2 * SIZES["num_hidden_layers"]  # A and B of each layer
    return parameters


@pytest.mark.parametrize("module", ADAPTED)
@configs
@torch.no_grad()
def test_each_lora_adapter_acts(config, module):
    model = make_model(**config)
    before = hidden_states(model)
    adapted = make_adapted(model)
    for other in set(ADAPTED) - {module}:
        for parameter in adapter_parameters(adapted, other):
            parameter.zero_()
    assert (hidden_states(adapted) - before).abs().max() > 0.01


@configs
@torch.no_grad()
def test_a_merged_lora_equals_the_adapted_model(config):
    adapted = make_adapted(make_model(**config))
    before = hidden_states(adapted)
    merged = adapted.merge_and_unload()
    assert not any("lora" in name for name, _ in merged.named_parameters())
    torch.testing.assert_close(hidden_states(merged), before, atol=1e-5, rtol=0)


@configs
def test_gradients_reach_each_lora_adapter(config):
    adapted = make_adapted(make_model(**config))
    states = hidden_states(adapted)
    (states * torch.randn(states.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    for module in ADAPTED:
        for parameter in adapter_parameters(adapted, module):
            assert parameter.grad.abs().max() > 0.01


@configs
@torch.no_grad()
def test_a_lora_adapter_can_be_saved_and_loaded(config, tmp_path):
    peft = pytest.importorskip("peft", reason="LoRA adapters are peft's")
    model = make_model(**config)
    adapted = make_adapted(copy.deepcopy(model))
    adapted.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(model, tmp_path)
    torch.testing.assert_close(hidden_states(loaded), hidden_states(adapted), atol=1e-5, rtol=0)


# --- 8 bits ---


def quantize_by_torchao(model, folder):
    """Quantises the weights to 8 bits."""
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    return model


def quantize_by_bitsandbytes(model, folder):
    """Quantises weights and inputs to 8 bits."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed, or has no kernels for this machine")
    model.save_pretrained(folder)
    config = BitsAndBytesConfig(load_in_8bit=True)
    return LinformerModel.from_pretrained(folder, add_pooling_layer=False, quantization_config=config, device_map="cpu")


def quantize_by_torch(model, folder):
    """Quantises weights and inputs to 8 bits, with one scale per matrix."""
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


# A number of 8 bits is off by up to 1/254 of the largest number that shares its scale. Where the largest of 64 numbers is 2.5
# times as large as a typical one, that is 0.6 % of the typical one in the root mean square. Through two layers this grows to
# 1 % for weights alone, to 1.5 % with inputs, too, and to 4 % where all of a matrix shares one scale. The tolerances are
# twice that. If, for instance, the bias of the values were left out, the hidden states of most configurations would change
# by 20 %.
@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize(
    "quantize, tolerance",
    [(quantize_by_torchao, 0.02), (quantize_by_bitsandbytes, 0.03), (quantize_by_torch, 0.08)],
    ids=["torchao", "bitsandbytes", "torch"],
)
@configs
@torch.no_grad()
def test_8_bit_weights_change_little(config, quantize, tolerance, tmp_path):
    model = make_model(**config)
    before = hidden_states(model)
    error = (hidden_states(quantize(model, tmp_path)) - before).norm() / before.norm()
    assert 0.001 < error < tolerance  # an error below that would mean that nothing was quantised


# --- Offloaded weights ---


@configs
@torch.no_grad()
def test_offloaded_weights_give_the_same(config):
    model = make_model(**config)
    before = hidden_states(model)
    # A module has its weights only while it runs, so a module that reads those of another one fails
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert torch.equal(hidden_states(model), before)
    assert all(parameter.is_meta for parameter in model.parameters())
