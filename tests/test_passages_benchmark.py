"""Tests benchmarks.passages: what each reading sees, BM25, the standard errors, and a run of it on tiny documents."""

import json
import math
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from datasets import Dataset
from processes import ROOT
from safetensors.torch import save_model
from tiny_sources import write_encoder

from benchmarks import passages
from benchmarks.runs import read_results
from transformers_linformer.documents import read_document


PLACES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu")
PARTS = {"Houses": "They are built of stone and wood.", "Food": "People eat bread.", "Roads": "All lead to the sea."}
DOCUMENTS = [
    {"title": f"The city of {place}", "sections": [{"heading": part, "text": text} for part, text in PARTS.items()]}
    for place in PLACES
]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Returns a folder with a tiny encoder, its tokenizer, and a dataset in the folder `data`."""
    folder = tmp_path_factory.mktemp("source")
    texts = [read_document(document)["text"] for document in DOCUMENTS]
    write_encoder(folder, texts)
    for split, documents in (("train", DOCUMENTS[:8]), ("test", DOCUMENTS[8:])):
        Dataset.from_list(documents).to_parquet(folder / "data" / f"{split}.parquet")
    return folder


@pytest.fixture
def arguments(source, tmp_path, monkeypatch):
    """Returns the arguments of a run with pieces of 20 tokens, and the first 4 before them."""
    monkeypatch.setattr(passages, "PIECE", 22)
    monkeypatch.setattr(passages, "PREFIX", 4)
    options = ["--model_name_or_path", source, "--dataset_name", source / "data", "--output_dir", tmp_path / "out"]
    options += ["--seeds", 1, 2, "--documents", 8, "--tokens", 46, "--batch_size", 4]

    def given(*readings, **others):
        more = [part for name, value in others.items() for part in (f"--{name}", value)]
        monkeypatch.setattr(sys, "argv", ["passages", *map(str, [*options, *more]), "--readings", *readings])
        return passages.parse_arguments()

    return given


READINGS = ["pieces", "pieces+64", "pieces16+64", "pieces+title", "passages", "passages+64/mean", "passages+title"]


@pytest.mark.parametrize("reading", READINGS)
def test_a_reading_has_each_token_of_a_passage_once(arguments, reading):
    search = passages.Search(arguments("pieces"))
    document = search.examples[0]
    title = len(search.tokenizer(DOCUMENTS[8]["title"], add_special_tokens=False)["input_ids"])
    ids, owners = document["input_ids"], document["passage_ids"]
    rows = passages.rows_of(reading, search.tokenizer)(document)
    found = [pair for row in rows for pair in zip(*row) if pair[1] >= 0]
    expected = [pair for pair in zip(ids, owners) if pair[1] >= 0]
    assert sorted(found) == sorted(expected)
    size = 16 if "16" in reading else 22
    repeated = {"64": ids[1:5], "title": ids[1 : 1 + title]}.get(reading.removesuffix("/mean").partition("+")[2], [])
    for number, (row, of_passage) in enumerate(rows):
        assert len(row) == len(of_passage) <= size and row[0] == ids[0] and row[-1] == ids[-1]
        if number > 0 or reading.startswith("passages"):
            assert row[1 : 1 + len(repeated)] == repeated
            if repeated:
                assert of_passage[1 : 1 + len(repeated)] == [-1] * len(repeated)


def test_bm25_is_as_defined(arguments):
    search = passages.Search(arguments("bm25"))
    scores = search.bm25(with_title=False)
    texts = []
    for document in search.examples:
        for number in range(1 + max(document["passage_ids"])):
            ids = [token for token, owner in zip(document["input_ids"], document["passage_ids"]) if owner == number]
            texts.append(search.tokenizer.decode(ids).lower().replace(".", " ").split())
    mean = sum(map(len, texts)) / len(texts)
    queries = [query for document in search.examples for query in document["query_input_ids"]]
    for row, query in enumerate(queries):
        words = search.tokenizer.decode(query, skip_special_tokens=True).lower().replace(":", " ").split()
        for column, text in enumerate(texts):
            wanted = 0
            for word in words:
                number, count = sum(word in other for other in texts), Counter(text)[word]
                weight = math.log(1 + (len(texts) - number + 0.5) / (number + 0.5))
                wanted += weight * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * len(text) / mean))
            assert scores[row, column] == pytest.approx(wanted)


def test_the_right_document_and_the_right_passage_in_it(arguments, monkeypatch):
    search = passages.Search(arguments("bm25"))
    numbers = [(len(document["positives"]), 1 + max(document["passage_ids"])) for document in search.examples]
    queries, owners = ([index for index, pair in enumerate(numbers) for _ in range(pair[i])] for i in range(2))
    scores = np.random.default_rng(0).random((len(queries), len(owners)))
    wanted = [0] * len(numbers)
    for document, row in zip(queries, scores):
        wanted[document] += owners[max(range(len(row)), key=lambda passage: row[passage])] == document
    assert search.own_first(scores) == wanted and 0 < sum(wanted) < len(queries)

    wanted, rows = [], iter(scores)
    for number, example in enumerate(search.examples):
        wanted.append(0)
        for positives in example["positives"]:
            row = next(rows)
            own = [row[passage] for passage, owner in enumerate(owners) if owner == number]
            ranks = [1 + sum(other > own[passage] for other in own) for passage in positives]
            best = sum(1 / math.log2(1 + rank) for rank in range(1, 1 + len(ranks)))
            wanted[-1] += sum(1 / math.log2(1 + rank) for rank in ranks) / best
    monkeypatch.setattr(search, "trained_scores", lambda *args: (scores, {}))
    found = search.run("pieces", 1)
    assert found["ndcg_in_document"] == pytest.approx(wanted, abs=1e-4)
    assert found["ndcg_in_document"] != found["ndcg"]


def test_with_prefix_judges_as_if_trained_with_it(arguments):
    search = passages.Search(arguments("pieces", documents=0))
    for reading in ("pieces+64", "mean_pool/b16/w8/g8", "pieces"):
        search.args.with_prefix = False
        names = (reading, f"{reading}/mean") if reading != "pieces" else (reading, reading)
        without, wanted = (search.trained_scores(name, 1)[0] for name in names)
        search.args.with_prefix = True
        found, _ = search.trained_scores(reading, 1)
        np.testing.assert_array_equal(found, wanted)
        assert (np.abs(found - without).max() > 0.01) == (reading != "pieces")


def test_an_encoder_is_judged_as_another_reading(arguments, tmp_path, monkeypatch):
    reading, asked, path = "mean_pool/b16/w8/g8", [], tmp_path / "trained.safetensors"
    search = passages.Search(arguments(reading, trained_as="pieces+64"))
    trained = search.original()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    save_model(trained, str(path), metadata={"seconds_to_train": "1"})
    monkeypatch.setattr(search, "train", lambda reading, seed: asked.append(reading) or path)
    found, _ = search.trained_scores(reading, 1)
    search.args.documents = 0
    untrained, _ = search.trained_scores(reading, 1)
    monkeypatch.setattr(search, "original", lambda: trained)
    wanted, _ = search.trained_scores(reading, 1)
    np.testing.assert_array_equal(found, wanted)
    assert asked == ["pieces+64"] and np.abs(found - untrained).max() > 0.01

    with pytest.raises(SystemExit, match="`--trained_as mean_pool/b16/w8/g8` is a Linformer"):
        arguments("pieces", trained_as=reading)


def test_the_error_of_a_difference_is_over_documents_and_seeds():
    generator = np.random.default_rng(0)
    documents = [0, 0, 0, 1, 1, 2]  # of six queries
    values = {name: {seed: generator.random(6) for seed in seeds} for name, seeds in (("ours", (1, 2)), ("theirs", (2, 1, 3)))}
    results = {
        name: [
            {"seed": seed, "ndcg": np.bincount(documents, of_queries), "queries": [3, 2, 1]}
            for seed, of_queries in by_seed.items()
        ]
        for name, by_seed in values.items()
    }
    differences = [values["ours"][seed] - values["theirs"][seed] for seed in (1, 2)]
    mean = (differences[0] + differences[1]) / 2
    clusters = [sum(mean[q] - mean.mean() for q in range(6) if documents[q] == document) for document in range(3)]
    of_seeds = (differences[0].mean() - differences[1].mean()) ** 2 / 2 / 2
    found, error = passages.difference(results["ours"], results["theirs"])
    assert found == pytest.approx(mean.mean())
    assert error == pytest.approx((sum(each**2 for each in clusters) / 36 + of_seeds) ** 0.5)


@pytest.mark.slow("a whole benchmark")
def test_a_run(arguments, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="the plot needs matplotlib")
    readings = ["bm25+title", "pieces", "pieces+64/mean", "pieces+document", "passages+title", "full"]
    readings += ["attention_pool/b16/w8/g8", "hard_attention_pool/b8/w8/g8/p8/f9/mean"]
    args = arguments(*readings)
    passages.main()
    results = [json.loads(line) for line in (args.output_dir / "results.jsonl").read_text().splitlines()]
    assert [(each["reading"], each["seed"]) for each in results] == [(name, seed) for seed in (1, 2) for name in readings]
    assert all(each["queries"] == [3] * 4 and 0 <= min(each["ndcg"]) <= max(each["ndcg"]) <= 3 for each in results)
    by_name = {each["reading"]: each["ndcg"] for each in results}
    # The title says which document, and there the passages are in the order of the words that they share with the title
    assert by_name["bm25+title"] == [2.1309] * 4  # 1 + 0.6309 + 0.5
    assert results[0]["own_first"] == [3] * 4
    table = (args.output_dir / "passages.md").read_text()
    assert all(f"| {name} | 2 | " in table for name in readings)
    assert not list(args.output_dir.glob("unfinished-*")) and (args.output_dir / "passages.png").is_file()

    # What was trained is judged elsewhere
    monkeypatch.setattr(passages.ReadingTrainer, "train", lambda *args, **kwargs: pytest.fail("was trained again"))
    dataset = tmp_path / "others"
    Dataset.from_list([document | {"title": "An island"} for document in DOCUMENTS[4:8]]).to_parquet(dataset / "test.parquet")
    for others in ({"test_tokens": 30}, {"test_dataset_name": dataset}):
        arguments(*readings, **others)
        passages.main()
        mine = read_results(args.output_dir / "results.jsonl")[-len(results) :]
        assert [each["ndcg"] for each in mine] != [each["ndcg"] for each in results]
        assert all("seconds_to_train" in each for each in mine if each["reading"] != "bm25+title")
        assert (args.output_dir / "passages.md").read_text().count("\n") == 2 + len(readings)
    arguments(*readings)
    monkeypatch.setattr(passages.Search, "run", lambda *args, **kwargs: pytest.fail("a finished run was run again"))
    passages.main()
    assert (args.output_dir / "passages.md").read_text() == table


def test_the_collections_have_the_queries_that_their_sources_say():
    turns = [f"PhD {letter}: {' '.join(f'{letter}{number}' for number in range(130))} ." for letter in "ABCD"]
    corpus = [{"doc_id": "one", "text": "\n".join(turns)}, {"doc_id": "two", "text": "Hello"}]
    queries = [
        {"doc_id": "one", "kind": "specific", "text": "first?", "turns": [[0, 0], [2, 3]]},
        {"doc_id": "one", "kind": "general", "text": "all?", "turns": [[0, 3]]},
        {"doc_id": "two", "kind": "specific", "text": "last?", "turns": [[0, 0]]},
    ]
    one, two = (read_document(document) for document in passages.meetings(corpus, queries))
    assert [one["text"][start:end] for start, end in one["passages"]] == turns
    assert one["queries"] == [("first?", [0, 2, 3])] and two["queries"] == [("last?", [0])]

    lines = ["", " = Title of it = \n", " Begins . \n", "", " = = Part = = \n", " = = = Of = = = \n", " Ends . \n", " So . \n"]
    (article,) = map(read_document, passages.articles(lines))
    assert article["text"] == "Title of it\n\nBegins .\n\nPart\n\nOf\n\nEnds .\n\nSo ."
    assert article["queries"] == [("Title of it: Of", [1])]
    assert len(article["passages"]) == 2


def test_the_documentation_has_the_table_of_the_results():
    results = read_results(ROOT / "benchmarks" / "results" / "passages.jsonl")
    page = (ROOT / "docs" / "measurements.md").read_text(encoding="utf-8")
    section = page[page.index("## Finding passages") : page.index("## Similarity")]

    def cells(line):
        return [cell.strip() for cell in line.strip()[1:-1].split("|")]

    found = [cells(line)[1:] for line in section.splitlines() if line.startswith("| ")]
    groups = {}  # of results that `make_table` puts into one table
    for each in results:
        names = (*passages.TRAINING, "test_tokens", "with_prefix", "trained_as", "test_dataset")
        groups.setdefault(tuple(each[name] for name in names if name != "epochs"), []).append(each)
    assert len(groups) > 3
    for group in groups.values():
        for line in passages.make_table(group).splitlines()[2:]:
            assert cells(line)[1:] in found, line
