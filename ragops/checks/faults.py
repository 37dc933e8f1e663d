"""The rules of the score gate: each looks for one family of faults and names the one it finds; pure.

``steady.py`` and ``reading.py`` have one each of their own.

The limits were set from measurements, which ``data/golden/measured.json`` holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragops.checks.measures import accuracy, by_language, concordance, measure, word_overlap
from ragops.checks.questions import FEWEST, MANY, pair_prompts
from ragops.checks.texts import PAIR, QUERY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ragops.checks import Status
    from ragops.checks.measures import Judged, Measures
    from ragops.checks.questions import Answer, Expected, Transcript
    from ragops.model import Kind

NEEDED = 0.80
"""Pairwise accuracy that a trained reranker reaches; five standard deviations above chance."""

SURE = 0.85
"""The same where fewer than :data:`~ragops.checks.questions.MANY` queries were answered: three standard
deviations above what chance and a generative model's cosines reach on twelve."""

NEEDED_IN_EACH = 0.70
"""The same in each language alone, where a model was trained in several; fewer queries, so less certain."""

ROUNDING = 0.02
"""Most that bfloat16 moves a score when the other documents of a request change."""

ROUNDING_LOGIT = 0.5
"""The same for the logit of a score, where a trained model is so sure that its scores hardly differ."""

NARROW = 0.06
"""Spread of all scores below which they are those of texts that all look alike to the model."""

FEWEST_IN_EACH = 6
"""Golden queries of a language below which it is not judged alone."""

_EDGE = 0.005
"""Beyond the range, for what bfloat16 rounds up."""
_WORDS = 0.70
"""Share of pairs ordered as shared words order them, from which on it is these that are counted."""
_STEP = 0.05
"""Scores that are all multiples of it were rounded, by more than bfloat16 moves them."""
_SPECIAL = 4
"""Tokens that a tokenizer may put around a pair or a text."""

RANGES: Mapping[Kind, tuple[float, float]] = {
    "qwen3-reranker": (0.0, 1.0),
    "qwen3-reranker-seq-cls": (0.0, 1.0),
    "cross-encoder": (0.0, 1.0),
    "embedding": (-1.0, 1.0),
}
"""Lowest and highest score of each kind of model."""

REWRITTEN = "something between RAGFlow and vLLM rewrites answers: give RAGFlow the reranker's own address"
RELAUNCH = "launch it as ragops does: ragops up"

UNHEARD = "the question is not read: another one gives the same documents the same scores"


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
        remedy = f"the scoring head holds nothing: upgrade vLLM (0.11 converts some wrongly), {RELAUNCH}"
        return Finding("fail", f"constant scores: every document gets {scores[0]:.3f}", remedy)
    if all(abs(one) <= 1 and abs(one / _STEP - round(one / _STEP)) < 1e-6 for one in scores):
        detail = f"rounded: {len(set(scores))} different scores for {len(scores)} documents"
        return Finding("fail", detail, f"labels in place of probabilities? {REWRITTEN}")
    return Finding("ok", f"{len(seen.answers)} answers with {len(scores)} scores")


def prompted(expected: Expected, seen: Transcript) -> Finding:
    """The server makes of each pair what the model was trained with, told by its token counts."""
    if expected.kind == "embedding":
        return Finding("skip", "an embedding model has no prompt")
    pair = seen.of("pair")
    if not seen.counts or not pair or pair[0].tokens < 0:
        return Finding("skip", "the server counts no tokens")
    query = seen.tokens(QUERY)
    tokens, alone = pair[0].tokens, query + seen.tokens(*PAIR)
    if alone <= tokens <= alone + 3 * _SPECIAL:
        return _apart(expected)
    if not expected.template:
        return Finding("ok", f"query and document together, {tokens - alone - query} tokens around two pairs")
    if tokens - alone - query <= 2 * _SPECIAL:
        detail = f"template missing: {tokens} tokens for two pairs, which are those of the texts alone"
        return Finding("fail", detail, f"--chat-template is not given to vLLM: {RELAUNCH}")
    return _template(expected, seen, tokens)


def ranged(expected: Expected, seen: Transcript) -> Finding:
    """Scores lie where the scores of this kind of model can lie."""
    lowest, highest = RANGES[expected.kind]
    scores = [score for answer in seen.answers for score in answer.told]
    least, most = min(scores), max(scores)
    possible = f"{lowest:g} to {highest:g} is possible"
    if lowest - _EDGE <= least and most <= highest + _EDGE:
        return Finding("ok", f"{least:.3f} to {most:.3f}, where {possible}")
    remedy = f"these are raw logits: no use_activation=false, no --pooler-config; {RELAUNCH}"
    return Finding("fail", f"outside the range: {least:.3f} to {most:.3f}, where {possible}", remedy)


def order(expected: Expected, seen: Transcript) -> Finding:
    """Right documents of the golden set score higher than wrong ones."""
    judged = seen.judged("golden", expected.languages)
    if not expected.trained:
        return Finding("skip", f"no order to expect: {expected.stand_in}")
    if len(judged) < FEWEST:
        return Finding("warn", f"too slow: {len(judged)} queries answered in time", "ragops verify --full")
    found = measure(judged)
    detail = _figures(found, judged, expected)
    if lost := _languages(judged, expected):
        return Finding("fail", f"{lost}: {detail}", f"name a model for these languages; {REWRITTEN}")
    others = [pair for pair in by_language(seen.judged("golden")) if pair[0] not in expected.languages]
    told = "".join(f"; {lang} {one.accuracy:.2f}" for lang, one in others)
    if seen.unasked:
        told += f"; no time for {seen.unasked} more questions: ragops verify --full"
    if found.accuracy >= _needed(found):
        return Finding("ok", detail + told)
    if found.accuracy >= NEEDED:
        return Finding("warn", f"too few queries to tell: {detail}{told}", "ragops verify --full")
    return _disordered(seen, found, judged, detail)


def heard(_: Expected, seen: Transcript) -> Finding:
    """Another question gives the same documents other scores."""
    if not seen.of("other"):
        return Finding("skip", "there was no time to ask")
    if unheard(seen):
        remedy = f"answers come from a cache that looks at the documents alone; {REWRITTEN}"
        return Finding("fail", UNHEARD, remedy)
    return Finding("ok", "another question gives the same documents other scores")


def unheard(seen: Transcript) -> bool:
    """Whether two questions on the same documents were answered alike."""
    first = {one.ranking.item: one.scores for one in seen.of("golden")}
    pairs = [(first[one.ranking.item], one.scores) for one in seen.of("other")]
    return any(apart_most(before, after) <= 0.1 * _width(before) for before, after in pairs)


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
        size = len(answer.ranking.documents)
        many = f" for {size} documents in one call" if answer.ranking.purpose == "wide" else ""
        return Finding(
            "fail", f"no scores{many}: {said}", "docker logs shows why the server refused the call"
        )
    return None


def _misplaced(answer: Answer) -> Finding | None:
    size, asked = len(answer.ranking.documents), answer.ranking.top_n
    indices = [index for index, _ in answer.rows]
    if strange := [index for index in indices if not 0 <= index < size]:
        return Finding("fail", f"wrong indices: {strange[0]} of {size} documents", REWRITTEN)
    if len(set(indices)) < len(indices):
        return Finding("fail", f"duplicated indices: {sorted(indices)} for {size} documents", REWRITTEN)
    if len(indices) > asked:
        detail = f"top_n ignored: {asked} documents asked for, {len(indices)} came back"
        return Finding("fail", detail, REWRITTEN)
    if len(indices) < asked and (merged := _merged(answer)):
        return Finding("fail", f"equal documents are merged: {merged} of {asked} came back", REWRITTEN)
    if len(indices) < asked:
        return Finding("fail", f"documents lost: {asked} went out, {len(indices)} came back", REWRITTEN)
    return None


def _merged(answer: Answer) -> int:
    """How many rows came back when it is one for each different document; else 0."""
    documents = answer.ranking.documents
    back = {documents[index] for index, _ in answer.rows}
    return len(answer.rows) if back == set(documents) else 0


def _not_finite(answer: Answer) -> Finding | None:
    return None if all(map(math.isfinite, answer.told)) else _not_a_number()


def _not_a_number() -> Finding:
    remedy = 'set dtype = "float32" under [reranker], then: ragops up'
    return Finding("fail", "NaN: the model's arithmetic overflows", remedy)


def _apart(expected: Expected) -> Finding:
    detail = "cosine of a generative model: query and documents are read apart, each on its own"
    if not expected.template:
        return Finding("fail", "query and documents are read apart: served as an embedding model", RELAUNCH)
    remedy = f"--hf-overrides is missing (vLLM reads no VLLM_HF_OVERRIDES): {RELAUNCH}"
    return Finding("fail", detail, remedy)


def _template(expected: Expected, seen: Transcript, tokens: int) -> Finding:
    wanted = seen.tokens(*pair_prompts(expected))
    remedy = f"give vLLM the packaged template: {RELAUNCH}"
    if tokens != wanted:
        detail = f"template is not the model card's: {tokens} tokens instead of {wanted} for two pairs"
        return Finding("fail", detail, remedy)
    if not seen.direct:
        return Finding("ok", f"{wanted} tokens for two pairs, as with the model card's template")
    moved = apart_most(seen.of("pair")[0].scores, seen.direct)
    if moved > ROUNDING or _logits_apart(seen.of("pair")[0].scores, seen.direct) > ROUNDING_LOGIT:
        detail = (
            f"template is not the model card's: as long, but scores are {moved:.2g} from the card's prompt"
        )
        return Finding("fail", detail, f"one newline instead of two, or query and document swapped? {remedy}")
    return Finding(
        "ok", f"{wanted} tokens for two pairs, scores within {moved:.4f} of the model card's prompt"
    )


def _languages(judged: Sequence[Judged], expected: Expected) -> str:
    """Which languages come out wrong while others come out right; empty when it is all or none."""
    told = [(lang, one.accuracy) for lang, one in by_language(judged) if one.queries >= FEWEST_IN_EACH]
    lost = [f"{lang} {one:.2f}" for lang, one in told if one < NEEDED_IN_EACH]
    read = [lang for lang, one in told if one >= NEEDED]
    if not lost or not read or len(expected.languages) < 2:
        return ""
    return f"languages are lost ({', '.join(lost)}, needs {NEEDED_IN_EACH:.2f} in each)"


def _disordered(seen: Transcript, found: Measures, judged: Sequence[Judged], detail: str) -> Finding:
    if found.accuracy <= 1 - NEEDED:
        remedy = f'classifier_from_token is ["no", "yes"], in this order; {RELAUNCH}'
        return Finding("fail", f"upside down, wrong documents come first: {detail}", remedy)
    if found.spread < NARROW and found.lowest > 1 / 2:
        remedy = f"hidden states are compared, nothing is judged: serve a reranker, {RELAUNCH}"
        told = f"cosine of a generative model, all scores alike (spread {found.spread:.3f})"
        return Finding("fail", f"{told}: {detail}", remedy)
    if unheard(seen):
        return Finding("fail", f"{UNHEARD}: {detail}", f"the question gets lost; {REWRITTEN}")
    words = concordance(judged, [word_overlap(one.item) for one in judged])
    if found.accuracy < 0.65 and words < _WORDS:
        remedy = f"the scoring head is random, or its weights were not loaded: {RELAUNCH}"
        return Finding("fail", f"random, no better than chance: {detail}", remedy)
    remedy = "the model is not a trained reranker for this language: name another under [reranker]"
    return Finding("fail", f"hardly better than shared words: {detail}", remedy)


def _needed(found: Measures) -> float:
    return NEEDED if found.queries >= MANY else SURE


def _figures(found: Measures, judged: Sequence[Judged], expected: Expected) -> str:
    floor = accuracy(word_overlap(one.item) for one in judged)
    where = "" if expected.languages != ("en",) else " in English"
    return (
        f"pairwise accuracy {found.accuracy:.2f} on {found.queries} queries{where} "
        f"(needs {_needed(found):.2f}; chance 0.50, shared words {floor:.2f}), nDCG@10 {found.ndcg:.2f}, "
        f"MRR {found.mrr:.2f}, separation {found.separation:.3f} ({found.deviations:.1f} SD)"
    )


def apart_most(some: Sequence[float], others: Sequence[float]) -> float:
    """The greatest difference between two lists of scores of the same documents."""
    return max(abs(one - other) for one, other in zip(some, others, strict=True))


def _logits_apart(some: Sequence[float], others: Sequence[float]) -> float:
    return apart_most([_logit(one) for one in some], [_logit(one) for one in others])


def _logit(score: float) -> float:
    sure = min(max(score, 1e-6), 1 - 1e-6)
    return math.log(sure / (1 - sure))


def _width(scores: Sequence[float]) -> float:
    return max(scores) - min(scores)
