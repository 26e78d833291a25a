# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
What projects the n rows of a sequence to k: E and F of the paper's equation 7, learned matrices or poolings.

A pooling averages each of k windows of consecutive tokens. Its windows adapt to each sequence's own length: the first
token is alone in window 0, and the others share windows 1 to k - 1 evenly, so that a sequence of at most k tokens has at
most one token per window, which is full attention. A sequence's padding is in no window.

In the shapes after tensor steps, b is the batch, n' the length of the input (n is the longest one), d the size of a row,
h the heads, and m the blocks of a layer.
"""

from typing import NamedTuple

import torch
from torch import nn
from transformers import initialization as init


def number_of_blocks(length, block_size):
    """
    m, the blocks that hold `length` tokens. Compiled or exported, one more, of padding alone: torch takes a size of 1 for a
    constant, so that a single block would need a graph of its own. (Not -(-length // block_size): ONNX rounds towards 0.)
    """
    extra = block_size if torch.compiler.is_compiling() else 0
    return (length + extra + block_size - 1) // block_size


class Tokens:
    """
    The tokens of a batch of sequences: which of them are padding, and where the others stand.

    Here a process holds whole sequences. `sequence_parallel.SharedTokens` is the same for parts of sequences, with `sum`
    and `max` over the processes that hold the parts.

    Attributes:
        mask: (b, n') boolean, False for padding, or None if there is no padding.
        offset: the number of positions before this part.
        seq_length: n' of the whole sequences, padding included.
        lengths: (b, 1), the number of tokens of each whole sequence without its padding, at least 1.
        index: (b, n'), of each token among those of its sequence. Padding has the index of the last token before it.
        chunk_size: how many tokens a layer computes at once, to save memory, or None for all.
    """

    offset = 0
    chunk_size = None

    def __init__(self, shape, mask=None, device=None):
        if mask is not None:
            # A sequence of padding alone keeps one token, or its softmax would have nothing to sum
            is_first = torch.arange(shape[1], device=device) == 0
            mask = mask | (is_first & ~mask.any(1, keepdim=True))
        self.set_part(shape, mask, device)
        self.seq_length, self.lengths, self.index = shape[1], self.local_lengths, self.local_index

    def set_part(self, shape, mask, device):
        self.mask = mask
        if mask is None:
            self.local_index = torch.arange(shape[1], device=device).expand(shape)
            self.local_lengths = torch.full((shape[0], 1), shape[1], device=device)
        else:
            self.local_index = (mask.cumsum(1) - 1).clamp(min=0)
            self.local_lengths = mask.sum(1, keepdim=True)

    def chunks(self):
        """The slices of `chunk_size` tokens that this part consists of."""
        length, size = self.index.shape[1], self.chunk_size
        return [slice(start, min(start + size, length)) for start in range(0, length, size)]

    def sum(self, part):
        """The sum of `part` over all parts of a sequence."""
        return part

    def max(self, part):
        """The maximum of `part` over all parts of a sequence."""
        return part

    def mean(self, rows):
        """(b, n', d) -> (b, 1, d): the mean over each whole sequence, without its padding."""
        weights = torch.ones_like(rows[..., 0]) if self.mask is None else self.mask
        weights = weights.to(torch.promote_types(rows.dtype, torch.float32)) / self.lengths
        return self.sum(weights.to(rows.dtype).unsqueeze(1) @ rows)

    def block_borders(self, block_size):
        """Two tensors (b, m, 1): the index of the first token of each block of this part, and of the first one after it."""
        seq_length = self.index.shape[1]
        blocks = number_of_blocks(seq_length, block_size)
        is_token = torch.ones_like(self.index) if self.mask is None else self.mask.long()
        sizes = nn.functional.pad(is_token, (0, blocks * block_size - seq_length)).unflatten(1, (blocks, block_size)).sum(-1)
        ends = sizes.cumsum(1) + (self.index[:, :1] - self.local_index[:, :1])
        return (ends - sizes).unsqueeze(-1), ends.unsqueeze(-1)

    def block_of_position(self, block_size):
        """(n',): the number of the block of this part that each position is in."""
        return torch.arange(self.index.shape[1], device=self.index.device) // block_size


def sum_windows(rows, windows, num_windows, reduce="sum"):
    """(b, n', d) rows of the `windows` (b, n') -> (b, num_windows, d), their sums, or the maxima with `reduce="amax"`."""
    batch_size, _, size = rows.shape
    index = windows + num_windows * torch.arange(batch_size, device=rows.device).unsqueeze(1)
    start = rows.new_full((batch_size * num_windows, size), -torch.inf if reduce == "amax" else 0)
    # One index for a whole row is the case that torch has a fast kernel for
    sums = start.scatter_reduce(0, index.reshape(-1, 1).expand(-1, size), rows.flatten(0, 1), reduce)
    return sums.unflatten(0, (batch_size, num_windows))


class LinformerProjection(nn.Module):
    """
    E, or F. `forward` projects rows along the sequence; the attention asks what a projected row counts for.

    `features_first` says whether it needs keys and values to project (E_i of a head acts on that head's features only, or
    is not linear), rather than hidden states: E (X W + 1 bᵀ) = (E X) W + (E 1) bᵀ lets W meet k rows instead of n.
    """

    features_first = False

    def __init__(self, config, layer_idx=0):
        super().__init__()
        self.projected_dim = config.projected_dims[layer_idx]

    def weigh(self, tokens, hidden_states, query, key):
        """What `forward` and `counts` need besides, which only `attention_pool` computes from the tokens."""
        return None

    def can_pool_hidden_states(self, hidden_states, tokens):
        """Whether `pool_hidden_states` is there, and costs next to nothing at this length."""
        return False

    def forward(self, rows, tokens, weights=None):
        """(b, n', d) -> (b, k, d)."""
        raise NotImplementedError

    def row_sums(self, tokens, dtype):
        """E 1, the sums of E's rows over a sequence's tokens, (b, k, 1)."""
        ones = torch.ones_like(tokens.index, dtype=dtype).unsqueeze(-1)
        return self.forward(ones, tokens)

    def counts(self, tokens, block_size, dtype, weights=None):
        """
        The number of tokens that each row counts for in the softmax, (b, 1 or h, 1 or m, k), or None if that is 1 for each.
        With blocks it depends on the block. A row that counts for 0 is left out. `dtype` is that of keys and values.
        """
        raise NotImplementedError

    def log_counts(self, tokens, block_size, dtype, weights=None):
        """What `counts` add to the rows' scores, as exp(s + log c) = c exp(s), in the same shape, or None for nothing."""
        counts = self.counts(tokens, block_size, dtype, weights)
        if counts is None:
            return None
        # A score of 0 would still count, so a row that is left out gets the lowest there is
        is_left_out = counts == 0
        counts = counts.to(torch.promote_types(dtype, torch.float32)).masked_fill(is_left_out, 1)
        return counts.log().to(dtype).masked_fill(is_left_out, torch.finfo(dtype).min)


class LinformerLearnedProjection(LinformerProjection):
    """
    With its own E_i for each head (sharing "none"), the parameter has the heads as its first dimension.

    With blocks, nothing is corrected for a block's own tokens, as E learns what to do. Only a sequence that has no token
    outside a block has no use for rows of itself: they are left out, and it gets full attention.
    """

    def __init__(self, config, layer_idx=0):
        super().__init__(config, layer_idx)
        self.features_first = config.projection_sharing == "none"
        self.heads = (config.num_attention_heads,) if self.features_first else ()

    def counts(self, tokens, block_size, dtype, weights=None):
        if not block_size:
            return None
        if tokens.mask is None and not torch.compiler.is_compiling() and tokens.seq_length > block_size:
            return None
        starts, ends = tokens.block_borders(block_size)
        return (tokens.lengths.unsqueeze(-1) > ends - starts).expand(-1, -1, self.projected_dim).unsqueeze(1)


class LinformerLinearProjection(LinformerLearnedProjection):
    """
    A learned matrix of shape (k, n), or (heads, k, n). Inputs shorter than n use its first columns.

    Initialised from N(0, 1/n), so that the projected rows of n independent tokens have the tokens' own scale, whatever n
    and k are, and so do the scores. The random projection of the paper's theorem 2, N(0, 1/k), makes them sqrt(n/k) times
    as large (its proof needs that E^T E keeps P; here the scores themselves are projected); fairseq's xavier_uniform with
    gain 1/sqrt(2) has the variance 1/(n + k), which is this one for k much smaller than n.
    """

    def __init__(self, config, layer_idx=0):
        super().__init__(config, layer_idx)
        self.weight = nn.Parameter(torch.empty(*self.heads, self.projected_dim, config.max_position_embeddings))

    def init_weights(self):
        init.normal_(self.weight, mean=0.0, std=self.weight.shape[-1] ** -0.5)

    def forward(self, rows, tokens, weights=None):
        start, stop = tokens.offset, tokens.offset + rows.shape[1]
        if torch.compiler.is_compiling():
            # A slice would be taken for one that is not of all columns, at every length; this copies
            E = nn.functional.pad(self.weight, (-start, stop - self.weight.shape[-1]))
        else:
            E = self.weight[..., start:stop]
        if self.heads:
            rows = rows.unflatten(-1, (*self.heads, -1)).transpose(1, 2)  # (b, h, n', d / h)
        if tokens.mask is not None:
            E = E * (tokens.mask[:, None, None] if self.heads else tokens.mask[:, None])  # (b, [h,] k, n')
        projected = E @ rows
        return tokens.sum(projected.transpose(1, 2).flatten(2) if self.heads else projected)


class LinformerConvProjection(LinformerLearnedProjection):
    """
    A learned convolution along the sequence with kernel and stride n / k: E repeats one kernel of n / k weights in each of
    its k rows, a window further each time. The kernel has the shape (n / k,), or (heads, n / k). Initialised as mean
    pooling.
    """

    def __init__(self, config, layer_idx=0):
        super().__init__(config, layer_idx)
        self.weight = nn.Parameter(torch.empty(*self.heads, config.max_position_embeddings // self.projected_dim))

    def init_weights(self):
        init.constant_(self.weight, 1 / self.weight.shape[-1])

    def windows(self, tokens):
        """(b, n'): by position, whatever the sequence's length. Padding goes to a window k, to be thrown away."""
        positions = tokens.offset + torch.arange(tokens.index.shape[1], device=tokens.index.device)
        windows = (positions // self.weight.shape[-1]).expand(tokens.index.shape)
        return windows if tokens.mask is None else windows.masked_fill(~tokens.mask, self.projected_dim)

    def forward(self, rows, tokens, weights=None):
        positions = tokens.offset + torch.arange(rows.shape[1], device=rows.device)
        kernel = self.weight[..., positions % self.weight.shape[-1]]  # of each position
        if self.heads:
            rows = (rows.unflatten(-1, (*self.heads, -1)) * kernel.mT.unsqueeze(-1)).flatten(-2)
        else:
            rows = rows * kernel.unsqueeze(-1)
        sums = sum_windows(accumulable(rows), self.windows(tokens), self.projected_dim + 1)[:, :-1]
        return tokens.sum(sums.to(rows.dtype))

    def counts(self, tokens, block_size, dtype, weights=None):
        """As for any learned E; and the windows that a short sequence does not reach are left out, also without blocks."""
        ones = torch.ones_like(tokens.index, dtype=torch.float32).unsqueeze(-1)
        filled = tokens.sum(sum_windows(ones, self.windows(tokens), self.projected_dim + 1)[:, :-1]) > 0
        filled = filled.mT.unsqueeze(1)  # (b, 1, 1, k)
        counts = super().counts(tokens, block_size, dtype)
        return filled if counts is None else filled & counts


class LinformerMeanPoolProjection(LinformerProjection):
    """The mean over each window. No parameters, O(n d)."""

    def __init__(self, config, layer_idx=0):
        super().__init__(config, layer_idx)
        self.config = config

    def windows(self, tokens):
        """(b, n'): the window of each token. Padding goes to a window k, to be thrown away."""
        rest, others = self.shares(tokens)
        windows = torch.where(tokens.index == 0, 0, 1 + (tokens.index - 1) * rest // others)
        return windows if tokens.mask is None else windows.masked_fill(~tokens.mask, self.projected_dim)

    def window_borders(self, tokens):
        """(b, k + 1): the index of the first token of each window, and the sequence's length."""
        rest, others = self.shares(tokens)
        steps = torch.arange(self.projected_dim, device=tokens.lengths.device)
        starts = 1 + (steps * (tokens.lengths - 1) + rest - 1) // rest
        return nn.functional.pad(starts, (1, 0)).minimum(tokens.lengths)

    def shares(self, tokens):
        """(b, 1), (b, 1): how many windows all tokens but the first share, and how many tokens these are, or 1 if none."""
        return tokens.lengths.clamp(2, self.projected_dim) - 1, (tokens.lengths - 1).clamp(min=1)

    def forward(self, rows, tokens, weights=None):
        sums = sum_windows(accumulable(rows), self.windows(tokens), self.projected_dim + 1)[:, :-1]
        sizes = self.window_borders(tokens).diff().clamp(min=1).unsqueeze(-1)
        return (tokens.sum(sums) / sizes).to(rows.dtype)

    def sizes(self, tokens, block_size):
        """(b, 1 or m, k): the number of tokens of each window; with blocks, of those outside the block."""
        borders = self.window_borders(tokens)
        sizes = borders.diff().unsqueeze(1)
        if not block_size:
            return sizes
        starts, ends = tokens.block_borders(block_size)
        own = ends.minimum(borders[:, None, 1:]) - starts.maximum(borders[:, None, :-1])
        return sizes - own.clamp(min=0)

    def counts(self, tokens, block_size, dtype, weights=None):
        """Without blocks each row counts as one token, as in the paper; beside single tokens it counts for its own."""
        sizes = self.sizes(tokens, block_size).unsqueeze(1)
        if not block_size:
            return sizes > 0
        return self.limit_counts(sizes.to(torch.promote_types(dtype, torch.float32)), tokens, block_size)

    def limit_counts(self, counts, tokens, block_size):
        """Fewer for each row, in proportion, where more than `far_token_limit` tokens are outside the block."""
        limit = self.config.far_token_limit
        if limit is None:
            return counts
        starts, ends = tokens.block_borders(block_size)
        outside = (tokens.lengths.unsqueeze(-1) - (ends - starts)).unsqueeze(1)  # (b, 1, m, 1)
        return counts * (limit / outside.to(counts.dtype)).clamp(max=1)


class LinformerMaxPoolProjection(LinformerMeanPoolProjection):
    """The maximum over each window, of each feature. No parameters, O(n d)."""

    features_first = True

    def forward(self, rows, tokens, weights=None):
        maxima = sum_windows(rows, self.windows(tokens), self.projected_dim + 1, "amax")[:, :-1]
        is_empty = self.window_borders(tokens).diff().unsqueeze(-1) == 0
        return tokens.max(maxima).masked_fill(is_empty, 0)


class AttentionPoolWeights(NamedTuple):
    of_tokens: torch.Tensor  # (b, n', h), whose sum over each window is 1
    counts: torch.Tensor  # (b, k, h)


class LinformerAttentionPoolProjection(LinformerMeanPoolProjection):
    """
    A weighted mean over each window: for each head, a softmax within the window of the tokens' scores for the sequence's
    mean query. So a row shows what a typical token would have attended to in its window. It counts for the number of tokens
    that its weights amount to, the exponential of their entropy (c for c equal ones), which gives the mean query the sum
    that full attention gives it. No parameters, O(n d). A step further than the paper, whose E does not depend on the input.
    """

    features_first = True

    def __init__(self, config, layer_idx=0):
        super().__init__(config, layer_idx)
        self.num_heads = config.num_attention_heads

    def mean_query(self, tokens, hidden_states, query):
        """(b, 1, d), scaled as scores are. The mean of queries is the query of the mean row."""
        mean_query = accumulable(query(tokens.mean(hidden_states)))
        return mean_query * (mean_query.shape[-1] // self.num_heads) ** -0.5

    def weigh(self, tokens, hidden_states, query, key):
        heads = torch.eye(self.num_heads, device=key.device).repeat_interleave(key.shape[-1] // self.num_heads, dim=1)
        directions = self.mean_query(tokens, hidden_states, query) * heads  # (b, h, d), of each head's features alone
        return self.weigh_scores(tokens, accumulable(key) @ directions.mT)

    def weigh_scores(self, tokens, scores):
        """Of the scores (b, n', h) for the mean query."""
        windows, num_windows = self.windows(tokens), self.projected_dim + 1

        def of_token(values):
            return values.gather(1, windows.unsqueeze(-1).expand_as(scores))

        scores = scores - of_token(tokens.max(sum_windows(scores.detach(), windows, num_windows, "amax")))
        weights = scores.exp()
        sums = tokens.sum(sum_windows(torch.cat([weights, weights * scores], dim=-1), windows, num_windows))
        sums, sums_of_scores = sums.chunk(2, dim=-1)
        sums = sums.clamp(min=torch.finfo(sums.dtype).tiny)  # of an empty window
        entropies = sums.log() - sums_of_scores / sums
        return AttentionPoolWeights(weights / of_token(sums), entropies[:, :-1].exp())

    def forward(self, rows, tokens, weights=None):
        rows_of_heads = rows.unflatten(-1, (self.num_heads, -1))
        if tokens.chunk_size is not None:
            sums = self.sum_in_chunks(rows_of_heads.transpose(1, 2), tokens, weights).transpose(1, 2).flatten(2)
        else:
            weighted = (rows_of_heads * weights.of_tokens.unsqueeze(-1)).flatten(-2)
            sums = sum_windows(weighted, self.windows(tokens), self.projected_dim + 1)[:, :-1]
        return tokens.sum(sums).to(rows.dtype)

    def sum_in_chunks(self, rows, tokens, weights):
        """(b, h or 1, n', size) -> (b, h, k, size): E of a chunk after the other, without a weighted copy of all rows."""
        windows = self.windows(tokens)
        sums = weights.counts.new_zeros(rows.shape[0], self.num_heads, self.projected_dim + 1, rows.shape[-1])
        for chunk in tokens.chunks():
            # A chunk's tokens are in few windows, one after another
            own = windows[:, None, None, chunk]
            first = own.min()
            last = own.where(own < self.projected_dim, first).max()
            E = own == torch.arange(first, last + 1, device=own.device).unsqueeze(-1)  # (b, 1, few, chunk)
            E = (E * weights.of_tokens[:, chunk].mT.unsqueeze(2)).to(rows.dtype)  # (b, h, few, chunk)
            if rows.shape[1] == 1:  # one product for all heads
                part = (E.flatten(1, 2) @ rows[:, 0, chunk]).unflatten(1, E.shape[1:3])
            else:
                part = E @ rows[:, :, chunk]
            sums[:, :, first : last + 1] += part
        return sums[:, :, :-1]

    def counts(self, tokens, block_size, dtype, weights=None):
        counts = weights.counts.mT.unsqueeze(2)  # (b, h, 1, k)
        if block_size:
            # What of a window's weights lies outside the block
            num_windows, blocks = self.projected_dim + 1, tokens.block_of_position(block_size)
            num_blocks = number_of_blocks(blocks.shape[0], block_size)
            own = sum_windows(weights.of_tokens, blocks * num_windows + self.windows(tokens), num_blocks * num_windows)
            own = own.unflatten(1, (num_blocks, num_windows))[:, :, :-1].permute(0, 3, 1, 2)  # (b, h, m, k)
            counts = self.limit_counts(counts * (1 - own).clamp(min=torch.finfo(own.dtype).tiny), tokens, block_size)
        return counts * (self.sizes(tokens, block_size) > 0).unsqueeze(1)

    def can_pool_hidden_states(self, hidden_states, tokens):
        return tokens.chunk_size is not None and tokens.seq_length >= 8 * hidden_states.shape[-1]

    def pool_hidden_states(self, hidden_states, tokens, query, key, value):
        """
        The projected keys and values, (b, k, d), and the weights, without the keys and values of all tokens, which are more
        memory than all else: q (W x + b) = (W^T q) x + q b lets scores be taken of hidden states, whose weighted means then
        meet W. The matrices are what the modules make of the rows of an identity matrix, so this costs as much as d tokens
        more. For inference only.
        """
        identity = torch.eye(hidden_states.shape[-1], dtype=hidden_states.dtype, device=hidden_states.device)
        identity = nn.functional.pad(identity, (0, 0, 0, 1))
        (key_matrix, key_bias), (value_matrix, value_bias) = (self.matrix_and_bias(each(identity)) for each in (key, value))
        mean_query = self.mean_query(tokens, hidden_states, query).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        directions = (key_matrix @ mean_query.mT).squeeze(-1)  # W^T q, (b, h, d)
        scores = [accumulable(hidden_states[:, chunk]) @ directions.mT for chunk in tokens.chunks()]
        weights = self.weigh_scores(tokens, torch.cat(scores, dim=1))
        pooled = tokens.sum(self.sum_in_chunks(hidden_states.unsqueeze(1), tokens, weights))
        key_rows, value_rows = (
            (pooled @ matrix + bias).transpose(1, 2).flatten(2).to(hidden_states.dtype)
            for matrix, bias in ((key_matrix, key_bias), (value_matrix, value_bias))
        )
        return key_rows, value_rows, weights

    def matrix_and_bias(self, output):
        """W^T, (h, d, d / h), and b, (h, 1, d / h), from W^T + b with a row of b alone after it."""
        output = accumulable(output).unflatten(-1, (self.num_heads, -1)).transpose(0, 1)
        return output[:, :-1] - output[:, -1:], output[:, -1:]


def accumulable(rows):
    """In float32 at least: sums over a window lose too much in half precision."""
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


PROJECTION_CLASSES = {
    "linear": LinformerLinearProjection,
    "conv": LinformerConvProjection,
    "mean_pool": LinformerMeanPoolProjection,
    "max_pool": LinformerMaxPoolProjection,
    "attention_pool": LinformerAttentionPoolProjection,
}
