"""Rules about vLLM's options, its environment variables and its model; pure.

Reasons were read in the source of vLLM 0.32, or measured with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ragops.compose.advice import Fault, Rule, parse_object, parse_size
from ragops.compose.read import OVERRIDES_VARIABLE
from ragops.sizing import GIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ragops.compose.advice import Case

_COSINE = "the scores are then cosine similarities of separate embeddings, which are meaningless"
_DTYPE_ALIASES = {"half": "float16", "float": "float32", "": "auto"}
_AUTO_DTYPES = {"qwen3-reranker": "bfloat16", "qwen3-reranker-seq-cls": "bfloat16"}
"""What ``--dtype auto`` means; float16 for the other kinds, which are stored as float32."""


def _overrides_variable(case: Case) -> Iterator[Fault]:
    for name, node in case.service.environment.items():
        if OVERRIDES_VARIABLE.fullmatch(name):
            kind, option = case.service.served.kind, case.service.command.get("--hf-overrides")
            wrong = kind in {"qwen3-reranker", None} and not option
            effect = f"; {_COSINE}" if kind == "qwen3-reranker" and not option else ""
            value = case.overrides or ("{...}" if kind is None else "")
            fix = f"use the option: --hf-overrides '{value}'" if value else "remove it"
            message = f"vLLM reads no variable {name}, so its value has no effect{effect}"
            yield Fault("error" if wrong else "warning", node.line, message, fix)


def _overrides_missing(case: Case) -> Iterator[Fault]:
    command, service = case.service.command, case.service
    present = any(option.name.startswith("--hf-overrides") for option in command.options)
    variable = any(map(OVERRIDES_VARIABLE.fullmatch, service.environment))
    if case.overrides and command.complete and not present and not variable:
        message = f"without --hf-overrides Qwen3-Reranker is a language model without a score; {_COSINE}"
        yield Fault("error", service.command_line, message, f"--hf-overrides '{case.overrides}'")


def _overrides_broken(case: Case) -> Iterator[Fault]:
    option = case.service.command.get("--hf-overrides")
    if option is None or option.value is None:
        return
    overrides = parse_object(option.value)
    if overrides is None:
        message = f"the value of --hf-overrides that vLLM gets is not JSON: {option.value[:60]}"
        fix = f"quote it for YAML: '--hf-overrides={case.overrides or '{...}'}' as an element of a list"
        yield Fault("error", option.line, message, fix)
        return
    needed = parse_object(case.overrides) or {}
    wrong = [key for key, value in needed.items() if overrides.get(key) != value]
    if wrong:
        message = f"--hf-overrides lacks the right value of {', '.join(wrong)}; {_COSINE}"
        yield Fault("error", option.line, message, f"--hf-overrides '{case.overrides}'")


def _task_removed(case: Case) -> Iterator[Fault]:
    if option := case.service.command.get("--task"):
        message = f"vLLM removed --task {option.value or ''} in 0.13 and ends with 'unrecognized arguments'"
        yield Fault("error", option.line, message, "replace it with --runner pooling")


def _runner_missing(case: Case) -> Iterator[Fault]:
    command, kind = case.service.command, case.service.served.kind
    option = command.get("--runner")
    value = "auto" if option is None else option.value
    if value == "pooling" or value is None or (option is None and not command.complete):
        return
    if value == "auto" and command.value("--convert") in {"classify", "embed"}:
        return
    wrong = value != "auto" or kind == "qwen3-reranker"
    message = "without --runner pooling the model may start as a chat model, without a rerank route"
    line = option.line if option else case.service.command_line
    yield Fault("error" if wrong else "warning", line, message, "--runner pooling")


def _template_missing(case: Case) -> Iterator[Fault]:
    service = case.service
    needed = case.known is not None and case.known.template != ""
    if needed and service.command.complete and not service.command.get("--chat-template"):
        message = (
            "without --chat-template the model lacks the prompt of its training: the order is near random"
        )
        yield Fault("error", service.command_line, message, "--chat-template with Qwen3-Reranker's prompt")


def _dtype_slow(case: Case) -> Iterator[Fault]:
    service = case.service
    option = service.command.get("--dtype")
    value = "auto" if option is None else option.value
    if service.gpu or value is None or (option is None and not service.command.complete):
        return
    dtype, auto = _DTYPE_ALIASES.get(value, value), ""
    if dtype == "auto":
        kind = service.served.kind
        dtype = _AUTO_DTYPES.get(kind, "float16") if kind else case.dtype
        auto = " (--dtype auto for this model)"
    if dtype != case.dtype:
        message = f"{dtype}{auto} is slow on this processor; {case.dtype} is faster"
        if case.dtype == "bfloat16":
            message += f": {5.7 if dtype == 'float32' else 2.5} times, measured with AMX"
        yield Fault(
            "warning", option.line if option else service.command_line, message, f"--dtype {case.dtype}"
        )


def _served_name(case: Case) -> tuple[str, int]:
    """The served name and its line; an empty name if it is not known."""
    command, served = case.service.command, case.service.served
    if option := command.get("--served-model-name"):
        return option.value or "", option.line
    return (served.path, served.line) if command.complete else ("", 1)


def _name_slash(case: Case) -> Iterator[Fault]:
    name, line = _served_name(case)
    if "/" in name:
        message = f"in RAGFlow the model must have the same name, {name}, with its slashes"
        yield Fault("warning", line, message, f"--served-model-name {case.name}")


def _name_split(case: Case) -> Iterator[Fault]:
    name, line = _served_name(case)
    if "___" in name or "@" in name:
        message = f"RAGFlow splits model names at '___' and '@', so it requests another model than {name}"
        yield Fault("error", line, message, f"--served-model-name {case.name}")


def _trust_remote_code(case: Case) -> Iterator[Fault]:
    if option := case.service.command.get("--trust-remote-code"):
        reason = "vLLM supports this model without it" if case.known else "few models need it"
        message = f"--trust-remote-code runs any Python code in the model folder; {reason}"
        yield Fault("warning", option.line, message, "remove it")


def _kv_unset(case: Case) -> Iterator[Fault]:
    service = case.service
    options = ("--kv-cache-memory-bytes", "--gpu-memory-utilization")
    is_set = any(map(service.command.get, options)) or "VLLM_CPU_KVCACHE_SPACE" in service.environment
    hidden = not service.command.complete or service.node.get("env_file")
    if not service.gpu and not hidden and not is_set:
        message = "without a size vLLM takes 92 % of the memory for its key-value cache"
        yield Fault("warning", service.command_line, message, f"--kv-cache-memory-bytes {case.kv_cache}")


def _kv_broken(case: Case) -> Iterator[Fault]:
    node = case.service.environment.get("VLLM_CPU_KVCACHE_SPACE")
    if node and node.text and not node.text.strip().isdigit():
        message = (
            f"VLLM_CPU_KVCACHE_SPACE must be a whole number of GiB; vLLM does not start with {node.text}"
        )
        yield Fault("error", node.line, message, f"replace it with --kv-cache-memory-bytes {case.kv_cache}")


def _kv_small(case: Case) -> Iterator[Fault]:
    service = case.service
    option = service.command.get("--kv-cache-memory-bytes")
    node = service.environment.get("VLLM_CPU_KVCACHE_SPACE")
    size, line = None, service.line
    if option:
        size, line = parse_size(option.value or ""), option.line
    elif node:
        size, line = parse_size(f"{node.text or ''}g"), node.line
    if size and case.known and not service.gpu and service.command.complete and size < case.kv_need:
        message = (
            f"a document of {case.max_len} tokens needs {case.kv_need / GIB:.2f} GiB of key-value cache, "
            f"but the cache has {size / GIB:.2f} GiB: vLLM does not start"
        )
        yield Fault("error", line, message, f"--kv-cache-memory-bytes {case.kv_cache}, or a smaller length")


def _length_unset(case: Case) -> Iterator[Fault]:
    service = case.service
    limited = service.command.get("--max-model-len")
    if case.known and case.causal and service.command.complete and not limited:
        message = "without --max-model-len Qwen3-Reranker reserves 40960 tokens: 4.4 GiB for one document"
        yield Fault("warning", service.command_line, message, f"--max-model-len {case.max_len}")


def _length_large(case: Case) -> Iterator[Fault]:
    option, model = case.service.command.get("--max-model-len"), case.service.served.model
    length = parse_size(option.value or "") if option else None
    limit = model.max_tokens if model else None
    if option and limit and length and length > limit:
        message = f"the model takes at most {limit} tokens; vLLM does not start with {length}"
        yield Fault("error", option.line, message, f"--max-model-len {limit}")


def _block_size(case: Case) -> Iterator[Fault]:
    option = case.service.command.get("--block-size")
    size = parse_size(option.value or "") if option else None
    if option and size and size % 32 and not case.service.gpu:
        message = f"with --block-size {size} vLLM ends at the first request; multiples of 32 work"
        yield Fault("error", option.line, message, "--block-size 32")


def _model_positional(case: Case) -> Iterator[Fault]:
    service = case.service
    argument, entry = service.command.get(""), service.command.entry
    if argument is None or service.command.get("--model") or entry in {"serve", "other"}:
        return
    official = "vllm/vllm-openai" in service.text("image")
    if entry == "module" or not (official or service.inherits):
        where = (
            "this entry point" if entry == "module" else "the API server's module, if the image starts it,"
        )
        message = f"{where} takes no positional model: it would serve vLLM's default model"
        fix = f"--model {argument.value}, and an entrypoint in the file"
        yield Fault("error" if entry == "module" else "warning", argument.line, message, fix)


def _model_not_mounted(case: Case) -> Iterator[Fault]:
    served = case.service.served
    if served.missing and not case.service.inherits:
        message = (
            f"no volume has {served.path}; if the image has not either, vLLM requests it from a model hub"
        )
        yield Fault("warning", served.line, message, f"a volume: /folder/with/the/weights:{served.path}:ro")


def _host_loopback(case: Case) -> Iterator[Fault]:
    option = case.service.command.get("--host")
    if option and (option.value or "").startswith(("127.", "localhost", "::1")):
        message = f"--host {option.value} is the container's own loopback: no other container reaches it"
        yield Fault("error", option.line, message, "remove it; ports: says what the host publishes")


def _threads_all(case: Case) -> Iterator[Fault]:
    node = case.service.environment.get("VLLM_CPU_OMP_THREADS_BIND")
    if node and node.text == "all":
        message = "VLLM_CPU_OMP_THREADS_BIND takes a CPU list, auto or nobind; vLLM does not start with all"
        yield Fault("error", node.line, message, f"VLLM_CPU_OMP_THREADS_BIND={case.cpuset or 'auto'}")


VLLM_RULES = (
    Rule("hf-overrides-env", "overrides in a variable that vLLM does not read", _overrides_variable),
    Rule("hf-overrides-missing", "Qwen3-Reranker without overrides", _overrides_missing),
    Rule(
        "hf-overrides-broken", "overrides that are not JSON after quoting, or lack a key", _overrides_broken
    ),
    Rule("task-removed", "--task, which vLLM removed", _task_removed),
    Rule("runner-missing", "no --runner pooling", _runner_missing),
    Rule("template-missing", "Qwen3-Reranker without its prompt", _template_missing),
    Rule("dtype-slow", "a data type that is slow on this machine's processor", _dtype_slow),
    Rule("model-name-slash", "a path as the served name", _name_slash),
    Rule("model-name-split", "a served name that RAGFlow splits", _name_split),
    Rule("trust-remote-code", "Python code of the model folder is run", _trust_remote_code),
    Rule("kv-cache-unset", "no size of the key-value cache", _kv_unset),
    Rule("kv-cache-broken", "a size of the key-value cache that is not a whole number", _kv_broken),
    Rule("kv-cache-small", "a key-value cache that is too small for a long document", _kv_small),
    Rule("max-model-len-unset", "no limit for the longest input", _length_unset),
    Rule("max-model-len-large", "a longer input than the model takes", _length_large),
    Rule("block-size", "a block size with which vLLM ends", _block_size),
    Rule("model-positional", "a positional model that the entry point may ignore", _model_positional),
    Rule("model-not-mounted", "no volume with the model's path", _model_not_mounted),
    Rule("host-loopback", "a server that only its own container reaches", _host_loopback),
    Rule("threads-all", "a thread binding with which vLLM does not start", _threads_all),
)
