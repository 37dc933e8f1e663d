"""``.. generated:: gateway PART``: recorded measurements of the gateway as tables and a chart.

``python -m benchmarks.gateway_PART`` writes the data to ``docs/_data/gateway_PART.json``.
"""  # noqa: INP001 - a folder of Sphinx extensions is no package

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charts import figure
from comparisons import fields, table
from generated import PARTS
from matplotlib.figure import Figure

from ragops.bench import plots

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx

DATA = Path(__file__).parents[1] / "_data"
SHARES, ADDED_MS, PER_CPU_S, RSS_MB, SPEEDUP, POSSIBLE, PAGE_MS = 4, 3.0, 300.0, 60.0, 0.9, 0.8, 50.0
"""Goals of the gateway, from its issue."""


def gateway(part: str) -> Iterator[str]:
    """One part, or a note if it is not recorded."""
    file = DATA / f"gateway_{part}.json"
    if not file.exists():
        yield from [
            f"No run is recorded yet: ``python -m benchmarks.gateway_{part.partition('_')[0]}`` records one.",
            "",
        ]
        return
    record = json.loads(file.read_text(encoding="utf-8"))
    yield from RECORDS[part](record)
    yield from provenance(record)


def overhead(record: dict[str, Any]) -> Iterator[str]:
    """A row for each number of replicas."""
    rows = []
    for row in record["rows"]:
        added, per_cpu, memory = row["added_p50_ms"], row["requests_per_cpu_s"], row["rss_bytes"] / 1e6
        is_goal = row["replicas"] == SHARES
        rows.append(
            (
                *(row["replicas"], f"{row['direct_p50_ms']:.2f}", f"{row['gateway_p50_ms']:.2f}"),
                f"{added:.2f}{missed(added <= ADDED_MS or not is_goal)}",
                f"{per_cpu:.0f}{missed(per_cpu >= PER_CPU_S or not is_goal)}",
                f"{memory:.0f}{missed(memory <= RSS_MB)}",
            )
        )
    head = ("shares", "directly, p50 ms", "through the gateway, p50 ms", "added, p50 ms")
    yield from table((*head, "requests per CPU second", "memory, MB"), rows)
    goals = f"with {SHARES} shares at most {ADDED_MS:g} ms, and {PER_CPU_S:g} requests per CPU second or more"
    yield from fields(
        ("goals", f"{goals}; at most {RSS_MB:g} MB without the cache"),
        ("request", f"{record['documents']} documents, {record['request_bytes'] / 1e3:.0f} kB"),
        ("pairs of requests", ", ".join(str(len(row["pairs"])) for row in record["rows"])),
    )


def deadline(record: dict[str, Any]) -> Iterator[str]:
    """A row for each precision and deadline."""
    rows = []
    for row in record["series"]:
        short = ", short" if row["is_short"] else ""
        page = "no complete cache"
        if row["page_p50_ms"] is not None:
            page = f"{row['page_p50_ms']:.1f} ({row['page_most_ms']:.1f})"
            page += missed(row["page_most_ms"] <= PAGE_MS)
        rows.append(
            (
                *(row["dtype"], f"{row['deadline']:g} s{short}", len(row["questions"])),
                *(f"{row['in_time']:.0%}", f"{row['latest_s']:.2f}", f"{row['ranked']:.0%}"),
                f"{row['ranked_of_possible']:.0%}{missed(row['ranked_of_possible'] >= POSSIBLE)}",
                page,
            )
        )
    head = ("arithmetic", "deadline", "requests", "in RAGFlow's time", "slowest, s", "documents ranked")
    yield from table((*head, "of those possible", "next page, p50 (slowest) ms"), rows)
    for row in record["series"]:
        ranked = ", ".join(str(question["first"]["gateway"]["ranked"]) for question in row["questions"])
        label = f"{row['dtype']}, {row['deadline']:g} s: ranked documents of each request"
        yield from fields((label, f"{ranked}; vLLM alone ranks {row['documents_per_s']:.1f} documents/s"))
    models = ", ".join(dict.fromkeys(f"{row['model']}: {row['substitute']}" for row in record["series"]))
    yield from fields(
        ("substitute models", models),
        ("RAGFlow's timeout", f"{record['timeout']:g} s"),
        ("workload", record["workload"]),
        ("vLLM", record["origin"]["vllm"]),
    )


def cores(record: dict[str, Any]) -> Iterator[str]:
    """A row for each setup."""
    rows = (
        (
            *(row["name"], f"{row['seconds_p50']:.2f}", f"{row['speedup']:.2f}"),
            ", ".join(f"{seconds:.1f}" for seconds in row["requests_s"]),
        )
        for row in record["setups"]
    )
    head = ("replicas", "p50, s", "speed-up against one replica of one core", "each request, s")
    yield from table(head, rows)
    origin = record["origin"]
    yield from fields(
        ("substitute model", f"{origin['model']}: {origin['model_is_stand_in']}"),
        ("workload", record["workload"]),
        *((("vLLM", origin["vllm"]),) if origin["vllm"] else ()),
    )


def speedup(record: dict[str, Any]) -> Iterator[str]:
    """A row for each number of simulated replicas, and a chart."""
    rows = []
    for row in record["rows"]:
        share, are_equal = row["speedup"] / row["ideal"], row["slower"] == 1
        rows.append(
            (
                *(row["lengths"], row["replicas"], "no" if are_equal else f"{row['slower']:g} times"),
                *(f"{row['direct_s']:.2f}", f"{row['gateway_s']:.2f}", f"{row['speedup']:.2f}"),
                f"{share:.0%}{missed(share >= SPEEDUP or not are_equal)}",
                *(f"{row['possible'] / row['ideal']:.0%}", f"{row['shares_a_request']:.1f}"),
            )
        )
    head = ("lengths", "replicas", "one is slower", "one replica directly, s", "gateway, s", "speed-up")
    yield from table((*head, "of the ideal", "possible of it", "shares per request"), rows)
    yield from chart(record)
    each = f"{record['seconds_a_document']:g} s for 250 words, {record['seconds_a_share']:g} s for each share"
    yield from fields(
        ("goal", f"{SPEEDUP:.0%} of the ideal with equal replicas"),
        ("simulated replica", each),
        ("workloads", "; ".join(record["workloads"])),
    )


def chart(record: dict[str, Any]) -> Iterator[str]:
    """Speed-up against the number of replicas, as a chart."""
    most = max((row for row in record["rows"] if row["slower"] == 1), key=lambda row: row["replicas"])
    share = f"{most['speedup'] / most['ideal']:.0%} of the ideal"
    times = f"{most['speedup']:.1f} times as fast"
    caption = f"{most['replicas']} simulated replicas rank one request {times}: {share}."
    yield from figure(speedup_chart, record, caption=caption)


def speedup_chart(record: dict[str, Any], *, narrow: bool = False) -> Figure:
    """The chart of :func:`chart`."""
    drawn = Figure((4.3, 4.6) if narrow else (7, 3.8), facecolor=plots.COLOURS["paper"], layout="constrained")
    axes = drawn.subplots()
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    series: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for row in record["rows"]:
        series.setdefault((row["lengths"], row["slower"]), []).append(row)
    for ((lengths, slower), rows), style in zip(series.items(), plots.STYLES, strict=False):
        label = f"{lengths} lengths" + ("" if slower == 1 else f", one {slower:g} times slower")
        places, values = [row["replicas"] for row in rows], [row["speedup"] for row in rows]
        axes.plot(places, values, style.line, marker=style.marker, color=style.colour, label=label)
    numbers = sorted({row["replicas"] for row in record["rows"]})
    axes.plot(numbers, numbers, color=plots.GREY, linewidth=0.8, label="ideal, equal replicas")
    axes.set_xticks(numbers, map(str, numbers))
    axes.set_yticks(numbers, map(str, numbers))
    axes.set(xlabel="simulated replicas", ylabel="speed-up")
    axes.grid(color=plots.COLOURS["grid"])
    drawn.legend(loc="outside lower left", frameon=False, fontsize=9)
    return drawn


def provenance(record: dict[str, Any]) -> Iterator[str]:
    """Machine, date and commit."""
    machine = record["machine"]
    changed = ", with changes" if machine["git_dirty"] else ""
    versions = f"Python {machine['python']}, aiohttp {machine['aiohttp']}"
    memory, others = machine["memory_bytes"] / 2**30, machine["used_by_others"]
    size = f"{machine['machine']} ({machine['cpu_model']}), {memory:.0f} GiB"
    yield from fields(
        ("recorded", f"{machine['date']}, ragops at {machine['git_commit']}{changed}, {versions}"),
        ("seed", str(record["seed"])),
        ("machine", f"{size}; niceness {machine['niceness']}, {others:.2f} cores used by others"),
    )


def missed(met: bool) -> str:
    """A mark where a goal is missed."""
    return "" if met else " (goal missed)"


RECORDS = {
    "overhead": overhead,
    "deadline_bfloat16": deadline,
    "deadline_int8": deadline,
    "cores": cores,
    "speedup": speedup,
}


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the part to those of ``generated``."""
    app.setup_extension("comparisons")
    PARTS["gateway"] = gateway
    return {"parallel_read_safe": True, "parallel_write_safe": True}
