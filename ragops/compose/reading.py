"""The rerankers of a compose file as frozen records, and what is not checked; pure.

:func:`read_rerankers` merges what a service extends, recognizes vLLM by its program, image or options, and
reads ports, mounts, networks and the model. Values come from :mod:`ragops.compose.syntax`, with their lines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragops.compose.syntax import YamlNode, read_command, resolve, split_colons
from ragops.reranker.architectures import Architecture, by_repository_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ragops.compose.syntax import CommandLine
    from ragops.configuration import Kind
    from ragops.reranker.model import Model

OVERRIDES_VARIABLE = re.compile(r"VLLM_HF_OVERRIDES?")
"""Environment variables that are mistaken for ``--hf-overrides``; vLLM reads neither."""

_MAX_EXTENDS = 10  # longest chain of extends that is followed
_VLLM_IMAGE = re.compile(r"(^|[-_])vllm([-_]|$)")
_NO_SERVER = re.compile(
    r"router|proxy|gateway|exporter|nginx|bench|client|webui|dashboard|metrics|^(alpine|busybox|debian|ubuntu|curl)$"
)
_VLLM_OPTIONS = (
    *("--max-model-len", "--hf-overrides", "--max-num-batched-tokens", "--max-num-seqs"),
    *("--kv-cache-memory-bytes", "--gpu-memory-utilization"),
)
_VLLM_VARIABLES = re.compile(r"VLLM_(CPU_\w+|HF_OVERRIDES?|USE_V1|ATTENTION_BACKEND)")
_GPU_IMAGE = re.compile(r"/vllm-openai(:|@|$)|rocm|cuda")


@dataclass(frozen=True)
class PublishedPort:
    """An entry of ``ports``; a part with an undefined variable is None."""

    address: str | None  # on the host; empty for all addresses
    published: str | None  # port on the host; empty if Docker chooses it
    target: str | None  # port in the container
    line: int


@dataclass(frozen=True)
class VolumeMount:
    """An entry of ``volumes`` or ``tmpfs``; a part with an undefined variable is None."""

    source: str | None
    target: str | None
    kind: str  # bind, volume or tmpfs
    node: YamlNode
    size: str | None = None

    @property
    def line(self) -> int:
        """Line of the entry."""
        return self.node.line


@dataclass(frozen=True)
class NetworkConnection:
    """A network of a service."""

    name: str | None  # on the Docker engine; None if it has an undefined variable
    line: int
    shared: bool  # containers outside the compose project can use it: it is external, or has a fixed name
    internal: bool
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class ServedModel:
    """The model that a service serves."""

    path: str  # as vLLM gets it; empty if the file has none
    name: str  # last part of the path, or of the mounted folder if that shows the kind of model
    kind: Kind | None
    line: int
    mount: VolumeMount | None  # the volume that has the path
    model: Model | None  # None if its folder is not on this machine

    @property
    def missing(self) -> bool:
        """Whether the path is a folder in the container that no volume has; false for a name on a hub."""
        return self.path.startswith("/") and self.mount is None


@dataclass(frozen=True)
class Service:
    """A reranker that is served with vLLM."""

    name: str
    node: YamlNode
    command: CommandLine
    environment: Mapping[str, YamlNode]
    ports: tuple[PublishedPort, ...]
    mounts: tuple[VolumeMount, ...]
    networks: tuple[NetworkConnection, ...]
    served: ServedModel
    gpu: bool
    """It requests a GPU, or its image is for GPUs."""
    gpu_requested: bool
    inherits: bool
    """It extends a service of another file, which may set what is missing here."""

    @property
    def line(self) -> int:
        """Line of the service's name."""
        return self.node.line

    @property
    def command_line(self) -> int:
        """Line where a missing option belongs."""
        return (self.node.get("command") or self.node.get("entrypoint") or self.node).line

    @property
    def listening_port(self) -> str | None:
        """Port in the container that vLLM listens on; None if it is not known."""
        option = self.command.get("--port")
        if option:
            return option.value
        return "8000" if self.command.complete else None

    @property
    def served_name(self) -> tuple[str, int]:
        """Name under which vLLM serves the model, and its line; an empty name if it is not known."""
        if option := self.command.get("--served-model-name"):
            return option.value or "", option.line
        return (self.served.path if self.command.complete else ""), self.served.line

    def text(self, *keys: str) -> str:
        """A scalar below the service; empty if it is missing or has an undefined variable."""
        return self.node.scalar(*keys) or ""


def read_rerankers(
    root: YamlNode, project: str, find_model: Callable[[str], Model | None]
) -> tuple[tuple[Service, ...], tuple[str, ...]]:
    """The rerankers of a compose project, and notes on what is not checked.

    ``find_model`` returns the model in a folder of this machine, or None if there is none.
    """
    rerankers: list[Service] = []
    notes: list[str] = []
    if include := root.get("include"):
        notes.append(f"line {include.line}: include: check each included file as well")
    services = root.get("services")
    for name, node in services.mapping.items() if services else ():
        if not node.mapping:
            continue
        service = _read_service(name, _extended(node, root), root, project, find_model)
        if not _is_vllm(service):
            if service.inherits and "image" not in service.node.mapping:
                notes.append(f"line {service.line}: {name} extends a service of another file: not checked")
        elif _is_reranker(service):
            rerankers.append(service)
            notes += [f"line {service.line}: {name} {note}" for note in _unchecked(service)]
        else:
            notes.append(f"line {service.line}: {name} runs vLLM, but not recognizably as a reranker")
    if not rerankers:
        notes.append("no service serves a reranker with vLLM")
    return tuple(rerankers), tuple(notes)


def _extended(node: YamlNode, root: YamlNode, depth: int = 0) -> YamlNode:
    """The service merged with what it extends; ``extends`` stays if that is in another file."""
    extends = node.get("extends")
    if extends is None or extends.get("file") or depth > _MAX_EXTENDS:
        return node
    base = root.get("services", extends.text or extends.scalar("service") or "")
    if base is None or not base.mapping:
        return node
    merged = dict(_extended(base, root, depth + 1).mapping)
    for key, value in node.mapping.items():
        if key != "extends":
            merged[key] = _merged(key, merged[key], value) if key in merged else value
    return YamlNode(merged, node.line, node.source)


def _merged(key: str, base: YamlNode, own: YamlNode) -> YamlNode:
    """Maps are united and lists concatenated, but commands are replaced."""
    if key == "environment":
        base, own = _as_map(base), _as_map(own)
    if base.mapping and own.mapping:
        return YamlNode({**base.mapping, **own.mapping}, own.line, own.source)
    if base.elements and own.elements and key not in {"command", "entrypoint"}:
        return YamlNode([*base.elements, *own.elements], own.line, own.source)
    return own


def _as_map(variables: YamlNode) -> YamlNode:
    """Variables as a map, also where they are a list of ``NAME=VALUE``; null is a value of the host."""
    if not variables.elements:
        return variables
    rows = [(item.written.partition("="), item) for item in variables.elements]
    nodes = {
        name: YamlNode(value if equals else None, item.line, item.source)
        for (name, equals, value), item in rows
        if name
    }
    return YamlNode(nodes, variables.line, variables.source)


def _read_service(
    name: str, node: YamlNode, root: YamlNode, project: str, find_model: Callable[[str], Model | None]
) -> Service:
    command = read_command(node.get("entrypoint"), node.get("command"))
    environment = node.get("environment")
    mounts = tuple(_read_mounts(node))
    return Service(
        name=name,
        node=node,
        command=command,
        environment=_as_map(environment).mapping if environment else {},
        ports=tuple(_read_ports(node)),
        mounts=mounts,
        networks=tuple(_read_networks(node, root, project)),
        served=_read_model(node, command, mounts, find_model),
        gpu=_requests_gpu(node) or bool(_GPU_IMAGE.search(node.scalar("image") or "")),
        gpu_requested=_requests_gpu(node),
        inherits=node.get("extends") is not None,
    )


def _read_mounts(service: YamlNode) -> Iterator[VolumeMount]:
    volumes, tmpfs = service.get("volumes"), service.get("tmpfs")
    for item in volumes.elements if volumes else ():
        if item.mapping:
            kind, size = item.scalar("type") or "volume", item.scalar("tmpfs", "size")
            yield VolumeMount(item.scalar("source"), item.scalar("target"), kind, item, size)
            continue
        source, *rest = [resolve(part, item.source.variables) for part in split_colons(item.written)]
        named = source is not None and not source.startswith((".", "/", "~"))
        target = rest[0] if rest else source
        yield VolumeMount(source if rest else "", target, "volume" if named or not rest else "bind", item)
    for item in (tmpfs.elements or [tmpfs]) if tmpfs else ():
        target, _, options = (item.text or "").partition(":")
        limit = re.search(r"size=(\w+)", options)
        yield VolumeMount("", target, "tmpfs", item, limit[1] if limit else None)


def _read_ports(service: YamlNode) -> Iterator[PublishedPort]:
    """Ports in the short form ``[[address:]published:]target[/protocol]`` or in the long form."""
    node = service.get("ports")
    for item in node.elements if node else ():
        if item.mapping:
            address = item.scalar("host_ip") if item.get("host_ip") else ""
            published = item.scalar("published") if item.get("published") else ""
            yield PublishedPort(address, published, item.scalar("target"), item.line)
            continue
        parts = [resolve(part, item.source.variables) for part in split_colons(item.written)]
        known = None not in parts[:-2]
        address = ":".join(part or "" for part in parts[:-2]).strip("[]") if known else None
        target = parts[-1].partition("/")[0] if parts[-1] is not None else None
        yield PublishedPort(address, parts[-2] if len(parts) > 1 else "", target, item.line)


def _read_networks(service: YamlNode, root: YamlNode, project: str) -> Iterator[NetworkConnection]:
    """Networks of a service; compose puts ``project`` before the key of a network without a name."""
    node = service.get("networks")
    if node is None:
        return
    for key, item in [(item.text or "", item) for item in node.elements] or node.mapping.items():
        listed = item.get("aliases")
        aliases = tuple(alias.text or alias.written for alias in listed.elements) if listed else ()
        network = root.get("networks", key)
        if network is None:
            yield NetworkConnection(f"{project}_{key}", item.line, False, False, aliases)
            continue
        external = network.flag("external")
        named = network.get("name") is not None
        name = network.scalar("name") if named else key if external else f"{project}_{key}"
        line = network.line if external else item.line
        internal = network.flag("internal")
        yield NetworkConnection(name, line, external or named, internal, aliases)


def _read_model(
    node: YamlNode,
    command: CommandLine,
    mounts: tuple[VolumeMount, ...],
    find_model: Callable[[str], Model | None],
) -> ServedModel:
    option = command.get("--model") or command.get("")
    path = (option.value if option else "") or ""
    mount = _mount_of(path, mounts)
    folder = ""
    if mount and mount.source and mount.target:
        folder = mount.source.rstrip("/") + path[len(mount.target.rstrip("/")) :]
    model = find_model(folder) if folder else None
    path_name, folder_name = (text.rstrip("/").rsplit("/", 1)[-1] for text in (path, folder))
    kind = _kind(path) or _kind(folder) or _kind(command.value("--served-model-name"))
    name = folder_name if _kind(folder_name) and not _kind(path_name) else path_name
    line = option.line if option else node.line
    return ServedModel(path, name, model.kind if model else kind, line, mount, model)


def _mount_of(path: str, mounts: tuple[VolumeMount, ...]) -> VolumeMount | None:
    """The first volume that has the path, or whose undefined target may have it."""
    for mount in mounts if path.startswith("/") else ():
        if mount.target is None or f"{path}/".startswith(f"{mount.target.rstrip('/')}/"):
            return mount
    return None


def _kind(name: str) -> Kind | None:
    """Kind of a model by its name; None if the name does not show it."""
    row = by_repository_name(name)
    return row.kind if isinstance(row, Architecture) else None


def _requests_gpu(service: YamlNode) -> bool:
    listed = service.get("devices")
    devices = [item.text or item.scalar("source") or "" for item in listed.elements] if listed else []
    return bool(
        service.get("gpus")
        or service.get("deploy", "resources", "reservations", "devices")
        or service.scalar("runtime") == "nvidia"
        or any(device.startswith(("/dev/kfd", "/dev/dri")) for device in devices)
    )


def _is_vllm(service: Service) -> bool:
    """Whether it is vLLM's server, by its program, its image, or options that only vLLM has."""
    if service.command.entry in {"serve", "module"}:
        return True
    image = service.text("image").partition("@")[0].rsplit("/", 1)[-1].partition(":")[0].lower()
    if service.command.entry == "other" or _NO_SERVER.search(image):
        return False
    return bool(
        _VLLM_IMAGE.search(image)
        or any(service.command.get(name) for name in _VLLM_OPTIONS)
        or any(map(_VLLM_VARIABLES.fullmatch, service.environment))
    )


def _is_reranker(service: Service) -> bool:
    command, served = service.command, service.served
    names = (service.name, service.text("container_name"), served.path, served.name)
    overrides = [command.value("--hf-overrides")]
    for name, node in service.environment.items():
        if OVERRIDES_VARIABLE.fullmatch(name):
            overrides.append(node.text or "")
    return (
        any("rerank" in name.lower() for name in (*names, command.value("--served-model-name")))
        or served.kind not in {None, "embedding"}
        or command.value("--task") in {"score", "rerank"}
        or any("ForSequenceClassification" in text for text in overrides)
    )


def _unchecked(service: Service) -> Iterator[str]:
    if service.inherits:
        yield "extends a service of another file: not checked"
    if service.node.get("env_file"):
        yield "reads variables from an env_file: not checked"
    if not service.command.complete:
        yield "gets options from a script, a config file or a variable: missing options are not reported"
    if service.gpu:
        yield "uses a GPU: rules for CPUs do not apply"
    if service.served.kind is None:
        yield "serves a model of unknown kind: overrides and template are not checked"
    if service.served.kind == "embedding":
        yield "serves an embedding model: its scores are cosine similarities"
