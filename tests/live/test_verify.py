"""What verify says of real vLLM, healthy and not, and that the stub says the same words."""

from __future__ import annotations

import dataclasses
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest

from ragops.checks import budget, connection, rules
from ragops.checks import budget as calls
from ragops.checks.probe import TITLES
from ragops.checks.verify import VerifyContext
from ragops.docker import hints
from ragops.docker.objects import ContainerSpec
from ragops.ragflow import discovery, releases
from ragops.reranker import options
from ragops.session import Deployment
from ragops.stack import verbs
from ragops.stack.plan import RunContainer
from tests.support import faults
from tests.support.names import PROJECT
from tests.support.stub import Behaviour, StubReranker

if TYPE_CHECKING:
    from collections.abc import Iterator

GUARDED = f"{PROJECT}-guarded"
LOCAL = f"{PROJECT}-local"


@pytest.fixture
def ask(engine, declared, running, client):
    """Verify's layers from inside the demo client, against a server of this name and path."""
    result = next(
        item for item in discovery.find(engine.containers(), declared.ragflow) if item.name == client
    )
    known = options.known(Deployment.resolve(declared).model)

    def judge(host=declared.reranker.name, path="/v1", name=running.served_name):
        about = connection.target(result, f"http://{host}:8000{path}", name, known)
        reached = connection.check(engine, result, running.replicas[0].image, about, host)
        return {item.name: item for item in reached.checks}

    return judge


@contextmanager
def started(engine, spec: ContainerSpec) -> Iterator[str]:
    if engine.container(spec.name) is not None:  # else a run before this one was killed
        engine.remove_container(spec.name)
    try:
        RunContainer(spec).apply(engine)
        yield spec.name
    finally:
        engine.remove_container(spec.name)


def same(real, stub, path, **changes):
    """Status and message of both for one request."""
    body = {"query": "q", "documents": ["a", "b"], **changes}
    answers = [httpx.post(f"{url}{path}", json=body, timeout=60, trust_env=False) for url in (real, stub)]
    return [(item.status_code, item.json()["error"]["message"]) for item in answers]


def test_ragflows_calls_are_timed(engine, declared, running, client, monkeypatch, steps):
    monkeypatch.setattr(calls, "SECONDS", 0.0)
    monkeypatch.setattr(calls, "RAMP", (1,))
    report = verbs.verify(declared, engine)
    result = {item.name: item for item in report.checks if item.where == client}
    assert report.ok, str(report)
    assert "1 chunks in " in result[budget.IN_TIME].detail
    assert result[budget.REGISTRATION].status == "ok"
    assert result[budget.LONG].status == "warn"
    assert "is cut by the gateway" in result[budget.LONG].detail  # as by the newest release
    assert steps.done


def test_address_is_tested_from_this_host(engine, declared, running, monkeypatch):
    monkeypatch.setattr(calls, "SECONDS", 0.0)
    monkeypatch.setattr(calls, "RAMP", (1,))
    report = verbs.verify(declared, engine, address=running.host_url)
    assert report.ok, str(report)
    result = {item.name: item for item in report.checks}
    assert {item.where for item in report.checks} == {""}
    assert "(this host)" in result[TITLES["tcp"]].detail
    assert {TITLES["rerank"], budget.REGISTRATION, rules.RULES[0][0]} <= set(result)
    assert any("this host sent" in note for note in report.notes)
    closed = verbs.verify(declared, engine, address="http://127.0.0.1:9/v1").first_failure()
    assert (closed.name, closed.where) == (TITLES["tcp"], "")


def test_whole_calls_fit_and_are_counted_in_tokens(engine, declared, running, client, monkeypatch):
    """With a longer timeout than RAGFlow's: on a loaded machine a call of 64 chunks takes more than that."""
    slow = dataclasses.replace(releases.of(releases.NEWEST), timeout=600.0)
    monkeypatch.setattr(releases, "of_or_nearest", lambda _: slow)
    monkeypatch.setattr(calls, "LONGEST_TIMEOUT", 600.0)
    monkeypatch.setattr(calls, "CALLS", 4)
    monkeypatch.setattr(calls, "SECONDS", 600.0)
    result = next(
        item for item in discovery.find(engine.containers(), declared.ragflow) if item.name == client
    )
    image, url = running.replicas[0].image, declared.internal_url
    look = VerifyContext(engine, Deployment.resolve(declared), running.reranker, full=False, budget=True)
    seen = calls.time_calls(engine, result, image, url, look.expected)
    assert [item.error for item in seen.calls] == [""] * 6
    assert [item.documents for item in seen.calls][:2] == list(calls.RAMP)
    assert min(item.documents for item in seen.calls[2:]) >= 64
    assert all(item.tokens > item.documents for item in seen.calls)
    assert seen.too_long.status == 200  # the gateway truncates


def test_wrong_path_and_wrong_model_are_told_apart(ask):
    path = ask(path="/v1/rerank")[TITLES["routes"]]
    assert (path.status, path.detail.startswith("wrong path")) == ("fail", True)
    model = ask(name="some-other-model")
    assert "is not among" in model[TITLES["models"]].detail
    assert "wrong model" in model[TITLES["rerank"]].detail
    assert model[TITLES["health"]].status == "ok"


def test_stub_has_the_routes_and_the_words_of_vllm(declared, running):
    (replica,) = running.replicas  # the gateway would truncate
    real = f"http://{replica.endpoint(declared.network.name).address}:8000/v1"
    listed = httpx.get(real.removesuffix("/v1") + "/openapi.json", timeout=30, trust_env=False).json()[
        "paths"
    ]
    assert set(faults.paths("", classifier=False)) <= set(listed)
    assert "/classify" not in listed
    with StubReranker(Behaviour(model=running.served_name, max_tokens=256)) as stub:
        item, other = same(real, stub.base_url, "/rerank", model="some-other-model")
        assert item == other
        long = ["word " * 400]
        item, other = same(real, stub.base_url, "/rerank", model=running.served_name, documents=long)
        words = "This model's maximum context length is 256 tokens. However, your prompt contains at least "
        assert item[0] == other[0] == 400
        assert item[1].startswith(words)
        assert other[1].startswith(words)


def test_key_and_full_queue_of_vllm_are_named(engine, direct, running, ask):
    wanted = Deployment.resolve(direct).spec
    command = (*wanted.command, "--api-key", "secret", "--max-num-queued-reqs", "2", "--enforce-eager")
    image = running.replicas[0].image
    spec = dataclasses.replace(wanted, name=GUARDED, image=image, command=command, publish=(), role="test")
    with started(engine, spec):
        wait_for_health(engine, ask)
        guarded = ask(GUARDED)
        with StubReranker(Behaviour(fault="unauthorized")) as stub:
            message = httpx.post(f"{stub.base_url}/rerank", json={}, trust_env=False).text
        full = ask(GUARDED, path="")
    assert "vLLM wants the key" in guarded[TITLES["models"]].detail
    assert message.replace(" ", "") in guarded[TITLES["rerank"]].detail.replace(" ", "")
    assert "the queue is full" in full[TITLES["rerank"]].detail
    assert "cannot accept new requests" in full[TITLES["rerank"]].detail


def wait_for_health(engine, ask):
    """Until it listens; its phases are told by its log."""
    for _ in range(300):
        if hints.phase_of(engine.logs(GUARDED, tail=400)) == "listen":
            return
        assert engine.container(GUARDED).status == "running", engine.logs(GUARDED, tail=40)
        assert ask(GUARDED)[TITLES["tcp"]].status in {"fail", "ok"}
        time.sleep(3)  # the processor is for vLLM, which starts
    pytest.fail(engine.logs(GUARDED, tail=40))


def listening(declared, image, address):
    return ContainerSpec(
        name=LOCAL,
        image=image,
        entrypoint=("python3", "-m", "http.server", "8000", "--bind", address),
        network=declared.network.name,
        role="test",
    )


def test_server_on_its_own_loopback_is_named_and_the_remedy_heals(engine, declared, running, ask):
    image = running.replicas[0].image
    with started(engine, listening(declared, image, "127.0.0.1")):
        refused = until(lambda: ask(LOCAL)[TITLES["tcp"]], lambda item: "127.0.0.1" in item.detail)
        assert "--host 0.0.0.0" in refused.remedy
    with started(engine, listening(declared, image, "0.0.0.0")):
        healed = until(lambda: ask(LOCAL), lambda result: result[TITLES["tcp"]].status == "ok")
    assert "HTML instead of JSON" in healed[TITLES["rerank"]].detail


def until(look, is_right):
    """What is seen once it is right; Python takes a moment to listen."""
    deadline = time.monotonic() + 240
    while not is_right(result := look()):
        assert time.monotonic() < deadline, result
    return result
