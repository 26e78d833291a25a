# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Reading datasets and files."""

import os
from pathlib import Path

import datasets
from datasets import load_dataset

from .errors import UsageError, first_line


FORMATS = {"txt": "text", "csv": "csv", "tsv": "csv", "json": "json", "jsonl": "json"}


def check_file(argument, path, types):
    """Raises `UsageError` for a file that is missing, empty, not UTF-8, or whose name ends in none of the `types`."""
    if not os.path.isfile(path):
        raise UsageError(f"--{argument}: there is no file {path}.")
    if Path(path).suffix.lstrip(".") not in types:
        raise UsageError(f"--{argument}: {path} must end in .{', .'.join(types[:-1])} or .{types[-1]}.")
    try:
        with open(path, encoding="utf-8") as file:
            if not any(line.strip() for line in file):
                raise UsageError(f"--{argument}: {path} has no text in it.")
            for _ in file:
                pass
    except UnicodeDecodeError as error:
        raise UsageError(f"--{argument}: {path} is not UTF-8 ({error}). Convert it, for example with iconv.") from error


def read_dataset(name, config_name=None, **options):
    """Returns the splits of a dataset on the Hub or in a folder. `options` are those of `datasets.load_dataset`."""
    try:
        return load_dataset(name, config_name, **options)
    except (FileNotFoundError, ValueError, ConnectionError) as error:
        raise UsageError(f"--dataset_name {name}: {first_line(error)}") from error


def read_files(files, types, **options):
    """
    Returns one split per file.

    Args:
        files: a dictionary from an argument such as `train_file`, which names the split `train`, to a path or None.
        types: what the paths may end in.
        options: those of `datasets.load_dataset`.

    Raises `UsageError` for a file that cannot be read, and for files of different types.
    """
    files = {argument: path for argument, path in files.items() if path is not None}
    for argument, path in files.items():
        check_file(argument, path, types)
    suffixes = {Path(path).suffix.lstrip(".") for path in files.values()}
    if len(suffixes) > 1:
        raise UsageError(f"--{' and --'.join(files)} must be files of the same type.")
    (suffix,) = suffixes
    if suffix == "tsv":
        options["sep"] = "\t"
    try:
        data_files = {argument.removesuffix("_file"): path for argument, path in files.items()}
        return load_dataset(FORMATS[suffix], data_files=data_files, **options)
    except (datasets.exceptions.DatasetGenerationError, ValueError) as error:
        raise UsageError(f"{', '.join(files.values())} cannot be read: {first_line(error.__cause__ or error)}") from error


def check_source(dataset_name, files):
    """Refuses a dataset together with files."""
    files = [argument for argument, path in files.items() if path is not None]
    if dataset_name is not None and files:
        raise UsageError(f"--dataset_name and --{' and --'.join(files)} exclude each other: give one or the other.")


def check_columns(split, found, text_columns):
    """Raises `UsageError` if a split, whose columns are `found`, lacks one of the `text_columns`."""
    for column in text_columns:
        if column not in found:
            raise UsageError(f"--text_column {column}: the {split} data has only {', '.join(found)}.")


def hold_out(train, percentage, seed):
    """Returns the training data without a part of it, and that part, which is drawn at random by the seed."""
    part = percentage / 100
    if isinstance(train, datasets.Dataset):
        if len(train) < 2:
            raise UsageError("the training data is a single row, so none is left to evaluate on: give --validation_file.")
        split = train.train_test_split(test_size=part, seed=seed)
        return split["train"], split["test"]
    # A stream has no length to take a part of, so one text out of each `every` is held out
    every = round(1 / part)
    return (
        train.filter(lambda _, index: index % every != 0, with_indices=True),
        train.filter(lambda _, index: index % every == 0, with_indices=True),
    )
