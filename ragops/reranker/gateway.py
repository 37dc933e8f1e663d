"""The gateway's image and container."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ragops.docker.objects import LABEL_STACK, ContainerSpec, HealthCheck, Mount
from ragops.ragflow.api import read_secret

if TYPE_CHECKING:
    from pathlib import Path

    from ragops.configuration import Stack
    from ragops.docker.objects import EngineState

PORT = 8000
MARGIN = 0.9
"""Part of RAGFlow's timeout after which the gateway responds."""


def tag() -> str:
    """The image's name, which changes with what it is built from."""
    return "ragops-gateway:latest"


def container_spec(
    stack: Stack,
    engine: EngineState | None,  # noqa: ARG001 - image
    *,
    timeout: float,
    splits: bool,
    publish: tuple[tuple[str, int, int], ...],
    folder: Path,
) -> ContainerSpec:
    """The gateway's container, which has the reranker's name.

    Args:
        stack: The configuration.
        engine: The Docker engine.
        timeout: RAGFlow's, in seconds.
        splits: Whether a request of this kind of model can be divided.
        publish: The ports to publish.
        folder: The folder with the reference.
    """
    options = stack.gateway
    if options is False:
        raise ValueError("the configuration has no gateway")
    deadline = round(timeout * MARGIN, 3) if options.deadline == "auto" else options.deadline
    key = read_secret("", options.key_file).get_secret_value() if options.key_file else ""
    environment = {
        "GATEWAY_REPLICAS": f"{stack.replicas_alias}:{PORT}",
        "GATEWAY_DEADLINE": f"{float(deadline):g}",
        "GATEWAY_CACHE": str(int(options.cache)),
        "GATEWAY_LONG_DOCUMENTS": options.long_documents,
        "GATEWAY_SPLIT": str(int(splits)),
        "GATEWAY_KEY_SHA256": hashlib.sha256(key.encode()).hexdigest() if key else "",
        "GATEWAY_REFERENCE": "/reference/reference.json",
    }
    health = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{PORT}/replicas', timeout=8)"
    return ContainerSpec(
        name=stack.reranker.name,
        image=tag(),
        environment=tuple(environment.items()),
        mounts=(Mount(str(folder), "/reference", read_only=True),),
        network=stack.network.name,
        publish=publish,
        memory=512 << 20,
        restart="unless-stopped",
        health=HealthCheck(("python3", "-c", health), timeout=10, start_period=30),
        read_only=True,
        role="gateway",
        labels=((LABEL_STACK, stack.reranker.name),),
    )
