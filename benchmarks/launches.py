"""The launch that ragops makes against the one that people copy, and against the machine's own limit.

::

    python -m benchmarks.launches docs/_data/launches.json

takes up to twenty minutes and writes what it saw, with an answer to each target of ``targets.py``. It is no
test: it depends on the machine, and on how quiet that is, which the file says too. Without
``RAGOPS_MODEL_DIR`` it makes Qwen3-Reranker-0.6B's shape with random weights, and says so.

Two launches are compared in turn, call by call: the other one's container is paused meanwhile.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import checkpoint, targets
from benchmarks.alternating import MENDED, PREFIX, Rig, Server, told
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
    from ragops.bench.records import GemmPeak, Provenance
    from ragops.checks.traffic import Request
    from ragops.docker.engine import Engine

STAND_IN = "Qwen3-Reranker-0.6B-random"

ROUNDS = 3
"""Calls of each launch in a comparison; one more of each warms it up."""
BUDGET_SECONDS = 240.0
"""For calls of one of RAGFlow's sizes, where they can end in time at all."""


@dataclass(frozen=True)
class Launch:
    """How a server was started, and in how many seconds it answered."""

    name: str
    command: tuple[str, ...]
    ready: tuple[float, ...]
    """Of the first start, with an empty cache, and of those that followed."""
    error: str = ""


@dataclass(frozen=True)
class Measured:
    """The record. Times in seconds."""

    date: str
    origin: Provenance
    seconds: float
    """That all of it took."""
    limit: GemmPeak
    recipe_is_mended: str
    launches: tuple[Launch, ...]
    series: tuple[Series, ...]
    targets: tuple[Target, ...]


def main(file: str) -> None:
    """Measure, and write the file."""
    engine = engines.connect()
    image = images.ensure(engine, Reranker().image, home()).id
    model = models.describe(_folder(engine, image))
    int8 = models.describe(quantize.int8(model.folder, engine=engine, image=image))
    engine.create_network(NetworkSpec(PREFIX))
    try:
        found = measured(Rig(engine, image, host.read_host(), model, int8))
    finally:
        engine.remove_network(PREFIX)
        for name in (one.name for one in engine.volumes() if one.name.startswith(PREFIX)):
            engine.remove_volume(name)
    rounded = json.loads(json.dumps(asdict(found)), parse_float=lambda text: round(float(text), 5))
    Path(file).write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")


def measured(rig: Rig) -> Measured:
    """Two starts of the default; the recipe and int8, each in turn with it; RAGFlow's calls."""
    began, spec = time.monotonic(), rig.ours("default", rig.model)
    limit = rig.limit(spec)
    # Each comparison has texts of its own: those that a server has seen come out of its prefix cache.
    drawn = ROUNDS + 1, targets.documents(limit), _words(targets.DRAWN_TOKENS)
    first_texts, new_texts = (synthetic(*drawn, seed=seed).requests for seed in (1, 3))
    told(f"limit {limit.tokens_per_s or 0:.0f} tokens/s; {targets.documents(limit)} documents a call")
    with rig.up(spec) as first:
        origin = rig.origin(spec)
    with rig.up(spec) as default:
        with rig.up(rig.recipe(), "/models/recipe") as recipe:
            by_hand = _in_turn(default, recipe, first_texts)
        small, quick, failed = _int8(rig, default, new_texts)
        calls = [_calls(one, default, by_hand[0], limit) for one in targets.CALLS]
    sent = tuple(one for one in calls if one is not None)
    unfit = quantize.unfit(rig.host)
    return Measured(
        date=datetime.now(UTC).date().isoformat(),
        origin=origin,
        seconds=time.monotonic() - began,
        limit=limit,
        recipe_is_mended=MENDED,
        launches=(
            Launch("default", spec.command, (first.ready, default.ready)),
            Launch("recipe", rig.recipe().command, (recipe.ready,)),
            Launch("int8", rig.ours("int8", rig.int8).command, quick, failed),
        ),
        series=(*by_hand, *small, *sent),
        targets=(
            targets.against_recipe(by_hand[0], by_hand[1], limit),
            targets.share_of_limit(by_hand[0], limit),
            targets.int8_gain(small, unfit, failed),
            targets.second_start(first.ready, default.ready),
            *(
                targets.call(asked, by_hand[0], limit, seen, small[1] if small and not unfit else None)
                for asked, seen in zip(targets.CALLS, calls, strict=True)
            ),
        ),
    )


def _in_turn(a: Server, b: Server, requests: tuple[Request, ...]) -> tuple[Series, Series]:
    """The same calls of both, one by one; the first of each only warms it up."""
    pairs = []
    for number, request in enumerate(requests):
        pairs.append((a.ask(request), b.ask(request)))
        took = ", ".join(f"{one.seconds:.1f} s" for one in pairs[-1])
        told(f"call {number} of {a.name} and {b.name}: {took}")
    counted = pairs[1:]
    return (
        Series(_short(a), tuple(one for one, _ in counted)),
        Series(_short(b), tuple(one for _, one in counted)),
    )


def _int8(
    rig: Rig, default: Server, requests: tuple[Request, ...]
) -> tuple[tuple[Series, ...], tuple[float, ...], str]:
    """Calls of the default and of int8, int8's start, or why it did not start."""
    try:
        with rig.up(rig.ours("int8", rig.int8)) as server:
            return _in_turn(default, server, requests), (server.ready,), ""
    except LaunchError as error:
        return (), (), error.short


def _calls(asked: Call, default: Server, known: Series, limit: GemmPeak) -> Series | None:
    """Calls of one of RAGFlow's sizes, for as long as the time allows; None where none can end in time."""
    if not targets.worth_sending(asked, known, limit):
        return None
    texts = synthetic(targets.ENOUGH, asked.documents, _words(asked.tokens), seed=2).requests
    seen, end = [], time.monotonic() + BUDGET_SECONDS
    for request in texts:
        seen.append(default.ask(request))
        if time.monotonic() + seen[-1].seconds > end:
            break
    return Series(f"default, {asked.name} calls", tuple(seen))


def _folder(engine: Engine, image: str) -> Path:
    """The user's model, else one with random weights that is made once and kept."""
    if named := models.named_folder(Stack()):
        return named
    folder = home() / "models" / STAND_IN
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.make(engine, image, folder, checkpoint.RELEASED, checkpoint.tokenizer())
    return folder


def _words(tokens: int) -> int:
    """Words of a document, beside a query of some eight."""
    return round(tokens / TOKENS_PER_WORD) - 8


def _short(server: Server) -> str:
    return server.name.removeprefix(f"{PREFIX}-")


if __name__ == "__main__":
    main(sys.argv[1])
