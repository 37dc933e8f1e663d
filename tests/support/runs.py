"""Simulated runs, whose correct result is known."""

import random
from dataclasses import replace
from pathlib import Path

from ragops.bench.records import (
    GatewayCounts,
    LoadLevel,
    OrderReport,
    OrderResult,
    Provenance,
    RequestRecord,
    Run,
    RunInfo,
    WorkloadInfo,
)

ORIGIN = Provenance(machine="two cores", model="small", image_digest="sha256:0123456789abcdef")
ORDER = OrderReport("q", ("a", "b"), 0, OrderResult(right=True), OrderResult(right=True))
ONE = (LoadLevel.closed(1),)
WORKLOAD = WorkloadInfo("ragflow-natural", "ragflow", "100 requests", 1, "a" * 64, 100)
INFO = RunInfo(
    name="simulated",
    started="2026-01-01T00:00:00+00:00",
    started_ns=0,
    base_url="http://x/v1",
    model="small",
    timeout=30.0,
    workload=WORKLOAD,
    levels=ONE,
    order_played=(),
    repeats=1,
    warmup=0,
    seed=1,
    fresh=True,
    order=ORDER,
    provenance=ORIGIN,
    complete=True,
    reason="",
)


def request(t_send, t_done, *, level="closed-1", repeat=0, phase="measure", index=0, error="", documents=64):
    """Times in seconds."""
    return RequestRecord(
        level=level,
        repeat=repeat,
        phase=phase,
        index=index,
        documents=documents,
        words=200,
        t_sched=round(t_send * 1e9),
        t_send=round(t_send * 1e9),
        t_done=round(t_done * 1e9),
        tokens=None if error else documents * 250,
        status=None if error else 200,
        error=error,
    )


def simulated(requests, levels=ONE, origin=ORIGIN, order=ORDER, sha="a" * 64, samples=(), repeats=1):
    workload = replace(WORKLOAD, sha256=sha)
    info = replace(
        INFO, workload=workload, levels=tuple(levels), provenance=origin, order=order, repeats=repeats
    )
    return Run(Path("results/20260101T000000Z-simulated"), info, tuple(requests), tuple(samples))


def sequential(times, *, level="closed-1", repeat=0, sizes=(64,)):
    """Requests one after the other, each of these seconds."""
    now, requests = 0.0, []
    for index, seconds in enumerate(times):
        documents = sizes[index % len(sizes)]
        requests.append(
            request(now, now + seconds, level=level, repeat=repeat, index=index, documents=documents)
        )
        now += seconds
    return requests


def through_gateway(times, *, ranked=64, cached=0, own_ms=2.0):
    """Requests one after the other, each of these seconds, with what the gateway reports."""
    counts = GatewayCounts(ranked, cached, own_ms)
    return [replace(record, gateway=counts) for record in sequential(times)]


def noisy(count, mean, seed=1, share=0.05):
    chance = random.Random(seed)  # noqa: S311
    return [mean * chance.gauss(1, share) for _ in range(count)]
