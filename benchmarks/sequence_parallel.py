# Copyright 2026 The transformers-linformer authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""
What processes that share a sequence exchange, and how much memory each needs.

    python -m benchmarks.sequence_parallel --output_dir sharing
    python -m benchmarks.sequence_parallel --mode training --lengths 4096 16384 --output_dir sharing-training

Bytes are counted at each exchange of the model: the size of the tensor that is summed, of which a ring of P processes sends
2 (P - 1) / P times as much from each. Ring attention sends, by the same count, all keys and values instead: n d numbers each.
Memory is the peak of the process that needs most, above the weights and the inputs.
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
from run_common import markdown_table

from .speed import peak_memory_of


LAYERS = 2


def parse_arguments():
    description = __doc__.strip().splitlines()[0]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output_dir", required=True, type=Path, help="The folder for results and table.")
    parser.add_argument("--mode", default="inference", choices=("inference", "training"), help="With or without gradients.")
    parser.add_argument("--lengths", nargs="+", type=int, default=[4096, 16384, 65536, 262144], help="n.")
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2, 4], help="How many share a sequence.")
    parser.add_argument("--projected_dim", type=int, default=64, help="k.")
    parser.add_argument("--block_size", type=int, default=128, help="b.")
    parser.add_argument("--projection_type", default="attention_pool", choices=PROJECTION_TYPES)
    parser.add_argument("--hidden_size", type=int, default=384, help="d, of heads of 64.")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def work(args):
    """Of one of the processes that torchrun starts: the bytes exchanged by a layer, and the peak memory."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    (n,) = args.lengths
    config = LinformerConfig(
        vocab_size=1000,
        hidden_size=args.hidden_size,
        num_hidden_layers=LAYERS,
        num_attention_heads=args.hidden_size // 64,
        intermediate_size=4 * args.hidden_size,
        max_position_embeddings=n,
        projected_dim=args.projected_dim,
        projection_type=args.projection_type,
        block_size=args.block_size,
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
        with torch.set_grad_enabled(args.mode == "training"):
            hidden_states = model(**inputs).last_hidden_state
        if args.mode == "training":
            hidden_states.square().mean().backward()

    memory = torch.tensor(peak_memory_of(pass_through))
    dist.all_reduce(memory, dist.ReduceOp.MAX)
    if dist.get_rank() == 0:
        lengths, *of_layers = exchanged
        print(json.dumps({"bytes": sum(of_layers) // LAYERS, "bytes_of_lengths": lengths, "memory": memory.item()}))
    dist.destroy_process_group()


def measure(args, n, processes):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command += ["-m", "benchmarks.sequence_parallel", "--worker", f"--lengths={n}", f"--output_dir={args.output_dir}"]
    command += [f"--{name}={getattr(args, name)}" for name in ("mode", "projected_dim", "block_size", "projection_type", "hidden_size")]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        sys.exit(result.stderr)
    return {"n": n, "processes": processes} | json.loads(result.stdout.splitlines()[-1])


def main():
    args = parse_arguments()
    if args.worker:
        return work(args)
    results, rows = [], []
    for n, processes in product(args.lengths, args.processes):
        result = measure(args, n, processes)
        print(json.dumps(result), flush=True)
        results.append(result)
        ring = 2 * n * args.hidden_size * 4  # keys and values, float32
        memory = result["memory"] / 2**20
        rows.append([n, processes, f"{result['bytes']:,}", f"{ring:,}", f"{ring / result['bytes']:.0f}", f"{memory:.0f}"])
    args.output_dir.mkdir(parents=True, exist_ok=True)
    (args.output_dir / "sequence_parallel.json").write_text(json.dumps(results, indent=1))
    header = ["n", "processes", "bytes a layer", "ring attention's", "times as many", "MiB of the largest process"]
    table = markdown_table(header, rows)
    (args.output_dir / "sequence_parallel.md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
