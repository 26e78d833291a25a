# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Fine-tune a Linformer (or any other encoder) to classify texts: a task of GLUE, a dataset, or files of your own.

    linformer-glue --model_name_or_path linformer-demo --task_name sst2 --do_train --do_eval --output_dir sst2
    linformer-glue --model_name_or_path linformer-demo --train_file reviews.csv --do_train --do_eval --output_dir reviews
    linformer-glue --help
    linformer-glue arguments.json

In a checkout, `python run_glue.py` is the same command. When a run is killed, the same command continues it from its last
complete checkpoint.
"""

import difflib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import transformers
from datasets import Dataset, DatasetDict
from datasets.fingerprint import Hasher
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    EvalPrediction,
    TrainingArguments,
    set_seed,
)

from ..arguments import run_command
from ..errors import UsageError
from ..tokenization import identity_of, vocabulary_size
from ..training import steps
from ..training.arguments import DataArguments, ModelArguments, check_best_metric, parse_training_arguments, set_up_logging
from ..training.classification import (
    EVAL_SPLITS,
    GLUE_TASKS,
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    TEST_SPLITS,
    class_of_each,
    find_labels,
    make_compute_metrics,
    write_predictions,
    write_submission,
)
from ..training.data import check_source, find_text_columns, hold_out_of_each_class, read_dataset, read_files
from ..training.metrics import best_metric, metric_names
from ..training.run_record import begin_run, output_folder
from ..training.text import shortened
from ..training.trainer import LinformerTrainer, finish, padding


logger = transformers.utils.logging.get_logger("transformers.linformer.glue")

FILE_TYPES = ("csv", "tsv", "json", "jsonl")
# GLUE's name on the Hub
GLUE = "nyu-mll/glue"
METRIC_OF_THE_TASK = "metric of the task"
# What the columns of the text are called once they are found
TEXTS = ("text", "text_pair")


@dataclass
class ClassifierArguments(ModelArguments):
    """Says which model to fine-tune."""

    ignore_mismatched_sizes: bool = field(
        default=False,
        metadata={"help": "Whether to start with a new head where the checkpoint's has another number of labels."},
    )


@dataclass
class TaskArguments(DataArguments):
    """Says what to learn: a task of GLUE, or texts and labels of your own."""

    task_name: str | None = field(default=None, metadata={"help": f"A task of GLUE: {', '.join(GLUE_TASKS)}."})
    test_file: str | None = field(default=None, metadata={"help": "A file to predict, of the same type."})
    label_column: str = field(default="label", metadata={"help": "The column of the labels."})
    problem_type: str | None = field(
        default=None,
        metadata={
            "help": "The type of problem, if not the one that the labels look like: floats are for regression, lists hold"
            " several labels, and all others are classes. In a cell of a csv or tsv file, commas separate several labels.",
            "choices": [REGRESSION, SINGLE_LABEL, MULTI_LABEL],
        },
    )
    max_predict_samples: int | None = field(default=None, metadata={"help": "Predict only this many rows, the first."})

    @property
    def files(self):
        """Returns a dictionary from arguments to the files that they name."""
        return {name: getattr(self, name) for name in ("train_file", "validation_file", "test_file")}

    def __post_init__(self):
        super().__post_init__()
        if self.task_name is not None:
            self.task_name = self.task_name.lower()
            if self.task_name not in GLUE_TASKS:
                close = difflib.get_close_matches(self.task_name, GLUE_TASKS, n=1)
                hint = f" Did you mean {close[0]}?" if close else ""
                raise UsageError(f"--task_name {self.task_name} is none of {', '.join(GLUE_TASKS)}.{hint}")
        if self.max_predict_samples is not None and self.max_predict_samples < 1:
            raise UsageError(f"--max_predict_samples is {self.max_predict_samples}; it must be at least 1.")


@dataclass
class FineTuningArguments(TrainingArguments):
    """With --eval_strategy, the best model is kept, and checkpoints are written whenever it evaluates."""

    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after this many evaluations in a row without a better model."}
    )

    def __post_init__(self):
        if getattr(self.eval_strategy, "value", self.eval_strategy) != "no":
            self.load_best_model_at_end = True
            self.save_strategy = self.eval_strategy
            self.save_steps = self.eval_steps or self.logging_steps
            # This stands for the metric of the task, which is not known here
            self.metric_for_best_model = self.metric_for_best_model or METRIC_OF_THE_TASK
        elif self.early_stopping_patience is not None:
            raise UsageError("--early_stopping_patience needs evaluations: give --eval_strategy epoch, or steps.")
        super().__post_init__()


def read_splits(data_args, training_args, **options):
    """
    Returns the splits that are needed: `train`, and others by their names in EVAL_SPLITS and TEST_SPLITS.

    `train` is also needed where a part of it is to be held out. `options` are those of `datasets.load_dataset`.
    """
    name, config_name, task = data_args.dataset_name, data_args.dataset_config_name, data_args.task_name
    if task is not None:
        if any(data_args.files.values()):
            raise UsageError("--task_name goes with --dataset_name, not with files of your own: leave it out.")
        name, config_name = name or GLUE, task
    check_source(name, data_args.files)
    if name is not None:
        splits = read_dataset(name, config_name, **options)
    elif any(data_args.files.values()):
        options.pop("token")
        splits = read_files(data_args.files, FILE_TYPES, **options)
    else:
        raise UsageError("there is no data: give --task_name, --dataset_name, or --train_file.")

    wanted = ["train"] * training_args.do_train
    if training_args.do_train and "train" not in splits:
        raise lacks(splits, "--do_train", "training data", name)
    if training_args.do_eval:
        evaluated = [split for split in EVAL_SPLITS if split in splits]
        if not evaluated and "train" not in splits:
            raise lacks(splits, "--do_eval", "labelled data", name)
        wanted += evaluated or ["train"]
    if training_args.do_predict:
        if task == "mnli":
            try:  # GLUE's diagnostic set is predicted by a model of MNLI
                splits["ax"] = read_dataset(name, "ax", **options)["test"]
            except UsageError as error:
                logger.warning(f"GLUE's diagnostic set is left out ({error})")
        if not TEST_SPLITS.keys() & splits.keys():
            raise lacks(splits, "--do_predict", "data to predict", name)
        wanted += list(TEST_SPLITS)
    splits = DatasetDict({split: splits[split] for split in wanted if split in splits})
    for split in splits:
        if len(splits[split]) == 0:
            raise UsageError(f"the {split} data has no rows.")
    return splits


def lacks(splits, option, data, dataset_name):
    """Returns the error that says that an option needs data which is not among the splits."""
    file = {"--do_train": "train_file", "--do_eval": "validation_file", "--do_predict": "test_file"}[option]
    cure = f"give --{file}" if dataset_name is None else f"leave out {option}"
    return UsageError(f"{option} needs {data}, but there is only {', '.join(splits)}: {cure}.")


def find_texts(splits, data_args):
    """Returns the columns of the text, one or two, and the splits, in all of which they have these names."""
    asked = GLUE_TASKS[data_args.task_name][0] if data_args.task_name is not None else data_args.text_column
    columns, renamed = None, {}
    for split, dataset in splits.items():
        found = find_text_columns(split, dataset, columns or asked, data_args.label_column)
        if (label := data_args.label_column.strip()) in map(str.strip, found):
            raise UsageError(f"--text_column and --label_column both name {label}: give each a column of its own.")
        columns = columns or found
        names = {name: column for name, column in zip(found, columns, strict=True) if name != column}
        renamed[split] = dataset.rename_columns(names)
    return columns, renamed


def choose_rows(splits, labels, data_args, training_args):
    """
    Holds out a part of the training data if there is nothing else to evaluate on, and takes the first rows of each split.

    `splits` have a column `labels`, and `labels` are the `Labels`.
    """
    if training_args.do_eval and not EVAL_SPLITS.keys() & splits.keys():
        part = data_args.validation_split_percentage
        logger.warning(f"There is no validation data, so {part} % of the training data are held out for it")
        classes = class_of_each(splits["train"]["labels"], labels)
        held_out = hold_out_of_each_class(splits["train"], classes, part, training_args.seed)
        splits = splits | dict(zip(("train", "validation"), held_out, strict=True))
    if not training_args.do_train:
        splits = {split: dataset for split, dataset in splits.items() if split != "train"}
    limits = {"train": data_args.max_train_samples}
    limits |= dict.fromkeys(EVAL_SPLITS, data_args.max_eval_samples)
    limits |= dict.fromkeys(TEST_SPLITS, data_args.max_predict_samples)
    return {split: dataset.take(limits[split] or len(dataset)) for split, dataset in splits.items()}


def tokenize(split, dataset, columns, tokenizer, max_seq_length, **map_kwargs):
    """
    Returns the dataset with its texts tokenized and cut. The log says how many are cut or empty.

    All columns but `labels` are texts. `columns` are their names in the data.
    """
    removed = [column for column in dataset.column_names if column != "labels"]

    def encode(batch):
        texts = [["" if text is None else str(text) for text in batch[column]] for column in removed]
        encoded = tokenizer(*texts, verbose=False)
        lengths = [len(input_ids) for input_ids in encoded["input_ids"]]
        if max(lengths) > max_seq_length:
            encoded = tokenizer(*texts, truncation=True, max_length=max_seq_length)
        return {**encoded, "length": lengths, "is_empty": [not any(map(str.strip, row)) for row in zip(*texts)]}

    fingerprint = Hasher.hash((dataset._fingerprint, columns, identity_of(tokenizer), max_seq_length))
    map_kwargs |= {"remove_columns": removed, "new_fingerprint": fingerprint, "desc": f"Tokenizing {split}"}
    encoded = dataset.map(encode, batched=True, **map_kwargs)
    lengths, empty = np.array(encoded["length"]), sum(encoded["is_empty"])
    if empty == len(encoded):
        raise UsageError(f"--text_column {' '.join(columns)}: no row of the {split} data has text there.")
    logger.info(f"{split}: {len(encoded)} examples of {lengths.mean():.0f} tokens on average, {lengths.max()} at most")
    logger.info(f"{split}: the first one is {shortened(tokenizer.decode(encoded[0]['input_ids']))}")
    if empty:
        logger.warning(f"{empty} of {len(encoded)} {split} examples have no text")
    if (lengths > max_seq_length).any():
        cut = (lengths > max_seq_length).sum()
        logger.warning(f"{cut} of {len(encoded)} {split} examples are longer than {max_seq_length} tokens: they are cut")
    return encoded.remove_columns(["length", "is_empty"])


def check_arguments(model_args, training_args):
    if not (training_args.do_train or training_args.do_eval or training_args.do_predict):
        raise UsageError("there is nothing to do: give --do_train, --do_eval, --do_predict, or several of them.")
    if not (model_args.model_name_or_path or model_args.config_name or model_args.config_overrides):
        raise UsageError("which model? Give --model_name_or_path, or, from scratch, --config_name or --config_overrides.")


def main(argv):
    argument_classes = (ClassifierArguments, TaskArguments, FineTuningArguments)
    model_args, data_args, training_args = parse_training_arguments(argv, argument_classes, __doc__.strip().splitlines()[0])
    check_arguments(model_args, training_args)
    with output_folder(training_args):
        fine_tune(model_args, data_args, training_args)


def fine_tune(model_args, data_args, training_args):
    """Trains, evaluates and predicts, as the arguments say."""
    set_up_logging(training_args)
    set_seed(training_args.seed)

    # Each of these steps may raise `UsageError`, and does so before the long work begins
    config = steps.config_of(model_args)
    checkpoint = steps.find_checkpoint(training_args)
    splits = read_splits(data_args, training_args, cache_dir=model_args.cache_dir, token=model_args.token)
    columns, splits = find_texts(splits, data_args)
    labels, labels_by_split = find_labels(
        splits,
        data_args.label_column,
        config,
        data_args.problem_type,
        is_typed=not any(str(path).endswith((".csv", ".tsv")) for path in data_args.files.values()),
        is_learned=training_args.do_train,
    )
    if training_args.label_smoothing_factor and labels.problem_type != SINGLE_LABEL:
        raise UsageError(
            f"--label_smoothing_factor {training_args.label_smoothing_factor} is for single classes, and the labels are for"
            f" {labels.problem_type}: leave it out."
        )
    names = "" if labels.problem_type == REGRESSION else f" with {', '.join(labels.names)}"
    logger.info(f"Texts from {' and '.join(columns)}, labels from {data_args.label_column}: {labels.problem_type}{names}")
    metric_name = data_args.task_name or labels.problem_type
    if training_args.metric_for_best_model == METRIC_OF_THE_TASK:
        training_args.metric_for_best_model = best_metric(metric_name)
    check_best_metric(training_args, metric_names(metric_name))
    config.problem_type = labels.problem_type
    config.id2label = dict(enumerate(labels.names))
    config.label2id = {name: index for index, name in enumerate(labels.names)}
    for split, dataset in splits.items():
        # Under names of ours, as a column of the data may be called like one that is added, such as `labels` or `length`
        splits[split] = dataset.select_columns(list(columns)).rename_columns(dict(zip(columns, TEXTS)))
        if labels_by_split[split] is not None:
            splits[split] = splits[split].add_column("labels", labels_by_split[split])
    splits = choose_rows(splits, labels, data_args, training_args)
    texts = None
    if "train" in splits and not (model_args.model_name_or_path or model_args.tokenizer_name):  # to train a tokenizer on
        texts = Dataset.from_dict({"text": [text for column in TEXTS[: len(columns)] for text in splits["train"][column]]})
    tokenizer, config = steps.prepare_tokenizer(model_args, training_args, config, checkpoint, texts)
    max_seq_length = steps.set_max_seq_length(data_args, config, tokenizer)
    steps.check_used_folders(config, vocabulary_size(tokenizer), training_args, checkpoint)

    examples = {}
    for split, dataset in splits.items():
        with training_args.main_process_first(desc=f"tokenizing {split}"):
            examples[split] = tokenize(split, dataset, columns, tokenizer, max_seq_length, **data_args.map_kwargs)
    evaluated = {split: examples[split] for split in EVAL_SPLITS if split in examples}

    run = begin_run("linformer-glue", model_args, data_args, training_args, examples, max_seq_length, checkpoint)
    if run.is_finished:
        return
    callbacks = []
    if training_args.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(training_args.early_stopping_patience))

    set_seed(training_args.seed)
    head = {"new_head": training_args.do_train, "ignore_mismatched_sizes": model_args.ignore_mismatched_sizes}
    card = steps.card_of(model_args, data_args, "text-classification", usage_example(columns))
    if data_args.task_name is not None:  # also for a local copy of it
        card.dataset, card.dataset_config = GLUE, data_args.task_name
    trainer = LinformerTrainer(
        model=steps.model_of(model_args, AutoModelForSequenceClassification, config, tokenizer, **head),
        args=training_args,
        train_dataset=examples.get("train"),
        eval_dataset=next(iter(evaluated.values()), None),
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer, **padding(max_seq_length, data_args.pad_to_max_length)),
        compute_metrics=make_compute_metrics(metric_name, labels),
        preprocess_logits_for_metrics=lambda logits, _: logits[0] if isinstance(logits, tuple) else logits,
        callbacks=callbacks,
        card=card,
    )

    def evaluate():
        metrics = {}
        for split, dataset in evaluated.items():
            metrics |= trainer.evaluate(dataset, metric_key_prefix=EVAL_SPLITS[split])
        return metrics

    def predict():
        for split, prefix in TEST_SPLITS.items():
            if split in examples:
                predict_split(trainer, split, prefix, examples[split], data_args.task_name, labels)

    finish(trainer, run, checkpoint, evaluate, predict=predict)


def usage_example(columns):
    """Returns an input of the pipeline: a text, or a pair."""
    texts = ("This is a sentence.", "This is another.")
    return texts[0] if len(columns) == 1 else dict(zip(("text", "text_pair"), texts))


def predict_split(trainer, split, prefix, examples, task_name, labels):
    """Predicts a split, writes the predictions, and saves the metrics of the rows that have labels."""
    references = list(examples["labels"]) if "labels" in examples.column_names else []
    labelled = [row for row, reference in enumerate(references) if reference is not None]
    is_partly_labelled = 0 < len(labelled) < len(references)
    output = trainer.predict(examples.remove_columns("labels") if is_partly_labelled else examples, metric_key_prefix=prefix)
    metrics = output.metrics
    if is_partly_labelled:
        logger.warning(f"{len(labelled)} of {len(references)} {split} examples have labels: the metrics are theirs")
        known = np.array([references[row] for row in labelled])
        found = trainer.compute_metrics(EvalPrediction(output.predictions[labelled], known))
        metrics |= {f"{prefix}_{name}": value for name, value in found.items()}
    if labelled:
        trainer.log_metrics(prefix, metrics)
        trainer.save_metrics(prefix, metrics)
    if not trainer.is_world_process_zero():
        return
    folder = Path(trainer.args.output_dir)
    if task_name is None:
        write_predictions(folder / "predictions.csv", output.predictions, labels)
    else:
        names = {"test_mismatched": "MNLI-mm", "ax": "AX"}
        file = names.get(split, GLUE_TASKS[task_name][1])
        write_submission(folder / f"{file}.tsv", task_name, output.predictions, labels)


def run():
    run_command(main)


if __name__ == "__main__":
    run()
