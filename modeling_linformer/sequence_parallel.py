# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
One sequence on several processes, each of which holds a part of it.

Projected rows are sums over tokens, so the rows of the parts add up to those of the whole, and a layer exchanges these k
rows and little else, whatever n is. Blocks need no exchange, as each part is of whole blocks.

The loss of the whole is the same in each process, and sums over processes are summed again on the way back. So the mean of
the processes' gradients, which is what data parallelism takes anyway, is the gradient of that loss.
"""

import torch
from torch import nn

from .projections import Tokens


def all_reduce(tensor, mesh, operation="sum"):
    """The sum (or what `operation` names) over the processes of a mesh, or the tensor itself without a mesh. Differentiable."""
    if mesh is None:
        return tensor
    # Not at the top, as a torch that was built without distributed has no such module
    from torch.distributed import _functional_collectives as collectives

    return collectives.wait_tensor(collectives.all_reduce(tensor.contiguous(), operation, mesh))


class SharedTokens(Tokens):
    """
    The part of each sequence that this process of `mesh` holds, after the parts of the processes of lower rank.

    Raises `ValueError` if a process has no token, or if a part but the last is not of whole blocks (`block_multiple`).
    """

    def __init__(self, shape, mask, device, mesh, block_multiple=1):
        self.mesh = mesh
        rank, size = mesh.get_local_rank(), mesh.size()
        lengths = torch.full(shape[:1], shape[1], device=device) if mask is None else mask.sum(1)
        own = nn.functional.pad(lengths, (2, 0))
        own[0], own[1] = shape[1], mask is not None
        every = all_reduce(nn.functional.pad(own.unsqueeze(0), (0, 0, rank, size - 1 - rank)), mesh)
        seq_lengths, lengths_of_parts = every[:, 0].tolist(), every[:, 2:]  # (processes, b)
        if 0 in seq_lengths:
            raise ValueError(
                f"Of the {size} processes that share a sequence, the one of rank {seq_lengths.index(0)} has no token of it:"
                f" the parts are {seq_lengths} tokens long. Share it among fewer processes, or evenly"
                " (`model.shard_inputs`)."
            )
        if any(length % block_multiple for length in seq_lengths[:-1]):
            raise ValueError(
                f"The parts of a sequence are {seq_lengths} tokens long, but each but the last must be of whole blocks, a"
                f" multiple of {block_multiple} tokens (`block_size`). `model.shard_inputs` makes such parts."
            )
        if every[:, 1].any():  # in any process
            mask = torch.ones(shape, dtype=torch.bool, device=device) if mask is None else mask.clone()
            # A sequence of padding alone keeps one token, or its softmax would have nothing to sum
            is_padding = lengths_of_parts.sum(0) == 0
            lengths_of_parts[0] += is_padding
            mask[:, 0] |= is_padding & (rank == 0)
        self.set_part(shape, mask, device)
        self.offset, self.seq_length = sum(seq_lengths[:rank]), sum(seq_lengths)
        self.lengths = lengths_of_parts.sum(0).unsqueeze(1)
        self.index = self.local_index + lengths_of_parts[:rank].sum(0).unsqueeze(1)

    def sum(self, part):
        return all_reduce(part, self.mesh)

    def max(self, part):
        highest = all_reduce(part.detach(), self.mesh, "max")
        if not part.requires_grad:
            return highest
        # The gradient goes to the first process that has the maximum
        rank, size = self.mesh.get_local_rank(), self.mesh.size()
        owner = all_reduce(torch.where(part == highest, rank, size), self.mesh, "min")
        return all_reduce(torch.where(owner == rank, part, 0), self.mesh)

    def join(self, rows):
        """(b, n', d) of each part -> (b, n', d) of the whole: for few numbers per token only."""
        after = self.seq_length - self.offset - rows.shape[1]
        return all_reduce(nn.functional.pad(rows, (0, 0, self.offset, after)), self.mesh)


class SequenceParallelMixin:
    """What a model needs to share its sequences among processes. Without a mesh, each method does what one process does."""

    sequence_mesh = None
    _labels_are_of_tokens = False

    def set_sequence_mesh(self, mesh: "torch.distributed.device_mesh.DeviceMesh | None"):
        """
        Shares each sequence among the processes of `mesh`, a device mesh of one dimension, or no longer with None. From now
        on each process gives the model its part (`shard_inputs`), in the order of their ranks, and gets the hidden states of
        its part. Losses, pooled outputs and the logits of whole sequences are the same in all of them.

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
        This process's part of a batch that all processes of the sequence mesh have. The tensors that are of tokens, labels
        among them where this model's are, are cut between two blocks, as evenly as possible.

        Raises `ValueError` for sequences of fewer blocks than processes, or of fewer tokens without blocks.
        """
        mesh = self.base_model.sequence_mesh
        if mesh is None:
            return inputs
        names = ["input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds"]
        names += ["labels"] if self._labels_are_of_tokens else []
        shards, multiple = dict(inputs), self.config.block_multiple
        for name in names:
            if inputs.get(name) is not None:
                dim = -2 if name == "inputs_embeds" else -1
                length = inputs[name].shape[dim]
                units = -(-length // multiple)
                if units < mesh.size():
                    unit = "tokens" if multiple == 1 else f"blocks of {multiple} tokens"
                    raise ValueError(
                        f"`{name}` is {length} tokens long, too few {unit} for each of the {mesh.size()} processes that"
                        " share a sequence to have one. Pad it, or share it among fewer."
                    )
                ends = [multiple * (units * part // mesh.size()) for part in range(1, mesh.size())]
                shards[name] = inputs[name].tensor_split(ends, dim)[mesh.get_local_rank()].contiguous()
        return shards

    def make_tokens(self, shape, attention_mask, device):
        mesh = self.base_model.sequence_mesh
        if mesh is None:
            return Tokens(shape, attention_mask, device)
        return SharedTokens(shape, attention_mask, device, mesh, self.config.block_multiple)

    def first_token(self, hidden_states):
        """(b, n', d) -> (b, 1, d): the first row of the whole sequence, in whichever process."""
        mesh = self.base_model.sequence_mesh
        if mesh is None:
            return hidden_states[:, :1]
        is_here = torch.tensor(mesh.get_local_rank() == 0, device=hidden_states.device)
        return all_reduce(torch.where(is_here, hidden_states[:, :1], 0), mesh)

    def mean_of_tokens(self, hidden_states, attention_mask):
        """(b, n', d) -> (b, 1, d): the mean over the whole sequence, without its padding."""
        shape = hidden_states.shape[:2]
        attention_mask = None if attention_mask is None else attention_mask.bool()
        return self.make_tokens(shape, attention_mask, hidden_states.device).mean(hidden_states)

    def join_parts(self, rows):
        """(b, n', d) of each part -> (b, n', d) of the whole, in each process: for few numbers per token only."""
        if self.base_model.sequence_mesh is None:
            return rows
        return self.make_tokens(rows.shape[:2], None, rows.device).join(rows)

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
