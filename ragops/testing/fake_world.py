"""What a fake engine has: records in memory, and the ways to set a scene. See ``fake_engine.py``."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ragops.container import LABEL, ContainerSpec, NetworkSpec
from ragops.state import (
    ContainerState,
    EventState,
    ExecResult,
    ImageState,
    NetworkState,
    StatsState,
    VolumeState,
)
from ragops.testing import fake_rules as rules

if TYPE_CHECKING:
    from collections.abc import Mapping
    from queue import SimpleQueue

Respond = Callable[[ContainerState, tuple[str, ...], str], ExecResult | None]
"""Plays a program: container, arguments and standard input in; None where there is no such program."""


class World:
    """Networks, containers, images and volumes; :class:`~ragops.testing.fake_engine.FakeEngine` acts on it.

    Args:
        images: Names of the images that are there; ``vllm-cpu:latest`` when left out.
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
        """Images that can be pulled; while it is empty no registry answers."""
        self.build_output: tuple[str, ...] = ()
        """Lines that a build prints."""
        self._ids = (hashlib.sha256(str(number).encode()).hexdigest() for number in itertools.count())
        self._networks = rules.predefined(self._ids)
        self._containers: dict[str, ContainerState] = {}
        self._specs: dict[str, ContainerSpec] = {}
        self._images: dict[str, ImageState] = {}
        self._volumes: dict[str, VolumeState] = {}
        self._refusals: dict[str, str] = {}
        self._ears: list[SimpleQueue[EventState | None]] = []
        for name in images or ("vllm-cpu:latest",):
            self.add_image(name)

    # -- setting the scene: none of it counts as a call ------------------------------------

    def add_network(self, name: str, *, subnet: str | None = None, internal: bool = False) -> str:
        """A network that someone else made, even beside one of the same name; gives back its id."""
        return self._make_network(NetworkSpec(name, subnet=subnet, internal=internal), {})

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
        if ":" not in network and network not in {one.name for one in self.networks()}:
            self.add_network(network)
        if self.image(image) is None:
            self.add_image(image)
        made = self._make_container(ContainerSpec(name, image, network=network, publish=publish))
        inherited = found.labels if (found := self.image(image)) else {}
        self._run(self.change(made, labels={**inherited, **(labels or {})}))
        return made

    def add_image(self, name: str, **fields: Any) -> ImageState:
        """An image; the fields are those of :class:`~ragops.state.ImageState`."""
        number = f"sha256:{next(self._ids)}"
        made = ImageState(number, (rules.tagged(name),), (), size=1_000_000, labels={}, architecture="amd64")
        self._images[number] = replace(made, **fields)
        return self._images[number]

    def change(self, container: str, **fields: Any) -> ContainerState:
        """Set fields of a container's state, such as ``status="paused"`` or ``health="healthy"``."""
        box = self._found(container, "change it")
        now = self._containers[box.id] = replace(box, **fields)
        if now.health not in ("", "starting", box.health):
            self._tell("container", f"health_status: {now.health}", now.name)
        if now.status != box.status and now.status in {"running", "exited"}:
            self._tell_of_places(now, "connect" if now.running else "disconnect")
        return now

    def end_events(self) -> None:
        """Whoever follows the events hears no more, as when the engine ends."""
        for ear in self._ears:
            ear.put(None)

    def refuse(self, call: str, said: str) -> None:
        """Refuse the next call that begins with these words, as if the engine had said so."""
        self._refusals[call] = said

    # -- what there is ---------------------------------------------------------------------

    def networks(self) -> tuple[NetworkState, ...]:
        """All networks, Docker's own three too."""
        return tuple(self._networks.values())

    def containers(self) -> tuple[ContainerState, ...]:
        """All containers, the newest first."""
        return tuple(reversed(self._containers.values()))

    def container(self, name: str) -> ContainerState | None:
        """By id, name or the beginning of the id, in this order."""
        named = (one for one in self._containers.values() if one.name == name.removeprefix("/"))
        short = (one for one in self._containers.values() if name and one.id.startswith(name))
        return self._containers.get(name) or next(itertools.chain(named, short), None)

    def image(self, name: str) -> ImageState | None:
        """By id, the beginning of the id, tag or digest."""
        number, tag = name.removeprefix("sha256:"), rules.tagged(name)
        found = (
            one
            for one in self._images.values()
            if tag in one.tags or name in one.digests or one.id.removeprefix("sha256:").startswith(number)
        )
        return next(found, None)

    def images(self, *, label: str = LABEL) -> tuple[ImageState, ...]:
        """Those with the label."""
        return tuple(one for one in self._images.values() if label in one.labels)

    def volumes(self) -> tuple[VolumeState, ...]:
        """All volumes."""
        return tuple(self._volumes.values())

    # -- how it is kept --------------------------------------------------------------------

    def _called(self, what: str) -> str:
        self.calls.append(what)
        for words in [one for one in self._refusals if what.startswith(one)]:
            self._allow(what, self._refusals.pop(words))
        return what

    def _tell(self, kind: str, action: str, name: str) -> None:
        for ear in self._ears:
            ear.put(EventState(kind, action, name))

    def _tell_of_places(self, box: ContainerState, action: str) -> None:
        """That a container joined or left its networks, because it started or ended."""
        if not box.running:
            self._tell("container", "die", box.name)
        for place in box.endpoints:
            self._tell("network", action, place.network)
        if box.running:
            self._tell("container", "start", box.name)

    def _allow(self, what: str, objection: str, container: str = "") -> None:
        if objection:
            raise rules.refused(what, objection, container)

    def _name(self, container: str) -> str:
        found = self.container(container)
        return found.name if found else container

    def _network_name(self, network: str) -> str:
        return self._networks[network].name if network in self._networks else network

    def _found(self, container: str, what: str) -> ContainerState:
        found = self.container(container)
        if found is None:
            raise rules.refused(what, f"No such container: {container}", container)
        return found

    def _image(self, image: str, what: str) -> ImageState:
        found = self.image(image)
        if found is None:
            raise rules.refused(what, f"No such image: {image}")
        return found

    def _network(self, network: str, what: str, *, many: str = rules.AMBIGUOUS) -> NetworkState:
        named = [one for one in self._networks.values() if one.name == network]
        if len(named) > 1:
            raise rules.refused(what, many.format(count=len(named), name=network))
        if not named and network not in self._networks:
            raise rules.refused(what, f"network {network} not found")
        return self._networks.get(network) or named[0]

    def _make_network(self, spec: NetworkSpec, labels: Mapping[str, str]) -> str:
        number = next(self._ids)
        subnet = spec.subnet or rules.free_subnet(self.networks())
        made = NetworkState(number, spec.name, spec.driver, spec.internal, (subnet,), labels)
        self._networks[number] = made
        self._tell("network", "create", spec.name)
        return number

    def _make_container(self, spec: ContainerSpec) -> str:
        number, image = next(self._ids), self.image(spec.image)
        other = (spec.network or "").removeprefix("container:")
        shares = self.container(other) if other != (spec.network or "") else None
        for volume in rules.volumes(spec):
            self._volumes.setdefault(volume, VolumeState(volume, {}))
        self._specs[number] = spec
        self._containers[number] = rules.created(
            spec, number, image.id if image else "", shares.id if shares else ""
        )
        self._tell("container", "create", spec.name)
        return number

    def _hindrance(self, box: ContainerState) -> str:
        """Why a container can't start; empty when it can."""
        if box.network_mode.startswith("container:"):
            number = box.network_mode.removeprefix("container:")
            other = self.container(number)
            if other is None:
                return f"No such container: {number}"
            return "" if other.running else f"cannot join network of a non running container: {other.id}"
        names = {one.name for one in self.networks()}
        for place in box.endpoints:
            known = self._networks if place.network_id else names
            if (wanted := place.network_id or place.network) not in known:
                return f"network {wanted} not found"
        said = rules.publishing(self._specs[box.id].publish, self.containers(), self.host_ports)
        endpoint = f"driver failed programming external connectivity on endpoint {box.name} ({box.id})"
        return said and f"{endpoint}: {said}"

    def _run(self, box: ContainerState) -> None:
        spec = self._specs[box.id]
        places = []
        for place in box.endpoints:
            net = self._network(place.network_id or place.network, f"start {box.name}")
            named = replace(place, aliases=rules.aliases(net.name, place.aliases, box.id))
            places.append(rules.placed(named, net, self.containers()))
        inside = all(self._networks[place.network_id].internal for place in places)
        self.change(
            box.id,
            status="running",
            exit_code=0,
            error="",
            started_at="2026-01-01T00:00:00Z",
            health="starting" if spec.health else "",
            endpoints=tuple(places),
            published=() if inside else spec.publish,
        )

    def _untag(self, name: str) -> None:
        for number, one in self._images.items():
            left = tuple(tag for tag in one.tags if tag != rules.tagged(name))
            self._images[number] = replace(one, tags=left)
