# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""This module refuses inputs that a Linformer would misread, in one line that says what to give instead."""

import torch
from transformers.utils.import_utils import is_tracing


def check_inputs(model, input_ids, input_shape, attention_mask, token_type_ids, position_ids, is_first_part, kwargs):
    """
    Raises `ValueError` for an input that is no batch of sequences, for ids that have no embedding, for a mask that is not 1
    for tokens and 0 for padding, or begins with padding, and for documents that are packed into one sequence.

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
    """Raises `ValueError` for ids of another shape than the input's, and, if their values are known, out of range."""
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
    """Raises `ValueError` if the values of a mask are known, and a sequence begins with padding and has tokens."""
    if has_known_values(attention_mask) and attention_mask.numel():
        is_token = attention_mask != 0
        rows = (~is_token[:, 0] & is_token.any(1)).nonzero().flatten().tolist()
        if rows:
            raise ValueError(
                f"Row {rows[0]} of `attention_mask` begins with padding. Blocks and projected rows are counted from the left,"
                ' so pad on the right (`tokenizer.padding_side = "right"`).'
            )


def has_packed_documents(position_ids, attention_mask):
    """Returns whether position ids restart within a sequence, if their values are known. Those of padding may restart."""
    if position_ids is None or not has_known_values(position_ids):
        return False
    steps, is_first = position_ids.diff(), position_ids[:, 1:] == position_ids[:, :1]
    is_padding = torch.tensor(False) if attention_mask is None else attention_mask[:, 1:] == 0
    restarts = (is_first & (steps < 0) & ~is_padding).any(1)
    return bool((restarts & (is_first | (steps == 1) | is_padding).all(1)).any())


def has_known_values(tensor):
    """Returns whether a tensor's values can be read without a cost: a GPU would have to be waited for, a graph has none."""
    return tensor.device.type == "cpu" and not is_tracing(tensor)
