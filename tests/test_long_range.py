"""Tests that benchmarks.long_range makes the tasks as the Long Range Arena defines them, and trains and measures models."""

import json
import random
import re

import numpy as np
import pytest
import torch

from benchmarks import long_range
from benchmarks.long_range import TOKENS
from benchmarks.runs import read_results
from modeling_linformer import LinformerForSequenceClassification
from transformers_linformer.training.checkpoints import last_complete_checkpoint


N = 64
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_seq_length": N}
# The default models, made smaller
MODELS = ["full", "linear/k16", "linear/k16/b8", "attention_pool/k4/b8", "mean_pool/k16"]
REVIEWS = ["Bad.", "Good!", "A very long review, with the word naïve in it, so long that it is cut.", "So so."]


def evaluate(text):
    """Returns the value of a tree that is written as text. It replaces the innermost operators by their values."""
    functions = {"MIN": min, "MAX": max, "MED": lambda values: int(np.median(values)), "SM": lambda values: sum(values) % 10}
    while "[" in text:
        pattern = r"\[(MIN|MAX|MED|SM)((?: \d){2,10}) \]"
        text, number = re.subn(pattern, lambda match: str(functions[match[1]](list(map(int, match[2].split())))), text)
        assert number, text
    return int(text)


def write(tree):
    return " ".join(TOKENS[token] for token in tree)


def depth_of(tree):
    """Returns the number of nodes from the root to the deepest digit."""
    depths = np.cumsum([TOKENS[token].startswith("[") - (TOKENS[token] == "]") for token in tree])
    return 1 + max(depths)


@pytest.fixture(scope="module")
def drawn():
    """Returns the token ids and the value of 3,000 trees of any length."""
    generator, trees = random.Random(0), []
    for _ in range(3000):
        tokens = []
        value = long_range.grow_tree(generator, tokens)
        trees.append((tokens, value))
    return trees


@pytest.fixture(scope="module")
def trees():
    return long_range.grow_trees(40, seed=1, min_length=500, max_length=2000)


@pytest.fixture(scope="module")
def imdb(tmp_path_factory):
    """Returns a folder that is laid out as IMDB is, with 12 reviews per split, sorted by their labels."""
    folder = tmp_path_factory.mktemp("data") / "imdb"
    folder.mkdir()
    for split in ("train", "test"):
        rows = [{"text": f"{REVIEWS[i % 4]} {i}", "label": i // 6} for i in range(12)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


def arguments_of(output_dir, *more, task="listops"):
    options = ["--task", task, "--output_dir", output_dir, "--seeds", 1, "--models", "attention_pool/k4/b8"]
    options += ["--max_steps", 4, "--save_steps", 2, "--batch_size", 4]
    options += [part for name, size in SIZES.items() for part in (f"--{name}", size)]
    if task == "listops":
        options += ["--min_length", 10, "--train_examples", 8, "--validation_examples", 3, "--test_examples", 5]
    return list(map(str, [*options, *more]))


def load(output_dir, *more):
    return long_range.load_listops(long_range.parse_arguments(arguments_of(output_dir, *more)))


def same(examples, others):
    return [(e["input_ids"].tolist(), e["labels"]) for e in examples] == [
        (e["input_ids"].tolist(), e["labels"]) for e in others
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Returns the output folder of a run that has ended."""
    folder = tmp_path_factory.mktemp("long-range") / "out"
    long_range.main(arguments_of(folder))
    return folder


def run_folder(output_dir):
    (folder,) = (output_dir / "runs").iterdir()
    return folder


# ListOps


def test_values_of_trees(drawn, trees):
    assert [evaluate(text) for text in ("[MED 1 2 4 9 ]", "[MED 1 2 ]", "[SM 9 9 [MIN 3 2 ] ]")] == [3, 1, 0]
    for tree, value in [*drawn, *trees.items()]:
        assert evaluate(write(tree)) == value


def test_trees_have_the_distribution_of_the_arena(drawn):
    written = [write(tree) for tree, _ in drawn]
    assert max(depth_of(tree) for tree, _ in drawn) == 10
    assert sum(len(text) > 1 for text in written) / len(written) == pytest.approx(0.25, abs=0.03)
    tokens = " ".join(written).split()
    for names in (TOKENS[1:11], TOKENS[11:15]):
        counts = np.array([tokens.count(name) for name in names])
        assert counts / counts.sum() == pytest.approx(1 / len(names), rel=0.05)
    # The numbers of arguments of all operators, from the innermost ones on
    numbers = []
    for text in written:
        while "[" in text:
            found = re.findall(r"\[\w+((?: \w)+) \]", text)
            numbers += [len(arguments.split()) for arguments in found]
            text = re.sub(r"\[\w+(?: \w)+ \]", "x", text)
    assert set(numbers) == set(range(2, 11))
    assert np.bincount(numbers)[2:] / len(numbers) == pytest.approx(1 / 9, rel=0.1)


def test_lengths_of_trees(trees):
    assert len(trees) == 40 and all(500 < len(tree) < 2000 for tree in trees)
    assert all(5 < len(tree) < 8 for tree in long_range.grow_trees(50, 0, 5, 8))
    assert {len(tree) for tree in long_range.grow_trees(50, 0, 5, 8)} == {6, 7}


def test_no_tree_is_there_twice(monkeypatch):
    drawn, grow_tree = [], long_range.grow_tree

    def recorded(generator, tokens, depth=1):
        if depth == 1:
            drawn.append(tokens)
        return grow_tree(generator, tokens, depth)

    monkeypatch.setattr(long_range, "grow_tree", recorded)
    trees = long_range.grow_trees(80, 0, 3, 5)
    fitting = [bytes(tree) for tree in drawn if len(tree) == 4]
    assert len(trees) == 80 < len(fitting) and list(trees) == list(dict.fromkeys(fitting))


def test_the_seed_of_the_data_decides_the_trees():
    torch.manual_seed(1)
    random.seed(1)
    first, again, other = (long_range.grow_trees(5, seed, 20, 64) for seed in (3, 3, 4))
    assert list(first.items()) == list(again.items()) and not first.keys() & other.keys()
    assert list(long_range.grow_trees(9, 3, 20, 64).items())[:5] == list(first.items())


def test_trees_are_stored_once(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(long_range.os, "rename", fail)
        with pytest.raises(InterruptedError):
            load(tmp_path)
    assert not list(tmp_path.iterdir())  # as it was interrupted while it wrote them
    splits = load(tmp_path)
    assert {split: len(examples) for split, examples in splits.items()} == {"train": 8, "validation": 3, "test": 5}
    every = [bytes(example["input_ids"]) for examples in splits.values() for example in examples]
    assert len(set(every)) == 16
    assert all(evaluate(write(e["input_ids"])) == e["labels"] for examples in splits.values() for e in examples)
    more = load(tmp_path, "--train_examples", 20)
    assert same(more["test"], splits["test"]) and same(more["train"][:8], splits["train"])
    assert load(tmp_path, "--validation_examples", 0)["validation"] == []
    monkeypatch.setattr(long_range, "grow_tree", fail)
    again = load(tmp_path, "--seeds", 2)
    assert all(same(again[split], splits[split]) for split in splits)
    for other in (("--data_seed", 1), ("--min_length", 11), ("--max_seq_length", 63)):
        with pytest.raises(InterruptedError):
            load(tmp_path, *other)


def test_bounds_that_no_tree_can_have_are_an_error(tmp_path, capsys):
    with pytest.raises(SystemExit):
        load(tmp_path, "--min_length", N - 1)
    assert "No tree has more than 63 and fewer than 64 tokens" in capsys.readouterr().err


# Text


def test_a_text_is_its_bytes():
    ids = long_range.encode("aé\0ÿ", 10)
    assert bytes((ids - 1).tolist()) == "aé\0ÿ".encode() and ids.min() == 1  # 0 is padding
    assert long_range.encode("éé", 3).tolist() == [0xC3 + 1, 0xA9 + 1, 0xC3 + 1]
    assert long_range.VOCAB_SIZE["text"] == 257


def test_reviews_are_chosen_at_random(imdb, tmp_path):
    def texts(*more):
        args = arguments_of(tmp_path, "--dataset_name", imdb, *more, task="text")
        splits = long_range.load_text(long_range.parse_arguments(args))
        for example in sum(splits.values(), []):
            assert len(example["input_ids"]) <= N and example["labels"] in (0, 1)
        return {split: [bytes((e["input_ids"] - 1).tolist()) for e in examples] for split, examples in splits.items()}, splits

    every, _ = texts()
    expected = {f"{REVIEWS[i % 4]} {i}".encode()[:N] for i in range(12)}
    assert set(every["train"]) == set(every["test"]) == expected and [len(each) for each in every.values()] == [12, 0, 12]
    some, splits = texts("--validation_examples", 4, "--test_examples", 6)
    assert [len(each) for each in some.values()] == [8, 4, 6]
    assert sorted(some["train"] + some["validation"]) == sorted(every["train"])
    assert {example["labels"] for example in splits["test"]} == {0, 1}
    few, _ = texts("--train_examples", 2)
    assert len(few["train"]) == 2 and few["test"] == every["test"]
    assert texts("--seeds", 2)[0] == every and texts("--data_seed", 2)[0] != every


# The models


@pytest.mark.parametrize("name", MODELS)
def test_models_read_to_their_end_and_no_padding(name):
    arguments = SIZES | {"dropout": 0.1, "attention_dropout": 0.0}
    torch.manual_seed(0)
    model = LinformerForSequenceClassification(long_range.make_config("listops", name, arguments)).eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            weight.mul_(1 if "LayerNorm" in key else 10)
    generator = np.random.default_rng(0)
    long, short = (generator.integers(1, 16, size, dtype=np.uint8) for size in (N, 37))
    other = long.copy()
    other[-1] = 1 + other[-1] % 15

    def logits(*inputs):
        with torch.no_grad():
            return model(**long_range.collate([{"input_ids": ids, "labels": 0} for ids in inputs])).logits

    alone, together = torch.cat([logits(long), logits(short)]), logits(long, short)
    assert alone.shape == (2, 10)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    # Padding that is read as tokens would matter
    batch = long_range.collate([{"input_ids": ids, "labels": 0} for ids in (long, short)])
    with torch.no_grad():
        unmasked = model(input_ids=batch["input_ids"], attention_mask=torch.ones_like(batch["attention_mask"])).logits
    assert (unmasked[1] - alone[1]).abs().max() > 1e-2
    assert (logits(other) - alone[:1]).abs().max() > 1e-3
    if name == "full":
        assert model.config.block_sizes == [N, N] and model.config.projected_dims == [1, 1]


def test_accuracy_is_that_of_each_example(tmp_path):
    torch.manual_seed(0)
    config = long_range.make_config("listops", "linear", SIZES | {"dropout": 0.0, "attention_dropout": 0.0})
    model = LinformerForSequenceClassification(config).eval()
    examples = []
    for size in (9, 60, 20, 33, 5):
        ids = np.arange(size, dtype=np.uint8) % 15 + 1
        with torch.no_grad():
            label = model(torch.from_numpy(ids[None].astype(int))).logits.argmax().item()
        examples.append({"input_ids": ids, "labels": label})
    examples[1]["labels"] = (examples[1]["labels"] + 1) % 10
    assert [long_range.accuracy(model, part, tmp_path, 2) for part in (examples, examples[:1], [])] == [0.8, 1.0, None]


def test_rules_name_the_most_frequent_class_among_examples_with_the_same_feature():
    splits = {
        "train": [{"token": token, "labels": label} for token, label in ("a1", "a1", "a2", "b2", "b2")],
        "test": [{"token": token, "labels": label} for token, label in ("a1", "a1", "a2", "b2", "c1")],
    }
    assert long_range.accuracy_of_frequencies(splits, lambda example: None) == 0.4  # always 2
    # c was never seen, so nothing is named
    assert long_range.accuracy_of_frequencies(splits, lambda example: example["token"]) == 0.6


# The runs


def test_a_finished_run_is_not_run_again(finished, monkeypatch, capsys):
    (result,) = read_results(finished / "results.jsonl")
    assert (result["task"], result["model"], result["seed"]) == ("listops", "attention_pool/k4/b8", 1)
    score = result["accuracy"]
    assert result["test_examples"] == 5 and score * 5 == pytest.approx(round(score * 5))
    assert result["standard_error"] == pytest.approx((score * (1 - score) / 5) ** 0.5)
    assert 0 <= result["validation_accuracy"] <= 1 and result["train_seconds"] > 0 and result["evaluation_seconds"] > 0

    def fail(*args, **kwargs):
        raise AssertionError("it is run again")

    monkeypatch.setattr(long_range, "train", fail)
    capsys.readouterr()
    long_range.main(arguments_of(finished))
    assert len(read_results(finished / "results.jsonl")) == 1
    table = (finished / "long_range.md").read_text(encoding="utf-8")
    assert "| listops | attention_pool/k4/b8 |" in table and table in capsys.readouterr().out
    for more in (("--seeds=2",), ("--learning_rate=0.1",), ("--models=full",), ("--data_seed=1",)):
        with pytest.raises(AssertionError, match="it is run again"):
            long_range.main(arguments_of(finished, *more))


@pytest.mark.slow("a whole benchmark, which is killed")
def test_a_run_that_was_killed_goes_on(finished, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    def killed(*args, **kwargs):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(long_range.Stopwatch, "on_save", killed)  # at step 2 of 4
        with pytest.raises(Killed):
            long_range.main(arguments_of(tmp_path))
    path = run_folder(tmp_path) / "checkpoint-2" / "trainer_state.json"
    state = json.loads(path.read_text())
    state["stateful_callbacks"]["Stopwatch"]["attributes"]["seconds"] += 1000
    path.write_text(json.dumps(state))
    with monkeypatch.context() as patch:
        patch.setattr(long_range, "accuracy", killed)
        with pytest.raises(Killed):
            long_range.main(arguments_of(tmp_path))
    assert not (tmp_path / "results.jsonl").exists()
    monkeypatch.setattr(long_range.Trainer, "train", killed)  # as nothing is left to train
    long_range.main(arguments_of(tmp_path))
    one, two = (
        LinformerForSequenceClassification.from_pretrained(last_complete_checkpoint(run_folder(folder))).state_dict()
        for folder in (finished, tmp_path)
    )
    assert all(torch.equal(weight, two[name]) for name, weight in one.items())
    (result,) = read_results(tmp_path / "results.jsonl")
    assert 1000 < result["train_seconds"] < 1100  # the seconds before it was killed count, too


def test_text_is_trained_on_and_judged(imdb, tmp_path):
    long_range.main(arguments_of(tmp_path, "--dataset_name", imdb, "--max_steps", 1, task="text"))
    (result,) = read_results(tmp_path / "results.jsonl")
    assert (result["dataset"], result["train_examples"], result["test_examples"]) == ("imdb", 12, 12)
    assert result["validation_accuracy"] is None and result["most_frequent_class"] == 0.5


def test_learned_projections_have_their_own_learning_rate(tmp_path, monkeypatch):
    rates = []

    def train(trainer, **kwargs):
        rates.extend(group["lr"] for group in trainer.optimizer.param_groups)

    monkeypatch.setattr(long_range.Trainer, "train", train)
    arguments = vars(long_range.parse_arguments(arguments_of(tmp_path)))
    model = LinformerForSequenceClassification(long_range.make_config("listops", "linear", arguments))
    long_range.train(model, [{"input_ids": np.ones(3, np.uint8), "labels": 0}], tmp_path, 1, arguments, 2)
    assert 1e-3 in rates and len(set(rates)) == 2


def test_the_table_has_means_errors_and_published_accuracies():
    def result(task, model, score, **others):
        defaults = long_range.arguments_of(long_range.parse_arguments(["--task", task, "--output_dir", "."]))
        measured = {"accuracy": score, "standard_error": 0.01, "validation_accuracy": None, "most_frequent_class": 0.17}
        measured |= {"first_token": 0.3, "train_seconds": 9, "evaluation_seconds": 2.4}
        return {"task": task, "model": model} | defaults | measured | others

    runs = [
        result("text", "full", 0.6),
        result("listops", "full", 0.36, validation_accuracy=0.4),
        result("text", "full", 0.63),
    ]
    table = long_range.make_table([*runs, result("text", "full", 0.5, max_steps=7, dropout=0.0)])
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert lines == [
        ["listops", "full", "36.00", "1.00", "17.00", "30.00", "40.00", "2000", "1", "9", "2", ""],
        ["listops", "Transformer (Tay et al., 2020)", "36.37", *[""] * 9],
        ["listops", "Linformer (Tay et al., 2020)", "35.70", *[""] * 9],
        ["listops", "BigBird (Tay et al., 2020)", "36.05", *[""] * 9],
        ["text", "full", "61.50 ± 1.50", "1.00", "17.00", "30.00", "", "25000", "2", "9", "2", ""],
        ["text", "full", "50.00", "1.00", "17.00", "30.00", "", "25000", "1", "9", "2", "max_steps=7, dropout=0.0"],
        ["text", "Transformer (Tay et al., 2020)", "64.27", *[""] * 9],
        ["text", "Linformer (Tay et al., 2020)", "53.94", *[""] * 9],
        ["text", "BigBird (Tay et al., 2020)", "64.02", *[""] * 9],
    ]


def test_defaults_are_those_of_the_arena():
    listops, text = (long_range.parse_arguments(["--task", task, "--output_dir", "."]) for task in ("listops", "text"))
    assert (listops.train_examples, listops.validation_examples, listops.test_examples) == (96_000, 2000, 2000)
    assert (listops.min_length, listops.max_seq_length, listops.max_steps) == (500, 2000, 5000)
    assert (text.train_examples, text.test_examples, text.max_seq_length, text.max_steps) == (25_000, 25_000, 4000, 20_000)
    for task, args in (("listops", listops), ("text", text)):
        for model in args.models:
            config = long_range.make_config(task, model, long_range.arguments_of(args))
            assert config.max_position_embeddings == args.max_seq_length and config.classifier_pooling == "mean"
