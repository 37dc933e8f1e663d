"""A recorded run for its readers: do RAGFlow's requests end within its timeout, and a page with all values.

The verdict is for runs of the ``ragflow`` workload or of the user's own requests. The page, which
``data/report.html.jinja`` lays out, needs no other file; the same run gives the same bytes.
``statistics.py`` computes the measured values, ``checks/latency.py`` the estimate of the largest window.
"""

import math
import shlex
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from statistics import fmean
from typing import Any

from ragops.bench import statistics
from ragops.bench.records import LoadLevel, RequestRecord, Run
from ragops.bench.statistics import extra, load_name
from ragops.bench.workload import Workload
from ragops.checks import latency
from ragops.checks.traffic import windows
from ragops.errors import BenchError, file_errors
from ragops.ragflow import releases
from ragops.ragflow.releases import Release
from ragops.reranker.sizing import GIB
from ragops.table import Column, Row, Shown, Table

PROFILES = ("ragflow", "own")
"""Workloads with RAGFlow's request sizes."""

_FEWEST = 12
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
            ("load level", f"{load_name(self.level.name)}, n={self.p95.n}"),
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
    load = "one request at a time" if level.clients == 1 else load_name(level.name)
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


def affordable(records: list[RequestRecord], workload: Workload, seconds: float) -> int:
    """How many requests of a workload end in a time, sent one after the other; at least 12.

    Their estimated time is that of the largest measured request, in proportion to their words.

    Args:
        records: Requests that were sent one at a time, such as those of a grid of sizes.
        workload: What is to be sent; no more than it has.
        seconds: The time.
    """
    requests = workload.requests
    successful = [record for record in records if not record.error]
    if not successful:
        return _FEWEST
    largest = max(record.documents * record.words for record in successful)
    times = [record.service for record in successful if record.documents * record.words == largest]
    words = fmean(len(request.documents) * request.words for request in requests)
    return min(len(requests), max(_FEWEST, int(seconds / (fmean(times) * words / largest))))


NamedValue = tuple[str, str]


@dataclass(frozen=True)
class Section:
    """A part of the page with its chart, text and table."""

    title: str
    text: str
    """What the chart shows, in words; or why there is none."""
    table: Table | None = None
    chart: str = ""
    """Name of the function of ``ragops.bench.plots``; empty without one."""


def page(run: Run) -> str:
    """The report of a run: a self-contained HTML document."""
    jinja2, plots = extra("jinja2"), extra("ragops.bench.plots")
    source = (resources.files("ragops.data") / "report.html.jinja").read_text(encoding="utf-8")
    options: Any = {"undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    template = jinja2.Environment(autoescape=True, **options).from_string(source)
    facts = [("Verdict", verdict_rows(run)), ("Provenance", provenance(run))]
    verdict, origin = (
        Section(title, "", Table(_columns("fact", "value"), rows, css_class="facts")) for title, rows in facts
    )
    missing = Section("What this run does not show", "", Table(notes=limitations(run)))
    parts = (*([verdict] if verdict_rows(run) else []), *sections(run), missing, origin)
    names = [section.chart for section in parts if section.chart]
    charts = {name: plots.inline(plots.svg(getattr(plots, name)(run)), f"{name}-") for name in names}
    text: str = template.render(name=run.path.name, headline=headline(run), sections=parts, charts=charts)
    return text


def _columns(*names: str) -> tuple[Column, ...]:
    return tuple(map(Column, names))


def write_report(run: Run, out: Path) -> Path:
    """Write the report atomically, and return its file; an existing file is replaced.

    Args:
        run: From :func:`ragops.bench.load_run`.
        out: The page's file.

    Raises:
        BenchError: The file can't be written, or matplotlib or Jinja2 is not installed.
    """
    text, draft = page(run), out.with_name(f".{out.name}.new")
    with file_errors(BenchError, f"can't write {out}", out, hint="name another place with --out"):
        if out.exists() and not out.is_file():
            raise OSError("it is not a regular file")  # /dev/null would be replaced
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(text, encoding="utf-8")
            draft.replace(out)
        finally:
            draft.unlink(missing_ok=True)
    return out


def headline(run: Run) -> str:
    """The sentence of the verdict, or what was measured instead."""
    try:
        return judge(run).sentence
    except BenchError:  # a run of another kind of load has no verdict
        kind = "loads of this kind give no verdict on RAGFlow's timeout"
        notes = notes_of(run, release_of(run))
        return sentences(f"measured: {run.info.workload.description}", kind, *notes)


def verdict_rows(run: Run) -> tuple[Row, ...]:
    """The rows of the verdict; none for workloads without one."""
    try:
        return judge(run).table().rows
    except BenchError:
        return ()


def provenance(run: Run) -> tuple[NamedValue, ...]:
    """The run, the machine, the software and the method; only what is known."""
    info, origin = run.info, run.info.provenance
    digest = origin.image_digest.removeprefix("sha256:")
    fresh = "no request sent twice" if info.fresh else "the same texts in each trial, so a cache may be hit"
    cpu_ms = info.client and info.client.cpu_seconds_per_request * 1e3
    repeats = "once" if info.repeats == 1 else f"{info.repeats} times"
    commit, changed = _labelled("commit {}", origin.git_commit), "with changes" * bool(origin.git_dirty)
    limits = _joined(_labelled("{:g} cores", origin.cgroup_cpu_cores), _gib(origin.cgroup_memory_bytes))
    rows = (
        ("run", run.path.name),
        ("started", _joined(info.started, *(f"continued {time}" for time in info.resumed))),
        ("complete", "yes" if info.complete else f"no: {info.reason}"),
        ("model", _joined(origin.model or info.model, _labelled("sha256 {}", origin.model_sha256))),
        ("substitute model", origin.model_is_stand_in or "no"),
        ("client", _labelled("substitute: {}", origin.client_is_stand_in)),
        ("measured from", origin.vantage),
        ("image", _joined(origin.image, _labelled("sha256 {}", digest))),
        ("vLLM options", shlex.join(origin.launch_arguments)),
        ("gateway", origin.gateway),
        ("environment", " ".join(f"{name}={value}" for name, value in origin.environment)),
        ("machine", _joined(origin.machine, origin.cpu_model, _gib(origin.memory_bytes))),
        ("CPU features", " ".join(origin.cpu_features)),
        ("cores", origin.cores),
        ("container's limits", limits),
        ("matrix multiplication limit", _limit(run)),
        ("vLLM", origin.vllm),
        ("ragops", _joined(origin.ragops, commit, changed)),
        ("Docker", origin.docker),
        ("kernel", origin.kernel),
        ("Python", origin.python),
        ("workload", info.workload.description),
        ("workload's sha256", info.workload.sha256),
        ("seeds", f"workload {info.workload.seed}, arrivals and order {info.seed}"),
        ("load levels", f"each {repeats}, in the order {', '.join(info.order_played)}; {fresh}"),
        ("warm-up", f"{info.warmup} requests at the head of each trial, not counted"),
        ("timeout", f"{info.timeout:g} s"),
        ("scores", info.order.verdict),
        ("client overhead", _labelled("{:.1f} ms of CPU a request", cpu_ms)),
    )
    return tuple((name, value) for name, value in rows if value)


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _labelled(form: str, value: Any) -> str:
    return form.format(value) if value else ""


def _gib(size: int | None) -> str:
    return f"{size / GIB:.2f} GiB of memory" if size else ""


def _limit(run: Run) -> str:
    """The GEMM peak of the machine, and the fraction of it that was reached."""
    limit = run.info.limit
    if limit is None:
        return ""
    peaks = [
        f"{gemm.dtype} {gemm.tflops:.2f} TFLOP/s" if gemm.tflops else f"{gemm.dtype}: {gemm.error}"
        for gemm in limit.gemms
    ]
    reached = max((row.limit_fraction or 0 for row in statistics.level_statistics(run)), default=0)
    at_most = _labelled("so at most {:.0f} tokens/s", limit.tokens_per_s)
    return _joined(*peaks, at_most, _labelled("of which {:.0%} were reached", reached))


def limitations(run: Run) -> tuple[str, ...]:
    """What the run does not show, apart from what the headline names."""
    info = run.info
    few = sorted({p.name for row in statistics.level_statistics(run) for p in row.latency if p.value is None})
    clients = max((level.clients or math.inf for level in info.levels), default=0)
    drift = "One repetition of each load level, so the drift between repetitions is unknown."
    has_peak = info.limit and info.limit.tokens_per_s
    rows = (
        *((True, f"{problem}.") for problem in run.problems),
        (True, "RAGFlow itself, its search and its chat model are in no number here."),
        (few, f"Too few requests on some load levels for: {', '.join(few)}."),
        (info.repeats == 1, drift),
        (clients == 1, "Several concurrent clients were not measured."),
        (not run.samples, "CPU, memory and vLLM's queue: no samples were taken."),
        (not info.client, "The client's overhead was not measured."),
        (not has_peak, "The matrix multiplication limit of the machine was not measured."),
        (True, "Other machines, other models, other days: this is one run."),
    )
    return tuple(sentence for applies, sentence in rows if applies)


def sections(run: Run) -> tuple[Section, ...]:
    """All questions, in the order of the report."""
    return (_percentiles(run), _throughput(run), _sizes(run), _timeline(run))


def _percentiles(run: Run) -> Section:
    title, rows = "How slow are the slowest?", statistics.level_statistics(run)
    if not rows:
        return Section(title, "No request was measured, so there is no percentile.")
    slowest = max((r.latency for r in run.measured if not r.error), default=0)
    texts = [
        f"{load_name(row.level.name)} (n={row.n}): "
        + ", ".join(f"{p.name} {p}" for p in row.latency if p.value is not None)
        for row in rows
    ]
    timeout = release_of(run).timeout
    texts.append(f"The slowest response took {latency.seconds(slowest)}; RAGFlow's timeout is {timeout:g} s.")
    return Section(title, ". ".join(texts), statistics.summary(run), "percentile_curve")


def _throughput(run: Run) -> Section:
    title, rows = "How much at once, and what does it cost?", statistics.level_statistics(run)
    if len(rows) < 2:
        return Section(title, "There is one load level, so there is no throughput to compare.")
    texts = [f"{load_name(row.level.name)}: {row.documents_per_s:.3g} documents/s" for row in rows]
    return Section(title, f"{', '.join(texts)}. The table above has all values.", chart="throughput")


def _sizes(run: Run) -> Section:
    title = "How long for how many documents of which length?"
    level, records = statistics.lightest_level(run) if run.measured else (None, [])
    table = statistics.frame(replace(run, requests=tuple(r for r in records if not r.error)))
    if not level or table.empty:
        return Section(title, "No request was successful.")
    lengths, sizes = table.words.nunique(), len(table.groupby(["documents", "words"]))
    is_grid = lengths <= 12 and 2 * sizes > lengths * table.documents.nunique()
    rows = []
    for size, group in table.groupby(["documents", "words"] if is_grid else ["documents"]):
        p50, tokens = latency.percentile(list(group.latency), 0.5), group.tokens.median()
        middle = f"{latency.seconds(group.latency.median())} (no interval)" if p50.value is None else str(p50)
        counted = "not counted" if math.isnan(tokens) else f"{tokens:.0f}"
        documents, words = (*map(str, size), "all")[:2]
        rows.append(
            (documents, words, str(len(group)), counted, middle, latency.seconds(group.latency.max()))
        )
    form = "{4} for {0} documents of {1} words" if is_grid else "{4} for {0} documents"
    least, most = (form.format(*row) for row in (rows[0], rows[-1]))
    columns = _columns("documents", "words in each", "n", "tokens in a request, median", "p50", "slowest")
    text, heading = (
        f"p50 goes from {least} to {most}.",
        f"Latency by size, {load_name(level.name)}",
    )
    return Section(title, text, Table(columns, tuple(rows), heading), "latency_by_size")


def _timeline(run: Run) -> Section:
    title = "What happened when?"
    if not run.requests:
        return Section(title, "No request was sent.")
    failed = sum(bool(record.error) and not record.is_cancelled for record in run.requests)
    warm = sum(record.phase == "warmup" for record in run.requests)
    text = f"{len(run.requests)} requests, {warm} of them warm-up, {failed} failed."
    usage = statistics.resource_usage(run)
    if usage.empty:
        return Section(title, f"{text} CPU, memory and queue were not sampled.", chart="timeline")
    rows = tuple((load_name(str(name)), *map(str, values)) for name, *values in usage.itertuples())
    table = Table(_columns("load", *usage.columns), rows, "The reranker during each load")
    return Section(title, f"{text} CPU, memory and queue of the reranker: see the table.", table, "timeline")
