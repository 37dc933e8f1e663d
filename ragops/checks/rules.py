"""Score check: are a reranker's scores right, and if not, why; the rules are pure.

``questions.py`` has the requests and parses the responses, ``golden.py`` the measures of an order.
Each rule looks for one kind of fault. The first that fails names the cause; those after it are skipped, as
they would only show its effects. The limits come from measurements in ``benchmarks/data/golden.json``.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import pstdev
from urllib.parse import urlsplit

from ragops.checks import Check, Status, questions
from ragops.checks.golden import ScoredItem, accuracy, by_language, concordance, word_overlap
from ragops.checks.probe import STRICT, Batch, send_batch
from ragops.checks.questions import Expected, RequestPlan, RerankResult, Results
from ragops.docker.engine import Engine

NEEDED = 0.80
"""Pairwise accuracy that a trained reranker reaches; five standard deviations above chance."""
SURE = 0.85
"""The same for fewer than :data:`~ragops.checks.questions.MANY` queries: three standard deviations above what
chance and a generative model's cosines reach on twelve."""
NEEDED_IN_EACH = 0.70
"""The same in each language alone, where a model was trained in several; fewer queries, so less certain."""
FEWEST_IN_EACH = 6
"""Golden queries of a language below which it is not judged alone."""
ROUNDING = 0.02
"""Most that bfloat16 moves a score when the other documents of a request change."""
ROUNDING_LOGIT = 0.5
"""The same for the logit of a score, where a trained model is so sure that its scores hardly differ."""
NARROW = 0.06
"""Standard deviation of all scores below which all texts look alike to the model."""

AT_ONCE = 4
"""Concurrent requests: a small model's server spends more time on a request than on its documents."""
SECONDS = 60.0
"""Time for the requests that the rules need; where it is not enough, the order is not judged."""
SPARE, HURRIED = 10.0, 2.0
"""Time for the other requests; ``HURRIED`` where RAGFlow's calls are not timed. A fast server responds to all
of them in that time, and a slow one is not kept busy."""
_FULL_SECONDS, FULL_TIMEOUT = 3600.0, 600.0
"""With ``--full``: of three documents of nearly ``max_model_len`` tokens, a slow server takes minutes."""

_EQUAL_SCORES = 0.005
"""Two scores are equal when they differ by less: absolute, or as a share of the larger."""
_EQUAL_COUNTED = 0.00002
"""The share, where the token count has already shown that nothing was cut off."""
_EXACT = 1e-6
_RANGE_MARGIN = 0.005
"""Beyond the range, for what bfloat16 rounds up."""
_WORD_CONCORDANCE = 0.70
"""Share of pairs ordered as shared words order them, from which on the words are what is scored."""
_STEP = 0.05
"""Scores that are all multiples of it were rounded, by more than bfloat16 moves them."""
_SPECIAL_TOKENS = 4
"""Tokens that a tokenizer may put around a pair or a text."""

REWRITTEN = "something between RAGFlow and vLLM rewrites responses: give RAGFlow the reranker's own address"
RELAUNCH = "start it as ragops does: ragops up"
QUERY_IGNORED = "the query is not read: another one gives the same documents the same scores"


@dataclass(frozen=True)
class Finding:
    """Result of one rule."""

    status: Status
    detail: str
    remedy: str = ""


def collect(
    engine: Engine, container: str, image: str, url: str, expected: Expected, *, full: bool = False
) -> Results:
    """Send the requests of the score check from inside a container that reaches the reranker.

    ``url`` is the reranker's address as RAGFlow has it, ending in ``/v1``. ``image`` is one with Python, for
    a container that has none. ``full`` is the whole golden set, however long it takes.
    """
    plan = questions.plan_requests(expected, full=full)
    requests = batch(expected, plan, url, full=full, spare=SPARE)
    return questions.parse_responses(plan, send_batch(engine, container, image, url, requests))


def batch(expected: Expected, plan: RequestPlan, url: str, *, full: bool, spare: float) -> Batch:
    """The requests of a plan with their time limits; with ``full`` all of them, however long they take.

    ``spare`` are the seconds for the requests that only make an order surer.
    """
    requests = questions.probe_requests(expected, plan, urlsplit(url).path)
    if full:
        return Batch(requests, _FULL_SECONDS, FULL_TIMEOUT, AT_ONCE, post_headers=STRICT)
    needed = len(requests) - (len(plan.calls) - plan.needed)
    return Batch(requests, SECONDS, at_once=AT_ONCE, needed=needed, spare=spare, post_headers=STRICT)


def check_scores(expected: Expected, results: Results) -> list[Check]:
    """Apply the rules; after the first that fails the others are skipped."""
    checks, failed = list[Check](), False
    for name, rule in RULES:
        finding = Finding("skip", "a check above failed") if failed else rule(expected, results)
        failed = failed or finding.status == "fail"
        checks.append(Check(name, finding.status, finding.detail, finding.remedy))
    return checks


def check_well_formed(_: Expected, results: Results) -> Finding:
    """Every document has one finite score of its own index, and the scores differ."""
    if not results.results:
        return Finding("fail", "no response to any request", "see the checks above: ragops status")
    for result in results.results:
        if finding := _request_failure(result) or _index_fault(result):
            return finding
        if not all(map(math.isfinite, result.returned)):
            return _not_a_number()
    scores = [score for result in results.results for score in result.returned]
    if all(_width(result.returned) < 1e-6 for result in results.results):
        remedy = f"the scoring head holds nothing: upgrade vLLM (0.11 converts some wrongly), {RELAUNCH}"
        return Finding("fail", f"constant scores: every document gets {scores[0]:.3f}", remedy)
    if all(abs(score) <= 1 and abs(score / _STEP - round(score / _STEP)) < 1e-6 for score in scores):
        detail = f"rounded: {len(set(scores))} different scores for {len(scores)} documents"
        return Finding("fail", detail, f"labels in place of probabilities? {REWRITTEN}")
    return Finding("ok", f"{len(results.results)} responses with {len(scores)} scores")


def check_determinism(expected: Expected, results: Results) -> Finding:
    """A document's score depends on query and document, not on request, position or other documents.

    A listwise model reads the documents of a request together: only a repeated request has the same scores.
    """
    if way := _rescaled(results):
        remedy = f"scores of two requests can't be compared; {REWRITTEN}"
        return Finding("fail", f"rescaled in each call: {way}", remedy)
    first = {result.call.item: result for result in results.of("golden")}
    largest = 0.0
    alone = expected.row.splits
    for result in (*results.of("again"), *(results.of("moved") if alone else ())):
        before = first[result.call.item]
        change = max_difference(before.scores, result.item_scores)
        if _moved(expected, before.scores, result.item_scores):
            return _score_change(results, before, result, change)
        largest = max(largest, change)
    for result in results.of("top"):
        before = first[result.call.item]
        limit = sorted(before.scores, reverse=True)[result.call.top_n - 1] - ROUNDING
        if any(before.scores[index] < limit for index, _ in result.rows):
            return Finding("fail", "top_n cuts before sorting: the best documents are left out", REWRITTEN)
    for result in results.of("wide") if alone else ():
        before = first[result.call.item]
        if finding := _long_call_fault(expected, before, result):
            return finding
        largest = max(largest, max_difference(before.scores, result.item_scores))
    beside = "repeated and beside other documents" if alone else "read together by this model; repeated,"
    return Finding("ok", f"{beside} they move by {largest:.4f} at most")


def check_prompt(expected: Expected, results: Results) -> Finding:
    """The server builds the prompt that the model was trained with, as its token counts show."""
    if expected.kind == "embedding":
        return Finding("skip", "an embedding model has no prompt")
    pair = results.of("pair")
    if not results.counts or not pair or pair[0].tokens < 0:
        return Finding("skip", "the server counts no tokens")
    query = results.tokens(questions.QUERY)
    tokens, alone = pair[0].tokens, query + results.tokens(*questions.PAIR)
    around = tokens - alone - query
    if alone <= tokens <= alone + 3 * _SPECIAL_TOKENS:
        detail, remedy = "query and documents are read apart: served as an embedding model", RELAUNCH
        if expected.template:
            detail = "cosine of a generative model: query and documents are read apart, each on its own"
            remedy = f"--hf-overrides is missing (vLLM reads no VLLM_HF_OVERRIDES): {RELAUNCH}"
        return Finding("fail", detail, remedy)
    if not expected.template:
        return Finding("ok", f"query and document together, {around} tokens around two pairs")
    if around <= 2 * _SPECIAL_TOKENS:
        detail = f"template missing: {tokens} tokens for two pairs, which are those of the texts alone"
        return Finding("fail", detail, f"--chat-template is not given to vLLM: {RELAUNCH}")
    return _check_template(expected, results, tokens)


def check_score_range(expected: Expected, results: Results) -> Finding:
    """Scores lie in the range of this kind of model."""
    lowest, highest = expected.row.lowest, expected.row.highest
    scores = [score for result in results.results for score in result.returned]
    least, most = min(scores), max(scores)
    possible = f"{lowest:g} to {highest:g} is possible"
    if lowest - _RANGE_MARGIN <= least and most <= highest + _RANGE_MARGIN:
        return Finding("ok", f"{least:.3f} to {most:.3f}, where {possible}")
    remedy = f"these are raw logits: no use_activation=false, no other overrides; {RELAUNCH}"
    return Finding("fail", f"outside the range: {least:.3f} to {most:.3f}, where {possible}", remedy)


def check_truncation(expected: Expected, results: Results) -> Finding:
    """The end and the beginning of a long document count, in any script."""
    if not (tail := results.of("tail")):
        return Finding("skip", "there was no time to send the request")
    remedy = "stop truncation of what the model takes: no truncate_prompt_tokens, max_tokens_per_doc"
    result, counted = tail[0], bool(results.counts) and tail[0].tokens >= 0
    sent = results.tokens(questions.QUERY, *result.call.documents)
    if counted and result.tokens < sent:
        return Finding("fail", f"truncated: {result.tokens} of {sent} tokens were read", remedy)
    words = len(result.call.documents[0].split())
    last, neither, first = result.scores
    for score, part in ((last, "last"), (first, "first")):
        if _equal(score, neither, counted=counted):
            detail = f"truncated: the {part} sentence of a document of {words} words changes no score"
            return Finding("fail", detail, remedy)
    for letters in results.of("letters"):
        whole, ascii_part = map(results.tokens, (questions.CHINESE_DOCUMENTS[0], questions.ASCII_PART))
        gone = bool(results.counts) and whole <= ascii_part
        if gone or _equal(*letters.scores, counted=True):
            detail = "characters are lost: documents that differ in Chinese alone get the same score"
            return Finding("fail", detail, f"the text must stay UTF-8 on its way; {REWRITTEN}")
    length = f"{words} words"
    if counted and expected.row.splits:
        length += f", {result.tokens // len(result.scores)} tokens with the query,"
    detail = f"the last sentence of a document of {length} moves its score by {abs(last - neither):.3f}"
    if words < questions.LONGEST < expected.max_tokens:
        detail += f"; longer ones, to {expected.max_tokens} tokens, only with --full"
    elif expected.trained and not first > neither < last:
        detail = f"a document of {length} with the answer scores no higher than one without it"
        remedy = "lower max_model_len under [reranker]: the model misjudges long documents"
        return Finding("warn", detail, remedy)
    return Finding("ok", detail)


def check_order(expected: Expected, results: Results) -> Finding:
    """Right documents of the golden set score higher than wrong ones."""
    items = results.scored("golden", expected.languages)
    if not expected.trained:
        return Finding("skip", f"no order to expect: {expected.substitute}")
    if len(items) < questions.FEWEST:
        return Finding("warn", f"too slow: responses to {len(items)} queries in time", "ragops verify --full")
    share, needed = accuracy(items), NEEDED if len(items) >= questions.MANY else SURE
    words = accuracy(word_overlap(scored.item) for scored in items)
    queries = f"{len(items)} queries" + (" in English" if expected.languages == ("en",) else "")
    limits = f"needs {needed:.2f}; chance 0.50, shared words {words:.2f}"
    detail = f"pairwise accuracy {share:.2f} on {queries} ({limits})"
    if lost := _lost_languages(items, expected):
        return Finding("fail", f"{lost}: {detail}", f"name a model for these languages; {REWRITTEN}")
    groups = by_language(results.scored("golden")).items()
    others = [(lang, accuracy(group)) for lang, group in groups if lang not in expected.languages]
    more = "".join(f"; {lang} {other:.2f}" for lang, other in others)
    if results.not_sent:
        more += f"; no time for {results.not_sent} more queries: ragops verify --full"
    if share >= needed:
        return Finding("ok", detail + more)
    if share >= NEEDED:
        return Finding("warn", f"inconclusive, too few queries: {detail}{more}", "ragops verify --full")
    return _wrong_order(results, share, items, detail)


def check_query_sensitivity(_: Expected, results: Results) -> Finding:
    """Another query gives the same documents other scores."""
    if not results.of("other"):
        return Finding("skip", "there was no time to send the request")
    if _ignores_query(results):
        remedy = f"responses come from a cache that looks at the documents alone; {REWRITTEN}"
        return Finding("fail", QUERY_IGNORED, remedy)
    return Finding("ok", "another query gives the same documents other scores")


def check_ragflow_form(expected: Expected, results: Results) -> Finding:
    """The same with documents as RAGFlow's tokenizer leaves them; at most a warning."""
    items = results.scored("ragflow", expected.languages)
    if not expected.trained or not items:
        return Finding("skip", "no order to expect" if items else "there was no time to send the requests")
    sent = {scored.item for scored in items}
    natural = [scored for scored in results.scored("golden") if scored.item in sent]
    after = f"pairwise accuracy {accuracy(items):.2f} on {len(items)} queries"
    detail = f"{after} in RAGFlow's stemmed form, {accuracy(natural):.2f} as written"
    if accuracy(items) >= NEEDED:
        return Finding("ok", detail)
    return Finding("warn", detail, "DOC_ENGINE=infinity keeps text as written (RAGFlow 0.23 and later)")


RULES: tuple[tuple[str, Callable[[Expected, Results], Finding]], ...] = (
    ("scores are well formed", check_well_formed),
    ("scores stay the same", check_determinism),
    ("prompt is the model's", check_prompt),
    ("scores are in range", check_score_range),
    ("documents are read whole", check_truncation),
    ("right documents come first", check_order),
    ("the query counts", check_query_sensitivity),
    ("as RAGFlow sends them", check_ragflow_form),
)
"""Names of the checks and their rules, in the order in which one explains the next."""


def max_difference(scores: Sequence[float], others: Sequence[float]) -> float:
    """The greatest difference between two lists of scores of the same documents."""
    return max(abs(score - other) for score, other in zip(scores, others, strict=True))


def _request_failure(result: RerankResult) -> Finding | None:
    if "Out of range float" in result.error:
        return _not_a_number()
    if not result.error:
        return None
    many = f" for {len(result.call.documents)} documents in one call" if result.call.purpose == "wide" else ""
    remedy = "ragops logs shows why the server refused the call"
    return Finding("fail", f"no scores{many}: {result.error}", remedy)


def _index_fault(result: RerankResult) -> Finding | None:
    documents, top_n = result.call.documents, result.call.top_n
    indices = [index for index, _ in result.rows]
    if wrong := [index for index in indices if not 0 <= index < len(documents)]:
        detail = f"wrong indices: {wrong[0]} of {len(documents)} documents"
    elif len(set(indices)) < len(indices):
        detail = f"duplicated indices: {sorted(indices)} for {len(documents)} documents"
    elif len(indices) > top_n:
        detail = f"top_n ignored: {top_n} documents requested, {len(indices)} came back"
    elif len(indices) == top_n:
        return None
    elif {documents[index] for index in indices} == set(documents):
        detail = f"equal documents are merged: {len(indices)} of {top_n} came back"
    else:
        detail = f"documents lost: {top_n} went out, {len(indices)} came back"
    return Finding("fail", detail, REWRITTEN)


def _not_a_number() -> Finding:
    remedy = 'set dtype = "float32" under [reranker], then: ragops up'
    return Finding("fail", "NaN: the model's arithmetic overflows", remedy)


def _rescaled(results: Results) -> str:
    """How scores are derived from the others of the same call; empty when they are not."""
    lists = [result.returned for result in results.results if result.call.purpose != "top"]
    if all(abs(max(scores) - 1) < _EXACT and abs(min(scores)) < _EXACT for scores in lists):
        return "the best document always gets 1, the worst 0"
    if all(abs(sum(scores) - 1) < len(scores) * _EXACT for scores in lists):
        return "they always sum to 1"
    return ""


def _score_change(results: Results, before: RerankResult, after: RerankResult, change: float) -> Finding:
    if all(list(result.scores) == sorted(result.scores, reverse=True) for result in results.results):
        return Finding("fail", "input order: documents come back as they went out", REWRITTEN)
    closest = [min(after.scores, key=lambda other: abs(other - score)) for score in before.scores]
    if max_difference(before.scores, closest) <= _EQUAL_SCORES:
        detail = f"shuffled: a document gets another's score, {change:.3f} from its own"
        return Finding("fail", detail, f"indices are mixed up; {REWRITTEN}")
    if after.call.purpose == "again":
        detail = f"random: the same request gives scores that differ by {change:.3f}"
        return Finding("fail", detail, f"the scoring head holds random weights: {RELAUNCH}")
    detail = f"a document's score moves by {change:.3f} with its place and its neighbours"
    return Finding("fail", detail, "this model reads documents together, or its server is broken")


def _moved(expected: Expected, scores: Sequence[float], others: Sequence[float]) -> bool:
    """Whether scores differ by more than rounding, or their logits do, where all of them are near 0 or 1."""
    logits = [[*map(_logit, scores)], [*map(_logit, others)]] if expected.row.lowest == 0 else [[0.0], [0.0]]
    return max_difference(scores, others) > ROUNDING or max_difference(*logits) > ROUNDING_LOGIT


def _long_call_fault(expected: Expected, before: RerankResult, result: RerankResult) -> Finding | None:
    remedy = f"long calls are split and put together wrongly; {REWRITTEN}"
    rows = zip(before.scores, result.item_scores, result.call.places, strict=True)
    moved = [(place, abs(old - new)) for old, new, place in rows if _moved(expected, [old], [new])]
    if moved:
        size, most = len(result.call.documents), max(change for _, change in moved)
        detail = f"a long call goes wrong: of {size} documents some get scores that are {most:.2g} off"
        return Finding("fail", f"{detail}, the first at place {moved[0][0] + 1}", remedy)
    scores: dict[str, float] = {}
    for document, score in zip(result.call.documents, result.scores, strict=True):
        if _moved(expected, [scores.setdefault(document, score)], [score]):
            detail = f"a long call goes wrong: equal documents get {scores[document]:.3g} and {score:.3g}"
            return Finding("fail", detail, remedy)
    return None


def _check_template(expected: Expected, results: Results, tokens: int) -> Finding:
    wanted = results.tokens(*questions.pair_prompts(expected))
    remedy = f"give vLLM the packaged template: {RELAUNCH}"
    if tokens != wanted:
        detail = f"template is not the model card's: {tokens} tokens instead of {wanted} for two pairs"
        return Finding("fail", detail, remedy)
    if not results.direct:
        return Finding("ok", f"{wanted} tokens for two pairs, as with the model card's template")
    scores = results.of("pair")[0].scores
    change = max_difference(scores, results.direct)
    if _moved(expected, scores, results.direct):
        detail = f"as long, but scores are {change:.2g} from the card's prompt"
        remedy = f"one newline instead of two, or query and document swapped? {remedy}"
        return Finding("fail", f"template is not the model card's: {detail}", remedy)
    detail = f"{wanted} tokens for two pairs, scores within {change:.4f} of the model card's prompt"
    return Finding("ok", detail)


def _logit(score: float) -> float:
    bounded = min(max(score, 1e-6), 1 - 1e-6)
    return math.log(bounded / (1 - bounded))


def _equal(score: float, other: float, *, counted: bool) -> bool:
    """Whether two scores are equal; relative, because a trained model's may both be tiny."""
    return abs(score - other) <= (_EQUAL_COUNTED if counted else _EQUAL_SCORES) * max(abs(score), abs(other))


def _lost_languages(items: Sequence[ScoredItem], expected: Expected) -> str:
    """Which languages come out wrong while others come out right; empty when it is all or none."""
    groups = by_language(items).items()
    pairs = [(lang, accuracy(group)) for lang, group in groups if len(group) >= FEWEST_IN_EACH]
    lost = [f"{lang} {value:.2f}" for lang, value in pairs if value < NEEDED_IN_EACH]
    if not lost or all(value < NEEDED for _, value in pairs) or len(expected.languages) < 2:
        return ""
    return f"languages are lost ({', '.join(lost)}, needs {NEEDED_IN_EACH:.2f} in each)"


def _wrong_order(results: Results, share: float, items: Sequence[ScoredItem], detail: str) -> Finding:
    if share <= 1 - NEEDED:
        remedy = f'classifier_from_token is ["no", "yes"], in this order; {RELAUNCH}'
        return Finding("fail", f"upside down, wrong documents come first: {detail}", remedy)
    scores = [score for scored in items for score in scored.scores]
    if (spread := pstdev(scores)) < NARROW and min(scores) > 1 / 2:
        remedy = f"hidden states are compared, nothing is judged: serve a reranker, {RELAUNCH}"
        cause = f"cosine of a generative model, all scores alike (spread {spread:.3f})"
        return Finding("fail", f"{cause}: {detail}", remedy)
    if _ignores_query(results):
        return Finding("fail", f"{QUERY_IGNORED}: {detail}", f"the query gets lost; {REWRITTEN}")
    words = concordance(items, [word_overlap(scored.item) for scored in items])
    if share < 0.65 and words < _WORD_CONCORDANCE:
        remedy = f"the scoring head is random, or its weights were not loaded: {RELAUNCH}"
        return Finding("fail", f"random, no better than chance: {detail}", remedy)
    remedy = "the model is not a trained reranker for this language: name another under [reranker]"
    return Finding("fail", f"hardly better than shared words: {detail}", remedy)


def _ignores_query(results: Results) -> bool:
    first = {result.call.item: result.scores for result in results.of("golden")}
    pairs = [(first[result.call.item], result.scores) for result in results.of("other")]
    return any(max_difference(before, after) <= 0.1 * _width(before) for before, after in pairs)


def _width(scores: Sequence[float]) -> float:
    return max(scores) - min(scores)
