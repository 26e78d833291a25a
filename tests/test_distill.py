"""Tests linformer-distill as a user runs it: the student comes closer to its teacher, also in several processes."""

import json
import shutil
from pydoc_data.topics import topics

import numpy as np
import pytest
import torch
from datasets import Dataset
from processes import kill_script, run_in_forks, run_script
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, BertModel, TrainingArguments

from modeling_linformer import LinformerForMaskedLM
from transformers_linformer.commands import distill
from transformers_linformer.conversion.convert import convert_to_linformer
from transformers_linformer.errors import UsageError
from transformers_linformer.tokenization import train_tokenizer
from transformers_linformer.training.distillation import DistillationTrainer, cosine_similarities


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """Returns a folder with a teacher, the student that was converted from it, and text."""
    folder = tmp_path_factory.mktemp("pair")
    text = [topics[name] for name in sorted(topics)[:12]]
    (folder / "text.txt").write_text("\n".join(text), encoding="utf-8")
    tokenizer = train_tokenizer(Dataset.from_dict({"text": text}), 300, 32)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.5,  # attention that is not nearly uniform, so that there is something to lose
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    teacher = BertForMaskedLM(config)
    student = convert_to_linformer(teacher, projected_dim=4, block_size=8)
    for model, name in ((teacher, "teacher"), (student, "student")):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def arguments(pair, output_dir, *more):
    return [
        f"--teacher_name_or_path={pair / 'teacher'}",
        f"--model_name_or_path={pair / 'student'}",
        f"--train_file={pair / 'text.txt'}",
        f"--output_dir={output_dir}",
        "--do_train",
        "--do_eval",
        "--per_device_train_batch_size=4",
        "--learning_rate=3e-3",
        "--max_steps=40",
        "--save_steps=10",
        "--logging_steps=1",
        "--report_to=none",
        "--use_cpu",
        "--disable_tqdm=True",
        *map(str, more),
    ]


def read(folder, name):
    return json.loads((folder / name).read_text())


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="session")
def finished_run(pair, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "out"
    distill.main(arguments(pair, folder, "--eval_strategy=steps", "--eval_steps=20", "--eval_on_start"))
    return folder


def test_the_student_comes_closer_as_it_goes(finished_run):
    history = [entry for entry in read(finished_run, "trainer_state.json")["log_history"] if "eval_loss" in entry]
    for name, better in (("eval_loss", np.less), ("eval_token_cosine", np.greater), ("eval_document_cosine", np.greater)):
        values = [entry[name] for entry in history[:3]]
        assert better(values[1], values[0]) and better(values[2], values[0]), (name, values)
        # The loss, which is trained, falls from each evaluation to the next. The last layer alone may stand still meanwhile
        assert name != "eval_loss" or better(values[2], values[1]), values


def test_the_head_stays_as_it_was(pair, finished_run):
    before, after = weights(pair / "student"), weights(finished_run)
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name], after[name]) == name.startswith("lm_head"), name
    assert type(LinformerForMaskedLM.from_pretrained(finished_run)) is LinformerForMaskedLM


def test_loss_and_closeness_are_as_defined(pair, tmp_path):
    """Compares them, for a batch with padding, with loops over its documents and layers. The head plays no part."""
    teacher = BertModel.from_pretrained(pair / "teacher").eval()
    student = LinformerForMaskedLM.from_pretrained(pair / "student").eval()
    generator = torch.Generator().manual_seed(0)
    lengths = [20, 7]
    rows = [torch.randint(5, 200, (length,), generator=generator) for length in lengths]
    inputs = {
        "input_ids": torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=1),
        "attention_mask": torch.tensor([[1] * length + [0] * (20 - length) for length in lengths]),
    }
    training_args = TrainingArguments(output_dir=tmp_path, report_to="none")
    trainer = DistillationTrainer(model=student, teacher=teacher, args=training_args, card=None)
    with torch.no_grad():
        loss, states_and_mask = trainer.compute_loss(student, inputs, return_outputs=True)
        measures = cosine_similarities(*states_and_mask)
        squares, count = [0.0] * 2, 0
        for index, row in enumerate(rows):
            target = teacher(row[None], output_hidden_states=True).hidden_states
            output = student.linformer(row[None], output_hidden_states=True).hidden_states
            for layer in (1, 2):
                squares[layer - 1] += float(((target[layer] - output[layer]) ** 2).sum())
            count += target[1].numel()
            by_token = torch.cosine_similarity(output[2], target[2], dim=-1).mean()
            by_document = torch.cosine_similarity(output[2].mean(1), target[2].mean(1), dim=-1)[0]
            torch.testing.assert_close(measures[index], torch.stack([by_token, by_document]), atol=1e-5, rtol=0)
    assert float(loss) == pytest.approx(sum(squares) / count / 2, rel=1e-5)


@pytest.mark.slow("kills; test_run_mlm kills the same Trainer")
def test_killed_at_any_step_the_final_weights_are_the_same(pair, finished_run, tmp_path):
    argv = arguments(pair, tmp_path / "out")
    kill_script(tmp_path, "distill", argv, tmp_path / "out" / "checkpoint-20")
    assert not (tmp_path / "out" / "checkpoint-40").exists()
    result = run_script(tmp_path, "distill", argv)
    assert result.returncode == 0, result.stderr
    assert "Going on from" in result.stderr
    ours, theirs = weights(tmp_path / "out"), weights(finished_run)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_pairs(pair, tmp_path):
    """The student learns from pairs, which are read as a model that was fine-tuned on pairs reads them."""
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"first": "the value of a string", "second": "is a list of names"}\n' * 8, encoding="utf-8")
    more = (f"--train_file={path}", f"--validation_file={path}", "--text_column", "first", "second", "--line_by_line")
    distill.main(arguments(pair, tmp_path / "out", *more, "--eval_on_start", "--eval_strategy=steps"))
    history = [entry for entry in read(tmp_path / "out", "trainer_state.json")["log_history"] if "eval_loss" in entry]
    assert history[-1]["eval_loss"] < history[0]["eval_loss"] / 2


def test_a_teacher_of_sentence_transformers(pair, tmp_path):
    shutil.copytree(pair / "teacher", tmp_path / "0_Transformer")
    modules = [{"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    teacher = distill.load_teacher(str(tmp_path), BertConfig.from_pretrained(pair / "teacher"))
    wanted = BertModel.from_pretrained(pair / "teacher").embeddings.word_embeddings.weight
    assert torch.equal(teacher.embeddings.word_embeddings.weight, wanted)


@pytest.mark.parametrize("per_sequence", [1, 2], ids=["data parallel", "sequence parallel"])
def test_two_processes_train_as_one(per_sequence, pair, finished_run, tmp_path):
    argv = arguments(pair, tmp_path / "out", f"--per_device_train_batch_size={2 * per_sequence}")
    argv.append(f"--sequence_parallel_size={per_sequence}")
    run_in_forks(tmp_path, "distill", argv, 2)
    assert (tmp_path / "out" / "checkpoint-40" / "rng_state_1.pth").is_file(), "there was no second process"
    one, two = weights(finished_run), weights(tmp_path / "out")
    for name in one:
        # A bias that all keys share changes no softmax, so its gradient is only rounding, which Adam scales up
        if not name.endswith("key.bias"):
            torch.testing.assert_close(two[name], one[name], atol=1e-4, rtol=0, msg=name)
    metrics = [read(folder, "eval_results.json") for folder in (finished_run, tmp_path / "out")]
    for name in ("eval_token_cosine", "eval_document_cosine"):
        assert metrics[0][name] == pytest.approx(metrics[1][name], abs=1e-4)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--teacher_name_or_path=/no/such/folder",), "--teacher_name_or_path /no/such/folder: "),
        (("--teacher_name_or_path=other",), "is not what the Linformer was converted from: its hidden_size is 32, not 16"),
        (("--model_name_or_path=teacher",), "holds a BertForMaskedLM, not a Linformer"),
        (("--max_seq_length=33",), "--max_seq_length 33 must be from 3 to 32"),
    ],
)
def test_bad_input_is_one_clear_line(more, message, pair, tmp_path):
    other = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    BertModel(other).save_pretrained(tmp_path / "other")
    more = [option.replace("=other", f"={tmp_path}/other").replace("=teacher", f"={pair}/teacher") for option in more]
    with pytest.raises(UsageError, match=message) as raised:
        distill.main(arguments(pair, tmp_path / "out", *more))
    assert "\n" not in str(raised.value)


def test_longer_than_the_teacher_reads(pair, tmp_path):
    student = convert_to_linformer(str(pair / "teacher"), projected_dim=4, max_position_embeddings=64)
    student.save_pretrained(tmp_path / "long")
    AutoTokenizer.from_pretrained(pair / "teacher").save_pretrained(tmp_path / "long")
    options = (f"--model_name_or_path={tmp_path / 'long'}", "--max_steps=1")
    distill.main(arguments(pair, tmp_path / "out", *options))  # by default as long as the teacher reads
    with pytest.raises(UsageError, match="--max_seq_length 64 is more than the 32 tokens that the teacher reads"):
        distill.main(arguments(pair, tmp_path / "out2", *options, "--max_seq_length=64"))
