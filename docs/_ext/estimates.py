"""``.. estimates:: PART``: seconds of RAGFlow's usual request against cores, as a chart and tables.

The parts are ``chart``, ``table``, ``machines`` and ``measured``, the requests in ``docs/_data``.
"""  # noqa: INP001 - a folder of Sphinx extensions is no package

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import charts
from generated import row_of
from sphinx.util.docutils import SphinxDirective

from ragops.bench import plots
from ragops.configuration import Stack
from ragops.ragflow import releases
from ragops.reranker import estimate as estimates
from ragops.reranker.estimate import DEFAULT, MODELS, RECORDED, Machine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docutils import nodes
    from matplotlib.figure import Figure
    from sphinx.application import Sphinx

DATA = Path(__file__).parents[1] / "_data"
CORES = (1, 2, 4, 8, 16, 32)
TIMEOUT = releases.of(releases.NEWEST).timeout
_, PAGE, TOKENS = estimates.CALLS[0]
DOCUMENTS = releases.window(releases.of(releases.NEWEST), PAGE)
NAMES = {
    "avx2": "AVX2",
    "avx512bf16": "AVX-512 BF16",
    "amx": "AMX",
}


class Line(NamedTuple):
    """An instruction set and a data type."""

    instruction_set: str
    arithmetic: str

    @property
    def name(self) -> str:
        """As the chart shows it."""
        return f"{NAMES[self.instruction_set]}, {self.arithmetic}"

    def seconds(self, cores: int, model: str = DEFAULT) -> float:
        """Estimate for one replica of so many cores."""
        machine, served = Machine(self.instruction_set, (cores,)), MODELS[model]
        speed = machine.speed(served.shape.flop_per_token, self.arithmetic, RECORDED)
        return estimates.seconds(Stack(), served, speed, DOCUMENTS, TOKENS)


class Point(NamedTuple):
    """Whole requests of the usual size that were measured."""

    line: Line
    cores: int
    seconds: tuple[float, ...]
    model: str
    source: str

    @property
    def median(self) -> float:
        """Seconds."""
        return median(self.seconds)


LINES = tuple(
    Line(*key)
    for key in dict.fromkeys((row.instruction_set, row.arithmetic) for row in RECORDED)
    if key[1] != "float32" or key[0] == "avx2"
)


class Estimates(SphinxDirective):
    """One part, as a chart or a table."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse the named part."""
        for file in DATA.glob("machine*.json"):
            self.env.note_dependency(str(file))
        return self.parse_text_to_nodes("\n".join(PARTS[self.arguments[0]]()))


def points() -> Iterator[Point]:
    """Measured requests: of ``benchmarks.machine``, and of one replica in ``benchmarks.gateway_cores``."""
    for file in sorted(DATA.glob("machine*.json")):
        record = json.loads(file.read_text())
        model = record["origin"]["model"]
        for row in record["variants"]:
            sent = [item["seconds"] for item in row["requests"] if item["documents"] == DOCUMENTS]
            if sent and not row["limited"]:
                line = Line("amx", row["arithmetic"])
                used = max(item["others"] for item in row["requests"])
                source = f"{record['date']}, {file.name}, other programs used {used:.2f} cores"
                yield Point(line, row["threads"], tuple(sent), model, source)
    record = json.loads((DATA / "gateway_cores.json").read_text())
    model, used = record["origin"]["model"], record["machine"]["used_by_others"]
    source = f"{record['machine']['date']}, gateway_cores.json, other programs used {used:.1f} cores"
    for row in record["setups"]:
        if row["replicas"] == 1:
            cores = row["cores"][0].count(",") + 1
            yield Point(Line("amx", "bfloat16"), cores, tuple(row["requests_s"]), model, source)
    record = json.loads((DATA / "gateway_deadline_int8.json").read_text())
    whole = [row["questions"] for row in record["series"] if not row["is_short"]]
    sent = [item["first"]["seconds"] for item in whole[0] if item["first"]["gateway"]["ranked"] == DOCUMENTS]
    source = f"{record['machine']['date']}, gateway_deadline_int8.json, lengths that differ"
    yield Point(Line("amx", "int8"), 2, tuple(sent), record["origin"]["model"], source)


def draw(*, narrow: bool) -> Figure:
    """Seconds against cores: a line for each kind of machine, estimates hollow, measured requests solid."""
    title = f"Qwen3-Reranker-0.6B: {DOCUMENTS} documents of {TOKENS} tokens"
    notes = ("hollow: estimates from recorded machines; solid: measured requests, with random weights",)
    chart = plots.Chart(title, notes, [4.6], narrow=narrow)
    (ax,) = chart.axes
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    for line, style in zip(LINES, plots.STYLES, strict=False):
        values = [line.seconds(cores) for cores in CORES]
        mark: Any = {"color": style.colour, "marker": style.marker, "markersize": 7}
        ax.plot(CORES, values, style.line, markerfacecolor=plots.COLOURS["paper"], label=line.name, **mark)
        for point in points():
            if point.line == line:
                ax.plot([point.cores], [point.median], linestyle="", **mark)
    ax.set_ylim(1, 600)
    ax.axhspan(TIMEOUT, 600, color=plots.VERMILION.colour, alpha=0.1, linewidth=0)
    name = f"RAGFlow's timeout, {TIMEOUT:g} s"
    ax.axhline(TIMEOUT, color=plots.GREY, linewidth=1.2, linestyle=(0, (6, 3)), label=name)
    ax.set_xticks(CORES, map(str, CORES))
    ax.set_yticks((1, 2, 5, 10, 20, 50, 100, 200, 500), map(str, (1, 2, 5, 10, 20, 50, 100, 200, 500)))
    ax.minorticks_off()
    ax.set_xlabel("cores of one replica (recorded machines have 2)")
    ax.set_ylabel("seconds of a request")
    return chart.finish()


def conclusion() -> str:
    """What the chart shows, in a sentence."""
    needs = []
    for line in LINES:
        most = TIMEOUT / Machine(line.instruction_set, (2,)).margin(line.arithmetic)
        cores = next((n for n in range(1, 65) if line.seconds(n) <= most), None)
        needs.append(f"{line.name}: {cores or 'more than 64'}")
    return (
        f"Cores from which RAGFlow's usual request to Qwen3-Reranker-0.6B ends within {TIMEOUT:g} s, "
        f"estimated from two cores of each kind, at the upper end of the error: {'; '.join(needs)}."
    )


def chart() -> Iterator[str]:
    """The chart with its conclusion."""
    yield from charts.figure(draw, caption=conclusion(), name="estimates")


def table() -> Iterator[str]:
    """Seconds by cores, with the error of the estimate."""
    yield from _head("processor", *(f"{cores} cores" for cores in CORES[1:]), "error")
    for line in LINES:
        error = Machine(line.instruction_set, (2,)).error(line.arithmetic)
        known = "unknown" if error is None else f"± {error:.0%}"
        yield from row_of((line.name, *(f"{line.seconds(cores):.3g} s" for cores in CORES[1:]), known))
    yield ""


def measured() -> Iterator[str]:
    """Whole requests of the usual size."""
    yield from _head("processor", "cores", "median", "each request", "record")
    for point in points():
        times = f"{min(point.seconds):.1f} to {max(point.seconds):.1f} s, n={len(point.seconds)}"
        yield from row_of((point.line.name, point.cores, f"{point.median:.1f} s", times, point.source))
    yield ""


def machines() -> Iterator[str]:
    """Each recorded machine, and the error of its estimate from all others."""
    yield from _head("machine", "data type", "TFLOP/s", "tokens/s", "share", "error when left out", "source")
    probed = dict(estimates.left_out(probed=True))
    plain = dict(estimates.left_out(probed=False))
    for row in RECORDED:
        kinds = ((plain, "by kind"), (probed, "probed"))
        errors = (f"{known[row]:.0%} {name}" for known, name in kinds if row in known)
        name = f"{row.machine}, {row.cpus} CPUs"
        speed = f"{row.tokens_per_s:,.0f}" if row.tokens_per_s else "-"
        share = f"{row.share:.0%}" if row.share else "-"
        cells = (
            name,
            row.arithmetic,
            f"{row.tflops:.3g}" if row.tflops else "-",
            speed,
            share,
            ", ".join(errors) or "-",
        )
        yield from row_of((*cells, f"{row.date}: {row.source}"))
    yield ""


PARTS = {"chart": chart, "table": table, "measured": measured, "machines": machines}


def _head(*titles: str) -> Iterator[str]:
    yield from [".. list-table::", "   :header-rows: 1", "   :class: ragops-figures", ""]
    yield from row_of(titles)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("estimates", Estimates)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
