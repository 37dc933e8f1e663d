"""A reranker and a machine become the exact container to start; pure.

:func:`launch` gives the :class:`~ragops.docker.objects.ContainerSpec`. :func:`arguments` and
:func:`environment` are its two tables, each row with the reason that it is there; the
reasons were read in the source of vLLM 0.32 or measured with it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ragops.docker.objects import ContainerSpec, HealthCheck, Mount
from ragops.errors import StackError
from ragops.reranker import sizing
from ragops.reranker.host import format_cpu_list

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ragops.configuration import Stack
    from ragops.reranker.host import Host
    from ragops.reranker.model import Kind, Model

PORT = 8000
"""Port of vLLM inside its container."""

ENTRYPOINT = ("python3", "-m", "vllm.entrypoints.openai.api_server")
"""Named, because images differ: the official one has ``vllm serve``, ours has this."""

TEMPLATE_TOKENS = 80
"""What the score template of Qwen3-Reranker adds to a query and a document, rounded up."""

TEMPLATES = Path(__file__).parents[1] / "data" / "templates"


@dataclass(frozen=True)
class Known:
    """What a kind of model needs from vLLM, and what its scores are."""

    kind: Kind
    examples: tuple[str, ...]
    scores: str
    overrides: str = ""
    """Value of ``--hf-overrides``."""
    template: str = ""
    """Score template, a file in ``data/templates``."""


KNOWN: tuple[Known, ...] = (
    Known(
        kind="qwen3-reranker",
        examples=("Qwen3-Reranker-0.6B", "Qwen3-Reranker-4B", "Qwen3-Reranker-8B"),
        scores="probability of 'yes' against 'no'",
        overrides=json.dumps(
            {
                "architectures": ["Qwen3ForSequenceClassification"],
                "classifier_from_token": ["no", "yes"],
                "is_original_qwen3_reranker": True,
            }
        ),
        template="qwen3_reranker.jinja",
    ),
    Known(
        kind="qwen3-reranker-seq-cls",
        examples=("Qwen3-Reranker-0.6B-seq-cls",),
        scores="probability of 'yes' against 'no'",
        template="qwen3_reranker.jinja",
    ),
    Known(
        kind="cross-encoder",
        examples=("bge-reranker-v2-m3", "bge-reranker-base", "ms-marco-MiniLM-L6-v2"),
        scores="sigmoid of the one label",
    ),
    Known(
        kind="embedding",
        examples=("all-MiniLM-L6-v2", "Qwen3-Embedding-0.6B"),
        scores="cosine similarity of two separate embeddings",
    ),
)


@dataclass(frozen=True)
class Setting:
    """One argument or environment variable, and why it is set."""

    name: str
    value: str
    why: str


def known(model: Model) -> Known:
    """The row of :data:`KNOWN` for a model."""
    return next(row for row in KNOWN if row.kind == model.kind)


def template_file(model: Model) -> Path | None:
    """The packaged score template that a model needs, if it needs one."""
    name = known(model).template
    return TEMPLATES / name if name else None


def served_name(stack: Stack, model: Model) -> str:
    """Name under which vLLM answers: the stack's, else the folder's in lower case.

    RAGFlow splits model names at ``___`` and at ``@``, so neither is ever in it.
    """
    return stack.reranker.served_name or _slug(model.name)


def arguments(stack: Stack, model: Model, host: Host) -> tuple[Setting, ...]:
    """Command line of vLLM, each flag with its reason."""
    kv_cache = str(sizing.kv_cache(stack, model, host))
    rows = (
        Setting("--model", f"/models/{_slug(model.name)}", "the mounted folder; nothing is downloaded"),
        Setting("--served-model-name", served_name(stack, model), "what RAGFlow calls it"),
        Setting("--port", str(PORT), "the same in every image"),
        Setting("--runner", "pooling", "one number for each document; else there is no rerank route"),
        Setting("--dtype", sizing.dtype(stack, host), "auto takes float16, which AMX can't speed up"),
        Setting("--max-model-len", str(sizing.max_model_len(stack, model)), "bounds one document's memory"),
        Setting("--kv-cache-memory-bytes", kv_cache, "else vLLM takes 92 % of the memory"),
    )
    return (*rows, *_prompting(known(model)), *_caching(stack, model), *_batching(stack, model))


def environment(stack: Stack, host: Host) -> tuple[Setting, ...]:
    """Environment of the container, each variable with its reason.

    LD_PRELOAD is never among them: images preload tcmalloc and OpenMP, and without them
    vLLM computes on one core. Nor is VLLM_ENABLE_V1_MULTIPROCESSING=0, which starts one process
    fewer: that is ready sooner, but engine and arithmetic then share an interpreter, and calls
    take longer.
    """
    chosen = sizing.cores(stack, host)
    threads = format_cpu_list(sizing.compute(stack, host))
    patience = str(max(600, stack.reranker.ready_timeout))
    return (
        Setting("VLLM_CPU_OMP_THREADS_BIND", threads, "auto leaves out a core even when there are two"),
        # The stored result of ahead-of-time compilation never loads ("'function' object has
        # no attribute 'finalize_loading'"), so each start would compile again: 70 s, not 38 s.
        Setting("VLLM_USE_AOT_COMPILE", "0", "lets the second start use the compile cache"),
        Setting("VLLM_CACHE_ROOT", "/cache/vllm", "compiled code outlives the container"),
        Setting("TORCHINDUCTOR_CACHE_DIR", "/cache/inductor", "as above"),
        Setting("PYTHONPYCACHEPREFIX", "/cache/pyc", "the image has no .pyc files; halves the second start"),
        Setting("TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS", "0", "saves 150 MB, and 4 s of later starts"),
        Setting("TORCHINDUCTOR_COMPILE_THREADS", str(sizing.compilers(chosen)), "else 32 on a large machine"),
        Setting("XDG_CACHE_HOME", "/cache", "as above, for everything else that caches"),
        Setting("HOME", "/tmp", "the root file system is read-only"),  # noqa: S108
        Setting("VLLM_ENGINE_READY_TIMEOUT_S", patience, "vLLM waits as long as ragops does"),
        Setting("HF_HUB_OFFLINE", "1", "the weights are mounted; ask no hub"),
        Setting("TRANSFORMERS_OFFLINE", "1", "as above"),
        Setting("VLLM_NO_USAGE_STATS", "1", "send nothing out"),
        Setting("DO_NOT_TRACK", "1", "as above"),
    )


def launch(
    stack: Stack, model: Model, host: Host, *, image: str, template: Path | None = None
) -> ContainerSpec:
    """The reranker's container.

    CPUs are given as a set, never as a quota: vLLM starts one thread for each CPU that it
    sees, and a quota would stop them all in the middle of their work.

    Args:
        stack: The declaration.
        model: What :func:`ragops.reranker.model.resolve` found.
        host: What :func:`ragops.reranker.host.read_host` found.
        image: The image to start.
        template: Score template on the engine's host; the packaged one when left out.

    Raises:
        StackError: The stack asks for CPUs, a length or memory that aren't there.
    """
    chosen = sizing.cores(stack, host)
    reranker = stack.reranker
    return ContainerSpec(
        name=reranker.name,
        image=image,
        entrypoint=ENTRYPOINT,
        command=_flat(arguments(stack, model, host)),
        environment=tuple((row.name, row.value) for row in environment(stack, host)),
        mounts=_mounts(stack, model, template or template_file(model)),
        tmpfs=(("/tmp", "rw,exec,nosuid,nodev,mode=1777"),),  # noqa: S108
        network=stack.network.name,
        aliases=(reranker.name,),
        publish=_publish(stack),
        cpuset_cpus=format_cpu_list(core.cpu for core in chosen),
        cpuset_mems=format_cpu_list(core.node for core in chosen),
        memory=sizing.memory_limit(stack, model, host),
        shm_size=sizing.SHARED,  # Docker's 64 MiB stops the start
        pids_limit=4096,  # threads count too; enough for the compiler on many cores
        restart="on-failure:5",
        health=_health(stack),
        cap_drop=("ALL",),
        security_opt=("no-new-privileges",),
        read_only=True,
    )


def _slug(name: str) -> str:
    """A name without what RAGFlow splits at, or what a mount or a URL would have to quote."""
    return re.sub(r"[^a-z0-9._-]+|_{3,}", "-", name.lower()).strip("-._") or "model"


def _prompting(needs: Known) -> tuple[Setting, ...]:
    overrides = Setting(
        "--hf-overrides", needs.overrides, "reads P(yes) off the answer; else a meaningless cosine comes back"
    )
    template = Setting(
        "--chat-template",
        f"/templates/{needs.template}",
        "the prompt of the training; else the order is near random",
    )
    return (*((overrides,) if needs.overrides else ()), *((template,) if needs.template else ()))


def _caching(stack: Stack, model: Model) -> Iterator[Setting]:
    size, shared = stack.reranker.block_size, stack.reranker.prefix_caching
    if not model.causal:
        if size or shared:
            raise StackError(
                f"{model.name} is an encoder: it keeps no keys and values that documents could share",
                code="setting-refused",
                evidence="reranker.block_size and prefix_caching are for models that read from left to right",
                hint="leave both out",
            )
        return
    why = "128 shares no short query; 16 ends the engine at the first request"
    yield Setting("--block-size", str(size or 32), why)
    if shared is False:
        yield Setting("--no-enable-prefix-caching", "", "the stack says so; documents are computed whole")
    else:
        yield Setting("--enable-prefix-caching", "", "what stands before each document is computed once")


def _batching(stack: Stack, model: Model) -> Iterator[Setting]:
    """Only what the stack names: vLLM's own defaults are the right ones on most machines."""
    tokens = sizing.batched_tokens(stack, model)
    if stack.reranker.max_num_batched_tokens:
        yield Setting("--max-num-batched-tokens", str(tokens), "the stack says so; larger steps, more memory")
    if sequences := stack.reranker.max_num_seqs:
        yield Setting("--max-num-seqs", str(sequences), "the stack says so; documents in one step")
    if stack.reranker.eager:
        yield Setting("--enforce-eager", "", "the stack says so; nothing is compiled")


def _flat(rows: tuple[Setting, ...]) -> tuple[str, ...]:
    return tuple(part for row in rows for part in (row.name, row.value) if part)


def _mounts(stack: Stack, model: Model, template: Path | None) -> tuple[Mount, ...]:
    weights = Mount(str(model.folder), f"/models/{_slug(model.name)}", read_only=True)
    cache = Mount(f"{stack.reranker.name}-cache", "/cache", kind="volume")
    name = known(model).template
    if not name:
        return (weights, cache)
    return (weights, Mount(str(template), f"/templates/{name}", read_only=True), cache)


def _publish(stack: Stack) -> tuple[tuple[str, int, int], ...]:
    reranker = stack.reranker
    if reranker.port is False or stack.network.internal:
        return ()
    return ((reranker.publish, reranker.port, PORT),)


def _health(stack: Stack) -> HealthCheck:
    # Python, because curl isn't in every image; a busy machine may take seconds to start it.
    code = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{PORT}/health', timeout=8)"
    return HealthCheck(command=("python3", "-c", code), timeout=10, start_period=stack.reranker.ready_timeout)
