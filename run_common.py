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
"""What run_mlm.py and run_glue.py share: arguments, reading data, configuration and tokenizer, checkpoints, training."""

import ast
import difflib
import json
import os
import re
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import safetensors
import torch
import transformers
from datasets import load_dataset
from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.errors import HfHubHTTPError, StrictDataclassError
from tokenizers import ByteLevelBPETokenizer
from torch.distributed.device_mesh import init_device_mesh
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoTokenizer,
    HfArgumentParser,
    RobertaTokenizer,
    Trainer,
)
from transformers.utils import cached_file

import modeling_linformer  # noqa: F401  (registers the Linformer with the Auto classes)


logger = transformers.utils.logging.get_logger("transformers.run_common")


class BadInput(Exception):
    """What the user gave cannot be used. The message is one line that names the argument and the cure."""


def first_line(error):
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


# Arguments


def parse_arguments(argv, argument_classes, description):
    """Instances of the dataclasses, from the command line or from a single .json file."""
    parser = HfArgumentParser(argument_classes, description=description)
    if len(argv) == 1 and argv[0].endswith(".json"):
        if not os.path.isfile(argv[0]):
            raise BadInput(f"there is no file {argv[0]}.")
        try:
            return parser.parse_json_file(json_file=argv[0])
        except ValueError as error:
            raise BadInput(f"{argv[0]}: {first_line(error)}") from error
    return parser.parse_args_into_dataclasses(argv)


def run(script, main):
    """Runs `main` with the command line's arguments, and ends in one line where they cannot be used."""
    try:
        main(sys.argv[1:])
    except BadInput as error:
        sys.exit(f"{script}: error: {error}")


def set_up_logging(training_args):
    level = training_args.get_process_log_level()
    transformers.utils.logging.set_verbosity(level)
    transformers.utils.logging.enable_default_handler()
    datasets.utils.logging.set_verbosity_warning()
    logger.setLevel("INFO" if training_args.should_log else "WARNING")
    if not training_args.should_log:
        datasets.disable_progress_bars()


@dataclass
class ModelArguments:
    """Which model to train, and where it starts from."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "The checkpoint to continue from. Leave it out to train from scratch."}
    )
    model_type: str = field(
        default="linformer", metadata={"help": "From scratch: the type of the model, if it is to be another one."}
    )
    config_overrides: str | None = field(
        default=None,
        metadata={
            "help": "Fields of the configuration that differ from its defaults, as in"
            " hidden_size=128,projected_dim=[64,32],projection_sharing=headwise; or, with a checkpoint, from the checkpoint's,"
            " as in hidden_dropout_prob=0.2."
        },
    )
    config_name: str | None = field(
        default=None, metadata={"help": "From scratch: the configuration to take, if not the default one."}
    )
    tokenizer_name: str | None = field(
        default=None,
        metadata={"help": "The tokenizer, if not the checkpoint's. From scratch without it, one is trained on the text."},
    )
    vocab_size: int = field(
        default=30_000, metadata={"help": "The number of tokens of the tokenizer that is trained on the text."}
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloads are kept."})
    use_fast_tokenizer: bool = field(default=True, metadata={"help": "Whether to use a tokenizer of `tokenizers`."})
    model_revision: str = field(default="main", metadata={"help": "The branch, tag or commit to load from."})
    token: str | None = field(default=None, metadata={"help": "The token for the Hub, if not the one logged in with."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Whether to run the code that comes with models on the Hub."}
    )
    dtype: str | None = field(
        default=None,
        metadata={"help": "The dtype of the weights.", "choices": ["auto", "bfloat16", "float16", "float32"]},
    )


@dataclass
class DataArguments:
    """Where the data comes from, and how much of it is used."""

    dataset_name: str | None = field(
        default=None, metadata={"help": "A dataset on the Hub, or a folder laid out like one."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "The dataset's configuration."})
    text_column: list[str] | None = field(
        default=None, metadata={"help": "The column of the text, or the two of a pair. By default it is found."}
    )
    train_file: str | None = field(default=None, metadata={"help": "A file to train on."})
    validation_file: str | None = field(default=None, metadata={"help": "A file to evaluate on, of the same type."})
    validation_split_percentage: int = field(
        default=5, metadata={"help": "The part of the training data to evaluate on, if there is no validation set."}
    )
    max_seq_length: int | None = field(
        default=None, metadata={"help": "The longest input in tokens: by default the longest that the model reads."}
    )
    pad_to_max_length: bool = field(
        default=False, metadata={"help": "Whether to pad to `max_seq_length`, not just to the longest of a batch."}
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on the first so many rows of the dataset, or lines of the file, only."}
    )
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on the first so many only."})
    preprocessing_num_workers: int | None = field(default=None, metadata={"help": "Processes that tokenize."})
    overwrite_cache: bool = field(default=False, metadata={"help": "Tokenize again, whatever lies in the cache."})

    def __post_init__(self):
        if isinstance(self.text_column, str):  # from Python, or a file of arguments
            self.text_column = [self.text_column]
        if self.text_column is not None and len(self.text_column) > 2:
            raise BadInput(f"--text_column takes one column, or two for a pair, not {len(self.text_column)}.")
        if not 0 < self.validation_split_percentage < 100:
            raise BadInput(f"--validation_split_percentage is {self.validation_split_percentage}; it must be 1 to 99.")
        for name in ("max_train_samples", "max_eval_samples"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise BadInput(f"--{name} is {getattr(self, name)}; it must be at least 1.")


# Data


def check_file(argument, path, types):
    """Tells what is wrong with a file before a library does so in many lines."""
    if not os.path.isfile(path):
        raise BadInput(f"--{argument}: there is no file {path}.")
    if Path(path).suffix.lstrip(".") not in types:
        raise BadInput(f"--{argument}: {path} must end in .{', .'.join(types[:-1])} or .{types[-1]}.")
    try:
        with open(path, encoding="utf-8") as file:
            if not any(line.strip() for line in file):
                raise BadInput(f"--{argument}: {path} has no text in it.")
            for _ in file:
                pass
    except UnicodeDecodeError as error:
        raise BadInput(f"--{argument}: {path} is not UTF-8 ({error}). Convert it, say with iconv.") from error


FORMATS = {"txt": "text", "csv": "csv", "tsv": "csv", "json": "json", "jsonl": "json"}


def load_raw_datasets(data_args, model_args, files, types, streaming=False):
    """
    The splits of `--dataset_name`, or of `files`, a dictionary from arguments such as `train_file` to paths or None. What
    the paths may end in stands in `types`.
    """
    files = {argument: path for argument, path in files.items() if path is not None}
    if data_args.dataset_name is not None and files:
        raise BadInput(f"--dataset_name and --{' and --'.join(files)} exclude each other: give one or the other.")
    options = {"cache_dir": model_args.cache_dir, "streaming": streaming}
    if data_args.dataset_name is not None:
        options |= {"name": data_args.dataset_config_name, "token": model_args.token}
        try:
            return load_dataset(data_args.dataset_name, **options)
        except (FileNotFoundError, ValueError, ConnectionError) as error:
            raise BadInput(f"--dataset_name {data_args.dataset_name}: {first_line(error)}") from error

    for argument, path in files.items():
        check_file(argument, path, types)
    suffixes = {Path(path).suffix.lstrip(".") for path in files.values()}
    if len(suffixes) > 1:
        raise BadInput(f"--{' and --'.join(files)} must be files of the same type.")
    (suffix,) = suffixes
    if suffix == "tsv":
        options["sep"] = "\t"
    try:
        data_files = {argument.removesuffix("_file"): path for argument, path in files.items()}
        return load_dataset(FORMATS[suffix], data_files=data_files, **options)
    except (datasets.exceptions.DatasetGenerationError, ValueError) as error:
        raise BadInput(f"{', '.join(files.values())} cannot be read: {first_line(error.__cause__ or error)}") from error


def check_columns(split, found, text_columns):
    """Refuses columns that a split, which has those that were found, does not have."""
    for column in text_columns:
        if column not in found:
            raise BadInput(f"--text_column {column}: the {split} data has only {', '.join(found)}.")


def split_off_validation(train, percentage, seed):
    part = percentage / 100
    if isinstance(train, datasets.Dataset):
        if len(train) < 2:
            raise BadInput("the training data is a single row, so none is left to evaluate on: give --validation_file.")
        split = train.train_test_split(test_size=part, seed=seed)
        return split["train"], split["test"]
    # A stream has no length to take a part of: every so manyeth text is held out
    every = round(1 / part)
    return (
        train.filter(lambda _, index: index % every != 0, with_indices=True),
        train.filter(lambda _, index: index % every == 0, with_indices=True),
    )


# Configuration and tokenizer


def parse_overrides(text, allowed):
    """`"hidden_size=128,projected_dim=[64,32]"` as a dictionary; commas within brackets separate nothing."""
    overrides = {}
    for item in re.split(r",(?![^\[]*\])", text):
        name, equals, value = item.partition("=")
        name = name.strip()
        if not equals:
            raise BadInput(f"--config_overrides: {item!r} is not of the form name=value.")
        if name not in allowed:
            close = difflib.get_close_matches(name, allowed, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise BadInput(f"--config_overrides: the configuration has no field {name!r}.{hint}")
        try:
            overrides[name] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):  # a bare word
            overrides[name] = {"true": True, "false": False}.get(value.strip().lower(), value.strip())
    return overrides


def transformer_subfolder(name, **hub):
    """Where in a folder or repository of sentence-transformers the transformer is; "" for all others."""
    hub = {key: value for key, value in hub.items() if key in ("cache_dir", "revision", "token", "local_files_only")}
    path = cached_file(
        name,
        "modules.json",
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **hub,
    )
    if path is None:
        return ""
    for module in json.loads(Path(path).read_text(encoding="utf-8")):
        if module["type"].endswith(".Transformer"):
            return module["path"]
    raise ValueError(f"{path} names no module of the type Transformer, so there are no weights to load.")


def load_config(model_args):
    """The configuration of the model to train, but for the size of a vocabulary yet to be trained."""
    hub = {
        "cache_dir": model_args.cache_dir,
        "revision": model_args.model_revision,
        "token": model_args.token,
        "trust_remote_code": model_args.trust_remote_code,
    }
    name = model_args.model_name_or_path or model_args.config_name
    if name is not None:
        argument = "model_name_or_path" if model_args.model_name_or_path else "config_name"
        if name.count("/") > 1 and not os.path.exists(name):  # no name on the Hub
            raise BadInput(f"--{argument} {name}: there is no such folder.")
        try:
            hub["subfolder"] = transformer_subfolder(name, **hub)
            config = AutoConfig.from_pretrained(name, **hub)
        except (OSError, ValueError) as error:
            raise BadInput(f"--{argument} {name}: {first_line(error)}") from error
    elif model_args.model_type in CONFIG_MAPPING:
        config = CONFIG_MAPPING[model_args.model_type]()
    else:
        raise BadInput(f"--model_type {model_args.model_type}: transformers knows no such type.")

    if model_args.config_overrides is not None:
        fields = config.to_dict()
        try:
            config = type(config)(**(fields | parse_overrides(model_args.config_overrides, fields)))
        except (ValueError, StrictDataclassError) as error:
            raise BadInput(f"--config_overrides: {' '.join(str(error).split())}") from error
    return config, hub


def train_tokenizer(texts, vocab_size, max_length):
    """A byte-level BPE with RoBERTa's special tokens, trained on the texts."""
    bpe = ByteLevelBPETokenizer()
    special_tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    batches = ([text for column in batch.values() for text in column if text] for batch in texts.iter(batch_size=1000))
    bpe.train_from_iterator(batches, vocab_size=vocab_size, min_frequency=2, special_tokens=special_tokens)
    model = json.loads(bpe.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    return RobertaTokenizer(vocab=model["vocab"], merges=merges, model_max_length=max_length)


def load_tokenizer(checkpoint, texts, config, model_args, training_args, hub):
    """
    The checkpoint's own tokenizer, the one that is named, or one trained on `texts`, a dataset of nothing but text, or
    None where there is nothing to train on.
    """
    name = model_args.tokenizer_name or model_args.model_name_or_path
    if name is None and checkpoint is None:
        if texts is None:
            raise BadInput("without training text there is no tokenizer to train: give --tokenizer_name.")
        # Trained by one process and read by all: the text may be long
        with training_args.main_process_first(desc="training the tokenizer"):
            if training_args.process_index == 0:
                logger.info(f"Training a byte-level BPE of {model_args.vocab_size} tokens on the training text")
                tokenizer = train_tokenizer(texts, model_args.vocab_size, config.max_position_embeddings)
                # Before anything is written into the folder
                check_same_model(with_vocabulary(config, tokenizer, model_args), len(tokenizer), training_args)
                tokenizer.save_pretrained(training_args.output_dir)
                return tokenizer
        return RobertaTokenizer.from_pretrained(training_args.output_dir)
    if name is None or model_args.tokenizer_name is not None:
        hub = hub | {"subfolder": ""}  # which is the model's
    return pretrained_tokenizer(name or checkpoint, use_fast=model_args.use_fast_tokenizer, **hub)


def pretrained_tokenizer(name, **options):
    """The tokenizer of a folder or of a name on the Hub."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        raise BadInput(f"the tokenizer of {name}: {first_line(error)} Name one with --tokenizer_name.") from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # made up by transformers for want of any file
        raise BadInput(f"{name} has no tokenizer: name one with --tokenizer_name.")
    return tokenizer


def with_vocabulary(config, tokenizer, model_args):
    """The configuration of a model to be trained from scratch, with the tokenizer's vocabulary and special tokens."""
    named = "vocab_size=" in (model_args.config_overrides or "")
    if named and config.vocab_size < len(tokenizer):
        raise BadInput(
            f"--config_overrides: vocab_size={config.vocab_size} is less than the tokenizer's {len(tokenizer)} tokens."
        )
    changes = {"vocab_size": config.vocab_size if named else len(tokenizer)}
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        changes[name] = getattr(tokenizer, name)
    return type(config)(**(config.to_dict() | changes))


def longest_input(config):
    """In tokens. The positions of RoBERTa and its kin begin behind the padding's index."""
    begins_behind_padding = "roberta" in config.model_type or config.model_type == "camembert"
    return config.max_position_embeddings - (config.pad_token_id + 1 if begins_behind_padding else 0)


def find_max_seq_length(data_args, config, tokenizer):
    """The longest input in tokens: what is asked for, or else all that the model can take."""
    longest = longest_input(config)
    if config.model_type == "linformer":
        tokenizer.model_max_length = longest  # whatever model the tokenizer was made for
    max_seq_length = data_args.max_seq_length or longest
    special = tokenizer.num_special_tokens_to_add(pair=False)
    if not special < max_seq_length <= longest:
        raise BadInput(
            f"--max_seq_length {max_seq_length} must be from {special + 1} to {longest}, the longest input of the model."
        )
    return max_seq_length


def padding(data_args, max_seq_length):
    """Options of a collator that pads: to `max_seq_length` if that was asked for, or else to the longest of a batch."""
    return {"padding": "max_length", "max_length": max_seq_length} if data_args.pad_to_max_length else {}


def pad_to_multiple_of(config, processes, max_seq_length):
    """For a collator: enough that each of the processes that share a sequence gets a token of it, or a block."""
    if processes == 1:
        return 1
    multiple = processes * getattr(config, "block_multiple", 1)
    return multiple if max_seq_length % multiple == 0 else max_seq_length


def load_model(auto_class, config, model_args, hub, **options):
    """The model of `--model_name_or_path`, or a new one, drawn from the current random state."""
    if model_args.model_name_or_path is None:
        dtype = None if model_args.dtype in (None, "auto") else getattr(torch, model_args.dtype)
        return auto_class.from_config(config, dtype=dtype, trust_remote_code=model_args.trust_remote_code)
    try:
        return auto_class.from_pretrained(
            model_args.model_name_or_path, config=config, dtype=model_args.dtype or "auto", **options, **hub
        )
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise BadInput(f"--model_name_or_path {model_args.model_name_or_path}: {first_line(error)}") from error
    except RuntimeError as error:
        cures = []
        if model_args.config_overrides is not None:
            cures.append(f"keep --config_overrides {model_args.config_overrides} to what has no weights, such as dropouts")
        if "ignore_mismatched_sizes" in options:
            cures.append(f"give --ignore_mismatched_sizes to start with a new head for {config.num_labels} labels")
        if not cures:
            raise
        raise BadInput(
            f"--model_name_or_path {model_args.model_name_or_path}: its weights have other sizes: {', or '.join(cures)}."
        ) from error


# Checkpoints


def is_complete(checkpoint):
    """Whether all files of a checkpoint were written to their end."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))  # the last one that Trainer writes
        json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        weights = list(checkpoint.glob("*.safetensors"))
        for path in weights:
            with safetensors.safe_open(path, framework="pt"):  # compares the file's length with its header
                pass
        pickled = [*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth")]
        for path in pickled:
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:
                    return False
        return bool(weights) and {"optimizer.pt", "scheduler.pt"} <= {path.name for path in pickled}
    except (OSError, ValueError, zipfile.BadZipFile, safetensors.SafetensorError):
        return False


def last_complete_checkpoint(output_dir):
    """The newest checkpoint in the folder that is whole, or None; warns of those that are not."""
    found = [path for path in Path(output_dir).glob("checkpoint-*") if path.name.split("-")[-1].isdigit()]
    for checkpoint in sorted(found, key=lambda path: int(path.name.split("-")[-1]), reverse=True):
        if is_complete(checkpoint):
            return str(checkpoint)
        logger.warning(f"{checkpoint} is only half written and passed over.")
    return None


def checkpoint_to_resume(training_args):
    """The checkpoint that was named, or the last whole one in the output folder, or None."""
    if not training_args.do_train:
        return None
    named = training_args.resume_from_checkpoint
    if named is not None and not is_complete(Path(named)):
        raise BadInput(f"--resume_from_checkpoint {named} is no whole checkpoint. Leave it out to take the last one.")
    return named or last_complete_checkpoint(training_args.output_dir)


def check_same_model(config, vocab_size, training_args, checkpoint=None):
    """Refuses to train into a folder, or to go on from a checkpoint, that holds another model than the one to train."""
    for folder in filter(None, (training_args.output_dir, checkpoint)):
        path = Path(folder) / "config.json"
        if not training_args.do_train or not path.is_file():
            continue
        theirs, ours = json.loads(path.read_text(encoding="utf-8")), config.to_dict()
        ours["vocab_size"] = max(config.vocab_size, vocab_size)  # a larger tokenizer makes the embeddings grow
        if theirs.get("model_type") == config.model_type:
            theirs = type(config).from_dict(theirs).to_dict()  # the file leaves out what is as in the defaults
        ignored = {"transformers_version", "architectures", "dtype", "auto_map", "_name_or_path"}
        ignored |= {"pad_token_id", "bos_token_id", "eos_token_id"}  # Trainer takes the tokenizer's
        changed = [name for name in theirs if name not in ignored and theirs[name] != ours.get(name)]
        if changed:
            name = "model_type" if "model_type" in changed else changed[0]
            raise BadInput(
                f"--output_dir {folder} holds another model ({name} is {theirs[name]} there, {ours.get(name)} here): name"
                " another folder, or delete it."
            )


# Training


class ScriptTrainer(Trainer):
    """
    A Trainer that writes model cards of its own, which tell where the model comes from, how good it is, and how to load it.

    `task` is what `pipeline` calls it, and `example` an input for it. With `sequence_parallel_size` above 1 in `data_args`,
    so many processes share each sequence: they get the same batch, of which each computes its part of the tokens.
    """

    def __init__(self, *args, task, example, model_args, data_args, **kwargs):
        try:
            super().__init__(*args, **kwargs)
        except HfHubHTTPError as error:
            raise BadInput(f"--push_to_hub: {first_line(error)} Log in with `hf auth login`, or give --hub_token.") from error
        self.task, self.example = task, example
        self.origin, self.data_args = model_args.model_name_or_path, data_args
        self.processes_per_sequence = getattr(data_args, "sequence_parallel_size", 1)
        if self.processes_per_sequence > 1:
            self.share_sequences()

    def share_sequences(self):
        size, world_size = self.processes_per_sequence, self.args.world_size
        if world_size % size:
            raise BadInput(
                f"--sequence_parallel_size {size} does not divide the number of processes, {world_size}: start a multiple of"
                f" it (`torchrun --nproc_per_node {size}`, `accelerate launch`)."
            )
        if not hasattr(self.model, "set_sequence_mesh"):
            raise BadInput(f"--sequence_parallel_size {size} is for Linformers; this is a {type(self.model).__name__}.")
        longest, block = self.model.config.max_position_embeddings, self.model.config.block_multiple
        if longest <= (size - 1) * block:
            raise BadInput(
                f"--sequence_parallel_size {size} is too many for sequences of at most {longest} tokens: each process must get"
                f" a block of {block} tokens (`block_size`) at least."
            )
        # accelerate gives the processes along "cp" (context parallel) the same batches
        mesh = init_device_mesh(self.args.device.type, (world_size // size, size), mesh_dim_names=("dp_replicate", "cp"))
        self.accelerator.state.device_mesh = mesh
        self.accelerator.dataloader_config.dispatch_batches = False  # nor does a stream's first process hand out all batches
        self.model.set_sequence_mesh(mesh["cp"])

    def _prepare_inputs(self, inputs):
        inputs = super()._prepare_inputs(inputs)
        return self.model.shard_inputs(inputs) if self.processes_per_sequence > 1 else inputs

    def get_batch_samples(self, *args, **kwargs):
        # The tokens to predict were counted in whole sequences, by each of the processes that share them
        batches, number = super().get_batch_samples(*args, **kwargs)
        return batches, None if number is None else number / self.processes_per_sequence

    def evaluation_loop(self, *args, **kwargs):
        if self.processes_per_sequence > 1:
            self.gather_function = self.gather_sequences
        return super().evaluation_loop(*args, **kwargs)

    def gather_sequences(self, tensor):
        """What `gather_for_metrics` does: a row for each sequence, of which no process has a whole one."""
        rows = self.accelerator.gather(tensor).unflatten(0, (-1, self.processes_per_sequence, len(tensor)))
        rows = self.join_shards(rows.transpose(1, 2)).flatten(0, 1)
        state = self.accelerator.gradient_state
        return rows[: state.remainder] if state.end_of_dataloader and state.remainder > 0 else rows

    def join_shards(self, shards):
        """(replicas, b, processes, ...) -> (replicas, b, ...): the mean loss, and what is of tokens one after another."""
        return shards.mean(2) if shards.dim() == 3 else shards.flatten(2, 3)

    def create_model_card(self, **ignored):
        # Trainer's own calls a model that began as a local checkpoint trained from scratch, and has no snippet
        if not self.is_world_process_zero():
            return
        repository = self.hub_model_id or self.args.output_dir
        is_linformer = self.model.config.model_type == "linformer"
        metadata = ModelCardData(library_name="transformers", pipeline_tag=self.task, model_name=Path(repository).name)
        if is_linformer:
            metadata.tags = ["linformer"]
        origin = "trained from scratch"
        if self.origin is not None:
            origin = f"trained from `{Path(self.origin).name if os.path.exists(self.origin) else self.origin}`"
            metadata.base_model = None if os.path.exists(self.origin) else self.origin

        dataset, config = self.data_args.dataset_name, self.data_args.dataset_config_name
        if getattr(self.data_args, "task_name", None) is not None:
            dataset = "nyu-mll/glue"  # a local copy of it too
        files = [self.data_args.train_file, self.data_args.validation_file]
        data = " and ".join(Path(file).name for file in files if file is not None) or "the documentation of Python"
        results = {}
        for entry in self.state.log_history:
            results |= {name.removeprefix("eval_"): value for name, value in entry.items() if name.startswith("eval_")}
        results = {name: value for name, value in results.items() if "runtime" not in name and "_per_second" not in name}
        if dataset is not None:
            data = f"{Path(dataset).name if os.path.exists(dataset) else dataset}{f' ({config})' if config else ''}"
            if not os.path.exists(dataset):
                metadata.datasets = [dataset]
                metadata.eval_results = [
                    EvalResult(self.task, dataset, data, name, value, dataset_config=config)
                    for name, value in results.items()
                ]
        metadata.metrics = [name for name in results if name != "loss"]

        trust = ", trust_remote_code=True" if is_linformer else ""
        settings = {
            "learning rate": self.args.learning_rate,
            "schedule": f"{self.args.lr_scheduler_type.value}, {self.args.get_warmup_steps(self.state.max_steps)} warm-up steps",
            "batch size": self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size,
            "steps": self.state.global_step,
            "epochs": round(self.state.epoch or 0, 2),
            "seed": self.args.seed,
        }
        card = f"""---
{metadata.to_yaml()}
---

# {Path(repository).name}

A {type(self.model).__name__}, {origin} on {data}.

```python
from transformers import pipeline

model = pipeline("{self.task}", model={json.dumps(repository)}{trust})
print(model({json.dumps(self.example)}))
```

## On the evaluation data

{markdown_table(("measure", "value"), results.items()) if results else "Not evaluated."}

## Training

{markdown_table(("setting", "value"), settings.items())}

Transformers {transformers.__version__}, torch {torch.__version__}.
"""
        (Path(self.args.output_dir) / "README.md").write_text(card, encoding="utf-8")


def markdown_table(header, rows):
    def line(cells):
        return f"| {' | '.join(f'{cell:.4g}' if isinstance(cell, float) else str(cell) for cell in cells)} |"

    return "\n".join([line(header), line(["---"] * len(header)), *map(line, rows)])


def train(trainer, checkpoint):
    """Trains from the checkpoint on, and saves the model, the metrics and the state."""
    if checkpoint is not None:
        logger.info(f"Going on from {checkpoint}")
    result = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.log_metrics("train", result.metrics)
    trainer.save_metrics("train", result.metrics)
    trainer.save_state()


def write_model_card(trainer):
    """Writes the model card, and pushes everything to the Hub where that was asked for."""
    if trainer.args.push_to_hub:
        trainer.push_to_hub()
    else:
        trainer.create_model_card()
