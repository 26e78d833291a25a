# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""The error for input that cannot be used."""


class UsageError(Exception):
    """The user gave something that cannot be used. The message is one line that names the argument and the cure."""


def first_line(error):
    """Returns the first line of an error's message, or the name of its type if it has no message."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
