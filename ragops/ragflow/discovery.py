"""Find the containers of RAGFlow's server, their address and their release.

:func:`find` and :class:`RagflowContainer` are pure; :func:`detect` sends a request without a token. Only the
server container calls the reranker, so only it needs the network.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ragops.configuration import Ragflow
from ragops.docker.hints import for_engine
from ragops.docker.objects import COMPOSE_PROJECT, COMPOSE_SERVICE, ContainerState
from ragops.errors import RagflowError
from ragops.ragflow import releases
from ragops.ragflow.api import Api, Request
from ragops.ragflow.releases import Release

SERVICES = frozenset({"ragflow", "ragflow-cpu", "ragflow-gpu"})
"""Compose services of RAGFlow's server: ``ragflow`` up to v0.21 and on macOS (its docker-compose*.yml)."""

NAMES = frozenset({"ragflow-server", "docker-ragflow-cpu-1", "docker-ragflow-gpu-1", "docker-ragflow-1"})
"""Container names when it is started from RAGFlow's folder ``docker``; the first up to v0.21."""

API_PORT, WEB_PORT, GO_PORT = 9380, 80, 9384
"""Ports inside the container: the API in Python, nginx, which passes the API on, and the API in Go."""

VERSION_ROUTE = "/api/v1/system/version"
"""Needs no token from v0.25.2 on (api/apps/restful_apis/system_api.py)."""

DEMO = "demo"
"""Role label of the demo client."""

_GO = frozenset({"API_PROXY_SCHEME=go", "API_PROXY_SCHEME=hybrid"})  # from v0.25.0 on (docker/.env)
_SHORT_ID = 12
_LIMIT_MODE = "RERANK_TOKEN_LIMIT_MODE="  # rag/llm/rerank_model.py:34-37 from v0.27.2 on
_IMAGE = re.compile(r"(^|/)infiniflow/ragflow(:|@|$)")
_TAG = re.compile(r":([^/:@]+)(@|$)")
_EXECUTOR = "task_executor"  # in the command of RAGFlow's second container, which never calls the reranker


@dataclass(frozen=True)
class RagflowContainer:
    """A container of RAGFlow's server, or the demo client in its place."""

    container: ContainerState
    configured: str | None = None
    """The configured release; None for that of the tag."""

    @property
    def name(self) -> str:
        """The container's name."""
        return self.container.name

    @property
    def project(self) -> str:
        """Its compose project; empty when it was not started by compose."""
        return self.container.labels.get(COMPOSE_PROJECT, "")

    @property
    def service(self) -> str:
        """Its compose service."""
        return self.container.labels.get(COMPOSE_SERVICE, "")

    @property
    def release(self) -> str:
        """RAGFlow's release, as it is configured or in the image's tag; empty when it has none."""
        match = _TAG.search(self.container.image)
        tag = match[1] if match and not self.demo else ""
        return releases.normalize(self.configured or tag)

    @property
    def has_go_server(self) -> bool:
        """Whether its server is in Go: from v1.0 on, and where ``API_PROXY_SCHEME`` says so."""
        return self.contract.client.language == "Go" or not _GO.isdisjoint(self.container.environment)

    @property
    def contract(self) -> Release:
        """The facts of its release; of the nearest known one, or the newest in Go, where that is unknown."""
        is_unknown_go = not self.release and not _GO.isdisjoint(self.container.environment)
        return releases.of_or_nearest(releases.KNOWN[-1] if is_unknown_go else self.release)

    @property
    def over_limit(self) -> str:
        """What it does with a document over the registered limit: by its environment, else its release."""
        usual = self.contract.over_limit
        values = [line for line in self.container.environment if line.startswith(_LIMIT_MODE)]
        mode = values[-1].removeprefix(_LIMIT_MODE).strip().lower() if values else ""
        return usual if usual == "passthrough" else mode or usual

    @property
    def demo(self) -> bool:
        """Whether it is the demo client."""
        return self.container.role == DEMO

    @property
    def obstacle(self) -> str:
        """Why Docker can't connect it to a network; empty when it can."""
        reasons = {
            "container": "it shares another container's network",
            "host": "it uses the host's network",
            "none": "it was started without a network",
        }
        return reasons.get(self.container.network_mode.partition(":")[0], "")

    @property
    def start(self) -> str:
        """What makes a container that does not run do so."""
        verb = "unpause" if self.container.status == "paused" else "start"
        hint = for_engine(self.container.error)  # the other remedies are for the reranker or the connection
        return hint.remedy if hint.code == "endpoint-left" else f"docker {verb} {self.name}"


def outside(release: str | None) -> RagflowContainer:
    """A RAGFlow outside of this Docker engine, in the form of a container without a name.

    This host sends in its place: see :func:`ragops.checks.probe.run_probe`.
    """
    raw = {
        **dict.fromkeys(("Id", "Name", "Image"), ""),
        "State": {"Status": "running", "ExitCode": 0},
        "Config": {"Image": f"ragflow:{release or ''}"},
        "HostConfig": {"NetworkMode": "host"},
        "NetworkSettings": {},
    }
    return RagflowContainer(ContainerState.from_api(raw))


def is_ragflow(container: ContainerState) -> bool:
    """Whether a container is RAGFlow's server, by compose service, name or image."""
    return not any(_EXECUTOR in part for part in container.command) and (
        container.labels.get(COMPOSE_SERVICE) in SERVICES
        or container.name in NAMES
        or bool(_IMAGE.search(container.image))
    )


def find(containers: Iterable[ContainerState], configured: Ragflow) -> tuple[RagflowContainer, ...]:
    """RAGFlow's containers: the configured ones, else those discovered in one project."""
    containers = tuple(containers)
    if configured.containers:
        named = (_named(name, containers) for name in configured.containers)
        return tuple(replace(ragflow, configured=configured.release) for ragflow in named)
    servers = [RagflowContainer(found, configured.release) for found in containers if is_ragflow(found)]
    if configured.project is not None:
        servers = [server for server in servers if server.project == configured.project]
    projects = sorted({server.project or server.name for server in servers})
    if len(projects) > 1:
        raise RagflowError(
            f"{len(projects)} RAGFlows run on this engine",
            code="ragflow-ambiguous",
            evidence="\n".join(f"{server.project or '(no project)'}: {server.name}" for server in servers),
            hint=f'name one in ragops.toml: [ragflow] project = "{projects[0]}"',
        )
    return tuple(sorted(servers, key=lambda server: server.name))


def check_connectable(ragflow: RagflowContainer) -> RagflowContainer:
    """Return the container if Docker can connect it to a network; else raise an error."""
    if ragflow.obstacle:
        raise RagflowError(
            f"{ragflow.name} can't be connected to a network: {ragflow.obstacle}",
            code="cannot-join",
            evidence=f"network mode {ragflow.container.network_mode}",
            hint="take network_mode out of its compose file and recreate it, then connect it",
            container=ragflow.name,
        )
    return ragflow


def api_url(ragflow: RagflowContainer) -> str:
    """Where this host reaches its API: by a published port, else by its address in a network.

    RAGFlow in Go need not listen on port 9380, which its Compose file publishes all the same.
    """
    container = ragflow.container
    ports = (WEB_PORT, GO_PORT, API_PORT) if ragflow.has_go_server else (API_PORT, WEB_PORT)
    if url := container.host_url(*ports):
        return url
    raise RagflowError(
        f"{ragflow.name} has no address on this host",
        code="ragflow-silent",
        evidence=f"{container.status}; it publishes none of the ports {', '.join(map(str, ports))}",
        hint="start it, or name its address with --url",
        container=ragflow.name,
    )


def detect(
    configured: str | None, url: str, container: RagflowContainer | None = None, recorded: Sequence[str] = ()
) -> Release:
    """The release: configured, of the image's tag, reported by the server, or of an earlier registration.

    No token is sent: the server must respond like RAGFlow first.
    """
    with Api(url) as api:
        response = api.send(Request("GET", VERSION_ROUTE))
    evidence = f"{url}{VERSION_ROUTE}: HTTP {response.status}: {response.data or response.message}"
    if not response.is_ragflow:
        raise RagflowError(
            f"{url} does not respond like RAGFlow's API; no token was sent",
            code="ragflow-other",
            evidence=evidence,
            hint="name RAGFlow's address with --url; RAGFlow needs minutes to start",
            url=url,
        )
    tag = container.release if container else ""
    name = configured or tag or releases.normalize(str(response.data)) or next(iter(recorded), "")
    if not name:
        raise RagflowError(
            "the release of RAGFlow is unknown",
            code="ragflow-release",
            evidence=evidence,
            hint='its pages show it; then add to ragops.toml: [ragflow] release = "vX.Y.Z"',
            url=url,
        )
    return releases.of(name)


def _named(name: str, containers: tuple[ContainerState, ...]) -> RagflowContainer:
    named = [container for container in containers if container.name == name]
    if not named and len(name) >= _SHORT_ID:
        named = [container for container in containers if container.id.startswith(name)]
    if named:
        return RagflowContainer(named[0])
    similar = ", ".join(container.name for container in containers if is_ragflow(container)) or "none"
    raise RagflowError(
        f"no container is named {name}",
        code="container-missing",
        evidence=f"containers that look like RAGFlow: {similar}",
        hint="docker ps --all shows the names",
        container=name,
    )
