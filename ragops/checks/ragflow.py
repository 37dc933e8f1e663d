"""RAGFlow's containers, before they are connected: found, of which release, and what stands in the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ragops import planning
from ragops.checks import Check
from ragops.errors import RagopsError
from ragops.ragflow import discovery

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ragops.stack import Stack
    from ragops.state import ContainerState


def check(stack: Stack, containers: tuple[ContainerState, ...]) -> Iterator[Check]:
    """One check for each of RAGFlow's containers, or why there is none."""
    try:
        found = discovery.find(containers, stack.ragflow)
    except RagopsError as error:
        yield Check("RAGFlow", "fail", error.short, error.hint)
        return
    if not found:
        remedy = "start RAGFlow, or a stand-in: ragops demo up"
        yield Check("RAGFlow", "warn", "no container of RAGFlow's server found", remedy)
    yield from (_one(each, stack) for each in found)


def _one(one: discovery.RagflowContainer, stack: Stack) -> Check:
    if one.obstacle:
        remedy = "take network_mode out of its compose file, then: docker compose up --detach"
        return Check("RAGFlow", "fail", f"{one.name} can't join a network: {one.obstacle}", remedy)
    release = one.release or ("demo client, a stand-in" if one.demo else "release unknown")
    if one.container.status != "running":
        detail = f"{one.name} ({release}) is {one.container.status}"
        return Check("RAGFlow", "warn", detail, f"docker start {one.name}: verify asks from inside it")
    moves = planning.moves_route(one.container, stack.network.name, internal=stack.network.internal)
    if moves:
        remedy = "name the network so that it sorts after RAGFlow's own, or set internal = true"
        return Check("RAGFlow", "warn", f"{one.name} ({release}): joining moves its default route", remedy)
    return Check("RAGFlow", "ok", f"{one.name} ({release}), running")
