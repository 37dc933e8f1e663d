"""What the verbs share: the Docker engine, the configuration resolved on this host, and the lock.

A :class:`Session` connects the configuration to a Docker engine. Its :class:`Deployment` is what the
configuration means on this host: it is resolved once, on first use, and passed on.
"""

import fcntl
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, TextIO

from ragops.configuration import Stack, data_folder, home
from ragops.docker import engine as docker_engine
from ragops.docker.engine import Engine, observe
from ragops.docker.objects import ContainerSpec, ContainerState, EngineState, Observed
from ragops.docker.swarm import SwarmState
from ragops.errors import EngineError, LockedError, RagflowError
from ragops.ragflow import discovery, releases
from ragops.reranker import gateway, options
from ragops.reranker import host as hosts
from ragops.reranker import model as models
from ragops.reranker.host import Host, NodeRecord
from ragops.reranker.model import Model
from ragops.reranker.sizing import Sizing, sizes, sizes_on

TIMEOUT = releases.of(releases.NEWEST).timeout
"""Seconds that RAGFlow waits for a response, where its release is unknown."""


@dataclass(frozen=True)
class Deployment:
    """The configuration resolved on this host: model, sizing and container."""

    stack: Stack
    model: Model
    host: Host
    sizings: tuple[Sizing, ...]
    replicas: tuple[ContainerSpec, ...]
    """vLLM's containers, one for each of the sizings; none that Swarm or something else runs."""
    gateway: ContainerSpec | None = None
    elsewhere: ContainerSpec | None = None
    """What a replica would be on this machine, where none runs."""
    nodes: tuple[str, ...] = ()
    """Ids of the nodes of a Swarm that the sizings are for."""

    @property
    def spec(self) -> ContainerSpec:
        """The first replica, or what it would be."""
        return self.elsewhere or self.replicas[0]

    @property
    def sizing(self) -> Sizing:
        """The first replica's: all have the same model, data type and lengths."""
        return self.sizings[0]

    @classmethod
    def resolve(
        cls,
        stack: Stack,
        model: Model | None = None,
        engine: EngineState | None = None,
        timeout: float = TIMEOUT,
        records: Sequence[NodeRecord] = (),
    ) -> "Deployment":
        """Read the model folder and the host once, and build the containers' specifications.

        A ``model`` replaces the one that the configuration or the environment names. Without ``engine`` no
        port is published. ``timeout`` is RAGFlow's, in seconds. ``records`` are of a Swarm's nodes.
        """
        model = model or models.resolve(stack)
        host = hosts.read_host()
        options.check_instruction(stack, model)
        row = options.known(model)
        template = _template_file(row.template, options.score_template(row, stack.reranker.instruction))
        if stack.swarm:
            sizings = sizes_on(stack, model, [record.host for record in records] or [host])
        else:
            sizings = sizes(stack, model, host.unlimited if stack.servers else host)
        image = stack.reranker.image
        specs = [
            options.container_spec(stack, model, sizing, image=image, template=template, engine=engine)
            for sizing in sizings
        ]
        if not stack.gateway_used:
            return cls(stack, model, host, sizings, tuple(specs))
        replicas = tuple(map(partial(options.as_replica, stack), specs, stack.replica_names))
        front = gateway.container_spec(
            stack,
            timeout=timeout,
            splits=row.splits,
            publish=specs[0].publish,
            folder=reference_folder(stack, engine),
        )
        nodes = tuple(record.node for record in records)
        first = options.as_replica(stack, specs[0], stack.replicas_alias) if stack.swarm else specs[0]
        return cls(stack, model, host, sizings, replicas, front, None if replicas else first, nodes)

    def write_template(self) -> None:
        """Write the score template, which containers mount, outside the package."""
        row = options.known(self.model)
        text = options.score_template(row, self.stack.reranker.instruction)
        file = _template_file(row.template, text)
        if file and not file.exists():
            data_folder(file.parent)
            file.write_bytes(text.encode())
            file.chmod(0o644)  # root in the container has no more rights than other users

    @property
    def pair_tokens(self) -> int:
        """Tokens that are added to a query and a document."""
        return options.template_tokens(options.known(self.model), self.stack.reranker.instruction)


@dataclass(frozen=True)
class Session:
    """A configuration and the Docker engine that it is applied to."""

    stack: Stack
    engine: Engine

    @classmethod
    def open(cls, stack: Stack, engine: Engine | None = None) -> "Session":
        """A session with this engine; without one, with the Docker engine that is reachable."""
        return cls(stack, engine or docker_engine.connect())

    @cached_property
    def deployment(self) -> Deployment:
        """The configuration resolved on this host; the first access reads the model folder and the host.

        Without a configured model, it is the one that the existing reranker was started with.
        """
        recorded = None if models.named_folder(self.stack) else self.recorded_model
        model = models.describe(recorded, self.stack.reranker.kind) if recorded else None
        records = self.records if self.stack.swarm else ()
        return Deployment.resolve(self.stack, model, self.state, self.ragflow_timeout, records)

    @cached_property
    def swarm(self) -> SwarmState | None:
        """The Swarm, if the engine manages one."""
        return self.engine.swarm()

    @property
    def probe_file(self) -> Path:
        """What was read on the nodes of the Swarm, a line of each."""
        return reference_folder(self.stack, self.state) / "nodes.jsonl"

    @cached_property
    def records(self) -> tuple[NodeRecord, ...]:
        """The nodes of the Swarm, as far as they were read."""
        nodes = {node.id for node in self.swarm.nodes} if self.swarm else set[str]()
        records = list[NodeRecord]()
        for line in self.probe_file.read_text().splitlines() if self.probe_file.exists() else ():
            with suppress(EngineError):  # an interrupted write: the node is read again
                records.append(hosts.parse_probe(line))
        return tuple(sorted((r for r in records if r.node in nodes), key=lambda record: record.node))

    @cached_property
    def observed(self) -> Observed:
        """The engine's objects when the configuration was resolved."""
        return observe(self.engine)

    @property
    def ragflow_timeout(self) -> float:
        """Seconds that RAGFlow waits for a response: the shortest of the discovered ones, else the usual."""
        options = self.stack.gateway
        if not options or options.deadline != "auto":
            return TIMEOUT
        with suppress(RagflowError):  # none, or several of which none is configured
            found = discovery.find(self.observed.containers, self.stack.ragflow)
            return min((ragflow.contract.timeout for ragflow in found), default=TIMEOUT)
        return TIMEOUT

    @cached_property
    def recorded_model(self) -> Path | None:
        """The model folder of the existing reranker, running or stopped."""
        rerankers = self.observed.rerankers(self.stack.reranker.name)
        return next((container.model for container in rerankers if container.model), None)

    @cached_property
    def state(self) -> EngineState:
        """The Docker engine's version and address."""
        return self.engine.state()

    def host_url(self, container: ContainerState | None) -> str | None:
        """The reranker's address for programs on this host: its published port, else its own address.

        None while it is stopped, and on an engine whose networks this host does not reach.
        """
        unreached = self.state.isolated or (
            self.stack.swarm and container and container.endpoint(self.stack.overlay)
        )
        if container is None or (unreached and not container.published):
            return None
        url = container.host_url(options.PORT)
        return url and f"{url}/v1"


@contextmanager
def lock(
    engine: str, name: str = "", purpose: Literal["change", "watch"] = "change", *, unwatched: bool = False
) -> Iterator[None]:
    """Lock a stack for other ragops processes of this host, of any user; the lock ends with the process.

    Args:
        engine: Id of the Docker engine that the stack runs on: it has several addresses, but one id.
        name: Name of the reranker's container, which identifies the stack; empty for all stacks.
        purpose: ``ragops watch`` has a lock of its own, beside that of each change.
        unwatched: For a change that ``ragops watch`` would repair: raise an error while it runs.
    """
    watched = "end ragops watch first: it would repair the stack within seconds"
    if not name:
        with _locked("a lock of this Docker engine", watched, engine):
            yield
        return
    hint = watched if purpose == "watch" else "try again when it has ended"
    with (
        _locked("the lock of the whole Docker engine", hint, engine, shared=True),
        _locked(f"the {purpose} lock of {name}", hint, f"{engine} {name} {purpose}"),
    ):
        if unwatched:
            with lock(engine, name, "watch"):
                pass
        yield


def _locked(what: str, hint: str, key: str, *, shared: bool = False) -> TextIO:
    """An open file with a lock, which closing releases."""
    file = _lock_folder() / f"ragops-{hashlib.sha256(key.encode()).hexdigest()[:12]}.lock"
    try:
        with ExitStack() as opened:
            handle = opened.enter_context(os.fdopen(_open_lock(file)))
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            opened.pop_all()
            return handle
    except OSError as error:
        message, evidence = f"another ragops process has {what}", f"{file}: {error.strerror}"
        raise LockedError(message, evidence=evidence, hint=hint, file=file) from error


def _lock_folder() -> Path:
    """The folder in which every user of this host may create files."""
    folder = Path("/run/lock")
    return folder if folder.is_dir() and folder.stat().st_mode & stat.S_IWOTH else Path("/tmp")  # noqa: S108


def _open_lock(file: Path) -> int:
    """Open or create a file that every user can lock; reading is sufficient for that.

    Linux refuses ``O_CREAT`` for another user's file in such a folder, even to root
    (``fs.protected_regular``), so that an existing file is opened without it.
    """
    with suppress(FileExistsError):
        descriptor = os.open(file, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o444)
        os.fchmod(descriptor, 0o444)  # whatever the umask
        return descriptor
    return os.open(file, os.O_RDONLY | os.O_NOFOLLOW)


def replace_file(file: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a whole file with this mode, or leave the former one."""
    draft = file.with_name(f".{file.name}.new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    draft.chmod(mode)
    draft.replace(file)


def reference_folder(stack: Stack, engine: EngineState | None) -> Path:
    """The folder with the gateway's reference: engines may have stacks of the same name."""
    digest = hashlib.sha256(engine.id.encode()).hexdigest()[:12] if engine else "none"
    return home() / "gateway" / f"{digest}-{stack.reranker.name}"


def create_folder(stack: Stack, engine: EngineState | None) -> None:
    """Create :func:`reference_folder` if there is a gateway, before the deployment is resolved.

    A new folder gets another mark: the mount of a running gateway stays on one that was deleted.
    """
    if not stack.gateway_used:
        return
    folder = data_folder(reference_folder(stack, engine))
    if folder.stat().st_uid == os.geteuid():
        folder.chmod(folder.stat().st_mode | 0o055)  # whatever the umask: the gateway's user reads it
    mark = folder / gateway.MARK
    if not mark.exists():
        mark.write_text(secrets.token_hex(6), encoding="utf-8")


def _template_file(name: str, template: str) -> Path | None:
    digest = hashlib.sha256(template.encode()).hexdigest()[:12]
    return home() / "templates" / digest / name if name else None
