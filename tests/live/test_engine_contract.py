"""The fake engine and a real one pass the same tests, so that the fake responds as a real one."""

import contextlib
import dataclasses
import itertools
import re
import secrets
import socket
import subprocess

import docker.errors
import pytest

from benchmarks import free_port
from ragops.docker.engine import sidecar
from ragops.docker.objects import LABEL, ContainerSpec, ExecResult, Mount, NetworkSpec
from ragops.errors import EngineError, NotFoundError
from tests.support.fake_engine import FakeEngine


def on_this_host(_container, argv, stdin):
    """Programs for the fake: run here what it should run in a container."""
    try:
        done = subprocess.run(argv, input=f"{stdin}\n", capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return ExecResult(done.returncode, done.stdout, done.stderr)


class Scene:
    """An engine, and objects whose names belong to one test."""

    def __init__(self, engine, image):
        self.engine, self.image = engine, image
        self.prefix = f"ragopstest-{secrets.token_hex(4)}"

    def name(self, tail):
        return f"{self.prefix}-{tail}"

    def network(self, tail="net", **fields):
        name = self.name(tail)
        self.engine.create_network(NetworkSpec(name, **fields))
        return name

    def spec(self, tail="container", **fields):
        shape = {"image": self.image, "entrypoint": ("sleep", "300"), "role": "test", "init": True}
        return ContainerSpec(name=self.name(tail), **{**shape, **fields})

    def created(self, tail="container", **fields):
        spec = self.spec(tail, **fields)
        self.engine.create_container(spec)
        return spec.name

    def started(self, tail="container", **fields):
        name = self.created(tail, **fields)
        self.engine.start(name)
        return name

    def place(self, container, network):
        return self.engine.container(container).endpoint(network)

    def duplicate(self, network):
        """A second network of that name, made as older clients do; None when the engine refuses."""
        if isinstance(self.engine, FakeEngine):
            return self.engine.add_network(network)
        try:
            return self.engine._client.api.create_network(network, check_duplicate=False)["Id"]
        except docker.errors.APIError as error:
            assert "already exists" in error.explanation  # noqa: PT017
            return None

    def clean(self):
        for item in self.engine.containers():
            if item.name.startswith(self.prefix):
                self.engine.remove_container(item.id)
        for item in self.engine.networks():
            if item.name.startswith(self.prefix):
                self.engine.remove_network(item.id)
        for item in self.engine.volumes():
            if item.name.startswith(self.prefix):
                self.engine.remove_volume(item.name)


@pytest.fixture(params=["fake", "real"])
def scene(request):
    if request.param == "fake":
        engine = FakeEngine()
        engine.respond = on_this_host
        made = Scene(engine, "vllm-cpu:latest")
    else:
        made = Scene(request.getfixturevalue("engine"), request.getfixturevalue("image").tags[0])
    yield made
    made.clean()


@contextlib.contextmanager
def refused(words, kind=EngineError):
    """The engine says these words, in an error of exactly this kind."""
    with pytest.raises(EngineError) as caught:
        yield
    assert re.search(words, str(caught.value))
    assert type(caught.value) is kind


def missing(words):
    return refused(words, NotFoundError)


class TestNetworks:
    def test_made_one_is_ours_and_found_by_its_whole_name(self, scene):
        name = scene.network()
        result = scene.engine.network(name)
        assert (result.name, result.driver, result.internal, result.ours) == (name, "bridge", False, True)
        assert result in scene.engine.networks()
        assert scene.engine.network(name[:-1]) is None
        assert len(result.subnets) == 1

    def test_declared_fields_are_taken(self, scene):
        name = scene.network(subnet="10.213.7.0/24", internal=True)
        result = scene.engine.network(name)
        assert (result.subnets, result.internal) == (("10.213.7.0/24",), True)

    def test_name_that_is_there_is_refused(self, scene):
        with refused(f"network with name {scene.network()} already exists"):
            scene.network()

    def test_duplicates_can_exist_and_make_the_name_useless(self, scene):
        name = scene.network()
        second = scene.duplicate(name)
        if second is None:  # engines of today make none
            return
        with refused(f"2 networks are named {name}"):
            scene.engine.network(name)
        container = scene.started()
        with refused(rf"network {name} is ambiguous \(2 matches found on name\)"):
            scene.engine.connect(name, container)
        with refused(rf"network {name} is ambiguous \(2 matches found based on name\)"):
            scene.engine.remove_network(name)
        scene.engine.remove_network(second)
        assert scene.engine.network(name).id != second

    def test_overlay_without_swarm(self, scene):
        with refused("This node is not a swarm manager"):
            scene.network(driver="overlay")

    def test_subnets_that_overlap(self, scene):
        scene.network("one", subnet="10.213.8.0/24")
        with refused("Pool overlaps with other one on this address space"):
            scene.network("two", subnet="10.213.0.0/16")

    def test_dockers_own_can_be_neither_made_nor_removed(self, scene):
        with refused("operation is not permitted on predefined host network"):
            scene.engine.create_network(NetworkSpec("host"))
        with refused("host is a pre-defined network and cannot be removed"):
            scene.engine.remove_network("host")

    def test_one_in_use_stays(self, scene):
        name = scene.network()
        scene.started(network=name)
        with refused(f"network {name} id [0-9a-f]+ has active endpoints"):
            scene.engine.remove_network(name)
        assert scene.engine.network(name)

    def test_one_with_stopped_containers_goes_and_they_can_not_start(self, scene):
        name = scene.network()
        container = scene.started(network=name)
        gone = scene.engine.network(name).id
        scene.engine.stop(container)
        scene.engine.remove_network(name)
        assert scene.place(container, name).network_id == gone
        scene.network()
        with missing(f"network {gone} not found"):
            scene.engine.start(container)
        assert scene.engine.container(container).status == "exited"
        scene.engine.disconnect(name, container)
        scene.engine.connect(name, container)
        scene.engine.start(container)
        assert scene.place(container, name).network_id == scene.engine.network(name).id


class TestConnect:
    def test_created_container_joins_when_it_starts(self, scene):
        name = scene.network()
        container = scene.created(network=name)
        before = scene.place(container, name)
        assert (before.network_id, before.address) == ("", "")
        scene.engine.start(container)
        after = scene.place(container, name)
        assert after.network_id == scene.engine.network(name).id
        assert after.address
        assert after.aliases == (scene.engine.container(container).id[:12],)

    def test_aliases_last_until_the_container_is_connected_again(self, scene):
        name = scene.network()
        container = scene.started(network=name, aliases=("pair",))
        own = scene.engine.container(container).id[:12]
        assert scene.place(container, name).aliases == ("pair", own)
        for aliases in ((), ("pair",)):
            scene.engine.disconnect(name, container)
            scene.engine.connect(name, container, aliases)
            assert scene.place(container, name).aliases == (*aliases, own)

    def test_stopped_container_keeps_the_network_and_loses_the_address(self, scene):
        name = scene.network()
        container = scene.started(network=name)
        scene.engine.stop(container)
        place = scene.place(container, name)
        assert (place.network_id, place.address) == (scene.engine.network(name).id, "")

    def test_running_container(self, scene):
        name, container = scene.network(), scene.started()
        scene.engine.connect(name, container)
        place = scene.place(container, name)
        assert place.address
        assert scene.place(container, "bridge")
        with refused(f"endpoint with name {container} already exists in network {name}"):
            scene.engine.connect(name, container)

    def test_stopped_container_even_twice(self, scene):
        name, container = scene.network(), scene.started()
        scene.engine.stop(container)
        scene.engine.connect(name, container)
        scene.engine.connect(name, container)
        place = scene.place(container, name)
        assert (place.network_id, place.address) == ("", "")
        scene.engine.start(container)
        assert scene.place(container, name).address

    def test_by_id(self, scene):
        name, container = scene.network(), scene.started()
        scene.engine.connect(scene.engine.network(name).id, scene.engine.container(container).id)
        assert scene.place(container, name)

    def test_disconnect_once(self, scene):
        name = scene.network()
        container = scene.started(network=name)
        scene.engine.disconnect(name, container)
        assert scene.engine.container(container).endpoints == ()
        number = scene.engine.container(container).id
        with refused(f"container {number} is not connected to network {name}"):
            scene.engine.disconnect(name, container)

    def test_disconnect_from_a_network_that_is_gone(self, scene):
        name, container = scene.network(), scene.started()
        scene.engine.stop(container)
        scene.engine.connect(name, container)
        scene.engine.remove_network(name)
        with missing(f"network {name} not found"):
            scene.engine.start(container)
        scene.engine.disconnect(name, container)
        scene.engine.start(container)
        assert scene.engine.container(container).status == "running"

    @pytest.mark.parametrize("mode", ["host", "container:{}"])
    def test_shared_network_is_refused(self, scene, mode):
        name = scene.network()
        container = scene.started(network=mode.format(scene.started("other")))
        with refused("container sharing network namespace with another container or host"):
            scene.engine.connect(name, container)

    def test_no_network_is_refused(self, scene):
        name, container = scene.network(), scene.started(network="none")
        with refused(r"one of the networks in private \(none\) mode"):
            scene.engine.connect(name, container)

    @pytest.mark.parametrize("mode", ["host", "none", "container:{}"])
    def test_the_mode_is_told(self, scene, mode):
        other = scene.started("other")
        container = scene.started(network=mode.format(other))
        expected = mode.format(scene.engine.container(other).id)
        assert scene.engine.container(container).network_mode == expected


class TestContainers:
    def test_found_by_id_name_and_short_id(self, scene):
        name = scene.created()
        number = scene.engine.container(name).id
        assert scene.engine.container(number) == scene.engine.container(name)
        assert scene.engine.container(number[:12]).name == name
        assert scene.engine.container(name[:-1]) is None
        assert name in {item.name for item in scene.engine.containers()}

    def test_what_was_declared_is_told(self, scene):
        spec = scene.spec(command=(), environment=(("A", "b"),), labels=(("x", "y"),))
        scene.engine.create_container(spec)
        result = scene.engine.container(spec.name)
        assert result.command == ("sleep", "300")
        assert "A=b" in result.environment
        assert result.config == spec.config_hash()
        assert (result.role, result.labels["x"]) == ("test", "y")
        assert result.image_id == scene.engine.image(scene.image).id

    def test_states(self, scene):
        name = scene.created()
        seen = [scene.engine.container(name).status]
        scene.engine.start(name)
        scene.engine.start(name)
        seen.append(scene.engine.container(name).status)
        scene.engine.stop(name)
        scene.engine.stop(name)
        seen.append(scene.engine.container(name).status)
        assert seen == ["created", "running", "exited"]
        assert scene.engine.container(name).exit_code != 0

    def test_paused_and_going_on(self, scene):
        name = scene.started()
        scene.engine.pause(name)
        assert (scene.engine.container(name).status, scene.engine.container(name).running) == ("paused", True)
        with refused("is already paused"):
            scene.engine.pause(name)
        scene.engine.unpause(name)
        assert scene.engine.container(name).status == "running"
        with refused("is not paused"):
            scene.engine.unpause(name)

    def test_only_what_runs_is_paused(self, scene):
        name = scene.created()
        with refused("is not running"):
            scene.engine.pause(name)

    def test_removed_while_paused(self, scene):
        name = scene.started()
        scene.engine.pause(name)
        scene.engine.remove_container(name)
        assert scene.engine.container(name) is None

    def test_removed_while_running(self, scene):
        name = scene.started()
        scene.engine.remove_container(name)
        assert scene.engine.container(name) is None

    def test_port_is_published_while_it_runs(self, scene):
        wanted = (("127.0.0.1", free_port(), 8000),)
        name = scene.created(publish=wanted)
        assert scene.engine.container(name).published == ()
        scene.engine.start(name)
        assert scene.engine.container(name).published == wanted
        scene.engine.stop(name)
        assert scene.engine.container(name).published == ()

    def test_internal_network_publishes_nothing(self, scene):
        network = scene.network(internal=True)
        name = scene.started(network=network, publish=(("127.0.0.1", free_port(), 8000),))
        assert scene.engine.container(name).published == ()

    def test_port_of_another_container_leaves_it_created(self, scene):
        wanted = (("127.0.0.1", free_port(), 8000),)
        first, second = scene.started("one", publish=wanted), scene.created("two", publish=wanted)
        message = f"Bind for 127.0.0.1:{wanted[0][1]} failed: port is already allocated"
        with refused(f"on endpoint {second} .*: {message}"):
            scene.engine.start(second)
        left = scene.engine.container(second)
        assert (left.status, left.exit_code) == ("created", 128)
        assert message in left.error
        scene.engine.stop(first)
        scene.engine.start(second)
        assert scene.engine.container(second).error == ""

    def test_port_of_a_process_leaves_it_created(self, scene):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            if isinstance(scene.engine, FakeEngine):
                scene.engine.host_ports.add(port)
            name = scene.created(publish=(("127.0.0.1", port, 8000),))
            with refused(f"127.0.0.1:{port}: bind: address already in use"):
                scene.engine.start(name)
        assert scene.engine.container(name).status == "created"

    def test_name_that_is_taken(self, scene):
        name = scene.created()
        message = f'Conflict. The container name "/{name}" is already in use by container "[0-9a-f]+"'
        with refused(message):
            scene.created()
        other = scene.created("other")
        with refused(f"Error when allocating new name: {message}"):
            scene.engine.rename(other, name)
        scene.engine.rename(other, scene.name("third"))
        assert scene.engine.container(other) is None
        assert scene.engine.container(scene.name("third"))

    @pytest.mark.parametrize("name", ["a b", "a", "-ab"])
    def test_bad_name(self, scene, name):
        with refused(re.escape(f"Invalid container name ({name})")):
            scene.engine.create_container(dataclasses.replace(scene.spec(), name=name))

    def test_missing_image(self, scene):
        with missing("No such image: nope/none:1"):
            scene.created(image="nope/none:1")
        assert scene.engine.image("nope/none:1") is None

    def test_missing_network_shows_when_it_is_started(self, scene):
        name = scene.created(network=scene.name("nowhere"))
        with missing(f"network {scene.name('nowhere')} not found"):
            scene.engine.start(name)
        left = scene.engine.container(name)
        assert (left.status, left.exit_code) == ("created", 128)

    def test_shared_network_needs_a_running_container(self, scene):
        other = scene.created("other")
        name = scene.created(network=f"container:{other}")
        with refused("cannot join network of a non running container"):
            scene.engine.start(name)

    @pytest.mark.parametrize(
        "ask",
        [
            lambda engine, _: engine.start("ragopstest-nobody"),
            lambda engine, _: engine.stop("ragopstest-nobody"),
            lambda engine, _: engine.rename("ragopstest-nobody", "ragopstest-other"),
            lambda engine, _: engine.remove_container("ragopstest-nobody"),
            lambda engine, _: engine.logs("ragopstest-nobody"),
            lambda engine, _: engine.stats("ragopstest-nobody"),
            lambda engine, _: engine.execute("ragopstest-nobody", ("true",)),
            lambda engine, network: engine.connect(network, "ragopstest-nobody"),
            lambda engine, network: engine.disconnect(network, "ragopstest-nobody"),
        ],
    )
    def test_missing_container(self, scene, ask):
        network = scene.network()
        with missing("No such container: ragopstest-nobody"):
            ask(scene.engine, network)

    @pytest.mark.parametrize(
        "ask",
        [
            lambda engine, _: engine.remove_network("ragopstest-nowhere"),
            lambda engine, container: engine.connect("ragopstest-nowhere", container),
            lambda engine, container: engine.disconnect("ragopstest-nowhere", container),
        ],
    )
    def test_missing_network(self, scene, ask):
        container = scene.started()
        with missing("network ragopstest-nowhere not found"):
            ask(scene.engine, container)
        assert scene.engine.network("ragopstest-nowhere") is None

    def test_use_is_zero_before_the_start(self, scene):
        assert scene.engine.stats(scene.created()).cpu_ns == 0


class TestExecute:
    def test_exit_code_and_both_streams(self, scene):
        name = scene.started()
        done = scene.engine.execute(name, ("sh", "-c", "cat; echo no >&2; exit 3"), stdin="yes")
        assert (done.exit_code, done.stdout, done.stderr) == (3, "yes\n", "no\n")
        assert scene.engine.execute(name, ("true",)).exit_code == 0

    def test_missing_program_is_an_exit_code(self, scene):
        done = scene.engine.execute(scene.started(), ("nosuchprogram",))
        assert done.exit_code == 126
        assert 'exec: "nosuchprogram": executable file not found in $PATH' in done.stdout

    def test_only_where_something_runs(self, scene):
        name = scene.created()
        number = scene.engine.container(name).id
        with refused(f"Container {number} is not running"):
            scene.engine.execute(name, ("true",))

    def test_not_while_paused(self, scene):
        name = scene.started()
        scene.engine.pause(name)
        with refused("is paused, unpause the container before exec"):
            scene.engine.execute(name, ("true",))

    def test_one_that_hangs_is_given_up(self, scene):
        if isinstance(scene.engine, FakeEngine):
            return  # nothing hangs in memory
        with refused("did not end within"):
            scene.engine.execute(scene.started(), ("sleep", "30"), timeout=2)

    def test_sidecar_comes_and_goes(self, scene):
        other = scene.started()
        with sidecar(scene.engine, f"container:{other}", scene.image) as probe:
            result = scene.engine.container(probe)
            assert result.network_mode == f"container:{scene.engine.container(other).id}"
            assert scene.engine.execute(probe, ("true",)).exit_code == 0
        assert scene.engine.container(probe) is None

    def test_sidecar_goes_after_a_failure_too(self, scene):
        seen = []
        with contextlib.suppress(ZeroDivisionError), sidecar(scene.engine, "bridge", scene.image) as probe:
            seen.append(probe)
            raise ZeroDivisionError
        assert scene.engine.container(seen[0]) is None

    def test_sidecar_that_can_not_start_is_not_left(self, scene):
        before = {item.id for item in scene.engine.containers()}
        with missing("not found"), sidecar(scene.engine, scene.name("nowhere"), scene.image):
            pass
        assert {item.id for item in scene.engine.containers() if item.role == "probe"} <= before


class TestEvents:
    def test_what_happens_is_told_in_order(self, scene):
        net = scene.network()
        with scene.engine.events() as heard:
            container = scene.started(network=net)
            scene.engine.disconnect(net, container)
            scene.engine.connect(net, container)
            scene.engine.stop(container)
            scene.engine.rename(container, f"{container}-old")
            scene.engine.remove_container(f"{container}-old")
            scene.engine.remove_network(net)
            told = []
            for item in heard:
                if item.name.startswith(scene.prefix) and not item.action.startswith(("kill", "exec")):
                    told.append(f"{item.kind} {item.action} {item.name.removeprefix(scene.prefix)}")
                if told and told[-1] == "network destroy -net":
                    break
        folded = [
            item for item, _ in itertools.groupby(told)
        ]  # a real one tells twice of one that disconnects
        assert folded == [
            "container create -container",
            "network connect -net",
            "container start -container",
            "network disconnect -net",
            "network connect -net",
            "container die -container",
            "network disconnect -net",
            "container stop -container",
            "container rename -container-old",
            "container destroy -container-old",
            "network destroy -net",
        ]


class TestVolumesAndImages:
    def test_volume_is_made_once(self, scene):
        name = scene.name("volume")
        scene.engine.create_volume(name, role="cache")
        scene.engine.create_volume(name, role="other")
        result = next(item for item in scene.engine.volumes() if item.name == name)
        assert result.labels == {LABEL: "cache"}
        scene.engine.remove_volume(name)
        with missing(f"get {name}: no such volume"):
            scene.engine.remove_volume(name)

    def test_volume_in_use_stays(self, scene):
        name = scene.name("volume")
        scene.created(mounts=(Mount(name, "/cache", "volume"),))
        with refused(f"remove {name}: volume is in use - "):
            scene.engine.remove_volume(name)
        assert next(item for item in scene.engine.volumes() if item.name == name).labels == {}

    def test_one_of_several_names_is_only_taken_off(self, scene):
        result = scene.engine.image(scene.image)
        name = f"{scene.prefix}:1"
        scene.engine.tag(scene.image, name)
        assert scene.engine.image(name).id == result.id
        scene.engine.remove_image(name)
        assert scene.engine.image(name) is None
        assert scene.engine.image(scene.image) == result

    def test_image_by_id_and_without_a_tag(self, scene):
        result = scene.engine.image(scene.image)
        assert scene.engine.image(result.id) == result
        assert scene.engine.image(result.id.removeprefix("sha256:")[:12]) == result
        assert scene.engine.image(scene.image.removesuffix(":latest")) == result

    def test_missing_image_has_no_name_to_take_off(self, scene):
        with missing("No such image: nope/none:1"):
            scene.engine.remove_image("nope/none:1")
        with missing("No such image: nope/none:1"):
            scene.engine.tag("nope/none:1", "other:1")
