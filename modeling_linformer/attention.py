# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
This module computes Linformer's self-attention. For head i with E_i and F_i of shape (k, n), equation 7 of the paper is

    head_i = softmax( Q W_i^Q (E_i K W_i^K)^T / sqrt(d_h) ) . F_i V W_i^V

With blocks, the sequence is cut into m blocks of b tokens. The softmax of a token covers the tokens of its own block, and the
keys that all blocks share, which are the projected rows and, if there are any, the g global tokens before them:

    head_i(block) = softmax( [ Q K^T / sqrt(d_h) , Q (E_i K)^T / sqrt(d_h) + log c ] ) . [ V ; F_i V ]

              own tokens    rows                      b = 4, w = 2, 12 tokens
    block 0   0 1 2 3       .  .  45 67 89 ab         A block leaves out the rows of its own windows, as it has
    block 1   4 5 6 7       01 23 .  .  89 ab         their tokens. Each other row counts for c tokens.
    block 2   8 9 a b       01 23 45 67 .  .

              own tokens    global tokens and rows    g = 2
    block 0   0 1 2 3       .  .  .  45 67 89 ab      Global tokens are left out of the block that has them.
    block 1   4 5 6 7       0  1  23 .  .  89 ab
    block 2   8 9 a b       0  1  23 45 67 .  .

A layer computes these shapes, in this order:

    hidden states   (B, n', d)
    features        (B, n', h, d_h)           the query, the key and the value of each token
    shared keys     (B, g + k, h, d_h)        E K and F V, after the global tokens
    blocks          (B m, h, b, d_h)          the queries of each block
    own and shared  (B m, h, b + g + k, d_h)  the keys, and the values, that the queries of a block attend to
    weights         (B m, h, b, b + g + k)    the softmax of the scores and the bias
    outputs         (B, n', d)

projections.py says what a row is, and what the letters B, n', k, w, h, d and d_h stand for in shapes.
"""

import functools
import math

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .projections import (
    LinformerLearnedProjection,
    SharedKeys,
    accumulation_dtype,
    first_positions,
    left_out,
    make_projection,
    split,
)


# The next two functions flatten to one dimension first. Otherwise a compiled graph would depend on m, and torch would compile
# again for another m.


def merge_blocks(states):
    """Merges the batch and the blocks into one dimension, from (B, m, ...) to (B m, ...)."""
    return states.flatten().unflatten(0, (states.shape[0] * states.shape[1], *states.shape[2:]))


def join_blocks(states, batch_size, length):
    """Joins blocks (B m, b, ...) to (B, n', ...), without what the last block was filled up with."""
    states = states.flatten().unflatten(0, (batch_size, -1, *states.shape[2:]))
    if torch.compiler.is_compiling():
        # The graph of a slice would depend on whether it takes all positions
        return states.index_select(1, torch.arange(length, device=states.device))
    return states[:, :length]


def attend(kernel, query, key, value, shared, bias, block_size):
    """
    Returns the outputs of the attention, (B, n', h, d_h), and the weights that the kernel returns, or None.

    `query`, `key` and `value` are (B, n', h, d_h). `shared` are the `SharedKeys`, or None. Without blocks (`block_size` 0)
    they are the only keys. `bias` is that of `position_bias`. The kernel is an attention function. It is given queries, keys,
    values and bias: (B m, h, b, d_h), twice (B m, h, b + g + k, d_h), and (B m, 1 or h, 1 or b, b + g + k) or None.
    """
    batch_size, length = query.shape[:2]
    if block_size:
        query, key, value = (split(states, block_size) for states in (query, key, value))  # (B, m, b, h, d_h)
    else:
        query, key, value = query.unsqueeze(1), None, None  # one block of all queries, and no keys of its own
    if shared is not None:
        keys = [each.unsqueeze(1).expand(-1, query.shape[1], -1, -1, -1) for each in shared[:2]]  # (B, m, g + k, h, d_h)
        key, value = keys if key is None else (torch.cat(each, dim=2) for each in zip((key, value), keys))
        if shared.log_counts is not None:
            log_counts = nn.functional.pad(shared.log_counts.mT, (block_size, 0))[:, None, :, None]  # (B, 1, h, 1, b + g + k)
            bias = log_counts if bias is None else bias + log_counts
    if bias is not None:
        if bias.dtype != query.dtype:  # what is left out is below the range of float16
            bias = bias.clamp(min=left_out(query.dtype)).to(query.dtype)
        bias = merge_blocks(bias.expand(batch_size, -1, -1, -1, -1))
    output, weights = kernel(*(merge_blocks(states).transpose(1, 2) for states in (query, key, value)), bias)
    return join_blocks(output, batch_size, length), weights


def position_bias(tokens, block_size, num_keys, E, far_token_limit, relative_bias, dtype):
    """
    Returns what is added to the scores in all layers alike, (B or 1, m, 1 or h, 1 or b, b + g + k), or None if nothing is.

    It leaves out padding, and for each block the global tokens that it has itself and the rows of its own windows. It contains
    the log counts that follow from positions. If more than `far_token_limit` tokens are neither in a block nor global, the
    rows count for proportionally fewer, so that nearby tokens weigh as much as in the short sequences that a model was trained
    on. `num_keys` is (g, k), or (0, 0) if nothing outside of a block is needed. `relative_bias` is the
    `LinformerRelativeAttentionBias`, if there is one.
    """
    device, size, window, (num_global, num_rows) = tokens.device, block_size or tokens.length, E.window, num_keys
    with_limit = block_size and num_rows and far_token_limit is not None
    without_seen = num_global or (
        block_size and num_rows and (window is not None or tokens.have_padding(1) or tokens.seq_length <= size)
    )
    with_counts = (num_rows and window is not None and block_size and E.counts_tokens) or (
        tokens.have_padding(1) and (num_global or (num_rows and window is not None))
    )
    with_distances = relative_bias is not None and (block_size or num_global or window is not None)
    if not (with_limit or without_seen or with_counts or with_distances or (block_size and tokens.have_padding(size))):
        return None
    is_token = tokens.are_tokens(size) if block_size else torch.ones(1, 1, size, dtype=torch.bool, device=device)
    positions = tokens.offset + torch.arange(is_token.shape[1] * size, device=device).unflatten(0, (-1, size))  # (m, b)
    firsts, lasts = E.spans(num_keys, device)  # (g + k)

    # The number of tokens outside of each block that are not global, (B or 1, m, 1)
    outside = tokens.totals.unsqueeze(-1)
    if num_global:
        outside = outside - tokens.are_first_tokens(num_global).sum(-1)[:, None, None]
    if block_size:
        in_block = is_token & (positions >= num_global) if num_global else is_token
        outside = outside - in_block.sum(-1, keepdim=True)

    def for_all_keys(of_rows):  # with 0 or False for global tokens
        return nn.functional.pad(of_rows, (num_global, 0)) if num_global else of_rows

    far = (far_token_limit / outside.to(dtype)).log().clamp(max=0) if with_limit else torch.zeros_like(outside, dtype=dtype)
    far = for_all_keys(far.expand(-1, is_token.shape[1], num_rows))
    if with_counts:
        counts = E.counts(tokens).unsqueeze(1)  # (B or 1, 1, g + k)
        if torch.compiler.is_compiling():  # see `fill_up`
            counts = nn.functional.pad(counts, (0, num_global + num_rows - counts.shape[2]))
        if block_size and E.counts_tokens:
            far = far + counts.to(dtype).clamp(min=1).log()
        far = far.masked_fill(counts == 0, left_out(dtype))
    if without_seen:
        if block_size:
            far = far.masked_fill((firsts <= positions[:, -1:]) & (lasts >= positions[:, :1]), left_out(dtype))
        if window is None:
            far = far.masked_fill(for_all_keys((outside == 0).expand(-1, -1, num_rows)), left_out(dtype))
        elif num_global:  # no block attends to the rows of their windows
            is_row = torch.arange(len(firsts), device=device) >= num_global
            far = far.masked_fill(is_row & (firsts < num_global), left_out(dtype))
    own = torch.zeros_like(is_token, dtype=dtype).masked_fill(~is_token, left_out(dtype))
    bias = torch.cat([own.expand(far.shape[0], -1, -1), far], dim=-1) if block_size else far
    bias = bias[:, :, None, None]
    if with_distances:
        keys = [positions] if block_size else []
        middles = (firsts + lasts) // 2 if window is not None else firsts[:num_global]
        keys.append(middles.expand(positions.shape[0], -1))
        distances = torch.cat(keys, dim=1).unsqueeze(1) - positions.unsqueeze(2)  # (m, b, b + g + k or less)
        relative = relative_bias(distances).permute(0, 3, 1, 2)
        bias = bias + nn.functional.pad(relative, (0, bias.shape[-1] - relative.shape[-1]))
    return bias


def add_rows(ours, theirs):
    """Returns the `SharedKeys` of two parts of the sequences together, where each row is a sum over all positions."""
    return SharedKeys(*(None if own is None else own + other for own, other in zip(ours, theirs)))


def join_rows(parts):
    """Returns the `SharedKeys` of a list of parts of the sequences together, where each row stands for a window."""
    if len(parts) == 1:
        return parts[0]
    return SharedKeys(*(None if fields[0] is None else torch.cat(fields, dim=1) for fields in zip(*parts)))


def fill_up(shared, num_keys):
    """Fills up `SharedKeys` to g + k keys: a compiled graph must not depend on their number. The bias leaves out the rest."""
    missing = sum(num_keys) - shared.key.shape[1]
    return SharedKeys(
        *(each if each is None else nn.functional.pad(each, (0, 0) * (each.dim() - 2) + (0, missing)) for each in shared)
    )


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, input_shape=None, **kwargs):
    """Computes the attention step by step. It also returns the weights, (B, h, n', b + g + k). `input_shape` is (B, n')."""
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling  # (B m, h, b, b + g + k)
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    # The output is computed from the weights that are returned, so that these get a gradient
    weights = weights.unflatten(0, (input_shape[0], -1)).transpose(1, 2).flatten(2, 3)  # (B, h, m b, b + g + k)
    filled_up = weights.shape[2] - input_shape[1]
    weights = weights[:, :, : input_shape[1]]
    of_blocks = nn.functional.pad(weights, (0, 0, 0, filled_up)).unflatten(2, (-1, query.shape[2]))
    return torch.matmul(of_blocks.transpose(1, 2).flatten(0, 1), value).transpose(1, 2), weights


class LinformerRelativeAttentionBias(nn.Embedding):
    """
    Holds the bias of the scores for each bucket of distances and each head, as in MPNet and T5.

    Half of the buckets are for keys to the right of a query. In each half, the first half of the buckets has one distance
    each, and the others divide the distances up to 128 evenly on a logarithmic scale. The last one also has all beyond 128.
    """

    max_distance = 128

    def __init__(self, config):
        super().__init__(config.relative_attention_num_buckets, config.num_attention_heads)

    def forward(self, distances: torch.LongTensor) -> torch.Tensor:
        """Returns the bias (..., h) of keys that are `distances` (...) tokens to the right of their query."""
        per_side = self.num_embeddings // 2
        exact = per_side // 2
        steps = distances.abs()
        far = (steps.clamp(min=1).float() / exact).log() / math.log(self.max_distance / exact) * (per_side - exact)
        buckets = torch.where(steps < exact, steps, (exact + far.long()).clamp(max=per_side - 1))
        return super().forward(buckets + per_side * (distances > 0))


def has_shared_projection(config):
    """Returns whether all layers share one E = F. Poolings never do: they have no parameters, and k may differ per layer."""
    return config.projection_sharing == "layerwise" and config.has_learned_projection


class LinformerSelfAttention(nn.Module):
    """
    Computes the attention of a layer in three steps: the queries, keys and values of the tokens (`features`), from them the
    keys that all blocks share (`share` and `combine`), and from both the outputs (`attend`).
    """

    def __init__(self, config, layer_idx=None):
        super().__init__()
        self.config = config
        self.attention_head_size = config.hidden_size // config.num_attention_heads
        self.scaling = self.attention_head_size**-0.5
        self.block_size = config.block_sizes[layer_idx]
        self.is_causal = False

        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

        has_own_F = config.projection_sharing in ("none", "headwise") and config.has_learned_projection
        self.E = None if has_shared_projection(config) else make_projection(config, layer_idx)
        self.F = make_projection(config, layer_idx) if has_own_F else None

    def forward(self, hidden_states, tokens, bias=None, shared_projection=None, **kwargs):
        E = shared_projection if self.E is None else self.E
        features, shared = self.features(hidden_states, E), None
        if self.needs_shared_keys(tokens, E):
            shared = self.combine([self.share(hidden_states, *features, tokens, E)], tokens, E)
        return self.attend(*features, shared, bias, tokens, **kwargs)

    def features(self, hidden_states, E):
        """Returns queries, keys and values, (B, n', h, d_h) each, the last two None if the sequence is projected first."""
        query, key, value = self.query(hidden_states), None, None
        if not self.projects_hidden_states(E):
            key, value = self.split_heads(self.key(hidden_states)), self.split_heads(self.value(hidden_states))
        return self.split_heads(query), key, value

    def share(self, hidden_states, query, key, value, tokens, E):
        """Returns the `SharedKeys` of these tokens alone, which `combine` completes."""
        F = E if self.F is None else self.F
        if not self.projects_hidden_states(E):
            return E.share(query, key, value, tokens, F, self.scaling)

        def with_row_sums(projection):  # (B, g + k, 1, d + 1)
            sums = projection.row_sums(tokens, hidden_states.dtype).expand(hidden_states.shape[0], -1, -1, -1)
            rows = torch.cat([projection(hidden_states.unsqueeze(2), tokens), sums], dim=-1)
            own = first_positions(hidden_states.unsqueeze(2), projection.num_global_tokens)
            return projection.with_global_tokens(nn.functional.pad(own, (0, 1), value=1), rows, tokens)

        return SharedKeys(with_row_sums(E), None if F is E else with_row_sums(F))

    def combine(self, parts, tokens, E):
        """Returns the `SharedKeys` of complete sequences from those of their parts, in this process and in the others."""
        if E.window is None:
            shared = functools.reduce(add_rows, parts)
        else:
            shared = join_rows(list(parts))
        shared = tokens.complete(shared, E)
        if self.projects_hidden_states(E):
            value = shared.key if shared.value is None else shared.value
            key, value = linear_after_projection(self.key, shared.key), linear_after_projection(self.value, value)
            shared = SharedKeys(self.split_heads(key), self.split_heads(value), shared.log_counts)
        if torch.compiler.is_compiling() and E.window is not None:
            shared = fill_up(shared, E.num_keys(tokens, self.config.max_position_embeddings))
        return shared

    def attend(self, query, key, value, shared, bias, tokens, **kwargs):
        """Returns the outputs, (B, n', d), and the weights of the attention, or None."""
        kernel = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.dropout.p if self.training else 0.0
        kernel = functools.partial(kernel, self, dropout=dropout, scaling=self.scaling, input_shape=query.shape[:2], **kwargs)
        output, weights = attend(kernel, query, key, value, shared, bias, self.block_size_of(tokens))
        return output.flatten(2), weights

    def position_bias(self, tokens, dtype, shared_projection=None, relative_attention_bias=None):
        """Returns what the function `position_bias` does, once for all layers that have the same sizes."""
        E = shared_projection if self.E is None else self.E
        num_keys = (0, 0)
        if self.needs_shared_keys(tokens, E):
            num_keys = E.num_keys(tokens, self.config.max_position_embeddings)
        block_size, limit, dtype = self.block_size_of(tokens), self.config.far_token_limit, accumulation_dtype(dtype)
        arguments = (block_size, num_keys, E, limit, relative_attention_bias, dtype)
        return tokens.once(("bias", block_size, num_keys, E.window), lambda: position_bias(tokens, *arguments))

    def block_size_of(self, tokens):
        return self.block_size if torch.compiler.is_compiling() else min(self.block_size, tokens.length)

    def needs_shared_keys(self, tokens, E):
        """Returns whether any shared key counts. None does if all tokens are in one block, or in one window."""
        if not self.block_size or torch.compiler.is_compiling():
            return True
        if tokens.seq_length > max(self.block_size, 0 if E.num_global_tokens else E.window or 0):
            return True
        # Data parallelism expects a gradient of each parameter, even if it is 0
        return isinstance(E, LinformerLearnedProjection) and torch.is_grad_enabled()

    def projects_hidden_states(self, E):
        """Returns whether the sequence is projected before it is multiplied by W, which then takes k rows, not n states."""
        return not (self.block_size or E.needs_features)

    def split_heads(self, states):
        return states.unflatten(-1, (-1, self.attention_head_size))


def linear_after_projection(linear, rows):
    """
    Returns E (X W + 1 biasᵀ) = (E X) W + (E 1) biasᵀ, (B, k, d), from `rows`, (B, k, 1, d + 1): E X, and E 1 as last feature.

    A row of zeros gives the bias. Reading `linear.bias` instead would bypass adapters and quantised modules.
    """
    projected, row_sums = rows.squeeze(2).split([rows.shape[-1] - 1, 1], dim=-1)
    output = linear(nn.functional.pad(projected, (0, 0, 0, 1)))
    return output[:, :-1] + ((row_sums - 1) * output[:, -1:]).to(output.dtype)
