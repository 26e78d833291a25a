# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads documents as text with passages and the queries that these answer, and cuts and tokenizes them."""

import re
from collections.abc import Mapping

import numpy as np


# Where a text is cut: between paragraphs, within a paragraph that is too long between sentences or lines, and within one of
# these that is still too long between words
BOUNDARIES = (
    re.compile(r"\n\s*\n"),
    re.compile(r"(?<=[.!?])\s+|(?<=[.!?][\"')\]])\s+|(?<=[。！？])|\n"),
    re.compile(r"\s+"),
)
HEADING = re.compile(r"#{1,6}\s")


# Documents


def read_document(document, size=120, tokenizer=None):
    """
    Returns the text of a document, where its passages stand in it, and the queries that they answer.

    Args:
        document: a text, or a dictionary with one of these:
            - `sections`, a list of dictionaries with `heading` and `text`, and a `title` if there is one. A section with a
              heading gives the query "title: heading", which all its passages answer. Headings and the title stand in the
              document, but in no passage.
            - `text` and `passages`, a list of dictionaries with `start` and `end`, which count characters of the text, and
              `queries`, a list of strings, if there are some.
            - `passages` alone, a list of dictionaries with `text` and, if there are some, `queries`. A `title` stands before
              them.
            - `text` alone, which is cut into passages.
        size: about how long the passages are that a section or a text is cut into, see `cut`.
        tokenizer: what counts the size in tokens. By default it counts words.

    Returns a dictionary with `text`, `passages` (a list of pairs of a start and an end in the text) and `queries` (a list of
    pairs of a string and a list of indices of passages). Raises `ValueError`, which names what is wrong, for anything else.
    """
    document = {"text": document} if isinstance(document, str) else document
    text, title = string(document, "text"), string(document, "title").strip()
    sections, passages = rows(document, "sections"), rows(document, "passages")
    if sections and (text or passages):
        raise ValueError("there are `sections` beside `text` or `passages`: leave one of them out.")
    if not text:
        text, spans = joined(title, sections, passages)
    elif passages:
        spans = [(*span(passage, index, text), strings(passage, index)) for index, passage in enumerate(passages)]
    else:
        spans = [(0, len(text), [])]
    if not passages:
        count = counter(text, tokenizer)
        spans = [(*each, asked) for start, end, asked in spans for each in cut(text, start, end, size, count)]
    queries = {}
    for index, (_, _, asked) in enumerate(spans):
        for query in dict.fromkeys(asked):
            queries.setdefault(query, []).append(index)
    return {"text": text, "passages": [(start, end) for start, end, _ in spans], "queries": list(queries.items())}


def joined(title, sections, passages):
    """
    Joins a title and sections, or a title and passages, by blank lines.

    Returns the text, and for each section or passage its start, its end, and a list of the queries that it answers.
    """
    parts = [(title, None)]  # no queries at all for what stands in no passage
    for index, section in enumerate(sections):
        heading, text = (string(section, name, f"sections[{index}]").strip() for name in ("heading", "text"))
        parts += [(heading, None), (text, [f"{title}: {heading}" if title else heading] if heading else [])]
    for index, passage in enumerate(passages):
        parts.append((string(passage, "text", f"passages[{index}]").strip(), strings(passage, index)))
    text, spans = "", []
    for part, asked in parts:
        if part:
            text += "\n\n" + part if text else part
            spans.append((len(text) - len(part), len(text), asked))
    return text, [each for each in spans if each[2] is not None]


def string(document, name, where="the document"):
    """Returns a string of a document or of a part of it, "" if it is missing."""
    if not isinstance(document, Mapping):
        raise ValueError(f"{where} is {document!r:.80}: give a dictionary.")
    value = document.get(name)
    if not isinstance(value, str | None):
        raise ValueError(f"`{name}` of {where} is {value!r:.80}: give a string.")
    return value or ""


def rows(document, name):
    """Returns a list of dictionaries of a document, empty if it is missing."""
    value = document.get(name)
    if not isinstance(value, list | tuple | None):
        raise ValueError(f"`{name}` is {value!r:.80}: give a list of dictionaries.")
    return value or []


def strings(passage, index):
    """Returns the queries of a passage."""
    queries = passage.get("queries") or []
    if not isinstance(queries, list | tuple) or not all(isinstance(query, str) and query.strip() for query in queries):
        raise ValueError(f"`queries` of passages[{index}] is {queries!r:.80}: give a list of strings.")
    return queries


def span(passage, index, text):
    """Returns the start and the end of a passage in the text."""
    start, end = (passage.get(name) if isinstance(passage, Mapping) else None for name in ("start", "end"))
    if not (isinstance(start, int) and isinstance(end, int) and 0 <= start < end <= len(text)):
        raise ValueError(
            f"passages[{index}] is {passage!r:.80}: give `start` and `end`, with 0 <= start < end <= {len(text)}, the"
            " number of characters of the text."
        )
    return start, end


def counter(text, tokenizer=None):
    """Returns a function that counts the tokens, or by default the words, between two characters of a text."""
    if tokenizer is None:
        return lambda start, end: len(text[start:end].split())
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    ends = np.array([end for _, end in offsets])
    return lambda start, end: int(np.searchsorted(ends, end, "right") - np.searchsorted(ends, start, "right"))


def pieces(text, start, end, size, count, boundaries=BOUNDARIES):
    """Yields the paragraphs of a text as spans, and of paragraphs of more than 2 `size` the sentences, lines or words."""
    for match in (*boundaries[0].finditer(text, start, end), None):
        first, stop = start, end if match is None else match.start()
        stop = first + len(text[first:stop].rstrip())
        first = stop - len(text[first:stop].lstrip())
        if first < stop and count(first, stop) > 2 * size and boundaries[1:]:
            yield from pieces(text, first, stop, size, count, boundaries[1:])
        elif first < stop:
            yield first, stop
        start = end if match is None else match.end()


def cut(text, start, end, size, count):
    """
    Cuts a part of a text into passages of about one size, and returns their spans.

    A passage ends between two paragraphs, where its size is nearest to `size`. A paragraph of more than twice that is cut
    between sentences or lines, or else between words. A heading of Markdown begins a passage, and what is less than a third
    of the size joins a neighbour. `count` is what `counter` returns.
    """
    runs = []
    for first, stop in pieces(text, start, end, size, count):
        number = count(first, stop)
        if runs:
            begin, _, before = runs[-1]
            is_near = 2 * before + number <= 2 * size and not HEADING.match(text, first)
            if before < size / 3 or is_near:
                runs[-1] = (begin, stop, before + number)
                continue
        runs.append((first, stop, number))
    if len(runs) > 1 and runs[-1][2] < size / 3:
        (begin, _, _), (_, stop, _) = runs[-2:]
        runs[-2:] = [(begin, stop, 0)]
    return [(begin, stop) for begin, stop, _ in runs]


# Tokens


def tokenize_document(document, tokenizer, max_length, prompt=""):
    """
    Returns the tokens of what `read_document` returns, and which passage each of them belongs to.

    Args:
        document: what `read_document` returns. Its passages must not overlap.
        tokenizer: a tokenizer of `tokenizers`, which knows where its tokens stand.
        max_length: the number of tokens at which the document is cut, with the special ones.
        prompt: what stands before the text, in no passage.

    Returns a dictionary with `input_ids` and `passage_ids`, each of shape (n,). These number the passages that have tokens,
    and are -1 for tokens of no passage. `passages` are the spans of these passages, and `queries` the queries that they
    answer, by these numbers. Raises `ValueError` if passages overlap, and if the tokenizer is slow.
    """
    if not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__} does not say where its tokens stand: load it with use_fast=True.")
    text, spans = document["text"], document["passages"]
    owner = np.full(len(text) + 1, -1)  # of each character, and at the end of what is no text
    for index, (start, end) in enumerate(spans):
        if (owner[start:end] >= 0).any():
            raise ValueError(f"passages[{index}], from {start} to {end}, overlaps another one: give passages that do not.")
        owner[start:end] = index
    options = {"truncation": True, "max_length": max_length, "return_offsets_mapping": True, "verbose": False}
    encoded = tokenizer(prompt + text, **options)
    starts, ends = np.array(encoded["offset_mapping"]).T - len(prompt)
    # A token may begin with the space before its word, so its last character decides
    owners = owner[np.where((ends > starts) & (ends > 0), ends - 1, -1)]
    kept = np.unique(owners[owners >= 0])
    numbers = {int(index): number for number, index in enumerate(kept)}
    queries = [(query, [numbers[index] for index in answers if index in numbers]) for query, answers in document["queries"]]
    return {
        "input_ids": encoded["input_ids"],
        "passage_ids": np.where(owners >= 0, np.searchsorted(kept, owners), -1).tolist(),
        "passages": [spans[index] for index in kept],
        "queries": [(query, answers) for query, answers in queries if answers],
    }
