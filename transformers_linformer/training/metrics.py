# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Computes the metrics of GLUE (Wang et al., 2018, table 1), and of classification and regression in general, as a metric of
`evaluate` that needs no connection:

    metric = ClassificationMetrics(config_name="mrpc")
    metric = evaluate.load(transformers_linformer.training.metrics.__file__, "mrpc")  # is the same
    metric.compute(predictions=[1, 0], references=[1, 1])
"""

import math
import warnings

import datasets
import evaluate
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, mean_squared_error


def accuracy(predictions, references):
    return {"accuracy": float(accuracy_score(references, predictions))}


def accuracy_and_f1(predictions, references):
    return accuracy(predictions, references) | {"f1": float(f1_score(references, predictions, zero_division=0.0))}


def matthews(predictions, references):
    return {"matthews_correlation": float(matthews_corrcoef(references, predictions))}


def correlations(predictions, references):
    if len(predictions) < 2:
        return {"pearson": math.nan, "spearmanr": math.nan}
    return {
        "pearson": float(pearsonr(predictions, references)[0]),
        "spearmanr": float(spearmanr(predictions, references)[0]),
    }


def single_label(predictions, references):
    """Returns accuracy, and the mean of the F1 of all classes."""
    f1 = f1_score(references, predictions, average="macro", zero_division=0.0)
    return accuracy(predictions, references) | {"f1": float(f1)}


def multi_label(predictions, references):
    """
    Returns, for one 0 or 1 per class: the part of the rows that are right as a whole (accuracy), the F1 over all cells
    (micro) and the mean of the F1 of all classes (macro).
    """
    f1 = {name: f1_score(references, predictions, average=name, zero_division=0.0) for name in ("micro", "macro")}
    return accuracy(predictions, references) | {f"f1_{name}": float(value) for name, value in f1.items()}


def regression(predictions, references):
    return {"mse": float(mean_squared_error(references, predictions))} | correlations(predictions, references)


METRICS = {
    "cola": matthews,
    "sst2": accuracy,
    "mrpc": accuracy_and_f1,
    "qqp": accuracy_and_f1,
    "stsb": correlations,
    "mnli": accuracy,
    "qnli": accuracy,
    "rte": accuracy,
    "wnli": accuracy,
    "ax": matthews,
    "single_label_classification": single_label,
    "multi_label_classification": multi_label,
    "regression": regression,
}
COMBINED = ("mrpc", "qqp", "stsb")

# The metric that tells which of two models is better
BEST = {
    "cola": "matthews_correlation",
    **dict.fromkeys(COMBINED, "combined_score"),
    "regression": "mse",
    "multi_label_classification": "f1_micro",
}


def best_metric(config_name):
    """Returns the name of the metric that models are compared by."""
    return BEST.get(config_name, "accuracy")


def metric_names(config_name):
    """Returns the names of the metrics of one entry of `METRICS`."""
    examples = [[0, 1], [1, 0]] if config_name == "multi_label_classification" else [0, 1]
    return list(ClassificationMetrics(config_name, keep_in_memory=True).compute(predictions=examples, references=examples))


class ClassificationMetrics(evaluate.Metric):
    """Computes the metrics of one entry of `METRICS`, which is named by `config_name`."""

    def _info(self):
        if self.config_name not in METRICS:
            raise KeyError(f"There are metrics for {', '.join(METRICS)}, not for {self.config_name!r}.")
        value = datasets.Value("float64" if self.config_name in ("stsb", "regression") else "int64")
        if self.config_name == "multi_label_classification":
            value = datasets.List(value)
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            features=datasets.Features({"predictions": value, "references": value}),
        )

    def _compute(self, predictions, references):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constant predictions are no mistake, and undefined metrics are nan
            metrics = METRICS[self.config_name](predictions, references)
        if self.config_name in COMBINED:
            metrics["combined_score"] = sum(metrics.values()) / len(metrics)
        return metrics
