"""Replicas that something else runs: servers of this host, which the gateway reaches by their address.

RAGFlow is the demo client; vLLM is the stub.
"""

import time
from contextlib import ExitStack
from ipaddress import ip_network
from socket import socket

import pytest

from ragops.checks.verify import ADMITTED
from ragops.configuration import load
from ragops.docker.engine import observe
from ragops.stack import verbs
from tests.support.names import PROJECT
from tests.support.served import Served
from tests.support.stub import Behaviour, application

NAME = f"{PROJECT}-servers"
TEXT = """
[network]
name = "{name}"
[reranker]
name = "{name}"
port = false
[gateway]
replicas = {servers}
[ragflow]
project = "{project}"
"""


@pytest.fixture(scope="module")
def servers(engine):
    """Two right servers and one with wrong scores, by their address; ``close`` stops one."""
    # An engine that has just created its bridge has no Gateway in the record: the first address is it.
    subnet = engine._client.api.inspect_network("bridge")["IPAM"]["Config"][0]["Subnet"]
    host = str(next(ip_network(subnet).hosts()))
    opened = {}
    for scorer in ("healthy", "healthy", "shuffled"):
        listener = socket()
        listener.bind((host, 0))
        listener.listen()
        stack = ExitStack()
        stack.enter_context(Served(application(Behaviour(model="all-minilm-l6-v2", scorer=scorer)), listener))
        opened[f"{host}:{listener.getsockname()[1]}"] = stack
    yield opened
    for stack in opened.values():
        stack.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory, engine, client, servers):
    file = tmp_path_factory.mktemp("servers") / "ragops.toml"
    yield file
    verbs.down(load(file), engine)
    assert [one.name for one in observe(engine).containers if one.name.startswith(NAME)] == []
    assert engine.network(NAME) is None


def up(engine, file, servers):
    file.write_text(TEXT.format(name=NAME, project=PROJECT, servers=list(servers)))
    status = verbs.up(load(file), engine)
    assert verbs.plan(load(file), engine).empty
    return status, {one.name: one.problem and one.problem.code for one in status.admission}


def test_the_gateway_serves_servers_elsewhere_and_only_right_ones(engine, image, file, servers):
    first, second, wrong = servers
    status, problems = up(engine, file, (first, second))
    assert status.ok, str(status)
    assert set(problems.values()) <= {None, "replica-checking"}
    assert [one.name for one in observe(engine).containers if one.name.startswith(NAME)] == [NAME]
    report = verbs.verify(load(file), engine, budget=False)
    assert report.ok, str(report)

    status, problems = up(engine, file, (first, second, wrong))
    until(lambda: codes(engine, file).get(wrong) == "replica-rejected")

    servers[first].close()
    until(lambda: codes(engine, file).get(first) == "replica-down")
    until(lambda: codes(engine, file).get(second, "") is None)
    report = verbs.verify(load(file), engine, budget=False)
    assert [check.status for check in report.checks if check.name == ADMITTED] == ["warn", "warn"]
    assert report.ok, str(report)


def codes(engine, file):
    return {one.name: one.problem and one.problem.code for one in verbs.status(load(file), engine).admission}


def until(condition, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)
