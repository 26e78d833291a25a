# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Training: data, Trainer, the record of a run, and what the training commands have in common."""
