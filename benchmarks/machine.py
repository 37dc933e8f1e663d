"""Measures what ``ragops estimate`` needs of a machine: vLLM and matrix multiplication together.

::

    python -m benchmarks.machine docs/_data/machine.json

takes a quarter of an hour. For each data type and instruction set that the machine has, it measures matrix
multiplication, then vLLM with whole requests of RAGFlow's usual size where they end in time, else with fewer
documents. Fewer instructions than the processor has are set with oneDNN's own variable. Random weights.
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
    from ragops.docker.objects import ContainerSpec

ROUNDS, TOKENS = 3, 280
VARIANTS = (
    ("bfloat16", "bfloat16", "", 64),
    ("int8", "bfloat16", "", 64),
    ("bfloat16", "bfloat16", "AVX512_CORE_BF16", 16),
    ("int8", "bfloat16", "AVX512_CORE_VNNI", 16),
    ("float32", "float32", "AVX2", 6),
)
"""Arithmetic, data type, oneDNN's limit and documents of a request."""


@dataclass(frozen=True)
class Variant:
    """One launch; seconds, and TFLOP/s."""

    arithmetic: str
    limited: str
    threads: int
    tflops_before: float
    tflops_after: float
    ready: float
    computed_per_s: float
    """Median of the requests."""
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
    model = runner.int8 if arithmetic == "int8" else runner.model
    stack = runner.stack(f"{arithmetic}-{limit.lower() or 'all'}".replace("_", "-"))
    stack = stack.model_copy(update={"reranker": stack.reranker.model_copy(update={"dtype": dtype})})
    size = sizing.size(stack, model, runner.host)
    spec = options.container_spec(stack, model, size, image=runner.image)
    if limit:
        spec = replace(spec, environment=(*spec.environment, ("ONEDNN_MAX_CPU_ISA", limit)))
    words = round(TOKENS / TOKENS_PER_WORD) - 8
    requests = synthetic(ROUNDS + 1, documents, words, seed=31).requests
    before = _tflops(runner, spec, arithmetic, limit, len(size.compute))
    with runner.started(spec, PREFIX) as server:
        timings = []
        for request in requests:
            timings.append(server.send(request))
            log(f"{spec.name}: {documents} documents in {timings[-1].seconds:.1f} s")
        origin = runner.provenance(spec)
    after = _tflops(runner, spec, arithmetic, limit, len(size.compute))
    speeds = sorted(item.computed / item.seconds for item in timings[1:])
    middle = speeds[len(speeds) // 2]
    counted = tuple(timings[1:])
    threads = len(size.compute)
    return Variant(arithmetic, limit, threads, before, after, server.ready, middle, counted), origin


def _tflops(runner: LaunchRunner, spec: ContainerSpec, arithmetic: str, limit: str, threads: int) -> float:
    """Of matrix multiplication with the limit."""
    shapes = runner.model.shape.linear_layers
    order = json.dumps({"threads": threads, "shapes": shapes, **GEMM, "dtypes": [arithmetic], "seconds": 5.0})
    program = files("ragops").joinpath("data/gemm.py").read_text()
    argv = ("env", *([f"ONEDNN_MAX_CPU_ISA={limit}"] if limit else []), "python3", "-c", program)
    with sidecar(runner.engine, "none", runner.image, cpus=spec.cpuset_cpus, memory=4 << 30) as container:
        output = runner.engine.execute(container, argv, stdin=order, timeout=180.0)
    result = json.loads(output.stdout)["gemms"][arithmetic]
    log(f"{arithmetic} {limit}: {result}")
    return float(result.get("tflops") or 0.0)


if __name__ == "__main__":
    main(sys.argv[1], *sys.argv[2:])
