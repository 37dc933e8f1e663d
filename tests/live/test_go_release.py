"""RAGFlow v1.0.0-rc1, whose container has no Python: found, verified and timed.

The reranker is the stub, for its speed. The container has curl, or no program that sends a request; BusyBox'
wget is no part of any image here. Registration is in ``test_register.py``, with the contract server.
"""

import io
import tarfile
from contextlib import contextmanager

import pytest

from benchmarks import free_port
from ragops.checks import budget, connection, doctor
from ragops.checks.probe import TITLES
from ragops.checks.questions import Expected
from ragops.docker.objects import COMPOSE_PROJECT, COMPOSE_SERVICE, ContainerSpec, NetworkSpec
from ragops.ragflow import discovery
from ragops.reranker.architectures import by_kind
from tests.support.container import stub_container
from tests.support.names import PROJECT
from tests.support.stub import Behaviour

NAME = f"{PROJECT}-go"
TAG = "v1.0.0-rc1"
IMAGE = f"{NAME}/infiniflow/ragflow:{TAG}"
URL = f"http://{NAME}-stub:8000/v1"
PROGRAMS = {"curl": ("/usr/bin/curl", "/bin/sleep"), "http.client, probe container": ("/bin/sleep",)}
"""What RAGFlow's container has, with its libraries, by what then sends RAGFlow's request."""


@pytest.fixture(scope="module")
def stub(engine, image):
    publish = ("127.0.0.1", free_port())
    engine.create_network(NetworkSpec(NAME))
    try:
        with stub_container(engine, image.id, name=f"{NAME}-stub", network=NAME, publish=publish) as stub:
            yield stub
    finally:
        engine.remove_network(NAME)


def root_of(engine, container, programs, tar_file):
    """A tar file of these programs of a running container, and of the libraries that they load."""
    listed = engine.execute(container, ("ldd", *programs)).stdout.split()
    files = sorted({word.rstrip(":") for word in listed if word.startswith("/")} | set(programs))
    real = engine.execute(container, ("readlink", "-f", *files)).stdout.split()
    with tarfile.open(tar_file, "w") as root:
        for name, source in zip(files, real, strict=True):
            stream, _ = engine._client.api.get_archive(container, source)
            with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
                (member,) = archive.getmembers()
                root.addfile(member.replace(name=name.lstrip("/")), archive.extractfile(member))


@contextmanager
def started(engine, stub, programs, tar_file):
    """RAGFlow's container with these programs and nothing else."""
    root_of(engine, stub.name, programs, tar_file)
    engine.import_image(tar_file, IMAGE, role="test")
    spec = ContainerSpec(
        name=f"{NAME}-ragflow-cpu-1",
        image=IMAGE,
        entrypoint=("/bin/sleep", "1d"),
        environment=(("API_PROXY_SCHEME", "go"), ("PATH", "/usr/bin:/bin")),
        network=NAME,
        init=True,
        role="test",
        labels=((COMPOSE_PROJECT, NAME), (COMPOSE_SERVICE, "ragflow-cpu")),
    )
    made = engine.create_container(spec)
    try:
        engine.start(made)
        yield
    finally:
        engine.remove_container(made)
        engine.remove_image(IMAGE)


@pytest.fixture(scope="module", params=PROGRAMS)
def go_ragflow(request, engine, stub, declared, tmp_path_factory):
    """The container, as discovered; its stack; and what should send its request."""
    tar_file = tmp_path_factory.mktemp("root") / "root.tar"
    project = declared.ragflow.model_copy(update={"project": NAME})
    with started(engine, stub, PROGRAMS[request.param], tar_file):
        (match,) = discovery.find(engine.containers(), project)
        yield match, declared.model_copy(update={"ragflow": project}), request.param


def judged(engine, image, ragflow):
    """Verify's layers from inside the container."""
    target = connection.target(ragflow, URL, "m", by_kind("embedding"))
    result = connection.check(engine, ragflow, image.id, target, f"{NAME}-stub")
    return {check.name: check for check in result.checks}


def test_found_and_verified_without_python(engine, image, stub, go_ragflow):
    match, stack, client = go_ragflow
    stub.behave(Behaviour(model="m"))
    assert (match.release, match.has_go_server) == (TAG, True)
    (check,) = doctor.check_ragflow(stack, tuple(engine.containers()))
    assert (check.status, TAG in check.detail) == ("ok", True)
    checks = judged(engine, image, match)
    assert {check.status for check in checks.values()} == {"ok"}, checks
    assert client in checks[TITLES["rerank"]].detail


def test_failures_are_named(engine, image, stub, go_ragflow):
    match, _, _ = go_ragflow
    stub.behave(Behaviour(model="another"))
    assert "wrong model" in judged(engine, image, match)[TITLES["rerank"]].detail
    stub.behave(Behaviour(model="m", fault="fails"))
    assert judged(engine, image, match)[TITLES["rerank"]].status == "fail"


@pytest.mark.parametrize("go_ragflow", ["curl"], indirect=True)
def test_calls_are_timed_against_its_limit(engine, image, stub, go_ragflow, monkeypatch):
    """The input of these is larger than a socket's buffer, which a missing program does not empty."""
    match, _, _ = go_ragflow
    stub.behave(Behaviour(model="m", max_tokens=1000))
    monkeypatch.setattr(budget, "CALLS", 2)
    monkeypatch.setattr(budget, "RAMP", (2,))
    expected = Expected("m", "embedding", 1000)
    timed = budget.time_calls(engine, match, image.id, URL, expected)
    assert [call.error for call in timed.calls] == [""] * len(timed.calls)
    checks = budget.check_calls(timed, budget.call_profile(match, expected), expected, 1000, ())
    in_time = next(check for check in checks if check.name == budget.IN_TIME)
    assert f"of the 120 s that RAGFlow {TAG} waits" in in_time.detail
