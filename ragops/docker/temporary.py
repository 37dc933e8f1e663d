"""A short-lived container to ask from, in somebody's network or network namespace."""

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
    """Start one, give its id, and remove it whatever happens.

    Args:
        engine: Where.
        network: A network, or ``container:NAME`` for another's names and routes.
        image: An image with ``sleep``.
        cpus: CPUs that it may use, such as ``0-3``; all when empty.
        mounts: Folders of the engine's host that it sees.
        seconds: When it ends by itself, should nobody be left to remove it.
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
    made = engine.create_container(spec)
    try:
        engine.start(made)
        yield made
    finally:
        engine.remove_container(made)
