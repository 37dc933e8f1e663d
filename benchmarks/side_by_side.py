"""Compares vLLM with plain transformers and the same weights: first the order of documents, then the time.

::

    python -m benchmarks.side_by_side docs/_data/peer.json ragops.toml

needs the configured reranker running, with the weights of a Qwen3-Reranker. It starts the other server from
the same image and on the same CPUs, and removes it. Time is only measured if both return the same order. Not
a test: values depend on other processes.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import free_port, write
from benchmarks.peer import peer, spec
from ragops import configuration
from ragops.bench import agreement, compare_runs, wire
from ragops.bench.measure import benchmark_url, running_server
from ragops.bench.records import LoadLevel, load_run
from ragops.bench.run import BenchmarkConfig
from ragops.bench.statistics import level_statistics
from ragops.bench.workload import synthetic
from ragops.docker import engine as engines
from ragops.errors import BenchError
from ragops.reranker import host as hosts
from ragops.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ragops.bench.compare import Agreement
    from ragops.bench.records import Run
    from ragops.bench.workload import Workload

LEAST_TAU, LEAST_TOP1 = 0.95, 0.9
"""Required agreement; both servers compute in float32, so that only near ties may change places."""
RESULTS = Path("results")
_DOCUMENTS, _WORDS, _REQUESTS, _REPEATS, _WARMUP = 8, 80, 8, 5, 2


@dataclass(frozen=True)
class Side:
    """Values of one server, from its recorded run."""

    server: str
    run: str
    p50_s: float | None
    documents_per_s: float
    tokens_per_s: float | None


@dataclass(frozen=True)
class Ratio:
    """A value of the second server divided by that of the first, as in ``ragops compare``."""

    level: str
    figure: str
    ratio: str
    """With its confidence interval; ``~`` if inconclusive."""


@dataclass(frozen=True)
class SideBySide:
    """The record: measurements and machine."""

    date: str
    cpu_model: str
    cpus: int
    model: str
    stand_in: str
    """Description of substitute weights; empty for the released ones."""
    workload: str
    requests: int
    """For each server, without warm-up."""
    agreement: Agreement
    sides: tuple[Side, ...]
    ratios: tuple[Ratio, ...]


def require_agreement(result: Agreement) -> None:
    """Continue only if both servers return the same order.

    Raises:
        BenchError: They do not.
    """
    if result.kendall_tau < LEAST_TAU or result.top1 < LEAST_TOP1:
        raise BenchError(
            "these servers return different orders, so their times are not compared",
            evidence=str(result),
            hint="compare prompt, precision and truncation of both servers",
        )


def scores(url: str, model: str, workload: Workload) -> list[tuple[float, ...]]:
    """The scores of a server for each request of a workload, in sequence.

    Raises:
        BenchError: A request failed.
    """

    async def send() -> list[tuple[float, ...]]:
        responses = []
        with closing(wire.Client(wire.Server(url, model), timeout=300)) as client:
            for request in workload.requests:
                body = wire.encode(model, request.query, request.documents)
                reply = await client.post(body, len(request.documents))
                if reply.error:
                    what, address = f"{client.url} did not respond", str(client.url)
                    raise BenchError(what, code="server-silent", evidence=reply.error, url=address)
                responses.append(reply.scores)
        return responses

    return asyncio.run(send())


def main(file: str, configuration_file: Path) -> None:
    """Compare, and write the file."""
    stack, engine, host = configuration.load(configuration_file), engines.connect(), hosts.read_host()
    session = Session.open(stack, engine)
    deployment, ours = session.deployment, running_server(session).base_url
    model = deployment.model
    texts = synthetic(_REQUESTS + _WARMUP, _DOCUMENTS, _WORDS)
    other = spec(
        deployment.spec.image,
        model.folder,
        deployment.spec.served_name,
        container=f"{stack.reranker.name}-peer",
        port=free_port(),
        cpus=deployment.spec.cpuset_cpus,
    )
    with peer(engine, other) as theirs:
        alike = agreement(*(scores(url, deployment.spec.served_name, texts) for url in (ours, theirs)))
        require_agreement(alike)
        runs = tuple(
            _recorded(url, deployment.spec.served_name, texts, name, model.substitute)
            for url, name in ((ours, "vllm"), (theirs, "transformers"))
        )
    made = SideBySide(
        date=datetime.now(UTC).date().isoformat(),
        cpu_model=host.cpu_model,
        cpus=len(host.cpus),
        model=model.name,
        stand_in=model.substitute,
        workload=texts.description,
        requests=_REQUESTS * _REPEATS,
        agreement=alike,
        sides=tuple(_sides(runs)),
        ratios=tuple(Ratio(row.level, row.metric, str(row)) for row in compare_runs(*runs).ratios),
    )
    write(made, file, digits=7)


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


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
