# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Defines the tasks of GLUE, reads labels, and turns the outputs of a classifier into answers, metrics and files."""

import csv
import math
from dataclasses import dataclass

import datasets
import numpy as np
import torch
import transformers

from .errors import UsageError
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

        `where` is what an error calls the row. Raises `UsageError` for a label that is no number or no known class.
        """
        if self.problem_type == REGRESSION:
            try:
                return float(label)
            except ValueError as error:
                raise UsageError(f"{where} has the label {label!r}, which is no number to regress to.") from error
        if self.problem_type == MULTI_LABEL:
            ids = {self.class_id(name, where) for name in label}
            return [float(index in ids) for index in range(len(self.names))]
        return self.class_id(label, where)

    def class_id(self, name, where):
        if name not in self.names:
            known = ", ".join(self.names[:10]) + ", ..." * (len(self.names) > 10)
            raise UsageError(f"{where} has the label {name!r}, which training never saw. It saw {known}.")
        return self.names.index(name)


def read_labels(dataset, split, column, problem_type, task_name=None):
    """
    Returns the labels of a split as `Labels.encode` takes them: numbers, names, or lists of names.

    Returns None for a split without labels, such as the test sets of GLUE's tasks.
    """
    if column not in dataset.column_names:
        if split in TEST_SPLITS:
            return None
        raise UsageError(f"--label_column {column}: the {split} data has only {', '.join(dataset.column_names)}.")
    feature, labels = dataset.features[column], dataset[column]
    class_labels = getattr(feature, "feature", feature)
    class_labels = class_labels if isinstance(class_labels, datasets.ClassLabel) else None

    def is_missing(label):
        return label is None or label != label or (class_labels is not None and label == -1)  # only nan is not itself

    def name(label):
        if class_labels is not None:
            return class_labels.int2str(label)
        return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label).strip()

    missing = [row for row, label in enumerate(labels) if is_missing(label)]
    if split in TEST_SPLITS and (missing or (task_name is not None and set(labels) == {-1})):
        return None
    if missing:
        raise UsageError(
            f"row {missing[0] + 1} of the {split} data has no label (in all, {len(missing)} rows have none): remove it, or"
            " fill it in. In csv and tsv files NA, nan and None read as empty."
        )
    if problem_type == REGRESSION:
        return list(labels)
    if problem_type == MULTI_LABEL:
        cells = [label.split(",") if isinstance(label, str) else label for label in labels]
        return [[name(label) for label in cell] for cell in cells]
    return [name(label) for label in labels]


def find_problem_type(splits, label_column, config):
    """Returns the type of problem that the labels look like, or, without labels, the one that the model was trained for."""
    labelled = [dataset for dataset in splits.values() if label_column in dataset.column_names]
    if not labelled:
        return config.problem_type or (REGRESSION if config.num_labels == 1 else SINGLE_LABEL)
    feature = labelled[0].features[label_column]
    if hasattr(feature, "feature"):
        return MULTI_LABEL
    return REGRESSION if "float" in feature.dtype else SINGLE_LABEL


def find_labels(splits, label_column, config, problem_type=None, task_name=None):
    """
    Returns the `Labels` of the data, and a dictionary from each split to its encoded labels, or to None
    if it has none.

    Args:
        splits: a dictionary of datasets.
        label_column: the column of the labels.
        config: the configuration of the checkpoint. If it was fine-tuned, it names its classes.
        problem_type: the type of problem, if not the one that the labels look like.
        task_name: the task of GLUE, if it is one.

    Raises `UsageError` for labels that cannot be learned.
    """
    problem_type = problem_type or find_problem_type(splits, label_column, config)
    by_split = {split: read_labels(dataset, split, label_column, problem_type, task_name) for split, dataset in splits.items()}
    # A checkpoint that was fine-tuned has names of its own, and not LABEL_0 and LABEL_1
    trained = [config.id2label[index] for index in range(config.num_labels)]
    trained = [] if trained == [f"LABEL_{index}" for index in range(len(trained))] else trained

    if problem_type == REGRESSION:
        names = [label_column]
    elif "train" in splits:
        names = class_names(splits["train"].features[label_column], by_split["train"])
        if set(names) == set(trained):
            names = trained  # so that a head that was trained keeps its meaning
    elif trained:
        names = trained
    else:
        split = next((split for split in by_split if by_split[split] is not None), None)
        if split is None:
            raise UsageError("neither the checkpoint nor the data names the labels: fine-tune with --do_train first.")
        names = class_names(splits[split].features[label_column], by_split[split])
    if len(names) < 2 and problem_type == SINGLE_LABEL:
        raise UsageError(f"all training labels are {names[0]!r}, so there is nothing to learn.")
    labels = Labels(problem_type, names)
    for split, values in by_split.items():
        if values is not None:
            rows = (f"row {row} of the {split} data" for row in range(1, len(values) + 1))
            by_split[split] = [labels.encode(value, row) for value, row in zip(values, rows)]
    return labels, by_split


def class_names(feature, labels):
    """Returns the names of the classes: in the order of the dataset, or else sorted, as numbers if all are numbers."""
    feature = getattr(feature, "feature", feature)
    if isinstance(feature, datasets.ClassLabel):
        return feature.names
    names = {name for label in labels for name in ([label] if isinstance(label, str) else label)}
    try:
        return sorted(names, key=int)
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
    """Writes a csv file with a line per row of the data: the answer, and the probability of each class."""
    answers = decide(logits, labels)
    if labels.problem_type == REGRESSION:
        write_table(path, ["index", "prediction"], enumerate(answers.tolist()))
        return
    chosen = [np.flatnonzero(answer) for answer in answers] if labels.problem_type == MULTI_LABEL else answers[:, None]
    names = [",".join(labels.names[index] for index in indices) for indices in chosen]
    rows = ([row, name, *map("{:.6f}".format, p)] for row, (name, p) in enumerate(zip(names, probabilities(logits, labels))))
    write_table(path, ["index", "prediction", *(f"p({name})" for name in labels.names)], rows)


def write_table(path, header, rows, delimiter=","):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    logger.info(f"Predictions written to {path}")
