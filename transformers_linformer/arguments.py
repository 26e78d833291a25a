# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""How a command reads its arguments and reports errors, and the arguments of all that load from the Hub."""

import json
import sys
import typing
from dataclasses import dataclass, field, fields
from pathlib import Path

from transformers import HfArgumentParser

from .errors import UsageError, did_you_mean, file_error
from .files import read_json
from .process_groups import end_process_groups


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
    if len(argv) == 1 and argv[0].endswith(".json"):
        file, words = f"{argv[0]}: ", words_of(argv[0], argument_classes)
    else:
        file, words = "", argv
    try:
        *parsed, unknown = parser.parse_args_into_dataclasses(words, return_remaining_strings=True)
        if unknown:
            names = [f"--{each.name}" for arguments in argument_classes for each in fields(arguments)]
            word = next((word for word in unknown if word.startswith("--")), unknown[0]).partition("=")[0]
            raise UsageError(f"there is no argument {word}.{hint_at_argument(word, names)}")
    except UsageError as error:
        raise UsageError(f"{file}{error}") from error
    except (ValueError, TypeError, RuntimeError, ImportError, OSError) as error:  # of Trainer, and of what it sets up
        message = file_error(error) or " ".join(str(error).split())
        if "process group has not been initialized" in message:
            message = "--ddp_backend is for several processes: start them by torchrun, or leave it out."
        name = "--accelerator_config"  # whose settings are refused without their name
        if any(word.startswith(name) for word in words) and name not in message:
            message = f"{name}: {message}"
        raise UsageError(file + message) from error
    return tuple(parsed)


def words_of(path, argument_classes):
    """
    Returns the command line that a file of JSON stands for: an object with a value, or a list of values, for each argument.

    null stands for the default. Raises `UsageError` if the file cannot be read, or has an object where none is taken.
    """
    try:
        arguments = read_json(path, dict)
    except (OSError, ValueError) as error:
        raise UsageError(file_error(error) or str(error)) from error

    def word(value):
        return value if isinstance(value, str) else json.dumps(value)

    hints = {name: hint for each in argument_classes for name, hint in typing.get_type_hints(each).items()}
    words = []
    for name, value in arguments.items():
        # Its text would be taken for a name
        if isinstance(value, dict) and name in hints and "dict" not in str(hints[name]):
            raise UsageError(f"{path}: {name} is {json.dumps(value)}; it must not be an object.")
        if isinstance(value, list):
            words += [f"--{name}", *map(word, value)]
        elif value is not None:
            words.append(f"--{name}={word(value)}")
    return words


def hint_at_argument(name, names):
    """Returns a hint, to be appended to an error, at what to give in place of an argument that does not exist."""
    dashes, name = "--" if name.startswith("--") else "", name.lstrip("-").replace("-", "_")
    return f" {INSTEAD[name]}" if name in INSTEAD else did_you_mean(dashes + name, names)


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
