"""Faults of a compose file that starts a vLLM reranker.

::

    checked = check_file("docker-compose.yaml")
    print(checked)  # each fault with its line, its reason and its fix

``syntax`` parses files and merges them, ``reading`` finds the rerankers, ``faults`` finds their
faults, and ``render`` writes compose files.
"""

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

from dotenv.parser import parse_stream

from ragops.compose.faults import Finding, PathKind, find_faults
from ragops.compose.reading import Project, Service, read_rerankers
from ragops.compose.syntax import MAX_BYTES, YamlNode, merge_files, parse, resolve
from ragops.errors import ComposeError, ModelError, file_errors, read_text
from ragops.reranker import host as hosts
from ragops.reranker.host import Host
from ragops.reranker.model import Model, describe

_NAMES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
AUTOMATIC = tuple(
    f"{stem}.override.{suffix}" for stem in ("compose", "docker-compose") for suffix in ("yml", "yaml")
)
"""Override files that compose reads automatically where no ``-f`` names others."""


@dataclass(frozen=True)
class CheckedFile:
    """A compose file, or several that are merged, with the faults; they are only read, never changed."""

    paths: tuple[Path, ...]
    root: YamlNode
    findings: tuple[Finding, ...]
    rerankers: tuple[Service, ...]
    notes: tuple[str, ...]
    """What was not checked, and why."""
    absent: frozenset[str]
    """Sources of volumes that are not on this machine."""

    @property
    def ok(self) -> bool:
        """Whether no finding is an error."""
        return not self.count("error")

    def count(self, severity: str) -> int:
        """Number of findings of that severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """``{"findings": [{"severity", "line", "message", "fix", "code", "service", "file"}]}``."""
        return {"findings": [asdict(finding) for finding in self.findings]}

    def __str__(self) -> str:
        lines = []
        for finding in self.findings:
            place = f"{finding.file}:{finding.line}"
            lines.append(f"{place}: {finding.severity}: {finding.message} [{finding.code}]")
            lines.append(f"    fix: {finding.fix}")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, f"{self.count('error')} errors, {self.count('warning')} warnings"])


def check_file(file: Path | str, *more: Path | str, host: Host | None = None) -> CheckedFile:
    """Find the faults of compose files, merged in their order as Docker Compose merges them.

    As in compose, variables come from the environment and from ``.env`` in the first file's folder.

    Args:
        file: The file, or a folder with the files that compose takes there by default: those of
            ``COMPOSE_FILE``, else ``compose.yaml`` or ``docker-compose.yml`` with its override file.
        more: Files that are merged into it.
        host: The machine that the reranker will run on; this machine by default.

    Raises:
        ComposeError: A file can't be read or merged, or is not a compose file.
    """
    paths, hint = [Path(file), *map(Path, more)], "name a compose file"
    with file_errors(ComposeError, f"can't read {file}", paths[0], hint=hint):
        is_folder = paths[0].is_dir()
    folder = paths[0] if is_folder else paths[0].parent
    variables = {**(_read_variables(folder / ".env") or {}), **os.environ}
    if is_folder:
        paths[:1] = _default_files(folder, variables)
    texts = [read_text(ComposeError, f"can't read {path}", path, MAX_BYTES, hint=hint) for path in paths]
    return check_texts(dict(zip(paths, texts, strict=True)), host or hosts.read_host(), variables)


def _default_files(folder: Path, variables: Mapping[str, str]) -> list[Path]:
    if named := variables.get("COMPOSE_FILE"):
        return [folder / name for name in named.split(variables.get("COMPOSE_PATH_SEPARATOR") or os.pathsep)]
    present = [
        [folder / name for name in names if (folder / name).is_file()] for names in (_NAMES, AUTOMATIC)
    ]
    if not present[0]:
        evidence = f"looked for {', '.join(_NAMES)}"
        raise ComposeError(f"no compose file in {folder}", evidence=evidence, hint="ragops check FILE")
    return [files[0] for files in present if files]


def _read_variables(file: Path) -> dict[str, str] | None:
    """Variables of a file such as ``.env``, None if it is missing.

    Values refer to others as in compose files, but not in single quotes.
    """
    variables: dict[str, str] = {}
    if not os.path.exists(file):  # noqa: PTH110 - False for a name that is too long
        return None
    text = read_text(ComposeError, f"can't read {file}", file, 1 << 20, hint="correct the file, or move it")
    for binding in parse_stream(StringIO(text)):
        if binding.key and binding.value is not None:
            literal = re.search(r"=\s*'", binding.original.string)
            resolved = binding.value if literal else resolve(binding.value, {**variables, **os.environ})
            variables[binding.key] = resolved or ""
    return variables


def check_texts(texts: Mapping[Path, str], host: Host, variables: Mapping[str, str]) -> CheckedFile:
    """As :func:`check_file`, for the texts of files in their order and the variables of compose."""
    folder = next(iter(texts)).parent

    def find_model(name: str) -> Model | None:
        try:
            model_folder = (folder / Path(name).expanduser()).resolve()
            return describe(model_folder) if (model_folder / "config.json").is_file() else None
        except (ModelError, OSError, RuntimeError, ValueError):  # no home folder of that user, a NUL
            return None

    def kind_of(source: str) -> PathKind | None:
        try:
            mode = (folder / Path(source).expanduser()).stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return "missing" if folder.is_dir() else None
        except (OSError, RuntimeError, ValueError):
            return None
        return "folder" if stat.S_ISDIR(mode) else "file"

    files: list[YamlNode] = []
    for path, text in texts.items():
        first = files[-1].source.first + len(files[-1].source.lines) + 1 if files else 1
        files.append(parse(text, str(path), variables, first))

    def place(line: int) -> tuple[str, int]:
        """File and line of a line number that counts on from file to file."""
        source = next(file.source for file in reversed(files) if file.source.first <= line)
        return source.name, line - source.first + 1

    root = merge_files(files)
    # An override file changes the services of another: it has its name, tags, or services without an image.
    tagged = any(re.search(r"(?<!\S)!(reset|override)\b", line) for line in files[0].source.lines)
    base = {"image", "build", "extends", "provider"}
    bare = any(base.isdisjoint(node.mapping) for node in files[0].at("services").mapping.values())
    # Compose derives the project's name from the folder's.
    name = re.sub(r"[^a-z0-9_-]", "", folder.resolve().name.lower()).lstrip("_-")
    project = Project(
        root=root,
        name=root.scalar("name") or name or "default",
        find_model=find_model,
        read_variables=lambda file: _read_variables(folder / file),
        override=len(files) == 1 and (tagged or bare or ".override." in Path(files[0].source.name).name),
    )
    rerankers, notes = read_rerankers(project)
    binds = {mount.source for service in rerankers for mount in service.mounts if mount.kind == "bind"}
    absent = frozenset(source for source in binds if source and kind_of(source) == "missing")
    placed = [
        replace(finding, file=file, line=line)
        for finding in find_faults(rerankers, host, kind_of)
        for file, line in [place(finding.line)]
    ]
    texts_of_notes = tuple("{}:{}: {}".format(*place(line), note) for line, note in notes)
    return CheckedFile(tuple(texts), root, tuple(placed), rerankers, texts_of_notes, absent)
