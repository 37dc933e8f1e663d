"""What a notebook shows while something long runs: lines, a log's end, a bar, a figure that grows."""

from __future__ import annotations

import asyncio
import io
import multiprocessing
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from ragops.bench import load_run
from ragops.engine import connect
from ragops.errors import RagopsError
from ragops.widgets.parts import Box

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ragops.bench import Run

_TAIL = 8
_LOG_EVERY = 1.0
_DRAW_EVERY = 5.0
"""Seconds between two pictures: each takes a core for about a third of one."""


class Step(Protocol):
    """How far a benchmark is, see ``ragops.bench.Progress``."""

    done: int
    total: int
    errors: int
    level: str
    folder: Path


@contextmanager
def telling(title: str, *, log: str = "") -> Iterator[Callable[[str], None]]:
    """Show the lines that a long verb tells, with the time of each.

    Use it as ``with telling("ragops up") as told: ragops.up(stack, told=told)``. The lines stay,
    also when the verb fails.

    Args:
        title: What is going on.
        log: A container whose last log lines are shown meanwhile, to those who watch.
    """
    box, over = Box(), threading.Event()
    start, lines = time.monotonic(), list[str]()

    def told(line: str) -> None:
        lines.append(f"{time.monotonic() - start:6.1f} s  {line}")
        box.show("\n".join([title, *lines[-_TAIL:]]))

    follower = threading.Thread(target=_follow, args=(log, box, over), daemon=True)
    if log and box.live:
        follower.start()
    ended = "failed"
    try:
        yield told
        ended = "done"
    finally:
        over.set()
        lines.append(f"{time.monotonic() - start:6.1f} s  {ended}")
        box.end("\n".join([title, *lines]))


def _follow(container: str, box: Box, over: threading.Event) -> None:
    """Show the end of a log until it is over; a container that is not there yet has none."""
    while not over.wait(_LOG_EVERY):
        with suppress(RagopsError):
            box.tail(connect().logs(container, tail=_TAIL))


@contextmanager
def progress(title: str) -> Iterator[Callable[[Step], None]]:
    """Show how far a benchmark is; the stop button of the notebook ends it and keeps what it has.

    Use it as ``with progress("benchmark") as moved: ragops.benchmark(..., progress=moved)``.

    Args:
        title: What is going on.
    """
    meter = _Meter(title, Box(bar=True))
    try:
        yield meter.moved
    finally:
        meter.end()


async def watch(
    title: str,
    benchmark: Callable[..., Path],
    *args: Any,
    figure: Callable[[Run], Any] | None = None,
) -> Path:
    """Run a benchmark beside the notebook and show how far it is, with a figure that grows.

    Use it as ``folder = await watch("load", ragops.benchmark, stack, config)``.
    It runs in a thread, so that the button below the bar is heard: pressed, it ends the run and
    keeps what there is. The notebook's own stop button does so too, and ends the cell.

    Args:
        title: What is going on.
        benchmark: Called with ``args``, ``progress`` and ``stop``.
        args: Its positional arguments, such as stack and configuration.
        figure: Draws what there is so far, in a process of its own; only for those who watch.

    Returns:
        The run's folder, also of a run that the button ended.
    """
    stop = threading.Event()
    meter = _Meter(title, Box(bar=True, stop=stop.set))
    work = asyncio.create_task(asyncio.to_thread(benchmark, *args, progress=meter.moved, stop=stop))
    draw = asyncio.create_task(_grow(meter, figure)) if figure and meter.box.live else None
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        stop.set()
        await work
        raise
    finally:
        if draw is not None:
            draw.cancel()
        meter.end()


class _Meter:
    """Counts what a benchmark tells, into a box."""

    def __init__(self, title: str, box: Box) -> None:
        self.title, self.box = title, box
        self.last: Step | None = None
        self._start = time.monotonic()

    def moved(self, step: Step) -> None:
        self.last = step
        self.box.show(f"{self._counted(step)} · {step.level}", step.done / max(1, step.total))

    def end(self) -> None:
        said = self._counted(self.last) if self.last else f"{self.title}: no request was made"
        kept = f" · kept in {self.last.folder.name}" if self.last else ""
        self.box.end(f"{said} · {time.monotonic() - self._start:.1f} s{kept}")

    def _counted(self, step: Step) -> str:
        return f"{self.title}: {step.done}/{step.total} requests · {step.errors} errors"


async def _grow(meter: _Meter, figure: Callable[[Run], Any]) -> None:
    """Draw again and again. In another process: drawing in this one would stop the load's clock."""
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        while True:
            await asyncio.sleep(_DRAW_EVERY)
            if meter.last is not None:
                with suppress(RagopsError, ValueError):  # too little to draw yet
                    meter.box.picture(await loop.run_in_executor(pool, _png, figure, meter.last.folder))


def _png(figure: Callable[[Run], Any], folder: Path) -> bytes:
    out = io.BytesIO()
    figure(load_run(folder)).savefig(out, format="png", dpi=110)
    return out.getvalue()
