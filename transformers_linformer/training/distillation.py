# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Defines distillation, in which a Linformer learns to give the hidden states of the model that it was converted from."""

import torch
from torch import nn

from modeling_linformer import LinformerForMaskedLM
from modeling_linformer.sequence_parallel import all_reduce

from .trainer import LinformerTrainer


def cosine_similarities(states, original, attention_mask=None, mesh=None):
    """
    Returns two cosine similarities per document, (B, 2), between hidden states and the original's, both (B, n, d).

    The first is the mean over the tokens, and the second is the similarity of the documents' mean vectors. Padding, which
    is 0 in `attention_mask` (B, n), does not count. When processes share the documents, each gives its part of the tokens
    and the `mesh` of these processes.
    """
    mask = states.new_ones(states.shape[:2]) if attention_mask is None else attention_mask.to(states.dtype)
    by_token = all_reduce((nn.functional.cosine_similarity(states, original, dim=-1) * mask).sum(1), mesh)
    documents = (all_reduce((rows * mask[..., None]).sum(1), mesh) for rows in (states, original))
    by_document = nn.functional.cosine_similarity(*documents, dim=-1)
    return torch.stack([by_token / all_reduce(mask.sum(1), mesh), by_document], dim=-1)


class DistillationTrainer(LinformerTrainer):
    """
    A Trainer whose loss is the mean squared error of the hidden states of all layers, without padding.

    `teacher` is the model that the student was converted from.
    """

    shards_inputs = False  # as the teacher reads whole sequences

    def __init__(self, *args, teacher, **kwargs):
        super().__init__(*args, **kwargs)
        self.teacher = teacher.to(self.args.device).eval()
        self.model_accepts_loss_kwargs = False  # the loss is a mean over the batch that it gets
        self.is_masked_lm = isinstance(self.model, LinformerForMaskedLM)
        if self.is_masked_lm:
            self.model.sparse_prediction = True

    def hidden_states(self, model, inputs):
        """Returns the hidden states of student and teacher for this process's tokens, (B, n, d) per layer, and the mask."""
        with torch.no_grad():
            teacher = self.teacher(**inputs, output_hidden_states=True).hidden_states[1:]
        if self.processes_per_sequence > 1:
            inputs = self.model.shard_inputs(inputs)
            teacher = [self.model.shard_inputs({"inputs_embeds": states})["inputs_embeds"] for states in teacher]
        # With `sparse_prediction`, only tokens to predict get scores of the vocabulary, and here there are none
        labels = {"labels": torch.full_like(inputs["input_ids"], -100)} if self.is_masked_lm else {}
        student = model(**inputs, **labels, output_hidden_states=True).hidden_states[1:]
        return student, teacher, inputs["attention_mask"].bool()

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        student, teacher, mask = self.hidden_states(model, inputs)
        squares = sum((ours[mask] - theirs[mask]).square().sum() for ours, theirs in zip(student, teacher))
        numbers = inputs["attention_mask"].sum() * student[0].shape[-1] * len(student)
        loss = all_reduce(squares, self.model.base_model.sequence_mesh) / numbers
        return (loss, (student[-1], teacher[-1], mask)) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, (student, teacher, mask) = self.compute_loss(model, inputs, return_outputs=True)
        measures = cosine_similarities(student.float(), teacher.float(), mask, self.model.base_model.sequence_mesh)
        return loss, measures, measures  # without labels, Trainer would compute no metrics

    def join_shards(self, shards):
        return shards.mean(2)  # measures of whole documents are the same in all processes that share them


METRICS = ("token_cosine", "document_cosine")


def compute_metrics(prediction):
    """Returns the mean of the cosine similarities over all documents."""
    by_token, by_document = prediction.predictions.mean(0)
    return dict(zip(METRICS, (float(by_token), float(by_document)), strict=True))
