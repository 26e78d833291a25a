# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
This module projects the n rows of a sequence to k rows. It defines E and F of equation 7 of the paper, which are learned
matrices or poolings.

A pooling makes one row of each of k windows of consecutive tokens, by a mean or a maximum. The windows adapt to the length
of each sequence: the first token is alone in window 0, and the other tokens are divided evenly among windows 1 to k - 1. So
a sequence of at most k tokens has at most one token per window, and gets full attention. Padding is in no window.

In the shapes that comments and docstrings give, b is the batch size, n' the length of the input (n is the longest one that
the model reads), d the size of a row, h the number of heads, and m the number of blocks.
"""

from typing import NamedTuple

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils.generic import maybe_autocast


def number_of_blocks(length, block_size):
    """
    Returns m, the number of blocks that hold `length` tokens.

    In a compiled or exported model there is one more block, which holds only padding: torch treats a size of 1 as a
    constant, so a single block would need a graph of its own. The formula is not -(-length // block_size), because ONNX
    rounds negative quotients towards 0.
    """
    extra = block_size if torch.compiler.is_compiling() else 0
    return (length + extra + block_size - 1) // block_size


class Tokens:
    """
    Describes the tokens of a batch of sequences: which of them are padding, and where in their sequences the others are.

    Here one process holds complete sequences. In `sequence_parallel.SharedTokens`, a process holds a part of each sequence,
    and `sum` and `max` combine the parts of all processes.

    Attributes:
        mask: (b, n') boolean, False for padding, or None if there is no padding.
        offset: the number of positions before this part of the sequences.
        tokens_before: (b, 1), the number of tokens before this part of each sequence, or 0.
        seq_length: the length n' of the complete sequences, padding included.
        lengths: (b, 1), the number of tokens of each complete sequence without its padding, at least 1.
        index: (b, n'), the index of each token in its sequence, counted without padding. Padding has the index of the last
            token before it.
        chunk_size: the number of tokens that a layer computes at once, to save memory, or None for all tokens.
        kept: what `once` keeps for the next layers.
    """

    offset = tokens_before = 0
    chunk_size = None

    def __init__(self, shape, mask=None, device=None):
        if mask is not None:
            # A sequence that is all padding keeps its first token: otherwise its softmax would have nothing to sum
            is_first = torch.arange(shape[1], device=device) == 0
            mask = mask | (is_first & ~mask.any(1, keepdim=True))
        self.seq_length = shape[1]
        self.lengths = torch.full((shape[0], 1), shape[1], device=device) if mask is None else mask.sum(1, keepdim=True)
        self.set_index(shape, mask, device)

    def set_index(self, shape, mask, device):
        """Sets `mask` and `index`, of which the second follows from the first and from `tokens_before`."""
        self.mask, self.kept = mask, {}
        if mask is None:
            self.index = (torch.arange(shape[1], device=device) + self.tokens_before).expand(shape)
        else:
            self.index = (mask.cumsum(1) - 1 + self.tokens_before).clamp(min=0)

    def once(self, key, compute):
        """
        Returns `compute()`, which is called for the first layer that asks for it by this key, and kept for the others.

        What is kept must follow from the tokens, the configuration and the key alone.
        """
        if torch.compiler.is_compiling():  # a compiler finds out by itself what is the same in all layers
            return compute()
        if key not in self.kept:
            self.kept[key] = compute()
        return self.kept[key]

    def chunks(self):
        """Returns the slices that cut this part into chunks of `chunk_size` tokens."""
        length, size = self.index.shape[1], self.chunk_size
        return [slice(start, min(start + size, length)) for start in range(0, length, size)]

    def sum(self, part):
        """Returns the sum of `part` over all parts of a sequence, which is `part` itself in one process."""
        return part

    def max(self, part):
        """Returns the maximum of `part` over all parts of a sequence, which is `part` itself in one process."""
        return part

    def mean(self, rows):
        """Averages the rows (b, n', d) over each complete sequence without its padding, and returns (b, 1, d)."""

        def weights():
            is_token = torch.ones_like(self.index) if self.mask is None else self.mask
            return (is_token.to(torch.promote_types(rows.dtype, torch.float32)) / self.lengths).to(rows.dtype).unsqueeze(1)

        return self.sum(self.once(("weights", rows.dtype), weights) @ rows)

    def block_borders(self, block_size):
        """
        Returns two tensors (b, m, 1) for the blocks of this part: the index of the first token of each block, and the index
        of the first token after it.
        """
        return self.once(("block_borders", block_size), lambda: self.find_block_borders(block_size))

    def find_block_borders(self, block_size):
        seq_length = self.index.shape[1]
        blocks = number_of_blocks(seq_length, block_size)
        is_token = torch.ones_like(self.index) if self.mask is None else self.mask.long()
        sizes = nn.functional.pad(is_token, (0, blocks * block_size - seq_length)).unflatten(1, (blocks, block_size)).sum(-1)
        ends = sizes.cumsum(1) + self.tokens_before
        return (ends - sizes).unsqueeze(-1), ends.unsqueeze(-1)

    def block_of_position(self, block_size):
        """Returns (n',), the number of the block that each position of this part is in, counted from 0."""
        return torch.arange(self.index.shape[1], device=self.index.device) // block_size


class Windows:
    """
    Says which window each token of a batch is in, and sums up or looks up rows by it.

    Attributes:
        of_tokens: (b, n'), the number of each token's window, counted from 0.
        count: the number of windows of each sequence.
    """

    def __init__(self, of_tokens, count):
        self.of_tokens, self.count = of_tokens, count
        # The windows of all sequences are numbered one after the other, so that one dimension is left
        sequences = torch.arange(of_tokens.shape[0], device=of_tokens.device).unsqueeze(1)
        self.index = (of_tokens + count * sequences).flatten()

    def reduce(self, rows, start, reduction):
        windows = rows.new_full((rows.shape[0] * self.count, rows.shape[2]), start)
        # All features of a row have the same index, for which torch has a fast kernel
        index = self.index.unsqueeze(1).expand(-1, rows.shape[2])
        return windows.scatter_reduce(0, index, rows.flatten(0, 1), reduction).unflatten(0, (rows.shape[0], self.count))

    def sum(self, rows):
        """Returns the sums (b, count, d) of the rows (b, n', d) of each window."""
        return self.reduce(rows, 0, "sum")

    def add(self, sums, rows, chunk):
        """Adds the rows of a slice of the tokens, (b, length of the slice, d), to the sums (b, count, d)."""
        index = self.index.view_as(self.of_tokens)[:, chunk].reshape(-1, 1)
        sums.flatten(0, 1).scatter_add_(0, index.expand(-1, rows.shape[2]), rows.flatten(0, 1))

    def max(self, rows):
        """Returns the maxima (b, count, d) of the rows (b, n', d) of each window."""
        return self.reduce(rows, -torch.inf, "amax")

    def look_up(self, rows):
        """Returns the row of each token's window, (b, n', d), of rows (b, count, d)."""
        return rows.flatten(0, 1).index_select(0, self.index).unflatten(0, self.of_tokens.shape)


def once_per_input(method):
    """
    Lets all layers with the same k share what a method of a projection returns. Its first argument is `tokens`, and it must
    follow from the tokens, the other arguments, k and the configuration alone, and not from any layer's states.
    """

    def shared(self, tokens, *args):
        return tokens.once((method, self.projected_dim, *args), lambda: method(self, tokens, *args))

    return shared


class LinformerProjection(nn.Module):
    """
    Is the base class of all projections E and F. `forward` projects rows along the sequence, and `counts` tells the attention
    how many tokens each projected row counts for.

    `features_first` is True for a projection that has to be given keys and values: E_i acts on the features of one head
    only, or is not linear. Other projections are given hidden states. As E (X W + 1 bᵀ) = (E X) W + (E 1) bᵀ, only k rows
    instead of n are then multiplied by W.
    """

    features_first = False

    def __init__(self, config, layer_idx=0):
        super().__init__()
        self.projected_dim = config.projected_dims[layer_idx]

    def weigh(self, tokens, hidden_states, query, key):
        """
        Returns what `forward` and `counts` take as `weights`. Only `attention_pool` needs it, and computes it from the
        tokens; for all other projections it is None.
        """
        return None

    def window_middles(self, tokens):
        """Returns (b, k), the index of the token in the middle of each row's window, or None if rows have no windows."""
        return None

    def has_nothing_to_add(self, tokens, block_size):
        """Returns whether no row counts in any block, as there is only one, so that they need not be computed."""
        return not torch.compiler.is_compiling() and tokens.seq_length <= block_size

    def can_pool_hidden_states(self, hidden_states, tokens):
        """Returns whether the projection has `pool_hidden_states`, and whether that costs next to nothing at this length."""
        return False

    def forward(self, rows, tokens, weights=None):
        """Projects rows (b, n', d) to (b, k, d)."""
        raise NotImplementedError

    def row_sums(self, tokens, dtype):
        """Returns E 1, (b, k, 1): the sum of each row of E over the tokens of a sequence."""
        ones = torch.ones_like(tokens.index, dtype=dtype).unsqueeze(-1)
        return self.forward(ones, tokens)

    def counts(self, tokens, block_size, dtype, weights=None):
        """
        Returns the number of tokens that each projected row counts for in the softmax, (b, 1 or h, 1 or m, k), or None if
        each row counts for one token.

        With blocks, the number depends on the block. A row that counts for 0 tokens is left out. `dtype` is the dtype of
        keys and values.
        """
        raise NotImplementedError

    def log_counts(self, tokens, block_size, dtype, weights=None):
        """
        Returns log c for the `counts` c, in the same shape, or None if these are None. The attention adds it to the scores s
        of the projected rows, as exp(s + log c) = c exp(s).
        """
        if weights is None:  # then the counts are the same in all layers
            key = ("log_counts", self.projected_dim, block_size, dtype)
            return tokens.once(key, lambda: self.log(self.counts(tokens, block_size, dtype), dtype))
        return self.log(self.counts(tokens, block_size, dtype, weights), dtype)

    @staticmethod
    def log(counts, dtype):
        if counts is None:
            return None
        # A score of 0 would still count, so a row that is left out gets the lowest number of the dtype
        is_left_out = counts == 0
        counts = counts.to(torch.promote_types(dtype, torch.float32)).masked_fill(is_left_out, 1)
        return counts.log().to(dtype).masked_fill(is_left_out, torch.finfo(dtype).min)


def mean_pooling_matrix(k, n, device=None):
    """Returns the E, (k, n), that averages n positions over the windows of `mean_pool`: the first position is alone."""
    windows = min(1, k - 1) + torch.arange(n - 1, device=device) * (k - 1) // max(n - 1, 1)
    windows = nn.functional.pad(windows, (1, 0))
    E = torch.zeros(k, n, device=device).scatter(0, windows.unsqueeze(0), 1)
    return E / E.sum(1, keepdim=True)


class LinformerLearnedProjection(LinformerProjection):
    """
    Is the base class of the projections with parameters. If each head has its own E_i (`projection_sharing="none"`), the
    heads are the first dimension of the parameter.

    With blocks, a projected row also contains tokens of the block that attends to it. This is not corrected, as E can learn
    to deal with it. Only where a sequence has no token outside the block are its rows left out, as they would merely repeat
    the block, so that the sequence gets full attention.
    """

    def __init__(self, config, layer_idx=0):
        super().__init__(config, layer_idx)
        self.features_first = config.projection_sharing == "none"
        self.heads = (config.num_attention_heads,) if self.features_first else ()

    @property
    def learning_rate_factor(self):
        """
        Returns what the learning rate of Adam is to be multiplied by for the parameter: one by the number of tokens that a
        row sums up.

        Adam changes each of these weights by about the learning rate, whatever its size, and changes add up over the tokens.
        With this factor a step changes a row by at most the learning rate times the largest token, as it does anywhere else.
        """
        return 1 / self.weight.shape[-1]

    def has_nothing_to_add(self, tokens, block_size):
        # Data parallelism expects a gradient of each parameter, even if it is 0
        return not torch.is_grad_enabled() and super().has_nothing_to_add(tokens, block_size)

    def counts(self, tokens, block_size, dtype, weights=None):
        if not block_size:
            return None
        if tokens.mask is None and not torch.compiler.is_compiling() and tokens.seq_length > block_size:
            return None
        starts, ends = tokens.block_borders(block_size)
        return (tokens.lengths.unsqueeze(-1) > ends - starts).expand(-1, -1, self.projected_dim).unsqueeze(1)


class LinformerLinearProjection(LinformerLearnedProjection):
    """
    Projects with a learned matrix of shape (k, n), or (heads, k, n). Inputs shorter than n use its first columns.

    The matrix starts as the mean over k windows of positions, of which the first window holds the first position alone.
    Rows from N(0, 1/n) or xavier_uniform, as in fairseq, are mixtures of all tokens, in which a query finds nothing to look
    at, and the model learns more slowly.
    """

    def __init__(self, config, layer_idx=0):
        super().__init__(config, layer_idx)
        self.weight = nn.Parameter(torch.empty(*self.heads, self.projected_dim, config.max_position_embeddings))

    def init_weights(self):
        init.copy_(self.weight, mean_pooling_matrix(*self.weight.shape[-2:], self.weight.device))

    def forward(self, rows, tokens, weights=None):
        start, stop = tokens.offset, tokens.offset + rows.shape[1]
        if torch.compiler.is_compiling():
            # torch would assume that a slice leaves out some columns at every length; negative padding copies them instead
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
    Projects with a learned convolution along the sequence whose kernel and stride are n / k: each of the k rows of E has the
    same kernel of n / k weights, shifted by n / k columns from row to row. The kernel has the shape (n / k,), or
    (heads, n / k), and is initialised as mean pooling.
    """

    def __init__(self, config, layer_idx=0):
        super().__init__(config, layer_idx)
        self.weight = nn.Parameter(torch.empty(*self.heads, config.max_position_embeddings // self.projected_dim))

    def init_weights(self):
        init.constant_(self.weight, 1 / self.weight.shape[-1])

    @once_per_input
    def windows(self, tokens):
        """Returns the `Windows` of positions, at any length of a sequence. Padding is in window k, which is cut off later."""
        positions = tokens.offset + torch.arange(tokens.index.shape[1], device=tokens.index.device)
        windows = (positions // self.weight.shape[-1]).expand(tokens.index.shape)
        windows = windows if tokens.mask is None else windows.masked_fill(~tokens.mask, self.projected_dim)
        return Windows(windows, self.projected_dim + 1)

    def forward(self, rows, tokens, weights=None):
        positions = tokens.offset + torch.arange(rows.shape[1], device=rows.device)
        kernel = self.weight[..., positions % self.weight.shape[-1]]  # one weight per position
        if self.heads:
            rows = (rows.unflatten(-1, (*self.heads, -1)) * kernel.mT.unsqueeze(-1)).flatten(-2)
        else:
            rows = rows * kernel.unsqueeze(-1)
        sums = self.windows(tokens).sum(accumulable(rows))[:, :-1]
        return tokens.sum(sums.to(rows.dtype))

    def counts(self, tokens, block_size, dtype, weights=None):
        """Counts as any learned E does, and also without blocks leaves out windows that a short sequence does not reach."""
        ones = torch.ones_like(tokens.index, dtype=torch.float32).unsqueeze(-1)
        filled = tokens.sum(self.windows(tokens).sum(ones)[:, :-1]) > 0
        filled = filled.mT.unsqueeze(1)  # (b, 1, 1, k)
        counts = super().counts(tokens, block_size, dtype)
        return filled if counts is None else filled & counts


class LinformerMeanPoolProjection(LinformerProjection):
    """Averages each window. It has no parameters, and costs O(n d)."""

    def __init__(self, config, layer_idx=0):
        super().__init__(config, layer_idx)
        self.config = config

    @once_per_input
    def windows(self, tokens):
        """Returns the `Windows` of tokens. Padding is in window k, which is cut off later."""
        rest, others = self.shares(tokens)
        windows = torch.where(tokens.index == 0, 0, 1 + (tokens.index - 1) * rest // others)
        windows = windows if tokens.mask is None else windows.masked_fill(~tokens.mask, self.projected_dim)
        return Windows(windows, self.projected_dim + 1)

    @once_per_input
    def window_borders(self, tokens):
        """Returns (b, k + 1): the index of the first token of each window, and after them the length of the sequence."""
        rest, others = self.shares(tokens)
        steps = torch.arange(self.projected_dim, device=tokens.lengths.device)
        starts = 1 + (steps * (tokens.lengths - 1) + rest - 1) // rest
        return nn.functional.pad(starts, (1, 0)).minimum(tokens.lengths)

    @once_per_input
    def window_middles(self, tokens):
        """Returns (b, k), the index of the token in the middle of each window, or of the last one before it."""
        borders = self.window_borders(tokens)
        return (borders[:, :-1] + borders[:, 1:] - 1) // 2

    def shares(self, tokens):
        """
        Returns two tensors (b, 1): the number of windows that all tokens but the first share, and the number of these
        tokens, or 1 if there are none.
        """
        return tokens.lengths.clamp(2, self.projected_dim) - 1, (tokens.lengths - 1).clamp(min=1)

    def forward(self, rows, tokens, weights=None):
        sums = self.windows(tokens).sum(accumulable(rows))[:, :-1]
        sizes = self.sizes(tokens, 0).clamp(min=1).mT
        return (tokens.sum(sums) / sizes).to(rows.dtype)

    @once_per_input
    def row_sums(self, tokens, dtype):
        return (self.sizes(tokens, 0) > 0).mT.to(dtype)  # each window has a mean, unless it is empty

    @once_per_input
    def sizes(self, tokens, block_size):
        """Returns the number of tokens in each window, (b, 1, k), or with blocks, of those outside each block, (b, m, k)."""
        borders = self.window_borders(tokens)
        sizes = borders.diff().unsqueeze(1)
        if not block_size:
            return sizes
        starts, ends = tokens.block_borders(block_size)
        own = ends.minimum(borders[:, None, 1:]) - starts.maximum(borders[:, None, :-1])
        return sizes - own.clamp(min=0)

    def counts(self, tokens, block_size, dtype, weights=None):
        """
        Returns the number of tokens that each row counts for. Without blocks it is 1, as in the paper, and 0 for an empty
        window. With blocks, the rows stand beside single tokens, so each counts for its tokens outside the block.
        """
        sizes = self.sizes(tokens, block_size).unsqueeze(1)
        if not block_size:
            return sizes > 0
        return self.limit_counts(sizes.to(torch.promote_types(dtype, torch.float32)), tokens, block_size)

    def limit_counts(self, counts, tokens, block_size):
        """Reduces the counts, all by the same factor, where more than `far_token_limit` tokens are outside the block."""
        if self.config.far_token_limit is None:
            return counts
        return counts * self.far_share(tokens, block_size, counts.dtype)

    @once_per_input
    def far_share(self, tokens, block_size, dtype):
        """Returns (b, 1, m, 1), the share of the tokens outside each block that the rows count for."""
        starts, ends = tokens.block_borders(block_size)
        outside = (tokens.lengths.unsqueeze(-1) - (ends - starts)).unsqueeze(1)
        return (self.config.far_token_limit / outside.to(dtype)).clamp(max=1)


class LinformerMaxPoolProjection(LinformerMeanPoolProjection):
    """Takes the maximum of each feature over each window. It has no parameters, and costs O(n d)."""

    features_first = True

    def forward(self, rows, tokens, weights=None):
        maxima = self.windows(tokens).max(rows)[:, :-1]
        return tokens.max(maxima).masked_fill(self.sizes(tokens, 0).mT == 0, 0)


class AttentionPoolWeights(NamedTuple):
    of_tokens: torch.Tensor  # (b, n', h), with the sum 1 over each window
    counts: torch.Tensor  # (b, k, h), the number of tokens that each row counts for


class LinformerAttentionPoolProjection(LinformerMeanPoolProjection):
    """
    Takes a weighted mean over each window. For each head, the weights are the softmax, within the window, of the tokens'
    scores for the mean query of the sequence. So a row shows what a typical token would have attended to in its window.

    A row counts for as many tokens as the exponential of the entropy of its weights, which is c for c equal weights. With
    this count, it adds to the mean query's softmax sum what the tokens of its window add in full attention.

    The pooling has no parameters, and costs O(n d). It goes further than the paper, whose E does not depend on the input.
    """

    features_first = True

    def __init__(self, config, layer_idx=0):
        super().__init__(config, layer_idx)
        self.num_heads = config.num_attention_heads

    def mean_query(self, tokens, hidden_states, query):
        """
        Returns the mean query of each sequence, (b, 1, d), multiplied by the scale of the scores. It is computed as the query
        of the mean row, which is equal.
        """
        mean_query = accumulable(query(tokens.mean(hidden_states)))
        return mean_query * (mean_query.shape[-1] // self.num_heads) ** -0.5

    @once_per_input
    def features_of_heads(self, tokens, size):
        """Returns (h, d), 1 where a feature is one of the head, and 0 elsewhere."""
        return torch.eye(self.num_heads, device=tokens.index.device).repeat_interleave(size // self.num_heads, dim=1)

    def weigh(self, tokens, hidden_states, query, key):
        heads = self.features_of_heads(tokens, key.shape[-1])
        directions = self.mean_query(tokens, hidden_states, query) * heads  # (b, h, d), 0 in the other heads' features
        with maybe_autocast(key.device.type, enabled=False):
            scores = accumulable(key) @ directions.mT
        return self.weigh_scores(tokens, scores)

    def weigh_scores(self, tokens, scores):
        """Returns the `AttentionPoolWeights` that follow from the tokens' scores for the mean query, (b, n', h)."""
        windows = self.windows(tokens)
        scores = scores - windows.look_up(tokens.max(windows.max(scores.detach())))
        weights = scores.exp()
        sums, sums_of_scores = tokens.sum(windows.sum(torch.cat([weights, weights * scores], dim=-1))).chunk(2, dim=-1)
        sums = sums.clamp(min=torch.finfo(sums.dtype).tiny)  # an empty window has the sum 0
        entropies = sums.log() - sums_of_scores / sums
        return AttentionPoolWeights(weights / windows.look_up(sums), entropies[:, :-1].exp())

    def forward(self, rows, tokens, weights=None):
        def weighted(chunk):
            rows_of_heads = rows[:, chunk].unflatten(-1, (self.num_heads, -1))
            return (rows_of_heads * weights.of_tokens[:, chunk].unsqueeze(-1)).flatten(-2)

        windows = self.windows(tokens)
        if tokens.chunk_size is None:
            sums = windows.sum(weighted(slice(None)))
        else:  # there is no weighted copy of all rows
            sums = weights.counts.new_zeros(rows.shape[0], windows.count, rows.shape[-1])
            for chunk in tokens.chunks():
                windows.add(sums, weighted(chunk), chunk)
        return tokens.sum(sums[:, :-1]).to(rows.dtype)

    @once_per_input
    def windows_of_chunks(self, tokens):
        """Returns the slice of each chunk, and its first and last window. All windows of a chunk lie between these."""
        windows, borders = self.windows(tokens).of_tokens, []
        for chunk in tokens.chunks():
            first = windows[:, chunk].min().clamp(max=self.projected_dim - 1)  # a chunk of padding has none
            last = windows[:, chunk].where(windows[:, chunk] < self.projected_dim, first).max()
            borders.append((chunk, int(first), int(last)))
        return borders

    @once_per_input
    def windows_in_blocks(self, tokens, block_size):
        """Returns the `Windows` that result if borders of blocks cut windows apart, k + 1 per block."""
        num_windows, blocks = self.projected_dim + 1, tokens.block_of_position(block_size)
        num_blocks = number_of_blocks(blocks.shape[0], block_size)
        return Windows(blocks * num_windows + self.windows(tokens).of_tokens, num_blocks * num_windows)

    def counts(self, tokens, block_size, dtype, weights=None):
        counts = weights.counts.mT.unsqueeze(2)  # (b, h, 1, k)
        if block_size:
            # A row counts only as far as the weights of its window are outside the block
            own = self.windows_in_blocks(tokens, block_size).sum(weights.of_tokens)
            own = own.unflatten(1, (-1, self.projected_dim + 1))[:, :, :-1].permute(0, 3, 1, 2)  # (b, h, m, k)
            counts = self.limit_counts(counts * (1 - own).clamp(min=torch.finfo(own.dtype).tiny), tokens, block_size)
        return counts * self.is_counted(tokens, block_size)

    @once_per_input
    def is_counted(self, tokens, block_size):
        """Returns (b, 1, 1 or m, k), whether a row has a token outside the block, or without blocks, any token."""
        return (self.sizes(tokens, block_size) > 0).unsqueeze(1)

    def can_pool_hidden_states(self, hidden_states, tokens):
        return tokens.chunk_size is not None and tokens.seq_length >= 8 * hidden_states.shape[-1]

    def pool_hidden_states(self, hidden_states, tokens, query, key, value):
        """
        Returns the projected keys and values, (b, k, d) each, and the weights. For inference only.

        The keys and values of all tokens, which would take more memory than everything else, are not computed. As
        q (W x + b) = (W^T q) x + q b, the scores are computed from the hidden states; the term q b is the same for all tokens
        of a sequence, and cancels in the softmax. Only the weighted means of the hidden states are multiplied by W. Each W is
        read from the outputs of its module for the rows of an identity matrix, which costs as much as d more tokens.
        """
        identity = torch.eye(hidden_states.shape[-1], dtype=hidden_states.dtype, device=hidden_states.device)
        identity = nn.functional.pad(identity, (0, 0, 0, 1))
        (key_matrix, key_bias), (value_matrix, value_bias) = (self.matrix_and_bias(each(identity)) for each in (key, value))
        mean_query = self.mean_query(tokens, hidden_states, query).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        with maybe_autocast(key_matrix.device.type, enabled=False):
            directions = (key_matrix @ mean_query.mT).squeeze(-1)  # W^T q, (b, h, d)
            scores = [accumulable(hidden_states[:, chunk]) @ directions.mT for chunk in tokens.chunks()]
        weights = self.weigh_scores(tokens, torch.cat(scores, dim=1))
        pooled = tokens.sum(self.pool_for_each_head(hidden_states, tokens, weights))
        key_rows, value_rows = (
            (pooled @ matrix + bias).transpose(1, 2).flatten(2).to(hidden_states.dtype)
            for matrix, bias in ((key_matrix, key_bias), (value_matrix, value_bias))
        )
        return key_rows, value_rows, weights

    def pool_for_each_head(self, hidden_states, tokens, weights):
        """Multiplies the E of each head with the hidden states, and returns (b, h, k, d), in chunks of the tokens."""
        pooled = weights.counts.new_zeros(hidden_states.shape[0], self.num_heads, self.projected_dim, hidden_states.shape[2])
        for chunk, first, last in self.windows_of_chunks(tokens):
            own = self.windows(tokens).of_tokens[:, None, None, chunk]
            E = own == torch.arange(first, last + 1, device=own.device).unsqueeze(-1)  # (b, 1, few, chunk)
            E = (E * weights.of_tokens[:, chunk].mT.unsqueeze(2)).to(hidden_states.dtype)  # (b, h, few, chunk)
            pooled[:, :, first : last + 1] += (E.flatten(1, 2) @ hidden_states[:, chunk]).unflatten(1, E.shape[1:3])
        return pooled

    def matrix_and_bias(self, output):
        """
        Returns W^T, (h, d, d / h), and b, (h, 1, d / h). `output` is that of a module for an identity matrix, W^T + b, and
        for a row of zeros after it, b.
        """
        output = accumulable(output).unflatten(-1, (self.num_heads, -1)).transpose(0, 1)
        return output[:, :-1] - output[:, -1:], output[:, -1:]


def accumulable(rows):
    """Returns the rows in float32 at least, because sums over a window lose too much in half precision."""
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


PROJECTION_CLASSES = {
    "linear": LinformerLinearProjection,
    "conv": LinformerConvProjection,
    "mean_pool": LinformerMeanPoolProjection,
    "max_pool": LinformerMaxPoolProjection,
    "attention_pool": LinformerAttentionPoolProjection,
}
