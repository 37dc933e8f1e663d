"""Shares of rerank requests, handed to replicas on demand.

The documents of a request are handed out in its own order, first come first served; with a deadline, the
first share of every request comes before the second of any. A share that fails goes elsewhere, and one that
is late is sent once more to a free replica: the first response counts.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp
import orjson

from . import split
from .replicas import PROOF_TIMEOUT, Reply
from .split import MalformedResponseError, error_body

if TYPE_CHECKING:
    from .cache import ScoreCache
    from .metrics import Metrics
    from .replicas import Pool, Replica
    from .split import Rerank

QUEUE = 32
"""Requests that wait for their first share."""
TRIES = 5
"""Of one document, each after a failure."""
LATE = 1.5
"""A share is late after this multiple of its expected time, and then sent once more."""
LATE_SECONDS = 0.05
"""Added to it: what a loaded machine adds to a short share."""
TICK = 0.05
GRACE_SECONDS = 5.0
"""A request on its way waits so long for a replica that is being proved again."""
MARGIN_SECONDS = 0.05
"""From the last score to the last byte of the response."""

log = logging.getLogger("gateway")


def unavailable(message: str, retry: int = 1) -> Reply:
    """A 503 in vLLM's shape."""
    headers = {"content-type": "application/json", "retry-after": str(retry)}
    return Reply(503, error_body(503, "ServiceUnavailableError", message), headers)


@dataclass(eq=False)
class Job:
    """One rerank request on its way; without ``request``, one that goes to a replica as it is."""

    path: str
    body: bytes
    request: Rerank | None
    arrived: float
    deadline: float | None = None
    """On the loop's clock."""
    cached: bool = True
    """Whether a cached score may be used."""
    truncate: bool = True
    pending: list[int] = field(default_factory=list)
    """Documents to be handed out, in order; of equal ones the first."""
    same: dict[bytes, list[int]] = field(default_factory=dict)
    """The documents of each digest."""
    scores: dict[int, float] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    """Documents by state."""
    tries: Counter[int] = field(default_factory=Counter)
    handed: int = 0
    tokens: int = 0
    limit: int = 0
    """``max_tokens_per_doc`` that leaves place for query and template; 0 until it is needed."""
    running: int = 0
    since: float = 0.0
    ran: float = 0.0
    """Seconds in which at least one share ran."""
    late: bool = False
    done: asyncio.Future[Reply] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def cost(self, index: int) -> int:
        """Bytes of the query and a document."""
        return self.request.costs[index] if self.request else len(self.body)

    def settle(self, index: int, score: float, state: str) -> None:
        """Take over the score of a document and of all equal ones."""
        request = self.request
        if request and index not in self.scores:
            equal = self.same[request.keys[index]]
            self.scores.update(dict.fromkeys(equal, score))
            self.counts[state] += len(equal)


@dataclass(eq=False)
class Share:
    """Some documents of a job; it runs on one replica, or on two when the first is late."""

    job: Job
    indices: list[int]
    cost: int
    runs: list[Run] = field(default_factory=list)
    copied: bool = False


@dataclass(eq=False)
class Run:
    """One share on one replica."""

    share: Share
    replica: Replica
    began: float
    late: float
    """When it is late."""
    task: asyncio.Task[None] | None = None


class Dispatcher:
    """Gives shares of all jobs to free replicas."""

    def __init__(self, pool: Pool, cache: ScoreCache, metrics: Metrics) -> None:
        self.pool, self.cache, self.metrics = pool, cache, metrics
        self.jobs: list[Job] = []
        self.shares: list[Share] = []
        self.model = ""
        self._inflight: Counter[bytes] = Counter()
        self._tick: asyncio.TimerHandle | None = None
        self._stranded = 0.0
        pool.changed, pool.switched = self.pump, self.restart

    @property
    def queued(self) -> int:
        """Requests that wait for their first share."""
        return sum(not job.handed for job in self.jobs)

    async def rank(self, job: Job) -> Reply:
        """The response to a job; cancelled, its shares are cancelled as well."""
        if not self.pool.admitted:
            return unavailable("no replica is admitted", retry=5)
        self._begin(job)
        if job.pending and self.queued >= QUEUE:
            return unavailable("the queue is full", self._wait_seconds())
        self.jobs.append(job)
        loop = asyncio.get_running_loop()
        timer = loop.call_at(job.deadline - MARGIN_SECONDS, self._expire, job) if job.deadline else None
        try:
            self.pump()
            return await job.done
        finally:
            if timer:
                timer.cancel()
            if job in self.jobs:  # the client has left
                self._finish(job, None)

    def _begin(self, job: Job) -> None:
        if job.request is None:
            job.pending = [0]
            return
        job.same, job.pending = {}, []
        for index, key in enumerate(job.request.keys):
            equal = job.same.setdefault(key, [])
            equal.append(index)
            if len(equal) == 1:
                job.pending.append(index)
        if job.cached:
            self._look_up(job)
            found = len(job.scores)
            self.cache.hits += found
            self.cache.misses += len(job.request.keys) - found

    def _look_up(self, job: Job) -> None:
        """Settle the pending documents whose scores are cached."""
        if not (job.cached and job.request and len(self.cache)):
            return
        for index in job.pending:
            key = job.request.keys[index]
            if (score := self.cache.get(key)) is not None:
                job.settle(index, score, "cached")
                job.counts["truncated"] += len(job.same[key]) * self.cache.truncated(key)
        job.pending = [index for index in job.pending if index not in job.scores]

    def _wait_seconds(self) -> int:
        """Predicted seconds until the queue is empty."""
        left = sum(job.cost(index) for job in self.jobs for index in job.pending)
        rate = sum(1 / replica.pace for replica in self.pool.admitted)
        return max(1, min(60, round(left / rate)))

    def pump(self) -> None:
        """Hand out whatever can be handed out; called at each event."""
        now = asyncio.get_running_loop().time()
        for job in list(self.jobs):
            self._look_up(job)
            if job.request and len(job.scores) == len(job.request.documents):
                self._finish(job, self._merged(job))
        if self.jobs:
            for replica in sorted(self.pool.admitted, key=lambda replica: replica.pace):
                if replica.idle.is_set() and not replica.reserved and (share := self._next(replica, now)):
                    self._start(share, replica, now)
            self._check_stranded(now)
        if self._tick:
            self._tick.cancel()
        self._tick = asyncio.get_running_loop().call_later(TICK, self.pump) if self.jobs else None

    def _next(self, replica: Replica, now: float) -> Share | None:
        for job in sorted(self.jobs, key=lambda job: job.deadline is not None and job.handed > 0):
            if share := self._cut(job, replica, now) or self._late(job, replica, now):
                return share
        return None

    def _cut(self, job: Job, replica: Replica, now: float) -> Share | None:
        """The next share of a job; None while its documents are handed out, here or by another job."""
        if job.request is None or not job.pending:
            return Share(job, [job.pending.pop()], len(job.body)) if job.pending else None
        keys = job.request.keys
        waiting = [index for index in job.pending if not (job.cached and self._inflight[keys[index]])]
        if not waiting:
            return None
        seconds = None
        if job.deadline:
            left = job.deadline - MARGIN_SECONDS - now
            if (job.scores or job.running) and job.cost(waiting[0]) * replica.pace > left:
                return None  # it would not end in time
            seconds = min(split.SHARE_SECONDS, max(left, 0.0))
        costs = [job.cost(index) for index in waiting]
        paces = [other.pace for other in self.pool.admitted]
        cost = split.share_cost(sum(costs), sum(job.request.costs), job.handed, replica.pace, paces, seconds)
        indices = waiting[: split.take(costs, cost)]
        job.pending = [index for index in job.pending if index not in set(indices)]
        return Share(job, indices, sum(costs[: len(indices)]))

    def _late(self, job: Job, replica: Replica, now: float) -> Share | None:
        for share in self.shares:
            if share.job is job and not share.copied and share.runs:
                run = share.runs[0]
                if run.replica is not replica and (now > run.late or run.replica.state != "admitted"):
                    share.copied = True
                    return share
        return None

    def _start(self, share: Share, replica: Replica, now: float) -> None:
        job = share.job
        if not share.runs:
            self.shares.append(share)
            self._inflight.update(self._keys(share))
        if not job.running:
            job.since = now
        job.handed, job.running = job.handed + 1, job.running + 1
        replica.idle.clear()
        replica.shares += 1
        run = Run(share, replica, now, now + LATE * share.cost * replica.pace + LATE_SECONDS)
        share.runs.append(run)
        run.task = asyncio.ensure_future(self._run(run))

    async def _run(self, run: Run) -> None:
        share, replica = run.share, run.replica
        job, loop = share.job, asyncio.get_running_loop()
        reply, cut, reason = None, set[int](), ""
        try:
            reply, cut = await self._send(share, replica)
            if reply.status >= 500:
                reason = f"HTTP {reply.status}"
        except MalformedResponseError as error:
            reason = f"malformed response: {error}"
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            reason = type(error).__name__
        finally:  # also when cancelled
            now = loop.time()
            replica.idle.set()
            share.runs.remove(run)
            job.running -= 1
            if not job.running:
                job.ran += now - job.since
            if not share.runs:
                self._drop(share)
        if reason:
            self._failed(run, reason, reply)
        elif reply:
            self._succeeded(run, reply, cut, now - run.began)
        self.pump()

    def _drop(self, share: Share) -> None:
        if share in self.shares:
            self.shares.remove(share)
            self._inflight.subtract(self._keys(share))
            self._inflight += Counter()

    def _keys(self, share: Share) -> list[bytes]:
        keys = share.job.request.keys if share.job.request else ()
        return [keys[index] for index in share.indices] if keys else []

    async def _send(self, share: Share, replica: Replica) -> tuple[Reply, set[int]]:
        """The response to a share, and which of its documents were cut."""
        job, request = share.job, share.job.request
        if request is None:
            return await self.pool.post(replica, job.path, job.body), set()
        reply = await self.pool.post(replica, "/v1/rerank", request.body(share.indices))
        longest = split.over_long(reply.status, reply.body)
        if not (longest and job.truncate):
            return reply, set()
        if not job.limit:
            job.limit = await self._room(request, replica, longest)
        if job.limit < 1:
            return reply, set()
        own = request.extras.get("max_tokens_per_doc")
        limit = min(own, job.limit) if type(own) is int and own > 0 else job.limit
        cut = await self._longer(share, replica, limit)
        return await self.pool.post(
            replica, "/v1/rerank", request.body(share.indices, max_tokens_per_doc=limit)
        ), cut

    async def _room(self, request: Rerank, replica: Replica, longest: int) -> int:
        """Tokens for a document beside query and template, as the usage of the shortest document shows."""
        body = orjson.dumps({**request.extras, "query": request.query, "documents": ["."]})
        reply = await self.pool.post(replica, "/v1/rerank", body, PROOF_TIMEOUT)
        if reply.status != 200:
            return 0
        _, tokens, _ = split.read_scores(reply.body, 1)
        return longest - tokens - 3  # where texts meet, a tokenizer may make one token more

    async def _longer(self, share: Share, replica: Replica, limit: int) -> set[int]:
        """Documents of more tokens; one has at most as many tokens as bytes."""

        async def tokens(text: str) -> int:
            body = orjson.dumps({"prompt": text, "add_special_tokens": False})
            reply = await self.pool.post(replica, "/tokenize", body, PROOF_TIMEOUT)
            return int(orjson.loads(reply.body)["count"]) if reply.status == 200 else limit + 1

        texts = share.job.request.documents if share.job.request else ()
        long = [index for index in share.indices if len(texts[index].encode()) > limit]
        counts = await asyncio.gather(*(tokens(texts[index]) for index in long))
        return {index for index, count in zip(long, counts, strict=True) if count > limit}

    def _failed(self, run: Run, reason: str, reply: Reply | None) -> None:
        share, job = run.share, run.share.job
        log.warning("share of %d documents on %s: %s", len(share.indices), run.replica.address, reason)
        self.metrics.count("shares_total", 'outcome="failed"')
        self.pool.fail(run.replica, reason)
        if share.runs or job not in self.jobs:
            return
        job.tries.update(share.indices)
        if max(job.tries[index] for index in share.indices) >= TRIES:
            self._finish(job, reply or unavailable("every try of a share failed"))
            return
        self.metrics.count("shares_total", 'outcome="retried"')
        job.pending = sorted([*job.pending, *share.indices])

    def _succeeded(self, run: Run, reply: Reply, cut: set[int], seconds: float) -> None:
        share, job, request = run.share, run.share.job, run.share.job.request
        if reply.status != 200 or request is None:
            self._finish(job, reply)
            return
        try:
            scores, tokens, self.model = split.read_scores(reply.body, len(share.indices))
        except MalformedResponseError as error:
            self._failed(run, f"malformed response: {error}", None)
            return
        run.replica.failures = 0
        run.replica.learn(seconds, share.cost)
        self.metrics.count("shares_total", f'outcome="{"hedged" if share.copied else "ok"}"')
        for other in share.runs:
            other.replica.learn(asyncio.get_running_loop().time() - other.began, share.cost)
            self._cancel(other)
        self._drop(share)
        job.tokens += tokens
        for index, score in zip(share.indices, scores, strict=True):
            self.cache.store(request.keys[index], score, truncated=index in cut)
            job.settle(index, score, "computed")
            job.counts["truncated"] += len(job.same[request.keys[index]]) * (index in cut)

    def _merged(self, job: Job) -> Reply:
        if job.request is None:  # never merged
            return unavailable("nothing to merge")
        identity = job.request.request_id or format(id(job), "x")
        return Reply(200, split.merge(job.request, job.scores, job.tokens, self.model, f"score-{identity}"))

    def _expire(self, job: Job) -> None:
        """The deadline: what is ranked is the response."""
        if job in self.jobs and job.request:
            job.late = not job.scores
            job.counts["unranked"] = len(job.request.documents) - len(job.scores)
            ranked = f"{len(job.scores)} of {len(job.request.documents)} documents are ranked"
            log.warning("deadline: %s", ranked)
            self._finish(job, self._merged(job) if job.scores else unavailable(f"deadline: {ranked}"))

    def _finish(self, job: Job, reply: Reply | None) -> None:
        """End a job. A share that runs at the deadline runs on for the cache; any other is cancelled."""
        if job not in self.jobs:
            return
        self.jobs.remove(job)
        goes_on = bool(reply and job.counts["unranked"] and self.cache.limit)
        for share in [share for share in self.shares if share.job is job and not goes_on]:
            for run in list(share.runs):
                self._cancel(run)
            self._drop(share)
        if reply and not job.done.done():
            job.done.set_result(reply)

    def _cancel(self, run: Run) -> None:
        if run.task:
            run.task.cancel()

    def _check_stranded(self, now: float) -> None:
        """No replica is left: wait a little for one that is being proved again."""
        if self.pool.admitted or any(share.runs for share in self.shares):
            self._stranded = 0.0
            return
        self._stranded = self._stranded or now
        checking = any(replica.state == "checking" for replica in self.pool.replicas.values())
        if not checking or now > self._stranded + GRACE_SECONDS:
            for job in list(self.jobs):
                self._finish(job, unavailable("no replica is admitted", retry=5))

    def restart(self) -> None:
        """The model has changed: no score of the former one is used."""
        self.cache.clear()
        for share in list(self.shares):
            for run in list(share.runs):
                self._cancel(run)
            self._drop(share)
        for job in self.jobs:
            job.scores, job.counts, job.tokens, job.limit = {}, Counter(), 0, 0
            self._begin(job)
