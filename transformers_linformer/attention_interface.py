# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Linformer's attention for the encoders of transformers, with their own weights.

Importing this module registers `attn_implementation="linformer"`. An encoder that computes its attention by transformers'
`AttentionInterface` then attends, with the queries and keys that it makes, to blocks of exact attention and k pooled rows.
"""

import functools
from typing import NamedTuple

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.masking_utils import causal_mask_function

from configuration_linformer import LinformerConfig
from modeling_linformer.modeling_linformer import (
    LinformerProjected,
    check_padding_side,
    has_packed_documents,
    in_chunks,
    join_blocks,
    join_rows_to_blocks,
    split_blocks,
    tokens_per_chunk,
)
from modeling_linformer.projections import PROJECTION_CLASSES, Tokens, number_of_blocks


NAME = "linformer"
# Arguments of an attention function that change what it computes, in a way that this one does not know
UNKNOWN = ("encoder_hidden_states", "position_bias", "softcap", "s_aux", "cu_seq_lens_q", "is_causal")


def use_linformer_attention(model, projected_dim=64, block_size=128, projection_type="attention_pool", far_token_limit=None):
    """
    Lets an encoder of transformers attend to blocks of exact attention and to k pooled rows, and returns it.

    Its weights stay as they are. Inputs of at most `block_size` tokens get the outputs that they got before, and longer ones
    are approximated, in time and memory O(n (b + k)). Layers with a sliding window keep it, without an n x n mask. The call
    `model.set_attn_implementation("sdpa")` takes the change back. A saved checkpoint loads anywhere, as any other.

    Args:
        model: an encoder, with or without a head, that computes its attention by transformers' `AttentionInterface`.
        projected_dim (`int` or `list[int]`): k, or one k per layer.
        block_size (`int` or `list[int]`): b, or one b per layer. 0 is for no blocks.
        projection_type (`str`): `"attention_pool"`, `"mean_pool"` or `"max_pool"`.
        far_token_limit (`int`, *optional*): as in `LinformerConfig`.

    These are kept in the dictionary `linformer_attention` of the model's configuration. If a configuration has it already,
    `attn_implementation="linformer"` in `from_pretrained` is enough, but does not notice a model that never uses the
    interface.

    Raises `ValueError` for sizes that contradict each other, for what is no model of transformers or no encoder, and for a
    model that computes its attention in a way of its own.
    """
    encoder, name = getattr(model, "base_model", None), type(model).__name__
    config = getattr(encoder, "config", None)
    if not (isinstance(model, nn.Module) and isinstance(config, PreTrainedConfig)):
        raise ValueError(
            f"`model` is a {name}, and must be an encoder of transformers: `AutoModel.from_pretrained(name)` for a name,"
            " `model[0].auto_model` for a SentenceTransformer, `model.module` for a DataParallel."
        )
    if config.model_type == "linformer":
        raise ValueError(f"{name} is a Linformer already: `projected_dim` and `block_size` are fields of its configuration.")
    if config.is_encoder_decoder or getattr(config, "is_decoder", False):
        raise ValueError(f"{name} decodes, and a Linformer cannot: each projected row mixes all positions, later ones too.")
    if check_positions_of_model not in encoder._forward_pre_hooks.values():
        encoder.register_forward_pre_hook(check_positions_of_model, with_kwargs=True)
    implementation, sizes = config._attn_implementation, getattr(config, "linformer_attention", None)
    config.linformer_attention = {
        "projected_dim": projected_dim,
        "block_size": block_size,
        "projection_type": projection_type,
        "far_token_limit": far_token_limit,
    }
    try:
        model.set_attn_implementation(NAME)
        if config._attn_implementation == NAME:
            # Run once, on two tokens, to see whether the attention function is called
            with torch.no_grad(), torch.random.fork_rng():
                encoder(input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device))
        if not any("linformer_pooling" in vars(module) for module in model.modules()):
            raise ValueError(
                f"{name} computes its attention in a way of its own, and not by transformers' `AttentionInterface`, so it"
                " cannot be given another one. `linformer-convert` converts BERT, RoBERTa and their kin."
            )
    except Exception:
        model.set_attn_implementation(implementation)
        if sizes is None:
            del config.linformer_attention
        else:
            config.linformer_attention = sizes
        raise
    return model


class Pooling(NamedTuple):
    """What an attention module pools its keys and values by. `sizes` are those of the configuration that it was made from."""

    sizes: dict | None
    projection: nn.Module
    block_size: int


def pooling_of(module, num_heads):
    """Returns the `Pooling` of an attention module, which is kept in the module."""
    pooling, sizes = getattr(module, "linformer_pooling", None), getattr(module.config, "linformer_attention", None)
    if pooling is None or pooling.sizes != sizes:
        pooling = module.linformer_pooling = make_pooling(module, num_heads, sizes)
    return pooling


def make_pooling(module, num_heads, sizes):
    layer = getattr(module, "layer_idx", None)
    # The configuration checks the sizes. How long the longest input is does not matter to a pooling.
    config = LinformerConfig(
        **{"projected_dim": 64, "block_size": 128, "projection_type": "attention_pool", **(sizes or {})},
        num_hidden_layers=module.config.num_hidden_layers,
        num_attention_heads=num_heads,
        hidden_size=num_heads,
        max_position_embeddings=2**30,
    )
    if config.has_learned_projection:
        raise ValueError(
            f"`projection_type={config.projection_type!r}` has parameters, which the model lacks: take a pooling."
        )
    if layer is None and (isinstance(config.projected_dim, list) or isinstance(config.block_size, list)):
        raise ValueError(f"{type(module).__name__} does not know which layer it is: give one int for all layers, and no list.")
    layer = layer or 0
    return Pooling(sizes, PROJECTION_CLASSES[config.projection_type](config, layer), config.block_sizes[layer])


def linformer_attention_forward(
    module, query, key, value, attention_mask, scaling=None, dropout=0.0, sliding_window=None, **kwargs
):
    """
    Is an attention function of transformers: returns the outputs, (b, n', h, d / h), and no weights.

    `query`, `key` and `value` are (b, h, n', d / h), or keys and values have fewer heads, each for a group of heads of the
    queries. `attention_mask` is (b, n'), False for padding, or None. With a `sliding_window`, a token attends to those that
    are fewer than `sliding_window` positions away, exactly.

    Raises `ValueError` for attention that no pooled row can take part in.
    """
    check(module, query, key, attention_mask, kwargs)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    attend = functools.partial(nn.functional.scaled_dot_product_attention, dropout_p=dropout, scale=scaling)
    num_heads, length = query.shape[1:3]
    pooling = pooling_of(module, num_heads)
    if key.shape[1] != num_heads:
        key, value = (rows.repeat_interleave(num_heads // key.shape[1], dim=1) for rows in (key, value))
    query, key, value = (rows.transpose(1, 2) for rows in (query, key, value))  # (b, n', h, d / h)
    if sliding_window is not None:
        return attend_in_window(query, key, value, attention_mask, sliding_window - 1, attend), None

    tokens = Tokens(query.shape[:2], attention_mask, query.device)
    projection, block_size = pooling.projection, pooling.block_size
    tokens.chunk_size = tokens_per_chunk(None, length, block_size or 1, query.device)
    key_rows = value_rows = log_counts = None
    if not projection.has_nothing_to_add(tokens, block_size):
        scale = scaling * query.shape[-1] ** 0.5  # 1 in nearly all models: `weigh` itself divides by the root
        rows_of_key, rows_of_value = key.flatten(2), value.flatten(2)
        weights = projection.weigh(tokens, query.flatten(2), lambda mean_query: mean_query * scale, rows_of_key)
        key_rows, value_rows = (projection(rows, tokens, weights) for rows in (rows_of_key, rows_of_value))
        key_rows, value_rows = (rows.unflatten(-1, (num_heads, -1)).transpose(1, 2) for rows in (key_rows, value_rows))
        log_counts = projection.log_counts(tokens, block_size, key.dtype, weights)
    projected = LinformerProjected(key_rows, value_rows, log_counts, tokens.mask, None, None)

    def attend_from(query, key, value, projected):
        if not block_size:
            return attend(query.transpose(1, 2), key_rows, value_rows, log_counts).transpose(1, 2).flatten(2)
        output = attend(*join_rows_to_blocks(query, key, value, projected, block_size))
        return join_blocks(output.transpose(1, 2).flatten(2), *query.shape[:2])

    def attend_from_chunk(rows):
        return attend_from(*(each[:, rows] for each in (query, key, value)), projected.of_rows(rows, block_size))

    # A compiled graph would depend on a slice's taking all rows
    complete = tokens.chunk_size is None
    output = attend_from(query, key, value, projected) if complete else in_chunks(attend_from_chunk, tokens)
    return output.unflatten(-1, (num_heads, -1)), None


def check(module, query, key, attention_mask, kwargs):
    name = type(module).__name__
    wrong = [argument for argument in UNKNOWN if kwargs.get(argument) is not None and kwargs[argument] is not False]
    if getattr(module, "is_causal", False):
        wrong.append("is_causal")
    if wrong:
        raise ValueError(f"Linformer's attention is for encoders, and {name} gives it `{wrong[0]}`, which it cannot take.")
    if query.shape[2] != key.shape[2]:
        raise ValueError(
            f"Linformer's attention is that of a sequence to itself, but {name} has {query.shape[2]} queries for"
            f" {key.shape[2]} keys."
        )
    if attention_mask is not None and attention_mask.dim() != 2:
        raise ValueError(
            "Linformer's attention takes a mask of padding, (batch, n), but that of"
            f" {name} has the shape {tuple(attention_mask.shape)}."
        )
    check_positions(kwargs.get("position_ids"), attention_mask)


def check_positions(position_ids, attention_mask):
    """Raises `ValueError` for position ids that restart in the middle of a row."""
    if has_packed_documents(position_ids, attention_mask):
        raise ValueError(
            "`position_ids` says that there are several documents in one row, which Linformer's attention would mix, as it"
            " pools complete rows. Give each document a row of its own (`DataCollatorWithPadding`)."
        )


def check_positions_of_model(encoder, args, kwargs):
    """Is a hook before the call of an encoder, for those that do not pass `position_ids` on to their attention."""
    if encoder.config._attn_implementation == NAME:
        check_positions(kwargs.get("position_ids"), kwargs.get("attention_mask"))


def attend_in_window(query, key, value, mask, distance, attend):
    """
    Lets each token attend to those at most `distance` positions away, exactly, and returns the outputs, (b, n', h, d / h).

    Blocks of as many tokens attend to themselves and both neighbours, so that there is no mask of n' x n'.
    """
    batch_size, length = query.shape[:2]
    size = max(distance, 1)
    around = 3 * size
    after = number_of_blocks(length, size) * size + size - length

    def with_neighbours(rows):
        rows = nn.functional.pad(rows, (0, 0) * (rows.dim() - 2) + (size, after))
        return rows.unfold(1, around, size).movedim(-1, 2)  # (b, m, 3 size, ...)

    is_token = torch.ones_like(query[..., 0, 0], dtype=torch.bool) if mask is None else mask
    is_token = with_neighbours(is_token.unsqueeze(-1)).squeeze(-1).unsqueeze(2)  # (b, m, 1, 3 size)
    offsets = torch.arange(around, device=query.device) - size - torch.arange(size, device=query.device).unsqueeze(1)
    is_attended = is_token & (offsets.abs() <= distance)  # (b, m, size, 3 size)
    bias = torch.zeros_like(is_attended, dtype=query.dtype).masked_fill(~is_attended, torch.finfo(query.dtype).min)
    blocks = split_blocks(query, size)
    output = attend(
        blocks.flatten(0, 1).transpose(1, 2),
        *(with_neighbours(rows).flatten(0, 1).transpose(1, 2) for rows in (key, value)),
        bias.flatten(0, 1).unsqueeze(1),
    )
    return join_blocks(output.transpose(1, 2), batch_size, length)


def linformer_mask(attention_mask=None, mask_function=None, use_vmap=False, **ignored):
    """
    Is a mask function of transformers: returns the mask of padding, as it is, (b, n').

    Raises `ValueError` where a model wants another mask, such as a causal one, and for one that begins with padding. Sliding
    windows are those of the layers.
    """
    if use_vmap or mask_function is causal_mask_function:
        raise ValueError(
            "Linformer's attention takes only a mask of padding, and this model has a"
            f" {'mask of its own' if use_vmap else 'causal mask: each projected row mixes all positions, later ones too'}."
        )
    if attention_mask is not None:
        check_padding_side(attention_mask)
    return attention_mask


AttentionInterface.register(NAME, linformer_attention_forward)
AttentionMaskInterface.register(NAME, linformer_mask)
