"""Every record becomes one valid JSON document."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from ragops.checks import Check, Report
from ragops.cli.output import as_json
from ragops.configuration import Stack
from ragops.errors import EngineError
from ragops.stack.plan import Plan
from tests.support.fake_engine import FakeEngine


@dataclass(frozen=True)
class Nested:
    folder: Path
    pairs: tuple[tuple[str, int], ...]
    labels: dict[str, str]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (Plan((), ("a note",)), {"changes": [], "notes": ["a note"]}),
        (
            Nested(Path("/a"), (("b", 1),), {"c": "d"}),
            {"folder": "/a", "pairs": [["b", 1]], "labels": {"c": "d"}},
        ),
        ({"site": Path("/a")}, {"site": "/a"}),
        (
            EngineError("m", evidence="e", hint="h", container="c", file=Path("/a")),
            {
                "error": "EngineError",
                "message": "m",
                "evidence": "e",
                "hint": "h",
                "code": "engine-refused",
                "container": "c",
                "url": "",
                "file": "/a",
            },
        ),
        ("schön", "schön"),
    ],
)
def test_records(record, expected):
    assert json.loads(as_json(record)) == expected


def test_report():
    check = Check("a", "fail", "d", "r", "w")
    said = json.loads(as_json(Report("t", (check,))))
    assert said["ok"] is False
    assert said["checks"] == [{"name": "a", "status": "fail", "detail": "d", "remedy": "r", "where": "w"}]


def test_stack():
    assert json.loads(as_json(Stack()))["reranker"]["publish"] == "127.0.0.1"


def test_image():
    assert json.loads(as_json(FakeEngine().image("vllm-cpu:latest")))["tags"] == ["vllm-cpu:latest"]
