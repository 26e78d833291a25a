# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Exports the Linformer and its task heads, and registers them with the `AutoModel` classes."""

import transformers

from configuration_linformer import LinformerConfig

from . import modeling_linformer
from .modeling_linformer import *  # noqa: F403
from .modeling_linformer import __all__


for _name in __all__:
    _class = getattr(modeling_linformer, _name)
    if _class._auto_class is not None:
        getattr(transformers, _class._auto_class).register(LinformerConfig, _class, exist_ok=True)
