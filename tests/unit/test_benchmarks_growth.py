"""The simulation of many replicas: it reproduces recorded runs, and its own record."""

import asyncio
import importlib
import json
import math
from pathlib import Path
from statistics import median

import pytest

from benchmarks import growth
from benchmarks.growth import Costs, Setup, simulate
from ragops.bench.workload import ragflow, synthetic
from ragops.gateway import dispatch

ROOT = Path(__file__).parents[2]
FREE = Costs(0.0, 0.0, 0.0)
WORD = 0.001
"""Seconds of a word, so that a document of 100 words takes 0.1 s."""


def texts(requests, documents=16, words=100):
    return growth.texts_of(synthetic(requests, documents, words))


def test_an_hour_passes_at_once():
    with asyncio.Runner(loop_factory=growth.Clock) as runner:
        runner.run(asyncio.sleep(3600))
        assert runner.get_loop().time() == pytest.approx(3600)


def test_a_simulation_gives_the_same_each_time():
    setup = Setup((WORD,) * 3, 0.0, FREE, gateways=2, clients=4, between=30.0, recovery=5.0)
    assert simulate(setup, texts(20)) == simulate(setup, texts(20))


def test_a_request_is_divided_and_a_share_has_a_fixed_time():
    run = simulate(Setup((WORD,) * 4, 0.5, FREE), texts(3))
    assert run.seconds == pytest.approx((16 / 4 * 0.1 + 0.5,), rel=0.01)
    assert (run.shares, run.ranked) == (4, 1)


def test_the_deadline_cuts_a_ranking():
    run = simulate(Setup((WORD,), 0.0, FREE, deadline=1.0), texts(3))
    assert run.seconds[0] <= 1
    assert 0.4 < run.ranked < 1


def test_one_gateway_is_the_limit_and_two_lift_it():
    costs = Costs(request=100.0, share=1.0, share_of_replica=0.0)
    one, two = (
        simulate(Setup((WORD / 100,) * 8, 0.0, costs, gateways, 12), texts(62)) for gateways in (1, 2)
    )
    assert one.cpu > 0.98
    assert one.took / two.took == pytest.approx(2, rel=0.1)


def test_what_the_gateway_itself_needs_for_many_fast_shares_makes_none_of_them_slow():
    async def scenario():
        machines = [growth.Machine(WORD / 10, 0.01) for _ in range(256)]
        gateway = growth.Gateway(machines, Costs(request=1.0, share=1.0, share_of_replica=0.0), math.inf)
        await gateway.start()
        before = gateway.cpu.used
        await asyncio.gather(*(gateway.rank(request) for request in texts(20, documents=64)))
        assert gateway.cpu.used - before > 2 * dispatch.LATE_SECONDS
        return gateway.dispatcher.counts['shares_total{outcome="hedged"}']

    with asyncio.Runner(loop_factory=growth.Clock) as runner:
        assert runner.run(scenario()) == 0


def test_shares_that_end_all_the_time_hide_no_slow_one(monkeypatch):
    monkeypatch.setattr(dispatch, "SHARE_SECONDS", 0.02)

    async def scenario():
        machines = [growth.Machine(WORD / 10, 0.0) for _ in range(2)]
        gateway = growth.Gateway(machines, FREE, math.inf)
        await gateway.start()
        machines[0].word = 1e9
        sent = asyncio.ensure_future(gateway.rank(texts(1, documents=100)[0]))
        counts = gateway.dispatcher.counts
        while not counts['shares_total{outcome="hedged"}']:  # noqa: ASYNC110 - simulated time
            await asyncio.sleep(0.01)
        assert 0 < counts['shares_total{outcome="ok"}'] < 20
        assert (await sent)[1:] == (200, 100)

    with asyncio.Runner(loop_factory=growth.Clock) as runner:
        runner.run(scenario())


def test_two_gateways_meet_on_a_replica_which_computes_one_share_at_a_time():
    sent = texts(12)
    run = simulate(Setup((WORD,), 0.0, FREE, gateways=2, clients=2), sent)
    assert run.took == pytest.approx(WORD * sum(sum(request.documents) for request in sent[growth.WARMUP :]))


def test_no_request_fails_while_another_replica_is_up():
    setup = Setup((WORD,) * 4, 0.0, FREE, between=20.0, recovery=2.0)
    whole, run = simulate(setup, texts(102)), simulate(Setup((WORD,) * 4, 0.0, FREE), texts(102))
    assert set(whole.statuses) == {200}
    assert whole.took > run.took


def test_requests_fail_while_the_only_replica_is_down():
    run = simulate(Setup((WORD,), 0.0, FREE, between=20.0, recovery=20.0), texts(102))
    assert set(run.statuses) == {200, 503}


def test_costs_are_those_of_the_record():
    costs = Costs(2.0, 0.25, 0.01)
    rows = [
        {
            "shares_a_request": shares,
            "replicas": replicas,
            "requests_per_cpu_s": 1000 / costs.of(shares, replicas),
        }
        for shares, replicas in ((1, 1), (4, 4), (8, 8), (64, 64), (64, 256))
    ]
    assert growth.costs({"rows": rows}) == costs
    few = growth.costs({"rows": [row | {"replicas": 4} for row in rows[:3]]})
    assert few.share_of_replica == 0


def test_the_simulation_reproduces_the_recorded_runs():
    rows = list(growth.compare(growth.costs(growth.read("gateway_overhead"))))
    real = [abs(row.error) for row in rows if row.what.startswith("vLLM")]
    errors = [abs(row.error) for row in rows if not row.what.startswith("vLLM")]
    assert len(real) >= 3
    assert len(errors) >= 12
    assert median(real + errors) <= growth.MEDIAN_ERROR
    assert sum(error <= growth.MOST_ERROR for error in errors) >= 0.9 * len(errors)
    assert max(real) <= growth.VLLM_ERROR


@pytest.fixture(scope="module")
def record():
    return json.loads((ROOT / "docs" / "_data" / "growth.json").read_text())


def test_a_small_part_of_the_record_is_the_same_again(record):
    own = growth.texts_of(ragflow(growth.WARMUP + growth.REQUESTS, growth.SEED, window=((64, 1.0),)))
    for number, server in enumerate(growth.Server(**one) for one in record["servers"]):
        texts = own if number else growth.example_texts()
        for point in growth.grow(server, "equal", texts, Costs(**record["costs_ms"]), (1, 4, 16)):
            recorded = next(
                row
                for row in record["latency"]
                if (row["server"], row["speeds"], row["replicas"]) == (server.name, "equal", point.replicas)
            )
            assert point.p50_s == pytest.approx(recorded["p50_s"], rel=0.1)


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    return importlib.import_module("growth_records")


@pytest.mark.parametrize("part", ["latency", "throughput"])
def test_a_chart_separates_measured_from_simulated(page, part):
    text = "\n".join(page.growth(part))
    assert page.LEGEND in text
    assert "<svg" in text
    assert "measured: " in text


def test_the_page_has_the_errors_of_the_simulation(page, record):
    lines = "\n".join(page.growth("compared"))
    assert lines.count("measured") == len({row["what"] for row in record["compared"]})


@pytest.mark.parametrize("part", ["requests", "limits", "failures", "constants"])
def test_the_page_has_the_values_of_the_record(page, record, part):
    rows = record[{"requests": "latency", "limits": "throughput", "constants": "servers"}.get(part, part)]
    text = "\n".join(page.growth(part))
    assert all(row.get("server", row.get("name")) in text for row in rows)
