# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Pretrain a Linformer by masked language modeling, from scratch or from a checkpoint, on a dataset or on text files.

    linformer-mlm                     # a demonstration: no download, less than 4 minutes on two CPU cores
    linformer-mlm --help
    linformer-mlm arguments.json

In a checkout, `python run_mlm.py` is the same command. When a run is killed, the same command continues it from its last
complete checkpoint.
"""

import copy
import sys
from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoModelForMaskedLM, TrainingArguments, pipeline, set_seed

from ..arguments import run_command
from ..errors import UsageError
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
from ..training.masked_lm import METRICS, MaskingCollator, NewMasksEachEpoch, compute_metrics, token_losses, unigram_perplexity
from ..training.run_record import begin_run, output_folder
from ..training.trainer import LinformerTrainer, finish, pad_to_multiple_of


# What the command runs without arguments. Arguments after `--demo` change these settings.
DEMO_ARGUMENTS = [
    "--output_dir=linformer-demo",
    "--do_train",
    "--do_eval",
    "--config_overrides=hidden_size=128,num_hidden_layers=2,num_attention_heads=4,intermediate_size=512,"
    "max_position_embeddings=128,projected_dim=8,block_size=8,projection_type=mean_pool,"
    "far_token_limit=8,relative_attention_num_buckets=32,"
    "hidden_dropout_prob=0.0,attention_probs_dropout_prob=0.0",
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
    "This function returns a <mask> of all the items in the dictionary.",
    "If the file does not exist, an <mask> is raised.",
    "It can be used as <mask> context manager.",
]


@dataclass
class MaskedLMArguments(TextArguments):
    """These arguments say which text is read, how it is cut into sequences, and how much of it is masked."""

    mlm_probability: float = field(default=0.15, metadata={"help": "The part of the tokens to predict."})

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.mlm_probability <= 1:
            raise UsageError(f"--mlm_probability is {self.mlm_probability}; it must be above 0 and at most 1.")


def read_arguments(argv):
    """Returns the arguments; without any, or with `--demo`, those of the demonstration."""
    if not argv or "--demo" in argv:
        argv = ["--demo", *DEMO_ARGUMENTS, *(argument for argument in argv if argument != "--demo")]
        print(f"{Path(sys.argv[0]).name} {' '.join(argv)}")
    argument_classes = (ModelArguments, MaskedLMArguments, TrainingArguments)
    return parse_training_arguments(argv, argument_classes, description=__doc__.strip().splitlines()[0])


def main(argv):
    model_args, data_args, training_args = read_arguments(argv)
    check_training_arguments(data_args, training_args)
    check_best_metric(training_args, METRICS)
    with output_folder(training_args):
        pretrain(model_args, data_args, training_args)


def pretrain(model_args, data_args, training_args):
    """Trains and evaluates, as the arguments say."""
    set_up_logging(training_args)
    set_seed(training_args.seed)

    # Each of these steps may refuse, and does so before the long work begins
    config = steps.config_of(model_args)
    checkpoint = steps.find_checkpoint(training_args)
    texts = steps.texts_of(data_args, training_args, cache_dir=model_args.cache_dir, token=model_args.token)
    tokenizer, config = steps.prepare_tokenizer(model_args, training_args, config, checkpoint, texts.get("train"), mask=True)
    max_seq_length = steps.set_max_seq_length(data_args, config, tokenizer)
    steps.check_used_folders(config, vocabulary_size(tokenizer), training_args, checkpoint)

    sequences = steps.sequences_of(data_args, training_args, texts, tokenizer, max_seq_length)
    run = begin_run("linformer-mlm", model_args, data_args, training_args, sequences, max_seq_length, checkpoint)
    if run.is_finished:
        return

    set_seed(training_args.seed)
    model = steps.model_of(model_args, AutoModelForMaskedLM, config, tokenizer, new_head=training_args.do_train)
    # The head over the vocabulary is a large part of a small model's work, and only the tokens to predict need it
    model.sparse_prediction = True

    processes = data_args.sequence_parallel_size
    multiple = pad_to_multiple_of(config, processes, max_seq_length)
    collator = MaskingCollator(
        tokenizer,
        training_args.seed,
        mlm_probability=data_args.mlm_probability,
        pad_to_multiple_of=max_seq_length if data_args.pad_to_max_length else multiple,
    )
    trainer = LinformerTrainer(
        model=model,
        args=training_args,
        train_dataset=sequences.get("train"),
        eval_dataset=sequences.get("validation"),
        processing_class=tokenizer,
        data_collator=collator,
        eval_data_collator=copy.copy(collator),  # whose epoch stays 0, so that evaluations mask the same tokens
        compute_metrics=compute_metrics,
        preprocess_logits_for_metrics=token_losses,
        callbacks=[NewMasksEachEpoch(collator)],
        card=steps.card_of(model_args, data_args, "fill-mask", f"The {tokenizer.mask_token} is here."),
        sequence_parallel_size=processes,
    )

    def evaluate():
        metrics = trainer.evaluate()
        if "train" in sequences and not data_args.streaming:
            metrics["eval_unigram_perplexity"] = unigram_perplexity(
                sequences["train"],
                sequences["validation"],
                trainer.eval_data_collator,
                vocabulary_size(tokenizer),
                tokenizer.all_special_ids,
            )
        return metrics

    metrics = finish(trainer, run, checkpoint, evaluate)
    if trainer.is_world_process_zero() and training_args.do_eval:
        print_perplexity(metrics)
        if data_args.demo:
            print_filled_masks(trainer.accelerator.unwrap_model(model), tokenizer, DEMO_SENTENCES)
        if training_args.do_train:
            print(f"\nThe model is in {training_args.output_dir}")


def print_perplexity(metrics):
    """Prints the model's perplexity beside that of a unigram model, if there is one to compare with."""
    unigram = metrics.get("eval_unigram_perplexity")
    perplexity = metrics.get("eval_perplexity")
    if unigram is not None and perplexity is not None:
        print(
            f"\nHeld-out perplexity {perplexity:.1f}, against {unigram:.1f} of a unigram model on the same masked tokens"
            f" ({perplexity / unigram:.2f} of it)"
        )


def print_filled_masks(model, tokenizer, sentences):
    """Prints the model's five first guesses for the mask in each sentence."""
    fill = pipeline("fill-mask", model=model, tokenizer=tokenizer, device="cpu", top_k=5)
    print("\nWhat the model puts in place of a mask:")
    for sentence in sentences:
        guesses = [guess["token_str"].strip() for guess in fill(sentence)]
        print(f"  {sentence}\n      {', '.join(guesses)}")


def run():
    run_command(main)


if __name__ == "__main__":
    run()
