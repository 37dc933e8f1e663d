"""A run that is cut short keeps what it had, says what is missing, and can be continued."""

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

from ragops import bench
from ragops.bench.load import BenchmarkConfig, Server
from ragops.bench.records import LoadLevel, Provenance, RunFolder, load_run
from ragops.bench.run import resume
from ragops.bench.workload import from_jsonl, synthetic
from ragops.errors import BenchError
from tests.support.stub import Behaviour, StubReranker

SERVER = ("base_url", "model", "api_key", "provenance", "sampler")
WORKLOAD = synthetic(12, 3, 20)
ORIGIN = Provenance(machine="two cores", model_sha256="a" * 64)


def record(*, progress=None, stop=None, **options):
    """Record a run; the options are those of a server and of a configuration together."""
    of_server = {name: options.pop(name) for name in SERVER if name in options}
    config = BenchmarkConfig(**{"with_limits": False} | options)
    return bench.record(Server(**of_server), config, progress=progress, stop=stop)


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


def test_what_is_missing_is_played_and_nothing_twice(cut, stub):
    kept = load_run(cut)
    assert kept.missing
    before = len(stub.calls)
    events = []
    assert resume(cut, progress=events.append) == cut
    run = load_run(cut)
    assert (run.info.complete, run.problems, run.missing) == (True, (), ())
    assert run.requests[: len(kept.requests)] == kept.requests
    places = [(r.level, r.repeat, r.index) for r in run.measured]
    assert len(places) == len(set(places)) == 12 + 6
    assert {r.session for r in run.requests} == {0, 1}
    assert len(run.info.resumed) == 1
    assert events[-1].done == events[-1].total == len(run.requests) == run.info.client.requests
    sent = [call.body["query"] for call in stub.calls[before + 5 : -5]]
    assert not set(sent) & {call.body["query"] for call in stub.calls[5:before]}


def test_a_complete_run_is_not_continued(settings):
    with pytest.raises(BenchError, match="is complete"):
        resume(record(**settings))


def test_another_reranker_or_other_texts_are_refused(cut):
    with pytest.raises(BenchError, match="not the one that the run began with") as caught:
        resume(cut, Server("", "", provenance=replace(ORIGIN, model_sha256="b" * 64)))
    assert "model_sha256" in caught.value.evidence
    with pytest.raises(BenchError, match="not the requests of that run"):
        resume(cut, workload=synthetic(12, 3, 20, seed=2))
    assert not load_run(cut).info.resumed


def test_own_texts_are_brought_along(settings, tmp_path):
    file = tmp_path / "mine.jsonl"
    rows = [{"query": f"question {n}", "documents": ["red apple", "pear"]} for n in range(4)]
    file.write_text("\n".join(map(json.dumps, rows)))
    results = tmp_path / "results"
    with pytest.raises(KeyboardInterrupt):
        record(
            **{**settings, "workload": from_jsonl(file), "results": results},
            progress=lambda event: event.done == 3 and signal.raise_signal(signal.SIGINT),
        )
    (path,) = results.iterdir()
    with pytest.raises(BenchError, match="can't be generated again") as caught:
        resume(path)
    assert "--workload FILE" in caught.value.hint
    assert load_run(resume(path, workload=from_jsonl(file))).info.complete


def test_a_wrong_order_is_not_continued(cut):
    with StubReranker(Behaviour(order="wrong")) as wrong:
        file = cut / "run.json"
        content = json.loads(file.read_text())
        file.write_text(json.dumps({**content, "base_url": wrong.base_url}))
        with pytest.raises(BenchError, match="known query wrongly"):
            resume(cut)


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
        with pytest.raises(BenchError, match="another process is recording"):
            RunFolder(path, resume=True)
        child.kill()
        child.wait()
        with (path / "requests.jsonl").open("ab") as file:
            file.write(b'{"level": "clos')  # a line that the kill cut in two
        run = load_run(path)
        assert run.problems[0] == "requests.jsonl: last line cut off, left out"
        assert "still running" in run.problems[1]
        assert len(run.requests) >= 4
        with pytest.raises(KeyboardInterrupt):
            resume(path, progress=lambda now: now.done == 13 and signal.raise_signal(signal.SIGINT))
        again = load_run(path)
        assert again.requests[: len(run.requests)] == run.requests
        assert not any("cut off" in problem for problem in again.problems)


def test_a_reboot_sets_no_request_back(cut):
    """The clock starts anew at a reboot; the run goes on behind what it had."""
    file = cut / "run.json"
    content = json.loads(file.read_text())
    ahead = 10**15
    file.write_text(json.dumps({**content, "started_ns": content["started_ns"] + ahead}))
    lines = [json.loads(line) for line in (cut / "requests.jsonl").read_text().splitlines()]
    moved = [{**row, **{t: row[t] + ahead for t in ("t_sched", "t_send", "t_done")}} for row in lines]
    (cut / "requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in moved))
    run = load_run(resume(cut))
    old, new = ([r for r in run.requests if r.session == n] for n in (0, 1))
    assert min(r.t_send for r in new) >= max(r.t_done for r in old) - 2 * 10**9
    assert all(0 < r.service < 5 for r in new)


def test_a_server_that_went_away_ends_the_run(settings, tmp_path):
    stub = StubReranker(Behaviour(fixed_s=0.005))

    def close(event):
        if event.done == 4:
            stub.__exit__()

    with stub, pytest.raises(BenchError, match="the reranker is unreachable") as caught:
        record(**{**settings, "base_url": stub.base_url}, progress=close)
    (path,) = tmp_path.iterdir()
    assert f"--resume {path}" in caught.value.hint
    run = load_run(path)
    lost = [r for r in run.requests if r.error.startswith("connection:")]
    assert len(lost) == 5
    assert "the reranker is unreachable" in run.info.reason
    assert len(run.measured) < 18


def test_a_full_disk_ends_the_run_and_keeps_what_it_had(settings, tmp_path, monkeypatch):
    whole = RunFolder.add_request

    def filling(folder, record):
        file = folder._requests.fileno()
        if (folder.path / "requests.jsonl").read_bytes().count(b"\n") == 4:
            device = os.open("/dev/full", os.O_WRONLY)
            os.dup2(device, file)
            os.close(device)
        whole(folder, record)

    monkeypatch.setattr(RunFolder, "add_request", filling)
    with pytest.raises(BenchError, match="can't write to") as caught:
        record(**settings)
    assert "No space left" in caught.value.evidence
    assert "--resume" in caught.value.hint
    monkeypatch.undo()
    (path,) = tmp_path.iterdir()
    run = load_run(path)
    assert len(run.requests) == 4
    assert "can't write" in run.info.reason
    assert load_run(resume(path)).info.complete


def test_a_run_of_the_first_form_is_read(settings):
    path = record(**settings)
    file = path / "run.json"
    content = json.loads(file.read_text())
    for new in ("limit", "template_tokens", "resumed"):
        del content[new]
    file.write_text(json.dumps({**content, "schema_version": 1}))
    run = load_run(path)
    assert (run.problems, run.info.limit, run.info.resumed) == ((), None, ())
    for old in (Path(__file__).parents[2] / "results").glob("*/run.json"):
        assert load_run(old.parent).problems == ()
