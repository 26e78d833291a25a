"""Tests run_glue.py as a user runs it: on GLUE and on other data, killed and started again, and with bad input."""

import csv
import json
from pathlib import Path

import datasets
import evaluate
import numpy as np
import pytest
import torch
import transformers
from datasets import ClassLabel, Dataset, Features, Value
from processes import ROOT, kill_script, run_in_forks, run_script
from safetensors.torch import load_file
from tiny_runs import TINY
from transformers import AutoTokenizer, pipeline

import transformers_linformer.training.metrics
from modeling_linformer import LinformerForSequenceClassification
from transformers_linformer.commands.glue import FILE_TYPES, main
from transformers_linformer.errors import UsageError
from transformers_linformer.training.classification import (
    GLUE_TASKS,
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    Labels,
    make_compute_metrics,
)
from transformers_linformer.training.metrics import ClassificationMetrics


GLUE = ROOT.parent / "shared" / "data" / "glue"
IMDB = ROOT.parent / "shared" / "data" / "imdb"
WORDS = "a good film about two dogs who never bark but think that every cat in town is very bad".split()
LABELS = {
    "cola": ["unacceptable", "acceptable"],
    "sst2": ["negative", "positive"],
    "mrpc": ["not_equivalent", "equivalent"],
    "qqp": ["not_duplicate", "duplicate"],
    "stsb": None,
    "mnli": ["entailment", "neutral", "contradiction"],
    "qnli": ["entailment", "not_entailment"],
    "rte": ["entailment", "not_entailment"],
    "wnli": ["not_entailment", "entailment"],
    "ax": ["entailment", "neutral", "contradiction"],
}
METRICS = {
    "cola": {"matthews_correlation"},
    "mrpc": {"accuracy", "f1", "combined_score"},
    "qqp": {"accuracy", "f1", "combined_score"},
    "stsb": {"pearson", "spearmanr", "combined_score"},
}


def sentence(generator):
    return " ".join(generator.choice(WORDS, generator.integers(2, 9)))


@pytest.fixture(scope="session")
def glue(tmp_path_factory):
    """
    Returns a folder that holds all of GLUE in the layout of the Hub, with a few made-up sentences.

    The labels of the test sets are -1, as they are in GLUE, where they are secret.
    """
    folder = tmp_path_factory.mktemp("glue")
    generator = np.random.default_rng(0)
    configs = []
    for task, names in LABELS.items():
        columns = GLUE_TASKS["mnli" if task == "ax" else task][0]
        features = {column: Value("string") for column in columns}
        features |= {"label": Value("float32") if names is None else ClassLabel(names=names), "idx": Value("int32")}
        splits = ["train", "validation", "test"]
        if task == "mnli":
            splits = ["train", "validation_matched", "validation_mismatched", "test_matched", "test_mismatched"]
        elif task == "ax":
            splits = ["test"]
        (folder / task).mkdir()
        for split in splits:
            rows = []
            for row in range(12):
                label = -1 if "test" in split else row % 6 if names is None else row % len(names)
                rows.append({**{column: sentence(generator) for column in columns}, "label": label, "idx": row})
            Dataset.from_list(rows, features=Features(features)).to_parquet(folder / task / f"{split}.parquet")
        files = "".join(f"  - split: {split}\n    path: {task}/{split}.parquet\n" for split in splits)
        configs.append(f"- config_name: {task}\n  data_files:\n{files}")
    (folder / "README.md").write_text(f"---\nconfigs:\n{''.join(configs)}---\n")
    return folder


def arguments(output_dir, *more):
    return [
        f"--output_dir={output_dir}",
        f"--config_overrides={TINY}",
        "--vocab_size=280",
        "--do_train",
        "--max_steps=2",
        "--per_device_train_batch_size=4",
        "--report_to=none",
        "--use_cpu",
        "--disable_tqdm=True",
        *map(str, more),
    ]


def fine_tuned(folder):
    """Returns the arguments that continue from the checkpoint `model` in the folder, and train nothing."""
    return [a for a in arguments(folder / "out") if not a.startswith(("--config_overrides", "--do_train"))] + [
        f"--model_name_or_path={folder / 'model'}"
    ]


def read(folder, name="eval_results.json"):
    return json.loads((folder / name).read_text())


def table(path, delimiter=","):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def weights(folder):
    return load_file(folder / "model.safetensors")


def write_rows(path, rows):
    if path.suffix in (".csv", ".tsv"):
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return path


def reviews(label=("bad", "good"), rows=24):
    generator = np.random.default_rng(1)
    return [{"text": sentence(generator), "label": label[row % len(label)]} for row in range(rows)]


# Tasks


@pytest.mark.parametrize("task", GLUE_TASKS)
def test_every_glue_task(task, glue, tmp_path):
    options = (f"--dataset_name={glue}", f"--task_name={task}", "--do_eval", "--do_predict", "--max_predict_samples=7")
    main(arguments(tmp_path / "out", *options))

    config = LinformerForSequenceClassification.from_pretrained(tmp_path / "out").config
    names = LABELS[task] or ["label"]
    assert config.id2label == dict(enumerate(names)) and config.label2id == {name: i for i, name in enumerate(names)}
    assert config.problem_type == ("regression" if task == "stsb" else "single_label_classification")
    prefixes = ["eval", "eval_mm"] if task == "mnli" else ["eval"]
    wanted = {f"{prefix}_{name}" for prefix in prefixes for name in METRICS.get(task, {"accuracy"})}
    assert wanted <= read(tmp_path / "out").keys()

    files = ["MNLI-m", "MNLI-mm", "AX"] if task == "mnli" else [GLUE_TASKS[task][1]]
    assert sorted(path.stem for path in (tmp_path / "out").glob("*.tsv")) == sorted(files)
    for file in files:
        rows = table(tmp_path / "out" / f"{file}.tsv", delimiter="\t")
        assert [row["index"] for row in rows] == [str(index) for index in range(7)]
        for row in rows:
            if task == "stsb":
                assert 0 <= float(row["prediction"]) <= 5
            else:
                assert row["prediction"] in (names if task in ("mnli", "qnli", "rte") else ("0", "1"))


@pytest.mark.skipif(not GLUE.is_dir(), reason="needs the folder ../shared/data/glue")
@pytest.mark.parametrize("task", ["cola", "sst2", "mrpc", "stsb", "mnli", "qnli", "rte", "wnli"])
def test_real_glue(task, tmp_path):
    options = (f"--dataset_name={GLUE}", f"--task_name={task}", "--do_eval", "--max_train_samples=64", "--max_eval_samples=64")
    main(arguments(tmp_path / "out", *options))
    wanted = {f"eval_{name}" for name in METRICS.get(task, {"accuracy"})}
    assert wanted <= read(tmp_path / "out").keys()


@pytest.mark.skipif(not IMDB.is_dir(), reason="needs the folder ../shared/data/imdb")
def test_a_dataset_without_validation(tmp_path, log):
    options = (f"--dataset_name={IMDB}", "--text_column", "text", "--do_eval", "--do_predict")
    main(arguments(tmp_path / "out", *options, "--max_train_samples=50", "--max_eval_samples=20", "--max_predict_samples=10"))
    assert "5 % of the training data are held out" in log.text
    assert "of 50 train examples are longer than 32 tokens" in log.text
    assert "eval_accuracy" in read(tmp_path / "out")
    assert len(table(tmp_path / "out" / "predictions.csv")) == 10


@pytest.mark.parametrize("suffix", FILE_TYPES)
def test_a_file_of_ones_own(suffix, tmp_path):
    files = [write_rows(tmp_path / f"{split}.{suffix}", reviews()) for split in ("train", "validation", "test")]
    options = [f"--{path.stem}_file={path}" for path in files]
    main(arguments(tmp_path / "out", *options, "--do_eval", "--do_predict"))
    assert {"eval_accuracy", "eval_f1"} <= read(tmp_path / "out").keys()
    assert "predict_accuracy" in read(tmp_path / "out", "predict_results.json")
    rows = table(tmp_path / "out" / "predictions.csv")
    assert list(rows[0]) == ["index", "prediction", "p(bad)", "p(good)"] and len(rows) == 24
    for row in rows:
        probabilities = {name: float(row[f"p({name})"]) for name in ("bad", "good")}
        assert abs(sum(probabilities.values()) - 1) < 1e-5
        assert row["prediction"] == max(probabilities, key=probabilities.get)

    model = LinformerForSequenceClassification.from_pretrained(tmp_path / "out")
    classify = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(tmp_path / "out"))
    assert classify("a good film")[0]["label"] in ("bad", "good")
    # The pipeline gives the answers that are in the file
    for row, review in list(zip(rows, reviews()))[:5]:
        answer = classify(review["text"])[0]
        assert answer["label"] == row["prediction"]
        assert abs(answer["score"] - float(row[f"p({answer['label']})"])) < 1e-5


@pytest.mark.parametrize(
    ("labels", "options", "problem_type", "names"),
    [
        ([3, 1, 10], (), "single_label_classification", ["1", "3", "10"]),
        ([True, False], (), "single_label_classification", ["False", "True"]),
        ([0.5, 2.25, 1.0], (), "regression", ["label"]),
        ([1, 2], ("--problem_type=regression",), "regression", ["label"]),
        ([1.0, 2.0], ("--problem_type=single_label_classification",), "single_label_classification", ["1", "2"]),
        ([["b", "a"], ["a"], []], (), "multi_label_classification", ["a", "b"]),
        (["b,a", "a", "c"], ("--problem_type=multi_label_classification",), "multi_label_classification", ["a", "b", "c"]),
    ],
)
def test_kinds_of_labels(labels, options, problem_type, names, tmp_path):
    path = write_rows(tmp_path / "train.jsonl", reviews(labels))
    files = (f"--train_file={path}", f"--validation_file={path}", f"--test_file={path}")
    main(arguments(tmp_path / "out", *files, "--do_eval", "--do_predict", *options))
    config = LinformerForSequenceClassification.from_pretrained(tmp_path / "out").config
    assert (config.problem_type, list(config.id2label.values())) == (problem_type, names)
    wanted = {"regression": "mse", "multi_label_classification": "f1_micro", "single_label_classification": "accuracy"}
    assert f"eval_{wanted[problem_type]}" in read(tmp_path / "out")
    rows = table(tmp_path / "out" / "predictions.csv")
    header = ["index", "prediction"] + [f"p({name})" for name in names] * (problem_type != "regression")
    assert list(rows[0]) == header
    if problem_type == "multi_label_classification":
        for row in rows:
            assert row["prediction"] == ",".join(name for name in names if float(row[f"p({name})"]) > 0.5)


def test_encoded_labels():
    multi = Labels(MULTI_LABEL, ["a", "b", "c"])
    assert multi.encode(["c", "a"], "row 1") == [1.0, 0.0, 1.0]
    assert Labels(SINGLE_LABEL, ["a", "b"]).encode("b", "row 1") == 1
    assert Labels(REGRESSION, ["score"]).encode(1.5, "row 1") == 1.5


def test_a_pair_of_texts(tmp_path):
    rows = [
        {"no": row, "question": "is a dog a cat", "answer": review["text"], "label": row % 2}
        for row, review in enumerate(reviews())
    ]
    path = write_rows(tmp_path / "train.jsonl", rows)
    main(arguments(tmp_path / "pair", f"--train_file={path}", "--text_column", "question", "answer"))
    main(arguments(tmp_path / "one", f"--train_file={path}", "--text_column", "answer"))
    assert "text_pair" in (tmp_path / "pair" / "README.md").read_text()
    assert "text_pair" not in (tmp_path / "one" / "README.md").read_text()


@pytest.mark.parametrize("column", ["labels", "length"])
def test_a_column_may_have_the_name_of_one_that_is_added(column, tmp_path):
    rows = [{column: review["text"], "input_ids": review["label"]} for review in reviews()]
    path = write_rows(tmp_path / "train.csv", rows)
    options = (f"--train_file={path}", f"--test_file={path}", "--text_column", column, "--label_column=input_ids")
    main(arguments(tmp_path / "out", *options, "--do_eval", "--do_predict", "--max_steps=1"))
    assert len(table(tmp_path / "out" / "predictions.csv")) == 24


def test_a_trained_folder_cuts_and_pads_as_its_model_reads(tmp_path):
    path = write_rows(tmp_path / "train.csv", reviews())
    main(arguments(tmp_path / "model", f"--train_file={path}"))
    settings = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text()) | {"padding_side": "left"}
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(settings))
    main([*fine_tuned(tmp_path), f"--train_file={path}", "--do_train", "--max_seq_length=4"])
    for folder in (tmp_path / "out", tmp_path / "out" / "checkpoint-2"):
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        assert tokenizer["padding"] is None and (tokenizer["truncation"] or {"max_length": 32})["max_length"] == 32
        assert AutoTokenizer.from_pretrained(folder).padding_side == "right"


def test_a_trained_head_keeps_the_meaning_of_its_labels(tmp_path):
    path = write_rows(tmp_path / "train.csv", reviews(("good", "bad")))
    main(arguments(tmp_path / "model", f"--train_file={path}"))
    model = LinformerForSequenceClassification.from_pretrained(tmp_path / "model")
    with torch.no_grad():  # the rows of the head change places, and so do their names
        model.classifier.out_proj.weight.set_(model.classifier.out_proj.weight.flip(0))
        model.classifier.out_proj.bias.set_(model.classifier.out_proj.bias.flip(0))
    model.config.id2label, model.config.label2id = {0: "good", 1: "bad"}, {"good": 0, "bad": 1}
    AutoTokenizer.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "flipped")
    model.save_pretrained(tmp_path / "flipped")
    metrics = []
    for name in ("model", "flipped"):
        options = [a for a in arguments(tmp_path / f"{name}-out") if not a.startswith("--config_overrides")]
        options += [f"--model_name_or_path={tmp_path / name}", f"--train_file={path}", "--do_eval", "--learning_rate=0"]
        main([*options, f"--validation_file={path}"])
        metrics.append(read(tmp_path / f"{name}-out"))
    assert metrics[0]["eval_loss"] == pytest.approx(metrics[1]["eval_loss"], abs=1e-5)
    assert read(tmp_path / "flipped-out", "config.json")["label2id"] == {"good": 0, "bad": 1}


def test_predict_alone(tmp_path):
    path = write_rows(tmp_path / "train.csv", reviews())
    main(arguments(tmp_path / "model", f"--train_file={path}"))
    test = write_rows(tmp_path / "test.csv", [{"text": review["text"]} for review in reviews()])
    main([*fine_tuned(tmp_path), f"--test_file={test}", "--do_predict"])
    assert {row["prediction"] for row in table(tmp_path / "out" / "predictions.csv")} <= {"bad", "good"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.csv"]


def test_the_best_model_is_kept_and_training_stops_early(tmp_path):
    path = write_rows(tmp_path / "train.csv", reviews())
    options = (f"--train_file={path}", f"--validation_file={path}", "--eval_strategy=steps", "--eval_steps=1", "--max_steps=9")
    # The steps are so small that no evaluation is better than the first
    main(arguments(tmp_path / "out", *options, "--learning_rate=1e-9", "--early_stopping_patience=3"))
    state = read(tmp_path / "out", "trainer_state.json")
    assert state["global_step"] == 4 and Path(state["best_model_checkpoint"]).name == "checkpoint-1"
    final, first, last = (weights(tmp_path / "out" / name) for name in ("", "checkpoint-1", "checkpoint-4"))
    assert all(torch.equal(final[name], first[name]) for name in final)
    assert not all(torch.equal(final[name], last[name]) for name in final)


# Metrics


def compute_by_metric(name, predictions, references):
    """Returns the metrics by the class itself. `evaluate.load` has to give the same."""
    direct = ClassificationMetrics(config_name=name, keep_in_memory=True)
    loaded = evaluate.load(transformers_linformer.training.metrics.__file__, name, keep_in_memory=True)
    metrics, same = (metric.compute(predictions=predictions, references=references) for metric in (direct, loaded))
    assert same == pytest.approx(metrics, nan_ok=True), name
    return metrics


def test_metrics_on_known_vectors():
    predictions, references = np.array([1, 0, 1, 1, 0, 0]), np.array([1, 1, 1, 0, 0, 1])
    tp, fp, fn, tn = 2, 1, 2, 1
    matthews = (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    f1 = 2 * tp / (2 * tp + fp + fn)
    known = {
        "cola": {"matthews_correlation": matthews},
        "sst2": {"accuracy": 1 / 2},
        "mrpc": {"accuracy": 1 / 2, "f1": f1, "combined_score": (1 / 2 + f1) / 2},
    }
    x, y = np.array([1.0, 2.0, 3.5, 2.0]), np.array([0.0, 2.5, 3.0, 1.0])
    spearman = np.corrcoef([1, 2.5, 4, 2.5], [1, 3, 4, 2])[0, 1]  # ranks; equal values share theirs
    pearson = np.corrcoef(x, y)[0, 1]
    known["stsb"] = {"pearson": pearson, "spearmanr": spearman, "combined_score": (pearson + spearman) / 2}
    known["regression"] = {"mse": ((x - y) ** 2).mean(), "pearson": pearson, "spearmanr": spearman}
    known["single_label_classification"] = {"accuracy": 1 / 2, "f1": (f1 + 2 * tn / (2 * tn + fp + fn)) / 2}
    for name, wanted in known.items():
        vectors = (x, y) if name in ("stsb", "regression") else (predictions, references)
        assert compute_by_metric(name, *vectors) == pytest.approx(wanted), name
    computed = compute_by_metric(MULTI_LABEL, [[1, 0, 0], [1, 1, 0]], [[1, 0, 0], [0, 1, 1]])
    assert computed == pytest.approx({"accuracy": 1 / 2, "f1_micro": 2 / 3, "f1_macro": (2 / 3 + 1 + 0) / 3})


def test_metrics_at_their_edges(recwarn):
    assert compute_by_metric("cola", [1, 1, 1], [1, 0, 1]) == {"matthews_correlation": 0.0}  # constant predictions
    assert compute_by_metric("cola", [1, 1], [1, 1]) == {"matthews_correlation": 0.0}  # a single class
    assert compute_by_metric("mrpc", [0, 0], [1, 0]) == {"accuracy": 0.5, "f1": 0.0, "combined_score": 0.25}
    assert compute_by_metric("mrpc", [0, 0], [0, 0]) == {"accuracy": 1.0, "f1": 0.0, "combined_score": 0.5}
    constant = compute_by_metric("stsb", [2.0, 2.0, 2.0], [1.0, 2.0, 3.0])
    assert all(np.isnan(value) for value in constant.values())  # as in the metric that GLUE publishes
    assert not [warning for warning in recwarn if "scipy" in warning.filename or "sklearn" in warning.filename]


def test_an_undefined_score_is_no_best_score():
    labels = Labels(REGRESSION, ["label"])
    compute_metrics = make_compute_metrics("stsb", labels)
    constant = transformers.EvalPrediction(predictions=np.ones((3, 1)), label_ids=np.array([1.0, 2.0, 3.0]))
    assert compute_metrics(constant)["combined_score"] == 0.0


# Runs


@pytest.mark.slow("kills; test_run_mlm kills the same Trainer")
def test_killed_at_any_step_the_final_weights_are_the_same(tmp_path):
    path = write_rows(tmp_path / "train.csv", reviews())
    options = (f"--train_file={path}", f"--validation_file={path}", "--do_eval", "--eval_strategy=steps", "--eval_steps=10")

    argv = {name: arguments(tmp_path / name, *options, "--max_steps=40") for name in ("killed", "uninterrupted")}
    kill_script(tmp_path, "run_glue.py", argv["killed"], tmp_path / "killed" / "checkpoint-20")
    assert not (tmp_path / "killed" / "checkpoint-40").exists()

    for name in argv:
        result = run_script(tmp_path, "run_glue.py", argv[name])
        assert result.returncode == 0, result.stderr
        assert ("Going on from" in result.stderr) == (name == "killed")
    ours, theirs = weights(tmp_path / "killed"), weights(tmp_path / "uninterrupted")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    "labels", [("bad", "good"), pytest.param((0.5, 2.0, -1.0), marks=pytest.mark.slow("differs in its metrics alone"))]
)
def test_two_processes_train_as_one(labels, tmp_path):
    path = write_rows(tmp_path / "train.jsonl", reviews(labels))
    no_dropout = f"--config_overrides={TINY},hidden_dropout_prob=0.0,attention_probs_dropout_prob=0.0"
    # 23 is odd, and two processes must not count any of these rows twice
    options = (f"--train_file={path}", f"--validation_file={path}", "--max_eval_samples=23", "--do_eval", no_dropout)
    metrics = []
    for name, batch_size, processes in (("one", 4, 1), ("two", 2, 2)):
        options_here = (*options, "--max_steps=12", "--logging_steps=1", f"--per_device_train_batch_size={batch_size}")
        argv = arguments(tmp_path / name, *options_here)
        if processes == 1:
            main(argv)
        else:
            run_in_forks(tmp_path, "glue", argv, processes)
        metrics.append(read(tmp_path / name))
    assert (tmp_path / "two" / "checkpoint-12" / "rng_state_1.pth").is_file(), "there was no second process"
    one, two = (read(tmp_path / name, "trainer_state.json")["log_history"] for name in ("one", "two"))
    losses = [[entry["loss"] for entry in history if "loss" in entry] for history in (one, two)]
    assert len(losses[0]) == 12
    np.testing.assert_allclose(*losses, atol=1e-4)
    # `eval_loss`, which Trainer computes, counts one row twice
    score = "eval_mse" if 0.5 in labels else "eval_accuracy"
    assert metrics[0][score] == pytest.approx(metrics[1][score], abs=1e-4)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-4, rtol=0)


# Bad input


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        (None, (), "there is no data: give --task_name, --dataset_name, or --train_file"),
        (None, ("--task_name=sst-2",), "--task_name sst-2 is none of cola, .*Did you mean sst2?"),
        (None, ("--train_file=missing.csv",), "--train_file: there is no file missing.csv"),
        (reviews(), ("--task_name=sst2",), "--task_name goes with --dataset_name"),
        (reviews(), ("--text_column", "body"), "--text_column body: the train data has only 'text', 'label'"),
        (reviews(), ("--text_column", "a", "b", "c"), "--text_column takes one column, or two for a pair, not 3"),
        (reviews(), ("--text_column", "text", "text "), "--text_column text text  names a column twice: give it once"),
        (reviews(), ("--text_column", "label "), "--text_column and --label_column both name label: give each a column"),
        (reviews(), ("--label_column=stars",), "--label_column stars: the train data has only 'text', 'label'"),
        ([{"text": "a", "label": label} for label in ("x", "", "y")], (), "row 2 of the train data has no label"),
        (
            [{"text": "a", "label": label} for label in (0.5, "nan", 1.5)],
            (),
            "row 2 .* label 'nan', which is no finite number",
        ),
        ([{"text": "a", "label": "x"}] * 4, (), "all training labels are 'x', so there is nothing to learn"),
        ([{"text": "a", "label": "x"}] * 4, ("--problem_type=regression",), "has the label 'x', which is no finite number"),
        (
            [{"a": "a", "b": "b", "c": "c", "label": 1}] * 4,
            (),
            "which columns of the train data hold the text? Give --text_column with one or two of 'a', 'b', 'c'",
        ),
        (reviews(), ("--max_seq_length=33",), "--max_seq_length 33 must be from 3 to 32"),
        (reviews(), ("--early_stopping_patience=2",), "--early_stopping_patience needs evaluations"),
        (reviews(), ("--do_predict",), "--do_predict needs data to predict, but there is only train: give --test_file"),
        (reviews(), ("--max_train_samples=0",), "--max_train_samples is 0; it must be at least 1"),
    ],
)
def test_bad_input_is_one_clear_line(rows, more, message, tmp_path):
    files = () if rows is None else (f"--train_file={write_rows(tmp_path / 'train.csv', rows)}",)
    with pytest.raises(UsageError, match=message.replace("?", r"\?")) as raised:
        main(arguments(tmp_path / "out", *files, *more))
    assert "\n" not in str(raised.value)


def test_a_label_that_training_never_saw(tmp_path):
    train = write_rows(tmp_path / "train.csv", reviews())
    validation = write_rows(tmp_path / "validation.csv", reviews(("good", "dull")))
    message = "row 2 of the validation data has the label 'dull', which training never saw. It saw bad, good"
    with pytest.raises(UsageError, match=message):
        main(arguments(tmp_path / "out", f"--train_file={train}", f"--validation_file={validation}", "--do_eval"))


def test_a_dataset_without_test_data(glue, tmp_path):
    (tmp_path / "glue").mkdir()
    for split in ("train", "validation"):
        (tmp_path / "glue" / f"{split}.parquet").write_bytes((glue / "mrpc" / f"{split}.parquet").read_bytes())
    with pytest.raises(UsageError, match="there is only train, validation: leave out --do_predict"):
        main(arguments(tmp_path / "out", f"--dataset_name={tmp_path / 'glue'}", "--do_predict"))


def test_an_empty_split(tmp_path):
    train = write_rows(tmp_path / "train.csv", reviews())
    (tmp_path / "validation.csv").write_text("text,label\n")
    options = (f"--train_file={train}", f"--validation_file={tmp_path / 'validation.csv'}", "--do_eval")
    with pytest.raises(UsageError, match="validation"):
        main(arguments(tmp_path / "out", *options))


def test_a_head_of_another_size(tmp_path):
    path = write_rows(tmp_path / "train.csv", reviews())
    main(arguments(tmp_path / "model", f"--train_file={path}"))
    three = write_rows(tmp_path / "three.csv", reviews(("bad", "fair", "good")))
    options = [*fine_tuned(tmp_path), "--do_train", f"--train_file={three}"]
    message = "head has other sizes .*: give --ignore_mismatched_sizes to start with a new head for 3 labels"
    with pytest.raises(UsageError, match=message):
        main(options)
    main([*options, "--ignore_mismatched_sizes"])
    assert read(tmp_path / "out", "config.json")["label2id"] == {"bad": 0, "fair": 1, "good": 2}


def test_a_checkpoint_is_needed(tmp_path):
    path = write_rows(tmp_path / "train.csv", reviews())
    argv = [a for a in arguments(tmp_path / "out", f"--train_file={path}") if not a.startswith("--config_overrides")]
    with pytest.raises(UsageError, match="which model"):
        main(argv)
    with pytest.raises(UsageError, match="there is nothing to do"):
        main([a for a in arguments(tmp_path / "out") if a != "--do_train"])


@pytest.mark.slow("that of run_mlm.py ends in the same function")
def test_bad_input_leaves_no_traceback(tmp_path):
    result = run_script(tmp_path, "run_glue.py", arguments(tmp_path / "out", "--train_file=missing.csv"))
    assert result.returncode in (1, 2)
    assert "run_glue.py: error: --train_file: there is no file" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_features_of_datasets_are_as_expected():
    # `find_problem_type` recognises a list of labels by this attribute
    assert hasattr(datasets.List(Value("string")), "feature") and not hasattr(Value("string"), "feature")
