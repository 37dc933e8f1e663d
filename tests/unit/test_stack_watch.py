"""The loop of ``ragops watch`` on a fake engine: it repairs, logs each action, and ends with code 0."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from ragops.configuration import Network, Reranker, Stack
from ragops.docker.objects import COMPOSE_PROJECT, COMPOSE_SERVICE
from ragops.errors import EngineError, LockedError, StackError
from ragops.session import lock
from ragops.stack import verbs
from ragops.stack.watch import Pace, Watcher

STACK = Stack(gateway=False)
NET, RERANKER, RAGFLOW = STACK.network.name, STACK.reranker.name, "docker-ragflow-cpu-1"
FAST = Pace(settle=0.01, apart=0.01, check=60.0, probe=0.02, start=0.01, longest=0.05)

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def up(serving, ragflow, monkeypatch):
    monkeypatch.setattr("ragops.stack.watch._RECONNECT", (0.01,))
    verbs.up(STACK, serving)
    serving.change(RERANKER, health="healthy")
    serving.calls.clear()
    return serving


class Run:
    """A watcher in its own thread."""

    def __init__(self, log, read=lambda: STACK, pace=FAST):
        self.log = log
        self.watcher = Watcher(read, pace)
        self.thread = threading.Thread(target=self.watcher.run, daemon=True)
        self.thread.start()

    def until(self, expected):
        """Wait for a log message, or until a function returns true."""
        done = (lambda: expected in self.log) if isinstance(expected, str) else expected
        deadline = time.monotonic() + 120
        while not done():
            assert time.monotonic() < deadline, self.log
            assert self.thread.is_alive(), self.log
            time.sleep(0.005)

    def settled(self):
        """Wait for a check without drift."""
        self.until(
            lambda: (
                not self.watcher._state.disconnected and self.watcher._state.check_at > time.monotonic() + 1
            )
        )


@pytest.fixture
def start(up, messages):
    made = []

    def begin(**options):
        made.append(Run(messages, **options))
        made[-1].settled()
        return made[-1]

    yield begin
    for run in made:
        run.watcher.stop()
        up.end_events()
        run.thread.join(60)
        assert not run.thread.is_alive()


def reranker_of(run):
    return run.watcher._state.container(RERANKER)


def recreate(engine):
    engine.remove_container(RAGFLOW)
    labels = {COMPOSE_PROJECT: "docker", COMPOSE_SERVICE: "ragflow-cpu"}
    engine.add_container(RAGFLOW, network="docker_ragflow", labels=labels)


def test_nothing_to_repair_changes_nothing(up, start):
    run = start()
    assert (up.calls, run.log) == ([], [f"watching {RERANKER} and {NET}"])


def test_recreated_ragflow_is_connected(up, start):
    run = start()
    recreate(up)
    run.until(f"+ connect {RAGFLOW} to {NET}")
    run.settled()
    assert up.container(RAGFLOW).endpoint(NET).address
    assert run.watcher.repairs == 1


@pytest.mark.parametrize("end", ["stop", "remove_container"])
def test_missing_reranker_is_started(up, start, end):
    run = start()
    getattr(up, end)(RERANKER)
    run.until(lambda: (box := up.container(RERANKER)) is not None and box.running)


def test_unhealthy_reranker_is_restarted_when_one_response_is_missing(up, start):
    run = start(pace=dataclasses.replace(FAST, probe=60.0))
    up.respond = lambda *_: None
    up.change(RERANKER, health="unhealthy")
    run.until(f"~ restart container {RERANKER}: no response to 1 request")
    run.until(lambda: up.container(RERANKER).health == "starting")
    assert [line for line in run.log if "listens, but does not respond" in line]


def test_a_server_that_responds_is_never_restarted(up, start):
    """Docker's health check is older than the end of a pause."""
    run, asked, answer = start(), [], up.respond
    up.respond = lambda *call: asked.append(call) or answer(*call)
    up.pause(RERANKER)
    up.change(RERANKER, health="unhealthy")
    run.until(lambda: any(line.endswith(f"docker unpause {RERANKER}") for line in run.log))
    asked.clear()
    up.unpause(RERANKER)
    run.until(lambda: reranker_of(run).unhealthy and len(asked) > 5)
    assert not any(line.startswith("~") or "does not respond" in line for line in run.log)
    assert up.calls == [f"pause {RERANKER}", f"unpause {RERANKER}"]


@pytest.mark.parametrize(("end", "cause"), [({"exit_code": 132}, "SIGILL"), ({"oom_killed": True}, "memory")])
def test_cause_of_a_crash_is_logged_once(up, start, end, cause):
    run = start()
    up.change(RERANKER, status="exited", published=(), **end)
    run.until(f"~ start container {RERANKER}")
    run.settled()
    (line,) = [line for line in run.log if line.startswith("error: ")]
    assert cause in line
    assert "hint: " in line


def test_a_changed_configuration_applies_to_events_too(up, start):
    stacks = [STACK]
    run = start(read=lambda: stacks[-1])
    stacks.append(STACK.model_copy(update={"network": Network(name="other")}))
    up.stop(RERANKER)
    run.until(lambda: up.network("other") is not None)
    run.settled()
    up.disconnect("other", RAGFLOW)
    run.until(lambda: up.container(RAGFLOW).endpoint("other") is not None)


def test_another_reranker_in_the_configuration_ends_it(up, messages):
    stacks = [Stack(gateway=False, reranker=Reranker(name="other")), STACK]
    up.change(RERANKER, health="starting")
    with pytest.raises(StackError) as caught:
        Watcher(stacks.pop, FAST).run()
    assert caught.value.code == "reranker-renamed"
    assert up.calls == []


def test_an_address_that_works_once_ends_it(up, monkeypatch):
    def connect(address=None):
        if address:
            raise EngineError("no Docker engine responds", evidence="Invalid bind address protocol")
        return up

    monkeypatch.setattr("ragops.docker.engine.connect", connect)
    with pytest.raises(EngineError):
        Watcher(lambda: STACK, FAST).run()


def test_healthy_reranker_without_responses_is_restarted(up, start):
    answer = up.respond
    up.respond = lambda *_: None
    run = start()
    run.until(lambda: f"start {RERANKER}" in up.calls)
    assert f"~ restart container {RERANKER}: no response to 3 requests" in run.log
    assert f"{RERANKER} did not respond, 2 times in a row" in run.log
    up.respond = answer
    up.change(RERANKER, health="healthy")
    run.until(lambda: reranker_of(run).serving and not reranker_of(run).starts)


def test_missing_network_is_created_again(up, start):
    run = start()
    with lock(up.state().id, RERANKER):  # so that nothing is repaired in between
        up.disconnect(NET, RAGFLOW)
        up.stop(RERANKER)
        up.remove_network(NET)
    run.until(lambda: up.container(RERANKER).running and up.container(RAGFLOW).endpoint(NET) is not None)
    assert up.container(RERANKER).endpoint(NET).network_id == up.network(NET).id


def test_check_runs_after_the_engine_is_reachable_again(up, start):
    run = start()
    with lock(up.state().id, RERANKER):
        up.disconnect(NET, RAGFLOW)
        up.end_events()
        run.until("the Docker engine is reachable again")
    run.until(f"+ connect {RAGFLOW} to {NET}")
    assert "the Docker engine is unreachable: waiting for it" in run.log


def test_another_process_that_changes_the_stack_goes_first(up, start):
    run = start()
    with lock(up.state().id, RERANKER):
        up.disconnect(NET, RAGFLOW)
        time.sleep(0.1)
        assert up.container(RAGFLOW).endpoint(NET) is None
    run.until(f"+ connect {RAGFLOW} to {NET}")
    assert not any(line.startswith("error") for line in run.log)


def test_ragflow_is_connected_although_the_reranker_cannot_start(up, start):
    run = start()
    up.refuse(f"start {RERANKER}", "address already in use")
    with lock(up.state().id, RERANKER):
        up.stop(RERANKER)
        recreate(up)
    run.until(lambda: up.container(RAGFLOW).endpoint(NET) is not None)
    run.until(lambda: any("address already in use" in line for line in run.log))
    run.until(lambda: up.container(RERANKER).running)


def test_failure_is_logged_once_and_repaired_later(up, start):
    broken = []

    def read():
        if broken:
            raise StackError("ragops.toml is not TOML", evidence="line 1")
        return STACK

    run = start(read=read)
    broken.append(True)
    up.disconnect(NET, RAGFLOW)
    run.until("error: ragops.toml is not TOML - line 1")
    time.sleep(0.2)
    broken.clear()
    run.until(f"+ connect {RAGFLOW} to {NET}")
    assert sum("not TOML" in line for line in run.log) == 1


def test_ragflow_is_never_started_stopped_or_removed(up, start):
    run = start()
    recreate(up)
    run.until(f"+ connect {RAGFLOW} to {NET}")
    up.stop(RAGFLOW)
    up.remove_container(RERANKER)
    run.until(lambda: up.container(RERANKER) is not None and up.container(RERANKER).running)
    mine = [f"stop {RAGFLOW}", f"remove container {RAGFLOW}"]
    touched = [call for call in up.calls if RAGFLOW in call and call not in mine]
    assert set(touched) == {f"connect {RAGFLOW} to {NET}"}
    assert up.container(RAGFLOW).status == "exited"


@pytest.mark.parametrize(
    "verb",
    [
        lambda engine: verbs.down(STACK, engine),
        lambda engine: verbs.disconnect(STACK, RAGFLOW, engine),
        verbs.purge,
    ],
)
def test_removal_is_refused_while_watching(up, start, verb):
    start()
    with pytest.raises(LockedError) as caught:
        verb(up)
    assert "end ragops watch first" in caught.value.hint
    assert up.calls == []


def test_second_watcher_is_refused(up, start):
    start()
    with pytest.raises(LockedError):
        Watcher(lambda: STACK).run()


def surroundings(tmp_path, model_folder):
    """The environment of another process."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(sys.path),
        "RAGOPS_HOME": str(tmp_path),
        "RAGOPS_MODEL_DIR": str(model_folder),
        "HOME": str(tmp_path),
    }


def test_without_an_engine_it_exits(tmp_path, model_folder):
    done = subprocess.run(
        [sys.executable, "-m", "ragops", "watch"],
        env=surroundings(tmp_path, model_folder) | {"DOCKER_HOST": f"unix://{tmp_path}/none"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, "error: no Docker engine responds")


ENDING = """
import sys
from ragops.cli import main
from tests.support.fake_engine import FakeEngine
engine = FakeEngine()
import ragops.docker.engine
ragops.docker.engine.connect = lambda *_: engine
sys.exit(main(["watch", "--json"]))
"""


class TestGateway:
    """Two replicas behind a gateway: what is right of the others stays as it is."""

    STACK = Stack(reranker=Reranker(replicas=2))
    SECOND = f"{RERANKER}-2"

    @pytest.fixture
    def up(self, serving, ragflow, monkeypatch):
        monkeypatch.setattr("ragops.stack.watch._RECONNECT", (0.01,))
        verbs.up(self.STACK, serving)
        for container in (RERANKER, f"{RERANKER}-1", self.SECOND):
            serving.change(container, health="healthy")
        serving.calls.clear()
        return serving

    @pytest.mark.parametrize("name", [RERANKER, f"{RERANKER}-1", SECOND])
    def test_a_container_without_responses_is_restarted_alone(self, up, start, name):
        respond = up.respond
        up.respond = lambda box, *call: None if box.name == name else respond(box, *call)
        run = start(read=lambda: self.STACK)
        run.until(lambda: f"start {name}" in up.calls)
        assert f"~ restart container {name}: no response to 3 requests" in run.log
        up.respond = respond
        up.change(name, health="healthy")
        run.until(lambda: (state := run.watcher._state.container(name)).serving and not state.starts)
        assert set(up.calls) == {f"stop {name}", f"start {name}"}

    @pytest.mark.parametrize("name", [RERANKER, SECOND])
    @pytest.mark.parametrize("end", ["stop", "remove_container"])
    def test_a_container_that_ended_is_started_alone(self, up, start, name, end):
        run = start(read=lambda: self.STACK)
        getattr(up, end)(name)
        run.until(lambda: (box := up.container(name)) is not None and box.running)
        others = [call for call in up.calls if name not in call.split()]
        assert others == []

    def test_the_gateway_stays_while_no_replica_responds(self, up, start):
        run, respond, probes = start(read=lambda: self.STACK), up.respond, []

        def silent(box, *call):
            probes.append(box.name)
            return respond(box, *call) if box.role == "gateway" else None

        up.respond = silent
        run.until(lambda: {f"start {RERANKER}-1", f"start {self.SECOND}"} <= set(up.calls))
        probes.clear()
        run.until(lambda: probes.count(RERANKER) > 5)
        assert not any(RERANKER in call.split() for call in up.calls)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_with_code_0(tmp_path, model_folder, sign):
    process = subprocess.Popen(
        [sys.executable, "-c", ENDING],
        env=surroundings(tmp_path, model_folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert " watching " in process.stderr.readline()
    process.send_signal(sign)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert set(json.loads(out)) == {"repairs"}
