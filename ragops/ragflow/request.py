"""The rerank request that RAGFlow sends, and the model name in it; pure.

RAGFlow v0.18 to v0.27 calls factory "VLLM" through cohere 5.6.2: one POST with all documents, ``top_n``
the number of them, a bearer key that must not be empty, and the timeout of :mod:`ragops.ragflow.releases`.
RAGFlow v1.0 sends the same without ``return_documents`` through Go's HTTP client, and a key if there is one.
"""

import json
import re
from dataclasses import dataclass, field

from ragops.ragflow import releases
from ragops.ragflow.releases import Client, Release

RERANK_TIMEOUT = releases.of(releases.NEWEST).timeout
"""Seconds that the newest RAGFlow waits for a rerank response; older ones wait as long or longer."""

PLACEHOLDER_KEY = "x"
"""Sent to servers that check no key, because RAGFlow always sends one."""

QUERY = "How is a container connected to a Docker network?"
DOCUMENTS = (
    "Bread rises because yeast turns sugar into carbon dioxide.",
    "docker network connect joins a running container to a network.",
    "The museum is closed on Mondays and on public holidays.",
)
RELEVANT = 1
"""Index of the document that is relevant to :data:`QUERY`."""

SUFFIX = "___VLLM"
"""What RAGFlow up to v0.25 appends to the name in its own tables."""

MAX_NAME_LENGTH = 128
"""Characters of a name that RAGFlow's tables hold; of ``model_name`` and of ``rerank_id``."""

CLIENT = releases.of(releases.NEWEST).client
"""The client of the newest RAGFlow that is no release candidate."""

# encoding/json of Go writes these as escapes (appendString, escapeHTML)
_GO_ESCAPES = {ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"}
_OVER_LONG = re.compile(r"context length is (\d+) tokens\..*?(\d+) (?:input tokens|tokens in the input)")
_SENDS_SUFFIX = ("v0.17.1", "v0.17.2")
_SPLITS_AT_LAST_AT = "v0.26.4"


@dataclass(frozen=True)
class RerankRequest:
    """One rerank request as RAGFlow sends it."""

    model: str
    query: str = QUERY
    documents: tuple[str, ...] = DOCUMENTS
    client: Client = CLIENT
    key: str = field(default=PLACEHOLDER_KEY, repr=False)

    def headers(self) -> dict[str, str]:
        """The fixed headers; the HTTP client adds host, length and encodings. Cohere refuses an empty key."""
        authorization = {"Authorization": f"Bearer {self.key}"} if self.key.strip() else {}
        content = {"Content-Type": "application/json"}
        if self.client.language == "Go":
            return {"User-Agent": "Go-http-client/1.1", **authorization, **content}
        if not authorization:
            msg = "RAGFlow's client can't send an empty key: use a placeholder such as x"
            raise ValueError(msg)
        return {
            "Accept": "*/*",
            "Connection": "keep-alive",
            "User-Agent": "python-httpx/0.28.1",
            "X-Fern-Language": "Python",
            "X-Fern-SDK-Name": "cohere",
            "X-Fern-SDK-Version": "5.6.2",
            **authorization,
            **content,
        }

    def body(self) -> bytes:
        """The bytes that cohere 5.6.2 with httpx 0.28 sends, or ``encoding/json`` of Go."""
        fields: dict[str, object] = {"model": self.model, "query": self.query, "documents": self.documents}
        fields["top_n"] = len(self.documents)
        fields |= {"return_documents": False} if self.client.return_documents else {}
        text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
        return (text.translate(_GO_ESCAPES) if self.client.language == "Go" else text).encode()


def over_long(text: str) -> tuple[int, int] | None:
    """Limit and tokens in vLLM's refusal of a long document; the tokens are counted up to the limit only.

    Source: vllm/renderers/params.py in 0.32; 0.33 and earlier releases write ``you requested`` instead.
    """
    match = _OVER_LONG.search(text)
    return (int(match[1]), int(match[2])) if match else None


def sent_name(name: str, release: Release) -> str:
    """The ``model`` of RAGFlow's rerank request, for a model that was registered under this name.

    Slashes are sent unchanged. RAGFlow in Go sends the whole name.
    """
    if release.client.language == "Go":
        return name
    return f"{name}{SUFFIX}" if release.name in _SENDS_SUFFIX else name.split("___", maxsplit=1)[0]


def name_problem(name: str, release: Release) -> str:
    """Why RAGFlow can't send this name unchanged; empty if it can."""
    if "___" in name and sent_name(name, release) != name:
        return f"RAGFlow cuts a name at ___ and sends {sent_name(name, release)}"
    if "@" in name and release.before(_SPLITS_AT_LAST_AT):
        return f"RAGFlow {release.name} cuts a rerank id at its first @, which is a part of the name"
    if len(name) > MAX_NAME_LENGTH:
        return f"RAGFlow keeps {MAX_NAME_LENGTH} characters of a name, this one has {len(name)}"
    return ""
