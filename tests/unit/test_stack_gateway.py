"""Plans of a stack with a gateway: every change keeps RAGFlow served, and an interrupted one is continued."""

import dataclasses
import json
from unittest import mock

import pytest

from ragops.configuration import Gateway, Ragflow, Stack
from ragops.docker.engine import observe
from ragops.docker.objects import (
    COMPOSE_PROJECT,
    COMPOSE_SERVICE,
    LABEL_FINGERPRINT,
    LABEL_MODEL,
    LABEL_STACK,
    ContainerSpec,
    Mount,
)
from ragops.errors import EngineError, LaunchError, StackError
from ragops.stack.plan import CheckScores, Remove, ReplaceContainer, RunContainer, ScoreCheck, apply
from ragops.stack.planning import Wanted, plan_down, plan_up
from tests.support.fake_engine import FakeEngine, Stop, kill_at

STACK = Stack()
AWAY = Stack(gateway=Gateway(replicas=("vllm.example:8000",)))
NET, NAME, RAGFLOW = STACK.network.name, STACK.reranker.name, "docker-ragflow-cpu-1"
FIRST, SECOND = f"{NAME}-1", f"{NAME}-2"
GIB = 1 << 30
GATEWAY = ContainerSpec(
    NAME, "gateway:1", network=NET, memory=1 << 28, role="gateway", labels=((LABEL_STACK, NAME),)
)
VLLM = ContainerSpec(
    NAME,
    "vllm-cpu:latest",
    mounts=(Mount(f"{NAME}-compiled", "/cache", "volume"),),
    network=NET,
    memory=GIB,
    labels=((LABEL_MODEL, "/model"), (LABEL_FINGERPRINT, "1")),
)


class World:
    """An engine whose containers respond when they are waited for, and what RAGFlow notices of changes."""

    def __init__(self, folder):
        self.engine, self.file = FakeEngine(), folder / "reference.json"
        self.engine.add_image("gateway:1")
        self.engine.add_container(
            RAGFLOW,
            network="docker_ragflow",
            labels={COMPOSE_PROJECT: "docker", COMPOSE_SERVICE: "ragflow-cpu"},
        )
        self.wrong, self.outages, self.drained, self.most = False, [], [], 0
        called = self.engine._called

        def watched(what):
            if not self.served:
                self.outages.append(what.split(" ")[0])
            return called(what)

        self.engine._called = watched

    @property
    def reference(self):
        return json.loads(self.file.read_text())["id"] if self.file.exists() else ""

    @property
    def served(self):
        """Whether a request to the registered name gets a response."""
        front = self.engine.container(NAME)
        if front is None or front.health != "healthy" or front.status != "running":
            return False
        if "A=away" in front.environment:
            return bool(self.reference)
        return front.role == "reranker" or any(map(self.admits, self.engine.containers()))

    def admits(self, container):
        """Whether a gateway finds the replica by its alias; a new one needs the reference of its model."""
        end = container.endpoint(NET)
        return (
            container.role == "reranker"
            and container.status == "running"
            and container.health == "healthy"
            and end is not None
            and STACK.replicas_alias in end.aliases
        )

    def wait(self, engine, name, *_, **__):
        assert engine.container(name).status == "running"
        engine.change(name, health="healthy")
        running = [one for one in engine.containers() if one.role == "reranker" and one.running]
        self.most = max(self.most, len(running))

    def wait_admitted(self, engine, gateway, replicas, _timeout, servers=(), **__):
        if engine.container(gateway).status != "running":
            raise LaunchError(f"{gateway} does not run", container=gateway)
        engine.change(gateway, health="healthy")
        if servers and not self.reference:
            raise LaunchError(f"{gateway} has no reference", container=gateway)
        for name in replicas:
            replica = engine.container(name)
            if replica.status == "running":
                replica = engine.change(name, health="healthy")
            model = f"{replica.labels[LABEL_FINGERPRINT]}"
            if not self.admits(replica) or model != self.reference:
                raise LaunchError(f"{name} is not admitted", container=name)

    def approve(self, engine, container, _image, _expected, identity, address):
        if address:
            assert engine.container(container).role == "gateway"
        else:
            assert engine.container(container).health == "healthy"
            assert engine.container(container).labels[LABEL_FINGERPRINT] == identity
        if self.wrong:
            raise LaunchError("scores", code="scores-wrong", container=container)
        return json.dumps({"id": identity})

    def wanted(self, kind):
        """``first``: no gateway; ``two*``: two replicas with another model; ``one+``: another gateway.

        ``away``: replicas that something else runs.
        """
        model = "2" if "*" in kind else "1"
        vllm = dataclasses.replace(VLLM, labels=((LABEL_MODEL, "/model"), (LABEL_FINGERPRINT, model)))
        vllm = dataclasses.replace(vllm, image_id=self.engine.image(vllm.image).id)
        if kind.startswith("first"):
            return Wanted((vllm,))
        names = [FIRST, SECOND][: ("away", "one", "two").index(kind[:4].rstrip("*+"))]
        replicas = [
            dataclasses.replace(
                vllm,
                name=name,
                cpuset_cpus=str(names.index(name)) if len(names) > 1 else "0-1",
                aliases=(STACK.replicas_alias,),
                labels=(*vllm.labels, (LABEL_STACK, NAME)),
            )
            for name in names
        ]
        environment = (("A", "1"),) if "+" in kind else (("A", "away"),) if "away" in kind else ()
        gateway = dataclasses.replace(GATEWAY, environment=environment)
        check = ScoreCheck(None, model, self.file)
        gateway = dataclasses.replace(gateway, image_id=self.engine.image(gateway.image).id)
        return Wanted(tuple(replicas), gateway, None if check.known else check)

    def plan(self, kind, free=0):
        return plan_up(AWAY if "away" in kind else STACK, self.wanted(kind), observe(self.engine), free)

    def up(self, kind, free=0):
        """As ``ragops up``, whose last step is to wait."""
        changes = self.plan(kind, free)
        apply(changes, self.engine)
        wanted = self.wanted(kind)
        if wanted.gateway:
            names, servers = [spec.name for spec in wanted.replicas], AWAY.servers if "away" in kind else ()
            self.wait_admitted(self.engine, NAME, names, 0, servers)
        else:
            self.wait(self.engine, NAME)
        return changes

    def start(self, kind):
        """A stack of this kind that serves."""
        self.up(kind)
        self.outages.clear()
        self.most = 0
        self.engine.calls.clear()

    def is_converged(self, kind, free):
        """One call of up is enough, and all containers are as configured."""
        self.up(kind, free)
        assert self.plan(kind, free).empty
        specs = {spec.name: spec.config_hash() for spec in self.wanted(kind).slots}
        ours = [one for one in self.engine.containers() if one.ours]
        assert {one.name: one.config for one in ours} == specs
        assert all(one.status == "running" for one in ours)
        assert self.served
        return True


@pytest.fixture
def world(tmp_path):
    with living(World(tmp_path)) as world:
        yield world


def living(world):
    patches = mock.patch.multiple(
        "ragops.checks.ready",
        wait=world.wait,
        wait_admitted=world.wait_admitted,
        wait_server=lambda *_: "10.0.0.9:8000",
        drain=lambda _, name: world.drained.append(name),
    )

    class Living:
        def __enter__(self):
            patches.start()
            self.approve = mock.patch("ragops.checks.reference.approve", world.approve)
            self.approve.start()
            return world

        def __exit__(self, *_):
            self.approve.stop()
            patches.stop()

    return Living()


CHANGES = [
    ("first", "one"),
    ("first", "two"),
    ("first", "one*"),
    ("one", "first"),
    ("two", "first"),
    ("one", "two"),
    ("two", "one"),
    ("one", "one*"),
    ("two", "two*"),
    ("one", "two*"),
    ("two", "one*"),
    ("one", "one+"),
    ("two", "two+"),
    ("first", "away"),
    ("two", "away"),
    ("away", "away*"),
    ("away", "one"),
    ("away", "first"),
]
ROOM = [0, 64 * GIB]


class TestUp:
    def test_from_nothing(self, world):
        changes = world.up("two")
        assert [action.describe() for action in changes.actions] == [
            f"+ create network {NET}",
            f"+ create volume {NAME}-compiled",
            f"+ run container {FIRST} from vllm-cpu:latest",
            f"+ run container {SECOND} from vllm-cpu:latest",
            f"+ run container {NAME} from gateway:1",
            f"+ connect {RAGFLOW} to {NET}",
            f"+ check the scores of {FIRST}: the gateway compares each replica with them",
        ]
        assert world.reference == "1"
        assert world.file.stat().st_mode & 0o777 == 0o644
        assert world.is_converged("two", 0)

    def test_second_call_changes_nothing(self, world):
        world.start("two")
        assert world.up("two").empty
        assert world.engine.calls == []

    def test_plan_is_also_docker_commands(self, world):
        for kind in ("two", "two*"):
            commands = world.plan(kind).commands()
            assert all(line.startswith("docker ") for line in commands)
            world.up(kind)

    @pytest.mark.parametrize("name", [NAME, FIRST, SECOND])
    @pytest.mark.parametrize("fault", ["stop", "remove", "disconnect", "unhealthy", "no alias", "renamed"])
    def test_repairs_each_container(self, world, name, fault):
        world.start("two")
        engine = world.engine
        if fault == "stop":
            engine.stop(name)
        elif fault == "remove":
            engine.remove_container(name)
        elif fault == "unhealthy":
            engine.change(name, health="unhealthy")
        elif fault == "renamed":
            engine.rename(name, "mine")
        else:
            engine.disconnect(NET, name)
            if fault == "no alias":
                engine.connect(NET, name)
        if (fault, name) == ("no alias", NAME):
            assert world.plan("two").empty  # it has none
        else:
            assert not world.plan("two").empty
        assert world.is_converged("two", 0)
        assert not any(isinstance(action, ReplaceContainer) for action in world.plan("two").actions)

    def test_scores_are_checked_once(self, world):
        world.start("one")
        assert not any(isinstance(action, CheckScores) for action in world.plan("two").actions)
        world.file.unlink()
        (check,) = world.up("one").actions
        assert isinstance(check, CheckScores)
        world.file.write_text("{")
        assert len(world.plan("one").actions) == 1

    @pytest.mark.parametrize("kind", ["one", "two"])
    @pytest.mark.parametrize("free", ROOM)
    def test_lost_reference_does_not_block_a_new_model(self, world, kind, free):
        world.start(kind)
        world.file.unlink()
        assert world.is_converged(f"{kind}*", free)

    def test_names_of_another_stack_are_taken(self, world):
        other = dataclasses.replace(VLLM, name=FIRST)
        world.engine.create_container(other)
        with pytest.raises(StackError) as caught:
            world.plan("one")
        assert caught.value.code == "name-taken"
        world.engine.remove_container(FIRST)
        world.up("one")
        stack = STACK.model_copy(update={"reranker": STACK.reranker.model_copy(update={"name": FIRST})})
        with pytest.raises(StackError):
            plan_up(stack, Wanted((other,)), observe(world.engine))
        assert not any(
            isinstance(action, Remove) for action in plan_down(stack, observe(world.engine)).actions[:-2]
        )


class TestChange:
    @pytest.mark.parametrize(("before", "after"), CHANGES)
    @pytest.mark.parametrize("free", ROOM)
    def test_arrives(self, world, before, after, free):
        world.start(before)
        assert world.is_converged(after, free)

    @pytest.mark.parametrize(("before", "after"), CHANGES)
    def test_with_memory_no_call_is_without_a_response(self, world, before, after):
        world.start(before)
        ragflow = world.engine.container(RAGFLOW)
        world.up(after, 64 * GIB)
        assert set(world.outages) <= {"rename"}  # for 5 ms no container has the name
        assert world.engine.container(RAGFLOW) == ragflow

    @pytest.mark.parametrize(
        ("before", "after"), [("two", "two*"), ("one", "two"), ("two", "one"), ("two", "one*")]
    )
    def test_without_memory_other_replicas_respond(self, world, before, after):
        world.start(before)
        changes = world.up(after, 0)
        assert set(world.outages) <= {"rename"}
        assert "calls fail" not in str(changes)
        assert "the other replicas respond meanwhile" in str(changes)

    @pytest.mark.parametrize(("before", "after"), [("first", "one"), ("one", "one*"), ("two", "first")])
    def test_without_memory_plan_names_the_outage(self, world, before, after):
        world.start(before)
        (line,) = [
            str(action.describe())
            for action in world.plan(after).actions
            if "calls fail" in action.describe()
        ]
        assert "vLLM loads" in line
        assert "1024 MiB, 0 are free" in line

    @pytest.mark.parametrize(
        ("before", "after", "most"),
        [("first", "one", 1), ("one", "first", 1), ("two", "first", 1), ("two", "two*", 2)],
    )
    def test_without_memory_no_more_run_at_once(self, world, before, after, most):
        world.start(before)
        world.up(after, 0)
        assert world.most == most

    @pytest.mark.parametrize("kind", ["one*+", "two*+"])
    @pytest.mark.parametrize("free", ROOM)
    def test_stopped_gateway_is_replaced_before_it_is_needed(self, world, kind, free):
        world.start(kind[:3])
        world.engine.stop(NAME)
        assert world.is_converged(kind, free)

    @pytest.mark.parametrize("done", [1, 2])
    @pytest.mark.parametrize("free", ROOM)
    def test_replica_of_an_interrupted_migration_is_replaced_first(self, world, free, done):
        world.start("first")
        plan = world.plan("one", 64 * GIB)
        apply(dataclasses.replace(plan, actions=plan.actions[:done]), world.engine)
        assert world.is_converged("one*", free)

    def test_replica_that_was_not_proved_has_not_the_memory_of_vllm(self, world, tmp_path):
        calls = [call.partition(" ")[0] for call in calls_of("first", "one", 0, tmp_path)]
        (tmp_path / "reference.json").unlink()
        world.start("first")
        kill_at(world.engine, calls.index("start"), "after")
        with mock.patch("ragops.stack.plan.ReplaceContainer._restore"), pytest.raises(Stop):
            world.up("one", 0)
        kill_at(world.engine, None, "")
        world.engine.change(FIRST, health="healthy")
        world.wrong = True
        with pytest.raises(LaunchError):
            world.up("one", 0)
        assert (world.engine.container(NAME).role, world.engine.container(NAME).status) == (
            "reranker",
            "running",
        )

    def test_new_replicas_start_before_and_old_ones_are_removed_after_the_others(self, world):
        world.start("one")
        kinds = [type(action) for action in world.up("two").actions]
        assert kinds == [RunContainer, ReplaceContainer]
        kinds = [type(action) for action in world.up("one").actions]
        assert kinds == [ReplaceContainer, Remove]

    @pytest.mark.parametrize("free", ROOM)
    def test_migration_keeps_ragflow_and_drains_vllm(self, world, free):
        world.start("first")
        old, ragflow = world.engine.container(NAME), world.engine.container(RAGFLOW)
        changes = world.up("two", free)
        assert world.engine.container(RAGFLOW) == ragflow
        assert (old.id in world.drained) is bool(free)
        (replacement,) = [action for action in changes.actions if isinstance(action, ReplaceContainer)]
        assert (replacement.spec.name, replacement.spec.role) == (NAME, "gateway")
        assert (replacement.first is None) is bool(free)
        assert changes.actions[-1] == RunContainer(world.wanted("two").replicas[1])

    @pytest.mark.parametrize(("before", "after"), [("first", "one"), ("one", "one*"), ("two", "two*")])
    @pytest.mark.parametrize("free", ROOM)
    def test_wrong_scores_change_nothing(self, world, before, after, free):
        world.start(before)
        old, reference = world.engine.container(NAME).id, world.reference
        world.wrong = True
        with pytest.raises(LaunchError) as caught:
            world.up(after, free)
        assert caught.value.code == "scores-wrong"
        assert world.engine.container(NAME).id == old
        assert world.engine.container(NAME).status == "running"
        assert world.reference == reference
        world.wrong = False
        world.wait(world.engine, NAME)
        assert world.is_converged(before, free)

    @pytest.mark.parametrize("free", ROOM)
    @pytest.mark.parametrize("error", [LaunchError("rejected", code="replica-rejected"), KeyboardInterrupt()])
    def test_failure_after_the_score_check_restores_the_reference(self, world, free, error):
        world.start("one")
        meanwhile = []

        def wait_admitted(*_):
            meanwhile.append(world.reference)
            raise error

        with (
            mock.patch("ragops.checks.ready.wait_admitted", wait_admitted),
            pytest.raises(type(error)),
        ):
            world.up("one*", free)
        assert (meanwhile, world.reference) == (["2"], "1")
        first = world.engine.container(FIRST)
        assert (first.labels[LABEL_FINGERPRINT], first.status) == ("1", "running")
        assert world.is_converged("one*", free)


def calls_of(before, after, free, folder):
    with living(World(folder)) as world:
        world.start(before)
        world.up(after, free)
        return list(world.engine.calls)


@pytest.mark.parametrize(("before", "after"), CHANGES)
@pytest.mark.parametrize("free", ROOM)
class TestInterruption:
    """A change is refused or killed at each of its calls; the next up arrives all the same."""

    def test_refused_call(self, tmp_path, before, after, free):
        for number, call in enumerate(calls_of(before, after, free, tmp_path)):
            folder = tmp_path / str(number)
            folder.mkdir()
            with living(World(folder)) as world:
                world.start(before)
                refuse_at(world.engine, number)
                with pytest.raises(EngineError):
                    world.up(after, free)
                assert world.engine.container(NAME).status == "running", call
                for container in world.engine.containers():
                    if container.ours and container.status == "running":
                        world.engine.change(container.id, health="healthy")
                assert world.served, call
                assert world.is_converged(after, free), call

    @pytest.mark.parametrize("moment", ["before", "after"])
    @pytest.mark.parametrize("healthy", [False, True])
    def test_killed(self, tmp_path, before, after, free, moment, healthy):
        for number, call in enumerate(calls_of(before, after, free, tmp_path)):
            folder = tmp_path / str(number)
            folder.mkdir()
            with living(World(folder)) as world:
                world.start(before)
                kill_at(world.engine, number, moment)
                with mock.patch("ragops.stack.plan.ReplaceContainer._restore"), pytest.raises(Stop):
                    world.up(after, free)
                kill_at(world.engine, None, moment)
                for container in world.engine.containers():
                    if healthy and container.ours and container.status == "running":
                        world.engine.change(container.id, health="healthy")
                assert world.is_converged(after, free), call


def refuse_at(engine, number):
    """Refuse the changing call of that number."""
    called, first = engine._called, len(engine.calls)

    def refusing(what):
        if len(engine.calls) - first == number:
            engine.refuse(what, "no space left on device")
        return called(what)

    engine._called = refusing


class TestDown:
    @pytest.mark.parametrize("kind", ["one", "two"])
    def test_removes_gateway_and_replicas(self, world, kind):
        world.start(kind)
        apply(plan_down(STACK, observe(world.engine)), world.engine)
        assert [one.name for one in world.engine.containers()] == [RAGFLOW]
        assert world.engine.network(NET) is None
        assert world.engine.volumes() == ()

    def test_only_configured_containers_are_connected(self, world):
        stack = STACK.model_copy(update={"ragflow": Ragflow(containers=(RAGFLOW,))})
        plan = plan_up(stack, world.wanted("one"), observe(world.engine))
        assert f"+ connect {RAGFLOW} to {NET}" in [action.describe() for action in plan.actions]
