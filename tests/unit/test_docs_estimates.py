"""The performance page: measured requests lie within the error of the estimate; the chart has all lines."""

import importlib
import json
from pathlib import Path

import pytest

from ragops.bench import plots
from ragops.reranker.estimate import RECORDED, Machine, left_out

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def estimates(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    return importlib.import_module("estimates")


def test_measured_requests_lie_within_the_error_of_the_estimate(estimates):
    points = list(estimates.points())
    assert {point.line.arithmetic for point in points} == {"bfloat16", "int8"}
    for point in points:
        factor = Machine(point.line.instruction_set, (2,)).margin(point.line.arithmetic)
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


def test_the_page_has_the_shares_and_errors_of_the_records():
    page = " ".join((DOCS / "performance.rst").read_text().split())
    floats, int8 = [], []
    for row in RECORDED:
        if row.share:
            (int8 if row.arithmetic == "int8" else floats).append(row)
    unsteady = next(row for row in floats if "machine.json" in row.source)
    steady = [f"{row.share * 100:.0f}" for row in floats if row is not unsteady]
    assert f"{min(steady)} to {max(steady)} % on machines with steady speed" in page
    assert f"{unsteady.share * 100:.0f} % in the record whose requests differ" in page
    assert f"in int8 {' and '.join(sorted(f'{row.share * 100:.0f}' for row in int8))} %" in page
    errors = {row: error for row, error in left_out(probed=True) if row in floats}
    most = max(error for row, error in errors.items() if row is not unsteady)
    assert f"at most {most * 100:.0f} % in floating point" in page
    assert f"{errors[unsteady] * 100:.0f} % on the other one" in page


def test_the_page_has_the_requests_and_rates_of_the_record():
    page = " ".join((DOCS / "performance.rst").read_text().split())
    record = json.loads((DOCS / "_data" / "machine.json").read_text())
    for run, text in zip(
        record["variants"], ("took {} to {} s in bfloat16", "{} to {} s in int8"), strict=False
    ):
        sent = sorted(item["seconds"] for item in run["requests"])
        assert text.format(*(f"{value:.0f}" for value in (sent[0], sent[-1]))) in page
        assert max(item["others"] for item in run["requests"]) < 0.05
    lowest, *others = sorted(record["variants"][0]["tflops"][:4])
    assert "before one of the four requests it was less than half of the others" in page
    assert lowest < others[0] / 2
