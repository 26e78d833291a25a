"""Tests that arguments that cannot be used end a command with one line, on the command line and in a file."""

import json
import os
import sys
import time
import types
import weakref

import pytest
import torch
from tiny_runs import make_inputs, mlm_arguments

from benchmarks import choose_k
from transformers_linformer.arguments import run_command
from transformers_linformer.commands import convert, distill, glue, mlm, passages
from transformers_linformer.errors import UsageError


@pytest.mark.parametrize("command", [mlm, glue, distill, passages, convert, choose_k])
@pytest.mark.parametrize("from_file", [False, True])
def test_misspelt_arguments(command, from_file, tmp_path):
    wrong, right = {
        mlm: ("num_epochs", "num_train_epochs"),
        glue: ("trian_file", "train_file"),
        distill: ("teacher_path", "teacher_name_or_path"),
        passages: ("pasage_words", "passage_words"),
        convert: ("projected_dims", "projected_dim"),
        choose_k: ("projekted_dims", "projected_dims"),
    }[command]
    content = {"output_dir": str(tmp_path / "out"), "model_name_or_path": "some", wrong: 3}
    argv = [f"--{name}={value}" for name, value in content.items()]
    if command is mlm:
        argv = [*argv[:-1], *argv[-1].split("=")]
    expected = f"there is no argument --{wrong}. Did you mean --{right}?"
    if from_file:
        (tmp_path / "arguments.json").write_text(json.dumps(content))
        argv = [str(tmp_path / "arguments.json")]
        expected = f"{argv[0]}: {expected}"
    with pytest.raises(UsageError) as raised:
        command.main(argv)
    assert str(raised.value) == expected
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("--max_seq=16", "Did you mean --max_seq_length?"),
        ("--max-seq=16", "Did you mean --max_seq_length?"),
        ("--learning=1", "Did you mean --learning_rate?"),
        ("--overwrite_output_dir", "To train anew, delete the folder, or name another one with --output_dir."),
        ("--no-cuda", "Give --use_cpu."),
    ],
)
def test_arguments_that_are_abbreviated_or_gone(argument, hint, tmp_path):
    with pytest.raises(UsageError) as raised:
        mlm.main(mlm_arguments(tmp_path, tmp_path / "out", argument))
    assert str(raised.value) == f"there is no argument {argument.partition('=')[0]}. {hint}"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"max_steps": "ten"}, "argument --max_steps/--max-steps: invalid int value: 'ten'"),
        ({"max_steps": 2.5}, "argument --max_steps/--max-steps: invalid int value: '2.5'"),
        ({"max_steps": True}, "argument --max_steps/--max-steps: invalid int value: 'true'"),
        ({"max_steps": [1, 2]}, "there is no argument 2."),
        ({"learning_rate": "much"}, "argument --learning_rate/--learning-rate: invalid float value: 'much'"),
        ({"do_train": 3}, "argument --do_train/--do-train: Truthy value expected: got 3 but expected one of"),
        ({"text_column": []}, "argument --text_column/--text-column: expected at least one argument"),
        ({"output_dir": {}}, "output_dir is {}; it must not be an object."),
        ({"train_file": {"a": 1}}, 'train_file is {"a": 1}; it must not be an object.'),
        ({"dtype": "float31"}, "argument --dtype: invalid choice: 'float31' (choose from 'auto', 'bfloat16', "),
        ({"seed": -1}, "--seed is -1; it must be at least 0."),
    ],
)
def test_values_of_a_wrong_type_in_an_arguments_file(more, message, tmp_path):
    path = tmp_path / "arguments.json"
    path.write_text(json.dumps({"output_dir": str(tmp_path / "out")} | more))
    with pytest.raises(UsageError) as raised:
        mlm.main([str(path)])
    assert str(raised.value).removeprefix(f"{path}: ").startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "arguments.json holds a list where a dict is needed"),
        ('{"do_train": true', "arguments.json is not a json file: Expecting"),
        ("{}", "the following arguments are required: --model_name_or_path"),
        (
            '{"overwrite_output_dir": true, "model_name_or_path": "a", "output_dir": "b"}',
            "no argument --overwrite_output_dir. To train anew, delete the folder",
        ),
        ('{"model_name_or_path": "a", "output_dir": "b", "projected_dim": [4, 0.5]}', "invalid int value: '0.5'"),
    ],
)
def test_arguments_files_that_cannot_be_used(content, message, tmp_path):
    (tmp_path / "arguments.json").write_text(content)
    with pytest.raises(UsageError, match=message) as raised:
        convert.main([str(tmp_path / "arguments.json")])
    assert "\n" not in str(raised.value)


def test_all_types_of_arguments_from_a_file(tmp_path):
    content = {
        "output_dir": "out",
        "learning_rate": 1,
        "lr_scheduler_type": "cosine",
        "lr_scheduler_kwargs": {"num_cycles": 1},
        "report_to": ["none"],
        "text_column": "body",
        "bf16": False,
        "max_seq_length": None,
        "save_steps": 0.5,
    }
    (tmp_path / "arguments.json").write_text(json.dumps(content))
    model_args, data_args, training_args = mlm.read_arguments([str(tmp_path / "arguments.json")])
    assert data_args.text_column == ["body"] and data_args.max_seq_length is None
    assert training_args.lr_scheduler_type == "cosine" and training_args.lr_scheduler_kwargs == {"num_cycles": 1}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--max_steps=ten",), "argument --max_steps/--max-steps: invalid int value: 'ten'"),
        (("--max_steps",), "argument --max_steps/--max-steps: expected one argument"),
        (("--lr_scheduler_type=lineer",), "argument --lr_scheduler_type/--lr-scheduler-type: invalid choice: 'lineer'"),
        (("--load_best_model_at_end",), "requires the save and eval strategy to match"),
        (("stray",), "there is no argument stray."),
        (("--seed=-1",), "--seed is -1; it must be at least 0."),
        (("--seed=4294967296",), "--seed is 4294967296; it must be less than"),
        (("--per_device_train_batch_size=0",), "--per_device_train_batch_size is 0; it must be at least 1."),
        (("--gradient_accumulation_steps=0",), "--gradient_accumulation_steps is 0; it must be at least 1."),
        (("--learning_rate=nan",), "--learning_rate is nan; it must be at least 0."),
        (("--learning_rate=inf",), "--learning_rate is inf; it must be finite."),
        (("--weight_decay=nan",), "--weight_decay is nan; it must be at least 0."),
        (("--max_grad_norm=nan",), "--max_grad_norm is nan; it must be at least 0."),
        (("--adam_beta1=2",), "--adam_beta1 is 2.0; it must be less than 1."),
        (("--label_smoothing_factor=2",), "--label_smoothing_factor is 2.0; it must be less than 1."),
        (("--dataloader_num_workers=-1",), "--dataloader_num_workers is -1; it must be at least 0."),
        (("--preprocessing_num_workers=-1",), "--preprocessing_num_workers is -1; it must be at least 1."),
        (("--logging_steps=-1",), "--logging_steps is -1.0; it must be at least 0."),
    ],
)
def test_arguments_that_cannot_be_used(more, message, tmp_path):
    with pytest.raises(UsageError, match=message) as raised:
        mlm.main(mlm_arguments(tmp_path, tmp_path / "out", *more))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--max_seq_length=0",), "--max_seq_length 0 must be from 3 to 32"),
        (("--vocab_size=260",), "--vocab_size is 260; it must be at least 261, as each byte is a token."),
        (("--report_to=nowhere",), "nowhere is not supported, only "),
        (("--save_strategy=best",), "`args.metric_for_best_model` must be provided"),
        (("--torch_compile_backend=nothing",), "'NOTHING' is not a valid DynamoBackend"),
        (("--torch_compile_mode=max-tune",), "--torch_compile_mode max-tune is none of .* Did you mean max-autotune?"),
        (("--optim_args=much",), "--optim adamw_torch.* --optim_args much: "),
        (('--lr_scheduler_kwargs={"much": 1}',), "--lr_scheduler_type linear --lr_scheduler_kwargs .*'much'"),
    ],
)
def test_arguments_that_libraries_refuse_later(more, message, tmp_path):
    with pytest.raises(UsageError, match=message) as raised:
        mlm.main(mlm_arguments(make_inputs(tmp_path), tmp_path / "out", "--max_steps=1", *more))
    assert "\n" not in str(raised.value)


def test_a_library_that_an_argument_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)  # as if it was not installed
    # transformers keeps the settings for later models, of other tests, too
    monkeypatch.setattr("transformers.integrations.deepspeed._hf_deepspeed_config_weak_ref", None)
    with pytest.raises(UsageError, match="deepspeed") as raised:
        mlm.main(mlm_arguments(tmp_path, tmp_path / "out", "--deepspeed=settings.json"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("fails", [False, True], ids=["success", "error"])
def test_a_command_ends_the_threads_of_its_processes(fails, tmp_path, monkeypatch):
    """A thread that outlives the interpreter can abort the process. The model, which refers to the group, is freed first."""
    monkeypatch.setattr(sys, "argv", ["linformer-mlm"])
    threads, freed = [], []

    def main(argv):
        before = set(os.listdir("/proc/self/task"))
        group = {"init_method": f"file://{tmp_path}/store", "rank": 0, "world_size": 1}
        torch.distributed.init_process_group("gloo", **group)
        model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
        model.callback = types.SimpleNamespace(model=model)  # a cycle, as between Trainer and its callbacks
        weakref.finalize(model.reducer, freed.append, "model")
        weakref.finalize(torch.distributed.group.WORLD, freed.append, "group")
        threads.extend(set(os.listdir("/proc/self/task")) - before)
        if fails:
            raise UsageError("no")

    try:
        run_command(main)
    except SystemExit as end:
        assert fails and str(end) == "linformer-mlm: error: no"
    assert not torch.distributed.is_initialized()
    assert freed == ["model", "group"]
    assert threads
    until = time.monotonic() + 10  # the system may list a thread a moment longer
    while alive := set(threads).intersection(os.listdir("/proc/self/task")):
        assert time.monotonic() < until, alive
        time.sleep(0.01)
