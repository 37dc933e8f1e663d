"""Whether a connection lasts: each fault on a real Docker engine with the real Compose, named and repaired.

The reranker is replaced by a small server of the standard library, and RAGFlow by a compose project of
its shape in which only ``sleep`` runs.
"""

import dataclasses
import functools
import subprocess
import textwrap
import threading
import time
from importlib import resources

import pytest

from ragops.compose import render
from ragops.configuration import Network, Ragflow, Reranker, Stack
from ragops.docker.objects import ContainerSpec, HealthCheck
from ragops.errors import InUseError
from ragops.ragflow import discovery
from ragops.reranker import host as hosts
from ragops.reranker.model import Model, Shape
from ragops.reranker.sizing import sizes
from ragops.session import Deployment, lock
from ragops.stack import override, verbs
from ragops.stack.plan import network_spec
from ragops.stack.watch import Pace, Watcher
from tests.support import names

COMPOSE = str(resources.files("compose") / "docker-compose")
PROJECT = f"{names.PROJECT}-kept"
STACK = Stack(
    network=Network(name=f"{names.PROJECT}-lasting"),
    reranker=Reranker(name=f"{names.PROJECT}-cheap", port=False, served_name="cheap"),
    ragflow=Ragflow(project=PROJECT),
    gateway=False,  # the small server has no right scores
)
NET, RERANKER = STACK.network.name, STACK.reranker.name
PACE = Pace(probe=1.0, timeout=10.0, misses=2)
"""A machine that is only busy responds in time."""

SERVER = """
import json, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Server(BaseHTTPRequestHandler):
    hangs = False

    def do_GET(self):
        Server.hangs = Server.hangs or self.path == "/hang"
        self.say({"data": [{"id": "cheap"}]})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        while Server.hangs:
            time.sleep(1)
        rows = [{"index": n, "document": {"text": text}, "relevance_score": 0.5}
                for n, text in enumerate(request["documents"])]
        self.say({"id": "x", "model": "cheap", "usage": {"total_tokens": 1}, "results": rows})

    def say(self, answer):
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

print("Application startup complete", flush=True)
ThreadingHTTPServer(("", 8000), Server).serve_forever()
"""
ASK = "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/{}', timeout=5)"

NEW = """
services:
  ragflow-cpu: &server
    image: {image}
    entrypoint: [sleep, infinity]
    init: true
    networks: [ragflow]
    restart: unless-stopped
networks:
  ragflow:
    driver: bridge
"""
OLD = NEW.replace("ragflow-cpu: &server", f"ragflow:\n    container_name: {names.PROJECT}-ragflow-server")


class Project:
    """A compose project of RAGFlow's shape."""

    def __init__(self, engine, image, folder, cheap):
        self.engine, self.image, self.cheap = engine, image, cheap
        self.file = folder / "docker-compose.yml"
        self._resolve = Deployment.resolve

    def desired(self, stack, *given, **options):
        """The cheap reranker for this stack, the real one for another."""
        return self.cheap if stack is STACK else self._resolve(stack, *given, **options)

    def shape(self, text):
        self.file.write_text(text.format(image=self.image))
        self.compose("up", "-d", "--remove-orphans", "--timeout", "1")

    def compose(self, *argv, files=None):
        named = [part for item in files or (self.file,) for part in ("-f", str(item))]
        self.run((str(COMPOSE), "-p", PROJECT, *named, *argv))

    def run(self, command):
        argv = [str(COMPOSE), *command[2:]] if command[:2] == ("docker", "compose") else command
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def found(self):
        return discovery.find(self.engine.containers(), STACK.ragflow)

    @property
    def container(self):
        (found,) = self.found()
        return found.container

    @property
    def joined(self):
        place = self.container.endpoint(NET)
        network = self.engine.network(NET)
        return place is not None and network is not None and place.network_id == network.id


@pytest.fixture(scope="module")
def cheap(image):
    health = HealthCheck(("python3", "-c", ASK.format("health")), interval=1, start_period=60)
    return ContainerSpec(
        name=RERANKER,
        image=image.tags[0],
        entrypoint=("python3", "-c", SERVER),
        network=NET,
        restart="on-failure:5",
        health=health,
        init=True,
    )


@pytest.fixture(scope="module")
def project(engine, image, cheap, tmp_path_factory):
    """RAGFlow's project and a reranker; everything is taken away again."""
    folder = tmp_path_factory.mktemp("ragflow")
    shape = Shape(layers=1, hidden=1, intermediate=1, kv_heads=1, head_dim=1, vocabulary=1)
    model = Model(folder, "cheap", "none", "cross-encoder", 32, False, shape, 1, "float32")
    with pytest.MonkeyPatch.context() as patched:
        host = hosts.read_host()
        deployment = Deployment(STACK, model, host, sizes(STACK, model, host), (cheap,))
        made = Project(engine, image.tags[0], folder, deployment)
        patched.setattr(Deployment, "resolve", made.desired)
        patched.setenv("DOCKER_HOST", engine.state().address)
        try:
            yield made
        finally:
            verbs.down(STACK, engine)
            made.compose("down", "--remove-orphans", "--timeout", "1")
            if engine.network(f"{PROJECT}_default"):  # of a shape that its file no longer has
                engine.remove_network(f"{PROJECT}_default")
    assert not [item.name for item in engine.networks() if item.name.startswith(PROJECT)]
    assert engine.network(NET) is None
    assert engine.container(RERANKER) is None


@pytest.fixture
def ragflow(engine, project):
    """The project, up and connected, in the shape of current releases and without an override."""
    for file in project.file.parent.glob("*override*"):
        file.unlink()
    project.shape(NEW)
    verbs.up(STACK, engine)
    assert drift(engine) == []
    return project


@pytest.fixture
def watch(ragflow, messages):
    """Starts to watch; gives the lines that are logged."""
    made = []

    def begin():
        watcher = Watcher(lambda: STACK, PACE)
        thread = threading.Thread(target=watcher.run, daemon=True)
        thread.start()
        made.append((watcher, thread))
        until(lambda: watcher._state.container(RERANKER).serving and not watcher._state.disconnected)
        return messages

    yield begin
    for watcher, thread in made:
        watcher.stop()
        thread.join(240)
        assert not thread.is_alive()


def until(done):
    """Seconds until something is so."""
    begin = time.monotonic()
    while not done():
        assert time.monotonic() < begin + 240
        time.sleep(0.02)
    return time.monotonic() - begin


def same(container):
    return container.id, container.started_at


def drift(engine):
    """What one call of status says."""
    status = verbs.status(STACK, engine)
    assert status.ok == status.drift.empty
    return [action.describe() for action in status.drift.actions]


def restart(ragflow):
    ragflow.compose("restart", "--timeout", "1")


def recreate(ragflow):
    ragflow.compose("up", "-d", "--force-recreate", "--timeout", "1")


def upgrade(ragflow):
    ragflow.shape(NEW)


def lose_network(ragflow):
    """Both containers are disconnected and the network is removed, while the lock prevents a repair."""
    with lock(ragflow.engine.state().address, RERANKER):
        for name in (ragflow.container.name, RERANKER):
            ragflow.engine._client.api.disconnect_container_from_network(name, NET, force=True)
        ragflow.engine.remove_network(NET)


def lose_network_while_stopped(ragflow):
    """Docker allows it, but cannot start a container of that network afterwards."""
    for name in (ragflow.container.name, RERANKER):
        ragflow.engine.stop(name)
    ragflow.engine.remove_network(NET)


def kill_reranker(ragflow):
    ragflow.engine._client.api.kill(RERANKER)


def hang(ragflow):
    ragflow.engine.execute(RERANKER, ("python3", "-c", ASK.format("hang")))


CONNECT = "+ connect {} to " + NET
START = f"~ start container {RERANKER}"
CASES = {
    "RAGFlow restarts": (restart, []),
    "RAGFlow is recreated by docker compose": (recreate, [CONNECT]),
    "RAGFlow is upgraded from v0.21 to v0.22": (upgrade, [CONNECT]),
    "the network is removed": (
        lose_network,
        [f"+ create network {NET}", f"~ replace container {RERANKER}: its network is gone", CONNECT],
    ),
    "the reranker is killed": (kill_reranker, [START]),
}


def before(ragflow, fault):
    """What an upgrade begins with."""
    if fault is upgrade:
        ragflow.shape(OLD)
        assert verbs.up(STACK, ragflow.engine).ok


@pytest.mark.parametrize("event", CASES)
def test_fault_is_named_by_status_and_repaired(engine, ragflow, watch, durability, event):
    """First with ``up``, then once more with ``watch``; the repair leaves RAGFlow's container as it was."""
    fault, wanted = CASES[event]
    before(ragflow, fault)
    fault(ragflow)
    after = ragflow.container
    named = drift(engine)
    expected = [line.format(after.name) for line in wanted]
    assert [line[: len(start)] for line, start in zip(named, expected, strict=True)] == expected
    assert verbs.up(STACK, engine).ok
    assert same(ragflow.container) == same(after)
    before(ragflow, fault)
    lines = watch()
    fault(ragflow)
    seconds = until(lambda: ragflow.joined and engine.container(RERANKER).health == "healthy")
    container = ragflow.container
    until(lambda: drift(engine) == [])
    assert same(ragflow.container) == same(container)
    assert named or [line for line in lines if line.startswith(("~ ", "+ ", "- "))] == []
    record(durability, event, named, seconds if named else None)


def test_one_that_is_stopped_survives_the_loss_of_its_network(engine, ragflow, durability):
    lose_network_while_stopped(ragflow)
    named = drift(engine)
    assert f"+ create network {NET}" in named
    container = ragflow.container
    assert verbs.up(STACK, engine).ok
    assert same(ragflow.container) == same(container)
    assert not ragflow.container.running  # starting RAGFlow is its owner's
    engine.start(container.id)
    assert ragflow.joined
    record(durability, "the network is removed while RAGFlow is stopped", named, None)


def test_hang_that_health_does_not_show_is_ended_by_watch(engine, ragflow, watch, durability):
    lines, before = watch(), engine.container(RERANKER).started_at
    hang(ragflow)
    until(lambda: engine.container(RERANKER).started_at != before)
    assert f"~ restart container {RERANKER}: no response to 2 requests" in lines
    until(lambda: drift(engine) == [])
    event = "the reranker hangs, but /health succeeds"
    record(durability, event, [], None, by="watch, after three requests without a response")


def test_override_keeps_what_a_connection_by_hand_loses(engine, ragflow, durability):
    made = override.override(ragflow.found(), STACK.network, engine.networks())
    file, _ = override.write(made)
    ragflow.run(made.command)
    assert ragflow.joined
    first = ragflow.container.id
    ragflow.compose("up", "-d", "--force-recreate", "--timeout", "1", files=(ragflow.file, file))
    assert ragflow.container.id != first
    assert ragflow.joined
    assert {place.network for place in ragflow.container.endpoints} == {NET, f"{PROJECT}_ragflow"}
    assert drift(engine) == []
    record(durability, "RAGFlow is recreated, with the override file", [], None)
    again = override.override(ragflow.found(), STACK.network, engine.networks())
    assert again.command == made.command
    assert override.applied(engine.containers(), NET) == (file,)
    recreate(ragflow)  # with -f for RAGFlow's own file only
    assert drift(engine) == [CONNECT.format(ragflow.container.name)]
    record(durability, "RAGFlow is recreated, with -f that leaves the override out", drift(engine), None)


def test_override_keeps_the_default_network_of_a_service_that_names_none(engine, ragflow):
    text = NEW[: NEW.index("networks:\n  ragflow:")].replace("    networks: [ragflow]\n", "")
    ragflow.shape(textwrap.dedent(text))
    made = override.override(ragflow.found(), STACK.network, engine.networks())
    override.write(made)
    ragflow.run(made.command)
    assert {place.network for place in ragflow.container.endpoints} == {NET, f"{PROJECT}_default"}


def test_network_of_another_container_is_not_removed_though_docker_would(engine, ragflow, cheap):
    name = f"{names.PROJECT}-foreign-container"
    bare = {"Image": cheap.image, "Cmd": ["true"], "HostConfig": {"NetworkMode": NET}}  # without our label
    made = engine._client.api.create_container_from_config(bare, name=name)["Id"]
    try:
        with pytest.raises(InUseError) as caught:
            verbs.down(STACK, engine)
        assert name in caught.value.message
        assert verbs.status(STACK, engine).ok
    finally:
        engine.remove_container(made)


def test_replica_of_its_compose_file_is_the_one_that_up_starts(engine, declared, running, tmp_path, image):
    """In every field that matters, up to what compose has no word for: the NUMA nodes of its memory."""
    wanted = Deployment.resolve(declared).spec
    ours = engine._client.api.inspect_container(wanted.name)
    labels = (*wanted.labels, ("org.ragops.config", wanted.config_hash()))
    other = dataclasses.replace(wanted, name=f"{names.PROJECT}-rendered", labels=labels)
    file = tmp_path / "compose.yml"
    file.write_text(render.reranker([other], network_spec(declared.shared_network)))
    argv = [str(COMPOSE), "-p", f"{names.PROJECT}-rendered", "-f", str(file)]
    made = subprocess.run([*argv, "create"], capture_output=True, text=True, check=False)
    try:
        assert made.returncode == 0, made.stderr
        theirs = engine._client.api.inspect_container(f"{names.PROJECT}-rendered")
        assert fields(theirs, f"{names.PROJECT}-rendered") == fields(ours, wanted.name)
    finally:
        subprocess.run([*argv, "down"], capture_output=True, check=False)
    assert engine.container(f"{names.PROJECT}-rendered") is None


def fields(raw, name):
    """What makes a container behave as it does; its own name is taken out of it."""
    config, host = raw["Config"], raw["HostConfig"]
    same_name = ("Memory", "MemorySwap", "ShmSize", "PidsLimit", "CpusetCpus", "NanoCpus", "CpuQuota")
    lists = ("CapDrop", "CapAdd", "SecurityOpt")
    mounts = ("Type", "Source", "Destination", "RW")
    ends = raw["NetworkSettings"]["Networks"]
    return {
        **{
            key: host[key]
            for key in (*same_name, "RestartPolicy", "ReadonlyRootfs", "Privileged", "Tmpfs", "PortBindings")
        },
        **{key: sorted(host[key] or ()) for key in lists},
        "Init": bool(host.get("Init")),
        "Image": raw["Image"],
        "Command": [raw["Path"], *raw["Args"]],
        "Env": sorted(config["Env"]),
        "Health": config["Healthcheck"],
        "User": config["User"],
        "StopSignal": config["StopSignal"],
        "LogConfig": host["LogConfig"],
        "Mounts": sorted(tuple(str(item[key]) for key in mounts) for item in raw["Mounts"]),
        "Labels": {
            key: value.replace(name, "NAME")
            for key, value in config["Labels"].items()
            if key.startswith("org.ragops")
        },
        # Docker resolves a container's name; compose makes it an alias too.
        "Networks": {
            network: sorted({*(end["Aliases"] or ())} - {name, raw["Id"][:12]})
            for network, end in ends.items()
        },
    }


def record(durability, event, named, seconds, by=None):
    """One row of the matrix; names as they are outside of tests."""
    plain = {NET: "ragflow-rerank", RERANKER: Reranker().name, PROJECT: "docker"}
    shown = [functools.reduce(lambda text, pair: text.replace(*pair), plain.items(), line) for line in named]
    durability.append(
        {
            "event": event,
            "status": shown,
            "repair": by or ("up or watch" if named else "none needed"),
            "watch_seconds": None if seconds is None else round(seconds, 1),
        }
    )
