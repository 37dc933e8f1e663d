"""Sends RAGFlow's usual requests to real vLLM through the gateway: in time, ranked share, and the next page.

::

    python -m benchmarks.gateway_deadline docs/_data/gateway_deadline_bfloat16.json
    python -m benchmarks.gateway_deadline docs/_data/gateway_deadline_int8.json int8

take 10 to 60 minutes each, as the processor is fast. The model is that of ``launches.py``; the gateway has
its default deadline and then, if that ended no request, a short one. Questions are repeated until the cache
has all scores, as RAGFlow does for the next page. Some requests go to vLLM directly: how many documents it
ranks in the time of the deadline.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import gateways, launches, write
from benchmarks.alternating import PREFIX, log
from ragops.bench.workload import ragflow
from ragops.ragflow.request import RERANK_TIMEOUT

if TYPE_CHECKING:
    from benchmarks.alternating import LaunchRunner
    from benchmarks.gateways import Gateway
    from ragops.bench.records import GatewayCounts, Provenance
    from ragops.bench.wire import RerankResponse
    from ragops.checks.traffic import Request
    from ragops.reranker.model import Model

DOCUMENTS, REQUESTS, DIRECT, SEED = 64, 20, 3, 11
DEADLINES = (0.9 * RERANK_TIMEOUT, 5.0)
"""The default for RAGFlow up to v0.27.2, and a short one."""
CACHE, MOST_REPEATS, REPEATED = 100_000, 8, 2
"""Scores in the cache; repetitions of a question; questions that are repeated although they were partial."""
BUDGET_SECONDS = 1200.0
"""For the requests with one deadline; on a slow machine there are fewer of them."""


@dataclass(frozen=True)
class Sent:
    """One response."""

    seconds: float
    gateway: GatewayCounts


@dataclass(frozen=True)
class Question:
    """One request and its repetitions, of which the last came from the cache."""

    tokens: int | None
    """Of the documents that were ranked by the first response."""
    first: Sent
    again: tuple[Sent, ...]

    @property
    def page_ms(self) -> float | None:
        """The time of a page whose scores are all stored; None if the cache was never complete."""
        stored = [sent.seconds for sent in self.again if sent.gateway.cached == DOCUMENTS]
        return 1000 * stored[0] if stored else None


@dataclass(frozen=True)
class Series:
    """Requests of one precision and deadline; seconds."""

    dtype: str
    model: str
    substitute: str
    deadline: float
    is_short: bool
    """Whether this is not the default deadline."""
    documents_per_s: float
    """Of vLLM without a gateway: median of the direct requests."""
    in_time: float
    """Fraction of first responses within RAGFlow's timeout."""
    latest_s: float
    ranked: float
    """Fraction of the documents of all first responses with a score of the model."""
    ranked_of_possible: float
    """Ranked documents as a fraction of those that vLLM alone ranks until the deadline."""
    page_p50_ms: float | None
    """Of the first page that came wholly from the cache."""
    page_most_ms: float | None
    rss_bytes: int
    """Of the gateway at the end."""
    questions: tuple[Question, ...]


@dataclass(frozen=True, kw_only=True)
class Measured(gateways.Record):
    """The record."""

    origin: Provenance
    timeout: float
    """RAGFlow's."""
    series: tuple[Series, ...]


def main(file: str, copy: str = "", requests: int = REQUESTS) -> None:
    """Measure, and write the file."""
    texts = ragflow(requests + requests // 2 + 2 * DIRECT, SEED, window=((DOCUMENTS, 1.0),))
    with launches.runner() as runner:
        model = runner.int8 if copy == "int8" else runner.model
        spec = runner.default_spec("deadline", model)
        with runner.started(spec) as server:
            runner.engine.unpause(server.name)
            origin, watch = runner.provenance(spec), gateways.Watch()
            cpu = _container_cpu(runner, server.name)
            series = _both(server.url, model, texts.requests)
            watch.add(_container_cpu(runner, server.name) - cpu)
            record = Measured(
                **watch.fields(texts),
                origin=origin,
                timeout=RERANK_TIMEOUT,
                series=tuple(series),
            )
            write(record, file)
            runner.engine.pause(server.name)


def _container_cpu(runner: LaunchRunner, name: str) -> float:
    return (runner.engine.stats(name).cpu_ns or 0) / 1e9


def _both(url: str, model: Model, texts: tuple[Request, ...]) -> list[Series]:
    """The default deadline; if it ended no request, the short one with half as many and other texts."""
    root, series = url.removesuffix("/v1"), list[Series]()
    end = (len(texts) - 2 * DIRECT) * 2 // 3 + DIRECT
    for deadline, own in zip(DEADLINES, (texts[:end], texts[end:]), strict=True):
        if series and series[0].ranked < 1:
            break
        direct = [_send(root, request, fresh=True) for request in own[:DIRECT]]
        rate = median(DOCUMENTS / _seconds(reply) for reply in direct)
        log(f"{model.name}: {rate:.2f} documents/s; deadline {deadline:g} s")
        address = root.removeprefix("http://")
        with gateways.gateway([address], PREFIX, deadline=deadline, cache=CACHE) as gateway:
            questions = _questions(gateway, own[DIRECT:])
            series.append(_series(model, deadline, rate, questions, gateway.rss_bytes))
    return series


def _questions(gateway: Gateway, requests: tuple[Request, ...]) -> tuple[Question, ...]:
    """Those that are sent within the budget; of partial ones, only the first are repeated."""
    end, questions, partial = time.monotonic() + BUDGET_SECONDS, list[Question](), 0
    for request in requests:
        if questions and time.monotonic() > end:
            break
        question = _question(gateway, request, most=MOST_REPEATS if partial < REPEATED else 0)
        partial += question.first.gateway.ranked != DOCUMENTS
        questions.append(question)
    return tuple(questions)


def _question(gateway: Gateway, request: Request, most: int) -> Question:
    first, again = _send(gateway.url, request, fresh=False), list[Sent]()
    whole = first.gateway.ranked == DOCUMENTS
    while len(again) < (1 if whole else most) and not (again and again[-1].gateway.cached == DOCUMENTS):
        reply = _send(gateway.url, request, fresh=False)
        again.append(Sent(_seconds(reply), reply.gateway))
    pages = ", ".join(f"{sent.seconds:.3f} s" for sent in again)
    log(f"{_seconds(first):.2f} s, {first.gateway.ranked} ranked; again: {pages}")
    return Question(first.tokens, Sent(_seconds(first), first.gateway), tuple(again))


def _series(model: Model, deadline: float, rate: float, questions: tuple[Question, ...], rss: int) -> Series:
    times = [question.first.seconds for question in questions]
    ranked = sum(question.first.gateway.ranked or 0 for question in questions)
    possible = min(DOCUMENTS, math.floor(rate * deadline)) * len(questions)
    pages = [page for question in questions if (page := question.page_ms) is not None]
    return Series(
        dtype=(model.quantized and "int8") or model.dtype,
        model=model.name,
        substitute=model.substitute,
        deadline=deadline,
        is_short=deadline != DEADLINES[0],
        documents_per_s=rate,
        in_time=sum(seconds <= RERANK_TIMEOUT for seconds in times) / len(times),
        latest_s=max(times),
        ranked=ranked / (DOCUMENTS * len(questions)),
        ranked_of_possible=ranked / possible,
        page_p50_ms=median(pages) if pages else None,
        page_most_ms=max(pages, default=None),
        rss_bytes=rss,
        questions=questions,
    )


def _send(url: str, request: Request, *, fresh: bool) -> RerankResponse:
    return gateways.send(url, PREFIX, request, fresh=fresh)


def _seconds(reply: RerankResponse) -> float:
    return (reply.t_done - reply.t_send) / 1e9


if __name__ == "__main__":
    main(sys.argv[1], "".join(sys.argv[2:]))
