"""Counts for Prometheus and of the last hour."""

import re
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import groupby

BUCKETS = (0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 15, 20, 25, 27, 30, 60, 300, "+Inf")
PREFIX, KINDS = "ragops_gateway_", {"request_seconds": "histogram"}
HOUR = ("requests", "late", "documents", "ranked", "truncated")
FROM_ZERO = (
    *("late_requests_total", 'requests_total{status="200"}', 'requests_total{status="503"}'),
    *(f'documents_total{{state="{state}"}}' for state in ("computed", "cached", "unranked", "truncated")),
    *(f'shares_total{{outcome="{outcome}"}}' for outcome in ("ok", "retried", "hedged", "failed")),
    *(f'request_seconds_bucket{{le="{bound}"}}' for bound in BUCKETS),
    *("request_seconds_sum", "request_seconds_count"),
)
"""Series that are 0 at the start: Prometheus does not see the first event of one that appears with it."""


class Metrics:
    """What has been counted since the start."""

    def __init__(self) -> None:
        self.counts: dict[str, float] = defaultdict(int, dict.fromkeys(FROM_ZERO, 0))
        self._minutes: dict[int, Counter[str]] = {}

    def request(self, status: int, seconds: float, documents: Counter[str], *, late: bool) -> None:
        """Count one rerank request; ``documents`` by state."""
        self.counts[f'requests_total{{status="{status}"}}'] += 1
        self.counts["late_requests_total"] += late
        for state, number in documents.items():
            self.counts[f'documents_total{{state="{state}"}}'] += number
        for bound in BUCKETS:
            self.counts[f'request_seconds_bucket{{le="{bound}"}}'] += seconds <= float(bound)
        self.counts["request_seconds_sum"] += seconds
        self.counts["request_seconds_count"] += 1
        minute = int(time.monotonic() // 60)
        self._minutes = {old: counts for old, counts in self._minutes.items() if old > minute - 60}
        ranked = documents["computed"] + documents["cached"]
        row = (1, int(late), ranked + documents["unranked"], ranked, documents["truncated"])
        self._minutes.setdefault(minute, Counter()).update(dict(zip(HOUR, row, strict=True)))

    def hour(self) -> dict[str, int]:
        """Counts of the last hour."""
        rows = [row for minute, row in self._minutes.items() if minute > time.monotonic() // 60 - 60]
        return {name: sum(row[name] for row in rows) for name in HOUR}

    def text(self, gauges: Mapping[str, float]) -> str:
        """All metrics in Prometheus' text format."""
        lines, samples = list[str](), {**self.counts, **gauges}
        for family, names in groupby(sorted(samples, key=_family), _family):
            kind = "counter" if family.endswith("_total") else KINDS.get(family, "gauge")
            lines.append(f"# TYPE {PREFIX}{family} {kind}")
            lines += [f"{PREFIX}{name} {samples[name]}" for name in names]
        return "\n".join(lines) + "\n"


def _family(name: str) -> str:
    return re.sub(r"(_bucket|_sum|_count)?(\{.*)?$", "", name)
