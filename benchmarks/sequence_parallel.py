# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Measure what processes that share a sequence exchange, and how much memory each needs.

    python -m benchmarks.sequence_parallel --output_dir sharing
    python -m benchmarks.sequence_parallel --mode training --lengths 4096 16384 --output_dir sharing-training

Bytes are counted at each exchange of the model: what counts is the size of the tensor that is summed, of which each process in
a ring of P processes sends 2 (P - 1) / P times as much. By the same count, ring attention sends all keys and values instead,
which are n d numbers each. Memory is the peak of the process that needs most, above the weights and the inputs.
"""

import argparse
import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from configuration_linformer import LinformerConfig
from configuration_linformer.configuration_linformer import PROJECTION_TYPES
from modeling_linformer import LinformerModel, sequence_parallel
from transformers_linformer.process_groups import end_process_groups
from transformers_linformer.tables import markdown_table

from .memory import peak_memory_of
from .models import rows_of


LAYERS = 2


def parse_arguments():
    description = __doc__.strip().splitlines()[0]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output_dir", required=True, type=Path, help="The folder for results and table.")
    parser.add_argument(
        "--mode", default="inference", choices=("inference", "training"), help="Training computes gradients too."
    )
    parser.add_argument("--lengths", nargs="+", type=int, default=[4096, 16384, 65536, 262144], help="The values of n.")
    parser.add_argument(
        "--processes", nargs="+", type=int, default=[1, 2, 4], help="The numbers of processes that share a sequence."
    )
    parser.add_argument("--projected_dim", type=int, help="k. The default is that of a conversion: n / 32, and at most 256.")
    parser.add_argument("--block_size", type=int, default=256, help="b. 0 is for no blocks.")
    parser.add_argument("--projection_type", default="attention_pool", choices=PROJECTION_TYPES, help="How n rows become k.")
    parser.add_argument("--hidden_size", type=int, default=384, help="d. Each head has 64 of it.")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def work(n, mode, hidden_size, **fields):
    """
    Does the work of one of the processes that torchrun starts. The first process prints the bytes that a layer exchanges and
    the peak memory. `fields` are those of `LinformerConfig`.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    config = LinformerConfig(
        vocab_size=1000,
        hidden_size=hidden_size,
        num_hidden_layers=LAYERS,
        num_attention_heads=hidden_size // 64,
        intermediate_size=4 * hidden_size,
        max_position_embeddings=n,
        **fields,
    )
    model = LinformerModel(config, add_pooling_layer=False).eval()
    model.set_sequence_mesh(init_device_mesh("cpu", (dist.get_world_size(),)))
    inputs = model.shard_inputs({"input_ids": torch.randint(3, 1000, (1, n))})

    exchanged, all_reduce = [], sequence_parallel.all_reduce

    def counting_all_reduce(tensor, *arguments):
        exchanged.append(tensor.numel() * tensor.element_size())
        return all_reduce(tensor, *arguments)

    sequence_parallel.all_reduce = counting_all_reduce

    def pass_through():
        with torch.set_grad_enabled(mode == "training"):
            hidden_states = model(**inputs).last_hidden_state
        if mode == "training":
            hidden_states.square().mean().backward()

    memory = torch.tensor(peak_memory_of(pass_through))
    dist.all_reduce(memory, dist.ReduceOp.MAX)
    if dist.get_rank() == 0:
        lengths, *of_layers = exchanged
        print(json.dumps({"bytes": sum(of_layers) // LAYERS, "bytes_of_lengths": lengths, "memory": memory.item()}))


def measure(processes, n, mode, model_options):
    """Returns what `work` prints, with n and the number of processes."""
    options = {"lengths": n, "mode": mode, "output_dir": "."} | model_options  # the workers write no file
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command += ["-m", "benchmarks.sequence_parallel", "--worker"]
    command += [f"--{name}={value}" for name, value in options.items()]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        sys.exit(result.stderr)
    return {"n": n, "processes": processes} | json.loads(result.stdout.splitlines()[-1])


def main():
    args = parse_arguments()
    names = ("hidden_size", "projected_dim", "block_size", "projection_type")
    model_options = {name: getattr(args, name) for name in names}
    if args.worker:
        work(args.lengths[0], args.mode, **model_options)
        end_process_groups()
        return
    results, rows = [], []
    for n, processes in product(args.lengths, args.processes):
        k = rows_of(n, args.projected_dim, args.block_size)
        result = measure(processes, n, args.mode, model_options | {"projected_dim": k})
        print(json.dumps(result), flush=True)
        results.append(result)
        ring = 2 * n * args.hidden_size * 4  # keys and values, float32
        memory = result["memory"] / 2**20
        rows.append([n, processes, f"{result['bytes']:,}", f"{ring:,}", f"{ring / result['bytes']:.0f}", f"{memory:.0f}"])
    args.output_dir.mkdir(parents=True, exist_ok=True)
    (args.output_dir / "sequence_parallel.json").write_text(json.dumps(results, indent=1))
    header = ["n", "processes", "bytes per layer", "ring attention's", "times as many", "MiB of the largest process"]
    table = markdown_table(header, rows)
    (args.output_dir / "sequence_parallel.md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
