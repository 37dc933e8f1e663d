"""Replicas: which addresses there are, which are proved to be right, and how fast each is.

An address gets no request of a client before its scores for the reference requests are right, nor after its
first wrong response. The reference is a file that ``ragops up`` replaces when the model changes.
"""

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any, Literal

import aiohttp
import orjson
from starlette.responses import Response

from . import split

CHECK_SECONDS, HEALTH_TIMEOUT = 1.0, 3.0
PROOF_TIMEOUT, FORWARD_TIMEOUT = 60.0, 600.0
PROOF_SECONDS = 60.0  # between two proofs of an admitted replica, with one reference request each
LONGEST_PAUSE = 30.0  # before a replica that failed is proved again; after the first failure there is none
JSON = "application/json"
HEADERS = {"Content-Type": JSON, "Accept-Encoding": "identity"}
KEEP_ALIVE = 3.0  # less than the 5 s after which vLLM's server closes an idle connection
NO_SUCH_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}
FAILURES = (aiohttp.ClientError, OSError, ValueError, LookupError, TypeError, AttributeError)
"""No response, none in time, or a malformed one."""

State = Literal["admitted", "checking", "rejected", "down"]
log = logging.getLogger("gateway")


def why(error: Exception) -> str:
    """A failure in words that hold no text of a document."""
    return str(error) if isinstance(error, ValueError) else type(error).__name__


async def forever(step: Callable[[], Awaitable[None]]) -> None:
    """Repeat a step until cancelled; an unexpected error ends only that step."""
    while True:
        try:
            await step()
        except Exception:
            log.exception("unexpected error; the gateway goes on")
            await asyncio.sleep(CHECK_SECONDS)


@dataclass(eq=False)
class Replica:
    """One address."""

    address: str
    state: State = "checking"
    reason: str = "not yet proved"
    proved: str = ""  # id of the reference that it last passed
    work: asyncio.Task[None] | None = None  # its share or proof: the last, or the one that runs
    ends: float = 0.0  # when that is expected to end
    missed: int = 0  # health checks without a response, in a row; one without a process counts twice
    failures: int = 0  # requests that failed since the last that did not
    due: float = 0.0  # when it is to be proved
    shares: int = 0
    fixed: float = 0.0  # seconds of any share
    pace: float = 0.0  # seconds of each further byte
    paces: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=9))  # bytes and seconds

    @property
    def busy(self) -> bool:
        """Whether a share or a proof runs; also true of a task that was cancelled and has not ended."""
        return self.work is not None and not self.work.done()

    def learn(self, seconds: float, cost: int) -> None:
        """Note how long a share took; medians, so that a stalled one teaches little."""
        self.paces.append((max(cost, 1), max(seconds, 1e-9)))
        rows = sorted(self.paces)
        most = median(taken / weight for weight, taken in rows[len(rows) // 2 :])
        pairs = ((less, more) for less, more in combinations(rows, 2) if more[0] > 1.5 * less[0])
        slopes = [(more[1] - less[1]) / (more[0] - less[0]) for less, more in pairs]
        self.pace = min(max(median(slopes or [most]), most / 4), most)
        self.fixed = max(median(taken - self.pace * weight for weight, taken in rows), 0.0)

    def seconds(self, cost: float) -> float:
        """How long a share is expected to take."""
        return self.fixed + self.pace * cost

    def wait(self, now: float) -> float:
        """Seconds until it computes another share's documents; a late one is taken to be late once more."""
        return self.fixed + (abs(self.ends - now) + split.LEAST_SECONDS if self.busy else 0.0)


class Pool:
    """All replicas, watched."""

    def __init__(self, hosts: list[str], reference: Path) -> None:
        self.hosts, self.path = hosts, reference
        self.replicas: dict[str, Replica] = {}
        self.reference: dict[str, Any] = {}
        self.serving = ""  # id of the reference that the admitted replicas have passed
        self.proof_tokens = 0  # of all reference requests: the replicas count them with those of clients
        self.switched: Callable[[], None] = lambda: None
        self.addresses: dict[str, set[str]] = {}

    @property
    def admitted(self) -> list[Replica]:
        """Those that may get requests."""
        return [replica for replica in self.replicas.values() if replica.state == "admitted"]

    @property
    def free(self) -> list[Replica]:
        """Those that may get one now, the fastest first; one whose proof is overdue gets that first."""
        oldest = asyncio.get_running_loop().time() - PROOF_SECONDS
        free = (one for one in self.admitted if not one.busy and one.due > oldest)
        return sorted(free, key=lambda one: one.pace)

    async def run(self) -> None:
        """Watch names, addresses and the reference until cancelled."""
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE)
        async with aiohttp.ClientSession(connector=connector, headers=HEADERS) as self.session:
            await forever(self._watch)

    async def _watch(self) -> None:
        self.read_reference()
        await asyncio.gather(*map(self._resolve, self.hosts))
        await asyncio.gather(asyncio.sleep(CHECK_SECONDS), *map(self.check, self.replicas.values()))

    def read_reference(self) -> None:
        """Read the file if it has changed; one that can't be read leaves the reference as it is."""
        with suppress(*FAILURES):
            fields = orjson.loads(self.path.read_bytes())
            complete = fields["id"] and fields["tolerance"] >= 0 and fields["requests"][0]["scores"]
            if complete and fields != self.reference:
                self.reference = fields
                for replica in self.replicas.values():
                    replica.due = 0.0

    async def _resolve(self, host: str) -> None:
        """Look a name up; only a definite "no such name" removes an address."""
        name, _, port = host.rpartition(":")
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT):
                rows = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
            self.resolved(host, {f"{row[4][0]}:{port}" for row in rows if row[0] == socket.AF_INET})
        except (OSError, UnicodeError) as error:  # also a text that can't be a name
            if isinstance(error, socket.gaierror) and error.errno in NO_SUCH_NAME:
                self.resolved(host, set())

    def resolved(self, host: str, addresses: set[str]) -> None:
        """Take over all addresses of a name; those that no name has any more are removed."""
        self.addresses[host] = addresses
        wanted = set[str]().union(*self.addresses.values())
        self.replicas |= {address: Replica(address) for address in sorted(wanted - self.replicas.keys())}
        for address in self.replicas.keys() - wanted:
            self.change(self.replicas.pop(address), "down", "removed")

    def change(self, replica: Replica, state: State, reason: str) -> None:
        """Set the state of a replica, and log it once."""
        if replica.state != state:
            log.warning("replica %s: %s %s", replica.address, state, reason)
        replica.state, replica.reason = state, reason

    def fail(self, replica: Replica, reason: str, state: State = "checking") -> None:
        """Take a replica out after a wrong response or none; it is proved again, later with each failure."""
        pause = min(2.0 ** min(replica.failures, 9) - 1, LONGEST_PAUSE)
        replica.failures, replica.due = replica.failures + 1, asyncio.get_running_loop().time() + pause
        self.change(replica, state, reason)

    async def send(self, replica: Replica, path: str, body: split.Body | None, seconds: float) -> Response:
        """Send a request: GET without a body.

        Raises:
            aiohttp.ClientError: No response.
            TimeoutError: None in time.
        """
        limit = aiohttp.ClientTimeout(total=seconds, sock_connect=HEALTH_TIMEOUT)
        url, method = f"http://{replica.address}{path}", "GET" if body is None else "POST"
        async with self.session.request(method, url, data=body, timeout=limit) as response:
            return Response(await response.read(), response.status, media_type=response.content_type)

    async def check(self, replica: Replica) -> None:
        """Check one replica's health, and prove it when that is due."""
        try:
            missed = int((await self.send(replica, "/health", None, HEALTH_TIMEOUT)).status_code != 200)
        except FAILURES as error:  # busy, perhaps: the second one counts; or no process: the next is another
            missed = 1 if isinstance(error, TimeoutError) else 2
        replica.missed = missed and replica.missed + missed
        if replica.missed > 1 or (missed and replica.state != "admitted"):
            self.change(replica, "down", "no response to /health")
        elif not missed and replica.state == "down":
            replica.due = 0.0
            replica.paces.clear()
            self.change(replica, "checking", "not yet proved")
        now = asyncio.get_running_loop().time()
        if now >= replica.due and self.reference and not missed and not replica.busy:
            replica.work, replica.ends = asyncio.create_task(self._prove(replica, self.reference)), now

    async def _prove(self, replica: Replica, reference: dict[str, Any]) -> None:
        loop, identity, reason = asyncio.get_running_loop(), reference["id"], ""
        state: State = "checking"
        again = replica.state == "admitted" and replica.proved == identity
        try:
            for item in reference["requests"][: 1 if again else None]:
                began, query, texts = loop.time(), item["query"], item["documents"]
                body = orjson.dumps({"query": query, "documents": texts})
                reply = await self.send(replica, "/v1/rerank", body, PROOF_TIMEOUT)
                if reply.status_code != 200:
                    raise ValueError(f"HTTP {reply.status_code}")
                scores, tokens, _ = split.read_scores(reply.body, len(texts))
                self.proof_tokens += tokens
                replica.learn(loop.time() - began, sum(len(query + text) for text in texts))
                off = max(abs(one - right) for one, right in zip(scores, item["scores"], strict=True))
                if off > reference["tolerance"]:
                    state = "rejected"
                    raise ValueError(f"scores differ by {off:.3g}")
        except FAILURES as error:
            reason = f"reference request: {why(error)}"
        if self.reference is reference and replica in self.replicas.values():  # neither has changed
            self._judge(replica, identity, state, reason)

    def _judge(self, replica: Replica, identity: str, state: State, reason: str) -> None:
        now = asyncio.get_running_loop().time()
        if reason and replica.state == "admitted" and self.serving != identity:
            replica.due = now + LONGEST_PAUSE / 3  # serves the former model
        elif reason:
            self.fail(replica, reason, state)
            if state == "rejected" and replica.proved == self.serving:
                replica.proved = ""
                self.switched()  # scores since its last proof are in the cache, and in requests on their way
        else:
            replica.proved, replica.due = identity, now + PROOF_SECONDS
            replica.failures *= replica.state != "admitted"  # it has been right for a minute
            if self.serving != identity:
                self.serving = identity
                for other in self.admitted:
                    if other.proved != identity:
                        self.change(other, "checking", "not yet proved for the new model")
                self.switched()  # now that no replica of the former model can get a share
            self.change(replica, "admitted", "")
