"""Counts for Prometheus and of the last hour."""

import re
import time
from collections import Counter
from itertools import groupby

BUCKETS = (0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 15, 20, 25, 27, 30, 60, 300, float("inf"))
PREFIX = "ragops_gateway_"
SECONDS = "request_seconds"
HOUR = ("requests", "late", "documents", "ranked", "truncated")
STATES, OUTCOMES = ("computed", "cached", "unranked", "truncated"), ("ok", "retried", "hedged", "failed")
FROM_ZERO = (
    *("late_requests_total", 'requests_total{status="200"}', 'requests_total{status="503"}'),
    *(f'documents_total{{state="{state}"}}' for state in STATES),
    *(f'shares_total{{outcome="{outcome}"}}' for outcome in OUTCOMES),
)
"""Series that are 0 at the start: Prometheus does not see the first event of one that appears with it."""


def _family(name: str) -> str:
    return re.sub(r"(_bucket|_sum|_count)?(\{.*)?$", "", name)


class Metrics:
    """What has been counted since the start."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(FROM_ZERO, 0))
        names = [f'{SECONDS}_bucket{{le="{bound:g}"}}'.replace("inf", "+Inf") for bound in BUCKETS]
        self._bounds = dict(zip(names, BUCKETS, strict=True))
        self._seconds = dict.fromkeys((*self._bounds, f"{SECONDS}_sum", f"{SECONDS}_count"), 0.0)
        self._minutes: dict[int, Counter[str]] = {}

    def request(self, status: int, seconds: float, documents: Counter[str], *, late: bool) -> None:
        """Count one rerank request; ``documents`` by state."""
        self.counts.update({f'requests_total{{status="{status}"}}': 1, "late_requests_total": int(late)})
        for state, number in documents.items():
            self.counts[f'documents_total{{state="{state}"}}'] += number
        for name, bound in self._bounds.items():
            self._seconds[name] += seconds <= bound
        self._seconds[f"{SECONDS}_sum"] += seconds
        self._seconds[f"{SECONDS}_count"] += 1
        minute = int(time.monotonic() // 60)
        self._minutes = {old: counts for old, counts in self._minutes.items() if old > minute - 60}
        ranked = documents["computed"] + documents["cached"]
        row = (1, int(late), ranked + documents["unranked"], ranked, documents["truncated"])
        self._minutes.setdefault(minute, Counter()).update(dict(zip(HOUR, row, strict=True)))

    def hour(self) -> dict[str, int]:
        """Counts of the last hour."""
        since = time.monotonic() // 60 - 60
        return {
            name: sum(row[name] for minute, row in self._minutes.items() if minute > since) for name in HOUR
        }

    def text(self, gauges: dict[str, int]) -> str:
        """All metrics in Prometheus' text format."""
        lines = []
        samples = sorted({**self.counts, **gauges, **self._seconds}.items(), key=lambda row: _family(row[0]))
        for family, rows in groupby(samples, key=lambda row: _family(row[0])):
            kind = "counter" if family.endswith("_total") else "histogram" if family == SECONDS else "gauge"
            lines.append(f"# TYPE {PREFIX}{family} {kind}")
            lines += [f"{PREFIX}{name} {value}" for name, value in rows]
        return "\n".join(lines) + "\n"
