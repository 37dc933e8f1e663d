"""Shares of rerank requests, handed to free replicas so that all of them end at the same time.

The documents of a request are handed out in its own order, first come first served; with a deadline, the
first share of each request comes before the second of any. Documents of a share that fails are handed out
again, and those of a slow one as well: the first score counts.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus

import orjson
from starlette.responses import Response

from . import split
from .replicas import FAILURES, PROOF_TIMEOUT, Pool, Replica, log, why

QUEUE = 32  # requests that wait for their first share
TRIES = 4
"""Of one document. A status of 5xx counts as two: the second is of another replica, or of one that has been
proved since, so that the document is the cause."""
SHARE_SECONDS, LEAST_SHARES = 2.0, 8
"""Most predicted work of a share, which a slow replica or the deadline holds up; shares in a short one."""
EVEN = 1.4  # paces that differ by no more than this factor count as equal
LATE, LATE_SECONDS, OWN_SECONDS, LOST = 1.5, 0.05, 0.002, 10
"""A share is slow after this multiple of its expected time, what a loaded machine adds to a short one, and
what the gateway itself may need for one share of each replica; while other documents wait, after twice the
multiple. Its request ends after the last multiple."""
TICK = MARGIN_SECONDS = 0.05  # between two looks for slow shares; from the last score to the response's end
GRACE_SECONDS = 5.0  # a request waits so long for a replica that is being proved
BYTES_OF_TOKEN, ANY_LENGTH = 4, 1 << 40
"""What a token of a long document is taken to have; and the longest one before a model has refused any."""
RETRY_SECONDS, NONE_ADMITTED = "5", "no replica is admitted"

Score = tuple[float, bool]
"""A document's score, and whether the document was cut for it."""


def failure(status: int, message: str) -> Response:
    """An error in vLLM's shape."""
    fields = {"message": message, "type": HTTPStatus(status).phrase, "param": None, "code": status}
    headers = {"retry-after": RETRY_SECONDS} if status == 503 else None
    return Response(orjson.dumps({"error": fields}), status, headers, "application/json")


@dataclass(eq=False)
class Job:
    """One rerank request on its way."""

    request: split.Rerank
    deadline: float
    strict: bool  # each document is ranked whole by a replica
    cached: bool  # a cached score may be used
    truncate: bool
    late: bool = False  # the deadline has passed
    first: float = 0.0  # when the first share began
    ran: float = 0.0  # seconds from then to the end of the last

    def __post_init__(self) -> None:
        loop, keys = asyncio.get_running_loop(), self.request.keys
        self.arrived = self.hopeful = loop.time()  # hopeful: when a replica was last admitted for it
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
        self.waiting = False  # for a free replica
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
    expected: float  # seconds
    slow: bool = False  # its documents are handed out again


class Dispatcher:
    """Gives shares of all jobs to free replicas, and keeps as many scores as the limit says."""

    def __init__(self, pool: Pool, limit: int, counts: dict[str, float]) -> None:
        self.pool, self.limit, self.counts = pool, limit, counts
        self.cache: OrderedDict[bytes, Score] = OrderedDict()  # by a digest of all that a score depends on
        self.jobs: list[Job] = []
        self.shares: dict[Share, asyncio.Task[None]] = {}
        self.model, self.longest = "", ANY_LENGTH  # bytes that it takes; the rest of a document costs nothing
        pool.switched = self.restart

    @property
    def queued(self) -> int:
        """Requests that wait for their first share."""
        return sum(not job.handed for job in self.jobs)

    async def watch(self) -> None:
        """Find slow shares; one that runs on for the cache, after the deadline, ends then."""
        await asyncio.sleep(TICK)
        now, own = asyncio.get_running_loop().time(), OWN_SECONDS * len(self.pool.replicas)
        for share in list(self.shares):
            factor = 2 * LATE if share.job.waiting or share.job.late else LATE
            end = share.began + factor * share.expected + LATE_SECONDS + own
            slow = now > end or share.replica.state != "admitted"
            if slow and share.job.late:
                self._end([share])
            elif slow and not share.slow:
                share.slow = True
                self.counts['shares_total{outcome="hedged"}'] += 1
        self.pump()

    async def rank(self, job: Job) -> Response:
        """The response to a job; its shares are cancelled with it."""
        self.jobs.append(job)
        try:
            self.pump()
            if not (job.handed or job.done.done()) and self.queued > QUEUE:
                return failure(503, "the queue is full")
            async with asyncio.timeout_at(job.deadline - MARGIN_SECONDS):
                return await job.done
        except TimeoutError:
            job.late = True
            job.ran = (asyncio.get_running_loop().time() - job.first) * bool(job.handed)
            log.warning("deadline: %d of %d documents are ranked", len(job.scores), len(job.costs))
            cause = "its first share takes longer" if job.handed else "no replica was free"
            message = f"nothing was ranked by the deadline of {job.deadline - job.arrived:.3g} s: {cause}"
            return self._merged(job) if job.scores else failure(503, message)
        finally:
            self.finish(job)

    def pump(self) -> None:
        """Hand out whatever can be handed out; called at each event."""
        now = asyncio.get_running_loop().time()
        states = {replica.state for replica in self.pool.replicas.values()}
        for job in sorted(self.jobs, key=lambda job: job.arrived + SHARE_SECONDS * bool(job.handed)):
            for key in job.costs if job.cached and self.cache else ():
                if key not in job.scores and (score := self.cache.get(key)):
                    self.cache.move_to_end(key)
                    job.scores[key] = score
                    job.stored.add(key)
            if len(job.scores) == len(job.costs):
                self.finish(job, self._merged(job))
            elif self.shares or "admitted" in states:
                job.hopeful = now
                if (free := self.pool.free) and (costs := self._waiting(job)):
                    self._hand_out(job, costs, free, now)
            elif now > job.hopeful + GRACE_SECONDS * ("checking" in states or not self.pool.addresses):
                self.finish(job, failure(503, NONE_ADMITTED))

    def _waiting(self, job: Job) -> dict[bytes, int]:
        """The costs of the documents that no replica computes, or only one whose share is slow."""
        copies = Counter[bytes]()  # two of a share that is on time
        for share in self.shares:
            if share.job is job or (job.cached and not share.slow):
                copies.update(dict.fromkeys(share.keys, 2 - share.slow))
        keys = (key for key in job.costs if key not in job.scores and copies.get(key, 0) < 2)
        return {key: min(job.costs[key], self.longest) for key in keys}

    def _hand_out(self, job: Job, costs: dict[bytes, int], free: list[Replica], now: float) -> None:
        left, paces = job.deadline - MARGIN_SECONDS - now, {one: one.pace for one in self.pool.admitted}
        if max(paces.values()) <= EVEN * min(paces.values()):
            paces = dict.fromkeys(paces, sum(paces.values()) / len(paces))
        rows = {replica: (replica.wait(now), pace) for replica, pace in paces.items()}
        longest = min(SHARE_SECONDS, (job.deadline - job.arrived) / LEAST_SHARES)
        for replica in free:
            if not costs or (job.handed and replica.seconds(next(iter(costs.values()))) > left):
                break  # the next document would not end in time
            most = min(max(longest, 2 * replica.fixed), left)  # no share is mostly fixed time
            end = min(split.common_end(sum(costs.values()), rows.values()), most)
            cost = max(end - replica.fixed, split.LEAST_SECONDS) / paces[replica]
            keys = split.take(costs, cost, cost * len(paces))
            total = sum(costs.pop(key) for key in keys)
            job.first, job.handed = job.first or now, job.handed + 1
            share = Share(job, keys, total, replica, now, replica.seconds(total))
            self.shares[share] = replica.work = asyncio.create_task(self._run(share))
            replica.work.add_done_callback(lambda _: self.pump())
            replica.ends = now + share.expected
            replica.shares += 1
            del rows[replica]
        job.waiting = bool(costs)

    async def _run(self, share: Share) -> None:
        job, replica, loop = share.job, share.replica, asyncio.get_running_loop()
        reply, reason, scores = None, "", dict[bytes, Score]()
        try:
            reply, cut = await self._send(share)
            if reply.status_code == 200 and job.request.raw is None:
                numbers, tokens, self.model = split.read_scores(reply.body, len(share.keys))
                scores = {key: (one, key in cut) for key, one in zip(share.keys, numbers, strict=True)}
            elif reply.status_code >= 500:
                reason = f"HTTP {reply.status_code}"
        except FAILURES as error:
            reply, reason = None, why(error)
        finally:  # also when cancelled
            took = loop.time() - share.began
            job.ran = share.began + took - job.first
            if not self.shares.pop(share, None) and took > LATE * share.expected + LATE_SECONDS:
                replica.learn(took, share.cost)  # another replica was faster, or the deadline
        if reason or not reply:
            self._failed(share, reason, reply)
        elif not scores:
            self.finish(job, reply)
        else:
            replica.failures = 0
            job.tokens += tokens * len(scores.keys() - job.scores.keys()) // len(scores)
            if not cut:  # how much of it was computed is unknown
                replica.learn(took, share.cost)
            job.scores |= scores
            self.counts['shares_total{outcome="ok"}'] += 1
            for key in scores if self.limit and not job.strict else ():
                self.cache[key] = scores[key]
                self.cache.move_to_end(key)
            while len(self.cache) > self.limit:
                self.cache.popitem(last=False)
            self._end(one for one in self.shares if one.job is job and job.scores.keys() >= set(one.keys))

    async def _send(self, share: Share) -> tuple[Response, set[bytes]]:
        """The response to a share, and which of its documents were cut."""
        job, request, seconds = share.job, share.job.request, max(LOST * share.expected, PROOF_TIMEOUT)
        texts = [job.texts[key] for key in share.keys]
        post = partial(self.pool.send, share.replica, "/v1/rerank", seconds=seconds)
        reply = await post(body=request.body(texts))
        longest = split.over_long(reply.status_code, reply.body) if job.truncate else 0
        self.longest = longest * BYTES_OF_TOKEN or self.longest
        if longest and not job.limit:  # query and template, as the usage of a short document shows
            short = await post(body=request.body(["."]))
            if short.status_code == 200:  # where texts meet, there may be more tokens than in each
                job.limit = longest - split.read_scores(short.body, 1)[1] - 3
        if not longest or job.limit < 1:
            return reply, set()
        cut = {key for key in share.keys if await self._longer(share.replica, job.texts[key], job.limit)}
        return await post(body=request.body(texts, max_tokens_per_doc=job.limit)), cut

    async def _longer(self, replica: Replica, text: str, limit: int) -> bool:
        """Whether a text has more tokens; one that can't be counted counts as cut."""
        if len(text.encode()) <= limit:  # a token has a byte at least
            return False
        body = orjson.dumps({"prompt": text, "add_special_tokens": False})
        reply = await self.pool.send(replica, "/tokenize", body, PROOF_TIMEOUT)
        return int(orjson.loads(reply.body).get("count", limit + 1)) > limit

    def _failed(self, share: Share, reason: str, reply: Response | None) -> None:
        job = share.job
        log.warning("share of %d documents on %s: %s", len(share.keys), share.replica.address, reason)
        job.waiting = True  # these documents, until they are handed out again
        job.tries.update(dict.fromkeys(share.keys, 2 if reply else 1))
        last = max(job.tries[key] for key in share.keys) >= TRIES
        self.counts[f'shares_total{{outcome="{"failed" if last else "retried"}"}}'] += 1
        if last:
            self.finish(job, reply or failure(503, "every try of a share failed"))
        if last and reply:
            share.replica.failures = 0
        else:
            self.pool.fail(share.replica, reason)

    def _merged(self, job: Job) -> Response:
        usage = {"prompt_tokens": job.tokens, "total_tokens": job.tokens}
        scores = {index: job.scores[key][0] for index, key in enumerate(job.keys) if key in job.scores}
        body = split.merge(job.request, scores, model=self.model, usage=usage)
        headers = {f"x-{name}": str(job.counts()[name]) for name in ("cached", "truncated")}
        headers["x-ranked"] = f"{len(scores)}/{len(job.keys)}"
        return Response(body, 200, headers, "application/json")

    def finish(self, job: Job, reply: Response | None = None) -> None:
        """End a job. A share that runs at the deadline runs on for the cache."""
        if job in self.jobs:
            self.jobs.remove(job)
            if not (job.late and self.limit):
                self._end(share for share in self.shares if share.job is job)
            if reply and not job.done.done():
                job.done.set_result(reply)

    def _end(self, shares: Iterable[Share]) -> None:
        for share in list(shares):
            self.shares.pop(share).cancel()

    def restart(self) -> None:
        """The model has changed: no score of the former one is used."""
        self.cache.clear()
        self.longest = ANY_LENGTH
        self._end(self.shares)
        for job in self.jobs:
            job.begin()
