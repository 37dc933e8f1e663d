"""Recording a run into its folder, and reading it back."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from dataclasses import replace
from itertools import pairwise

import pytest

from ragops.bench import judge
from ragops.bench.records import LoadLevel, OrderReport, Provenance, RunFolder, Sample, load_run
from ragops.bench.workload import synthetic
from ragops.errors import BenchError, StackError
from ragops.ragflow.api import Secret
from tests.support.recording import record
from tests.support.stub import Behaviour, StubReranker

WORKLOAD = synthetic(4, 3, 20)
CHECKS = len(OrderReport().documents)
"""Requests of one order check."""
LEVELS = (LoadLevel.closed(1), LoadLevel.closed(2, requests=3))


@pytest.fixture(scope="module")
def stub():
    with StubReranker(Behaviour(fixed_s=0.002)) as running:
        yield running


@pytest.fixture
def settings(stub, tmp_path):
    return {
        "base_url": stub.base_url,
        "model": "stub-reranker",
        "workload": WORKLOAD,
        "levels": LEVELS,
        "name": "A first run!",
        "results": tmp_path,
        "warmup": 2,
    }


def sampler():
    return Sample(time.perf_counter_ns(), cpu_ns=5, memory_bytes=7)


def test_a_run_is_recorded_and_read_back(settings):
    origin = Provenance(machine="Xeon 2c", launch_arguments=("--dtype", "bfloat16"), git_dirty=True)
    events = []
    path = record(
        **settings,
        repeats=2,
        provenance=origin,
        sampler=sampler,
        progress=events.append,
        api_key=Secret("hush"),
    )
    assert path.name.endswith("Z-xeon-2c-a-first-run")
    assert "hush" not in (path / "run.json").read_text()
    run = load_run(path)
    assert run.problems == ()
    assert (run.info.complete, run.info.reason, run.info.schema_version) == (True, "", 3)
    assert run.info.provenance == origin
    assert run.info.workload == WORKLOAD.info()
    assert run.info.levels == LEVELS
    assert run.info.order.before.right
    assert run.info.order.after.right
    assert len(run.info.order.before.scores) == 5
    assert [event.done for event in events] == list(range(1, 23))
    assert {event.total for event in events} == {22}
    assert run.info.client.requests == 22
    assert 0 < run.info.client.cpu_seconds_per_request < 1
    assert len(run.samples) >= 2
    assert run.samples[0].memory_bytes == 7


def test_requests_of_each_trial(settings):
    run = load_run(record(**settings, repeats=2))
    assert len(run.requests) == 2 * (2 + 4) + 2 * (2 + 3)
    assert len(run.measured) == 2 * 4 + 2 * 3
    for repeat in (0, 1):
        records = [r for r in run.requests if (r.level, r.repeat) == ("closed-1", repeat)]
        assert [(r.phase, r.index) for r in records[:2]] == [("warmup", 3), ("warmup", 2)]
        assert [r.index for r in records[2:]] == [0, 1, 2, 3]
    assert all(r.documents == 3 and r.words == 20 and r.t_sched >= run.info.started_ns for r in run.requests)


def test_arrivals_differ_from_repeat_to_repeat(settings):
    run = load_run(record(**{**settings, "levels": (LoadLevel.poisson(100),)}, repeats=2))
    due = [sorted(r.t_sched for r in run.requests if r.repeat == repeat) for repeat in (0, 1)]
    first, second = ([b - a for a, b in pairwise(times)] for times in due)
    assert len(first) == len(second) == 5
    assert first != second


def test_no_text_is_sent_twice_unless_configured(settings, stub):
    before = len(stub.calls)
    record(**settings, repeats=2)
    sent = [call.body for call in stub.calls[before + CHECKS : -CHECKS]]
    assert len({body["query"] for body in sent}) == len(sent) == 22
    documents = [text for body in sent for text in body["documents"]]
    assert len(set(documents)) == len(documents) == 66
    before = len(stub.calls)
    record(**{**settings, "name": "again"}, fresh=False)
    assert {call.body["query"] for call in stub.calls[before + CHECKS : -CHECKS]} == {
        request.query for request in WORKLOAD.requests
    }


def test_wrong_order_is_not_measured(settings, tmp_path):
    with StubReranker(Behaviour(order="wrong")) as wrong:
        with pytest.raises(BenchError) as caught:
            record(**{**settings, "base_url": wrong.base_url})
        assert caught.value.code == "order-wrong"
        assert "0.333" in caught.value.evidence
        assert list(tmp_path.iterdir()) == []
        path = record(**{**settings, "base_url": wrong.base_url}, no_order_check="random weights")
    order = load_run(path).info.order
    assert (order.before, order.after, order.skipped) == (None, None, "random weights")
    assert order.verdict == "order of the scores not checked: random weights"


def test_order_that_turns_wrong_is_recorded(settings):
    with StubReranker(Behaviour(wrong_after=8)) as stub:
        path = record(**{**settings, "base_url": stub.base_url})
    order = load_run(path).info.order
    assert order.before.right
    assert not order.after.right
    assert order.failed


def test_a_silent_server_is_not_measured(settings, tmp_path):
    with pytest.raises(BenchError) as caught:
        record(**{**settings, "model": "X___VLLM"})
    assert caught.value.code == "server-silent"
    assert "does not exist" in caught.value.evidence
    assert list(tmp_path.iterdir()) == []


def test_failures_are_counted(settings):
    events = []
    with StubReranker(Behaviour(fail_every=4)) as stub:
        there = {**settings, "base_url": stub.base_url}
        path = record(**there, progress=events.append, no_order_check="a server that fails")
    run = load_run(path)
    assert sum(bool(r.error) for r in run.requests) == events[-1].errors == 2
    assert run.info.complete


def test_a_faulty_sampler_does_not_end_the_run(settings):
    def broken():
        msg = "no such container"
        raise OSError(msg)

    run = load_run(record(**settings, sampler=broken))
    assert run.info.complete
    assert run.samples == ()
    assert run.info.sampler_errors == ("OSError('no such container')",)


def test_client_overhead_is_recorded(settings):
    assert load_run(record(**settings)).info.client.cpu_seconds_per_request > 0


def test_interrupt_from_inside_a_running_loop(settings, tmp_path):
    """As in Jupyter, where the user interrupts the kernel."""

    def stop(event):
        if event.done == 3:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    async def cell():
        record(**{**settings, "levels": (LoadLevel.constant(8),)}, progress=stop)

    loop = asyncio.new_event_loop()
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(cell())
    loop.close()
    (path,) = tmp_path.iterdir()
    run = load_run(path)
    assert run.info.reason == "stopped by the user"
    assert 3 <= len(run.requests) < 6


def test_interrupt_without_a_loop(settings, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        record(**settings, progress=lambda event: event.done == 3 and signal.raise_signal(signal.SIGINT))
    (path,) = tmp_path.iterdir()
    assert load_run(path).info.reason == "stopped by the user"


def test_an_error_of_the_progress_callback_is_recorded(settings, tmp_path):
    def broken(_):
        msg = "no screen"
        raise RuntimeError(msg)

    with pytest.raises(ExceptionGroup):
        record(**settings, progress=broken)
    (path,) = tmp_path.iterdir()
    assert "no screen" in load_run(path).info.reason


@pytest.mark.parametrize(
    "wrong",
    [
        {"levels": ()},
        {"levels": (LoadLevel.closed(1), LoadLevel.closed(1))},
        {"repeats": 0},
        {"warmup": -1},
    ],
)
def test_invalid_settings(settings, wrong, tmp_path):
    with pytest.raises(BenchError):
        record(**{**settings, **wrong})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:81a3/v1",
        "http://[::1/v1",
        "http://a..b/v1",
        f"http://{'a' * 300}/v1",
        "http://127.0.0.1:99999/v1",
        "http://\0/v1",
        "http://user:password@127.0.0.1/v1",
        "ftp://127.0.0.1/v1",
        "127.0.0.1:8000/v1",
        "",
    ],
)
def test_invalid_addresses(settings, url, tmp_path):
    with pytest.raises(StackError) as caught:
        record(**{**settings, "base_url": url})
    assert caught.value.code == "address-refused"
    assert list(tmp_path.iterdir()) == []


def test_verdict_needs_ragflows_sizes(settings):
    with pytest.raises(BenchError, match="RAGFlow"):
        judge(load_run(record(**settings)))


def test_a_folder_is_never_overwritten(tmp_path):
    RunFolder(tmp_path / "one").close()
    with pytest.raises(BenchError) as caught:
        RunFolder(tmp_path / "one")
    assert caught.value.code == "run-unreadable"


@pytest.fixture
def recorded(settings):
    return record(**settings)


def test_a_cut_off_last_line_is_a_problem(recorded):
    file = recorded / "requests.jsonl"
    requests = load_run(recorded).requests
    file.write_bytes(file.read_bytes()[:-20])
    run = load_run(recorded)
    assert run.requests == requests[:-1]
    assert run.problems == ("requests.jsonl: last line cut off, left out",)


def test_broken_line_in_the_middle_is_an_error(recorded):
    file = recorded / "requests.jsonl"
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([lines[0], b'{"level": 3}', *lines[2:]]))
    with pytest.raises(BenchError, match=r"requests\.jsonl:2"):
        load_run(recorded)


def test_unreadable_runs(recorded, tmp_path):
    with pytest.raises(BenchError) as caught:
        load_run(tmp_path)
    assert caught.value.code == "run-unreadable"
    file = recorded / "run.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "schema_version": 4}))
    with pytest.raises(BenchError, match="schema version 4"):
        load_run(recorded)
    file.write_text('{"name": 1')
    with pytest.raises(BenchError, match="can't be read"):
        load_run(recorded)


def test_missing_samples_are_a_problem(recorded):
    (recorded / "samples.jsonl").unlink()
    assert load_run(recorded).problems == ("samples.jsonl can't be read: No such file or directory",)


def test_a_killed_run_is_incomplete(settings, tmp_path):
    """A process that was killed leaves the first run.json, which says that it is not complete."""
    folder = RunFolder(tmp_path / "killed")
    done = load_run(record(**settings))
    folder.write_info(replace(done.info, complete=False, reason="still running", client=None))
    folder.close()
    run = load_run(folder.path)
    assert (run.info.complete, run.requests) == (False, ())
    assert run.problems == (
        "run.json says incomplete: still running",
        "closed-1, repeat 0: 4 requests missing",
        "closed-2, repeat 0: 3 requests missing",
    )


def test_a_stopped_run_keeps_its_requests(settings):
    stop = threading.Event()

    def moved(now):
        if now.done == 3:
            stop.set()

    run = load_run(
        record(
            **settings | {"workload": synthetic(200, 3, 20), "levels": (LoadLevel.closed(1),)},
            progress=moved,
            stop=stop,
        )
    )
    assert (run.info.complete, run.info.reason) == (False, "stopped by the user")
    assert 3 <= len(run.requests) < 200


def test_cancelled_requests_are_no_errors(settings):
    stop, events = threading.Event(), []

    def moved(now):
        events.append(now)
        stop.set()

    with StubReranker(Behaviour(fixed_s=0.1)) as slow:
        address = {"base_url": slow.base_url, "levels": (LoadLevel.closed(2),)}
        run = load_run(record(**settings | address, progress=moved, stop=stop))
    assert any(record.is_cancelled for record in run.requests)
    assert events[-1].errors == 0
