"""``.. generated:: gallery``: all recorded runs of ``results/``, each with its report."""  # noqa: INP001 - a folder of Sphinx extensions is no package

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from generated import PARTS

from ragops.bench.gallery import RunRow, recorded_runs
from ragops.bench.records import load_run
from ragops.bench.report import write_report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx

RESULTS = Path(__file__).parents[2] / "results"
PAGES = Path(__file__).parents[1] / "_extra" / "reports"
COLUMNS = (
    *("date", "report", "machine", "model", "load", "p50, s", "p95, s", "documents/s"),
    *("of RAGFlow's timeout", "result"),
)
SERIES = {"cross-check": "cross_validation.html"}
"""Folders with runs of one series, and the page that has their values; they have no reports of their own."""
STATES = {"fits": "ok", "does not fit": "fail", "wrong scores": "fail", "inconclusive": "warn"}
"""Classes of states that have a colour."""


def gallery() -> Iterator[str]:
    """A table with a row for each run; a script of the site sorts it by the column that is selected."""
    runs = recorded_runs(RESULTS)
    head = "".join(f'<th scope="col">{name}</th>' for name in COLUMNS)
    rows = "".join(f"<tr>{row(run)}</tr>" for run in runs.rows)
    markup = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    label = 'class="ragops-gallery" role="region" aria-label="Recorded runs" tabindex="0"'
    yield from [".. raw:: html", "", f"   <div {label}>{markup}</div>", ""]


def row(run: RunRow) -> str:
    """The cells of a run, with the value by which a column is sorted."""
    page = SERIES.get(run.run.partition("/")[0])
    if page is None:
        page = f"reports/{run.run}.html"
        write_report(load_run(RESULTS / run.run), PAGES / f"{run.run}.html", home="../runs.html")
    model = f"{run.model} (substitute)" if run.substitute else run.model
    p50, p95 = (f"{p.value:.3g}" if p.value is not None else "" for p in (run.p50, run.p95))
    return "".join(
        (
            cell(run.started[:10], run.started),
            f'<td><a href="{page}">{escape(run.workload)}</a></td>',
            cell(run.machine or "unknown"),
            cell(model),
            cell(f"{run.load}, n={run.n}"),
            *(cell(value, value or "inf") for value in (p50, p95)),
            cell(f"{run.documents_per_s:.3g}"),
            share(run),
            f'<td class="ragops-{STATES.get(run.state, "")}">{run.state}</td>',
        )
    )


def share(run: RunRow) -> str:
    """A bar of the slowest known percentile against RAGFlow's timeout, with its number."""
    known = next((p.value for p in (run.p95, run.p50) if p.value is not None), None)
    if known is None or run.state == "measured":
        return cell("", "inf")
    part = known / run.timeout
    bar = f'<span class="ragops-bar" style="width: {min(part, 1) * 5:.2f}rem"></span>'
    return f'<td data-value="{part:.4f}">{bar} {part:.1%}</td>'


def cell(text: str, value: str = "") -> str:
    """A cell; ``value`` is what it is sorted by, if that is not its text."""
    sorted_by = f' data-value="{escape(value)}"' if value else ""
    return f"<td{sorted_by}>{escape(text)}</td>"


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the part to those of ``generated``."""
    app.setup_extension("generated")
    PARTS.update(gallery=gallery)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
