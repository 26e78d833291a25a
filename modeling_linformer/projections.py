# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
This module defines E and F of equation 7 of the paper, which project the n keys and values of a sequence to k rows.

`linear` is the paper's learned matrix, in which each row is a sum over all positions. The other types are what the paper calls
general projections: each row stands for one window of w = n / k consecutive positions, by a convolution or by a pooling.

    position    0 1 2 3 4 5 6 7 8 9 10 11     n = 12, k = 3, w = 4
    row         |--0--| |--1--| |---2---|     an input of m positions has ceil(m / w) rows

A row of a window follows from that window alone. A window of padding alone is left out. The first g tokens of a sequence are
global if the configuration says so. Then they are keys themselves, and no block attends to the rows of their windows:

    position    0 1 2 3 4 5 6 7 8 9 10 11     g = 4
    keys        0 1 2 3   .   |--1--| |---2---|     the keys that all blocks share: g tokens, and then the rows

In the shapes that comments and docstrings give, B is the batch size, n' the length of the input (n is the longest one that the
model reads), k the number of rows, w the size of a window, g that of global tokens, h that of heads, d the hidden size, and
d_h = d / h.
"""

import copy
from typing import NamedTuple

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils.generic import maybe_autocast


class SharedKeys(NamedTuple):
    """Holds the keys that all blocks of a sequence share: its global tokens, and then its projected rows."""

    key: torch.Tensor  # (B, g + k, h, d_h), the rows being E K
    value: torch.Tensor  # (B, g + k, h, d_h), the rows being F V
    # (B, g + k, h), if a layer has its own: the logarithm of the number of tokens that each counts for
    log_counts: torch.Tensor | None = None


def left_out(dtype):
    """
    Returns what is added to the score of a key that is left out. It is half of the lowest number, so that the sum with a
    score stays finite: a query in the padding may have no other key, and a softmax over -inf alone would be NaN.
    """
    return torch.finfo(dtype).min / 2


def accumulation_dtype(dtype):
    """Returns float32 for half precision, in which scores and counts would be too coarse, and otherwise the dtype itself."""
    return dtype if dtype == torch.float64 else torch.float32


def number_of_parts(length, size):
    """
    Returns the number of windows or blocks of `size` positions that hold `length` positions.

    In a compiled or exported model there is one more, which holds padding alone: torch treats a size of 1 as a constant, so
    a single part would need a graph of its own. The formula is not -(-length // size), as ONNX rounds towards 0.
    """
    extra = size if torch.compiler.is_compiling() else 0
    return (length + extra + size - 1) // size


def split(states, size):
    """Cuts (B, n', ...) into windows or blocks of `size` positions, (B, parts, size, ...). Zeros fill up the last one."""
    length = states.shape[1]
    parts = number_of_parts(length, size)
    if torch.compiler.is_compiling() or length % size:
        states = nn.functional.pad(states, (0, 0) * (states.dim() - 2) + (0, parts * size - length))
    return states.unflatten(1, (parts, size))


def first_positions(states, number):
    """Returns the first `number` positions of (B, n', ...), or all if fewer. A compiled model then repeats the last one."""
    if not torch.compiler.is_compiling():
        return states[:, :number]
    positions = torch.arange(number, device=states.device)
    return states.index_select(1, positions.clamp(max=states.shape[1] - 1))


class Tokens:
    """
    Says which positions of a batch of sequences are tokens, and which are padding. `sequence_parallel.SharedTokens` does so
    for sequences of which each process holds a part.

    Attributes:
        mask: (B, n') boolean, False for padding, or None if there is no padding.
        length: n', the number of positions of this part.
        offset: the number of positions before this part of the sequences.
        totals: (B or 1, 1), the number of tokens of each complete sequence, at least 1.
        seq_length: the length of the complete sequences, padding included.
    """

    offset = 0

    def __init__(self, shape, mask=None, device=None):
        if mask is not None:
            # A sequence that is all padding keeps its first token: otherwise its softmax would have nothing to sum
            is_first = torch.arange(shape[1], device=device) == 0
            mask = mask | (is_first & ~mask.any(1, keepdim=True))
        self.mask, self.length, self.seq_length, self.device, self.kept = mask, shape[1], shape[1], device, {}
        self.totals = torch.full((1, 1), shape[1], device=device) if mask is None else mask.sum(1, keepdim=True)

    def once(self, key, compute):
        """Returns the result of `compute()`, which is called once and kept for all layers that ask for it by this key."""
        if torch.compiler.is_compiling():  # a compiler finds out by itself what is the same in all layers
            return compute()
        if key not in self.kept:
            self.kept[key] = compute()
        return self.kept[key]

    def part(self, positions):
        """Returns the `Tokens` of a slice of the positions."""
        part = copy.copy(self)
        part.mask = None if self.mask is None else self.mask[:, positions]
        part.length, part.offset, part.kept = positions.stop - positions.start, self.offset + positions.start, {}
        part.counts_of_windows, part.are_first_tokens = self.counts_of_windows, self.are_first_tokens
        return part

    def have_padding(self, size):
        """Returns whether there may be padding, also after the end, in parts of `size` positions. A compiled model has it."""
        return self.mask is not None or torch.compiler.is_compiling() or self.length % size > 0

    def are_tokens(self, size):
        """Returns (B or 1, parts, size), whether each position of each part of `size` positions is a token."""
        if self.mask is None:
            return split(torch.ones(1, self.length, dtype=torch.bool, device=self.device), size)
        return split(self.mask, size)

    def counts_of_windows(self, size):
        """Returns (B or 1, k), the number of tokens in each window of the complete sequences."""
        return self.once(("counts", size), lambda: self.are_tokens(size).sum(-1))

    def are_first_tokens(self, number):
        """Returns (B or 1, `number` or fewer), whether the first positions of the complete sequences are tokens."""

        def compute():
            columns = number if torch.compiler.is_compiling() else min(number, self.length)
            is_token = (torch.arange(columns, device=self.device) < self.length).unsqueeze(0)
            return is_token if self.mask is None else is_token & first_positions(self.mask, number)

        return self.once(("first", number), compute)

    def sum(self, part):
        """Returns the sum of `part` over the parts of a sequence in all processes, which is `part` itself in one process."""
        return part

    def complete(self, shared, E):
        """Returns the `SharedKeys` of complete sequences from those of all processes, which are these in one process."""
        return shared

    def mean(self, states):
        """Averages (B, n', d) over each complete sequence without its padding, and returns (B, 1, d)."""
        is_token = torch.ones_like(states[:1, :, 0]) if self.mask is None else self.mask
        weights = is_token.to(accumulation_dtype(states.dtype)) / self.totals
        return self.sum(weights.to(states.dtype).unsqueeze(1) @ states)


def multiply(left, right):
    """Multiplies matrices (B or 1, k or 1, ...) by (B, k, ...). `torch.matmul` does the same in more calls of kernels."""
    left = left.expand(*right.shape[:2], -1, -1)
    return torch.bmm(left.flatten(0, 1), right.flatten(0, 1)).unflatten(0, right.shape[:2])


def weigh_windows(E, states):
    """
    Returns the weighted sums over windows, (B, k, h, d_h), of states (B, n', h, d_h).

    E is (B or 1, k or 1, h or 1, w), the weights of the positions of each window. If each head has its own, one product gives
    the sums of all features, of which a head's own are taken: 2 n' h d flops, but none of the h strided products.
    """
    heads, windows = states.shape[2], split(states.flatten(2), E.shape[-1])  # (B, k, w, d)
    sums = multiply(E.to(states.dtype), windows).unflatten(-1, (heads, -1))  # (B, k, h or 1, h, d_h)
    return sums.squeeze(2) if E.shape[2] == 1 else sums.diagonal(dim1=2, dim2=3).mT


class LinformerProjection(nn.Module):
    """
    Is the base class of all projections E and F. `forward` projects (B, n', h, d_h) to (B, k, h, d_h).

    If a process, or a chunk, holds a part of the sequences, then the rows of windows follow one after the other. Without
    windows, where `window` is None, each row is a sum over all positions, so the rows of the parts are added.

    `needs_features` is True for a projection that is not linear, or not the same for all features. It has to be given keys
    and values. Others may be given hidden states. As E (X W + 1 biasᵀ) = (E X) W + (E 1) biasᵀ, W then multiplies k rows and
    not n hidden states. If `counts_tokens` is True, a row counts with blocks for as many tokens as its window has.
    """

    needs_features = counts_tokens = False

    def __init__(self, window=None, num_global_tokens=0):
        super().__init__()
        self.window, self.num_global_tokens = window, num_global_tokens

    def row_sums(self, tokens, dtype):
        """Returns E 1, (B or 1, k, 1, 1): the sum of each row of E over the tokens of a sequence."""
        return self(torch.ones(tokens.totals.shape[0], tokens.length, 1, 1, dtype=dtype, device=tokens.device), tokens)

    def num_rows(self, length):
        """Returns the number of rows of a sequence of `length` positions, those of global tokens included."""
        return number_of_parts(length, self.window)

    def num_keys(self, tokens, n):
        """Returns (g, k), the numbers of global tokens and of rows. A compiled model has as many as for n positions."""
        length = n if torch.compiler.is_compiling() else tokens.seq_length
        return min(self.num_global_tokens, length), self.num_rows(length)

    def spans(self, num_keys, device):
        """Returns the first and the last position that each of the g + k shared keys stands for, (g + k) each."""
        tokens, rows = (torch.arange(number, device=device) for number in num_keys)
        firsts = rows * self.window
        lasts = firsts + self.window - 1
        return (torch.cat([tokens, firsts]), torch.cat([tokens, lasts])) if num_keys[0] else (firsts, lasts)

    def counts(self, tokens):
        """Returns (B or 1, g + k), the number of tokens that each of the shared keys stands for."""
        counts = tokens.counts_of_windows(self.window)
        if self.num_global_tokens == 0:
            return counts
        return torch.cat([tokens.are_first_tokens(self.num_global_tokens), counts], dim=1)

    def share(self, query, key, value, tokens, F, scaling):
        """Returns the `SharedKeys` of these tokens by E, which is `self`, and F, from (B, n', h, d_h) for each argument."""
        rows = self.rows(query, key, value, tokens, F, scaling)
        if self.num_global_tokens == 0:
            return rows
        no_counts = tokens.once(("no_counts", key.dtype), lambda: key.new_zeros(())).expand(key.shape[:3])
        return SharedKeys(
            *(
                each if each is None else self.with_global_tokens(states, each, tokens)
                for states, each in zip((key, value, no_counts), rows)
            )
        )

    def rows(self, query, key, value, tokens, F, scaling):
        """Returns the rows as `share` does, without global tokens."""
        return SharedKeys(self(key, tokens), F(value, tokens))

    def with_global_tokens(self, states, rows, tokens):
        """
        Returns (B, g + k, ...): the global tokens among `states`, (B, n', ...), and the `rows`. Only the first part of a
        sequence has global tokens. Where rows are sums, those of the other parts are 0.
        """
        if self.num_global_tokens == 0:
            return rows
        if tokens.offset == 0:
            return torch.cat([first_positions(states, self.num_global_tokens), rows], dim=1)
        missing = 0 if self.window else min(self.num_global_tokens, tokens.seq_length)
        return nn.functional.pad(rows, (0, 0) * (rows.dim() - 2) + (missing, 0))


class LinformerLearnedProjection(LinformerProjection):
    """
    Is the base class of the projections with parameters. If each head has its own E_i (`projection_sharing="none"`), the
    heads are the first dimension of the parameter, and `heads` is the tuple of their number.
    """

    def __init__(self, window=None, heads=(), num_global_tokens=0):
        super().__init__(window, num_global_tokens)
        self.heads, self.needs_features = heads, bool(heads)

    @property
    def learning_rate_factor(self):
        """
        Returns what the learning rate of Adam is to be multiplied by: 1 divided by the number of tokens that a row sums up.

        Adam changes each weight by about the learning rate, whatever the weight's size, and a row sums up these changes over
        its tokens. With this factor, a step changes a row by at most the learning rate times the largest token.
        """
        return 1 / self.weight.shape[-1]


class LinformerLinearProjection(LinformerLearnedProjection):
    """
    Projects with a learned matrix of shape (k, n), or (heads, k, n). Inputs shorter than n use its first columns.

    With blocks, a row also contains tokens of the block that attends to it. This is not corrected, as E can learn to account
    for it. But if a sequence has no token outside a block, the block leaves the rows out, as they would only repeat it.

    The matrix starts as the mean over windows. If it starts from N(0, 1/n) or xavier_uniform, as in fairseq, each row is a
    random mixture of all tokens, and the model learns more slowly.
    """

    def __init__(self, k, n, heads=(), num_global_tokens=0):
        super().__init__(None, heads, num_global_tokens)
        self.weight = nn.Parameter(torch.empty(*heads, k, n))

    def init_weights(self):
        init.copy_(self.weight, mean_pooling_matrix(*self.weight.shape[-2:], self.weight.device))

    def num_rows(self, length):
        return self.weight.shape[-2]

    def spans(self, num_keys, device):
        tokens, rows = num_keys
        spans = nn.functional.pad(torch.arange(tokens, device=device), (0, rows), value=-1)  # a row stands for no position
        return spans, spans

    def counts(self, tokens):
        return nn.functional.pad(tokens.are_first_tokens(self.num_global_tokens).long(), (0, self.weight.shape[-2]), value=1)

    def forward(self, states, tokens):
        start, stop = tokens.offset, tokens.offset + tokens.length
        if torch.compiler.is_compiling():
            # torch would assume that a slice leaves out some columns at every length; negative padding copies them instead
            E = nn.functional.pad(self.weight, (-start, stop - self.weight.shape[-1]))
        else:
            E = self.weight[..., start:stop]  # (k, n') or (h, k, n')
        if tokens.mask is not None:
            E = E * (tokens.mask[:, None, None] if self.heads else tokens.mask[:, None])
        if self.heads:
            return (E @ states.transpose(1, 2)).transpose(1, 2)
        return (E @ states.flatten(2)).unflatten(-1, states.shape[2:])


def mean_pooling_matrix(k, n, device=None):
    """Returns the E, (k, n), that averages n positions over k windows, of which the first holds the first position alone."""
    windows = min(1, k - 1) + torch.arange(n - 1, device=device) * (k - 1) // max(n - 1, 1)
    windows = nn.functional.pad(windows, (1, 0))
    E = torch.zeros(k, n, device=device).scatter(0, windows.unsqueeze(0), 1)
    return E / E.sum(1, keepdim=True)


class LinformerConvProjection(LinformerLearnedProjection):
    """Projects with a convolution along the sequence, of kernel and stride w. Its weights are (w), or (heads, w)."""

    def __init__(self, window, heads=(), num_global_tokens=0):
        super().__init__(window, heads, num_global_tokens)
        self.weight = nn.Parameter(torch.empty(*heads, window))

    def init_weights(self):
        init.constant_(self.weight, 1 / self.window)

    def forward(self, states, tokens):
        E = self.weight if self.heads else self.weight.unsqueeze(0)  # (h or 1, w)
        return weigh_windows(E * tokens.are_tokens(self.window).unsqueeze(2), states)


class LinformerMeanPoolProjection(LinformerProjection):
    """Takes the mean of the tokens of each window. It has no parameters, and costs O(n d)."""

    counts_tokens = True

    def mean_weights(self, tokens, dtype):
        """Returns (B or 1, k, 1, w), the weight of each position in the mean of the tokens of its window."""

        def compute():
            is_token = tokens.are_tokens(self.window).unsqueeze(2).to(accumulation_dtype(dtype))
            return is_token / is_token.sum(-1, keepdim=True).clamp(min=1)

        return tokens.once(("mean_weights", self.window, dtype), compute)

    def forward(self, states, tokens):
        return weigh_windows(self.mean_weights(tokens, states.dtype), states)


class LinformerMaxPoolProjection(LinformerProjection):
    """Takes the maximum of each feature over the tokens of each window. It has no parameters, and costs O(n d)."""

    needs_features = counts_tokens = True

    def forward(self, states, tokens):
        windows = split(states, self.window)  # (B, k, w, h, d_h)
        if tokens.have_padding(self.window):
            is_token = tokens.are_tokens(self.window)[..., None, None]
            windows = windows.masked_fill(~is_token, torch.finfo(states.dtype).min)
            return windows.amax(2).masked_fill(~is_token.any(2), 0)
        return windows.amax(2)


class LinformerAttentionPoolProjection(LinformerMeanPoolProjection):
    """
    Takes a weighted mean of each window. For each head, the weights are the softmax of the tokens' scores for the mean query
    of the window, so a row holds what a typical token of the window attends to within it.

    A row counts for as many tokens as the exponential of the entropy of its weights, which is c for c equal weights. With
    this count, it adds to the softmax sum of the mean query what the tokens of its window would add. The counts have no
    gradient: they describe the weights, and a mask with a gradient would keep torch from its fast attention kernels.

    The pooling has no parameters, and costs O(n d). It goes further than the paper, whose E does not depend on the input.
    """

    needs_features, counts_tokens = True, False

    def rows(self, query, key, value, tokens, F, scaling):
        weights = self.weights(query, key, tokens, scaling)
        log_counts = torch.special.entr(weights.detach()).sum(-1)  # (B, k, h)
        return SharedKeys(weigh_windows(weights, key), weigh_windows(weights, value), log_counts)

    def weights(self, query, key, tokens, scaling):
        """Returns E of each head, (B, k, h, w): the softmax of the window's scores for its mean query, in float32 at least."""
        heads, head_size = query.shape[2:]
        query, key = (states.flatten(2).to(accumulation_dtype(states.dtype)) for states in (query, key))
        # For each head, the scale at its own features and 0 at all others, so that one product gives the scores of all heads
        of_head = tokens.once(
            ("of_head", query.dtype), lambda: scaling * torch.eye(heads).repeat_interleave(head_size, 1).to(query)
        )
        with maybe_autocast(query.device.type, enabled=False):
            mean_query = multiply(self.mean_weights(tokens, query.dtype), split(query, self.window))  # (B, k, 1, d)
            scores = multiply(of_head * mean_query, split(key, self.window).mT)  # (B, k, h, w)
        if tokens.have_padding(self.window):
            is_padding = tokens.once(("is_padding", self.window), lambda: ~tokens.are_tokens(self.window).unsqueeze(2))
            scores = scores.masked_fill(is_padding, left_out(scores.dtype))
        return scores.softmax(-1)


class LinformerHardAttentionPoolProjection(LinformerAttentionPoolProjection):
    """
    Takes, for each head, the one token of each window that has the largest score for the mean query of the window. So a row is
    a real key and its value, and counts as one token. The choice itself has no gradient.
    """

    def rows(self, query, key, value, tokens, F, scaling):
        weights = self.weights(query.detach(), key.detach(), tokens, scaling)
        weights = nn.functional.one_hot(weights.argmax(-1), self.window).to(key.dtype)
        return SharedKeys(weigh_windows(weights, key), weigh_windows(weights, value))


POOLINGS = {
    "mean_pool": LinformerMeanPoolProjection,
    "max_pool": LinformerMaxPoolProjection,
    "attention_pool": LinformerAttentionPoolProjection,
    "hard_attention_pool": LinformerHardAttentionPoolProjection,
}


def make_projection(config, layer_idx=0):
    """Returns a new E or F for a layer of a `LinformerConfig`."""
    heads = (config.num_attention_heads,) if config.projection_sharing == "none" else ()
    if config.projection_type == "linear":
        sizes = (config.projected_dims[layer_idx], config.max_position_embeddings)
        return LinformerLinearProjection(*sizes, heads, config.num_global_tokens)
    if config.projection_type == "conv":
        return LinformerConvProjection(config.windows[layer_idx], heads, config.num_global_tokens)
    return POOLINGS[config.projection_type](config.windows[layer_idx], config.num_global_tokens)
