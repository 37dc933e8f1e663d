"""Who reaches the reranker, on an engine of this test's own: another machine, and the site's name server.

The other machine is a network namespace that routes the containers' addresses through the engine's host.
That host has a firewall, and the engine sees another folder than this process, as Docker's snap does.
"""

import contextlib
import dataclasses
import functools
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from ragops.checks import connection, verify
from ragops.configuration import Stack
from ragops.docker.objects import LABEL_MODEL, ContainerSpec, Mount, NetworkSpec
from ragops.errors import EngineError
from ragops.ragflow.discovery import RagflowContainer
from ragops.reranker import architectures, options
from ragops.stack.plan import RunContainer
from tests.support.daemon import Daemon, root_file_system

IMAGE, NET, RERANKER = "ragopstest-tiny:latest", "ragopstest-closed", "ragopstest-reranker"
HOST, OTHER = "10.99.7.1", "10.99.7.2"
SERVER = ("/bin/python3", "-c", "import socket as s; l = s.create_server(('', 8000))\nwhile True: l.accept()")
CONNECTS = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3).close()
except OSError as error:
    sys.exit(type(error).__name__)
"""
RESOLVER = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", 53))
print("ready", flush=True)
while True:
    query, client = server.recvfrom(4096)
    labels, rest = [], query[12:]
    while rest[0]:
        labels.append(rest[1:rest[0] + 1].decode())
        rest = rest[rest[0] + 1:]
    print(".".join(labels), flush=True)
    server.sendto(query[:2] + bytes([0x81, 0x83]) + query[4:6] + bytes(6) + query[12:], client)
"""


def ip(space, *words):
    argv = ["nsenter", f"--net=/proc/{space.pid}/ns/net", "ip", *words]
    subprocess.run(argv, check=True, capture_output=True)


@pytest.fixture(scope="module")
def hidden(tmp_path_factory):
    """A folder that is empty for the engine."""
    return tmp_path_factory.mktemp("hidden")


@pytest.fixture(scope="module")
def machines(hidden):
    """An engine's host, and another machine beside it that is the engine's name server too."""
    daemon = Daemon(Path(tempfile.mkdtemp(prefix="ragopstest-")), "--dns", OTHER, hidden=hidden)
    space = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
    try:
        subprocess.run(["ip", "link", "add", "rtother", "type", "veth", "peer", "rthost"], check=True)
        for end, owner, address in (("rthost", daemon.space, HOST), ("rtother", space, OTHER)):
            subprocess.run(["ip", "link", "set", end, "netns", str(owner.pid)], check=True)
            ip(owner, "address", "add", f"{address}/24", "dev", end)
            ip(owner, "link", "set", end, "up")
            ip(owner, "link", "set", "lo", "up")
        ip(daemon.space, "route", "add", "default", "via", OTHER)
        ip(space, "route", "add", "172.16.0.0/12", "via", HOST)
        yield daemon, space
    finally:
        space.kill()
        space.wait()
        daemon.remove()


@pytest.fixture(scope="module")
def engine(machines, tmp_path_factory):
    daemon, _ = machines
    with contextlib.closing(daemon.start()) as engine:
        engine.import_image(root_file_system(tmp_path_factory.mktemp("image")), IMAGE, role="test")
        yield engine


def connects(space, address, port):
    """Whether a process in a network namespace reaches an address."""
    argv = ["nsenter", f"--net=/proc/{space.pid}/ns/net", sys.executable, "-c", CONNECTS, address, str(port)]
    return subprocess.run(argv, check=False, capture_output=True).returncode == 0


@pytest.fixture
def reranker(machines, engine):
    """Starts a server in place of vLLM, and waits until the engine's host reaches it."""

    def start(publish, *, internal):
        engine.create_network(NetworkSpec(NET, internal=internal))
        spec = ContainerSpec(RERANKER, IMAGE, entrypoint=SERVER, network=NET, publish=publish, init=True)
        engine.start(engine.create_container(spec))
        container, deadline = engine.container(RERANKER), time.monotonic() + 240
        while not connects(machines[0].space, container.endpoint(NET).address, 8000):
            assert time.monotonic() < deadline
        return container

    yield start
    engine.remove_container(RERANKER)
    engine.remove_network(NET)


@pytest.fixture
def reached(machines):
    """Whether the other machine reaches an address."""
    return functools.partial(connects, machines[1])


@pytest.fixture
def queries(machines, tmp_path):
    """Names that reached the site's name server."""
    _, space = machines
    argv = ["nsenter", f"--net=/proc/{space.pid}/ns/net", sys.executable, "-c", RESOLVER]
    file = tmp_path / "queries"
    with file.open("w") as out, subprocess.Popen(argv, stdout=out) as server:
        deadline = time.monotonic() + 240
        while "ready" not in file.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield lambda: set(file.read_text().split()) - {"ready"}
        server.kill()


def test_other_machines_reach_no_reranker_of_the_product(engine, reranker, reached):
    state = engine.state()
    internal = options.closed(Stack(), state).network.internal
    container = reranker(options.published(Stack(), state), internal=bool(internal))
    assert not reached(container.endpoint(NET).address, 8000)
    assert not any(reached(HOST, port) for _, port, _ in container.published)
    closed, published = verify.check_exposure(engine, [container], IMAGE)
    assert (closed.status, published.status) == ("ok", "ok")
    assert f"{container.endpoint(NET).address}:8000" in closed.detail


@pytest.mark.parametrize("publish", [(), (("127.0.0.1", 8123, 8000),)])
def test_open_network_is_reached_by_routing_before_docker_28(engine, reranker, reached, publish):
    """What the product leaves out; without a port too, where the host forwards every packet, as this one."""
    container = reranker(publish, internal=False)
    old = not engine.state().keeps_others_out
    assert reached(container.endpoint(NET).address, 8000) == old
    assert not reached(HOST, 8123)
    published = verify.check_exposure(engine, [container], IMAGE)[1]
    assert published.status == ("warn" if old and publish else "ok")


@pytest.fixture
def ragflow(engine):
    """Starts a container in a network, in RAGFlow's place."""
    names = []

    def start(name, network):
        sleep = ("sleep", "infinity")
        spec = ContainerSpec(name, IMAGE, entrypoint=sleep, network=network, restart="always", init=True)
        engine.start(engine.create_container(spec))
        names.append(name)
        return name

    yield start
    for name in names:
        engine.remove_container(name)


def connection_checks(engine, name):
    """The checks of the connection, by name, from inside a container."""
    ragflow = RagflowContainer(engine.container(name))
    known = architectures.by_kind("qwen3-reranker")
    target = connection.target(ragflow, f"http://{RERANKER}:8000/v1", "model", known)
    return {check.name: check for check in connection.check(engine, ragflow, IMAGE, target, RERANKER).checks}


@pytest.mark.parametrize(
    ("reject", "internal", "words"),
    [((), True, "drops packets"), (("--reject-with", "icmp-host-prohibited"), False, "rejects")],
)
def test_firewall_inside_the_network_is_named(machines, engine, reranker, ragflow, reject, internal, words):
    """With bridge-nf-call-iptables; the rule that verify names lasts, and precedes the firewall's."""
    reranker((), internal=internal)
    client, bridge = ragflow("ragopstest-client", NET), f"br-{engine.network(NET).id[:12]}"
    space = f"--net=/proc/{machines[0].space.pid}/ns/net"

    def host(*words):
        subprocess.run(["nsenter", space, *words], check=True, capture_output=True)

    inside = ("-i", bridge, "-o", bridge, "-j")
    host("sysctl", "-w", "net.bridge.bridge-nf-call-iptables=1")
    host("iptables", "-N", "FIREWALL")
    host("iptables", "-A", "FIREWALL", *inside, *(("REJECT", *reject) if reject else ("DROP",)))
    host("iptables", "-I", "FORWARD", "-j", "FIREWALL")
    checks = connection_checks(engine, client)
    assert (checks["name resolves"].status, checks["port answers"].status) == ("ok", "fail")
    assert words in checks["port answers"].detail
    assert f"ufw route allow in on {bridge} out on {bridge}" in checks["port answers"].remedy
    if internal:
        machines[0].stop()
        machines[0].start().close()
        engine.start(RERANKER)
        assert words in connection_checks(engine, client)["port answers"].detail
    host("iptables", "-I", "FORWARD", *inside, "ACCEPT")
    assert connection_checks(engine, client)["port answers"].status == "ok"
    host("iptables", "-D", "FORWARD", *inside, "ACCEPT")
    host("iptables", "-D", "FORWARD", "-j", "FIREWALL")
    host("iptables", "-F", "FIREWALL")
    host("iptables", "-X", "FIREWALL")


def test_model_folder_that_is_empty_for_the_engine_is_found_before_vllm(engine, hidden, monkeypatch):
    (hidden / "config.json").write_text("{}")
    labels, command = ((LABEL_MODEL, str(hidden)),), ("--model", "/models/m")
    mounts = (Mount(str(hidden), "/models/m", read_only=True),)
    spec = ContainerSpec(RERANKER, IMAGE, command=command, mounts=mounts, labels=labels)
    with pytest.raises(EngineError) as caught:
        RunContainer(spec).apply(engine)
    assert (caught.value.code, engine.container(RERANKER)) == ("folder-empty", None)
    seen = hidden.parent / "seen"
    seen.mkdir()
    (seen / "config.json").write_text("{}")
    spec = dataclasses.replace(
        spec, mounts=(Mount(str(seen), "/models/m"),), entrypoint=("sleep", "infinity"), command=command
    )
    RunContainer(spec).apply(engine)
    engine.remove_container(RERANKER)


@pytest.mark.parametrize("internal", [False, True])
def test_verify_sends_no_name_to_the_name_server(engine, reranker, queries, internal):
    container = reranker((), internal=False)
    name = f"ragopstest-ragflow-{internal}"
    engine.create_network(NetworkSpec(name, internal=internal))
    spec = ContainerSpec(name, IMAGE, entrypoint=("sleep", "infinity"), network=name, role="test")
    engine.start(engine.create_container(spec))
    try:
        verify.check_exposure(engine, [container], IMAGE)
        assert connection_checks(engine, name)["name resolves"].status == "fail"
        engine.connect(name, RERANKER)
        engine.stop(RERANKER, timeout=0)
        assert connection_checks(engine, name)[connection.RUNS].status == "fail"
        engine.start(RERANKER)
        engine.disconnect(name, RERANKER)
        lookup = "import socket; socket.gethostbyname('control.example')"
        engine.execute(RERANKER, ("python3", "-c", lookup))
    finally:
        engine.remove_container(name)
        engine.remove_network(name)
    assert queries() == {"control.example"}
