"""The score gate believes a healthy reranker and no scorer, and names the cause."""

import dataclasses
import json
import math
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import get_args

import jinja2
import pytest

from benchmarks.calibrate import check_seeds, check_stub, results_of
from ragops.checks import golden, probe, questions, rules
from ragops.checks import questions as texts
from ragops.checks.golden import (
    ScoredItem,
    accuracy,
    by_language,
    concordance,
    word_overlap,
)
from ragops.checks.probe import ProbeResponse
from ragops.checks.questions import Expected
from ragops.configuration import Ragflow
from ragops.docker.objects import ExecResult
from ragops.errors import EngineError
from ragops.ragflow import discovery
from ragops.ragflow.request import RerankRequest
from ragops.reranker import architectures
from tests.support import faulty_scorers
from tests.support.faulty_scorers import Scale
from tests.support.stub import Behaviour, StubReranker

MINILM = Expected("stub-reranker", "embedding", 256, "a real bi-encoder")
CROSS = Expected("stub-reranker", "cross-encoder", 512)
QWEN = Expected("stub-reranker", "qwen3-reranker", 8192)
PROMPTED = [Expected("m", row.kind, 8192) for row in architectures.SERVED if row.template]
INSTRUCTED = Expected("m", "qwen3-reranker", 8192, "", 'say "yes" \\ {{ query }} {%- x -%} # -%} \U0001f40d')
LISTWISE = Expected("stub-reranker", "jina-reranker-v3", 16384)
RANDOM = Expected("stub-reranker", "qwen3-reranker", 8192, "random weights")
CAUSES = {
    "lexical": ("right documents come first", "hardly better than shared words"),
    "constant": ("scores are well formed", "constant scores"),
    "shuffled": ("scores stay the same", "shuffled"),
    "random": ("right documents come first", "random, no better than chance"),
    "noise": ("scores stay the same", "random: the same request"),
    "logits": ("scores are in range", "outside the range"),
    "input-order": ("scores stay the same", "input order"),
    "truncated": ("documents are read whole", "tokens were read"),
    "truncated-quietly": ("documents are read whole", "changes no score"),
    "top-n": ("scores are well formed", "top_n ignored"),
    "indices": ("scores are well formed", "wrong indices"),
    "duplicates": ("scores are well formed", "duplicated indices"),
    "nan": ("scores are well formed", "NaN"),
    "generative": ("right documents come first", "cosine of a generative model"),
    "inverted": ("right documents come first", "upside down"),
    "neighbours": ("scores stay the same", "neighbours"),
    "rescaled": ("scores stay the same", "rescaled in each call: the best document always gets 1"),
    "softmax": ("scores stay the same", "rescaled in each call: they always sum to 1"),
    "beheaded": ("documents are read whole", "tokens were read"),
    "ascii": ("documents are read whole", "characters are lost"),
    "ranks": ("scores stay the same", "input order"),
    "capped": ("scores are well formed", "documents lost: 70 went out, 10 came back"),
    "deduplicated": ("scores are well formed", "equal documents are merged: 69 of 70"),
    "batched": ("scores stay the same", "a long call goes wrong"),
    "partly": ("scores stay the same", "a long call goes wrong"),
    "rounded": ("scores are well formed", "rounded: "),
    "blind": ("right documents come first", "the query is not read"),
    "cached": ("the query counts", "the query is not read"),
    "swapped": ("right documents come first", "hardly better than shared words"),
    "foreign": ("right documents come first", "no better than chance"),
}
WITH_A_PROMPT = {
    "swapped": ("prompt is the model's", "query and document swapped"),
    "foreign": ("right documents come first", "languages are lost (en 0."),
}
"""The same, where the model has a prompt and was trained in several languages."""


def healthy(expected):
    return Behaviour(scorer="healthy", prompt="card" if expected.template else "none")


def failure(checks):
    """The one check that fails; those after it are skipped."""
    failed = [place for place, one in enumerate(checks) if one.status == "fail"]
    assert len(failed) == 1, checks
    assert all(one.status == "skip" for one in checks[failed[0] + 1 :])
    return checks[failed[0]]


def item(*kinds, lang="en"):
    documents = tuple(golden.Document(f"t{n}", f"text {n}", kind) for n, kind in enumerate(kinds))
    return golden.Item(f"{lang}-00", lang, "faq", "query", documents)


class TestMeasures:
    ONE = ScoredItem(item("hard", "right", "other"), (0.5, 0.4, 0.1))
    TWO = ScoredItem(item("right", "right", "hard", "other"), (0.9, 0.2, 0.3, 0.2))

    def test_accuracy_is_the_share_of_pairs(self):
        assert accuracy([self.ONE]) == 1 / 2
        assert accuracy([self.TWO]) == (1 + 1 + 0 + 0.5) / 4
        assert accuracy([self.ONE, self.TWO]) == 3.5 / 6

    def test_a_constant_gets_what_chance_gets(self):
        assert accuracy([ScoredItem(item("right", "hard", "other"), (0.5, 0.5, 0.5))]) == 0.5

    def test_concordance(self):
        alike = ScoredItem(item("right", "hard", "other"), (0.9, 0.5, 0.1))
        assert concordance([alike], [alike]) == 1
        assert concordance([alike], [dataclasses.replace(alike, scores=(0, 1, 2))]) == 0
        assert concordance([alike], [dataclasses.replace(alike, scores=(1, 1, 0))]) == (0.5 + 1 + 1) / 3

    def test_by_language(self):
        german = ScoredItem(item("right", "hard", lang="de"), (0.1, 0.2))
        assert [*by_language([german, self.ONE]).items()] == [("en", [self.ONE]), ("de", [german])]

    def test_word_overlap_counts_rare_words_more(self):
        one = dataclasses.replace(item("right", "hard"), query="zebra is the")
        documents = (golden.Document("", "a zebra", "right"), golden.Document("", "is it", "hard"))
        zebra, common = word_overlap(dataclasses.replace(one, documents=documents)).scores
        assert 1 > zebra > common > 0


class TestQuestions:
    @pytest.mark.parametrize("expected", [MINILM, CROSS, QWEN], ids=lambda one: one.kind)
    def test_ask_what_the_rules_need(self, expected):
        asked = questions.plan_requests(expected)
        purposes = [one.purpose for one in asked.calls]
        assert set(get_args(questions.Purpose)) == set(purposes)
        quick = {one.item for one in asked.calls if one.purpose == "golden"}
        assert len(quick) == 24
        assert {one.lang for one in quick} == set(expected.languages)

    @pytest.mark.parametrize("expected", [MINILM, CROSS, QWEN], ids=lambda one: one.kind)
    def test_what_every_rule_needs_comes_first(self, expected):
        asked = questions.plan_requests(expected)
        needed, others = asked.calls[: asked.needed], asked.calls[asked.needed :]
        langs = [one.item.lang for one in needed if one.purpose == "golden"]
        assert len(langs) == questions.FEWEST
        assert {langs.count(lang) for lang in expected.languages} == {len(langs) // len(expected.languages)}
        assert {one.purpose for one in others} == {"golden", "ragflow"}
        as_sent = [one.item.lang for one in others if one.purpose == "ragflow"]
        assert set(as_sent) == set(expected.languages)
        assert len(as_sent) == 6

    def test_full_asks_everything(self):
        asked = questions.plan_requests(MINILM, full=True).calls
        for purpose in ("golden", "again", "moved", "ragflow"):
            assert [one.item for one in asked if one.purpose == purpose] == list(golden.load())

    def test_moved_documents_are_found_again(self):
        moved = [one for one in questions.plan_requests(QWEN, full=True).calls if one.purpose == "moved"]
        for one in moved:
            assert tuple(one.documents[place] for place in one.places) == one.item.texts()
            assert len(set(one.documents)) == len(one.item.documents) + questions.ADDED
            assert one.places == tuple(sorted(one.places, reverse=True))

    def test_requests_are_ragflows_own(self):
        asked = questions.plan_requests(MINILM)
        sent = questions.probe_requests(MINILM, asked, "/v1")
        counted = len(asked.counted)
        assert {one.path for one in sent[:counted]} == {"/tokenize"}
        assert {one.path for one in sent[counted:]} == {"/v1/rerank"}
        body = json.loads(sent[counted].body)
        assert list(body) == ["model", "query", "documents", "top_n", "return_documents"]

    def test_long_documents_fit_the_model_and_differ_at_one_end(self):
        for expected in (MINILM, CROSS, QWEN):
            last, neither, first = questions.tail_documents(expected)
            size = len(last.split()) * 1.2 + len(texts.QUERY.split()) + (80 if expected.template else 0)
            assert 0.6 * min(expected.max_tokens, texts.LONGEST) < size < expected.max_tokens
            assert last.rpartition(". ")[0] == neither.rpartition(". ")[0]
            assert first.partition(". ")[2] == neither.partition(". ")[2]
            assert len({last, neither, first}) == 3

    def test_with_full_documents_are_nearly_as_long_as_the_server_takes_them(self):
        for expected in (QWEN, INSTRUCTED, dataclasses.replace(QWEN, max_tokens=16384)):
            words = len(questions.tail_documents(expected, full=True)[0].split())
            assert 0.9 * expected.max_tokens < words * 1.2 + 100 < expected.max_tokens
        together = sum(len(text.split()) for text in questions.tail_documents(LISTWISE, full=True))
        assert together * 1.2 < LISTWISE.max_tokens

    def test_letters_differ_in_chinese_alone(self):
        bare = {text.encode("ascii", "ignore").decode() for text in texts.CHINESE_DOCUMENTS}
        asked = {text.encode("ascii", "replace") for text in texts.CHINESE_DOCUMENTS}
        assert bare == {texts.ASCII_PART}
        assert len(asked) == 1

    def test_a_long_call_has_a_querys_documents_all_over_it_and_one_twice(self):
        wide = next(one for one in questions.plan_requests(MINILM).calls if one.purpose == "wide")
        own = wide.item.texts()
        assert len(wide.documents) == wide.top_n == questions.WIDE
        assert tuple(wide.documents[place] for place in wide.places) == own
        assert min(wide.places) < 10
        assert max(wide.places) > 50
        assert len(set(wide.documents)) == questions.WIDE - 1
        assert wide.documents[-1] == own[-1]

    def test_the_other_question_is_of_another_field(self):
        other = next(one for one in questions.plan_requests(MINILM).calls if one.purpose == "other")
        asked = next(one for one in golden.load() if one.query == other.query)
        assert other.documents == other.item.texts()
        assert asked.domain != other.item.domain
        assert not {one.text for one in asked.documents if one.right} & {
            one.text for one in other.item.documents
        }

    @pytest.mark.parametrize("pair", [("a query", "a document"), ("", ""), ("{{ query }}", "\\1 {x}\n\n")])
    @pytest.mark.parametrize("expected", [*PROMPTED, INSTRUCTED], ids=lambda one: one.instruction or one.kind)
    def test_prompt_is_what_vllm_renders(self, pair, expected):
        template = jinja2.Environment(autoescape=False, trim_blocks=True, lstrip_blocks=True)  # noqa: S701
        messages = [{"role": role, "content": text} for role, text in zip(("query", "document"), pair)]  # noqa: B905
        wanted = template.from_string(expected.template).render(messages=messages)
        assert texts.render_prompt(expected.template, *pair) == wanted
        assert all(text in wanted for text in pair)
        assert f"<Instruct>: {expected.instruction}\n" in wanted or not expected.instruction

    def test_the_prompt_ends_where_the_score_is_read(self):
        ends = {
            "qwen3-reranker": "assistant\n<think>\n\n</think>\n\n",
            "qwen3-reranker-seq-cls": "assistant\n<think>\n\n</think>\n\n",
            "zerank": "d<|im_end|>\n<|im_start|>assistant\n",
            "mxbai-rerank-v2": "Relevance:<|im_end|>\n<|im_start|>assistant\n",
            "ctxl-rerank": "<Document> d\n<Query> q ??",
            "bge-reranker-v2-gemma": "either 'Yes' or 'No'.",
        }
        for one in PROMPTED:
            assert texts.render_prompt(one.template, "q", "d").endswith(ends[one.kind])

    def test_only_some_kinds_have_a_template(self):
        assert MINILM.template == CROSS.template == ""
        assert QWEN.languages == golden.LANGUAGES
        assert CROSS.languages == ("en",)


def said(*replies, expected=MINILM):
    """A transcript of a plan with one ranking of two documents, and nothing counted."""
    one = questions.RerankCall("pair", "q", ("a", "b"), 2)
    asked = questions.RequestPlan((), (), (one,) * max(1, len(replies)), len(replies))
    return rules.check_scores(expected, questions.parse_responses(asked, dict(enumerate(replies))))


def results(*pairs, **more):
    rows = [{"index": index, "relevance_score": score} for index, score in pairs]
    return ProbeResponse(200, json.dumps({"results": rows, **more}))


class TestReplies:
    @pytest.mark.parametrize(
        ("reply", "detail"),
        [
            (ProbeResponse(0, "timed out"), "no scores: timed out"),
            (ProbeResponse(404, '{"detail":"Not Found"}'), "no scores: HTTP 404"),
            (ProbeResponse(500, "Out of range float values are not JSON compliant"), "NaN"),
            (ProbeResponse(200, "<html>"), "not the expected JSON"),
            (ProbeResponse(200, "[]"), "not the expected JSON"),
            (ProbeResponse(200, '{"results": null}'), "not the expected JSON"),
            (ProbeResponse(200, '{"results": [{"index": 0}]}'), "not the expected JSON"),
            (results((0, None), (1, 0.5)), "NaN"),
            (results((0, math.nan), (1, 0.5)), "NaN"),
            (results((0, math.inf), (1, 0.5)), "NaN"),
            (results((0, 0.5)), "documents lost: 2 went out, 1 came back"),
            (results(), "documents lost"),
            (results((0, 0.5), (2, 0.4)), "wrong indices: 2 of 2"),
            (results((-1, 0.5), (1, 0.4)), "wrong indices: -1"),
            (results((1, 0.5), (1, 0.4)), "duplicated indices"),
            (results((1, 0.5), (0, 0.5)), "constant scores: every document gets 0.500"),
        ],
    )
    def test_what_is_no_answer(self, reply, detail):
        found = failure(said(reply))
        assert found.name == "scores are well formed"
        assert detail in found.detail
        assert found.remedy

    def test_no_reply_at_all(self):
        assert "no response to any request" in failure(said()).detail

    def test_a_server_without_usage_or_tokenize_is_judged_by_its_scores(self):
        asked = questions.plan_requests(CROSS)
        replies = {
            place: ProbeResponse(404, "") if place < len(asked.counted) else without_usage(reply)
            for place, reply in stub_replies(CROSS, "healthy").items()
        }
        checks = rules.check_scores(CROSS, questions.parse_responses(asked, replies))
        assert [one.status for one in checks] == ["ok", "ok", "skip", *["ok"] * 5]

    def test_what_there_was_no_time_for_is_said(self):
        asked = questions.plan_requests(QWEN)
        replies = stub_replies(QWEN, "healthy")
        first = sum(one.purpose in {"pair", "tail", "letters"} for one in asked.calls)
        early = {place: replies[place] for place in range(len(asked.counted) + 1 + first + 12)}
        seen = questions.parse_responses(asked, early)
        assert seen.not_sent == len(asked.calls) - first - 12
        checks = rules.check_scores(QWEN, seen)
        assert [one.status for one in checks] == ["ok", "ok", "ok", "ok", "ok", "warn", "ok", "skip"]
        assert "too slow" in checks[5].detail


def stub_replies(expected, who):
    """The replies of a stub, as the in-container program passes them on."""
    behaviour = Behaviour(scorer=who, prompt="card" if expected.template else "none")
    with StubReranker(behaviour) as stub:
        return asked_by_program(stub.base_url, expected)


def asked_by_program(url, expected):
    sent = questions.probe_requests(expected, questions.plan_requests(expected), "/v1")
    order = {
        "base_url": url,
        "headers": {},
        **dataclasses.asdict(probe.Batch(sent, 60, timeout=5, at_once=4)),
    }
    program = (files("ragops.data") / "probe.py").read_text()
    done = run_program(program, json.dumps(order))
    return {
        one["place"]: ProbeResponse(one["status"], one["text"], one["ms"])
        for one in json.loads(done.stdout)["responses"]
    }


def run_program(program, order):
    argv = [sys.executable, "-S", "-c", program]
    return subprocess.run(argv, input=order, capture_output=True, text=True, check=True, env={})


def answered(ranking, *, upside_down):
    """Right documents first, or last."""
    told = [float(one.right is not upside_down) for one in ranking.item.documents]
    return questions.RerankResult(ranking, "", tuple(enumerate(told)))


def without_usage(reply):
    return ProbeResponse(reply.status, json.dumps({**json.loads(reply.text), "usage": None}))


class TestFaultyScorers:
    def test_all_are_tried(self):
        assert set(CAUSES) == set(faulty_scorers.FAULTY_SCORERS)

    @pytest.mark.parametrize("expected", [MINILM, CROSS, QWEN], ids=lambda one: one.kind)
    def test_the_healthy_one_is_accepted(self, expected):
        checks = check_stub(healthy(expected), expected)
        prompted = "skip" if expected is MINILM else "ok"
        assert [one.status for one in checks] == ["ok", "ok", prompted, *["ok"] * 5]

    @pytest.mark.parametrize("expected", [MINILM, CROSS, QWEN], ids=lambda one: one.kind)
    @pytest.mark.parametrize("who", faulty_scorers.FAULTY_SCORERS)
    def test_each_is_caught_and_its_cause_named(self, who, expected):
        found = failure(check_stub(dataclasses.replace(healthy(expected), scorer=who), expected))
        name, cause = (CAUSES | (WITH_A_PROMPT if expected is QWEN else {}))[who]
        assert found.name == name
        assert cause in f"{found.detail}; {found.remedy}"
        assert found.remedy

    @pytest.mark.parametrize("expected", [MINILM, CROSS, QWEN], ids=lambda one: one.kind)
    def test_a_slow_healthy_one_is_accepted(self, expected):
        checks = check_stub(healthy(expected), expected, needed=True)
        assert [one.status for one in checks[-3:]] == ["ok", "ok", "skip"]
        assert not [one for one in checks if one.status in {"warn", "fail"}]
        detail = next(one.detail for one in checks if one.name == "right documents come first")
        assert "on 12 queries" in detail
        assert "no time for 18 more queries: ragops verify --full" in detail

    @pytest.mark.parametrize("expected", [MINILM, CROSS, QWEN], ids=lambda one: one.kind)
    @pytest.mark.parametrize("who", faulty_scorers.FAULTY_SCORERS)
    def test_a_slow_one_is_caught_by_the_same_check(self, who, expected):
        found = failure(check_stub(dataclasses.replace(healthy(expected), scorer=who), expected, needed=True))
        assert found.name == (CAUSES | (WITH_A_PROMPT if expected is QWEN else {}))[who][0]

    def test_few_queries_that_come_out_near_the_limit_tell_nothing(self):
        """Two of twelve queries upside down."""
        asked = questions.plan_requests(MINILM)
        items = [one for one in asked.calls[: asked.needed] if one.purpose == "golden"]
        answers = [answered(one, upside_down=number in {3, 7}) for number, one in enumerate(items)]
        few = questions.Results(tuple(answers), not_sent=18)
        found = rules.check_order(MINILM, few)
        assert found.status == "warn"
        assert "inconclusive, too few queries: pairwise accuracy 0.8" in found.detail
        assert "on 12 queries in English (needs 0.85;" in found.detail
        assert found.remedy == "ragops verify --full"
        many = questions.Results(tuple(answers) * 2)
        assert rules.check_order(MINILM, many).status == "ok"

    @pytest.mark.parametrize("who", ["shuffled", "random", "noise", "nan", "generative", "blind"])
    def test_whatever_the_seed(self, who):
        found = check_seeds(who, MINILM, 10)
        assert found.caught == found.draws == 10
        assert found.checks == (CAUSES[who][0],)

    @pytest.mark.parametrize(
        ("prompt", "cause"),
        [
            ("none", "template missing: 74 tokens"),
            ("bare", "template missing: 74 tokens"),
            ("longer", "not the model card's: 170 tokens instead of 164"),
            ("newline", "as long, but scores are"),
            ("apart", "cosine of a generative model"),
        ],
    )
    def test_the_template_is_told_without_trained_weights(self, prompt, cause):
        found = failure(check_stub(Behaviour(scorer="healthy", prompt=prompt), RANDOM))
        assert found.name == "prompt is the model's"
        assert cause in found.detail

    def test_a_cross_encoder_served_as_an_embedding_model(self):
        found = failure(check_stub(Behaviour(scorer="healthy", prompt="apart"), CROSS))
        assert "served as an embedding model" in found.detail

    def test_random_weights_that_say_so_are_not_judged_by_their_order(self):
        behaviour = dataclasses.replace(healthy(RANDOM), scorer="random")
        checks = check_stub(behaviour, RANDOM)
        assert [one.status for one in checks] == [*["ok"] * 5, "skip", "ok", "skip"]
        assert "random weights" in checks[5].detail

    def test_the_ragflow_form_only_warns(self):
        seen = results_of(healthy(MINILM), MINILM)
        worse = tuple(
            dataclasses.replace(one, rows=tuple((index, 1 - score) for index, score in one.rows))
            if one.call.purpose == "ragflow"
            else one
            for one in seen.results
        )
        last = rules.check_scores(MINILM, dataclasses.replace(seen, results=worse))[-1]
        assert last.status == "warn"
        assert "pairwise accuracy 0.00" in last.detail

    @pytest.mark.parametrize("lost", ["zh", "de"])
    def test_a_language_that_is_lost_is_named(self, lost):
        seen = results_of(healthy(QWEN), QWEN)
        unread = tuple(
            dataclasses.replace(one, rows=tuple((index, 0.5 + index / 100) for index, _ in one.rows))
            if one.call.purpose == "golden" and one.call.item.lang == lost
            else one
            for one in seen.results
        )
        checks = rules.check_scores(QWEN, dataclasses.replace(seen, results=unread))
        assert accuracy(dataclasses.replace(seen, results=unread).scored("golden")) > rules.NEEDED
        assert f"languages are lost ({lost} 0." in failure(checks).detail

    def test_a_gateway_that_loses_characters_everywhere_is_told_by_its_counts(self):
        seen = results_of(healthy(CROSS), CROSS)
        counts = {**seen.counts, texts.CHINESE_DOCUMENTS[0]: seen.counts[texts.ASCII_PART]}
        found = failure(rules.check_scores(CROSS, dataclasses.replace(seen, counts=counts)))
        assert "characters are lost" in found.detail

    def test_a_model_that_reads_documents_together_is_accepted(self):
        """The same scores are a fault of any other model."""
        seen = results_of(Behaviour(scorer="neighbours"), LISTWISE)
        assert not [one for one in rules.check_scores(LISTWISE, seen) if one.status == "fail"]
        assert failure(rules.check_scores(CROSS, seen)).name == "scores stay the same"

    def test_another_instruction_is_another_prompt(self):
        seen = results_of(healthy(QWEN), QWEN)
        counts = dict(zip(questions.pair_prompts(INSTRUCTED), (200, 200), strict=True))
        seen = dataclasses.replace(seen, counts={**seen.counts, **counts})
        assert failure(rules.check_scores(INSTRUCTED, seen)).name == "prompt is the model's"

    def test_length_that_was_tried_is_reported(self):
        for full, longest in ((False, "to 8192 tokens, only with --full"), (True, "")):
            seen = results_of(healthy(QWEN), QWEN, full=full)
            found = rules.check_truncation(QWEN, seen)
            assert found.status == "ok"
            assert longest in found.detail
            assert (len(seen.of("tail")[0].call.documents[0].split()) > 6000) is full

    def test_a_long_document_with_the_answer_that_scores_lower_is_a_warning(self):
        seen = results_of(healthy(QWEN), QWEN, full=True)
        turned = tuple(
            dataclasses.replace(one, rows=tuple((index, 1 - score) for index, score in one.rows))
            if one.call.purpose == "tail"
            else one
            for one in seen.results
        )
        found = rules.check_truncation(QWEN, dataclasses.replace(seen, results=turned))
        assert (found.status, "no higher" in found.detail) == ("warn", True)

    @pytest.mark.parametrize("base", [1e-7, 1.0])
    def test_tiny_scores_of_a_sure_model_are_not_alike(self, base):
        """A trained cross-encoder gives 0.00001 to what is wrong."""
        seen = results_of(healthy(CROSS), CROSS)
        sure = tuple(
            dataclasses.replace(one, rows=tuple((index, base * score) for index, score in one.rows))
            if one.call.purpose in {"tail", "letters"}
            else one
            for one in seen.results
        )
        checks = rules.check_scores(CROSS, dataclasses.replace(seen, results=sure))
        assert [one for one in checks if one.status == "fail"] == []

    @pytest.mark.parametrize(("base", "status"), [(2e-4, "fail"), (1.05e-4, "ok")])
    def test_another_prompt_is_seen_where_a_trained_model_is_sure(self, base, status):
        """Scores of 0.0001 and 0.0002 are no rounding apart, but their logits are."""
        seen = results_of(healthy(QWEN), QWEN)
        pair = tuple(
            dataclasses.replace(one, rows=((0, base), (1, base))) if one.call.purpose == "pair" else one
            for one in seen.results
        )
        checks = rules.check_scores(QWEN, dataclasses.replace(seen, results=pair, direct=(1e-4, 1e-4)))
        assert checks[2].status == status

    def test_rows_in_any_order_are_accepted(self):
        """RAGFlow goes by the index; a gateway may sort as it likes."""
        seen = results_of(healthy(MINILM), MINILM)
        sorted_by_index = tuple(
            dataclasses.replace(one, rows=tuple(sorted(one.rows))) for one in seen.results
        )
        checks = rules.check_scores(MINILM, dataclasses.replace(seen, results=sorted_by_index))
        assert [one for one in checks if one.status == "fail"] == []

    def test_bfloat16_is_accepted(self):
        seen = results_of(healthy(QWEN), QWEN)
        chance = faulty_scorers.chance("bfloat16")
        rough = tuple(
            dataclasses.replace(
                one, rows=tuple((index, score + chance.uniform(-0.005, 0.005)) for index, score in one.rows)
            )
            for one in seen.results
        )
        checks = rules.check_scores(QWEN, dataclasses.replace(seen, results=rough))
        assert [one for one in checks if one.status == "fail"] == []

    def test_a_long_call_that_is_refused_is_told_by_its_length(self):
        seen = results_of(healthy(MINILM), MINILM)
        refused = tuple(
            dataclasses.replace(one, error="HTTP 503: queue is full", rows=())
            if one.call.purpose == "wide"
            else one
            for one in seen.results
        )
        found = failure(rules.check_scores(MINILM, dataclasses.replace(seen, results=refused)))
        assert "no scores for 70 documents in one call: HTTP 503: queue is full" in found.detail

    def test_equal_documents_that_score_otherwise(self):
        last = questions.WIDE - 1
        seen = results_of(healthy(MINILM), MINILM)
        apart = tuple(
            dataclasses.replace(one, rows=tuple((n, s + 0.2 * (n == last)) for n, s in one.rows))
            if one.call.purpose == "wide"
            else one
            for one in seen.results
        )
        found = failure(rules.check_scores(MINILM, dataclasses.replace(seen, results=apart)))
        assert "equal documents get" in found.detail

    def test_top_n_that_cuts_before_it_sorts(self):
        seen = results_of(healthy(MINILM), MINILM)
        worst = tuple(
            dataclasses.replace(one, rows=tuple(sorted(full_rows(seen, one), key=lambda row: row[1])[:2]))
            if one.call.purpose == "top"
            else one
            for one in seen.results
        )
        found = failure(rules.check_scores(MINILM, dataclasses.replace(seen, results=worst)))
        assert "top_n cuts before sorting" in found.detail


PUBLISHED = json.loads((Path(__file__).parents[1] / "data/scores.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row["model"].rpartition("/")[2])
class TestPublishedScores:
    """Scores that lie where a published model's do, healthy and of every fault; a row names its source."""

    def checks(self, row, who):
        scale = Scale(row["lowest"], row["highest"], row["squashed"])
        expected = CROSS if row["kind"] == "cross-encoder" else MINILM
        return check_stub(Behaviour(scorer=who, scale=scale), expected)

    def test_are_the_ends_of_the_scale(self, row):
        assert (min(row["published"]), max(row["published"])) == (row["lowest"], row["highest"])
        assert row["source"]

    def test_the_healthy_one_is_accepted(self, row):
        assert {check.status for check in self.checks(row, "healthy")} <= {"ok", "skip"}

    @pytest.mark.parametrize("who", faulty_scorers.FAULTY_SCORERS)
    def test_each_fault_is_caught_and_its_cause_named(self, row, who):
        found = failure(self.checks(row, who))
        name, cause = CAUSES[who]
        assert found.name == name
        assert cause in f"{found.detail}; {found.remedy}"


def full_rows(seen, answer):
    return next(one.rows for one in seen.of("golden") if one.call.item == answer.call.item)


def check(engine, ragflow, image, url, expected, **options):
    results = rules.collect(engine, ragflow.name, image, url, expected, **options)
    return rules.check_scores(expected, results)


class TestFromInside:
    @pytest.fixture
    def found(self, fake, ragflow):
        """RAGFlow's container, in which programs really run, with this machine's Python."""

        def respond(_box, argv, stdin):
            if argv[0] != "python3":
                return None
            done = run_program(argv[2], stdin)
            return ExecResult(done.returncode, done.stdout, done.stderr)

        fake.respond = respond
        return discovery.find(fake.containers(), Ragflow(containers=(ragflow,)))[0]

    @pytest.mark.parametrize("expected", [MINILM, QWEN], ids=lambda one: one.kind)
    def test_over_real_sockets(self, fake, found, expected):
        with StubReranker(healthy(expected)) as stub:
            checks = check(fake, found, "vllm-cpu:latest", stub.base_url, expected)
            calls = stub.calls
        assert not [one for one in checks if one.status in {"fail", "warn"}]
        assert len(calls) == len(questions.plan_requests(expected).calls)
        assert all(call.headers["authorization"] == "Bearer x" for call in calls)
        assert all(call.headers["prefer"] == "handling=strict" for call in calls)

    def test_nan_passes_the_wire(self, fake, found):
        with StubReranker(Behaviour(scorer="nan")) as stub:
            checks = check(fake, found, "vllm-cpu:latest", stub.base_url, MINILM)
        assert "NaN" in failure(checks).detail

    def test_a_server_that_is_gone(self, fake, found):
        with StubReranker() as stub:
            url = stub.base_url
        checks = check(fake, found, "vllm-cpu:latest", url, MINILM)
        assert "no response to any request" in failure(checks).detail

    def test_no_time_is_no_answer(self, fake, found):
        with StubReranker() as stub:
            sent = (probe.ProbeRequest("/tokenize", '{"prompt": "a b"}'),) * 3
            over, open_ = probe.Batch(sent, seconds=-1), probe.Batch(sent)
            told = probe.send_batch(fake, found.name, "vllm-cpu:latest", stub.base_url, over)
            more = probe.send_batch(fake, found.name, "vllm-cpu:latest", stub.base_url, open_)
        assert told == {}
        assert {place: json.loads(one.text)["count"] for place, one in more.items()} == {0: 2, 1: 2, 2: 2}

    def test_what_is_not_needed_is_asked_in_the_spare_time_alone(self, fake, found):
        with StubReranker() as stub:
            sent = (probe.ProbeRequest("/tokenize", '{"prompt": "a b"}'),) * 5
            told = [
                probe.send_batch(fake, found.name, "vllm-cpu:latest", stub.base_url, one)
                for one in (
                    probe.Batch(sent, at_once=2, needed=3, spare=-1),
                    probe.Batch(sent, at_once=2, needed=3, spare=20),
                    probe.Batch(sent, seconds=-1, at_once=2, needed=3, spare=20),
                )
            ]
        assert list(map(len, told)) == [3, 5, 0]

    def test_a_slow_server_is_asked_what_is_needed(self, fake, found, monkeypatch):
        monkeypatch.setattr(rules, "SPARE", 0.0)
        with StubReranker(healthy(MINILM)) as stub:
            checks = check(fake, found, "vllm-cpu:latest", stub.base_url, MINILM)
            asked = len(stub.calls)
            check(fake, found, "vllm-cpu:latest", stub.base_url, MINILM, full=True)
            every = len(stub.calls) - asked
        assert not [one for one in checks if one.status in {"fail", "warn"}]
        assert asked == questions.plan_requests(MINILM).needed
        assert every == len(questions.plan_requests(MINILM, full=True).calls)

    def test_a_container_without_python_gets_a_probe_beside_it(self, fake, found):
        inside = fake.respond
        fake.respond = lambda container, argv, stdin: (
            None if container.name == found.name else inside(container, argv, stdin)
        )
        with StubReranker(healthy(MINILM)) as stub:
            checks = check(fake, found, "vllm-cpu:latest", stub.base_url, MINILM)
        assert not [one for one in checks if one.status == "fail"]
        assert [one.name for one in fake.containers()] == [found.name]

    def test_a_container_that_stopped_is_an_error(self, fake, found):
        fake.stop(found.name)
        with pytest.raises(EngineError, match="is not running"):
            check(fake, found, "vllm-cpu:latest", "http://reranker:8000/v1", MINILM)


class TestMeasured:
    """The limits stand where the measurement says."""

    FOLDER = Path(__file__).parents[2] / "benchmarks/data"
    FOUND = json.loads((FOLDER / "golden.json").read_text(encoding="utf-8"))
    AMX = json.loads((FOLDER / "golden-amx.json").read_text(encoding="utf-8"))
    """In bfloat16, on a processor that computes in it; of the same English queries."""

    def test_limits_are_those_of_the_gate(self):
        told = {
            "accuracy": rules.NEEDED,
            "few": rules.SURE,
            "in_each": rules.NEEDED_IN_EACH,
            "rounding": rules.ROUNDING,
            "narrow": rules.NARROW,
        }
        assert self.FOUND["limits"] == told

    def test_the_healthy_model_is_far_above_and_chance_far_below(self):
        needed, resampled, random = rules.NEEDED, self.FOUND["resampled"], self.FOUND["random"]
        assert random["mean"] + 4 * random["deviation"] < needed < self.FOUND["accuracy"]
        assert random["most"] < needed
        assert self.FOUND["generative"]["most"] < needed
        assert self.FOUND["accuracy"] - 4 * resampled["deviation"] > needed
        assert self.FOUND["floor"] < needed

    def test_few_queries_still_tell_them_apart(self):
        needed, few = rules.SURE, self.FOUND["few"]
        assert few["queries"] == questions.FEWEST
        assert few["random"]["most"] < needed
        assert few["generative"]["most"] < needed
        assert few["random"]["mean"] + 3 * few["random"]["deviation"] < needed
        assert few["generative"]["mean"] + 3 * few["generative"]["deviation"] < needed
        assert few["accuracy"] - 3 * few["resampled"]["deviation"] > needed > few["floor"]

    def test_rounding_is_far_below_its_limit(self):
        moves = [one[name]["most"] for one in (self.FOUND, self.AMX) for name in ("again", "moved")]
        assert 5 * max(moves) < rules.ROUNDING
        assert min(self.FOUND["tail"], self.AMX["tail"]) > rules.ROUNDING
        assert self.AMX["about"]["dtype"] == "bfloat16"

    def test_narrow_is_between_the_two(self):
        english = next(one["measures"] for one in self.FOUND["healthy"] if one["lang"] == "en")
        assert 2 * self.FOUND["generative_spread"]["most"] < rules.NARROW < english["spread"] / 2

    def test_the_readme_tells_these_numbers(self):
        text = (files("ragops") / "data/golden/README.md").read_text(encoding="utf-8")
        found = self.FOUND
        told = [found[name] for name in ("accuracy", "floor", "tail")]
        told += [found[name]["mean"] for name in ("random", "generative")]
        told += [found[name]["deviation"] for name in ("random", "generative", "resampled")]
        told += [found["random"]["most"], found["generative_spread"]["most"]]
        assert [one for one in told if f"{one:.3f}" not in text] == []
        for one in (found, self.AMX):
            assert f"{max(one['again']['most'], one['moved']['most']):.4f}" in text
        assert all(f"{one['measures']['accuracy']:.2f}" in text for one in found["healthy"])

    def test_every_faulty_scorer_was_caught_with_every_seed(self):
        assert {one["who"] for one in self.FOUND["impostors"]} == set(faulty_scorers.FAULTY_SCORERS)
        for one in self.FOUND["impostors"]:
            assert one["caught"] == one["at_least"] == one["draws"] >= 100
            assert one["checks"] == [CAUSES[one["who"]][0]]

    def test_the_readme_tells_the_few(self):
        text = (files("ragops") / "data/golden/README.md").read_text(encoding="utf-8")
        few = self.FOUND["few"]
        told = [few["accuracy"], few["floor"], few["resampled"]["deviation"]]
        told += [few[who][name] for who in ("random", "generative") for name in ("mean", "deviation", "most")]
        assert [one for one in told if f"{one:.3f}" not in text] == []


def test_full_waits_for_documents_of_the_whole_length():
    expected = Expected("m", "qwen3-reranker", 8192)
    plan = questions.plan_requests(expected, full=True)
    batch = rules.batch(expected, plan, "http://r:8000/v1", full=True, spare=0)
    sent = json.loads(probe.probe_input("http://r:8000/v1", RerankRequest("m"), extra=batch))
    assert (sent["post_timeout"], sent["timeout"]) == (600, 30)
