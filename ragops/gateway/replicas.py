"""Replicas: which addresses there are, which are proved to be right, and how fast each is.

An address gets no request of a client before its scores for the reference requests are right, nor after its
first wrong response. The reference is a file that ``ragops up`` replaces when the model changes.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

import aiohttp
import orjson

from .split import MalformedResponseError, read_scores

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CHECK_SECONDS = 1.0
HEALTH_TIMEOUT = 3.0
PROOF_TIMEOUT = 60.0
PROOF_SECONDS = 60.0
"""Between two proofs of an admitted replica, with one reference request each."""
LONGEST_PAUSE = 30.0
"""Before a replica that failed is proved again; after the first failure there is none."""
JSON = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
NO_SUCH_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}

State = Literal["checking", "admitted", "rejected", "down"]
log = logging.getLogger("gateway")


@dataclass(frozen=True)
class Reply:
    """A response as it is received or sent."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})


@dataclass(frozen=True)
class Reference:
    """Requests with their right scores."""

    id: str
    tolerance: float
    requests: tuple[dict[str, Any], ...]

    @classmethod
    def read(cls, path: Path) -> Reference:
        """The reference in a file.

        Raises:
            OSError: It can't be read.
            ValueError: It is not a reference.
        """
        try:
            fields = orjson.loads(path.read_bytes())
            return cls(str(fields["id"]), float(fields["tolerance"]), tuple(fields["requests"]))
        except (KeyError, TypeError) as error:
            raise ValueError(str(error)) from None

    def shortest(self) -> tuple[dict[str, Any], ...]:
        """The request with the least text."""
        return (min(self.requests, key=_cost),)


def _cost(item: dict[str, Any]) -> int:
    return sum(len((item["query"] + text).encode()) for text in item["documents"])


@dataclass(eq=False)
class Replica:
    """One address."""

    address: str
    state: State = "checking"
    reason: str = "not yet proved"
    proved: str = ""
    """Id of the reference that it last passed."""
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    reserved: bool = False
    """Whether its next request is a proof."""
    missed: int = 0
    """Health checks without a response, in a row."""
    failures: int = 0
    """Requests that failed since the last that did not."""
    due: float = 0.0
    """When it is to be proved."""
    shares: int = 0
    paces: deque[float] = field(default_factory=lambda: deque(maxlen=9))

    def __post_init__(self) -> None:
        self.idle.set()

    @property
    def pace(self) -> float:
        """Seconds per byte; the median, so that a stalled share teaches nothing."""
        return median(self.paces)

    def learn(self, seconds: float, cost: int) -> None:
        """Note how long a share took."""
        self.paces.append(max(seconds, 1e-9) / max(cost, 1))


class Pool:
    """All replicas, watched."""

    def __init__(self, hosts: list[str], reference: Path, session: aiohttp.ClientSession) -> None:
        self.hosts, self.path, self.session = hosts, reference, session
        self.replicas: dict[str, Replica] = {}
        self.reference: Reference | None = None
        self.serving = ""
        """Id of the reference that the admitted replicas have passed."""
        self.changed: Callable[[], None] = lambda: None
        self.switched: Callable[[], None] = lambda: None
        self._addresses: dict[str, set[str]] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._version: tuple[int, int] | None = None

    @property
    def admitted(self) -> list[Replica]:
        """Those that may get requests."""
        return [replica for replica in self.replicas.values() if replica.state == "admitted"]

    async def run(self) -> None:
        """Watch names, addresses and the reference until cancelled."""
        tasks = [asyncio.ensure_future(self._watch_name(host)) for host in self.hosts]
        try:
            while True:
                self.read_reference()
                await asyncio.sleep(CHECK_SECONDS)
        finally:
            for task in (*tasks, *self._watches.values()):
                task.cancel()

    def read_reference(self) -> None:
        """Read the file if it has changed; one that can't be read leaves the reference as it is."""
        with suppress(OSError, ValueError):
            status = self.path.stat()
            version = (status.st_mtime_ns, status.st_size)
            if version != self._version:
                self.reference, self._version = Reference.read(self.path), version
                for replica in self.replicas.values():
                    replica.due = 0.0

    async def _watch_name(self, host: str) -> None:
        name, _, port = host.rpartition(":")
        loop = asyncio.get_running_loop()
        while True:
            try:
                rows = await loop.getaddrinfo(name, port, family=socket.AF_INET, type=socket.SOCK_STREAM)
                self.resolved(host, {f"{row[4][0]}:{port}" for row in rows})
            except socket.gaierror as error:  # only a definite "no such name" removes an address
                if error.errno in NO_SUCH_NAME:
                    self.resolved(host, set())
            except OSError:
                pass
            await asyncio.sleep(CHECK_SECONDS)

    def resolved(self, host: str, addresses: set[str]) -> None:
        """Take over all addresses of a name; those that no name has any more are removed."""
        self._addresses[host] = addresses
        wanted = set[str]().union(*self._addresses.values())
        for address in sorted(wanted - self.replicas.keys()):
            replica = self.replicas[address] = Replica(address)
            self._watches[address] = asyncio.ensure_future(self._watch(replica))
            log.info("replica %s: new", address)
        for address in self.replicas.keys() - wanted:
            self._watches.pop(address).cancel()
            self.change(self.replicas.pop(address), "down", "its name has it no more")

    def change(self, replica: Replica, state: State, reason: str) -> None:
        """Set the state of a replica, and log it once."""
        if replica.state != state:
            log.warning("replica %s: %s %s", replica.address, state, reason)
        replica.state, replica.reason = state, reason
        self.changed()

    def fail(self, replica: Replica, reason: str, state: State = "checking") -> None:
        """Take a replica out after a wrong response or none; it is proved again, later with each failure."""
        pause = min(2.0**replica.failures - 1, LONGEST_PAUSE)
        replica.failures += 1
        replica.due = asyncio.get_running_loop().time() + pause
        self.change(replica, state, reason)

    async def post(self, replica: Replica, path: str, body: bytes, seconds: float = 600.0) -> Reply:
        """Send a request.

        Raises:
            aiohttp.ClientError: No response.
            TimeoutError: None in time.
        """
        limit = aiohttp.ClientTimeout(total=seconds, sock_connect=HEALTH_TIMEOUT)
        url = f"http://{replica.address}{path}"
        async with self.session.post(url, data=body, headers=JSON, timeout=limit) as response:
            content = await response.read()
            return Reply(response.status, content, {"content-type": response.headers.get("content-type", "")})

    async def _watch(self, replica: Replica) -> None:
        while True:
            await self.check(replica)
            await asyncio.sleep(CHECK_SECONDS)

    async def check(self, replica: Replica) -> None:
        """Check one replica's health, and prove it when that is due."""
        if not await self._healthy(replica):
            replica.missed += 1
            if replica.missed > 1 or replica.state != "admitted":
                self.change(replica, "down", "no response to /health")
            return
        replica.missed = 0
        if replica.state == "down":
            self.change(replica, "checking", "not yet proved")
        reference = self.reference
        if reference is None:
            replica.reason = "no reference yet: ragops up writes it"
        elif asyncio.get_running_loop().time() >= replica.due:
            full = replica.state != "admitted" or replica.proved != reference.id
            await self._prove(replica, reference, reference.requests if full else reference.shortest())

    async def _healthy(self, replica: Replica) -> bool:
        limit = aiohttp.ClientTimeout(total=HEALTH_TIMEOUT)
        try:
            async with self.session.get(f"http://{replica.address}/health", timeout=limit) as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False

    async def _prove(self, replica: Replica, reference: Reference, items: tuple[dict[str, Any], ...]) -> None:
        replica.reserved = True
        try:
            await asyncio.wait_for(replica.idle.wait(), HEALTH_TIMEOUT)
            replica.idle.clear()
            try:
                wrong = [
                    reason for item in items if (reason := await self._compare(replica, reference, item))
                ]
            finally:
                replica.idle.set()
        except TimeoutError:  # its share runs long: at the next check
            return
        except (aiohttp.ClientError, OSError) as error:
            self.fail(replica, f"no response to a reference request: {type(error).__name__}")
            return
        finally:
            replica.reserved = False
        if self.reference is not reference:  # replaced meanwhile
            return
        if not wrong:
            self._admit(replica, reference)
        elif replica.state == "admitted" and reference.id != self.serving:  # serves the former model
            replica.due = asyncio.get_running_loop().time() + LONGEST_PAUSE / 3
        else:
            self.fail(replica, wrong[0], "rejected")

    async def _compare(self, replica: Replica, reference: Reference, item: dict[str, Any]) -> str:
        """Why a replica's scores for a reference request are wrong; empty if they are right."""
        loop = asyncio.get_running_loop()
        body, began = orjson.dumps({"query": item["query"], "documents": item["documents"]}), loop.time()
        try:
            reply = await self.post(replica, "/v1/rerank", body, PROOF_TIMEOUT)
        except TimeoutError:
            return f"no response to a reference request in {PROOF_TIMEOUT:.0f} s"
        if reply.status != 200:
            return f"HTTP {reply.status} to a reference request"
        try:
            scores, _, _ = read_scores(reply.body, len(item["documents"]))
        except MalformedResponseError as error:
            return f"malformed response to a reference request: {error}"
        replica.learn(loop.time() - began, _cost(item))
        off = max(abs(score - right) for score, right in zip(scores, item["scores"], strict=True))
        return "" if off <= reference.tolerance else f"scores differ from the reference by {off:.3g}"

    def _admit(self, replica: Replica, reference: Reference) -> None:
        replica.proved = reference.id
        replica.due = asyncio.get_running_loop().time() + PROOF_SECONDS
        if self.serving != reference.id:
            self.serving = reference.id
            self.switched()
            for other in self.admitted:
                if other.proved != reference.id:
                    self.change(other, "checking", "not yet proved for the new model")
        self.change(replica, "admitted", "")
