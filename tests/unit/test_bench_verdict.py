"""The verdict of simulated runs with known service times.

Each cell is a law of the stub reranker (a fixed time, and a time for each token), a release of RAGFlow
and a scatter. Its requests are drawn, the verdict judges them, and the same law says what is true.
"""

import math
import random
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragops.bench import judge
from ragops.bench.records import LoadLevel, OrderReport, OrderResult, RequestRecord, Run, WorkloadInfo
from ragops.bench.report import affordable
from ragops.bench.workload import Workload
from ragops.checks.latency import MARGIN
from ragops.checks.traffic import Request as Texts
from ragops.checks.traffic import pair_tokens, windows
from ragops.errors import BenchError, RagflowError
from ragops.ragflow import releases
from tests.support.runs import INFO, ORDER, ORIGIN, WORKLOAD, noisy, sequential, simulated, through_gateway
from tests.support.stub import Behaviour, service_seconds

QUERY = 20
"""Tokens of a query."""
POOL = np.array([pair_tokens(random.Random(seed), 0.0) for seed in range(1000)])  # noqa: S311
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

    def calls(self, sizes, shares, count):
        """Documents, tokens and seconds of requests of these windows."""
        documents = self.chance.choice(sizes, size=count, p=np.array(shares) / sum(shares))
        pairs = self.chance.choice(POOL, size=documents.sum())
        tokens = np.add.reduceat(pairs, np.r_[0, documents.cumsum()[:-1]]).round().astype(int)
        scatter = self.chance.lognormal(0.0, self.scatter, count)
        return documents, tokens, service_seconds(self.behaviour, 0, tokens) * scatter

    def p99(self, release, *, window=None):
        """The true p99, also of a window that was not measured."""
        sizes, shares = ((window,), (1.0,)) if window else zip(*windows(release), strict=True)
        _, _, times = self.calls(sizes, shares, 3000)
        return float(np.quantile(times, 0.99))


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
        release=release,
    )
    return Run(Path("results/x"), replace(INFO, workload=info), tuple(records))


@pytest.mark.parametrize(("fixed", "per_token", "scatter", "release"), CELLS)
def test_every_cell_outside_the_margin_is_right(fixed, per_token, scatter, release):
    law = Law(fixed, per_token, scatter)
    found = judge(recorded(law, release))
    limit = releases.of(release).timeout
    assert (found.release, found.timeout) == (release, limit)
    true = law.p99(release)
    if true < limit * (1 - MARGIN):
        assert found.fits is True
    elif true > limit * (1 + MARGIN):
        assert found.fits is False
    assert not (found.fits is True and true > limit)

    window = found.largest_documents
    if window is None:  # the measured requests fit, but not with the margin of the estimate
        assert limit * (1 - MARGIN) < true <= limit
        return
    assert window < 10 or law.p99(release, window=window) <= limit
    beyond = math.ceil(window / (1 - WIDE)) + 1
    assert window == 1000 or law.p99(release, window=beyond) > limit


@given(
    st.lists(st.tuples(st.integers(1, 100), st.floats(0.1, 60)), min_size=72, max_size=90),
    st.floats(0, 1),
    st.booleans(),
)
@settings(deadline=None, max_examples=50)
def test_an_estimate_contradicts_no_measured_request(sizes, noise, is_reversed):
    """Times that rise with the size, as far as the noise allows, or fall."""
    run = recorded(Law(0.0, 0.0003, 0.0), "v0.27.0", len(sizes))
    times = sorted(time for _, time in sizes)
    order = sorted(range(len(sizes)), key=lambda n: sizes[n][0] * (1 - noise) + sizes[n][1] * noise)
    requests = list(run.requests)
    for time, n in zip(times, order[::-1] if is_reversed else order, strict=True):
        documents, now = sizes[n][0], requests[n].t_send
        requests[n] = replace(
            requests[n], documents=documents, tokens=documents * 100, t_done=now + round(time * 1e9)
        )
    found = judge(replace(run, requests=tuple(requests)))
    documents = [count for count, _ in sizes]
    if found.largest_documents is not None:
        assert found.fits is not True or found.largest_documents >= min(documents)
        assert found.fits is not False or found.largest_documents < max(documents)
        late = [r.service > found.timeout for r in requests if r.documents <= found.largest_documents]
        assert sum(late) <= 0.05 * len(late)


def test_a_release_with_a_longer_timeout_has_another_verdict():
    run = recorded(Law(0.0, 0.0025, 0.0), "v0.27.0", 100)
    assert judge(run).fits is False
    old = judge(run, release="v0.24.0")
    assert (old.fits, old.timeout) == (True, 300.0)
    assert "the window is that of v0.27.0" in "; ".join(judge(run, release="v0.25.6").notes)


@pytest.mark.parametrize(
    ("release", "nearest"), [("v0.28.0", "v0.27.2"), ("v0.27.9", "v0.27.2"), ("v2.0.0", "v1.0.0-rc1")]
)
def test_unknown_release_has_the_timeout_of_the_nearest_one_and_a_note(release, nearest):
    result = judge(recorded(Law(0.0, 0.0025, 0.0), release, 100))
    assert result.timeout == releases.of(nearest).timeout
    assert any(release in note and nearest in note for note in result.notes)


def test_text_that_is_no_release_is_refused():
    with pytest.raises(RagflowError) as caught:
        judge(recorded(Law(0.0, 0.0025, 0.0), "v0.27.0", 100), release="nightly")
    assert caught.value.code == "ragflow-release"


def test_too_few_requests_are_inconclusive():
    result = judge(recorded(Law(0.2, 0.0004, 0.05), "v0.27.0", 40))
    assert (result.fits, result.clients) == (None, None)
    assert dict(result.table().rows)["p95"] == "needs 72 requests, has 40"


def test_failed_requests_allow_no_estimate():
    run = recorded(Law(0.2, 0.0004, 0.05), "v0.27.0", 100)
    broken = replace(run.requests[0], error="timeout: no answer in 60 s", tokens=None, status=None)
    found = judge(replace(run, requests=(broken, *run.requests[1:])))
    assert (found.largest_documents, found.service) == (None, None)
    assert found.no_estimate == "1 of 100 requests failed"


def with_clients(run, clients, seconds):
    """The same calls from several clients, each taking that long."""
    level = LoadLevel.closed(clients)
    extra = []
    for index in range(100):
        start = (index // clients) * round(seconds * 1e9)
        one = replace(run.requests[0], level=level.name, index=index, t_sched=start, t_send=start)
        extra.append(replace(one, t_done=start + round(seconds * 1e9)))
    info = replace(run.info, levels=(*run.info.levels, level))
    return replace(run, info=info, requests=(*run.requests, *extra))


def test_concurrent_clients_are_those_that_were_measured_to_fit():
    run = recorded(Law(0.0, 0.0003, 0.0), "v0.27.0", 100)
    assert judge(run).clients == 1
    assert judge(with_clients(run, 2, seconds=31.0)).clients == 1
    assert judge(with_clients(run, 8, seconds=14.0)).clients == 8
    slow = with_clients(with_clients(run, 4, seconds=31.0), 8, seconds=14.0)
    assert judge(slow).clients == 1


# --- what a verdict says


GROWING = (64, 66, 70, 90)
"""Documents of the requests of a run with a linear fit."""


def growing(scatter=0.0):
    chance = random.Random(2)  # noqa: S311
    times = [0.5 + 0.125 * GROWING[index % 4] + chance.gauss(0, scatter) for index in range(80)]
    return judge(simulated(sequential(times, sizes=GROWING)))


FAILED = [
    replace(r, error="timeout: no response in 30 s") if r.index % 5 == 0 else r
    for r in sequential(noisy(100, 9.0))
]
# p95 fits, but ten of 400 requests took too long, so p99 does not
TAIL = sequential([50.0 if index % 40 == 0 else taken for index, taken in enumerate(noisy(400, 5.0))])


@pytest.mark.parametrize(
    ("requests", "fits", "parts"),
    [
        (
            sequential(noisy(400, 9.0)),
            True,
            ("Fits: p99 ", f" of RAGFlow {releases.NEWEST}'s timeout of 30 s, one request at a time, n=400."),
        ),
        (sequential(noisy(100, 40.0)), False, ("Does not fit: p95 ",)),
        (sequential(noisy(100, 28.0)), None, ("Inconclusive: p95 ", "; p99 needs 368 requests.")),
        (
            sequential([9.0, 10.0, 12.5]),
            None,
            ("Inconclusive: slowest request 12.5", "n=3; p95 needs 72 requests."),
        ),
        (FAILED, False, ("20 of 100 failed, first request 1 of the workload: timeout: no response",)),
        (TAIL, False, ("Does not fit: p99 ",)),
    ],
)
def test_verdict_of_one_client(requests, fits, parts):
    verdict = judge(simulated(requests))
    assert verdict.fits is fits
    assert all(part in verdict.sentence for part in parts)


def test_another_timeout():
    assert judge(simulated(sequential(noisy(100, 40.0))), timeout=300).fits is True


def test_line_of_time_against_tokens_and_the_documents_that_fit():
    verdict = growing()
    assert (verdict.service.fixed_s, verdict.service.per_token_s) == pytest.approx((0.5, 0.0005))
    assert verdict.service.residual_s == pytest.approx(0, abs=1e-6)
    assert verdict.largest_documents == pytest.approx((30 / 1.1 - 0.5) / 0.125, abs=1)
    assert verdict.is_extrapolated
    assert str(verdict.service).startswith("t = 0.500 s + 0.5 ms a token")


def test_the_margin_reduces_the_estimated_documents():
    verdict = growing(scatter=1)
    assert verdict.service.residual_s == pytest.approx(1, rel=0.25)
    free = (30 - verdict.service.fixed_s) / verdict.service.per_token_s / 250
    assert verdict.largest_documents < free - 5


@pytest.mark.parametrize(
    ("times", "sizes", "reason"),
    [
        ([10 - documents / 10 for documents in GROWING] * 5, GROWING, "time does not rise with tokens"),
        ([9.0, 9.1] * 10, (64,), "all requests have the same number of tokens"),
    ],
)
def test_no_line_has_a_reason(times, sizes, reason):
    verdict = judge(simulated(sequential(times, sizes=sizes)))
    assert (verdict.service, verdict.largest_documents) == (None, None)
    assert verdict.no_estimate == reason


@pytest.mark.parametrize(
    ("ranked", "cached", "part", "reason"),
    [
        (28, 0, ", n=100, 43 % of documents ranked;", "the gateway's deadline ended requests"),
        (64, 16, ", n=100;", "the gateway's cache had scores"),
        (64, 0, ", n=100;", "all requests have the same number of tokens"),
    ],
)
def test_the_verdict_is_about_what_ragflow_receives(ranked, cached, part, reason):
    verdict = judge(simulated(through_gateway([27.0] * 100, ranked=ranked, cached=cached)))
    assert (verdict.fits, verdict.ranked, verdict.no_estimate) == (True, ranked / 64, reason)
    assert part in verdict.sentence


def test_level_with_one_client_is_judged():
    levels = (LoadLevel.closed(4), LoadLevel.closed(1))
    both = sequential(noisy(80, 20.0), level="closed-4") + sequential(noisy(80, 5.0))
    assert judge(simulated(both, levels)).level == LoadLevel.closed(1)
    only = judge(simulated(sequential([20.0, 28.0] * 40, level="closed-4", sizes=(64, 90)), levels))
    assert (only.level, only.service) == (LoadLevel.closed(4), None)
    assert ", 4 clients, n=80;" in only.sentence


def test_notes_qualify_the_verdict():
    origin = replace(ORIGIN, model_is_stand_in="random weights", client_is_stand_in="the demo client")
    order = OrderReport("q", ("a",), 0, skipped="random weights")
    run = simulated(sequential(noisy(80, 5.0)), origin=origin, order=order)
    cut = {"complete": False, "reason": "stopped by the user", "workload": replace(WORKLOAD, cut_to=110)}
    verdict = judge(replace(run, info=replace(run.info, **cut)))
    for part in (
        "substitute model: random weights",
        "substitute client: the demo client",
        "incomplete: stopped by the user",
        "order of the scores not checked: random weights",
        "lighter than RAGFlow's load: pairs cut to 110 words",
    ):
        assert part in verdict.notes
        assert f"note: {part}" in str(verdict)


def test_wrong_scores_do_not_fit():
    wrong = replace(ORDER, after=OrderResult(right=False, scores=(0.1, 0.2)))
    verdict = judge(simulated(sequential(noisy(80, 5.0)), order=wrong))
    assert (verdict.fits, verdict.state) == (False, "wrong scores")
    assert verdict.sentence.startswith("Wrong scores")


def test_no_verdict_without_requests():
    with pytest.raises(BenchError) as caught:
        judge(simulated([]))
    assert caught.value.code == "run-too-small"


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
    def wanted(documents=64, words=8):
        return Workload("w", "own", "", None, (Texts("q", ("word " * words,) * documents),) * 120)

    def test_as_many_as_end_in_time_at_the_largest_size(self):
        seen = self.records((8, 2, 0.1, ""), (64, 8, 1.5, ""), (64, 8, 2.5, ""))
        assert affordable(seen, self.wanted(), 100) == 50

    def test_longer_texts_than_measured_take_longer(self):
        seen = self.records((64, 8, 2.0, ""))
        assert affordable(seen, self.wanted(words=16), 100) == 25
        assert affordable(seen, self.wanted(documents=32), 100) == 100

    def test_result_is_between_its_bounds(self):
        assert affordable(self.records((64, 8, 0.01, "")), self.wanted(), 100) == 120
        assert affordable(self.records((64, 8, 60.0, "")), self.wanted(), 100) == 12

    def test_failed_requests_are_ignored(self):
        failed = (64, 8, 30.0, "timed out")
        assert affordable(self.records(failed), self.wanted(), 100) == 12
        assert affordable(self.records(failed, (32, 16, 1.0, "")), self.wanted(), 100) == 100
