"""What a launch is held to, and how a record answers: met, missed, or more than the machine can do; pure.

``launches.py`` measures, the page :doc:`targets` shows. All are ratios within one run, or seconds of a call
of known size, so that a record of one machine can be read beside that of another.
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
"""Documents a second of the default launch, by those of the hand-written recipe."""
LIMIT_SHARE, LIMIT_AIM = 0.65, 0.80
"""Of the tokens a second that matrix multiplication alone would allow."""
INT8_RATIO = 1.25
"""Documents a second of int8, by those of the default launch."""
SECOND_START_SHARE, READY_SECONDS = 0.5, 60.0
"""Of the first start's seconds, with its compile cache; and at most so many."""


@dataclass(frozen=True)
class Call:
    """A call of RAGFlow, and the seconds within which 95 in 100 must end."""

    name: str
    documents: int
    tokens: int
    """Of query and document together, without the score template."""
    within: float


CALL_SECONDS, MOST_DOCUMENTS, TEMPLATE_TOKENS = 15.0, 32, 75
"""Of the calls that launches are compared with: least time, most documents, tokens around each."""
ENOUGH = needed(0.95)
"""Calls that a p95 needs to have an interval."""
DRAWN_TOKENS = 280
"""Tokens of a query and a document in those calls; the template comes on top."""

CALLS = (Call("typical", 64, 280, 12.0), Call("heavy", 90, 500, 30.0))


@dataclass(frozen=True)
class Timed:
    """One rerank call as it was seen."""

    seconds: float
    documents: int
    tokens: int
    """Of all prompts."""
    computed: int
    """Of those, what the prefix cache did not have."""
    scores: tuple[float, ...]
    others: float
    """Cores that neither the server nor this program used meanwhile."""


@dataclass(frozen=True)
class Series:
    """Calls of one launch, in turn with those of the other."""

    launch: str
    calls: tuple[Timed, ...]

    @property
    def documents_per_s(self) -> float:
        """Of the median call."""
        return median(one.documents / one.seconds for one in self.calls)

    @property
    def computed_per_s(self) -> float:
        """Tokens that were computed in a second, of the median call."""
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
    """One target, with all that its answer rests on."""

    name: str
    asked: str
    answer: Answer
    figure: str
    limit: str
    """What this machine could do at most."""
    note: str = ""
    """What was tried, and what the figure does not show."""


def others(before: Sample, after: Sample) -> float:
    """Cores that others used between two looks at the server and its machine."""
    used = [(one.host_busy_ns or 0) - (one.cpu_ns or 0) - (one.client_ns or 0) for one in (before, after)]
    return max(0.0, (used[1] - used[0]) / (after.t - before.t))


def documents(limit: GemmPeak) -> int:
    """Documents of a call that takes some :data:`CALL_SECONDS`, at the machine's limit."""
    fit = CALL_SECONDS * (limit.tokens_per_s or 0) / (DRAWN_TOKENS + TEMPLATE_TOKENS)
    return min(MOST_DOCUMENTS, max(2, int(fit)))


def worth_sending(asked: Call, known: Series, limit: GemmPeak) -> bool:
    """Whether a call could end in its time if the machine did nothing but multiply."""
    least = _least(asked, known, limit)
    return least is None or least <= asked.within


def answered(*, met: bool, possible: bool) -> Answer:
    """Met counts, whatever a limit that was measured seconds earlier says."""
    return "met" if met else "missed" if possible else "beyond this machine"


def against_recipe(default: Series, recipe: Series, limit: GemmPeak) -> Target:
    """The default launch against what people copy by hand."""
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
    """How much of the machine's multiplication the served model gets."""
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
    """What int8 weights bring, and what they do to the order.

    Args:
        series: The default launch, and the same launch of the int8 folder; none where that did not start.
        unfit: Why this processor must not serve int8; empty where it may.
        failed: Why it did not start.
    """
    name, asked = "int8 against the default launch", f"at least {INT8_RATIO:g} times its documents a second"
    limit = f"none to be had: {unfit}" if unfit else "that of int8 multiplication"
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
    """Starts with an empty and with a filled compile cache, in seconds to the first answer."""
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


def call(asked: Call, default: Series, limit: GemmPeak, sent: Series | None, int8: Series | None) -> Target:
    """A call of RAGFlow's size.

    Args:
        asked: The call.
        default: Calls of the default launch of any size; they tell the tokens a second.
        limit: The machine's.
        sent: Such calls as they were seen; None where none could end in time, so that none was sent.
        int8: Calls of the int8 launch, of any size; None where there are none that count.
    """
    tokens, least = _tokens(asked, default), _least(asked, default, limit)
    about = tokens / default.computed_per_s
    figure, met = f"none was sent: about {about:.0f} s, from the tokens a second of shorter calls", False
    note = _instead(asked, about, tokens, int8)
    if sent is not None:
        met, figure = sent.slowest <= asked.within, _seen(sent, asked)
        note = "" if met else _instead(asked, sent.slowest, tokens, int8)
    return Target(
        f"RAGFlow's {asked.name} call, {asked.documents} documents of {asked.tokens} tokens",
        f"p95 under {asked.within:.0f} s",
        answered(met=met, possible=least is None or least <= asked.within),
        figure,
        f"multiplication alone takes {seconds(least)}" if least else "not measured",
        note,
    )


def _tokens(asked: Call, known: Series) -> float:
    """Tokens that such a call computes: its texts, and what stands around each in the prompt."""
    around = known.computed_per_document - DRAWN_TOKENS
    return asked.documents * (asked.tokens + around)


def _least(asked: Call, known: Series, limit: GemmPeak) -> float | None:
    return _tokens(asked, known) / limit.tokens_per_s if limit.tokens_per_s else None


def _seen(sent: Series, asked: Call) -> str:
    n = len(sent.calls)
    within = sum(one.seconds <= asked.within for one in sent.calls)
    sure = f", so at least {share_at_least(n):.0%} of such calls fit" if within == n else ""
    few = f"; p95 with an interval needs {ENOUGH}" if n < ENOUGH else ""
    middle = seconds(median(one.seconds for one in sent.calls))
    return f"median {middle}, slowest {seconds(sent.slowest)} of {n} calls{sure}{few}"


def _instead(asked: Call, takes: float, tokens: float, int8: Series | None) -> str:
    """What would bring such a call into its time, worked out from what was measured."""
    parts = []
    if int8 is not None:
        quicker = tokens / int8.computed_per_s
        parts.append(f"int8 would take about {quicker:.0f} s")
    replicas = max(1, -(-takes // asked.within))
    parts.append(
        f"two replicas with as many cores each would take about {takes / 2:.0f} s; "
        f"{replicas:.0f} of them reach {asked.within:.0f} s"
    )
    return "; ".join(parts)
