"""Replicas that Swarm places: plans keep RAGFlow served, interrupted ones are continued, nothing is left."""

import contextlib
import itertools
import json
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import pytest

from ragops.configuration import Stack, Swarm
from ragops.docker.engine import observe
from ragops.docker.objects import (
    COMPOSE_PROJECT,
    COMPOSE_SERVICE,
    LABEL_FINGERPRINT,
    LABEL_MODEL,
    LABEL_STACK,
    ContainerSpec,
)
from ragops.docker.swarm import ServiceSpec, SwarmState
from ragops.errors import LaunchError, StackError
from ragops.reranker.gateway import Cache, GatewayState, Hour, Replica
from ragops.stack import plan, scale, watch
from ragops.stack.plan import Remove, ReplaceContainer, ScoreCheck, apply
from ragops.stack.planning import Wanted, plan_down, plan_purge, plan_up
from ragops.stack.scale import ConfigFile, ExcludeNode, PlaceService
from tests.support.fake_engine import FakeEngine, Stop, kill_at
from tests.support.fake_swarm import NO_NODE

LOCAL, PLACED = Stack(), Stack(swarm=Swarm())
NAME, RAGFLOW, ALIAS = LOCAL.reranker.name, "docker-ragflow-cpu-1", LOCAL.replicas_alias
GIB = 1 << 30
LABELS = ((LABEL_MODEL, "/model"), (LABEL_FINGERPRINT, "1"), (LABEL_STACK, NAME))


class World:
    """An engine that manages a Swarm of three nodes, where everything that is started responds."""

    def __init__(self, folder, *nodes):
        self.engine, self.file = FakeEngine(), folder / "reference.json"
        self.engine.add_image("gateway:1")
        self.engine.join(*nodes)
        labels = {COMPOSE_PROJECT: "docker", COMPOSE_SERVICE: "ragflow-cpu"}
        self.engine.add_container(RAGFLOW, network="docker_ragflow", labels=labels)
        self.bare = self.engine.swarm()

    def wanted(self, stack, count=2, model="1", nodes="{}", gateways=1):
        image, gateway_image = (self.engine.image(name).id for name in ("vllm-cpu:latest", "gateway:1"))
        check = ScoreCheck(None, model, self.file)
        due = None if check.known else check
        gateway = ContainerSpec(
            NAME,
            "gateway:1",
            image_id=gateway_image,
            network=stack.shared_network.name,
            memory=1 << 28,
            role="gateway",
            labels=((LABEL_STACK, NAME),),
        )
        labels = (*LABELS[:1], (LABEL_FINGERPRINT, model), *LABELS[2:])
        vllm = ContainerSpec(
            f"{NAME}-1",
            "vllm-cpu:latest",
            image_id=image,
            network=stack.shared_network.name,
            aliases=(ALIAS,),
            memory=GIB,
            labels=labels,
        )
        if not stack.swarm:
            return Wanted((vllm,), gateway, due)
        task = replace(vllm, name=ALIAS, aliases=())
        config = ConfigFile(scale._prefix(stack, "reference"), self.file, "/reference.json")
        placed = [
            PlaceService(
                ServiceSpec(task, count, nodes=nodes),
                (config,),
                600,
                check=due,
                check_name=stack.derived_name("check"),
            )
        ]
        if gateways > 1:
            front = replace(gateway, name=stack.derived_name("gateway"), aliases=(NAME,))
            spec = ServiceSpec(front, gateways - 1, constraints=(f"node.id!={self.engine.nodes[0].id}",))
            more = PlaceService(spec, (replace(config, target="/reference/reference.json"),), 600)
            placed = [replace(placed[0], gateways=(more,)), more]
        return Wanted((), gateway, None, tuple(placed))

    def plan(self, stack, free=64 * GIB, **options):
        engine = self.engine
        wanted = self.wanted(stack, **options)
        return plan_up(stack, wanted, observe(engine), free, engine.swarm(), engine.state().node)

    def up(self, stack, free=64 * GIB, **options):
        changes = self.plan(stack, free, **options)
        apply(changes, self.engine)
        return changes

    def approve(self, _engine, _container, _image, _expected, identity, _address=""):
        return json.dumps({"id": identity})


@pytest.fixture
def world(tmp_path):
    with patched(World(tmp_path, "a", "b", "c")) as world:
        yield world


def patched(world):
    def healthy(engine, name, *_, **__):
        engine.change(name, health="healthy")

    stack = mock.patch.multiple("ragops.checks.ready", wait=healthy, wait_admitted=healthy, drain=mock.Mock())
    approve, sleep = mock.patch("ragops.checks.reference.approve", world.approve), mock.patch("time.sleep")

    class Patched:
        def __enter__(self):
            for patch in (stack, approve, sleep):
                patch.start()
            return world

        def __exit__(self, *_):
            for patch in (stack, approve, sleep):
                patch.stop()

    return Patched()


class TestUp:
    def test_from_nothing_to_nothing(self, world):
        first = [action.describe() for action in world.up(PLACED).actions]
        assert first == [
            f"+ create network {PLACED.overlay}",
            f"+ run container {NAME} from gateway:1",
            f"+ connect {RAGFLOW} to {PLACED.overlay}",
            f"+ create service {ALIAS}: 2 of vllm-cpu:latest, each on a node of its own",
        ]
        swarm = world.engine.swarm()
        assert [task.state for task in swarm.tasks_of(ALIAS)] == ["running"] * 2
        assert [world.engine.config_data[name] for name in swarm.configs] == [b'{"id": "1"}']
        assert world.plan(PLACED).empty
        apply(plan_down(PLACED, observe(world.engine), swarm), world.engine)
        assert world.engine.swarm() == world.bare
        assert not [one for one in world.engine.containers() if one.ours]
        assert not [network for network in world.engine.networks() if network.ours]

    def test_scores_are_checked_on_a_task_that_is_removed(self, world):
        world.up(PLACED)
        check = PLACED.derived_name("check")
        calls = [call for call in world.engine.calls if check in call]
        assert [call.split()[0] for call in calls] == ["create", "remove"]
        world.engine.calls.clear()
        world.up(PLACED, count=3)
        assert [call for call in world.engine.calls if check in call] == []

    @pytest.mark.parametrize("count", [1, 3])
    def test_another_number_changes_no_other_task(self, world, count):
        world.up(PLACED)
        before = world.engine.swarm().service(ALIAS)
        (action,) = world.up(PLACED, count=count).actions
        after = world.engine.swarm().service(ALIAS)
        assert (action.reason, after.replicas) == (f"2 → {count} tasks", count)
        assert replace(after, version=before.version, replicas=2, update="") == before

    def test_further_gateways_are_on_other_nodes(self, world):
        world.up(PLACED, gateways=3)
        tasks = world.engine.swarm().tasks_of(PLACED.derived_name("gateway"))
        assert [task.node for task in tasks] == ["b-id", "c-id"]
        world.up(PLACED)
        assert world.engine.swarm().service(PLACED.derived_name("gateway")) is None

    @pytest.mark.parametrize(
        ("before", "after", "updated"),
        [
            ({"a-id": 1}, {"a-id": 1, "b-id": 1}, False),
            ({"a-id": 1, "b-id": 1}, {"a-id": 1}, False),
            ({"a-id": 1}, {"a-id": 2}, True),
        ],
    )
    def test_only_other_cpus_of_a_node_update_tasks(self, world, before, after, updated):
        world.up(PLACED, nodes=json.dumps(before))
        assert world.plan(PLACED, nodes=json.dumps(after)).empty is not updated

    def test_wrong_scores_undo_an_update(self, world):
        world.up(PLACED)
        world.engine.updates[ALIAS] = "rollback_completed"
        world.engine.service_output[ALIAS] = "scores differ by 0.4 from reference 2: this replica ends"
        with pytest.raises(LaunchError) as caught:
            world.up(PLACED, model="2")
        assert caught.value.code == "scores-wrong"
        assert "scores differ" in caught.value.evidence
        assert json.loads(world.file.read_text()) == {"id": "1"}
        assert world.plan(PLACED).empty

    def test_a_new_model_is_another_config(self, world):
        world.up(PLACED)
        (before,) = world.engine.swarm().configs
        world.up(PLACED, model="2")
        (after,) = world.engine.swarm().configs
        assert before != after
        assert world.plan(PLACED, model="2").empty

    @pytest.mark.parametrize(("end", "reference"), [("completed", "2"), ("rollback_completed", "1")])
    def test_further_gateways_get_the_reference_of_the_first_new_replica(self, world, end, reference):
        world.up(PLACED, gateways=2)
        world.engine.updates[ALIAS] = "updating"
        during = []

        def sleep(_):
            if world.engine.swarm().service(ALIAS).update == "updating":
                during.append(self._reference(world))
                world.engine.change_update(ALIAS, end)

        ends = pytest.raises(LaunchError) if end.startswith("rollback") else contextlib.nullcontext()
        with mock.patch("time.sleep", sleep), ends:
            world.up(PLACED, gateways=2, model="2")
        assert during == ["2"]
        assert self._reference(world) == reference

    @staticmethod
    def _reference(world):
        (config,) = world.engine.swarm().service(PLACED.derived_name("gateway")).configs
        return json.loads(world.engine.config_data[config])["id"]

    def test_tasks_without_a_node_are_an_error_within_minutes(self, world):
        for node in "abc":
            world.engine.change_node(node, availability="drain")
        clock = itertools.count()
        with mock.patch("time.monotonic", side_effect=clock), pytest.raises(LaunchError) as caught:
            world.up(PLACED, count=3)
        assert NO_NODE in caught.value.evidence
        assert next(clock) < 300

    def test_a_check_without_memory_stops_one_replica(self, world):
        world.up(PLACED, count=3)
        create = world.engine.create_service

        def create_service(spec, configs):
            full = not spec.name.endswith("check") or world.engine.swarm().service(ALIAS).replicas < 3
            world.engine.task_state = ("running", "") if full else ("pending", "insufficient resources")
            create(spec, configs)

        world.engine.create_service = create_service
        with (
            mock.patch.object(scale, "_PLACE_SECONDS", 0),
            mock.patch.object(world.engine, "change_service", side_effect=self._freed(world)) as changed,
        ):
            world.up(PLACED, count=3, model="2")
        assert changed.call_args.kwargs == {"replicas": 2}
        assert world.engine.swarm().service(ALIAS).replicas == 3

    @staticmethod
    def _freed(world):
        change = world.engine.change_service

        def freed(service, **options):
            change(service, **options)
            world.engine.task_state = ("running", "")
            world.engine.change_task(PLACED.derived_name("check"), 1, state="running", error="")

        return freed


class TestMove:
    def test_there_and_back(self, world):
        world.up(LOCAL)
        there = world.up(PLACED)
        assert [type(action).__name__ for action in there.actions] == [
            "CreateNetwork",
            "Connect",
            "PlaceService",
            "ReplaceContainer",
            "Remove",
            "Disconnect",
            "Remove",
        ]
        assert world.plan(PLACED).empty
        assert world.engine.container(RAGFLOW).endpoint(LOCAL.network.name) is None
        back = world.up(LOCAL)
        replaced = next(action for action in back.actions if isinstance(action, ReplaceContainer))
        assert (replaced.obstacle, replaced.overlay, replaced.reached) == ("", True, True)
        assert world.plan(LOCAL).empty
        assert world.engine.swarm() == world.bare
        assert world.engine.container(RAGFLOW).endpoint(LOCAL.overlay) is None

    def test_there_without_memory_begins_on_other_nodes(self, world):
        world.up(LOCAL)
        changes = world.up(PLACED, 0, count=3)
        first, last = (action for action in changes.actions if isinstance(action, PlaceService))
        assert (first.placed.constraints, first.placed.replicas) == (("node.id!=a-id",), 2)
        assert (last.placed.constraints, last.placed.replicas) == ((), 3)
        assert world.engine.container(f"{NAME}-1") is None
        assert [task.state for task in world.engine.swarm().tasks_of(ALIAS)] == ["running"] * 3
        assert world.plan(PLACED, 0, count=3).empty

    def test_back_without_memory_frees_this_node_first(self, world):
        world.up(PLACED, count=3)
        changes = world.up(LOCAL, 0)
        assert isinstance(changes.actions[1], ExcludeNode)
        assert changes.actions[1].replicas == 2
        assert world.plan(LOCAL, 0).empty

    @pytest.mark.parametrize(("before", "after"), [(LOCAL, PLACED), (PLACED, LOCAL)])
    def test_on_one_node_the_former_replica_makes_way(self, tmp_path, before, after):
        with patched(World(tmp_path, "a")) as world:
            world.up(before, count=1)
            kinds = [
                action.kind for action in world.plan(after, 0, count=1).actions if isinstance(action, Remove)
            ]
            assert kinds[0] == ("service" if after is LOCAL else "container")
            world.up(after, 0, count=1)
            assert world.plan(after, 0, count=1).empty

    def test_another_stacks_network_stays(self, world):
        world.up(LOCAL)
        world.engine.add_container("someone", network=LOCAL.network.name)
        world.up(PLACED)
        assert observe(world.engine).network(LOCAL.network.name)

    @pytest.mark.parametrize("moment", ["before", "after"])
    @pytest.mark.parametrize(("before", "after"), [(None, PLACED), (LOCAL, PLACED), (PLACED, LOCAL)])
    @pytest.mark.parametrize("free", [0, 64 * GIB])
    def test_killed(self, tmp_path, before, after, free, moment):
        for number in range(40):
            folder = tmp_path / str(number)
            folder.mkdir()
            with patched(World(folder, "a", "b", "c")) as world:
                if before:
                    world.up(before)
                world.engine.calls.clear()
                kill_at(world.engine, number, moment)
                try:
                    world.up(after, free)
                except Stop:
                    pass
                else:
                    assert number > 8
                    return
                kill_at(world.engine, None, moment)
                world.up(after, free)
                world.up(after, free)
                assert world.plan(after, free).empty, number
                assert world.engine.container(NAME).status == "running"
        pytest.fail("it did not end")


class TestWatch:
    @pytest.mark.parametrize(("before", "after"), [(LOCAL, PLACED), (PLACED, LOCAL)])
    @pytest.mark.parametrize("placed", [False, True])
    def test_a_move_is_left_to_up(self, world, before, after, placed):
        world.up(before)
        if placed:
            actions = world.plan(after).actions
            end = next(number for number, one in enumerate(actions) if isinstance(one, ReplaceContainer))
            apply(plan.Plan(actions[:end]), world.engine)
        drift, observed = world.plan(after), observe(world.engine)
        status = SimpleNamespace(
            drift=drift,
            stack=after,
            network=observed.network(after.shared_network.name),
            reranker=observed.container(NAME),
            replicas=observed.rerankers(NAME),
        )
        kinds = {type(action).__name__ for action in drift.actions if not watch._is_left(action, status)}
        assert kinds <= {"CreateNetwork", "Connect", "RunContainer"}


def session(swarm, state="manager", replicas=2):
    stack = Stack(swarm=Swarm(), reranker={"replicas": replicas})
    return SimpleNamespace(swarm=swarm, stack=stack, state=SimpleNamespace(swarm=state))


class TestNodes:
    @pytest.mark.parametrize(
        ("nodes", "state", "replicas", "code", "hint"),
        [
            (None, "inactive", 1, "swarm-missing", "docker swarm init"),
            (None, "worker", 1, "swarm-missing", "docker node promote"),
            (1, "manager", 2, "nodes-few", "docker swarm join-token worker"),
        ],
    )
    def test_refused(self, nodes, state, replicas, code, hint):
        fake = FakeEngine()
        fake.join(*"abc"[:nodes])
        with pytest.raises(StackError) as caught:
            scale.manager(session(nodes and fake.swarm(), state, replicas))
        assert caught.value.code == code
        assert hint in caught.value.hint

    def test_a_node_that_is_down_is_still_a_node(self):
        fake = FakeEngine()
        fake.join("a", "b")
        fake.change_node("b", state="down")
        assert scale.manager(session(fake.swarm())).nodes[1].state == "down"

    @pytest.mark.parametrize(
        ("error", "code", "hint"),
        [
            ("No such image: sha256:0", "node-image", "docker load"),
            ("bind source path does not exist: /model", "node-model", "rsync -a --delete /model/ b:/model/"),
        ],
    )
    def test_unfit(self, error, code, hint):
        fake = FakeEngine()
        fake.join("a", "b")
        fake.task_state = ("rejected", error)
        spec = ServiceSpec(ContainerSpec("probe", "vllm-cpu:latest", role="probe"), replicas=0)
        place = fake._place

        def rejected(service):
            place(service)
            fake._tasks = [replace(task, state="rejected", error=error) for task in fake._tasks]

        fake._place = rejected
        with pytest.raises(StackError) as caught:
            scale._run_once(fake, spec, {"b-id": "b"}, "/model")
        assert caught.value.code == code
        assert hint in caught.value.hint
        assert fake.swarm() == SwarmState(tuple(fake.nodes))

    def test_lines_of_the_nodes(self):
        fake = FakeEngine()
        fake.join("a", "b")
        rows = ['{"node": "a-id"}', "noise", '{"node": "b-id"}']
        fake.service_output["probe"] = "\n".join(rows)
        spec = ServiceSpec(ContainerSpec("probe", "vllm-cpu:latest", role="probe"), replicas=0)
        assert scale._run_once(fake, spec, {"b-id": "b"}, "/model") == rows[2:]
        assert fake.swarm().services == ()


class TestStatus:
    def test_each_task_with_its_reason(self, world, monkeypatch):
        monkeypatch.setattr(scale, "_PLACE_SECONDS", 0.2)  # the fourth task has no node
        world.up(PLACED, count=4)
        world.engine.change_task(ALIAS, 2, state="starting", error="starting")
        rows = [
            Replica(f"{task.addresses[0]}:8000", state, "scores differ" * (state == "rejected"))
            for task, state in zip(
                world.engine.swarm().tasks_of(ALIAS)[:3], ["admitted", "down", "rejected"], strict=True
            )
        ]
        state = GatewayState("1", 1.0, Cache(), Hour(), tuple(rows))
        found = scale.current(world.engine, PLACED, state)
        assert [status.problem and status.problem.code for status in found] == [
            None,
            "reranker-loading",
            "replica-rejected",
            "task-waiting",
        ]
        assert [status.node for status in found] == ["a", "b", "c", ""]
        assert found[0].fields == {
            "name": f"{ALIAS}.1",
            "status": "running",
            "node": "a",
            "address": rows[0].address.partition(":")[0],
        }
        assert "no suitable node" in found[3].problem.message

    def test_purge_removes_every_service(self, world):
        world.up(PLACED, gateways=2)
        apply(plan_purge(observe(world.engine), world.engine.swarm()), world.engine)
        assert world.engine.swarm() == world.bare

    @pytest.mark.parametrize("known", [False, True])
    def test_purge_leaves_the_services_of_another_manager(self, world, known):
        world.up(PLACED, gateways=2)
        world.engine.remove_container(NAME)
        before = world.engine.swarm()
        stacks = [NAME] if known else []
        apply(plan_purge(observe(world.engine), before, stacks), world.engine)
        assert world.engine.swarm() == (world.bare if known else before)
        assert bool(observe(world.engine).network(PLACED.overlay)) is not known
