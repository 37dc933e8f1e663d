"""The layers of ``verify`` in their order, and which stands on which: one table; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

Layer = Literal["dns", "tcp", "health", "routes", "models", "rerank", "scores", "budget", "exposure"]


@dataclass(frozen=True)
class Row:
    """One layer."""

    layer: Layer
    title: str
    needs: tuple[Layer, ...]
    """Layers without which it can't be asked; the failure of any other does not stop it."""
    proves: str
    by_hand: str = ""
    """How to ask it in the container without ragops; empty where nobody would."""


TABLE = (
    Row("dns", "name resolves", (), "both share a network", "getent hosts {host}"),
    Row(
        "tcp",
        "port answers",
        ("dns",),
        "the server listens, and not only on its own localhost",
        "curl http://{host}:8000",
    ),
    Row("health", "server is healthy", ("tcp",), "vLLM's engine is alive", "curl …:8000/health"),
    Row(
        "routes",
        "rerank is served",
        ("tcp",),
        "vLLM was started as a reranker; else the flags that are missing are named",
        "curl …:8000/openapi.json",
    ),
    Row(
        "models",
        "model is served",
        ("tcp",),
        "the name that RAGFlow will send is a served one",
        "curl …:8000/v1/models",
    ),
    Row(
        "rerank",
        "RAGFlow's call",
        ("tcp", "routes"),
        "one score for each document, and the right one first",
        "RAGFlow's own client library",
    ),
    Row("scores", "scores are right", ("rerank",), "see the checks below it"),
    Row("budget", "time is enough", ("rerank",), "see the checks below it"),
    Row("exposure", "nobody else gets in", (), "see the checks below it"),
)
"""In the order in which they are asked."""

TITLES: Mapping[Layer, str] = {row.layer: row.title for row in TABLE}
NEEDS: Mapping[Layer, tuple[Layer, ...]] = {row.layer: row.needs for row in TABLE}


def stopped_by(layer: Layer, broken: Collection[Layer]) -> Layer | None:
    """The first layer that this one needs and that failed, or was itself stopped."""
    return next((need for need in NEEDS[layer] if need in broken), None)
