# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Makes markdown: tables, and texts that are shown as they are."""

import re


def markdown_table(header, rows):
    """
    Returns a table of cells in markdown. A float is shown with four digits, and all other cells as `str` shows them, in one
    line.
    """

    def cell(value):
        text = f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).splitlines())
        return re.sub(r"(\\.)|\|", lambda match: match[1] or r"\|", text)  # a bar that is escaped already stays

    def line(cells):
        return f"| {' | '.join(map(cell, cells))} |"

    return "\n".join([line(header), line(["---"] * len(header)), *map(line, rows)])


def plain(text):
    """Returns the markdown that shows a text, such as the name of a file, as it is, in one line."""
    return re.sub(r"([\\`*_\[\]<>#|~$&])", r"\\\1", " ".join(str(text).split()))


def code(text):
    """Returns the markdown that shows a text as code, in one line."""
    text = re.sub(r"\s", " ", str(text))
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""  # markdown leaves it out again
    return f"{fence}{space}{text}{space}{fence}"
