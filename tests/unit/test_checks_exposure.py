"""Who else reaches the reranker."""

import json
import socket
import subprocess
import sys
from importlib import resources

import pytest

from ragops.checks import verify
from ragops.docker.objects import ExecResult

NET, IMAGE = "ragflow-rerank", "vllm-cpu:latest"


@pytest.fixture
def look(fake):
    """Looks from outside; ``reached`` are the hosts that answer there."""
    fake.add_container("reranker", network=NET, publish=(("127.0.0.1", 8123, 8000),))

    def check(*reached):
        asked = []

        def respond(_box, _argv, stdin):
            order = json.loads(stdin)
            asked.extend(order["hosts"])
            return ExecResult(0, json.dumps([host for host in order["hosts"] if host in reached]), "")

        fake.respond = respond
        found = verify.check_exposure(fake, fake.container("reranker"), NET, IMAGE)
        return found, asked

    return check


def address(fake):
    return fake.container("reranker").endpoint(NET).address


def test_neither_name_nor_address_answers(look, fake):
    (outside, published), asked = look()
    assert (outside.status, published.status) == ("ok", "ok")
    assert asked == ["reranker", address(fake)]
    assert published.detail == "127.0.0.1:8123"


def test_address_that_answers_is_a_failure(look, fake):
    (outside, _), _ = look(address(fake))
    assert outside.status == "fail"
    assert outside.detail.endswith(address(fake))
    assert "docker network inspect bridge" in outside.remedy


def test_address_in_another_network_is_tried_too(look, fake):
    """One in the default network is open to whatever container is in it."""
    fake.connect("bridge", "reranker")
    inside = fake.container("reranker").endpoint("bridge").address
    (outside, _), asked = look(inside)
    assert asked == ["reranker", address(fake), inside]
    assert outside.status == "fail"
    assert outside.detail.endswith(inside)


def test_asked_from_a_container_of_the_default_network_that_goes_again(look, fake):
    look()
    assert [one.name for one in fake.containers()] == ["reranker"]
    assert len([call for call in fake.calls if call.startswith("remove container ragops-probe-")]) == 1


def test_stopped_reranker_has_no_address_to_try(look, fake):
    fake.stop("reranker")
    _, asked = look()
    assert asked == ["reranker"]


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
    ("ports", "detail"), [((), "nothing is published"), ((("::1", 8123, 8000),), "::1:8123")]
)
def test_port_of_this_host_is_well(look, fake, ports, detail):
    fake.change("reranker", published=ports)
    (_, published), _ = look()
    assert (published.status, published.detail) == ("ok", detail)


def test_probe_that_fails_is_no_closed_door(look, fake):
    look()
    fake.respond = lambda *_: ExecResult(1, "", "python3: error while loading shared libraries")
    closed, published = verify.check_exposure(fake, fake.container("reranker"), NET, IMAGE)
    assert (closed.name, closed.status, published.status) == (verify.CLOSED, "fail", "ok")
    assert "shared libraries" in closed.detail


def test_program_tells_what_answers():
    """On this host: an open port, the same port of an address where no process listens, no name."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        hosts = ["127.0.0.1", "127.0.0.9", "no-such-host.invalid"]
        order = json.dumps({"hosts": hosts, "port": server.getsockname()[1], "timeout": 1.5})
        program = resources.files("ragops.data") / "port_probe.py"
        done = subprocess.run(
            [sys.executable, "-c", program.read_text()],
            input=order,
            capture_output=True,
            text=True,
            check=True,
        )
    assert json.loads(done.stdout) == ["127.0.0.1"]
