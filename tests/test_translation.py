"""Tests that a Linformer is the encoder of an encoder-decoder, and that benchmarks.translation trains and measures it."""

import json
import sys

import pytest
import torch
from datasets import Dataset
from processes import run_without_packages


pytest.importorskip("sacrebleu", reason="benchmarks.translation measures BLEU with sacrebleu")

from transformers import EncoderDecoderModel  # noqa: E402

from benchmarks import translation  # noqa: E402
from benchmarks.runs import read_results  # noqa: E402
from transformers_linformer.tokenization import train_tokenizer  # noqa: E402


SENTENCES = {
    "en": ["A dog runs.", "Two men in red hats walk along a very long street.", "A woman sings.", "Nobody sits."] * 2,
    "de": ["Ein Hund rennt.", "Zwei Männer mit roten Hüten gehen eine Straße entlang.", "Eine Frau singt.", "Keiner."] * 2,
}
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_seq_length": 64}
ENCODERS = [("roberta", None, None), ("linear", 16, 0), ("attention_pool", 4, 8)]
# What another machine does, where the project is not installed
LOAD = """
from transformers import AutoConfig, AutoModel, AutoTokenizer, EncoderDecoderModel

folder = sys.argv[1]
inputs = AutoTokenizer.from_pretrained(folder)(json.loads(sys.argv[2]), padding=True, return_tensors="pt")
try:
    EncoderDecoderModel.from_pretrained(folder, trust_remote_code=True)
except ValueError as error:
    message = str(error)
encoder = AutoModel.from_pretrained(f"{folder}/encoder", trust_remote_code=True)
AutoConfig.register(encoder.config.model_type, type(encoder.config))
model = EncoderDecoderModel.from_pretrained(folder)
print(json.dumps([message, type(model.encoder).__module__, model.generate(**inputs).tolist()]))
"""


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(Dataset.from_dict(SENTENCES), 300, 64)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Returns a folder that is laid out as Multi30k is."""
    folder = tmp_path_factory.mktemp("data")
    rows = [dict(zip(SENTENCES, pair)) for pair in zip(*SENTENCES.values())]
    files = []
    for split, size in (("train", 8), ("validation", 3), ("test", 4)):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows[:size])), encoding="utf-8")
        files.append(f"  - split: {split}\n    path: {split}.jsonl\n")
    head = "---\nconfigs:\n- config_name: en-de\n  data_files:\n"
    (folder / "README.md").write_text(head + "".join(files) + "---\n", encoding="utf-8")
    return folder


def make_model(tokenizer, encoder, k, block_size):
    """Returns a small model whose weights are so large that each token of the source changes what it generates."""
    torch.manual_seed(0)
    model = translation.make_model(tokenizer, encoder, k, block_size, {**SIZES, "dropout": 0.0})
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(1 if "LayerNorm" in name or "layer_norm" in name else 10)
    return model.eval()


@pytest.fixture(scope="module", params=ENCODERS, ids=lambda encoder: encoder[0])
def model(request, tokenizer):
    return make_model(tokenizer, *request.param)


def arguments_of(data, output_dir, *more):
    options = ["--seeds", 1, "--encoders", "attention_pool", "--max_steps", 4, "--save_steps", 2, "--batch_size", 4]
    options += [part for name, size in SIZES.items() for part in (f"--{name}", size)]
    options += ["--vocab_size", 300, "--dataset_name", data, "--output_dir", output_dir, *more]
    return list(map(str, options))


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """Returns the output folder of a run that has ended."""
    folder = tmp_path_factory.mktemp("translation") / "out"
    translation.main(arguments_of(data, folder))
    return folder


def run_folder(output_dir):
    (folder,) = (output_dir / "runs").iterdir()
    return folder


# The model


def test_padding_of_the_source_never_matters(model, tokenizer):
    inputs = tokenizer(SENTENCES["en"][1], return_tensors="pt")
    length, target = inputs.input_ids.shape[1], torch.tensor([[0, 50, 60, 70]])
    more = torch.full((1, 64 - length), 77)  # what stands in the padding is not read
    padded_ids = torch.cat([inputs.input_ids, more], dim=1)
    mask = torch.arange(64)[None] < length
    with torch.no_grad():
        logits, padded, unmasked = (
            model(input_ids=ids, attention_mask=is_token.long(), decoder_input_ids=target).logits
            for ids, is_token in ((padded_ids[:, :length], mask[:, :length]), (padded_ids, mask), (padded_ids, mask | True))
        )
    torch.testing.assert_close(padded, logits, rtol=1e-4, atol=1e-4)
    assert (unmasked - logits).abs().max() > 0.1


def test_generate_reads_the_source_to_its_end(model, tokenizer):
    ids = tokenizer(SENTENCES["en"][1], return_tensors="pt").input_ids
    other = ids.clone()
    other[0, -5:-1] = 99  # the last tokens before </s>, enough of them to change which token is likeliest
    assert ids.shape[1] > 24  # so that it is far from the first block
    written, changed = (model.generate(input_ids=each, attention_mask=torch.ones_like(each)) for each in (ids, other))
    assert written[0, 0] == tokenizer.bos_token_id and 1 < written.shape[1] <= SIZES["max_seq_length"]
    assert written.tolist() != changed.tolist()


def test_gradients_reach_the_encoder(model, tokenizer):
    inputs = tokenizer(SENTENCES["en"][:2], padding=True, return_tensors="pt")
    logits = model(**inputs, decoder_input_ids=torch.tensor([[0, 50], [0, 60]])).logits
    model.zero_grad()
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor([50, 51, 60, 61])).backward()
    weights = {name: weight for name, weight in model.encoder.named_parameters() if not name.startswith("pooler")}
    without = [name for name, weight in weights.items() if weight.grad is None or not weight.grad.any()]
    # The bias of keys shifts all scores of a softmax alike, except that of a learned projection whose rows have other sums
    assert len(weights) > 30 and not [name for name in without if not name.endswith("key.bias")]


def test_translations_are_in_the_order_of_the_sources(tokenizer, tmp_path):
    model = make_model(tokenizer, *ENCODERS[-1])
    pairs = translation.tokenize(Dataset.from_dict(SENTENCES), tokenizer).select(range(4))
    alone = [model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)).long()) for ids in pairs["input_ids"]]
    alone = [tokenizer.decode(ids[0], skip_special_tokens=True) for ids in alone]
    assert len(set(alone)) == 4
    for batch_size in (1, 3):
        assert translation.translate(model, tokenizer, pairs, tmp_path, batch_size) == alone


def test_loss_is_per_token(tokenizer):
    model = make_model(tokenizer, *ENCODERS[-1])
    pairs = translation.tokenize(Dataset.from_dict(SENTENCES), tokenizer).select(range(3))
    total = 0
    for source, labels in zip(pairs["input_ids"], pairs["labels"]):
        assert tokenizer.bos_token_id not in labels and labels[-1] == tokenizer.eos_token_id
        target = torch.tensor([[tokenizer.bos_token_id, *labels[:-1]]])
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([source]), decoder_input_ids=target).logits[0]
        total += torch.nn.functional.cross_entropy(logits, torch.tensor(labels), reduction="sum").item()
    for batch_size in (1, 3):
        loss = translation.loss_per_token(model, tokenizer, pairs, batch_size)
        assert loss == pytest.approx(total / sum(map(len, pairs["labels"])), rel=1e-4)


# What is saved


def test_a_saved_model_translates_as_before(model, tokenizer, tmp_path):
    translation.save(model, tokenizer, tmp_path)
    inputs = tokenizer(SENTENCES["en"][:2], padding=True, return_tensors="pt")
    loaded = EncoderDecoderModel.from_pretrained(tmp_path)
    assert type(loaded.encoder) is type(model.encoder)
    target = torch.tensor([[0, 50], [0, 60]])
    with torch.no_grad():
        logits = [each(**inputs, decoder_input_ids=target).logits for each in (model, loaded)]
    assert torch.equal(*logits)
    assert torch.equal(model.generate(**inputs), loaded.generate(**inputs))


def test_a_saved_model_translates_where_no_package_is(tokenizer, tmp_path):
    model = make_model(tokenizer, *ENCODERS[-1])
    translation.save(model, tokenizer, tmp_path / "saved")
    sentences = SENTENCES["en"][:2]
    inputs = tokenizer(sentences, padding=True, return_tensors="pt")
    message, module, ids = run_without_packages(LOAD, tmp_path, tmp_path / "saved", json.dumps(sentences))
    # Once this fails, `save` need not store the encoder twice any more
    assert "Unrecognized model type for subconfig: linformer" in message
    assert module.startswith("transformers_modules.")
    assert ids == model.generate(**inputs).tolist()


# The runs


def test_a_finished_run_is_not_run_again(finished, data, monkeypatch, capsys):
    (result,) = read_results(finished / "results.jsonl")
    assert (result["encoder"], result["k"], result["block_size"], result["seed"]) == ("attention_pool", 16, 16, 1)
    assert result["validation_loss"] > 0 and result["train_seconds"] > 0 and result["bleu"] >= 0
    assert "tok:13a" in result["signature"]
    assert len((run_folder(finished) / "translations.txt").read_text(encoding="utf-8").split("\n")) == 5

    def fail(*args, **kwargs):
        raise AssertionError("it is run again")

    monkeypatch.setattr(translation, "train", fail)
    capsys.readouterr()
    translation.main(arguments_of(data, finished))
    assert len(read_results(finished / "results.jsonl")) == 1
    table = (finished / "translation.md").read_text(encoding="utf-8")
    assert "| attention_pool | 16 | 16 |" in table and table in capsys.readouterr().out
    for more in (("--seeds=2",), ("--learning_rate=0.1",), ("--block_sizes=8",)):
        with pytest.raises(AssertionError, match="it is run again"):
            translation.main(arguments_of(data, finished, *more))


@pytest.mark.slow("a whole benchmark, which is killed")
def test_a_run_that_was_killed_goes_on(finished, data, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    def killed(*args, **kwargs):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(translation.Stopwatch, "on_save", killed)  # at step 2 of 4
        with pytest.raises(Killed):
            translation.main(arguments_of(data, tmp_path))
    path = run_folder(tmp_path) / "checkpoint-2" / "trainer_state.json"
    state = json.loads(path.read_text())
    state["stateful_callbacks"]["Stopwatch"]["attributes"]["seconds"] += 1000
    path.write_text(json.dumps(state))
    with monkeypatch.context() as patch:
        patch.setattr(translation, "translate", killed)
        with pytest.raises(Killed):
            translation.main(arguments_of(data, tmp_path))
    assert not (tmp_path / "results.jsonl").exists()
    monkeypatch.setattr(translation.Seq2SeqTrainer, "train", killed)  # as nothing is left to train
    translation.main(arguments_of(data, tmp_path))
    states = [EncoderDecoderModel.from_pretrained(run_folder(out) / "model").state_dict() for out in (finished, tmp_path)]
    assert all(torch.equal(weight, states[1][name]) for name, weight in states[0].items())
    (result,) = read_results(tmp_path / "results.jsonl")
    assert 1000 < result["train_seconds"] < 1100  # the seconds before it was killed count, too


def test_the_table_has_means_and_standard_errors():
    def result(bleu, **encoder):
        others = {name: bleu for name in ("chrf", "validation_loss", "train_seconds", "generation_seconds")}
        return {"encoder": "roberta", "k": None, "block_size": None, "bleu": bleu} | others | encoder

    pool = {"encoder": "attention_pool", "k": 4, "block_size": 8}
    table = translation.make_table([result(30.0), result(33.0, **pool), result(31.0), result(35.0)])
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    assert lines == [
        ["roberta", "", "", "32.00 ± 1.53", "32.0", "32.000", "32", "32", "3"],
        ["attention_pool", "4", "8", "33.00", "33.0", "33.000", "33", "33", "1"],
    ]


def test_encoders_and_their_sizes():
    encoders = translation.make_encoders(["roberta", "linear", "mean_pool"], 64, [4, 16], [8])
    assert [tuple(each.values()) for each in encoders] == [
        ("roberta", None, None),
        ("linear", 16, 0),
        ("mean_pool", 4, 8),
        ("mean_pool", 16, 8),
    ]


def test_without_sacrebleu_nothing_is_trained(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(SystemExit, match="pip install sacrebleu"):
        translation.main(arguments_of(data, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
