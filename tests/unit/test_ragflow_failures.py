"""Every documented failure message of RAGFlow has a cause and a remedy."""

import json
from pathlib import Path

import pytest

from ragops.ragflow.api import FAILURES, Request, Response, failure_hint, refusal

DATA = Path(__file__).parents[1] / "data" / "ragflow"
REQUEST = Request("POST", "/api/v1/somewhere", purpose="try it")

MESSAGES = [
    ("\nFail to access model(VLLM/m).status_code: 404, body: {'detail': 'Not Found'}", "end the address"),
    (
        "\nFail to access model(VLLM/m).status_code: 404, body: {'error': {'message': 'The model'}}",
        "status shows",
    ),
    ("\nFail to access model(m).status_code: 401, body: {'error': 'Unauthorized'}", "RAGOPS_RERANKER_KEY"),
    (
        "\nFail to access model(m).status_code: 400, body: {'error': 'too long'}",
        "max_model_len",
    ),
    (
        (
            "status_code: 400, body: {'error': {'message': \"This model's maximum context length is 512 "
            "tokens. However, you requested 0 output tokens and your prompt contains 513 input tokens"
        ),
        "a chunk has 513 tokens or more",
    ),
    (
        "ValueError('Rerank input at document 0 has 21 tokens, exceeding the configured maximum of 20')",
        "RERANK_TOKEN_LIMIT_MODE=truncate",
    ),
    (
        "Exception('rerank_candidates_count(64) must be greater than page * page_size(65) to ensure')",
        "rerank_candidates_count",
    ),
    (
        "rerank API error: 400 Bad Request, maximum context length is 512 tokens. It has 513 input tokens",
        "a chunk has 513 tokens or more",
    ),
    ("\nFail to access model(VLLM/x) using this api key", "when the reranker is idle"),
    ("\nFail to access model(VLLM/m).[Errno 111] Connection refused", "localhost"),
    ("\nFail to access model(VLLM/m).[Errno -2] Name or service not known", "ragops connect"),
    ("\nFail to access model(m).[Errno -3] Temporary failure in name resolution", "ragops connect"),
    ("\nFail to access model(m).Request URL is missing an 'http://' or 'https://' protocol.", "http://NAME"),
    ("\nFail to access model(VLLM/m).'NoneType' object is not iterable", "as a reranker"),
    ("\nFail to access model(VLLM/m).", "ragops verify"),
    ("\nTimeout accessing model(VLLM/m).", "when the reranker is idle"),
    ("ReadTimeout('timed out')", "benchmark"),
    ("Illegal header value b'Bearer '", "any key"),
    ("Already exist instance ragops", "RAGOPS_RERANKER_KEY"),
    ("LookupError('Model(m) not authorized')", "form of this release"),
    ("LookupError('Tenant Model with name m and type rerank not found')", "form of this release"),
    ("LookupError('Instance default not found for model m@VLLM.')", "form of this release"),
    ("ConnectError('[Errno 111] Connection refused')", "ragops status"),
    ("<Unauthorized '401: Unauthorized'>", "RAGOPS_RAGFLOW_TOKEN"),
    ("Internal server error", "docker logs"),
    ("\nFail to access model(m).status_code: 200, body: <!doctype html>", "vLLM's API"),
    ("\nFail to access model(m).status_code: 404, body: <html>", "vLLM's API"),
    ("You don't own the dataset d1", "address of the dataset"),
    ("Model 'm@i@VLLM' is still used by chat assistant 'c' (1).", "another rerank model"),
]


@pytest.mark.parametrize(("message", "remedy"), MESSAGES)
def test_message_has_a_cause_and_a_remedy(message, remedy):
    error = refusal(REQUEST, Response(200, json.dumps({"code": 102, "message": message})))
    assert remedy in error.hint
    assert message.strip() in error.evidence
    assert failure_hint(message).cause in error.evidence


def test_every_row_of_the_table_can_match():
    for hint in FAILURES:
        assert failure_hint(hint.words) is hint


@pytest.mark.parametrize("name", ["api-v0.27.0", "api-v0.27.0-retrieval", "api-v0.25.6"])
def test_every_recorded_failure_is_known(name):
    harmless = {"No provider found", "Provider VLLM already exists", "No instance found", "Not Found"}
    harmless |= {"required", "does not exist", "already registered", "already has", "Missing", "has already"}
    harmless |= {"required argument are missing", "is not allowed", "already exists", "No model passed"}
    harmless |= {"cannot be 'default'"}
    unknown = []
    for step in json.loads((DATA / f"{name}.json").read_text())["steps"]:
        body = step["response"]["body"]
        if isinstance(body, dict) and body.get("code"):
            message = body["message"]
            if failure_hint(message) is None and not any(words in message for words in harmless):
                unknown.append(message)
    assert unknown == []


@pytest.mark.parametrize(
    ("status", "text", "code"),
    [
        (200, '{"code": 0}', 0),
        (200, '{"code": 102, "message": "no"}', 102),
        (401, '{"code": 401, "data": null, "message": "x"}', 401),
        (502, "<html>Bad Gateway</html>", 502),
        (200, "<html>a page</html>", -1),
        (200, "[]", -1),
        (200, "[" * 100_000, -1),
        (200, '{"code": "0"}', -1),
    ],
)
def test_the_http_status_counts_only_without_a_code(status, text, code):
    response = Response(status, text)
    assert (response.code, response.ok) == (code, code == 0)


def test_an_unknown_message_refers_to_the_log():
    assert "docker logs" in refusal(REQUEST, Response(200, '{"code": 100, "message": "unknown"}')).hint
