"""What a machine can do at most: matrix multiplication of the model's shapes, on the reranker's CPUs.

Measured in a container of the reranker's own image before a load starts, never during it. A benchmark
keeps it, and so says which share of it was reached.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import TYPE_CHECKING

from ragops.bench.records import Gemm, Limit
from ragops.errors import BenchError
from ragops.sidecar import sidecar

if TYPE_CHECKING:
    from ragops.engine import Engine
    from ragops.model import Model

DTYPES = ("float32", "bfloat16", "int8")

TOKENS = 2048
"""Rows of the left matrix: tokens that vLLM takes in one step."""

SECONDS = 3.0
"""For each arithmetic."""

Shape = tuple[int, int, int]
"""Rows and columns of a weight, and how often the model has it."""

_GATED = ("qwen", "llama", "mistral", "gemma", "modernbert")


def shapes(model: Model) -> tuple[Shape, ...]:
    """The linear layers of a model: query with key and value, output, up (with its gate), down.

    Raises:
        BenchError: ``config.json`` doesn't say how many heads there are.
    """
    config = json.loads((model.folder / "config.json").read_text(encoding="utf-8"))
    heads, sizes = config.get("num_attention_heads"), model.shape
    if not isinstance(heads, int) or not all((sizes.hidden, sizes.intermediate, sizes.layers)):
        raise BenchError(
            f"{model.name} does not tell its shape",
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
    """Multiplications and additions of the linear layers for one token; attention comes on top."""
    return float(sum(2 * rows * columns * count for rows, columns, count in found))


def measure(engine: Engine, image: str, model: Model, served: str, cpus: str, threads: int) -> Limit:
    """Measure it; takes some seconds for each arithmetic.

    Args:
        engine: Where the reranker runs.
        image: The reranker's image, which has torch.
        model: Whose shapes to multiply.
        served: Arithmetic of the reranker, such as ``bfloat16``.
        cpus: The reranker's CPUs, such as ``0-3``.
        threads: Threads that compute.

    Raises:
        BenchError: The image has no torch, or the model doesn't tell its shape.
        EngineError: The container could not be started.
    """
    wanted = shapes(model)
    order = {"threads": threads, "dtypes": DTYPES, "shapes": wanted, "tokens": TOKENS, "seconds": SECONDS}
    program = (resources.files("ragops.data") / "gemm.py").read_text()
    with sidecar(engine, "none", image, cpus=cpus) as probe:
        done = engine.execute(probe, ("python3", "-c", program), stdin=json.dumps(order), timeout=180.0)
    try:
        said = json.loads(done.stdout)
    except json.JSONDecodeError as error:
        evidence = (done.stderr or done.stdout)[-600:]
        hint = "the image needs python3 with torch, as vLLM's own images have"
        raise BenchError(
            "the machine's limit could not be measured", code="limit-unknown", evidence=evidence, hint=hint
        ) from error
    gemms = tuple(Gemm(name, row.get("tflops"), row.get("error", "")) for name, row in said["gemms"].items())
    return Limit(served, flop_per_token(wanted), said["threads"], gemms)
