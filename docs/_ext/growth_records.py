"""``.. generated:: growth PART``: the simulation of many replicas as charts and tables.

``python -m benchmarks.growth docs/_data/growth.json`` writes the data; measured points are of other records.
"""  # noqa: INP001 - a folder of Sphinx extensions is no package

from __future__ import annotations

import json
import textwrap
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from charts import figure
from comparisons import fields
from generated import PARTS, row_of, wide_table
from matplotlib.figure import Figure

from ragops.bench import plots
from ragops.ragflow.request import RERANK_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from matplotlib.axes import Axes
    from sphinx.application import Sphinx

DATA = Path(__file__).parents[1] / "_data"
LEGEND = "Lines are simulated, markers are measured."
TABLE = (8, 32, 128, 256)
"""Numbers of replicas in the table."""


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *widths: int) -> Iterator[str]:
    """A table as wide as the page."""
    yield from [*wide_table(*widths), *row_of(head)]
    for cells in rows:
        yield from row_of(cells)
    yield ""


def growth(part: str) -> Iterator[str]:
    """One part of the record."""
    yield from RECORDS[part](_read("growth"))


def _read(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    return record


def latency(record: dict[str, Any]) -> Iterator[str]:
    """Seconds of a request against the number of replicas, as a chart."""
    equal = [row for row in record["latency"] if row["speeds"] == "equal"]
    slowest = max((row for row in equal if row["replicas"] == 1), key=lambda row: row["p50_s"])
    own = [row for row in equal if row["server"] == slowest["server"] and row["replicas"] in TABLE]
    times = ", ".join(f"{row['p50_s']:.2g} s with {row['replicas']}" for row in own)
    request = f"a request of {record['documents']} documents takes {slowest['p50_s']:.3g} s with one replica"
    caption = f"{slowest['server']}: {request}, {times}. {LEGEND}"
    yield from figure(latency_chart, record, caption=caption)


def latency_chart(record: dict[str, Any], *, narrow: bool = False) -> Figure:
    """The chart of :func:`latency`."""
    chart, axes = _axes("seconds of a request", narrow=narrow)
    _lines(axes, [row for row in record["latency"] if row["speeds"] == "equal"], "p50_s")
    rows = [
        row
        for row in _read("gateway_speedup")["rows"]
        if row["lengths"] == "RAGFlow's" and row["slower"] == 1
    ]
    points = [(row["replicas"], row["gateway_s"]) for row in rows]
    _points(axes, points, plots.STYLES[0], "measured: gateway, replicas of 0.1 s for 250 words")
    for server, style in list(zip(record["servers"], plots.STYLES, strict=False))[1:]:
        alone = record["documents"] / server["documents_per_s"]
        _points(axes, [(1, alone)], style, f"measured: {server['name']}, without a gateway")
    axes.set_ylim(0.05, 60)
    axes.axhline(RERANK_TIMEOUT, color=plots.GREY, linewidth=1, linestyle=(0, (6, 3)))
    axes.annotate("RAGFlow's timeout", (256, RERANK_TIMEOUT), (0, 3), textcoords="offset points", ha="right")
    return _with_legend(chart, axes, narrow=narrow)


def throughput(record: dict[str, Any]) -> Iterator[str]:
    """Requests per second against the number of replicas, as a chart."""
    points = {(row["server"], row["replicas"], row["gateways"]): row for row in record["throughput"]}
    name, most, _ = max(points, key=lambda point: (point[1], points[point]["requests_per_s"]))
    one, two = (points[name, most, gateways]["requests_per_s"] for gateways in (1, 2))
    gain = f"a second gateway makes {one:.3g} requests per second {two:.3g}"
    caption = f"With {most} replicas ({name}) {gain}. {LEGEND}"
    yield from figure(throughput_chart, record, caption=caption)


def throughput_chart(record: dict[str, Any], *, narrow: bool = False) -> Figure:
    """The chart of :func:`throughput`, with one gateway and with two."""
    chart, axes = _axes("requests per second", narrow=narrow)
    for gateways, line in ((1, "-"), (2, ":")):
        rows = [row for row in record["throughput"] if row["gateways"] == gateways]
        _lines(axes, rows, "requests_per_s", line, f", {gateways} gateway{'s' * (gateways > 1)}", skip=2)
    for server, style in list(zip(record["servers"], plots.STYLES, strict=False))[2:]:
        rate = server["documents_per_s"] / record["documents"]
        _points(axes, [(1, rate)], style, f"measured: {server['name']}, without a gateway")
    return _with_legend(chart, axes, narrow=narrow)


def _axes(label: str, *, narrow: bool) -> tuple[Figure, Axes]:
    chart = Figure((4.3, 5.6) if narrow else (8, 5.2), facecolor=plots.COLOURS["paper"], layout="constrained")
    axes = chart.subplots()
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set(xlabel="replicas, one on each machine", ylabel=label)
    axes.grid(color=plots.COLOURS["grid"])
    return chart, axes


def _lines(
    axes: Axes, rows: list[dict[str, Any]], value: str, line: str = "-", suffix: str = "", *, skip: int = 0
) -> None:
    for (server, own), style in zip(
        groupby(rows, lambda row: row["server"]), plots.STYLES[skip:], strict=False
    ):
        points = [(row["replicas"], row[value]) for row in own]
        label = f"simulated: {server}{suffix}"
        axes.plot(*zip(*points, strict=True), line, color=style.colour, linewidth=1.4, label=label)
    axes.set_xticks([row["replicas"] for row in rows], [str(row["replicas"]) for row in rows])


def _points(axes: Axes, points: list[tuple[float, float]], style: plots.Style, label: str) -> None:
    places, values = zip(*points, strict=True)
    axes.plot(
        places, values, linestyle="", marker=style.marker, color=style.colour, markersize=7, label=label
    )


def _with_legend(chart: Figure, axes: Axes, *, narrow: bool) -> Figure:
    handles, labels = axes.get_legend_handles_labels()
    labels = [textwrap.fill(label, 52 if narrow else 120) for label in labels]
    chart.legend(handles, labels, loc="outside lower left", frameon=False, fontsize=8)
    return chart


def limits(record: dict[str, Any]) -> Iterator[str]:
    """Throughput with one gateway and with two, and how busy the gateway's processor is."""
    rows = []
    for server, own in groupby(record["throughput"], lambda row: row["server"]):
        points = {(row["replicas"], row["gateways"]): row for row in own}
        for replicas in TABLE:
            one, two = (points[replicas, gateways] for gateways in (1, 2))
            times = f"{two['requests_per_s'] / one['requests_per_s']:.2f} times"
            rates = (f"{row['requests_per_s']:.3g}" for row in (one, two))
            rows.append((server, replicas, *rates, times, f"{one['cpu']:.0%}"))
    head = ("replica", "replicas", "one gateway, requests/s", "two gateways, requests/s", "two against one")
    yield from table((*head, "processor of one gateway"), rows, 24, 14, 17, 17, 12, 16)


def requests(record: dict[str, Any]) -> Iterator[str]:
    """One request with equal replicas and with uneven ones, against what is ideal for their speeds."""
    rows = []
    for server in record["servers"]:
        own = [row for row in record["latency"] if row["server"] == server["name"]]
        alone = next(row["p50_s"] for row in own if row["replicas"] == 1)
        points = {(row["replicas"], row["speeds"]): row for row in own}
        for replicas in (1, *TABLE):
            cells = []
            for row in (points.get((replicas, speeds)) for speeds in ("equal", "uneven")):
                cells += (
                    [f"{row['p50_s']:.2f}", f"{alone / row['p50_s'] / row['ideal']:.0%}"] if row else ["", ""]
                )
            rows.append((server["name"], replicas, *cells))
    head = ("replica", "replicas", "equal, s", "of the ideal speed-up", "uneven, s", "of the ideal speed-up")
    yield from table(head, rows, 30, 14, 12, 16, 12, 16)


def failures(record: dict[str, Any]) -> Iterator[str]:
    """Requests while replicas fail."""
    rows = (
        (
            *(row["replicas"], f"{row['hours']:g} h", row["requests"], row["failed"]),
            *(f"{row['ranked']:.1%}", f"{row['most_s']:.2f}", f"{row['throughput']:.0%}"),
        )
        for row in record["failures"]
    )
    yield from fields(("replica", record["failures"][0]["server"]))
    head = (
        "replicas",
        "each fails every",
        "requests",
        "failed",
        "documents ranked",
        "slowest, s",
        "throughput",
    )
    yield from table(head, rows, 14, 12, 14, 11, 17, 13, 19)


def compared(record: dict[str, Any]) -> Iterator[str]:
    """How far the simulation is from the recorded runs."""
    rows = []
    for what, own in groupby(record["compared"], lambda row: row["what"]):
        errors = [(abs(row["error"]), row) for row in own]
        most, worst = max(errors, key=lambda pair: pair[0])
        where = f"{worst['replicas']} replica{'s' * (worst['replicas'] > 1)}"
        where += ", one slower" if worst["slower"] > 1 else ""
        values = f"{worst['recorded']:.3g} measured, {worst['simulated']:.3g} simulated ({where})"
        rows.append(
            (what, len(errors), f"{median(error for error, _ in errors):.1%}", f"{most:.1%}: {values}")
        )
    yield from table(("value", "points", "median error", "largest error"), rows, 34, 12, 14, 40)


def constants(record: dict[str, Any]) -> Iterator[str]:
    """What the simulation takes from other records."""
    rows = (
        (
            server["name"],
            f"{server['documents_per_s']:.3g}",
            f"{server['share_s']:.3g}",
            f"``{server['record']}``",
        )
        for server in record["servers"]
    )
    yield from table(("replica", "documents/s", "fixed time of a share, s", "record"), rows, 30, 21, 15, 34)
    costs = record["costs_ms"]
    own = f"{costs['request']:.2f} ms for a request, {costs['share']:.2f} ms for a share or a health check"
    more = costs["share_of_replica"]
    yield from fields(
        (
            "processor of a gateway",
            own + (f", and {1000 * more:.1f} µs for a share and replica" if more else ""),
        ),
        (
            "a replica that failed",
            f"is back after {record['recovery_s']:g} s, the recorded start with a warm cache",
        ),
        ("workload", record["workload"]),
        ("seed", str(record["seed"])),
        ("records", "; ".join(f"{name}: {about}" for name, about in record["sources"].items())),
    )


RECORDS = {
    "latency": latency,
    "throughput": throughput,
    "requests": requests,
    "limits": limits,
    "failures": failures,
    "compared": compared,
    "constants": constants,
}


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the part to those of ``generated``."""
    app.setup_extension("comparisons")
    PARTS["growth"] = growth
    return {"parallel_read_safe": True, "parallel_write_safe": True}
