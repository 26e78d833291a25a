# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes model cards, the README.md of a checkpoint, for models that were trained and for models that were converted."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from huggingface_hub import EvalResult, ModelCardData

from .tables import code, markdown_table, plain


TASKS = {
    "LinformerModel": ("AutoModel", "feature-extraction", "last_hidden_state"),
    "LinformerForMaskedLM": ("AutoModelForMaskedLM", "fill-mask", "logits"),
    "LinformerForSequenceClassification": ("AutoModelForSequenceClassification", "text-classification", "logits"),
    "LinformerForTokenClassification": ("AutoModelForTokenClassification", "token-classification", "logits"),
    "LinformerForQuestionAnswering": ("AutoModelForQuestionAnswering", "question-answering", "start_logits"),
    "LinformerForMultipleChoice": ("AutoModelForMultipleChoice", "multiple-choice", "logits"),
}
# For a class of sentence-transformers, what the Hub calls its task, and a call of a model
SENTENCE_TASKS = {
    "SentenceTransformer": ("sentence-similarity", 'model.encode(["A first text.", "And a second one."]).shape'),
    "CrossEncoder": ("text-ranking", 'model.predict([("A question?", "A text that may answer it.")])'),
}


def write_card(folder, metadata, body):
    """Writes README.md into the folder: the metadata, which is a `ModelCardData`, and the text below it."""
    card = f"---\n{metadata.to_yaml()}\n---\n\n{body}"
    # The name of a file may hold bytes that are no text
    (Path(folder) / "README.md").write_text(card, encoding="utf-8", errors="backslashreplace")


def literal(value):
    """Returns the Python code of a string or a dictionary of strings."""
    return json.dumps(value, ensure_ascii=False)


# After training


@dataclass
class TrainingCard:
    """
    What the card of a trained model says besides what its Trainer knows.

    Attributes:
        task: what `pipeline` calls the task.
        example: an input of that pipeline.
        base_model: the name or folder of the checkpoint that training started from, None if from scratch.
        dataset: the name or folder of the dataset, None for files.
        dataset_config: the configuration of the dataset.
        files: the paths of the files that were read.
        sentence_class: the name of the class of sentence-transformers that loads the model, if one does.
    """

    task: str
    example: str | dict
    base_model: str | None = None
    dataset: str | None = None
    dataset_config: str | None = None
    files: tuple = ()
    sentence_class: str | None = None


def last_results(log_history):
    """Returns what was measured last on the evaluation data, from the log of a `TrainerState`."""
    results = {}
    for entry in log_history:
        results |= {name.removeprefix("eval_"): value for name, value in entry.items() if name.startswith("eval_")}
    return {name: value for name, value in results.items() if "runtime" not in name and "_per_second" not in name}


def write_training_card(card, model, args, state, repository):
    """
    Writes the card of a trained model into `args.output_dir`: its origin, its scores, its settings and how to load it.

    `args` are the `TrainingArguments`, `state` is the `TrainerState`, and `repository` the name to load the model by.
    """
    is_linformer = model.config.model_type == "linformer"
    name = Path(repository).name
    metadata = ModelCardData(library_name="transformers", pipeline_tag=card.task, model_name=name)
    if is_linformer:
        metadata.tags = ["linformer"]
    origin = "trained from scratch"
    if card.base_model is not None:
        is_folder = os.path.exists(card.base_model)
        origin = f"trained from {code(Path(card.base_model).name if is_folder else card.base_model)}"
        metadata.base_model = None if is_folder else card.base_model

    results = last_results(state.log_history)
    data = " and ".join(Path(path).name for path in card.files) or "the documentation of Python"
    if card.dataset is not None:
        is_folder = os.path.exists(card.dataset)
        data = Path(card.dataset).name if is_folder else card.dataset
        data += f" ({card.dataset_config})" if card.dataset_config else ""
        if not is_folder:
            metadata.datasets = [card.dataset]
            metadata.eval_results = [
                EvalResult(card.task, card.dataset, data, metric, value, dataset_config=card.dataset_config)
                for metric, value in results.items()
            ]
    arguments, pin = "", ""
    if is_linformer:
        arguments = ", trust_remote_code=True"
        if args.push_to_hub:
            arguments += ', revision="main"'
            pin = "# This runs the code of the model: read it, and name the commit that you have read in place of main\n"
    snippet = f"""from transformers import pipeline

{pin}model = pipeline("{card.task}", model={literal(repository)}{arguments})
print(model({literal(card.example)}))"""
    if card.sentence_class is not None:
        metadata.library_name, (metadata.pipeline_tag, call) = "sentence-transformers", SENTENCE_TASKS[card.sentence_class]
        metadata.tags = [*(metadata.tags or []), "sentence-transformers"]
        snippet = f"""from sentence_transformers import {card.sentence_class}

{pin}model = {card.sentence_class}({literal(repository)}{arguments})
print({call})"""
    metadata.metrics = [metric for metric in results if metric != "loss"]
    scores = [(plain(metric), value) for metric, value in results.items()]

    schedule = f"{args.lr_scheduler_type.value}, {args.get_warmup_steps(state.max_steps)} warm-up steps"
    settings = {
        "learning rate": args.learning_rate,
        "schedule": schedule,
        "batch size": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "steps": state.global_step,
        "epochs": round(state.epoch or 0, 2),
        "seed": args.seed,
    }
    body = f"""# {plain(name)}

A {type(model).__name__}, {origin} on {plain(data)}.

```python
{snippet}
```

## Results on the evaluation data

{markdown_table(("measure", "value"), scores) if scores else "The model was not evaluated."}

## Training

{markdown_table(("setting", "value"), settings.items())}

The model was trained with transformers {transformers.__version__} and torch {torch.__version__}.
"""
    write_card(args.output_dir, metadata, body)


# After conversion


def write_conversion_card(model, tokenizer, source, source_positions, output_dir, sentence_class=None):
    """
    Writes the card of a converted model: where its weights come from, how to load it, and which inputs are exact.

    `tokenizer` may be None. `source` is the name or path of the original, and `source_positions` the number of tokens that
    it reads, or None for a Linformer of fairseq. `sentence_class` is the name of the class of sentence-transformers that
    loads the model, if one does.
    """
    config, class_name = model.config, type(model).__name__
    metadata = ModelCardData(library_name="transformers", tags=["linformer"], pipeline_tag=TASKS[class_name][1])
    usage = f"```python\n{conversion_snippet(model, tokenizer, output_dir)}\n```"
    if sentence_class in SENTENCE_TASKS:
        metadata.library_name, (metadata.pipeline_tag, call) = "sentence-transformers", SENTENCE_TASKS[sentence_class]
        metadata.tags = ["linformer", "sentence-transformers"]
        usage += f"""

Or with sentence-transformers:

```python
from sentence_transformers import {sentence_class}

model = {sentence_class}({literal(output_dir)}, trust_remote_code=True)
print({call})
```"""
    if not os.path.exists(source):
        metadata.base_model = source
    rows = {
        "class": f"`{class_name}`",
        "longest input, n": f"{config.max_position_embeddings} tokens",
        "projected rows, k": config.projected_dim,
        "block size": f"{config.block_size} tokens",
        "projection": f"`{config.projection_type}`, sharing `{config.projection_sharing}`",
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    body = f"""# {plain(Path(output_dir).resolve().name)}

A [Linformer](https://arxiv.org/abs/2006.04768), an encoder whose self-attention has linear complexity, with the weights of
{code(source)}. It was converted by transformers-linformer and not trained since. The licence of the original holds.

{markdown_table(("", ""), rows.items())}

## How to use

{usage}

## How close it is to the original

{what_is_exact(config, source_positions)}
"""
    write_card(output_dir, metadata, body)


def conversion_snippet(model, tokenizer, output_dir):
    """Returns the lines of Python that load the model and compute its outputs."""
    config, class_name = model.config, type(model).__name__
    auto_class, _, output = TASKS[class_name]
    folder = f"{literal(output_dir)}, trust_remote_code=True"
    imports = auto_class if tokenizer is None else f"{auto_class}, AutoTokenizer"
    lines = ["import torch", f"from transformers import {imports}", ""]
    if tokenizer is None:
        lines.append(f'inputs = {{"input_ids": torch.tensor([[{config.bos_token_id}, 5, 6, {config.eos_token_id}]])}}')
    else:
        lines += [
            f"tokenizer = AutoTokenizer.from_pretrained({folder})",
            'inputs = tokenizer(["A first text.", "And a second one."], padding=True, return_tensors="pt")',
        ]
    if class_name == "LinformerForMultipleChoice":
        lines.append("inputs = {name: rows[None] for name, rows in inputs.items()}  # two choices for one question")
    if class_name == "LinformerModel" and model.pooler is None:
        folder += ", add_pooling_layer=False"
    lines.append(f"model = {auto_class}.from_pretrained({folder})")
    lines.append(f"with torch.no_grad():\n    print(model(**inputs).{output}.shape)")
    return "\n".join(lines)


def what_is_exact(config, source_positions):
    """
    Returns the sentences that say which inputs get the original's outputs.

    `source_positions` is the number of tokens that the original reads, or None for a Linformer of fairseq.
    """
    if source_positions is None:
        return (
            "A sequence without padding gets the outputs of fairseq, to rounding, at any length up to n. In a padded batch"
            " fairseq's own attention reads the padding, so that its outputs change with the amount; here they do not."
        )
    n, k = config.max_position_embeddings, min(config.projected_dims)
    kept = config.position_period or n
    # A layer computes full attention for an input of one block, and for all if each of its rows stands for one position
    exact = min(n if window == 1 else block for block, window in zip(config.block_sizes, config.windows))
    # The rows of `linear` stand for positions at n alone
    exact_at_n = exact == 0 and k == n == kept and not any(config.block_sizes)
    sentences = []
    if exact:
        sentences.append(f"Inputs of at most {min(exact, kept)} tokens get the original's outputs, to rounding.")
    elif exact_at_n:
        sentences.append(f"Inputs of exactly {n} tokens get the original's outputs, to rounding; shorter ones do not.")
    if exact < n and not exact_at_n:
        rows = f"{k} projected rows, each of which stands for several tokens"
        if config.projection_type != "linear":
            windows = sorted(set(config.windows))
            rows = f"projected rows, each of which stands for {' or '.join(map(str, windows))} tokens"
        sentences.append(
            f"{'Longer' if exact else 'All'} inputs are approximated: a token reads"
            f" {'what is outside its own block' if any(config.block_sizes) else 'the input'} through {rows}."
        )
    if n > kept:
        first = f"first {kept} of the original's {source_positions}" if kept < source_positions else f"original's {kept}"
        repeated = f"those after the {config.num_global_tokens} global tokens" if config.repeated_positions.start else "these"
        sentences.append(f"Positions after the {first} repeat {repeated}, and the model was never trained with that.")
    if len(sentences) > 1 or not exact:
        sentences.append("Train the model further, on text or on your task, before you rely on it there.")
    return "\n".join(sentences)
