# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Train an encoder to find passages that know their document: it reads documents complete, and passages become vectors.

    linformer-passages --model_name_or_path long-minilm --train_file documents.jsonl --do_train --do_eval --output_dir finder
    linformer-passages --help
    linformer-passages arguments.json

Each row of the data is a document. It may have `sections`, a list of objects with `heading` and `text`, and a `title`: each
heading is a query that the passages of its section answer. Or it has `text` and `passages`, a list of objects with `start`,
`end` and `queries`. Or it has `passages` alone, a list of objects with `text` and `queries`. When a run is killed, the same
command continues it from its last complete checkpoint.
"""

from dataclasses import dataclass, field

from transformers import AutoModel, TrainingArguments, set_seed

from ..arguments import run_command
from ..conversion.sentence_modules import read_sentence_modules, with_mean_pooling, write_sentence_modules
from ..errors import UsageError, first_line
from ..loading import max_input_length
from ..passages import prompts_of
from ..tokenization import vocabulary_size
from ..training import steps
from ..training.arguments import (
    DataArguments,
    ModelArguments,
    check_best_metric,
    check_training_arguments,
    parse_training_arguments,
    set_up_logging,
)
from ..training.data import check_source, read_dataset, read_files
from ..training.passages import METRICS, PassageCollator, PassageTrainer, compute_metrics, make_examples
from ..training.run_record import begin_run, output_folder
from ..training.trainer import finish, padding


FILE_TYPES = ("json", "jsonl")


@dataclass
class PassageArguments(DataArguments):
    """These arguments say which documents are read, and how they are learned from."""

    passage_words: int = field(default=120, metadata={"help": "About how many words the passages of sections have."})
    temperature: float = field(default=0.05, metadata={"help": "What similarities are divided by in the loss."})
    memory_size: int = field(
        default=512,
        metadata={"help": "How many passages of earlier batches compete with those of a batch, as they were when read."},
    )

    def __post_init__(self):
        super().__post_init__()
        if self.text_column is not None:
            raise UsageError(
                f"--text_column {' '.join(self.text_column)} is for texts, and rows here are documents: leave it out."
            )
        if self.passage_words < 1:
            raise UsageError(f"--passage_words is {self.passage_words}; it must be at least 1.")
        if not self.temperature > 0:
            raise UsageError(f"--temperature is {self.temperature}; it must be above 0.")
        if self.memory_size < 0:
            raise UsageError(f"--memory_size is {self.memory_size}; it must be a number of passages, or 0 for none.")


@dataclass
class PassageTrainingArguments(TrainingArguments):
    """The arguments of Trainer, with defaults for a sentence encoder that is trained on some hundred documents."""

    learning_rate: float = field(default=1e-4, metadata={"help": "The learning rate at its highest."})
    num_train_epochs: float = field(default=1.0, metadata={"help": "How often each document is read."})
    per_device_train_batch_size: int = field(
        default=6, metadata={"help": "The number of documents that are read together, and whose passages are compared."}
    )


def documents_of(data_args, training_args, **options):
    """Returns the splits of documents that are needed, `train` and `validation`. `options` are those of `load_dataset`."""
    files = {"train_file": data_args.train_file, "validation_file": data_args.validation_file}
    check_source(data_args.dataset_name, files)
    if data_args.dataset_name is not None:
        splits = read_dataset(data_args.dataset_name, data_args.dataset_config_name, **options)
    elif any(files.values()):
        splits = read_files(files, FILE_TYPES, cache_dir=options["cache_dir"])
    else:
        raise UsageError("there are no documents: give --dataset_name, or --train_file.")
    splits = steps.parts_of(splits, data_args, training_args)
    wanted = {"train": training_args.do_train, "validation": training_args.do_eval}
    return {split: splits[split] for split in wanted if wanted[split]}


def modules_of(model_args, config):
    """Returns the files that make the trained model one of sentence-transformers, with the prompts of what it starts from."""
    name = model_args.model_name_or_path
    try:
        files = read_sentence_modules(name, **model_args.hub_kwargs)
    except ValueError as error:
        raise UsageError(f"--model_name_or_path {name}: {first_line(error)}") from error
    if any("_Dense/" in path for path in files):
        raise UsageError(
            f"--model_name_or_path {name} has a Dense module, and only the transformer is trained: name its source, or delete"
            " modules.json to leave the module out."
        )
    if files.get("config_sentence_transformers.json", {}).get("model_type") == "CrossEncoder":
        files = {}  # of which the encoder alone is kept
    return with_mean_pooling(files, config.hidden_size)


def encoder_of(model_args, config, tokenizer):
    """Returns the encoder. A pooler stays as it is, as it is no part of a passage's vector."""
    encoder = steps.model_of(model_args, AutoModel, config, tokenizer)
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler.requires_grad_(False)
    return encoder


def main(argv):
    argument_classes = (ModelArguments, PassageArguments, PassageTrainingArguments)
    model_args, data_args, training_args = parse_training_arguments(argv, argument_classes, __doc__.strip().splitlines()[0])
    if model_args.model_name_or_path is None:
        raise UsageError("which encoder? Give --model_name_or_path, for example with what linformer-convert wrote.")
    check_training_arguments(data_args, training_args)
    if training_args.label_smoothing_factor:
        raise UsageError(f"--label_smoothing_factor {training_args.label_smoothing_factor} is for classes: leave it out.")
    check_best_metric(training_args, METRICS)
    with output_folder(training_args):
        learn(model_args, data_args, training_args)


def learn(model_args, data_args, training_args):
    """Trains and evaluates, as the arguments say."""
    set_up_logging(training_args)
    set_seed(training_args.seed)

    # Each of these steps may refuse, and does so before the long work begins
    config = steps.config_of(model_args)
    modules = modules_of(model_args, config)
    checkpoint = steps.find_checkpoint(training_args)
    documents = documents_of(data_args, training_args, cache_dir=model_args.cache_dir, token=model_args.token)
    tokenizer, config = steps.prepare_tokenizer(model_args, training_args, config, checkpoint, may_grow=False)
    max_seq_length = steps.set_max_seq_length(data_args, config, tokenizer)
    steps.check_used_folders(config, vocabulary_size(tokenizer), training_args, checkpoint)
    prompts = prompts_of(modules["config_sentence_transformers.json"].get("prompts") or {})
    examples = {}
    for split, dataset in documents.items():
        with training_args.main_process_first(desc=f"tokenizing {split}"):
            options = (max_seq_length, data_args.passage_words, prompts)
            examples[split] = make_examples(split, dataset, tokenizer, *options, **data_args.map_kwargs)
    run = begin_run("linformer-passages", model_args, data_args, training_args, examples, max_seq_length, checkpoint)
    if run.is_finished:
        return

    set_seed(training_args.seed)
    card = steps.card_of(model_args, data_args, "sentence-similarity", "A passage.")
    card.sentence_class = "SentenceTransformer"
    trainer = PassageTrainer(
        model=encoder_of(model_args, config, tokenizer),
        args=training_args,
        train_dataset=examples.get("train"),
        eval_dataset=examples.get("validation"),
        processing_class=tokenizer,
        data_collator=PassageCollator(tokenizer, **padding(max_seq_length, data_args.pad_to_max_length)),
        compute_metrics=compute_metrics,
        card=card,
        temperature=data_args.temperature,
        memory_size=data_args.memory_size,
    )
    finish(
        trainer,
        run,
        checkpoint,
        write=lambda: write_sentence_modules(modules, training_args.output_dir, max_input_length(config)),
    )


def run():
    run_command(main)


if __name__ == "__main__":
    run()
