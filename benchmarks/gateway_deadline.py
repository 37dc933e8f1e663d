"""Sends RAGFlow's usual requests to real vLLM through the gateway: in time, ranked share, and the next page.

::

    python -m benchmarks.gateway_deadline docs/_data/gateway_deadline_bfloat16.json
    python -m benchmarks.gateway_deadline docs/_data/gateway_deadline_int8.json int8

take 10 to 60 minutes each, as the processor is fast. The model is that of ``launches.py``; the gateway has
its default deadline, then a short one, at which any machine must stop early. Each question is repeated until
the cache has all scores, as RAGFlow does for the next page. Some requests go to vLLM directly: how many
documents it ranks in the time of the deadline.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import gateways, launches, write
from benchmarks.alternating import PREFIX, log
from benchmarks.gateways import Machine
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
CACHE, MOST_REPEATS = 100_000, 8


@dataclass(frozen=True)
class Sent:
    """One response."""

    seconds: float
    gateway: GatewayCounts


@dataclass(frozen=True)
class Question:
    """One request and its repetitions, the last of which came from the cache."""

    tokens: int | None
    """Of the documents that were ranked by the first response."""
    first: Sent
    again: tuple[Sent, ...]

    @property
    def page_ms(self) -> float | None:
        """The time of a page whose scores are all stored; None if the cache was never complete."""
        last = self.again[-1]
        return 1000 * last.seconds if last.gateway.cached == DOCUMENTS else None


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


@dataclass(frozen=True)
class Measured:
    """The record."""

    machine: Machine
    origin: Provenance
    workload: str
    workload_sha256: str
    seed: int
    documents: int
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
                machine=watch.machine(),
                origin=origin,
                workload=texts.description,
                workload_sha256=texts.sha256,
                seed=SEED,
                documents=DOCUMENTS,
                timeout=RERANK_TIMEOUT,
                series=tuple(series),
            )
            write(record, file)
            runner.engine.pause(server.name)


def _container_cpu(runner: LaunchRunner, name: str) -> float:
    return (runner.engine.stats(name).cpu_ns or 0) / 1e9


def _both(url: str, model: Model, texts: tuple[Request, ...]) -> list[Series]:
    """Both deadlines, the short one with half as many requests; each has its own texts."""
    root, series = url.removesuffix("/v1"), []
    end = (len(texts) - 2 * DIRECT) * 2 // 3 + DIRECT
    for deadline, own in zip(DEADLINES, (texts[:end], texts[end:]), strict=True):
        direct = [_send(root, request, fresh=True) for request in own[:DIRECT]]
        rate = median(DOCUMENTS / _seconds(reply) for reply in direct)
        log(f"{model.name}: {rate:.2f} documents/s; deadline {deadline:g} s")
        address = root.removeprefix("http://")
        with gateways.gateway([address], PREFIX, deadline=deadline, cache=CACHE) as gateway:
            questions = tuple(_question(gateway, request) for request in own[DIRECT:])
            series.append(_series(model, deadline, rate, questions, gateway.rss_bytes))
    return series


def _question(gateway: Gateway, request: Request) -> Question:
    first, again = _send(gateway.url, request, fresh=False), list[Sent]()
    while len(again) < MOST_REPEATS and (not again or again[-1].gateway.cached != DOCUMENTS):
        reply = _send(gateway.url, request, fresh=False)
        again.append(Sent(_seconds(reply), reply.gateway))
    last = f"{again[-1].seconds * 1000:.1f} ms"
    log(f"{_seconds(first):.2f} s, {first.gateway.ranked} ranked; {len(again)} more, the last in {last}")
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
