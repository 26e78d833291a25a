# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Measure what a training step of linformer-mlm costs through Trainer, compared with the bare step.

    python -m benchmarks.trainer
    python -m benchmarks.trainer --help

Trainer's step includes the loading of data, and the bare step is forward, backward and optimiser step alone. The two take
turns in one process, on batches of the same size. What is measured is CPU time of one thread, and what is printed are the
medians of the steps after the first.
"""

import argparse
import copy
import statistics
import tempfile
import time

import torch
from transformers import TrainerCallback, TrainingArguments

from configuration_linformer import LinformerConfig
from modeling_linformer import LinformerForMaskedLM
from transformers_linformer.model_card import TrainingCard
from transformers_linformer.tokenization import train_tokenizer
from transformers_linformer.training.masked_lm import MaskingCollator, token_losses
from transformers_linformer.training.text import demo_texts, make_sequences
from transformers_linformer.training.trainer import LinformerTrainer


VOCAB_SIZE = 8192


def parse_arguments():
    description = __doc__.strip().splitlines()[0]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="The number of steps of each of the two.")
    parser.add_argument("--batch_size", type=int, default=8, help="The number of sequences per step.")
    parser.add_argument("--max_seq_length", type=int, default=512, help="n.")
    parser.add_argument("--hidden_size", type=int, default=256, help="d. Each head has 64 of it.")
    parser.add_argument("--num_hidden_layers", type=int, default=4, help="The number of layers.")
    return parser.parse_args()


class BareSteps(TrainerCallback):
    """
    After each of Trainer's steps, does a step with a copy of the model, without Trainer.

    `times` holds the seconds of both, per step.
    """

    def __init__(self, model, batch):
        self.model, self.batch = copy.deepcopy(model).train(), batch
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=5e-5)
        self.times = {"trainer": [], "bare": []}

    def on_train_begin(self, *args, **kwargs):
        self.start = time.process_time()

    def on_step_end(self, *args, **kwargs):
        now = time.process_time()
        self.times["trainer"].append(now - self.start)
        self.model(**self.batch).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.start = time.process_time()
        self.times["bare"].append(self.start - now)


def main():
    args = parse_arguments()
    torch.set_num_threads(1)
    texts = demo_texts()["train"]
    tokenizer = train_tokenizer(texts, VOCAB_SIZE, args.max_seq_length)
    sequences = make_sequences(texts, tokenizer, args.max_seq_length, desc="Tokenizing")
    config = LinformerConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden_size,
        num_hidden_layers=args.num_hidden_layers,
        num_attention_heads=args.hidden_size // 64,
        intermediate_size=4 * args.hidden_size,
        max_position_embeddings=args.max_seq_length,
        projected_dim=128,
        sparse_prediction=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        training_args = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=args.batch_size,
            max_steps=args.steps,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
        )
        model = LinformerForMaskedLM(config)
        collator = MaskingCollator(tokenizer, seed=0, mlm_probability=0.15)
        steps = BareSteps(model, collator([sequences[index] for index in range(args.batch_size)]))
        LinformerTrainer(
            model=model,
            args=training_args,
            train_dataset=sequences,
            processing_class=tokenizer,
            data_collator=collator,
            preprocess_logits_for_metrics=token_losses,
            callbacks=[steps],
            card=TrainingCard("fill-mask", ""),
        ).train()
    medians = {name: statistics.median(times[1:]) for name, times in steps.times.items()}
    print(", ".join(f"{name}: {median * 1e3:.0f} ms per step" for name, median in medians.items()))
    print(f"Trainer's step takes {medians['trainer'] / medians['bare']:.3f} times as long as the bare step")


if __name__ == "__main__":
    main()
