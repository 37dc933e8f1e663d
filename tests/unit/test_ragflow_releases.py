"""The table of releases has the values that were read in RAGFlow's source and measured on its servers."""

import pytest

from ragops.errors import RagflowError
from ragops.ragflow import releases
from ragops.ragflow.releases import KNOWN, NEWEST, of, of_or_nearest, order, rerank_id, window


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("v0.17.2", (128, 128, 128, 128, 128, 128, 150, 128)),
        ("v0.18.0", (65, 66, 64, 60, 60, 60, 50, 1)),
        ("v0.21.0", (65, 66, 64, 60, 60, 60, 50, 1)),
        ("v0.21.1", (65, 66, 64, 70, 80, 90, 100, 1)),
        ("v0.24.0", (65, 66, 64, 70, 80, 90, 100, 30)),
        ("v0.25.0", (64, 64, 64, 64, 64, 64, 64, 30)),
        ("v0.26.0", (65, 66, 64, 70, 80, 90, 100, 30)),
        ("v0.27.0", (65, 66, 64, 70, 80, 90, 100, 30)),
        ("v0.27.1", (64,) * 8),
        ("v1.0.0-rc1", (64,) * 8),
    ],
)
def test_window(name, counts):
    assert tuple(window(of(name), page) for page in (5, 6, 8, 10, 20, 30, 50, 1)) == counts


@pytest.mark.parametrize(("name", "count"), [("v0.24.0", 64), ("v0.25.6", 20), ("v0.27.0", 24)])
def test_top_k_bounds_the_window_from_v0_25_on(name, count):
    assert window(of(name), 8, top_k=20) == count


@pytest.mark.parametrize(
    ("name", "timeout", "limit"),
    [
        ("v0.23.1", 300, None),
        ("v0.24.0", 300, 10),
        ("v0.25.2", 300, 10),
        ("v0.25.3", 30, 10),
        ("v0.27.2", 30, 10),
        ("v1.0.0-rc1", 120, None),
    ],
)
def test_timeouts(name, timeout, limit):
    assert (of(name).timeout, of(name).registration_limit) == (timeout, limit)


def test_registration_routes():
    routes = {name: of(name).registration for name in ("v0.23.1", "v0.24.0", "v0.26.0", "v0.26.4", "v0.27.0")}
    assert list(routes.values()) == [
        "manual",
        "add_llm",
        "provider",
        "provider",
        "provider-with-update",
    ]


def test_early_releases_cannot_use_a_reranker():
    assert [name for name in KNOWN if of(name).obstacle] == ["v0.17.0", "v0.17.1", "v0.17.2"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("v0.18.0", "m___VLLM@VLLM"), ("v0.25.6", "m___VLLM@VLLM"), ("v0.26.0", "m@ragops@VLLM")],
)
def test_rerank_id(name, expected):
    assert rerank_id(of(name), "m", "ragops") == expected


@pytest.mark.parametrize("text", ["0.25.3", "v0.25.3", "v0.25.3-slim", "v0.25.3 full", " v0.25.3\n"])
def test_spellings(text):
    assert of(text).name == "v0.25.3"


@pytest.mark.parametrize("text", ["1.0.0-rc1", "v1.0.0-rc1-slim", "v1.0.0-rc1 full"])
def test_spellings_of_a_release_candidate(text):
    assert of(text).name == "v1.0.0-rc1"


def test_releases_are_in_order_and_a_candidate_is_older_than_its_release():
    assert list(KNOWN) == sorted(KNOWN, key=order)
    names = ["v1.0.0-rc1", "v1.0.0-rc2", "v1.0.0-rc10", "v1.0.0", "v1.0.1"]
    assert names == sorted({*names}, key=order)
    assert NEWEST == "v0.27.2"


@pytest.mark.parametrize(
    ("text", "newer"),
    [
        *[(text, False) for text in ("", "nightly", "v0.16.0", "v0.27.0-rc1", "v0.25.3-12-gabcdef0")],
        *[(text, True) for text in ("v0.28.0", "v0.28.0-rc1", "v1.1.0", "v2.0.0")],
    ],
)
def test_release_of_an_unknown_minor_is_refused_and_named_as_newer(text, newer):
    with pytest.raises(RagflowError) as caught:
        of(text)
    assert caught.value.code == "ragflow-release"
    assert NEWEST in caught.value.evidence
    assert ("is newer than" in str(caught.value)) == newer


@pytest.mark.parametrize(
    ("text", "nearest"),
    [("v0.27.9", "v0.27.2"), ("v0.26.5", "v0.26.4"), ("v0.25.10", "v0.25.6"), ("v1.0.0", "v1.0.0-rc1")],
)
def test_unknown_patch_has_the_facts_of_its_minor(text, nearest):
    release, known = of(text), of(nearest)
    assert release.name == text
    assert text in release.assumed
    assert nearest in release.assumed
    assert (release.documents, release.registration, release.timeout, release.client, release.texts) == (
        *(known.documents, known.registration, known.timeout, known.client, known.texts),
    )
    assert release.before(nearest) == (order(text) < order(nearest))
    assert not known.assumed


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("", NEWEST),
        ("v0.28.0", NEWEST),
        ("v2.0.0", KNOWN[-1]),
        ("v0.16.0", NEWEST),
        ("v0.27.0-rc1", "v0.26.4"),
    ],
)
def test_checks_use_the_nearest_release(text, nearest):
    release = of_or_nearest(text)
    assert release.name == nearest
    assert text in release.assumed
    assert nearest in release.assumed


def test_checks_refuse_what_is_no_release():
    with pytest.raises(RagflowError):
        of_or_nearest("nightly")


@pytest.mark.parametrize(
    ("name", "texts", "limit", "language"),
    [
        ("v0.22.1", ("stemmed",), "passthrough", "Python"),
        ("v0.27.1", ("stemmed", "natural"), "passthrough", "Python"),
        ("v0.27.2", ("markup", "stemmed"), "truncate", "Python"),
        ("v1.0.0-rc1", ("markup",), "truncate", "Go"),
    ],
)
def test_texts_limit_and_client(name, texts, limit, language):
    release = of(name)
    assert (release.texts, release.over_limit, release.client.language) == (texts, limit, language)


def test_go_sends_other_fields():
    assert not of("v1.0.0-rc1").client.return_documents


def test_every_fact_has_a_source_and_its_changes_are_in_order():
    assert {"name", "assumed", *releases.FACTS} == set(releases.Release.__dataclass_fields__)
    for facts in releases.FACTS.values():
        places = [KNOWN.index(fact.since) for fact in facts]
        assert places[0] == 0
        assert places == sorted(set(places))
        assert all(fact.source for fact in facts)
