"""YAML of a compose file: the line of each value, and compose's variables; pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from ragops.errors import ComposeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|(?P<plain>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*))")
_OPERATOR = re.compile(r":?[-+?]")
_MAX_DEPTH = 20
"""Defaults may contain variables, whose defaults may contain variables, up to this depth."""


@dataclass(frozen=True)
class Source:
    """Lines of a file, and the variables that compose substitutes in it."""

    lines: tuple[str, ...]
    variables: Mapping[str, str]


@dataclass(frozen=True)
class YamlNode:
    """A value of a document with its line. Anchors and merged maps are already expanded."""

    raw: Any
    line: int
    source: Source

    @property
    def text(self) -> str | None:
        """The scalar after substitution; None if it is no scalar or has an undefined variable."""
        written = self.written
        return None if written is None else resolve(written, self.source.variables)

    @property
    def written(self) -> str | None:
        """The scalar before substitution; None for a map, a list or null."""
        if self.raw is None or isinstance(self.raw, (dict, list, set)):
            return None
        if isinstance(self.raw, bool):
            return str(self.raw).lower()
        return str(getattr(self.raw, "value", self.raw))

    def get(self, *keys: str) -> YamlNode | None:
        """The value below these keys; None if there is no such key or it is null."""
        node: YamlNode = self
        for key in keys:
            if not isinstance(node.raw, dict) or node.raw.get(key) is None:
                return None
            node = YamlNode(node.raw[key], key_line(node.raw, key, node.line), self.source)
        return node

    def scalar(self, *keys: str) -> str | None:
        """The text of the scalar below these keys; None as for :attr:`text` and :meth:`get`."""
        node = self.get(*keys)
        return node.text if node else None

    def items(self) -> Iterator[tuple[str, YamlNode]]:
        """Keys and values of a map; nothing for another type."""
        if isinstance(self.raw, dict):
            for key, value in self.raw.items():
                yield str(key), YamlNode(value, key_line(self.raw, key, self.line), self.source)

    def elements(self) -> Iterator[YamlNode]:
        """Elements of a list; nothing for another type."""
        if isinstance(self.raw, list):
            positions = (self.raw.lc.data or {}) if isinstance(self.raw, CommentedSeq) else {}
            for index, value in enumerate(self.raw):
                line = int(positions[index][0]) + 1 if index in positions else self.line
                yield YamlNode(value, line, self.source)


def parse(text: str, name: str, variables: Mapping[str, str]) -> YamlNode:
    """Read a document.

    Args:
        text: The file's text.
        name: The file's name, for errors.
        variables: Values for ``${NAME}``.

    Raises:
        ComposeError: It is not YAML, has a duplicate key or several documents, or is not a map.
    """
    yaml = YAML(typ="rt")
    yaml.composer.warn_double_anchors = False  # valid YAML; compose uses the last one too
    try:
        document = yaml.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = str(error.problem or "syntax error").partition(" with value")[0]
        raise ComposeError(
            f"{name}:{mark.line + 1 if mark else 1}: not YAML for compose: {problem}",
            evidence=str(error.context or ""),
            hint="correct the YAML: one document, no duplicate key, indented with spaces only",
        ) from error
    except (YAMLError, ValueError, RecursionError, AttributeError, TypeError, KeyError) as error:
        message = f"{name} is not valid YAML"
        raise ComposeError(message, evidence=str(error)[:300], hint="correct the YAML") from error
    if not isinstance(document, dict):
        raise ComposeError(
            f"{name}:1: not a compose file: no map at the top level",
            hint="a compose file has the key services: at its top level",
        )
    return YamlNode(document, 1, Source(tuple(text.splitlines()), variables))


def resolve(text: str, variables: Mapping[str, str], depth: int = 0) -> str | None:
    """Substitute variables as compose does; None if one is undefined.

    Supports ``$NAME``, ``${NAME}``, ``${NAME:-default}``, ``${NAME-default}``, ``${NAME:+other}``,
    ``${NAME:?message}``, variables in defaults, and ``$$`` for a dollar sign.
    """
    parts: list[str] = []
    at = 0
    while match := _VARIABLE.search(text, at):
        parts.append(text[at : match.start()])
        at = match.end()
        value: str | None = "$"
        if match["plain"]:
            value = variables.get(match["plain"])
        elif match["braced"]:
            end = _closing_brace(text, at)
            value = _substitute(match["braced"], text[at:end], variables, depth)
            at = end + 1
        if value is None:
            return None
        parts.append(value)
    return "".join([*parts, text[at:]])


def key_line(parent: Any, key: Any, default: int) -> int:
    """Line of a key, also of a key that ``<<`` merges in from an anchor."""
    positions = getattr(getattr(parent, "lc", None), "data", None) or {}
    if key in positions:
        return int(positions[key][0]) + 1
    for merged in getattr(parent, "merge", None) or ():
        if isinstance(merged, dict) and key in merged and merged is not parent:
            return key_line(merged, key, default)
    return default


def _substitute(name: str, rest: str, variables: Mapping[str, str], depth: int) -> str | None:
    """The value of ``${NAME`` + ``rest`` + ``}``, where ``rest`` is an operator and a word, or empty."""
    value = variables.get(name)
    operator = _OPERATOR.match(rest)
    if not operator or depth > _MAX_DEPTH:
        return value
    is_set = value is not None and (value != "" or not operator[0].startswith(":"))
    word = rest[operator.end() :]
    if operator[0].endswith("+"):
        return resolve(word, variables, depth + 1) if is_set else ""
    if is_set or operator[0].endswith("?"):
        return value
    return resolve(word, variables, depth + 1)


def _closing_brace(text: str, at: int) -> int:
    """Index of the brace that closes the brace before ``at``; the text's end if there is none."""
    depth = 1
    for index in range(at, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return index
    return len(text)
