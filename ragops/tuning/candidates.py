"""Which settings are worth a trial on this machine with this model; pure.

A candidate is a small change of ``[reranker]``, tried on top of what has won so far.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragops import sizing
from ragops.errors import BenchError
from ragops.host import format_cpu_list
from ragops.stack import Reranker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ragops.host import Core, Host
    from ragops.model import Model
    from ragops.stack import Stack

Value = str | int | bool
Settings = tuple[tuple[str, Value], ...]
"""Keys of ``[reranker]`` and their values."""

OWN = ("compute", "block_size", "prefix_caching", "max_num_batched_tokens", "max_num_seqs", "eager")
"""Keys that each search begins without. ``dtype``, ``cores`` and ``model`` may be the user's wish: one
that is named stays as it is."""

INT8 = "int8"
"""Name of the candidate whose checkpoint is made when its turn comes."""


@dataclass(frozen=True)
class Candidate:
    """A change to try."""

    name: str
    settings: Settings
    why: str
    """What could make it faster."""
    asked: bool = False
    """Tried only when it is named: no gain is expected here."""


def untuned(stack: Stack) -> Stack:
    """The declaration without what an earlier search wrote: the launch that all is measured against."""
    usual = Reranker()
    changed = {key: getattr(usual, key) for key in OWN}
    return stack.model_copy(update={"reranker": stack.reranker.model_copy(update=changed)})


def applied(stack: Stack, settings: Settings) -> Stack:
    """The declaration with some settings changed, checked as if they had been read from a file."""
    reranker = Reranker.model_validate({**stack.reranker.model_dump(), **dict(settings)})
    return stack.model_copy(update={"reranker": reranker})


def merged(before: Settings, change: Settings) -> Settings:
    """Settings with a change on top."""
    return tuple({**dict(before), **dict(change)}.items())


def candidates(stack: Stack, model: Model, host: Host) -> tuple[Candidate, ...]:
    """All that there are, in the order in which they are tried.

    Threads come first, as everything else depends on them; int8 last, as it changes scores the most.

    Args:
        stack: The declaration, :func:`untuned`.
        model: What is served.
        host: The machine.
    """
    return (
        *_threads(stack, host),
        *_arithmetic(stack, host),
        *_caching(model),
        *_steps(stack, model),
        Candidate("eager", (("eager", True),), "nothing is compiled; the start is sooner, steps are plain"),
    )


def chosen(found: tuple[Candidate, ...], only: Iterable[str] = ()) -> tuple[Candidate, ...]:
    """Those that are named, in their own order; without names all from which a gain is expected.

    Raises:
        BenchError: There is none of that name here.
    """
    wanted = tuple(only)
    if unknown := [name for name in wanted if name not in {one.name for one in found}]:
        raise BenchError(
            f"{unknown[0]} is no setting to try for this model on this machine",
            evidence=f"these are: {', '.join(one.name for one in found)}",
            hint="ragops tune --only NAME ..., or without it for all",
        )
    return tuple(one for one in found if (one.name in wanted if wanted else not one.asked))


def _threads(stack: Stack, host: Host) -> Iterator[Candidate]:
    cores = sizing.cores(stack, host)
    cpus = tuple(core.cpu for core in cores)
    if sizing.compute_cpus(cores) != cpus:
        yield _bound("compute-all", cpus, "the core that is left to vLLM's own process computes too")
    elif len(cpus) > 1:
        yield _bound("compute-but-one", cpus[:-1], "vLLM's own process gets a core that nobody computes on")
    if stack.reranker.cores != "auto":
        return
    node = tuple(core for core in host.cpus if core.node == cores[0].node)
    if len(node) > len(cores):
        yield _placed("both-threads", node, "both threads of each core compute")
    everywhere = _one_of_each(host.cpus)
    if len({core.node for core in everywhere}) > 1:
        yield _placed("all-nodes", everywhere, "more cores, though half of the memory is another node's")


def _bound(name: str, cpus: tuple[int, ...], why: str) -> Candidate:
    return Candidate(name, (("compute", format_cpu_list(cpus)),), why)


def _placed(name: str, cores: tuple[Core, ...], why: str) -> Candidate:
    listed = format_cpu_list(core.cpu for core in cores)
    compute = format_cpu_list(sizing.compute_cpus(cores))
    return Candidate(name, (("cores", listed), ("compute", compute)), why)


def _one_of_each(cpus: tuple[Core, ...]) -> tuple[Core, ...]:
    """The first thread of each physical core."""
    first: dict[tuple[int, int], Core] = {}
    for core in sorted(cpus, key=lambda core: core.cpu):
        first.setdefault((core.socket, core.core), core)
    return tuple(first.values())


def _arithmetic(stack: Stack, host: Host) -> Iterator[Candidate]:
    if stack.reranker.dtype != "auto":
        return
    if host.has_bf16:
        amx = "amx_bf16" in host.features
        why = "exact; without AMX tiles bfloat16 may gain little over it"
        yield Candidate("float32", (("dtype", "float32"),), why, asked=amx)
    else:
        why = "half the memory; this processor has no instructions for it, so it is emulated"
        yield Candidate("bfloat16", (("dtype", "bfloat16"),), why, asked=True)
    why = "half the memory; only few processors multiply it at full speed"
    yield Candidate("float16", (("dtype", "float16"),), why, asked=True)


def _caching(model: Model) -> Iterator[Candidate]:
    if not model.causal:
        return
    for size in (64, 128):
        why = "larger blocks are less work to keep; less of a short query is shared"
        yield Candidate(f"block-{size}", (("block_size", size),), why)
    why = "no keeping of blocks; worth it where documents have little in common"
    yield Candidate("no-prefix-cache", (("prefix_caching", False),), why)


def _steps(stack: Stack, model: Model) -> Iterator[Candidate]:
    usual = sizing.batched_tokens(stack, model)
    for tokens in (1024, 4096, 8192):
        # An encoder reads each document in one piece: no step may be shorter than the longest.
        if tokens > usual or (model.causal and tokens < usual):
            size = "larger matrices, fewer steps" if tokens > usual else "smaller matrices stay in the caches"
            yield Candidate(f"batched-{tokens}", (("max_num_batched_tokens", tokens),), size)
    why = "fewer documents in a step; smaller steps stay in the caches"
    yield Candidate("sequences-32", (("max_num_seqs", 32),), why)
    why = "matters only when more than 128 documents wait, which one RAGFlow never sends"
    yield Candidate("sequences-256", (("max_num_seqs", 256),), why, asked=True)
