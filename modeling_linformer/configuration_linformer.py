# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Imports `LinformerConfig` from its package, `configuration_linformer`. In a saved checkpoint, the file of that package which
defines the configuration takes the place of this one.
"""

from configuration_linformer.configuration_linformer import LinformerConfig  # noqa: F401
