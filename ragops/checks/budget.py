"""Do RAGFlow's calls end in the time that it waits; pure.

:func:`judge` turns what ``calls.py`` measured from inside RAGFlow's container into checks.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from ragops.bench import capacity, sizes
from ragops.bench.quantiles import percentile, seconds, share_at_least
from ragops.bench.stats import waits
from ragops.bench.verdict import fits_in
from ragops.checks import Check
from ragops.checks.calls import PATIENCE, SHARE, template_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ragops.bench.records import RequestRecord
    from ragops.checks import Status
    from ragops.checks.calls import Measured, Profile
    from ragops.checks.questions import Expected

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


def _counted(seen: Measured) -> list[RequestRecord]:
    return [one for one in seen.calls if one.phase == "measure"]


def _in_time(seen: Measured, about: Profile, faster: tuple[str, ...]) -> Check:
    calls, limit = _counted(seen), about.release.timeout
    remedy = "; ".join(f"{place}. {one}" for place, one in enumerate(faster, start=1))
    if failed := next((one for one in seen.calls if one.error), None):
        slow = "timed out" in failed.error
        if slow and limit > PATIENCE:
            detail = f"{failed.documents} chunks took more than {PATIENCE:g} s, of {about.waits}"
            return Check(TIME, "warn", detail, remedy)
        why = f"no answer in {about.waits}" if slow else failed.error
        detail = f"{failed.documents} chunks, {failed.level} text: {why}"
        return Check(TIME, "fail", detail, remedy if slow else _REFUSED)
    if not calls:
        return Check(TIME, "warn", f"not one of RAGFlow's calls was made: {_small(seen)}", remedy)
    found = percentile(waits(calls), SHARE)
    fits = fits_in(found, limit)
    detail = f"{_said(calls, limit, fits)} of {about.waits}{_forms(calls)}{_lighter(seen, about)}"
    if fits is None and found.value is None:
        fits = True if max(waits(calls)) <= limit / 2 else None
    return Check(TIME, _STATUS[fits], detail, remedy)


def _said(calls: list[RequestRecord], limit: float, fits: bool | None) -> str:
    """The percentile with its interval, or what so few calls can say."""
    found, most = percentile(waits(calls), SHARE), max(waits(calls))
    sizes = sorted({one.documents for one in calls})
    chunks = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"{sizes[0]}"
    if found.value is not None:
        verb = {True: "fits", False: "does not fit", None: "can't be told to fit"}[fits]
        return f"{verb}: p95 {found}, n={found.n} calls of {chunks} chunks,"
    share = int(100 * share_at_least(len(calls))) if most <= limit else 0
    can = f"so few show that {share} % of calls fit, at least (95 % sure)" if share else "too slow"
    return f"n={found.n} calls of {chunks} chunks: {can}; p95 needs {found.needed}; slowest {seconds(most)}"


def _forms(calls: list[RequestRecord]) -> str:
    """The usual time of each form of text."""
    usual = {form: [one.service for one in calls if one.level == form] for form in ("natural", "stemmed")}
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
    calls, why = capacity.fit_requests(good)
    if calls is not None:
        fitting = capacity.largest_window(calls, SHARE, limit)
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
    usual = int(sizes.RAGFLOW_PAIR_TOKENS[-1][1]) + template_tokens(expected)
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
