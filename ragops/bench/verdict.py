"""Does a recorded run fit the time that RAGFlow waits, and what else would; pure.

It reads a run made with the ``ragflow`` workload or the user's own; ``stats.py`` has the figures,
``capacity.py`` the arithmetic of what was not measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragops.bench import capacity
from ragops.bench.capacity import MARGIN, ServiceTime
from ragops.bench.counters import disturbances
from ragops.bench.quantiles import Percentile, percentile, seconds
from ragops.bench.sizes import CHUNK_SIZE, LARGEST_CHUNK_SIZE, windows
from ragops.bench.stats import figures, waits
from ragops.errors import BenchError
from ragops.ragflow import releases

if TYPE_CHECKING:
    from ragops.bench.capacity import Calls
    from ragops.bench.level import Level
    from ragops.bench.records import RequestRecord, Run

PROFILES = ("ragflow", "own")
"""Workloads whose sizes are RAGFlow's, so that a verdict on them means something."""


@dataclass(frozen=True)
class Verdict:
    """Whether RAGFlow's calls end in time, and what else would.

    What was not measured but worked out lies :data:`~ragops.bench.capacity.MARGIN` below the limit.
    """

    sentence: str
    fits: bool | None
    """By the highest percentile that is known; None when the requests are too few, or the interval
    holds the limit."""
    level: Level
    """The level that was judged."""
    p95: Percentile
    p99: Percentile
    fits_p95: bool | None
    fits_p99: bool | None
    release: str
    """Release of RAGFlow that it is about."""
    budget: float
    """Seconds that RAGFlow waits."""
    service: ServiceTime | None
    """None when no line can be drawn, see ``notes``."""
    tokens_per_document: float | None
    largest_documents: int | None
    """Documents of this workload's mean length that a call may have."""
    is_extrapolated: bool
    """Whether :attr:`largest_documents` lies beyond what was measured."""
    largest_chunk: int | None
    """RAGFlow's ``chunk_token_num`` up to which these windows fit; None for the user's own texts, and
    where the model takes no longer ones."""
    callers: int | None
    """Callers that may ask at once, each back to back."""
    notes: tuple[str, ...]
    """What else a reader must know: stand-ins, an incomplete run, an unchecked order, a second client."""

    def replicas(self, callers: int) -> int | None:
        """Rerankers that so many callers at once need, each asking its own; None where none will do."""
        return math.ceil(callers / self.callers) if self.callers else None

    def __str__(self) -> str:
        """The sentence, then each answer on a line."""
        rows = (
            ("p95", _answer(self.fits_p95, self.p95, self.budget)),
            ("p99", _answer(self.fits_p99, self.p99, self.budget)),
            ("largest window", _upto(self.largest_documents, "documents a call", self.is_extrapolated)),
            ("largest chunk size", _upto(self.largest_chunk, "tokens, as set in RAGFlow", False)),
            ("callers at once", _upto(self.callers, "asking back to back", False)),
            ("line", str(self.service) if self.service else "none, see the notes"),
        )
        lines = [f"{name:<19} {value}" for name, value in rows]
        worked = f"window, chunk size and callers are worked out, {MARGIN:.0%} below the limit"
        return "\n".join([self.sentence, f"RAGFlow {self.release}, {self.budget:g} s", *lines, worked])


def verdict(run: Run, *, release: str = "", budget: float | None = None) -> Verdict:
    """Judge a run by its level with one client, which is how RAGFlow calls since v0.23.

    Without such a level the one with the fewest clients is taken, else the first. A failed
    request counts as slower than any answered one.

    Args:
        run: From :func:`ragops.bench.load_run`.
        release: RAGFlow's; the one that the workload was made for, else the newest, when left out.
        budget: Seconds that RAGFlow waits; the release's when None.

    Raises:
        BenchError: The workload isn't one of RAGFlow's sizes, or nothing was measured.
        RagflowError: The release is not known.
    """
    level, records = _judged(run)
    named = releases.of(release or run.info.workload.release or releases.NEWEST)
    budget = budget or named.timeout
    p95, p99 = (percentile(waits(records), share) for share in (0.95, 0.99))
    found, why = capacity.calls(records) if level.clients == 1 else (None, "no level with one client")
    share = p95.share if p99.value is None else p99.share
    largest = capacity.largest_window(found, share, budget) if found else None
    wrong = run.info.order.failed
    fits_p95, fits_p99 = (False if wrong else fits_in(one, budget) for one in (p95, p99))
    fits = fits_p95 if p99.value is None else fits_p99
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
        service=found.line if found else None,
        tokens_per_document=tokens_per_document(records),
        largest_documents=largest,
        is_extrapolated=largest is not None and largest > max(record.documents for record in records),
        largest_chunk=_largest_chunk(run, found, share, budget),
        callers=_callers(run, records if level.clients == 1 else [], share, budget),
        notes=(*_notes(run, named.name), *((f"no line of time against tokens: {why}",) if why else ())),
    )


def _judged(run: Run) -> tuple[Level, list[RequestRecord]]:
    if run.info.workload.profile not in PROFILES:
        raise BenchError(
            f"the workload {run.info.workload.name} says nothing about RAGFlow's limit",
            code="verdict-missing",
            evidence=f"its profile is {run.info.workload.profile}",
            hint="record with the ragflow workload, or with requests of your own",
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
    )


def tokens_per_document(records: list[RequestRecord]) -> float | None:
    """Mean tokens of a query and a document, as the server counted them; None when it did not."""
    counted = [record for record in records if record.tokens]
    documents = sum(record.documents for record in counted)
    return sum(record.tokens or 0 for record in counted) / documents if documents else None


def _largest_chunk(run: Run, found: Calls | None, share: float, budget: float) -> int | None:
    info = run.info.workload
    few_cut = not info.cut_to or (info.cut_documents or math.inf) < 0.01 * (info.documents or 0)
    if found is None or info.profile != "ragflow" or info.query_words is None or not few_cut:
        return None
    words = sum(r.words * r.documents for r in run.measured) / sum(r.documents for r in run.measured)
    template = run.info.template_tokens
    per_word = (found.tokens_per_document - template) / (words + info.query_words)
    fixed = template + per_word * info.query_words
    return capacity.largest_chunk(found, share, budget, now=CHUNK_SIZE, most=LARGEST_CHUNK_SIZE, fixed=fixed)


def _callers(run: Run, records: list[RequestRecord], share: float, budget: float) -> int | None:
    """Worked out from one client, and held to what was seen of several."""
    if len(records) < capacity.FEWEST or any(record.error for record in records):
        return None
    rows = {row.level.clients: row for row in figures(run) if row.level.clients}
    gain = rows[max(rows)].documents_per_s / rows[1].documents_per_s
    callers = capacity.most_callers([record.service for record in records], share, budget, gain=gain)
    for clients, row in sorted(rows.items()):
        seen = next((fits_in(one, budget) for one in row.latency if one.share == share), None)
        if seen is True:
            callers = max(callers, clients)
        elif seen is False:
            return min(callers, clients - 1)
    return callers


def fits_in(found: Percentile, budget: float) -> bool | None:
    """Whether a percentile is surely below, or surely not; None where that can't be told."""
    if found.low is None or found.high is None:
        return None
    if found.high < budget:
        return True
    return False if found.low >= budget else None


def _notes(run: Run, release: str) -> tuple[str, ...]:
    origin, workload = run.info.provenance, run.info.workload
    made_for = workload.release
    cut = f"{workload.cut_documents} of {workload.documents} documents" if workload.cut_documents else "pairs"
    candidates = (
        f"stand-in model: {origin.model_is_stand_in}" if origin.model_is_stand_in else "",
        f"stand-in client: {origin.client_is_stand_in}" if origin.client_is_stand_in else "",
        "" if run.info.complete else f"incomplete: {run.info.reason}",
        run.info.order.verdict if run.info.order.skipped or run.info.order.failed else "",
        f"lighter than RAGFlow's load: {cut} cut to {workload.cut_to} words" if workload.cut_to else "",
        f"the window is that of {made_for}" if made_for and windows(made_for) != windows(release) else "",
        *disturbances(run),
    )
    return tuple(note for note in candidates if note)


def _sentence(
    run: Run,
    level: Level,
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
        took = f"the slowest answer took {seconds(slowest)} of the {budget:g} s that RAGFlow {release} waits"
        return f"there are not enough requests to say: p95 {p95}, {took}"
    judged = p95 if p99.value is None else p99
    figures = f"{judged.name} is {judged}, n={judged.n}"
    more = f"; p99 needs {p99.needed} requests" if p99.value is None else f"; p95 {p95}"
    answer = {
        True: f"the calls of RAGFlow {release} fit its {budget:g} s",
        False: f"the calls of RAGFlow {release} do not fit its {budget:g} s",
        None: f"it can't be told whether the calls of RAGFlow {release} fit its {budget:g} s",
    }[fits]
    return f"{answer}: {figures}{more}"


def _answer(fits: bool | None, found: Percentile, budget: float) -> str:
    word = {True: "fits", False: "does not fit", None: "can't be told"}[fits]
    return f"{word} {budget:g} s: {found}"


def _upto(number: int | None, unit: str, extrapolated: bool) -> str:
    if number is None:
        return "can't be told"
    more = "more than " if number >= capacity.MOST and unit != "tokens, as set in RAGFlow" else ""
    return f"{more}{number:,} {unit}{', beyond what was measured' if extrapolated else ''}"
