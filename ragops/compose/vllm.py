"""Faults in how a compose file starts vLLM: its flags, its variables, its model; pure.

Reasons were read in the source of vLLM 0.32, or measured with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ragops.compose.advice import Fault, Rule, as_map, parse_size
from ragops.compose.read import OVERRIDES_VARIABLE
from ragops.sizing import GIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ragops.compose.advice import Case

SCORES = "the scores are then the cosine of two separate embeddings, which means nothing"

_SHORT = {"half": "float16", "float": "float32", "": "auto"}
_STORED = {"qwen3-reranker": "bfloat16", "qwen3-reranker-seq-cls": "bfloat16"}
"""What ``auto`` takes; the others are stored as float32, for which it takes float16."""


def _overrides_variable(case: Case) -> Iterator[Fault]:
    for name, view in case.service.environment.items():
        if OVERRIDES_VARIABLE.fullmatch(name):
            kind, flag = case.service.served.kind, case.service.launch.get("--hf-overrides")
            wrong = kind in {"qwen3-reranker", None} and not flag
            effect = f"; {SCORES}" if kind == "qwen3-reranker" and not flag else ""
            yield Fault(
                "error" if wrong else "warning",
                view.line,
                f"vLLM reads no variable {name}, so what it says has no effect{effect}",
                f"give it as a flag: --hf-overrides '{case.overrides}'" if case.overrides else "take it out",
            )


def _overrides_missing(case: Case) -> Iterator[Fault]:
    launch, service = case.service.launch, case.service
    needed = case.known is not None and case.known.overrides != ""
    there = any(one.name.startswith("--hf-overrides") for one in launch.arguments)
    variable = any(map(OVERRIDES_VARIABLE.fullmatch, service.environment))
    if needed and launch.sure and not there and not variable:
        message = f"Qwen3-Reranker is a language model: without --hf-overrides it has no score; {SCORES}"
        yield Fault("error", service.command_line, message, f"--hf-overrides '{case.overrides}'")


def _overrides_broken(case: Case) -> Iterator[Fault]:
    flag = case.service.launch.get("--hf-overrides")
    if flag is None or flag.value is None:
        return
    said = as_map(flag.value)
    needed = as_map(case.known.overrides) if case.known and case.known.overrides else None
    if said is None:
        message = f"what vLLM gets as --hf-overrides is no JSON: {flag.value[:60]}"
        fix = f"quote it for compose: '--hf-overrides={case.overrides or '{...}'}' as an item of a list"
        yield Fault("error", flag.line, message, fix)
    elif missing := [key for key, value in (needed or {}).items() if said.get(key) != value]:
        message = f"--hf-overrides lacks the right {', '.join(missing)}; {SCORES}"
        yield Fault("error", flag.line, message, f"--hf-overrides '{case.overrides}'")


def _task_removed(case: Case) -> Iterator[Fault]:
    if flag := case.service.launch.get("--task"):
        message = f"vLLM has no --task {flag.value or ''} since 0.13 and ends with 'unrecognized arguments'"
        yield Fault("error", flag.line, message, "--runner pooling in its place")


def _runner_missing(case: Case) -> Iterator[Fault]:
    launch, kind = case.service.launch, case.service.served.kind
    flag = launch.get("--runner")
    value = "auto" if flag is None else flag.value
    if value == "pooling" or value is None or (flag is None and not launch.sure):
        return
    if value == "auto" and launch.value("--convert") in {"classify", "embed"}:
        return
    wrong = value != "auto" or kind == "qwen3-reranker"
    message = (
        "without --runner pooling a Qwen3-Reranker may start as a chat model, with no rerank route (404)"
        if kind == "qwen3-reranker"
        else f"--runner {value} leaves it to vLLM whether there is a rerank route"
    )
    line = flag.line if flag else case.service.command_line
    yield Fault("error" if wrong else "warning", line, message, "--runner pooling")


def _template_missing(case: Case) -> Iterator[Fault]:
    service = case.service
    needed = case.known is not None and case.known.template != ""
    if needed and service.launch.sure and not service.launch.get("--chat-template"):
        message = (
            "without --chat-template the model sees query and document without the prompt of its "
            "training, and the order is near random; vLLM doesn't use a template of the model's folder"
        )
        yield Fault("error", service.command_line, message, "--chat-template with Qwen3-Reranker's prompt")


def _dtype_slow(case: Case) -> Iterator[Fault]:
    service = case.service
    flag = service.launch.get("--dtype")
    value = "auto" if flag is None else flag.value
    if service.gpu or value is None or (flag is None and not service.launch.sure):
        return
    said = _SHORT.get(value, value)
    kind = service.served.kind
    taken = said if said != "auto" else _STORED.get(kind or "", "float16" if kind else case.dtype)
    if taken != case.dtype:
        auto = f" (--dtype auto takes {taken} for this model)" if said == "auto" else ""
        gain = "5.7 times" if taken == "float32" else "2.5 times"
        better = (
            f"{gain} faster, measured with AMX" if case.dtype == "bfloat16" else "faster without emulation"
        )
        message = f"{taken} is slow on this processor{auto}; {case.dtype} is {better}"
        yield Fault("warning", flag.line if flag else service.command_line, message, f"--dtype {case.dtype}")


def _name_slash(case: Case) -> Iterator[Fault]:
    name, line = _served_name(case)
    if "/" in name:
        message = f"RAGFlow has to be given {name} as the model's name, slashes and all"
        yield Fault("warning", line, message, f"--served-model-name {case.name}")


def _name_split(case: Case) -> Iterator[Fault]:
    name, line = _served_name(case)
    if "___" in name or "@" in name:
        message = f"RAGFlow splits model names at '___' and '@', so it would ask for another than {name}"
        yield Fault("error", line, message, f"--served-model-name {case.name}")


def _served_name(case: Case) -> tuple[str, int]:
    """The name under which the model is served, and its line; empty when that isn't known."""
    launch, served = case.service.launch, case.service.served
    if flag := launch.get("--served-model-name"):
        return flag.value or "", flag.line
    return (served.path, served.line) if launch.sure else ("", 1)


def _trust_remote_code(case: Case) -> Iterator[Fault]:
    if flag := case.service.launch.get("--trust-remote-code"):
        needless = (
            "vLLM has this model built in" if case.known else "only models with code of their own need it"
        )
        message = f"--trust-remote-code runs whatever Python lies in the model's folder; {needless}"
        yield Fault("warning", flag.line, message, "take it out")


def _kv_unset(case: Case) -> Iterator[Fault]:
    service = case.service
    flags = ("--kv-cache-memory-bytes", "--gpu-memory-utilization")
    there = any(map(service.launch.get, flags)) or "VLLM_CPU_KVCACHE_SPACE" in service.environment
    if not service.gpu and service.launch.sure and not service.env_file and not there:
        message = "with no size given vLLM takes 92 % of the memory for its key-value cache"
        yield Fault("warning", service.command_line, message, f"--kv-cache-memory-bytes {case.kv_cache}")


def _kv_broken(case: Case) -> Iterator[Fault]:
    view = case.service.environment.get("VLLM_CPU_KVCACHE_SPACE")
    if view and view.text and not view.text.strip().isdigit():
        message = f"VLLM_CPU_KVCACHE_SPACE is a whole number of GiB; {view.text} ends the start"
        yield Fault("error", view.line, message, f"--kv-cache-memory-bytes {case.kv_cache} in its place")


def _kv_small(case: Case) -> Iterator[Fault]:
    service = case.service
    flag, view = (
        service.launch.get("--kv-cache-memory-bytes"),
        service.environment.get("VLLM_CPU_KVCACHE_SPACE"),
    )
    text = (flag.value if flag else view.text if view else "") or ""
    size = parse_size(text if flag else f"{text}g")
    if size and case.known and not service.gpu and service.launch.sure and size < case.kv_need:
        line = flag.line if flag else view.line if view else service.line
        message = (
            f"a document of {case.max_len} tokens takes {case.kv_need / GIB:.2f} GiB of key-value cache, "
            f"and there are {size / GIB:.2f}: vLLM does not start"
        )
        yield Fault("error", line, message, f"--kv-cache-memory-bytes {case.kv_cache}, or a smaller length")


def _length_unset(case: Case) -> Iterator[Fault]:
    service = case.service
    if case.known and case.causal and service.launch.sure and not service.launch.get("--max-model-len"):
        message = "with no --max-model-len a Qwen3-Reranker asks for 40960 tokens: 4.4 GiB for one document"
        yield Fault("warning", service.command_line, message, f"--max-model-len {case.max_len}")


def _length_large(case: Case) -> Iterator[Fault]:
    flag, limit = case.service.launch.get("--max-model-len"), case.service.served.max_tokens
    wanted = parse_size(flag.value or "") if flag else None
    if flag and limit and wanted and wanted > limit:
        message = f"the model takes {limit} tokens at most; with {wanted} vLLM does not start"
        yield Fault("error", flag.line, message, f"--max-model-len {limit}")


def _block_size(case: Case) -> Iterator[Fault]:
    flag = case.service.launch.get("--block-size")
    size = parse_size(flag.value or "") if flag else None
    if flag and size and size % 32 and not case.service.gpu:
        message = f"with --block-size {size} the engine ends at the first request; multiples of 32 work"
        yield Fault("error", flag.line, message, "--block-size 32")


def _model_positional(case: Case) -> Iterator[Fault]:
    service = case.service
    found, entry = service.launch.get(""), service.launch.entry
    official = "vllm/vllm-openai" in service.text("image")
    if found is None or service.launch.get("--model") or entry in {"serve", "other"}:
        return
    if entry == "module" or not (official or service.inherits):
        where = "this entry point" if entry == "module" else "an image that starts the API server's module"
        message = f"{where} takes no model by position: it would serve vLLM's default model instead"
        fix = f"--model {found.value or found.name}, with the entry point named in the file"
        yield Fault("error" if entry == "module" else "warning", found.line, message, fix)


def _model_not_mounted(case: Case) -> Iterator[Fault]:
    served = case.service.served
    if not served.mounted and not case.service.inherits:
        message = f"no volume holds {served.path}; unless the image does, vLLM takes it for a name on a hub"
        yield Fault(
            "warning", served.line, message, f"- /folder/with/the/weights:{served.path}:ro as a volume"
        )


def _host_loopback(case: Case) -> Iterator[Fault]:
    flag = case.service.launch.get("--host")
    if flag and (flag.value or "").startswith(("127.", "localhost", "::1")):
        message = f"--host {flag.value} is the container itself: no other container reaches it"
        yield Fault("error", flag.line, message, "take it out; what the host publishes is in ports")


def _threads_all(case: Case) -> Iterator[Fault]:
    view = case.service.environment.get("VLLM_CPU_OMP_THREADS_BIND")
    if view and view.text == "all":
        message = "VLLM_CPU_OMP_THREADS_BIND takes a CPU list, auto or nobind; all ends the start"
        yield Fault("error", view.line, message, f"VLLM_CPU_OMP_THREADS_BIND={case.threads or 'auto'}")


RULES = (
    Rule("hf-overrides-env", "overrides stand in a variable that vLLM never reads", _overrides_variable),
    Rule("hf-overrides-missing", "a Qwen3-Reranker gets no overrides", _overrides_missing),
    Rule(
        "hf-overrides-broken", "overrides are no JSON once quotes are gone, or lack a key", _overrides_broken
    ),
    Rule("task-removed", "--task, which vLLM no longer has", _task_removed),
    Rule("runner-missing", "no --runner pooling", _runner_missing),
    Rule("template-missing", "a Qwen3-Reranker without its prompt", _template_missing),
    Rule("dtype-slow", "arithmetic that this machine's processor is slow at", _dtype_slow),
    Rule("model-name-slash", "the model's name is a path", _name_slash),
    Rule("model-name-split", "RAGFlow would cut the model's name", _name_split),
    Rule("trust-remote-code", "Python of the model's folder is run", _trust_remote_code),
    Rule("kv-cache-unset", "the key-value cache has no size", _kv_unset),
    Rule("kv-cache-broken", "the key-value cache's size is no whole number", _kv_broken),
    Rule("kv-cache-small", "one long document does not fit the key-value cache", _kv_small),
    Rule("max-model-len-unset", "the longest input isn't bounded", _length_unset),
    Rule("max-model-len-large", "longer than the model can", _length_large),
    Rule("block-size", "a block size that ends the engine", _block_size),
    Rule("model-positional", "the entry point may not read the model", _model_positional),
    Rule("model-not-mounted", "no volume holds the model's path", _model_not_mounted),
    Rule("host-loopback", "the server listens for itself only", _host_loopback),
    Rule("threads-all", "a thread binding that ends the start", _threads_all),
)
"""Each with the code that users see."""
