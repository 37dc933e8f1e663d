"""Measures what ``ragops estimate`` needs of a machine: vLLM and matrix multiplication together.

::

    python -m benchmarks.machine docs/_data/machine.json

takes a quarter of an hour. For each data type it measures, in turn, matrix multiplication and whole requests
of RAGFlow's usual size; float32 with fewer documents, and limited to AVX2 by the variables of oneDNN, which
vLLM uses, and of MKL, which torch uses for float32. The weights are random.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING

from benchmarks import launches, write
from benchmarks.alternating import PREFIX, log
from ragops.bench.workload import synthetic
from ragops.checks.traffic import TOKENS_PER_WORD
from ragops.docker.engine import sidecar
from ragops.errors import RagopsError
from ragops.reranker import options, sizing
from ragops.reranker.estimate import GEMM

if TYPE_CHECKING:
    from benchmarks.alternating import LaunchRunner
    from benchmarks.targets import Timed
    from ragops.bench.records import Provenance

ROUNDS, TOKENS = 4, 280
VARIANTS = (("bfloat16", "bfloat16", "", 64), ("int8", "bfloat16", "", 64), ("float32", "float32", "AVX2", 6))
"""Arithmetic, data type, instructions of its libraries if limited, and documents of a request."""


@dataclass(frozen=True)
class Variant:
    """One launch; seconds, and median TFLOP/s of matrix multiplication before each request and at the end."""

    arithmetic: str
    limited: str
    threads: int
    ready: float
    tflops: tuple[float, ...]
    requests: tuple[Timed, ...]


@dataclass(frozen=True)
class Measured:
    """The record."""

    date: str
    flop_per_token: float
    origin: Provenance
    variants: tuple[Variant, ...]


def main(file: str, *names: str) -> None:
    """Measure all variants or the named arithmetic and limits, and write the file after each."""
    variants: list[Variant] = []
    with launches.runner() as runner:
        for arithmetic, dtype, limit, documents in VARIANTS:
            if names and f"{arithmetic}-{limit}" not in names:
                continue
            try:
                variant, origin = _measured(runner, arithmetic, dtype, limit, documents)
            except RagopsError as error:
                log(f"{arithmetic} {limit}: {error}")
                continue
            variants.append(variant)
            flop = runner.model.shape.flop_per_token
            write(Measured(datetime.now(UTC).date().isoformat(), flop, origin, tuple(variants)), file)


def _measured(
    runner: LaunchRunner, arithmetic: str, dtype: str, limit: str, documents: int
) -> tuple[Variant, Provenance]:
    """Requests and matrix multiplication in turn: other programs and machines disturb both alike."""
    model = runner.int8 if arithmetic == "int8" else runner.model
    stack = runner.stack(f"{arithmetic}-{limit.lower() or 'all'}")
    stack = stack.model_copy(update={"reranker": stack.reranker.model_copy(update={"dtype": dtype})})
    size = sizing.size(stack, model, runner.host)
    spec = options.container_spec(stack, model, size, image=runner.image)
    if limit:
        spec = replace(spec, environment=(*spec.environment, ("ONEDNN_MAX_CPU_ISA", limit)))
    words, threads = round(TOKENS / TOKENS_PER_WORD) - 8, len(size.compute)
    requests = synthetic(ROUNDS + 1, documents, words, seed=31).requests
    cpus, timings, rates = spec.cpuset_cpus, [], []
    with (
        runner.started(spec, PREFIX) as server,
        sidecar(runner.engine, "none", runner.image, cpus=cpus, memory=4 << 30, seconds=1800) as container,
    ):
        for request in requests:
            rates.append(_tflops(runner, container, arithmetic, limit, threads))
            timings.append(server.send(request))
            log(f"{spec.name}: {documents} documents in {timings[-1].seconds:.1f} s, {rates[-1]:.3f} TFLOP/s")
        rates.append(_tflops(runner, container, arithmetic, limit, threads))
        origin = runner.provenance(spec)
    return Variant(arithmetic, limit, threads, server.ready, tuple(rates[1:]), tuple(timings[1:])), origin


def _tflops(runner: LaunchRunner, container: str, arithmetic: str, limit: str, threads: int) -> float:
    """Median rate of matrix multiplication with the limit, for a few seconds."""
    shapes = runner.model.shape.linear_layers
    order = json.dumps({"threads": threads, "shapes": shapes, **GEMM, "dtypes": [arithmetic]})
    program = files("ragops").joinpath("data/gemm.py").read_text()
    limits = [f"{name}={limit}" for name in ("ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS") if limit]
    argv = ("env", *limits, "python3", "-c", program)
    output = runner.engine.execute(container, argv, stdin=order, timeout=180.0)
    return float(json.loads(output.stdout)["gemms"][arithmetic].get("median") or 0.0)


if __name__ == "__main__":
    main(sys.argv[1], *sys.argv[2:])
