"""``ragops watch`` of a gateway and two replicas: what ended or hangs serves again without a person.

The gateway is the real one, the replicas are stubs that start within a second.
"""

import dataclasses
import json
import shutil
import threading
import time

import pytest

from ragops.configuration import Gateway, Network, Ragflow, Reranker, Stack
from ragops.docker.objects import ContainerSpec, HealthCheck, Mount
from ragops.reranker import gateway, options
from ragops.session import Deployment, create_folder
from ragops.stack import verbs
from ragops.stack.watch import Pace, Watcher
from tests.support import replicas
from tests.support.names import PROJECT

STACK = Stack(
    network=Network(name=f"{PROJECT}-watched"),
    reranker=Reranker(name=f"{PROJECT}-watched", port=False, replicas=2),
    ragflow=Ragflow(project=PROJECT),
    gateway=Gateway(deadline=27.0),
)
NAME, (FIRST, SECOND) = STACK.reranker.name, STACK.replica_names
GET = "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=2)"
HANG = "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/behaviour', b'{\"fault\": \"hang\"}')"


@pytest.fixture
def watched(engine, image, client, tmp_path, monkeypatch, messages):
    """The stack, up and watched; gives the lines that are logged."""
    shutil.copy(replicas.__file__, tmp_path)
    tmp_path.chmod(0o755)
    stub = ContainerSpec(
        name=NAME,
        image=image.tags[0],
        entrypoint=("sh", "-c", "exec python3 /stub/replicas.py", "stub"),
        command=("--served-model-name", replicas.MODEL),
        mounts=(Mount(str(tmp_path), "/stub", read_only=True),),
        network=STACK.network.name,
        restart="on-failure:5",
        init=True,
        health=HealthCheck(("python3", "-c", GET), interval=1, start_period=60),
    )
    stubs = tuple(options.as_replica(STACK, stub, name) for name in STACK.replica_names)
    create_folder(STACK, engine.state())
    resolved = Deployment.resolve(STACK, engine=engine.state())
    deployment = dataclasses.replace(resolved, replicas=stubs)
    monkeypatch.setattr(Deployment, "resolve", lambda *_, **__: deployment)
    approved = lambda *given, **_: json.dumps(replicas.reference(identity=given[4]))  # noqa: E731
    monkeypatch.setattr("ragops.checks.reference.approve", approved)
    monkeypatch.setenv("DOCKER_HOST", engine.state().address)
    watcher = Watcher(lambda: STACK, Pace(probe=1.0, timeout=10.0, misses=2))
    thread = threading.Thread(target=watcher.run, daemon=True)
    try:
        assert verbs.up(STACK, engine).ok
        thread.start()
        until(lambda: all(watcher._state.container(name).serving for name in (NAME, FIRST, SECOND)))
        yield messages
    finally:
        watcher.stop()
        thread.join(240)
        verbs.down(STACK, engine)
    assert not thread.is_alive()
    assert [box.name for box in engine.containers() if box.name.startswith(NAME)] == []


def until(done):
    deadline = time.monotonic() + 240
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def starts(engine):
    return {name: engine.container(name).started_at for name in (NAME, FIRST, SECOND)}


def test_what_ended_or_hangs_serves_again_and_nothing_else_is_restarted(engine, watched):
    faults = {
        SECOND: lambda: engine._client.api.kill(SECOND),
        FIRST: lambda: engine.execute(FIRST, ("python3", "-c", HANG)),
        NAME: lambda: engine._client.api.kill(NAME),
    }
    for name, fault in faults.items():
        before = starts(engine)
        fault()
        until(lambda before=before: starts(engine) != before)
        until(lambda: (state := gateway.read_state(engine, NAME)) and len(state.admitted) == 2)
        after = starts(engine)
        assert [other for other in faults if after[other] != before[other]] == [name]
    repairs = [line for line in watched if line.startswith(("+ ", "~ ", "- "))]
    assert [line.partition(":")[0] for line in repairs[-3:]] == [
        f"~ start container {SECOND}",
        f"~ restart container {FIRST}",
        f"~ start container {NAME}",
    ]
