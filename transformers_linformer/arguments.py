# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""The arguments that several commands share, and how a command reads them, logs, and reports errors."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import transformers
from transformers import HfArgumentParser

from .errors import UsageError, first_line


def parse_arguments(argv, argument_classes, description):
    """Returns instances of the dataclasses, filled from the command line or from a single .json file."""
    parser = HfArgumentParser(argument_classes, description=description)
    if len(argv) == 1 and argv[0].endswith(".json"):
        if not os.path.isfile(argv[0]):
            raise UsageError(f"there is no file {argv[0]}.")
        try:
            return parser.parse_json_file(json_file=argv[0])
        except ValueError as error:
            raise UsageError(f"{argv[0]}: {first_line(error)}") from error
    return parser.parse_args_into_dataclasses(argv)


def run_command(main):
    """Runs `main` with the arguments of the command line. A `UsageError` ends the process with its one line."""
    try:
        main(sys.argv[1:])
    except UsageError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: error: {error}")


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
        if not 0 < self.validation_split_percentage < 100:
            raise UsageError(f"--validation_split_percentage is {self.validation_split_percentage}; it must be 1 to 99.")
        for name in ("max_train_samples", "max_eval_samples"):
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
    if data_args.streaming and training_args.do_train and training_args.max_steps <= 0:
        raise UsageError("--streaming needs --max_steps: a stream has no length, so its epochs cannot be counted.")
