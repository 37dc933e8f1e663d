"""Who else reaches the reranker."""

import json
import socket
import subprocess
import sys
from dataclasses import replace
from ipaddress import ip_address

import pytest

from ragops.checks import probe, verify
from ragops.docker.objects import ExecResult

NET, IMAGE = "ragflow-rerank", "vllm-cpu:latest"


@pytest.fixture
def look(fake):
    """Looks from outside; ``reached`` are the addresses that answer there, with their ports."""
    fake.add_container("reranker", network=NET, publish=(("127.0.0.1", 8123, 8000),))

    def check(*reached):
        asked = []

        def respond(_box, _argv, stdin):
            order = json.loads(stdin)
            targets = [
                *map(tuple, order["targets"]),
                *(("172.17.0.1", port) for port in order["gateway_ports"]),
            ]
            asked.extend(f"{host}:{port}" for host, port in targets)
            return ExecResult(0, json.dumps({target: target in reached for target in asked}), "")

        fake.respond = respond
        found = verify.check_exposure(fake, [fake.container("reranker")], IMAGE)
        return found, asked

    return check


@pytest.fixture(autouse=True)
def own_address(monkeypatch):
    monkeypatch.setattr(verify, "_own_address", lambda: "192.0.2.7")


def inside(fake, network=NET):
    return f"{fake.container('reranker').endpoint(network).address}:8000"


def test_own_address_and_published_ports_of_the_host_are_tried_without_dns(look, fake):
    (outside, _), asked = look()
    assert asked == [inside(fake), "192.0.2.7:8123", "172.17.0.1:8123"]
    assert outside.status == "ok"
    assert all(target in outside.detail for target in asked)
    assert all(ip_address(target.rpartition(":")[0]) for target in asked)


def test_an_address_that_is_open_for_a_moment_is_closed(fake):
    """Docker lifts its rules for some milliseconds when it creates a network: what is open stays open."""
    fake.add_container("reranker", network=NET)
    address, results = inside(fake), [True, False]
    fake.respond = lambda *_: ExecResult(0, json.dumps({address: results.pop(0)}), "")
    outside, _ = verify.check_exposure(fake, [fake.container("reranker")], IMAGE)
    assert (outside.status, results) == ("ok", [])


def test_replicas_are_tried_too(look, fake):
    """They are published nowhere; their addresses are closed to others like the gateway's."""
    for name in ("reranker-1", "reranker-2"):
        fake.add_container(name, network=NET)
    stack = [fake.container(name) for name in ("reranker", "reranker-1", "reranker-2")]
    addresses = [f"{container.endpoint(NET).address}:8000" for container in stack]
    look()
    fake.version = "28.1.0"
    reached = {addresses[2]}
    fake.respond = lambda *_: ExecResult(
        0, json.dumps({address: address in reached for address in addresses}), ""
    )
    outside, published = verify.check_exposure(fake, stack, IMAGE)
    assert (outside.status, addresses[2] in outside.detail) == ("fail", True)
    assert published.status == "ok"
    fake.change("reranker-2", published=(("0.0.0.0", 8125, 8000),))
    stack[2] = fake.container("reranker-2")
    published = verify.check_exposure(fake, stack, IMAGE)[1]
    assert (published.status, "0.0.0.0:8125" in published.detail) == ("warn", True)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_address_that_answers_is_a_failure(look, place):
    _, asked = look()
    (outside, _), _ = look(asked[place])
    assert outside.status == "fail"
    assert outside.detail.endswith(asked[place])
    assert "docker network inspect bridge" in outside.remedy


@pytest.mark.parametrize(("own", "remedy"), [(False, "publish = "), (True, "docker network inspect bridge")])
def test_remedy_for_a_port_that_is_published_on_all_addresses(look, fake, own, remedy):
    fake.change("reranker", published=(("0.0.0.0", 8123, 8000),))
    (outside, _), _ = look("192.0.2.7:8123", *([inside(fake)] if own else []))
    assert (outside.status, outside.remedy.startswith(remedy)) == ("fail" if own else "warn", True)


def test_address_in_another_network_is_tried_too(look, fake):
    """One in the default network is open to whatever container is in it."""
    fake.connect("bridge", "reranker")
    other = inside(fake, "bridge")
    (outside, _), asked = look(other)
    assert {inside(fake), other} <= set(asked)
    assert outside.status == "fail"
    assert outside.detail.endswith(other)


def test_asked_from_a_container_of_the_default_network_that_goes_again(look, fake):
    look()
    assert [one.name for one in fake.containers()] == ["reranker"]
    assert len([call for call in fake.calls if call.startswith("remove container ragops-probe-")]) == 1


def test_stopped_reranker_has_no_address_to_try(look, fake):
    fake.stop("reranker")
    _, asked = look()
    assert asked == []


def test_engine_without_the_default_network_is_skipped(look, fake):
    fake.networks = lambda: ()
    (outside, _), asked = look()
    assert (outside.status, asked) == ("skip", [])


@pytest.mark.parametrize(
    ("ip", "shown"), [("0.0.0.0", "0.0.0.0:8123"), ("", "0.0.0.0:8123"), ("::", ":::8123")]
)
def test_port_that_others_reach_is_a_warning(look, fake, ip, shown):
    fake.change("reranker", published=((ip, 8123, 8000),))
    (_, published), _ = look()
    assert published.status == "warn"
    assert published.detail == f"other machines reach {shown}"


@pytest.mark.parametrize(
    ("version", "ports", "status"),
    [
        ("20.10.24", (), "ok"),
        ("28.1.0", (), "ok"),
        ("28.1.0", (("::1", 8123, 8000),), "ok"),
        ("20.10.24", (("127.0.0.1", 8123, 8000),), "warn"),
    ],
)
def test_port_of_this_host_is_closed_only_since_docker_28(look, fake, monkeypatch, version, ports, status):
    before = fake.state()
    monkeypatch.setattr(fake, "state", lambda: replace(before, version=version))
    fake.change("reranker", published=ports)
    (_, published), _ = look()
    assert published.status == status
    assert ("by routing" in published.detail) == (status == "warn")


def test_probe_that_fails_is_no_closed_door(look, fake):
    look()
    fake.respond = lambda *_: ExecResult(1, "", "python3: error while loading shared libraries")
    closed, published = verify.check_exposure(fake, [fake.container("reranker")], IMAGE)
    assert (closed.name, closed.status, published.name) == (verify.CLOSED, "fail", verify.PUBLISHED)
    assert "shared libraries" in closed.detail


def test_program_tells_what_answers():
    """On this host: an open port, and the same port of an address where no process listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        targets = [("127.0.0.1", port), ("127.0.0.9", port)]
        order = json.dumps({"targets": targets, "gateway_ports": [], "timeout": 1.5})
        program = probe.program()
        argv = [sys.executable, "-c", program]
        done = subprocess.run(argv, input=order, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {f"127.0.0.1:{port}": True, f"127.0.0.9:{port}": False}
