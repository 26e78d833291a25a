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
Measure which k a pretrained BERT or RoBERTa needs as a Linformer, before it is converted and without any training.

    python choose_k.py --model_name_or_path FacebookAI/roberta-base --train_file text.txt --output_dir choice
    python choose_k.py --help

Text is packed into sequences of n tokens, each a document below. Two things are measured on them:

Closeness (closeness.png): the cosine of the converted model's last hidden states with the original's, token by token,
and of their means over each document. Beside it stands the cosine of the original's states for one document with those
for another: what is not well above that is not close.

Mass (spectrum.png): the sum of the k largest singular values of a softmax matrix P (n x n) over the sum of all n, then
the mean of that over the sequences, and over a layer's heads where one number stands for the layer. It is figure 1 of
the paper (https://arxiv.org/abs/2006.04768), and belongs to the best matrix of rank k. Projecting keys and values gives
another one, so the mass is a guide to k, and the closeness what conversion really keeps. (A k for each layer in proportion
to its mass was tried: without blocks it keeps a little more than one k for all, with blocks a little less.)

The tables are in choose_k.md, and all numbers in choose_k.json.
"""

import importlib.util
import json
from dataclasses import dataclass, field, fields
from itertools import islice, product
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from tqdm.auto import tqdm
from transformers import AutoModel, TrainingArguments

import convert_to_linformer
import run_adaptation
import run_common
import run_mlm
from configuration_linformer import LinformerConfig
from configuration_linformer.configuration_linformer import PROJECTION_TYPES
from run_common import BadInput, ModelArguments, first_line, markdown_table


MEASURES = ("per_token", "per_document")


@dataclass
class ChoiceArguments:
    """What to measure, and on which text."""

    model_name_or_path: str = field(metadata={"help": "The model to be converted: a folder, or a name on the Hub."})
    output_dir: str = field(metadata={"help": "The folder for the tables, the numbers and the plots."})
    dataset_name: str | None = field(
        default=None, metadata={"help": "A dataset on the Hub, or a folder like one: its validation set, if any."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "The dataset's configuration."})
    train_file: str | None = field(default=None, metadata={"help": "A file of text: .txt, .csv, .json or .jsonl."})
    demo: bool = field(default=False, metadata={"help": "Take English text that comes with Python."})
    text_column: str | None = field(default=None, metadata={"help": "Its column: by default `text`, or the first."})
    max_seq_length: int | None = field(default=None, metadata={"help": "n: by default the model's longest input."})
    max_samples: int = field(default=32, metadata={"help": "How many sequences of n tokens to read, at least 2."})
    projected_dims: list[int] | None = field(
        default=None, metadata={"help": "Each k to try: by default the four largest powers of two up to a quarter of n."}
    )
    block_sizes: list[int] = field(
        default_factory=lambda: [0, 128], metadata={"help": "Each block size to try; 0 is for no blocks."}
    )
    projection_types: list[str] = field(
        default_factory=lambda: ["attention_pool"], metadata={"help": "How n rows become k.", "choices": PROJECTION_TYPES}
    )
    mass: float = field(default=0.9, metadata={"help": "The part of the singular values' sum to keep."})
    tokenizer_name: str | None = field(default=None, metadata={"help": "The tokenizer, if not the model's."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloads are kept."})
    model_revision: str = field(default="main", metadata={"help": "The branch, tag or commit to load from."})
    token: str | None = field(default=None, metadata={"help": "The token for the Hub, if not the one logged in with."})

    def __post_init__(self):
        if self.max_samples < 2:
            raise BadInput(f"--max_samples is {self.max_samples}; it must be at least 2, to compare one with another.")
        if not 0 < self.mass <= 1:
            raise BadInput(f"--mass is {self.mass}; it must be above 0 and at most 1.")

    def as_arguments(self, argument_class, **more):
        """What another script's dataclass has in common with this one, as an instance of it."""
        common = {item.name for item in fields(argument_class)} & {item.name for item in fields(self)}
        return argument_class(**{name: getattr(self, name) for name in common}, **more)


def load_sequences(data_args, model_args, training_args, tokenizer, max_seq_length, max_samples):
    """The first sequences of the text, as token ids of shape (samples, n). Reads no more text than they need."""
    try:
        texts = run_mlm.load_texts(data_args, model_args, training_args)
        split = "validation" if "validation" in texts else next(iter(texts))
        # Not called "train", or the texts would be shuffled, and paragraphs torn from their documents
        packed = run_mlm.make_sequences("text", texts[split], tokenizer, max_seq_length, data_args, training_args)
        sequences = [sequence["input_ids"] for sequence in islice(packed, max_samples)]
    except ValueError as error:  # a file that is damaged, which shows only while it is read
        raise BadInput(f"the text cannot be read: {first_line(error)}") from error
    if len(sequences) < 2:
        raise BadInput(f"the text is shorter than two sequences of {max_seq_length} tokens: lower --max_seq_length.")
    return torch.tensor(sequences)


def read_sequences(tokenizer, max_seq_length, max_samples=32, **text):
    """`load_sequences` of the text that arguments of run_mlm.py name, such as `train_file`, `dataset_name` or `demo`."""
    data_args = run_mlm.TextArguments(streaming=True, **text)
    training_args = TrainingArguments(output_dir=".", report_to="none")
    return load_sequences(data_args, ModelArguments(), training_args, tokenizer, max_seq_length, max_samples)


# Closeness


@torch.no_grad()
def last_hidden_states(encoder, sequences, description):
    """The last hidden states (samples, n, d) for token ids (samples, n)."""
    batches = tqdm(sequences.to(encoder.device).split(1), desc=description)
    return torch.cat([encoder(input_ids=batch).last_hidden_state.float().cpu() for batch in batches])


def closeness(hidden, original):
    """The cosines of states (samples, n, d) with the original's: mean and standard deviation over the documents."""
    cosines = run_adaptation.closeness(hidden, original, torch.ones(hidden.shape[:2]))
    return {name: [c.mean().item(), c.std().item()] for name, c in zip(MEASURES, cosines.T, strict=True)}


def measure_closeness(model, sequences, projection_types, projected_dims, block_sizes):
    """The `closeness` for each projection type, k and block size, as a list of dictionaries, and that of two documents."""
    original = last_hidden_states(model, sequences, "original")
    rows = []
    for projection_type, block_size, k in product(projection_types, block_sizes, projected_dims):
        linformer = convert_to_linformer.convert_to_linformer(
            model,
            projected_dim=k,
            max_position_embeddings=sequences.shape[1],
            block_size=block_size,
            projection_type=projection_type,
        )
        hidden = last_hidden_states(linformer, sequences, f"{projection_type}, k = {k}, b = {block_size}")
        row = {"projection_type": projection_type, "block_size": block_size, "k": k}
        rows.append(row | closeness(hidden, original))
    return rows, closeness(original.roll(len(original) // 2, 0), original)  # neighbours may be of one text


# Mass


def cumulative_mass(P):
    """For matrices (..., n, n) the mass of the k largest singular values, k = 1, ..., n, as (..., n)."""
    sums = torch.linalg.svdvals(P.float()).double().cumsum(-1)
    return sums / sums[..., -1:]


def smallest_k(cumulative, mass):
    """The least k whose mass, in (..., n), is at least `mass`."""
    return (cumulative < mass).sum(-1) + 1  # at most n, where all mass is 1.0 exactly


@torch.no_grad()
def spectrum(model, sequences):
    """`cumulative_mass` of each layer's and head's softmax matrix, the mean over sequences, as (layers, heads, n)."""
    attention, was_training = model.config._attn_implementation, model.training
    model.eval().set_attn_implementation("eager")  # no other gives the matrices
    try:
        total = 0
        for batch in tqdm(sequences.to(model.device).split(1), desc="singular values"):
            layers = model.base_model(input_ids=batch, output_attentions=True).attentions
            total = total + torch.stack([cumulative_mass(P[0]).cpu() for P in layers])  # P: (1, heads, n, n)
    finally:
        model.train(was_training).set_attn_implementation(attention)
    return total / len(sequences)


# Tables and plots


def make_tables(rows, other, cumulative, mass):
    n = cumulative.shape[-1]
    rows = [*rows, {"projection_type": "(another document)", "block_size": "", "k": ""} | other]
    cosines = [
        [row["projection_type"], row["block_size"], row["k"], *(f"{mean:.3f} ± {std:.3f}" for mean, std in map(row.get, MEASURES))]
        for row in rows
    ]
    ks, of_heads = (smallest_k(each, mass).tolist() for each in (cumulative.mean(1), cumulative))
    at_quarter = cumulative[..., n // 4 - 1].mean(1)
    layers = [
        [layer, k, min(of_heads[layer]), max(of_heads[layer]), f"{at_quarter[layer]:.3f}"] for layer, k in enumerate(ks)
    ]
    return "\n\n".join(
        [
            "Cosine with the original's last hidden states, untrained: mean ± standard deviation over documents",
            markdown_table(["projection", "block size", "k", "per token", "per document"], cosines),
            f"The k that keeps {mass:g} of the mass of the singular values, of n = {n}",
            markdown_table(["layer", "k", "least of a head", "greatest of a head", f"mass at n/4 = {n // 4}"], layers),
        ]
    )


def plot_closeness(rows, other, n, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    kinds = list(dict.fromkeys((row["projection_type"], row["block_size"]) for row in rows))
    colors, markers = ("black", "#0072b2", "#d55e00", "#999999", "#009e73", "#cc79a7"), "osD^vP"
    ticks = sorted({row["k"] for row in rows})
    for measure, line, fill in zip(MEASURES, ("-", "--"), ("full", "none"), strict=True):
        name = measure.replace("_", " ")
        for place, kind in enumerate(kinds):
            points = {row["k"]: row[measure] for row in rows if (row["projection_type"], row["block_size"]) == kind}
            ks = [k * 1.03**place for k in ticks]  # side by side, as some agree
            means, spreads = zip(*(points[k] for k in ticks), strict=True)
            look = {"color": colors[place % 6], "marker": markers[place % 6], "fillstyle": fill, "linestyle": line, "capsize": 3}
            label = f"{kind[0]}, {f'blocks of {kind[1]}' if kind[1] else 'no blocks'}, {name}"
            axes.errorbar(ks, means, spreads, label=label, **look)
        look = {"color": "grey", "linewidth": 1, "linestyle": line}
        axes.errorbar(ticks, [other[measure][0]] * len(ticks), label=f"another document, {name}", **look)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, ticks)
    axes.set(xlabel=f"k, projected rows for n = {n} tokens", ylabel="cosine with the original's hidden states")
    axes.grid(color="0.9")
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    figure.savefig(path, dpi=150)


def plot_spectrum(cumulative, mass, path):
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    layers, heads, n = cumulative.shape
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)

    index = range(1, n + 1)
    for layer, curve in enumerate(cumulative.mean(1).tolist()):
        color, line = colormaps["viridis"](0.85 * layer / max(layers - 1, 1)), ("-", "--", "-.", ":")[layer % 4]
        left.plot(index, curve, color=color, linestyle=line, label=f"layer {layer}")
    left.plot(index, [k / n for k in index], color="grey", linewidth=1, label="identity")
    left.axhline(mass, color="grey", linewidth=1, linestyle=":", label=f"mass {mass:g}")
    left.axvline(n // 4, color="grey", linewidth=1, linestyle=":")
    left.set(xlim=(1, n), ylim=(0, 1), xticks=[1, *(n * part // 4 for part in (1, 2, 3, 4))])
    left.set(xlabel="index of the singular value, largest first", ylabel="normalized cumulative singular value")
    left.legend(ncols=1 + layers // 12, fontsize="small", columnspacing=1)

    quarter = cumulative[..., n // 4 - 1].numpy()
    image = right.imshow(quarter, cmap="cividis", aspect="auto")
    right.set(xlabel="head", ylabel="layer", xticks=range(heads), yticks=range(layers))
    for layer, head in product(range(layers), range(heads)):
        color = "white" if quarter[layer, head] < (quarter.min() + quarter.max()) / 2 else "black"
        right.text(head, layer, f"{quarter[layer, head]:.2f}", ha="center", va="center", fontsize=7, color=color)
    figure.colorbar(image, label=f"normalized cumulative value at index {n // 4} of {n}")
    figure.savefig(path, dpi=150)


def main(argv):
    (args,) = run_common.parse_arguments(argv, (ChoiceArguments,), description=__doc__.strip().splitlines()[0])
    # Each step below may refuse, and does so before the long work begins.
    if importlib.util.find_spec("matplotlib") is None:
        raise BadInput('the plots need matplotlib: pip install -e ".[plots]"')
    model_args, data_args = args.as_arguments(ModelArguments), args.as_arguments(run_mlm.TextArguments, streaming=True)
    training_args = TrainingArguments(output_dir=args.output_dir, report_to="none")
    run_common.set_up_logging(training_args)
    config, hub = run_common.load_config(model_args)
    tokenizer = run_common.load_tokenizer(None, None, config, model_args, training_args, hub)
    try:
        convert_to_linformer.check_encoder(config)
        n = run_common.find_max_seq_length(data_args, config, tokenizer)
        projected_dims = args.projected_dims or [2**power for power in range(1, (n // 4).bit_length())][-4:]
        choices = (projected_dims, args.projection_types, args.block_sizes)
        for k, projection_type, block_size in product(*choices):
            LinformerConfig(
                max_position_embeddings=n, projected_dim=k, projection_type=projection_type, block_size=block_size
            )
    except (ValueError, StrictDataclassError) as error:
        raise BadInput(" ".join(str(error).split())) from error
    sequences = load_sequences(data_args, model_args, training_args, tokenizer, n, args.max_samples)
    model = run_common.load_model(AutoModel, config, model_args, hub).to(training_args.device)
    folder = Path(args.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--output_dir {folder}: {error.strerror}. Name another folder.") from error

    rows, other = measure_closeness(model, sequences, args.projection_types, projected_dims, args.block_sizes)
    cumulative = spectrum(model, sequences)

    numbers = {
        "model_name_or_path": args.model_name_or_path,
        "n": n,
        "samples": len(sequences),
        "closeness": rows,
        "closeness_of_another_document": other,
        "mass": args.mass,
        "smallest_k_by_layer": smallest_k(cumulative.mean(1), args.mass).tolist(),
        "cumulative_by_layer": cumulative.mean(1).tolist(),
        "cumulative_at_quarter_by_head": cumulative[..., n // 4 - 1].tolist(),
    }
    (folder / "choose_k.json").write_text(json.dumps(numbers), encoding="utf-8")
    tables = make_tables(rows, other, cumulative, args.mass)
    (folder / "choose_k.md").write_text(tables + "\n", encoding="utf-8")
    plot_closeness(rows, other, n, folder / "closeness.png")
    plot_spectrum(cumulative, args.mass, folder / "spectrum.png")
    print(f"\n{tables}\n\nTables, numbers and plots, of {len(sequences)} sequences of {n} tokens, are in {folder}")


if __name__ == "__main__":
    run_common.run("choose_k.py", main)
