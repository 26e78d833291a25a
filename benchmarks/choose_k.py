# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Measure which k and which block size a pretrained BERT or RoBERTa needs as a Linformer, without converting or training it.

    python -m benchmarks.choose_k --model_name_or_path FacebookAI/roberta-base --train_file text.txt --output_dir choice
    python -m benchmarks.choose_k --help

Text is packed into sequences of n tokens, which are called documents below. Two things are measured on them:

Similarity (similarity.png): the cosine similarity of the converted model's last hidden states to the original's, of single
tokens and of the means over each document. Beside it stands the similarity of the original's states for one document to
those for another: a value that is not well above it is not similar.

Mass (spectrum.png): the sum of the k largest singular values of a softmax matrix P (n x n) over the sum of all n, averaged
over the sequences, and over the heads where one number stands for a layer. This is figure 1 of the paper
(https://arxiv.org/abs/2006.04768), and belongs to the best matrix of rank k. Projecting keys and values gives another
matrix, so the mass is a guide to k, and the similarity is what the conversion really keeps. (A k per layer in proportion to
its mass was tried: without blocks it keeps a little more than the same k for all layers, with blocks a little less.)

The tables are written to choose_k.md, and all numbers to choose_k.json.
"""

import json
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from tqdm.auto import tqdm
from transformers import AutoModel

from configuration_linformer import LinformerConfig
from configuration_linformer.configuration_linformer import PROJECTION_TYPES
from transformers_linformer.arguments import HubArguments, parse_arguments, run_command
from transformers_linformer.conversion.convert import check_encoder, convert_to_linformer, default_block_size, possible_windows
from transformers_linformer.errors import UsageError
from transformers_linformer.loading import check_max_seq_length, load_config, load_model, load_tokenizer
from transformers_linformer.tables import markdown_table
from transformers_linformer.tokenization import check_vocabulary
from transformers_linformer.training.run_record import make_folder
from transformers_linformer.training.text import demo_texts, first_sequences, load_texts

from .similarity import MEASURES, last_hidden_states, similarity


@dataclass(kw_only=True)  # fields without a default after those of the parent
class ChoiceArguments(HubArguments):
    """These arguments say what is measured, and on which text."""

    model_name_or_path: str = field(metadata={"help": "The model to be converted: a folder, or a name on the Hub."})
    output_dir: str = field(metadata={"help": "The folder for the tables, the numbers and the plots."})
    dataset_name: str | None = field(
        default=None,
        metadata={"help": "A dataset on the Hub, or a folder with the layout of one. Its validation set is read, if any."},
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "The dataset's configuration."})
    train_file: str | None = field(default=None, metadata={"help": "A file of text: .txt, .csv, .json or .jsonl."})
    demo: bool = field(default=False, metadata={"help": "Whether to read English text that comes with Python."})
    text_column: str | None = field(
        default=None, metadata={"help": "The column of the text. By default `text`, or else the first."}
    )
    max_seq_length: int | None = field(default=None, metadata={"help": "n. By default the longest input of the model."})
    max_samples: int = field(default=32, metadata={"help": "The number of sequences of n tokens to read, at least 2."})
    projected_dims: list[int] | None = field(
        default=None,
        metadata={
            "help": "The values of k to try. Each has to divide n, except with linear. By default those of up to four windows"
            " of at least 4 positions, which divide n and fit the blocks: n / 4, n / 8, n / 16 and n / 32 for a power of two."
        },
    )
    block_sizes: list[int] | None = field(
        default=None,
        metadata={"help": "The block sizes to try. 0 is for no blocks. By default 0 and the largest divisor of n up to 256."},
    )
    projection_types: list[str] = field(
        default_factory=lambda: ["attention_pool"], metadata={"help": "How n rows become k.", "choices": PROJECTION_TYPES}
    )
    mass: float = field(default=0.9, metadata={"help": "The part of the sum of the singular values to keep."})
    tokenizer_name: str | None = field(default=None, metadata={"help": "The tokenizer, if not the model's."})

    def __post_init__(self):
        if self.max_samples < 2:
            raise UsageError(f"--max_samples is {self.max_samples}; it must be at least 2, to compare one with another.")
        if not 0 < self.mass <= 1:
            raise UsageError(f"--mass is {self.mass}; it must be above 0 and at most 1.")


def default_projected_dims(n, block_sizes):
    """Returns k of at most four windows from 4 positions on, each at least twice as long as the one before."""
    windows = []
    for window in possible_windows(n, block_sizes):
        if window >= (2 * windows[-1] if windows else 4):
            windows.append(window)
    return [n // window for window in reversed(windows[:4])] or [n]


def cumulative_mass(P):
    """Returns, for matrices (..., n, n), the part of the singular values' sum that the k largest have, for k = 1, ..., n."""
    sums = torch.linalg.svdvals(P.float()).double().cumsum(-1)
    return sums / sums[..., -1:]


def smallest_k(cumulative, mass):
    """Returns the smallest k whose part in `cumulative`, (..., n), is at least `mass`."""
    return (cumulative < mass).sum(-1) + 1  # at most n, where all mass is 1.0 exactly


@torch.no_grad()
def spectrum(model, sequences):
    """Returns the `cumulative_mass` of each head's softmax matrix, (layers, heads, n), averaged over the sequences."""
    attention, was_training = model.config._attn_implementation, model.training
    model.eval().set_attn_implementation("eager")  # the only one that returns the matrices
    try:
        total = 0
        for batch in tqdm(sequences.to(model.device).split(1), desc="singular values"):
            layers = model.base_model(input_ids=batch, output_attentions=True).attentions
            total = total + torch.stack([cumulative_mass(P[0]).cpu() for P in layers])  # P: (1, heads, n, n)
    finally:
        model.train(was_training).set_attn_implementation(attention)
    return total / len(sequences)


def measure_similarity(model, sequences, projection_types, projected_dims, block_sizes):
    """
    Returns the `similarity` for each projection type, k and block size, as a list of dictionaries, and the similarity
    between different documents. `sequences` are token ids of shape (samples, n).
    """
    original = last_hidden_states(model, sequences, "original")
    rows = []
    for projection_type, block_size, k in product(projection_types, block_sizes, projected_dims):
        linformer = convert_to_linformer(
            model,
            projected_dim=k,
            max_position_embeddings=sequences.shape[1],
            block_size=block_size,
            projection_type=projection_type,
        )
        hidden = last_hidden_states(linformer, sequences, f"{projection_type}, k = {k}, b = {block_size}")
        row = {"projection_type": projection_type, "block_size": block_size, "k": k}
        rows.append(row | similarity(hidden, original))
    return rows, similarity(original.roll(len(original) // 2, 0), original)  # neighbours may be of one text


def make_tables(rows, other, cumulative, mass):
    n = cumulative.shape[-1]
    rows = [*rows, {"projection_type": "(another document)", "block_size": "", "k": ""} | other]
    cosines = [
        [
            row["projection_type"],
            row["block_size"],
            row["k"],
            *(f"{mean:.3f} ± {std:.3f}" for mean, std in map(row.get, MEASURES)),
        ]
        for row in rows
    ]
    ks, of_heads = (smallest_k(each, mass).tolist() for each in (cumulative.mean(1), cumulative))
    at_quarter = cumulative[..., n // 4 - 1].mean(1)
    layers = [[layer, k, min(of_heads[layer]), max(of_heads[layer]), f"{at_quarter[layer]:.3f}"] for layer, k in enumerate(ks)]
    return "\n\n".join(
        [
            "Cosine similarity to the original's last hidden states, untrained: mean ± standard deviation over documents",
            markdown_table(["projection", "block size", "k", "per token", "per document"], cosines),
            f"The k of n = {n} that keeps {mass:g} of the mass of the singular values",
            markdown_table(["layer", "k", "smallest of a head", "largest of a head", f"mass at n/4 = {n // 4}"], layers),
        ]
    )


def plot_similarity(rows, other, n, path):
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
            look = {
                "color": colors[place % 6],
                "marker": markers[place % 6],
                "fillstyle": fill,
                "linestyle": line,
                "capsize": 3,
            }
            label = f"{kind[0]}, {f'blocks of {kind[1]}' if kind[1] else 'no blocks'}, {name}"
            axes.errorbar(ks, means, spreads, label=label, **look)
        look = {"color": "grey", "linewidth": 1, "linestyle": line}
        axes.errorbar(ticks, [other[measure][0]] * len(ticks), label=f"another document, {name}", **look)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, ticks)
    axes.set(xlabel=f"k, projected rows for n = {n} tokens", ylabel="cosine similarity to the original's hidden states")
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
    (args,) = parse_arguments(argv, (ChoiceArguments,), description=__doc__.strip().splitlines()[0])
    # Each of these steps may refuse, and does so before the long work begins
    # No model that can be converted brings code, so nobody needs to be asked whether to trust it
    hub_kwargs = args.hub_kwargs | {"trust_remote_code": False}
    config = load_config(args.model_name_or_path, **hub_kwargs)
    tokenizer = load_tokenizer(args.tokenizer_name or args.model_name_or_path, **hub_kwargs)
    try:
        check_encoder(config)
        n = check_max_seq_length(args.max_seq_length, config, tokenizer.num_special_tokens_to_add(pair=False))
        block_sizes = args.block_sizes or [0, default_block_size(n)]
        projected_dims = args.projected_dims or default_projected_dims(n, block_sizes)
        choices = (projected_dims, args.projection_types, block_sizes)
        for k, projection_type, block_size in product(*choices):
            LinformerConfig(max_position_embeddings=n, projected_dim=k, projection_type=projection_type, block_size=block_size)
    except (ValueError, StrictDataclassError) as error:
        raise UsageError(" ".join(str(error).split())) from error
    check_vocabulary(tokenizer, config.vocab_size, args.tokenizer_name or args.model_name_or_path)
    sequences = first_sequences(texts_to_read(args), tokenizer, n, args.max_samples)
    model = load_model(AutoModel, args.model_name_or_path, config, **hub_kwargs)
    model.to(torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu")
    folder = Path(args.output_dir)
    make_folder(folder)

    rows, other = measure_similarity(model, sequences, args.projection_types, projected_dims, block_sizes)
    cumulative = spectrum(model, sequences)

    numbers = {
        "model_name_or_path": args.model_name_or_path,
        "n": n,
        "samples": len(sequences),
        "similarity": rows,
        "similarity_to_another_document": other,
        "mass": args.mass,
        "smallest_k_by_layer": smallest_k(cumulative.mean(1), args.mass).tolist(),
        "cumulative_by_layer": cumulative.mean(1).tolist(),
        "cumulative_at_quarter_by_head": cumulative[..., n // 4 - 1].tolist(),
    }
    (folder / "choose_k.json").write_text(json.dumps(numbers), encoding="utf-8")
    tables = make_tables(rows, other, cumulative, args.mass)
    (folder / "choose_k.md").write_text(tables + "\n", encoding="utf-8")
    plot_similarity(rows, other, n, folder / "similarity.png")
    plot_spectrum(cumulative, args.mass, folder / "spectrum.png")
    print(f"\n{tables}\n\nTables, numbers and plots, of {len(sequences)} sequences of {n} tokens, are in {folder}")


def texts_to_read(args):
    """Returns a stream of texts: the validation set, if there is one, or else the first split, which may be the only one."""
    if args.demo:
        return demo_texts(streaming=True)["train"]
    options = {"streaming": True, "cache_dir": args.cache_dir, "token": args.token}
    if args.text_column is not None:
        options["text_column"] = [args.text_column]
    texts = load_texts(args.dataset_name, args.dataset_config_name, {"train_file": args.train_file}, **options)
    return texts["validation"] if "validation" in texts else next(iter(texts.values()))


def run():
    run_command(main)


if __name__ == "__main__":
    run()
