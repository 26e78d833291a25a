# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Exports `LinformerConfig`, and registers it with `AutoConfig` as `model_type = "linformer"`."""

from transformers import AutoConfig

from .configuration_linformer import LinformerConfig


AutoConfig.register(LinformerConfig.model_type, LinformerConfig, exist_ok=True)

__all__ = ["LinformerConfig"]
