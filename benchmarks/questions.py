# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Measure whether a question is known in every block of the document that answers it, with and without global tokens.

    python -m benchmarks.questions --output_dir questions
    python -m benchmarks.questions --help

An input is a pair: a question, which is one of 64 names, and a document, in which 16 different names stand at random places,
each before a value. The answer is where the value of the question's name stands, as in extractive question answering. The
models are trained from scratch, alike, with `LinformerForQuestionAnswering`. The table has the accuracy for answers in the
first block, and in each quarter of the document.

Every finished run is a line in results.jsonl, and is not run again. The table is written to questions.md.
"""

import argparse
import time
from pathlib import Path

import torch
from transformers import get_linear_schedule_with_warmup, set_seed

from configuration_linformer import LinformerConfig
from modeling_linformer import LinformerForQuestionAnswering
from transformers_linformer.tables import markdown_table

from .runs import mean_and_error, run_missing


N, BLOCK, WINDOW = 256, 32, 8
CLS, SEP, FIRST_NAME, NAMES, VALUES, FILLERS, ENTRIES = 0, 2, 10, 64, 64, 100, 16
MODELS = {"full attention": N, "blocks": BLOCK, "blocks, 8 global tokens": BLOCK}


def parse_arguments():
    description = __doc__.strip().splitlines()[0]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output_dir", required=True, type=Path, help="The folder for results and table.")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS, help="What is trained.")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="Of weights and examples.")
    parser.add_argument("--steps", type=int, default=2000, help="The number of steps, of 32 pairs each.")
    return parser.parse_args()


def make_pairs(number, generator):
    """Returns random inputs (number, n), their token types, and the positions of the answers (number)."""
    document = 1 + NAMES + VALUES + FIRST_NAME + torch.randint(FILLERS, (number, N), generator=generator)
    document[:, 0], document[:, 2], document[:, -1] = CLS, SEP, SEP
    # Every entry is a name and, after it, its value: at even places, so that no two overlap
    places = 4 + 2 * torch.rand(number, (N - 6) // 2, generator=generator).argsort(1)[:, :ENTRIES]
    names = torch.rand(number, NAMES, generator=generator).argsort(1)[:, :ENTRIES]
    document.scatter_(1, places, FIRST_NAME + names)
    values = FIRST_NAME + NAMES + torch.randint(VALUES, places.shape, generator=generator)
    document.scatter_(1, places + 1, values)
    document[:, 1] = FIRST_NAME + names[:, 0]
    token_types = (torch.arange(N) > 2).long().expand(number, -1)
    return document, token_types, places[:, 0] + 1


def run(model, seed, steps):
    """Returns the accuracy for answers in the first block, and in each quarter of the document, and the CPU seconds."""
    set_seed(seed)
    config = LinformerConfig(
        vocab_size=FIRST_NAME + NAMES + VALUES + FILLERS + 1,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=N,
        projection_type="attention_pool",
        projected_dim=N // WINDOW,
        block_size=MODELS[model],
        num_global_tokens=8 if "global" in model else 0,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    reader = LinformerForQuestionAnswering(config)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=1e-3)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    generator, start = torch.Generator().manual_seed(seed), time.process_time()
    for _ in range(steps):
        ids, types, answers = make_pairs(32, generator)
        loss = reader(ids, token_type_ids=types, start_positions=answers, end_positions=answers).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    reader.eval()
    found, places = [], []
    with torch.no_grad():
        for _ in range(64):
            ids, types, answers = make_pairs(32, generator)
            found.append(reader(ids, token_type_ids=types).start_logits.argmax(1) == answers)
            places.append(answers)
    found, places = torch.cat(found).float(), torch.cat(places)
    quarters = [found[places * 4 // N == quarter].mean().item() for quarter in range(4)]
    return {"first_block": found[places < BLOCK].mean().item(), "quarters": quarters, "seconds": time.process_time() - start}


def make_table(results):
    groups, rows = {}, []
    for result in results:
        groups.setdefault(result["model"], []).append([result["first_block"], *result["quarters"]])
    for model, values in groups.items():
        rows.append([model, len(values), *(mean_and_error(column, 3) for column in zip(*values))])
    header = ["model", "seeds", "answers in the first block", *(f"in quarter {number}" for number in range(1, 5))]
    return markdown_table(header, rows)


def main():
    args = parse_arguments()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    wanted = [{"model": model, "seed": seed, "steps": args.steps} for seed in args.seeds for model in args.models]
    results = run_missing(wanted, run, args.output_dir / "results.jsonl", jobs=1)
    table = make_table([each for each in results if each["steps"] == args.steps])
    (args.output_dir / "questions.md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
