"""What would make a reranker faster, best first, judged from how it really runs; pure.

RAGFlow's calls, sent from inside its container one at a time, with the time that each took.

``budget.py`` judges them. It is a look, of few calls; a benchmark is ``ragops bench``.

Do RAGFlow's calls end in the time that it waits; pure.

:func:`judge` turns what ``calls.py`` measured from inside RAGFlow's container into checks.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ragops import progress
from ragops.checks import Check
from ragops.checks import traffic as workload
from ragops.checks.latency import (
    fit_requests,
    fits_in,
    largest_window,
    needed,
    percentile,
    seconds,
    share_at_least,
)
from ragops.checks.probe import Question, Round, ask_all
from ragops.checks.traffic import Writer
from ragops.configuration import Stack
from ragops.ragflow import releases
from ragops.ragflow.request import RerankRequest, release_or_newest
from ragops.reranker import sizing
from ragops.reranker.host import parse_cpu_list
from ragops.reranker.options import TEMPLATE_TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ragops.checks import Status
    from ragops.checks.probe import Reply
    from ragops.checks.questions import Expected
    from ragops.checks.traffic import Form, Request
    from ragops.docker.engine import Engine
    from ragops.docker.objects import ContainerState
    from ragops.ragflow.discovery import RagflowContainer
    from ragops.ragflow.releases import Release
    from ragops.reranker.host import Host
    from ragops.reranker.model import Model

_PREFIX = "--enable-prefix-caching"
_BLOCK = "--block-size"


def advice(reranker: ContainerState, model: Model, host: Host) -> tuple[str, ...]:
    """What would help: arithmetic, cores, caches, then smaller calls, then more machines.

    Args:
        reranker: The container as it runs.
        model: What it serves.
        host: The machine.
    """
    return (*_dtype(reranker, host), *_cores(reranker, host), *_caches(reranker, model), *_ALWAYS)


_ALWAYS = (
    "shorter chunks (chunk_token_num in RAGFlow), or fewer (top_k, from v0.25 on): time goes by tokens",
    "more cores: another machine, or a reranker on each NUMA node and a call's documents spread over them",
)


def _flag(reranker: ContainerState, name: str) -> str:
    command = reranker.command
    return command[command.index(name) + 1] if name in command[:-1] else ""


def _dtype(reranker: ContainerState, host: Host) -> Iterator[str]:
    served = _flag(reranker, "--dtype") or "auto"
    if host.has_bf16 and served != "bfloat16":
        yield f'dtype = "bfloat16" under [reranker]: {served} is served, and this processor has bfloat16'


def _cores(reranker: ContainerState, host: Host) -> Iterator[str]:
    bound = dict(line.split("=", 1) for line in reranker.environment if "=" in line)
    threads = bound.get("VLLM_CPU_OMP_THREADS_BIND", "auto")
    best = sizing.compute_cpus(Stack(), sizing.cores(Stack(), host))
    if threads == "auto":
        yield f"cores: vLLM leaves one out by itself; ragops up binds {len(best)} threads"
    elif threads[0].isdigit() and "|" not in threads and len(parse_cpu_list(threads)) < len(best):
        yield f'cores = "auto" under [reranker]: {len(parse_cpu_list(threads))} of {len(best)} compute'


def _caches(reranker: ContainerState, model: Model) -> Iterator[str]:
    if not model.causal:
        return
    if _PREFIX not in reranker.command:
        yield f"{_PREFIX}: template and query are computed once for all documents; ragops up sets it"
    elif _flag(reranker, _BLOCK) != "32":
        yield f"{_BLOCK} 32: with larger blocks a short query is shared by no document; ragops up sets it"


SHARE = 0.95
CALLS = needed(SHARE)
"""Calls after which p95 has an interval; no more are made."""

SECONDS = 25.0
"""Time after which no further call is made; the last one may take RAGFlow's 30 s more."""

RAMP = (2, 8)
"""Documents of the first calls, which no percentile counts: they show what a small call takes."""

PAGES = ((8, 0.63), (6, 0.16), (10, 0.105), (30, 0.105))
"""Page sizes that RAGFlow asks with and their share; an estimate, as RAGFlow counts nowhere."""

PATIENCE = 30.0
"""Seconds that a call is waited for, where RAGFlow would wait longer."""

_USUAL_WORDS = 200
_FAST, _GROUP = 1.0, 6
"""Seconds below which calls are fast, and how many of those are sent by one program."""
_FORMS: tuple[Form, ...] = ("natural", "stemmed")

_Named = tuple["Form", "Request"]


@dataclass(frozen=True)
class Profile:
    """What one release sends, and how long it waits."""

    release: Release
    assumed: str
    """Why this release is taken; empty when it is the container's own."""
    window: tuple[tuple[int, float], ...]
    """Documents in one call and their share."""
    max_words: int
    """Longest query and document that the model surely takes."""

    @property
    def most(self) -> int:
        """Documents of its largest usual call."""
        return max(count for count, _ in self.window)

    @property
    def waits(self) -> str:
        """Such as ``the 30 s that RAGFlow v0.27.0 waits``."""
        return f"the {self.release.timeout:g} s that RAGFlow {self.release.name} waits"


@dataclass(frozen=True)
class TimedCall:
    """One call of RAGFlow's and the time that it took."""

    form: Form
    documents: int
    warm_up: bool
    """One of the first calls, of few documents, which no percentile counts."""
    service: float
    """Seconds from sending to the response."""
    tokens: int | None = None
    """Prompt tokens that the server counted."""
    error: str = ""
    """Empty when it succeeded."""


@dataclass(frozen=True)
class Measured:
    """Timed calls, and the response to the one with a chunk too long."""

    calls: tuple[TimedCall, ...]
    too_long: Reply
    cut_to: int | None = None
    """Words that documents were cut to for the model."""


def profile(found: RagflowContainer, expected: Expected) -> Profile:
    """What RAGFlow in this container sends to this model."""
    release, why = release_or_newest(found.release)
    shares: dict[int, float] = {}
    for page, share in PAGES:
        count = releases.window(release, page)
        shares[count] = shares.get(count, 0.0) + share
    words = workload.words_for_context(expected.max_tokens, template_tokens(expected))
    return Profile(release, why, tuple(sorted(shares.items())), words)


def measure(
    engine: Engine,
    found: RagflowContainer,
    image: str,
    url: str,
    expected: Expected,
    *,
    full: bool = False,
) -> Measured:
    """Send RAGFlow's calls from inside its container, one at a time.

    Args:
        engine: Where the container runs.
        found: The container; it must be running and reach the reranker.
        image: An image with Python, for a container that has none.
        url: The reranker's address as RAGFlow has it.
        expected: How the reranker was launched.
        full: :data:`CALLS` calls, however long they take.
    """
    about = profile(found, expected)
    limit = min(about.release.timeout, PATIENCE)
    path = f"{urlsplit(url).path}/rerank"

    def send(*requests: Request) -> tuple[Reply, ...]:
        bodies = (RerankRequest(expected.model, one.query, one.documents).body() for one in requests)
        asked = tuple(Question(path, body.decode()) for body in bodies)
        return ask_all(engine, found.name, image, url, Round(asked, limit * len(asked), limit))

    drawn, cut_to = _drawn(about)
    records: list[TimedCall] = []
    progress.step(f"{found.name}: timed calls of RAGFlow's size")
    begin = time.monotonic()
    while len(records) < len(drawn):
        group = drawn[len(records) :][: _together(records)]
        replies = send(*(request for _, request in group))
        for (form, request), reply in zip(group, replies, strict=False):
            records.append(_record(form, request, reply, len(records)))
        now = time.monotonic()
        progress.advance(len(records), len(drawn), "timed calls")
        if any(one.error for one in records) or (not full and now - begin > SECONDS):
            break
    return Measured(tuple(records), send(_too_long(expected))[0], cut_to)


def _together(records: list[TimedCall]) -> int:
    """How many calls are sent, one after another, by one program; its start costs more than fast ones."""
    is_fast = len(records) > len(RAMP) and records[-1].service < _FAST
    return _GROUP if is_fast else 1


def _drawn(about: Profile) -> tuple[list[_Named], int | None]:
    """Small calls, then natural and stemmed ones by turns; and the words that they were cut to."""
    natural, stemmed = (
        workload.ragflow_requests(CALLS // 2, seed, form=form, window=about.window, max_words=about.max_words)
        for seed, form in enumerate(_FORMS, start=1)
    )
    first = Writer(3)
    query = first.query()
    texts = tuple(first.passage(min(about.max_words, _USUAL_WORDS)).text for _ in range(max(RAMP)))
    ramp: list[_Named] = [("natural", workload.Request(query, texts[:count])) for count in RAMP]
    pairs = zip(natural, stemmed, strict=True)
    turns: list[_Named] = [turn for pair in pairs for turn in zip(_FORMS, pair, strict=True)]
    return ramp + turns, about.max_words if workload.count_cut(natural, about.max_words) else None


def _record(form: Form, request: Request, reply: Reply, place: int) -> TimedCall:
    error, tokens = _read(reply, len(request.documents))
    return TimedCall(form, len(request.documents), place < len(RAMP), reply.ms / 1e3, tokens, error)


def _read(reply: Reply, documents: int) -> tuple[str, int | None]:
    """What is wrong with an answer, and the tokens that the server counted."""
    if reply.status != 200:
        return f"HTTP {reply.status}: {reply.text[:200]}" if reply.status else reply.text[:200], None
    try:
        data = json.loads(reply.text)
        came, used = len(data["results"]), (data.get("usage") or {}).get("prompt_tokens")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"no ranking: {error!r}"[:200], None
    return ("" if came == documents else f"{came} scores for {documents} documents"), used


def template_tokens(expected: Expected) -> int:
    """What the server's score template adds to a pair."""
    return TEMPLATE_TOKENS if expected.template else 0


def _too_long(expected: Expected) -> Request:
    """A call with one chunk that is surely longer than the model takes."""
    writer = Writer(4)
    words = expected.max_tokens + 8  # a word is one token at least
    return workload.Request(writer.query(), (writer.passage(16).text, writer.passage(words).text))


TIME = "calls end in time"
ROOM = "chunks that would fit"
REGISTER = "registration ends in time"
LONG = "chunks fit the model"
TITLES = (TIME, ROOM, REGISTER, LONG)

PROVES = {
    TIME: "calls of RAGFlow's sizes, natural and stemmed, against the time that this release waits",
    ROOM: "how many chunks fit that time; a release sends 64 to 90 at once, at its default page sizes",
    REGISTER: "the test call of a registration, of which newer releases wait 10 s",
    LONG: "RAGFlow cuts nothing: a chunk longer than the model takes makes the whole call a 400",
}
"""What each check shows."""

_REFUSED = "docker logs shows why the server refused the call"
_STATUS: Mapping[bool | None, Status] = {True: "ok", False: "fail", None: "warn"}


def judge(
    seen: Measured, about: Profile, expected: Expected, can: int, faster: tuple[str, ...]
) -> list[Check]:
    """Checks from what was measured; where they come from is for the caller to add.

    Args:
        seen: The calls.
        about: What RAGFlow sends.
        expected: How the reranker was launched.
        can: Tokens that the model itself takes.
        faster: What would make it so, best first; see ``speed.py``.
    """
    checks = [_in_time(seen, about, faster), _room(seen, about)]
    if about.release.registration_limit is not None:
        checks.append(_registration(seen, about.release.registration_limit))
    return [*checks, _long(seen, expected, can)]


def _counted(seen: Measured) -> list[TimedCall]:
    return [one for one in seen.calls if not one.warm_up]


def _in_time(seen: Measured, about: Profile, faster: tuple[str, ...]) -> Check:
    calls, limit = _counted(seen), about.release.timeout
    remedy = "; ".join(f"{place}. {one}" for place, one in enumerate(faster, start=1))
    if failed := next((one for one in seen.calls if one.error), None):
        slow = "timed out" in failed.error
        if slow and limit > PATIENCE:
            detail = f"{failed.documents} chunks took more than {PATIENCE:g} s, of {about.waits}"
            return Check(TIME, "warn", detail, remedy)
        why = f"no answer in {about.waits}" if slow else failed.error
        detail = f"{failed.documents} chunks, {failed.form} text: {why}"
        return Check(TIME, "fail", detail, remedy if slow else _REFUSED)
    if not calls:
        return Check(TIME, "warn", f"not one of RAGFlow's calls was made: {_small(seen)}", remedy)
    found = percentile([call.service for call in calls], SHARE)
    fits = fits_in(found, limit)
    detail = f"{_said(calls, limit, fits)} of {about.waits}{_forms(calls)}{_lighter(seen, about)}"
    if fits is None and found.value is None:
        fits = True if max(call.service for call in calls) <= limit / 2 else None
    return Check(TIME, _STATUS[fits], detail, remedy)


def _said(calls: list[TimedCall], limit: float, fits: bool | None) -> str:
    """The percentile with its interval, or what so few calls can say."""
    found, most = percentile([call.service for call in calls], SHARE), max(call.service for call in calls)
    sizes = sorted({one.documents for one in calls})
    chunks = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"{sizes[0]}"
    if found.value is not None:
        verb = {True: "fits", False: "does not fit", None: "can't be told to fit"}[fits]
        return f"{verb}: p95 {found}, n={found.n} calls of {chunks} chunks,"
    share = int(100 * share_at_least(len(calls))) if most <= limit else 0
    can = f"so few show that {share} % of calls fit, at least (95 % sure)" if share else "too slow"
    return f"n={found.n} calls of {chunks} chunks: {can}; p95 needs {found.needed}; slowest {seconds(most)}"


def _forms(calls: list[TimedCall]) -> str:
    """The usual time of each form of text."""
    usual = {form: [one.service for one in calls if one.form == form] for form in ("natural", "stemmed")}
    said = [f"{form} {seconds(median(times))}" for form, times in usual.items() if times]
    return f" ({', '.join(said)} as a rule)"


def _lighter(seen: Measured, about: Profile) -> str:
    """What makes these calls others than RAGFlow's."""
    cut = f"chunks cut to {seen.cut_to} words for the model, so lighter than RAGFlow's" if seen.cut_to else ""
    return "".join(f"; {one}" for one in (about.assumed, cut) if one)


def _small(seen: Measured) -> str:
    return ", ".join(f"{one.documents} chunks in {seconds(one.service)}" for one in seen.calls) or "no answer"


def _room(seen: Measured, about: Profile) -> Check:
    good = [one for one in seen.calls if not one.error]
    limit = about.release.timeout
    calls, why = fit_requests(good)
    if calls is not None:
        fitting = largest_window(calls, SHARE, limit)
        detail = f"{fitting} of {calls.tokens_per_document:.0f} tokens ({calls.line})"
    elif good:
        worst = max(one.service / one.documents for one in good)
        fitting = int(limit / worst)
        detail = f"about {fitting}, as the slowest took {seconds(worst)} for each chunk ({why})"
    else:
        return Check(ROOM, "skip", "no call was answered")
    beyond = fitting > max(one.documents for one in good)
    detail += f"; RAGFlow sends up to {about.most}" + ("; more than were tried" if beyond else "")
    remedy = f"see the line above; top_k = {fitting} in RAGFlow bounds a call from v0.25 on"
    return Check(ROOM, "ok" if fitting >= about.most else "warn", detail, remedy)


def _registration(seen: Measured, limit: float) -> Check:
    if not seen.calls or seen.calls[0].error:
        return Check(REGISTER, "fail", f"no answer: {_small(seen)}", "ragops status")
    first = seen.calls[0]
    detail = f"{first.documents} documents in {seconds(first.service)} of {limit:g} s"
    remedy = "LLM_TIMEOUT_SECONDS in RAGFlow's .env raises it while you register"
    return Check(REGISTER, "ok" if first.service < limit else "fail", detail, remedy)


def _long(seen: Measured, expected: Expected, can: int) -> Check:
    reply, limit = seen.too_long, expected.max_tokens
    usual = int(workload.RAGFLOW_PAIR_TOKENS[-1][1]) + template_tokens(expected)
    if not reply.status:
        return Check(LONG, "warn", f"a chunk over {limit} tokens got no answer: {reply.text[:80]}", _REFUSED)
    if reply.status != 200 and "maximum context length" not in reply.text:
        detail = f"a chunk over {limit} tokens: HTTP {reply.status}: {reply.text[:100]}"
        return Check(LONG, "warn", detail, _REFUSED)
    seen_as = "is read or cut (HTTP 200)" if reply.status == 200 else f"makes the whole call a {reply.status}"
    if limit >= usual or reply.status == 200:
        return Check(LONG, "ok", f"RAGFlow's, of 512 tokens, do; one over {limit} tokens {seen_as}")
    detail = (
        f"RAGFlow's chunks of 512 tokens are longer than the model's {limit}: one of them {seen_as}, "
        "as RAGFlow cuts nothing"
    )
    return Check(LONG, "warn", detail, _shorter(expected, can, usual))


def _shorter(expected: Expected, can: int, usual: int) -> str:
    raise_ = f"max_model_len = {min(can, max(usual, 1024))} under [reranker], then ragops up; or "
    # a chunk is counted in another vocabulary than the model's, and a query of 60 tokens stands beside it
    room = int((expected.max_tokens - template_tokens(expected) - 60) / 1.3)
    smaller = f"chunk_token_num of {max(room, 16)} or less in RAGFlow's dataset, then parse it again"
    return (raise_ if can > expected.max_tokens else "") + smaller
