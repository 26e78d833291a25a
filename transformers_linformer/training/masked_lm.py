# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Defines masked language modeling: which tokens are masked, and how well a model predicts them."""

import math
import zlib

import numpy as np
import torch
from transformers import DataCollatorForLanguageModeling, TrainerCallback


class MaskingCollator(DataCollatorForLanguageModeling):
    """
    Masks the tokens to predict, with a generator that is seeded from the seed, the epoch and the sequence's own tokens.

    So each epoch masks other tokens, and yet the masks depend on nothing else: neither on the batch, nor on the number of
    processes or of loader workers, nor on whether the run was interrupted. At least one token per sequence is masked.
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
        options = {"return_tensors": "pt", "pad_to_multiple_of": self.pad_to_multiple_of}
        batch = self.tokenizer.pad(features, padding_side="right", **options)  # as the labels are
        labels = torch.full_like(batch["input_ids"], -100)
        for row, (length, (_, row_labels)) in enumerate(zip(lengths, masked)):
            labels[row, :length] = row_labels
        batch["labels"] = labels
        return batch

    def mask(self, input_ids):
        """Returns the sequence with masks, and its labels, both of shape (n,)."""
        seed = zlib.crc32(input_ids.numpy().tobytes(), zlib.crc32(f"{self.masking_seed} {self.epoch}".encode()))
        self.generator = torch.Generator().manual_seed(seed)
        special = self.tokenizer.get_special_tokens_mask(input_ids.tolist(), already_has_special_tokens=True)
        special = torch.tensor(special, dtype=torch.bool)[None]
        while True:
            inputs, labels = self.torch_mask_tokens(input_ids[None].clone(), special_tokens_mask=special)
            if (labels != -100).any() or special.all():
                return inputs[0], labels[0]


class NewMasksEachEpoch(TrainerCallback):
    """Tells a `MaskingCollator` the number of the epoch."""

    def __init__(self, collator):
        self.collator = collator

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.collator.epoch = int(state.epoch)


def token_losses(logits, labels):
    """
    Returns, for each token to predict, the loss and whether the model's first guess is right, (batch, n, 2), and 0
    elsewhere.

    These take far less memory than the logits, which a Linformer gives for the tokens to predict alone.
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


METRICS = ("accuracy", "perplexity")


def compute_metrics(prediction):
    """Returns the accuracy and the perplexity over all tokens to predict, from what `token_losses` returned."""
    measures = prediction.predictions[prediction.label_ids != -100].astype(np.float64)
    loss, accuracy = measures.mean(0)
    with np.errstate(over="ignore"):  # infinite
        return {"accuracy": accuracy, "perplexity": float(np.exp(loss))}


def unigram_perplexity(train_sequences, eval_sequences, collator, vocab_size, special_ids):
    """Returns the perplexity, on the tokens that the model predicts, of a model that knows only how often each occurs."""

    def count(batches):
        return sum(np.bincount(np.concatenate(batch), minlength=vocab_size) for batch in batches)

    frequencies = count(batch["input_ids"] for batch in train_sequences.with_format("numpy").iter(batch_size=1000))
    frequencies[special_ids] = 0
    labels = (collator([{"input_ids": ids} for ids in batch["input_ids"]])["labels"] for batch in eval_sequences.iter(256))
    targets = count([batch[batch != -100].numpy()] for batch in labels)
    log_probabilities = np.log(frequencies + 1) - np.log((frequencies + 1).sum())
    return math.exp(-(targets * log_probabilities).sum() / targets.sum())
