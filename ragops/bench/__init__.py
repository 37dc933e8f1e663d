"""Benchmarks of a reranker under the load that RAGFlow makes.

::

    path = record(Server("http://127.0.0.1:8123/v1", "reranker"), BenchmarkConfig(ragflow()))
    run = load_run(path)
    summary(run)
    judge(run).sentence

Measuring writes a folder, everything else only reads it. Measuring needs no more than ragops itself; tables,
comparisons, charts and the report need the extra ``bench``.
"""

from ragops.bench.compare import Agreement, Comparison, agreement, compare_runs
from ragops.bench.records import LoadLevel, Provenance, RequestRecord, Run, load_run
from ragops.bench.report import Verdict, affordable, judge, write_report
from ragops.bench.run import BenchmarkConfig, record, resume
from ragops.bench.statistics import LevelStatistics, frame, level_statistics, resource_usage, summary
from ragops.bench.wire import Server
from ragops.bench.workload import Workload, from_jsonl, grid, ragflow, synthetic
from ragops.checks.traffic import words_for_context

__all__ = [
    "Agreement",
    "BenchmarkConfig",
    "Comparison",
    "LevelStatistics",
    "LoadLevel",
    "Provenance",
    "RequestRecord",
    "Run",
    "Server",
    "Verdict",
    "Workload",
    "affordable",
    "agreement",
    "compare_runs",
    "frame",
    "from_jsonl",
    "grid",
    "judge",
    "level_statistics",
    "load_run",
    "ragflow",
    "record",
    "resource_usage",
    "resume",
    "summary",
    "synthetic",
    "words_for_context",
    "write_report",
]
