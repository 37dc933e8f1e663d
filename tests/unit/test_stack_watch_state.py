"""Decisions of ``ragops watch``: pure, with a clock of the test."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragops.configuration import Reranker, Stack
from ragops.docker.objects import ContainerSpec, EventState, NetworkSpec
from ragops.stack.plan import (
    CheckScores,
    Connect,
    CreateNetwork,
    Plan,
    Remove,
    ReplaceContainer,
    RestartContainer,
    RunContainer,
    StartContainer,
)
from ragops.stack.verbs import Status
from ragops.stack.watch import ContainerWatch, Pace, WatchState, is_relevant
from tests.support.fake_engine import FakeEngine, created

STACK = Stack(gateway=False)
NET, RERANKER = STACK.network.name, STACK.reranker.name
FLEET = Stack(reranker=Reranker(replicas=2))
FIRST, SECOND = f"{RERANKER}-1", f"{RERANKER}-2"
SPEC = ContainerSpec(RERANKER, "vllm-cpu:latest", network=NET)
PACE = Pace()
START, RUN, RESTART = (
    StartContainer(RERANKER),
    RunContainer(SPEC),
    RestartContainer(RERANKER, "it is unhealthy"),
)
REPLACE = ReplaceContainer(SPEC, created(SPEC, "1", "2", ""), "its configuration changed")
CONNECT = Connect(NET, "docker-ragflow-cpu-1")


def status(*actions, network=True, **reranker):
    """A look with this drift; fields of the reranker, or ``reranker=None`` for none."""
    engine = FakeEngine()
    engine.add_network(NET)
    box = None
    if reranker.get("reranker", True):
        engine.add_container(RERANKER, network=NET)
        box = engine.change(RERANKER, **{"health": "healthy", **reranker})
    there = engine.network(NET) if network else None
    return Status(STACK, "tiny", "", there, box, (), Plan(actions))


GONE = {"status": "exited"}


def fleet(*actions, front=(), first=(), second=()):
    """A look at a gateway with two replicas; fields of each, or None for one that is missing."""
    engine = FakeEngine()
    engine.add_network(NET)
    boxes = []
    for name, fields in ((RERANKER, front), (FIRST, first), (SECOND, second)):
        if fields is not None:
            engine.add_container(name, network=NET)
            boxes.append(engine.change(name, **{"health": "healthy", **dict(fields)}))
    gateway = boxes.pop(0) if front is not None else None
    there = engine.network(NET)
    return Status(FLEET, "tiny", "", there, gateway, (), Plan(actions), replicas=tuple(boxes))


def fleet_state():
    return watching().after_check(fleet(), 0.0)


def watching(check_at=0.0, **fields):
    """The state of the loop; fields of the reranker."""
    state = WatchState(PACE, containers={RERANKER: ContainerWatch(**fields)}).after_reconnect(0.0)
    return dataclasses.replace(state, check_at=check_at)


class TestEvents:
    @pytest.mark.parametrize(
        "event",
        [
            EventState("container", "start", "any"),
            EventState("container", "die", RERANKER),
            EventState("container", "destroy", "docker-ragflow-cpu-1"),
            EventState("container", "health_status: unhealthy", RERANKER),
            EventState("network", "destroy", NET),
            EventState("network", "disconnect", NET),
        ],
    )
    def test_relevant_events_bring_the_next_check_forward(self, event):
        state = watching(check_at=60.0).after_event(event, STACK, now=10.0)
        assert state.check_at == 10.0 + PACE.settle
        assert is_relevant(event, STACK)

    @pytest.mark.parametrize(
        "event",
        [
            EventState("container", "exec_start: python3", RERANKER),
            EventState("container", "exec_die", RERANKER),
            EventState("container", "health_status: healthy", "other"),
            EventState("network", "connect", "docker_ragflow"),
        ],
    )
    def test_other_events_change_nothing(self, event):
        state = watching(check_at=60.0)
        assert state.after_event(event, STACK, now=10.0) == state

    def test_a_replica_has_health_too(self):
        event = EventState("container", "health_status: unhealthy", SECOND)
        assert is_relevant(event, FLEET)
        assert not is_relevant(event, STACK)

    def test_many_events_cause_one_check(self):
        state = watching().after_check(status(), now=10.0)
        for moment in (10.1, 10.2, 10.3):
            state = state.after_event(EventState("container", "die", "any"), STACK, now=moment)
        assert state.check_at == 10.0 + PACE.apart

    def test_check_follows_an_event_within_5_s_after_many_failures(self):
        state = watching()
        for _ in range(20):
            state = state.after_failure("it says no", now=100.0)
        state = state.after_event(EventState("container", "start", "ragflow-server"), STACK, now=101.0)
        assert state.check_at <= 106.0


class TestRepairs:
    def test_starts_of_the_reranker_come_last(self):
        create = CreateNetwork(NetworkSpec(NET))
        assert watching().repairs(status(create, RUN, CONNECT, reranker=None), 0.0) == (create, CONNECT, RUN)

    def test_none_without_drift(self):
        assert watching().repairs(status(), 0.0) == ()

    @pytest.mark.parametrize("launch", [START, RUN])
    def test_starts_back_off_and_ragflow_is_connected_meanwhile(self, launch):
        state, now, waits = watching(), 0.0, []
        found = status(launch, CONNECT, status="exited")
        for _ in range(9):
            assert state.repairs(found, now) == (CONNECT, launch)
            state = state.after_check(found, now, started={RERANKER})
            assert state.repairs(found, state.container(RERANKER).start_at - 0.1) == (CONNECT,)
            waits.append(state.container(RERANKER).start_at - now)
            now = state.container(RERANKER).start_at
        assert waits == [5, 10, 20, 40, 80, 160, 300, 300, 300]

    def test_a_missing_container_keeps_its_back_off(self):
        found = status(RUN, reranker=None)
        state = watching().after_check(found, 0.0, started={RERANKER}).after_check(found, 1.0)
        assert state.repairs(found, 2.0) == ()
        assert state.repairs(found, PACE.start) == (RUN,)

    def test_back_off_is_reset_by_a_response(self):
        state = watching().after_check(status(START, status="exited"), 0.0, started={RERANKER})
        assert state.after_response(RERANKER, ok=True, now=1.0).repairs(
            status(START, status="exited"), 1.0
        ) == (START,)

    def test_update_is_left_to_up_while_the_reranker_runs(self):
        assert watching().repairs(status(REPLACE, CONNECT), 0.0) == (CONNECT,)
        assert watching().repairs(status(REPLACE, status="exited"), 0.0) == (REPLACE,)

    def test_replacement_for_a_missing_network_is_applied(self):
        assert watching().repairs(status(REPLACE, network=False), 0.0) == (REPLACE,)

    def test_restart_is_left_to_docker(self):
        assert watching().repairs(status(START, CONNECT, status="restarting"), 0.0) == (CONNECT,)


class TestProbes:
    def test_start_when_the_reranker_serves(self):
        state = watching().after_check(status(health="starting"), 5.0)
        assert state.probes_due(1000.0) == []
        state = state.after_check(status(), 7.0)
        assert state.probes_due(7.0) == [RERANKER]
        assert state.after_request(RERANKER).probes_due(1000.0) == []

    def test_a_check_does_not_delay_the_next_probe(self):
        state = (
            watching()
            .after_check(status(), 0.0)
            .after_request(RERANKER)
            .after_response(RERANKER, ok=True, now=1.0)
        )
        assert state.after_check(status(), 20.0).container(RERANKER).probe_at == 1.0 + PACE.probe

    def test_three_missing_responses_in_a_row_cause_a_restart(self):
        state = watching().after_check(status(), 0.0)
        for moment in (60.0, 150.0):
            state = state.after_request(RERANKER).after_response(RERANKER, ok=False, now=moment)
            assert state.repairs(status(), moment) == ()
        state = state.after_request(RERANKER).after_response(RERANKER, ok=False, now=240.0)
        assert state.check_due(240.0)
        (restart,) = state.repairs(status(), 240.0)
        assert restart.describe() == f"~ restart container {RERANKER}: no response to 3 requests"
        assert state.after_check(status(), 241.0, started={RERANKER}).container(RERANKER).missed == 0

    def test_a_response_resets_the_count(self):
        state = watching().after_check(status(), 0.0)
        for ok in (False, False, True, False, False):
            state = state.after_response(RERANKER, ok=ok, now=1.0)
        assert state.repairs(status(), 1.0) == ()

    @pytest.mark.parametrize("ok", [False, None])
    def test_missing_response_counts_only_for_a_serving_reranker(self, ok):
        state = watching(serving=ok is None)
        for _ in range(5):
            state = state.after_response(RERANKER, ok=ok, now=1.0)
        assert state.container(RERANKER).missed == 0

    def test_no_restart_beside_a_start(self):
        assert watching(missed=3).repairs(status(RUN), 0.0) == (RUN,)

    @pytest.mark.parametrize("missed", [0, 3])
    def test_unhealthy_reranker_gets_one_more_request_at_once(self, missed):
        unhealthy = status(RESTART, health="unhealthy")
        state = watching(serving=True, missed=missed, probe_at=30.0)
        state = state.after_check(unhealthy, 5.0)
        assert state.repairs(unhealthy, 5.0) == ()
        assert state.probes_due(5.0) == [RERANKER]
        asked = state.after_request(RERANKER)
        assert asked.after_check(unhealthy, 6.0).repairs(unhealthy, 6.0) == ()
        state = asked.after_response(RERANKER, ok=False, now=65.0)
        assert state.check_due(65.0)
        assert [type(action) for action in state.repairs(unhealthy, 65.0)] == [RestartContainer]
        assert asked.after_response(RERANKER, ok=True, now=7.0).repairs(unhealthy, 7.0) == ()

    def test_a_request_from_before_does_not_count(self):
        unhealthy = status(RESTART, health="unhealthy")
        state = watching().after_check(status(), 0.0).after_request(RERANKER)
        state = state.after_check(unhealthy, 5.0).after_response(RERANKER, ok=False, now=6.0)
        assert state.repairs(unhealthy, 6.0) == ()
        assert state.probes_due(6.0) == [RERANKER]
        state = state.after_request(RERANKER).after_response(RERANKER, ok=False, now=70.0)
        assert state.container(RERANKER).hangs(PACE)

    def test_paused_reranker_is_not_restarted(self):
        assert watching(missed=5).repairs(status(status="paused"), 0.0) == ()


class TestGateway:
    """A gateway with two replicas: each container has its own requests, back-off and repairs."""

    def test_a_replica_that_hangs_is_restarted_alone(self):
        state = fleet_state()
        for _ in range(PACE.misses):
            state = state.after_request(SECOND).after_response(SECOND, ok=False, now=10.0)
        assert [action.name for action in state.repairs(fleet(), 10.0)] == [SECOND]
        state = state.after_check(fleet(), 10.0, started={SECOND})
        assert state.repairs(fleet(), 10.0) == ()
        assert sorted(state.probes_due(10.0)) == [RERANKER, FIRST]

    def test_an_unhealthy_replica_gets_one_more_request_and_the_others_none(self):
        state = fleet_state()
        for name in (RERANKER, FIRST, SECOND):
            state = state.after_request(name).after_response(name, ok=True, now=1.0)
        unhealthy = fleet(RestartContainer(SECOND, "it is unhealthy"), second={"health": "unhealthy"})
        state = state.after_check(unhealthy, 2.0)
        assert state.probes_due(2.0) == [SECOND]
        state = state.after_request(SECOND).after_response(SECOND, ok=False, now=3.0)
        assert [action.name for action in state.repairs(unhealthy, 3.0)] == [SECOND]

    @pytest.mark.parametrize("dead", [{"status": "exited"}, {"health": "unhealthy"}])
    def test_the_gateway_is_not_restarted_because_all_replicas_are_down(self, dead):
        state = fleet_state()
        for _ in range(PACE.misses):
            state = state.after_request(RERANKER).after_response(RERANKER, ok=True, now=1.0)
            for name in (FIRST, SECOND):
                state = state.after_request(name).after_response(name, ok=False, now=1.0)
        down = fleet(StartContainer(FIRST), StartContainer(SECOND), first=dead, second=dead)
        assert RERANKER not in {action.name for action in state.repairs(down, 1.0)}

    def test_a_gateway_without_responses_is_restarted_alone(self):
        state = fleet_state()
        for _ in range(PACE.misses):
            state = state.after_request(RERANKER).after_response(RERANKER, ok=False, now=1.0)
        assert [action.name for action in state.repairs(fleet(), 1.0)] == [RERANKER]

    def test_back_off_is_that_of_one_container(self):
        found = fleet(StartContainer(FIRST), StartContainer(SECOND), first=GONE, second=GONE)
        state = fleet_state().after_check(found, 0.0, started={FIRST})
        assert [action.name for action in state.repairs(found, 1.0)] == [SECOND]
        assert [action.name for action in state.repairs(found, PACE.start)] == [FIRST, SECOND]

    def test_a_missing_replica_and_a_missing_gateway_are_created(self):
        runs = tuple(RunContainer(dataclasses.replace(SPEC, name=name)) for name in (RERANKER, SECOND))
        assert fleet_state().repairs(fleet(*runs, front=None, second=None), 0.0) == runs

    def test_what_up_applies_is_left_while_the_containers_run(self):
        old = created(dataclasses.replace(SPEC, name=FIRST), "1", "2", "")
        update = ReplaceContainer(dataclasses.replace(SPEC, name=FIRST), old, "its configuration changed")
        surplus = Remove("container", f"{RERANKER}-3", "3")
        leftover = Remove("container", f"{SECOND}-new-1234", "4")
        found = fleet(CONNECT, update, surplus, leftover)
        assert fleet_state().repairs(found, 0.0) == (CONNECT, leftover)

    def test_a_stack_of_the_first_version_stays_until_up(self):
        """The plan has replicas to run, and the gateway in the place of vLLM, which responds meanwhile."""
        front = dataclasses.replace(SPEC, role="gateway")
        migration = (
            RunContainer(dataclasses.replace(SPEC, name=FIRST)),
            ReplaceContainer(front, created(SPEC, "1", "2", ""), "the gateway takes its place"),
            CONNECT,
        )
        assert watching().repairs(status(*migration), 0.0) == (CONNECT,)
        assert watching().repairs(status(*migration, status="exited"), 0.0) == (CONNECT, *migration[:2])

    @pytest.mark.parametrize(("health", "runs"), [("healthy", True), ("starting", False)])
    def test_scores_are_checked_of_a_replica_that_responds(self, health, runs):
        check = CheckScores(dataclasses.replace(SPEC, name=FIRST), None)
        found = fleet(check, first={"health": health})
        assert (fleet_state().repairs(found, 0.0) == (check,)) is runs


class TestEngine:
    def test_nothing_is_due_while_the_engine_is_unreachable(self):
        gone = watching().after_disconnect()
        assert gone.wait(1000.0) is None
        assert not gone.check_due(1000.0)
        assert gone.probes_due(1000.0) == []
        assert gone.after_reconnect(1000.0).check_due(1000.0)


@given(st.lists(st.sampled_from(["look", "event", "miss", "answer", "fail", "launch", "lost", "back"])))
def test_wait_is_bounded_after_any_events(steps):
    state, now = WatchState(PACE), 0.0
    event = EventState("container", "die", "any")
    for step in [*steps, "back"]:
        now += 1.0
        state = {
            "look": lambda m, t: m.after_check(status(), t),
            "launch": lambda m, t: m.after_check(status(), t, started={RERANKER}),
            "event": lambda m, t: m.after_event(event, STACK, t),
            "miss": lambda m, t: m.after_response(RERANKER, ok=False, now=t),
            "answer": lambda m, t: m.after_response(RERANKER, ok=True, now=t),
            "fail": lambda m, t: m.after_failure("no", t),
            "lost": lambda m, _: m.after_disconnect(),
            "back": lambda m, t: m.after_reconnect(t),
        }[step](state, now)
        assert state.disconnected or 0.0 <= state.wait(now) <= PACE.longest
