# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
This module gives Linformer's attention to the encoders of transformers, which keep their own weights.

Importing this module registers `attn_implementation="linformer"`. An encoder that computes its attention by transformers'
`AttentionInterface` then attends, with the queries and keys that it makes, to blocks of exact attention and to pooled rows.
"""

import math

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.masking_utils import causal_mask_function

from modeling_linformer.attention import attend, fill_up, join_blocks, merge_blocks, position_bias
from modeling_linformer.chunked_inference import choose_chunks, in_chunks
from modeling_linformer.input_checks import check_padding_side, has_packed_documents
from modeling_linformer.projections import POOLINGS, Tokens, accumulation_dtype, left_out, number_of_parts, split


NAME = "linformer"
CALLED = "linformer_attention_was_called"  # the attribute of an attention module that has called the attention function
DEFAULTS = {
    "window": 32,
    "block_size": 256,
    "projection_type": "attention_pool",
    "far_token_limit": None,
    "num_global_tokens": 0,
}
# Arguments of an attention function that change what it computes, in a way that this one does not know
UNKNOWN = ("encoder_hidden_states", "position_bias", "softcap", "s_aux", "cu_seq_lens_q", "is_causal")


def use_linformer_attention(
    model, window=32, block_size=256, projection_type="attention_pool", far_token_limit=None, num_global_tokens=0
):
    """
    Lets an encoder of transformers attend to blocks of exact attention and to pooled rows, and returns it.

    Its weights stay as they are. Inputs of at most `block_size` tokens get the outputs that they got before, and longer ones
    are approximated. Layers with a sliding window keep it, without an n x n mask. The call
    `model.set_attn_implementation("sdpa")` takes the change back. A saved checkpoint loads anywhere, as before.

    Args:
        model: an encoder, with or without a head, that computes its attention by transformers' `AttentionInterface`.
        window (`int` or `list[int]`): w, the number of positions that a pooled row stands for, or one w per layer.
        block_size (`int` or `list[int]`): b, a divisor or a multiple of w, or one b per layer. 0 is for no blocks.
        projection_type (`str`): `"attention_pool"`, `"hard_attention_pool"`, `"mean_pool"` or `"max_pool"`.
        far_token_limit (`int`, *optional*), num_global_tokens (`int`): as in `LinformerConfig`.

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
        "window": window,
        "block_size": block_size,
        "projection_type": projection_type,
        "far_token_limit": far_token_limit,
        "num_global_tokens": num_global_tokens,
    }
    try:
        model.set_attn_implementation(NAME)
        if config._attn_implementation == NAME:
            # Run once, on two tokens, to see whether the attention function is called
            with torch.no_grad(), torch.random.fork_rng():
                encoder(input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device))
        if not any(getattr(module, CALLED, False) for module in model.modules()):
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


def sizes_of(module):
    """
    Returns the pooling, the block size and the limit of far tokens of an attention module. Raises `ValueError` for what
    `use_linformer_attention` does not take.
    """
    sizes = DEFAULTS | (getattr(module.config, "linformer_attention", None) or {})
    projection_type, limit, num_global = (sizes[name] for name in ("projection_type", "far_token_limit", "num_global_tokens"))
    if projection_type not in POOLINGS:
        raise ValueError(
            f"`projection_type` must be one of {', '.join(POOLINGS)}, got {projection_type!r}. (A learned projection has"
            " parameters, which the model lacks.)"
        )
    layer, of_layer = getattr(module, "layer_idx", None), {}
    for name, least in (("window", 1), ("block_size", 0)):
        size = sizes[name]
        if isinstance(size, list | tuple):
            if layer is None:
                raise ValueError(
                    f"{type(module).__name__} does not know which layer it is: `{name}` must be one int, got {size}."
                )
            if len(size) != module.config.num_hidden_layers:
                raise ValueError(
                    f"`{name}` must have one int for each of the {module.config.num_hidden_layers} layers, got {size}."
                )
            size = size[layer]
        if size < least:
            raise ValueError(f"`{name}` must be at least {least}, got {sizes[name]}.")
        of_layer[name] = size
    window, block_size = of_layer.values()
    if block_size and block_size % window and window % block_size:
        raise ValueError(f"`block_size` must be a divisor or a multiple of `window` ({window}), or 0, got {block_size}.")
    if limit is not None and limit < 1:
        raise ValueError(f"`far_token_limit` must be at least 1, or None for no limit, got {limit}.")
    if num_global < 0 or num_global % window:
        raise ValueError(f"`num_global_tokens` must be a multiple of `window` ({window}), or 0, got {num_global}.")
    return POOLINGS[projection_type](window, num_global), block_size, limit


def linformer_attention_forward(
    module, query, key, value, attention_mask, scaling=None, dropout=0.0, sliding_window=None, **kwargs
):
    """
    Is an attention function of transformers: returns the outputs, (B, n', h, d_h), and no weights.

    `query`, `key` and `value` are (B, h, n', d_h). Keys and values may have fewer heads, each for a group of the queries'
    heads. `attention_mask` is (B, n'), False for padding, or None. With a `sliding_window`, a token attends to those that
    are fewer than `sliding_window` positions away, exactly.

    Raises `ValueError` for attention that no pooled row can take part in.
    """
    check(module, query, key, attention_mask, kwargs)
    setattr(module, CALLED, True)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling

    def kernel(query, key, value, bias):
        output = nn.functional.scaled_dot_product_attention(query, key, value, bias, dropout, scale=scaling)
        return output.transpose(1, 2), None

    if key.shape[1] != query.shape[1]:
        key, value = (states.repeat_interleave(query.shape[1] // states.shape[1], dim=1) for states in (key, value))
    query, key, value = (states.transpose(1, 2) for states in (query, key, value))  # (B, n', h, d_h)
    if sliding_window is not None:
        return attend_in_window(query, key, value, attention_mask, sliding_window - 1, kernel), None

    E, block_size, limit = sizes_of(module)
    length, dtype = query.shape[1], accumulation_dtype(query.dtype)
    tokens = Tokens(query.shape[:2], attention_mask, query.device)
    if not torch.compiler.is_compiling():
        block_size = min(block_size, length)
    shared, num_keys = None, (0, 0)
    if not block_size or torch.compiler.is_compiling() or length > max(block_size, 0 if E.num_global_tokens else E.window):
        shared = E.share(query, key, value, tokens, E, scaling)
        num_keys = E.num_keys(tokens, module.config.max_position_embeddings)
    if torch.compiler.is_compiling():
        shared = fill_up(shared, num_keys)

    def attend_from(positions):
        part = tokens.part(positions)
        size = block_size if torch.compiler.is_compiling() else min(block_size, part.length)
        bias = position_bias(part, size, num_keys, E, limit, None, dtype)
        return attend(kernel, *(states[:, positions] for states in (query, key, value)), shared, bias, size)[0]

    return in_chunks(attend_from, choose_chunks(None, length, math.lcm(block_size or 1, E.window), query.device), length), None


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
    """Raises `ValueError` for position ids that restart in the middle of a sequence."""
    if has_packed_documents(position_ids, attention_mask):
        raise ValueError(
            "`position_ids` says that there are several documents in one row, which Linformer's attention would mix, as it"
            " pools complete rows. Give each document a row of its own (`DataCollatorWithPadding`)."
        )


def check_positions_of_model(encoder, args, kwargs):
    """Is a hook before the call of an encoder, for those that do not pass `position_ids` on to their attention."""
    if encoder.config._attn_implementation == NAME:
        check_positions(kwargs.get("position_ids"), kwargs.get("attention_mask"))


def attend_in_window(query, key, value, mask, distance, kernel):
    """
    Lets each token attend to those at most `distance` positions away, exactly, and returns the outputs, (B, n', h, d_h).

    The sequence is cut into blocks of `distance` tokens, which attend to themselves and to the blocks on both sides. So there
    is no mask of n' x n'.
    """
    batch_size, length = query.shape[:2]
    size = max(distance, 1)
    around = 3 * size
    after = number_of_parts(length, size) * size + size - length

    def with_neighbours(states):
        states = nn.functional.pad(states, (0, 0) * (states.dim() - 2) + (size, after))
        return states.unfold(1, around, size).movedim(-1, 2)  # (B, m, 3 size, ...)

    is_token = torch.ones_like(query[..., 0, 0], dtype=torch.bool) if mask is None else mask
    is_token = with_neighbours(is_token.unsqueeze(-1)).squeeze(-1).unsqueeze(2)  # (B, m, 1, 3 size)
    offsets = torch.arange(around, device=query.device) - size - torch.arange(size, device=query.device).unsqueeze(1)
    is_attended = is_token & (offsets.abs() <= distance)  # (B, m, size, 3 size)
    bias = torch.zeros_like(is_attended, dtype=query.dtype).masked_fill(~is_attended, left_out(query.dtype))
    states = (split(query, size), with_neighbours(key), with_neighbours(value))
    output, _ = kernel(*(merge_blocks(each).transpose(1, 2) for each in states), merge_blocks(bias).unsqueeze(1))
    return join_blocks(output, batch_size, length)


def linformer_mask(attention_mask=None, mask_function=None, use_vmap=False, **ignored):
    """
    The mask function for transformers: returns the mask of padding, as it is, (B, n').

    Raises `ValueError` where a model wants another mask, such as a causal one, and for one that begins with padding. A sliding
    window is no part of the mask, as `linformer_attention_forward` is given it by the layer.
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
