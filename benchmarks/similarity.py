# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""How similar the hidden states of a converted model are to the original's: cosine similarity."""

import torch
from tqdm.auto import tqdm

from transformers_linformer.training.distillation import cosine_similarities


# The names of the two numbers that `cosine_similarities` returns per document
MEASURES = ("per_token", "per_document")


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
