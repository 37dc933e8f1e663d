"""A compose file as frozen records: which services are vLLM rerankers, and what each declares; pure.

:func:`read` finds them; ``faults.py`` judges them, ``fix.py`` mends them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ruamel.yaml.comments import CommentedMap, CommentedSeq

from ragops.compose import parts, words
from ragops.compose.parts import environment, scalar
from ragops.compose.yaml import View, key_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ragops.compose.parts import Joined, Mount, Port
    from ragops.compose.words import Launch
    from ragops.compose.yaml import Source
    from ragops.model import Kind, Model

OVERRIDES_VARIABLE = re.compile(r"VLLM_HF_OVERRIDES?")
"""Environment variables that people set for ``--hf-overrides``; vLLM reads none of them."""

_CHAIN = 10
"""Services that extend services are followed this far."""

_IMAGE = re.compile(r"(^|[-_])vllm([-_]|$)")
_NO_SERVER = re.compile(
    r"router|proxy|gateway|exporter|nginx|bench|client|webui|dashboard|metrics|^(alpine|busybox|debian|ubuntu|curl)$"
)
_OWN_FLAGS = (
    *("--max-model-len", "--hf-overrides", "--max-num-batched-tokens", "--max-num-seqs"),
    *("--kv-cache-memory-bytes", "--gpu-memory-utilization"),
)
_OWN_VARIABLES = re.compile(r"VLLM_(CPU_\w+|HF_OVERRIDES?|USE_V1|ATTENTION_BACKEND)")
_CROSS_ENCODER = re.compile(r"bge-reranker-(base|large|v2-m3)|ms-marco|cross-encoder|ettin-reranker")
_EMBEDDING = re.compile(r"minilm|embed|/e5-|/gte-|bge-(m3|small|base|large)|mpnet")


@dataclass(frozen=True)
class Served:
    """The model that a service names."""

    path: str
    """As vLLM gets it; empty when the file does not say."""
    name: str
    """Last part of the path, or of the mounted folder's when that tells more."""
    kind: Kind | None
    max_tokens: int | None = None
    """Known when the folder is on this machine."""
    line: int = 1
    mounted: bool = True
    """Whether a volume holds the path; also true of a name on a model hub."""


@dataclass(frozen=True)
class Service:
    """A reranker that is served with vLLM."""

    name: str
    view: View
    launch: Launch
    environment: Mapping[str, View]
    ports: tuple[Port, ...]
    mounts: tuple[Mount, ...]
    networks: tuple[Joined, ...]
    served: Served
    gpu: bool
    inherits: bool
    """It extends a service of another file: what isn't seen may be there."""
    env_file: bool

    @property
    def line(self) -> int:
        """Line of the service's name."""
        return self.view.line

    @property
    def command_line(self) -> int:
        """Where a flag that is missing belongs."""
        found = self.view.get("command") or self.view.get("entrypoint") or self.view
        return found.line

    def text(self, *keys: str) -> str:
        """A scalar below the service; empty when there is none or it isn't known."""
        found = self.view.get(*keys)
        return (found.text or "") if found else ""


@dataclass(frozen=True)
class ComposeFile:
    """What was found in one file."""

    source: Source
    rerankers: tuple[Service, ...]
    notes: tuple[str, ...]
    """What was not looked into, and why."""


def read(source: Source, project: str, look: Callable[[str], Model | None]) -> ComposeFile:
    """Find the rerankers.

    Args:
        source: The parsed file.
        project: Compose project, which begins the names of networks that have none.
        look: Gives the model in a folder of this machine, or None when there is none.
    """
    root = source.root
    rerankers, notes = [], list(_not_read(root))
    for name, view in _services(root):
        service = _service(name, _based(view, root), root, project, look)
        if not _vllm(service):
            notes += _elsewhere(service)
            continue
        if _reranks(service):
            rerankers.append(service)
            notes += _unseen(service)
        else:
            notes.append(f"line {view.line}: {name} is vLLM, but nothing says that it reranks")
    if not rerankers:
        notes.append("no service here serves a reranker with vLLM")
    return ComposeFile(source, tuple(rerankers), tuple(notes))


def _services(root: View) -> Iterator[tuple[str, View]]:
    found = root.get("services")
    for name, view in found.items() if found else ():
        if isinstance(view.raw, dict):
            yield name, view


def _not_read(root: View) -> Iterator[str]:
    if include := root.get("include"):
        yield f"line {include.line}: included files are not looked into; check each of them"


def _based(view: View, root: View, depth: int = 0) -> View:
    """The service with what it extends from the same file; ``extends`` stays when that is elsewhere."""
    extended = view.get("extends")
    if extended is None or view.get("extends", "file") or depth > _CHAIN:
        return view
    base = root.get("services", extended.text or scalar(extended.get("service")) or "")
    if base is None or not isinstance(base.raw, dict):
        return view
    return View(_layered(view.raw, _based(base, root, depth + 1).raw), view.line, view.source)


def _layered(top: Any, base: Any) -> CommentedMap:
    """A service over its base as compose merges them; each key keeps its line."""
    merged = CommentedMap()
    for origin in (base, top):
        for key in origin:
            if key == "extends" and origin is top:
                continue
            merged[key] = _joined(key, merged[key], origin[key]) if key in merged else origin[key]
            line = key_line(origin, key, 1) - 1
            merged.lc.add_kv_line_col(key, [line, 0, line, 0])
    return merged


def _joined(key: str, below: Any, above: Any) -> Any:
    """Maps are united and lists put together, but commands are replaced."""
    if key == "environment":
        below, above = _as_map(below), _as_map(above)
    if isinstance(below, dict) and isinstance(above, dict):
        return CommentedMap({**below, **above})
    if isinstance(below, list) and isinstance(above, list) and key not in {"command", "entrypoint"}:
        return CommentedSeq([*below, *above])
    return above


def _as_map(variables: Any) -> Any:
    if not isinstance(variables, list):
        return variables
    pairs = (str(item).partition("=") for item in variables)
    return CommentedMap((name, value if equals else None) for name, equals, value in pairs)


def _service(name: str, view: View, root: View, project: str, look: Callable[[str], Model | None]) -> Service:
    launch = words.launch(view.get("entrypoint"), view.get("command"))
    mounts = tuple(parts.mounts(view))
    return Service(
        name=name,
        view=view,
        launch=launch,
        environment=environment(view),
        ports=tuple(parts.ports(view)),
        mounts=mounts,
        networks=tuple(parts.networks(view, root, project)),
        served=_served(view, launch, mounts, look),
        gpu=parts.gpu(view),
        inherits=view.get("extends") is not None,
        env_file=view.get("env_file") is not None,
    )


def _vllm(service: Service) -> bool:
    """Whether it is vLLM's server, by its program, its image, or flags that only vLLM has."""
    image = (service.text("image").partition("@")[0].rsplit("/", 1)[-1]).partition(":")[0].lower()
    if service.launch.entry in {"serve", "module"} and service.launch.prefix:
        return True
    if service.launch.entry == "other" or _NO_SERVER.search(image):
        return False
    own = any(service.launch.get(flag) for flag in _OWN_FLAGS)
    return bool(_IMAGE.search(image) or own or any(map(_OWN_VARIABLES.fullmatch, service.environment)))


def _reranks(service: Service) -> bool:
    launch, served = service.launch, service.served
    names = (service.name, service.text("container_name"), served.path, served.name)
    overrides = [launch.value("--hf-overrides")]
    overrides += [view.text or "" for key, view in service.environment.items() if _overrides(key)]
    return (
        any("rerank" in name.lower() for name in (*names, launch.value("--served-model-name")))
        or served.kind in {"qwen3-reranker", "qwen3-reranker-seq-cls", "cross-encoder"}
        or launch.value("--task") in {"score", "rerank"}
        or any("ForSequenceClassification" in text for text in overrides)
    )


def _overrides(key: str) -> bool:
    return OVERRIDES_VARIABLE.fullmatch(key) is not None


def _elsewhere(service: Service) -> Iterator[str]:
    """For a service of which too little is seen to say what it is."""
    if service.inherits and "image" not in service.view.raw:
        where = f"line {service.line}: {service.name}"
        yield f"{where} extends a service of another file, which is not looked into"


def _unseen(service: Service) -> Iterator[str]:
    where = f"line {service.line}: {service.name}"
    if service.inherits:
        yield f"{where} extends a service of another file, which is not looked into"
    if service.env_file:
        yield f"{where} takes variables from an env_file, which is not looked into"
    if not service.launch.sure:
        yield f"{where}: its flags come from a script, a config file or a variable; missing ones are not told"
    if service.gpu:
        yield f"{where} uses a GPU; what concerns the CPU is not judged"
    if service.served.kind is None:
        yield f"{where}: ragops does not know the model; overrides and template are not judged"
    if service.served.kind == "embedding":
        yield f"{where} serves an embedding model: its scores are cosine similarities"


def _served(
    view: View, launch: Launch, mounts: tuple[Mount, ...], look: Callable[[str], Model | None]
) -> Served:
    found = launch.get("--model") or launch.get("")
    path = (found.value if found else "") or ""
    folder = _host_folder(path, mounts)
    names = [part for part in (path, folder or "", launch.value("--served-model-name")) if part]
    model = look(folder) if folder else None
    return Served(
        path=path,
        name=_telling(path, folder or ""),
        kind=model.kind if model else next(filter(None, map(_kind, names)), None),
        max_tokens=model.max_tokens if model else None,
        line=found.line if found else view.line,
        mounted=not path.startswith("/") or any(_holds(mount, path) for mount in mounts),
    )


def _telling(path: str, folder: str) -> str:
    """The name that says more: the path's last part, or the mounted folder's."""
    parts = [text.rstrip("/").rsplit("/", 1)[-1] for text in (path, folder)]
    return next((part for part in parts if _kind(part)), parts[0])


def _kind(name: str) -> Kind | None:
    """Kind of a model by its name; None when the name doesn't tell."""
    plain = name.lower().replace("_", "-")
    if "qwen3-reranker" in plain:
        converted = re.search(r"seq-?cls|sequence-classification", plain)
        return "qwen3-reranker-seq-cls" if converted else "qwen3-reranker"
    if _CROSS_ENCODER.search(plain):
        return "cross-encoder"
    return "embedding" if "rerank" not in plain and _EMBEDDING.search(plain) else None


def _holds(mount: Mount, path: str) -> bool:
    target = (mount.target or "").rstrip("/")
    return mount.target is None or path == target or path.startswith(f"{target}/")


def _host_folder(path: str, mounts: tuple[Mount, ...]) -> str | None:
    """Folder of the host that a path inside is, if it is one."""
    for mount in mounts:
        if path.startswith("/") and mount.source and mount.target and _holds(mount, path):
            return mount.source.rstrip("/") + path[len(mount.target.rstrip("/")) :]
    return None
