"""Edits of one service in a compose document, in whatever form its keys were written.

New keys go before the service's last one, and new arguments before the last argument: what
follows a service, blank lines and comments, belongs to its last line.
"""

from __future__ import annotations

from copy import copy as duplicate
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from ruamel.yaml.anchor import Anchor
from ruamel.yaml.comments import Comment, CommentedBase, CommentedMap, CommentedSeq, Format
from ruamel.yaml.error import CommentMark
from ruamel.yaml.tokens import CommentToken

from ragops.compose.words import arguments

if TYPE_CHECKING:
    from ragops.compose.advice import Case
    from ragops.compose.words import Argument, Launch

_DEEP = 30


@dataclass
class Edit:
    """A service that is being changed; ``steps`` collects what the user has to do as well."""

    case: Case
    document: Any
    service: Any
    steps: list[str] = field(default_factory=list)
    rows: Any = None
    """Words of the command line, from :attr:`start` on vLLM's arguments; None before the first edit."""
    start: int = 0
    following: str = ""
    """Comment lines below a command line that is written anew."""

    @classmethod
    def of(cls, case: Case, document: Any, original: Any) -> Self:
        """Begin. A service that shares lines with others by anchors or extends gets its own.

        Args:
            case: The service, as it was read from ``original``.
            document: What is edited: parsed from the same text.
            original: What was read.
        """
        services = document["services"]
        key = next(key for key in services if str(key) == case.service.name)
        raw = case.service.view.raw
        if raw is not original["services"][key] or _shares(raw):
            services[key] = _own(raw)
        return cls(case, document, services[key])

    @property
    def editable(self) -> bool:
        """Whether the command line can be written anew."""
        return self.case.service.launch.simple

    def section(self, key: str) -> Any:
        """A map at the top of the file, made if it isn't there."""
        if not isinstance(self.document.get(key), dict):
            self.document[key] = CommentedMap()
        return self.document[key]

    def set(self, key: str, value: Any, *, before: str = "") -> None:
        """Set a key of the service."""
        if key in self.service:
            self.service[key] = value
            return
        keys = list(self.service)
        at = keys.index(before) if before in keys else max(0, len(keys) - 1)
        self.service.insert(at, key, value)

    def remove(self, *keys: str) -> None:
        """Remove a key, and the maps above it that are empty then."""
        here = self.service
        for key in keys[:-1]:
            here = here.get(key) if isinstance(here, dict) else None
        if not isinstance(here, dict) or keys[-1] not in here:
            return
        following = _following(here, keys[-1])
        before = _before(here, keys[-1])
        del here[keys[-1]]
        if before is not None:
            _attach(here, before, following)
        if not here and len(keys) > 1:
            self.remove(*keys[:-1])

    def close(self) -> None:
        """Put back what followed the command line."""
        if self.rows:
            _attach(self.service, "command", self.following)

    def drop_variable(self, name: str) -> None:
        """Take a variable out of the environment."""
        found = self.service.get("environment")
        if isinstance(found, list):
            for at in reversed(range(len(found))):
                if str(found[at]).partition("=")[0] == name:
                    del found[at]
            if not found:
                self.remove("environment")
        else:
            self.remove("environment", name)

    def put_variable(self, name: str, value: str) -> None:
        """Set a variable of the environment."""
        found = self.service.get("environment")
        if not found or not isinstance(found, (dict, list)):
            self.remove("environment")
            self.set("environment", CommentedMap())
        found = self.service["environment"]
        if isinstance(found, list):
            self.drop_variable(name)
            found.insert(max(0, len(found) - 1), f"{name}={value}")
        elif name in found:
            found[name] = value
        else:
            found.insert(max(0, len(found) - 1), name, value)

    def put(self, name: str, value: str) -> None:
        """Set a flag of vLLM; ``value`` is what vLLM shall get."""
        if not self._open():
            return
        row = f"{name}={value}".replace("$", "$$")
        present = self._arguments()
        if found := self._found(name):
            self._replace(found, row)
        elif len(present) > 1 and present[-1].name:
            self.rows.insert(self.start + present[-1].first, row)
        else:
            self.rows.append(row)

    def drop(self, name: str) -> None:
        """Take a flag out."""
        while self._open() and (found := self._found(name)):
            at = self.start + found.first
            following = _following(self.rows, self.start + found.stop - 1)
            del self.rows[at : self.start + found.stop]
            if at:
                _attach(self.rows, at - 1, following)

    def model_first(self) -> None:
        """Put a model by position before all flags: ``vllm serve`` may want it there."""
        if self._open() and (found := self._found("")) and found.first:
            model = self.rows[self.start + found.first]
            del self.rows[self.start + found.first]
            self.rows.insert(self.start, model)

    def name_model(self) -> None:
        """Give the model by flag instead of by position."""
        if self._open() and (found := self._found("")):
            self._replace(found, f"--model={self.rows[self.start + found.first]}")

    def _replace(self, found: Argument, row: str) -> None:
        at = self.start + found.first
        self.rows[at] = row
        for extra in range(self.start + found.stop - 1, at, -1):
            del self.rows[extra]

    def _arguments(self) -> tuple[Argument, ...]:
        texts = [str(row) for row in self.rows[self.start :]]
        return arguments(texts, [0] * len(texts))

    def _found(self, name: str) -> Argument | None:
        return next((one for one in reversed(self._arguments()) if one.name == name), None)

    def _open(self) -> bool:
        """Make the command line a list; False when it can't be written anew."""
        launch = self.case.service.launch
        if self.rows is None and launch.simple:
            self._as_list(launch)
        return self.rows is not None

    def _as_list(self, launch: Launch) -> None:
        command = self.service.get("command")
        if isinstance(command, list) and not launch.script and len(command) >= len(launch.words):
            self.rows, self.start = command, len(command) - len(launch.words)
            return
        prefix = [word.written for word in launch.prefix if word.written != "exec"]
        inside = prefix if "entrypoint" not in self.service and not launch.script else []
        if prefix and not inside:
            self.set("entrypoint", CommentedSeq(prefix), before="command")
        self.rows, self.start = CommentedSeq([*inside, *_joined(launch)]), len(inside)
        if command is not None:
            self.following = _following(self.service, "command")
        self.set("command", self.rows)


def _joined(launch: Launch) -> list[str]:
    """One row for each argument: ``--flag=value``."""
    rows: list[str] = []
    for one in launch.arguments:
        written = [word.written for word in launch.words[one.first : one.stop]]
        pair = len(written) == 2 and written[0].startswith("--")
        rows += ["=".join(written)] if pair else written
    return rows


def _before(here: Any, key: str) -> str | None:
    """The key above another, if there is one."""
    keys = list(here)
    at = keys.index(key)
    return str(keys[at - 1]) if at else None


def _following(here: Any, key: Any) -> str:
    """Take away the comment of a key or item; gives the lines of it that stand below the value."""
    entry = here.ca.items.pop(key, None)
    token = entry[2 if isinstance(here, dict) else 0] if entry else None
    if token is None:
        return ""
    if "\n" in str(here[key]):  # a block's own line break is no part of the comment
        return f"\n{' ' * token.start_mark.column}{token.value}"
    _, newline, rest = token.value.partition("\n")
    return f"{newline}{rest}" if rest else ""


def _attach(here: Any, key: Any, comment: str) -> None:
    """Put comment lines below a value, which is below its last line."""
    value = here[key]
    if not comment:
        return
    if isinstance(value, (CommentedMap, CommentedSeq)) and value and not value.fa.flow_style():
        _attach(value, next(reversed(value)) if isinstance(value, dict) else len(value) - 1, comment)
        return
    slot = 2 if isinstance(here, dict) else 0
    entry = here.ca.items.setdefault(key, [None] * 4)
    said = entry[slot].value.rstrip("\n") if entry[slot] else ""
    mark = entry[slot].start_mark if entry[slot] else CommentMark(0)
    entry[slot] = CommentToken(said + comment, mark, None)


def _shares(raw: Any, depth: int = 0) -> bool:
    """Whether anything in it is merged in, or has an anchor that others may use."""
    if not isinstance(raw, CommentedBase) or depth > _DEEP:
        return False
    below = raw.values() if isinstance(raw, dict) else raw if isinstance(raw, list) else ()
    anchor = raw.yaml_anchor()
    return (
        bool(getattr(raw, "merge", None))
        or anchor is not None
        or any(_shares(one, depth + 1) for one in below)
    )


def _own(raw: Any, depth: int = 0) -> Any:
    """A copy with everything written out, comments and style kept."""
    if depth > _DEEP or not isinstance(raw, (dict, list)):
        return _bare(raw)
    copy: Any
    if isinstance(raw, dict):
        copy = CommentedMap((key, _own(raw[key], depth + 1)) for key in raw)
    else:
        copy = CommentedSeq(_own(one, depth + 1) for one in raw)
    for kept in (Comment.attrib, Format.attrib):
        if hasattr(raw, kept):
            setattr(copy, kept, getattr(raw, kept))
    return copy


def _bare(scalar: Any) -> Any:
    """A scalar without its anchor: written out twice, it would name two places."""
    if getattr(scalar, Anchor.attrib, None) is None:
        return scalar
    kept = duplicate(scalar)
    delattr(kept, Anchor.attrib)
    return kept
