"""Replicas that something else runs: ragops has the gateway only, and checks the scores from inside it."""

import dataclasses
import json
import socket
from threading import Thread

import pytest

from ragops import cli
from ragops.checks import doctor, ready
from ragops.checks.verify import ADMITTED
from ragops.configuration import Gateway, Reranker, Stack
from ragops.docker.objects import ExecResult
from ragops.errors import LaunchError
from ragops.reranker.gateway import GatewayState, Replica
from ragops.reranker.host import read_host
from ragops.session import Deployment
from ragops.stack import plan, verbs
from tests.support.stub import Behaviour, StubReranker

SERVERS = ("10.0.0.9:8000", "vllm.example:8000")
STACK = Stack(gateway=Gateway(replicas=SERVERS))
NAME = STACK.reranker.name
HOSTS = {SERVERS[0]: [SERVERS[0]], SERVERS[1]: ["10.0.0.20:8000", "10.0.0.21:8000"]}
ADMIT = {address: "admitted" for own in HOSTS.values() for address in own}


@pytest.fixture
def elsewhere(serving, here, monkeypatch):
    """An engine whose gateway knows servers; ``sent`` are the addresses whose scores were checked."""
    serving.states, serving.hosts, serving.sent = dict(ADMIT), dict(HOSTS), []
    respond = serving.respond

    def result(box, argv, stdin):
        if box.name == NAME and argv[1] == "-ISc":
            rows = [{"address": a, "state": s, "reason": "why"} for a, s in serving.states.items()]
            fields = json.loads(respond(box, argv, stdin).stdout)
            known = "/health" not in argv[2] or any(a in argv[2] for a, s in ADMIT.items() if s != "down")
            return ExecResult(not known, json.dumps({**fields, "replicas": rows, "hosts": serving.hosts}), "")
        return respond(box, argv, stdin)

    def approve(_engine, container, _image, _expected, identity, address):
        assert container.startswith(NAME)
        serving.sent.append(address)
        return json.dumps({"id": identity})

    serving.respond = result
    monkeypatch.setattr("ragops.checks.reference.approve", approve)
    return serving


def test_up_starts_the_gateway_alone_and_checks_a_server_from_it(elsewhere, ragflow):
    changes = verbs.plan(STACK, elsewhere)
    assert any(isinstance(action, plan.CheckScores) for action in changes.actions)
    assert any("key_file" in note for note in changes.notes)  # other machines reach the gateway by routing
    status = verbs.up(STACK, elsewhere)
    assert status.ok
    assert elsewhere.sent == ["10.0.0.9:8000"]
    assert [one.name for one in elsewhere.containers() if one.ours] == [NAME]
    assert f"GATEWAY_REPLICAS={','.join(SERVERS)}" in elsewhere.container(NAME).environment
    assert not elsewhere.network(STACK.network.name).internal  # it needs a way out
    elsewhere.calls.clear()
    assert verbs.up(STACK, elsewhere).ok
    assert elsewhere.calls == []
    assert elsewhere.sent == ["10.0.0.9:8000"]


def test_status_shows_each_address(elsewhere):
    verbs.up(STACK, elsewhere)
    elsewhere.states["10.0.0.20:8000"] = "rejected"
    del elsewhere.hosts[SERVERS[0]]
    status = verbs.status(STACK, elsewhere)
    rows = [" ".join(row) for row in status.table().rows if not isinstance(row, str)]
    assert any(row.startswith(f"replica {SERVERS[0]}: not admitted: ") for row in rows)
    assert any("(10.0.0.20:8000): not admitted: " in row and "why" in row for row in rows)
    assert f"replica {SERVERS[1]} (10.0.0.21:8000): admitted" in rows
    shown = json.loads(cli.output.as_json(status))["replicas"]
    assert [row["problem"] and row["problem"]["code"] for row in shown] == [
        "replica-unresolved",
        "replica-rejected",
        None,
    ]
    assert "docker" not in shown[1]["problem"]["hint"]


def test_up_waits_for_one_address_only(elsewhere, monkeypatch):
    elsewhere.states["10.0.0.20:8000"] = "down"
    assert verbs.up(STACK, elsewhere).problem.code == "replica-down"
    monkeypatch.setattr(ready, "_INTERVAL", 0.0)
    monkeypatch.setattr(ready, "_LASTS", 0.0)
    elsewhere.states = dict.fromkeys(ADMIT, "rejected")
    with pytest.raises(LaunchError, match="0 of 3") as caught:
        verbs.up(STACK, elsewhere)
    assert caught.value.code == "replica-rejected"


def test_no_server_that_responds(elsewhere, monkeypatch):
    monkeypatch.setattr(ready, "_INTERVAL", 0.0)
    verbs.up(STACK, elsewhere)
    elsewhere.states = {}
    elsewhere.hosts = {}
    with pytest.raises(LaunchError) as caught:
        ready.wait_server(elsewhere, NAME, SERVERS, 0)
    assert caught.value.code == "replica-unresolved"
    assert caught.value.hint


def test_verify_names_what_is_not_admitted(elsewhere, ragflow):
    verbs.up(STACK, elsewhere)
    elsewhere.states["10.0.0.20:8000"] = "down"
    report = verbs.verify(STACK, elsewhere)
    assert [check.status for check in report.checks if check.name == ADMITTED] == ["warn"]
    assert [check.name for check in report.checks if check.status == "fail"] == []
    elsewhere.states = dict.fromkeys(ADMIT, "down")
    report = verbs.verify(STACK, elsewhere)
    assert [check.status for check in report.checks] == ["fail"] * 3


def test_no_memory_is_needed_here(here, monkeypatch):
    small = dataclasses.replace(read_host(), memory=1 << 30, memory_limit=1 << 30)
    monkeypatch.setattr("ragops.reranker.host.read_host", lambda: small)
    deployment = Deployment.resolve(STACK)
    assert deployment.replicas == ()
    assert deployment.spec.served_name
    assert deployment.gateway.memory < 1 << 30


def test_an_older_gateway_names_no_hosts():
    state = GatewayState("", 0.0, None, None, (Replica("10.0.0.9:8000", "admitted"),))
    assert [status.problem.code for status in ready.server_states(SERVERS, state)] == [
        "replica-unresolved"
    ] * 2


def test_doctor_tries_the_servers_and_not_this_machine(elsewhere):
    with StubReranker(Behaviour()) as stub:
        server = stub.base_url.split("/")[2]
        stack = Stack(gateway=Gateway(replicas=(server, "127.0.0.1:9")), reranker=Reranker(port=False))
        report = doctor.doctor(stack, elsewhere)
    statuses = [(check.name, check.status) for check in report.checks]
    assert [row for row in statuses if row[0] == "replicas"] == [("replicas", "ok"), ("replicas", "warn")]
    assert not {"cores", "CPU quota", "CPU instructions"} & {name for name, _ in statuses}


def test_a_server_of_another_protocol_or_no_name_is_a_finding_of_doctor():
    def greet():
        with listener.accept()[0] as connection:
            connection.recv(4096)
            connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=greet)
        thread.start()
        servers = (f"127.0.0.1:{listener.getsockname()[1]}", "a..b:8000")
        assert [check.status for check in doctor._servers(servers)] == ["warn", "warn"]
        thread.join()
