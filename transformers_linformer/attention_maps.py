# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Attention from each token to each token, which viewers of attention draw, from the attention to projected rows."""

import torch

from .errors import UsageError


@torch.no_grad()
def token_attentions(model, **inputs):
    """
    Returns for each layer the attention of each token to each token, (B, h, n', n').

    A token attends to the tokens of its block and to projected rows. The weight of a row is spread over the tokens that the
    row stands for, by the weights that the row gives to their values: with P for the attention to the rows, the result is P F.
    It is exact, in that its product with the values of all tokens is the output of the attention, except for `max_pool`: there
    each feature of a row comes from one token, and a token gets as much of the weight as it has features in the row. With a
    pooling the weights of a token sum to 1. With a learned F they do not, and can be negative, as those of F are not
    normalised.

    `model` is a Linformer with or without a head, in either of its attention implementations, and `inputs` are its inputs.
    The results take O(n'^2) memory per head and layer, unlike the model.

    Raises `UsageError` if processes share the sequences of the model.
    """
    base, implementation = model.base_model, model.config._attn_implementation
    if base.sequence_mesh is not None:
        raise UsageError("`token_attentions` needs complete sequences: call `model.set_sequence_mesh(None)` first.")
    projections = []

    def read_projection(layer, args, kwargs):
        projections.append(projection_of(layer.attention.self, *args[:2], kwargs["shared_projection"]))

    handles = [layer.register_forward_pre_hook(read_projection, with_kwargs=True) for layer in base.encoder.layer]
    try:
        model.set_attn_implementation("eager")
        attentions = model(**inputs, output_attentions=True, return_dict=True).attentions
    finally:
        model.set_attn_implementation(implementation)
        for handle in handles:
            handle.remove()
    return tuple(spread(attention, projection) for attention, projection in zip(attentions, projections, strict=True))


def projection_of(attention, hidden_states, tokens, shared_projection):
    """
    Returns F for the inputs of a layer, (B, h, k, n'), or None if no row counts. It is found by projecting the identity
    matrix.
    """
    E = shared_projection if attention.E is None else attention.E
    if not attention.needs_shared_keys(tokens, E):
        return None
    query, key, value = (
        attention.split_heads(each(hidden_states)) for each in (attention.query, attention.key, attention.value)
    )
    batch_size, length, heads = value.shape[:3]
    identity = torch.eye(length, dtype=value.dtype, device=value.device)
    identity = identity[:, None].expand(batch_size, -1, heads, -1)  # (B, n', h, n')
    F = E if attention.F is None else attention.F
    rows = E.share(query, key, identity, tokens, F, attention.scaling).value.transpose(1, 2)
    if attention.config.projection_type != "max_pool":
        return rows
    # The rows say only which window each token is in. The gradient of the maxima is 1 at each feature that is a maximum.
    with torch.enable_grad():
        value = value.detach().requires_grad_()
        (is_maximum,) = torch.autograd.grad(F(value, tokens).sum(), value)
    is_global = torch.arange(rows.shape[2], device=rows.device) < E.num_global_tokens
    return torch.where(is_global[:, None], rows, rows * is_maximum.mean(-1).mT.unsqueeze(2))


def spread(attention, projection):
    """Returns the attention to tokens, (B, h, n', n'), from that to the own block and the rows, (B, h, n', b + g + k)."""
    length = attention.shape[2]
    block_size = attention.shape[-1] - (0 if projection is None else projection.shape[2])
    result = 0 if projection is None else attention[..., block_size:] @ projection
    if block_size:
        positions = torch.arange(length, device=attention.device)
        starts = positions // block_size * block_size
        columns = starts.unsqueeze(1) + torch.arange(block_size, device=attention.device)
        of_blocks = attention.new_zeros(*attention.shape[:3], -(-length // block_size) * block_size)
        of_blocks.scatter_(-1, columns.expand(*attention.shape[:2], -1, -1), attention[..., :block_size])
        result = result + of_blocks[..., :length]
    return result
