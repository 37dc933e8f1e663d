"""What the server and the machine counted during a run, and what of it was not ours; pure.

Reads the samples that stand right before and right after each pass.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ragops.bench.records import RequestRecord, Run, Sample

OTHERS = 0.1
"""Cores that other processes may use before a run says so: another process at a fifth of a core
made calls half as long again."""

STOLEN = 0.02
"""Cores that the hypervisor may keep before a run says so."""


@dataclass(frozen=True)
class Counted:
    """How far the counters rose during one pass; None where they could not be read, or fell."""

    ours: int
    """Rerank calls that were sent, warm-up included."""
    seconds: float
    calls: int | None
    """Rerank calls that the server answered, from whomever."""
    prompt_tokens: int | None
    cached_tokens: int | None
    cpu_ns: int | None
    throttled_ns: int | None
    host_busy_ns: int | None
    host_stolen_ns: int | None
    client_ns: int | None
    restarted: bool
    """Whether a counter of the reranker fell, because it was started again."""

    @property
    def strangers(self) -> int:
        """Calls that the server answered to somebody else, at least."""
        return max(0, (self.calls or 0) - self.ours)

    @property
    def others(self) -> float | None:
        """Cores that neither the reranker nor this client used."""
        if self.host_busy_ns is None or self.cpu_ns is None or self.client_ns is None:
            return None
        return max(0.0, (self.host_busy_ns - self.cpu_ns - self.client_ns) / 1e9 / self.seconds)

    @property
    def stolen(self) -> float:
        """Cores that the hypervisor kept."""
        return (self.host_stolen_ns or 0) / 1e9 / self.seconds


_RISING = tuple(
    name for name in (one.name for one in fields(Counted)) if name not in ("ours", "seconds", "restarted")
)
_SERVERS = ("calls", "prompt_tokens", "cpu_ns")


def counted(run: Run) -> dict[str, tuple[Counted, ...]]:
    """What was counted in the passes of each level, by its name; passes without samples are left out."""
    turns: dict[tuple[str, int, int], list[RequestRecord]] = defaultdict(list)
    for record in run.requests:
        turns[record.level, record.repeat, record.session].append(record)
    found: dict[str, tuple[Counted, ...]] = {}
    for (level, _, _), records in turns.items():
        if one := _pass(records, run.samples):
            found[level] = (*found.get(level, ()), one)
    return found


def cached_share(passes: tuple[Counted, ...]) -> float | None:
    """Share of all prompt tokens that the server did not compute but had; None where it didn't say."""
    known = [(one.cached_tokens, one.prompt_tokens) for one in passes]
    pairs = [(cached, prompt) for cached, prompt in known if cached is not None and prompt]
    return sum(cached for cached, _ in pairs) / sum(prompt for _, prompt in pairs) if pairs else None


def disturbances(run: Run) -> tuple[str, ...]:
    """What else went on: calls of somebody else, other processes, a restart, throttling; a line each."""
    passes = [one for level in counted(run).values() for one in level]
    strangers = sum(one.strangers for one in passes)
    others = max((one.others for one in passes if one.others is not None), default=0.0)
    stolen = max((one.stolen for one in passes), default=0.0)
    throttled = sum(one.throttled_ns or 0 for one in passes) / 1e9
    candidates = (
        f"a second client: the server answered {strangers} calls that were not ours" if strangers else "",
        f"other processes used up to {others:.1f} cores" if others > OTHERS else "",
        f"the hypervisor kept up to {stolen:.2f} cores" if stolen > STOLEN else "",
        f"the container was throttled for {throttled:.1f} s" if throttled >= 0.1 else "",
        "the reranker was started again during the run" if any(one.restarted for one in passes) else "",
    )
    return tuple(line for line in candidates if line)


def _pass(records: list[RequestRecord], samples: tuple[Sample, ...]) -> Counted | None:
    start, end = min(r.t_sched for r in records), max(r.t_done for r in records)
    first = max((one for one in samples if one.t <= start), key=lambda one: one.t, default=None)
    last = min((one for one in samples if one.t >= end), key=lambda one: one.t, default=None)
    if first is None or last is None or last.t <= first.t:
        return None
    return between(first, last, len(records))


def between(first: Sample, last: Sample, ours: int) -> Counted:
    """What was counted from one sample to a later one, while so many rerank calls were sent."""
    rises = {name: _rise(getattr(first, name), getattr(last, name)) for name in _RISING}
    return Counted(
        ours=ours,
        seconds=(last.t - first.t) / 1e9,
        restarted=any((rises[name] or 0) < 0 for name in _SERVERS),
        **{name: None if rise is None or rise < 0 else rise for name, rise in rises.items()},
    )


def _rise(first: int | None, last: int | None) -> int | None:
    return None if first is None or last is None else last - first
