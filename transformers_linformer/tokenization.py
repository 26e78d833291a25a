# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""The tokenizer of a model that is trained from scratch, and a configuration that fits it."""

import json

from tokenizers import ByteLevelBPETokenizer
from transformers import RobertaTokenizer

from .errors import UsageError


def train_tokenizer(texts, vocab_size, max_length):
    """Returns a byte-level BPE with RoBERTa's special tokens, trained on all columns of the dataset `texts`."""
    bpe = ByteLevelBPETokenizer()
    special_tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    batches = ([text for column in batch.values() for text in column if text] for batch in texts.iter(batch_size=1000))
    bpe.train_from_iterator(batches, vocab_size=vocab_size, min_frequency=2, special_tokens=special_tokens)
    model = json.loads(bpe.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    return RobertaTokenizer(vocab=model["vocab"], merges=merges, model_max_length=max_length)


def fit_vocabulary(config, tokenizer, vocab_size_is_given=False):
    """
    Returns the configuration with the tokenizer's special tokens, and with its vocabulary.

    A `vocab_size` that the user gave stays, as it may leave room for more tokens; too small a one is refused.
    """
    if vocab_size_is_given and config.vocab_size < len(tokenizer):
        raise UsageError(
            f"--config_overrides: vocab_size={config.vocab_size} is less than the tokenizer's {len(tokenizer)} tokens."
        )
    changes = {"vocab_size": config.vocab_size if vocab_size_is_given else len(tokenizer)}
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        changes[name] = getattr(tokenizer, name)
    return type(config)(**(config.to_dict() | changes))
