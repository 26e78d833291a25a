# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""The arguments that the training commands share, and what is checked of them and of Trainer's before anything is read."""

import json
import math
from dataclasses import dataclass, field

import datasets
import torch
import transformers
from torch.utils.checkpoint import checkpoint

from ..arguments import HubArguments, parse_arguments
from ..errors import UsageError, did_you_mean


# Of all other metrics more is better
LESS_IS_BETTER = ("loss", "mse", "perplexity")
# The least values of arguments that nothing else checks before training
LEAST = {
    "seed": 0,
    "learning_rate": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "label_smoothing_factor": 0,
    "neftune_noise_alpha": 0,
    "adam_beta1": 0,
    "adam_beta2": 0,
    "adam_epsilon": 0,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "eval_accumulation_steps": 1,
    "dataloader_num_workers": 0,
    "dataloader_prefetch_factor": 1,
    "num_train_epochs": 0,
    "logging_steps": 0,
    "save_steps": 0,
    "eval_steps": 0,
    "early_stopping_patience": 1,
}
# What some of them must be less than
BOUND = {"seed": 2**32, "label_smoothing_factor": 1, "adam_beta1": 1, "adam_beta2": 1}

LEAVE_OUT = "leave it out"
# Arguments of Trainer that the commands cannot honour: the value that is taken, what any other one would do, and the cure
ONLY = {
    "prediction_loss_only": (False, "leaves no predictions, of which the metrics are computed", LEAVE_OUT),
    "eval_do_concat_batches": (True, "leaves the predictions in pieces, of which no metric is computed", LEAVE_OUT),
    "batch_eval_metrics": (False, "is for metrics of single batches, and these are of all rows", LEAVE_OUT),
    "label_names": (["labels"], "hides the labels from Trainer, which the commands call `labels`", LEAVE_OUT),
    "use_liger_kernel": (False, "has kernels for decoders alone", LEAVE_OUT),
    "debug": ([], "does not work with masks, nor without a TPU", "leave it out: a run that diverges ends, and names the step"),
}
# Arguments that mean something to the processes that load data, of which there are none by default
FOR_WORKERS = ("dataloader_persistent_workers", "dataloader_multiprocessing_context")


def parse_training_arguments(argv, argument_classes, description):
    """Does what `parse_arguments` does, and checks the arguments of Trainer, which are an instance of the last class."""
    *others, training_args = parse_arguments(argv, argument_classes, description)
    check_numbers(training_args)
    check_compile_mode(training_args)
    check_trainer_arguments(training_args)
    return *others, training_args


def check_numbers(training_args):
    """Raises `UsageError` for numbers that no training can have."""
    for name, least in LEAST.items():
        value, bound = getattr(training_args, name, None), BOUND.get(name, math.inf)
        if value is not None and not value >= least:
            raise UsageError(f"--{name} is {value}; it must be at least {least}.")
        if value is not None and not value < bound:
            raise UsageError(f"--{name} is {value}; it must be {'finite' if bound == math.inf else f'less than {bound}'}.")


def check_compile_mode(training_args):
    """Raises `UsageError` for a mode of `torch.compile` that does not exist, which torch says only when training begins."""
    mode = training_args.torch_compile_mode
    if mode is not None and mode not in (modes := torch._inductor.list_mode_options()):
        raise UsageError(f"--torch_compile_mode {mode} is none of {', '.join(modes)}.{did_you_mean(mode, modes)}")


def check_trainer_arguments(training_args):
    """Raises `UsageError` for arguments of Trainer that would make results incomplete, or end in an exception."""
    for name, (taken, effect, cure) in ONLY.items():
        value = getattr(training_args, name, None)
        if value is not None and value != taken:
            words = " ".join(getattr(each, "value", each) for each in value) if isinstance(value, list) else value
            raise UsageError(f"--{name} {words} {effect}: {cure}.")
    for name in ("bf16_full_eval", "fp16_full_eval"):
        if getattr(training_args, name) and training_args.push_to_hub:
            raise UsageError(f"--{name} rounds the weights before --push_to_hub pushes them: leave one of the two out.")
    for name in FOR_WORKERS:
        if getattr(training_args, name, None) and training_args.dataloader_num_workers == 0:
            raise UsageError(f"--{name} {getattr(training_args, name)} needs --dataloader_num_workers 1, or more.")
    for name in ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"):
        options = {"use_reentrant": False} | (getattr(training_args, name, None) or {})
        try:
            checkpoint(torch.sin, torch.zeros(1, requires_grad=True), **options)
        except (ValueError, TypeError) as error:
            cure = 'give {"use_reentrant": false} or {"use_reentrant": true}'
            raise UsageError(f"--{name} {json.dumps(options)} is not what torch.utils.checkpoint takes: {cure}.") from error


def check_best_metric(training_args, names):
    """
    Sets whether more or less of `--metric_for_best_model` is better.

    Raises `UsageError` if it is neither the loss nor among the `names` of the metrics that an evaluation gives.
    """
    if training_args.metric_for_best_model is None:
        return
    name, names = training_args.metric_for_best_model.removeprefix("eval_"), [*names, "loss"]
    if name not in names:
        raise UsageError(f"--metric_for_best_model {name} is none of {', '.join(names)}.{did_you_mean(name, names)}")
    training_args.metric_for_best_model = name
    training_args.greater_is_better = name not in LESS_IS_BETTER


def set_up_logging(training_args):
    """Makes the main process log at the level of INFO, and all others at that of warnings."""
    transformers.utils.logging.set_verbosity(training_args.get_process_log_level())
    transformers.utils.logging.enable_default_handler()
    datasets.utils.logging.set_verbosity_warning()
    # The library of transformers formats what loggers below its own name say
    transformers.utils.logging.get_logger("transformers.linformer").setLevel("INFO" if training_args.should_log else "WARNING")
    if not training_args.should_log:
        datasets.disable_progress_bars()


@dataclass
class ModelArguments(HubArguments):
    """These arguments say which model is trained, and which weights it starts from."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "The checkpoint to continue from. Leave it out to train from scratch."}
    )
    model_type: str = field(default="linformer", metadata={"help": "From scratch: the type of the model, if not a Linformer."})
    config_overrides: str | None = field(
        default=None,
        metadata={
            "help": "Fields of the configuration that differ from its defaults, for example"
            " hidden_size=128,projected_dim=[64,32],projection_sharing=headwise. With a checkpoint they replace the"
            " checkpoint's fields, for example hidden_dropout_prob=0.2."
        },
    )
    config_name: str | None = field(
        default=None, metadata={"help": "From scratch: the configuration to take, if not the default one."}
    )
    tokenizer_name: str | None = field(
        default=None,
        metadata={"help": "The tokenizer, if not the checkpoint's. From scratch and without it, one is trained on the text."},
    )
    vocab_size: int = field(
        default=30_000, metadata={"help": "The number of tokens of a tokenizer that is trained on the text."}
    )
    use_fast_tokenizer: bool = field(default=True, metadata={"help": "Whether to use a tokenizer of `tokenizers`."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Whether to run the code that comes with models on the Hub."}
    )
    dtype: str | None = field(
        default=None,
        metadata={"help": "The dtype of the weights.", "choices": ["auto", "bfloat16", "float16", "float32"]},
    )

    @property
    def hub_kwargs(self):
        return super().hub_kwargs | {"trust_remote_code": self.trust_remote_code}


@dataclass
class DataArguments:
    """These arguments say where the data comes from, and how much of it is used."""

    dataset_name: str | None = field(
        default=None, metadata={"help": "A dataset on the Hub, or a folder with the layout of one."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "The configuration of the dataset."})
    text_column: list[str] | None = field(
        default=None, metadata={"help": "The column of the text, or the two columns of a pair. By default it is found."}
    )
    train_file: str | None = field(default=None, metadata={"help": "A file to train on."})
    validation_file: str | None = field(default=None, metadata={"help": "A file of the same type to evaluate on."})
    validation_split_percentage: int = field(
        default=5, metadata={"help": "The part of the training data to evaluate on if there is no validation set."}
    )
    max_seq_length: int | None = field(
        default=None, metadata={"help": "The longest input in tokens. By default the longest that the model reads."}
    )
    pad_to_max_length: bool = field(
        default=False, metadata={"help": "Whether to pad to `max_seq_length` and not to the longest input of a batch."}
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on only this many rows of the dataset, or lines of the file, the first."}
    )
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on only this many, the first."})
    preprocessing_num_workers: int | None = field(default=None, metadata={"help": "The number of processes that tokenize."})
    overwrite_cache: bool = field(default=False, metadata={"help": "Whether to tokenize again what the cache holds."})

    def __post_init__(self):
        if isinstance(self.text_column, str):  # from Python, or from a file of arguments
            self.text_column = [self.text_column]
        if self.text_column is not None and len(self.text_column) > 2:
            raise UsageError(f"--text_column takes one column, or two for a pair, not {len(self.text_column)}.")
        if self.text_column is not None and len({column.strip() for column in self.text_column}) < len(self.text_column):
            raise UsageError(f"--text_column {' '.join(self.text_column)} names a column twice: give it once, or two columns.")
        if not 0 < self.validation_split_percentage < 100:
            raise UsageError(f"--validation_split_percentage is {self.validation_split_percentage}; it must be 1 to 99.")
        for name in ("max_train_samples", "max_eval_samples", "preprocessing_num_workers"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UsageError(f"--{name} is {getattr(self, name)}; it must be at least 1.")

    @property
    def map_kwargs(self):
        """Returns these as arguments of `Dataset.map`."""
        return {
            "num_proc": self.preprocessing_num_workers,
            "load_from_cache_file": not self.overwrite_cache,
        }


@dataclass
class TextArguments(DataArguments):
    """These arguments say which text is read, and how it is cut into sequences."""

    demo: bool = field(
        default=False,
        metadata={"help": "Whether to read English text that comes with Python, which needs no download."},
    )
    line_by_line: bool = field(
        default=False,
        metadata={
            "help": "Whether each text (a line of a file) becomes a sequence of its own, as pairs have to. By default the"
            " texts are packed one after another into sequences of full length."
        },
    )
    streaming: bool = field(
        default=False, metadata={"help": "Whether to read the data during training. This needs --max_steps."}
    )
    sequence_parallel_size: int = field(
        default=1,
        metadata={
            "help": "The number of processes that share each sequence, for sequences too long for one process. It must"
            " divide the number of all processes."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.text_column is not None and len(self.text_column) == 2 and not self.line_by_line:
            raise UsageError(f"--text_column {' '.join(self.text_column)}: pairs are not packed; give --line_by_line too.")
        if self.sequence_parallel_size < 1:
            raise UsageError(f"--sequence_parallel_size is {self.sequence_parallel_size}; it must be at least 1.")

    @property
    def files(self):
        """Returns the paths of the files by the arguments that name them."""
        return {"train_file": self.train_file, "validation_file": self.validation_file}


def check_training_arguments(data_args, training_args):
    """Refuses arguments of training on text that leave nothing to do, or that contradict each other."""
    if not (training_args.do_train or training_args.do_eval):
        raise UsageError("there is nothing to do: give --do_train, --do_eval, or both.")
    if training_args.do_predict:
        raise UsageError("--do_predict is for linformer-glue, as this command has nothing to predict: leave it out.")
    if getattr(data_args, "streaming", False) and training_args.do_train and training_args.max_steps <= 0:
        raise UsageError("--streaming needs --max_steps: a stream has no length, so its epochs cannot be counted.")
