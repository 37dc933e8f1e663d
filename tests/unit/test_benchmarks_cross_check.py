"""What the other load generators write, as they wrote it; and the comparison that is made of it."""

import importlib
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import clients, cross_check
from benchmarks.cross_check import Turn, agrees, order, ratios
from benchmarks.reports import Summary, read_aiperf, read_ragops, read_vllm
from ragops.bench.records import load_run
from ragops.errors import BenchError

ROOT = Path(__file__).parents[2]
DATA = Path(__file__).parents[1] / "data"
RECORDED = json.loads((ROOT / "docs" / "_data" / "cross_check.json").read_text())
SEEN = Summary(requests=24, errors=0, p50_s=0.4, requests_per_s=2.0)


def test_vllm_bench_as_it_wrote_it():
    found = read_vllm((DATA / "vllm_bench.json").read_text(), 8)
    assert (found.requests, found.errors) == (8, 0)
    assert found.p50_s == pytest.approx(0.68251, abs=1e-5)
    assert found.requests_per_s == pytest.approx(1.22, abs=0.005)


def test_vllm_bench_does_not_hide_failed_requests():
    assert read_vllm((DATA / "vllm_bench.json").read_text(), 10).errors == 2


def test_aiperf_as_it_wrote_it():
    found = read_aiperf((DATA / "aiperf.json").read_text(), cpu_s=15.8)
    assert (found.requests, found.errors, found.client_cpu_s) == (8, 0, 15.8)
    assert found.p50_s == pytest.approx(1.4345, abs=1e-4)
    assert found.requests_per_s == pytest.approx(0.7438, abs=1e-4)


def test_aiperf_counts_failed_requests():
    report = json.loads((DATA / "aiperf.json").read_text())
    report["error_request_count"] = {"unit": "requests", "avg": 3.0}
    assert read_aiperf(json.dumps(report)).errors == 3


def test_a_report_that_is_not_json_is_an_error():
    with pytest.raises(BenchError, match="not JSON") as caught:
        read_aiperf("Traceback ...")
    assert caught.value.evidence == "Traceback ..."


def turns(p50=1.0, rate=1.0, rounds=3):
    for number in range(rounds):
        drift = 1 + 0.5 * number  # the machine gets slower; ratios of a round do not see it
        ours = replace(SEEN, p50_s=SEEN.p50_s * drift, requests_per_s=SEEN.requests_per_s / drift)
        other = replace(ours, p50_s=ours.p50_s * p50, requests_per_s=ours.requests_per_s * rate)
        yield Turn(number, 1, "ragops", ours, 10.0, "run")
        yield Turn(number, 1, "AIPerf", other, 10.0)


def test_ratios_are_of_one_round_and_drift_is_not_in_them():
    p50, rate = ratios(turns(p50=1.02, rate=0.97))
    assert (p50.tool, p50.clients, p50.figure, p50.rounds) == ("AIPerf", 1, "p50", 3)
    assert (p50.median, p50.least, p50.most) == pytest.approx((1.02, 1.02, 1.02))
    assert (rate.figure, rate.median) == ("requests/s", pytest.approx(0.97))


@pytest.mark.parametrize(("p50", "rate", "agree"), [(1.04, 0.96, True), (1.06, 1, False), (1, 0.94, False)])
def test_five_percent_is_the_line(p50, rate, agree):
    seen = list(turns(p50, rate))
    assert agrees(seen, ratios(seen)) is agree


def test_a_failed_request_is_no_agreement():
    seen = list(turns())
    seen[1] = replace(seen[1], seen=replace(seen[1].seen, errors=1))
    assert not agrees(seen, ratios(seen))


def test_every_second_round_goes_backwards():
    assert [order("ABC", number) for number in range(3)] == [tuple("ABC"), tuple("CBA"), tuple("ABC")]


def test_caught_texts_leave_the_warm_up_out():
    bodies = [{"query": "q", "documents": [f"d{n}"]} for n in range(5)]
    assert [one.documents for one in clients.captured_texts(bodies, 3).requests] == [
        ("d2",),
        ("d3",),
        ("d4",),
    ]
    with pytest.raises(BenchError, match="too few requests"):
        clients.captured_texts(bodies, 6)


def test_recorded_figures_are_those_of_the_recorded_runs():
    ours = [turn for turn in RECORDED["turns"] if turn["tool"] == "ragops"]
    assert len(ours) == cross_check.ROUNDS * len(cross_check.CLIENTS)
    for turn in ours:
        run = load_run(ROOT / cross_check.RESULTS / turn["run"])
        assert run.info.complete
        assert run.info.workload.sha256 == RECORDED["texts_sha256"]
        seen = read_ragops(run)
        assert (seen.requests, seen.errors) == (RECORDED["requests"], 0)
        assert seen.p50_s == pytest.approx(turn["seen"]["p50_s"], abs=1e-5)
        assert seen.requests_per_s == pytest.approx(turn["seen"]["requests_per_s"], abs=1e-5)


def test_recorded_ratios_are_those_of_its_turns():
    made = [Turn(**{**turn, "seen": Summary(**turn["seen"])}) for turn in RECORDED["turns"]]
    found = ratios(made)
    assert [one.tool for one in found] == [one["tool"] for one in RECORDED["ratios"]]
    for mine, kept in zip(found, RECORDED["ratios"], strict=True):
        assert math.isclose(mine.median, kept["median"], abs_tol=1e-4)
    assert agrees(made, found) is RECORDED["agree"]


def test_the_page_has_every_turn_and_says_what_stands_in(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    shown = importlib.import_module("comparisons").crosscheck
    assert "\n".join(shown("rounds")).count("   * - ") == len(RECORDED["turns"]) + 1
    assert "bi-encoder" in " ".join(shown("provenance"))
    within = "**The three agree within 5 %**" in " ".join(shown("verdict"))
    assert within is RECORDED["agree"]
    assert "vllm bench serve" in " ".join(shown("commands"))
