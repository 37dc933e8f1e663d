"""The verbs that measure, and show what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ragops import measure
from ragops.bench import BenchmarkConfig, Level, figures, from_jsonl, grid, load_run, ragflow, verdict
from ragops.bench.counters import disturbances
from ragops.bench.sizes import TAIL
from ragops.cli.parts import FAILED, OK, Verb, option, show, tell
from ragops.errors import BenchError
from ragops.measure import benchmark, benchmark_url, max_words
from ragops.stack import load

if TYPE_CHECKING:
    from ragops.bench import LevelFigures, Progress, Run, Verdict, Workload
    from ragops.cli.parts import Options
    from ragops.stack import Stack


@dataclass(frozen=True)
class Outcome:
    """What a run says; the verdict is None where its sizes are not RAGFlow's."""

    verdict: Verdict | None
    figures: tuple[LevelFigures, ...]
    disturbances: tuple[str, ...]
    client_cpu_s: float | None
    """CPU-seconds of the client for each request."""
    floor_s: float | None
    """Median of the same requests to a server that takes no time."""
    folder: Path

    def __str__(self) -> str:
        """Levels, client, disturbances, then the verdict."""
        lines = [*map(_level, self.figures), *(f"disturbed: {one}" for one in self.disturbances)]
        if self.client_cpu_s is not None:
            floor = (
                "" if self.floor_s is None else f"; p50 {self.floor_s * 1e3:.2f} ms to a server of no time"
            )
            lines.append(f"client: {self.client_cpu_s * 1e3:.2f} ms of CPU a request{floor}")
        if self.verdict:
            lines += ["", str(self.verdict)]
        return "\n".join([*lines, f"recorded in {self.folder}"])


def outcome(run: Run, *, release: str = "") -> Outcome:
    """What a recorded run says."""
    judged = verdict(run, release=release) if run.info.workload.profile in ("ragflow", "own") else None
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
        parts.append(f"{row.limit_share:.0%} of what this machine multiplies")
    return ", ".join(parts)


def _bench(options: Options) -> int:
    stack, told = load(options.stack), _Told()
    try:
        if options.resume:
            own = from_jsonl(options.workload) if options.workload else None
            folder = measure.resume(stack, options.resume, workload=own, progress=told)
        else:
            folder = _recorded(stack, options, told)
    except KeyboardInterrupt:
        if told.folder:
            tell(f"to go on: ragops bench --resume {told.folder}")
        raise
    run = load_run(folder)
    found = outcome(run, release=options.release or "")
    show(options, found)
    failed = run.info.order.failed or (found.verdict is not None and found.verdict.fits is False)
    return FAILED if failed else OK


def _recorded(stack: Stack, options: Options, told: _Told) -> Path:
    if bool(options.url) != bool(options.model):
        raise BenchError("--url and --model go together", hint="--url http://HOST:PORT/v1 --model NAME")
    config = BenchmarkConfig(
        workload=_workload(stack, options),
        levels=_levels(options),
        name=options.name,
        results=options.results,
        warmup=options.warmup,
        repeats=options.repeats,
        seed=options.seed,
        fresh=not options.same_texts,
        no_order_check=options.no_order_check,
    )
    if options.url:
        return benchmark_url(options.url, options.model, config, progress=told)
    return benchmark(stack, config, progress=told)


def _workload(stack: Stack, options: Options) -> Workload:
    if options.workload:
        return from_jsonl(options.workload)
    words = options.max_words or (None if options.url else max_words(stack))
    count, seed = options.requests + options.warmup, options.seed
    if options.profile == "grid":
        longest = 512 if words is None else words - 16
        sizes = tuple(sorted({16, longest // 3, longest}))
        return grid((1, 8, 32), sizes, each=-(-count // 9), seed=seed, max_words=words)
    return ragflow(
        count,
        seed,
        form=options.form,
        release=options.release or ("" if options.url else measure.release(stack)),
        page_size=options.page_size,
        tail=TAIL,
        max_words=words,
    )


def _levels(options: Options) -> tuple[Level, ...]:
    count = None if options.workload else options.requests
    kinds = (
        (Level.closed, options.clients),
        (Level.poisson, options.rate),
        (Level.constant, options.constant),
        (Level.burst, options.burst),
    )
    return tuple(make(value, requests=count) for make, values in kinds for value in values)


class _Told:
    """Tells how far a run is, ten times, and remembers where it is kept."""

    folder: Path | None = None

    def __call__(self, now: Progress) -> None:
        self.folder = now.folder
        if now.done % max(1, now.total // 10) == 0:
            last = f"last {now.latency:.2f} s ({now.level})"
            tell(f"{now.done}/{now.total} requests, {now.errors} errors, {last}")


_WHAT = (
    option("--profile", choices=("ragflow", "grid"), default="ragflow", help="what is sent (%(default)s)"),
    option("--workload", type=Path, metavar="FILE", help="your own requests, a JSON object on each line"),
    option(
        "--form",
        choices=("natural", "stemmed"),
        default="natural",
        help="texts as written, or as RAGFlow stems them",
    ),
    option(
        "--release",
        metavar="VERSION",
        help="RAGFlow's, for its window and limit (default: the one that runs)",
    ),
    option("--page-size", type=int, metavar="N", help="documents that RAGFlow shows (default: a mixture)"),
    option("--max-words", type=int, metavar="N", help="cut longer pairs (default: what the model takes)"),
    option("--seed", type=int, default=1, help="of texts, arrivals and order (%(default)s)"),
    option("--same-texts", action="store_true", help="repeat texts in each pass: measures the cache"),
    option("--no-order-check", default="", metavar="REASON", help="why scores mean nothing here"),
)
_HOW = (
    option("--requests", type=int, default=72, help="requests at each level (%(default)s, enough for p95)"),
    option("--clients", type=int, nargs="*", default=[1], help="closed loop: clients at once (%(default)s)"),
    option("--rate", type=float, nargs="+", default=[], help="open loop: Poisson, requests a second"),
    option(
        "--constant", type=float, nargs="+", default=[], help="open loop: even distances, requests a second"
    ),
    option("--burst", type=int, nargs="+", default=[], help="requests at the same moment"),
    option("--warmup", type=int, default=3, help="requests that no figure counts (%(default)s)"),
    option("--repeats", type=int, default=1, help="times that each level is played (%(default)s)"),
)
_WHERE = (
    option("--url", metavar="URL", help="another server, address up to /v1; needs --model"),
    option("--model", metavar="NAME", help="its model's name"),
    option("--name", default="bench", help="part of the run folder's name (%(default)s)"),
    option("--results", type=Path, default=Path("results"), help="where run folders go (%(default)s)"),
    option("--resume", type=Path, metavar="RUN", help="go on with a run that was cut short"),
)

VERBS = {
    "bench": Verb(
        _bench,
        "measure latency and throughput, keep every request, say whether it fits",
        (*_WHAT, *_HOW, *_WHERE),
    ),
}
"""By name."""
