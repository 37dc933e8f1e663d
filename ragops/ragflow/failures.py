"""RAGFlow's error messages with their causes and remedies; pure.

:mod:`ragops.ragflow.api` searches the table, and two pages of the site are generated from it.
"""

from __future__ import annotations

from ragops.docker.hints import Hint

_NO_NETWORK = (
    "RAGFlow's container is not in the reranker's network.",
    "ragops up, or: ragops connect CONTAINER; for another host or a RAGFlow from source: register --address",
    "ragflow-no-network",
)
_SLOW = (
    "The reranker took longer than RAGFlow's timeout, which is 10 s for the test of a registration.",
    "ragops verify measures it; register when the reranker is idle; the benchmark page has sizes that fit",
    "ragflow-slow",
)

FAILURES = (
    Hint(
        "body: <",
        "A web page responds at that address, not the reranker.",
        "use the address of vLLM's API, such as http://NAME:8000/v1",
        "ragflow-page",
    ),
    Hint(
        "status_code: 404, body: {'error'",
        "The reranker serves no model of that name.",
        "ragops status shows the name that is served; up applies a change of it, then register again",
        "ragflow-name-unknown",
    ),
    Hint(
        "status_code: 404, body: {'detail': 'Not Found'}",
        "The address has a path behind /v1; RAGFlow appends /rerank itself.",
        "end the address with /v1",
        "ragflow-path",
    ),
    Hint(
        "status_code: 401",
        "The reranker requires a key, and RAGFlow sent another.",
        "set RAGOPS_RERANKER_KEY to the reranker's key, or use --key-file",
        "ragflow-key",
    ),
    Hint(
        "status_code: 400",
        "The reranker refused the texts, most often as too long.",
        "raise max_model_len under [reranker], or reduce RAGFlow's chunk size",
        "ragflow-too-long",
    ),
    Hint(
        "Connection refused",
        "The name resolves, but no reranker listens there.",
        "ragops status; RAGFlow can't use localhost or a port of the host",
        "ragflow-reranker-silent",
    ),
    Hint("Name or service not known", *_NO_NETWORK),
    Hint("Temporary failure in name resolution", *_NO_NETWORK),
    Hint(
        "missing an 'http://' or 'https://' protocol",
        "The address has no http:// before it.",
        "write the address as http://NAME:8000/v1",
        "ragflow-address",
    ),
    Hint(
        "'NoneType' object is not iterable",
        "vLLM serves the model as a text generator; its error response is one that RAGFlow doesn't read.",
        "ragops up starts it as a reranker; for a compose file of your own: ragops check FILE",
        "ragflow-no-reranker",
    ),
    Hint("Timeout accessing model", *_SLOW),
    Hint("timed out", *_SLOW),
    Hint(
        "Illegal header value",
        "The key is empty.",
        "enter any key; the reranker requires none",
        "ragflow-key-empty",
    ),
    Hint(
        "Already exist instance",
        "v0.26.0 accepts a key only once for each provider.",
        "set RAGOPS_RERANKER_KEY to another key, or upgrade RAGFlow to v0.26.1",
        "ragflow-key-twice",
    ),
    Hint(
        "LookupError",
        "The rerank id names no model of this user.",
        "ragops register enters it; the id must have the form of this release",
        "ragflow-id-unknown",
    ),
    Hint(
        "is still used by",
        "Chats use the model.",
        "choose another rerank model in them first, then unregister again",
        "ragflow-in-use",
    ),
    Hint(
        "Unauthorized",
        "RAGFlow refused the token, or the reranker refused RAGFlow's key.",
        "create a token on RAGFlow's API page, and set RAGOPS_RAGFLOW_TOKEN to it",
        "ragflow-token",
    ),
    Hint(
        "own the dataset",
        "The dataset belongs to another user, or there is none with that id.",
        "the id is in the address of the dataset's page in RAGFlow",
        "ragflow-dataset-unknown",
    ),
    Hint(
        "Internal server error",
        "RAGFlow failed, and may have written part of the change.",
        "its own log has the reason: docker logs CONTAINER; then register again",
        "ragflow-failed",
    ),
    Hint(
        "Connection error",
        "RAGFlow could not reach the reranker.",
        "ragops verify names the layer that fails",
        "ragflow-reranker-silent",
    ),
    Hint(
        "Fail to access model",
        "RAGFlow's test request to the reranker failed; an empty reason is its 10-s limit.",
        "ragops verify names the layer that fails",
        "ragflow-model-refused",
    ),
)
"""Parts of RAGFlow's messages, the most specific first: the first match is used."""
