"""``.. generated:: crosscheck PART``, ``peer PART`` and ``client``: recorded comparisons as tables.

``python -m ragops.testing.cross_check``, ``side_by_side`` and ``client_cost`` write what is shown.
"""  # noqa: INP001 - a folder of Sphinx extensions is no package

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generated import PARTS, indented, inline, row_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sphinx.application import Sphinx

DATA = Path(__file__).parents[1] / "_data"
UNTOLD = "not told"


def crosscheck(part: str) -> Iterator[str]:
    """A part of what three clients saw of one server."""
    yield from CROSS[part](json.loads((DATA / "cross_check.json").read_text(encoding="utf-8")))


def peer(part: str) -> Iterator[str]:
    """A part of what two servers with the same weights did."""
    yield from PEER[part](json.loads((DATA / "peer.json").read_text(encoding="utf-8")))


def client() -> Iterator[str]:
    """What the client costs, how well it keeps the time of a known server, and where that was seen."""
    made = json.loads((DATA / "client.json").read_text(encoding="utf-8"))
    costs = (
        (one["at_once"], f"{one['requests_per_core_s']:.0f}", f"{one['share_of_aiperf']:.0%}")
        for one in made["cost"]
    )
    yield from table(("requests at once", "requests a second on one core", "of AIPerf's CPU time"), costs)
    kept = (
        (
            *(one["at_once"], f"{one['least_s']:g} to {one['most_s']:g} s"),
            *(f"{one['p50_error']:.1%}", f"{one['p99_error']:.1%}", one["requests"]),
        )
        for one in made["accuracy"]
    )
    yield from table(("requests at once", "server's time", "p50 above it", "p99 above it", "requests"), kept)
    yield from fields(
        ("recorded", f"{made['date']}; Python {made['python']}, httpx {made['httpx']}"),
        (
            "machine",
            f"{made['cpu_model']}, {made['cpus']} CPUs, of which others used {made['used_by_others']:.2f}",
        ),
        ("sent", "64 documents of 100 words; AIPerf's CPU time was taken on another machine, with AMX"),
    )


def cross_verdict(made: dict[str, Any]) -> Iterator[str]:
    """Whether the three agree, and by how much they do not."""
    off = [(abs(one["median"] - 1), one) for one in made["ratios"]]
    worst, where = max(off, key=lambda pair: pair[0])
    near = sum(distance <= 0.05 for distance, _ in off)
    far = f"{where['tool']}'s {where['figure']} with {clients(where['clients'])}"
    tail = f"{near} of {len(off)} figures do, and the one farthest off is {far}"
    said = "agree within 5 %" if made["agree"] else "do not all agree within 5 %"
    failed = sum(one["seen"]["errors"] for one in made["turns"])
    yield f"**The three {said}**: {tail}, by {worst:.1%}. {failed or 'No'} requests failed."
    yield ""


def cross_ratios(made: dict[str, Any]) -> Iterator[str]:
    """Each other tool's figure divided by that of ragops."""
    rows = (
        (
            *(one["tool"], clients(one["clients"]), one["figure"], f"{one['median']:.3f}"),
            *(f"{one['least']:.3f} to {one['most']:.3f}", one["rounds"]),
        )
        for one in made["ratios"]
    )
    yield from table(("tool", "load", "figure", "median ratio", "range", "rounds"), rows)


def cross_turns(made: dict[str, Any]) -> Iterator[str]:
    """Every turn, in the order of playing."""
    rows = (
        (
            *(one["round"] + 1, clients(one["clients"]), one["tool"], time(one["seen"]["p50_s"])),
            f"{one['seen']['requests_per_s']:.3f}",
            seconds(one["seen"]["client_cpu_s"]),
        )
        for one in made["turns"]
    )
    yield from table(("round", "load", "tool", "p50", "requests/s", "its own CPU time"), rows)


def cross_origin(made: dict[str, Any]) -> Iterator[str]:
    """Where and with what."""
    size, versions = made["size"], dict(made["versions"])
    texts = (
        f"{size['documents']} documents a request, query and document together {size['tokens']} tokens, "
        f"drawn by vllm bench serve (random-rerank, seed 1); sha256 {made['texts_sha256'][:12]}"
    )
    yield from fields(
        ("recorded", made["date"]),
        ("machine", f"{made['cpu_model']}, {made['cpus']} CPUs"),
        ("CPUs", f"{made['server_cpus']} for the server, {made['client_cpus']} for vLLM's client and AIPerf"),
        ("model", f"{made['model']}: {made['stand_in']}" if made["stand_in"] else made["model"]),
        ("texts", texts),
        ("requests", f"{made['requests']} in each turn, {made['warmup']} before them for warm-up"),
        ("versions", ", ".join(f"{name} {told}" for name, told in versions.items())),
        ("Python", f"{made['python']}, of ragops"),
    )


def cross_commands(made: dict[str, Any]) -> Iterator[str]:
    """The command of each tool, and of the server."""
    for name, command in (*made["commands"], ("server", " ".join(made["server_arguments"]))):
        yield from [f"{name}:", "", ".. code-block:: text", "", *indented(folded(command)), ""]


def peer_verdict(made: dict[str, Any]) -> Iterator[str]:
    """First whether both sort alike."""
    found = made["agreement"]
    yield (
        f"**Both sort alike**: Kendall's tau {found['kendall_tau']:.3f}, the same document first in "
        f"{found['top1']:.0%} of {found['rankings']} rankings, no score further apart than "
        f"{found['max_difference']:.1g}."
    )
    yield ""


def peer_figures(made: dict[str, Any]) -> Iterator[str]:
    """A row for each server."""
    rows = (
        (
            *(one["server"], time(one["p50_s"]), f"{one['documents_per_s']:.2f}"),
            *(f"{one['tokens_per_s']:.0f}" if one["tokens_per_s"] else UNTOLD, one["run"]),
        )
        for one in made["sides"]
    )
    yield from table(("server", "p50", "documents/s", "tokens/s", "recorded run"), rows)
    rows = ((one["level"], one["figure"], one["ratio"]) for one in made["ratios"])
    yield from table(("load", "figure", "transformers / vLLM"), rows)


def peer_origin(made: dict[str, Any]) -> Iterator[str]:
    """Where and with what."""
    yield from fields(
        ("recorded", made["date"]),
        ("machine", f"{made['cpu_model']}, {made['cpus']} CPUs"),
        ("model", f"{made['model']}: {made['stand_in']}" if made["stand_in"] else made["model"]),
        ("sent", f"{made['workload']}; {made['requests']} measured for each server, one at a time"),
    )


CROSS = {
    "verdict": cross_verdict,
    "ratios": cross_ratios,
    "turns": cross_turns,
    "origin": cross_origin,
    "commands": cross_commands,
}
PEER = {"verdict": peer_verdict, "figures": peer_figures, "origin": peer_origin}


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """A list table of figures."""
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
    """A closed loop in words."""
    return "1 client" if number == 1 else f"{number} clients"


def seconds(value: float | None) -> str:
    """CPU-seconds, or that they were not measured."""
    return UNTOLD if value is None else f"{value:.2g} s"


def time(value: float | None) -> str:
    """A median of some hundred ms or some seconds."""
    return UNTOLD if value is None else f"{value * 1e3:.0f}\N{NO-BREAK SPACE}ms"


def setup(app: Sphinx) -> dict[str, bool]:
    """Add to what ``.. generated::`` knows."""
    app.setup_extension("generated")
    PARTS.update(crosscheck=crosscheck, peer=peer, client=client)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
