"""Compares three load generators on one server, alternating: ragops, ``vllm bench serve`` and AIPerf.

::

    python -m benchmarks.cross_check docs/_data/cross_check.json AIPERF/bin/aiperf [ragops.toml]

needs a running reranker, and AIPerf in its own virtual environment. The stack
should leave a CPU to the clients (``cores = "0"`` with two CPUs): AIPerf takes some 20 CPU seconds for a
measurement, and would slow down a server on the same cores. All three send the same texts: those of
``vllm bench serve --dataset-name random-rerank``, which accepts no other texts; a fake server captures them
for the other two. It is not a test: values depend on other processes. ``clients.py`` calls the tools.
"""

from __future__ import annotations

import platform
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import write
from benchmarks.clients import WARMUP, AIPerf, Ragops, Size, VllmBench, capture_texts, spare
from ragops import configuration
from ragops.bench.records import load_run
from ragops.reranker import host as hosts
from ragops.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from benchmarks.clients import Tool
    from benchmarks.reports import Summary

CLOSE = 0.05
"""Accepted relative difference between the median of another tool and that of ragops."""
CLIENTS = (1, 4)
ROUNDS, REQUESTS = 5, 48
SIZE = Size(documents=8, tokens=240)
"""Large enough that a request takes much longer than the client's work for it."""
RESULTS = Path("results/cross-check")
"""Folder of the recorded runs of ragops."""


@dataclass(frozen=True)
class Turn:
    """One measurement of a tool with a number of clients."""

    round: int
    clients: int
    tool: str
    seen: Summary
    used_s: float
    """Seconds, including its start."""
    run: str = ""
    """Folder of the recorded run; only ragops records one."""


@dataclass(frozen=True)
class Ratio:
    """Ratios of a value of another tool to that of ragops, over the rounds."""

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
    """The record: measurements, machine and versions."""

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
    """Description of a substitute model; empty for a reranker."""
    server_arguments: tuple[str, ...]
    texts_sha256: str
    size: Size
    requests: int
    """In each measurement, without warm-up."""
    warmup: int
    commands: tuple[tuple[str, str], ...]
    """Command line of each tool."""
    turns: tuple[Turn, ...]
    ratios: tuple[Ratio, ...]
    agree: bool
    """Whether all ratios are close to 1 and no request failed."""


def order(tools: Sequence[Tool], number: int) -> tuple[Tool, ...]:
    """The tools in the order of a round, reversed in every second one, so that drift affects all equally."""
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
    """Whether all ratios are close to 1 and no request failed."""
    return all(one.seen.errors == 0 for one in turns) and all(one.close for one in found)


def main(file: str, aiperf: Path, configuration_file: Path | None = None) -> None:
    """Measure, and write the file."""
    stack = configuration.load(configuration_file)
    session, host = Session.open(stack), hosts.read_host()
    engine, deployment = session.engine, session.deployment
    with ExitStack() as contexts:
        folder = Path(contexts.enter_context(tempfile.TemporaryDirectory(prefix="ragops-cross-")))
        bench = contexts.enter_context(VllmBench.started(session, folder, SIZE, REQUESTS))
        texts = capture_texts(bench)
        measured = Ragops(stack, engine, texts, RESULTS)
        tools = (measured, bench, AIPerf.create(aiperf, session, texts, folder))
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
            server_cpus=deployment.spec.cpuset_cpus,
            client_cpus=hosts.format_cpu_list(spare(deployment.spec.cpuset_cpus)),
            python=platform.python_version(),
            versions=tuple((tool.name, tool.version) for tool in tools),
            model=deployment.spec.served_name,
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
    write(made, file)


def _turn(tool: Tool, number: int, clients: int) -> Turn:
    begun = time.perf_counter()
    seen, run = tool.measure(clients)
    return Turn(number, clients, tool.name, seen, time.perf_counter() - begun, run)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(Path, sys.argv[3:4]))
