"""A container's declaration as a compose file; pure.

:class:`~ragops.container.ContainerSpec` says what the reranker is, once; ``engine.py`` makes it of
that, and this makes the same of it for those who want to start it with Docker Compose.
"""

from __future__ import annotations

import shlex
from io import StringIO
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from ragops.container import LABEL

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ragops.container import ContainerSpec, HealthCheck, Mount, NetworkSpec

NETWORK = "ragops"
"""What our network is called inside compose files; its name on the engine is another thing."""


def reranker(spec: ContainerSpec, network: NetworkSpec) -> str:
    """The compose file that starts the same container as ``ragops up``.

    Its service has the container's name: compose adds a service's name to those that the container
    answers to, so that it answers to the same ones either way.
    """
    volumes = {mount.source: _volume(mount) for mount in spec.mounts if mount.kind == "volume"}
    document = {
        "services": {spec.name: _service(spec)},
        "networks": {NETWORK: {"name": network.name, "external": True}},
        **({"volumes": volumes} if volumes else {}),
    }
    return commented(_header(spec, network)) + written(document)


def written(document: dict[str, Any]) -> str:
    """A document as YAML, in the order of its keys."""
    yaml, out = YAML(), StringIO()
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.dump(document, out)
    return out.getvalue()


def commented(lines: Iterable[str]) -> str:
    """Lines as comments."""
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def _header(spec: ContainerSpec, network: NetworkSpec) -> list[str]:
    lines = [
        "The reranker as ragops up starts it on this machine; made by: ragops compose reranker",
        "One of the two starts it: ragops down first, if ragops up did.",
        f"Before the first time: {shlex.join(network.command())}",
        f"The image {spec.image} comes from: ragops image",
    ]
    if spec.cpuset_mems:
        lines.append(f"Left out, because compose has no word for it: --cpuset-mems {spec.cpuset_mems}")
    return lines


def _service(spec: ContainerSpec) -> dict[str, Any]:
    limits = {"mem_limit": spec.memory, "memswap_limit": spec.memory, "shm_size": spec.shm_size}
    fields = {
        "image": spec.image,
        "pull_policy": "never",
        "container_name": spec.name,
        "entrypoint": list(spec.entrypoint),
        "command": list(spec.command),
        "environment": dict(spec.environment),
        "networks": {NETWORK: {"aliases": list(spec.aliases)}},
        "ports": [f"{f'[{ip}]' if ':' in ip else ip}:{host}:{port}" for ip, host, port in spec.publish],
        "volumes": [_mount(mount) for mount in spec.mounts],
        "tmpfs": [f"{path}:{options}" for path, options in spec.tmpfs],
        "cpuset": spec.cpuset_cpus,
        **{name: str(size) for name, size in limits.items() if size},
        "pids_limit": spec.pids_limit,
        "restart": spec.restart,
        "healthcheck": _health(spec.health) if spec.health else None,
        "cap_drop": list(spec.cap_drop),
        "cap_add": list(spec.cap_add),
        "security_opt": list(spec.security_opt),
        "read_only": spec.read_only,
        "init": spec.init,
        "labels": spec.all_labels(),
    }
    return {name: literal(value) for name, value in fields.items() if value}


def _mount(mount: Mount) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": mount.kind, "source": mount.source, "target": mount.target}
    if mount.read_only:
        entry |= {"read_only": True}
    if mount.kind == "bind":
        entry |= {
            "bind": {"create_host_path": False}
        }  # a folder that is missing is an error, not an empty one
    return entry


def _volume(mount: Mount) -> dict[str, Any]:
    return {"name": mount.source, "labels": {LABEL: "cache"}}


def _health(check: HealthCheck) -> dict[str, Any]:
    return {
        "test": ["CMD", *check.command],
        "interval": f"{check.interval}s",
        "timeout": f"{check.timeout}s",
        "start_period": f"{check.start_period}s",
        "retries": check.retries,
    }


def literal(value: Any) -> Any:
    """The value with its dollars doubled, so that compose takes none of them for a variable."""
    if isinstance(value, dict):
        return {key: literal(one) for key, one in value.items()}
    if isinstance(value, list):
        return [literal(one) for one in value]
    return value.replace("$", "$$") if isinstance(value, str) else value
