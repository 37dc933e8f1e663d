"""A temporary container in a network, or in the network namespace of another container."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ragops.docker.objects import ContainerSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ragops.docker.engine import Engine
    from ragops.docker.objects import Mount


@contextmanager
def sidecar(
    engine: Engine,
    network: str,
    image: str,
    *,
    cpus: str = "",
    mounts: tuple[Mount, ...] = (),
    seconds: float = 300,
) -> Iterator[str]:
    """Start a temporary container; yields its id, and always removes it.

    Args:
        engine: The Docker engine.
        network: A network, or ``container:NAME`` for another container's names and routes.
        image: An image with ``sleep``.
        cpus: CPUs that it may use, such as ``0-3``; all when empty.
        mounts: Folders of the Docker host that are mounted.
        seconds: Its largest lifetime, in case that this process cannot remove it.
    """
    spec = ContainerSpec(
        name=f"ragops-probe-{secrets.token_hex(4)}",
        image=image,
        entrypoint=("sleep", f"{seconds:.0f}"),
        mounts=mounts,
        network=network,
        cpuset_cpus=cpus,
        role="probe",
        init=True,
    )
    container = engine.create_container(spec)
    try:
        engine.start(container)
        yield container
    finally:
        engine.remove_container(container)
