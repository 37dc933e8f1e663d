"""Waiting for the reranker: phases, and a reason within a look when it never comes."""

import json

import pytest

from ragops.checks import ready
from ragops.docker.objects import ContainerSpec, ExecResult, HealthCheck
from ragops.errors import EngineError, LaunchError

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


def test_exit_has_code_log_and_hint(box):
    box.output[NAME] = "error: unrecognized arguments: --nosuchflag"
    box.change(NAME, status="exited", exit_code=2)
    error = failure(box)
    assert "(exit code 2)" in error.message
    assert error.evidence == "error: unrecognized arguments: --nosuchflag"
    assert "does not know" not in error.hint
    assert "newer" in error.hint


def test_exit_out_of_memory(box):
    box.change(NAME, status="exited", exit_code=137, oom_killed=True)
    error = failure(box)
    assert "out of memory" in error.message
    assert error.evidence == "the log is empty"
    assert "memory_gib" in error.hint


def test_restart_while_waiting_is_a_failure(box):
    def restart(*_, **__):
        box.change(NAME, restart_count=1)
        return ""

    box.logs = restart
    assert "restarted 1 times" in failure(box).message


def test_restarting_container_is_a_failure(box):
    box.change(NAME, status="restarting", exit_code=3)
    assert "exit code 3" in failure(box).message


def test_paused_and_removed(box):
    box.change(NAME, status="paused")
    assert failure(box).hint == "docker unpause reranker"
    box.remove_container(NAME)
    assert "was removed" in failure(box).message


def test_timeout_shows_the_end_of_the_log(box):
    box.output[NAME] = "\n".join(f"line {number}" for number in range(20))
    error = failure(box, timeout=-1.0)
    assert error.code == "start-slow"
    assert error.evidence.splitlines() == [f"line {number}" for number in range(12, 20)]
    assert "ready_timeout" in error.hint


def test_engine_error_is_raised(box):
    def gone(*_, **__):
        raise EngineError("the Docker engine did not answer")

    box.logs = gone
    with pytest.raises(EngineError):
        wait(box)
