"""What would make a reranker faster, best first, judged from how it really runs; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ragops import sizing
from ragops.host import parse_cpu_list
from ragops.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ragops.host import Host
    from ragops.model import Model
    from ragops.state import ContainerState

_PREFIX = "--enable-prefix-caching"
_BLOCK = "--block-size"


def advice(reranker: ContainerState, model: Model, host: Host) -> tuple[str, ...]:
    """What would help: arithmetic, cores, caches, then smaller calls, then more machines.

    Args:
        reranker: The container as it runs.
        model: What it serves.
        host: The machine.
    """
    return (*_dtype(reranker, host), *_cores(reranker, host), *_caches(reranker, model), *_ALWAYS)


_ALWAYS = (
    "shorter chunks (chunk_token_num in RAGFlow), or fewer (top_k, from v0.25 on): time goes by tokens",
    "more cores: another machine, or a reranker on each NUMA node and a call's documents spread over them",
)


def _flag(reranker: ContainerState, name: str) -> str:
    command = reranker.command
    return command[command.index(name) + 1] if name in command[:-1] else ""


def _dtype(reranker: ContainerState, host: Host) -> Iterator[str]:
    served = _flag(reranker, "--dtype") or "auto"
    if host.has_bf16 and served != "bfloat16":
        yield f'dtype = "bfloat16" under [reranker]: {served} is served, and this processor has bfloat16'


def _cores(reranker: ContainerState, host: Host) -> Iterator[str]:
    bound = dict(line.split("=", 1) for line in reranker.environment if "=" in line)
    threads = bound.get("VLLM_CPU_OMP_THREADS_BIND", "auto")
    best = sizing.compute_cpus(sizing.cores(Stack(), host))
    if threads == "auto":
        yield f"cores: vLLM leaves one out by itself; ragops up binds {len(best)} threads"
    elif threads[0].isdigit() and "|" not in threads and len(parse_cpu_list(threads)) < len(best):
        yield f'cores = "auto" under [reranker]: {len(parse_cpu_list(threads))} of {len(best)} compute'


def _caches(reranker: ContainerState, model: Model) -> Iterator[str]:
    if not model.causal:
        return
    if _PREFIX not in reranker.command:
        yield f"{_PREFIX}: template and query are computed once for all documents; ragops up sets it"
    elif _flag(reranker, _BLOCK) != "32":
        yield f"{_BLOCK} 32: with larger blocks a short query is shared by no document; ragops up sets it"
