# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains the tokenizer of a model from scratch, and fits models and configurations to a tokenizer."""

import json

import transformers
from tokenizers import AddedToken, ByteLevelBPETokenizer
from transformers import RobertaTokenizer

from .errors import UsageError


logger = transformers.utils.logging.get_logger("transformers.linformer.tokenization")


def train_tokenizer(texts, vocab_size, max_length):
    """
    Returns a byte-level BPE with RoBERTa's special tokens, trained on all columns of the dataset `texts`.

    Raises `UsageError` if `vocab_size` is less than the number of special tokens and bytes.
    """
    bpe = ByteLevelBPETokenizer()
    special_tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    least = len(special_tokens) + 256
    if vocab_size < least:
        raise UsageError(f"--vocab_size is {vocab_size}; it must be at least {least}, as each byte is a token.")
    batches = ([text for column in batch.values() for text in column if text] for batch in texts.iter(batch_size=1000))
    bpe.train_from_iterator(batches, vocab_size=vocab_size, min_frequency=2, special_tokens=special_tokens)
    model = json.loads(bpe.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    # The space before a mask is a part of it, as it is a part of the words that masks replace in training
    mask_token = AddedToken("<mask>", lstrip=True, special=True)
    return RobertaTokenizer(vocab=model["vocab"], merges=merges, mask_token=mask_token, model_max_length=max_length)


def vocabulary_size(tokenizer):
    """Returns the number of embeddings that are needed. It exceeds `len(tokenizer)` if the token ids leave gaps."""
    return max(tokenizer.get_vocab().values()) + 1


def check_vocabulary(tokenizer, vocab_size, name):
    """Raises `UsageError` if the tokenizer, which is that of `name`, has more tokens than a model that is not trained."""
    tokens = vocabulary_size(tokenizer)
    if tokens > vocab_size:
        raise UsageError(
            f"--tokenizer_name {name}: the tokenizer has {tokens} tokens, the model only {vocab_size}, and embeddings grow"
            " only where linformer-mlm or linformer-glue trains them: name the model's own tokenizer."
        )


def grow_embeddings(model, tokenizer):
    """Gives the model random embeddings for the tokens that it lacks, if there are any."""
    tokens, rows = vocabulary_size(tokenizer), model.get_input_embeddings().num_embeddings
    if tokens > rows:
        logger.warning(f"The tokenizer has {tokens} tokens, the checkpoint {rows}: the embeddings grow by random rows")
        model.resize_token_embeddings(tokens)


def fit_vocabulary(config, tokenizer, vocab_size_is_given=False):
    """
    Returns the configuration with the tokenizer's special tokens, and with its vocabulary.

    A `vocab_size` that the user gave stays, as it may leave room for more tokens; too small a one is refused.
    """
    tokens = vocabulary_size(tokenizer)
    if vocab_size_is_given and config.vocab_size < tokens:
        raise UsageError(f"--config_overrides: vocab_size={config.vocab_size} is less than the tokenizer's {tokens} tokens.")
    changes = {"vocab_size": config.vocab_size if vocab_size_is_given else tokens}
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        changes[name] = getattr(tokenizer, name)
    return type(config)(**(config.to_dict() | changes))


def fit_length(tokenizer, length):
    """
    Makes all files of the tokenizer say that inputs are cut at `length` tokens, and padded on the right.

    transformers replaces what tokenizer.json says about cutting and padding whenever it is asked to cut or pad. Programs that
    read this file alone do as it says.
    """
    tokenizer.model_max_length = length
    tokenizer.padding_side = "right"
    tokenizer.init_kwargs.pop("max_length", None)
    if not tokenizer.is_fast:
        return
    backend = tokenizer.backend_tokenizer
    if backend.truncation is not None:
        backend.enable_truncation(**backend.truncation | {"max_length": length})
    if backend.padding is not None:  # to the longest input of a batch
        backend.enable_padding(**backend.padding | {"length": None, "direction": "right", "pad_to_multiple_of": None})


def identity_of(tokenizer):
    """
    Returns what decides how a tokenizer tokenizes, in a form that can be hashed.

    It is the same for a tokenizer that was saved and loaded again, so that nothing is tokenized twice.
    """
    if not tokenizer.is_fast:
        return type(tokenizer).__name__, sorted(tokenizer.get_vocab().items()), repr(tokenizer.special_tokens_map)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    return json.dumps({name: value for name, value in state.items() if name not in ("truncation", "padding")})
