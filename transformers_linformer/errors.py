# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Defines the error for input that cannot be used, and says in one line what other errors say."""

import difflib


class UsageError(Exception):
    """Is raised for input that cannot be used. The message is one line that names the argument and what to do."""


def first_line(error):
    """Returns the first line of an error's message, or the name of its type if it has no message."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def file_error(error):
    """Returns, in one line, which file could not be read or written and why, or None for an error that is about no file."""
    if isinstance(error, OSError):
        file = error.filename2 or error.filename  # the first is what is written where a file is copied
        reason = error.strerror or first_line(error)
        return reason if file is None else f"{file}: {reason}"
    line = first_line(error)
    if "(os error " in line or "IoError(Os " in line:  # of safetensors, newer and older, and of tokenizers
        return line
    if isinstance(error, RuntimeError) and ("inline_container.cc" in line or "iostream error" in line):
        return f"PyTorch cannot write or read a file; the disk may be full ({line})"
    return None


def did_you_mean(name, names):
    """Returns a hint, to be appended to an error, at the one of the names that is most like a misspelt or shortened one."""
    longer = [each for each in names if each.startswith(name)]
    close = longer or difflib.get_close_matches(name, names, n=1) or [each for each in names if each in name or name in each]
    return f" Did you mean {close[0]}?" if close else ""
