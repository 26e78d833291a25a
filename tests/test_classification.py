"""Tests what a classifier is trained on, and what is written of its predictions."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from transformers_linformer.commands import glue
from transformers_linformer.errors import UsageError
from transformers_linformer.tokenization import train_tokenizer
from transformers_linformer.training.classification import (
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    Labels,
    write_predictions,
    write_submission,
)


def table(path, delimiter=","):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter=delimiter))


def data_arguments(**changes):
    limits = {"max_train_samples": None, "max_eval_samples": None, "max_predict_samples": None}
    return SimpleNamespace(**(limits | {"validation_split_percentage": 20} | changes))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(Dataset.from_dict({"text": ["one two three four five six seven"] * 3}), 300, 64)


@pytest.mark.parametrize("columns", [("text",), ("text", "pair")])
def test_inputs_are_cut_and_counted(columns, tokenizer, log):
    texts = ["one", "one two three four five six seven " * 5, " "]
    data = Dataset.from_dict({column: texts for column in columns} | {"labels": [0, 1, 0]})
    with log.at_level("INFO", logger="transformers.linformer"):
        examples = glue.tokenize("train", data, columns, tokenizer, 12)
    longest = tokenizer(*[texts[1]] * len(columns), truncation=True, max_length=12)["input_ids"]
    assert examples["input_ids"][1] == longest and len(longest) == 12 and len(examples["input_ids"][0]) < 12
    assert examples["labels"][:] == [0, 1, 0]
    assert "1 of 3 train examples are longer than 12 tokens: they are cut" in log.text
    assert "1 of 3 train examples have no text" in log.text


def test_texts_that_are_all_empty_are_refused(tokenizer):
    data = Dataset.from_dict({"text": [None, " "], "labels": [0, 1]})
    with pytest.raises(UsageError, match="--text_column text: no row of the train data has text there"):
        glue.tokenize("train", data, ("text",), tokenizer, 12)


def test_the_seed_draws_what_is_held_out():
    labels = Labels(SINGLE_LABEL, ["a", "b"])
    data = {"train": Dataset.from_dict({"text": list(map(str, range(40))), "labels": [0, 1] * 20})}

    def held_out(seed):
        training = SimpleNamespace(do_train=True, do_eval=True, seed=seed)
        splits = glue.choose_rows(data, labels, data_arguments(), training)
        assert len(splits["train"]) == 32 and not set(splits["train"]["text"]) & set(splits["validation"]["text"])
        return splits["validation"]["text"][:]

    assert held_out(1) == held_out(1) != held_out(2)


def test_the_first_rows_are_taken():
    data = {
        split: Dataset.from_dict({"row": list(range(9)), "labels": [0.0] * 9}) for split in ("train", "validation", "test")
    }
    limits = data_arguments(max_train_samples=4, max_eval_samples=3, max_predict_samples=2)
    training = SimpleNamespace(do_train=True, do_eval=True, seed=0)
    splits = glue.choose_rows(data, Labels(REGRESSION, ["score"]), limits, training)
    assert {split: rows["row"][:] for split, rows in splits.items()} == {
        "train": [0, 1, 2, 3],
        "validation": [0, 1, 2],
        "test": [0, 1],
    }


def test_a_submission_to_sts_b_is_from_0_to_5(tmp_path):
    logits = np.array([[-0.7], [2.5], [5.3]])
    write_submission(tmp_path / "STS-B.tsv", "stsb", logits, Labels(REGRESSION, ["label"]))
    assert table(tmp_path / "STS-B.tsv", "\t") == [["index", "prediction"], ["0", "0.000"], ["1", "2.500"], ["2", "5.000"]]


def test_predictions_are_in_the_order_of_the_data(tmp_path):
    logits = np.array([[2.0, 0.0, 0.0], [0.0, 0.0, 2.0], [0.0, 2.0, 0.0]])
    write_predictions(tmp_path / "single.csv", logits, Labels(SINGLE_LABEL, ["a", "b", "c"]))
    assert [row[:2] for row in table(tmp_path / "single.csv")[1:]] == [["0", "a"], ["1", "c"], ["2", "b"]]
    write_predictions(tmp_path / "multi.csv", logits - 1, Labels(MULTI_LABEL, ["a", "b", "c"]))
    assert [row[:2] for row in table(tmp_path / "multi.csv")[1:]] == [["0", "a"], ["1", "c"], ["2", "b"]]
    write_predictions(tmp_path / "number.csv", logits[:, :1], Labels(REGRESSION, ["score"]))
    assert table(tmp_path / "number.csv")[1:] == [["0", "2.0"], ["1", "0.0"], ["2", "0.0"]]


def test_a_run_predicts_each_row_by_its_own_text(tmp_path):
    rows = [("good film", "pos"), ("bad film", "neg")] * 8
    for name in ("train", "test"):
        with open(tmp_path / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
            # Half of the test rows have labels
            labelled = [(text, label if name == "train" or row < 5 else "") for row, (text, label) in enumerate(rows)]
            csv.writer(file).writerows([("text", "label"), *labelled[: 9 if name == "test" else None]])
    sizes = "hidden_size=32,num_hidden_layers=1,num_attention_heads=2,intermediate_size=32"
    sizes += ",projected_dim=8,max_position_embeddings=32"
    glue.main(
        [
            *("--train_file", str(tmp_path / "train.csv"), "--test_file", str(tmp_path / "test.csv")),
            *("--do_train", "--do_predict", "--config_overrides", sizes, "--vocab_size", "300", "--max_steps", "30"),
            *("--learning_rate", "1e-2", "--report_to", "none", "--use_cpu", "--output_dir", str(tmp_path / "out")),
        ]
    )
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    classify = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(tmp_path / "out"))
    answers = [answer["label"] for answer in classify([text for text, _ in rows[:9]])]
    assert set(answers) == {"pos", "neg"}
    assert [row[1] for row in table(tmp_path / "out" / "predictions.csv")[1:]] == answers
    # The metrics are those of the rows with labels
    (metrics,) = (tmp_path / "out").glob("predict_results.json")
    assert '"predict_accuracy": 1.0' in metrics.read_text()
