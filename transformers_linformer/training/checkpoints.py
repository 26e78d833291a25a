# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Finds the checkpoint that a run goes on from, and checks that it holds the model that is to be trained."""

import json
import zipfile
from pathlib import Path

import safetensors
import transformers

from ..errors import UsageError
from ..files import checksum, write_json


logger = transformers.utils.logging.get_logger("transformers.linformer.checkpoints")

CHECKSUMS = "checksums.json"
# Trainer resumes without some of these, but then ends with other weights
NEEDED = {"config.json", "optimizer.pt", "scheduler.pt", "trainer_state.json"}


def write_checksums(checkpoint):
    """Writes the checksums of all files of a checkpoint, given as a `Path`, beside them."""
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file() and CHECKSUMS not in path.name]
    write_json(checkpoint / CHECKSUMS, {path.relative_to(checkpoint).as_posix(): checksum(path) for path in files})


def is_complete(checkpoint, with_best=False):
    """
    Returns whether a checkpoint, given as a `Path`, has all files that resuming needs, as they were written.

    Without a file of checksums, which `LinformerTrainer` writes last, only the structure of the files is checked. With
    `with_best`, the best checkpoint of the run so far has to be complete too, as its weights will be loaded at the end.
    """
    try:
        names = {path.name for path in checkpoint.iterdir()}
        if not NEEDED <= names or not all(any(checkpoint.glob(each)) for each in ("*.safetensors", "rng_state*.pth")):
            return False
        if CHECKSUMS in names:
            expected = json.loads((checkpoint / CHECKSUMS).read_text(encoding="utf-8"))
            if any(checksum(checkpoint / name) != value for name, value in expected.items()):
                return False
        elif not has_sound_files(checkpoint):
            return False
        best = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["best_model_checkpoint"]
        if not with_best or best is None or Path(best).name == checkpoint.name:
            return True
        return is_complete(checkpoint.parent / Path(best).name)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, safetensors.SafetensorError):
        return False


def has_sound_files(checkpoint):
    """Returns whether the files of a checkpoint can be read to their end. May raise what `is_complete` catches."""
    for path in checkpoint.glob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))
    for path in checkpoint.glob("*.safetensors"):
        with safetensors.safe_open(path, framework="pt"):  # compares the file's length with its header
            pass
    for path in (*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth")):
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return False
    return True


def last_complete_checkpoint(output_dir, with_best=False):
    """Returns the path of the newest complete checkpoint in the folder, or None. Warns of newer ones that are not."""
    found = [path for path in Path(output_dir).glob("checkpoint-*") if path.name.split("-")[-1].isdigit()]
    for checkpoint in sorted(found, key=lambda path: int(path.name.split("-")[-1]), reverse=True):
        if is_complete(checkpoint, with_best):
            return str(checkpoint)
        logger.warning(f"{checkpoint} was written only in part, or is damaged, so it is passed over.")
    return None


def checkpoint_to_resume(output_dir, named=None, with_best=False):
    """Returns the checkpoint that the user named, or else the last complete one in the output folder, or None."""
    if named is not None and not is_complete(Path(named), with_best):
        raise UsageError(f"--resume_from_checkpoint {named} is no complete checkpoint. Leave it out to take the last one.")
    return named or last_complete_checkpoint(output_dir, with_best)


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
    # Trainer replaces these, the tokens' ids by the tokenizer's
    ignored |= {"pad_token_id", "bos_token_id", "eos_token_id", "use_cache"}
    changed = [name for name in theirs if name not in ignored and theirs[name] != ours.get(name)]
    if changed:
        name = "model_type" if "model_type" in changed else changed[0]
        raise UsageError(
            f"--output_dir {folder} holds another model ({name} is {theirs[name]} there, {ours.get(name)} here): name"
            " another folder, or delete it."
        )
