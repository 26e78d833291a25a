"""Tests that a folder of sentence-transformers becomes one again, which gives the same vectors and scores."""

import json
import shutil

import numpy as np
import pytest
import torch
from hub_server import Repository
from processes import run_python, run_without_packages
from safetensors.torch import load_file
from tiny_sources import N, make_source, write_source

from transformers_linformer.commands.convert import main
from transformers_linformer.errors import UsageError


sentence_transformers = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")

LONG = 4 * N
PROMPTS = {"query": "the question . ", "document": ""}
TEXTS = ["a first text", "the second of them", "text and text and the first one of them . a second text"]
PAIRS = [("a first text", "the second of them"), ("text", "one of the first of them and a second text .")]
FAR = "text and " * N  # up to here a source reads no more
# The end of the modules' type names before version 5 of sentence-transformers
OLD = "sentence_transformers.models"

# Loads each of the folders in the list argv[1] in a process without the packages, prints what it finds as JSON, and saves
# the models in folders of the same name and "again".
LOAD = """
from sentence_transformers import CrossEncoder, SentenceTransformer

folders, texts, pairs, far = json.loads(sys.argv[1])
found = {}
for name, folder in folders.items():
    load = lambda folder: (CrossEncoder if "cross" in name else SentenceTransformer)(folder, trust_remote_code=True)
    model = load(folder)
    entry = found[name] = {"max_seq_length": model.max_seq_length, "prompts": model.prompts}
    entry["class"] = type(model[0].model).__name__
    ends = [far + "first", far + "them"]
    if "cross" in name:
        compute, inputs, ends = model.predict, pairs, [("a text", end) for end in ends]
        entry["activation"] = type(model.activation_fn).__name__
    else:
        compute, inputs = model.encode, texts
        entry["similarity"] = model.similarity_fn_name
        if model.prompts.get("query"):
            entry["query"] = model.encode(texts, prompt_name="query").tolist()
    entry["outputs"] = compute(inputs).tolist()
    entry["far"] = float(abs(compute(ends[:1]) - compute(ends[1:])).max())
    model.save(folder + " again")
    entry["again"] = load(folder + " again").encode(texts).tolist() if "cross" not in name else entry["outputs"]
print(json.dumps(found))
"""


def save_source(folder, class_name, pooling, *more, **options):
    """Saves a small model of sentence-transformers with this pooling and the modules after it, and returns the model."""
    modules = sentence_transformers.sentence_transformer.modules
    transformer = modules.Transformer(str(write_source(make_source(class_name), folder.with_name(f"{folder.name} plain"))))
    model = sentence_transformers.SentenceTransformer(
        modules=[transformer, modules.Pooling(32, pooling), *more], device="cpu", **options
    )
    model.save(str(folder))
    return sentence_transformers.SentenceTransformer(str(folder), device="cpu")


def save_with_another_head(folder, *args):
    """Saves a model whose configuration names a head that the checkpoint lacks, as that of all-mpnet-base-v2 does."""
    model = save_source(folder, "MPNetModel", *args)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["MPNetForMaskedLM"]}))
    return model


def save_old(folder):
    """Saves a model as version 2 of sentence-transformers did, with the transformer in a folder and pickled weights."""
    write_source(make_source("BertModel"), folder / "0_Transformer")
    dense = {"in_features": 32, "out_features": 7, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}
    files = {
        "modules.json": [
            {"idx": index, "name": str(index), "path": f"{index}_{kind}", "type": f"{OLD}.{kind}"}
            for index, kind in enumerate(("Transformer", "Pooling", "Dense", "Normalize"))
        ],
        "0_Transformer/sentence_bert_config.json": {"max_seq_length": N, "do_lower_case": True},
        "1_Pooling/config.json": {"word_embedding_dimension": 32, "pooling_mode_max_tokens": True},
        "2_Dense/config.json": dense,
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    linear = torch.nn.Linear(32, 7)
    weights = {f"linear.{name}": tensor for name, tensor in linear.state_dict().items()}
    torch.save(weights, folder / "2_Dense" / "pytorch_model.bin")
    return sentence_transformers.SentenceTransformer(str(folder), device="cpu")


def save_cross_encoder(folder, class_name="BertForSequenceClassification", plain=None, **options):
    """Saves a cross-encoder with its modules, or, given fields of its configuration, as a checkpoint without modules.json."""
    source = make_source(class_name, num_labels=1)
    for name, value in (plain or {}).items():
        setattr(source.config, name, value)
    write_source(source, folder)
    model = sentence_transformers.CrossEncoder(str(folder), device="cpu", **options)
    if plain is None:
        shutil.rmtree(folder)
        model.save(str(folder))
    return model


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Returns the folder that all sources are in, and the sources by their names."""
    folder = tmp_path_factory.mktemp("sources")
    modules = sentence_transformers.sentence_transformer.modules
    torch.manual_seed(0)
    dense = modules.Dense(32, 5, activation_function=torch.nn.GELU())
    old_name = {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}
    new_name = {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh", "version": "5.0.0"}}
    return folder, {
        "mean": save_source(folder / "mean", "BertModel", "mean", modules.Normalize(), prompts=PROMPTS),
        "cls": save_source(folder / "cls", "RobertaModel", "cls", similarity_fn_name="dot"),
        "max": save_source(folder / "max", "DistilBertModel", "max", dense, modules.Normalize()),
        "another head": save_with_another_head(folder / "another head", "mean", modules.Normalize()),
        "old": save_old(folder / "old"),
        "cross": save_cross_encoder(folder / "cross", activation_fn=torch.nn.Softplus(), prompts=PROMPTS),
        "cross of Roberta": save_cross_encoder(folder / "cross of Roberta", "RobertaForSequenceClassification"),
        "cross, old": save_cross_encoder(folder / "cross, old", plain=old_name),
        "cross, plain": save_cross_encoder(folder / "cross, plain", plain=new_name),
    }


@pytest.fixture(scope="module")
def converted(sources, tmp_path_factory):
    """Returns the folder that the converted models are in, and what a process without the packages finds there."""
    folder = tmp_path_factory.mktemp("converted")
    for name in sources[1]:
        options = ["--max_position_embeddings", str(LONG), "--projected_dim", "8"]
        main(["--model_name_or_path", str(sources[0] / name), "--output_dir", str(folder / name), *options])
    folders = {name: str(folder / name) for name in sources[1]}
    return folder, run_without_packages(LOAD, folder, json.dumps([folders, TEXTS, PAIRS, FAR]))


ENCODERS = ("mean", "cls", "max", "another head", "old")
CROSS_ENCODERS = ("cross", "cross of Roberta", "cross, old", "cross, plain")


@pytest.mark.parametrize("name", ENCODERS)
def test_vectors_of_short_texts_are_the_sources(sources, converted, name):
    source, found = sources[1][name], converted[1][name]
    wanted = source.encode(TEXTS)
    np.testing.assert_allclose(found["outputs"], wanted, atol=1e-5, rtol=0)
    np.testing.assert_allclose(found["again"], wanted, atol=1e-5, rtol=0)  # also if sentence-transformers saves the model
    is_unit = np.allclose(np.linalg.norm(found["outputs"], axis=1), 1, atol=1e-6)
    assert is_unit == (name != "cls") and abs(wanted[0] - wanted[1]).max() > 0.01
    assert found["class"] == "LinformerModel" and found["similarity"] == source.similarity_fn_name
    assert found["prompts"] == source.prompts
    if name == "mean":
        np.testing.assert_allclose(found["query"], source.encode(TEXTS, prompt_name="query"), atol=1e-5, rtol=0)
        assert abs(np.array(found["query"]) - wanted).max() > 0.01


@pytest.mark.parametrize("name", CROSS_ENCODERS)
def test_scores_of_short_pairs_are_the_sources(sources, converted, name):
    source, found = sources[1][name], converted[1][name]
    wanted = source.predict(PAIRS)
    np.testing.assert_allclose(found["outputs"], wanted, atol=1e-5, rtol=0)
    activations = {"cross": "Softplus", "cross, old": "Identity", "cross, plain": "Tanh"}
    assert found["activation"] == type(source.activation_fn).__name__ == activations.get(name, "Sigmoid")
    assert found["class"] == "LinformerForSequenceClassification" and found["prompts"] == source.prompts


@pytest.mark.parametrize("name", (*ENCODERS, *CROSS_ENCODERS))
def test_long_documents_are_read_to_their_end(sources, converted, name):
    source, found = sources[1][name], converted[1][name]
    assert found["max_seq_length"] == LONG and source.max_seq_length == N
    assert found["far"] > 1e-6
    if name in ENCODERS:
        assert abs(np.subtract(*source.encode([FAR + "first", FAR + "them"]))).max() == 0


def test_the_files_of_a_folder(converted):
    """The transformer is at the top, wherever it was, and weights are no pickles."""
    old = converted[0] / "old"
    modules = json.loads((old / "modules.json").read_text())
    assert [(module["path"], module["type"]) for module in modules] == [
        ("", f"{OLD}.Transformer"),
        ("1_Pooling", f"{OLD}.Pooling"),
        ("2_Dense", f"{OLD}.Dense"),
        ("3_Normalize", f"{OLD}.Normalize"),
    ]
    assert json.loads((old / "sentence_bert_config.json").read_text()) == {"max_seq_length": LONG, "do_lower_case": True}
    assert load_file(old / "2_Dense" / "model.safetensors")["linear.weight"].shape == (7, 32)
    assert not list(old.rglob("*.bin"))
    card = (old / "README.md").read_text()
    assert "library_name: sentence-transformers" in card and "SentenceTransformer(" in card
    assert "CrossEncoder(" in (converted[0] / "cross, plain" / "README.md").read_text()


def test_a_plain_checkpoint_and_a_cross_encoder_without_its_head_stay_plain(sources, tmp_path):
    for source, options in (("mean plain", []), ("cross", ["--encoder_only"])):
        arguments = ["--model_name_or_path", str(sources[0] / source), "--output_dir", str(tmp_path / source), *options]
        main([*arguments, "--projected_dim", "6"])
        assert not list((tmp_path / source).glob("*sentence*")) and not (tmp_path / source / "modules.json").exists()
        assert "sentence" not in (tmp_path / source / "README.md").read_text()
        assert "sentence_transformers" not in (tmp_path / source / "config.json").read_text()


def test_a_repository_on_the_hub(hub, sources, tmp_path):
    paths = [path for path in (sources[0] / "old").rglob("*") if path.is_file()]
    repository = hub.repositories["user/sentences"] = Repository()
    repository.commit({str(path.relative_to(sources[0] / "old")): path.read_bytes() for path in paths})
    convert = "import sys; from transformers_linformer.commands.convert import main; main(sys.argv[1:]); print(1)"
    arguments = ("--model_name_or_path", "user/sentences", "--output_dir", tmp_path / "out", "--projected_dim", "6")
    run_python(convert, tmp_path, *arguments, environment=hub.environment)
    model = sentence_transformers.SentenceTransformer(str(tmp_path / "out"), trust_remote_code=True, device="cpu")
    np.testing.assert_allclose(model.encode(TEXTS), sources[1]["old"].encode(TEXTS), atol=1e-5, rtol=0)


def change(folder, name, *keys, value):
    """Changes a value in a json file, which the keys lead to."""
    content = found = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    for key in keys[:-1]:
        found = found[key]
    found[keys[-1]] = value
    (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "keys", "value", "message"),
    [
        ("modules.json", (1, "type"), "custom.Pooling", "modules.json: module 1 is custom.Pooling, but"),
        (
            "modules.json",
            (1, "type"),
            f"{OLD}.WeightedLayerPooling",
            "is sentence_transformers.models.WeightedLayerPooling, but",
        ),
        ("modules.json", (0, "type"), "custom.Transformer", "module 0 is custom.Transformer, but"),
        ("modules.json", (1, "type"), f"{OLD}.Transformer", "module 1 is sentence_transformers.models.Transformer, but"),
        ("modules.json", (1, "path"), "../other", "the path of module 1 is '../other', which is not a folder beside"),
        ("modules.json", (1, "path"), "..", "the path of module 1 is '..', which is not a folder beside"),
        ("modules.json", (1, "path"), "3_Normalize", "there is no 3_Normalize/config.json, which module 1 needs"),
        ("modules.json", (2, "path"), "1_Pooling", "there are no weights in 1_Pooling"),
        ("modules.json", (1,), {"idx": 1}, "lists {'idx': 1}, which has no `type` and `path`"),
        ("1_Pooling/config.json", None, "[]", "config.json holds a list where a dict is needed"),
        ("1_Pooling/config.json", None, "{", "config.json is not a json file"),
        ("2_Dense/config.json", ("activation_function",), "os.getcwd", "`activation_function` is 'os.getcwd', but only"),
        ("2_Dense/pytorch_model.bin", None, "weights", "the weights cannot be read"),
        ("config_sentence_transformers.json", ("activation_fn",), "os.getcwd", "`activation_fn` is 'os.getcwd', but only"),
        ("config_sentence_transformers.json", ("more",), 3, "config_sentence_transformers.json: the field `more` is 3, which"),
        ("0_Transformer/sentence_bert_config.json", ("model_args",), {"dtype": "float16"}, "the field `model_args` is"),
        ("0_Transformer/sentence_bert_config.json", ("model_args",), {}, None),
    ],
)
def test_what_cannot_be_carried_over_is_named(sources, tmp_path, name, keys, value, message):
    folder, output = tmp_path / "source", tmp_path / "out"
    shutil.copytree(sources[0] / "old", folder)
    if keys is None:
        (folder / name).write_text(value)
    else:
        change(folder, name, *keys, value=value)
    arguments = ["--model_name_or_path", str(folder), "--output_dir", str(output), "--projected_dim", "6"]
    if message is None:
        return main(arguments)
    with pytest.raises(UsageError) as error:
        main(arguments)
    assert message in str(error.value) and "\n" not in str(error.value) and not output.exists()


def test_a_cross_encoder_whose_activation_is_its_own_is_refused(sources, tmp_path):
    shutil.copytree(sources[0] / "cross, plain", tmp_path / "source")
    change(tmp_path / "source", "config.json", "sentence_transformers", "activation_fn", value="os.getcwd")
    with pytest.raises(UsageError, match="`activation_fn` is 'os.getcwd', but only a function of torch.nn"):
        main(["--model_name_or_path", str(tmp_path / "source"), "--output_dir", str(tmp_path / "out"), "--projected_dim", "6"])
