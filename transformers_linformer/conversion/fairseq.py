# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Converts a Linformer of fairseq, the `linformer_roberta` of its examples/linformer."""

import argparse
import os
import re

import torch

from configuration_linformer import LinformerConfig

from ..errors import first_line
from .convert import make_linformer, rename


# Maps parts of the names of fairseq's tensors to parts of the Linformer's names, as the tables of families.py do
FAIRSEQ = {
    "sentence_encoder.embed_tokens.": "linformer.embeddings.word_embeddings.",
    "sentence_encoder.embed_positions.": "linformer.embeddings.position_embeddings.",
    "sentence_encoder.emb_layer_norm.": "linformer.embeddings.LayerNorm.",
    "sentence_encoder.layernorm_embedding.": "linformer.embeddings.LayerNorm.",
    "sentence_encoder.layers.": "linformer.encoder.layer.",
    ".self_attn.q_proj.": ".attention.self.query.",
    ".self_attn.k_proj.": ".attention.self.key.",
    ".self_attn.v_proj.": ".attention.self.value.",
    ".self_attn.out_proj.": ".attention.output.dense.",
    ".self_attn_layer_norm.": ".attention.output.LayerNorm.",
    ".fc1.": ".intermediate.dense.",
    ".fc2.": ".output.dense.",
    ".final_layer_norm.": ".output.LayerNorm.",
    "lm_head.weight": "lm_head.decoder.weight",
}


def convert_fairseq_linformer(path):
    """
    Returns the Linformer of a `linformer_roberta` checkpoint of fairseq (examples/linformer there).

    n, k, the sharing and E are the checkpoint's. The model has its classification head, if it has one, or else its
    masked-LM head.

    The outputs for a sequence without padding are those of fairseq, at any length up to n. Padding changes the outputs of
    fairseq, whose attention reads it; here it does not.

    Raises `ValueError` for other checkpoints and for settings that do not fit.
    """
    args, state = read_fairseq(path)
    for name, wanted in (("activation_fn", "gelu"), ("pooler_activation_fn", "tanh"), ("no_scale_embedding", True)):
        if args.get(name, wanted) != wanted:
            raise ValueError(f"`{name}` of {path} is {args[name]!r}, but a Linformer needs {wanted!r}.")
    layers = sum(name.endswith(".compress_k.weight") for name in state)
    if layers == 0:
        raise ValueError(f"{path} is no linformer_roberta: it holds no compress_k, which is fairseq's name of E.")
    attention = "sentence_encoder.layers.{}.self_attn.compress_{}.weight"
    Es = [state.pop(attention.format(index, "k")) for index in range(layers)]
    Fs = [state.pop(attention.format(index, "v"), E) for index, E in enumerate(Es)]
    # The layers do not use the biases of E. Older versions also store a shared E under unused names.
    unused = re.compile(r"version$|\.compress_[kv]\.bias$|compress_layer\.")
    state = {name: tensor for name, tensor in state.items() if not unused.search(name)}

    heads = sorted({name.split(".")[1] for name in state if name.startswith("classification_heads.")})
    if len(heads) > 1:
        raise ValueError(f"{path} has the classification heads {', '.join(heads)}: delete all but one from its `model`.")
    target_class, names, labels = "LinformerForMaskedLM", FAIRSEQ, {}
    if heads:
        target_class = "LinformerForSequenceClassification"
        names = {f"classification_heads.{heads[0]}.": "classifier.", "lm_head.": None} | FAIRSEQ
        labels = {"num_labels": len(state[f"classification_heads.{heads[0]}.out_proj.bias"])}
    state = rename(state, names)

    words = state["linformer.embeddings.word_embeddings.weight"]
    projections, sharing = fairseq_projections(Es, Fs)
    config = LinformerConfig(
        **labels,
        vocab_size=len(words),
        hidden_size=words.shape[1],
        num_hidden_layers=layers,
        num_attention_heads=args["encoder_attention_heads"],
        intermediate_size=len(state["linformer.encoder.layer.0.intermediate.dense.bias"]),
        hidden_dropout_prob=args.get("dropout", 0.1),
        attention_probs_dropout_prob=args.get("attention_dropout", 0.1),
        classifier_dropout=args.get("pooler_dropout", 0.0),
        max_position_embeddings=Es[0].shape[1],
        projected_dim=Es[0].shape[0],
        projection_type="linear",
        projection_sharing=sharing,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        tie_word_embeddings=heads != [] or torch.equal(words, state["lm_head.decoder.weight"]),
    )
    positions = "linformer.embeddings.position_embeddings.weight"
    state[positions] = state[positions][config.pad_token_id + 1 :].clone()
    state["linformer.embeddings.token_type_embeddings.weight"] = words.new_zeros(1, config.hidden_size)
    for index in range(layers):
        fold_biases(state, f"linformer.encoder.layer.{index}.attention.")
    return make_linformer(target_class, config, state | projections)


def read_fairseq(path):
    """Returns the model's arguments as a dictionary, and its tensors by their names without the prefix `encoder.`."""
    if not os.path.isfile(path):
        raise ValueError(f"There is no file {path}.")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises errors of many types for a file that is no checkpoint
        raise ValueError(
            f"{path} cannot be read without running code from it ({first_line(error)}). Load it where fairseq is"
            " installed, and save a dictionary with nothing but its `args`, an argparse.Namespace, and its `model`."
        ) from error
    if not (isinstance(checkpoint, dict) and "model" in checkpoint):
        raise ValueError(f"{path} is no checkpoint of fairseq: it has no `model`.")
    args = checkpoint.get("args") or (checkpoint.get("cfg") or {}).get("model")
    args = vars(args) if isinstance(args, argparse.Namespace) else args
    if not args or "encoder_attention_heads" not in args:
        raise ValueError(f"{path} has no `encoder_attention_heads`, neither in `args` nor in `cfg`.")
    # Checkpoints from before mid-2020 call the encoder a decoder
    return args, {re.sub(r"^(en|de)coder\.", "", name): tensor for name, tensor in checkpoint["model"].items()}


def fairseq_projections(Es, Fs):
    """Returns the Linformer's tensors for the E and F of the layers, and their sharing, which the flags may not tell."""
    own_F = any(not torch.equal(E, F) for E, F in zip(Es, Fs, strict=True))
    if not own_F and all(torch.equal(E, Es[0]) for E in Es):
        return {"linformer.encoder.E.weight": Es[0]}, "layerwise"
    projections = {}
    for index, (E, F) in enumerate(zip(Es, Fs, strict=True)):
        projections[f"linformer.encoder.layer.{index}.attention.self.E.weight"] = E
        if own_F:
            projections[f"linformer.encoder.layer.{index}.attention.self.F.weight"] = F
    return projections, "headwise" if own_F else "key_value"


def fold_biases(state, attention):
    """
    Moves the biases of K and V into the output layer of an attention, in `state`, and leaves zeros in their place.

    fairseq adds these biases after the projection, (E X) W + bias, where a Linformer computes E (X W + bias). A bias that is
    the same in all keys changes no softmax. A bias that is the same in all values is added to each head's output, whatever the
    softmax is, so the next layer can add it once: W_o (output + bias) = W_o output + W_o bias.
    """
    value_bias, weight = state[f"{attention}self.value.bias"], state[f"{attention}output.dense.weight"]
    bias = state[f"{attention}output.dense.bias"]
    state[f"{attention}output.dense.bias"] = (bias.double() + weight.double() @ value_bias.double()).to(bias.dtype)
    for name in ("key", "value"):
        state[f"{attention}self.{name}.bias"] = torch.zeros_like(value_bias)
