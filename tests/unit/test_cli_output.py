"""Every record becomes one valid JSON document."""

import io
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from ragops.checks import Check, Report
from ragops.cli import output
from ragops.cli.output import as_json
from ragops.configuration import Stack
from ragops.errors import EngineError
from ragops.stack.plan import Plan
from ragops.table import Column, Table
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


class TestWidth:
    """On a terminal of 60 columns words stay whole, but a result that is to be copied is one line."""

    TEXT = "hint: " + " ".join(["reranker"] * 30)

    @pytest.fixture
    def terminal(self, monkeypatch):
        class Terminal(io.StringIO):
            def isatty(self):
                return True

        monkeypatch.setenv("COLUMNS", "60")
        monkeypatch.setenv("TERM", "xterm")
        return Terminal()

    def plain_lines(self, terminal):
        return re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue()).splitlines()

    def test_messages_are_wrapped_at_words(self, terminal):
        output._print(self.TEXT, terminal)
        lines = self.plain_lines(terminal)
        assert len(lines) > 1
        assert max(map(len, lines)) <= 60
        assert set(" ".join(lines).split()) == {"hint:", "reranker"}

    def test_what_continues_a_line_has_its_indentation(self, terminal):
        output._print(f"error: a line\n    {self.TEXT}\nlast", terminal)
        first, *middle, last = self.plain_lines(terminal)
        assert (first, last) == ("error: a line", "last")
        assert len(middle) > 1
        assert all(re.match(r"    \S", line) for line in middle)

    def test_so_have_the_notes_of_a_table(self, terminal):
        output._print(Table((Column("a"),), (("b",),), notes=(f"  {self.TEXT}",)), terminal)
        _, *notes = self.plain_lines(terminal)
        assert len(notes) > 1
        assert all(re.match(r"  \S", line) for line in notes)

    def test_the_width_is_that_of_the_terminal_while_the_output_goes_to_a_file(self, terminal, monkeypatch):
        def size(number):
            if number != 2:
                raise OSError("no terminal")
            return os.terminal_size((50, 24))

        monkeypatch.delenv("COLUMNS")
        monkeypatch.setattr("os.get_terminal_size", size)
        words = " ".join(["word"] * 60)
        output._print(f"    {words}", terminal)
        lines = self.plain_lines(terminal)
        assert [len(line) for line in lines[:-1]] == [48] * (len(lines) - 1)

    def test_commands_are_not(self, terminal, monkeypatch):
        monkeypatch.setattr("sys.stdout", terminal)
        output._print(self.TEXT, terminal)
        assert self.plain_lines(terminal) == [self.TEXT]

    @pytest.mark.parametrize("first", ["short", "a-first-column-that-has-nearly-the-width-of-the-terminal"])
    def test_each_column_of_a_table_stays_readable(self, terminal, first):
        table = Table((Column("a"), Column("b")), ((first, "some words of a detail"),))
        output._print(table, terminal)
        lines = self.plain_lines(terminal)
        assert max(map(len, lines)) <= 60
        assert "detail" in " ".join(lines)


@pytest.mark.parametrize(
    ("states", "summary"),
    [
        ("ok ok warn fail skip", "2 ok, 1 warning, 1 failed, 1 skipped"),
        ("warn warn", "0 ok, 2 warnings, 0 failed, 0 skipped"),
        ("", "0 ok, 0 warnings, 0 failed, 0 skipped"),
    ],
)
def test_summary_of_a_report(states, summary):
    assert Report("t", tuple(Check("a", state, "d") for state in states.split())).summary == summary
