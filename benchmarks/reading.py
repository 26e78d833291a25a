# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""How an encoder reads long documents: in pieces of 512 tokens, or, as a Linformer, complete. Also how it is trained to."""

import copy
import os
import time

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import get_linear_schedule_with_warmup

from transformers_linformer import convert_to_linformer

from . import attention_dropout


PIECE = 512
SECONDS_BETWEEN_CHECKPOINTS = 300


def cut_into_pieces(tokens, tokenizer, max_pieces):
    """Returns (pieces, 512): the token ids of a document in pieces, each between its own special tokens, and padding."""
    size = PIECE - tokenizer.num_special_tokens_to_add()
    pieces = [tokens[start : start + size] for start in range(0, min(len(tokens), size * max_pieces), size)] or [[]]
    pieces = [[tokenizer.cls_token_id, *piece, tokenizer.sep_token_id] for piece in pieces]
    return torch.tensor([piece + [tokenizer.pad_token_id] * (PIECE - len(piece)) for piece in pieces])


class Reader(nn.Module):
    """
    Reads documents that are given as their pieces, (pieces, 512) token ids each.

    A BERT reads every piece by itself. A Linformer reads the pieces of a document as one sequence, in which a token attends
    to its own piece, which is a block, and to a summary of the complete document. So where the summary weighs nothing, both
    compute the same, and whatever differs is what the summary gives.
    """

    def __init__(self, encoder, pad_token_id):
        super().__init__()
        self.encoder, self.pad_token_id = encoder, pad_token_id
        if self.device.type == "cpu" and encoder.config._attn_implementation == "sdpa":
            encoder.set_attn_implementation(attention_dropout.NAME)  # the same, and trains faster

    @property
    def is_linformer(self):
        return self.encoder.config.model_type == "linformer"

    def as_linformer(self, max_pieces, projected_dim):
        """
        Returns a reader with the same weights that reads complete documents. If `projected_dim` is None, there is a row for
        each 32 tokens, or, of documents of more than 8,192, longer windows and 256 rows.
        """
        encoder = convert_to_linformer(
            copy.deepcopy(self.encoder),
            projected_dim=projected_dim,
            block_size=PIECE,
            max_position_embeddings=PIECE * max_pieces,
        )
        return Reader(encoder, self.pad_token_id)

    @property
    def device(self):
        return self.encoder.device

    def hidden_states(self, documents):
        """Returns the last hidden states (p, length, d) of all pieces of the documents, and their mask (p, length)."""
        if not self.is_linformer:
            input_ids = torch.cat(documents)
            length = int((input_ids != self.pad_token_id).sum(1).max())  # short pieces are not filled up to 512 tokens
            input_ids = input_ids[:, :length].to(self.device)
            mask = input_ids != self.pad_token_id
            return self.encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state, mask
        rows = nn.utils.rnn.pad_sequence([document.flatten() for document in documents], True, self.pad_token_id)
        is_piece = [torch.arange(rows.shape[1] // PIECE) < len(document) for document in documents]
        is_piece = torch.cat(is_piece).nonzero().squeeze(1).to(self.device)
        padding = rows.shape[1] - 1 - int((rows != self.pad_token_id).any(0).nonzero().max())  # of the longest document
        rows = rows[:, : rows.shape[1] - padding].to(self.device)
        mask = rows != self.pad_token_id
        hidden = self.encoder(input_ids=rows, attention_mask=mask).last_hidden_state
        hidden, mask = nn.functional.pad(hidden, (0, 0, 0, padding)), nn.functional.pad(mask, (0, padding))
        return [x.unflatten(1, (-1, PIECE)).flatten(0, 1).index_select(0, is_piece) for x in (hidden, mask)]

    def ownership(self, documents):
        """
        Returns two tensors (p,) for the p pieces of all documents: the number of the document that each piece belongs to, and
        the piece's share of the document's tokens.
        """
        sizes = (torch.cat(documents) != self.pad_token_id).sum(1)
        counts = torch.tensor([len(document) for document in documents])
        owner = torch.arange(len(documents)).repeat_interleave(counts)
        share = sizes / torch.zeros_like(counts).index_add(0, owner, sizes)[owner]
        return owner.to(self.device), share.to(self.device)

    def forward(self, documents):
        """Returns the vector of each piece, which is the mean of its tokens' last hidden states, (p, d), and `ownership`."""
        hidden, mask = self.hidden_states(documents)
        vectors = (hidden.float() * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        return vectors, *self.ownership(documents)


def mean_of_documents(values, owner, share, count):
    """Averages the pieces' values (p, ...) over the tokens of each of `count` documents, and returns (documents, ...)."""
    share = share.view(-1, *[1] * (values.dim() - 1))
    values = values.float() * share
    return values.new_zeros(count, *values.shape[1:]).index_add(0, owner, values)


def autocast(device):
    """Computes in bfloat16 on a GPU."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def batches_of(documents, size, generator):
    """
    Returns lists of `size` indices of documents, in random order. Each batch has documents of about the same length, as it
    is cut from eight times as many that were sorted.
    """
    order = torch.randperm(len(documents), generator=generator).tolist()
    groups = [sorted(order[i : i + 8 * size], key=lambda i: len(documents[i])) for i in range(0, len(order), 8 * size)]
    batches = [group[i : i + size] for group in groups for i in range(0, len(group), size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def cut_into_parts(batch, documents, pad_token_id, pieces=8):
    """
    Cuts a batch of numbers of documents into parts of documents of about the same length. A part has no more than so many
    pieces, or it is one document.
    """
    parts, count = [], pieces
    for i in sorted(batch, key=lambda i: int((documents[i] != pad_token_id).sum())):
        count += len(documents[i])
        if count > pieces:
            parts.append([])
            count = len(documents[i])
        parts[-1].append(i)
    return parts


def train(reader, head, losses, batches, learning_rate, checkpoint, generator=None):
    """
    Trains a reader and the module `head`, or None, with AdamW. The learning rate, which is 1e-3 for the new head, rises during
    the first tenth of the steps, and falls linearly to 0 after it.

    Each of the batches is a list of parts, of which one at a time is in memory. `losses(part)` returns one loss for each of a
    part's documents, queries or masked tokens, (any number,). A step minimises the mean of all losses of its batch.

    The state is saved to the file `checkpoint` from time to time. If it exists, training continues there, with the same random
    numbers, which are those of torch and of `generator`, if `losses` uses one.
    """
    groups = [{"params": list(reader.parameters())}]
    if head is not None:
        groups.append({"params": list(head.parameters()), "lr": 1e-3})
    parameters = [parameter for group in groups for parameter in group["params"]]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, weight_decay=0.01, fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, len(batches) // 10, len(batches))
    model = nn.ModuleList([reader] if head is None else [reader, head]).train()
    kept = {"model": model, "optimizer": optimizer, "schedule": schedule}
    generators = [torch.default_generator] if generator is None else [torch.default_generator, generator]
    if reader.device.type == "cuda":
        generators.append(torch.cuda.default_generators[torch.cuda.current_device()])
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        first = state["steps"]
        for name, each in kept.items():
            each.load_state_dict(state[name])
        for each, random_state in zip(generators, state["generators"], strict=True):
            each.set_state(random_state)
    saved = time.monotonic()
    for step in tqdm(range(first, len(batches)), desc="training", mininterval=10, initial=first, total=len(batches)):
        count = 0
        for part in batches[step]:
            with autocast(reader.device):
                values = losses(part)
            values.sum().backward()
            count += len(values)
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad /= count
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if time.monotonic() - saved >= SECONDS_BETWEEN_CHECKPOINTS:
            state = {name: each.state_dict() for name, each in kept.items()}
            state |= {"steps": step + 1, "generators": [each.get_state() for each in generators]}
            torch.save(state, f"{checkpoint}.new")
            os.replace(f"{checkpoint}.new", checkpoint)  # so that a run that is killed here loses nothing
            saved = time.monotonic()
    model.eval()


@torch.no_grad()
def read(reader, documents, size=16):
    """Reads any number of documents, `size` at a time, and returns what the reader returns for all of them."""
    order = sorted(range(len(documents)), key=lambda i: len(documents[i]))
    vectors = [None] * len(documents)
    for start in range(0, len(order), size):
        numbers = order[start : start + size]
        batch = [documents[i] for i in numbers]
        with autocast(reader.device):
            rows = reader(batch)[0]
        for i, own in zip(numbers, rows.split([len(document) for document in batch]), strict=True):
            vectors[i] = own
    return torch.cat(vectors), *reader.ownership(documents)


def seconds_and_memory(reader, documents, size):
    """
    Returns the seconds that reading the documents takes, and the memory in MiB that it takes above the weights, or None on a
    CPU. The documents are read twice, and the second time counts.
    """
    is_gpu = reader.device.type == "cuda"

    def read_once():
        read(reader, documents, size)
        if is_gpu:
            torch.cuda.synchronize()

    read_once()
    if is_gpu:
        torch.cuda.reset_peak_memory_stats()
        weights = torch.cuda.memory_allocated()
    start = time.perf_counter()
    read_once()
    seconds = time.perf_counter() - start
    return seconds, (torch.cuda.max_memory_allocated() - weights) / 2**20 if is_gpu else None
