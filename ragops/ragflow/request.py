"""The rerank request that RAGFlow sends; pure.

RAGFlow v0.18 to v0.27 calls factory "VLLM" through cohere 5.6.2: one POST with all documents,
``top_n`` the number of them, a bearer key that must not be empty, and 30 s to the answer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from ragops.ragflow import releases

TIMEOUT = releases.of(releases.NEWEST).timeout
"""Seconds that the newest RAGFlow waits for a rerank answer; older ones wait as long or longer."""

KEY = "x"
"""RAGFlow needs some key; this one is sent to servers that ask for none."""

QUERY = "How is a container connected to a Docker network?"
DOCUMENTS = (
    "Bread rises because yeast turns sugar into carbon dioxide.",
    "docker network connect joins a running container to a network.",
    "The museum is closed on Mondays and on public holidays.",
)
"""A question and answers of our own; the second one is right."""

RIGHT = 1


@dataclass(frozen=True)
class RerankRequest:
    """One call as RAGFlow makes it."""

    model: str
    query: str = QUERY
    documents: tuple[str, ...] = DOCUMENTS

    @staticmethod
    def headers(key: str = KEY) -> dict[str, str]:
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
