"""The verdict against stubs of known speed, on a clock that no machine makes slow.

Each cell is a law of the stub reranker (a fixed time, and a time for each token), a release of RAGFlow
and a scatter. Its requests are drawn, the verdict judges them, and the same law says what is true.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from ragops.bench import Level, Provenance, affordable, verdict
from ragops.bench.capacity import MARGIN
from ragops.bench.order import Ordering, OrderReport
from ragops.bench.records import RequestRecord, Run, RunInfo, WorkloadInfo
from ragops.bench.sizes import CHUNK_SIZE, LARGEST_CHUNK_SIZE, pair_tokens, windows
from ragops.bench.usl import fit
from ragops.bench.workload import Request as Texts
from ragops.bench.workload import Workload
from ragops.errors import RagflowError
from ragops.ragflow import releases
from ragops.testing.stub import Behaviour, service_seconds

QUERY = 20
"""Tokens of a query, which no chunk size changes."""
POOL = np.array([pair_tokens(random.Random(seed), 0.0) for seed in range(4000)])  # noqa: S311
SPEEDS = (0.0001, 0.0004, 0.0008, 0.0012, 0.0018, 0.003)
CELLS = list(product((0.0, 2.0), SPEEDS, (0.0, 0.1), ("v0.24.0", "v0.25.6", "v0.27.0")))
WIDE = 0.35
"""How far below the truth an answer may lie; above it, never."""


class Law:
    """How long calls take: the stub's own arithmetic, times a scatter."""

    def __init__(self, fixed, per_token, scatter, seed=1):
        self.behaviour = Behaviour(fixed_s=fixed, per_token_s=per_token)
        self.scatter = scatter
        self.chance = np.random.default_rng(seed)

    def calls(self, sizes, shares, count, chunk=CHUNK_SIZE):
        """Documents, tokens and seconds of calls of these windows, with chunks of that size."""
        documents = self.chance.choice(sizes, size=count, p=np.array(shares) / sum(shares))
        pairs = self.chance.choice(POOL, size=documents.sum())
        pairs = QUERY + (pairs - QUERY) * chunk / CHUNK_SIZE
        tokens = np.add.reduceat(pairs, np.r_[0, documents.cumsum()[:-1]]).round().astype(int)
        plain = np.array([service_seconds(self.behaviour, 0, count) for count in tokens])
        return documents, tokens, plain * self.chance.lognormal(0.0, self.scatter, count)

    def p99(self, release, *, window=None, chunk=CHUNK_SIZE, callers=1):
        """What is true of windows, chunks and callers other than those measured."""
        sizes, shares = ((window,), (1.0,)) if window else zip(*windows(release), strict=True)
        _, _, times = self.calls(sizes, shares, 3000, chunk)
        waits = np.convolve(times, np.ones(callers), "valid")  # one call of each caller before the next
        return float(np.quantile(waits, 0.99))


def recorded(law, release, count=400):
    """A run of one client, back to back."""
    now, records = 0, []
    drawn = law.calls(*zip(*windows(release), strict=True), count)
    for index, (documents, tokens, taken) in enumerate(
        zip(*(column.tolist() for column in drawn), strict=True)
    ):
        end = now + round(taken * 1e9)
        words = round(tokens / documents) - QUERY
        records.append(
            RequestRecord("closed-1", 0, "measure", index, documents, words, now, now, end, tokens, 200)
        )
        now = end
    info = WorkloadInfo(
        "ragflow-natural",
        "ragflow",
        "",
        1,
        "a" * 64,
        count,
        documents=66 * count,
        query_words=QUERY,
        release=release,
    )
    return Run(Path("results/x"), replace(INFO, workload=info), tuple(records))


ORDER = OrderReport("q", ("a", "b"), 0, Ordering(right=True), Ordering(right=True))
INFO = RunInfo(
    name="cell",
    started="2026-01-01T00:00:00+00:00",
    started_ns=0,
    base_url="http://x/v1",
    model="stub-reranker",
    timeout=600.0,
    workload=WorkloadInfo("", "ragflow", "", 1, "", 1),
    levels=(Level.closed(1),),
    order_played=(),
    repeats=1,
    warmup=0,
    seed=1,
    fresh=True,
    order=ORDER,
    provenance=Provenance(),
    complete=True,
    reason="",
)


@pytest.mark.parametrize(("fixed", "per_token", "scatter", "release"), CELLS)
def test_every_cell_outside_the_margin_is_right(fixed, per_token, scatter, release):
    law = Law(fixed, per_token, scatter)
    found = verdict(recorded(law, release))
    limit = releases.of(release).timeout
    assert (found.release, found.budget) == (release, limit)
    true = law.p99(release)
    if true < limit * (1 - MARGIN):
        assert found.fits is found.fits_p99 is True
    elif true > limit * (1 + MARGIN):
        assert found.fits is False
    assert not (found.fits is True and true > limit)

    window = found.largest_documents
    assert window < 10 or law.p99(release, window=window) <= limit
    beyond = math.ceil(window / (1 - WIDE)) + 1
    assert window == 1000 or law.p99(release, window=beyond) > limit

    chunk = found.largest_chunk
    assert chunk == 0 or law.p99(release, chunk=chunk) <= limit
    beyond = math.ceil(chunk / (1 - WIDE)) + 16
    assert chunk == LARGEST_CHUNK_SIZE or law.p99(release, chunk=beyond) > limit

    callers = found.callers
    assert callers == 0 or law.p99(release, callers=callers) <= limit
    beyond = math.ceil(callers / (1 - WIDE)) + 1
    assert callers == 1000 or law.p99(release, callers=beyond) > limit * (1 - MARGIN)
    assert found.replicas(12) == (math.ceil(12 / callers) if callers else None)


def test_a_release_that_waits_longer_is_another_verdict():
    run = recorded(Law(0.0, 0.0025, 0.0), "v0.27.0", 100)
    assert verdict(run).fits is False
    old = verdict(run, release="v0.24.0")
    assert (old.fits, old.budget) == (True, 300.0)
    assert "the window is that of v0.27.0" in "; ".join(verdict(run, release="v0.25.6").notes)
    with pytest.raises(RagflowError, match="not a release"):
        verdict(run, release="v9.9.9")


def test_it_ends_with_an_answer_to_each_question():
    text = str(verdict(recorded(Law(0.2, 0.0004, 0.05), "v0.27.0")))
    for part in (
        "p95",
        "p99",
        "largest window",
        "largest chunk size",
        "callers at once",
        "RAGFlow v0.27.0, 30 s",
    ):
        assert part in text
    few = str(verdict(recorded(Law(0.2, 0.0004, 0.05), "v0.27.0", 40)))
    assert "p95                 can't be told 30 s: n/a (n=40 < 72)" in few


def test_failed_calls_let_nothing_be_worked_out():
    run = recorded(Law(0.2, 0.0004, 0.05), "v0.27.0", 100)
    broken = replace(run.requests[0], error="timeout: no answer in 60 s", tokens=None, status=None)
    found = verdict(replace(run, requests=(broken, *run.requests[1:])))
    assert (found.largest_documents, found.largest_chunk, found.callers) == (None, None, None)
    assert any("1 of 100 requests failed" in note for note in found.notes)


def crowd(run, clients, seconds):
    """The same calls from several clients, each taking that long."""
    level = Level.closed(clients)
    extra = []
    for index in range(100):
        start = (index // clients) * round(seconds * 1e9)
        one = replace(run.requests[0], level=level.name, index=index, t_sched=start, t_send=start)
        extra.append(replace(one, t_done=start + round(seconds * 1e9)))
    info = replace(run.info, levels=(*run.info.levels, level))
    return replace(run, info=info, requests=(*run.requests, *extra))


def test_what_was_seen_of_several_callers_counts_more_than_what_is_worked_out():
    run = recorded(Law(0.0, 0.0003, 0.0), "v0.27.0", 100)
    alone = verdict(run).callers
    assert 3 <= alone <= 5
    assert verdict(crowd(run, 2, seconds=31.0)).callers == 1
    batched = verdict(crowd(run, 8, seconds=14.0))
    assert batched.callers > alone
    assert batched.callers >= 8


# --- throughput against clients


def usl(n, gamma=10.0, alpha=0.05, beta=0.002):
    return gamma * n / (1 + alpha * (n - 1) + beta * n * (n - 1))


def test_the_law_is_found_again_with_its_error():
    chance = np.random.default_rng(1)
    points = [(float(n), usl(n) * chance.normal(1, 0.01)) for n in (1, 2, 4, 8, 16, 32) for _ in range(3)]
    found, why = fit(points)
    assert why == ""
    assert found.gamma == pytest.approx(10, abs=2 * found.gamma_error)
    assert found.alpha == pytest.approx(0.05, abs=2 * found.alpha_error)
    assert found.beta == pytest.approx(0.002, abs=2 * found.beta_error)
    assert found.best == pytest.approx(math.sqrt(0.95 / 0.002), rel=0.2)
    assert found.throughput(8) == pytest.approx(usl(8), rel=0.05)
    assert found.residual == pytest.approx(0.01, rel=0.5)
    assert "residual" in str(found)


def test_the_law_is_not_forced_on_what_does_not_follow_it():
    assert fit([(1.0, 10.0), (2.0, 19.0)])[1] == "it takes 6 numbers of clients, 1 among them; there are 2"
    batching = [(float(n), 10.0 * n**1.3) for n in (1, 2, 4, 8, 16, 32)]
    assert fit(batching)[0] is None
    assert "alpha < 0" in fit(batching)[1] or "beta < 0" in fit(batching)[1]
    assert fit([(float(n), usl(n)) for n in (2, 4, 8, 16, 32, 64)])[0] is None


class TestAffordable:
    """How many requests a notebook sends is chosen by what the largest size took."""

    @staticmethod
    def records(*rows):
        return [
            RequestRecord(
                level="closed-1", repeat=0, phase="measure", index=index, documents=documents, words=words,
                t_sched=0, t_send=0, t_done=int(1e9 * seconds), tokens=None, status=200, error=error,
            )
            for index, (documents, words, seconds, error) in enumerate(rows)
        ]  # fmt: skip

    @staticmethod
    def wanted(documents=64, words=72):
        return Workload("w", "own", "", None, (Texts("q", ("word " * words,) * documents),) * 120)

    def test_as_many_as_end_in_time_at_the_largest_size(self):
        seen = self.records((8, 16, 0.1, ""), (64, 72, 1.5, ""), (64, 72, 2.5, ""))
        assert affordable(seen, self.wanted(), 100) == 50

    def test_longer_texts_than_were_seen_take_longer(self):
        seen = self.records((64, 72, 2.0, ""))
        assert affordable(seen, self.wanted(words=144), 100) == 25
        assert affordable(seen, self.wanted(documents=32), 100) == 100

    def test_no_more_than_wanted_and_no_fewer_than_a_few(self):
        assert affordable(self.records((64, 72, 0.01, "")), self.wanted(), 100) == 120
        assert affordable(self.records((64, 72, 60.0, "")), self.wanted(), 100) == 12

    def test_failed_requests_tell_nothing(self):
        failed = (64, 72, 30.0, "timed out")
        assert affordable(self.records(failed), self.wanted(), 100) == 12
        assert affordable(self.records(failed, (32, 144, 1.0, "")), self.wanted(), 100) == 100
