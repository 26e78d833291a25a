"""Tests of what benchmarks.long_documents computes itself: readings of documents, training that goes on, the table."""

import pytest
import torch
from processes import ROOT
from torch import nn
from transformers import BertConfig, BertModel

from benchmarks import reading
from benchmarks.long_documents import make_table, summarise
from benchmarks.long_tasks import TASKS, MovieReviews
from benchmarks.reading import PIECE, Reader, batches_of, cut_into_parts, mean_of_documents, train
from benchmarks.runs import keep_inputs, read_results


PAD = 0


def new_reader():
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    # Weights are large, so that attention is far from even, and what a token attends to can be seen
    config = BertConfig(**sizes, pad_token_id=PAD, initializer_range=0.5)
    return Reader(BertModel(config, add_pooling_layer=False).eval(), PAD)


def documents_of(*sizes):
    """Returns documents with so many tokens each, in pieces."""
    generator = torch.Generator().manual_seed(0)
    documents = [torch.randint(1, 50, (size,), generator=generator) for size in sizes]
    return [nn.functional.pad(document, (0, -len(document) % PIECE)).view(-1, PIECE) for document in documents]


def test_a_document_of_one_piece_is_the_same_complete():
    reader = new_reader()
    documents = documents_of(3, 512, 100)
    with torch.no_grad():
        pieces, complete = reader(documents), reader.as_linformer(2, 8).eval()(documents)
    for one, other in zip(pieces, complete, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_each_piece_of_a_complete_document_has_the_mean_of_its_tokens():
    reader = new_reader().as_linformer(3, 12).eval()
    documents = documents_of(700, 1030, 20)
    with torch.no_grad():
        vectors, owner, share = reader(documents)
        for number, document in enumerate(documents):
            hidden = reader.encoder(input_ids=document[document != PAD].unsqueeze(0)).last_hidden_state
            means = torch.stack([piece.mean(0) for piece in hidden[0].split(PIECE)])
            torch.testing.assert_close(vectors[owner == number], means, atol=1e-5, rtol=1e-5)
            own = mean_of_documents(vectors, owner, share, len(documents))[number]
            torch.testing.assert_close(own, hidden[0].mean(0), atol=1e-5, rtol=1e-5)
    assert owner.tolist() == [0, 0, 1, 1, 1, 2]


def test_a_part_has_documents_of_like_length_and_few_pieces():
    documents = documents_of(2000, 10, 600, 700, 30, 1500, 20)
    assert cut_into_parts([6, 3, 0, 1, 5, 2], documents, PAD, pieces=4) == [[1, 6, 2], [3], [5], [0]]
    assert cut_into_parts([0, 1], documents, PAD, pieces=1) == [[1], [0]]


def trained(checkpoint, pieces=3, dropout=0.1, dies_at=None):
    """
    Returns the weights after a Linformer was trained for 6 steps in parts of so many pieces, and the random numbers that the
    calls for losses drew. It dies in the call for losses with the number `dies_at`. A document with an odd number has two
    losses, which are alike.
    """
    reader, head = new_reader().as_linformer(2, 8), nn.Linear(16, 2)
    for module in reader.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    documents = documents_of(600, 10, 600, 700, 30, 20)
    generator = torch.Generator().manual_seed(1)
    batches = [batch for _ in range(3) for batch in batches_of(documents, 4, generator)]
    batches = [cut_into_parts(batch, documents, PAD, pieces) for batch in batches]
    drawn = []

    def losses(part):
        if len(drawn) == dies_at:
            raise KeyboardInterrupt
        drawn.append(float(torch.rand((), generator=generator)))
        vectors, owner, share = reader([documents[i] for i in part])
        logits = head(mean_of_documents(vectors, owner, share, len(part)))
        labels = torch.tensor(part) % 2
        return nn.functional.cross_entropy(logits, labels, reduction="none").repeat_interleave(1 + labels)

    train(reader, head, losses, batches, 1e-2, checkpoint, generator)
    return dict(nn.ModuleList([reader, head]).state_dict()), drawn


@pytest.mark.slow("a whole benchmark, which is killed")
def test_a_run_that_was_killed_ends_with_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "SECONDS_BETWEEN_CHECKPOINTS", 0)
    expected, drawn = trained(tmp_path / "complete.pt")
    for dies_at in (0, 3, len(drawn) - 1):
        checkpoint = tmp_path / f"killed-{dies_at}.pt"
        with pytest.raises(KeyboardInterrupt):
            trained(checkpoint, dies_at=dies_at)
        weights, rest = trained(checkpoint)
        assert rest == drawn[-len(rest) :]
        assert len(rest) < len(drawn) or dies_at == 0
        torch.testing.assert_close(weights, expected, atol=0, rtol=0)


def test_parts_train_as_the_batch_does(tmp_path):
    parts, calls_of_parts = trained(tmp_path / "parts.pt", pieces=1, dropout=0)
    batches, calls_of_batches = trained(tmp_path / "batches.pt", pieces=100, dropout=0)
    assert len(calls_of_parts) > len(calls_of_batches)
    for name in parts:
        # A softmax does not change with the bias of all keys: its gradient is rounding, which Adam makes steps of
        if not name.endswith("key.bias"):
            torch.testing.assert_close(parts[name], batches[name], atol=1e-3, rtol=1e-3)


def test_results_of_another_encoder_are_not_taken_for_those_of_this(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("encoder", "other", "results"):
        (tmp_path / name).mkdir()
    folder = tmp_path / "results"
    keep_inputs(folder, model_name_or_path="mistyped", max_samples=4)
    keep_inputs(folder, model_name_or_path="encoder", max_samples=4)
    (folder / "results.jsonl").touch()
    keep_inputs(folder, model_name_or_path=tmp_path / "encoder", max_samples=4)
    with pytest.raises(SystemExit, match="--model_name_or_path .*encoder`, and not of .*other: give another `--output_dir`"):
        keep_inputs(folder, model_name_or_path="other", max_samples=4)
    with pytest.raises(SystemExit, match="--max_samples 4`, and not of 5"):
        keep_inputs(folder, model_name_or_path="encoder", max_samples=5)


def test_differences_are_paired_by_split():
    def result(model, split, **scores):
        return {"task": "movie_reviews", "model": model, "split": split, "scores": scores}

    results = [result("pieces", split, pieces=score) for split, score in enumerate([0.6, 0.7, 0.9])]
    results += [result("first", split, **{"the first piece": 0.5}) for split in range(3)]
    results += [result("whole", split, complete=score) for split, score in enumerate([0.7, 0.8])]
    rows = {row["reading"]: row for row in summarise(MovieReviews, results)}
    assert rows["complete"]["splits"] == 2
    assert rows["complete"]["difference"] == pytest.approx((0.1, 0), abs=1e-9)
    assert rows["complete"]["score"] == pytest.approx((0.75, 0.05))
    assert "difference" not in rows["pieces"]


@pytest.mark.parametrize("name", TASKS)
def test_the_documentation_has_the_table_of_the_results(name):
    results = read_results(ROOT / "benchmarks" / "results" / "long_documents.jsonl")
    rows = summarise(TASKS[name], [result for result in results if result["task"] == name])
    assert make_table(TASKS[name], rows) in (ROOT / "docs" / "measurements-history.md").read_text(encoding="utf-8")
