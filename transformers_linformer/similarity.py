# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""How similar the hidden states of a converted model are to the original's: cosine similarity."""

import torch
from torch import nn
from tqdm.auto import tqdm

from modeling_linformer.sequence_parallel import all_reduce


# The names of the two numbers that `cosine_similarities` returns per document
MEASURES = ("per_token", "per_document")


def cosine_similarities(states, original, attention_mask=None, mesh=None):
    """
    Returns two cosine similarities per document, (b, 2), between hidden states and the original's, both (b, n, d).

    The first is the mean over the tokens, and the second is the similarity of the documents' mean vectors. Padding, which
    is 0 in `attention_mask` (b, n), does not count. When processes share the documents, each gives its part of the tokens
    and the `mesh` of these processes.
    """
    mask = states.new_ones(states.shape[:2]) if attention_mask is None else attention_mask.to(states.dtype)
    by_token = all_reduce((nn.functional.cosine_similarity(states, original, dim=-1) * mask).sum(1), mesh)
    documents = (all_reduce((rows * mask[..., None]).sum(1), mesh) for rows in (states, original))
    by_document = nn.functional.cosine_similarity(*documents, dim=-1)
    return torch.stack([by_token / all_reduce(mask.sum(1), mesh), by_document], dim=-1)


@torch.no_grad()
def last_hidden_states(encoder, sequences, description=None):
    """Returns the last hidden states (samples, n, d) for token ids (samples, n). `description` labels the progress bar."""
    batches = tqdm(sequences.to(encoder.device).split(1), desc=description)
    return torch.cat([encoder(input_ids=batch).last_hidden_state.float().cpu() for batch in batches])


def similarity(states, original):
    """
    Summarises the `cosine_similarities` of states (samples, n, d) with the original's.

    Returns a dictionary from each of `MEASURES` to the mean and the standard deviation over the documents.
    """
    cosines = cosine_similarities(states, original)
    return {name: [c.mean().item(), c.std().item()] for name, c in zip(MEASURES, cosines.T, strict=True)}
