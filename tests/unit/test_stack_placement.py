"""Replicas that Swarm places: what a second `ragops up` meets, further gateways, a Swarm of one node."""

from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import pytest

from ragops.configuration import Stack, Swarm
from ragops.docker.engine import observe
from ragops.docker.objects import LABEL, LABEL_CONFIG, LABEL_STACK
from ragops.errors import StackError
from ragops.session import Session
from ragops.stack import scale
from ragops.stack.plan import apply
from ragops.stack.planning import Wanted, plan_down, plan_up
from tests.support.fake_engine import FakeEngine
from tests.unit.test_stack_scale import ALIAS, GIB, LOCAL, NAME, PLACED, RAGFLOW, World, patched


@pytest.fixture
def world(tmp_path):
    with patched(World(tmp_path, "a", "b", "c")) as world:
        yield world


def test_a_new_model_reaches_the_further_gateways(world):
    world.up(PLACED, gateways=2)
    world.up(PLACED, gateways=2, model="2")
    files = {name for service in world.engine.swarm().services for name in service.configs}
    assert [world.engine.config_data[name] for name in files] == [b'{"id": "2"}']
    assert world.plan(PLACED, gateways=2, model="2").empty


def test_a_reranker_without_gateway_makes_way_on_the_only_node(tmp_path):
    with patched(World(tmp_path, "a")) as world:
        (replica,) = world.wanted(LOCAL).replicas
        engine, alone = world.engine, Wanted((replace(replica, name=NAME, aliases=()),))
        apply(plan_up(LOCAL, alone, observe(engine), 64 * GIB), engine)
        world.up(PLACED, 0, count=1)
        assert engine.container(NAME).role == "gateway"
        assert world.plan(PLACED, 0, count=1).empty


def test_tasks_that_failed_earlier_are_no_failure_of_this_change(world):
    world.up(PLACED)
    engine, update = world.engine, world.engine.update_service
    task = engine.swarm().tasks_of(ALIAS)[0]
    old = [replace(task, id=f"old-{number}", state="failed", desired="shutdown") for number in range(7)]
    engine._tasks += old

    def update_service(*arguments):
        update(*arguments)
        engine._tasks += old
        engine._services[ALIAS] = replace(engine._services[ALIAS], update="")  # as after another number
        engine.change_task(ALIAS, 3, state="starting")

    engine.update_service = update_service

    def starts(_seconds):
        engine.change_task(ALIAS, 3, state="running")

    with mock.patch("time.sleep", starts):
        world.up(PLACED, count=3)
    assert engine.swarm().service(ALIAS).replicas == 3


def test_an_update_that_was_undone_earlier_is_no_failure_of_a_score_check(world):
    world.up(PLACED)
    services = world.engine._services
    services[ALIAS] = replace(services[ALIAS], update="rollback_completed")
    world.file.unlink()
    world.up(PLACED)
    assert world.plan(PLACED).empty


def test_back_on_the_only_node_beside_its_task_where_both_have_a_place(tmp_path):
    with patched(World(tmp_path, "a")) as world:
        world.up(PLACED, count=1)
        kinds = [type(action).__name__ for action in world.plan(LOCAL, free=1).actions]
        assert kinds.index("RunContainer") < kinds.index("Remove")


def test_a_gateway_that_has_to_stop_first_is_renamed_when_it_has(world):
    world.up(PLACED)
    engine, rename = world.engine, world.engine.rename
    engine.change(NAME, health="unhealthy", labels={**engine.container(NAME).labels, LABEL_CONFIG: "former"})

    def renamed(container, name):  # as Docker 20.10 in an overlay network
        assert not engine.container(container).running
        rename(container, name)

    with mock.patch.object(engine, "rename", renamed):
        (action,) = world.up(PLACED).actions
    assert action.obstacle
    words = [command[1] for command in action.commands()]
    assert words.index("stop") < words.index("rename")


def test_an_interrupted_write_of_a_nodes_record_is_read_again(monkeypatch, tmp_path):
    monkeypatch.setenv("RAGOPS_HOME", str(tmp_path))
    engine = FakeEngine()
    engine.join("a")
    session = Session(PLACED, engine)
    session.probe_file.parent.mkdir(parents=True)
    session.probe_file.write_text('{"node": "a-id", "finger')
    assert session.records == ()


def test_down_leaves_the_network_of_another_stack(world):
    world.up(PLACED)
    network, labels = PLACED.overlay, {LABEL: "gateway", LABEL_STACK: "other"}
    world.engine.add_container("other", network=network, labels=labels)
    apply(plan_down(PLACED, observe(world.engine), world.engine.swarm()), world.engine)
    assert world.engine.container(NAME) is None
    assert [world.engine.container(name).endpoint(network) is not None for name in ("other", RAGFLOW)] == [
        True,
        True,
    ]


def test_down_leaves_the_configs_of_a_stack_with_a_longer_name(world):
    longer = Stack(swarm=Swarm(), reranker={"name": f"{NAME}-reference"})
    world.up(PLACED)
    name = longer.derived_name("reference-0123456789ab")
    world.engine.create_config(name, b"{}")
    apply(plan_down(PLACED, observe(world.engine), world.engine.swarm()), world.engine)
    assert list(world.engine.swarm().configs) == [name]


def test_both_networks_of_a_move_have_their_own_subnet():
    stack = Stack(swarm=Swarm(), network={"subnet": "10.77.0.0/24"})
    assert (stack.network.subnet, stack.shared_network.subnet) == ("10.77.0.0/24", None)


def test_further_gateways_need_nodes():
    engine = FakeEngine()
    engine.join("a")
    stack, state = Stack(swarm=Swarm(gateways=2)), SimpleNamespace(swarm="manager")
    with pytest.raises(StackError) as caught:
        scale.manager(SimpleNamespace(swarm=engine.swarm(), stack=stack, state=state))
    assert caught.value.code == "nodes-few"
    assert "2 gateways" in caught.value.message
