"""Interrupted runs keep their requests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ragops.bench.records import LoadLevel, Provenance, RunFolder, load_run
from ragops.bench.workload import synthetic
from ragops.errors import BenchError
from tests.support.recording import record
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
        child.kill()
        child.wait()
        with (path / "requests.jsonl").open("ab") as file:
            file.write(b'{"level": "clos')  # a line that the kill cut in two
        run = load_run(path)
        assert run.problems[0] == "requests.jsonl: last line cut off, left out"
        assert "still running" in run.problems[1]
        assert len(run.requests) >= 4


def test_an_unreachable_server_ends_the_run(settings, tmp_path):
    stub = StubReranker(Behaviour(fixed_s=0.005))

    def close(event):
        if event.done == 4:
            stub.__exit__()

    with stub, pytest.raises(BenchError) as caught:
        record(**{**settings, "base_url": stub.base_url}, progress=close)
    (path,) = tmp_path.iterdir()
    run = load_run(path)
    lost = [r for r in run.requests if r.error.startswith("connection:")]
    assert len(lost) == 5
    assert caught.value.code == "reranker-gone"
    assert run.info.reason.startswith("ended by BenchError")
    assert len(run.measured) < 18


def test_a_full_disk_ends_the_run_and_keeps_its_requests(settings, tmp_path, monkeypatch):
    add_request = RunFolder.add_request

    def filling(folder, record):
        file = folder._requests.fileno()
        if (folder.path / "requests.jsonl").read_bytes().count(b"\n") == 4:
            device = os.open("/dev/full", os.O_WRONLY)
            os.dup2(device, file)
            os.close(device)
        add_request(folder, record)

    monkeypatch.setattr(RunFolder, "add_request", filling)
    with pytest.raises(BenchError) as caught:
        record(**settings)
    assert "No space left" in caught.value.evidence
    monkeypatch.undo()
    (path,) = tmp_path.iterdir()
    run = load_run(path)
    assert len(run.requests) == 4
    assert caught.value.code == "disk-full"
    assert run.info.reason.startswith("ended by BenchError")


def test_runs_of_schema_version_1_are_read(settings):
    path = record(**settings)
    file = path / "run.json"
    content = json.loads(file.read_text())
    del content["limit"]
    file.write_text(json.dumps({**content, "schema_version": 1}))
    run = load_run(path)
    assert (run.problems, run.info.limit) == ((), None)
    for old in (Path(__file__).parents[2] / "results").glob("*/run.json"):
        assert load_run(old.parent).problems == ()
