"""Measures how much faster one request of 64 documents ends with more replicas behind the gateway.

::

    python -m benchmarks.gateway_speedup docs/_data/gateway_speedup.json

takes about three minutes. The replicas are simulated: each computes one share at a time, as slowly as
Qwen3-Reranker-0.6B on a few cores, but uses no CPU, so that 16 of them run on any machine. What real replicas
gain depends on the machine's memory and caches: see ``gateway_cores.py``. No document is divided, so that
even the best division is not the ideal one: each row has what is possible when all times are known.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import gateways, write
from benchmarks.gateways import Machine
from ragops.bench.workload import ragflow, synthetic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ragops.bench.workload import Workload

DOCUMENTS, WORDS, SEED = 64, 250, 1
REPLICAS = (1, 2, 4, 8, 16)
SECONDS_A_DOCUMENT, SECONDS_A_SHARE = 0.1, 0.02
"""Of 250 words; and fixed for each share, as for the query's prefix."""
SLOWER = 3.0
WARMUP, REQUESTS, DEADLINE = 2, 3, 27.0


@dataclass(frozen=True)
class Speedup:
    """Requests of one number of simulated replicas; times in seconds."""

    lengths: str
    """``equal`` or ``RAGFlow's``."""
    replicas: int
    slower: float
    """How many times slower the first replica is than the others; 1 for equal ones."""
    direct_s: float
    """The same requests to one of the fast replicas, without a gateway: median."""
    gateway_s: float
    """Median."""
    speedup: float
    ideal: float
    """If all replicas computed all of the time, without any other cost."""
    possible: float
    """With one share of whole documents for each replica, longest documents first, times known: median."""
    shares_a_request: float
    requests_s: tuple[float, ...]
    """Each request through the gateway, in order of time."""


@dataclass(frozen=True)
class Measured:
    """The record."""

    machine: Machine
    workloads: tuple[str, ...]
    workload_sha256: tuple[str, ...]
    seed: int
    documents: int
    seconds_a_document: float
    seconds_a_share: float
    rows: tuple[Speedup, ...]


def main(file: str, requests: int = REQUESTS) -> None:
    """Measure, and write the file."""
    watch = gateways.Watch()
    rows, own = [], workloads(WARMUP + requests)
    for lengths, texts in own.items():
        with gateways.stubs([SECONDS_A_DOCUMENT], SECONDS_A_SHARE) as (address,):
            direct = _seconds(f"http://{address}", texts)
        for slower in (1.0, SLOWER):
            rows += [
                _speedup(lengths, texts, replicas, slower, direct)
                for replicas in REPLICAS
                if replicas > 1 or slower == 1
            ]
    record = Measured(
        machine=watch.machine(),
        workloads=tuple(texts.description for texts in own.values()),
        workload_sha256=tuple(texts.sha256 for texts in own.values()),
        seed=SEED,
        documents=DOCUMENTS,
        seconds_a_document=SECONDS_A_DOCUMENT,
        seconds_a_share=SECONDS_A_SHARE,
        rows=tuple(rows),
    )
    write(record, file)


def workloads(requests: int) -> dict[str, Workload]:
    """Requests with documents of equal lengths, and of RAGFlow's."""
    texts = synthetic(requests, 2 * DOCUMENTS, WORDS, seed=SEED)
    equal = []
    for one in texts.requests:  # some of its documents are shorter
        usual = [text for text in one.documents if len(text.split()) >= WORDS - 1]
        equal.append(replace(one, documents=tuple(usual[:DOCUMENTS])))
    text = f"{requests} requests of {DOCUMENTS} documents of {WORDS - 1} words, new texts in every request"
    return {
        "equal": replace(texts, requests=tuple(equal), description=text),
        "RAGFlow's": ragflow(requests, SEED, window=((DOCUMENTS, 1.0),)),
    }


def _speedup(
    lengths: str, texts: Workload, replicas: int, slower: float, direct: tuple[float, ...]
) -> Speedup:
    paces = [SECONDS_A_DOCUMENT * slower] + [SECONDS_A_DOCUMENT] * (replicas - 1)
    with (
        gateways.stubs(paces, SECONDS_A_SHARE) as addresses,
        gateways.gateway(addresses, deadline=DEADLINE) as gateway,
    ):
        shares = gateway.shares
        times = _seconds(gateway.url, texts)
        shares = gateway.shares - shares
    return Speedup(
        lengths=lengths,
        replicas=replicas,
        slower=slower,
        direct_s=median(direct),
        gateway_s=median(times),
        speedup=median(before / after for before, after in zip(direct, times, strict=True)),
        ideal=replicas - 1 + 1 / slower,
        possible=median(_possible(request.documents, paces) for request in texts.requests[WARMUP:]),
        shares_a_request=shares / len(texts.requests),
        requests_s=times,
    )


def _possible(documents: Sequence[str], paces: list[float]) -> float:
    ends, fastest = [SECONDS_A_SHARE] * len(paces), SECONDS_A_SHARE
    for words in sorted((text.count(" ") + 1 for text in documents), reverse=True):
        after = [end + pace * words / WORDS for end, pace in zip(ends, paces, strict=True)]
        place = after.index(min(after))
        ends[place], fastest = after[place], fastest + SECONDS_A_DOCUMENT * words / WORDS
    return fastest / max(ends)


def _seconds(url: str, texts: Workload) -> tuple[float, ...]:
    """Seconds of each request after the warm-up, in which the gateway learns how fast its replicas are."""
    replies = [gateways.send(url, gateways.NAME, request) for request in texts.requests]
    return tuple((reply.t_done - reply.t_send) / 1e9 for reply in replies[WARMUP:])


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
