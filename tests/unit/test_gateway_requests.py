"""Requests that the gateway refuses, or that must do it no harm."""

import asyncio
import logging

import pytest

from ragops.gateway import app, replicas, split
from ragops.reranker import gateway as container
from tests.support.gateway import serving
from tests.support.replicas import Replica

JSON = {"Content-Type": "application/json"}
NESTED = b'{"model": "stub", "query": "q", "documents": ["a"], "x": %b%b}' % (b"[" * 300, b"]" * 300)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(replicas, "CHECK_SECONDS", 0.01)


async def counted(client, status):
    lines = (await client.http.get("/metrics")).text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines)
    return int(values.get(f'ragops_gateway_requests_total{{status="{status}"}}', 0))


@pytest.mark.parametrize("content", ["text/plain\x01x", "text/plain\x7fx"])
@pytest.mark.parametrize("path", ["/v1/rerank", "/tokenize"])
def test_a_content_type_that_no_client_can_send_is_an_error_of_the_request(tmp_path, path, content):
    async def scenario():
        async with serving(tmp_path, Replica()) as client:
            reply = await client.http.post(path, content=b"{}", headers={"Content-Type": content})
            assert (reply.status_code, reply.json()["error"]["code"]) == (400, 400)
            assert len(client.pool.admitted) == 1
            assert await counted(client, 400) == (path == "/v1/rerank")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("body", "status"),
    [(NESTED, 200), (b'[["model", "stub"], ["query", "q"], ["documents", ["a"]]]', 400), (b"7", 400)],
)
def test_a_body_that_the_gateway_cannot_write_goes_to_vllm_whole(tmp_path, body, status):
    assert split.parse(body).raw == body
    if status == 400:
        return

    async def scenario():
        async with serving(tmp_path, Replica()) as client:
            assert (await client.http.post("/v1/rerank", content=body, headers=JSON)).status_code == status

    asyncio.run(scenario())


def test_many_documents_or_values_go_to_vllm_whole(monkeypatch):
    monkeypatch.setattr(split, "MOST_DOCUMENTS", 2)
    assert split.parse(b'{"query": "q", "documents": ["a", "b"]}').raw is None
    assert split.parse(b'{"query": "q", "documents": ["a", "b", "c"]}').raw is not None
    monkeypatch.setattr(split, "MOST_COMMAS", 2)
    assert split.parse(b'{"query": "q", "documents": "a,b,c"}').raw is not None


def test_the_bytes_on_their_way_are_bounded_and_given_free(tmp_path, monkeypatch):
    monkeypatch.setattr(app, "IN_FLIGHT", 3000)

    async def scenario():
        async with serving(tmp_path, stub := Replica()) as client:
            texts = ["x" * 1200]
            async with stub._engine:  # it computes nothing until the others are refused
                sent = [asyncio.ensure_future(client.rerank(str(number), texts)) for number in range(4)]
                await client.until(lambda: sum(one.done() for one in sent) == 2)
            replies = await asyncio.gather(*sent)
            assert sorted(reply.status_code for reply in replies) == [200, 200, 503, 503]
            assert client.gateway.in_flight == 0
            assert await counted(client, 503) == 2
            assert (await client.rerank(documents=texts)).status_code == 200

    asyncio.run(scenario())


def test_requests_without_the_key_or_too_large_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(app, "MAX_BODY", 1000)
    lines = []
    log = lambda text, *values: lines.append(text % values)  # noqa: E731 - other tests may disable the logger
    monkeypatch.setattr(logging.getLogger("gateway"), "warning", log)

    async def scenario():
        async with serving(tmp_path, Replica(), key_sha256="0" * 64) as client:
            assert (await client.rerank(documents=["a"])).status_code == 401
            assert await counted(client, 401) == 1
            [line] = [line for line in lines if line.startswith("401")]  # a port may have these digits
            assert "127.0.0.1" in line
        async with serving(tmp_path, Replica()) as client:
            assert (await client.rerank(documents=["a" * 2000])).status_code == 413
            assert await counted(client, 413) == 1
            assert client.gateway.in_flight == 0

    asyncio.run(scenario())


def test_what_verify_reads_comes_from_a_replica_that_responds(tmp_path):
    async def scenario():
        async with serving(tmp_path, Replica(), Replica()) as client:
            first = client.pool.admitted[0]
            send = client.pool.send

            async def stalled(replica, path, body, seconds):
                if replica is first and path == "/v1/models":
                    async with asyncio.timeout(seconds):
                        await asyncio.sleep(3600)
                return await send(replica, path, body, seconds)

            client.pool.send = stalled
            async with asyncio.timeout(60):
                assert (await client.http.get("/v1/models")).status_code == 200

    asyncio.run(scenario())


def test_a_connection_error_of_a_passed_on_request_needs_a_new_proof(tmp_path):
    async def scenario():
        stubs = [Replica(), Replica()]
        async with serving(tmp_path, *stubs) as client:
            client.pool.check = lambda *_: asyncio.sleep(0)
            first = client.pool.admitted[0]
            await next(stub for stub in stubs if stub.address == first.address).stop()
            assert (await client.http.get("/v1/models")).status_code == 200
            assert first.state != "admitted"

    asyncio.run(scenario())


def test_only_what_is_looked_up_in_the_cache_is_a_hit_or_a_miss(tmp_path):
    async def scenario():
        async with serving(tmp_path, Replica(), cache=100) as client:
            for headers, hits, misses in [
                ({}, 0, 1),
                ({"Cache-Control": "no-cache"}, 0, 1),
                ({"Prefer": "handling=strict"}, 0, 1),
                ({}, 1, 1),
            ]:
                await client.rerank(documents=["same"], headers=headers)
                cache = (await client.state())["cache"]
                assert (cache["hits"], cache["misses"]) == (hits, misses)

    asyncio.run(scenario())


def test_the_bytes_on_their_way_fit_into_the_containers_memory():
    """Measured: 40 MiB at the start, 154 MiB with 15 MiB of bodies with characters of four bytes."""
    resident, factor = 48 << 20, 11
    assert resident + factor * app.IN_FLIGHT <= container._MEMORY
    assert app.MAX_BODY <= app.IN_FLIGHT
