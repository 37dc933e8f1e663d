"""Records requests of a RAGFlow that is on another node of a Swarm, while the only manager is lost.

::

    python -m benchmarks.swarm_manager docs/_data/swarm_manager.json

takes three minutes. Two Docker engines of the tests' lab are two nodes: the manager with the gateway and a
replica, and a worker with a second gateway, a replica, and a container in RAGFlow's place, which is connected
as the page does it. The replicas are stubs.
"""

from __future__ import annotations

import sys
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks import gateways, write
from benchmarks.alternating import log
from benchmarks.gateways import Machine
from ragops.configuration import load
from ragops.docker import engine as engines
from tests.support.fleet import TIMEOUT
from tests.support.swarm_fleet import Clients, fleet
from tests.support.swarm_lab import STUB

if TYPE_CHECKING:
    from tests.support.fleet import Sample

CLIENTS, SECONDS, LOST = 4, 15.0, 60.0
AWAY = "ragflow-away"


@dataclass(frozen=True)
class Phase:
    """Requests that began in a part of the run."""

    name: str
    seconds: float
    requests: int
    failed: int
    """Without a response, or with one after RAGFlow's timeout."""
    wrong: int
    longest: float
    """Seconds of the longest one."""


@dataclass(frozen=True)
class Measured:
    """The record."""

    machine: Machine
    docker: str
    clients: int
    phases: tuple[Phase, ...]
    admitted_again: float
    """Seconds from the start of the manager's Docker engine until its gateway has admitted both replicas."""


def measure() -> Measured:
    """Start the lab, send requests, lose the manager, start it again."""
    watch, phases = gateways.Watch(), list[Phase]()
    with closing(engines.connect()) as engine, fleet(engine, 2) as stack:
        manager, worker = stack.lab.nodes
        stack.up()
        stack.lab.join()
        stack.ragops("scale", "2", "--swarm")
        stack.write("[swarm]", "[swarm]\ngateways = 2")
        stack.ragops("up")
        wait = ("--entrypoint", "python3", STUB, "-c", "import signal; signal.pause()")
        worker.docker("run", "--detach", "--name", AWAY, "--restart", "always", *wait)
        worker.docker("network", "connect", load(stack.file).overlay, AWAY)
        url = load(stack.file).internal_url.removesuffix("/v1")

        def phase(name: str, clients: Clients, begin: float) -> None:
            """Add what began since then."""
            seconds = time.monotonic() - begin
            phases.append(summary(name, seconds, [one for one in clients.samples if one.begin >= begin]))
            log(str(phases[-1]))

        worker.docker("restart", AWAY)  # it stays connected
        with Clients(worker, AWAY, url, CLIENTS) as clients:
            begin = time.monotonic()
            time.sleep(SECONDS)
            phase("both nodes run", clients, begin)
            begin = time.monotonic()
            manager.lose()
            time.sleep(LOST)
            phase("the manager is lost", clients, begin)
            begin = time.monotonic()
            stack.lab.boot(manager)
            manager.start()
            started = time.monotonic()
            again = stack.wait(2, 120) - started
            time.sleep(SECONDS)
            phase("the manager returns", clients, begin)
        docker = manager.client.version()["Version"]
    return Measured(watch.machine(), docker, CLIENTS, tuple(phases), again)


def summary(name: str, seconds: float, samples: list[Sample]) -> Phase:
    """The numbers of some requests."""
    failed = sum(bool(sample.failure) or sample.seconds > TIMEOUT for sample in samples)
    wrong = sum(bool(sample.wrong) for sample in samples)
    longest = max((sample.seconds for sample in samples), default=0.0)
    return Phase(name, seconds, len(samples), failed, wrong, longest)


if __name__ == "__main__":
    write(measure(), sys.argv[1], digits=3)
