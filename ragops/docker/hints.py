"""Known messages of Docker engines and of containers that ended, with causes and remedies; pure.

``engine.py`` and ``ragops up`` search the tables; the troubleshooting page is generated from them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from signal import SIGTERM, Signals
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ragops.docker.objects import ContainerState, EventState


@dataclass(frozen=True)
class Hint:
    """Words of a message, its cause, the remedy, and the error code."""

    words: str
    cause: str
    remedy: str
    code: str


ENGINE = (
    Hint(
        "FileNotFoundError",
        "The socket of the Docker engine does not exist.",
        "install one (apt-get install docker.io) and start it",
        "engine-missing",
    ),
    Hint(
        "Connection refused",
        "The socket exists, but no Docker engine listens on it.",
        "start the engine: systemctl start docker",
        "engine-stopped",
    ),
    Hint(
        "Permission denied",
        "The user has no permission for the socket of the Docker engine.",
        "add the user to its group and log in again: sudo usermod -aG docker $USER",
        "engine-permission",
    ),
    Hint(
        "Invalid bind address",
        "DOCKER_HOST is not a valid address.",
        "unset DOCKER_HOST, or set it to unix:///path or tcp://host:port",
        "engine-address",
    ),
    Hint(
        "HTTP request to an HTTPS server",
        "The Docker engine requires TLS.",
        "export DOCKER_TLS_VERIFY=1, and DOCKER_CERT_PATH with the folder of ca.pem, cert.pem and key.pem",
        "engine-tls",
    ),
    Hint(
        "TLS configurations should map",
        "DOCKER_CERT_PATH lacks a file.",
        "DOCKER_CERT_PATH names the folder of ca.pem, cert.pem and key.pem",
        "engine-tls",
    ),
    Hint(
        "CERTIFICATE_VERIFY_FAILED",
        "The certificate of the Docker engine is not signed by ca.pem, or is for another host name.",
        "DOCKER_CERT_PATH names the folder of this engine's ca.pem; DOCKER_HOST has the certificate's name",
        "engine-tls",
    ),
    Hint(
        "port is already allocated",
        "Another container publishes the port.",
        "docker ps --filter publish=PORT shows it; set another port, or port = false, under [reranker]",
        "port-taken",
    ),
    Hint(
        "address already in use",
        "A process of the host listens on the port.",
        "ss -ltnp shows it; set another port, or port = false, under [reranker]",
        "port-taken",
    ),
    Hint(
        "Pool overlaps",
        "The subnet overlaps another network's.",
        "choose another subnet under [network], or leave it out",
        "subnet-overlaps",
    ),
    Hint(
        "could not find an available, non-overlapping IPv4 address pool",
        "The address pools of the Docker engine are used up.",
        "docker network prune removes unused networks, or set a subnet under [network]",
        "addresses-used-up",
    ),
    Hint(
        "has active endpoints",
        "Containers still run in the network.",
        "docker network inspect NETWORK shows them; disconnect them first",
        "network-in-use",
    ),
    Hint(
        "cannot be connected to any other network",
        "The container shares the host's or another container's network.",
        "connect the container whose network it shares, or start it with a network of its own",
        "cannot-join",
    ),
    Hint(
        "private (none) mode",
        "The container was started without a network.",
        "start it with a network of its own, then connect it",
        "cannot-join",
    ),
    Hint(
        "bind source path does not exist",
        "A folder to mount does not exist on the Docker host.",
        "check the model folder; with a remote Docker engine it must exist on that host",
        "folder-not-there",
    ),
    Hint(
        "is already in use by container",
        "A container that ragops did not create has the name.",
        "remove or rename it, or set another name under [reranker]",
        "name-taken",
    ),
    Hint(
        "No such image",
        "The Docker engine does not have the image.",
        "build or pull it: ragops image",
        "image-missing",
    ),
    Hint(
        'plugin "',
        "The Docker engine has no such network driver.",
        'use driver = "bridge" under [network]',
        "driver-unknown",
    ),
    Hint(
        "not a swarm manager",
        "Overlay networks need Docker Swarm.",
        'docker swarm init, or use driver = "bridge" under [network]',
        "swarm-missing",
    ),
    Hint(
        "no space left on device",
        "The disk of the Docker engine is full.",
        "docker system df shows what uses it",
        "disk-full",
    ),
    Hint(
        "dial tcp",
        "The Docker engine can't reach the image registry.",
        "build the image from package registries instead: ragops image --build",
        "registry-silent",
    ),
)

CONTAINER = (
    Hint(
        "SafetensorError",
        "A file of weights is truncated, or not a safetensors file.",
        "ragops doctor names the file; fetch it again",
        "model-incomplete",
    ),
    Hint(
        "Insufficient space in /dev/shm",
        "vLLM's processes exchange data through shared memory, and it is too small.",
        "start it with ragops up, which sets 1 GiB (docker run --shm-size 1g)",
        "shm-small",
    ),
    Hint(
        "HFValidationError",
        "vLLM used the model's path as a name on a model hub, because the folder does not exist.",
        "check that the model folder is mounted and readable",
        "folder-not-there",
    ),
    Hint(
        "unrecognized arguments",
        "This vLLM release lacks one of the flags.",
        "use the image that ragops image pulls or builds, or a newer one",
        "flag-unknown",
    ),
    Hint(
        "Available memory on node",
        "The key-value cache does not fit into the free memory.",
        "under [reranker] a smaller kv_cache_gib, or a larger memory_gib; or stop the other server",
        "memory-short",
    ),
    Hint(
        "larger than the available KV cache memory",
        "One document of the greatest length does not fit into the key-value cache.",
        "raise kv_cache_gib or lower max_model_len under [reranker]",
        "kv-cache-small",
    ),
    Hint(
        "Permission denied",
        "The server may not read the model or write its cache.",
        "make the model folder readable for all: chmod -R a+rX FOLDER",
        "model-unreadable",
    ),
    Hint(
        "out of memory",
        "The machine or the container ran out of memory.",
        "raise memory_gib, or lower kv_cache_gib under [reranker]",
        "out-of-memory",
    ),
    Hint(
        "Address already in use",
        "Another process listens on port 8000 inside the container.",
        "start only one server in a container",
        "server-twice",
    ),
)

STATES: dict[str, Hint] = {
    "removed": Hint(
        "does not exist",
        "The container was removed, or not created yet.",
        "ragops up creates it",
        "reranker-missing",
    ),
    "paused": Hint(
        "is paused",
        "All processes of the container are paused.",
        "docker unpause CONTAINER",
        "reranker-paused",
    ),
    "stopped": Hint(
        "was stopped",
        "The server ended on request: of docker stop, or of the Docker engine when that ended.",
        "ragops up starts it again",
        "reranker-stopped",
    ),
    "loading": Hint(
        "is still loading its model",
        "The server does not listen yet.",
        "ragops up waits for it; docker logs --follow CONTAINER shows the progress",
        "reranker-loading",
    ),
    "hangs": Hint(
        "listens, but does not respond",
        "The server accepts connections, and sends no response.",
        "docker restart CONTAINER; a running ragops watch does so",
        "reranker-hangs",
    ),
    "memory": Hint(
        "exited with code 137 (SIGKILL): out of memory",
        "The kernel killed a process of the server, because the container's memory was used up.",
        "raise memory_gib, or lower kv_cache_gib under [reranker]",
        "out-of-memory",
    ),
    "137": Hint(
        "exited with code 137 (SIGKILL)",
        "The server was killed: by docker kill, or by the kernel because the machine's memory was used up.",
        "ragops up starts it again; journalctl -k shows whether the machine ran out of memory",
        "reranker-killed",
    ),
    "132": Hint(
        "exited with code 132 (SIGILL)",
        "The server ended at an instruction that this processor does not have.",
        "the image needs CPU instructions that this machine lacks; ragops doctor names them",
        "cpu-too-old",
    ),
    "139": Hint(
        "exited with code 139 (SIGSEGV)",
        "The server crashed in native code, at an address that is not its own.",
        "docker logs CONTAINER shows where; use the image that ragops image pulls or builds",
        "server-crashed",
    ),
    "": Hint(
        "exited with code 1",
        "The server ended while it started; the end of its log is shown.",
        "docker logs CONTAINER shows the whole log; ragops doctor checks for most causes",
        "start-failed",
    ),
}
"""States of a reranker that does not respond; an exit code is looked up before the log."""

Phase = Literal["start", "load", "compile", "listen"]
_START = "non-default args:"
"""vLLM logs it first; the log before it is of an earlier start."""
_PHASES: tuple[tuple[str, Phase], ...] = (
    ("Application startup complete", "listen"),
    ("Warming up model", "compile"),
    ("Starting to load model", "load"),
    ("Loading weights", "load"),
)

UNKNOWN = Hint("", "", "", "")


def find(table: Iterable[Hint], text: str) -> Hint:
    """The first hint whose words are in the text, else :data:`UNKNOWN`, whose fields are empty."""
    return next((hint for hint in table if hint.words.lower() in text.lower()), UNKNOWN)


def for_engine(text: str) -> Hint:
    """The hint for an error message of the Docker engine."""
    return find(ENGINE, text)


def phase_of(log: str) -> Phase:
    """The phase of the last start that a log shows."""
    last = log.rpartition(_START)[2]
    return next((phase for words, phase in _PHASES if words in last), "start")


def for_container(container: ContainerState | None, events: Sequence[EventState], log: str) -> Hint:
    """Why a container does not respond: ``words`` is its state. :data:`UNKNOWN` for one that may respond.

    Args:
        container: Its state; None if it does not exist.
        events: Its starts, ends, kills and OOM events, the oldest first, as far as the engine has them.
        log: The end of its log.
    """
    if container is None or container.status in {"removing", "dead"}:
        return STATES["removed"]
    if container.serves:
        return UNKNOWN
    if container.status == "paused":
        hint = STATES["paused"]
    elif container.status == "created":
        hint = find(ENGINE, container.error) if container.error else STATES["stopped"]
        hint = replace(hint, words="was not started", code=hint.code or "start-failed")
    elif container.status != "running":
        hint = _for_exit(container, events, log)
    else:
        hint = _for_running(container, events, log)
    return replace(hint, remedy=hint.remedy.replace("CONTAINER", container.name))


def _for_running(container: ContainerState, events: Sequence[EventState], log: str) -> Hint:
    exited = _for_exit(container, events, log)
    if container.restart_count and exited.code != STATES["stopped"].code:
        return exited
    if any(event.action == "oom" for event in _after_end(events, 1)):
        return replace(STATES["memory"], words="lost a process: out of memory")
    if phase_of(log) in {"load", "compile"} or (container.health == "starting" and phase_of(log) == "start"):
        return STATES["loading"]
    return STATES["hangs"] if container.health == "unhealthy" else UNKNOWN


def _for_exit(container: ContainerState, events: Sequence[EventState], log: str) -> Hint:
    """The cause of the last exit; its code is in the last ``die`` event, as a restart resets the state's."""
    run = _after_end(events, 2)
    codes = [event.exit_code for event in run if event.action == "die"]
    code = codes[0] if codes else container.exit_code
    if container.oom_killed or any(event.action == "oom" for event in run):
        hint = STATES["memory"]
    elif code in {0, 137, 143} and any(event.signal == SIGTERM or event.action == "stop" for event in run):
        hint = STATES["stopped"]
    else:
        hint = STATES.get(str(code)) or find(CONTAINER, log)
    if not hint.code:
        hint = STATES["stopped" if code in {0, 143} and not container.restart_count else ""]
    verb = "was stopped" if hint == STATES["stopped"] else "exited"
    signal = f" ({Signals(code - 128).name})" if code - 128 in set(Signals) else ""
    restarts = f", restarted {container.restart_count} times" if container.restart_count else ""
    reason = f": {hint.words}" if hint in CONTAINER else ""
    reason = ": out of memory" if hint == STATES["memory"] else reason
    return replace(hint, words=f"{verb} with code {code}{signal}{restarts}{reason}")


def _after_end(events: Sequence[EventState], number: int) -> Sequence[EventState]:
    """The events after the end of the last run (1), or of the one before (2)."""
    ends = [index for index, event in enumerate(events) if event.action == "die"]
    return events[ends[-number] + 1 :] if len(ends) >= number else events


def relevant_lines(log: str, last: int = 6) -> str:
    """The lines of a log that a hint matches, then the last ones.

    The last lines of a server are often errors of its worker processes, far below the cause.
    """
    lines = log.splitlines()
    end = lines[-last:]
    matching = [line for line in lines if any(hint.words in line for hint in CONTAINER) and line not in end]
    return "\n".join([*dict.fromkeys(matching), *end])
