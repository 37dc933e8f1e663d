"""The Docker engine: the only module that imports ``docker``.

Each method asks one thing, gives back records of ``state.py``, and turns every failure into an
:class:`~ragops.errors.EngineError` that says what to do. ``testing/fake_engine.py`` is its twin in memory.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import docker
import docker.errors
import docker.types
import requests.exceptions
from docker.utils import parse_repository_tag
from docker.utils.socket import consume_socket_output, demux_adaptor, frames_iter

from ragops.configuration import engine_socket
from ragops.docker import hints
from ragops.docker.objects import (
    LABEL,
    ContainerState,
    EngineState,
    EventState,
    ExecResult,
    ImageState,
    NetworkState,
    Observed,
    StatsState,
    VolumeState,
    container_of,
    engine_of,
    event_of,
    image_of,
    network_of,
    stats_of,
)
from ragops.errors import EngineError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ragops.docker.objects import ContainerSpec, NetworkSpec

TIMEOUT = 60
"""Seconds that one engine call may take; an engine that hangs is an error, not a wait."""


def candidates() -> tuple[str, ...]:
    """Addresses to try, in order: DOCKER_HOST alone if it is set, else ours, the CLI's, the default."""
    if named := os.environ.get("DOCKER_HOST"):
        return (named,)
    context = docker.ContextAPI.get_current_context()
    found = [f"unix://{engine_socket()}"] if engine_socket().exists() else []
    return tuple(dict.fromkeys([*found, context.Host or "", "unix:///var/run/docker.sock"]))


def connect(address: str | None = None, *, timeout: int = TIMEOUT) -> Engine:
    """Connect to the engine that answers.

    Args:
        address: Such as ``unix:///var/run/docker.sock``; else :func:`candidates` in order.
        timeout: Seconds for each later call.

    Raises:
        EngineError: None answers; the evidence names each that was tried.
    """
    tried = []
    for one in (address,) if address else candidates():
        try:
            client = docker.DockerClient(base_url=one or None, version="auto", timeout=timeout)
            client.ping()
        except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
            tried.append(f"{one or 'the default socket'}: {error}")
        else:
            return Engine(client)
    evidence = "\n".join(tried)
    hint = hints.for_engine(evidence)
    raise EngineError(
        "no Docker engine answers", code=hint.code or "engine-silent", evidence=evidence, hint=hint.remedy
    )


class Engine:
    """One Docker engine."""

    def __init__(self, client: docker.DockerClient) -> None:
        self._client = client

    def close(self) -> None:
        """Close the connections to the engine."""
        self._client.close()

    def state(self) -> EngineState:
        """Version, size and address of the engine."""
        with _engine_errors("describe itself"):
            info, version = self._client.info(), self._client.version()
        path = getattr(self._client.api.adapters.get("http+docker://"), "socket_path", "")
        address = self._client.api.base_url.replace("http+docker://localhost", f"unix://{path}")
        return engine_of(info, version, address)

    def networks(self) -> tuple[NetworkState, ...]:
        """All networks."""
        with _engine_errors("list its networks"):
            return tuple(network_of(one) for one in self._client.api.networks())

    def network(self, name: str) -> NetworkState | None:
        """The network of exactly that name.

        Raises:
            EngineError: Several have it: older engines make duplicates without a word.
        """
        same = [one for one in self.networks() if one.name == name]
        if len(same) > 1:
            raise EngineError(
                f"{len(same)} networks are named {name}",
                code="names-ambiguous",
                evidence=", ".join(one.id[:12] for one in same),
                hint=f"keep one and remove the others: docker network rm {same[-1].id[:12]}",
            )
        return same[0] if same else None

    def containers(self) -> tuple[ContainerState, ...]:
        """All containers, stopped ones too."""
        with _engine_errors("list its containers"):
            listed = self._client.api.containers(all=True)
        return tuple(state for one in listed if (state := self.container(one["Id"])))

    def container(self, name: str) -> ContainerState | None:
        """The container of that name or id, or None."""
        with contextlib.suppress(NotFoundError), _engine_errors(f"inspect container {name}", name):
            return container_of(self._client.api.inspect_container(name))
        return None

    def image(self, name: str) -> ImageState | None:
        """The image of that name or id, or None."""
        with contextlib.suppress(NotFoundError), _engine_errors(f"inspect image {name}"):
            return image_of(self._client.api.inspect_image(name))
        return None

    def images(self, *, label: str = LABEL) -> tuple[ImageState, ...]:
        """All images with a label, intermediate ones too."""
        with _engine_errors("list its images"):
            found = self._client.api.images(all=True, filters={"label": label})
        return tuple(state for one in found if (state := self.image(one["Id"])))

    def volumes(self) -> tuple[VolumeState, ...]:
        """All volumes."""
        with _engine_errors("list its volumes"):
            found = self._client.api.volumes()["Volumes"] or []
        return tuple(VolumeState(one["Name"], one["Labels"] or {}) for one in found)

    def logs(self, container: str, *, tail: int = 20) -> str:
        """The last lines that a container wrote, both streams together."""
        with _engine_errors(f"read the log of {container}", container):
            return _text(self._client.api.logs(container, tail=tail)).rstrip()

    def stats(self, container: str) -> StatsState:
        """CPU and memory that a running container has used."""
        with _engine_errors(f"measure {container}", container):
            return stats_of(self._client.api.stats(container, stream=False, one_shot=True))

    @contextlib.contextmanager
    def events(self) -> Iterator[Iterator[EventState]]:
        """What happens to containers and networks from now on, as it happens; ends when the engine does."""
        with _engine_errors("tell what happens"):
            stream = self._client.api.events(decode=True, filters={"type": ["container", "network"]})
        with contextlib.closing(stream):
            yield _told(stream)

    def create_network(self, spec: NetworkSpec) -> str:
        """Make a network; gives back its id."""
        pools = [docker.types.IPAMPool(subnet=spec.subnet)] if spec.subnet else []
        with _engine_errors(f"create network {spec.name}"):
            made = self._client.api.create_network(
                spec.name,
                driver=spec.driver,
                internal=spec.internal,
                ipam=docker.types.IPAMConfig(pool_configs=pools) if pools else None,
                check_duplicate=True,
                labels={LABEL: "network"},
            )
        return str(made["Id"])

    def remove_network(self, network: str) -> None:
        """Remove a network that nothing runs in."""
        with _engine_errors(f"remove network {network}"):
            self._client.api.remove_network(network)

    def connect(self, network: str, container: str, aliases: tuple[str, ...] = ()) -> None:
        """Join a container, running or stopped, to a network."""
        with _engine_errors(f"connect {container} to {network}", container):
            self._client.api.connect_container_to_network(container, network, aliases=list(aliases) or None)

    def disconnect(self, network: str, container: str) -> None:
        """Take a container out of a network."""
        with _engine_errors(f"disconnect {container} from {network}", container):
            self._client.api.disconnect_container_from_network(container, network)

    def create_volume(self, name: str, *, role: str) -> None:
        """Make a labelled volume."""
        with _engine_errors(f"create volume {name}"):
            self._client.api.create_volume(name, labels={LABEL: role})

    def remove_volume(self, name: str) -> None:
        """Remove a volume."""
        with _engine_errors(f"remove volume {name}"):
            self._client.api.remove_volume(name)

    def create_container(self, spec: ContainerSpec) -> str:
        """Make a container without starting it; gives back its id."""
        with _engine_errors(f"create container {spec.name}", spec.name):
            made = self._client.api.create_container_from_config(spec.body(), name=spec.name)
        return str(made["Id"])

    def start(self, container: str) -> None:
        """Start a container."""
        with _engine_errors(f"start {container}", container):
            self._client.api.start(container)

    def stop(self, container: str, *, timeout: int = 10) -> None:
        """Stop a container, after ``timeout`` seconds by force."""
        with _engine_errors(f"stop {container}", container):
            self._client.api.stop(container, timeout=timeout)

    def pause(self, container: str) -> None:
        """Freeze all processes of a running container; it keeps its memory and takes no CPU."""
        with _engine_errors(f"pause {container}", container):
            self._client.api.pause(container)

    def unpause(self, container: str) -> None:
        """Let a paused container go on."""
        with _engine_errors(f"unpause {container}", container):
            self._client.api.unpause(container)

    def rename(self, container: str, name: str) -> None:
        """Give a container another name."""
        with _engine_errors(f"rename {container}", container):
            self._client.api.rename(container, name)

    def remove_container(self, container: str) -> None:
        """Remove a container, running or not, with its unnamed volumes."""
        with _engine_errors(f"remove container {container}", container):
            self._client.api.remove_container(container, force=True, v=True)

    def execute(
        self, container: str, argv: tuple[str, ...], *, stdin: str = "", timeout: float = TIMEOUT
    ) -> ExecResult:
        """Run a command, without a shell, in a running container; wait ``timeout`` seconds for its end.

        Raises:
            EngineError: The engine refused, or the command did not end in time.
        """
        api, begin = self._client.api, time.monotonic()
        with _engine_errors(f"run {argv[0]} in {container}", container):
            made = api.exec_create(container, list(argv), stdin=bool(stdin), stdout=True, stderr=True)
            stream = api.exec_start(made["Id"], socket=True)
            raw = getattr(stream, "_sock", stream)
            patience = threading.Timer(timeout, _cut, [raw])
            patience.start()
            try:
                if stdin:
                    raw.sendall(stdin.encode())
                    raw.shutdown(socket.SHUT_WR)
                frames = (demux_adaptor(*frame) for frame in frames_iter(stream, tty=False))
                out, err = consume_socket_output(frames, demux=True)
            finally:
                patience.cancel()
                stream.close()
                raw.close()
            code = api.exec_inspect(made["Id"])["ExitCode"]
        if code is None and time.monotonic() - begin >= timeout:
            what = f"{argv[0]} in {container} did not end within {timeout:g} s"
            hint = f"docker top {container} shows what runs"
            raise EngineError(
                what, code="command-hangs", evidence=_text(err)[-300:], hint=hint, container=container
            )
        return ExecResult(-1 if code is None else code, _text(out), _text(err))

    def pull(self, name: str) -> None:
        """Fetch an image, by tag or digest."""
        with _engine_errors(f"pull {name}"):
            self._client.images.pull(name)

    def tag(self, image: str, name: str) -> None:
        """Give an image another name."""
        with _engine_errors(f"tag {name}"):
            self._client.api.tag(image, *parse_repository_tag(name))

    def import_image(self, tar: Path, name: str, *, role: str) -> None:
        """Make an image of a tar file with a root file system."""
        repository, tag = parse_repository_tag(name)
        named = {"repository": repository, "tag": tag, "changes": [f"LABEL {LABEL}={role}"]}
        with _engine_errors(f"import {name}"):
            self._client.api.import_image_from_file(str(tar), **named)

    def build(self, folder: Path, name: str, *, arguments: Mapping[str, str]) -> Iterator[str]:
        """Build an image with no network, line by line of the builder's output.

        Raises:
            EngineError: A step failed.
        """
        with _engine_errors(f"build {name}"):
            fixed = {"rm": True, "forcerm": True, "decode": True, "network_mode": "none", "timeout": 3600}
            steps = self._client.api.build(path=str(folder), tag=name, buildargs=dict(arguments), **fixed)
            for step in steps:
                if "error" in step:
                    raise EngineError(
                        f"building {name} failed", code="build-failed", evidence=str(step["error"]).strip()
                    )
                yield from str(step.get("stream", "")).splitlines()

    def remove_image(self, image: str) -> None:
        """Remove an image: an id with all its names, a name alone while it has others."""
        with _engine_errors(f"remove image {image}"):
            self._client.api.remove_image(image, force=True)


@contextlib.contextmanager
def _engine_errors(action: str, container: str = "") -> Iterator[None]:
    """Turn the client library's exceptions into ours."""
    try:
        yield
    except docker.errors.APIError as error:
        kind = NotFoundError if isinstance(error, docker.errors.NotFound) else EngineError
        said = str(error.explanation or error)
        hint = hints.for_engine(said)
        raise kind(
            f"the Docker engine could not {action}",
            code=hint.code,
            evidence=said,
            hint=hint.remedy,
            container=container,
        ) from error
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
        raise EngineError(
            f"the Docker engine did not answer when asked to {action}",
            code="engine-silent",
            evidence=str(error),
            hint="is it still running? docker info",
            container=container,
        ) from error


def _told(stream: Iterator[Any]) -> Iterator[EventState]:
    with _engine_errors("go on telling what happens"):
        yield from map(event_of, stream)


def _cut(connection: socket.socket) -> None:
    """End a read that waits: the library's own never gives up."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _text(data: bytes | None) -> str:
    return (data or b"").decode(errors="replace")


def observe(engine: Engine) -> Observed:
    """Read the state of the Docker engine."""
    return Observed(engine.networks(), engine.containers(), engine.volumes())
