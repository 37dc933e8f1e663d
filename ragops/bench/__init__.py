"""Benchmarks of a reranker under the load that RAGFlow makes.

::

    path = await record(Server("http://127.0.0.1:8123/v1", "reranker"), BenchmarkConfig(ragflow()))
    run = load_run(path)
    summary(run)
    verdict(run).sentence

Measuring writes a folder, everything else only reads it. Measuring needs no more than ragops
itself; ``summary``, ``compare`` and the plots need the extra ``bench``.
"""

from __future__ import annotations

from ragops.bench.agreement import Agreement, agreement
from ragops.bench.capacity import affordable
from ragops.bench.compare import Comparison, compare
from ragops.bench.floor import measure_overhead
from ragops.bench.folder import load_run
from ragops.bench.gauges import meanwhile
from ragops.bench.level import Level
from ragops.bench.order import DEFAULT_CHECK, OrderCheck
from ragops.bench.page import write as report
from ragops.bench.plan import BenchmarkConfig, Server
from ragops.bench.records import (
    ClientOverhead,
    Gemm,
    GemmPeak,
    Provenance,
    RequestRecord,
    Run,
    RunInfo,
    Sample,
)
from ragops.bench.run import Progress, record, record_sync, resume, resume_sync
from ragops.bench.stats import LevelFigures, figures, frame, summary
from ragops.bench.verdict import Verdict, verdict
from ragops.bench.workload import Workload, from_jsonl, grid, ragflow, synthetic, words_for_context

__all__ = [
    "DEFAULT_CHECK",
    "Agreement",
    "BenchmarkConfig",
    "ClientOverhead",
    "Comparison",
    "Gemm",
    "GemmPeak",
    "Level",
    "LevelFigures",
    "OrderCheck",
    "Progress",
    "Provenance",
    "RequestRecord",
    "Run",
    "RunInfo",
    "Sample",
    "Server",
    "Verdict",
    "Workload",
    "affordable",
    "agreement",
    "compare",
    "figures",
    "frame",
    "from_jsonl",
    "grid",
    "load_run",
    "meanwhile",
    "measure_overhead",
    "ragflow",
    "record",
    "record_sync",
    "report",
    "resume",
    "resume_sync",
    "summary",
    "synthetic",
    "verdict",
    "words_for_context",
]
