"""Before anything is changed: can this machine, and this engine, do what is declared?

:func:`check` looks and puts the answers of one file a subject in order: the machine here,
``folder`` (the model), ``engine``, ``image``, ``claims`` (what the stack takes for itself) and
``ragflow``. Used by ``ragops doctor``.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragops import planning, sizing
from ragops.checks import Check, Report, claims, folder, image, ragflow
from ragops.checks import engine as engines
from ragops.engine import connect
from ragops.errors import EngineError, RagopsError
from ragops.host import format_cpu_list, read_addresses, read_host

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ragops.engine import Engine
    from ragops.host import Core, Host
    from ragops.planning import Observed
    from ragops.stack import Stack
    from ragops.state import EngineState, ImageState

_NEEDS_ENGINE = ("image", "disk", "port", "names", "network", "addresses", "RAGFlow")


@dataclass(frozen=True)
class Seen:
    """What the engine has at one moment."""

    engine: EngineState
    observed: Observed
    image: ImageState | None


def check(stack: Stack, engine: Engine | None = None) -> Report:
    """Look at machine, model, engine, image, names and RAGFlow; changes nothing."""
    host = read_host()
    try:
        seen = _look(stack, engine or connect())
    except EngineError as error:
        missing = [Check(name, "skip", "no engine answers") for name in _NEEDS_ENGINE]
        rest: list[Check] = [engines.refusal(error), *missing]
        return Report("doctor", (*_here(stack, host, None), *rest))
    return Report("doctor", (*_here(stack, host, seen), *_there(stack, host, seen)))


def _look(stack: Stack, engine: Engine) -> Seen:
    return Seen(engine.state(), planning.observe(engine), engine.image(stack.reranker.image))


def _here(stack: Stack, host: Host, seen: Seen | None) -> Iterator[Check]:
    """The machine and the model; a reranker that runs already has taken its memory."""
    there = seen and seen.observed.container(stack.reranker.name)
    yield _architecture(seen.image if seen else None)
    yield image.instructions(host, stack.reranker.image)
    yield cores(stack, host)
    yield own_quota(stack, host)
    yield from folder.check(stack, host, running=bool(there and there.running))
    yield folder.shared_memory(sizing.SHARED)


def _there(stack: Stack, host: Host, seen: Seen) -> Iterator[Check]:
    yield from engines.check(seen.engine, len(_threads(stack, host)))
    yield image.image(stack, seen.image, seen.observed.container(stack.reranker.name))
    yield from image.disk(seen.engine, missing=seen.image is None)
    yield from claims.check(stack, seen.observed, seen.engine.pools, read_addresses())
    yield from ragflow.check(stack, seen.observed.containers)


def _architecture(found: ImageState | None) -> Check:
    machine = platform.machine()
    wanted = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
    if found and found.architecture not in ("", wanted):
        remedy = f"docker pull --platform linux/{wanted} {(found.tags or (found.id,))[0]}"
        return Check("architecture", "fail", f"{machine}, the image is for {found.architecture}", remedy)
    if found or machine == "x86_64":
        return Check("architecture", "ok", machine)
    remedy = "use the official image for this architecture; ragops builds its own for x86-64 only"
    return Check("architecture", "warn", machine, remedy)


def cores(stack: Stack, host: Host) -> Check:
    """Which CPUs compute, and why those of which NUMA node."""
    try:
        chosen = sizing.cores(stack, host)
    except RagopsError as error:
        return Check("cores", "fail", error.short, error.hint)
    detail = f"{format_cpu_list(core.cpu for core in chosen)} of {len(host.cpus)} CPUs"
    used = sorted({core.node for core in chosen})
    if len(used) > 1:
        remedy = f'cores = "{_largest(chosen)}" under [reranker] keeps to one node'
        spread = f"{detail}, on NUMA nodes {format_cpu_list(used)}: each waits for the other's memory"
        return Check("cores", "warn", spread, remedy)
    if len(host.nodes) > 1:
        why = "named in the stack" if stack.reranker.cores != "auto" else "it has the most allowed CPUs"
        detail += f", all on NUMA node {used[0]} of {len(host.nodes)} ({why}; memory of another is slower)"
    if len(chosen) < 4:
        return Check("cores", "warn", detail, "measure before you rely on it: ragops bench")
    return Check("cores", "ok", detail)


def own_quota(stack: Stack, host: Host) -> Check:
    """The quota of ragops' own process; one that holds for containers is ``engines.quota``'s."""
    found = engines.stalled(host.quota, len(_threads(stack, host)), "CPU quota")
    if found.status == "ok":
        return found
    detail = f"{found.detail}, if the engine is in the same cgroup; a benchmark's client stalls in any case"
    return Check(found.name, found.status, detail, found.remedy)


def _threads(stack: Stack, host: Host) -> tuple[int, ...]:
    try:
        return sizing.compute(stack, host)
    except RagopsError:
        return ()  # cores() says why


def _largest(chosen: tuple[Core, ...]) -> str:
    nodes = [core.node for core in chosen]
    node = min(set(nodes), key=lambda one: (-nodes.count(one), one))
    return format_cpu_list(core.cpu for core in chosen if core.node == node)
