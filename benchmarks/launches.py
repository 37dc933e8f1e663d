"""Compares the default launch of ragops with the recipe that users copy, and with the machine's GEMM peak.

::

    python -m benchmarks.launches docs/_data/launches.json

takes up to twenty minutes and writes the measurements and the result of each target of ``targets.py``. Not a
test: values depend on the machine and on other processes, which the file records. Without
``RAGOPS_MODEL_DIR`` it creates a model of Qwen3-Reranker-0.6B's shape with random weights.

Two launches receive alternating requests; the container of the other one is paused.
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from benchmarks import checkpoint, targets, write
from benchmarks.alternating import PREFIX, RECIPE_CHANGES, LaunchRunner, Server, log
from benchmarks.targets import Call, Series, Target
from ragops.bench.workload import synthetic
from ragops.checks.traffic import TOKENS_PER_WORD
from ragops.configuration import Reranker, Stack, home
from ragops.docker import engine as engines
from ragops.docker.objects import NetworkSpec
from ragops.errors import LaunchError
from ragops.reranker import host
from ragops.reranker import image as images
from ragops.reranker import int8 as quantize
from ragops.reranker import model as models

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ragops.bench.records import GemmPeak, Provenance
    from ragops.checks.traffic import Request
    from ragops.docker.engine import Engine

RANDOM_MODEL = "Qwen3-Reranker-0.6B-random"

ROUNDS = 3
"""Measured requests of each launch in a comparison, after one warm-up request."""
BUDGET_SECONDS = 240.0
"""Time for the requests of one of RAGFlow's sizes, if they can complete in time."""


@dataclass(frozen=True)
class Launch:
    """Command of a server, and seconds until its first response."""

    name: str
    command: tuple[str, ...]
    ready: tuple[float, ...]
    """Of the first start, with an empty cache, then of the later ones."""
    error: str = ""


@dataclass(frozen=True)
class Measured:
    """The record. Times in seconds."""

    date: str
    origin: Provenance
    seconds: float
    """Total duration."""
    limit: GemmPeak
    recipe_is_mended: str
    launches: tuple[Launch, ...]
    series: tuple[Series, ...]
    targets: tuple[Target, ...]


def main(file: str) -> None:
    """Measure, and write the file."""
    with runner() as launches:
        write(measured(launches), file)


@contextmanager
def runner() -> Iterator[LaunchRunner]:
    """Model, its int8 copy and network; network and volumes are removed at the end."""
    engine = engines.connect()
    image = images.ensure(engine, Reranker().image, home()).id
    model = models.describe(_folder(engine, image))
    int8 = models.describe(quantize.int8(model.folder, engine=engine, image=image))
    engine.create_network(NetworkSpec(PREFIX))
    try:
        yield LaunchRunner(engine, image, host.read_host(), model, int8)
    finally:
        engine.remove_network(PREFIX)
        for name in (one.name for one in engine.volumes() if one.name.startswith(PREFIX)):
            engine.remove_volume(name)


def measured(runner: LaunchRunner) -> Measured:
    """Two starts of the default; the recipe and int8, each in turn with it; RAGFlow's calls."""
    began, spec = time.monotonic(), runner.default_spec("default", runner.model)
    limit = runner.gemm_peak(spec)
    # Each comparison has its own texts: repeated texts come from the prefix cache.
    drawn = ROUNDS + 1, targets.documents(limit), _words(targets.DRAWN_TOKENS)
    first_texts, new_texts = (synthetic(*drawn, seed=seed).requests for seed in (1, 3))
    log(f"limit {limit.tokens_per_s or 0:.0f} tokens/s; {targets.documents(limit)} documents a call")
    with runner.started(spec) as first:
        origin = runner.provenance(spec)
    with runner.started(spec) as default:
        with runner.started(runner.recipe_spec(), "/models/recipe") as recipe:
            by_hand = _in_turn(default, recipe, first_texts)
        small, quick, failed = _int8(runner, default, new_texts)
        calls = [_calls(one, default, by_hand[0], limit) for one in targets.CALLS]
    sent = tuple(one for one in calls if one is not None)
    unfit = quantize.unfit(runner.host)
    return Measured(
        date=datetime.now(UTC).date().isoformat(),
        origin=origin,
        seconds=time.monotonic() - began,
        limit=limit,
        recipe_is_mended=RECIPE_CHANGES,
        launches=(
            Launch("default", spec.command, (first.ready, default.ready)),
            Launch("recipe", runner.recipe_spec().command, (recipe.ready,)),
            Launch("int8", runner.default_spec("int8", runner.int8).command, quick, failed),
        ),
        series=(*by_hand, *small, *sent),
        targets=(
            targets.against_recipe(by_hand[0], by_hand[1], limit),
            targets.share_of_limit(by_hand[0], limit),
            targets.int8_gain(small, unfit, failed),
            targets.second_start(first.ready, default.ready),
            *(
                targets.call(size, by_hand[0], limit, series, small[1] if small and not unfit else None)
                for size, series in zip(targets.CALLS, calls, strict=True)
            ),
        ),
    )


def _in_turn(a: Server, b: Server, requests: tuple[Request, ...]) -> tuple[Series, Series]:
    """The same requests to both servers, alternating; the first one of each is warm-up."""
    pairs = []
    for number, request in enumerate(requests):
        pairs.append((a.send(request), b.send(request)))
        took = ", ".join(f"{one.seconds:.1f} s" for one in pairs[-1])
        log(f"call {number} of {a.name} and {b.name}: {took}")
    counted = pairs[1:]
    return (
        Series(_short(a), tuple(one for one, _ in counted)),
        Series(_short(b), tuple(one for _, one in counted)),
    )


def _int8(
    runner: LaunchRunner, default: Server, requests: tuple[Request, ...]
) -> tuple[tuple[Series, ...], tuple[float, ...], str]:
    """Requests of the default and of int8 and the start of int8, or why it did not start."""
    try:
        with runner.started(runner.default_spec("int8", runner.int8)) as server:
            return _in_turn(default, server, requests), (server.ready,), ""
    except LaunchError as error:
        return (), (), error.short


def _calls(size: Call, default: Server, known: Series, limit: GemmPeak) -> Series | None:
    """Requests of one of RAGFlow's sizes within the time budget; None if none can complete in time."""
    if not targets.worth_sending(size, known, limit):
        return None
    texts = synthetic(targets.ENOUGH, size.documents, _words(size.tokens), seed=2).requests
    timings, end = [], time.monotonic() + BUDGET_SECONDS
    for request in texts:
        timings.append(default.send(request))
        if time.monotonic() + timings[-1].seconds > end:
            break
    return Series(f"default, {size.name} calls", tuple(timings))


def _folder(engine: Engine, image: str) -> Path:
    """The configured model, else one with random weights, created once."""
    if named := models.named_folder(Stack()):
        return named
    folder = home() / "models" / RANDOM_MODEL
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.make(engine, image, folder, checkpoint.RELEASED, checkpoint.tokenizer())
    return folder


def _words(tokens: int) -> int:
    """Words of a document; the query has about eight."""
    return round(tokens / TOKENS_PER_WORD) - 8


def _short(server: Server) -> str:
    return server.name.removeprefix(f"{PREFIX}-")


if __name__ == "__main__":
    main(sys.argv[1])
