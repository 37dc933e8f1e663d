"""Load levels: when requests are sent, what is recorded of each, and the order check."""

from __future__ import annotations

import asyncio
import math
from contextlib import closing
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragops.bench import wire
from ragops.bench.records import LoadLevel, OrderReport, RequestRecord, due_times, trial_order
from ragops.bench.run import Trial, check_order, send_trial
from ragops.errors import BenchError
from tests.support.stub import Behaviour, StubReranker

BODY = wire.encode("stub-reranker", "red apple", ("a red apple", "a pear"))


def with_client(url, use, timeout=60.0):
    async def run():
        with closing(wire.Client(wire.Server(url, "stub-reranker"), timeout)) as client:
            return await use(client)

    return asyncio.run(run())


def sent(level, count, behaviour, timeout=60.0):
    records = []
    planned = [RequestRecord(level.name, 0, "measure", n, 2, 3, 0, 0, 0, None, None) for n in range(count)]

    with StubReranker(behaviour) as stub:
        trial = Trial(level, tuple((record, BODY) for record in planned), seed=1)
        with_client(stub.base_url, lambda client: send_trial(trial, client, records.append), timeout)
    return records


def most_at_once(records):
    moments = sorted([(r.t_send, 1) for r in records] + [(r.t_done, -1) for r in records])
    running, most = 0, 0
    for _, change in moments:
        running += change
        most = max(most, running)
    return most


def test_closed_level_has_one_request_per_client():
    records = sent(LoadLevel.closed(3), 12, Behaviour(fixed_s=0.04, serial=False))
    assert [r.index for r in sorted(records, key=lambda r: r.t_sched)] == list(range(12))
    assert most_at_once(records) == 3
    assert all(r.t_sched <= r.t_send < r.t_done for r in records)
    assert all((r.status, r.tokens, r.error) == (200, 9, "") for r in records)


def test_constant_level_does_not_wait_for_responses():
    """A server of 0.06 s gets a request every 0.02 s: latency includes the time in the queue."""
    records = sorted(sent(LoadLevel.constant(50), 12, Behaviour(fixed_s=0.06)), key=lambda r: r.t_sched)
    assert {b.t_sched - a.t_sched for a, b in pairwise(records)} == {20_000_000}
    assert records[-1].latency > 3 * records[0].latency
    assert most_at_once(records) > 3


def test_a_burst_waits_for_the_one_before():
    records = sent(LoadLevel.burst(4), 8, Behaviour(fixed_s=0.02))
    due = sorted({r.t_sched for r in records})
    assert len(due) == 2
    first = [r for r in records if r.t_sched == due[0]]
    assert len(first) == 4
    assert max(r.t_done for r in first) <= due[1]


def test_failures_are_recorded_with_their_reason():
    records = sent(LoadLevel.closed(1), 6, Behaviour(fail_every=3, fail_status=503))
    assert [r.status for r in records] == [200, 200, 503, 200, 200, 503]
    assert records[2].error.startswith("HTTP 503")


def test_timeout_is_an_error():
    records = sent(LoadLevel.closed(1), 2, Behaviour(fixed_s=30, serial=False), timeout=0.1)
    assert all(r.error.startswith("timeout: ") for r in records)
    assert all(0.1 <= r.service < 30 for r in records)


def test_a_response_without_a_document_is_an_error():
    (record,) = sent(LoadLevel.closed(1), 1, Behaviour(missing=1))
    assert record.status == 200
    assert record.error.startswith("response: ")


def test_request_is_that_of_ragflow():
    with StubReranker() as stub:
        response = with_client(f"{stub.base_url}/", lambda client: client.post(BODY, 2))
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
    assert response.scores == (1.0, 0.0)
    assert "水泵".encode() in wire.encode("m", "水泵", ("a",))


@given(st.floats(0.1, 100), st.integers(1, 200), st.integers(0, 9))
def test_poisson_arrivals_are_repeatable_and_increase(rate, count, seed):
    due = due_times(LoadLevel.poisson(rate), count, seed)
    assert len(due) == count
    assert due[0] == 0
    assert due == sorted(due) == due_times(LoadLevel.poisson(rate), count, seed)


def test_poisson_arrivals_have_their_rate():
    due = due_times(LoadLevel.poisson(20), 4000, seed=1)
    gaps = [b - a for a, b in pairwise(due)]
    mean = sum(gaps) / len(gaps)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert mean == pytest.approx(50e6, rel=0.05)
    assert spread == pytest.approx(mean, rel=0.1)
    assert due_times(LoadLevel.poisson(20), 9, seed=2) != due[:9]


def test_names_of_levels():
    levels = (LoadLevel.closed(4), LoadLevel.poisson(0.5), LoadLevel.constant(2), LoadLevel.burst(8))
    assert [level.name for level in levels] == ["closed-4", "poisson-0.5", "constant-2", "burst-8"]
    assert [level.clients for level in levels] == [4, None, None, None]


def test_repeats_are_interleaved_in_a_seeded_order():
    levels = tuple(LoadLevel.closed(clients) for clients in (1, 2, 3, 4, 5))
    order = trial_order(levels, 3, seed=4)
    assert order == trial_order(levels, 3, seed=4) != trial_order(levels, 3, seed=5)
    assert [repeat for _, repeat in order] == [0] * 5 + [1] * 5 + [2] * 5
    rounds = [[level for level, repeat in order if repeat == number] for number in range(3)]
    assert all(set(order) == set(levels) for order in rounds)
    assert rounds[0] != rounds[1]


def checked(behaviour):
    with StubReranker(behaviour) as stub:
        return with_client(stub.base_url, lambda client: check_order(client, OrderReport()))


@pytest.mark.parametrize(("order", "right"), [("right", True), ("wrong", False), ("constant", False)])
def test_order_check(order, right):
    result = checked(Behaviour(order=order))
    assert result.right is right
    assert len(result.scores) == len(OrderReport().documents)


def test_scores_of_an_order_check_are_in_the_order_of_its_documents():
    scores = checked(Behaviour(order="right")).scores
    assert max(scores) == scores[OrderReport().best]


@pytest.mark.parametrize("scorer", ["constant", "shuffled", "random", "input-order", "nan", "inverted"])
def test_chance_and_position_do_not_pass_the_order_check(scorer):
    """One response in five is right by chance; five with another document first are not."""
    assert not any(checked(Behaviour(scorer=scorer, seed=seed)).right for seed in range(4))


@pytest.mark.parametrize("kind", ["closed", "poisson", "constant", "burst"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, 1e-300, 10_001, 10**400])
def test_a_level_has_bounds(kind, value):
    """JSON has no infinity: a run with such a level could not be read again."""
    with pytest.raises(BenchError) as caught:
        LoadLevel(kind, value)
    assert caught.value.code == "load-refused"


def test_clients_are_an_integer_and_a_level_has_a_request():
    for arguments in (("closed", 1.5), ("burst", 1.5), ("poisson", 1, 0)):
        with pytest.raises(BenchError):
            LoadLevel(*arguments)
