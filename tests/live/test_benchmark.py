"""A short benchmark of the real server: the run folder, its figures, and where it comes from."""

import pytest

import ragops
from ragops import measure
from ragops.bench import Level, load_run, summary, synthetic, verdict


@pytest.fixture(scope="module")
def run(engine, declared, running, tmp_path_factory):
    folder = measure.benchmark(
        declared,
        workload=synthetic(12, documents=8, words=40, max_words=measure.max_words(declared)),
        levels=(Level.closed(1), Level.closed(4), Level.poisson(2.0)),
        name="live",
        results=tmp_path_factory.mktemp("results"),
        warmup=2,
        engine=engine,
    )
    return load_run(folder)


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
    used = [sample.cpu_ns for sample in run.samples]
    assert len(used) >= 2
    assert used == sorted(used)
    assert used[-1] > used[0]
    assert all(sample.memory_bytes for sample in run.samples)
    assert any(sample.running is not None for sample in run.samples)


def test_it_ends_with_figures(run):
    assert list(summary(run)["errors"]) == [0, 0, 0]


def test_sizes_that_ragflow_does_not_send_give_no_verdict(run):
    with pytest.raises(ragops.BenchError, match="nothing about RAGFlow"):
        verdict(run)
