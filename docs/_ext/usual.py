"""``.. generated:: usual``: what RAGFlow's usual request takes on two cores, by processor.

Measured with random weights of Qwen3-Reranker-0.6B's shape. The README has the same values.
"""  # noqa: INP001 - a folder of Sphinx extensions is no package

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from generated import PARTS, row_of

from ragops.ragflow.request import RERANK_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx

DATA = Path(__file__).parents[1] / "_data"
TOKENS = 64 * 280
FLOP = 880_803_840
"""Of a token of Qwen3-Reranker-0.6B, its linear layers."""


def seconds() -> list[tuple[str, float, str]]:
    """Processor and arithmetic, seconds of the request, and whether that is measured or estimated."""
    cores, int8, launches = (
        json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("gateway_cores", "gateway_deadline_int8", "launches")
    )
    machines = resources.files("ragops").joinpath("data/machines.jsonl").read_text(encoding="utf-8")
    speeds = {
        (row["instruction_set"], row["arithmetic"]): row.get("tokens_per_s")
        for row in map(json.loads, machines.splitlines())
        if row["flop"] == FLOP
    }
    both = next(row for row in cores["setups"] if row["name"] == "1 replica of 2 cores")["seconds_p50"]
    whole = next(row for row in int8["series"] if not row["is_short"])["questions"]
    typical = next(row["figure"] for row in launches["targets"] if "typical request" in row["name"])
    return [
        ("Intel Xeon with AMX, int8", median(row["first"]["seconds"] for row in whole), "measured"),
        ("Intel Xeon with AMX, bfloat16", both, "measured"),
        ("AMD EPYC with AVX-512, bfloat16", TOKENS / speeds["avx512bf16", "bfloat16"], "estimated"),
        ("AMD EPYC with AVX2, float32", float(re.findall(r"about (\d+) s", typical)[0]), "estimated"),
    ]


def usual() -> Iterator[str]:
    """A row for each processor."""
    yield from [".. list-table::", "   :header-rows: 1", "   :class: ragops-fields", ""]
    yield from row_of(("two cores of", f"64 documents of 280 tokens; RAGFlow waits {RERANK_TIMEOUT:.0f} s"))
    for processor, value, how in seconds():
        fits = "fits" if value < RERANK_TIMEOUT else "does not fit"
        yield from row_of((processor, f"{value:.0f} s, {how}: {fits}"))
    yield ""


def setup(_: Sphinx) -> dict[str, bool]:
    """Add the part to those of ``generated.py``."""
    PARTS["usual"] = usual
    return {"parallel_read_safe": True, "parallel_write_safe": True}
