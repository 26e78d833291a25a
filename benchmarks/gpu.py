# Copyright 2026 The transformers-linformer authors.
# SPDX-License-Identifier: Apache-2.0
"""
Measure on a GPU how Linformers compare with pieces of 512 tokens and with full attention, in at most eight minutes.

    python -m benchmarks.gpu --output_dir gpu
    python -m benchmarks.gpu --output_dir gpu --report           # measures nothing, and prints the tables again
    python -m benchmarks.gpu --output_dir gpu --only operations  # takes seconds on a CPU, too
    python -m benchmarks.gpu --help

All models have random weights and no dropout, and read the same number of random tokens at once, in documents of n tokens.
There are four parts, and each measurement is kept as a line of gpu.jsonl as soon as it is made:

- `operations`: how many operations of torch that are no views one pass calls, for four documents of which one has padding.
- `time`: the time and the memory of a pass without gradients and of one forward and back. `pieces` are the documents cut into
  pieces of 512 tokens, all of them in one batch. `ours` are Linformers with blocks and `attention_pool`. All are measured as
  they are, compiled, and in CUDA graphs.
- `profile`: which operations of torch, and which kernels of a GPU, this time goes to.
- `table`: table 3 of the paper, the attention of its equation 7 against full attention, with fused and unfused kernels.

The models of one measurement take turns. A time is the median of several, between two events of the GPU, or of the CPU's time
with one thread. Memory is what a GPU needs on top of the weights, and is not measured on a CPU, nor for CUDA graphs. What
fails is written down with its reason and is not tried again.

A second start makes the measurements that are missing. On another machine, with other versions, and when the code of the model
has changed, all of them are missing. Writes the tables to gpu.md, too.
"""

import argparse
import gc
import itertools
import platform
import statistics
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
import transformers
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.utils import is_flash_attn_2_available

from transformers_linformer.tables import markdown_table

from .memory import peak_memory_of
from .models import VOCAB_SIZE, PiecesAtOnce, Sizes, linformer, roberta, seconds_of, work_of
from .runs import digest, is_finished, keep_result, read_results


ROOT = Path(__file__).parent.parent
SIZES = {
    "MiniLM": Sizes(hidden_size=384, num_hidden_layers=6),
    "base": Sizes(hidden_size=768, num_hidden_layers=12),
    "tiny": Sizes(hidden_size=32, num_hidden_layers=2, num_attention_heads=2),  # for the tests
}
MODES = ["inference", "training"]
# How many times the time of pieces a Linformer may take
GOALS = {"inference": 1.2, "training": 1.3}
# The modes of `torch.compile`
COMPILED = {"CUDA graphs": "reduce-overhead", "compiled": "default"}
# How many seconds a measurement is expected to take before the first of its kind was made
EXPECTED = {"operations": 20, "profile": 20, "table": 10, "eager": 10, "compiled": 60, "CUDA graphs": 60}
# What table 3 of the paper has for k = 128: how many times faster the Linformer is, and how many times less memory it needs
PAPER = {
    512: (1.5, 1.7),
    1024: (1.7, 3.0),
    2048: (2.6, 6.1),
    4096: (3.4, 14),
    8192: (5.5, 28),
    16384: (8.6, 56),
    32768: (13, 56),
    65536: (20, 60),
}
# How many of the operations and kernels are shown
SHOWN = 12
# What the lines of one report have in common
CONTEXT = ("machine", "torch", "transformers", "dtype", "tokens", "piece", "code")


def parse_arguments(arguments=None):
    description = __doc__.strip().splitlines()[0]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default="gpu", help="The folder for results and tables.")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="The parts to measure.")
    parser.add_argument("--report", action="store_true", help="Measure nothing, and print the tables of what is there.")
    parser.add_argument("--seconds", type=float, default=480, help="No measurement starts that would end later than this.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cuda or cpu.")
    parser.add_argument("--dtype", help="The dtype of the weights. The default is bfloat16, and on a CPU float32.")
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["MiniLM", "base"], help="The sizes of models.")
    parser.add_argument("--lengths", nargs="+", type=int, default=list(PAPER), help="The lengths of documents in tokens.")
    parser.add_argument("--tokens", type=int, default=65536, help="The tokens of a batch, at the least one document.")
    parser.add_argument("--piece", type=int, default=512, help="The tokens of a piece. Blocks have as many, and half as many.")
    parser.add_argument(
        "--compiled_lengths", nargs="*", type=int, default=[2048, 8192], help="The lengths at which models are compiled."
    )
    parser.add_argument("--profiled_length", type=int, default=2048, help="The length for `operations` and `profile`.")
    parser.add_argument(
        "--projected_dims", nargs="+", type=int, default=[128, 256, 512], help="The numbers of rows for `table`."
    )
    parser.add_argument("--repeats", type=int, default=7, help="How often each model is timed. The median counts.")
    parser.add_argument("--max_seconds", type=float, default=1.0, help="A model that takes longer is timed once.")
    args = parser.parse_args(arguments)
    args.device = torch.device(args.device)
    args.dtype = args.dtype or ("float32" if args.device.type == "cpu" else "bfloat16")
    return args


# The models. Each is a function that returns a module, which takes token ids and a mask.


def ours(sizes, n, block_size, args, **fields):
    sizes = replace(sizes, block_size=block_size)
    limit = args.piece - block_size or None
    return lambda: linformer(sizes, n, **{"far_token_limit": limit, "inference_chunk_size": 0} | fields)[0]


def pieces(sizes, attention, args):
    return lambda: PiecesAtOnce(roberta(sizes, args.piece, attention)[0], args.piece)


def models_for_time(sizes, n, args):
    blocks = (args.piece // 2, args.piece)
    models = {"pieces": pieces(sizes, "sdpa", args)}
    models |= {f"ours, b = {size}": ours(sizes, n, size, args) for size in blocks}
    models["full attention"] = lambda: roberta(sizes, n, "sdpa")[0]
    if is_flash_attn_2_available() and args.device.type == "cuda":
        models["pieces, flash_attention_2"] = pieces(sizes, "flash_attention_2", args)
    return models


def models_for_table(sizes, n, kernel, args):
    def equation_7(k, **fields):
        fields = {"projection_type": "linear", "attn_implementation": kernel, "inference_chunk_size": 0} | fields
        return lambda: linformer(replace(sizes, projected_dim=k, block_size=0), n, **fields)[0]

    models = {"full attention": lambda: roberta(sizes, n, kernel)[0]}
    models |= {f"k = {k}": equation_7(k) for k in args.projected_dims if k <= n}
    if n == max(args.lengths):
        k = args.projected_dims[0]
        models[f"k = {k}, in chunks"] = equation_7(k, inference_chunk_size=None)
    return models


def new_work(build, mode, how, args, input_ids, attention_mask=None):
    """Returns a function that does the work of a mode once with a new model, compiled or as it is."""
    torch.manual_seed(0)
    with args.device:  # so that weights are drawn where they are used, which saves seconds per model
        model = build().to(getattr(torch, args.dtype))
    module = torch.compile(model, dynamic=False, mode=COMPILED[how]) if how in COMPILED else model
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    work = work_of(module, mode, inputs, model.zero_grad)

    def work_of_a_step():
        torch.compiler.cudagraph_mark_step_begin()  # the outputs of the step before are no longer needed
        return work()

    return work_of_a_step if how == "CUDA graphs" else work


def new_documents(number, n, args):
    return torch.randint(3, VOCAB_SIZE, (number, n), device=args.device)


# Measuring


def attempt(function, *arguments):
    """Returns the result of a function, and None; or None, and the reason why there is no result, in one line."""
    try:
        return function(*arguments), None
    except Exception as error:  # whatever a compiler or a kernel may raise
        lines = str(error).strip().splitlines() or [""]
        reason = "out of memory" if "out of memory" in str(error).lower() else f"{type(error).__name__}: {lines[0][:160]}"
    free_memory()  # the error is gone, and with it the tensors that it held
    return None, reason


def attempt_each(function, models):
    """Returns a dictionary from the name of each model to the function's result, or to the reason why it `failed`."""
    attempts = {name: attempt(function, build) for name, build in models.items()}
    return {name: result if reason is None else {"failed": reason} for name, (result, reason) in attempts.items()}


def free_memory():
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # raises if this process cannot use the GPU any more
        torch.cuda.empty_cache()


def time_models(models, n, tokens, mode, how, args):
    """
    Returns a dictionary from the name of each model to a dictionary with its milliseconds and its memory in MiB, or with the
    reason why it `failed`.
    """
    torch.compiler.reset()  # each measurement compiles the code of its models anew, for its length alone
    free_memory()
    input_ids = new_documents(max(1, tokens // n), n, args)

    def prepare(build):
        start = time.perf_counter()
        work = new_work(build, mode, how, args, input_ids)
        work()
        result = {"work": work, "seconds_first": round(time.perf_counter() - start, 2)}
        memory = peak_memory_of(work, args.device)
        # What a graph needs is set aside before, and on a CPU a process keeps what an earlier call needed
        if how != "CUDA graphs" and args.device.type == "cuda":
            result["MiB"] = round(memory / 2**20, 1)
        work()  # the third call is the first that replays a graph
        return result

    results = attempt_each(prepare, models)
    works = {name: result.pop("work") for name, result in results.items() if "work" in result}
    times = {name: [] for name in works}
    for name in list(works) * args.repeats:
        if name in works and max(times[name], default=0) <= args.max_seconds:
            seconds, reason = attempt(seconds_of, works[name], args.device)
            if reason is None:
                times[name].append(seconds)
            else:
                results[name] = {"failed": reason}
                del works[name]
    for name in works:
        results[name]["ms"] = round(statistics.median(times[name]) * 1e3, 3)
    return results


def measure_time(args, size, n, mode, how, model=None):
    models = models_for_time(SIZES[size], n, args)
    if model is not None:
        models = {name: models[name] for name in ("pieces", model)}
    if n == max(args.lengths) and mode == "inference" and how == "eager":
        block_size = args.piece // 2
        models[f"ours, b = {block_size}, in chunks"] = ours(SIZES[size], n, block_size, args, inference_chunk_size=None)
    return time_models(models, n, args.tokens, mode, how, args)


def measure_table(args, size, n, kernel):
    # Fewer tokens than elsewhere, so that unfused attention fits into memory as long as it can
    return time_models(models_for_table(SIZES[size], n, kernel, args), n, args.tokens // 4, "inference", "eager", args)


class OperationCounter(TorchDispatchMode):
    """Counts the operations of torch that are called within it and are no views, by their names, in `counts`."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view:  # a view, such as a transpose, computes nothing and launches no kernel
            self.counts[func.name()] += 1
        return func(*args, **(kwargs or {}))


def count_operations(work):
    """Returns a dictionary from the names of the operations that `work()` calls, views aside, to their numbers."""
    with OperationCounter() as counter:
        work()
    return dict(counter.counts.most_common())


def measure_operations(args, size, n):
    input_ids = new_documents(4, n, args)
    mask = torch.ones_like(input_ids)
    mask[-1, -n // 5 :] = 0

    def count(build):
        return count_operations(new_work(build, "inference", "eager", args, input_ids, mask))

    models = models_for_time(SIZES[size], n, args)
    del models["full attention"]  # the same operations as pieces, of other shapes
    return attempt_each(count, models)


def measure_profile(args, size, n, mode):
    input_ids = new_documents(max(1, args.tokens // n), n, args)
    models = models_for_time(SIZES[size], n, args)
    few = {name: models[name] for name in ("pieces", f"ours, b = {args.piece // 2}")}
    return attempt_each(lambda build: profile(new_work(build, mode, "eager", args, input_ids), args.device), few)


def profile(work, device):
    """
    Returns the milliseconds that work takes, those that it computes in, and the greatest shares of operations and kernels.

    A share is a name, a part of the milliseconds that it computes in, and the number of calls. On a GPU the share of an
    operation is that of the kernels that it launches, and what they do not take is time in which the GPU waits.
    """
    for _ in range(3):  # to warm up
        milliseconds = seconds_of(work, device) * 1e3
    on_gpu = device.type == "cuda"
    with torch.profiler.profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]) as profiler:
        seconds_of(work, device)
    clock = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    microseconds = {DeviceType.CPU: [], DeviceType.CUDA: []}
    for event in profiler.key_averages():
        if getattr(event, clock) > 0:
            microseconds[event.device_type].append((event.key, getattr(event, clock), event.count))
    total = sum(each[1] for each in microseconds[DeviceType.CUDA if on_gpu else DeviceType.CPU])

    def shares(events):
        greatest = sorted(events, key=lambda event: -event[1])[:SHOWN]
        return [(name, round(value / total, 4), count) for name, value, count in greatest]

    return {
        "ms": round(milliseconds, 3),
        "ms_computing": round(total / 1e3, 3),
        "operations": shares(microseconds[DeviceType.CPU]),
        "kernels": shares(microseconds[DeviceType.CUDA]),
    }


# Each function takes the arguments of the command and the fields of a measurement
PARTS = {"operations": measure_operations, "time": measure_time, "profile": measure_profile, "table": measure_table}


def plan(args):
    """Returns the measurements to make, each a dictionary, the most valuable first."""

    def product(part, **choices):
        return [{"part": part} | dict(zip(choices, values)) for values in itertools.product(*choices.values())]

    small, large, some = args.sizes[:1], args.sizes[-1:], args.compiled_lengths
    # To compile takes long, so each of these is measured by itself, beside pieces
    each = {"model": [name for name in models_for_time(SIZES[small[0]], args.piece, args) if name != "pieces"]}
    wanted = [
        *product("operations", size=small, n=[args.profiled_length]),
        *product("time", size=small, n=[n for n in args.lengths if n in some], mode=MODES, how=["eager"]),
        *product("profile", size=small, n=[args.profiled_length], mode=MODES),
        *product("time", size=small, n=args.lengths, mode=MODES, how=["eager"]),
        *product("time", size=args.sizes, n=args.lengths, mode=MODES, how=["eager"]),
        *product("table", size=large, n=args.lengths, kernel=["sdpa", "eager"]),
        *product("time", size=small, n=some[:1], mode=["inference"], how=["CUDA graphs"], **each),
        *product("time", size=small, n=some[:1], mode=["training"], how=["compiled"], **each),
        *product("time", size=args.sizes, n=some, mode=["inference"], how=["CUDA graphs"], **each),
        *product("time", size=args.sizes, n=some, mode=MODES, how=["compiled"], **each),
    ]
    unique = dict.fromkeys(tuple(fields.items()) for fields in wanted if fields["part"] in args.only)
    return [dict(fields) for fields in unique]


def context_of(args):
    folders = [ROOT / "configuration_linformer", ROOT / "modeling_linformer"]
    code = {str(path.relative_to(ROOT)): path.read_text("utf-8") for folder in folders for path in sorted(folder.glob("*.py"))}
    on_gpu = args.device.type == "cuda"
    machine = torch.cuda.get_device_name() if on_gpu else f"{platform.machine()}, one thread"
    versions = (torch.__version__, transformers.__version__)
    return dict(zip(CONTEXT, (machine, *versions, args.dtype, args.tokens, args.piece, digest(code)), strict=True))


def seconds_expected(wanted, results):
    """Returns how long a measurement will take: as long as the longest of its kind, which is all that it is but its length."""
    kind = {name: value for name, value in wanted.items() if name != "n"}
    finished = [result["seconds"] for result in results if is_finished(kind, [result])]
    return max(finished, default=EXPECTED[wanted.get("how", wanted["part"])])


def measure(args, path):
    """Makes the measurements that are missing and fit, and returns those that do not fit."""
    start, left_out = time.perf_counter(), []
    context, results = context_of(args), read_results(path)
    for wanted in plan(args):
        if is_finished(context | wanted, results):
            continue
        started = time.perf_counter()
        if started - start + seconds_expected(context | wanted, results) > args.seconds:
            left_out.append(wanted)
            continue
        fields = dict(wanted)
        measured = PARTS[fields.pop("part")](args, **fields)
        result = context | wanted | {"results": measured, "seconds": round(time.perf_counter() - started, 2)}
        results.append(result)
        keep_result(result, path)
    return left_out


# Tables


def ratio(numerator, denominator, key):
    """Returns the ratio of the values of a key of two results, as text, or nothing if one is not there."""
    if not numerator or not denominator or not numerator.get(key) or not denominator.get(key):
        return ""
    return f"{numerator[key] / denominator[key]:.2f}"


def cost(result, first=None):
    """Returns the cell of a result: its time, how many times that of the first result it is, and its memory."""
    if result is None or "failed" in result:
        return (result or {"failed": ""})["failed"]
    times = f"**{ratio(result, first, 'ms')}**" if ratio(result, first, "ms") else ""
    memory = f"{result['MiB']:.0f} MiB" if "MiB" in result else ""
    return ", ".join(filter(None, [f"{result['ms']:.2f} ms", times, memory]))


def names_of(lines):
    return list(dict.fromkeys(name for line in lines for name in line["results"]))


def operations_table(lines):
    (line,) = lines
    names = names_of(lines)
    counts = [Counter() if "failed" in line["results"][name] else Counter(line["results"][name]) for name in names]
    totals = [count.total() or line["results"][name]["failed"] for name, count in zip(names, counts)]
    most = sum(counts, Counter()).most_common(SHOWN)
    rows = [[operation, *(count[operation] for count in counts)] for operation, _ in most]
    return markdown_table(["operation", *names], [["all", *totals], *rows])


def time_table(lines):
    mode = lines[0]["mode"]
    names = names_of(lines)
    titles = [f"{name} (goal {GOALS[mode]})" if name.startswith("ours") else name for name in names]
    order = ["eager", *COMPILED]
    lines = sorted(lines, key=lambda line: (order.index(line["how"]), line["n"]))
    rows = []
    for line in lines:
        results = line["results"]
        first = results["pieces"]
        cells = (cost(results.get(name), None if name == "pieces" else first) for name in names)
        rows.append([line["n"], line["how"], *cells])
    return markdown_table(["n", "", *titles], rows)


def paper_table(lines):
    lines = sorted(lines, key=lambda line: line["n"])
    names = [name for name in names_of(lines) if name != "full attention"]

    def saved(result, full):
        if result is None or "failed" in result:
            return cost(result)
        return " / ".join(filter(None, (ratio(full, result, key) for key in ("ms", "MiB")))) + f" ({cost(result)})"

    rows = []
    for line in lines:
        full = line["results"]["full attention"]
        paper = " / ".join(map(str, PAPER.get(line["n"], ())))
        rows.append([line["n"], paper, cost(full), *(saved(line["results"].get(name), full) for name in names)])
    return markdown_table(["n", "the paper, k = 128", "full attention", *names], rows)


def profile_table(lines):
    (line,) = lines
    parts = []
    for key in ("operations", "kernels"):
        columns = []
        for result in line["results"].values():
            columns.append([(name[:80], f"{share:.1%}", count) for name, share, count in result.get(key, [])])
        if any(columns):
            rows = [[x for cells in row for x in cells] for row in itertools.zip_longest(*columns, fillvalue=("", "", ""))]
            titles = [title for name in line["results"] for title in (f"{name}: {key}", "share", "calls")]
            parts.append(markdown_table(titles, rows))
    for name, result in line["results"].items():
        times = "{ms:.2f} ms, and {ms_computing:.2f} ms of computing by the profiler, which slows down a CPU"
        parts.append(f"{name}: {result.get('failed') or times.format(**result)}.")
    return "\n\n".join(parts)


# The part, the fields that all lines of one table have in common, the title, and what makes the table of the lines
TABLES = [
    ("operations", ("size", "n"), "{size} size, operations of torch in one pass forward, n = {n}", operations_table),
    ("time", ("size", "mode"), "{size} size, {mode}: time, how many times that of pieces, memory", time_table),
    (
        "table",
        ("size", "kernel"),
        "{size} size, table 3 of the paper, {kernel} attention: times faster / times less memory",
        paper_table,
    ),
    ("profile", ("size", "n", "mode"), "{size} size, profile of {mode}, n = {n}", profile_table),
]


def groups(lines, fields):
    """Returns the lines as lists of those that have the same values of these fields, in their order."""
    found = {}
    for line in lines:
        found.setdefault(tuple(line[field] for field in fields), []).append(line)
    return list(found.values())


def make_report(results):
    texts = []
    for lines in groups(results, CONTEXT):
        context = ", ".join(f"{name} {lines[0][name]}" for name in CONTEXT)
        texts.append(f"## {context}")
        for part, fields, title, make in TABLES:
            for group in groups([line for line in lines if line["part"] == part], fields):
                texts.append(f"### {title.format(**group[0])}\n\n{make(group)}")
        if not any("flash_attention_2" in name for line in lines for name in line["results"]):
            texts.append("Pieces were not measured with flash_attention_2, which needs a GPU and the package flash_attn.")
    return "\n\n".join(texts)


def main(arguments=None):
    args = parse_arguments(arguments)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    path = args.output_dir / "gpu.jsonl"
    left_out = []
    if not args.report:
        if args.device.type == "cpu":
            torch.set_num_threads(1)
        left_out = measure(args, path)
    report = make_report(read_results(path))
    if left_out:
        names = "\n".join(f"- {', '.join(map(str, wanted.values()))}" for wanted in left_out)
        report += f"\n\nLeft out, because it would not have ended within {args.seconds:g} seconds:\n\n{names}"
    (args.output_dir / "gpu.md").write_text(f"{report}\n", encoding="utf-8")
    print(f"\n{report}")


if __name__ == "__main__":
    main()
