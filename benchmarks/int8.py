# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Measure what int8 costs on a task: the accuracy of a fine-tuned classifier with float32 and with int8 linear layers.

    python -m benchmarks.int8 --model_name_or_path sst2 --validation_file sst2-validation.jsonl
    python -m benchmarks.int8 --help

The checkpoint is one of linformer-glue, and the labels of the file are ids or the names of the classes.
"""

import argparse
import warnings

import torch
from datasets import load_dataset
from tqdm.auto import tqdm
from transformers import AutoTokenizer, pipeline

from modeling_linformer import LinformerForSequenceClassification

from .models import quantized


def answers(model, tokenizer, texts):
    """Returns the ids of the classes that the model finds, (texts,)."""
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, batch_size=8, truncation=True, device="cpu")
    texts = sorted(enumerate(texts), key=lambda numbered: len(numbered[1]))  # similar lengths need little padding
    found = classify(text for _, text in texts)
    ids = {i: model.config.label2id[answer["label"]] for (i, _), answer in zip(texts, tqdm(found, total=len(texts)))}
    return torch.tensor([ids[i] for i in range(len(texts))])


def main():
    description = __doc__.strip().splitlines()[0]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="A fine-tuned Linformer.")
    parser.add_argument("--validation_file", required=True, help="A json or jsonl file of texts and labels.")
    parser.add_argument("--text_column", default="text", help="The column of the text.")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=DeprecationWarning)

    data = load_dataset("json", data_files=args.validation_file, split="train")
    model = LinformerForSequenceClassification.from_pretrained(args.model_name_or_path)
    tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path)
    labels = torch.tensor([label if isinstance(label, int) else model.config.label2id[label] for label in data["label"]])
    texts = list(data[args.text_column])
    float32, int8 = (answers(each, tokenizer, texts) for each in (model, quantized(model)))
    for name, found in (("float32", float32), ("int8", int8)):
        print(f"{name}: {100 * (found == labels).float().mean():.1f} % of {len(labels)} are right")
    print(f"both give the same answer: {100 * (float32 == int8).float().mean():.1f} %")


if __name__ == "__main__":
    main()
