"""The verbs that measure, and show and compare recorded runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ragops.cli.output import FAILED, MEASURE, OK, Call, option, verb

if TYPE_CHECKING:
    from collections.abc import Callable

    from ragops.bench.records import LoadLevel, Run
    from ragops.bench.run import RunProgress
    from ragops.bench.statistics import LevelFigures
    from ragops.bench.verdict import Verdict
    from ragops.bench.workload import Workload
    from ragops.configuration import Stack

app = typer.Typer()
_workload = partial(option, panel="Workload")
_load = partial(option, panel="Load")
_output = partial(option, panel="Server and output")
Results = Annotated[Path, _output("FOLDER", "Folder of recorded runs.")]


@dataclass(frozen=True)
class Outcome:
    """The result of a run; the verdict is None where its sizes are not RAGFlow's."""

    verdict: Verdict | None
    figures: tuple[LevelFigures, ...]
    disturbances: tuple[str, ...]
    client_cpu_s: float | None
    """CPU seconds of the client for each request."""
    floor_s: float | None
    """Median of the same requests to a server that responds at once."""
    folder: Path

    def __str__(self) -> str:
        """Levels, client, disturbances, then the verdict."""
        lines = [*map(_level, self.figures), *(f"disturbed: {cause}" for cause in self.disturbances)]
        if self.client_cpu_s is not None:
            floor = "" if self.floor_s is None else f"; p50 without a server {self.floor_s * 1e3:.2f} ms"
            lines.append(f"client: {self.client_cpu_s * 1e3:.2f} ms of CPU a request{floor}")
        if self.verdict:
            lines += ["", str(self.verdict)]
        return "\n".join([*lines, f"recorded in {self.folder}"])


def outcome(run: Run, *, release: str = "") -> Outcome:
    """The result of a recorded run."""
    from ragops.bench import judge
    from ragops.bench.statistics import disturbances, figures

    judged = judge(run, release=release) if run.info.workload.profile in ("ragflow", "own") else None
    client = run.info.client
    return Outcome(
        verdict=judged,
        figures=figures(run),
        disturbances=disturbances(run),
        client_cpu_s=client.cpu_seconds_per_request if client else None,
        floor_s=client.floor.p50_ns / 1e9 if client and client.floor else None,
        folder=run.path,
    )


def _level(row: LevelFigures) -> str:
    p50, p95 = row.latency[0], row.latency[2]
    parts = [
        f"{row.level.name}: n={row.n}, {row.errors} failed, p50 {p50}, p95 {p95}",
        f"{row.requests_per_s:.3g} requests/s, {row.documents_per_s:.1f} documents/s",
    ]
    if row.tokens_per_s is not None:
        parts.append(f"{row.tokens_per_s:.0f} tokens/s")
    if row.computed_tokens_per_s is not None and row.cached_share is not None:
        parts.append(f"of them {row.computed_tokens_per_s:.0f} computed ({row.cached_share:.0%} cached)")
    if row.limit_share is not None:
        parts.append(f"{row.limit_share:.0%} of the machine's GEMM limit")
    return ", ".join(parts)


def _levels(requests: int | None, *lists: str) -> tuple[LoadLevel, ...]:
    """A load level for each number of the comma-separated lists: clients, rates, constant rates, bursts."""
    from ragops.bench.records import LoadLevel

    kinds: tuple[Callable[..., LoadLevel], ...] = (
        LoadLevel.closed,
        LoadLevel.poisson,
        LoadLevel.constant,
        LoadLevel.burst,
    )
    levels = []
    for kind, number, text in zip(kinds, (int, float, float, int), lists, strict=True):
        try:
            levels += [kind(number(part), requests=requests) for part in text.split(",") if part]
        except ValueError:
            raise typer.BadParameter(f"{text!r} is not a comma-separated list of numbers") from None
    return tuple(levels)


@verb(app, MEASURE, "ragops bench --clients 1,2,4", "ragops bench --url http://HOST:8000/v1 --model NAME")
def bench(
    call: Call,
    *,
    profile: Annotated[
        Literal["ragflow", "grid"], _workload("ragflow|grid", "RAGFlow's requests, or a grid of sizes.")
    ] = "ragflow",
    workload: Annotated[
        Path | None, _workload("FILE", "Your own requests, a JSON object on each line.")
    ] = None,
    form: Annotated[
        Literal["natural", "stemmed"],
        _workload("natural|stemmed", "Texts as written, or as RAGFlow stems them."),
    ] = "natural",
    release: Annotated[
        str, _workload("VERSION", "RAGFlow release; sets window and timeout (default: running).")
    ] = "",
    page_size: Annotated[
        int | None, _workload("N", "Documents that RAGFlow shows (default: a mixture).")
    ] = None,
    max_words: Annotated[
        int | None, _workload("N", "Truncate longer pairs (default: the model's maximum).")
    ] = None,
    seed: Annotated[int, _workload("N", "Seed of texts, arrivals and order.")] = 1,
    same_texts: Annotated[
        bool, _workload("", "Repeat the same texts; measures the prefix cache.", "--same-texts")
    ] = False,
    no_order_check: Annotated[str, _workload("REASON", "Skip the ranking check; state the reason.")] = "",
    requests: Annotated[int, _load("N", "Requests at each level (72 are enough for p95).")] = 72,
    clients: Annotated[str, _load("N,...", "Closed loop: concurrent clients; '' for none.")] = "1",
    rate: Annotated[str, _load("RATE,...", "Open loop, Poisson arrivals: requests per second.")] = "",
    constant: Annotated[str, _load("RATE,...", "Open loop, constant intervals: requests per second.")] = "",
    burst: Annotated[str, _load("N,...", "Requests sent at the same moment.")] = "",
    warmup: Annotated[int, _load("N", "Warm-up requests, excluded from results.")] = 3,
    repeats: Annotated[int, _load("N", "Repetitions of each level.")] = 1,
    url: Annotated[str, _output("URL", "Another server, address up to /v1; requires --model.")] = "",
    model: Annotated[str, _output("NAME", "Model name on that server.")] = "",
    name: Annotated[str, _output("NAME", "Part of the run folder's name.")] = "bench",
    results: Results = Path("results"),
    resume: Annotated[Path | None, _output("RUN", "Continue an interrupted run.")] = None,
) -> int:
    """Measure latency and throughput, record every request, and check RAGFlow's timeout."""
    from ragops.bench import measure
    from ragops.bench.load import BenchmarkConfig
    from ragops.bench.records import load_run
    from ragops.bench.workload import from_jsonl
    from ragops.errors import BenchError

    stack, watched = call.stack(), _Watched()
    if bool(url) != bool(model):
        raise BenchError("--url and --model go together", hint="--url http://HOST:PORT/v1 --model NAME")
    try:
        if resume:
            own = from_jsonl(workload) if workload else None
            folder = measure.resume(stack, resume, workload=own, progress=watched)
        else:
            texts = _texts(
                stack if not url else None,
                requests + warmup,
                seed,
                workload=workload,
                profile=profile,
                form=form,
                release=release,
                page_size=page_size,
                max_words=max_words,
            )
            config = BenchmarkConfig(
                workload=texts,
                levels=_levels(None if workload else requests, clients, rate, constant, burst),
                name=name,
                results=results,
                warmup=warmup,
                repeats=repeats,
                seed=seed,
                fresh=not same_texts,
                no_order_check=no_order_check,
            )
            target = partial(measure.benchmark_url, url, model) if url else partial(measure.benchmark, stack)
            folder = target(config, progress=watched)
    except KeyboardInterrupt:
        if watched.folder:
            call.message(f"continue with: ragops bench --resume {watched.folder}")
        raise
    run = load_run(folder)
    result = outcome(run, release=release)
    call.show(result)
    does_fit = result.verdict is None or result.verdict.fits is not False
    return OK if does_fit and not run.info.order.failed else FAILED


def _texts(
    stack: Stack | None,
    count: int,
    seed: int,
    *,
    workload: Path | None,
    profile: str,
    form: str,
    release: str,
    page_size: int | None,
    max_words: int | None,
) -> Workload:
    """The requests; what is not given is that of the running stack, if it is the one that is measured."""
    from ragops import bench
    from ragops.bench import measure
    from ragops.checks.traffic import TAIL

    if workload:
        return bench.from_jsonl(workload)
    words = max_words or (measure.max_words(stack) if stack else None)
    if profile == "grid":
        longest = 512 if words is None else words - 16
        sizes = tuple(sorted({16, longest // 3, longest}))
        return bench.grid((1, 8, 32), sizes, each=-(-count // 9), seed=seed, max_words=words)
    release = release or (measure.release(stack) if stack else "")
    window: dict[str, Any] = {"form": form, "release": release, "page_size": page_size}
    return bench.ragflow(count, seed, tail=TAIL, max_words=words, **window)


class _Watched:
    """Reports the progress of a run and remembers its folder."""

    folder: Path | None = None

    def __call__(self, now: RunProgress) -> None:
        from ragops.progress import advance

        self.folder = now.folder
        advance(now.done, now.total, f"requests, {now.errors} errors, last {now.latency:.2f} s ({now.level})")


@verb(app, MEASURE, "ragops report results/RUN --out report.html")
def report(
    call: Call,
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Run folder, or its name in the folder of results.")
    ],
    *,
    out: Annotated[Path | None, option("FILE", "The page; default: the run's name with .html.")] = None,
    figures: Annotated[Path | None, option("FOLDER", "Write each chart as SVG too.")] = None,
    results: Results = Path("results"),
) -> int:
    """Write a recorded run as an HTML page: verdict, charts, values, provenance."""
    from ragops.bench import write_report

    recorded = _find(results, run)
    call.show(write_report(recorded, out or Path(f"{recorded.path.name}.html"), figures=figures))
    return OK


@verb(app, MEASURE, "ragops compare results/BASELINE results/CANDIDATE --fail-over 5")
def compare(
    call: Call,
    a: Annotated[str, typer.Argument(metavar="BASELINE", help="Run folder or name of the baseline.")],
    b: Annotated[str, typer.Argument(metavar="CANDIDATE", help="Run folder or name of the candidate.")],
    *,
    fail_over: Annotated[
        float | None, option("PERCENT", "Exit code 1 if the candidate is significantly worse by more.")
    ] = None,
    across_models: Annotated[bool, option("", "Allow runs of different models.", "--across-models")] = False,
    results: Results = Path("results"),
) -> int:
    """Compare two recorded runs of one workload, with confidence intervals."""
    from ragops import bench

    comparison = bench.compare_runs(_find(results, a), _find(results, b), across_models=across_models)
    worse = () if fail_over is None else comparison.regressions(fail_over)
    call.show({"comparison": comparison, "regressions": worse}, str(comparison))
    for line in worse:
        call.message(f"regression: {line}")
    return FAILED if worse else OK


def _find(results: Path, name: str) -> Run:
    """A run by its folder, or by its name in the folder of results."""
    from ragops.bench.records import load_run
    from ragops.errors import BenchError

    for folder in (Path(name), results / name):
        if (folder / "run.json").exists():
            return load_run(folder)
    known = sorted(file.parent.name for file in results.glob("*/run.json"))
    raise BenchError(
        f"there is no recorded run {name}",
        code="run-unreadable",
        file=results,
        evidence=f"in {results}: {', '.join(known[-5:]) or 'no run'}",
        hint="ragops bench records one; --results names another folder of runs",
    )


@verb(app, MEASURE, "ragops tune --only batched-4096,eager --no-write")
def tune(
    call: Call,
    *,
    only: Annotated[str, option("NAME,...", "Candidates to compare (default: all but int8).")] = "",
    tolerance: Annotated[
        float, option("DIFFERENCE", "Maximum score difference still treated as equal.")
    ] = 0.02,
    no_write: Annotated[bool, option("", "Do not change ragops.toml.", "--no-write")] = False,
    results: Results = Path("results"),
) -> int:
    """Compare vLLM options on this machine; write faster ones with equal scores into ragops.toml."""
    from ragops.bench import tune as search
    from ragops.configuration import declaration

    result = search.tune(
        call.stack(),
        only=tuple(filter(None, only.split(","))),
        tolerance=tolerance,
        results=results,
        write=None if no_write else declaration(call.file),
    )
    call.show(result)
    if result.written:
        call.message("ragops plan shows what the new configuration changes, ragops up applies it")
    return OK


@verb(app, MEASURE)
def int8(
    call: Call,
    *,
    target: Annotated[Path | None, option("FOLDER", "Folder to create; default: beside the model.")] = None,
) -> int:
    """Create an int8 copy of the model folder and print its path; set reranker.model to it to serve it."""
    from ragops.configuration import home
    from ragops.reranker import image, model
    from ragops.reranker import int8 as quantize
    from ragops.reranker.host import read_host

    stack, engine = call.stack(), call.engine()
    base = image.ensure(engine, stack.reranker.image, home())
    folder = quantize.int8(model.resolve(stack, home()).folder, engine=engine, image=base.id, target=target)
    if reason := quantize.unfit(read_host()):
        call.message(f"note: not suitable for this machine: {reason}")
    call.show({"folder": folder}, str(folder))
    return OK
