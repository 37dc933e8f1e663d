"""The score check of a replica and the reference that the gateway gets of it."""

import dataclasses
import json
import subprocess
import sys
from statistics import pstdev
from types import SimpleNamespace

import pytest

from benchmarks.calibrate import results_of
from ragops.checks import golden, reference, rules
from ragops.checks.questions import Expected
from ragops.docker.objects import ContainerSpec, ExecResult
from ragops.errors import LaunchError
from tests.support.faulty_scorers import FAULTY_SCORERS, Scale
from tests.support.stub import Behaviour, StubReranker

MINILM = Expected("stub-reranker", "embedding", 256, "a real bi-encoder")
CROSS = Expected("stub-reranker", "cross-encoder", 512)
QWEN = Expected("stub-reranker", "qwen3-reranker", 8192)
RANDOM = dataclasses.replace(QWEN, substitute="random weights")
REPLICA = "reranker-1"
HIDDEN = {"top-n", "capped", "deduplicated", "duplicates", "indices", "ranks", "batched", "partly", "cached"}
"""Faults of a response's form, which the gateway itself refuses, and of long or repeated requests."""
FAULTS = sorted({*FAULTY_SCORERS} - HIDDEN)


def healthy(expected, **fields):
    return Behaviour(**{"scorer": "healthy", "prompt": "card" if expected.template else "none", **fields})


def parsed(expected, behaviour=None):
    results = results_of(behaviour or healthy(expected), expected, needed=True)
    return json.loads(reference.reference(expected, results, "0123456789ab"))


@pytest.fixture
def replica(fake, monkeypatch):
    """A replica in which programs really run; its port is that of a stub."""
    fake.create_container(ContainerSpec(REPLICA, "vllm-cpu:latest"))
    fake.start(REPLICA)

    def respond(_container, argv, stdin):
        command = [sys.executable, "-S", "-c", argv[2]]
        ended = subprocess.run(command, input=stdin, capture_output=True, text=True, check=True, env={})
        return ExecResult(ended.returncode, ended.stdout, ended.stderr)

    fake.respond = respond

    def approve(behaviour, expected):
        with StubReranker(behaviour) as stub:
            monkeypatch.setattr(reference, "LOCAL", stub.base_url.split("/")[2])
            text = reference.approve(fake, REPLICA, "vllm-cpu:latest", expected, "0123456789ab")
        return json.loads(text), stub.calls

    return approve


class TestApprove:
    @pytest.mark.parametrize("expected", [MINILM, CROSS, QWEN], ids=lambda row: row.kind)
    def test_healthy_replica(self, replica, expected):
        fields, calls = replica(healthy(expected), expected)
        assert fields == parsed(expected)
        sent = [call.body for call in calls]
        pairs = [(body["query"], body["documents"]) for body in sent]
        for row in fields["requests"]:
            assert any(row["query"] == query and {*row["documents"]} <= {*texts} for query, texts in pairs)

    @pytest.mark.parametrize("scorer", ["constant", "shuffled", "truncated", "generative", "logits"])
    def test_wrong_scores(self, replica, scorer):
        with pytest.raises(LaunchError) as caught:
            replica(healthy(QWEN, scorer=scorer), QWEN)
        error = caught.value
        assert (error.code, error.container) == ("scores-wrong", REPLICA)
        results = results_of(healthy(QWEN, scorer=scorer), QWEN)
        failed = next(c for c in rules.check_scores(QWEN, results) if c.status == "fail")
        assert error.evidence.startswith(f"{failed.name}: ")
        assert error.hint == failed.remedy

    def test_server_that_fails(self, replica):
        with pytest.raises(LaunchError, match="score check") as caught:
            replica(Behaviour(fail_every=1), MINILM)
        assert caught.value.code == "scores-wrong"

    @pytest.mark.parametrize("scorer", ["random", "blind", "truncated", "inverted"])
    def test_random_weights_are_approved_if_repeatable(self, replica, scorer):
        fields, _ = replica(healthy(QWEN, scorer=scorer), RANDOM)
        assert fields["trained"] is False
        assert fields["requests"]

    @pytest.mark.parametrize("scorer", ["noise", "nan", "constant", "shuffled"])
    def test_random_weights_must_be_repeatable(self, replica, scorer):
        with pytest.raises(LaunchError):
            replica(healthy(QWEN, scorer=scorer), RANDOM)


class TestReference:
    @pytest.mark.parametrize("expected", [MINILM, CROSS, QWEN], ids=lambda row: row.kind)
    def test_items_languages_and_scores(self, expected):
        fields = parsed(expected)
        items = {item.query: item for item in golden.load()}
        assert list(fields) == ["id", "trained", "tolerance", "requests"]
        assert (fields["id"], fields["trained"]) == ("0123456789ab", True)
        assert len(fields["requests"]) == reference.ITEMS
        assert {items[row["query"]].lang for row in fields["requests"]} == set(expected.languages)
        lengths = [sum(map(len, row["documents"])) for row in fields["requests"]]
        assert lengths == sorted(lengths)
        for row in fields["requests"]:
            texts = dict(zip(items[row["query"]].texts(), items[row["query"]].documents, strict=True))
            assert len(row["scores"]) == len(row["documents"]) == reference.DOCUMENTS
            assert texts[row["documents"][0]].right
            assert not texts[row["documents"][-1]].right

    def test_documents_that_are_read_together_stay_together(self):
        fields = parsed(Expected("stub-reranker", "jina-reranker-v3", 16384))
        items = {item.query: item for item in golden.load()}
        assert all(tuple(row["documents"]) == items[row["query"]].texts() for row in fields["requests"])

    def test_tolerance_is_rounding_on_a_wide_scale(self):
        assert parsed(QWEN)["tolerance"] == rules.ROUNDING

    @pytest.mark.parametrize("squashed", [True, False])
    def test_tolerance_of_a_narrow_scale_is_below_its_differences(self, squashed):
        """Another document's score must not be within the tolerance."""
        scale = Scale(-4.6, -4.5, True) if squashed else Scale(0.80, 0.84, False)
        fields = parsed(MINILM, healthy(MINILM, scale=scale))
        scores = [score for row in fields["requests"] for score in row["scores"]]
        assert 0 < fields["tolerance"] <= pstdev(scores) / 4 + 1e-5
        assert fields["tolerance"] < rules.ROUNDING

    def test_tolerance_is_above_what_moved_in_the_check(self):
        results = results_of(healthy(MINILM, scale=Scale(0.80, 0.81, False)), MINILM, needed=True)
        moved = [
            dataclasses.replace(row, rows=tuple((index, score + 0.004) for index, score in row.rows))
            if row.call.purpose == "again"
            else row
            for row in results.results
        ]
        text = reference.reference(MINILM, dataclasses.replace(results, results=tuple(moved)), "")
        assert json.loads(text)["tolerance"] == pytest.approx(0.012)

    @pytest.mark.parametrize("scorer", [*FAULTS])
    def test_scores_of_a_faulty_replica_differ_from_it(self, scorer):
        fields = parsed(QWEN)
        results = results_of(healthy(QWEN, scorer=scorer), QWEN).of("golden")
        wrong = {row.call.query: dict(zip(row.call.documents, row.scores, strict=True)) for row in results}
        differences = [
            abs(score - wrong[row["query"]][text])
            for row in fields["requests"]
            for text, score in zip(row["documents"], row["scores"], strict=True)
        ]
        assert any(not difference <= fields["tolerance"] for difference in differences)


class TestScoreId:
    def deployment(self, **fields):
        model = SimpleNamespace(**{"fingerprint": "a", "kind": "qwen3-reranker", "overrides": "", **fields})
        reranker = SimpleNamespace(instruction=fields.get("instruction"))
        sizing = SimpleNamespace(dtype=fields.get("dtype", "float32"))
        return SimpleNamespace(model=model, stack=SimpleNamespace(reranker=reranker), sizing=sizing)

    def test_what_it_depends_on(self):
        changes = [
            {},
            {"fingerprint": "b"},
            {"instruction": "rank"},
            {"overrides": '{"x": 1}'},
            {"dtype": "bfloat16"},
            {"kind": "mxbai-rerank-v2"},
            {"kind": "zerank"},
        ]
        ids = [reference.score_id(self.deployment(**change), "sha256:1") for change in changes]
        ids.append(reference.score_id(self.deployment(), "sha256:2"))
        assert len(set(ids)) == len(ids)
        assert all(len(identity) == 12 and int(identity, 16) >= 0 for identity in ids)
        assert reference.score_id(self.deployment(), "sha256:1") == ids[0]
