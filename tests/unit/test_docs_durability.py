"""The kept record of the durability matrix is a whole one, and all of it is shown."""

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECORD = json.loads((ROOT / "docs" / "durability.json").read_text())


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    return importlib.import_module("durability")


def test_every_event_of_the_live_tests_is_in_it():
    live = "".join(
        (ROOT / "tests" / "live" / name).read_text() for name in ("test_lasting.py", "test_engine_killed.py")
    )
    events = [row["event"] for row in RECORD["rows"]]
    assert len(set(events)) == len(events) == 11
    assert [event for event in events if f'"{event}"' not in live] == []


def test_page_names_what_it_was_seen_on_and_shows_every_row(page):
    shown = "\n".join(page.table(RECORD))
    assert f"Recorded on {RECORD['recorded']} with Docker {RECORD['docker']}" in shown
    assert shown.count("   * - ") == len(RECORD["rows"]) + 1
    for row in RECORD["rows"]:
        assert all(line in shown for line in row["status"])
