"""Statistics, tables and charts of simulated runs, whose correct result is known."""

import math
import re
from dataclasses import replace

import pytest

from ragops.bench import frame, judge, plots, resource_usage, summary
from ragops.bench.records import Gemm, GemmPeak, LoadLevel, Sample
from ragops.bench.statistics import disturbances, level_statistics, load_name, panels, rates
from ragops.errors import BenchError
from tests.support.runs import ORIGIN, noisy, request, sequential, simulated, through_gateway

SECOND = 10**9


@pytest.mark.parametrize(
    ("trial", "clients", "requests_per_s"),
    [
        # Two clients, each request 1 s; the last one is alone and says nothing about two clients.
        ([request(0, 1), request(0, 1), request(1, 2), request(1, 2.001), request(2, 3)], 2, 2),
        ([request(0, 1), request(0, 1), request(1, 2), request(1, 2.001), request(2, 3)], None, 5 / 3),
        # A warm-up request counts by its part inside: two halves and two wholes in 3 s.
        ([request(0, 2, phase="warmup"), request(1, 3), request(2, 4), request(3, 5)], 2, 1),
        # Open loads and bursts end with the last response.
        ([request(0, 1), request(0, 2), request(0, 4)], None, 3 / 4),
    ],
)
def test_rates(trial, clients, requests_per_s):
    result = rates(trial, clients)
    assert result.requests == pytest.approx(requests_per_s, rel=0.01)
    assert result.documents == pytest.approx(64 * result.requests)


def test_failed_requests_count_as_errors_not_as_throughput():
    trial = [*sequential([1.0] * 5), request(5, 6, error="HTTP 500", index=5)]
    (row,) = level_statistics(simulated(trial))
    assert (row.n, row.errors) == (6, 1)
    assert row.documents_per_s == pytest.approx(5 * 64 / 6)
    assert row.tokens_per_s == pytest.approx(5 * 64 * 250 / 6)
    assert (row.latency[0].value, row.latency[0].high) == (1.0, math.inf)


def test_the_gateway_is_part_of_the_statistics_where_there_is_one():
    trial = through_gateway([2.0] * 8, ranked=48, cached=16, own_ms=2.5)
    run = simulated([*trial, request(16, 17, error="HTTP 503", index=8)])
    (row,) = level_statistics(run)
    assert (row.ranked_fraction, row.cache_hits, row.gateway_ms) == (0.75, 0.25, 2.5)
    assert row.documents_per_s == pytest.approx(8 * 48 / 17)
    assert summary(run).to_json()[0]["gateway"] == "75% ranked\n25% cached\nadds 2.5 ms"
    (direct,) = summary(simulated(sequential([2.0] * 8))).to_json()
    assert "gateway" not in direct


def test_latency_counts_from_when_a_request_was_due():
    late = [replace(r, t_sched=r.t_sched - 2 * SECOND) for r in sequential([1.0] * 10)]
    (row,) = level_statistics(simulated(late))
    assert (row.latency[0].value, row.service[0].value) == pytest.approx((3.0, 1.0))


def test_warm_up_and_cancelled_requests_are_excluded():
    extra = [request(0, 9, phase="warmup"), request(0, 9, error="cancelled")]
    assert level_statistics(simulated([*extra, *sequential([1.0] * 8)]))[0].n == 8
    assert level_statistics(simulated(extra)) == ()


def test_the_time_between_sessions_is_excluded():
    """A run that was stopped and resumed an hour later did not become slower by it."""
    hour = 3600 * SECOND
    late = [
        replace(r, session=1, t_sched=r.t_sched + hour, t_send=r.t_send + hour, t_done=r.t_done + hour)
        for r in sequential([1.0] * 5)
    ]
    (row,) = level_statistics(simulated([*sequential([1.0] * 5), *late]))
    assert (row.n, row.requests_per_s) == (10, pytest.approx(1.0))


@pytest.mark.parametrize(
    ("level", "name"),
    [
        (LoadLevel.closed(1), "1 client"),
        (LoadLevel.closed(4), "4 clients"),
        (LoadLevel.poisson(0.5), "0.5/s at random"),
        (LoadLevel.constant(2), "2/s evenly"),
        (LoadLevel.burst(8), "8 at once"),
    ],
)
def test_loads_have_names_in_words(level, name):
    assert load_name(level.name) == name


# --- counters of the server and the machine

FIRST = Sample(0, calls=100, prompt_tokens=7, cached_tokens=3, cpu_ns=0, host_busy_ns=0, client_ns=0)
LAST = replace(
    FIRST,
    t=round(10.5 * SECOND),
    calls=110,
    prompt_tokens=160_007,
    cached_tokens=40_003,
    cpu_ns=20 * SECOND,
    host_busy_ns=20 * SECOND,
)
"""Ten requests of 16,000 tokens later, a quarter of them cached."""


def counted(first=FIRST, **changes):
    """A run of ten requests of a second with samples before and after, and one in between."""
    between = Sample(5 * SECOND, calls=104)
    return simulated(sequential([1.0] * 10), samples=(first, between, replace(LAST, **changes)))


def test_computed_tokens_exclude_cached_tokens():
    (row,) = level_statistics(counted())
    assert (row.cached_fraction, row.limit_fraction) == (0.25, None)
    assert (row.tokens_per_s, row.computed_tokens_per_s) == pytest.approx((16000, 12000))
    (row,) = level_statistics(simulated(sequential([1.0] * 10)))
    assert (row.cached_fraction, row.computed_tokens_per_s) == (None, None)


def test_fraction_of_the_gemm_limit():
    gemms = (Gemm("float32", 0.4), Gemm("bfloat16", 17.6), Gemm("int8", None, "x"))
    limit = GemmPeak("bfloat16", 0.88e9, 2, gemms)
    assert limit.tokens_per_s == pytest.approx(20000)
    assert replace(limit, served="int8").tokens_per_s is None
    run = counted()
    run = replace(run, info=replace(run.info, limit=limit))
    assert level_statistics(run)[0].limit_fraction == pytest.approx(0.6)
    (row,) = summary(run).to_json()
    tokens = "16000\n12000 computed (25% cached)\n60% of the machine's GEMM limit"
    assert row["tokens/s"] == tokens


@pytest.mark.parametrize(
    ("run", "parts"),
    [
        (counted(), []),
        (counted(host_busy_ns=21 * SECOND), []),
        (counted(calls=113), ["second client", "3 requests"]),
        (counted(host_busy_ns=24 * SECOND), ["other processes used up to 0.4 cores"]),
        (counted(replace(FIRST, host_stolen_ns=0), host_stolen_ns=SECOND), ["steal time", "0.10 cores"]),
        (counted(replace(FIRST, throttled_ns=0), throttled_ns=2 * SECOND), ["throttled for 2.0 s"]),
        (counted(replace(FIRST, calls=500)), ["the reranker was restarted during the run"]),
    ],
)
def test_disturbances_are_detected_from_the_counters(run, parts):
    lines = disturbances(run)
    assert len(lines) == bool(parts)
    assert all(part in lines[0] and part in "; ".join(judge(run).notes) for part in parts)


# --- tables


def test_summary_has_percentiles_with_intervals_only():
    levels = (LoadLevel.closed(1), LoadLevel.closed(4))
    (row,) = summary(simulated(sequential(noisy(120, 2.0)), levels)).to_json()
    assert (row["load"], row["requests"], row["failed"], row["p99"]) == (
        "1 client",
        "120",
        "0",
        "needs 368 requests",
    )
    assert row["p95"].startswith("2.")
    assert re.fullmatch(r"2\.\d\d s \[2\.\d\d, 2\.\d\d\]", row["p95"])
    assert float(row["documents/s"]) == pytest.approx(32, rel=0.02)


def test_frame_has_a_row_for_every_request():
    table = frame(simulated([request(0, 9, phase="warmup"), *sequential([1.0, 2.0])]))
    assert list(table["phase"]) == ["warmup", "measure", "measure"]
    assert list(table["latency"]) == [9.0, 1.0, 2.0]
    assert list(table["sent"]) == [0.0, 0.0, 1.0]


def test_tables_of_no_requests_are_empty():
    assert summary(simulated([])).rows == ()
    assert len(frame(simulated([]))) == len(resource_usage(simulated([]))) == 0


def test_resource_usage_has_mean_and_maximum_of_each_level():
    samples = [Sample(n * SECOND, n * 2 * SECOND, 0, (n + 1) * 2**30, n, 4) for n in range(5)]
    table = resource_usage(simulated([request(1, 3), request(3, 3.5)], samples=samples))
    assert list(table.index) == ["closed-1"]
    row = table.loc["closed-1"]
    assert row["CPU (cores) in use, mean"] == row["CPU (cores) in use, max"] == 2
    assert (row["memory (GiB) in use, mean"], row["memory (GiB) in use, max"]) == (3, 4)
    assert (row["documents running, mean"], row["documents waiting, max"]) == (2, 4)


@pytest.mark.parametrize(
    ("values", "cores"),
    [
        (((0, 0), (1, 2), (2, 2), (3, 1), (4, 2)), {1: 2.0, 2: 0.0, 4: 1.0}),  # it was restarted
        # The engine responds late: the third sample has a second of work in no time.
        (((0.0, 0.0), (1.0, 1.8), (1.1, 2.9), (2.0, 3.8)), {1: 1.8, 2: 2.0}),
    ],
)
def test_cpu_is_the_rate_of_its_counter(values, cores):
    run = simulated([], samples=[Sample(int(t * SECOND), int(cpu * SECOND)) for t, cpu in values])
    assert dict(panels(run)["CPU (cores)"]["in use"]) == pytest.approx(cores)


# --- charts


@pytest.fixture(scope="module")
def run():
    """Three levels with a warm-up, a failed and a cancelled request; of a substitute, and incomplete."""
    levels = (LoadLevel.closed(1), LoadLevel.closed(2), LoadLevel.poisson(2))
    records = [r for n in levels for r in sequential(noisy(80, 16.0), level=n.name, sizes=(8, 16, 32))]
    bad = [request(401, 431, error="timeout"), request(431, 432, error="cancelled")]
    samples = [Sample(number * SECOND, number * SECOND, 0, 2**30, 3, 4) for number in range(5)]
    origin = replace(ORIGIN, model_is_stand_in="random weights", client_is_stand_in="the demo client")
    made = simulated([request(0, 4, phase="warmup"), *records, *bad], levels, origin, samples=samples)
    return replace(made, info=replace(made.info, complete=False, reason="stopped"))


def texts(figure):
    artists = [*figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    return "\n".join(artist.get_text() for artist in artists)


@pytest.mark.parametrize(
    ("draw", "parts"),
    [
        (
            plots.latency_by_size,
            ("tokens in a request, all documents together (n=80)", "16 documents (n=27)"),
        ),
        (plots.size_map, ("documents in a request (n=80)", "words in a document", "Median latency in s")),
        (plots.throughput, ("documents/s", "load (n=241 requests)", "p95", "2\nclients")),
        (plots.percentile_curve, ("percentile", "latency (s)", "1 client (n=81, 1 failed)", "timeout 30 s")),
        (
            plots.timeline,
            (
                *("time since the start (s), n=243", "warm-up (n=1)", "failed (n=1)", "cancelled (n=1)"),
                *("CPU\n(cores)", "memory\n(GiB)", "documents", "waiting"),
            ),
        ),
    ],
)
def test_charts_have_labels_and_the_provenance(run, draw, parts):
    figure = draw(run)
    assert draw(run, narrow=True).get_figwidth() < 5 < figure.get_figwidth()
    assert figure.get_facecolor() == (1, 1, 1, 1)
    caption = (
        "two cores · small · image 0123456789ab · run 20260101T000000Z-simulated\n"
        "substitute model: random weights; substitute client: the demo client; incomplete: stopped"
    )
    assert [part for part in (*parts, caption) if part not in texts(figure)] == []


@pytest.mark.parametrize("draw", [plots.throughput, plots.timeline, plots.latency_by_size, plots.size_map])
def test_charts_without_data_are_errors(draw):
    with pytest.raises(BenchError) as caught:
        draw(simulated([]))
    assert caught.value.code == "run-too-small"


@pytest.mark.parametrize("draw", [plots.percentile_curve, plots.throughput, plots.latency_by_size])
@pytest.mark.parametrize("seconds", [0.01, 1.0, 100.0])
def test_the_timeout_is_within_every_axis_of_latency(draw, seconds):
    axes = draw(simulated(sequential(noisy(80, seconds)))).axes[-1]
    bottom, top = axes.get_ylim()
    assert axes.get_yscale() == "log"
    assert bottom < min(30, seconds * 0.8)
    assert max(30, seconds) < top
    assert [line for line in axes.lines if list(line.get_ydata()) == [30, 30]]


def test_the_fit_goes_on_to_the_tokens_that_reach_the_timeout():
    def drawn(times, sizes):
        (axes,) = plots.latency_by_size(simulated(sequential(times, sizes=sizes))).axes
        return {round(float(x)) for line in axes.lines for x in line.get_xdata()}, texts(axes.figure)

    sizes = (8, 16, 32, 64)
    places, words = drawn([0.5 + 0.125 * count for count in sizes] * 3, sizes)
    assert 59_000 in places
    assert "59,000 tokens" in words
    places, words = drawn([1.0] * 8, (64,))
    assert max(places) == 64 * 250
    assert "59,000" not in words


def test_panels_that_are_always_zero_are_left_out():
    samples = [Sample(n * SECOND, n * SECOND, 0, 2**30, 0, n % 2) for n in range(5)]
    found = panels(simulated(sequential([1.0] * 4), samples=samples))
    assert {unit: list(lines) for unit, lines in found.items()} == {
        "CPU (cores)": ["in use"],
        "memory (GiB)": ["in use"],
        "documents": ["waiting"],
    }
