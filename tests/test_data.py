"""Files are read as what they are, and columns, labels and parts are found in them as a user would expect."""

import csv
import json
import os
from collections import Counter

import pytest
from datasets import ClassLabel, Dataset, Features, IterableDataset, List
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from transformers import BertConfig

from transformers_linformer.errors import UsageError
from transformers_linformer.training.classification import MULTI_LABEL, REGRESSION, SINGLE_LABEL, class_of_each, find_labels
from transformers_linformer.training.data import (
    find_features,
    find_text_columns,
    hold_out_last,
    hold_out_of_each_class,
    read_file,
    read_files,
)


def rows_of(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content.encode("utf-8"))
    streamed = list(read_file(str(path), streaming=True))
    rows = list(read_file(str(path), cache_dir=str(tmp_path / "cache")))
    assert rows == streamed
    return rows


# Cells


@pytest.mark.parametrize(
    ("name", "content", "cells"),
    [
        # Words and numbers stay what somebody wrote
        ("a.csv", "text,label\nNone,NA\nnull,nan\n007,1e5\n,3.0\n", ["None", "NA", "null", "nan", "007", "1e5", "", "3.0"]),
        ("a.csv", 'text,label\r\n"a, ""b""\nc",1\r\n', ['a, "b"\nc', "1"]),
        ("a.csv", "\ufefftext , label\n\na,b\n", ["a", "b"]),
        ("a.csv", 'text,label\n5" disk,a\n', ['5" disk', "a"]),
        # A quotation mark in a tsv is a character, unless it quotes a field
        (
            "a.tsv",
            'text\tlabel\n"Oh\tneg\nhe said "go"\tpos\nthe end" was\tpos\n',
            ['"Oh', "neg", 'he said "go"', "pos", 'the end" was', "pos"],
        ),
        ("a.tsv", 'text\tlabel\n"a ""b"""\tpos\n', ['a "b"', "pos"]),
        ("a.tsv", 'text\tlabel\n"a\tb\tx\nc"\tpos\nd\tneg\n', ["a\tb\tx\nc", "pos", "d", "neg"]),
        ("a.txt", "a\n\n b\u2028c \r\nd", ["a", "", " b\u2028c ", "d"]),
        ("a.jsonl", '{"text": "1", "label": 1}\n\n{"label": "x", "text": null}\n', ["1", 1, None, "x"]),
        (
            "a.json",
            '[{"text": "a", "label": [1, null]}, {"text": "b", "label": {"x": 1.5}}]',
            ["a", [1, None], "b", {"x": 1.5}],
        ),
    ],
)
def test_every_cell_is_what_the_file_holds(name, content, cells, tmp_path):
    rows = rows_of(tmp_path, name, content)
    assert [cell for row in rows for cell in row.values()] == cells
    assert all(set(row) <= {"text", "label"} for row in rows)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,label\nDoe, John,m\nDoe, Jane,f\n", "line 2 of .*a.csv has 3 fields, the header 2"),
        ("a.csv", 'text,label\n"a\nb",m\nc\n', "line 4 of .*a.csv has 1 field, the header 2"),
        ("a.csv", "text,label\na,b,\n", "line 2 of .*a.csv has 3 fields, the header 2"),
        ("a.csv", 'text,label\n"a"b,c\n', "line 2 of .*a.csv cannot be read"),
        ("a.csv", 'text,label\na,b\n"c,d\ne,f\n', "line 3 of .*a.csv cannot be read"),
        ("a.csv", "text,text\na,b\n", "has more than one column 'text'"),
        ("a.csv", "text,label\n", "has no rows"),
        ("a.tsv", 'text\tlabel\n"a\tneg\nb"\tpos\n', "line 2 of .*a.tsv begins a field with a quotation mark"),
        ("a.tsv", "text\tlabel\na\tb\tc\n", "line 2 of .*a.tsv has 3 fields, the header 2"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', "line 2 of .*a.jsonl cannot be read"),
        ("a.jsonl", '{"text": "a"}\n"b"\n', "line 2 of .*a.jsonl holds no object"),
        ("a.json", '[{"text": "a"}', "a.json cannot be read"),
    ],
)
def test_a_row_is_never_swallowed_or_shifted(name, content, message, tmp_path):
    with pytest.raises(UsageError, match=message) as raised:
        rows_of(tmp_path, name, content)
    assert "\n" not in str(raised.value)


def test_paths_are_literal_and_files_are_read_as_they_are_now(tmp_path):
    for name in ("data[1].csv", "data1.csv", "a*b.csv", "aXb.csv", "c?.csv", "d::e.csv"):
        (tmp_path / name).write_text(f"text\n{name}\n")
        splits = read_files({"train_file": str(tmp_path / name)}, ("csv",), cache_dir=str(tmp_path / "cache"))
        assert list(splits["train"]) == [{"text": name}]
    path = tmp_path / "data1.csv"
    stat = path.stat()
    path.write_text("text\nDATA1.csv\n")  # of the same size
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    splits = read_files({"train_file": str(path)}, ("csv",), cache_dir=str(tmp_path / "cache"))
    assert list(splits["train"]) == [{"text": "DATA1.csv"}]


# Any text but what UTF-8 cannot hold, with what csv treats in a special way more often
TEXTS = st.text(st.one_of(st.sampled_from(",;\"'\n\r \\#NA0.1"), st.characters(exclude_categories=["Cs"])), max_size=20)


@st.composite
def tables(draw):
    """A header, rows, and how Python's csv module writes them. Types of a column change late in the file."""
    width = draw(st.integers(1, 4))
    names = draw(
        st.lists(st.text("abcdefg _", min_size=1).filter(str.strip), min_size=width, max_size=width, unique_by=str.strip)
    )
    rows = draw(st.lists(st.lists(TEXTS, min_size=width, max_size=width), min_size=1, max_size=6))
    numbers = draw(st.integers(0, 3))
    rows = [[str(number)] * width for number in range(numbers)] + rows
    style = {
        "quoting": draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])),
        "lineterminator": draw(st.sampled_from(["\n", "\r\n"])),
    }
    return names, rows, style


@settings(
    max_examples=int(os.environ.get("RANDOM_TABLES", 100)),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(tables(), st.sampled_from(["csv", "tsv"]), st.sampled_from(["utf-8", "utf-8-sig"]))
def test_random_tables(tmp_path, table, suffix, encoding):
    """CONTRIBUTING.md has the command for 2,000 of them."""
    names, rows, style = table
    assume(suffix == "csv" or len(names) > 1)  # where a tsv has one column, a field of several lines is not clear
    delimiter = "," if suffix == "csv" else "\t"
    path = tmp_path / f"table.{suffix}"
    with open(path, "w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=delimiter, **style).writerows([names, *rows])
    with open(path, encoding=encoding, newline="") as file:  # the writer leaves some line breaks without quotes
        assume(list(csv.reader(file, delimiter=delimiter)) == [names, *rows])
    found = list(read_file(str(path), streaming=True))
    assert [list(row.values()) for row in found] == rows
    assert list(found[0]) == [name.strip() for name in names]


# Columns


@pytest.mark.parametrize(
    ("columns", "asked", "found"),
    [
        ({"id": "p-1", "text": "a b", "label_text": "good"}, None, ("text",)),
        ({"premise": "a", "hypothesis": "b", "idx": 1}, None, ("premise", "hypothesis")),
        ({"id": "17", "body": "a b", "label": "good", "stars": "4.5"}, None, ("body",)),
        ({" text ": "a", "label": "b"}, ["text"], (" text ",)),
        ({"q": "a", "a": "b", "label": "b"}, [" a", "q "], ("a", "q")),
    ],
)
def test_columns_of_the_text(columns, asked, found):
    data = Dataset.from_list([columns])
    assert find_text_columns("train", data, asked, "label") == found
    assert find_text_columns("train", IterableDataset.from_generator(lambda: iter([columns])), asked, "label") == found


@pytest.mark.parametrize(
    ("columns", "asked", "message"),
    [
        ({"id": "p-1", "body": "a b"}, None, "which columns of the train data hold the text\\? .* 'id', 'body'"),
        ({"date": "2024-01-01", "body": "a b"}, None, "which columns of the train data"),
        ({"a": 1}, None, "which columns of the train data"),
        ({"text": 3, "body": "a b"}, None, "--text_column: text of the train data does not hold text alone"),
        ({"text": ["a"]}, None, "--text_column: text of the train data does not hold text alone"),
        ({"text": {"a": "b"}}, None, "--text_column: text of the train data does not hold text alone"),
        ({"text": "a", "date": 7}, ["date"], "--text_column: date of the train data does not hold text alone"),
        ({"text;label": "a;b"}, ["text"], "--text_column text: .* 'text;label'. It is a single column: is the file separated"),
    ],
)
def test_columns_that_are_not_clear(columns, asked, message):
    with pytest.raises(UsageError, match=message):
        find_text_columns("train", Dataset.from_list([columns]), asked, "label")


def test_the_labels_are_no_text():
    """Whatever their column is called."""
    data = Dataset.from_list([{"text": "good", "body": "a b"}])
    assert find_text_columns("train", data, other="text ") == ("body",)
    data = Dataset.from_list([{"question": "a", "sentence": "good"}])
    assert find_text_columns("train", data, other="sentence") == ("question",)


def test_a_column_of_text_and_numbers_is_no_text():
    with pytest.raises(UsageError, match="text of the train data does not hold text alone"):
        find_text_columns("train", json_dataset([{"text": 3}, {"text": "a"}]))
    with pytest.raises(UsageError, match="body of the train data does not hold text alone"):  # the number comes late
        find_text_columns("train", json_dataset([{"body": "a b"}] * 1000 + [{"body": 3}]))


# Labels


def labels_of(values, problem_type=None, is_typed=True, split="train", features=None):
    data = Dataset.from_dict({"label": values}, features=features) if features else None
    if data is None:
        path_like = [{"label": value} for value in values]
        data = json_dataset(path_like)
    labels, by_split = find_labels({split: data}, "label", BertConfig(), problem_type, is_typed)
    return labels.problem_type, labels.names, by_split[split]


def json_dataset(rows):
    return Dataset.from_generator(lambda: iter(rows), features=find_features(rows, "rows"))


@pytest.mark.parametrize(
    ("values", "options", "kind", "names", "encoded"),
    [
        # Cells get their type from all of them at once
        (["01", "02", "10", "01"], {"is_typed": False}, SINGLE_LABEL, ["01", "02", "10"], [0, 1, 2, 0]),
        (["1", "2", "2.5"], {"is_typed": False}, REGRESSION, ["label"], [1.0, 2.0, 2.5]),
        (["0", "1", "other"], {"is_typed": False}, SINGLE_LABEL, ["0", "1", "other"], [0, 1, 2]),
        (["NA", "nan", "None"], {"is_typed": False}, SINGLE_LABEL, ["NA", "None", "nan"], [0, 2, 1]),
        (["1.5", "2.5"], {"is_typed": True}, SINGLE_LABEL, ["1.5", "2.5"], [0, 1]),
        ([1, "x", 1], {}, SINGLE_LABEL, ["1", "x"], [0, 1, 0]),
        ([True, False], {}, SINGLE_LABEL, ["False", "True"], [1, 0]),
        ([1, 2.5], {}, REGRESSION, ["label"], [1.0, 2.5]),
        # Several labels
        (["b,a,", "a", " c"], {"problem_type": MULTI_LABEL}, MULTI_LABEL, ["a", "b", "c"], [[1, 1, 0], [1, 0, 0], [0, 0, 1]]),
        (["['b', 'a']", "['a']", "[]"], {"problem_type": MULTI_LABEL}, MULTI_LABEL, ["a", "b"], [[1, 1], [1, 0], [0, 0]]),
        ([[1, 0, 1], [0, 0, 0]], {}, MULTI_LABEL, ["0", "1", "2"], [[1, 0, 1], [0, 0, 0]]),
        ([[1.0, 0.0], [0.0, 1.0]], {}, MULTI_LABEL, ["0", "1"], [[1, 0], [0, 1]]),
        ([[1, 2], [0]], {}, MULTI_LABEL, ["0", "1", "2"], [[0, 1, 1], [1, 0, 0]]),
        ([["x"], []], {}, MULTI_LABEL, ["x"], [[1], [0]]),
        # Some rows of a test set have labels
        (["a", None, "b"], {"split": "test"}, SINGLE_LABEL, ["a", "b"], [0, None, 1]),
    ],
)
def test_labels(values, options, kind, names, encoded):
    assert labels_of(values, **options) == (kind, names, encoded)


def test_labels_of_a_dataset_with_names():
    features = Features({"label": ClassLabel(names=["neg", "pos"])})
    assert labels_of([1, 0], features=features) == (SINGLE_LABEL, ["neg", "pos"], [1, 0])
    features = Features({"label": List(ClassLabel(names=["a", "b"]))})
    assert labels_of([[1], [0, 1]], features=features) == (MULTI_LABEL, ["a", "b"], [[0, 1], [1, 1]])


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([["x"], "y"], {}, "--label_column label holds lists in some rows and single labels in others"),
        ([{"x": 1}, {"x": 0}], {}, "row 1 of the train data has the label {'x': 1}, which names no class"),
        ([["x", None], ["y"]], {}, "row 1 of the train data has the label None, which names no class"),
        ([[0.25, 0.5], [0.75]], {}, "row 1 of the train data has the label 0.25, a number that names no class"),
        ([[1.0], [2.0]], {"problem_type": REGRESSION}, "row 1 .* label \\[1.0\\], which is no finite number"),
        (["1.5", "inf"], {"is_typed": False}, "row 2 of the train data has the label 'inf', which is no finite number"),
        ([1.5, float("inf")], {}, "row 2 of the train data has the label inf, which is no finite number"),
        ([1.5, -1e300], {}, "row 2 of the train data has the label -1e\\+300, which is too large for float32"),
        ([None, None], {}, "no row of the train data has a label"),
        ([[], []], {}, "--label_column label: no row of the training data has a label"),
        (["a", " ", "b"], {"is_typed": False}, "row 2 of the train data has no label \\(in all, 1 rows have none\\)"),
        (["a", "a"], {}, "all training labels are 'a'"),
    ],
)
def test_labels_that_cannot_be_learned(values, options, message):
    with pytest.raises(UsageError, match=message) as raised:
        labels_of(values, **options)
    assert "\n" not in str(raised.value)


# Parts


def test_text_is_held_out_at_the_end():
    texts = Dataset.from_dict({"text": list(map(str, range(40)))})
    train, validation = hold_out_last(texts, 10)
    assert train["text"][:] == list(map(str, range(36))) and validation["text"][:] == ["36", "37", "38", "39"]


@pytest.mark.parametrize("seed", range(5))
def test_each_class_is_trained_on_and_gives_its_share(seed):
    labels = [0] * 60 + [1] * 37 + [2] * 2 + [3]
    data = Dataset.from_dict({"row": list(range(100))})
    train, validation = hold_out_of_each_class(data, labels, 10, seed)
    assert sorted(train["row"][:] + validation["row"][:]) == list(range(100))
    assert train["row"][:] == sorted(train["row"]) and validation["row"][:] == sorted(validation["row"])
    held_out = Counter(labels[row] for row in validation["row"])
    assert len(validation) == 10 and held_out[0] == 6 and held_out[1] in (3, 4) and held_out[3] == 0
    assert hold_out_of_each_class(data, labels, 10, seed + 1)[1]["row"][:] != validation["row"][:]


def test_a_class_with_one_example_is_trained_on_whatever_the_part():
    labels = [0, 1, 0, 2, 0, 3]
    train, validation = hold_out_of_each_class(Dataset.from_dict({"row": list(range(6))}), labels, 80, 0)
    assert {labels[row] for row in train["row"]} == {0, 1, 2, 3} and len(validation) == 2


def test_a_rare_label_among_several_is_trained_on():
    labels, by_split = find_labels(
        {"train": json_dataset([{"label": ["a", "b"]}] * 20 + [{"label": ["a", "c"]}])}, "label", BertConfig()
    )
    classes = class_of_each(by_split["train"], labels)
    assert classes == [1] * 20 + [2]
    assert class_of_each([0.5, 1.5], type(labels)(REGRESSION, ["label"])) == [None, None]


def test_files_of_json_with_any_types(tmp_path):
    values = [1, "x", 2.5, None, [1, 2], {"a": None}, True]
    content = "\n".join(json.dumps({"text": "a", "label": value}) for value in values)
    assert [row["label"] for row in rows_of(tmp_path, "a.jsonl", content)] == values
