"""Replicas: which addresses there are, which are proved to be right, and how fast each is.

An address gets no request of a client before its scores for the reference requests are right, nor after its
first wrong response. The reference is a file that ``ragops up`` replaces when the model changes.
"""

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any, Literal

import aiohttp
import orjson
from starlette.responses import Response

from .split import Body, read_scores

CHECK_SECONDS, HEALTH_TIMEOUT = 1.0, 3.0
PROOF_TIMEOUT, SHARE_TIMEOUT = 60.0, 600.0
AGAIN_TIMEOUT = 10.0
"""Of an admitted replica's proof: no health check runs meanwhile."""
JSON = "application/json"
PROOF_SECONDS = 60.0
"""Between two proofs of an admitted replica, with one reference request each."""
LONGEST_PAUSE = 30.0
"""Before a replica that failed is proved again; after the first failure there is none."""
NO_SUCH_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}
FAILURES = (aiohttp.ClientError, OSError, ValueError, LookupError, TypeError)
"""No response, none in time, or a malformed one."""

State = Literal["admitted", "checking", "rejected", "down"]
log = logging.getLogger("gateway")


@dataclass(eq=False)
class Replica:
    """One address."""

    address: str
    state: State = "checking"
    reason: str = "not yet proved"
    proved: str = ""
    """Id of the reference that it last passed."""
    work: asyncio.Task[None] | None = None
    """Its share or proof: the last, or the one that runs."""
    missed: int = 0
    """Health checks without a response, in a row."""
    failures: int = 0
    """Requests that failed since the last that did not."""
    due: float = 0.0
    """When it is to be proved."""
    shares: int = 0
    pace: float = 0.0
    """Seconds per byte: the median byte's, so that neither a stalled nor a small share teaches much."""
    fixed: float = 0.0
    slope: float = 0.0
    """Seconds of any share, and of each further byte."""
    paces: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=9))

    @property
    def busy(self) -> bool:
        """Whether a share or a proof runs; also true of a task that was cancelled and has not ended."""
        return self.work is not None and not self.work.done()

    def start(self, work: Coroutine[Any, Any, None], ended: Callable[[], None]) -> asyncio.Task[None]:
        """Run a share or a proof; ``ended`` is called after it, however it ends."""
        self.work = asyncio.ensure_future(work)
        self.work.add_done_callback(lambda _: ended())
        return self.work

    def learn(self, seconds: float, cost: int) -> None:
        """Note how long a share took."""
        self.paces.append((max(seconds, 1e-9) / max(cost, 1), cost))
        half = sum(weight for _, weight in self.paces) / 2
        for pace, weight in sorted(self.paces, reverse=True):
            if half > 0:
                self.pace, half = pace, half - weight
        rows = sorted((weight, pace * weight) for pace, weight in self.paces)
        pairs = [(less, more) for less, more in combinations(rows, 2) if more[0] > 1.5 * less[0]]
        slopes = [(more[1] - less[1]) / (more[0] - less[0]) for less, more in pairs]
        self.slope = min(max(median(slopes or [self.pace]), self.pace / 4), self.pace)
        self.fixed = max(median(taken - self.slope * weight for weight, taken in rows), 0.0)

    def seconds(self, cost: float) -> float:
        """How long a share is expected to take."""
        return self.fixed + self.slope * cost


class Pool:
    """All replicas, watched."""

    def __init__(self, hosts: list[str], reference: Path, session: aiohttp.ClientSession) -> None:
        self.hosts, self.path, self.session = hosts, reference, session
        self.replicas: dict[str, Replica] = {}
        self.reference: dict[str, Any] = {}
        self.serving = ""
        """Id of the reference that the admitted replicas have passed."""
        self.proof_tokens = 0
        """Tokens of all reference requests: the replicas count them with those of clients."""
        self.changed: Callable[[], None] = lambda: None
        self.switched: Callable[[], None] = lambda: None
        self.addresses: dict[str, set[str]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._version = (0, 0)

    @property
    def admitted(self) -> list[Replica]:
        """Those that may get requests."""
        return [replica for replica in self.replicas.values() if replica.state == "admitted"]

    @property
    def free(self) -> list[Replica]:
        """Those that may get one now, the fastest first; one whose proof is overdue gets that first."""
        oldest = asyncio.get_running_loop().time() - PROOF_SECONDS
        free = [replica for replica in self.admitted if not replica.busy and replica.due > oldest]
        return sorted(free, key=lambda replica: replica.pace)

    async def run(self) -> None:
        """Watch names, addresses and the reference until cancelled."""
        self._tasks.update((host, asyncio.ensure_future(self._watch_name(host))) for host in self.hosts)
        try:
            while True:
                self.read_reference()
                await asyncio.sleep(CHECK_SECONDS)
        finally:
            for task in self._tasks.values():
                task.cancel()

    def read_reference(self) -> None:
        """Read the file if it has changed; one that can't be read leaves the reference as it is."""
        with suppress(OSError, *FAILURES):
            status = self.path.stat()
            if self._version != (version := (status.st_mtime_ns, status.st_size)):
                fields = orjson.loads(self.path.read_bytes())
                if fields["id"] and fields["tolerance"] >= 0 and fields["requests"][0]["scores"]:
                    self.reference, self._version = fields, version
                    for replica in self.replicas.values():
                        replica.due = 0.0

    async def _watch_name(self, host: str) -> None:
        name, _, port = host.rpartition(":")
        while True:
            with suppress(OSError):  # only a definite "no such name" removes an address
                try:
                    rows = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
                    self.resolved(host, {f"{row[4][0]}:{port}" for row in rows if row[0] == socket.AF_INET})
                except socket.gaierror as error:
                    if error.errno in NO_SUCH_NAME:
                        self.resolved(host, set())
            await asyncio.sleep(CHECK_SECONDS)

    def resolved(self, host: str, addresses: set[str]) -> None:
        """Take over all addresses of a name; those that no name has any more are removed."""
        self.addresses[host] = addresses
        wanted = set[str]().union(*self.addresses.values())
        for address in sorted(wanted - self.replicas.keys()):
            self.replicas[address] = Replica(address)
            self._tasks[address] = asyncio.ensure_future(self._watch(self.replicas[address]))
        for address in self.replicas.keys() - wanted:
            self._tasks.pop(address).cancel()
            self.change(self.replicas.pop(address), "down", "removed")

    def change(self, replica: Replica, state: State, reason: str) -> None:
        """Set the state of a replica, and log it once."""
        if replica.state != state:
            log.warning("replica %s: %s %s", replica.address, state, reason)
        replica.state, replica.reason = state, reason
        self.changed()

    def fail(self, replica: Replica, reason: str, state: State = "checking") -> None:
        """Take a replica out after a wrong response or none; it is proved again, later with each failure."""
        pause = min(2.0**replica.failures - 1, LONGEST_PAUSE)
        replica.failures, replica.due = replica.failures + 1, asyncio.get_running_loop().time() + pause
        self.change(replica, state, reason)

    async def send(
        self, replica: Replica, path: str, body: Body | None, seconds: float = 0.0, content: str = JSON
    ) -> Response:
        """Send a request: GET without a body.

        Raises:
            aiohttp.ClientError: No response.
            TimeoutError: None in time.
        """
        limit = aiohttp.ClientTimeout(total=seconds or SHARE_TIMEOUT, sock_connect=HEALTH_TIMEOUT)
        headers = {"Content-Type": content, "Accept-Encoding": "identity"}
        url, method = f"http://{replica.address}{path}", "GET" if body is None else "POST"
        async with self.session.request(method, url, data=body, headers=headers, timeout=limit) as response:
            kind = {"content-type": response.headers.get("content-type", "")}
            return Response(await response.read(), response.status, kind)

    async def _watch(self, replica: Replica) -> None:
        while True:
            await self.check(replica)
            await asyncio.sleep(CHECK_SECONDS)

    async def check(self, replica: Replica) -> None:
        """Check one replica's health, and prove it when that is due."""
        healthy = False
        try:
            healthy = (await self.send(replica, "/health", None, HEALTH_TIMEOUT)).status_code == 200
        except TimeoutError:  # busy, perhaps: the second one counts
            pass
        except FAILURES:  # no process: the next one may be another
            replica.missed += 1
        replica.missed = 0 if healthy else replica.missed + 1
        if not healthy and (replica.missed > 1 or replica.state != "admitted"):
            self.change(replica, "down", "no response to /health")
        elif replica.state == "down":
            replica.due = 0.0
            replica.paces.clear()
            self.change(replica, "checking", "not yet proved")
        if not healthy or not self.reference:
            return
        if asyncio.get_running_loop().time() >= replica.due and not replica.busy:
            await replica.start(self._prove(replica, self.reference), self.changed)

    async def _prove(self, replica: Replica, reference: dict[str, Any]) -> None:
        loop, items, timeout = asyncio.get_running_loop(), reference["requests"], PROOF_TIMEOUT
        if replica.state == "admitted" and replica.proved == reference["id"]:
            items, timeout = items[:1], AGAIN_TIMEOUT
        state: State = "checking"
        reason = ""
        try:
            for item in items:
                began = loop.time()
                body = orjson.dumps({"query": item["query"], "documents": item["documents"]})
                reply = await self.send(replica, "/v1/rerank", body, timeout)
                if reply.status_code != 200:
                    raise ValueError(f"HTTP {reply.status_code}")
                scores, tokens, _ = read_scores(reply.body, len(item["documents"]))
                self.proof_tokens += tokens
                cost = sum(len(item["query"] + text) for text in item["documents"])
                replica.learn(loop.time() - began, cost)
                off = max(abs(score - right) for score, right in zip(scores, item["scores"], strict=True))
                if off > reference["tolerance"]:
                    state = "rejected"
                    raise ValueError(f"scores differ by {off:.3g}")
        except FAILURES as error:
            reason = f"reference request: {error if isinstance(error, ValueError) else type(error).__name__}"
        self._judge(replica, reference, state, reason)

    def _judge(self, replica: Replica, reference: dict[str, Any], state: State, reason: str) -> None:
        now = asyncio.get_running_loop().time()
        if self.reference is not reference:  # replaced meanwhile
            return
        if reason and replica.state == "admitted" and self.serving != reference["id"]:
            replica.due = now + LONGEST_PAUSE / 3  # serves the former model
        elif reason:
            self.fail(replica, reason, state)
            if state == "rejected" and replica.proved == self.serving:
                replica.proved = ""
                self.switched()  # scores since its last proof are in the cache, and in requests on their way
        else:
            replica.proved, replica.due = reference["id"], now + PROOF_SECONDS
            replica.failures *= replica.state != "admitted"  # it has been right for a minute
            if self.serving != reference["id"]:
                self.serving = reference["id"]
                self.switched()
                for other in self.admitted:
                    if other.proved != self.serving:
                        self.change(other, "checking", "not yet proved for the new model")
            self.change(replica, "admitted", "")
