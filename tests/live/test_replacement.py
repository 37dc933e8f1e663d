"""A running reranker is replaced: the old one responds meanwhile where both fit, and after every failure.

The old reranker is a small HTTP server; the new one that dies while loading is vLLM.
"""

import dataclasses
import json
import logging
import multiprocessing
import time

import pytest

from ragops.checks import ready
from ragops.configuration import Network, Ragflow, Reranker, Stack
from ragops.docker import engine as engines
from ragops.docker.engine import observe
from ragops.docker.objects import UNPRIVILEGED, ContainerSpec
from ragops.errors import LaunchError
from ragops.reranker import options
from ragops.stack.plan import ReplaceContainer, RunContainer, apply
from ragops.stack.planning import Wanted, plan_down, plan_up
from tests.support.names import PROJECT

_log = logging.getLogger(__name__)
NAME = f"{PROJECT}-replaced"
STACK = Stack(
    network=Network(name=f"{NAME}-net"),
    reranker=Reranker(name=NAME, port=False),
    ragflow=Ragflow(project=NAME),
    gateway=False,
)
SERVER = """
import json, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

running = set()

class Server(BaseHTTPRequestHandler):
    def do_GET(self):
        models = {"data": [{"id": "cheap"}]}
        metrics = f"vllm:num_requests_running {len(running)}"
        self.reply(metrics if self.path == "/metrics" else json.dumps(models))

    def do_POST(self):
        running.add(self)
        documents = json.loads(self.rfile.read(int(self.headers["content-length"])))["documents"]
        time.sleep(0.3)
        results = [{"index": index, "relevance_score": 0.5} for index in range(len(documents))]
        running.discard(self)  # first, as its client may have left: it would never be idle again
        self.reply(json.dumps({"id": "x", "model": "cheap", "results": results}))

    def reply(self, text):
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

time.sleep(float(sys.argv[1]))
print("Application startup complete", flush=True)
ThreadingHTTPServer(("", 8000), Server).serve_forever()
"""
CLIENT = """
import json, sys, threading, time, urllib.request
body = json.dumps({"model": "cheap", "query": "q", "documents": ["a", "b"]}).encode()
request = urllib.request.Request(sys.argv[1], body, {"content-type": "application/json"})

def call():
    while True:
        begin = time.time()
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                error = "" if len(json.load(response)["results"]) == 2 else "results"
        except Exception as exception:
            error = repr(exception)
        sys.stdout.write(json.dumps([begin, time.time() - begin, error]) + "\\n")  # one write for each line
        sys.stdout.flush()

for _ in range(4):
    threading.Thread(target=call).start()
"""


@pytest.fixture(scope="module")
def server(image):
    return ContainerSpec(
        name=NAME,
        image=image.tags[0],
        image_id=image.id,
        entrypoint=("python3", "-c", SERVER, "0"),
        command=("--served-model-name", "cheap"),
        network=STACK.network.name,
        init=True,
    )


@pytest.fixture(scope="module", autouse=True)
def up(engine, server):
    try:
        apply(plan_up(STACK, Wanted((server,)), observe(engine)), engine)
        ready.wait(engine, NAME, "cheap", 300)
        yield
    finally:
        apply(plan_down(STACK, observe(engine)), engine)
    assert observe(engine).rerankers(NAME) == ()


@pytest.mark.parametrize("free", [1 << 40, 0], ids=["both fit", "one fits"])
def test_a_vllm_that_dies_while_loading_leaves_the_old_one(engine, server, byte_code, free):
    old = engine.container(NAME)
    flags = ("--model", "/nonexistent", "--served-model-name", "cheap", "--no-such-flag")
    vllm = dataclasses.replace(
        server,
        entrypoint=options.ENTRYPOINT,
        command=flags,
        memory=1 << 31,
        environment=(byte_code.variable,),
        mounts=(byte_code.mount,),
        user=f"{UNPRIVILEGED}:{UNPRIVILEGED}",
    )
    plan = plan_up(STACK, Wanted((vllm,)), observe(engine), free)
    (replacement,) = plan.actions
    assert isinstance(replacement, ReplaceContainer)
    assert bool(replacement.obstacle) is not bool(free)
    with pytest.raises(LaunchError) as caught:
        apply(plan, engine)
    assert caught.value.code == "flag-unknown"
    (left,) = observe(engine).rerankers(NAME)
    assert (left.id, left.name, left.running) == (old.id, NAME, True)
    if free:
        assert left.started_at == old.started_at
    ready.wait(engine, NAME, "cheap", 300)


def test_old_one_responds_during_the_whole_replacement(engine, server, image):
    """Four clients without a pause: no call fails but those of the moment between the renames."""
    old = engine.container(NAME)
    loading = dataclasses.replace(server, entrypoint=("python3", "-c", SERVER, "5"))
    client = ContainerSpec(
        name=f"{NAME}-client",
        image=image.tags[0],
        entrypoint=("python3", "-c", CLIENT, f"{STACK.internal_url}/rerank"),
        network=STACK.network.name,
        role="test",
    )
    RunContainer(client).apply(engine)
    try:
        while not engine.logs(client.name):
            time.sleep(0.1)
        begin = time.time()
        apply(plan_up(STACK, Wanted((loading,)), observe(engine), 1 << 40), engine)
        end = time.time()
        calls, deadline = [], time.monotonic() + 240
        while not calls or calls[-1][0] <= end:
            assert time.monotonic() < deadline
            time.sleep(0.5)
            calls = sorted(map(json.loads, engine.logs(client.name, tail=100_000).splitlines()))
    finally:
        engine.remove_container(client.name)
    assert engine.container(NAME).id != old.id
    assert observe(engine).rerankers(NAME) == (engine.container(NAME),)
    assert calls[0][0] < begin < end < calls[-1][0]
    failed = [call for call in calls if call[2]]
    slowest = max(seconds for _, seconds, _ in calls)
    _log.info("%.1f s, %d calls, slowest %.2f s, failed: %s", end - begin, len(calls), slowest, failed)
    assert {error for *_, error in failed} <= {"URLError(gaierror(-2, 'Name or service not known'))"}
    if failed:  # one moment: no call between two of them succeeds
        first, last = min(began + seconds for began, seconds, _ in failed), failed[-1][0]
        assert [call for call in calls if not call[2] and first < call[0] < call[0] + call[1] < last] == []


def replaced_in(spec, free):
    """A process that replaces the reranker."""

    def run():
        engine = engines.connect()
        apply(plan_up(STACK, Wanted((spec,)), observe(engine), free), engine)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


@pytest.mark.parametrize("free", [1 << 40, 0], ids=["both fit", "one fits"])
def test_next_up_converges_after_a_kill_in_the_middle(engine, server, free):
    old = engine.container(NAME)
    loading = dataclasses.replace(server, entrypoint=("python3", "-c", SERVER, "600"))
    process = replaced_in(loading, free)
    deadline = time.monotonic() + 240
    while len(observe(engine).rerankers(NAME)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.kill()
    process.join()
    wanted = dataclasses.replace(server, environment=(("FREE", str(free)),))
    apply(plan_up(STACK, Wanted((wanted,)), observe(engine), free), engine)
    (left,) = observe(engine).rerankers(NAME)
    assert (left.name, left.running, left.config) == (NAME, True, wanted.config_hash())
    assert left.id != old.id
    assert plan_up(STACK, Wanted((wanted,)), observe(engine), free).empty
    ready.wait(engine, NAME, "cheap", 300)
