"""Interrupted runs: what they keep, and how they are resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ragops.bench.records import LoadLevel, Provenance, RunFolder, load_run
from ragops.bench.wire import Server
from ragops.bench.workload import from_jsonl, synthetic
from ragops.errors import BenchError
from tests.support.recording import record, resume
from tests.support.stub import Behaviour, StubReranker

WORKLOAD = synthetic(12, 3, 20)
ORIGIN = Provenance(machine="two cores", model_sha256="a" * 64)


@pytest.fixture
def stub():
    with StubReranker(Behaviour(fixed_s=0.002)) as running:
        yield running


@pytest.fixture
def settings(stub, tmp_path):
    return {
        "base_url": stub.base_url,
        "model": "stub-reranker",
        "workload": WORKLOAD,
        "levels": (LoadLevel.closed(1), LoadLevel.closed(2, requests=6)),
        "name": "cut short",
        "results": tmp_path,
        "warmup": 1,
        "provenance": ORIGIN,
    }


@pytest.fixture
def cut(settings, tmp_path):
    """A run that ended after a few requests."""

    def stop(event):
        if event.done == 5:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        record(**settings, progress=stop)
    (path,) = tmp_path.iterdir()
    return path


def test_missing_requests_are_sent_and_none_twice(cut, stub):
    before_resume = load_run(cut)
    assert before_resume.missing
    before = len(stub.calls)
    events = []
    assert resume(cut, progress=events.append) == cut
    run = load_run(cut)
    assert (run.info.complete, run.problems, run.missing) == (True, (), ())
    assert run.requests[: len(before_resume.requests)] == before_resume.requests
    places = [(r.level, r.repeat, r.index) for r in run.measured]
    assert len(places) == len(set(places)) == 12 + 6
    assert {r.session for r in run.requests} == {0, 1}
    assert len(run.info.resumed) == 1
    assert events[-1].done == events[-1].total == len(run.requests) == run.info.client.requests
    sent = [call.body["query"] for call in stub.calls[before + 5 : -5]]
    assert not set(sent) & {call.body["query"] for call in stub.calls[5:before]}


def test_a_complete_run_is_not_resumed(settings):
    with pytest.raises(BenchError) as caught:
        resume(record(**settings))
    assert caught.value.code == "run-not-continued"


def test_another_reranker_or_other_texts_are_refused(cut):
    with pytest.raises(BenchError) as caught:
        resume(cut, Server("http://reranker/v1", "", provenance=replace(ORIGIN, model_sha256="b" * 64)))
    assert "model_sha256" in caught.value.evidence
    with pytest.raises(BenchError) as caught:
        resume(cut, workload=synthetic(12, 3, 20, seed=2))
    assert (caught.value.code, caught.value.evidence[:7]) == ("run-not-continued", "sha256 ")
    assert not load_run(cut).info.resumed


def test_own_requests_are_given_again(settings, tmp_path):
    file = tmp_path / "own.jsonl"
    rows = [{"query": f"question {n}", "documents": ["red apple", "pear"]} for n in range(4)]
    file.write_text("\n".join(map(json.dumps, rows)))
    results = tmp_path / "results"
    with pytest.raises(KeyboardInterrupt):
        record(
            **{**settings, "workload": from_jsonl(file), "results": results},
            progress=lambda event: event.done == 3 and signal.raise_signal(signal.SIGINT),
        )
    (path,) = results.iterdir()
    with pytest.raises(BenchError) as caught:
        resume(path)
    assert "--workload FILE" in caught.value.hint
    assert load_run(resume(path, workload=from_jsonl(file))).info.complete


def test_a_wrong_order_is_not_resumed(cut):
    with StubReranker(Behaviour(order="wrong")) as wrong:
        file = cut / "run.json"
        content = json.loads(file.read_text())
        file.write_text(json.dumps({**content, "base_url": wrong.base_url}))
        with pytest.raises(BenchError) as caught:
            resume(cut)
        assert caught.value.code == "order-wrong"


CLIENT = """
import sys
from ragops.bench import BenchmarkConfig, Server, record, synthetic
config = BenchmarkConfig(synthetic(200, 3, 20), results=sys.argv[2], warmup=1, with_limits=False)
record(Server(sys.argv[1], "stub-reranker"), config)
"""


def test_a_killed_client_leaves_its_requests(tmp_path):
    with StubReranker(Behaviour(fixed_s=0.05)) as stub:
        argv = [sys.executable, "-c", CLIENT, stub.base_url, str(tmp_path)]
        child = subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
        while len(stub.calls) < 5 + 6:
            assert child.poll() is None
            time.sleep(0.01)
        (path,) = tmp_path.iterdir()
        with pytest.raises(BenchError) as caught:
            RunFolder(path, resume=True)
        assert caught.value.code == "run-busy"
        child.kill()
        child.wait()
        with (path / "requests.jsonl").open("ab") as file:
            file.write(b'{"level": "clos')  # a line that the kill cut in two
        run = load_run(path)
        assert run.problems[0] == "requests.jsonl: last line cut off, left out"
        assert "still running" in run.problems[1]
        assert len(run.requests) >= 4
        first = iter([signal.SIGINT])  # of the request after those of the killed client
        with pytest.raises(KeyboardInterrupt):
            resume(path, progress=lambda _: [signal.raise_signal(sign) for sign in first])
        again = load_run(path)
        assert again.requests[: len(run.requests)] == run.requests
        assert not any("cut off" in problem for problem in again.problems)


def test_a_run_from_before_a_reboot_is_not_resumed(cut):
    """A reboot resets the clock of the times."""
    file = cut / "run.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "started_ns": time.perf_counter_ns() + 10**12}))
    with pytest.raises(BenchError) as caught:
        resume(cut)
    assert caught.value.code == "run-not-continued"


def test_an_unreachable_server_ends_the_run(settings, tmp_path):
    stub = StubReranker(Behaviour(fixed_s=0.005))

    def close(event):
        if event.done == 4:
            stub.__exit__()

    with stub, pytest.raises(BenchError) as caught:
        record(**{**settings, "base_url": stub.base_url}, progress=close)
    (path,) = tmp_path.iterdir()
    assert f"--resume {path}" in caught.value.hint
    run = load_run(path)
    lost = [r for r in run.requests if r.error.startswith("connection:")]
    assert len(lost) == 5
    assert caught.value.code == "reranker-gone"
    assert run.info.reason.startswith("ended by BenchError")
    assert len(run.measured) < 18


def test_a_full_disk_ends_the_run_and_keeps_its_requests(settings, tmp_path, monkeypatch):
    add = RunFolder.add

    def filling(folder, record):
        file = folder._requests.fileno()
        if (folder.path / "requests.jsonl").read_bytes().count(b"\n") == 4:
            device = os.open("/dev/full", os.O_WRONLY)
            os.dup2(device, file)
            os.close(device)
        add(folder, record)

    monkeypatch.setattr(RunFolder, "add", filling)
    with pytest.raises(BenchError) as caught:
        record(**settings)
    assert "No space left" in caught.value.evidence
    assert "--resume" in caught.value.hint
    monkeypatch.undo()
    (path,) = tmp_path.iterdir()
    run = load_run(path)
    assert len(run.requests) == 4
    assert caught.value.code == "disk-full"
    assert run.info.reason.startswith("ended by BenchError")
    assert load_run(resume(path)).info.complete


def test_runs_of_schema_version_1_are_read(settings):
    path = record(**settings)
    file, requests = path / "run.json", path / "requests.jsonl"
    rows = [json.loads(line) for line in requests.read_text().splitlines()]
    for row in rows:
        del row["gateway"]
    requests.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    content = json.loads(file.read_text())
    for new in ("limit", "resumed"):
        del content[new]
    file.write_text(json.dumps({**content, "schema_version": 1}))
    run = load_run(path)
    assert (run.problems, run.info.limit, run.info.resumed) == ((), None, ())
    assert {record.ranked == record.documents for record in run.measured} == {True}
    for old in (Path(__file__).parents[2] / "results").glob("*/run.json"):
        assert load_run(old.parent).problems == ()
