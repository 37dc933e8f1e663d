"""Resources of a reranker on a machine: CPUs, data type, lengths and memory; pure.

:func:`sizes` computes all of it once; ``options.py`` turns the :class:`Sizing` into a container. The parts
that need no model, :func:`cores`, :func:`compute_cpus` and :func:`dtype`, serve the checks of a machine too.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ragops.configuration import Stack
from ragops.errors import StackError
from ragops.reranker import architectures
from ragops.reranker.host import Core, Host, format_cpu_list, parse_cpu_list
from ragops.reranker.model import Model

GIB = 1 << 30
MIB = 1 << 20

DEFAULT_LENGTH = 8192
"""Tokens of query and document together, unless the configuration sets another length.
The 40,960 of Qwen3-Reranker would need 4.4 GiB of key-value cache for one document."""

SHM_SIZE = GIB

DEFAULT_TOKENS = 2048

DEFAULT_SEQUENCES = 128

FEW_CORES = 4
"""Number of cores up to which all compute; with more, one is reserved for vLLM's engine process."""


@dataclass(frozen=True)
class Memory:
    """Estimated memory of the container by use, in bytes."""

    weights: int
    kv_cache: int
    activations: int
    processes: int
    page_cache: int
    """Of files that are read at the start. The kernel can reclaim it, but vLLM counts it as used
    and does not start when the key-value cache does not fit beside it."""

    @property
    def required(self) -> int:
        """Memory that the kernel can't reclaim, rounded up to 256 MiB."""
        return _rounded(self.weights + self.kv_cache + self.activations + self.processes)

    @property
    def total(self) -> int:
        """All parts, rounded up to 256 MiB."""
        return _rounded(self.weights + self.kv_cache + self.activations + self.processes + self.page_cache)


@dataclass(frozen=True)
class Sizing:
    """Resources of a reranker: CPUs, data type, limits in tokens, and memory in bytes."""

    cores: tuple[Core, ...]
    compute: tuple[int, ...]
    """CPUs that OpenMP threads are bound to."""
    dtype: str
    arithmetic: str
    """Data type of the linear layers: ``int8`` where their weights are, else :attr:`dtype`."""
    max_model_len: int
    batched_tokens: int
    kv_cache: int
    memory: Memory
    memory_limit: int

    @property
    def compilers(self) -> int:
        """Number of compiler processes at the first start; torch's default is one per CPU, up to 32."""
        return _compilers(self.cores)


def size(stack: Stack, model: Model, host: Host) -> Sizing:
    """The resources of the first replica: see :func:`sizes`."""
    return sizes(stack, model, host)[0]


def sizes(stack: Stack, model: Model, host: Host) -> tuple[Sizing, ...]:
    """Compute the resources of each replica on a machine; together they fit it."""
    sets, data_type = core_sets(stack, host), dtype(stack, host)
    length = _max_model_len(stack, model, data_type)
    tokens = _batched_tokens(stack, model, length)
    computing = compute_sets(stack, sets)
    served = f"{model.name} in {data_type}"
    memories = [_memory(stack, model, data_type, tokens, own) for own in sets]
    return tuple(
        Sizing(
            cores=own,
            compute=compute,
            dtype=data_type,
            arithmetic="int8" if model.int8_bytes else data_type,
            max_model_len=length,
            batched_tokens=tokens,
            kv_cache=_kv_cache(stack, model, data_type, length),
            memory=memory,
            memory_limit=_memory_limit(stack, served, memory, own, sets, host),
        )
        for own, compute, memory in zip(sets, computing, memories, strict=True)
    )


def sizes_on(stack: Stack, model: Model, hosts: Sequence[Host]) -> tuple[Sizing, ...]:
    """The resources of one replica on each of several machines, all with the data type of the least able."""
    data_type = dtype(stack, min(hosts, key=lambda host: host.has_bf16))
    options = stack.reranker.model_copy(update={"replicas": 1, "dtype": data_type})
    return tuple(size(stack.model_copy(update={"reranker": options}), model, host) for host in hosts)


def dtype(stack: Stack, host: Host) -> str:
    """Data type of the model: the configured one, else bfloat16 where the processor has it, else float32.

    vLLM's own ``auto`` serves a float32 reranker in float16, which AMX doesn't speed up:
    2.5 times slower on the same machine. Without bfloat16 instructions it is emulated.
    """
    if stack.reranker.dtype != "auto":
        return stack.reranker.dtype
    return "bfloat16" if host.has_bf16 else "float32"


def cores(stack: Stack, host: Host) -> tuple[Core, ...]:
    """CPUs of one container, ascending.

    The configured list; else one thread of each physical core (a second one adds waiting,
    not arithmetic) on the NUMA node with the most allowed CPUs, the lowest node on a tie.
    """
    usable = _usable_cores(stack, host)
    if stack.reranker.cores != "auto":
        return usable
    node = largest_node(host.cpus)
    return tuple(core for core in usable if core.node == node)


def core_sets(stack: Stack, host: Host) -> tuple[tuple[Core, ...], ...]:
    """CPUs of each replica, none in two: one replica has those of :func:`cores`.

    Several have one NUMA node each; where there are more of them than nodes, or a node has far more cores,
    its cores are divided, so that the smallest set is as large as it can be.
    """
    count = stack.reranker.replicas
    if count == 1:
        return (cores(stack, host),)
    usable = _usable_cores(stack, host)
    if count > len(usable):
        raise StackError(
            f"{count} replicas need {count} cores, there are {len(usable)}",
            code="replicas-many",
            evidence=f"CPUs that can be used: {format_cpu_list(core.cpu for core in usable)}",
            hint=f"set reranker.replicas to {len(usable)} or less",
        )
    nodes, shares = Counter(core.node for core in usable), Counter[int]()
    for _ in range(count):
        shares[min(nodes, key=lambda node: (-nodes[node] / (shares[node] + 1), node))] += 1
    sets: list[tuple[Core, ...]] = []
    for node, share in sorted(shares.items()):
        members = [core for core in usable if core.node == node]
        bounds = [len(members) * part // share for part in range(share + 1)]
        sets += [tuple(members[begin:end]) for begin, end in pairwise(bounds)]
    return tuple(sets)


def _usable_cores(stack: Stack, host: Host) -> tuple[Core, ...]:
    """The configured CPUs, else one thread of each physical core of the machine."""
    if stack.reranker.cores != "auto":
        return _configured_cores(stack.reranker.cores, host)
    if not host.cpus:
        hint = "set reranker.cores, such as 0-3"
        raise StackError("the CPUs of this machine are unknown", code="cores-missing", hint=hint)
    first_threads: dict[tuple[int, int, int], Core] = {}
    for core in sorted(host.cpus, key=lambda core: core.cpu):
        first_threads.setdefault((core.node, core.socket, core.core), core)
    return tuple(first_threads.values())


def largest_node(cpus: Iterable[Core]) -> int:
    """The NUMA node with the most of these CPUs, the lowest node on a tie."""
    counts = Counter(core.node for core in cpus)
    return min(counts, key=lambda node: (-counts[node], node))


def compute_cpus(stack: Stack, container_cores: tuple[Core, ...]) -> tuple[int, ...]:
    """CPUs that OpenMP threads are bound to: the configured ones, else all of up to four, else all but one.

    vLLM's engine process spins for up to a second after each message, and its maintainers
    found it to compete when every core computes (vllm#25818): they leave one out. On few
    cores that one is too much of the machine: two of two did 1.9 times the work of one of two.
    """
    cpus = tuple(core.cpu for core in container_cores)
    if stack.reranker.compute == "auto":
        return cpus if len(cpus) <= FEW_CORES else cpus[:-1]
    configured = parse_cpu_list(stack.reranker.compute)
    if missing := [cpu for cpu in configured if cpu not in cpus]:
        raise StackError(
            f"reranker.compute: CPU {format_cpu_list(missing)} can't be used here",
            code="cores-missing",
            evidence=f"the container's cores: {format_cpu_list(cpus)}",
            hint="leave compute out, or configure more cores",
        )
    return configured


def compute_sets(stack: Stack, sets: tuple[tuple[Core, ...], ...]) -> list[tuple[int, ...]]:
    """CPUs of each replica that OpenMP threads are bound to: a configured list is divided like the cores."""
    if stack.reranker.compute == "auto":
        return [compute_cpus(stack, own) for own in sets]
    configured = compute_cpus(stack, tuple(core for own in sets for core in own))
    parts = [tuple(core.cpu for core in own if core.cpu in configured) for own in sets]
    if not all(parts):
        raise StackError(
            f"reranker.compute = {stack.reranker.compute} leaves a replica without a CPU",
            code="cores-missing",
            evidence="cores: " + "; ".join(format_cpu_list(core.cpu for core in own) for own in sets),
            hint="leave compute out",
        )
    return parts


def _configured_cores(text: str, host: Host) -> tuple[Core, ...]:
    allowed = {core.cpu: core for core in host.cpus}
    configured = parse_cpu_list(text)
    if missing := [cpu for cpu in configured if cpu not in allowed]:
        raise StackError(
            f"reranker.cores = {text}, but CPU {format_cpu_list(missing)} can't be used here",
            code="cores-missing",
            evidence=f"allowed: {format_cpu_list(allowed)}",
            hint="leave cores out for one thread of each core",
        )
    return tuple(allowed[cpu] for cpu in configured)


def _max_model_len(stack: Stack, model: Model, data_type: str) -> int:
    """The configured length, else the default; for listwise models all that the key-value cache holds."""
    configured, default = stack.reranker.max_model_len, DEFAULT_LENGTH
    if not architectures.by_kind(model.kind).splits:
        default = _cache_size(stack, model) // (model.kv_bytes(data_type) or 1)
    if configured is not None and configured > model.max_tokens:
        raise StackError(
            f"reranker.max_model_len = {configured}, but {model.name} takes {model.max_tokens} tokens",
            code="length-refused",
            hint=f"set it to {model.max_tokens} or less, or leave it out",
        )
    return configured or min(model.max_tokens, default)


def _batched_tokens(stack: Stack, model: Model, length: int) -> int:
    """Tokens in one step. An encoder reads each document in one piece, so the longest has to fit."""
    least = 1 if model.causal else length
    configured = stack.reranker.max_num_batched_tokens
    if configured is None:
        return max(DEFAULT_TOKENS, least)
    if configured < least:
        message = (
            f"reranker.max_num_batched_tokens = {configured}, but {model.name} needs {least} in one step"
        )
        raise StackError(message, code="setting-refused", hint=f"set it to {least} or more, or leave it out")
    if configured < (documents := stack.reranker.max_num_seqs or DEFAULT_SEQUENCES):
        raise StackError(
            f"reranker.max_num_batched_tokens = {configured} is too few for {documents} documents in a step",
            code="setting-refused",
            hint=f"set it to {documents} or more, or max_num_seqs to {configured} or less",
        )
    return configured


def _cache_size(stack: Stack, model: Model) -> int:
    """Configured bytes; twice the default for RAGFlow's usual 64 documents of 280 tokens read together."""
    configured = "kv_cache_gib" in stack.reranker.model_fields_set
    listwise = not architectures.by_kind(model.kind).splits
    return stack.reranker.kv_cache_gib * GIB * (2 if listwise and not configured else 1)


def _kv_cache(stack: Stack, model: Model, data_type: str, length: int) -> int:
    """Key-value cache in bytes; an encoder uses none, but vLLM requires a size."""
    if not model.causal:
        return 64 * MIB
    configured, need = _cache_size(stack, model), model.kv_bytes(data_type) * length
    if need > configured:
        raise StackError(
            f"a document of {length} tokens does not fit the key-value cache",
            code="kv-cache-small",
            evidence=f"it takes {need / GIB:.2f} GiB, reranker.kv_cache_gib = {configured // GIB}",
            hint=f"set kv_cache_gib = {-(-need // GIB)}, or a smaller max_model_len",
        )
    return configured


def _memory(
    stack: Stack, model: Model, data_type: str, tokens: int, container_cores: tuple[Core, ...]
) -> Memory:
    """Estimate the container's memory.

    * weights: the files in the data type that is served, and once the output embedding,
      which a language model holds beside them while its score row is computed;
    * key-value cache: as configured; encoders have none;
    * activations: for each token of a step the projections of one layer, in 4-byte numbers;
    * processes: three Python processes with torch, and the compilers of the first start;
    * page cache: the weights as they are on the disk, and 1 GiB for the image's files.

    Measured with Qwen3-Reranker-0.6B's shape in float32 on two cores with an empty page cache: 6.95 GiB
    required where this estimates 7.75, and 1.8 GiB of page cache where it estimates 2.1.
    """
    shape = model.shape
    converted = bool(architectures.by_kind(model.kind).overrides)
    head = shape.vocabulary * shape.hidden * 2 if converted else 0
    return Memory(
        weights=model.weights_as(data_type) + head,
        kv_cache=_cache_size(stack, model) if model.causal else 0,
        activations=tokens * (6 * shape.hidden + 3 * shape.intermediate) * 4,
        processes=2 * GIB + _compilers(container_cores) * GIB // 2,
        page_cache=model.weight_bytes + GIB,
    )


def _memory_limit(
    stack: Stack,
    served: str,
    memory: Memory,
    container_cores: tuple[Core, ...],
    sets: Sequence[tuple[Core, ...]],
    host: Host,
) -> int:
    """Memory limit of a container in bytes: the configured one, else the total of the parts.

    Replicas have equal shares of the machine, and of the node that they are on. The page cache gets what is
    left: with a limit that equals the machine's memory, vLLM uses the free memory instead.
    """
    configured = stack.reranker.memory_gib
    need = configured * GIB if configured else memory.required
    nodes = {core.node for core in container_cores}
    available = min(
        (host.memory if configured else host.usable_memory) // len(sets),
        sum(
            node.memory // sum(any(core.node == node.node for core in own) for own in sets)
            for node in host.nodes
            if node.node in nodes
        ),
    )
    if need > available:
        whose = "the reranker" if len(sets) == 1 else f"each of {len(sets)} replicas"
        fewer = "" if len(sets) == 1 else "fewer replicas, "
        raise StackError(
            f"{whose} needs {need / GIB:.1f} GiB of memory, this machine offers {available / GIB:.1f}",
            code="memory-short",
            evidence=f"{served}, NUMA node {format_cpu_list(nodes)}",
            hint=f"set {fewer}reranker.memory_gib, a smaller kv_cache_gib, or a smaller model",
        )
    return need if configured else min(memory.total, available)


def _compilers(container_cores: tuple[Core, ...]) -> int:
    return min(FEW_CORES, len(container_cores))


def _rounded(size: int) -> int:
    return -(-size // (256 * MIB)) * 256 * MIB
