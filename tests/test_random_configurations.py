"""
Compares models of random configurations with the formula in loops: outputs, gradients and inference in chunks.

`RANDOM_CONFIGURATIONS=6000 pytest tests/test_random_configurations.py` tries as many as that, in half an hour on two cores.
"""

import os
import random

import pytest
import torch
from naive_linformer import naive_forward

from configuration_linformer import LinformerConfig
from configuration_linformer.configuration_linformer import PROJECTION_TYPES
from modeling_linformer import LinformerModel


PER_TEST = 10
NUMBER = int(os.environ.get("RANDOM_CONFIGURATIONS", 20))
SIZES = {"vocab_size": 20, "hidden_size": 6, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 7}
SIZES |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def draw_configuration(draw):
    """Returns the fields of a configuration: any projection and sharing, k, b and g that fit, with or without the rest."""
    n, kind = draw.choice([8, 12, 18]), draw.choice(PROJECTION_TYPES)
    sharing = draw.choice(["none", "headwise", "key_value", "layerwise"])
    sizes = [
        (k, b)
        for k in range(1, n + 1)
        for b in range(n + 4)
        if kind == "linear" or (n % k == 0 and (b == 0 or b % (n // k) == 0 or (n // k) % b == 0))
    ]
    layers = [draw.choice(sizes), draw.choice(sizes)]
    if sharing == "layerwise" and kind in ("linear", "conv"):
        layers[1] = draw.choice([size for size in sizes if size[0] == layers[0][0]])
    fields = {"max_position_embeddings": n, "projection_type": kind, "projection_sharing": sharing}
    fields |= {"projected_dim": [k for k, _ in layers], "block_size": [b for _, b in layers]}
    if draw.random() < 0.5:
        fields["num_global_tokens"] = draw_global_tokens(draw, n, [k for k, _ in layers], kind)
    fields["attn_implementation"] = draw.choice(["sdpa", "eager"])
    if kind.endswith("pool"):
        fields["far_token_limit"] = draw.choice([None, draw.randint(1, n)])
    if kind != "linear" or any(fields["block_size"]) or fields.get("num_global_tokens"):
        fields["relative_attention_num_buckets"] = draw.choice([None, None, 8])
    return fields


def draw_global_tokens(draw, n, ks, kind):
    windows = [1] if kind == "linear" else [n // k for k in ks]
    return draw.choice([g for g in range(n + 1) if all(g % window == 0 for window in windows)])


def make_model(fields, seed):
    torch.manual_seed(seed)
    model = LinformerModel(LinformerConfig(**SIZES, **fields), add_pooling_layer=False).double().eval()
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * (0.3 if parameter.dim() > 1 else 0.5)
    return model


@pytest.mark.parametrize("first", range(0, NUMBER, PER_TEST))
def test_a_random_configuration_equals_the_formula(first):
    for seed in range(first, min(first + PER_TEST, NUMBER)):
        draw = random.Random(seed)
        fields = draw_configuration(draw)
        model, n = make_model(fields, seed), fields["max_position_embeddings"]
        sequences = [torch.randint(2, 20, (draw.randint(1, n),)) for _ in range(draw.randint(1, 3))]
        length = min(n, max(map(len, sequences)) + draw.randint(0, 3))
        batch, mask = torch.randint(20, (len(sequences), length)), torch.zeros(len(sequences), length, dtype=torch.long)
        for row, sequence in enumerate(sequences):
            batch[row, : len(sequence)], mask[row, : len(sequence)] = sequence, 1

        def real(hidden_states, sequences=sequences):
            return torch.cat([hidden[: len(sequence)] for hidden, sequence in zip(hidden_states, sequences, strict=True)])

        def gradients(rows, model=model, seed=seed):
            weights = torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed), dtype=rows.dtype)
            grads = torch.autograd.grad((rows * weights).sum(), list(model.parameters()), allow_unused=True)
            return [torch.zeros_like(p) if grad is None else grad for p, grad in zip(model.parameters(), grads, strict=True)]

        def check(actual, expected, seed=seed, fields=fields):
            scale = max(1, expected.abs().max().item())
            message = f"seed {seed}: {fields}"
            torch.testing.assert_close(actual, expected, atol=1e-9 * scale, rtol=0, msg=lambda text: f"{message}\n{text}")

        expected = torch.cat([naive_forward(model, sequence) for sequence in sequences])
        actual = real(model(batch, attention_mask=mask).last_hidden_state)
        check(actual, expected)
        for grad, wanted in zip(gradients(actual), gradients(expected), strict=True):
            check(grad, wanted)
        with torch.no_grad():
            model.config.inference_chunk_size = draw.randint(1, n)
            check(real(model(batch, attention_mask=mask).last_hidden_state), expected)
