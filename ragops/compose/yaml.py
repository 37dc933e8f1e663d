"""YAML of a compose file: where each value stands, and what compose makes of its variables.

ruamel.yaml keeps lines, comments and order; a :class:`View` reads such a document without ever
changing or copying it. The next room is ``read.py``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import StringIO
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from ragops.errors import ComposeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|(?P<plain>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*))")
_OPERATOR = re.compile(r":?[-+?]")
_ASSIGNED = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)=(.*)")
_NESTED = 20
"""Variables within defaults of variables are followed this deep."""


@dataclass(frozen=True)
class Source:
    """A file's text, its parsed document, and the variables that compose would fill in."""

    text: str
    document: Any
    values: Mapping[str, str]

    @property
    def root(self) -> View:
        """The whole document."""
        return View(self.document, 1, self)

    @property
    def lines(self) -> list[str]:
        """The text's lines; line 1 is at index 0."""
        return self.text.splitlines()


@dataclass(frozen=True)
class View:
    """A place in a document. Anchors and merged maps read as if they were written out."""

    raw: Any
    line: int
    source: Source

    @property
    def text(self) -> str | None:
        """The scalar with its variables filled in; None for none, and for one that isn't known."""
        written = self.written
        return None if written is None else resolve(written, self.source.values)

    @property
    def written(self) -> str | None:
        """The scalar as it is written; None for a map, a list or nothing."""
        if self.raw is None or isinstance(self.raw, (dict, list, set)):
            return None
        if isinstance(self.raw, bool):
            return str(self.raw).lower()
        return str(getattr(self.raw, "value", self.raw))

    def get(self, *keys: str) -> View | None:
        """What is below these keys, or None when there is nothing."""
        here: View = self
        for key in keys:
            if not isinstance(here.raw, dict) or here.raw.get(key) is None:
                return None
            here = View(here.raw[key], key_line(here.raw, key, here.line), self.source)
        return here

    def items(self) -> Iterator[tuple[str, View]]:
        """Keys and values of a map; nothing for anything else."""
        if isinstance(self.raw, dict):
            for key in self.raw:
                yield str(key), View(self.raw[key], key_line(self.raw, key, self.line), self.source)

    def each(self) -> Iterator[View]:
        """The items of a list; nothing for anything else."""
        if isinstance(self.raw, list):
            for index, item in enumerate(self.raw):
                yield View(item, _item_line(self.raw, index, self.line), self.source)


def parse(text: str, name: str, values: Mapping[str, str]) -> Source:
    """Read a document.

    Args:
        text: The file's text.
        name: The file's name, for errors.
        values: Variables for ``${NAME}``.

    Raises:
        ComposeError: It is no YAML, has a key twice or several documents, or is no map.
    """
    try:
        document = _yaml().load(text)
    except DuplicateKeyError as error:
        key = re.search(r'found duplicate key "?(.*?)"? with value', str(error.problem))
        told = f"the key {key[1]} is there twice" if key else "a key is there twice"
        raise _broken(name, error, told, "keep one of the two: the other would be ignored") from error
    except MarkedYAMLError as error:
        raise _broken(name, error, _said(error), "mend the YAML first; indentation is spaces only") from error
    except (YAMLError, ValueError, RecursionError, AttributeError, TypeError, KeyError) as error:
        told = f"{name} is no YAML that can be read"
        raise ComposeError(told, evidence=str(error)[:300], hint="mend the YAML first") from error
    if not isinstance(document, dict):
        raise ComposeError(f"{name}:1: this is no compose file: no map of keys at the top", hint=_FORM)
    return Source(text, document, values)


_FORM = "a compose file has services: at its top"


def resolve(text: str, values: Mapping[str, str], depth: int = 0) -> str | None:
    """A text with its variables filled in as compose does; None when one isn't known.

    ``$NAME``, ``${NAME}``, ``${NAME:-default}``, ``${NAME-default}``, ``${NAME:+other}``,
    ``${NAME:?message}``, defaults with variables in them, and ``$$`` for a dollar.
    """
    parts: list[str] = []
    at = 0
    while match := _VARIABLE.search(text, at):
        parts.append(text[at : match.start()])
        found, at = _filled(text, match, values, depth)
        if found is None:
            return None
        parts.append(found)
    return "".join([*parts, text[at:]])


def dotenv(text: str) -> dict[str, str]:
    """Variables of a ``.env`` file; comments and what is no assignment are left out."""
    found = (_ASSIGNED.fullmatch(line.strip()) for line in text.splitlines())
    return {match[1]: _unquoted(match[2].strip()) for match in found if match}


def dump(source: Source) -> str:
    """The document as text again, indented like the file that it came from."""
    yaml = _yaml()
    mapping, offset = _indentation(source.lines)
    yaml.indent(mapping=mapping, sequence=offset + 2, offset=offset)
    yaml.explicit_start = any(line.rstrip() == "---" for line in source.lines)
    out = StringIO()
    yaml.dump(source.document, out)
    return out.getvalue()


def _yaml() -> YAML:
    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.composer.warn_double_anchors = False  # YAML allows it, and compose takes the last one too
    return yaml


def _indentation(lines: list[str]) -> tuple[int, int]:
    """Spaces below a key, and before the dash of a list below a key."""
    mapping, offset = 0, None
    for above, line in pairwise(lines):
        if not above.rstrip().endswith(":") or not line.strip() or line.lstrip().startswith("#"):
            continue
        step = _indent(line) - _indent(above)
        if line.lstrip().startswith("- "):
            offset = step if offset is None and 0 <= step <= 6 else offset
        elif not mapping and 1 <= step <= 8:
            mapping = step
    return mapping or 2, 2 if offset is None else offset


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _broken(name: str, error: MarkedYAMLError, told: str, hint: str) -> ComposeError:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    context = str(error.context or "").strip()
    return ComposeError(f"{name}:{line}: {told}", evidence=context, hint=hint)


def _said(error: MarkedYAMLError) -> str:
    problem = str(error.problem or "it is no YAML")
    if "another document" in problem:
        return "a second YAML document begins; check reads files with one"
    return f"not YAML: {problem}"


def key_line(parent: Any, key: Any, default: int) -> int:
    """Line of a key, also of one that is merged in from an anchor."""
    data = getattr(getattr(parent, "lc", None), "data", None) or {}
    if key in data:
        return int(data[key][0]) + 1
    merged = [one for one in _merged(parent) if isinstance(one, dict) and key in one]
    return key_line(merged[0], key, default) if merged and merged[0] is not parent else default


def _merged(parent: Any) -> list[Any]:
    """Maps that a map takes keys from with ``<<``."""
    return list(getattr(parent, "merge", None) or []) if isinstance(parent, CommentedMap) else []


def _item_line(parent: Any, index: int, default: int) -> int:
    data = (getattr(parent.lc, "data", None) or {}) if isinstance(parent, CommentedSeq) else {}
    return int(data[index][0]) + 1 if index in data else default


def _filled(text: str, match: re.Match[str], values: Mapping[str, str], depth: int) -> tuple[str | None, int]:
    """The value of one variable, and where the text goes on behind it."""
    if match["escaped"]:
        return "$", match.end()
    if match["plain"]:
        return values.get(match["plain"]), match.end()
    end = _closing(text, match.end())
    return _braced(match["braced"], text[match.end() : end], values, depth), end + 1


def _braced(name: str, rest: str, values: Mapping[str, str], depth: int) -> str | None:
    """What ``${NAME`` + operator and word + ``}`` stands for."""
    operator = _OPERATOR.match(rest)
    value = values.get(name)
    if not operator or depth > _NESTED:
        return value
    there = value is not None and (value != "" or not operator[0].startswith(":"))
    word = rest[operator.end() :]
    if operator[0].endswith("+"):
        return resolve(word, values, depth + 1) if there else ""
    if there or operator[0].endswith("?"):
        return value
    return resolve(word, values, depth + 1)


def _closing(text: str, at: int) -> int:
    """Index of the brace that closes the one before ``at``; the end when there is none."""
    depth = 1
    for index in range(at, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return index
    return len(text)


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value.partition(" #")[0].rstrip()
