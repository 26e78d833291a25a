# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Distil the original into its converted Linformer: on plain text, the Linformer learns to give the original's hidden states.

    linformer-distill --teacher_name_or_path FacebookAI/roberta-base --model_name_or_path linformer-roberta \\
        --train_file text.txt --do_train --do_eval --output_dir distilled
    linformer-distill --help
    linformer-distill arguments.json

Distillation needs no labels. It does not train the head, which then reads nearly the original's hidden states. For inputs
that are longer than the teacher reads, go on by masked language modeling (`linformer-mlm`). When a run is killed, the same
command continues it from its last complete checkpoint.
"""

from dataclasses import dataclass, field

from transformers import AutoModel, DataCollatorWithPadding, TrainingArguments, set_seed

import modeling_linformer

from ..arguments import run_command
from ..errors import UsageError
from ..loading import load_config, load_model, max_input_length
from ..tokenization import vocabulary_size
from ..training import steps
from ..training.arguments import (
    ModelArguments,
    TextArguments,
    check_best_metric,
    check_training_arguments,
    parse_training_arguments,
    set_up_logging,
)
from ..training.distillation import METRICS, DistillationTrainer, compute_metrics
from ..training.run_record import begin_run, output_folder
from ..training.trainer import finish, pad_to_multiple_of, padding


@dataclass
class DistillationArguments(ModelArguments):
    """These arguments name the student, which is a Linformer, and the teacher, whose hidden states it learns to give."""

    teacher_name_or_path: str | None = field(
        default=None, metadata={"help": "The model that the Linformer was converted from."}
    )


def student_of(model_args, config, tokenizer):
    """Returns the Linformer with the head that it was saved with. Only the encoder will be trained."""
    name = (config.architectures or ["LinformerModel"])[0]
    if not hasattr(modeling_linformer, name):
        raise UsageError(f"--model_name_or_path {model_args.model_name_or_path} holds a {name}, not a Linformer.")
    student = steps.model_of(model_args, getattr(modeling_linformer, name), config, tokenizer)
    # The head is no part of the loss
    encoder = student.base_model
    trained = {id(parameter) for module in (encoder.embeddings, encoder.encoder) for parameter in module.parameters()}
    for parameter in student.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    return student


def load_teacher(name, config, **hub_kwargs):
    """Returns the teacher. Raises `UsageError` if its sizes are not those of the student's configuration."""
    argument = "teacher_name_or_path"
    theirs = load_config(name, argument, **hub_kwargs)
    for field_name in ("hidden_size", "num_hidden_layers", "vocab_size"):
        if getattr(theirs, field_name, None) != getattr(config, field_name):
            raise UsageError(
                f"--teacher_name_or_path {name} is not what the Linformer was converted from: its"
                f" {field_name} is {getattr(theirs, field_name, None)}, not {getattr(config, field_name)}."
            )
    return load_model(AutoModel, name, theirs, argument=argument, **hub_kwargs)


def main(argv):
    argument_classes = (DistillationArguments, TextArguments, TrainingArguments)
    model_args, data_args, training_args = parse_training_arguments(argv, argument_classes, __doc__.strip().splitlines()[0])
    if model_args.teacher_name_or_path is None or model_args.model_name_or_path is None:
        raise UsageError("give --teacher_name_or_path, and --model_name_or_path with what linformer-convert made of it.")
    check_training_arguments(data_args, training_args)
    check_best_metric(training_args, METRICS)
    with output_folder(training_args):
        distil(model_args, data_args, training_args)


def distil(model_args, data_args, training_args):
    """Trains and evaluates, as the arguments say."""
    set_up_logging(training_args)
    set_seed(training_args.seed)

    # Each of these steps may refuse, and does so before the long work begins
    config = steps.config_of(model_args)
    checkpoint = steps.find_checkpoint(training_args)
    texts = steps.texts_of(data_args, training_args, cache_dir=model_args.cache_dir, token=model_args.token)
    tokenizer, config = steps.prepare_tokenizer(model_args, training_args, config, checkpoint, may_grow=False)
    teacher = load_teacher(model_args.teacher_name_or_path, config, **model_args.hub_kwargs)
    longest = max_input_length(teacher.config)
    if data_args.max_seq_length is None:
        data_args.max_seq_length = min(longest, config.max_position_embeddings)
    max_seq_length = steps.set_max_seq_length(data_args, config, tokenizer)
    if max_seq_length > longest:
        raise UsageError(
            f"--max_seq_length {max_seq_length} is more than the {longest} tokens that the teacher reads: for longer"
            " inputs go on with linformer-mlm."
        )
    steps.check_used_folders(config, vocabulary_size(tokenizer), training_args, checkpoint)
    sequences = steps.sequences_of(data_args, training_args, texts, tokenizer, max_seq_length)
    run = begin_run("linformer-distill", model_args, data_args, training_args, sequences, max_seq_length, checkpoint)
    if run.is_finished:
        return

    set_seed(training_args.seed)
    processes = data_args.sequence_parallel_size
    trainer = DistillationTrainer(
        model=student_of(model_args, config, tokenizer),
        teacher=teacher,
        args=training_args,
        train_dataset=sequences.get("train"),
        eval_dataset=sequences.get("validation"),
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(
            tokenizer,
            pad_to_multiple_of=pad_to_multiple_of(config, processes, max_seq_length),
            **padding(max_seq_length, data_args.pad_to_max_length),
        ),
        compute_metrics=compute_metrics,
        card=steps.card_of(model_args, data_args, "feature-extraction", "This is a sentence."),
        sequence_parallel_size=processes,
    )
    finish(trainer, run, checkpoint)


def run():
    run_command(main)


if __name__ == "__main__":
    run()
