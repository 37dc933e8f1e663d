"""Faults under steady load, and what the clients notice of each: a table that tests judge and pages show."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ragops.reranker.host import read_host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from ragops.docker.objects import EngineState
    from tests.support.fleet import Load, Sample

FULL = 0.8
"""Share of the rate before the faults that counts as full speed; the rest is the machine's noise."""
QUIET = 30.0
"""Seconds in which a machine that does nothing else reaches full speed."""
LIMIT = 240.0
"""Seconds for everything on any machine."""


@dataclass(frozen=True)
class Fault:
    """What happens to a fleet, and what ends it."""

    name: str
    begin: Callable[[Any], object]
    end: Callable[[Any], object] = lambda fleet: None
    seconds: float = 1.5
    until: str = ""
    """What the state contains before the end; how long that takes depends on the machine."""
    exception: str = ""
    """Why requests may fail, where they may."""
    after: int = 3
    """Admitted replicas after the end."""


@dataclass(frozen=True)
class Row:
    """A row of the recorded table."""

    fault: str
    requests: int
    failed: int
    cut: int
    """Failed requests that were under way when the fault began."""
    wrong: int
    slowest: float
    """Seconds of the slowest request."""
    without: float
    """The longest time in which no request was completed, in seconds."""
    full_speed: float | None
    """Seconds from the end of the fault until the clients get the rate of before; None on a busy machine."""
    idle: bool
    """Whether a replica got no work after the fault."""
    admitted: float
    """Seconds from the end of the fault until all replicas are admitted."""
    state: str
    """Of the replicas, just before the fault ends."""
    exception: str
    details: tuple[str, ...] = ()
    """Of failed and wrong requests."""


def run(fleet: Any, load: Load, rate: float, fault: Fault) -> Row:
    """One fault under load; ``rate`` is that of three replicas."""
    begin = time.monotonic()
    fault.begin(fleet)
    time.sleep(fault.seconds)
    state, latest = _state(fleet), time.monotonic() + LIMIT
    while fault.until not in state and time.monotonic() < latest:
        time.sleep(0.1)
        state = _state(fleet)
    fault.end(fleet)
    ended = time.monotonic()
    admitted = fleet.wait(fault.after, LIMIT)  # Swarm waits a minute or more for a task that does not end
    before, idle, full = _shares(fleet), True, None
    while full is None and time.monotonic() < admitted + (LIMIT if idle else QUIET):
        time.sleep(0.2)
        now = _shares(fleet)  # none while the gateway does not respond
        before = before or now
        got = sum(number > before.get(one, 0) for one, number in now.items())
        idle = idle and not fault.after <= len(now) == got
        full = load.full_speed(ended, FULL * rate * fault.after / 3)
    samples = load.between(begin, time.monotonic())
    failed = [one for one in samples if one.failure]
    return Row(
        fault.name,
        requests=len(samples),
        failed=len(failed),
        cut=sum(one.begin < begin for one in failed),
        wrong=sum(bool(one.wrong) for one in samples),
        slowest=round(max(one.seconds for one in samples), 2),
        without=round(_gap(begin, samples), 2),
        full_speed=None if full is None else round(full, 1),
        idle=idle and full is None,
        admitted=round(admitted - ended, 1),
        state=state,
        exception=fault.exception,
        details=tuple(sorted({one.failure or one.wrong for one in samples} - {""}))[:5],
    )


def _state(fleet: Any) -> str:
    states = fleet.states()
    others = {f"{one['state']} ({one['reason']})" for one in states if one["state"] != "admitted"}
    return ", ".join([f"{sum(one['state'] == 'admitted' for one in states)} admitted", *sorted(others)])


def _shares(fleet: Any) -> dict[str, int]:
    """Shares of requests that each admitted replica has got."""
    return {one["address"]: one["shares"] for one in fleet.states() if one["state"] == "admitted"}


def _gap(begin: float, samples: Iterable[Sample]) -> float:
    """The longest time in which no request was completed, in seconds."""
    ends = sorted(one.end for one in samples if not one.failure)
    return max((later - earlier for earlier, later in pairwise([begin, *ends])), default=0.0)


def learn(load: Load) -> float:
    """Requests in a second without a fault, after the gateway has learnt the pace of each replica."""
    time.sleep(2)
    begin = time.monotonic()
    time.sleep(3)
    return load.rate(begin, time.monotonic())


def write(file: Path, engine: EngineState, rows: Iterable[Row], **about: str) -> None:
    """Write the table, with where it was recorded."""
    where = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{read_host().cpu_model}, {len(read_host().cpus)} CPUs",
        "docker": engine.version,
        "kernel": engine.kernel,
        "python": platform.python_version(),
        "ragops": version("ragops-rerank"),
    }
    written = {"about": where | about, "rows": [asdict(row) for row in rows]}
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
