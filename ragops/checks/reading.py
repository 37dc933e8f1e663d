"""The rule of the score gate on reading: all of a text counts, in any script; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ragops.checks.faults import REWRITTEN, Finding
from ragops.checks.texts import LETTERS, LETTERS_BARE, QUERY

if TYPE_CHECKING:
    from ragops.checks.questions import Expected, Transcript

_SAME = 0.005
"""Two scores are the same one when they differ by less, as a share of the larger."""
_SAME_COUNTED = 0.00002
"""The same, where the token count has already shown that nothing was cut off."""


def whole(_: Expected, seen: Transcript) -> Finding:
    """What stands at the end of a long document counts, and at its beginning, in any script."""
    tail = seen.of("tail")
    if not tail:
        return Finding("skip", "there was no time to ask")
    answer, remedy = tail[0], "stop truncation: no truncate_prompt_tokens, max_tokens_per_doc or gateway"
    counted = bool(seen.counts) and answer.tokens >= 0
    there = seen.tokens(QUERY, *answer.ranking.documents)
    if counted and answer.tokens < there:
        return Finding("fail", f"truncated: {answer.tokens} of {there} tokens were read", remedy)
    words = len(answer.ranking.documents[0].split())
    last, neither, first = answer.scores
    for told, part in ((last, "last"), (first, "first")):
        if _alike(told, neither, counted=counted):
            detail = f"truncated: the {part} sentence of a document of {words} words changes no score"
            return Finding("fail", detail, remedy)
    if found := _letters(seen):
        return found
    moved = abs(last - neither)
    return Finding("ok", f"the last sentence of a document of {words} words moves its score by {moved:.3f}")


def _letters(seen: Transcript) -> Finding | None:
    """What is no ASCII reaches the model."""
    answers = seen.of("letters")
    if not answers:
        return None
    one, other = answers[0].scores
    gone = bool(seen.counts) and seen.tokens(LETTERS[0]) <= seen.tokens(LETTERS_BARE)
    if gone or _alike(one, other, counted=True):
        detail = "characters are lost: documents that differ in Chinese alone get the same score"
        return Finding("fail", detail, f"the text must stay UTF-8 on its way; {REWRITTEN}")
    return None


def _alike(one: float, other: float, *, counted: bool) -> bool:
    """Whether two scores are the same one; a share, because a trained model's may both be tiny."""
    return abs(one - other) <= (_SAME_COUNTED if counted else _SAME) * max(abs(one), abs(other))
