"""RAGFlow's calls, sent from inside its container one at a time, with the time that each took.

``budget.py`` judges them. It is a look, of few calls; a benchmark is ``ragops bench``.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ragops import progress
from ragops.bench import workload
from ragops.bench.quantiles import needed
from ragops.bench.records import RequestRecord
from ragops.bench.text import Writer
from ragops.checks.probe import Question, Round, ask_all
from ragops.ragflow import releases
from ragops.ragflow.names import assumed
from ragops.ragflow.request import RerankRequest
from ragops.vllm import TEMPLATE_TOKENS

if TYPE_CHECKING:
    from ragops.bench.workload import Form, Request
    from ragops.checks.probe import Reply
    from ragops.checks.questions import Expected
    from ragops.engine import Engine
    from ragops.ragflow.discovery import RagflowContainer
    from ragops.ragflow.releases import Release

SHARE = 0.95
CALLS = needed(SHARE)
"""Calls after which p95 has an interval; no more are made."""

SECONDS = 25.0
"""Time after which no further call is made; the last one may take RAGFlow's 30 s more."""

RAMP = (2, 8)
"""Documents of the first calls, which no percentile counts: they show what a small call takes."""

PAGES = ((8, 0.63), (6, 0.16), (10, 0.105), (30, 0.105))
"""Page sizes that RAGFlow asks with and their share; an estimate, as RAGFlow counts nowhere."""

PATIENCE = 30.0
"""Seconds that a call is waited for, where RAGFlow would wait longer."""

_USUAL_WORDS = 200
_FAST, _GROUP = 1.0, 6
"""Seconds below which calls are fast, and how many of those are sent by one program."""
_FORMS: tuple[Form, ...] = ("natural", "stemmed")

_Named = tuple["Form", "Request"]


@dataclass(frozen=True)
class Profile:
    """What one release sends, and how long it waits."""

    release: Release
    assumed: str
    """Why this release is taken; empty when it is the container's own."""
    window: tuple[tuple[int, float], ...]
    """Documents in one call and their share."""
    max_words: int
    """Longest query and document that the model surely takes."""

    @property
    def most(self) -> int:
        """Documents of its largest usual call."""
        return max(count for count, _ in self.window)

    @property
    def waits(self) -> str:
        """Such as ``the 30 s that RAGFlow v0.27.0 waits``."""
        return f"the {self.release.timeout:g} s that RAGFlow {self.release.name} waits"


@dataclass(frozen=True)
class Measured:
    """What was seen: calls as the benchmark records them, and the one with a chunk too long."""

    calls: tuple[RequestRecord, ...]
    """``level`` is the form of text; the first ones, of few documents, have the phase ``warmup``."""
    too_long: Reply
    cut_to: int | None = None
    """Words that documents were cut to for the model."""


def profile(found: RagflowContainer, expected: Expected) -> Profile:
    """What RAGFlow in this container sends to this model."""
    release, why = assumed(found.release)
    shares: dict[int, float] = {}
    for page, share in PAGES:
        count = releases.window(release, page)
        shares[count] = shares.get(count, 0.0) + share
    words = workload.words_for_context(expected.max_tokens, template_tokens(expected))
    return Profile(release, why, tuple(sorted(shares.items())), words)


def measure(
    engine: Engine,
    found: RagflowContainer,
    image: str,
    url: str,
    expected: Expected,
    *,
    full: bool = False,
) -> Measured:
    """Send RAGFlow's calls from inside its container, one at a time.

    Args:
        engine: Where the container runs.
        found: The container; it must be running and reach the reranker.
        image: An image with Python, for a container that has none.
        url: The reranker's address as RAGFlow has it.
        expected: How the reranker was launched.
        full: :data:`CALLS` calls, however long they take.
    """
    about = profile(found, expected)
    limit = min(about.release.timeout, PATIENCE)
    path = f"{urlsplit(url).path}/rerank"

    def send(*requests: Request) -> tuple[Reply, ...]:
        bodies = (RerankRequest(expected.model, one.query, one.documents).body() for one in requests)
        asked = tuple(Question(path, body.decode()) for body in bodies)
        return ask_all(engine, found.name, image, url, Round(asked, limit * len(asked), limit))

    drawn, cut_to = _drawn(about)
    records: list[RequestRecord] = []
    progress.step(f"{found.name}: timed calls of RAGFlow's size")
    begin = time.monotonic()
    while len(records) < len(drawn):
        group = drawn[len(records) :][: _together(records)]
        replies = send(*(request for _, request in group))
        for (form, request), reply in zip(group, replies, strict=False):
            records.append(_record(form, request, reply, len(records)))
        now = time.monotonic()
        progress.advance(len(records), len(drawn), "timed calls")
        if any(one.error for one in records) or (not full and now - begin > SECONDS):
            break
    return Measured(tuple(records), send(_too_long(expected))[0], cut_to)


def _together(records: list[RequestRecord]) -> int:
    """How many calls are sent, one after another, by one program; its start costs more than fast ones."""
    is_fast = len(records) > len(RAMP) and records[-1].latency < _FAST
    return _GROUP if is_fast else 1


def _drawn(about: Profile) -> tuple[list[_Named], int | None]:
    """Small calls, then natural and stemmed ones by turns; and the words that they were cut to."""
    natural, stemmed = (
        workload.ragflow(CALLS // 2, seed, form=form, window=about.window, max_words=about.max_words)
        for seed, form in enumerate(_FORMS, start=1)
    )
    first = Writer(3)
    query = first.query()
    texts = tuple(first.passage(min(about.max_words, _USUAL_WORDS)).text for _ in range(max(RAMP)))
    ramp: list[_Named] = [("natural", workload.Request(query, texts[:count])) for count in RAMP]
    pairs = zip(natural.requests, stemmed.requests, strict=True)
    turns: list[_Named] = [turn for pair in pairs for turn in zip(_FORMS, pair, strict=True)]
    return ramp + turns, natural.cut_to


def _record(form: Form, request: Request, reply: Reply, place: int) -> RequestRecord:
    error, tokens = _read(reply, len(request.documents))
    return RequestRecord(
        level=form,
        repeat=0,
        phase="warmup" if place < len(RAMP) else "measure",
        index=place,
        documents=len(request.documents),
        words=request.words,
        t_sched=0,
        t_send=0,
        t_done=int(reply.ms * 1e6),
        tokens=tokens,
        status=reply.status or None,
        error=error,
    )


def _read(reply: Reply, documents: int) -> tuple[str, int | None]:
    """What is wrong with an answer, and the tokens that the server counted."""
    if reply.status != 200:
        return f"HTTP {reply.status}: {reply.text[:200]}" if reply.status else reply.text[:200], None
    try:
        data = json.loads(reply.text)
        came, used = len(data["results"]), (data.get("usage") or {}).get("prompt_tokens")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"no ranking: {error!r}"[:200], None
    return ("" if came == documents else f"{came} scores for {documents} documents"), used


def template_tokens(expected: Expected) -> int:
    """What the server's score template adds to a pair."""
    return TEMPLATE_TOKENS if expected.template else 0


def _too_long(expected: Expected) -> Request:
    """A call with one chunk that is surely longer than the model takes."""
    writer = Writer(4)
    words = expected.max_tokens + 8  # a word is one token at least
    return workload.Request(writer.query(), (writer.passage(16).text, writer.passage(words).text))
