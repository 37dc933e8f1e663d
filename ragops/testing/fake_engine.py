"""A Docker engine in memory, with the methods of :class:`~ragops.engine.Engine`.

For tests, and for trying ragops where there is no Docker. It refuses what engine 20.10 refuses, in
the same words; ``tests/live/test_engine_contract.py`` holds it against a real one. Programs inside
containers don't run: :attr:`FakeEngine.respond` and :attr:`FakeEngine.output` say what they say.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from queue import SimpleQueue
from typing import TYPE_CHECKING

from ragops.container import LABEL, ContainerSpec, NetworkSpec
from ragops.engine import TIMEOUT, Engine
from ragops.errors import EngineError
from ragops.state import Endpoint, EngineState, EventState, ExecResult, StatsState, VolumeState
from ragops.testing import fake_rules as rules
from ragops.testing.fake_world import World

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_UNUSED = StatsState(cpu_ns=0, throttled_ns=0, throttled_periods=0, memory_bytes=0)
_NO_PROGRAM = (
    "OCI runtime exec failed: exec failed: unable to start container process: "
    'exec: "{}": executable file not found in $PATH: unknown\r\n'
)
_STATE = EngineState(
    address="unix:///fake/docker.sock",
    version="20.10.24",
    api="1.41",
    root="/fake/docker",
    cpus=4,
    memory=16 * 1024**3,
    kernel="6.1.0",
    swarm=False,
)


class FakeEngine(World, Engine):
    """An engine in memory.

    ::

        engine = FakeEngine()
        engine.add_container("ragflow-server", network="docker_ragflow")
        ragops.plan(stack, engine)
        assert engine.calls == []

    Args:
        images: Names of the images that it has; ``vllm-cpu:latest`` when left out.
    """

    # -- looking ---------------------------------------------------------------------------

    def close(self) -> None:
        """Nothing is open."""

    def state(self) -> EngineState:
        """A small engine."""
        return _STATE

    def logs(self, container: str, *, tail: int = 20) -> str:
        """The end of :attr:`output`."""
        box = self._found(container, f"read the log of {container}")
        return "\n".join(self.output.get(box.name, "").splitlines()[-tail:])

    def stats(self, container: str) -> StatsState:
        """What :attr:`used` says; nothing for a container that does not run."""
        box = self._found(container, f"measure {container}")
        return self.used.get(box.name, _UNUSED) if box.running else _UNUSED

    @contextmanager
    def events(self) -> Iterator[Iterator[EventState]]:
        """Until :meth:`end_events`."""
        ear: SimpleQueue[EventState | None] = SimpleQueue()
        self._ears.append(ear)
        try:
            yield iter(ear.get, None)
        finally:
            self._ears.remove(ear)
            ear.put(None)

    # -- changing --------------------------------------------------------------------------

    def create_network(self, spec: NetworkSpec) -> str:
        """Refuses names that are there, unknown drivers and overlapping subnets."""
        what = self._called(f"create network {spec.name}")
        self._allow(what, rules.new_network(spec, self.networks()))
        return self._make_network(spec, {LABEL: "network"})

    def remove_network(self, network: str) -> None:
        """Refused while something runs in it; what is stopped keeps its place in a network that is gone."""
        what = self._called(f"remove network {self._network_name(network)}")
        net = self._network(network, what, many=rules.AMBIGUOUS_TO_REMOVE)
        if net.name in rules.PREDEFINED:
            self._allow(what, f"{net.name} is a pre-defined network and cannot be removed")
        places = (place for box in self.containers() if box.running for place in box.endpoints)
        if any(place.network_id == net.id for place in places):
            said = f"error while removing network: network {net.name} id {net.id} has active endpoints"
            self._allow(what, said)
        del self._networks[net.id]
        self._tell("network", "destroy", net.name)

    def connect(self, network: str, container: str, aliases: tuple[str, ...] = ()) -> None:
        """A container that does not run gets its address when it starts."""
        what = self._called(f"connect {self._name(container)} to {network}")
        box, net = self._found(container, what), self._network(network, what)
        self._allow(what, rules.joining(box, net), container)
        place = Endpoint(net.name, "", "", rules.aliases(net.name, aliases, box.id))
        place = rules.placed(place, net, self.containers()) if box.running else place
        others = (one for one in box.endpoints if one.network != net.name)
        self.change(box.id, endpoints=tuple(sorted((*others, place), key=lambda one: one.network)))
        if box.running:
            self._tell("network", "connect", net.name)

    def disconnect(self, network: str, container: str) -> None:
        """Also out of a network that is gone, as long as the container does not run."""
        what = self._called(f"disconnect {self._name(container)} from {network}")
        box = self._found(container, what)
        remembered = not box.running and box.endpoint(network)
        name = network if remembered else self._network(network, what).name
        if box.endpoint(name) is None:
            the = "" if box.running else "the "
            self._allow(what, f"container {box.id} is not connected to {the}network {name}")
        self.change(box.id, endpoints=tuple(one for one in box.endpoints if one.network != name))
        if box.running:
            self._tell("network", "disconnect", name)

    def create_volume(self, name: str, *, role: str) -> None:
        """A volume that is there stays as it is."""
        self._called(f"create volume {name}")
        self._volumes.setdefault(name, VolumeState(name, {LABEL: role}))

    def remove_volume(self, name: str) -> None:
        """Refused while a container, running or not, mounts it."""
        what = self._called(f"remove volume {name}")
        if name not in self._volumes:
            self._allow(what, f"get {name}: no such volume")
        if users := [number for number, spec in self._specs.items() if name in rules.volumes(spec)]:
            self._allow(what, f"remove {name}: volume is in use - [{', '.join(users)}]")
        del self._volumes[name]

    def create_container(self, spec: ContainerSpec) -> str:
        """Refuses missing images and names that are taken; a missing network shows when it is started."""
        what = self._called(f"create container {spec.name}")
        if self.image(spec.image) is None:
            self._allow(what, f"No such image: {spec.image}", spec.name)
        self._allow(what, rules.new_container(spec, self.containers()), spec.name)
        return self._make_container(spec)

    def start(self, container: str) -> None:
        """One that can't start keeps its status, and the reason in its ``error``."""
        what = self._called(f"start {self._name(container)}")
        box = self._found(container, what)
        if not box.running and (said := self._hindrance(box)):
            self.change(box.id, error=said, exit_code=128 if box.status == "created" else box.exit_code)
            self._allow(what, said, container)
        if not box.running:
            self._run(box)

    def stop(self, container: str, *, timeout: int = 10) -> None:
        """Ends with the exit code of SIGTERM; one that does not run stays as it is."""
        del timeout
        box = self._found(container, self._called(f"stop {self._name(container)}"))
        if box.status in {"running", "paused", "restarting"}:
            left = tuple(replace(one, address="") for one in box.endpoints)
            self.change(box.id, status="exited", exit_code=143, endpoints=left, published=())
            self._tell("container", "stop", box.name)

    def pause(self, container: str) -> None:
        """Refused unless it runs."""
        box = self._found(container, what := self._called(f"pause {self._name(container)}"))
        self._allow(what, rules.pausing(box), container)
        self.change(box.id, status="paused")

    def unpause(self, container: str) -> None:
        """Refused unless it is paused."""
        box = self._found(container, what := self._called(f"unpause {self._name(container)}"))
        self._allow(what, "" if box.status == "paused" else f"Container {box.id} is not paused", container)
        self.change(box.id, status="running")

    def rename(self, container: str, name: str) -> None:
        """Refused when the name is taken."""
        what = self._called(f"rename {self._name(container)} to {name}")
        box = self._found(container, what)
        if said := rules.new_name(name, self.containers()):
            self._allow(what, f"Error when allocating new name: {said}", container)
        self.change(box.id, name=name)
        self._tell("container", "rename", name)

    def remove_container(self, container: str) -> None:
        """Running or not."""
        box = self._found(container, self._called(f"remove container {self._name(container)}"))
        if box.running:
            self.change(box.id, status="exited")
        del self._containers[box.id], self._specs[box.id]
        self._tell("container", "destroy", box.name)

    def execute(
        self, container: str, argv: tuple[str, ...], *, stdin: str = "", timeout: float = TIMEOUT
    ) -> ExecResult:
        """What :attr:`respond` answers; refused unless the container runs."""
        del timeout
        what = f"run {argv[0]} in {container}"
        box = self._found(container, what)
        self._allow(what, rules.executing(box), container)
        return self.respond(box, argv, stdin) or ExecResult(126, _NO_PROGRAM.format(argv[0]), "")

    # -- images ----------------------------------------------------------------------------

    def pull(self, name: str) -> None:
        """From :attr:`registry`."""
        what = self._called(f"pull {name}")
        if name not in self.registry:
            self._allow(what, "manifest unknown" if self.registry else "dial tcp: lookup: no such host")
        self.add_image(name, **({"tags": (), "digests": (name,)} if "@" in name else {}))

    def tag(self, image: str, name: str) -> None:
        """Takes the name away from the image that had it."""
        found = self._image(image, self._called(f"tag {name}"))
        self._untag(name)
        found = self._images[found.id]
        self._images[found.id] = replace(found, tags=(*found.tags, rules.tagged(name)))

    def import_image(self, tar: Path, name: str, *, role: str) -> None:
        """The file is not looked at."""
        del tar
        self._called(f"import {name}")
        self._untag(name)
        self.add_image(name, labels={LABEL: role})

    def build(self, folder: Path, name: str, *, arguments: Mapping[str, str]) -> Iterator[str]:
        """Prints :attr:`build_output`; the folder is not looked at."""
        del folder, arguments
        try:
            self._called(f"build {name}")
        except EngineError as error:
            raise EngineError(f"building {name} failed", evidence=error.evidence) from None
        yield from self.build_output
        self._untag(name)
        self.add_image(name, labels={LABEL: "image"})

    def remove_image(self, image: str) -> None:
        """One of several names is only taken off; the id removes all."""
        found = self._image(image, self._called(f"remove image {image}"))
        if len(found.tags) > 1 and rules.tagged(image) in found.tags:
            self._untag(image)
        else:
            del self._images[found.id]
