"""Reports of load generators in one form; pure. ``clients.py`` calls the tools."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ragops.bench.statistics import level_statistics
from ragops.errors import BenchError

if TYPE_CHECKING:
    from ragops.bench.records import Run


@dataclass(frozen=True)
class Summary:
    """Values that a tool reports; latency from sending to the last byte."""

    requests: int
    errors: int
    p50_s: float
    requests_per_s: float
    client_cpu_s: float | None = None
    """CPU-seconds of the tool with its start; None if not measured."""


def read_vllm(text: str, requests: int) -> Summary:
    """The JSON of ``vllm bench serve --save-result``; for a rerank run it does not count the failed ones."""
    report = _object(text, "vllm bench serve")
    return Summary(
        requests=report["completed"],
        errors=requests - report["completed"],
        p50_s=report["p50_e2el_ms"] / 1e3,
        requests_per_s=report["request_throughput"],
    )


def read_aiperf(text: str, cpu_s: float | None = None) -> Summary:
    """AIPerf's ``profile_export_aiperf.json``; it leaves ``error_request_count`` out when there was none."""
    report = _object(text, "AIPerf")
    return Summary(
        requests=round(report["request_count"]["avg"]),
        errors=round((report.get("error_request_count") or {"avg": 0})["avg"]),
        p50_s=report["request_latency"]["p50"] / 1e3,
        requests_per_s=report["request_throughput"]["avg"],
        client_cpu_s=cpu_s,
    )


def read_ragops(run: Run) -> Summary:
    """A recorded run of one level; requests per second until the last response, as the other tools do."""
    (row,) = level_statistics(run)
    sent, done = min(one.t_send for one in run.measured), max(one.t_done for one in run.measured)
    p50 = row.service[0].value
    if p50 is None:
        raise BenchError(
            "too few requests for a median", evidence=f"{row.n} in {run.path.name}", code="run-too-small"
        )
    cpu = run.info.client.cpu_seconds_per_request if run.info.client else None
    return Summary(
        requests=row.n - row.errors,
        errors=row.errors,
        p50_s=p50,
        requests_per_s=(row.n - row.errors) / ((done - sent) / 1e9),
        client_cpu_s=None if cpu is None else cpu * len(run.requests),
    )


def _object(text: str, tool: str) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise BenchError(f"the report of {tool} is not JSON", evidence=text[-300:]) from error
    return report
