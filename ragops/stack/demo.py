"""The demo client: a container that replaces RAGFlow's server on machines without RAGFlow.

Docker shows it as RAGFlow (compose labels, network, path to Python), and it calls a reranker with RAGFlow's
client library, cohere 5.6.2. It serves nothing.
"""

from importlib import resources
from pathlib import Path

from ragops.docker import objects
from ragops.docker.engine import Engine
from ragops.errors import EngineError
from ragops.progress import step
from ragops.ragflow.discovery import DEMO
from ragops.reranker.image import build_on
from ragops.stack.plan import Action, Plan, Remove

NAME = "docker-ragflow-cpu-1"
"""Name that compose gives RAGFlow's container from v0.22 on."""
IMAGE = "ragops-demo-client:latest"
COHERE = "cohere==5.6.2"


def up(engine: Engine, base_image: str, home: Path, *, name: str = NAME, project: str = "docker") -> str:
    """Start the demo client, and return its name. Idempotent.

    Its image is built on ``base_image``, which has Python, with working files below ``home``; ``project``
    is the compose project in its labels.
    """
    container = engine.container(name)
    if container is not None and container.role != DEMO:
        raise EngineError(
            f"a container that ragops did not create is named {name}",
            code="name-taken",
            evidence=f"image {container.image}, {container.status}",
            hint="this machine seems to have a RAGFlow: ragops up finds it, no demo is needed",
            container=name,
        )
    if engine.image(IMAGE) is None:
        step(f"building the demo client with {COHERE}")
        recipe = resources.files("ragops.data") / "demo"
        sources = {name: (recipe / name).read_bytes() for name in ("Dockerfile", "requirements.lock")}
        build_on(engine, base_image, home, IMAGE, sources)
    if container is None:
        network = f"{project}_ragflow"
        if engine.network(network) is None:
            engine.create_network(objects.NetworkSpec(network))
        engine.start(engine.create_container(spec(name, project)))
    elif not container.running:
        engine.start(container.id)
    return name


def spec(name: str = NAME, project: str = "docker") -> objects.ContainerSpec:
    """The demo client's container."""
    return objects.ContainerSpec(
        name=name,
        image=IMAGE,
        entrypoint=("sleep", "infinity"),
        network=f"{project}_ragflow",
        restart="unless-stopped",
        memory=1 << 30,
        user=f"{objects.UNPRIVILEGED}:{objects.UNPRIVILEGED}",
        init=True,
        role=DEMO,
        labels=((objects.COMPOSE_PROJECT, project), (objects.COMPOSE_SERVICE, "ragflow-cpu")),
    )


def plan_down(observed: objects.Observed) -> Plan:
    """The actions that remove every demo client, and its network if ragops created it."""
    demos = [container for container in observed.containers if container.role == DEMO]
    networks = {endpoint.network for demo in demos for endpoint in demo.endpoints}
    actions: list[Action] = [Remove("container", demo.name, demo.id) for demo in demos]
    actions += [
        Remove("network", network.name, network.id)
        for network in observed.networks
        if network.ours and network.name in networks and network.name.endswith("_ragflow")
    ]
    return Plan(tuple(actions))
