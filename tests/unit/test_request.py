"""The request that is sent is the one that RAGFlow sends, to the byte."""

import json
import socket
import threading
from pathlib import Path
from types import SimpleNamespace

import cohere
import pytest

from ragops.checks.probe import probe_input
from ragops.ragflow import releases
from ragops.ragflow.request import PLACEHOLDER_KEY, RERANK_TIMEOUT, RerankRequest

DATA = Path(__file__).parents[1] / "data" / "ragflow"


def recorded():
    """What RAGFlow's own client of three releases put on the wire, call by call."""
    for file in sorted(DATA.glob("client-*.json")):
        for case in json.loads(file.read_text())["cases"]:
            for sent in case["http"]:
                yield SimpleNamespace(
                    release=file.stem.removeprefix("client-"),
                    case=case["id"],
                    call=case["call"],
                    headers=dict(sent["headers"]),
                    body=sent["body_utf8"],
                )


RECORDED = tuple(recorded())

HOW = {"Host", "Content-Length", "Accept-Encoding"}
"""Headers that follow from the address, the body and what the client can unpack."""

ANSWER = b'{"id": "1", "results": [{"index": 0, "relevance_score": 0.5}], "meta": {}}'


def named(one):
    return f"{one.release} {one.case}"


def request(one):
    name = one.call["model_name"].partition("___")[0]
    return RerankRequest(name, one.call["query"], tuple(one.call["texts"]))


def test_all_three_clients_are_compared():
    assert {one.release for one in RECORDED} == {"v0.20.5", "v0.25.6", "v0.27.0"}


@pytest.mark.parametrize("one", RECORDED, ids=named)
def test_body_is_the_recorded_one(one):
    assert json.loads(request(one).body()) == json.loads(one.body)
    if "httpx/0.28" in one.headers["User-Agent"]:  # before that, with spaces and \\u escapes
        assert request(one).body() == one.body.encode()


@pytest.mark.parametrize("one", RECORDED, ids=named)
def test_headers_are_the_recorded_ones(one):
    sent = {name: value for name, value in one.headers.items() if name not in HOW}
    ours = RerankRequest.headers(one.call["api_key"]) | {"User-Agent": sent["User-Agent"]}
    assert ours == sent
    assert list(RerankRequest.headers()) == list(sent)


@pytest.mark.parametrize("key", ["", " "])
def test_key_is_never_empty(key):
    assert RerankRequest.headers()["Authorization"] == f"Bearer {PLACEHOLDER_KEY}" != "Bearer "
    with pytest.raises(ValueError, match="empty key"):
        RerankRequest.headers(key)


def test_probe_is_told_these_very_bytes():
    asked = RerankRequest("m", "größe?", ("a", "图书证"))
    told = json.loads(probe_input("http://h:8000/v1", asked))
    assert told["body"].encode() == asked.body()
    assert told["headers"] == asked.headers()


@pytest.fixture
def wire():
    """A server that keeps the bytes of one request; gives its address and a function that waits for them."""
    kept = []

    def serve():
        connection, _ = listener.accept()
        with connection:
            raw = b""
            while b"\r\n\r\n" not in raw:
                raw += connection.recv(65536)
            head, body = raw.split(b"\r\n\r\n", 1)
            length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if b"ength:" in line)
            while len(body) < length:
                body += connection.recv(65536)
            kept.append((head.decode().split("\r\n"), body))
            size = str(len(ANSWER)).encode()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ")
            connection.sendall(size + b"\r\nConnection: close\r\n\r\n" + ANSWER)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()

        def seen():
            thread.join(10)
            return kept[0]

        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", seen


@pytest.mark.parametrize(
    "asked",
    [
        RerankRequest("model"),
        RerankRequest("Qwen/Qwen3-Reranker-0.6B", '续期 "card"?', ("Größe: 5 µm", "📚 \\ \n\t", "")),
    ],
    ids=["usual", "unicode"],
)
def test_cohere_itself_sends_the_same_bytes(wire, asked, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    url, seen = wire
    client = cohere.Client(api_key=PLACEHOLDER_KEY, base_url=url, timeout=10.0)
    client.rerank(
        model=asked.model,
        query=asked.query,
        documents=list(asked.documents),
        top_n=len(asked.documents),
        return_documents=False,
    )
    (line, *headers), body = seen()
    assert line == "POST /v1/rerank HTTP/1.1"
    assert body == asked.body()
    sent = dict(header.split(": ", 1) for header in headers)
    assert {name: value for name, value in sent.items() if name not in HOW} == asked.headers()


def test_time_is_that_of_the_newest_release():
    assert releases.of(releases.NEWEST).timeout == RERANK_TIMEOUT == 30
