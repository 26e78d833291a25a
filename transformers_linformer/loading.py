# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Loading the configuration, the tokenizer and the model of a name, from a folder or from the Hub."""

import ast
import difflib
import json
import os
import re
from pathlib import Path

import safetensors
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig, AutoTokenizer
from transformers.utils import cached_file

import modeling_linformer  # noqa: F401  (registers the Linformer with the Auto classes)

from .errors import UsageError, first_line


def max_input_length(config):
    """Returns the number of tokens of the longest input. The positions of RoBERTa and its kin start after padding's index."""
    starts_after_padding = "roberta" in config.model_type or config.model_type == "camembert"
    return config.max_position_embeddings - (config.pad_token_id + 1 if starts_after_padding else 0)


def with_subfolder(name, **hub_kwargs):
    """
    Returns arguments of `from_pretrained` that find the transformer in a folder or repository of sentence-transformers.

    For all other models `subfolder` is "". Raises `ValueError` if modules.json names no transformer.
    """
    names = ("cache_dir", "revision", "token", "local_files_only")
    path = cached_file(
        name,
        "modules.json",
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **{key: value for key, value in hub_kwargs.items() if key in names},
    )
    if path is None:
        return hub_kwargs | {"subfolder": ""}
    for module in json.loads(Path(path).read_text(encoding="utf-8")):
        if module["type"].endswith(".Transformer"):
            return hub_kwargs | {"subfolder": module["path"]}
    raise ValueError(f"{path} names no module of the type Transformer, so there are no weights to load.")


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
    except (ValueError, StrictDataclassError) as error:
        raise UsageError(f"--config_overrides: {' '.join(str(error).split())}") from error


def load_config(name, argument="model_name_or_path", **hub_kwargs):
    """Returns the configuration of a folder or of a name on the Hub. `argument` is what an error says is wrong."""
    if name.count("/") > 1 and not os.path.exists(name):  # no name on the Hub has two slashes
        raise UsageError(f"--{argument} {name}: there is no such folder.")
    try:
        return AutoConfig.from_pretrained(name, **with_subfolder(name, **hub_kwargs))
    except (OSError, ValueError) as error:
        raise UsageError(f"--{argument} {name}: {first_line(error)}") from error


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
    max_seq_length = max_seq_length or longest
    if not special_tokens < max_seq_length <= longest:
        raise UsageError(
            f"--max_seq_length {max_seq_length} must be from {special_tokens + 1} to {longest}, the longest input of the"
            " model."
        )
    return max_seq_length


# Tokenizer


def load_tokenizer(name, **kwargs):
    """Returns the tokenizer of a folder or of a name on the Hub. `kwargs` are those of `from_pretrained`."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **with_subfolder(name, **kwargs))
    except (OSError, ValueError) as error:
        raise UsageError(f"the tokenizer of {name}: {first_line(error)} Name one with --tokenizer_name.") from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # transformers makes one up where there is no file
        raise UsageError(f"{name} has no tokenizer: name one with --tokenizer_name.")
    return tokenizer


# Model


def new_model(auto_class, config, dtype=None, trust_remote_code=False):
    """Returns a model with random weights, drawn from the current state of the random generator."""
    dtype = None if dtype in (None, "auto") else getattr(torch, dtype)
    return auto_class.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)


def load_model(auto_class, name, config, dtype=None, overrides=None, **kwargs):
    """
    Returns the model of a folder or of a name on the Hub.

    `auto_class` may be any class with `from_pretrained`, and `kwargs` are arguments of that. `overrides` is the text that
    changed the configuration, see `override`. Raises `UsageError` where there are no weights, and where they do not fit a
    configuration that the user changed.
    """
    try:
        return auto_class.from_pretrained(name, config=config, dtype=dtype or "auto", **with_subfolder(name, **kwargs))
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise UsageError(f"--model_name_or_path {name}: {first_line(error)}") from error
    except RuntimeError as error:
        cures = []
        if overrides is not None:
            cures.append(f"keep --config_overrides {overrides} to fields that have no weights, such as dropouts")
        if "ignore_mismatched_sizes" in kwargs:
            cures.append(f"give --ignore_mismatched_sizes to start with a new head for {config.num_labels} labels")
        if not cures:
            raise
        raise UsageError(f"--model_name_or_path {name}: its weights have other sizes: {', or '.join(cures)}.") from error
