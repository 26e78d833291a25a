# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Measure whether a model that reads a question before a long document finds the answer in late blocks as well as in the first.

    python -m benchmarks.questions --model_name_or_path <encoder> --dataset_name <proposals> --output_dir questions
    python -m benchmarks.questions --help

A document consists of sections in random order, each with its heading. The question is one of the headings, and the answer
is the place of that heading in the document, as in extractive question answering. The heads for it are new, and all models
are trained alike, on other documents than those that they are judged on:

    pieces                       The original reads pieces of 512 tokens, each after the question.
    attention_pool/b128/w16      A Linformer reads the question and the complete document, with this projection, blocks of 128
                                 tokens, and windows of 16. The question stands in the first block.
    attention_pool/b128/w16/g32  The same with 32 global tokens, so that every block sees the question.

The table has the accuracy of the most probable token as the mean and the standard error over the seeds: for answers in the
first 128 tokens, where the question stands, in the others of the first half, and in the second half. It also has the
difference to the first reading over all answers, paired by seed and pair, with its standard error over the pairs. Every
finished run is a line in results.jsonl, and is not run again.
"""

import argparse
import random
import statistics
import time
from collections import Counter
from pathlib import Path

import torch
from datasets import load_dataset
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, get_linear_schedule_with_warmup, set_seed

from transformers_linformer.tables import markdown_table

from .passages import PIECE, encoder_of
from .runs import keep_inputs, mean_and_error, run_missing


BLOCK = 128
READINGS = ["pieces", "attention_pool/b128/w16", "attention_pool/b128/w16/g32"]


def parse_arguments():
    description = __doc__.strip().splitlines()[0]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="The pretrained encoder, which reads 512 tokens.")
    parser.add_argument("--dataset_name", required=True, help="A dataset with the column `sections`.")
    parser.add_argument("--output_dir", required=True, type=Path, help="The folder for results and table.")
    parser.add_argument("--readings", nargs="+", default=READINGS, help="See above.")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="Of weights, documents and questions.")
    parser.add_argument("--steps", type=int, default=80, help="The number of steps.")
    parser.add_argument("--batch_size", type=int, default=8, help="The number of pairs of a step.")
    parser.add_argument("--tokens", type=int, default=1000, help="The number of tokens of a pair, which two pieces hold.")
    parser.add_argument("--layers", type=int, default=None, help="How many of the encoder's layers are kept, the first ones.")
    parser.add_argument("--test_pairs", type=int, default=400, help="The number of pairs to judge by.")
    parser.add_argument("--learning_rate", type=float, default=3e-4, help="The learning rate at its highest.")
    return parser.parse_args()


# Pairs


def make_pair(sections, tokenizer, length, generator):
    """
    Returns a question and a document as lists of token ids, and the index of the answer in the document.

    `sections` are shuffled and cut, so that pair and special tokens have at most `length` tokens. Returns None if a document
    has fewer than two sections whose headings differ from all others, or if the question has more than 24 tokens.
    """
    parts = [(section["heading"].strip(), section["text"].strip()) for section in sections]
    parts = [part for part in parts if all(part)]
    generator.shuffle(parts)
    counts = Counter(heading for heading, _ in parts)
    encode = lambda text: tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    document, starts = [], []
    for heading, text in parts:
        if len(document) >= length - 64:
            break
        if counts[heading] == 1:
            starts.append((len(document), heading))
        document += encode(f"{heading}\n{text}")
    if len(starts) < 2:
        return None
    answer, heading = generator.choice(starts)
    question = encode(heading)
    return (question, document[: length - len(question) - 3], answer) if len(question) <= 24 else None


def pairs_of(dataset, tokenizer, length, seed):
    """Yields pairs without end, of documents in random order."""
    generator = random.Random(seed)
    while True:
        for index in generator.sample(range(len(dataset)), len(dataset)):
            pair = make_pair(dataset[index]["sections"], tokenizer, length, generator)
            if pair is not None:
                yield pair


def start_scores(model, tokenizer, pairs, size):
    """Returns for each pair the score of each token of its document, from sequences of at most `size` tokens."""
    sequences, types, owners = [], [], []
    for index, (question, document, _) in enumerate(pairs):
        start = len(question) + 2
        for first in range(0, len(document), size - start - 1):
            piece = document[first : first + size - start - 1]
            sequences.append([tokenizer.cls_token_id, *question, tokenizer.sep_token_id, *piece, tokenizer.sep_token_id])
            types.append([0] * start + [1] * (len(piece) + 1))
            owners.append((index, start, start + len(piece)))
    padded = {"input_ids": (sequences, tokenizer.pad_token_id), "token_type_ids": (types, 0)}
    inputs = {name: pad_sequence(list(map(torch.tensor, rows)), True, value) for name, (rows, value) in padded.items()}
    inputs["attention_mask"] = pad_sequence([torch.ones(len(each), dtype=torch.long) for each in sequences], True)
    scores = [[] for _ in pairs]
    for logits, (index, start, end) in zip(model(**inputs).start_logits, owners):
        scores[index].append(logits[start:end])
    return [torch.cat(each) for each in scores]


# Runs


class Questions:
    """Trains a model of each reading to answer questions, and judges it."""

    def __init__(self, args):
        self.args = args
        self.tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path)
        self.splits = load_dataset(args.dataset_name)

    def run(self, reading, seed, **ignored):
        """Returns the place of each answer among the tokens, if it is found, and the CPU seconds of training."""
        args = self.args
        set_seed(seed)
        layers = {} if args.layers is None else {"num_hidden_layers": args.layers}
        model = AutoModelForQuestionAnswering.from_pretrained(args.model_name_or_path, **layers)
        model = encoder_of(reading, model, args.tokens - 2, encoder_only=False)
        size = PIECE if reading == "pieces" else args.tokens
        optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate)
        schedule = get_linear_schedule_with_warmup(optimizer, args.steps // 10, args.steps)
        pairs, start = pairs_of(self.splits["train"], self.tokenizer, args.tokens, seed), time.process_time()
        model.train()
        for _ in tqdm(range(args.steps), desc=f"{reading}, seed {seed}"):
            batch = [next(pairs) for _ in range(args.batch_size)]
            scores = start_scores(model, self.tokenizer, batch, size)
            loss = sum(-each.log_softmax(0)[answer] for each, (_, _, answer) in zip(scores, batch)) / len(batch)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        seconds = time.process_time() - start
        model.eval()
        places, found, pairs = [], [], pairs_of(self.splits["test"], self.tokenizer, args.tokens, 0)
        with torch.no_grad():
            for _ in range(args.test_pairs):
                question, document, answer = next(pairs)
                (scores,) = start_scores(model, self.tokenizer, [(question, document, answer)], size)
                places.append(len(question) + 2 + answer)
                found.append(scores.argmax().item() == answer)
        return {"places": places, "found": found, "seconds": seconds}


def difference(ours, theirs):
    """Returns the difference in accuracy of two lists of results, of the seeds that both have, and its error, as text."""
    by_seed = {result["seed"]: result["found"] for result in theirs}
    pairs = [zip(result["found"], by_seed[result["seed"]]) for result in ours if result["seed"] in by_seed]
    of_seeds = [[int(own) - int(other) for own, other in each] for each in pairs]
    return mean_and_error([statistics.mean(each) for each in zip(*of_seeds)], 3)


def make_table(results, tokens):
    """Returns a table of the accuracy for answers in the first block, up to the middle of `tokens`, and after it."""
    groups, rows = {}, []
    for result in results:
        groups.setdefault(result["reading"], []).append(result)
    edges, first = [0, BLOCK, tokens // 2, tokens], results[0]["reading"]
    for reading, group in groups.items():
        columns = []
        for start, end in zip(edges, edges[1:]):
            asked = [[found for place, found in zip(each["places"], each["found"]) if start <= place < end] for each in group]
            columns.append([statistics.mean(each) for each in asked if each])
        rows.append([reading, len(group), *(mean_and_error(each, 3) for each in columns)])
        rows[-1].append(difference(group, groups[first]) if reading != first else "")
        rows[-1].append(round(statistics.mean(each["seconds"] for each in group)))
    header = [f"answers in tokens {start} to {end - 1}" for start, end in zip(edges, edges[1:])]
    return markdown_table(["reading", "seeds", *header, f"minus {first}", "CPU seconds to train"], rows)


def main():
    args = parse_arguments()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    inputs = ("steps", "batch_size", "tokens", "layers", "test_pairs", "learning_rate", "model_name_or_path", "dataset_name")
    keep_inputs(args.output_dir, **{name: getattr(args, name) for name in inputs})
    torch.set_num_threads(1)
    questions = Questions(args)
    wanted = [{"reading": reading, "seed": seed} for seed in args.seeds for reading in args.readings]
    results = run_missing(wanted, questions.run, args.output_dir / "results.jsonl", jobs=1)
    table = make_table(results, args.tokens)
    (args.output_dir / "questions.md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
