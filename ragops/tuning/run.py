"""The verb: a search from the first launch to the declaration that is written."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from ragops import host as hosts
from ragops import image as images
from ragops import origins, quantize
from ragops.bench.counters import OTHERS
from ragops.engine import connect as connect_engine
from ragops.errors import BenchError, StackError
from ragops.lock import held, refuse_while_watched
from ragops.stack import home
from ragops.tuning import declare, folder
from ragops.tuning.candidates import INT8, Candidate, candidates, chosen, untuned
from ragops.tuning.compare import TOLERANCE, Rule
from ragops.tuning.records import Trial, TuneInfo
from ragops.tuning.report import Tuned
from ragops.tuning.rig import ContainerRig
from ragops.tuning.search import Search

if TYPE_CHECKING:
    from collections.abc import Callable

    from ragops.engine import Engine
    from ragops.stack import Stack

_INT8 = Candidate(INT8, (), "weights and activations of 8 bits: a checkpoint beside yours, other scores")


def tune(  # noqa: PLR0913 - one keyword for each thing that a search may vary
    stack: Stack,
    *,
    only: tuple[str, ...] = (),
    int8: bool = False,
    tolerance: float = TOLERANCE,
    minutes: float | None = None,
    results: Path | str = "results",
    resume: Path | str | None = None,
    write: Path | str | None = None,
    rule: Rule | None = None,
    started: Callable[[Path], None] = lambda _: None,
    told: Callable[[str], None] = lambda _: None,
    engine: Engine | None = None,
) -> Tuned:
    """Search launch settings that are faster on this machine at equal scores.

    Each is measured in turn with the best so far, in containers of its own that are gone at the end;
    the stack's reranker has to be stopped meanwhile.

    Args:
        stack: The declaration. What an earlier search wrote into it is left out; a ``dtype``, ``cores``
            or ``model`` that it names is kept.
        only: Names of the settings to try; all from which a gain is expected when left out.
        int8: Also try an int8 checkpoint of the model, which is made beside it.
        tolerance: Largest difference of a score from the launch without tuning.
        minutes: No further setting is begun after so many.
        results: Folder below which the search's own folder is made.
        resume: Folder of a search to go on with; the settings to try are then that one's.
        write: The declaration that gets the winner; nothing is written when left out.
        rule: When a difference counts.
        started: Called with the folder as soon as there is one.
        told: Given a line for each thing that takes long.
        engine: The engine; connected when left out.

    Returns:
        What was found, with a row for each setting.

    Raises:
        StackError: Two rerankers don't fit into memory, or a name is taken.
        LaunchError: The launch without tuning does not start.
        BenchError: The stack's reranker runs, there is no such setting, the launch without tuning fails
            the score gate, or the search to go on with is complete or another one's.
    """
    engine = engine or connect_engine()
    address, name = engine.state().address, stack.reranker.name
    with held(home(), address, name):
        refuse_while_watched(home(), address, name)
        _refuse_beside(engine, name)
        image = images.ensure(engine, stack.reranker.image, home(), told)
        rig = ContainerRig(engine, untuned(stack), lambda source: _int8_copy(source, engine, image.id))
        try:
            if resume:
                kept, info, trials = _continued(Path(resume), rig, image.id)
            else:
                settings = _wanted(stack, rig, only, int8=int8)
                info = _new(rig, image.id, settings, tolerance, rule or Rule())
                kept, trials = _folder(Path(results), info), ()
            started(kept.path)
            try:
                found = Search(
                    rig, info, trials, kept, trained=rig.expected.trained, told=told, over=_clock(minutes)
                ).run()
            finally:
                kept.close()
        finally:
            rig.close()
    file = Path(write) if write else None
    written = declare.write(file, found.settings) if file else False
    return recorded(kept.path, written=file if written else None)


def _refuse_beside(engine: Engine, name: str) -> None:
    """A reranker that runs would share the cores, and both would be measured wrongly."""
    reranker = engine.container(name)
    if reranker is not None and reranker.status in {"running", "restarting"}:
        raise BenchError(
            f"{name} runs, and would share the cores with what is measured",
            code="cores-shared",
            evidence="tune starts rerankers of its own",
            hint=f"docker stop {name}; ragops up starts it again, with what was found",
        )


def _wanted(stack: Stack, rig: ContainerRig, only: tuple[str, ...], *, int8: bool) -> tuple[Candidate, ...]:
    there = candidates(untuned(stack), rig.wanted.model, hosts.read_host())
    found = chosen((*there, replace(_INT8, asked=not int8)), (*only, *((INT8,) if int8 and only else ())))
    if not found:
        raise BenchError("there is nothing to try for this model on this machine")
    return found


def _new(
    rig: ContainerRig, image_id: str, settings: tuple[Candidate, ...], tolerance: float, rule: Rule
) -> TuneInfo:
    host = hosts.read_host()
    return TuneInfo(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=origins.machine(host.cpu_model, len(host.cpus)),
        model=rig.wanted.model.name,
        stand_in=rig.wanted.model.stand_in,
        launch=rig.launch(image_id),
        candidates=settings,
        tolerance=tolerance,
        rule=rule,
    )


def _folder(results: Path, info: TuneInfo) -> folder.TuneFolder:
    moment = datetime.fromisoformat(info.started).strftime("%Y%m%dT%H%M%SZ")
    return folder.TuneFolder(results / f"{moment}-{info.machine}-tune")


def _continued(
    path: Path, rig: ContainerRig, image_id: str
) -> tuple[folder.TuneFolder, TuneInfo, tuple[Trial, ...]]:
    info, trials = folder.load(path)
    if info.complete:
        raise BenchError(
            f"{path} is complete", code="run-not-continued", hint="begin a new search: ragops tune"
        )
    now = rig.launch(image_id)
    if now != info.launch:
        before, after = vars(info.launch), vars(now)
        changed = [f"{key}: {before[key]}, now {after[key]}" for key in before if before[key] != after[key]]
        raise BenchError(
            "the reranker is not the one that the run began with",
            code="run-not-continued",
            evidence="\n".join(changed),
            hint="begin a new search: ragops tune",
        )
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    info = replace(info, resumed=(*info.resumed, moment), reason="still running")
    return folder.TuneFolder(path, again=True), info, trials


def _clock(minutes: float | None) -> Callable[[], bool]:
    end = None if minutes is None else time.monotonic() + 60 * minutes
    return lambda: end is not None and time.monotonic() >= end


def _int8_copy(source: Path, engine: Engine, image: str) -> Path:
    """The int8 checkpoint of a model folder; none is made where its scores would be wrong."""
    if why := quantize.unfit(hosts.read_host()):
        raise StackError("int8 is not tried here", evidence=why, hint="search where it will be served")
    return quantize.int8(source, engine=engine, image=image)


def _disturbed(trials: tuple[Trial, ...]) -> tuple[str, ...]:
    """What else computed: it makes intervals wide, and fewer threads look better than they are."""
    others = median(one.others for one in trials) if trials else 0.0
    if others <= OTHERS:
        return ()
    return (f"other programs used {others:.1f} cores in half of the blocks: search on a quiet machine",)


def recorded(path: Path, *, written: Path | None = None) -> Tuned:
    """What the search in a folder found.

    Args:
        path: The search's folder.
        written: The declaration that got the winner.

    Raises:
        BenchError: There is no search in it.
    """
    info, trials = folder.load(path)
    hidden = "model" in dict(info.settings) and os.environ.get("RAGOPS_MODEL_DIR")
    notes = (*_disturbed(trials), *(("RAGOPS_MODEL_DIR goes before the model that won",) if hidden else ()))
    return Tuned(
        folder=path,
        model=info.model,
        stand_in=info.stand_in,
        machine=info.machine,
        request=str(info.size),
        rows=info.rows,
        untried=tuple(one.name for one in info.left),
        settings=info.settings,
        total=info.total,
        gate=info.gate,
        written=written,
        notes=notes,
    )
