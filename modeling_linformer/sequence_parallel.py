# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
This module shares each sequence among several processes, each of which holds a part of it.

Each part consists of whole blocks and windows, so all that a process needs of the others are the projected rows, and of the
first one the global tokens. Rows of windows follow one after the other, and those of a learned matrix E are added. A layer
exchanges these g + k keys once.

The loss of the complete sequence is the same in each process, and a sum over processes is summed over them again in the
backward pass. So the mean of the processes' gradients, which data parallelism takes anyway, is the gradient of that loss.
"""

import torch
from torch import nn

from .projections import SharedKeys, Tokens, number_of_parts


class AllReduce(torch.autograd.Function):
    """
    Sums a tensor over the processes of a group, and the gradients in the backward pass.

    `torch.distributed.all_reduce` has no gradient.
    """

    @staticmethod
    def forward(ctx, tensor, group):
        ctx.group = group
        reduced = tensor.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(reduced, group=group)
        return reduced

    @staticmethod
    def backward(ctx, gradient):
        return AllReduce.apply(gradient, ctx.group), None


def all_reduce(tensor, mesh):
    """Returns the sum of a tensor over the processes of a mesh, with its gradient. Without a mesh, it is the tensor itself."""
    return tensor if mesh is None else AllReduce.apply(tensor, mesh.get_group())


class SharedTokens(Tokens):
    """
    Describes the part of each sequence that this process of `mesh` holds. The parts are in the order of the processes' ranks.

    Raises `ValueError` if a process has no token, or if any part except the last does not consist of whole blocks and windows
    with all global tokens in the first, that is, of a multiple of `part_multiple` positions.
    """

    def __init__(self, shape, mask, device, mesh, part_multiple=1):
        self.mesh = mesh
        rank, size = mesh.get_local_rank(), mesh.size()
        lengths = torch.full(shape[:1], shape[1], device=device) if mask is None else mask.sum(1)
        own = nn.functional.pad(lengths, (2, 0))
        own[0], own[1] = shape[1], mask is not None
        every = all_reduce(nn.functional.pad(own.unsqueeze(0), (0, 0, rank, size - 1 - rank)), mesh)
        seq_lengths, lengths_of_parts = every[:, 0].tolist(), every[:, 2:]  # (processes, B)
        if 0 in seq_lengths:
            raise ValueError(
                f"Of the {size} processes that share a sequence, the one of rank {seq_lengths.index(0)} has no token of it:"
                f" the parts are {seq_lengths} tokens long. Share the sequence among fewer processes, or let"
                " `model.shard_inputs` share it evenly."
            )
        if any(length % part_multiple for length in seq_lengths[:-1]):
            raise ValueError(
                f"The parts of a sequence are {seq_lengths} tokens long, but each part except the last must consist of"
                f" complete blocks and windows, a multiple of {part_multiple} tokens. `model.shard_inputs` makes such parts."
            )
        if every[:, 1].any():  # at least one process has a mask
            mask = torch.ones(shape, dtype=torch.bool, device=device) if mask is None else mask.clone()
            # A sequence that is all padding keeps its first token: otherwise its softmax would have nothing to sum
            is_padding = lengths_of_parts.sum(0) == 0
            lengths_of_parts[0] += is_padding
            mask[:, 0] |= is_padding & (rank == 0)
        self.mask, self.length, self.device, self.kept = mask, shape[1], device, {}
        self.offset, self.seq_length = sum(seq_lengths[:rank]), sum(seq_lengths)
        self.totals = lengths_of_parts.sum(0).unsqueeze(1)
        if mask is None:  # then all are the same
            self.totals = self.totals[:1]

    def sum(self, part):
        return all_reduce(part, self.mesh)

    def join(self, part, before, total):
        """
        Joins the parts (B, k', features) of all processes to (B, `total`, features), in each process. `before` is how many
        entries come before those of this process. Use it only for few numbers.
        """
        return self.sum(nn.functional.pad(part, (0, 0, before, total - before - part.shape[1])))

    def counts_of_windows(self, size):
        def compute():
            before, total = self.offset // size, number_of_parts(self.seq_length, size)
            return self.join(self.are_tokens(size).sum(-1, keepdim=True), before, total).squeeze(-1)

        return self.once(("counts", size), compute)

    def are_first_tokens(self, number):
        def compute():
            is_token = torch.zeros(len(self.totals), min(number, self.seq_length), dtype=torch.long, device=self.device)
            if self.offset == 0:
                is_token += super(SharedTokens, self).are_first_tokens(number)
            return self.sum(is_token) > 0

        return self.once(("first of all parts", number), compute)

    def complete(self, shared, E):
        fields = [None if field is None else field.expand(len(shared.key), -1, *field.shape[2:]) for field in shared]
        present = [field for field in fields if field is not None]
        keys = torch.cat([field.flatten(2) for field in present], dim=-1)  # so that there is one exchange
        if E.window is None:
            keys = self.sum(keys)
        else:
            num_global, num_rows = E.num_keys(self, self.seq_length)
            before = num_global + self.offset // E.window if self.offset else 0
            keys = self.join(keys, before, num_global + num_rows)
        keys = iter(keys.split([field[0, 0].numel() for field in present], dim=-1))
        return SharedKeys(
            *(None if field is None else next(keys).unflatten(-1, field.shape[2:]).to(field.dtype) for field in fields)
        )


class SequenceParallelMixin:
    """
    Lets a model share its sequences among processes. Without a mesh, each method does what is right for one process that
    holds complete sequences.
    """

    sequence_mesh = None
    _labels_are_of_tokens = False  # whether there is one label per token, so that labels are cut into parts too

    def set_sequence_mesh(self, mesh: "torch.distributed.device_mesh.DeviceMesh | None"):
        """
        Shares each sequence among the processes of `mesh`, a device mesh of one dimension. None ends the sharing.

        From now on, each process gives the model its own part of the sequences (see `shard_inputs`), and gets the hidden
        states of this part. The parts are in the order of the processes' ranks. Losses, pooled outputs and logits that
        belong to a complete sequence are the same in all processes.

        Raises `ValueError` for a mesh of more dimensions.
        """
        if mesh is not None and mesh.ndim != 1:
            raise ValueError(
                f"`mesh` must have one dimension, got {mesh.ndim}: {mesh.mesh_dim_names}. Pass only the dimension"
                " that sequences are shared along, as in `mesh['sequence']`."
            )
        self.base_model.sequence_mesh = mesh

    def shard_inputs(self, inputs: dict) -> dict:
        """
        Returns this process's part of a batch that every process of the sequence mesh has. Tensors with one entry per token
        are cut, as evenly as possible, where a block and a window end. The labels are among them if the model has one label
        per token.

        Raises `ValueError` for sequences that have fewer such parts than there are processes.
        """
        mesh = self.base_model.sequence_mesh
        if mesh is None:
            return inputs
        names = ["input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds"]
        names += ["labels"] if self._labels_are_of_tokens else []
        shards, multiple = dict(inputs), self.config.part_multiple
        for name in names:
            if inputs.get(name) is not None:
                dim = -2 if name == "inputs_embeds" else -1
                length = inputs[name].shape[dim]
                units = -(-length // multiple)
                if units < mesh.size():
                    unit = "tokens" if multiple == 1 else f"parts of {multiple} tokens (whole blocks and windows)"
                    raise ValueError(
                        f"`{name}` is {length} tokens long, too few {unit} for each of the {mesh.size()} processes that"
                        " share a sequence to have one. Pad it, or share it among fewer processes."
                    )
                ends = [multiple * (units * part // mesh.size()) for part in range(1, mesh.size())]
                shards[name] = inputs[name].tensor_split(ends, dim)[mesh.get_local_rank()].contiguous()
        return shards

    def make_tokens(self, shape, attention_mask, device):
        mesh = self.base_model.sequence_mesh
        if mesh is None:
            return Tokens(shape, attention_mask, device)
        return SharedTokens(shape, attention_mask, device, mesh, self.config.part_multiple)

    def first_token(self, hidden_states):
        """Returns the first state of each complete sequence, (B, 1, d), in every process. `hidden_states` are (B, n', d)."""
        mesh = self.base_model.sequence_mesh
        if mesh is None:
            return hidden_states[:, :1]
        is_here = torch.tensor(mesh.get_local_rank() == 0, device=hidden_states.device)
        return all_reduce(torch.where(is_here, hidden_states[:, :1], 0), mesh)

    def mean_of_tokens(self, hidden_states, attention_mask):
        """Averages the hidden states (B, n', d) over each complete sequence without its padding, and returns (B, 1, d)."""
        shape = hidden_states.shape[:2]
        attention_mask = None if attention_mask is None else attention_mask.bool()
        return self.make_tokens(shape, attention_mask, hidden_states.device).mean(hidden_states)

    def join_parts(self, rows):
        """
        Joins the states `rows`, (B, n', d), of the parts, and returns those of the complete sequences in each process. Use it
        only for states of few numbers.
        """
        if self.base_model.sequence_mesh is None:
            return rows
        tokens = self.make_tokens(rows.shape[:2], None, rows.device)
        return tokens.join(rows, tokens.offset, tokens.seq_length)

    def token_loss(self, logits, labels, num_items_in_batch=None, **kwargs):
        """
        Returns the mean loss of all labelled tokens of the complete sequences.

        Trainer passes `num_items_in_batch`, the number of labelled tokens in all batches of an optimizer step. Then, as
        transformers expects, the loss is this process's share of the mean over all of these tokens.
        """
        mesh = self.base_model.sequence_mesh
        if mesh is None or num_items_in_batch is not None:
            return self.loss_function(logits, labels, num_items_in_batch=num_items_in_batch, **kwargs)
        labelled = all_reduce((labels != -100).sum(), mesh)
        return all_reduce(self.loss_function(logits, labels, num_items_in_batch=labelled, **kwargs), mesh)
