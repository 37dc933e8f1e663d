"""Levels send what they say, when they say it, and nothing that goes wrong is lost."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragops.bench import wire
from ragops.bench.load import EncodedRequest, Trial, play
from ragops.bench.order import DEFAULT_CHECK, OrderCheck, _ask, ask, judge
from ragops.bench.overhead import measure_overhead
from ragops.bench.records import Level, due_times, trial_order
from ragops.bench.workload import synthetic
from ragops.errors import BenchError
from tests.support.stub import Behaviour, StubReranker

BODY = wire.encode("stub-reranker", "red apple", ("a red apple", "a pear"))


def played(level, count, behaviour, timeout=5.0):
    records = []
    requests = tuple(EncodedRequest(index, "measure", BODY, 2, 3) for index in range(count))

    async def whole(target):
        async with wire.client() as http:
            await play(Trial(level, 0, requests, seed=1), http, target, records.append)

    with StubReranker(behaviour) as stub:
        asyncio.run(whole(wire.Target(stub.base_url, "stub-reranker", timeout=timeout)))
    return records


def most_at_once(records):
    moments = sorted([(r.t_send, 1) for r in records] + [(r.t_done, -1) for r in records])
    running, most = 0, 0
    for _, change in moments:
        running += change
        most = max(most, running)
    return most


def test_closed_level_keeps_its_clients_busy_and_no_more():
    records = played(Level.closed(3), 12, Behaviour(fixed_s=0.04, serial=False))
    assert [r.index for r in sorted(records, key=lambda r: r.t_sched)] == list(range(12))
    assert most_at_once(records) == 3
    assert all(r.t_sched <= r.t_send < r.t_done for r in records)
    assert all((r.status, r.tokens, r.error) == (200, 9, "") for r in records)


def test_constant_level_does_not_wait_for_answers():
    """A server of 0.06 s gets a request every 0.02 s: what waits is seen, not left out."""
    records = sorted(played(Level.constant(50), 12, Behaviour(fixed_s=0.06)), key=lambda r: r.t_sched)
    assert {b.t_sched - a.t_sched for a, b in pairwise(records)} == {20_000_000}
    assert records[-1].latency > 3 * records[0].latency
    assert most_at_once(records) > 3


def test_bursts_come_together_and_one_after_the_other():
    records = played(Level.burst(4), 8, Behaviour(fixed_s=0.02))
    due = sorted({r.t_sched for r in records})
    assert len(due) == 2
    first = [r for r in records if r.t_sched == due[0]]
    assert len(first) == 4
    assert max(r.t_done for r in first) <= due[1]


def test_failures_are_kept_with_their_reason():
    records = played(Level.closed(1), 6, Behaviour(fail_every=3, fail_status=503))
    assert [r.status for r in records] == [200, 200, 503, 200, 200, 503]
    assert records[2].error.startswith("HTTP 503")
    assert "told to fail" in records[2].error


def test_timeout_is_an_error_and_not_a_wait():
    records = played(Level.closed(1), 2, Behaviour(fixed_s=1, serial=False), timeout=0.2)
    assert [r.error for r in records] == ["timeout: no response in 0.2 s"] * 2
    assert all(0.2 <= r.service < 1 for r in records)


def test_an_answer_that_misses_documents_is_an_error():
    (record,) = played(Level.closed(1), 1, Behaviour(missing=1))
    assert record.status == 200
    assert "1 different documents scored, 2 sent" in record.error


def test_nobody_listens():
    async def whole():
        target = wire.Target("http://127.0.0.1:9/v1", "m")
        async with wire.client() as http:
            return await wire.post(http, target, BODY, 2)

    reply = asyncio.run(whole())
    assert reply.error.startswith("connection: ConnectError")
    assert reply.status is None


def test_request_is_the_one_that_ragflow_sends():
    with StubReranker() as stub:
        target = wire.Target(stub.base_url + "/", "stub-reranker")

        async def whole():
            async with wire.client() as http:
                return await wire.post(http, target, BODY, 2)

        reply = asyncio.run(whole())
    (call,) = stub.calls
    assert call.path == "/v1/rerank"
    assert call.headers["authorization"] == "Bearer x"
    assert call.body == {
        "model": "stub-reranker",
        "query": "red apple",
        "documents": ["a red apple", "a pear"],
        "top_n": 2,
        "return_documents": False,
    }
    assert reply.scores == (1.0, 0.0)
    assert "水泵".encode() in wire.encode("m", "水泵", ("a",))


@given(st.floats(0.1, 100), st.integers(1, 200), st.integers(0, 9))
def test_poisson_arrivals_are_repeatable_and_rise(rate, count, seed):
    due = due_times(Level.poisson(rate), count, seed)
    assert len(due) == count
    assert due[0] == 0
    assert due == sorted(due) == due_times(Level.poisson(rate), count, seed)


def test_poisson_arrivals_have_their_rate():
    due = due_times(Level.poisson(20), 4000, seed=1)
    gaps = [b - a for a, b in pairwise(due)]
    mean = sum(gaps) / len(gaps)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert mean == pytest.approx(50e6, rel=0.05)
    assert spread == pytest.approx(mean, rel=0.1)
    assert due_times(Level.poisson(20), 9, seed=2) != due[:9]


def test_levels():
    assert [
        level.name for level in (Level.closed(4), Level.poisson(0.5), Level.constant(2), Level.burst(8))
    ] == [
        "closed-4",
        "poisson-0.5",
        "constant-2",
        "burst-8",
    ]
    assert (Level.closed(4).clients, Level.burst(4).clients) == (4, None)
    for wrong in (
        lambda: Level.closed(0),
        lambda: Level.poisson(-1),
        lambda: Level.closed(1, requests=0),
        lambda: Level("burst", 1.5),
    ):
        with pytest.raises(BenchError):
            wrong()
    with pytest.raises(BenchError, match="due times"):
        due_times(Level.closed(1), 3, 1)


def test_a_level_is_read_from_its_name():
    for level in (Level.closed(4), Level.poisson(0.5), Level.constant(2), Level.burst(8, requests=3)):
        assert Level.parse(level.name, requests=level.requests) == level
    for text in ("closed", "open-3", "closed-x", ""):
        with pytest.raises(BenchError, match="is no level"):
            Level.parse(text)


def test_repeats_are_interleaved_in_a_seeded_order():
    levels = tuple(Level.closed(clients) for clients in (1, 2, 3, 4, 5))
    order = trial_order(levels, 3, seed=4)
    assert order == trial_order(levels, 3, seed=4) != trial_order(levels, 3, seed=5)
    assert [repeat for _, repeat in order] == [0] * 5 + [1] * 5 + [2] * 5
    rounds = [[level for level, repeat in order if repeat == number] for number in range(3)]
    assert all(set(one) == set(levels) for one in rounds)
    assert rounds[0] != rounds[1]


@pytest.mark.parametrize(
    ("order", "right"),
    [("right", True), ("wrong", False), ("constant", False)],
)
def test_order_check(order, right):
    async def whole(target):
        async with wire.client() as http:
            return await ask(http, target, DEFAULT_CHECK)

    with StubReranker(Behaviour(order=order)) as stub:
        found = asyncio.run(whole(wire.Target(stub.base_url, "stub-reranker")))
    assert found.right is right
    assert len(found.scores) == len(DEFAULT_CHECK.documents)


def test_order_check_must_be_a_question():
    with pytest.raises(BenchError, match="order check"):
        asyncio.run(ask(None, wire.Target("http://x/v1", "m"), OrderCheck("q", ("a", "b"), 2)))


def test_judge_takes_no_ties_and_no_nan():
    assert judge((0.1, 0.9, 0.2), 1)
    assert not judge((0.9, 0.9), 1)
    assert not judge((float("nan"), 0.9), 1)


def test_floor_is_measured_against_a_stub_of_its_own():
    began = time.perf_counter_ns()
    floor = asyncio.run(measure_overhead(synthetic(2, 3, 20), requests=4))
    assert (floor.requests, floor.errors) == (4, 0)
    assert floor.cpu_ns_per_request > 0
    assert 0 < floor.p50_ns < time.perf_counter_ns() - began


@pytest.mark.parametrize("who", ["constant", "shuffled", "random", "input-order", "nan", "inverted"])
def test_luck_or_a_place_is_no_right_order(who):
    """One answer in five is right by chance; five with another document first are not."""

    async def whole(target):
        async with wire.client() as http:
            return await ask(http, target, DEFAULT_CHECK)

    for seed in range(4):
        with StubReranker(Behaviour(impostor=who, seed=seed)) as stub:
            target = wire.Target(stub.base_url, "stub-reranker")
            assert not asyncio.run(whole(target)).right


def test_scores_of_an_order_check_are_in_the_order_of_its_documents():
    async def whole(target):
        async with wire.client() as http:
            return [await _ask(http, target, DEFAULT_CHECK, first) for first in range(5)]

    with StubReranker() as stub:
        found = asyncio.run(whole(wire.Target(stub.base_url, "stub-reranker")))
    assert len({one.scores for one in found}) == 1
    assert all(one.right for one in found)
