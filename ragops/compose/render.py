"""A reranker's container as a compose file; pure.

:func:`reranker` renders the same :class:`~ragops.docker.objects.ContainerSpec` that ``ragops up`` starts
through Docker's API. :func:`take_over` and :func:`not_taken_over` are for ``ragops check --fix``, which
renders the reranker of an existing compose file.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from ragops.compose.faults import takes_default_route
from ragops.compose.syntax import Word, parse_options
from ragops.configuration import Stack
from ragops.docker.objects import LABEL, LOG_OPTIONS
from ragops.errors import ComposeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ragops.compose.reading import Service
    from ragops.docker.objects import ContainerSpec, HealthCheck, Mount, NetworkSpec

NETWORK = "ragops"
"""Key of the network in compose files; its name on the Docker engine is that of the configuration."""


def reranker(spec: ContainerSpec, network: NetworkSpec) -> str:
    """The compose file that starts the same container as ``ragops up``.

    The key of the service is the container's name, because compose adds that key to the container's network
    aliases.
    """
    named = [mount.source for mount in spec.mounts if mount.kind == "volume"]
    volumes = {name: {"name": name, "labels": {LABEL: "cache"}} for name in named}
    document: dict[str, Any] = {
        "services": {spec.name: _service(spec)},
        "networks": {NETWORK: {"name": network.name, "external": True}},
    }
    if volumes:
        document["volumes"] = volumes
    header = [
        "The reranker as ragops up starts it on this machine; rendered by: ragops compose reranker",
        "Use either this file or ragops up; before this file: ragops down",
        f"Once before the first start: {shlex.join(network.command())}",
        f"The image {spec.image} comes from: ragops image",
    ]
    if spec.cpuset_mems:
        header.append(f"Left out, because compose has no key for it: --cpuset-mems {spec.cpuset_mems}")
    return to_comments(header) + to_yaml(document)


def take_over(service: Service, stack: Stack) -> Stack:
    """The configuration with the container name, model folder, published port and network of a service.

    A value that is missing, has an undefined variable or has a fault stays that of the configuration.

    Raises:
        ComposeError: A value is not allowed in ``ragops.toml``.
    """
    changes: dict[str, Any] = {"name": service.text("container_name") or service.name}
    if service.served.model:
        changes["model"] = service.served.model.folder
    if not service.ports:
        changes["port"] = False
    for port in service.ports:
        if port.target == service.listening_port and port.published and port.published.isdigit():
            changes["port"] = int(port.published)
            break
    tables = stack.model_dump()
    tables["reranker"] |= changes
    for network in service.networks:
        if network.shared and network.name and not takes_default_route(network):
            tables["network"]["name"] = network.name
            break
    try:
        return Stack.model_validate(tables)
    except ValidationError as error:
        reasons = "\n".join(f"{detail['loc'][-1]}: {detail['msg']}" for detail in error.errors())
        message = f"line {service.line}: {service.name} has a value that ragops does not accept"
        raise ComposeError(
            message, code="compose-value-refused", evidence=reasons, hint="change it in the file"
        ) from error


def not_taken_over(service: Service, spec: ContainerSpec) -> tuple[str, ...]:
    """What a service sets and its rendered container does not, such as ``option --task=score``."""
    return (*_other_settings(service, spec), *_other_connections(service, spec))


def _other_settings(service: Service, spec: ContainerSpec) -> Iterator[str]:
    if service.name != spec.name:
        yield f"service name {service.name}: the host name is {spec.name}"
    if not service.served.model:
        yield f"model {service.served.path or '(not named)'}: {spec.mounts[0].source} is served"
    options = parse_options([Word(text, text, 0) for text in spec.command])
    equal = {"", "--model"} | {f"{option.name}={option.value}" for option in options}
    for option in service.command.options:
        setting = f"{option.name}={'(variable)' if option.value is None else option.value}"
        if not equal & {option.name, setting}:
            yield f"option {setting.rstrip('=')}"
    for name, node in service.environment.items():
        if (name, node.text) not in spec.environment:
            yield f"environment variable {name}"
    rendered = _service(spec)
    compared = {"command", "entrypoint", "environment", "volumes", "tmpfs", "ports", "networks"}
    for key, node in service.node.mapping.items():
        if node.value is not None and key not in compared and str(rendered.get(key)) != node.text:
            yield f"key {key}"


def _other_connections(service: Service, spec: ContainerSpec) -> Iterator[str]:
    for mount in service.mounts:
        if mount != service.served.mount or not service.served.model:
            yield f"mount {mount.source or mount.kind}:{mount.target}"
    for port in service.ports:
        if port.published not in {str(published) for _, published, _ in spec.publish}:
            yield f"port {port.published or '(variable)'}:{port.target}"
    for network in service.networks:
        if network.name != spec.network:
            yield f"network {network.name}"
        yield from (f"network alias {alias}" for alias in network.aliases if alias != spec.name)


def to_yaml(document: dict[str, Any]) -> str:
    """A document as YAML; the keys keep their order."""
    return str(yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=4096, allow_unicode=True))


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Quotes every text that a YAML reader could take for a number, and repeats values without anchors."""

    def ignore_aliases(self, _: Any) -> bool:
        return True


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style=None if re.match("[A-Za-z/]", text) else '"'
    ),
)


def to_comments(lines: Iterable[str]) -> str:
    """Lines as comments."""
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def escape_variables(value: Any) -> Any:
    """The value with doubled dollar signs, so that compose substitutes no variables."""
    if isinstance(value, dict):
        return {key: escape_variables(item) for key, item in value.items()}
    if isinstance(value, list):
        return [escape_variables(item) for item in value]
    return value.replace("$", "$$") if isinstance(value, str) else value


def _service(spec: ContainerSpec) -> dict[str, Any]:
    limits = {"mem_limit": spec.memory, "memswap_limit": spec.memory, "shm_size": spec.shm_size}
    fields = {
        "image": spec.image,
        "pull_policy": "never",
        "container_name": spec.name,
        "entrypoint": list(spec.entrypoint),
        "command": list(spec.command),
        "environment": dict(spec.environment),
        "networks": [NETWORK],
        "ports": [f"{f'[{ip}]' if ':' in ip else ip}:{host}:{port}" for ip, host, port in spec.publish],
        "volumes": [_mount(mount) for mount in spec.mounts],
        "tmpfs": [f"{path}:{options}" for path, options in spec.tmpfs],
        "cpuset": spec.cpuset_cpus,
        **{name: str(size) for name, size in limits.items() if size},
        "pids_limit": spec.pids_limit,
        "restart": spec.restart,
        "healthcheck": _health(spec.health) if spec.health else None,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "read_only": spec.read_only,
        "init": spec.init,
        "user": spec.user,
        "stop_signal": spec.stop_signal,
        "logging": {"driver": "json-file", "options": LOG_OPTIONS},
        "labels": spec.all_labels(),
    }
    return {name: escape_variables(value) for name, value in fields.items() if value}


def _mount(mount: Mount) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": mount.kind, "source": mount.source, "target": mount.target}
    if mount.read_only:
        entry["read_only"] = True
    if mount.kind == "bind":
        entry["bind"] = {"create_host_path": False}  # a missing folder is an error
    return entry


def _health(check: HealthCheck) -> dict[str, Any]:
    times = {name: f"{getattr(check, name)}s" for name in ("interval", "timeout", "start_period")}
    return {"test": ["CMD", *check.command], **times, "retries": check.retries}
