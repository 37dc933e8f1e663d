"""Known messages of Docker engines and of containers that ended, with remedies; pure.

The tables are in ``data/hints.toml``. ``engine.py`` and ``ragops up`` search them.
"""

import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from signal import SIGTERM, Signals
from typing import Literal

from ragops.docker.objects import ContainerState, EventState


@dataclass(frozen=True)
class Hint:
    """Words of a message, the remedy, the error code, and the cause."""

    words: str
    remedy: str
    code: str
    cause: str = ""


_TABLES = tomllib.loads((resources.files("ragops.data") / "hints.toml").read_text(encoding="utf-8"))

ENGINE, CONTAINER = (
    tuple(Hint(words, remedy, code, cause) for words, (code, remedy, cause) in _TABLES[name].items())
    for name in ("engine", "container")
)
STATES = {
    state: Hint(words, remedy, code, cause)
    for state, (words, code, remedy, cause) in _TABLES["state"].items()
}
"""States of a reranker that does not respond; an exit code is looked up before the log."""

Phase = Literal["start", "load", "compile", "listen"]
_START = "non-default args:"
"""vLLM logs it first; the log before it is of an earlier start."""
_PHASES: tuple[tuple[str, Phase], ...] = (
    ("Application startup complete", "listen"),
    ("Warming up model", "compile"),
    ("Starting to load model", "load"),
    ("Loading weights", "load"),
)

_ENDPOINT = re.compile(r"endpoint with name (\S+) already exists in network ([^\s:]+)")

UNKNOWN = Hint("", "", "")


def find(table: Iterable[Hint], text: str) -> Hint:
    """The first hint whose words are in the text, else :data:`UNKNOWN`, whose fields are empty."""
    return next((hint for hint in table if hint.words.lower() in text.lower()), UNKNOWN)


def for_engine(text: str) -> Hint:
    """The hint for an error message of the Docker engine."""
    hint, endpoint = find(ENGINE, text), _ENDPOINT.search(text)
    container, network = endpoint.groups() if endpoint else ("CONTAINER", "NETWORK")
    remedy = hint.remedy.replace("CONTAINER", container).replace("NETWORK", network)
    return replace(hint, remedy=remedy)


def phase_of(log: str) -> Phase:
    """The phase of the last start that a log shows."""
    last = log.rpartition(_START)[2]
    return next((phase for words, phase in _PHASES if words in last), "start")


def for_container(container: ContainerState | None, events: Sequence[EventState], log: str) -> Hint:
    """Why a container does not respond: ``words`` is its state. :data:`UNKNOWN` for one that may respond.

    Args:
        container: Its state; None if it does not exist.
        events: Its starts, ends, kills and OOM events, the oldest first, as far as the engine has them.
        log: The end of its log.
    """
    if container is None or container.status in {"removing", "dead"}:
        return STATES["removed"]
    if container.serves:
        return UNKNOWN
    if container.status == "paused":
        hint = STATES["paused"]
    elif container.status == "created" or (container.status == "exited" and _for_start(container.error).code):
        hint = _for_start(container.error) if container.error else STATES["stopped"]
        hint = replace(hint, words="was not started", code=hint.code or "start-failed")
    elif container.status != "running":
        hint = _for_exit(container, events, log)
    else:
        hint = _for_running(container, events, log)
    return replace(hint, remedy=hint.remedy.replace("CONTAINER", container.name))


def _for_start(text: str) -> Hint:
    """The hint for an error of a start: the engine was connected, so none for the connection."""
    hint = for_engine(text)
    return UNKNOWN if hint.code.startswith("engine-") else hint


def _for_running(container: ContainerState, events: Sequence[EventState], log: str) -> Hint:
    exited = _for_exit(container, events, log)
    if container.restart_count and exited.code != STATES["stopped"].code:
        return exited
    if any(event.action == "oom" for event in _runs(events)[-1]):
        return replace(STATES["memory"], words="lost a process: out of memory")
    if phase_of(log) in {"load", "compile"} or (container.health == "starting" and phase_of(log) == "start"):
        return STATES["loading"]
    return STATES["hangs"] if container.health == "unhealthy" else UNKNOWN


def _for_exit(container: ContainerState, events: Sequence[EventState], log: str) -> Hint:
    """The cause of the last exit; its code is in the last ``die`` event, as a restart resets the state's."""
    ended = [run for run in _runs(events) if any(event.action == "die" for event in run)]
    run = ended[-1] if ended else []
    codes = [event.exit_code for event in run if event.action == "die"]
    code = codes[0] if codes else container.exit_code
    if container.oom_killed or any(event.action == "oom" for event in run):
        hint = STATES["memory"]
    elif code in {0, 137, 143} and any(event.signal == SIGTERM or event.action == "stop" for event in run):
        hint = STATES["stopped"]
    else:
        hint = STATES.get(str(code)) or find(CONTAINER, log)
    if not hint.code:
        hint = STATES["stopped" if code in {0, 143} and not container.restart_count else ""]
    verb = "was stopped" if hint == STATES["stopped"] else "exited"
    signal = f" ({Signals(code - 128).name})" if code - 128 in set(Signals) else ""
    restarts = f", restarted {container.restart_count} times" if container.restart_count else ""
    reason = f": {hint.words}" if hint in CONTAINER else ""
    reason = ": out of memory" if hint == STATES["memory"] else reason
    return replace(hint, words=f"{verb} with code {code}{signal}{restarts}{reason}")


def _runs(events: Sequence[EventState]) -> list[list[EventState]]:
    """The events of each run. A kill may be logged after the end that it caused, before the next start."""
    runs: list[list[EventState]] = [[]]
    for event in events:
        if event.action == "start":
            runs.append([])
        runs[-1].append(event)
    return runs


def relevant_lines(log: str, last: int = 6) -> str:
    """The lines of a log that a hint matches, then the last ones.

    The last lines of a server are often errors of its worker processes, far below the cause.
    """
    lines = log.splitlines()
    end = lines[-last:]
    matching = [line for line in lines if any(hint.words in line for hint in CONTAINER) and line not in end]
    return "\n".join([*dict.fromkeys(matching), *end])
