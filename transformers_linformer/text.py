# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Text to train a language model on: where it comes from, and how it becomes sequences of tokens."""

import ast
import sysconfig
from itertools import islice
from pathlib import Path

import torch
from datasets import Dataset, DatasetDict, Features, IterableDatasetDict, List, Value

from .data import check_columns, check_source, read_dataset, read_files
from .errors import UsageError, first_line


FILE_TYPES = ("txt", "csv", "json", "jsonl")


# Texts


def python_documentation():
    """Yields English text that is on every machine with Python: its language reference and its library's docstrings."""
    from pydoc_data.topics import topics

    yield from (topics[name] for name in sorted(topics))
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        folders = path.relative_to(library).parts[:-1]
        if {"site-packages", "test", "tests", "idlelib", "lib2to3"} & set(folders):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):  # files that are wrong on purpose, as they test something
            continue
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        docstrings = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented)]
        if any(docstrings):
            yield " ".join(filter(None, docstrings))


def demo_texts(streaming=False):
    """Returns Python's documentation as a split `train` with a column `text`."""
    # Line breaks and indentation would be a large part of the tokens, and easy ones
    texts = [" ".join(text.split()) for text in python_documentation()]
    train = Dataset.from_dict({"text": texts})
    return IterableDatasetDict({"train": train.to_iterable_dataset()}) if streaming else DatasetDict({"train": train})


def load_texts(dataset_name=None, dataset_config_name=None, files=None, text_column=None, **options):
    """
    Returns the splits of a dataset, or of files, with nothing but their columns of text.

    Args:
        dataset_name, dataset_config_name: a dataset on the Hub or in a folder, and its configuration.
        files: instead of these, a dictionary from an argument such as `train_file` to a path or None.
        text_column: a list of one column, which is renamed `text`, or of two, which keep their names. By default it is
            `text`, or else the first column.
        options: those of `datasets.load_dataset`, such as `streaming`.

    Raises `UsageError` for data that cannot be read or that has no such text.
    """
    files = files or {}
    check_source(dataset_name, files)
    if dataset_name is not None:
        texts = read_dataset(dataset_name, dataset_config_name, **options)
    elif any(files.values()):
        options.pop("token", None)
        texts = read_files(files, FILE_TYPES, **options)
    else:
        raise UsageError("there is no text: give --dataset_name, --train_file, or --demo.")
    for split in texts:
        try:
            columns = texts[split].column_names or list(next(iter(texts[split])))
        except ValueError as error:  # a damaged file that is streamed
            raise UsageError(f"the text cannot be read: {first_line(error)}") from error
        text_columns = text_column or ["text" if "text" in columns else columns[0]]
        check_columns(split, columns, text_columns)
        for column in text_columns:
            feature = (texts[split].features or {}).get(column)
            if feature is not None and feature.dtype not in ("string", "large_string"):
                raise UsageError(f"--text_column: {column} holds {feature.dtype}, not text. Columns: {', '.join(columns)}.")
        texts[split] = texts[split].select_columns(text_columns)
        if len(text_columns) == 1 and text_columns != ["text"]:
            texts[split] = texts[split].rename_column(text_columns[0], "text")
    return texts


# Sequences


def pack(tokenized, tokenizer, max_seq_length):
    """
    Joins the tokens of all texts and yields sequences of `max_seq_length` tokens, with special tokens at their two ends
    and nowhere else. The rest at the very end, which is less than one sequence, is dropped.
    """
    size = max_seq_length - tokenizer.num_special_tokens_to_add(pair=False)
    whole, bare = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    start = whole.index(bare[0])
    head, tail = whole[:start], whole[start + len(bare) :]
    tokens = []
    for example in tokenized:
        tokens.extend(example["input_ids"])
        for start in range(0, len(tokens) - size + 1, size):
            yield {"input_ids": head + tokens[start : start + size] + tail}
        tokens = tokens[len(tokens) // size * size :]


class PackedStream(torch.utils.data.IterableDataset):
    """What `pack` makes of a stream, which is shuffled anew in each epoch."""

    def __init__(self, tokenized, tokenizer, max_seq_length):
        self.tokenized, self.tokenizer, self.max_seq_length = tokenized, tokenizer, max_seq_length

    def set_epoch(self, epoch):
        self.tokenized.set_epoch(epoch)

    def __iter__(self):
        return pack(self.tokenized, self.tokenizer, self.max_seq_length)


def tokenize(texts, tokenizer, max_seq_length=None, **map_kwargs):
    """
    Tokenizes all columns of a dataset, two as pairs, and leaves out texts that are empty.

    With `max_seq_length` each text gets special tokens and is cut; without it, it is left as it is, to be packed.
    `map_kwargs` are those of `Dataset.map`.
    """
    columns = list(texts.column_names or next(iter(texts)))
    options = {} if max_seq_length is None else {"truncation": True, "max_length": max_seq_length}
    kept = ("input_ids", "token_type_ids") if len(columns) == 2 else ("input_ids",)

    def tokenize_batch(batch):
        rows = zip(*(batch[column] for column in columns))
        rows = [row for row in rows if all(text and not text.isspace() for text in row)]
        inputs = [[row[i] for row in rows] for i in range(len(columns))]
        # Texts that are longer than the model's inputs are no mistake here, so nobody is warned of them
        output = tokenizer(
            *inputs,
            add_special_tokens=max_seq_length is not None,
            return_attention_mask=False,
            verbose=False,
            **options,
        )
        return {name: output[name] for name in kept if name in output}

    return texts.map(tokenize_batch, batched=True, remove_columns=columns, **map_kwargs)


def make_sequences(texts, tokenizer, max_seq_length, line_by_line=False, **map_kwargs):
    """
    Returns a dataset of sequences of at most `max_seq_length` tokens, each with its special tokens.

    By default texts are packed into sequences of full length. With `line_by_line` each text is a sequence of its own.
    Raises `UsageError` if there is not enough text for one sequence.
    """
    sequences = tokenize(texts, tokenizer, max_seq_length if line_by_line else None, **map_kwargs)
    if not line_by_line:
        arguments = {"tokenized": sequences, "tokenizer": tokenizer, "max_seq_length": max_seq_length}
        if next(pack(**arguments), None) is None:
            raise UsageError(
                f"the text has {sum(map(len, sequences['input_ids']))} tokens, less than one sequence of"
                f" {max_seq_length}: lower --max_seq_length, or use --line_by_line."
            )
        features = Features({"input_ids": List(Value("int32"))})
        sequences = Dataset.from_generator(pack, gen_kwargs=arguments, features=features)
    if len(sequences) == 0:
        raise UsageError("the data has no text in it.")
    return sequences


def stream_sequences(texts, tokenizer, max_seq_length, line_by_line=False):
    """Returns what `make_sequences` does as a stream, which reads the stream of texts while it is read itself."""
    tokenized = tokenize(texts, tokenizer, max_seq_length if line_by_line else None)
    return tokenized if line_by_line else PackedStream(tokenized, tokenizer, max_seq_length)


def first_sequences(texts, tokenizer, max_seq_length, max_samples):
    """
    Returns the first packed sequences of a stream of texts, as token ids of shape (samples, `max_seq_length`).

    Reads no more text than they need. Raises `UsageError` if there are fewer than two.
    """
    try:
        packed = stream_sequences(texts, tokenizer, max_seq_length)
        sequences = [sequence["input_ids"] for sequence in islice(packed, max_samples)]
    except ValueError as error:  # a damaged file, which shows only when it is read
        raise UsageError(f"the text cannot be read: {first_line(error)}") from error
    if len(sequences) < 2:
        raise UsageError(f"the text is shorter than two sequences of {max_seq_length} tokens: lower --max_seq_length.")
    return torch.tensor(sequences)
