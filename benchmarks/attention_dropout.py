# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Attention with dropout for training on a CPU, with any model of transformers.

Torch has no fused kernel for this case: it writes and keeps several matrices of n x n weights, and draws a random number per
weight in a slow way. Here one head of one sequence is computed at a time, so that its matrices stay in the processor's cache.
Only which weights were dropped is kept, as one byte each, and the weights are computed again for the gradients, as in
FlashAttention (Dao et al. 2022, appendix B.4).

Importing this module registers `attn_implementation="dropout_on_cpu"`.
"""

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask


NAME = "dropout_on_cpu"


def attention_forward(module, query, key, value, attention_mask, dropout=0.0, scaling=None, **kwargs):
    """
    Is an attention function of transformers, and returns the outputs, (b, n, h, d / h), and no weights.

    It is that of torch, unless there is dropout in float32 on a CPU, with no other arguments that change the result.
    """
    known = kwargs.get("position_bias") is None and not getattr(module, "is_causal", True) and key.shape[1] == query.shape[1]
    if not dropout or query.device.type != "cpu" or query.dtype != torch.float32 or not known:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        attention_mask = torch.zeros(attention_mask.shape).masked_fill(~attention_mask, -torch.inf)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return DropoutAttention.apply(query, key, value, attention_mask, scaling, dropout).transpose(1, 2), None


class DropoutAttention(torch.autograd.Function):
    """
    Computes `dropout(softmax(query keyᵀ scaling + bias)) value`.

    The query is (b, h, n, d / h), and key and value are (b, h, m, d / h). The bias is None or (b, h, n, m), where all but m
    may be 1. The dropout is rounded to a multiple of 2**-16.
    """

    @staticmethod
    def forward(ctx, query, key, value, bias, scaling, dropout):
        kept = torch.empty(*query.shape[:3], key.shape[2], dtype=torch.uint8)
        dropped = round(2**16 * dropout)  # of the 2**16 values of a random number
        ctx.scaling, ctx.factor = scaling, 2**16 / (2**16 - dropped)
        output = query.new_empty(*query.shape[:3], value.shape[3])
        for i in slices(query):
            weights = softmax(query[i], key[i], slice_of(bias, i), scaling)
            torch.ge(random_numbers(weights.shape), dropped - 2**15, out=kept[i].view(torch.bool))
            torch.mm(weights.mul_(kept[i]), value[i], out=output[i])
        output *= ctx.factor
        ctx.save_for_backward(query, key, value, bias, kept, output)
        return output

    @staticmethod
    def backward(ctx, grad):
        query, key, value, bias, kept, output = ctx.saved_tensors
        grads = [torch.empty_like(rows, memory_format=torch.contiguous_format) for rows in (query, key, value)]
        grad_bias = torch.zeros_like(bias) if ctx.needs_input_grad[3] else None
        means = (grad * output).sum(-1, keepdim=True)  # of the weights' gradients, by the weights
        for i in slices(query):
            weights = softmax(query[i], key[i], slice_of(bias, i), ctx.scaling)
            of_output = grad[i] * ctx.factor
            scores = (of_output @ value[i].T).mul_(kept[i]).sub_(means[i]).mul_(weights)  # their gradients
            torch.mm(scores, key[i], out=grads[0][i])
            torch.mm(scores.T, query[i], out=grads[1][i])
            torch.mm(weights.mul_(kept[i]).T, of_output, out=grads[2][i])
            if grad_bias is not None:
                own = slice_of(grad_bias, i)
                own += scores.sum_to_size(own.shape)
        for rows in grads[:2]:
            rows *= ctx.scaling
        return *grads, grad_bias, None, None


def slices(query):
    """Yields the index (sequence, head) of each matrix of weights."""
    return ((i, j) for i in range(query.shape[0]) for j in range(query.shape[1]))


def slice_of(bias, i):
    return None if bias is None else bias[tuple(min(one, size - 1) for one, size in zip(i, bias.shape[:2], strict=True))]


def softmax(query, key, bias, scaling):
    scores = (query @ key.T).mul_(scaling)
    return (scores if bias is None else scores.add_(bias)).softmax(-1)


def random_numbers(shape):
    """Returns random numbers of 16 bits, four of them from each that torch draws."""
    count = shape.numel()
    # Without arguments, `random_` would leave the bit of the sign at 0
    return torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count].view(shape)


AttentionInterface.register(NAME, attention_forward)
AttentionMaskInterface.register(NAME, sdpa_mask)
