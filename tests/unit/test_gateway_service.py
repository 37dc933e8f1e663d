"""The gateway before stub replicas on real sockets: equal to one server's, deadline, cache, failures."""

import asyncio
import hashlib
import json
import os
import signal
import socket
import sys
import time

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import free_port
from ragops.gateway import app, dispatch, replicas, split
from tests.support.gateway import serving
from tests.support.replicas import Replica, reference, response

TEXTS = [f"document {number} " * (3 + number % 5) for number in range(24)]
BYTES = sum(len(f"which one{text}") for text in TEXTS)
STRICT, FRESH = {"Prefer": "handling=strict"}, {"Cache-Control": "no-cache"}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Checks every few milliseconds; also the smallest requests are split."""
    monkeypatch.setattr(replicas, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr(replicas, "LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(split, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(dispatch, "MARGIN_SECONDS", 0.01)
    monkeypatch.setattr(dispatch, "TICK", 0.005)
    monkeypatch.setattr(dispatch, "LATE_SECONDS", 100.0)  # on a busy machine any share may be slow


@pytest.fixture
def hedging(monkeypatch):
    """Slow shares are sent again soon."""
    monkeypatch.setattr(dispatch, "LATE_SECONDS", 0.02)


def right(documents=TEXTS, **fields):
    """The results of one server."""
    return response({"query": "which one", "documents": documents, **fields})[1]["results"]


def even(client):
    """All replicas count as equally fast, whatever the machine was busy with while they were proved."""
    for replica in client.pool.replicas.values():
        replica.paces.clear()
        replica.learn(0.01, 1000)


def computed(*stubs):
    """Documents of clients and of proofs that have been computed."""
    return sum(stub.counts["documents"] for stub in stubs)


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
    documents=st.lists(st.text(max_size=40), min_size=1, max_size=40),
    top=st.integers(0, 45),
    paces=st.lists(st.sampled_from([0.0, 1e-7, 1e-6, 4e-6]), min_size=1, max_size=5),
    logits=st.booleans(),
)
def test_any_request_equals_one_servers_response(runner, fleets, query, documents, top, paces, logits):
    client, stubs = fleets[len(paces)]
    for stub, pace in zip(stubs, paces, strict=True):
        stub.behave(per_byte=pace, logits=logits)
    fields = {"query": query, "documents": documents, "top_n": top}
    runner.run(client.admitted(len(stubs)))  # health checks may expire while the loop does not run
    reply = runner.run(client.rerank(**fields, headers=STRICT))
    status, expected = response(fields, stubs[0].behaviour)
    assert reply.status_code == status, reply.text
    assert reply.headers["x-ranked"] == f"{len(documents)}/{len(documents)}"
    body = reply.json()
    assert {**body, "id": ""} == {**expected, "id": ""}
    assert list(body) == list(expected)
    runner.run(client.admitted(len(stubs)))
    stored = runner.run(client.rerank(**fields, headers=FRESH)).json()
    assert stored["results"] == expected["results"]


def test_a_request_is_divided_over_all_replicas(tmp_path):
    async def scenario():
        stubs = [Replica(fixed=0.01) for _ in range(3)]
        async with serving(tmp_path, *stubs) as client:
            even(client)
            reply = await client.rerank(documents=TEXTS)
            assert reply.json()["results"] == right()
            assert all(stub.counts["documents"] > 4 for stub in stubs)
            assert all(stub.counts["most"] == 1 for stub in stubs)

    asyncio.run(scenario())


def test_several_clients_at_once_get_their_own_scores(tmp_path):
    async def scenario():
        stubs = [Replica(per_byte=1e-6) for _ in range(2)]
        async with serving(tmp_path, *stubs, deadline=60, cache=10) as client:
            queries = [f"query {number}" for number in range(12)]
            replies = await asyncio.gather(*(client.rerank(query, TEXTS) for query in queries))
            for query, reply in zip(queries, replies, strict=True):
                assert reply.json()["results"] == right(query=query)

    asyncio.run(scenario())


def test_without_a_deadline_the_first_request_is_served_first(tmp_path, monkeypatch):
    monkeypatch.setattr(dispatch, "SHARE_SECONDS", 100.0)  # one share each, however slow the machine is

    async def scenario():
        async with serving(tmp_path, Replica(fixed=0.02)) as client:
            ends = {}

            async def send(number):
                await client.rerank(f"query {number}", TEXTS)
                ends[number] = time.monotonic()

            await asyncio.gather(*(send(number) for number in range(4)))
            assert list(ends) == sorted(ends, key=ends.get) == [0, 1, 2, 3]

    asyncio.run(scenario())


@pytest.mark.parametrize("number", [1, 2])
def test_at_the_deadline_the_response_is_what_is_ranked_in_the_requests_order(tmp_path, monkeypatch, number):
    monkeypatch.setattr(dispatch, "SHARE_SECONDS", 0.3)

    async def scenario():
        stubs = [Replica(per_byte=number * 4.5 / BYTES) for _ in range(number)]
        async with serving(tmp_path, *stubs, deadline=3, cache=100) as client:
            reply = await client.rerank(documents=TEXTS)
            ranked, of = map(int, reply.headers["x-ranked"].split("/"))
            assert 1 <= ranked <= 0.7 * 24
            assert of == 24
            results = reply.json()["results"]
            rest = [row["index"] for row in results[ranked:]]
            assert results[:ranked] == [row for row in right() if row["index"] not in rest]
            assert rest == sorted(rest)
            assert number > 1 or rest == list(range(ranked, 24))
            scores = [row["relevance_score"] for row in results]
            assert scores == sorted(set(scores), reverse=True)
            assert all(stub.counts["aborted"] == 0 for stub in stubs)
            for stub in stubs:
                stub.behave(per_byte=0.0)
            again = await client.rerank(documents=TEXTS)
            assert (again.headers["x-ranked"], again.json()["results"]) == ("24/24", right())
            assert int(again.headers["x-cached"]) >= ranked
            hour = (await client.state())["hour"]
            assert (hour["requests"], hour["documents"], hour["ranked"]) == (2, 48, 24 + ranked)

    asyncio.run(scenario())


def test_a_fixed_time_of_each_share_makes_no_ever_smaller_shares(tmp_path, monkeypatch):
    monkeypatch.setattr(dispatch, "SHARE_SECONDS", 0.05)

    async def scenario():
        async with serving(
            tmp_path, stub := Replica(fixed=0.06, per_byte=0.1 / BYTES), deadline=30
        ) as client:
            proofs = stub.counts["requests"]
            assert (await client.rerank(documents=TEXTS)).headers["x-ranked"] == "24/24"
            assert stub.counts["requests"] - proofs < 12

    asyncio.run(scenario())


@pytest.mark.usefixtures("hedging")
@pytest.mark.parametrize("fault", ["hang", "drip"])
def test_what_a_stalled_replica_has_comes_before_all_others(tmp_path, monkeypatch, fault):
    monkeypatch.setattr(dispatch, "SHARE_SECONDS", 0.2)

    async def scenario():
        stubs = [Replica(per_byte=8.0 / BYTES) for _ in range(2)]
        async with serving(tmp_path, *stubs, deadline=6) as client:
            stubs[0].behave(fault=fault)
            reply = await client.rerank(documents=TEXTS)
            ranked = int(reply.headers["x-ranked"].split("/")[0])
            assert ranked < 24
            assert {0, 1, 2} <= {row["index"] for row in reply.json()["results"][:ranked]}

    asyncio.run(scenario())


def test_nothing_ranked_by_the_deadline_is_an_error_also_in_the_queue(tmp_path):
    async def scenario():
        stub = Replica()
        async with serving(tmp_path, stub, deadline=0.1) as client:
            stub.behave(fixed=3600)
            for reply in await asyncio.gather(*(client.rerank(str(number), TEXTS) for number in range(2))):
                assert (reply.status_code, reply.json()["error"]["code"]) == (503, 503)
            assert (await client.state())["hour"]["late"] == 2

    asyncio.run(scenario())


def test_with_a_deadline_every_request_gets_a_share_before_any_gets_its_second(tmp_path, monkeypatch):
    monkeypatch.setattr(dispatch, "SHARE_SECONDS", 0.25)

    async def scenario():
        async with serving(tmp_path, Replica(per_byte=7.5 / BYTES), deadline=6) as client:
            replies = await asyncio.gather(*(client.rerank(str(number), TEXTS) for number in range(3)))
            assert [reply.status_code for reply in replies] == [200] * 3

    asyncio.run(scenario())


@pytest.mark.usefixtures("hedging")
def test_a_late_share_is_sent_once_more_and_the_duplicate_is_cancelled(tmp_path):
    async def scenario():
        stubs = [Replica(fixed=0.02) for _ in range(2)]
        async with serving(tmp_path, *stubs) as client:
            for number in range(5):
                await client.rerank(f"query {number}", TEXTS)
            even(client)
            stubs[0].behave(fault="hang")
            before = client.dispatcher.counts['shares_total{outcome="hedged"}']
            reply = await client.rerank(documents=TEXTS)
            assert reply.json()["results"] == right()
            assert client.dispatcher.counts['shares_total{outcome="hedged"}'] > before
            await client.until(lambda: stubs[0].counts["aborted"] > 0)

    asyncio.run(scenario())


@pytest.mark.usefixtures("hedging")
@pytest.mark.parametrize("fault", ["500", "reset", "malformed", "short", "nan", "drip", "hang", "slow"])
def test_a_fault_of_one_replica_is_no_failure_and_no_wrong_order(tmp_path, fault):
    async def scenario():
        stubs = [Replica(fixed=0.01) for _ in range(3)]
        async with serving(tmp_path, *stubs) as client:
            stubs[0].behave(fault=fault)
            for number in range(6):
                reply = await client.rerank(f"query {number}", TEXTS)
                assert (reply.status_code, reply.json()["results"]) == (200, right(query=f"query {number}"))
            stubs[0].behave(fault="")
            await client.admitted(3)

    asyncio.run(scenario())


def test_the_only_replica_is_proved_again_within_a_request(tmp_path):
    async def scenario():
        stub = Replica()
        async with serving(tmp_path, stub) as client:
            stub.behave(fault="500")
            sent = asyncio.ensure_future(client.rerank(documents=TEXTS))
            await client.until(lambda: stub.counts["faults"])
            stub.behave(fault="")
            assert (await sent).json()["results"] == right()

    asyncio.run(scenario())


def test_a_share_whose_every_try_failed_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(dispatch, "GRACE_SECONDS", 0.1)

    async def scenario():
        stubs = [Replica(), Replica()]
        async with serving(tmp_path, *stubs, deadline=2) as client:
            for stub in stubs:
                stub.behave(fault="500")
            assert (await client.rerank(documents=TEXTS)).status_code in {500, 503}

    asyncio.run(scenario())


@pytest.mark.parametrize("number", [1, 2])
def test_a_replica_that_is_killed_is_down_and_admitted_again_after_its_restart(tmp_path, number):
    async def scenario():
        stubs = [Replica() for _ in range(number)]
        async with serving(tmp_path, *stubs) as client:
            await stubs[0].stop()
            reply = await client.rerank(documents=TEXTS)
            assert reply.status_code == (200 if number == 2 else 503)
            await client.until(lambda: "down" in {one.state for one in client.pool.replicas.values()})
            await stubs[0].start()
            await client.admitted(number)
            assert (await client.rerank(documents=TEXTS)).json()["results"] == right()

    asyncio.run(scenario())


def test_a_replica_that_fails_again_waits_longer_and_no_longer_after_a_quiet_minute(tmp_path, monkeypatch):
    monkeypatch.setattr(replicas, "PROOF_SECONDS", 0.1)
    monkeypatch.setattr(replicas, "LONGEST_PAUSE", 1000.0)

    async def scenario():
        stub = Replica()
        async with serving(tmp_path, stub) as client:
            [replica] = client.pool.replicas.values()
            pauses = []
            for _ in range(4):
                now = asyncio.get_running_loop().time()
                client.pool.fail(replica, "of a share")
                pauses.append(round(replica.due - now))
            assert pauses == [0, 1, 3, 7]
            replica.due = 0.0
            await client.admitted(1)
            assert replica.failures == 4
            await client.until(lambda: not replica.failures)

    asyncio.run(scenario())


def test_only_addresses_with_the_references_scores_are_admitted(tmp_path):
    async def scenario():
        stubs = [Replica(), Replica(seed="another model")]
        async with serving(tmp_path, *stubs, expected=1) as client:
            even(client)
            await client.until(lambda: len({replica.state for replica in client.pool.replicas.values()}) == 2)
            assert (await client.rerank(documents=TEXTS)).status_code == 200
            rows = {
                row["address"]: (row["state"], row["shares"]) for row in (await client.state())["replicas"]
            }
            assert rows[stubs[0].address] == ("admitted", 1)
            assert rows[stubs[1].address][1] == 0

    asyncio.run(scenario())


def test_wrong_scores_of_an_admitted_replica_are_found_by_the_next_proof(tmp_path, monkeypatch):
    monkeypatch.setattr(replicas, "PROOF_SECONDS", 0.05)

    async def scenario():
        stubs = [Replica(), Replica()]
        async with serving(tmp_path, *stubs) as client:
            stubs[0].behave(fault="wrong")
            await client.until(lambda: "rejected" in {one.state for one in client.pool.replicas.values()})
            assert (await client.rerank(documents=TEXTS)).json()["results"] == right()
            stubs[0].behave(fault="")
            await client.admitted(2)

    asyncio.run(scenario())


def test_after_a_change_of_the_model_the_cache_is_empty_and_only_the_new_model_serves(tmp_path):
    async def scenario():
        stubs = [Replica(), Replica()]
        async with serving(tmp_path, *stubs, cache=100) as client:
            await client.rerank(documents=TEXTS)
            new = reference(identity="2" * 12, seed="new")
            (tmp_path / "reference.json").write_text(json.dumps(new))
            await client.until(lambda: client.pool.reference["id"] == new["id"])
            await asyncio.sleep(0.1)
            assert (await client.rerank(documents=TEXTS)).json()["results"] == right()
            stubs[1].behave(seed="new")
            await client.until(lambda: client.pool.serving == new["id"])
            await client.admitted(1)
            reply = await client.rerank(documents=TEXTS)
            assert reply.headers["x-cached"] == "0"
            assert (
                reply.json()["results"]
                == response({"query": "which one", "documents": TEXTS}, stubs[1].behaviour)[1]["results"]
            )

    asyncio.run(scenario())


def test_the_cache_serves_what_has_the_same_query_document_and_fields(tmp_path):
    async def scenario():
        stub = Replica()
        async with serving(tmp_path, stub, cache=100) as client:
            before = computed(stub)
            calls: list[tuple[list[str], int, dict]] = [
                (TEXTS, 0, {}),
                (TEXTS, 24, {"top_n": 3}),
                (TEXTS[::-1], 24, {}),
                (["new", *TEXTS[:8]], 8, {}),
                (TEXTS, 0, {"headers": FRESH}),
                (TEXTS, 0, {"headers": STRICT}),
                (TEXTS, 0, {"instruction": "another"}),
            ]
            for sent, cached, fields in calls:
                reply = await client.rerank(documents=sent, **fields)
                assert reply.headers["x-cached"] == str(cached)
                assert reply.json()["results"] == right(sent, top_n=fields.get("top_n", 0))
            assert computed(stub) - before == 24 * 4 + 1
            cache = (await client.state())["cache"]
            assert (cache["limit"], cache["hits"], cache["entries"]) == (100, 56, 49)

    asyncio.run(scenario())


def test_equal_documents_are_computed_once_in_one_request_and_in_two_at_once(tmp_path):
    async def scenario():
        stubs = [Replica(per_byte=1e-5), Replica(per_byte=1e-5)]
        async with serving(tmp_path, *stubs, cache=100) as client:
            before = computed(*stubs)
            twice = [*TEXTS, *TEXTS]
            replies = await asyncio.gather(*(client.rerank(documents=twice) for _ in range(3)))
            assert [reply.json()["results"] for reply in replies] == [right(twice)] * 3
            assert computed(*stubs) - before == 24

    asyncio.run(scenario())


def test_without_a_cache_nothing_is_stored(tmp_path):
    async def scenario():
        async with serving(tmp_path, Replica()) as client:
            for _ in range(2):
                assert (await client.rerank(documents=TEXTS)).headers["x-cached"] == "0"
            assert (await client.state())["cache"]["entries"] == 0

    asyncio.run(scenario())


def test_the_least_recently_used_scores_make_way(tmp_path):
    async def scenario():
        async with serving(tmp_path, Replica(), cache=3) as client:
            for documents, cached in [("abc", 0), ("a", 1), ("d", 0), ("b", 0), ("a", 1)]:
                assert (await client.rerank(documents=list(documents))).headers["x-cached"] == str(cached)
            assert (await client.state())["cache"]["entries"] == 3

    asyncio.run(scenario())


LONG = [*map(str.strip, TEXTS[:6]), "word " * 300 + "end", TEXTS[7].strip()]
"""Without a space at the end, which a stub replica leaves out where it cuts."""


def test_a_long_document_is_cut_so_that_query_and_template_have_place(tmp_path):
    async def scenario():
        stub = Replica(max_tokens=60, template=9)
        async with serving(tmp_path, stub, cache=100) as client:
            cut = 60 - 9 - len(["which", "one"]) - 1 - 3
            for cached in (0, 8):
                reply = await client.rerank(documents=LONG)
                assert (reply.headers["x-truncated"], reply.headers["x-cached"]) == ("1", str(cached))
                assert reply.json()["results"] == right(LONG, max_tokens_per_doc=cut)
            assert (await client.state())["hour"]["truncated"] == 2

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("query", "headers", "mode"),
    [("which one", {}, "error"), ("which one", STRICT, "truncate"), ("long " * 99, {}, "truncate")],
)
def test_vllms_refusal_is_the_response_where_nothing_may_or_can_be_cut(tmp_path, query, headers, mode):
    async def scenario():
        stub = Replica(max_tokens=60)
        async with serving(tmp_path, stub, long_documents=mode) as client:
            reply = await client.rerank(query, LONG, headers)
            expected = response({"query": query, "documents": LONG}, stub.behaviour)
            assert (reply.status_code, reply.json()) == expected
            assert len(client.pool.admitted) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"documents": []}, 400),
        ({"documents": TEXTS, "model": "other"}, 404),
        ({"documents": [{"content": [{"type": "text", "text": "one"}]}, "two"]}, 200),
        ({"documents": "one"}, 200),
    ],
)
def test_vllms_own_response_to_an_odd_request_is_passed_on(tmp_path, fields, status):
    async def scenario():
        async with serving(tmp_path, Replica(), Replica(), cache=100) as client:
            reply = await client.rerank(**fields)
            expected = response({"query": "which one", **fields})[1]
            assert (reply.status_code, {**reply.json(), "id": ""}) == (status, {**expected, "id": ""})
            assert len(client.pool.admitted) == 2

    asyncio.run(scenario())


@pytest.mark.parametrize("content", [b"no JSON", b"", b'{"query": "q", "documents": ["\\ud800"], "x": NaN}'])
def test_bodies_that_only_vllm_can_read_go_to_it_as_they_are(tmp_path, content):
    async def scenario():
        async with serving(tmp_path, Replica()) as client:
            headers = {"Content-Type": "application/json"}
            reply = await client.http.post("/v1/rerank", content=content, headers=headers)
            assert reply.status_code == (200 if b"query" in content else 400)

    asyncio.run(scenario())


def test_a_listwise_model_gets_its_requests_whole(tmp_path):
    async def scenario():
        stubs = [Replica(), Replica()]
        async with serving(tmp_path, *stubs, split=0, cache=100, deadline=5) as client:
            before = [stub.counts["requests"] for stub in stubs]
            assert (await client.rerank(documents=TEXTS)).json()["results"] == right()
            assert sorted(stub.counts["requests"] - old for stub, old in zip(stubs, before, strict=True)) == [
                0,
                1,
            ]

    asyncio.run(scenario())


def test_the_clients_disconnect_cancels_its_shares(tmp_path):
    async def scenario():
        stubs = [Replica(), Replica()]
        async with serving(tmp_path, *stubs) as client:
            for stub in stubs:
                stub.behave(fixed=3600)
            body = json.dumps({"query": "which one", "documents": TEXTS}).encode()
            headers = [(b"content-type", b"application/json")]
            scope = {"type": "http", "method": "POST", "path": "/v1/rerank", "headers": headers}
            scope |= {"query_string": b"", "root_path": "", "scheme": "http", "server": ("gateway", 80)}
            messages = [{"type": "http.request", "body": body}]

            async def receive():
                if messages:
                    return messages.pop()
                await client.until(lambda: all(stub.counts["now"] for stub in stubs))
                return {"type": "http.disconnect"}

            async def send(message):
                pass

            async with asyncio.timeout(60):
                await client.gateway.application(scope, receive, send)
                await client.until(lambda: all(stub.counts["aborted"] == 1 for stub in stubs))
            assert not client.dispatcher.jobs
            assert not client.dispatcher.shares

    asyncio.run(scenario())


def test_a_full_queue_is_503_with_a_time_to_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(dispatch, "QUEUE", 2)

    async def scenario():
        async with serving(tmp_path, stub := Replica()) as client:
            async with stub._engine:  # it computes nothing until the others are refused
                sent = [asyncio.ensure_future(client.rerank(str(number), TEXTS)) for number in range(5)]
                await client.until(lambda: sum(one.done() for one in sent) == 2)
            replies = await asyncio.gather(*sent)
            assert sorted(reply.status_code for reply in replies) == [200, 200, 200, 503, 503]
            assert all(int(reply.headers["retry-after"]) > 0 for reply in replies if reply.status_code == 503)

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank", "/v1/models", "/tokenize"])
def test_with_a_key_only_health_and_counts_are_open(tmp_path, path):
    async def scenario():
        key = hashlib.sha256(b"secret").hexdigest()
        async with serving(tmp_path, Replica(), key_sha256=key) as client:
            method = "GET" if path == "/v1/models" else "POST"
            fields = {"query": "which one", "documents": TEXTS, "prompt": "one"}
            for value, status in [
                ("", 401),
                ("Bearer other", 401),
                ("Basic secret", 401),
                ("bearer secret", 200),
            ]:
                reply = await client.http.request(method, path, json=fields, headers={"Authorization": value})
                assert reply.status_code == status
                assert status == 200 or reply.json() == {"error": "Unauthorized"}
            for path_ in ("/health", "/metrics", "/replicas"):
                assert (await client.http.get(path_)).status_code == 200

    asyncio.run(scenario())


@pytest.mark.parametrize("chunked", [False, True])
def test_a_request_over_the_size_limit_is_413(tmp_path, monkeypatch, chunked):
    monkeypatch.setattr(app, "MAX_BODY", 1000)

    async def chunks():
        for _ in range(30):
            yield b"x" * 100

    async def scenario():
        async with serving(tmp_path, Replica()) as client:
            content = chunks() if chunked else b"x" * 3000
            reply = await client.http.post("/v1/rerank", content=content)
            assert (reply.status_code, reply.json()["error"]["code"]) == (413, 413)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/rerank", 405),
        ("GET", "/nothing", 404),
        ("HEAD", "/health", 200),
        ("OPTIONS", "/health", 405),
    ],
)
def test_other_methods_and_paths_have_vllms_errors(tmp_path, method, path, status):
    async def scenario():
        async with serving(tmp_path, Replica()) as client:
            reply = await client.http.request(method, path)
            assert reply.status_code == status
            assert status == 200 or list(reply.json()) == ["detail"]

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/v1/models", "/version"])
def test_what_verify_reads_comes_from_a_replica(tmp_path, path):
    async def scenario():
        async with serving(tmp_path, Replica()) as client:
            assert (await client.http.get(path)).status_code == 200

    asyncio.run(scenario())


def test_without_an_admitted_replica_the_response_is_503_at_once(tmp_path):
    async def scenario():
        async with serving(tmp_path, Replica(seed="another model"), expected=0, deadline=9) as client:
            assert (await client.http.get("/health")).status_code == 503
            for reply in (await client.rerank(documents=TEXTS), await client.http.get("/v1/models")):
                assert (reply.status_code, reply.json()["error"]["code"]) == (503, 503)
                assert int(reply.headers["retry-after"]) > 0

    asyncio.run(scenario())


def test_only_a_definite_no_such_name_removes_a_replica(tmp_path, monkeypatch):
    async def scenario():
        async with serving(tmp_path, Replica()) as client:
            loop = asyncio.get_running_loop()
            lookups = []

            async def fail(error):
                lookups.append(error)
                raise error

            for error in (socket.gaierror(socket.EAI_AGAIN, ""), TimeoutError(), OSError("no file")):
                monkeypatch.setattr(loop, "getaddrinfo", lambda *_, error=error, **__: fail(error))
                lookups.clear()
                await client.until(lambda: len(lookups) > 2)
                assert len(client.pool.admitted) == 1
            gone = socket.gaierror(socket.EAI_NONAME, "")
            monkeypatch.setattr(loop, "getaddrinfo", lambda *_, **__: fail(gone))
            await client.until(lambda: not client.pool.replicas)
            monkeypatch.undo()

    asyncio.run(scenario())


def test_metrics_count_requests_documents_and_shares(tmp_path):
    async def scenario():
        async with serving(tmp_path, Replica(), cache=100) as client:
            even(client)
            before = (await client.http.get("/metrics")).text
            assert 'documents_total{state="unranked"} 0' in before
            for _ in range(2):
                await client.rerank(documents=TEXTS)
            await client.rerank(documents=[])
            lines = (await client.http.get("/metrics")).text.splitlines()
            values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
            for name, value in {
                'requests_total{status="200"}': 2,
                'requests_total{status="400"}': 1,
                'documents_total{state="computed"}': 24,
                'documents_total{state="cached"}': 24,
                "late_requests_total": 0,
                'replicas{state="admitted"}': 1,
                "queued_requests": 0,
                'shares_total{outcome="ok"}': 1,
                "proof_tokens_total": 32,  # two reference requests of two documents
                'request_seconds_bucket{le="+Inf"}': 3,
                "request_seconds_count": 3,
            }.items():
                assert float(values[f"ragops_gateway_{name}"]) == value
            kinds = [line.split()[2:] for line in lines if line.startswith("# TYPE")]
            assert ["ragops_gateway_request_seconds", "histogram"] in kinds
            assert len(kinds) == len({name for name, _ in kinds})

    asyncio.run(scenario())


def test_after_sigterm_the_requests_on_their_way_get_their_responses(tmp_path):
    async def scenario():
        stub = Replica()
        (tmp_path / "reference.json").write_text(json.dumps(reference()))
        port = free_port()
        async with stub:
            environment = {
                **os.environ,
                "GATEWAY_REPLICAS": stub.address,
                "GATEWAY_REFERENCE": str(tmp_path / "reference.json"),
                "GATEWAY_PORT": str(port),
            }
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "ragops.gateway", env=environment, stderr=asyncio.subprocess.PIPE
            )
            url = f"http://127.0.0.1:{port}"
            async with httpx.AsyncClient(base_url=url, timeout=60) as http, asyncio.timeout(90):
                while True:
                    try:
                        if (await http.get("/health")).status_code == 200:
                            break
                    except httpx.ConnectError:
                        pass
                    await asyncio.sleep(0.02)
                stub.behave(fixed=0.3)
                sent = asyncio.ensure_future(http.post("/v1/rerank", json={"query": "q", "documents": TEXTS}))
                while not stub.counts["now"]:  # noqa: ASYNC110 - the state of another task
                    await asyncio.sleep(0.005)
                process.send_signal(signal.SIGTERM)
                assert (await sent).json()["results"] == right(query="q")
                _, log = await process.communicate()
            assert process.returncode == 0
            assert b"document 3" not in log
            assert b"Traceback" not in log

    asyncio.run(scenario())
