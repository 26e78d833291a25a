"""
Breaks the code in one place after another, and says which breaks the tests notice.

    python tests/mutants.py                 # all of them, in about half an hour on one core
    python tests/mutants.py 3 17            # those of these numbers
    python tests/mutants.py --table t.md    # writes the table, too

Run it before and after a change of the tests: the same breaks have to be noticed. Each break is tried in a copy of the
project, with the tests that should notice it. A break whose original text is gone is reported as such: write it anew.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


ROOT = Path(__file__).parent.parent
ATTENTION, PROJECTIONS = "modeling_linformer/attention.py", "modeling_linformer/projections.py"
CHUNKS, PARALLEL = "modeling_linformer/chunked_inference.py", "modeling_linformer/sequence_parallel.py"
MODEL, CHECKS = "modeling_linformer/modeling_linformer.py", "modeling_linformer/input_checks.py"
CONFIGURATION = "configuration_linformer/configuration_linformer.py"
LIBRARY = "transformers_linformer/"

FORMULA = "tests/test_modeling.py -k equals_the_formula"
RANDOM = "tests/test_random_configurations.py"
SHARED = "tests/test_sequence_parallel.py"

# What is broken, in which file, from which text to which, and the tests that should notice
MUTANTS = [
    # Blocks, windows and what is left out
    (
        "rows of a block's own windows count",
        ATTENTION,
        "far = far.masked_fill((firsts <= positions",
        "far.masked_fill((firsts <= positions",
        FORMULA,
    ),
    ("a window's last position is forgotten", ATTENTION, "(lasts >= positions[:, :1])", "(lasts > positions[:, :1])", FORMULA),
    (
        "padding of a block is attended to",
        ATTENTION,
        "own = torch.zeros_like(is_token, dtype=dtype).masked_fill(~is_token, left_out(dtype))",
        "own = torch.zeros_like(is_token, dtype=dtype)",
        FORMULA,
    ),
    ("windows of padding count", ATTENTION, "far = far.masked_fill(counts == 0, left_out(dtype))", "pass", FORMULA),
    (
        "rows of linear repeat a single block",
        ATTENTION,
        "if window is None:\n            far",
        "if False:\n            far",
        FORMULA,
    ),
    (
        "the last block loses its fill",
        PROJECTIONS,
        "return (length + extra + size - 1) // size",
        "return max(1, (length + extra) // size)",
        FORMULA,
    ),
    # Counts and the far limit
    ("rows of mean_pool count once", ATTENTION, "far = far + counts.to(dtype).clamp(min=1).log()", "pass", FORMULA),
    ("counts have a gradient", PROJECTIONS, "torch.special.entr(weights.detach())", "torch.special.entr(weights)", FORMULA),
    (
        "the entropy is halved",
        PROJECTIONS,
        "torch.special.entr(weights.detach()).sum(-1)",
        "torch.special.entr(weights.detach()).sum(-1) / 2",
        FORMULA,
    ),
    (
        "the far limit counts a block's own tokens",
        ATTENTION,
        "outside = outside - in_block.sum(-1, keepdim=True)",
        "outside = outside + 0 * in_block.sum(-1, keepdim=True)",
        FORMULA,
    ),
    ("the far limit makes rows heavier", ATTENTION, ".log().clamp(max=0) if with_limit", ".log() if with_limit", FORMULA),
    # Projections
    (
        "the mean query has padding in it",
        PROJECTIONS,
        "is_token = tokens.are_tokens(self.window).unsqueeze(2).to(accumulation_dtype(dtype))",
        "is_token = torch.ones_like(tokens.are_tokens(self.window).unsqueeze(2)).to(accumulation_dtype(dtype))",
        FORMULA,
    ),
    (
        "scores of the mean query are not scaled",
        PROJECTIONS,
        "lambda: scaling * torch.eye(heads)",
        "lambda: torch.eye(heads)",
        FORMULA,
    ),
    (
        "a convolution sums padding",
        PROJECTIONS,
        "E * tokens.are_tokens(self.window).unsqueeze(2)",
        "E * torch.ones_like(tokens.are_tokens(self.window)).unsqueeze(2)",
        FORMULA,
    ),
    (
        "the maximum is over padding, too",
        PROJECTIONS,
        "windows = windows.masked_fill(~is_token, torch.finfo(states.dtype).min)",
        "pass",
        FORMULA,
    ),
    ("E W has b times the wrong sum", ATTENTION, "((row_sums - 1) * output[:, -1:])", "(row_sums * output[:, -1:])", FORMULA),
    (
        "E is masked in no batch",
        PROJECTIONS,
        "if tokens.mask is not None:\n            E =",
        "if False:\n            E =",
        FORMULA,
    ),
    ("F is E", ATTENTION, "F = E if self.F is None else self.F", "F = E", FORMULA),
    ("distances of rows are of their first token", ATTENTION, "middles = (firsts + lasts) // 2", "middles = firsts", FORMULA),
    (
        "layers with other sizes share a bias",
        ATTENTION,
        '("bias", block_size, num_keys, E.window)',
        '("bias", block_size)',
        FORMULA,
    ),
    (
        "the factor of E's learning rate is lost",
        PROJECTIONS,
        "return 1 / self.weight.shape[-1]",
        "return 1.0",
        "tests/test_runs.py -k changes_E_less",
    ),
    # Global tokens
    (
        "global tokens count twice in their own block",
        PROJECTIONS,
        "return (torch.cat([tokens, firsts]), torch.cat([tokens, lasts])) if num_keys[0]",
        "return (torch.cat([tokens - 10**6, firsts]), torch.cat([tokens - 10**6, lasts])) if num_keys[0]",
        FORMULA,
    ),
    (
        "rows of global tokens count, too",
        ATTENTION,
        "elif num_global:  # no block attends",
        "elif False:  # no block attends",
        FORMULA,
    ),
    (
        "the global tokens are those of another process",
        PARALLEL,
        "before = num_global + self.offset // E.window if self.offset else 0",
        "before = num_global + self.offset // E.window if self.offset else num_global",
        SHARED,
    ),
    (
        "each process has global tokens of its own",
        PROJECTIONS,
        "if tokens.offset == 0:\n            return torch.cat",
        "if True:\n            return torch.cat",
        SHARED,
    ),
    (
        "padding among the global tokens is attended to",
        PROJECTIONS,
        "return is_token if self.mask is None else is_token & first_positions",
        "return is_token if True else is_token & first_positions",
        FORMULA,
    ),
    (
        "documents shorter than the global tokens",
        PROJECTIONS,
        "return min(self.num_global_tokens, length), self.num_rows(length)",
        "return self.num_global_tokens, self.num_rows(length)",
        FORMULA,
    ),
    (
        "the far limit counts global tokens",
        ATTENTION,
        "outside = outside - tokens.are_first_tokens(num_global).sum(-1)[:, None, None]",
        "pass",
        FORMULA,
    ),
    ("one token too few is global", PROJECTIONS, "return states[:, :number]", "return states[:, : number - 1]", FORMULA),
    (
        "later positions repeat those of the global tokens",
        MODEL,
        "len(self.repeated_positions) + self.repeated_positions.start",
        "len(self.repeated_positions)",
        "tests/test_modeling.py -k positions_repeat",
    ),
    # Chunks, processes, graphs
    ("chunks begin at a wrong position", PROJECTIONS, "self.offset + positions.start, {}", "self.offset, {}", RANDOM),
    (
        "a chunk is given what was kept for another",
        CHUNKS,
        "kept[positions.start] = features",
        "kept[0] = features",
        "tests/test_modeling.py -k chunk",
    ),
    (
        "processes have the gradient of their own part",
        PARALLEL,
        "return AllReduce.apply(gradient, ctx.group), None",
        "return gradient, None",
        SHARED,
    ),
    (
        "windows of other processes are counted wrongly",
        PARALLEL,
        "return self.join(self.are_tokens(size).sum(-1, keepdim=True), before, total)",
        "return self.join(self.are_tokens(size).sum(-1, keepdim=True) + 1, before, total)",
        SHARED,
    ),
    (
        "a compiled graph depends on the number of rows",
        ATTENTION,
        "if torch.compiler.is_compiling() and E.window is not None:\n            shared = fill_up",
        "if False:\n            shared = fill_up",
        "tests/test_export.py -k one_graph",
    ),
    # Inputs and configuration
    (
        "a mask that begins with padding is taken",
        CHECKS,
        "def check_padding_side(attention_mask):",
        "def check_padding_side(attention_mask):\n    return\n",
        "tests/test_modeling.py -k left",
    ),
    (
        "windows need not fit the blocks",
        CONFIGURATION,
        "if size and window and size % window and window % size:",
        "if False:",
        "tests/test_modeling.py -k refused",
    ),
    (
        "global tokens need not fit the windows",
        CONFIGURATION,
        "if window and self.num_global_tokens % window:",
        "if False:",
        "tests/test_modeling.py -k refused",
    ),
    (
        "a configuration saves the code's former place",
        CONFIGURATION,
        '"auto_map": dict(self._own_auto_map), ',
        "",
        "tests/test_modeling.py -k auto_map",
    ),
    # Conversion
    (
        "positions are cut at the wrong end",
        LIBRARY + "conversion/convert.py",
        "state[positions][-positions_of_source:]",
        "state[positions][:positions_of_source]",
        "tests/test_convert.py",
    ),
    (
        "the far limit of a conversion is the block",
        LIBRARY + "conversion/convert.py",
        "max(1, attended // 8, attended - max(config.block_sizes))",
        "max(config.block_sizes)",
        "tests/test_convert.py",
    ),
    # Files and resumes
    (
        "a damaged checkpoint is complete",
        LIBRARY + "training/checkpoints.py",
        "if any(checksum(checkpoint / name) != value for name, value in expected.items()):",
        "if False:",
        "tests/test_checkpoints.py",
    ),
    (
        "the oldest checkpoint is gone on from",
        LIBRARY + "training/checkpoints.py",
        'key=lambda path: int(path.name.split("-")[-1]), reverse=True',
        'key=lambda path: int(path.name.split("-")[-1])',
        "tests/test_masked_lm.py tests/test_checkpoints.py",
    ),
    (
        "another model is trained into a folder",
        LIBRARY + "training/checkpoints.py",
        "    if changed:\n",
        "    if False:\n",
        "tests/test_run_mlm.py -k another_model",
    ),
    (
        "a second run may use the folder",
        LIBRARY + "training/run_record.py",
        "fcntl.LOCK_EX | fcntl.LOCK_NB",
        "fcntl.LOCK_SH | fcntl.LOCK_NB",
        "tests/test_runs.py -k second_run",
    ),
    (
        "one step too many after a kill",
        LIBRARY + "training/trainer.py",
        "if self.state.global_step >= self.state.max_steps or self.stopped_early:",
        "if False:",
        "tests/test_runs.py",
    ),
    (
        "a diverged run goes on",
        LIBRARY + "training/trainer.py",
        "        if not is_finite:\n            self.end_diverged",
        "        if False:\n            self.end_diverged",
        "tests/test_trainer_arguments.py tests/test_runs.py tests/test_run_glue.py -k diverge",
    ),
    (
        "evaluations lose the last batch",
        LIBRARY + "training/trainer.py",
        "self.eval_data_collator, False\n",
        "self.eval_data_collator, drop_last\n",
        "tests/test_trainer_arguments.py",
    ),
    # Data
    (
        "rows of csv with missing fields are taken",
        LIBRARY + "training/data.py",
        "if len(fields) != len(names):",
        "if False:",
        "tests/test_data.py",
    ),
    (
        "a byte order mark stays in the first column",
        LIBRARY + "training/data.py",
        "def read_csv(path):",
        "def read_csv(path):\n    path, open = path, lambda path, **options: io.open(path, encoding='utf-8', newline='')",
        "tests/test_data.py",
    ),
    (
        "unknown labels become the first",
        LIBRARY + "training/classification.py",
        "if name not in self.names:",
        "if False:",
        "tests/test_run_glue.py -k never_saw",
    ),
    (
        "a trained head loses the order of its labels",
        LIBRARY + "training/classification.py",
        "if set(names) == set(trained):",
        "if False:",
        "tests/test_run_glue.py -k meaning",
    ),
    # Passages
    (
        "a passage is the sum of its tokens",
        LIBRARY + "passages.py",
        "return sums / torch.bincount",
        "return sums * 1.0 if True else torch.bincount",
        "tests/test_passages.py",
    ),
    (
        "positives compete with each other",
        LIBRARY + "training/passages.py",
        "scores.masked_fill(is_positive, -math.inf)",
        "scores",
        "tests/test_passages.py",
    ),
    (
        "what a document had before competes with it",
        LIBRARY + "training/passages.py",
        "is_other = ~torch.isin(self.keys, keys)",
        "is_other = torch.ones_like(self.keys, dtype=torch.bool)",
        "tests/test_passages.py -k compete",
    ),
    (
        "a run that goes on remembers no passages",
        LIBRARY + "training/passages.py",
        "self.memory.load(self.memory_path(checkpoint), self.args.device)",
        "pass",
        "tests/test_passages.py -k remembers",
    ),
]


def run(number, what, path, original, replacement, tests, folder):
    """Returns what became of a break: noticed, not noticed, or gone."""
    file = folder / path
    text = file.read_text(encoding="utf-8")
    if text.count(original) != 1:
        return f"GONE: {original!r} stands {text.count(original)} times in {path}"
    file.write_text(text.replace(original, replacement), encoding="utf-8")
    try:
        files, _, words = tests.partition(" -k ")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", *files.split()]
        if words:
            command += ["-k", words]
        environment = os.environ | {"PYTHONPATH": str(folder)}  # before the place where the project is installed
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    finally:
        file.write_text(text, encoding="utf-8")
    if result.returncode == 0:
        return "NOT NOTICED"
    if result.returncode != 1:  # no test was run, or pytest could not start
        return f"NO RESULT ({result.returncode}): {result.stdout.strip().splitlines()[-1:]}"
    failed = [line for line in result.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return "noticed by " + (failed[0].split(" - ")[0].split(" ", 1)[1] if failed else "an error")


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("numbers", nargs="*", type=int, help="Which breaks to try. By default all.")
    parser.add_argument("--table", type=Path, help="A file for the results as a table of Markdown.")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "project")
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv*", "__pycache__", "build"))
        for number, mutant in enumerate(MUTANTS):
            if not args.numbers or number in args.numbers:
                result = run(number, *mutant, copy)
                rows.append((number, mutant[0], result))
                print(f"{number:2} {mutant[0]}: {result}", flush=True)
    if args.table:
        lines = [
            "| | what is broken | result |",
            "|---|---|---|",
            *(f"| {n} | {what} | {result} |" for n, what, result in rows),
        ]
        args.table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.exit(any(not result.startswith("noticed") for _, _, result in rows))


if __name__ == "__main__":
    main()
