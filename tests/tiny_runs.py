"""Small runs of the training commands: their inputs and arguments, and what they leave in a folder."""

import json
import shutil
from pydoc_data.topics import topics

import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import BertConfig, BertForMaskedLM

from transformers_linformer.conversion.convert import convert_to_linformer
from transformers_linformer.tokenization import train_tokenizer


TINY_FIELDS = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "projected_dim": 8,
}
TINY = ",".join(f"{name}={value}" for name, value in TINY_FIELDS.items())
COMMON = ("--do_train", "--per_device_train_batch_size=4", "--report_to=none", "--use_cpu", "--disable_tqdm=True")
# Few enough rows for several epochs, and a last step in the middle of one
MIDDLE = ("--max_steps=10", "--save_steps=5")


def make_inputs(folder):
    """Fills a folder with text, a table of texts with classes and one with numbers, a teacher and its student."""
    lines = " ".join(topics[name] for name in sorted(topics)[:6]).split(". ")[:24]
    lines = [" ".join(line.split()) for line in lines]
    (folder / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    (folder / "other.txt").write_text("\n".join([*lines[:-1], "Something else"]), encoding="utf-8")
    for name, labels in (("classes", "ab"), ("numbers", (0.5, 1.5, 4.0))):
        rows = [json.dumps({"text": line, "label": labels[row % len(labels)]}) for row, line in enumerate(lines)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    tokenizer = train_tokenizer(Dataset.from_dict({"text": lines}), 300, 32)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        pad_token_id=tokenizer.pad_token_id,
    )
    teacher = BertForMaskedLM(config)
    for model, name in ((teacher, "teacher"), (convert_to_linformer(teacher, projected_dim=4, block_size=8), "student")):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def mlm_arguments(inputs, output_dir, *more):
    text = (f"--train_file={inputs / 'text.txt'}", "--vocab_size=300", f"--config_overrides={TINY}", "--line_by_line")
    return [*COMMON, *text, f"--output_dir={output_dir}", *map(str, more)]


def glue_arguments(inputs, output_dir, *more, table="classes"):
    files = [f"--{split}_file={inputs / table}.jsonl" for split in ("train", "validation")]
    return [*COMMON, *files, "--vocab_size=300", f"--config_overrides={TINY}", f"--output_dir={output_dir}", *map(str, more)]


def distill_arguments(inputs, output_dir, *more):
    models = (f"--teacher_name_or_path={inputs / 'teacher'}", f"--model_name_or_path={inputs / 'student'}")
    text = (f"--train_file={inputs / 'text.txt'}", "--line_by_line")
    return [*COMMON, *models, *text, f"--output_dir={output_dir}", *map(str, more)]


# No evaluation after the first is better, as the steps are so small
STOPS_EARLY = ("--eval_strategy=steps", "--eval_steps=1", "--early_stopping_patience=3", "--learning_rate=1e-9")


def files_of(folder):
    """Returns the bytes and the time of all files in a folder."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def read(folder, name):
    return json.loads((folder / name).read_text())


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same_weights(one, other):
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def as_if_killed(folder, step):
    """Leaves in the folder what a run that was killed leaves there after it has written the checkpoint of a step."""
    for path in folder.iterdir():
        if path.is_file() and path.name != "run.json":
            path.unlink()
        elif path.name.startswith("checkpoint-") and int(path.name.split("-")[1]) > step:
            shutil.rmtree(path)
    if (folder / "run.json").exists():
        record = read(folder, "run.json") | {"trained": None, "done": {}}
        (folder / "run.json").write_text(json.dumps(record))
