"""Parts of a compose service as frozen records: ports, volumes, networks, variables; pure.

Each of them can be written in two or three ways; here they become one. ``read.py`` puts
a service together from them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragops.compose.words import split_colons
from ragops.compose.yaml import View, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Port:
    """A published port. ``address`` is empty for all addresses, None when it isn't known."""

    address: str | None
    inside: str | None
    line: int
    index: int


@dataclass(frozen=True)
class Mount:
    """A volume entry; parts that have unknown variables are None."""

    source: str | None
    target: str | None
    kind: str
    size: str | None = None


@dataclass(frozen=True)
class Joined:
    """A network that a service is in; ``shared`` when others may join it by this name."""

    key: str
    name: str | None
    line: int
    shared: bool
    internal: bool


def environment(view: View) -> dict[str, View]:
    """Variables of a service, from a map or a list."""
    found = view.get("environment")
    if found is None:
        return {}
    if isinstance(found.raw, list):
        pairs = ((item, (item.written or "").partition("=")) for item in found.each())
        return {name: View(value, item.line, item.source) for item, (name, _, value) in pairs if name}
    return dict(found.items())


def scalar(view: View | None) -> str | None:
    """The text of a view that may be missing."""
    return view.text if view else None


def mounts(view: View) -> Iterator[Mount]:
    """Volumes of a service, and its file systems in memory."""
    found = view.get("volumes")
    for item in found.each() if found else ():
        if isinstance(item.raw, dict):
            size = scalar(item.get("tmpfs", "size"))
            kind = scalar(item.get("type")) or "volume"
            yield Mount(scalar(item.get("source")), scalar(item.get("target")), kind, size)
        elif item.text is not None:
            parts = item.text.split(":")
            yield Mount(parts[0] if len(parts) > 1 else "", parts[min(1, len(parts) - 1)], "bind")
    for target, size in _tmpfs(view):
        yield Mount("", target, "tmpfs", size)


def _tmpfs(view: View) -> Iterator[tuple[str, str | None]]:
    found = view.get("tmpfs")
    for item in (list(found.each()) or [found]) if found else ():
        target, _, options = (item.text or "").partition(":")
        size = re.search(r"size=(\w+)", options)
        yield target, size[1] if size else None


def ports(view: View) -> Iterator[Port]:
    """Published ports of a service."""
    found = view.get("ports")
    for index, item in enumerate(found.each() if found else ()):
        if isinstance(item.raw, dict):
            host = item.get("host_ip")
            yield Port(host.text if host else "", scalar(item.get("target")), item.line, index)
        else:
            yield _short_port(item, index)


def _short_port(item: View, index: int) -> Port:
    """``[[address:]host:]inside[/protocol]``."""
    parts = [resolve(part, item.source.values) for part in split_colons(item.written or "")]
    address = ":".join(part or "" for part in parts[:-2]).strip("[]")
    known = all(part is not None for part in parts[:-2])
    inside = parts[-1].partition("/")[0] if parts[-1] is not None else None
    return Port(address if known else None, inside, item.line, index)


def networks(view: View, root: View, project: str) -> Iterator[Joined]:
    """Networks of a service; ``project`` begins the names of those that have none."""
    found = view.get("networks")
    if found is None:
        return
    listed = [(item.text or "", item) for item in found.each()] or list(found.items())
    for key, place in listed:
        declared = root.get("networks", key)
        external = _external(declared)
        name = scalar(declared.get("name")) if declared and declared.get("name") else None
        legacy = declared.get("external", "name") if declared else None
        known = name or scalar(legacy) or (key if external else f"{project}_{key}")
        internal = scalar(declared.get("internal")) == "true" if declared else False
        line = declared.line if declared and external else place.line
        yield Joined(key, None if _unknown(declared) else known, line, external or name is not None, internal)


def _external(declared: View | None) -> bool:
    found = declared.get("external") if declared else None
    return found is not None and (isinstance(found.raw, dict) or found.text == "true")


def _unknown(declared: View | None) -> bool:
    """Whether the network's name is a variable that isn't known."""
    named = declared.get("name") if declared else None
    return named is not None and named.text is None


def gpu(view: View) -> bool:
    """Whether a service computes on a GPU."""
    image = scalar(view.get("image")) or ""
    return bool(
        view.get("gpus")
        or view.get("deploy", "resources", "reservations", "devices")
        or scalar(view.get("runtime")) == "nvidia"
        or re.search(r"/vllm-openai(:|@|$)|rocm|cuda", image)
        or "/dev/kfd" in str(view.raw.get("devices") or "")
        or "/dev/dri" in str(view.raw.get("devices") or "")
    )
