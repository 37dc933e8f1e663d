"""The client's times are those of the bytes, over any kind of connection."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time

import h11
import pytest

from ragops.bench import wire
from ragops.bench.records import GatewayCounts
from ragops.errors import StackError
from ragops.ragflow.api import Secret
from tests.support.tls import write_certificate

BODY = wire.encode("stub-reranker", "red apple", ("a red apple", "a pear"))
RANKING = json.dumps(
    {"results": [{"index": 0, "relevance_score": 0.9}, {"index": 1, "relevance_score": 0.1}]}
).encode()


HOUR = 3600 * 10**9


@pytest.fixture
def later(monkeypatch):
    """Moves the client's clock an hour forward, so that the machine's own speed does not matter."""
    clock, hours = time.perf_counter_ns, []
    monkeypatch.setattr(time, "perf_counter_ns", lambda: clock() + HOUR * len(hours))
    return lambda: hours.append(1)


def http(content, status="200 OK", more=""):
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{more}content-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


async def post(url, times=1, pause=0.0, **fields):
    responses = []
    with contextlib.closing(wire.Client(wire.Server(url, "stub-reranker"), **fields)) as client:
        for _ in range(times):
            responses.append(await client.post(BODY, 2))
            await asyncio.sleep(pause)
    return responses


def exchange(content, url="http://127.0.0.1:{}/v1", tls=None, times=1, *, keep_alive=True, **fields):
    """The client's responses from a server that sends these bytes, and the number of connections."""
    connections = []

    async def serve(reader, writer):
        connections.append(writer)
        with contextlib.closing(writer):
            while await reader.readline():
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(len(BODY))
                writer.write(content)
                if not keep_alive:
                    return

    async def run():
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
        port = server.sockets[0].getsockname()[1]
        return await post(
            url.format(port), times, pause=0.05, **fields
        )  # the server's side ends in the pause

    return asyncio.run(run()), len(connections)


def test_slow_parsing_of_the_client_is_not_in_the_times(monkeypatch, later):
    receive = h11.Connection.receive_data

    def slowly(self, data):
        if data:  # not at the end of a connection
            later()
        receive(self, data)

    monkeypatch.setattr(h11.Connection, "receive_data", slowly)
    (first, second), _ = exchange(http(RANKING), times=2)
    assert second.t_done - second.t_send < HOUR
    assert second.t_send - first.t_done > HOUR


@pytest.mark.parametrize("key", ["schlüssel", "two words", "a\nb", ""])
def test_key_that_no_header_can_hold_is_refused(key):
    with pytest.raises(StackError) as caught:
        wire.Server("http://reranker/v1", "m", Secret(key))
    assert caught.value.code == "secret-refused"
    assert not key or key not in str(caught.value)


GATEWAY = "x-ranked: 1/2\r\nx-cached: 1\r\nserver-timing: gateway;dur=2.5, replicas;dur=2034.0\r\n"


@pytest.mark.parametrize(
    ("more", "counts"),
    [(GATEWAY, GatewayCounts(1, 1, 2.5)), (GATEWAY.title(), GatewayCounts(1, 1, 2.5)), ("", GatewayCounts())],
)
def test_counts_of_the_gateway_are_in_the_response(more, counts):
    ((response,), _) = exchange(http(RANKING, more=more.replace("Gateway;Dur", "gateway;dur")))
    assert (response.error, response.gateway) == ("", counts)


@pytest.mark.parametrize("fresh", [True, False])
def test_the_gateways_cache_is_only_used_where_it_is_measured(fresh):
    heads = []

    async def serve(reader, writer):
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(http(RANKING))
        writer.close()

    async def run():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        with contextlib.closing(wire.Client(wire.Server(url, "stub-reranker"))) as client:
            await client.post(BODY, 2, fresh=fresh)

    asyncio.run(run())
    assert (b"cache-control: no-cache" in heads[0].lower()) == fresh


def test_requests_over_one_connection_have_their_own_times():
    responses, connections = exchange(http(RANKING), times=3)
    assert connections == 1
    assert [response.scores for response in responses] == [(0.9, 0.1)] * 3
    times = [t for response in responses for t in (response.t_send, response.t_done)]
    assert times == sorted(times)
    assert len(set(times)) == 6


def test_connecting_is_part_of_the_first_request(monkeypatch, later):
    """RAGFlow connects for each request."""
    connect = asyncio.BaseEventLoop.create_connection

    async def create(self, factory, *args, **fields):
        later()
        return await connect(self, factory, *args, **fields)

    monkeypatch.setattr(asyncio.BaseEventLoop, "create_connection", create)
    (first, second), _ = exchange(http(RANKING), times=2)
    assert first.t_done - first.t_send > HOUR
    assert second.t_done - second.t_send < HOUR


def test_an_encrypted_server(tmp_path, monkeypatch):
    tls = certified(tmp_path)
    (refused,), _ = exchange(http(RANKING), "https://127.0.0.1:{}/v1", tls)
    assert refused.error.startswith("connection: SSLCertVerificationError")
    assert "CERTIFICATE_VERIFY_FAILED" in refused.error
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    responses, connections = exchange(http(RANKING), "https://127.0.0.1:{}/v1", tls, times=2)
    assert [response.scores for response in responses] == [(0.9, 0.1)] * 2
    assert connections == 1


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "connection: ConnectionError"),
        (b"no HTTP at all\r\n\r\n", "connection: RemoteProtocolError"),
        (http(RANKING)[:-9], "connection: RemoteProtocolError"),
        (http(b"busy", "503 Service Unavailable"), "HTTP 503: busy"),
        (http(b"<html>"), "response: JSONDecodeError"),
    ],
)
def test_invalid_responses_are_errors(content, error):
    (response,), _ = exchange(content, keep_alive=False)
    assert response.error.startswith(error)
    assert response.t_send < response.t_done


@pytest.mark.parametrize(("release", "connections"), [("", 2), ("v1.0.0-rc1", 1)])
def test_ragflow_in_go_keeps_connections_for_90_seconds(monkeypatch, release, connections):
    clock = time.perf_counter_ns
    steps = iter(range(0, 10**15, 2 * 10**9))
    monkeypatch.setattr(time, "perf_counter_ns", lambda: clock() + next(steps))
    assert exchange(http(RANKING), times=2, release=release)[1] == connections


def test_the_body_is_that_of_the_release():
    documents = ("a & b",)
    assert b"return_documents" in wire.encode("m", "q", documents, "v0.27.2")
    assert wire.encode("m", "q", documents, "v1.0.0-rc1") == (
        b'{"model":"m","query":"q","documents":["a \\u0026 b"],"top_n":1}'
    )


def test_a_connection_with_bytes_after_the_response_is_not_used_again():
    responses, connections = exchange(http(RANKING) + b"HTTP/1.1 500 Late\r\n", times=2)
    assert [response.scores for response in responses] == [(0.9, 0.1)] * 2
    assert connections == 2


def test_a_connection_that_was_closed_while_idle_is_not_used_again():
    responses, connections = exchange(http(RANKING), times=3, keep_alive=False)
    assert [response.error for response in responses] == [""] * 3
    assert connections == 3


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://bücher.invalid/v1", "connection: gaierror"),
        ("http://127.0.0.1:9/v1", "connection: ConnectionRefusedError"),
    ],
)
def test_unreachable_addresses(url, error):
    (response,) = asyncio.run(post(url))
    assert response.error.startswith(error)
    assert response.status is None


def certified(folder):
    """TLS context of a server with a self-signed certificate."""
    write_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context
