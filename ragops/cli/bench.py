"""The verbs that measure, and show what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ragops.bench import Level, figures, grid, load_run, ragflow, summary, verdict
from ragops.cli.parts import OK, Verb, option, show, tell
from ragops.measure import benchmark, max_words
from ragops.stack import load

if TYPE_CHECKING:
    from ragops.bench import Progress
    from ragops.cli.parts import Options


def _bench(options: Options) -> int:
    stack = load(options.stack)
    words, count = max_words(stack), options.requests + options.warmup
    made = {
        "ragflow": lambda: ragflow(count, max_words=words),
        "grid": lambda: grid((1, 8, 32), (16, 64, words - 16), each=-(-count // 9), max_words=words),
    }
    levels = [*map(Level.closed, options.clients), *map(Level.poisson, options.rate)]
    folder = benchmark(
        stack,
        workload=made[options.profile](),
        levels=tuple(levels),
        name=options.name,
        results=options.results,
        warmup=options.warmup,
        repeats=options.repeats,
        progress=_progress,
    )
    run = load_run(folder)
    found = figures(run) if options.profile == "grid" else verdict(run)
    text = summary(run).to_string() if options.profile == "grid" else verdict(run).sentence
    show(options, found, f"{text}\nrecorded in {folder}")
    return OK


def _progress(now: Progress) -> None:
    if now.done % max(1, now.total // 10) == 0:
        last = f"last {now.latency:.2f} s ({now.level})"
        tell(f"{now.done}/{now.total} requests, {now.errors} errors, {last}")


VERBS = {
    "bench": Verb(
        _bench,
        "measure latency and throughput, keep every request, say whether it fits",
        (
            option(
                "--profile", choices=("ragflow", "grid"), default="ragflow", help="what is sent (%(default)s)"
            ),
            option("--requests", type=int, default=40, help="requests at each level (%(default)s)"),
            option(
                "--clients",
                type=int,
                nargs="+",
                default=[1],
                help="closed loop: clients at once (%(default)s)",
            ),
            option("--rate", type=float, nargs="+", default=[], help="open loop: Poisson, requests a second"),
            option("--warmup", type=int, default=3, help="requests that no figure counts (%(default)s)"),
            option("--repeats", type=int, default=1, help="times that each level is played (%(default)s)"),
            option("--name", default="bench", help="part of the run folder's name (%(default)s)"),
            option(
                "--results", type=Path, default=Path("results"), help="where run folders go (%(default)s)"
            ),
        ),
    ),
}
"""By name."""
