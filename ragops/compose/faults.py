"""Rules that find the faults of a vLLM reranker in a compose file, each with its reason and its fix; pure.

:data:`RULES` names the faults, :func:`find_faults` finds them. Each checking function gets a :class:`Case`.
Reasons were read in the source of vLLM 0.32, or measured with it. The recommended values come from
``ragops.reranker``, so they are those that ``ragops up`` uses.
"""

from __future__ import annotations

import ipaddress
import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ragops.compose.reading import OVERRIDES_VARIABLE
from ragops.configuration import Stack
from ragops.errors import StackError
from ragops.reranker import architectures, sizing
from ragops.reranker.host import format_cpu_list
from ragops.reranker.sizing import GIB, MIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ragops.compose.reading import NetworkConnection, Service
    from ragops.reranker.architectures import Architecture
    from ragops.reranker.host import Host

RAGFLOW_NETWORK = "docker_ragflow"
"""The network of a RAGFlow that was started from its own folder."""

RULES = {
    "hf-overrides-env": "overrides in a variable that vLLM does not read",
    "hf-overrides-missing": "Qwen3-Reranker without overrides",
    "hf-overrides-broken": "overrides that are not JSON after quoting, or lack a key",
    "task-removed": "--task, which vLLM removed",
    "runner-missing": "no --runner pooling",
    "template-missing": "Qwen3-Reranker without its prompt",
    "dtype-slow": "a data type that is slow on this machine's processor",
    "model-name-slash": "a path as the served name",
    "model-name-split": "a served name that RAGFlow splits",
    "trust-remote-code": "Python code of the model folder is run",
    "kv-cache-unset": "no size of the key-value cache",
    "kv-cache-broken": "a size of the key-value cache that is not a whole number",
    "kv-cache-small": "a key-value cache that is too small for a long document",
    "max-model-len-unset": "no limit for the longest input",
    "max-model-len-large": "a longer input than the model takes",
    "block-size": "a block size with which vLLM ends",
    "model-positional": "a positional model that the entry point may ignore",
    "model-not-mounted": "no volume with the model's path",
    "host-loopback": "a server that only its own container reaches",
    "threads-all": "a thread binding with which vLLM does not start",
    "cpu-quota": "a CPU quota instead of a CPU set",
    "port-exposed": "a port that other machines reach",
    "port-mismatch": "a published port without a server",
    "route-moves": "a network that takes RAGFlow's default route",
    "healthcheck-missing": "no healthcheck",
    "shm-small": "too little shared memory to start",
    "restart-loop": "endless restarts of a server that can't start",
    "image-unpinned": "an image whose name may mean another version later",
}
"""Summary of each fault by its stable code; the table of the documentation is generated from it."""

_STACK = Stack()
_NETWORK = _STACK.network.name
_UNITS = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?", re.IGNORECASE)
_SHM_NEEDED = 512 * MIB  # two ring buffers of 160 and 240 MiB, and a reserve
_QUOTAS = (("deploy", "resources", "limits", "cpus"), ("cpus",), ("cpu_quota",))
_MOVING_TAG = re.compile(r"(latest|nightly|main|dev|edge|stable)([-_.].*)?")
_COSINE = "the scores are then cosine similarities of separate embeddings, which are meaningless"
_DTYPE_ALIASES = {"half": "float16", "float": "float32", "": "auto"}


@dataclass(frozen=True)
class Finding:
    """A fault of one service at one line."""

    severity: Literal["error", "warning"]
    """``error``: the server does not start or its scores are wrong; ``warning``: slower or less safe."""
    line: int
    message: str
    fix: str
    code: str
    """Key of :data:`RULES`."""
    service: str
    file: str = ""


@dataclass(frozen=True)
class Case:
    """One reranker on one host, the input of a rule, and the values that the rules recommend."""

    service: Service
    host: Host

    @property
    def known(self) -> Architecture | None:
        """What the model's kind needs from vLLM; None if the kind is unknown."""
        kind = self.service.served.kind
        return architectures.by_kind(kind) if kind else None

    @property
    def overrides(self) -> str:
        """Value of ``--hf-overrides`` for the model's kind; empty if it needs none."""
        return self.known.hf_overrides if self.known else ""

    @property
    def causal(self) -> bool:
        """Whether the model has a key-value cache; a model of unknown kind may have one."""
        return self.known is None or self.known.causal

    @property
    def dtype(self) -> str:
        """The fastest data type on the host's processor."""
        return sizing.dtype(_STACK, self.host)

    @property
    def max_len(self) -> int:
        """``--max-model-len`` of the file, else the default, at most the model's maximum."""
        length = parse_size(self.service.command.value("--max-model-len")) or sizing.DEFAULT_LENGTH
        model = self.service.served.model
        return min(length, (model.max_tokens if model else None) or length)

    @property
    def kv_need(self) -> int:
        """Bytes of key-value cache for one document of the greatest length."""
        small = "0.6b" in f"{self.service.served.name} {self.service.served.path}".lower()
        per_token = (112 if small else 144) * 1024 * (2 if self.dtype == "float32" else 1)
        return per_token * self.max_len if self.causal else 0

    @property
    def kv_option(self) -> str:
        """The recommended key-value cache: whole GiB, at least two; 64 MiB for an encoder."""
        size = max(2, math.ceil(self.kv_need / GIB)) * GIB if self.causal else 64 * MIB
        return f"--kv-cache-memory-bytes {size}"

    @property
    def name_option(self) -> str:
        """The recommended served name, which RAGFlow and URLs take unchanged."""
        name = self.service.served.name or self.service.name
        slug = re.sub(r"[^a-z0-9._-]+|_{3,}", "-", name.lower()).strip("-._")
        return f"--served-model-name {slug or 'reranker'}"

    @property
    def cpuset(self) -> str:
        """The recommended CPU list; empty if the host's cores are unknown."""
        try:
            return format_cpu_list(core.cpu for core in sizing.cores(_STACK, self.host))
        except StackError:
            return ""

    def error(self, code: str, line: int, message: str, fix: str) -> Finding:
        """A fault with which the server does not start, or its scores are wrong."""
        return Finding("error", line, message, fix, code, self.service.name)

    def warning(self, code: str, line: int, message: str, fix: str) -> Finding:
        """A fault with which the server is slower or less safe."""
        return Finding("warning", line, message, fix, code, self.service.name)


def find_faults(rerankers: tuple[Service, ...], host: Host) -> tuple[Finding, ...]:
    """All faults of a file's rerankers on a host, in the order of their lines."""
    cases = [Case(service, host) for service in rerankers]
    findings = [finding for case in cases for check in _CHECKS for finding in check(case)]
    return tuple(sorted(findings, key=lambda finding: (finding.line, finding.service)))


def parse_size(text: str) -> int | None:
    """Bytes or tokens from ``4g``, ``512mb`` or ``8192``; None for anything else."""
    match = _SIZE.fullmatch(text.strip())
    return int(float(match[1]) * 1024 ** _UNITS[match[2].lower()]) if match else None


def takes_default_route(network: NetworkConnection) -> bool:
    """Whether RAGFlow's default route moves to the network when RAGFlow is connected to it."""
    shared = network.shared and not network.internal
    return shared and network.name is not None and network.name < RAGFLOW_NETWORK


def _overrides(case: Case) -> Iterator[Finding]:
    command, kind = case.service.command, case.service.served.kind
    option = command.get("--hf-overrides")
    variables = [
        (name, node) for name, node in case.service.environment.items() if OVERRIDES_VARIABLE.fullmatch(name)
    ]
    for name, node in variables:
        effect = f"; {_COSINE}" if kind == "qwen3-reranker" and not option else ""
        value = case.overrides or ("{...}" if kind is None else "")
        fix = f"use the option: --hf-overrides '{value}'" if value else "remove it"
        message = f"vLLM reads no variable {name}, so its value has no effect{effect}"
        report = case.error if kind in {"qwen3-reranker", None} and not option else case.warning
        yield report("hf-overrides-env", node.line, message, fix)
    present = any(row.name.startswith("--hf-overrides") for row in command.options)
    if case.overrides and command.complete and not present and not variables:
        message = f"without --hf-overrides Qwen3-Reranker is a language model without a score; {_COSINE}"
        fix = f"--hf-overrides '{case.overrides}'"
        yield case.error("hf-overrides-missing", case.service.command_line, message, fix)


def _overrides_value(case: Case) -> Iterator[Finding]:
    option = case.service.command.get("--hf-overrides")
    if option is None or option.value is None:
        return
    try:
        overrides = json.loads(option.value)
    except ValueError:
        overrides = None
    if not isinstance(overrides, dict):
        message = f"the value of --hf-overrides that vLLM gets is not JSON: {option.value[:60]}"
        fix = f"quote it for YAML: '--hf-overrides={case.overrides or '{...}'}' as an element of a list"
        yield case.error("hf-overrides-broken", option.line, message, fix)
        return
    needed = json.loads(case.overrides or "{}")
    wrong = [key for key, value in needed.items() if overrides.get(key) != value]
    if wrong:
        message = f"--hf-overrides lacks the right value of {', '.join(wrong)}; {_COSINE}"
        fix = f"--hf-overrides '{case.overrides}'"
        yield case.error("hf-overrides-broken", option.line, message, fix)


def _task(case: Case) -> Iterator[Finding]:
    command = case.service.command
    if option := command.get("--task"):
        message = f"vLLM removed --task {option.value or ''} in 0.13 and ends with 'unrecognized arguments'"
        yield case.error("task-removed", option.line, message, "replace it with --runner pooling")
    option = command.get("--runner")
    value = option.value if option else "auto"
    if value == "pooling" or value is None or (option is None and not command.complete):
        return
    if value == "auto" and command.value("--convert") in {"classify", "embed"}:
        return
    message = "without --runner pooling the model may start as a chat model, without a rerank route"
    line = option.line if option else case.service.command_line
    wrong = value != "auto" or case.service.served.kind == "qwen3-reranker"
    yield (case.error if wrong else case.warning)("runner-missing", line, message, "--runner pooling")


def _template(case: Case) -> Iterator[Finding]:
    command = case.service.command
    if case.known and case.known.template and command.complete and not command.get("--chat-template"):
        message = "without --chat-template the model lacks the prompt of its training: the order is random"
        fix = "--chat-template with Qwen3-Reranker's prompt"
        yield case.error("template-missing", case.service.command_line, message, fix)


def _dtype(case: Case) -> Iterator[Finding]:
    service = case.service
    option = service.command.get("--dtype")
    value = option.value if option else "auto"
    if service.gpu or value is None or (option is None and not service.command.complete):
        return
    dtype, auto = _DTYPE_ALIASES.get(value, value), ""
    if dtype == "auto":
        stored = "bfloat16" if case.causal else "float16"  # encoders are published as float32
        dtype = stored if case.known else case.dtype
        auto = " (--dtype auto for this model)"
    if dtype != case.dtype:
        message = f"{dtype}{auto} is slow on this processor; {case.dtype} is faster"
        if case.dtype == "bfloat16":
            message += f": {5.7 if dtype == 'float32' else 2.5} times, measured with AMX"
        line = option.line if option else service.command_line
        yield case.warning("dtype-slow", line, message, f"--dtype {case.dtype}")


def _served_name(case: Case) -> Iterator[Finding]:
    name, line = case.service.served_name
    if "/" in name:
        message = f"in RAGFlow the model must have the same name, {name}, with its slashes"
        yield case.warning("model-name-slash", line, message, case.name_option)
    if "___" in name or "@" in name:
        message = f"RAGFlow splits model names at '___' and '@', so it requests another model than {name}"
        yield case.error("model-name-split", line, message, case.name_option)


def _key_value_cache(case: Case) -> Iterator[Finding]:
    service, command = case.service, case.service.command
    option = command.get("--kv-cache-memory-bytes")
    node = service.environment.get("VLLM_CPU_KVCACHE_SPACE")
    if node and node.text and not node.text.strip().isdigit():
        message = f"VLLM_CPU_KVCACHE_SPACE is in whole GiB; vLLM does not start with {node.text}"
        yield case.error("kv-cache-broken", node.line, message, f"replace it with {case.kv_option}")
    if service.gpu or not command.complete:
        return
    size, line = None, service.line
    if option:
        size, line = parse_size(option.value or ""), option.line
    elif node:
        size, line = parse_size(f"{node.text or ''}g"), node.line
    elif not command.get("--gpu-memory-utilization") and service.environment_complete:
        message = "without a size vLLM takes 92 % of the memory for its key-value cache"
        yield case.warning("kv-cache-unset", service.command_line, message, case.kv_option)
    if size and case.known and size < case.kv_need:
        needs = f"a document of {case.max_len} tokens needs {case.kv_need / GIB:.2f} GiB of key-value cache"
        message = f"{needs}, but the cache has {size / GIB:.2f} GiB: vLLM does not start"
        yield case.error("kv-cache-small", line, message, f"{case.kv_option}, or a smaller length")


def _length(case: Case) -> Iterator[Finding]:
    command, model = case.service.command, case.service.served.model
    option = command.get("--max-model-len")
    if option is None:
        if case.known and case.causal and command.complete:
            message = "without --max-model-len Qwen3-Reranker reserves 40960 tokens: 4.4 GiB for one document"
            fix = f"--max-model-len {case.max_len}"
            yield case.warning("max-model-len-unset", case.service.command_line, message, fix)
        return
    length, limit = parse_size(option.value or ""), model.max_tokens if model else None
    if limit and length and length > limit:
        message = f"the model takes at most {limit} tokens; vLLM does not start with {length}"
        yield case.error("max-model-len-large", option.line, message, f"--max-model-len {limit}")


def _other_options(case: Case) -> Iterator[Finding]:
    command = case.service.command
    if option := command.get("--trust-remote-code"):
        reason = "vLLM supports this model without it" if case.known else "few models need it"
        message = f"--trust-remote-code runs any Python code in the model folder; {reason}"
        yield case.warning("trust-remote-code", option.line, message, "remove it")
    option = command.get("--block-size")
    size = parse_size(option.value or "") if option else None
    if option and size and size % 32 and not case.service.gpu:
        message = f"with --block-size {size} vLLM ends at the first request; multiples of 32 work"
        yield case.error("block-size", option.line, message, "--block-size 32")
    option = command.get("--host")
    if option and (option.value or "").startswith(("127.", "localhost", "::1")):
        message = f"--host {option.value} is the container's own loopback: no other container reaches it"
        fix = "remove it; ports: defines what the host publishes"
        yield case.error("host-loopback", option.line, message, fix)
    node = case.service.environment.get("VLLM_CPU_OMP_THREADS_BIND")
    if node and node.text == "all":
        message = "VLLM_CPU_OMP_THREADS_BIND takes a CPU list, auto or nobind; vLLM does not start with all"
        fix = f"VLLM_CPU_OMP_THREADS_BIND={case.cpuset or 'auto'}"
        yield case.error("threads-all", node.line, message, fix)


def _model(case: Case) -> Iterator[Finding]:
    service, served = case.service, case.service.served
    argument, module = service.command.get(""), service.command.entry == "module"
    unclear = service.command.entry == "image" and "vllm/vllm-openai" not in service.text("image")
    if argument and not service.command.get("--model") and (module or (unclear and not service.inherits)):
        program = "this entry point" if module else "the API server's module, if the image starts it,"
        message = f"{program} takes no positional model: it would serve vLLM's default model"
        fix = f"--model {argument.value}, and an entrypoint in the file"
        yield (case.error if module else case.warning)("model-positional", argument.line, message, fix)
    if served.missing and not service.inherits:
        message = f"no volume has {served.path}; if the image lacks it too, vLLM requests it from a model hub"
        fix = f"a volume: /folder/with/the/weights:{served.path}:ro"
        yield case.warning("model-not-mounted", served.line, message, fix)


def _cpu_quota(case: Case) -> Iterator[Finding]:
    for keys in _QUOTAS:
        node = case.service.node.get(*keys)
        if node and not case.service.gpu:
            message = "vLLM starts one thread per visible CPU; a quota pauses all of them while they compute"
            cpuset = case.service.text("cpuset") or case.cpuset or "0-3"
            yield case.warning("cpu-quota", node.line, message, f'replace it with cpuset: "{cpuset}"')


def _ports(case: Case) -> Iterator[Finding]:
    listening = case.service.listening_port
    for port in case.service.ports:
        if port.address is not None and not _is_loopback(port.address):
            effect = "other machines reach it despite a firewall, without a password"
            message = f"published on {port.address or 'all addresses'}: {effect}"
            fix = "publish it on 127.0.0.1; RAGFlow needs no port"
            yield case.warning("port-exposed", port.line, message, fix)
        if listening and port.target and port.target.isdigit() and port.target != listening:
            message = f"the container port is {port.target}, but vLLM listens on {listening}"
            yield case.warning("port-mismatch", port.line, message, f"use the container port {listening}")
    mode = case.service.node.get("network_mode")
    if mode and mode.text == "host":
        message = "with network_mode: host it listens on all addresses, and RAGFlow can't use its name"
        fix = f"networks: [{_NETWORK}], and the port on 127.0.0.1"
        yield case.warning("port-exposed", mode.line, message, fix)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _networks(case: Case) -> Iterator[Finding]:
    for network in case.service.networks:
        if takes_default_route(network):
            effect = "RAGFlow's default route moves to it when RAGFlow is connected: open connections break"
            message = f"{network.name} sorts before {RAGFLOW_NETWORK}, so {effect}"
            fix = f"a name that sorts after it, such as {_NETWORK}: docker network create {_NETWORK}"
            yield case.warning("route-moves", network.line, message, fix)


def _shared_memory(case: Case) -> Iterator[Finding]:
    service = case.service
    node = service.node.get("shm_size")
    size = parse_size(service.text("shm_size")) if node else 64 * MIB
    for mount in service.mounts:
        if mount.target == "/dev/shm":  # noqa: S108 - a mount's target
            size = parse_size(mount.size or "") if mount.kind == "tmpfs" else None
            break
    shared = service.text("ipc") not in {"", "private", "shareable"}
    inherited = node is None and service.inherits
    if size is not None and size < _SHM_NEEDED and not (service.gpu or shared or inherited):
        message = f"vLLM needs 400 MiB in /dev/shm and does not start with {size // MIB} MiB"
        yield case.error("shm-small", (node or service).line, message, "shm_size: 1gb")


def _restarts(case: Case) -> Iterator[Finding]:
    service = case.service
    node = service.node.get("healthcheck")
    if (node is None and not service.inherits) or service.node.flag("healthcheck", "disable"):
        message = "without a healthcheck nothing shows when the model is loaded or that vLLM has failed"
        fix = "a healthcheck that requests /health, with start_period: 600s"
        yield case.warning("healthcheck-missing", (node or service).line, message, fix)
    policy = service.node.get("deploy", "restart_policy")
    node = service.node.get("restart") or policy
    endless = service.text("restart") in {"always", "unless-stopped", "on-failure"}
    if policy and not policy.get("max_attempts"):
        endless |= service.text("deploy", "restart_policy", "condition") in {"", "any", "on-failure"}
    if node and endless:
        message = "a server that can't start is restarted without end, each time with full load"
        yield case.warning("restart-loop", node.line, message, "restart: on-failure:5")


def _image(case: Case) -> Iterator[Finding]:
    node, image = case.service.node.get("image"), case.service.text("image")
    if not image or node is None or case.service.node.get("build") or "@sha256:" in image:
        return
    name, _, tag = image.rpartition("/")[2].partition(":")
    if not tag or _MOVING_TAG.fullmatch(tag):
        message = f"{image} may be another vLLM after the next pull or build, with other options and scores"
        fix = f"name a release, such as {name}:0.32.0 after docker tag, or a digest"
        yield case.warning("image-unpinned", node.line, message, fix)


_CHECKS = (
    *(_overrides, _overrides_value, _task, _template, _dtype, _served_name, _key_value_cache, _length),
    *(_other_options, _model, _cpu_quota, _ports, _networks, _shared_memory, _restarts, _image),
)
