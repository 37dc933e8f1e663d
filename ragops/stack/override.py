"""The compose override file that connects RAGFlow's server to the reranker's network permanently.

Compose drops a connection of ``docker network connect`` when it recreates the container. Its labels name the
project, the service and the files of a container: :func:`override` needs nothing else and reads no file, and
:func:`write` writes the result beside them.
"""

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ragops.compose import AUTOMATIC
from ragops.compose.render import NETWORK, to_comments, to_yaml
from ragops.configuration import Network
from ragops.docker.objects import COMPOSE_PROJECT, ContainerState, NetworkState, moves_route
from ragops.errors import RagflowError, file_errors
from ragops.ragflow.discovery import RagflowContainer, is_ragflow
from ragops.session import replace_file

MARK = "Made by: ragops compose override"
"""First line of an override file of ragops; other files are never replaced."""

DEFAULT, ALTERNATIVE = "docker-compose.override.yml", "docker-compose.ragops.yml"

_LABEL = "com.docker.compose"


@dataclass(frozen=True, repr=False)
class Override:
    """An override file, its path, and the command that applies it."""

    text: str
    file: Path | None
    """Beside RAGFlow's own file; None where compose's labels name none."""
    command: tuple[str, ...]
    """``docker compose`` with every file in use, and this one."""
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return self.text.rstrip("\n")

    __repr__ = __str__


def override(
    servers: Sequence[RagflowContainer], network: Network, networks: Sequence[NetworkState]
) -> Override:
    """The override file that connects RAGFlow's containers, of one compose project, to the network.

    ``networks`` are all that the Docker engine has.

    Raises:
        RagflowError: There is no container, compose did not create it, or its ``network_mode`` excludes
            networks.
    """
    if not servers:
        hint = "start RAGFlow: the labels of its container name its compose files"
        raise RagflowError("no RAGFlow container found", code="ragflow-missing", hint=hint)
    for server in servers:
        _check(server)
    if len(projects := sorted({server.project for server in servers})) > 1:
        raise RagflowError(
            f"{len(projects)} RAGFlows run here, and each has files of its own",
            code="ragflow-ambiguous",
            evidence=", ".join(projects),
            hint=f'name one in ragops.toml: [ragflow] project = "{projects[0]}"',
        )
    files = _files(servers[0])
    file = _target(files[0].parent) if files else None
    command = _command(servers, file)
    services = {}
    for server in sorted(servers, key=lambda server: server.service):
        connected = {endpoint.network for endpoint in server.container.endpoints}
        own = [network for network in networks if network.labels.get(COMPOSE_PROJECT) == server.project]
        default = {network.name for network in own if network.labels.get(f"{_LABEL}.network") == "default"}
        # A service that names only another network leaves the project's default network.
        names = ["default", NETWORK] if connected & default else [NETWORK]
        services[server.service] = {"networks": {name: dict[str, str]() for name in names}}
    document = {"services": services, "networks": {NETWORK: {"name": network.name, "external": True}}}
    purpose = (
        "Connects RAGFlow's server to its reranker's network, also when compose recreates the container."
    )
    text = to_comments([MARK, purpose, f"Apply it: {shlex.join(command)}"]) + to_yaml(document)
    return Override(text, file, command, tuple(_notes(servers, file, network, networks)))


def write(new: Override) -> tuple[Path, Path | None]:
    """Write the file beside RAGFlow's own; returns it, and the backup of a different file of that name."""
    file = new.file
    if file is None or not file.parent.is_dir():
        raise RagflowError(
            "RAGFlow's compose files are not on this machine",
            code="override-unwritten",
            evidence=str(file.parent) if file else "compose's labels name no file",
            hint="print it, and save it beside RAGFlow's compose file",
            file=file,
        )
    backup = None
    hint = "print it, and save it there"
    with file_errors(RagflowError, f"can't write {file}", file, code="override-unwritten", hint=hint):
        old = file.read_text() if file.exists() else new.text
        if old != new.text:
            backup = file.with_name(f"{file.name}.bak-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
            backup.write_text(old)
        replace_file(file, new.text.encode())
    return file, backup


def applied(containers: Iterable[ContainerState], network: str) -> tuple[Path, ...]:
    """Override files of ragops that name the network and that RAGFlow's containers were created with."""
    servers = [RagflowContainer(container) for container in containers if is_ragflow(container)]
    files = {file for server in servers for file in _files(server) if _is_own(file)}
    return tuple(sorted(file for file in files if f"name: {network}\n" in file.read_text()))


def _check(server: RagflowContainer) -> None:
    mode = server.container.network_mode
    if not server.project or not server.service:
        raise RagflowError(
            f"compose did not create {server.name}: there is no file to extend",
            code="override-excluded",
            hint=f"ragops connect {server.name} connects it now, ragops watch again after each change",
            container=server.name,
        )
    if server.obstacle or mode in {"bridge", "default"}:
        raise RagflowError(
            f"service {server.service} cannot be connected: its compose file sets network_mode",
            code="override-excluded",
            evidence=f"network_mode excludes networks; {server.name} has {mode}",
            hint="remove network_mode from the service and recreate it; then ragops compose override",
            container=server.name,
        )


def _files(server: RagflowContainer) -> list[Path]:
    folder = Path(server.container.labels.get(f"{_LABEL}.project.working_dir", ""))
    names = server.container.labels.get(f"{_LABEL}.project.config_files", "")
    return [folder / name for name in names.split(",") if name]


def _target(folder: Path) -> Path:
    """The name that compose reads automatically, unless a file that is not of ragops has one."""
    existing = [folder / name for name in AUTOMATIC if (folder / name).exists()]
    own = [file for file in existing if _is_own(file)]
    return own[0] if own else folder / (ALTERNATIVE if existing else DEFAULT)


def _is_own(file: Path) -> bool:
    try:
        return file.read_text().startswith(f"# {MARK}")
    except (OSError, UnicodeDecodeError):
        return False


def _command(servers: Sequence[RagflowContainer], file: Path | None) -> tuple[str, ...]:
    labels, files = servers[0].container.labels, _files(servers[0])
    command = ["docker", "compose", "-p", servers[0].project]
    folder = labels.get(f"{_LABEL}.project.working_dir", "")
    if files and folder and Path(folder) != files[0].parent:
        command += ["--project-directory", folder]
    for environment in labels.get(f"{_LABEL}.project.environment_file", "").split(","):
        if environment:
            command += ["--env-file", environment]
    for name in files if file is None or file in files else [*files, file]:
        command += ["-f", str(name)]
    return (*command, "up", "-d", "--no-deps", *sorted({server.service for server in servers}))


def _notes(
    servers: Sequence[RagflowContainer], file: Path | None, network: Network, networks: Sequence[NetworkState]
) -> Iterator[str]:
    services = " and ".join(sorted({server.service for server in servers}))
    yield f"applying it recreates {services} once: requests in progress are interrupted"
    if network.name not in {existing.name for existing in networks}:
        yield f"there is no network {network.name} yet: ragops up creates it, and compose needs it"
    internal = next((other.internal for other in networks if other.name == network.name), network.internal)
    if any(moves_route(server.container, network.name, internal=bool(internal)) for server in servers):
        yield f"{network.name} sorts before RAGFlow's own network: its default route moves"
    if file is None:
        yield "compose's labels name no file: add -f for each of RAGFlow's own, and for this one last"
    elif file.name == ALTERNATIVE:
        files = ":".join(path.name for path in _files(servers[0]) if path != file)
        value = f"COMPOSE_FILE={files}:{ALTERNATIVE}"
        yield f"compose reads {ALTERNATIVE} when it is named: {value} in .env, or -f"
    else:
        yield "compose reads it automatically, but not where -f names other files only"
