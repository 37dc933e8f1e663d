"""Samples of a reranker's counters, the matrix multiplication peak, and the provenance."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from ragops.bench import measure
from ragops.bench.measure import Sampler, git_state, machine_cpu, machine_name, parse_metrics
from ragops.bench.records import load_run
from ragops.configuration import Gateway, Reranker, Stack
from ragops.docker.objects import ExecResult
from ragops.errors import BenchError, NotFoundError
from ragops.reranker import model as models
from ragops.reranker.host import Core, Host
from ragops.session import Session
from tests.support.stub import Behaviour, StubReranker

ROOT = Path(__file__).parents[2]

# Of vLLM 0.32, shortened.
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

QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151669,
}


def test_counters_of_vllm():
    assert parse_metrics(METRICS) == {
        "running": 3,
        "waiting": 61,
        "prompt_tokens": 1_201_000,
        "cached_tokens": 300,
        "calls": 13,
    }
    gateway = 'ragops_gateway_requests_total{status="200"} 4\nragops_gateway_requests_total{status="503"} 1\n'
    gateway += "ragops_gateway_proof_tokens_total 143\n"
    assert parse_metrics(gateway) == {"calls": 5}
    both = parse_metrics(gateway + METRICS)
    assert (both["calls"], both["prompt_tokens"]) == (5, 1_200_857)
    assert parse_metrics("") == {}
    before_the_first_call = [line for line in METRICS.splitlines() if "/v1/rerank" not in line]
    assert parse_metrics("\n".join(before_the_first_call))["calls"] == 0


@pytest.fixture
def repository(tmp_path):
    """A git repository with one commit, and a package that is tracked in it."""
    package = tmp_path / "repository" / "ragops"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.invalid")
    for argv in (("init", "-q"), ("add", "."), (*identity, "commit", "-qm", "first")):
        subprocess.run(["git", "-C", package.parent, *argv], check=True)
    return package


def test_git_state_of_a_checkout(repository, tmp_path):
    (tmp_path / "link").symlink_to(repository.parent)
    for package in (repository, tmp_path / "link" / "ragops"):
        commit, dirty = git_state(package)
        assert len(commit) == 12
        assert dirty is False
    (repository / "__init__.py").write_text("changed = 1\n")
    assert git_state(repository) == (commit, True)


@pytest.mark.parametrize("place", [".venv/lib/ragops", "src/ragops", "vendored"])
def test_git_state_of_another_projects_repository_is_not_recorded(repository, place):
    package = repository.parent / place
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    if place.startswith("src"):
        subprocess.run(["git", "-C", repository.parent, "add", "."], check=True)
    assert git_state(package) == ("", None)


def test_git_state_without_git_or_with_one_that_hangs(repository, monkeypatch):
    monkeypatch.setattr(measure, "_GIT_TIMEOUT_S", 0.0)
    assert git_state(repository) == ("", None)
    monkeypatch.setenv("PATH", "")
    assert git_state(repository) == ("", None)


@pytest.mark.parametrize(
    ("cpu_model", "features", "label"),
    [
        ("Intel(R) Xeon(R) Processor", {"avx2", "avx512f", "avx512_bf16", "amx_bf16"}, "intel-xeon-amx-2cpu"),
        ("AMD EPYC 9R14", {"avx2", "avx512f", "avx512_bf16"}, "amd-epyc-9r14-avx512bf16-2cpu"),
        ("AMD EPYC", {"avx2"}, "amd-epyc-avx2-2cpu"),
        ("unknown", {"asimd", "bf16"}, "unknown-bf16-2cpu"),
        ("unknown", set(), "unknown-2cpu"),
    ],
)
def test_label_of_a_machine_has_its_instruction_set(cpu_model, features, label):
    assert machine_name(Host(cpu_model, frozenset(features), (Core(0, 0), Core(1, 1)), (), 0)) == label


def test_recorded_runs_with_the_former_label_have_an_instruction_set():
    runs = {path.name: load_run(path).info.provenance for path in (ROOT / "results").glob("*-sizes")}
    sets = {name.partition("-")[2]: made.instruction_set for name, made in runs.items()}
    assert sets == {"intel-xeon-2cpu-sizes": "amx", "amd-epyc-2cpu-sizes": "avx2"}


def test_cpu_time_of_the_machine(tmp_path):
    stat = tmp_path / "stat"
    assert machine_cpu(stat) == (None, None)
    stat.write_text("cpu  10 20 30 4000 50 6 7 8 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n")
    assert machine_cpu(stat) == ((10 + 20 + 30 + 6 + 7) * 10_000_000, 80_000_000)


def test_sample_of_a_server_by_its_address():
    with StubReranker(Behaviour(cached=0.5)) as stub:
        body = {"model": "stub-reranker", "query": "a b", "documents": ["c", "d e"]}
        httpx.post(stub.base_url + "/rerank", json=body)
        sample = Sampler(stub.base_url)()
    assert (sample.calls, sample.prompt_tokens, sample.cached_tokens) == (1, 7, 3)
    assert (sample.cpu_ns, sample.memory_bytes) == (None, None)
    assert sample.client_ns > 0


def test_unreadable_counters_are_none():
    sample = Sampler("http://127.0.0.1:9/v1")()
    assert (sample.calls, sample.running) == (None, None)


def test_sample_of_a_container(fake):
    container = fake.add_container("ragflow-vllm-reranker", image="vllm-cpu:latest")
    sample = Sampler("http://127.0.0.1:9/v1", fake, (container,))()
    stats = fake.stats(container)
    assert (sample.cpu_ns, sample.memory_bytes) == (stats.cpu_ns, stats.memory_bytes)


def test_sample_of_a_gateway_is_the_sum_of_its_containers(fake):
    names = [fake.add_container(name, image="any") for name in ("gateway", "reranker-1", "reranker-2")]
    total = sum(fake.stats(name).memory_bytes for name in names)
    with StubReranker() as first, StubReranker() as second:
        body = {"model": "stub-reranker", "query": "a b", "documents": ["c", "d e"]}
        for stub in (first, second, second):
            httpx.post(stub.base_url + "/rerank", json=body)
        sample = Sampler(first.base_url, fake, tuple(names), (second.base_url,))()
    assert (sample.memory_bytes, sample.prompt_tokens) == (total, 21)


@pytest.fixture
def scaled(here, fake, tmp_path):
    """A session with a gateway that needs a key, in front of two replicas; the second does not run."""
    key = tmp_path / "key"
    key.write_text("hush")
    stack = Stack(reranker=Reranker(name="rr", replicas=2), gateway=Gateway(deadline=5.0, key_file=key))
    for name in ("rr", "rr-1"):
        fake.add_container(name, image="vllm-cpu:latest")
    return Session(stack, fake)


def test_the_stack_is_measured_through_its_gateway(scaled, fake):
    server = measure.running_server(scaled)
    ids = [fake.container(name).id for name in ("rr", "rr-1")]
    assert server.api_key.get_secret_value() == "hush"
    assert server.sampler.containers == tuple(ids)
    origin = server.provenance
    assert "deadline 5" in origin.gateway
    assert "key" not in origin.gateway
    assert origin.cores == ";".join(spec.cpuset_cpus for spec in scaled.deployment.replicas)


def test_a_gateway_without_replicas_is_not_measured(scaled, fake):
    fake.remove_container("rr-1")
    with pytest.raises(NotFoundError) as caught:
        measure.running_server(scaled)
    assert caught.value.code == "reranker-missing"


@pytest.fixture
def qwen3(model_folder):
    (model_folder / "config.json").write_text(json.dumps(QWEN3))
    (model_folder / "README.md").write_text("---\nbase_model: Qwen/Qwen3-Reranker-0.6B\n---\n")
    (model_folder / "tokenizer.json").write_text('{"model": {"vocab": {"yes": 9693, "no": 2152}}}')
    return models.describe(model_folder)


def test_shapes_are_those_of_the_model(qwen3):
    assert qwen3.shape.linear_layers == (
        (1024, 2048 + 2 * 1024, 28),
        (2048, 1024, 28),
        (1024, 2 * 3072, 28),
        (3072, 1024, 28),
    )
    assert qwen3.shape.flop_per_token == pytest.approx(2 * 440.4e6, rel=0.001)


def test_an_encoder_has_no_gate(model_folder):
    model = models.describe(model_folder)
    assert model.shape.linear_layers == ((64, 192, 2), (64, 64, 2), (64, 256, 2), (256, 64, 2))


def deployment(model):
    sizings = (SimpleNamespace(arithmetic="bfloat16", compute=(1, 2)), SimpleNamespace(compute=(3,)))
    replicas = (SimpleNamespace(cpuset_cpus="1-2"), SimpleNamespace(cpuset_cpus="3"))
    return SimpleNamespace(model=model, sizing=sizings[0], sizings=sizings, replicas=replicas)


def test_gemm_peak_is_measured_on_the_rerankers_cpus_in_a_temporary_container(fake, qwen3):
    fake.add_image("vllm-cpu:latest")
    calls = []

    def respond(container, argv, stdin):
        calls.append((fake._specs[container.id], argv, json.loads(stdin)))
        gemms = {"float32": {"tflops": 0.4}, "bfloat16": {"tflops": 2.6}, "int8": {"error": "no kernel"}}
        return ExecResult(0, json.dumps({"threads": 3, "gemms": gemms}), "")

    fake.respond = respond
    peak = measure.gemm_peak(deployment(qwen3), fake, "vllm-cpu:latest")
    ((spec, argv, order),) = calls
    assert (spec.cpuset_cpus, spec.network, spec.role) == ("1-2,3", "none", "probe")
    assert argv[:2] == ("python3", "-c")
    assert order["threads"] == peak.threads == 3
    assert [tuple(shape) for shape in order["shapes"]] == list(qwen3.shape.linear_layers)
    assert peak.tokens_per_s == pytest.approx(2.6e12 / 0.8808e9, rel=0.001)
    assert vars(peak.gemms[2]) == {"dtype": "int8", "tflops": None, "error": "no kernel"}
    assert fake.containers() == ()


def test_an_image_without_torch(fake, qwen3):
    fake.add_image("busy:1")
    fake.respond = lambda *_: ExecResult(1, "", "ModuleNotFoundError: No module named 'torch'")
    peak = measure.gemm_peak(deployment(qwen3), fake, "busy:1")
    assert peak.tokens_per_s is None
    assert "torch" in peak.gemms[0].error
    assert fake.containers() == ()


def test_a_model_without_a_number_of_heads(model_folder):
    config = json.loads((model_folder / "config.json").read_text())
    del config["num_attention_heads"]
    (model_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BenchError, match="shape"):
        assert models.describe(model_folder).shape.linear_layers
