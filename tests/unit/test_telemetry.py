"""One look at a reranker: its container, its own counters, the machine below."""

import json

import httpx

from ragops.bench.echo import EchoProcess, delay
from ragops.bench.measure import Sampler, parse
from ragops.bench.workload import synthetic
from tests.support.stub import Behaviour, StubReranker

# As vLLM 0.32 tells it, shortened.
METRICS = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting{engine="0",model_name="m"} 61.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 5.0
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="m"} 1.2e+06
vllm:prompt_tokens_total{engine="1",model_name="m"} 1000.0
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 900.0
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 300.0
vllm:external_prefix_cache_hits_total{engine="0",model_name="m"} 7.0
http_requests_total{handler="/metrics",method="GET",status="2xx"} 40.0
http_requests_total{handler="/v1/rerank",method="POST",status="2xx"} 12.0
http_requests_total{handler="/v1/rerank",method="POST",status="4xx"} 1.0
http_requests_created{handler="/v1/rerank",method="POST",status="4xx"} 1.7e+09
"""


def test_what_vllm_counts():
    assert parse(METRICS) == {
        "running": 3,
        "waiting": 61,
        "prompt_tokens": 1_201_000,
        "cached_tokens": 300,
        "calls": 13,
    }
    assert parse("") == {}
    before_the_first_call = [line for line in METRICS.splitlines() if "/v1/rerank" not in line]
    assert parse("\n".join(before_the_first_call))["calls"] == 0


def test_a_look_at_a_server_that_only_has_an_address(tmp_path):
    proc = tmp_path / "stat"
    proc.write_text("cpu  10 20 30 4000 50 6 7 8 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n")
    with StubReranker(Behaviour(cached=0.5)) as stub:
        body = {"model": "stub-reranker", "query": "a b", "documents": ["c", "d e"]}
        httpx.post(stub.base_url + "/rerank", json=body)
        seen = Sampler(stub.base_url, proc=proc)()
    assert (seen.calls, seen.prompt_tokens, seen.cached_tokens) == (1, 7, 3)
    assert (seen.cpu_ns, seen.memory_bytes) == (None, None)
    assert seen.host_busy_ns == (10 + 20 + 30 + 6 + 7) * 10_000_000
    assert seen.host_stolen_ns == 80_000_000
    assert seen.client_ns > 0


def test_what_can_not_be_read_stays_empty(tmp_path):
    seen = Sampler("http://127.0.0.1:9/v1", proc=tmp_path / "none")()
    assert (seen.calls, seen.running, seen.host_busy_ns) == (None, None, None)


def test_a_look_at_a_container(fake):
    box = fake.add_container("ragflow-vllm-reranker", image="vllm-cpu:latest")
    seen = Sampler("http://127.0.0.1:9/v1", fake, box)()
    used = fake.stats(box)
    assert (seen.cpu_ns, seen.memory_bytes) == (used.cpu_ns, used.memory_bytes)


def test_the_stand_in_answers_as_vllm_does_and_keeps_its_own_time():
    request = synthetic(1, 3, 20).requests[0]
    body = json.dumps({"query": request.query, "documents": request.documents}).encode()
    with EchoProcess(0.01, 0.05) as echo:
        answers = [httpx.post(echo.base_url + "/rerank", content=body).json() for _ in range(2)]
        took = echo.durations()
    assert answers[0] == answers[1]
    assert [row["index"] for row in answers[0]["results"]] == [0, 1, 2]
    assert answers[0]["usage"]["prompt_tokens"] > 0
    known = delay(body, 0.01, 0.05)
    assert 0.01 <= known <= 0.05
    assert len(took) == 2
    assert all(one >= known * 1e9 for one in took)
