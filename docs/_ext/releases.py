"""Parts of pages that are made from the table of RAGFlow's releases: ``.. generated:: releases``."""  # noqa: INP001

from __future__ import annotations

from typing import TYPE_CHECKING

import generated

from ragops.ragflow import releases
from ragops.ragflow.failures import FAILURES
from ragops.ragflow.releases import Fact, Release, Window, window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx

FACTS = {
    "Why it can't use a vLLM reranker": releases.OBSTACLES,
    "How a model is registered": releases.REGISTRATIONS,
    "Default model": releases.DEFAULTS,
    "Where a chat names its model": releases.CHATS,
    "Documents of one question": releases.WINDOWS,
    "Seconds for an answer": releases.TIMEOUTS,
    "Seconds for the test of a registration": releases.LIMITS,
    "Rerank ids": releases.IDS,
}
"""The lists of facts, as the page of sources names them."""

PAGES = (6, 8, 10, 30)
"""Page sizes that RAGFlow's pages and API use unless told otherwise."""


def table() -> Iterator[str]:
    """What matters to a reranker, a row for each run of releases that are alike in it."""
    yield from [".. list-table::", "   :header-rows: 1", ""]
    head = ("RAGFlow", "registers by", "documents a query", "waits", "rerank id")
    yield from generated.row_of(head)
    rows: list[tuple[str, str, tuple[str, ...]]] = []
    for name in releases.KNOWN:
        cells = _cells(releases.of(name))
        if rows and rows[-1][2] == cells:
            rows[-1] = (rows[-1][0], name, cells)
        else:
            rows.append((name, name, cells))
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
    for hint in FAILURES:
        said = f"{generated.inline(hint.cause)} **What to do:** {generated.inline(hint.remedy)}."
        yield from [f"``{hint.words}``", f"   {said}", ""]


def _cells(release: Release) -> tuple[str, ...]:
    if release.obstacle:
        return (f"not usable: {release.obstacle}", "", "", "")
    counts = {window(release, size) for size in PAGES}
    routes = {
        "manual": "by hand",
        "add_llm": "``/v1/llm/add_llm``",
        "provider": "``/api/v1/providers``",
        "provider-with-connection-test": "``/api/v1/providers``, after a test",
    }
    return (
        routes[release.registration],
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
    if value is None:
        return "no limit"
    return f"``{value}``" if str(value).startswith("/") else str(value) or "no"


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the parts to those that pages may ask for."""
    del app
    generated.PARTS |= {"releases": table, "facts": facts, "failures": failures}
    return {"parallel_read_safe": True, "parallel_write_safe": True}
