# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""The arguments that several commands share, and how a command reads them, logs, and reports errors."""

import enum
import json
import math
import sys
import types
import typing
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path

import datasets
import torch
import transformers
from torch.utils.checkpoint import checkpoint
from transformers import HfArgumentParser, TrainingArguments

from .errors import UsageError, did_you_mean, file_error
from .process_groups import end_process_groups


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

# What to do where earlier versions of transformers had an argument
INSTEAD = {
    "overwrite_output_dir": "To train anew, delete the folder, or name another one with --output_dir.",
    "no_cuda": "Give --use_cpu.",
}


class OneLineParser(HfArgumentParser):
    """A parser that raises `UsageError` for arguments that it cannot read."""

    def error(self, message):
        raise UsageError(message)


def parse_arguments(argv, argument_classes, description):
    """Returns instances of the dataclasses, filled from the command line or from a single .json file."""
    # An abbreviation would silently be taken for the argument that it begins, and a misspelt name can be one
    parser = OneLineParser(argument_classes, description=description, allow_abbrev=False)
    file = argv[0] if len(argv) == 1 and argv[0].endswith(".json") else None
    try:
        if file is not None:
            parsed = parser.parse_dict(read_arguments_file(file, argument_classes))
        else:
            *parsed, unknown = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
            if unknown:
                names = [f"--{each.name}" for arguments in argument_classes for each in fields(arguments)]
                word = next((word for word in unknown if word.startswith("--")), unknown[0]).partition("=")[0]
                raise UsageError(f"there is no argument {word}.{hint_at_argument(word, names)}")
    except (ValueError, TypeError, RuntimeError, ImportError, OSError) as error:  # of Trainer, and of what it sets up
        message = file_error(error) or " ".join(str(error).split())
        if "process group has not been initialized" in message:
            message = f"--ddp_backend is for several processes: start them by torchrun, or {LEAVE_OUT}."
        name = "--accelerator_config"  # whose settings are refused without their name
        if any(word.startswith(name) for word in argv) and name not in message:
            message = f"{name}: {message}"
        raise UsageError(("" if file is None else f"{file}: ") + message) from error
    for arguments in parsed:
        if isinstance(arguments, TrainingArguments):
            check_numbers(arguments)
            check_compile_mode(arguments)
            check_trainer_arguments(arguments)
    return tuple(parsed)


def hint_at_argument(name, names):
    """Returns a hint, to be appended to an error, at what to give in place of an argument that does not exist."""
    dashes, name = "--" if name.startswith("--") else "", name.lstrip("-").replace("-", "_")
    return f" {INSTEAD[name]}" if name in INSTEAD else did_you_mean(dashes + name, names)


def read_arguments_file(path, argument_classes):
    """
    Returns the arguments in a file of JSON as a dictionary.

    Raises `UsageError` if the file cannot be read, and for an argument that does not exist, has a value of another type,
    or is missing. A single value is taken for a list of one; null stands for the default.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {getattr(error, 'strerror', error)}.") from error
    if not isinstance(content, dict):
        raise UsageError(f'{path} must be of the form {{"output_dir": "out", "do_train": true}}.')
    known = {each.name: (each, hints[each.name]) for hints, each in typed_fields(argument_classes)}
    arguments = {}
    for name, value in content.items():
        if name not in known:
            raise UsageError(f"{path}: there is no argument {name}.{hint_at_argument(name, known)}")
        argument, hint = known[name]
        if value is None:
            continue
        if not fits(value, hint) and fits([value], hint):
            value = [value]
        choices = argument.metadata.get("choices")
        if not fits(value, hint):
            raise UsageError(f"{path}: {name} is {json.dumps(value)}; it must be {in_words(hint)}.")
        if choices and not set(value if isinstance(value, list) else [value]) <= set(choices):
            raise UsageError(f"{path}: {name} is {json.dumps(value)}; it must be one of {', '.join(choices)}.")
        arguments[name] = value
    for name, (argument, _) in known.items():
        if name not in arguments and argument.default is MISSING and argument.default_factory is MISSING:
            raise UsageError(f"{path}: {name} is missing.")
    return arguments


def typed_fields(argument_classes):
    """Yields the type hints of each dataclass with each of its fields."""
    for arguments in argument_classes:
        hints = typing.get_type_hints(arguments)
        yield from ((hints, each) for each in fields(arguments) if each.init)


# What the types of arguments are called in JSON
IN_WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "a string", dict: "an object"}


def fits(value, hint):
    """Whether a value from a file of JSON has the type of a dataclass's field."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is list:
        return isinstance(value, list) and all(fits(each, parts[0]) for each in value)
    if origin is typing.Literal:
        return value in parts
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return value in [each.value for each in hint]
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, origin or hint) and (hint is bool) == isinstance(value, bool)


def in_words(hint):
    """Returns the name of the type of a field."""
    origin, parts = typing.get_origin(hint), [part for part in typing.get_args(hint) if part is not types.NoneType]
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(in_words, parts)))
    if origin is list:
        return f"a list, each {in_words(parts[0])}"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return f"one of {', '.join(each.value for each in hint)}"
    return IN_WORDS.get(origin or hint, str(hint))


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


def run_command(main):
    """
    Runs `main` with the arguments of the command line.

    A `UsageError`, and an error of reading or writing files, ends the process with one line.
    """
    try:
        main(sys.argv[1:])
    except UsageError as error:
        message = str(error)
    except Exception as error:
        message = file_error(error)
        if message is None:
            raise
    else:
        end_process_groups()
        return
    # NCCL ends a group in all processes at once, and this may be the only one that has an error
    end_process_groups(("gloo",))
    sys.exit(f"{Path(sys.argv[0]).name}: error: {message}")


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
class HubArguments:
    """These arguments say how files are fetched from the Hub."""

    cache_dir: str | None = field(default=None, metadata={"help": "The folder that keeps what was downloaded."})
    model_revision: str = field(default="main", metadata={"help": "The branch, tag or commit to load the model from."})
    token: str | None = field(default=None, metadata={"help": "The token for the Hub, if not the one you logged in with."})

    @property
    def hub_kwargs(self):
        """Returns these as arguments of `from_pretrained`."""
        return {"cache_dir": self.cache_dir, "revision": self.model_revision, "token": self.token}


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
