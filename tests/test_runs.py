"""Tests that a run ends once, that its folder knows what made it, and that a metric that fails loses no training."""

import json
import multiprocessing
import shutil
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from processes import run_in_forks
from safetensors.torch import save_file
from tiny_runs import (
    COMMON,
    MIDDLE,
    STOPS_EARLY,
    as_if_killed,
    assert_same_weights,
    distill_arguments,
    files_of,
    glue_arguments,
    mlm_arguments,
    read,
    weights,
)
from transformers import Adafactor, TrainingArguments

from configuration_linformer import LinformerConfig
from modeling_linformer import LinformerModel
from modeling_linformer.projections import mean_pooling_matrix
from transformers_linformer.commands import distill, glue, mlm
from transformers_linformer.errors import UsageError
from transformers_linformer.training import checkpoints
from transformers_linformer.training.trainer import LinformerTrainer, scale_learning_rates


# The end


@pytest.mark.parametrize(
    ("command", "make_arguments", "more"),
    [
        (mlm, mlm_arguments, (*MIDDLE, "--do_eval")),
        (mlm, mlm_arguments, ("--num_train_epochs=1", "--save_strategy=no")),
        (mlm, mlm_arguments, (*MIDDLE, "--do_eval", "--streaming")),
        (glue, glue_arguments, (*MIDDLE, "--do_eval")),
        (glue, glue_arguments, ("--max_steps=10", *STOPS_EARLY)),
        (distill, distill_arguments, (*MIDDLE, "--do_eval")),
    ],
    ids=["mlm", "mlm without checkpoints", "mlm of a stream", "glue", "glue with early stopping", "distill"],
)
def test_a_finished_run_is_finished(command, make_arguments, more, inputs, tmp_path, log):
    argv = make_arguments(inputs, tmp_path / "out", *more)
    command.main(argv)
    assert "is finished" not in log.text
    files = files_of(tmp_path / "out")
    for _ in range(2):
        command.main(argv)
        assert files_of(tmp_path / "out") == files
    assert log.text.count("is finished, so nothing is done") == 2


def test_what_is_new_is_still_done(inputs, tmp_path):
    """Evaluation and predictions that a finished run did not do before are done, with the model as it is."""
    argv = glue_arguments(inputs, tmp_path / "out", *MIDDLE)
    glue.main(argv)
    model = (tmp_path / "out" / "model.safetensors").stat()
    glue.main([*argv, "--do_eval"])
    assert "eval_accuracy" in read(tmp_path / "out", "eval_results.json")
    for name in ("text", "other"):
        test = tmp_path / f"{name}.jsonl"
        test.write_text(json.dumps({"text": name}) + "\n" + json.dumps({"text": f"{name} again"}))
        glue.main([*argv, "--do_eval", "--do_predict", f"--test_file={test}"])
        written = (tmp_path / "out" / "predictions.csv").read_text()
        (tmp_path / "out" / "predictions.csv").unlink()
        glue.main([*argv, "--do_eval", "--do_predict", f"--test_file={test}"])
        assert not (tmp_path / "out" / "predictions.csv").exists() and written.count("\n") == 3
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == model.st_mtime_ns
    assert "step" in read(tmp_path / "out", "trainer_state.json")["log_history"][-1]
    assert "| accuracy |" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("more", [("--num_train_epochs=2",), ("--num_train_epochs=2", "--save_strategy=no")])
def test_a_longer_run_goes_on(more, inputs, tmp_path, log):
    first = mlm_arguments(inputs, tmp_path / "out", "--save_strategy=epoch", *more, "--num_train_epochs=1")
    mlm.main(first)
    steps = read(tmp_path / "out", "trainer_state.json")["global_step"]
    mlm.main(mlm_arguments(inputs, tmp_path / "out", "--save_strategy=epoch", *more))
    assert ("Going on from" in log.text) == ("--save_strategy=no" not in more)
    assert read(tmp_path / "out", "trainer_state.json")["global_step"] == 2 * steps
    with pytest.raises(UsageError, match="--num_train_epochs is 2.0 there, 1.0 here"):
        mlm.main(first)


@pytest.mark.parametrize("early", [False, True], ids=["max_steps inside an epoch", "early stopping"])
def test_killed_after_the_last_step_none_follows(early, inputs, tmp_path):
    more = ("--max_steps=10", *STOPS_EARLY) if early else MIDDLE
    argv = glue_arguments(inputs, tmp_path / "out", *more, "--logging_steps=1")
    glue.main(argv)
    last = 4 if early else 10
    shutil.copytree(tmp_path / "out", tmp_path / "whole")
    as_if_killed(tmp_path / "out", last)
    glue.main(argv)
    states = [read(tmp_path / name, "trainer_state.json") for name in ("out", "whole")]
    assert [state["global_step"] for state in states] == [last, last]
    assert_same_weights(tmp_path / "out", tmp_path / "whole")
    losses = [read(tmp_path / name, "train_results.json")["train_loss"] for name in ("out", "whole")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_patience_survives_a_kill(inputs, tmp_path):
    argv = glue_arguments(inputs, tmp_path / "out", "--max_steps=10", *STOPS_EARLY)
    glue.main(argv)
    as_if_killed(tmp_path / "out", 3)
    glue.main(argv)
    assert read(tmp_path / "out", "trainer_state.json")["global_step"] == 4
    # And a run that stopped early stays stopped
    files = files_of(tmp_path / "out")
    glue.main([*argv, "--max_steps=20"])
    assert files_of(tmp_path / "out") == files


def test_the_best_model_is_found_in_a_folder_that_was_moved(inputs, tmp_path):
    argv = glue_arguments(inputs, tmp_path / "out", "--max_steps=10", *STOPS_EARLY)
    glue.main(argv)
    (tmp_path / "out").rename(tmp_path / "moved")
    as_if_killed(tmp_path / "moved", 4)
    glue.main([*argv, f"--output_dir={tmp_path / 'moved'}"])
    assert_same_weights(tmp_path / "moved", tmp_path / "moved" / "checkpoint-1")


def test_killed_after_training_only_the_rest_is_done(inputs, tmp_path, monkeypatch, log):
    argv = mlm_arguments(inputs, tmp_path / "out", *MIDDLE, "--do_eval")

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mlm.LinformerTrainer, "evaluate", killed)
        with pytest.raises(KeyboardInterrupt):
            mlm.main(argv)
    trained = files_of(tmp_path / "out")
    mlm.main(argv)
    assert "only what comes after training" in log.text
    now = files_of(tmp_path / "out")
    assert all(now[path] == trained[path] for path in trained if path.name not in ("run.json", "all_results.json"))
    mlm.main(mlm_arguments(inputs, tmp_path / "whole", *MIDDLE, "--do_eval"))
    results = [read(tmp_path / name, "eval_results.json")["eval_loss"] for name in ("out", "whole")]
    assert results[0] == results[1]


def test_several_processes_agree_that_a_run_is_finished(inputs, tmp_path):
    argv = mlm_arguments(inputs, tmp_path / "out", "--max_steps=2", "--save_steps=2")
    for _ in range(2):
        output = run_in_forks(tmp_path, "mlm", argv, 2)
    assert output.count("is finished, so nothing is done") == 1
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= read(tmp_path / "out" / "checkpoint-2", "checksums.json").keys()
    assert checkpoints.is_complete(tmp_path / "out" / "checkpoint-2")


# What made it


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--seed=7",), "--seed is 42 there, 7 here"),
        (("--learning_rate=0.1",), "--learning_rate is 5e-05 there, 0.1 here"),
        (("--mlm_probability=0.3",), "--mlm_probability is 0.15 there, 0.3 here"),
        (("--vocab_size=280",), "--vocab_size is 300 there, 280 here"),
        (("--per_device_train_batch_size=2",), "the number of sequences per step is 4 there, 2 here"),
        (("--max_steps=9",), "--max_steps is 10 there, 9 here"),
        (("--max_steps=-1",), "--max_steps is 10 there, None here"),
        (("--train_file=other.txt",), "the hash of the training data is"),
        (("--max_seq_length=16",), "--max_seq_length is 32 there, 16 here"),
    ],
)
@pytest.mark.parametrize("state", ["finished", "killed"])
def test_a_folder_of_another_run_is_refused(more, message, state, finished_run, inputs, tmp_path):
    shutil.copytree(finished_run, tmp_path / "out")
    if state == "killed":
        as_if_killed(tmp_path / "out", 5)
    files = files_of(tmp_path / "out")
    more = [option.replace("=other", f"={inputs}/other") for option in more]
    with pytest.raises(UsageError, match=f"--output_dir .*out holds another run .{message}") as raised:
        mlm.main(mlm_arguments(inputs, tmp_path / "out", *MIDDLE, *more))
    assert "\n" not in str(raised.value)
    assert files_of(tmp_path / "out") == files


def test_what_does_not_decide_may_differ(finished_run, inputs, tmp_path, log, monkeypatch):
    shutil.copytree(finished_run, tmp_path / "out")
    monkeypatch.chdir(inputs)
    more = ("--logging_steps=3", "--save_steps=2", "--save_total_limit=1", "--dataloader_num_workers=1")
    more += ("--per_device_train_batch_size=2", "--gradient_accumulation_steps=2", "--train_file=text.txt")
    mlm.main(mlm_arguments(inputs, tmp_path / "out", *MIDDLE, *more))
    assert "is finished" in log.text
    # Without --do_train nothing has to agree
    more = ("--do_eval", "--seed=3", "--line_by_line", f"--validation_file={inputs / 'other.txt'}", *COMMON[2:])
    mlm.main([f"--model_name_or_path={inputs / 'student'}", f"--output_dir={tmp_path / 'out'}", *more])


@pytest.mark.parametrize("argument", ["model_name_or_path", "teacher_name_or_path"])
def test_another_model_to_start_from_is_refused(argument, inputs, tmp_path):
    distill.main(distill_arguments(inputs, tmp_path / "out", *MIDDLE))
    other = tmp_path / "other"
    shutil.copytree(inputs / ("student" if argument == "model_name_or_path" else "teacher"), other)
    more = (*MIDDLE, f"--{argument}={other}")
    files = files_of(tmp_path / "out")
    distill.main(distill_arguments(inputs, tmp_path / "out", *more))  # a copy is no other model
    assert files_of(tmp_path / "out") == files
    changed = {name: tensor + 1 for name, tensor in weights(other).items()}
    save_file(changed, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=f"--{argument} is a folder whose weights have the hash .* there, a folder"):
        distill.main(distill_arguments(inputs, tmp_path / "out", *more))


def test_the_data_that_the_best_model_is_chosen_by(inputs, tmp_path):
    argv = glue_arguments(inputs, tmp_path / "out", "--max_steps=4", "--eval_strategy=steps", "--eval_steps=2")
    glue.main(argv)
    (tmp_path / "validation.jsonl").write_text('{"text": "a", "label": "a"}\n{"text": "b", "label": "b"}\n')
    with pytest.raises(UsageError, match="the hash of the evaluation data is"):
        glue.main([*argv, f"--validation_file={tmp_path / 'validation.jsonl'}"])
    with pytest.raises(UsageError, match="--metric_for_best_model is accuracy there, f1 here"):
        glue.main([*argv, "--metric_for_best_model=eval_f1"])


def test_a_start_that_saved_nothing_binds_nobody(inputs, tmp_path):
    """A run that was killed before its first checkpoint may be started with other settings."""
    argv = mlm_arguments(inputs, tmp_path / "out", "--max_steps=2")
    mlm.main([*argv, "--save_steps=2"])
    as_if_killed(tmp_path / "out", 0)
    mlm.main([*argv, "--learning_rate=1e-3"])
    assert read(tmp_path / "out", "run.json")["settings"]["--learning_rate"] == 1e-3


# Two at once


def test_a_second_run_in_the_folder_is_refused(inputs, tmp_path):
    from transformers_linformer.training.run_record import output_folder

    argv = mlm_arguments(inputs, tmp_path / "out", "--max_steps=1")
    (tmp_path / "out").mkdir()
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    with output_folder(SimpleNamespace(output_dir=str(tmp_path / "out"), process_index=0)):
        with pytest.raises(UsageError, match="--output_dir .*out is in use by another run"):
            mlm.main(argv)
        process.start()  # as the workers of a loader do, which may live a little longer
    mlm.main(argv)
    process.kill()
    process.join()
    assert not [path for path in (tmp_path / "out").iterdir() if "lock" in path.name]


def test_a_refused_start_leaves_no_folder(inputs, tmp_path):
    with pytest.raises(UsageError, match="there is no file"):
        mlm.main(mlm_arguments(inputs, tmp_path / "out", "--train_file=missing.txt"))
    assert not (tmp_path / "out").exists()


# The metric


@pytest.mark.parametrize(
    ("table", "name", "message"),
    [
        ("classes", "f1_score", "f1_score is none of accuracy, f1, loss. Did you mean f1?"),
        ("classes", "eval_acuracy", "acuracy is none of accuracy, f1, loss. Did you mean accuracy?"),
        ("numbers", "accuracy", "accuracy is none of mse, pearson, spearmanr, loss."),
    ],
)
def test_the_metric_is_known_before_training(table, name, message, inputs, tmp_path):
    argv = glue_arguments(inputs, tmp_path / "out", "--max_steps=2", f"--metric_for_best_model={name}", table=table)
    for evaluation in ((), ("--eval_strategy=steps", "--eval_steps=1")):
        with pytest.raises(UsageError) as raised:
            glue.main([*argv, *evaluation])
        assert str(raised.value) == f"--metric_for_best_model {message}"
    assert not (tmp_path / "out").exists()


def test_the_metric_of_text_is_known_before_training(inputs, tmp_path):
    with pytest.raises(UsageError, match="perplxity is none of accuracy, perplexity, loss. Did you mean perplexity?"):
        mlm.main(mlm_arguments(inputs, tmp_path / "out", "--metric_for_best_model=perplxity"))
    with pytest.raises(UsageError, match="cosine is none of token_cosine, document_cosine, loss"):
        distill.main(distill_arguments(inputs, tmp_path / "out", "--metric_for_best_model=cosine"))


@pytest.mark.parametrize(
    ("command", "name", "best"),
    [
        (glue, "mse", min),
        (glue, "eval_mse", min),
        (glue, "loss", min),
        (glue, "pearson", max),
        (mlm, "perplexity", min),
        (distill, "eval_token_cosine", max),
    ],
)
def test_the_best_model_by_any_metric(command, name, best, inputs, tmp_path):
    more = ("--max_steps=6", "--eval_strategy=steps", "--eval_steps=1", "--learning_rate=1e-2")
    more += (f"--metric_for_best_model={name}", "--save_steps=1", "--load_best_model_at_end")
    if command is glue:
        glue.main(glue_arguments(inputs, tmp_path / "out", *more, table="numbers"))
    else:
        make_arguments = mlm_arguments if command is mlm else distill_arguments
        command.main(make_arguments(inputs, tmp_path / "out", *more))
    state = read(tmp_path / "out", "trainer_state.json")
    name = f"eval_{name.removeprefix('eval_')}"
    values = {entry["step"]: entry[name] for entry in state["log_history"] if name in entry}
    assert len(set(values.values())) > 1
    assert values[int(state["best_model_checkpoint"].split("-")[-1])] == best(values.values()) == state["best_metric"]


@pytest.mark.parametrize("more", [(), ("--eval_strategy=steps", "--eval_steps=5", "--early_stopping_patience=9")])
def test_a_metric_that_fails_loses_no_training(more, inputs, tmp_path, monkeypatch, log):
    def fail(predictions, references):
        raise ZeroDivisionError("no\nluck")

    monkeypatch.setitem(sys.modules["transformers_linformer.training.metrics"].METRICS, "single_label_classification", fail)
    monkeypatch.setattr(glue, "metric_names", lambda name: ["accuracy", "f1"], raising=False)
    argv = glue_arguments(inputs, tmp_path / "out", *MIDDLE, "--do_eval", *more)
    glue.main(argv)
    assert "the metrics cannot be computed (ZeroDivisionError: no), so the run goes on without them" in log.text
    assert read(tmp_path / "out", "trainer_state.json")["global_step"] == 10
    for name in ("model.safetensors", "train_results.json", "eval_results.json", "README.md"):
        assert (tmp_path / "out" / name).is_file()
    evaluation = [argument for argument in argv if not argument.startswith(("--do_train", "--config", "--eval", "--early"))]
    with pytest.raises(UsageError, match="the metrics cannot be computed"):  # where nothing else is asked for
        glue.main([*evaluation, f"--model_name_or_path={tmp_path / 'out'}", f"--output_dir={tmp_path / 'evaluated'}"])


def test_one_row_to_evaluate_has_no_correlation(inputs, tmp_path):
    (tmp_path / "one.jsonl").write_text('{"text": "a text", "label": 1.5}\n')
    more = (*MIDDLE, "--eval_strategy=steps", "--eval_steps=5", f"--validation_file={tmp_path / 'one.jsonl'}")
    glue.main(glue_arguments(inputs, tmp_path / "out", *more, table="numbers"))
    results = read(tmp_path / "out", "eval_results.json")
    assert results["eval_mse"] >= 0
    assert all(results[f"eval_{name}"] != results[f"eval_{name}"] for name in ("pearson", "spearmanr"))  # nan


# The learning rates of E and F


@pytest.mark.parametrize("sharing", ["none", "headwise", "key_value", "layerwise"])
@pytest.mark.parametrize("projection_type, terms", [("linear", 24), ("conv", 4)])
def test_a_step_of_adam_changes_E_less(projection_type, terms, sharing):
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 9, "vocab_size": 11}
    sizes |= {"max_position_embeddings": 24, "projected_dim": 6}
    model = LinformerModel(LinformerConfig(**sizes, projection_type=projection_type, projection_sharing=sharing))
    groups = [[p for p in model.parameters() if (p.dim() > 1) == is_matrix] for is_matrix in (True, False)]
    optimizer = torch.optim.AdamW([{"params": groups[0], "weight_decay": 0.5}, {"params": groups[1]}], lr=0.1, weight_decay=0)
    scale_learning_rates(optimizer, model)
    assert sorted(map(id, model.parameters())) == sorted(id(p) for group in optimizer.param_groups for p in group["params"])
    is_matrix = projection_type == "linear" or sharing == "none"
    # The first group, whose learning rate is logged, stays the first one, and the rest of each group's options is kept
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1, pytest.approx(0.1 / terms)]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0, 0.5 * is_matrix]

    for group in optimizer.param_groups:
        group["weight_decay"] = 0
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        step = 0.1 / terms if name.endswith((".E.weight", ".F.weight")) else 0.1
        torch.testing.assert_close(before[name] - parameter, torch.full_like(parameter, step), atol=1e-4 * step, rtol=0)


def test_training_again_keeps_the_learning_rates(tmp_path):
    model = LinformerModel(LinformerConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=9))
    trainer = LinformerTrainer(model, TrainingArguments(tmp_path, report_to="none", use_cpu=True), card=None)
    for _ in range(2):
        assert {group["lr"] for group in trainer.create_optimizer().param_groups} == {5e-5, 5e-5 / 512}


def test_an_optimizer_that_finds_its_learning_rate_is_left_alone():
    model = LinformerModel(LinformerConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=9))
    optimizer = Adafactor(model.parameters(), lr=None)
    scale_learning_rates(optimizer, model)
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("command, make_arguments", [(mlm, mlm_arguments), (glue, glue_arguments)])
def test_the_commands_change_E_less(command, make_arguments, inputs, tmp_path):
    command.main(make_arguments(inputs, tmp_path, "--max_steps=3", "--learning_rate=0.1", "--lr_scheduler_type=constant"))
    (name,) = (name for name in weights(tmp_path) if name.endswith(".E.weight"))
    moved = (weights(tmp_path)[name] - mean_pooling_matrix(8, 32)).abs().max().item()
    assert 0.5 * 0.1 / 32 < moved < 3.01 * 0.1 / 32
