"""Waits until the reranker answers, and says why when it never will.

Phases: start, load, compile, ready. The container's log tells the first three, a one-document
rerank from inside the container the last: ``/health`` alone says yes to a server that hangs.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Literal

from ragops.checks.probe import order, program
from ragops.docker import hints
from ragops.errors import EngineError, LaunchError
from ragops.progress import step
from ragops.ragflow.request import RerankRequest

if TYPE_CHECKING:
    from ragops.docker.engine import Engine
    from ragops.docker.objects import ContainerState

Phase = Literal["start", "load", "compile", "ready"]

_MARKS: tuple[tuple[str, Phase], ...] = (
    ("Warming up model", "compile"),
    ("Starting to load model", "load"),
    ("Loading weights", "load"),
)
_PHASES = {"start": "start", "load": "load the model", "compile": "compile", "ready": "ready"}
_LISTENS = "Application startup complete"
_TAIL = 400
_INTERVAL = 1.0


def wait(
    engine: Engine,
    name: str,
    served: str,
    timeout: float,
) -> float:
    """Wait for the first rerank answer.

    Args:
        engine: Where the container runs.
        name: The reranker's container.
        served: The model's name as served.
        timeout: Seconds.

    Returns:
        Seconds that it took.

    Raises:
        LaunchError: The container ended (told within a second or two), or time ran out.
    """
    begin = time.monotonic()
    phase: Phase | None = None
    first = engine.container(name)
    restarts = first.restart_count if first else 0  # of a bad night, say: only new ones count
    while True:
        elapsed = time.monotonic() - begin
        container = _alive(engine, name, elapsed, restarts)
        log = engine.logs(name, tail=_TAIL)
        now = phase_of(log)
        listens = _LISTENS in log or container.health == "healthy"  # a log may have gone far beyond
        if listens and answers(engine, name, served):
            now = "ready"
        if now != phase:
            phase = now
            step(f"{name}: {_PHASES[phase]}")
        if phase == "ready":
            return elapsed
        if elapsed > timeout:
            raise _too_late(container, elapsed, log)
        time.sleep(_INTERVAL)


def phase_of(log: str) -> Phase:
    """The phase that a log tells of."""
    return next((phase for words, phase in _MARKS if words in log), "start")


def _alive(engine: Engine, name: str, elapsed: float, restarts: int) -> ContainerState:
    container = engine.container(name)
    if container is None:
        raise LaunchError(
            f"{name} was removed while it was starting",
            code="reranker-removed",
            hint="ragops up starts it again",
            container=name,
        )
    if container.status == "running" and container.restart_count <= restarts:
        return container
    if container.status == "paused":
        raise LaunchError(
            f"{name} is paused", code="reranker-paused", hint=f"docker unpause {name}", container=name
        )
    raise _ended(container, engine.logs(name, tail=_TAIL), elapsed)


def _ended(container: ContainerState, log: str, elapsed: float) -> LaunchError:
    killed = ", killed for want of memory" if container.oom_killed else ""
    again = f", restarted {container.restart_count} times" if container.restart_count else ""
    hint = hints.for_container(log, exit_code=container.exit_code, oom_killed=container.oom_killed)
    return LaunchError(
        f"{container.name} ended {elapsed:.0f} s after the wait began "
        f"(exit code {container.exit_code}{killed}{again})",
        evidence=hints.telling(log) or container.error or "it wrote nothing",
        code=hint.code,
        hint=hint.remedy,
        container=container.name,
    )


def _too_late(container: ContainerState, elapsed: float, log: str) -> LaunchError:
    return LaunchError(
        f"{container.name} did not answer within {elapsed:.0f} s; it is {container.status}",
        code="start-slow",
        evidence="\n".join(log.splitlines()[-8:]),
        hint=f"docker logs --follow {container.name} shows how far it is; raise ready_timeout if it goes on",
        container=container.name,
    )


def answers(engine: Engine, name: str, served: str, *, patience: float = 60) -> bool:
    """Whether a rerank of one document, asked inside the container, is answered within some seconds."""
    request = RerankRequest(served, documents=RerankRequest(served).documents[:1])
    said = order("http://127.0.0.1:8000/v1", request, connect_timeout=5, timeout=patience)
    try:
        done = engine.execute(name, ("python3", "-c", program()), stdin=said, timeout=patience + 30)
        return bool(json.loads(done.stdout)["steps"]["rerank"]["ok"])
    except (EngineError, ValueError, KeyError):
        return False  # it may just have ended: the next look tells
