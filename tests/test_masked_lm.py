"""Tests which tokens are masked, and how it is measured how well a model predicts them."""

import math

import datasets
import pytest
import torch
from datasets import Dataset
from tiny_runs import TINY, make_inputs, mlm_arguments, read
from transformers import TrainingArguments

from transformers_linformer import LinformerConfig, LinformerForMaskedLM
from transformers_linformer.commands import mlm
from transformers_linformer.model_card import TrainingCard, last_results
from transformers_linformer.tokenization import train_tokenizer
from transformers_linformer.training import checkpoints
from transformers_linformer.training.arguments import TextArguments
from transformers_linformer.training.masked_lm import MaskingCollator, NewMasksEachEpoch, unigram_perplexity
from transformers_linformer.training.steps import texts_of
from transformers_linformer.training.text import make_sequences
from transformers_linformer.training.trainer import LinformerTrainer


TEXT = "the quick brown fox jumps over the lazy dog and runs away from the old house near the river"


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(Dataset.from_dict({"text": [TEXT] * 3}), 300, 64)


@pytest.fixture(scope="module")
def sequences(tokenizer):
    return Dataset.from_dict({"input_ids": [tokenizer(TEXT[start:])["input_ids"] for start in range(0, 40, 4)]})


def labels(collator, sequences):
    return collator(list(sequences))["labels"]


def test_masks_depend_on_the_seed_and_the_epoch(tokenizer, sequences):
    collators = [MaskingCollator(tokenizer, seed, mlm_probability=0.3) for seed in (0, 0, 1)]
    first, same, other = (labels(collator, sequences) for collator in collators)
    assert torch.equal(first, same) and not torch.equal(first, other)
    collators[0].epoch = 1
    assert not torch.equal(first, labels(collators[0], sequences))
    # They depend on nothing else
    collators[0].epoch = 0
    alone = [labels(collators[0], sequences.select([row])) for row in range(len(sequences))]
    assert all(torch.equal(row[0], first[number, : row.shape[1]]) for number, row in enumerate(alone))


def test_training_masks_anew_in_each_epoch_and_evaluation_does_not(tokenizer, sequences, tmp_path):
    seen = {"train": [], "eval": []}

    class Collator(MaskingCollator):
        def __init__(self, split):
            super().__init__(tokenizer, 0, mlm_probability=0.3)
            self.split = split

        def torch_call(self, examples):
            batch = super().torch_call(examples)
            seen[self.split].append((self.epoch, batch["labels"]))
            return batch

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = LinformerForMaskedLM(
        LinformerConfig(**sizes, vocab_size=len(tokenizer), max_position_embeddings=64, projected_dim=8)
    )
    collator = Collator("train")
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=3,
        per_device_train_batch_size=10,
        per_device_eval_batch_size=10,
        eval_strategy="epoch",
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = LinformerTrainer(
        model=model,
        args=arguments,
        train_dataset=sequences,
        eval_dataset=sequences,
        processing_class=tokenizer,
        data_collator=collator,
        eval_data_collator=Collator("eval"),
        callbacks=[NewMasksEachEpoch(collator)],
        card=TrainingCard("fill-mask", ""),
    )
    trainer.train()
    assert [epoch for epoch, _ in seen["train"]] == [0, 1, 2]
    first, *others = (batch for _, batch in seen["eval"])
    assert len(others) == 2 and all(torch.equal(first, other) for other in others)
    rows = {tuple(sorted(map(tuple, batch.tolist()))) for _, batch in seen["train"]}
    assert len(rows) == 3


def test_a_run_masks_anew_in_each_epoch_but_evaluates_on_the_same_masks(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(mlm, "unigram_perplexity", lambda *arguments: seen.append(arguments) or 1.0)
    inputs = make_inputs(tmp_path)
    options = ("--do_eval", f"--validation_file={inputs / 'text.txt'}", "--num_train_epochs=3", "--save_strategy=no")
    # Each epoch is one batch, and the model stays as it is, so that only other masks change the loss
    options += ("--eval_strategy=epoch", "--logging_strategy=epoch", "--learning_rate=0", "--per_device_train_batch_size=24")
    fields = f"--config_overrides={TINY},hidden_dropout_prob=0.0,attention_probs_dropout_prob=0.0"
    mlm.main(mlm_arguments(inputs, tmp_path / "out", *options, fields))
    history = read(tmp_path / "out", "trainer_state.json")["log_history"]
    losses = [[round(entry[name], 4) for entry in history if name in entry] for name in ("loss", "eval_loss")]
    assert len(set(losses[0])) == 3 and len(losses[1]) == 3 and len(set(losses[1])) == 1
    ((_, _, collator, vocab_size, special_ids),) = seen
    assert collator.epoch == 0 and sorted(special_ids) == [0, 1, 2, 3, 4] and vocab_size > 256


def test_unigram_model_counts_no_special_tokens(tokenizer, sequences):
    collator = MaskingCollator(tokenizer, 0, mlm_probability=0.3)
    found = unigram_perplexity(sequences, sequences, collator, len(tokenizer), tokenizer.all_special_ids)
    counts = torch.ones(len(tokenizer), dtype=torch.float64)  # one more of each, so that no frequency is 0
    for input_ids in sequences["input_ids"]:
        for token in input_ids:
            counts[token] += token not in tokenizer.all_special_ids
    targets = labels(collator, sequences)
    log_probabilities = (counts / counts.sum()).log()[targets[targets != -100]]
    assert found == pytest.approx(math.exp(-log_probabilities.mean()))


def test_checkpoints_are_sorted_by_their_number(tmp_path, monkeypatch):
    for number in (500, 1000, 90):
        (tmp_path / f"checkpoint-{number}").mkdir()
    monkeypatch.setattr(checkpoints, "is_complete", lambda *ignored: True)
    assert checkpoints.last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-1000")


@pytest.mark.parametrize("streaming", [False, True])
def test_the_first_samples_are_taken_and_no_others(streaming, tmp_path):
    for name in ("train", "validation"):
        (tmp_path / f"{name}.txt").write_text("\n".join(f"{name} {row}" for row in range(20)))
    files = {f"{name}_file": str(tmp_path / f"{name}.txt") for name in ("train", "validation")}
    data = TextArguments(**files, max_train_samples=3, max_eval_samples=2, streaming=streaming)
    training = TrainingArguments(output_dir=str(tmp_path), do_train=True, do_eval=True, report_to="none")
    texts = {split: [row["text"] for row in rows] for split, rows in texts_of(data, training).items()}
    assert texts == {"train": ["train 0", "train 1", "train 2"], "validation": ["validation 0", "validation 1"]}


def test_nothing_is_held_out_unless_it_is_evaluated(tmp_path):
    (tmp_path / "train.txt").write_text("\n".join(map(str, range(40))))
    data = TextArguments(train_file=str(tmp_path / "train.txt"), text_column=["text"])
    for do_eval, lines in ((False, 40), (True, 38)):
        training = TrainingArguments(output_dir=str(tmp_path), do_train=True, do_eval=do_eval, report_to="none")
        texts = texts_of(data, training)
        assert texts["train"]["text"][:] == list(map(str, range(lines)))
        assert do_eval == ("validation" in texts)


def test_the_card_has_the_last_scores():
    history = [{"loss": 3.0, "step": 1}, {"eval_accuracy": 0.1, "eval_runtime": 1.0}, {"eval_accuracy": 0.2, "epoch": 2}]
    assert last_results(history) == {"accuracy": 0.2}


@pytest.mark.parametrize("line_by_line", [False, True])
def test_a_run_that_goes_on_tokenizes_nothing_again(line_by_line, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    (tmp_path / "text.txt").write_text("\n".join([TEXT] * 40))
    sizes = "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=16,projected_dim=8"
    arguments = ["--train_file", str(tmp_path / "text.txt"), "--output_dir", str(tmp_path / "out"), "--do_train", "--use_cpu"]
    arguments += ["--config_overrides", f"{sizes},max_position_embeddings=32", "--vocab_size", "300", "--report_to", "none"]
    arguments += ["--save_strategy", "epoch", *(["--line_by_line"] if line_by_line else [])]
    mlm.main([*arguments, "--num_train_epochs", "1"])
    files = {path: path.stat().st_mtime_ns for path in cache.rglob("*.arrow")}
    assert files
    mlm.main([*arguments, "--num_train_epochs", "2"])
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.arrow")} == files


def test_words_of_two_lines_are_not_glued(tokenizer):
    texts = Dataset.from_dict({"text": ["the quick brown fox", "jumps over the lazy", "", " dog"]})
    sequences = make_sequences(texts, tokenizer, 9)
    text = tokenizer.decode([token for row in sequences["input_ids"] for token in row], skip_special_tokens=True)
    assert "fox jump" in text and "the quick brown fox jumps over the lazy dog".startswith(" ".join(text.split()))


def test_what_was_found_is_said(tokenizer, log):
    texts = Dataset.from_dict({"text": [TEXT, "the fox", " "]})
    with log.at_level("INFO", logger="transformers.linformer"):
        make_sequences(texts, tokenizer, 12, line_by_line=True)
    assert "3 texts, 1 of them empty and left out, 1 longer than 12 tokens and cut; 2 sequences" in log.text
    assert "the first sequence: <s>the quick brown" in log.text
