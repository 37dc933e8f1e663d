"""Compose files: what is wrong with one that someone wrote for a vLLM reranker.

::

    checked = check_file("docker-compose.yaml")
    print(checked)          # each fault with its line, its reason and its fix
    print(checked.fixed)    # the same file without them
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragops import host as hosts
from ragops.compose import faults, fix
from ragops.compose.read import read
from ragops.compose.yaml import dotenv, parse
from ragops.errors import ComposeError, ModelError
from ragops.model import describe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ragops.compose.faults import Finding
    from ragops.compose.read import ComposeFile
    from ragops.host import Host
    from ragops.model import Model


@dataclass(frozen=True)
class CheckedFile:
    """The faults of one compose file."""

    path: Path
    findings: tuple[Finding, ...]
    fixed: str
    """The file's text without the faults that can be mended; the same text if there are none."""
    notes: tuple[str, ...] = ()
    """What was not looked into, and why."""

    @property
    def ok(self) -> bool:
        """Whether no finding is an error."""
        return not self.count("error")

    def count(self, severity: str) -> int:
        """How many findings are of that severity."""
        return sum(one.severity == severity for one in self.findings)

    def to_json(self) -> dict[str, Any]:
        """``{"findings": [{"code", "severity", "line", "message", "fix"}]}``."""
        return {"findings": [one.to_json() for one in self.findings]}

    def __str__(self) -> str:
        """One finding a paragraph, its fix below it; the count last."""
        lines = []
        for one in self.findings:
            lines.append(f"{self.path}:{one.line}: {one.severity}: {one.message} [{one.code}]")
            lines.append(f"    fix: {one.fix}")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, f"{self.count('error')} errors, {self.count('warning')} warnings"])


def check_file(path: Path | str, host: Host | None = None) -> CheckedFile:
    """Find the faults of a compose file, and mend a copy of its text.

    Variables come from the environment and from ``.env`` beside the file, as compose takes them.

    Args:
        path: The file.
        host: The machine that it shall run on; this one when left out.

    Raises:
        ComposeError: The file can't be read, or is no compose file.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ComposeError(f"can't read {file}", evidence=str(error), hint="name a compose file") from error
    return check_text(text, file, host or hosts.read_host(), _variables(file.parent))


def check_text(text: str, path: Path, host: Host, values: Mapping[str, str]) -> CheckedFile:
    """As :func:`check_file`, with the text and the variables given."""
    found = _read(text, path, values)
    findings = faults.find(found, host)
    return CheckedFile(path, findings, _fixed(text, path, host, values), found.notes)


def _read(text: str, path: Path, values: Mapping[str, str]) -> ComposeFile:
    source = parse(text, path.name, values)
    named = source.root.get("name")
    project = (named.text if named else None) or _project(path)
    return read(source, project, lambda folder: _model(path.parent / Path(folder).expanduser()))


def _fixed(text: str, path: Path, host: Host, values: Mapping[str, str]) -> str:
    """The mended text, with what is left to do as comments at its top."""
    found = _read(text, path, values)
    if not faults.find(found, host):
        return text
    plain = fix.without_version(text)
    file = _read(plain, path, values)
    before = faults.find(file, host)
    mended, steps = fix.mend(file, before, host) if before else (plain, ())
    left = faults.find(_read(mended, path, values), host)
    if plain == text and _same(before, left):
        return text
    return _header(steps, left) + mended


def _same(before: tuple[Finding, ...], after: tuple[Finding, ...]) -> bool:
    """Whether mending changed nothing."""
    return sorted(one.code for one in before) == sorted(one.code for one in after)


def _header(steps: tuple[str, ...], left: tuple[Finding, ...]) -> str:
    rows = ["Corrected by: ragops check --fix"]
    rows += [f"To do: {step}" for step in steps]
    rows += [f"Left as it was ({one.code}): {one.fix}" for one in left]
    return "".join(f"# {row}\n" for row in rows)


def _project(path: Path) -> str:
    """The project's name as compose makes it of the folder's."""
    return re.sub(r"[^a-z0-9_-]", "", path.resolve().parent.name.lower()).lstrip("_-") or "default"


def _variables(folder: Path) -> dict[str, str]:
    file = folder / ".env"
    try:
        return {**dotenv(file.read_text(encoding="utf-8", errors="replace")), **os.environ}
    except OSError:
        return dict(os.environ)


def _model(folder: Path) -> Model | None:
    """The model in a folder of this machine, if there is one that can be told."""
    try:
        return describe(folder) if (folder / "config.json").is_file() else None
    except (ModelError, OSError):
        return None
