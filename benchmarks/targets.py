"""Targets of a launch and their results: met, missed, or beyond the machine; pure.

``launches.py`` measures. All targets are ratios within a run, or seconds of a request of known size, so that
records of different machines are comparable.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Literal

from ragops.bench.compare import agreement
from ragops.checks.latency import needed, seconds, share_at_least

if TYPE_CHECKING:
    from ragops.bench.records import GemmPeak, Sample

Answer = Literal["met", "missed", "beyond this machine"]

RECIPE_RATIO = 9.0
"""Documents per second of the default launch, relative to those of the recipe."""
LIMIT_SHARE, LIMIT_AIM = 0.65, 0.80
"""Fractions of the tokens per second that matrix multiplication alone allows."""
INT8_RATIO = 1.25
"""Documents per second of int8, relative to those of the default launch."""
SECOND_START_SHARE, READY_SECONDS = 0.5, 60.0
"""Largest second start, with a compile cache: fraction of the first start, and seconds."""


@dataclass(frozen=True)
class Call:
    """A request of RAGFlow, and the target of its p95 in seconds."""

    name: str
    documents: int
    tokens: int
    """Query and document, without the score template."""
    within: float


CALL_SECONDS, MOST_DOCUMENTS, TEMPLATE_TOKENS = 15.0, 32, 75
"""Of requests in comparisons of launches: shortest time, most documents, tokens of the template."""
ENOUGH = needed(0.95)
"""Fewest requests for a confidence interval of p95."""
DRAWN_TOKENS = 280
"""Tokens of a query and a document in those requests, without the template."""

CALLS = (Call("typical", 64, 280, 12.0), Call("heavy", 90, 500, 30.0))


@dataclass(frozen=True)
class Timed:
    """Measurement of one rerank request."""

    seconds: float
    documents: int
    tokens: int
    """In all prompts."""
    computed: int
    """Those that were not in the prefix cache."""
    scores: tuple[float, ...]
    others: float
    """Cores used by other processes."""


@dataclass(frozen=True)
class Series:
    """Requests of one launch, alternating with those of the other."""

    launch: str
    calls: tuple[Timed, ...]

    @property
    def documents_per_s(self) -> float:
        """Of the median request."""
        return median(one.documents / one.seconds for one in self.calls)

    @property
    def computed_per_s(self) -> float:
        """Computed tokens per second, of the median request."""
        return median(one.computed / one.seconds for one in self.calls)

    @property
    def computed_per_document(self) -> float:
        """Tokens."""
        return sum(one.computed for one in self.calls) / sum(one.documents for one in self.calls)

    @property
    def slowest(self) -> float:
        """Seconds."""
        return max(one.seconds for one in self.calls)


@dataclass(frozen=True)
class Target:
    """Result of one target with its values."""

    name: str
    asked: str
    answer: Answer
    figure: str
    limit: str
    """Upper limit of this machine."""
    note: str = ""
    """Remarks on the value."""


def others(before: Sample, after: Sample) -> float:
    """Cores used by other processes between two samples."""
    used = [(one.host_busy_ns or 0) - (one.cpu_ns or 0) - (one.client_ns or 0) for one in (before, after)]
    return max(0.0, (used[1] - used[0]) / (after.t - before.t))


def documents(limit: GemmPeak) -> int:
    """Documents of a request that takes about :data:`CALL_SECONDS` at the machine's limit."""
    fit = CALL_SECONDS * (limit.tokens_per_s or 0) / (DRAWN_TOKENS + TEMPLATE_TOKENS)
    return min(MOST_DOCUMENTS, max(2, int(fit)))


def worth_sending(size: Call, known: Series, limit: GemmPeak) -> bool:
    """Whether a request could complete in time if only matrix multiplication took time."""
    least = _least(size, known, limit)
    return least is None or least <= size.within


def answered(*, met: bool, possible: bool) -> Answer:
    """The result; a met target is met, whatever the limit, which was measured earlier."""
    return "met" if met else "missed" if possible else "beyond this machine"


def against_recipe(default: Series, recipe: Series, limit: GemmPeak) -> Target:
    """The default launch compared with the recipe."""
    ratio = default.documents_per_s / recipe.documents_per_s
    most = (limit.tokens_per_s or 0) / default.computed_per_document / recipe.documents_per_s
    return Target(
        "default launch against the hand-written recipe",
        f"at least {RECIPE_RATIO:g} times its documents a second",
        answered(met=ratio >= RECIPE_RATIO, possible=most >= RECIPE_RATIO or not most),
        f"{ratio:.1f} times: {default.documents_per_s:.2f} against {recipe.documents_per_s:.2f} documents/s, "
        f"medians of {len(default.calls)} calls each, in turn",
        f"multiplication alone, in {limit.served}, allows {most:.1f} times" if most else "not measured",
        _SAME_ARITHMETIC if limit.served == "float32" else "",
    )


_SAME_ARITHMETIC = (
    "the recipe computes in float32 on one thread; a processor without bfloat16 gets float32 from ragops "
    "too, so that only threads, prefixes and batches are left to gain"
)


def share_of_limit(default: Series, limit: GemmPeak) -> Target:
    """The fraction of the machine's matrix multiplication peak that the server reaches."""
    name, asked = "share of the machine's own limit", f"at least {LIMIT_SHARE:.0%}, better {LIMIT_AIM:.0%}"
    if limit.tokens_per_s is None:
        why = next((one.error for one in limit.gemms if one.dtype == limit.served), "")
        return Target(name, asked, "missed", f"the limit could not be measured: {why}", "not measured")
    share = default.computed_per_s / limit.tokens_per_s
    return Target(
        name,
        asked,
        answered(met=share >= LIMIT_SHARE, possible=True),
        f"{share:.0%}: {default.computed_per_s:.0f} of {limit.tokens_per_s:.0f} tokens/s that are computed",
        f"{limit.tokens_per_s:.0f} tokens/s in {limit.served} on {limit.threads} threads",
        "the limit counts linear layers; attention, norms, tokenizing and the server's own work come on top",
    )


def int8_gain(series: tuple[Series, ...], unfit: str, failed: str) -> Target:
    """Speed of int8 weights, and their effect on the order.

    Args:
        series: The default launch and that of the int8 folder; empty if it did not start.
        unfit: Why this processor does not suit int8; empty if it does.
        failed: Why it did not start.
    """
    name, asked = "int8 against the default launch", f"at least {INT8_RATIO:g} times its documents a second"
    limit = f"not available: {unfit}" if unfit else "that of int8 multiplication"
    if not series:
        return Target(name, asked, answered(met=False, possible=not unfit), f"did not start: {failed}", limit)
    default, int8 = series
    ratio = int8.documents_per_s / default.documents_per_s
    alike = agreement(*([one.scores for one in each.calls] for each in series))
    return Target(
        name,
        asked,
        answered(met=ratio >= INT8_RATIO and not unfit, possible=not unfit),
        f"{ratio:.2f} times: {int8.documents_per_s:.2f} against {default.documents_per_s:.2f} documents/s; "
        f"{alike}",
        limit,
    )


def second_start(first: float, second: float) -> Target:
    """Starts with an empty and with a filled compile cache, in seconds to the first response."""
    met = second <= SECOND_START_SHARE * first and second <= READY_SECONDS
    return Target(
        "second start, with the compile cache",
        f"at most {SECOND_START_SHARE:.0%} of the first start's time, and {READY_SECONDS:.0f} s",
        answered(met=met, possible=True),
        f"{second / first:.0%}: {second:.0f} s after {first:.0f} s",
        "three processes that load torch one after the other, tracing the model, and reading the weights",
        "" if met else _TRIED,
    )


_TRIED = (
    "tried: half as many tokens in a step, which changes nothing; the engine and the model in one process, "
    "which starts sooner and answers more slowly; --enforce-eager, which traces nothing, and is slower ever "
    "after"
)


def call(size: Call, default: Series, limit: GemmPeak, sent: Series | None, int8: Series | None) -> Target:
    """A request of RAGFlow's size.

    Args:
        size: The request.
        default: Requests of the default launch of any size; the source of its tokens per second.
        limit: The machine's.
        sent: Requests of that size; None if none could complete in time.
        int8: Requests of the int8 launch, of any size; None if there are none.
    """
    tokens, least = _tokens(size, default), _least(size, default, limit)
    about = tokens / default.computed_per_s
    figure, met = f"none was sent: about {about:.0f} s, from the tokens a second of shorter calls", False
    note = _instead(size, about, tokens, int8)
    if sent is not None:
        met, figure = sent.slowest <= size.within, _seen(sent, size)
        note = "" if met else _instead(size, sent.slowest, tokens, int8)
    return Target(
        f"RAGFlow's {size.name} call, {size.documents} documents of {size.tokens} tokens",
        f"p95 under {size.within:.0f} s",
        answered(met=met, possible=least is None or least <= size.within),
        figure,
        f"multiplication alone takes {seconds(least)}" if least else "not measured",
        note,
    )


def _tokens(size: Call, known: Series) -> float:
    """Computed tokens of a request: its texts and the template."""
    around = known.computed_per_document - DRAWN_TOKENS
    return size.documents * (size.tokens + around)


def _least(size: Call, known: Series, limit: GemmPeak) -> float | None:
    return _tokens(size, known) / limit.tokens_per_s if limit.tokens_per_s else None


def _seen(sent: Series, size: Call) -> str:
    n = len(sent.calls)
    within = sum(one.seconds <= size.within for one in sent.calls)
    sure = f", so at least {share_at_least(n):.0%} of such calls fit" if within == n else ""
    few = f"; p95 with an interval needs {ENOUGH}" if n < ENOUGH else ""
    middle = seconds(median(one.seconds for one in sent.calls))
    return f"median {middle}, slowest {seconds(sent.slowest)} of {n} calls{sure}{few}"


def _instead(size: Call, takes: float, tokens: float, int8: Series | None) -> str:
    """Changes that would bring such a request into its time, estimated from the measurements."""
    parts = []
    if int8 is not None:
        quicker = tokens / int8.computed_per_s
        parts.append(f"int8 would take about {quicker:.0f} s")
    replicas = max(1, -(-takes // size.within))
    parts.append(
        f"two replicas with as many cores each would take about {takes / 2:.0f} s; "
        f"{replicas:.0f} of them reach {size.within:.0f} s"
    )
    return "; ".join(parts)
