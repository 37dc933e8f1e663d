"""The performance page: measured requests lie within the error of the estimate; the chart has all lines."""

import importlib
from pathlib import Path

import pytest

from ragops.bench import plots
from ragops.reranker.estimate import RECORDED, UNKNOWN, Machine


@pytest.fixture
def estimates(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "docs" / "_ext"))
    return importlib.import_module("estimates")


def test_measured_requests_lie_within_the_error_of_the_estimate(estimates):
    points = list(estimates.points())
    assert {point.line.arithmetic for point in points} == {"bfloat16", "int8"}
    for point in points:
        error = Machine(point.line.instruction_set, (2,)).error(point.line.arithmetic)
        factor = 1 + (UNKNOWN if error is None else error)
        assert 1 / factor <= point.median / point.line.seconds(point.cores) <= factor, point


@pytest.mark.parametrize("narrow", [False, True])
def test_the_chart_has_a_line_for_each_kind_of_machine_and_the_timeout(estimates, narrow):
    text = plots.svg(estimates.draw(narrow=narrow))
    for line in estimates.LINES:
        assert line.name in text
    assert "RAGFlow's timeout" in text.replace("&#39;", "'").replace("&apos;", "'")


def test_every_recorded_machine_is_in_the_table(estimates):
    table = "\n".join(estimates.machines())
    for row in RECORDED:
        assert row.machine in table
