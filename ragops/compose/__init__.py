"""Faults of a compose file that starts a vLLM reranker.

::

    checked = check_file("docker-compose.yaml")
    print(checked)  # each fault with its line, its reason and its fix

``syntax`` parses the file, ``reading`` finds the rerankers, ``faults`` finds their faults, and ``render``
writes compose files.
"""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dotenv.parser import parse_stream

from ragops.compose.faults import find_faults
from ragops.compose.reading import read_rerankers
from ragops.compose.syntax import MAX_BYTES, parse, resolve
from ragops.errors import ComposeError, ModelError, read_text
from ragops.reranker import host as hosts
from ragops.reranker.model import describe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ragops.compose.faults import Finding
    from ragops.compose.reading import Service
    from ragops.reranker.host import Host
    from ragops.reranker.model import Model


@dataclass(frozen=True)
class CheckedFile:
    """A compose file with its faults; it is only read, never changed."""

    path: Path
    findings: tuple[Finding, ...]
    rerankers: tuple[Service, ...] = ()
    notes: tuple[str, ...] = ()
    """What was not checked, and why."""

    @property
    def ok(self) -> bool:
        """Whether no finding is an error."""
        return not self.count("error")

    def count(self, severity: str) -> int:
        """Number of findings of that severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """``{"findings": [{"severity", "line", "message", "fix", "code", "service"}]}``."""
        return {"findings": [asdict(finding) for finding in self.findings]}

    def __str__(self) -> str:
        lines = []
        for finding in self.findings:
            place = f"{self.path}:{finding.line}"
            lines.append(f"{place}: {finding.severity}: {finding.message} [{finding.code}]")
            lines.append(f"    fix: {finding.fix}")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, f"{self.count('error')} errors, {self.count('warning')} warnings"])


def check_file(path: Path | str, host: Host | None = None) -> CheckedFile:
    """Find the faults of a compose file.

    As in compose, variables come from the environment and from ``.env`` in the file's folder.

    Args:
        path: The file.
        host: The machine that the reranker will run on; this machine by default.

    Raises:
        ComposeError: The file can't be read, or is not a compose file.
    """
    file, hint = Path(path), "name a compose file"
    text = read_text(ComposeError, f"can't read {file}", file, MAX_BYTES, hint=hint)
    variables = {**_env_variables(file.parent / ".env"), **os.environ}
    return check_text(text, file, host or hosts.read_host(), variables)


def _env_variables(file: Path) -> dict[str, str]:
    """Variables of an ``.env`` file; values refer to others as in compose files, but not in single quotes."""
    variables: dict[str, str] = {}
    if not file.exists():
        return variables
    text = read_text(ComposeError, f"can't read {file}", file, 1 << 20, hint="correct the file, or move it")
    for binding in parse_stream(StringIO(text)):
        if binding.key and binding.value is not None:
            literal = re.search(r"=\s*'", binding.original.string)
            resolved = binding.value if literal else resolve(binding.value, {**variables, **os.environ})
            variables[binding.key] = resolved or ""
    return variables


def check_text(text: str, path: Path, host: Host, variables: Mapping[str, str]) -> CheckedFile:
    """As :func:`check_file`, for the text of a file and the variables that compose substitutes."""

    def find_model(folder: str) -> Model | None:
        try:
            model_folder = (path.parent / Path(folder).expanduser()).resolve()
            return describe(model_folder) if (model_folder / "config.json").is_file() else None
        except (ModelError, OSError, RuntimeError):  # RuntimeError: no home folder of that user
            return None

    root = parse(text, path.name, variables)
    # Compose derives the project's name from the folder's.
    folder = re.sub(r"[^a-z0-9_-]", "", path.resolve().parent.name.lower()).lstrip("_-")
    rerankers, notes = read_rerankers(root, root.scalar("name") or folder or "default", find_model)
    return CheckedFile(path, find_faults(rerankers, host), rerankers, notes)
