"""Workloads are the same for the same arguments, different in each request, and say what they are."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragops.bench import workload
from ragops.bench.records import load_run
from ragops.bench.workload import Workload, from_jsonl, grid, ragflow, regenerate, synthetic
from ragops.checks.traffic import (
    TABLES,
    TOKENS_PER_WORD,
    Passage,
    Request,
    Writer,
    count_words,
    cut,
    stem,
    stemmed,
    topics,
    words_for_context,
)
from ragops.errors import BenchError


def test_texts_of_recorded_runs_do_not_change():
    """Recorded runs name this hash."""
    assert synthetic(2, 3, 20, seed=7).sha256.startswith("aaacba75cfaf85ff")
    assert ragflow(2, seed=7, form="stemmed").sha256.startswith("4cf6c0c992c07d24")


def test_the_hash_follows_the_texts_and_not_the_name():
    first, same, other = synthetic(2, 3, 20, 7), synthetic(2, 3, 20, 7), synthetic(2, 3, 20, 8)
    assert first.sha256 == same.sha256 != other.sha256
    assert Workload("x", "own", "", None, first.requests).sha256 == first.sha256


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(8, 120), st.integers(0, 99))
def test_synthetic_has_its_sizes(requests, documents, words, seed):
    workload = synthetic(requests, documents, words, seed)
    assert len(workload.requests) == requests
    assert workload.documents == requests * documents
    assert {count_words(text) for request in workload.requests for text in request.documents} == {words}


def test_every_text_is_new():
    workload = ragflow(12)
    queries = [request.query for request in workload.requests]
    documents = [text for request in workload.requests for text in request.documents]
    assert len(set(queries)) == len(queries)
    assert len(set(documents)) == len(documents)


def test_the_workload_of_a_run_that_names_a_former_option_is_generated_again():
    folder = Path(__file__).parents[2] / "results/20261125T205238Z-amd-epyc-2cpu-other-servers-vllm"
    info = load_run(folder).info.workload
    assert '"unique":true' in info.recipe
    assert regenerate(info).sha256 == info.sha256


def test_too_few_different_texts_is_an_error():
    with pytest.raises(BenchError, match="no new text"):
        synthetic(40, 40, 1)


def test_grid_has_every_pair_in_mixed_order():
    workload = grid((2, 4), (10, 30), each=3)
    sizes = [(len(request.documents), request.words) for request in workload.requests]
    assert Counter(sizes) == dict.fromkeys([(2, 10), (2, 30), (4, 10), (4, 30)], 3)
    assert sizes != [(2, 10), (2, 30), (4, 10), (4, 30)] * 3


def test_ragflow_has_its_window_and_lengths():
    workload = ragflow(60, seed=3)
    assert {len(request.documents) for request in workload.requests} == {64, 66, 70, 90}
    tokens = sorted(
        (count_words(request.query) + count_words(text)) * TOKENS_PER_WORD
        for request in workload.requests
        for text in request.documents
    )
    assert tokens[len(tokens) // 2] == pytest.approx(280, rel=0.05)
    assert tokens[int(len(tokens) * 0.9)] == pytest.approx(480, rel=0.05)
    assert tokens[int(len(tokens) * 0.99)] == pytest.approx(650, rel=0.05)


def test_ragflow_of_another_release():
    workload = ragflow(3, window=((2, 1.0),))
    assert [len(request.documents) for request in workload.requests] == [2, 2, 2]
    assert "(3 of 2 documents)" in workload.description


@pytest.mark.parametrize(
    ("release", "form"),
    [
        ("", "natural"),
        ("v0.25.3", "stemmed"),
        ("v0.27.1", "stemmed"),
        ("v0.27.2", "markup"),
        ("v0.28.0", "markup"),
    ],
)
def test_text_is_the_usual_one_of_the_release(release, form):
    assert (
        ragflow(2, seed=7, release=release).requests
        == ragflow(2, seed=7, release=release, form=form).requests
    )
    assert ragflow(2, release=release, form="natural").name == "ragflow-natural"


def test_text_with_markup_has_tables_with_the_words_of_the_natural_text():
    natural, markup = (ragflow(1, seed=7, form=form).requests[0] for form in ("natural", "markup"))
    tables = [
        (plain, text)
        for plain, text in zip(natural.documents, markup.documents, strict=True)
        if plain != text
    ]
    assert len(tables) == len(natural.documents) // TABLES
    for plain, text in tables:
        assert text.startswith("<table><caption>")
        assert re.sub(r"<caption>.*?</caption>|<[^>]*>", " ", text).split() == plain.split()


def test_max_words_is_recorded():
    for form in ("natural", "stemmed", "markup"):
        workload = ragflow(5, form=form, max_words=110)
        longest = max(
            count_words(request.query) + count_words(text)
            for request in workload.requests
            for text in request.documents
        )
        assert longest == 110
        assert "cut to 110 words" in workload.description
        assert workload.info().cut_to == 110
    for workload in (ragflow(2), ragflow(2, max_words=4000)):
        assert "cut" not in workload.description
        assert workload.info().cut_to is None


def test_words_for_context_leaves_room():
    assert words_for_context(256) == 112
    assert words_for_context(512, template=75) < words_for_context(512)


def test_stemmed_text_is_as_ragflow_sends_it():
    passage = Passage("Coffee machines", "Cleaning, every day: 水泵 保养 isn't HARD!")
    assert stemmed(passage) == "clean everi dai 水泵保养 isn t hard coffe machin"


@pytest.mark.parametrize(
    ("word", "stemmed_word"),
    [
        ("query", "queri"),
        ("documents", "docu"),
        ("stored", "stor"),
        ("is", "is"),
        ("day", "dai"),
        ("ring", "ring"),
    ],
)
def test_stem(word, stemmed_word):
    assert stem(word) == stemmed_word


def test_cut_counts_chinese_characters():
    assert cut("one two three", 2) == "one two"
    assert cut("水泵三 months", 4) == "水泵三 months"
    assert cut("short", 5) == "short"
    assert count_words("水泵 don't stop-over") == 4


def test_source_text_is_whole():
    assert len(topics()) >= 20
    assert all(topic.title and topic.questions and len(topic.sentences) >= 4 for topic in topics())
    assert "{" not in Writer(1).passage(400).text


def test_own_requests(tmp_path):
    file = tmp_path / "own.jsonl"
    rows = [{"query": "q", "documents": ["a", "b"]}, {"query": "r", "documents": ["水泵"]}]
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n", encoding="utf-8")
    own = from_jsonl(file)
    assert own.requests == (Request("q", ("a", "b")), Request("r", ("水泵",)))
    assert (own.name, own.profile, own.seed) == ("own", "own", None)


def test_empty_and_unusual_documents_are_requests(tmp_path):
    """vLLM gives each of them a score."""
    documents = ["", " ", "\0", "👍", "<table></table>", "文"]
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps({"query": "q", "documents": documents}), encoding="utf-8")
    (request,) = from_jsonl(file).requests
    assert (list(request.documents), request.words) == (documents, 1)


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"query": "q"}',
        '{"query": "", "documents": ["a"]}',
        '{"query": "q", "documents": []}',
        '{"query": "q", "documents": [1]}',
        '{"query": "q", "documents": ["a"], "top_n": 1}',
    ],
)
def test_a_bad_line_is_named(tmp_path, line):
    file = tmp_path / "own.jsonl"
    file.write_text('{"query": "q", "documents": ["a"]}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(BenchError, match=r"own\.jsonl:2 ") as caught:
        from_jsonl(file)
    assert "documents" in caught.value.hint


def test_a_line_of_an_own_workload_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(workload, "MAX_LINE", 100)
    file = tmp_path / "own.jsonl"
    file.write_text('{"query": "q", "documents": ["a"]}\n' * 2 + "[" * 101)
    with pytest.raises(BenchError, match=r"own\.jsonl:3 ") as caught:
        from_jsonl(file)
    assert "longer" in caught.value.evidence


@pytest.mark.parametrize("kind", ["device", "pipe", "folder", "name too long"])
def test_only_regular_files_are_read(tmp_path, kind):
    file = tmp_path / "own.jsonl"
    if kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        file = tmp_path / ("a" * 300)
    with pytest.raises(BenchError) as caught:
        from_jsonl(file)
    assert caught.value.code == "workload-refused"


def test_no_requests(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(BenchError, match="has no request"):
        from_jsonl(tmp_path / "empty.jsonl")
    with pytest.raises(BenchError, match="can't read"):
        from_jsonl(tmp_path / "missing.jsonl")
