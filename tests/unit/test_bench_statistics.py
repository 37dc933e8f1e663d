"""Statistics, verdicts, comparisons and charts of simulated runs, whose correct result is known."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from ragops.bench import compare_runs, judge, plots, series
from ragops.bench.records import (
    Gemm,
    GemmPeak,
    LoadLevel,
    OrderReport,
    OrderResult,
    Provenance,
    RequestRecord,
    Run,
    RunInfo,
    Sample,
    WorkloadInfo,
)
from ragops.bench.series import resource_usage
from ragops.bench.statistics import disturbances, frame, level_statistics, rates, summary
from ragops.errors import BenchError

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


def simulated(requests, levels=ONE, origin=ORIGIN, order=ORDER, sha="a" * 64, samples=()):
    workload = replace(WORKLOAD, sha256=sha)
    info = replace(INFO, workload=workload, levels=tuple(levels), provenance=origin, order=order)
    return Run(Path("results/20260101T000000Z-simulated"), info, tuple(requests), tuple(samples))


def one_by_one(times, *, level="closed-1", repeat=0, sizes=(64,)):
    """Requests one after the other, each taking its time."""
    now, found = 0.0, []
    for index, taken in enumerate(times):
        documents = sizes[index % len(sizes)]
        found.append(request(now, now + taken, level=level, repeat=repeat, index=index, documents=documents))
        now += taken
    return found


def noisy(count, mean, seed=1, share=0.05):
    chance = random.Random(seed)  # noqa: S311
    return [mean * chance.gauss(1, share) for _ in range(count)]


# --- stats


def test_rates_leave_out_the_tail_in_which_a_client_has_nothing_to_send():
    """Two clients, each request 1 s; the last one is alone and says nothing about two clients."""
    turn = [request(0, 1), request(0, 1), request(1, 2), request(1, 2.001), request(2, 3)]
    assert rates(turn, clients=2).documents == pytest.approx(2 * 64, rel=0.01)
    assert rates(turn, clients=None).documents == pytest.approx(5 * 64 / 3)


def test_rates_count_the_part_of_a_warm_up_request_inside():
    turn = [request(0, 2, phase="warmup"), request(1, 3), request(2, 4), request(3, 5)]
    halves_and_wholes = 0.5 + 1 + 1 + 0.5
    assert rates(turn, clients=2).requests == pytest.approx(halves_and_wholes / 3)


def test_rates_of_open_loads_and_bursts_end_with_the_last_response():
    turn = [request(0, 1), request(0, 2), request(0, 4)]
    assert rates(turn, clients=None).requests == pytest.approx(3 / 4)


def test_failed_requests_count_as_errors_not_as_throughput():
    turn = [*one_by_one([1.0] * 5), request(5, 6, error="HTTP 500", index=5)]
    (row,) = level_statistics(simulated(turn))
    assert (row.n, row.errors) == (6, 1)
    assert row.documents_per_s == pytest.approx(5 * 64 / 6)
    assert row.tokens_per_s == pytest.approx(5 * 64 * 250 / 6)
    assert row.latency[0].value == 1.0
    assert math.isinf(row.latency[0].high)


def test_latency_counts_from_when_a_request_was_due():
    late = [replace(r, t_sched=r.t_sched - 2_000_000_000) for r in one_by_one([1.0] * 10)]
    (row,) = level_statistics(simulated(late))
    assert row.latency[0].value == pytest.approx(3.0)
    assert row.service[0].value == pytest.approx(1.0)


def test_warm_up_and_cancelled_requests_are_excluded():
    extra = [request(0, 9, phase="warmup"), request(0, 9, error="cancelled")]
    assert level_statistics(simulated([*extra, *one_by_one([1.0] * 8)]))[0].n == 8
    assert level_statistics(simulated(extra)) == ()


def test_the_time_between_sessions_is_excluded():
    """A run that was cut short and continued an hour later did not become slower by it."""
    first, second = one_by_one([1.0] * 5), one_by_one([1.0] * 5)
    late = [
        replace(r, session=1, index=5 + r.index, **{t: getattr(r, t) + 3600 * 10**9 for t in TIMES})
        for r in second
    ]
    (row,) = level_statistics(simulated([*first, *late]))
    assert (row.n, row.requests_per_s) == (10, pytest.approx(1.0))


TIMES = ("t_sched", "t_send", "t_done")


def looked(second, **counters):
    return Sample(round(second * 1e9), **counters)


def counting(tokens_per_call=16000, cached=0.0, calls=10, busy=0, start=100):
    """Samples before and after ten requests of a second each, and one in between."""
    had = int(cached * tokens_per_call * calls)
    return [
        looked(0, calls=start, prompt_tokens=7, cached_tokens=3, cpu_ns=0, host_busy_ns=0, client_ns=0),
        looked(5, calls=start + 4),
        looked(
            10.5,
            calls=start + calls,
            prompt_tokens=7 + tokens_per_call * calls,
            cached_tokens=3 + had,
            cpu_ns=20 * 10**9,
            host_busy_ns=20 * 10**9 + busy,
            client_ns=0,
            host_stolen_ns=0,
            throttled_ns=0,
        ),
    ]


def test_computed_tokens_exclude_cached_tokens():
    (row,) = level_statistics(simulated(one_by_one([1.0] * 10), samples=counting(cached=0.25)))
    assert row.cached_fraction == pytest.approx(0.25)
    assert row.tokens_per_s == pytest.approx(16000)
    assert row.computed_tokens_per_s == pytest.approx(12000)
    assert row.limit_fraction is None
    (row,) = level_statistics(simulated(one_by_one([1.0] * 10)))
    assert (row.cached_fraction, row.computed_tokens_per_s) == (None, None)


def test_fraction_of_the_gemm_limit():
    limit = GemmPeak(
        "bfloat16", 0.88e9, 2, (Gemm("float32", 0.4), Gemm("bfloat16", 17.6), Gemm("int8", None, "x"))
    )
    assert limit.tokens_per_s == pytest.approx(20000)
    run = simulated(one_by_one([1.0] * 10), samples=counting(cached=0.25))
    run = replace(run, info=replace(run.info, limit=limit))
    assert level_statistics(run)[0].limit_fraction == pytest.approx(0.6)
    assert summary(run).loc["closed-1", "fraction of limit"] == 0.6
    assert replace(limit, served="int8").tokens_per_s is None


def test_a_second_client_is_detected_from_the_server_counters():
    turn = one_by_one([1.0] * 10)
    assert disturbances(simulated(turn, samples=counting())) == ()
    strange = simulated(turn, samples=counting(calls=13))
    assert ["second client" in line and "3 requests" in line for line in disturbances(strange)] == [True]
    assert "second client" in judge(strange).sentence


def test_other_processes_are_detected_from_cpu_time():
    turn = one_by_one([1.0] * 10)
    assert disturbances(simulated(turn, samples=counting(busy=10**9))) == ()
    assert disturbances(simulated(turn, samples=counting(busy=4 * 10**9))) == (
        "other processes used up to 0.4 cores",
    )


def test_throttling_steal_and_a_restart_are_reported():
    first, _, last = counting()
    turn = one_by_one([1.0] * 10)
    slowed = replace(last, throttled_ns=2 * 10**9, host_stolen_ns=10**9)
    start = replace(first, throttled_ns=0, host_stolen_ns=0)
    found = disturbances(simulated(turn, samples=[start, slowed]))
    assert ["0.10 cores" in found[0], "throttled for 2.0 s" in found[1]] == [True, True]
    again = [replace(first, calls=500), last]
    assert disturbances(simulated(turn, samples=again)) == ("the reranker was restarted during the run",)


def test_summary_has_percentiles_with_intervals_only():
    levels = (LoadLevel.closed(1), LoadLevel.closed(4))
    table = summary(simulated(one_by_one(noisy(120, 2.0)), levels))
    assert list(table.index) == ["closed-1"]
    row = table.loc["closed-1"]
    assert (row["n"], row["errors"]) == (120, 0)
    assert row["p99"] == "not enough requests (120 of 368)"
    assert row["p95"].startswith("2.")
    assert " to " in row["p95 from sending"]
    assert row["documents/s"] == pytest.approx(32, rel=0.02)


def test_summary_of_no_requests_is_empty():
    assert summary(simulated([])).empty


def test_frame_has_a_row_for_every_request():
    table = frame(simulated([request(0, 9, phase="warmup"), *one_by_one([1.0, 2.0])]))
    assert list(table["phase"]) == ["warmup", "measure", "measure"]
    assert list(table["latency"]) == [9.0, 1.0, 2.0]
    assert len(frame(simulated([]))) == 0


# --- verdict


def test_run_that_fits():
    found = judge(simulated(one_by_one(noisy(400, 9.0))))
    assert found.fits is True
    assert "requests fit RAGFlow v0.27.0's timeout of 30 s. p99 is " in found.sentence
    assert "n=400" in found.sentence
    assert "all requests have the same number of tokens" in found.notes[0]


def test_run_that_does_not_fit_and_inconclusive_run():
    assert judge(simulated(one_by_one(noisy(100, 40.0)))).fits is False
    assert "do not fit" in judge(simulated(one_by_one(noisy(100, 40.0)))).sentence
    edge = judge(simulated(one_by_one(noisy(100, 28.0))))
    assert edge.fits is None
    assert "inconclusive" in edge.sentence
    assert "p99 needs 368 requests" in edge.sentence


def test_too_few_requests_for_a_verdict():
    found = judge(simulated(one_by_one([9.0, 10.0, 12.5])))
    assert found.fits is None
    assert "3 of 72" in found.sentence
    assert "12.5 s" in found.sentence


def test_failed_requests_do_not_fit():
    turn = one_by_one(noisy(100, 9.0))
    failed = [replace(r, error="timeout: no answer in 30 s") if r.index % 5 == 0 else r for r in turn]
    found = judge(simulated(failed))
    assert found.fits is False
    assert "20 of 100 failed" in found.sentence


def test_another_timeout():
    assert judge(simulated(one_by_one(noisy(100, 40.0))), timeout=300).fits is True


def test_line_of_time_against_tokens_and_the_documents_that_fit():
    sizes = (64, 66, 70, 90)
    times = [0.5 + 0.0005 * 250 * sizes[index % 4] for index in range(80)]
    found = judge(simulated(one_by_one(times, sizes=sizes)))
    assert found.service.fixed_s == pytest.approx(0.5)
    assert found.service.per_token_s == pytest.approx(0.0005)
    assert found.service.residual_s == pytest.approx(0, abs=1e-6)
    assert found.tokens_per_document == 250
    assert found.largest_documents == pytest.approx((30 / 1.1 - 0.5) / 0.125, abs=1)
    assert found.is_extrapolated
    assert str(found.service).startswith("t = 0.500 ± 0.000 s + 0.5 ± ")


def test_the_margin_reduces_the_estimated_documents():
    sizes = (64, 66, 70, 90)
    chance = random.Random(2)  # noqa: S311
    times = [0.5 + 0.0005 * 250 * sizes[index % 4] + chance.gauss(0, 1) for index in range(80)]
    found = judge(simulated(one_by_one(times, sizes=sizes)))
    assert found.service.residual_s == pytest.approx(1, rel=0.25)
    free = (30 - found.service.fixed_s) / found.service.per_token_s / 250
    assert found.largest_documents < free - 5


def test_no_line_where_time_does_not_rise_with_tokens():
    times = [10 - documents / 10 for documents in (64, 66, 70, 90)] * 5
    found = judge(simulated(one_by_one(times, sizes=(64, 66, 70, 90))))
    assert (found.service, found.largest_documents) == (None, None)
    assert "time does not rise with tokens" in found.notes[0]


def test_the_highest_percentile_with_an_interval_decides():
    """p95 fits, but ten of 400 requests took too long, so p99 does not."""
    slow = [50.0 if index % 40 == 0 else taken for index, taken in enumerate(noisy(400, 5.0))]
    found = judge(simulated(one_by_one(slow)))
    assert found.p95.high < 30
    assert found.fits is False


def test_level_with_one_client_is_judged():
    levels = (LoadLevel.closed(4), LoadLevel.closed(1))
    both = one_by_one(noisy(80, 20.0), level="closed-4") + one_by_one(noisy(80, 5.0))
    assert judge(simulated(both, levels)).level == LoadLevel.closed(1)
    rising = [20.0, 28.0] * 40
    only = judge(simulated(one_by_one(rising, level="closed-4", sizes=(64, 90)), levels))
    assert only.level == LoadLevel.closed(4)
    assert only.sentence.startswith("With 4 clients,")
    assert only.service is None


def test_notes_are_in_the_sentence():
    origin = replace(ORIGIN, model_is_stand_in="random weights", client_is_stand_in="the demo client")
    run = simulated(
        one_by_one(noisy(80, 5.0)), origin=origin, order=OrderReport("q", ("a",), 0, skipped="random weights")
    )
    run = replace(run, info=replace(run.info, complete=False, reason="stopped by the user"))
    sentence = judge(run).sentence
    for part in (
        "Substitute model: random weights.",
        "Substitute client: the demo client.",
        "Incomplete: stopped",
    ):
        assert part in sentence
    assert "rder of the scores not checked: random weights" in sentence
    cut = replace(run.info, workload=replace(WORKLOAD, cut_to=110))
    assert "ighter than RAGFlow's load: pairs cut to 110 words" in judge(replace(run, info=cut)).sentence


def test_wrong_scores_do_not_fit():
    wrong = replace(ORDER, after=OrderResult(right=False, scores=(0.1, 0.2)))
    found = judge(simulated(one_by_one(noisy(80, 5.0)), order=wrong))
    assert found.fits is False
    assert found.sentence.startswith("The scores were wrong")


def test_no_verdict_without_requests():
    with pytest.raises(BenchError, match="no measured request"):
        judge(simulated([]))


# --- compare


def test_a_real_difference_is_distinct_from_noise():
    a = simulated(one_by_one(noisy(60, 2.0, seed=1)))
    faster = compare_runs(a, simulated(one_by_one(noisy(60, 1.5, seed=2)))).ratios
    assert [row.metric for row in faster] == ["documents/s", "p50 s"]
    assert faster[0].ratio == pytest.approx(4 / 3, rel=0.03)
    assert all(row.is_distinct for row in faster)
    same = compare_runs(a, simulated(one_by_one(noisy(60, 2.0, seed=3)))).ratios
    assert not any(row.is_distinct for row in same)
    assert str(same[0]).startswith("~ ")


def test_intervals_contain_the_true_ratio():
    held = 0
    for seed in range(20):
        a, b = (simulated(one_by_one(noisy(30, mean, seed=seed * 2 + mean))) for mean in (2, 3))
        row = compare_runs(a, b).ratios[0]
        held += row.low < 2 / 3 < row.high
    assert held >= 16


def test_requests_are_compared_in_pairs():
    """Sizes differ a hundredfold, yet B takes 1.2 times as long for each of them."""
    chance = random.Random(3)  # noqa: S311
    times = [10 ** chance.uniform(0, 2) for _ in range(40)]
    row = compare_runs(
        simulated(one_by_one(times)), simulated(one_by_one([1.2 * taken for taken in times]))
    ).ratios[1]
    assert (row.low, row.ratio, row.high) == pytest.approx((1.2, 1.2, 1.2))
    assert row.is_distinct


def test_small_differences_are_not_distinct():
    a = simulated(one_by_one(noisy(200, 2.0, share=0.001)))
    row = compare_runs(a, simulated(one_by_one(noisy(200, 2.06, share=0.001)))).ratios[1]
    assert row.low > 1
    assert not row.is_distinct


def test_repeats_are_the_unit_when_there_are_five():
    """One slow repeat in B: drawn by requests it would look certain, drawn by repeats it does not."""

    def repeats(means, seed):
        return [r for n, mean in enumerate(means) for r in one_by_one(noisy(20, mean, seed + n), repeat=n)]

    a = simulated(repeats([2.0] * 5, 1))
    drifting = compare_runs(a, simulated(repeats([2.0, 2.0, 2.0, 2.0, 6.0], 20))).ratios[0]
    assert (drifting.unit, drifting.n) == ("repeats", 5)
    assert not drifting.is_distinct
    drifted = simulated(repeats([2.0, 2.0, 2.0, 2.0, 6.0], 40))
    both = compare_runs(simulated(repeats([2.0, 2.0, 2.0, 2.0, 6.0], 20)), drifted).ratios[0]
    assert both.low < 0.8
    assert both.high > 1.2
    steady = compare_runs(a, simulated(repeats([3.0] * 5, 20))).ratios[0]
    assert steady.is_distinct
    assert compare_runs(a, simulated(one_by_one(noisy(20, 2.0)))).ratios[0].unit == "requests"


def test_different_workloads_are_refused():
    with pytest.raises(BenchError, match="different workloads") as caught:
        compare_runs(simulated(one_by_one([1.0])), simulated(one_by_one([1.0]), sha="b" * 64))
    assert "aaaaaaaaaaaa" in caught.value.evidence


def test_no_common_level_is_refused():
    with pytest.raises(BenchError, match="no measured level in common"):
        compare_runs(
            simulated(one_by_one([1.0])),
            simulated(one_by_one([1.0], level="closed-2"), (LoadLevel.closed(2),)),
        )


def test_too_few_requests_make_no_interval():
    row = compare_runs(simulated(one_by_one([1.0, 1.0])), simulated(one_by_one([9.0, 9.0]))).ratios[0]
    assert str(row) == "~ 0.111 (no interval: 2 of 5 requests)"


def test_differences_of_provenance_are_listed():
    other = replace(ORIGIN, vllm="0.33.0", launch_arguments=("--dtype", "float32"))
    found = compare_runs(simulated(one_by_one([1.0] * 8)), simulated(one_by_one([1.0] * 8), origin=other))
    assert [one.field for one in found.differences] == ["launch_arguments", "vllm"]
    failed = simulated([*one_by_one([1.0] * 8), request(9, 10, error="HTTP 500", index=8)])
    (counted,) = compare_runs(failed, failed).failures
    assert str(counted) == "closed-1: 1 of 9 failed in A, 1 of 9 in B"
    assert not counted.is_more
    (row,) = [row for row in found.table().to_json() if row["metric"] == "p50 s"]
    assert row.keys() == {"level", "metric", "A", "B", "B / A", "resampled"}


# --- plots


@pytest.fixture(scope="module")
def drawn():
    levels = (LoadLevel.closed(1), LoadLevel.closed(2), LoadLevel.poisson(2))
    turns = [r for level in levels for r in one_by_one(noisy(80, 16.0), level=level.name, sizes=(8, 16, 32))]
    bad = [request(401, 431, error="timeout"), request(431, 432, error="cancelled")]
    warm = [request(0, 4, phase="warmup")]
    samples = [Sample(number * 10**9, number * 10**9, 0, 0, 2**30, 3, 4) for number in range(5)]
    return simulated([*warm, *turns, *bad], levels, samples=samples)


def texts(figure):
    found = [text.get_text() for text in figure.texts]
    for ax in figure.axes:
        found += [ax.get_xlabel(), ax.get_ylabel(), *(text.get_text() for text in ax.texts)]
        found += [text.get_text() for text in (ax.get_legend().get_texts() if ax.get_legend() else ())]
    for legend in figure.legends:
        found += [text.get_text() for text in legend.get_texts()]
    return "\n".join(found)


@pytest.mark.parametrize(
    ("draw", "parts"),
    [
        (plots.latency_by_size, ("documents in a request (n=80)", "latency (s)", "words in a document")),
        (plots.throughput, ("documents/s", "load (n=241 requests)", "p95", "2 clients", ": the knee")),
        (
            plots.percentile_curve,
            ("percentile", "latency (s)", "1 client (n=81, 1 failed)", "timeout 30 s"),
        ),
        (
            plots.timeline,
            ("time since the start (min), n=243", "warm-up (n=1)", "failed (n=1)", "cancelled (n=1)"),
        ),
        (plots.resources, ("CPU\n(cores)", "memory\n(GiB)", "documents", "waiting", "n=5 samples")),
    ],
)
def test_charts_have_labels(drawn, draw, parts, tmp_path):
    figure = draw(drawn)
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "figure.svg")
    assert figure.get_facecolor() == (1, 1, 1, 1)
    shown = texts(figure)
    for part in (*parts, "two cores · small · image 0123456789ab · run 20260101T000000Z-simulated"):
        assert part in shown


def test_resource_usage_has_mean_and_maximum_of_each_level():
    samples = [Sample(n * 10**9, n * 2 * 10**9, 0, 0, (n + 1) * 2**30, n, 4) for n in range(5)]
    found = resource_usage(
        simulated([request(1, 3), request(3, 3.5)], (LoadLevel.closed(1),), samples=samples)
    )
    assert list(found.index) == ["closed-1"]
    row = found.loc["closed-1"]
    assert row["CPU (cores) in use, mean"] == row["CPU (cores) in use, max"] == 2
    assert (row["memory (GiB) in use, mean"], row["memory (GiB) in use, max"]) == (3, 4)
    assert (row["documents running, mean"], row["documents waiting, max"]) == (2, 4)
    assert resource_usage(simulated([])).empty


def test_substitutes_are_in_the_caption(drawn):
    origin = replace(ORIGIN, model_is_stand_in="random weights", client_is_stand_in="the demo client")
    caption = series.caption(replace(drawn, info=replace(drawn.info, provenance=origin, complete=False)), 125)
    assert caption.splitlines()[1].startswith(
        "substitute model: random weights; substitute client: the demo client; inc"
    )


def test_charts_without_data_are_errors():
    bare = simulated(one_by_one([1.0] * 8))
    with pytest.raises(BenchError, match="no measured request"):
        plots.throughput(simulated([]))
    with pytest.raises(BenchError, match="no request"):
        plots.timeline(simulated([]))
    with pytest.raises(BenchError, match="too few samples"):
        plots.resources(bare)
    with pytest.raises(BenchError, match="no grid of sizes"):
        plots.latency_map(bare)
    with pytest.raises(BenchError, match="no successful request"):
        plots.latency_by_size(simulated([request(0, 1, error="HTTP 500")]))


def test_cpu_is_the_rate_of_its_counter():
    values = ((0, 0), (1, 2), (2, 2), (3, 1), (4, 2))
    run = simulated([], samples=[Sample(t * 10**9, cpu * 10**9) for t, cpu in values])
    assert series.counter_rate(run, "cpu_ns") == ((1.0, 2.0), (2.0, 0.0), (4.0, 1.0))
    assert series.gauge(run, "memory_bytes") == ()


def test_samples_close_to_each_other_give_no_cpu_peak():
    """The engine answers late: a second look at the end of a pass saw a second of work in no time."""
    values = ((0.0, 0.0), (1.0, 1.8), (1.1, 2.9), (2.0, 3.8))
    run = simulated([], samples=[Sample(int(t * 1e9), int(cpu * 1e9)) for t, cpu in values])
    assert [cores for _, cores in series.counter_rate(run, "cpu_ns")] == [1.8, 2.0]


def test_repeated_sizes_have_a_line():
    records = [request(0, documents, documents=documents) for documents in (8, 16) for _ in range(2)]
    (line,) = series.latency_series(records, "documents")
    assert (line.name, line.line) == ("200 words", ((8, 8.0), (16, 16.0)))
    spread = [request(0, 1, documents=documents) for documents in range(1, 40)]
    (line,) = series.latency_series(spread, "words")
    assert (line.name, line.line) == ("all requests", ())
