"""Benchmarks of a reranker under the load that RAGFlow makes.

::

    path = record(Server("http://127.0.0.1:8123/v1", "reranker"), BenchmarkConfig(ragflow()))
    run = load_run(path)
    summary(run)
    judge(run).sentence

Measuring writes a folder, everything else only reads it. Measuring needs no more than ragops
itself; ``summary``, ``compare`` and the plots need the extra ``bench``.
"""

from __future__ import annotations

from ragops.bench.compare import Agreement, Comparison, agreement, compare_runs
from ragops.bench.load import BenchmarkConfig, Server
from ragops.bench.records import (
    DEFAULT_CHECK,
    ClientOverhead,
    Gemm,
    GemmPeak,
    LoadLevel,
    OrderCheck,
    Provenance,
    RequestRecord,
    Run,
    RunInfo,
    Sample,
    load_run,
)
from ragops.bench.report import write_report
from ragops.bench.run import RunProgress, measure_overhead, record, resume
from ragops.bench.series import meanwhile
from ragops.bench.statistics import LevelFigures, figures, frame, summary
from ragops.bench.verdict import Verdict, affordable, judge
from ragops.bench.workload import Workload, from_jsonl, grid, ragflow, synthetic
from ragops.checks.traffic import words_for_context

__all__ = [
    "DEFAULT_CHECK",
    "Agreement",
    "BenchmarkConfig",
    "ClientOverhead",
    "Comparison",
    "Gemm",
    "GemmPeak",
    "LevelFigures",
    "LoadLevel",
    "OrderCheck",
    "Provenance",
    "RequestRecord",
    "Run",
    "RunInfo",
    "RunProgress",
    "Sample",
    "Server",
    "Verdict",
    "Workload",
    "affordable",
    "agreement",
    "compare_runs",
    "figures",
    "frame",
    "from_jsonl",
    "grid",
    "judge",
    "load_run",
    "meanwhile",
    "measure_overhead",
    "ragflow",
    "record",
    "resume",
    "summary",
    "synthetic",
    "words_for_context",
    "write_report",
]
