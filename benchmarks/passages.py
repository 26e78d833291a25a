# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Measure how well passages of long documents are found, with vectors that know more or less of the passage's document.

    python -m benchmarks.passages --model_name_or_path <sentence encoder> --dataset_name <proposals> --output_dir passages
    python -m benchmarks.passages --help

Each section of a document gives the query "title: heading", and its passages, of about 120 words, answer it. The title and
the headings stand in the documents, and in no passage. In QMSum, a query about a meeting is answered by the passages with
the turns that its annotators chose. All passages of all test documents are ranked for each query. Each reading of the
documents is trained alike, by `PassageTrainer`, on other documents, and then judged:

    pieces               The original reads pieces of 512 tokens.
    pieces+64            The same, with the first 64 tokens of the document before each piece. pieces256+64: in all 256 tokens.
    pieces+document      The same as pieces, and the mean of all tokens of the document is added to each passage's.
    passages             The original reads each passage alone.
    passages+64          The same, with the first 64 tokens of the document before each.
    passages+title       The same, with the title before each.
    full                 Full attention reads complete documents.
    attention_pool/b256/w32/g64
                         A Linformer reads them, with this projection, blocks of 256 tokens, windows of 32, and 64 global
                         tokens. /p128 sets `position_period`, and /f384 `far_token_limit`.
    .../mean             After any reading with the first tokens: these count in the mean of each passage, too.
    bm25, bm25+title     BM25 of passages alone, and with the title before each. Nothing is trained.

A vector of a passage is the mean of its tokens' last hidden states. nDCG@10 is the mean over queries, and its difference to
another reading is paired by query. The standard errors take into account that the queries of a document are alike. Every
finished run is a line in results.jsonl, and is not run again. Its encoder is kept in the folder `encoders`, so that
`--test_tokens` and `--test_dataset_name` judge it on longer or other documents, `--with_prefix` with other vectors, and
`--trained_as` as another reading, without training it again. The table is written to passages.md, and a plot to passages.png.
"""

import argparse
import itertools
import math
import os
import random
import re
import shutil
import statistics
import time
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, get_dataset_config_names, load_dataset
from safetensors import safe_open
from safetensors.torch import load_model, save_model
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import ndcg_score
from transformers import AutoModel, AutoTokenizer, TrainingArguments, set_seed

from transformers_linformer import convert_to_linformer
from transformers_linformer.documents import counter, cut
from transformers_linformer.passages import add_prefix, passage_vectors
from transformers_linformer.tables import markdown_table
from transformers_linformer.training.passages import PassageCollator, PassageTrainer, make_examples

from . import attention_dropout
from .runs import digest, keep_inputs, read_results, run_missing


PIECE, PREFIX = 512, 64
READINGS = [
    "bm25",
    "bm25+title",
    "pieces",
    "pieces+64",
    "passages+64",
    "attention_pool/b256/w32",
    "attention_pool/b256/w32/g64",
    "hard_attention_pool/b128/w32/g64",
]
TRAINING = ("documents", "epochs", "tokens", "batch_size", "learning_rate", "temperature", "memory_size")
FIELDS = {
    "b": "block_size",
    "w": "window",
    "g": "num_global_tokens",
    "p": "position_period",
    "f": "far_token_limit",
}


def parse_arguments():
    description = __doc__.strip().splitlines()[0]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="The pretrained sentence encoder, which reads 512 tokens.")
    parser.add_argument(
        "--dataset_name", required=True, help="A dataset with the columns `title` and `sections`, QMSum or WikiText."
    )
    parser.add_argument("--output_dir", required=True, type=Path, help="The folder for results and table.")
    parser.add_argument("--readings", nargs="+", default=READINGS, help="See above.")
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[1, 2, 3], help="Of the training: documents, batches, dropout."
    )
    parser.add_argument("--documents", type=int, default=300, help="The number of documents to train on, 0 for no training.")
    parser.add_argument("--epochs", type=int, default=1, help="How often they are read.")
    parser.add_argument("--tokens", type=int, default=2040, help="The number of tokens at which documents are cut.")
    parser.add_argument("--batch_size", type=int, default=6, help="The number of documents in a batch.")
    parser.add_argument("--learning_rate", type=float, default=1e-4, help="The learning rate at its highest.")
    parser.add_argument("--temperature", type=float, default=0.05, help="What similarities are divided by in the loss.")
    parser.add_argument(
        "--memory_size", type=int, default=512, help="How many passages of earlier batches compete with those of a batch."
    )
    parser.add_argument("--test_documents", type=int, default=None, help="Judge on as many of the test documents, not on all.")
    parser.add_argument("--test_tokens", type=int, help="Where test documents are cut. By default as `--tokens` says.")
    parser.add_argument("--test_dataset_name", help="Judge on the test documents of this dataset. By default on the same.")
    parser.add_argument(
        "--with_prefix",
        action="store_true",
        help="Judge all readings as if they were .../mean, whether they were trained so or not.",
    )
    parser.add_argument(
        "--trained_as",
        help="Judge all readings with the encoder that was trained as this reading. By default each with its own.",
    )
    args = parser.parse_args()
    args.test_tokens = args.test_tokens or args.tokens
    args.test_dataset_name = args.test_dataset_name or args.dataset_name
    if args.trained_as and not is_of_original(args.trained_as) and any(map(is_of_original, args.readings)):
        raise SystemExit(f"`--trained_as {args.trained_as}` is a Linformer: give `--readings` that are Linformers, too.")
    return args


# Documents


def read_collection(name):
    """
    Returns documents to train on and others to judge by, as `documents.read_document` takes them, by split.

    `name` is a dataset with the columns `title` and `sections`, or QMSum, or WikiText. Of these two, which have no split that
    would be large enough, every fourth document is one to judge by.
    """
    configurations = get_dataset_config_names(name)
    if "queries" in configurations:
        documents = meetings(*(load_dataset(name, each, split="train") for each in ("corpus", "queries")))
    elif "wikitext-2-v1" in configurations:
        documents = articles(load_dataset(name, "wikitext-2-v1", split="train")["text"])
    else:
        return load_dataset(name)
    documents = Dataset.from_list(documents)
    is_test = np.arange(len(documents)) % 4 == 0
    return {"train": documents.select(np.flatnonzero(~is_test)), "test": documents.select(np.flatnonzero(is_test))}


def meetings(corpus, queries):
    """Returns the meetings of QMSum in passages of about 120 words, with the specific queries that each answers."""
    documents = []
    for meeting in corpus:
        text = meeting["text"]
        starts = [0, *(match.end() for match in re.finditer("\n", text)), len(text) + 1]
        answers = []  # a query, and the first and last character of what answers it
        for query in queries:
            if query["doc_id"] == meeting["doc_id"] and query["kind"] == "specific":
                answers += [(query["text"], starts[first], starts[last + 1] - 1) for first, last in query["turns"]]
        passages = [
            {"start": start, "end": end, "queries": [query for query, first, last in answers if start < last and first < end]}
            for start, end in cut(text, 0, len(text), 120, counter(text))
        ]
        documents.append({"text": text, "passages": passages})
    return documents


def articles(lines):
    """Returns the articles of WikiText, of which each line is a row, as documents of sections."""
    documents = []
    for line in lines:
        heading = re.fullmatch(r" ((?:= )+)(.+?) \1?(?:=\s*)+", line)
        if heading and heading[1] == "= ":
            documents.append({"title": heading[2], "sections": [{"heading": "", "text": ""}]})
        elif heading:
            documents[-1]["sections"].append({"heading": heading[2], "text": ""})
        elif documents:
            documents[-1]["sections"][-1]["text"] += line.strip() + "\n\n"
    return documents


# How documents are read


def rows_of(reading, tokenizer):
    """Returns a function that gives the rows in which an original reads a document, as `PassageCollator` takes it."""
    kind, length, prefix = re.fullmatch(r"(pieces|passages)(\d*)(?:\+(.*))?", reading.split("/")[0]).groups()
    size = int(length or PIECE) - tokenizer.num_special_tokens_to_add()

    def row(*parts):
        ids, passages = ([number for part in parts for number in part[i]] for i in range(2))
        return [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id], [-1, *passages, -1]

    def rows(document):
        ids, passages = (document[field][1:-1] for field in ("input_ids", "passage_ids"))
        number = {"64": PREFIX, "title": title_length(document)}.get(prefix, 0)
        repeated = (ids[:number], [-1] * len(ids[:number]))
        if kind == "pieces":
            starts = [0, *range(size, len(ids), size - number)]
            ends = [*starts[1:], len(ids)]
            bare = [(ids[start:end], passages[start:end]) for start, end in zip(starts, ends)]
            return [row(piece) if start == 0 else row(repeated, piece) for start, piece in zip(starts, bare)]
        found = {}
        for token, passage in zip(ids, passages):
            if passage >= 0:
                found.setdefault(passage, []).append(token)
        return [
            row(repeated, (each[: size - number], [passage] * len(each[: size - number]))) for passage, each in found.items()
        ]

    return rows


def title_length(document):
    """Returns the number of tokens of the title, with which the document and each of its queries begin."""
    length = 0
    for one, other in zip(document["input_ids"][1:], document["query_input_ids"][0][1:]):
        if one != other:
            break
        length += 1
    return length


def is_of_original(reading):
    """Returns whether the original reads the documents, or else a model that it was converted to."""
    return reading.startswith(("pieces", "passages"))


def encoder_of(reading, original, tokens, encoder_only=True):
    """Returns the model of a reading, with the weights of the original, and with its head unless `encoder_only`."""
    kind, *options = reading.removesuffix("/mean").split("/")
    if is_of_original(reading):
        encoder = original
    else:
        sizes = {FIELDS[option[0]]: int(option[1:]) for option in options}
        window, block_size = sizes.pop("window", 1), sizes.pop("block_size", 0)
        limit = sizes.pop("far_token_limit", None)
        multiple = math.lcm(window, block_size or 1)
        n = -(-max(tokens + 2, original.config.max_position_embeddings) // multiple) * multiple
        projection_type = "mean_pool" if kind == "full" else kind  # means of single tokens
        sizes |= {"projected_dim": n // window, "max_position_embeddings": n, "block_size": block_size}
        encoder = convert_to_linformer(original, encoder_only=encoder_only, projection_type=projection_type, **sizes)
        if limit is not None:
            encoder.config.far_token_limit = limit
    encoder.set_attn_implementation(attention_dropout.NAME)  # the same, and trains faster on a CPU
    return encoder


class ReadingTrainer(PassageTrainer):
    """A `PassageTrainer` whose vectors of passages are those of a reading."""

    def __init__(self, *args, reading, **kwargs):
        super().__init__(*args, **kwargs)
        self.reading = reading
        self.with_prefix = reading.endswith("/mean")

    def vectors_of_passages(self, hidden_states, inputs):
        ids, mask, number = inputs["passage_ids"], inputs["attention_mask"], inputs["is_positive"].shape[1]
        if self.with_prefix:
            repeated = PREFIX + 1 if "+64" in self.reading else 0  # with the special token before them
            prefix = getattr(self.model.config, "num_global_tokens", repeated)
            hidden_states, ids = add_prefix(hidden_states, ids, mask, number, prefix)
        vectors = passage_vectors(hidden_states, ids, number)
        if self.reading == "pieces+document":
            documents = inputs["documents"]  # of each row
            rows = torch.where(mask.bool(), documents[:, None], -1)
            means = passage_vectors(hidden_states, rows, len(inputs["sizes"]))
            vectors = vectors + means.repeat_interleave(inputs["sizes"][:, 0], 0)
        return vectors


class ReadingCollator(PassageCollator):
    def __call__(self, documents):
        counts = torch.tensor([len(self.rows_of(document)) for document in documents])
        return super().__call__(documents) | {"documents": torch.arange(len(documents)).repeat_interleave(counts)}


# Search


class Search:
    """Finds the passages of test documents for their queries, with readings that are trained on other documents."""

    def __init__(self, args):
        self.args = args
        self.tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path)
        test = read_collection(args.test_dataset_name)["test"]
        if args.test_documents is not None:
            test = test.take(args.test_documents)
        self.examples = self.tokenized("test", test, args.test_tokens)

    def tokenized(self, split, dataset, tokens):
        tokenizer = self.tokenizer
        length = tokenizer.model_max_length = tokens + tokenizer.num_special_tokens_to_add()
        return make_examples(split, dataset, tokenizer, length)

    def run(self, reading, seed, **ignored):
        """
        Returns for each document the sum of its queries' nDCG@10, also of their ranks together with those of BM25 with titles,
        and among the passages of the right document alone, for how many of its queries the first passage is one of its own,
        and the number of its queries, and the CPU seconds per document of training and of reading.
        """
        if reading.startswith("bm25"):
            scores, times = self.bm25(with_title=reading.endswith("title")), {}
        else:
            scores, times = self.trained_scores(reading, seed)
        both = sum(1 / (61 + (-each).argsort(1).argsort(1)) for each in (scores, self.bm25(with_title=True)))
        queries = [len(example["positives"]) for example in self.examples]
        found = {"ndcg": self.ndcg(scores), "ndcg_with_bm25": self.ndcg(both), "own_first": self.own_first(scores)}
        found["ndcg_in_document"] = self.ndcg(np.where(self.is_own, scores, scores.min() - 1))
        return found | {"queries": queries} | times

    def trained_scores(self, reading, seed):
        """Returns the scores of all passages, (queries, passages), and the CPU seconds per document."""
        args, times = self.args, {}
        trained_as = args.trained_as or reading
        path = self.train(trained_as, seed) if args.documents else None
        original = self.original()
        if path is not None and is_of_original(trained_as):
            load_model(original, path)
        encoder = encoder_of(reading, original, args.test_tokens)
        if path is not None and not is_of_original(trained_as):
            load_model(encoder, path)
        if path is not None:
            with safe_open(path, "pt") as file:
                times["seconds_to_train"] = float(file.metadata()["seconds_to_train"])
        encoder.eval()
        queries, passages = [], []
        start = time.process_time()
        trainer = self.trainer(reading, seed, encoder, output_dir=args.output_dir)
        trainer.with_prefix |= args.with_prefix
        with torch.no_grad():
            for batch in trainer.get_eval_dataloader(self.examples):
                for kept, vectors in zip((queries, passages), trainer.vectors(encoder, batch)):
                    kept.append(vectors)
        times["seconds_to_read"] = (time.process_time() - start) / len(self.examples)
        return (torch.cat(queries) @ torch.cat(passages).T).numpy(), times

    def train(self, reading, seed):
        """Returns the file with the weights of a trained encoder, and trains it if there is none."""
        args = self.args
        name = digest({name: getattr(args, name) for name in TRAINING})
        path = args.output_dir / "encoders" / f"{reading.replace('/', '-')}-{seed}-{name}.safetensors"
        if path.exists():
            return path
        folder = args.output_dir / f"unfinished-{random.SystemRandom().getrandbits(32):x}"
        set_seed(seed)
        encoder = encoder_of(reading, self.original(), args.tokens)
        documents = read_collection(args.dataset_name)["train"].shuffle(seed=seed).take(args.documents)
        examples = self.tokenized("train", documents, args.tokens)
        trainer = self.trainer(reading, seed, encoder, train_dataset=examples, output_dir=folder)
        start = time.process_time()
        trainer.train()
        seconds = (time.process_time() - start) / (args.documents * args.epochs)
        path.parent.mkdir(exist_ok=True)
        save_model(encoder, str(folder / path.name), metadata={"seconds_to_train": str(seconds)})
        os.replace(folder / path.name, path)
        shutil.rmtree(folder)
        return path

    def original(self):
        return AutoModel.from_pretrained(self.args.model_name_or_path, add_pooling_layer=False)

    def trainer(self, reading, seed, encoder, train_dataset=None, **arguments):
        args = self.args
        rows = {"rows_of": rows_of(reading, self.tokenizer)} if is_of_original(reading) else {}
        return ReadingTrainer(
            reading=reading,
            model=encoder,
            args=TrainingArguments(
                per_device_train_batch_size=args.batch_size,
                per_device_eval_batch_size=1,
                num_train_epochs=args.epochs,
                learning_rate=args.learning_rate,
                warmup_steps=0.1,
                seed=seed,
                save_strategy="no",
                logging_steps=5,
                report_to="none",
                use_cpu=not torch.cuda.is_available(),
                dataloader_pin_memory=False,
                **arguments,
            ),
            train_dataset=train_dataset,
            data_collator=ReadingCollator(self.tokenizer, **rows),
            card=None,
            temperature=args.temperature,
            memory_size=args.memory_size,
        )

    def ndcg(self, scores):
        """Returns the sum of the nDCG@10 of each document's queries, from the scores of all passages, (queries, passages)."""
        sums, row, first = [], 0, 0
        for example in self.examples:
            sums.append(0.0)
            for positives in example["positives"]:
                truth = np.zeros_like(scores[row])
                truth[first + np.array(positives)] = 1
                sums[-1] += float(ndcg_score(truth[None], scores[row][None], k=10))
                row += 1
            first += 1 + max(example["passage_ids"])
        return [round(each, 4) for each in sums]

    @cached_property
    def is_own(self):
        """Returns whether each passage is of the document that each query is about, (queries, passages)."""
        sizes = ((len(example["positives"]), 1 + max(example["passage_ids"])) for example in self.examples)
        return torch.block_diag(*(torch.ones(size, dtype=torch.bool) for size in sizes)).numpy()

    def own_first(self, scores):
        """Returns for how many of each document's queries the first passage is one of the document's, whichever it is."""
        ends = np.cumsum([len(example["positives"]) for example in self.examples])[:-1]
        is_found = np.take_along_axis(self.is_own, scores.argmax(1)[:, None], 1)
        return [int(each.sum()) for each in np.split(is_found, ends)]

    def bm25(self, with_title, k1=1.2, b=0.75):
        """Returns the scores of BM25, (queries, passages), of Robertson and Zaragoza (2009), with its usual parameters."""
        passages, queries = [], []
        for example in self.examples:
            ids, owners = np.array(example["input_ids"]), np.array(example["passage_ids"])
            title = self.tokenizer.decode(example["input_ids"][1 : 1 + title_length(example)]) if with_title else ""
            for number in range(1 + owners.max()):
                passages.append(f"{title} {self.tokenizer.decode(ids[owners == number])}")
            queries += [self.tokenizer.decode(query, skip_special_tokens=True) for query in example["query_input_ids"]]
        vectorizer = CountVectorizer(token_pattern=r"\w+")
        counts = vectorizer.fit_transform(passages).toarray().astype(float)
        frequency, lengths = (counts > 0).sum(0), counts.sum(1, keepdims=True)
        weights = counts * (k1 + 1) / (counts + k1 * (1 - b + b * lengths / lengths.mean()))
        weights *= np.log(1 + (len(counts) - frequency + 0.5) / (frequency + 0.5))
        return vectorizer.transform(queries) @ weights.T


# The table


def difference(ours, theirs):
    """
    Returns the mean difference of nDCG@10 between two lists of results, of the same seeds, and its standard error: that over
    documents, whose queries form clusters, and that over seeds together.
    """
    by_seed = {result["seed"]: np.array(result["ndcg"]) for result in theirs}
    sums = [np.array(result["ndcg"]) - by_seed[result["seed"]] for result in ours if result["seed"] in by_seed]
    if not sums:
        return None
    queries = np.array(ours[0]["queries"])
    means = [each.sum() / queries.sum() for each in sums]
    mean = statistics.mean(means)
    variance = np.square(np.mean(sums, axis=0) - mean * queries).sum() / queries.sum() ** 2
    if len(means) > 1:
        variance += statistics.variance(means) / len(means)
    return mean, variance**0.5


def by_reading(results):
    """Returns lists of results by the name of their reading, which says if it was trained for more than one epoch."""
    groups = {}
    for result in results:
        epochs = result.get("epochs", 1)
        groups.setdefault(result["reading"] + (f"/{epochs} epochs" if epochs > 1 else ""), []).append(result)
    return groups


def mean(group):
    """Returns the mean nDCG@10 of results of one reading, and its standard error."""
    return difference(group, [{"seed": each["seed"], "ndcg": np.zeros(len(each["ndcg"]))} for each in group])


def make_table(results, references=("pieces", "pieces+64")):
    groups, rows = by_reading(results), []
    for reading, group in groups.items():
        columns = [mean(group)]
        columns += [difference(group, groups.get(name, [])) if name != reading else None for name in references]
        columns.append(mean([each | {"ndcg": each["ndcg_with_bm25"]} for each in group]))
        cells = [f"{each[0]:.3f} ± {each[1]:.3f}" if each is not None else "" for each in columns]
        own = [sum(each["own_first"]) / sum(each["queries"]) for each in group if "own_first" in each]
        inside = [sum(each["ndcg_in_document"]) / sum(each["queries"]) for each in group if "ndcg_in_document" in each]
        cells += [f"{statistics.mean(each):.3f}" if each else "" for each in (own, inside)]
        times = [[each[name] for each in group if name in each] for name in ("seconds_to_read", "seconds_to_train")]
        cells += [f"{statistics.mean(each):.2f}" if each else "" for each in times]
        rows.append([reading, len(group), *cells])
    header = ["reading", "seeds", "nDCG@10", *(f"minus {name}" for name in references), "with BM25", "right document"]
    return markdown_table([*header, "right passage in it", "CPU seconds to read a document", "to train on one"], rows)


def label(reading):
    """Returns what the plot calls a reading."""
    words = {"pieces": "pieces of 512 tokens", "pieces256": "pieces of 256 tokens"}
    words |= {"passages": "passages read alone", "bm25": "BM25 of passages"}
    words |= {"64": "after the document's first 64 tokens", "title": "after the title", "document": "with the document's mean"}
    kind, *sizes = reading.split("/")
    if kind.startswith(tuple(words)):
        return " ".join(words[part] for part in kind.split("+")) + "".join(f", {size}" for size in sizes)
    return ", ".join(["complete document", kind, *sizes])


def plot(results, path):
    """Plots the nDCG@10 of each reading, with its standard error, against the time that it takes. BM25 is a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    colors = {"pieces": "C0", "passages": "C2"}
    for (reading, group), marker in zip(by_reading(results).items(), itertools.cycle("os^Dv<>p")):
        value, error = mean(group)
        if "seconds_to_read" not in group[0]:
            axes.axhline(value, color="0.5", linestyle=":" if "+" in reading else "--", label=label(reading))
            continue
        seconds = statistics.mean(each["seconds_to_read"] for each in group)
        color = colors.get(re.split(r"[\W\d]", reading)[0], "C3")
        axes.errorbar(seconds, value, yerr=error, color=color, marker=marker, linestyle="", capsize=3, label=label(reading))
    axes.set(xlabel="CPU seconds to read a document", ylabel="nDCG@10 of its passages", xlim=(0, None), ylim=(0, None))
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    figure.savefig(path, dpi=150)


def main():
    args = parse_arguments()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    common = {name: getattr(args, name) for name in (*TRAINING, "test_documents", "test_tokens", "with_prefix", "trained_as")}
    common["test_dataset"] = Path(args.test_dataset_name).name
    keep_inputs(args.output_dir, model_name_or_path=args.model_name_or_path, dataset_name=args.dataset_name)
    torch.set_num_threads(1)
    search = Search(args)
    wanted = [{"reading": reading, "seed": seed} | common for seed in args.seeds for reading in args.readings]
    run_missing(wanted, search.run, args.output_dir / "results.jsonl", jobs=1)
    shared = common.items() - {("epochs", args.epochs)}
    results = [each for each in read_results(args.output_dir / "results.jsonl") if shared <= each.items()]
    table = make_table(results)
    (args.output_dir / "passages.md").write_text(table + "\n", encoding="utf-8")
    plot(results, args.output_dir / "passages.png")
    print(table)


if __name__ == "__main__":
    main()
