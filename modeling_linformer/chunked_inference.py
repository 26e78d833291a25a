# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
This module computes a layer for inference in chunks of the sequence, which use the same memory one after the other.

Once the projected rows of a layer exist, the rest of the layer is computed for each block alone. So a chunk's outputs can
overwrite its inputs, and a layer needs one tensor of (B, n', d), and memory for one chunk, whatever n' is.
"""

from typing import NamedTuple

import torch


# The features of longer inputs take too much memory to be kept from the first pass over the chunks to the second
LONGEST_WITH_KEPT_FEATURES = 16384


class Chunks(NamedTuple):
    """Says how a layer is computed in chunks."""

    size: int  # the number of positions of each chunk but the last: whole blocks and windows
    in_place: bool  # whether the outputs of a layer overwrite its inputs

    def slices(self, length):
        return [slice(start, min(start + self.size, length)) for start in range(0, length, self.size)]


def choose_chunks(chunk_size, length, multiple, device, in_place=True):
    """
    Returns the `Chunks` of an input, or None if all is computed at once: with gradients, because these need the intermediate
    results of all tokens anyway, and for short inputs. `chunk_size` is as in `LinformerConfig`, and chunks consist of a
    multiple of `multiple` positions.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return None
    if chunk_size is None:
        # On a CPU, what was just computed for a chunk is still in the caches. Other devices only save memory by chunks.
        chunk_size = 512 if device.type == "cpu" else 16384 if length >= 65536 else 0
    chunk_size = -(-chunk_size // multiple) * multiple
    return Chunks(chunk_size, in_place) if 0 < chunk_size < length else None


def in_chunks(compute, chunks, length, output=None):
    """
    Calls `compute` with the slice of each chunk, or if `chunks` is None, once with the slice of all positions. Returns the
    results of all, (B, n', ...), which are written into `output` if it is given and has their dtype.
    """
    if chunks is None:
        return compute(slice(0, length))
    for positions in chunks.slices(length):
        result = compute(positions)
        if output is None or output.dtype != result.dtype:
            output = result.new_empty(result.shape[0], length, *result.shape[2:])
        output[:, positions] = result
        del result  # otherwise it would take memory until the next one is complete
    return output


def forward_in_chunks(layer, hidden_states, tokens, chunks, shared_projection=None, relative_attention_bias=None, **kwargs):
    """Returns the outputs of a `LinformerLayer`: one pass over the chunks makes the projected rows, and another the rest."""
    attention = layer.attention.self
    E = shared_projection if attention.E is None else attention.E
    length, kept = hidden_states.shape[1], {}

    def features_of(positions):
        features = kept.pop(positions.start, None)
        return attention.features(hidden_states[:, positions], E) if features is None else features

    def share(positions):
        features = (None, None, None) if attention.projects_hidden_states(E) else features_of(positions)
        if features[0] is not None and length <= LONGEST_WITH_KEPT_FEATURES:
            kept[positions.start] = features
        return attention.share(hidden_states[:, positions], *features, tokens.part(positions), E)

    def bias_of(part):
        return attention.position_bias(part, hidden_states.dtype, shared_projection, relative_attention_bias)

    def forward(positions):
        part, states = tokens.part(positions), hidden_states[:, positions]
        output, _ = attention.attend(*features_of(positions), shared, bias_of(part), part, **kwargs)
        return layer.feed_forward(layer.attention.output(output, states))

    # Processes that share a sequence exchange the counts of tokens before the keys, with and without chunks: some of them may
    # have too few tokens for chunks
    bias_of(tokens.part(slice(0, chunks.size)))
    needs_keys = attention.needs_shared_keys(tokens, E)
    shared = attention.combine((share(each) for each in chunks.slices(length)), tokens, E) if needs_keys else None
    return in_chunks(forward, chunks, length, hidden_states if chunks.in_place else None)
