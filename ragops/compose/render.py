"""A reranker's container as a compose file; pure.

:func:`reranker` renders the same :class:`~ragops.docker.objects.ContainerSpec` that ``ragops up`` starts
through Docker's API. :func:`take_over` and :func:`corrected` are for ``ragops check --fix``, which renders
the reranker of an existing compose file.
"""

import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from ragops.compose.faults import parse_size, takes_default_route
from ragops.compose.reading import Service
from ragops.compose.syntax import CommandLine, Word, YamlNode, as_map, parse_options, split_words
from ragops.configuration import Stack
from ragops.docker.objects import LABEL, LOG_OPTIONS, ContainerSpec, HealthCheck, Mount, NetworkSpec
from ragops.docker.swarm import ServiceSpec
from ragops.errors import ComposeError, file_errors

NETWORK = "ragops"
"""Key of the network in compose files; its name on the Docker engine is that of the configuration."""

_SECRET = re.compile(
    r"(?i)token|secret|passw|credential|(^|[-_])(key|pass|pwd|pat)$|(api|access|auth|private)[-_]?key"
)
_LOGIN = re.compile(r"://[^/\s@]*:[^/\s@]+@|(?i:authorization|password)\s*[=:]")
_VARIABLE = re.compile(r"(?<!\$)\$\{?([A-Za-z_]\w*)")
# Variables of the same settings as ragops' options, and of the network, which the reranker does not need.
_COMPUTED = re.compile(
    r"(?i)(VLLM|OMP|KMP|MKL|LD|CUDA|NVIDIA|TORCH\w*|HF|TRANSFORMERS)_|(https?|no|all)_proxy$"
)
_PROGRAM = re.compile(r"(^|/)(vllm|python[\d.]*)$")
_TAKEN = {"dns", "dns_search", "domainname", "extra_hosts", "hostname", "profiles", "restart", "ulimits"}
_SEPARATE = {"command", "entrypoint", "environment", "volumes", "tmpfs", "ports", "networks"}


def reranker(specs: Sequence[ContainerSpec], network: NetworkSpec) -> str:
    """The compose file that starts the containers of ``ragops up``: vLLM's, and the gateway's before them.

    The key of a service is the container's name, because compose adds that key to the container's network
    aliases.
    """
    header = _header(specs, network)
    if specs[0].role == "gateway":
        header.append("After the first start: ragops up; the gateway admits replicas by its score check")
    return to_comments(header) + to_yaml(_document(specs, network))


def _document(specs: Sequence[ContainerSpec], network: NetworkSpec) -> dict[str, Any]:
    named = [mount.source for spec in specs for mount in spec.mounts if mount.kind == "volume"]
    document: dict[str, Any] = {
        "services": {spec.name: _service(spec) for spec in specs},
        "networks": {NETWORK: {"name": network.name, "external": True}},
    }
    if named:
        document["volumes"] = {name: {"name": name, "labels": {LABEL: "cache"}} for name in named}
    return document


def stack_file(services: Sequence[ServiceSpec], files: Mapping[str, Path], network: NetworkSpec) -> str:
    """The file for ``docker stack deploy`` of these services; ``files`` are of their configs, by name."""
    images = dict.fromkeys(spec.container.image_id or spec.container.image for spec in services)
    header = [
        "The services of ragops scale --swarm, the gateway as one of them; rendered by: ragops compose stack",
        "Use either this file or ragops scale --swarm. On a manager of the Swarm:",
        "docker stack deploy --resolve-image never --compose-file FILE ragops",
        *(f"Each node needs the image {image}, and the folders at the same path" for image in images),
        *(f"Missing: {file}, which ragops up writes" for file in files.values() if not file.exists()),
    ]
    own = {"driver": network.driver, "attachable": True, "internal": network.internal}
    options = {"driver_opts": {"encrypted": "true"}} if network.encrypted else {}
    volumes = {mount.source for spec in services for mount in spec.container.mounts if mount.kind == "volume"}
    document = {
        "version": "3.9",
        "services": {spec.name: _placed(spec) for spec in services},
        "networks": {NETWORK: {"name": network.name, **own, **options, "labels": {LABEL: "network"}}},
        "volumes": {name: {"name": name, "labels": {LABEL: "cache"}} for name in sorted(volumes)},
        "configs": {name: {"name": name, "file": str(file)} for name, file in files.items()},
    }
    return to_comments(header) + to_yaml(document)


def _placed(spec: ServiceSpec) -> dict[str, Any]:
    """A service of Swarm, from the body that the Engine API gets."""
    body, size = spec.body(dict(spec.configs)), spec.container.memory
    task, memory = body["TaskTemplate"], {"memory": str(size)} if size else {}
    container = task["ContainerSpec"]
    fields = {
        "image": container["Image"],
        **_process(spec.container),
        "environment": container["Env"],
        "networks": {NETWORK: {"aliases": list(spec.container.aliases)}},
        "volumes": [_placed_mount(mount) for mount in container["Mounts"]],
        "configs": [
            {"source": item["ConfigName"], "target": item["File"]["Name"], "mode": item["File"]["Mode"]}
            for item in container["Configs"]
        ],
        "labels": container["Labels"],
        "deploy": {
            "replicas": spec.replicas,
            "endpoint_mode": body["EndpointSpec"]["Mode"],
            "labels": body["Labels"],
            "placement": {
                "max_replicas_per_node": task["Placement"]["MaxReplicas"],
                "constraints": task["Placement"]["Constraints"],
            },
            "resources": {"limits": {**memory, "pids": spec.container.pids_limit}, "reservations": memory},
            "restart_policy": {"condition": task["RestartPolicy"]["Condition"]},
            "update_config": _update(body["UpdateConfig"]),
            "rollback_config": _update(body["RollbackConfig"]),
        },
    }
    return {name: escape_variables(value) for name, value in fields.items() if value}


def _placed_mount(mount: Mapping[str, Any]) -> dict[str, Any]:
    entry = {"type": mount["Type"], "target": mount["Target"]}
    if mount["Type"] == "tmpfs":
        return {**entry, "tmpfs": {"size": mount["TmpfsOptions"]["SizeBytes"]}}  # the mode is 1777 anyway
    return {**entry, "source": mount["Source"], **({"read_only": True} if mount["ReadOnly"] else {})}


def _update(config: Mapping[str, Any]) -> dict[str, Any]:
    """How Swarm updates the tasks: keys and durations as compose files have them."""
    durations = {key: f"{config[key] // 10**9}s" for key in ("Delay", "Monitor")}
    rows = {**config, **durations}.items()
    return {re.sub("(?<=.)(?=[A-Z])", "_", key).lower(): value for key, value in rows}


def _header(specs: Sequence[ContainerSpec], network: NetworkSpec) -> list[str]:
    images = dict.fromkeys(spec.image for spec in specs)
    header = [
        "The reranker as ragops up starts it on this machine; rendered by: ragops compose reranker",
        "Use either this file or ragops up; before this file: ragops down",
        f"Once before the first start: {shlex.join(network.command())}",
        *(f"The image {image} comes from: ragops image" for image in images),
    ]
    left_out = (f"--cpuset-mems {spec.cpuset_mems} of {spec.name}" for spec in specs if spec.cpuset_mems)
    return [*header, *(f"Left out, because compose has no key for it: {option}" for option in left_out)]


def take_over(service: Service, stack: Stack) -> Stack:
    """The configuration with names, model folder, published port and network of a service, without a gateway.

    A value that is missing, has an undefined variable or has a fault stays that of the configuration; one
    that is not allowed in ``ragops.toml`` is an error.
    """
    container, changes = service.text("container_name"), dict[str, Any]()
    if container or len(service.name) > 1:  # Docker refuses a container name of one letter
        changes["name"] = container or service.name
    name = service.command.value("--served-model-name")
    if name and not re.search("/|___|@", name):
        changes["served_name"] = name
    if service.served.model:
        changes["model"] = service.served.model.folder
    if not service.ports:
        changes["port"] = False
    ports = [port.published or "" for port in service.ports if port.target == service.listening_port]
    if numbers := [port for port in ports if re.fullmatch("[0-9]{1,5}", port)]:
        changes["port"] = int(numbers[0])
    tables = stack.model_dump(exclude_unset=True) | {"gateway": False}  # sizes depend on what is set
    tables["reranker"] = tables.get("reranker", {}) | changes
    tables["reranker"].pop("replicas", None)
    for network in service.networks:
        if network.shared and network.name and not takes_default_route(network):
            tables["network"] = tables.get("network", {}) | {"name": network.name}
            break
    message, hint = f"{service.name} has a value that ragops does not accept", "change it in the file"
    file = Path(service.node.source.name)
    with file_errors(ComposeError, message, file, code="compose-value-refused", hint=hint):
        return Stack.model_validate(tables)


def corrected(
    service: Service, root: YamlNode, spec: ContainerSpec, network: NetworkSpec, absent: Collection[str]
) -> tuple[str, tuple[str, ...]]:
    """The compose file of a project with this service as ragops starts it, and what is not taken over.

    ``spec`` is from the configuration that :func:`take_over` returns; ``absent`` are sources of volumes
    that are not on this machine.
    """
    document = _document([spec], network)
    if name := root.scalar("name"):
        document = {"name": name, **document}
    rendered = document["services"].pop(spec.name)
    document["services"][service.name] = rendered
    published = {str(port) for _, port, _ in spec.publish}
    left_out = (
        *_command_differences(service, spec),
        *_take_variables(service, rendered["environment"]),
        *_take_mounts(service, root, document, absent),
        *_take_networks(service, root, document, rendered, network.name),
        *(
            f"port {port.published or '(any)'}:{port.target}"
            for port in service.ports
            if port.published not in published
        ),
        *_take_keys(service, rendered),
    )
    title = f"The reranker {service.name} as ragops starts it, in place of that service of {root.source.name}"
    return to_comments([title, *_header([spec], network)[1:]]) + to_yaml(document), left_out


def _command_differences(service: Service, spec: ContainerSpec) -> Iterator[str]:
    own = CommandLine("module", parse_options([Word(text, text, 0) for text in spec.command]), complete=True)
    name, own_name = service.served_name[0], own.value("--served-model-name")
    if not service.served.model:
        yield f"model {service.served.path or '(not named)'}: {spec.mounts[0].source} is served"
    if name != own_name:
        yield f"served name {name or '(not known)'}: in RAGFlow, the model is then {own_name}"
    passed = [word.written for word in service.command.words]
    if "--served-model-name" in passed:
        further = passed[passed.index("--served-model-name") + 2 :]
        yield from (f"served name {name}" for name in takewhile(lambda word: word[:1] != "-", further))
    nodes = [node for key in ("entrypoint", "command") if (node := service.node.get(key))]
    program = split_words(nodes[0])[:1]
    if service.command.entry != "image" and program and not _PROGRAM.search(program[0].written):
        yield f"program {program[0].written}"
    equal = {"--model", "--served-model-name"} | {f"{option.name}={option.value}" for option in own.options}
    for option in service.command.options:
        hidden = option.value is None or _SECRET.search(option.name) or _LOGIN.search(option.value)
        setting = "".join(option.name.split()[:1]) if hidden else f"{option.name}={option.value}".strip("=")
        if not equal & {option.name, setting} and option.value != service.served.path:
            yield f"option {setting or '(empty)'}"
    if any(word.written.startswith("#") for word in service.command.words):
        yield "words after # in the command"
    written = " ".join(item.written for node in nodes for item in node.listed)
    yield from (f"variable {name} of the command" for name in dict.fromkeys(_VARIABLE.findall(written)))


def _take_variables(service: Service, environment: dict[str, Any]) -> Iterator[str]:
    """Variables as they are written; secrets by their name only, and none that ragops or a finding sets."""
    for name, node in as_map(service.node.at("environment")).mapping.items():
        if name in environment or (_COMPUTED.match(name) and not _SECRET.search(name)):
            if environment.get(name) != node.text:
                yield f"environment variable {name}"
        elif (_SECRET.search(name) or _LOGIN.search(node.written)) and not re.fullmatch(
            r"\$\w+|\$\{\w+\}", node.written
        ):
            environment[name] = None
            if node.written:
                yield f"value of the environment variable {name}: set it where Compose is called, or in .env"
        else:
            environment[name] = _plain(node)


def _take_mounts(
    service: Service, root: YamlNode, document: dict[str, Any], absent: Collection[str]
) -> Iterator[str]:
    """Volumes with their definitions, but none in the place of ragops' own, and no absent folder."""
    definitions, rendered = root.at("volumes").mapping, document["services"][service.name]
    taken = {mount["target"] for mount in rendered["volumes"]} | {"/dev/shm", "/tmp"}  # noqa: S108
    for mount in service.mounts:
        if mount == service.served.mount and service.served.model:
            continue
        text = f"mount {mount.source or mount.kind}:{mount.target}"
        named = mount.source if mount.kind == "volume" else None
        defined = definitions.get(named or "")
        if mount.source is None or mount.target is None or mount.target in taken or (named and not defined):
            yield text
        elif mount.kind == "bind" and mount.source in absent:
            yield f"{text}: {mount.source} is not on this machine"
        elif defined and _SECRET.search(str(_plain(defined))):
            yield f"{text}: its definition has a secret"
        elif mount.kind == "tmpfs" and not mount.node.mapping:
            rendered["tmpfs"].append(_plain(mount.node))
        else:
            rendered["volumes"].append(_plain(mount.node))
            if named and defined:
                document.setdefault("volumes", {})[named] = _plain(defined) or {}


def _take_networks(
    service: Service, root: YamlNode, document: dict[str, Any], rendered: dict[str, Any], shared: str
) -> Iterator[str]:
    """Networks with their definitions; the shared one is ragops' own unless the file has it."""
    networks: dict[str, Any] = {}
    definitions, services = root.at("networks").mapping, root.at("services").mapping
    for network in service.networks:
        definition = definitions.get(network.key)
        if takes_default_route(network) or (definition is None and network.key != "default"):
            yield f"network {network.name}"
            yield from (f"network alias {alias}" for alias in network.aliases)
        elif definition or len(services) > 1:  # else nothing else is in the default network
            networks[network.key] = _plain(network.node) if network.node.mapping else {}
            if network.name == shared:
                document["networks"].pop(NETWORK, None)
            document["networks"][network.key] = (definition and _plain(definition)) or {}
    if NETWORK in document["networks"]:
        networks.setdefault(NETWORK, {})
    rendered["networks"] = networks


def _take_keys(service: Service, rendered: dict[str, Any]) -> Iterator[str]:
    for key, node in service.node.mapping.items():
        endless = key == "restart" and not re.fullmatch(r"no|on-failure:\d+", node.text or "")
        if node.value is None or key in _SEPARATE or key.startswith("x-"):
            continue
        if key == "labels":
            labels = {name: _plain(label) for name, label in as_map(node).mapping.items()}
            rendered[key] = labels | rendered[key]
        elif key in _TAKEN and not endless:
            rendered[key] = _plain(node)
        elif _as_bytes(node.text) != _as_bytes(rendered.get(key, "")):
            yield f"key {key}"


def _as_bytes(value: Any) -> Any:
    return parse_size(str(value)) or value


def _plain(node: YamlNode) -> Any:
    if isinstance(node.value, dict):
        return {key: _plain(value) for key, value in node.mapping.items()}
    return [_plain(item) for item in node.elements] if isinstance(node.value, list) else node.value


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
_Dumper.add_representer(type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", ""))


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


def _process(spec: ContainerSpec) -> dict[str, Any]:
    """What a service of Compose and one of Swarm have in common."""
    return {
        "entrypoint": list(spec.entrypoint),
        "command": list(spec.command),
        "healthcheck": _health(spec.health) if spec.health else None,
        "cap_drop": ["ALL"],
        "read_only": spec.read_only,
        "init": spec.init,
        "user": spec.user,
        "stop_signal": spec.stop_signal,
        "stop_grace_period": f"{spec.stop_timeout}s" if spec.stop_timeout else "",
        "logging": {"driver": "json-file", "options": LOG_OPTIONS},
    }


def _service(spec: ContainerSpec) -> dict[str, Any]:
    limits = {"mem_limit": spec.memory, "memswap_limit": spec.memory, "shm_size": spec.shm_size}
    fields = {
        "image": spec.image,
        "pull_policy": "never",
        "container_name": spec.name,
        **_process(spec),
        "environment": dict(spec.environment),
        "networks": {NETWORK: {"aliases": list(spec.aliases)}} if spec.aliases else [NETWORK],
        "ports": [f"{f'[{ip}]' if ':' in ip else ip}:{host}:{port}" for ip, host, port in spec.publish],
        "volumes": [_mount(mount) for mount in spec.mounts],
        "tmpfs": [f"{path}:{options}" for path, options in spec.tmpfs],
        "cpuset": spec.cpuset_cpus,
        **{name: str(size) for name, size in limits.items() if size},
        "pids_limit": spec.pids_limit,
        "restart": spec.restart,
        "security_opt": ["no-new-privileges"],
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
