# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Retrieval of long documents: a sentence encoder on pieces of 512 tokens, and converted, untrained, on whole documents.

    python -m benchmarks.retrieval --model_name_or_path <encoder> --dataset_name <qmsum> --output_dir retrieval
    python -m benchmarks.retrieval --help

Documents are the meetings of QMSum (cut at `--max_seq_length` tokens), queries its specific ones, each about one meeting. A
text's vector is the mean of its tokens' last hidden states, normalised, and documents are ranked by the cosine with the
query's. The original reads a document's first piece, or all pieces, of which the vectors are averaged, or the best one counts.
The Linformers read the whole document at once.

nDCG@10, where one document is relevant, is 1 / log2(1 + its rank), or 0 below the tenth. Its standard error, and that of the
difference to pieces averaged, allow for queries about the same meeting being alike.

Every finished reading is a line in results.jsonl, and is not run again; retrieval.md has the table.
"""

import argparse
import time
from pathlib import Path

import torch
from datasets import load_dataset
from tqdm.auto import tqdm
from transformers import AutoModel, AutoTokenizer

from convert_to_linformer import convert_to_linformer
from run_common import markdown_table

from .runs import run_missing


PIECE = 512


def parse_arguments():
    description = __doc__.strip().splitlines()[0]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="The pretrained sentence encoder.")
    parser.add_argument("--dataset_name", required=True, help="QMSum, with the configurations `corpus` and `queries`.")
    parser.add_argument("--output_dir", required=True, type=Path, help="The folder for results and table.")
    parser.add_argument("--max_seq_length", type=int, default=8192, help="n; longer documents are cut for all readings.")
    parser.add_argument(
        "--linformers",
        nargs="+",
        default=["64:128", "64:256", "64:512", "256:0"],
        help="k:b of each Linformer, and after a further colon, if it is to be another, `far_token_limit`, or `none`.",
    )
    parser.add_argument("--projection_type", default="attention_pool")
    return parser.parse_args()


class Retrieval:
    def __init__(self, args):
        self.args = args
        self.tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path)
        self.model = AutoModel.from_pretrained(args.model_name_or_path).eval()
        corpus = load_dataset(args.dataset_name, "corpus", split="train")
        queries = load_dataset(args.dataset_name, "queries", split="train").filter(lambda query: query["kind"] == "specific")
        special = self.tokenizer.num_special_tokens_to_add()
        tokens = self.tokenizer(list(corpus["text"]), add_special_tokens=False, verbose=False)["input_ids"]
        self.documents = [document[: args.max_seq_length - special] for document in tokens]
        numbers = {doc_id: number for number, doc_id in enumerate(corpus["doc_id"])}
        self.relevant = torch.tensor([numbers[doc_id] for doc_id in queries["doc_id"]])
        self.queries = list(queries["text"])
        self.vectors_of_pieces = self.vectors_of_queries = None

    @torch.no_grad()
    def vector(self, model, tokens):
        """(d,): of a document, or of a piece of one, given as its token ids without special tokens."""
        input_ids = [self.tokenizer.cls_token_id, *tokens, self.tokenizer.sep_token_id]
        return normalised(model(input_ids=torch.tensor([input_ids])).last_hidden_state[0].mean(0))

    def pieces(self, document):
        size = PIECE - self.tokenizer.num_special_tokens_to_add()
        return [document[start : start + size] for start in range(0, len(document), size)]

    def run(self, reading, **ignored):
        """The rank of each query's document, and the seconds of CPU time that a document takes."""
        if self.vectors_of_queries is None:
            queries = self.tokenizer(self.queries, add_special_tokens=False)["input_ids"]
            self.vectors_of_queries = torch.stack([self.vector(self.model, query) for query in queries])
        start = time.process_time()
        if reading.startswith("pieces"):
            scores, start = self.scores_of_pieces(reading, start)
        else:
            k, b, *limit = reading.split(":")
            options = {"max_position_embeddings": self.args.max_seq_length, "projection_type": self.args.projection_type}
            model = convert_to_linformer(self.model, projected_dim=int(k), block_size=int(b), **options)
            if limit:
                model.config.far_token_limit = None if limit[0] == "none" else int(limit[0])
            start = time.process_time()
            vectors = torch.stack([self.vector(model, document) for document in tqdm(self.documents, desc=reading)])
            scores = self.vectors_of_queries @ vectors.T
        seconds = (time.process_time() - start) / len(self.documents)
        ranks = 1 + (scores > scores.gather(1, self.relevant.unsqueeze(1))).sum(1)
        return {"ranks": ranks.tolist(), "documents": self.relevant.tolist(), "seconds_per_document": seconds}

    def scores_of_pieces(self, reading, start):
        """(queries, documents), and when the reading began: the pieces are read once for all three readings of them."""
        if self.vectors_of_pieces is None:
            self.vectors_of_pieces = [
                torch.stack([self.vector(self.model, piece) for piece in self.pieces(document)])
                for document in tqdm(self.documents, desc="pieces")
            ]
            self.seconds_of_pieces = time.process_time() - start
        start = time.process_time() - self.seconds_of_pieces
        if reading == "pieces, the best":
            scores = [(self.vectors_of_queries @ vectors.T).amax(1) for vectors in self.vectors_of_pieces]
            return torch.stack(scores, dim=1), start
        if reading == "pieces, the first":
            start = time.process_time() - self.seconds_of_pieces * len(self.documents) / sum(map(len, self.vectors_of_pieces))
            vectors = [vectors[0] for vectors in self.vectors_of_pieces]
        else:
            vectors = [normalised(vectors.mean(0)) for vectors in self.vectors_of_pieces]
        return self.vectors_of_queries @ torch.stack(vectors).T, start


def normalised(vector):
    return torch.nn.functional.normalize(vector, dim=-1)


def ndcg(result):
    ranks = torch.tensor(result["ranks"])
    return torch.where(ranks <= 10, 1 / torch.log2(1 + ranks.double()), 0)


def mean_and_error(values, documents):
    """The mean, and its standard error with the values of a document as one cluster."""
    sums = torch.zeros(documents.max() + 1, dtype=values.dtype).index_add(0, documents, values - values.mean())
    return f"{values.mean():.3f} ± {sums.square().sum().sqrt() / len(values):.3f}"


def make_table(results):
    values = {result["reading"]: ndcg(result) for result in results}
    averaged, rows = values.get("pieces, averaged"), []
    for result in results:
        own, documents = values[result["reading"]], torch.tensor(result["documents"])
        name = result["reading"]
        if not name.startswith("pieces"):
            k, b, *limit = name.split(":")
            name = f"whole, k = {k}, {f'blocks of {b}' if b != '0' else 'no blocks'}"
            name += f", far_token_limit {limit[0]}" if limit else ""
        difference = "" if averaged is None else mean_and_error(own - averaged, documents)
        rows.append([name, mean_and_error(own, documents), difference, f"{result['seconds_per_document']:.1f}"])
    return markdown_table(["reading", "nDCG@10", "minus pieces averaged", "CPU seconds per document"], rows)


def main():
    args = parse_arguments()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    wanted = [f"pieces, {which}" for which in ("the first", "averaged", "the best")] + args.linformers
    common = {"max_seq_length": args.max_seq_length, "projection_type": args.projection_type}
    wanted = [{"reading": reading} | common for reading in wanted]
    results = run_missing(wanted, Retrieval(args).run, args.output_dir / "results.jsonl", jobs=1)
    table = make_table(results)
    (args.output_dir / "retrieval.md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
