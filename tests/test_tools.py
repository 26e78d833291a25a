"""Tests tools that models are used with: adapters, quantised and offloaded weights, compilers, trackers, other models."""

import copy
import json
import shutil

import pytest
import tiny_models
import torch
import transformers
from accelerate import cpu_offload
from datasets import Dataset
from processes import run_without_packages
from tiny_models import BLOCK, PAD, K, N, make_ids
from tiny_runs import TINY, glue_arguments
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import (
    BertConfig,
    BertLMHeadModel,
    BitsAndBytesConfig,
    EncoderDecoderConfig,
    TorchAoConfig,
    Trainer,
    TrainingArguments,
)

import modeling_linformer
from configuration_linformer import LinformerConfig
from modeling_linformer import LinformerForSequenceClassification, LinformerModel
from transformers_linformer.commands import glue


# The kernels of quantised layers take these hidden sizes
SIZES = tiny_models.SIZES | {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96}

CONFIGS = [
    {"projection_type": name, "block_size": size}
    for name in ("linear", "conv", "mean_pool", "max_pool", "attention_pool")
    for size in (0, BLOCK)
]
# With one E per head, keys and values are computed for all tokens, and not for the projected rows alone
CONFIGS += [{"projection_type": "linear", "block_size": size, "projection_sharing": "none"} for size in (0, BLOCK)]
# A long input is computed in chunks
LONG = {"max_position_embeddings": 600, "projected_dim": 150, "inference_chunk_size": 64}
CONFIGS += [{"projection_type": "attention_pool", "block_size": BLOCK, **LONG}]
configs = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: "-".join(map(str, config.values())))

ADAPTED = ("query", "key", "value")

# This warning comes from within peft
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def make_model(**fields):
    # The softmax magnifies the errors of very large scores
    return tiny_models.make_model(keeps_scale=True, **SIZES | fields)


def hidden_states(model):
    """Returns those of two sequences, one of which is padded. Blocks and windows divide neither of the lengths."""
    length = model.config.max_position_embeddings - 1
    ids = make_ids(2, length)
    mask = torch.arange(length) < torch.tensor([[length], [13]])
    return model(ids.masked_fill(~mask, PAD), attention_mask=mask.long()).last_hidden_state


# --- LoRA ---


def make_adapted(model):
    """Returns `model` with random LoRA adapters, as new ones have B = 0, and change nothing."""
    peft = pytest.importorskip("peft", reason="LoRA adapters are peft's")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=list(ADAPTED)))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return adapted


def adapter_parameters(adapted, module):
    parameters = [p for name, p in adapted.named_parameters() if f".{module}.lora_" in name]
    assert len(parameters) == 2 * SIZES["num_hidden_layers"]  # A and B of each layer
    return parameters


@pytest.mark.parametrize("module", ADAPTED)
@configs
@torch.no_grad()
def test_each_lora_adapter_acts(config, module):
    model = make_model(**config)
    before = hidden_states(model)
    adapted = make_adapted(model)
    for other in set(ADAPTED) - {module}:
        for parameter in adapter_parameters(adapted, other):
            parameter.zero_()
    assert (hidden_states(adapted) - before).abs().max() > 0.01


@configs
@torch.no_grad()
def test_a_merged_lora_equals_the_adapted_model(config):
    adapted = make_adapted(make_model(**config))
    before = hidden_states(adapted)
    merged = adapted.merge_and_unload()
    assert not any("lora" in name for name, _ in merged.named_parameters())
    torch.testing.assert_close(hidden_states(merged), before, atol=1e-5, rtol=0)


@configs
def test_gradients_reach_each_lora_adapter(config):
    adapted = make_adapted(make_model(**config))
    states = hidden_states(adapted)
    (states * torch.randn(states.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    for module in ADAPTED:
        for parameter in adapter_parameters(adapted, module):
            assert parameter.grad.abs().max() > 0.01


@configs
@torch.no_grad()
def test_a_lora_adapter_can_be_saved_and_loaded(config, tmp_path):
    peft = pytest.importorskip("peft", reason="LoRA adapters are peft's")
    model = make_model(**config)
    adapted = make_adapted(copy.deepcopy(model))
    adapted.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(model, tmp_path)
    torch.testing.assert_close(hidden_states(loaded), hidden_states(adapted), atol=1e-5, rtol=0)


# argv[1] is the folder of a model, argv[2] that of its adapters, argv[3] an empty one
MERGE = """
import peft

model = transformers.AutoModelForSequenceClassification.from_pretrained(sys.argv[1], trust_remote_code=True)
merged = peft.PeftModel.from_pretrained(model, sys.argv[2]).merge_and_unload()
merged.save_pretrained(sys.argv[3])
loaded = transformers.AutoModelForSequenceClassification.from_pretrained(sys.argv[3], trust_remote_code=True)
input_ids = torch.arange(2, 22).view(2, 10)
with torch.no_grad():
    print(json.dumps([type(loaded).__module__, loaded.eval()(input_ids).logits.tolist()]))
"""


def test_a_merged_lora_is_saved_with_its_code(tmp_path):
    pytest.importorskip("peft", reason="LoRA adapters are peft's")
    torch.manual_seed(0)
    LinformerForSequenceClassification(LinformerConfig(**SIZES)).save_pretrained(tmp_path / "model")
    adapted = make_adapted(LinformerForSequenceClassification.from_pretrained(tmp_path / "model"))
    adapted.save_pretrained(tmp_path / "adapters")
    assert not list((tmp_path / "adapters").glob("*.py"))
    module, logits = run_without_packages(MERGE, tmp_path, *(tmp_path / name for name in ("model", "adapters", "merged")))
    assert module.startswith("transformers_modules.merged.")
    with torch.no_grad():
        wanted = adapted.eval()(torch.arange(2, 22).view(2, 10)).logits
    torch.testing.assert_close(torch.tensor(logits), wanted, atol=1e-5, rtol=0)


# --- 8 bits ---


def quantize_by_torchao(model, folder):
    """Quantises the weights to 8 bits."""
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    return model


def quantize_by_bitsandbytes(model, folder):
    """Quantises weights and inputs to 8 bits."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed, or has no kernels for this machine")
    model.save_pretrained(folder)
    config = BitsAndBytesConfig(load_in_8bit=True)
    return LinformerModel.from_pretrained(folder, add_pooling_layer=False, quantization_config=config, device_map="cpu")


def quantize_by_torch(model, folder):
    """Quantises weights and inputs to 8 bits, with one scale per matrix."""
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


# A number of 8 bits is off by up to 1/254 of the largest number that shares its scale. Where the largest of 64 numbers is 2.5
# times as large as a typical one, that is 0.6 % of the typical one in the root mean square. Through two layers this grows to
# 1 % for weights alone, to 1.5 % with inputs, too, and to 4 % where all of a matrix shares one scale. The tolerances are
# twice that. If, for instance, the bias of the values were left out, the hidden states of most configurations would change
# by 20 %.
@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize(
    "quantize, tolerance",
    [(quantize_by_torchao, 0.02), (quantize_by_bitsandbytes, 0.03), (quantize_by_torch, 0.08)],
    ids=["torchao", "bitsandbytes", "torch"],
)
@configs
@torch.no_grad()
def test_8_bit_weights_change_little(config, quantize, tolerance, tmp_path):
    model = make_model(**config)
    before = hidden_states(model)
    error = (hidden_states(quantize(model, tmp_path)) - before).norm() / before.norm()
    assert 0.001 < error < tolerance  # an error below that would mean that nothing was quantised


# --- Offloaded weights ---


@configs
@torch.no_grad()
def test_offloaded_weights_give_the_same(config):
    model = make_model(**config)
    before = hidden_states(model)
    # A module has its weights only while it runs, so a module that reads those of another one fails
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert torch.equal(hidden_states(model), before)
    assert all(parameter.is_meta for parameter in model.parameters())


@configs
@torch.no_grad()
def test_weights_offloaded_to_the_disk_give_the_same(config, tmp_path):
    model = make_model(**config)
    before = hidden_states(model)
    model.save_pretrained(tmp_path)
    device_map = {"embeddings": "cpu", "encoder": "disk"}
    kwargs = {"add_pooling_layer": False, "device_map": device_map, "offload_folder": tmp_path / "offloaded"}
    loaded = LinformerModel.from_pretrained(tmp_path, **kwargs).eval()
    assert torch.equal(hidden_states(loaded), before)
    assert all(parameter.is_meta for parameter in loaded.encoder.parameters())


# --- Adapters of quantised weights ---


def four_bits():
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed, or has no kernels for this machine")
    # A new classifier is trained, and not quantised
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=["classifier"])


def eight_bits():
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    return TorchAoConfig(quantization.Int8WeightOnlyConfig(), modules_to_not_convert=["classifier"])


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of gradient checkpointing, from within peft
@pytest.mark.parametrize("quantization", [four_bits, eight_bits], ids=["bitsandbytes-nf4", "torchao-int8"])
def test_adapters_of_a_quantised_model_are_trained(quantization, tmp_path):
    peft = pytest.importorskip("peft", reason="LoRA adapters are peft's")
    quantization_config = quantization()
    torch.manual_seed(0)
    config = LinformerConfig(**{**SIZES, "projection_type": "attention_pool", "block_size": BLOCK})
    LinformerForSequenceClassification(config).save_pretrained(tmp_path)
    model = LinformerForSequenceClassification.from_pretrained(
        tmp_path, quantization_config=quantization_config, device_map="cpu"
    )
    query = model.linformer.encoder.layer[0].attention.self.query.weight
    assert type(query) is not nn.Parameter
    model = peft.prepare_model_for_kbit_training(model)
    lora = peft.LoraConfig(r=4, target_modules=list(ADAPTED), task_type="SEQ_CLS")  # trains the classifier, too
    model = peft.get_peft_model(model, lora)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or "modules_to_save" in name for name in before)

    input_ids = make_ids(16, N)
    labels = (input_ids[:, : N // 2].float().mean(1) > SIZES["vocab_size"] / 2).long()
    data = Dataset.from_dict({"input_ids": input_ids.tolist(), "labels": labels.tolist()})
    options = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1}
    args = TrainingArguments(tmp_path, max_steps=10, per_device_train_batch_size=16, learning_rate=1e-2, **options)
    trainer = Trainer(model, args, train_dataset=data)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    for name, values in before.items():
        assert not torch.equal(model.get_parameter(name), values), name


# --- Compiled, exported and sharded ---


def losses_of(inputs, folder, *more):
    glue.main(glue_arguments(inputs, folder, "--max_steps=4", "--logging_steps=1", "--save_strategy=no", *more))
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


@pytest.mark.slow("test_export compiles and compares gradients; this is Trainer's argument")
def test_training_is_the_same_when_it_is_compiled(inputs, tmp_path, monkeypatch):
    # Compiled dropout takes other random numbers, and with small weights the loss would hardly depend on the model
    more = "hidden_dropout_prob=0,attention_probs_dropout_prob=0,initializer_range=0.5"
    monkeypatch.setattr("tiny_runs.TINY", f"{TINY},{more}")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    # The default backend, inductor, gives the same losses after half a minute in a C++ compiler
    compiled = losses_of(inputs, tmp_path / "compiled", "--torch_compile", "--torch_compile_backend=aot_eager")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert losses_of(inputs, tmp_path / "eager") == pytest.approx(compiled, abs=1e-5)


@pytest.mark.slow("compiles C++ for most of a minute, of the graph that test_export checks")
@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@torch.no_grad()
def test_aot_inductor(tmp_path):
    model = make_model(num_hidden_layers=1)
    inputs = {"input_ids": torch.full((2, 9), 5), "attention_mask": torch.ones(2, 9, dtype=torch.long)}
    sizes = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("length", min=1, max=N)}
    program = torch.export.export(model, (), inputs, dynamic_shapes=dict.fromkeys(inputs, sizes))
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
    compiled = torch._inductor.aoti_load_package(path)
    generator = torch.Generator().manual_seed(0)
    for batch_size, length in ((1, 1), (2, K), (3, N - 1), (5, N)):
        mask = torch.arange(length) < (length - 3 * torch.arange(batch_size)).clamp(min=1).unsqueeze(1)
        ids = torch.randint(PAD + 1, SIZES["vocab_size"], (batch_size, length), generator=generator)
        inputs = {"input_ids": ids.masked_fill(~mask, PAD), "attention_mask": mask.long()}
        outputs = compiled(**inputs)
        torch.testing.assert_close(outputs["last_hidden_state"], model(**inputs).last_hidden_state, atol=1e-5, rtol=0)


@configs
def test_fsdp2_gives_the_same_gradients(config, tmp_path):
    model, sharded = make_model(**config), make_model(**config)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        for layer in sharded.encoder.layer:
            fully_shard(layer, mesh=mesh)
        fully_shard(sharded, mesh=mesh)
        for each in (model, sharded):
            hidden_states(each).pow(2).mean().backward()
        for (name, parameter), shard in zip(model.named_parameters(), sharded.parameters(), strict=True):
            assert isinstance(shard, torch.distributed.tensor.DTensor)
            if parameter.grad is not None:
                torch.testing.assert_close(shard.grad.full_tensor(), parameter.grad, atol=1e-6, rtol=0, msg=name)
    finally:
        torch.distributed.destroy_process_group()


# --- In front of a decoder ---

# argv[1] is the folder of an encoder and a decoder, and what is saved
REGISTER = """
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, EncoderDecoderModel

folder = pathlib.Path(sys.argv[1])
encoder = AutoModel.from_pretrained(folder / "encoder", trust_remote_code=True)
AutoConfig.register("linformer", type(encoder.config))
AutoModel.register(type(encoder.config), type(encoder))
"""
SAVE = """
decoder = AutoModelForCausalLM.from_pretrained(folder / "decoder", is_decoder=True, add_cross_attention=True)
EncoderDecoderModel(encoder=encoder, decoder=decoder).save_pretrained(folder / "both")
print(json.dumps(type(encoder).__module__))
"""
GENERATE = """
model = EncoderDecoderModel.from_pretrained(folder / "both").eval()
assert type(model.encoder) is type(encoder)
inputs = torch.load(folder / "inputs.pt")
with torch.no_grad():
    logits = model(**inputs, decoder_input_ids=inputs["input_ids"][:, :5]).logits
del encoder
generated = model.generate(**inputs, decoder_start_token_id=2, max_new_tokens=6, num_beams=2)
print(json.dumps([logits.tolist(), generated.tolist()]))
"""


def test_an_encoder_decoder_by_remote_code_alone(tmp_path):
    try:
        EncoderDecoderConfig.from_encoder_decoder_configs(BertConfig(), BertConfig())
    except Exception as error:
        pytest.skip(f"this transformers fails for two BERTs, too: {type(error).__name__}")  # 5.4.0 does
    torch.manual_seed(0)
    encoder = make_model(projection_type="attention_pool", block_size=BLOCK)
    encoder.save_pretrained(tmp_path / "encoder")
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "pad_token_id")
    config = BertConfig(**{name: SIZES[name] for name in names}, is_decoder=True, add_cross_attention=True)
    decoder = BertLMHeadModel(config).eval()
    decoder.save_pretrained(tmp_path / "decoder")
    ids = make_ids(2, 20)
    mask = torch.arange(20) < torch.tensor([[20], [9]])
    inputs = {"input_ids": ids.masked_fill(~mask, PAD), "attention_mask": mask.long()}
    torch.save(inputs, tmp_path / "inputs.pt")

    assert run_without_packages(REGISTER + SAVE, tmp_path, tmp_path).startswith("transformers_modules.")
    logits, generated = run_without_packages(REGISTER + GENERATE, tmp_path, tmp_path)
    assert len(generated) == 2 and {len(ids) for ids in generated} == {7}
    with torch.no_grad():
        for row, length in enumerate((20, 9)):  # alone, without padding
            states = encoder(ids[row : row + 1, :length]).last_hidden_state
            wanted = decoder(ids[row : row + 1, :5], encoder_hidden_states=states).logits
            torch.testing.assert_close(torch.tensor(logits[row : row + 1]), wanted, atol=1e-5, rtol=0)


# --- Trackers ---


def test_tensorboard_gets_curves(inputs, tmp_path):
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    losses = losses_of(
        inputs, tmp_path / "run", "--report_to=tensorboard", "--do_eval", "--eval_strategy=steps", "--eval_steps=2"
    )
    (folder,) = {path.parent for path in (tmp_path / "run").rglob("events.out.tfevents.*")}
    curves = events.EventAccumulator(str(folder)).Reload()
    assert [scalar.value for scalar in curves.Scalars("train/loss")] == pytest.approx(losses)
    assert {scalar.step for scalar in curves.Scalars("eval/accuracy")} == {2, 4}


# --- Nothing to read ---


@pytest.mark.parametrize("shape", [(0, 8), (2, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("with_mask", [False, True], ids=["no-mask", "mask"])
@pytest.mark.parametrize("head", [name for name in modeling_linformer.__all__ if name != "LinformerPreTrainedModel"])
def test_an_input_without_tokens_is_refused(head, with_mask, shape):
    """RoBERTa refuses such an input, too, with an error about an ambiguous shape."""
    roberta = getattr(transformers, head.replace("Linformer", "Roberta"))
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "pad_token_id")
    roberta = roberta(transformers.RobertaConfig(**{name: SIZES[name] for name in names}))
    shape = (shape[0], 2, shape[1]) if head == "LinformerForMultipleChoice" else shape
    inputs = {"input_ids": torch.ones(shape, dtype=torch.long)}
    if with_mask:
        inputs["attention_mask"] = torch.ones(shape, dtype=torch.long)
    with pytest.raises(RuntimeError, match="ambiguous"):
        roberta(**inputs)
    for block_size in (0, BLOCK):
        model = getattr(modeling_linformer, head)(LinformerConfig(**SIZES, block_size=block_size))
        with pytest.raises(ValueError, match=r"^The input has the shape \(.+\), so there is nothing to read\.") as raised:
            model(**inputs)
        assert "\n" not in str(raised.value)
