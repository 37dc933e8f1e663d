"""Waiting for the reranker: phases, and a reason within a look when it never comes."""

import json

import pytest
from pydantic import TypeAdapter

from ragops.checks import ready
from ragops.docker.objects import ContainerSpec, ExecResult, HealthCheck
from ragops.errors import EngineError, LaunchError
from ragops.reranker.gateway import GatewayState

NAME = "reranker"
LISTENS = "INFO Application startup complete."


@pytest.fixture
def box(fake, monkeypatch):
    """A container that was just started, of an engine that answers yes."""
    monkeypatch.setattr(ready, "_INTERVAL", 0.0)
    health = HealthCheck(("true",))
    fake.create_container(ContainerSpec(NAME, "vllm-cpu:latest", health=health))
    fake.start(NAME)
    fake.respond = lambda *_: said(True)
    return fake


def said(ok):
    return ExecResult(0, json.dumps({"steps": {"rerank": {"ok": ok}}}), "")


def wait(engine, timeout=60.0):
    return ready.wait(engine, NAME, "model", timeout)


def failure(engine, timeout=60.0):
    with pytest.raises(LaunchError) as caught:
        wait(engine, timeout)
    return caught.value


def log_by_call(engine, *texts):
    """The log grows with each look."""
    left = list(texts)

    def logs(_container, *, tail):
        del tail
        return left.pop(0) if len(left) > 1 else left[0]

    engine.logs = logs


def test_phases_are_reported_once_each(box, steps):
    log_by_call(
        box, "", "", "Starting to load model /m", "Loading weights\n3 s", "Warming up model", f"x\n{LISTENS}"
    )
    wait(box)
    assert [line.partition(": ")[2].split()[0] for line in steps] == ["start", "load", "compile", "ready"]


def test_log_alone_is_not_enough(box):
    answers = [False, False, True]
    box.respond = lambda *_: said(answers.pop(0))
    box.output[NAME] = LISTENS
    wait(box)
    assert answers == []


def test_request_has_one_document(box):
    orders = []
    box.respond = lambda _box, argv, stdin: orders.append((argv[:2], json.loads(stdin))) or said(True)
    box.output[NAME] = LISTENS
    wait(box)
    argv, order = orders[0]
    assert argv == ("python3", "-c")
    assert order["base_url"] == "http://127.0.0.1:8000/v1"
    body = json.loads(order["body"])
    assert (body["model"], len(body["documents"])) == ("model", 1)


def test_invalid_result_is_retried(box):
    answers = [ExecResult(1, "", "Traceback"), ExecResult(0, "{}", ""), said(True)]
    box.respond = lambda *_: answers.pop(0)
    box.output[NAME] = LISTENS
    wait(box)
    assert answers == []


def test_healthy_container_with_a_long_log_is_ready(box):
    box.output[NAME] = f"{LISTENS}\n" + "GET /health\n" * 1000
    box.change(NAME, health="healthy")
    assert wait(box, timeout=0.0) >= 0


def test_earlier_restarts_are_no_failure(box):
    box.change(NAME, restart_count=2)
    box.output[NAME] = LISTENS
    wait(box)


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"status": "exited", "exit_code": 2}, "flag-unknown", "code 2"),
        ({"status": "exited", "exit_code": 137, "oom_killed": True}, "out-of-memory", "out of memory"),
        ({"restart_count": 1}, "flag-unknown", "restarted 1 times"),
        ({"restart_count": 1, "health": ""}, "flag-unknown", "restarted 1 times"),
        ({"status": "restarting", "exit_code": 132}, "cpu-too-old", "code 132"),
        ({"status": "paused"}, "reranker-paused", "is paused"),
    ],
    ids=str,
)
def test_exit_while_waiting_has_code_log_and_hint(box, change, code, words):
    def logs(*_, **__):
        box.change(NAME, **change)
        return "error: unrecognized arguments: --nosuchflag"

    box.logs = logs
    error = failure(box)
    assert error.code == code
    assert words in error.message
    assert error.evidence == "error: unrecognized arguments: --nosuchflag"
    assert error.hint
    assert error.container == NAME


def test_removal_while_waiting(box):
    box.remove_container(NAME)
    assert failure(box).code == "reranker-missing"


@pytest.mark.parametrize(("log", "code"), [("Loading weights", "start-slow"), (LISTENS, "reranker-hangs")])
def test_timeout_tells_loading_from_a_hang(box, log, code):
    box.respond = lambda *_: said(False)
    lines = [f"line {number}" for number in range(20)]
    box.output[NAME] = "\n".join([log, *lines])
    error = failure(box, timeout=-1.0)
    assert error.code == code
    assert error.evidence.splitlines() == lines[-8:]
    assert ("ready_timeout" in error.hint) is (code == "start-slow")


def test_each_request_ends_within_the_timeout(box, monkeypatch):
    clock, timeouts = [0.0], []

    def execute(*_, stdin, timeout):
        timeouts.append((json.loads(stdin)["timeout"], timeout))
        clock[0] += timeout
        return said(False)

    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr("time.sleep", lambda _: None)
    box.execute = execute
    box.output[NAME] = LISTENS
    assert failure(box, timeout=100.0).code == "reranker-hangs"
    assert timeouts == [(60.0, 60.0), (40.0, 40.0)]
    assert clock == [100.0]


@pytest.mark.parametrize("log", [LISTENS, "Loading weights"])
@pytest.mark.parametrize(("before", "takes"), [(0.0, 9.7), (1.3, 0.2), (0.4, 0.0)])
def test_wait_ends_before_the_timeout_counted_from_the_begin(box, monkeypatch, log, before, takes):
    """Pauses and the last request too; the time before the call counts from ``begin`` on."""
    clock = [100.0 + before]

    def execute(*_, timeout, **__):
        clock[0] += min(timeout, takes)
        return said(False)

    monkeypatch.setattr(ready, "_INTERVAL", 1.0)
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr("time.sleep", lambda seconds: clock.__setitem__(0, clock[0] + max(seconds, 0.01)))
    box.execute = execute
    box.output[NAME] = log
    with pytest.raises(LaunchError, match="after 10 s"):
        ready.wait(box, NAME, "model", 10.0, begin=100.0)
    assert 108.9 < clock[0] <= 110.0


def test_engine_error_is_raised(box):
    def gone(*_, **__):
        raise EngineError("the Docker engine did not answer")

    box.logs = gone
    with pytest.raises(EngineError):
        wait(box)


def test_one_that_is_being_removed_is_missing(box):
    """Its state is still that of one that runs when its log can't be read any more."""
    looks = []

    def removing(*_, **__):
        looks.append(box.container(NAME).status)
        if len(looks) == 2:
            box.remove_container(NAME)
        evidence = "can not get logs from container which is dead or marked for removal"
        raise EngineError("the Docker engine could not read the log", evidence=evidence)

    box.logs = removing
    assert failure(box).code == "reranker-missing"
    assert looks == ["running", "running"]


@pytest.mark.parametrize(
    ("results", "left"),
    [
        ([ExecResult(0, "2.0\n", ""), ExecResult(0, "0.0\n", ""), ExecResult(0, "1.0\n", "")], 1),
        ([ExecResult(1, "", "no /metrics"), ExecResult(0, "1.0\n", "")], 1),
        ([ExecResult(0, "1.0\n", "")] * 3, 0),
    ],
    ids=["until none runs", "no counter", "until the timeout"],
)
def test_drain_waits_for_running_requests(box, monkeypatch, results, left):
    times = iter(range(10))
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    queue = list(results)
    box.respond = lambda *_: queue.pop(0)
    ready.drain(box, NAME, timeout=4)
    assert len(queue) == left


def test_drain_of_a_stopped_container_returns(box):
    box.stop(NAME)
    ready.drain(box, NAME)


class TestAdmitted:
    """Two replicas behind a gateway, whose state is set; time passes in the waits only."""

    NAMES = ("reranker-1", "reranker-2")

    @pytest.fixture
    def behind(self, fake, monkeypatch):
        clock = [0.0]
        monkeypatch.setattr("time.monotonic", lambda: clock[0])
        monkeypatch.setattr("time.sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
        for name in (NAME, *self.NAMES):
            fake.create_container(ContainerSpec(name, "vllm-cpu:latest", network="bridge"))
            fake.start(name)

        def wait(*states, timeout=60.0):
            """Each state is the replicas' own, one second long; the last one lasts."""
            left = list(states)
            monkeypatch.setattr(
                ready, "read_state", lambda *_: self.state(fake, left.pop(0) if left[1:] else left[0])
            )
            ready.wait_admitted(fake, NAME, self.NAMES, timeout)
            return clock[0]

        return wait

    def state(self, fake, states):
        if states is None or isinstance(states, GatewayState):
            return states
        found = [fake.container(name).endpoints[0].address for name in self.NAMES]
        rows = [
            {"address": f"{address}:8000", "state": state, "reason": f"{state} it is"}
            for address, state in zip(found, states, strict=False)
        ]
        empty = {"reference": "", "deadline": 27, "cache": {}, "hour": {}}
        return TypeAdapter(GatewayState).validate_python({**empty, "replicas": rows})

    def test_returns_when_all_are_admitted(self, behind, steps):
        states = [
            None,
            (),
            ("checking",),
            ("admitted", "checking"),
            ("rejected", "admitted"),
            ("admitted",) * 2,
        ]
        assert behind(*states) == 5.0
        assert list(steps) == [
            "reranker: 0 of 2 replicas admitted",
            "reranker: 1 of 2 replicas admitted",
            "reranker: ready",
        ]

    @pytest.mark.parametrize(
        ("state", "code", "after"),
        [
            (("admitted", "rejected"), "replica-rejected", 11),
            (("admitted", "down"), "replica-down", 61),
            (("admitted", "checking"), "replica-checking", 61),
            (("admitted",), "replica-unknown", 61),
            (None, "gateway-silent", 61),
        ],
    )
    def test_reason_of_the_replica_that_is_not(self, behind, state, code, after):
        with pytest.raises(LaunchError) as caught:
            behind(state)
        error = caught.value
        assert (error.code, bool(error.hint)) == (code, True)
        assert f"after {after} s" in error.message
        assert state is None or error.container == "reranker-2"
        assert state is None or "reranker-2 " in error.evidence

    def test_ended_replica_and_gateway(self, behind, fake):
        fake.change("reranker-2", status="exited", exit_code=132)
        with pytest.raises(LaunchError) as caught:
            behind(("admitted",))
        assert (caught.value.code, caught.value.container) == ("cpu-too-old", "reranker-2")
        fake.change(NAME, status="exited", exit_code=1)
        with pytest.raises(LaunchError) as caught:
            behind(None)
        assert (caught.value.code, caught.value.container) == ("start-failed", NAME)

    def test_replica_that_is_gone(self, behind, fake):
        admitted = self.state(fake, ("admitted",) * 2)
        fake.remove_container("reranker-2")
        with pytest.raises(LaunchError) as caught:
            behind(admitted)
        assert (caught.value.code, caught.value.container) == ("reranker-missing", "reranker-2")
