"""RAGFlow's override file: its network as a lasting thing, in the project that runs now.

What ``docker network connect`` did is lost when compose makes the container anew. Compose tells by
labels which files it made a container from; :func:`override` needs nothing else, and reads no file.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ragops.compose.render import NETWORK, to_comments, to_yaml
from ragops.docker.objects import COMPOSE_PROJECT, moves_route
from ragops.errors import RagflowError, file_errors
from ragops.ragflow.discovery import RagflowContainer, is_ragflow

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ragops.configuration import Network
    from ragops.docker.objects import ContainerState, NetworkState

MARK = "Made by: ragops compose override"
"""How a file of ours begins; one that begins otherwise is somebody's own, and is left alone."""

AUTOMATIC = tuple(
    f"{name}.override.{tail}" for name in ("compose", "docker-compose") for tail in ("yml", "yaml")
)
"""Files that compose reads by itself, if no ``-f`` names others."""

DEFAULT, BESIDE = "docker-compose.override.yml", "docker-compose.ragops.yml"

_LABEL = "com.docker.compose"


@dataclass(frozen=True, repr=False)
class Override:
    """An override file, where it goes, and how it is applied."""

    text: str
    file: Path | None
    """Beside RAGFlow's own file; None when compose did not tell where that is."""
    command: tuple[str, ...]
    """``docker compose`` with every file that is in use, and this one."""
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """The file's text."""
        return self.text.rstrip("\n")

    __repr__ = __str__


def override(
    found: Sequence[RagflowContainer], network: Network, networks: Sequence[NetworkState]
) -> Override:
    """The override file that joins RAGFlow's server to a network for good.

    Args:
        found: RAGFlow's containers of one project.
        network: The declared network.
        networks: Those that the engine has.

    Raises:
        RagflowError: There is no container, compose did not make it, or its ``network_mode`` rules
            networks out.
    """
    if not found:
        raise RagflowError(
            "no RAGFlow container found",
            code="ragflow-missing",
            hint="start RAGFlow: its labels tell which files it has",
        )
    for one in found:
        _check(one)
    if len(projects := sorted({one.project for one in found})) > 1:
        raise RagflowError(
            f"{len(projects)} RAGFlows run here, and each has files of its own",
            code="ragflow-ambiguous",
            evidence=", ".join(projects),
            hint=f'name one in ragops.toml: [ragflow] project = "{projects[0]}"',
        )
    services = sorted({one.service for one in found})
    file = _place(_files(found[0])) if _files(found[0]) else None
    command = _command(found[0], services, file)
    document = {
        "services": {
            one.service: {"networks": {**_kept(one, networks), NETWORK: {}}}
            for one in sorted(found, key=lambda one: one.service)
        },
        "networks": {NETWORK: {"name": network.name, "external": True}},
    }
    header = [
        MARK,
        "Keeps RAGFlow's server in the network of its reranker when compose makes the container anew.",
        f"Apply it: {shlex.join(command)}",
    ]
    notes = _notes(found, file, network, networks)
    return Override(to_comments(header) + to_yaml(document), file, command, notes)


def write(made: Override) -> tuple[Path, Path | None]:
    """Put the file beside RAGFlow's own; what was there is kept as a backup.

    Returns:
        The file, and the backup if there was something else in its place.

    Raises:
        RagflowError: The folder is not known, not on this machine, or can't be written to.
    """
    file = made.file
    if file is None or not file.parent.is_dir():
        where = str(file.parent) if file else "compose's labels name no file"
        hint = "print it, and put it beside RAGFlow's compose file yourself"
        raise RagflowError(
            "RAGFlow's compose files are not on this machine",
            code="override-unwritten",
            evidence=where,
            hint=hint,
            file=file,
        )
    hint = "print it, and put it there"
    with file_errors(RagflowError, f"can't write {file}", file, code="override-unwritten", hint=hint):
        old = file.read_text() if file.exists() else made.text
        backup = None
        if old != made.text:
            backup = file.with_name(f"{file.name}.bak-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
            backup.write_text(old)
        fresh = file.with_name(f".{file.name}.new")
        fresh.write_text(made.text)
        fresh.replace(file)
    return file, backup


def applied(containers: Iterable[ContainerState], network: str) -> tuple[Path, ...]:
    """Files of ours that name the network and that RAGFlow's containers were made with."""
    found = [RagflowContainer(one) for one in containers if is_ragflow(one)]
    named = {file for one in found for file in _files(one) if _ours(file)}
    return tuple(sorted(file for file in named if f"name: {network}\n" in file.read_text()))


def _check(found: RagflowContainer) -> None:
    mode = found.container.network_mode
    if not found.project or not found.service:
        raise RagflowError(
            f"{found.name} was not made by compose: there is no file to extend",
            code="override-excluded",
            hint=f"ragops connect {found.name} joins it now, ragops watch keeps it joined",
            container=found.name,
        )
    if found.obstacle or mode in {"bridge", "default"}:
        raise RagflowError(
            f"service {found.service} can't be given a network: its compose file sets network_mode",
            code="override-excluded",
            evidence=f"network_mode excludes networks; {found.name} has {mode}",
            hint="take network_mode out of the service and recreate it; then ragops compose override",
            container=found.name,
        )


def _kept(found: RagflowContainer, networks: Sequence[NetworkState]) -> dict[str, dict[str, str]]:
    """The project's default network where the service is in it: naming another one alone would lose it."""
    joined = {place.network for place in found.container.endpoints}
    defaults = {
        one.name
        for one in networks
        if one.labels.get(COMPOSE_PROJECT) == found.project
        and one.labels.get(f"{_LABEL}.network") == "default"
    }
    return {"default": {}} if joined & defaults else {}


def _files(found: RagflowContainer) -> list[Path]:
    folder = Path(found.container.labels.get(f"{_LABEL}.project.working_dir", ""))
    named = found.container.labels.get(f"{_LABEL}.project.config_files", "")
    return [folder / file for file in named.split(",") if file]


def _place(files: list[Path]) -> Path:
    """Where the file goes: the name that compose reads by itself, unless that one is somebody's own."""
    folder = files[0].parent
    there = [folder / name for name in AUTOMATIC if (folder / name).exists()]
    own = [file for file in there if _ours(file)]
    return own[0] if own else folder / (BESIDE if there else DEFAULT)


def _ours(file: Path) -> bool:
    try:
        return file.read_text().startswith(f"# {MARK}")
    except (OSError, UnicodeDecodeError):
        return False


def _command(found: RagflowContainer, services: list[str], file: Path | None) -> tuple[str, ...]:
    files = _files(found)
    labels = found.container.labels
    folder = labels.get(f"{_LABEL}.project.working_dir", "")
    elsewhere = files and folder and Path(folder) != files[0].parent
    environment = labels.get(f"{_LABEL}.project.environment_file", "")
    named = [*files, *([file] if file and file not in files else [])]
    return (
        *("docker", "compose", "-p", found.project),
        *(("--project-directory", folder) if elsewhere else ()),
        *(part for one in environment.split(",") if one for part in ("--env-file", one)),
        *(part for one in named for part in ("-f", str(one))),
        *("up", "-d", "--no-deps", *services),
    )


def _notes(
    found: Sequence[RagflowContainer], file: Path | None, network: Network, networks: Sequence[NetworkState]
) -> tuple[str, ...]:
    services = " and ".join(sorted({one.service for one in found}))
    notes = [f"applying it makes {services} anew once: questions in progress break off"]
    if network.name not in {one.name for one in networks}:
        notes.append(f"there is no network {network.name} yet: ragops up makes it, and compose needs it")
    if any(moves_route(one.container, network.name, internal=network.internal) for one in found):
        notes.append(f"{network.name} sorts before RAGFlow's own network: its default route moves")
    if file is None:
        notes.append("compose's labels name no file: add -f for each of RAGFlow's own, and for this one last")
    elif file.name == BESIDE:
        files = ":".join(one.name for one in _files(found[0]) if one != file)
        notes.append(f"compose reads {BESIDE} when it is named: COMPOSE_FILE={files}:{BESIDE} in .env, or -f")
    else:
        notes.append("compose reads it by itself, but not where -f names other files only")
    return tuple(notes)
