"""The score gate on real vLLM: it believes all-MiniLM-L6-v2; for Qwen3-Reranker see test_qwen3_scores.py."""

from __future__ import annotations

import pytest

from ragops.checks import rules
from ragops.checks.questions import Expected
from ragops.ragflow import discovery
from ragops.session import Deployment


@pytest.fixture
def found(engine, declared, client):
    return next(one for one in discovery.find(engine.containers(), declared.ragflow) if one.name == client)


@pytest.fixture
def minilm(declared, running):
    wanted = Deployment.resolve(declared)
    longest = wanted.sizing.max_model_len
    return Expected(wanted.spec.served_name, wanted.model.kind, longest, wanted.model.substitute)


def failure(checks):
    return next((one for one in checks if one.status == "fail"), None)


def test_minilm_is_accepted(engine, declared, found, minilm, running):
    results = rules.collect(engine, found.name, running.replicas[0].image, declared.internal_url, minilm)
    checks = rules.check_scores(minilm, results)
    assert failure(checks) is None, checks
    assert next(one for one in checks if one.name == "right documents come first").status == "ok"


def test_the_whole_set_takes_the_same_verdict(engine, declared, found, minilm, running):
    image, url = running.replicas[0].image, declared.internal_url
    results = rules.collect(engine, found.name, image, url, minilm, full=True)
    checks = rules.check_scores(minilm, results)
    assert failure(checks) is None, checks
    order = next(one for one in checks if one.name == "right documents come first")
    assert "on 30 queries in English" in order.detail
