"""The rule of the score gate on reading: all of a text counts, in any script; pure.

The rule of the score gate on steadiness: a score belongs to its document alone; pure.

The rules of the score gate: each looks for one family of faults and names the one it finds; pure.

``steady.py`` and ``reading.py`` have one each of their own.

The limits were set from measurements, which ``data/golden/measured.json`` holds.

From inside RAGFlow's container: are the reranker's scores right?

:func:`judge` is pure: a transcript in, checks with the named cause and its remedy out. Whichever
check fails first is the cause; those after it are skipped, because they would only show its effects.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ragops.checks import Check
from ragops.checks.measures import accuracy, by_language, concordance, measure, word_overlap
from ragops.checks.probe import Round, ask_all
from ragops.checks.questions import (
    FEWEST,
    LETTERS,
    LETTERS_BARE,
    MANY,
    PAIR,
    QUERY,
    pair_prompts,
    plan,
    questions,
    read,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ragops.checks import Status
    from ragops.checks.measures import Judged, Measures
    from ragops.checks.questions import Answer, Expected, Plan, Transcript
    from ragops.docker.engine import Engine
    from ragops.ragflow.discovery import RagflowContainer
    from ragops.reranker.model import Kind

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


_EQUAL_SCORES = 0.005
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
    return all(abs(one - other) <= _EQUAL_SCORES for one, other in pairs)


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


LAYERS: tuple[tuple[str, Callable[[Expected, Transcript], Finding]], ...] = (
    ("scores are well formed", formed),
    ("scores stay the same", steady),
    ("prompt is the model's", prompted),
    ("scores are in range", ranged),
    ("documents are read whole", whole),
    ("right documents come first", order),
    ("the question counts", heard),
    ("as RAGFlow sends them", ragflow_form),
)
"""The checks and their rules, in the order in which one explains the next."""

AT_ONCE = 4
"""Questions under way at a time: a small model's server spends more on a call than on its documents."""

SECONDS = 60.0
"""Time for the questions that the rules need; where it is not enough, the order is not judged."""

SPARE, HURRIED = 10.0, 2.0
"""Time for the others, and for them where the calls of the budget are left out, which take longer than all of
them: a server that is fast answers all, a slow one is not kept busy."""

_WHOLE = 3600.0


def check(
    engine: Engine,
    found: RagflowContainer,
    image: str,
    url: str,
    expected: Expected,
    *,
    full: bool = False,
) -> list[Check]:
    """Ask from inside one RAGFlow container and judge the answers.

    Args:
        engine: Where the container runs.
        found: The container; it must be running and reach the reranker.
        image: An image with Python, for a container that has none.
        url: The reranker's address as RAGFlow has it, ending in ``/v1``.
        expected: How the reranker was launched.
        full: The whole golden set, however long it takes, instead of a fixed part of it.

    Raises:
        EngineError: Nothing can be run in the container.
    """
    return judge(expected, ask(engine, found.name, image, url, expected, full=full), found.name)


def ask(
    engine: Engine, container: str, image: str, url: str, expected: Expected, *, full: bool = False
) -> Transcript:
    """Ask all questions from inside a container; the arguments are those of :func:`check`."""
    asked = plan(expected, full=full)
    return read(asked, ask_all(engine, container, image, url, sent(expected, asked, url, full=full)))


def sent(
    expected: Expected, asked: Plan, url: str, *, full: bool = False, spare: float | None = None
) -> Round:
    """A plan as the questions that go to a reranker.

    Args:
        expected: As in :func:`check`.
        asked: What is asked.
        url: As in :func:`check`.
        full: As in :func:`check`.
        spare: Seconds for the questions that only make an order surer; :data:`SPARE` when left out.
    """
    every = questions(expected, asked, urlsplit(url).path)
    if full:
        return Round(every, _WHOLE, at_once=AT_ONCE)
    spared = len(asked.rankings) - asked.needed
    return Round(
        every, SECONDS, at_once=AT_ONCE, needed=len(every) - spared, spare=SPARE if spare is None else spare
    )


def judge(expected: Expected, seen: Transcript, where: str = "") -> list[Check]:
    """Checks from what was asked and answered.

    Args:
        expected: How the reranker was launched.
        seen: The answers.
        where: The container that asked.
    """
    checks: list[Check] = []
    for name, rule in LAYERS:
        if any(one.status == "fail" for one in checks):
            finding = Finding("skip", "a check above failed")
        else:
            finding = rule(expected, seen)
        checks.append(Check(name, finding.status, finding.detail, finding.remedy, where))
    return checks
