"""Faults of replicas, nodes, links and gateways of a Swarm under steady load, on several Docker daemons.

The stack is the product's, with stubs for vLLM whose scores are known. One run of the table is in
``docs/_data/swarm_faults.json``; the tests hold what must be true on any machine, not the seconds.
"""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from docker.errors import APIError

from tests.support.fault_table import Fault, learn, run, write
from tests.support.fleet import DOCUMENTS, STEADY
from tests.support.swarm_fleet import NAME, fleet
from tests.support.swarm_lab import STUB, WORSE

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "docs" / "_data" / "swarm_faults.json"
NOW = ROOT / "build" / "swarm_faults.json"
CLIENTS = 4
THIRD = 2
"""Index of the machine that most faults meet; the first has the gateway."""


def scales(number):
    return lambda stack: stack.ragops("scale", str(number))


def third(action):
    """Something that happens to the third machine."""
    return lambda stack: action(stack, stack.lab.nodes[THIRD])


def killed(stack, node):
    stack.replica(node).kill()


def paused(stack, node):
    stack.paused = stack.replica(node)
    stack.paused.pause()


def resumed(stack, node):
    del node
    with suppress(APIError):  # Swarm may have replaced it
        stack.paused.unpause()


def comes_back_wrong(stack, node):
    """The process that runs must not notice its new behaviour before its end."""
    replica = stack.replica(node).attrs["Id"]
    node.signal(replica, "STOP")
    stack.behave(node, replace(STEADY, fault="wrong"))
    node.signal(replica, "KILL")


def right_again(stack, node):
    stack.behave(node, STEADY)


def lost(stack, node):
    del stack
    node.lose()


def returns(stack, node):
    stack.lab.boot(node)
    node.start()


def restarted(stack, node):
    del stack
    node.stop()
    node.start()


def link(state):
    return lambda _, node: node.link(state)


def worse(stack):
    """A rolling update to an image with other scores; Swarm undoes it."""
    stack.write(STUB, WORSE)
    stack.undone = stack.ragops("up", code=1)
    stack.write(WORSE, STUB)


def gateway_killed(stack):
    """Its restart policy applies, as the engine does not do it."""
    stack.node.signal(NAME, "KILL")


FAULTS = (
    Fault("ragops scale: 1 → 3", scales(3), seconds=0.0),
    Fault("ragops scale: 3 → 2", scales(2), after=2),
    Fault("ragops scale: 2 → 3", scales(3), seconds=0.0),
    Fault("a replica is killed (SIGKILL)", third(killed)),
    Fault("a replica is paused; its name stays in the DNS", third(paused), third(resumed), 8.5),
    Fault(
        "a replica comes back with wrong scores",
        third(comes_back_wrong),
        third(right_again),
        8.0,
        "2 admitted",
    ),
    Fault("a node is lost, and returns", third(lost), third(returns), 8.0),
    Fault("a node's link is cut, and restored", third(link("down")), third(link("up")), 8.0),
    Fault("a node's Docker daemon is restarted", third(restarted)),
    Fault("a rolling update to an image with other scores is undone", worse, seconds=0.0),
)
KILLED = Fault(
    "one of two gateways is killed (SIGKILL)",
    gateway_killed,
    seconds=4.0,
    exception="on their way through this gateway",
)


@pytest.fixture(scope="module")
def stack(engine, image):
    """One replica that Swarm has placed."""
    del image
    with fleet(engine, 3) as stack:
        stack.up()
        stack.lab.join()
        stack.ragops("scale", "1", "--swarm")
        yield stack
        stack.ragops("down")


@pytest.fixture(scope="module")
def rows(stack):
    """The table, of one run; written down too."""
    with stack.clients(CLIENTS) as load:
        rate = 3 * learn(load)
        rows = [run(stack, load, rate, fault) for fault in FAULTS]
        stack.write("[swarm]", "[swarm]\ngateways = 2")
        stack.ragops("up")
        rows.append(run(stack, load, rate, KILLED))
    write(
        NOW,
        stack.engine.state(),
        rows,
        nodes="3 Docker daemons in network namespaces, with one manager; one gateway, in the last row two",
        replicas="3 stubs, one on each node, 0.3 s of work for each request when alone",
        load=f"{CLIENTS} clients, {DOCUMENTS} documents in each; {rate / 3:.1f} requests/s with 1 replica",
    )
    return {row.fault: row for row in rows}


def test_no_request_fails_while_a_replica_and_a_gateway_live(rows):
    assert {fault: row for fault, row in rows.items() if row.failed and not row.exception} == {}


def test_no_response_has_a_wrong_order(rows):
    assert {fault: row for fault, row in rows.items() if row.wrong} == {}


def test_full_speed_returns_without_a_person(rows):
    assert {fault: row for fault, row in rows.items() if row.idle} == {}


def test_a_killed_gateway_costs_only_the_requests_on_their_way(rows):
    """One of each client at most; afterwards they use the other gateway."""
    assert rows[KILLED.name].failed <= CLIENTS


def test_wrong_scores_are_never_admitted(rows):
    assert rows["a replica comes back with wrong scores"].state.startswith("2 admitted")


def test_an_update_with_wrong_scores_is_undone_and_says_why(rows, stack):
    del rows
    assert json.loads(stack.undone)["code"] == "scores-wrong"
    images = {task["Spec"]["ContainerSpec"]["Image"] for task in stack.tasks()}
    assert images == {stack.node.client.images.get(STUB).id}


def test_the_page_has_a_row_for_each_fault(rows):
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))["rows"]
    assert [row["fault"] for row in recorded] == list(rows)
