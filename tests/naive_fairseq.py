"""
Computes the outputs of fairseq's `linformer_roberta` (examples/linformer there) from the tensors of a checkpoint, as its
formulas are written. With X the n' rows of a layer, which include padding, and E and F cut to their first n' columns:

    K = (E X) W_K + b_K    V = (F X) W_V + b_V    head = softmax( Q K^T / sqrt(d_head) ) V

So the biases are added after the projection, and there is no mask. Only the embeddings of padding are set to zero, once.
"""

import math

import torch
from torch.nn import functional


PAD = 1


def fairseq_features(state, input_ids, num_heads):
    """Returns the last hidden states (b, n', d) for padded sequences of ids (b, n')."""

    def linear(name, rows):
        return rows @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def layer_norm(name, rows):
        return functional.layer_norm(rows, rows.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)

    def split(rows):
        return rows.unflatten(-1, (num_heads, -1)).transpose(1, 2)

    encoder = "encoder.sentence_encoder"
    real = input_ids != PAD
    positions = PAD + real.cumsum(1) * real
    rows = state[f"{encoder}.embed_tokens.weight"][input_ids] + state[f"{encoder}.embed_positions.weight"][positions]
    rows = layer_norm(f"{encoder}.layernorm_embedding", rows) * real[..., None]
    length, layers = input_ids.shape[1], sum(name.endswith("fc1.bias") for name in state)
    for layer in (f"{encoder}.layers.{index}" for index in range(layers)):
        E = state[f"{layer}.self_attn.compress_k.weight"]
        F = state.get(f"{layer}.self_attn.compress_v.weight", E)
        query = split(linear(f"{layer}.self_attn.q_proj", rows))
        key = split(linear(f"{layer}.self_attn.k_proj", E[:, :length] @ rows))
        value = split(linear(f"{layer}.self_attn.v_proj", F[:, :length] @ rows))
        weights = (query @ key.mT / math.sqrt(key.shape[-1])).softmax(-1)
        attended = linear(f"{layer}.self_attn.out_proj", (weights @ value).transpose(1, 2).flatten(2))
        rows = layer_norm(f"{layer}.self_attn_layer_norm", rows + attended)
        widened = functional.gelu(linear(f"{layer}.fc1", rows))
        rows = layer_norm(f"{layer}.final_layer_norm", rows + linear(f"{layer}.fc2", widened))
    return rows


def fairseq_lm_logits(state, features):
    rows = functional.gelu(features @ state["encoder.lm_head.dense.weight"].T + state["encoder.lm_head.dense.bias"])
    weight, bias = state["encoder.lm_head.layer_norm.weight"], state["encoder.lm_head.layer_norm.bias"]
    rows = functional.layer_norm(rows, rows.shape[-1:], weight, bias, 1e-5)
    return rows @ state["encoder.lm_head.weight"].T + state["encoder.lm_head.bias"]


def fairseq_class_logits(state, features, head):
    name = f"classification_heads.{head}"
    rows = (features[:, 0] @ state[f"{name}.dense.weight"].T + state[f"{name}.dense.bias"]).tanh()
    return rows @ state[f"{name}.out_proj.weight"].T + state[f"{name}.out_proj.bias"]


def fairseq_state(n, k, sharing, vocab_size=60, size=16, layers=2, head=None, labels=3):
    """Returns random tensors under the names of fairseq's newest code. `sharing` is "none", "kv" or "layer"."""
    generator = torch.Generator().manual_seed(0)
    state = {}

    def add(name, *shape):
        state[name] = torch.randn(*shape, generator=generator) / math.sqrt(shape[-1])

    def add_module(name, outputs, inputs):
        add(f"{name}.weight", outputs, inputs)
        add(f"{name}.bias", outputs)

    def add_norm(name):
        state[f"{name}.weight"] = 1 + torch.randn(size, generator=generator) / 4
        add(f"{name}.bias", size)

    encoder = "encoder.sentence_encoder"
    add(f"{encoder}.embed_tokens.weight", vocab_size, size)
    add(f"{encoder}.embed_positions.weight", n + PAD + 1, size)
    add_norm(f"{encoder}.layernorm_embedding")
    state["encoder.version"] = torch.tensor(2)
    state[f"{encoder}.version"] = torch.tensor([3.0])
    if sharing == "layer":
        add_module(f"{encoder}.compress_layer", k, n)
    for layer in (f"{encoder}.layers.{index}" for index in range(layers)):
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            add_module(f"{layer}.self_attn.{name}", size, size)
        if sharing == "layer":
            for name in ("compress_k.weight", "compress_k.bias", "compress_v.weight", "compress_v.bias"):
                state[f"{layer}.self_attn.{name}"] = state[f"{encoder}.compress_layer.{name.split('.')[1]}"]
        else:
            for name in ("compress_k", "compress_v")[: 1 if sharing == "kv" else 2]:
                add(f"{layer}.self_attn.{name}.weight", k, n)
        add_norm(f"{layer}.self_attn_layer_norm")
        add_module(f"{layer}.fc1", 2 * size, size)
        add_module(f"{layer}.fc2", size, 2 * size)
        add_norm(f"{layer}.final_layer_norm")
        state[f"{layer}.version"] = torch.tensor(2)
    add_module("encoder.lm_head.dense", size, size)
    add_norm("encoder.lm_head.layer_norm")
    state["encoder.lm_head.weight"] = state[f"{encoder}.embed_tokens.weight"]
    add("encoder.lm_head.bias", vocab_size)
    if head is not None:
        add_module(f"classification_heads.{head}.dense", size, size)
        add_module(f"classification_heads.{head}.out_proj", labels, size)
    return state
