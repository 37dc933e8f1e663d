"""What each release of RAGFlow needs, as one table of facts with their sources; pure.

The rows are in ``data/ragflow_facts.tsv``: the field of :class:`Release`, the first release with the value,
the value as JSON, and its source. :func:`of` returns the values of one release::

    release = releases.of("v0.25.3")
    release.timeout            # 30.0
    window(release, 8)         # at most 64 documents per request

A source is a file in infiniflow/ragflow at that tag, or the number of a pull request or issue there. No tag
after v0.27.0 could be read: those sources name the date of the file, or the release notes. An unknown patch
of a known minor has that minor's facts. ragops changes the settings of no other release;
:func:`of_or_nearest` serves checks.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ragops.data import read_table
from ragops.errors import RagflowError

RegistrationRoutes = Literal["manual", "add_llm", "provider", "provider-with-update"]
Chats = Literal["prompt.rerank_model", "rerank_id"]
Form = Literal["natural", "stemmed", "markup"]
"""Text of a document: as written, as stemmed words, or as written with Markdown and HTML tables."""
OverLimit = Literal["passthrough", "truncate", "raise_error"]

KNOWN = (
    *("v0.17.0", "v0.17.1", "v0.17.2", "v0.18.0", "v0.19.0", "v0.19.1"),
    *("v0.20.0", "v0.20.1", "v0.20.2", "v0.20.3", "v0.20.4", "v0.20.5"),
    *("v0.21.0", "v0.21.1", "v0.22.0", "v0.22.1", "v0.23.0", "v0.23.1", "v0.24.0"),
    *("v0.25.0", "v0.25.1", "v0.25.2", "v0.25.3", "v0.25.4", "v0.25.5", "v0.25.6"),
    *("v0.26.0", "v0.26.1", "v0.26.2", "v0.26.3", "v0.26.4", "v0.27.0", "v0.27.1", "v0.27.2"),
    "v1.0.0-rc1",
)
"""The releases with facts, oldest first; those before v0.18.0 have an ``obstacle``."""

NEWEST = [name for name in KNOWN if "-rc" not in name][-1]
"""The newest one that is no release candidate."""

_SPELLING = re.compile(r"v?(\d+\.\d+\.\d+(?:-rc\d+)?)(-slim|-full)?(\s+(slim|full))?")


@dataclass(frozen=True)
class Fact:
    """A value that applies from one release until the next fact of the same field."""

    since: str
    value: Any
    source: str


@dataclass(frozen=True)
class Window:
    """Number of documents in one rerank request."""

    rule: str
    count: Callable[[int, int], int]
    setting: str = ""
    """RAGFlow's setting that bounds it; empty where there is none."""


@dataclass(frozen=True)
class Client:
    """How RAGFlow's server sends a rerank request to provider VLLM."""

    language: Literal["Python", "Go"] = "Python"
    return_documents: bool = True
    """Whether the body has ``"return_documents": false``."""
    falls_back: bool = False
    """Whether a failed request is only logged, and the order is that of the keywords."""


def _rounded(page: int, _top: int) -> int:
    return max(1, math.floor(64 / page + 0.5) * page) if page > 1 else 1


def _whole_pages(page: int, _top: int = 0) -> int:
    return math.ceil(64 / page) * page if page > 1 else 1


def _bounded_pages(page: int, top: int) -> int:
    return min(math.ceil(64 / page), math.ceil(top / page)) * page if page > 1 else min(30, top)


_WINDOWS = (
    Window("3 x page size, at least 128", lambda page, _top: max(3 * page, 128)),
    Window("whole pages, near 64", _rounded),
    Window("whole pages, 64 or more", _whole_pages),
    Window("whole pages, 64 or more; at least 30", lambda page, _top: max(30, _whole_pages(page))),
    Window("30 to 64, at most top_k", lambda page, top: min(max(30, _whole_pages(page)), top, 64), "top_k"),
    Window("whole pages, 64 or more, at most the pages of top_k", _bounded_pages, "top_k"),
    Window(
        "rerank_candidates_count, 64 unless it is sent; page x page size above it is refused",
        lambda page, _top: max(64, page),
        "rerank_candidates_count",
    ),
)


FACTS: dict[str, list[Fact]] = defaultdict(list)
"""Facts of each field of a :class:`Release`, oldest first; the first is of the oldest known release."""

for _field, _since, _text, _source in read_table("ragflow_facts.tsv"):
    _value = json.loads(_text)
    if _field == "documents":
        _value = next(window for window in _WINDOWS if window.rule == _value)
    elif _field == "client":
        _value = Client(**_value)
    FACTS[_field].append(Fact(_since, tuple(_value) if isinstance(_value, list) else _value, _source))


@dataclass(frozen=True)
class Release:
    """One release with its facts."""

    name: str
    assumed: str
    """Which facts stand for those of an unknown release; empty for a known one."""
    obstacle: str
    """Reason why it can't use a vLLM reranker; empty if it can."""
    registration: RegistrationRoutes
    """Routes that register a model; ``manual`` if they accept no API token."""
    default: str
    """Route that sets the default rerank model."""
    chats: Chats
    """Field of a chat with its rerank model; read for v0.20 and v0.27, inferred for v0.25 and v0.26."""
    search: str
    documents: Window
    timeout: float
    """Seconds of its rerank request."""
    registration_limit: float | None
    """Seconds of the test request of a registration; None without a timeout."""
    texts: tuple[Form, ...]
    """Text of documents in a rerank request, the usual one first; stemmed where the natural one is empty."""
    over_limit: OverLimit
    """What it does with a document over the registered limit, unless its environment says otherwise."""
    client: Client
    """Client of the reranker; v0.25 and later may also run the Go server (API_PROXY_SCHEME)."""
    rerank_ids: tuple[str, ...]
    """Valid forms of the rerank id in a chat or a retrieval request; ragops writes the first."""

    def before(self, name: str) -> bool:
        """Whether it is older than the release of that name."""
        return order(self.name) < order(name)


def order(name: str) -> tuple[int, int, int, float]:
    """Sort key of a normalized name; a release candidate is older than its release."""
    release, _, candidate = name.removeprefix("v").partition("-rc")
    major, minor, patch = map(int, release.split("."))
    return major, minor, patch, int(candidate) if candidate else math.inf


def of(text: str) -> Release:
    """Look up a release by its name; ``v``, ``-slim`` and an edition after a space are optional.

    An unknown patch of a known minor has the facts of the nearest older release; ``assumed`` names that
    one. A release of an unknown minor is an error.
    """
    release = of_or_nearest(text)
    if release.assumed and release.name in KNOWN:
        raise _unknown(text)
    return release


def of_or_nearest(text: str) -> Release:
    """The release, or the nearest older one; the newest for an empty text. For checks only."""
    if not (name := normalize(text)) and text:
        raise _unknown(text)
    older = [known for known in KNOWN if name and order(known) <= order(name)]
    nearest = older[-1] if older else NEWEST
    values = {
        field: [fact.value for fact in known if order(fact.since) <= order(nearest)][-1]
        for field, known in FACTS.items()
    }
    if name == nearest:
        return Release(name, "", **values)
    is_patch = name and order(name)[:2] == order(nearest)[:2]
    assumed = f"release {text} is unknown" if text else "the release is unknown"
    return Release(name if is_patch else nearest, f"{assumed}, {nearest} is assumed", **values)


def _unknown(text: str) -> RagflowError:
    newer = (name := normalize(text)) and order(name) > order(NEWEST)
    what = "newer than the supported releases" if newer else "not a supported release"
    return RagflowError(
        f"RAGFlow {text or '(unknown release)'} is {what}",
        code="ragflow-release",
        evidence=f"known: {KNOWN[0]} to {NEWEST} and {KNOWN[-1]}; nothing was changed",
        hint=f'if a supported release has the same API, configure it: [ragflow] release = "{NEWEST}"',
    )


def normalize(text: str) -> str:
    """``v0.25.3`` from ``0.25.3-slim`` or ``v0.25.3 full``; empty for any other text."""
    match = _SPELLING.fullmatch(text.strip())
    return f"v{match[1]}" if match else ""


def window(release: Release, page_size: int, top_k: int = 1024) -> int:
    """Maximum number of documents in one rerank request."""
    return release.documents.count(page_size, top_k)


def rerank_id(release: Release, name: str, instance: str) -> str:
    """Rerank id of a model in a chat or a retrieval request; old releases have no instances."""
    return release.rerank_ids[0].format(name=name, instance=instance)
