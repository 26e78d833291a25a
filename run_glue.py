#!/usr/bin/env python
# Copyright 2026 The transformers-linformer authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""
Fine-tune a Linformer (or any other encoder) to classify texts: a task of GLUE, a dataset, or files of your own.

    python run_glue.py --model_name_or_path linformer-demo --task_name sst2 --do_train --do_eval --output_dir sst2
    python run_glue.py --model_name_or_path linformer-demo --train_file reviews.csv --do_train --do_eval --output_dir reviews
    python run_glue.py --help
    python run_glue.py arguments.json

Started again with the same command, a run that was killed goes on from its last complete checkpoint.
"""

import csv
import difflib
import math
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import evaluate
import numpy as np
import torch
import transformers
from datasets import Dataset, DatasetDict
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    TrainingArguments,
    set_seed,
)

import run_common
from classification_metrics.classification_metrics import best_metric
from run_common import BadInput, DataArguments, ModelArguments, ScriptTrainer


logger = transformers.utils.logging.get_logger("transformers.run_glue")

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
# These are submitted by the names of their labels, the others by numbers
SUBMITTED_BY_NAME = ("mnli", "qnli", "rte")
EVAL_SPLITS = {"validation": "eval", "validation_matched": "eval", "validation_mismatched": "eval_mm"}
TEST_SPLITS = {"test": "predict", "test_matched": "predict", "test_mismatched": "predict_mm", "ax": "predict_ax"}
FILE_TYPES = ("csv", "tsv", "json", "jsonl")
REGRESSION, SINGLE_LABEL, MULTI_LABEL = "regression", "single_label_classification", "multi_label_classification"


@dataclass
class ClassifierArguments(ModelArguments):
    """Which model to fine-tune."""

    ignore_mismatched_sizes: bool = field(
        default=False,
        metadata={"help": "Whether to start with a new head where the checkpoint's has another number of labels."},
    )


@dataclass
class TaskArguments(DataArguments):
    """What to learn: a task of GLUE, or texts and labels of your own."""

    task_name: str | None = field(default=None, metadata={"help": f"A task of GLUE: {', '.join(GLUE_TASKS)}."})
    test_file: str | None = field(default=None, metadata={"help": "A file to predict, of the same type."})
    label_column: str = field(default="label", metadata={"help": "The column of the labels."})
    problem_type: str | None = field(
        default=None,
        metadata={
            "help": "What the labels are, if not as they look: floats are for regression, lists hold several labels, all"
            " others are classes. A multi-label cell of a csv or tsv file separates its labels by commas.",
            "choices": [REGRESSION, SINGLE_LABEL, MULTI_LABEL],
        },
    )
    max_predict_samples: int | None = field(default=None, metadata={"help": "Predict the first so many only."})

    def __post_init__(self):
        super().__post_init__()
        if self.task_name is not None:
            self.task_name = self.task_name.lower()
            if self.task_name not in GLUE_TASKS:
                close = difflib.get_close_matches(self.task_name, GLUE_TASKS, n=1)
                hint = f" Did you mean {close[0]}?" if close else ""
                raise BadInput(f"--task_name {self.task_name} is none of {', '.join(GLUE_TASKS)}.{hint}")
        if self.max_predict_samples is not None and self.max_predict_samples < 1:
            raise BadInput(f"--max_predict_samples is {self.max_predict_samples}; it must be at least 1.")


@dataclass
class FineTuningArguments(TrainingArguments):
    """With --eval_strategy, the best model is kept, and checkpoints are written whenever it evaluates."""

    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after so many evaluations in a row without a better model."}
    )

    def __post_init__(self):
        if getattr(self.eval_strategy, "value", self.eval_strategy) != "no":
            self.load_best_model_at_end = True
            self.save_strategy = self.eval_strategy
            self.save_steps = self.eval_steps or self.logging_steps
            # To be replaced by the task's, which is not known here
            self.metric_for_best_model = self.metric_for_best_model or "metric of the task"
        elif self.early_stopping_patience is not None:
            raise BadInput("--early_stopping_patience needs evaluations: give --eval_strategy epoch, or steps.")
        super().__post_init__()


# Texts


def load_data(data_args, model_args, training_args):
    """The splits that are needed, named as in EVAL_SPLITS and TEST_SPLITS, or `train`."""
    files = {name: getattr(data_args, name) for name in ("train_file", "validation_file", "test_file")}
    if data_args.task_name is not None:
        if any(files.values()):
            raise BadInput("--task_name goes with --dataset_name, not with files of your own: leave it out.")
        data_args.dataset_name = data_args.dataset_name or "nyu-mll/glue"
        data_args.dataset_config_name = data_args.task_name
    elif data_args.dataset_name is None and not any(files.values()):
        raise BadInput("there is no data: give --task_name, --dataset_name, or --train_file.")
    raw = run_common.load_raw_datasets(data_args, model_args, files, FILE_TYPES)

    def lacking(option, data):
        file = {"--do_train": "train_file", "--do_eval": "validation_file", "--do_predict": "test_file"}[option]
        cure = f"give --{file}" if data_args.dataset_name is None else f"leave out {option}"
        return BadInput(f"{option} needs {data}, but there is only {', '.join(raw)}: {cure}.")

    if training_args.do_train and "train" not in raw:
        raise lacking("--do_train", "training data")
    if training_args.do_eval and not EVAL_SPLITS.keys() & raw.keys():
        if "train" not in raw:
            raise lacking("--do_eval", "labelled data")
        percentage = data_args.validation_split_percentage
        logger.warning(f"There is no validation data, so {percentage} % of the training data are held out for it")
        raw["train"], raw["validation"] = run_common.split_off_validation(raw["train"], percentage, training_args.seed)
    if training_args.do_predict:
        if data_args.task_name == "mnli":
            add_diagnostic_set(raw, data_args, model_args)
        if not TEST_SPLITS.keys() & raw.keys():
            raise lacking("--do_predict", "data to predict")

    wanted = ["train"] * training_args.do_train
    wanted += list(EVAL_SPLITS) * training_args.do_eval + list(TEST_SPLITS) * training_args.do_predict
    limits = {"train": data_args.max_train_samples}
    limits |= dict.fromkeys(EVAL_SPLITS, data_args.max_eval_samples)
    limits |= dict.fromkeys(TEST_SPLITS, data_args.max_predict_samples)
    raw = DatasetDict({split: raw[split] for split in wanted if split in raw})
    for split in raw:
        if limits[split] is not None:
            raw[split] = raw[split].take(limits[split])
        if len(raw[split]) == 0:
            raise BadInput(f"the {split} data has no rows.")
    return raw


def add_diagnostic_set(raw, data_args, model_args):
    """AX, GLUE's diagnostic set, which a model of MNLI predicts."""
    diagnostic = TaskArguments(dataset_name=data_args.dataset_name, dataset_config_name="ax")
    try:
        raw["ax"] = run_common.load_raw_datasets(diagnostic, model_args, {}, FILE_TYPES)["test"]
    except BadInput as error:
        logger.warning(f"GLUE's diagnostic set is left out ({error})")


def find_text_columns(raw, data_args):
    """The columns that hold the text, one or two: by default all columns of text."""
    if data_args.task_name is not None:
        return GLUE_TASKS[data_args.task_name][0]
    if data_args.text_column is not None:
        for split in raw:
            run_common.check_columns(split, raw[split].column_names, data_args.text_column)
        return tuple(data_args.text_column)
    features = next(iter(raw.values())).features
    found = [
        column
        for column, feature in features.items()
        if column != data_args.label_column and getattr(feature, "dtype", None) in ("string", "large_string")
    ]
    if not 1 <= len(found) <= 2:
        raise BadInput(f"which columns hold the text? Give --text_column with one or two of {', '.join(features)}.")
    return tuple(found)


def tokenize(split, dataset, columns, tokenizer, max_seq_length, data_args, training_args):
    def encode(batch):
        texts = [["" if text is None else str(text) for text in batch[column]] for column in columns]
        encoded = tokenizer(*texts, verbose=False)
        lengths = [len(input_ids) for input_ids in encoded["input_ids"]]
        if max(lengths) > max_seq_length:
            encoded = tokenizer(*texts, truncation=True, max_length=max_seq_length)
        return {**encoded, "length": lengths}

    with training_args.main_process_first(desc=f"tokenizing {split}"):
        encoded = dataset.map(
            encode,
            batched=True,
            remove_columns=[column for column in dataset.column_names if column != "labels"],
            num_proc=data_args.preprocessing_num_workers,
            load_from_cache_file=not data_args.overwrite_cache,
            desc=f"Tokenizing {split}",
        )
    lengths = np.array(encoded["length"])
    logger.info(f"{split}: {len(encoded)} examples of {lengths.mean():.0f} tokens on average, {lengths.max()} at most")
    if (lengths > max_seq_length).any():
        cut = (lengths > max_seq_length).sum()
        logger.warning(f"{cut} of {len(encoded)} {split} examples are longer than {max_seq_length} tokens: they are cut")
    return encoded.remove_columns("length")


# Labels


@dataclass
class Labels:
    """What a model is to predict: for regression a number, or else classes with these names, by their ids."""

    problem_type: str
    names: list[str]

    def encode(self, label, where):
        """The label as a model takes it: a number, a class's id, or a 0 or 1 for each class."""
        if self.problem_type == REGRESSION:
            try:
                return float(label)
            except ValueError as error:
                raise BadInput(f"{where} has the label {label!r}, which is no number to regress to.") from error
        if self.problem_type == MULTI_LABEL:
            ids = {self.class_id(name, where) for name in label}
            return [float(index in ids) for index in range(len(self.names))]
        return self.class_id(label, where)

    def class_id(self, name, where):
        if name not in self.names:
            known = ", ".join(self.names[:10]) + ", ..." * (len(self.names) > 10)
            raise BadInput(f"{where} has the label {name!r}, which training never saw. It saw {known}.")
        return self.names.index(name)


def read_labels(dataset, split, data_args, problem_type):
    """
    The labels of a split as the Labels know them: numbers, names, or lists of names.

    None where the split has none, as the test sets of GLUE.
    """
    column = data_args.label_column
    if column not in dataset.column_names:
        if split in TEST_SPLITS:
            return None
        raise BadInput(f"--label_column {column}: the {split} data has only {', '.join(dataset.column_names)}.")
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
    if split in TEST_SPLITS and (missing or (data_args.task_name is not None and set(labels) == {-1})):
        return None
    if missing:
        raise BadInput(
            f"row {missing[0] + 1} of the {split} data has no label ({len(missing)} rows in all): remove it, or fill it in."
            " In csv and tsv files NA, nan and None read as empty."
        )
    if problem_type == REGRESSION:
        return list(labels)
    if problem_type == MULTI_LABEL:
        cells = [label.split(",") if isinstance(label, str) else label for label in labels]
        return [[name(label) for label in cell] for cell in cells]
    return [name(label) for label in labels]


def find_problem_type(raw, data_args, config):
    """As it is told, or as the labels look, or, where there are none, as the model was trained."""
    if data_args.problem_type is not None:
        return data_args.problem_type
    labelled = [dataset for dataset in raw.values() if data_args.label_column in dataset.column_names]
    if not labelled:
        return config.problem_type or (REGRESSION if config.num_labels == 1 else SINGLE_LABEL)
    feature = labelled[0].features[data_args.label_column]
    if hasattr(feature, "feature"):
        return MULTI_LABEL
    return REGRESSION if "float" in feature.dtype else SINGLE_LABEL


def find_labels(raw, data_args, config):
    """The Labels of the data, and each split's own, encoded, or None."""
    problem_type = find_problem_type(raw, data_args, config)
    by_split = {split: read_labels(dataset, split, data_args, problem_type) for split, dataset in raw.items()}
    # A checkpoint that was fine-tuned has names of its own, not LABEL_0 and LABEL_1
    trained = [config.id2label[index] for index in range(config.num_labels)]
    trained = [] if trained == [f"LABEL_{index}" for index in range(len(trained))] else trained

    if problem_type == REGRESSION:
        names = [data_args.label_column]
    elif "train" in raw:
        names = class_names(raw["train"].features[data_args.label_column], by_split["train"])
        if set(names) == set(trained):
            names = trained  # so that a head already trained keeps its meaning
    elif trained:
        names = trained
    else:
        split = next((split for split in by_split if by_split[split] is not None), None)
        if split is None:
            raise BadInput("neither the checkpoint nor the data names the labels: fine-tune with --do_train first.")
        names = class_names(raw[split].features[data_args.label_column], by_split[split])
    if len(names) < 2 and problem_type == SINGLE_LABEL:
        raise BadInput(f"all training labels are {names[0]!r}, so there is nothing to learn.")
    labels = Labels(problem_type, names)
    for split, values in by_split.items():
        if values is not None:
            rows = (f"row {row} of the {split} data" for row in range(1, len(values) + 1))
            by_split[split] = [labels.encode(value, row) for value, row in zip(values, rows)]
    return labels, by_split


def class_names(feature, labels):
    """In the dataset's own order, or else sorted, as numbers where all are."""
    feature = getattr(feature, "feature", feature)
    if isinstance(feature, datasets.ClassLabel):
        return feature.names
    names = {name for label in labels for name in ([label] if isinstance(label, str) else label)}
    try:
        return sorted(names, key=int)
    except ValueError:
        return sorted(names)


def set_labels(config, labels):
    config.problem_type = labels.problem_type
    config.id2label = dict(enumerate(labels.names))
    config.label2id = {name: index for index, name in enumerate(labels.names)}


# Measures and predictions


def probabilities(logits, labels):
    """Of each class, (rows, classes); for regression the numbers themselves."""
    logits = torch.as_tensor(logits)
    if labels.problem_type == REGRESSION:
        return logits.numpy()
    return (logits.softmax(-1) if labels.problem_type == SINGLE_LABEL else logits.sigmoid()).numpy()


def decide(logits, labels):
    """The model's answers: numbers, classes' ids, or a 0 or 1 for each class."""
    if labels.problem_type == REGRESSION:
        return logits[:, 0]
    return logits.argmax(-1) if labels.problem_type == SINGLE_LABEL else (logits > 0).astype(int)


def make_compute_metrics(metric_name, labels):
    metric = evaluate.load(str(Path(__file__).parent / "classification_metrics"), metric_name, keep_in_memory=True)

    def compute_metrics(prediction):
        references = prediction.label_ids
        if labels.problem_type == MULTI_LABEL:
            references = references.astype(int)
        metrics = metric.compute(predictions=decide(prediction.predictions, labels), references=references)
        if math.isnan(metrics.get("combined_score", 0.0)):
            # Nothing compares with nan, so no later model could be better
            metrics["combined_score"] = 0.0
        return metrics

    return compute_metrics


def write_submission(path, task_name, logits, labels):
    """A file in the format of gluebenchmark.com."""
    answers = decide(logits, labels)
    if labels.problem_type == REGRESSION:
        answers = [f"{answer:.3f}" for answer in answers.clip(0, 5)]
    elif task_name in SUBMITTED_BY_NAME:
        answers = [labels.names[answer] for answer in answers]
    write_table(path, ["index", "prediction"], enumerate(answers), delimiter="\t")


def write_predictions(path, logits, labels):
    """A csv file with a line for each row of the data: the answer, and the probability of each class."""
    answers = decide(logits, labels)
    if labels.problem_type == REGRESSION:
        return write_table(path, ["index", "prediction"], enumerate(answers.tolist()))
    chosen = [np.flatnonzero(answer) for answer in answers] if labels.problem_type == MULTI_LABEL else answers[:, None]
    names = [",".join(labels.names[index] for index in indices) for indices in chosen]
    rows = ([row, name, *map("{:.6f}".format, p)] for row, (name, p) in enumerate(zip(names, probabilities(logits, labels))))
    return write_table(path, ["index", "prediction", *(f"p({name})" for name in labels.names)], rows)


def write_table(path, header, rows, delimiter=","):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    logger.info(f"Predictions written to {path}")


# The run


def check_arguments(model_args, training_args):
    if not (training_args.do_train or training_args.do_eval or training_args.do_predict):
        raise BadInput("there is nothing to do: give --do_train, --do_eval, --do_predict, or several of them.")
    if not (model_args.model_name_or_path or model_args.config_name or model_args.config_overrides):
        raise BadInput("which model? Give --model_name_or_path, or, from scratch, --config_name or --config_overrides.")


def main(argv):
    argument_classes = (ClassifierArguments, TaskArguments, FineTuningArguments)
    model_args, data_args, training_args = run_common.parse_arguments(
        argv, argument_classes, description=__doc__.strip().splitlines()[0]
    )
    check_arguments(model_args, training_args)
    run_common.set_up_logging(training_args)
    set_seed(training_args.seed)

    # Each step below may refuse, and does so before the long work begins.
    config, hub = run_common.load_config(model_args)
    checkpoint = run_common.checkpoint_to_resume(training_args)
    raw = load_data(data_args, model_args, training_args)
    columns = find_text_columns(raw, data_args)
    labels, labels_by_split = find_labels(raw, data_args, config)
    logger.info(
        f"Texts from {' and '.join(columns)}, labels from {data_args.label_column}: {labels.problem_type}"
        + ("" if labels.problem_type == REGRESSION else f" with {', '.join(labels.names)}")
    )
    set_labels(config, labels)
    texts = None
    if "train" in raw and not (model_args.model_name_or_path or model_args.tokenizer_name):  # to train a tokenizer on
        texts = Dataset.from_dict({"text": [text for column in columns for text in raw["train"][column]]})
    tokenizer = run_common.load_tokenizer(checkpoint, texts, config, model_args, training_args, hub)
    if model_args.model_name_or_path is None:
        config = run_common.with_vocabulary(config, tokenizer, model_args)
    max_seq_length = run_common.find_max_seq_length(data_args, config, tokenizer)
    run_common.check_same_model(config, len(tokenizer), training_args, checkpoint)

    examples = {}
    for split, dataset in raw.items():
        dataset = dataset.select_columns(list(columns))
        if labels_by_split[split] is not None:
            dataset = dataset.add_column("labels", labels_by_split[split])
        examples[split] = tokenize(split, dataset, columns, tokenizer, max_seq_length, data_args, training_args)
    evaluated = {split: examples[split] for split in EVAL_SPLITS if split in examples}

    metric_name = data_args.task_name or labels.problem_type
    if training_args.metric_for_best_model == "metric of the task":
        training_args.metric_for_best_model, training_args.greater_is_better = best_metric(metric_name)
    callbacks = []
    if training_args.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(training_args.early_stopping_patience))

    set_seed(training_args.seed)
    head = {"ignore_mismatched_sizes": model_args.ignore_mismatched_sizes}
    model = run_common.load_model(AutoModelForSequenceClassification, config, model_args, hub, **head)
    trainer = ScriptTrainer(
        model=model,
        args=training_args,
        train_dataset=examples.get("train"),
        eval_dataset=next(iter(evaluated.values()), None),
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer, **run_common.padding(data_args, max_seq_length)),
        compute_metrics=make_compute_metrics(metric_name, labels),
        preprocess_logits_for_metrics=lambda logits, _: logits[0] if isinstance(logits, tuple) else logits,
        callbacks=callbacks,
        task="text-classification",
        example=usage_example(columns),
        model_args=model_args,
        data_args=data_args,
    )

    if training_args.do_train:
        run_common.train(trainer, checkpoint)
    metrics = {}
    for split, dataset in evaluated.items():
        metrics |= trainer.evaluate(dataset, metric_key_prefix=EVAL_SPLITS[split])
    if metrics:
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    for split, prefix in TEST_SPLITS.items():
        if split in examples:
            predict(trainer, split, prefix, examples[split], data_args, labels)
    if training_args.do_train:
        run_common.write_model_card(trainer)


def usage_example(columns):
    texts = ("This is a sentence.", "This is another.")
    return texts[0] if len(columns) == 1 else dict(zip(("text", "text_pair"), texts))


def predict(trainer, split, prefix, examples, data_args, labels):
    output = trainer.predict(examples, metric_key_prefix=prefix)
    if "labels" in examples.column_names:
        trainer.log_metrics(prefix, output.metrics)
        trainer.save_metrics(prefix, output.metrics)
    if not trainer.is_world_process_zero():
        return
    folder = Path(trainer.args.output_dir)
    if data_args.task_name is None:
        write_predictions(folder / "predictions.csv", output.predictions, labels)
    else:
        names = {"test_mismatched": "MNLI-mm", "ax": "AX"}
        file = names.get(split, GLUE_TASKS[data_args.task_name][1])
        write_submission(folder / f"{file}.tsv", data_args.task_name, output.predictions, labels)


if __name__ == "__main__":
    run_common.run("run_glue.py", main)
