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
Adapt a converted Linformer to its projection: on plain text it learns to give the hidden states of the model that it was made from.

    python run_adaptation.py --teacher_name_or_path FacebookAI/roberta-base --model_name_or_path linformer-roberta \
        --train_file text.txt --do_train --do_eval --output_dir adapted
    python run_adaptation.py --help
    python run_adaptation.py arguments.json

Needs no labels, and leaves the checkpoint's head as it is: what it reads comes to look as it did before. For inputs longer than the
teacher reads, go on by masked language modeling (run_mlm.py). Started again with the same command, a run that was killed goes on
from its last complete checkpoint.
"""

from dataclasses import dataclass, field

import safetensors
import torch
from torch import nn
from transformers import AutoModel, DataCollatorWithPadding, TrainingArguments, set_seed

import modeling_linformer
import run_common
from modeling_linformer.sequence_parallel import all_reduce
from run_common import BadInput, ModelArguments, ScriptTrainer, first_line
from run_mlm import TextArguments, check_arguments, load_texts, make_all_sequences


@dataclass
class AdaptationArguments(ModelArguments):
    """The Linformer to adapt, and the model whose hidden states it is to give."""

    teacher_name_or_path: str | None = field(
        default=None, metadata={"help": "The model that the Linformer was converted from."}
    )


class AdaptationTrainer(ScriptTrainer):
    """A Trainer whose loss is the mean squared error of all layers' hidden states, over the tokens that are no padding."""

    def __init__(self, *args, teacher, **kwargs):
        super().__init__(*args, **kwargs)
        self.teacher = teacher.to(self.args.device).eval()
        self.model_accepts_loss_kwargs = False  # the loss is a mean over the batch that it gets
        self.is_masked_lm = isinstance(self.model, modeling_linformer.LinformerForMaskedLM)
        if self.is_masked_lm:
            self.model.sparse_prediction = True

    def _prepare_inputs(self, inputs):
        return super(ScriptTrainer, self)._prepare_inputs(inputs)  # the teacher reads whole sequences

    def hidden_states(self, model, inputs):
        """The student's and the teacher's hidden states of this process's tokens, (b, n, d) for each layer, and the mask."""
        with torch.no_grad():
            teacher = self.teacher(**inputs, output_hidden_states=True).hidden_states[1:]
        if self.processes_per_sequence > 1:
            inputs = self.model.shard_inputs(inputs)
            teacher = [self.model.shard_inputs({"inputs_embeds": states})["inputs_embeds"] for states in teacher]
        # The vocabulary is scored at the tokens to predict alone (`sparse_prediction`), and here there are none
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
        measures = closeness(student.float(), teacher.float(), mask, self.model.base_model.sequence_mesh)
        return loss, measures, measures  # without labels, Trainer would compute no metrics

    def join_shards(self, shards):
        return shards.mean(2)  # of measures of whole documents, which are the same in all processes


def closeness(student, teacher, attention_mask, mesh=None):
    """
    The cosine of last hidden states (b, n, d) with the teacher's: the mean over each document's tokens, and that of the
    documents' mean vectors, as (b, 2). Of documents that the processes of `mesh` share, each gives its part.
    """
    mask = attention_mask.to(student.dtype)
    by_token = all_reduce((nn.functional.cosine_similarity(student, teacher, dim=-1) * mask).sum(1), mesh)
    documents = (all_reduce((states * mask[..., None]).sum(1), mesh) for states in (student, teacher))
    by_document = nn.functional.cosine_similarity(*documents, dim=-1)
    return torch.stack([by_token / all_reduce(mask.sum(1), mesh), by_document], dim=-1)


def compute_metrics(prediction):
    by_token, by_document = prediction.predictions.mean(0)
    return {"token_cosine": float(by_token), "document_cosine": float(by_document)}


def load_student(config, model_args, hub):
    """The Linformer with the head that it was saved with."""
    name = (config.architectures or ["LinformerModel"])[0]
    if not hasattr(modeling_linformer, name):
        raise BadInput(f"--model_name_or_path {model_args.model_name_or_path} holds a {name}, not a Linformer.")
    student = run_common.load_model(getattr(modeling_linformer, name), config, model_args, hub)
    # The head is no part of the loss
    encoder = student.base_model
    trained = {id(parameter) for module in (encoder.embeddings, encoder.encoder) for parameter in module.parameters()}
    for parameter in student.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    return student


def load_teacher(config, model_args, hub):
    try:
        hub = hub | {"subfolder": run_common.transformer_subfolder(model_args.teacher_name_or_path, **hub)}
        teacher = AutoModel.from_pretrained(model_args.teacher_name_or_path, **hub)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise BadInput(f"--teacher_name_or_path {model_args.teacher_name_or_path}: {first_line(error)}") from error
    for name in ("hidden_size", "num_hidden_layers", "vocab_size"):
        if getattr(teacher.config, name) != getattr(config, name):
            raise BadInput(
                f"--teacher_name_or_path {model_args.teacher_name_or_path} is not what the Linformer was converted from: its"
                f" {name} is {getattr(teacher.config, name)}, not {getattr(config, name)}."
            )
    return teacher


def main(argv):
    argument_classes = (AdaptationArguments, TextArguments, TrainingArguments)
    model_args, data_args, training_args = run_common.parse_arguments(
        argv, argument_classes, description=__doc__.strip().splitlines()[0]
    )
    if model_args.teacher_name_or_path is None or model_args.model_name_or_path is None:
        raise BadInput("give --teacher_name_or_path, and --model_name_or_path with what convert_to_linformer.py made of it.")
    check_arguments(data_args, training_args)
    run_common.set_up_logging(training_args)
    set_seed(training_args.seed)

    # Each step below may refuse, and does so before the long work begins.
    config, hub = run_common.load_config(model_args)
    checkpoint = run_common.checkpoint_to_resume(training_args)
    texts = load_texts(data_args, model_args, training_args)
    tokenizer = run_common.load_tokenizer(checkpoint, None, config, model_args, training_args, hub)
    teacher = load_teacher(config, model_args, hub)
    longest = run_common.longest_input(teacher.config)
    data_args.max_seq_length = data_args.max_seq_length or min(longest, config.max_position_embeddings)
    max_seq_length = run_common.find_max_seq_length(data_args, config, tokenizer)
    if max_seq_length > longest:
        raise BadInput(
            f"--max_seq_length {max_seq_length} is more than the {longest} tokens that the teacher reads: for"
            " longer inputs go on with run_mlm.py."
        )
    run_common.check_same_model(config, len(tokenizer), training_args, checkpoint)
    sequences = make_all_sequences(texts, tokenizer, max_seq_length, data_args, training_args)

    set_seed(training_args.seed)
    trainer = AdaptationTrainer(
        model=load_student(config, model_args, hub),
        teacher=teacher,
        args=training_args,
        train_dataset=sequences.get("train"),
        eval_dataset=sequences.get("validation"),
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(
            tokenizer,
            pad_to_multiple_of=run_common.pad_to_multiple_of(config, data_args.sequence_parallel_size, max_seq_length),
            **run_common.padding(data_args, max_seq_length),
        ),
        compute_metrics=compute_metrics,
        task="feature-extraction",
        example="This is a sentence.",
        model_args=model_args,
        data_args=data_args,
    )
    if training_args.do_train:
        run_common.train(trainer, checkpoint)
    if training_args.do_eval:
        metrics = trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    if training_args.do_train:
        run_common.write_model_card(trainer)


if __name__ == "__main__":
    run_common.run("run_adaptation.py", main)
