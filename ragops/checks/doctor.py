"""Checks of ``ragops doctor``: can this host and Docker engine run what is configured? Nothing changes.

One function for each subject: host, model, Docker engine, image, names and network, RAGFlow.
"""

import grp
import gzip
import os
import platform
import pwd
import re
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from http.client import HTTPException
from ipaddress import ip_address
from pathlib import Path
from urllib.request import urlopen

from ragops.checks import Check, Report, run_checks
from ragops.configuration import Stack, home
from ragops.docker import engine as docker_engine
from ragops.docker import hints, objects
from ragops.docker.engine import Engine, observe
from ragops.docker.swarm import SwarmState
from ragops.errors import ModelError, RagopsError
from ragops.ragflow import discovery, releases
from ragops.reranker import files, gateway, int8, options, sizing
from ragops.reranker import image as images
from ragops.reranker import model as models
from ragops.reranker.estimate import estimate
from ragops.reranker.host import Host, format_cpu_list, read_host, read_quota
from ragops.reranker.model import Model
from ragops.reranker.sizing import GIB

IMAGE_SPACE = 8 * GIB
"""Most disk space that building the image takes: base, wheels, build stage, image."""
CACHE_SPACE = 1 * GIB
"""Disk space for what the first start compiles, and for logs."""
CLICKHOUSE_PORT = 8123
"""Published by RAGFlow's compose profile ``clickhouse``, from :data:`CLICKHOUSE_SINCE` on."""
CLICKHOUSE_SINCE = "v0.27.0"

_CONNECT_TIMEOUT = 3.0
_GOSSIP = 7946
"""Port on which the nodes of a Swarm exchange the addresses of tasks."""
_NEEDS_ENGINE = ("image", "disk", "port", "names", "network", "RAGFlow", "deadline")
_SOCKET = re.compile(r"unix://(\S+?): .*Permission denied")
_OFFICIAL = re.compile(r"(?:vllm-openai-cpu|vllm-cpu-release-repo):v(\d+)\.(\d+)")
_AVX2_SINCE = (0, 17)
"""Releases of vLLM before it were compiled for AVX-512 alone (vllm#18660)."""
_BF16_FEATURES = ("amx_bf16", "avx512_bf16", "bf16")
"""Instructions that multiply bfloat16, the fastest first; the last is Arm's."""


def doctor(stack: Stack, engine: Engine | None = None) -> Report:
    """Check host, model, Docker engine, image, names and RAGFlow; changes nothing.

    Args:
        stack: The configuration.
        engine: The Docker engine; connected when left out. Without one the checks that need it are skipped.
    """
    host, image, reranker = read_host(), None, None
    if stack.swarm:  # each machine has one
        stack = stack.model_copy(update={"reranker": stack.reranker.model_copy(update={"replicas": 1})})
    threads = 0 if stack.servers else _threads(stack, host)
    try:
        engine = engine or docker_engine.connect()
        state, observed, image = engine.state(), observe(engine), engine.image(stack.reranker.image)
    except RagopsError as error:
        skipped = [Check(name, "skip", "no Docker engine responds") for name in _NEEDS_ENGINE]
        checks = iter([connection_failure(error), *skipped])
    else:
        reranker = next(iter(observed.rerankers(stack.reranker.name)), None)
        checks = run_checks(
            ("engine API", lambda: check_engine(state, threads)),
            ("engine sees the model", lambda: check_folders(stack, state, reranker)),
            ("image", lambda: check_image(stack, image, reranker)),
            ("disk", lambda: check_disk(state, missing=image is None)),
            ("port", lambda: _port(stack, observed.containers, state)),
            ("names", lambda: _names(stack, observed)),
            ("Swarm", lambda: check_swarm(stack, state, engine)),
            ("network", lambda: _network(stack, observed)),
            ("RAGFlow", lambda: check_ragflow(options.closed(stack, state), observed.containers)),
            ("deadline", lambda: _deadline(stack, observed.containers, reranker)),
        )
    host_checks = run_checks(
        ("architecture", lambda: _architecture(image)),
        *(
            (("replicas", lambda: _servers(stack.servers)),)
            if stack.servers
            else (
                ("CPU instructions", lambda: _instructions(host, stack.reranker.image)),
                ("cores", lambda: _cores(stack, host)),
                ("CPU quota", lambda: _own_quota(host, threads)),
            )
        ),
        ("model", lambda: check_model(stack, host.unlimited if stack.servers else host, reranker)),
        *(() if stack.servers else (("estimate", lambda: _estimate(stack, host)),)),
    )
    return Report("doctor", (*host_checks, *checks))


def _own_quota(host: Host, threads: int) -> Check:
    quota = _quota(host.quota, threads, "CPU quota")
    effect = "if the engine is in the same cgroup; a benchmark's client stalls in any case"
    return quota if quota.status == "ok" else replace(quota, detail=f"{quota.detail}, {effect}")


def _architecture(image: objects.ImageState | None) -> Check:
    machine = platform.machine()
    wanted = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
    if image and image.architecture not in ("", wanted):
        remedy = f"docker pull --platform linux/{wanted} {(image.tags or (image.id,))[0]}"
        return Check("architecture", "fail", f"{machine}, the image is for {image.architecture}", remedy)
    if image or machine == "x86_64":
        return Check("architecture", "ok", machine)
    remedy = "use the official image for this architecture; ragops builds its own for x86-64 only"
    return Check("architecture", "warn", machine, remedy)


def _instructions(host: Host, image: str) -> Check:
    title, needed = "CPU instructions", required_instructions(image)
    x86 = platform.machine() == "x86_64"
    if x86 and needed not in host.features:
        detail = f"{host.cpu_model} has no {needed}, which {image} needs: "
        detail += "vLLM would end with SIGILL (exit code 132)"
        remedy = "use another machine; for a virtual one, let the hypervisor pass the processor's features on"
        if needed == "avx512f" and "avx2" in host.features:
            remedy = f'use a newer one, which needs only avx2: image = "{images.DEFAULT}" under [reranker]'
        return Check(title, "fail", detail, remedy)
    fast = [feature for feature in _BF16_FEATURES if feature in host.features]
    suffix = f"; the image needs {needed}" if x86 else ""
    if fast:
        return Check(title, "ok", f"{host.cpu_model}: {fast[0]}, so bfloat16{suffix}")
    if not x86 or "avx512f" in host.features:
        return Check(title, "ok", f"{host.cpu_model}: no bfloat16, so float32{suffix}")
    remedy = "expect a fraction of the speed: send fewer or shorter documents, and measure: ragops bench"
    return Check(title, "warn", f"{host.cpu_model}: AVX2 only", remedy)


def required_instructions(image: str) -> str:
    """The instructions without which an image can't start, as ``/proc/cpuinfo`` names them.

    The tag of an official image shows its release; images of an unknown release count as new.
    """
    match = _OFFICIAL.search(image)
    is_old = match is not None and (int(match[1]), int(match[2])) < _AVX2_SINCE
    return "avx512f" if is_old else "avx2"


def _cores(stack: Stack, host: Host) -> Check:
    sets = sizing.core_sets(stack, host)
    cores = [core for own in sets for core in own]
    lists = "; ".join(format_cpu_list(core.cpu for core in own) for own in sets)
    detail = f"{lists} of {len(host.cpus)} CPUs" + (f", for {len(sets)} replicas" if sets[1:] else "")
    used = sorted({core.node for core in cores})
    if any(len({core.node for core in own}) > 1 for own in sets):
        largest = sizing.largest_node(cores)
        cpus = format_cpu_list(core.cpu for core in cores if core.node == largest)
        detail += f", on NUMA nodes {format_cpu_list(used)}: each waits for the other's memory"
        return Check("cores", "warn", detail, f'cores = "{cpus}" under [reranker] uses one node')
    if len(host.nodes) > len(used) == 1:
        reason = "set in ragops.toml" if stack.reranker.cores != "auto" else "it has the most allowed CPUs"
        detail += f", all on NUMA node {used[0]} of {len(host.nodes)} ({reason}; memory of another is slower)"
    if len(cores) < 4:
        return Check("cores", "warn", detail, "measure before you rely on it: ragops bench")
    return Check("cores", "ok", detail)


def _threads(stack: Stack, host: Host) -> int:
    try:
        return sum(map(len, sizing.compute_sets(stack, sizing.core_sets(stack, host))))
    except RagopsError:
        return 0  # the check of the cores has the reason


def _quota(cores: float | None, threads: int, title: str) -> Check:
    """The effect of a quota on threads that all compute: they use it up, then all stand still."""
    if cores is None:
        return Check(title, "ok", "none")
    if cores >= threads:
        return Check(title, "ok", f"{cores:g} cores, enough for {threads} threads")
    setting = f'cores = "0-{int(cores) - 1}"' if cores >= 2 else 'cores = "0"'
    detail = f"{cores:g} cores for {threads} threads: they stand still {1 - cores / threads:.0%} of the time"
    remedy = f"give it whole CPUs (--cpuset-cpus) instead of --cpus; until then {setting} under [reranker]"
    return Check(title, "warn", detail, remedy)


def check_model(stack: Stack, host: Host, reranker: objects.ContainerState | None) -> Iterator[Check]:
    """The configured model, else that of the existing reranker: files and memory; downloads nothing."""
    folder = models.named_folder(stack) or (reranker.model if reranker else None)
    if folder is None:
        yield Check("model", "fail", "none is configured", models.SET_MODEL)
        yield Check("memory", "skip", "no model is configured")
        return
    source = models.hub_source(stack)
    if (source or folder == models.substitute_folder()) and not folder.exists():
        remedy = "ragops model pull, or ragops up" if source else "ragops model"
        detail = f"{source[0] if source else f'{files.MINILM}, the substitute,'} is not downloaded yet"
        yield Check("model", "warn", detail, remedy)
        yield Check("memory", "skip", "the model is not downloaded yet")
        return
    model = models.describe(folder, stack.reranker.kind)
    yield _model(model, host)
    running = bool(reranker and reranker.running)
    yield from run_checks(
        ("model files", lambda: check_files(folder)),
        ("memory", lambda: _memory(stack, model, host, running=running)),
    )


def _model(model: Model, host: Host) -> Check:
    detail = f"{model.name}, {model.kind}"
    if model.int8_bytes and (reason := int8.unfit(host)):
        return Check("model", "fail", f"{detail}, int8: {reason}", "name the folder that it was made from")
    if model.substitute:
        return Check("model", "warn", f"{detail}: {model.substitute}", "scores mean nothing here")
    return Check("model", "ok", detail)


def _estimate(stack: Stack, host: Host) -> Check:
    """Whether RAGFlow's usual request ends in time, from recorded runs."""
    try:
        estimated = estimate(stack, host=host)
    except RagopsError as error:
        return Check("estimate", "skip", error.short)
    if estimated.usual.fits:
        return Check("estimate", "ok", estimated.headline)
    remedy = "ragops estimate shows what would make it faster, and measures where the image exists"
    return Check("estimate", "warn", estimated.headline, remedy)


def check_files(folder: Path) -> Check:
    """The weights against their index and against checksums, where the folder has them."""
    title = "model files"
    download = f"download it again: hf download <owner>/{folder.name} --local-dir {folder}"
    try:
        errors = files.index_errors(folder)
    except (ValueError, TypeError, LookupError) as error:
        return Check(title, "fail", f"{files.INDEX} is not readable: {error}", download)
    if errors:
        return Check(title, "fail", "; ".join(errors), download)
    changed = files.changed_files(folder)
    if any(name.endswith(".safetensors") for name in changed):
        return Check(title, "fail", f"other checksums than listed: {', '.join(changed)}", download)
    if changed:
        remedy = f"fine if you edited them; else {download}"
        return Check(title, "warn", f"changed since the download: {', '.join(changed)}", remedy)
    shards = sorted(folder.glob("*.safetensors"))
    size = sum(shard.stat().st_size for shard in shards)
    tensors = sum(len(files.tensors(shard)) for shard in shards)
    listed = [name for name in files.checksums(folder) if (folder / name).is_file()]
    compared = f"{len(listed)} files match their checksums" if listed else "there are no checksums"
    detail = f"{len(shards)} safetensors, {size / 1e9:.2f} GB, {tensors} tensors; {compared}"
    return Check(title, "ok", detail)


def _memory(stack: Stack, model: Model, host: Host, *, running: bool) -> Check:
    sizes = sizing.sizes(stack, model, host)
    limit, memory = sum(size.memory_limit for size in sizes), sizes[0].memory
    used = asdict(memory).items()
    parts = ", ".join(f"{name.replace('_', ' ')} {size / GIB:.1f}" for name, size in used if size)
    each = f"for each of {len(sizes)} replicas: " if sizes[1:] else ""
    detail = f"{limit / GIB:.1f} of {host.usable_memory / GIB:.1f} GiB ({each}{parts})"
    if stack.reranker.memory_gib and sizes[0].memory_limit < memory.total:
        remedy = f"memory_gib = {-(-memory.total // GIB)} under [reranker], or leave it out"
        return Check("memory", "warn", f"{detail}: memory_gib is less than the parts", remedy)
    needed = min(limit, memory.required * len(sizes))
    if not running and host.available is not None and host.available < needed:
        remedy = "ps --sort=-rss -eo rss,comm | head shows what takes it; or lower kv_cache_gib"
        return Check("memory", "warn", f"{detail}, but {host.available / GIB:.1f} GiB are free now", remedy)
    return Check("memory", "ok", detail)


def check_engine(engine: objects.EngineState, threads: int) -> Iterator[Check]:
    """The Docker engine that responds: release, place, and its CPU quota for the reranker's threads."""
    yield _engine_answers(engine)
    if engine.too_old:
        detail = f"{engine.api}, older than {objects.OLDEST_API} of Docker 20.10"
        remedy = "install Docker 20.10 or newer: apt-get install docker.io"
        yield Check("engine API", "fail", detail, remedy)
    else:
        yield Check("engine API", "ok", engine.api)
    if engine.socket is None:
        remedy = "CPU, memory and folders are those of this host, not the engine's: run ragops doctor there"
        yield Check("engine is local", "warn", engine.address, remedy)
        return
    title = "containers' CPU quota"
    try:
        yield _quota(read_quota(engine.cgroup_parent), threads, title)
    except FileNotFoundError:
        yield Check(title, "skip", f"cgroup {engine.cgroup_parent} of the engine is not visible from here")


def check_folders(
    stack: Stack, engine: objects.EngineState, reranker: objects.ContainerState | None
) -> Iterator[Check]:
    """Folders to mount that are empty for Docker's snap."""
    folders = (models.named_folder(stack) or (reranker.model if reranker else None), home())
    for folder in folders:
        if folder and engine.hides(folder):
            remedy = "move it, or set RAGOPS_HOME" if folder == home() else "move the model"
            yield Check("engine sees the model", "fail", f"{folder} is empty for it: {objects.SNAP}", remedy)


def _engine_answers(engine: objects.EngineState) -> Check:
    title, detail = "engine answers", f"{engine.product} {engine.version} at {engine.address}"
    if engine.product == "Podman":
        detail += ": rootless, it connects no container to a second network unless that has --network bridge"
        return Check(title, "warn", detail, "if ragops up says so: recreate RAGFlow with --network bridge")
    if engine.release >= 29:
        effect = "a container in two networks, as RAGFlow's will be, may not start again (moby issue 51578)"
        remedy = "if docker start fails: docker network disconnect --force, by the error of docker inspect"
        return Check(title, "warn", f"{detail}: {effect}", remedy)
    return Check(title, "ok", detail)


def connection_failure(error: RagopsError) -> Check:
    """Why no Docker engine responds; if the socket's permission is the reason, how to get it."""
    match = _SOCKET.search(error.evidence)
    remedy = _permission(Path(match[1])) if match else ""
    return Check("engine answers", "fail", error.short, remedy or error.hint)


def _permission(socket_file: Path) -> str:
    """What lets this user use a socket; empty when unknown. Groups of a process stay those of the log-in."""
    try:
        status = socket_file.stat()
        group = grp.getgrgid(status.st_gid)
        user = pwd.getpwuid(os.geteuid()).pw_name
    except (OSError, KeyError):
        return ""
    if not status.st_mode & 0o020 or group.gr_gid in (0, *os.getgroups()):
        return "use sudo: only root may use this socket"
    if user in group.gr_mem:
        return f"{user} is in group {group.gr_name}, but since this log-in: newgrp {group.gr_name}"
    return f"sudo usermod -aG {group.gr_name} {user}, then log in again (or: newgrp {group.gr_name})"


def check_image(
    stack: Stack, image: objects.ImageState | None, reranker: objects.ContainerState | None
) -> Check:
    """The image with its digest, and whether its name now has another image than the one that runs."""
    name = stack.reranker.image
    if image is None:
        source = "it is pulled or built from package registries" if name == images.DEFAULT else "it is pulled"
        return Check("image", "warn", f"the engine has no {name}", f"ragops image ({source})")
    if reranker and reranker.ours and reranker.image_id != image.id:
        old = reranker.image_id[7:19]
        detail = f"{name} has moved to {image.id[7:19]}, {reranker.name} runs {old}"
        return Check("image", "warn", detail, f"ragops up recreates it; to go back: docker tag {old} {name}")
    digest = image.digests[0].partition("@")[2] if image.digests else image.id
    return Check("image", "ok", f"{name}, {image.size / 1e9:.2f} GB, {digest}")


def check_disk(engine: objects.EngineState, *, missing: bool) -> Iterator[Check]:
    """Disk space for the image where it is missing, else for what the first start compiles."""
    folder = Path(engine.root)
    needed, purpose = (IMAGE_SPACE, "the image") if missing else (CACHE_SPACE, "the compile cache")
    if engine.socket is None or not folder.exists():
        yield Check("disk", "skip", f"{folder} of the engine is not visible from here")
        return
    yield _free_space("disk", folder, needed, purpose, "docker system df shows what takes it")
    if missing:  # ragops home may not exist yet; the nearest folder above it is on the same disk
        place = next(path for path in (home(), *home().parents) if path.exists())
        yield _free_space("disk for building", place, needed, "wheels", "RAGOPS_HOME names another folder")


def _free_space(title: str, folder: Path, needed: int, purpose: str, remedy: str) -> Check:
    free = shutil.disk_usage(folder).free
    detail = f"{free / GIB:.1f} GiB free under {folder}, {purpose} may take {needed // GIB}"
    if free < needed:
        return Check(title, "fail", detail, f"free disk space: {remedy}")
    return Check(title, "ok", detail)


def _port(stack: Stack, containers: tuple[objects.ContainerState, ...], state: objects.EngineState) -> Check:
    reranker, published = stack.reranker, options.published(stack, state)
    if not published:
        return Check("port", "ok", "nothing is published")
    ((address, number, _),) = published
    holders = [container.name for container in containers if _publishes(container, address, number)]
    other = f"port = {number + 1} under [reranker]"
    if foreign := [name for name in holders if name != reranker.name]:
        detail = f"{address}:{number} is taken by {', '.join(foreign)}"
        return Check("port", "fail", detail, f"set another: {other}")
    if not holders and _listens(address, number):
        remedy = f"ss -ltnp 'sport = :{number}' shows the process; or set another: {other}"
        return Check("port", "fail", f"{address}:{number} is taken by a process of this host", remedy)
    holder = f"{address}:{number} is {'ours' if holders else 'free'}"
    if number == CLICKHOUSE_PORT and (release := _release_with_clickhouse(containers)):
        remedy = f"{other}, or CLICKHOUSE_HTTP_PORT in RAGFlow's .env, before that profile is used"
        detail = f"{holder}, but RAGFlow {release}'s profile clickhouse publishes it too"
        return Check("port", "warn", detail, remedy)
    return Check("port", "ok", holder)


def _publishes(container: objects.ContainerState, address: str, number: int) -> bool:
    """Whether a container publishes this port on an address that excludes this one."""
    for host, port, _ in container.published:
        wildcard = any(not text or ip_address(text).is_unspecified for text in (host, address))
        if port == number and (host == address or wildcard):
            return True
    return False


def _listens(address: str, number: int, timeout: float = 1) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as connection:
        connection.settimeout(timeout)
        return connection.connect_ex((address, number)) == 0


def _release_with_clickhouse(containers: tuple[objects.ContainerState, ...]) -> str:
    """Release of a RAGFlow that has the profile; empty when there is none."""
    ragflows = map(discovery.RagflowContainer, filter(discovery.is_ragflow, containers))
    known = [ragflow.release for ragflow in ragflows if ragflow.release]
    since = releases.order(CLICKHOUSE_SINCE)
    return next((release for release in known if releases.order(release) >= since), "")


def _names(stack: Stack, observed: objects.Observed) -> Check:
    name, cache = stack.reranker.name, f"{stack.reranker.name}-compiled"
    replicas = stack.replica_names if stack.gateway_used else ()
    alias = (stack.replicas_alias,) if replicas else ()  # Docker's DNS has names and aliases
    for container in filter(None, map(observed.container, (name, *replicas, *alias))):
        if container not in observed.stack(name) or container.name in alias:
            created = "a container that ragops did not create for this stack"
            detail = f"{created} is named {container.name} ({container.image})"
            remedy = f"docker rename {container.name} my-{container.name}, or set name under [reranker]"
            return Check("names", "fail", detail, remedy)
    if any(volume.name == cache and not volume.ours for volume in observed.volumes):
        detail = f"volume {cache} was not created by ragops: it would be used, and never removed"
        return Check("names", "warn", detail, f"docker volume rm {cache}, or set name under [reranker]")
    containers = f"gateway {name}, replicas {', '.join(replicas)}" if replicas else f"container {name}"
    return Check("names", "ok", f"{containers}, volume {cache}")


def _network(stack: Stack, observed: objects.Observed) -> Check:
    name = stack.shared_network.name
    networks = [network for network in observed.networks if network.name == name]
    if len(networks) > 1:
        ids = ", ".join(network.id[:12] for network in networks)
        remedy = f"keep one and remove the others: docker network rm {networks[-1].id[:12]}"
        return Check("network", "fail", f"{len(networks)} networks are named {name}: {ids}", remedy)
    if not networks:
        subnet, others = stack.network.subnet, [other for item in observed.networks for other in item.subnets]
        if overlaps := objects.overlapping_subnets(subnet, others) if subnet else ():
            remedy = "choose another subnet under [network], or leave it out"
            return Check("network", "fail", f"{subnet} overlaps {', '.join(overlaps)} of another", remedy)
        return Check("network", "ok", f"{name} will be created")
    if changed := objects.differences(stack.shared_network, networks[0]):
        remedy = "ragops down, then ragops up" if networks[0].ours else "set another name under [network]"
        return Check("network", "fail", f"{name} exists: {'; '.join(changed)}", remedy)
    return Check("network", "ok", f"{name} exists{'' if networks[0].ours else ', not created by ragops'}")


def _servers(servers: Sequence[str]) -> Iterator[Check]:
    """Whether this host reaches the replicas that something else runs."""
    for server in servers:
        try:
            with urlopen(f"http://{server}/health", timeout=_CONNECT_TIMEOUT):
                yield Check("replicas", "ok", f"{server} responds")
        except (OSError, HTTPException, ValueError) as error:  # also of another protocol
            remedy = "start it, or open its port for this host; the gateway may have another route to it"
            yield Check("replicas", "warn", f"{server} does not respond here: {error}", remedy)


def check_swarm(stack: Stack, state: objects.EngineState, engine: Engine) -> Iterator[Check]:
    """Whether this engine can place replicas on the nodes of its Swarm; nothing where it is not to."""
    if stack.swarm is None and state.swarm == "inactive":
        return
    daemon, swarm = "in /etc/docker/daemon.json, then restart Docker", None
    if state.firewall.startswith("nftables"):
        detail = f"Docker {state.version} sets rules with nftables, with which it can be in no Swarm"
        remedy = f'remove "firewall-backend": "nftables" {daemon}'
    elif state.live_restore:
        detail = "live-restore is on: Docker then can be in no Swarm"
        remedy = f'remove "live-restore": true {daemon}'
    elif state.swarm == "worker":
        detail = "this engine is a worker: only a manager places replicas"
        remedy = f"run ragops on a manager; or there: docker node promote {state.node}"
    elif (swarm := engine.swarm(needed=False)) is None and state.swarm == "manager":
        detail, remedy = "its Swarm has no leader", hints.for_engine("does not have a leader").remedy
    elif swarm is None:
        detail = f"its membership is {state.swarm}"
        remedies = {"locked": "docker swarm unlock", "inactive": "docker swarm init"}
        remedy = remedies.get(state.swarm, "docker info")
    elif stack.swarm and stack.swarm.encrypted and _lacks("CONFIG_INET_ESP"):
        swarm, detail = None, "the kernel has no IPsec: in an encrypted network nodes don't reach each other"
        remedy = "encrypted = false under [swarm], or another kernel"
    if swarm:
        yield from _nodes(swarm, state)
    else:
        yield Check("Swarm", "fail" if stack.swarm else "warn", detail, remedy)


def _nodes(swarm: SwarmState, state: objects.EngineState) -> Iterator[Check]:
    """The nodes of a Swarm, and whether this host reaches them."""
    away = [f"{node.name} is {node.state}, {node.availability}" for node in swarm.nodes if not node.ready]
    detail = f"manager of {len(swarm.nodes)} nodes" + "".join(f"; {text}" for text in away)
    if _lacks("CONFIG_IP_VS"):
        detail += "; the kernel has no IPVS, so a service with a virtual address times out: ragops uses none"
    yield Check("Swarm", "warn" if away else "ok", detail, "docker node ls; they get no replica until then")
    for node in swarm.nodes:
        if node.ready and node.id != state.node and not _listens(node.address, _GOSSIP, _CONNECT_TIMEOUT):
            remedy = "open 2377/tcp, 7946/tcp, 7946/udp and 4789/udp (encrypted: protocol 50) between nodes"
            yield Check("Swarm", "warn", f"port {_GOSSIP} of {node.name} does not respond here", remedy)


def _lacks(option: str) -> bool:
    """Whether the kernel was built without something; False where its configuration is not readable."""
    packed, plain = Path("/proc/config.gz"), Path("/boot", f"config-{platform.release()}")
    for file in (packed, plain):
        with suppress(OSError):
            content = gzip.decompress(file.read_bytes()) if file is packed else file.read_bytes()
            return f"# {option} is not set" in content.decode()
    return False


def check_ragflow(stack: Stack, containers: tuple[objects.ContainerState, ...]) -> Iterator[Check]:
    """One check for each of RAGFlow's containers, or why there is none."""
    ragflows = discovery.find(containers, stack.ragflow)
    if not ragflows:
        remedy = "start RAGFlow, or the demo client: ragops demo up"
        yield Check("RAGFlow", "warn", "no container of RAGFlow's server found", remedy)
    for ragflow in ragflows:
        yield _ragflow(ragflow, stack)


def _deadline(
    stack: Stack, containers: tuple[objects.ContainerState, ...], reranker: objects.ContainerState | None
) -> list[Check]:
    """What the gateway's deadline means for RAGFlow; nothing without a gateway."""
    if not stack.gateway_used:
        return []
    title, ragflows = "deadline", discovery.find(containers, stack.ragflow)
    contracts = [ragflow.contract for ragflow in ragflows] or [releases.of(releases.NEWEST)]
    release = min(contracts, key=lambda contract: contract.timeout)
    seconds = gateway.deadline(stack, release.timeout)
    waits = f"RAGFlow {release.name} waits {release.timeout:g} s"
    folder = models.named_folder(stack) or (reranker.model if reranker else None)
    with suppress(ModelError):  # another check has the error
        if folder and not options.known(models.describe(folder, stack.reranker.kind)).splits:
            seconds = 0.0  # it compares the documents of a request with each other
    if not seconds:
        return [Check(title, "ok", f"none: {waits}, and gets no ranking from a slower request")]
    if seconds >= release.timeout:
        remedy = 'deadline = "auto" under [gateway]'
        return [Check(title, "fail", f"{seconds:g} s are too late: {waits}", remedy)]
    order = "documents not ranked by then stay behind the others, in RAGFlow's order"
    return [Check(title, "ok", f"{seconds:g} s, as {waits}; {order}")]


def _ragflow(ragflow: discovery.RagflowContainer, stack: Stack) -> Check:
    if ragflow.obstacle:
        remedy = "take network_mode out of its compose file, then: docker compose up --detach"
        detail = f"{ragflow.name} can't be connected to a network: {ragflow.obstacle}"
        return Check("RAGFlow", "fail", detail, remedy)
    name = f"{ragflow.name} ({ragflow.release or ('demo client' if ragflow.demo else 'release unknown')})"
    status = ragflow.container.status
    if status != "running":
        detail = f"{name} is {status}, and verify runs inside it"
        return Check("RAGFlow", "warn", detail, ragflow.start)
    internal = bool(stack.network.internal)
    if objects.moves_route(ragflow.container, stack.shared_network.name, internal=internal):
        remedy = "name the network so that it sorts after RAGFlow's own, or set internal = true"
        return Check("RAGFlow", "warn", f"{name}: a connection moves its default route", remedy)
    if ragflow.release and (assumed := ragflow.contract.assumed):
        return Check("RAGFlow", "warn", f"{name}, running: {assumed}", "a newer ragops may know it")
    return Check("RAGFlow", "ok", f"{name}, running")
