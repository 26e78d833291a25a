# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Defines the tasks of GLUE, reads labels, and turns the outputs of a classifier into answers, metrics and files."""

import csv
import json
import math
import re
from dataclasses import dataclass

import datasets
import numpy as np
import torch
import transformers

from ..errors import UsageError
from .data import find_column, is_number
from .metrics import ClassificationMetrics


logger = transformers.utils.logging.get_logger("transformers.linformer.classification")

# For each task the columns of its texts, and the name of its file in a submission to gluebenchmark.com
GLUE_TASKS = {
    "cola": (("sentence",), "CoLA"),
    "sst2": (("sentence",), "SST-2"),
    "mrpc": (("sentence1", "sentence2"), "MRPC"),
    "qqp": (("question1", "question2"), "QQP"),
    "stsb": (("sentence1", "sentence2"), "STS-B"),
    "mnli": (("premise", "hypothesis"), "MNLI-m"),
    "qnli": (("question", "sentence"), "QNLI"),
    "rte": (("sentence1", "sentence2"), "RTE"),
    "wnli": (("sentence1", "sentence2"), "WNLI"),
}
# The answers to these tasks are submitted as names of labels, the answers to the others as numbers
SUBMITTED_BY_NAME = ("mnli", "qnli", "rte")
EVAL_SPLITS = {"validation": "eval", "validation_matched": "eval", "validation_mismatched": "eval_mm"}
TEST_SPLITS = {"test": "predict", "test_matched": "predict", "test_mismatched": "predict_mm", "ax": "predict_ax"}
REGRESSION, SINGLE_LABEL, MULTI_LABEL = "regression", "single_label_classification", "multi_label_classification"


# Labels


@dataclass
class Labels:
    """
    Says what a model predicts.

    Attributes:
        problem_type: `REGRESSION`, `SINGLE_LABEL` or `MULTI_LABEL`.
        names: the names of the classes in the order of their ids, or, for regression, of the number.
    """

    problem_type: str
    names: list[str]

    def encode(self, label, where):
        """
        Returns the label as a model takes it: a number, the id of a class, or one 0 or 1 per class.

        `where` is what an error calls the row. Raises `UsageError` for a class that training did not see.
        """
        if self.problem_type == REGRESSION:
            return label
        if self.problem_type == MULTI_LABEL:
            ids = {self.class_id(name, where) for name in label}
            return [float(index in ids) for index in range(len(self.names))]
        return self.class_id(label, where)

    def class_id(self, name, where):
        if name not in self.names:
            known = ", ".join(self.names[:10]) + ", ..." * (len(self.names) > 10)
            raise UsageError(f"{where} has the label {name!r}, which training never saw. It saw {known}.")
        return self.names.index(name)


def find_labels(splits, column, config, problem_type=None, is_typed=True, is_learned=True):
    """
    Returns the `Labels` of the data, and a dictionary from each split to its encoded labels.

    A split without labels, such as the test set of a task of GLUE, has None instead of a list. In a test split with some
    labels, the other rows have None.

    Args:
        splits: a dictionary of datasets.
        column: the column of the labels.
        config: the configuration of the checkpoint. If it was fine-tuned, it names its classes.
        problem_type: the type of problem, if not the one that the labels look like.
        is_typed: whether labels have types. The cells of csv and tsv files are strings, also those that hold numbers.
        is_learned: whether the split `train` is trained on, so that its labels are the classes.

    Raises `UsageError` for labels that cannot be learned.
    """
    by_split = {split: read_labels(dataset, split, column) for split, dataset in splits.items()}
    labelled = {split: values for split, values in by_split.items() if values is not None}
    found = [value for values in labelled.values() for value in values if value is not None]
    if problem_type is None:
        problem_type = find_problem_type(found, column, is_typed) if found else problem_type_of(config)
    # A checkpoint that was fine-tuned has names of its own, and not LABEL_0 and LABEL_1
    trained = [config.id2label[index] for index in range(config.num_labels)]
    trained = [] if trained == [f"LABEL_{index}" for index in range(len(trained))] else trained

    size = size_of_indicators(found) if problem_type == MULTI_LABEL else None
    indicated = None
    if size is not None:
        indicated = trained if len(trained) == size else [str(index) for index in range(size)]
    for split, values in labelled.items():
        rows = (f"row {row} of the {split} data" for row in range(1, len(values) + 1))
        by_split[split] = labelled[split] = [
            None if value is None else read_label(value, problem_type, indicated, where)
            for value, where in zip(values, rows, strict=True)
        ]

    if problem_type == REGRESSION:
        names = [column]
    elif is_learned and "train" in splits:
        names = indicated or class_names(splits["train"], column, by_split["train"])
        if set(names) == set(trained):
            names = trained  # so that a head that was trained keeps its meaning
    elif trained:
        names = trained
    else:
        if not found:
            raise UsageError("neither the checkpoint nor the data names the labels: fine-tune with --do_train first.")
        split = next(iter(labelled))
        names = indicated or class_names(splits[split], column, by_split[split])
    if not names:  # all labels are empty lists
        raise UsageError(f"--label_column {column}: no row of the training data has a label.")
    if len(names) < 2 and problem_type == SINGLE_LABEL:
        raise UsageError(f"all training labels are {names[0]!r}, so there is nothing to learn.")
    labels = Labels(problem_type, names)
    for split, values in labelled.items():
        rows = (f"row {row} of the {split} data" for row in range(1, len(values) + 1))
        by_split[split] = [
            None if value is None else labels.encode(value, where) for value, where in zip(values, rows, strict=True)
        ]
    return labels, by_split


def read_labels(dataset, split, column):
    """
    Returns the labels of a split as the data has them, with None for a missing one, or None if no label is there.

    Classes are given by their names. Raises `UsageError` if a label is missing that is needed.
    """
    if split in TEST_SPLITS and column not in dataset.column_names:
        return None
    column = find_column(split, dataset.column_names, column, "label_column")
    feature = dataset.features[column]
    feature = getattr(feature, "feature", feature)  # of the items of a list

    def read(value):
        if isinstance(value, list):
            return [read(item) for item in value]
        if isinstance(feature, datasets.ClassLabel) and value is not None:
            return None if value == -1 else feature.int2str(value)
        if isinstance(value, str):
            return value.strip() or None
        return None if value != value else value  # nan alone is not equal to itself

    labels = [read(value) for value in dataset[column]]
    if split in TEST_SPLITS:
        # The numbers of GLUE's STS-B are -1 in its test set
        return None if all(label in (None, -1) for label in labels) else labels
    missing = [row for row, label in enumerate(labels, start=1) if label is None]
    if len(missing) == len(labels):
        raise UsageError(f"--label_column {column}: no row of the {split} data has a label.")
    if missing:
        raise UsageError(
            f"row {missing[0]} of the {split} data has no label (in all, {len(missing)} rows have none): remove it, or fill"
            " it in."
        )
    return labels


def problem_type_of(config):
    """Returns the type of problem that a model was trained for."""
    return config.problem_type or (REGRESSION if config.num_labels == 1 else SINGLE_LABEL)


def find_problem_type(labels, column, is_typed):
    """Returns the type of problem that all labels together look like: lists, numbers that are no integers, or classes."""
    are_lists = {isinstance(label, list) for label in labels}
    if len(are_lists) > 1:
        raise UsageError(
            f"--label_column {column} holds lists in some rows and single labels in others: make all of them lists."
        )
    if True in are_lists:
        return MULTI_LABEL
    if is_typed:
        are_numbers = all(isinstance(label, int | float) and not isinstance(label, bool) for label in labels)
        return REGRESSION if are_numbers and any(isinstance(label, float) for label in labels) else SINGLE_LABEL
    are_numbers = all(is_number(label) for label in labels)
    return REGRESSION if are_numbers and any(not label.lstrip("+-").isdecimal() for label in labels) else SINGLE_LABEL


def size_of_indicators(labels):
    """
    Returns the number of classes if each label has one 0 or 1 per class, and None otherwise.

    That is what `transformers` takes for several labels per text. A list of names is no such label.
    """
    rows = [split_cell(label) for label in labels]
    sizes = {len(row) for row in rows}
    is_indicated = len(sizes) == 1 and all(not isinstance(item, str) and item in (0, 1) for row in rows for item in row)
    (size,) = sizes if is_indicated else (0,)
    return size if size > 1 else None


def split_cell(label):
    """Returns the labels of a row as a list. A cell of a csv file has them in brackets, or separates them by commas."""
    if not isinstance(label, str):
        return label if isinstance(label, list) else [label]
    if label.startswith("["):
        try:
            return json.loads(label.replace("'", '"'))
        except json.JSONDecodeError:
            pass
    return [item.strip() for item in label.split(",") if item.strip()]


def read_label(label, problem_type, indicated, where):
    """
    Returns a number for regression, the name of a class, or a list of names.

    `indicated` has the names of the classes if labels are one 0 or 1 per class. `where` is what an error calls the row.
    """
    if problem_type == MULTI_LABEL:
        items = split_cell(label)
        if indicated is not None:
            return [name for name, item in zip(indicated, items, strict=True) if item]
        return [class_name(item, where) for item in items]
    if problem_type == SINGLE_LABEL:
        return class_name(label, where)
    try:
        number = float(label)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{where} has the label {label!r}, which is no finite number to regress to.")
    if abs(number) > torch.finfo(torch.float32).max:
        raise UsageError(f"{where} has the label {label!r}, which is too large for float32: divide all labels by a number.")
    return number


def class_name(label, where):
    if label is None or isinstance(label, list | dict):
        raise UsageError(f"{where} has the label {label!r}, which names no class: give a string or an integer.")
    if isinstance(label, float):
        if not label.is_integer():
            raise UsageError(f"{where} has the label {label!r}, a number that names no class: give a string or an integer.")
        return str(int(label))
    return str(label).strip()


def class_of_each(encoded, labels):
    """
    Returns one hashable value per encoded label, by which a part of the data can have its share of each class.

    That is its class, the rarest of its classes, or for regression None.
    """
    if labels.problem_type == MULTI_LABEL:
        counts = np.array(encoded).sum(0)
        return [min(np.flatnonzero(row), key=lambda index: counts[index], default=None) for row in np.array(encoded)]
    return [None] * len(encoded) if labels.problem_type == REGRESSION else list(encoded)


def class_names(dataset, column, labels):
    """Returns the names of the classes: in the order of the dataset, or else sorted, as numbers if all are numbers."""
    feature = next(feature for name, feature in dataset.features.items() if name.strip() == column.strip())
    feature = getattr(feature, "feature", feature)
    if isinstance(feature, datasets.ClassLabel):
        return feature.names
    names = {name for label in labels if label is not None for name in ([label] if isinstance(label, str) else label)}
    try:
        return sorted(names, key=lambda name: (int(name), name))
    except ValueError:
        return sorted(names)


# Predictions


def probabilities(logits, labels):
    """Returns the probability of each class, (rows, classes), or for regression the numbers themselves."""
    logits = torch.as_tensor(logits)
    if labels.problem_type == REGRESSION:
        return logits.numpy()
    return (logits.softmax(-1) if labels.problem_type == SINGLE_LABEL else logits.sigmoid()).numpy()


def decide(logits, labels):
    """Returns the model's answers: numbers, ids of classes, or one 0 or 1 per class."""
    if labels.problem_type == REGRESSION:
        return logits[:, 0]
    return logits.argmax(-1) if labels.problem_type == SINGLE_LABEL else (logits > 0).astype(int)


def make_compute_metrics(metric_name, labels):
    """Returns the function that computes a Trainer's metrics. `metric_name` is a `config_name` of `ClassificationMetrics`."""
    metric = ClassificationMetrics(config_name=metric_name, keep_in_memory=True)

    def compute_metrics(prediction):
        references = prediction.label_ids
        if labels.problem_type == MULTI_LABEL:
            references = references.astype(int)
        metrics = metric.compute(predictions=decide(prediction.predictions, labels), references=references)
        if math.isnan(metrics.get("combined_score", 0.0)):
            # No number is larger than nan, so no later model could be better
            metrics["combined_score"] = 0.0
        return metrics

    return compute_metrics


def write_submission(path, task_name, logits, labels):
    """Writes a file in the format of gluebenchmark.com."""
    answers = decide(logits, labels)
    if labels.problem_type == REGRESSION:
        answers = [f"{answer:.3f}" for answer in answers.clip(0, 5)]
    elif task_name in SUBMITTED_BY_NAME:
        answers = [labels.names[answer] for answer in answers]
    write_table(path, ["index", "prediction"], enumerate(answers), delimiter="\t")


def write_predictions(path, logits, labels):
    """
    Writes a csv file with a line per row of the data: the answer, and the probability of each class. A label that a
    spreadsheet would take for a formula stands after an apostrophe, see `no_formula`.
    """
    answers = decide(logits, labels)
    if labels.problem_type == REGRESSION:
        write_table(path, ["index", "prediction"], enumerate(answers.tolist()))
        return
    chosen = [np.flatnonzero(answer) for answer in answers] if labels.problem_type == MULTI_LABEL else answers[:, None]
    names = [",".join(labels.names[index] for index in indices) for indices in chosen]
    names = map(no_formula, names)
    rows = ([row, name, *map("{:.6f}".format, p)] for row, (name, p) in enumerate(zip(names, probabilities(logits, labels))))
    write_table(path, ["index", "prediction", *(f"p({name})" for name in labels.names)], rows)


def no_formula(cell):
    """
    Returns the text of a cell, with an apostrophe before it if a spreadsheet would take it for a formula: if it begins with
    = + - @, a tab or a carriage return, and is no number. To tell them apart, the same is done with a text that begins with
    apostrophes and then one of these.
    """
    return f"'{cell}" if re.match(r"'*[=+\-@\t\r]", cell) and not is_number(cell) else cell


def write_table(path, header, rows, delimiter=","):
    with open(path, "w", encoding="utf-8", newline="") as file:
        for row in (header, *rows):
            # csv does not quote a carriage return by itself, but a reader takes it for the end of the line
            quoting = csv.QUOTE_ALL if any("\r" in str(cell) for cell in row) else csv.QUOTE_MINIMAL
            csv.writer(file, delimiter=delimiter, lineterminator="\n", quoting=quoting).writerow(row)
    logger.info(f"Predictions written to {path}")
