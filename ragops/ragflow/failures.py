"""What RAGFlow says when it refuses, what that means, and what to do; pure.

``answers.py`` looks up, and two pages are made from the table.
"""

from __future__ import annotations

from ragops.docker.hints import Hint

FAILURES = (
    Hint(
        "status_code: 404, body: {'error'",
        "The reranker serves no model of that name.",
        "ragops status shows the name that is served; up applies a change of it, then register again",
        "ragflow-name-unknown",
    ),
    Hint(
        "status_code: 404, body: {'detail': 'Not Found'}",
        "The address has a path behind /v1; RAGFlow appends /rerank itself.",
        "let the address end in /v1",
        "ragflow-path",
    ),
    Hint(
        "status_code: 401",
        "The reranker asks for a key, and RAGFlow sent another.",
        "give the reranker's key in RAGOPS_RERANKER_KEY, or with --key-file",
        "ragflow-key",
    ),
    Hint(
        "status_code: 400",
        "The reranker refused the texts, most often as too long.",
        "raise max_model_len under [reranker], or let RAGFlow make smaller chunks",
        "ragflow-too-long",
    ),
    Hint(
        "Connection refused",
        "The name was found, but no reranker listens there.",
        "ragops status; RAGFlow can't use localhost or a port of the host",
        "ragflow-reranker-silent",
    ),
    Hint(
        "Name or service not known",
        "RAGFlow's container is not in the reranker's network.",
        "ragops up, or: ragops connect CONTAINER",
        "ragflow-no-network",
    ),
    Hint(
        "Temporary failure in name resolution",
        "RAGFlow's container is not in the reranker's network.",
        "ragops up, or: ragops connect CONTAINER",
        "ragflow-no-network",
    ),
    Hint(
        "missing an 'http://' or 'https://' protocol",
        "The address has no http:// before it.",
        "give the address as http://NAME:8000/v1",
        "ragflow-address",
    ),
    Hint(
        "'NoneType' object is not iterable",
        "vLLM serves the model as a text generator, and answers with an error that RAGFlow doesn't read.",
        "ragops up starts it as a reranker; for a compose file of your own: ragops check FILE",
        "ragflow-no-reranker",
    ),
    Hint(
        "Timeout accessing model",
        "The reranker took longer than the 10 s that RAGFlow gives to a test.",
        "ragops verify measures it; register again when the reranker is idle",
        "ragflow-slow",
    ),
    Hint(
        "timed out",
        "The reranker took longer than RAGFlow waits.",
        "ragops verify measures it; see the benchmark page for what fits",
        "ragflow-slow",
    ),
    Hint(
        "Illegal header value",
        "The key is empty.",
        "enter any key; the reranker asks for none",
        "ragflow-key-empty",
    ),
    Hint(
        "No model passed verification",
        "The model's type was not given as a list.",
        "a fault of ragops, or of another release: please report it with RAGFlow's release",
        "ragflow-type",
    ),
    Hint(
        "Already exist instance",
        "v0.26.0 takes a key only once for each provider.",
        "give another key in RAGOPS_RERANKER_KEY, or upgrade RAGFlow to v0.26.1",
        "ragflow-key-twice",
    ),
    Hint(
        "already exists for provider",
        "The model is entered already, and RAGFlow has now made an empty instance beside it.",
        "remove the instance with (1) in its name in RAGFlow's model providers",
        "ragflow-twice",
    ),
    Hint(
        "Instance name cannot be 'default'",
        "RAGFlow keeps that name for itself.",
        "name another with --instance",
        "ragflow-instance-name",
    ),
    Hint(
        "is not allowed",
        "This RAGFlow has no provider VLLM.",
        "see its conf/llm_factories.json",
        "ragflow-no-provider",
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
        "RAGFlow did not take the token, or the reranker did not take RAGFlow's key.",
        "make a token under RAGFlow's API page, and give it in RAGOPS_RAGFLOW_TOKEN",
        "ragflow-token",
    ),
    Hint(
        "own the chat",
        "The chat belongs to another user, or there is none with that id.",
        "the id is in the address of the chat's page in RAGFlow",
        "ragflow-chat-unknown",
    ),
    Hint(
        "No authorization",
        "The chat belongs to another user, or there is none with that id.",
        "the id is in the address of the chat's page in RAGFlow",
        "ragflow-chat-unknown",
    ),
    Hint(
        "The chat doesn't exist",
        "There is no chat with that id.",
        "the id is in the address of the chat's page in RAGFlow",
        "ragflow-chat-unknown",
    ),
    Hint(
        "own the dataset",
        "The dataset belongs to another user, or there is none with that id.",
        "the id is in the address of the dataset's page in RAGFlow",
        "ragflow-dataset-unknown",
    ),
    Hint(
        "Internal server error",
        "RAGFlow failed, and may have written part of it.",
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
"""RAGFlow's own words, the most telling first: the first that fits is taken."""
