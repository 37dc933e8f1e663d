"""A short benchmark of the real server: the run folder, its figures, and where it comes from."""

import os
import signal
import threading

import httpx
import pytest

import ragops
from ragops import progress
from ragops.bench import judge, measure
from ragops.bench.records import LoadLevel, load_run
from ragops.bench.run import BenchmarkConfig
from ragops.bench.statistics import disturbances, level_statistics, summary, trial_counters
from ragops.bench.workload import ragflow, synthetic
from ragops.ragflow.request import RerankRequest
from ragops.session import Session


@pytest.fixture(scope="module")
def run(engine, declared, running, tmp_path_factory):
    config = BenchmarkConfig(
        workload=synthetic(12, documents=8, words=40, max_words=measure.max_words(declared)),
        levels=(LoadLevel.closed(1), LoadLevel.closed(4), LoadLevel.poisson(2.0)),
        name="live",
        results=tmp_path_factory.mktemp("results"),
        warmup=2,
    )
    return load_run(measure.benchmark(declared, config, engine=engine))


def test_every_request_is_kept_and_answered(run):
    assert run.info.complete
    assert [record for record in run.requests if record.error] == []
    assert {record.phase for record in run.requests} == {"warmup", "measure"}
    assert all(record.t_done > record.t_send >= record.t_sched for record in run.requests)
    assert all(record.tokens for record in run.requests)


def test_the_right_document_was_first_before_and_after(run):
    assert run.info.order.before.right
    assert run.info.order.after.right


def test_it_says_where_it_comes_from(run, image):
    source = run.info.provenance
    assert source.image_digest in (image.id, *[digest.partition("@")[2] for digest in image.digests])
    assert len(source.model_sha256) == 64
    assert "bi-encoder" in source.model_is_stand_in
    assert "demo client" in source.client_is_stand_in
    assert source.vllm.startswith("vllm")
    assert "--runner" in source.launch_arguments
    assert source.cores


def test_the_server_was_watched(run):
    used = [sample.cpu_ns for sample in run.samples if sample.cpu_ns is not None]
    assert len(used) >= 2
    assert used == sorted(used)
    assert used[-1] > used[0]
    assert any(sample.memory_bytes for sample in run.samples)
    assert any(sample.running is not None for sample in run.samples)


def test_the_servers_own_counters_are_those_of_our_requests(run):
    """Calls of the rerank route, and tokens of their prompts without the gateway's reference requests."""
    for level, passes in trial_counters(run).items():
        sent = [record for record in run.requests if record.level == level]
        assert sum(item.rise.calls for item in passes) == sum(item.requests for item in passes) == len(sent)
        assert sum(item.rise.prompt_tokens for item in passes) == sum(record.tokens for record in sent)
        assert sum(item.rise.cached_tokens or 0 for item in passes) == 0  # an encoder has no prefix cache
        assert all(
            item.rise.cpu_ns > 0 and item.rise.client_ns > 0 and item.rise.host_busy_ns > 0 for item in passes
        )
    assert not any("client" in line for line in disturbances(run))
    assert all(row.computed_tokens_per_s == pytest.approx(row.tokens_per_s) for row in level_statistics(run))


def test_the_machines_limit_was_measured_in_the_image(run):
    limit = run.info.limit
    assert {item.dtype for item in limit.gemms} == {"float32", "bfloat16", "int8"}
    assert all(item.tflops or item.error for item in limit.gemms)
    assert limit.tokens_per_s > 0
    shares = [row.limit_fraction for row in level_statistics(run)]
    assert all(0 < share < 1.5 for share in shares)


def test_it_ends_with_figures(run):
    assert [row["failed"] for row in summary(run).to_json()] == ["0", "0", "0"]


def test_sizes_that_ragflow_does_not_send_give_no_verdict(run):
    with pytest.raises(ragops.BenchError) as caught:
        judge(run)
    assert caught.value.code == "verdict-missing"


def test_a_second_client_is_flagged_by_its_effect(engine, declared, running, tmp_path):
    stop = threading.Event()

    def strangers():
        request = RerankRequest(running.served_name).body()
        while not stop.is_set():
            headers = {"content-type": "application/json"}
            httpx.post(running.host_url + "/rerank", content=request, headers=headers, timeout=240)

    other = threading.Thread(target=strangers)
    other.start()
    try:
        work = synthetic(8, documents=8, words=40, max_words=measure.max_words(declared))
        config = BenchmarkConfig(work, results=tmp_path, with_limits=False)
        folder = measure.benchmark(declared, config, engine=engine)
    finally:
        stop.set()
        other.join()
    assert any(line.startswith("a second client") for line in disturbances(load_run(folder)))


def test_an_interrupted_run_is_continued_to_a_verdict(engine, declared, running, tmp_path):
    work = ragflow(12, max_words=measure.max_words(declared), release="v0.27.0")
    config = BenchmarkConfig(work, results=tmp_path, with_limits=False)

    class Interrupt(progress.Progress):
        def advance(self, done, total, text=""):
            if done == 6:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), progress.receiver(Interrupt()):
        measure.benchmark(declared, config, engine=engine)
    (folder,) = tmp_path.iterdir()
    cut = load_run(folder)
    assert cut.missing
    run = load_run(measure.resume(Session(declared, engine), folder))
    assert run.info.complete
    assert len(run.measured) == 12
    verdict = judge(run)
    assert verdict.release == "v0.27.0"
    assert "largest window (estimated)" in dict(verdict.table().rows)  # how large depends on the machine
    assert any(note.startswith("substitute model") for note in verdict.notes)


def test_any_server_is_measured_by_its_address(declared, running, tmp_path):
    config = BenchmarkConfig(synthetic(6, documents=4, words=20), (LoadLevel.burst(3),), results=tmp_path)
    (replica,) = running.replicas  # vLLM itself, whose counters the gateway does not have
    url = f"http://{replica.endpoint(declared.network.name).address}:8000/v1"
    folder = measure.benchmark_url(url, running.served_name, config)
    run = load_run(folder)
    assert run.info.complete
    assert run.info.provenance.vantage == measure.BY_URL
    assert run.info.order.after.right
    assert any(sample.prompt_tokens is not None for sample in run.samples)  # each on a quiet machine
    assert all(sample.cpu_ns is None for sample in run.samples)
