"""Known messages of Docker engines and of containers that ended, with remedies; pure.

``engine.py`` and ``ragops up`` search the tables; the troubleshooting page adds the causes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from signal import SIGTERM, Signals
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ragops.docker.objects import ContainerState, EventState


@dataclass(frozen=True)
class Hint:
    """Words of a message, the remedy, the error code, and the cause if a program shows it."""

    words: str
    remedy: str
    code: str
    cause: str = ""


ENGINE = (
    Hint("FileNotFoundError", "install one (apt-get install docker.io) and start it", "engine-missing"),
    Hint("Connection refused", "start the engine: systemctl start docker", "engine-stopped"),
    Hint(
        "Permission denied",
        "add the user to its group and log in again: sudo usermod -aG docker $USER",
        "engine-permission",
    ),
    Hint(
        "Invalid bind address",
        "unset DOCKER_HOST, or set it to unix:///path or tcp://host:port",
        "engine-address",
    ),
    Hint(
        "HTTP request to an HTTPS server",
        "export DOCKER_TLS_VERIFY=1, and DOCKER_CERT_PATH with the folder of ca.pem, cert.pem and key.pem",
        "engine-tls",
    ),
    Hint(
        "TLS configurations should map",
        "DOCKER_CERT_PATH names the folder of ca.pem, cert.pem and key.pem",
        "engine-tls",
    ),
    Hint(
        "CERTIFICATE_VERIFY_FAILED",
        "DOCKER_CERT_PATH names the folder of this engine's ca.pem; DOCKER_HOST has the certificate's name",
        "engine-tls",
    ),
    Hint(
        "port is already allocated",
        "docker ps --filter publish=PORT shows it; set another port, or port = false, under [reranker]",
        "port-taken",
    ),
    Hint(
        "address already in use",
        "ss -ltnp shows it; set another port, or port = false, under [reranker]",
        "port-taken",
    ),
    Hint("Pool overlaps", "choose another subnet under [network], or leave it out", "subnet-overlaps"),
    Hint(
        "could not find an available, non-overlapping IPv4 address pool",
        "docker network prune removes unused networks, or set a subnet under [network]",
        "addresses-used-up",
    ),
    Hint(
        "has active endpoints",
        "docker network inspect NETWORK shows them; disconnect them first",
        "network-in-use",
    ),
    Hint(
        "cannot be connected to any other network",
        "connect the container whose network it shares, or start it with a network of its own",
        "cannot-join",
    ),
    Hint("private (none) mode", "start it with a network of its own, then connect it", "cannot-join"),
    Hint(
        "is not supported: invalid network mode",
        "recreate the container with --network bridge (network_mode: bridge), then: ragops up",
        "podman-network",
    ),
    Hint(
        "already exists in network",
        "docker network disconnect --force NETWORK CONTAINER; docker start CONTAINER; ragops up",
        "endpoint-left",
    ),
    Hint(
        "bind source path does not exist",
        "check the model folder; a remote engine needs it on its host, Docker's snap below /home",
        "folder-not-there",
    ),
    Hint(
        "is already in use by container",
        "remove or rename it, or set another name under [reranker]",
        "name-taken",
    ),
    Hint("No such image", "build or pull it: ragops image", "image-missing"),
    Hint('plugin "', 'use driver = "bridge" under [network]', "driver-unknown"),
    Hint(
        "not a swarm manager", 'docker swarm init, or use driver = "bridge" under [network]', "swarm-missing"
    ),
    Hint("no space left on device", "docker system df shows what uses it", "disk-full"),
    Hint(
        "dial tcp", "build the image from package registries instead: ragops image --build", "registry-silent"
    ),
)

CONTAINER = (
    Hint("SafetensorError", "ragops doctor names the file; fetch it again", "model-incomplete"),
    Hint(
        "Insufficient space in /dev/shm",
        "start it with ragops up, which sets 1 GiB (docker run --shm-size 1g)",
        "shm-small",
    ),
    Hint(
        "were not initialized from checkpoint",
        "start it with ragops up, or add the model's --hf-overrides: ragops compose reranker prints them",
        "overrides-missing",
    ),
    Hint("HFValidationError", "check that the model folder is mounted and readable", "folder-not-there"),
    Hint(
        "unrecognized arguments",
        "use the image that ragops image pulls or builds, or a newer one",
        "flag-unknown",
    ),
    Hint(
        "Available memory on node",
        "under [reranker] a smaller kv_cache_gib, or a larger memory_gib; or stop the other server",
        "memory-short",
    ),
    Hint(
        "larger than the available KV cache memory",
        "raise kv_cache_gib or lower max_model_len under [reranker]",
        "kv-cache-small",
    ),
    Hint(
        "Permission denied",
        "make the model folder readable for all: chmod -R a+rX FOLDER",
        "model-unreadable",
    ),
    Hint("out of memory", "raise memory_gib, or lower kv_cache_gib under [reranker]", "out-of-memory"),
    Hint("Address already in use", "start only one server in a container", "server-twice"),
)

STATES: dict[str, Hint] = {
    "removed": Hint("does not exist", "ragops up creates it", "reranker-missing"),
    "paused": Hint("is paused", "docker unpause CONTAINER", "reranker-paused"),
    "stopped": Hint("was stopped", "ragops up starts it again", "reranker-stopped"),
    "loading": Hint(
        "is still loading its model",
        "ragops up waits for it; docker logs --follow CONTAINER shows the progress",
        "reranker-loading",
    ),
    "hangs": Hint(
        "listens, but does not respond",
        "docker restart CONTAINER; a running ragops watch does so",
        "reranker-hangs",
    ),
    "memory": Hint(
        "exited with code 137 (SIGKILL): out of memory",
        "raise memory_gib, or lower kv_cache_gib under [reranker]",
        "out-of-memory",
    ),
    "137": Hint(
        "exited with code 137 (SIGKILL)",
        "ragops up starts it again; journalctl -k shows whether the machine ran out of memory",
        "reranker-killed",
    ),
    "132": Hint(
        "exited with code 132 (SIGILL)",
        "the image needs CPU instructions that this machine lacks; ragops doctor names them",
        "cpu-too-old",
    ),
    "139": Hint(
        "exited with code 139 (SIGSEGV)",
        "docker logs CONTAINER shows where; use the image that ragops image pulls or builds",
        "server-crashed",
    ),
    "": Hint(
        "exited with code 1",
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

_ENDPOINT = re.compile(r"endpoint with name (\S+) already exists in network ([^\s:]+)")

UNKNOWN = Hint("", "", "")


def find(table: Iterable[Hint], text: str) -> Hint:
    """The first hint whose words are in the text, else :data:`UNKNOWN`, whose fields are empty."""
    return next((hint for hint in table if hint.words.lower() in text.lower()), UNKNOWN)


def for_engine(text: str) -> Hint:
    """The hint for an error message of the Docker engine."""
    hint, endpoint = find(ENGINE, text), _ENDPOINT.search(text)
    container, network = endpoint.groups() if endpoint else ("CONTAINER", "NETWORK")
    remedy = hint.remedy.replace("CONTAINER", container).replace("NETWORK", network)
    return replace(hint, remedy=remedy)


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
    elif container.status == "created" or (container.status == "exited" and for_engine(container.error).code):
        hint = for_engine(container.error) if container.error else STATES["stopped"]
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
    if any(event.action == "oom" for event in _runs(events)[-1]):
        return replace(STATES["memory"], words="lost a process: out of memory")
    if phase_of(log) in {"load", "compile"} or (container.health == "starting" and phase_of(log) == "start"):
        return STATES["loading"]
    return STATES["hangs"] if container.health == "unhealthy" else UNKNOWN


def _for_exit(container: ContainerState, events: Sequence[EventState], log: str) -> Hint:
    """The cause of the last exit; its code is in the last ``die`` event, as a restart resets the state's."""
    ended = [run for run in _runs(events) if any(event.action == "die" for event in run)]
    run = ended[-1] if ended else []
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


def _runs(events: Sequence[EventState]) -> list[list[EventState]]:
    """The events of each run. A kill may be logged after the end that it caused, before the next start."""
    runs: list[list[EventState]] = [[]]
    for event in events:
        if event.action == "start":
            runs.append([])
        runs[-1].append(event)
    return runs


def relevant_lines(log: str, last: int = 6) -> str:
    """The lines of a log that a hint matches, then the last ones.

    The last lines of a server are often errors of its worker processes, far below the cause.
    """
    lines = log.splitlines()
    end = lines[-last:]
    matching = [line for line in lines if any(hint.words in line for hint in CONTAINER) and line not in end]
    return "\n".join([*dict.fromkeys(matching), *end])
