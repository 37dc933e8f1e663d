"""A gateway in a process of its own, replicas behind it, and the machine: for the gateway's programs.

``python -m benchmarks.gateways SECONDS_A_SHARE SECONDS_A_DOCUMENT...`` serves one simulated replica for each
document's number, until its input ends. It computes one share at a time, and responds at once if the numbers
are 0.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import platform
import socket
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import httpx

from benchmarks import client_cost, free_port
from ragops.bench import measure, wire
from ragops.checks.traffic import Request
from ragops.configuration import home
from ragops.errors import BenchError
from ragops.reranker import host as hosts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ragops.bench.workload import Workload

NAME = "gateway-benchmark"
"""Served model name of simulated replicas."""
READY_SECONDS = 30.0
ROOT = Path(__file__).parents[1]
LOCK = ROOT / "ragops" / "data" / "gateway" / "requirements.lock"
EQUAL_SHARES = """
import runpy
from gateway import replicas, split
def learn(replica, seconds, cost): replica.pace = 1e-6
split.LEAST_SECONDS, replicas.Replica.learn = 0.0, learn
runpy.run_module("gateway", run_name="__main__")
"""
"""A gateway that divides every request into one share for each replica, however short its shares are."""
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Machine:
    """Where and when a record was made."""

    date: str
    machine: str
    """Processor, instruction set and number of CPUs."""
    cpu_model: str
    cpus: int
    memory_bytes: int
    python: str
    aiohttp: str
    git_commit: str
    git_dirty: bool | None
    niceness: int
    """Of the program, its gateway and its simulated replicas."""
    used_by_others: float
    """Cores that processes other than the program, its gateway and its replicas used meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What every record of the gateway's programs has."""

    machine: Machine
    workload: str
    workload_sha256: str
    seed: int
    documents: int
    """In each request."""


class Watch:
    """Measures what other processes of the machine use, from its creation on."""

    def __init__(self) -> None:
        self.start, self.busy, self.own = time.monotonic(), _busy(), 0.0

    def add(self, seconds: float) -> None:
        """Count CPU seconds as the program's own, such as those of its replicas."""
        self.own += seconds

    def fields(self, texts: Workload) -> dict[str, Any]:
        """Those of :class:`Record`, of a workload of one size."""
        return {
            "machine": self.machine(),
            "workload": texts.description,
            "workload_sha256": texts.sha256,
            "seed": texts.seed,
            "documents": len(texts.requests[0].documents),
        }

    def machine(self) -> Machine:
        """The machine, and what others used until now."""
        host = hosts.read_host()
        commit, dirty = measure.git_state(ROOT / "ragops")
        times = os.times()
        own = self.own + sum(times[:4])
        return Machine(
            date=datetime.now(UTC).date().isoformat(),
            machine=measure.machine_name(host),
            cpu_model=host.cpu_model,
            cpus=len(host.cpus),
            memory_bytes=host.memory,
            python=platform.python_version(),
            aiohttp=version("aiohttp"),
            git_commit=commit,
            git_dirty=dirty,
            niceness=os.getpriority(os.PRIO_PROCESS, 0),
            used_by_others=max(0.0, (_busy() - self.busy - own) / (time.monotonic() - self.start)),
        )


def _busy() -> float:
    return (measure.machine_cpu()[0] or 0) / 1e9


@dataclass(frozen=True)
class Gateway:
    """A running gateway; :func:`gateway` starts one."""

    url: str
    model: str
    process: subprocess.Popen[bytes]

    def replicas(self) -> dict[str, Any]:
        """Its state, as ``/replicas`` shows it."""
        state: dict[str, Any] = httpx.get(f"{self.url}/replicas", timeout=5, trust_env=False).json()
        return state

    @property
    def shares(self) -> int:
        """Shares that its replicas have computed, those that prove a replica included."""
        return sum(replica["shares"] for replica in self.replicas()["replicas"])

    @property
    def cpu_seconds(self) -> float:
        """CPU time of the process until now."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    @property
    def rss_bytes(self) -> int:
        """Resident memory of the process."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) << 10


@contextmanager
def gateway(
    replicas: Sequence[str],
    model: str = NAME,
    *,
    deadline: float = 0,
    cache: int = 0,
    cpu: int | None = None,
    equal_shares: bool = False,
) -> Iterator[Gateway]:
    """Start a gateway on this host, wait until it has admitted all replicas, and end it.

    Args:
        replicas: ``host:port`` of each.
        model: Served model name.
        deadline: Seconds; 0 for none.
        cache: Scores that it stores; 0 for none.
        cpu: The CPU that it runs on; any when None.
        equal_shares: Divide every request into one share for each replica.

    Raises:
        BenchError: It did not start, or did not admit every replica in time.
    """
    with TemporaryDirectory(prefix="ragops-gateway-") as folder:
        reference, port = Path(folder) / "reference.json", free_port()
        reference.write_text(json.dumps(_reference(f"http://{replicas[0]}", model)))
        settings = {
            "GATEWAY_REPLICAS": ",".join(replicas),
            "GATEWAY_DEADLINE": f"{deadline:g}",
            "GATEWAY_CACHE": str(cache),
            "GATEWAY_LONG_DOCUMENTS": "truncate",
            "GATEWAY_REFERENCE": str(reference),
            "GATEWAY_PORT": str(port),
        }
        log = Path(folder) / "log"
        (Path(folder) / "gateway").symlink_to(ROOT / "ragops" / "gateway")  # a package, as in its image
        argv = [str(_python()), *(["-c", EQUAL_SHARES] if equal_shares else ["-m", "gateway"])]
        environment = {**os.environ, **settings, "PYTHONPATH": folder}
        with log.open("wb") as output:
            process = subprocess.Popen(argv, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            if cpu is not None:
                os.sched_setaffinity(process.pid, {cpu})
            running = Gateway(f"http://127.0.0.1:{port}", model, process)
            _wait(running, len(replicas), log)
            yield running
        finally:
            process.terminate()
            process.wait(30)


def _python() -> Path:
    """An interpreter with exactly the packages of the gateway's image, installed once."""
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    folder = home() / f"gateway-python-{digest}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = ("-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps", "-r", str(LOCK))
        subprocess.run([str(python), *install], check=True)
        (folder / "complete").touch()
    return python


def _wait(running: Gateway, replicas: int, log: Path) -> None:
    end, state = time.monotonic() + READY_SECONDS, "it does not respond"
    while time.monotonic() < end and running.process.poll() is None:
        try:
            state = json.dumps(running.replicas()["replicas"])
            if state.count('"admitted"') == replicas:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    evidence = f"{state}\n{log.read_text(errors='replace')[-1500:]}"
    raise BenchError("the gateway did not admit its replicas", evidence=evidence, url=running.url)


def _reference(url: str, model: str) -> dict[str, Any]:
    """Two requests with the scores of the first replica, by which the gateway admits the others."""
    query, texts = "How is the pump stopped?", ("Press the green button.", "The canteen opens at noon.")
    requests = []
    for documents in (texts, texts[::-1]):
        scores = send(url, model, Request(query, documents)).scores
        requests.append({"query": query, "documents": list(documents), "scores": list(scores)})
    return {"id": "0123456789ab", "trained": False, "tolerance": 0.02, "requests": requests}


def send(url: str, model: str, request: Request, *, fresh: bool = True) -> wire.RerankResponse:
    """Send one request, to a gateway or to a replica directly.

    Raises:
        BenchError: It failed.
    """
    body = wire.encode(model, request.query, request.documents)
    return asyncio.run(_post(wire.Server(f"{url}/v1", model), body, len(request.documents), fresh=fresh))


async def _post(server: wire.Server, body: bytes, documents: int, *, fresh: bool) -> wire.RerankResponse:
    with closing(wire.Client(server, 900)) as client:
        reply = await client.post(body, documents, fresh=fresh)
    if reply.error:
        raise BenchError(f"{server.base_url} did not respond", code="server-silent", evidence=reply.error)
    return reply


@contextmanager
def stubs(
    seconds_a_document: Sequence[float], seconds_a_share: float = 0.0, cpu: int | None = None
) -> Iterator[tuple[str, ...]]:
    """Start simulated replicas in one process; their addresses as ``host:port``.

    Args:
        seconds_a_document: For each replica, its time for a document of 250 words.
        seconds_a_share: Fixed time of each request to a replica.
        cpu: The CPU that they run on; any when None.
    """
    numbers = map(str, (seconds_a_share, *seconds_a_document))
    argv = [sys.executable, "-m", "benchmarks.gateways", *numbers]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        if cpu is not None:
            os.sched_setaffinity(process.pid, {cpu})
        assert process.stdout is not None  # noqa: S101 - a pipe
        yield tuple(f"127.0.0.1:{port}" for port in json.loads(process.stdout.readline()))
    finally:
        process.communicate()


class Stub(client_cost.Connection):
    """One connection to a simulated replica."""

    WORDS = 250.0

    def __init__(self, share: float, document: float, free: list[float]) -> None:
        self.share, self.document, self.free = share, document, free
        self.timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Respond to the health check, else as to a rerank request."""
        if data.startswith(b"GET "):
            card = {"object": "list", "data": [{"id": NAME, "max_model_len": 8192}]}
            content = json.dumps(card).encode()
            head = (
                f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
            )
            self.transport.write(head.encode() + content)
        else:
            super().data_received(data)

    def respond(self, body: bytes) -> None:
        """Send the response when the replica has computed it, after what it computes already."""
        content = client_cost.response(body)
        if not self.share + self.document:
            self.transport.write(content)
            return
        words = sum(text.count(" ") + 1 for text in json.loads(body)["documents"])
        loop = asyncio.get_running_loop()
        self.free[0] = max(self.free[0], loop.time()) + self.share + self.document * words / self.WORDS
        self.timer = loop.call_at(self.free[0], self.transport.write, content)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the name is asyncio's
        """Compute no further for a client that has left."""
        if self.timer and self.timer.when() > asyncio.get_running_loop().time():
            self.timer.cancel()
            self.free[0] = 0.0


async def _serve(share: float, documents: Sequence[float]) -> None:
    ports, servers = [], []
    for document in documents:
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        ports.append(listener.getsockname()[1])
        free = [0.0]
        factory = lambda document=document, free=free: Stub(share, document, free)  # noqa: E731
        servers.append(await asyncio.get_running_loop().create_server(factory, sock=listener))
    print(json.dumps(ports), flush=True)  # noqa: T201
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1]), tuple(map(float, sys.argv[2:]))))
