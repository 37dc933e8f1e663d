"""Differences of the server's and the machine's counters over each trial, and disturbances; pure."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ragops.bench.records import RequestRecord, Run, Sample

OTHER_CPU = 0.1
"""Cores used by other processes above which a run is reported as disturbed: a fifth of a core made
requests half as long again."""

STEAL = 0.02
"""Cores withheld by the hypervisor above which a run is reported as disturbed."""


@dataclass(frozen=True)
class TrialCounters:
    """Increase of the counters over one trial; None where one could not be read, or fell."""

    ours: int
    """Requests of this run, warm-up included."""
    seconds: float
    calls: int | None
    """Rerank requests served, from all clients."""
    prompt_tokens: int | None
    cached_tokens: int | None
    cpu_ns: int | None
    throttled_ns: int | None
    host_busy_ns: int | None
    host_stolen_ns: int | None
    client_ns: int | None
    restarted: bool
    """Whether a counter of the reranker fell, as after a restart."""

    @property
    def foreign_requests(self) -> int:
        """Lower bound of the requests of other clients."""
        return max(0, (self.calls or 0) - self.ours)

    @property
    def other_cpu(self) -> float | None:
        """Cores used by processes other than the reranker and this client."""
        if self.host_busy_ns is None or self.cpu_ns is None or self.client_ns is None:
            return None
        return max(0.0, (self.host_busy_ns - self.cpu_ns - self.client_ns) / 1e9 / self.seconds)

    @property
    def steal(self) -> float:
        """Cores withheld by the hypervisor."""
        return (self.host_stolen_ns or 0) / 1e9 / self.seconds


_RISING = tuple(
    name
    for name in (one.name for one in fields(TrialCounters))
    if name not in ("ours", "seconds", "restarted")
)
_SERVERS = ("calls", "prompt_tokens", "cpu_ns")


def trial_counters(run: Run) -> dict[str, tuple[TrialCounters, ...]]:
    """Counters of the trials of each level, by its name; trials without samples are left out."""
    turns: dict[tuple[str, int, int], list[RequestRecord]] = defaultdict(list)
    for record in run.requests:
        turns[record.level, record.repeat, record.session].append(record)
    found: dict[str, tuple[TrialCounters, ...]] = {}
    for (level, _, _), records in turns.items():
        if one := _pass(records, run.samples):
            found[level] = (*found.get(level, ()), one)
    return found


def cached_share(passes: tuple[TrialCounters, ...]) -> float | None:
    """Fraction of all prompt tokens found in the prefix cache; None where not reported."""
    known = [(one.cached_tokens, one.prompt_tokens) for one in passes]
    pairs = [(cached, prompt) for cached, prompt in known if cached is not None and prompt]
    return sum(cached for cached, _ in pairs) / sum(prompt for _, prompt in pairs) if pairs else None


def disturbances(run: Run) -> tuple[str, ...]:
    """Other clients, other processes, steal, throttling and restarts; a line each."""
    passes = [one for level in trial_counters(run).values() for one in level]
    foreign_requests = sum(one.foreign_requests for one in passes)
    other_cpu = max((one.other_cpu for one in passes if one.other_cpu is not None), default=0.0)
    steal = max((one.steal for one in passes), default=0.0)
    throttled = sum(one.throttled_ns or 0 for one in passes) / 1e9
    candidates = (
        f"a second client: the server processed {foreign_requests} requests of others"
        if foreign_requests
        else "",
        f"other processes used up to {other_cpu:.1f} cores" if other_cpu > OTHER_CPU else "",
        f"the hypervisor withheld up to {steal:.2f} cores" if steal > STEAL else "",
        f"the container was throttled for {throttled:.1f} s" if throttled >= 0.1 else "",
        "the reranker was restarted during the run" if any(one.restarted for one in passes) else "",
    )
    return tuple(line for line in candidates if line)


def _pass(records: list[RequestRecord], samples: tuple[Sample, ...]) -> TrialCounters | None:
    start, end = min(r.t_sched for r in records), max(r.t_done for r in records)
    first = max((one for one in samples if one.t <= start), key=lambda one: one.t, default=None)
    last = min((one for one in samples if one.t >= end), key=lambda one: one.t, default=None)
    if first is None or last is None or last.t <= first.t:
        return None
    return between(first, last, len(records))


def between(first: Sample, last: Sample, ours: int) -> TrialCounters:
    """Counters from one sample to a later one, between which ``ours`` requests were sent."""
    rises = {name: _rise(getattr(first, name), getattr(last, name)) for name in _RISING}
    return TrialCounters(
        ours=ours,
        seconds=(last.t - first.t) / 1e9,
        restarted=any((rises[name] or 0) < 0 for name in _SERVERS),
        **{name: None if rise is None or rise < 0 else rise for name, rise in rises.items()},
    )


def _rise(first: int | None, last: int | None) -> int | None:
    return None if first is None or last is None else last - first
