"""Decisions of ``ragops watch``: pure, with a clock of the test."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragops.configuration import Stack
from ragops.docker.objects import ContainerSpec, EventState, NetworkSpec
from ragops.stack.plan import (
    Connect,
    CreateNetwork,
    Plan,
    ReplaceContainer,
    RestartContainer,
    RunContainer,
    StartContainer,
)
from ragops.stack.verbs import Status
from ragops.stack.watch import Pace, WatchState, is_relevant
from tests.support.fake_engine import FakeEngine, created

STACK = Stack(gateway=False)
NET, RERANKER = STACK.network.name, STACK.reranker.name
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


def watching(**fields):
    return dataclasses.replace(WatchState(PACE).after_reconnect(0.0), **fields)


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

    def test_many_events_cause_one_check(self):
        state = watching().after_check(status(), now=10.0, started=False)
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
            state = state.after_check(found, now, started=True)
            assert state.repairs(found, state.start_at - 0.1) == (CONNECT,)
            waits.append(state.start_at - now)
            now = state.start_at
        assert waits == [5, 10, 20, 40, 80, 160, 300, 300, 300]

    def test_back_off_is_reset_by_a_response(self):
        state = watching().after_check(status(START, status="exited"), 0.0, started=True)
        assert state.after_response(ok=True, now=1.0).repairs(status(START, status="exited"), 1.0) == (START,)

    def test_update_is_left_to_up_while_the_reranker_runs(self):
        assert watching().repairs(status(REPLACE, CONNECT), 0.0) == (CONNECT,)
        assert watching().repairs(status(REPLACE, status="exited"), 0.0) == (REPLACE,)

    def test_replacement_for_a_missing_network_is_applied(self):
        assert watching().repairs(status(REPLACE, network=False), 0.0) == (REPLACE,)

    def test_restart_is_left_to_docker(self):
        assert watching().repairs(status(START, CONNECT, status="restarting"), 0.0) == (CONNECT,)


class TestProbes:
    def test_start_when_the_reranker_serves(self):
        state = watching().after_check(status(health="starting"), 5.0, started=False)
        assert not state.probe_due(1000.0)
        state = state.after_check(status(), 7.0, started=False)
        assert state.probe_due(7.0)
        assert not state.after_request().probe_due(1000.0)

    def test_a_check_does_not_delay_the_next_probe(self):
        state = (
            watching()
            .after_check(status(), 0.0, started=False)
            .after_request()
            .after_response(ok=True, now=1.0)
        )
        assert state.after_check(status(), 20.0, started=False).probe_at == 1.0 + PACE.probe

    def test_three_missing_responses_in_a_row_cause_a_restart(self):
        state = watching().after_check(status(), 0.0, started=False)
        for moment in (60.0, 150.0):
            state = state.after_request().after_response(ok=False, now=moment)
            assert state.repairs(status(), moment) == ()
        state = state.after_request().after_response(ok=False, now=240.0)
        assert state.check_due(240.0)
        (restart,) = state.repairs(status(), 240.0)
        assert restart.describe() == f"~ restart container {RERANKER}: no response to 3 requests"
        assert state.after_check(status(), 241.0, started=True).missed == 0

    def test_a_response_resets_the_count(self):
        state = watching().after_check(status(), 0.0, started=False)
        for ok in (False, False, True, False, False):
            state = state.after_response(ok=ok, now=1.0)
        assert state.repairs(status(), 1.0) == ()

    @pytest.mark.parametrize("ok", [False, None])
    def test_missing_response_counts_only_for_a_serving_reranker(self, ok):
        state = watching(serving=ok is None)
        for _ in range(5):
            state = state.after_response(ok=ok, now=1.0)
        assert state.missed == 0

    def test_no_restart_beside_a_start(self):
        assert watching(missed=3).repairs(status(RUN), 0.0) == (RUN,)

    @pytest.mark.parametrize("missed", [0, 3])
    def test_unhealthy_reranker_gets_one_more_request_at_once(self, missed):
        unhealthy = status(RESTART, health="unhealthy")
        state = watching().after_check(status(), 0.0, started=False)
        state = dataclasses.replace(state, missed=missed, probe_at=30.0)
        state = state.after_check(unhealthy, 5.0, started=False)
        assert state.repairs(unhealthy, 5.0) == ()
        assert state.probe_due(5.0)
        asked = state.after_request()
        assert asked.after_check(unhealthy, 6.0, started=False).repairs(unhealthy, 6.0) == ()
        state = asked.after_response(ok=False, now=65.0)
        assert state.check_due(65.0)
        assert [type(action) for action in state.repairs(unhealthy, 65.0)] == [RestartContainer]
        assert asked.after_response(ok=True, now=7.0).repairs(unhealthy, 7.0) == ()

    def test_a_request_from_before_does_not_count(self):
        unhealthy = status(RESTART, health="unhealthy")
        state = watching().after_check(status(), 0.0, started=False).after_request()
        state = state.after_check(unhealthy, 5.0, started=False).after_response(ok=False, now=6.0)
        assert state.repairs(unhealthy, 6.0) == ()
        assert state.probe_due(6.0)
        state = state.after_request().after_response(ok=False, now=70.0)
        assert state.hangs

    def test_paused_reranker_is_not_restarted(self):
        assert watching(missed=5).repairs(status(status="paused"), 0.0) == ()


class TestEngine:
    def test_nothing_is_due_while_the_engine_is_unreachable(self):
        gone = watching().after_disconnect()
        assert gone.wait(1000.0) is None
        assert not gone.check_due(1000.0)
        assert not gone.probe_due(1000.0)
        assert gone.after_reconnect(1000.0).check_due(1000.0)


@given(st.lists(st.sampled_from(["look", "event", "miss", "answer", "fail", "launch", "lost", "back"])))
def test_wait_is_bounded_after_any_events(steps):
    state, now = WatchState(PACE), 0.0
    event = EventState("container", "die", "any")
    for step in [*steps, "back"]:
        now += 1.0
        state = {
            "look": lambda m, t: m.after_check(status(), t, started=False),
            "launch": lambda m, t: m.after_check(status(), t, started=True),
            "event": lambda m, t: m.after_event(event, STACK, t),
            "miss": lambda m, t: m.after_response(ok=False, now=t),
            "answer": lambda m, t: m.after_response(ok=True, now=t),
            "fail": lambda m, t: m.after_failure("no", t),
            "lost": lambda m, _: m.after_disconnect(),
            "back": lambda m, t: m.after_reconnect(t),
        }[step](state, now)
        assert state.disconnected or 0.0 <= state.wait(now) <= PACE.longest
