"""Rules that find the faults of a vLLM reranker in a compose file, each with its reason and its fix; pure.

:data:`RULES` names the faults, :func:`find_faults` finds them. Each checking function gets a :class:`Case`.
Reasons were read in the source of vLLM 0.32, or measured with it. The recommended values come from
``ragops.reranker``, so they are those that ``ragops up`` uses.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import math
import re
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ragops.compose.reading import OVERRIDES_VARIABLE, architecture, mount_of
from ragops.compose.syntax import split_words, takes_value, unset_variables
from ragops.configuration import Stack
from ragops.errors import StackError
from ragops.reranker import architectures, options, sizing
from ragops.reranker.host import format_cpu_list
from ragops.reranker.sizing import GIB, MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ragops.compose.reading import NetworkConnection, Service
    from ragops.compose.syntax import Word, YamlNode
    from ragops.reranker.architectures import Architecture
    from ragops.reranker.host import Host

RAGFLOW_NETWORK = "docker_ragflow"
"""The network of a RAGFlow that was started from its own folder."""

RULES = {
    "hf-overrides-env": "overrides in a variable that vLLM does not read",
    "hf-overrides-missing": "Qwen3-Reranker without overrides",
    "hf-overrides-broken": "overrides that are not JSON after quoting, or lack a key",
    "convert-alone": "--convert classify without overrides: a classifier without weights",
    "task-removed": "--task, which vLLM removed",
    "option-removed": "an option that the image's release no longer has",
    "option-newer": "an option that the image's release does not have yet",
    "option-value": "an option without its value",
    "runner-missing": "a runner without a rerank route",
    "template-missing": "Qwen3-Reranker without its prompt",
    "template-ignored": "a score template in a release that does not use it",
    "argument-empty": "an empty item of a list, which vLLM takes as the model",
    "argument-joined": "an option and its value in one item of a list",
    "comment-as-text": "# in a folded command, which is no comment there",
    "variable-unset": "an option whose value is a variable without a value",
    "serve-twice": "vllm serve in the command of an image that starts it",
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
    "template-not-mounted": "no volume with the template's path",
    "mount-missing": "a file or a model folder that is not on this machine",
    "mount-folder": "a folder in the place of a file",
    "key-unknown": "a key that compose does not have",
    "proxy-loopback": "a proxy on the container's own loopback",
    "proxy-catches": "a proxy that gets requests to the reranker",
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
    "image-architecture": "an image for another processor architecture",
    "gpu-not-requested": "an image for GPUs without a GPU",
}
"""Summary of each fault by its stable code; the table of the documentation is generated from it."""

_STACK = Stack()
_NETWORK = _STACK.network.name
_CPU_IMAGE = "vllm/vllm-openai-cpu:v0.32.0"
_REPLACED_KEYS = {"device_requests": "gpus", "env": "environment", "memory": "mem_limit", "shm": "shm_size"}
_KEYS = json.loads((Path(__file__).parents[1] / "data" / "compose_keys.json").read_text())["service"]
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
    kind_of: Callable[[str], PathKind | None]
    """What a path of the host is; None if it is not known."""

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
    def overrides_option(self) -> str:
        """The recommended overrides."""
        return f"--hf-overrides '{self.overrides}'"

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

    def error(self, code: str, line: int, message: str, fix: str) -> Finding:
        """A fault with which the server does not start, or its scores are wrong."""
        return Finding("error", line, message, fix, code, self.service.name)

    def warning(self, code: str, line: int, message: str, fix: str) -> Finding:
        """A fault with which the server is slower or less safe."""
        return Finding("warning", line, message, fix, code, self.service.name)


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
    return int(float(match[1]) * 1024 ** _UNITS[match[2].lower()]) if match else None


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
        message = "without overrides --convert classify makes a classifier of two labels without weights: no "
        message += "rerank route (404), or vLLM ends with 'weights were not initialized from checkpoint'"
        yield case.error("convert-alone", line, message, case.overrides_option)
        return
    variables = [
        (name, node) for name, node in case.service.environment.items() if OVERRIDES_VARIABLE.fullmatch(name)
    ]
    for name, node in variables:
        value = case.overrides or ("{...}" if kind is None else "")
        fix = f"use the option: --hf-overrides '{value}'" if value else "remove it"
        message = f"vLLM reads no variable {name}, so its value has no effect"
        message += f"; {effect}" if case.overrides and not option else ""
        report = case.error if (case.overrides or kind is None) and not option else case.warning
        yield report("hf-overrides-env", node.line, message, fix)
    if case.overrides and command.complete and not present and not variables:
        runner = "" if command.get("--runner") else "--runner pooling "
        message = f"without --hf-overrides this model is a language model without a score; {effect}"
        yield case.error("hf-overrides-missing", line, message, runner + case.overrides_option)


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
    if any(overrides.get(key) == value for key, value in _TWO_WAY.items()):
        overrides |= _TWO_WAY
    if wrong := [key for key, value in needed.items() if overrides.get(key) != value]:
        message = f"--hf-overrides lacks the right value of {', '.join(wrong)}; {_COSINE}"
        yield case.error("hf-overrides-broken", option.line, message, case.overrides_option)


def _releases(case: Case) -> Iterator[Finding]:
    release = case.service.image.release
    for option in case.service.command.options:
        since, gone, replacement = options.RELEASES.get(option.name, ("", "", ""))
        fix = f"replace it with {replacement}" if replacement else "remove it"
        if gone and (release is None or release >= options.release(gone)):
            end = "and ends" if release else "after which an image ends"
            message = f"vLLM removed {option.name} in {gone}, {end} with 'unrecognized arguments'"
            code = "task-removed" if option.name == "--task" else "option-removed"
            yield (case.error if release else case.warning)(code, option.line, message, fix)
        elif since and release and release < options.release(since):
            message = f"the image's vLLM is older than {since}, the first with {option.name}"
            yield case.error("option-newer", option.line, message, f"{fix}, or the image {_CPU_IMAGE}")


def _words(case: Case) -> Iterator[Finding]:
    command, before = case.service.command, ""
    variables = case.service.node.source.variables
    words: tuple[Word, ...] = command.words if command.entry != "other" else ()
    for word, after in zip_longest(words, words[1:]):
        text, valued = word.text, takes_value(before) or word.written.startswith("-")
        if text is None and valued and (unset := unset_variables(word.written, variables)):
            joined = word.written.startswith("-")
            effect = "its value is empty" if joined else f"vLLM ends if {before} has no value"
            message = f"{unset[0]} is not set here and has no default: {effect}"
            fix = f"set it in .env, or require it: ${{{unset[0]}:?}}"
            yield case.warning("variable-unset", word.line, message, fix)
        elif text == "" and not valued and command.entry != "module":
            message = "an empty item of a list is an argument: vllm serve ends with 'unrecognized arguments'"
            yield case.error("argument-empty", word.line, message, "write the command as text, not as a list")
        elif text and re.match(r"--[\w-]+\s", text):
            message = f"an item of a list is one argument, and vLLM has no option {text[:60]!r}"
            yield case.error("argument-joined", word.line, message, "two items, or --name=value")
        elif _VALUED.fullmatch(text or "") and (after is None or (after.text or "").startswith("--")):
            message = f"{text} has no value: vLLM ends with 'expected one argument'"
            yield case.error("option-value", word.line, message, f"{text}=VALUE, or remove it")
        elif text and text.startswith("#"):
            message = "# in a folded command starts no comment: vLLM gets the rest of the line as arguments"
            yield case.error("comment-as-text", word.line, message, "move the comment above the command")
        before = text or word.written


def _template(case: Case) -> Iterator[Finding]:
    command, release = case.service.command, case.service.image.release
    if not (case.known and case.known.template and command.complete):
        return
    option, old = command.get("--chat-template"), bool(release and release < (0, 14))  # PR 30550
    if option is None:
        message = "without --chat-template the model lacks the prompt of its training: the order is random"
        fix = "--chat-template with the model's prompt" + (f", and the image {_CPU_IMAGE}" if old else "")
        yield case.error("template-missing", case.service.command_line, message, fix)
    elif old:
        message = "before vLLM 0.14 scores do not use --chat-template: the order is random"
        yield case.error("template-ignored", option.line, message, f"the image {_CPU_IMAGE}")


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
        if case.dtype == "bfloat16" and "amx_bf16" in case.host.features:
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
            tokens = (
                model.max_tokens if model else 40960
            )  # of a Qwen3-Reranker; the size of no other is known
            size = f": {tokens} tokens, {case.kv_token * tokens / GIB:.1f} GiB" if case.kv_token else ""
            message = f"without --max-model-len vLLM reserves the longest input for one document{size}"
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
    option = command.get("--runner")
    if option and option.value not in {"pooling", "auto", None}:
        message = f"--runner {option.value} has no rerank route (404)"
        yield case.error("runner-missing", option.line, message, "--runner pooling")
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
    own = service.node.get("entrypoint") or not case.official
    if not own and service.command.entry in {"serve", "module"}:
        message = "the image starts vLLM's server itself, and takes this as arguments: vLLM ends"
        fix = "start the command with the model, or set entrypoint: [vllm, serve]"
        yield case.error("serve-twice", service.command_line, message, fix)


def _paths(case: Case) -> Iterator[Finding]:
    """The model's folder, the template and other files: Docker makes a folder of a source that is missing."""
    mounts, option = case.service.mounts, case.service.command.get("--chat-template")
    template = (option.value or "") if option else ""
    files = {mount.target or "" for mount in mounts if _FILE_NAME.fullmatch(mount.source or "")} | {template}
    in_image = not template.startswith("/") or template.startswith("/vllm-workspace/") or not case.official
    if option and not in_image and not mount_of(template, mounts):
        message = f"no volume has {template}: vLLM does not start without its template"
        yield case.warning("template-not-mounted", option.line, message, f"a volume: ./FILE:{template}:ro")
    for path in sorted({case.service.served.path, *files}):
        mount = mount_of(path, mounts)
        source = (mount.on_host(path) if mount and mount.kind == "bind" else None) or ""
        kind = case.kind_of(source) if mount and source else None
        if mount and kind == "missing" and not source.startswith("/"):
            message = f"{source} is not on this machine: Docker makes an empty folder of it"
            yield case.warning("mount-missing", mount.line, message, "create it before the start")
        elif mount and kind == "folder" and path in files:
            message = f"{source} is a folder, but {path} must be a file"
            yield case.error("mount-folder", mount.line, message, f"rmdir {source}, then create the file")


def _cpu_quota(case: Case) -> Iterator[Finding]:
    for keys in _QUOTAS:
        node = case.service.node.get(*keys)
        if node and not case.service.gpu:
            message = "vLLM starts one thread per visible CPU; a quota pauses all of them while they compute"
            cpuset = case.service.text("cpuset") or case.cpuset or "0-3"
            yield case.warning("cpu-quota", node.line, message, f'replace it with cpuset: "{cpuset}"')


def _ports(case: Case) -> Iterator[Finding]:
    listening = case.service.listening_port
    key = case.service.command.get("--api-key") or case.service.environment.get("VLLM_API_KEY")
    for port in case.service.ports:
        if port.address is not None and not _is_loopback(port.address):
            effect = (
                "/rerank and /score without the key, which is for /v1 and /v2"
                if key
                else "without a password"
            )
            where = port.address or "all addresses"
            message = f"published on {where}: other machines reach it despite a firewall, {effect}"
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
    service, image = case.service, case.service.image
    node = service.node.get("image")
    if node is None or not image.name or service.node.get("build"):
        return
    if image.moving:
        effect = "may be another vLLM after the next pull or build, with other options and scores"
        example = f", such as {image.name}:v0.32.0," if image.official else ""
        fix = f"name a release{example} or a digest"
        yield case.warning("image-unpinned", node.line, f"{node.text} {effect}", fix)
    built, machine = image.architecture or architecture(service.text("platform")), case.host.architecture
    if built and machine and built != machine:  # a platform in the file may mean emulation
        report = case.warning if service.node.get("platform") else case.error
        message = f"the image is for {built}, this machine is {machine}: 'exec format error', or very slow"
        yield report("image-architecture", node.line, message, f"the image for {machine}")
    if service.gpu and not service.gpu_requested and case.official:
        message = "the image needs a GPU and the service requests none: vLLM finds no device"
        fix = f"gpus: all, or without a GPU the image {_CPU_IMAGE}"
        yield case.warning("gpu-not-requested", node.line, message, fix)


def _keys(case: Case) -> Iterator[Finding]:
    for node, name, keys in _unknown_keys(case.service.node, _KEYS, ""):
        key = name.rpartition(".")[2]
        close = _REPLACED_KEYS.get(key) or next(iter(difflib.get_close_matches(key, keys, 1, 0.7)), "")
        message = f"compose has no key {name} in a service and refuses the file"
        fix = f"replace it with {close}" if close else "remove it"
        yield case.error("key-unknown", node.line, message, fix)


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
            message = f"{name} names the container itself, where no proxy listens: downloads and probes fail"
            fix = "the proxy's address on the network, such as http://host.docker.internal:PORT, or remove it"
            yield case.warning("proxy-loopback", node.line, message, fix)
        elif node.text and probed and name == "http_proxy" and not _exempt(own, {probed[1]}):
            message = f"the healthcheck's request to {probed[1]} goes to the proxy of {name}"
            yield case.warning("proxy-catches", node.line, message, f"no_proxy: {probed[1]}")
    aliases = (alias for network in service.networks for alias in network.aliases)
    names = {service.name, service.text("container_name") or service.name, *aliases}
    for environment in service.clients:
        for name, node in environment.items():
            if name.lower() in {"http_proxy", "all_proxy"} and node.text and not _exempt(environment, names):
                message = f"RAGFlow's requests to {service.name} go to the proxy of {name}"
                fix = f"no_proxy and NO_PROXY with {service.name} in RAGFlow's environment"
                yield case.warning("proxy-catches", node.line, message, fix)


def _exempt(environment: Mapping[str, YamlNode], hosts: Iterable[str]) -> bool:
    """Whether one of the hosts is in ``no_proxy``, or may be: as requests and curl read it."""
    nodes = [environment.get("no_proxy"), environment.get("NO_PROXY")]
    texts = [node.text for node in nodes if node and node.value is not None]
    entries = [entry.strip().lstrip(".") for text in texts for entry in (text or "*").split(",")]
    return any(entry in {"*", host} or host.endswith(f".{entry}") for entry in entries for host in hosts)


_CHECKS = (
    *(_overrides, _overrides_value, _releases, _words, _template, _dtype, _served_name),
    *(_key_value_cache, _length, _other_options, _model, _paths, _cpu_quota, _ports, _networks),
    *(_shared_memory, _restarts, _image, _keys, _proxies),
)
