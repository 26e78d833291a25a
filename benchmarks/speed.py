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
Time and memory of a Linformer against other encoders, over the length of the input.

    python benchmarks/speed.py --output_dir speed                     # inference, on the CPU with one thread or on a GPU
    python benchmarks/speed.py --mode training --lengths 512 2048 4096 --output_dir speed-training
    python benchmarks/speed.py --show speed/speed.json more/speed.json --output_dir both   # the first that has a number counts
    python benchmarks/speed.py --help

All contestants have the same sizes and random weights, and read the same random tokens. They take turns in one process, so that
whatever else the machine does hits all alike, and times are CPU time of one thread, or, on a GPU, between two events. Peak memory
is measured in a process of its own for each, and is what comes on top of the weights. Times are per layer. What takes longer
than `--max_seconds` at one length is left out at the longer ones.

`linformer` is what a conversion gives by default: blocks, and k rows of `attention_pool`. `roberta-pieces` is what people do
with a long document: it is cut into pieces of 512 tokens, which RoBERTa reads one after another. `floor` is the matrix products
of the Linformer and nothing else: no pooling, no softmax, no norm, no GELU, no allocation. `linformer-paper` and `floor-paper`
have no blocks.

Writes speed.json, speed.md, and the plots time.png and memory.png.
"""

import json
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
import transformers
from torch import nn
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from configuration_linformer import LinformerConfig
from configuration_linformer.configuration_linformer import PROJECTION_TYPES
from modeling_linformer import LinformerModel


@dataclass
class SpeedArguments:
    """What to measure."""

    output_dir: str = field(metadata={"help": "The folder for numbers, table and plots."})
    mode: str = field(default="inference", metadata={"choices": ["inference", "training"], "help": "What is timed."})
    lengths: list[int] = field(
        default_factory=lambda: [512, 1024, 2048, 4096, 8192, 16384], metadata={"help": "Lengths in tokens."}
    )
    contestants: list[str] = field(
        default_factory=lambda: ["linformer", "floor", "roberta-pieces", "roberta-sdpa"],
        metadata={"help": "Whom to measure, of those in CONTESTANTS of this file."},
    )
    projected_dim: int = field(default=64, metadata={"help": "k."})
    block_size: int = field(default=128, metadata={"help": "b, the tokens that attend to each other exactly."})
    hidden_size: int = field(default=768, metadata={"help": "d; the feed-forward layer has four times as much."})
    num_attention_heads: int = field(default=12, metadata={"help": "h."})
    num_hidden_layers: int = field(default=2, metadata={"help": "Layers of all but ModernBERT, which has 3."})
    batch_size: int = field(default=1, metadata={"help": "Documents at once."})
    dtype: str = field(default="float32", metadata={"choices": ["float32", "bfloat16"], "help": "Of weights and states."})
    repeats: int = field(default=5, metadata={"help": "How often each is timed; the median counts."})
    max_seconds: float = field(default=60.0, metadata={"help": "What takes longer is left out at longer inputs."})
    show: list[str] = field(
        default_factory=list,
        metadata={"help": "Measure nothing; show the contestants of these speed.json, of runs of the same sizes."},
    )
    memory: bool = field(default=True, metadata={"help": "Whether to measure memory too."})
    memory_of: str | None = field(
        default=None, metadata={"help": "Print the peak memory of this one, at the only length, and nothing else."}
    )


# Contestants: each is built for one length, and gives a module that takes (batch, n) token ids, and its number of layers


def linformer(args, n, **fields):
    fields = {"projection_type": "attention_pool", "block_size": args.block_size} | fields
    config = LinformerConfig(
        **sizes(args), max_position_embeddings=n, projected_dim=min(args.projected_dim, n), type_vocab_size=1, **fields
    )
    return LinformerModel(config, add_pooling_layer=False), args.num_hidden_layers


def compiled(args, n):
    model, layers = linformer(args, n)
    return torch.compile(model, fullgraph=True), layers


def quantized(model):
    """The model with int8 weights in its linear layers, and activations that are quantized as they come."""
    linears = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    # Deprecated, but torchao, which is to take its place, is half as fast on a CPU unless compiled
    qconfig = torch.ao.quantization.default_dynamic_qconfig
    return torch.ao.quantization.quantize_dynamic(model.eval(), dict.fromkeys(linears, qconfig))


def int8(args, n):
    model, layers = linformer(args, n)
    return quantized(model), layers


def roberta(args, n, attention):
    config = transformers.RobertaConfig(**sizes(args), max_position_embeddings=n + 2, type_vocab_size=1)
    config._attn_implementation = attention
    return transformers.RobertaModel(config, add_pooling_layer=False), args.num_hidden_layers


class Pieces(nn.Module):
    """An encoder that reads a document in pieces of 512 tokens, one after another."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids):
        return torch.cat([self.encoder(piece).last_hidden_state for piece in input_ids.split(512, dim=1)], dim=1)


def pieces(args, n):
    model, layers = roberta(args, min(n, 512), "sdpa")
    return Pieces(model), layers


def nystromformer(args, n):
    config = transformers.NystromformerConfig(
        **sizes(args), max_position_embeddings=n, segment_means_seq_len=n, num_landmarks=64, type_vocab_size=1
    )
    return transformers.NystromformerModel(config), args.num_hidden_layers


def longformer(args, n):
    config = transformers.LongformerConfig(
        **sizes(args), max_position_embeddings=n + 2, attention_window=512, type_vocab_size=1
    )
    return transformers.LongformerModel(config, add_pooling_layer=False), args.num_hidden_layers


def modernbert(args, n):
    config = transformers.ModernBertConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=args.hidden_size,
        intermediate_size=args.hidden_size * 3 // 2,
        num_attention_heads=args.num_attention_heads,
        num_hidden_layers=3,  # one with full attention in three, as in ModernBERT-base
        max_position_embeddings=n,
        pad_token_id=1,
    )
    config._attn_implementation = "sdpa"
    return transformers.ModernBertModel(config), 3


class WithEmbeddings(nn.Module):
    """An encoder of another package, which takes embedded tokens."""

    def __init__(self, encoder, args):
        super().__init__()
        self.embeddings, self.encoder = nn.Embedding(VOCAB_SIZE, args.hidden_size), encoder

    def forward(self, input_ids):
        return self.encoder(self.embeddings(input_ids))


def pypi_linformer(args, n):
    from linformer import Linformer

    encoder = Linformer(
        dim=args.hidden_size, seq_len=n, depth=args.num_hidden_layers, heads=args.num_attention_heads, k=args.projected_dim
    )
    return WithEmbeddings(encoder, args), args.num_hidden_layers


def pypi_linformer_pytorch(args, n):
    from linformer_pytorch import Linformer

    encoder = Linformer(
        input_size=n,
        channels=args.hidden_size,
        dim_k=args.projected_dim,
        dim_ff=4 * args.hidden_size,
        nhead=args.num_attention_heads,
        depth=args.num_hidden_layers,
        dropout=0.0,
        dropout_ff=0.0,
        parameter_sharing="layerwise",
    )
    return WithEmbeddings(encoder, args), args.num_hidden_layers


class Floor(nn.Module):
    """The matrix products of `linformer`, in the same chunks of tokens, into tensors that exist already."""

    def __init__(self, args, n, block_size):
        super().__init__()
        d, h, k = args.hidden_size, args.num_attention_heads, min(args.projected_dim, n)
        dtype = getattr(torch, args.dtype)

        def tensor(*shape):
            return nn.Parameter(torch.randn(*shape, dtype=dtype) * shape[-1] ** -0.5, requires_grad=False)

        self.layers, self.rows = args.num_hidden_layers, min(n, 512) if n >= 2048 else n
        self.size = min(block_size, n) or self.rows
        blocks, keys = self.rows // self.size, k + (self.size if block_size else 0)
        self.X, self.E = tensor(n, d), None if block_size else tensor(k, n)
        self.key, self.value, self.query, self.dense = (tensor(d, d) for _ in range(4))
        self.up, self.down = tensor(d, 4 * d), tensor(4 * d, d)
        # Without blocks E X is all that is read; with blocks, the keys and values of all tokens and k rows more
        self.EX, self.K, self.V = tensor(k, d), *(tensor(self.rows if block_size else k, d) for _ in range(2))
        self.keys, self.values = (tensor(blocks * h, keys, d // h) for _ in range(2))
        self.Q, self.context = tensor(self.rows, d), tensor(blocks * h, self.size, d // h)
        self.scores, self.hidden = tensor(blocks * h, self.size, keys), tensor(self.rows, 4 * d)
        self.blocks_of_Q = tensor(blocks * h, self.size, d // h)

    def forward(self, input_ids):
        for _ in range(self.layers):
            if self.E is not None:
                torch.mm(self.E, self.X, out=self.EX)
                torch.mm(self.EX, self.key, out=self.K)
                torch.mm(self.EX, self.value, out=self.V)
            for rows in self.X.split(self.rows):
                torch.mm(rows, self.query, out=self.Q)
                if self.E is None:
                    torch.mm(rows, self.key, out=self.K)
                    torch.mm(rows, self.value, out=self.V)
                torch.bmm(self.blocks_of_Q, self.keys.mT, out=self.scores)
                torch.bmm(self.scores, self.values, out=self.context)
                torch.mm(self.Q, self.dense, out=rows)
                torch.mm(rows, self.up, out=self.hidden)
                torch.mm(self.hidden, self.down, out=rows)
        return self.X


def floor(args, n, block_size):
    if args.mode == "training" or args.batch_size > 1 or n % (block_size or 1):
        raise NotImplementedError("the floor is of inference, with one document of whole blocks")
    return Floor(args, n, block_size), args.num_hidden_layers


VOCAB_SIZE = 1000
CONTESTANTS = {
    "linformer": linformer,
    "linformer-whole": lambda args, n: linformer(args, n, inference_chunk_size=0),
    **{f"linformer-{name}": partial(linformer, projection_type=name) for name in PROJECTION_TYPES},
    "linformer-paper": lambda args, n: linformer(args, n, projection_type="linear", block_size=0),
    "linformer-compiled": compiled,
    "linformer-int8": int8,
    "linformer-bfloat16": linformer,  # in bfloat16, whatever --dtype is
    "floor": lambda args, n: floor(args, n, args.block_size),
    "floor-paper": lambda args, n: floor(args, n, 0),
    "roberta-pieces": pieces,
    "roberta-sdpa": lambda args, n: roberta(args, n, "sdpa"),
    "roberta-eager": lambda args, n: roberta(args, n, "eager"),
    "nystromformer": nystromformer,
    "longformer": longformer,
    "modernbert": modernbert,
    "pypi-linformer": pypi_linformer,
    "pypi-linformer-pytorch": pypi_linformer_pytorch,
}


def sizes(args):
    return {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": args.hidden_size,
        "num_hidden_layers": args.num_hidden_layers,
        "num_attention_heads": args.num_attention_heads,
        "intermediate_size": 4 * args.hidden_size,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


# Measuring


def device():
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build(name, args, n):
    """A function that does the work once, and the number of layers."""
    torch.manual_seed(0)
    model, layers = CONTESTANTS[name](args, n)
    if name != "linformer-int8":
        model = model.to(device(), getattr(torch, "bfloat16" if name.endswith("bfloat16") else args.dtype))
    input_ids = torch.randint(3, VOCAB_SIZE, (args.batch_size, n), device=device())
    model.train(args.mode == "training")
    if args.mode == "inference":

        def work():
            with torch.no_grad():
                model(input_ids)

        return work, layers
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def work():
        output = model(input_ids)
        output = output if isinstance(output, torch.Tensor) else output[0]
        output.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return work, layers


def seconds(work):
    """CPU time of this process, or, on a GPU, the time between two events."""
    if device().type == "cpu":
        start = time.process_time()
        work()
        return time.process_time() - start
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


def time_all(args):
    """A dictionary for each contestant and length, with the median, least and most seconds a layer."""
    results, too_slow = [], set()
    for n in args.lengths:
        works = {}
        for name in args.contestants:
            if name in too_slow:
                continue
            try:
                works[name] = build(name, args, n)
            except NotImplementedError:
                continue
        times = {name: [] for name in works}
        for repeat in tqdm(range(args.repeats + 1), desc=f"n = {n}"):
            for name, (work, layers) in works.items():
                if name not in too_slow or not times[name]:
                    elapsed = seconds(work)
                    if repeat > 0 or elapsed > args.max_seconds:  # the first is for warming up
                        times[name].append(elapsed / layers)
                    if elapsed > args.max_seconds:
                        too_slow.add(name)
        for name, values in times.items():
            spread = {"median": statistics.median(values), "least": min(values), "most": max(values)}
            results.append({"contestant": name, "n": n, "repeats": len(values), **spread})
    return results


def resident_memory(name):
    """Bytes of this process: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def peak_memory_of(work):
    """Bytes that this process takes at the peak of the work, above what it has before."""
    before = resident_memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is from now on (not of building, nor of the parent process)
    work()
    return resident_memory("VmHWM") - before


def peak_memory(name, args, n):
    """Bytes above the weights, and above what the libraries take once, whatever the size."""
    work, _ = build(name, replace(args, hidden_size=64, num_attention_heads=2, num_hidden_layers=1), 64)
    work()
    work, _ = build(name, args, n)
    if device().type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() - before
    return peak_memory_of(work)


def measure_memory(args, timed):
    """Adds `memory`, in bytes, to what was timed."""
    for row in tqdm([row for row in timed if not row["contestant"].startswith("floor")], desc="memory"):
        command = [sys.executable, __file__, *sys.argv[1:], "--memory_of", row["contestant"], "--lengths", str(row["n"])]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            print(f"{row['contestant']} at n = {row['n']}: {result.stderr.strip().splitlines()[-1]}")
        else:
            row["memory"] = int(result.stdout.splitlines()[-1])


# Results


def make_table(args, results):
    names = [name for name in args.contestants if any(row["contestant"] == name for row in results)]
    by_key = {(row["contestant"], row["n"]): row for row in results}

    def table(title, cell):
        lines = [title, "", f"| n | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for n in args.lengths:
            lines.append(f"| {n} | {' | '.join(cell(by_key.get((name, n)), by_key.get((names[0], n))) for name in names)} |")
        return "\n".join(lines)

    def milliseconds(row, ours):
        return f"{row['median'] * 1e3:.1f} ({row['least'] * 1e3:.1f} to {row['most'] * 1e3:.1f})" if row else ""

    def ratio(row, ours):
        return f"{row['median'] / ours['median']:.2f}" if row and ours else ""

    def memory(row, ours):
        return f"{row['memory'] / 2**20:.0f}" if row and "memory" in row else ""

    tables = [
        table("Milliseconds a layer, median (least to most)", milliseconds),
        table(f"Times the time of {names[0]}", ratio),
    ]
    if any("memory" in row for row in results):
        tables.append(table("MiB above the weights", memory))
    return "\n\n".join(tables)


def plot(args, results, key, label, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    for index, name in enumerate(args.contestants):
        points = sorted((row["n"], row[key]) for row in results if row["contestant"] == name and key in row)
        if points:
            scale = 1e3 if key == "median" else 2**-20
            ours = name.startswith("linformer")
            axes.plot(
                *zip(*((n, value * scale) for n, value in points)),
                color=f"C{index}",  # the same in both plots
                marker="osD^v<>PX*"[index % 10],
                linestyle="-" if ours else "--",
                linewidth=2 if ours else 1,
                label=name,
            )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(args.lengths, [str(n) for n in args.lengths], rotation=45)
    axes.set(xlabel="n, tokens", ylabel=label)
    axes.grid(color="0.9")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def main():
    (args,) = HfArgumentParser((SpeedArguments,), description=__doc__.strip().splitlines()[0]).parse_args_into_dataclasses()
    torch.set_num_threads(1)
    if args.memory_of is not None:
        return print(peak_memory(args.memory_of, args, args.lengths[0]))
    unknown = set(args.contestants) - set(CONTESTANTS)
    if unknown:
        sys.exit(f"speed.py: error: --contestants: {', '.join(unknown)} is none of {', '.join(CONTESTANTS)}.")
    results = []
    for path in args.show:
        known = {(row["contestant"], row["n"]) for row in results}
        rows = json.loads(Path(path).read_text())["results"]
        results += [row for row in rows if (row["contestant"], row["n"]) not in known]
    if args.show:
        results = [row for row in results if row["contestant"] in args.contestants]
        args.lengths = sorted({row["n"] for row in results})
    else:
        results = time_all(args)
        if args.memory:
            measure_memory(args, results)
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    machine = torch.cuda.get_device_name() if device().type == "cuda" else f"{platform.machine()}, one thread"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    numbers = {"arguments": vars(args), "machine": machine, **versions, "results": results}
    (folder / "speed.json").write_text(json.dumps(numbers, indent=1))
    table = make_table(args, results)
    (folder / "speed.md").write_text(table + "\n")
    plot(args, results, "median", "milliseconds a layer", folder / "time.png")
    if args.memory:
        plot(args, results, "memory", "MiB above the weights", folder / "memory.png")
    print(f"\n{table}\n\nNumbers and plots are in {folder}")


if __name__ == "__main__":
    main()
