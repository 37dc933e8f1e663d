"""Plans: actions, their order and texts; one ``up`` repairs any sequence of faults."""

import dataclasses
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragops.configuration import Network, Ragflow, Reranker, Stack
from ragops.docker.engine import observe
from ragops.docker.objects import COMPOSE_PROJECT, COMPOSE_SERVICE, LABEL, ContainerSpec, Mount, moves_route
from ragops.errors import EngineError, InUseError, LaunchError, RagflowError, StackError
from ragops.ragflow.discovery import RagflowContainer
from ragops.stack.plan import (
    CreateNetwork,
    Plan,
    Remove,
    ReplaceContainer,
    RestoreContainer,
    apply,
    network_spec,
)
from ragops.stack.planning import Wanted, plan_connect, plan_down, plan_purge, plan_up
from tests.support.fake_engine import FakeEngine, Stop, kill_at

STACK = Stack(gateway=False)
NET, RERANKER, RAGFLOW = STACK.network.name, STACK.reranker.name, "docker-ragflow-cpu-1"
CACHE = f"{RERANKER}-cache"
LABELS = {COMPOSE_PROJECT: "docker", COMPOSE_SERVICE: "ragflow-cpu"}
BOTH_PUBLISH = "both publish port 8123"
SPEC = ContainerSpec(
    name=RERANKER,
    image="vllm-cpu:latest",
    mounts=(Mount(CACHE, "/cache", "volume"),),
    network=NET,
    publish=(("127.0.0.1", 8123, 8000),),
)


@pytest.fixture(autouse=True, scope="module")
def ready():
    """Each reranker responds at once; gives the mocks of waiting and draining."""
    with mock.patch("ragops.checks.ready.wait") as wait, mock.patch("ragops.checks.ready.drain") as drain:
        yield wait, drain


def plan(engine, stack=STACK, spec=SPEC, free_memory=0):
    spec = dataclasses.replace(spec, image_id=engine.image("vllm-cpu:latest").id)
    return plan_up(stack, Wanted((spec,)), observe(engine), free_memory)


def up(engine, stack=STACK, spec=SPEC, free_memory=0):
    done = plan(engine, stack, spec, free_memory)
    apply(done, engine)
    return done


def texts(changes):
    return [action.describe() for action in changes.actions]


def add_ragflow(engine):
    return engine.add_container(RAGFLOW, network="docker_ragflow", labels=LABELS)


class TestNetwork:
    @pytest.mark.parametrize("first", [True, False])
    @pytest.mark.parametrize("removed", [True, False], ids=["the other is removed", "the other stays"])
    def test_of_two_that_are_created_at_once_one_is_left(self, fake, monkeypatch, first, removed):
        create, ids = fake.create_network, []

        def create_both(spec):
            calls = [lambda: create(spec), lambda: ids.append(fake.add_network(NET)) or ids[0]]
            results = [call() for call in calls[:: 1 if first else -1]]
            return next(network for network in results if network not in ids)

        fake.create_network = create_both
        monkeypatch.setattr("time.sleep", lambda _: removed and fake.remove_network(ids[0]))
        monkeypatch.setattr("tests.support.fake_engine.new_network", lambda *_: "")  # they raced its check
        CreateNetwork(network_spec(STACK.shared_network)).apply(fake)
        assert len([network for network in fake.networks() if network.name == NET]) == 1

    def test_down_removes_two_of_one_name(self, fake, monkeypatch):
        monkeypatch.setattr("tests.support.fake_engine.new_network", lambda *_: "")
        spec = network_spec(STACK.shared_network)
        ids = {fake.create_network(spec), fake.create_network(spec)}
        actions = plan_down(STACK, observe(fake)).actions
        assert {action.id for action in actions if isinstance(action, Remove)} == ids


class TestUp:
    def test_on_an_empty_engine(self, fake, ragflow):
        done = up(fake)
        assert texts(done) == [
            f"+ create network {NET}",
            f"+ create volume {CACHE}",
            f"+ run container {RERANKER} from vllm-cpu:latest",
            f"+ connect {RAGFLOW} to {NET}",
        ]
        assert fake.container(RERANKER).status == "running"
        assert fake.container(RAGFLOW).endpoint(NET).address

    def test_as_docker_commands(self, fake, ragflow):
        network, volume, run, connect = plan(fake).commands()
        assert network == f"docker network create --driver bridge --label org.ragops=network {NET}"
        assert volume == f"docker volume create --label org.ragops=cache {CACHE}"
        assert run.startswith(f"docker run --detach --name {RERANKER} --network {NET}")
        assert connect == f"docker network connect {NET} {RAGFLOW}"

    def test_planning_changes_nothing(self, fake, ragflow):
        plan(fake)
        assert fake.calls == []

    def test_second_call_changes_nothing(self, fake, ragflow):
        up(fake)
        fake.calls.clear()
        assert up(fake).empty
        assert fake.calls == []

    def test_stopped_reranker_is_started(self, fake, ragflow):
        up(fake)
        fake.stop(RERANKER)
        assert texts(up(fake)) == [f"~ start container {RERANKER}"]
        assert plan(fake).empty

    def test_unhealthy_reranker_is_restarted(self, fake, ragflow):
        up(fake)
        fake.change(RERANKER, health="unhealthy")
        (restart,) = up(fake).actions
        assert (restart.name, restart.reason) == (RERANKER, "it is unhealthy")
        assert fake.calls[-2:] == [f"stop {RERANKER}", f"start {RERANKER}"]

    def test_recreated_ragflow_is_connected_again(self, fake, ragflow):
        up(fake)
        fake.remove_container(RAGFLOW)
        add_ragflow(fake)
        assert texts(plan(fake)) == [f"+ connect {RAGFLOW} to {NET}"]

    def test_stopped_ragflow_is_connected_too(self, fake, ragflow):
        fake.stop(RAGFLOW)
        up(fake)
        fake.start(RAGFLOW)
        assert fake.container(RAGFLOW).endpoint(NET).address

    def test_changed_configuration_replaces_the_container(self, fake):
        up(fake)
        changed = dataclasses.replace(SPEC, memory=1)
        (replacement,) = up(fake, spec=changed).actions
        assert (replacement.reason, replacement.obstacle) == ("its configuration changed", BOTH_PUBLISH)
        assert fake.container(RERANKER).config == changed.config_hash()
        assert plan(fake, spec=changed).empty

    def test_changed_image_replaces_the_container(self, fake):
        up(fake)
        before, after = fake.image("vllm-cpu:latest"), fake.add_image("other:1")
        fake.tag("other:1", "vllm-cpu:latest")
        (replacement,) = up(fake).actions
        assert f"vllm-cpu:latest moved from {before.id[7:19]} to {after.id[7:19]}" in replacement.reason
        assert plan(fake).empty

    def test_recreated_network_is_connected_again(self, fake, ragflow):
        up(fake)
        fake.stop(RERANKER)
        fake.stop(RAGFLOW)
        fake.remove_network(NET)
        fake.add_network(NET)
        assert texts(up(fake)) == [
            f"- disconnect {RERANKER} from {NET}",
            f"+ connect {RERANKER} to {NET}",
            f"~ start container {RERANKER}",
            f"- disconnect {RAGFLOW} from {NET}",
            f"+ connect {RAGFLOW} to {NET}",
        ]
        fake.start(RAGFLOW)
        assert plan(fake).empty

    def test_missing_network_is_created_again(self, fake, ragflow):
        up(fake)
        fake.stop(RERANKER)
        fake.stop(RAGFLOW)
        fake.remove_network(NET)
        assert texts(up(fake))[-2:] == [f"- disconnect {RAGFLOW} from {NET}", f"+ connect {RAGFLOW} to {NET}"]
        fake.start(RAGFLOW)
        assert fake.container(RAGFLOW).endpoint(NET).network_id == fake.network(NET).id
        assert plan(fake).empty

    def test_foreign_container_of_that_name_is_refused(self, fake):
        fake.add_container(RERANKER)
        with pytest.raises(StackError) as caught:
            plan(fake)
        assert caught.value.code == "name-taken"

    @pytest.mark.parametrize(
        "configured",
        [Network(driver="macvlan"), Network(internal=True), Network(subnet="10.77.0.0/24")],
    )
    def test_different_network_is_refused(self, fake, configured):
        fake.add_network(NET)
        with pytest.raises(StackError, match=NET) as caught:
            plan(fake, STACK.model_copy(update={"network": configured}))
        assert "configured" in caught.value.evidence

    def test_foreign_network_is_used_with_a_note(self, fake):
        fake.add_network(NET)
        changes = plan(fake)
        assert not any("network" in line for line in texts(changes))
        assert any(f"network {NET} was not created by ragops" in note for note in changes.notes)

    @pytest.mark.parametrize("mode", ["host", "none", "container:other"])
    def test_ragflow_without_a_network_of_its_own_is_refused(self, fake, mode):
        fake.add_container("other")
        fake.add_container("ragflow-server", network=mode)
        with pytest.raises(RagflowError, match="can't be connected to a network"):
            plan(fake)

    def test_missing_ragflow_is_a_note(self, fake):
        assert "ragops demo up" in "".join(plan(fake).notes)

    def test_only_configured_containers_are_connected(self, fake, ragflow):
        fake.add_container("mine")
        stack = STACK.model_copy(update={"ragflow": Ragflow(containers=("mine",))})
        assert [line for line in texts(plan(fake, stack)) if "connect" in line] == [
            f"+ connect mine to {NET}"
        ]

    @pytest.mark.parametrize(("internal", "reason"), [(True, "internal"), (False, "before 28")])
    def test_port_that_is_not_published_has_a_note(self, fake, internal, reason):
        stack = STACK.model_copy(update={"network": Network(internal=internal)})
        notes = plan(fake, stack, dataclasses.replace(SPEC, publish=())).notes
        assert any("port 8123 is not published" in note and reason in note for note in notes)

    def test_existing_internal_network_publishes_nothing(self, fake):
        assert not any("not published" in note for note in plan(fake).notes)
        fake.add_network(NET, internal=True)
        assert any("the network is internal" in note for note in plan(fake).notes)

    @pytest.mark.parametrize(
        ("changed", "named"),
        [
            ({"Memory": 1 << 30}, "Memory"),
            ({"NanoCpus": 500_000_000}, "NanoCpus"),
            ({"RestartPolicy": {"Name": "always", "MaximumRetryCount": 0}}, "RestartPolicy"),
        ],
    )
    def test_limits_that_docker_update_changed_are_restored(self, fake, changed, named):
        up(fake)
        assert plan(fake).empty
        container = fake.container(RERANKER)
        fake.change(RERANKER, limits={**container.limits, **changed})
        (line,) = texts(plan(fake))
        assert line.startswith(f"~ replace container {RERANKER}: docker update changed {named}")

    def test_limit_that_compose_cannot_set_is_no_change(self, fake):
        spec = dataclasses.replace(SPEC, cpuset_mems="0")
        up(fake, spec=spec)
        fake.change(RERANKER, limits={**fake.container(RERANKER).limits, "CpusetMems": ""})
        assert plan(fake, spec=spec).empty

    def test_reranker_leaves_other_networks(self, fake):
        up(fake)
        fake.add_network("other")
        fake.connect("other", RERANKER)
        assert texts(plan(fake)) == [f"- disconnect {RERANKER} from other"]
        up(fake)
        assert plan(fake).empty


class TestEngineErrors:
    def test_port_in_use_leaves_no_container(self, fake):
        fake.add_container("other", publish=(("0.0.0.0", 8123, 80),))
        with pytest.raises(EngineError, match="port is already allocated") as caught:
            up(fake)
        assert "set another port" in caught.value.hint
        assert fake.container(RERANKER) is None

    def test_completed_actions_stay_and_the_next_call_continues(self, fake):
        fake.host_ports.add(8123)
        with pytest.raises(EngineError):
            up(fake)
        fake.host_ports.clear()
        assert texts(up(fake)) == [f"+ run container {RERANKER} from vllm-cpu:latest"]

    def test_each_action_is_reported_before_it_runs(self, fake, steps):
        fake.refuse("create volume", "no")
        with pytest.raises(EngineError):
            apply(plan(fake), fake)
        assert steps == [f"+ create network {NET}", f"+ create volume {CACHE}"]


PRIVATE = dataclasses.replace(SPEC, publish=())
"""Publishes nothing, so that a second one can run beside it."""


def changed(spec):
    return dataclasses.replace(spec, memory=2**30, labels=(("changed", "yes"),))


def rerankers(engine):
    return {one.name: one.status for one in engine.containers() if one.role == "reranker"}


def calls_of(spec, free_memory):
    """The changing calls of a replacement."""
    engine = FakeEngine()
    with mock.patch("ragops.checks.ready.wait"), mock.patch("ragops.checks.ready.drain"):
        up(engine, spec=spec)
        engine.calls.clear()
        up(engine, spec=changed(spec), free_memory=free_memory)
    return tuple(call.split(f" {RERANKER}")[0] for call in engine.calls)


class TestReplacement:
    """Whatever happens to a replacement, one reranker runs and responds under its name."""

    BOTH, ONE = (PRIVATE, 2**30), (SPEC, 2**40)

    def test_old_container_runs_until_the_new_one_has_responded(self, fake, ready):
        up(fake, spec=PRIVATE)
        old = fake.container(RERANKER)
        during = []
        ready[0].side_effect = lambda engine, *_: during.append(rerankers(engine))
        (replacement,) = up(fake, spec=changed(PRIVATE), free_memory=2**30).actions
        ready[0].side_effect = None
        assert replacement.obstacle == ""
        assert during == [{RERANKER: "running", f"{RERANKER}-new-{old.id[:8]}": "running"}]
        assert ready[1].call_args.args == (fake, old.id)
        assert rerankers(fake) == {RERANKER: "running"}
        assert fake.container(RERANKER).id != old.id

    @pytest.mark.parametrize(
        ("spec", "free", "status", "word"),
        [
            (SPEC, 2**40, {}, "port 8123"),
            (PRIVATE, 2**30 - 1, {}, "1023 are free"),
            (PRIVATE, 2**40, {"status": "exited"}, "exited"),
            (PRIVATE, 2**40, {"health": "unhealthy"}, "unhealthy"),
        ],
        ids=["port", "memory", "stopped", "unhealthy"],
    )
    def test_plan_names_why_calls_fail_while_vllm_loads(self, fake, spec, free, status, word):
        up(fake, spec=spec)
        fake.change(RERANKER, **status)
        (replacement,) = plan(fake, spec=changed(spec), free_memory=free).actions
        assert word in replacement.obstacle
        assert "calls fail while vLLM loads" in replacement.describe()

    @pytest.mark.parametrize("case", ["reached", "RAGFlow left", "reranker left", "network gone"])
    def test_plan_names_whether_ragflow_reaches_the_old_container_meanwhile(self, fake, ragflow, case):
        up(fake, spec=PRIVATE)
        for name in {"RAGFlow left": [ragflow], "reranker left": [RERANKER]}.get(case, []):
            fake.disconnect(NET, name)
        if case == "network gone":
            fake._networks.pop(fake.network(NET).id)
        spec = PRIVATE if case == "network gone" else changed(PRIVATE)
        actions = plan(fake, spec=spec, free_memory=2**30).actions
        (replacement,) = [action for action in actions if isinstance(action, ReplaceContainer)]
        assert (replacement.obstacle, replacement.reached) == ("", case == "reached")
        assert ("calls fail" in replacement.describe()) is (case != "reached")

    def test_commands_are_those_that_are_run(self, fake):
        for spec, free in (self.BOTH, self.ONE):
            up(fake, spec=spec)
            (replacement,) = plan(fake, spec=changed(spec), free_memory=free).actions
            words = [command[1] for command in replacement.commands()]
            assert sorted(set(words)) == ["rename", "rm", "run", "stop"]
            fake.remove_container(RERANKER)

    @pytest.mark.parametrize(
        ("case", "call"), [(case, call) for case in (BOTH, ONE) for call in dict.fromkeys(calls_of(*case))]
    )
    def test_refused_call_leaves_a_reranker_under_its_name(self, fake, case, call):
        spec, free = case
        up(fake, spec=spec)
        old = fake.container(RERANKER).id
        fake.refuse(call, "no space left on device")
        with pytest.raises(EngineError, match="no space left"):
            up(fake, spec=changed(spec), free_memory=free)
        assert rerankers(fake)[RERANKER] == "running"
        if call not in {"remove container", "stop"} or (call == "stop" and case is self.ONE):
            assert rerankers(fake) == {RERANKER: "running"}
            assert fake.container(RERANKER).id == old
        self.converges(fake, changed(spec), free)

    @pytest.mark.parametrize("case", [BOTH, ONE], ids=["both fit", "one fits"])
    @pytest.mark.parametrize("error", [LaunchError("it exited while loading"), KeyboardInterrupt()], ids=str)
    def test_container_that_never_responds_is_replaced_by_the_old_one(self, fake, ready, case, error):
        spec, free = case
        up(fake, spec=spec)
        old = fake.container(RERANKER).id
        ready[0].side_effect = error
        with pytest.raises(type(error)):
            up(fake, spec=changed(spec), free_memory=free)
        ready[0].side_effect = None
        assert rerankers(fake) == {RERANKER: "running"}
        assert fake.container(RERANKER).id == old

    @pytest.mark.parametrize(
        ("case", "number"),
        [(case, number) for case in (BOTH, ONE) for number in range(len(calls_of(*case)))],
    )
    @pytest.mark.parametrize("moment", ["before", "after"])
    @pytest.mark.parametrize("healthy", [False, True])
    def test_next_call_converges_after_a_kill_at_each_call(self, fake, case, number, moment, healthy):
        spec, free = case
        up(fake, spec=spec)
        wanted = changed(spec)
        fake.calls.clear()
        kill_at(fake, number, moment)
        with mock.patch("ragops.stack.plan.ReplaceContainer._restore"), pytest.raises(Stop):
            up(fake, spec=wanted, free_memory=free)
        kill_at(fake, None, moment)
        if healthy and fake.container(RERANKER):
            fake.change(RERANKER, health="healthy")
        self.converges(fake, wanted, free)

    def converges(self, fake, spec, free):
        up(fake, spec=spec, free_memory=free)
        assert plan(fake, spec=spec, free_memory=free).empty
        assert rerankers(fake) == {RERANKER: "running"}
        assert fake.container(RERANKER).config == spec.config_hash()

    def test_running_new_container_is_not_trusted_before_it_has_responded(self, fake):
        up(fake)
        old = fake.container(RERANKER).id
        fake.rename(RERANKER, f"{RERANKER}-old-{old[:8]}")
        fake.stop(old)
        up_again = dataclasses.replace(changed(SPEC), image_id=fake.image("vllm-cpu:latest").id)
        fake.start(fake.create_container(up_again))
        assert [type(action) for action in plan(fake, spec=up_again).actions] == [
            Remove,
            RestoreContainer,
            ReplaceContainer,
        ]

    def test_renamed_container_gets_its_name_back(self, fake):
        up(fake)
        fake.rename(RERANKER, "mine")
        assert texts(up(fake)) == [f"~ restore container {RERANKER}, which is named mine"]
        assert rerankers(fake) == {RERANKER: "running"}

    @pytest.mark.parametrize("health", ["healthy", "starting"])
    def test_renamed_container_beside_another_reranker_stays(self, fake, health):
        up(fake, spec=PRIVATE)
        fake.rename(RERANKER, "mine")
        fake.start(fake.create_container(PRIVATE))
        fake.change(RERANKER, health=health)
        assert up(fake, spec=PRIVATE).empty
        assert rerankers(fake) == {RERANKER: "running", "mine": "running"}

    def test_restored_container_that_was_stopped_is_not_started(self, fake):
        up(fake)
        fake.stop(RERANKER)
        fake.refuse("create container", "no space left on device")
        with pytest.raises(EngineError, match="no space left"):
            up(fake, spec=changed(SPEC))
        assert rerankers(fake) == {RERANKER: "exited"}

    def test_foreign_container_of_the_temporary_name_stays(self, fake):
        up(fake, spec=PRIVATE)
        name = f"{RERANKER}-new-{fake.container(RERANKER).id[:8]}"
        fake.add_container(name)
        with pytest.raises(EngineError) as caught:
            up(fake, spec=changed(PRIVATE), free_memory=2**30)
        assert caught.value.code == "name-taken"
        assert fake.container(name).status == "running"
        assert rerankers(fake) == {RERANKER: "running"}

    def test_failed_restoration_is_logged_and_left_to_the_next_call(self, fake, messages):
        up(fake)
        fake.refuse("create container", "no space left on device")
        fake.refuse(f"rename {RERANKER}-old", "no")
        with pytest.raises(EngineError, match="no space left"):
            up(fake, spec=changed(SPEC))
        assert "ragops up" in messages[-1]
        self.converges(fake, changed(SPEC), 0)


class TestRoute:
    @pytest.mark.parametrize(
        ("network", "internal", "moves"),
        [
            ("aaa", False, True),
            ("docker-ragflow", False, True),  # a hyphen sorts before RAGFlow's underscore
            ("ragflow-rerank", False, False),
            ("aaa", True, False),
        ],
    )
    def test_moves_to_the_name_that_sorts_first(self, fake, ragflow, network, internal, moves):
        assert moves_route(fake.container(ragflow), network, internal=internal) is moves

    def test_connection_notes_the_move(self, fake, ragflow):
        stack = STACK.model_copy(update={"network": Network(name="aaa")})
        spec = dataclasses.replace(SPEC, network="aaa")
        moved = "(moves its default route: open connections break)"
        assert texts(plan(fake, stack, spec))[-1] == f"+ connect {RAGFLOW} to aaa {moved}"
        assert moved not in str(plan(fake))

    def test_connected_container_needs_no_action(self, fake, ragflow):
        stack = STACK.model_copy(update={"network": Network(name="aaa")})
        spec = dataclasses.replace(SPEC, network="aaa")
        up(fake, stack, spec)
        assert plan(fake, stack, spec).empty


class TestConnect:
    def test_second_connection_is_empty(self, fake, ragflow):
        fake.add_network(NET)
        for expected in (1, 0):
            changes = plan_connect(RagflowContainer(fake.container(ragflow)), fake.network(NET))
            assert len(changes.actions) == expected
            apply(changes, fake)

    def test_refused_without_a_network_of_its_own(self, fake):
        fake.add_network(NET)
        fake.add_container("container", network="host")
        with pytest.raises(RagflowError, match="it uses the host's network"):
            plan_connect(RagflowContainer(fake.container("container")), fake.network(NET))


class TestDown:
    def test_removes_own_objects_and_keeps_ragflow(self, fake, ragflow):
        up(fake)
        apply(plan_down(STACK, observe(fake)), fake)
        assert fake.container(RERANKER) is None
        assert fake.network(NET) is None
        assert fake.volumes() == ()
        left = fake.container(RAGFLOW)
        assert [end.network for end in left.endpoints] == ["docker_ragflow"]
        assert left.status == "running"

    def test_without_objects_is_empty(self, fake, ragflow):
        assert plan_down(STACK, observe(fake)).empty

    def test_foreign_network_stays_with_its_members(self, fake, ragflow):
        fake.add_network(NET)
        up(fake)
        changes = plan_down(STACK, observe(fake))
        assert texts(changes) == [f"- remove container {RERANKER}", f"- remove volume {CACHE}"]

    def test_foreign_container_of_the_rerankers_name_stays(self, fake):
        up(fake)
        fake.remove_container(RERANKER)
        fake.add_container(RERANKER)
        apply(plan_down(STACK, observe(fake)), fake)
        assert fake.container(RERANKER).status == "running"
        assert fake.network(NET) is None

    def test_stopped_ragflow_is_disconnected_and_can_start_again(self, fake, ragflow):
        up(fake)
        fake.stop(RAGFLOW)
        apply(plan_down(STACK, observe(fake)), fake)
        fake.start(RAGFLOW)
        assert fake.network(NET) is None

    @pytest.mark.parametrize("stopped", [True, False])
    def test_network_with_another_container_is_kept_and_the_container_named(self, fake, ragflow, stopped):
        up(fake)
        fake.add_container("other", network=NET)
        if stopped:
            fake.stop("other")
        fake.calls.clear()
        with pytest.raises(InUseError) as caught:
            plan_down(STACK, observe(fake))
        assert "ragops disconnect other" in caught.value.hint

    def test_configured_container_is_disconnected(self, fake):
        stack = STACK.model_copy(update={"ragflow": Ragflow(containers=("mine",))})
        fake.add_container("mine")
        up(fake, stack)
        apply(plan_down(stack, observe(fake)), fake)
        assert fake.container("mine").endpoint(NET) is None

    @pytest.mark.parametrize("stopped", [True, False])
    def test_container_connected_after_planning_is_detected_at_removal(self, fake, stopped):
        up(fake)
        changes = plan_down(STACK, observe(fake))
        fake.add_container("late", network=NET)
        if stopped:
            fake.stop("late")
        with pytest.raises(InUseError, match="in use by late"):
            apply(changes, fake)
        assert fake.network(NET) is not None
        fake.start("late")

    def test_foreign_volume_stays(self, fake):
        fake.create_container(dataclasses.replace(SPEC, name="other"))  # the engine makes it, unlabelled
        fake.remove_container("other")
        assert plan_down(STACK, observe(fake)).empty


class TestPurge:
    def test_removes_own_objects_only(self, fake, ragflow):
        fake.add_network("theirs")
        up(fake)
        second = Stack(network=Network(name="second"), reranker=Reranker(name="second-reranker"))
        up(fake, second, dataclasses.replace(SPEC, name="second-reranker", network="second", publish=()))
        apply(plan_purge(observe(fake)), fake)
        left = observe(fake)
        assert [one.name for one in left.containers] == [RAGFLOW]
        assert {one.name for one in left.networks} >= {"theirs", "docker_ragflow", "bridge"}
        assert not any(one.ours for one in left.networks)
        assert left.volumes == ()

    def test_foreign_container_of_an_own_image_stays(self, fake):
        """It has the image's label, as every container has its image's labels."""
        fake.remove_image("vllm-cpu:latest")
        fake.add_image("vllm-cpu:latest", labels={LABEL: "image"})
        fake.add_container("foreign", image="vllm-cpu:latest")
        assert fake.container("foreign").labels == {LABEL: "image"}
        assert not fake.container("foreign").ours
        assert plan_purge(observe(fake)).empty


class TestText:
    def test_empty_plan(self):
        assert str(Plan(())) == "nothing to change"
        assert "nothing to change" in Plan(())._repr_html_()

    def test_notes_come_last(self, fake):
        assert str(plan(fake)).splitlines()[-1].startswith("note: no RAGFlow container found")

    def test_html_is_escaped(self, fake):
        assert "&lt;b&gt;" in Plan((), ("<b>",))._repr_html_()
        assert "<code>docker network create" in plan(fake)._repr_html_()


def stop(name):
    def act(engine):
        if engine.container(name):
            engine.stop(name)

    return act


def remove(name):
    def act(engine):
        if engine.container(name):
            engine.remove_container(name)

    return act


def leave(name):
    def act(engine):
        container = engine.container(name)
        if container and container.endpoint(NET):
            engine.disconnect(NET, name)

    return act


def remove_network_if_unused(engine):
    network = engine.network(NET)
    if network and not any(one.running and one.endpoint(NET) for one in engine.containers()):
        engine.remove_network(NET)


def new_network(engine):
    if engine.network(NET) is None:
        engine.add_network(NET)


def recreate_ragflow(engine):
    remove(RAGFLOW)(engine)
    add_ragflow(engine)


def new_image(engine):
    engine.add_image("new:1")
    engine.tag("new:1", "vllm-cpu:latest")


FAULTS = {
    "stop reranker": stop(RERANKER),
    "stop ragflow": stop(RAGFLOW),
    "remove reranker": remove(RERANKER),
    "reranker leaves": leave(RERANKER),
    "ragflow leaves": leave(RAGFLOW),
    "network gone": remove_network_if_unused,
    "network made by another": new_network,
    "ragflow recreated": recreate_ragflow,
    "image rebuilt": new_image,
    "up": up,
}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(sorted(FAULTS)), max_size=8))
def test_one_up_repairs_any_sequence_of_faults(faults):
    engine = FakeEngine()
    add_ragflow(engine)
    for name in faults:
        FAULTS[name](engine)
    up(engine)
    assert plan(engine).empty
    engine.start(RAGFLOW)
    network, reranker = engine.network(NET), engine.container(RERANKER)
    assert reranker.status == "running"
    for name in (RERANKER, RAGFLOW):
        place = engine.container(name).endpoint(NET)
        assert (place.network_id, bool(place.address)) == (network.id, True)


def test_a_network_of_a_swarm_is_gone_when_its_removal_ends(monkeypatch):
    """A node removes it some time after the manager: a plan in between would remove it again."""
    engine, network = mock.Mock(), mock.Mock()
    engine.containers.return_value = []
    engine.network.side_effect = [network, network, None]
    monkeypatch.setattr("ragops.stack.plan.time.sleep", lambda _: None)
    Remove("network", "ragflow-rerank-swarm", "n1", released=True).apply(engine)
    assert engine.remove_network.mock_calls == [mock.call("n1")]
    assert engine.network.call_count == 3
