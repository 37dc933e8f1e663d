"""A stack of the first version gets the gateway, is scaled, and loses the gateway, while RAGFlow calls.

RAGFlow is the demo client: its container must stay as it is, and its calls go to the same address. Replicas
are the product's containers with the stub in vLLM's place.
"""

import json
import logging
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby

import pytest

from benchmarks import free_port
from ragops.cli import main
from ragops.configuration import load
from ragops.docker import engine as engines
from ragops.docker.engine import observe
from ragops.docker.objects import LABEL_STACK
from ragops.reranker import gateway, options
from ragops.stack import verbs
from tests.support.container import in_place_of_vllm, package
from tests.support.names import PROJECT
from tests.support.stub import Behaviour

_log = logging.getLogger(__name__)
NAME = f"{PROJECT}-moved"
TEXT = """
gateway = false
[network]
name = "{name}"
[reranker]
name = "{name}"
port = {port}
memory_gib = 2
[ragflow]
project = "{project}"
"""
END = f"/tmp/{NAME}-end"  # noqa: S108 - in the demo client
CALLS = """
import json, os, sys, time, urllib.request
url, model, end = sys.argv[1:]
texts = ["A cat sleeps on the sofa.", "The invoice was paid in March.", "Rain fell on the hills all night."]
body = json.dumps({"model": model, "query": "When was the invoice paid?", "documents": texts, "top_n": 3})
request = urllib.request.Request(url, body.encode(), {"content-type": "application/json"})
while not os.path.exists(end):
    begin, error = time.time(), ""
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            results = json.load(response)["results"]
        order = [row["index"] for row in results]
        if order[0] != 1 or sorted(order) != [0, 1, 2]:
            error = f"wrong order {order}"
    except Exception as exception:
        error = repr(exception)
    print(json.dumps([begin, time.time(), error]), flush=True)
    time.sleep(0.1)
"""


@dataclass(frozen=True)
class Step:
    """What one change did to the calls."""

    name: str
    seconds: float
    calls: int
    failed: tuple[str, ...]
    outages: int
    """Runs of failed calls without one that succeeded."""
    slowest: float
    containers: tuple[str, ...]
    """Names of the stack's containers afterwards."""
    pending: bool
    """Whether a second ``up`` would change something."""


@dataclass
class Calls:
    """Calls from inside the demo client's container, one after the other."""

    client: str
    argv: tuple[str, ...]
    lines: list[list] = field(default_factory=list)

    def __enter__(self):
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def _run(self):
        with closing(engines.connect()) as engine:
            said = engine.execute(self.client, ("python3", "-c", CALLS, *self.argv), timeout=1200)
        assert not said.stderr, said.stderr
        self.lines += [json.loads(line) for line in said.stdout.splitlines()]

    def __exit__(self, *_):
        with closing(engines.connect()) as engine:
            engine.execute(self.client, ("python3", "-c", f"open({END!r}, 'w')"))
            self._thread.join(240)
            engine.execute(self.client, ("python3", "-c", f"import os; os.unlink({END!r})"))
        _log.info("%d calls, failed: %s", len(self.lines), [line for line in self.lines if line[2]])

    def between(self, begin, end):
        return [line for line in self.lines if line[1] >= begin and line[0] < end]


class Story:
    """The steps, one after the other, and what the calls and the engine show of each."""

    before: tuple
    after: tuple
    calls: Calls
    state: gateway.GatewayState

    def __init__(self, engine, file, client):
        self.engine, self.file, self.client = engine, file, client
        self.times = []
        self.plans = {}
        self.reports = {}

    def step(self, name, change):
        """Make a change; what a plan shows before it, and afterwards, is recorded."""
        self.plans[name] = [action.describe() for action in verbs.plan(load(self.file), self.engine).actions]
        begin = time.time()
        change()
        end = time.time()
        every = observe(self.engine).containers
        containers = sorted(one.name for one in every if one.labels.get(LABEL_STACK, one.name) == NAME)
        pending = not verbs.plan(load(self.file), self.engine).empty
        time.sleep(1)
        self.times.append((name, begin, end, tuple(containers), pending))
        _log.info("%s: %.0f to %.0f, %.1f s", name, begin, end, end - begin)

    def write(self, before, after):
        """Change the configuration's text."""
        text = self.file.read_text()
        assert before in text
        self.file.write_text(text.replace(before, after, 1))

    def up(self):
        status = verbs.up(load(self.file), self.engine)
        assert status.ok, str(status)

    def scale(self, replicas):
        assert main(["scale", str(replicas), "--stack", str(self.file)]) == 0

    def verify(self, name):
        self.reports[name] = verbs.verify(load(self.file), self.engine, budget=False)

    def ragflow(self):
        """What would differ if the client's container had been touched."""
        state = self.engine._client.api.inspect_container(self.client)
        return state["Id"], state["State"]["StartedAt"], state["RestartCount"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    file = tmp_path_factory.mktemp("moved") / "ragops.toml"
    file.write_text(TEXT.format(name=NAME, port=free_port(), project=PROJECT))
    return file


@pytest.fixture(scope="module")
def stubs(tmp_path_factory):
    """Replicas that respond at once, with scores that the score check accepts."""
    folder = package(tmp_path_factory.mktemp("stub"))
    launch = options.container_spec

    def stubbed(*argv, **more):
        return in_place_of_vllm(launch(*argv, **more), folder, Behaviour(scorer="healthy"))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(options, "container_spec", stubbed)
        yield


@pytest.fixture(scope="module")
def story(engine, file, client, stubs):
    story = Story(engine, file, client)
    try:
        first = verbs.up(load(file), engine)
        assert first.ok, str(first)
        story.before = story.ragflow()
        url = f"{load(file).internal_url}/rerank"
        with Calls(client, (url, first.served_name, END)) as calls:
            story.calls = calls
            time.sleep(2)
            story.write("gateway = false", "")
            story.step("gateway on", story.up)
            story.verify("gateway on")
            story.state = admitted(engine)
            story.step("scale 2", lambda: story.scale(2))
            story.step("scale 1", lambda: story.scale(1))
            story.write("", "gateway = false\n")
            story.step("gateway off", story.up)
            story.verify("gateway off")
        story.after = story.ragflow()
        yield story
    finally:
        verbs.down(load(file), engine)
    assert [one.name for one in observe(engine).containers if one.name.startswith(NAME)] == []


def admitted(engine):
    """The gateway's state once no replica misses a health check, as a busy one may."""
    deadline = time.monotonic() + 240
    while not (state := gateway.read_state(engine, NAME)) or len(state.admitted) < len(state.replicas):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return state


@pytest.fixture(scope="module")
def steps(story):
    made = {}
    for name, begin, end, containers, pending in story.times:
        calls = story.calls.between(begin, end + 0.5)
        failed = tuple(error for *_, error in calls if error)
        slowest = max(ended - started for started, ended, _ in calls)
        outages = sum(fails for fails, _ in groupby(bool(error) for *_, error in calls))
        made[name] = Step(name, end - begin, len(calls), failed, outages, slowest, containers, pending)
        _log.info("%s", made[name])
    return made


CONTAINERS = {
    "gateway on": (NAME, f"{NAME}-1"),
    "scale 2": (NAME, f"{NAME}-1", f"{NAME}-2"),
    "scale 1": (NAME, f"{NAME}-1"),
    "gateway off": (NAME,),
}


def test_each_step_has_its_containers_and_a_second_up_changes_nothing(steps):
    assert {name: (step.containers, step.pending) for name, step in steps.items()} == {
        name: (containers, False) for name, containers in CONTAINERS.items()
    }


def test_ragflows_container_is_untouched(story):
    assert story.before == story.after


def test_plan_shows_the_migration(story):
    text = "\n".join(story.plans["gateway on"])
    assert NAME in text
    assert f"{NAME}-1" in text
    assert story.client not in text


def test_scaling_fails_no_call(steps):
    assert (steps["scale 2"].failed, steps["scale 1"].failed) == ((), ())


def test_no_call_has_a_wrong_order(story):
    assert [error for *_, error in story.calls.lines if "wrong" in error] == []


def test_a_migration_fails_calls_only_in_the_moment_between_two_renames(steps):
    """However long that takes: between two calls that failed none succeeds."""
    for name in ("gateway on", "gateway off"):
        assert all("gaierror" in error for error in steps[name].failed)
        assert steps[name].outages <= 1


def test_the_gateway_has_proved_the_replica(story):
    assert story.state.reference
    assert [replica.state for replica in story.state.replicas] == ["admitted"]


def test_verify_passes_after_each_step(story):
    assert {name: str(report) for name, report in story.reports.items() if not report.ok} == {}
