"""Faults in the container that a compose file gives to vLLM; pure."""

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
    from ragops.compose.parts import Joined

RAGFLOW_NETWORK = "docker_ragflow"
"""The network of a RAGFlow that was started from its own folder."""

NETWORK = Stack().network.name

SHM_NEEDED = 512 * MIB
"""Two rings of 160 and 240 MiB, and room for them."""

QUOTAS = (("deploy", "resources", "limits", "cpus"), ("cpus",), ("cpu_quota",))

_MOVING_TAG = re.compile(r"(latest|nightly|main|dev|edge|stable)([-_.].*)?")


def _cpu_quota(case: Case) -> Iterator[Fault]:
    service, cpus = case.service, len(case.host.cpus)
    for keys in QUOTAS:
        found = service.view.get(*keys)
        if found is None or service.gpu:
            continue
        message = (
            "vLLM starts one thread for each CPU that it sees, and a quota stops all of them in the "
            "middle of their work"
        )
        if case.quota > cpus > 0:
            message += f"; Docker refuses {case.quota:g} on a machine that has {cpus}, as this one"
        cpuset = service.text("cpuset") or case.cpuset or "0-3"
        yield Fault("warning", found.line, message, f'cpuset: "{cpuset}" in its place')


def _port_exposed(case: Case) -> Iterator[Fault]:
    for port in case.service.ports:
        if port.address is not None and not _loopback(port.address):
            where = port.address or "all addresses"
            message = (
                f"published on {where}: other machines reach it past the firewall, and rerank has no password"
            )
            yield Fault("warning", port.line, message, "publish it on 127.0.0.1; RAGFlow needs no port")
    if case.service.text("network_mode") == "host":
        found = case.service.view.get("network_mode")
        message = "network_mode: host listens on all addresses, and RAGFlow can't call it by name"
        line = found.line if found else case.service.line
        yield Fault("warning", line, message, f"networks: [{NETWORK}], and the port on 127.0.0.1")


def _port_mismatch(case: Case) -> Iterator[Fault]:
    flag = case.service.launch.get("--port")
    listens = flag.value if flag else "8000" if case.service.launch.sure else None
    for port in case.service.ports:
        if listens and port.inside and port.inside.isdigit() and port.inside != listens:
            message = f"it leads to port {port.inside} of the container, where vLLM listens on {listens}"
            yield Fault("warning", port.line, message, f"lead it to {listens}")


def _route_moves(case: Case) -> Iterator[Fault]:
    for joined in case.service.networks:
        if _moves(joined):
            message = (
                f"{joined.name} sorts before {RAGFLOW_NETWORK}: when RAGFlow joins it, its default route "
                "moves there and open connections break"
            )
            fix = f"a name that sorts after it, such as {NETWORK}: docker network create {NETWORK}"
            yield Fault("warning", joined.line, message, fix)


def _moves(joined: Joined) -> bool:
    return joined.shared and not joined.internal and joined.name is not None and joined.name < RAGFLOW_NETWORK


def _healthcheck_missing(case: Case) -> Iterator[Fault]:
    service = case.service
    found = service.view.get("healthcheck")
    off = service.text("healthcheck", "disable") == "true"
    if (found is None and not service.inherits) or off:
        message = "nothing tells when the model is loaded, or that the engine has died: vLLM takes minutes"
        line = found.line if found else service.line
        yield Fault("warning", line, message, "a healthcheck that asks /health, with start_period: 600s")


def _shm_small(case: Case) -> Iterator[Fault]:
    service = case.service
    found = service.view.get("shm_size")
    mounted = [mount for mount in service.mounts if mount.target == "/dev/shm"]  # noqa: S108 - a mount's target
    size = parse_size(service.text("shm_size")) if found else 64 * MIB
    if mounted:
        size = parse_size(mounted[0].size or "") if mounted[0].kind == "tmpfs" else None
    shared = service.text("ipc") not in {"", "private", "shareable"}
    if size is None or size >= SHM_NEEDED or service.gpu or shared or (found is None and service.inherits):
        return
    message = (
        f"vLLM's processes share memory, 400 MiB of it, and there are {size // MIB}: "
        "'Insufficient space in /dev/shm' ends the start"
    )
    yield Fault("error", found.line if found else service.line, message, "shm_size: 1gb")


def _restart_loop(case: Case) -> Iterator[Fault]:
    service = case.service
    found = service.view.get("restart") or service.view.get("deploy", "restart_policy")
    endless = service.text("restart") in {"always", "unless-stopped", "on-failure"}
    policy = service.view.get("deploy", "restart_policy")
    endless |= (
        policy is not None
        and not policy.get("max_attempts")
        and service.text("deploy", "restart_policy", "condition") in {"", "any", "on-failure"}
    )
    if found and endless:
        message = (
            "a server that can't start is started for ever, each time with full load: it lives longer "
            "than the 10 s after which Docker forgets to wait"
        )
        yield Fault("warning", found.line, message, "restart: on-failure:5")


def _image_unpinned(case: Case) -> Iterator[Fault]:
    found = case.service.view.get("image")
    image = case.service.text("image")
    if not image or found is None or case.service.view.get("build") or "@sha256:" in image:
        return
    name, _, tag = image.rpartition("/")[2].partition(":")
    if not tag or _MOVING_TAG.fullmatch(tag):
        message = f"{image} is another vLLM after the next pull or build; flags and scores change with it"
        fix = f"name a release, such as {name}:0.32.0 after docker tag, or a digest"
        yield Fault("warning", found.line, message, fix)


def _loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


RULES = (
    Rule("cpu-quota", "CPUs are limited by a quota, not a set", _cpu_quota),
    Rule("port-exposed", "other machines reach the port", _port_exposed),
    Rule("port-mismatch", "the published port leads nowhere", _port_mismatch),
    Rule("route-moves", "the network takes RAGFlow's default route", _route_moves),
    Rule("healthcheck-missing", "no health check", _healthcheck_missing),
    Rule("shm-small", "too little shared memory to start", _shm_small),
    Rule("restart-loop", "a server that can't start is started for ever", _restart_loop),
    Rule("image-unpinned", "the image's name moves", _image_unpinned),
)
"""Each with the code that users see."""
