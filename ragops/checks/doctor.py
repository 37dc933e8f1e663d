"""What the stack takes for itself: a port, names, a network and its addresses; are they free?

Whether the Docker engine answers, is new enough, is here, and lets containers compute.

The model: is its folder whole, does it fit the memory, does it get enough shared memory.

The image that serves: is it there, has its name moved, is there room, can this CPU run it.

RAGFlow's containers, before they are connected: found, of which release, and what stands in the way.

Before anything is changed: can this machine, and this engine, do what is declared?

:func:`check` looks and puts the answers of one file a subject in order: the machine here,
``folder`` (the model), ``engine``, ``image``, ``claims`` (what the stack takes for itself) and
``ragflow``. Used by ``ragops doctor``.
"""

from __future__ import annotations

import grp
import os
import platform
import pwd
import re
import shutil
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from ragops.checks import Check, Report
from ragops.configuration import home
from ragops.docker import engine as docker_engine
from ragops.docker import objects
from ragops.docker.engine import observe
from ragops.docker.objects import OLDEST_API, differences, moves_route
from ragops.errors import EngineError, RagopsError
from ragops.ragflow import discovery
from ragops.reranker import files as weights
from ragops.reranker import image as images
from ragops.reranker import int8, sizing
from ragops.reranker import model as models
from ragops.reranker.files import MINILM
from ragops.reranker.host import format_cpu_list, read_addresses, read_host, read_quota

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ragops.configuration import Stack
    from ragops.docker.engine import Engine
    from ragops.docker.objects import ContainerState, EngineState, ImageState, Observed, Pool
    from ragops.reranker.host import Core, Host
    from ragops.reranker.model import Model
    from ragops.reranker.sizing import Memory

CLICKHOUSE_PORT = 8123
"""What RAGFlow's profile ``clickhouse`` publishes, from :data:`CLICKHOUSE_SINCE` on."""
CLICKHOUSE_SINCE = (0, 27)


def check_claims(
    stack: Stack, observed: Observed, pools: tuple[Pool, ...], taken: tuple[str, ...]
) -> Iterator[Check]:
    """The checks of what is declared against what the engine has.

    Args:
        stack: What is declared.
        observed: What the engine has.
        pools: The engine's address pools.
        taken: Subnets that are this machine's own.
    """
    yield port(stack, observed.containers)
    yield names(stack, observed)
    yield network(stack, observed)
    if observed.network(stack.network.name) is None:
        yield room(stack, observed, pools, taken)


def port(stack: Stack, containers: tuple[ContainerState, ...]) -> Check:
    """The published port: who has it, and who may want it later."""
    reranker = stack.reranker
    if stack.host_url is None or reranker.port is False:
        return Check("port", "ok", "nothing is published")
    where = f"{reranker.publish}:{reranker.port}"
    holders = [one for one in containers if _publishes(one, reranker.publish, reranker.port)]
    other = f"port = {reranker.port + 1} under [reranker]"
    if strangers := [one.name for one in holders if one.name != reranker.name]:
        return Check("port", "fail", f"{where} is taken by {', '.join(strangers)}", f"set another: {other}")
    if not holders and _listens(reranker.publish, reranker.port):
        remedy = f"ss -ltnp 'sport = :{reranker.port}' shows the process; or set another: {other}"
        return Check("port", "fail", f"{where} is taken by a process of this host", remedy)
    state = f"{where} is {'ours' if holders else 'free'}"
    if reranker.port == CLICKHOUSE_PORT and (wants := _with_clickhouse(containers)):
        remedy = f"{other}, or CLICKHOUSE_HTTP_PORT in RAGFlow's .env, before that profile is used"
        detail = f"{state}, but RAGFlow {wants}'s profile clickhouse wants it too"
        return Check("port", "warn", detail, remedy)
    return Check("port", "ok", state)


def names(stack: Stack, observed: Observed) -> Check:
    """Names of container and volume that belong to somebody else."""
    name, cache = stack.reranker.name, f"{stack.reranker.name}-cache"
    container = observed.container(name)
    if container is not None and not container.ours:
        detail = f"a container that ragops did not make is named {name} ({container.image})"
        return Check(
            "names", "fail", detail, f"docker rename {name} {name}-old, or set name under [reranker]"
        )
    if any(one.name == cache and not one.ours for one in observed.volumes):
        detail = f"volume {cache} was not made by ragops: it would be used, and never removed"
        return Check("names", "warn", detail, f"docker volume rm {cache}, or set name under [reranker]")
    return Check("names", "ok", f"container {name}, volume {cache}")


def network(stack: Stack, observed: Observed) -> Check:
    """The network: to be made, ours, or somebody else's that will do."""
    name = stack.network.name
    same = [one for one in observed.networks if one.name == name]
    if len(same) > 1:
        ids = ", ".join(one.id[:12] for one in same)
        remedy = f"keep one and remove the others: docker network rm {same[-1].id[:12]}"
        return Check("network", "fail", f"{len(same)} networks are named {name}: {ids}", remedy)
    if not same:
        return Check("network", "ok", f"{name} will be made")
    if differs := differences(stack.network, same[0]):
        undo = "ragops down, then ragops up" if same[0].ours else "set another name under [network]"
        return Check("network", "fail", f"{name} is there: {'; '.join(differs)}", undo)
    return Check("network", "ok", f"{name} is there{'' if same[0].ours else ', not made by ragops'}")


def room(stack: Stack, observed: Observed, pools: tuple[Pool, ...], taken: tuple[str, ...]) -> Check:
    """Whether the engine can make one more network; none is made to find out."""
    subnets = [subnet for one in observed.networks for subnet in one.subnets]
    if stack.network.subnet is not None:
        if overlaps := objects.overlapping(stack.network.subnet, subnets):
            detail = f"{stack.network.subnet} overlaps {', '.join(overlaps)} of another network"
            remedy = "choose another subnet under [network], or leave it out"
            return Check("addresses", "fail", detail, remedy)
        return Check("addresses", "ok", f"{stack.network.subnet} is free")
    free = objects.free(pools, (*subnets, *taken))
    if not free:
        remedy = 'docker network prune removes unused networks; or subnet = "10.77.0.0/24" under [network]'
        return Check("addresses", "fail", "the engine's address pools are used up", remedy)
    more = "or more" if len(free) == objects.ENOUGH else "more"
    return Check("addresses", "ok", f"room for {len(free)} {more} networks")


def _publishes(one: ContainerState, address: str, wanted: int) -> bool:
    return any(port == wanted and _meet(host, address) for host, port, _ in one.published)


def _meet(one: str, other: str) -> bool:
    """Whether two listening addresses exclude each other."""
    return one == other or any(not text or ip_address(text).is_unspecified for text in (one, other))


def _listens(address: str, wanted: int) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as trial:
        trial.settimeout(1)
        return trial.connect_ex((address, wanted)) == 0


def _with_clickhouse(containers: tuple[ContainerState, ...]) -> str:
    """Release of a RAGFlow that has the profile; empty when there is none."""
    found = (discovery.RagflowContainer(one).release for one in containers if discovery.is_ragflow(one))
    return next((one for one in found if _release(one) >= CLICKHOUSE_SINCE), "")


def _release(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))


_SOCKET = re.compile(r"unix://(\S+?): .*Permission denied")


def check_engine(engine: EngineState, threads: int) -> Iterator[Check]:
    """The checks of an engine that answers.

    Args:
        engine: What it said of itself.
        threads: Threads that the reranker will compute with.
    """
    yield Check("engine answers", "ok", f"Docker {engine.version} at {engine.address}")
    yield _api(engine)
    if engine.socket is None:
        remedy = "CPU, memory and folders were looked at here, not over there: run ragops doctor there"
        yield Check("engine is local", "warn", engine.address, remedy)
    else:
        yield quota(engine, threads)


def refusal(error: EngineError) -> Check:
    """Why no engine answers; where it is the socket's permission, who may use it."""
    found = _SOCKET.search(error.evidence)
    remedy = permission(Path(found[1]), os.getgroups()) if found else ""
    return Check("engine answers", "fail", error.short, remedy or error.hint)


def permission(socket: Path, groups: list[int]) -> str:
    """What lets this user use a socket; empty when that can't be told.

    Args:
        socket: Of the engine.
        groups: Of this process. They stay those of the log-in, whatever changes meanwhile.
    """
    try:
        status = socket.stat()
        group = grp.getgrgid(status.st_gid)
        user = pwd.getpwuid(os.geteuid()).pw_name
    except (OSError, KeyError):
        return ""
    if not status.st_mode & 0o020 or group.gr_gid in (0, *groups):
        return "use sudo: only root may use this socket"
    if user in group.gr_mem:
        return f"{user} is in group {group.gr_name}, but since this log-in: newgrp {group.gr_name}"
    return f"sudo usermod -aG {group.gr_name} {user}, then log in again (or: newgrp {group.gr_name})"


def quota(engine: EngineState, threads: int) -> Check:
    """The quota that holds for every container of a local engine."""
    title = "containers' CPU quota"
    try:
        return stalled(read_quota(engine.cgroup_parent), threads, title)
    except FileNotFoundError:
        return Check(title, "skip", f"cgroup {engine.cgroup_parent} of the engine can't be seen from here")


def stalled(cores: float | None, threads: int, title: str) -> Check:
    """What a quota does to threads that all compute: they use it up, then all stand still."""
    if cores is None:
        return Check(title, "ok", "none")
    if cores >= threads:
        return Check(title, "ok", f"{cores:g} cores, enough for {threads} threads")
    still = 1 - cores / threads
    named = f'cores = "0-{int(cores) - 1}"' if cores >= 2 else 'cores = "0"'
    return Check(
        title,
        "warn",
        f"{cores:g} cores for {threads} threads: they stand still {still:.0%} of the time",
        f"give it whole CPUs (--cpuset-cpus) instead of --cpus; until then {named} under [reranker]",
    )


def _api(engine: EngineState) -> Check:
    if engine.too_old:
        detail = f"{engine.api}, older than {OLDEST_API} of Docker 20.10"
        return Check("engine API", "fail", detail, "install Docker 20.10 or newer: apt-get install docker.io")
    return Check("engine API", "ok", engine.api)


GIB = sizing.GIB
MIB = sizing.MIB
SHM = "/dev/shm"  # noqa: S108 - the name of a check


def check_model_folder(stack: Stack, host: Host, *, running: bool) -> Iterator[Check]:
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
    if model.int8_bytes and (reason := int8.unfit(host)):
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
        lacks = weights.index_errors(folder)
    except (ValueError, TypeError, LookupError) as error:
        return Check(title, "fail", f"{weights.INDEX} can't be followed: {error}", fetch)
    if lacks:
        return Check(title, "fail", "; ".join(lacks), fetch)
    changed = weights.changed_files(folder)
    if any(name.endswith(".safetensors") for name in changed):
        return Check(title, "fail", f"not as their checksums say: {', '.join(changed)}", fetch)
    if changed:
        remedy = f"fine if you edited them; else {fetch}"
        return Check(title, "warn", f"changed since they were fetched: {', '.join(changed)}", remedy)
    return Check(title, "ok", _counted(folder))


def memory(stack: Stack, model: Model, host: Host, *, running: bool) -> Check:
    """What the container takes, part by part, beside what there is, and what is free now."""
    try:
        needs = sizing.size(stack, model, host)
    except RagopsError as error:
        return Check("memory", "fail", error.short, error.hint)
    limit, parts = needs.memory_limit, needs.memory
    detail = f"{limit / GIB:.1f} of {host.usable_memory / GIB:.1f} GiB ({_parts(parts)})"
    if stack.reranker.memory_gib and limit < parts.total:
        remedy = f"memory_gib = {-(-parts.total // GIB)} under [reranker], or leave it out"
        return Check("memory", "warn", f"{detail}: memory_gib is less than the parts", remedy)
    if not running and host.available is not None and host.available < min(limit, parts.required):
        remedy = "ps --sort=-rss -eo rss,comm | head shows what takes it; or lower kv_cache_gib"
        return Check("memory", "warn", f"{detail}, but {host.available / GIB:.1f} GiB are free now", remedy)
    return Check("memory", "ok", detail)


def shared_memory(size: int) -> Check:
    """``/dev/shm`` as the container gets it; the host's, and the engine's default, are others."""
    given, needs = f"{size / MIB:.0f} MiB of the reranker's own", f"vLLM takes {sizing.SHM_NEEDED // MIB}"
    if size < sizing.SHM_NEEDED:
        remedy = "launch it with ragops up, or: docker run --shm-size 1g"
        return Check(SHM, "fail", f"{given}, {needs}", remedy)
    return Check(SHM, "ok", f"{given}, {needs}; Docker's default of 64 MiB does not matter")


def _parts(parts: Memory) -> str:
    rows = (
        ("weights", parts.weights),
        ("KV cache", parts.kv_cache),
        ("activations", parts.activations),
        ("processes", parts.processes),
        ("page cache", parts.page_cache),
    )
    return ", ".join(f"{name} {size / GIB:.1f}" for name, size in rows if size)


def _counted(folder: Path) -> str:
    shards = sorted(folder.glob("*.safetensors"))
    size = sum(one.stat().st_size for one in shards)
    tensors = sum(len(weights.tensors(one)) for one in shards)
    known = [name for name in weights.checksums(folder) if (folder / name).is_file()]
    compared = f"{len(known)} files as their checksums say" if known else "no checksums lie beside them"
    return f"{len(shards)} safetensors, {size / 1e9:.2f} GB, {tensors} tensors; {compared}"


IMAGE_GIB = 1024**3
IMAGE_SPACE = 8 * IMAGE_GIB
"""Disk that building the image takes at its height: base, wheels, build stage, image."""
CACHE_SPACE = 1 * IMAGE_GIB
"""Disk for what the first start compiles, and for logs."""

_OFFICIAL = re.compile(r"(?:vllm-openai-cpu|vllm-cpu-release-repo):v(\d+)\.(\d+)")
_AVX2_SINCE = (0, 17)
"""Releases before it were compiled for AVX-512 alone (vllm#18660)."""
_FAST = ("amx_bf16", "avx512_bf16", "bf16")
"""Instructions that multiply bfloat16, the fastest first; the last is Arm's."""
_SIGILL = "vLLM would end with SIGILL (exit code 132)"


def instructions(host: Host, name: str) -> Check:
    """Whether the processor has what the image of that name was compiled for, and what is fast."""
    title, needs = "CPU instructions", needed(name)
    x86 = platform.machine() == "x86_64"
    if x86 and needs not in host.features:
        detail = f"{host.cpu_model} has no {needs}, which {name} needs: {_SIGILL}"
        return Check(title, "fail", detail, _without(needs, host))
    fast = [one for one in _FAST if one in host.features]
    asked = f"; the image needs {needs}" if x86 else ""
    if fast:
        return Check(title, "ok", f"{host.cpu_model}: {fast[0]}, so bfloat16{asked}")
    if not x86 or "avx512f" in host.features:
        return Check(title, "ok", f"{host.cpu_model}: no bfloat16, so float32{asked}")
    remedy = "expect a fraction of the speed: send fewer or shorter documents, and measure: ragops bench"
    return Check(title, "warn", f"{host.cpu_model}: AVX2 only", remedy)


def needed(name: str) -> str:
    """The instructions without which an image can't start, as ``/proc/cpuinfo`` names them.

    Official releases tell by their tag; ours, and those of an unknown release, are taken for new.
    """
    found = _OFFICIAL.search(name)
    old = found is not None and (int(found[1]), int(found[2])) < _AVX2_SINCE
    return "avx512f" if old else "avx2"


def image(stack: Stack, found: ImageState | None, runs: ContainerState | None) -> Check:
    """The image and its digest, and whether its name has moved away from what runs."""
    name = stack.reranker.image
    if found is None:
        how = "it is pulled or built from package registries" if name == images.DEFAULT else "it is pulled"
        return Check("image", "warn", f"the engine has no {name}", f"ragops image ({how})")
    digest = found.digests[0].partition("@")[2] if found.digests else found.id
    detail = f"{name}, {found.size / 1e9:.2f} GB, {digest}"
    if runs and runs.ours and runs.image_id != found.id:
        remedy = f"ragops up starts it anew; to go back: docker tag {runs.image_id[7:19]} {name}"
        moved = f"{name} has moved to {found.id[7:19]}, {runs.name} runs {runs.image_id[7:19]}"
        return Check("image", "warn", moved, remedy)
    return Check("image", "ok", detail)


def disk(engine: EngineState, *, missing: bool) -> Iterator[Check]:
    """Room for the image where it is missing, else for what the first start compiles."""
    title, folder = "disk", Path(engine.root)
    needs, what = (IMAGE_SPACE, "the image") if missing else (CACHE_SPACE, "the compile cache")
    if engine.socket is None or not folder.exists():
        yield Check(title, "skip", f"{folder} of the engine can't be seen from here")
        return
    yield _room(title, folder, needs, what, "docker system df shows what takes it")
    if missing:
        # ragops home may not exist yet; the nearest folder above it is on the same disk.
        place = next(one for one in (home(), *home().parents) if one.exists())
        yield _room("disk for building", place, needs, "wheels", "RAGOPS_HOME names another folder")


def _room(title: str, folder: Path, needs: int, what: str, remedy: str) -> Check:
    free = shutil.disk_usage(folder).free
    detail = f"{free / IMAGE_GIB:.1f} GiB free under {folder}, {what} may take {needs // IMAGE_GIB}"
    if free < needs:
        return Check(title, "fail", detail, f"make room: {remedy}")
    return Check(title, "ok", detail)


def _without(needs: str, host: Host) -> str:
    if needs == "avx512f" and "avx2" in host.features:
        return f'take a newer one, which needs only avx2: image = "{images.DEFAULT}" under [reranker]'
    return "use another machine; in a virtual one, let the hypervisor pass the processor's features through"


def check_ragflow(stack: Stack, containers: tuple[ContainerState, ...]) -> Iterator[Check]:
    """One check for each of RAGFlow's containers, or why there is none."""
    try:
        found = discovery.find(containers, stack.ragflow)
    except RagopsError as error:
        yield Check("RAGFlow", "fail", error.short, error.hint)
        return
    if not found:
        remedy = "start RAGFlow, or a stand-in: ragops demo up"
        yield Check("RAGFlow", "warn", "no container of RAGFlow's server found", remedy)
    yield from (_one(each, stack) for each in found)


def _one(one: discovery.RagflowContainer, stack: Stack) -> Check:
    if one.obstacle:
        remedy = "take network_mode out of its compose file, then: docker compose up --detach"
        return Check("RAGFlow", "fail", f"{one.name} can't join a network: {one.obstacle}", remedy)
    release = one.release or ("demo client, a stand-in" if one.demo else "release unknown")
    if one.container.status != "running":
        detail = f"{one.name} ({release}) is {one.container.status}"
        return Check("RAGFlow", "warn", detail, f"docker start {one.name}: verify asks from inside it")
    moves = moves_route(one.container, stack.network.name, internal=stack.network.internal)
    if moves:
        remedy = "name the network so that it sorts after RAGFlow's own, or set internal = true"
        return Check("RAGFlow", "warn", f"{one.name} ({release}): joining moves its default route", remedy)
    return Check("RAGFlow", "ok", f"{one.name} ({release}), running")


_NEEDS_ENGINE = ("image", "disk", "port", "names", "network", "addresses", "RAGFlow")


@dataclass(frozen=True)
class Seen:
    """What the engine has at one moment."""

    engine: EngineState
    observed: Observed
    image: ImageState | None


def doctor(stack: Stack, engine: Engine | None = None) -> Report:
    """Look at machine, model, engine, image, names and RAGFlow; changes nothing."""
    host = read_host()
    try:
        seen = _look(stack, engine or docker_engine.connect())
    except EngineError as error:
        missing = [Check(name, "skip", "no engine answers") for name in _NEEDS_ENGINE]
        rest: list[Check] = [refusal(error), *missing]
        return Report("doctor", (*_here(stack, host, None), *rest))
    return Report("doctor", (*_here(stack, host, seen), *_there(stack, host, seen)))


def _look(stack: Stack, engine: Engine) -> Seen:
    return Seen(engine.state(), observe(engine), engine.image(stack.reranker.image))


def _here(stack: Stack, host: Host, seen: Seen | None) -> Iterator[Check]:
    """The machine and the model; a reranker that runs already has taken its memory."""
    there = seen and seen.observed.container(stack.reranker.name)
    yield _architecture(seen.image if seen else None)
    yield instructions(host, stack.reranker.image)
    yield cores(stack, host)
    yield own_quota(stack, host)
    yield from check_model_folder(stack, host, running=bool(there and there.running))
    yield shared_memory(sizing.SHM_SIZE)


def _there(stack: Stack, host: Host, seen: Seen) -> Iterator[Check]:
    yield from check_engine(seen.engine, len(_threads(stack, host)))
    yield image(stack, seen.image, seen.observed.container(stack.reranker.name))
    yield from disk(seen.engine, missing=seen.image is None)
    yield from check_claims(stack, seen.observed, seen.engine.pools, read_addresses())
    yield from check_ragflow(stack, seen.observed.containers)


def _architecture(found: ImageState | None) -> Check:
    machine = platform.machine()
    wanted = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
    if found and found.architecture not in ("", wanted):
        remedy = f"docker pull --platform linux/{wanted} {(found.tags or (found.id,))[0]}"
        return Check("architecture", "fail", f"{machine}, the image is for {found.architecture}", remedy)
    if found or machine == "x86_64":
        return Check("architecture", "ok", machine)
    remedy = "use the official image for this architecture; ragops builds its own for x86-64 only"
    return Check("architecture", "warn", machine, remedy)


def cores(stack: Stack, host: Host) -> Check:
    """Which CPUs compute, and why those of which NUMA node."""
    try:
        chosen = sizing.cores(stack, host)
    except RagopsError as error:
        return Check("cores", "fail", error.short, error.hint)
    detail = f"{format_cpu_list(core.cpu for core in chosen)} of {len(host.cpus)} CPUs"
    used = sorted({core.node for core in chosen})
    if len(used) > 1:
        remedy = f'cores = "{_largest(chosen)}" under [reranker] keeps to one node'
        spread = f"{detail}, on NUMA nodes {format_cpu_list(used)}: each waits for the other's memory"
        return Check("cores", "warn", spread, remedy)
    if len(host.nodes) > 1:
        why = "named in the stack" if stack.reranker.cores != "auto" else "it has the most allowed CPUs"
        detail += f", all on NUMA node {used[0]} of {len(host.nodes)} ({why}; memory of another is slower)"
    if len(chosen) < 4:
        return Check("cores", "warn", detail, "measure before you rely on it: ragops bench")
    return Check("cores", "ok", detail)


def own_quota(stack: Stack, host: Host) -> Check:
    """The quota of ragops' own process; one that holds for containers is ``engines.quota``'s."""
    found = stalled(host.quota, len(_threads(stack, host)), "CPU quota")
    if found.status == "ok":
        return found
    detail = f"{found.detail}, if the engine is in the same cgroup; a benchmark's client stalls in any case"
    return Check(found.name, found.status, detail, found.remedy)


def _threads(stack: Stack, host: Host) -> tuple[int, ...]:
    try:
        return sizing.compute_cpus(stack, sizing.cores(stack, host))
    except RagopsError:
        return ()  # cores() says why


def _largest(chosen: tuple[Core, ...]) -> str:
    nodes = [core.node for core in chosen]
    node = min(set(nodes), key=lambda one: (-nodes.count(one), one))
    return format_cpu_list(core.cpu for core in chosen if core.node == node)
