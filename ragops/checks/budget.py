"""Response times: do RAGFlow's calls end within its timeout, and what would make them faster?

:func:`time_calls` sends a few calls from inside RAGFlow's container, one at a time; a benchmark is
``ragops bench``. :func:`check_calls` and :func:`speed_advice`, which judge them, are pure.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from urllib.parse import urlsplit

from ragops import progress
from ragops.checks import Check, Status, latency, traffic
from ragops.checks.probe import UNCACHED, Batch, ProbeRequest, ProbeResponse, send_batch
from ragops.checks.questions import Expected, parse_ranking
from ragops.configuration import Stack
from ragops.docker.engine import Engine
from ragops.docker.objects import ContainerState, option_value
from ragops.ragflow.discovery import RagflowContainer
from ragops.ragflow.releases import Form, Release
from ragops.ragflow.request import PLACEHOLDER_KEY, RerankRequest, over_long
from ragops.reranker import int8, sizing
from ragops.reranker.host import Host, parse_cpu_list
from ragops.reranker.model import Model

SHARE = 0.95
CALLS = latency.needed(SHARE)
"""Calls after which p95 has an interval; no more are sent."""
SECONDS = 25.0
"""Time after which no further call is sent; the last one may take RAGFlow's 30 s more."""
RAMP = (2, 8)
"""Documents of the first calls, which no percentile counts: they show what a small call takes."""
LONGEST_TIMEOUT = 30.0
"""Timeout of a call in seconds, where RAGFlow's is longer."""

_INT8 = 1.5
"""Speed of int8 against bfloat16, where both have instructions: 52 and 34 s for 64 documents, measured."""
_USUAL_WORDS = 200
_FAST, _GROUP = 1.0, 6
"""Seconds below which calls are fast, and how many of those one program sends."""

IN_TIME = "calls end in time"
CAPACITY = "chunks that would fit"
REGISTRATION = "registration ends in time"
LONG = "chunks fit the model"
TITLES = (IN_TIME, CAPACITY, REGISTRATION, LONG)

_EFFECTS = {
    "truncate": "is cut by RAGFlow to the registered limit, counted in another vocabulary than the model's",
    "raise_error": "fails the call in RAGFlow itself (RERANK_TOKEN_LIMIT_MODE)",
}
"""Of a document over the model's limit, by RAGFlow's mode; otherwise vLLM refuses the call."""
_REFUSED = "ragops logs shows why the server refused the call"
_STATUS: Mapping[bool | None, Status] = {True: "ok", False: "fail", None: "warn"}
_VERBS: Mapping[bool | None, str] = {True: "fits", False: "does not fit", None: "inconclusive"}


@dataclass(frozen=True)
class CallProfile:
    """What one release sends, and its timeout."""

    release: Release
    window: tuple[tuple[int, float], ...]
    """Documents in one call and their share."""
    max_words: int
    """Longest query and document that the model surely takes."""
    over_limit: str = "passthrough"
    """What RAGFlow does with a longer document, see :attr:`ragops.ragflow.releases.Release.over_limit`."""
    deadline: float = 0.0
    """Seconds after which the gateway responds, with the documents ranked by then; 0 without one."""

    @property
    def seconds(self) -> float:
        """Seconds in which all documents of a call have to be ranked."""
        return min(self.deadline or self.release.timeout, self.release.timeout)

    @property
    def most(self) -> int:
        """Documents of its largest usual call."""
        return max(count for count, _ in self.window)

    @property
    def limit(self) -> str:
        """Such as ``the 30 s that RAGFlow v0.27.0 waits``."""
        return f"the {self.release.timeout:g} s that RAGFlow {self.release.name} waits"


@dataclass(frozen=True, kw_only=True)
class RagflowCall(latency.TimedCall):
    """One call of RAGFlow's."""

    form: Form
    warm_up: bool = False
    """One of the first calls, of few documents, which no percentile counts."""
    unranked: int = 0
    """Documents that the gateway's deadline left in their old order."""

    def within(self, limit: float) -> "RagflowCall":
        """The ranked part of a call that the deadline cut off, as a whole call of ``limit`` seconds."""
        if not self.unranked:
            return self
        documents, service = self.documents - self.unranked, min(self.service, limit)
        return replace(self, documents=documents, service=service, unranked=0)


@dataclass(frozen=True)
class TimedCalls:
    """Timed calls, and the response to the one with a chunk too long."""

    calls: tuple[RagflowCall, ...]
    too_long: ProbeResponse
    cut_to: int | None = None
    """Words that documents were cut to for the model."""


def call_profile(ragflow: RagflowContainer, expected: Expected, deadline: float = 0.0) -> CallProfile:
    """What RAGFlow in this container sends to this model; ``deadline`` is the gateway's."""
    release = ragflow.contract
    words = traffic.words_for_context(expected.max_tokens, expected.template_tokens)
    window = tuple(sorted(traffic.windows(release.name)))
    return CallProfile(release, window, words, ragflow.over_limit, deadline)


def time_calls(  # noqa: PLR0913 - where, what and as which client
    engine: Engine,
    ragflow: RagflowContainer,
    image: str,
    url: str,
    expected: Expected,
    *,
    full: bool = False,
    key: str = PLACEHOLDER_KEY,
) -> TimedCalls:
    """Send RAGFlow's calls from inside its container, one at a time.

    The container must be running and reach the reranker at ``url``; ``image`` is one with Python, for a
    container that has none. With ``full`` there are :data:`CALLS` calls, however long they take.
    """
    profile = call_profile(ragflow, expected)
    timeout, client = min(profile.release.timeout, LONGEST_TIMEOUT), profile.release.client
    path = f"{urlsplit(url).path}/rerank"

    def send(*requests: traffic.Request) -> dict[int, ProbeResponse]:
        sent = (RerankRequest(expected.model, r.query, r.documents, client) for r in requests)
        posts = tuple(ProbeRequest(path, request.body().decode()) for request in sent)
        batch = Batch(posts, timeout * len(posts), timeout, post_headers=UNCACHED)
        return send_batch(engine, ragflow.name, image, url, batch, client, key)

    planned, cut_to = _plan_calls(profile)
    calls: list[RagflowCall] = []
    progress.step(f"{ragflow.name}: timed calls of RAGFlow's size")
    begin = time.monotonic()
    while len(calls) < len(planned):
        # One program sends several fast calls one after another: its start takes longer than they do.
        is_fast = len(calls) > len(RAMP) and calls[-1].service < _FAST
        group = planned[len(calls) :][: _GROUP if is_fast else 1]
        for place, response in send(*(r for _, r in group)).items():
            form, request = group[place]
            error, rows, tokens = parse_ranking(response)
            size, service, warm_up = len(request.documents), response.ms / 1e3, len(calls) < len(RAMP)
            if not error and len(rows) != size:
                error = f"{len(rows)} scores for {size} documents"
            tokens, unranked = max(tokens, 0), size - int(response.ranked.partition("/")[0] or size)
            calls.append(
                RagflowCall(size, service, tokens, error, form=form, warm_up=warm_up, unranked=unranked)
            )
        progress.advance(len(calls), len(planned), "timed calls")
        if any(call.error for call in calls) or (not full and time.monotonic() - begin > SECONDS):
            break
    writer = traffic.Writer(4)
    words = expected.max_tokens + 8  # a word is one token at least
    too_long = traffic.Request(writer.query(), (writer.passage(16).text, writer.passage(words).text))
    return TimedCalls(tuple(calls), send(too_long)[0], cut_to)


def check_calls(
    timed: TimedCalls, profile: CallProfile, expected: Expected, model_tokens: int, advice: tuple[str, ...]
) -> list[Check]:
    """Checks of the timed calls, without the container; ``advice`` is from :func:`speed_advice`.

    ``model_tokens`` is the longest query and document that the model itself takes, in tokens.
    """
    checks = [_check_in_time(timed, profile, advice), _check_capacity(timed, profile)]
    if (limit := profile.release.registration_limit) is not None:
        first = timed.calls[0] if timed.calls else None
        if first is None or first.error:
            checks.append(Check(REGISTRATION, "fail", f"no response: {_durations(timed)}", "ragops status"))
        else:
            detail = f"{first.documents} documents in {latency.seconds(first.service)} of {limit:g} s"
            remedy = "LLM_TIMEOUT_SECONDS in RAGFlow's .env raises it while you register"
            status: Status = "ok" if first.service < limit else "fail"
            checks.append(Check(REGISTRATION, status, detail, remedy))
    return [*checks, _check_long_chunk(timed, profile, expected, model_tokens)]


def shortfall(timed: TimedCalls, profile: CallProfile) -> float:
    """How many times as fast the reranker must be to rank RAGFlow's largest call whole, by its pace so far.

    At most 1 where it is fast enough, or where no call shows a pace.
    """
    good = [call.within(profile.seconds) for call in timed.calls if not call.error]
    calls = [call for call in good if not call.warm_up] or good
    paces = [call.service / call.documents for call in calls]
    return median(paces) * profile.most / profile.seconds if paces else 1.0


def speed_advice(
    replicas: Sequence[ContainerState], model: Model, host: Host, factor: float = 1.0
) -> tuple[str, ...]:
    """What would make the reranker faster, best first: data type, cores, caches, smaller calls, machines.

    ``factor`` is the :func:`shortfall`: above 1 the advice names what is enough.
    """
    fewer = "shorter chunks (chunk_token_num in RAGFlow), or fewer (top_k or rerank_candidates_count)"
    more = "more cores: another machine, or ragops scale N, which divides a call's documents"
    if not replicas:  # they run elsewhere
        return (fewer, more)
    advice, reranker = [], replicas[0]
    dtype = option_value(reranker.command, "--dtype") or "auto"
    if host.has_bf16 and dtype != "bfloat16":
        reason = f"{dtype} is served, and this processor has bfloat16"
        advice.append(f'dtype = "bfloat16" under [reranker]: {reason}')
    used, best = _bound(replicas), len(sizing.compute_cpus(Stack(), sizing.cores(Stack(), host)))
    if not used:
        advice.append(f"cores: vLLM's own default leaves one out; ragops up binds {best} threads")
    elif used < best:
        advice.append(f'cores = "auto" under [reranker]: {used} of {best} compute')
    if model.causal and "--enable-prefix-caching" not in reranker.command:
        effect = "template and query are computed once for all documents"
        advice.append(f"--enable-prefix-caching: {effect}; ragops up sets it")
    elif model.causal and option_value(reranker.command, "--block-size") != "32":
        effect = "with larger blocks a short query is shared by no document"
        advice.append(f"--block-size 32: {effect}; ragops up sets it")
    if factor <= 1:
        return (*advice, fewer, more)
    if not model.int8_bytes and model.architecture.startswith(int8.KNOWN) and not int8.unfit(host):
        enough = f"enough for {min(100, 100 * _INT8 / factor):.0f} % of a call's documents"
        advice.append(f"ragops int8: about {_INT8:g} times as fast, {enough}")
    cores = math.ceil(factor * (used or best))
    return (
        *advice,
        f"{cores} cores in place of {used or best}, of one container or of replicas (ragops scale N)",
        f"a model with at most {100 / factor:.0f} % of this one's work for each token",
        fewer,
    )


def _bound(replicas: Sequence[ContainerState]) -> int:
    """Number of CPUs that threads are bound to; 0 where vLLM selects them."""
    name = "VLLM_CPU_OMP_THREADS_BIND="
    lines = [line for replica in replicas for line in replica.environment if line.startswith(name)]
    lists = [line.removeprefix(name).replace("|", ",") for line in lines]
    known = len(lists) == len(replicas) and all(text[:1].isdigit() for text in lists)
    return len({cpu for text in lists for cpu in parse_cpu_list(text)}) if known else 0


def _plan_calls(profile: CallProfile) -> tuple[list[tuple[Form, traffic.Request]], int | None]:
    """Small calls, then the release's texts alternating; and the words that they were cut to."""
    forms = (profile.release.texts * 2)[:2]
    write = partial(traffic.ragflow_requests, window=profile.window, max_words=profile.max_words)
    first, second = (write(CALLS // 2, seed, form=form) for seed, form in enumerate(forms, start=1))
    writer = traffic.Writer(3)
    query = writer.query()
    words = min(profile.max_words, _USUAL_WORDS)
    texts = tuple(writer.passage(words).text for _ in range(max(RAMP)))
    ramp = [traffic.Request(query, texts[:count]) for count in RAMP]
    calls: list[tuple[Form, traffic.Request]] = [("natural", request) for request in ramp]
    for pair in zip(first, second, strict=True):
        calls += zip(forms, pair, strict=True)
    return calls, profile.max_words if traffic.count_cut(first, profile.max_words) else None


def _check_in_time(timed: TimedCalls, profile: CallProfile, advice: tuple[str, ...]) -> Check:
    calls, limit = [call for call in timed.calls if not call.warm_up], profile.release.timeout
    remedy = "; ".join(f"{place}. {text}" for place, text in enumerate(advice, start=1))
    for call in timed.calls:
        if not call.error:
            continue
        slow = "timed out" in call.error or "by the deadline" in call.error
        if slow and limit > LONGEST_TIMEOUT:
            detail = f"{call.documents} chunks took more than {LONGEST_TIMEOUT:g} s, of {profile.limit}"
            return Check(IN_TIME, "warn", detail, remedy)
        reason = f"no response in {profile.limit}" if slow else call.error
        detail = f"{call.documents} chunks, {call.form} text: {reason}"
        return Check(IN_TIME, "fail", detail, remedy if slow else _REFUSED)
    if not calls:
        return Check(IN_TIME, "warn", f"none of RAGFlow's calls was sent: {_durations(timed)}", remedy)
    times = [call.service for call in calls]
    p95 = latency.percentile(times, SHARE)
    fits = latency.fits_in(p95, limit)
    sizes = sorted({call.documents for call in calls})
    chunks = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"{sizes[0]}"
    if p95.value is not None:
        text = f"{_VERBS[fits]}: p95 {p95}, n={p95.n} calls of {chunks} chunks,"
    else:
        share = int(100 * latency.share_at_least(len(times))) if max(times) <= limit else 0
        fitting = f"at least {share} % of calls fit (95 % sure)" if share else "too slow"
        text = f"n={p95.n} calls of {chunks} chunks: {fitting}; p95 needs {p95.needed}; "
        text += f"slowest {latency.seconds(max(times))}"
        fits = True if max(times) <= limit / 2 else None
    forms = dict.fromkeys(call.form for call in calls)
    by_form = [(form, [call.service for call in calls if call.form == form]) for form in forms]
    medians = ", ".join(f"{form} {latency.seconds(median(values))}" for form, values in by_form)
    detail = f"{text} of {profile.limit} (median {medians})"
    if unranked := sum(call.unranked for call in calls):
        total = sum(call.documents for call in calls)
        ranked = f"{total - unranked} of {total} chunks were ranked ({100 - 100 * unranked / total:.0f} %)"
        detail = f"partial: {ranked} by the gateway's deadline of {profile.deadline:g} s; {detail}"
        fits = fits and None
    if profile.release.assumed:
        detail += f"; {profile.release.assumed}"
    if timed.cut_to:
        detail += f"; chunks cut to {timed.cut_to} words for the model, so lighter than RAGFlow's"
    return Check(IN_TIME, _STATUS[fits], detail, remedy)


def _durations(timed: TimedCalls) -> str:
    durations = [f"{call.documents} chunks in {latency.seconds(call.service)}" for call in timed.calls]
    return ", ".join(durations) or "no response"


def _check_capacity(timed: TimedCalls, profile: CallProfile) -> Check:
    limit = profile.seconds
    calls = [call.within(limit) for call in timed.calls]
    good = [call for call in calls if not call.error]
    if not good:
        return Check(CAPACITY, "skip", "no call succeeded")
    known = calls if limit <= LONGEST_TIMEOUT else good  # a call that was ended here is not late there
    line, reason = latency.fit_requests(good)
    if any(call.unranked for call in timed.calls):  # they all take the same time
        line, reason = None, "the deadline ended requests"
    if line is not None:
        fitting = latency.largest_window(line, good, SHARE, limit)
        counted = [call for call in good if call.tokens]
        tokens = sum(call.tokens for call in counted) / sum(call.documents for call in counted)
        detail = f"{fitting} of {tokens:.0f} tokens ({line})"
    else:
        large = [call for call in good if not call.warm_up] or good  # the others mostly take their fixed time
        slowest = max(call.service / call.documents for call in large)
        fitting = int(limit / slowest)
        detail = f"about {fitting}, as the slowest took {latency.seconds(slowest)} for each chunk ({reason})"
    if contrary := latency.contradiction(fitting, known, SHARE, limit):
        return Check(CAPACITY, "skip", f"no estimate: {contrary}")
    detail += f"; RAGFlow sends up to {profile.most}"
    if fitting > max(call.documents for call in good):
        detail += "; more than were tried"
    setting = profile.release.documents.setting
    remedy = "see the line above" + (f"; {setting} = {fitting} in RAGFlow bounds a call" if setting else "")
    return Check(CAPACITY, "ok" if fitting >= profile.most else "warn", detail, remedy)


def _check_long_chunk(
    timed: TimedCalls, profile: CallProfile, expected: Expected, model_tokens: int
) -> Check:
    response, limit, template = timed.too_long, expected.max_tokens, expected.template_tokens
    usual = int(traffic.RAGFLOW_PAIR_TOKENS[-1][1]) + template
    if not response.status:
        detail = f"a chunk over {limit} tokens got no response: {response.text[:80]}"
        return Check(LONG, "warn", detail, _REFUSED)
    if response.status != 200 and not over_long(response.text):
        detail = f"a chunk over {limit} tokens: HTTP {response.status}: {response.text[:100]}"
        return Check(LONG, "warn", detail, _REFUSED)
    is_read = response.status == 200
    effect = _EFFECTS.get(profile.over_limit, f"makes the whole call a {response.status}")
    if response.truncated:
        effect = "is cut by the gateway: its end is not ranked"
    elif is_read:
        effect = "is read or cut (HTTP 200)"
    if limit >= usual or (is_read and not response.truncated):
        return Check(LONG, "ok", f"RAGFlow's, of 512 tokens, do; one over {limit} tokens {effect}")
    detail = f"RAGFlow's chunks of 512 tokens are longer than the model's {limit}: one of them {effect}"
    # a chunk is counted in another vocabulary than the model's, and a query of 60 tokens comes with it
    chunk = max(int((limit - template - 60) / 1.3), 16)
    remedy = f"chunk_token_num of {chunk} or less in RAGFlow's dataset, then parse it again"
    if model_tokens > limit:
        length = min(model_tokens, max(usual, 1024))
        remedy = f"max_model_len = {length} under [reranker], then ragops up; or {remedy}"
    return Check(LONG, "warn", detail, remedy)
