"""Faults of replicas, of the network and of the gateway under steady load, on a real engine.

The gateway runs in a container as ``up`` creates it, the replicas are stubs whose scores are known. Every
response is compared with these scores. One run of the table is in ``docs/_data/gateway_faults.json``; the
tests hold what must be true on any machine, not the seconds.
"""

import json
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ragops.docker.objects import NetworkSpec
from tests.support.fault_table import LIMIT, Fault, learn, run, write
from tests.support.fleet import DOCUMENTS, STEADY, TIMEOUT, Fleet, Load, Question, send
from tests.support.names import PROJECT
from tests.support.replicas import Behaviour

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "docs" / "_data" / "gateway_faults.json"
NOW = ROOT / "build" / "gateway_faults.json"
NAME = f"{PROJECT}-gateway"
WRONG = replace(STEADY, fault="wrong")


def behaves(fault=""):
    return lambda fleet: fleet.behave(2, replace(STEADY, fault=fault))


def calls(method, **options):
    return lambda fleet: getattr(fleet.engine, method)(fleet.replica(2), **options)


def joins(*numbers_and_behaviour):
    *numbers, last = numbers_and_behaviour
    behaviour = last if isinstance(last, Behaviour) else STEADY
    numbers += [] if isinstance(last, Behaviour) else [last]
    return lambda fleet: [fleet.add(number, behaviour) for number in numbers]


def leaves(*numbers):
    return lambda fleet: [fleet.engine.remove_container(fleet.replica(number)) for number in numbers]


def killed(fleet):
    fleet.kill(fleet.replica(2))


def restarted_wrong(fleet):
    """The container of a replica comes back at its address, with other scores."""
    address = fleet.address(2)
    fleet.kill(fleet.replica(2))
    fleet.behave(2, WRONG)
    fleet.engine.start(fleet.replica(2))
    assert fleet.address(2) == address


def dns(option):
    """Questions to the engine's DNS get lost from now on, or no longer."""
    return lambda fleet: fleet.in_network("iptables", option, "OUTPUT", "-d", "127.0.0.11", "-j", "DROP")


def all_stop(fleet):
    for number in (1, 2, 3):
        fleet.kill(fleet.replica(number))


def all_start(fleet):
    for number in (1, 2, 3):
        fleet.engine.start(fleet.replica(number))


RESTART, REJECTED = "the gateway itself is away", ", rejected"
FAULTS = (
    Fault("a replica is killed (SIGKILL) and started again", killed, calls("start")),
    Fault("a replica is stopped (docker stop) and started again", calls("stop", timeout=5), calls("start")),
    Fault("a replica's container is removed, and another one created", leaves(2), joins(2)),
    Fault("a replica is paused; its name stays in the DNS", calls("pause"), calls("unpause"), 8.5),
    Fault("a replica responds with 500", behaves("500"), behaves()),
    Fault("a replica cuts the connection", behaves("reset"), behaves()),
    Fault("a replica hangs", behaves("hang"), behaves()),
    Fault("a replica sends its response slowly (a byte each 0.5 s)", behaves("drip"), behaves()),
    Fault("a replica leaves a document out", behaves("short"), behaves()),
    Fault("a replica's score is not a number", behaves("nan"), behaves()),
    Fault("a replica responds with HTML and status 200", behaves("malformed"), behaves()),
    Fault("a replica comes back at its address with wrong scores", restarted_wrong, behaves(), 4.0, REJECTED),
    Fault("a fourth replica has wrong scores from its start", joins(4, WRONG), leaves(4), 4.0, REJECTED),
    Fault("the engine's DNS does not respond", dns("-I"), dns("-D"), 5.0, "3 admitted"),
    Fault(
        "all replicas are killed and started again", all_stop, all_start, 1.0, exception="no replica lives"
    ),
    Fault(
        "the gateway is killed (SIGKILL)",
        lambda fleet: fleet.kill(fleet.name),
        seconds=0.0,
        exception=RESTART,
    ),
    Fault("the gateway is restarted (docker restart)", Fleet.restart, seconds=0.0, exception=RESTART),
    Fault("scale 3 → 1", leaves(2, 3), after=1),
    Fault("scale 1 → 3", joins(2, 3), seconds=0.0),
    Fault("scale 3 → 2", leaves(3), after=2),
)
NEVER_ADMITTED = {fault.name for fault in FAULTS if "wrong scores" in fault.name}


def until(condition):
    latest = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < latest
        time.sleep(0.02)


@contextmanager
def network(engine):
    if engine.network(NAME) is None:  # else a run before this one was killed
        engine.create_network(NetworkSpec(NAME))
    try:
        yield
    finally:
        engine.remove_network(NAME)


@pytest.fixture(scope="module")
def fleets(engine, image, tmp_path_factory):
    """Makes a fleet of stub replicas with a gateway; all are removed at the end."""
    folder = tmp_path_factory.mktemp("fleet")
    folder.chmod(0o755)
    with ExitStack() as undone:
        undone.enter_context(network(engine))

        def make(suffix, replicas, behaviour=STEADY, deadline=27.0, **constants):
            fleet = Fleet(engine, image.id, folder, f"{NAME}-{suffix}", NAME)
            fleet.remove()
            undone.callback(fleet.remove)
            for number in range(1, replicas + 1):
                fleet.add(number, behaviour)
            fleet.serve(deadline, **constants)
            fleet.wait(replicas)
            return fleet

        yield make


@pytest.fixture(scope="module")
def rows(engine, fleets):
    """The table, of one run; written down too."""
    fleet = fleets("load", 3)
    with Load(fleet.url) as load:
        rate = learn(load)
        rows = [run(fleet, load, rate, fault) for fault in FAULTS]
    write(
        NOW,
        engine.state(),
        rows,
        replicas="3 stubs, 0.3 s of work for each request when alone",
        load=f"4 clients, {DOCUMENTS} documents in each request; {rate:.1f} requests/s without a fault",
    )
    return {row.fault: row for row in rows}


def test_no_request_fails_while_a_replica_and_the_gateway_live(rows):
    assert {fault: row for fault, row in rows.items() if row.failed and not row.exception} == {}


def test_no_response_has_a_wrong_order(rows):
    assert {fault: row for fault, row in rows.items() if row.wrong} == {}


def test_full_speed_returns_without_a_person(rows):
    assert {fault: row for fault, row in rows.items() if row.idle} == {}


def test_wrong_scores_are_not_admitted_and_named(rows):
    missing = {fault: rows[fault].state for fault in NEVER_ADMITTED if REJECTED not in rows[fault].state}
    assert missing == {}


def test_a_silent_dns_removes_no_replica(rows):
    assert rows["the engine's DNS does not respond"].state == "3 admitted"


def test_requests_fail_with_503_only_while_no_replica_lives(rows):
    """Those under way when the last replica died may wait for the first that returns."""
    assert all(one.startswith("503") for one in rows["all replicas are killed and started again"].details)


def test_a_request_is_refused_before_the_deadline_while_no_replica_lives(fleets):
    fleet = fleets("gone", 1)
    fleet.kill(fleet.replica(1))
    deadline = time.monotonic() + 60
    while fleet.admitted():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with fleet.client() as client:
        sample = send(client, Question.number(1))
    assert sample.status == 503
    assert sample.seconds < TIMEOUT / 2  # its deadline is 27 s


def test_a_restart_of_the_gateway_completes_the_requests_on_their_way(rows):
    assert rows["the gateway is restarted (docker restart)"].cut == 0


def test_the_page_has_a_row_for_each_fault(rows):
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))["rows"]
    assert [row["fault"] for row in recorded] == list(rows)


SECONDS = 3.0
"""The deadline of a gateway whose one replica needs 12.8 s for a request."""
POSSIBLE = DOCUMENTS * SECONDS / 12.8
"""Documents that the replica can score by then."""


@pytest.fixture(scope="module")
def samples(fleets):
    """The same request until it is complete, then others of two clients at the same time."""
    fleet = fleets("late", 1, replace(STEADY, per_byte=8e-4), SECONDS)
    same = []
    with fleet.client() as client:
        while len(same) < 40 and not (same and same[-1].ranked == DOCUMENTS):
            same.append(send(client, Question.number(1)))
    with Load(fleet.url, clients=2) as load:
        until(lambda: len(load.samples) >= 2)
    return same, load.samples


class TestDeadline:
    """It is never missed, also on one replica, and what is ranked by then is exact."""

    def test_it_is_never_missed(self, samples):
        same, others = samples
        late = SECONDS + 7  # a busy machine; all documents need longer
        assert [sample for sample in (*same, *others) if sample.failure or sample.seconds > late] == []

    def test_the_ranked_part_is_exact_and_the_rest_keeps_its_order(self, samples):
        same, others = samples
        assert [one.wrong for one in (*same, *others) if one.wrong] == []

    def test_documents_that_the_replica_can_score_by_then_are_ranked(self, samples):
        """How many depends on the machine, which may stop for a second of the three."""
        (first, *_), others = samples
        assert first.ranked >= POSSIBLE / 4
        assert sum(one.ranked for one in others[:2]) >= POSSIBLE / 4

    def test_the_same_request_is_complete_after_the_cache_has_what_was_ranked(self, samples):
        same, _ = samples
        ranked = [one.ranked for one in same]
        assert ranked == sorted(ranked)
        assert ranked[-1] == DOCUMENTS


@pytest.fixture(scope="module")
def noticed(fleets):
    """What was sent before and after the replica was rejected, and the first again."""
    fleet = fleets("aware", 2, PROOF_SECONDS=6.0)
    with Load(fleet.url) as load:
        while not any(one.wrong for one in load.samples):  # the proof may be the first that is wrong
            fleet.behave(2, STEADY)
            fleet.wait(2)
            fleet.behave(2, WRONG)
            until(lambda: "rejected" in {one["state"] for one in fleet.states()})
            rejected = time.monotonic()
            until(lambda begin=rejected: any(one.begin >= begin for one in load.samples))
        states, latest = [], time.monotonic() + LIMIT
        while {one["state"] for one in states} != {"admitted", "rejected"}:
            assert time.monotonic() < latest
            states = fleet.states()
    before = [one for one in load.samples if one.begin < rejected]
    after = [one for one in load.samples if one.begin >= rejected]
    with fleet.client() as client:
        again = [send(client, one.question) for one in before if one.wrong]
    return before, after, again, states


class TestScoresThatBecomeWrong:
    """Of a process that goes on, without an error: seen when the replica is proved again, here each 6 s."""

    def test_none_is_used_afterwards(self, noticed):
        before, after, *_ = noticed
        assert {one.failure for one in (*before, *after)} == {""}
        assert after
        assert [one.wrong for one in after if one.wrong] == []

    def test_none_stays_in_the_cache(self, noticed):
        *_, again, _ = noticed
        assert again
        assert [one.wrong or one.failure for one in again if one.wrong or one.failure] == []

    def test_the_replica_is_named_with_the_reason(self, noticed):
        *_, states = noticed
        reasons = {one["state"]: one["reason"] for one in states}
        assert set(reasons) == {"admitted", "rejected"}
        assert "scores" in reasons["rejected"]
