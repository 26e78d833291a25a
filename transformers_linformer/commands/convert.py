# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Convert a BERT, RoBERTa, XLM-RoBERTa, CamemBERT, DistilBERT, ELECTRA, ALBERT, MPNet, Longformer or BigBird into a Linformer.

A Linformer of fairseq is converted, too.

    linformer-convert --model_name_or_path FacebookAI/roberta-base --output_dir linformer-roberta \\
        --max_position_embeddings 4096
    linformer-convert --model_name_or_path checkpoint_best.pt --output_dir from-fairseq
    linformer-convert --help

All weights are kept, and the head and the tokenizer, too. Only E and F, the projections along the sequence, are new. By
default a token attends exactly to its own block of 256 tokens, and to one pooled row for each 32 tokens of the others. Inputs
of more than 8,192 tokens have longer windows and at most 256 rows. A folder of sentence-transformers becomes one again.
"""

import os
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError

from configuration_linformer.configuration_linformer import PROJECTION_SHARINGS, PROJECTION_TYPES

from ..arguments import HubArguments, parse_arguments, run_command
from ..conversion.convert import check_encoder, convert_to_linformer
from ..conversion.fairseq import convert_fairseq_linformer
from ..conversion.sentence_modules import read_sentence_modules, sentence_class, write_sentence_modules
from ..errors import UsageError, first_line
from ..loading import load_tokenizer, max_input_length
from ..model_card import write_conversion_card
from ..source import Source
from ..tokenization import check_vocabulary, fit_length


@dataclass(kw_only=True)  # as fields without a default follow those of the parent
class ConversionArguments(HubArguments):
    """Says what to convert, and into which Linformer."""

    model_name_or_path: str = field(
        metadata={"help": "The model to convert: a folder, a name on the Hub, or a .pt file of fairseq."}
    )
    output_dir: str = field(metadata={"help": "The folder to write to. A folder that holds a model already is left alone."})
    projected_dim: list[int] | None = field(
        default=None,
        metadata={
            "help": "k, or one k per layer, for example 128 128 64 64 32 32. By default n / 32, and at most 256. Each has to"
            " divide n, except with linear."
        },
    )
    max_position_embeddings: int | None = field(
        default=None, metadata={"help": "n, the longest input in tokens. By default the original's."}
    )
    block_size: list[int] | None = field(
        default=None,
        metadata={
            "help": "The number of tokens that attend to each other exactly, by default the largest divisor up to 256 of"
            " the positions that are kept, or one number per layer. 0 is for no blocks."
        },
    )
    projection_type: str | None = field(
        default=None,
        metadata={"help": "How n rows become k. By default attention_pool.", "choices": PROJECTION_TYPES},
    )
    projection_sharing: str | None = field(
        default=None,
        metadata={"help": "Which layers and heads share E and F. By default layerwise.", "choices": PROJECTION_SHARINGS},
    )
    num_global_tokens: int | None = field(
        default=None,
        metadata={"help": "The number of first tokens that all blocks see exactly. By default 64, or 0 without blocks."},
    )
    position_period: int | None = field(
        default=None,
        metadata={
            "help": "How many of the original's positions are kept; later positions repeat them, but not those of the global"
            " tokens. By default all are kept. Give the length at which the original was trained, if that is less."
        },
    )
    encoder_only: bool = field(default=False, metadata={"help": "Whether to leave the head out."})
    tokenizer_name: str | None = field(default=None, metadata={"help": "The tokenizer, if not the model's."})


# The options of `convert_to_linformer`: what it has between the model and the arguments of `from_pretrained`
OPTIONS = tuple(signature(convert_to_linformer).parameters)[1:-1]


def check_output_dir(folder):
    """Raises `UsageError` if the folder holds a model, or if it is a file."""
    found = [path.name for pattern in ("config.json", "*.safetensors", "*.bin") for path in Path(folder).glob(pattern)]
    if found:
        raise UsageError(f"--output_dir {folder} holds a model already ({found[0]}): name another folder, or delete it.")
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UsageError(f"--output_dir {folder} is a file: name a folder.")


def convert(args):
    """
    Returns the Linformer, its tokenizer, the number of tokens that the original reads, and `read_sentence_modules`' files.

    A Linformer of fairseq comes without a tokenizer, unless `--tokenizer_name` names one, and its number is None.
    """
    # No model that can be converted brings code, so nobody needs to be asked whether to trust it
    source = Source(args.model_name_or_path, args.hub_kwargs | {"trust_remote_code": False})
    options = {name: value for name in OPTIONS if (value := getattr(args, name)) is not None and value is not False}
    for name in ("projected_dim", "block_size"):  # a single number holds for all layers
        if isinstance(options.get(name), list) and len(options[name]) == 1:
            options[name] = options[name][0]

    if source.name.endswith(".pt"):
        if options:
            raise UsageError(f"{source.name} is a Linformer already, so --{' and --'.join(options)} cannot be chosen.")
        model = convert_fairseq_linformer(source.name)
        return model, args.tokenizer_name and load_tokenizer(args.tokenizer_name, **source.hub_kwargs), None, {}
    modules = read_sentence_modules(source)
    task = modules.get("sentence_bert_config.json", {}).get("transformer_task")
    if args.encoder_only and task == "sequence-classification":
        modules = {}  # without its head, it is no cross-encoder
    check_encoder(source.config)  # first, as it may refuse the model
    tokenizer = load_tokenizer(args.tokenizer_name or source, **source.hub_kwargs)
    return convert_to_linformer(source, **options), tokenizer, max_input_length(source.config), modules


def main(argv):
    (args,) = parse_arguments(argv, (ConversionArguments,), description=__doc__.strip().splitlines()[0])
    source = args.model_name_or_path
    check_output_dir(args.output_dir)
    try:
        model, tokenizer, source_positions, modules = convert(args)
    except OSError as error:
        raise UsageError(f"--model_name_or_path {source}: {first_line(error)}") from error
    except (ValueError, StrictDataclassError) as error:
        raise UsageError(f"--model_name_or_path {source}: {' '.join(str(error).split())}") from error
    n, k, b = model.config.max_position_embeddings, model.config.projected_dim, model.config.block_size
    if tokenizer is not None:
        check_vocabulary(tokenizer, model.config.vocab_size, args.tokenizer_name or source)
        fit_length(tokenizer, n)
        tokenizer.save_pretrained(args.output_dir)
    model.save_pretrained(args.output_dir)
    write_sentence_modules(modules, args.output_dir, n)
    loader = sentence_class(modules, model.config)
    write_conversion_card(model, tokenizer, source, source_positions, args.output_dir, loader)
    print(f"A {type(model).__name__} with n = {n}, k = {k} and blocks of {b} tokens is in {args.output_dir}")
    if tokenizer is None:
        print(
            "It has no tokenizer. Its tokens are <s>, <pad>, </s>, <unk>, then the lines of the checkpoint's dict.txt, then"
            " <mask>. If that file is RoBERTa's dict.txt, give --tokenizer_name FacebookAI/roberta-base."
        )


def run():
    run_command(main)


if __name__ == "__main__":
    run()
