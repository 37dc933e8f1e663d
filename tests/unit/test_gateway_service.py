"""The gateway before stub replicas on real sockets: equal to one server's response, admission, routes."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragops.gateway import replicas, split
from tests.support.gateway import serving
from tests.support.replicas import Replica, response

TEXTS = [f"document {number} " * (3 + number % 5) for number in range(24)]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Checks every few milliseconds; also the smallest requests are split."""
    monkeypatch.setattr(replicas, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr(split, "LEAST_SECONDS", 0.0)


@pytest.fixture(scope="module")
def runner():
    """One event loop for the stub replicas of the property test."""
    with asyncio.Runner() as one:
        yield one


@pytest.fixture(scope="module")
def fleets(runner, tmp_path_factory):
    """Gateways before one to five stub replicas."""
    contexts, clients = [], {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replicas, "CHECK_SECONDS", 0.01)
        for number in range(1, 6):
            stubs = [Replica() for _ in range(number)]
            context = serving(tmp_path_factory.mktemp("fleet"), *stubs, cache=50)
            clients[number] = (runner.run(context.__aenter__()), stubs)
            contexts.append(context)
    yield clients
    for context in contexts:
        runner.run(context.__aexit__(None, None, None))


@settings(deadline=None, max_examples=60)
@given(
    query=st.text(max_size=30),
    documents=st.lists(st.text(max_size=40), min_size=1, max_size=40, unique=True),
    top=st.integers(0, 45),
    paces=st.lists(st.sampled_from([0.0, 1e-7, 1e-6, 4e-6]), min_size=1, max_size=5),
    logits=st.booleans(),
)
def test_any_request_equals_one_servers_response(runner, fleets, query, documents, top, paces, logits):
    client, stubs = fleets[len(paces)]
    for stub, pace in zip(stubs, paces, strict=True):
        stub.behave(per_byte=pace, logits=logits)
    fields = {"query": query, "documents": documents, "top_n": top}
    reply = runner.run(client.rerank(**fields, headers={"Prefer": "handling=strict"}))
    status, right = response(fields, stubs[0].behaviour)
    assert (reply.status_code, reply.headers["x-ranked"]) == (status, f"{len(documents)}/{len(documents)}")
    body = reply.json()
    assert {**body, "id": ""} == {**right, "id": ""}
    assert list(body) == list(right)


def test_a_request_is_divided_over_all_replicas(tmp_path):
    async def scenario():
        stubs = [Replica(fixed=0.01) for _ in range(3)]
        async with serving(tmp_path, *stubs) as client:
            reply = await client.rerank(documents=TEXTS)
            assert (
                reply.json()["results"] == response({"query": "which one", "documents": TEXTS})[1]["results"]
            )
            assert all(stub.counts["documents"] > 4 for stub in stubs)
            assert all(stub.counts["most"] == 1 for stub in stubs)

    asyncio.run(scenario())


def test_only_addresses_with_the_references_scores_are_admitted(tmp_path):
    async def scenario():
        stubs = [Replica(), Replica(seed="another model")]
        async with serving(tmp_path, *stubs, expected=1) as client:
            await client.until(lambda: len({replica.state for replica in client.pool.replicas.values()}) == 2)
            states = {row["address"]: row["state"] for row in (await client.state())["replicas"]}
            assert states == {stubs[0].address: "admitted", stubs[1].address: "rejected"}
            assert (await client.rerank(documents=TEXTS)).status_code == 200
            shares = {row["address"]: row["shares"] for row in (await client.state())["replicas"]}
            assert shares == {stubs[0].address: 1, stubs[1].address: 0}

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/v1/models", "/version"])
def test_what_verify_reads_comes_from_a_replica(tmp_path, path):
    async def scenario():
        async with serving(tmp_path, Replica()) as client:
            assert (await client.http.get(path)).status_code == 200

    asyncio.run(scenario())


def test_without_an_admitted_replica_the_response_is_503_at_once(tmp_path):
    async def scenario():
        async with serving(tmp_path, Replica(seed="another model"), expected=0) as client:
            assert (await client.http.get("/health")).status_code == 503
            reply = await client.rerank(documents=TEXTS)
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, 503)
            assert int(reply.headers["retry-after"]) > 0

    asyncio.run(scenario())
