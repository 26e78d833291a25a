"""Tests of benchmarks.attention_dropout against the attention of torch, and against a matrix of weights for the dropout."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from benchmarks.attention_dropout import NAME, DropoutAttention, random_numbers


def rows(*lengths):
    """Returns float64 tensors of 3 sequences and 2 heads with so many rows of 4 numbers, which want gradients."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 2, length, 4, generator=generator, dtype=torch.float64).requires_grad_() for length in lengths]


@pytest.mark.parametrize("shape", [None, (3, 1, 1, 7), (1, 2, 5, 7), (3, 2, 1, 7)])
def test_without_dropout_outputs_and_gradients_are_those_of_torch(shape):
    inputs = rows(5, 7, 7)
    bias = None if shape is None else torch.randn(shape, dtype=torch.float64).requires_grad_()
    wanted = [each for each in (*inputs, bias) if each is not None]
    output = DropoutAttention.apply(*inputs, bias, 0.3, 0.0)
    expected = nn.functional.scaled_dot_product_attention(*inputs, bias, scale=0.3)
    torch.testing.assert_close(output, expected)
    gradients, expected = (torch.autograd.grad(each.square().sum(), wanted) for each in (output, expected))
    torch.testing.assert_close(gradients, expected)


def test_dropout_is_that_of_the_weights():
    query, key, value = rows(500, 64, 64)
    bias = torch.randn(3, 2, 500, 64, dtype=torch.float64).requires_grad_()

    def attend(value):
        torch.manual_seed(1)  # the same weights are dropped
        return DropoutAttention.apply(query, key, value, bias, 0.3, 0.25)

    # The output for unit vectors as values is the matrix of weights after dropout
    unit_vectors = torch.eye(64, dtype=torch.float64).expand(3, 2, 64, 64)
    weights = (query @ key.transpose(-1, -2) * 0.3 + bias).softmax(-1)
    dropped = attend(unit_vectors)
    kept = dropped != 0
    assert kept.double().mean().item() == pytest.approx(0.75, abs=0.005)
    assert not torch.equal(kept[0, 0], kept[0, 1])
    expected = weights * kept / 0.75
    torch.testing.assert_close(dropped, expected)
    torch.testing.assert_close(attend(value), expected @ value)
    wanted = (query, key, value, bias)
    gradients = torch.autograd.grad(attend(value).square().sum(), wanted)
    torch.testing.assert_close(gradients, torch.autograd.grad((expected @ value).square().sum(), wanted))


def test_random_numbers_have_sixteen_even_bits():
    # The first of them may be of four kinds, by where they stand in a number that torch draws
    numbers = random_numbers(torch.Size((1, 4 * 10**5 + 3))).flatten()[: 4 * 10**5].view(-1, 4).int()
    bits = numbers.unsqueeze(-1) >> torch.arange(16) & 1
    torch.testing.assert_close(bits.double().mean(0), torch.full((4, 16), 0.5, dtype=torch.float64), atol=0.006, rtol=0)


def test_a_model_with_padding_trains_with_it(monkeypatch):
    calls, apply = [], DropoutAttention.apply
    monkeypatch.setattr(DropoutAttention, "apply", lambda *args: calls.append(args) or apply(*args))
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertModel(BertConfig(**sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=1e-9))
    input_ids = torch.randint(1, 50, (2, 9))
    mask = torch.tensor([[1] * 9, [1] * 4 + [0] * 5])
    outputs, gradients = {}, {}
    for name in ("sdpa", NAME):
        model.set_attn_implementation(name)
        outputs[name] = model(input_ids, mask).last_hidden_state
        assert len(calls) == (2 if name == NAME else 0)
        gradients[name] = torch.autograd.grad((outputs[name] * mask.unsqueeze(-1)).square().sum(), model.encoder.parameters())
    torch.testing.assert_close(outputs[NAME], outputs["sdpa"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients[NAME], gradients["sdpa"], atol=1e-5, rtol=1e-4)
