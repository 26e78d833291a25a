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
import math
import sysconfig
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np
import torch
import transformers
from datasets import Dataset, DatasetDict
from transformers import (
    AutoModelForMaskedLM,
    DataCollatorForLanguageModeling,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

import run_common
from run_common import BadInput, DataArguments, ModelArguments, ScriptTrainer


logger = transformers.utils.logging.get_logger("transformers.run_mlm")

# What `python run_mlm.py` runs, and what further arguments after `--demo` change.
DEMO_ARGUMENTS = [
    "--output_dir=linformer-demo",
    "--do_train",
    "--do_eval",
    "--config_overrides=hidden_size=128,num_hidden_layers=2,num_attention_heads=4,intermediate_size=512,"
    "max_position_embeddings=128,projected_dim=32,block_size=32,projection_type=mean_pool,hidden_dropout_prob=0.0,attention_probs_dropout_prob=0.0",
    "--vocab_size=8192",
    "--per_device_train_batch_size=16",
    "--learning_rate=2e-3",
    "--warmup_steps=200",
    "--num_train_epochs=8",
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


@dataclass
class TextArguments(DataArguments):
    """What text to train on, and how it is cut into sequences."""

    demo: bool = field(
        default=False,
        metadata={
            "help": "Train a small model on English text that comes with Python. What runs without any argument; other"
            " arguments change its settings."
        },
    )
    mlm_probability: float = field(default=0.15, metadata={"help": "The part of the tokens to predict."})
    line_by_line: bool = field(
        default=False,
        metadata={
            "help": "Whether each text (line) is a sequence of its own, as pairs must be. By default they are packed one after"
            " another."
        },
    )
    streaming: bool = field(
        default=False, metadata={"help": "Read the data while training instead of before it. Needs --max_steps."}
    )
    sequence_parallel_size: int = field(
        default=1,
        metadata={"help": "Processes that share each sequence, for sequences too long for one of them; it divides their number."},
    )

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.mlm_probability <= 1:
            raise BadInput(f"--mlm_probability is {self.mlm_probability}; it must be above 0 and at most 1.")
        if len(self.columns) == 2 and not self.line_by_line:
            raise BadInput(f"--text_column {' '.join(self.text_column)}: pairs are not packed; give --line_by_line too.")
        if self.sequence_parallel_size < 1:
            raise BadInput(f"--sequence_parallel_size is {self.sequence_parallel_size}; it must be at least 1.")

    @property
    def columns(self):
        """What the columns of text are called, once they are loaded."""
        return self.text_column if self.text_column is not None and len(self.text_column) == 2 else ["text"]


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


def load_texts(data_args, model_args, training_args):
    """A dictionary of datasets, `train` and where possible `validation`, with the columns of `TextArguments.columns`."""
    if data_args.demo:
        # Line breaks and indentation would be a large part of the tokens, and easy ones
        texts = [" ".join(text.split()) for text in python_documentation()]
        raw = DatasetDict({"train": Dataset.from_dict({"text": texts})})
        if data_args.streaming:
            raw = datasets.IterableDatasetDict({"train": raw["train"].to_iterable_dataset()})
    else:
        files = {name: getattr(data_args, name) for name in ("train_file", "validation_file")}
        if data_args.dataset_name is None and not any(files.values()):
            raise BadInput("there is nothing to train on: give --dataset_name, --train_file, or --demo.")
        types = ("txt", "csv", "json", "jsonl")
        raw = run_common.load_raw_datasets(data_args, model_args, files, types, data_args.streaming)

    if training_args.do_train and "train" not in raw:
        raise BadInput(f"--do_train needs a split `train`, but the data has only {', '.join(raw)}.")
    for split in raw:
        columns = raw[split].column_names or list(next(iter(raw[split])))
        text_columns = data_args.text_column or ["text" if "text" in columns else columns[0]]
        run_common.check_columns(split, columns, text_columns)
        for text_column in text_columns:
            feature = (raw[split].features or {}).get(text_column)
            if feature is not None and feature.dtype not in ("string", "large_string"):
                raise BadInput(
                    f"--text_column: {text_column} holds {feature.dtype}, not text. Columns: {', '.join(columns)}."
                )
        raw[split] = raw[split].select_columns(text_columns)
        if data_args.columns == ["text"] != text_columns:
            raw[split] = raw[split].rename_column(text_columns[0], "text")

    if "validation" not in raw and "train" in raw and (training_args.do_eval or not data_args.streaming):
        percentage = data_args.validation_split_percentage
        raw["train"], raw["validation"] = run_common.split_off_validation(raw["train"], percentage, training_args.seed)
    for split, limit in (("train", data_args.max_train_samples), ("validation", data_args.max_eval_samples)):
        if limit is not None and split in raw:
            raw[split] = raw[split].take(limit)
    return raw


# Tokens


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
    lines, columns = data_args.line_by_line, data_args.columns

    def tokenize(batch):
        rows = zip(*(batch[column] for column in columns))
        rows = [texts for texts in rows if all(text and not text.isspace() for text in texts)]
        options = {"truncation": True, "max_length": max_seq_length} if lines else {}
        # Texts longer than the model are no mistake here, so nobody needs to be warned of them
        texts = [[row[i] for row in rows] for i in range(len(columns))]
        output = tokenizer(*texts, add_special_tokens=lines, return_attention_mask=False, verbose=False, **options)
        kept = ("input_ids", "token_type_ids") if len(columns) == 2 else ("input_ids",)
        return {name: output[name] for name in kept if name in output}

    if data_args.streaming:
        if split == "train":
            texts = texts.shuffle(seed=training_args.seed, buffer_size=10_000)
        tokenized = texts.map(tokenize, batched=True, remove_columns=columns)
        return tokenized if lines else PackedStream(tokenized, tokenizer, max_seq_length)

    with training_args.main_process_first(desc=f"tokenizing {split}"):
        sequences = texts.map(
            tokenize,
            batched=True,
            remove_columns=columns,
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


def make_all_sequences(texts, tokenizer, max_seq_length, data_args, training_args):
    """`make_sequences` of the splits that are trained and evaluated on, as a dictionary."""
    if training_args.do_eval and "validation" not in texts:
        raise BadInput("--do_eval needs text to evaluate on: give --validation_file.")
    return {
        split: make_sequences(split, texts[split], tokenizer, max_seq_length, data_args, training_args)
        for split, wanted in (("train", training_args.do_train), ("validation", training_args.do_eval))
        if wanted
    }


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
        features = {"input_ids": [input_ids.tolist() for input_ids, _ in masked]}
        if "token_type_ids" in examples[0]:  # of pairs
            features["token_type_ids"] = [example["token_type_ids"] for example in examples]
        batch = self.tokenizer.pad(features, return_tensors="pt", pad_to_multiple_of=self.pad_to_multiple_of)
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
    if not argv or "--demo" in argv:
        argv = ["--demo", *DEMO_ARGUMENTS, *(argument for argument in argv if argument != "--demo")]
        print("python run_mlm.py " + " ".join(argv))
    argument_classes = (ModelArguments, TextArguments, TrainingArguments)
    return run_common.parse_arguments(argv, argument_classes, description=__doc__.strip().splitlines()[0])


def check_arguments(data_args, training_args):
    if not (training_args.do_train or training_args.do_eval):
        raise BadInput("there is nothing to do: give --do_train, --do_eval, or both.")
    if data_args.streaming and training_args.do_train and training_args.max_steps <= 0:
        raise BadInput("--streaming needs --max_steps: a stream has no length, so epochs cannot be counted beforehand.")


def main(argv):
    model_args, data_args, training_args = parse_arguments(argv)
    check_arguments(data_args, training_args)
    run_common.set_up_logging(training_args)
    set_seed(training_args.seed)

    # Each step below may refuse, and does so before the long work begins.
    config, hub = run_common.load_config(model_args)
    checkpoint = run_common.checkpoint_to_resume(training_args)
    texts = load_texts(data_args, model_args, training_args)
    tokenizer = run_common.load_tokenizer(checkpoint, texts.get("train"), config, model_args, training_args, hub)
    if model_args.model_name_or_path is None:
        config = run_common.with_vocabulary(config, tokenizer, model_args)
    max_seq_length = run_common.find_max_seq_length(data_args, config, tokenizer)
    run_common.check_same_model(config, len(tokenizer), training_args, checkpoint)

    sequences = make_all_sequences(texts, tokenizer, max_seq_length, data_args, training_args)

    set_seed(training_args.seed)
    model = run_common.load_model(AutoModelForMaskedLM, config, model_args, hub)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    # The head over the vocabulary is a large part of a small model's work: only the tokens to predict need it
    model.sparse_prediction = True

    collator = MaskingCollator(
        tokenizer,
        training_args.seed,
        mlm_probability=data_args.mlm_probability,
        # A token at least for each process that shares a sequence
        pad_to_multiple_of=max_seq_length
        if data_args.pad_to_max_length
        else run_common.pad_to_multiple_of(config, data_args.sequence_parallel_size, max_seq_length),
    )
    trainer = ScriptTrainer(
        model=model,
        args=training_args,
        train_dataset=sequences.get("train"),
        eval_dataset=sequences.get("validation"),
        processing_class=tokenizer,
        data_collator=collator,
        compute_metrics=compute_metrics,
        preprocess_logits_for_metrics=token_losses,
        callbacks=[NewMasksEachEpoch(collator)],
        task="fill-mask",
        example=f"The {tokenizer.mask_token} is here.",
        model_args=model_args,
        data_args=data_args,
    )

    if training_args.do_train:
        run_common.train(trainer, checkpoint)
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
        run_common.write_model_card(trainer)

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


if __name__ == "__main__":
    run_common.run("run_mlm.py", main)
