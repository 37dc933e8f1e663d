"""The Docker engine: the only module that imports ``docker``.

Each method sends one request, returns records of ``objects.py``, and raises an
:class:`~ragops.errors.EngineError` with a hint for every failure.
"""

import contextlib
import os
import secrets
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import docker
import docker.errors
import docker.types
import requests.exceptions
from docker.utils import parse_repository_tag

from ragops.configuration import engine_socket
from ragops.docker import hints, objects
from ragops.docker.swarm import NodeState, ServiceSpec, ServiceState, SwarmState, TaskState
from ragops.errors import EngineError, NotFoundError

TIMEOUT = 60
"""Seconds for one request; an engine that hangs is an error."""
CONNECT_TIMEOUT = 30
"""Seconds for connecting to all candidates together."""
DEFAULT_SOCKET = "unix:///var/run/docker.sock"


def candidates() -> tuple[str, ...]:
    """Addresses in order: DOCKER_HOST's or DOCKER_CONTEXT's alone, else ragops' own, the context's, Docker's.

    A context that ``config.json`` names and that no longer exists is left out.

    Raises:
        EngineError: DOCKER_CONTEXT names no context.
    """
    if address := os.environ.get("DOCKER_HOST"):
        return (address,)
    if name := os.environ.get("DOCKER_CONTEXT"):
        if address := str(_context().get("base_url", "")):
            return (address,)
        hint = "docker context ls lists them; or: unset DOCKER_CONTEXT"
        raise EngineError(f"there is no Docker context {name}", code="context-missing", hint=hint)
    private = f"unix://{engine_socket()}" if engine_socket().exists() else ""
    addresses = (private, str(_context().get("base_url", "")), DEFAULT_SOCKET)
    return tuple(dict.fromkeys(filter(None, addresses)))


def _context() -> dict[str, Any]:
    """``base_url`` and ``tls`` of Docker's context; empty if it no longer exists or can't be read."""
    try:
        return dict(docker.ContextAPI.kwargs_from_context())
    except Exception:  # noqa: BLE001 - docker-py raises bare exceptions for a damaged context
        return {}


def _tls(address: str) -> Any:
    """The TLS settings for an address: of DOCKER_TLS_VERIFY and DOCKER_CERT_PATH, else of its context."""
    if not address.startswith(("tcp:", "https:")):
        return False
    context = _context()
    environment = docker.utils.kwargs_from_env()
    return environment.get("tls") or (context.get("base_url") == address and context.get("tls")) or False


def connect(address: str | None = None, *, timeout: int = TIMEOUT) -> "Engine":
    """Connect to the first Docker engine that responds.

    Args:
        address: Such as ``unix:///var/run/docker.sock``; else :func:`candidates` in order.
        timeout: Seconds for each request; connecting takes at most :data:`CONNECT_TIMEOUT`.

    Raises:
        EngineError: None responds; the evidence has the error of each address.
    """
    failures, addresses = [], (address,) if address else candidates()
    for candidate in addresses:
        if candidate.startswith("ssh:"):
            host = candidate.removeprefix("ssh://")
            tunnel = f"ssh -fNL /tmp/docker.sock:/var/run/docker.sock {host}"
            raise EngineError(
                f"ragops does not connect over SSH itself: {candidate}",
                code="engine-ssh",
                hint=f"run it on that machine, or through a tunnel: {tunnel}; DOCKER_HOST=unix:///tmp/docker.sock",
            )
        try:
            tls, wait = _tls(candidate), min(timeout, CONNECT_TIMEOUT) / len(addresses)
            client = docker.DockerClient(
                base_url=candidate, version=objects.OLDEST_API, timeout=wait, tls=tls
            )
            client.api.trust_env = not tls  # requests prefers REQUESTS_CA_BUNDLE to the engine's own CA
            version = client.version(api_version=False)["ApiVersion"]
            client.api._version = version  # noqa: SLF001 - "auto" requests it before trust_env can be set
        except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
            failures.append(f"{candidate}: {error}")
        except ValueError as error:  # a port that is no number, a host name that can't be encoded
            failures.append(f"{candidate}: Invalid bind address: {error}")
        else:
            client.api.timeout = timeout
            return Engine(client, candidate)
    evidence = "\n".join(failures)
    hint = hints.for_engine(evidence)
    code = hint.code or "engine-silent"
    remedy = hint.remedy or "is it running? docker info; DOCKER_HOST names another one"
    raise EngineError("no Docker engine responds", code=code, evidence=evidence, hint=remedy)


def observe(engine: "Engine") -> objects.Observed:
    """Read the networks, containers and volumes of the Docker engine."""
    return objects.Observed(engine.networks(), engine.containers(), engine.volumes())


class Engine:
    """One Docker engine."""

    def __init__(self, client: docker.DockerClient, address: str) -> None:
        self._client, self._address = client, address

    def close(self) -> None:
        """Close the connections to the engine."""
        self._client.close()

    def state(self) -> objects.EngineState:
        """Version, size and address of the engine."""
        with _engine_errors("report its state"):
            info, version = self._client.info(), self._client.version()
        path = getattr(self._client.api.adapters.get("http+docker://"), "socket_path", "")
        return objects.EngineState.from_api(info, version, f"unix://{path}" if path else self._address)

    def networks(self) -> tuple[objects.NetworkState, ...]:
        """All networks."""
        with _engine_errors("list its networks"):
            return tuple(map(objects.NetworkState.from_api, self._client.api.networks()))

    def network(self, name: str) -> objects.NetworkState | None:
        """The network of that name, or None.

        Raises:
            EngineError: Several have the name: engines before 23 allow duplicates.
        """
        same = [network for network in self.networks() if network.name == name]
        if len(same) > 1:
            raise EngineError(
                f"{len(same)} networks are named {name}",
                code="names-ambiguous",
                evidence=", ".join(network.id[:12] for network in same),
                hint=f"remove all but one: docker network rm {same[-1].id[:12]}",
            )
        return same[0] if same else None

    def containers(self) -> tuple[objects.ContainerState, ...]:
        """All containers, stopped ones too."""
        with _engine_errors("list its containers"):
            items = self._client.api.containers(all=True)
        return tuple(container for item in items if (container := self.container(item["Id"])))

    def container(self, name: str) -> objects.ContainerState | None:
        """The container of that name or id, or None."""
        with contextlib.suppress(NotFoundError), _engine_errors(f"inspect container {name}", name):
            return objects.ContainerState.from_api(self._client.api.inspect_container(name))
        return None

    def image(self, name: str) -> objects.ImageState | None:
        """The image of that name or id, or None."""
        with contextlib.suppress(NotFoundError), _engine_errors(f"inspect image {name}"):
            return objects.ImageState.from_api(self._client.api.inspect_image(name))
        return None

    def images(self) -> tuple[objects.ImageState, ...]:
        """All images with a name, and those without that no other is built from."""
        with _engine_errors("list its images"):
            items = self._client.api.images()
        return tuple(image for item in items if (image := self.image(item["Id"])))

    def volumes(self) -> tuple[objects.VolumeState, ...]:
        """All volumes."""
        with _engine_errors("list its volumes"):
            items = self._client.api.volumes()["Volumes"] or []
        return tuple(objects.VolumeState(item["Name"], item["Labels"] or {}) for item in items)

    def logs(self, container: str, *, tail: int = 20) -> str:
        """The last lines of a container's log, stdout and stderr together."""
        with _engine_errors(f"read the log of {container}", container):
            return _text(self._client.api.logs(container, tail=tail)).rstrip()

    def stats(self, container: str) -> objects.StatsState:
        """CPU time and memory that a running container has used."""
        with _engine_errors(f"measure {container}", container):
            return objects.StatsState.from_api(self._client.api.stats(container, stream=False, one_shot=True))

    def ends(self, container: str) -> tuple[objects.EventState, ...]:
        """Starts, ends, kills and OOM events of a container, the oldest first.

        The engine keeps its last 256 events of all objects.
        """
        filters = {"container": container, "event": ["start", "die", "kill", "stop", "oom"]}
        with _engine_errors(f"list the events of {container}", container):
            events = self._client.api.events("1", f"{time.time():.6f}", filters=filters, decode=True)
            return tuple(map(objects.EventState.from_api, events))

    @contextlib.contextmanager
    def events(self) -> Iterator[Iterator[objects.EventState]]:
        """Stream container and network events until the connection closes."""
        with _engine_errors("stream events"):  # also while the caller reads them
            filters = {"type": ["container", "network"]}
            with contextlib.closing(self._client.api.events(decode=True, filters=filters)) as stream:
                yield map(objects.EventState.from_api, stream)

    def swarm(self, *, needed: bool = True) -> SwarmState | None:
        """Nodes, and ragops' services, tasks and configs; None unless the engine manages a Swarm.

        Where it is not ``needed``, also None while the Swarm has no leader.
        """
        api, own = self._client.api, {"label": objects.LABEL}
        try:
            with _engine_errors("list the nodes of its Swarm"):
                nodes, services, configs = api.nodes(), api.services(own), api.configs(own)
                found = {"service": [service["ID"] for service in services]}
                tasks = api.tasks(found) if services else ()
        except EngineError as error:
            podman = isinstance(error, NotFoundError) or "does not support service" in error.evidence
            missing = {"swarm-missing"} if needed else {"swarm-missing", "swarm-leaderless"}
            if podman or error.code in missing:
                return None
            raise
        return SwarmState(
            tuple(map(NodeState.from_api, nodes)),
            tuple(map(ServiceState.from_api, services)),
            tuple(map(TaskState.from_api, tasks)),
            {config["Spec"]["Name"]: config["ID"] for config in configs},
        )

    def create_service(self, spec: ServiceSpec, configs: Mapping[str, str]) -> None:
        """Create a service; ``configs`` are ids by name."""
        with _engine_errors(f"create service {spec.name}"):
            self._client.api.create_service(**_service_options(spec.body(configs)))

    def update_service(self, service: ServiceState, spec: ServiceSpec, configs: Mapping[str, str]) -> None:
        """Change a service, one task after another; refused if it was changed since its state was read."""
        options = _service_options(spec.body(configs))
        with _engine_errors(f"update service {spec.name}"):
            self._client.api.update_service(service.id, service.version, **options)

    def change_service(
        self,
        service: ServiceState,
        *,
        replicas: int | None = None,
        constraints: tuple[str, ...] | None = None,
    ) -> None:
        """Change the number or the nodes of a service's tasks; those that stay run on."""
        with _engine_errors(f"update service {service.name}"):
            raw = self._client.api.inspect_service(service.id)
            body = {"UpdateConfig": None, "RollbackConfig": None, **raw["Spec"]}
            if replicas is not None:
                body["Mode"] = {"Replicated": {"Replicas": replicas}}
            if constraints is not None:
                body["TaskTemplate"].setdefault("Placement", {})["Constraints"] = list(constraints)
            options = _service_options(body)
            self._client.api.update_service(service.id, raw["Version"]["Index"], **options)

    def remove_service(self, service: str) -> None:
        """Remove a service; its containers end later."""
        with _engine_errors(f"remove service {service}"):
            self._client.api.remove_service(service)

    def service_logs(self, service: str, *, tail: int = 1000) -> str:
        """The last lines that the tasks of a service have written, on all nodes."""
        with _engine_errors(f"read the log of service {service}"):
            output = self._client.api.service_logs(service, stdout=True, stderr=True, tail=tail)
            return _text(output if isinstance(output, bytes) else b"".join(output)).rstrip()

    def create_config(self, name: str, data: bytes) -> None:
        """Create a file that Swarm gives to the tasks on all nodes."""
        with _engine_errors(f"create config {name}"):
            self._client.api.create_config(name, data, labels={objects.LABEL: "config"})

    def remove_config(self, config: str) -> None:
        """Remove a config that no service uses."""
        with _engine_errors(f"remove config {config}"):
            self._client.api.remove_config(config)

    def create_network(self, spec: objects.NetworkSpec) -> str:
        """Create a network; returns its id."""
        pools = [docker.types.IPAMPool(subnet=spec.subnet)] if spec.subnet else []
        overlay = spec.driver == "overlay"
        with _engine_errors(f"create network {spec.name}"):
            response = self._client.api.create_network(
                spec.name,
                driver=spec.driver,
                internal=spec.internal,
                ipam=docker.types.IPAMConfig(pool_configs=pools) if pools else None,
                check_duplicate=True,
                labels={objects.LABEL: "network"},
                attachable=overlay or None,
                options={"encrypted": ""} if spec.encrypted else None,
            )
        return str(response["Id"])

    def remove_network(self, network: str) -> None:
        """Remove a network without running containers."""
        with _engine_errors(f"remove network {network}"):
            self._client.api.remove_network(network)

    def connect(self, network: str, container: str, aliases: tuple[str, ...] = ()) -> None:
        """Connect a container, running or stopped, to a network, in which it then has only these aliases."""
        with _engine_errors(f"connect {container} to {network}", container):
            self._client.api.connect_container_to_network(container, network, aliases=list(aliases))

    def disconnect(self, network: str, container: str) -> None:
        """Disconnect a container from a network."""
        with _engine_errors(f"disconnect {container} from {network}", container):
            self._client.api.disconnect_container_from_network(container, network)

    def create_volume(self, name: str, *, role: str) -> None:
        """Create a volume with the ragops label."""
        with _engine_errors(f"create volume {name}"):
            self._client.api.create_volume(name, labels={objects.LABEL: role})

    def remove_volume(self, name: str) -> None:
        """Remove a volume."""
        with _engine_errors(f"remove volume {name}"):
            self._client.api.remove_volume(name)

    def create_container(self, spec: objects.ContainerSpec, name: str = "") -> str:
        """Create a container without starting it, by default with the name of ``spec``; returns its id."""
        name = name or spec.name
        with _engine_errors(f"create container {name}", name):
            response = self._client.api.create_container_from_config(spec.body(), name=name)
        return str(response["Id"])

    def has_file(self, container: str, path: str) -> bool:
        """Whether a container, also before its start, has a small file, as far as the engine may read it."""
        try:
            with _engine_errors(f"read {path} in {container}", container):
                stream, _ = self._client.api.get_archive(container, path)
                for _ in stream:
                    pass
        except EngineError as error:  # the others are such as a network file system that refuses root
            return not isinstance(error, NotFoundError)
        return True

    def start(self, container: str) -> None:
        """Start a container."""
        with _engine_errors(f"start {container}", container):
            self._client.api.start(container)

    def stop(self, container: str, *, timeout: int = 10) -> None:
        """Stop a container, after ``timeout`` seconds by force."""
        with _engine_errors(f"stop {container}", container):
            self._client.api.stop(container, timeout=timeout)

    def pause(self, container: str) -> None:
        """Pause all processes of a running container; it keeps its memory and uses no CPU."""
        with _engine_errors(f"pause {container}", container):
            self._client.api.pause(container)

    def unpause(self, container: str) -> None:
        """Continue a paused container."""
        with _engine_errors(f"unpause {container}", container):
            self._client.api.unpause(container)

    def rename(self, container: str, name: str) -> None:
        """Rename a container."""
        with _engine_errors(f"rename {container}", container):
            self._client.api.rename(container, name)

    def remove_container(self, container: str) -> None:
        """Remove a container, running or not, with its unnamed volumes."""
        with _engine_errors(f"remove container {container}", container):
            self._client.api.remove_container(container, force=True, v=True)

    def execute(
        self, container: str, argv: tuple[str, ...], *, stdin: str = "", timeout: float = TIMEOUT
    ) -> objects.ExecResult:
        """Run a command, without a shell, in a running container, for at most ``timeout`` seconds.

        It gets ``stdin`` as one line; with TLS its standard input then stays open.

        Raises:
            EngineError: The engine refused, or the command did not end before the timeout.
        """
        api, begin, output = self._client.api, time.monotonic(), {1: b"", 2: b""}
        with _engine_errors(f"run {argv[0]} in {container}", container):
            command = api.exec_create(container, list(argv), stdin=bool(stdin), stdout=True, stderr=True)
            stream = api.exec_start(command["Id"], socket=True)
            raw = getattr(stream, "_sock", stream)
            timer = threading.Timer(timeout, _close, [raw])
            timer.start()
            try:
                # A program that is missing or has ended does not read it all; its exit code says more.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    raw.sendall(f"{stdin}\n".encode() if stdin else b"")
                    if stdin and not isinstance(raw, ssl.SSLSocket):  # TLS can't be closed for writing alone
                        raw.shutdown(socket.SHUT_WR)
                raw.settimeout(None)  # the timer ends it
                with raw.makefile("rb") as reader:  # docker-py's own reader polls, which hangs with TLS
                    while header := reader.read(8):
                        number, size = struct.unpack(">BxxxI", header)
                        output[number] += reader.read(size)
            finally:
                timer.cancel()
                stream.close()
                raw.close()
            code = api.exec_inspect(command["Id"])["ExitCode"]
        if code is None and time.monotonic() - begin >= timeout:
            what, evidence = (
                f"{argv[0]} in {container} did not end within {timeout:g} s",
                _text(output[2])[-300:],
            )
            hint = f"docker top {container} shows what runs"
            raise EngineError(what, code="command-hangs", evidence=evidence, hint=hint, container=container)
        return objects.ExecResult(-1 if code is None else code, _text(output[1]), _text(output[2]))

    def pull(self, name: str) -> None:
        """Pull an image by tag or digest."""
        with _engine_errors(f"pull {name}"):
            self._client.images.pull(name)

    def tag(self, image: str, name: str) -> None:
        """Add a name to an image."""
        with _engine_errors(f"tag {name}"):
            self._client.api.tag(image, *parse_repository_tag(name))

    def import_image(self, tar: Path, name: str, *, role: str) -> None:
        """Create an image from a tar file with a root file system."""
        repository, tag = parse_repository_tag(name)
        options = {"repository": repository, "tag": tag, "changes": [f"LABEL {objects.LABEL}={role}"]}
        with _engine_errors(f"import {name}"):
            self._client.api.import_image_from_file(str(tar), **options)

    def build(self, folder: Path, name: str, *, arguments: Mapping[str, str]) -> Iterator[str]:
        """Build an image without network access; yields the lines of the builder's output.

        Raises:
            EngineError: A step failed.
        """
        with _engine_errors(f"build {name}"):
            options = {"rm": True, "forcerm": True, "decode": True, "network_mode": "none", "timeout": 3600}
            steps = self._client.api.build(path=str(folder), tag=name, buildargs=dict(arguments), **options)
            for step in steps:
                if error := step.get("errorDetail", {}).get("message") or step.get("error"):
                    message, evidence = f"building {name} failed", str(error).strip()
                    raise EngineError(message, code="build-failed", evidence=evidence)
                yield from str(step.get("stream", "")).splitlines()

    def remove_image(self, image: str) -> None:
        """Remove an image that no container uses; by name only that name while it has others."""
        with _engine_errors(f"remove image {image}"):
            self._client.api.remove_image(image)


@contextlib.contextmanager
def sidecar(  # noqa: PLR0913 - one keyword for each thing that may differ
    engine: Engine,
    network: str,
    image: str,
    *,
    cpus: str = "",
    mounts: tuple[objects.Mount, ...] = (),
    user: int = objects.UNPRIVILEGED,
    memory: int = 512 << 20,
    seconds: float = 300,
    python: bool = False,
) -> Iterator[str]:
    """Start a temporary container without capabilities; yields its id, and always removes it.

    Args:
        engine: The Docker engine.
        network: A network, or ``container:NAME`` for another container's names and routes.
        image: An image with ``sleep``, or with Python.
        cpus: CPUs that it may use, such as ``0-3``; all when empty.
        mounts: Folders of the Docker host that are mounted.
        user: User id of its processes.
        memory: Limit in bytes; 0 for none.
        seconds: Its largest lifetime, in case that this process cannot remove it.
        python: The image has Python, and may not have ``sleep``.
    """
    wait = ("python3", "-c", f"import time; time.sleep({seconds:.0f})")
    spec = objects.ContainerSpec(
        name=f"ragops-probe-{secrets.token_hex(4)}",
        image=image,
        entrypoint=wait if python else ("sleep", f"{seconds:.0f}"),
        mounts=mounts,
        network=network,
        cpuset_cpus=cpus,
        memory=memory,
        role="probe",
        user=f"{user}:{user}",
        init=True,
    )
    container = engine.create_container(spec)
    try:
        engine.start(container)
        yield container
    finally:
        engine.remove_container(container)


@contextlib.contextmanager
def _engine_errors(action: str, container: str = "") -> Iterator[None]:
    """Raise an :class:`EngineError` in place of docker's and requests' exceptions."""
    try:
        yield
    except docker.errors.APIError as error:
        kind = NotFoundError if isinstance(error, docker.errors.NotFound) else EngineError
        message = str(error.explanation or error)
        hint = hints.for_engine(message)
        raise kind(
            f"the Docker engine could not {action}",
            code=hint.code,
            evidence=message,
            hint=hint.remedy,
            container=container,
        ) from error
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
        raise EngineError(
            f"the Docker engine did not respond to the request to {action}",
            code="engine-silent",
            evidence=str(error),
            hint="is it still running? docker info",
            container=container,
        ) from error


def _service_options(body: Mapping[str, Any]) -> dict[str, Any]:
    """A service's body as docker-py takes it."""
    names = {"Name": "name", "Labels": "labels", "Mode": "mode", "EndpointSpec": "endpoint_spec"}
    names |= {"UpdateConfig": "update_config", "RollbackConfig": "rollback_config"}
    names |= {"TaskTemplate": "task_template"}
    return {argument: body[key] for key, argument in names.items()}


def _close(connection: socket.socket) -> None:
    """End a blocking read: docker-py's has no timeout."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _text(data: bytes | None) -> str:
    return (data or b"").decode(errors="replace")
