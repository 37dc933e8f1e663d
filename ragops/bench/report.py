"""A recorded run for its readers: do RAGFlow's requests end within its timeout, and a page with all values.

The verdict is for runs of the ``ragflow`` workload or of the user's own requests. The page, which
``data/report.html.jinja`` lays out, needs no other file; the same run gives the same bytes.
``statistics.py`` computes the measured values, ``checks/latency.py`` the estimate of the largest window.
"""

import base64
import io
import math
import shlex
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from importlib import resources
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from ragops.bench import records as files
from ragops.bench import statistics
from ragops.bench.compare import MIN_CHANGE
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
_STATES = {True: "fits", False: "does not fit", None: "inconclusive"}
_TITLES = {
    "ragflow": "RAGFlow's requests",
    "grid": "Grid of request sizes",
    "synthetic": "Requests of one size",
    "own": "Own requests",
}


@dataclass(frozen=True, repr=False)
class Verdict(Shown):
    """Whether RAGFlow's requests end within its timeout."""

    state: str
    """``fits``, ``does not fit``, ``inconclusive`` or ``wrong scores``."""
    sentence: str
    """The result in one sentence; :attr:`notes` qualify it."""
    fits: bool | None
    """By the highest percentile with an interval; None when inconclusive: too few requests, or the
    interval contains the timeout."""
    level: LoadLevel
    p95: latency.Percentile
    p99: latency.Percentile
    release: str
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
        """The sentence, a row for each result, and the notes."""
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
        notes = tuple(f"note: {note}" for note in self.notes)
        return Table((Column("result"), Column("value")), rows, self.sentence, notes)


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
    calls = _timed(records)
    line, reason = service_time(run)
    largest = latency.largest_window(line, calls, quantile, timeout) if line else None
    if largest is not None and (contrary := latency.contradiction(largest, calls, quantile, timeout)):
        largest, reason = None, contrary
    state, sentence = "wrong scores", "Wrong scores, so the speed is meaningless"
    if not wrong_scores:
        state, limit = _STATES[fits], f"RAGFlow {ragflow.name}'s timeout of {timeout:g} s"
        part = "" if ranked in {None, 1.0} else f", {_percent(ranked)} of documents ranked"
        sentence = f"{state.capitalize()}: {_claim(level, records, p95, p99, limit, part)}"
    return Verdict(
        state=state,
        sentence=f"{sentence}.",
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
        notes=notes_of(run, ragflow),
        ranked=ranked,
    )


def _percent(fraction: float) -> str:
    """Rounded down: 100 % are all."""
    return f"{math.floor(100 * fraction)} %"


def _timed(records: list[RequestRecord]) -> list[latency.TimedCall]:
    return [latency.TimedCall(r.documents, r.service, r.tokens or 0, r.error) for r in records]


def service_time(run: Run) -> tuple[latency.ServiceTime | None, str]:
    """The linear fit of time against tokens; or None and why there is none."""
    level, records = statistics.lightest_level(run)
    reason = _no_fit(level, records)
    return (None, reason) if reason else latency.fit_requests(_timed(records))


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
    limit: str,
    ranked: str,
) -> str:
    load = "one request at a time" if level.clients == 1 else load_name(level.name)
    values = ", ".join(f"{p.name} {p}" for p in (p99, p95) if p.value is not None)
    missing = next((f"; {p.name} needs {p.needed} requests" for p in (p95, p99) if p.value is None), "")
    if not values:
        slowest = max((record.latency for record in records if not record.error), default=math.inf)
        values = f"slowest request {latency.seconds(slowest)}"
    failed = [record for record in records if record.error]
    errors = f". {len(failed)} of {len(records)} failed" if failed else ""
    if failed:
        errors += f", first request {failed[0].index + 1} of the workload: {failed[0].error[:160]}"
    return f"{values} of {limit}, {load}, n={p95.n}{ranked}{missing}{errors}"


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

    anchor: str
    title: str
    text: str
    """What the chart shows, in words, the conclusion first."""
    table: Table | None = None
    chart: str = ""
    """Name of the function of ``ragops.bench.plots``; empty without one."""


class Headline(NamedTuple):
    """What a run shows, for the head of its report."""

    state: str
    """As of :class:`Verdict`, or ``measured`` for a workload without a verdict."""
    sentence: str
    notes: tuple[str, ...]


def page(run: Run, *, home: str = "") -> str:
    """The report of a run: a self-contained HTML document; ``home`` is the address of the site around it."""
    jinja2, plots = extra("jinja2"), extra("ragops.bench.plots")
    source = (resources.files("ragops.data") / "report.html.jinja").read_text(encoding="utf-8")
    options: Any = {"undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    template = jinja2.Environment(autoescape=True, **options).from_string(source)
    parts = [
        *sections(run),
        Section("limits", "What this run does not show", "", Table(notes=limitations(run))),
    ]
    facts = (("verdict", "Verdict", verdict_rows(run)), ("provenance", "Provenance", provenance(run)))
    for place, (anchor, title, rows) in zip((0, len(parts) + 1), facts, strict=True):
        if rows:
            parts.insert(
                place, Section(anchor, title, "", Table(_columns("fact", "value"), rows, css_class="facts"))
            )
    names = [section.chart for section in parts if section.chart]
    charts = {name: plots.both_forms(getattr(plots, name), run) for name in names}
    content = {"title": title_of(run), "name": run.path.name, "headline": headline(run), "home": home}
    content |= {"values": key_values(run), "commands": commands(run), "raw": raw_data(run)}
    text: str = template.render(**content, sections=parts, charts=charts)
    return text


def title_of(run: Run) -> str:
    """Such as ``RAGFlow's requests, all-MiniLM-L6-v2, amd-epyc-2cpu (avx2), 26 November 2026``."""
    info, day = run.info, datetime.fromisoformat(run.info.started)
    kind = _TITLES.get(info.workload.profile, info.workload.profile)
    machine = info.provenance.machine_label or "unknown machine"
    return f"{kind}, {info.provenance.model or info.model}, {machine}, {day.day} {day:%B %Y}"


def key_values(run: Run) -> tuple[NamedValue, ...]:
    """The most important values of the lightest load: a percentile, its part of the timeout, documents/s."""
    if not run.measured:
        return ()
    level, _ = statistics.lightest_level(run)
    row = next(row for row in statistics.level_statistics(run) if row.level == level)
    values, known = list[NamedValue](), [p for p in (row.latency[2], row.latency[0]) if p.value is not None]
    if known:
        time, timeout = known[0].value or 0, release_of(run).timeout
        values.append((f"{known[0].name}, {load_name(level.name)}", latency.seconds(time)))
        if run.info.workload.profile in PROFILES and time < math.inf:
            values.append((f"of RAGFlow's {timeout:g} s", f"{100 * time / timeout:.3g} %"))
    return (*values, ("documents per second", f"{row.documents_per_s:.3g}"))


def commands(run: Run) -> tuple[str, ...]:
    """The commands that measure the same load again; none for a run of an early version, without a recipe."""
    info, origin = run.info, run.info.provenance
    if not info.workload.recipe and info.workload.profile != "own":
        return ()
    server = "" if origin.image else f" --url {shlex.quote(info.base_url)} --model {shlex.quote(info.model)}"
    texts = "" if info.workload.recipe else " --workload FILE"
    checkout = [f"git checkout {origin.git_commit}"] if origin.git_commit else []
    return (*checkout, f"ragops bench --like {shlex.quote(run.path.name)}{server}{texts}")


def raw_data(run: Run) -> str:
    """The files of a run's folder as a zip archive in a data address; the same files give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in (run.path / name for name in (files.INFO, files.REQUESTS, files.SAMPLES)):
            if file.is_file():
                entry = zipfile.ZipInfo(f"{run.path.name}/{file.name}")  # of 1980, as no file's time matters
                archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)
    return f"data:application/zip;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _columns(*names: str) -> tuple[Column, ...]:
    return tuple(map(Column, names))


def write_report(run: Run, out: Path, *, home: str = "") -> Path:
    """Write the report atomically, and return its file; an existing file is replaced.

    Args:
        run: From :func:`ragops.bench.load_run`.
        out: The page's file.
        home: Address of the site around it, for a link; none when empty.

    Raises:
        BenchError: The file can't be written, or matplotlib or Jinja2 is not installed.
    """
    text = page(run, home=home)
    with file_errors(BenchError, f"can't write {out}", out, hint="name another place with --out"):
        if out.exists() and not out.is_file():
            raise OSError("it is not a regular file")  # /dev/null would be replaced
        draft = out.with_name(f".{out.name}.new")
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(text, encoding="utf-8")
            draft.replace(out)
        finally:
            draft.unlink(missing_ok=True)
    return out


def _judged(run: Run) -> Verdict | None:
    """The verdict; None for workloads without one, and where nothing was measured."""
    return judge(run) if run.info.workload.profile in PROFILES and run.measured else None


def headline(run: Run) -> Headline:
    """The verdict in one sentence, or what was measured instead, with the notes."""
    if verdict := _judged(run):
        return Headline(verdict.state, verdict.sentence, verdict.notes)
    notes = notes_of(run, release_of(run))
    if not run.measured:
        return Headline("inconclusive", "Inconclusive: no request was measured.", notes)
    notes = (*notes, "no verdict on RAGFlow's timeout: a load of another kind")
    return Headline("measured", f"Measured: {run.info.workload.description}.", notes)


def verdict_rows(run: Run) -> tuple[Row, ...]:
    """The rows of the verdict; none for workloads without one."""
    verdict = _judged(run)
    return verdict.table().rows if verdict else ()


def provenance(run: Run) -> tuple[NamedValue, ...]:
    """The run, the machine, the software and the method; only what is known."""
    info, origin = run.info, run.info.provenance
    digest = origin.image_digest.removeprefix("sha256:")
    fresh = "no request sent twice" if info.fresh else "the same texts in each trial, so a cache may be hit"
    cpu_ms = info.client and info.client.cpu_seconds_per_request * 1e3
    order = ", ".join(load_name(name.partition("#")[0]) for name in info.order_played)
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
        ("configuration", origin.configuration),
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
        ("load levels", f"each {repeats}, in the order {order}; {fresh}"),
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
        *((True, text) for text in _parts(run) if isinstance(text, str)),
        (True, "Other machines, other models, other days: this is one run."),
        (
            True,
            f"Another start of the same reranker may differ by {MIN_CHANGE:.0%}, which no interval contains.",
        ),
    )
    return tuple(sentence for applies, sentence in rows if applies)


def sections(run: Run) -> tuple[Section, ...]:
    """The parts with a chart, in the order of the report; :func:`limitations` has why others are missing."""
    return tuple(part for part in _parts(run) if isinstance(part, Section))


def _parts(run: Run) -> Iterator[Section | str]:
    """Each part, or why it is missing."""
    if not run.requests:
        yield "No request was sent."
        return
    if run.measured:
        yield _percentiles(run)
        yield _throughput(run)
        yield from _sizes(run)
    else:
        yield "No request was measured, so there is no percentile."
    yield _timeline(run)


def _percentiles(run: Run) -> Section:
    rows, timeout = statistics.level_statistics(run), release_of(run).timeout
    texts, first = list[str](), rows[0]
    for p, part in ((first.latency[2], "95 of 100"), (first.latency[0], "half of the")):
        if p.value is not None and p.value < math.inf and not texts:
            used = f"{100 * p.value / timeout:.3g} % of RAGFlow's timeout of {timeout:g} s"
            load = load_name(first.level.name)
            texts = [f"With {load}, {part} requests ended within {latency.seconds(p.value)}, {used}"]
    texts += [
        f"{load_name(row.level.name)} (n={row.n}): "
        + ", ".join(f"{p.name} {p}" for p in row.latency if p.value is not None)
        for row in rows
    ]
    slowest = max((r.latency for r in run.measured if not r.error), default=0)
    texts.append(f"The slowest response took {latency.seconds(slowest)}; RAGFlow's timeout is {timeout:g} s.")
    title = "How slow are the slowest?"
    return Section("percentiles", title, ". ".join(texts), statistics.summary(run), "percentile_curve")


def _throughput(run: Run) -> Section | str:
    rows = statistics.level_statistics(run)
    if len(rows) < 2:
        return "There is one load level, so there is no throughput to compare."
    best, first = max(rows, key=lambda row: row.documents_per_s), load_name(rows[0].level.name)
    conclusion = f"No load had more documents/s than {first}"
    if best != rows[0]:
        times = best.documents_per_s / rows[0].documents_per_s
        conclusion = (
            f"{load_name(best.level.name)} had the most documents/s, {times:.2f} times those of {first}"
        )
    texts = [f"{load_name(row.level.name)} {row.documents_per_s:.3g} documents/s" for row in rows]
    title, text = "How much at once, and what does it cost?", f"{conclusion}: {', '.join(texts)}."
    return Section("throughput", title, text, chart="throughput")


def _sizes(run: Run) -> Iterator[Section | str]:
    level, records = statistics.lightest_level(run)
    table = statistics.frame(replace(run, requests=tuple(r for r in records if not r.error)))
    if table.empty:
        yield "No request was successful."
        return
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
    shown = Table(columns, tuple(rows), f"Latency by size, {load_name(level.name)}")
    text = f"{_law(run)} p50 goes from {least} to {most}."
    yield Section("sizes", "How long for how many tokens?", text, shown, "latency_by_size")
    if is_grid:
        text = f"Median latency of each number and length of documents: {least}, {most}."
        yield Section("map", "How long for how many documents of which length?", text, chart="size_map")


def _law(run: Run) -> str:
    """The linear fit in words, with the tokens that reach RAGFlow's timeout."""
    line, reason = service_time(run)
    if line is None:
        return f"There is no linear fit of time against tokens: {reason}."
    timeout = release_of(run).timeout
    tokens = (timeout - line.fixed_s) / line.per_token_s
    law = f"A request takes {line.fixed_s:.3g} s and {line.per_token_s * 1e3:.3g} ms for each token"
    return f"{law}, so about {max(tokens, 0):,.0f} tokens reach RAGFlow's {timeout:g} s (linear fit)."


def _timeline(run: Run) -> Section:
    failed = sum(bool(record.error) and not record.is_cancelled for record in run.requests)
    warm = sum(record.phase == "warmup" for record in run.requests)
    text, title = (
        f"{len(run.requests)} requests, {warm} of them warm-up, {failed} failed.",
        "What happened when?",
    )
    usage = statistics.resource_usage(run)
    if usage.empty:
        text = f"{text} CPU, memory and queue were not sampled."
        return Section("timeline", title, text, chart="timeline")
    rows = tuple((load_name(str(name)), *map(str, values)) for name, *values in usage.itertuples())
    table = Table(_columns("load", *usage.columns), rows, "The reranker during each load")
    text = f"{text} CPU, memory and queue of the reranker: see the table."
    return Section("timeline", title, text, table, "timeline")
