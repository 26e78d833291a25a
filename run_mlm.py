#!/usr/bin/env python
# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Pretrain a Linformer by masked language modeling: `linformer-mlm`, from a checkout. `--help` lists the arguments."""

from transformers_linformer.commands.mlm import run


if __name__ == "__main__":
    run()
