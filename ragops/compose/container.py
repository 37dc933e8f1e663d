"""Rules about the container that runs vLLM; pure."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from ragops.compose.advice import Fault, Rule, parse_size
from ragops.sizing import MIB
from ragops.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ragops.compose.advice import Case
    from ragops.compose.parts import NetworkConnection

RAGFLOW_NETWORK = "docker_ragflow"
"""The network of a RAGFlow that was started from its own folder."""

SHM_NEEDED = 512 * MIB
"""Two ring buffers of 160 and 240 MiB, and a reserve."""

_NETWORK = Stack().network.name
_QUOTAS = (("deploy", "resources", "limits", "cpus"), ("cpus",), ("cpu_quota",))
_MOVING_TAG = re.compile(r"(latest|nightly|main|dev|edge|stable)([-_.].*)?")


def _obsolete_version(case: Case) -> Iterator[Fault]:
    if case.version_line:
        message = "compose ignores version: and prints a warning each time"
        yield Fault("warning", case.version_line, message, "remove the line")


def _cpu_quota(case: Case) -> Iterator[Fault]:
    service = case.service
    for keys in _QUOTAS:
        node = service.node.get(*keys)
        if node is None or service.gpu:
            continue
        message = "vLLM starts one thread per visible CPU, and a quota pauses all of them while they compute"
        cpuset = service.text("cpuset") or case.cpuset or "0-3"
        yield Fault("warning", node.line, message, f'replace it with cpuset: "{cpuset}"')


def _port_exposed(case: Case) -> Iterator[Fault]:
    for port in case.service.ports:
        if port.address is not None and not is_loopback(port.address):
            where = port.address or "all addresses"
            message = (
                f"published on {where}: other machines reach it in spite of a firewall, without a password"
            )
            yield Fault("warning", port.line, message, "publish it on 127.0.0.1; RAGFlow needs no port")
    if case.service.text("network_mode") == "host":
        node = case.service.node.get("network_mode")
        message = "with network_mode: host it listens on all addresses, and RAGFlow can't use its name"
        line = node.line if node else case.service.line
        yield Fault("warning", line, message, f"networks: [{_NETWORK}], and the port on 127.0.0.1")


def _port_mismatch(case: Case) -> Iterator[Fault]:
    listening = case.service.listening_port
    for port in case.service.ports:
        if listening and port.target and port.target.isdigit() and port.target != listening:
            message = f"the container port is {port.target}, but vLLM listens on {listening}"
            yield Fault("warning", port.line, message, f"use the container port {listening}")


def _route_moves(case: Case) -> Iterator[Fault]:
    for network in case.service.networks:
        if moves_route(network):
            message = (
                f"{network.name} sorts before {RAGFLOW_NETWORK}, so RAGFlow's default route moves to it when "
                "RAGFlow is connected: open connections break"
            )
            fix = f"a name that sorts after it, such as {_NETWORK}: docker network create {_NETWORK}"
            yield Fault("warning", network.line, message, fix)


def _healthcheck_missing(case: Case) -> Iterator[Fault]:
    service = case.service
    node = service.node.get("healthcheck")
    disabled = service.text("healthcheck", "disable") == "true"
    if (node is None and not service.inherits) or disabled:
        message = "without a healthcheck nothing shows when the model is loaded or that vLLM has failed"
        fix = "a healthcheck that requests /health, with start_period: 600s"
        yield Fault("warning", node.line if node else service.line, message, fix)


def _shm_small(case: Case) -> Iterator[Fault]:
    service = case.service
    node = service.node.get("shm_size")
    size = parse_size(service.text("shm_size")) if node else 64 * MIB
    for mount in service.mounts:
        if mount.target == "/dev/shm":  # noqa: S108 - a mount's target
            size = parse_size(mount.size or "") if mount.kind == "tmpfs" else None
            break
    shared = service.text("ipc") not in {"", "private", "shareable"}
    inherited = node is None and service.inherits
    if size is None or size >= SHM_NEEDED or service.gpu or shared or inherited:
        return
    message = f"vLLM needs 400 MiB in /dev/shm and does not start with {size // MIB} MiB"
    yield Fault("error", node.line if node else service.line, message, "shm_size: 1gb")


def _restart_loop(case: Case) -> Iterator[Fault]:
    service = case.service
    policy = service.node.get("deploy", "restart_policy")
    node = service.node.get("restart") or policy
    endless = service.text("restart") in {"always", "unless-stopped", "on-failure"}
    if policy and not policy.get("max_attempts"):
        endless |= service.text("deploy", "restart_policy", "condition") in {"", "any", "on-failure"}
    if node and endless:
        message = "a server that can't start is restarted without end, each time with full load"
        yield Fault("warning", node.line, message, "restart: on-failure:5")


def _image_unpinned(case: Case) -> Iterator[Fault]:
    node, image = case.service.node.get("image"), case.service.text("image")
    if not image or node is None or case.service.node.get("build") or "@sha256:" in image:
        return
    name, _, tag = image.rpartition("/")[2].partition(":")
    if not tag or _MOVING_TAG.fullmatch(tag):
        message = f"{image} may be another vLLM after the next pull or build, with other options and scores"
        fix = f"name a release, such as {name}:0.32.0 after docker tag, or a digest"
        yield Fault("warning", node.line, message, fix)


def is_loopback(address: str) -> bool:
    """Whether an address of ``ports`` is reached from this machine only."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def moves_route(network: NetworkConnection) -> bool:
    """Whether RAGFlow's default route moves to the network when RAGFlow is connected to it."""
    shared = network.shared and not network.internal
    return shared and network.name is not None and network.name < RAGFLOW_NETWORK


CONTAINER_RULES = (
    Rule("compose-version", "an obsolete line, which compose ignores with a warning", _obsolete_version),
    Rule("cpu-quota", "a CPU quota instead of a CPU set", _cpu_quota),
    Rule("port-exposed", "a port that other machines reach", _port_exposed),
    Rule("port-mismatch", "a published port without a server", _port_mismatch),
    Rule("route-moves", "a network that takes RAGFlow's default route", _route_moves),
    Rule("healthcheck-missing", "no healthcheck", _healthcheck_missing),
    Rule("shm-small", "too little shared memory to start", _shm_small),
    Rule("restart-loop", "endless restarts of a server that can't start", _restart_loop),
    Rule("image-unpinned", "an image whose name may mean another version later", _image_unpinned),
)
