# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Carries what makes a folder one of sentence-transformers from the source of a conversion to its result.

That is a list of modules, the configurations of the modules after the transformer, the weights of those that have some, and
prompts. Nothing here imports sentence-transformers.
"""

import json
import re
from pathlib import Path

import safetensors.torch
import torch

from ..files import read_json
from ..source import Source


MODULE_TYPE = re.compile(r"sentence_transformers\.([\w.]+\.)?(?P<kind>Transformer|Pooling|Normalize|Dense)")
TRANSFORMER_CONFIGS = tuple(
    f"sentence_{name}_config.json" for name in ("bert", "roberta", "distilbert", "camembert", "xlm-roberta")
)
TRANSFORMER_FIELDS = ("max_seq_length", "do_lower_case", "transformer_task", "modality_config", "module_output_name")
MODEL_FIELDS = (
    "__version__",
    "model_type",
    "prompts",
    "default_prompt_name",
    "similarity_fn_name",
    "truncate_dim",
    "activation_fn",
    "requirements",
)


def check_activation(function, field):
    """
    Raises `ValueError` if an activation function is not one of `torch.nn`.

    sentence-transformers imports and calls whatever a folder names there, as soon as its code is trusted.
    """
    if function is not None and not str(function).startswith("torch.nn."):
        raise ValueError(f"`{field}` is {function!r}, but only a function of torch.nn is carried over.")


def cross_encoder_activation(config):
    """
    Returns the name of the function that a cross-encoder applies to its logits, or None if its configuration names none.

    Raises `ValueError` if it is not one of `torch.nn`.
    """
    function = (getattr(config, "sentence_transformers", None) or {}).get("activation_fn")
    if function is None:  # its place before version 4 of sentence-transformers
        function = getattr(config, "sbert_ce_default_activation_function", None)
    check_activation(function, "activation_fn")
    return function


def read_sentence_modules(name, **hub_kwargs):
    """
    Returns what a folder or a repository of sentence-transformers holds beside the checkpoint of its transformer. It is
    given by its name or as a `Source`.

    Returns a dictionary from the path of a file, in a folder whose transformer is at the top, to its content: what json
    reads, or a dictionary of tensors. It is empty if the source has no modules.json. Raises `ValueError`, which names what
    is wrong, if a module is none of Transformer, Pooling, Normalize and Dense, and if a file is missing or holds more than
    can be carried over.
    """
    source = Source.of(name, **hub_kwargs)
    path, modules, files = source.modules_path, [], {}
    for index, module in enumerate(source.modules):
        match = MODULE_TYPE.fullmatch(module["type"])
        if match is None or (match["kind"] == "Transformer") != (index == 0):
            raise ValueError(
                f"{path}: module {index} is {module['type']}, but a Transformer of sentence-transformers, and then modules"
                " Pooling, Normalize and Dense are needed. Without modules.json, the transformer alone is converted."
            )
        kind, folder = match["kind"], module["path"]
        if folder != Path(folder).name or folder == "..":
            raise ValueError(f"{path}: the path of module {index} is {folder!r}, which is not a folder beside modules.json.")
        target = "" if index == 0 else f"{index}_{kind}"
        modules.append({"idx": index, "name": str(module.get("name", index)), "path": target, "type": module["type"]})
        if kind == "Transformer":
            files["sentence_bert_config.json"] = transformer_config(source, folder)
            continue
        config = source.find("config.json", folder)
        if config is None and kind != "Normalize":
            raise ValueError(f"{path}: there is no {folder}/config.json, which module {index} needs.")
        files[f"{target}/config.json"] = {} if config is None else read_json(config, dict)
        if kind == "Dense":
            check_activation(files[f"{target}/config.json"].get("activation_function"), "activation_function")
            files[f"{target}/model.safetensors"] = read_tensors(source, folder)
    if files:
        config = source.find("config_sentence_transformers.json")
        config = {} if config is None else checked_fields(config, MODEL_FIELDS)
        check_activation(config.get("activation_fn"), "activation_fn")
        files["config_sentence_transformers.json"] = config
        files["modules.json"] = modules
    return files


def checked_fields(path, known):
    """Returns the fields of a json file. Raises `ValueError` for one that is not known, unless it is empty."""
    fields = read_json(path, dict)
    for name, value in fields.items():
        if name not in known and value:
            raise ValueError(f"{path}: the field `{name}` is {value!r}, which cannot be carried over.")
    return {name: value for name, value in fields.items() if name in known}


def transformer_config(source, subfolder):
    for filename in TRANSFORMER_CONFIGS:
        path = source.find(filename, subfolder)
        if path is not None:
            return checked_fields(path, TRANSFORMER_FIELDS)
    return {}


def read_tensors(source, subfolder):
    """Returns the weights of a module as a dictionary of tensors."""
    try:
        path = source.find("model.safetensors", subfolder)
        if path is not None:
            return safetensors.torch.load_file(path)
        path = source.find("pytorch_model.bin", subfolder)
        if path is not None:
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path}: the weights cannot be read: {error}") from error
    raise ValueError(f"{source.name}: there are no weights in {subfolder}.")


def sentence_class(files, config):
    """
    Returns the name of the class of sentence-transformers that loads a converted model, or None if none does.

    `files` are what `read_sentence_modules` returns, and `config` is the converted model's configuration. A cross-encoder
    may have no such files, only an activation function in its configuration.
    """
    if files:
        return files["config_sentence_transformers.json"].get("model_type", "SentenceTransformer")
    return None if cross_encoder_activation(config) is None else "CrossEncoder"


def with_mean_pooling(files, hidden_size):
    """
    Returns the files of a model that pools `hidden_size` numbers per token by their mean and normalises the result.

    Of `files`, which `read_sentence_modules` returns, it keeps prompts and settings. They may be empty.
    """
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(kinds.items())
    ]
    return {
        "sentence_bert_config.json": files.get("sentence_bert_config.json", {}),
        "1_Pooling/config.json": {"word_embedding_dimension": hidden_size, "pooling_mode_mean_tokens": True},
        "2_Normalize/config.json": {},
        "config_sentence_transformers.json": files.get("config_sentence_transformers.json", {}),
        "modules.json": modules,
    }


def write_sentence_modules(files, folder, max_seq_length):
    """Writes what `read_sentence_modules` returns beside a checkpoint whose longest input has `max_seq_length` tokens."""
    for name, content in files.items():  # modules.json, which makes the others count, is the last one
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            safetensors.torch.save_file({key: tensor.contiguous() for key, tensor in content.items()}, path)
            continue
        if name == "sentence_bert_config.json":
            content = content | {"max_seq_length": max_seq_length}
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
