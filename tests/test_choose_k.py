"""Tests the spectra of known matrices, the similarity of known states, and benchmarks.choose_k as a user runs it."""

import copy
import json
import math
import shutil
from pydoc_data.topics import topics

import matplotlib.figure
import matplotlib.image
import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset

from benchmarks import choose_k
from benchmarks.choose_k import cumulative_mass, smallest_k, spectrum
from benchmarks.similarity import MEASURES, similarity
from configuration_linformer import LinformerConfig
from transformers_linformer.conversion.convert import default_block_size
from transformers_linformer.errors import UsageError
from transformers_linformer.tokenization import train_tokenizer
from transformers_linformer.training.text import first_sequences


N = 32
COMMON = {"vocab_size": 300, "initializer_range": 0.3, "pad_token_id": 1}
SIZES = COMMON | {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
CONFIGS = {
    "bert": transformers.BertConfig(**SIZES, max_position_embeddings=N),
    "roberta": transformers.RobertaConfig(**SIZES, max_position_embeddings=N + 2),  # no token has the first two positions
    "distilbert": transformers.DistilBertConfig(
        **COMMON, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=N
    ),
}


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "train.txt"
    path.write_text("\n".join(topics[name] for name in sorted(topics)[:12]), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def models(text_file, tmp_path_factory):
    """Returns a folder with a tiny random model of each type, whose tokenizer does not know the longest input."""
    folder = tmp_path_factory.mktemp("models")
    lines = [line for line in text_file.read_text(encoding="utf-8").splitlines() if line.strip()]
    tokenizer = train_tokenizer(Dataset.from_dict({"text": lines}), 300, None)
    for name, config in CONFIGS.items():
        torch.manual_seed(0)
        transformers.AutoModel.from_config(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def arguments(model, text_file, output_dir, *more):
    options = (f"--model_name_or_path={model}", f"--train_file={text_file}", f"--output_dir={output_dir}")
    return [*options, "--max_samples=3", *more]


# Mass


def test_the_mass_of_known_matrices():
    n = 37
    matrices = torch.stack([torch.full((n, n), 1 / n), torch.eye(n), torch.eye(n)[torch.randperm(n)]])
    cumulative = cumulative_mass(matrices)
    every_k = torch.arange(1, n + 1) / n
    wanted = torch.stack([torch.ones(n), every_k, every_k])
    torch.testing.assert_close(cumulative, wanted.double(), atol=1e-5, rtol=0)
    assert smallest_k(cumulative, 0.9).tolist() == [1, math.ceil(0.9 * n), math.ceil(0.9 * n)]

    cumulative = cumulative_mass(torch.diag(torch.tensor([0.0, 6.0, 3.0, 1.0])))
    torch.testing.assert_close(cumulative, torch.tensor([0.6, 0.9, 1.0, 1.0]).double())
    masses = {0.1: 1, 0.59: 1, 0.61: 2, 0.89: 2, 0.91: 3, 0.999: 3}
    assert {mass: smallest_k(cumulative, mass).item() for mass in masses} == masses


@pytest.mark.parametrize("size", [10, 64])
def test_a_part_that_is_met_exactly_is_enough(size):
    cumulative = cumulative_mass(torch.eye(size))
    assert [smallest_k(cumulative, k / size).item() for k in range(1, size + 1)] == list(range(1, size + 1))


@pytest.mark.parametrize("model_type", CONFIGS)
def test_the_spectrum_is_that_of_the_formula(model_type):
    torch.manual_seed(0)
    config, auto_class = CONFIGS[model_type], transformers.AutoModelForMaskedLM
    model = auto_class.from_config(copy.deepcopy(config), attn_implementation="sdpa").train()
    sequences = torch.randint(3, 300, (3, N))

    reference = auto_class.from_config(copy.deepcopy(config), attn_implementation="eager").eval()
    reference.load_state_dict(model.state_dict())
    with torch.no_grad():
        attentions = reference(sequences, output_attentions=True).attentions
    masses = []
    for P in attentions:  # (sequences, heads, n, n)
        values = np.linalg.svd(P.double().numpy(), compute_uv=False)
        masses.append((values.cumsum(-1) / values.sum(-1, keepdims=True)).mean(0))
    np.testing.assert_allclose(spectrum(model, sequences), np.stack(masses), atol=1e-5)

    assert model.training and model.config._attn_implementation == "sdpa", "the model was changed"


# Similarity


def test_closeness_of_known_states():
    original = torch.tensor([1.0, 0.0]).expand(2, 4, 2)
    assert similarity(original, original) == {"per_token": [1, 0], "per_document": [1, 0]}
    # In the first document three of four tokens point the other way, but their mean does not. In the second all do
    hidden = original * torch.tensor([[-1.0, -1.0, -1.0, 5.0], [-1.0, -1.0, -1.0, -1.0]])[..., None]
    found = similarity(hidden, original)
    assert found["per_token"] == pytest.approx([(-0.5 - 1) / 2, 0.5 / math.sqrt(2)])
    assert found["per_document"] == pytest.approx([0, math.sqrt(2)])


@pytest.mark.parametrize("model_type", CONFIGS)
def test_closeness_is_1_at_k_equal_to_n_and_less_below(model_type):
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(CONFIGS[model_type]).eval()
    sequences = torch.randint(3, 300, (4, N))
    rows, other = choose_k.measure_similarity(model, sequences, ["mean_pool", "conv"], [4, N], [0, 8])
    asked = [(name, b, k) for name in ("mean_pool", "conv") for b in (0, 8) for k in (4, N)]
    assert [(row["projection_type"], row["block_size"], row["k"]) for row in rows] == asked
    assert rows[2]["per_token"][0] > rows[0]["per_token"][0], "blocks bring the states no closer"
    for row in rows:
        for measure in MEASURES:
            mean, spread = row[measure]
            if row["k"] == N:
                assert mean == pytest.approx(1, abs=1e-5) and spread < 1e-5
            else:
                assert mean < 0.999 and spread > 0
        assert row["per_token"][0] > other["per_token"][0]


# The command


@pytest.fixture
def figures(monkeypatch):
    """Returns a dictionary that collects the figures that are saved, by the names of their files."""
    saved, savefig = {}, matplotlib.figure.Figure.savefig

    def save(figure, path, **options):
        saved[path.name] = figure
        savefig(figure, path, **options)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", save)
    return saved


@pytest.mark.parametrize(("model_type", "n"), [("bert", N), ("roberta", N), ("distilbert", N // 2)])
def test_tables_numbers_and_plots(model_type, n, models, text_file, tmp_path, capsys, figures):
    ks = [k for k in (4, 16, 32) if k <= n]
    options = ["--projection_types", "mean_pool", "linear", "--mass=0.8", "--block_sizes", "0"]
    options += ["--projected_dims", *map(str, ks)]
    if n < N:
        options.append(f"--max_seq_length={n}")
    choose_k.main(arguments(models / model_type, text_file, tmp_path, *options))
    numbers = json.loads((tmp_path / "choose_k.json").read_text())
    assert (numbers["n"], numbers["samples"], numbers["mass"]) == (n, 3, 0.8)
    found = [(row["projection_type"], row["k"]) for row in numbers["similarity"]]
    assert found == [("mean_pool", k) for k in ks] + [("linear", k) for k in ks]
    assert {row["k"] for row in numbers["similarity"] if row["per_token"][0] > 1 - 1e-5} == {n}
    for curve, k in zip(numbers["cumulative_by_layer"], numbers["smallest_k_by_layer"], strict=True):
        assert len(curve) == n and curve[k - 1] >= 0.8 and (k == 1 or curve[k - 2] < 0.8)
    assert np.shape(numbers["cumulative_at_quarter_by_head"]) == (2, 2)

    tables = (tmp_path / "choose_k.md").read_text(encoding="utf-8")
    assert tables in capsys.readouterr().out
    assert f"| linear | 0 | {n} | 1.000 ± 0.000 | 1.000 ± 0.000 |" in tables
    by_head = numbers["cumulative_at_quarter_by_head"]
    for layer, k in enumerate(numbers["smallest_k_by_layer"]):
        (line,) = (line for line in tables.splitlines() if line.startswith(f"| {layer} |"))
        _, _, of_layer, least, greatest, at_quarter, _ = line.split("|")
        assert int(of_layer) == k and int(least) <= k <= int(greatest)
        assert float(at_quarter) == pytest.approx(np.mean(by_head[layer]), abs=1e-3)

    (axes,) = figures["similarity.png"].axes
    shown = {container.get_label(): container[0].get_ydata() for container in axes.containers}
    for row in numbers["similarity"]:
        for measure in MEASURES:
            means = shown[f"{row['projection_type']}, no blocks, {measure.replace('_', ' ')}"]
            assert means[ks.index(row["k"])] == row[measure][0]
    assert set(shown["another document, per token"]) == {numbers["similarity_to_another_document"]["per_token"][0]}
    left, right, _ = figures["spectrum.png"].axes
    curves = [line.get_ydata() for line in left.lines if line.get_label().startswith("layer")]
    np.testing.assert_array_equal(curves, numbers["cumulative_by_layer"])
    np.testing.assert_array_equal(right.images[0].get_array(), by_head)
    for name in figures:
        pixels = matplotlib.image.imread(tmp_path / name)[..., :3]
        for half in np.array_split(pixels.mean(-1), 2, axis=1):
            assert half.std() > 0.05, f"{name} is blank"


def test_default_values_of_k_fit():
    assert choose_k.default_projected_dims(512, [0, 256]) == [16, 32, 64, 128]
    assert choose_k.default_projected_dims(500, [0, 250]) == [10, 20, 50, 100]
    for n in (3, 7, 24, 130, 300, 514):
        for k in choose_k.default_projected_dims(n, [0, default_block_size(n)]):
            fields = {"max_position_embeddings": n, "projected_dim": k, "block_size": default_block_size(n)}
            LinformerConfig(**fields, projection_type="mean_pool")


def test_text_is_read_in_order_and_from_the_validation_set(models, tmp_path):
    data, texts = tmp_path / "data", {"train": "a train text", "validation": "another text"}
    data.mkdir()
    for split, text in texts.items():
        rows = [json.dumps({"label": 1, "text": f"{text} {number}"}) for number in range(200)]
        (data / f"{split}.jsonl").write_text("\n".join(rows))
    common = {"model_name_or_path": str(models / "bert"), "output_dir": str(tmp_path / "out")}
    args = choose_k.ChoiceArguments(**common, dataset_name=str(data))
    assert (args.dataset_name, args.model_name_or_path) == (str(data), str(models / "bert"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(models / "bert")
    sequences = first_sequences(choose_k.texts_to_read(args), tokenizer, N, 5)
    assert sequences.shape == (5, N)
    read = "".join(tokenizer.batch_decode(sequences, skip_special_tokens=True))
    assert "".join(f" another text {number}" for number in range(200)).startswith(read) and "text 5" in read


def test_a_folder_of_sentence_transformers(models, text_file, tmp_path):
    """Model and tokenizer are found in the subfolder that `modules.json` names."""
    shutil.copytree(models / "bert", tmp_path / "sentences" / "0_Transformer")
    modules = [{"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}]
    (tmp_path / "sentences" / "modules.json").write_text(json.dumps(modules))
    measured = []
    for model in (models / "bert", tmp_path / "sentences"):
        choose_k.main(arguments(model, text_file, tmp_path / "out", "--projected_dims", "8"))
        measured.append(json.loads((tmp_path / "out" / "choose_k.json").read_text())["similarity"])
    assert measured[0] == measured[1]


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        (None, (), "--train_file: there is no file"),
        ("two words", (), "shorter than two sequences of 32 tokens"),
        ("text", ("--demo", "--max_seq_length=33"), "--max_seq_length 33 must be from 3 to 32"),
        ("text", ("--max_samples=1",), "--max_samples is 1"),
        ("text", ("--mass=0",), "--mass is 0"),
        ("text", ("--mass=1.5",), "--mass is 1.5"),
        ("text", ("--projected_dims", "4", "33"), "`projected_dim` must be from 1 .* got 33"),
        ("text", ("--projected_dims", "0"), "`projected_dim` must be from 1 .* got 0"),
        ("text", ("--projected_dims", "4", "5"), "a multiple of `projected_dim`, got 5"),
        ("text", ("--projected_dims", "5", "--projection_types", "conv"), "a multiple of `projected_dim`, got 5"),
        ("text", ("--projected_dims", "4", "--block_sizes", "12"), "`block_size` must be a divisor or a multiple .* got 12"),
        ("text", ("--text_column=words",), "--text_column words"),
        ("text", ("--dataset_name=/no/such/folder",), "--dataset_name and --train_file exclude each other"),
        ("text", ("--model_name_or_path=/no/such/folder",), "--model_name_or_path /no/such/folder"),
    ],
)
def test_bad_input_is_one_clear_line(content, more, message, models, text_file, tmp_path):
    path = text_file if content == "text" else tmp_path / "text.txt"
    if content not in ("text", None):
        path.write_text(content)
    with pytest.raises(UsageError, match=message) as raised:
        choose_k.main(arguments(models / "bert", path, tmp_path / "out", *more))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_is_one_clear_line(models, tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": "one"}\n{"text": \n')
    with pytest.raises(UsageError, match="line 2 of .* cannot be read"):
        choose_k.main(arguments(models / "bert", path, tmp_path / "out"))


def test_no_text_a_file_as_folder_and_a_decoder(models, text_file, tmp_path):
    with pytest.raises(UsageError, match="give --dataset_name, --train_file, or --demo"):
        choose_k.main([f"--model_name_or_path={models / 'bert'}", f"--output_dir={tmp_path}"])
    with pytest.raises(UsageError, match="--output_dir .* is a file"):
        choose_k.main(arguments(models / "bert", text_file, text_file))
    transformers.AutoTokenizer.from_pretrained(models / "bert").save_pretrained(tmp_path / "gpt2")
    transformers.GPT2Config(n_embd=16, n_layer=1, n_head=1).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(UsageError, match="`model_type` is 'gpt2', which cannot be converted"):
        choose_k.main(arguments(tmp_path / "gpt2", text_file, tmp_path / "out"))
