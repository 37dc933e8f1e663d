"""Rules that find the faults of a vLLM reranker in a compose file, each with its reason and its fix; pure.

The faults with their texts are in ``data/compose_faults.tsv``; ``port-exposed/host`` is another form of
``port-exposed``. :func:`find_faults` finds them, each checking function gets a :class:`Case`. Reasons were
read in the source of vLLM 0.32, or measured with it. The recommended values come from ``ragops.reranker``,
so they are those that ``ragops up`` uses.
"""

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import zip_longest
from typing import Any, Literal

from ragops.compose.reading import OVERRIDES_VARIABLE, NetworkConnection, Service, architecture, mount_of
from ragops.compose.syntax import Word, YamlNode, split_words, takes_value, unset_variable
from ragops.configuration import Stack, is_loopback
from ragops.data import read_table
from ragops.errors import StackError
from ragops.reranker import architectures, options, sizing
from ragops.reranker.architectures import Architecture
from ragops.reranker.host import Host, format_cpu_list
from ragops.reranker.sizing import GIB, MIB

RAGFLOW_NETWORK = "docker_ragflow"
"""The network of a RAGFlow that was started from its own folder."""

_FAULTS = {row: columns for row, *columns in read_table("compose_faults.tsv")}
RULES = {row: columns[0] for row, columns in _FAULTS.items() if "/" not in row}
"""Summary of each fault by its stable code; the table of the documentation is generated from it."""

_STACK = Stack()
_CPU_IMAGE = "vllm/vllm-openai-cpu:v0.32.0"
_VALUES = {"cpu_image": _CPU_IMAGE, "network": _STACK.network.name, "ragflow_network": RAGFLOW_NETWORK}
_REPLACED_KEYS = {"device_requests": "gpus", "env": "environment", "memory": "mem_limit", "shm": "shm_size"}
_KEYS = json.loads(files("ragops").joinpath("data/compose_keys.json").read_text())["service"]
_VALUED = re.compile(
    r"--(api-key|convert|dtype|host|hf-overrides|model|port|runner|served-model-name|max-[\w-]+)"
)
_PROXY = re.compile(r"(https?|all)_proxy", re.IGNORECASE)
_LOOPBACK_URL = re.compile(r"(\w+://)?([^/@]*@)?(localhost|127\.[\d.]+|\[::1\])(:|/|$)")
_FILE_NAME = re.compile(r".+\.(jinja2?|json|ya?ml|toml|txt|sh|py|conf|pem|crt|key)")
_KV_PER_TOKEN = {"0.6": 112 << 10, "4": 144 << 10, "8": 144 << 10}
"""Bytes of keys and values in bfloat16 by the billions of parameters of a Qwen3-Reranker."""
_UNITS = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?", re.IGNORECASE)
_SHM_NEEDED = 512 * MIB  # two ring buffers of 160 and 240 MiB, and a reserve
_QUOTAS = (("deploy", "resources", "limits", "cpus"), ("cpus",), ("cpu_quota",))
_COSINE = "the scores are then cosine similarities of separate embeddings, which are meaningless"
_NO_ROUTE = "vLLM then starts a chat model without a rerank route (404)"
PathKind = Literal["file", "folder", "missing"]
# Equivalent in Qwen3's overrides: the first sets the second (vLLM's models/config.py).
_TWO_WAY = {"is_original_qwen3_reranker": True, "method": "from_2_way_softmax"}
_DTYPE_ALIASES = {"half": "float16", "float": "float32", "": "auto"}


@dataclass(frozen=True)
class Finding:
    """A fault of one service at one line."""

    severity: Literal["error", "warning"]
    """``error``: no start, unusable for RAGFlow, or wrong scores; ``warning``: slower or less safe."""
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
    kind_of: Callable[[str], PathKind | None]

    @property
    def official(self) -> bool:
        """Whether the image is one of vLLM's, unchanged, so that its entry point is known."""
        return self.service.image.official and not (self.service.node.get("build") or self.service.inherits)

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
    def kv_token(self) -> int | None:
        """Bytes of keys and values of a token; None if the model's size is not known."""
        served = self.service.served
        if served.model:
            return served.model.kv_bytes(self.dtype)
        size = re.search(r"(\d+(?:\.\d+)?)b(?![a-z])", f"{served.name} {served.path}".lower())
        per_token = _KV_PER_TOKEN.get(size[1]) if size and self.known else None
        return per_token and per_token * (2 if self.dtype == "float32" else 1)

    @property
    def kv_need(self) -> int:
        """Bytes of key-value cache for one document of the greatest length; 0 if they are not known."""
        return (self.kv_token or 0) * self.max_len if self.causal else 0

    @property
    def kv_option(self) -> str:
        """The recommended key-value cache: whole GiB, at least two; 64 MiB for an encoder."""
        size = max(2, math.ceil(self.kv_need / GIB)) * GIB if self.causal else 64 * MIB
        return f"--kv-cache-memory-bytes {size}"

    @property
    def name_option(self) -> str:
        """The recommended served name, which RAGFlow and URLs take unchanged."""
        return f"--served-model-name {options.slug(self.service.served.name or self.service.name)}"

    @property
    def cpuset(self) -> str:
        """The recommended CPU list; empty if the host's cores are unknown."""
        try:
            return format_cpu_list(core.cpu for core in sizing.cores(_STACK, self.host))
        except StackError:
            return ""

    def fault(self, row: str, line: int, *, warning: bool = False, **values: Any) -> Finding:
        """A row of the table with its values; ``warning`` if it is less severe here."""
        _, severity, *texts = _FAULTS[row]
        message, fix = (text.format(case=self, **_VALUES, **values) for text in texts)
        error = severity == "error" and not warning
        code = row.partition("/")[0]
        return Finding("error" if error else "warning", line, message, fix, code, self.service.name)


def find_faults(
    rerankers: tuple[Service, ...], host: Host, kind_of: Callable[[str], PathKind | None]
) -> tuple[Finding, ...]:
    """All faults of a file's rerankers on a host, in the order of their lines."""
    cases = [Case(service, host, kind_of) for service in rerankers]
    findings = [finding for case in cases for check in _CHECKS for finding in check(case)]
    return tuple(sorted(findings, key=lambda finding: (finding.line, finding.service)))


def parse_size(text: str) -> int | None:
    """Bytes or tokens from ``4g``, ``512mb`` or ``8192``; None for anything else."""
    match = _SIZE.fullmatch(text.strip())
    size = float(match[1]) * 1024 ** _UNITS[match[2].lower()] if match else math.inf
    return int(size) if size < math.inf else None


def takes_default_route(network: NetworkConnection) -> bool:
    """Whether RAGFlow's default route moves to the network when RAGFlow is connected to it."""
    shared = network.shared and not network.internal
    return shared and network.name is not None and network.name < RAGFLOW_NETWORK


def _overrides(case: Case) -> Iterator[Finding]:
    command, kind = case.service.command, case.service.served.kind
    option, line = command.get("--hf-overrides"), case.service.command_line
    present = any(row.name.startswith("--hf-overrides") for row in command.options)
    pooling = command.get("--task") or "pooling" in command.value("--runner")
    effect = _COSINE if pooling or command.value("--convert") == "embed" else _NO_ROUTE
    if case.overrides and not present and command.value("--convert") == "classify":
        yield case.fault("convert-alone", line)
        return
    environment = case.service.environment.items()
    variables = [(name, node) for name, node in environment if OVERRIDES_VARIABLE.fullmatch(name)]
    for name, node in variables:
        value = case.overrides or ("{...}" if kind is None else "")
        fix = f"use the option: --hf-overrides '{value}'" if value else "remove it"
        more = f"; {effect}" if case.overrides and not option else ""
        values = {"name": name, "effect": more, "fix": fix}
        yield case.fault("hf-overrides-env", node.line, warning=bool(option) or not value, **values)
    if case.overrides and command.complete and not present and not variables:
        runner = "" if command.get("--runner") else "--runner pooling "
        yield case.fault("hf-overrides-missing", line, effect=effect, runner=runner)


def _overrides_value(case: Case) -> Iterator[Finding]:
    option = case.service.command.get("--hf-overrides")
    if option is None or option.value is None:
        return
    try:
        overrides = json.loads(option.value)
    except (ValueError, RecursionError):
        overrides = None
    if not isinstance(overrides, dict):
        value, expected = option.value[:60], case.overrides or "{...}"
        yield case.fault("hf-overrides-broken/json", option.line, value=value, expected=expected)
        return
    needed = json.loads(case.overrides or "{}")
    if any(overrides.get(key) == value for key, value in _TWO_WAY.items()):
        overrides |= _TWO_WAY
    if wrong := [key for key, value in needed.items() if overrides.get(key) != value]:
        yield case.fault("hf-overrides-broken", option.line, keys=", ".join(wrong), cosine=_COSINE)


def _releases(case: Case) -> Iterator[Finding]:
    release = case.service.image.release
    for option in case.service.command.options:
        since, gone, replacement = options.RELEASES.get(option.name, ("", "", ""))
        fix = f"replace it with {replacement}" if replacement else "remove it"
        if gone and (release is None or release >= options.release(gone)):
            end = "and ends" if release else "after which an image ends"
            code = "task-removed" if option.name == "--task" else "option-removed"
            values = {"option": option, "gone": gone, "end": end, "fix": fix}
            yield case.fault(code, option.line, warning=not release, **values)
        elif since and release and release < options.release(since):
            yield case.fault("option-newer", option.line, since=since, option=option, fix=fix)


def _words(case: Case) -> Iterator[Finding]:
    command, before = case.service.command, ""
    variables = case.service.node.source.variables
    words: tuple[Word, ...] = command.words if command.entry != "other" else ()
    for word, after in zip_longest(words, words[1:]):
        text, joined = word.text, word.written.startswith("-")
        valued = takes_value(before) or joined
        if text is None and valued and (unset := unset_variable(word.written, variables)):
            effect = "its value is empty" if joined else f"vLLM ends if {before} has no value"
            yield case.fault("variable-unset", word.line, name=unset, effect=effect)
        elif text == "" and not valued and command.entry != "module":
            yield case.fault("argument-empty", word.line)
        elif text and re.match(r"--[\w-]+\s", text):
            yield case.fault("argument-joined", word.line, text=f"{text.split()[0]} ...")
        elif _VALUED.fullmatch(text or "") and (after is None or (after.text or "").startswith("--")):
            yield case.fault("option-value", word.line, text=text)
        elif text and text.startswith("#") and not takes_value(before):
            yield case.fault("comment-as-text", word.line)
        before = text or word.written


def _template(case: Case) -> Iterator[Finding]:
    command, release = case.service.command, case.service.image.release
    if not (case.known and case.known.template and command.complete):
        return
    option, old = command.get("--chat-template"), bool(release and release < (0, 14))  # PR 30550
    if option is None:
        more = f", and the image {_CPU_IMAGE}" if old else ""
        yield case.fault("template-missing", case.service.command_line, more=more)
    elif old:
        yield case.fault("template-ignored", option.line)


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
        line, factor = option.line if option else service.command_line, ""
        if case.dtype == "bfloat16" and "amx_bf16" in case.host.features:
            factor = f": {5.7 if dtype == 'float32' else 2.5} times, measured with AMX"
        yield case.fault("dtype-slow", line, dtype=dtype, auto=auto, factor=factor)


def _served_name(case: Case) -> Iterator[Finding]:
    name, line = case.service.served_name
    if "/" in name:
        yield case.fault("model-name-slash", line, name=name)
    if "___" in name or "@" in name:
        yield case.fault("model-name-split", line, name=name)


def _key_value_cache(case: Case) -> Iterator[Finding]:
    service, command = case.service, case.service.command
    option = command.get("--kv-cache-memory-bytes")
    node = service.environment.get("VLLM_CPU_KVCACHE_SPACE")
    if node and node.text and not node.text.strip().isdigit():
        yield case.fault("kv-cache-broken", node.line, value=node.text)
    if service.gpu or not command.complete:
        return
    size, line = None, service.node.line
    if option:
        size, line = parse_size(option.value or ""), option.line
    elif node:
        size, line = parse_size(f"{node.text or ''}g"), node.line
    elif not command.get("--gpu-memory-utilization") and service.environment_complete:
        yield case.fault("kv-cache-unset", service.command_line)
    usual = command.value("--kv-cache-dtype") in {"", "auto"}  # fp8 takes half of it
    if size and case.known and usual and size < case.kv_need:
        yield case.fault("kv-cache-small", line, need=case.kv_need / GIB, size=size / GIB)


def _length(case: Case) -> Iterator[Finding]:
    command, model = case.service.command, case.service.served.model
    limit = model.max_tokens if model else None
    if option := command.get("--max-model-len"):
        length = parse_size(option.value or "")
        if limit and length and length > limit:
            yield case.fault("max-model-len-large", option.line, limit=limit, length=length)
    elif case.known and case.causal and command.complete:
        tokens = limit or 40960  # of a Qwen3-Reranker; the size of no other is known
        size = f": {tokens} tokens, {case.kv_token * tokens / GIB:.1f} GiB" if case.kv_token else ""
        yield case.fault("max-model-len-unset", case.service.command_line, size=size)


def _other_options(case: Case) -> Iterator[Finding]:
    command = case.service.command
    if option := command.get("--trust-remote-code"):
        reason = "vLLM supports this model without it" if case.known else "few models need it"
        yield case.fault("trust-remote-code", option.line, reason=reason)
    option = command.get("--runner")
    if option and option.value not in {"pooling", "auto", None}:
        yield case.fault("runner-missing", option.line, option=option)
    option = command.get("--block-size")
    size = parse_size(option.value or "") if option else None
    if option and size and size % 32 and not case.service.gpu:
        yield case.fault("block-size", option.line, size=size)
    option = command.get("--host")
    if option and (option.value or "").startswith(("127.", "localhost", "::1")):
        yield case.fault("host-loopback", option.line, option=option)
    node = case.service.environment.get("VLLM_CPU_OMP_THREADS_BIND")
    if node and node.text == "all":
        yield case.fault("threads-all", node.line, cpuset=case.cpuset or "auto")


def _model(case: Case) -> Iterator[Finding]:
    service, served = case.service, case.service.served
    argument, module = service.command.get(""), service.command.entry == "module"
    unclear = service.command.entry == "image" and "vllm/vllm-openai" not in service.text("image")
    if argument and not service.command.get("--model") and (module or (unclear and not service.inherits)):
        program = "this entry point" if module else "the API server's module, if the image starts it,"
        values = {"program": program, "model": argument.value}
        yield case.fault("model-positional", argument.line, warning=not module, **values)
    is_folder = served.path.startswith("/")  # else it is a name on a model hub
    if is_folder and not served.mount and not service.inherits:
        yield case.fault("model-not-mounted", served.line, path=served.path)
    own = service.node.get("entrypoint") or not case.official
    if not own and service.command.entry in {"serve", "module"}:
        yield case.fault("serve-twice", service.command_line)


def _paths(case: Case) -> Iterator[Finding]:
    """The model's folder, the template and other files: Docker makes a folder of a source that is missing."""
    mounts, option = case.service.mounts, case.service.command.get("--chat-template")
    template = (option.value or "") if option else ""
    files = {mount.target or "" for mount in mounts if _FILE_NAME.fullmatch(mount.source or "")} | {template}
    in_image = not template.startswith("/") or template.startswith("/vllm-workspace/") or not case.official
    if option and not in_image and not mount_of(template, mounts):
        yield case.fault("template-not-mounted", option.line, path=template)
    for path in sorted({case.service.served.path, *files}):
        mount = mount_of(path, mounts)
        source = (mount.on_host(path) if mount and mount.kind == "bind" else None) or ""
        kind = case.kind_of(source) if mount and source else None
        if mount and kind == "missing" and not source.startswith("/"):
            yield case.fault("mount-missing", mount.node.line, source=source)
        elif mount and kind == "folder" and path in files:
            yield case.fault("mount-folder", mount.node.line, source=source, path=path)


def _addresses(case: Case) -> Iterator[Finding]:
    listening = case.service.listening_port
    key = case.service.command.get("--api-key") or case.service.environment.get("VLLM_API_KEY")
    effect = "/rerank and /score without the key, which is for /v1 and /v2" if key else "without a password"
    for port in case.service.ports:
        if port.address is not None and not is_loopback(port.address):
            yield case.fault("port-exposed", port.line, where=port.address or "all addresses", effect=effect)
        if listening and port.target and port.target.isdigit() and port.target != listening:
            yield case.fault("port-mismatch", port.line, target=port.target, listening=listening)
    mode = case.service.node.get("network_mode")
    if mode and mode.text == "host":
        yield case.fault("port-exposed/host", mode.line)
    for network in case.service.networks:
        if takes_default_route(network):
            yield case.fault("route-moves", network.line, name=network.name)


def _resources(case: Case) -> Iterator[Finding]:
    service = case.service
    for quota in (service.node.get(*keys) for keys in _QUOTAS):
        if quota and not service.gpu:
            cpuset = service.text("cpuset") or case.cpuset or "0-3"
            yield case.fault("cpu-quota", quota.line, cpuset=cpuset)
    node = service.node.get("shm_size")
    size = parse_size(service.text("shm_size")) if node else 64 * MIB
    for mount in service.mounts:
        if mount.target == "/dev/shm":  # noqa: S108 - a mount's target
            size = parse_size(mount.size or "") if mount.kind == "tmpfs" else None
            break
    shared = service.text("ipc") not in {"", "private", "shareable"}
    inherited = node is None and service.inherits
    if size is not None and size < _SHM_NEEDED and not (service.gpu or shared or inherited):
        yield case.fault("shm-small", (node or service.node).line, size=size // MIB)


def _restarts(case: Case) -> Iterator[Finding]:
    service = case.service
    node = service.node.get("healthcheck")
    if (node is None and not service.inherits) or service.node.flag("healthcheck", "disable"):
        yield case.fault("healthcheck-missing", (node or service.node).line)
    policy = service.node.get("deploy", "restart_policy")
    node = service.node.get("restart") or policy
    endless = service.text("restart") in {"always", "unless-stopped", "on-failure"}
    if policy and not policy.get("max_attempts"):
        endless |= service.text("deploy", "restart_policy", "condition") in {"", "any", "on-failure"}
    if node and endless:
        yield case.fault("restart-loop", node.line)


def _image(case: Case) -> Iterator[Finding]:
    service, image = case.service, case.service.image
    node = service.node.get("image")
    if node is None or not image.name or service.node.get("build"):
        return
    if image.moving:
        example = f", such as {image.name}:v0.32.0," if image.official else ""
        yield case.fault("image-unpinned", node.line, image=node.text, example=example)
    built, machine = image.architecture or architecture(service.text("platform")), case.host.architecture
    if built and machine and built != machine:
        emulated = service.node.get("platform") is not None  # maybe
        yield case.fault("image-architecture", node.line, warning=emulated, built=built, machine=machine)
    if service.gpu and not service.gpu_requested and case.official:
        yield case.fault("gpu-not-requested", node.line)


def _keys(case: Case) -> Iterator[Finding]:
    for node, name, keys in _unknown_keys(case.service.node, _KEYS, ""):
        key = name.rpartition(".")[2]
        close = _REPLACED_KEYS.get(key) or next(iter(difflib.get_close_matches(key, keys, 1, 0.7)), "")
        fix = f"replace it with {close}" if close else "remove it"
        yield case.fault("key-unknown", node.line, name=name, fix=fix)


def _unknown_keys(node: YamlNode, keys: Any, place: str) -> Iterator[tuple[YamlNode, str, Iterable[str]]]:
    """Keys that compose does not have there; a list has the keys of its items, ``*`` is any key."""
    for item in node.elements if isinstance(keys, list) else ():
        yield from _unknown_keys(item, keys[0], place)
    for key, value in node.mapping.items() if isinstance(keys, dict) else ():
        if key in keys or "*" in keys:
            yield from _unknown_keys(value, keys.get(key, keys.get("*")), f"{place}{key}.")
        elif not key.startswith("x-"):
            yield value, f"{place}{key}", keys


def _proxies(case: Case) -> Iterator[Finding]:
    service, own = case.service, case.service.environment
    words = " ".join(word.text or "" for word in split_words(service.node.get("healthcheck", "test")))
    probed = re.search(r"http://(localhost|127\.[\d.]+)", words)
    for name, node in own.items():
        if not _PROXY.fullmatch(name):
            continue
        if _LOOPBACK_URL.match(node.text or "") and service.text("network_mode") != "host":
            yield case.fault("proxy-loopback", node.line, name=name)
        elif node.text and probed and name == "http_proxy" and not _exempt(own, {probed[1]}):
            yield case.fault("proxy-catches/healthcheck", node.line, host=probed[1], name=name)
    aliases = (alias for network in service.networks for alias in network.aliases)
    names = {service.name, service.text("container_name") or service.name, *aliases}
    for environment in service.clients:
        for name, node in environment.items():
            if name.lower() in {"http_proxy", "all_proxy"} and node.text and not _exempt(environment, names):
                yield case.fault("proxy-catches", node.line, service=service.name, name=name)


def _exempt(environment: Mapping[str, YamlNode], hosts: Iterable[str]) -> bool:
    """Whether one of the hosts is in ``no_proxy``, or may be: as requests and curl read it."""
    nodes = [environment.get("no_proxy"), environment.get("NO_PROXY")]
    texts = [node.text for node in nodes if node and node.value is not None]
    entries = [entry.strip().lstrip(".") for text in texts for entry in (text or "*").split(",")]
    return any(entry in {"*", host} or host.endswith(f".{entry}") for entry in entries for host in hosts)


_CHECKS = (
    *(_overrides, _overrides_value, _releases, _words, _template, _dtype, _served_name),
    *(_key_value_cache, _length, _other_options, _model, _paths, _addresses, _resources),
    *(_restarts, _image, _keys, _proxies),
)
