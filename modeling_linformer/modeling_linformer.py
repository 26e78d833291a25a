# Copyright 2026 The transformers-linformer authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""
Linformer: self-attention with linear complexity (Wang, Li, Khabsa, Fang, Ma, 2020, https://arxiv.org/abs/2006.04768).

A RoBERTa encoder whose keys and values are projected along the sequence, from n rows to k, before the softmax. For head i
with E_i, F_i of shape (k, n), equation 7 of the paper:

    head_i = softmax( Q W_i^Q (E_i K W_i^K)^T / sqrt(d_head) ) . F_i V W_i^V

Names as in the paper: n tokens, k projected rows, E and F the projections of keys and of values. In the shapes behind
tensor steps, b is the batch, h the heads, d the hidden size, and "slot" is short for one of the k projected rows.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.distributed import _functional_collectives as collectives
from torch.distributed.device_mesh import DeviceMesh
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
from transformers.utils.output_capturing import capture_outputs

from .configuration_linformer import LinformerConfig


class LinformerEmbeddings(nn.Module):
    """Construct the embeddings from word, position and token_type embeddings."""

    def __init__(self, config):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if inputs_embeds is None:
            inputs_embeds = self.word_embeddings(input_ids)
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(position_ids)

        embeddings = inputs_embeds + self.token_type_embeddings(token_type_ids)
        embeddings = embeddings + self.position_embeddings(position_ids)
        embeddings = self.LayerNorm(embeddings)
        return self.dropout(embeddings)


def all_reduce(tensor, mesh, operation="sum"):
    """Of the processes of a mesh, if there is one. The gradient of a sum is the sum of the processes' gradients."""
    if mesh is None:
        return tensor
    return collectives.wait_tensor(collectives.all_reduce(tensor.contiguous(), operation, mesh))


class SequenceShard:
    """
    The part of each sequence that this process holds: all of it, or, with a device mesh of one dimension, what comes
    behind the parts of the processes of lower rank. E X is a sum over rows, so projected rows of the parts add up to
    those of the whole, and nothing else has to be exchanged, whatever n is.

    The loss of the whole is the same in each process, and sums over processes are summed again on the way back. So the
    mean of the processes' gradients, which is what data parallelism takes anyway, is the gradient of that loss.
    """

    def __init__(self, input_shape, attention_mask=None, mesh=None, device=None):
        batch_size, seq_length = input_shape
        self.mesh = mesh
        self.offset = 0  # tokens before this part, padding included
        self.seq_length = seq_length  # n' of the whole, padding included
        self.has_padding = attention_mask is not None  # or may have
        if attention_mask is None:
            self.local_lengths = torch.full((batch_size, 1), seq_length, device=device)
        else:
            self.local_lengths = attention_mask.sum(1, keepdim=True)
        self.lengths = self.local_lengths  # tokens of the whole that are no padding, (b, 1)
        self.preceding = torch.zeros_like(self.lengths)  # those before this part
        self.lengths_of_parts = self.lengths.mT  # (processes, b)
        if mesh is not None:
            rank = mesh.get_local_rank()
            own = nn.functional.pad(self.local_lengths[:, 0], (2, 0))
            own[0], own[1] = seq_length, self.has_padding
            every = all_reduce(nn.functional.pad(own.unsqueeze(0), (0, 0, rank, mesh.size() - 1 - rank)), mesh)
            seq_lengths = every[:, 0].tolist()
            if 0 in seq_lengths:
                raise ValueError(
                    f"Of the {mesh.size()} processes that share a sequence, the one of rank {seq_lengths.index(0)} has no"
                    f" token of it: the parts are {seq_lengths} tokens long. Share it among fewer processes, or evenly"
                    " (`model.shard_inputs`)."
                )
            self.offset, self.seq_length = sum(seq_lengths[:rank]), sum(seq_lengths)
            self.has_padding = bool(every[:, 1].any())
            self.lengths_of_parts = every[:, 2:]
            self.lengths = self.lengths_of_parts.sum(0).unsqueeze(1)
            self.preceding = self.lengths_of_parts[:rank].sum(0).unsqueeze(1)

    def sum(self, *parts):
        """Of tensors that differ in their last dimension alone, in one exchange."""
        if self.mesh is None:
            return parts
        return all_reduce(torch.cat(parts, dim=-1), self.mesh).split([part.shape[-1] for part in parts], dim=-1)

    def max(self, rows):
        if self.mesh is None:
            return rows
        highest = all_reduce(rows.detach(), self.mesh, "max")
        if not rows.requires_grad:
            return highest
        # The gradient goes to the first process that has it, as it goes to the first row within one
        rank, size = self.mesh.get_local_rank(), self.mesh.size()
        owner = all_reduce(torch.where(rows == highest, rank, size), self.mesh, "min")
        return all_reduce(torch.where(owner == rank, rows, 0), self.mesh)

    def row_before(self, rows):
        """(b, 1, d): for each sequence the last row, no padding, of the parts before this one, or 0 where there is none."""
        if self.mesh is None:
            return torch.zeros_like(rows[:, :1])
        last = (self.local_lengths - 1).clamp(min=0).unsqueeze(-1).expand(-1, 1, rows.shape[-1])
        rank, size = self.mesh.get_local_rank(), self.mesh.size()
        every = all_reduce(nn.functional.pad(rows.gather(1, last), (0, 0, rank, size - 1 - rank)), self.mesh)  # (b, size, d)
        before = (self.lengths_of_parts[:rank] > 0) * torch.arange(1, rank + 1, device=rows.device).unsqueeze(1)
        nearest = nn.functional.pad(before, (0, 0, 1, 0)).amax(0).view(-1, 1, 1)  # 0, or 1 + its rank, of each sequence
        return nn.functional.pad(every, (0, 0, 1, 0)).gather(1, nearest.expand(-1, 1, rows.shape[-1]))

    def join_tokens(self, numbers):
        """(b, n') of each part -> (b, n') of the whole, without the padding between the parts."""
        if self.mesh is None:
            return numbers
        places = torch.arange(numbers.shape[1], device=numbers.device)
        numbers = numbers.masked_fill(places >= self.local_lengths, 0)
        places = (self.preceding + places).clamp(max=self.seq_length - 1)
        joined = numbers.new_zeros(len(numbers), self.seq_length).scatter_add(1, places, numbers)
        return all_reduce(joined, self.mesh)

    def whole(self, rows):
        """(b, n', d) of each part -> (b, n', d) of the whole: for few numbers a token only."""
        behind = self.seq_length - self.offset - rows.shape[1]
        return all_reduce(nn.functional.pad(rows, (0, 0, self.offset, behind)), self.mesh)


# The kinds of projection. Each maps rows (b, n', d), an attention mask (b, n') or None, and the shard that they are of, to
#   - the projected rows (b, slots, d), slots <= k;
#   - E 1, the sums of E's rows over the tokens that are no padding, (b or 1, slots, 1), or None if they are 1 or not needed;
#   - each slot's weight in the softmax's sum, (b, 1 or h, slots), 0 for the empty ones, or None where all have 1.
# Padding takes no part: its rows are zeroed, or left out of the pooling.


class LinformerLinearProjection(nn.Module):
    """
    E (or F), a learned matrix of shape (k, n), or (heads, k, n) with an own E for each head. Inputs shorter than n use
    its first columns.

    Initialised from N(0, 1/n), so that the projected rows of n independent tokens have the tokens' own scale, whatever n
    and k are, and so do the scores. The random projection of the paper's theorem 2, N(0, 1/k), makes them sqrt(n/k) times
    as large (its proof needs that E^T E keeps P; here the scores themselves are projected); fairseq's xavier_uniform with
    gain 1/sqrt(2) has the variance 1/(n + k), which is this one for k much smaller than n.
    """

    def __init__(self, config, layer_idx=0):
        super().__init__()
        heads = (config.num_attention_heads,) if config.projection_sharing == "none" else ()
        self.weight = nn.Parameter(
            torch.empty(*heads, config.projected_dims[layer_idx], config.max_position_embeddings)
        )

    def init_weights(self):
        init.normal_(self.weight, mean=0.0, std=self.weight.shape[-1] ** -0.5)

    def columns(self, start, stop):
        """A view, unless compiled: torch.export would take it for granted that a slice is not of all columns."""
        if torch.compiler.is_compiling():
            return nn.functional.pad(self.weight, (-start, stop - self.weight.shape[-1]))  # which copies
        return self.weight[..., start:stop]

    def forward(self, rows, attention_mask, shard):
        E = self.columns(shard.offset, shard.offset + rows.shape[1])
        if attention_mask is not None:
            rows = rows * attention_mask[..., None]
        if E.dim() == 3:
            rows = rows.unflatten(-1, (E.shape[0], -1)).transpose(1, 2)  # (b, h, n', d / h)
            (projected,) = shard.sum((E @ rows).transpose(1, 2).flatten(2))  # (b, h, k, d / h) -> (b, k, d)
            return projected, None, None
        projected = E @ rows  # (k, n') @ (b, n', d) -> (b, k, d)
        if attention_mask is None:
            row_sums = self.columns(0, shard.seq_length).sum(-1)[None, :, None]
            return *shard.sum(projected), row_sums, None
        return *shard.sum(projected, (attention_mask.to(E.dtype) @ E.mT)[..., None]), None


class LinformerConvProjection(nn.Module):
    """
    A learned convolution along the sequence with kernel and stride n / k: E (or F) repeats one kernel of n / k weights in
    each of its k rows, a window further each time. The kernel is of shape (n / k,), or (heads, n / k) with an own one for
    each head. Initialised as mean pooling.
    """

    def __init__(self, config, layer_idx=0):
        super().__init__()
        heads = (config.num_attention_heads,) if config.projection_sharing == "none" else ()
        self.weight = nn.Parameter(
            torch.empty(*heads, config.max_position_embeddings // config.projected_dims[layer_idx])
        )

    def init_weights(self):
        init.constant_(self.weight, 1 / self.weight.shape[-1])

    def forward(self, rows, attention_mask, shard):
        seq_length, window = rows.shape[1], self.weight.shape[-1]
        # The window that the first row falls in, and how many rows of it come before
        first_slot, before = shard.offset // window, shard.offset % window
        slots = (before + seq_length + window - 1) // window
        after = slots * window - before - seq_length
        if attention_mask is None:
            real = torch.ones_like(rows[..., 0])
        else:
            real = attention_mask.to(rows.dtype)
            rows = rows * real[..., None]
        real = nn.functional.pad(real, (before, after)).unflatten(1, (slots, window))  # (b, slots, n / k)
        windows = nn.functional.pad(rows, (0, 0, before, after)).unflatten(1, (slots, window))  # (b, slots, n / k, d)

        if self.weight.dim() == 1:
            projected, row_sums = self.weight @ windows, real @ self.weight
        else:
            windows = windows.unflatten(-1, (self.weight.shape[0], -1))  # (b, slots, n / k, h, d / h)
            projected = torch.einsum("bswhd,hw->bshd", windows, self.weight).flatten(2)
            row_sums = real[..., 0]  # not needed
        slots_behind = (shard.seq_length + window - 1) // window - first_slot - slots
        parts = (projected, row_sums[..., None], real.amax(-1, keepdim=True).to(projected.dtype))
        parts = [nn.functional.pad(part, (0, 0, first_slot, slots_behind)) for part in parts]
        projected, row_sums, filled = shard.sum(*parts)
        slot_weights = None if attention_mask is None else (filled > 0).mT
        return projected, row_sums if self.weight.dim() == 1 else None, slot_weights


class LinformerPoolProjection(nn.Module):
    """
    Mean or max pooling over k windows that adapt to each sequence's own length: the first token has a window of its own,
    the others share the rest evenly. A sequence of at most k tokens has a token a window, which is full attention.
    O(n d), and no parameters.
    """

    needs_rows = False  # to find the windows

    def __init__(self, config, layer_idx=0):
        super().__init__()
        self.projected_dim = config.projected_dims[layer_idx]
        self.mode = "max" if config.projection_type == "max_pool" else "mean"

    def forward(self, rows, attention_mask, shard):
        order, starts, local_starts, slot_weights = self.windows(rows, attention_mask, shard)
        first_rows = rows.shape[1] * torch.arange(rows.shape[0], device=rows.device).unsqueeze(1)  # of each sequence
        pooled = nn.functional.embedding_bag(
            (first_rows + order).flatten(), rows.flatten(0, 1), (first_rows + local_starts).flatten(), mode=self.mode
        )
        pooled = pooled.unflatten(0, starts.shape)[:, :-1]
        if shard.mesh is not None:
            sizes, local_sizes = starts.diff().unsqueeze(-1), local_starts.diff().unsqueeze(-1)
            if self.mode == "max":
                pooled = shard.max(pooled.masked_fill(local_sizes == 0, -torch.inf)).masked_fill(sizes == 0, 0)
            else:  # a mean of the means of the parts
                parts = local_sizes.to(torch.promote_types(pooled.dtype, torch.float32)) / sizes.clamp(min=1)
                (pooled,) = shard.sum(pooled * parts.to(pooled.dtype))
        return pooled, None, slot_weights

    def windows(self, rows, attention_mask, shard):
        """
        The tokens of each sequence in an order in which windows are contiguous, (b, n'), where each window starts in the
        whole sequence, (b, slots + 1), the last one being of the padding and to be thrown away, where in this shard, and
        the slots' weights.
        """
        (batch_size, seq_length), device = rows.shape[:2], rows.device
        slots, lengths = min(self.projected_dim, shard.seq_length), shard.lengths
        if attention_mask is None:
            order = torch.arange(seq_length, device=device).expand(batch_size, -1)
        else:
            # The tokens of each sequence first, its padding behind them, wherever it was
            order = attention_mask.int().argsort(dim=1, descending=True, stable=True)
            rows = rows.gather(1, order.unsqueeze(-1).expand_as(rows)) if self.needs_rows else rows
        starts = self.window_starts(rows, shard, slots).clamp(max=lengths)
        local_starts = (starts - shard.preceding).clamp(min=0).minimum(shard.local_lengths)
        return order, starts, local_starts, self.slot_weights(starts, lengths, attention_mask)

    def window_starts(self, rows, shard, slots):
        # Window 0 is token 0; window j + 1 starts at token 1 + j (length - 1) / (slots - 1), where `slots` is no more than
        # the length. So j = slots - 1 gives the end.
        lengths, steps = shard.lengths, torch.arange(slots, device=rows.device)
        starts = 1 + steps * (lengths - 1).clamp(min=0) // (lengths.clamp(max=slots) - 1).clamp(min=1)
        return nn.functional.pad(starts, (1, 0))

    def slot_weights(self, starts, lengths, attention_mask):
        if attention_mask is None:
            return None
        # A sequence of padding alone keeps one slot, or its softmax would have nothing to sum
        return (torch.arange(starts.shape[1] - 1, device=lengths.device) < lengths.clamp(min=1)).unsqueeze(1)


class LinformerSegmentPoolProjection(LinformerPoolProjection):
    """
    Mean pooling over k segments of the sequence's own: they begin where a row differs most from the one before it, so that
    like is averaged with like. A segment of c tokens stands for c terms of the softmax's sum, and has the weight c in it.
    The first token is a segment of its own, and a sequence of at most k tokens has a token a segment, which is full
    attention. A step further than the paper, whose E does not depend on the input; O(n d), and no parameters.
    """

    needs_rows = True

    def window_starts(self, rows, shard, slots):
        lengths, places = shard.lengths, torch.arange(shard.seq_length, device=rows.device)
        rows = rows.detach().to(torch.promote_types(rows.dtype, torch.float32))
        before = rows.roll(1, dims=1)  # one copy at a time, as rows may be many
        before[:, :1] = shard.row_before(rows)
        steps = shard.join_tokens(before.sub_(rows).square_().sum(-1))
        steps = steps.masked_fill(places <= 1, torch.inf).masked_fill(places >= lengths.clamp(min=1), -1)
        # Gathered, as torch.export takes a slice's length for less than the whole
        starts = steps.argsort(descending=True).gather(1, torch.arange(slots, device=rows.device).expand(rows.shape[0], -1))
        return torch.cat([starts.sort().values, lengths], dim=1)

    def slot_weights(self, starts, lengths, attention_mask):
        sizes = starts.diff()
        # A sequence of padding alone keeps one slot, or its softmax would have nothing to sum
        return torch.where(torch.arange(sizes.shape[1], device=sizes.device) == 0, 1, sizes).unsqueeze(1)


class LinformerAttentionPoolProjection(LinformerSegmentPoolProjection):
    """
    A weighted mean over the same segments: within each, for each head, a softmax of the tokens' scores for the sequence's
    mean query. So a slot shows what a typical row would have attended to in it. Its weight in the softmax's sum is the
    number of tokens that its weights amount to, the exponential of their entropy (c for c equal ones), which gives the
    mean query the sum that full attention gives it. O(n d) for each head, and no parameters.
    """

    def forward(self, rows, attention_mask, shard, scores):
        """Of `scores` (b, h, n'): the projected rows of each head, (b, h, slots, d)."""
        batch_size, num_heads, seq_length = scores.shape
        order, starts, local_starts, sizes = self.windows(rows, attention_mask, shard)
        first_rows = seq_length * torch.arange(batch_size, device=rows.device).unsqueeze(1)
        tokens = (first_rows + order).unsqueeze(1).expand_as(scores)
        lists = torch.arange(batch_size * num_heads, device=rows.device).view(batch_size, num_heads, 1)
        offsets = (seq_length * lists + local_starts.unsqueeze(1)).flatten()

        # A softmax in each window, of which one may have far lower scores than the others, but its weights no sum of 0
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        if attention_mask is not None:
            scores = scores.masked_fill(~attention_mask.unsqueeze(1), torch.finfo(scores.dtype).min)
        scores = (scores - shard.max(scores.detach().amax(-1, keepdim=True))).clamp(min=-60)
        scores = scores.gather(-1, order.unsqueeze(1).expand_as(scores))
        weights = scores.exp()
        sums = nn.functional.embedding_bag(
            torch.arange(weights.numel(), device=rows.device),
            torch.stack([weights, weights * scores], dim=-1).flatten(0, 2),
            offsets,
            mode="sum",
        )
        sums, sums_of_scores = shard.sum(sums.view(batch_size, num_heads, -1, 2))[0].unbind(-1)
        sums = sums.clamp(min=torch.finfo(sums.dtype).tiny)  # of an empty window
        places = shard.preceding + torch.arange(seq_length, device=rows.device)
        window = torch.searchsorted(starts, places, right=True) - 1
        weights = weights / sums.gather(-1, window.unsqueeze(1).expand_as(scores))

        pooled = nn.functional.embedding_bag(
            tokens.flatten(), rows.flatten(0, 1), offsets, mode="sum", per_sample_weights=weights.flatten().to(rows.dtype)
        )
        (pooled,) = shard.sum(pooled.view(batch_size, num_heads, -1, rows.shape[-1])[:, :, :-1])
        entropies = (sums.log() - sums_of_scores / sums)[:, :, :-1]
        return pooled, None, entropies.exp() * (sizes > 0)


PROJECTION_CLASSES = {
    "linear": LinformerLinearProjection,
    "conv": LinformerConvProjection,
    "mean_pool": LinformerPoolProjection,
    "max_pool": LinformerPoolProjection,
    "attention_pool": LinformerAttentionPoolProjection,
    "segment_pool": LinformerSegmentPoolProjection,
}


def has_shared_projection(config):
    """Whether one E = F serves the whole model. Poolings have no parameters to share, and may differ in k."""
    return config.projection_sharing == "layerwise" and config.has_learned_projection


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
):
    attn_weights = torch.matmul(query, key.transpose(2, 3)) * scaling  # (b, h, n, k)
    if attention_mask is not None:
        attn_weights = attn_weights + attention_mask

    attn_weights = nn.functional.softmax(attn_weights, dim=-1)
    if attn_weights.shape[-1] < module.projected_dim:
        # An input too short to fill k slots: the empty ones get the weight 0, so that the shape is always (b, h, n, k)
        empty_slots = module.projected_dim - attn_weights.shape[-1]
        attn_weights = nn.functional.pad(attn_weights, (0, empty_slots))
        value = nn.functional.pad(value, (0, 0, 0, empty_slots))
    attn_weights = nn.functional.dropout(attn_weights, p=dropout, training=module.training)

    attn_output = torch.matmul(attn_weights, value)
    attn_output = attn_output.transpose(1, 2).contiguous()

    return attn_output, attn_weights


class LinformerSelfAttention(nn.Module):
    """Equation 7 of the paper, for all heads of a layer."""

    def __init__(self, config, layer_idx=None):
        super().__init__()
        self.config = config
        self.attention_head_size = config.hidden_size // config.num_attention_heads
        self.scaling = self.attention_head_size**-0.5
        self.projected_dim = config.projected_dims[layer_idx]
        self.is_causal = False

        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

        projection_class = PROJECTION_CLASSES[config.projection_type]
        has_own_F = config.projection_sharing in ("none", "headwise") and config.has_learned_projection
        self.E = None if has_shared_projection(config) else projection_class(config, layer_idx)
        self.F = projection_class(config, layer_idx) if has_own_F else None
        # An own E for each head acts on that head's features, and max pooling is not linear: these need K and V first.
        self.features_first = config.projection_type == "max_pool" or (
            config.projection_sharing == "none" and config.has_learned_projection
        )

    def project(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        shard: SequenceShard,
        shared_projection: nn.Module | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """E K and F V, (b, h, k, d / h), and a mask of empty slots: all that a row needs to know of the others."""
        E = shared_projection if self.E is None else self.E
        F = E if self.F is None else self.F

        if self.features_first:
            key_layer, _, slot_weights = E(self.key(hidden_states), attention_mask, shard)
            value_layer, _, _ = F(self.value(hidden_states), attention_mask, shard)
        elif self.config.projection_type == "attention_pool":
            scores = self.scores_of_mean_query(hidden_states, attention_mask, shard)
            projected, _, slot_weights = E(hidden_states, attention_mask, shard, scores)  # E_i X for each head
            key_layer, value_layer = (self.linear_per_head(linear, projected) for linear in (self.key, self.value))
        else:
            projected, row_sums, slot_weights = E(hidden_states, attention_mask, shard)  # E X, of k rows
            key_layer = self.linear_after_projection(self.key, projected, row_sums)
            if F is not E:
                projected, row_sums, _ = F(hidden_states, attention_mask, shard)
            value_layer = self.linear_after_projection(self.value, projected, row_sums)

        slot_mask = None
        if slot_weights is not None:
            # exp(s + log c) = c exp(s). An empty slot's score of 0 would still count, so it gets the least there is.
            slot_mask = slot_weights.to(torch.promote_types(key_layer.dtype, torch.float32)).log()
            slot_mask = slot_mask.to(key_layer.dtype).clamp(min=torch.finfo(key_layer.dtype).min).unsqueeze(2)
        return self.split_heads(key_layer), self.split_heads(value_layer), slot_mask

    def forward(
        self,
        hidden_states: torch.Tensor,
        key_layer: torch.Tensor,
        value_layer: torch.Tensor,
        slot_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        query_layer = self.split_heads(self.query(hidden_states))  # (b, h, n, d / h)
        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attn_output, attn_weights = attention_interface(
            self,
            query_layer,
            key_layer,
            value_layer,
            slot_mask,
            dropout=0.0 if not self.training else self.dropout.p,
            scaling=self.scaling,
            **kwargs,
        )
        return attn_output.flatten(2), attn_weights

    def scores_of_mean_query(self, hidden_states, attention_mask, shard):
        """(b, h, n), up to a constant of each head. The mean of queries is the query of the mean row."""
        weights = torch.ones_like(hidden_states[..., 0]) if attention_mask is None else attention_mask
        weights = weights.to(torch.promote_types(hidden_states.dtype, torch.float32))
        weights = weights / shard.lengths.clamp(min=1)
        (mean_row,) = shard.sum(weights.to(hidden_states.dtype).unsqueeze(1) @ hidden_states)  # (b, 1, d)
        mean_query = self.split_heads(self.query(mean_row))  # (b, h, 1, d / h)
        mean_query = mean_query @ self.key.weight.unflatten(0, (-1, self.attention_head_size))  # q Wᵀ, (b, h, 1, d)
        return mean_query.squeeze(2) @ hidden_states.mT * self.scaling

    def linear_per_head(self, linear, rows):
        """(b, h, k, d) -> (b, k, d): each head's features of its own rows."""
        weight = linear.weight.unflatten(0, (-1, self.attention_head_size))  # (h, d / h, d)
        features = rows @ weight.mT + linear.bias.view(-1, 1, self.attention_head_size)
        return features.transpose(1, 2).flatten(2)

    @staticmethod
    def linear_after_projection(linear, projected, row_sums):
        # E (X W + 1 bᵀ) = (E X) W + (E 1) bᵀ: the sequence is projected first, so W meets k rows instead of n. `linear`
        # has added the bias once.
        output = linear(projected)
        if row_sums is not None:
            output = output + ((row_sums - 1) * linear.bias).to(output.dtype)
        return output

    def split_heads(self, rows):
        return rows.unflatten(-1, (-1, self.attention_head_size)).transpose(1, 2)


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

    def forward(self, hidden_states: torch.Tensor, *projected, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        attention_output, _ = self.self(hidden_states, *projected, **kwargs)
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


def in_row_blocks(forward, seq_length, chunk_size, output=None):
    """
    `forward` of the slice of all rows, or, with `chunk_size`, of a slice of so many rows after the other.

    The blocks, (b, rows, d), are written into `output`, if that is given and of their dtype, or else into a new tensor.
    """
    if chunk_size is None:
        return forward(slice(None))
    for start in range(0, seq_length, chunk_size):
        rows = slice(start, min(start + chunk_size, seq_length))
        block = forward(rows)
        if output is None or output.dtype != block.dtype:
            output = block.new_empty(block.shape[0], seq_length, block.shape[2])
        output[:, rows] = block
        del block  # or it would be there beside all of the next one
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
        attention_mask: torch.Tensor | None,
        shard: SequenceShard,
        shared_projection: nn.Module | None = None,
        chunk_size: int | None = None,
        in_place: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """With `chunk_size`, in blocks of so many rows; `in_place`, over `hidden_states` themselves."""
        projected = self.attention.self.project(hidden_states, attention_mask, shard, shared_projection)
        return in_row_blocks(
            lambda rows: self.forward_rows(hidden_states[:, rows], *projected, **kwargs),
            hidden_states.shape[1],
            chunk_size,
            hidden_states if in_place else None,
        )

    def forward_rows(self, hidden_states, *projected, **kwargs):
        attention_output = self.attention(hidden_states, *projected, **kwargs)
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
        # With layerwise sharing the one E = F of the model lives here, and is stored once
        self.E = PROJECTION_CLASSES[config.projection_type](config) if has_shared_projection(config) else None
        self.layer = nn.ModuleList([LinformerLayer(config, layer_idx=i) for i in range(config.num_hidden_layers)])

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        shard: SequenceShard,
        chunk_size: int | None = None,
        in_place: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        for layer_module in self.layer:
            hidden_states = layer_module(hidden_states, attention_mask, shard, self.E, chunk_size, in_place, **kwargs)

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
class LinformerPreTrainedModel(PreTrainedModel):
    config: LinformerConfig
    base_model_prefix = "linformer"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _no_split_modules = ["LinformerEmbeddings", "LinformerLayer"]
    _can_record_outputs = {
        "hidden_states": LinformerLayer,
        "attentions": LinformerSelfAttention,
    }

    sequence_mesh = None  # see `set_sequence_mesh`
    _labels_are_of_tokens = False

    def set_sequence_mesh(self, mesh: DeviceMesh | None):
        """
        Shares each sequence among the processes of `mesh`, a device mesh of one dimension, or no longer with None: from now
        on each process gives the model its part of it (`shard_inputs`), in the order of their ranks, and gets the hidden
        states of its part. Losses, pooled outputs and the logits of whole sequences are the same in all of them.

        Raises `ValueError` for a mesh of more dimensions.
        """
        if mesh is not None and mesh.ndim != 1:
            raise ValueError(
                f"`mesh` must have one dimension, got {mesh.ndim}: {mesh.mesh_dim_names}. Give the one that a sequence is"
                " shared along, as in `mesh['sequence']`."
            )
        self.base_model.sequence_mesh = mesh

    def shard_inputs(self, inputs: dict) -> dict:
        """
        This process's part of a batch that all processes of the sequence mesh have: of the tensors that are of tokens,
        labels among them where this model's are, the parts differ in length by one token at most.

        Raises `ValueError` for sequences of fewer tokens than processes.
        """
        mesh = self.base_model.sequence_mesh
        if mesh is None:
            return inputs
        names = ["input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds"]
        names += ["labels"] if self._labels_are_of_tokens else []
        shards = dict(inputs)
        for name in names:
            if inputs.get(name) is not None:
                dim = -2 if name == "inputs_embeds" else -1
                if inputs[name].shape[dim] < mesh.size():
                    raise ValueError(
                        f"`{name}` is {inputs[name].shape[dim]} tokens long, too few for each of the {mesh.size()} processes"
                        " that share a sequence. Pad it, or share it among fewer."
                    )
                shards[name] = inputs[name].tensor_split(mesh.size(), dim)[mesh.get_local_rank()].contiguous()
        return shards

    def first_token(self, hidden_states):
        """(b, n', d) -> (b, 1, d): the first row of the whole sequence, in whichever process."""
        mesh = self.base_model.sequence_mesh
        if mesh is None:
            return hidden_states[:, :1]
        is_here = torch.tensor(mesh.get_local_rank() == 0, device=hidden_states.device)
        return all_reduce(torch.where(is_here, hidden_states[:, :1], 0), mesh)

    def token_loss(self, logits, labels, num_items_in_batch=None, **kwargs):
        """
        A mean over all labelled tokens of the whole sequences. With their number in all the batches that make a step, as
        Trainer gives it, a loss is by convention this process's part of the mean over all of these.
        """
        mesh = self.base_model.sequence_mesh
        if mesh is None or num_items_in_batch is not None:
            return self.loss_function(logits, labels, num_items_in_batch=num_items_in_batch, **kwargs)
        labelled = all_reduce((labels != -100).sum(), mesh)
        return all_reduce(self.loss_function(logits, labels, num_items_in_batch=labelled, **kwargs), mesh)

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, (LinformerLinearProjection, LinformerConvProjection)):
            module.init_weights()
        elif isinstance(module, LinformerLMHead):
            init.zeros_(module.bias)


@auto_docstring(
    custom_intro="""
    The Linformer encoder: RoBERTa's layers with self-attention projected from n rows to k along the sequence, equation 7 of
    [Linformer: Self-Attention with Linear Complexity](https://huggingface.co/papers/2006.04768).
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

    def inference_chunk_size(self, seq_length, **kwargs):
        """How many rows are computed at once, or None for all: with gradients every row is kept anyway."""
        chunk_size = self.config.inference_chunk_size
        attentions = kwargs.get("output_attentions", self.config.output_attentions)
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or attentions:
            return None
        return chunk_size if chunk_size and seq_length >= 4 * chunk_size else None

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
            1 for tokens that are read, 0 for padding, which changes nothing whatever its amount. Positions count from the
            left, so pad on the right, as tokenizers do unless told otherwise.

        Raises `ValueError` for inputs longer than `config.max_position_embeddings` and for masks of another shape.
        """
        if (input_ids is None) ^ (inputs_embeds is not None):
            raise ValueError("You must specify exactly one of input_ids or inputs_embeds")

        input_shape = input_ids.shape if input_ids is not None else inputs_embeds.shape[:-1]
        if attention_mask is not None:
            if attention_mask.shape != input_shape:
                raise ValueError(
                    f"`attention_mask` must have the input's shape {tuple(input_shape)}, got"
                    f" {tuple(attention_mask.shape)}. A Linformer has no n x n scores, so it takes padding masks only."
                )
            attention_mask = attention_mask.bool()
        device = input_ids.device if input_ids is not None else inputs_embeds.device
        shard = SequenceShard(input_shape, attention_mask, self.sequence_mesh, device)
        if shard.seq_length > self.config.max_position_embeddings:
            raise ValueError(
                f"The input is {shard.seq_length} tokens long, but this model reads at most"
                f" `max_position_embeddings` = {self.config.max_position_embeddings}. Truncate it"
                f" (`tokenizer(..., truncation=True, max_length={self.config.max_position_embeddings})`) or use a model"
                " with a larger `max_position_embeddings`."
            )
        if attention_mask is None and shard.has_padding:  # in another process
            attention_mask = torch.ones(input_shape, dtype=torch.bool, device=device)

        chunk_size = self.inference_chunk_size(input_shape[1], **kwargs)
        if position_ids is None:
            position_ids = shard.offset + torch.arange(input_shape[1], device=device).unsqueeze(0)

        def embed(rows):
            inputs = (input_ids, token_type_ids, position_ids, inputs_embeds)
            return self.embeddings(*(None if rows_of is None else rows_of[:, rows] for rows_of in inputs))

        hidden_states = in_row_blocks(embed, input_shape[1], chunk_size)
        # Nobody else has the embeddings, nor what each layer makes of them, unless all hidden states are to be returned
        in_place = not kwargs.get("output_hidden_states", self.config.output_hidden_states)
        sequence_output = self.encoder(
            hidden_states, attention_mask, shard, chunk_size, in_place, **kwargs
        ).last_hidden_state
        pooled_output = self.pooler(self.first_token(sequence_output)) if self.pooler is not None else None

        return BaseModelOutputWithPooling(last_hidden_state=sequence_output, pooler_output=pooled_output)


class LinformerLMHead(nn.Module):
    """Linformer Head for masked language modeling."""

    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
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
            `config.sparse_prediction` the logits are those of these tokens alone, `(number of them, vocab_size)`.
        logits_to_keep (`torch.Tensor`, *optional*):
            Where to score the vocabulary, which for all of a long input is far larger than the model: indices along the
            sequence, for logits of shape `(batch_size, len(logits_to_keep), vocab_size)`, or a boolean mask of shape
            `(batch_size, sequence_length)`, as in `input_ids == tokenizer.mask_token_id`, for `(number kept, vocab_size)`.
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
            kept = logits_to_keep if logits_to_keep.dim() == 2 else (slice(None), logits_to_keep)
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
    """Head for sentence-level classification tasks."""

    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = classifier_dropout(config)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x = features[:, 0, :]  # take <s> token (equiv. to [CLS])
        x = self.dropout(x)
        x = self.dense(x)
        x = torch.tanh(x)
        x = self.dropout(x)
        return self.out_proj(x)


def classifier_dropout(config):
    return nn.Dropout(config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout)


@auto_docstring(
    custom_intro="""
    Linformer Model transformer with a sequence classification/regression head on top (a linear layer on top of the
    first token's output) e.g. for GLUE tasks.
    """
)
class LinformerForSequenceClassification(LinformerPreTrainedModel):
    _auto_class = "AutoModelForSequenceClassification"
    # The loss is a mean over the batch that it gets, for regression too: Trainer is to average over batches itself.
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
            Labels for computing the loss: with `config.num_labels == 1`, numbers to regress to (mean-square loss); class
            indices in `[0, ..., config.num_labels - 1]` (cross-entropy); or, floating and one a class, multi-label
            targets (binary cross-entropy).
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
        logits = self.classifier(self.first_token(outputs.last_hidden_state))

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
        # Not `classifier`, which is the token classifier's: each head's checkpoint is to load as any other head
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
            Indices of positions of each input sequence tokens in the position embeddings, in `[0,
            config.max_position_embeddings - 1]`.
        inputs_embeds (`torch.Tensor` of shape `(batch_size, num_choices, sequence_length, hidden_size)`, *optional*):
            Embedded tokens in place of `input_ids`.
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
            to leave out.
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
        if self.linformer.sequence_mesh is not None:
            logits = SequenceShard(logits.shape[:2], mesh=self.linformer.sequence_mesh, device=logits.device).whole(logits)
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
