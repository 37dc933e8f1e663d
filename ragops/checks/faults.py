"""The rules of the score gate: each looks for one family of faults and names the one it finds; pure.

The limits were set from measurements, which ``data/golden/measured.json`` holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from ragops.checks.measures import accuracy, by_language, measure, word_overlap
from ragops.checks.questions import PAIR

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ragops.checks import Status
    from ragops.checks.measures import Judged, Measures
    from ragops.checks.questions import Answer, Expected, Transcript
    from ragops.model import Kind

NEEDED = 0.80
"""Pairwise accuracy that a trained reranker reaches; five standard deviations above chance."""

ROUNDING = 0.02
"""Most that bfloat16 moves a score when the other documents of a request change."""

NARROW = 0.06
"""Spread of all scores below which they are those of texts that all look alike to the model."""

FEWEST = 12
"""Golden queries below which an order is not judged."""

_EDGE = 0.005
"""Beyond the range, for what bfloat16 rounds up."""
_SAME = 0.005
"""Two scores that are the same one, computed in other company."""
_SAME_COUNTED = 0.0001
"""The same, where the token count has already shown that nothing was cut off."""
_SPECIAL = 4
"""Tokens that a tokenizer may put around a pair or a text."""

RANGES: Mapping[Kind, tuple[float, float]] = {
    "qwen3-reranker": (0.0, 1.0),
    "qwen3-reranker-seq-cls": (0.0, 1.0),
    "cross-encoder": (0.0, 1.0),
    "embedding": (-1.0, 1.0),
}
"""Lowest and highest score of each kind of model."""

_REWRITTEN = "something between RAGFlow and vLLM rewrites answers: give RAGFlow the reranker's own address"
_RELAUNCH = "launch it as ragops does: ragops up"


@dataclass(frozen=True)
class Finding:
    """What a rule says."""

    status: Status
    detail: str
    remedy: str = ""


def formed(expected: Expected, seen: Transcript) -> Finding:
    """Every document has one finite score of its own index, and they differ."""
    del expected
    for answer in seen.answers:
        if found := _unusable(answer) or _misplaced(answer) or _not_finite(answer):
            return found
    if not seen.answers:
        return Finding("fail", "no question was answered", "see the checks above: ragops status")
    scores = [score for answer in seen.answers for score in answer.told]
    if all(_width(answer.told) < 1e-6 for answer in seen.answers):
        remedy = f"the scoring head holds nothing: upgrade vLLM (0.11 converts some wrongly), {_RELAUNCH}"
        return Finding("fail", f"constant scores: every document gets {scores[0]:.3f}", remedy)
    return Finding("ok", f"{len(seen.answers)} answers with {len(scores)} scores")


def prompted(expected: Expected, seen: Transcript) -> Finding:
    """The server makes of each pair what the model was trained with, told by its token counts."""
    if expected.kind == "embedding":
        return Finding("skip", "an embedding model has no prompt")
    pair = seen.of("pair")
    if not seen.counts or not pair or pair[0].tokens < 0:
        return Finding("skip", "the server counts no tokens")
    query, first, second = seen.counts[:3]
    tokens, alone = pair[0].tokens, query + first + second
    if alone <= tokens <= alone + 3 * _SPECIAL:
        return _apart(expected)
    if not expected.template:
        return Finding("ok", f"query and document together, {tokens - alone - query} tokens around two pairs")
    if tokens - alone - query <= 2 * _SPECIAL:
        detail = f"template missing: {tokens} tokens for two pairs, which are those of the texts alone"
        return Finding("fail", detail, f"--chat-template is not given to vLLM: {_RELAUNCH}")
    return _template(seen, tokens)


def ranged(expected: Expected, seen: Transcript) -> Finding:
    """Scores lie where the scores of this kind of model can lie."""
    lowest, highest = RANGES[expected.kind]
    scores = [score for answer in seen.answers for score in answer.told]
    least, most = min(scores), max(scores)
    possible = f"{lowest:g} to {highest:g} is possible"
    if lowest - _EDGE <= least and most <= highest + _EDGE:
        return Finding("ok", f"{least:.3f} to {most:.3f}, where {possible}")
    remedy = f"these are raw logits: no use_activation=false, no --pooler-config; {_RELAUNCH}"
    return Finding("fail", f"outside the range: {least:.3f} to {most:.3f}, where {possible}", remedy)


def whole(_: Expected, seen: Transcript) -> Finding:
    """What stands at the end of a long document counts."""
    tail = seen.of("tail")
    if not tail:
        return Finding("skip", "there was no time to ask")
    answer, remedy = tail[0], "stop truncation: no truncate_prompt_tokens, max_tokens_per_doc or gateway"
    counted = bool(seen.counts) and answer.tokens >= 0
    there = seen.counts[0] + sum(seen.counts[3:5]) if counted else 0
    if counted and answer.tokens < there:
        return Finding("fail", f"truncated: {answer.tokens} of {there} tokens were read", remedy)
    words = len(answer.ranking.documents[0].split())
    moved = abs(answer.scores[0] - answer.scores[1])
    if moved <= (_SAME_COUNTED if counted else _SAME):
        detail = f"truncated: the last sentence of a document of {words} words changes no score"
        return Finding("fail", detail, remedy)
    return Finding("ok", f"the last sentence of a document of {words} words moves its score by {moved:.3f}")


def steady(_: Expected, seen: Transcript) -> Finding:
    """A score belongs to its document: not to the call, the place, or the documents beside it."""
    first = {one.ranking.item: one for one in seen.of("golden")}
    most = 0.0
    for answer in (*seen.of("again"), *seen.of("moved")):
        before = first[answer.ranking.item]
        moved = _apart_most(before.scores, answer.own)
        if moved > ROUNDING:
            return _unsteady(seen, before, answer, moved)
        most = max(most, moved)
    for answer in seen.of("top"):
        if found := _not_best(first[answer.ranking.item], answer):
            return found
    return Finding("ok", f"asked again and in other company they move by {most:.4f} at most")


def order(expected: Expected, seen: Transcript) -> Finding:
    """Right documents of the golden set score higher than wrong ones."""
    judged = seen.judged("golden", expected.languages)
    if not expected.trained:
        return Finding("skip", f"no order to expect: {expected.stand_in}")
    if len(judged) < FEWEST:
        return Finding("warn", f"too slow: {len(judged)} queries answered in time", "ragops verify --full")
    found = measure(judged)
    detail = _figures(found, judged, expected)
    others = [pair for pair in by_language(seen.judged("golden")) if pair[0] not in expected.languages]
    told = "".join(f"; {lang} {one.accuracy:.2f}" for lang, one in others)
    if found.accuracy >= NEEDED:
        return Finding("ok", detail + told)
    return _disordered(found, judged, detail)


def ragflow_form(expected: Expected, seen: Transcript) -> Finding:
    """The same with documents as RAGFlow's tokenizer leaves them; a warning, as no reranker can help it."""
    judged = seen.judged("ragflow", expected.languages)
    if not expected.trained or not judged:
        return Finding("skip", "no order to expect" if judged else "there was no time to ask")
    asked = {one.item for one in judged}
    natural = [one for one in seen.judged("golden") if one.item in asked]
    after = f"pairwise accuracy {accuracy(judged):.2f} on {len(judged)} queries"
    detail = f"{after} in RAGFlow's stemmed form, {accuracy(natural):.2f} as written"
    if accuracy(judged) >= NEEDED:
        return Finding("ok", detail)
    return Finding("warn", detail, "DOC_ENGINE=infinity keeps text as written (RAGFlow 0.23 and later)")


def _unusable(answer: Answer) -> Finding | None:
    if "Out of range float" in answer.error:
        return _not_a_number()
    if answer.error:
        said = f"HTTP {answer.status}: {answer.error}" if answer.status else answer.error
        return Finding("fail", f"no scores: {said}", "docker logs shows why the server refused the call")
    return None


def _misplaced(answer: Answer) -> Finding | None:
    size, asked = len(answer.ranking.documents), answer.ranking.top_n
    indices = [index for index, _ in answer.rows]
    if strange := [index for index in indices if not 0 <= index < size]:
        return Finding("fail", f"wrong indices: {strange[0]} of {size} documents", _REWRITTEN)
    if len(set(indices)) < len(indices):
        return Finding("fail", f"duplicated indices: {sorted(indices)} for {size} documents", _REWRITTEN)
    if len(indices) > asked:
        detail = f"top_n ignored: {asked} documents asked for, {len(indices)} came back"
        return Finding("fail", detail, _REWRITTEN)
    if len(indices) < asked:
        return Finding("fail", f"documents lost: {asked} went out, {len(indices)} came back", _REWRITTEN)
    return None


def _not_finite(answer: Answer) -> Finding | None:
    return None if all(map(math.isfinite, answer.told)) else _not_a_number()


def _not_a_number() -> Finding:
    remedy = 'set dtype = "float32" under [reranker], then: ragops up'
    return Finding("fail", "NaN: the model's arithmetic overflows", remedy)


def _apart(expected: Expected) -> Finding:
    detail = "cosine of a generative model: query and documents are read apart, each on its own"
    if not expected.template:
        return Finding("fail", "query and documents are read apart: served as an embedding model", _RELAUNCH)
    remedy = f"--hf-overrides is missing (vLLM reads no VLLM_HF_OVERRIDES): {_RELAUNCH}"
    return Finding("fail", detail, remedy)


def _template(seen: Transcript, tokens: int) -> Finding:
    wanted = sum(seen.counts[-len(PAIR) :])
    remedy = f"give vLLM the packaged template: {_RELAUNCH}"
    if tokens != wanted:
        detail = f"template is not the model card's: {tokens} tokens instead of {wanted} for two pairs"
        return Finding("fail", detail, remedy)
    if not seen.direct:
        return Finding("ok", f"{wanted} tokens for two pairs, as with the model card's template")
    moved = _apart_most(seen.of("pair")[0].scores, seen.direct)
    if moved > ROUNDING:
        detail = (
            f"template is not the model card's: as long, but scores are {moved:.3f} from the card's prompt"
        )
        return Finding("fail", detail, f"one newline at the end instead of two? {remedy}")
    return Finding(
        "ok", f"{wanted} tokens for two pairs, scores within {moved:.4f} of the model card's prompt"
    )


def _unsteady(seen: Transcript, before: Answer, after: Answer, moved: float) -> Finding:
    if all(_falls(answer) for answer in seen.answers):
        return Finding("fail", "input order: documents come back as they went out", _REWRITTEN)
    if _same_numbers(before, after):
        detail = f"shuffled: a document gets another's score, {moved:.3f} from its own"
        return Finding("fail", detail, f"indices are mixed up; {_REWRITTEN}")
    if after.ranking.purpose == "again":
        detail = f"random: the same question gives scores that differ by {moved:.3f}"
        return Finding("fail", detail, f"the scoring head holds random weights: {_RELAUNCH}")
    detail = f"a document's score moves by {moved:.3f} with its place and its neighbours"
    return Finding("fail", detail, "this model reads documents together, or its server is broken")


def _not_best(before: Answer, answer: Answer) -> Finding | None:
    best = sorted(before.scores, reverse=True)[answer.ranking.top_n - 1]
    if any(before.scores[index] < best - ROUNDING for index, _ in answer.rows):
        return Finding("fail", "top_n cuts before sorting: the best documents are left out", _REWRITTEN)
    return None


def _disordered(found: Measures, judged: Sequence[Judged], detail: str) -> Finding:
    if found.accuracy <= 1 - NEEDED:
        remedy = f'classifier_from_token is ["no", "yes"], in this order; {_RELAUNCH}'
        return Finding("fail", f"upside down, wrong documents come first: {detail}", remedy)
    if found.spread < NARROW:
        remedy = f"hidden states are compared, nothing is judged: serve a reranker, {_RELAUNCH}"
        told = f"cosine of a generative model, all scores alike (spread {found.spread:.3f})"
        return Finding("fail", f"{told}: {detail}", remedy)
    floor = accuracy(word_overlap(one.item) for one in judged)
    if found.accuracy < min(floor, 0.65):
        remedy = f"the scoring head is random, or its weights were not loaded: {_RELAUNCH}"
        return Finding("fail", f"random, no better than chance: {detail}", remedy)
    remedy = "the model is not a trained reranker for this language: name another under [reranker]"
    return Finding("fail", f"hardly better than shared words: {detail}", remedy)


def _figures(found: Measures, judged: Sequence[Judged], expected: Expected) -> str:
    floor = accuracy(word_overlap(one.item) for one in judged)
    where = "" if expected.languages != ("en",) else " in English"
    return (
        f"pairwise accuracy {found.accuracy:.2f} on {found.queries} queries{where} "
        f"(needs {NEEDED:.2f}; chance 0.50, shared words {floor:.2f}), nDCG@10 {found.ndcg:.2f}, "
        f"MRR {found.mrr:.2f}, separation {found.separation:.3f} ({found.deviations:.1f} SD)"
    )


def _falls(answer: Answer) -> bool:
    told = [score for _, score in sorted(answer.rows)]
    return all(one >= other for one, other in pairwise(told))


def _same_numbers(before: Answer, after: Answer) -> bool:
    rest = sorted(after.scores)
    pairs = ((one, min(rest, key=lambda other: abs(other - one))) for one in before.scores)
    return all(abs(one - other) <= _SAME for one, other in pairs)


def _apart_most(some: Sequence[float], others: Sequence[float]) -> float:
    return max(abs(one - other) for one, other in zip(some, others, strict=True))


def _width(scores: Sequence[float]) -> float:
    return max(scores) - min(scores)
