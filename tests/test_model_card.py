"""Tests that file names and labels show as they are in model cards and tables of predictions, and that none becomes code."""

import csv

import numpy as np
import pytest
from huggingface_hub import ModelCard
from transformers import TrainerState, TrainingArguments

from configuration_linformer import LinformerConfig
from modeling_linformer import LinformerForSequenceClassification
from transformers_linformer.model_card import TrainingCard, what_is_exact, write_conversion_card, write_training_card
from transformers_linformer.tables import code, markdown_table, plain
from transformers_linformer.training.classification import MULTI_LABEL, SINGLE_LABEL, Labels, write_predictions


# A name of a file may hold any character but / and \0
NAMES = ["a|b", "*bold* _it_", "`rm`", "[x](y)", "<b>&amp;", "# x #", "a\n---\nb", "a: b, #c", "x\\|y", "$a$ ~~b~~"]
NAMES += ["\udcff", "😀\t.", "a\rb"]


@pytest.fixture(scope="module")
def model():
    sizes = {"vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return LinformerForSequenceClassification(LinformerConfig(**sizes, max_position_embeddings=8, projected_dim=4))


def test_plain_text_shows_no_markup():
    assert plain("reviews.csv (all)") == "reviews.csv (all)"
    assert plain("a|b *c* _d_ `e` [f] <g> &h; #i ~j $k \\l") == (r"a\|b \*c\* \_d\_ \`e\` \[f\] \<g\> \&h; \#i \~j \$k \\l")
    assert plain("a\n# b\r\n\tc") == r"a \# b c"


def test_code_ends_where_it_should():
    assert code("a_b") == "`a_b`"
    assert code("a`b``c") == "```a`b``c```"
    assert code("`") == "`` ` ``"
    assert code("a\n---\nb") == "`a --- b`"


def test_a_cell_of_a_table_stays_one_cell():
    rows = [["a|b", 0.123456], [r"c\|d", 2], [r"e\\|f", "g\nh"]]
    assert markdown_table(["x|y", ""], rows).splitlines() == [
        r"| x\|y |  |",
        "| --- | --- |",
        r"| a\|b | 0.1235 |",
        r"| c\|d | 2 |",
        r"| e\\\|f | g h |",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_names_in_a_training_card(tmp_path, model, name):
    args = TrainingArguments(tmp_path, report_to="none", use_cpu=True)
    card = TrainingCard("text-classification", "A text.", f"a/{name}", f"b/{name}", f"c{name}")
    log = [{"eval_loss": 0.5, f"eval_{name}": 0.25}]
    write_training_card(card, model, args, TrainerState(log_history=log, max_steps=1), f"me/{name}")
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    shown = name.encode(errors="backslashreplace").decode()
    data = ModelCard(text).data
    assert data.base_model in (f"a/{name}", f"a/{shown}") and data.datasets in ([f"b/{name}"], [f"b/{shown}"])
    title, sentence = (plain(each).replace("\udcff", r"\udcff") for each in (name, f"b/{name} (c{name})"))
    source = code(f"a/{name}").replace("\udcff", r"\udcff")
    assert f"\n# {title}\n\nA LinformerForSequenceClassification, trained from {source} on {sentence}.\n" in text
    assert f"| {title} | 0.25 |\n" in text
    # The snippet is Python, in which the name is the same
    line = next(line for line in text.splitlines() if line.startswith("model = pipeline("))
    assert eval(line.partition("=")[2].strip(), {"pipeline": lambda *args, **kwargs: kwargs["model"]}) == f"me/{name}"


@pytest.mark.parametrize("name", NAMES)
def test_names_in_a_card_of_files(tmp_path, model, name):
    folder = tmp_path / name
    folder.mkdir()
    args = TrainingArguments(tmp_path / "out", report_to="none", use_cpu=True)
    (tmp_path / "out").mkdir()
    card = TrainingCard("text-classification", "A text.", base_model=str(folder), files=(f"x/{name}", "y/b.csv"))
    write_training_card(card, model, args, TrainerState(max_steps=1), "out")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    source, data = code(name).replace("\udcff", r"\udcff"), plain(name).replace("\udcff", r"\udcff")
    assert f"\n# out\n\nA LinformerForSequenceClassification, trained from {source} on {data} and b.csv.\n" in text

    write_conversion_card(model, None, str(folder), 8, str(folder))
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert f"---\n\n# {data}\n" in text and f"\n{code(folder)}. It was converted".replace("\udcff", r"\udcff") in text
    line = next(line for line in text.splitlines() if line.startswith("model = "))
    assert eval(line.partition("=")[2].strip(), {"AutoModelForSequenceClassification": PathOfModel}) == str(folder)


BLOCKS = "what is outside its own block through projected rows, each of which stands for"


@pytest.mark.parametrize(
    ("fields", "exact", "rows"),
    [
        (
            {"block_size": 8, "projected_dim": 6},
            "at most 8 tokens",
            f"Longer inputs are approximated: a token reads {BLOCKS} 4 tokens",
        ),
        ({"block_size": 8, "projected_dim": [6, 3]}, "at most 8 tokens", f"{BLOCKS} 4 or 8 tokens"),
        ({"block_size": 48, "projected_dim": 6}, "at most 24 tokens", None),
        ({"block_size": [8, 4], "projected_dim": [24, 6]}, "at most 4 tokens", f"{BLOCKS} 1 or 4 tokens"),
        ({"block_size": 0, "projected_dim": 6}, None, "All inputs are approximated: a token reads the input through"),
        ({"block_size": [0, 8], "projected_dim": 6}, None, "All inputs are approximated"),
        ({"block_size": 0, "projected_dim": 24}, "at most 24 tokens", None),
        ({"block_size": [0, 8], "projected_dim": 24}, "at most 24 tokens", None),
        ({"projection_type": "conv", "block_size": 8, "projected_dim": 24}, "at most 24 tokens", None),
        ({"projection_type": "linear", "block_size": 0, "projected_dim": 24}, "exactly 24 tokens", None),
        ({"projection_type": "linear", "block_size": [0, 8], "projected_dim": 24}, None, "through 24 projected rows"),
        ({"projection_type": "linear", "block_size": 8, "projected_dim": 7}, "at most 8 tokens", "through 7 projected rows"),
    ],
)
def test_a_card_says_which_inputs_are_exact(fields, exact, rows):
    fields = {"projection_type": "attention_pool"} | fields
    text = what_is_exact(LinformerConfig(num_hidden_layers=2, max_position_embeddings=24, **fields), 24)
    assert (f"Inputs of {exact} get the original's outputs" in text) if exact else "get the original's" not in text
    assert (rows in text) if rows else "approximated" not in text
    assert ("Train the model further" in text) == (rows is not None or "exactly" in exact)


@pytest.mark.parametrize(
    ("n", "period", "sentence"),
    [
        (24, None, None),
        (24, 24, None),
        (48, 24, "Positions after the original's 24 repeat these"),
        (48, 12, "Positions after the first 12 of the original's 24 repeat these"),
        (24, 12, "Positions after the first 12 of the original's 24 repeat these"),
    ],
)
def test_a_card_says_which_positions_repeat(n, period, sentence):
    sizes = {"max_position_embeddings": n, "position_period": period, "projected_dim": n, "block_size": 0}
    text = what_is_exact(LinformerConfig(projection_type="mean_pool", **sizes), 24)
    assert (sentence in text) if sentence else "repeat" not in text
    assert f"Inputs of at most {period or n} tokens get the original's outputs" in text  # as each row is one token
    text = what_is_exact(LinformerConfig(projection_type="mean_pool", num_global_tokens=2, **sizes), 24)
    assert (sentence.replace("these", "those after the 2 global tokens") in text) if sentence else "repeat" not in text
    assert ("of exactly" in what_is_exact(LinformerConfig(projection_type="linear", **sizes), 24)) == (period in (None, n))


class PathOfModel:
    from_pretrained = staticmethod(lambda path, **kwargs: path)


FORMULAS = ["=cmd()", "+1+1", "-x", "@SUM(A1)", "\t=1", "\r=1", "-", "'=cmd()", "''@"]
HARMLESS = ["a=b", "-1", "+1.5", "-1e-5", " a", "'tis", "", "😀", 'a"b,c\nd']


@pytest.mark.parametrize("problem_type", [SINGLE_LABEL, MULTI_LABEL])
def test_no_label_is_a_formula_to_a_spreadsheet(tmp_path, problem_type):
    labels = Labels(problem_type, FORMULAS + HARMLESS)
    logits = 10.0 * np.eye(len(labels.names)) - 5
    write_predictions(tmp_path / "predictions.csv", logits, labels)
    with open(tmp_path / "predictions.csv", encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["index", "prediction", *(f"p({name})" for name in labels.names)]
    assert [row[:2] for row in rows] == [
        [str(index), f"'{name}" if name in FORMULAS else name] for index, name in enumerate(labels.names)
    ]
