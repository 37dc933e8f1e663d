"""Access to the reranker from outside the network: a container that is not connected must get no response."""

from __future__ import annotations

import ipaddress
import json
from importlib import resources
from typing import TYPE_CHECKING

from ragops.checks import Check, failed_check
from ragops.checks.probe import parse_output
from ragops.docker.temporary import sidecar

if TYPE_CHECKING:
    from ragops.docker.engine import Engine
    from ragops.docker.objects import ContainerState

OUTSIDE = "bridge"
"""Docker's default network, which every engine has unless it is configured otherwise."""

CLOSED = "closed to other containers"
PUBLISHED = "published on this host only"
PROVES = {
    CLOSED: "a container outside the network gets no response",
    PUBLISHED: "other machines get no access",
}
"""What each check shows."""

_CONNECT_TIMEOUT = 1.5
"""Seconds; includes a second try of the kernel. Two containers of one host need milliseconds."""
_TIMEOUT = 60.0
"""Seconds; a resolver that does not respond needs its own timeouts."""


def check(engine: Engine, reranker: ContainerState, network: str, image: str) -> list[Check]:
    """Connect to name and address from outside the network, and check the published ports.

    Args:
        engine: The Docker engine.
        reranker: The reranker's container.
        network: Name of the reranker's network.
        image: An image with Python, for a container outside it.
    """
    try:
        closed = _check_outside(engine, reranker, network, image)
    except Exception as error:  # noqa: BLE001 - reported as a failed check
        closed = failed_check(CLOSED, error)
    return [closed, _check_published(reranker)]


def _check_outside(engine: Engine, reranker: ContainerState, network: str, image: str) -> Check:
    if engine.network(OUTSIDE) is None:
        return Check(CLOSED, "skip", f"the engine has no network {OUTSIDE} to connect from")
    endpoints = sorted(reranker.endpoints, key=lambda endpoint: endpoint.network != network)
    hosts = [reranker.name, *(endpoint.address for endpoint in endpoints if endpoint.address)]
    program = (resources.files("ragops.data") / "port_probe.py").read_text()
    stdin = json.dumps({"hosts": hosts, "port": 8000, "timeout": _CONNECT_TIMEOUT})
    with sidecar(engine, OUTSIDE, image) as outsider:
        output = engine.execute(outsider, ("python3", "-c", program), stdin=stdin, timeout=_TIMEOUT)
    if reached := parse_output(output):
        remedy = (
            f"docker network inspect {OUTSIDE} shows whether the reranker is connected to it; if it is not, "
            "another engine or a firewall tool has replaced Docker's rules: restart the engine"
        )
        return Check(CLOSED, "fail", f"an unconnected container reaches {', '.join(reached)}", remedy)
    return Check(CLOSED, "ok", f"an unconnected container reaches neither {' nor '.join(hosts)}")


def _check_published(reranker: ContainerState) -> Check:
    public = [(ip or "0.0.0.0", port) for ip, port, _ in reranker.published if not _is_loopback(ip)]
    if public:
        addresses = ", ".join(f"{ip}:{port}" for ip, port in public)
        remedy = 'publish = "127.0.0.1" under [reranker]'
        return Check(PUBLISHED, "warn", f"other machines reach {addresses}", remedy)
    addresses = ", ".join(f"{ip}:{port}" for ip, port, _ in reranker.published)
    return Check(PUBLISHED, "ok", addresses or "nothing is published")


def _is_loopback(address: str) -> bool:
    return bool(address) and ipaddress.ip_address(address).is_loopback
