"""The house keeps its rooms: one module for each outside thing, and none too large."""

import ast
from pathlib import Path
from statistics import median, quantiles

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ragops"
FILES = sorted(file for file in PACKAGE.rglob("*.py"))
TREES = {str(file.relative_to(PACKAGE)): ast.parse(file.read_text()) for file in FILES}


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name.partition(".")[0] for one in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def functions():
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield f"{name}:{node.name}", node


def lines(node):
    """Lines of a function's body without its docstring: the options of a verb are its signature."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize(
    ("library", "room"),
    [
        ("docker", {"engine.py"}),
        ("matplotlib", {"bench/plots/"}),  # a package: its figures share one frame
        ("jinja2", {"bench/page.py"}),
        ("ipywidgets", {"notebook.py"}),
        ("nbclient", {"site.py"}),
        ("uvicorn", {"testing/served.py"}),
        ("typer", {"cli/"}),
        ("rich", {"cli/output.py"}),
    ],
)
def test_one_room_for_each_outside_thing(library, room):
    """A room whose name ends with a slash is a package."""
    packages = tuple(one for one in room if one.endswith("/"))
    inside = {name for name, tree in TREES.items() if library in imported(tree)}
    assert {next((one for one in packages if name.startswith(one)), name) for name in inside} == room


def test_only_the_command_prints():
    calls = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert calls == {"cli/__init__.py", "cli/output.py"}


def test_no_file_is_long():
    assert {file.name: n for file in FILES if (n := len(file.read_text().splitlines())) > 700} == {}


def test_functions_are_short():
    lengths = {name: lines(node) for name, node in functions()}
    assert {name: length for name, length in lengths.items() if length > 45} == {}
    assert median(lengths.values()) <= 10
    assert quantiles(lengths.values(), n=10)[-1] <= 30


def test_every_signature_is_typed():
    untyped = [name for name, node in functions() if node.returns is None and not name.startswith("data/")]
    assert untyped == []


def test_every_module_says_what_it_is():
    assert [name for name, tree in TREES.items() if not ast.get_docstring(tree)] == []
