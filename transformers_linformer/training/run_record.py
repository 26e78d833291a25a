# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""Records what made the model in an output folder, and whether that run is finished (run.json), and locks the folder."""

import contextlib
import enum
import hashlib
import json
import os
import tempfile
from pathlib import Path

import transformers
from accelerate.utils import broadcast_object_list

from ..errors import UsageError, file_error
from ..files import checksum, write_json
from ..source import Source


try:
    import fcntl
except ImportError:  # on Windows nothing is locked
    fcntl = None

logger = transformers.utils.logging.get_logger("transformers.linformer.run_record")

RECORD = "run.json"
# The arguments that decide which weights training ends with, to rounding
DECISIVE = (
    "seed",
    "data_seed",
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "weight_decay",
    "optim",
    "optim_args",
    "optim_target_modules",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "label_smoothing_factor",
    "neftune_noise_alpha",
    "bf16",
    "fp16",
    "train_sampling_strategy",
    "dataloader_drop_last",
    "ignore_data_skip",
    "dtype",
    "mlm_probability",
    "temperature",
    "memory_size",
    "line_by_line",
    "streaming",
    "load_best_model_at_end",
    "early_stopping_patience",
)
# These decide if evaluations do: where the best model is kept, or where the learning rate depends on them
DECISIVE_IF_EVALUATED = ("metric_for_best_model", "eval_strategy", "eval_steps", "eval_delay")
# A stream is known by the arguments that describe it. Of these, the first two may be paths
STREAM = ("dataset_name", "train_file", "dataset_config_name", "text_column", "max_train_samples", "demo")


# The folder


held_locks = set()
if fcntl is not None:  # a process that is left over, such as a loader's worker, holds no lock
    os.register_at_fork(after_in_child=lambda: [os.close(lock) for lock in held_locks])


@contextlib.contextmanager
def output_folder(training_args):
    """
    Makes the output folder, and locks it for one run at a time. A new folder that stays empty is removed at the end.

    Only the main process does this. The lock is gone with the process, however it ends. Raises `UsageError` if the folder
    cannot be written to, if another run has locked it, and if a file cannot be written or read later.
    """
    if training_args.process_index > 0:
        yield
        return
    folder = Path(training_args.output_dir)
    is_new = not folder.exists()
    make_folder(folder)
    with lock(folder):
        try:
            yield
        except Exception as error:
            message = None if isinstance(error, UsageError) else file_error(error)
            if message is None:
                raise
            raise UsageError(
                f"{message}. The same command, started again, goes on from what is complete in --output_dir {folder}."
            ) from error
        finally:
            if is_new:
                with contextlib.suppress(OSError):
                    folder.rmdir()


def make_folder(folder):
    """Makes the output folder of a command. Raises `UsageError` if it is a file, or cannot be written to."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output_dir {folder} is a file: name a folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"--output_dir {folder} cannot be written to ({error.strerror}): name another folder.") from error


@contextlib.contextmanager
def lock(folder):
    """Locks a folder, where the operating system and the file system can."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    held_locks.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"--output_dir {folder} is in use by another run: wait until it has ended, or name another folder."
            ) from error
        except OSError:
            logger.info(f"{folder} cannot be locked on this file system: start no second run in it.")
        yield
    finally:
        held_locks.discard(descriptor)
        os.close(descriptor)


# The record


def fingerprint(dataset):
    """Returns a hash of all values of a dataset, which depends neither on its cache nor on how it is stored."""
    digest = hashlib.sha256()
    for table in dataset.with_format("arrow").iter(batch_size=1000):
        for name in sorted(table.column_names):
            digest.update(name.encode())
            array = table[name].combine_chunks()
            while hasattr(array, "value_lengths"):  # a list
                digest.update(array.value_lengths().to_numpy(zero_copy_only=False).tobytes())
                array = array.flatten()
            values = array.to_numpy(zero_copy_only=False)
            digest.update(repr(values.tolist()).encode() if values.dtype == object else values.tobytes())
    return digest.hexdigest()[:16]


def base_model(name, revision, output_dir):
    """Returns what identifies the model of a name: for a folder a hash of its weights, and otherwise the name."""
    if name is None or not os.path.isdir(name):
        return name if revision in (None, "main") else f"{name} ({revision})"
    if os.path.isdir(output_dir) and os.path.samefile(name, output_dir):  # whose weights training replaces
        return "the output folder"
    folder = Path(name, Source(name).subfolder)
    files = sorted(path for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern))
    digest = hashlib.sha256("".join(map(checksum, files)).encode())
    return f"a folder whose weights have the hash {digest.hexdigest()[:16]}"


def decisive_settings(command, model_args, data_args, training_args, datasets, max_seq_length):
    """Returns what decides the weights that training ends with, apart from its length and the model's configuration."""
    judged = training_args.load_best_model_at_end or training_args.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy")
    names = DECISIVE + DECISIVE_IF_EVALUATED * judged + STREAM * getattr(data_args, "streaming", False)
    arguments = vars(model_args) | vars(data_args) | vars(training_args)
    settings = {"the command": command} | {f"--{name}": arguments[name] for name in names if name in arguments}
    for name in STREAM[:2]:
        if settings.get(f"--{name}") is not None and os.path.exists(arguments[name]):
            settings[f"--{name}"] = os.path.realpath(arguments[name])
    # Rounding aside, it does not matter how processes and steps of accumulation share these
    sequences = training_args.train_batch_size * training_args.gradient_accumulation_steps * training_args.world_size
    settings["the number of sequences per step"] = sequences // getattr(data_args, "sequence_parallel_size", 1)
    if command == "linformer-passages":  # except where the loss compares the documents of a batch with each other
        settings["the number of documents per batch"] = training_args.train_batch_size
    settings["--max_seq_length"] = max_seq_length
    if model_args.model_name_or_path is None and model_args.tokenizer_name is None:
        settings["--vocab_size"] = model_args.vocab_size
    for name in ("model_name_or_path", "teacher_name_or_path"):
        if name in arguments:
            settings[f"--{name}"] = base_model(arguments[name], model_args.model_revision, training_args.output_dir)
    if not getattr(data_args, "streaming", False):
        settings["the hash of the training data"] = fingerprint(datasets["train"])
        if judged:
            evaluated = [fingerprint(dataset) for split, dataset in datasets.items() if split.startswith("validation")]
            settings["the hash of the evaluation data"] = evaluated
    return json.loads(json.dumps(settings, default=lambda value: value.value if isinstance(value, enum.Enum) else str(value)))


class Run:
    """
    A run of a command, and the record that it keeps in its output folder.

    Attributes:
        is_trained: whether the folder holds the model that this run is to train.
        is_finished: whether everything else that the run is to do is done too.
    """

    def __init__(self, training_args):
        self.folder = Path(training_args.output_dir)
        self.keeps_record = training_args.do_train and training_args.process_index == 0
        self.is_trained = self.is_finished = False

    @property
    def path(self):
        return self.folder / RECORD

    def begin(self, settings, length, other_work, checkpoint):
        """
        Compares the run with the folder's record, from which `is_trained` and `is_finished` follow.

        Args:
            settings: see `decisive_settings`.
            length: the arguments that say how long training is.
            other_work: a dictionary that describes what is done after training.
            checkpoint: the checkpoint to go on from, or None.

        Raises `UsageError` if the folder holds a checkpoint or the model of a run with other settings.
        """
        record = self.read()
        trained = self.trained_files_are_there(record)
        self.record = {"settings": settings, "length": length, "trained": None, "done": {}}
        if trained or checkpoint is not None:
            self.check_same_settings(record.get("settings", {}), settings)
            is_longer = self.is_longer(record.get("length", length), length)
            if trained and (not is_longer or record["trained"]["stopped_early"]):
                self.record |= {"trained": record["trained"], "done": record["done"]}
                self.is_trained = True
        self.is_finished = self.is_trained and other_work.items() <= self.record["done"].items()
        self.other_work = other_work

    def write(self):
        """Writes the record into the folder, before anything else of the run is written there."""
        if self.keeps_record:
            write_json(self.path, self.record)

    def read(self):
        try:
            return json.loads(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}

    def trained_files_are_there(self, record):
        """Returns whether the files that training ended with are in the folder, and unchanged."""
        try:
            return all(checksum(self.folder / name) == value for name, value in record["trained"]["files"].items())
        except (OSError, KeyError, TypeError):
            return False

    def check_same_settings(self, theirs, ours):
        for name in ours:
            if name in theirs and theirs[name] != ours[name]:
                self.refuse(name, theirs[name], ours[name])

    def is_longer(self, theirs, ours):
        """Returns whether this run is longer than the recorded one. Raises `UsageError` if it is shorter."""
        for name in ours:
            if theirs[name] != ours[name] and (None in (theirs[name], ours[name]) or theirs[name] > ours[name]):
                self.refuse(name, theirs[name], ours[name])
        return theirs != ours

    def refuse(self, name, theirs, ours):
        raise UsageError(
            f"--output_dir {self.folder} holds another run ({name} is {theirs} there, {ours} here): name another folder, or"
            " delete it."
        )

    def training_ended(self, stopped_early):
        """Records that the model, the results and the state of training are in the folder."""
        if self.keeps_record:
            files = [*self.folder.glob("*.safetensors"), self.folder / "trainer_state.json"]
            sums = {path.name: checksum(path) for path in sorted(files)}
            self.record["trained"] = {"stopped_early": stopped_early, "files": sums}
            self.write()

    def end(self):
        """Records that everything is done."""
        if self.keeps_record:
            self.record["done"] |= self.other_work
            self.write()


def begin_run(command, model_args, data_args, training_args, datasets, max_seq_length, checkpoint):
    """
    Returns the `Run`, for which the main process has compared the settings with those of the folder's record.

    `datasets` are the tokenized splits. Without `--do_train` nothing is compared and nothing recorded. The log says it if the
    run is finished.
    """
    run = Run(training_args)
    if not training_args.do_train:
        return run
    if run.keeps_record:
        settings = decisive_settings(command, model_args, data_args, training_args, datasets, max_seq_length)
        by_steps = training_args.max_steps > 0
        length = {
            "--max_steps": training_args.max_steps if by_steps else None,
            "--num_train_epochs": None if by_steps else training_args.num_train_epochs,
        }
        is_stream = getattr(data_args, "streaming", False)
        rest = {split: dataset for split, dataset in datasets.items() if split != "train"}
        other_work = {split: "stream" if is_stream else fingerprint(dataset) for split, dataset in rest.items()}
        if training_args.push_to_hub:
            other_work["pushed to"] = training_args.hub_model_id or run.folder.name
        run.begin(settings, length, other_work, checkpoint)
    run.is_trained, run.is_finished = broadcast_object_list([run.is_trained, run.is_finished])
    if run.is_finished:
        logger.info(
            f"The run in {run.folder} is finished, so nothing is done. Raise --num_train_epochs or --max_steps to train the"
            " model further, and name another --output_dir, or delete this one, to train it anew."
        )
    return run


def has_trained_model(training_args):
    """Returns whether training in the output folder has ended, so that the folder holds the tokenizer of the run."""
    run = Run(training_args)
    return training_args.do_train and run.trained_files_are_there(run.read())
