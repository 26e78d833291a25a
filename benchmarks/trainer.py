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
What run_mlm.py's training step costs through Trainer, data loading included, over the bare forward, backward and optimiser step.

    python -m benchmarks.trainer
    python -m benchmarks.trainer --help

The two take turns in one process, on batches of the same size; CPU time of one thread, the medians of the steps after the first.
"""

import argparse
import copy
import statistics
import tempfile
import time

import torch
from datasets import Dataset
from transformers import TrainerCallback, TrainingArguments

from configuration_linformer import LinformerConfig
from modeling_linformer import LinformerForMaskedLM
from run_common import ModelArguments, ScriptTrainer, train_tokenizer
from run_mlm import MaskingCollator, TextArguments, make_sequences, python_documentation, token_losses


def parse_arguments():
    description = __doc__.strip().splitlines()[0]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="Steps of each.")
    parser.add_argument("--batch_size", type=int, default=8, help="Sequences of a step.")
    parser.add_argument("--max_seq_length", type=int, default=512, help="n.")
    parser.add_argument("--hidden_size", type=int, default=256, help="d, of heads of 64.")
    parser.add_argument("--num_hidden_layers", type=int, default=4)
    return parser.parse_args()


class BareSteps(TrainerCallback):
    """After each of Trainer's steps one of a copy of the model, without Trainer. `times` has both, in seconds."""

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
    texts = Dataset.from_dict({"text": [" ".join(text.split()) for text in python_documentation()]})
    tokenizer = train_tokenizer(texts, 8192, args.max_seq_length)
    with tempfile.TemporaryDirectory() as folder:
        training_args = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=args.batch_size,
            max_steps=args.steps,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
        )
        data_args = TextArguments(demo=True)
        sequences = make_sequences("train", texts, tokenizer, args.max_seq_length, data_args, training_args)
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
        model = LinformerForMaskedLM(config)
        collator = MaskingCollator(tokenizer, seed=0, mlm_probability=0.15)
        steps = BareSteps(model, collator([sequences[index] for index in range(args.batch_size)]))
        ScriptTrainer(
            model=model,
            args=training_args,
            train_dataset=sequences,
            processing_class=tokenizer,
            data_collator=collator,
            preprocess_logits_for_metrics=token_losses,
            callbacks=[steps],
            task="fill-mask",
            example="",
            model_args=ModelArguments(),
            data_args=data_args,
        ).train()
    medians = {name: statistics.median(times[1:]) for name, times in steps.times.items()}
    print(", ".join(f"{name}: {median * 1e3:.0f} ms a step" for name, median in medians.items()))
    print(f"Trainer costs {medians['trainer'] / medians['bare']:.3f} times the bare step")


if __name__ == "__main__":
    main()
