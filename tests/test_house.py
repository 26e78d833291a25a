"""Imports go one way: configuration, model, what the wings share, the wings, commands, scripts and benchmarks."""

import ast
import functools
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent
PACKAGES = ("configuration_linformer", "modeling_linformer", "transformers_linformer", "benchmarks")
# The parts of the library that know nothing of each other
WINGS = ("transformers_linformer.training", "transformers_linformer.conversion")
# What a command or a benchmark may share with the others of its kind
SHARED = [
    f"benchmarks.{name}"
    for name in ("attention_dropout", "long_tasks", "memory", "models", "passages", "reading", "runs", "similarity")
]


def modules():
    """Returns a dictionary from the name of each of the project's modules, tests aside, to its path."""
    paths = [*ROOT.glob("*.py"), *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))]
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def imports(name, path):
    """Yields the absolute names of what a module imports, wherever in the file it does."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)  # these may be modules too


@functools.cache
def graph():
    """Returns a dictionary from each module to the set of the project's modules that it imports."""
    found = modules()
    return {name: {each for each in imports(name, path) if each in found} - {name} for name, path in found.items()}


def layer(name):
    if name.startswith("transformers_linformer.commands"):
        return 4
    if name.startswith("benchmarks") or "." not in name and name not in PACKAGES:
        return 5
    # What a user imports is named in the package itself, which therefore imports from the wings
    if name.startswith(WINGS) or name == "transformers_linformer":
        return 3
    return PACKAGES.index(name.partition(".")[0])


def test_imports_form_no_circle():
    # `from package import module` counts as importing both, and a package may import its own modules
    edges = {name: {each for each in found if not name.startswith(f"{each}.")} for name, found in graph().items()}
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        pytest.fail(f"these modules import each other: {' -> '.join(error.args[1])}")


def test_imports_go_one_way():
    # In a saved checkpoint the configuration's own file takes the place of this one
    bridge = "modeling_linformer.configuration_linformer"
    wrong = [f"{name} imports {each}" for name, found in graph().items() for each in found if layer(each) > layer(name)]
    assert not wrong and layer(bridge) > layer("configuration_linformer")


def test_the_wings_do_not_import_each_other():
    found = graph()
    assert all(any(name.startswith(f"{wing}.") for name in found) for wing in WINGS)
    wrong = [
        f"{name} imports {each}"
        for name, others in found.items()
        for each in others
        if name.startswith(WINGS) and each.startswith(WINGS) and name.split(".")[1] != each.split(".")[1]
    ]
    assert not wrong


def test_no_command_imports_a_command():
    ends = {name for name in modules() if layer(name) >= 4 and not modules()[name].name == "__init__.py"} - set(SHARED)
    scripts = {"run_mlm", "run_glue"}
    wrong = [f"{name} imports {each}" for name in ends - scripts for each in graph()[name] & ends]
    assert {"run_mlm", "transformers_linformer.commands.glue", "benchmarks.speed"} <= ends
    assert not wrong
    assert all(len(graph()[script] & ends) == 1 for script in scripts)  # the command that the script stands for


def test_the_library_imports_no_test_and_no_benchmark():
    outside = {"benchmarks", "tests"}
    wrong = [
        f"{name} imports {each}"
        for name, path in modules().items()
        if layer(name) < 5
        for each in imports(name, path)
        if each.partition(".")[0] in outside
    ]
    assert not wrong
