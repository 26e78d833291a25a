# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Steps that several commands take, with the arguments of these commands."""

import re

import transformers
from accelerate.utils import broadcast_object_list
from transformers import RobertaTokenizer

from ..errors import UsageError
from ..loading import (
    check_max_seq_length,
    default_config,
    load_config,
    load_model,
    load_tokenizer,
    max_input_length,
    new_model,
    override,
)
from ..model_card import TrainingCard
from ..tokenization import check_vocabulary, fit_length, fit_vocabulary, grow_embeddings, train_tokenizer, vocabulary_size
from .checkpoints import check_same_model, checkpoint_to_resume
from .data import hold_out_last
from .run_record import has_trained_model
from .text import demo_texts, load_texts, make_sequences, stream_sequences


logger = transformers.utils.logging.get_logger("transformers.linformer")


def config_of(model_args):
    """Returns the configuration that `ModelArguments` describe. From scratch its vocabulary is still the default one."""
    if model_args.model_name_or_path is not None:
        config = load_config(model_args.model_name_or_path, **model_args.hub_kwargs)
    elif model_args.config_name is not None:
        config = load_config(model_args.config_name, "config_name", **model_args.hub_kwargs)
    else:
        config = default_config(model_args.model_type)
    return override(config, model_args.config_overrides)


def find_checkpoint(training_args):
    """Returns the checkpoint that the main process finds to go on from, or None if there is none or nothing is trained."""
    checkpoint = None
    if training_args.do_train and training_args.process_index == 0:
        with_best = training_args.load_best_model_at_end
        checkpoint = checkpoint_to_resume(training_args.output_dir, training_args.resume_from_checkpoint, with_best)
    return broadcast_object_list([checkpoint])[0]


def check_used_folders(config, vocab_size, training_args, checkpoint):
    """Refuses to train another model than the one that the output folder, or the checkpoint, holds."""
    if training_args.do_train:
        for folder in filter(None, (training_args.output_dir, checkpoint)):
            check_same_model(config, folder, vocab_size)


def prepare_tokenizer(model_args, training_args, config, checkpoint=None, texts=None, mask=False, may_grow=True):
    """
    Returns the tokenizer to train with, and the configuration that fits it.

    That is the tokenizer of `--tokenizer_name`, of the model that training starts from, or of the checkpoint that it goes
    on from, or of the model in the output folder if it is trained. Where there is none of these, the main process trains
    one on the dataset `texts` and saves it to the output folder, from which the other processes read it. `mask` says
    whether a mask token is needed, and `may_grow` whether the embeddings of a checkpoint grow for a larger tokenizer, see
    `model_of`, if the model is trained.
    """

    def fitted(tokenizer):
        if model_args.model_name_or_path is not None:
            return config
        return fit_vocabulary(config, tokenizer, re.search(r"(^|,)\s*vocab_size\s*=", model_args.config_overrides or ""))

    name = model_args.tokenizer_name or model_args.model_name_or_path or checkpoint
    if name is None and has_trained_model(training_args):
        name = training_args.output_dir
    if name is not None:
        tokenizer = load_tokenizer(name, mask, use_fast=model_args.use_fast_tokenizer, **model_args.hub_kwargs)
        if model_args.model_name_or_path is not None and not (may_grow and training_args.do_train):
            check_vocabulary(tokenizer, config.vocab_size, name)
        return tokenizer, fitted(tokenizer)
    if texts is None:
        raise UsageError("without training text there is no tokenizer to train: give --tokenizer_name.")
    with training_args.main_process_first(desc="training the tokenizer"):
        if training_args.process_index == 0:
            logger.info(f"Training a byte-level BPE of {model_args.vocab_size} tokens on the training text")
            tokenizer = train_tokenizer(texts, model_args.vocab_size, config.max_position_embeddings)
            if training_args.do_train:  # before anything is written into the folder
                check_same_model(fitted(tokenizer), training_args.output_dir, vocabulary_size(tokenizer))
            tokenizer.save_pretrained(training_args.output_dir)
    # Only now, as the first process of each other machine does not wait at the beginning of the block above
    if training_args.process_index != 0:
        tokenizer = RobertaTokenizer.from_pretrained(training_args.output_dir)
    return tokenizer, fitted(tokenizer)


def set_max_seq_length(data_args, config, tokenizer):
    """Returns the longest input of the run in tokens, and tells a Linformer's tokenizer what the model can read."""
    if config.model_type == "linformer":
        fit_length(tokenizer, max_input_length(config))  # whatever model the tokenizer was made for
    special_tokens = tokenizer.num_special_tokens_to_add(pair=False)
    return check_max_seq_length(data_args.max_seq_length, config, special_tokens)


def texts_of(data_args, training_args, **options):
    """Returns the splits that `TextArguments` describe, see `parts_of`. `options` are those of `datasets.load_dataset`."""
    if data_args.demo:
        texts = demo_texts(data_args.streaming)
    else:
        options |= {"text_column": data_args.text_column, "streaming": data_args.streaming}
        texts = load_texts(data_args.dataset_name, data_args.dataset_config_name, data_args.files, **options)
    return parts_of(texts, data_args, training_args)


def parts_of(splits, data_args, training_args):
    """
    Returns the splits `train` and, if it is evaluated on, `validation`, each with as many rows as `DataArguments` say.

    Without a validation set, the last part of the training data is held out, but only if there is something to evaluate.
    """
    if training_args.do_train and "train" not in splits:
        raise UsageError(f"--do_train needs a split `train`, but the data has only {', '.join(splits)}.")
    if training_args.do_eval and "validation" not in splits:
        if "train" not in splits:
            raise UsageError("--do_eval needs data to evaluate on: give --validation_file.")
        part = data_args.validation_split_percentage
        logger.warning(f"There is no validation data, so the last {part} % of the training data are held out for it")
        splits["train"], splits["validation"] = hold_out_last(splits["train"], part)
    for split, limit in (("train", data_args.max_train_samples), ("validation", data_args.max_eval_samples)):
        if limit is not None and split in splits:
            splits[split] = splits[split].take(limit)
    return splits


def sequences_of(data_args, training_args, texts, tokenizer, max_seq_length):
    """Returns the sequences of the splits that are trained and evaluated on, as `TextArguments` say, as a dictionary."""
    wanted = ["train"] * training_args.do_train + ["validation"] * training_args.do_eval
    sequences = {}
    for split in wanted:
        arguments = (texts[split], tokenizer, max_seq_length, data_args.line_by_line)
        with training_args.main_process_first(desc=f"tokenizing {split}"):
            logger.info(f"The {split} data")
            try:
                if data_args.streaming:
                    sequences[split] = stream_sequences(*arguments, seed=training_args.seed if split == "train" else None)
                else:
                    sequences[split] = make_sequences(*arguments, desc=f"Tokenizing {split}", **data_args.map_kwargs)
            except UsageError as error:
                raise UsageError(f"{split} data: {error}") from error
    return sequences


def model_of(model_args, auto_class, config, tokenizer, **options):
    """
    Returns the model of `--model_name_or_path`, or a new one. `options` are those of `load_model`.

    Where the tokenizer has more tokens than the checkpoint, the embeddings grow.
    """
    if model_args.model_name_or_path is None:
        return new_model(auto_class, config, model_args.dtype, model_args.trust_remote_code)
    options |= model_args.hub_kwargs | {"overrides": model_args.config_overrides}
    model = load_model(auto_class, model_args.model_name_or_path, config, model_args.dtype, **options)
    grow_embeddings(model, tokenizer)
    return model


def card_of(model_args, data_args, task, example):
    """Returns what the card of the trained model is to say. `task` is what `pipeline` calls the task of the `example`."""
    return TrainingCard(
        task,
        example,
        base_model=model_args.model_name_or_path,
        dataset=data_args.dataset_name,
        dataset_config=data_args.dataset_config_name,
        files=tuple(path for path in (data_args.train_file, data_args.validation_file) if path is not None),
    )
