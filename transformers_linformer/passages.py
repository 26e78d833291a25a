# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Gives vectors of passages. The model reads a document once, and the vector of a passage is the mean of the last hidden states
of its tokens, which depend on the rest of the document, too ("late chunking").

    vectors = encode_passages(SentenceTransformer("long-minilm", trust_remote_code=True), documents)
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
import transformers
from datasets import Dataset, Features, List, Value
from tqdm.auto import tqdm

from .documents import read_document, tokenize_document
from .files import write_json
from .tokenization import identity_of


logger = transformers.utils.logging.get_logger("transformers.linformer.passages")

RECORD = "passages.json"


# Vectors


def passage_vectors(hidden_states, passage_ids, num_passages):
    """
    Returns the mean of the hidden states of each passage's tokens, (passages, d), in float32.

    Args:
        hidden_states: (B, n, d).
        passage_ids: (B, n), the number of the passage that each token belongs to, from 0 to `num_passages` - 1, and -1 for
            tokens of none. A passage may have tokens in several sequences of the batch. One without tokens gets zeros.
        num_passages: the number of passages.
    """
    is_inside = passage_ids >= 0
    ids = passage_ids[is_inside]
    sums = hidden_states.new_zeros(num_passages, hidden_states.shape[-1], dtype=torch.float32)
    sums = sums.index_add(0, ids, hidden_states[is_inside].float())
    return sums / torch.bincount(ids, minlength=num_passages).clamp(min=1)[:, None]


def add_prefix(hidden_states, passage_ids, attention_mask, num_passages, num_tokens):
    """
    Returns hidden states (1, m, d) and passage ids (1, m) with which the first tokens of each sequence count for all passages
    in it.

    Each passage must stand in one sequence. `attention_mask` is (B, n). Tokens of the prefix that are a passage's own count
    once for it.
    """
    row, column = torch.where(passage_ids >= 0)
    row_of = row.new_zeros(num_passages).index_copy(0, passage_ids[row, column], row)
    number = torch.arange(num_passages, device=row.device)[:, None]
    prefix_ids = passage_ids[row_of, :num_tokens]
    counts = (prefix_ids != number) & attention_mask[row_of, :num_tokens].bool()
    states = torch.cat([hidden_states.flatten(0, 1), hidden_states[row_of, :num_tokens][counts]])
    return states[None], torch.cat([passage_ids.flatten(), number.expand_as(counts)[counts]])[None]


# Encoding


def encode_passages(
    encoder,
    documents,
    passages=None,
    *,
    passage_tokens=128,
    with_prefix=False,
    prompt=None,
    id_field=None,
    batch_size=8,
    show_progress_bar=True,
):
    """
    Returns a vector for each passage of some documents, each of which is read once, and complete.

    A passage's vector is the mean of its tokens' last hidden states, which then goes through what comes after the encoder's
    pooling, such as Dense and Normalize. So it compares with the vectors of queries, `encoder.encode_query(queries)`.

    Args:
        encoder: a `SentenceTransformer` that pools by the mean, such as linformer-convert writes.
        documents: a list, or a dataset, of texts or of dictionaries, see `documents.read_document`.
        passages: the passages of each document, as a list of a list: pairs of a start and an end, in characters, or texts
            that stand in the document in this order. By default they are those of the dictionaries, and texts are cut into
            passages of about `passage_tokens` tokens, between paragraphs or sentences.
        passage_tokens: the length of these, in tokens.
        with_prefix: whether the first tokens of the document count in the mean of each of its passages, too. True stands for
            the encoder's `num_global_tokens`, and a number for that many.
        prompt: what is put before each document. By default the encoder's prompt for documents, if it has one.
        id_field: the field of the dictionaries that names a document. By default its index does.
        batch_size: the number of documents that are read together. It changes vectors by rounding alone.
        show_progress_bar: whether to show one.

    Returns a `datasets.Dataset` with a row per passage and the columns `document`, `start` and `end` (characters of the
    document's text, see `read_document`), `text`, and `vector`, of d float32. Passages that begin after the last token that
    the encoder reads have no row, and a warning counts them.

    Raises `ValueError`, which names the argument or the document, for what cannot be encoded.
    """
    settings = {"passage_tokens": passage_tokens, "with_prefix": with_prefix, "prompt": prompt, "id_field": id_field}
    settings = checked(encoder, documents, passages, settings)
    return encode_range(encoder, documents, passages, range(len(documents)), settings, batch_size, show_progress_bar)


def write_passages(
    encoder, documents, folder, passages=None, *, documents_per_shard=1000, batch_size=8, show_progress_bar=True, **settings
):
    """
    Writes what `encode_passages` returns into a folder, from which `datasets.load_dataset` reads it.

    If it is killed, the same call goes on: it skips the files that are complete. One call at a time may write to a folder.

    Args:
        folder: where the files are written, one parquet file in its folder `data` for each `documents_per_shard` documents.
        documents_per_shard: how many that are. Their passages have to fit into memory.
        settings: the other arguments of `encode_passages`.

    Raises `ValueError` if the folder holds vectors of another model, of other documents or with other settings.
    """
    defaults = {"passage_tokens": 128, "with_prefix": False, "prompt": None, "id_field": None}
    unknown = settings.keys() - defaults.keys()
    if unknown:
        raise TypeError(f"write_passages() has no argument {min(unknown)!r}.")
    settings = checked(encoder, documents, passages, defaults | settings)
    if documents_per_shard < 1:
        raise ValueError(f"`documents_per_shard` is {documents_per_shard}: it must be at least 1.")
    ours = {"model": identity_of_encoder(encoder), "documents": identity_of_documents(documents, passages)}
    ours |= {"documents_per_shard": documents_per_shard} | settings
    folder = Path(folder)
    data, record = folder / "data", folder / RECORD
    theirs = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {} if data.exists() else ours
    for name, value in ours.items():
        if theirs.get(name) != value:
            raise ValueError(f"`folder` {folder} was written with another `{name}`: name another folder, or delete it.")
    data.mkdir(parents=True, exist_ok=True)
    write_json(record, ours)
    starts = range(0, len(documents), documents_per_shard)
    for number, start in enumerate(tqdm(starts, desc="files of passages", disable=not show_progress_bar)):
        path = data / f"train-{number:05}-of-{len(starts):05}.parquet"
        if not path.exists():
            indices = range(start, min(start + documents_per_shard, len(documents)))
            rows = encode_range(encoder, documents, passages, indices, settings, batch_size, False)
            unfinished = path.with_name(f".{path.name}.tmp")  # which `load_dataset` passes over
            rows.to_parquet(unfinished)
            os.replace(unfinished, path)


def checked(encoder, documents, passages, settings):
    """Returns the settings of `encode_passages`, with the defaults that depend on the encoder."""
    mode = getattr(encoder[1], "pooling_mode", "mean") if len(encoder) > 1 else None
    if mode != "mean":
        raise ValueError(f"`encoder` pools by {mode}, and passages are means of tokens: name one that pools by the mean.")
    if isinstance(documents, str | Mapping):
        raise ValueError(f"`documents` is a single {type(documents).__name__}: give a list.")
    if passages is not None and len(passages) != len(documents):
        raise ValueError(f"`passages` has {len(passages)} lists for {len(documents)} documents: give one for each.")
    if settings["passage_tokens"] < 1:
        raise ValueError(f"`passage_tokens` is {settings['passage_tokens']}: it must be at least 1.")
    prefix, prompt = settings["with_prefix"], settings["prompt"]
    if prefix is True:
        prefix = getattr(encoder[0].model.config, "num_global_tokens", 0)
        if not prefix:
            raise ValueError("`with_prefix` is True, but the encoder has no `num_global_tokens`: give a number of tokens.")
    if prompt is None:
        prompt, _ = prompts_of(encoder.prompts)
    return settings | {"with_prefix": int(prefix), "prompt": prompt}


def prompts_of(prompts):
    """Returns what is put before documents and before queries, of the prompts that sentence-transformers keeps by names."""
    names = (("document", "passage", "corpus"), ("query",))
    return tuple(next((prompts[name] for name in each if prompts.get(name)), "") for each in names)


def with_passages(document, passages):
    """Returns a document, as `read_document` takes it, with these spans or texts as its passages."""
    text = read_document(document)["text"]
    spans, end = [], 0
    for passage in passages:
        if isinstance(passage, str):
            start = text.find(passage, end)
            if start < 0 or not passage:
                raise ValueError(f"the passage {passage!r:.80} does not stand in the text after the passage before it.")
            end = start + len(passage)
            passage = start, end
        spans.append(dict(zip(("start", "end"), map(int, passage))))
    return {"text": text, "passages": spans}


@torch.no_grad()
def encode_range(encoder, documents, passages, indices, settings, batch_size, show_progress_bar):
    """Does what `encode_passages` does for the documents of some indices."""
    found, lost, name = [], 0, settings["id_field"]
    for index in indices:
        document = documents[index]
        try:
            if name is not None and (not isinstance(document, Mapping) or document.get(name) is None):
                raise ValueError(f"there is no `{name}`, which `id_field` names.")
            key = index if name is None else str(document[name])
            if passages is not None:
                document = with_passages(document, passages[index])
            document = read_document(document, settings["passage_tokens"], encoder.tokenizer)
            tokens = tokenize_document(document, encoder.tokenizer, encoder.max_seq_length, settings["prompt"])
        except ValueError as error:
            raise ValueError(f"documents[{index}]: {error}") from error
        found.append(tokens | {"document": key, "text": document["text"], "vectors": []})
        lost += len(document["passages"]) - len(tokens["passages"])
    if lost:
        read = f"the {encoder.max_seq_length} tokens that the encoder reads of a document"
        logger.warning(f"{lost} passages have no vector, as they begin after {read}, or are blank")
    encoder.eval()
    by_length = sorted((each for each in found if each["passages"]), key=lambda each: -len(each["input_ids"]))
    batches = [by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size)]
    for batch in tqdm(batches, desc="batches of documents", disable=not show_progress_bar):
        vectors = encode_batch(encoder, batch, settings["with_prefix"])
        for each, own in zip(batch, vectors.split([len(each["passages"]) for each in batch])):
            each["vectors"] = own.cpu().numpy()
    rows = {"document": [], "start": [], "end": [], "text": [], "vector": []}
    for each in found:
        for (start, end), vector in zip(each["passages"], each["vectors"]):
            for column, value in zip(rows.values(), (each["document"], start, end, each["text"][start:end], vector)):
                column.append(value)
    key_type = Value("int64" if name is None else "string")
    types = (key_type, Value("int64"), Value("int64"), Value("string"), List(Value("float32")))
    return Dataset.from_dict(rows, features=Features(zip(rows, types)))


def encode_batch(encoder, documents, prefix):
    """Returns the vectors (passages, d) of all passages of tokenized documents, whose first `prefix` tokens count in each."""
    batch = encoder.tokenizer.pad(
        {"input_ids": [each["input_ids"] for each in documents]}, padding_side="right", return_tensors="pt"
    ).to(encoder.device)
    passage_ids, first = torch.full_like(batch["input_ids"], -1), 0
    for row, each in zip(passage_ids, documents):
        ids = torch.tensor(each["passage_ids"], device=row.device)
        row[: len(ids)] = torch.where(ids >= 0, ids + first, -1)
        first += len(each["passages"])
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    states = encoder[0](inputs)["token_embeddings"]
    dtype = states.dtype
    if prefix:
        states, passage_ids = add_prefix(states, passage_ids, inputs["attention_mask"], first, prefix)
    features = {"sentence_embedding": passage_vectors(states, passage_ids, first).to(dtype)}
    for module in list(encoder)[2:]:
        features = module(features)
    return features["sentence_embedding"].float()


# What a folder was written with


def identity_of_encoder(encoder):
    """Returns a hash of what decides an encoder's vectors: weights, configuration and tokenizer."""
    config = encoder[0].model.config.to_dict()
    config = {name: value for name, value in config.items() if name not in ("_name_or_path", "transformers_version")}
    settings = (config, identity_of(encoder.tokenizer), encoder.max_seq_length)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def identity_of_documents(documents, passages):
    """Returns a hash of documents and of the passages that are given with them."""
    digest = hashlib.sha256()
    for index in range(len(documents)):
        both = (documents[index], None if passages is None else passages[index])
        digest.update(json.dumps(both, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]
