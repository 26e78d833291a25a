"""Tests which weights and tokenizers the commands start from: only a head may be new, and the vocabulary must fit."""

import json
import re
import shutil
from pydoc_data.topics import topics

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, RobertaConfig, RobertaForSequenceClassification

from benchmarks import choose_k
from configuration_linformer import LinformerConfig
from modeling_linformer import LinformerForMaskedLM, LinformerForSequenceClassification, LinformerModel
from transformers_linformer.commands import convert, distill, glue, mlm
from transformers_linformer.conversion.convert import convert_to_linformer
from transformers_linformer.errors import UsageError
from transformers_linformer.tokenization import train_tokenizer


WORDS = [f"{first} {second}" for first in ("a", "good", "bad") for second in ("film", "dog")]
LAYER = "encoder.layer.1.attention.self.query.weight"


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Returns a folder with a BERT, a RoBERTa, two Linformers, tokenizers, and text."""
    folder = tmp_path_factory.mktemp("models")
    lines = [line for name in sorted(topics)[:8] for line in topics[name].splitlines() if line.strip()]
    (folder / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    (folder / "train.csv").write_text("text,label\n" + "".join(f"{text},{text.split()[0]}\n" for text in WORDS))
    tokenizer = train_tokenizer(Dataset.from_dict({"text": lines}), 300, 32)
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "max_position_embeddings": 32, "pad_token_id": tokenizer.pad_token_id}
    three = {"id2label": dict(enumerate(("a", "bad", "good"))), "label2id": {"a": 0, "bad": 1, "good": 2}}
    torch.manual_seed(0)
    bert = BertForMaskedLM(BertConfig(**sizes))
    linformer = LinformerConfig(**sizes, projected_dim=8, projection_type="linear", projection_sharing="none")
    made = {
        "bert": bert,
        "encoder": bert.bert,
        "roberta": RobertaForSequenceClassification(RobertaConfig(**sizes | {"max_position_embeddings": 34}, **three)),
        "linformer": LinformerForMaskedLM(linformer),
        "classifier": LinformerForSequenceClassification(LinformerConfig(**linformer.to_dict() | three)),
        "student": convert_to_linformer(bert, projected_dim=8, block_size=8),
    }
    for name, model in made.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    larger = AutoTokenizer.from_pretrained(folder / "bert")
    larger.add_tokens(["dog", "film"])
    larger.save_pretrained(folder / "larger")
    for name, missing in (("no_pad", ["pad_token"]), ("no_mask", ["mask_token"]), ("neither", ["pad_token", "mask_token"])):
        shutil.copytree(folder / "bert", folder / name, ignore=shutil.ignore_patterns("model*", "config.json"))
        file = folder / name / "tokenizer_config.json"
        settings = json.loads(file.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
        file.write_text(json.dumps(settings | dict.fromkeys(missing)))
    return folder


def run(command, models, output_dir, *more, model=None):
    """Runs a command in this process. `model` replaces the one that the command starts from."""
    text, training = f"--train_file={models / 'text.txt'}", ("--max_steps=1", "--report_to=none", "--use_cpu", "--do_train")
    quiet = ("--per_device_train_batch_size=4", "--disable_tqdm=True")
    defaults = {
        mlm: ("linformer", text, *training, *quiet),
        glue: ("classifier", f"--train_file={models / 'train.csv'}", *training, *quiet),
        distill: ("student", text, f"--teacher_name_or_path={models / 'bert'}", *training, *quiet),
        convert: ("bert", "--projected_dim=8"),
        choose_k: ("bert", text, "--max_samples=2", "--projected_dims=8"),
    }
    name, *options = defaults[command]
    if "--do_eval" in more:
        options.remove("--do_train")
    command.main([f"--model_name_or_path={model or models / name}", f"--output_dir={output_dir}", *options, *more])


def refusal(*args, **kwargs):
    with pytest.raises(UsageError) as raised:
        run(*args, **kwargs)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def copy(models, name, folder, weights=None, **fields):
    """Copies a model. `weights` changes the dictionary of its tensors, and `fields` are changed in its configuration."""
    shutil.copytree(models / name, folder)
    if weights is not None:
        tensors = load_file(folder / "model.safetensors")
        weights(tensors, next(key for key in tensors if key.endswith(LAYER)))
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    return folder


def fill(value):
    def change(tensors, key):
        tensors[key][3, 4] = value

    return change


# Weights

DAMAGES = {
    "missing": ({"weights": lambda tensors, key: tensors.pop(key)}, f"lack .*{LAYER}"),
    "more layers": ({"num_hidden_layers": 3}, r"lack .*encoder.layer.2.* and \d+ more"),
    "fewer layers": ({"num_hidden_layers": 1}, "no place for .*encoder.layer.1"),
    "another shape": ({"max_position_embeddings": 64}, r"position_embeddings.weight is \(3[24], 16\) and not \(64, 16\)"),
    "nan": ({"weights": fill(torch.nan)}, f"not finite .*{LAYER}"),
    "infinity": ({"weights": fill(-torch.inf)}, f"not finite .*{LAYER}"),
}
STARTS = {
    "mlm": (mlm, "linformer", ()),
    "glue": (glue, "classifier", ()),
    "glue, with a new head": (glue, "classifier", ("--ignore_mismatched_sizes",)),
    "glue of BERT": (glue, "bert", ("--ignore_mismatched_sizes",)),
    "glue of RoBERTa": (glue, "roberta", ("--ignore_mismatched_sizes",)),
    "glue of an encoder": (glue, "encoder", ()),
    "distill": (distill, "student", ()),
    "convert": (convert, "bert", ()),
    "choose_k": (choose_k, "bert", ()),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("start", STARTS)
def test_a_body_that_does_not_fit_is_refused(start, damage, models, tmp_path):
    command, name, options = STARTS[start]
    changes, message = DAMAGES[damage]
    model, argument = copy(models, name, tmp_path / "model", **changes), "--model_name_or_path"
    if command is distill and "layers" in damage:  # the student is compared with its teacher first
        message, model, argument = "its num_hidden_layers is 2, not [13]", models / "bert", "--teacher_name_or_path"
        options = (f"--model_name_or_path={tmp_path / 'model'}",)
    refused = refusal(command, models, tmp_path / "out", *options, model=model)
    assert re.search(message, refused), refused
    assert refused.startswith(f"{argument} {model}") and "ignore_mismatched_sizes" not in refused


@pytest.mark.parametrize("damage", ["missing", "fewer layers", "another shape", "nan"])
def test_a_teacher_whose_body_does_not_fit_is_refused(damage, models, tmp_path):
    changes, message = DAMAGES[damage]
    teacher = copy(models, "bert", tmp_path / "teacher", **changes)
    if damage == "fewer layers":  # so that it agrees with the student's configuration
        teacher = copy(models, "bert", tmp_path / "deep", num_hidden_layers=1)
        copy(models, "bert", tmp_path / "source", weights=only_first_layer, num_hidden_layers=1)
        student = convert_to_linformer(str(tmp_path / "source"), projected_dim=8, block_size=8)
        student.save_pretrained(tmp_path / "student")
        AutoTokenizer.from_pretrained(models / "bert").save_pretrained(tmp_path / "student")
    model = tmp_path / "student" if damage == "fewer layers" else None
    refused = refusal(distill, models, tmp_path / "out", f"--teacher_name_or_path={teacher}", model=model)
    assert re.search(message, refused), refused
    assert refused.startswith(f"--teacher_name_or_path {teacher}: ")


def test_a_model_that_is_not_finite_is_not_converted():
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertForMaskedLM(BertConfig(vocab_size=20, **sizes))
    model.cls.predictions.bias.data[3] = torch.nan
    with pytest.raises(ValueError, match="not finite in lm_head.bias, lm_head.decoder.bias"):
        convert_to_linformer(model)


def only_first_layer(tensors, key):
    for name in [name for name in tensors if "encoder.layer.1." in name]:
        del tensors[name]


@pytest.mark.parametrize("override", ["max_position_embeddings=16", "num_hidden_layers=1", "projection_sharing=headwise"])
@pytest.mark.parametrize("more", [(), ("--ignore_mismatched_sizes",)])
def test_overrides_that_change_the_body(more, override, models, tmp_path):
    refused = refusal(glue, models, tmp_path / "out", f"--config_overrides={override}", *more)
    assert f": keep --config_overrides {override} to fields that have no weights" in refused
    assert "ignore_mismatched_sizes" not in refused and not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["cut", "no weights"])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("command", [mlm, convert])
def test_weights_that_cannot_be_read(command, file, damage, models, tmp_path):
    model = copy(models, "linformer" if command is mlm else "bert", tmp_path / "model")
    if file.endswith(".bin"):
        torch.save(load_file(model / "model.safetensors"), model / file)
        (model / "model.safetensors").unlink()
    content = (model / file).read_bytes()
    (model / file).write_bytes(content[: len(content) // 2] if damage == "cut" else b"no weights")
    refused = refusal(command, models, tmp_path / "out", model=model)
    assert refused.startswith(f"--model_name_or_path {model}: the weights cannot be read (")
    assert "weights_only" not in refused, "torch advises to run the code in a pickle"


@pytest.mark.parametrize("command", [mlm, convert, choose_k])
def test_a_configuration_with_a_value_of_another_type(command, models, tmp_path):
    name = "linformer" if command is mlm else "bert"
    model = copy(models, name, tmp_path / "model", vocab_size="many")
    assert "Validation error for field 'vocab_size'" in refusal(command, models, tmp_path / "out", model=model)


def test_weights_that_float16_does_not_hold(models, tmp_path):
    model = copy(models, "linformer", tmp_path / "model", fill(1e6))
    run(mlm, models, tmp_path / "out", model=model)
    refused = refusal(mlm, models, tmp_path / "out16", "--dtype=float16", model=model)
    assert re.search(f"not finite in .*{LAYER}: take an earlier checkpoint, or load them as float32", refused)


# Heads


@pytest.mark.parametrize(
    ("command", "name", "new"),
    [
        (glue, "linformer", ["classifier.dense.bias", "classifier.dense.weight", "classifier.out_proj.bias", "..."]),
        (glue, "bert", ["bert.pooler.dense.bias", "bert.pooler.dense.weight", "classifier.bias", "classifier.weight"]),
        (mlm, "classifier", ["lm_head.bias", "lm_head.decoder.bias", "lm_head.dense.bias", "lm_head.dense.weight", "..."]),
    ],
)
def test_a_missing_head_starts_anew_by_name(command, name, new, models, tmp_path, log):
    run(command, models, tmp_path / "out", "--learning_rate=1e-9", model=models / name)
    (line,) = [line for line in log.messages if "random" in line]
    assert line.startswith("The head starts from random weights: " + ", ".join(new).removesuffix("..."))
    assert not any("LOAD REPORT" in line for line in log.messages)
    before, after = load_file(models / name / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    body = [key for key in after if key.startswith(("linformer.", "bert.")) and "pooler" not in key]
    assert len(body) > 20
    for key in body:
        torch.testing.assert_close(after[key], before[key], atol=1e-6, rtol=0)


def test_a_head_of_another_size_starts_anew_if_it_is_asked_for(models, tmp_path, log):
    rows = "".join(f"{text},{text}\n" for text in WORDS)
    (tmp_path / "six.csv").write_text(f"text,label\n{rows}{rows}")
    more = (f"--train_file={tmp_path / 'six.csv'}", "--learning_rate=1e-9")
    refused = refusal(glue, models, tmp_path / "out", *more)
    assert "classifier.out_proj.weight is (3, 16) and not (6, 16)" in refused
    assert refused.endswith(": give --ignore_mismatched_sizes to start with a new head for 6 labels.")
    run(glue, models, tmp_path / "out", *more, "--ignore_mismatched_sizes")
    assert "The head starts from random weights: classifier.out_proj.bias, classifier.out_proj.weight" in log.messages


@pytest.mark.parametrize(("command", "name"), [(glue, "linformer"), (mlm, "classifier")])
def test_a_head_that_nothing_trains_does_not_start_anew(command, name, models, tmp_path):
    files = {glue: "--validation_file=" + str(models / "train.csv"), mlm: "--validation_file=" + str(models / "text.txt")}
    refused = refusal(command, models, tmp_path / "out", files[command], "--do_eval", model=models / name)
    assert re.search("head lacks (classifier|lm_head).* would stay random: name a checkpoint whose head was trained", refused)


def test_the_head_of_a_student_is_needed(models, tmp_path):
    model = copy(models, "student", tmp_path / "model", lambda tensors, key: tensors.pop("lm_head.dense.weight"))
    assert "lacks lm_head.dense.weight" in refusal(distill, models, tmp_path / "out", model=model)


def test_a_pooler_that_nothing_reads_is_not_made_up(models, tmp_path, log):
    student = LinformerModel.from_pretrained(models / "student", add_pooling_layer=False)
    student.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(models / "student").save_pretrained(tmp_path / "model")
    run(distill, models, tmp_path / "out", model=tmp_path / "model")
    assert not any("pooler" in key for key in load_file(tmp_path / "out" / "model.safetensors"))
    assert not any("random" in line for line in log.messages)


def test_heads_that_are_left_out_are_named(models, tmp_path, log):
    run(glue, models, tmp_path / "out", model=models / "linformer")
    (line,) = [line for line in log.messages if "left out" in line]
    assert re.match("These tensors are left out, as a LinformerForSeq.* has no place for them: lm_head.bias, lm_head", line)


# Tokenizers


@pytest.mark.parametrize("command", [mlm, glue, distill, convert, choose_k])
def test_a_tokenizer_without_a_padding_token(command, models, tmp_path):
    refused = refusal(command, models, tmp_path / "out", f"--tokenizer_name={models / 'no_pad'}")
    assert refused.startswith(f"--tokenizer_name {models / 'no_pad'}: the tokenizer has no padding token: ")
    assert "name another one, or save it again after tokenizer.add_special_tokens({'pad_token': '<pad>'})" in refused


def test_a_tokenizer_without_a_mask_token(models, tmp_path):
    more = (f"--tokenizer_name={models / 'no_mask'}",)
    refused = refusal(mlm, models, tmp_path / "out", *more)
    assert refused.startswith(f"--tokenizer_name {models / 'no_mask'}: the tokenizer has no mask token: ")
    refused = refusal(mlm, models, tmp_path / "out", f"--tokenizer_name={models / 'neither'}")
    assert "the tokenizer has no padding token and no mask token: " in refused
    run(glue, models, tmp_path / "out", *more)  # which masks nothing


@pytest.mark.parametrize("command", [mlm, glue])
def test_the_embeddings_grow_where_the_model_is_trained(command, models, tmp_path, log):
    larger = (f"--tokenizer_name={models / 'larger'}", "--learning_rate=1e-9")
    run(command, models, tmp_path / "out", *larger)
    assert "The tokenizer has 302 tokens, the checkpoint 300: the embeddings grow" in " ".join(log.messages)
    name, key = {mlm: "linformer", glue: "classifier"}[command], "linformer.embeddings.word_embeddings.weight"
    before, after = load_file(models / name / "model.safetensors")[key], load_file(tmp_path / "out" / "model.safetensors")[key]
    assert len(after) == 302 and read_config(tmp_path / "out")["vocab_size"] == 302
    torch.testing.assert_close(after[:300], before, atol=1e-6, rtol=0)
    run(command, models, tmp_path / "again", *larger[1:], model=tmp_path / "out")


def read_config(folder):
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("command", [mlm, glue, distill, convert, choose_k])
def test_a_larger_tokenizer_is_refused_where_the_embeddings_cannot_grow(command, models, tmp_path):
    more = [f"--tokenizer_name={models / 'larger'}"]
    if command in (mlm, glue):
        more += ["--do_eval", f"--validation_file={models / ('text.txt' if command is mlm else 'train.csv')}"]
    refused = refusal(command, models, tmp_path / "out", *more)
    assert refused.startswith(f"--tokenizer_name {models / 'larger'}: the tokenizer has 302 tokens, the model only 300")


@pytest.mark.parametrize("command", [mlm, glue])
def test_token_ids_with_gaps(command, models, tmp_path):
    """The largest id counts, and not the number of tokens."""
    shutil.copytree(models / "bert", tmp_path / "gaps", ignore=shutil.ignore_patterns("model*", "config.json"))
    file = tmp_path / "gaps" / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["e"] = 310
    file.write_text(json.dumps(content))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "gaps")
    assert tokenizer.convert_tokens_to_ids("e") == 310 and len(tokenizer) == 300
    run(command, models, tmp_path / "out", f"--tokenizer_name={tmp_path / 'gaps'}")
    assert read_config(tmp_path / "out")["vocab_size"] == 311
