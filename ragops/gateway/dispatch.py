"""Shares of rerank requests, handed to free replicas so that all of them end at the same time.

The documents of a request are handed out in its own order, first come first served; with a deadline, the
first share of each request comes before the second of any. Documents of a share that fails are handed out
again, and those of a late one as well: the first score counts.
"""

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from statistics import fmean

import orjson
from starlette.responses import Response

from . import split
from .cache import Score, ScoreCache
from .replicas import FAILURES, PROOF_TIMEOUT, Pool, Replica, why

QUEUE = 32  # requests that wait for their first share
TRIES = 4
"""Of one document. A status of 5xx counts as two: the second is of another replica, or of one that has been
proved since, so that the document is the cause."""
SHARE_SECONDS, LEAST_SHARES = 2.0, 8
"""Most predicted work of a share, which a late replica or the deadline holds up; shares in a short one."""
EVEN = 1.4  # paces that differ by no more than this factor count as equal
LATE, LATE_SECONDS, LOST = 1.5, 0.05, 10
"""A share is late after this multiple of its expected time, and what a loaded machine adds to a short one;
while other documents wait, after twice the multiple. Its request ends after the last multiple."""
TICK = MARGIN_SECONDS = 0.05  # between two looks for late shares; from the last score to the response's end
GRACE_SECONDS = 5.0  # a request waits so long for a replica that is being proved, from the start or again
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
    """One rerank request on its way."""

    request: split.Rerank
    path: str
    content: str
    deadline: float
    strict: bool  # each document is ranked whole by a replica
    cached: bool  # a cached score may be used
    truncate: bool
    late: bool = False  # the deadline has passed
    first: float = 0.0  # when the first share began
    ran: float = 0.0  # seconds from then to the end of the last

    def __post_init__(self) -> None:
        loop, keys = asyncio.get_running_loop(), self.request.keys
        self.arrived = loop.time()
        self.done: asyncio.Future[Response] = loop.create_future()
        self.tries: Counter[bytes] = Counter()
        self.keys = [b"%d" % index for index in range(len(keys))] if self.strict else keys
        self.texts = dict(zip(self.keys, self.request.documents, strict=True))
        self.costs = dict(zip(self.keys, self.request.costs, strict=True))
        self.begin()

    def begin(self) -> None:
        """Begin, perhaps again: nothing is ranked or handed out."""
        self.scores: dict[bytes, Score] = {}
        self.stored = set[bytes]()  # whose score was in the cache
        self.pending = self.costs.copy()
        self.handed = self.tokens = self.limit = 0

    def counts(self) -> Counter[str]:
        """Documents by state."""
        ranked = [key for key in self.keys if key in self.scores]
        cached, cut = sum(key in self.stored for key in ranked), sum(self.scores[key][1] for key in ranked)
        unranked = (len(self.keys) - len(ranked)) * self.late
        return Counter(computed=len(ranked) - cached, cached=cached, unranked=unranked, truncated=cut)


@dataclass(eq=False)
class Share:
    """Some documents of a job on a replica."""

    job: Job
    keys: list[bytes]
    cost: int
    replica: Replica
    began: float
    expected: float

    def late(self, factor: float = LATE) -> float:
        """When it has taken this multiple of its expected time."""
        return self.began + factor * self.expected + LATE_SECONDS


class Dispatcher:
    """Gives shares of all jobs to free replicas."""

    def __init__(self, pool: Pool, cache: ScoreCache, counts: dict[str, float]) -> None:
        self.pool, self.cache, self.counts = pool, cache, counts
        self.jobs: list[Job] = []
        self.shares: dict[Share, asyncio.Task[None]] = {}
        self.model, self._stranded = "", asyncio.get_running_loop().time()
        self.longest = ANY_LENGTH  # bytes that the model takes; the rest of a document costs nothing
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
        if not self.jobs:  # an idle gateway has not looked at its replicas since
            self._stranded = asyncio.get_running_loop().time()
        self.jobs.append(job)
        try:
            self.pump()
            async with asyncio.timeout_at(job.deadline - MARGIN_SECONDS):
                return await job.done
        except TimeoutError:
            job.late = True
            if any(share.job is job for share in self.shares):
                job.ran = asyncio.get_running_loop().time() - job.first
            log.warning("deadline: %d of %d documents are ranked", len(job.scores), len(job.costs))
            cause = "its first share takes longer" if job.handed else "no replica was free"
            message = f"nothing was ranked by the deadline of {job.deadline - job.arrived:.3g} s: {cause}"
            return self._merged(job) if job.scores else failure(503, message)
        finally:
            self._finish(job)

    def _look_up(self, job: Job) -> None:
        """Take over the cached scores of the pending documents."""
        for key in list(job.pending) if job.cached and self.cache else ():
            if score := self.cache.find(key):
                job.scores[key] = score
                job.stored.add(key)
                del job.pending[key]

    def pump(self, *, late: bool = True) -> None:
        """Hand out whatever can be handed out; called at each event."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for share in list(self.shares) if late else ():
            slow = now > share.late(2 * LATE if share.job.pending else LATE)
            if share.job in self.jobs and (slow or share.replica.state != "admitted"):
                self.counts['shares_total{outcome="hedged"}'] += self._hand_out_again(share)
        for job in sorted(self.jobs, key=lambda job: job.arrived + SHARE_SECONDS * bool(job.handed)):
            self._look_up(job)
            if len(job.scores) == len(job.costs):
                self._finish(job, self._merged(job))
            elif job.pending:
                self._hand_out(job, now)
        states = {replica.state for replica in self.pool.replicas.values()}
        if self.shares or "admitted" in states:
            self._stranded = now
        elif now > self._stranded + GRACE_SECONDS * ("checking" in states or not self.pool.addresses):
            for job in list(self.jobs):
                self._finish(job, failure(503, NONE_ADMITTED))
        if self._tick:
            self._tick.cancel()
        self._tick = loop.call_later(TICK, self.pump) if self.jobs else None

    def _hand_out(self, job: Job, now: float) -> None:
        """Give pending documents to free replicas, but not those that another job's share has."""
        others = [one for one in self.shares if job.cached and one.job is not job and now < one.late()]
        elsewhere = {key for share in others for key in share.keys}
        costs = {key: min(cost, self.longest) for key, cost in job.pending.items() if key not in elsewhere}
        free, left = self.pool.free, job.deadline - MARGIN_SECONDS - now
        paces = {replica: replica.pace for replica in self.pool.admitted}
        if free and max(paces.values()) <= EVEN * min(paces.values()):
            paces = dict.fromkeys(paces, fmean(paces.values()))
        rows = {replica: (replica.wait(now), pace) for replica, pace in paces.items()}
        for replica in free:
            if not costs or (job.handed and replica.seconds(next(iter(costs.values()))) > left):
                return  # the next document would not end in time
            longest = min(SHARE_SECONDS, (job.deadline - job.arrived) / LEAST_SHARES)
            longest = min(max(longest, 2 * replica.fixed), left)  # no share is mostly fixed time
            end = min(split.common_end(sum(costs.values()), rows.values()), longest)
            cost = max(end - replica.fixed, split.LEAST_SECONDS) / paces[replica]
            keys = split.take(costs, cost, cost * len(paces))
            total = sum(costs.pop(key) for key in keys)
            for key in keys:
                del job.pending[key]
            job.first, job.handed = job.first or now, job.handed + 1
            share = Share(job, keys, total, replica, now, replica.seconds(total))
            ended = partial(self.pump, late=False)
            self.shares[share] = replica.start(self._run(share), ended, share.expected)
            replica.shares += 1
            del rows[replica]

    def _hand_out_again(self, share: Share) -> bool:
        """Documents that no other share has are pending again; whether there are such ones."""
        job = share.job
        others = {key for one in self.shares if one.job is job and one is not share for key in one.keys}
        again = set(share.keys) - others - job.pending.keys() - job.scores.keys()
        job.pending = {key: cost for key, cost in job.costs.items() if key in again or key in job.pending}
        return bool(again)

    async def _run(self, share: Share) -> None:
        job, replica, loop = share.job, share.replica, asyncio.get_running_loop()
        reply, reason = None, ""
        try:
            reply, cut = await self._send(share)
            if reply.status_code == 200 and job.request.raw is None:
                scores, tokens, self.model = split.read_scores(reply.body, len(share.keys))
            elif reply.status_code >= 500:
                reason = f"HTTP {reply.status_code}"
        except FAILURES as error:
            reply, reason = None, why(error)
        finally:  # also when cancelled
            now = loop.time()
            job.ran = now - job.first
            if not self.shares.pop(share, None) and now > share.late():  # another replica was faster
                replica.learn(now - share.began, share.cost)
        if reason or not reply:
            self._failed(share, reason, reply)
        elif reply.status_code != 200 or job.request.raw is not None:
            self._finish(job, reply)
        else:
            replica.failures, new = 0, set(share.keys) - job.scores.keys()
            job.tokens += tokens * len(new) // len(share.keys)
            if not cut:  # how much of it was computed is unknown
                replica.learn(now - share.began, share.cost)
            rows = zip(share.keys, scores, strict=True)
            self._take_over(job, {key: (score, key in cut) for key, score in rows})

    def _take_over(self, job: Job, scores: dict[bytes, Score]) -> None:
        """Take over the scores of a share, and end those that have no other documents."""
        self.counts['shares_total{outcome="ok"}'] += 1
        job.scores |= scores
        job.pending = {key: cost for key, cost in job.pending.items() if key not in scores}
        for key, score in scores.items() if self.cache.limit and not job.strict else ():
            self.cache.store(key, score)
        for other in [other for other in self.shares if other.job is job]:
            if job.scores.keys() >= set(other.keys):
                self._end(other)

    async def _send(self, share: Share) -> tuple[Response, set[bytes]]:
        """The response to a share, and which of its documents were cut."""
        job, request, seconds = share.job, share.job.request, max(LOST * share.expected, PROOF_TIMEOUT)
        texts = [job.texts[key] for key in share.keys]
        post = partial(self.pool.send, share.replica, job.path, seconds=seconds, content=job.content)
        reply = await post(body=request.body(texts))
        longest = split.over_long(reply.status_code, reply.body) if job.truncate else 0
        self.longest = longest * BYTES_OF_TOKEN or self.longest
        if longest and not job.limit:  # query and template, as the usage of a short document shows
            short = await post(body=request.body(["."]))
            if short.status_code == 200:  # where texts meet, there may be more tokens than in each
                job.limit = longest - split.read_scores(short.body, 1)[1] - 3
        if not longest or job.limit < 1:
            return reply, set()
        longer = await asyncio.gather(*(self._longer(share.replica, text, job.limit) for text in texts))
        reply = await post(body=request.body(texts, max_tokens_per_doc=job.limit))
        return reply, {key for key, cut in zip(share.keys, longer, strict=True) if cut}

    async def _longer(self, replica: Replica, text: str, limit: int) -> bool:
        """Whether a text has more tokens; one that can't be counted counts as cut."""
        if len(text.encode()) <= limit:  # a token has a byte at least
            return False
        body = orjson.dumps({"prompt": text, "add_special_tokens": False})
        reply = await self.pool.send(replica, "/tokenize", body, PROOF_TIMEOUT)
        return int(orjson.loads(reply.body).get("count", limit + 1)) > limit

    def _failed(self, share: Share, reason: str, reply: Response | None) -> None:
        job, outcome = share.job, "retried"
        log.warning("share of %d documents on %s: %s", len(share.keys), share.replica.address, reason)
        job.tries.update(dict.fromkeys(share.keys, 2 if reply else 1))
        if last := max(job.tries[key] for key in share.keys) >= TRIES:
            outcome = "failed"
            self._finish(job, reply or failure(503, "every try of a share failed"))
        else:
            self._hand_out_again(share)
        self.counts[f'shares_total{{outcome="{outcome}"}}'] += 1
        if reply and last:
            share.replica.failures = 0
        else:
            self.pool.fail(share.replica, reason)

    def _merged(self, job: Job) -> Response:
        usage = {"prompt_tokens": job.tokens, "total_tokens": job.tokens}
        scores = {index: job.scores[key][0] for index, key in enumerate(job.keys) if key in job.scores}
        identity, counts = f"score-{job.request.identity}", job.counts()
        body = split.merge(job.request, scores, id=identity, model=self.model, usage=usage)
        headers = {f"x-{name}": str(counts[name]) for name in ("cached", "truncated")}
        headers["x-ranked"] = f"{len(scores)}/{len(job.keys)}"
        return Response(body, 200, headers, "application/json")

    def _finish(self, job: Job, reply: Response | None = None) -> None:
        """End a job. A share that runs at the deadline and is on time runs on for the cache."""
        if job in self.jobs:
            self.jobs.remove(job)
            for share in [share for share in self.shares if share.job is job]:
                if job.late and self.cache.limit:
                    asyncio.get_running_loop().call_at(share.late(2 * LATE), self._end, share)
                else:
                    self._end(share)
            if reply and not job.done.done():
                job.done.set_result(reply)

    def _end(self, share: Share) -> None:
        if task := self.shares.pop(share, None):
            task.cancel()

    def restart(self) -> None:
        """The model has changed: no score of the former one is used."""
        self.cache.clear()
        self.longest = ANY_LENGTH
        for share in list(self.shares):
            self._end(share)
        for job in self.jobs:
            job.begin()
