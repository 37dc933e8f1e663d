"""The demo client: a stand-in for RAGFlow's server container, for machines that have none.

It looks like RAGFlow to Docker (compose labels, network, RAGFlow's path to Python) and calls a
reranker with RAGFlow's own client library, cohere 5.6.2. It is no RAGFlow: it serves nothing.
"""

from __future__ import annotations

import shutil
import tempfile
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from ragops.docker.objects import COMPOSE_PROJECT, COMPOSE_SERVICE, ContainerSpec, NetworkSpec
from ragops.docker.temporary import sidecar
from ragops.errors import EngineError
from ragops.progress import step
from ragops.ragflow.discovery import DEMO
from ragops.reranker import files
from ragops.stack.plan import Plan, Remove, RemoveNetwork

if TYPE_CHECKING:
    from ragops.docker.engine import Engine
    from ragops.docker.objects import Observed

NAME = "docker-ragflow-cpu-1"
"""The name that compose gives RAGFlow's container from v0.22 on."""
NETWORK = "docker_ragflow"
IMAGE = "ragops-demo-client:latest"
COHERE = "cohere==5.6.2"


def up(
    engine: Engine,
    base_image: str,
    home: Path,
    *,
    name: str = NAME,
    project: str = "docker",
) -> str:
    """Start the demo client, once; gives back its name.

    Args:
        engine: Where.
        base_image: An image with Python, on which the client's is built.
        home: Folder for working files.
        name: Container name.
        project: Compose project that its labels name.

    Raises:
        EngineError: The name belongs to a container that is not ours.
    """
    there = engine.container(name)
    if there is not None and there.role != DEMO:
        raise EngineError(
            f"a container that ragops did not make is named {name}",
            code="name-taken",
            evidence=f"image {there.image}, {there.status}",
            hint="this machine seems to have a RAGFlow: ragops up finds it, no demo is needed",
            container=name,
        )
    if engine.image(IMAGE) is None:
        step(f"building the demo client with {COHERE}")
        _build(engine, base_image, home)
    if there is None:
        network = f"{project}_ragflow"
        if engine.network(network) is None:
            engine.create_network(NetworkSpec(network))
        there_id = engine.create_container(spec(name, project))
        engine.start(there_id)
    elif not there.running:
        engine.start(there.id)
    return name


def spec(name: str = NAME, project: str = "docker") -> ContainerSpec:
    """The demo client's container."""
    labels = ((COMPOSE_PROJECT, project), (COMPOSE_SERVICE, "ragflow-cpu"))
    return ContainerSpec(
        name=name,
        image=IMAGE,
        entrypoint=("sleep", "infinity"),
        network=f"{project}_ragflow",
        restart="unless-stopped",
        init=True,
        role=DEMO,
        labels=labels,
    )


def plan_down(observed: Observed) -> Plan:
    """What takes every demo client away, and its network where it is ours."""
    demos = [one for one in observed.containers if one.role == DEMO]
    networks = {end.network for one in demos for end in one.endpoints if end.network.endswith("_ragflow")}
    return Plan(
        (
            *(Remove("container", one.name, one.id) for one in demos),
            *(
                RemoveNetwork(one.name, one.id)
                for one in observed.networks
                if one.name in networks and one.ours
            ),
        )
    )


def _build(engine: Engine, base_image: str, home: Path) -> None:
    (home / "build").mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="demo-", dir=home / "build"))
    recipe = resources.files("ragops.data") / "demo"
    try:
        for file in ("Dockerfile", "requirements.lock"):
            (folder / file).write_text((recipe / file).read_text())
        with sidecar(engine, "none", base_image) as probe:
            asked = ("python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
            python = engine.execute(probe, asked).stdout.strip()
        files.download(folder / "wheels", "--requirement", str(folder / "requirements.lock"), python=python)
        for _ in engine.build(folder, IMAGE, arguments={"BASE": base_image}):
            pass
    finally:
        shutil.rmtree(folder, ignore_errors=True)
