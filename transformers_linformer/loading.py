# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Loads the configuration, the tokenizer and the model of a name, from a folder or from the Hub."""

import ast
import difflib
import logging
import os
import pickle
import re
from contextlib import contextmanager

import safetensors
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoTokenizer

import modeling_linformer  # noqa: F401  (registers the Linformer with the Auto classes)

from .errors import UsageError, first_line
from .families import FAMILIES
from .source import Source


logger = transformers.utils.logging.get_logger("transformers.linformer.loading")

# What a configuration raises for a field whose value has a wrong type
WRONG_TYPE = (StrictDataclassError, TypeError, AttributeError)
COMPLETE_CHECKPOINT = "name a complete checkpoint, with the configuration that it was saved with"


def max_input_length(config):
    """
    Returns the number of tokens of the longest input. The positions of a RoBERTa begin after padding's index.

    Raises `ValueError` if the configuration lacks that index.
    """
    family = FAMILIES.get(config.model_type)
    # Some models like RoBERTa can be trained here, but not converted
    starts_after_padding = family.positions_after_padding if family else "roberta" in config.model_type
    if starts_after_padding and config.pad_token_id is None:
        raise ValueError(
            f"`pad_token_id` is None, but the positions of the type {config.model_type} begin after it: set it in config.json,"
            " to what it was when the model was trained (1 in nearly all)."
        )
    return config.max_position_embeddings - (config.pad_token_id + 1 if starts_after_padding else 0)


# Configuration


def parse_overrides(text, allowed):
    """Reads `"hidden_size=128,projected_dim=[64,32]"` as a dictionary. Commas within brackets separate no fields."""
    overrides = {}
    for item in re.split(r",(?![^\[]*\])", text):
        name, equals, value = item.partition("=")
        name = name.strip()
        if not equals:
            raise UsageError(f"--config_overrides: {item!r} is not of the form name=value.")
        if name not in allowed:
            close = difflib.get_close_matches(name, allowed, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise UsageError(f"--config_overrides: the configuration has no field {name!r}.{hint}")
        try:
            overrides[name] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):  # a bare word
            overrides[name] = {"true": True, "false": False}.get(value.strip().lower(), value.strip())
    return overrides


def override(config, overrides):
    """Returns the configuration with the fields replaced that the text names, see `parse_overrides`; None names none."""
    if overrides is None:
        return config
    fields = config.to_dict()
    try:
        return type(config)(**(fields | parse_overrides(overrides, fields)))
    except (ValueError, *WRONG_TYPE) as error:
        named = "" if isinstance(error, (ValueError, StrictDataclassError)) else f" {overrides}"  # these name the field
        raise UsageError(f"--config_overrides{named}: {' '.join(str(error).split())}") from error


def load_config(name, argument="model_name_or_path", **hub_kwargs):
    """Returns the configuration of a folder or of a name on the Hub. An error names the `argument`."""
    if name.count("/") > 1 and not os.path.exists(name):  # no name on the Hub has two slashes
        raise UsageError(f"--{argument} {name}: there is no such folder.")
    try:
        config = Source(name, hub_kwargs).config
        if hasattr(config, "max_position_embeddings"):
            max_input_length(config)
        return config
    except (OSError, ValueError) as error:
        raise UsageError(f"--{argument} {name}: {first_line(error)}") from error
    except WRONG_TYPE as error:
        raise UsageError(f"--{argument} {name}: {' '.join(str(error).split())}") from error


def default_config(model_type):
    """Returns the default configuration of a type of model that transformers knows."""
    if model_type not in CONFIG_MAPPING:
        raise UsageError(f"--model_type {model_type}: transformers knows no such type.")
    return CONFIG_MAPPING[model_type]()


def check_max_seq_length(max_seq_length, config, special_tokens=0):
    """
    Returns the longest input in tokens: what is asked for, or, if that is None, the longest that the model reads.

    Raises `UsageError` if the model cannot read that much, or if no token fits beside the special ones.
    """
    longest = max_input_length(config)
    max_seq_length = longest if max_seq_length is None else max_seq_length
    if not special_tokens < max_seq_length <= longest:
        raise UsageError(
            f"--max_seq_length {max_seq_length} must be from {special_tokens + 1} to {longest}, the longest input of the"
            " model."
        )
    return max_seq_length


# Tokenizer


def load_tokenizer(name, mask=False, **kwargs):
    """
    Returns the tokenizer of a `Source`, or of a folder or a name on the Hub, with `kwargs` as those of `from_pretrained`.

    Raises `UsageError` if it has no padding token, or, where `mask` says that one is needed, no mask token.
    """
    source = Source.of(name, **kwargs)
    name = source.name
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **source.kwargs)
    except (OSError, ValueError) as error:
        raise UsageError(f"the tokenizer of {name}: {first_line(error)} Name one with --tokenizer_name.") from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # transformers makes one up where there is no file
        raise UsageError(f"{name} has no tokenizer: name one with --tokenizer_name.")
    needed = {"pad_token": "<pad>"} | ({"mask_token": "<mask>"} if mask else {})
    lacking = {kind: token for kind, token in needed.items() if getattr(tokenizer, f"{kind}_id") is None}
    if lacking:
        words = " and ".join(f"no {kind.replace('pad', 'padding').replace('_', ' ')}" for kind in lacking)
        raise UsageError(
            f"--tokenizer_name {name}: the tokenizer has {words}: name another one, or save it again after"
            f" tokenizer.add_special_tokens({lacking})."
        )
    return tokenizer


# Model


def new_model(auto_class, config, dtype=None, trust_remote_code=False):
    """Returns a model with random weights, drawn from the current state of the random generator."""
    dtype = None if dtype in (None, "auto") else getattr(torch, dtype)
    return auto_class.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)


def load_weights(auto_class, name, config, cure=COMPLETE_CHECKPOINT, **kwargs):
    """
    Returns the model of a folder or of a name on the Hub, and what its head lacks: a set of the names of missing weights,
    and a dictionary from the names of weights of another size to a text that says which. Both start from random weights.

    `auto_class` may be any class with `from_pretrained`, and `kwargs` are arguments of that. The pooler counts as a part of
    the head. An encoder without a head gets no pooler where the checkpoint has none. Raises `OSError` if there are no
    weights, and `ValueError` if they cannot be read, if any weight is not finite, and if a weight of the body is missing, left
    over, or of another size. Then the message ends with the `cure`.
    """
    kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        with without_load_report():
            model, info = auto_class.from_pretrained(name, config=config, **kwargs)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, safetensors.SafetensorError) as error:
        if isinstance(error, OSError) and error.errno is None:  # transformers explains that there are none
            raise
        # For a broken pickle, torch's message advises to run the code in it
        reason = "no pickle of tensors" if isinstance(error, (EOFError, pickle.UnpicklingError)) else first_line(error)
        raise ValueError(f"the weights cannot be read ({reason}): fetch or save them again.") from error
    except ImportError as error:  # of the method that has quantised them
        raise ValueError(f"the weights cannot be read without another library ({first_line(error)}).") from error
    is_encoder = model.base_model is model
    prefix = "" if is_encoder else f"{model.base_model_prefix}."
    parts = {part for part, _ in model.base_model.named_children()} - {"pooler"}

    def is_of_body(key):
        return key.startswith(prefix) and not key.startswith(f"{prefix}pooler.")

    def is_left_over(key):  # the checkpoint of an encoder has no prefix
        return key.removeprefix(f"{model.base_model_prefix}.").partition(".")[0] in parts

    missing, left_over = info["missing_keys"], info["unexpected_keys"]
    other_sizes = {
        key: f"{key} is {tuple(theirs)} and not {tuple(ours)}" for key, theirs, ours in sorted(info["mismatched_keys"])
    }
    problems = []
    if lacking := listed(filter(is_of_body, missing)):
        problems.append(f"the weights lack {lacking}")
    if resized := listed(text for key, text in other_sizes.items() if is_of_body(key)):
        problems.append(f"the weights have other sizes ({resized})")
    if unused := listed(filter(is_left_over, left_over)):
        problems.append(f"a {type(model).__name__} of this configuration has no place for {unused}")
    if problems:
        raise ValueError(f"{', and '.join(problems)}: {cure}.")
    check_finite(dict(model.named_parameters()))
    if left_over:
        names = ", ".join(sorted(left_over))
        logger.warning(f"These tensors are left out, as a {type(model).__name__} has no place for them: {names}")
    if is_encoder and missing:
        model.pooler, missing = None, set()
    return model, missing, other_sizes


@contextmanager
def without_load_report():
    """Keeps transformers from printing a table of the weights that do not fit, which would advise to ignore them."""

    def is_no_report(record):
        return "LOAD REPORT" not in record.getMessage()

    theirs = logging.getLogger("transformers.modeling_utils")
    theirs.addFilter(is_no_report)
    try:
        yield
    finally:
        theirs.removeFilter(is_no_report)


def listed(texts, at_most=3):
    """Returns the first few of the texts, sorted, and how many there are beyond these."""
    texts = sorted(texts)
    return ", ".join(texts[:at_most]) + (f" and {len(texts) - at_most} more" if len(texts) > at_most else "")


def check_finite(tensors):
    """Raises `ValueError` if some of the tensors, given by their names, hold NaN or infinity."""
    # The extremes of a tensor with NaN are NaN. To find them takes no memory, unlike `isfinite` of all elements.
    extremes = {name: torch.stack(tensor.aminmax()) for name, tensor in tensors.items() if tensor.numel()}
    bad = {name: tensors[name].dtype for name, both in extremes.items() if not both.isfinite().all()}
    if bad:
        cure = ", or load them as float32, as float16 ends at 65504" if torch.float16 in bad.values() else ""
        raise ValueError(f"the weights are not finite in {listed(bad)}: take an earlier checkpoint{cure}.")


def load_model(
    auto_class,
    name,
    config,
    dtype=None,
    overrides=None,
    argument="model_name_or_path",
    new_head=False,
    ignore_mismatched_sizes=None,
    **kwargs,
):
    """
    Returns the model of a folder or of a name on the Hub, see `load_weights`.

    `overrides` is the text that changed the configuration, see `override`, and an error names the `argument`.
    `new_head` says whether weights of the head that the checkpoint lacks may start anew, and `ignore_mismatched_sizes`
    whether those of another size may; None is for commands without this option. Raises `UsageError` where there are no
    weights, and where they do not fit.
    """
    cure = COMPLETE_CHECKPOINT
    if overrides is not None:
        cure = f"keep --config_overrides {overrides} to fields that have no weights, such as dropouts"
    try:
        options = Source(name, kwargs).kwargs | {"dtype": dtype or "auto"}
        model, missing, other_sizes = load_weights(auto_class, name, config, cure, **options)
    except (OSError, ValueError) as error:
        raise UsageError(f"--{argument} {name}: {first_line(error)}") from error
    if other_sizes and not ignore_mismatched_sizes:
        if ignore_mismatched_sizes is not None:
            cure = f"give --ignore_mismatched_sizes to start with a new head for {config.num_labels} labels"
        raise UsageError(f"--{argument} {name}: its head has other sizes ({listed(other_sizes.values())}): {cure}.")
    new = sorted(missing | other_sizes.keys())
    if new and not new_head:
        raise UsageError(
            f"--{argument} {name}: its head lacks {listed(new)}, which would stay random: name a checkpoint whose head was"
            " trained."
        )
    if new:
        logger.warning(f"The head starts from random weights: {', '.join(new)}")
    return model
