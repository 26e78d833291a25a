# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Reads datasets and files. Every cell of a csv or tsv file is a string, exactly as it stands there.

pandas and pyarrow, which `load_dataset` reads files with, guess types, take words such as NA for missing values, and expand
wildcards in paths. So files are read here, and only datasets by `load_dataset`.
"""

import csv
import hashlib
import io
import json
import math
import os
import random
from collections import Counter
from itertools import islice
from pathlib import Path

import datasets
from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, Value, load_dataset
from datasets.fingerprint import Hasher

from ..errors import UsageError, first_line


# Datasets


def read_dataset(name, config_name=None, **options):
    """Returns the splits of a dataset on the Hub or in a folder. `options` are those of `datasets.load_dataset`."""
    try:
        return load_dataset(name, config_name, **options)
    except (FileNotFoundError, ValueError, ConnectionError, datasets.exceptions.DatasetGenerationError) as error:
        raise UsageError(f"--dataset_name {name}: {first_line(error.__cause__ or error)}") from error


def check_source(dataset_name, files):
    """Refuses a dataset together with files. `files` is a dictionary from an argument to a path or None."""
    files = [argument for argument, path in files.items() if path is not None]
    if dataset_name is not None and files:
        raise UsageError(f"--dataset_name and --{' and --'.join(files)} exclude each other: give one or the other.")


# Files


def read_files(files, types, streaming=False, cache_dir=None):
    """
    Returns one split per file.

    The columns of csv and tsv files are strings. Those of json and jsonl files have the type of their values, or hold Python
    objects if these are of several types. Text files have one column, `text`, with a row per line.

    Args:
        files: a dictionary from an argument such as `train_file`, which names the split `train`, to a path or None.
        types: what the paths may end in.
        streaming: whether to read the rows when they are needed.
        cache_dir: where the rows are stored. They are stored by the content of the file.

    Raises `UsageError` for a file that cannot be read, naming the line, and for files of different types.
    """
    files = {argument: path for argument, path in files.items() if path is not None}
    for argument, path in files.items():
        check_file(argument, path, types)
    if len({Path(path).suffix for path in files.values()}) > 1:
        raise UsageError(f"--{' and --'.join(files)} must be files of the same type.")
    splits = {argument.removesuffix("_file"): read_file(path, streaming, cache_dir) for argument, path in files.items()}
    return IterableDatasetDict(splits) if streaming else DatasetDict(splits)


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


def read_file(path, streaming=False, cache_dir=None):
    """Returns the rows of a file as a dataset, or as a stream."""
    rows = READERS[Path(path).suffix.lstrip(".")]
    features = find_features(rows(path), path)
    if streaming:
        return IterableDataset.from_generator(rows, features=features, gen_kwargs={"path": path})
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # The content of the file names the entry of the cache, and so does this module, as another version may read it otherwise
    fingerprint = Hasher.hash((digest, Path(path).suffix, Path(__file__).read_bytes()))
    options = {"gen_kwargs": {"path": path}, "cache_dir": cache_dir, "fingerprint": fingerprint}
    return Dataset.from_generator(rows, features=features, **options)


def find_features(rows, path):
    """
    Returns the features of the columns of some rows, which are dictionaries: strings, numbers, or booleans, or
    `datasets.Json` for values of several types.
    """
    types = {}
    for number, row in enumerate(rows, start=1):
        for column, value in row.items():
            found = types.setdefault(column, set())
            if value is not None:
                found.add(type(value))
            # Json would make a null of these
            if isinstance(value, float) and not math.isfinite(value) and not found <= {int, float}:
                raise UsageError(f"row {number} of {path} has {value} in column {column!r}, whose values are no numbers.")
    if not types:
        raise UsageError(f"{path} has no rows.")
    features = {}
    for column, found in types.items():
        values = {frozenset(): "string", frozenset({str}): "string", frozenset({bool}): "bool"}
        values |= {frozenset({float}): "float64", frozenset({int, float}): "float64"}
        features[column] = Value(values[frozenset(found)]) if frozenset(found) in values else datasets.Json()
    return Features(features)


def read_txt(path):
    """Yields a row per line, without its line break."""
    with open(path, encoding="utf-8-sig") as file:
        for line in file:
            yield {"text": line.removesuffix("\n")}


def read_csv(path):
    """Yields the rows of a csv file. Raises `UsageError` where a row has more or fewer fields than the header."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        yield from with_header(parse(file, ",", path), path)


def read_tsv(path):
    """
    Yields the rows of a tsv file. Raises `UsageError` where a row has more or fewer fields than the header.

    In many tsv files nothing is quoted, and a quotation mark at the beginning of a text does not join the next lines to it. So
    each line is a row if each has as many fields as the header. Otherwise fields are quoted as in a csv file.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        text = file.read()
    lines = list(plain_lines(text))
    try:
        records = list(parse(io.StringIO(text, newline=""), "\t", path))
        is_consistent = len({len(fields) for _, fields in records}) == 1
    except UsageError:
        records, is_consistent = None, False
    if len({len(fields) for _, fields in lines}) == 1:
        if is_consistent and len(records) != len(lines):
            line = next(line for (line, fields), (_, plain) in zip(records, lines) if fields != plain)
            raise UsageError(
                f"line {line} of {path} begins a field with a quotation mark, which another line ends. It is not clear"
                " whether that is one text: write the file as .csv or .jsonl."
            )
        records = lines
    yield from with_header(lines if records is None else records, path)


def plain_lines(text):
    """Yields the number and the fields of each line that is not empty. A field that is quoted as a whole is unquoted."""
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        line = line.removesuffix("\n")
        if line:
            yield number, [unquoted(field) for field in line.split("\t")]


def unquoted(field):
    inner = field[1:-1].replace('""', "")
    is_quoted = len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner
    return field[1:-1].replace('""', '"') if is_quoted else field


def parse(file, delimiter, path):
    """Yields the number of the first line and the fields of each record that is not empty."""
    csv.field_size_limit(2**31 - 1)  # documents are longer than the default
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise UsageError(f"line {line} of {path} cannot be read: {error}.") from error
        if fields is None:
            return
        if fields:
            yield line, fields


def with_header(records, path):
    """Yields each record as a dictionary. The first one names the columns, without the spaces around the names."""
    records = iter(records)
    _, names = next(records)
    names = [name.strip() or f"column {number}" for number, name in enumerate(names, start=1)]
    repeated = [name for name, number in Counter(names).items() if number > 1]
    if repeated:
        raise UsageError(f"{path} has more than one column {repeated[0]!r}: rename one of them.")
    for line, fields in records:
        if len(fields) != len(names):
            raise UsageError(
                f"line {line} of {path} has {len(fields)} field{'s' * (len(fields) != 1)}, the header {len(names)}: put"
                " texts with separators or line breaks in quotes."
            )
        yield dict(zip(names, fields, strict=True))


def read_json(path):
    """Yields the rows of a file that has a JSON object per line, or one list of objects."""
    for where, row in json_values(path):
        if not isinstance(row, dict):
            raise UsageError(f"{where} of {path} holds no object with columns and values.")
        yield {name.strip(): value for name, value in row.items()}


def json_values(path):
    """Yields where a value stands, and the value."""
    with open(path, encoding="utf-8-sig") as file:
        text = file.read(64).lstrip()
        file.seek(0)
        if text.startswith("["):
            try:
                for number, value in enumerate(json.loads(file.read().lstrip("\ufeff")), start=1):
                    yield f"object {number}", value
                return
            except json.JSONDecodeError as error:
                raise UsageError(f"{path} cannot be read: {error}.") from error
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield f"line {number}", json.loads(line)
                except json.JSONDecodeError as error:
                    raise UsageError(f"line {number} of {path} cannot be read: {error}.") from error


READERS = {"txt": read_txt, "csv": read_csv, "tsv": read_tsv, "json": read_json, "jsonl": read_json}


# Columns


# Names that say that a column is the text, or that two are a pair: the usual one, and those of GLUE's tasks
TEXT_COLUMNS = (
    ("text",),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("sentence",),
)


def find_text_columns(split, dataset, asked=None, other=None):
    """
    Returns the columns of a dataset that hold the text, one or two.

    Args:
        split: the name of the split, for errors.
        dataset: a dataset or a stream.
        asked: the columns that the user named. Spaces around a name do not count.
        other: a column that is no text, such as the one of the labels.

    By default these are columns whose names say so (`TEXT_COLUMNS`), or else the only column of text. Raises `UsageError`
    where a named column is missing or holds no text, and where it is not clear which columns to take.
    """
    columns = column_names(dataset)
    free = [column for column in columns if other is None or column.strip() != other.strip()]
    named = next((names for names in TEXT_COLUMNS if set(names) <= set(free)), None)
    if asked is not None:
        named = tuple(find_column(split, columns, name, "text_column") for name in asked)
    if named is None:
        rows = list(islice(dataset, 1000))
        named = tuple(column for column in free if is_text([row[column] for row in rows]))
        if len(named) != 1:
            names = ", ".join(map(repr, columns))
            raise UsageError(
                f"which columns of the {split} data hold the text? Give --text_column with one or two of {names}."
            )
    for column in named:
        feature = (dataset.features or {}).get(column)
        if feature is not None and getattr(feature, "dtype", None) not in ("string", "large_string"):
            raise UsageError(f"--text_column: {column} of the {split} data does not hold text alone.")
    return named


def column_names(dataset):
    """Returns the names of the columns. A stream that does not know them is read up to its first row."""
    names = dataset.column_names or list(next(iter(dataset), {}))
    if not names:
        raise UsageError("the data has no rows.")
    return names


def find_column(split, columns, name, argument):
    """Returns the one of the columns of a split that has this name, but for spaces around it."""
    for column in columns:
        if column.strip() == name.strip():
            return column
    hint = ""
    if len(columns) == 1 and any(separator in columns[0] for separator in ";\t|"):
        hint = " It is a single column: is the file separated by semicolons or tabs? Write it as .csv with commas, or .tsv."
    raise UsageError(f"--{argument} {name}: the {split} data has only {', '.join(map(repr, columns))}.{hint}")


def is_text(values):
    """Returns whether all values are strings or None, and at least one is no number."""
    texts = [value for value in values if value is not None]
    return all(isinstance(text, str) for text in texts) and any(text and not is_number(text) for text in texts)


def is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


# Parts


def hold_out_last(texts, percentage):
    """
    Returns the texts without the last part of them, and that part, both in their order.

    A stream has no length to take a part of, so of a stream one text out of each 100 / `percentage` is held out.
    """
    if isinstance(texts, IterableDataset):
        every = round(100 / percentage)
        return (
            texts.filter(lambda _, index: index % every != 0, with_indices=True),
            texts.filter(lambda _, index: index % every == 0, with_indices=True),
        )
    number = number_to_hold_out(len(texts), percentage)
    return texts.select(range(len(texts) - number)), texts.select(range(len(texts) - number, len(texts)))


def hold_out_of_each_class(examples, labels, percentage, seed):
    """
    Returns the examples without a part that is drawn at random by the seed, and that part, both in their order.

    `labels` has one hashable value per example. Each class gives its share of the part, but never all of its examples, so
    that training sees every class.
    """
    rows = list(range(len(examples)))
    random.Random(seed).shuffle(rows)
    number = number_to_hold_out(len(rows), percentage)
    left, places = Counter(labels), Counter()
    # A class with c examples has them at the places 1/c, 2/c, ..., so that the first places hold the same part of each class
    order = []
    for row in rows:
        places[labels[row]] += 1
        order.append((places[labels[row]] / left[labels[row]], row))
    held_out = set()
    for _, row in sorted(order):
        if len(held_out) < number and left[labels[row]] > 1:
            left[labels[row]] -= 1
            held_out.add(row)
    if not held_out:  # each class has one example
        held_out = set(rows[:number])
    kept = [row for row in range(len(rows)) if row not in held_out]
    return examples.select(kept), examples.select(sorted(held_out))


def number_to_hold_out(rows, percentage):
    if rows < 2:
        raise UsageError("the training data is a single row, so none is left to evaluate on: give --validation_file.")
    return min(max(1, round(rows * percentage / 100)), rows - 1)
