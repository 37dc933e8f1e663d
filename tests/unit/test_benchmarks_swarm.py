"""The records of a Swarm beside its faults: what is computed, and what the page says of them."""

import importlib
import json
from pathlib import Path

import pytest

from benchmarks import swarm_manager, swarm_task
from tests.support.fleet import Question, Sample

DATA = Path(__file__).parents[2] / "docs/_data"
TASK, MANAGER = (json.loads((DATA / f"swarm_{part}.json").read_text()) for part in ("task", "manager"))


def test_numbers_of_a_phase():
    question = Question("q", ("d",))
    samples = [
        Sample(question, 1.0, 1.5, 200, 64, "", ""),
        Sample(question, 2.0, 4.0, 0, 0, "ConnectError", ""),
        Sample(question, 3.0, 3.1, 200, 64, "", "order"),
        Sample(question, 3.0, 34.0, 200, 64, "", ""),
    ]
    phase = swarm_manager.summary("lost", 60.0, samples)
    assert (phase.requests, phase.failed, phase.wrong, phase.longest) == (4, 2, 1, 31.0)
    assert swarm_manager.summary("lost", 60.0, []).longest == 0.0


def test_the_records_are_whole():
    assert len(MANAGER["phases"]) == 3
    assert all(phase["requests"] > 0 == phase["wrong"] for phase in MANAGER["phases"])
    assert len(TASK["requests"]) == len(TASK["ranked"]) == swarm_task.REQUESTS
    assert set(TASK["ranked"]) == {f"{swarm_task.DOCUMENTS}/{swarm_task.DOCUMENTS}"}
    assert 0 < TASK["steps"][-1][0] < TASK["up"]
    assert TASK["restarted"] > 0


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("task", ["substitute", f"{len(TASK['requests'])} requests", f"{TASK['up']:.0f} s"]),
        ("manager", ["stub", f" of {MANAGER['phases'][1]['requests']}, "]),
    ],
)
def test_the_page_says_what_was_recorded_and_with_what(monkeypatch, part, words):
    monkeypatch.syspath_prepend(str(DATA.parents[0] / "_ext"))
    text = " ".join(importlib.import_module("generated").swarm(part))
    assert [word for word in words if word not in text] == []
    assert {"task": TASK, "manager": MANAGER}[part]["machine"]["machine"] in text
