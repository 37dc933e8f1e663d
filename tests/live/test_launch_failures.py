"""A reranker that ends or does not respond: up, status, verify and watch name the cause, with its remedy."""

import dataclasses
import json
import logging
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from ragops import configuration
from ragops.checks import ready
from ragops.checks.connection import RUNS
from ragops.docker.engine import observe
from ragops.docker.objects import HealthCheck, NetworkSpec
from ragops.errors import EngineError, LaunchError
from ragops.reranker import options
from ragops.reranker.files import bundled_minilm
from ragops.session import Deployment
from ragops.stack import verbs
from ragops.stack.plan import ReplaceContainer, RunContainer
from ragops.stack.watch import Pace, Watcher
from tests.support.names import PROJECT

NAME = f"{PROJECT}-broken"
LIMIT = 240
"""Seconds for what takes a few, on any machine."""


@pytest.fixture
def spec(engine, direct, running):
    """The product's launch under another name, in a network of its own, with the stack's warm cache."""
    engine.create_network(NetworkSpec(f"{NAME}-net"))
    wanted = Deployment.resolve(direct).spec
    yield dataclasses.replace(wanted, name=NAME, network=f"{NAME}-net", publish=(), restart="no")
    if engine.container(NAME):
        engine.remove_container(NAME)
    engine.remove_network(f"{NAME}-net")


def waited(engine, spec):
    """The error of a launch that fails."""
    RunContainer(spec).apply(engine)
    with pytest.raises(LaunchError) as caught:
        ready.wait(engine, NAME, "none", timeout=600)
    return caught.value


def test_a_wrong_flag_is_quoted(engine, spec):
    error = waited(engine, dataclasses.replace(spec, command=(*spec.command, "--no-such-flag")))
    assert (error.code, error.container) == ("flag-unknown", NAME)
    assert "--no-such-flag" in error.evidence


def test_too_little_memory_is_named(engine, spec):
    error = waited(engine, dataclasses.replace(spec, memory=300 * 1024**2))
    assert error.code == "out-of-memory"
    assert "memory_gib" in error.hint


def test_too_little_shared_memory_is_named(engine, spec):
    error = waited(engine, dataclasses.replace(spec, shm_size=64 * 1024**2))
    assert error.code == "shm-small"
    assert "Insufficient space in /dev/shm" in error.evidence


def test_a_removed_container_is_no_endless_wait(engine, spec):
    RunContainer(spec).apply(engine)
    engine.remove_container(NAME)
    with pytest.raises(LaunchError) as caught:
        ready.wait(engine, NAME, "none", timeout=600)
    assert caught.value.code == "reranker-missing"


def test_a_replacement_that_fails_gives_the_old_one_back(engine, spec):
    old = dataclasses.replace(spec, entrypoint=("sleep", "600"), command=())
    RunContainer(old).apply(engine)
    before = engine.container(NAME)
    broken = dataclasses.replace(spec, entrypoint=("/no/such/program",), command=())
    with pytest.raises(EngineError):
        ReplaceContainer(broken, before, "test").apply(engine)
    after = engine.container(NAME)
    assert after.id == before.id
    assert after.running
    assert observe(engine).rerankers(NAME) == (after,)


HANG = "/tmp/hang"  # noqa: S108
"""The server stops responding once it exists."""
SERVER = """
import json, os, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
mode, grow = sys.argv[1], "x = []\\nwhile True: x.append(bytearray(1 << 20))"
print("non-default args: {}", flush=True)
if mode.isdecimal():
    time.sleep(1)
    os._exit(int(mode))
if mode == "oom":
    exec(grow)
if mode == "child":
    sys.exit(subprocess.run([sys.executable, "-c", grow]).returncode and 1)
if mode == "load":
    print("Starting to load model", flush=True)
    time.sleep(600)
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if mode == "hang" or os.path.exists("/tmp/hang"):
            time.sleep(600)
        body = json.dumps({"results": [{"index": 0, "relevance_score": 0.5}], "data": []}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()
    def log_message(self, *_): pass
print("Application startup complete", flush=True)
ThreadingHTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
"""
"""In vLLM's place: it ends with an exit code, uses up the memory itself or in a child, loads, or serves."""


def served(container_spec, mode):
    """The product's container with :data:`SERVER` in it."""

    def spec(*argv, **more):
        probe = "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"
        return dataclasses.replace(
            container_spec(*argv, **more),
            entrypoint=("python3", "-c", SERVER),
            command=(mode(),),
            memory=(64 if mode() in {"oom", "child"} else 512) * 1024**2,
            health=HealthCheck(("python3", "-c", probe), interval=1, timeout=5, start_period=5),
        )

    return spec


class Broken:
    """A stack whose server is :data:`SERVER`."""

    def __init__(self, engine, client, monkeypatch, caplog):
        self.engine, self.caplog, self.mode = engine, caplog, "serve"
        self.stack = configuration.Stack(
            network=configuration.Network(name=f"{NAME}-net"),
            reranker=configuration.Reranker(name=NAME, port=False, ready_timeout=LIMIT),
            ragflow=configuration.Ragflow(containers=(client,)),
            gateway=False,  # this is about vLLM's container
        )
        spec = served(options.container_spec, lambda: self.mode)
        monkeypatch.setattr(options, "container_spec", spec)

    def up(self, mode):
        self.mode = mode
        return verbs.up(self.stack, self.engine)

    def fails(self, mode):
        """The error of ``up``, and the seconds until then."""
        begin = time.monotonic()
        with pytest.raises(LaunchError) as caught:
            self.up(mode)
        assert caught.value.hint
        return caught.value, time.monotonic() - begin

    def named(self):
        """The code that ``status`` names, and the cause of ``verify``, once there are both."""
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            problem = verbs.status(self.stack, self.engine).problem
            if problem and problem.code != "reranker-loading":
                break
            time.sleep(0.2)
        report = verbs.verify(self.stack, self.engine, budget=False)
        failure = report.first_failure()
        assert failure.remedy
        return problem.code, failure

    @contextmanager
    def watched(self):
        """What ``watch`` logs; it starts before the fault."""
        self.caplog.set_level(logging.INFO, "ragops")
        self.caplog.clear()
        watcher = Watcher(lambda: self.stack, Pace(probe=1.0, timeout=10.0))
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(watcher.run)
            try:
                self.logged("watching")
                yield
            finally:
                watcher.stop()
                done.result(LIMIT)

    def logged(self, words):
        """Seconds until ``watch`` has logged these words."""
        begin = time.monotonic()
        while not any(words in message for message in self.caplog.messages):
            assert time.monotonic() - begin < LIMIT, self.caplog.messages
            time.sleep(0.05)
        return time.monotonic() - begin


@pytest.fixture
def broken(engine, image, client, monkeypatch, caplog):
    stack = Broken(engine, client, monkeypatch, caplog)
    yield stack
    verbs.down(stack.stack, engine)


@pytest.fixture(scope="module")
def recorded():
    """Seconds from each fault until a verb has named its cause, in ``build/causes.json``."""
    rows = {}
    yield rows
    file = Path(__file__).parents[2] / "build" / "causes.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(rows, indent=1) + "\n")


@pytest.fixture
def times(request, recorded):
    row = recorded.setdefault(request.node.name, {})
    return lambda **seconds: row.update({verb: round(value, 1) for verb, value in seconds.items()})


CRASHES = {
    "132": ("cpu-too-old", "code 132 (SIGILL)"),
    "139": ("server-crashed", "code 139 (SIGSEGV)"),
    "1": ("start-failed", "code 1"),
    "oom": ("out-of-memory", "out of memory"),
    "child": ("out-of-memory", "code 1"),
}


@pytest.mark.parametrize("mode", CRASHES)
def test_cause_of_a_crash_survives_dockers_restarts(broken, mode, times):
    code, words = CRASHES[mode]
    error, seconds = broken.fails(mode)
    times(up=seconds)
    assert error.code == code
    assert words in error.message
    assert seconds < LIMIT  # of its start
    status, failure = broken.named()
    assert (status, failure.name) == (code, RUNS)
    assert words in failure.detail
    with broken.watched():
        broken.logged(words)


def test_hang_at_the_start(broken, times):
    """It listens, and does not respond."""
    broken.stack = broken.stack.model_copy(
        update={"reranker": broken.stack.reranker.model_copy(update={"ready_timeout": 20})}
    )
    error, seconds = broken.fails("hang")
    times(up=seconds)
    assert error.code == "reranker-hangs"
    assert seconds < LIMIT  # the default limit is longer


def test_hang_after_it_has_served(broken, engine, times):
    broken.up("serve")
    engine.execute(NAME, ("touch", HANG))
    with broken.watched():
        times(watch=broken.logged("listens, but does not respond"))
        broken.logged("~ restart container")
    broken.up("serve")
    while engine.container(NAME).health != "healthy":
        time.sleep(0.2)
    engine.execute(NAME, ("touch", HANG))
    status, failure = broken.named()
    assert status == "reranker-hangs"
    assert "hangs" in failure.detail


FAULTS = {
    "pause": (lambda api: api.pause(NAME), "reranker-paused", "is paused"),
    "stop": (lambda api: api.stop(NAME, timeout=1), "reranker-stopped", "was stopped"),
    "kill": (lambda api: api.kill(NAME), "reranker-killed", "code 137 (SIGKILL)"),
    "removal": (lambda api: api.remove_container(NAME, force=True), "reranker-missing", "does not exist"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_while_it_loads_and_while_it_serves(broken, engine, fault, times):
    act, code, words = FAULTS[fault]
    with ThreadPoolExecutor(1) as pool:
        failing = pool.submit(broken.fails, "load")
        while (container := engine.container(NAME)) is None or not container.running:
            time.sleep(0.1)
        time.sleep(2)
        begin = time.monotonic()
        act(engine._client.api)
        error, _ = failing.result(LIMIT)
    times(up=time.monotonic() - begin)
    assert error.code == code
    assert words in error.message
    assert time.monotonic() - begin < LIMIT - 10  # before the limit of its start
    if container := engine.container(NAME):
        engine.remove_container(container.id)
    broken.up("serve")
    if fault != "removal":
        act(engine._client.api)
        status, failure = broken.named()
        assert (status, failure.name) == (code, RUNS)
        assert words in failure.detail
        engine.remove_container(NAME)
        broken.up("serve")
    with broken.watched():
        act(engine._client.api)
        times(watch=broken.logged("+ run" if fault == "removal" else words))
        if fault == "pause":
            time.sleep(8)  # its health check fails meanwhile
            engine.unpause(NAME)
            time.sleep(5)
            assert not [message for message in broken.caplog.messages if message.startswith("~")]


RACE = """
import os, sys
from ragops import configuration
from ragops.docker import engine as engines
from ragops.docker.objects import NetworkSpec
from ragops.errors import RagopsError
from ragops.reranker import options
from ragops.stack import verbs
from ragops.stack.plan import CreateNetwork
from tests.live.test_launch_failures import served
how, name, client = sys.argv[1:]
engine = engines.connect()
options.container_spec = served(options.container_spec, lambda: "serve")
stack = configuration.Stack(
    network=configuration.Network(name=name),
    reranker=configuration.Reranker(name=name, port=False, ready_timeout=600),
    ragflow=configuration.Ragflow(containers=(client,)),
    gateway=False,
)
print("ready", flush=True)
for _ in sys.stdin:
    try:
        verbs.up(stack, engine) if how == "up" else CreateNetwork(NetworkSpec(name)).apply(engine)
        print("done", flush=True)
    except RagopsError as error:
        print(error.code, flush=True)
"""


@pytest.mark.parametrize(("how", "rounds"), [("up", 3), ("network", 10)])
def test_two_homes_at_once_leave_one_network(engine, image, client, tmp_path, how, rounds):
    """With another address of the same engine; the second way is that of processes with different locks."""
    socket, name = tmp_path / "other.sock", f"{NAME}-race"
    socket.symlink_to(engine.state().socket)
    environments = (
        {**os.environ, "DOCKER_HOST": engine.state().address},
        {**os.environ, "DOCKER_HOST": f"unix://{socket}", "RAGOPS_HOME": str(tmp_path)},
    )
    bundled_minilm(tmp_path)
    argv = [sys.executable, "-c", RACE, how, name, client]
    both = [
        subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for env in environments
    ]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for _ in range(rounds):
        for process in both:
            process.stdin.write("go\n")
            process.stdin.flush()
        results = [process.stdout.readline().strip() for process in both]
        networks = [network for network in engine.networks() if network.name == name]
        assert len(networks) == 1
        assert "done" in results
        assert set(results) <= {"done", "locked", "engine-refused"}
        if engine.container(name):
            engine.remove_container(name)
            engine.disconnect(name, client)
            engine.remove_volume(f"{name}-compiled")
        engine.remove_network(networks[0].id)
    for process in both:
        assert process.communicate(timeout=LIMIT) == ("", None)
