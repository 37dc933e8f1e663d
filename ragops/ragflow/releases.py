"""What each release of RAGFlow needs, as one table of facts with their sources; pure.

Each :class:`Fact` has a value, the first release that it applies to, and its source. :func:`of` returns
the values of one release as a :class:`Release`::

    release = releases.of("v0.25.3")
    release.timeout            # 30.0
    window(release, 8)         # at most 64 documents per request

A source is a file in infiniflow/ragflow at that tag, or the number of a pull request or issue there. No tag
after v0.27.0 could be read: those sources name the date of the file, or the release notes. An unknown patch
of a known minor has that minor's facts. ragops changes the settings of no other release;
:func:`of_or_nearest` serves checks.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from ragops.errors import RagflowError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
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
"""The supported releases, oldest first."""

NEWEST = [name for name in KNOWN if "-rc" not in name][-1]
"""The newest one that is no release candidate."""

_SPELLING = re.compile(r"v?(\d+\.\d+\.\d+(?:-rc\d+)?)(-slim|-full)?(\s+(slim|full))?")


@dataclass(frozen=True)
class Fact(Generic[T]):
    """A value that applies from one release until the next fact of the same tuple."""

    since: str
    value: T
    source: str


Facts = tuple[Fact[T], ...]
"""Oldest first; the first applies from the oldest known release."""


@dataclass(frozen=True)
class Window:
    """Number of documents in one rerank request."""

    rule: str
    count: Callable[[int, int], int]
    """Maximum number of documents, from the page size and ``top_k``."""
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


def _whole_pages(page: int, _top: int) -> int:
    return math.ceil(64 / page) * page if page > 1 else 1


def _at_least_30(page: int, top: int) -> int:
    return max(30, _whole_pages(page, top))


def _at_most_64(page: int, top: int) -> int:
    return min(_at_least_30(page, top), top, 64)


def _bounded_pages(page: int, top: int) -> int:
    return min(math.ceil(64 / page), math.ceil(top / page)) * page if page > 1 else min(30, top)


def _candidates(page: int, _top: int) -> int:
    return max(64, page)


OBSTACLES = (
    Fact("v0.17.0", "it sends every text to api.cohere.com", "rag/llm/rerank_model.py:382; PR 5784"),
    Fact("v0.17.1", "it requests NAME___VLLM, an unknown model", "rag/llm/rerank_model.py; PR 6306"),
    Fact("v0.18.0", "", "rag/llm/rerank_model.py: the name is cut at ___"),
)
"""Reason why a release can't use a vLLM reranker; empty if it can."""

REGISTRATIONS: Facts[RegistrationRoutes] = (
    Fact("v0.17.0", "manual", "api/apps/__init__.py: session tokens alone"),
    Fact("v0.24.0", "add_llm", "api/apps/__init__.py: API tokens too; api/apps/llm_app.py"),
    Fact("v0.26.0", "provider", "api/apps/restful_apis/provider_api.py; add_llm writes an unused table"),
    Fact("v0.27.0", "provider-with-update", "provider_api.py:545-653; llm_app.py is gone"),
    Fact("v1.0.0-rc1", "provider-with-update", "internal/router/router.go:546-567 on 2026-08-22"),
)
"""Routes that register a model; ``manual`` if they accept no API token."""

DEFAULTS = (
    Fact("v0.17.0", "/v1/user/set_tenant_info", "api/apps/user_app.py:791, read at /v1/user/tenant_info"),
    Fact("v0.25.1", "/api/v1/users/me/models", "api/apps/restful_apis/user_api.py:567,605"),
    Fact("v0.26.0", "/api/v1/models/default", "api/apps/restful_apis/models_api.py"),
)
"""Route that sets the default rerank model."""

CHATS: Facts[Chats] = (
    Fact("v0.17.0", "prompt.rerank_model", "api/apps/sdk/chat.py: PUT /api/v1/chats/ID, API tokens alone"),
    Fact("v0.25.0", "rerank_id", "api/apps/restful_apis/chat_api.py:587,670: PATCH /api/v1/chats/ID"),
)
"""Field of a chat with its rerank model; read for v0.20 and v0.27, inferred for v0.25 and v0.26."""

SEARCHES = (
    Fact("v0.17.0", "/api/v1/retrieval", "api/apps/sdk/doc.py; api/apps/restful_apis/chunk_api.py"),
    Fact(
        "v1.0.0-rc1", "/api/v1/datasets/search", "internal/router/router.go:385 on 2026-08-22: its only one"
    ),
)
"""Route of a search in datasets."""

WINDOWS = (
    Fact(
        "v0.17.0",
        Window("3 x page size, at least 128", lambda page, _top: max(3 * page, 128)),
        "rag/nlp/search.py:347-348",
    ),
    Fact("v0.18.0", Window("whole pages, near 64", _rounded), "rag/nlp/search.py:356-357"),
    Fact("v0.21.1", Window("whole pages, 64 or more", _whole_pages), "rag/nlp/search.py:363"),
    Fact(
        "v0.24.0", Window("whole pages, 64 or more; at least 30", _at_least_30), "rag/nlp/search.py:384-385"
    ),
    Fact(
        "v0.25.0",
        Window("30 to 64, at most top_k", _at_most_64, "top_k"),
        "rag/nlp/search.py:395-398; PR 14084",
    ),
    Fact(
        "v0.26.0",
        Window("whole pages, 64 or more, at most the pages of top_k", _bounded_pages, "top_k"),
        "rag/nlp/search.py:549-570; PR 15434",
    ),
    Fact(
        "v0.27.1",
        Window(
            "rerank_candidates_count, 64 unless it is sent; page x page size above it is refused",
            _candidates,
            "rerank_candidates_count",
        ),
        "release notes of v0.27.1: PR 18768, 18737; rag/nlp/search.py:730-748 on 2026-09-24; issue 19017",
    ),
)
"""Number of documents in one rerank request."""

TIMEOUTS = (
    Fact("v0.17.0", 300.0, "cohere 5.6.2, its own default; there is no retry"),
    Fact("v0.25.3", 30.0, "rag/llm/rerank_model.py; PR 14264, 14265, 14313"),
    Fact("v1.0.0-rc1", 120.0, "internal/entity/models/base_model.go:456 on 2026-08-22: response headers"),
)
"""Timeout of RAGFlow's rerank request, in seconds."""

LIMITS: Facts[float | None] = (
    Fact("v0.17.0", None, "api/apps/llm_app.py: nothing ends the wait"),
    Fact("v0.24.0", 10.0, "LLM_TIMEOUT_SECONDS, 10 unless set in RAGFlow's environment"),
    Fact("v1.0.0-rc1", None, "internal/service/model_service.go:1131-1136 on 2026-08-22: none of its own"),
)
"""Timeout of the test request of a registration, in seconds; None without a timeout."""

TEXTS: Facts[tuple[Form, ...]] = (
    Fact("v0.17.0", ("stemmed",), "rag/nlp/search.py: content_ltks, title_tks and keywords"),
    Fact("v0.23.0", ("stemmed", "natural"), "rag/nlp/rag_tokenizer.py:24: natural with Infinity"),
    Fact(
        "v0.27.2",
        ("markup", "stemmed"),
        "PR 16961 is in no release notes; rag/nlp/search.py was stemmed on 2026-09-03 (PR 19230), natural on"
        " 2026-09-24: which v0.27.2 of 2026-09-10 has could not be read",
    ),
    Fact("v1.0.0-rc1", ("markup",), "internal/service/nlp/reranker.go: content_with_weight, with markup"),
)
"""Text of the documents in a rerank request, the usual one first; stemmed where the natural one is empty."""

OVER_LIMIT: Facts[OverLimit] = (
    Fact("v0.17.0", "passthrough", "rag/llm/rerank_model.py: CoHereRerank sends whole documents"),
    Fact(
        "v0.27.2",
        "truncate",
        "RERANK_TOKEN_LIMIT_MODE: rag/llm/rerank_model.py:34-37,80-89 after PR 19404; cl100k tokens of"
        " query and document together, 8196 where no limit is registered",
    ),
)
"""What RAGFlow does with a document over the registered limit, unless its environment says otherwise."""

CLIENTS = (
    Fact(
        "v0.17.0",
        Client(),
        "cohere 5.6.2 in pyproject.toml: it needs a key; a connection a request",
    ),
    Fact(
        "v1.0.0-rc1",
        Client("Go", return_documents=False, falls_back=True),
        "internal/entity/models/vllm.go:343-413, base_model.go:442-458 (the key is optional, connections stay"
        " open) and service/nlp/reranker.go:154 on 2026-08-22; PR 19908 may end the fallback",
    ),
)
"""RAGFlow's client of the reranker; v0.25 and later may also run the Go server (API_PROXY_SCHEME)."""

IDS: Facts[tuple[str, ...]] = (
    Fact("v0.17.0", ("{name}___VLLM@VLLM", "{name}___VLLM"), "api/db/services/llm_service.py"),
    Fact(
        "v0.20.0",
        ("{name}___VLLM@VLLM", "{name}___VLLM", "{name}@VLLM"),
        "api/db/services/llm_service.py:52-61; issue 8017",
    ),
    Fact("v0.26.0", ("{name}@{instance}@VLLM",), "api/db/joint_services/tenant_model_service.py"),
)
"""Valid forms of the rerank id in a chat or a retrieval request; ragops writes the first."""


@dataclass(frozen=True)
class Release:
    """One release with its value of each tuple of facts above."""

    name: str
    assumed: str
    """Which facts stand for those of an unknown release; empty for a known one."""
    obstacle: str
    registration: RegistrationRoutes
    default: str
    chats: Chats
    documents: Window
    timeout: float
    registration_limit: float | None
    rerank_ids: tuple[str, ...]
    texts: tuple[Form, ...]
    over_limit: OverLimit
    client: Client
    search: str

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

    An unknown patch of a known minor has the facts of the nearest older release; ``assumed`` names that one.

    Raises:
        RagflowError: No release of that minor is known.
    """
    release = of_or_nearest(text)
    if release.assumed and release.name in KNOWN:
        raise _unknown(text)
    return release


def of_or_nearest(text: str) -> Release:
    """The release, or the nearest older one; the newest for an empty text. For checks only.

    Raises:
        RagflowError: The text is not a release's name.
    """
    if not (name := normalize(text)) and text:
        raise _unknown(text)
    older = [known for known in KNOWN if name and order(known) <= order(name)]
    nearest = older[-1] if older else NEWEST
    facts = (
        *(OBSTACLES, REGISTRATIONS, DEFAULTS, CHATS, WINDOWS, TIMEOUTS, LIMITS, IDS),
        *(TEXTS, OVER_LIMIT, CLIENTS, SEARCHES),
    )
    values: list[Any] = [  # in the order of the fields
        [fact.value for fact in known if order(fact.since) <= order(nearest)][-1] for known in facts
    ]
    if name == nearest:
        return Release(name, "", *values)
    is_patch = name and order(name)[:2] == order(nearest)[:2]
    assumed = f"release {text} is unknown" if text else "the release is unknown"
    return Release(name if is_patch else nearest, f"{assumed}, {nearest} is assumed", *values)


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
