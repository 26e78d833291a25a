# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Converts a pretrained model of one of the `families` into a Linformer.

All weights are kept, and the head, too. Only E and F, the projections along the sequence, are new.
"""

import math
import os
import re

import torch
import transformers
from transformers import AutoModel, PreTrainedModel

import modeling_linformer
from configuration_linformer import LinformerConfig
from modeling_linformer.projections import LinformerLearnedProjection

from ..families import FAMILIES
from ..loading import check_finite, load_weights, max_input_length
from ..source import Source
from .sentence_modules import cross_encoder_activation


logger = transformers.utils.logging.get_logger("transformers.linformer.conversion")


def convert_to_linformer(
    model_or_name,
    projected_dim=None,
    max_position_embeddings=None,
    block_size=None,
    projection_type="attention_pool",
    projection_sharing="layerwise",
    num_global_tokens=None,
    position_period=None,
    encoder_only=False,
    **hub_kwargs,
):
    """
    Returns a Linformer with the weights, the head and the dtype of a BERT, RoBERTa, XLM-RoBERTa, CamemBERT, DistilBERT,
    ELECTRA, ALBERT, MPNet, Longformer or BigBird. A Longformer's second set of weights, for tokens with global attention, is
    left out. The layers that an ALBERT shares are copied, so that the Linformer has parameters of its own for each layer. The
    relative positions of an MPNet are kept, and the position of a projected row is the middle of its window.

    Inputs of at most `block_size` tokens get the original's outputs. Longer inputs are approximated, unless each row stands
    for one position (k = n) and the projection is not `linear`. So train the model further.

    Args:
        model_or_name: the model, or the folder or the Hub name of its checkpoint, or a `Source` of it. If it is a model of
            sentence-transformers, its transformer is converted; `write_sentence_modules` writes the rest of it. Where that
            pools the tokens, the head is left out.
        projected_dim (`int` or `list[int]`, *optional*): k, or one k per layer. Except with `linear`, it has to divide n, and
            a row stands for w = n / k positions, which have to be a divisor or a multiple of the block size. The default is
            that of w = 32, or of the nearest w that n and the blocks allow. If n is above 8,192, w is so long that there are
            at most 256 rows, where n and the blocks allow that.
        max_position_embeddings (`int`, *optional*): n, by default the original's. Later positions repeat the original's,
            see `position_period`.
        block_size (`int` or `list[int]`, *optional*): the number of tokens that attend to each other exactly, as in
            `LinformerConfig`, or one number per layer. 0 is for no blocks. The default is the largest divisor, up to 256,
            of `position_period`. Where positions repeat, it has to be a divisor, so that the positions within a block are
            consecutive.
        projection_type, projection_sharing: as in `LinformerConfig`. `linear` starts as mean pooling over k windows of
            the n positions, of which the first window holds the first position alone, and `conv` starts as mean pooling
            over k equal windows.
        num_global_tokens (`int`, *optional*): the number of tokens at the beginning that all blocks see exactly, as in
            `LinformerConfig`. By default they are 64, or the next multiple of the windows. Without blocks, and where they
            would be more than a quarter of n, there are none.
        position_period (`int`, *optional*): how many of the original's positions are kept. Later positions repeat them, but
            not those of the global tokens. By default all are kept. Give the length at which the original was trained if that
            is less: what it never learned about the positions after it would only do harm.
        encoder_only (`bool`): whether to leave the head out, which gives a `LinformerModel`.
        hub_kwargs: arguments of `from_pretrained`, such as `revision` or `token`. A `Source` has its own.

    Raises `ValueError`, which names what does not fit, for a model that cannot be converted, and `OSError` if there is no
    model to load.
    """
    if isinstance(model_or_name, PreTrainedModel):
        model = model_or_name.base_model if encoder_only else model_or_name
        config, class_name = model.config, type(model).__name__
        check_class(model)
    elif not isinstance(model_or_name, (str, os.PathLike, Source)):
        raise ValueError(
            f"the source is a {type(model_or_name).__name__}, and must be a model of transformers, a folder, or a name on the"
            " Hub: give the model that it holds (`model[0].auto_model` of a SentenceTransformer, `model.module` of a"
            " DataParallel, `model.merge_and_unload()` of a PeftModel)."
        )
    else:
        source = Source.of(model_or_name, **hub_kwargs)
        if str(source.name).endswith(".pt"):
            raise ValueError(f"{source.name} looks like a checkpoint of fairseq, which `convert_fairseq_linformer` reads.")
        model, config = None, source.config
        # sentence-transformers pools the tokens of the encoder, whatever head the configuration names
        encoder_only = encoder_only or len(source.modules) > 1
        class_name = None if encoder_only else (config.architectures or [None])[0]

    # Everything that may be refused is refused before the weights are loaded
    check_encoder(config)
    family = FAMILIES[config.model_type]
    target_class, names = family.find_names(config, class_name)
    positions_of_source = max_input_length(config)
    if max_position_embeddings is None:
        max_position_embeddings = positions_of_source
    if position_period is None:
        position_period = positions_of_source
    elif not 1 <= position_period <= positions_of_source:
        raise ValueError(
            f"`position_period` is {position_period}: it must be from 1 to the original's {positions_of_source} positions."
        )
    if block_size is None:
        block_size = default_block_size(position_period)
    if projected_dim is None:
        projected_dim = max_position_embeddings // default_window(max_position_embeddings, block_size)
    if num_global_tokens is None:
        num_global_tokens = default_global_tokens(max_position_embeddings, projected_dim, block_size, projection_type)
    target_config = LinformerConfig(
        **family.carried_fields(config),
        max_position_embeddings=max_position_embeddings,
        position_period=position_period if max_position_embeddings > position_period else None,
        projected_dim=projected_dim,
        projection_type=projection_type,
        projection_sharing=projection_sharing,
        block_size=block_size,
        num_global_tokens=num_global_tokens,
    )
    # A token of a Longformer attends only to the tokens around it
    windows = getattr(config, "attention_window", positions_of_source)
    attended = max(windows) if isinstance(windows, list) else windows
    set_far_token_limit(target_config, min(attended, positions_of_source))
    if target_class == "LinformerForSequenceClassification":
        activation = cross_encoder_activation(config)
        if activation is not None:  # where `CrossEncoder` looks for it
            target_config.sentence_transformers = {"activation_fn": activation}
    state = load_state(source, class_name) if model is None else {name: t.clone() for name, t in state_of(model).items()}
    state = rename(family.prepare(state, config), names)
    positions = "linformer.embeddings.position_embeddings.weight"
    kept = min(position_period, max_position_embeddings)
    state[positions] = state[positions][-positions_of_source:][:kept].clone()
    words = state["linformer.embeddings.word_embeddings.weight"]
    token_types = "linformer.embeddings.token_type_embeddings.weight"
    state.setdefault(token_types, words.new_zeros(target_config.type_vocab_size, target_config.size_of_embeddings))
    return make_linformer(target_class, target_config, state)


def default_block_size(n):
    """Returns the largest divisor of n that is at most 256."""
    return next(size for size in range(256, 0, -1) if n % size == 0)


def possible_windows(n, block_size):
    """Returns each w that divides n and is a divisor or a multiple of the block size, or of each one in a list."""
    sizes = [size for size in ([block_size] if isinstance(block_size, int) else block_size) if size]
    return [w for w in range(1, max(n, 1) + 1) if n % w == 0 and all(w % size == 0 or size % w == 0 for size in sizes)]


def default_window(n, block_size):
    """
    Returns w: 32 positions if that divides n and fits the blocks, and otherwise the nearest number that does. If n is above
    8,192, windows are so long that there are at most 256 rows. Raises `ValueError` if n has no such divisor.
    """
    window = min(possible_windows(n, block_size), key=lambda w: (n // w > 256, abs(math.log(w / 32))))
    if n > 8192 and n // window > 256:
        wanted = 2 ** math.ceil(math.log2(n / 256))
        raise ValueError(
            f"`max_position_embeddings` is {n}, which windows that fit `block_size` {block_size} divide into at least"
            f" {n // window} rows, and more than 256 are slow. Give {-(-n // wanted) * wanted}, or choose `projected_dim`."
        )
    return window


def default_global_tokens(n, projected_dim, block_size, projection_type):
    """Returns 64 or the next multiple of all windows, or 0 without blocks and where that is more than a quarter of n."""
    dims, sizes = ([value] if isinstance(value, int) else value for value in (projected_dim, block_size))
    window = 1 if projection_type == "linear" else math.lcm(*(max(1, n // max(1, k)) for k in dims))
    tokens = -(-64 // window) * window
    return tokens if any(sizes) and 4 * tokens <= n else 0


def set_far_token_limit(config, attended):
    """
    Sets `far_token_limit` so that a block's softmax sums over at most `attended` tokens, as many as the original's did. But
    the limit is at least an eighth of these: without that, blocks as long as the original's inputs would see nothing else.
    """
    if any(config.block_sizes) and not config.has_learned_projection:
        config.far_token_limit = max(1, attended // 8, attended - max(config.block_sizes))


def check_class(source):
    """Raises `ValueError` for a model in memory that is none of transformers' own classes, or that has adapters."""
    name = type(source).__name__
    if getattr(transformers, name, type(source)) is not type(source):
        raise ValueError(f"the source is a {name} with code of its own, which may compute something else: take transformers'.")
    if getattr(source, "_hf_peft_config_loaded", False):
        raise ValueError("the source has adapters: merge them into the model first, by PEFT's `merge_and_unload()`.")


def check_encoder(config):
    """Raises `ValueError` for a source whose layers compute something else than a Linformer's."""
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"`model_type` is {config.model_type!r}, which cannot be converted: the source must be one of"
            f" {', '.join(FAMILIES)}."
        )
    own_code = {key: name for key, name in (getattr(config, "auto_map", None) or {}).items() if key.startswith("AutoModel")}
    if own_code:
        raise ValueError(
            f"`auto_map` names code of the source's own ({next(iter(own_code.values()))}), which may compute something else"
            f" than a {config.model_type}, as its `model_type` says: the source must be a model with transformers' own code."
        )
    quantised = getattr(config, "quantization_config", None) or getattr(config, "compression_config", None)
    if quantised is not None:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised.quant_method
        raise ValueError(
            f"`quantization_config` says that the weights are quantised ({getattr(method, 'value', method)}), and a Linformer"
            " is made of floating-point weights: convert the model that was quantised."
        )
    FAMILIES[config.model_type].check(config)


def load_state(source, class_name):
    """Returns the state of a checkpoint, see `load_weights`. Raises `ValueError` if a part of its head is missing, too."""
    source_class = AutoModel if class_name is None else getattr(transformers, class_name)
    model, missing, other_sizes = load_weights(source_class, source.name, source.config, dtype="auto", **source.kwargs)
    if missing or other_sizes:
        raise ValueError(
            f"{source.name} lacks weights of a {type(model).__name__}, which would be random:"
            f" {', '.join(sorted(missing | other_sizes.keys()))}. Convert the encoder alone, with encoder_only=True"
            " (--encoder_only)."
        )
    return state_of(model)


# Weights


def state_of(model):
    """Returns the model's tensors by their names, which are those of a model with a head, even if it has none."""
    prefix = "" if hasattr(model, model.base_model_prefix) else f"{model.base_model_prefix}."
    return {prefix + name: tensor for name, tensor in model.state_dict().items()}


def rename(state, names):
    """Returns the state with its names replaced as the table says. Warns of tensors that are left out."""
    pattern = re.compile("|".join(map(re.escape, names)))
    renamed, dropped = {}, []
    for name, tensor in state.items():
        if any(part in name for part, new in names.items() if new is None):
            dropped.append(name)
        else:
            renamed[pattern.sub(lambda match: names[match[0]], name)] = tensor
    if dropped:
        logger.warning(f"These tensors are left out, as the Linformer has no place for them: {', '.join(dropped)}")
    return renamed


def make_linformer(target_class, config, state):
    """
    Returns a Linformer of the class `target_class` that consists of the tensors of `state`, which are not copied.

    All get the dtype of the word embeddings. Their names are those of a model with a head, even if `target_class` is
    `LinformerModel`. If `state` lacks E and F, they start as in any new model. Raises `ValueError` if any tensor is left over,
    missing, of another shape, or not finite.
    """
    target_class = getattr(modeling_linformer, target_class)
    words = state["linformer.embeddings.word_embeddings.weight"]
    state = {name: tensor.to(words.dtype) for name, tensor in state.items()}
    options = {}
    if target_class is modeling_linformer.LinformerModel:
        state = {name.removeprefix("linformer."): tensor for name, tensor in state.items()}
        options["add_pooling_layer"] = "pooler.dense.weight" in state
    bias = state.get("lm_head.decoder.bias", state.get("lm_head.bias"))  # one parameter with two names
    if bias is not None:
        state |= {"lm_head.decoder.bias": bias, "lm_head.bias": bias.clone()}

    with torch.device("meta"):
        model = target_class(config, **options).eval()
    ours = model.state_dict()
    projections = {name for name in ours if name.endswith((".E.weight", ".F.weight"))}
    left_over, missing = state.keys() - ours.keys(), ours.keys() - state.keys() - projections
    if left_over or missing:
        raise ValueError(
            f"The source's tensors do not fit a {target_class.__name__}: {', '.join(sorted(left_over)) or 'none'} left"
            f" over, {', '.join(sorted(missing)) or 'none'} missing. The source must be an unchanged model of its type."
        )
    for name, tensor in state.items():
        if tensor.shape != ours[name].shape:
            raise ValueError(
                f"The source's tensor for {name} is of shape {tuple(tensor.shape)}, but its configuration makes it"
                f" {tuple(ours[name].shape)}."
            )
    check_finite(state)
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    for module in model.modules():
        if isinstance(module, LinformerLearnedProjection) and module.weight.is_meta:
            module.to_empty(device=words.device).to(words.dtype)
            with torch.no_grad():
                module.init_weights()
    return model
