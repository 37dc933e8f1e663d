"""Shares of rerank requests, handed to replicas on demand.

The documents of a request are handed out in its own order, first come first served; with a deadline, the
first share of each request comes before the second of any. A share that fails goes elsewhere, and one that is
late is sent once more to a free replica: the first response counts.
"""

import asyncio
import logging
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import chain

import orjson
from starlette.responses import Response

from . import split
from .cache import ScoreCache
from .replicas import FAILURES, PROOF_TIMEOUT, Pool, Replica
from .split import Rerank

QUEUE = 32
"""Requests that wait for their first share."""
TRIES = 5
"""Of one document, each after a failure."""
SHARE_TIMEOUT = 600.0
LATE, LATE_SECONDS = 1.5, 0.05
"""A share is late after this multiple of its expected time, and what a loaded machine adds to a short one."""
TICK = 0.05
GRACE_SECONDS = 5.0
"""A request on its way waits so long for a replica that is being proved again."""
MARGIN_SECONDS = 0.05
"""From the last score to the last byte of the response."""
NONE_ADMITTED = "no replica is admitted"

log = logging.getLogger("gateway")


def failure(status: int, kind: str, message: str, retry: int = 1) -> Response:
    """An error in vLLM's shape."""
    body = orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": status}})
    return Response(body, status, {"retry-after": str(retry)} if status == 503 else None, "application/json")


def unavailable(message: str, retry: int = 1) -> Response:
    """A 503."""
    return failure(503, "ServiceUnavailableError", message, retry)


@dataclass(eq=False)
class Job:
    """One rerank request on its way; without ``request``, one that goes to a replica as it is."""

    path: str
    body: bytes
    content: str
    request: Rerank | None
    identity: str
    deadline: float
    """On the loop's clock."""
    strict: bool
    """Each document is ranked whole by a replica."""
    cached: bool
    """Whether a cached score may be used."""
    truncate: bool
    done: asyncio.Future[Response] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    tries: Counter[int] = field(default_factory=Counter)
    first: float = 0.0
    """When the first share began."""
    ran: float = 0.0
    """Seconds from then to the end of the last."""

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Begin, perhaps again: nothing is ranked."""
        self.scores: dict[int, float] = {}
        self.counts = Counter[str]()
        self.handed = self.tokens = self.limit = 0
        self.costs, keys = (
            (self.request.costs, self.request.keys) if self.request else ([len(self.body)], [b""])
        )
        self.same = defaultdict[int, list[int]](list)
        first: dict[bytes, int] = {}
        for index, key in enumerate(keys):
            self.same[index if self.strict else first.setdefault(key, index)].append(index)
        self.pending = list(self.same)

    def settle(self, index: int, score: float, state: str, *, cut: bool) -> None:
        """Take over the score of a document and of all equal ones."""
        if index not in self.scores:
            self.scores.update(dict.fromkeys(self.same[index], score))
            self.counts.update({state: len(self.same[index]), "truncated": len(self.same[index]) * cut})


@dataclass(eq=False)
class Share:
    """Some documents of a job, on one replica, or on two when the first is late."""

    job: Job
    indices: list[int]
    late: float = 0.0
    copied: bool = False
    ended: bool = False
    runs: dict[Replica, asyncio.Task[None]] = field(default_factory=dict)

    @property
    def cost(self) -> int:
        """Bytes of query and documents."""
        return sum(self.job.costs[index] for index in self.indices)

    @property
    def keys(self) -> list[bytes]:
        """The digests of the documents."""
        return [self.job.request.keys[index] for index in self.indices] if self.job.request else []

    def overdue(self, replica: Replica, now: float) -> bool:
        """Whether it is to be sent once more, to this replica."""
        late = now > self.late or all(other.state != "admitted" for other in self.runs)
        return late and replica not in self.runs and not self.copied and not self.ended

    def end(self) -> None:
        """Cancel what still runs."""
        self.ended = True
        for task in self.runs.values():
            task.cancel()


class Dispatcher:
    """Gives shares of all jobs to free replicas."""

    def __init__(self, pool: Pool, cache: ScoreCache, counts: Counter[str]) -> None:
        self.pool, self.cache, self.counts = pool, cache, counts
        self.jobs: list[Job] = []
        self.shares: list[Share] = []
        self.model = ""
        self._tick: asyncio.TimerHandle | None = None
        self._stranded = 0.0
        pool.changed, pool.switched = self.pump, self.restart

    @property
    def queued(self) -> int:
        """Requests that wait for their first share."""
        return sum(not job.handed for job in self.jobs)

    async def rank(self, job: Job) -> Response:
        """The response to a job; its shares are cancelled with it."""
        if not self.pool.admitted:
            return unavailable(NONE_ADMITTED, 5)
        self._look_up(job)
        self.cache.hits += len(job.scores)
        self.cache.misses += len(job.costs) - len(job.scores)
        if job.pending and self.queued >= QUEUE:
            left = sum(other.costs[index] for other in self.jobs for index in other.pending)
            return unavailable("the queue is full", 1 + min(60, int(left * min(self._paces()))))
        self.jobs.append(job)
        timer = asyncio.get_running_loop().call_at(job.deadline - MARGIN_SECONDS, self._expire, job)
        try:
            self.pump()
            return await job.done
        finally:
            timer.cancel()
            self._finish(job, None)

    def _paces(self) -> list[float]:
        return [replica.pace for replica in self.pool.admitted]

    def _look_up(self, job: Job) -> None:
        """Settle the pending documents whose scores are cached."""
        if job.request and job.cached and self.cache.scores:
            for index in job.pending:
                key = job.request.keys[index]
                if (score := self.cache.get(key)) is not None:
                    job.settle(index, score, "cached", cut=key in self.cache.cut)
            job.pending = [index for index in job.pending if index not in job.scores]

    def pump(self) -> None:
        """Hand out whatever can be handed out; called at each event."""
        now = asyncio.get_running_loop().time()
        for job in list(self.jobs):
            self._look_up(job)
            if job.request and len(job.scores) == len(job.costs):
                self._finish(job, self._merged(job, job.request))
        if self.jobs:
            for replica in sorted(self.pool.admitted, key=lambda replica: replica.pace):
                if not replica.busy and not replica.reserved and (share := self._next(replica, now)):
                    self._start(share, replica, now)
            self._check_stranded(now)
        if self._tick:
            self._tick.cancel()
        self._tick = asyncio.get_running_loop().call_later(TICK, self.pump) if self.jobs else None

    def _next(self, replica: Replica, now: float) -> Share | None:
        for job in sorted(self.jobs, key=lambda job: job.deadline < math.inf and job.handed > 0):
            if share := self._cut(job, replica, now):
                return share
            for share in self.shares:
                if share.job is job and share.overdue(replica, now):
                    share.copied = True
                    return share
        return None

    def _cut(self, job: Job, replica: Replica, now: float) -> Share | None:
        """The next share of a job; None while its documents are handed out, here or by another job."""
        elsewhere = set(chain(*(share.keys for share in self.shares))) if job.cached else set()
        keys = job.request.keys if job.request else [b""]
        waiting = [index for index in job.pending if keys[index] not in elsewhere]
        left = job.deadline - MARGIN_SECONDS - now
        if not waiting or (job.handed and job.costs[waiting[0]] * replica.pace > left):
            return None  # the next document would not end in time
        costs = [job.costs[index] for index in waiting]
        seconds = min(split.SHARE_SECONDS, left) if left < math.inf else left
        cost = split.share_cost(sum(costs), sum(job.costs), job.handed, replica.pace, self._paces(), seconds)
        share = Share(job, waiting[: split.take(costs, cost)])
        job.pending = [index for index in job.pending if index not in set(share.indices)]
        return share

    def _start(self, share: Share, replica: Replica, now: float) -> None:
        if not share.runs:
            self.shares.append(share)
            share.late = now + LATE * share.cost * replica.pace + LATE_SECONDS
        share.job.first = share.job.first or now
        share.job.handed += 1
        replica.shares += 1
        replica.busy = True
        share.runs[replica] = asyncio.ensure_future(self._run(share, replica, now))

    async def _run(self, share: Share, replica: Replica, began: float) -> None:
        job, reply, reason, cut = share.job, None, "", set[int]()
        try:
            reply, cut = await self._send(share, replica)
            if reply.status_code == 200 and job.request:
                scores, tokens, self.model = split.read_scores(bytes(reply.body), len(share.indices))
            elif reply.status_code >= 500:
                reason = f"HTTP {reply.status_code}"
        except FAILURES as error:
            reason = str(error) if isinstance(error, ValueError) else type(error).__name__
        finally:  # also when cancelled
            now = asyncio.get_running_loop().time()
            replica.busy, job.ran = False, now - job.first
            del share.runs[replica]
            if not share.runs:
                self.shares.remove(share)
            if share.ended and now > share.late:  # slow: another replica was faster
                replica.learn(now - began, share.cost)
            asyncio.get_running_loop().call_soon(self.pump)
        if reason or not reply:
            self._failed(share, replica, reason, reply)
        elif reply.status_code != 200 or not job.request:
            self._finish(job, reply)
        else:
            share.end()
            replica.failures = 0
            replica.learn(now - began, share.cost)
            self.counts[f'shares_total{{outcome="{"hedged" if share.copied else "ok"}"}}'] += 1
            job.tokens += tokens
            for index, score in zip(share.indices, scores, strict=True):
                job.settle(index, score, "computed", cut=index in cut)
                if self.cache.limit:
                    self.cache.store(job.request.keys[index], score, cut=index in cut)

    async def _send(self, share: Share, replica: Replica) -> tuple[Response, set[int]]:
        """The response to a share, and which of its documents were cut."""
        job, request, send = share.job, share.job.request, self.pool.send
        if request is None:
            return await send(replica, job.path, job.body, SHARE_TIMEOUT, job.content), set()
        texts = [request.documents[index] for index in share.indices]
        reply = await send(replica, "/v1/rerank", request.body(texts), SHARE_TIMEOUT)
        longest = split.over_long(reply.status_code, bytes(reply.body)) if job.truncate else 0
        if longest and not job.limit:  # query and template, as the usage of a short document shows
            short = await send(replica, "/v1/rerank", request.body(["."]), PROOF_TIMEOUT)
            if short.status_code == 200:  # where texts meet, there may be more tokens than in each
                job.limit = longest - split.read_scores(bytes(short.body), 1)[1] - 3
        if not longest or job.limit < 1:
            return reply, set()
        own = request.extras.get("max_tokens_per_doc")
        limit = min(own, job.limit) if type(own) is int and own > 0 else job.limit
        body = request.body(texts, max_tokens_per_doc=limit)
        cut = await asyncio.gather(*(self._longer(replica, text, limit) for text in texts))
        longer = {index for index, is_cut in zip(share.indices, cut, strict=True) if is_cut}
        return await send(replica, "/v1/rerank", body, SHARE_TIMEOUT), longer

    async def _longer(self, replica: Replica, text: str, limit: int) -> bool:
        """Whether a text has more tokens; one that can't be counted counts as cut."""
        if len(text.encode()) <= limit:  # a token has a byte at least
            return False
        body = orjson.dumps({"prompt": text, "add_special_tokens": False})
        reply = await self.pool.send(replica, "/tokenize", body, PROOF_TIMEOUT)
        return int(orjson.loads(reply.body).get("count", limit + 1)) > limit

    def _failed(self, share: Share, replica: Replica, reason: str, reply: Response | None) -> None:
        job, outcome = share.job, "failed"
        log.warning("share of %d documents on %s: %s", len(share.indices), replica.address, reason)
        self.pool.fail(replica, reason)
        if not share.runs and job in self.jobs:
            job.tries.update(share.indices)
            if max(job.tries[index] for index in share.indices) >= TRIES:
                own = reply if reply and reply.status_code >= 500 else None
                self._finish(job, own or unavailable("every try of a share failed"))
            else:
                outcome, job.pending = "retried", sorted([*job.pending, *share.indices])
        self.counts[f'shares_total{{outcome="{outcome}"}}'] += 1

    def _merged(self, job: Job, request: Rerank) -> Response:
        usage = {"prompt_tokens": job.tokens, "total_tokens": job.tokens}
        body = split.merge(request, job.scores, id=f"score-{job.identity}", model=self.model, usage=usage)
        headers = {
            "x-ranked": f"{len(job.scores)}/{len(job.costs)}",
            "x-cached": str(job.counts["cached"]),
            "x-truncated": str(job.counts["truncated"]),
        }
        return Response(body, 200, headers, "application/json")

    def _expire(self, job: Job) -> None:
        """The deadline: what is ranked is the response."""
        if job in self.jobs and job.request:
            job.counts["unranked"] = len(job.costs) - len(job.scores)
            ranked = f"{len(job.scores)} of {len(job.costs)} documents are ranked"
            log.warning("deadline: %s", ranked)
            reply = self._merged(job, job.request) if job.scores else unavailable(f"deadline: {ranked}")
            self._finish(job, reply)

    def _finish(self, job: Job, reply: Response | None) -> None:
        """End a job. A share that runs at the deadline runs on for the cache; any other is cancelled."""
        if job in self.jobs:
            self.jobs.remove(job)
            for share in self.shares:
                if share.job is job and not (reply and job.counts["unranked"] and self.cache.limit):
                    share.end()
            if reply and not job.done.done():
                job.done.set_result(reply)

    def _check_stranded(self, now: float) -> None:
        """No replica is left: wait a little for one that is being proved again."""
        if self.pool.admitted or self.shares:
            self._stranded = now
        checking = any(replica.state == "checking" for replica in self.pool.replicas.values())
        if now > self._stranded + GRACE_SECONDS * checking:
            for job in list(self.jobs):
                self._finish(job, unavailable(NONE_ADMITTED, 5))

    def restart(self) -> None:
        """The model has changed: no score of the former one is used."""
        self.cache.clear()
        for share in self.shares:
            share.end()
        for job in self.jobs:
            job.begin()
