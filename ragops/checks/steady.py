"""The rule of the score gate on steadiness: a score belongs to its document alone; pure."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from ragops.checks.faults import RELAUNCH, REWRITTEN, ROUNDING, Finding, apart_most

if TYPE_CHECKING:
    from ragops.checks.questions import Answer, Expected, Transcript

_SAME = 0.005
"""Two scores that are the same one, computed in other company."""
_EXACT = 1e-6
"""What is left of a difference that is none."""


def steady(_: Expected, seen: Transcript) -> Finding:
    """A score belongs to its document: not to the call, the place, or the documents beside it."""
    if way := _rescaled(seen):
        remedy = f"scores of two calls can't be compared; {REWRITTEN}"
        return Finding("fail", f"rescaled in each call: {way}", remedy)
    first = {one.ranking.item: one for one in seen.of("golden")}
    most = 0.0
    for answer in (*seen.of("again"), *seen.of("moved")):
        before = first[answer.ranking.item]
        moved = apart_most(before.scores, answer.own)
        if moved > ROUNDING:
            return _unsteady(seen, before, answer, moved)
        most = max(most, moved)
    for answer in seen.of("top"):
        if found := _not_best(first[answer.ranking.item], answer):
            return found
    for answer in seen.of("wide"):
        if found := _split(first[answer.ranking.item], answer):
            return found
        most = max(most, apart_most(first[answer.ranking.item].scores, answer.own))
    return Finding("ok", f"asked again and in other company they move by {most:.4f} at most")


def _unsteady(seen: Transcript, before: Answer, after: Answer, moved: float) -> Finding:
    if all(_falls(answer) for answer in seen.answers):
        return Finding("fail", "input order: documents come back as they went out", REWRITTEN)
    if _same_numbers(before, after):
        detail = f"shuffled: a document gets another's score, {moved:.3f} from its own"
        return Finding("fail", detail, f"indices are mixed up; {REWRITTEN}")
    if after.ranking.purpose == "again":
        detail = f"random: the same question gives scores that differ by {moved:.3f}"
        return Finding("fail", detail, f"the scoring head holds random weights: {RELAUNCH}")
    detail = f"a document's score moves by {moved:.3f} with its place and its neighbours"
    return Finding("fail", detail, "this model reads documents together, or its server is broken")


def _not_best(before: Answer, answer: Answer) -> Finding | None:
    best = sorted(before.scores, reverse=True)[answer.ranking.top_n - 1]
    if any(before.scores[index] < best - ROUNDING for index, _ in answer.rows):
        return Finding("fail", "top_n cuts before sorting: the best documents are left out", REWRITTEN)
    return None


def _split(before: Answer, answer: Answer) -> Finding | None:
    """Whether documents of a long call get scores that they don't get in a short one."""
    size, remedy = (
        len(answer.ranking.documents),
        f"long calls are split and put together wrongly; {REWRITTEN}",
    )
    pairs = zip(before.scores, answer.own, answer.ranking.places, strict=True)
    moved = [(place, abs(one - other)) for one, other, place in pairs if abs(one - other) > ROUNDING]
    if moved:
        most = max(far for _, far in moved)
        detail = f"a long call goes wrong: of {size} documents some get scores that are {most:.3f} off"
        return Finding("fail", f"{detail}, the first at place {moved[0][0] + 1}", remedy)
    told: dict[str, float] = {}
    for document, score in zip(answer.ranking.documents, answer.scores, strict=True):
        if abs(told.setdefault(document, score) - score) > ROUNDING:
            detail = f"a long call goes wrong: equal documents get {told[document]:.3f} and {score:.3f}"
            return Finding("fail", detail, remedy)
    return None


def _rescaled(seen: Transcript) -> str:
    """How scores are made anew from those of the same call; empty when they are not."""
    told = [answer.told for answer in seen.answers if answer.ranking.purpose != "top"]
    if all(abs(max(one) - 1) < _EXACT and abs(min(one)) < _EXACT for one in told):
        return "the best document always gets 1, the worst 0"
    return "they always sum to 1" if all(abs(sum(one) - 1) < len(one) * _EXACT for one in told) else ""


def _falls(answer: Answer) -> bool:
    told = [score for _, score in sorted(answer.rows)]
    return all(one >= other for one, other in pairwise(told))


def _same_numbers(before: Answer, after: Answer) -> bool:
    rest = sorted(after.scores)
    pairs = ((one, min(rest, key=lambda other: abs(other - one))) for one in before.scores)
    return all(abs(one - other) <= _SAME for one, other in pairs)
