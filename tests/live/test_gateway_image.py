"""The gateway's image and container: small, without rights, a shell or an open file system, and soon gone."""

import json
import subprocess
import time
from dataclasses import replace
from importlib import resources

import pytest

from ragops.compose import render
from ragops.configuration import Network, Reranker, Stack
from ragops.docker.objects import NetworkSpec
from ragops.reranker import gateway
from tests.support.names import PROJECT

NAME = f"{PROJECT}-gwimage"
COMPOSE = str(resources.files("compose") / "docker-compose")


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    folder.chmod(0o755)
    stack = Stack(network=Network(name=NAME), reranker=Reranker(name=NAME))
    usual = gateway.container_spec(stack, timeout=30, splits=True, publish=(), folder=folder)
    assert usual.health
    return replace(usual, health=replace(usual.health, interval=1))  # the tests wait for it


@pytest.fixture(scope="module")
def container(engine, image, spec):
    engine.create_network(NetworkSpec(NAME))
    number = engine.create_container(spec)
    try:
        engine.start(number)
        until(lambda: (state := gateway.read_state(engine, number)) and state.hosts)
        yield number
    finally:
        engine.remove_container(number)
        engine.remove_network(NAME)


def until(condition):
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def python(engine, container, program):
    return engine.execute(container, ("python3", "-c", program))


def test_is_small_and_has_no_shell(engine, container):
    assert engine.image(gateway.tag()).size < 200 << 20
    assert engine.execute(container, ("sh", "-c", "true")).exit_code == 126


def test_programs_of_ragops_run_in_it_without_rights(engine, container):
    program = """
import json, os, socket
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
try:
    open("/app/x", "w")
except OSError as error:
    refused = error.strerror
print(json.dumps([os.getuid(), int(status["CapEff"], 16), status["NoNewPrivs"].strip(), refused,
                  len(set(socket.getaddrinfo(socket.gethostname(), 80)))]))
"""
    result = python(engine, container, program)
    assert result.exit_code == 0, result.stderr
    user, capabilities, no_new_privileges, refused, addresses = json.loads(result.stdout)
    assert (user, capabilities, no_new_privileges) == (65532, 0, "1")
    assert refused == "Read-only file system"
    assert addresses > 0


def test_its_state_is_read_and_it_becomes_healthy(engine, container):
    hosts = {f"{NAME}-replicas:8000": ()}  # resolved, to no address
    assert gateway.read_state(engine, container) == gateway.GatewayState(
        "", 27.0, replace(gateway.Cache(), limit=100_000), gateway.Hour(), (), hosts
    )
    until(lambda: engine.container(container).health != "starting")
    assert engine.container(container).health == "healthy"


def test_compose_creates_the_same_container(engine, container, spec, tmp_path, monkeypatch):
    """From ``ragops compose reranker``, with an alias as replicas have it."""
    other = replace(spec, name=f"{NAME}-rendered", aliases=(f"{NAME}-replicas",))
    file = tmp_path / "compose.yml"
    file.write_text(render.reranker([other], NetworkSpec(NAME)))
    monkeypatch.setenv("DOCKER_HOST", engine.state().address)
    argv = [COMPOSE, "--project-name", other.name, "--file", str(file)]
    created = subprocess.run([*argv, "create"], capture_output=True, text=True, check=False)
    try:
        assert created.returncode == 0, created.stderr
        raw = engine._client.api.inspect_container(other.name)
        assert fields(raw) == fields(engine._client.api.inspect_container(container))
        assert f"{NAME}-replicas" in raw["NetworkSettings"]["Networks"][NAME]["Aliases"]
        assert engine.container(other.name).labels["org.ragops.config"] == other.config_hash()
    finally:
        subprocess.run([*argv, "down"], capture_output=True, check=False)


def fields(raw):
    """What makes a container behave as it does."""
    config, host = raw["Config"], raw["HostConfig"]
    limits = (
        "Memory",
        "MemorySwap",
        "PidsLimit",
        "RestartPolicy",
        "ReadonlyRootfs",
        "CapDrop",
        "SecurityOpt",
    )
    mounts = [(mount["Source"], mount["Destination"], mount["RW"]) for mount in raw["Mounts"]]
    named = {key: config[key] for key in ("Entrypoint", "Cmd", "User", "StopTimeout", "Healthcheck")}
    return named | {key: host[key] for key in limits} | {"Env": sorted(config["Env"]), "Mounts": mounts}


def test_an_idle_one_ends_soon_after_sigterm(engine, container):
    begin = time.monotonic()
    engine.stop(container, timeout=100)
    took = time.monotonic() - begin
    assert engine.container(container).exit_code == 0  # after SIGKILL it would be another one
    assert took < 25  # a busy machine; its requests may take 27 s
