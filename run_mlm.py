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
Pretrain a Linformer by masked language modeling, from scratch or from a checkpoint, on a dataset or on text files.

    python run_mlm.py                      # a demonstration: no download, under 4 minutes on two CPU cores
    python run_mlm.py --help
    python run_mlm.py arguments.json

Started again with the same command, a run that was killed goes on from its last complete checkpoint.
"""

import ast
import difflib
import json
import math
import os
import re
import sys
import sysconfig
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np
import safetensors
import torch
import transformers
from datasets import Dataset, DatasetDict, IterableDataset, load_dataset
from huggingface_hub.errors import StrictDataclassError
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    HfArgumentParser,
    RobertaTokenizer,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

import modeling_linformer  # noqa: F401  (registers the Linformer with the Auto classes)


logger = transformers.utils.logging.get_logger("transformers.run_mlm")

# What `python run_mlm.py` runs, and what further arguments after `--demo` change.
DEMO_ARGUMENTS = [
    "--output_dir=linformer-demo",
    "--do_train",
    "--do_eval",
    "--config_overrides=hidden_size=128,num_hidden_layers=2,num_attention_heads=4,intermediate_size=512,"
    "max_position_embeddings=128,projected_dim=32,projection_type=mean_pool,hidden_dropout_prob=0.0,attention_probs_dropout_prob=0.0",
    "--vocab_size=4096",
    "--per_device_train_batch_size=16",
    "--learning_rate=2e-3",
    "--warmup_steps=200",
    "--num_train_epochs=10",
    "--save_steps=500",
    "--save_total_limit=2",
    "--logging_steps=100",
    "--report_to=none",
]
DEMO_SENTENCES = [
    "Return the number of <mask> in the list.",
    "If the file does not <mask>, an error is raised.",
    "The value of the <mask> is a string.",
]


class BadInput(Exception):
    """What the user gave cannot be used. The message is one line that names the argument and the cure."""


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
            "help": "From scratch: fields of the configuration that differ from its defaults, as in"
            " hidden_size=128,projected_dim=[64,32],projection_sharing=headwise."
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
    """What text to train on, and how it is cut into sequences."""

    dataset_name: str | None = field(
        default=None, metadata={"help": "A dataset on the Hub, or a folder laid out like one."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "The dataset's configuration."})
    train_file: str | None = field(default=None, metadata={"help": "Training text: a txt, csv, json or jsonl file."})
    validation_file: str | None = field(default=None, metadata={"help": "Text to evaluate on, of the same type."})
    demo: bool = field(
        default=False,
        metadata={
            "help": "Train a small model on English text that comes with Python. What runs without any argument; other"
            " arguments change its settings."
        },
    )
    text_column: str | None = field(
        default=None, metadata={"help": "The column that holds the text: by default `text`, or else the first one."}
    )
    validation_split_percentage: int = field(
        default=5, metadata={"help": "The part of the training texts to evaluate on, if there is no validation set."}
    )
    max_seq_length: int | None = field(
        default=None, metadata={"help": "The length of the sequences in tokens: by default the longest the model reads."}
    )
    mlm_probability: float = field(default=0.15, metadata={"help": "The part of the tokens to predict."})
    line_by_line: bool = field(
        default=False,
        metadata={"help": "Whether each text (line) is a sequence of its own. By default they are packed one after another."},
    )
    pad_to_max_length: bool = field(
        default=False, metadata={"help": "Whether to pad to `max_seq_length`, not just to the longest of a batch."}
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Use only the first so many training texts (rows of the dataset, lines of a file)."}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Use only the first so many texts to evaluate on."}
    )
    streaming: bool = field(
        default=False, metadata={"help": "Read the data while training instead of before it. Needs --max_steps."}
    )
    preprocessing_num_workers: int | None = field(default=None, metadata={"help": "Processes that tokenize."})
    overwrite_cache: bool = field(default=False, metadata={"help": "Tokenize again, whatever lies in the cache."})

    def __post_init__(self):
        if not 0 < self.mlm_probability <= 1:
            raise BadInput(f"--mlm_probability is {self.mlm_probability}; it must be above 0 and at most 1.")
        if not 0 < self.validation_split_percentage < 100:
            raise BadInput(f"--validation_split_percentage is {self.validation_split_percentage}; it must be 1 to 99.")


# Text


def python_documentation():
    """English text that is on every machine that runs this: Python's language reference and its library's docstrings."""
    from pydoc_data.topics import topics

    yield from (topics[name] for name in sorted(topics))
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        folders = path.relative_to(library).parts[:-1]
        if {"site-packages", "test", "tests", "idlelib", "lib2to3"} & set(folders):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):  # files made wrong on purpose, to test with
            continue
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        docstrings = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented)]
        if any(docstrings):
            yield " ".join(filter(None, docstrings))


def check_text_file(argument, path):
    """Tells what is wrong with a file before a library does so in many lines."""
    if not os.path.isfile(path):
        raise BadInput(f"--{argument}: there is no file {path}.")
    if Path(path).suffix.lstrip(".") not in ("txt", "csv", "json", "jsonl"):
        raise BadInput(f"--{argument}: {path} must end in .txt, .csv, .json or .jsonl.")
    try:
        with open(path, encoding="utf-8") as file:
            if not any(line.strip() for line in file):
                raise BadInput(f"--{argument}: {path} has no text in it.")
            for _ in file:
                pass
    except UnicodeDecodeError as error:
        raise BadInput(f"--{argument}: {path} is not UTF-8 ({error}). Convert it, say with iconv.") from error


def load_texts(data_args, model_args, training_args):
    """A dictionary of datasets, `train` and where possible `validation`, with a single column `text`."""
    if data_args.demo:
        # Line breaks and indentation would be a large part of the tokens, and easy ones
        texts = [" ".join(text.split()) for text in python_documentation()]
        raw = DatasetDict({"train": Dataset.from_dict({"text": texts})})
        if data_args.streaming:
            raw = datasets.IterableDatasetDict({"train": raw["train"].to_iterable_dataset()})
    elif data_args.dataset_name is not None:
        try:
            raw = load_dataset(
                data_args.dataset_name,
                data_args.dataset_config_name,
                cache_dir=model_args.cache_dir,
                token=model_args.token,
                streaming=data_args.streaming,
            )
        except (FileNotFoundError, ValueError, ConnectionError) as error:
            raise BadInput(f"--dataset_name {data_args.dataset_name}: {first_line(error)}") from error
    else:
        files = {"train": data_args.train_file, "validation": data_args.validation_file}
        files = {split: path for split, path in files.items() if path is not None}
        if not files:
            raise BadInput("there is nothing to train on: give --dataset_name, --train_file, or --demo.")
        for split, path in files.items():
            check_text_file(f"{split}_file", path)
        kinds = {Path(path).suffix.lstrip(".") for path in files.values()}
        if len(kinds) > 1:
            raise BadInput("--train_file and --validation_file must be files of the same type.")
        kind = {"txt": "text", "jsonl": "json"}.get(*kinds, *kinds)
        try:
            raw = load_dataset(kind, data_files=files, cache_dir=model_args.cache_dir, streaming=data_args.streaming)
        except (datasets.exceptions.DatasetGenerationError, ValueError) as error:
            raise BadInput(f"{', '.join(files.values())} cannot be read: {first_line(error.__cause__ or error)}") from error

    if training_args.do_train and "train" not in raw:
        raise BadInput(f"--do_train needs a split `train`, but the data has only {', '.join(raw)}.")
    for split in raw:
        columns = raw[split].column_names or list(next(iter(raw[split])))
        text_column = data_args.text_column or ("text" if "text" in columns else columns[0])
        if text_column not in columns:
            raise BadInput(f"--text_column {text_column}: the {split} data has only {', '.join(columns)}.")
        feature = (raw[split].features or {}).get(text_column)
        if feature is not None and feature.dtype not in ("string", "large_string"):
            raise BadInput(f"--text_column: {text_column} holds {feature.dtype}, not text. Columns: {', '.join(columns)}.")
        raw[split] = raw[split].select_columns(text_column)
        if text_column != "text":
            raw[split] = raw[split].rename_column(text_column, "text")

    if "validation" not in raw and "train" in raw and (training_args.do_eval or not data_args.streaming):
        raw["train"], raw["validation"] = split_off_validation(raw["train"], data_args, training_args.seed)
    for split, limit in (("train", data_args.max_train_samples), ("validation", data_args.max_eval_samples)):
        if limit is not None and split in raw:
            raw[split] = raw[split].take(limit)
    return raw


def split_off_validation(train, data_args, seed):
    part = data_args.validation_split_percentage / 100
    if not data_args.streaming:
        if len(train) < 2:
            raise BadInput("the training data is a single text, so none is left to evaluate on: give --validation_file.")
        split = train.train_test_split(test_size=part, seed=seed)
        return split["train"], split["test"]
    # A stream has no length to take a part of: every so manyeth text is held out
    every = round(1 / part)
    return (
        train.filter(lambda _, index: index % every != 0, with_indices=True),
        train.filter(lambda _, index: index % every == 0, with_indices=True),
    )


def first_line(error):
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


# Tokens


def train_tokenizer(texts, vocab_size, max_length):
    """A byte-level BPE with RoBERTa's special tokens, trained on the texts."""
    bpe = ByteLevelBPETokenizer()
    special_tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    batches = (batch["text"] for batch in texts.iter(batch_size=1000))
    batches = ([text for text in batch if text] for batch in batches)
    bpe.train_from_iterator(batches, vocab_size=vocab_size, min_frequency=2, special_tokens=special_tokens)
    model = json.loads(bpe.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    return RobertaTokenizer(vocab=model["vocab"], merges=merges, model_max_length=max_length)


def pack(tokenized, tokenizer, max_seq_length):
    """
    Joins the tokens of all texts and cuts them into sequences of `max_seq_length`, with special tokens at their two ends
    and nowhere else. What is left at the very end, less than one sequence, is dropped.
    """
    size = max_seq_length - tokenizer.num_special_tokens_to_add(pair=False)
    whole, bare = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    start = whole.index(bare[0])
    head, tail = whole[:start], whole[start + len(bare) :]
    tokens = []
    for example in tokenized:
        tokens.extend(example["input_ids"])
        for start in range(0, len(tokens) - size + 1, size):
            yield {"input_ids": head + tokens[start : start + size] + tail}
        tokens = tokens[len(tokens) // size * size :]


class PackedStream(torch.utils.data.IterableDataset):
    """`pack` of a stream, which is shuffled anew each epoch."""

    def __init__(self, tokenized, tokenizer, max_seq_length):
        self.tokenized, self.tokenizer, self.max_seq_length = tokenized, tokenizer, max_seq_length

    def set_epoch(self, epoch):
        self.tokenized.set_epoch(epoch)

    def __iter__(self):
        return pack(self.tokenized, self.tokenizer, self.max_seq_length)


def make_sequences(split, texts, tokenizer, max_seq_length, data_args, training_args):
    """Tokenizes the texts and makes sequences of them, each with its special tokens."""
    lines = data_args.line_by_line

    def tokenize(batch):
        kept = [text for text in batch["text"] if text and not text.isspace()]
        options = {"truncation": True, "max_length": max_seq_length} if lines else {}
        # Texts longer than the model are no mistake here, so nobody needs to be warned of them
        output = tokenizer(kept, add_special_tokens=lines, return_attention_mask=False, verbose=False, **options)
        return {"input_ids": output["input_ids"]}

    if data_args.streaming:
        if split == "train":
            texts = texts.shuffle(seed=training_args.seed, buffer_size=10_000)
        tokenized = texts.map(tokenize, batched=True, remove_columns=["text"])
        return tokenized if lines else PackedStream(tokenized, tokenizer, max_seq_length)

    with training_args.main_process_first(desc=f"tokenizing {split}"):
        sequences = texts.map(
            tokenize,
            batched=True,
            remove_columns=["text"],
            num_proc=data_args.preprocessing_num_workers,
            load_from_cache_file=not data_args.overwrite_cache,
            desc=f"Tokenizing {split}",
        )
        if not lines:
            arguments = {"tokenized": sequences, "tokenizer": tokenizer, "max_seq_length": max_seq_length}
            found = next(pack(**arguments), None)
            if found is None:
                raise BadInput(
                    f"the {split} text has {sum(map(len, sequences['input_ids']))} tokens, less than one sequence of"
                    f" {max_seq_length}: lower --max_seq_length, or use --line_by_line."
                )
            sequences = Dataset.from_generator(
                pack, gen_kwargs=arguments, features=datasets.Features({"input_ids": datasets.List(datasets.Value("int32"))})
            )
    if len(sequences) == 0:
        raise BadInput(f"the {split} data has no text in it.")
    logger.info(f"{split}: {len(texts)} texts, {len(sequences)} sequences of up to {max_seq_length} tokens")
    return sequences


class MaskingCollator(DataCollatorForLanguageModeling):
    """
    Masks the tokens to predict, by a generator that is seeded from the seed, the epoch and the sequence's own tokens.

    So each epoch masks anew, and yet the masks depend on nothing else: not on the batch, the number of processes or of
    loader workers, nor on whether the run was killed in between. At least one token a sequence is masked.
    """

    def __init__(self, tokenizer, seed, **kwargs):
        super().__init__(tokenizer, **kwargs)
        self.masking_seed = seed
        self.epoch = 0

    def torch_call(self, examples):
        masked = [self.mask(torch.as_tensor(example["input_ids"], dtype=torch.long)) for example in examples]
        lengths = [len(input_ids) for input_ids, _ in masked]
        batch = self.tokenizer.pad(
            {"input_ids": [input_ids.tolist() for input_ids, _ in masked]},
            return_tensors="pt",
            pad_to_multiple_of=self.pad_to_multiple_of,
        )
        labels = torch.full_like(batch["input_ids"], -100)
        for row, (length, (_, row_labels)) in enumerate(zip(lengths, masked)):
            labels[row, :length] = row_labels
        batch["labels"] = labels
        return batch

    def mask(self, input_ids):
        seed = zlib.crc32(input_ids.numpy().tobytes(), zlib.crc32(f"{self.masking_seed} {self.epoch}".encode()))
        self.generator = torch.Generator().manual_seed(seed)
        special = self.tokenizer.get_special_tokens_mask(input_ids.tolist(), already_has_special_tokens=True)
        special = torch.tensor(special, dtype=torch.bool)[None]
        while True:
            inputs, labels = self.torch_mask_tokens(input_ids[None].clone(), special_tokens_mask=special)
            if (labels != -100).any() or special.all():
                return inputs[0], labels[0]


class NewMasksEachEpoch(TrainerCallback):
    def __init__(self, collator):
        self.collator = collator

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.collator.epoch = int(state.epoch)


# Model


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
        if model_args.config_overrides is not None:
            raise BadInput(
                "--config_overrides goes with neither --model_name_or_path nor --config_name: they fix the configuration."
            )
        argument = "model_name_or_path" if model_args.model_name_or_path else "config_name"
        try:
            return AutoConfig.from_pretrained(name, **hub), hub
        except (OSError, ValueError) as error:
            raise BadInput(f"--{argument} {name}: {first_line(error)}") from error

    if model_args.model_type not in CONFIG_MAPPING:
        raise BadInput(f"--model_type {model_args.model_type}: transformers knows no such type.")
    config_class = CONFIG_MAPPING[model_args.model_type]
    overrides = {}
    if model_args.config_overrides is not None:
        overrides = parse_overrides(model_args.config_overrides, config_class().to_dict())
    try:
        return config_class(**overrides), hub
    except (ValueError, StrictDataclassError) as error:
        raise BadInput(f"--config_overrides: {' '.join(str(error).split())}") from error


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


def check_same_model(folder, config, vocab_size):
    """Refuses a folder that holds another model than the one to train."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        return
    theirs, ours = json.loads(path.read_text(encoding="utf-8")), config.to_dict()
    ours["vocab_size"] = max(config.vocab_size, vocab_size)  # a larger tokenizer makes the embeddings grow
    if theirs.get("model_type") == config.model_type:
        theirs = type(config).from_dict(theirs).to_dict()  # the file leaves out what is as in the defaults
    ignored = {"transformers_version", "architectures", "dtype", "auto_map", "_name_or_path"}
    changed = [name for name in theirs if name not in ignored and theirs[name] != ours.get(name)]
    if changed:
        name = "model_type" if "model_type" in changed else changed[0]
        raise BadInput(
            f"--output_dir {folder} holds another model ({name} is {theirs[name]} there, {ours.get(name)} here): name"
            " another folder, or delete it."
        )


# Measures


def token_losses(logits, labels):
    """
    The loss of each token to predict, and whether the model's first guess is right, as (batch, n, 2), 0 elsewhere.

    Far less to keep than the logits, which are those of the tokens to predict alone where the model is a Linformer.
    """
    logits = logits[0] if isinstance(logits, tuple) else logits
    is_target = labels != -100
    if logits.dim() == 3:
        logits = logits[is_target]
    targets = labels[is_target]
    measures = torch.zeros(*labels.shape, 2, device=labels.device)
    losses = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    measures[is_target] = torch.stack([losses, (logits.argmax(-1) == targets).float()], dim=-1)
    return measures


def compute_metrics(prediction):
    """Masked accuracy and perplexity over all tokens to predict."""
    measures = prediction.predictions[prediction.label_ids != -100].astype(np.float64)
    loss, accuracy = measures.mean(0)
    return {"accuracy": accuracy, "perplexity": math.exp(loss)}


def unigram_perplexity(train_sequences, eval_sequences, collator, vocab_size, special_ids):
    """The perplexity, on the very tokens that the model is evaluated on, of a model that knows only how often each is."""

    def count(batches):
        return sum(np.bincount(np.concatenate(batch), minlength=vocab_size) for batch in batches)

    frequencies = count(batch["input_ids"] for batch in train_sequences.with_format("numpy").iter(batch_size=1000))
    frequencies[special_ids] = 0
    labels = (collator([{"input_ids": ids} for ids in batch["input_ids"]])["labels"] for batch in eval_sequences.iter(256))
    targets = count([batch[batch != -100].numpy()] for batch in labels)
    log_probabilities = np.log(frequencies + 1) - np.log((frequencies + 1).sum())
    return math.exp(-(targets * log_probabilities).sum() / targets.sum())


def show_filled_masks(model, tokenizer, sentences):
    fill = transformers.pipeline("fill-mask", model=model, tokenizer=tokenizer, device="cpu", top_k=5)
    print("\nWhat the model puts in place of a mask:")
    for sentence in sentences:
        guesses = [guess["token_str"].strip() for guess in fill(sentence)]
        print(f"  {sentence}\n      {', '.join(guesses)}")


def parse_arguments(argv):
    parser = HfArgumentParser(
        (ModelArguments, DataArguments, TrainingArguments), description=__doc__.strip().splitlines()[0]
    )
    if len(argv) == 1 and argv[0].endswith(".json"):
        if not os.path.isfile(argv[0]):
            raise BadInput(f"there is no file {argv[0]}.")
        try:
            return parser.parse_json_file(json_file=argv[0])
        except ValueError as error:
            raise BadInput(f"{argv[0]}: {first_line(error)}") from error
    if not argv or "--demo" in argv:
        argv = ["--demo", *DEMO_ARGUMENTS, *(argument for argument in argv if argument != "--demo")]
        print("python run_mlm.py " + " ".join(argv))
    return parser.parse_args_into_dataclasses(argv)


def check_arguments(model_args, data_args, training_args):
    if not (training_args.do_train or training_args.do_eval):
        raise BadInput("there is nothing to do: give --do_train, --do_eval, or both.")
    if data_args.dataset_name is not None and (data_args.train_file or data_args.validation_file):
        raise BadInput("--dataset_name goes with neither --train_file nor --validation_file: give one or the other.")
    resume = training_args.resume_from_checkpoint
    if resume is not None and not is_complete(Path(resume)):
        raise BadInput(f"--resume_from_checkpoint {resume} is no whole checkpoint. Leave it out to take the last one.")
    if data_args.streaming and training_args.do_train and training_args.max_steps <= 0:
        raise BadInput("--streaming needs --max_steps: a stream has no length, so epochs cannot be counted beforehand.")


def main(argv):
    model_args, data_args, training_args = parse_arguments(argv)
    check_arguments(model_args, data_args, training_args)
    set_up_logging(training_args)
    set_seed(training_args.seed)

    # Each step below may refuse, and does so before the long work begins.
    config, hub = load_config(model_args)
    checkpoint = training_args.resume_from_checkpoint or (
        last_complete_checkpoint(training_args.output_dir) if training_args.do_train else None
    )
    texts = load_texts(data_args, model_args, training_args)
    tokenizer = load_tokenizer(checkpoint, texts, config, model_args, training_args, hub)
    if model_args.model_name_or_path is None:
        config = with_vocabulary(config, tokenizer, model_args)
    longest = getattr(config, "max_position_embeddings", tokenizer.model_max_length)
    max_seq_length = data_args.max_seq_length or longest
    special = tokenizer.num_special_tokens_to_add(pair=False)
    if not special < max_seq_length <= longest:
        raise BadInput(
            f"--max_seq_length {max_seq_length} must be from {special + 1} to the model's max_position_embeddings"
            f" = {longest}."
        )
    for folder in (training_args.output_dir, checkpoint):
        if folder is not None and training_args.do_train:
            check_same_model(folder, config, len(tokenizer))

    sequences = {
        split: make_sequences(split, texts[split], tokenizer, max_seq_length, data_args, training_args)
        for split, wanted in (("train", training_args.do_train), ("validation", training_args.do_eval))
        if wanted and split in texts
    }
    if training_args.do_eval and "validation" not in sequences:
        raise BadInput("--do_eval needs text to evaluate on: give --validation_file.")

    set_seed(training_args.seed)
    model = load_model(config, model_args, hub)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    # The head over the vocabulary is a large part of a small model's work: only the tokens to predict need it
    model.sparse_prediction = True

    collator = MaskingCollator(
        tokenizer,
        training_args.seed,
        mlm_probability=data_args.mlm_probability,
        pad_to_multiple_of=max_seq_length if data_args.pad_to_max_length else None,
    )
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=sequences.get("train"),
        eval_dataset=sequences.get("validation"),
        processing_class=tokenizer,
        data_collator=collator,
        compute_metrics=compute_metrics,
        preprocess_logits_for_metrics=token_losses,
        callbacks=[NewMasksEachEpoch(collator)],
    )

    if training_args.do_train:
        if checkpoint is not None:
            logger.info(f"Going on from {checkpoint}")
        result = trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model()
        trainer.log_metrics("train", result.metrics)
        trainer.save_metrics("train", result.metrics)
        trainer.save_state()

    if training_args.do_eval:
        collator.epoch = 0
        metrics = trainer.evaluate()
        if "train" in sequences and not data_args.streaming:
            metrics["eval_unigram_perplexity"] = unigram_perplexity(
                sequences["train"], sequences["validation"], collator, len(tokenizer), tokenizer.all_special_ids
            )
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)

    if training_args.do_train:
        card = {"tasks": "fill-mask", "finetuned_from": model_args.model_name_or_path}
        if data_args.dataset_name is not None:
            card |= {"dataset": data_args.dataset_name, "dataset_tags": data_args.dataset_name}
            if data_args.dataset_config_name is not None:
                card["dataset_args"] = data_args.dataset_config_name
        if training_args.push_to_hub:
            trainer.push_to_hub(**card)
        else:
            trainer.create_model_card(**card)

    if trainer.is_world_process_zero() and training_args.do_eval:
        if "eval_unigram_perplexity" in metrics:
            unigram = metrics["eval_unigram_perplexity"]
            print(f"\nHeld-out perplexity {metrics['eval_perplexity']:.1f}", end="")
            print(f", against {unigram:.1f} of a unigram model on the same masked tokens", end="")
            print(f" ({metrics['eval_perplexity'] / unigram:.2f} of it)")
        if data_args.demo:
            show_filled_masks(trainer.accelerator.unwrap_model(model), tokenizer, DEMO_SENTENCES)
        if training_args.do_train:
            print(f"\nThe model is in {training_args.output_dir}")


def set_up_logging(training_args):
    level = training_args.get_process_log_level()
    transformers.utils.logging.set_verbosity(level)
    transformers.utils.logging.enable_default_handler()
    datasets.utils.logging.set_verbosity_warning()
    logger.setLevel("INFO" if training_args.should_log else "WARNING")
    if not training_args.should_log:
        datasets.disable_progress_bars()


def load_tokenizer(checkpoint, texts, config, model_args, training_args, hub):
    """The checkpoint's own tokenizer, the one that is named, or one trained on the training text."""
    name = model_args.tokenizer_name or model_args.model_name_or_path
    if name is None and checkpoint is None:
        if "train" not in texts:
            raise BadInput("without training text there is no tokenizer to train: give --tokenizer_name.")
        # Trained by one process and read by all: the text may be long
        with training_args.main_process_first(desc="training the tokenizer"):
            if training_args.process_index == 0:
                logger.info(f"Training a byte-level BPE of {model_args.vocab_size} tokens on the training text")
                tokenizer = train_tokenizer(texts["train"], model_args.vocab_size, config.max_position_embeddings)
                # Before anything is written into the folder
                check_same_model(training_args.output_dir, with_vocabulary(config, tokenizer, model_args), len(tokenizer))
                tokenizer.save_pretrained(training_args.output_dir)
                return tokenizer
        return RobertaTokenizer.from_pretrained(training_args.output_dir)
    try:
        return AutoTokenizer.from_pretrained(name or checkpoint, use_fast=model_args.use_fast_tokenizer, **hub)
    except (OSError, ValueError) as error:
        raise BadInput(f"--tokenizer_name {name or checkpoint}: {first_line(error)}") from error


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


def load_model(config, model_args, hub):
    if model_args.model_name_or_path is None:
        dtype = None if model_args.dtype in (None, "auto") else getattr(torch, model_args.dtype)
        return AutoModelForMaskedLM.from_config(config, dtype=dtype)
    try:
        return AutoModelForMaskedLM.from_pretrained(
            model_args.model_name_or_path, config=config, dtype=model_args.dtype or "auto", **hub
        )
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise BadInput(f"--model_name_or_path {model_args.model_name_or_path}: {first_line(error)}") from error


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BadInput as error:
        sys.exit(f"run_mlm.py: error: {error}")
