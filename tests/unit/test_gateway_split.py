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


@given(
    costs=st.lists(st.integers(1, 1000), min_size=1, max_size=80),
    paces=st.lists(st.floats(1e-6, 1e-2), min_size=1, max_size=8),
)
def test_shares_are_all_documents_in_order_and_no_more_than_a_few_for_each_replica(costs, paces):
    left, handed, sizes = list(costs), 0, []
    while left:
        pace = paces[handed % len(paces)]
        cost = split.share_cost(sum(left), sum(costs), handed, pace, paces)
        number = split.take(left, cost)
        assert 1 <= number <= len(left)
        sizes.append(number)
        left, handed = left[number:], handed + 1
    assert sum(sizes) == len(costs)


@pytest.mark.parametrize("replicas", [1, 2, 4, 8])
def test_equal_replicas_get_one_share_each(replicas):
    costs, paces = [100] * 64, [0.001] * replicas
    sizes = []
    while left := costs[sum(sizes) :]:
        sizes.append(split.take(left, split.share_cost(sum(left), 6400, len(sizes), 0.001, paces)))
    assert sizes == [64 // replicas] * replicas


def test_a_slower_replica_gets_less_and_the_rest_is_handed_out_on_demand():
    paces = [0.001, 0.003]
    fast, slow = (split.share_cost(6400, 6400, 0, pace, paces) for pace in paces)
    assert fast == pytest.approx(3 * slow)
    assert fast < 6400 / 2


def test_a_request_that_is_too_small_to_gain_stays_whole():
    assert split.share_cost(1000, 1000, 0, 1e-6, [1e-6] * 4) >= 1000


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
