"""Parts of a compose service as frozen records: ports, mounts, networks, variables; pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragops.compose.words import split_colons
from ragops.compose.yaml import YamlNode, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class PublishedPort:
    """An entry of ``ports``; a part with an undefined variable is None."""

    address: str | None
    """Address on the host; empty for all addresses."""
    published: str | None
    """Port on the host; empty if Docker chooses it."""
    target: str | None
    """Port in the container."""
    line: int


@dataclass(frozen=True)
class VolumeMount:
    """An entry of ``volumes`` or ``tmpfs``; a part with an undefined variable is None."""

    source: str | None
    target: str | None
    kind: str
    """``bind``, ``volume`` or ``tmpfs``."""
    size: str | None = None


@dataclass(frozen=True)
class NetworkConnection:
    """A network of a service."""

    name: str | None
    """Name on the Docker engine; None if it has an undefined variable."""
    line: int
    shared: bool
    """Whether containers outside the compose project can use it: it is external, or has a fixed name."""
    internal: bool
    aliases: tuple[str, ...] = ()


def read_environment(service: YamlNode) -> dict[str, YamlNode]:
    """Variables of a service, from a map or a list."""
    node = service.get("environment")
    if node is None:
        return {}
    if not isinstance(node.raw, list):
        return dict(node.items())
    variables = {}
    for item in node.elements():
        name, _, value = (item.written or "").partition("=")
        if name:
            variables[name] = YamlNode(value, item.line, item.source)
    return variables


def read_mounts(service: YamlNode) -> Iterator[VolumeMount]:
    """Volumes and tmpfs mounts of a service."""
    volumes, tmpfs = service.get("volumes"), service.get("tmpfs")
    for item in volumes.elements() if volumes else ():
        if isinstance(item.raw, dict):
            kind, size = item.scalar("type") or "volume", item.scalar("tmpfs", "size")
            yield VolumeMount(item.scalar("source"), item.scalar("target"), kind, size)
        elif item.text is not None:
            source, colon, rest = item.text.partition(":")
            yield VolumeMount(source if colon else "", rest.partition(":")[0] if colon else source, "bind")
    for item in (list(tmpfs.elements()) or [tmpfs]) if tmpfs else ():
        target, _, options = (item.text or "").partition(":")
        limit = re.search(r"size=(\w+)", options)
        yield VolumeMount("", target, "tmpfs", limit[1] if limit else None)


def read_ports(service: YamlNode) -> Iterator[PublishedPort]:
    """Published ports of a service, short form ``[[address:]published:]target[/protocol]`` or long."""
    node = service.get("ports")
    for item in node.elements() if node else ():
        if isinstance(item.raw, dict):
            address = item.scalar("host_ip") if item.get("host_ip") else ""
            published = item.scalar("published") if item.get("published") else ""
            yield PublishedPort(address, published, item.scalar("target"), item.line)
            continue
        parts = [resolve(part, item.source.variables) for part in split_colons(item.written or "")]
        known = None not in parts[:-2]
        address = ":".join(part or "" for part in parts[:-2]).strip("[]") if known else None
        target = parts[-1].partition("/")[0] if parts[-1] is not None else None
        yield PublishedPort(address, parts[-2] if len(parts) > 1 else "", target, item.line)


def read_networks(service: YamlNode, root: YamlNode, project: str) -> Iterator[NetworkConnection]:
    """Networks of a service; compose puts ``project`` before the key of a network without a name."""
    node = service.get("networks")
    if node is None:
        return
    for key, item in [(item.text or "", item) for item in node.elements()] or list(node.items()):
        listed = item.get("aliases")
        aliases = tuple(alias.text or alias.written or "" for alias in listed.elements()) if listed else ()
        network = root.get("networks", key)
        if network is None:
            yield NetworkConnection(f"{project}_{key}", item.line, False, False, aliases)
            continue
        external = network.scalar("external") == "true"
        named = network.get("name") is not None
        name = network.scalar("name") if named else key if external else f"{project}_{key}"
        line = network.line if external else item.line
        internal = network.scalar("internal") == "true"
        yield NetworkConnection(name, line, external or named, internal, aliases)


def uses_gpu(service: YamlNode) -> bool:
    """Whether a service computes on a GPU."""
    devices = str(service.raw.get("devices") or "")
    return bool(
        service.get("gpus")
        or service.get("deploy", "resources", "reservations", "devices")
        or service.scalar("runtime") == "nvidia"
        or re.search(r"/vllm-openai(:|@|$)|rocm|cuda", service.scalar("image") or "")
        or "/dev/kfd" in devices
        or "/dev/dri" in devices
    )
