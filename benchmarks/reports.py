"""What load generators say of a run, as one form; pure. ``clients.py`` calls them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ragops.bench.statistics import level_statistics
from ragops.errors import BenchError

if TYPE_CHECKING:
    from ragops.bench.records import Run


@dataclass(frozen=True)
class Seen:
    """What a tool says of its requests; latency from sending to the last byte."""

    requests: int
    errors: int
    p50_s: float
    requests_per_s: float
    client_cpu_s: float | None = None
    """CPU-seconds of the tool with its start; None where it was not measured."""


def read_vllm(text: str, requests: int) -> Seen:
    """The JSON of ``vllm bench serve --save-result``; for a rerank run it does not count the failed ones."""
    said = _object(text, "vllm bench serve")
    return Seen(
        requests=said["completed"],
        errors=requests - said["completed"],
        p50_s=said["p50_e2el_ms"] / 1e3,
        requests_per_s=said["request_throughput"],
    )


def read_aiperf(text: str, cpu_s: float | None = None) -> Seen:
    """AIPerf's ``profile_export_aiperf.json``; it leaves ``error_request_count`` out when there was none."""
    said = _object(text, "AIPerf")
    return Seen(
        requests=round(said["request_count"]["avg"]),
        errors=round((said.get("error_request_count") or {"avg": 0})["avg"]),
        p50_s=said["request_latency"]["p50"] / 1e3,
        requests_per_s=said["request_throughput"]["avg"],
        client_cpu_s=cpu_s,
    )


def read_ragops(run: Run) -> Seen:
    """A recorded run of one level; requests a second until the last answer, as the other tools count them."""
    (row,) = level_statistics(run)
    sent, done = min(one.t_send for one in run.measured), max(one.t_done for one in run.measured)
    p50 = row.service[0].value
    if p50 is None:
        raise BenchError(
            "too few requests for a median", evidence=f"{row.n} in {run.path.name}", code="run-too-small"
        )
    cpu = run.info.client.cpu_seconds_per_request if run.info.client else None
    return Seen(
        requests=row.n - row.errors,
        errors=row.errors,
        p50_s=p50,
        requests_per_s=(row.n - row.errors) / ((done - sent) / 1e9),
        client_cpu_s=None if cpu is None else cpu * len(run.requests),
    )


def _object(text: str, tool: str) -> dict[str, Any]:
    try:
        said: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise BenchError(f"what {tool} wrote is no JSON", evidence=text[-300:]) from error
    return said
