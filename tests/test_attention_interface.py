"""Tests Linformer's attention in the encoders of transformers, with their own weights."""

import pytest
import sentence_transformers
import torch
import transformers
from datasets import Dataset
from packaging.version import parse
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    pipeline,
)

from configuration_linformer import LinformerConfig
from modeling_linformer import LinformerModel
from transformers_linformer import convert_to_linformer, use_linformer_attention
from transformers_linformer.tokenization import train_tokenizer


pytestmark = pytest.mark.skipif(
    parse(transformers.__version__) < parse("5.24"),
    reason="in transformers 5.4 some of these models do not use the interface, and between 5.4 and 5.24 none was tried",
)

N, WINDOW, BLOCK = 64, 4, 8
SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": N + 2,  # RoBERTa's positions begin after that of padding
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
MODERNBERT = {"num_hidden_layers": 4, "cls_token_id": 0, "sep_token_id": 2, "local_attention": 10}
# Each model type with the fields that it needs besides `SIZES`
ENCODERS = {
    "albert": {"embedding_size": 16},
    "bert": {},
    "camembert": {},
    "data2vec-text": {},
    "distilbert": DISTILBERT,
    "electra": {"embedding_size": 16},
    "ernie": {},
    "esm": {"position_embedding_type": "rotary", "mask_token_id": 4},
    "eurobert": {"num_key_value_heads": 2},
    "jina_embeddings_v3": {},
    "modernbert": MODERNBERT,
    "nomic_bert": {},
    "roberta": {},
    "roberta-prelayernorm": {},
    "roc_bert": {},
    "splinter": {},
    "xlm-roberta": {},
    "xlm-roberta-xl": {},
}
# These do not compute their attention by the interface
OTHERS = ("big_bird", "convbert", "deberta", "deberta-v2", "fnet", "flaubert", "ibert", "longformer", "luke", "megatron-bert")
OTHERS += ("mpnet", "mra", "nystromformer", "rembert", "squeezebert", "xlm", "yoso")
encoders = pytest.mark.parametrize("model_type", ENCODERS)


def make_model(model_type, auto_class=AutoModel, **config):
    """
    Returns a model with random parameters that are large enough for its attention to differ from a mean.

    It computes in float64, as such parameters magnify what float32 rounds.
    """
    config = {**SIZES, **ENCODERS.get(model_type, {}), **config}
    if model_type == "distilbert":
        config = {name: value for name, value in config.items() if name not in ("hidden_size", "num_hidden_layers")}
    model = auto_class.from_config(AutoConfig.for_model(model_type, **config)).double().eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.copy_(
                2 * parameter.shape[-1] ** -0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            )
    return model


def make_inputs(length, batch_size=2):
    """Returns random inputs, of which all but the first are padded."""
    ids = torch.randint(3, 60, (batch_size, length), generator=torch.Generator().manual_seed(length))
    lengths = torch.tensor([[length], *[[max(1, 2 * length // 3)]] * (batch_size - 1)])
    return {"input_ids": ids, "attention_mask": (torch.arange(length) < lengths).long()}


def outputs(model, inputs):
    """Returns the hidden states of all tokens but padding, (number of tokens, d)."""
    return model(**inputs).last_hidden_state[inputs["attention_mask"].bool()]


def assert_equal(actual, expected, tolerance=1e-9):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


@encoders
@torch.no_grad()
def test_inputs_of_one_block_are_exact(model_type):
    model = make_model(model_type)
    implementation, lengths = model.config._attn_implementation, (1, 2, BLOCK, 29, N)
    wanted = [outputs(model, make_inputs(length)) for length in lengths]
    use_linformer_attention(model, WINDOW, block_size=N)
    for length, hidden_states in zip(lengths, wanted, strict=True):
        # The eager attention of transformers takes the softmax in float32
        assert_equal(outputs(model, make_inputs(length)), hidden_states, 1e-5 if implementation == "eager" else 1e-9)
    # It is Linformer's attention that computed this
    use_linformer_attention(model, WINDOW, BLOCK)
    assert (outputs(model, make_inputs(N)) - wanted[-1]).abs().max() > 0.01
    # and it can be taken back
    model.set_attn_implementation(implementation)
    assert_equal(outputs(model, make_inputs(N)), wanted[-1])


@encoders
@torch.no_grad()
def test_padding_never_matters(model_type):
    model = use_linformer_attention(make_model(model_type), WINDOW, BLOCK)
    ids, length = make_inputs(N)["input_ids"][1:], 37
    alone = model(input_ids=ids[:, :length]).last_hidden_state
    mask = (torch.arange(N) < length).long().unsqueeze(0)
    assert_equal(model(input_ids=ids, attention_mask=mask).last_hidden_state[:, :length], alone)


@pytest.mark.parametrize("model_type", ["eurobert", "modernbert", "roberta"])
def test_gradients_of_one_block_are_exact(model_type):
    model, inputs = make_model(model_type), make_inputs(N)
    direction = torch.randn(32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (outputs(model, inputs) @ direction).sum().backward()
    wanted = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    use_linformer_attention(model, WINDOW, block_size=N)
    (outputs(model, inputs) @ direction).sum().backward()
    for name, parameter in model.named_parameters():
        if name in wanted:
            torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("length", [3, BLOCK, 29, N])
@pytest.mark.parametrize("block_size", [0, BLOCK, [0, BLOCK]])
@pytest.mark.parametrize(
    "projection_type, num_global_tokens",
    [("attention_pool", 0), ("mean_pool", 0), ("max_pool", 0), ("hard_attention_pool", 0), ("attention_pool", 16)],
)
@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_it_is_the_attention_of_a_converted_model(model_type, projection_type, num_global_tokens, block_size, length):
    position_ids = torch.arange(length).unsqueeze(0)
    inputs = make_inputs(length) | {"position_ids": position_ids}
    limit = 9 if block_size == BLOCK else None
    model = make_model(model_type, max_position_embeddings=N)
    if model_type == "roberta":
        # Its positions begin after that of padding
        model = make_model(model_type)
        inputs["position_ids"] = position_ids + 2
    window = [WINDOW, 16] if isinstance(block_size, list) else WINDOW
    rows = [N // each for each in window] if isinstance(window, list) else N // window
    options = {"projection_type": projection_type, "num_global_tokens": num_global_tokens}
    converted = convert_to_linformer(model, rows, N, block_size=block_size, **options).eval()
    converted.config.far_token_limit = limit
    use_linformer_attention(model, window, block_size, far_token_limit=limit, **options)
    expected = outputs(converted, inputs | {"position_ids": position_ids})
    assert_equal(outputs(model, inputs), expected)
    gradients = []
    for each, given in ((model, inputs), (converted, inputs | {"position_ids": position_ids})):
        each.zero_grad()
        outputs(each, given)[:, 0].sum().backward()
        gradients.append(each.get_input_embeddings().weight.grad)
    torch.testing.assert_close(*gradients, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("projection_type", ["attention_pool", "mean_pool", "max_pool"])
@pytest.mark.parametrize("block_size, num_global_tokens", [(0, 0), (100, 0), (100, 60)])
def test_chunks_of_a_long_input_change_nothing(projection_type, block_size, num_global_tokens):
    model = make_model("eurobert", max_position_embeddings=2300, num_hidden_layers=1)
    use_linformer_attention(model, 20, block_size, projection_type, num_global_tokens=num_global_tokens)
    inputs = make_inputs(2250)
    complete = outputs(model, inputs)  # with gradients there are no chunks
    with torch.no_grad():
        assert_equal(outputs(model, inputs), complete)


@pytest.mark.parametrize("length", [1, 5, 6, 7, 12, 13, 50])
@pytest.mark.parametrize("local_attention", [2, 10, 200])
@torch.no_grad()
def test_layers_with_a_sliding_window_keep_it(local_attention, length):
    # Only the first layer is not local, and has the input as one block
    config = {"layer_types": ["full_attention"] + ["sliding_attention"] * 3, "local_attention": local_attention}
    model = make_model("modernbert", **config)
    wanted = outputs(model, make_inputs(length))
    assert_equal(outputs(use_linformer_attention(model, WINDOW, N), make_inputs(length)), wanted)


@pytest.mark.slow("the graphs of test_export have the same attention")
@torch.no_grad()
def test_it_is_one_graph():
    model = use_linformer_attention(make_model("modernbert"), WINDOW, BLOCK)
    shapes = [(13, 3), (2, 2), (BLOCK, 3), (3 * BLOCK, 2), (N, 4)]
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    sizes = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("length", min=1, max=N)}
    inputs = make_inputs(*shapes[0])
    exported = torch.export.export(model, (), inputs, dynamic_shapes=dict.fromkeys(inputs, sizes), strict=False).module()
    with torch._dynamo.config.patch(specialize_float=True):
        for shape in shapes:
            inputs = make_inputs(*shape)
            assert_equal(outputs(compiled, inputs), outputs(model, inputs))
            assert_equal(outputs(exported, inputs), outputs(model, inputs))
    assert counter.frame_count == 1


@torch.no_grad()
def test_a_saved_checkpoint_loads_with_either_attention(tmp_path):
    model, inputs = make_model("modernbert"), make_inputs(N)
    wanted = outputs(model, inputs)
    use_linformer_attention(model, WINDOW, BLOCK, "mean_pool")
    model.save_pretrained(tmp_path)
    assert_equal(outputs(AutoModel.from_pretrained(tmp_path), inputs), wanted)
    loaded = AutoModel.from_pretrained(tmp_path, attn_implementation="linformer")
    assert_equal(outputs(loaded, inputs), outputs(model, inputs))
    assert (outputs(model, inputs) - wanted).abs().max() > 0.01


def test_trainer_trains_it_as_with_full_attention(tmp_path):
    """Where all inputs are of one block, each step is that of full attention, and a run goes on from its checkpoints."""
    rows = [{"input_ids": torch.randint(3, 60, (1 + 7 * row % 20,)).tolist(), "labels": row % 2} for row in range(16)]

    def train(folder, block_size, checkpoint=None):
        model = make_model("modernbert", AutoModelForSequenceClassification, classifier_dropout=0.0)
        if block_size:
            use_linformer_attention(model, WINDOW, block_size=block_size)
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=4,
            max_steps=6,
            save_steps=3,
            learning_rate=1e-3,
            report_to="none",
            use_cpu=True,
        )
        collator = DataCollatorWithPadding(PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel()), pad_token="a"))
        trainer = Trainer(model, arguments, train_dataset=Dataset.from_list(rows), data_collator=collator)
        trainer.train(resume_from_checkpoint=checkpoint)
        return trainer.model.state_dict()

    def distance(ours, theirs):
        return max((ours[name] - tensor).abs().max().item() for name, tensor in theirs.items())

    full, blocks = train(tmp_path / "full", 0), train(tmp_path / "blocks", 20)
    assert distance(blocks, full) < 1e-6
    small = train(tmp_path / "small", 4)
    assert distance(small, full) > 1e-4
    again = train(tmp_path / "again", 4, str(tmp_path / "small" / "checkpoint-3"))
    assert distance(again, small) == 0


@torch.no_grad()
def test_new_sizes_replace_the_old_ones():
    model, inputs = make_model("bert"), make_inputs(N)
    first = outputs(use_linformer_attention(model, WINDOW, BLOCK), inputs)
    assert (outputs(use_linformer_attention(model, [WINDOW, 2], [BLOCK, 0]), inputs) - first).abs().max() > 0.01
    model.config.linformer_attention = {"window": WINDOW, "block_size": BLOCK}
    assert_equal(outputs(model, inputs), first)


def test_a_pipeline_takes_it():
    tokenizer = train_tokenizer(Dataset.from_dict({"text": ["A few words of text."]}), 300, N)
    model = make_model("modernbert", AutoModelForMaskedLM, vocab_size=len(tokenizer))
    fill = pipeline("fill-mask", model=use_linformer_attention(model, WINDOW, BLOCK), tokenizer=tokenizer)
    assert len(fill(" ".join(["text"] * 30) + tokenizer.mask_token)) == 5


@pytest.mark.parametrize("model_type", OTHERS)
def test_models_that_never_call_it_are_refused(model_type):
    small = SIZES | {"attention_window": 4, "attention_type": "original_full", "emb_dim": 32, "n_layers": 2, "n_heads": 4}
    small |= {"embedding_size": 32, "input_embedding_size": 32, "entity_vocab_size": 10, "num_landmarks": 4, "n_words": 60}
    config = AutoConfig.for_model(model_type, **small)
    model = AutoModel.from_config(config)
    implementation = model.config._attn_implementation
    with pytest.raises(ValueError, match="computes its attention in a way of its own"):
        use_linformer_attention(model, WINDOW, BLOCK)
    assert model.config._attn_implementation == implementation
    assert not hasattr(model.config, "linformer_attention")


@pytest.mark.parametrize(
    ("model_type", "config", "message"),
    [
        ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4}, "causal mask"),
        ("modernbert-decoder", MODERNBERT, "causal mask"),
        ("bert", {"is_decoder": True}, "decodes"),
        ("bart", {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1}, "decodes"),
        ("layoutlm", {}, "takes a mask of padding, .* the shape"),
    ],
)
def test_models_that_are_no_encoders_are_refused(model_type, config, message):
    model = AutoModel.from_config(AutoConfig.for_model(model_type, **SIZES | config))
    with pytest.raises(ValueError, match=message):
        use_linformer_attention(model, WINDOW, BLOCK)


@pytest.mark.parametrize(
    ("model_type", "sizes", "message"),
    [
        ("bert", {"window": 0}, "`window` must be at least 1, got 0"),
        ("bert", {"block_size": -1}, "`block_size` must be at least 0, got -1"),
        ("bert", {"window": [6]}, r"`window` must have one int for each of the 2 layers, got \[6\]"),
        ("bert", {"window": 6, "block_size": 8}, r"divisor or a multiple of `window` \(6\), or 0, got 8"),
        ("bert", {"projection_type": "linear"}, "has parameters, which the model lacks"),
        ("bert", {"far_token_limit": 0}, "`far_token_limit` must be at least 1.* got 0"),
        ("distilbert", {"block_size": [8, 8]}, "does not know which layer it is"),
    ],
)
def test_sizes_that_cannot_be(model_type, sizes, message):
    model = make_model(model_type)
    with pytest.raises(ValueError, match=message):
        use_linformer_attention(model, **sizes)
    assert model.config._attn_implementation == "sdpa" and not hasattr(model.config, "linformer_attention")
    use_linformer_attention(model, WINDOW, BLOCK)
    kept = dict(model.config.linformer_attention)
    with pytest.raises(ValueError, match=message):
        use_linformer_attention(model, **sizes)
    assert model.config.linformer_attention == kept


def test_a_linformer_is_refused():
    model = LinformerModel(LinformerConfig(**SIZES, projected_dim=6))
    with pytest.raises(ValueError, match="is a Linformer already"):
        use_linformer_attention(model)


def test_what_a_model_gives_besides_is_refused():
    model = use_linformer_attention(make_model("bert"), WINDOW, BLOCK)
    inputs = make_inputs(9)
    four_dimensional = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"][:, None, None].bool()}
    with pytest.raises(ValueError, match="takes a mask of padding"):
        model(**four_dimensional)
    attention = model.encoder.layer[0].attention.self
    rows = torch.zeros(1, 4, 5, 8)
    function = transformers.AttentionInterface()["linformer"]
    for name in ("position_bias", "softcap", "s_aux", "cu_seq_lens_q", "is_causal", "encoder_hidden_states"):
        with pytest.raises(ValueError, match=f"`{name}`"):
            function(attention, rows, rows, rows, None, **{name: True})
    attention.is_causal = True
    with pytest.raises(ValueError, match="`is_causal`"):
        function(attention, rows, rows, rows, None)
    attention.is_causal = False
    with pytest.raises(ValueError, match="5 queries for 3 keys"):
        function(attention, rows, rows[:, :, :3], rows[:, :, :3], None)
    with pytest.raises(ValueError, match="mask of its own"):
        transformers.AttentionMaskInterface()["linformer"](use_vmap=True)


@encoders
@torch.no_grad()
def test_packed_rows_and_padding_on_the_left_are_refused(model_type):
    model = use_linformer_attention(make_model(model_type), WINDOW, BLOCK)
    ids = make_inputs(20)["input_ids"]
    packed, counted = torch.arange(20)[None] % 10, torch.arange(20)[None]
    with pytest.raises(ValueError, match="`position_ids` says that there are several documents in one row"):
        model(input_ids=ids, position_ids=packed)
    with pytest.raises(ValueError, match="Row 0 of `attention_mask` begins with padding"):
        model(input_ids=ids, attention_mask=(counted.expand(2, -1) > 2).long())
    model(input_ids=ids, position_ids=counted, attention_mask=torch.ones_like(ids))
    model.set_attn_implementation("eager")  # which the model's own attention takes
    model(input_ids=ids, position_ids=packed)


@torch.no_grad()
def test_packed_rows_are_seen_without_the_function_where_the_attention_gets_them():
    model = make_model("bert")
    model.set_attn_implementation("linformer")
    with pytest.raises(ValueError, match="`position_ids` says that there are several documents in one row"):
        model(input_ids=make_inputs(20)["input_ids"], position_ids=torch.arange(20)[None] % 10)


def test_what_is_no_model_of_transformers_is_refused():
    modules = [sentence_transformers.sentence_transformer.modules.Pooling(8)]
    others = ("bert-base-uncased", sentence_transformers.SentenceTransformer(modules=modules, device="cpu"))
    for other in (*others, torch.nn.DataParallel(make_model("bert")), AutoModel, None):
        with pytest.raises(ValueError, match=r"must be an encoder of transformers: .*model\[0\].auto_model.*model.module"):
            use_linformer_attention(other)


@torch.no_grad()
def test_scaling_and_dropout_are_those_of_the_model():
    model = use_linformer_attention(make_model("bert"), WINDOW, BLOCK)
    function, attention = transformers.AttentionInterface()["linformer"], model.encoder.layer[0].attention.self
    query, key, value = torch.randn(3, 2, 4, N, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scaled, _ = function(attention, query, key, value, None, scaling=0.5)
    default, _ = function(attention, 0.5 * 8**0.5 * query, key, value, None)
    assert_equal(scaled, default)
    dropped, _ = function(attention, query, key, value, None, scaling=0.5, dropout=0.5)
    assert (dropped - scaled).abs().mean() > 0.01


def test_nothing_random_is_drawn():
    model = make_model("bert").train()
    torch.manual_seed(0)
    use_linformer_attention(model, WINDOW, BLOCK)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(1)) and model.training
