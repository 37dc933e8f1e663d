"""Shares of rerank requests, handed to replicas on demand.

The documents of a request are handed out in its own order, first come first served; with a deadline, the
first share of each request comes before the second of any. A share that fails goes elsewhere, and one that is
late is sent once more to a free replica: the first response counts.
"""

import asyncio
import logging
import math
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus

import orjson
from starlette.responses import Response

from . import split
from .cache import ScoreCache
from .replicas import FAILURES, Pool, Replica

QUEUE = 32
"""Requests that wait for their first share."""
TRIES = 4
"""Of one document, each after a failure. A status of 5xx counts as two: the second is of another replica,
or of one that has been proved since, so that the document is the cause."""
LATE, LATE_SECONDS = 1.5, 0.05
"""A share is late after this multiple of its expected time, and what a loaded machine adds to a short one.
After twice the multiple it comes before documents that are not handed out."""
TICK = MARGIN_SECONDS = 0.05
"""Between two looks for late shares; from the last score to the last byte of the response."""
GRACE_SECONDS = 5.0
"""A request on its way waits so long for a replica that is being proved again."""
BYTES_OF_TOKEN, ANY_LENGTH = 4, 1 << 40
"""What a token of a long document is taken to have; and the longest one before a model has refused any."""
RETRY_SECONDS, NONE_ADMITTED = "5", "no replica is admitted"

log = logging.getLogger("gateway")


def failure(status: int, message: str) -> Response:
    """An error in vLLM's shape."""
    fields = {"message": message, "type": HTTPStatus(status).phrase, "param": None, "code": status}
    headers = {"retry-after": RETRY_SECONDS} if status == 503 else None
    return Response(orjson.dumps({"error": fields}), status, headers, "application/json")


@dataclass(eq=False)
class Job:
    """One rerank request on its way; ``strict``: each document is ranked whole by a replica."""

    request: split.Rerank
    path: str
    content: str
    deadline: float
    strict: bool
    cached: bool
    """Whether a cached score may be used."""
    truncate: bool
    done: asyncio.Future[Response] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    arrived: float = field(default_factory=lambda: asyncio.get_running_loop().time())
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
        self.same: dict[bytes, list[int]] = {}
        for index, key in enumerate(self.request.keys):
            self.same.setdefault(b"%d" % index if self.strict else key, []).append(index)
        self.pending = [indices[0] for indices in self.same.values()]

    def settle(self, index: int, score: float, state: str, *, cut: bool) -> None:
        """Take over the score of a document and of all equal ones."""
        same = [index] if self.strict else self.same[self.request.keys[index]]
        if index not in self.scores:
            self.counts[state] += len(same)
            self.counts["truncated"] += len(same) * cut
            for equal in same:
                self.scores[equal] = score


@dataclass(eq=False)
class Share:
    """Some documents of a job, on one replica, or on two when the first is late."""

    job: Job
    indices: list[int]
    cost: int
    began: float
    expected: float
    runs: dict[Replica, asyncio.Task[None]] = field(default_factory=dict)

    def late(self, factor: float) -> float:
        """When it has taken this multiple of its expected time."""
        return self.began + factor * self.expected + LATE_SECONDS


class Dispatcher:
    """Gives shares of all jobs to free replicas."""

    def __init__(self, pool: Pool, cache: ScoreCache, counts: Counter[str]) -> None:
        self.pool, self.cache, self.counts = pool, cache, counts
        self.jobs: list[Job] = []
        self.shares: list[Share] = []
        self.model, self._stranded = "", -math.inf
        self.longest = ANY_LENGTH
        """Bytes that the model takes; the rest of a document is cut, and costs nothing."""
        self._tick: asyncio.TimerHandle | None = None
        pool.changed, pool.switched = self.pump, self.restart

    @property
    def queued(self) -> int:
        """Requests that wait for their first share."""
        return sum(not job.handed for job in self.jobs)

    async def rank(self, job: Job) -> Response:
        """The response to a job; its shares are cancelled with it."""
        self._look_up(job)
        if job.pending and self.queued >= QUEUE:
            return failure(503, "the queue is full")
        self.jobs.append(job)
        timer = asyncio.get_running_loop().call_at(job.deadline - MARGIN_SECONDS, self._expire, job)
        try:
            self.pump()
            return await job.done
        finally:
            timer.cancel()
            self._finish(job, None)

    def _look_up(self, job: Job) -> None:
        """Settle the pending documents whose scores are cached."""
        if job.cached and self.cache:
            for index in job.pending:
                if entry := self.cache.find(job.request.keys[index]):
                    job.settle(index, entry[0], "cached", cut=entry[1])
            job.pending = [index for index in job.pending if index not in job.scores]

    def pump(self) -> None:
        """Hand out whatever can be handed out; called at each event."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for job in list(self.jobs):
            self._look_up(job)
            if len(job.scores) == len(job.request.keys):
                self._finish(job, self._merged(job))
        for replica in self.pool.free:
            self._occupy(replica, now)
        if self.pool.admitted or self.shares:
            self._stranded = now
        checking = any(replica.state == "checking" for replica in self.pool.replicas.values())
        if now > self._stranded + GRACE_SECONDS * checking:
            for job in list(self.jobs):
                self._finish(job, failure(503, NONE_ADMITTED))
        if self._tick:
            self._tick.cancel()
        self._tick = loop.call_later(TICK, self.pump) if self.jobs else None

    def _occupy(self, replica: Replica, now: float) -> None:
        """Start the next share; a request's first comes before the others of little older ones."""
        for job in sorted(self.jobs, key=lambda job: job.arrived + split.SHARE_SECONDS * bool(job.handed)):
            late, very_late = (self._late(job, replica, now, factor) for factor in (LATE, 2 * LATE))
            if share := very_late or self._cut(job, replica, now) or late:
                self.counts['shares_total{outcome="hedged"}'] += len(share.runs)
                job.first, job.handed = job.first or now, job.handed + 1
                replica.shares += 1
                share.runs[replica] = replica.start(self._run(share, replica, now), self.pump)
                return

    def _cut(self, job: Job, replica: Replica, now: float) -> Share | None:
        """The next share of a job; None while its documents are handed out, here or by another job."""
        if not job.pending:
            return None
        costs = [min(cost, self.longest) for cost in job.request.costs]
        keys, left = job.request.keys, job.deadline - MARGIN_SECONDS - now
        others = [share for share in self.shares if job.cached and now < share.late(LATE)]
        elsewhere = {share.job.request.keys[index] for share in others for index in share.indices}
        waiting = [index for index in job.pending if keys[index] not in elsewhere]
        if not waiting or (job.handed and replica.seconds(costs[waiting[0]]) > left):
            return None  # the next document would not end in time
        each, usual = [costs[index] for index in waiting], max(sum(costs) / len(self.pool.admitted), 1)
        paces = [other.seconds(usual) / usual for other in self.pool.admitted]
        cost = split.share_cost(sum(each), sum(costs), job.handed, replica.seconds(usual) / usual, paces)
        if left < math.inf:  # no share is mostly fixed time
            longest = min(split.SHARE_SECONDS, (job.deadline - job.arrived) / split.LEAST_SHARES)
            longest = min(max(longest, 2 * replica.fixed), left)
            cost = min(cost, (longest - replica.fixed) / replica.slope)
        number = split.take(each, cost)
        cost = sum(each[:number])
        share = Share(job, waiting[:number], int(cost), now, replica.seconds(cost))
        job.pending = sorted(set(job.pending).difference(share.indices))
        self.shares.append(share)
        return share

    def _late(self, job: Job, replica: Replica, now: float, factor: float) -> Share | None:
        """A share to be sent once more: its only replica is late or not admitted any more."""
        for share in self.shares:
            late = now > share.late(factor) or all(other.state != "admitted" for other in share.runs)
            if late and share.job is job and len(share.runs) == 1 and replica not in share.runs:
                return share
        return None

    async def _run(self, share: Share, replica: Replica, began: float) -> None:
        job, loop, reply, reason = share.job, asyncio.get_running_loop(), None, ""
        try:
            reply, cut = await self._send(share, replica)
            if reply.status_code == 200 and job.request.raw is None:
                scores, tokens, self.model = split.read_scores(reply.body, len(share.indices))
            elif reply.status_code >= 500:
                reason = f"HTTP {reply.status_code}"
        except FAILURES as error:
            reply, reason = None, str(error) if isinstance(error, ValueError) else type(error).__name__
        finally:  # also when cancelled
            seconds, job.ran = loop.time() - began, loop.time() - job.first
            del share.runs[replica]
            if share not in self.shares and loop.time() > share.late(LATE):  # another replica was faster
                replica.learn(seconds, share.cost)
        if reason or not reply:
            self._failed(share, replica, reason, reply)
        elif reply.status_code != 200 or job.request.raw is not None:
            self._end(share)
            self._finish(job, reply)
        else:
            self._end(share)
            replica.failures, job.tokens = 0, job.tokens + tokens
            if not cut:  # how much of it was computed is unknown
                replica.learn(seconds, share.cost)
            self.counts['shares_total{outcome="ok"}'] += 1
            for index, score in zip(share.indices, scores, strict=True):
                job.settle(index, score, "computed", cut=index in cut)
                if self.cache.limit:
                    self.cache.store(job.request.keys[index], score, cut=index in cut)

    async def _send(self, share: Share, replica: Replica) -> tuple[Response, set[int]]:
        """The response to a share, and which of its documents were cut."""
        job, request = share.job, share.job.request
        texts = [request.documents[index] for index in share.indices]
        post = partial(self.pool.send, replica, job.path, content=job.content)
        reply = await post(body=request.body(texts))
        longest = split.over_long(reply.status_code, reply.body) if job.truncate else 0
        self.longest = longest * BYTES_OF_TOKEN or self.longest
        if longest and not job.limit:  # query and template, as the usage of a short document shows
            short = await post(body=request.body(["."]))
            if short.status_code == 200:  # where texts meet, there may be more tokens than in each
                job.limit = longest - split.read_scores(short.body, 1)[1] - 3
        if not longest or job.limit < 1:
            return reply, set()
        longer = await asyncio.gather(*(self._longer(replica, text, job.limit) for text in texts))
        reply = await post(body=request.body(texts, max_tokens_per_doc=job.limit))
        return reply, {index for index, cut in zip(share.indices, longer, strict=True) if cut}

    async def _longer(self, replica: Replica, text: str, limit: int) -> bool:
        """Whether a text has more tokens; one that can't be counted counts as cut."""
        if len(text.encode()) <= limit:  # a token has a byte at least
            return False
        body = orjson.dumps({"prompt": text, "add_special_tokens": False})
        reply = await self.pool.send(replica, "/tokenize", body)
        return int(orjson.loads(reply.body).get("count", limit + 1)) > limit

    def _failed(self, share: Share, replica: Replica, reason: str, reply: Response | None) -> None:
        job, outcome = share.job, "failed"
        log.warning("share of %d documents on %s: %s", len(share.indices), replica.address, reason)
        job.tries.update(dict.fromkeys(share.indices, 2 if reply else 1))
        last = max(job.tries[index] for index in share.indices) >= TRIES
        if reply and last:
            replica.failures = 0
        else:
            self.pool.fail(replica, reason)
        if not share.runs and share in self.shares:
            self._end(share)
            if last:
                self._finish(job, reply or failure(503, "every try of a share failed"))
            else:
                outcome, job.pending = "retried", sorted([*job.pending, *share.indices])
        self.counts[f'shares_total{{outcome="{outcome}"}}'] += 1

    def _merged(self, job: Job) -> Response:
        usage = {"prompt_tokens": job.tokens, "total_tokens": job.tokens}
        identity = f"score-{job.request.identity}"
        body = split.merge(job.request, job.scores, id=identity, model=self.model, usage=usage)
        headers = {f"x-{name}": str(job.counts[name]) for name in ("cached", "truncated")}
        headers["x-ranked"] = f"{len(job.scores)}/{len(job.request.keys)}"
        return Response(body, 200, headers, "application/json")

    def _expire(self, job: Job) -> None:
        """The deadline: what is ranked is the response."""
        if job in self.jobs:
            job.counts["unranked"] = len(job.request.keys) - len(job.scores)
            log.warning("deadline: %d of %d documents are ranked", len(job.scores), len(job.request.keys))
            cause = "its first share takes longer" if job.handed else "no replica was free"
            message = f"nothing was ranked by the deadline of {job.deadline - job.arrived:.3g} s: {cause}"
            self._finish(job, self._merged(job) if job.scores else failure(503, message))

    def _finish(self, job: Job, reply: Response | None) -> None:
        """End a job. A share that runs at the deadline and is on time runs on for the cache."""
        if job in self.jobs:
            self.jobs.remove(job)
            for share in [share for share in self.shares if share.job is job]:
                if reply and job.counts["unranked"] and self.cache.limit:
                    asyncio.get_running_loop().call_at(share.late(2 * LATE), self._end, share)
                else:
                    self._end(share)
            if reply and not job.done.done():
                job.done.set_result(reply)

    def _end(self, share: Share) -> None:
        if share in self.shares:
            self.shares.remove(share)
            for task in share.runs.values():
                task.cancel()

    def restart(self) -> None:
        """The model has changed: no score of the former one is used."""
        self.cache.clear()
        self.longest = ANY_LENGTH
        for share in list(self.shares):
            self._end(share)
        for job in self.jobs:
            job.begin()
