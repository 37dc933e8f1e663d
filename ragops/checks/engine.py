"""Whether the Docker engine answers, is new enough, is here, and lets containers compute."""

from __future__ import annotations

import grp
import os
import pwd
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ragops.checks import Check
from ragops.host import read_quota
from ragops.state import OLDEST_API

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ragops.errors import EngineError
    from ragops.state import EngineState

_SOCKET = re.compile(r"unix://(\S+?): .*Permission denied")


def check(engine: EngineState, threads: int) -> Iterator[Check]:
    """The checks of an engine that answers.

    Args:
        engine: What it said of itself.
        threads: Threads that the reranker will compute with.
    """
    yield Check("engine answers", "ok", f"Docker {engine.version} at {engine.address}")
    yield _api(engine)
    if engine.socket is None:
        remedy = "CPU, memory and folders were looked at here, not over there: run ragops doctor there"
        yield Check("engine is local", "warn", engine.address, remedy)
    else:
        yield quota(engine, threads)


def refusal(error: EngineError) -> Check:
    """Why no engine answers; where it is the socket's permission, who may use it."""
    found = _SOCKET.search(error.evidence)
    remedy = permission(Path(found[1]), os.getgroups()) if found else ""
    return Check("engine answers", "fail", error.short, remedy or error.hint)


def permission(socket: Path, groups: list[int]) -> str:
    """What lets this user use a socket; empty when that can't be told.

    Args:
        socket: Of the engine.
        groups: Of this process. They stay those of the log-in, whatever changes meanwhile.
    """
    try:
        status = socket.stat()
        group = grp.getgrgid(status.st_gid)
        user = pwd.getpwuid(os.geteuid()).pw_name
    except (OSError, KeyError):
        return ""
    if not status.st_mode & 0o020 or group.gr_gid in (0, *groups):
        return "use sudo: only root may use this socket"
    if user in group.gr_mem:
        return f"{user} is in group {group.gr_name}, but since this log-in: newgrp {group.gr_name}"
    return f"sudo usermod -aG {group.gr_name} {user}, then log in again (or: newgrp {group.gr_name})"


def quota(engine: EngineState, threads: int) -> Check:
    """The quota that holds for every container of a local engine."""
    title = "containers' CPU quota"
    try:
        return stalled(read_quota(engine.cgroup_parent), threads, title)
    except FileNotFoundError:
        return Check(title, "skip", f"cgroup {engine.cgroup_parent} of the engine can't be seen from here")


def stalled(cores: float | None, threads: int, title: str) -> Check:
    """What a quota does to threads that all compute: they use it up, then all stand still."""
    if cores is None:
        return Check(title, "ok", "none")
    if cores >= threads:
        return Check(title, "ok", f"{cores:g} cores, enough for {threads} threads")
    still = 1 - cores / threads
    named = f'cores = "0-{int(cores) - 1}"' if cores >= 2 else 'cores = "0"'
    return Check(
        title,
        "warn",
        f"{cores:g} cores for {threads} threads: they stand still {still:.0%} of the time",
        f"give it whole CPUs (--cpuset-cpus) instead of --cpus; until then {named} under [reranker]",
    )


def _api(engine: EngineState) -> Check:
    if engine.too_old:
        detail = f"{engine.api}, older than {OLDEST_API} of Docker 20.10"
        return Check("engine API", "fail", detail, "install Docker 20.10 or newer: apt-get install docker.io")
    return Check("engine API", "ok", engine.api)
