# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Tables in markdown."""


def markdown_table(header, rows):
    """Returns a table. A float is shown with four digits, and all other cells as `str` shows them."""

    def line(cells):
        return f"| {' | '.join(f'{cell:.4g}' if isinstance(cell, float) else str(cell) for cell in cells)} |"

    return "\n".join([line(header), line(["---"] * len(header)), *map(line, rows)])
