# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Exports the Linformer and its task heads, and registers them with the `AutoModel` classes."""

import transformers

from configuration_linformer import LinformerConfig
from configuration_linformer.configuration_linformer import AUTO_MAP

from . import modeling_linformer
from .modeling_linformer import *  # noqa: F403
from .modeling_linformer import __all__  # noqa: F401


for _auto_class, _reference in AUTO_MAP.items():
    if _auto_class != "AutoConfig":
        _class = getattr(modeling_linformer, _reference.split(".")[-1])
        getattr(transformers, _auto_class).register(LinformerConfig, _class, exist_ok=True)
