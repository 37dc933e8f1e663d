"""What a machine can do at most: matrix multiplication of the model's shapes, on the reranker's CPUs.

Measured in a container of the reranker's own image before a load starts, never during it. A benchmark
keeps it, and so says which share of it was reached.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import TYPE_CHECKING

from ragops.bench.records import Gemm, GemmPeak
from ragops.errors import BenchError
from ragops.sidecar import sidecar

if TYPE_CHECKING:
    from ragops.engine import Engine
    from ragops.model import Model

DTYPES = ("float32", "bfloat16", "int8")

TOKENS = 2048
"""Rows of the left matrix: tokens of one step of vLLM."""

SECONDS = 3.0
"""For each data type."""

Shape = tuple[int, int, int]
"""Rows and columns of a weight, and its count in the model."""

_GATED = ("qwen", "llama", "mistral", "gemma", "modernbert")


def shapes(model: Model) -> tuple[Shape, ...]:
    """The linear layers of a model: query with key and value, output, up (with its gate), down.

    Raises:
        BenchError: ``config.json`` lacks the number of heads, hidden size or layers.
    """
    config = json.loads((model.folder / "config.json").read_text(encoding="utf-8"))
    heads, sizes = config.get("num_attention_heads"), model.shape
    if not isinstance(heads, int) or not all((sizes.hidden, sizes.intermediate, sizes.layers)):
        raise BenchError(
            f"the shape of {model.name} is unknown",
            code="limit-unknown",
            evidence=f"num_attention_heads: {heads}",
            hint="config.json names heads, hidden size and layers in the folders that vLLM serves",
        )
    queries, keys = heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    gates = 2 if str(config.get("model_type", "")).startswith(_GATED) else 1
    return (
        (sizes.hidden, queries + 2 * keys, sizes.layers),
        (queries, sizes.hidden, sizes.layers),
        (sizes.hidden, gates * sizes.intermediate, sizes.layers),
        (sizes.intermediate, sizes.hidden, sizes.layers),
    )


def flop_per_token(found: tuple[Shape, ...]) -> float:
    """Multiplications and additions of the linear layers for one token, without attention."""
    return float(sum(2 * rows * columns * count for rows, columns, count in found))


def measure(engine: Engine, image: str, model: Model, served: str, cpus: str, threads: int) -> GemmPeak:
    """Measure the matrix multiplication peak; takes some seconds for each data type.

    Args:
        engine: Where the reranker runs.
        image: The reranker's image, which has torch.
        model: Whose shapes to multiply.
        served: Data type of the reranker, such as ``bfloat16``.
        cpus: The reranker's CPUs, such as ``0-3``.
        threads: Threads that compute.

    Raises:
        BenchError: The image has no torch, or the model's shape is unknown.
        EngineError: The container could not be started.
    """
    layers = shapes(model)
    order = {"threads": threads, "dtypes": DTYPES, "shapes": layers, "tokens": TOKENS, "seconds": SECONDS}
    program = (resources.files("ragops.data") / "gemm.py").read_text()
    with sidecar(engine, "none", image, cpus=cpus) as probe:
        done = engine.execute(probe, ("python3", "-c", program), stdin=json.dumps(order), timeout=180.0)
    try:
        result = json.loads(done.stdout)
    except json.JSONDecodeError as error:
        evidence = (done.stderr or done.stdout)[-600:]
        hint = "the image needs python3 with torch, as vLLM's own images have"
        raise BenchError(
            "the machine's limit could not be measured", code="limit-unknown", evidence=evidence, hint=hint
        ) from error
    gemms = tuple(
        Gemm(name, row.get("tflops"), row.get("error", "")) for name, row in result["gemms"].items()
    )
    return GemmPeak(served, flop_per_token(layers), result["threads"], gemms)
