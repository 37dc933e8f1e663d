"""A second server: plain transformers with the same weights, in a container of the same image.

::

    with peer(engine, spec(image, folder, "qwen3-reranker-0.6b", container="a-peer", port=8124)) as url:
        benchmark_url(url, "qwen3-reranker-0.6b", config)

``data/peer.py`` runs in the container.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from importlib import resources
from typing import TYPE_CHECKING

import httpx

from ragops.docker.objects import ContainerSpec, Mount
from ragops.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ragops.docker.engine import Engine

START_SECONDS = 300.0
"""Timeout of the start; most of it is reading 1.2 GB from a cold disk and casting it."""

_PORT = 8000


def spec(image: str, model: Path, name: str, *, container: str, port: int, cpus: str = "") -> ContainerSpec:
    """The container, published on this host only.

    Args:
        image: The reranker's: it has torch and transformers.
        model: Folder of a Qwen3-Reranker.
        name: Served model name.
        container: The container's name.
        port: Port on this host.
        cpus: CPUs that it may use, such as ``0-3``; all when empty.
    """
    program = str(resources.files("benchmarks.data") / "peer.py")
    return ContainerSpec(
        name=container,
        image=image,
        entrypoint=("python3", "/peer.py", "/model", name, str(_PORT), "0.0.0.0"),
        environment=(("HF_HUB_OFFLINE", "1"), ("HOME", "/tmp")),  # noqa: S108 - inside the container
        mounts=(Mount(program, "/peer.py", read_only=True), Mount(str(model), "/model", read_only=True)),
        publish=(("127.0.0.1", port, _PORT),),
        cpuset_cpus=cpus,
        init=True,
        role="test",
    )


@contextmanager
def peer(engine: Engine, container: ContainerSpec) -> Iterator[str]:
    """Start the server, wait until it responds, yield its address up to ``/v1``, and remove it at the end.

    Args:
        engine: The Docker engine.
        container: From :func:`spec`.

    Raises:
        EngineError: It cannot be created, or does not respond in time.
    """
    container_id = engine.create_container(container)
    root = f"http://127.0.0.1:{container.publish[0][1]}"
    try:
        engine.start(container_id)
        _wait(engine, container.name, root)
        yield f"{root}/v1"
    finally:
        engine.remove_container(container_id)


def _wait(engine: Engine, container: str, url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health", timeout=5, trust_env=False).is_success:
                return
        except httpx.HTTPError:
            state = engine.container(container)
            if state is None or not state.running:
                break
        time.sleep(0.3)
    raise EngineError(
        f"the server in {container} does not respond",
        code="engine-silent",
        evidence=engine.logs(container)[-1000:],
        hint=f"docker logs {container}",
        container=container,
        url=url,
    )
