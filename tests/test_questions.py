"""Tests benchmarks.questions: where the answers are, what pieces and complete documents are scored for, and a tiny run."""

import json
import random
import sys

import pytest
import torch
from datasets import Dataset
from processes import ROOT
from tiny_sources import write_encoder
from transformers import AutoTokenizer, BertForQuestionAnswering

from benchmarks import questions
from benchmarks.runs import read_results


SECTIONS = [{"heading": f"Part {number}", "text": f"This is what part {number} says. " * 8} for number in "123456"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Returns a folder with a tiny encoder, its tokenizer, and a dataset in the folder `data`."""
    folder = tmp_path_factory.mktemp("source")
    texts = [f"{section['heading']} {section['text']}" for section in SECTIONS]
    write_encoder(folder, texts)
    for split in ("train", "test"):
        Dataset.from_list([{"sections": SECTIONS}] * 4).to_parquet(folder / "data" / f"{split}.parquet")
    return folder


def test_the_answer_is_where_the_heading_stands(source):
    tokenizer, generator, answers = AutoTokenizer.from_pretrained(source), random.Random(0), set()
    for _ in range(20):
        question, document, answer = questions.make_pair(SECTIONS, tokenizer, 400, generator)
        assert len(question) + len(document) + 3 <= 400
        assert tokenizer.decode(document[answer : answer + len(question)]).strip() == tokenizer.decode(question).strip()
        answers.add(answer)
    assert len(answers) > 3
    assert questions.make_pair(SECTIONS[:1], tokenizer, 400, generator) is None
    # A heading that stands twice has no single answer
    asked = {tuple(questions.make_pair([*SECTIONS[:2], *SECTIONS[1:3]], tokenizer, 400, generator)[0]) for _ in range(20)}
    assert len(asked) == 2


def test_each_token_of_a_document_has_a_score(source):
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = BertForQuestionAnswering.from_pretrained(source).eval()
    pairs = [([7, 8], list(range(10, 51)), 3), ([9], list(range(20, 30)), 2)]
    with torch.no_grad():
        first, second = questions.start_scores(model, tokenizer, pairs, 25)
        assert first.shape == (41,) and second.shape == (10,)
        for start, end in ((0, 20), (20, 40), (40, 41)):  # pieces of 20 tokens after two and three special ones
            piece = pairs[0][1][start:end]
            ids = torch.tensor([[tokenizer.cls_token_id, 7, 8, tokenizer.sep_token_id, *piece, tokenizer.sep_token_id]])
            types = torch.tensor([[0] * 4 + [1] * (len(piece) + 1)])
            alone = model(ids, token_type_ids=types).start_logits[0, 4:-1]
            torch.testing.assert_close(first[start:end], alone, atol=1e-5, rtol=0)


def test_the_table_has_the_accuracy_by_the_place_of_the_answer():
    seeds = ([True, True, False, False], [True, False, False, True])
    results = [
        {"reading": "pieces", "seed": 1, "places": [5, 127, 128, 500], "found": found, "seconds": 2.0} for found in seeds
    ]
    first, second = questions.make_table(results, 1000), questions.make_table(results[:1], 1000)
    assert "| pieces | 2 | 0.750 ± 0.250 | 0.000 ± 0.000 | 0.500 ± 0.500 |  | 2 |" in first.splitlines()[-1]
    assert "| pieces | 1 | 1.000 | 0.000 | 0.000 |  | 2 |" in second.splitlines()[-1]
    for result, seed in zip(results, (2, 1)):
        result["seed"] = seed
    others = [{**results[0], "reading": "full", "seed": seed, "found": [True] * 4} for seed in (1, 2, 3)]
    # Of each pair, the mean over both seeds: 0, 0.5, 1, 0.5
    assert "| 0.500 ± 0.204 | 2 |" in questions.make_table(results + others, 1000).splitlines()[-1]


def test_the_documentation_has_the_table_of_the_results():
    page = (ROOT / "docs" / "measurements.md").read_text(encoding="utf-8")
    results = read_results(ROOT / "benchmarks" / "results" / "questions.jsonl")
    for line in questions.make_table(results, 1000).splitlines()[2:]:
        numbers = [cell.strip() for cell in line.split("|")[2:]]
        assert any([cell.strip() for cell in each.split("|")[2:]] == numbers for each in page.splitlines()), line


@pytest.mark.slow("a whole benchmark")
def test_a_run(source, tmp_path, monkeypatch):
    options = ["--model_name_or_path", source, "--dataset_name", source / "data", "--output_dir", tmp_path, "--tokens", 128]
    options += ["--readings", "pieces", "mean_pool/b32/w8/g8", "--seeds", 1, 2, "--steps", 2, "--batch_size", 2]
    monkeypatch.setattr(questions, "PIECE", 64)
    monkeypatch.setattr(sys, "argv", ["questions", *map(str, options), "--test_pairs", "3"])
    questions.main()
    results = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(each["reading"], each["seed"]) for each in results] == [
        (reading, seed) for seed in (1, 2) for reading in ("pieces", "mean_pool/b32/w8/g8")
    ]
    assert "| mean_pool/b32/w8/g8 | 2 |" in (tmp_path / "questions.md").read_text()
