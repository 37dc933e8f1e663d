"""What becomes of a model's name between RAGFlow's form and the reranker."""

import pytest

from ragops.ragflow import releases
from ragops.ragflow.request import name_problem, release_or_newest, sent_name

OLD, NEW = releases.of("v0.26.3"), releases.of("v0.26.4")


@pytest.mark.parametrize("name", ["qwen3-reranker-0.6b", "Qwen/Qwen3-Reranker-0.6B", "/models/x", "a_b__c"])
def test_plain_names_and_slashes_are_sent_as_they_are(name):
    for release in (releases.of("v0.18.0"), OLD, NEW):
        assert sent_name(name, release) == name
        assert name_problem(name, release) == ""


def test_three_underscores_cut_it():
    assert sent_name("x___VLLM", OLD) == "x"
    assert "sends x" in name_problem("x___y", OLD)


@pytest.mark.parametrize("tag", ["v0.17.1", "v0.17.2"])
def test_two_releases_send_the_suffix(tag):
    assert sent_name("x", releases.of(tag)) == "x___VLLM"


def test_at_sign_is_a_trouble_of_older_releases():
    assert "first @" in name_problem("x@y", OLD)
    assert name_problem("x@y", NEW) == ""


def test_length():
    assert name_problem("x" * 128, NEW) == ""
    assert "129" in name_problem("x" * 129, NEW)


@pytest.mark.parametrize(("text", "why"), [("", "the release is unknown"), ("v9.9.9", "release v9.9.9 is")])
def test_unknown_release_is_taken_for_the_newest_and_said(text, why):
    release, said = release_or_newest(text)
    assert release.name == releases.NEWEST
    assert why in said
    assert releases.NEWEST in said


def test_known_release_is_itself():
    assert release_or_newest("0.25.3-slim") == (releases.of("v0.25.3"), "")
