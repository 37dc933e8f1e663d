"""Compose files and extended services, merged by the rules of Docker Compose; pure.

The rules were read in compose-go (``override/merge.go`` and ``uncity.go``): maps are united, scalars and
commands replaced, lists concatenated, and of entries that are the same thing the last one stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

from ragops.compose.syntax import YamlNode, resolve, split_colons
from ragops.errors import ComposeError

_MAX_EXTENDS = 10  # longest chain of extends that is followed
# Keys of a service; * is any name.
_REPLACED = {"command", "entrypoint", "healthcheck.test", "ulimits.*"}
_NAMED = {"environment", "labels", "annotations", "sysctls", "build.args", "build.labels", "deploy.labels"}
_AS_MAP = {"networks", "depends_on", "models"} | _NAMED
_BY_TARGET = {"volumes", "devices", "configs", "secrets"}
_BY_NAME = {"cap_add", "cap_drop", "dns", "dns_opt", "dns_search", "env_file", "expose", "extra_hosts"}
_BY_NAME |= {"links", "profiles", "tmpfs", "networks.*.aliases"}


@dataclass(frozen=True)
class PublishedPort:
    """An entry of ``ports``; a part with an undefined variable is None."""

    address: str | None  # on the host; empty for all addresses
    published: str | None  # port on the host; empty if Docker chooses it
    target: str | None  # port in the container
    line: int


def merge_files(roots: Sequence[YamlNode]) -> YamlNode:
    """The project of several files, each merged into those before it; an error where their types differ."""
    extended = []
    for root in roots:
        services = root.at("services")
        values = {name: _extended(name, services) for name in services.mapping}
        extended.append(_like(root, root.mapping | {"services": _like(services, values)}) if values else root)
    return reduce(_merge, extended)


def as_map(node: YamlNode) -> YamlNode:
    """Values as a map, also where they are a list of ``NAME=VALUE``; null is a name without a value."""
    if not node.elements:
        return node
    rows = [(item.written.partition("="), item) for item in node.elements]
    values = {
        name: YamlNode(value if equals else None, item.line, item.source)
        for (name, equals, value), item in rows
        if name
    }
    return YamlNode(values, node.line, node.source)


def read_port(item: YamlNode) -> PublishedPort:
    """A port in the short form ``[[address:]published:]target[/protocol]`` or in the long form."""
    if item.mapping:
        address = item.scalar("host_ip") if item.get("host_ip") else ""
        published = item.scalar("published") if item.get("published") else ""
        return PublishedPort(address, published, item.scalar("target"), item.line)
    parts = [resolve(part, item.source.variables) for part in split_colons(item.written)]
    known = None not in parts[:-2]
    address = ":".join(part or "" for part in parts[:-2]).strip("[]") if known else None
    target = parts[-1].partition("/")[0] if parts[-1] is not None else None
    return PublishedPort(address, parts[-2] if len(parts) > 1 else "", target, item.line)


def _extended(name: str, services: YamlNode, depth: int = 0) -> YamlNode:
    """The service merged with what it extends; ``extends`` stays if that is in another file."""
    node = services.mapping[name]
    extends = node.get("extends")
    if extends is None or extends.get("file") or depth > _MAX_EXTENDS:
        return node
    base = extends.text or extends.scalar("service") or ""
    if not services.get(base):
        return node
    own = _like(node, {key: value for key, value in node.mapping.items() if key != "extends"})
    return _like(node, _merge(_extended(base, services, depth + 1), own, ("services", name)).mapping)


def _merge(base: YamlNode, own: YamlNode, path: tuple[str, ...] = ()) -> YamlNode:
    """The value of a file merged into that of the files before it; ``path`` has the keys of both."""
    rule = _rule(path)
    if rule in _REPLACED or own.tag == "!override":
        return own
    if rule in _AS_MAP:
        base, own = as_map(base), as_map(own)
    if own.value is None or base.value is None:
        return base if own.value is None else own
    if rule == "logging" and len({base.scalar("driver"), own.scalar("driver")} - {None}) > 1:
        return own
    base, own = _in_one_form(rule, base), _in_one_form(rule, own)
    if isinstance(base.value, dict) and isinstance(own.value, dict):
        return _merge_maps(base, own, path)
    if isinstance(base.value, list) and isinstance(own.value, list):
        both = {_identity(rule, item) or f"#{at}": item for at, item in enumerate(base.value + own.value)}
        return _like(own, list(both.values()))
    if isinstance(base.value, str) and (isinstance(own.value, str) or "".join(path[:1]).startswith("x-")):
        return own
    place = f"{own.source.name}:{own.line - own.source.first + 1}"
    raise ComposeError(
        f"{place}: {'.'.join(path)} can't be merged with its value in {base.source.name}",
        evidence="Compose refuses a text for a list or a map, or a list for a map",
        hint="write both in the same form, or replace the earlier value: !override",
    )


def _in_one_form(rule: str, node: YamlNode) -> YamlNode:
    """A value in its long form where Compose merges both forms."""
    if rule == "build" and not node.mapping:  # a text is its context
        return _like(node, {"context": node})
    if rule == "gpus" and not node.elements:  # a text is their number
        return _like(node, [_like(node, {"count": node})])
    return node if rule not in _BY_NAME or node.elements else _like(node, [node])


def _merge_maps(base: YamlNode, own: YamlNode, path: tuple[str, ...]) -> YamlNode:
    merged = dict(base.mapping)
    for key, value in own.mapping.items():
        if value.tag == "!reset":
            merged.pop(key, None)
        elif key in merged and _rule(path) not in _NAMED:
            merged[key] = _merge(merged[key], value, (*path, key))
        else:
            merged[key] = value
    return _like(base, merged)


def _like(node: YamlNode, value: dict[str, YamlNode] | list[YamlNode]) -> YamlNode:
    """A map or a list in the place of a node."""
    return YamlNode(value, node.line, node.source)


def _rule(path: tuple[str, ...]) -> str:
    """The keys of a value below its service, network or volume, as the rules name them."""
    if path[:1] == ("services",):
        keys = list(path[2:])
        if len(keys) > 1 and keys[0] in {"networks", "ulimits"}:
            keys[1] = "*"
        return ".".join(keys)
    return "labels" if path[2:] == ("labels",) else ""


def _identity(rule: str, item: YamlNode) -> str:
    """What two entries of a list have in common if only the last of them counts; empty for any other list."""
    if rule == "ports":
        port = read_port(item)
        protocol = item.scalar("protocol") if item.mapping else item.written.partition("/")[2]
        return f"{port.address or '0.0.0.0'}:{port.published}:{port.target}/{protocol or 'tcp'}"
    if rule in _BY_TARGET:
        parts = split_colons(item.text or item.written)
        return (item.scalar("target") or item.scalar("source") or "") if item.mapping else parts[:2][-1]
    if rule in _BY_NAME:
        return item.scalar("path") or (item.text or item.written).partition("=")[0]
    return ""
