"""vLLM and plain transformers with the same weights: do they sort alike, and then, how fast is each?

::

    python -m benchmarks.side_by_side docs/_data/peer.json ragops.toml

needs the declaration's reranker running, with the weights of a Qwen3-Reranker; it starts the other server
itself, from the same image and on the same CPUs, and takes it away. Nothing is told of speed unless both sort
alike. It is no test: it depends on how quiet the machine is.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.peer import peer, spec
from ragops import configuration
from ragops.bench import agreement, compare_runs, wire
from ragops.bench.load import BenchmarkConfig
from ragops.bench.measure import benchmark_url
from ragops.bench.records import LoadLevel, load_run
from ragops.bench.statistics import level_statistics
from ragops.bench.workload import synthetic
from ragops.docker import engine as engines
from ragops.errors import BenchError
from ragops.reranker import host as hosts
from ragops.session import Deployment

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ragops.bench.compare import Agreement
    from ragops.bench.records import Run
    from ragops.bench.workload import Workload

LEAST_TAU, LEAST_TOP1 = 0.95, 0.9
"""What the gate asks for; both servers compute in float32, so that only near ties may change places."""
RESULTS = Path("results")
_DOCUMENTS, _WORDS, _REQUESTS, _REPEATS, _WARMUP = 8, 80, 8, 5, 2


@dataclass(frozen=True)
class Side:
    """One server's figures; they are in its recorded run."""

    server: str
    run: str
    p50_s: float | None
    documents_per_s: float
    tokens_per_s: float | None


@dataclass(frozen=True)
class Ratio:
    """The second server's figure divided by the first one's, as ``ragops compare`` has it."""

    level: str
    figure: str
    ratio: str
    """With its interval; ``~`` where they can't be told apart."""


@dataclass(frozen=True)
class SideBySide:
    """What was seen, and where."""

    date: str
    cpu_model: str
    cpus: int
    model: str
    stand_in: str
    """What the weights stand in for; empty when they are the released ones."""
    workload: str
    requests: int
    """Of each server, warm-up not counted."""
    agreement: Agreement
    sides: tuple[Side, ...]
    ratios: tuple[Ratio, ...]


def gate(found: Agreement) -> None:
    """Let pass what sorts alike.

    Raises:
        BenchError: It does not.
    """
    if found.kendall_tau < LEAST_TAU or found.top1 < LEAST_TOP1:
        raise BenchError(
            "these servers sort differently, so their speed is not compared",
            evidence=str(found),
            hint="look at prompt, precision and truncation of both: they do not compute the same",
        )


def scores(url: str, model: str, workload: Workload) -> list[tuple[float, ...]]:
    """What a server answers to each request of a workload, one at a time.

    Raises:
        BenchError: It fails to answer one.
    """

    async def ask() -> list[tuple[float, ...]]:
        target, found = wire.Target(url, model, timeout=300), []
        async with wire.client() as http:
            for one in workload.requests:
                body = wire.encode(model, one.query, one.documents)
                reply = await wire.post(http, target, body, len(one.documents))
                if reply.error:
                    raise BenchError(
                        f"{target.url} did not answer",
                        code="server-silent",
                        evidence=reply.error,
                        url=target.url,
                    )
                found.append(reply.scores)
        return found

    return asyncio.run(ask())


def main(file: str, declaration: Path) -> None:
    """Compare, and write the file."""
    stack, engine, host = configuration.load(declaration), engines.connect(), hosts.read_host()
    wanted = Deployment.resolve(stack)
    ours, model = stack.host_url, wanted.model
    if ours is None:
        raise BenchError(
            "the reranker is not published on this host",
            code="not-published",
            hint="set port under [reranker]",
            container=stack.reranker.name,
        )
    texts = synthetic(_REQUESTS + _WARMUP, _DOCUMENTS, _WORDS)
    other = spec(
        wanted.spec.image,
        model.folder,
        wanted.served_name,
        container=f"{stack.reranker.name}-peer",
        port=_free_port(),
        cpus=wanted.spec.cpuset_cpus,
    )
    with peer(engine, other) as theirs:
        alike = agreement(*(scores(url, wanted.served_name, texts) for url in (ours, theirs)))
        gate(alike)
        runs = tuple(
            _recorded(url, wanted.served_name, texts, name, model.stand_in)
            for url, name in ((ours, "vllm"), (theirs, "transformers"))
        )
    made = SideBySide(
        date=datetime.now(UTC).date().isoformat(),
        cpu_model=host.cpu_model,
        cpus=len(host.cpus),
        model=model.name,
        stand_in=model.stand_in,
        workload=texts.description,
        requests=_REQUESTS * _REPEATS,
        agreement=alike,
        sides=tuple(_sides(runs)),
        ratios=tuple(Ratio(row.level, row.metric, str(row)) for row in compare_runs(*runs).ratios),
    )
    rounded = json.loads(json.dumps(asdict(made)), parse_float=lambda text: round(float(text), 7))
    Path(file).write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")


def _recorded(url: str, model: str, texts: Workload, name: str, stand_in: str) -> Run:
    config = BenchmarkConfig(
        workload=texts,
        levels=(LoadLevel.closed(1, requests=_REQUESTS),),
        name=f"other-servers-{name}",
        results=RESULTS,
        warmup=_WARMUP,
        repeats=_REPEATS,
        no_order_check=stand_in,
    )
    return load_run(benchmark_url(url, model, config))


def _sides(runs: Iterable[Run]) -> Iterable[Side]:
    for run, server in zip(runs, ("vLLM", "transformers"), strict=True):
        (row,) = level_statistics(run)
        yield Side(server, run.path.name, row.latency[0].value, row.documents_per_s, row.tokens_per_s)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
