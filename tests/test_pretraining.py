"""Tests of what benchmarks.pretraining computes itself: configurations, the table, and the times of training steps."""

import pytest

from benchmarks.pretraining import fields_of, make_table, seconds_per_step
from configuration_linformer import LinformerConfig
from modeling_linformer import LinformerForMaskedLM


COMMON = {"n": 32, "hidden_size": 32, "num_hidden_layers": 1}


def result_of(model, seed, perplexity):
    setting = COMMON | {"text": "demo", "arguments": ""}
    return setting | {
        "model": model,
        "seed": seed,
        "perplexity": perplexity,
        "unigram_perplexity": 100.0,
        "train_seconds": 1.0,
    }


def test_names_of_models_are_configurations():
    config = LinformerConfig(**fields_of("attention_pool/k4/b8/headwise", **COMMON))
    assert (config.projection_type, config.projected_dim, config.block_size) == ("attention_pool", 4, 8)
    assert (config.projection_sharing, config.max_position_embeddings, config.intermediate_size) == ("headwise", 32, 128)
    assert LinformerConfig(**fields_of("linear", **COMMON)).projected_dim == 8
    config = LinformerConfig(**fields_of("mean_pool/f8/r32/k8", **COMMON))
    assert (config.far_token_limit, config.relative_attention_num_buckets, config.projected_dim) == (8, 32, 8)
    full = LinformerConfig(**fields_of("full", **COMMON))
    assert full.block_size == 32  # so that an input of n tokens attends to itself exactly


def test_ratios_are_paired_by_seed():
    # The third seed of full attention is missing, so the third seed of `linear` has no ratio
    results = [result_of("full", 1, 10.0), result_of("full", 2, 20.0)]
    results += [result_of("linear", 1, 11.0), result_of("linear", 2, 26.0), result_of("linear", 3, 38.0)]
    (line,) = (line for line in make_table(results).splitlines() if line.startswith("| linear "))
    cells = [cell.strip() for cell in line.split("|")]
    assert cells[2:6] == ["25.0 ± 7.8", "1.200 ± 0.100", "0.250", "3"]


def test_training_steps_of_all_models_are_timed(monkeypatch):
    trained = []
    forward = LinformerForMaskedLM.forward

    def counted(self, *args, **kwargs):
        trained.append((self.config.projection_type, self.training))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LinformerForMaskedLM, "forward", counted)
    seconds = seconds_per_step(["linear", "mean_pool/b8"], COMMON, 2)
    assert list(seconds) == ["linear", "mean_pool/b8"]
    assert all(value > 0 for value in seconds.values())
    # They take turns: one turn to warm up, and two that are timed
    assert trained == [("linear", True), ("mean_pool", True)] * 3


def test_a_model_that_does_not_exist_is_refused():
    with pytest.raises((KeyError, ValueError)):
        LinformerConfig(**fields_of("linear/x3", **COMMON))
