"""Compares the default vLLM with int8 and with other engines: the same weights, prompts and minutes.

::

    python -m benchmarks.peers docs/_data/peers.json

takes a quarter of an hour on an idle machine. The packages of ``PEERS`` are installed first, below
``RAGOPS_HOME``; llama.cpp is compiled. Each request is sent to the default vLLM, to int8 and to one of the
others in turn, and the other servers are paused. Without ``RAGOPS_MODEL_DIR`` the weights are random. Not a
test: values depend on the machine.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from benchmarks import free_port, launches, write
from benchmarks.alternating import PREFIX, Server, log
from benchmarks.peer import peer, spec
from ragops.bench.compare import agreement
from ragops.bench.tune import ratio_interval
from ragops.bench.workload import synthetic
from ragops.checks.traffic import TOKENS_PER_WORD
from ragops.configuration import home
from ragops.docker.objects import Mount
from ragops.errors import RagopsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.alternating import LaunchRunner
    from benchmarks.targets import Timed
    from ragops.bench.compare import Agreement
    from ragops.bench.records import Provenance
    from ragops.checks.traffic import Request
    from ragops.docker.objects import ContainerSpec

ROUNDS, DOCUMENTS, TOKENS = 5, 16, 280
LEAST_TAU, LEAST_TOP1 = 0.9, 0.8
"""Required agreement with the default: bfloat16 and int8 let near ties change places."""
BUDGET_SECONDS = 120.0
"""After which a slow server gets no further request, but at least three."""


@dataclass(frozen=True)
class Peer:
    """An engine of ``data/peer.py``, or vLLM if it has none."""

    name: str
    engine: str
    dtype: str
    packages: tuple[str, ...] = ()
    """Installed next to those of the image; the first one is the engine's."""


_OPENVINO = ("openvino==2026.4.1", "openvino-telemetry==2025.2.0")
_LLAMA = ("llama-cpp-python==0.3.36", "gguf==0.19.0", "diskcache==5.6.3")
PEERS = (
    Peer("transformers, bfloat16", "transformers", "bfloat16"),
    Peer("OpenVINO, bfloat16", "openvino", "bf16", _OPENVINO),
    Peer("llama.cpp, bfloat16", "llama.cpp", "BF16", _LLAMA),
    Peer("vLLM with zentorch", "", "", ("zentorch==2.13.0.2", "deprecated==1.3.1", "wrapt==2.5.2")),
)
NO_ZEN = "vLLM uses zentorch only on AMD processors with AVX-512"


@dataclass(frozen=True)
class Row:
    """The requests of one peer, each in turn with one of the default and one of int8."""

    peer: Peer
    ready: float
    default: tuple[Timed, ...] = ()
    int8: tuple[Timed, ...] = ()
    calls: tuple[Timed, ...] = ()
    order: Agreement | None = None
    """With the default."""
    order_int8: Agreement | None = None
    """Of int8 with the default, in the same requests."""
    to_default: tuple[float, float, float] | None = None
    """Documents/s relative to the default's, with the interval; None if the orders differ."""
    to_int8: tuple[float, float, float] | None = None
    error: str = ""


@dataclass(frozen=True)
class Measured:
    """The record."""

    date: str
    origin: Provenance
    model: str
    substitute: str
    documents: int
    tokens: int
    rows: tuple[Row, ...]


def main(file: str, *names: str) -> None:
    """Measure all peers or the named ones, and write the file after each."""
    rows: list[Row] = []
    with launches.runner() as runner:
        default = runner.default_spec("default", runner.model)
        with (
            runner.started(default) as first,
            runner.started(runner.default_spec("int8", runner.int8)) as small,
        ):
            origin = runner.provenance(default)
            for number, one in enumerate(PEERS):
                if names and one.name not in names:
                    continue
                rows.append(_row(runner, one, (first, small), seed=41 + number))
                now = datetime.now(UTC).date().isoformat()
                model = runner.model
                record = Measured(now, origin, model.name, model.substitute, DOCUMENTS, TOKENS, tuple(rows))
                write(record, file)


def _row(runner: LaunchRunner, one: Peer, others: tuple[Server, Server], seed: int) -> Row:
    """The same new texts to three servers; the first request of each is warm-up."""
    if not one.engine and not ("AMD" in runner.host.cpu_model and "avx512" in " ".join(runner.host.features)):
        return Row(one, 0.0, error=NO_ZEN)
    texts = synthetic(ROUNDS + 1, DOCUMENTS, round(TOKENS / TOKENS_PER_WORD) - 8, seed=seed).requests
    try:
        with _started(runner, one) as server:
            rounds = _rounds((*others, server), texts)[1:]
    except RagopsError as error:
        log(f"{one.name}: {error}")
        return Row(one, 0.0, error=error.message)
    default, int8, calls = zip(*rounds, strict=True)
    return judged(Row(one, server.ready, default, int8, calls))


def judged(row: Row) -> Row:
    """With the agreement of the orders, and the ratios of those that agree."""
    default, int8, calls = ([call.scores for call in column] for column in (row.default, row.int8, row.calls))
    order = agreement(default, calls)
    row = replace(row, order=order, order_int8=agreement(default, int8))
    if order.kendall_tau < LEAST_TAU or order.top1 < LEAST_TOP1:
        return replace(row, error="another order than the default's")
    return replace(row, to_default=_ratio(row.default, row.calls), to_int8=_ratio(row.int8, row.calls))


def _ratio(a: tuple[Timed, ...], b: tuple[Timed, ...]) -> tuple[float, float, float]:
    ratio, (low, high) = ratio_interval([x.seconds / y.seconds for x, y in zip(a, b, strict=True)])
    return ratio, low, high


def _rounds(servers: tuple[Server, ...], texts: tuple[Request, ...]) -> list[tuple[Timed, ...]]:
    rounds: list[tuple[Timed, ...]] = []
    end = time.monotonic() + BUDGET_SECONDS
    for request in texts:
        rounds.append(tuple(server.send(request) for server in servers))
        log(", ".join(f"{s.name} {t.seconds:.1f} s" for s, t in zip(servers, rounds[-1], strict=True)))
        if len(rounds) > 3 and time.monotonic() > end:
            break
    return rounds


@contextmanager
def _started(runner: LaunchRunner, one: Peer) -> Iterator[Server]:
    layer, default = _layer(one), runner.default_spec("peer", runner.model)
    if layer and not one.engine:
        with runner.started(_with_layer(default, layer)) as server:
            yield server
        return
    name, begin = default.name, time.monotonic()
    plain = spec(
        runner.image, runner.model.folder, PREFIX, container=name, port=free_port(), cpus=default.cpuset_cpus
    )
    container = replace(plain, entrypoint=(*plain.entrypoint, "8", f"{one.engine}:{one.dtype}"))
    if layer:
        container = _with_layer(container, layer, ("LD_PRELOAD", ""))
    with peer(runner.engine, container) as url:
        runner.engine.pause(name)
        try:
            yield Server(runner.engine, name, url, PREFIX, time.monotonic() - begin)
        finally:
            runner.engine.unpause(name)


def _with_layer(container: ContainerSpec, layer: Path, *more: tuple[str, str]) -> ContainerSpec:
    """With a folder of packages; engines with their own threads need none of the image's preloaded ones."""
    return replace(
        container,
        environment=(*container.environment, ("PYTHONPATH", "/layer"), *more),
        mounts=(*container.mounts, Mount(str(layer), "/layer", read_only=True)),
    )


def _layer(one: Peer) -> Path | None:
    """The folder with a peer's packages, installed once."""
    if not one.packages:
        return None
    folder = home() / "layers" / one.packages[0].replace("==", "-")
    if not folder.exists():
        command = (sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(folder))
        subprocess.run((*command, *one.packages), check=True)
    return folder


if __name__ == "__main__":
    main(sys.argv[1], *sys.argv[2:])
