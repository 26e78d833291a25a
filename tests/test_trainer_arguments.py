"""Every argument of Trainer gives complete metrics and predictions, or is refused before training. Divergence ends a run."""

import csv
import json
import math
from dataclasses import fields

import pytest
import torch
from tiny_runs import distill_arguments, glue_arguments, mlm_arguments, read
from transformers import Trainer, TrainingArguments

from transformers_linformer.commands import distill, glue, mlm
from transformers_linformer.errors import UsageError
from transformers_linformer.training.trainer import LinformerTrainer


# Each field of the TrainingArguments of Transformers 5.4 and 5.24, and those that releases between may have. All were tried
# once in both commands, those with choices with each of them.

# With these values, all in one run, which is complete.
TAKEN = {
    "per_device_train_batch_size": 3,
    "num_train_epochs": 1,
    "max_steps": 4,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine_with_restarts",
    "lr_scheduler_kwargs": '{"num_cycles": 2}',
    "warmup_steps": 1,
    "optim": "adafactor",
    "optim_args": "scale_parameter=False",
    "optim_target_modules": "query",
    "weight_decay": 0.1,
    "adam_beta1": 0.8,
    "adam_beta2": 0.9,
    "adam_epsilon": 1e-6,
    "gradient_accumulation_steps": 2,
    "average_tokens_across_devices": False,
    "max_grad_norm": 0.5,
    "label_smoothing_factor": 0.1,
    "bf16": True,
    "bf16_full_eval": True,
    "tf32": False,
    "gradient_checkpointing": True,
    "gradient_checkpointing_kwargs": '{"use_reentrant": true}',
    "use_cache": True,
    "neftune_noise_alpha": 5,
    "torch_empty_cache_steps": 1,
    "auto_find_batch_size": True,
    "logging_strategy": "epoch",
    "logging_steps": 2,
    "logging_first_step": True,
    "log_on_each_node": False,
    "logging_nan_inf_filter": False,
    "include_num_input_tokens_seen": True,
    "log_level": "info",
    "log_level_replica": "info",
    "disable_tqdm": True,
    "run_name": "a",
    "project": "a",
    "trackio_space_id": "a",
    "trackio_bucket_id": "a",
    "trackio_static_space_id": "a",
    "eval_strategy": "steps",
    "eval_steps": 2,
    "eval_delay": 1,
    "per_device_eval_batch_size": 4,
    "eval_on_start": True,
    "eval_use_gather_object": True,
    "eval_accumulation_steps": 1,
    "include_for_metrics": "loss",
    "save_only_model": True,
    "save_strategy": "steps",
    "save_steps": 2,
    "save_on_each_node": True,
    "save_total_limit": 1,
    "enable_jit_checkpoint": True,
    "hub_token": "a",
    "hub_private_repo": True,
    "hub_model_id": "a/b",
    "hub_strategy": "end",
    "hub_always_push": True,
    "hub_revision": "a",
    "load_best_model_at_end": True,
    "metric_for_best_model": "accuracy",
    "greater_is_better": True,
    "ignore_data_skip": True,
    "restore_callback_states_from_checkpoint": True,
    "seed": 1,
    "data_seed": 1,
    "use_cpu": True,
    "accelerator_config": '{"even_batches": false, "split_batches": true}',
    "dataloader_drop_last": True,
    "dataloader_num_workers": 1,
    "dataloader_pin_memory": False,
    "dataloader_persistent_workers": True,
    "dataloader_prefetch_factor": 3,
    "dataloader_multiprocessing_context": "fork",
    "dataloader_in_order": False,
    "remove_unused_columns": False,
    "train_sampling_strategy": "group_by_length",
    "length_column_name": "size",
    "ddp_find_unused_parameters": True,
    "ddp_bucket_cap_mb": 1,
    "ddp_broadcast_buffers": True,
    "ddp_static_graph": True,
    "ddp_timeout": 60,
    "fsdp_config": '{"min_num_params": 1}',
    "do_train": True,
    "do_eval": True,
    "local_rank": -1,
}
WORKER = "--dataloader_num_workers=1"
# Values that are refused before training begins, and what the one line says.
REFUSED = {
    "prediction_loss_only": ("--prediction_loss_only=True", "--prediction_loss_only True .*: leave it out"),
    "eval_do_concat_batches": ("--eval_do_concat_batches=False", "--eval_do_concat_batches False .*: leave it out"),
    "batch_eval_metrics": ("--batch_eval_metrics=True", "--batch_eval_metrics True .*: leave it out"),
    "label_names": ("--label_names=stars", "--label_names stars .* `labels`: leave it out"),
    "use_liger_kernel": ("--use_liger_kernel=True", "--use_liger_kernel True .*: leave it out"),
    "debug": ("--debug=underflow_overflow", "--debug underflow_overflow .*: leave it out"),
    "fp16_full_eval": ("--fp16_full_eval=True --bf16_full_eval=True", "one of fp16 and bf16"),
    "bf16_full_eval": ("--bf16_full_eval=True --push_to_hub=True", "--bf16_full_eval rounds the weights .* --push_to_hub"),
    "liger_kernel_config": ("--liger_kernel_config=3", "--liger_kernel_config"),
    "parallelism_config": ("--parallelism_config=3", "--parallelism_config"),
    "ddp_backend": ("--ddp_backend=gloo", "--ddp_backend is for several processes: start them by torchrun"),
    "fsdp": ("--fsdp=full_shard", "fsdp"),
    "resume_from_checkpoint": ("--resume_from_checkpoint=a", "--resume_from_checkpoint a is no complete checkpoint"),
    "eval_accumulation_steps": ("--eval_accumulation_steps=0", "--eval_accumulation_steps is 0; it must be at least 1"),
    "dataloader_persistent_workers": ("--dataloader_persistent_workers=True", "needs --dataloader_num_workers 1"),
    "dataloader_prefetch_factor": (f"--dataloader_prefetch_factor=0 {WORKER}", "--dataloader_prefetch_factor is 0"),
    "dataloader_multiprocessing_context": (
        "--dataloader_multiprocessing_context=spawn",
        "--dataloader_multiprocessing_context spawn needs --dataloader_num_workers 1",
    ),
    "dataloader_drop_last": (
        "--dataloader_drop_last=True --per_device_train_batch_size=99",
        "--dataloader_drop_last leaves nothing to train on, as 2. rows .* --per_device_train_batch_size",
    ),
    "gradient_checkpointing_kwargs": (
        '--gradient_checkpointing=True --gradient_checkpointing_kwargs={"much":1}',
        '--gradient_checkpointing_kwargs .* "much": 1} is not what .* give {"use_reentrant": false}',
    ),
    "accelerator_config": ("--accelerator_config=a.json", "--accelerator_config: a.json: No such file"),
}
# These need a machine, a library or a minute of their own, or decide nothing. Most have a test elsewhere.
ELSEWHERE = {
    "output_dir": "every test",
    "do_predict": "below",
    "fp16": "needs a GPU to be of use",
    "torch_compile": "tests/test_run_mlm.py",
    "torch_compile_backend": "tests/test_arguments.py",
    "torch_compile_mode": "tests/test_arguments.py",
    "activation_checkpointing": "is the later name of gradient_checkpointing, and excludes it",
    "activation_checkpointing_kwargs": "is the later name of gradient_checkpointing_kwargs, and excludes it",
    "full_determinism": "changes the process for the tests after it",
    "skip_memory_metrics": "a thread that measures memory without a pause takes seconds",
    "deepspeed": "tests/test_arguments.py",
    "push_to_hub": "tests/test_hub.py",
    "report_to": "tests/test_tools.py",
    "warmup_ratio": "is the earlier form of warmup_steps, and excludes it",
    "logging_dir": "is set by an environment variable in later releases",
}
NAMES = {each.name for each in fields(TrainingArguments)}


def test_every_argument_of_trainer_was_looked_at():
    new = sorted(NAMES - TAKEN.keys() - REFUSED.keys() - ELSEWHERE.keys())
    assert not new, f"try {new} with evaluation and prediction, and add them to one of the tables of this file"


@pytest.fixture(autouse=True, scope="module")
def short_farewells():
    """A loader that is given up in the middle of an epoch waits so many seconds for each of its processes, 5 by default."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)
        yield


def inputs_of(command, inputs, out, *more):
    """Returns the arguments of a run with evaluation, and in glue of one with prediction of seven rows."""
    test = out.parent / "test.jsonl"
    test.write_text("\n".join((inputs / "classes.jsonl").read_text().splitlines()[:7]))
    if command is glue:
        return glue_arguments(inputs, out, "--do_eval", "--do_predict", f"--test_file={test}", *more)
    make = {mlm: mlm_arguments, distill: distill_arguments}[command]
    return make(inputs, out, "--do_eval", f"--validation_file={inputs / 'text.txt'}", *more)


@pytest.mark.parametrize("command", [mlm, glue])
def test_metrics_and_predictions_are_complete_with_every_argument(command, inputs, tmp_path):
    out = tmp_path / "out"
    values = [f"--{name}={value}" for name, value in TAKEN.items() if name in NAMES]
    command.main(inputs_of(command, inputs, out, *values))
    metrics = read(out, "eval_results.json")
    wanted = {mlm: ("loss", "accuracy", "perplexity", "unigram_perplexity"), glue: ("loss", "accuracy", "f1")}[command]
    assert all(math.isfinite(metrics[f"eval_{name}"]) for name in wanted)
    if command is glue:
        with open(out / "predictions.csv", newline="") as file:
            assert [row["index"] for row in csv.DictReader(file)] == [str(row) for row in range(7)]
        assert {"predict_loss", "predict_accuracy"} <= read(out, "predict_results.json").keys()


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused_before_training(name, inputs, tmp_path, monkeypatch):
    if name not in NAMES:
        pytest.skip(f"this release of transformers has no {name}")
    monkeypatch.setattr(LinformerTrainer, "training_step", lambda *args: pytest.fail("training has begun"))
    values, message = REFUSED[name]
    with pytest.raises(UsageError, match=message) as raised:
        mlm.main(inputs_of(mlm, inputs, tmp_path / "out", *values.split()))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("command", [mlm, distill])
def test_only_glue_predicts(command, inputs, tmp_path):
    with pytest.raises(UsageError, match="--do_predict is for linformer-glue"):
        command.main(inputs_of(command, inputs, tmp_path / "out", "--do_predict"))


def test_label_smoothing_is_for_classes(inputs, tmp_path):
    with pytest.raises(UsageError, match="--label_smoothing_factor 0.1 .* regression: leave it out"):
        glue.main(glue_arguments(inputs, tmp_path / "out", "--label_smoothing_factor=0.1", table="numbers"))


# Divergence


@pytest.mark.parametrize("command", [mlm, glue, distill])
def test_a_training_that_diverges_ends(command, inputs, tmp_path):
    out = tmp_path / "out"
    options = ("--learning_rate=1e12", "--max_grad_norm=0", "--max_steps=9", "--save_steps=1", "--logging_steps=1")
    with pytest.raises(UsageError) as raised:
        command.main(inputs_of(command, inputs, out, *options))
    log = [entry for entry in read(out, "trainer_state.json")["log_history"] if "loss" in entry]
    step = log[-1]["step"]
    assert not math.isfinite(log[-1]["loss"]) and all(math.isfinite(entry["loss"]) for entry in log[:-1])
    assert str(raised.value) == (
        f"training has diverged: at step {step}, the loss is not finite. Give a lower --learning_rate than 1e+12, and another"
        f" --output_dir. The last checkpoint with finite weights is {out}/checkpoint-{step - 1}."
    )
    names = {path.name for path in out.iterdir()}
    assert f"checkpoint-{step}" not in names
    assert not names & {"model.safetensors", "README.md", "predictions.csv", "eval_results.json", "train_results.json"}


@pytest.mark.parametrize(
    "learning_rate, message",
    [
        (1e38, "at step 1, the weights are not finite"),  # the only step ends with them
        (1e30, "at step 1, what the model answers is not finite"),  # with weights that are too large
    ],
)
def test_a_training_that_diverges_at_its_last_step(learning_rate, message, inputs, tmp_path):
    options = (f"--learning_rate={learning_rate}", "--max_steps=1", "--save_strategy=no")
    with pytest.raises(UsageError, match=f"{message}.*There is no checkpoint"):
        glue.main(inputs_of(glue, inputs, tmp_path / "out", *options))
    assert not {"README.md", "predictions.csv"} & {path.name for path in (tmp_path / "out").iterdir()}
    json.loads((tmp_path / "out" / "trainer_state.json").read_text())


def test_a_step_that_overflows_float16_ends_no_training(inputs, tmp_path, monkeypatch):
    """Here a scale stands in for that of a GPU. It is halved where a step is skipped, and too small after five of them."""

    def with_scaler(self):
        self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**-10)
        return Trainer.get_train_dataloader(self)

    monkeypatch.setattr(LinformerTrainer, "get_train_dataloader", with_scaler)
    options = ("--learning_rate=1e12", "--max_grad_norm=0", "--max_steps=20", "--optim=adamw_torch")
    with pytest.raises(UsageError, match="training has diverged: at step 6, "):
        mlm.main(mlm_arguments(inputs, tmp_path / "out", *options))
