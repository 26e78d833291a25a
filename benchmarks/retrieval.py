# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Measure retrieval of long documents: a sentence encoder on pieces of 512 tokens, and converted, untrained, on complete ones.

    python -m benchmarks.retrieval --model_name_or_path <encoder> --dataset_name <qmsum> --output_dir retrieval
    python -m benchmarks.retrieval --help

The documents are the meetings of QMSum, cut at `--max_seq_length` tokens, and the queries are its specific ones, each about
one meeting. The vector of a text is the mean of the last hidden states of its tokens, normalised, and documents are ranked by
the cosine similarity of their vector to the query's. The original reads the first piece of a document, or all its pieces, of
which the vectors are averaged, or the most similar one counts. The Linformers read a document at once.

As one document is relevant per query, nDCG@10 is 1 / log2(1 + its rank), or 0 if its rank is above ten. The standard errors of
it, and of its difference to averaged pieces, take into account that queries about the same meeting are alike.

Every finished reading is a line in results.jsonl, and is not run again. The table is written to retrieval.md.
"""

import argparse
import time
from functools import cached_property
from pathlib import Path

import torch
from datasets import load_dataset
from tqdm.auto import tqdm
from transformers import AutoModel, AutoTokenizer

from configuration_linformer.configuration_linformer import PROJECTION_TYPES
from transformers_linformer import convert_to_linformer
from transformers_linformer.tables import markdown_table

from .reading import PIECE
from .runs import keep_inputs, run_missing


def parse_arguments():
    description = __doc__.strip().splitlines()[0]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="The pretrained sentence encoder.")
    parser.add_argument("--dataset_name", required=True, help="QMSum, with the configurations `corpus` and `queries`.")
    parser.add_argument("--output_dir", required=True, type=Path, help="The folder for results and table.")
    parser.add_argument(
        "--max_seq_length", type=int, default=8192, help="n. Longer documents are cut for all ways of reading."
    )
    parser.add_argument(
        "--linformers",
        nargs="+",
        default=["256:256", "256:512", "256:0"],
        help="k:b of each Linformer. A `far_token_limit` other than the default, or `none`, and a `position_period` follow"
        " after further colons, as in 256:256::128.",
    )
    parser.add_argument("--projection_type", default="attention_pool", choices=PROJECTION_TYPES, help="How n rows become k.")
    return parser.parse_args()


class Retrieval:
    """Ranks the documents of a dataset for its queries, by the vectors of one pretrained encoder read in several ways."""

    def __init__(self, model_name_or_path, dataset_name, max_seq_length, projection_type):
        self.max_seq_length, self.projection_type = max_seq_length, projection_type
        self.tokenizer = AutoTokenizer.from_pretrained(model_name_or_path)
        self.model = AutoModel.from_pretrained(model_name_or_path).eval()
        corpus = load_dataset(dataset_name, "corpus", split="train")
        queries = load_dataset(dataset_name, "queries", split="train").filter(lambda query: query["kind"] == "specific")
        special = self.tokenizer.num_special_tokens_to_add()
        tokens = self.tokenizer(list(corpus["text"]), add_special_tokens=False, verbose=False)["input_ids"]
        self.documents = [document[: max_seq_length - special] for document in tokens]
        numbers = {doc_id: number for number, doc_id in enumerate(corpus["doc_id"])}
        self.relevant = torch.tensor([numbers[doc_id] for doc_id in queries["doc_id"]])
        self.queries = list(queries["text"])

    @torch.no_grad()
    def vector(self, model, tokens):
        """Returns the vector (d,) of a text, which is given as its token ids without special tokens."""
        input_ids = [self.tokenizer.cls_token_id, *tokens, self.tokenizer.sep_token_id]
        return normalised(model(input_ids=torch.tensor([input_ids])).last_hidden_state[0].mean(0))

    def pieces(self, document):
        size = PIECE - self.tokenizer.num_special_tokens_to_add()
        return [document[start : start + size] for start in range(0, len(document), size)]

    @cached_property
    def vectors_of_queries(self):
        """Returns the vectors of the queries, (queries, d)."""
        queries = self.tokenizer(self.queries, add_special_tokens=False)["input_ids"]
        return torch.stack([self.vector(self.model, query) for query in queries])

    @cached_property
    def read_pieces(self):
        """
        Returns the vectors (pieces, d) of each document's pieces, and the CPU time that they took.

        Three readings share them, so they are computed once.
        """
        start = time.process_time()
        vectors = [
            torch.stack([self.vector(self.model, piece) for piece in self.pieces(document)])
            for document in tqdm(self.documents, desc="pieces")
        ]
        return vectors, time.process_time() - start

    def run(self, reading, **ignored):
        """
        Returns the rank of each query's document, the numbers of these documents, and the CPU time per document.

        `reading` is "pieces, the first", "pieces, averaged", "pieces, the best", or one of `--linformers`.
        """
        read = self.scores_of_pieces if reading.startswith("pieces") else self.scores_of_linformer
        scores, seconds = read(reading)
        ranks = 1 + (scores > scores.gather(1, self.relevant.unsqueeze(1))).sum(1)
        return {
            "ranks": ranks.tolist(),
            "documents": self.relevant.tolist(),
            "seconds_per_document": seconds / len(self.documents),
        }

    def scores_of_linformer(self, reading):
        """Returns the cosine similarities, (queries, documents), and the CPU time that they took."""
        k, b, limit, period = parts_of(reading)
        sizes = {"projected_dim": int(k), "block_size": int(b), "max_position_embeddings": self.max_seq_length}
        period = int(period) if period else None
        model = convert_to_linformer(self.model, projection_type=self.projection_type, position_period=period, **sizes)
        if limit:
            model.config.far_token_limit = None if limit == "none" else int(limit)
        queries = self.vectors_of_queries
        start = time.process_time()
        vectors = torch.stack([self.vector(model, document) for document in tqdm(self.documents, desc=reading)])
        scores = queries @ vectors.T
        return scores, time.process_time() - start

    def scores_of_pieces(self, reading):
        """Returns the cosine similarities, (queries, documents), and the CPU time that they took, pieces included."""
        queries = self.vectors_of_queries
        vectors, seconds = self.read_pieces
        start = time.process_time()
        if reading == "pieces, the best":
            scores = torch.stack([(queries @ pieces.T).amax(1) for pieces in vectors], dim=1)
        elif reading == "pieces, the first":
            seconds *= len(self.documents) / sum(map(len, vectors))
            scores = queries @ torch.stack([pieces[0] for pieces in vectors]).T
        else:
            scores = queries @ torch.stack([normalised(pieces.mean(0)) for pieces in vectors]).T
        return scores, seconds + time.process_time() - start


def parts_of(reading):
    """Returns k, b, `far_token_limit` and `position_period` of one of `--linformers`. What it does not name is empty."""
    return [*reading.split(":"), "", ""][:4]


def normalised(vector):
    return torch.nn.functional.normalize(vector, dim=-1)


def ndcg(result):
    """Returns the nDCG@10 of each query, (queries,)."""
    ranks = torch.tensor(result["ranks"])
    return torch.where(ranks <= 10, 1 / torch.log2(1 + ranks.double()), 0)


def mean_and_error(values, documents):
    """Returns the mean as text, with its standard error, in which the values of one document form one cluster."""
    sums = torch.zeros(documents.max() + 1, dtype=values.dtype).index_add(0, documents, values - values.mean())
    return f"{values.mean():.3f} ± {sums.square().sum().sqrt() / len(values):.3f}"


def make_table(results):
    values = {result["reading"]: ndcg(result) for result in results}
    averaged, rows = values.get("pieces, averaged"), []
    for result in results:
        own, documents = values[result["reading"]], torch.tensor(result["documents"])
        name = result["reading"]
        if not name.startswith("pieces"):
            k, b, limit, period = parts_of(name)
            name = f"whole, k = {k}, {f'blocks of {b}' if b != '0' else 'no blocks'}"
            name += f", far_token_limit {limit}" if limit else ""
            name += f", position_period {period}" if period else ""
        difference = "" if averaged is None else mean_and_error(own - averaged, documents)
        rows.append([name, mean_and_error(own, documents), difference, f"{result['seconds_per_document']:.1f}"])
    return markdown_table(["reading", "nDCG@10", "minus pieces averaged", "CPU seconds per document"], rows)


def main():
    args = parse_arguments()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    keep_inputs(args.output_dir, model_name_or_path=args.model_name_or_path, dataset_name=args.dataset_name)
    torch.set_num_threads(1)
    readings = ["pieces, the first", "pieces, averaged", "pieces, the best", *args.linformers]
    common = {"max_seq_length": args.max_seq_length, "projection_type": args.projection_type}
    retrieval = Retrieval(args.model_name_or_path, args.dataset_name, **common)
    wanted = [{"reading": reading} | common for reading in readings]
    results = run_missing(wanted, retrieval.run, args.output_dir / "results.jsonl", jobs=1)
    table = make_table(results)
    (args.output_dir / "retrieval.md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
