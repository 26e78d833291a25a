"""
Compares models that share their sequences among processes with the same models in one process.

    python sequence_worker.py found.json 4

This starts 4 processes, and writes a JSON file that says how far apart outputs, losses and gradients are.
"""

import json
import os
import sys
from itertools import product

import tiny_models
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.multiprocessing import start_processes

import modeling_linformer
from configuration_linformer import LinformerConfig
from transformers_linformer.process_groups import end_process_groups


SIZES = tiny_models.SIZES | {"max_position_embeddings": 32, "projected_dim": 8}
LINEAR = [{"projection_sharing": sharing} for sharing in ("none", "headwise", "key_value", "layerwise")]
CONV = [{"projection_type": "conv", "projection_sharing": sharing} for sharing in ("none", "key_value")]
POOLS = [{"projection_type": name} for name in ("mean_pool", "max_pool", "attention_pool")]
WITHOUT_BLOCKS = [*LINEAR, *CONV, *POOLS]
# Four processes share 29 tokens in parts of 5, 10, 5 and 9, and with windows of 4 positions in three parts of 8 and one of 5
WITH_BLOCKS = [LINEAR[0] | {"block_size": 5}, LINEAR[3] | {"block_size": 5}]
WITH_BLOCKS += [config | {"block_size": 4} for config in (CONV[0], *POOLS)]
WITH_BLOCKS += [POOLS[2] | {"block_size": 8, "far_token_limit": 8}, POOLS[0] | {"block_size": [2, 0]}]
WITH_BLOCKS += [
    config | {"block_size": [8, 0], "relative_attention_num_buckets": 8} for config in (POOLS[2], CONV[1], LINEAR[3])
]
# The first part holds the global tokens. In a batch with padding, one sequence has not even 4
WITH_GLOBAL_TOKENS = [
    POOLS[2] | {"block_size": 4, "num_global_tokens": 4},
    POOLS[2] | {"block_size": 4, "num_global_tokens": 8, "far_token_limit": 8},
    POOLS[0] | {"block_size": [2, 0], "num_global_tokens": 4, "relative_attention_num_buckets": 8},
    CONV[0] | {"num_global_tokens": 4},
    LINEAR[3] | {"num_global_tokens": 3},
    LINEAR[0] | {"block_size": 5, "num_global_tokens": 3},
]
PROJECTIONS = [*WITHOUT_BLOCKS, *WITH_BLOCKS, *WITH_GLOBAL_TOKENS]
# Neither 2, nor 4, nor the windows of 4 divide 29 tokens
LENGTHS = (29, 5)
HEADS = ("MaskedLM", "TokenClassification", "SequenceClassification", "MultipleChoice", "QuestionAnswering")


def make_model(head="Model", dtype=torch.float64, **config):
    torch.manual_seed(0)
    name = head if head == "Model" else f"For{head}"
    model = getattr(modeling_linformer, f"Linformer{name}")(LinformerConfig(**SIZES | config))
    for parameter in model.parameters():  # as zero biases would hide a lost bias
        parameter.data.normal_(std=0.2)
    return model.eval().to(dtype)  # in float64, as gradients that are nearly zero are all rounding in float32


def make_inputs(head="Model", length=29, padded=False):
    generator = torch.Generator().manual_seed(1)

    def integers(*shape, high=50):
        return torch.randint(2, high, shape, generator=generator)

    choices = (2,) if head == "MultipleChoice" else ()
    inputs = {"input_ids": integers(2, *choices, length)}
    if padded:
        # The second sequence has only three tokens, so most processes have none of them
        mask = torch.ones_like(inputs["input_ids"])
        mask[1, ..., 3:] = 0
        inputs["attention_mask"] = mask
    if head == "MaskedLM":
        labels = integers(2, length)
        labels[:, 2 * length // 3 :] = -100  # the processes have different numbers of them, and the last one has none
        inputs["labels"] = labels
    elif head == "TokenClassification":
        inputs["labels"] = integers(2, length, high=4) - 2
    elif head in ("SequenceClassification", "MultipleChoice"):
        inputs["labels"] = torch.tensor([1, 0])
    elif head == "QuestionAnswering":
        inputs |= {"start_positions": torch.tensor([0, length - 1]), "end_positions": torch.tensor([4, length - 1])}
    return inputs


def uneven_shards(inputs, mesh, unit):
    """Gives each process one token or block of `unit` tokens, and the last process all the others."""
    rank, last = mesh.get_local_rank(), mesh.size() - 1
    own = slice(rank * unit, (rank + 1) * unit if rank < last else None)
    return {name: tensor[..., own].contiguous() for name, tensor in inputs.items()}


def results(model, inputs, train):
    """Returns the model's outputs by name, and the gradients of all parameters by name, which are zero without `train`."""
    model.zero_grad()
    with torch.set_grad_enabled(train):
        outputs = model(**inputs)
    loss = outputs.get("loss")
    if train:
        loss = outputs.last_hidden_state.square().sum() if loss is None else loss
        loss.backward()
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    return {name: output.detach() for name, output in outputs.items() if output is not None}, gradients


def distance(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-6)).nan_to_num(nan=torch.inf).item()


def compare(model, mesh, length=29, padded=False, uneven=False, train=True, checkpointing=False):
    """Returns this process's largest differences of outputs and of gradients, relative to the largest expected number."""
    head = type(model).__name__.removeprefix("Linformer").removeprefix("For")
    inputs = make_inputs(head, length, padded)
    model.set_sequence_mesh(None)
    expected, expected_gradients = results(model, inputs, train)
    if checkpointing:
        model.train()
        model.gradient_checkpointing_enable()
    model.set_sequence_mesh(mesh)
    shards = uneven_shards(inputs, mesh, model.config.part_multiple) if uneven else model.shard_inputs(inputs)
    outputs, gradients = results(model, shards, train)
    assert outputs.keys() == expected.keys()
    # The place of this process's tokens in the sequence
    lengths = [torch.empty((), dtype=torch.long) for _ in range(mesh.size())]
    dist.all_gather(lengths, torch.tensor(shards["input_ids"].shape[-1]), group=mesh.get_group())
    start = sum(lengths[: mesh.get_local_rank()])
    own = slice(start, start + shards["input_ids"].shape[-1])
    far = {"outputs": 0.0, "gradients": 0.0}
    for name, output in outputs.items():
        # With `sparse_prediction` the logits are those of the labelled tokens, of which a part may have any number
        if name == "logits" and model.config.sparse_prediction:
            continue
        wanted = expected[name]
        is_of_tokens = name == "last_hidden_state" or (name == "logits" and head in ("MaskedLM", "TokenClassification"))
        far["outputs"] = max(far["outputs"], distance(output, wanted[:, own] if is_of_tokens else wanted))
    # Without a head, each process has the loss of its own tokens, and the sum over all processes is the loss of the sequence
    if train:
        together = torch.cat([gradient.flatten() for gradient in gradients.values()])
        dist.all_reduce(together, group=mesh.get_group())
        together /= 1 if head == "Model" else mesh.size()
        sizes = [gradient.numel() for gradient in gradients.values()]
        for name, gradient in zip(gradients, together.split(sizes), strict=True):
            far["gradients"] = max(far["gradients"], distance(gradient, expected_gradients[name].flatten()))
    return far


def data_parallel(mesh):
    """
    Returns the largest relative difference of gradients between one step of two replicas and one step in one process.

    Each replica shares its sequences among two processes.
    """
    model = make_model("MaskedLM")
    inputs = make_inputs("MaskedLM", padded=True)
    # Both halves of this batch have the same number of labels
    batch = {name: torch.cat([tensor, tensor.flip(0)]) for name, tensor in inputs.items()}
    _, expected = results(model, batch, True)
    model.zero_grad()
    model.set_sequence_mesh(mesh["sequence"])
    own = {name: tensor.chunk(2)[mesh["data"].get_local_rank()] for name, tensor in batch.items()}
    replica = torch.nn.parallel.DistributedDataParallel(model)
    replica(**model.shard_inputs(own)).loss.backward()
    return max(distance(parameter.grad, expected[name]) for name, parameter in model.named_parameters())


def refusal(call):
    """Returns the message of the `ValueError` that the call raises, or None if it raises none."""
    try:
        call()
    except ValueError as error:
        return str(error)


def refusals(mesh):
    model = make_model()
    model.set_sequence_mesh(mesh)
    blocks = make_model(block_size=5)
    blocks.set_sequence_mesh(mesh)
    rank = mesh.get_local_rank()
    tokens = make_inputs()["input_ids"]
    return {
        "fewer blocks than processes": refusal(lambda: blocks.shard_inputs({"input_ids": tokens[:, :5]})),
        "a part that is not of whole blocks": refusal(lambda: blocks(tokens[:, :3])),
        "fewer tokens than processes": refusal(lambda: model.shard_inputs({"input_ids": tokens[:, :1]})),
        "no tokens": refusal(lambda: model(tokens[:, : 0 if rank == 1 else 3])),
        "too long": refusal(lambda: model(tokens)),
        "dimensions": refusal(lambda: model.set_sequence_mesh(init_device_mesh("cpu", (1, mesh.size())))),
    }


def main(rank, path, size, die):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}.processes", rank=rank, world_size=size)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("sequence",))
    if die and rank == 1:
        os._exit(9)
    compared = {}
    for config in PROJECTIONS:
        model, name = make_model(**config), " ".join(map(str, config.values()))
        for padded, length in product((False, True), LENGTHS):
            if length >= model.config.part_multiple * (mesh.size() - 1) + 1:
                compared[f"{name} {length} {'padded' if padded else ''}".strip()] = compare(model, mesh, length, padded)
        compared[f"{name} uneven"] = compare(model, mesh, padded=True, uneven=True)
        model.config.inference_chunk_size = 2
        compared[f"{name} in chunks"] = compare(model, mesh, padded=True, train=False)
        model.config.inference_chunk_size = None
        compared[f"{name} float32"] = compare(model.float(), mesh, padded=True, train=False)
        compared[f"{name} checkpointing"] = compare(make_model("MaskedLM", **config), mesh, padded=True, checkpointing=True)
    for head in HEADS:
        compared[head] = compare(make_model(head), mesh, padded=True)
        blocks = make_model(head, projection_type="attention_pool", block_size=8)
        compared[f"{head} blocks"] = compare(blocks, mesh, padded=True)
    pooled = make_model("SequenceClassification", classifier_pooling="mean")
    compared["mean of tokens"] = compare(pooled, mesh, padded=True)
    compared["sparse_prediction"] = compare(make_model("MaskedLM", sparse_prediction=True), mesh)
    # The largest differences of all processes
    worst = torch.tensor([list(far.values()) for far in compared.values()], dtype=torch.float64)
    dist.all_reduce(worst, dist.ReduceOp.MAX)
    rows = zip(compared, worst.tolist(), strict=True)
    found = {name: {"outputs": outputs, "gradients": gradients} for name, (outputs, gradients) in rows}
    found["refusals"] = refusals(mesh)
    if dist.get_world_size() == 4:
        found["data_parallel"] = data_parallel(init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "sequence")))
    if rank == 0:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(found, file)
    end_process_groups()


if __name__ == "__main__":
    path, size, *options = sys.argv[1:]
    # Forks have imported torch already
    start_processes(main, (path, int(size), "--die" in options), int(size), start_method="fork")
