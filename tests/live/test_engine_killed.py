"""An engine that is stopped or killed, and started again: one of this test's own."""

import contextlib
import logging
import subprocess
import tempfile
import threading
import time
from importlib import resources
from pathlib import Path

import pytest

from ragops.checks import ready
from ragops.configuration import Network, Ragflow, Reranker, Stack
from ragops.docker import engine as engines
from ragops.docker.objects import ContainerSpec, HealthCheck, NetworkSpec
from ragops.reranker import gateway, options
from ragops.reranker import host as hosts
from ragops.reranker.model import Model, Shape
from ragops.reranker.sizing import size
from ragops.session import Deployment
from ragops.stack import verbs
from ragops.stack.watch import Watcher
from tests.support.daemon import Daemon, root_file_system
from tests.support.fleet import Fleet

_log = logging.getLogger(__name__)
COMPOSE = str(resources.files("compose") / "docker-compose")
TINY = "ragopstest-tiny:latest"
PROJECT = "ragopstest-crash"
STACK = Stack(
    network=Network(name="ragopstest-lasting"),
    reranker=Reranker(name="ragopstest-cheap", image=TINY, port=False, served_name="cheap"),
    ragflow=Ragflow(project=PROJECT),
    gateway=False,  # the small server ranks nothing
)
NET, RERANKER, RAGFLOW = STACK.network.name, STACK.reranker.name, f"{PROJECT}-ragflow-cpu-1"
SERVER = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("ready", flush=True)
signal.pause()
"""
"""Exits as vLLM does."""
FILE = f"""
services:
  ragflow-cpu:
    image: {TINY}
    entrypoint: [/bin/sleep, infinity]
    init: true
    networks: [ragflow]
    restart: unless-stopped
networks:
  ragflow: {{driver: bridge}}
"""


@pytest.fixture
def daemon():
    made = Daemon(Path(tempfile.mkdtemp(prefix="ragopstest-")))
    yield made
    made.remove()


@pytest.fixture
def ragflow(daemon, tmp_path, monkeypatch):
    """RAGFlow's project and a reranker on that engine; gives the project's compose."""
    engine = daemon.start()
    engine.import_image(root_file_system(tmp_path), TINY, role="test")
    shape = Shape(layers=1, hidden=1, intermediate=1, kv_heads=1, head_dim=1, vocabulary=1)
    model = Model(tmp_path, "cheap", "none", "cross-encoder", 32, False, shape, 1, "float32")
    host = hosts.read_host()
    needs = size(Stack(), model, host)
    product = options.container_spec(Stack(), model, needs, image=TINY)
    spec = ContainerSpec(
        name=RERANKER,
        image=TINY,
        entrypoint=("/bin/python3", "-c", SERVER),
        network=NET,
        restart=product.restart,
        stop_signal=product.stop_signal,
        health=HealthCheck(("/bin/sleep", "0"), interval=1),
    )
    deployed = (model, host, (needs,), (spec,))
    monkeypatch.setattr(Deployment, "resolve", lambda stack, *_: Deployment(stack, *deployed))
    monkeypatch.setattr(ready, "responds", lambda *_, **__: True)  # there is no program that could
    monkeypatch.setenv("DOCKER_HOST", daemon.address)
    monkeypatch.setenv("RAGOPS_HOME", str(tmp_path / "home"))
    file = tmp_path / "docker-compose.yml"
    file.write_text(FILE)

    def compose(*argv):
        command = [COMPOSE, "-p", PROJECT, "-f", str(file), *argv, "--timeout", "1"]
        subprocess.run(command, check=True, capture_output=True)

    compose("up", "-d")
    assert verbs.up(STACK, engine).ok
    engine.close()
    return compose


def until(done):
    deadline = time.monotonic() + 240
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_engine_that_was_killed_is_followed_again(daemon, ragflow, durability, messages):
    """The attachment outlives it; RAGFlow, by its policy, stays stopped until its owner starts it."""
    watcher = Watcher(lambda: STACK)
    thread = threading.Thread(target=watcher.run, daemon=True)
    thread.start()
    until(lambda: watcher._state.container(RERANKER).serving)
    daemon.kill()
    until(lambda: "the Docker engine is unreachable: waiting for it" in messages)
    with contextlib.closing(daemon.start()) as engine:
        until(lambda: engine.container(RERANKER).health == "healthy")
        status = verbs.status(STACK, engine)
        (ragflow_state,) = status.ragflow
        assert (status.connected(ragflow_state), ragflow_state.container.status) == (True, "exited")
        assert status.drift.empty
        until(lambda: "the Docker engine is reachable again" in messages)
        engine.start(RAGFLOW)
        assert engine.container(RAGFLOW).endpoint(NET).address
        ragflow("up", "-d", "--force-recreate")
        until(lambda: engine.container(RAGFLOW).endpoint(NET) is not None)
        until(lambda: f"+ connect {RAGFLOW} to {NET}" in messages)
    watcher.stop()
    thread.join(240)
    assert not thread.is_alive()
    durability.append(
        {
            "event": "the Docker engine is killed and started again",
            "status": ["docker-ragflow-cpu-1: connected, exited"],
            "repair": "none needed: Docker restarts the reranker; start RAGFlow by hand",
            "watch_seconds": None,
        }
    )


def test_reranker_returns_after_a_restart_of_the_engine_and_one_that_exits_with_0_does_not(
    daemon, ragflow, durability
):
    with contextlib.closing(engines.connect(daemon.address)) as engine:
        command = ("/bin/python3", "-c", SERVER)
        other = ContainerSpec(
            "ragopstest-term", TINY, entrypoint=command, restart="on-failure:5", role="test"
        )
        engine.start(engine.create_container(other))
        until(lambda: "ready" in engine.logs(other.name))
    for _ in range(2):  # not only once
        daemon.stop()
        with contextlib.closing(daemon.start()) as engine:
            until(lambda: engine.container(RERANKER).health == "healthy")
            assert engine.container(RERANKER).restart_count == 0
            assert engine.container(RERANKER).endpoint(NET).address
            assert verbs.status(STACK, engine).drift.empty
            stopped = engine.container(other.name)
            assert (stopped.status, stopped.exit_code) == ("exited", 0)
    durability.append(
        {
            "event": "the Docker engine is restarted, or the machine",
            "status": [],
            "repair": "none needed: Docker restarts the reranker",
            "watch_seconds": None,
        }
    )


def test_gateway_proves_its_replicas_again_after_each_restart_of_the_engine(
    engine, image, daemon, tmp_path_factory
):
    """The replicas are stubs, with the image that the engine has."""
    folder = tmp_path_factory.mktemp("again")
    folder.chmod(0o755)
    with contextlib.closing(daemon.start()) as own:
        own._client.api.load_image(engine._client.api.get_image(gateway.tag()))
        own.create_network(NetworkSpec(NET))
        fleet = Fleet(own, own.image(gateway.tag()).id, folder, RERANKER, NET, port=0)
        for number in (1, 2):
            fleet.add(number, restart="always")
        fleet.serve(27.0)
        until(lambda: admitted(own) == 2)
    for end in (daemon.stop, daemon.kill):
        end()
        with contextlib.closing(daemon.start()) as own:
            begin = time.monotonic()
            until(lambda own=own: admitted(own) == 2)
            _log.info("%s: all are admitted after %.1f s", end.__name__, time.monotonic() - begin)


def admitted(engine):
    state = gateway.read_state(engine, RERANKER)
    return len(state.admitted) if state else 0
