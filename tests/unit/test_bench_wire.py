"""The client's times are those of the bytes, over any kind of connection."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import json
import ssl
import time

import h11
import httpcore
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ragops.bench import wire
from ragops.bench.echo import EchoProcess

BODY = wire.encode("stub-reranker", "red apple", ("a red apple", "a pear"))
ANSWER = json.dumps(
    {"results": [{"index": 0, "relevance_score": 0.9}, {"index": 1, "relevance_score": 0.1}]}
).encode()


def answered(url, times=1, *, timeout=20.0):
    async def whole():
        async with wire.client() as http:
            target = wire.Target(url, "stub-reranker", timeout=timeout)
            return [await wire.post(http, target, BODY, 2) for _ in range(times)]

    return asyncio.run(whole())


def served(answer, url="http://127.0.0.1:{}/v1", tls=None, times=1):
    """What the client says of a server that answers with these bytes, and of how many connections."""
    connections = []

    async def talk(reader, writer):
        connections.append(writer)
        with contextlib.closing(writer):
            while await reader.readline():
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(len(BODY))
                writer.write(answer)

    async def whole():
        server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=tls)
        target = wire.Target(url.format(server.sockets[0].getsockname()[1]), "stub-reranker")
        async with wire.client() as http:
            replies = [await wire.post(http, target, BODY, 2) for _ in range(times)]
        await asyncio.sleep(0.05)  # the server's side ends
        return replies

    return asyncio.run(whole()), len(connections)


def http(content, status="200 OK"):
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    return head.encode() + content


def test_a_slow_reader_does_not_make_the_server_slow(monkeypatch):
    """What the client does with an answer that is there belongs to the client."""
    receive = h11.Connection.receive_data

    def slowly(self, data):
        time.sleep(0.5)
        receive(self, data)

    monkeypatch.setattr(h11.Connection, "receive_data", slowly)
    with EchoProcess() as echo:
        begun = time.perf_counter()
        first, second = answered(echo.base_url, 2)
        assert time.perf_counter() - begun > 1
    assert second.t_done - second.t_send < 0.5e9
    assert second.t_send - first.t_done > 0.5e9


def test_requests_share_a_connection_and_have_times_of_their_own():
    replies, connections = served(http(ANSWER), times=3)
    assert connections == 1
    assert [one.scores for one in replies] == [(0.9, 0.1)] * 3
    moments = [moment for one in replies for moment in (one.t_send, one.t_done)]
    assert moments == sorted(moments)
    assert len(set(moments)) == 6


def test_connecting_is_part_of_the_first_request(monkeypatch):
    """As it is of RAGFlow's, which connects anew for each."""

    connect = asyncio.BaseEventLoop.create_connection

    async def create(self, factory, *args, **more):
        await asyncio.sleep(0.3)
        return await connect(self, factory, *args, **more)

    monkeypatch.setattr(asyncio.BaseEventLoop, "create_connection", create)
    (first, second), _ = served(http(ANSWER), times=2)
    assert first.t_done - first.t_send > 0.3e9
    assert second.t_done - second.t_send < 0.3e9


def test_an_encrypted_server(tmp_path, monkeypatch):
    tls = certified(tmp_path)
    (refused,), _ = served(http(ANSWER), "https://127.0.0.1:{}/v1", tls)
    assert refused.error.startswith("connection: ConnectError")
    assert "CERTIFICATE_VERIFY_FAILED" in refused.error
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    replies, connections = served(http(ANSWER), "https://127.0.0.1:{}/v1", tls, times=2)
    assert [one.scores for one in replies] == [(0.9, 0.1)] * 2
    assert connections == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "connection: RemoteProtocolError"),
        (b"no HTTP at all\r\n\r\n", "connection: RemoteProtocolError"),
        (http(ANSWER)[:-9], "connection: RemoteProtocolError"),
        (http(b"busy", "503 Service Unavailable"), "HTTP 503: busy"),
        (http(b"<html>"), "response: JSONDecodeError"),
    ],
)
def test_what_is_no_answer_is_named(answer, said):
    """The server hangs up after it, so that nothing waits."""

    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(BODY))
        writer.write(answer)
        writer.close()

    async def whole():
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        target = wire.Target(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", "m")
        async with wire.client() as client:
            return await wire.post(client, target, BODY, 2)

    reply = asyncio.run(whole())
    assert reply.error.startswith(said)
    assert reply.t_send < reply.t_done


def test_a_connection_that_was_closed_while_idle_is_not_used_again():
    """A server that hangs up after each answer gets a connection for each, and no request is lost."""
    connections = []

    async def talk(reader, writer):
        connections.append(1)
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(BODY))
        writer.write(http(ANSWER))
        writer.close()

    async def whole():
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        target = wire.Target(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", "m")
        replies = []
        async with wire.client() as client:
            for _ in range(3):
                replies.append(await wire.post(client, target, BODY, 2))
                await asyncio.sleep(0.05)
        return replies

    assert [one.error for one in asyncio.run(whole())] == [""] * 3
    assert len(connections) == 3


def test_an_address_that_is_none():
    (reply,) = answered("ftp://127.0.0.1/v1")
    assert reply.error.startswith("connection: UnsupportedProtocol")


def test_a_name_beyond_ascii():
    """It is looked for as browsers do, and not found."""
    (reply,) = answered("http://bücher.invalid/v1")
    assert reply.error.startswith("connection: ConnectError")
    assert isinstance(wire.client(), httpcore.AsyncConnectionPool)


def certified(folder):
    """A server's side of TLS, with a certificate that nobody signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context
