"""Who else reaches the reranker: a container outside the network must not."""

from __future__ import annotations

import ipaddress
import json
from importlib import resources
from typing import TYPE_CHECKING

from ragops.checks import Check
from ragops.checks.probe import answered
from ragops.docker.temporary import sidecar

if TYPE_CHECKING:
    from ragops.docker.engine import Engine
    from ragops.docker.objects import ContainerState

OUTSIDE = "bridge"
"""Docker's default network, which every engine has unless it was told otherwise."""

CLOSED = "outsiders can't reach it"
PUBLISHED = "published on this host only"
PROVES = {
    CLOSED: "a container outside the network gets no answer",
    PUBLISHED: "other machines are not let in",
}
"""What each check shows."""

_CONNECT_TIMEOUT = 1.5
"""Seconds; a second try of the kernel fits in. Two containers of one host need milliseconds."""
_PATIENCE = 60.0
"""Seconds; a resolver that does not answer takes its time to say so."""


def check(engine: Engine, reranker: ContainerState, network: str, image: str) -> list[Check]:
    """Try name and address from outside the network, and look at what is published."""
    return [*_outside(engine, reranker, network, image), _published(reranker)]


def _outside(engine: Engine, reranker: ContainerState, network: str, image: str) -> list[Check]:
    title = CLOSED
    if engine.network(OUTSIDE) is None:
        return [Check(title, "skip", f"the engine has no network {OUTSIDE} to try it from")]
    own = sorted(reranker.endpoints, key=lambda end: end.network != network)
    targets = [reranker.name, *(end.address for end in own if end.address)]
    with sidecar(engine, OUTSIDE, image) as outsider:
        reached = _reached(engine, outsider, targets)
    if reached:
        remedy = (
            f"docker network inspect {OUTSIDE} shows whether the reranker is connected to it; if it is not, "
            "another engine or a firewall tool has replaced Docker's rules: restart the engine"
        )
        return [Check(title, "fail", f"an unconnected container reaches {', '.join(reached)}", remedy)]
    return [Check(title, "ok", f"neither {' nor '.join(targets)} answers an unconnected container")]


def _reached(engine: Engine, outsider: str, targets: list[str]) -> list[str]:
    """Which of them answer there; one program asks all, as each start of one costs the reranker time."""
    program = (resources.files("ragops.data") / "port_probe.py").read_text()
    said = json.dumps({"hosts": targets, "port": 8000, "timeout": _CONNECT_TIMEOUT})
    done = engine.execute(outsider, ("python3", "-c", program), stdin=said, timeout=_PATIENCE)
    return list(answered(done))


def _published(reranker: ContainerState) -> Check:
    title = PUBLISHED
    open_to_all = [one for one in reranker.published if not _loopback(one[0])]
    if open_to_all:
        detail = ", ".join(f"{ip or '0.0.0.0'}:{port}" for ip, port, _ in open_to_all)
        return Check(
            title, "warn", f"other machines reach {detail}", 'publish = "127.0.0.1" under [reranker]'
        )
    where = ", ".join(f"{ip}:{port}" for ip, port, _ in reranker.published) or "nothing is published"
    return Check(title, "ok", where)


def _loopback(address: str) -> bool:
    return bool(address) and ipaddress.ip_address(address).is_loopback
