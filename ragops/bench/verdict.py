"""Verdict of a recorded run: do RAGFlow's requests end within its timeout; pure.

For runs of the ``ragflow`` workload or of the user's own requests. ``statistics.py`` computes the measured
values, ``checks/latency.py`` the percentiles and the estimate of the largest window.
"""

import math
from dataclasses import dataclass
from statistics import fmean

from ragops.bench import statistics
from ragops.bench.records import LoadLevel, RequestRecord, Run
from ragops.bench.workload import Workload
from ragops.checks import latency
from ragops.checks.traffic import windows
from ragops.errors import BenchError
from ragops.ragflow import releases
from ragops.ragflow.releases import Release
from ragops.table import Column, Shown, Table

PROFILES = ("ragflow", "own")
"""Workloads with RAGFlow's request sizes."""

_CLAIMS = {
    True: "requests fit",
    False: "requests do not fit",
    None: "it is inconclusive whether requests fit",
}


@dataclass(frozen=True, repr=False)
class Verdict(Shown):
    """Whether RAGFlow's requests end within its timeout."""

    sentence: str
    """The result with the notes that qualify it."""
    fits: bool | None
    """By the highest percentile with an interval; None when inconclusive: too few requests, or the
    interval contains the timeout."""
    level: LoadLevel
    """The load level that was judged."""
    p95: latency.Percentile
    p99: latency.Percentile
    release: str
    """Release of RAGFlow."""
    timeout: float
    """RAGFlow's timeout in seconds."""
    clients: int | None
    """Most concurrent clients of a measured load level whose requests fit; None when none does."""
    service: latency.ServiceTime | None
    """Linear fit of time against tokens; None when there is none."""
    largest_documents: int | None
    """Estimated: documents of this workload's mean length that a request may have,
    :data:`~ragops.checks.latency.MARGIN` below the timeout."""
    is_extrapolated: bool
    """Whether :attr:`largest_documents` is above the largest measured request."""
    no_estimate: str
    """Why :attr:`largest_documents` is None; empty when it is not."""
    notes: tuple[str, ...]
    """Substitute model or client, incomplete run, unchecked order, other load."""
    ranked: float | None
    """Fraction of the documents with a score of the model; None without a gateway."""

    def table(self) -> Table:
        """The sentence, and a row for each result."""
        window = f"none: {self.no_estimate}"
        if self.largest_documents is not None:
            more = "more than " if self.largest_documents >= latency.MOST else ""
            beyond = ", beyond the measured sizes" if self.is_extrapolated else ""
            window = (
                f"{more}{self.largest_documents:,} documents, {latency.MARGIN:.0%} below the timeout{beyond}"
            )
        rows = (
            ("RAGFlow", f"{self.release}, timeout {self.timeout:g} s"),
            ("load level", f"{statistics.load_name(self.level.name)}, n={self.p95.n}"),
            *((p.name, str(p)) for p in (self.p95, self.p99)),
            *([] if self.ranked is None else [("documents ranked", _percent(self.ranked))]),
            ("concurrent clients", f"{self.clients or 'none'} measured to fit"),
            ("largest window (estimated)", window),
            ("linear fit", str(self.service or "none")),
        )
        return Table((Column("result"), Column("value")), rows, self.sentence)


def release_of(run: Run) -> Release:
    """Release of RAGFlow by whose timeout a run is judged: that of its workload, else the newest."""
    return releases.of_or_nearest(run.info.workload.release or releases.NEWEST)


def judge(run: Run, *, release: str = "", timeout: float | None = None) -> Verdict:
    """Judge a run by its load level with one client, which is how RAGFlow sends requests since v0.23.

    Without one, by the level with the fewest clients, else the first. A failed request counts as slower
    than any successful one.

    Args:
        run: From :func:`ragops.bench.load_run`.
        release: Of RAGFlow; that of the workload, else the newest, when left out.
        timeout: RAGFlow's timeout in seconds; the release's when None.

    Raises:
        BenchError: The workload does not have RAGFlow's request sizes, or nothing was measured.
        RagflowError: The text is not a release's name.
    """
    if run.info.workload.profile not in PROFILES:
        what = f"the workload {run.info.workload.name} gives no verdict on RAGFlow's timeout"
        hint = "record with the ragflow workload, or with requests of your own"
        evidence = f"its profile is {run.info.workload.profile}"
        raise BenchError(what, code="verdict-missing", evidence=evidence, hint=hint, file=run.path)
    level, records = statistics.lightest_level(run)
    ragflow = releases.of_or_nearest(release) if release else release_of(run)
    timeout = timeout or ragflow.timeout
    p95, p99 = (latency.percentile(statistics.latencies(records), quantile) for quantile in (0.95, 0.99))
    quantile = 0.95 if p99.value is None else 0.99
    wrong_scores, ranked = run.info.order.failed, statistics.gateway_fraction(records, "ranked")
    fits = False if wrong_scores else latency.fits_in(p95 if p99.value is None else p99, timeout)
    calls = [latency.TimedCall(r.documents, r.service, r.tokens or 0, r.error) for r in records]
    line, reason = None, _no_fit(level, records)
    if not reason:
        line, reason = latency.fit_requests(calls)
    largest = latency.largest_window(line, calls, quantile, timeout) if line else None
    if largest is not None and (contrary := latency.contradiction(largest, calls, quantile, timeout)):
        largest, reason = None, contrary
    notes = notes_of(run, ragflow)
    limit = f"RAGFlow {ragflow.name}'s timeout of {timeout:g} s"
    claim = "The scores were wrong, so the speed is meaningless"
    if not wrong_scores:
        part = "" if ranked in {None, 1.0} else f" with {_percent(ranked)} of documents ranked"
        claim = _claim(level, records, p95, p99, f"{_CLAIMS[fits]} {limit}{part}")
    return Verdict(
        sentence=sentences(claim, *notes),
        fits=fits,
        level=level,
        p95=p95,
        p99=p99,
        release=ragflow.name,
        timeout=timeout,
        clients=None if wrong_scores else _clients(run, f"p{quantile * 100:g}", timeout),
        service=line,
        largest_documents=largest,
        is_extrapolated=largest is not None and largest > max(record.documents for record in records),
        no_estimate=reason,
        notes=notes,
        ranked=ranked,
    )


def _percent(fraction: float) -> str:
    """Rounded down: 100 % are all."""
    return f"{math.floor(100 * fraction)} %"


def _no_fit(level: LoadLevel, records: list[RequestRecord]) -> str:
    """Why times of requests don't depend on their tokens alone; empty if they do."""
    if level.clients != 1:
        return "no load level with one client"
    if any(not record.error and record.ranked < record.documents for record in records):
        return "the gateway's deadline ended requests"
    return "the gateway's cache had scores" if any(statistics.gateway_values(records, "cached")) else ""


def _clients(run: Run, percentile_name: str, timeout: float) -> int | None:
    """Most concurrent clients within the timeout, below the first level that exceeds it."""
    most = None
    for row in sorted(statistics.level_statistics(run), key=lambda row: row.level.clients or math.inf):
        fits = [latency.fits_in(p, timeout) for p in row.latency if p.name == percentile_name]
        if row.level.clients and False in fits:
            break
        most = row.level.clients if row.level.clients and True in fits else most
    return most


def sentences(*clauses: str) -> str:
    """Clauses as sentences."""
    return " ".join(f"{clause[0].upper()}{clause[1:]}." for clause in clauses)


def notes_of(run: Run, ragflow: Release) -> tuple[str, ...]:
    """What qualifies the values of a run, a clause each."""
    workload, order = run.info.workload, run.info.order
    notes = list(statistics.substitutes(run))
    if not run.info.complete:
        notes.append(f"incomplete: {run.info.reason}")
    if order.skipped or order.failed:
        notes.append(order.verdict)
    if workload.cut_to:
        documents = f"{workload.cut_documents} of {workload.documents} documents"
        cut = documents if workload.cut_documents else "pairs"
        notes.append(f"lighter than RAGFlow's load: {cut} cut to {workload.cut_to} words")
    if ragflow.assumed:
        notes.append(ragflow.assumed)
    if workload.release and windows(workload.release) != windows(ragflow.name):
        notes.append(f"the window is that of {workload.release}")
    return (*notes, *statistics.disturbances(run))


def _claim(
    level: LoadLevel,
    records: list[RequestRecord],
    p95: latency.Percentile,
    p99: latency.Percentile,
    result: str,
) -> str:
    load = "one request at a time" if level.clients == 1 else statistics.load_name(level.name)
    claim = f"with {load}, {result}."
    failed = [record for record in records if record.error]
    errors = f". {len(failed)} of {len(records)} failed" if failed else ""
    if failed:
        errors += f", first request {failed[0].index + 1} of the workload: {failed[0].error[:160]}"
    if p95.value is None:
        slowest = max((record.latency for record in records if not record.error), default=math.inf)
        few = f"There are too few requests ({p95.n} of {p95.needed})"
        return f"{claim} {few}; the slowest took {latency.seconds(slowest)}{errors}"
    if p99.value is None:
        return f"{claim} p95 is {p95}, n={p95.n}; p99 needs {p99.needed} requests{errors}"
    return f"{claim} p99 is {p99}, p95 is {p95}, n={p99.n}{errors}"


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
    successful = [record for record in records if not record.error]
    if not successful:
        return fewest
    largest = max(record.documents * record.words for record in successful)
    times = [record.service for record in successful if record.documents * record.words == largest]
    words = fmean(len(request.documents) * request.words for request in requests)
    return min(len(requests), max(fewest, int(seconds / (fmean(times) * words / largest))))
