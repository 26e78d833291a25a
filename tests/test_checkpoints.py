"""Tests that a run goes on from the last checkpoint that is complete, whatever became of the others."""

import re
import resource
import shutil
import sys

import pytest
from safetensors.torch import save_file
from tiny_runs import (
    MIDDLE,
    STOPS_EARLY,
    as_if_killed,
    assert_same_weights,
    distill_arguments,
    glue_arguments,
    mlm_arguments,
    read,
    weights,
)

from transformers_linformer import arguments
from transformers_linformer.commands import distill, glue, mlm
from transformers_linformer.errors import UsageError
from transformers_linformer.training import checkpoints


# Checkpoints


def overwrite_in_the_middle(path):
    content = bytearray(path.read_bytes())
    content[-8:-4] = bytes(4) if any(content[-8:-4]) else b"\1\1\1\1"
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("damage", "name", "with_checksums"),
    [
        (truncate, "tokenizer.json", True),
        (truncate, "tokenizer.json", False),
        (truncate, "training_args.bin", True),
        (lambda path: path.unlink(), "rng_state.pth", True),
        (lambda path: path.unlink(), "rng_state.pth", False),
        (lambda path: path.unlink(), "tokenizer.json", True),
        (lambda path: path.unlink(), "optimizer.pt", False),
        (overwrite_in_the_middle, "model.safetensors", True),
        (overwrite_in_the_middle, "trainer_state.json", True),
        (truncate, "checksums.json", True),
    ],
)
def test_a_checkpoint_without_all_that_resuming_needs(damage, name, with_checksums, finished_run, inputs, tmp_path, log):
    shutil.copytree(finished_run, tmp_path / "out")
    as_if_killed(tmp_path / "out", 10)
    if not with_checksums:
        (tmp_path / "out" / "checkpoint-10" / "checksums.json").unlink(missing_ok=True)
        assert checkpoints.is_complete(tmp_path / "out" / "checkpoint-10")
    damage(tmp_path / "out" / "checkpoint-10" / name)
    mlm.main(mlm_arguments(inputs, tmp_path / "out", *MIDDLE))
    assert "checkpoint-10 was written only in part, or is damaged" in log.text
    assert f"Going on from {tmp_path / 'out' / 'checkpoint-5'}\n" in log.text
    assert_same_weights(tmp_path / "out", finished_run)
    assert checkpoints.is_complete(tmp_path / "out" / "checkpoint-10")


def test_a_checkpoint_needs_the_best_one(inputs, tmp_path):
    """The weights of the best checkpoint are loaded at the end, so without it an older one has to be gone on from."""
    argv = glue_arguments(inputs, tmp_path / "out", "--max_steps=10", *STOPS_EARLY)
    glue.main(argv)
    shutil.copytree(tmp_path / "out", tmp_path / "whole")
    as_if_killed(tmp_path / "out", 3)
    overwrite_in_the_middle(tmp_path / "out" / "checkpoint-1" / "model.safetensors")
    assert checkpoints.last_complete_checkpoint(tmp_path / "out", with_best=True) is None
    assert checkpoints.last_complete_checkpoint(tmp_path / "out").endswith("checkpoint-3")
    glue.main(argv)
    assert_same_weights(tmp_path / "out", tmp_path / "whole")


def test_goes_on_with_a_model_whose_tensors_had_older_names(inputs, tmp_path):
    """Published BERTs name them LayerNorm.gamma and .beta, by which Trainer would not find them when it goes on."""
    model = shutil.copytree(inputs / "teacher", tmp_path / "model")
    older = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed = {re.sub("LayerNorm.(weight|bias)", lambda name: older[name[0]], key): w for key, w in weights(model).items()}
    save_file(renamed, model / "model.safetensors", metadata={"format": "pt"})
    options = ("--max_steps=10", "--save_steps=5", "--learning_rate=1e-2", f"--model_name_or_path={model}")
    argv = [each for each in glue_arguments(inputs, tmp_path / "out", *options) if not each.startswith("--config_overrides")]
    glue.main(argv)
    shutil.copytree(tmp_path / "out", tmp_path / "whole")
    as_if_killed(tmp_path / "out", 5)
    glue.main(argv)
    assert_same_weights(tmp_path / "out", tmp_path / "whole")
    assert "bert.embeddings.LayerNorm.weight" in weights(tmp_path / "out")


# Files


@pytest.mark.parametrize("command", ["mlm", "glue", "distill"])
def test_an_output_folder_that_is_a_file(command, inputs, tmp_path):
    (tmp_path / "out").write_text("")
    commands = {"mlm": (mlm, mlm_arguments), "glue": (glue, glue_arguments), "distill": (distill, distill_arguments)}
    module, make_arguments = commands[command]
    with pytest.raises(UsageError, match="--output_dir .*out is a file: name a folder"):
        module.main(make_arguments(inputs, tmp_path / "out"))
    with pytest.raises(UsageError, match="--output_dir .*out/below cannot be written to"):
        module.main(make_arguments(inputs, tmp_path / "out" / "below"))


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that even root cannot write to")
def test_an_output_folder_that_is_read_only(inputs):
    with pytest.raises(UsageError, match="--output_dir /proc/self cannot be written to"):
        mlm.main(mlm_arguments(inputs, "/proc/self"))


def run_as_command(main, argv, monkeypatch):
    """Returns what a command says as it exits."""
    monkeypatch.setattr(sys, "argv", ["linformer", *argv])
    with pytest.raises(SystemExit) as raised:
        arguments.run_command(main)
    return raised.value.code


@pytest.mark.parametrize("name", ["tokenizer_config.json", "model.safetensors"])
def test_a_full_disk(name, finished_run, inputs, tmp_path, monkeypatch):
    shutil.copytree(finished_run, tmp_path / "out")
    longer = mlm_arguments(inputs, tmp_path / "out", *MIDDLE, "--max_steps=20")
    size = (finished_run / name).stat().st_size - 1
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:  # writing more than that to a file fails, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        message = run_as_command(mlm.main, longer, monkeypatch)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert message.startswith("linformer: error: ") and "\n" not in message
    assert "File too large" in message and f"goes on from what is complete in --output_dir {tmp_path / 'out'}" in message
    assert checkpoints.last_complete_checkpoint(tmp_path / "out") == str(tmp_path / "out" / "checkpoint-10")
    mlm.main(longer)
    assert read(tmp_path / "out", "trainer_state.json")["global_step"] == 20


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device"), "linformer: error: No space left on device"),
        (PermissionError(13, "Permission denied", "/a/b"), "linformer: error: /a/b: Permission denied"),
        (OSError(28, "No space left", "/from", None, "/to"), "linformer: error: /to: No space left"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos\nmore"), "the disk may be full"),
        (RuntimeError("basic_ios::clear: iostream error"), "the disk may be full"),
        (Exception("No space left on device (os error 28)"), "linformer: error: No space left on device (os error 28)"),
        (Exception('IoError(Os { code: 28, message: "No space left on device" })'), "linformer: error: IoError(Os { code: 28"),
    ],
)
def test_errors_of_files_are_one_line(error, message, monkeypatch):
    def main(argv):
        raise error

    said = run_as_command(main, [], monkeypatch)
    assert message in said and "\n" not in said


def test_other_errors_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["linformer"])
    with pytest.raises(ZeroDivisionError):
        arguments.run_command(lambda argv: 1 / 0)
