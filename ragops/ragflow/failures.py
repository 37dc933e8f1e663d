"""RAGFlow's error messages with their causes and remedies; pure.

:mod:`ragops.ragflow.api` searches the table, and two pages of the site are generated from it.
"""

from __future__ import annotations

from dataclasses import replace

from ragops.docker.hints import Hint

_NO_NETWORK = (
    "ragops up, or: ragops connect CONTAINER; for another host or a RAGFlow from source: register --address",
    "ragflow-no-network",
    "RAGFlow's container is not in the reranker's network.",
)
_SLOW = (
    "ragops verify measures it; register when the reranker is idle; the benchmark page has sizes that fit",
    "ragflow-slow",
    "The reranker took longer than RAGFlow's timeout: up to v0.27, 10 s for the test of a registration.",
)

_OVER_LONG = Hint(
    "maximum context length is",
    "a chunk has {tokens} tokens or more: raise max_model_len under [reranker], or reduce the chunk size",
    "ragflow-too-long",
    "A chunk is longer than the model takes, and the reranker refuses all of its request.",
)

_PYTHON = (
    Hint(
        "body: <",
        "use the address of vLLM's API, such as http://NAME:8000/v1",
        "ragflow-page",
        "A web page responds at that address, not the reranker.",
    ),
    Hint(
        "status_code: 404, body: {'error'",
        "ragops status shows the name that is served; up applies a change of it, then register again",
        "ragflow-name-unknown",
        "The reranker serves no model of that name.",
    ),
    Hint(
        "status_code: 404, body: {'detail': 'Not Found'}",
        "end the address with /v1",
        "ragflow-path",
        "The address has a path behind /v1; RAGFlow appends /rerank itself.",
    ),
    Hint(
        "status_code: 401",
        "set RAGOPS_RERANKER_KEY to the reranker's key, or use --key-file",
        "ragflow-key",
        "The reranker requires a key, and RAGFlow sent another.",
    ),
    Hint(
        "exceeding the configured maximum",
        "set RERANK_TOKEN_LIMIT_MODE=truncate in RAGFlow's .env, or reduce the chunk size",
        "ragflow-too-long",
        "A chunk is longer than the registered limit, and RAGFlow is set to refuse it (raise_error).",
    ),
    Hint(
        "must be greater than page * page_size",
        "send rerank_candidates_count, at least page x page_size",
        "ragflow-window",
        "From v0.27.1 on, RAGFlow ranks 64 candidates unless the request has another number.",
    ),
    Hint(
        "status_code: 400",
        "raise max_model_len under [reranker], or reduce RAGFlow's chunk size",
        "ragflow-too-long",
        "The reranker refused the texts, most often as too long.",
    ),
    Hint(
        "Connection refused",
        "ragops status; RAGFlow can't use localhost or a port of the host",
        "ragflow-reranker-silent",
        "The name resolves, but no reranker listens there.",
    ),
    Hint("Name or service not known", *_NO_NETWORK),
    Hint("Temporary failure in name resolution", *_NO_NETWORK),
    Hint(
        "missing an 'http://' or 'https://' protocol",
        "write the address as http://NAME:8000/v1",
        "ragflow-address",
        "The address has no http:// before it.",
    ),
    Hint(
        "'NoneType' object is not iterable",
        "ragops up starts it as a reranker; for a compose file of your own: ragops check FILE",
        "ragflow-no-reranker",
        "vLLM serves the model as a text generator; its error response is one that RAGFlow doesn't read.",
    ),
    Hint("Timeout accessing model", *_SLOW),
    Hint("timed out", *_SLOW),
    Hint(
        "Illegal header value",
        "enter any key; the reranker requires none",
        "ragflow-key-empty",
        "The key is empty.",
    ),
    Hint(
        "Already exist instance",
        "set RAGOPS_RERANKER_KEY to another key, or upgrade RAGFlow to v0.26.1",
        "ragflow-key-twice",
        "v0.26.0 accepts a key only once for each provider.",
    ),
    Hint(
        "LookupError",
        "ragops register enters it; the id must have the form of this release",
        "ragflow-id-unknown",
        "The rerank id names no model of this user.",
    ),
    Hint(
        "is still used by",
        "choose another rerank model in them first, then unregister again",
        "ragflow-in-use",
        "Chats use the model.",
    ),
    Hint(
        "Unauthorized",
        "create a token on RAGFlow's API page, and set RAGOPS_RAGFLOW_TOKEN to it",
        "ragflow-token",
        "RAGFlow refused the token, or the reranker refused RAGFlow's key.",
    ),
    Hint(
        "own the dataset",
        "the id is in the address of the dataset's page in RAGFlow",
        "ragflow-dataset-unknown",
        "The dataset belongs to another user, or there is none with that id.",
    ),
    Hint(
        "Internal server error",
        "its own log has the reason: docker logs CONTAINER; then register again",
        "ragflow-failed",
        "RAGFlow failed, and may have written part of the change.",
    ),
    Hint(
        "Connection error",
        "ragops verify names the layer that fails",
        "ragflow-reranker-silent",
        "RAGFlow could not reach the reranker.",
    ),
    Hint(
        "using this api key",
        "register when the reranker is idle; ragops verify measures it, and tests the key if it has one",
        "ragflow-slow",
        "RAGFlow's timeout of 10 s ended the test, or it failed; few such failures are due to a key.",
    ),
    Hint(
        "Fail to access model",
        "ragops verify names the layer that fails",
        "ragflow-model-refused",
        "RAGFlow's test request to the reranker failed; an empty reason is its timeout of 10 s.",
    ),
)
_GO = {
    'rerank API error: 404 Not Found, body: {"error"': "status_code: 404, body: {'error'",
    'rerank API error: 404 Not Found, body: {"detail"': "status_code: 404, body: {'detail': 'Not Found'}",
    "rerank API error: 401": "status_code: 401",
    "rerank API error: 400": "status_code: 400",
    "rerank API error": "Fail to access model",
    "looking for beginning of value": "body: <",
    "no such host": "Name or service not known",
    "unsupported protocol scheme": "missing an 'http://' or 'https://' protocol",
    "timeout awaiting response headers": "timed out",
    "Invalid access token": "Unauthorized",
    "is authorized for this operation": "own the dataset",
}
"""Words of v1.0 (internal/entity/models/vllm.go, Go's net/http), and those of v0.27 with the same cause."""

_CAUSES = {row.words: row for row in _PYTHON}
FAILURES = (_OVER_LONG, *(replace(_CAUSES[same], words=words) for words, same in _GO.items()), *_PYTHON)
"""Parts of RAGFlow's messages, the most specific first: the first match is used."""
