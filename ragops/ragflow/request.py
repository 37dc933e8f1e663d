"""The model name in RAGFlow's rerank requests; pure.

The rerank request that RAGFlow sends; pure.

RAGFlow v0.18 to v0.27 calls factory "VLLM" through cohere 5.6.2: one POST with all documents,
``top_n`` the number of them, a bearer key that must not be empty, and 30 s to the answer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragops.errors import RagflowError
from ragops.ragflow import releases

if TYPE_CHECKING:
    from ragops.ragflow.releases import Release

SUFFIX = "___VLLM"
"""What RAGFlow up to v0.25 puts behind the name in its own tables."""

MAX_NAME_LENGTH = 128
"""Characters of a name that its tables hold; of ``model_name`` and of ``rerank_id``."""

_KEEPS_SUFFIX = ("v0.17.1", "v0.17.2")
_SPLITS_FROM_THE_RIGHT = "v0.26.4"


def release_or_newest(text: str) -> tuple[Release, str]:
    """The release, or the newest in place of an unknown one, and then why.

    For checks only: what changes RAGFlow calls :func:`ragops.ragflow.releases.of`, which refuses.
    """
    try:
        return releases.of(text), ""
    except RagflowError:
        why = f"release {text} is unknown" if text else "the release is unknown"
        return releases.of(releases.NEWEST), f"{why}, {releases.NEWEST} is assumed"


def sent_name(name: str, release: Release) -> str:
    """The ``model`` of RAGFlow's rerank request, for a model that was registered under this name.

    Slashes go through as they are.
    """
    return f"{name}{SUFFIX}" if release.name in _KEEPS_SUFFIX else name.split("___", maxsplit=1)[0]


def name_problem(name: str, release: Release) -> str:
    """Why RAGFlow can't send this name as it is; empty when it can."""
    if "___" in name:
        return f"RAGFlow cuts a name at ___ and sends {sent_name(name, release)}"
    known = releases.KNOWN
    if "@" in name and known.index(release.name) < known.index(_SPLITS_FROM_THE_RIGHT):
        return f"RAGFlow {release.name} cuts a rerank id at its first @, which is a part of the name"
    if len(name) > MAX_NAME_LENGTH:
        return f"RAGFlow keeps {MAX_NAME_LENGTH} characters of a name, this one has {len(name)}"
    return ""


RERANK_TIMEOUT = releases.of(releases.NEWEST).timeout
"""Seconds that the newest RAGFlow waits for a rerank answer; older ones wait as long or longer."""

PLACEHOLDER_KEY = "x"
"""RAGFlow needs some key; this one is sent to servers that ask for none."""

QUERY = "How is a container connected to a Docker network?"
DOCUMENTS = (
    "Bread rises because yeast turns sugar into carbon dioxide.",
    "docker network connect joins a running container to a network.",
    "The museum is closed on Mondays and on public holidays.",
)
"""A question and answers of our own; the second one is right."""

RELEVANT = 1


@dataclass(frozen=True)
class RerankRequest:
    """One call as RAGFlow makes it."""

    model: str
    query: str = QUERY
    documents: tuple[str, ...] = DOCUMENTS

    @staticmethod
    def headers(key: str = PLACEHOLDER_KEY) -> dict[str, str]:
        """The headers that say something; the client adds host, length and what it can unpack.

        ``Authorization`` is never empty: the client's library refuses to send an empty key, and
        so does this.

        Raises:
            ValueError: The key is empty.
        """
        if not key.strip():
            msg = "an empty key is one that RAGFlow's client can't send: give it any, such as x"
            raise ValueError(msg)
        return {
            "Accept": "*/*",
            "Connection": "keep-alive",
            "User-Agent": "python-httpx/0.28.1",
            "X-Fern-Language": "Python",
            "X-Fern-SDK-Name": "cohere",
            "X-Fern-SDK-Version": "5.6.2",
            "Authorization": f"Bearer {key}",
            "Content-Type": "application/json",
        }

    def body(self) -> bytes:
        """The bytes that cohere 5.6.2 with httpx 0.28 puts on the wire."""
        fields = {
            "model": self.model,
            "query": self.query,
            "documents": list(self.documents),
            "top_n": len(self.documents),
            "return_documents": False,
        }
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
