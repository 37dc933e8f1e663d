"""The gateway's pure part: shares, merged scores, and the tail of what is not ranked."""

import json
import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragops.gateway import split
from tests.support.replicas import Behaviour, response


def body(**fields):
    return json.dumps({"query": "which", "documents": ["one", "two"], **fields}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no JSON",
        b"[]",
        b'{"query": "which", "documents": ["\\ud800"]}',
        b'{"query": "which", "documents": ["one"], "priority": NaN}',
        body(query=3),
        body(query={"content": []}),
        body(documents=[]),
        body(documents={"content": []}),
        body(documents=["one", {"content": [{"type": "text", "text": "two"}]}]),
        body(top_n=-1),
        body(top_n="2"),
        body(top_n=True),
        body(top_n=None),
        body(request_id=7),
        json.dumps({"documents": ["one"]}).encode(),
    ],
)
def test_a_request_that_only_vllm_can_judge_stays_as_it_is(content):
    request = split.parse(content)
    assert request.raw == content
    assert len(request.keys) == 1


def test_a_single_text_is_a_list_of_one():
    assert split.parse(body(documents="one")).documents == ["one"]


def test_shares_have_all_other_fields_but_no_top_n_and_no_request_id():
    request = split.parse(body(model="m", top_n=1, request_id="r", instruction="judge", rank_fields=[1.5]))
    assert json.loads(request.body(["two"], max_tokens_per_doc=9)) == {
        "model": "m",
        "query": "which",
        "documents": ["two"],
        "instruction": "judge",
        "rank_fields": [1.5],
        "max_tokens_per_doc": 9,
    }
    assert request.identity == "r"
    assert split.parse(body(request_id="r"), "header").identity == "header"
    assert split.parse(body()).identity != split.parse(body()).identity != ""


def test_the_key_of_a_document_is_of_all_that_its_score_depends_on():
    def keys(**fields):
        return split.parse(body(**fields)).keys

    assert keys() == keys(top_n=1) == keys(request_id="r")
    assert (
        len({keys()[0], keys()[1], keys(query="other")[0], keys(instruction="x")[0], keys(model="m")[0]}) == 5
    )
    assert keys(documents=["one"]) == keys(documents=["zero", "one"])[1:]


def shares(costs, paces, wait=0.0):
    """The documents of each share, when all replicas are free at first and get one after the other."""
    left, free, taken = dict(enumerate(costs)), list(paces), []
    while left:
        free = free or list(paces)
        cost = split.common_end(sum(left.values()), [(wait, pace) for pace in free]) / free[0]
        taken.append(split.take(left, cost, cost * len(paces)))
        for key in taken[-1]:
            del left[key]
        free.pop(0)
    return taken


@given(
    costs=st.lists(st.integers(1, 1000), min_size=1, max_size=80),
    paces=st.lists(st.floats(1e-6, 1e-2), min_size=1, max_size=8),
)
def test_shares_are_all_documents_once_and_no_more_than_one_for_each_replica_and_a_rest(costs, paces):
    taken = shares(costs, paces)
    assert sorted(key for keys in taken for key in keys) == list(range(len(costs)))
    assert all(taken)


@pytest.mark.parametrize("replicas", [1, 2, 4, 8])
def test_equal_replicas_get_one_share_each(replicas):
    assert [len(keys) for keys in shares([100] * 64, [0.001] * replicas)] == [64 // replicas] * replicas


def test_lengths_that_differ_make_shares_that_do_not():
    costs = [100 + 97 * number % 900 for number in range(64)]
    totals = [sum(costs[key] for key in keys) for keys in shares(costs, [0.001] * 8)]
    assert len(totals) == 8
    assert max(totals) < 1.05 * sum(costs) / 8


def test_a_slower_replica_gets_less_so_that_both_end_at_the_same_time():
    fast, slow = shares([100] * 64, [0.001, 0.003])
    assert (len(fast), len(slow)) == (48, 16)


def test_a_replica_that_is_busy_until_then_gets_nothing():
    assert split.common_end(1000, [(0.0, 0.001), (2.0, 0.001)]) == pytest.approx(1.0)
    assert split.common_end(1000, [(0.0, 0.001), (0.5, 0.001)]) == pytest.approx(0.75)


def test_a_share_is_of_the_first_documents_and_has_one_at_least():
    costs = dict.fromkeys(range(64), 100)
    assert split.take(costs, 300, 600) == [0, 1, 2]
    assert split.take(costs, 10, 10) == [0]
    assert split.take({0: 900, 1: 900, 2: 100, 3: 1}, 1000, 2000) == [0, 2]


@given(
    scores=st.lists(st.one_of(st.floats(0, 1), st.floats(-1e6, 1e6)), min_size=1, max_size=20),
    count=st.integers(0, 200),
)
def test_the_tail_descends_strictly_below_all_scores(scores, count):
    rest = split.tail(scores, count)
    below = [min(scores), *rest]
    assert len(rest) == count
    assert all(upper > lower for upper, lower in pairwise(below))


def test_the_tail_of_probabilities_stays_in_their_range():
    assert min(split.tail([0.9, 0.02], 60)) > 0
    assert max(split.tail([-3.5, 7.0], 60)) < -3.5


def test_a_partial_response_has_all_documents_the_unranked_ones_in_their_order():
    request = split.parse(body(documents=[str(number) for number in range(9)]))
    results = json.loads(split.merge(request, {0: 0.1, 1: 0.8, 2: 0.1}, id="x"))["results"]
    assert [row["index"] for row in results] == [1, 0, 2, 3, 4, 5, 6, 7, 8]
    scores = [row["relevance_score"] for row in results]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    "change",
    [
        {"results": None},
        {"results": []},
        {"results": [{"index": 0, "relevance_score": 0.5}] * 2},
        {"results": [{"index": 0, "relevance_score": 0.5}, {"index": 2, "relevance_score": 0.5}]},
        {"results": [{"index": 0, "relevance_score": 0.5}, {"index": 1, "relevance_score": None}]},
        {"results": [{"index": 0, "relevance_score": 0.5}, {"index": 1, "relevance_score": "0.5"}]},
        {"results": [{"index": 0, "relevance_score": 0.5}, {"index": [], "relevance_score": 0.5}]},
        {"results": [{"index": 0, "relevance_score": 0.5}, {"index": 1, "relevance_score": math.nan}]},
        {"usage": {}},
        {"usage": {"prompt_tokens": 1e30}},
        {"usage": {"prompt_tokens": -1}},
    ],
)
def test_a_response_without_a_finite_score_for_each_document_is_malformed(change):
    fields = response({"query": "which", "documents": ["one", "two"]})[1]
    assert len(split.read_scores(json.dumps(fields).encode(), 2)[0]) == 2
    with pytest.raises(ValueError, match="malformed"):
        split.read_scores(json.dumps({**fields, **change}).encode(), 2)


def test_vllms_refusal_of_a_long_document_names_the_limit():
    status, refusal = response({"query": "which", "documents": ["a " * 99]}, Behaviour(max_tokens=50))
    assert split.over_long(status, json.dumps(refusal).encode()) == 50
    assert split.over_long(500, json.dumps(refusal).encode()) == 0
    assert split.over_long(400, b"{}") == 0
