# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Train small classifiers from scratch on the two text tasks of the Long Range Arena, and measure their accuracy.

    python -m benchmarks.long_range --task listops --output_dir long-range
    python -m benchmarks.long_range --task text --dataset_name stanfordnlp/imdb --output_dir long-range
    python -m benchmarks.long_range --help

The tasks are those of Tay et al. (2020), arXiv 2011.04006. In ListOps (section 2.2.1), the input is a tree of operators on
digits, such as `[MAX 2 9 [MIN 4 7 ] 0 ]`, and its value is one of ten classes. The trees are generated, once, and stored in
the output folder. In Text (section 2.2.2), the input is a review of IMDB as bytes, and it is positive or negative.

A model is named as in `linear/k256`, `linear/k256/b128` or `attention_pool/k125/b128`: its projection, and after it, in any
order, k, b and the sharing, if they are not n / 4, 0 and layerwise. `full` is full attention: one block of n tokens. Each
classifier reads the mean of all tokens. All models have the same sizes, which are not those of the paper but the small ones of
its reimplementations in PyTorch, and all are trained with the same arguments.

The model after the last step is judged on the test set. Beside it stands what two rules reach: to name the class that is the
most frequent one in the training set, or among its examples with the same first token. A run that was killed goes on from its
last checkpoint. Every finished run is a line in results.jsonl, and is not run again. The table of all of them is written to
long_range.md.
"""

import argparse
import math
import os
import random
import statistics
import tempfile
import time
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import Trainer, TrainerState, TrainingArguments, set_seed

from configuration_linformer import LinformerConfig
from modeling_linformer import LinformerForSequenceClassification
from transformers_linformer.tables import markdown_table
from transformers_linformer.training.checkpoints import last_complete_checkpoint
from transformers_linformer.training.trainer import scale_learning_rates

from .models import linformer_fields
from .runs import Stopwatch, add_training_arguments, digest, has_ended, mean_and_error, run_missing, training_options


MODELS = ["full", "linear/k256", "linear/k256/b128", "attention_pool/k125/b128", "mean_pool/k250"]
SPLITS = ("train", "validation", "test")
PADDING = 0

# ListOps
OPERATORS = {
    "MIN": min,
    "MAX": max,
    "MED": lambda values: int(statistics.median(values)),
    "SM": lambda values: sum(values) % 10,
}
TOKENS = ["<pad>", *map(str, range(10)), *(f"[{name}" for name in OPERATORS), "]"]
FIRST_DIGIT, FIRST_OPERATOR, END = (TOKENS.index(token) for token in ("0", "[MIN", "]"))
FUNCTIONS = list(OPERATORS.values())
OPERATOR_PROBABILITY, MAX_DEPTH, MAX_ARGUMENTS = 0.25, 10, 10

NUM_CLASSES = {"listops": 10, "text": 2}
VOCAB_SIZE = {"listops": len(TOKENS), "text": 1 + 256}
DEFAULTS = {
    "listops": {
        "max_seq_length": 2000,
        "max_steps": 5000,
        "train_examples": 96_000,
        "validation_examples": 2000,
        "test_examples": 2000,
    },
    "text": {
        "max_seq_length": 4000,
        "max_steps": 20_000,
        "train_examples": 25_000,
        "validation_examples": 0,
        "test_examples": 25_000,
    },
}
# The accuracies of table 1 of Tay et al. (2020), in percent
PUBLISHED = {
    "listops": {"Transformer": 36.37, "Linformer": 35.70, "BigBird": 36.05},
    "text": {"Transformer": 64.27, "Linformer": 53.94, "BigBird": 64.02},
}
# The options that decide, besides the task, the model and the seed, what a run gives
ARGUMENTS = (
    "train_examples",
    "validation_examples",
    "test_examples",
    "min_length",
    "data_seed",
    "max_seq_length",
    "max_steps",
    "learning_rate",
    "warmup_ratio",
    "batch_size",
    "dropout",
    "attention_dropout",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)


def parse_arguments(argv=None):
    description = __doc__.strip().splitlines()[0]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--task", required=True, choices=DEFAULTS, help="The task.")
    parser.add_argument("--output_dir", required=True, type=Path, help="The folder for the trees, results, table and runs.")
    parser.add_argument(
        "--dataset_name", default="stanfordnlp/imdb", help="For text: the folder of IMDB, or its name on the Hub."
    )
    parser.add_argument("--models", nargs="+", default=MODELS, help="The models, as described above.")
    parser.add_argument("--data_seed", type=int, default=0, help="The seed of the trees, and of the choice of reviews.")
    parser.add_argument("--min_length", type=int, default=500, help="For listops: trees have more tokens, and fewer than n.")
    sizes = {
        "max_seq_length": "n. Reviews are cut there.",
        "max_steps": "The number of training steps.",
        "train_examples": "The largest number of examples to train on.",
        "validation_examples": "The number of examples for validation. Those of text are held out of the training set.",
        "test_examples": "The largest number of examples to judge by.",
    }
    for name, text in sizes.items():
        defaults = ", ".join(f"{task}: {values[name]}" for task, values in DEFAULTS.items())
        parser.add_argument(f"--{name}", type=int, default=argparse.SUPPRESS, help=f"{text} (default: {defaults})")
    add_training_arguments(parser, "examples", save_steps=500)
    parser.add_argument("--dropout", type=float, default=0.1, help="The dropout of hidden states and of the classifier.")
    parser.add_argument("--attention_dropout", type=float, default=0.0, help="The dropout of attention.")
    parser.add_argument("--hidden_size", type=int, default=64, help="d.")
    parser.add_argument("--intermediate_size", type=int, default=128, help="The size of the feed-forward layers.")
    parser.add_argument("--num_hidden_layers", type=int, default=2, help="The number of layers.")
    parser.add_argument("--num_attention_heads", type=int, default=2, help="The heads of each layer.")
    args = parser.parse_args(argv)
    args = argparse.Namespace(**DEFAULTS[args.task] | vars(args))
    if args.task == "listops" and args.min_length + 1 >= args.max_seq_length:
        parser.error(f"No tree has more than {args.min_length} and fewer than {args.max_seq_length} tokens")
    return args


def arguments_of(args):
    """Returns the dictionary of the arguments that decide what a run gives."""
    arguments = {"dataset": Path(args.dataset_name).name} | {name: getattr(args, name) for name in ARGUMENTS}
    return arguments | ({"dataset": None} if args.task == "listops" else {"min_length": None})


# Data. An example is a dictionary of `input_ids`, an array of token ids, and `labels`, the number of its class.


def grow_tree(generator, tokens, depth=1):
    """Draws a tree, appends its token ids to the list `tokens`, and returns its value, from 0 to 9."""

    def draw(number):
        # Only `random` gives the same numbers in every version of Python
        return int(number * generator.random())

    if depth == MAX_DEPTH or generator.random() >= OPERATOR_PROBABILITY:
        digit = draw(10)
        tokens.append(FIRST_DIGIT + digit)
        return digit
    operator = draw(len(FUNCTIONS))
    tokens.append(FIRST_OPERATOR + operator)
    values = [grow_tree(generator, tokens, depth + 1) for _ in range(2 + draw(MAX_ARGUMENTS - 1))]
    tokens.append(END)
    return FUNCTIONS[operator](values)


def grow_trees(number, seed, min_length, max_length):
    """
    Returns a dictionary of different trees, as bytes that are their token ids, and their values, in the order of drawing.

    They have more than `min_length` and fewer than `max_length` tokens. More trees begin with the same ones.
    """
    generator, trees = random.Random(seed), {}
    with tqdm(total=number, desc="Trees") as bar:
        while len(trees) < number:
            tokens = []
            value = grow_tree(generator, tokens)
            tree = bytes(tokens)
            if min_length < len(tree) < max_length and tree not in trees:
                trees[tree] = value
                bar.update()
    return trees


def load_listops(args):
    """Returns a dictionary of the list of examples of each split. They are generated if the output folder lacks them."""
    numbers = {split: getattr(args, f"{split}_examples") for split in SPLITS}
    name = "-".join(map(str, ("listops", args.min_length, args.max_seq_length, args.data_seed, *numbers.values())))
    folder = args.output_dir / name
    if not folder.exists():
        trees = list(grow_trees(sum(numbers.values()), args.data_seed, args.min_length, args.max_seq_length).items())
        splits = DatasetDict()
        for split in reversed(SPLITS):  # so that the test set does not depend on the number of examples to train on
            if numbers[split]:  # an empty dataset can be saved, but not loaded
                tokens, labels = zip(*trees[: numbers[split]])
                splits[split] = Dataset.from_dict({"tokens": tokens, "labels": labels})
                del trees[: numbers[split]]
        with tempfile.TemporaryDirectory(dir=args.output_dir) as unfinished:
            splits.save_to_disk(f"{unfinished}/{name}")
            os.rename(f"{unfinished}/{name}", folder)
    splits = load_from_disk(folder)
    return {
        split: [
            {"input_ids": np.frombuffer(tokens, np.uint8), "labels": label}
            for tokens, label in zip(splits[split]["tokens"][:], splits[split]["labels"][:])
        ]
        if numbers[split]
        else []
        for split in SPLITS
    }


def encode(text, n):
    """Returns the token ids of a text, (at most n,): its bytes in UTF-8, each plus 1, as 0 is padding."""
    return np.frombuffer(text.encode()[:n], np.uint8).astype(np.int16) + 1


def load_text(args):
    """Returns a dictionary of the list of examples of each split. Validation has reviews of the training set."""
    reviews = load_dataset(args.dataset_name).shuffle(seed=args.data_seed)  # they are sorted by their labels
    held_out = args.validation_examples
    rows = {
        "train": range(held_out, min(held_out + args.train_examples, len(reviews["train"]))),
        "validation": range(held_out),
        "test": range(min(args.test_examples, len(reviews["test"]))),
    }
    chosen = {split: reviews["test" if split == "test" else "train"].select(rows[split]) for split in SPLITS}
    return {
        split: [{"input_ids": encode(row["text"], args.max_seq_length), "labels": row["label"]} for row in part]
        for split, part in chosen.items()
    }


def collate(examples):
    """Returns a batch: token ids (batch, longest), padded at the end, with the attention mask, and labels (batch,)."""
    ids = [torch.from_numpy(example["input_ids"].astype(np.int64)) for example in examples]
    input_ids = pad_sequence(ids, batch_first=True, padding_value=PADDING)
    labels = torch.tensor([example["labels"] for example in examples])
    return {"input_ids": input_ids, "attention_mask": (input_ids != PADDING).long(), "labels": labels}


# Models and runs


def make_config(task, model, arguments):
    """Returns the configuration of the model that a name stands for."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return LinformerConfig(
        **{name: arguments[name] for name in names},
        **linformer_fields(model, arguments["max_seq_length"]),
        max_position_embeddings=arguments["max_seq_length"],
        hidden_dropout_prob=arguments["dropout"],
        attention_probs_dropout_prob=arguments["attention_dropout"],
        classifier_pooling="mean",
        vocab_size=VOCAB_SIZE[task],
        type_vocab_size=1,
        num_labels=NUM_CLASSES[task],
        pad_token_id=PADDING,
        bos_token_id=None,
        eos_token_id=None,
    )


def train(model, examples, folder, seed, arguments, save_steps):
    """Trains the model, from the folder's last checkpoint on if there is one. Returns the path of the final checkpoint."""
    checkpoint = last_complete_checkpoint(folder)
    if has_ended(checkpoint):
        return checkpoint
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**training_options(folder, seed, arguments, save_steps)),
        train_dataset=examples,
        data_collator=collate,
        callbacks=[Stopwatch()],
    )
    scale_learning_rates(trainer.create_optimizer(), model)
    trainer.train(resume_from_checkpoint=checkpoint)
    return last_complete_checkpoint(folder)


def accuracy(model, examples, folder, batch_size):
    """Returns the part of the examples whose class the model finds, or None without examples."""
    if not examples:
        return None
    training_arguments = TrainingArguments(output_dir=folder, per_device_eval_batch_size=batch_size, report_to="none")
    trainer = Trainer(model=model, args=training_arguments, data_collator=collate)
    outputs = trainer.predict(sorted(examples, key=lambda example: len(example["input_ids"])))
    return float((outputs.predictions.argmax(axis=1) == outputs.label_ids).mean())


def accuracy_of_frequencies(splits, feature):
    """
    Returns the accuracy on the test set of a rule: to name the class that is the most frequent one in the training set, among
    the examples with the same `feature(example)`.
    """
    counts = {}
    for example in splits["train"]:
        counts.setdefault(feature(example), Counter())[example["labels"]] += 1
    named = {value: max(sorted(each), key=each.get) for value, each in counts.items()}
    return statistics.mean(named.get(feature(example)) == example["labels"] for example in splits["test"])


def folder_name(task, model, seed, arguments):
    """Returns the name of the folder of a run, which no run with other arguments has."""
    return f"{task}-{model.replace('/', '-')}-{seed}-{digest(arguments)}"


# The table


def other_arguments(result):
    """Returns the arguments of a run that differ from the defaults of its task, as text."""
    defaults = arguments_of(parse_arguments(["--task", result["task"], "--output_dir", "."]))
    return ", ".join(f"{name}={result[name]}" for name in defaults if result[name] != defaults[name])


def make_table(results):
    """
    Returns a table with a line per task and model, and with the accuracies that the paper of the arena reports.

    The accuracies are means over the seeds, with the standard error of that mean. The error of sampling is that of the test
    set of one run. Runs with other arguments than the defaults have lines of their own.
    """
    groups = {}
    for result in results:
        groups.setdefault((result["task"], result["model"], other_arguments(result)), []).append(result)
    rows = []
    for task in DEFAULTS:
        lines = [(model, others, runs) for (of_task, model, others), runs in groups.items() if of_task == task]
        for model, others, runs in lines:

            def mean(name, digits, factor=1, runs=runs):
                values = [factor * run[name] for run in runs if run[name] is not None]
                return f"{statistics.mean(values):.{digits}f}" if values else ""

            score = mean_and_error([100 * run["accuracy"] for run in runs], 2)
            percentages = ("standard_error", "most_frequent_class", "first_token", "validation_accuracy")
            row = [task, model, score, *(mean(name, 2, 100) for name in percentages), mean("test_examples", 0), len(runs)]
            rows.append([*row, mean("train_seconds", 0), mean("evaluation_seconds", 0), others])
        if lines:
            rows += [
                [task, f"{model} (Tay et al., 2020)", f"{value:.2f}", *[""] * 9] for model, value in PUBLISHED[task].items()
            ]
    header = ["task", "model", "accuracy, % ± standard error", "error of sampling", "most frequent class, %"]
    header += ["by the first token, %", "validation, %", "test examples", "seeds", "training, s", "evaluation, s"]
    return markdown_table([*header, "other arguments"], rows)


def main(argv=None):
    args = parse_arguments(argv)
    task, arguments = args.task, arguments_of(args)
    for model in args.models:
        make_config(task, model, arguments)  # so that a wrong name is found before anything is trained
    args.output_dir.mkdir(parents=True, exist_ok=True)
    splits = {"listops": load_listops, "text": load_text}[task](args)
    arguments |= {f"{split}_examples": len(examples) for split, examples in splits.items()}

    def run(task, model, seed, **arguments):
        """Trains and judges one model."""
        folder = args.output_dir / "runs" / folder_name(task, model, seed, arguments)
        print(f"Task {task}, model {model}, seed {seed}: {folder}", flush=True)
        set_seed(seed)
        untrained = LinformerForSequenceClassification(make_config(task, model, arguments))
        checkpoint = Path(train(untrained, splits["train"], folder, seed, arguments, args.save_steps))
        trained = LinformerForSequenceClassification.from_pretrained(checkpoint)
        start = time.perf_counter()
        score = accuracy(trained, splits["test"], folder, args.batch_size)
        evaluation_seconds = time.perf_counter() - start
        stopwatch = TrainerState.load_from_json(checkpoint / "trainer_state.json").stateful_callbacks["Stopwatch"]
        return {
            "accuracy": score,
            "standard_error": math.sqrt(score * (1 - score) / len(splits["test"])),
            "validation_accuracy": accuracy(trained, splits["validation"], folder, args.batch_size),
            "most_frequent_class": accuracy_of_frequencies(splits, lambda example: None),
            "first_token": accuracy_of_frequencies(splits, lambda example: int(example["input_ids"][0])),
            "train_seconds": stopwatch["attributes"]["seconds"],
            "evaluation_seconds": evaluation_seconds,
        }

    wanted = [{"task": task, "model": model, "seed": seed} | arguments for seed, model in product(args.seeds, args.models)]
    table = make_table(run_missing(wanted, run, args.output_dir / "results.jsonl", jobs=1))
    (args.output_dir / "long_range.md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
