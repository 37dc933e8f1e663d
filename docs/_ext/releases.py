"""Parts of pages that are made from the table of RAGFlow's releases: ``.. generated:: releases``."""  # noqa: INP001

from __future__ import annotations

from typing import TYPE_CHECKING

import generated

from ragops.ragflow import answers, releases
from ragops.ragflow.releases import Fact, Release, Window, window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx

FACTS = {
    "Compose services": releases.SERVICES,
    "Container names": releases.CONTAINERS,
    "Why it can't use a vLLM reranker": releases.OBSTACLES,
    "How a model is registered": releases.REGISTRATIONS,
    "Where one logs in": releases.LOGINS,
    "Takes an API token for registering": releases.TOKENS,
    "Says that it lives": releases.PINGS,
    "Tells its release": releases.VERSIONS,
    "Tells its release to anybody": releases.OPEN_VERSIONS,
    "Default model": releases.DEFAULTS,
    "Where a chat names its model": releases.CHATS,
    "Documents of one question": releases.WINDOWS,
    "Seconds for an answer": releases.TIMEOUTS,
    "Seconds for the test of a registration": releases.LIMITS,
    "Rerank ids": releases.IDS,
    "Moves scores into 0 to 1": releases.NORMALISES,
    "Its whole API waits for the reranker": releases.STALLS,
    "A document from below the first page can be ranked into it": releases.PROMOTES,
}
"""The lists of facts, as the page of sources names them."""

PAGES = (6, 8, 10, 30)
"""Page sizes that RAGFlow's pages and API use unless told otherwise."""


def table() -> Iterator[str]:
    """What matters to a reranker, a row for each run of releases that are alike in it."""
    yield from [".. list-table::", "   :header-rows: 1", ""]
    head = ("RAGFlow", "registers by", "API token", "documents a question", "waits", "rerank id")
    yield from generated.row_of(head)
    rows: list[tuple[str, str, tuple[str, ...]]] = []
    for first, last in releases.ranges():
        cells = _cells(first)
        if rows and rows[-1][2] == cells:
            rows[-1] = (rows[-1][0], last.name, cells)
        else:
            rows.append((first.name, last.name, cells))
    for start, end, cells in rows:
        yield from generated.row_of((start if start == end else f"{start} to {end}", *cells))
    yield ""


def facts() -> Iterator[str]:
    """Every fact with its source."""
    for name, known in FACTS.items():
        yield from [f".. list-table:: {name}", "   :header-rows: 1", "   :widths: 15 35 50", ""]
        yield from generated.row_of(("from", "what holds", "read in"))
        for fact in known:
            yield from generated.row_of((fact.since, _said(fact), fact.source))
        yield ""


def failures() -> Iterator[str]:
    """What RAGFlow says when a registration fails, and what to do."""
    for hint in answers.FAILURES:
        said = f"{generated.inline(hint.cause)} **What to do:** {generated.inline(hint.remedy)}."
        yield from [f"``{hint.words}``", f"   {said}", ""]


def _cells(release: Release) -> tuple[str, ...]:
    if release.obstacle:
        return (f"not usable: {release.obstacle}", "", "", "", "")
    counts = {window(release, size) for size in PAGES}
    ways = {
        "add_llm": "/v1/llm/add_llm",
        "provider": "/api/v1/providers",
        "provider-with-connection-test": "/api/v1/providers, after a test",
    }
    return (
        f"``{ways[release.registration]}``".replace(", after a test``", "``, after a test"),
        "yes" if release.token else "no, a login",
        f"{min(counts)} to {max(counts)}" if len(counts) > 1 else str(*counts),
        f"{release.timeout:.0f} s",
        f"``{releases.rerank_id(release, 'NAME', 'ragops')}``",
    )


def _said(fact: Fact[object]) -> str:
    value = fact.value
    if isinstance(value, Window):
        return value.rule
    if isinstance(value, tuple):
        return ", ".join(f"``{one}``" for one in value)
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "no limit"}[value]
    return f"``{value}``" if str(value).startswith("/") else str(value) or "no"


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the parts to those that pages may ask for."""
    del app
    generated.PARTS |= {"releases": table, "facts": facts, "failures": failures}
    return {"parallel_read_safe": True, "parallel_write_safe": True}
