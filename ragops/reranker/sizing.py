"""How much of a machine a reranker gets: arithmetic, CPUs, length and memory; pure.

``vllm.py`` writes these down as a launch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragops.errors import StackError
from ragops.reranker.host import format_cpu_list, parse_cpu_list

if TYPE_CHECKING:
    from ragops.configuration import Stack
    from ragops.reranker.host import Core, Host
    from ragops.reranker.model import Model

GIB = 1 << 30
MIB = 1 << 20

LONGEST = 8192
"""Tokens of query and document that are served unless the stack asks for more or fewer.
The 40,960 of Qwen3-Reranker would need 4.4 GiB of key-value cache for one document."""

SHARED = GIB
"""``/dev/shm`` of the container, in bytes."""

SHARED_NEED = (160 + 240) * MIB
"""What vLLM 0.32's two message rings take of it, and refuse to start without."""

BATCHED = 2048
"""Tokens in one step of vLLM where nothing else is said, on a CPU."""

SEQUENCES = 128
"""Documents in one step, likewise."""

FEW_CORES = 4
"""Up to this many cores all compute; with more, one is left to the engine's own process."""


@dataclass(frozen=True)
class Memory:
    """What the container's memory goes to, in bytes."""

    weights: int
    kv_cache: int
    activations: int
    processes: int
    files: int
    """Page cache of what is read from disk. The kernel would give it back, but vLLM counts it as used
    and refuses to start when the key-value cache does not fit beside it."""

    @property
    def held(self) -> int:
        """What nobody gives back, rounded up to 256 MiB."""
        return _whole(self.weights + self.kv_cache + self.activations + self.processes)

    @property
    def total(self) -> int:
        """All parts, rounded up to 256 MiB."""
        return _whole(self.weights + self.kv_cache + self.activations + self.processes + self.files)


def dtype(stack: Stack, host: Host) -> str:
    """Arithmetic: the stack's, else bfloat16 where the processor has it, else float32.

    vLLM's own ``auto`` takes float16 for a float32 reranker, which AMX doesn't speed up:
    2.5 times slower on the same machine. Without bfloat16 instructions it is emulated.
    """
    if stack.reranker.dtype != "auto":
        return stack.reranker.dtype
    return "bfloat16" if host.has_bf16 else "float32"


def arithmetic(stack: Stack, model: Model, host: Host) -> str:
    """What the linear layers compute in: int8 where the weights are, whatever the rest is in."""
    return "int8" if model.int8_bytes else dtype(stack, host)


def cores(stack: Stack, host: Host) -> tuple[Core, ...]:
    """CPUs of the container, ascending.

    The stack's list; else one thread of each physical core (a second one adds waiting,
    not arithmetic) on the NUMA node with the most allowed CPUs, the lowest node on a tie.

    Raises:
        StackError: The stack names a CPU that this process may not use, or there is none.
    """
    if stack.reranker.cores != "auto":
        return _named_cores(stack.reranker.cores, host)
    if not host.cpus:
        raise StackError(
            "can't tell which CPUs there are", code="cores-missing", hint="set reranker.cores, such as 0-3"
        )
    nodes = [core.node for core in host.cpus]
    node = min(set(nodes), key=lambda one: (-nodes.count(one), one))
    first: dict[tuple[int, int], Core] = {}
    for core in sorted((core for core in host.cpus if core.node == node), key=lambda core: core.cpu):
        first.setdefault((core.socket, core.core), core)
    return tuple(first.values())


def compute(stack: Stack, host: Host) -> tuple[int, ...]:
    """CPUs that OpenMP threads are bound to: the stack's, else :func:`compute_cpus` of its cores.

    Raises:
        StackError: The stack names a CPU that is not the container's.
    """
    chosen = cores(stack, host)
    if stack.reranker.compute == "auto":
        return compute_cpus(chosen)
    wanted, there = parse_cpu_list(stack.reranker.compute), {core.cpu for core in chosen}
    if missing := [cpu for cpu in wanted if cpu not in there]:
        raise StackError(
            f"reranker.compute: CPU {format_cpu_list(missing)} can't be used here",
            code="cores-missing",
            evidence=f"the container's cores: {format_cpu_list(there)}",
            hint="leave compute out, or name more cores",
        )
    return wanted


def compute_cpus(chosen: tuple[Core, ...]) -> tuple[int, ...]:
    """CPUs that OpenMP threads are bound to.

    The engine's process spins for up to a second after each message, and vLLM's
    maintainers found it to compete when every core computes (vllm#25818): they leave one
    out. On few cores that one is too much of the machine: two of two did 1.9 times the
    work of one of two.
    """
    cpus = tuple(core.cpu for core in chosen)
    return cpus if len(cpus) <= FEW_CORES else cpus[:-1]


def compilers(chosen: tuple[Core, ...]) -> int:
    """Compilers that run at once at the first start; torch would take one for each of 32 CPUs."""
    return min(FEW_CORES, len(chosen))


def max_model_len(stack: Stack, model: Model) -> int:
    """Longest query and document together, in tokens.

    Raises:
        StackError: The stack wants more than the model can.
    """
    wanted = stack.reranker.max_model_len
    if wanted is not None and wanted > model.max_tokens:
        raise StackError(
            f"reranker.max_model_len = {wanted}, but {model.name} takes {model.max_tokens} tokens",
            code="length-refused",
            hint=f"set it to {model.max_tokens} or less, or leave it out",
        )
    return wanted or min(model.max_tokens, LONGEST)


def batched_tokens(stack: Stack, model: Model) -> int:
    """Tokens in one step. An encoder reads each document in one piece, so the longest has to fit.

    Raises:
        StackError: vLLM would not start with so few.
    """
    least = 1 if model.causal else max_model_len(stack, model)
    wanted = stack.reranker.max_num_batched_tokens
    if wanted is None:
        return max(BATCHED, least)
    if wanted < least:
        raise StackError(
            f"reranker.max_num_batched_tokens = {wanted}, but {model.name} reads {least} tokens in one piece",
            code="setting-refused",
            hint=f"set it to {least} or more, or leave it out",
        )
    if wanted < (documents := stack.reranker.max_num_seqs or SEQUENCES):
        raise StackError(
            f"reranker.max_num_batched_tokens = {wanted} is too few for {documents} documents in a step",
            code="setting-refused",
            hint=f"set it to {documents} or more, or max_num_seqs to {wanted} or less",
        )
    return wanted


def memory(stack: Stack, model: Model, host: Host) -> Memory:
    """What the container needs.

    * weights: the files in the arithmetic that is served, and once the output embedding,
      which a Qwen3-Reranker holds beside them while its score row is made;
    * key-value cache: what the stack gives; encoders have none;
    * activations: for each token of the largest batch the projections of one layer, in
      4-byte numbers;
    * processes: three Python processes with torch, and the compilers of the first start;
    * files: the weights' as they lie on the disk, and 1 GiB for the image's.

    Measured with Qwen3-Reranker-0.6B's shape in float32 on two cores, nothing read before: 6.95 GiB
    held where this has 7.75, and 1.8 GiB of page cache where it has 2.1.
    """
    shape = model.shape
    batch = batched_tokens(stack, model)
    head = shape.vocabulary * shape.hidden * 2 if model.kind == "qwen3-reranker" else 0
    return Memory(
        weights=model.weights_as(dtype(stack, host)) + head,
        kv_cache=stack.reranker.kv_cache_gib * GIB if model.causal else 0,
        activations=batch * (6 * shape.hidden + 3 * shape.intermediate) * 4,
        processes=2 * GIB + compilers(cores(stack, host)) * GIB // 2,
        files=model.weight_bytes + GIB,
    )


def kv_cache(stack: Stack, model: Model, host: Host) -> int:
    """Key-value cache in bytes; an encoder uses none but has to be told a size.

    Raises:
        StackError: One document of the greatest length doesn't fit.
    """
    if not model.causal:
        return 64 * MIB
    size = stack.reranker.kv_cache_gib * GIB
    need = model.kv_bytes(dtype(stack, host)) * max_model_len(stack, model)
    if need > size:
        raise StackError(
            f"a document of {max_model_len(stack, model)} tokens does not fit the key-value cache",
            code="kv-cache-small",
            evidence=f"it takes {need / GIB:.2f} GiB, reranker.kv_cache_gib = {size // GIB}",
            hint=f"set kv_cache_gib = {-(-need // GIB)}, or a smaller max_model_len",
        )
    return size


def memory_limit(stack: Stack, model: Model, host: Host) -> int:
    """Memory limit of the container in bytes: the stack's, else what :func:`memory` adds up to.

    Page cache gets what the machine has: with a limit that is the machine's memory, vLLM looks at what
    is free instead.

    Raises:
        StackError: The machine, or the NUMA node that the CPUs are on, has less than is held.
    """
    named, parts = stack.reranker.memory_gib, memory(stack, model, host)
    need = named * GIB if named else parts.held
    has = host.memory if named else host.usable_memory
    nodes = {core.node for core in cores(stack, host)}
    has = min(has, sum(node.memory for node in host.nodes if node.node in nodes))
    if need > has:
        raise StackError(
            f"the reranker needs {need / GIB:.1f} GiB of memory, this machine offers {has / GIB:.1f}",
            code="memory-short",
            evidence=f"{model.name} in {dtype(stack, host)}, NUMA node {format_cpu_list(nodes)}",
            hint="set reranker.memory_gib, a smaller kv_cache_gib, or a smaller model",
        )
    return need if named else min(parts.total, has)


def _whole(size: int) -> int:
    return -(-size // (256 * MIB)) * 256 * MIB


def _named_cores(text: str, host: Host) -> tuple[Core, ...]:
    allowed = {core.cpu: core for core in host.cpus}
    wanted = parse_cpu_list(text)
    if missing := [cpu for cpu in wanted if cpu not in allowed]:
        raise StackError(
            f"reranker.cores = {text}, but CPU {format_cpu_list(missing)} can't be used here",
            code="cores-missing",
            evidence=f"allowed: {format_cpu_list(allowed)}",
            hint="leave cores out for one thread of each core",
        )
    return tuple(allowed[cpu] for cpu in wanted)
