"""The stub reranker in a container, for the checks that ask from inside RAGFlow's container.

::

    with stub_container(engine, "vllm-cpu:latest", name="a-reranker", network="ragflow-rerank") as box:
        box.behave(Behaviour(scorer="shuffled"))

One container plays every part: what it does is changed while it runs.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker
import httpx
import tomlkit
from starlette.requests import Request
from starlette.responses import Response

from ragops.docker.objects import ContainerSpec, HealthCheck, Mount
from ragops.errors import EngineError
from tests.support.stub import Behaviour, application

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ragops.docker.engine import Engine

PORT = 8000
"""Where the stub listens inside, as vLLM does."""

_SWITCH = "/stub/behaviour"
_FIRST = "STUB_BEHAVIOUR"
_INSIDE = "/stub"
_PATIENCE = 120.0
_SERVE = (
    *("python3", "-m", "uvicorn", "--factory", f"{__name__}:Switched", "--port", str(PORT)),
    *("--lifespan", "off", "--ws", "none", "--log-level", "warning", "--host"),
)


class Switched:
    """The stub as an ASGI application whose behaviour a request changes; the first is in the environment."""

    def __init__(self) -> None:
        self._now = application(Behaviour(**json.loads(os.environ.get(_FIRST, "{}"))), None)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer as the stub does, or become another one."""
        if scope.get("path") != _SWITCH:
            await self._now(scope, receive, send)
            return
        self._now = application(Behaviour(**await Request(scope, receive).json()), None)
        await Response(status_code=204)(scope, receive, send)


@dataclass(frozen=True)
class StubContainer:
    """A stub that runs in a container."""

    name: str
    """The container's, under which those in its network reach it."""
    port: int
    """Published for this host, so that the behaviour can be changed."""

    def behave(self, behaviour: Behaviour) -> None:
        """Behave otherwise from now on; calls are counted from one again."""
        url = f"http://127.0.0.1:{self.port}{_SWITCH}"
        httpx.post(url, content=json.dumps(asdict(behaviour)), timeout=60, trust_env=False).raise_for_status()


@contextmanager
def stub_container(
    engine: Engine,
    image: str,
    *,
    name: str,
    network: str,
    publish: tuple[str, int],
    listen: str = "0.0.0.0",
) -> Iterator[StubContainer]:
    """Start the stub in a container, wait until it answers, and remove it whatever happens.

    Args:
        engine: Where.
        image: The vLLM image: it has Python, and all that the stub imports.
        name: The container's.
        network: Where it answers under its name.
        publish: Address and port of this host to publish it on.
        listen: Address that it listens on inside; ``127.0.0.1`` is the fault that nobody else reaches.

    Raises:
        EngineError: It can't be created, or does not answer in time.
    """
    with tempfile.TemporaryDirectory(prefix="ragops-stub-") as folder:
        spec = ContainerSpec(
            name=name,
            image=image,
            entrypoint=(*_SERVE, listen),
            environment=(("PYTHONPATH", _INSIDE), ("PYTHONDONTWRITEBYTECODE", "1")),
            mounts=(Mount(str(package(Path(folder))), _INSIDE, read_only=True),),
            network=network,
            publish=((*publish, PORT),),
            init=True,
            role="test",
        )
        made = engine.create_container(spec)
        try:
            engine.start(made)
            _wait(engine, name)
            yield StubContainer(name, publish[1])
        finally:
            engine.remove_container(made)


def in_place_of_vllm(spec: ContainerSpec, folder: Path, behaviour: Behaviour) -> ContainerSpec:
    """A container of the product that runs the stub, whose :func:`package` is in the folder, not vLLM."""
    named = replace(behaviour, model=spec.served_name)
    probe = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{PORT}/health', timeout=2)"
    variables = {"PYTHONPATH": _INSIDE, "PYTHONDONTWRITEBYTECODE": "1", _FIRST: json.dumps(asdict(named))}
    return replace(
        spec,
        entrypoint=("python3", "-c", f"from uvicorn.main import main; main({[*_SERVE[3:], '0.0.0.0']})"),
        environment=tuple(variables.items()),
        mounts=(*spec.mounts, Mount(str(folder), _INSIDE, read_only=True)),
        health=HealthCheck(("python3", "-c", probe), interval=1),
    )


def package(folder: Path) -> Path:
    """Copies of ragops, of the test support and of the two libraries that the image lacks."""
    root = Path(__file__).parents[2]
    sources = {name: str(root / name) for name in ("ragops", "tests/support")}
    for package, source in {**sources, "docker": docker.__path__[0], "tomlkit": tomlkit.__path__[0]}.items():
        shutil.copytree(source, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "ragops" / "__init__.py").write_text("")
    folder.chmod(0o755)
    return folder


def _wait(engine: Engine, name: str) -> None:
    """Until it answers inside the container, whatever address it listens on there."""
    code = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{PORT}/health', timeout=2)"
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        with suppress(EngineError):
            if engine.execute(name, ("python3", "-c", code)).exit_code == 0:
                return
        time.sleep(0.2)
    raise EngineError(
        f"the stub in {name} does not answer",
        code="engine-silent",
        evidence=engine.logs(name),
        hint=f"docker logs {name}",
        container=name,
    )
