"""The recorded table of faults: whole, and shown on the site. The live tests hold it to what they see."""

import importlib
import json
from pathlib import Path

import pytest

from ragops.checks import rules
from tests.support import faulty_scorers

ROOT = Path(__file__).parents[2]
RECORDED = json.loads((ROOT / "docs" / "faults.json").read_text(encoding="utf-8"))
FAULTS = [row for row in RECORDED["rows"] if row["layer"]]
HEALTHY = [row for row in RECORDED["rows"] if not row["layer"]]


@pytest.fixture
def shown(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    table = importlib.import_module("fault_table")
    return lambda part: "\n".join(table.PARTS[part](RECORDED))


def test_it_has_every_faulty_scorer_and_enough_healthy_stacks():
    assert len(FAULTS) >= max(20, len(faulty_scorers.FAULTY_SCORERS))
    assert len(HEALTHY) >= 4
    assert len({row["fault"] for row in RECORDED["rows"]}) == len(RECORDED["rows"])


def test_every_layer_of_scores_has_caught_something_but_the_one_that_only_warns():
    caught = {row["layer"] for row in FAULTS}
    assert {name for name, _ in rules.RULES} - caught == {"as RAGFlow sends them"}


def test_every_fault_has_a_cause_and_a_remedy_after_which_verify_passed():
    assert [row for row in FAULTS if not (row["cause"] and row["remedy"] and row["applied"])] == []
    assert all(row["passes"] for row in RECORDED["rows"])
    assert [row for row in HEALTHY if row["cause"] or row["remedy"]] == []


def test_it_has_its_provenance():
    about = RECORDED["about"]
    assert {"date", "machine", "docker", "python", "ragops", "client", "server"} <= set(about)


def test_the_page_shows_every_row(shown):
    page = shown("faults").replace("\\", "")
    assert page.count("   * - ") == len(FAULTS) + 1
    for row in FAULTS:
        assert all(" ".join(row[key].split()) in page for key in ("fault", "layer", "cause", "remedy"))
    assert all(row["fault"] in shown("healthy") for row in HEALTHY)
    assert RECORDED["about"]["date"] in shown("provenance")


@pytest.mark.parametrize(("part", "least"), [("gateway", 20), ("swarm", 11)])
class TestUnderLoad:
    """The tables of ``tests/live/test_gateway_faults.py`` and ``test_swarm_faults.py``."""

    @staticmethod
    def rows(part):
        file = ROOT / "docs" / "_data" / f"{part}_faults.json"
        return json.loads(file.read_text(encoding="utf-8"))["rows"]

    def test_no_request_failed_while_a_replica_and_a_gateway_lived(self, part, least):
        rows = self.rows(part)
        assert len(rows) >= least
        assert [row for row in rows if row["failed"] and not row["exception"]] == []
        assert [row for row in rows if row["wrong"] or row["full_speed"] is None] == []

    def test_the_page_shows_every_row(self, part, least, monkeypatch):
        del least
        monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
        table = importlib.import_module("fault_table")
        page = "\n".join(table.PARTS[part]({"rows": self.rows(part)})).replace("\\", "")
        for row in self.rows(part):
            assert f"   * - {row['fault']}\n     - {row['requests']}\n     - {row['failed']}" in page
            assert row["state"] in page
