# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains an encoder to find passages: defines batches of documents and queries, the loss, and the metrics."""

import math
import os
from pathlib import Path

import torch
import transformers
from datasets import Features, List, Value
from datasets.fingerprint import Hasher
from safetensors.torch import load_file, save_file
from sklearn.metrics import ndcg_score
from torch.nn.functional import normalize, pad, softplus
from torch.nn.utils.rnn import pad_sequence

from .. import documents
from ..documents import read_document, tokenize_document
from ..errors import UsageError
from ..passages import passage_vectors
from ..tokenization import identity_of
from .text import shortened
from .trainer import LinformerTrainer


logger = transformers.utils.logging.get_logger("transformers.linformer.passage_training")

# What `make_examples` returns
IDS, LISTS = List(Value("int32")), List(List(Value("int32")))
FEATURES = Features({"input_ids": IDS, "passage_ids": IDS, "query_input_ids": LISTS, "positives": LISTS})


# Batches


def make_examples(split, dataset, tokenizer, max_length, size=120, prompts=("", ""), **map_kwargs):
    """
    Returns the documents of a dataset as tokens, as `PassageCollator` takes them. Documents that answer no query are left out.

    Args:
        split: the name of the split, for the log and for errors.
        dataset: a dataset whose rows are documents, see `documents.read_document`.
        max_length: the number of tokens at which documents and queries are cut.
        size: about how many words the passages have that a section or a text is cut into.
        prompts: what is put before each document and before each query.
        map_kwargs: arguments of `Dataset.map`.

    Raises `UsageError` that names the row for one that is no document, and if there are no queries at all.
    """

    def encode(batch, indices):
        examples = {name: [] for name in (*FEATURES, "lost")}
        for index, values in zip(indices, zip(*batch.values())):
            try:
                document = read_document(dict(zip(batch, values)), size)
                tokens = tokenize_document(document, tokenizer, max_length, prompts[0])
            except ValueError as error:
                raise UsageError(f"row {index + 1} of the {split} data: {error}") from error
            if tokens["queries"]:
                queries, positives = zip(*tokens["queries"])
                queries = tokenizer([prompts[1] + query for query in queries], truncation=True, max_length=max_length)
                lost = len(document["passages"]) - len(tokens["passages"])
                example = (tokens["input_ids"], tokens["passage_ids"], queries["input_ids"], positives, lost)
                for column, value in zip(examples.values(), example):
                    column.append(value)
        return examples

    code = [Path(module).read_bytes() for module in (__file__, documents.__file__)]
    identity = (dataset._fingerprint, identity_of(tokenizer), max_length, size, prompts, code)
    map_kwargs |= {"new_fingerprint": Hasher.hash(identity), "features": Features(FEATURES | {"lost": Value("int64")})}
    names = dataset.column_names
    examples = dataset.map(
        encode, batched=True, with_indices=True, remove_columns=names, desc=f"Tokenizing {split}", **map_kwargs
    )
    if len(examples) == 0:
        raise UsageError(
            f"no document of the {split} data has a query that its first {max_length} tokens answer: its columns are"
            f" {', '.join(names)}, and `sections` with headings are needed, or `passages` with `queries`."
        )
    numbers = [sum(map(len, examples["query_input_ids"])), sum(1 + max(ids) for ids in examples["passage_ids"])]
    logger.info(f"{split}: {len(examples)} documents with {numbers[1]} passages and {numbers[0]} queries")
    logger.info(f"{split}: the first query is {shortened(tokenizer.decode(examples[0]['query_input_ids'][0]))}")
    if len(examples) < len(dataset):
        logger.warning(
            f"{len(dataset) - len(examples)} of {len(dataset)} {split} documents answer no query: they are left out"
        )
    if lost := sum(examples["lost"]):
        logger.warning(f"{lost} passages of the {split} data begin after {max_length} tokens, or are blank: they are left out")
    return examples.remove_columns("lost")


def whole_document(document):
    """Returns the sequences that a document is read as, with the passage of each token: here it is one sequence."""
    return [(document["input_ids"], document["passage_ids"])]


class PassageCollator:
    """
    Makes batches of documents and of the queries that their passages answer.

    Documents are dictionaries with `input_ids` and `passage_ids` of n numbers each, see `documents.tokenize_document`,
    `query_input_ids`, a list of a list of token ids per query, and `positives`, a list of a list of passage ids per query.

    `rows_of` says how a document is read: it takes a document, and returns the sequences that it is read as, which are pairs
    of token ids and the passage ids of these tokens. By default a document is one sequence. A passage may have tokens in
    several sequences. `padding` are options of `tokenizer.pad` for these sequences.

    A batch has, for all its documents together:

        input_ids, attention_mask: (B, n)
        passage_ids: (B, n), the numbers of the passages in the batch, -1 for none
        query_input_ids, query_attention_mask: (queries, m)
        is_positive: (queries, passages), whether the passage answers the query
        sizes: (documents, 2), how many passages and how many queries each document has
        keys: (documents,), numbers that are the same for the same document in every batch
    """

    def __init__(self, tokenizer, rows_of=whole_document, **padding):
        self.tokenizer = tokenizer
        self.rows_of = rows_of
        self.padding = padding

    def __call__(self, documents):
        rows, queries, blocks, sizes, keys, first = [], [], [], [], [], 0
        for document in documents:
            number = 1 + max(document["passage_ids"])
            for input_ids, passage_ids in self.rows_of(document):
                rows.append((input_ids, [index + first if index >= 0 else -1 for index in passage_ids]))
            block = torch.zeros(len(document["positives"]), number, dtype=torch.bool)
            for query, positives in enumerate(document["positives"]):
                block[query, positives] = True
            queries += document["query_input_ids"]
            blocks.append(block)
            sizes.append(block.shape[::-1])
            keys.append(hash(tuple(document["input_ids"])))  # of integers, whose hash is the same in every process
            first += number
        batch = self.pad([input_ids for input_ids, _ in rows], **self.padding)
        batch["passage_ids"] = torch.full_like(batch["input_ids"], -1)
        for row, (_, passage_ids) in zip(batch["passage_ids"], rows):
            row[: len(passage_ids)] = torch.tensor(passage_ids)
        batch |= {f"query_{name}": tensor for name, tensor in self.pad(queries).items()}
        is_positive = torch.block_diag(*blocks).bool()
        return batch | {"is_positive": is_positive, "sizes": torch.tensor(sizes), "keys": torch.tensor(keys)}

    def pad(self, input_ids, **padding):
        batch = self.tokenizer.pad({"input_ids": input_ids}, padding_side="right", return_tensors="pt", **padding)
        return {name: batch[name] for name in ("input_ids", "attention_mask")}


# Training


def contrastive_loss(queries, passages, is_positive, temperature):
    """
    Returns the cross entropy of finding the passages that answer the queries among all passages.

    A query that several passages answer counts once, as the mean over these, and for each of them the others do not compete.

    Args:
        queries: (queries, d), of length 1.
        passages: (passages, d), of length 1.
        is_positive: (queries, passages), with at least one passage for each query.
        temperature: what similarities are divided by.
    """
    scores = queries @ passages.T / temperature
    others = scores.masked_fill(is_positive, -math.inf).logsumexp(1, keepdim=True)
    losses = softplus(others - scores).masked_fill(~is_positive, 0)  # -log(exp(score) / (exp(score) + exp(others)))
    return (losses.sum(1) / is_positive.sum(1)).mean()


class PassageMemory:
    """
    The vectors of the last passages that were read in training, as they were then: a cross-batch memory (Wang et al. 2020,
    https://arxiv.org/abs/1912.06798). A document that is read again replaces its own.

    `size` is the largest number of passages.
    """

    def __init__(self, size):
        self.size = size
        self.vectors, self.keys = None, None  # (passages, d), and (passages,), the documents that they are of

    def exchange(self, vectors, keys):
        """Returns the vectors (passages, d) that are remembered of other documents than these, and remembers these."""
        if self.vectors is None:
            self.vectors, self.keys = vectors[:0], keys[:0]
        is_other = ~torch.isin(self.keys, keys)
        others, other_keys = self.vectors[is_other], self.keys[is_other]
        self.vectors, self.keys = (torch.cat(pair)[-self.size :] for pair in ((others, vectors), (other_keys, keys)))
        return others

    def save(self, path):
        if self.vectors is not None:
            save_file({"vectors": self.vectors.contiguous(), "keys": self.keys.contiguous()}, path)

    def load(self, path, device):
        if os.path.exists(path):
            found = load_file(path, device=str(device))
            self.vectors, self.keys = found["vectors"], found["keys"]


class PassageTrainer(LinformerTrainer):
    """
    A Trainer for an encoder, whose batches are those of `PassageCollator`, and whose loss is `contrastive_loss`.

    Each query is compared with all passages of the batch, those of its own document among them, and with those of the
    batches before, of which `memory_size` passages are remembered. Otherwise only a handful of documents would have to be
    told apart, and the encoder would forget what tells one document from many. The encoder reads queries, too, and the
    vector of a query is the mean over its tokens. With several processes, each compares its own batches alone.
    """

    def __init__(self, *args, temperature=0.05, memory_size=512, **kwargs):
        super().__init__(*args, **kwargs)
        self.temperature = temperature
        self.memory = PassageMemory(memory_size) if memory_size else None
        self.model_accepts_loss_kwargs = False  # the loss is a mean over the batch that it gets

    def _set_signature_columns_if_needed(self):  # or Trainer would remove what the model itself does not take
        self._signature_columns = list(FEATURES)

    def vectors(self, model, inputs):
        """Returns the vectors of the queries (queries, d) and of the passages (passages, d), of length 1."""
        states = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
        passages = self.vectors_of_passages(states, inputs)
        mask = inputs["query_attention_mask"]
        states = model(input_ids=inputs["query_input_ids"], attention_mask=mask).last_hidden_state
        rows = torch.arange(len(mask), device=mask.device)[:, None]
        queries = passage_vectors(states, torch.where(mask.bool(), rows, -1), len(mask))
        return normalize(queries, dim=-1), normalize(passages, dim=-1)

    def vectors_of_passages(self, hidden_states, inputs):
        """Returns the vectors of the passages, (passages, d), from the hidden states, (B, n, d)."""
        return passage_vectors(hidden_states, inputs["passage_ids"], inputs["is_positive"].shape[1])

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        queries, passages = self.vectors(model, inputs)
        candidates, is_positive = passages, inputs["is_positive"]
        if self.memory is not None and model.training:
            others = self.memory.exchange(passages.detach(), inputs["keys"].repeat_interleave(inputs["sizes"][:, 0]))
            candidates, is_positive = torch.cat([passages, others]), pad(is_positive, (0, len(others)))
        loss = contrastive_loss(queries, candidates, is_positive, self.temperature)
        return (loss, (queries, passages)) if return_outputs else loss

    def memory_path(self, checkpoint):
        return os.path.join(checkpoint, f"passage_memory_{self.args.process_index}.safetensors")

    def _save_rng_state(self, output_dir):  # what each process has of its own is written and read at the same places
        super()._save_rng_state(output_dir)
        if self.memory is not None:
            self.memory.save(self.memory_path(output_dir))

    def _load_rng_state(self, checkpoint):
        super()._load_rng_state(checkpoint)
        if self.memory is not None and checkpoint is not None:
            self.memory.load(self.memory_path(checkpoint), self.args.device)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """
        Returns the loss, the vectors (documents, items, d) and a pair of labels. The items of a document are its passages
        and then its queries. The labels are the `sizes` (documents, 2), and the pairs of a query and a passage that answers
        it, (documents, pairs, 2), as numbers within the document. Documents are padded with -100, as Trainer does.
        """
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, (queries, passages) = self.compute_loss(model, inputs, return_outputs=True)
        sizes = inputs["sizes"]
        numbers = sizes.T.tolist()
        blocks = [rows.split(numbers[0], dim=1)[i] for i, rows in enumerate(inputs["is_positive"].split(numbers[1]))]
        items = [torch.cat(pair) for pair in zip(passages.split(numbers[0]), queries.split(numbers[1]))]
        vectors, pairs = (
            pad_sequence(each, batch_first=True, padding_value=-100) for each in (items, [block.nonzero() for block in blocks])
        )
        return loss, vectors, (sizes, pairs)


METRICS = ("ndcg_at_10", "accuracy_at_1")


def compute_metrics(prediction):
    """
    Returns how well a search among the passages of all documents finds those that answer each query: nDCG@10, and how often
    the first passage is one of them. Both are means over the queries.
    """
    (sizes, pairs), vectors = prediction.label_ids, torch.from_numpy(prediction.predictions)
    items = [rows[: sum(size)].split(size) for rows, size in zip(vectors, sizes.tolist())]
    passages = torch.cat([found for found, _ in items])
    ndcg, first_is_right, offset = [], [], 0
    for (found, queries), answers in zip(items, torch.from_numpy(pairs)):
        scores = queries @ passages.T
        is_positive = torch.zeros_like(scores)
        query, answer = answers[answers[:, 0] >= 0].T
        is_positive[query, offset + answer] = 1
        ndcg += [float(ndcg_score(truth[None], row[None], k=10)) for truth, row in zip(is_positive.numpy(), scores.numpy())]
        first_is_right.append(is_positive.gather(1, scores.argmax(1, keepdim=True)))
        offset += len(found)
    return dict(zip(METRICS, (sum(ndcg) / len(ndcg), float(torch.cat(first_is_right).mean())), strict=True))
