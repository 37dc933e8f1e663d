"""Do three clients see the same of one server? ragops, ``vllm bench serve`` and AIPerf, in turns.

::

    python -m benchmarks.cross_check docs/_data/cross_check.json AIPERF/bin/aiperf [ragops.toml]

needs a running reranker of a stack, published on this host, and AIPerf in a virtual environment of its own.
Let the declaration leave a CPU to the clients (``cores = "0"`` on a machine of two): AIPerf takes some 20
CPU-seconds for a turn, and a server that shares its cores is slower for it than for the others.
All three send the same texts: those of ``vllm bench serve --dataset-name random-rerank``, the only one that
takes no texts of ours, are caught by a stand-in and given to the other two. It is no test: it depends on how
quiet the machine is. ``testing/clients.py`` knows how each tool is called and what it writes.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.clients import WARMUP, AIPerf, Ragops, Size, VllmBench, catch, spare
from ragops import configuration
from ragops.bench.records import load_run
from ragops.docker import engine as engines
from ragops.reranker import host as hosts
from ragops.session import Deployment

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from benchmarks.clients import Tool
    from benchmarks.reports import Seen

CLOSE = 0.05
"""Share by which another tool's median ratio may lie off ours."""
CLIENTS = (1, 4)
ROUNDS, REQUESTS = 5, 48
SIZE = Size(documents=8, tokens=240)
"""Large enough that a request takes long against what the clients cost, which share the server's cores."""
RESULTS = Path("results/cross-check")
"""Where the runs of ragops are recorded."""


@dataclass(frozen=True)
class Turn:
    """One tool, once, at one number of clients."""

    round: int
    clients: int
    tool: str
    seen: Seen
    used_s: float
    """Seconds that it ran, its start included."""
    run: str = ""
    """Folder of the recorded run; only ragops records one."""


@dataclass(frozen=True)
class Ratio:
    """Another tool's figure divided by that of ragops, round by round."""

    tool: str
    clients: int
    figure: str
    """``p50`` or ``requests/s``."""
    median: float
    least: float
    most: float
    rounds: int

    @property
    def close(self) -> bool:
        """Whether the median is near 1."""
        return abs(self.median - 1) <= CLOSE


@dataclass(frozen=True)
class CrossCheck:
    """What was seen, where, and with what."""

    date: str
    cpu_model: str
    cpus: int
    server_cpus: str
    client_cpus: str
    """Those of ``vllm bench serve`` and AIPerf; the client of ragops may run anywhere."""
    python: str
    versions: tuple[tuple[str, str], ...]
    """Of ragops, vLLM and AIPerf."""
    model: str
    stand_in: str
    """What the model stands in for; empty when it is a reranker."""
    server_arguments: tuple[str, ...]
    texts_sha256: str
    size: Size
    requests: int
    """In each turn, warm-up not counted."""
    warmup: int
    commands: tuple[tuple[str, str], ...]
    """Of each tool, as typed."""
    turns: tuple[Turn, ...]
    ratios: tuple[Ratio, ...]
    agree: bool
    """Whether all ratios are close, and no request failed."""


def order(tools: Sequence[Tool], number: int) -> tuple[Tool, ...]:
    """The tools in the order of a round: every second one backwards, so that a drift meets all alike."""
    return tuple(tools if number % 2 == 0 else reversed(tools))


def ratios(turns: Iterable[Turn]) -> tuple[Ratio, ...]:
    """Each other tool against ragops, by number of clients and figure."""
    kept = tuple(turns)
    ours = {(one.round, one.clients): one.seen for one in kept if one.tool == Ragops.name}
    found: list[Ratio] = []
    for tool, clients in dict.fromkeys((one.tool, one.clients) for one in kept if one.tool != Ragops.name):
        pairs = [
            (one.seen, ours[one.round, clients]) for one in kept if (one.tool, one.clients) == (tool, clients)
        ]
        for figure, each in (
            ("p50", [other.p50_s / mine.p50_s for other, mine in pairs]),
            ("requests/s", [other.requests_per_s / mine.requests_per_s for other, mine in pairs]),
        ):
            found.append(Ratio(tool, clients, figure, median(each), min(each), max(each), len(each)))
    return tuple(found)


def agrees(turns: Iterable[Turn], found: Iterable[Ratio]) -> bool:
    """Whether all tools see the same; a failed request says that they do not."""
    return all(one.seen.errors == 0 for one in turns) and all(one.close for one in found)


def main(file: str, aiperf: Path, declaration: Path | None = None) -> None:
    """Measure, and write the file."""
    stack = configuration.load(declaration)
    engine, host, wanted = engines.connect(), hosts.read_host(), Deployment.resolve(stack)
    with ExitStack() as open_now:
        folder = Path(open_now.enter_context(tempfile.TemporaryDirectory(prefix="ragops-cross-")))
        bench = open_now.enter_context(VllmBench.started(engine, wanted, folder, SIZE, REQUESTS))
        texts = catch(bench)
        measured = Ragops(stack, engine, texts, RESULTS)
        tools = (measured, bench, AIPerf.made(aiperf, wanted, texts, folder))
        turns = tuple(
            _turn(tool, number, clients)
            for number in range(ROUNDS)
            for clients in CLIENTS
            for tool in order(tools, number)
        )
        found = ratios(turns)
        provenance = load_run(RESULTS / turns[0].run).info.provenance
        made = CrossCheck(
            date=datetime.now(UTC).date().isoformat(),
            cpu_model=host.cpu_model,
            cpus=len(host.cpus),
            server_cpus=wanted.spec.cpuset_cpus,
            client_cpus=hosts.format_cpu_list(spare(wanted.spec.cpuset_cpus)),
            python=platform.python_version(),
            versions=tuple((tool.name, tool.version) for tool in tools),
            model=wanted.served_name,
            stand_in=provenance.model_is_stand_in,
            server_arguments=provenance.launch_arguments,
            texts_sha256=texts.sha256,
            size=SIZE,
            requests=REQUESTS,
            warmup=WARMUP,
            commands=tuple((tool.name, tool.shown) for tool in tools),
            turns=turns,
            ratios=found,
            agree=agrees(turns, found),
        )
    write(made, Path(file))


def write(made: CrossCheck, file: Path) -> None:
    """As JSON, numbers with five digits after the point."""
    rounded = json.loads(json.dumps(asdict(made)), parse_float=lambda text: round(float(text), 5))
    file.write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")


def _turn(tool: Tool, number: int, clients: int) -> Turn:
    begun = time.perf_counter()
    seen, run = tool.measure(clients)
    return Turn(number, clients, tool.name, seen, time.perf_counter() - begun, run)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(Path, sys.argv[3:4]))
