"""Tests of benchmarks.gpu on a CPU with tiny models: what it keeps, what it leaves out, and the tables that it prints."""

import itertools
import json
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu


SMALL = (
    "--device cpu --sizes tiny --lengths 64 128 --tokens 256 --piece 64 --compiled_lengths 128 --profiled_length 128".split()
)
SMALL += "--projected_dims 16 32 --repeats 2".split()


def lines_of(folder):
    return [json.loads(line) for line in (folder / "gpu.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def compiled(monkeypatch):
    """The modes of the models that were compiled. In the place of a compiler, which takes minutes, is one that fails once."""
    modes = []

    def compile_nothing(model, dynamic, mode):
        modes.append(mode)
        if len(modes) == 2:
            raise RuntimeError("no kernel for this\nand a long trace")
        return model

    monkeypatch.setattr(torch, "compile", compile_nothing)
    return modes


@pytest.fixture
def small_memory(monkeypatch):
    """Makes unfused full attention run out of memory."""

    def roberta(sizes, n, attention, roberta=gpu.roberta):
        if attention == "eager":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 96 GiB.")
        return roberta(sizes, n, attention)

    monkeypatch.setattr(gpu, "roberta", roberta)


@pytest.mark.slow("a whole benchmark")
def test_all_is_measured_once_and_shown(tmp_path, capsys, compiled, small_memory, monkeypatch):
    command = [*SMALL, "--output_dir", str(tmp_path)]
    gpu.main(command)
    output = capsys.readouterr().out
    lines = lines_of(tmp_path)
    plan = gpu.plan(gpu.parse_arguments(command))
    assert [{name: line[name] for name in wanted} for line, wanted in zip(lines, plan, strict=True)] == plan
    assert {line["part"] for line in lines} == set(gpu.PARTS)
    assert set(compiled) == {"default", "reduce-overhead"}
    failures = [result["failed"] for line in lines for result in line["results"].values() if "failed" in result]
    assert sorted(failures) == ["RuntimeError: no kernel for this", "out of memory", "out of memory"]
    names = {name for line in lines if line["part"] == "time" for name in line["results"]}
    assert names == {"pieces", "ours, b = 32", "ours, b = 64", "full attention", "ours, b = 32, in chunks"}
    report = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert report in output and "Left out" not in report
    titles = [line for line in report.splitlines() if line.startswith("### ")]
    assert len(titles) == len(gpu.MODES) * 2 + len(["operations", "sdpa", "eager"])
    assert "ours, b = 32 (goal 1.2)" in report and "ours, b = 64 (goal 1.3)" in report

    # When the process was killed before its last line, a second start makes that measurement and no other
    made = []
    for part, function in gpu.PARTS.items():
        monkeypatch.setitem(gpu.PARTS, part, lambda *args, f=function, **fields: made.append(fields) or f(*args, **fields))
    path = tmp_path / "gpu.jsonl"
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:-1]), encoding="utf-8")
    gpu.main(command)
    assert [{"part": "time"} | fields for fields in made] == plan[-1:]
    gpu.main([*command, "--report"])
    assert len(made) == 1 and capsys.readouterr().out.count("### ") == 2 * len(titles)
    assert lines_of(tmp_path)[:-1] == lines[:-1]


def test_what_does_not_fit_is_left_out(tmp_path, capsys, monkeypatch):
    # Each look at this clock is a tenth of a second after the last one, however busy the machine is
    ticks = itertools.count()
    monkeypatch.setattr(gpu, "time", SimpleNamespace(perf_counter=lambda: next(ticks) / 10))
    gpu.main([*SMALL, "--output_dir", str(tmp_path), "--only", "table", "operations", "--seconds", "15"])
    # An operation count is expected to take longer, and each table less, the more so when one was made
    assert [line["part"] for line in lines_of(tmp_path)] == ["table"] * 4
    output = capsys.readouterr().out
    assert output.endswith("Left out, because it would not have ended within 15 seconds:\n\n- operations, tiny, 128\n")
    # Results of other sizes are not taken for those of these
    gpu.main([*SMALL, "--output_dir", str(tmp_path), "--only", "table", "--tokens", "128"])
    assert len(lines_of(tmp_path)) == 8 and capsys.readouterr().out.count("## machine") == 2


def test_operations_that_are_no_views_are_counted():
    x, y = torch.ones(2, 3), torch.ones(2, 3)

    def work():
        views = x.t().unsqueeze(0).squeeze(0).expand(3, 2).detach()[:2].unflatten(0, (1, 2)).flatten(0, 1).split(1)
        return torch.cat(views).mm(y).add_(1)

    assert gpu.count_operations(work) == {"aten::cat": 1, "aten::mm": 1, "aten::add_.Tensor": 1}


def test_linformers_have_the_rows_of_a_conversion():
    args = gpu.parse_arguments([])
    sizes = gpu.SIZES["tiny"]
    for n, k in ((512, 16), (8192, 256), (16384, 256), (65536, 256)):
        with torch.device("meta"):
            config = gpu.ours(sizes, n, 256, args)().config
        assert (config.projected_dim, config.far_token_limit, config.max_position_embeddings) == (k, 256, n)
    assert gpu.ours(sizes, 512, 512, args)().config.far_token_limit is None


def test_tables_have_ratios_and_reasons():
    fields = {"part": "time", "size": "base", "n": 512, "mode": "training", "how": "eager"}
    results = {"pieces": {"ms": 2.0, "MiB": 100.0}, "ours, b = 256": {"ms": 3.0, "MiB": 150.0}, "other": {"failed": "why"}}
    table = gpu.time_table([fields | {"results": results}])
    assert table.splitlines()[-1] == "| 512 | eager | 2.00 ms, 100 MiB | 3.00 ms, **1.50**, 150 MiB | why |"
    fields = {"part": "table", "size": "base", "n": 512, "kernel": "eager"}
    results = {"full attention": {"ms": 6.0, "MiB": 300.0}, "k = 128": {"ms": 3.0, "MiB": 150.0}, "k = 256": {"failed": "why"}}
    table = gpu.paper_table([fields | {"results": results}])
    row = "| 512 | 1.5 / 1.7 | 6.00 ms, 300 MiB | 2.00 / 2.00 (3.00 ms, 150 MiB) | why |"
    assert table.splitlines()[-1] == row
