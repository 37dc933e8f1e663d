"""Which containers are RAGFlow's server, and of which release; pure.

Services and container names are those of ``releases.py``; the compose project is ``docker`` unless
named. Only the server container calls the reranker, so only it needs the network.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragops.errors import RagflowError
from ragops.ragflow import releases
from ragops.state import COMPOSE_PROJECT, COMPOSE_SERVICE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ragops.stack import Ragflow
    from ragops.state import ContainerState

SERVICES = frozenset(name for fact in releases.SERVICES for name in fact.value)
NAMES = frozenset(name for fact in releases.CONTAINERS for name in fact.value)
DEMO = "demo"
"""Role label of the stand-in client."""

_SHORT_ID = 12
_IMAGE = re.compile(r"(^|/)infiniflow/ragflow(:|@|$)")
_RELEASE = re.compile(r":v?(\d+\.\d+\.\d+)")


@dataclass(frozen=True)
class RagflowContainer:
    """A container in which RAGFlow's server runs, or the demo client that stands in for it."""

    container: ContainerState

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
        """RAGFlow's release as in the image's tag; empty when the tag doesn't tell."""
        found = _RELEASE.search(self.container.image)
        return f"v{found[1]}" if found and not self.demo else ""

    @property
    def demo(self) -> bool:
        """Whether it is the demo client, a stand-in."""
        return self.container.role == DEMO

    @property
    def obstacle(self) -> str:
        """Why Docker can't connect it to a network; empty when it can."""
        mode = self.container.network_mode
        if mode.startswith("container:"):
            return "it shares another container's network"
        reasons = {"host": "it uses the host's network", "none": "it was started without a network"}
        return reasons.get(mode, "")


def is_ragflow(container: ContainerState) -> bool:
    """Whether a container is RAGFlow's server, by compose service, name or image."""
    return (
        container.labels.get(COMPOSE_SERVICE) in SERVICES
        or container.name in NAMES
        or bool(_IMAGE.search(container.image))
    )


def find(containers: Iterable[ContainerState], declared: Ragflow) -> tuple[RagflowContainer, ...]:
    """RAGFlow's containers: the declared ones, else those discovered.

    Raises:
        RagflowError: A declared one is missing, or several projects have one and none is named.
    """
    there = tuple(containers)
    if declared.containers:
        return tuple(_named(name, there) for name in declared.containers)
    found = [RagflowContainer(one) for one in there if is_ragflow(one)]
    if declared.project is not None:
        found = [one for one in found if one.project == declared.project]
    projects = sorted({one.project or one.name for one in found})
    if len(projects) > 1:
        raise RagflowError(
            f"{len(projects)} RAGFlows run on this engine",
            evidence="\n".join(f"{one.project or '(no project)'}: {one.name}" for one in found),
            hint=f'name one in ragops.toml: [ragflow] project = "{projects[0]}"',
        )
    return tuple(sorted(found, key=lambda one: one.name))


def joinable(found: RagflowContainer) -> RagflowContainer:
    """The container itself.

    Raises:
        RagflowError: Docker can't connect it to any network.
    """
    if found.obstacle:
        raise RagflowError(
            f"{found.name} can't join a network: {found.obstacle}",
            evidence=f"network mode {found.container.network_mode}",
            hint="take network_mode out of its compose file and recreate it, then connect it",
        )
    return found


def _named(name: str, containers: tuple[ContainerState, ...]) -> RagflowContainer:
    same = [one for one in containers if one.name == name]
    short = [one for one in containers if len(name) >= _SHORT_ID and one.id.startswith(name)]
    if found := (same or short)[:1]:
        return RagflowContainer(found[0])
    near = ", ".join(one.name for one in containers if is_ragflow(one)) or "none"
    raise RagflowError(
        f"no container is named {name}",
        evidence=f"containers that look like RAGFlow: {near}",
        hint="docker ps --all shows the names",
    )
