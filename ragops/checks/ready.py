"""Wait until the reranker responds, or raise the reason why it does not.

Phases: start, load, compile, ready. The container's log shows the first three, and a rerank of one document
inside the container the last: ``/health`` alone also responds when the server hangs.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Literal

from ragops.checks.probe import probe_input, program
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
_COUNT_REQUESTS = """
from urllib.request import urlopen
lines = urlopen("http://127.0.0.1:8000/metrics", timeout=5).read().decode().splitlines()
print(sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_")))
"""
_TAIL = 400
_INTERVAL = 1.0


def wait(engine: Engine, name: str, served_name: str, timeout: float) -> float:
    """Wait up to ``timeout`` seconds for the first rerank response; returns the seconds until then.

    Raises:
        LaunchError: The container exited (reported within two seconds), or the timeout has passed.
    """
    begin = time.monotonic()
    phase: Phase | None = None
    first = engine.container(name)
    restarts = first.restart_count if first else 0  # earlier restarts do not count
    while True:
        elapsed = time.monotonic() - begin
        container = _running(engine, name, elapsed, restarts)
        log = engine.logs(name, tail=_TAIL)
        current = phase_of(log)
        listens = _LISTENS in log or container.health == "healthy"  # a long log may lack the line
        if listens and responds(engine, name, served_name):
            current = "ready"
        if current != phase:
            phase = current
            step(f"{name}: {_PHASES[phase]}")
        if phase == "ready":
            return elapsed
        if elapsed > timeout:
            raise LaunchError(
                f"{name} did not respond within {elapsed:.0f} s; it is {container.status}",
                code="start-slow",
                evidence="\n".join(log.splitlines()[-8:]),
                hint=f"docker logs --follow {name} shows the progress; raise ready_timeout if it continues",
                container=name,
            )
        time.sleep(_INTERVAL)


def phase_of(log: str) -> Phase:
    """The phase that a log shows."""
    for words, phase in _MARKS:
        if words in log:
            return phase
    return "start"


def responds(engine: Engine, name: str, served_name: str, *, timeout: float = 60) -> bool:
    """Whether a rerank of one document, sent inside the container, gets a response in ``timeout`` seconds."""
    request = RerankRequest(served_name, documents=RerankRequest(served_name).documents[:1])
    stdin = probe_input("http://127.0.0.1:8000/v1", request, connect_timeout=5, timeout=timeout)
    try:
        result = engine.execute(name, ("python3", "-c", program()), stdin=stdin, timeout=timeout + 30)
        return bool(json.loads(result.stdout)["steps"]["rerank"]["ok"])
    except (EngineError, ValueError, KeyError):
        return False  # the container may just have exited


def drain(engine: Engine, name: str, timeout: float = 30) -> None:
    """Wait until a reranker without new requests has responded to all, for at most ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            result = engine.execute(name, ("python3", "-c", _COUNT_REQUESTS), timeout=timeout)
        except EngineError:
            return
        if result.exit_code or float(result.stdout or 0) == 0:
            return
        time.sleep(_INTERVAL)


def _running(engine: Engine, name: str, elapsed: float, restarts: int) -> ContainerState:
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
    log = engine.logs(name, tail=_TAIL)
    killed = ", out of memory" if container.oom_killed else ""
    restarted = f", restarted {container.restart_count} times" if container.restart_count else ""
    hint = hints.for_container(log, exit_code=container.exit_code, oom_killed=container.oom_killed)
    raise LaunchError(
        f"{name} exited {elapsed:.0f} s after the wait began "
        f"(exit code {container.exit_code}{killed}{restarted})",
        evidence=hints.relevant_lines(log) or container.error or "the log is empty",
        code=hint.code,
        hint=hint.remedy,
        container=name,
    )
