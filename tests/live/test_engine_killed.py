"""An engine that is killed and comes back: one of this test's own, in a network namespace of its own.

Beside the engine that the other tests use, a second daemon would take that one's firewall rules away:
so it gets its own. Its containers are of an image in which there is nothing but ``sleep``.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import threading
import time
from importlib import resources
from pathlib import Path

import pytest

from ragops.checks import ready
from ragops.configuration import Network, Ragflow, Reranker, Stack
from ragops.docker import engine as engines
from ragops.docker.objects import ContainerSpec, HealthCheck
from ragops.errors import EngineError
from ragops.reranker import host as hosts
from ragops.reranker.model import Model, Shape
from ragops.reranker.sizing import size
from ragops.session import Deployment
from ragops.stack import verbs
from ragops.stack.watch import Watcher
from tools import private_engine

COMPOSE = str(resources.files("compose") / "docker-compose")
TINY = "ragopstest-tiny:latest"
PROJECT = "ragopstest-crash"
STACK = Stack(
    network=Network(name="ragopstest-lasting"),
    reranker=Reranker(name="ragopstest-cheap", image=TINY, port=False, served_name="cheap"),
    ragflow=Ragflow(project=PROJECT),
)
NET, RERANKER, RAGFLOW = STACK.network.name, STACK.reranker.name, f"{PROJECT}-ragflow-cpu-1"
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


class Daemon:
    """A Docker daemon in a folder and a network namespace of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.address = f"unix://{folder}/docker.sock"
        self._space = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        self._process = None

    def start(self):
        argv = ["nsenter", f"--net=/proc/{self._space.pid}/ns/net", "dockerd", "--host", self.address]
        argv += ["--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec"]
        argv += ["--pidfile", f"{self.folder}/pid", "--containerd-namespace", "ragopstest"]
        argv += ["--containerd-plugins-namespace", "ragopstest-plugins"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log, cwd="/")
        deadline = time.monotonic() + 60
        while True:
            try:
                return engines.connect(self.address)
            except EngineError:
                assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def kill(self):
        self._process.kill()
        self._process.wait()
        for left in (
            "pid",
            "exec/containerd/containerd.pid",
        ):  # what holds these is a zombie, and counts as alive
            (self.folder / left).unlink()

    def _shims(self):
        """Processes that belong to containers of this daemon."""
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if (
                    file.read_bytes().startswith(b"/usr/bin/containerd-shim")
                    and str(self.folder).encode() in file.read_bytes()
                ):
                    yield int(file.parent.name)

    def remove(self):
        if self._process:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(60)
        for shim in self._shims():  # none, unless the daemon did not come back
            for pid in Path(f"/proc/{shim}/task/{shim}/children").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
            os.kill(shim, signal.SIGKILL)
        self._space.kill()
        self._space.wait()
        private_engine._unmount(self.folder)
        shutil.rmtree(self.folder)


@pytest.fixture
def daemon():
    made = Daemon(Path(tempfile.mkdtemp(prefix="ragopstest-")))
    yield made
    made.remove()


def tiny(folder):
    """A root file system with ``sleep`` and what it links to."""
    program = shutil.which("sleep")
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    with tarfile.open(folder / "root.tar", "w") as tar:
        tar.add(Path(program).resolve(), "bin/sleep")
        for library in re.findall(r"(/\S+) \(", said):
            tar.add(Path(library).resolve(), library.lstrip("/"))
    return folder / "root.tar"


@pytest.fixture
def ragflow(daemon, tmp_path, monkeypatch):
    """RAGFlow's project and a reranker on that engine; gives the project's compose."""
    engine = daemon.start()
    engine.import_image(tiny(tmp_path), TINY, role="test")
    shape = Shape(layers=1, hidden=1, intermediate=1, kv_heads=1, head_dim=1, vocabulary=1)
    model = Model(tmp_path, "cheap", "none", "cross-encoder", 32, False, shape, 1, "float32")
    spec = ContainerSpec(
        name=RERANKER,
        image=TINY,
        entrypoint=("/bin/sleep", "infinity"),
        network=NET,
        restart="on-failure:5",
        health=HealthCheck(("/bin/sleep", "0"), interval=1),
        init=True,
    )
    host = hosts.read_host()
    needs = size(Stack(), model, host)
    monkeypatch.setattr(Deployment, "resolve", lambda stack, **_: Deployment(stack, model, host, needs, spec))
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
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_engine_that_was_killed_is_followed_again(daemon, ragflow, durability, messages):
    """The attachment outlives it; RAGFlow, by its policy, stays stopped until its owner starts it."""
    watcher = Watcher(lambda: STACK)
    thread = threading.Thread(target=watcher.run, daemon=True)
    thread.start()
    until(lambda: watcher._state.serving)
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
    assert f"+ connect {RAGFLOW} to {NET}" in messages
    watcher.stop()
    thread.join(60)
    assert not thread.is_alive()
    durability.append(
        {
            "event": "the Docker engine is killed and started again",
            "status": ["docker-ragflow-cpu-1: connected, exited"],
            "repair": "none needed: Docker restarts the reranker; start RAGFlow by hand",
            "watch_seconds": None,
        }
    )
