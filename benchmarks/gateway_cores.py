"""Compares two real replicas of one core each with one replica of both cores, and with one of one core.

::

    python -m benchmarks.gateway_cores docs/_data/gateway_cores.json

takes ten minutes or more and needs two CPUs. All go through a gateway, and each request has new texts of the
same lengths. The containers that are not measured are paused.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import gateways, launches, write
from benchmarks.alternating import PREFIX, log
from ragops.bench.workload import synthetic
from ragops.errors import BenchError

if TYPE_CHECKING:
    from benchmarks.alternating import LaunchRunner, Server
    from benchmarks.gateways import Gateway
    from ragops.bench.records import Provenance
    from ragops.checks.traffic import Request

DOCUMENTS, WORDS, SEED = 64, 204, 21
ROUNDS = 3
SETUPS = (("two", ("both",)), ("one-one", ("first", "second")), ("one", ("first",)))
"""Name of each setup, and its containers."""
NAMES = {
    "two": "1 replica of 2 cores",
    "one-one": "2 replicas of 1 core each",
    "one": "1 replica of 1 core",
}


@dataclass(frozen=True)
class Setup:
    """Requests to one setup; seconds."""

    name: str
    replicas: int
    cores: tuple[str, ...]
    seconds_p50: float
    speedup: float
    """Against one replica of one core."""
    requests_s: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Measured(gateways.Record):
    """The record."""

    origin: Provenance
    setups: tuple[Setup, ...]


def main(file: str, rounds: int = ROUNDS) -> None:
    """Measure, and write the file."""
    texts = synthetic((rounds + 1) * len(SETUPS), DOCUMENTS, WORDS, seed=SEED)
    with launches.runner() as runner, ExitStack() as stack:
        watch, (first, second, *_) = gateways.Watch(), sorted(cpu.cpu for cpu in runner.host.cpus)
        cores = {"both": f"{first},{second}", "first": str(first), "second": str(second)}
        specs = {name: runner.default_spec(name, runner.model, own) for name, own in cores.items()}
        specs["second"] = replace(specs["second"], mounts=specs["first"].mounts)  # one compile cache
        servers = {name: stack.enter_context(runner.started(spec)) for name, spec in specs.items()}
        origin = runner.provenance(specs["both"])
        times: dict[str, list[float]] = {name: [] for name, _ in SETUPS}
        gateway: dict[str, Gateway] = {}
        for number, request in enumerate(texts.requests):
            name, containers = SETUPS[(number + number // len(SETUPS)) % len(SETUPS)]
            own = [servers[container] for container in containers]
            times[name].append(_timed(runner, stack, gateway, name, own, request))
            log(f"{NAMES[name]}: {times[name][-1]:.2f} s")
        watch.add(sum((runner.engine.stats(server.name).cpu_ns or 0) / 1e9 for server in servers.values()))
        record = Measured(
            **watch.fields(texts),
            origin=origin,
            setups=tuple(
                Setup(
                    name=NAMES[name],
                    replicas=len(containers),
                    cores=tuple(cores[container] for container in containers),
                    seconds_p50=median(times[name][1:]),
                    speedup=median(times["one"][1:]) / median(times[name][1:]),
                    requests_s=tuple(times[name][1:]),
                )
                for name, containers in SETUPS
            ),
        )
        write(record, file)


def _timed(
    runner: LaunchRunner,
    stack: ExitStack,
    gateway: dict[str, Gateway],
    name: str,
    servers: list[Server],
    request: Request,
) -> float:
    """Seconds of a request to a setup, whose containers alone run; its gateway is started the first time."""
    for server in servers:
        runner.engine.unpause(server.name)
    if name not in gateway:
        addresses = [server.url.removeprefix("http://").removesuffix("/v1") for server in servers]
        gateway[name] = stack.enter_context(gateways.gateway(addresses, PREFIX))
    _admitted(gateway[name], len(servers))
    reply = gateways.send(gateway[name].url, PREFIX, request)
    for server in servers:
        runner.engine.pause(server.name)
    return (reply.t_done - reply.t_send) / 1e9


def _admitted(gateway: Gateway, replicas: int) -> None:
    """Wait until the gateway has proved the containers that were paused."""
    end = time.monotonic() + gateways.READY_SECONDS
    time.sleep(1.5)
    while str(gateway.replicas()["replicas"]).count("'admitted'") < replicas:
        if time.monotonic() > end:
            raise BenchError("the gateway did not admit its replicas", url=gateway.url)
        time.sleep(0.2)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
