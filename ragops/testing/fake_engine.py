"""A Docker engine in memory, with the methods of :class:`~ragops.engine.Engine`.

For tests, and for trying ragops where there is no Docker. It refuses what engine 20.10 refuses, in
the same words; ``tests/live/test_engine_contract.py`` holds it against a real one. Programs inside
containers don't run: :attr:`FakeEngine.respond` and :attr:`FakeEngine.output` say what they say.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ragops import hints
from ragops.container import LABEL, ContainerSpec, NetworkSpec
from ragops.engine import TIMEOUT, Engine
from ragops.errors import EngineError, NotFoundError
from ragops.state import (
    ContainerState,
    Endpoint,
    EngineState,
    ExecResult,
    ImageState,
    NetworkState,
    StatsState,
    VolumeState,
)
from ragops.testing import fake_network

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

Respond = Callable[[ContainerState, tuple[str, ...], str], ExecResult | None]
"""Plays a program: container, arguments and standard input in; None where there is no such program."""

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_NEVER = "0001-01-01T00:00:00Z"
_UNUSED = StatsState(cpu_ns=0, throttled_ns=0, throttled_periods=0, memory_bytes=0)
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


class FakeEngine(Engine):
    """An engine in memory.

    ::

        engine = FakeEngine()
        engine.add_container("ragflow-server", network="docker_ragflow")
        ragops.plan(stack, engine)
        assert engine.calls == []

    Args:
        images: Names of the images that it has.
    """

    def __init__(self, *images: str) -> None:
        self.calls: list[str] = []
        """Every call that would change something, refused ones too: ``start ragflow-server`` …"""
        self.respond: Respond = lambda _container, _argv, _stdin: None
        """What programs in containers answer."""
        self.output: dict[str, str] = {}
        """What a container of that name has logged."""
        self.used: dict[str, StatsState] = {}
        """What a container of that name has used."""
        self.host_ports: set[int] = set()
        """Ports on which processes of the host listen."""
        self.registry: set[str] = set()
        """Images that can be pulled; there is no registry while it is empty."""
        self.build_output: tuple[str, ...] = ()
        """Lines that a build prints."""
        self._state = _STATE
        self._ids = (hashlib.sha256(str(n).encode()).hexdigest() for n in itertools.count())
        self._nets = {one.id: one for one in fake_network.predefined(self._ids)}
        self._boxes: dict[str, ContainerState] = {}
        self._specs: dict[str, ContainerSpec] = {}
        self._pictures: dict[str, ImageState] = {}
        self._stores: dict[str, VolumeState] = {}
        self._refusals: dict[str, str] = {}
        for name in images or ("vllm-cpu:latest",):
            self.add_image(name)

    # -- setting the scene; none of it counts as a call ------------------------------------

    def add_network(self, name: str, *, subnet: str | None = None, internal: bool = False) -> str:
        """A network that someone else made, even beside one of the same name; gives back its id."""
        return self._made_network(NetworkSpec(name, subnet=subnet, internal=internal), {})

    def add_container(
        self,
        name: str,
        *,
        network: str = "bridge",
        image: str = "busybox:latest",
        labels: Mapping[str, str] | None = None,
        publish: tuple[tuple[str, int, int], ...] = (),
    ) -> str:
        """A running container that someone else made; its network and image are made if missing."""
        if ":" not in network and not any(one.name == network for one in self._nets.values()):
            self.add_network(network)
        if self.image(image) is None:
            self.add_image(image)
        made = self._made_container(ContainerSpec(name, image, network=network, publish=publish))
        self.change(made, labels=labels or {})
        self._started(self._boxes[made])
        return made

    def add_image(self, name: str, **fields: Any) -> ImageState:
        """An image; the fields are those of :class:`~ragops.state.ImageState`."""
        number = f"sha256:{next(self._ids)}"
        made = ImageState(number, (_tagged(name),), (), size=1_000_000, labels={}, architecture="amd64")
        self._pictures[number] = replace(made, **fields)
        return self._pictures[number]

    def change(self, container: str, **fields: Any) -> ContainerState:
        """Set fields of a container's state: ``status="paused"``, ``health="healthy"`` …"""
        box = self._box(container, "change")
        self._boxes[box.id] = replace(box, **fields)
        return self._boxes[box.id]

    def refuse(self, call: str, said: str) -> None:
        """Refuse the next call that begins with these words, as if the engine had said so."""
        self._refusals[call] = said

    # -- looking ---------------------------------------------------------------------------

    def close(self) -> None:
        """Nothing is open."""

    def state(self) -> EngineState:
        """A small engine."""
        return self._state

    def networks(self) -> tuple[NetworkState, ...]:
        """All networks, Docker's own three too."""
        return tuple(self._nets.values())

    def containers(self) -> tuple[ContainerState, ...]:
        """All containers, the newest first."""
        return tuple(reversed(self._boxes.values()))

    def container(self, name: str) -> ContainerState | None:
        """By id, name or the beginning of the id, in this order."""
        named = (one for one in self._boxes.values() if one.name == name.removeprefix("/"))
        short = (one for key, one in self._boxes.items() if name and key.startswith(name))
        return self._boxes.get(name) or next(named, None) or next(short, None)

    def image(self, name: str) -> ImageState | None:
        """By id, the beginning of the id, tag or digest."""
        number = name.removeprefix("sha256:")
        for one in self._pictures.values():
            if _tagged(name) in one.tags or name in one.digests or one.id[7:].startswith(number):
                return one
        return None

    def images(self, *, label: str = LABEL) -> tuple[ImageState, ...]:
        """Those with the label."""
        return tuple(one for one in self._pictures.values() if label in one.labels)

    def volumes(self) -> tuple[VolumeState, ...]:
        """All volumes."""
        return tuple(self._stores.values())

    def logs(self, container: str, *, tail: int = 20) -> str:
        """The end of :attr:`output`."""
        box = self._box(container, f"read the log of {container}")
        return "\n".join(self.output.get(box.name, "").splitlines()[-tail:])

    def stats(self, container: str) -> StatsState:
        """What :attr:`used` says; nothing for a container that does not run."""
        box = self._box(container, f"measure {container}")
        return self.used.get(box.name, _UNUSED) if box.running else _UNUSED

    # -- changing --------------------------------------------------------------------------

    def create_network(self, spec: NetworkSpec) -> str:
        """Refuses names that are there, unknown drivers and overlapping subnets."""
        what = self._called(f"create network {spec.name}")
        if said := fake_network.objection(spec, self.networks()):
            raise _refused(what, said, NotFoundError if said.startswith("plugin") else EngineError)
        return self._made_network(spec, {LABEL: "network"})

    def remove_network(self, network: str) -> None:
        """Refused while something runs in it; stopped containers keep a place in a network that is gone."""
        what = self._called(f"remove network {self._net_name(network)}")
        net = self._net(network, what, "2 matches found based on name: network {} is ambiguous")
        if net.name in fake_network.PREDEFINED:
            raise _refused(what, f"{net.name} is a pre-defined network and cannot be removed")
        if any(
            end.network_id == net.id and end.address for one in self.containers() for end in one.endpoints
        ):
            said = f"error while removing network: network {net.name} id {net.id} has active endpoints"
            raise _refused(what, said)
        del self._nets[net.id]

    def connect(self, network: str, container: str, aliases: tuple[str, ...] = ()) -> None:
        """A container that does not run gets its address when it starts."""
        what = self._called(f"connect {self._box_name(container)} to {self._net_name(network)}")
        net, box = self._net(network, what), self._box(container, what)
        if said := fake_network.obstacle(box, net):
            raise _refused(what, said)
        place = Endpoint(net.name, "", "", _aliases(net.name, aliases, box.id))
        if box.running:
            place = fake_network.joined(place, net, self._addresses(net))
        others = (one for one in box.endpoints if one.network != net.name)
        self.change(box.id, endpoints=tuple(sorted((*others, place), key=lambda one: one.network)))

    def disconnect(self, network: str, container: str) -> None:
        """Also out of a network that is gone, as long as the container does not run."""
        what = self._called(f"disconnect {self._box_name(container)} from {self._net_name(network)}")
        box = self._box(container, what)
        name = network if box.endpoint(network) and not box.running else self._net(network, what).name
        if box.endpoint(name) is None:
            the = "" if box.running else "the "
            raise _refused(what, f"container {box.id} is not connected to {the}network {name}")
        self.change(box.id, endpoints=tuple(one for one in box.endpoints if one.network != name))

    def create_volume(self, name: str, *, role: str) -> None:
        """A volume that is there stays as it is."""
        self._called(f"create volume {name}")
        self._stores.setdefault(name, VolumeState(name, {LABEL: role}))

    def remove_volume(self, name: str) -> None:
        """Refused while a container, running or not, mounts it."""
        what = self._called(f"remove volume {name}")
        if name not in self._stores:
            raise _refused(what, f"get {name}: no such volume", NotFoundError)
        users = [key for key, spec in self._specs.items() if name in _volumes(spec)]
        if users:
            raise _refused(what, f"remove {name}: volume is in use - [{', '.join(users)}]")
        del self._stores[name]

    def create_container(self, spec: ContainerSpec) -> str:
        """Refuses missing images, bad names and names that are taken; a missing network shows at the start."""
        what = self._called(f"create container {spec.name}")
        if self.image(spec.image) is None:
            raise _refused(what, f"No such image: {spec.image}", NotFoundError)
        if not _NAME.fullmatch(spec.name):
            said = f"Invalid container name ({spec.name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
            raise _refused(what, said)
        self._free_name(spec.name, what)
        return self._made_container(spec)

    def start(self, container: str) -> None:
        """One that can't start keeps its status and tells the reason in ``error``."""
        what = self._called(f"start {self._box_name(container)}")
        box = self._box(container, what)
        if box.running:
            return
        try:
            self._started(box)
        except LookupError as error:
            said = str(error.args[0])
            code = 128 if box.status == "created" else box.exit_code
            self.change(box.id, error=said, exit_code=code)
            missing = said.endswith("not found") or said.startswith("No such container")
            raise _refused(what, said, NotFoundError if missing else EngineError) from None

    def stop(self, container: str, *, timeout: int = 10) -> None:  # noqa: ARG002 - nothing to wait for
        """Ends with the exit code of SIGTERM; one that does not run is left as it is."""
        what = self._called(f"stop {self._box_name(container)}")
        box = self._box(container, what)
        if box.status in {"running", "paused", "restarting"}:
            left = tuple(replace(one, address="") for one in box.endpoints)
            self.change(box.id, status="exited", exit_code=143, endpoints=left, published=())

    def rename(self, container: str, name: str) -> None:
        """Refused when the name is taken."""
        what = self._called(f"rename {self._box_name(container)} to {name}")
        box = self._box(container, what)
        self._free_name(name, what, "Error when allocating new name: ")
        self.change(box.id, name=name)

    def remove_container(self, container: str) -> None:
        """Running or not."""
        what = self._called(f"remove container {self._box_name(container)}")
        box = self._box(container, what)
        del self._boxes[box.id], self._specs[box.id]

    def execute(
        self, container: str, argv: tuple[str, ...], *, stdin: str = "", timeout: float = TIMEOUT
    ) -> ExecResult:
        """What :attr:`respond` answers; refused unless the container runs."""
        del timeout
        what = f"run {argv[0]} in {container}"
        box = self._box(container, what)
        if box.status != "running":
            state = {"paused": "is paused, unpause the container before exec"} | {
                "restarting": "is restarting, wait until the container is running"
            }
            raise _refused(what, f"Container {box.id} {state.get(box.status, 'is not running')}")
        missing = f'exec failed: unable to start container process: exec: "{argv[0]}": '
        said = f"OCI runtime exec failed: {missing}executable file not found in $PATH: unknown\r\n"
        return self.respond(box, argv, stdin) or ExecResult(126, said, "")

    # -- images ----------------------------------------------------------------------------

    def pull(self, name: str) -> None:
        """From :attr:`registry`."""
        what = self._called(f"pull {name}")
        if not self.registry:
            raise _refused(what, "dial tcp: lookup registry: no such host")
        if name not in self.registry:
            raise _refused(what, f"manifest for {name} not found: manifest unknown", NotFoundError)
        self.add_image(name, **({"tags": (), "digests": (name,)} if "@" in name else {}))

    def tag(self, image: str, name: str) -> None:
        """Takes the name away from any other image."""
        what = self._called(f"tag {name}")
        found = self.image(image)
        if found is None:
            raise _refused(what, f"No such image: {image}", NotFoundError)
        self._untag(name)
        self._pictures[found.id] = replace(found, tags=(*found.tags, _tagged(name)))

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
        """One of several names is only taken off; the id removes them all."""
        what = self._called(f"remove image {image}")
        found = self.image(image)
        if found is None:
            raise _refused(what, f"No such image: {image}", NotFoundError)
        if len(found.tags) > 1 and _tagged(image) in found.tags:
            self._untag(image)
        else:
            del self._pictures[found.id]
