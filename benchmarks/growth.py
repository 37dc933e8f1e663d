"""Simulates the gateway with up to 256 replicas: latency, throughput, several gateways, and failures.

::

    python -m benchmarks.growth docs/_data/growth.json

takes some minutes, and writes the same file each time. The gateway's own code (``ragops.gateway``: division
of requests, admission, repetition) runs on an event loop whose clock jumps to the next event. Simulated are
the replicas, the network, which takes no time, and the gateway's processor. The constants come from recorded
runs; the file compares the simulation with these runs first.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import selectors
import sys
from collections import defaultdict
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np
import orjson
from starlette.responses import Response

from benchmarks import gateway_deadline, gateway_speedup, write
from benchmarks.alternating import log
from benchmarks.gateways import ROOT
from ragops.bench.records import load_run
from ragops.bench.workload import ragflow
from ragops.errors import BenchError
from ragops.gateway import split
from ragops.gateway.dispatch import Dispatcher, Job
from ragops.gateway.replicas import Pool, forever

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ragops.bench.workload import Workload
    from ragops.gateway.replicas import Replica

DATA = ROOT / "docs" / "_data"
REPLICAS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MANY_REPLICAS = REPLICAS[3:]
"""Where throughput is simulated."""
DOCUMENTS, SEED, WARMUP, REQUESTS = 64, 1, 2, 5
CLIENTS, EACH = 32, (1, 4)
"""Concurrent clients of each gateway where throughput is simulated: no more requests may wait; and requests
of each client, for slower and for faster replicas."""
RETRY_SECONDS = 5.0
"""What a client waits after an error."""
UNEVEN = (1.0, 1.0, 1.5, 3.0)
"""How many times slower the replicas are, in turn."""
HOURS = (24.0, 1.0, 0.2)
"""Mean time between two failures of one replica."""
FAILING, FAILING_REQUESTS, FAILING_CLIENTS, DEADLINE = (2, 4, 16), 300, 4, 27.0
MANY = 8
"""Up to so many replicas the cost of a share does not depend on their number."""
RESULTS = ROOT / "results"
SIZES, LOAD = "20261123T201607Z-intel-xeon-2cpu-sizes", "20261123T201612Z-intel-xeon-2cpu-load"
"""Runs of the fast substitute model."""
MEDIAN_ERROR, MOST_ERROR, VLLM_ERROR = 0.03, 0.1, 0.3
"""Of all values; of nine in ten without vLLM, and of those of vLLM, whose machine has no constant speed."""
REFERENCE: dict[str, Any] = {
    "id": "0123456789ab",
    "tolerance": 0.02,
    "requests": [
        {
            "query": "How is the pump stopped?",
            "documents": ["Press the green button."] * 2,
            "scores": [0.5] * 2,
        }
        for _ in range(2)
    ],
}
"""By which the gateway admits replicas; of the size that the measuring programs use."""


class _Jump(selectors.SelectSelector):
    """Waits by moving the clock."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("nothing is left to happen")
        self.now += max(timeout, 0.0)
        return []


class Clock(asyncio.SelectorEventLoop):
    """An event loop with simulated time."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        """Simulated seconds."""
        return self._jump.now


@dataclass(frozen=True)
class Costs:
    """Milliseconds of the gateway's processor."""

    request: float
    share: float
    """Or a health check."""
    share_of_replica: float
    """Of a share, for each replica that there is."""

    def of(self, shares: float, replicas: int) -> float:
        """Of a request."""
        return self.request + shares * (self.share + self.share_of_replica * replicas)


class Cpu:
    """The one thread of a gateway, which does one thing after another."""

    def __init__(self) -> None:
        self.free = self.used = 0.0

    async def use(self, milliseconds: float) -> None:
        """Wait until it has done this work, after all earlier work."""
        now, seconds = asyncio.get_running_loop().time(), milliseconds / 1000
        self.free, self.used = max(self.free, now) + seconds, self.used + seconds
        if self.free > now:
            await asyncio.sleep(self.free - now)


class Machine:
    """A replica: computes one share at a time, those of several gateways in the order of their arrival."""

    def __init__(self, word: float, share: float) -> None:
        self.word, self.share, self.up = word, share, True
        self.lock = asyncio.Lock()
        self.computing: asyncio.Future[None] | None = None

    async def compute(self, words: float) -> None:
        """Take the time of a share.

        Raises:
            aiohttp.ClientConnectionError: It is down, or fails meanwhile.
        """
        loop = asyncio.get_running_loop()
        async with self.lock:
            self.check()
            self.computing = loop.create_future()
            timer = loop.call_later(self.share + self.word * words, self.computing.set_result, None)
            try:
                await self.computing
            finally:
                timer.cancel()

    def check(self) -> None:
        """Refuse while it is down."""
        if not self.up:
            raise aiohttp.ClientConnectionError

    async def fail(self, between: float, recovery: float, chance: random.Random) -> None:
        """Fail from time to time; what it computes is lost."""
        while True:
            await asyncio.sleep(chance.expovariate(1 / between))
            self.up = False
            if self.computing and not self.computing.done():
                self.computing.set_exception(aiohttp.ClientConnectionError())
            await asyncio.sleep(recovery)
            self.up = True


class Texts(split.Rerank):
    """A request whose documents are numbers of words."""

    def body(self, texts: Sequence[Any], **_: Any) -> bytes:
        """What a simulated replica needs."""
        return orjson.dumps({"documents": texts})


def texts_of(workload: Workload) -> list[Texts]:
    """The requests of a workload."""
    requests = []
    for number, request in enumerate(workload.requests):
        query = len(request.query.encode())
        costs = [query + len(text.encode()) for text in request.documents]
        words: Any = [text.count(" ") + 1 for text in request.documents]
        keys = [b"%d %d" % (number, index) for index in range(len(costs))]
        requests.append(Texts(costs, keys, None, words, 0, "simulated", {}))
    return requests


class Network(Pool):
    """The gateway's pool, whose requests reach simulated machines."""

    def __init__(self, machines: Sequence[Machine], costs: Costs, cpu: Cpu) -> None:
        super().__init__([], Path())
        self.machines = {f"{number}:8000": machine for number, machine in enumerate(machines)}
        self.cpu, self.cost = cpu, (costs.share + costs.share_of_replica * len(machines)) / 2
        self.reference = REFERENCE

    def read_reference(self) -> None:
        """It does not change."""

    async def send(self, replica: Replica, path: str, body: Any, *_: Any, **__: Any) -> Response:  # noqa: ARG002
        """The response of a machine."""
        machine, texts = self.machines[replica.address], []
        await self.cpu.use(self.cost)
        machine.check()
        if body:
            texts = orjson.loads(body)["documents"]
            words = sum(text.count(" ") + 1 if isinstance(text, str) else text for text in texts)
            await machine.compute(words)
        await self.cpu.use(self.cost)
        rows = [{"index": index, "relevance_score": 0.5} for index in range(len(texts))]
        usage = {"prompt_tokens": 0}
        return Response(orjson.dumps({"results": rows, "usage": usage, "model": "simulated"}), 200)


class Gateway:
    """A gateway with a processor of its own."""

    def __init__(self, machines: Sequence[Machine], costs: Costs, deadline: float) -> None:
        self.costs, self.deadline, self.cpu = costs, deadline, Cpu()
        self.pool = Network(machines, costs, self.cpu)
        self.dispatcher = Dispatcher(self.pool, 0, defaultdict(float))

    async def start(self) -> None:
        """Wait until every replica is admitted."""
        self.pool.resolved("replicas", set(self.pool.machines))
        loops = (self.pool.run(), forever(self.dispatcher.watch))
        self.running = [asyncio.ensure_future(loop) for loop in loops]
        while len(self.pool.admitted) < len(self.pool.machines):  # noqa: ASYNC110 - simulated time
            await asyncio.sleep(0.1)

    async def rank(self, texts: Texts) -> tuple[float, int, int]:
        """Seconds of a request, its status, and how many documents are ranked."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        await self.cpu.use(self.costs.request / 2)
        job = Job(texts, began + self.deadline, False, False, False)
        reply = await self.dispatcher.rank(job)
        await self.cpu.use(self.costs.request / 2)
        return loop.time() - began, reply.status_code, len(job.scores)


@dataclass(frozen=True)
class Setup:
    """What is simulated; times in seconds."""

    words: tuple[float, ...]
    """Time of a word for each replica."""
    share: float
    """Fixed time of each share."""
    costs: Costs
    gateways: int = 1
    clients: int = 1
    """Each sends its next request when it has the response to the last; each gateway has the same number."""
    deadline: float = math.inf
    between: float = math.inf
    """Mean time between two failures of a replica."""
    recovery: float = 0.0


@dataclass(frozen=True)
class Simulated:
    """The requests of one setup."""

    seconds: tuple[float, ...]
    statuses: tuple[int, ...]
    ranked: float
    """Fraction of the documents."""
    took: float
    """From the first request to the last response."""
    shares: float
    """For each request."""
    cpu: float
    """Fraction of its time that the processor of the busiest gateway works."""


def simulate(setup: Setup, texts: Sequence[Texts], warmup: int = WARMUP, seed: int = SEED) -> Simulated:
    """Send requests, those of the warm-up first, to each gateway."""
    logging.getLogger("gateway").setLevel(logging.ERROR)
    with asyncio.Runner(loop_factory=Clock) as runner:
        return runner.run(_simulate(setup, texts, warmup, random.Random(seed)))  # noqa: S311 - no secret


async def _simulate(setup: Setup, texts: Sequence[Texts], warmup: int, chance: random.Random) -> Simulated:
    loop = asyncio.get_running_loop()
    machines = [Machine(word, setup.share) for word in setup.words]
    gateways = [Gateway(machines, setup.costs, setup.deadline) for _ in range(setup.gateways)]
    for gateway in gateways:
        await gateway.start()
        for request in texts[:warmup]:
            await gateway.rank(request)
    failing = machines if setup.between < math.inf else []
    failures = [asyncio.ensure_future(one.fail(setup.between, setup.recovery, chance)) for one in failing]
    began, used, shares = loop.time(), [one.cpu.used for one in gateways], _shares(gateways)
    rows, waiting = [], iter(texts[warmup:])

    async def client(gateway: Gateway) -> None:
        for request in waiting:
            rows.append(await gateway.rank(request))
            if rows[-1][1] != HTTPStatus.OK:
                await asyncio.sleep(RETRY_SECONDS)

    await asyncio.gather(*(client(gateways[one % len(gateways)]) for one in range(setup.clients)))
    took = loop.time() - began
    for failure in failures:
        failure.cancel()
    seconds, statuses, ranked = zip(*rows, strict=True)
    busy = max((one.cpu.used - before) / took for one, before in zip(gateways, used, strict=True))
    documents = sum(len(request.documents) for request in texts[warmup:])
    return Simulated(
        seconds, statuses, sum(ranked) / documents, took, (_shares(gateways) - shares) / len(rows), busy
    )


def _shares(gateways: Sequence[Gateway]) -> int:
    return sum(replica.shares for gateway in gateways for replica in gateway.pool.replicas.values())


@dataclass(frozen=True)
class Server:
    """A model on a machine, as a recorded run has it."""

    name: str
    record: str
    documents_per_s: float
    share_s: float
    """Fixed time of a share."""

    def word(self, texts: Sequence[Texts]) -> float:
        """Seconds of a word."""
        return sum(len(one.documents) for one in texts) / _words(texts) / self.documents_per_s


def _words(texts: Sequence[Texts]) -> float:
    return sum(sum(map(float, request.documents)) for request in texts)


@dataclass(frozen=True)
class Compared:
    """A recorded value, and the simulated one."""

    what: str
    replicas: int
    slower: float
    """How many times slower the first replica is."""
    recorded: float
    simulated: float
    error: float
    """Difference as a fraction of the recorded one."""


@dataclass(frozen=True)
class Point:
    """Requests of one setup; times in seconds."""

    server: str
    speeds: str
    replicas: int
    gateways: int
    p50_s: float
    requests_per_s: float
    ideal: float
    """Of the speed-up or the throughput: if all replicas computed all of the time."""
    shares: float
    cpu: float


@dataclass(frozen=True)
class Failing:
    """Requests while replicas fail."""

    server: str
    replicas: int
    hours: float
    """Mean time between two failures of one replica."""
    requests: int
    failed: int
    """Without a ranking; RAGFlow shows an error."""
    ranked: float
    """Fraction of the documents, by the deadline."""
    p50_s: float
    most_s: float
    throughput: float
    """Ranked documents per second, as a fraction of those without failures."""


@dataclass(frozen=True)
class Growth:
    """The record."""

    seed: int
    workload: str
    workload_sha256: str
    documents: int
    sources: dict[str, str]
    """Each record with the date and commit of its making."""
    costs_ms: Costs
    recovery_s: float
    servers: tuple[Server, ...]
    compared: tuple[Compared, ...]
    latency: tuple[Point, ...]
    throughput: tuple[Point, ...]
    failures: tuple[Failing, ...]


def read(name: str) -> dict[str, Any]:
    """A record of the documentation."""
    record: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    return record


def costs(record: dict[str, Any]) -> Costs:
    """The costs of the gateway, by least squares of the relative errors; the last one needs many replicas."""
    rows = [
        (row["shares_a_request"], row["replicas"], 1000 / row["requests_per_cpu_s"]) for row in record["rows"]
    ]
    terms = 3 if max(replicas for _, replicas, _ in rows) > MANY else 2
    factors = [
        [1 / taken, shares / taken, shares * replicas / taken][:terms] for shares, replicas, taken in rows
    ]
    fit = np.linalg.lstsq(np.array(factors), np.ones(len(rows)), rcond=None)[0]
    request, share, more = (max(round(float(value), 5), 0.0) for value in (*fit, 0.0)[:3])
    return Costs(request, share, more)


def example_texts() -> list[Texts]:
    """The requests of the recorded speed-up, whose points the page shows beside the simulated ones."""
    requests = WARMUP + len(read("gateway_speedup")["rows"][0]["requests_s"])
    return texts_of(gateway_speedup.workloads(requests)["RAGFlow's"])


def servers() -> tuple[Server, ...]:
    """The replicas that are simulated."""
    speed = read("gateway_speedup")
    texts, word = example_texts(), speed["seconds_a_document"] / gateway_speedup.WORDS
    rate = round(sum(len(one.documents) for one in texts) / _words(texts) / word, 4)
    example = Server("0.1 s for 250 words", "gateway_speedup", rate, speed["seconds_a_share"])
    rows = [example]
    for name in ("bfloat16", "int8"):
        series = read(f"gateway_deadline_{name}")["series"][0]
        rate = round(series["documents_per_s"], 4)
        rows.append(Server(f"Qwen3-Reranker-0.6B, {name}", f"gateway_deadline_{name}", rate, example.share_s))
    return (*rows, _small())


def _small() -> Server:
    """The fast substitute model: what a short request shows is the fixed time of a share."""
    times: dict[int, list[float]] = {}
    for request in load_run(RESULTS / SIZES).measured:
        times.setdefault(request.documents, []).append((request.t_done - request.t_send) / 1e9)
    (few, short), (many, long) = [(size, median(times[size])) for size in (min(times), max(times))]
    fixed = max(short - few * (long - short) / (many - few), 0.0)
    alone = [one for one in load_run(RESULTS / LOAD).measured if one.level == "closed-1"]
    rate = median(one.documents / ((one.t_done - one.t_send) / 1e9 - fixed) for one in alone)
    return Server("all-MiniLM-L6-v2, 112 words", LOAD, round(rate, 4), round(fixed, 5))


def compare(costs: Costs) -> Iterator[Compared]:
    """The rows of the recorded runs; the gateway's requests have the deadline of these runs."""
    record = read("gateway_speedup")
    workloads = gateway_speedup.workloads(WARMUP + len(record["rows"][0]["requests_s"]))
    texts = {lengths: one for lengths, one in workloads.items() if one.sha256 in record["workload_sha256"]}
    word = record["seconds_a_document"] / gateway_speedup.WORDS
    for row in (row for row in record["rows"] if row["lengths"] in texts):
        words = (word * row["slower"],) + (word,) * (row["replicas"] - 1)
        setup = Setup(words, record["seconds_a_share"], costs, deadline=gateway_speedup.DEADLINE)
        took = median(simulate(setup, texts_of(texts[row["lengths"]])).seconds)
        error = took / row["gateway_s"] - 1
        what = f"{row['lengths']} lengths, seconds of a request"
        yield Compared(what, row["replicas"], row["slower"], row["gateway_s"], took, error)
    yield from _deadlines(costs)
    for row in read("gateway_overhead")["rows"]:
        taken = 1000 / row["requests_per_cpu_s"]
        own = costs.of(row["shares_a_request"], row["replicas"])
        yield Compared("CPU of a request, ms", row["replicas"], 1.0, taken, own, own / taken - 1)


def _deadlines(costs: Costs) -> Iterator[Compared]:
    """Fractions of documents that one replica of real vLLM ranked by a deadline, from its speed alone."""
    share = read("gateway_speedup")["seconds_a_share"]
    for name in ("bfloat16", "int8"):
        record, first = read(f"gateway_deadline_{name}"), 0
        requests = int(record["workload"].split()[0])
        whole = texts_of(ragflow(requests, record["seed"], window=((DOCUMENTS, 1.0),)))
        for series in record["series"]:
            direct, sent = gateway_deadline.DIRECT, len(series["questions"])
            texts = whole[first : first + direct + sent]
            server = Server("", "", series["documents_per_s"], share)
            setup = Setup((server.word(texts[:direct]),), share, costs, deadline=series["deadline"])
            ranked, first = simulate(setup, texts, direct).ranked, first + direct + sent
            what = f"vLLM, {series['dtype']}, {series['deadline']:g} s: fraction of the documents ranked"
            yield Compared(what, 1, 1.0, series["ranked"], ranked, ranked / series["ranked"] - 1)


def grow(  # noqa: PLR0913 - one keyword for each thing that differs
    server: Server,
    speeds: str,
    texts: Sequence[Texts],
    costs: Costs,
    numbers: Sequence[int] = REPLICAS,
    *,
    gateways: int = 1,
    clients: int = 1,
) -> Iterator[Point]:
    """Requests to each number of replicas."""
    for replicas in numbers:
        slower = [UNEVEN[number % len(UNEVEN)] if speeds == "uneven" else 1.0 for number in range(replicas)]
        word, ideal = server.word(texts), sum(1 / factor for factor in slower)
        words = tuple(word * factor for factor in slower)
        setup = Setup(words, server.share_s, costs, gateways, clients)
        run = simulate(setup, texts)
        if set(run.statuses) != {HTTPStatus.OK}:
            raise BenchError("a simulated request failed", evidence=str(run.statuses))
        log(f"{server.name}, {speeds}, {replicas} replicas, {gateways} gateways: {median(run.seconds):.3f} s")
        yield Point(
            server=server.name,
            speeds=speeds,
            replicas=replicas,
            gateways=setup.gateways,
            p50_s=median(run.seconds),
            requests_per_s=len(run.seconds) / run.took,
            ideal=ideal,
            shares=run.shares,
            cpu=run.cpu,
        )


def saturate(
    server: Server, texts: Sequence[Texts], costs: Costs, gateways: int, each: int
) -> Iterator[Point]:
    """Many clients, which send so many requests each."""
    clients = CLIENTS * gateways
    sent = [*texts, *texts][: WARMUP + each * clients]
    yield from grow(server, "equal", sent, costs, MANY_REPLICAS, gateways=gateways, clients=clients)


def fail(server: Server, texts: Sequence[Texts], costs: Costs, recovery: float) -> Iterator[Failing]:
    """Requests while replicas fail, with RAGFlow's deadline."""
    for replicas in FAILING:
        words = (server.word(texts),) * replicas
        setup = Setup(words, server.share_s, costs, 1, FAILING_CLIENTS, DEADLINE)
        whole = simulate(setup, texts)
        for hours in HOURS:
            run = simulate(replace(setup, between=hours * 3600, recovery=recovery), texts)
            log(f"{server.name}, {replicas} replicas that fail each {hours:g} h: {max(run.seconds):.3f} s")
            yield Failing(
                server=server.name,
                replicas=replicas,
                hours=hours,
                requests=len(run.seconds),
                failed=sum(status != HTTPStatus.OK for status in run.statuses),
                ranked=run.ranked,
                p50_s=median(run.seconds),
                most_s=max(run.seconds),
                throughput=run.ranked / run.took / (whole.ranked / whole.took),
            )


def main(file: str) -> None:
    """Simulate, and write the file."""
    workload = ragflow(FAILING_REQUESTS + WARMUP, SEED, window=((DOCUMENTS, 1.0),))
    texts, own = texts_of(workload), costs(read("gateway_overhead"))
    few = texts[: WARMUP + REQUESTS]
    example, *models = servers()
    recovery = round(min(read("launches")["launches"][0]["ready"]), 1)
    latency = list(grow(example, "equal", example_texts(), own))
    latency += [
        point
        for server in models
        for speeds in ("equal", "uneven")
        for point in grow(server, speeds, few, own)
    ]
    throughput = [
        point
        for server, each in zip(models[1:], EACH, strict=True)
        for gateways in (1, 2)
        for point in saturate(server, texts, own, gateways, each)
    ]
    failures = list(fail(models[1], texts, own, recovery))
    record = Growth(
        seed=SEED,
        workload=workload.description,
        workload_sha256=workload.sha256,
        documents=DOCUMENTS,
        sources=dict(sources([example, *models])),
        costs_ms=own,
        recovery_s=recovery,
        servers=(example, *models),
        compared=tuple(compare(own)),
        latency=tuple(latency),
        throughput=tuple(throughput),
        failures=tuple(failures),
    )
    write(record, file)


def sources(servers: Sequence[Server]) -> Iterator[tuple[str, str]]:
    """Each record with the date of its making, and the commit where it has one."""
    for name in sorted({"gateway_overhead", "launches", *(server.record for server in servers)}):
        if not (DATA / f"{name}.json").exists():
            yield name, name[:8]
            continue
        record = read(name)
        about = record.get("machine", record.get("origin", {}))
        yield name, f"{about.get('date', record.get('date'))}, ragops at {about['git_commit']}"


if __name__ == "__main__":
    main(sys.argv[1])
