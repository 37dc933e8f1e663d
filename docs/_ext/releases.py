"""Parts of pages that are generated from the table of RAGFlow's releases: ``.. generated:: releases``."""  # noqa: INP001

from __future__ import annotations

from typing import TYPE_CHECKING

import generated

from ragops.ragflow import releases
from ragops.ragflow.api import FAILURES
from ragops.ragflow.releases import Client, Fact, Release, Window, window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx

TITLES = {
    "Obstacles to a vLLM reranker": "obstacle",
    "Registration of a model": "registration",
    "Default model": "default",
    "Rerank model of a chat": "chats",
    "Documents per request": "documents",
    "Timeout of a request, seconds": "timeout",
    "Timeout of the registration test, seconds": "registration_limit",
    "Rerank ids": "rerank_ids",
    "Search in datasets": "search",
    "Text of the documents": "texts",
    "Documents over the registered limit": "over_limit",
    "Client of the reranker": "client",
}
"""Fields of a release by their titles."""

PAGES = (6, 8, 10, 30)
"""Default page sizes of RAGFlow's pages and API."""


def table() -> Iterator[str]:
    """Facts about rerankers, a row for each range of equal releases."""
    yield from [".. list-table::", "   :header-rows: 1", ""]
    head = (
        "RAGFlow",
        "server",
        "registration",
        "documents",
        "text",
        "too long",
        "timeout",
        "rerank id",
    )
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
    for title, field in TITLES.items():
        yield from [f".. list-table:: {title}", "   :header-rows: 1", "   :widths: 15 35 50", ""]
        yield from generated.row_of(("from", "fact", "source"))
        for fact in releases.FACTS[field]:
            yield from generated.row_of((fact.since, _value(fact), fact.source))
        yield ""


def failures() -> Iterator[str]:
    """RAGFlow's errors for a failed registration, and their fixes."""
    for hint in FAILURES:
        remedy = generated.inline(hint.remedy.format(tokens="N"))
        text = f"{generated.inline(hint.cause)} **What to do:** {remedy}."
        yield from [f"``{hint.words}``", f"   {text}", ""]


def _cells(release: Release) -> tuple[str, ...]:
    if release.obstacle:
        return (release.client.language, f"not usable: {release.obstacle}", "", "", "", "", "")
    counts = {window(release, size) for size in PAGES}
    routes = {
        "manual": "by hand",
        "add_llm": "``/v1/llm/add_llm``",
        "provider": "``/api/v1/providers``",
        "provider-with-update": "``/api/v1/providers``, updated in place",
    }
    return (
        release.client.language,
        routes[release.registration],
        f"{min(counts)} to {max(counts)}" if len(counts) > 1 else str(*counts),
        " or ".join(release.texts),
        "sent whole" if release.over_limit == "passthrough" else "cut",
        f"{release.timeout:.0f} s",
        f"``{releases.rerank_id(release, 'NAME', 'ragops')}``",
    )


def _value(fact: Fact) -> str:
    value = fact.value
    if isinstance(value, Window):
        return value.rule
    if isinstance(value, Client):
        return _client(value)
    if isinstance(value, tuple):
        return ", ".join(f"``{item}``" for item in value)
    if value is None:
        return "no limit"
    return f"``{value}``" if str(value).startswith("/") else str(value) or "no"


def _client(client: Client) -> str:
    body = (
        "body with ``return_documents``" if client.return_documents else "body without ``return_documents``"
    )
    failure = "a failed request is only logged" if client.falls_back else "a failed request fails the query"
    return f"{client.language}; {body}; {failure}"


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the parts to those of ``generated``."""
    del app
    generated.PARTS |= {"releases": table, "facts": facts, "failures": failures}
    return {"parallel_read_safe": True, "parallel_write_safe": True}
