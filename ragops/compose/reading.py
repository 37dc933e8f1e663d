"""The rerankers of a compose file as frozen records, and what is not checked; pure.

:func:`read_rerankers` recognizes vLLM by its program, image or options, and reads ports, mounts, networks
and the model. Values come from :mod:`ragops.compose.syntax`, with their lines.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from ragops.compose.syntax import (
    CommandLine,
    PublishedPort,
    YamlNode,
    as_map,
    read_command,
    read_port,
    resolve,
    split_colons,
)
from ragops.configuration import Kind
from ragops.reranker.architectures import Architecture, by_repository_name
from ragops.reranker.model import Model

OVERRIDES_VARIABLE = re.compile(r"VLLM_HF_OVERRIDES?")
"""Environment variables that are mistaken for ``--hf-overrides``; vLLM reads neither."""

_VLLM_IMAGE = re.compile(r"(^|[-_])vllm([-_]|$)")
_NO_SERVER = re.compile(
    r"router|proxy|gateway|exporter|nginx|bench|client|webui|dashboard|metrics|^(alpine|busybox|debian|ubuntu|curl)$"
)
_VLLM_OPTIONS = (
    *("--max-model-len", "--hf-overrides", "--max-num-batched-tokens", "--max-num-seqs"),
    *("--kv-cache-memory-bytes", "--gpu-memory-utilization"),
)
_VLLM_VARIABLES = re.compile(r"VLLM_(CPU_\w+|HF_OVERRIDES?|USE_V1|ATTENTION_BACKEND)")
_NEWEST = (1 << 10,)
_OFFICIAL = re.compile(r"(.*/)?(vllm-openai(-cpu|-rocm|-xpu)?|vllm-(arm64-)?cpu-release-repo)")
_CPU_BUILD = re.compile(r"(.*/)?vllm-cpu")
_RELEASE = re.compile(r"v?(\d{1,9})\.(\d{1,9})\.(\d{1,9})(?!\d)")
_MOVING = re.compile(r"(latest|nightly|main|dev|edge|stable)?([-_.](?![0-9a-f]{40}).*)?")
_PYTHON_CLIENT = re.compile(r"infiniflow/ragflow(?!:v[1-9])")
_GPU_IMAGE = re.compile(r"/vllm-openai(:|@|$)|rocm|cuda|xpu|ascend|gaudi|neuron")


@dataclass(frozen=True)
class Image:
    """What the name of an image shows."""

    name: str
    """Without tag and digest."""
    official: bool
    """Whether it is one of the vLLM project, whose entry point starts the server."""
    moving: bool
    """Whether the tag may name another image later."""
    release: tuple[int, ...] | None
    """vLLM's release, greater than any for a moving tag; None if it does not show one."""
    architecture: str
    """``x86_64`` or ``arm64``; empty if it does not show one."""


@dataclass(frozen=True)
class Project:
    """A compose project: its merged files, and how the files are read that they name."""

    root: YamlNode
    name: str
    find_model: Callable[[str], Model | None]
    """The model in a folder of this machine, or None if there is none."""
    read_variables: Callable[[str], Mapping[str, str] | None]
    """The variables of an ``env_file``, or None if it is missing."""
    override: bool

    @cached_property
    def clients(self) -> tuple[Mapping[str, YamlNode], ...]:
        """Variables of RAGFlow's services, as far as they send requests by Python."""
        services = self.root.at("services").mapping.values()
        servers = [node for node in services if _PYTHON_CLIENT.search(node.scalar("image") or "")]
        return tuple(_read_environment(node, self)[0] for node in servers)


@dataclass(frozen=True)
class VolumeMount:
    """An entry of ``volumes`` or ``tmpfs``; a part with an undefined variable is None."""

    source: str | None
    target: str | None
    kind: str  # bind, volume or tmpfs
    node: YamlNode
    size: str | None = None

    def on_host(self, path: str) -> str | None:
        """The path on the host of a path below the target; None if it is not known."""
        if not self.source or not self.target:
            return None
        return self.source.rstrip("/") + path[len(self.target.rstrip("/")) :]


@dataclass(frozen=True)
class NetworkConnection:
    """A network of a service."""

    key: str  # in the file
    name: str | None  # on the Docker engine; None if it has an undefined variable
    node: YamlNode  # the entry of the service
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


@dataclass(frozen=True)
class Service:
    """A reranker that is served with vLLM."""

    name: str
    node: YamlNode
    image: Image
    command: CommandLine
    environment: Mapping[str, YamlNode]
    environment_complete: bool
    """Whether no other file has variables of it that were not read."""
    ports: tuple[PublishedPort, ...]
    mounts: tuple[VolumeMount, ...]
    networks: tuple[NetworkConnection, ...]
    served: ServedModel
    gpu: bool
    """It requests a GPU, or its image is for GPUs."""
    gpu_requested: bool
    clients: tuple[Mapping[str, YamlNode], ...]
    """Variables of RAGFlow's services in the project, as far as they send requests by Python."""
    inherits: bool
    """Another file, which it extends or overrides, may set what is missing here."""

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


def read_rerankers(project: Project) -> tuple[tuple[Service, ...], tuple[tuple[int, str], ...]]:
    """The rerankers of a compose project, and notes on what is not checked, each with its line."""
    rerankers: list[Service] = []
    notes: list[tuple[int, str]] = []
    if project.override:
        note = "this looks like an override file: check it with its base: ragops check BASE OVERRIDE"
        notes.append((1, note))
    if include := project.root.get("include"):
        notes.append((include.line, "include: check each included file as well"))
    for name, node in project.root.at("services").mapping.items():
        if not node.mapping:
            continue
        service = _read_service(name, node, project)
        if not _is_vllm(service):
            if node.get("extends") and "image" not in node.mapping:
                notes.append((node.line, f"{name} extends a service of another file: not checked"))
        elif _is_reranker(service):
            rerankers.append(service)
            notes += [(node.line, f"{name} {note}") for note in _unchecked(service)]
        else:
            notes.append((node.line, f"{name} runs vLLM, but not recognizably as a reranker"))
    if not rerankers:
        notes.append((project.root.line, "no service serves a reranker with vLLM"))
    return tuple(rerankers), tuple(notes)


def _read_service(name: str, node: YamlNode, project: Project) -> Service:
    command = read_command(node.get("entrypoint"), node.get("command"))
    inherits = project.override or node.get("extends") is not None
    if inherits and not (node.get("entrypoint") and node.get("command")):
        command = replace(command, complete=False)
    environment, complete = _read_environment(node, project)
    mounts = tuple(_read_mounts(node))
    return Service(
        name=name,
        node=node,
        image=_read_image(node.scalar("image") or ""),
        command=command,
        environment=environment,
        environment_complete=complete and not inherits,
        ports=tuple(map(read_port, node.at("ports").elements)),
        mounts=mounts,
        networks=tuple(_read_networks(node, project)),
        served=_read_model(node, command, mounts, project),
        gpu=_requests_gpu(node) or bool(_GPU_IMAGE.search(node.scalar("image") or "")),
        gpu_requested=_requests_gpu(node),
        clients=project.clients,
        inherits=inherits,
    )


def _read_environment(service: YamlNode, project: Project) -> tuple[dict[str, YamlNode], bool]:
    """Variables of a service, also from files, and whether each of those files was read."""
    variables: dict[str, YamlNode] = {}
    complete = True
    for item in service.at("env_file").listed:
        file = item.scalar("path") if item.mapping else item.text
        values = project.read_variables(file) if file and not item.get("format") else None
        complete = complete and (values is not None or item.scalar("required") == "false")
        for name, value in (values or {}).items():
            variables[name] = YamlNode(value.replace("$", "$$"), item.line, item.source)
    variables |= as_map(service.at("environment")).mapping
    return {name: node for name, node in variables.items() if node.tag != "!reset"}, complete


def _read_image(image: str) -> Image:
    path, digest, _ = image.partition("@")
    tag = path.rpartition("/")[2].partition(":")[2]
    name = path.removesuffix(f":{tag}")
    moving, official = not digest and bool(_MOVING.fullmatch(tag)), bool(_OFFICIAL.fullmatch(name))
    release = None
    if official or _CPU_BUILD.fullmatch(name):
        number = _RELEASE.match(tag)
        release = tuple(map(int, number.groups())) if number else _NEWEST if moving else None
    processor = architecture(tag) or ("arm64" if official and "-arm64-" in name else "")
    return Image(name, official, moving, release, processor)


def architecture(text: str) -> str:
    """The processor in a tag or a platform such as ``linux/arm64/v8``; empty if there is none."""
    match = re.search(r"(?:^|[-_./])(?:(x86_64|amd64)|arm64|aarch64)(?:/v\d)?$", text)
    return "" if match is None else "x86_64" if match[1] else "arm64"


def _read_mounts(service: YamlNode) -> Iterator[VolumeMount]:
    for item in service.at("volumes").elements:
        if item.mapping:
            kind, size = item.scalar("type") or "volume", item.scalar("tmpfs", "size")
            yield VolumeMount(item.scalar("source"), item.scalar("target"), kind, item, size)
            continue
        source, *rest = [resolve(part, item.source.variables) for part in split_colons(item.written)]
        named = source is not None and not source.startswith((".", "/", "~"))
        target = rest[0] if rest else source
        yield VolumeMount(source if rest else "", target, "volume" if named or not rest else "bind", item)
    for item in service.at("tmpfs").listed:
        target, _, options = (item.text or "").partition(":")
        limit = re.search(r"size=(\w+)", options)
        yield VolumeMount("", target, "tmpfs", item, limit[1] if limit else None)


def _read_networks(service: YamlNode, project: Project) -> Iterator[NetworkConnection]:
    """Networks of a service; compose puts the project's name before the key of a network without a name."""
    node = service.get("networks")
    rows = [(item.text or "", item) for item in node.elements] or [*node.mapping.items()] if node else []
    if not (node or service.get("network_mode")):
        rows = [("default", YamlNode(None, service.line, service.source))]
    for key, item in rows:
        aliases = tuple(alias.text or alias.written for alias in item.at("aliases").elements)
        network = project.root.get("networks", key) or YamlNode({}, item.line, item.source)
        external, named = network.flag("external"), network.get("name") is not None
        name = network.scalar("name") if named else key if external else f"{project.name}_{key}"
        line = network.line if external else item.line
        internal = network.flag("internal")
        yield NetworkConnection(key, name, item, line, external or named, internal, aliases)


def _read_model(
    node: YamlNode, command: CommandLine, mounts: tuple[VolumeMount, ...], project: Project
) -> ServedModel:
    option = command.get("--model") or command.get("")
    path = (option.value if option else "") or ""
    mount = mount_of(path, mounts)
    folder = (mount.on_host(path) if mount else None) or ""
    model = project.find_model(folder) if folder else None
    path_name, folder_name = (text.rstrip("/").rsplit("/", 1)[-1] for text in (path, folder))
    kind = _kind(path) or _kind(folder) or _kind(command.value("--served-model-name"))
    name = folder_name if _kind(folder_name) and not _kind(path_name) else path_name
    line = option.line if option else node.line
    return ServedModel(path, name, model.kind if model else kind, line, mount, model)


def mount_of(path: str, mounts: tuple[VolumeMount, ...]) -> VolumeMount | None:
    """The first volume that has the path, or whose undefined target may have it."""
    for mount in mounts if path.startswith("/") else ():
        if mount.target is None or f"{path}/".startswith(f"{mount.target.rstrip('/')}/"):
            return mount
    return None


def _kind(name: str) -> Kind | None:
    row = by_repository_name(name) if name else None
    return row.kind if isinstance(row, Architecture) else None


def _requests_gpu(service: YamlNode) -> bool:
    devices = [item.text or item.scalar("source") or "" for item in service.at("devices").elements]
    return bool(
        service.get("gpus")
        or service.get("deploy", "resources", "reservations", "devices")
        or service.get("deploy", "resources", "reservations", "generic_resources")
        or service.scalar("runtime") == "nvidia"
        or any(device.startswith(("/dev/kfd", "/dev/dri", "nvidia.com/")) for device in devices)
    )


def _is_vllm(service: Service) -> bool:
    if service.command.entry in {"serve", "module"}:
        return True
    image = service.image.name.rsplit("/", 1)[-1].lower()
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
    if service.node.get("extends"):
        yield "extends a service of another file: not checked"
    if service.node.get("env_file") and not service.environment_complete:
        yield "reads variables from an env_file that is not here: not checked"
    if not service.command.complete:
        yield "gets options from a script, a config file or a variable: missing options are not reported"
    mount = service.served.mount
    if mount and mount.kind == "bind" and not service.served.model:
        yield "serves a folder that is not on this machine, or no complete model: its files are not checked"
    if service.gpu:
        yield "uses a GPU: rules for CPUs do not apply"
    if service.served.kind is None:
        yield "serves a model of unknown kind: overrides and template are not checked"
    if service.served.kind == "embedding":
        yield "serves an embedding model: its scores are cosine similarities"
