"""Does a recorded run fit the time that RAGFlow waits, and how many documents would; pure.

It reads a run made with the ``ragflow`` workload or the user's own; ``stats.py`` has the figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import StatisticsError, linear_regression
from typing import TYPE_CHECKING

from ragops.bench.quantiles import Percentile, percentile, seconds
from ragops.bench.stats import waits
from ragops.bench.wire import RAGFLOW_TIMEOUT
from ragops.errors import BenchError

if TYPE_CHECKING:
    from ragops.bench.level import Level
    from ragops.bench.records import RequestRecord, Run

PROFILES = ("ragflow", "own")
"""Workloads whose sizes are RAGFlow's, so that a verdict on them means something."""

_FEWEST = 6
_MARGIN = 2.0


@dataclass(frozen=True)
class ServiceTime:
    """A request takes ``fixed_s + per_token_s * tokens``; least squares over single requests."""

    fixed_s: float
    per_token_s: float
    residual_s: float
    """Standard error of the fit in seconds: how far off it is, as a rule."""
    n: int

    def seconds(self, tokens: float) -> float:
        """Expected seconds of a request of so many tokens."""
        return self.fixed_s + self.per_token_s * tokens

    def __str__(self) -> str:
        """The fitted line with its error."""
        line = f"t = {self.fixed_s:.3f} s + {self.per_token_s * 1e3:.3g} ms a token"
        return f"{line}, residual {seconds(self.residual_s)}, n={self.n}"


@dataclass(frozen=True)
class Verdict:
    """Whether RAGFlow's calls end in time."""

    sentence: str
    fits: bool | None
    """None when the requests are too few, or the interval holds the limit."""
    level: Level
    """The level that was judged."""
    p95: Percentile
    p99: Percentile
    budget: float
    """Seconds that RAGFlow waits."""
    service: ServiceTime | None
    """None when no line can be drawn, see ``notes``."""
    tokens_per_document: float | None
    largest_documents: int | None
    """Documents of this workload's mean length that fit with two residuals to spare."""
    is_extrapolated: bool
    """Whether :attr:`largest_documents` lies beyond what was measured."""
    notes: tuple[str, ...]
    """What else a reader must know: stand-ins, an incomplete run, an unchecked order."""


def verdict(run: Run, *, budget: float = RAGFLOW_TIMEOUT) -> Verdict:
    """Judge a run by its level with one client, which is how RAGFlow calls since v0.23.

    Without such a level the one with the fewest clients is taken, else the first. A failed
    request counts as slower than any answered one.

    Args:
        run: From :func:`ragops.bench.load_run`.
        budget: Seconds that RAGFlow waits; 30 since v0.25.3, 300 before.

    Raises:
        BenchError: The workload isn't one of RAGFlow's sizes, or nothing was measured.
    """
    level, records = _judged(run)
    p95, p99 = (percentile(waits(records), share) for share in (0.95, 0.99))
    service, why = service_time(records) if level.clients == 1 else (None, "no level with one client")
    each = tokens_per_document(records)
    largest = most_documents(service, each, budget)
    notes = (*_notes(run), *((f"no line of time against tokens: {why}",) if why else ()))
    fits = False if run.info.order.failed else fits_in(p99, budget, fits_in(p95, budget, None))
    return Verdict(
        sentence=_sentence(run, level, records, (p95, p99), budget, fits),
        fits=fits,
        level=level,
        p95=p95,
        p99=p99,
        budget=budget,
        service=service,
        tokens_per_document=each,
        largest_documents=largest,
        is_extrapolated=largest is not None and largest > max(record.documents for record in records),
        notes=notes,
    )


def service_time(records: list[RequestRecord]) -> tuple[ServiceTime | None, str]:
    """The line of time against tokens, or None and the reason why there is none.

    Args:
        records: Requests that were sent one at a time, so that none waited for another.
    """
    good = [(record.tokens, record.service) for record in records if record.tokens and not record.error]
    if len(good) < _FEWEST:
        return None, f"only {len(good)} answers with a count of tokens"
    tokens, times = zip(*good, strict=True)
    try:
        slope, start = linear_regression(tokens, times)
    except StatisticsError:
        return None, "all requests have the same number of tokens"
    if slope <= 0:
        return None, "time does not rise with tokens"
    squares = sum((time - start - slope * count) ** 2 for count, time in good)
    return ServiceTime(start, slope, math.sqrt(squares / (len(good) - 2)), len(good)), ""


def _judged(run: Run) -> tuple[Level, list[RequestRecord]]:
    if run.info.workload.profile not in PROFILES:
        raise BenchError(
            f"the workload {run.info.workload.name} says nothing about RAGFlow's limit",
            evidence=f"its profile is {run.info.workload.profile}",
            hint="record with the ragflow workload, or with requests of your own",
        )
    levels = sorted(run.info.levels, key=lambda level: level.clients or math.inf)
    for level in levels:
        records = [record for record in run.measured if record.level == level.name]
        if records:
            return level, records
    raise BenchError(f"{run.path} has no measured request", hint="record again; see its run.json for why")


def tokens_per_document(records: list[RequestRecord]) -> float | None:
    """Mean tokens of a query and a document, as the server counted them; None when it did not."""
    counted = [record for record in records if record.tokens]
    documents = sum(record.documents for record in counted)
    return sum(record.tokens or 0 for record in counted) / documents if documents else None


def most_documents(service: ServiceTime | None, each: float | None, budget: float) -> int | None:
    """Documents of so many tokens each that fit with two residuals to spare; None without a line."""
    if service is None or each is None:
        return None
    spare = budget - service.fixed_s - _MARGIN * service.residual_s
    return max(0, math.floor(spare / (service.per_token_s * each)))


def fits_in(found: Percentile, budget: float, otherwise: bool | None) -> bool | None:
    """Whether a percentile is surely below, or surely not; ``otherwise`` where there is no interval."""
    if found.low is None or found.high is None:
        return otherwise
    if found.high < budget:
        return True
    return False if found.low >= budget else None


def _notes(run: Run) -> tuple[str, ...]:
    origin, limit = run.info.provenance, run.info.workload.cut_to
    candidates = (
        f"stand-in model: {origin.model_is_stand_in}" if origin.model_is_stand_in else "",
        f"stand-in client: {origin.client_is_stand_in}" if origin.client_is_stand_in else "",
        "" if run.info.complete else f"incomplete: {run.info.reason}",
        run.info.order.verdict if run.info.order.skipped or run.info.order.failed else "",
        f"lighter than RAGFlow's load: pairs cut to {limit} words" if limit else "",
    )
    return tuple(note for note in candidates if note)


def _sentence(
    run: Run,
    level: Level,
    records: list[RequestRecord],
    found: tuple[Percentile, Percentile],
    budget: float,
    fits: bool | None,
) -> str:
    notes = f" ({'; '.join(_notes(run))})" if _notes(run) else ""
    if run.info.order.failed:
        return f"The scores were wrong, so the speed proves nothing{notes}."
    how = "one request at a time" if level.clients == 1 else f"load {level.name}"
    failed = sum(bool(record.error) for record in records)
    errors = f", {failed} of {len(records)} failed" if failed else ""
    return f"With {how}, {_claim(records, found, budget, fits)}{errors}{notes}."


def _claim(
    records: list[RequestRecord], found: tuple[Percentile, Percentile], budget: float, fits: bool | None
) -> str:
    p95, p99 = found
    if p95.value is None:
        slowest = max((record.latency for record in records if not record.error), default=math.inf)
        took = f"the slowest answer took {seconds(slowest)} of the {budget:g} s that RAGFlow waits"
        return f"there are not enough requests to say: p95 {p95}, {took}"
    judged = p95 if p99.value is None else p99
    figures = f"{judged.name} is {judged}, n={judged.n}"
    more = f"; p99 needs {p99.needed} requests" if p99.value is None else f"; p95 {p95}"
    answer = {
        True: f"RAGFlow's calls fit its {budget:g} s",
        False: f"RAGFlow's calls do not fit its {budget:g} s",
        None: f"it can't be told whether RAGFlow's calls fit its {budget:g} s",
    }[fits]
    return f"{answer}: {figures}{more}"
