"""The list of recorded runs, and recording the load of one again."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ragops import cli
from ragops.bench import load_run
from ragops.bench.gallery import recorded_runs
from ragops.bench.report import headline
from ragops.bench.run import same_load
from ragops.bench.statistics import level_statistics
from ragops.bench.workload import Workload, regenerate
from ragops.checks.traffic import Request
from ragops.errors import BenchError

RESULTS = Path(__file__).parents[2] / "results"
RAGFLOW = load_run(RESULTS / "20261126T003644Z-amd-epyc-2cpu-ragflow").info
LOAD = load_run(RESULTS / "20261123T201612Z-intel-xeon-2cpu-load")

INFO = (LOAD.path / "run.json").read_text()


@pytest.fixture
def folder(tmp_path):
    """A run, one in a folder below, a broken one, and one without measured requests."""
    shutil.copytree(LOAD.path, tmp_path / "more" / LOAD.path.name)
    shutil.copytree(RESULTS / "20261125T205238Z-amd-epyc-2cpu-other-servers-vllm", tmp_path / "other")
    for name in ("broken", "empty"):
        shutil.copytree(LOAD.path, tmp_path / name)
    (tmp_path / "broken" / "run.json").write_text("{")
    (tmp_path / "empty" / "requests.jsonl").write_text("")
    return tmp_path


def test_every_run_of_the_results_is_in_the_list():
    rows = recorded_runs(RESULTS).rows
    assert {row.run for row in rows} == {
        f.parent.relative_to(RESULTS).as_posix() for f in RESULTS.rglob("run.json")
    }
    assert [row.started for row in rows] == sorted((row.started for row in rows), reverse=True)
    assert recorded_runs(RESULTS).problems == ()


def test_a_row_has_the_values_of_the_lightest_load(folder):
    other, row = recorded_runs(folder).rows
    (light, *_) = level_statistics(LOAD)
    assert (row.run, row.machine, row.model) == (
        f"more/{LOAD.path.name}",
        "intel-xeon-2cpu (amx)",
        "all-MiniLM-L6-v2",
    )
    assert (row.load, row.n, row.p50, row.p95) == ("1 client", 120, light.latency[0], light.latency[2])
    assert (row.state, row.timeout) == (headline(LOAD).state, 30)
    assert (other.state, other.substitute.split()[0]) == ("measured", "random")


def test_folders_that_are_no_runs_are_problems(folder):
    assert [problem.partition(":")[0] for problem in recorded_runs(folder).problems] == ["broken", "empty"]


@pytest.mark.parametrize(
    "change", [{"started": "yesterday"}, {"workload": {**json.loads(INFO)["workload"], "release": "newest"}}]
)
def test_a_run_that_was_changed_by_hand_is_a_problem(folder, change, capsys):
    (folder / "other" / "run.json").write_text(json.dumps(json.loads(INFO) | change))
    found = recorded_runs(folder)
    assert [problem.partition(":")[0] for problem in found.problems] == ["broken", "empty", "other"]
    assert [row.run for row in found.rows] == [f"more/{LOAD.path.name}"]
    assert cli.main(["report", str(folder / "other"), "--out", str(folder / "x.html")]) == 1
    assert "unexpected" not in capsys.readouterr().err


def test_a_run_without_measured_requests_concludes_nothing(folder):
    state, sentence, notes = headline(load_run(folder / "empty"))
    assert (state, "no request was measured" in sentence) == ("inconclusive", True)
    assert not any("load of another kind" in note for note in notes)


def test_the_command_lists_them(folder, capsys):
    assert cli.main(["runs", "--results", str(folder)]) == 1
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["run", "model", "load"]
    assert [line.split()[0] for line in rows] == ["other", f"more/{LOAD.path.name}", "broken:", "empty:"]
    assert cli.main(["runs", "--results", str(folder), "--json"]) == 1
    assert [row["run"] for row in json.loads(capsys.readouterr().out)["rows"]] == [
        "other",
        f"more/{LOAD.path.name}",
    ]
    for name in ("broken", "empty"):
        shutil.rmtree(folder / name)
    assert cli.main(["runs", "--results", str(folder)]) == 0


def test_an_empty_folder_has_a_hint(tmp_path, capsys):
    assert cli.main(["runs", "--results", str(tmp_path / "none")]) == 0
    assert "ragops bench records one" in capsys.readouterr().out


# --- the same load again


RECIPES = [
    file.parent.name for file in sorted(RESULTS.glob("*/run.json")) if '"recipe": "{' in file.read_text()
]


@pytest.mark.parametrize("name", RECIPES)
def test_the_load_of_every_recorded_run_can_be_sent_again(name, tmp_path):
    info = load_run(RESULTS / name).info
    config = same_load(info, tmp_path)
    assert config.workload.sha256 == info.workload.sha256
    same = ("levels", "name", "warmup", "repeats", "seed", "fresh", "timeout")
    assert [(config.__dict__[field]) for field in same] == [getattr(info, field) for field in same]
    assert (config.no_order_check, config.results) == (info.order.skipped, tmp_path)


@pytest.mark.parametrize(("substitute", "kept"), [("random weights", ""), ("", "random weights")])
def test_a_real_model_is_checked_where_a_substitute_was_not(tmp_path, substitute, kept):
    order = replace(RAGFLOW.order, skipped="random weights")
    origin = replace(RAGFLOW.provenance, model_is_stand_in=substitute)
    assert same_load(replace(RAGFLOW, order=order, provenance=origin), tmp_path).no_order_check == kept


def test_there_are_runs_with_a_recipe():
    assert len(RECIPES) > 4


def test_other_texts_are_refused():
    other = Workload("own", "own", "", None, (Request("q", ("a", "b")),))
    own = replace(RAGFLOW, workload=replace(RAGFLOW.workload, profile="own", recipe=""))
    for info, workload, part in ((RAGFLOW, other, "differs"), (own, None, "generated again")):
        with pytest.raises(BenchError, match=part) as caught:
            same_load(info, Path(), workload)
        assert "--workload FILE" in caught.value.hint
    assert same_load(own, Path(), regenerate(RAGFLOW.workload)).levels == RAGFLOW.levels
