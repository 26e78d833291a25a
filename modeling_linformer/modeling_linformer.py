# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Linformer: self-attention with linear complexity (Wang, Li, Khabsa, Fang, Ma, 2020, https://arxiv.org/abs/2006.04768).

The model is a RoBERTa encoder whose keys and values are projected along the sequence, from n rows to k, before the softmax.
For head i with E_i and F_i of shape (k, n), equation 7 of the paper defines:

    head_i = softmax( Q W_i^Q (E_i K W_i^K)^T / sqrt(d_head) ) . F_i V W_i^V

With `block_size`, a token also attends exactly to the tokens of its own block. `LinformerSelfAttention` computes both kinds of
attention, projections.py defines E and F, and sequence_parallel.py shares a sequence among processes.

The names are those of the paper: n is the number of tokens that the model reads at most, k is the number of projected rows, E
projects the keys and F the values. In the shapes that comments and docstrings give, b is the batch size, n' the length of the
input, h the number of heads, d the hidden size, and m the number of blocks.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import CrossEntropyLoss
from transformers import initialization as init
from transformers.activations import ACT2FN, gelu
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPooling,
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.pytorch_utils import apply_chunking_to_forward
from transformers.utils import TransformersKwargs, auto_docstring
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.import_utils import is_tracing
from transformers.utils.output_capturing import capture_outputs

from .configuration_linformer import LinformerConfig
from .projections import PROJECTION_CLASSES, LinformerLearnedProjection, Tokens, number_of_blocks
from .sequence_parallel import SequenceParallelMixin


class LinformerEmbeddings(nn.Module):
    """Adds up the embeddings of words, positions and token types, and maps them to the hidden size if they have another."""

    def __init__(self, config):
        super().__init__()
        size = config.size_of_embeddings
        self.word_embeddings = nn.Embedding(config.vocab_size, size, padding_idx=config.pad_token_id)
        self.position_period = config.position_period
        self.position_embeddings = nn.Embedding(config.position_period or config.max_position_embeddings, size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, size)
        self.LayerNorm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.projection = None if size == config.hidden_size else nn.Linear(size, config.hidden_size)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        attention_mask: torch.BoolTensor | None = None,
    ) -> torch.Tensor:
        if inputs_embeds is None:
            inputs_embeds = self.word_embeddings(input_ids)
        if attention_mask is not None:
            # Nothing in the padding may reach a sum or a gradient, not even NaN
            inputs_embeds = inputs_embeds.masked_fill(~attention_mask.unsqueeze(-1), 0)
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(position_ids)

        embeddings = inputs_embeds + self.token_type_embeddings(token_type_ids)
        if self.position_period is not None:
            position_ids = position_ids % self.position_period
        embeddings = embeddings + self.position_embeddings(position_ids)
        embeddings = self.dropout(self.LayerNorm(embeddings))
        return embeddings if self.projection is None else self.projection(embeddings)


def check_inputs(model, input_ids, input_shape, attention_mask, token_type_ids, position_ids, is_first_part, kwargs):
    """
    Raises `ValueError` for an input that is no batch of sequences, for ids that have no embedding, for a mask that is not 1
    for tokens and 0 for padding, or begins with padding, and for documents packed in one row.

    `is_first_part` is False where other processes have the tokens before these.
    """
    if len(input_shape) != 2:
        raise ValueError(
            f"The input has the shape {tuple(input_shape)} and not that of a batch, (sequences, tokens). Give a single"
            " sequence as a batch of one (`input_ids.unsqueeze(0)`)."
        )
    if attention_mask is not None and attention_mask.shape != input_shape:
        raise ValueError(
            f"`attention_mask` must have the input's shape {tuple(input_shape)}, got {tuple(attention_mask.shape)}. A"
            " Linformer has no n x n scores, so it takes only padding masks: 1 for a token, 0 for padding."
        )
    words = getattr(model.get_input_embeddings(), "num_embeddings", 0)  # of those that replaced the model's own, too
    check_ids("input_ids", input_ids, input_shape, max(words, model.config.vocab_size), "vocab_size")
    check_ids("token_type_ids", token_type_ids, input_shape, model.config.type_vocab_size, "type_vocab_size")
    longest = model.config.max_position_embeddings
    check_ids("position_ids", position_ids, input_shape, longest, "max_position_embeddings")
    if attention_mask is not None and has_known_values(attention_mask):
        is_token = attention_mask == 1
        wrong = attention_mask[~is_token & (attention_mask != 0)].tolist()
        # A floating mask of zeros alone would mask nothing if it was to be added to scores
        if wrong or (attention_mask.is_floating_point() and not is_token.any()):
            raise ValueError(
                f"`attention_mask` must be 1 for a token and 0 for padding, got {wrong[0] if wrong else 'only 0.0'}. If it is"
                " to be added to scores, 0 for a token and -inf for padding, pass `mask == 0` instead."
            )
        if is_first_part:
            check_padding_side(attention_mask)
    packed = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx")
    packed = [name for name in packed if kwargs.get(name) is not None]
    packed += ["position_ids"] if has_packed_documents(position_ids, attention_mask) else []
    if packed:
        raise ValueError(
            f"`{packed[0]}` says that there are several documents in one row. A Linformer would mix them, as it projects"
            " complete rows. Give each document a row of its own (`DataCollatorWithPadding`)."
        )


def check_ids(name, ids, input_shape, number, field):
    """Raises `ValueError` for ids that have not the input's shape, or, where to look costs nothing, not the number's range."""
    if ids is None:
        return
    if ids.dim() != 2 or ids.shape[1] != input_shape[1] or ids.shape[0] not in (1, input_shape[0]):
        raise ValueError(f"`{name}` must have the input's shape {tuple(input_shape)}, got {tuple(ids.shape)}.")
    if has_known_values(ids) and ids.numel():
        lowest, highest = (each.item() for each in ids.aminmax())
        if lowest < 0 or highest >= number:
            raise ValueError(
                f"`{name}` must be from 0 to {number - 1}, below `{field}`, got {lowest if lowest < 0 else highest}."
            )


def check_padding_side(attention_mask):
    """Raises `ValueError` if a row of the mask begins with padding and has tokens, where to look costs nothing."""
    if has_known_values(attention_mask) and attention_mask.numel():
        is_token = attention_mask != 0
        rows = (~is_token[:, 0] & is_token.any(1)).nonzero().flatten().tolist()
        if rows:
            raise ValueError(
                f"Row {rows[0]} of `attention_mask` begins with padding. Blocks and projected rows are counted from the left,"
                ' so pad on the right (`tokenizer.padding_side = "right"`).'
            )


def has_packed_documents(position_ids, attention_mask):
    """Returns whether position ids restart in the middle of a row, where to look costs nothing. Those of padding may."""
    if position_ids is None or not has_known_values(position_ids):
        return False
    steps, is_first = position_ids.diff(), position_ids[:, 1:] == position_ids[:, :1]
    is_padding = torch.tensor(False) if attention_mask is None else attention_mask[:, 1:] == 0
    restarts = (is_first & (steps < 0) & ~is_padding).any(1)
    return bool((restarts & (is_first | (steps == 1) | is_padding).all(1)).any())


def has_known_values(tensor):
    """Returns whether to look at a tensor's values costs nothing: for those on a GPU one has to wait, a graph has none."""
    return tensor.device.type == "cpu" and not is_tracing(tensor)


def has_shared_projection(config):
    """Returns whether all layers share one E = F. Poolings never do: they have no parameters, and k may differ per layer."""
    return config.projection_sharing == "layerwise" and config.has_learned_projection


def split_blocks(rows, block_size):
    """Cuts rows (b, n', ...) into blocks (b, m, block_size, ...), and fills up the last block with zeros."""
    length = rows.shape[1]
    blocks = number_of_blocks(length, block_size)
    if torch.compiler.is_compiling() or length % block_size:  # a compiled graph must not depend on the length
        rows = nn.functional.pad(rows, (0, 0) * (rows.dim() - 2) + (0, blocks * block_size - length))
    return rows.unflatten(1, (blocks, block_size))


# The next two functions flatten to one dimension first. Otherwise a compiled graph would depend on m, and torch would compile
# again for another m.


def merge_blocks(rows):
    """Merges the batch and the blocks into one dimension, from (b, m, ...) to (b m, ...)."""
    return rows.flatten().unflatten(0, (-1, *rows.shape[2:]))


def join_blocks(rows, batch_size, length):
    """Joins blocks (b m, block_size, ...) to rows (b, n', ...), without the zeros that the last block was filled up with."""
    rows = rows.flatten().unflatten(0, (batch_size, -1, *rows.shape[2:]))
    if torch.compiler.is_compiling():
        # The graph of a slice would depend on whether it takes all rows
        return rows.index_select(1, torch.arange(length, device=rows.device))
    return rows[:, :length]


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    input_shape: tuple[int, int] | None = None,
    **kwargs: Unpack[TransformersKwargs],
):
    attn_weights = torch.matmul(query, key.transpose(2, 3)) * scaling  # (b, h, n', k) or (b m, h, block_size, block_size + k)
    if attention_mask is not None:
        attn_weights = attn_weights + attention_mask

    attn_weights = nn.functional.softmax(attn_weights, dim=-1)
    attn_weights = nn.functional.dropout(attn_weights, p=dropout, training=module.training)
    weights_of_blocks = attn_weights
    if module.block_size:
        # The weights are returned per token, not per block. The output is computed from these, so that they get a gradient
        attn_weights = join_blocks(attn_weights.transpose(1, 2), *input_shape)  # (b, n', h, block_size + k)
        attn_weights = attn_weights.transpose(1, 2)
        weights_of_blocks = merge_blocks(split_blocks(attn_weights.transpose(1, 2), query.shape[2])).transpose(1, 2)

    attn_output = torch.matmul(weights_of_blocks, value)
    attn_output = attn_output.transpose(1, 2).contiguous()

    return attn_output, attn_weights


class LinformerRelativeAttentionBias(nn.Embedding):
    """
    Holds the bias of the scores for each bucket of distances and each head, as in MPNet and T5.

    Of the buckets, half are for keys to the right of a query. Of each half, one half is for a distance each, and the rest
    divide the distances up to 128 evenly on a logarithmic scale. The last bucket has all that are further away, too.
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


class RelativePositions(NamedTuple):
    """Holds what the relative positions of a layer follow from."""

    bias: LinformerRelativeAttentionBias
    index: torch.Tensor  # (b, n'), the index of each token
    middles: torch.Tensor | None  # (b, k), the index of the token in the middle of each projected row's window, if it has one

    def bias_of_rows(self):
        """Returns what is added to the scores of the projected rows, (b, n', h, k)."""
        return self.bias(self.middles.unsqueeze(1) - self.index.unsqueeze(2)).transpose(2, 3)

    def bias_of_block(self, size):
        """Returns what is added to the scores of the tokens in a block for each other, (h, size, size)."""
        steps = torch.arange(size, device=self.index.device)
        return self.bias(steps - steps.unsqueeze(1)).movedim(-1, 0)


class LinformerProjected(NamedTuple):
    """
    Holds what the tokens of a layer attend to besides their own block. It also has the keys and values of all tokens, if the
    projection needed them.
    """

    key_rows: torch.Tensor | None  # E K, (b, h, k, d / h), or None if no row would count
    value_rows: torch.Tensor | None  # F V, (b, h, k, d / h)
    log_counts: torch.Tensor | None  # log c, (b, 1 or h, 1 or m, k); the dtype's lowest number leaves out a row
    mask: torch.Tensor | None  # (b, n')
    key: torch.Tensor | None  # K, (b, n', d)
    value: torch.Tensor | None  # V, (b, n', d)
    positions: RelativePositions | None = None

    def of_rows(self, rows: slice, block_size: int):
        """Returns the `LinformerProjected` of a slice of the tokens. The slice must begin where a block begins."""
        mask, key, value = (None if x is None else x[:, rows] for x in (self.mask, self.key, self.value))
        log_counts = self.log_counts
        if log_counts is not None and log_counts.shape[2] > 1:
            log_counts = log_counts[:, :, rows.start // block_size : -(-rows.stop // block_size)]
        positions = self.positions
        if positions is not None:
            positions = positions._replace(index=positions.index[:, rows])
        return LinformerProjected(self.key_rows, self.value_rows, log_counts, mask, key, value, positions)

    def bias_of_rows(self):
        """Returns what is added to the scores of the projected rows without blocks, (b, 1 or h, 1 or n', k), or None."""
        if self.positions is None or self.positions.middles is None:
            return self.log_counts
        bias = self.positions.bias_of_rows().transpose(1, 2)
        return bias if self.log_counts is None else bias + self.log_counts


def join_rows_to_blocks(query, key, value, projected, block_size):
    """
    Returns what each block computes its attention from: the queries, (b m, h, block_size, d / h), the keys and the values,
    (b m, h, block_size + k, d / h) each, and what is added to the scores, (b m, 1 or h, 1 or block_size, block_size + k), or
    None if nothing is. In the keys and values, the projected rows come after the block's own.

    `query`, `key` and `value` are those of all tokens, (b, n', h, d / h).
    """
    batch_size, length = query.shape[:2]
    block_size = block_size if torch.compiler.is_compiling() else min(block_size, length)
    query, key, value = (split_blocks(rows, block_size) for rows in (query, key, value))
    blocks, k = key.shape[1], 0
    query = merge_blocks(query).transpose(1, 2)
    if projected.key_rows is None:
        key, value = (merge_blocks(rows).transpose(1, 2) for rows in (key, value))
    else:
        k = projected.key_rows.shape[2]
        key, value = (
            merge_blocks(torch.cat([own.transpose(2, 3), rows.unsqueeze(1).expand(-1, blocks, -1, -1, -1)], dim=3))
            for own, rows in ((key, projected.key_rows), (value, projected.value_rows))
        )
    is_full = not torch.compiler.is_compiling() and length % block_size == 0
    if projected.mask is None and projected.log_counts is None and projected.positions is None and is_full:
        return query, key, value, None

    is_token = projected.mask
    if is_token is None:
        is_token = torch.ones(batch_size, length, dtype=torch.bool, device=query.device)
    is_token = split_blocks(is_token, block_size).unsqueeze(2)  # (b, m, 1, block_size)
    bias = torch.zeros_like(is_token, dtype=query.dtype).masked_fill(~is_token, torch.finfo(query.dtype).min)
    log_counts = query.new_zeros(1, 1, 1, 1) if projected.log_counts is None else projected.log_counts
    log_counts = log_counts.transpose(1, 2).expand(batch_size, blocks, -1, k)  # (b, m, 1 or h, k)
    bias = torch.cat([bias.expand(-1, -1, log_counts.shape[2], -1), log_counts], dim=-1)
    bias = merge_blocks(bias).unsqueeze(2)
    if projected.positions is not None:
        own = projected.positions.bias_of_block(block_size)
        if projected.positions.middles is None:
            bias = bias + nn.functional.pad(own, (0, k))
        else:
            rows = merge_blocks(split_blocks(projected.positions.bias_of_rows(), block_size)).transpose(1, 2)
            bias = bias + torch.cat([own.expand(rows.shape[0], -1, -1, -1), rows], dim=-1)
    return query, key, value, bias


class LinformerSelfAttention(nn.Module):
    """
    Computes equation 7 of the paper for all heads of a layer. With blocks B of `block_size` tokens, one softmax covers the
    tokens of the block and the projected rows:

        head_i(B) = softmax( [ Q_B K_B^T / sqrt(d_head) , Q_B (E_i K)^T / sqrt(d_head) + log c_B ] ) . [ V_B ; F_i V ]

    Here each projected row counts for c_B tokens outside B. `project` computes E_i K and F_i V, which are all that a token
    needs of other blocks. `forward` computes the rest, for all tokens or for a slice of whole blocks.
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

        projection_class = PROJECTION_CLASSES[config.projection_type]
        has_own_F = config.projection_sharing in ("none", "headwise") and config.has_learned_projection
        self.E = None if has_shared_projection(config) else projection_class(config, layer_idx)
        self.F = projection_class(config, layer_idx) if has_own_F else None

    def project(
        self,
        hidden_states: torch.Tensor,
        tokens: Tokens,
        shared_projection: nn.Module | None = None,
        relative_attention_bias: nn.Module | None = None,
    ) -> LinformerProjected:
        E = shared_projection if self.E is None else self.E
        F = E if self.F is None else self.F
        key = value = weights = None
        positions = None
        if relative_attention_bias is not None:
            positions = RelativePositions(relative_attention_bias, tokens.index, E.window_middles(tokens))
        # The eager kernel returns the weights of rows, too
        if E.has_nothing_to_add(tokens, self.block_size) and self.config._attn_implementation != "eager":
            positions = None if positions is None else positions._replace(middles=None)
            return LinformerProjected(None, None, None, tokens.mask, None, None, positions)
        if E.can_pool_hidden_states(hidden_states, tokens):
            modules = (self.query, self.key, self.value)
            key_rows, value_rows, weights = E.pool_hidden_states(hidden_states, tokens, *modules)
        elif E.features_first:
            key, value = self.key(hidden_states), self.value(hidden_states)
            weights = E.weigh(tokens, hidden_states, self.query, key)
            key_rows, value_rows = E(key, tokens, weights), F(value, tokens, weights)
        else:
            key_rows = value_rows = (E(hidden_states, tokens), E.row_sums(tokens, hidden_states.dtype))
            if F is not E:
                value_rows = (F(hidden_states, tokens), F.row_sums(tokens, hidden_states.dtype))
            key_rows = self.linear_after_projection(self.key, *key_rows)
            value_rows = self.linear_after_projection(self.value, *value_rows)
        log_counts = E.log_counts(tokens, self.block_size, key_rows.dtype, weights)
        key_rows, value_rows = self.split_heads(key_rows), self.split_heads(value_rows)
        return LinformerProjected(key_rows, value_rows, log_counts, tokens.mask, key, value, positions)

    def forward(
        self, hidden_states: torch.Tensor, projected: LinformerProjected, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        query = self.query(hidden_states)
        if self.block_size:
            key = self.key(hidden_states) if projected.key is None else projected.key
            value = self.value(hidden_states) if projected.value is None else projected.value
            query, key, value = (rows.unflatten(-1, (-1, self.attention_head_size)) for rows in (query, key, value))
            query, key, value, bias = join_rows_to_blocks(query, key, value, projected, self.block_size)
        else:
            query, key, value = self.split_heads(query), projected.key_rows, projected.value_rows  # (b, h, n' or k, d / h)
            bias = projected.bias_of_rows()
        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attn_output, attn_weights = attention_interface(
            self,
            query,
            key,
            value,
            bias,
            dropout=0.0 if not self.training else self.dropout.p,
            scaling=self.scaling,
            input_shape=hidden_states.shape[:2],
            **kwargs,
        )
        attn_output = attn_output.flatten(2)
        return join_blocks(attn_output, *hidden_states.shape[:2]) if self.block_size else attn_output, attn_weights

    @staticmethod
    def linear_after_projection(linear, projected, row_sums):
        # E (X W + 1 bᵀ) = (E X) W + (E 1) bᵀ: the sequence is projected first, so that W is applied to k rows instead of n'.
        # A row of zeros gives b. Reading `linear.bias` instead would bypass adapters and quantised modules.
        output = linear(nn.functional.pad(projected, (0, 0, 0, 1)))
        return output[:, :-1] + ((row_sums - 1) * output[:, -1:]).to(output.dtype)

    def split_heads(self, rows):
        return rows.unflatten(-1, (-1, self.attention_head_size)).transpose(-3, -2)


class LinformerSelfOutput(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor, input_tensor: torch.Tensor) -> torch.Tensor:
        hidden_states = self.dense(hidden_states)
        hidden_states = self.dropout(hidden_states)
        hidden_states = self.LayerNorm(hidden_states + input_tensor)
        return hidden_states


class LinformerAttention(nn.Module):
    def __init__(self, config, layer_idx=None):
        super().__init__()
        self.self = LinformerSelfAttention(config, layer_idx=layer_idx)
        self.output = LinformerSelfOutput(config)

    def forward(
        self, hidden_states: torch.Tensor, projected: LinformerProjected, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        attention_output, _ = self.self(hidden_states, projected, **kwargs)
        return self.output(attention_output, hidden_states)


class LinformerIntermediate(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.intermediate_act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.dense(hidden_states)
        hidden_states = self.intermediate_act_fn(hidden_states)
        return hidden_states


class LinformerOutput(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor, input_tensor: torch.Tensor) -> torch.Tensor:
        hidden_states = self.dense(hidden_states)
        hidden_states = self.dropout(hidden_states)
        hidden_states = self.LayerNorm(hidden_states + input_tensor)
        return hidden_states


def tokens_per_chunk(chunk_size, seq_length, multiple, device):
    """
    Returns the number of tokens that are computed at once, a multiple of all block sizes, or None for all tokens. It is None
    with gradients, because these need the intermediate results of all tokens anyway. `chunk_size` is as in `LinformerConfig`.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return None
    if chunk_size is None:
        # A CPU finds what it has just computed in its caches. Other devices take chunks to save memory alone.
        chunk_size = 512 if device.type == "cpu" else 16384 if seq_length >= 65536 else 0
    chunk_size = -(-chunk_size // multiple) * multiple
    return chunk_size if 0 < chunk_size < seq_length else None


def in_chunks(forward, tokens, output=None):
    """
    Calls `forward` once, with the slice of all tokens, or if `tokens.chunk_size` is set, for one chunk after the other, with
    the slice of each. Returns the results of all tokens, (b, n', d).

    The results of the chunks are written into `output` if it is given and has their dtype, and into a new tensor otherwise.
    """
    seq_length = tokens.index.shape[1]
    if tokens.chunk_size is None:
        return forward(slice(0, seq_length))
    for rows in tokens.chunks():
        chunk = forward(rows)
        if output is None or output.dtype != chunk.dtype:
            output = chunk.new_empty(chunk.shape[0], seq_length, chunk.shape[2])
        output[:, rows] = chunk
        del chunk  # otherwise it would take memory until the next one is complete
    return output


class LinformerLayer(GradientCheckpointingLayer):
    def __init__(self, config, layer_idx=None):
        super().__init__()
        self.chunk_size_feed_forward = config.chunk_size_feed_forward
        self.seq_len_dim = 1
        self.attention = LinformerAttention(config, layer_idx=layer_idx)
        self.intermediate = LinformerIntermediate(config)
        self.output = LinformerOutput(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        tokens: Tokens,
        shared_projection: nn.Module | None = None,
        relative_attention_bias: nn.Module | None = None,
        in_place: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """Computes the layer, in chunks if `tokens` has a chunk size. With `in_place`, they overwrite `hidden_states`."""
        attention = self.attention.self
        projected = attention.project(hidden_states, tokens, shared_projection, relative_attention_bias)
        if tokens.chunk_size is None:
            return self.forward_chunk(hidden_states, projected, **kwargs)
        return in_chunks(
            lambda rows: self.forward_chunk(hidden_states[:, rows], projected.of_rows(rows, attention.block_size), **kwargs),
            tokens,
            hidden_states if in_place else None,
        )

    def forward_chunk(self, hidden_states, projected, **kwargs):
        attention_output = self.attention(hidden_states, projected, **kwargs)
        return apply_chunking_to_forward(
            self.feed_forward_chunk, self.chunk_size_feed_forward, self.seq_len_dim, attention_output
        )

    def feed_forward_chunk(self, attention_output):
        intermediate_output = self.intermediate(attention_output)
        return self.output(intermediate_output, attention_output)


class LinformerEncoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        # With layerwise sharing, the only E = F of the model belongs to the encoder, so that it is stored once
        self.E = PROJECTION_CLASSES[config.projection_type](config) if has_shared_projection(config) else None
        self.layer = nn.ModuleList([LinformerLayer(config, layer_idx=i) for i in range(config.num_hidden_layers)])
        has_bias = config.relative_attention_num_buckets is not None
        self.relative_attention_bias = LinformerRelativeAttentionBias(config) if has_bias else None

    def forward(
        self,
        hidden_states: torch.Tensor,
        tokens: Tokens,
        in_place: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        shared = {"shared_projection": self.E, "relative_attention_bias": self.relative_attention_bias}
        for layer_module in self.layer:
            hidden_states = layer_module(hidden_states, tokens, **shared, in_place=in_place, **kwargs)

        return BaseModelOutput(last_hidden_state=hidden_states)


class LinformerPooler(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = nn.Tanh()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        # We "pool" the model by simply taking the hidden state corresponding to the first token.
        return self.activation(self.dense(hidden_states[:, 0]))


@auto_docstring
class LinformerPreTrainedModel(SequenceParallelMixin, PreTrainedModel):
    config: LinformerConfig
    base_model_prefix = "linformer"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _no_split_modules = ["LinformerEmbeddings", "LinformerLayer"]
    # accelerate moves the arguments of an offloaded layer to its device. These modules have hooks, which load their weights
    _skip_keys_device_placement = ["shared_projection", "relative_attention_bias"]
    _can_record_outputs = {
        "hidden_states": LinformerLayer,
        "attentions": LinformerSelfAttention,
    }

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, LinformerLearnedProjection):
            module.init_weights()
        elif isinstance(module, LinformerLMHead):
            init.zeros_(module.bias)


@auto_docstring(
    custom_intro="""
    The Linformer encoder: RoBERTa's layers, with self-attention whose keys and values are projected from n rows to k along the
    sequence, as in equation 7 of [Linformer: Self-Attention with Linear Complexity](https://huggingface.co/papers/2006.04768).
    """
)
class LinformerModel(LinformerPreTrainedModel):
    _auto_class = "AutoModel"

    def __init__(self, config: LinformerConfig, add_pooling_layer=True):
        r"""
        add_pooling_layer (bool, *optional*, defaults to `True`):
            Whether to add a pooling layer
        """
        super().__init__(config)
        self.embeddings = LinformerEmbeddings(config)
        self.encoder = LinformerEncoder(config)
        self.pooler = LinformerPooler(config) if add_pooling_layer else None

        # Initialize weights and apply final processing
        self.post_init()

    def get_input_embeddings(self):
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value):
        self.embeddings.word_embeddings = value

    @merge_with_config_defaults
    @capture_outputs
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor] | BaseModelOutputWithPooling:
        r"""
        attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
            1 for tokens that are read, 0 for padding. The outputs do not depend on the padding. Positions count from the
            left, so pad on the right, as tokenizers do by default.

        Raises `ValueError` for inputs longer than `config.max_position_embeddings`, for masks and ids whose shape differs from
        the input's, and for the arguments of packed documents. It is also raised for other values than 0 and 1 in a mask, for
        one that begins with padding, for `position_ids` that restart, and for ids that have no embedding, but only on the CPU
        and not in a compiled model. A GPU takes any value but 0 for a 1.
        """
        if (input_ids is None) ^ (inputs_embeds is not None):
            raise ValueError("You must specify exactly one of input_ids or inputs_embeds")

        input_shape = input_ids.shape if input_ids is not None else inputs_embeds.shape[:-1]
        is_first_part = self.sequence_mesh is None or self.sequence_mesh.get_local_rank() == 0
        ids = (input_ids, input_shape, attention_mask, token_type_ids, position_ids)
        check_inputs(self, *ids, is_first_part, kwargs)
        if attention_mask is not None:
            attention_mask = attention_mask.bool()
            if has_known_values(attention_mask) and attention_mask.all():
                attention_mask = None  # nothing is padding, and all is faster without a mask
        device = input_ids.device if input_ids is not None else inputs_embeds.device
        tokens = self.make_tokens(input_shape, attention_mask, device)
        if 0 in (input_shape[0], tokens.seq_length):
            raise ValueError(
                f"The input has the shape {tuple(input_shape)}, so there is nothing to read. Give the model at least one"
                " sequence, and at least one token of each."
            )
        if tokens.seq_length > self.config.max_position_embeddings:
            raise ValueError(
                f"The input is {tokens.seq_length} tokens long, but this model reads at most"
                f" `max_position_embeddings` = {self.config.max_position_embeddings}. Truncate it"
                f" (`tokenizer(..., truncation=True, max_length={self.config.max_position_embeddings})`) or use a model"
                " with a larger `max_position_embeddings`."
            )

        if not kwargs.get("output_attentions", self.config.output_attentions):
            chunk_size, multiple = self.config.inference_chunk_size, self.config.block_multiple
            tokens.chunk_size = tokens_per_chunk(chunk_size, tokens.seq_length, multiple, device)
        if position_ids is None:
            position_ids = tokens.offset + torch.arange(input_shape[1], device=device).unsqueeze(0)

        def embed(rows):
            inputs = (input_ids, token_type_ids, position_ids, inputs_embeds, attention_mask)
            return self.embeddings(*(None if rows_of is None else rows_of[:, rows] for rows_of in inputs))

        hidden_states = in_chunks(embed, tokens)
        # Layers may overwrite their input, as nothing else uses it, unless all hidden states are to be returned
        in_place = not kwargs.get("output_hidden_states", self.config.output_hidden_states)
        sequence_output = self.encoder(hidden_states, tokens, in_place, **kwargs).last_hidden_state
        pooled_output = self.pooler(self.first_token(sequence_output)) if self.pooler is not None else None

        return BaseModelOutputWithPooling(last_hidden_state=sequence_output, pooler_output=pooled_output)


class LinformerLMHead(nn.Module):
    """Scores the vocabulary for masked language modeling."""

    def __init__(self, config):
        super().__init__()
        size = config.size_of_embeddings
        self.dense = nn.Linear(config.hidden_size, size)
        self.layer_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)

        self.decoder = nn.Linear(size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x = self.dense(features)
        x = gelu(x)
        x = self.layer_norm(x)

        # project back to size of vocabulary with bias
        return self.decoder(x)


@auto_docstring
class LinformerForMaskedLM(LinformerPreTrainedModel):
    _auto_class = "AutoModelForMaskedLM"
    _labels_are_of_tokens = True
    _tied_weights_keys = {
        "lm_head.decoder.weight": "linformer.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    }

    def __init__(self, config: LinformerConfig):
        super().__init__(config)
        self.linformer = LinformerModel(config, add_pooling_layer=False)
        self.lm_head = LinformerLMHead(config)
        self.sparse_prediction = config.sparse_prediction

        # Initialize weights and apply final processing
        self.post_init()

    def get_output_embeddings(self):
        return self.lm_head.decoder

    def set_output_embeddings(self, new_embeddings):
        self.lm_head.decoder = new_embeddings

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor] | MaskedLMOutput:
        r"""
        labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
            Labels for computing the masked language modeling loss. Indices should be in `[-100, 0, ...,
            config.vocab_size]` (see `input_ids` docstring) Tokens with indices set to `-100` are ignored (masked), the
            loss is only computed for the tokens with labels in `[0, ..., config.vocab_size]`. With
            `config.sparse_prediction`, only these tokens have logits, of shape `(number of labelled tokens, vocab_size)`.
        logits_to_keep (`torch.Tensor`, *optional*):
            The positions at which the vocabulary is scored, as the logits of all positions of a long input are far larger
            than the model. Give indices along the sequence for logits of shape `(batch_size, len(logits_to_keep),
            vocab_size)`, or a boolean mask of shape `(batch_size, sequence_length)`, such as `input_ids ==
            tokenizer.mask_token_id`, for logits of shape `(number of kept tokens, vocab_size)`.
        """
        outputs = self.linformer(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **kwargs,
        )
        sequence_output = outputs.last_hidden_state
        if labels is not None:
            labels = labels.to(sequence_output.device)
            if self.sparse_prediction and logits_to_keep is None:
                logits_to_keep = labels != -100
        if logits_to_keep is not None:
            kept = torch.as_tensor(logits_to_keep)
            if kept.dim() != 1 and (kept.dim() != 2 or kept.dtype != torch.bool):
                raise ValueError(
                    f"`logits_to_keep` must be 1-d indices or a 2-d boolean mask, got {kept.dim()}-d {kept.dtype}."
                )
            kept = kept if kept.dim() == 2 else (slice(None), kept)
            sequence_output = sequence_output[kept]
            labels = None if labels is None else labels[kept]
        logits = self.lm_head(sequence_output)

        loss = None
        if labels is not None:
            loss = self.token_loss(logits, labels, vocab_size=self.config.vocab_size, **kwargs)

        return MaskedLMOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class LinformerClassificationHead(nn.Module):
    """Computes the logits of a complete sequence from its first token, or from the mean of its tokens."""

    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = classifier_dropout(config)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x = features[:, 0, :]  # the <s> token (as [CLS] in BERT), or the mean of all tokens
        x = self.dropout(x)
        x = self.dense(x)
        x = torch.tanh(x)
        x = self.dropout(x)
        return self.out_proj(x)


def classifier_dropout(config):
    return nn.Dropout(config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout)


@auto_docstring(
    custom_intro="""
    The Linformer with a sequence classification or regression head, e.g. for GLUE tasks: two linear layers on top of the
    hidden state of the first token, or of the mean over all tokens (`config.classifier_pooling`).
    """
)
class LinformerForSequenceClassification(LinformerPreTrainedModel):
    _auto_class = "AutoModelForSequenceClassification"
    # The loss is the mean over a batch, for regression too, so that Trainer has to average it over batches
    accepts_loss_kwargs = False

    def __init__(self, config: LinformerConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.linformer = LinformerModel(config, add_pooling_layer=False)
        self.classifier = LinformerClassificationHead(config)

        # Initialize weights and apply final processing
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor] | SequenceClassifierOutput:
        r"""
        labels (`torch.Tensor` of shape `(batch_size,)` or `(batch_size, config.num_labels)`, *optional*):
            Labels for computing the loss. With `config.num_labels == 1`, they are numbers to regress to (mean-square loss).
            Otherwise integers are class indices in `[0, ..., config.num_labels - 1]` (cross-entropy), and floating-point
            numbers, one per class, are multi-label targets (binary cross-entropy).
        """
        outputs = self.linformer(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **kwargs,
        )
        features = outputs.last_hidden_state
        if self.config.classifier_pooling == "mean":
            features = self.mean_of_tokens(features, attention_mask)
        else:
            features = self.first_token(features)
        logits = self.classifier(features)

        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)

        return SequenceClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


@auto_docstring
class LinformerForMultipleChoice(LinformerPreTrainedModel):
    _auto_class = "AutoModelForMultipleChoice"
    accepts_loss_kwargs = False

    def __init__(self, config: LinformerConfig):
        super().__init__(config)
        self.linformer = LinformerModel(config)
        self.dropout = classifier_dropout(config)
        # Not named `classifier`, because a checkpoint has to load as any head, and other heads' `classifier` differs in shape
        self.choice_classifier = nn.Linear(config.hidden_size, 1)

        # Initialize weights and apply final processing
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor] | MultipleChoiceModelOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch_size, num_choices, sequence_length)`):
            Indices of input sequence tokens in the vocabulary. The other inputs have `num_choices` as their second
            dimension too.
        token_type_ids (`torch.LongTensor` of shape `(batch_size, num_choices, sequence_length)`, *optional*):
            Segment token indices, in `[0, config.type_vocab_size - 1]`.
        position_ids (`torch.LongTensor` of shape `(batch_size, num_choices, sequence_length)`, *optional*):
            Indices of the tokens' positions in the position embeddings, in `[0, config.max_position_embeddings - 1]`.
        inputs_embeds (`torch.Tensor` of shape `(batch_size, num_choices, sequence_length, hidden_size)`, *optional*):
            Embedded tokens, instead of `input_ids`.
        labels (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
            The index of the right choice, in `[0, ..., num_choices - 1]` (cross-entropy).
        """
        num_choices = input_ids.shape[1] if input_ids is not None else inputs_embeds.shape[1]

        def flatten(choices):
            return None if choices is None else choices.flatten(0, 1)

        outputs = self.linformer(
            flatten(input_ids),
            attention_mask=flatten(attention_mask),
            token_type_ids=flatten(token_type_ids),
            position_ids=flatten(position_ids),
            inputs_embeds=flatten(inputs_embeds),
            return_dict=True,
            **kwargs,
        )
        logits = self.choice_classifier(self.dropout(outputs.pooler_output)).view(-1, num_choices)

        loss = None
        if labels is not None:
            loss = CrossEntropyLoss()(logits, labels.to(logits.device))

        return MultipleChoiceModelOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


@auto_docstring
class LinformerForTokenClassification(LinformerPreTrainedModel):
    _auto_class = "AutoModelForTokenClassification"
    _labels_are_of_tokens = True

    def __init__(self, config: LinformerConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.linformer = LinformerModel(config, add_pooling_layer=False)
        self.dropout = classifier_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

        # Initialize weights and apply final processing
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor] | TokenClassifierOutput:
        r"""
        labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
            Labels for computing the token classification loss, in `[0, ..., config.num_labels - 1]`, or `-100` for tokens
            that the loss leaves out.
        """
        outputs = self.linformer(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **kwargs,
        )
        logits = self.classifier(self.dropout(outputs.last_hidden_state))

        loss = None
        if labels is not None:
            loss = self.token_loss(logits, labels, config=self.config, **kwargs)

        return TokenClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


@auto_docstring
class LinformerForQuestionAnswering(LinformerPreTrainedModel):
    _auto_class = "AutoModelForQuestionAnswering"
    accepts_loss_kwargs = False

    def __init__(self, config: LinformerConfig):
        super().__init__(config)
        self.linformer = LinformerModel(config, add_pooling_layer=False)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)

        # Initialize weights and apply final processing
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        start_positions: torch.LongTensor | None = None,
        end_positions: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor] | QuestionAnsweringModelOutput:
        outputs = self.linformer(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **kwargs,
        )
        logits = self.qa_outputs(outputs.last_hidden_state)
        logits = self.join_parts(logits)
        start_logits, end_logits = (logits.squeeze(-1).contiguous() for logits in logits.split(1, dim=-1))

        loss = None
        if start_positions is not None and end_positions is not None:
            loss = self.loss_function(start_logits, end_logits, start_positions, end_positions)

        return QuestionAnsweringModelOutput(
            loss=loss,
            start_logits=start_logits,
            end_logits=end_logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


__all__ = [
    "LinformerForMaskedLM",
    "LinformerForMultipleChoice",
    "LinformerForQuestionAnswering",
    "LinformerForSequenceClassification",
    "LinformerForTokenClassification",
    "LinformerModel",
    "LinformerPreTrainedModel",
]
