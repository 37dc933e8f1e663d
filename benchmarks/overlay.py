"""Measures what Swarm's overlay network costs a rerank request, with encryption and without it.

::

    python -m benchmarks.overlay docs/_data/overlay.json

takes a minute. Two Docker engines of the tests' lab are two nodes; their link is a bridge of this machine, so
that the cost is that of the processor. A stub on one node responds at once to a client on the other, through
one network of each kind in turn. An encrypted network needs ESP of the kernel: without it Docker creates the
network, and nothing reaches the other node; the record then has the evidence, and what the cipher alone does
on one core (``openssl speed``), of which a lower limit of the cost can be computed.
"""

from __future__ import annotations

import gzip
import json
import platform
import re
import subprocess
import sys
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks import gateways, write
from benchmarks.gateways import Machine
from ragops.docker import engine as engines
from ragops.errors import EngineError
from tests.support.replicas import Behaviour
from tests.support.swarm_lab import STUB, SwarmLab, images

if TYPE_CHECKING:
    from tests.support.swarm_lab import Node

DOCUMENTS, BYTES, REQUESTS, ROUNDS, WARM_UP = 64, 120_000, 100, 4, 10
KINDS = {"host": {}, "plain": {}, "encrypted": {"encrypted": ""}}
"""Options of the networks; ``host`` is the stub's own node, without a network between."""
CIPHER, PACKET = "aes-128-gcm", 1400
"""What Docker encrypts with, and bytes of a packet."""
OPTIONS = ("CONFIG_VXLAN", "CONFIG_XFRM", "CONFIG_INET_ESP")
CLIENT = """
import http.client, json, sys, time
host, documents, size, requests, warm_up = sys.argv[1], *map(int, sys.argv[2:])
text = "w" * 9 + " "
body = json.dumps({"query": "q", "documents": [text * (size // documents // 10)] * documents})
connection = http.client.HTTPConnection(host, 8000, timeout=5)
for number in range(requests + warm_up):
    begin = time.perf_counter()
    connection.request("POST", "/v1/rerank", body, {"content-type": "application/json"})
    assert len(json.loads(connection.getresponse().read())["results"]) == documents
    if number >= warm_up:
        print(1000 * (time.perf_counter() - begin))
"""


@dataclass(frozen=True)
class Kind:
    """One kind of network; times in ms."""

    name: str
    p50_ms: float | None
    """None where nothing reached the other node."""
    rounds_ms: tuple[float, ...]
    """The median of each round."""
    error: str


@dataclass(frozen=True)
class Measured:
    """The record."""

    machine: Machine
    kernel: str
    kernel_options: dict[str, str]
    docker: str
    documents: int
    request_bytes: int
    requests: int
    kinds: tuple[Kind, ...]
    cipher_mb_s: float | None
    """What one core encrypts with Docker's cipher in packets, by its CPU time; None without ``openssl``."""


def cipher() -> float | None:
    """MB/s of the cipher on one core."""
    argv = ["openssl", "speed", "-seconds", "3", "-bytes", str(PACKET), "-evp", CIPHER]
    with suppress(OSError):
        output = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
        if match := re.search(rf"^{CIPHER}\s+([\d.]+)k", output, re.MULTILINE | re.IGNORECASE):
            return float(match[1]) / 1000
    return None


def kernel_options() -> dict[str, str]:
    """How the kernel was configured; empty where it does not say."""
    with suppress(OSError):
        lines = gzip.decompress(Path("/proc/config.gz").read_bytes()).decode().splitlines()
        return {
            name: next((line for line in lines if name in line.split("=")[0].split()), "") for name in OPTIONS
        }
    return {}


def measure() -> Measured:
    """Start the lab, and send the requests."""
    watch = gateways.Watch()
    with closing(engines.connect()) as engine:
        _, saved = images(engine)
    with SwarmLab(2) as lab:
        lab.load(saved)
        lab.join()
        here, there = lab.nodes
        for name, options in KINDS.items():
            here.client.networks.create(f"net-{name}", driver="overlay", attachable=True, options=options)
            serve(there, name)
            wait = ["python3", "-c", "import signal; signal.pause()"]
            run(there if name == "host" else here, f"client-{name}", name, wait)
        rounds = [{name: times(lab, name) for name in KINDS} for _ in range(ROUNDS)]
        docker = here.client.version()["Version"]
    kinds = tuple(kind(name, [one[name] for one in rounds]) for name in KINDS)
    counted = ROUNDS * REQUESTS
    return Measured(
        machine=watch.machine(),
        kernel=platform.release(),
        kernel_options=kernel_options(),
        docker=docker,
        documents=DOCUMENTS,
        request_bytes=BYTES,
        requests=counted,
        kinds=kinds,
        cipher_mb_s=cipher(),
    )


def serve(node: Node, name: str) -> None:
    """A stub that responds at once."""
    behaviour = json.dumps(asdict(Behaviour()))
    argv = ["python3", "-m", "vllm.entrypoints.openai.api_server"]
    run(node, f"server-{name}", name, argv, environment={"STUB": behaviour, "PYTHONPATH": "/app"})


def run(node: Node, container: str, name: str, argv: list[str], **options: Any) -> None:
    """Start a container in a network."""
    fixed = {"entrypoint": argv[:1], "name": container, "network": f"net-{name}", "detach": True}
    node.client.containers.run(STUB, argv[1:], **fixed, **options)


def times(lab: SwarmLab, name: str) -> list[float] | str:
    """Times of some requests in ms, or why there are none."""
    node = lab.nodes[name == "host"]
    argv = ("python3", "-c", CLIENT, f"server-{name}", *map(str, (DOCUMENTS, BYTES, REQUESTS, WARM_UP)))
    try:
        with closing(node.engine()) as engine:
            result = engine.execute(f"client-{name}", argv, timeout=60)
    except EngineError as error:
        return error.short
    lines = result.stderr.strip().splitlines()
    return lines[-1] if lines else [float(line) for line in result.stdout.splitlines()]


def kind(name: str, rounds: list[list[float] | str]) -> Kind:
    """The record of one kind."""
    done = [each for each in rounds if isinstance(each, list)]
    error = next((each for each in rounds if isinstance(each, str)), "")
    if error:
        return Kind(name, None, (), error)
    return Kind(name, median(value for each in done for value in each), tuple(map(median, done)), "")


if __name__ == "__main__":
    write(measure(), sys.argv[1], digits=3)
