# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Files of JSON, which are read whole and written at once, and checksums of files."""

import hashlib
import json
import os
from pathlib import Path


def read_json(path, kind):
    """Returns what a json file holds. Raises `ValueError` if it is no json, or not of the type `kind`."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a json file: {error}") from error
    if not isinstance(content, kind):
        raise ValueError(f"{path} holds a {type(content).__name__} where a {kind.__name__} is needed.")
    return content


def write_json(path, content):
    """Writes a file of JSON so that, whenever the process is killed, the file is the old one or the new one."""
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def checksum(path):
    """Returns the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
