"""What only the fake has: scenes, scripts, counted calls. The rest is in ``live/test_engine_contract.py``."""

import inspect

import pytest

from ragops.docker.engine import Engine
from ragops.docker.objects import ContainerSpec, ExecResult, NetworkSpec, StatsState
from ragops.errors import EngineError, NotFoundError
from tests.support.fake_engine import FakeEngine

SPEC = ContainerSpec("box", "vllm-cpu:latest", publish=(("127.0.0.1", 8123, 8000),))


def public(kind):
    return {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


def test_no_method_reaches_for_a_real_engine():
    shared = {"network"}  # built on the others
    for name in public(Engine) - shared:
        assert getattr(FakeEngine, name) is not getattr(Engine, name), name


@pytest.mark.parametrize("name", sorted(public(Engine)))
def test_methods_take_the_same_arguments(name):
    fake, real = (inspect.signature(getattr(kind, name)).parameters for kind in (FakeEngine, Engine))
    assert list(fake) == list(real)
    assert [one.default for one in fake.values()] == [one.default for one in real.values()]


def test_scenes_do_not_count_and_changes_do(fake):
    fake.add_network("theirs")
    fake.add_container("other", network="theirs")
    fake.add_image("mine:1")
    fake.change("other", health="healthy")
    assert fake.calls == []
    fake.create_network(NetworkSpec("net"))
    fake.connect("net", fake.container("other").id)
    with pytest.raises(EngineError):
        fake.create_network(NetworkSpec("net"))
    assert fake.calls == ["create network net", "connect other to net", "create network net"]


def test_looking_never_counts(fake):
    fake.add_container("other")
    fake.state(), fake.networks(), fake.containers(), fake.volumes(), fake.images()
    fake.network("bridge"), fake.container("other"), fake.image("x")
    fake.logs("other"), fake.stats("other"), fake.execute("other", ("true",))
    fake.close()
    assert fake.calls == []


def test_scripted_refusal_happens_once_and_has_its_hint(fake):
    fake.refuse("create network", "Pool overlaps with other one on this address space")
    with pytest.raises(EngineError) as caught:
        fake.create_network(NetworkSpec("net"))
    assert "another subnet" in caught.value.hint
    fake.create_network(NetworkSpec("net"))


def test_containers_play_programs_and_logs(fake):
    fake.add_container("other")
    fake.respond = lambda box, argv, stdin: ExecResult(0, f"{box.name} {argv[0]} {stdin}", "")
    fake.output["other"] = "1\n2\n3"
    fake.used["other"] = StatsState(7, 0, 0)
    assert fake.execute("other", ("cat",), stdin="x").stdout == "other cat x"
    assert fake.logs("other", tail=2) == "2\n3"
    assert fake.stats("other").cpu_ns == 7
    fake.stop("other")
    assert fake.stats("other").cpu_ns == 0


def test_someone_elses_things_are_not_ours(fake):
    fake.add_container("other", network="theirs", labels={"a": "b"})
    assert not fake.container("other").ours
    assert not fake.network("theirs").ours
    assert fake.container("other").labels == {"a": "b"}


def test_addresses_are_given_in_turn_and_again(fake):
    for name in ("one", "two"):
        fake.add_container(name, network="net")
    assert [fake.container(name).endpoints[0].address[-4:] for name in ("one", "two")] == [".0.2", ".0.3"]
    fake.stop("one")
    fake.add_container("three", network="net")
    assert fake.container("three").endpoints[0].address.endswith(".0.2")


def test_subnets_do_not_overlap(fake):
    for name in ("one", "two"):
        fake.create_network(NetworkSpec(name))
    assert fake.network("one").subnets != fake.network("two").subnets


def test_unknown_driver(fake):  # a real engine looks for the plugin for 15 s
    with pytest.raises(NotFoundError, match='plugin "nope" not found'):
        fake.create_network(NetworkSpec("net", driver="nope"))


@pytest.mark.parametrize(("ip", "conflicts"), [("0.0.0.0", True), ("127.0.0.1", True), ("127.0.0.2", False)])
def test_port_on_every_address_is_on_each(fake, ip, conflicts):
    fake.add_container("other", publish=((ip, 8123, 80),))
    fake.create_container(SPEC)
    if conflicts:
        with pytest.raises(EngineError, match="already allocated"):
            fake.start("box")
    else:
        fake.start("box")


class TestImages:
    def test_pull_without_a_registry(self, fake):
        with pytest.raises(EngineError) as caught:
            fake.pull("mine:1")
        assert "ragops image --build" in caught.value.hint

    def test_pull(self, fake):
        fake.registry.add("mine:1")
        fake.pull("mine:1")
        assert fake.image("mine:1").tags == ("mine:1",)
        with pytest.raises(NotFoundError):
            fake.pull("other:1")

    def test_pull_by_digest_has_no_tag(self, fake):
        fake.registry.add("mine@sha256:1")
        fake.pull("mine@sha256:1")
        assert fake.image("mine@sha256:1").tags == ()

    def test_tag_moves(self, fake):
        fake.add_image("new:1")
        fake.tag("new:1", "vllm-cpu")
        assert fake.image("vllm-cpu:latest").tags == ("new:1", "vllm-cpu:latest")

    def test_build(self, fake, tmp_path):
        fake.build_output = ("Step 1", "Step 2")
        assert list(fake.build(tmp_path, "mine:1", arguments={})) == ["Step 1", "Step 2"]
        assert fake.image("mine:1") in fake.images()
        fake.refuse("build", "returned a non-zero code: 1")
        with pytest.raises(EngineError, match="building mine:1 failed"):
            list(fake.build(tmp_path, "mine:1", arguments={}))

    def test_import(self, fake, tmp_path):
        fake.import_image(tmp_path / "root.tar", "base:1", role="base")
        assert fake.image("base:1").labels == {"org.ragops": "base"}
