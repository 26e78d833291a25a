"""Tests passages: how documents are cut, the vectors and their folder, and linformer-passages as a user runs it."""

import json
import math
import os
import re

import numpy as np
import pytest
import torch
from datasets import Dataset, load_dataset
from processes import kill_script, run_in_forks, run_script
from safetensors.torch import load_file
from tiny_runs import COMMON, files_of
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, TrainingArguments

from transformers_linformer import passages as library
from transformers_linformer.commands import passages as command
from transformers_linformer.conversion.convert import convert_to_linformer
from transformers_linformer.conversion.sentence_modules import with_mean_pooling, write_sentence_modules
from transformers_linformer.documents import read_document, tokenize_document
from transformers_linformer.errors import UsageError
from transformers_linformer.passages import encode_passages, passage_vectors, write_passages
from transformers_linformer.tokenization import train_tokenizer
from transformers_linformer.training.passages import PassageCollator, PassageTrainer, contrastive_loss, make_examples


N = 64  # the longest input
PLACES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu")
PARTS = {"Houses": "They are built of stone and wood.", "Food": "People eat bread.", "Roads": "All lead to the sea."}


def place(name):
    """Returns a document whose passages do not say which place they are about."""
    sections = [{"heading": "", "text": f"This is about {name}."}]
    return {"title": name, "sections": sections + [{"heading": part, "text": text} for part, text in PARTS.items()]}


DOCUMENTS = [place(name) for name in PLACES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a folder with documents, and with an encoder with modules (`encoder`) and without them (`plain`)."""
    folder = tmp_path_factory.mktemp("passages")
    (folder / "documents.jsonl").write_text("\n".join(map(json.dumps, DOCUMENTS)), encoding="utf-8")
    texts = [read_document(document)["text"] for document in DOCUMENTS]
    tokenizer = train_tokenizer(Dataset.from_dict({"text": texts}), 400, N)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=N,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.5,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = convert_to_linformer(BertModel(config, add_pooling_layer=False), projected_dim=16, block_size=16)
    for name in ("encoder", "plain"):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    write_sentence_modules(with_mean_pooling({}, 16), folder / "encoder", N)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder / "plain")


@pytest.fixture(scope="module")
def model(folder):
    return AutoModel.from_pretrained(folder / "plain").eval()


def load_encoder(path):
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    return sentence_transformers.SentenceTransformer(str(path), trust_remote_code=True, device="cpu")


@pytest.fixture(scope="module")
def encoder(folder):
    return load_encoder(folder / "encoder")


# Documents


def words(number, word="word"):
    """Returns a paragraph of so many words, in sentences of ten."""
    return " ".join(f"{word}{index}." if index % 10 == 9 else f"{word}{index}" for index in range(number))


def texts_of(document):
    return [document["text"][start:end] for start, end in document["passages"]]


def test_sections_become_passages_and_their_headings_queries():
    sections = [
        {"heading": "", "text": words(5)},
        {"heading": "Long", "text": "\n\n".join([words(70, "a"), words(60, "b"), words(100, "c"), words(20, "d")])},
        {"heading": "Empty", "text": " "},
        {"heading": "Last", "text": words(3, "e"), "level": 2},
        {"heading": "Long", "text": f"\n{words(300, 'f')}\n"},
    ]
    document = read_document({"title": "The title", "sections": sections, "doc_id": 7})
    assert document["text"].startswith(f"The title\n\n{words(5)}\n\nLong\n\na0 ")
    found = texts_of(document)
    assert found[:3] == [words(5), f"{words(70, 'a')}\n\n{words(60, 'b')}", f"{words(100, 'c')}\n\n{words(20, 'd')}"]
    assert found[3] == words(3, "e")
    assert " ".join(found[4:]) == words(300, "f") and [len(text.split()) for text in found[4:]] == [120, 120, 60]
    assert document["queries"] == [("The title: Long", [1, 2, 4, 5, 6]), ("The title: Last", [3])]


def test_a_small_rest_joins_the_passage_before():
    document = read_document({"sections": [{"heading": "A", "text": "\n\n".join([words(110, "a"), words(39, "b")])}]})
    assert len(document["passages"]) == 1 and document["queries"] == [("A", [0])]
    document = read_document({"sections": [{"heading": "A", "text": "\n\n".join([words(110, "a"), words(40, "b")])}]})
    assert len(document["passages"]) == 2


@pytest.mark.parametrize(
    "document",
    [
        {"text": " One two. Three.", "passages": [{"start": 1, "end": 9, "queries": ["q", "p"]}, {"start": 10, "end": 16}]},
        {"passages": [{"text": "One two.", "queries": ["q", "p", "q"]}, {"text": " Three."}]},
        {
            "title": "T",
            "text": None,
            "sections": None,
            "passages": [{"text": "One two.", "queries": ("q", "p")}, {"text": "Three."}],
        },
    ],
)
def test_passages_that_are_given(document):
    found = read_document(document)
    assert texts_of(found) == ["One two.", "Three."]
    assert found["queries"] == [("q", [0]), ("p", [0])]


def test_a_text_is_cut_between_paragraphs_and_before_headings(tokenizer):
    paragraphs = [words(60, "a"), "# One", words(50, "b"), words(150, "c"), "## Two", words(9, "d"), words(900, "e")]
    paragraphs[-1] = paragraphs[-1].replace(".", "")  # without sentences
    text = "\n \n".join(paragraphs)
    found = texts_of(read_document(text))
    assert found[0] == paragraphs[0] and found[1].startswith("# One") and found[2].startswith("c0")
    assert all(len(each.split()) <= 2.4 * 120 for each in found) and found[3].startswith("## Two")
    assert "".join("".join(found).split()) == "".join(text.split())
    # In tokens, of which a word has several
    sizes = [
        len(tokenizer(each, add_special_tokens=False)["input_ids"]) for each in texts_of(read_document(text, 100, tokenizer))
    ]
    assert 80 < np.mean(sizes) < 130 and max(sizes) < 240


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (3, "the document is 3: give a dictionary"),
        ({"text": 3}, "`text` of the document is 3: give a string"),
        ({"sections": "a"}, "`sections` is 'a': give a list of dictionaries"),
        ({"sections": ["a"]}, r"sections\[0\] is 'a': give a dictionary"),
        ({"sections": [{"text": "a"}], "text": "a"}, "`sections` beside `text` or `passages`: leave one of them out"),
        ({"passages": [{"text": "a", "queries": "q"}]}, r"`queries` of passages\[0\] is 'q': give a list of strings"),
        ({"text": "abc", "passages": [{"start": 2, "end": 4}]}, r"passages\[0\] is .* with 0 <= start < end <= 3"),
        ({"text": "abc", "passages": ["a"]}, r"passages\[0\] is 'a': give `start` and `end`"),
        (
            {"text": "abc", "passages": [{"start": 0, "end": 2}, {"start": 1, "end": 3}]},
            r"passages\[1\], from 1 to 3, overlaps",
        ),
    ],
)
def test_what_is_no_document_is_named(document, message, tokenizer):
    with pytest.raises(ValueError, match=message) as raised:
        tokenize_document(read_document(document), tokenizer, N)
    assert "\n" not in str(raised.value)


# Tokens


@pytest.mark.parametrize("prompt", ["", "Read this: "])
@pytest.mark.parametrize("length", [N, 20])
def test_tokens_belong_to_the_passage_that_they_stand_in(length, prompt, tokenizer):
    document = read_document(DOCUMENTS[0])
    found = tokenize_document(document, tokenizer, length, prompt)
    encoded = tokenizer(prompt + document["text"], return_offsets_mapping=True, truncation=True, max_length=length)
    assert found["input_ids"] == encoded["input_ids"]
    expected = []
    for start, end in encoded["offset_mapping"]:
        start, end = start - len(prompt), end - len(prompt)
        owners = [i for i, (first, stop) in enumerate(document["passages"]) if start < end and first < end <= stop]
        expected.append(owners[0] if owners else -1)
    assert found["passage_ids"] == expected and expected[0] == expected[-1] == -1
    number = len({*expected} - {-1})
    assert number == (4 if length == N else 2 - bool(prompt)), "the length cuts passages away"
    assert found["passages"] == document["passages"][:number]
    assert [query for query, _ in found["queries"]] == [f"alpha: {part}" for part in [*PARTS][: number - 1]]


def test_passages_without_tokens_are_dropped_with_their_queries(tokenizer):
    text = "One.    Two."
    passages = [{"start": 0, "end": 4, "queries": ["a"]}, {"start": 5, "end": 7, "queries": ["a", "b"]}]
    passages.append({"start": 8, "end": 12, "queries": ["c"]})
    found = tokenize_document(read_document({"text": text, "passages": passages}), tokenizer, N)
    assert found["passages"] == [(0, 4), (8, 12)] and found["queries"] == [("a", [0]), ("c", [1])]
    assert {*found["passage_ids"]} == {-1, 0, 1}


# Vectors and loss


def test_vectors_are_means_over_all_rows():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(3, 5, 4, generator=generator)
    ids = torch.tensor([[-1, 0, 0, 1, -1], [3, 3, 3, 3, 3], [0, -1, -1, -1, -1]])
    found = passage_vectors(states, ids, 4)
    for index in range(4):
        own = [states[row, column] for row in range(3) for column in range(5) if ids[row, column] == index]
        torch.testing.assert_close(found[index], torch.stack(own).mean(0) if own else torch.zeros(4))
    assert passage_vectors(states.bfloat16(), ids, 4).dtype == torch.float32


def test_the_loss_is_as_defined():
    generator = torch.Generator().manual_seed(0)
    queries, passages = (torch.nn.functional.normalize(torch.randn(n, 8, generator=generator)) for n in (3, 6))
    positives = [[0, 2], [5], [1, 3, 4]]
    is_positive = torch.tensor([[column in row for column in range(6)] for row in positives])
    expected = 0.0
    for query, own in enumerate(positives):
        scores = [float(queries[query] @ passage) / 0.05 for passage in passages]
        others = sum(math.exp(score) for index, score in enumerate(scores) if index not in own)
        losses = [-math.log(math.exp(scores[index]) / (math.exp(scores[index]) + others)) for index in own]
        expected += sum(losses) / len(losses) / 3
    assert float(contrastive_loss(queries, passages, is_positive, 0.05)) == pytest.approx(expected, rel=1e-4)


def test_a_query_that_all_passages_answer_teaches_nothing():
    queries = torch.randn(1, 8, requires_grad=True)
    loss = contrastive_loss(queries, torch.randn(3, 8), torch.ones(1, 3, dtype=torch.bool), 0.05)
    loss.backward()
    assert loss == 0 and (queries.grad == 0).all()


# Batches


@pytest.fixture(scope="module")
def examples(tokenizer):
    return make_examples("train", Dataset.from_list(DOCUMENTS), tokenizer, N)


def test_a_batch_numbers_the_passages_of_all_documents(examples, tokenizer):
    def in_halves(document):
        ids, owners = document["input_ids"], document["passage_ids"]
        return [(ids[start : start + 20], owners[start : start + 20]) for start in range(0, len(ids), 20)]

    rows, pieces = (PassageCollator(tokenizer, *rows_of)([examples[0], examples[5]]) for rows_of in ([], [in_halves]))
    for batch in (rows, pieces):
        assert batch["sizes"].tolist() == [[4, 3], [4, 3]]
        assert batch["passage_ids"].shape == batch["input_ids"].shape
        assert batch["is_positive"].nonzero().tolist() == [[0, 1], [1, 2], [2, 3], [3, 5], [4, 6], [5, 7]]
        assert batch["passage_ids"][batch["attention_mask"] == 0].unique().tolist() == [-1]
    assert len(rows["input_ids"]) == 2 and len(pieces["input_ids"]) > 4
    for index in range(8):
        own = [batch["input_ids"][batch["passage_ids"] == index].tolist() for batch in (rows, pieces)]
        assert own[0] == own[1] and own[0]
    decoded = tokenizer.decode(rows["input_ids"][rows["passage_ids"] == 6])
    assert decoded.strip() == PARTS["Food"] and "zeta: Food" in tokenizer.decode(rows["query_input_ids"][4])


def test_padding_and_batch_change_nothing(examples, tokenizer, model):
    short = {"text": "A road.", "passages": [{"start": 2, "end": 6, "queries": ["which"]}]}
    short = make_examples("train", Dataset.from_list([short]), tokenizer, N)[0]

    def vectors(*documents, **padding):
        batch = PassageCollator(tokenizer, **padding)(documents)
        with torch.no_grad():
            states = model(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        return passage_vectors(states, batch["passage_ids"], batch["is_positive"].shape[1])

    alone = vectors(short)
    assert PassageCollator(tokenizer, padding="max_length", max_length=N)([short])["input_ids"].shape == (1, N)
    torch.testing.assert_close(vectors(examples[0], short)[4:], alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(vectors(short, padding="max_length", max_length=N), alone, atol=1e-5, rtol=0)


# The memory


def make_trainer(folder, tokenizer, examples, output_dir, **options):
    args = {"per_device_train_batch_size": 4, "max_steps": 6, "save_steps": 2, "learning_rate": 1e-2, "report_to": "none"}
    return PassageTrainer(
        model=AutoModel.from_pretrained(folder / "plain"),
        args=TrainingArguments(output_dir=output_dir, use_cpu=True, **args),
        train_dataset=examples,
        data_collator=PassageCollator(tokenizer),
        card=None,
        **options,
    )


def test_passages_of_earlier_batches_compete(folder, tokenizer, examples, tmp_path):
    """Each loss, by loops, is over the batch's passages and the last `memory_size` ones, without those of its documents."""
    trainer = make_trainer(folder, tokenizer, examples, tmp_path, memory_size=9)
    without = make_trainer(folder, tokenizer, examples, tmp_path, memory_size=0)
    remembered, competed = [], []
    for documents in ([0, 1], [2, 0], [3], [0, 3], [4, 5, 6]):
        batch = trainer.data_collator([examples[number] for number in documents])
        trainer.model.eval()
        losses = [each.compute_loss(each.model.eval(), batch).item() for each in (trainer, without)]
        assert losses[0] == losses[1]  # evaluations neither read the memory nor fill it
        trainer.model.train()
        loss, (queries, passages) = trainer.compute_loss(trainer.model, batch, return_outputs=True)
        others = [vector for owner, vector in remembered if owner not in documents]
        scores = [[float(query @ passage) / 0.05 for passage in [*passages, *others]] for query in queries]
        answers = [row.nonzero()[0].item() for row in batch["is_positive"]]
        expected = [math.log(sum(map(math.exp, row))) - row[answer] for row, answer in zip(scores, answers)]
        assert float(loss) == pytest.approx(sum(expected) / len(expected), rel=1e-4)
        owners = [number for number in documents for _ in range(4)]
        remembered = [pair for pair in remembered if pair[0] not in documents]  # replaced
        remembered = [*remembered, *zip(owners, passages.detach())][-9:]
        competed.append(len(others))
    assert competed == [0, 4, 9, 1, 9]
    assert loss.requires_grad and not trainer.memory.vectors.requires_grad


def test_a_run_that_goes_on_remembers_what_it_had_read(folder, tokenizer, examples, tmp_path):
    first, second = (make_trainer(folder, tokenizer, examples, tmp_path / name) for name in ("first", "second"))
    first.train()
    second.train(resume_from_checkpoint=str(tmp_path / "first" / "checkpoint-4"))
    assert len(second.memory.vectors) == 48 and torch.equal(second.memory.vectors, first.memory.vectors)
    ours, theirs = second.model.state_dict(), first.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


# Encoding


def vectors_by_loops(encoder, document, prefix=0):
    """Returns the vectors of a document's passages from the token embeddings that sentence-transformers gives."""
    states = encoder.encode(document["text"], output_value="token_embeddings", convert_to_tensor=True)
    tokens = tokenize_document(document, encoder.tokenizer, N)
    vectors = []
    for index in range(len(tokens["passages"])):
        own = [i for i, owner in enumerate(tokens["passage_ids"]) if owner == index or i < prefix]
        vectors.append(torch.nn.functional.normalize(states[own].mean(0), dim=0))
    return torch.stack(vectors).numpy()


@pytest.mark.parametrize("prefix", [0, 4, 100])
def test_vectors_of_passages(prefix, encoder):
    documents = [DOCUMENTS[0], {"text": "A short one."}, DOCUMENTS[1]]
    expected = [vectors_by_loops(encoder, read_document(document), prefix) for document in documents]
    for batch_size in (1, 2, 8):
        found = encode_passages(
            encoder, documents, with_prefix=prefix, batch_size=batch_size, passage_tokens=20, show_progress_bar=False
        )
        np.testing.assert_allclose(found["vector"], np.concatenate(expected), atol=1e-5, rtol=0)
    assert found["document"] == [0] * 4 + [1] + [2] * 4
    assert found["text"][1:5] == [*PARTS.values(), "A short one."]
    text = read_document(DOCUMENTS[1])["text"]
    assert found["text"][5:] == [text[row["start"] : row["end"]] for row in found if row["document"] == 2]


def test_passages_as_spans_and_as_texts(encoder):
    texts, options = ["One two. One two.", "Three four."], {"show_progress_bar": False}
    spans = [[(0, 7), (9, 12)], [(6, 10)]]
    found = encode_passages(encoder, texts, spans, **options)
    assert list(zip(found["start"], found["end"])) == [(0, 7), (9, 12), (6, 10)]
    assert found["text"] == ["One two", "One", "four"]
    again = encode_passages(encoder, Dataset.from_dict({"text": texts}), [["One two", "One"], ["four"]], **options)
    assert again[:] == found[:]
    named = encode_passages(encoder, [{"id": "x", "text": texts[1]}], id_field="id", **options)
    assert named["document"] == ["x"] and named["text"] == ["Three four."]


def test_prompts(encoder, tokenizer, monkeypatch):
    plain, prompted = (
        encode_passages(encoder, DOCUMENTS[:1], prompt=each, show_progress_bar=False) for each in ("", "Read: ")
    )
    assert plain["text"] == prompted["text"] and abs(np.subtract(plain["vector"], prompted["vector"])).max() > 0.01
    monkeypatch.setitem(encoder.prompts, "document", "Read: ")
    assert encode_passages(encoder, DOCUMENTS[:1], show_progress_bar=False)["vector"] == prompted["vector"]
    (example,) = make_examples("train", Dataset.from_list(DOCUMENTS[:1]), tokenizer, N, prompts=("Read: ", "Find: "))
    assert tokenizer.decode(example["input_ids"]).startswith("<s>Read: alpha")
    assert tokenizer.decode(example["query_input_ids"][0]) == "<s>Find: alpha: Houses</s>"


def test_what_is_cut_away_has_no_vector(encoder, log):
    found = encode_passages(encoder, [words(40, "alpha ")], passage_tokens=20, show_progress_bar=False)
    assert 0 < len(found) < 8 and found["end"][-1] < len(words(40, "alpha "))
    assert re.search(rf"\d+ passages have no vector, as they begin after the {N} tokens", log.text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"passages": [[]]}, "`passages` has 1 lists for 2 documents: give one for each"),
        (
            {"passages": [["b", "a"], []]},
            r"documents\[0\]: the passage 'a' does not stand in the text after the passage before",
        ),
        ({"passages": [[(0, 9)], []]}, r"documents\[0\]: passages\[0\] is .*end <= 3"),
        ({"passage_tokens": 0}, "`passage_tokens` is 0: it must be at least 1"),
        ({"with_prefix": True}, "`with_prefix` is True, but the encoder has no `num_global_tokens`: give a number"),
        ({"id_field": "id"}, r"documents\[0\]: there is no `id`, which `id_field` names"),
    ],
)
def test_what_cannot_be_encoded_is_named(options, message, encoder):
    with pytest.raises(ValueError, match=message) as raised:
        encode_passages(encoder, ["a b", "c"], show_progress_bar=False, **options)
    assert "\n" not in str(raised.value)


def test_a_folder_is_written_on_after_a_kill(encoder, tmp_path, monkeypatch):
    options = {"show_progress_bar": False, "passage_tokens": 20}
    expected = encode_passages(encoder, DOCUMENTS, **options)
    write = lambda documents=DOCUMENTS, **more: write_passages(
        encoder, documents, tmp_path / "out", **{"documents_per_shard": 5} | options | more
    )

    def killed(source, target, replace=os.replace):
        if "00001-of" in str(target):
            source.write_bytes(source.read_bytes()[:100])
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(library.os, "replace", killed)
        write()
    (first,) = (tmp_path / "out" / "data").glob("*.parquet")
    time = first.stat().st_mtime_ns
    for other, name in (
        ({"documents": DOCUMENTS[:-1] + DOCUMENTS[:1]}, "documents"),
        ({"passages": [[]] * len(DOCUMENTS)}, "documents"),
        ({"passage_tokens": 21}, "passage_tokens"),
        ({"documents_per_shard": 4}, "documents_per_shard"),
    ):
        with pytest.raises(ValueError, match=f"was written with another `{name}`: name another folder, or delete it"):
            write(**other)
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="another `model`"):
        patch.setattr(encoder[0].model.embeddings.word_embeddings.weight, "data", torch.zeros(400, 16))
        write()
    write()
    assert first.stat().st_mtime_ns == time
    assert len(list((tmp_path / "out" / "data").iterdir())) == 3
    found = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert found.features == expected.features and found[:] == expected[:]


# The command


def arguments(folder, output_dir, *more):
    return [
        *COMMON,
        f"--model_name_or_path={folder / 'encoder'}",
        f"--train_file={folder / 'documents.jsonl'}",
        f"--output_dir={output_dir}",
        "--max_steps=20",
        "--save_steps=5",
        "--logging_steps=1",
        "--learning_rate=1e-2",
        "--memory_size=0",  # at this learning rate, what the encoder gave some steps ago is out of date
        *map(str, more),
    ]


def weights(path):
    return load_file(path / "model.safetensors")


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("finished") / "out"
    evaluation = (f"--validation_file={folder / 'documents.jsonl'}", "--do_eval", "--eval_strategy=steps", "--eval_steps=10")
    command.main(arguments(folder, output_dir, *evaluation, "--eval_on_start", "--per_device_eval_batch_size=5"))
    return output_dir


def test_training_finds_more_passages(finished):
    history = json.loads((finished / "trainer_state.json").read_text())["log_history"]
    for name in ("eval_ndcg_at_10", "eval_accuracy_at_1"):
        before, *_, after = [entry[name] for entry in history if name in entry]
        assert after > before + 0.1, (name, before, after)


def metrics_by_loops(encoder, documents):
    """Returns nDCG@10 and the accuracy of the first passage, for documents of whose passages one answers each query."""
    vectors = np.array(encode_passages(encoder, documents, show_progress_bar=False)["vector"])
    gains, right, number = [], [], 0
    for document in map(read_document, documents):
        for query, (answer,) in document["queries"]:
            order = np.argsort(-vectors @ encoder.encode_query(query)).tolist()
            rank = order.index(number + answer)
            gains.append(1 / math.log2(rank + 2) if rank < 10 else 0)
            right.append(rank == 0)
        number += len(document["passages"])
    return {"eval_ndcg_at_10": np.mean(gains), "eval_accuracy_at_1": np.mean(right)}


def test_the_trained_folder_is_one_of_sentence_transformers(finished):
    """The metrics, from the vectors of sentence-transformers, are those of the evaluation."""
    encoder = load_encoder(finished)
    assert encoder.max_seq_length == N
    metrics = json.loads((finished / "eval_results.json").read_text())
    for name, value in metrics_by_loops(encoder, DOCUMENTS).items():
        assert metrics[name] == pytest.approx(value, abs=1e-5)
    card = (finished / "README.md").read_text()
    assert "library_name: sentence-transformers" in card and "SentenceTransformer(" in card


@pytest.mark.slow("kills; test_run_mlm kills the same Trainer")
def test_killed_at_any_step_the_final_weights_are_the_same(folder, finished, tmp_path):
    argv = arguments(folder, tmp_path / "out")
    kill_script(tmp_path, "passages", argv, tmp_path / "out" / "checkpoint-10")
    assert not (tmp_path / "out" / "checkpoint-20").exists()
    result = run_script(tmp_path, "passages", argv)
    assert result.returncode == 0, result.stderr
    assert "Going on from" in result.stderr
    ours, theirs = weights(tmp_path / "out"), weights(finished)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (tmp_path / "out" / "modules.json").exists()


def test_an_encoder_without_modules(folder, tmp_path):
    data = [{"text": "One two. Three.", "passages": [{"start": 0, "end": 8, "queries": ["q"]}, {"start": 9, "end": 15}]}] * 4
    (tmp_path / "spans.json").write_text(json.dumps([{"text": "Four.", "passages": []}, *data]))
    options = (f"--model_name_or_path={folder / 'plain'}", f"--train_file={tmp_path / 'spans.json'}", "--max_steps=1")
    command.main(arguments(folder, tmp_path / "out", *options, "--do_eval", "--pad_to_max_length"))
    assert np.linalg.norm(load_encoder(tmp_path / "out").encode("One two.")) == pytest.approx(1)


def test_a_finished_run_is_finished(folder, finished, log):
    before = files_of(finished)
    command.main(arguments(folder, finished))
    assert files_of(finished) == before and "is finished" in log.text


@pytest.mark.parametrize("processes", [1, 2])
def test_the_evaluation_is_of_all_documents(processes, folder, finished, tmp_path):
    """Whatever the batches and processes are, also where the last batch is smaller and a document has fewer passages."""
    documents = [*DOCUMENTS, {"text": "One two.", "passages": [{"start": 0, "end": 3, "queries": ["One", "Two"]}]}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, documents)))
    data = (
        f"--model_name_or_path={finished}",
        f"--validation_file={tmp_path / 'rows.jsonl'}",
        "--do_eval",
        "--do_train=False",
    )
    argv = arguments(folder, tmp_path / "out", *data, "--per_device_eval_batch_size=4")
    if processes == 1:
        command.main(argv)
    else:
        run_in_forks(tmp_path, "passages", argv, processes)
    metrics = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    for name, value in metrics_by_loops(load_encoder(finished), documents).items():
        assert metrics[name] == pytest.approx(value, abs=1e-5) and 0 < value < 1


def test_batches_of_other_sizes_are_another_run(folder, finished, tmp_path):
    with pytest.raises(UsageError, match="holds another run"):
        command.main(arguments(folder, finished, "--per_device_train_batch_size=2", "--gradient_accumulation_steps=2"))


@pytest.mark.parametrize(
    ("row", "more", "message"),
    [
        ({"sections": "a"}, (), "row 1 of the train data: `sections` is 'a': give a list of dictionaries"),
        ({"text": "Four."}, (), "no document of the train data has a query .*: its columns are text, and `sections`"),
        (
            {"text": "Four."},
            ("--text_column=text",),
            "--text_column text is for texts, and rows here are documents: leave it out",
        ),
        (DOCUMENTS[0], ("--do_predict",), "--do_predict is for linformer-glue"),
        (DOCUMENTS[0], ("--do_eval",), "the training data is a single row"),
        (DOCUMENTS[0], ("--passage_words=0",), "--passage_words is 0; it must be at least 1"),
        (DOCUMENTS[0], ("--temperature=0",), "--temperature is 0.0; it must be above 0"),
        (DOCUMENTS[0], ("--memory_size=-1",), "--memory_size is -1; it must be a number of passages, or 0 for none"),
        (DOCUMENTS[0], ("--label_smoothing_factor=0.1",), "--label_smoothing_factor 0.1 is for classes: leave it out"),
        (DOCUMENTS[0], ("--max_seq_length=65",), "--max_seq_length 65 must be from 3 to 64"),
        (DOCUMENTS[0], ("--max_seq_length=3",), "no document of the train data has a query that its first 3 tokens answer"),
        (DOCUMENTS[0], ("--metric_for_best_model=ndcg",), "--metric_for_best_model ndcg is none of ndcg_at_10"),
        (DOCUMENTS[0], ("--train_file=/no/file.jsonl",), "--train_file: there is no file /no/file.jsonl"),
    ],
)
def test_bad_input_is_one_clear_line(row, more, message, folder, tmp_path):
    (tmp_path / "row.jsonl").write_text(json.dumps(row))
    with pytest.raises(UsageError, match=message) as raised:
        command.main(arguments(folder, tmp_path / "out", f"--train_file={tmp_path / 'row.jsonl'}", *more))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_dense_module_is_refused(folder, tmp_path):
    files = with_mean_pooling({}, 16)
    files["modules.json"].insert(2, {"path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    files["2_Dense/config.json"] = {}
    files["2_Dense/model.safetensors"] = {"linear.weight": torch.zeros(4, 16)}
    for path in (folder / "plain").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    write_sentence_modules(files, tmp_path, N)
    with pytest.raises(UsageError, match="has a Dense module, and only the transformer is trained"):
        command.main(arguments(folder, tmp_path / "out", f"--model_name_or_path={tmp_path}"))
