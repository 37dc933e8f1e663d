"""The gateway's image, container and state.

The image is built on the one with vLLM, and has its Python, a few packages and ``ragops/gateway``, no shell
(recipe in ``data/gateway``). The container has the address that RAGFlow is registered with.
"""

import hashlib
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from ragops.configuration import Gateway, Stack
from ragops.docker.engine import Engine
from ragops.docker.objects import LABEL_STACK, UNPRIVILEGED, ContainerSpec, HealthCheck, ImageState, Mount
from ragops.errors import EngineError, ImageError
from ragops.progress import step
from ragops.ragflow.api import NO_SECRET, Secret, read_secret
from ragops.reranker.image import build_on
from ragops.reranker.options import PORT

ROLE = "gateway"
REFERENCE = "/reference"
"""Folder in the container with ``reference.json``."""
MARK = "folder-id"
"""File in it that is another in each new folder; without it the engine has another file system."""
_SHARE = 0.9
"""Part of RAGFlow's timeout after which the gateway responds, if the deadline is ``auto``."""
_MEMORY, _SCORE = 256 << 20, 400
"""Bytes of the container's memory limit, and of it for each score in the cache."""
_HEALTH = (
    f"import socket; c = socket.create_connection(('127.0.0.1', {PORT}), 5); "
    "c.sendall(b'GET /replicas HTTP/1.0\\r\\n\\r\\n'); raise SystemExit(b' 200 ' not in c.recv(64))"
)


def read_key(stack: Stack) -> Secret:
    """The key that the gateway requires; empty without one."""
    file = stack.gateway.key_file if stack.gateway else None
    return read_secret("", file) if file else NO_SECRET


def tag() -> str:
    """Name of the image: its tag changes with the recipe, the locked packages and the gateway's source."""
    digest = hashlib.sha256()
    for name, data in sorted(_sources().items()):
        digest.update(f"{name} {hashlib.sha256(data).hexdigest()}\n".encode())
    return f"ragops-gateway:{digest.hexdigest()[:12]}"


def ensure(engine: Engine, base_image: str, home: Path) -> ImageState:
    """The gateway's image, built by :func:`build` if the Docker engine does not have it."""
    return engine.image(tag()) or build(engine, base_image, home)


def build(engine: Engine, base_image: str, home: Path) -> ImageState:
    """Build the gateway's image on the one with vLLM."""
    name = tag()
    step("building the gateway's image")
    build_on(engine, base_image, home, name, _sources())
    if image := engine.image(name):
        return image
    raise ImageError(f"{name} is missing after it was built", code="image-missing")


def deadline(stack: Stack, timeout: float) -> float:
    """Seconds after which the gateway responds to a RAGFlow of this timeout; 0 without a deadline."""
    gateway = stack.gateway or Gateway(deadline=False)
    return timeout * _SHARE if gateway.deadline == "auto" else gateway.deadline or 0.0


def container_spec(
    stack: Stack, *, timeout: float, splits: bool, publish: tuple[tuple[str, int, int], ...], folder: Path
) -> ContainerSpec:
    """The gateway's container; reads the configured key, of which the container gets the SHA-256.

    ``timeout`` is RAGFlow's in seconds, ``folder`` that of the reference on the Docker host. Models that
    compare documents with each other have no ``splits``.
    """
    gateway = stack.gateway or Gateway()
    key = read_key(stack).get_secret_value()
    environment = {
        "GATEWAY_REPLICAS": ",".join(stack.servers) or f"{stack.replicas_alias}:{PORT}",
        "GATEWAY_DEADLINE": f"{deadline(stack, timeout) if splits else 0:g}",
        "GATEWAY_CACHE": f"{gateway.cache or 0:d}",
        "GATEWAY_LONG_DOCUMENTS": gateway.long_documents,
        "GATEWAY_SPLIT": f"{splits:d}",
        "GATEWAY_KEY_SHA256": hashlib.sha256(key.encode()).hexdigest() if key else "",
        "GATEWAY_REFERENCE": f"{REFERENCE}/reference.json",
        "GATEWAY_PORT": str(PORT),
    }
    with suppress(OSError):  # another in a new folder: a gateway's mount stays on a deleted one
        environment["GATEWAY_FOLDER"] = (folder / MARK).read_text(encoding="utf-8")
    return ContainerSpec(
        name=stack.reranker.name,
        image=tag(),
        entrypoint=("python3", "-m", "gateway"),
        environment=tuple(environment.items()),
        mounts=(Mount(str(folder), REFERENCE, read_only=True),),
        network=stack.shared_network.name,
        publish=publish,
        memory=_MEMORY + _SCORE * (gateway.cache or 0),
        pids_limit=256,
        # It exits with 0 after SIGTERM, also when the engine is killed, and has to run after a reboot.
        restart="always",
        health=HealthCheck(("python3", "-ISc", _HEALTH), timeout=8, start_period=60),
        read_only=True,
        user=f"{UNPRIVILEGED}:{UNPRIVILEGED}",
        stop_timeout=round(timeout) + 5,
        role=ROLE,
        labels=((LABEL_STACK, stack.reranker.name),),
    )


@dataclass(frozen=True)
class Replica:
    """A replica as the gateway knows it; ``pace`` is in seconds for each byte of query and document."""

    address: str
    state: str
    reason: str = ""
    pace: float | None = None
    shares: int = 0


@dataclass(frozen=True)
class Hour:
    """Requests and documents of the last hour."""

    requests: int = 0
    late: int = 0
    documents: int = 0
    ranked: int = 0
    truncated: int = 0


@dataclass(frozen=True)
class Cache:
    """The cache of scores."""

    entries: int = 0
    limit: int = 0
    hits: int = 0
    misses: int = 0


@dataclass(frozen=True)
class GatewayState:
    """A running gateway's response to ``GET /replicas``."""

    reference: str
    deadline: float
    cache: Cache
    hour: Hour
    replicas: tuple[Replica, ...]
    hosts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Addresses of each configured name, as far as they are known."""

    @property
    def admitted(self) -> tuple[Replica, ...]:
        """The replicas that get requests."""
        return tuple(replica for replica in self.replicas if replica.state == "admitted")

    @property
    def summary(self) -> str:
        """Deadline, cache, and the last hour's requests in words."""
        hour, total = self.hour, self.cache.hits + self.cache.misses
        hits = f"{100 * self.cache.hits / total:.0f} % of {total:,} documents" if total else "empty"
        parts = [
            f"deadline {self.deadline:g} s" if self.deadline else "no deadline",
            f"cache {hits}" if self.cache.limit else "no cache",
        ]
        if not hour.documents:
            return ", ".join([*parts, "no request in the last hour"])
        ranked = math.floor(1000 * hour.ranked / hour.documents) / 10  # 100 only if all were
        parts.append(f"{ranked:g} % of {hour.documents:,} documents ranked in the last hour")
        parts += [f"{hour.late} of {hour.requests} requests late"] if hour.late else []
        parts += [f"documents cut: {hour.truncated}"] if hour.truncated else []
        return ", ".join(parts)


def read_state(engine: Engine, container: str) -> GatewayState | None:
    """The state of a running gateway; None for one that does not run or respond.

    Read inside the container: its port may be published nowhere.
    """
    url = f"http://127.0.0.1:{PORT}/replicas"
    program = f"import urllib.request as r; print(r.urlopen({url!r}, timeout=5).read().decode())"
    with suppress(EngineError, ValidationError):
        result = engine.execute(container, ("python3", "-ISc", program), timeout=15)
        return TypeAdapter(GatewayState).validate_json(result.stdout)
    return None


def _sources() -> dict[str, bytes]:
    """The files of the build by their path."""
    recipe, package = resources.files("ragops.data") / "gateway", resources.files("ragops") / "gateway"
    names = ("Dockerfile", "collect.py", "requirements.lock")
    modules = [file for file in package.iterdir() if file.name.endswith(".py")]
    return {name: (recipe / name).read_bytes() for name in names} | {
        f"gateway/{file.name}": file.read_bytes() for file in modules
    }
