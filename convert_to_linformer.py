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
Turn a pretrained BERT, RoBERTa, XLM-RoBERTa, CamemBERT or DistilBERT, or a Linformer of fairseq, into a Linformer.

    python convert_to_linformer.py --model_name_or_path FacebookAI/roberta-base --output_dir linformer-roberta \\
        --projected_dim 128 --max_position_embeddings 4096
    python convert_to_linformer.py --model_name_or_path checkpoint_best.pt --output_dir from-fairseq
    python convert_to_linformer.py --help

All weights are kept, head and tokenizer too; only E and F, the projections along the sequence, are new. By default a token
attends exactly to its own block of 128 tokens, and to 64 pooled rows of the whole input.
"""

import argparse
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import torch
import transformers
from huggingface_hub import ModelCardData
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.activations import ACT2FN

import modeling_linformer
import run_common
from configuration_linformer import LinformerConfig
from configuration_linformer.configuration_linformer import PROJECTION_SHARINGS, PROJECTION_TYPES
from modeling_linformer.projections import LinformerLinearProjection
from run_common import BadInput, first_line, longest_input, transformer_subfolder


logger = transformers.utils.logging.get_logger("transformers.convert_to_linformer")


# Names. Each table replaces parts of a source tensor's name, the first entry that fits, to get the Linformer's; what is
# in no table has the same name in both. None: the Linformer has no such tensor.

BERT = {
    "bert.": "linformer.",
    "cls.predictions.transform.dense.": "lm_head.dense.",
    "cls.predictions.transform.LayerNorm.": "lm_head.layer_norm.",
    "cls.predictions.": "lm_head.",
}
ROBERTA = {"roberta.": "linformer."}
DISTILBERT = {
    "distilbert.embeddings.": "linformer.embeddings.",
    "distilbert.transformer.layer.": "linformer.encoder.layer.",
    ".attention.q_lin.": ".attention.self.query.",
    ".attention.k_lin.": ".attention.self.key.",
    ".attention.v_lin.": ".attention.self.value.",
    ".attention.out_lin.": ".attention.output.dense.",
    ".sa_layer_norm.": ".attention.output.LayerNorm.",
    ".ffn.lin1.": ".intermediate.dense.",
    ".ffn.lin2.": ".output.dense.",
    ".output_layer_norm.": ".output.LayerNorm.",
    "vocab_transform.": "lm_head.dense.",
    "vocab_layer_norm.": "lm_head.layer_norm.",
    "vocab_projector.": "lm_head.decoder.",
}
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

# model_type: the start of its class names, and its table
FAMILIES = {
    "bert": ("Bert", BERT),
    "roberta": ("Roberta", ROBERTA),
    "xlm-roberta": ("XLMRoberta", ROBERTA),
    "camembert": ("Camembert", ROBERTA),
    "distilbert": ("DistilBert", DISTILBERT),
}

# The end of the source's class name: the Linformer's head, and how the names of that head differ
HEADS = {
    "Model": ("LinformerModel", {}),
    "ForPreTraining": ("LinformerForMaskedLM", {"bert.pooler.": None, "cls.seq_relationship.": None}),
    "ForMaskedLM": ("LinformerForMaskedLM", {}),
    "ForSequenceClassification": ("LinformerForSequenceClassification", {}),
    "ForTokenClassification": ("LinformerForTokenClassification", {}),
    "ForQuestionAnswering": ("LinformerForQuestionAnswering", {}),
    "ForMultipleChoice": ("LinformerForMultipleChoice", {"classifier.": "choice_classifier."}),
}
# BERT's classifier is a pooler and a layer, RoBERTa's has both in one module, as the Linformer's
BERT_CLASSIFIER = {"bert.pooler.dense.": "classifier.dense.", "classifier.": "classifier.out_proj."}

# Fields of the configuration that the Linformer has too, and DistilBERT's own names for some
CARRIED_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "type_vocab_size",
    "initializer_range",
    "layer_norm_eps",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "cls_token_id",
    "sep_token_id",
    "tie_word_embeddings",
    "chunk_size_feed_forward",
    "id2label",
    "label2id",
    "problem_type",
)
DISTILBERT_FIELDS = {
    "intermediate_size": "hidden_dim",
    "hidden_act": "activation",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
}


def convert_to_linformer(
    model_or_name,
    projected_dim=64,
    max_position_embeddings=None,
    block_size=None,
    projection_type="attention_pool",
    projection_sharing="layerwise",
    encoder_only=False,
    **hub,
):
    """
    The Linformer with the weights, the head and the dtype of a BERT, RoBERTa, XLM-RoBERTa, CamemBERT or DistilBERT.

    Inputs of at most `block_size` tokens get the original's outputs, and with the poolings those of at most k tokens do
    too. Longer ones are approximated: train further.

    Args:
        model_or_name: the model, or the folder or Hub name of its checkpoint. Of a model of sentence-transformers, the
            transformer is taken.
        projected_dim (`int` or `list[int]`): k, or the k of each layer.
        max_position_embeddings (`int`, *optional*): n; by default the original's. Positions beyond those repeat them.
        block_size (`int` or `list[int]`, *optional*): how many tokens attend to each other exactly, as in
            `LinformerConfig`, or one number per layer; 0 for no blocks. By default 128, or the largest divisor of the
            original's number of positions below that. Where positions repeat it has to be a divisor, so that the positions
            within a block are consecutive ones.
        projection_type, projection_sharing: as in `LinformerConfig`. `linear` starts as mean pooling over k windows of
            the n positions, the first position alone, and `conv` as mean pooling over k equal windows.
        encoder_only (`bool`): leaves the head out, which gives a `LinformerModel`.
        hub: arguments of `from_pretrained`, such as `revision` or `token`.

    Raises `ValueError` for models that do not fit, naming what does not, and `OSError` where there is none to load.
    """
    if isinstance(model_or_name, PreTrainedModel):
        source = model_or_name.base_model if encoder_only else model_or_name
        config, class_name = source.config, type(source).__name__
    else:
        if str(model_or_name).endswith(".pt"):
            raise ValueError(
                f"{model_or_name} looks like fairseq's: `convert_fairseq_linformer` reads its checkpoints."
            )
        source = None
        hub = hub | {"subfolder": transformer_subfolder(model_or_name, **hub)}
        config = AutoConfig.from_pretrained(model_or_name, **hub)
        class_name = None if encoder_only else (config.architectures or [None])[0]

    # All that may be refused is, before the weights are loaded
    check_encoder(config)
    target_class, names = find_names(config, class_name)
    positions_of_source = longest_input(config)
    if max_position_embeddings is None:
        max_position_embeddings = positions_of_source
    if block_size is None:
        block_size = next(size for size in range(128, 0, -1) if positions_of_source % size == 0)
    target_config = LinformerConfig(
        **carried_fields(config),
        max_position_embeddings=max_position_embeddings,
        projected_dim=projected_dim,
        projection_type=projection_type,
        projection_sharing=projection_sharing,
        block_size=block_size,
    )
    if max_position_embeddings > positions_of_source and positions_of_source % target_config.block_multiple:
        raise ValueError(
            f"`block_size` is {block_size}, which does not divide the original's {positions_of_source} positions: those"
            " beyond repeat them, and would start anew within a block. Choose a divisor, or 0."
        )
    set_far_token_limit(target_config, positions_of_source)
    if source is None:
        source = load_source(model_or_name, config, class_name, hub)

    prefix = "" if hasattr(source, source.base_model_prefix) else f"{source.base_model_prefix}."
    state = rename({prefix + name: tensor for name, tensor in source.state_dict().items()}, names)
    positions = "linformer.embeddings.position_embeddings.weight"
    state[positions] = tile(state[positions][-longest_input(config) :], max_position_embeddings)
    token_types = "linformer.embeddings.token_type_embeddings.weight"
    state.setdefault(token_types, torch.zeros(target_config.type_vocab_size, target_config.hidden_size))
    return make_linformer(target_class, target_config, state).to(source.device)


def set_far_token_limit(config, positions_of_source):
    """Lets a block's softmax count no more tokens than the original's ever did (it was never trained to sum over more)."""
    if config.block_multiple > 1 and not config.has_learned_projection:
        least = max(config.projected_dims)
        config.far_token_limit = max(least, positions_of_source - max(config.block_sizes))


def check_encoder(config):
    """Refuses a source whose layers compute something else than a Linformer's."""
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"`model_type` is {config.model_type!r}, which cannot be converted: the source must be one of"
            f" {', '.join(FAMILIES)}."
        )
    position_type = getattr(config, "position_embedding_type", None) or "absolute"
    if position_type != "absolute":
        raise ValueError(
            f"`position_embedding_type` is {position_type!r}, but a projected row has no distance to a token: the"
            " source must have absolute positions."
        )
    for name in ("is_decoder", "add_cross_attention"):
        if getattr(config, name, False):
            raise ValueError(f"`{name}` is True, and a Linformer cannot decode: the source must be an encoder.")
    activation = carried_fields(config)["hidden_act"]
    if activation not in ACT2FN:
        raise ValueError(
            f"`hidden_act` is {activation!r}, which this transformers does not know: it must be one of its."
        )


def find_names(config, class_name):
    """The Linformer's class and the table of names, for a source's configuration and the name of its class, or None."""
    start, names = FAMILIES[config.model_type]
    head = "Model" if class_name is None else class_name.removeprefix(start)
    cure = "Take the encoder alone, with encoder_only=True (--encoder_only)."
    if head not in HEADS or not hasattr(transformers, start + head):
        heads = ", ".join(start + head for head in HEADS)
        raise ValueError(f"`architectures` is {class_name}, whose head a Linformer lacks, and not of {heads}. {cure}")
    target_class, head_names = HEADS[head]
    if names is DISTILBERT and head in ("ForSequenceClassification", "ForMultipleChoice"):
        raise ValueError(
            f"`architectures` is {class_name}, whose head applies ReLU where a Linformer's applies tanh. {cure}"
        )
    # RoBERTa's has GELU whatever `hidden_act` is, as the Linformer's
    activation = carried_fields(config)["hidden_act"]
    if target_class == "LinformerForMaskedLM" and names is not ROBERTA and activation != "gelu":
        raise ValueError(
            f"`hidden_act` is {activation!r}, in the masked-LM head too, where a Linformer has 'gelu' always. {cure}"
        )
    if names is BERT and head == "ForSequenceClassification":
        head_names = BERT_CLASSIFIER
    return target_class, head_names | names


def carried_fields(config):
    """The fields of the source's configuration that a Linformer has too, by the Linformer's names."""
    fields, source_names = {}, {}
    if FAMILIES[config.model_type][1] is DISTILBERT:
        fields, source_names = {"layer_norm_eps": 1e-12, "type_vocab_size": 1}, DISTILBERT_FIELDS  # fixed in its code
    for name in CARRIED_FIELDS:
        source_name = source_names.get(name, name)
        if hasattr(config, source_name):
            fields[name] = getattr(config, source_name)
    return fields


def load_source(name, config, class_name, hub):
    """The model of a checkpoint. Says which tensors are left out, and refuses where some would be random."""
    source_class = AutoModel if class_name is None else getattr(transformers, class_name)
    source, info = source_class.from_pretrained(name, config=config, dtype="auto", output_loading_info=True, **hub)
    class_name = type(source).__name__
    if info["unexpected_keys"]:
        logger.warning(f"Left out, as {class_name} has no place for them: {', '.join(sorted(info['unexpected_keys']))}")
    missing = set(info["missing_keys"])
    if {key.split(".")[0] for key in missing} == {"pooler"}:  # as in what a masked-LM model saved
        source.pooler = None
    elif missing:
        raise ValueError(
            f"{name} lacks weights of a {class_name}, which would be random: {', '.join(sorted(missing))}. Take the"
            " encoder alone, with encoder_only=True (--encoder_only)."
        )
    return source


# Weights


def rename(state, names):
    """The state with its names replaced as the table says. Says which tensors are left out."""
    pattern = re.compile("|".join(map(re.escape, names)))
    renamed, dropped = {}, []
    for name, tensor in state.items():
        if any(name.startswith(start) for start, new in names.items() if new is None):
            dropped.append(name)
        else:
            renamed[pattern.sub(lambda match: names[match[0]], name)] = tensor
    if dropped:
        logger.warning(f"Left out, as the Linformer has no place for them: {', '.join(dropped)}")
    return renamed


def tile(rows, length):
    """The first `length` rows of the rows repeated over and over."""
    return rows[torch.arange(length, device=rows.device) % len(rows)]


def mean_pooling_matrix(k, n):
    """E of shape (k, n) that averages n positions over the windows of `mean_pool`: the first position is alone."""
    window = torch.cat([torch.zeros(1, dtype=torch.long), min(1, k - 1) + torch.arange(n - 1) * (k - 1) // max(n - 1, 1)])
    E = torch.nn.functional.one_hot(window, k).T.float()
    return E / E.sum(1, keepdim=True)


def make_linformer(target_class, config, state):
    """
    The Linformer with the tensors of `state`, named as in a model with a head, in their dtype. E and F that it lacks
    start as mean pooling. Raises `ValueError` if any tensor is left over, missing, or of another shape.
    """
    target_class = getattr(modeling_linformer, target_class)
    dtype = state["linformer.embeddings.word_embeddings.weight"].dtype
    options = {}
    if target_class is modeling_linformer.LinformerModel:
        state = {name.removeprefix("linformer."): tensor for name, tensor in state.items()}
        options["add_pooling_layer"] = "pooler.dense.weight" in state
    bias = state.get("lm_head.decoder.bias", state.get("lm_head.bias"))  # one parameter of two names
    if bias is not None:
        state |= {"lm_head.decoder.bias": bias, "lm_head.bias": bias}

    model = target_class(config, **options).to(dtype).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LinformerLinearProjection):
                module.weight.copy_(mean_pooling_matrix(*module.weight.shape[-2:]))

    ours = model.state_dict()
    projections = {name for name in ours if name.endswith((".E.weight", ".F.weight"))}
    left_over, missing = state.keys() - ours.keys(), ours.keys() - state.keys() - projections
    if left_over or missing:
        raise ValueError(
            f"The source's tensors do not fit a {target_class.__name__}: {', '.join(sorted(left_over)) or 'none'} left"
            f" over, {', '.join(sorted(missing)) or 'none'} missing. It must be a plain model of its type."
        )
    for name, tensor in state.items():
        if tensor.shape != ours[name].shape:
            raise ValueError(
                f"The source's tensor for {name} is of shape {tuple(tensor.shape)}, but its configuration makes it"
                f" {tuple(ours[name].shape)}."
            )
    model.load_state_dict(state, strict=False)
    return model


# fairseq


def convert_fairseq_linformer(path):
    """
    The Linformer of a `linformer_roberta` checkpoint of fairseq (examples/linformer there): n, k, sharing and E are the
    checkpoint's. It has the classification head, if there is one, or else the masked-LM head.

    The outputs for a sequence without padding are fairseq's, at any length up to n. Padding changes fairseq's outputs,
    as its attention reads it; here it does not.

    Raises `ValueError` for other checkpoints and for settings that do not fit.
    """
    args, state = read_fairseq(path)
    for name, wanted in (("activation_fn", "gelu"), ("pooler_activation_fn", "tanh"), ("no_scale_embedding", True)):
        if args.get(name, wanted) != wanted:
            raise ValueError(f"`{name}` of {path} is {args[name]!r}; a Linformer has {wanted!r} there.")
    layers = sum(name.endswith(".compress_k.weight") for name in state)
    if layers == 0:
        raise ValueError(f"{path} holds no compress_k, the E of a linformer_roberta, so it is none.")
    attention = "sentence_encoder.layers.{}.self_attn.compress_{}.weight"
    Es = [state.pop(attention.format(index, "k")) for index in range(layers)]
    Fs = [state.pop(attention.format(index, "v"), E) for index, E in enumerate(Es)]
    # The layer uses neither biases of E nor, in older versions, the other names under which a shared E is stored
    unused = re.compile(r"version$|\.compress_[kv]\.bias$|compress_layer\.")
    state = {name: tensor for name, tensor in state.items() if not unused.search(name)}

    heads = sorted({name.split(".")[1] for name in state if name.startswith("classification_heads.")})
    if len(heads) > 1:
        raise ValueError(
            f"{path} has the classification heads {', '.join(heads)}: delete all but one from its `model`."
        )
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
    state[positions] = state[positions][config.pad_token_id + 1 :]
    state["linformer.embeddings.token_type_embeddings.weight"] = words.new_zeros(1, config.hidden_size)
    for index in range(layers):
        fold_biases(state, f"linformer.encoder.layer.{index}.attention.")
    return make_linformer(target_class, config, state | projections)


def read_fairseq(path):
    """The model's arguments as a dictionary, and its tensors without the prefix `encoder.`."""
    if not os.path.isfile(path):
        raise ValueError(f"There is no file {path}.")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many types, if the file is no checkpoint
        raise ValueError(
            f"{path} cannot be read without running code from it ({first_line(error)}). Load it where fairseq is, and"
            " save a dictionary of its `args`, an argparse.Namespace, and its `model` alone."
        ) from error
    if not (isinstance(checkpoint, dict) and "model" in checkpoint):
        raise ValueError(f"{path} is no checkpoint of fairseq: it has no `model`.")
    args = checkpoint.get("args") or (checkpoint.get("cfg") or {}).get("model")
    args = vars(args) if isinstance(args, argparse.Namespace) else args
    if not args or "encoder_attention_heads" not in args:
        raise ValueError(f"{path} does not say `encoder_attention_heads`, neither in `args` nor in `cfg`.")
    # Checkpoints from before mid-2020 have the encoder under the name of a decoder
    return args, {re.sub(r"^(en|de)coder\.", "", name): tensor for name, tensor in checkpoint["model"].items()}


def fairseq_projections(Es, Fs):
    """The Linformer's tensors for the layers' E and F, and their sharing, read off them, whatever the flags say."""
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
    fairseq adds the biases of K and V behind the projection, W (E X) + b, where the formula has E (X W + b). The same b
    on all keys changes no softmax. On all values it adds b to each head's output, whatever the softmax is, so it may as
    well be added once, by the layer behind: W_o (h + b) = W_o h + W_o b.
    """
    value_bias, weight = state[f"{attention}self.value.bias"], state[f"{attention}output.dense.weight"]
    bias = state[f"{attention}output.dense.bias"]
    state[f"{attention}output.dense.bias"] = (bias.double() + weight.double() @ value_bias.double()).to(bias.dtype)
    state[f"{attention}self.key.bias"] = state[f"{attention}self.value.bias"] = torch.zeros_like(value_bias)


# Script


@dataclass
class ConversionArguments:
    """What to convert, and to what."""

    model_name_or_path: str = field(
        metadata={"help": "The model to convert: a folder, a name on the Hub, or a .pt file of fairseq."}
    )
    output_dir: str = field(metadata={"help": "The folder to write to. One that holds a model already is left alone."})
    projected_dim: list[int] | None = field(
        default=None, metadata={"help": "k, by default 64, or one k per layer, as in 128 128 64 64 32 32."}
    )
    max_position_embeddings: int | None = field(
        default=None, metadata={"help": "n, the longest input in tokens. By default the original's."}
    )
    block_size: list[int] | None = field(
        default=None,
        metadata={
            "help": "How many tokens attend to each other exactly, by default 128; or one number per layer; 0 for no blocks."
        },
    )
    projection_type: str | None = field(
        default=None, metadata={"help": "How n rows become k. By default attention_pool.", "choices": PROJECTION_TYPES}
    )
    projection_sharing: str | None = field(
        default=None,
        metadata={"help": "What shares E and F. By default layerwise.", "choices": PROJECTION_SHARINGS},
    )
    encoder_only: bool = field(default=False, metadata={"help": "Leave the head out."})
    tokenizer_name: str | None = field(default=None, metadata={"help": "The tokenizer, if not the model's."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloads are kept."})
    model_revision: str = field(default="main", metadata={"help": "The branch, tag or commit to load from."})
    token: str | None = field(default=None, metadata={"help": "The token for the Hub, if not the one logged in with."})


def check_output_dir(folder):
    found = [path.name for pattern in ("config.json", "*.safetensors", "*.bin") for path in Path(folder).glob(pattern)]
    if found:
        raise BadInput(f"--output_dir {folder} holds a model already ({found[0]}): name another folder, or delete it.")
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise BadInput(f"--output_dir {folder} is a file: name a folder.")


TASKS = {
    "LinformerModel": ("AutoModel", "feature-extraction", "last_hidden_state"),
    "LinformerForMaskedLM": ("AutoModelForMaskedLM", "fill-mask", "logits"),
    "LinformerForSequenceClassification": ("AutoModelForSequenceClassification", "text-classification", "logits"),
    "LinformerForTokenClassification": ("AutoModelForTokenClassification", "token-classification", "logits"),
    "LinformerForQuestionAnswering": ("AutoModelForQuestionAnswering", "question-answering", "start_logits"),
    "LinformerForMultipleChoice": ("AutoModelForMultipleChoice", "multiple-choice", "logits"),
}


def write_model_card(model, tokenizer, source, source_positions, output_dir):
    """Writes README.md: where the weights come from, how to load them, and what is exact."""
    config, class_name = model.config, type(model).__name__
    auto_class, task, output = TASKS[class_name]
    metadata = ModelCardData(library_name="transformers", tags=["linformer"], pipeline_tag=task)
    if not os.path.exists(source):
        metadata.base_model = source

    folder = f"{json.dumps(output_dir)}, trust_remote_code=True"
    if tokenizer is None:
        imports = auto_class
        lines = [f'inputs = {{"input_ids": torch.tensor([[{config.bos_token_id}, 5, 6, {config.eos_token_id}]])}}']
    else:
        imports = f"{auto_class}, AutoTokenizer"
        lines = [
            f"tokenizer = AutoTokenizer.from_pretrained({folder})",
            'inputs = tokenizer(["A first text.", "And a second one."], padding=True, return_tensors="pt")',
        ]
    if class_name == "LinformerForMultipleChoice":
        lines.append("inputs = {name: rows[None] for name, rows in inputs.items()}  # two choices for one question")
    if class_name == "LinformerModel" and model.pooler is None:
        folder += ", add_pooling_layer=False"
    lines.append(f"model = {auto_class}.from_pretrained({folder})")
    lines.append(f"with torch.no_grad():\n    print(model(**inputs).{output}.shape)")
    snippet = "\n".join(lines)

    card = f"""---
{metadata.to_yaml()}
---

# {Path(output_dir).resolve().name}

A [Linformer](https://arxiv.org/abs/2006.04768), self-attention with linear complexity, with the weights of `{source}`,
converted by `convert_to_linformer.py` of transformers-linformer and not trained since. The original's licence holds.

| | |
|---|---|
| class | `{class_name}` |
| longest input, n | {config.max_position_embeddings} tokens |
| projected rows, k | {config.projected_dim} |
| block size | {config.block_size} tokens |
| projection | `{config.projection_type}`, sharing `{config.projection_sharing}` |
| dtype | {str(model.dtype).removeprefix("torch.")} |

## How to use

```python
import torch
from transformers import {imports}

{snippet}
```

## How close it is to the original

{what_is_exact(config, source_positions)}
"""
    (Path(output_dir) / "README.md").write_text(card, encoding="utf-8")


def what_is_exact(config, source_positions):
    """What the model card says on this; `source_positions` is None for a Linformer of fairseq."""
    if source_positions is None:
        return (
            "A sequence without padding gets fairseq's outputs, to rounding, at any length up to n. In a padded batch,"
            " fairseq's\nown attention reads the padding, so its outputs change with the amount; here they do not."
        )
    n, k = config.max_position_embeddings, min(config.projected_dims)
    if config.projection_type == "conv" and k == n:
        exact = n
    else:
        rows = [0] * config.num_hidden_layers if config.has_learned_projection else config.projected_dims
        exact = min(map(max, config.block_sizes, rows))
    sentences = []
    if exact:
        sentences.append(f"Inputs of at most {min(exact, n)} tokens get the original's outputs, to rounding.")
    elif k == n:
        sentences.append(f"Inputs of exactly {n} tokens get the original's outputs, to rounding; shorter ones do not.")
    if exact < n and (exact or k < n):
        sentences.append(
            f"{'Longer' if exact else 'All'} inputs are approximated: what is not in a token's own block is read through"
            f" {k} projected rows, each of which stands for several tokens."
        )
    if n > source_positions:
        sentences.append(
            f"The original has {source_positions} positions. The later ones repeat these, and were not trained there."
        )
    if len(sentences) > 1 or not exact:
        sentences.append("Train it further before you rely on it there, by masked language modeling or on your task.")
    return "\n".join(sentences)


def main(argv):
    (args,) = run_common.parse_arguments(argv, (ConversionArguments,), description=__doc__.strip().splitlines()[0])
    check_output_dir(args.output_dir)
    source = args.model_name_or_path
    hub = {"revision": args.model_revision, "token": args.token, "cache_dir": args.cache_dir}
    hub["trust_remote_code"] = False  # no model that can be converted brings code, so nobody needs to be asked
    names = ("projected_dim", "max_position_embeddings", "block_size", "projection_type", "projection_sharing", "encoder_only")
    options = {name: getattr(args, name) for name in names}
    options = {name: value for name, value in options.items() if value is not None and value is not False}
    for name in ("projected_dim", "block_size"):  # a single number is one for all layers
        if isinstance(options.get(name), list) and len(options[name]) == 1:
            options[name] = options[name][0]

    tokenizer = source_positions = None
    try:
        if source.endswith(".pt"):
            if options:
                raise BadInput(f"{source} is a Linformer already, so --{' and --'.join(options)} cannot be chosen.")
            model = convert_fairseq_linformer(source)
            if args.tokenizer_name is not None:
                tokenizer = run_common.pretrained_tokenizer(args.tokenizer_name, **hub)
        else:
            in_source = hub | {"subfolder": transformer_subfolder(source, **hub)}
            config = AutoConfig.from_pretrained(source, **in_source)
            source_positions = longest_input(config)
            tokenizer = run_common.pretrained_tokenizer(
                args.tokenizer_name or source, **(hub if args.tokenizer_name else in_source)
            )
            model = convert_to_linformer(source, **options, **hub)
    except OSError as error:
        raise BadInput(f"--model_name_or_path {source}: {first_line(error)}") from error
    except (ValueError, StrictDataclassError, safetensors.SafetensorError) as error:
        raise BadInput(f"--model_name_or_path {source}: {' '.join(str(error).split())}") from error
    n, k = model.config.max_position_embeddings, model.config.projected_dim
    if tokenizer is not None:
        if len(tokenizer) > model.config.vocab_size:
            raise BadInput(f"the tokenizer has {len(tokenizer)} tokens, the model only {model.config.vocab_size}.")
        tokenizer.model_max_length = n
        tokenizer.save_pretrained(args.output_dir)
    model.save_pretrained(args.output_dir)
    write_model_card(model, tokenizer, source, source_positions, args.output_dir)
    b = model.config.block_size
    print(f"A {type(model).__name__} with n = {n}, k = {k} and blocks of {b} tokens is in {args.output_dir}")
    if tokenizer is None:
        print(
            "It has no tokenizer: its tokens are <s>, <pad>, </s>, <unk>, then the lines of the checkpoint's dict.txt,"
            " then <mask>. Where that is RoBERTa's dict.txt, the tokenizer is --tokenizer_name FacebookAI/roberta-base."
        )


if __name__ == "__main__":
    run_common.run("convert_to_linformer.py", main)
