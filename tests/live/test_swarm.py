"""From one reranker to three machines and back, with the commands of the page, while RAGFlow sends requests.

The machines are Docker daemons in namespaces of this one, the replicas stubs in the place of vLLM.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.fault_table import LIMIT
from tests.support.swarm_fleet import CLIENT, ROOT, SwarmFleet, fleet

_log = logging.getLogger(__name__)


@dataclass
class Story:
    """What happened, in its order."""

    stack: SwarmFleet
    errors: dict = field(default_factory=dict)
    states: dict = field(default_factory=dict)
    """``ragops status`` after each step."""
    pending: dict = field(default_factory=dict)
    """What a second ``up`` would change after each step."""
    nodes: dict = field(default_factory=dict)
    """Machines with a replica after each step."""
    times: dict = field(default_factory=dict)
    commands: list = field(default_factory=list)
    """Of Docker, which made the Swarm."""
    ragflow: list = field(default_factory=list)
    """Process and start of RAGFlow's container, before and afterwards."""
    swarm: list = field(default_factory=list)
    """What the Swarm held, before and afterwards."""
    load: Any = None
    report: Any = None
    """Of ``ragops verify`` with three machines."""
    text: str = ""
    """``ragops status`` with three machines."""
    inspected: str = ""
    left: dict = field(default_factory=dict)
    """Containers of the stack by machine, after ``ragops down``."""

    def look(self):
        """Note what must not change."""
        state = self.stack.node.client.api.inspect_container(CLIENT)["State"]
        self.ragflow.append((state["StartedAt"], state["Pid"]))

    def refused(self, name, *argv, **options):
        self.errors[name] = json.loads(self.stack.ragops(*argv, code=1, **options))

    def status(self):
        """``ragops status``, once all replicas are admitted: a busy one may miss a health check."""
        deadline = time.monotonic() + LIMIT
        while True:
            status = json.loads(self.stack.ragops("status"))
            if all(one["admitted"] for one in status["replicas"]) or time.monotonic() > deadline:
                return status

    def step(self, name, nodes, *argv):
        begin = time.monotonic()
        self.stack.ragops(*argv)
        self.times[name] = (begin, time.monotonic())
        _log.info("%s: %.1f s", name, time.monotonic() - begin)
        self.states[name] = self.status()
        self.pending[name] = json.loads(self.stack.ragops("plan"))
        self.nodes[name] = self.stack.placed(nodes)
        time.sleep(1)


@pytest.fixture(scope="module")
def story(engine, image):
    del image
    with fleet(engine, 3) as stack:
        story = Story(stack)
        model = str(stack.folder / "model")
        _, worker, third = stack.lab.nodes
        story.step("one", 0, "up")
        story.look()
        with stack.clients(2) as story.load:
            story.refused("no Swarm", "scale", "3", "--swarm")
            story.commands = stack.lab.join()
            story.swarm.append(stack.swarm())
            story.refused("a worker", "scale", "3", "--swarm", host=worker.socket)
            third.output("mount", "-t", "tmpfs", "none", model)
            story.refused("no model", "scale", "3", "--swarm")
            third.output("umount", model)
            story.step("three", 3, "scale", "3", "--swarm")
            story.text = stack.ragops("status", json=False)
            story.report = json.loads(stack.ragops("verify", "--no-budget"))
            story.step("two", 2, "scale", "2")
            story.inspected = _inspected(stack)
            stack.write("[swarm]", "")
            story.step("back", 0, "up")
        story.look()
        stack.ragops("down")
        story.swarm.append(stack.swarm())
        story.left = stack.left()
        yield story


def _inspected(stack):
    """All that the engines show of services, configs and containers, and their logs, as text."""
    api = stack.node.client.api
    parts = [api.services(), api.configs(), api.tasks(), api.networks()]
    for node in stack.lab.nodes:
        for one in node.client.containers.list(all=True):
            parts += [one.attrs, one.logs().decode(errors="replace")]
    return json.dumps(parts)


def test_without_a_swarm_the_error_has_the_commands(story):
    assert story.errors["no Swarm"]["code"] == "swarm-missing"
    assert "docker swarm init" in story.errors["no Swarm"]["hint"]
    assert "docker swarm join-token worker" in story.errors["no Swarm"]["hint"]


def test_a_worker_names_what_to_do(story):
    assert story.errors["a worker"]["code"] == "swarm-missing"


def test_a_node_without_the_model_is_named_before_anything_changes(story):
    error = story.errors["no model"]
    assert (error["code"], "node3" in error["message"]) == ("node-model", True)
    assert story.swarm[0]["services"] == []


def test_three_commands_lead_to_three_machines(story):
    assert [command.split()[:3] for command in story.commands] == [
        ["docker", "swarm", "init"],
        ["docker", "swarm", "join"],
    ]
    assert story.nodes["three"] == ["node1", "node2", "node3"]
    replicas = story.states["three"]["replicas"]
    assert [replica["admitted"] for replica in replicas] == [True, True, True]


def test_status_shows_the_nodes_and_where_each_replica_is(story):
    assert all(name in story.text for name in ("node1", "node2", "node3"))


def test_fewer_replicas_leave_the_others_alone(story):
    assert len(story.nodes["two"]) == 2
    assert set(story.nodes["two"]) < set(story.nodes["three"])


def test_without_the_table_all_is_on_this_machine_again(story):
    assert story.nodes["back"] == []
    assert [replica["admitted"] for replica in story.states["back"]["replicas"]] == [True, True]


def test_a_second_up_changes_nothing(story):
    assert {name: plan for name, plan in story.pending.items() if plan["changes"]} == {}


def test_verify_passes(story):
    assert story.report["ok"]


def test_ragflows_container_is_untouched(story):
    before, after = story.ragflow
    assert before == after


def test_no_request_has_a_wrong_order(story):
    assert [sample.wrong for sample in story.load.samples if sample.wrong] == []


def test_scaling_fails_no_request(story):
    begin, end = story.times["two"]
    assert [sample.failure for sample in story.load.between(begin, end) if sample.failure] == []


def test_a_migration_fails_requests_only_while_the_gateway_is_replaced(story):
    for name in ("three", "back"):
        failed = [sample for sample in story.load.between(*story.times[name]) if sample.failure]
        whole = [sample for sample in story.load.samples if not sample.failure]
        first = min((sample.end for sample in failed), default=0)
        last = max((sample.begin for sample in failed), default=0)
        assert [sample for sample in whole if first < sample.begin < sample.end < last] == [], failed


def test_down_leaves_the_swarm_as_it_was(story):
    before, after = story.swarm
    assert before == after
    assert story.left == {"node1": [], "node2": [], "node3": []}


def test_no_token_is_anywhere(story):
    token = story.commands[1].split("--token ")[1].split()[0]
    assert token.startswith("SWMTKN-")
    assert token not in story.stack.output + story.inspected


KILLED = """
import sys, time
from tests.support.swarm_lab import SwarmLab
with SwarmLab(2) as lab:
    print(lab.folder, *(node.pid for node in lab.nodes), flush=True)
    time.sleep(600)
"""


def test_nothing_of_a_lab_is_left_when_its_process_is_killed():
    argv = [sys.executable, "-c", KILLED]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) as process:
        folder, *pids = process.stdout.readline().split()
        assert Path(folder).exists()
        process.send_signal(signal.SIGKILL)
    cgroup = Path("/sys/fs/cgroup")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        left = [Path(folder), *(Path(f"/proc/{pid}") for pid in pids), *cgroup.glob(f"*/{Path(folder).name}")]
        if not any(path.exists() for path in left):
            break
        time.sleep(0.1)
    assert [path for path in left if path.exists()] == []
