"""What to do about what an engine or a container said; pure.

One table of (words in the text, remedy) for the engine's refusals and one for the last lines
of a container that ended. ``engine.py`` and ``launch.py`` look up, the troubleshooting page is
generated from the same tables.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Hint:
    """Words that appear in a message, what they mean, what to do, and the code of such an error."""

    words: str
    cause: str
    remedy: str
    code: str


ENGINE = (
    Hint(
        "no longer supported by this library",
        "The engine speaks an API that is too old.",
        "install Docker 20.10 or newer: apt-get install docker.io",
        "engine-old",
    ),
    Hint(
        "FileNotFoundError",
        "No engine listens on that socket.",
        "install one (apt-get install docker.io) and start it",
        "engine-missing",
    ),
    Hint(
        "Connection refused",
        "The socket is there, but no engine listens on it.",
        "start the engine: systemctl start docker",
        "engine-stopped",
    ),
    Hint(
        "Permission denied",
        "The user may not use the engine's socket.",
        "add yourself to its group and log in again: sudo usermod -aG docker $USER",
        "engine-permission",
    ),
    Hint(
        "Invalid bind address protocol",
        "DOCKER_HOST is not an address that Docker knows.",
        "unset DOCKER_HOST, or give unix:///path or tcp://host:port",
        "engine-address",
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
        "The engine has used up its address pools.",
        "docker network prune frees unused ones, or name a subnet under [network]",
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
        "A folder that should be mounted is not on the engine's machine.",
        "check the model folder; with a remote engine it must exist over there",
        "folder-not-there",
    ),
    Hint(
        "is already in use by container",
        "A container that is not ours has the name.",
        "remove or rename it, or set another name under [reranker]",
        "name-taken",
    ),
    Hint(
        "No such image",
        "The engine does not have the image.",
        "build or pull it: ragops image",
        "image-missing",
    ),
    Hint(
        'plugin "',
        "The engine has no such network driver.",
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
        "The engine's disk is full.",
        "docker system df shows what takes it",
        "disk-full",
    ),
    Hint(
        "dial tcp",
        "The engine can't reach the image registry.",
        "build the image from package registries instead: ragops image --build",
        "registry-silent",
    ),
)

CONTAINER = (
    Hint(
        "SafetensorError",
        "A file of weights is cut off, or is none.",
        "ragops doctor names the file; fetch it again",
        "model-incomplete",
    ),
    Hint(
        "Insufficient space in /dev/shm",
        "vLLM's processes exchange data through shared memory, and there is too little.",
        "launch it with ragops up, which gives 1 GiB (docker run --shm-size 1g)",
        "shm-small",
    ),
    Hint(
        "HFValidationError",
        "vLLM took the model's path for a name on a model hub: the folder is not there.",
        "check that the model folder is mounted and readable",
        "folder-not-there",
    ),
    Hint(
        "unrecognized arguments",
        "This vLLM release does not know one of the flags.",
        "use the image that ragops image names, or a newer one",
        "flag-unknown",
    ),
    Hint(
        "Available memory on node",
        "The key-value cache does not fit into the memory that is free.",
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
        "Something else listens on port 8000 inside the container.",
        "use the image's own server only once in a container",
        "server-twice",
    ),
)

EXITS = {
    137: Hint(
        "exit code 137",
        "The kernel ended the server, because the container or the machine ran out of memory.",
        "it ran out of memory: raise memory_gib, or lower kv_cache_gib under [reranker]",
        "out-of-memory",
    ),
    132: Hint(
        "exit code 132",
        "The server ended at an instruction that this processor does not have (SIGILL).",
        "the image needs CPU instructions that this machine lacks; ragops doctor names them",
        "cpu-too-old",
    ),
}
"""How a container ended, by its exit code; looked up before its log."""

UNKNOWN = Hint("", "", "", "")


def find(table: Iterable[Hint], text: str) -> Hint:
    """The first hint whose words are in the text, else :data:`UNKNOWN`, whose parts are empty."""
    return next((hint for hint in table if hint.words.lower() in text.lower()), UNKNOWN)


def for_engine(text: str) -> Hint:
    """What a response of the engine means."""
    return find(ENGINE, text)


def for_container(log: str, *, exit_code: int, oom_killed: bool) -> Hint:
    """Why a container ended, from its exit code and its log; without a code where that is unknown."""
    hint = EXITS.get(137 if oom_killed else exit_code) or find(CONTAINER, log)
    return hint if hint.code else replace(hint, remedy="docker logs shows the whole log")


def telling(log: str, last: int = 6) -> str:
    """The lines of a log that tell why it ended: those that a hint knows, then the last ones.

    A server's last words are often the fall of its helpers, far below the cause.
    """
    lines = log.splitlines()
    known = [line for line in lines if any(hint.words in line for hint in CONTAINER)]
    end = lines[-last:]
    return "\n".join([*dict.fromkeys(line for line in known if line not in end), *end])
