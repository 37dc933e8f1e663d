"""Judging what a probe saw: each failure has its layer, its words and its remedy."""

import json

import pytest

from ragops.checks import Check, Report, serving
from ragops.checks.probe import LAYERS, Answer, Step
from ragops.ragflow.discovery import RagflowContainer
from ragops.ragflow.request import RerankRequest
from ragops.state import ExecResult

URL = "http://reranker:8000/v1"
REQUEST = RerankRequest("model")
SCORES = ((0, 0.1), (1, 0.9), (2, 0.2))


def answer(failed=None, detail="", **changed):
    """All well, or well up to a layer that failed."""
    steps = {name: Step(ok=True, detail="fine", ms=2.0) for name in LAYERS}
    if failed:
        steps = {name: steps[name] for name in LAYERS[: LAYERS.index(failed)]}
        steps[failed] = Step(ok=False, detail=detail)
    fields = {"vehicle": "python", "models": ("model",), "client": "cohere 5.6.2", "scores": SCORES}
    return Answer(steps=steps, **{**fields, **changed})


def judge(found, request=REQUEST, url=URL):
    return serving.judge(found, "ragflow-server", url, request)


def only(found, **options):
    """The one check that is not well."""
    wrong = [check for check in judge(found, **options) if check.status in {"warn", "fail"}]
    assert len(wrong) == 1
    assert wrong[0].where == "ragflow-server"
    return wrong[0]


def test_all_well():
    checks = judge(answer())
    assert [check.status for check in checks] == ["ok"] * 5
    assert checks[4].detail == "3 documents, 3 scores, best 0.900 (2 ms, cohere 5.6.2)"


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_above_a_failure_are_skipped(layer):
    number = LAYERS.index(layer)
    statuses = [check.status for check in judge(answer(layer, "no"))]
    assert statuses == ["ok"] * number + ["fail"] + ["skip"] * (4 - number)


@pytest.mark.parametrize(
    ("layer", "detail", "remedy"),
    [
        ("dns", "Name or service not known", "ragops connect ragflow-server"),
        ("tcp", "Connection refused", "ragops status"),
        ("health", "HTTP 503", "engine has died"),
        ("models", "HTTP 404", "must end in /v1"),
        ("models", "not JSON but text/html: <html>", "NO_PROXY"),
        ("models", "HTTP 401: Unauthorized", "--api-key"),
        ("rerank", 'HTTP 404: {"detail":"Not Found"}', "--runner pooling"),
        ("rerank", "HTTP 401: Unauthorized", "--api-key"),
        ("rerank", "HTTP 500: oops", "docker logs"),
    ],
)
def test_each_failure_has_a_remedy(layer, detail, remedy):
    found = only(answer(layer, detail))
    assert found.name == serving.TITLES[layer]
    assert found.detail == detail
    assert remedy in found.remedy


def test_model_that_is_not_served_names_the_one_that_is():
    found = only(answer(models=("other",)))
    assert found.status == "fail"
    assert found.detail == "model is not among: other"
    assert "served now: other" in found.remedy


@pytest.mark.parametrize(
    "scores",
    [(), SCORES[:2], ((0, 0.1), (1, 0.9), (1, 0.2)), ((1, 0.1), (2, 0.9), (3, 0.2)), (*SCORES, (3, 0.3))],
)
def test_one_score_for_each_document(scores):
    found = only(answer(scores=scores))
    assert found.status == "fail"
    assert "3 documents went out" in found.detail


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_scores_are_numbers(score):
    found = only(answer(scores=((0, score), *SCORES[1:])))
    assert (found.status, "dtype" in found.remedy) == ("fail", True)


def test_wrong_order_is_a_warning():
    found = only(answer(scores=((0, 0.9), (1, 0.1), (2, 0.2))))
    assert (found.status, "template" in found.remedy) == ("warn", True)


def test_order_of_other_documents_is_not_judged():
    own = RerankRequest("model", documents=("a", "b", "c"))
    checks = judge(answer(scores=((0, 0.9), (1, 0.1), (2, 0.2))), request=own)
    assert checks[4].status == "ok"


@pytest.mark.parametrize("name", ["http_proxy", "all_proxy"])
def test_proxy_that_would_catch_the_call(name):
    found = only(answer(proxies={name: "http://proxy.test:3128", "no_proxy": "localhost, db"}))
    assert (found.name, found.status) == ("no proxy in between", "warn")
    assert "add reranker to NO_PROXY" in found.remedy


@pytest.mark.parametrize("excepted", ["reranker", "db, reranker", "*"])
def test_proxy_with_an_exception(excepted):
    seen = answer(proxies={"http_proxy": "http://proxy.test:3128", "no_proxy": excepted})
    assert len(judge(seen)) == 5


def test_proxy_for_https_alone_is_none():
    assert len(judge(answer(proxies={"https_proxy": "http://proxy.test:3128"}))) == 5


class TestCheck:
    @pytest.fixture
    def ask(self, fake, ragflow, probed):
        fake.respond = lambda _box, _argv, stdin: ExecResult(0, json.dumps(probed(json.loads(stdin))), "")

        def checks():
            found = RagflowContainer(fake.container(ragflow))
            return serving.check(fake, found, "vllm-cpu:latest", URL, REQUEST)

        return checks

    def test_asks_from_inside(self, ask, ragflow):
        assert {(check.status, check.where) for check in ask()} == {("ok", ragflow)}

    @pytest.mark.parametrize(
        ("status", "remedy"), [("paused", "docker unpause {}"), ("exited", "docker start {}")]
    )
    def test_container_that_does_not_run(self, ask, fake, ragflow, status, remedy):
        fake.change(ragflow, status=status)
        (found,) = ask()
        assert (found.status, found.remedy) == ("fail", remedy.format(ragflow))


class TestReport:
    CHECKS = (
        Check("one", "ok", "fine", where="box"),
        Check("second", "warn", "odd", "look", "box"),
        Check("third", "fail", "<broken>", "mend"),
        Check("fourth", "fail", "follows", "later"),
    )

    def test_a_warning_is_no_failure(self):
        assert Report("r", self.CHECKS[:2]).ok
        assert not Report("r", self.CHECKS).ok
        assert Report("r", self.CHECKS).first_failure() == self.CHECKS[2]
        assert Report("r", ()).first_failure() is None

    def test_text_groups_by_place_and_shows_remedies_of_what_is_not_well(self):
        lines = str(Report("verify", self.CHECKS, ("a note",))).splitlines()
        assert lines[:3] == ["verify", "from box", "  ok    one     fine"]
        assert lines[4].endswith("hint: look")
        assert lines[5] == "on this host"
        assert lines[-1] == "note: a note"

    def test_html_is_escaped(self):
        assert "&lt;broken&gt;" in Report("r", self.CHECKS)._repr_html_()
