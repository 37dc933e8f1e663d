"""A compose file as frozen records: which services are vLLM rerankers, and how each is configured; pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ruamel.yaml.comments import CommentedMap, CommentedSeq

from ragops.compose.parts import read_environment, read_mounts, read_networks, read_ports, uses_gpu
from ragops.compose.words import read_command
from ragops.compose.yaml import YamlNode, key_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ragops.compose.parts import NetworkConnection, PublishedPort, VolumeMount
    from ragops.compose.words import CommandLine
    from ragops.model import Kind, Model

OVERRIDES_VARIABLE = re.compile(r"VLLM_HF_OVERRIDES?")
"""Environment variables that are mistaken for ``--hf-overrides``; vLLM reads neither."""

_MAX_EXTENDS = 10
"""Longest chain of ``extends`` that is followed."""

_VLLM_IMAGE = re.compile(r"(^|[-_])vllm([-_]|$)")
_NO_SERVER = re.compile(
    r"router|proxy|gateway|exporter|nginx|bench|client|webui|dashboard|metrics|^(alpine|busybox|debian|ubuntu|curl)$"
)
_VLLM_OPTIONS = (
    *("--max-model-len", "--hf-overrides", "--max-num-batched-tokens", "--max-num-seqs"),
    *("--kv-cache-memory-bytes", "--gpu-memory-utilization"),
)
_VLLM_VARIABLES = re.compile(r"VLLM_(CPU_\w+|HF_OVERRIDES?|USE_V1|ATTENTION_BACKEND)")
_CROSS_ENCODER = re.compile(r"bge-reranker-(base|large|v2-m3)|ms-marco|cross-encoder|ettin-reranker")
_EMBEDDING = re.compile(r"minilm|embed|/e5-|/gte-|bge-(m3|small|base|large)|mpnet")


@dataclass(frozen=True)
class ServedModel:
    """The model that a service serves."""

    path: str
    """As vLLM gets it; empty if the file does not say."""
    name: str
    """Last part of the path, or of the mounted folder if that says which kind of model it is."""
    kind: Kind | None
    line: int
    mount: VolumeMount | None
    """The volume that has the path."""
    model: Model | None
    """The model, if its folder is on this machine."""

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

    def text(self, *keys: str) -> str:
        """A scalar below the service; empty if it is missing or has an undefined variable."""
        return self.node.scalar(*keys) or ""


def read(
    root: YamlNode, project: str, find_model: Callable[[str], Model | None]
) -> tuple[tuple[Service, ...], tuple[str, ...]]:
    """The rerankers of a compose file, and notes on what is not checked.

    Args:
        root: The parsed document.
        project: Name of the compose project.
        find_model: Returns the model in a folder of this machine, or None if there is none.
    """
    rerankers: list[Service] = []
    notes: list[str] = []
    if include := root.get("include"):
        notes.append(f"line {include.line}: include: check each included file as well")
    services = root.get("services")
    for name, node in services.items() if services else ():
        if not isinstance(node.raw, dict):
            continue
        service = _service(name, _extended(node, root), root, project, find_model)
        if not _is_vllm(service):
            if service.inherits and "image" not in service.node.raw:
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
    if base is None or not isinstance(base.raw, dict):
        return node
    merged = CommentedMap()
    for origin in (_extended(base, root, depth + 1).raw, node.raw):
        for key, value in origin.items():
            if key == "extends" and origin is node.raw:
                continue
            merged[key] = _merged(key, merged[key], value) if key in merged else value
            line = key_line(origin, key, 1) - 1
            merged.lc.add_kv_line_col(key, [line, 0, line, 0])
    return YamlNode(merged, node.line, node.source)


def _merged(key: str, base: Any, value: Any) -> Any:
    """Maps are united and lists concatenated, but commands are replaced."""
    if key == "environment":
        base, value = _as_map(base), _as_map(value)
    if isinstance(base, dict) and isinstance(value, dict):
        return CommentedMap({**base, **value})
    if isinstance(base, list) and isinstance(value, list) and key not in {"command", "entrypoint"}:
        return CommentedSeq([*base, *value])
    return value


def _as_map(variables: Any) -> Any:
    if not isinstance(variables, list):
        return variables
    pairs = (str(item).partition("=") for item in variables)
    return CommentedMap((name, value if equals else None) for name, equals, value in pairs)


def _service(
    name: str, node: YamlNode, root: YamlNode, project: str, find_model: Callable[[str], Model | None]
) -> Service:
    command = read_command(node.get("entrypoint"), node.get("command"))
    mounts = tuple(read_mounts(node))
    return Service(
        name=name,
        node=node,
        command=command,
        environment=read_environment(node),
        ports=tuple(read_ports(node)),
        mounts=mounts,
        networks=tuple(read_networks(node, root, project)),
        served=_served(node, command, mounts, find_model),
        gpu=uses_gpu(node),
        inherits=node.get("extends") is not None,
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
        or served.kind in {"qwen3-reranker", "qwen3-reranker-seq-cls", "cross-encoder"}
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


def _served(
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
    names = [text.rstrip("/").rsplit("/", 1)[-1] for text in (path, folder)]
    kind = _kind(path) or _kind(folder) or _kind(command.value("--served-model-name"))
    return ServedModel(
        path=path,
        name=names[1] if _kind(names[1]) and not _kind(names[0]) else names[0],
        kind=model.kind if model else kind,
        line=option.line if option else node.line,
        mount=mount,
        model=model,
    )


def _mount_of(path: str, mounts: tuple[VolumeMount, ...]) -> VolumeMount | None:
    """The first volume that has the path, or whose undefined target may have it."""
    for mount in mounts if path.startswith("/") else ():
        if mount.target is None or f"{path}/".startswith(f"{mount.target.rstrip('/')}/"):
            return mount
    return None


def _kind(name: str) -> Kind | None:
    """Kind of a model by its name; None if the name does not show it."""
    plain = name.lower().replace("_", "-")
    if "qwen3-reranker" in plain:
        converted = re.search(r"seq-?cls|sequence-classification", plain)
        return "qwen3-reranker-seq-cls" if converted else "qwen3-reranker"
    if _CROSS_ENCODER.search(plain):
        return "cross-encoder"
    return "embedding" if "rerank" not in plain and _EMBEDDING.search(plain) else None
