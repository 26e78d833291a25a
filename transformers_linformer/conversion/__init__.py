# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Conversion of pretrained encoders: their weights, and the other files of their folders."""
