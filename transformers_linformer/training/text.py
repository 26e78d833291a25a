# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads the text that a language model is trained on, and makes sequences of tokens of it."""

import ast
import sysconfig
from itertools import islice
from pathlib import Path

import torch
import transformers
from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, List, Value
from datasets.fingerprint import Hasher

from ..errors import UsageError, first_line
from ..tokenization import identity_of
from .data import check_source, column_names, find_text_columns, read_dataset, read_files


logger = transformers.utils.logging.get_logger("transformers.linformer.text")

FILE_TYPES = ("txt", "csv", "tsv", "json", "jsonl")


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
    """
    Returns Python's documentation as the splits `train` and `validation`, with a column `text`.

    Every twentieth text is for validation: the texts are in the order of their names, so the last ones are about few subjects.
    """
    # Line breaks and indentation would be a large part of the tokens, and easy ones
    texts = [" ".join(text.split()) for text in python_documentation()]
    held_out = texts[::20]
    del texts[::20]
    splits = {"train": Dataset.from_dict({"text": texts}), "validation": Dataset.from_dict({"text": held_out})}
    if streaming:
        return IterableDatasetDict({split: dataset.to_iterable_dataset() for split, dataset in splits.items()})
    return DatasetDict(splits)


def load_texts(dataset_name=None, dataset_config_name=None, files=None, text_column=None, **options):
    """
    Returns the splits of a dataset, or of files, with nothing but their columns of text.

    Args:
        dataset_name, dataset_config_name: a dataset on the Hub or in a folder, and its configuration.
        files: instead of these, a dictionary from an argument such as `train_file` to a path or None.
        text_column: a list of one column, which is renamed `text`, or of two, which keep their names. By default
            `data.find_text_columns` finds them.
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
            columns = find_text_columns(split, texts[split], text_column)
        except ValueError as error:  # a damaged file in a folder, which shows only when it is read
            raise UsageError(f"the text cannot be read: {first_line(error)}") from error
        logger.info(f"{split}: texts from {' and '.join(columns)}")
        texts[split] = texts[split].select_columns(list(columns))
        if len(columns) == 1 and columns != ("text",):
            texts[split] = texts[split].rename_column(columns[0], "text")
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


def tokenize(texts, tokenizer, max_seq_length=None, **map_kwargs):
    """
    Tokenizes all columns of a dataset, two as pairs, and leaves out texts that are empty.

    With `max_seq_length` each text gets special tokens and is cut, and a column `length` has its number of tokens before
    that. Without it, each text is left as it is, to be packed. A text that is packed begins with a space, so that its first
    word and the last word of the text before it stay two words. `map_kwargs` are those of `Dataset.map`.
    """
    columns = column_names(texts)
    kept = ("input_ids", "token_type_ids") if len(columns) == 2 else ("input_ids",)
    packed = max_seq_length is None
    if packed and len(columns) == 2:
        raise UsageError(f"pairs ({' and '.join(columns)}) are not packed: give --line_by_line, or --text_column with one.")

    def tokenize_batch(batch):
        rows = [row for row in zip(*(batch[column] for column in columns)) if not any(is_blank(text) for text in row)]
        inputs = [[row[i] for row in rows] for i in range(len(columns))]
        if packed:
            inputs = [[text if text[0].isspace() else f" {text}" for text in texts] for texts in inputs]
        options = {"add_special_tokens": not packed, "return_attention_mask": False, "verbose": False}
        output = tokenizer(*inputs, **options)
        lengths = {} if packed else {"length": [len(input_ids) for input_ids in output["input_ids"]]}
        if not packed and max(lengths["length"], default=0) > max_seq_length:
            output = tokenizer(*inputs, truncation=True, max_length=max_seq_length, **options)
        return {name: output[name] for name in kept if name in output} | lengths

    if isinstance(texts, Dataset):
        identity = (texts._fingerprint, identity_of(tokenizer), max_seq_length, Path(__file__).read_bytes())
        map_kwargs["new_fingerprint"] = Hasher.hash(identity)
    return texts.map(tokenize_batch, batched=True, remove_columns=columns, **map_kwargs)


def is_blank(text):
    """Returns whether a text is None, empty, or white space alone."""
    return text is None or not text.strip()


def make_sequences(texts, tokenizer, max_seq_length, line_by_line=False, **map_kwargs):
    """
    Returns a dataset of sequences of at most `max_seq_length` tokens, each with its special tokens.

    By default texts are packed into sequences of full length. With `line_by_line` each text is a sequence of its own. The
    log says how many texts are empty, and how many are cut. Raises `UsageError` if there is not enough text for one
    sequence.
    """
    sequences = tokenize(texts, tokenizer, max_seq_length if line_by_line else None, **map_kwargs)
    empty = len(texts) - len(sequences)
    said = f"{len(texts)} texts, {empty} of them empty and left out" if empty else f"{len(texts)} texts"
    if line_by_line:
        cut = sum(length > max_seq_length for length in sequences["length"])
        said += f", {cut} longer than {max_seq_length} tokens and cut" if cut else ""
        sequences = sequences.remove_columns("length")
    else:
        arguments = {"tokenized": sequences, "tokenizer": tokenizer, "max_seq_length": max_seq_length}
        if next(pack(**arguments), None) is None:
            raise UsageError(
                f"the text has {sum(map(len, sequences['input_ids']))} tokens, less than one sequence of"
                f" {max_seq_length}: lower --max_seq_length, or use --line_by_line."
            )
        features = Features({"input_ids": List(Value("int32"))})
        fingerprint = Hasher.hash((sequences._fingerprint, max_seq_length))
        sequences = Dataset.from_generator(pack, gen_kwargs=arguments, features=features, fingerprint=fingerprint)
    if len(sequences) == 0:
        raise UsageError("the data has no text in it.")
    logger.info(f"{said}; {len(sequences)} sequences of up to {max_seq_length} tokens")
    logger.info(f"the first sequence: {shortened(tokenizer.decode(sequences[0]['input_ids']))}")
    return sequences


def shortened(text, length=120):
    """Returns the beginning of a text, to be shown."""
    return text if len(text) <= length else f"{text[:length]}..."


def stream_sequences(texts, tokenizer, max_seq_length, line_by_line=False, seed=None):
    """
    Returns what `make_sequences` does as a stream, which reads the stream of texts while it is read itself.

    With a `seed`, sequences are shuffled with a buffer of 1,000, in another order in each epoch. Texts stay in their order.
    The log says what the first sequence is. Raises `UsageError` if there is not enough text for one sequence.
    """
    if line_by_line:
        sequences = tokenize(texts, tokenizer, max_seq_length).remove_columns("length")
    else:
        sequences = stream_packed(texts, tokenizer, max_seq_length)
    first = next(iter(sequences), None)
    if first is None and line_by_line:
        raise UsageError("the data has no text in it.")
    if first is None:
        raise UsageError(
            f"the text is shorter than one sequence of {max_seq_length} tokens: lower --max_seq_length, or use --line_by_line."
        )
    logger.info(f"the first sequence: {shortened(tokenizer.decode(first['input_ids']))}")
    return sequences if seed is None else sequences.shuffle(seed=seed, buffer_size=1000)


def stream_packed(texts, tokenizer, max_seq_length):
    """Returns packed sequences as a stream, see `pack`."""
    arguments = {"tokenized": tokenize(texts, tokenizer), "tokenizer": tokenizer, "max_seq_length": max_seq_length}
    return IterableDataset.from_generator(pack, gen_kwargs=arguments)


def first_sequences(texts, tokenizer, max_seq_length, max_samples):
    """
    Returns the first packed sequences of a stream of texts, as token ids of shape (samples, `max_seq_length`).

    Reads no more text than they need. Raises `UsageError` if there are fewer than two.
    """
    try:
        packed = stream_packed(texts, tokenizer, max_seq_length)
        sequences = [sequence["input_ids"] for sequence in islice(packed, max_samples)]
    except ValueError as error:  # a damaged file, which shows only when it is read
        raise UsageError(f"the text cannot be read: {first_line(error)}") from error
    if len(sequences) < 2:
        raise UsageError(f"the text is shorter than two sequences of {max_seq_length} tokens: lower --max_seq_length.")
    return torch.tensor(sequences)
