"""The model: is its folder whole, does it fit the memory, does it get enough shared memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ragops import model as models
from ragops import quantize, sizing, weights
from ragops.checks import Check
from ragops.errors import RagopsError
from ragops.minilm import NAME as MINILM
from ragops.stack import home

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ragops.host import Host
    from ragops.model import Model
    from ragops.sizing import Memory
    from ragops.stack import Stack

GIB = sizing.GIB
MIB = sizing.MIB
SHM = "/dev/shm"  # noqa: S108 - the name of a check


def check(stack: Stack, host: Host, *, running: bool) -> Iterator[Check]:
    """The checks of the model that is named, else of the stand-in if it has been fetched before."""
    named = models.named_folder(stack)
    if named is None:
        detail = "none is named: all-MiniLM-L6-v2, a real bi-encoder, stands in"
        remedy = "name the folder of Qwen3-Reranker-0.6B: RAGOPS_MODEL_DIR, or model under [reranker]"
        yield Check("model", "warn", detail, remedy)
    folder = named or home() / "models" / MINILM
    if named is None and not folder.exists():
        yield Check("memory", "skip", "the stand-in has not been fetched yet: ragops up does")
        return
    try:
        model = models.describe(folder)
    except RagopsError as error:
        yield Check("model", "fail", error.short, error.hint)
        return
    if named is not None:
        yield _model(model, host)
    yield files(folder)
    yield memory(stack, model, host, running=running)


def _model(model: Model, host: Host) -> Check:
    detail = f"{model.name}, {model.kind}"
    if model.int8_bytes and (reason := quantize.unfit(host)):
        return Check("model", "fail", f"{detail}, int8: {reason}", "name the folder that it was made from")
    if model.stand_in:
        return Check("model", "warn", f"{detail}: {model.stand_in}", "scores mean nothing here")
    if model.note:
        return Check("model", "warn", f"{detail}: {model.note}", "once it runs: ragops verify")
    return Check("model", "ok", detail)


def files(folder: Path) -> Check:
    """The weights against their index and against checksums, where the folder has them."""
    title, fetch = "model files", f"fetch it again: hf download <owner>/{folder.name} --local-dir {folder}"
    try:
        lacks = weights.against_index(folder)
    except (ValueError, TypeError, LookupError) as error:
        return Check(title, "fail", f"{weights.INDEX} can't be followed: {error}", fetch)
    if lacks:
        return Check(title, "fail", "; ".join(lacks), fetch)
    changed = weights.against_sums(folder)
    if any(name.endswith(".safetensors") for name in changed):
        return Check(title, "fail", f"not as their checksums say: {', '.join(changed)}", fetch)
    if changed:
        remedy = f"fine if you edited them; else {fetch}"
        return Check(title, "warn", f"changed since they were fetched: {', '.join(changed)}", remedy)
    return Check(title, "ok", _counted(folder))


def memory(stack: Stack, model: Model, host: Host, *, running: bool) -> Check:
    """What the container takes, part by part, beside what there is, and what is free now."""
    try:
        limit = sizing.memory_limit(stack, model, host)
        sizing.kv_cache(stack, model, host)
        parts = sizing.memory(stack, model, host)
    except RagopsError as error:
        return Check("memory", "fail", error.short, error.hint)
    detail = f"{limit / GIB:.1f} of {host.usable_memory / GIB:.1f} GiB ({_parts(parts)})"
    if stack.reranker.memory_gib and limit < parts.total:
        remedy = f"memory_gib = {-(-parts.total // GIB)} under [reranker], or leave it out"
        return Check("memory", "warn", f"{detail}: memory_gib is less than the parts", remedy)
    if not running and host.available is not None and host.available < min(limit, parts.held):
        remedy = "ps --sort=-rss -eo rss,comm | head shows what takes it; or lower kv_cache_gib"
        return Check("memory", "warn", f"{detail}, but {host.available / GIB:.1f} GiB are free now", remedy)
    return Check("memory", "ok", detail)


def shared_memory(size: int) -> Check:
    """``/dev/shm`` as the container gets it; the host's, and the engine's default, are others."""
    given, needs = f"{size / MIB:.0f} MiB of the reranker's own", f"vLLM takes {sizing.SHARED_NEED // MIB}"
    if size < sizing.SHARED_NEED:
        remedy = "launch it with ragops up, or: docker run --shm-size 1g"
        return Check(SHM, "fail", f"{given}, {needs}", remedy)
    return Check(SHM, "ok", f"{given}, {needs}; Docker's default of 64 MiB does not matter")


def _parts(parts: Memory) -> str:
    rows = (
        ("weights", parts.weights),
        ("KV cache", parts.kv_cache),
        ("activations", parts.activations),
        ("processes", parts.processes),
        ("page cache", parts.files),
    )
    return ", ".join(f"{name} {size / GIB:.1f}" for name, size in rows if size)


def _counted(folder: Path) -> str:
    shards = sorted(folder.glob("*.safetensors"))
    size = sum(one.stat().st_size for one in shards)
    tensors = sum(len(weights.tensors(weights.header(one))) for one in shards)
    known = [name for name in weights.sums(folder) if (folder / name).is_file()]
    compared = f"{len(known)} files as their checksums say" if known else "no checksums lie beside them"
    return f"{len(shards)} safetensors, {size / 1e9:.2f} GB, {tensors} tensors; {compared}"
