# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Which checkpoint a run goes on from, and whether it holds the model that is to be trained."""

import json
import zipfile
from pathlib import Path

import safetensors
import transformers

from .errors import UsageError


logger = transformers.utils.logging.get_logger("transformers.linformer.checkpoints")


def is_complete(checkpoint):
    """Whether all files of a checkpoint, given as a `Path`, were written to their end."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))  # the last file that Trainer writes
        json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        weights = list(checkpoint.glob("*.safetensors"))
        for path in weights:
            with safetensors.safe_open(path, framework="pt"):  # compares the file's length with its header
                pass
        pickled = [*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth")]
        for path in pickled:
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:
                    return False
        return bool(weights) and {"optimizer.pt", "scheduler.pt"} <= {path.name for path in pickled}
    except (OSError, ValueError, zipfile.BadZipFile, safetensors.SafetensorError):
        return False


def last_complete_checkpoint(output_dir):
    """Returns the path of the newest complete checkpoint in the folder, or None. Warns of newer ones that are not."""
    found = [path for path in Path(output_dir).glob("checkpoint-*") if path.name.split("-")[-1].isdigit()]
    for checkpoint in sorted(found, key=lambda path: int(path.name.split("-")[-1]), reverse=True):
        if is_complete(checkpoint):
            return str(checkpoint)
        logger.warning(f"{checkpoint} was written only in part, so it is passed over.")
    return None


def checkpoint_to_resume(output_dir, named=None):
    """Returns the checkpoint that the user named, or else the last complete one in the output folder, or None."""
    if named is not None and not is_complete(Path(named)):
        raise UsageError(f"--resume_from_checkpoint {named} is no complete checkpoint. Leave it out to take the last one.")
    return named or last_complete_checkpoint(output_dir)


def check_same_model(config, folder, vocab_size):
    """
    Refuses to train a model into a folder, or on from a checkpoint, that holds another one.

    `vocab_size` is the tokenizer's. It counts where it is larger than the configuration's, as the embeddings grow then.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        return
    theirs, ours = json.loads(path.read_text(encoding="utf-8")), config.to_dict()
    ours["vocab_size"] = max(config.vocab_size, vocab_size)
    if theirs.get("model_type") == config.model_type:
        theirs = type(config).from_dict(theirs).to_dict()  # the file leaves out fields with their default value
    ignored = {"transformers_version", "architectures", "dtype", "auto_map", "_name_or_path"}
    ignored |= {"pad_token_id", "bos_token_id", "eos_token_id"}  # Trainer replaces them by the tokenizer's
    changed = [name for name in theirs if name not in ignored and theirs[name] != ours.get(name)]
    if changed:
        name = "model_type" if "model_type" in changed else changed[0]
        raise UsageError(
            f"--output_dir {folder} holds another model ({name} is {theirs[name]} there, {ours.get(name)} here): name"
            " another folder, or delete it."
        )
