"""The stub reranker answers in vLLM's shapes and misbehaves only when told to."""

from __future__ import annotations

import httpx
import pytest

from ragops.errors import BenchError
from tests.support.faulty_scorers import score
from tests.support.stub import Behaviour, StubProcess, StubReranker, pair_tokens, service_seconds

BODY = {
    "model": "stub-reranker",
    "query": "red apple",
    "documents": ["a green pear", "one red apple", "red wine"],
    "top_n": 3,
    "return_documents": False,
}


def post(stub, path="/rerank", headers=None, **changes):
    return httpx.post(stub.base_url + path, json={**BODY, **changes}, headers=headers, trust_env=False)


@pytest.fixture(scope="module")
def stub():
    with StubReranker() as running:
        yield running


def test_answer_has_vllms_shape(stub):
    answer = post(stub).json()
    assert set(answer) == {"id", "model", "usage", "results"}
    assert answer["usage"] == {"prompt_tokens": 14, "total_tokens": 14}
    assert [result["index"] for result in answer["results"]] == [1, 2, 0]
    assert [result["relevance_score"] for result in answer["results"]] == [1.0, 0.5, 0.0]
    assert answer["results"][0]["document"] == {"text": "one red apple", "multi_modal": None}


def test_top_n_cuts_the_answer(stub):
    assert [result["index"] for result in post(stub, top_n=1).json()["results"]] == [1]


def test_other_routes(stub):
    root = stub.base_url.removesuffix("/v1")
    health, models, metrics = (
        httpx.get(root + path, trust_env=False) for path in ("/health", "/v1/models", "/metrics")
    )
    assert health.status_code == 200
    assert models.json()["data"][0]["id"] == "stub-reranker"
    assert 'vllm:num_requests_running{engine="0",model_name="stub-reranker"} 0.0' in metrics.text
    bare = httpx.post(f"{root}/rerank", json=BODY, trust_env=False)
    assert bare.status_code == 200


def test_unknown_model_is_404_with_vllms_message(stub):
    reply = post(stub, model="X___VLLM")
    assert reply.status_code == 404
    assert reply.json()["error"]["message"] == "The model `X___VLLM` does not exist."


def test_calls_are_kept(stub):
    post(stub, query="only here")
    assert stub.calls[-1].path == "/v1/rerank"
    assert stub.calls[-1].body["query"] == "only here"


def test_misbehaviour():
    with StubReranker(Behaviour(fail_every=2, fail_status=503)) as stub:
        assert [post(stub).status_code for _ in range(4)] == [200, 503, 200, 503]
    with StubReranker(Behaviour(order="wrong")) as stub:
        assert post(stub).json()["results"][0]["index"] == 0
    with StubReranker(Behaviour(order="constant")) as stub:
        assert {result["relevance_score"] for result in post(stub).json()["results"]} == {0.5}
    with StubReranker(Behaviour(wrong_after=1)) as stub:
        assert [post(stub).json()["results"][0]["index"] for _ in range(2)] == [1, 0]
    with StubReranker(Behaviour(missing=1)) as stub:
        assert len(post(stub).json()["results"]) == 2


def test_limits_and_keys():
    with StubReranker(Behaviour(max_tokens=4)) as stub:
        assert post(stub).status_code == 400
        assert post(stub, documents=["short"]).status_code == 200
    with StubReranker(Behaviour(api_key="secret")) as stub:
        assert post(stub).status_code == 401
        assert post(stub, headers={"Authorization": "Bearer secret"}).status_code == 200


def test_service_time_is_fixed_and_per_document_and_per_token():
    behaviour = Behaviour(fixed_s=1, per_document_s=0.5, per_token_s=0.25)
    assert service_seconds(behaviour, documents=4, tokens=8) == 1 + 2 + 2
    with StubReranker(Behaviour(fixed_s=0.15)) as stub:
        assert post(stub).elapsed.total_seconds() >= 0.15


def test_stub_in_a_process_of_its_own():
    with StubProcess(Behaviour(order="wrong")) as stub:
        reply = httpx.post(stub.base_url + "/rerank", json=BODY, trust_env=False, timeout=20)
    assert reply.json()["results"][0]["index"] == 0
    with pytest.raises(httpx.ConnectError):
        post(stub)


def test_stub_that_can_not_start_says_so(monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(BenchError, match="did not start") as caught, StubProcess():
        pass
    assert caught.value.evidence == "exit code 1"


def test_scores_and_tokens_of_a_pair():
    assert pair_tokens("red apple", "a green pear") == 5
    assert score("Red apple", "one apple, red.") == 1.0
    assert score("", "anything") == 0.0
