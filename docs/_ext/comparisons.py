"""``.. generated:: crosscheck PART``, ``peer PART``, ``peers`` and ``client``: recorded comparisons.

``python -m benchmarks.cross_check``, ``side_by_side`` and ``client_cost`` write the data.
"""  # noqa: INP001 - a folder of Sphinx extensions is no package

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import charts
from generated import PARTS, indented, inline, row_of

from ragops.bench.statistics import load_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sphinx.application import Sphinx

DATA = Path(__file__).parents[1] / "_data"
UNKNOWN = "unknown"


def crosscheck(part: str) -> Iterator[str]:
    """A part of the comparison of three clients of one server."""
    yield from CROSS[part](json.loads((DATA / "cross_check.json").read_text(encoding="utf-8")))


def peer(part: str) -> Iterator[str]:
    """A part of the comparison of two servers with the same weights."""
    yield from PEER[part](json.loads((DATA / "peer.json").read_text(encoding="utf-8")))


def peers() -> Iterator[str]:
    """Other engines in turn with vLLM, and what disturbed them."""
    record = json.loads((DATA / "peers.json").read_text(encoding="utf-8"))
    rows = []
    for row in record["rows"]:
        order, name = row["order"], inline(", ".join((row["peer"]["name"], *row["peer"]["packages"][:1])))
        agrees = f"{order['kendall_tau']:.3f}, {order['top1']:.0%}" if order else UNKNOWN
        ratios = [
            f"{ratio[0]:.2f} ({ratio[1]:.2f} to {ratio[2]:.2f})" if ratio else row["error"]
            for ratio in (row["to_default"], row["to_int8"])
        ]
        rows.append((name, *ratios, agrees, len(row["calls"])))
    head = ("server", "documents/s / default", "documents/s / int8", "tau, same first", "requests")
    yield from table(head, rows)
    origin = record["origin"]
    others = [call["others"] for row in record["rows"] for call in (*row["default"], *row["calls"])]
    yield from fields(
        ("recorded", record["date"]),
        ("machine", f"{origin['cpu_model']}, {origin['core_count']} CPUs"),
        ("model", f"{record['model']}: {record['substitute'] or 'the released weights'}"),
        ("request", f"{record['documents']} documents, with the query about {record['tokens']} tokens each"),
        ("used by others", f"up to {max(others, default=0):.2f} cores during a request"),
    )


def client() -> Iterator[str]:
    """The client's overhead, its accuracy with servers of known latency, and the provenance."""
    record = json.loads((DATA / "client.json").read_text(encoding="utf-8"))
    costs = (
        (row["at_once"], f"{row['requests_per_core_s']:.0f}", f"{row['share_of_aiperf']:.0%}")
        for row in record["cost"]
    )
    yield from table(("concurrent requests", "requests/s on one core", "of AIPerf's CPU time"), costs)
    accuracy = (
        (
            *(row["at_once"], f"{row['least_s']:g} to {row['most_s']:g} s"),
            *(f"{row['p50_error']:.1%}", f"{row['p99_error']:.1%}", row["requests"]),
        )
        for row in record["accuracy"]
    )
    head = ("concurrent requests", "server's latency", "error of p50", "error of p99", "requests")
    yield from table(head, accuracy)
    yield from fields(
        ("recorded", f"{record['date']}; Python {record['python']}, httpx {record['httpx']}"),
        (
            "machine",
            f"{record['cpu_model']}, {record['cpus']} CPUs, {record['used_by_others']:.2f} used by others",
        ),
        ("workload", "64 documents of 100 words; AIPerf's CPU time is from another machine, with AMX"),
    )


def cross_verdict(record: dict[str, Any]) -> Iterator[str]:
    """Whether the three agree, and the largest difference."""
    verdict = "agree within 5 %" if record["agree"] else "do not all agree within 5 %"
    yield f"**The three {verdict}**: {agreement(record)}."
    failed = sum(row["seen"]["errors"] for row in record["turns"])
    yield from [f"{failed or 'No'} requests failed.", ""]


def agreement(record: dict[str, Any]) -> str:
    """How many values agree within 5 %, and the largest difference."""
    differences = [(abs(row["median"] - 1), row) for row in record["ratios"]]
    largest, row = max(differences, key=lambda pair: pair[0])
    within = sum(difference <= 0.05 for difference, _ in differences)
    where = f"{row['tool']}'s {row['figure']} with {clients(row['clients'])}"
    return f"{within} of {len(differences)} values do; the largest difference is {largest:.1%}, of {where}"


def cross_ratios(record: dict[str, Any]) -> Iterator[str]:
    """Each tool's value divided by that of ragops."""
    rows = [
        (
            *(row["tool"], clients(row["clients"]), row["figure"], f"{row['median']:.3f}"),
            *(f"{row['least']:.3f} to {row['most']:.3f}", row["rounds"]),
        )
        for row in record["ratios"]
    ]
    cells = list(table(("tool", "load", "value", "median ratio", "range", "rounds"), rows))
    points = [
        (
            f"{row['tool']}, {clients(row['clients'])}, {row['figure']}",
            row["median"],
            row["least"],
            row["most"],
        )
        for row in record["ratios"]
    ]
    rounds = record["ratios"][0]["rounds"]
    note = f"dot: median, line: range of {rounds} rounds · {record['cpu_model']}, {record['date']}"
    caption = f"The other tools divided by ragops. Most values agree within 5 %: {agreement(record)}."
    yield from charts.dots(points, "tool / ragops", note, caption, cells)


def cross_rounds(record: dict[str, Any]) -> Iterator[str]:
    """Every round of each tool, in order of time."""
    rows = (
        (
            *(row["round"] + 1, clients(row["clients"]), row["tool"], time(row["seen"]["p50_s"])),
            f"{row['seen']['requests_per_s']:.3f}",
            seconds(row["seen"]["client_cpu_s"]),
        )
        for row in record["turns"]
    )
    yield from table(("round", "load", "tool", "p50", "requests/s", "the tool's CPU time"), rows)


def cross_provenance(record: dict[str, Any]) -> Iterator[str]:
    """Provenance."""
    size, versions = record["size"], dict(record["versions"])
    texts = (
        f"{size['documents']} documents per request, query and document together {size['tokens']} tokens, "
        f"generated by vllm bench serve (random-rerank, seed 1); sha256 {record['texts_sha256'][:12]}"
    )
    yield from fields(
        ("recorded", record["date"]),
        ("machine", f"{record['cpu_model']}, {record['cpus']} CPUs"),
        (
            "CPUs",
            f"{record['server_cpus']} for the server, {record['client_cpus']} for vLLM's client and AIPerf",
        ),
        ("model", f"{record['model']}: {record['stand_in']}" if record["stand_in"] else record["model"]),
        ("texts", texts),
        ("requests", f"{record['requests']} per tool and round, after {record['warmup']} for warm-up"),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("Python", f"{record['python']}, of ragops"),
    )


def cross_commands(record: dict[str, Any]) -> Iterator[str]:
    """The command of each tool, and of the server."""
    for name, command in (*record["commands"], ("server", " ".join(record["server_arguments"]))):
        yield from [f"{name}:", "", ".. code-block:: text", "", *indented(folded(command)), ""]


def peer_verdict(record: dict[str, Any]) -> Iterator[str]:
    """Whether both return the same order."""
    agreement = record["agreement"]
    yield (
        f"**Both return the same order**: Kendall's tau {agreement['kendall_tau']:.3f}, the same document "
        f"first in {agreement['top1']:.0%} of {agreement['rankings']} rankings, "
        f"largest difference of a score {agreement['max_difference']:.1g}."
    )
    yield ""


def peer_values(record: dict[str, Any]) -> Iterator[str]:
    """A row for each server."""
    rows = (
        (
            *(side["server"], time(side["p50_s"]), f"{side['documents_per_s']:.2f}"),
            *(f"{side['tokens_per_s']:.0f}" if side["tokens_per_s"] else UNKNOWN, side["run"]),
        )
        for side in record["sides"]
    )
    yield from table(("server", "p50", "documents/s", "tokens/s", "recorded run"), rows)
    cells = [(load_name(row["level"]), row["figure"], row["ratio"]) for row in record["ratios"]]
    points = []
    for level, value, ratio in cells:
        numbers = [float(number) for number in re.findall(r"\d+\.\d+", ratio)]
        points.append((f"{level}, {value}", numbers[0], *(numbers[1:3] or (None, None))))
    note = f"{record['model']}, {record['cpu_model']}, {record['date']}"
    caption = f"transformers divided by vLLM: {', '.join(f'{value} {ratio}' for _, value, ratio in cells)}."
    values = list(table(("load", "value", "transformers / vLLM"), cells))
    yield from charts.dots(points, "transformers / vLLM", note, caption, values)


def peer_provenance(record: dict[str, Any]) -> Iterator[str]:
    """Provenance."""
    yield from fields(
        ("recorded", record["date"]),
        ("machine", f"{record['cpu_model']}, {record['cpus']} CPUs"),
        ("model", f"{record['model']}: {record['stand_in']}" if record["stand_in"] else record["model"]),
        ("workload", f"{record['workload']}; {record['requests']} measured per server, one at a time"),
    )


CROSS = {
    "verdict": cross_verdict,
    "ratios": cross_ratios,
    "rounds": cross_rounds,
    "provenance": cross_provenance,
    "commands": cross_commands,
}
PEER = {"verdict": peer_verdict, "values": peer_values, "provenance": peer_provenance}


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """A list table of numbers."""
    yield from [".. list-table::", "   :header-rows: 1", "   :class: ragops-figures", "", *row_of(head)]
    for cells in rows:
        yield from row_of(cells)
    yield ""


def fields(*pairs: tuple[str, str]) -> Iterator[str]:
    """A field list."""
    yield from [f":{name}: {inline(value)}" for name, value in pairs]
    yield ""


def folded(command: str) -> Iterator[str]:
    """A command with one option a line."""
    first, *options = command.split(" --")
    yield first + (" \\" if options else "")
    for number, option in enumerate(options, start=1):
        yield f"  --{option}" + (" \\" if number < len(options) else "")


def clients(number: int) -> str:
    """The load level of a closed loop."""
    return "1 client" if number == 1 else f"{number} clients"


def seconds(value: float | None) -> str:
    """CPU-seconds."""
    return UNKNOWN if value is None else f"{value:.2g} s"


def time(value: float | None) -> str:
    """A median in ms."""
    return UNKNOWN if value is None else f"{value * 1e3:.0f}\N{NO-BREAK SPACE}ms"


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the parts to those of ``generated``."""
    app.setup_extension("generated")
    PARTS.update(crosscheck=crosscheck, peer=peer, peers=peers, client=client)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
