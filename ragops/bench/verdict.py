"""Verdict of a recorded run against RAGFlow's timeout; pure.

For runs of the ``ragflow`` workload or of the user's own requests; ``stats.py`` computes the measured
values, ``capacity.py`` estimates the largest window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from ragops.bench.statistics import disturbances, figures, waits
from ragops.checks.latency import (
    MARGIN,
    MOST,
    Percentile,
    ServiceTime,
    fit_requests,
    fits_in,
    largest_window,
    percentile,
    seconds,
)
from ragops.checks.traffic import windows
from ragops.errors import BenchError
from ragops.ragflow import releases

if TYPE_CHECKING:
    from ragops.bench.records import LoadLevel, RequestRecord, Run
    from ragops.bench.workload import Workload


def affordable(records: list[RequestRecord], workload: Workload, seconds: float, *, fewest: int = 12) -> int:
    """How many requests of a workload end in a time, sent one after the other.

    Their estimated time is that of the largest measured request, in proportion to their words.

    Args:
        records: Requests that were sent one at a time, such as those of a grid of sizes.
        workload: What is to be sent; no more than it has.
        seconds: The time.
        fewest: Lower bound of the result.
    """
    requests = workload.requests
    good = [record for record in records if not record.error]
    if not good:
        return fewest
    largest = max(record.documents * record.words for record in good)
    times = [record.service for record in good if record.documents * record.words == largest]
    words = fmean(len(request.documents) * request.words for request in requests)
    return min(len(requests), max(fewest, int(seconds / (fmean(times) * words / largest))))


PROFILES = ("ragflow", "own")
"""Workloads with RAGFlow's request sizes."""

_FITS = {True: "fits", False: "does not fit", None: "inconclusive"}


@dataclass(frozen=True)
class Verdict:
    """Whether RAGFlow's requests end within its timeout."""

    sentence: str
    fits: bool | None
    """By the highest percentile with an interval; None when inconclusive: too few requests, or the
    interval contains the timeout."""
    level: LoadLevel
    """The load level that was judged."""
    p95: Percentile
    p99: Percentile
    fits_p95: bool | None
    fits_p99: bool | None
    release: str
    """Release of RAGFlow."""
    budget: float
    """RAGFlow's timeout in seconds."""
    clients: int | None
    """Most concurrent clients of a measured load level whose requests fit; None when none does."""
    service: ServiceTime | None
    """Linear fit of time against tokens; None when there is none, see ``notes``."""
    tokens_per_document: float | None
    largest_documents: int | None
    """Estimated: documents of this workload's mean length that a request may have,
    :data:`~ragops.checks.latency.MARGIN` below the timeout."""
    is_extrapolated: bool
    """Whether :attr:`largest_documents` is above the largest measured request."""
    notes: tuple[str, ...]
    """Substitute model or client, incomplete run, unchecked order, other load."""

    def rows(self) -> tuple[tuple[str, str], ...]:
        """Name and value of each result, for a table."""
        window = "inconclusive"
        if self.largest_documents is not None:
            more = "more than " if self.largest_documents >= MOST else ""
            beyond = ", beyond the measured sizes" if self.is_extrapolated else ""
            window = f"{more}{self.largest_documents:,} documents, {MARGIN:.0%} below the timeout{beyond}"
        return (
            ("RAGFlow", f"{self.release}, timeout {self.budget:g} s"),
            ("load level", f"{self.level.name}, n={self.p95.n}"),
            ("p95", f"{_FITS[self.fits_p95]}: {self.p95}"),
            ("p99", f"{_FITS[self.fits_p99]}: {self.p99}"),
            (
                "concurrent clients",
                f"{self.clients} measured to fit" if self.clients else "none measured to fit",
            ),
            ("largest window (estimated)", window),
            ("linear fit", str(self.service) if self.service else "none, see the notes"),
        )

    def __str__(self) -> str:
        """The sentence, then each result on a line."""
        return "\n".join([self.sentence, *(f"{name:<27} {value}" for name, value in self.rows())])


def judge(run: Run, *, release: str = "", budget: float | None = None) -> Verdict:
    """Judge a run by its load level with one client, which is how RAGFlow calls since v0.23.

    Without one, by the level with the fewest clients, else the first. A failed request counts as slower
    than any successful one.

    Args:
        run: From :func:`ragops.bench.load_run`.
        release: Of RAGFlow; that of the workload, else the newest, when left out.
        budget: RAGFlow's timeout in seconds; the release's when None.

    Raises:
        BenchError: The workload does not have RAGFlow's request sizes, or nothing was measured.
        RagflowError: The release is not known.
    """
    level, records = _judged(run)
    named = releases.of(release or run.info.workload.release or releases.NEWEST)
    budget = budget or named.timeout
    p95, p99 = (percentile(waits(records), share) for share in (0.95, 0.99))
    if level.clients == 1:
        fitted, reason = fit_requests(records)
    else:
        fitted, reason = None, "no load level with one client"
    judged = p95 if p99.value is None else p99
    largest = largest_window(fitted, judged.share, budget) if fitted else None
    notes = _notes(run, named.name)
    if reason:
        notes = (*notes, f"no linear fit of time against tokens: {reason}")
    wrong = run.info.order.failed
    fits_p95, fits_p99 = (False if wrong else fits_in(one, budget) for one in (p95, p99))
    fits = fits_p95 if judged is p95 else fits_p99
    return Verdict(
        sentence=_sentence(run, level, records, (p95, p99), (named.name, budget), fits),
        fits=fits,
        level=level,
        p95=p95,
        p99=p99,
        fits_p95=fits_p95,
        fits_p99=fits_p99,
        release=named.name,
        budget=budget,
        clients=_clients(run, judged.share, budget),
        service=fitted.line if fitted else None,
        tokens_per_document=tokens_per_document(records),
        largest_documents=largest,
        is_extrapolated=largest is not None and largest > max(record.documents for record in records),
        notes=notes,
    )


def _judged(run: Run) -> tuple[LoadLevel, list[RequestRecord]]:
    if run.info.workload.profile not in PROFILES:
        raise BenchError(
            f"the workload {run.info.workload.name} says nothing about RAGFlow's limit",
            code="verdict-missing",
            evidence=f"its profile is {run.info.workload.profile}",
            hint="record with the ragflow workload, or with requests of your own",
            file=run.path,
        )
    levels = sorted(run.info.levels, key=lambda level: level.clients or math.inf)
    for level in levels:
        records = [record for record in run.measured if record.level == level.name]
        if records:
            return level, records
    raise BenchError(
        f"{run.path} has no measured request",
        code="run-too-small",
        hint="record again; see its run.json for why",
        file=run.path,
    )


def tokens_per_document(records: list[RequestRecord]) -> float | None:
    """Mean tokens of a query and a document, as the server counted them; None when it did not."""
    counted = [record for record in records if record.tokens]
    documents = sum(record.documents for record in counted)
    return sum(record.tokens or 0 for record in counted) / documents if documents else None


def _clients(run: Run, quantile: float, budget: float) -> int | None:
    if run.info.order.failed:
        return None
    fitting = [
        row.level.clients
        for row in figures(run)
        if row.level.clients and any(p.share == quantile and fits_in(p, budget) for p in row.latency)
    ]
    return max(fitting, default=None)


def _notes(run: Run, release: str) -> tuple[str, ...]:
    origin, workload = run.info.provenance, run.info.workload
    made_for = workload.release
    cut = f"{workload.cut_documents} of {workload.documents} documents" if workload.cut_documents else "pairs"
    candidates = (
        f"substitute model: {origin.model_is_stand_in}" if origin.model_is_stand_in else "",
        f"substitute client: {origin.client_is_stand_in}" if origin.client_is_stand_in else "",
        "" if run.info.complete else f"incomplete: {run.info.reason}",
        run.info.order.verdict if run.info.order.skipped or run.info.order.failed else "",
        f"lighter than RAGFlow's load: {cut} cut to {workload.cut_to} words" if workload.cut_to else "",
        f"the window is that of {made_for}" if made_for and windows(made_for) != windows(release) else "",
        *disturbances(run),
    )
    return tuple(note for note in candidates if note)


def _sentence(
    run: Run,
    level: LoadLevel,
    records: list[RequestRecord],
    found: tuple[Percentile, Percentile],
    limit: tuple[str, float],
    fits: bool | None,
) -> str:
    notes = f" ({'; '.join(_notes(run, limit[0]))})" if _notes(run, limit[0]) else ""
    if run.info.order.failed:
        return f"The scores were wrong, so the speed proves nothing{notes}."
    how = "one request at a time" if level.clients == 1 else f"load {level.name}"
    failed = sum(bool(record.error) for record in records)
    errors = f", {failed} of {len(records)} failed" if failed else ""
    return f"With {how}, {_claim(records, found, limit, fits)}{errors}{notes}."


def _claim(
    records: list[RequestRecord],
    found: tuple[Percentile, Percentile],
    limit: tuple[str, float],
    fits: bool | None,
) -> str:
    p95, p99 = found
    release, budget = limit
    if p95.value is None:
        slowest = max((record.latency for record in records if not record.error), default=math.inf)
        took = f"the slowest response took {seconds(slowest)} of the {budget:g} s of RAGFlow {release}"
        return f"there are too few requests for a verdict: p95 {p95}, {took}"
    judged = p95 if p99.value is None else p99
    figures = f"{judged.name} is {judged}, n={judged.n}"
    more = f"; p99 needs {p99.needed} requests" if p99.value is None else f"; p95 {p95}"
    answer = {
        True: f"the calls of RAGFlow {release} fit its {budget:g} s",
        False: f"the calls of RAGFlow {release} do not fit its {budget:g} s",
        None: f"it is inconclusive whether the calls of RAGFlow {release} fit its {budget:g} s",
    }[fits]
    return f"{answer}: {figures}{more}"
