"""The product's own way on the real engine: up, connect, verify, down."""

import dataclasses
import socket
import time

import httpx
import pytest

import ragops
from ragops import configuration
from ragops.checks import ready, verify
from ragops.docker.engine import observe
from ragops.docker.objects import ContainerSpec, NetworkSpec
from ragops.stack import planning, verbs
from ragops.stack.plan import RunContainer
from tests.support.names import PROJECT

FOREIGN, SECOND, FIRST = f"{PROJECT}-foreign", f"{PROJECT}-second", f"aaa-{PROJECT}"
SLEEPER = ContainerSpec(name=f"{PROJECT}-sleeper", image="", entrypoint=("sleep", "600"), role="test")


@pytest.fixture
def sleeper(engine, image):
    """Makes throw-away containers of the given shape."""
    made = []

    def make(**changes):
        spec = dataclasses.replace(SLEEPER, image=image.id, name=f"{SLEEPER.name}-{len(made)}", **changes)
        RunContainer(spec).apply(engine)
        made.append(spec.name)
        return spec.name

    yield make
    for name in made:
        engine.remove_container(name)


def events(engine, since):
    """Changes of these tests' objects since a time; others may use the same engine."""
    stream = engine._client.events(since=since, until=time.time(), decode=True)
    harmless = ("exec_", "health_status")
    return [
        f"{event['Type']} {event['Action']}"
        for event in stream
        if PROJECT in str(event["Actor"]) and not event["Action"].startswith(harmless)
    ]


def test_it_is_what_was_declared(engine, declared, running):
    network, front, (replica,) = running.network, running.reranker, running.replicas
    assert network.ours
    assert network.driver == "bridge"
    assert (front.name, replica.name) == (declared.reranker.name, f"{declared.reranker.name}-1")
    published = (("127.0.0.1", declared.reranker.port, 8000),)
    assert front.published == (published if engine.state().keeps_others_out else ())
    assert replica.published == ()
    aliases = {*front.endpoint(network.name).aliases, *replica.endpoint(network.name).aliases}
    assert declared.replicas_alias in aliases
    assert not {front.name, replica.name} & aliases  # both would respond to such a name
    host = engine._client.api.inspect_container(front.id)["HostConfig"]
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["Privileged"]) == (True, ["ALL"], False)
    assert host["RestartPolicy"]["Name"] == "always"
    host = engine._client.api.inspect_container(replica.id)["HostConfig"]
    assert host["CpusetCpus"]
    assert host["NanoCpus"] == 0
    assert host["CpuQuota"] == 0
    assert host["ShmSize"] == 1024**3
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert not host["Privileged"]
    assert host["RestartPolicy"]["Name"] == "on-failure"
    assert "--trust-remote-code" not in replica.command


def test_a_second_up_changes_nothing(engine, declared, running, steps):
    begin = time.time()
    again = verbs.up(declared, engine)
    assert events(engine, begin) == []
    assert set(steps) <= {f"{declared.reranker.name}: ready"}  # until Docker's first health check
    assert again.reranker.id == running.reranker.id
    assert verbs.plan(declared, engine).empty


def test_events_would_be_seen(engine, sleeper):
    begin = time.time()
    sleeper()
    assert "container create" in events(engine, begin)


def test_it_answers_on_this_host(declared, running):
    body = {"model": running.served_name, "query": "q", "documents": ["a", "b"]}
    answer = httpx.post(f"{running.host_url}/rerank", json=body, timeout=30)
    assert {item["index"] for item in answer.json()["results"]} == {0, 1}


def test_verify_proves_it_with_ragflows_own_client(engine, declared, running, client):
    report = verbs.verify(declared, engine, budget=False)
    assert report.ok, str(report)
    call = next(check for check in report.checks if check.name == "RAGFlow's call")
    assert "cohere 5.6.2" in call.detail
    assert call.where == client
    first = next(check for check in report.checks if check.name == "right documents come first")
    assert first.status == "ok"


def test_verify_names_the_missing_attachment_and_its_remedy_heals(engine, declared, running, client):
    verbs.disconnect(declared, client, engine)
    broken = verbs.verify(declared, engine, budget=False)
    failed = broken.first_failure()
    assert failed.name == "name resolves"
    assert failed.remedy.endswith(f"ragops connect {client}")
    assert [check.status for check in broken.checks if check.where == client][1:5] == ["skip"] * 4
    assert not verbs.status(declared, engine).ok
    verbs.connect(declared, client, engine)
    assert verbs.verify(declared, engine, budget=False).ok


def test_verify_names_a_gateway_or_replica_that_does_not_run(engine, declared, running, client):
    for container in (running.reranker, *running.replicas):
        engine.pause(container.id)
        try:
            failed = verbs.verify(declared, engine, budget=False).first_failure()
        finally:
            engine.unpause(container.id)
        assert failed is not None
        assert "is paused" in failed.detail or container is not running.reranker
    ready.wait_admitted(engine, declared.reranker.name, declared.replica_names, 240)


def test_verify_works_without_python_in_the_container(engine, declared, running, image, sleeper):
    name = sleeper(
        entrypoint=("/bin/sleep", "600"),
        environment=(("PATH", "/nothing"), ("LD_PRELOAD", "")),
        network=declared.network.name,
    )
    only = declared.model_copy(update={"ragflow": configuration.Ragflow(containers=(name,))})
    report = verbs.verify(only, engine, budget=False)
    assert report.ok, str(report)
    assert "(probe container)" in report.checks[0].detail


def test_an_outsider_that_gets_in_is_reported(engine, declared, running, image):
    reranker = running.replicas[0]
    assert verify.check_exposure(engine, [running.reranker, reranker], image.id)[0].status == "ok"
    engine.connect(verify.OUTSIDE, reranker.id)
    try:
        now = engine.container(reranker.id)
        result = verify.check_exposure(engine, [running.reranker, now], image.id)[0]
    finally:
        engine.disconnect(verify.OUTSIDE, reranker.id)
    assert result.status == "fail"


def test_a_stopped_container_is_connected_and_joins_when_started(engine, declared, running, sleeper):
    name = sleeper()
    engine.stop(name, timeout=0)
    assert len(verbs.connect(declared, name, engine).actions) == 1
    assert verbs.connect(declared, name, engine).empty
    engine.start(name)
    assert engine.container(name).endpoint(declared.network.name).address


@pytest.mark.parametrize(
    "mode", ["host", "none", f"container:{PROJECT}-reranker"], ids=["host", "none", "container"]
)
def test_containers_without_a_network_of_their_own_are_refused(engine, declared, running, sleeper, mode):
    name = sleeper(network=mode)
    with pytest.raises(ragops.RagflowError) as caught:
        verbs.connect(declared, name, engine)
    assert (caught.value.code, caught.value.container) == ("cannot-join", name)


def test_a_network_that_is_not_ours_is_used_and_kept(engine, declared, running):
    engine._client.api.create_network(FOREIGN, check_duplicate=True)
    try:
        other = declared.model_copy(update={"network": configuration.Network(name=FOREIGN)})
        todo = verbs.plan(other, engine)
        assert any("not created by ragops" in note for note in todo.notes)
        assert not any(
            "network" in action.describe() and action.describe()[0] == "-" for action in todo.actions
        )
        down = planning.plan_down(other, observe(engine))
        assert not any(FOREIGN in action.describe() for action in down.actions)
    finally:
        engine.remove_network(FOREIGN)


def test_a_port_that_is_taken_leaves_nothing_behind(engine, declared, running, sleeper, image):
    with socket.create_server(("127.0.0.1", 0)) as server:
        publish = (("127.0.0.1", server.getsockname()[1], 8000),)
        taken = dataclasses.replace(SLEEPER, name=SECOND, image=image.id, publish=publish)
        with pytest.raises(ragops.EngineError) as caught:
            RunContainer(taken).apply(engine)
    assert "port" in caught.value.hint
    assert engine.container(SECOND) is None


def test_joining_a_network_that_sorts_first_is_said_to_move_the_route(engine, declared, running, client):
    early = declared.model_copy(update={"network": configuration.Network(name="aaa-rerank")})
    late = declared.model_copy(update={"network": configuration.Network(name="zzz-rerank")})
    text = [[action.describe() for action in verbs.plan(item, engine).actions] for item in (early, late)]
    moves = engine.state().keeps_others_out  # elsewhere a new network is internal, without a route
    assert any("default route" in line for line in text[0]) == moves
    assert any(f"connect {client}" in line for line in text[1])
    assert not any("default route" in line for line in text[1])


def test_and_it_does_move_there(engine, declared, running, client):
    """The fact behind the warning, on this engine."""

    def gateway():
        route = engine.execute(client, ("cat", "/proc/net/route")).stdout.splitlines()
        return next(line.split()[2] for line in route[1:] if line.split()[1] == "00000000")

    before = gateway()
    engine.create_network(NetworkSpec(FIRST))
    try:
        engine.connect(FIRST, client)
        moved = gateway()
        engine.disconnect(FIRST, client)
    finally:
        engine.remove_network(FIRST)
    assert moved != before
    assert gateway() == before
