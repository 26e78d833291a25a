"""Tests run_mlm.py as a user runs it: on files, killed and started again, in several processes, and with bad input."""

import json
import shutil
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from packaging.version import parse
from processes import ROOT, kill_script, launcher, run_in_forks, run_script
from safetensors.torch import load_file
from tiny_runs import TINY
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertTokenizer, RobertaConfig, pipeline

from transformers_linformer.commands import mlm
from transformers_linformer.errors import UsageError
from transformers_linformer.loading import parse_overrides
from transformers_linformer.tokenization import train_tokenizer
from transformers_linformer.training import checkpoints
from transformers_linformer.training.masked_lm import MaskingCollator, unigram_perplexity
from transformers_linformer.training.text import load_texts, make_sequences, pack, stream_sequences


WIKITEXT = ROOT.parent / "shared" / "data" / "wikitext"


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "train.txt"
    path.write_text("\n".join(topics[name] for name in sorted(topics)[:12]), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tokenizer(text_file):
    lines = [line for line in text_file.read_text(encoding="utf-8").splitlines() if line.strip()]
    return train_tokenizer(Dataset.from_dict({"text": lines}), 300, 32)


def arguments(text_file, output_dir, *more):
    return [
        f"--train_file={text_file}",
        f"--output_dir={output_dir}",
        "--do_train",
        "--vocab_size=300",
        f"--config_overrides={TINY}",
        "--per_device_train_batch_size=4",
        "--max_steps=40",
        "--save_steps=10",
        "--logging_steps=1",
        "--report_to=none",
        "--use_cpu",
        "--disable_tqdm=True",
        *map(str, more),
    ]


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


@pytest.fixture(scope="session")
def finished_run(text_file, tmp_path_factory):
    """Returns the folder and the output of a run that went to its end, which several tests look at."""
    folder = tmp_path_factory.mktemp("finished")
    result = run_script(folder, "run_mlm.py", arguments(text_file, folder / "out", "--do_eval"))
    assert result.returncode == 0, result.stderr
    return folder / "out", result.stdout


def test_leaves_a_checkpoint_and_two_perplexities(finished_run):
    folder, output = finished_run
    metrics = json.loads((folder / "eval_results.json").read_text())
    assert metrics["eval_perplexity"] > 1 and metrics["eval_unigram_perplexity"] > 1
    assert f"Held-out perplexity {metrics['eval_perplexity']:.1f}, against" in output
    model = AutoModelForMaskedLM.from_pretrained(folder)
    fill = pipeline("fill-mask", model=model, tokenizer=AutoTokenizer.from_pretrained(folder))
    assert len(fill("the <mask> statement")) == 5
    assert (folder / "README.md").is_file()


def test_killed_at_any_step_the_final_weights_are_the_same(finished_run, text_file, tmp_path):
    argv = arguments(text_file, tmp_path / "out", "--do_eval")
    kill_script(tmp_path, "run_mlm.py", argv, tmp_path / "out" / "checkpoint-20")
    assert not (tmp_path / "out" / "checkpoint-40").exists()

    again = run_script(tmp_path, "run_mlm.py", argv)
    assert again.returncode == 0, again.stderr
    assert "Going on from" in again.stderr
    ours, theirs = weights(tmp_path / "out"), weights(finished_run[0])
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_half_written_checkpoints_are_passed_over(finished_run, tmp_path, log):
    for name in ("checkpoint-20", "checkpoint-30"):
        shutil.copytree(finished_run[0] / name, tmp_path / name)
    assert checkpoints.last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-30")
    for name in ("model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"):
        path = tmp_path / "checkpoint-30" / name
        content = path.read_bytes()
        for damaged in (content[: len(content) // 2], b""):
            path.write_bytes(damaged)
            assert checkpoints.last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-20"), name
        path.write_bytes(content)
    for name in ("model.safetensors", "optimizer.pt", "trainer_state.json"):
        path = tmp_path / "checkpoint-30" / name
        path.rename(tmp_path / "away")
        assert checkpoints.last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-20"), name
        (tmp_path / "away").rename(path)
    assert "written only in part" in log.text


def without_dropout(text_file, output_dir, *more):
    no_dropout = f"--config_overrides={TINY},hidden_dropout_prob=0.0,attention_probs_dropout_prob=0.0"
    # The sequences differ in length, and the last batch of evaluation has fewer of them
    lines = ("--line_by_line", "--do_eval", "--per_device_eval_batch_size=2", "--max_steps=12")
    return arguments(text_file, output_dir, no_dropout, *lines, *more)


@pytest.fixture(scope="session")
def run_of_one_process(text_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one-process")
    mlm.main(without_dropout(text_file, folder / "out"))
    return folder / "out"


def assert_same_run(one, other):
    """Checks that losses, weights and metrics in two output folders agree."""
    histories = [json.loads((folder / "trainer_state.json").read_text())["log_history"] for folder in (one, other)]
    losses = [[entry["loss"] for entry in history if "loss" in entry] for history in histories]
    assert len(losses[0]) == 12
    np.testing.assert_allclose(*losses, atol=1e-4)
    one_weights, other_weights = weights(one), weights(other)
    for name in one_weights:
        torch.testing.assert_close(other_weights[name], one_weights[name], atol=1e-4, rtol=0)
    one_metrics, other_metrics = (json.loads((folder / "eval_results.json").read_text()) for folder in (one, other))
    # eval_loss may differ: Trainer gives each process the same weight, and counts the sequences twice that fill up the last
    # batch
    for name in ("eval_accuracy", "eval_perplexity"):
        assert other_metrics[name] == pytest.approx(one_metrics[name], rel=1e-4)


@pytest.mark.parametrize(
    ("processes", "per_sequence"),
    [
        pytest.param(2, 1, id="data parallel", marks=pytest.mark.slow("contained in both")),
        pytest.param(2, 2, id="sequence parallel", marks=pytest.mark.slow("contained in both, but starts as users start it")),
        pytest.param(4, 2, id="both"),
    ],
)
def test_several_processes_train_as_one(processes, per_sequence, run_of_one_process, text_file, tmp_path):
    batch_size = 4 * per_sequence // processes
    argv = without_dropout(text_file, tmp_path / "out", f"--per_device_train_batch_size={batch_size}")
    argv.append(f"--sequence_parallel_size={per_sequence}")
    if processes == 4:
        run_in_forks(tmp_path, "mlm", argv, processes)
    else:
        result = run_script(tmp_path, "run_mlm.py", argv, launcher(processes))
        assert result.returncode == 0, result.stderr
    written = (tmp_path / "out" / "checkpoint-10").glob("rng_state_*.pth")
    assert len(list(written)) == processes, f"there were not {processes} processes"
    assert_same_run(run_of_one_process, tmp_path / "out")


@pytest.mark.skipif(
    parse(transformers.__version__) < parse("5.18"),
    reason="before 5.18 Trainer cannot load an optimizer's state in several processes that compute on CPUs",
)
def test_more_processes_go_on_from_a_checkpoint_of_fewer(run_of_one_process, text_file, tmp_path):
    for processes, steps in ((2, 10), (4, 12)):
        argv = without_dropout(text_file, tmp_path / "out", f"--max_steps={steps}", f"--sequence_parallel_size={processes}")
        argv += ["--learning_rate=1e-3", "--lr_scheduler_type=constant"]
        output = run_in_forks(tmp_path, "mlm", argv, processes)
    assert "Going on from" in output
    mlm.main(without_dropout(text_file, tmp_path / "one", *argv[-2:]))
    assert_same_run(tmp_path / "one", tmp_path / "out")


def test_refuses_processes_that_cannot_share_a_sequence(text_file, tmp_path):
    with pytest.raises(UsageError, match="--sequence_parallel_size 2 does not divide the number of processes, 1"):
        mlm.main(arguments(text_file, tmp_path / "out", "--sequence_parallel_size=2"))
    with pytest.raises(UsageError, match="--sequence_parallel_size is 0; it must be at least 1"):
        mlm.main(arguments(text_file, tmp_path / "out", "--sequence_parallel_size=0"))


def test_streaming(text_file, tmp_path):
    mlm.main(arguments(text_file, tmp_path / "out", "--streaming", "--max_steps=3"))
    assert (tmp_path / "out" / "model.safetensors").is_file()
    with pytest.raises(UsageError, match="--streaming needs --max_steps"):
        mlm.main(arguments(text_file, tmp_path / "other", "--streaming", "--max_steps=-1"))


def test_goes_on_from_a_checkpoint_line_by_line(finished_run, text_file, tmp_path):
    argv = [argument for argument in arguments(text_file, tmp_path / "out") if not argument.startswith("--config_overrides")]
    options = ("--line_by_line", "--pad_to_max_length", "--max_steps=2", "--max_train_samples=50", "--do_eval")
    mlm.main([*argv, f"--model_name_or_path={finished_run[0]}", *options])
    before, after = weights(finished_run[0]), weights(tmp_path / "out")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_overrides_of_a_checkpoint(finished_run, text_file, tmp_path):
    model = (f"--model_name_or_path={finished_run[0]}", "--max_steps=1")
    mlm.main(arguments(text_file, tmp_path / "out", *model, "--config_overrides=hidden_dropout_prob=0.3"))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["hidden_dropout_prob"] == 0.3
    message = "weights have other sizes .*: keep --config_overrides intermediate_size=31 to fields that have no weights"
    with pytest.raises(UsageError, match=message):
        mlm.main(arguments(text_file, tmp_path / "other", *model, "--config_overrides=intermediate_size=31"))


def test_arguments_from_a_json_file(text_file, tmp_path):
    options = dict(argument[2:].split("=", 1) for argument in arguments(text_file, tmp_path / "out") if "=" in argument)
    options |= {"do_train": True, "max_steps": 1, "vocab_size": 300, "disable_tqdm": True, "save_steps": 10}
    options |= {"per_device_train_batch_size": 4, "logging_steps": 1, "use_cpu": True}
    (tmp_path / "arguments.json").write_text(json.dumps(options))
    mlm.main([str(tmp_path / "arguments.json")])
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.skipif(not WIKITEXT.is_dir(), reason="needs the folder ../shared/data/wikitext")
def test_wikitext(tmp_path):
    options = [f"--dataset_name={WIKITEXT}", "--dataset_config_name=wikitext-2-v1", "--max_train_samples=300", "--do_eval"]
    argv = [argument for argument in arguments("", tmp_path / "out") if not argument.startswith("--train_file")]
    mlm.main([*argv, *options, "--max_steps=2", "--max_eval_samples=100"])
    assert json.loads((tmp_path / "out" / "eval_results.json").read_text())["eval_perplexity"] > 1


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        (None, (), "--train_file: there is no file"),
        (b"\n \n", (), "has no text in it"),
        ("caf\xe9\n".encode("latin-1"), (), "is not UTF-8"),
        (b"one line\n" * 3 + b"two\n", (), "less than one sequence of 32"),
        (b"two words\n", ("--streaming",), "train data: the text is shorter than one sequence of 32 tokens"),
        ("text", ("--max_seq_length=33",), "--max_seq_length 33 must be from 3 to 32"),
        ("text", ("--config_overrides=projekted_dim=3",), "no field 'projekted_dim'. Did you mean projected_dim?"),
        ("text", ("--config_overrides=projected_dim=1024",), "`projected_dim` must be from 1 to"),
        ("text", ("--config_overrides=hidden_size",), "not of the form name=value"),
        ("text", ("--config_overrides=hidden_size=many",), "--config_overrides: .* field 'hidden_size'"),
        ("text", ("--config_overrides=id2label=3",), "--config_overrides.*id2label"),
        ("text", ("--text_column=words",), "--text_column words: the train data has only 'text'"),
        ("text", ("--text_column", "a", "b"), "--text_column a b: pairs are not packed; give --line_by_line too"),
        ("text", ("--text_column", "a", "b", "c"), "--text_column takes one column, or two for a pair, not 3"),
        ("text", ("--model_name_or_path=/no/such/folder",), "--model_name_or_path /no/such/folder: "),
        ("text", ("--resume_from_checkpoint=/no/such/folder",), "is no complete checkpoint"),
        ("text", ("--mlm_probability=0",), "--mlm_probability is 0"),
        ("text", ("--dataset_name=/no/such/folder",), "--dataset_name and --train_file exclude each other"),
    ],
)
def test_bad_input_is_one_clear_line(content, more, message, text_file, tmp_path):
    path = tmp_path / "text.txt"
    if content == "text":
        path = text_file
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as raised:
        mlm.main(arguments(path, tmp_path / "out", *more))
    assert "\n" not in str(raised.value)


def test_an_output_folder_that_holds_another_model(finished_run, text_file, tmp_path):
    RobertaConfig().save_pretrained(tmp_path / "roberta")
    with pytest.raises(UsageError, match="model_type is roberta there, linformer here"):
        mlm.main(arguments(text_file, tmp_path / "roberta"))
    assert [path.name for path in (tmp_path / "roberta").iterdir()] == ["config.json"], "something was written into it"
    shutil.copytree(finished_run[0], tmp_path / "linformer")
    with pytest.raises(UsageError, match="projected_dim is 8 there, 4 here"):
        mlm.main(arguments(text_file, tmp_path / "linformer", f"--config_overrides={TINY},projected_dim=4"))


def test_bad_input_leaves_no_traceback(tmp_path):
    result = run_script(tmp_path, "run_mlm.py", arguments(tmp_path / "missing.txt", tmp_path / "out"))
    assert result.returncode in (1, 2)
    assert "run_mlm.py: error: --train_file: there is no file" in result.stderr
    assert "Traceback" not in result.stderr


def test_overrides():
    allowed = {"hidden_size", "projected_dim", "projection_sharing", "tie_word_embeddings"}
    text = "hidden_size=8,projected_dim=[4, 2],projection_sharing=none,tie_word_embeddings=false"
    wanted = {"hidden_size": 8, "projected_dim": [4, 2], "projection_sharing": "none", "tie_word_embeddings": False}
    assert parse_overrides(text, allowed) == wanted


def test_packing_keeps_every_token_and_special_ones_at_the_ends_only(tokenizer):
    texts = [{"input_ids": list(range(10, 10 + length))} for length in (7, 0, 45, 3)]
    sequences = [sequence["input_ids"] for sequence in pack(texts, tokenizer, 12)]
    assert [len(sequence) for sequence in sequences] == [12] * 5
    ends = (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert all((sequence[0], sequence[-1]) == ends for sequence in sequences)
    joined = [token for text in texts for token in text["input_ids"]]
    assert [token for sequence in sequences for token in sequence[1:-1]] == joined[:50]


@pytest.mark.parametrize("streaming", [False, True])
def test_pairs(streaming, tmp_path):
    """
    Both texts of a pair are read, in the order in which their columns were named, with their token types. A pair of which
    one text is blank is left out.
    """
    path = tmp_path / "pairs.jsonl"
    pairs = [{"text": "d e", "a": "c", "id": 0}, {"text": " ", "a": "c", "id": 1}, {"text": "c", "a": "d d d d", "id": 2}]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "c", "d", "e"]
    bert = BertTokenizer(vocab={name: i for i, name in enumerate(names)}, model_max_length=8)
    texts = load_texts(files={"validation_file": str(path)}, text_column=["a", "text"], streaming=streaming)["validation"]
    sequences = list((stream_sequences if streaming else make_sequences)(texts, bert, 8, line_by_line=True))
    assert sequences == [
        {"input_ids": [2, 5, 3, 6, 7, 3], "token_type_ids": [0, 0, 0, 1, 1, 1]},
        {"input_ids": [2, 6, 6, 6, 6, 3, 5, 3], "token_type_ids": [0, 0, 0, 0, 0, 0, 1, 1]},
    ]
    batch = MaskingCollator(bert, seed=0)(sequences)
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0, 1, 1]]
    assert batch["labels"].shape == batch["input_ids"].shape == (2, 8)


def test_a_mask_in_a_text_takes_the_place_of_a_word_and_of_the_space_before_it(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    for each in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        expected = [*each("one of")["input_ids"][:-1], each.mask_token_id, *each(" and two")["input_ids"][1:]]
        assert each("one of <mask> and two")["input_ids"] == expected


def test_masks_depend_on_seed_epoch_and_text_alone(tokenizer):
    collator = MaskingCollator(tokenizer, seed=1)
    sequences = [{"input_ids": [0, *range(10, 10 + length), 2]} for length in (1, 20, 30)]
    together = collator(sequences)
    for row, sequence in enumerate(sequences):
        length = len(sequence["input_ids"])
        alone = collator([sequence])
        for name in ("input_ids", "labels"):
            assert torch.equal(together[name][row, :length], alone[name][0])
        labels = alone["labels"][0]
        assert (labels != -100).any() and labels[0] == labels[-1] == -100
    assert (together["labels"][0, 3:] == -100).all() and not together["attention_mask"][0, 3:].any()
    collator.epoch = 1
    assert not torch.equal(collator(sequences)["labels"], together["labels"])
    share = (collator([{"input_ids": [10 + i % 200 for i in range(4000)]}])["labels"] != -100).float().mean()
    assert abs(share - 0.15) < 0.03


def test_unigram_perplexity_of_a_coin(tokenizer):
    # Of two tokens that are equally frequent each is guessed with a probability of a little less than 1/2, as tokens that
    # never occur get a small part too
    coin = Dataset.from_dict({"input_ids": [[0, *[10, 11] * 5000, 2]]})
    collator = MaskingCollator(tokenizer, seed=0)
    perplexity = unigram_perplexity(coin, coin, collator, len(tokenizer), tokenizer.all_special_ids)
    assert 2 < perplexity < 2.1
