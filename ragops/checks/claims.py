"""What the stack takes for itself: a port, names, a network and its addresses; are they free?"""

from __future__ import annotations

import re
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING

from ragops import addresses, planning
from ragops.checks import Check
from ragops.ragflow import discovery

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ragops.addresses import Pool
    from ragops.planning import Observed
    from ragops.stack import Stack
    from ragops.state import ContainerState

CLICKHOUSE_PORT = 8123
"""What RAGFlow's profile ``clickhouse`` publishes, from :data:`CLICKHOUSE_SINCE` on."""
CLICKHOUSE_SINCE = (0, 27)


def check(
    stack: Stack, observed: Observed, pools: tuple[Pool, ...], taken: tuple[str, ...]
) -> Iterator[Check]:
    """The checks of what is declared against what the engine has.

    Args:
        stack: What is declared.
        observed: What the engine has.
        pools: The engine's address pools.
        taken: Subnets that are this machine's own.
    """
    yield port(stack, observed.containers)
    yield names(stack, observed)
    yield network(stack, observed)
    if observed.network(stack.network.name) is None:
        yield room(stack, observed, pools, taken)


def port(stack: Stack, containers: tuple[ContainerState, ...]) -> Check:
    """The published port: who has it, and who may want it later."""
    reranker = stack.reranker
    if stack.host_url is None or reranker.port is False:
        return Check("port", "ok", "nothing is published")
    where = f"{reranker.publish}:{reranker.port}"
    holders = [one for one in containers if _publishes(one, reranker.publish, reranker.port)]
    other = f"port = {reranker.port + 1} under [reranker]"
    if strangers := [one.name for one in holders if one.name != reranker.name]:
        return Check("port", "fail", f"{where} is taken by {', '.join(strangers)}", f"set another: {other}")
    if not holders and _listens(reranker.publish, reranker.port):
        remedy = f"ss -ltnp 'sport = :{reranker.port}' shows the process; or set another: {other}"
        return Check("port", "fail", f"{where} is taken by a process of this host", remedy)
    state = f"{where} is {'ours' if holders else 'free'}"
    if reranker.port == CLICKHOUSE_PORT and (wants := _with_clickhouse(containers)):
        remedy = f"{other}, or CLICKHOUSE_HTTP_PORT in RAGFlow's .env, before that profile is used"
        detail = f"{state}, but RAGFlow {wants}'s profile clickhouse wants it too"
        return Check("port", "warn", detail, remedy)
    return Check("port", "ok", state)


def names(stack: Stack, observed: Observed) -> Check:
    """Names of container and volume that belong to somebody else."""
    name, cache = stack.reranker.name, f"{stack.reranker.name}-cache"
    container = observed.container(name)
    if container is not None and not container.ours:
        detail = f"a container that ragops did not make is named {name} ({container.image})"
        return Check(
            "names", "fail", detail, f"docker rename {name} {name}-old, or set name under [reranker]"
        )
    if any(one.name == cache and not one.ours for one in observed.volumes):
        detail = f"volume {cache} was not made by ragops: it would be used, and never removed"
        return Check("names", "warn", detail, f"docker volume rm {cache}, or set name under [reranker]")
    return Check("names", "ok", f"container {name}, volume {cache}")


def network(stack: Stack, observed: Observed) -> Check:
    """The network: to be made, ours, or somebody else's that will do."""
    name = stack.network.name
    same = [one for one in observed.networks if one.name == name]
    if len(same) > 1:
        ids = ", ".join(one.id[:12] for one in same)
        remedy = f"keep one and remove the others: docker network rm {same[-1].id[:12]}"
        return Check("network", "fail", f"{len(same)} networks are named {name}: {ids}", remedy)
    if not same:
        return Check("network", "ok", f"{name} will be made")
    if differs := planning.differences(stack.network, same[0]):
        undo = "ragops down, then ragops up" if same[0].ours else "set another name under [network]"
        return Check("network", "fail", f"{name} is there: {'; '.join(differs)}", undo)
    return Check("network", "ok", f"{name} is there{'' if same[0].ours else ', not made by ragops'}")


def room(stack: Stack, observed: Observed, pools: tuple[Pool, ...], taken: tuple[str, ...]) -> Check:
    """Whether the engine can make one more network; none is made to find out."""
    subnets = [subnet for one in observed.networks for subnet in one.subnets]
    if stack.network.subnet is not None:
        if overlaps := addresses.overlapping(stack.network.subnet, subnets):
            detail = f"{stack.network.subnet} overlaps {', '.join(overlaps)} of another network"
            remedy = "choose another subnet under [network], or leave it out"
            return Check("addresses", "fail", detail, remedy)
        return Check("addresses", "ok", f"{stack.network.subnet} is free")
    free = addresses.free(pools, (*subnets, *taken))
    if not free:
        remedy = 'docker network prune removes unused networks; or subnet = "10.77.0.0/24" under [network]'
        return Check("addresses", "fail", "the engine's address pools are used up", remedy)
    more = "or more" if len(free) == addresses.ENOUGH else "more"
    return Check("addresses", "ok", f"room for {len(free)} {more} networks")


def _publishes(one: ContainerState, address: str, wanted: int) -> bool:
    return any(port == wanted and _meet(host, address) for host, port, _ in one.published)


def _meet(one: str, other: str) -> bool:
    """Whether two listening addresses exclude each other."""
    return one == other or any(not text or ip_address(text).is_unspecified for text in (one, other))


def _listens(address: str, wanted: int) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as trial:
        trial.settimeout(1)
        return trial.connect_ex((address, wanted)) == 0


def _with_clickhouse(containers: tuple[ContainerState, ...]) -> str:
    """Release of a RAGFlow that has the profile; empty when there is none."""
    found = (discovery.RagflowContainer(one).release for one in containers if discovery.is_ragflow(one))
    return next((one for one in found if _release(one) >= CLICKHOUSE_SINCE), "")


def _release(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))
