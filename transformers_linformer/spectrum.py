# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""The singular values of the softmax matrices, as in figure 1 of the paper (https://arxiv.org/abs/2006.04768)."""

import torch
from tqdm.auto import tqdm


def cumulative_mass(P):
    """Returns, for matrices (..., n, n), the part of the singular values' sum that the k largest have, for k = 1, ..., n."""
    sums = torch.linalg.svdvals(P.float()).double().cumsum(-1)
    return sums / sums[..., -1:]


def smallest_k(cumulative, mass):
    """Returns the smallest k whose part in `cumulative`, (..., n), is at least `mass`."""
    return (cumulative < mass).sum(-1) + 1  # at most n, where all mass is 1.0 exactly


@torch.no_grad()
def spectrum(model, sequences):
    """Returns the `cumulative_mass` of each head's softmax matrix, (layers, heads, n), averaged over the sequences."""
    attention, was_training = model.config._attn_implementation, model.training
    model.eval().set_attn_implementation("eager")  # the only one that returns the matrices
    try:
        total = 0
        for batch in tqdm(sequences.to(model.device).split(1), desc="singular values"):
            layers = model.base_model(input_ids=batch, output_attentions=True).attentions
            total = total + torch.stack([cumulative_mass(P[0]).cpu() for P in layers])  # P: (1, heads, n, n)
    finally:
        model.train(was_training).set_attn_implementation(attention)
    return total / len(sequences)
