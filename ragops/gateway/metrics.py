"""Counts for Prometheus and of the last hour."""

from __future__ import annotations

import time
from collections import Counter, deque

BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 25.0, 27.0, 30.0, 60.0, 300.0)
PREFIX = "ragops_gateway_"


class Metrics:
    """What has been counted since the start."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._buckets: Counter[float] = Counter()
        self._seconds, self._requests = 0.0, 0
        self._minutes: deque[tuple[int, Counter[str]]] = deque(maxlen=60)

    def count(self, name: str, label: str = "", number: int = 1) -> None:
        """Add to a counter."""
        self.counts[f"{name}{{{label}}}" if label else name] += number

    def request(self, status: int, seconds: float, documents: Counter[str], *, late: bool) -> None:
        """Count one rerank request; ``documents`` by state."""
        self.count("requests_total", f'status="{status}"')
        self.count("late_requests_total", number=int(late))
        for state, number in documents.items():
            self.count("documents_total", f'state="{state}"', number)
        self._buckets.update(bound for bound in BUCKETS if seconds <= bound)
        self._seconds, self._requests = self._seconds + seconds, self._requests + 1
        ranked = documents["computed"] + documents["cached"]
        minute = int(time.monotonic() // 60)
        if not self._minutes or self._minutes[-1][0] != minute:
            self._minutes.append((minute, Counter()))
        self._minutes[-1][1].update(
            requests=1,
            late=int(late),
            documents=ranked + documents["unranked"],
            ranked=ranked,
            truncated=documents["truncated"],
        )

    def hour(self) -> dict[str, int]:
        """Counts of the last hour."""
        names = ("requests", "late", "documents", "ranked", "truncated")
        since = time.monotonic() // 60 - 60
        recent = [counts for minute, counts in self._minutes if minute > since]
        return {name: sum(counts[name] for counts in recent) for name in names}

    def text(self, gauges: dict[str, float]) -> str:
        """All metrics in Prometheus' text format."""
        samples = {**dict.fromkeys(("late_requests_total",), 0), **self.counts}
        kinds = {name.partition("{")[0]: "counter" for name in samples}
        kinds |= {name.partition("{")[0]: "gauge" for name in gauges}
        lines = []
        for kind in kinds:
            lines.append(f"# TYPE {PREFIX}{kind} {kinds[kind]}")
            rows = {**samples, **gauges}.items()
            lines += [f"{PREFIX}{name} {value}" for name, value in rows if name.partition("{")[0] == kind]
        lines.append(f"# TYPE {PREFIX}request_seconds histogram")
        lines += [
            f'{PREFIX}request_seconds_bucket{{le="{bound}"}} {self._buckets[bound]}' for bound in BUCKETS
        ]
        lines.append(f'{PREFIX}request_seconds_bucket{{le="+Inf"}} {self._requests}')
        lines += [
            f"{PREFIX}request_seconds_sum {self._seconds}",
            f"{PREFIX}request_seconds_count {self._requests}",
        ]
        return "\n".join(lines) + "\n"
