"""The rerank request has the bytes and the model name that RAGFlow sends."""

import json
import socket
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from ragops.checks.probe import probe_input
from ragops.ragflow import releases
from ragops.ragflow.request import (
    PLACEHOLDER_KEY,
    RERANK_TIMEOUT,
    RerankRequest,
    name_problem,
    over_long,
    sent_name,
)

DATA = Path(__file__).parents[1] / "data" / "ragflow"


def recorded():
    """The HTTP requests of RAGFlow's own client of three releases."""
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

CLIENT_HEADERS = {"Host", "Content-Length", "Accept-Encoding"}
"""Headers that follow from the address, the body and the client's encodings."""

RESPONSE = b'{"id": "1", "results": [{"index": 0, "relevance_score": 0.5}], "meta": {}}'


def label(case):
    return f"{case.release} {case.case}"


def request(case):
    name = case.call["model_name"].partition("___")[0]
    return RerankRequest(name, case.call["query"], tuple(case.call["texts"]))


def test_all_three_clients_are_compared():
    assert {case.release for case in RECORDED} == {"v0.20.5", "v0.25.6", "v0.27.0"}


@pytest.mark.parametrize("case", RECORDED, ids=label)
def test_the_body_is_the_recorded_one(case):
    assert json.loads(request(case).body()) == json.loads(case.body)
    if "httpx/0.28" in case.headers["User-Agent"]:  # before that, with spaces and \\u escapes
        assert request(case).body() == case.body.encode()


@pytest.mark.parametrize("case", RECORDED, ids=label)
def test_the_headers_are_the_recorded_ones(case):
    sent = {name: value for name, value in case.headers.items() if name not in CLIENT_HEADERS}
    ours = replace(request(case), key=case.call["api_key"]).headers() | {"User-Agent": sent["User-Agent"]}
    assert ours == sent
    assert list(request(case).headers()) == list(sent)


@pytest.mark.parametrize("key", ["", " "])
def test_an_empty_key_is_refused(key):
    assert RerankRequest("m").headers()["Authorization"] == f"Bearer {PLACEHOLDER_KEY}" != "Bearer "
    with pytest.raises(ValueError, match="empty key"):
        RerankRequest("m", key=key).headers()


def test_the_probe_gets_the_same_bytes():
    request = RerankRequest("m", "größe?", ("a", "图书证"))
    program = json.loads(probe_input("http://h:8000/v1", request))
    assert program["body"].encode() == request.body()
    assert program["headers"] == request.headers()


@pytest.fixture
def wire():
    """The address of a server for one request, and a function that waits for its bytes."""
    requests = []

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
            requests.append((head.decode().split("\r\n"), body))
            size = str(len(RESPONSE)).encode()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ")
            connection.sendall(size + b"\r\nConnection: close\r\n\r\n" + RESPONSE)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()

        def received():
            thread.join(120)
            return requests[0]

        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", received


@pytest.mark.parametrize(
    "request_",
    [
        RerankRequest("model"),
        RerankRequest("Qwen/Qwen3-Reranker-0.6B", '续期 "card"?', ("Größe: 5 µm", "📚 \\ \n\t", "")),
    ],
    ids=["usual", "unicode"],
)
def test_cohere_sends_the_same_bytes(wire, request_, monkeypatch):
    import cohere

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    url, received = wire
    client = cohere.Client(api_key=PLACEHOLDER_KEY, base_url=url, timeout=120.0)
    client.rerank(
        model=request_.model,
        query=request_.query,
        documents=list(request_.documents),
        top_n=len(request_.documents),
        return_documents=False,
    )
    (line, *headers), body = received()
    assert line == "POST /v1/rerank HTTP/1.1"
    assert body == request_.body()
    sent = dict(header.split(": ", 1) for header in headers)
    assert {name: value for name, value in sent.items() if name not in CLIENT_HEADERS} == request_.headers()


def test_the_timeout_is_that_of_the_newest_release():
    assert releases.of(releases.NEWEST).timeout == RERANK_TIMEOUT == 30


TEXT = "This model's maximum context length is 512 tokens. However, "


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        (f"{TEXT}your prompt contains at least 513 input tokens.", (512, 513)),
        (
            f"{TEXT}you requested 0 output tokens and your prompt contains at least 513 input tokens",
            (512, 513),
        ),
        (f"{TEXT}you requested 20673 tokens in the input for embedding generation.", (512, 20673)),
        ("Input should be a valid list", None),
    ],
    ids=["0.32", "0.33", "0.10", "another"],
)
def test_refusal_of_a_long_document(text, numbers):
    assert over_long(text) == numbers


OLD, NEW = releases.of("v0.26.3"), releases.of("v0.26.4")


@pytest.mark.parametrize("name", ["qwen3-reranker-0.6b", "Qwen/Qwen3-Reranker-0.6B", "/models/x", "a_b__c"])
def test_plain_names_and_slashes_are_sent_unchanged(name):
    for release in (releases.of("v0.18.0"), OLD, NEW):
        assert sent_name(name, release) == name
        assert name_problem(name, release) == ""


def test_three_underscores_cut_a_name():
    assert sent_name("x___VLLM", OLD) == "x"
    assert "sends x" in name_problem("x___y", OLD)


@pytest.mark.parametrize("tag", ["v0.17.1", "v0.17.2"])
def test_two_releases_send_the_suffix(tag):
    assert sent_name("x", releases.of(tag)) == "x___VLLM"


def test_older_releases_split_at_the_first_at_sign():
    assert "first @" in name_problem("x@y", OLD)
    assert name_problem("x@y", NEW) == ""


def test_the_length_of_a_name_is_limited():
    assert name_problem("x" * 128, NEW) == ""
    assert "129" in name_problem("x" * 129, NEW)


class TestGo:
    """RAGFlow v1.0, read in internal/entity/models/vllm.go and encoding/json."""

    RELEASE = releases.of("v1.0.0-rc1")

    def test_body(self):
        sent = RerankRequest("m", "a & b?", ("<td>Größe</td>", "x\u2028"), self.RELEASE.client).body()
        assert (
            sent
            == (
                '{"model":"m","query":"a \\u0026 b?","documents":["\\u003ctd\\u003eGröße\\u003c/td\\u003e",'
                '"x\\u2028"],"top_n":2}'
            ).encode()
        )
        assert json.loads(sent)["documents"] == ["<td>Größe</td>", "x\u2028"]

    @pytest.mark.parametrize(("key", "authorization"), [("k", "Bearer k"), ("", None)])
    def test_a_key_is_sent_only_if_there_is_one(self, key, authorization):
        headers = RerankRequest("m", client=self.RELEASE.client, key=key).headers()
        assert headers.get("Authorization") == authorization
        assert headers["User-Agent"].startswith("Go-http-client")
        assert not any(name.startswith("X-Fern") for name in headers)

    def test_a_name_is_sent_whole(self):
        assert sent_name("x___VLLM", self.RELEASE) == "x___VLLM"
        assert name_problem("x___y@z", self.RELEASE) == ""
