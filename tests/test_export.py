"""Tests that the model is one graph for all batch sizes and lengths: by torch.export, in ONNX, and by torch.compile."""

import functools

import pytest
import tiny_models
import torch
from packaging.version import parse
from tiny_models import BLOCK, PAD, K, N, make_ids
from torch._dynamo.testing import CompileCounterWithBackend

from modeling_linformer import LinformerForMaskedLM, LinformerForSequenceClassification


# One layer has no blocks and one has blocks. To trace both at once takes three quarters of the time.
BLOCK_SIZES = [0, BLOCK]
FIELDS = {"num_hidden_layers": len(BLOCK_SIZES), "block_size": BLOCK_SIZES}

# Each shape is a batch size and a length. All graphs are traced with the first one. In the next ones no window is full, or one
# window, or one block. Then there is one token more than a block, then only full blocks, then n - 1 and n.
SHAPES = [(3, 13), (2, 2), (3, N // K), (2, BLOCK), (4, BLOCK + 1), (3, 2 * BLOCK), (4, N - 1), (5, N)]
# torch.compile compiles anew for each size that is 1, whatever the model does. An exported graph has to serve them, too.
SHAPES_OF_ONE = [(1, 13), (1, N), (3, 1), (1, 1)]

# Each graph takes seconds. The projections between these two have no operations of their own that matter to a graph.
OFTEN, SELDOM = ("linear", "attention_pool"), ("conv", "mean_pool", "max_pool")
slow = pytest.mark.slow("the graphs of linear and attention_pool have all that these have")
types = pytest.mark.parametrize("projection_type", [*OFTEN, *(pytest.param(name, marks=slow) for name in SELDOM)])
slow_without_pooling = pytest.mark.slow("what only linear has is in the graphs of test_torch_export_gives_one_graph")
types_from_pooling = pytest.mark.parametrize(
    "projection_type",
    ["attention_pool", *(pytest.param(name, marks=slow_without_pooling) for name in ("linear", *SELDOM))],
)
with_and_without_mask = pytest.mark.parametrize("with_mask", [False, True], ids=["no-mask", "mask"])


def make_model(model_class=LinformerForMaskedLM, **fields):
    return tiny_models.make_model(model_class, **FIELDS | fields)


def make_inputs(batch_size, length, with_mask):
    """Returns random inputs. With a mask, each sequence is 3 tokens shorter than the one before it, down to a single token."""
    ids = make_ids(batch_size, length)
    if not with_mask:
        return {"input_ids": ids}
    lengths = (length - 3 * torch.arange(batch_size)).clamp(min=1)
    mask = torch.arange(length) < lengths.unsqueeze(1)
    return {"input_ids": ids.masked_fill(~mask, PAD), "attention_mask": mask.long()}


def assert_equal(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def export(model, with_mask):
    if parse(torch.__version__) < parse("2.13"):
        pytest.skip("torch 2.8 cannot export a layer with blocks for every length, and between 2.8 and 2.13 none was tried")
    inputs = make_inputs(*SHAPES[0], with_mask)
    sizes = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("length", min=1, max=N)}
    return torch.export.export(model, (), inputs, dynamic_shapes=dict.fromkeys(inputs, sizes), strict=False)


@functools.cache
def exported(projection_type, with_mask):
    """Returns a model, and its exported program, which several tests share, as the export takes seconds."""
    model = make_model(projection_type=projection_type)
    return model, export(model, with_mask)


def check_graph(graph, model, with_mask):
    for shape in SHAPES + SHAPES_OF_ONE:
        inputs = make_inputs(*shape, with_mask)
        assert_equal(graph(**inputs).logits, model(**inputs).logits)


@with_and_without_mask
@types
@torch.no_grad()
def test_torch_export_gives_one_graph(projection_type, with_mask):
    model, program = exported(projection_type, with_mask)
    check_graph(program.module(), model, with_mask)


@types_from_pooling
@torch._dynamo.config.patch(specialize_float=True)
def test_it_is_one_graph_with_gradients_too(projection_type):
    # A model that trains, or that is exported without `torch.no_grad()`, is no other graph
    if parse(torch.__version__) < parse("2.13"):
        pytest.skip("torch 2.8 cannot export a layer with blocks for every length, and between 2.8 and 2.13 none was tried")
    model, inputs = make_model(projection_type=projection_type), make_inputs(*SHAPES[0], with_mask=True)
    sizes = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("length", min=1, max=N)}
    program = torch.export.export(model, (), inputs, dynamic_shapes=dict.fromkeys(inputs, sizes), strict=False)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    for shape in SHAPES[:2]:
        inputs = make_inputs(*shape, with_mask=True)
        expected = model(**inputs).logits
        assert_equal(program.module()(**inputs).logits, expected)
        (wanted,) = torch.autograd.grad(expected.square().sum(), model.get_input_embeddings().weight)
        logits = compiled(**inputs).logits
        assert_equal(logits, expected)
        (gradient,) = torch.autograd.grad(logits.square().sum(), model.get_input_embeddings().weight)
        torch.testing.assert_close(gradient, wanted, atol=1e-3, rtol=1e-4)
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    "config",
    [
        {"projection_type": "linear", "projection_sharing": "none"},
        # Sequences of more than a block and 8 tokens reach the limit
        {"projection_type": "attention_pool", "far_token_limit": 8},
        {"projection_type": "attention_pool", "relative_attention_num_buckets": 8},
        {"projection_type": "hard_attention_pool"},
        *(
            pytest.param(config, marks=pytest.mark.slow("conv alone, and global tokens with attention_pool, are often tested"))
            for config in (
                {"projection_type": "conv", "projection_sharing": "none"},
                {"projection_type": "linear", "num_global_tokens": 3},
                {"projection_type": "conv", "num_global_tokens": 8},
            )
        ),
    ],
    ids=lambda config: "-".join(map(str, config.values())),
)
@torch.no_grad()
def test_torch_export_of_other_configurations(config):
    model = make_model(**config)
    check_graph(export(model, with_mask=True).module(), model, with_mask=True)


@torch.no_grad()
def test_torch_export_of_a_classifier_of_the_mean():
    model = make_model(LinformerForSequenceClassification, classifier_pooling="mean")
    check_graph(export(model, with_mask=True).module(), model, with_mask=True)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # comes from within torch.onnx
@types_from_pooling
@torch.no_grad()
def test_onnx_gives_one_graph(projection_type, tmp_path):
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason="torch.onnx.export needs onnx and onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime runs what torch.onnx.export makes")

    model, program = exported(projection_type, with_mask=True)
    path = tmp_path / "model.onnx"
    torch.onnx.export(program, f=path, dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for shape in SHAPES + SHAPES_OF_ONE:
        inputs = make_inputs(*shape, with_mask=True)
        (logits,) = session.run(None, {name: values.numpy() for name, values in inputs.items()})
        assert_equal(torch.from_numpy(logits), model(**inputs).logits)


# Both backends trace, and torch sets conditions on sizes while it traces. aot_eager traces a second time, operator by
# operator. Each stands with whether there is a mask.
EAGER, AOT = ("eager", False), ("aot_eager", True)
GLOBAL_TOKENS = {"projection_type": "attention_pool", "num_global_tokens": 8}
COMPILED = [({"projection_type": "linear"}, *EAGER), ({"projection_type": "attention_pool"}, *AOT), (GLOBAL_TOKENS, *EAGER)]
COMPILED_SELDOM = [
    ({"projection_type": "linear"}, *AOT),
    ({"projection_type": "attention_pool"}, *EAGER),
    (GLOBAL_TOKENS, *AOT),
]
COMPILED_SELDOM += [({"projection_type": name}, *how) for name in SELDOM for how in (EAGER, AOT)]
COMPILED_SELDOM += [({"projection_type": "mean_pool", "relative_attention_num_buckets": 8}, *how) for how in (EAGER, AOT)]


@pytest.mark.parametrize(
    "config, backend, with_mask",
    [*COMPILED, *(pytest.param(*each, marks=slow) for each in COMPILED_SELDOM)],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else str(value),
)
@torch._dynamo.config.patch(specialize_float=True)  # otherwise torch.compile traces twice, as a float might be an input
@torch.no_grad()
def test_torch_compile_makes_one_graph(config, backend, with_mask):
    torch._dynamo.reset()
    model = make_model(**config)
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    for shape in SHAPES:
        inputs = make_inputs(*shape, with_mask)
        assert_equal(compiled(**inputs).logits, model(**inputs).logits)
        assert counter.frame_count == 1, f"compiled again for {shape}"
