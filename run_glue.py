#!/usr/bin/env python
# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Fine-tune a Linformer to classify texts: `linformer-glue`, from a checkout. `--help` lists the arguments."""

from transformers_linformer.commands.glue import run


if __name__ == "__main__":
    run()
