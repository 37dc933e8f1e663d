"""The errors as they are printed, read from the source of the calls that create them.

The pages of errors show them.
"""  # noqa: INP001 - a folder of Sphinx extensions is no package

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import ragops
from ragops import errors
from ragops.docker import hints
from ragops.ragflow.api import FAILURES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

ROOT = Path(ragops.__file__).parents[1]
FOLDERS = ("ragops", "benchmarks", "tools")
"""Folders below :data:`ROOT` whose errors users see."""
KINDS = dict(inspect.getmembers(errors, inspect.isclass))
TABLES = {
    "EngineError": hints.ENGINE,
    "LaunchError": (*hints.CONTAINER, *hints.STATES.values()),
    "RagflowError": FAILURES,
}
TRANSLATORS = {"file_errors", "read_text"}
"""Context managers that raise the class that is their first argument, with the second as message."""
BUILTINS = {"sorted", "set", "str", "round", "type", "Counter"}


@dataclass(frozen=True)
class Example:
    """An error as it is printed, variable parts in capital letters."""

    kind: str
    code: str
    message: str
    evidence: str = ""
    hint: str = ""
    place: str = ""

    def lines(self) -> list[str]:
        """The lines that the command prints."""
        error = KINDS[self.kind](self.message, code=self.code, evidence=self.evidence, hint=self.hint)
        return f"error: {error}".splitlines()


@cache
def modules() -> Mapping[Path, ast.Module]:
    """The syntax tree of each program whose errors are shown."""
    files = sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))
    return {file: ast.parse(file.read_text()) for file in files}


@cache
def places() -> tuple[Example, ...]:
    """Every call in these programs that creates an error."""
    return tuple(_places())


def _places() -> Iterator[Example]:
    for file, module in modules().items():
        constants = _assigned(module.body)
        for within in ast.walk(module):
            if isinstance(within, (ast.FunctionDef, ast.AsyncFunctionDef)):
                known = constants | _assigned(ast.walk(within))
                for call in calls(within):
                    place = f"{file.relative_to(ROOT)}:{call.lineno}"
                    yield _example(call, known, place)


def known() -> Iterator[Example]:
    """Messages of the Docker engine, containers and RAGFlow, as the errors that contain them."""
    messages = {
        "EngineError": "the Docker engine could not ACTION",
        "LaunchError": "CONTAINER exited with code 1",
        "RagflowError": "RAGFlow refused: WHAT",
    }
    for kind, table in TABLES.items():
        for hint in table:
            state = hint in hints.STATES.values()
            message, words = (
                (f"CONTAINER {hint.words}", "") if state else (messages[kind], f"... {hint.words} ...")
            )
            yield Example(kind, hint.code, message, words, hint.remedy, "hints.toml")
    yield Example("NotFoundError", "not-found", messages["EngineError"], "No such OBJECT: NAME")


def by_code(examples: Iterable[Example]) -> dict[str, list[Example]]:
    """Different examples of each code, those with a hint first: it is the fix."""
    result: dict[str, list[Example]] = {}
    for example in examples:
        same = result.setdefault(example.code, [])
        if example.lines() not in [other.lines() for other in same]:
            same.append(example)
    return {code: sorted(same, key=lambda example: not example.hint) for code, same in result.items()}


def calls(function: ast.AST) -> Iterator[ast.Call]:
    """Calls in a function that create an error."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and node.args and _kind(node):
            yield node


def _function(call: ast.Call) -> tuple[str, list[ast.expr]]:
    """Name and arguments of the called function; ``partial(f, x)`` is ``f(x)``."""
    name = getattr(call.func, "id", "") or getattr(call.func, "attr", "")  # also ragops.BenchError(...)
    if name == "partial":
        return getattr(call.args[0], "id", ""), call.args[1:]
    return name, call.args


def _kind(call: ast.Call) -> str:
    """Class of the error that a call creates, or an empty string; ``kind(...)`` creates the engine's."""
    name, arguments = _function(call)
    if name in TRANSLATORS:
        name = getattr(arguments[0], "id", "")
    elif name == "kind" and "evidence" in {word.arg for word in call.keywords}:
        return "EngineError"
    return name if name in KINDS else ""


def codes_of(call: ast.Call) -> list[str]:
    """The possible codes of a call: the literals of ``code=``, else the default of the class."""
    code = next((word.value for word in call.keywords if word.arg == "code"), None)
    written = [node.value for node in ast.walk(code) if isinstance(node, ast.Constant)] if code else []
    if getattr(call.func, "id", "") == "kind":
        return ["not-found", "engine-refused"]
    return [*map(str, written)] or [KINDS[_kind(call)].code]


def _assigned(nodes: Iterable[ast.AST]) -> dict[str, ast.expr]:
    """The value of each assigned name, the last of several."""
    named = (node for node in nodes if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name))
    return {node.targets[0].id: node.value for node in named}  # type: ignore[attr-defined]


def _example(call: ast.Call, known: dict[str, ast.expr], place: str) -> Example:
    given = {word.arg: word.value for word in call.keywords}
    evidence, hint = given.get("evidence"), given.get("hint")
    name, arguments = _function(call)
    message = arguments[name in TRANSLATORS]
    return Example(
        _kind(call),
        codes_of(call)[-1],
        _text(message, known),
        _text(evidence, known) if evidence else "",
        # A hint that a function returns is unknown here.
        _text(hint, known) if hint and not isinstance(hint, ast.Call) else "",
        place,
    )


def _text(node: ast.expr, known: dict[str, ast.expr]) -> str:
    """The text of an expression, as far as it is literal."""
    if isinstance(node, ast.FormattedValue):
        return _text(node.value, {})
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, known) for part in node.values)
    if isinstance(node, (ast.IfExp, ast.BoolOp)):
        return _text(node.body if isinstance(node, ast.IfExp) else node.values[-1], known)
    if isinstance(node, ast.Name) and node.id in known:
        return _text(known[node.id], {})
    return str(node.value) if isinstance(node, ast.Constant) else _name(node)


def _name(node: ast.expr) -> str:
    """The placeholder of a value: its name in capital letters."""
    if isinstance(node, ast.Attribute):
        return node.attr.strip("_").upper()
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "len":
        return "N"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id not in BUILTINS:
        return node.func.id.strip("_").upper()
    names = [name.id for name in ast.walk(node) if isinstance(name, ast.Name) and name.id not in BUILTINS]
    return names[0].strip("_").upper() if names else "..."
