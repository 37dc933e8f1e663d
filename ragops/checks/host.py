"""Before anything is changed: can this machine, and this engine, do what is declared?

:func:`check` looks, the functions below it judge. Used by ``ragops doctor``.
"""

from __future__ import annotations

import platform
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from ragops import image as images
from ragops import model as models
from ragops import planning, sizing
from ragops.checks import Check, Report, Status
from ragops.engine import connect
from ragops.errors import EngineError, RagopsError
from ragops.host import format_cpu_list, read_host
from ragops.ragflow import discovery

if TYPE_CHECKING:
    from ragops.engine import Engine
    from ragops.host import Host
    from ragops.model import Model
    from ragops.stack import Stack
    from ragops.state import EngineState

GIB = 1024**3
IMAGE_SPACE = 8 * GIB
"""Disk that building the image takes at its height: base, wheels, build stage, image."""


def check(stack: Stack, engine: Engine | None = None) -> Report:
    """Look at machine, engine, image, model, network and RAGFlow; changes nothing."""
    host, checks = read_host(), []
    checks += [_architecture(), _instructions(host), _cores(stack, host), _quota(host)]
    checks += _model(stack, host)
    try:
        engine = engine or connect()
        checks += _engine(stack, engine)
    except EngineError as error:
        checks.append(Check("engine answers", "fail", _first(error), error.hint))
        checks += [Check(name, "skip", "no engine answers") for name in ("image", "network", "RAGFlow")]
    return Report("doctor", tuple(checks))


def _architecture() -> Check:
    machine = platform.machine()
    if machine == "x86_64":
        return Check("architecture", "ok", machine)
    remedy = "use the official image for this architecture; ragops builds its own for x86-64 only"
    return Check("architecture", "warn", machine, remedy)


def _instructions(host: Host) -> Check:
    title = "CPU instructions"
    if host.has_bf16:
        fast = "amx_bf16" if "amx_bf16" in host.features else "avx512_bf16"
        return Check(title, "ok", f"{host.cpu_model}: {fast}, so bfloat16")
    if "avx512f" in host.features:
        return Check(title, "ok", f"{host.cpu_model}: AVX-512 without bfloat16, so float32")
    if "avx2" in host.features:
        remedy = "expect a fraction of the speed: send fewer or shorter documents"
        return Check(title, "warn", f"{host.cpu_model}: AVX2 only", remedy)
    return Check(
        title, "fail", f"{host.cpu_model}: no AVX2", "vLLM would end with SIGILL (exit code 132) here"
    )


def _cores(stack: Stack, host: Host) -> Check:
    try:
        chosen = sizing.cores(stack, host)
    except RagopsError as error:
        return Check("cores", "fail", _first(error), error.hint)
    detail = f"{format_cpu_list(core.cpu for core in chosen)} of {len(host.cpus)} CPUs"
    if len(chosen) < 4:
        return Check("cores", "warn", detail, "measure before you rely on it: ragops bench")
    return Check("cores", "ok", detail)


def _quota(host: Host) -> Check:
    if host.quota is None:
        return Check("CPU quota", "ok", "none")
    detail = f"{host.quota:g} cores in a quota"
    return Check("CPU quota", "warn", detail, "a quota stops all threads at once: give whole CPUs instead")


def _model(stack: Stack, host: Host) -> list[Check]:
    folder = models.named_folder(stack)
    if folder is None:
        detail = "none is named: all-MiniLM-L6-v2, a real bi-encoder, stands in"
        remedy = "name the folder of Qwen3-Reranker-0.6B: RAGOPS_MODEL_DIR, or model under [reranker]"
        return [Check("model", "warn", detail, remedy)]
    try:
        model = models.describe(folder)
    except RagopsError as error:
        return [Check("model", "fail", _first(error), error.hint)]
    status: Status = "warn" if model.stand_in else "ok"
    detail = f"{model.name}, {model.kind}" + (f": {model.stand_in}" if model.stand_in else "")
    return [
        Check("model", status, detail, model.stand_in and "scores mean nothing here"),
        _memory(stack, model, host),
    ]


def _memory(stack: Stack, model: Model, host: Host) -> Check:
    try:
        need = sizing.memory(stack, model, host).total
    except RagopsError as error:
        return Check("memory", "fail", _first(error), error.hint)
    detail = f"{need / GIB:.1f} GiB of {host.usable_memory / GIB:.1f} GiB"
    if need > host.usable_memory:
        return Check("memory", "fail", detail, "lower kv_cache_gib or max_model_len under [reranker]")
    return Check("memory", "ok", detail)


def _engine(stack: Stack, engine: Engine) -> list[Check]:
    state = engine.state()
    found = [Check("engine answers", "ok", f"Docker {state.version} (API {state.api}) at {state.address}")]
    if not state.address.startswith("unix://"):
        remedy = "CPU, memory and folders were looked at here, not over there"
        found.append(Check("engine is local", "warn", state.address, remedy))
    return [*found, *_image(stack, engine, state), _port(stack, engine), *_networks(stack, engine)]


def _image(stack: Stack, engine: Engine, state: EngineState) -> list[Check]:
    name = stack.reranker.image
    if found := engine.image(name):
        digest = found.digests[0].partition("@")[2] if found.digests else found.id
        return [Check("image", "ok", f"{name}, {found.size / 1e9:.2f} GB, {digest[:19]}")]
    how = "it is pulled or built from package registries" if name == images.DEFAULT else "it is pulled"
    return [Check("image", "warn", f"the engine has no {name}", f"ragops image ({how})"), *_disk(state)]


def _disk(state: EngineState) -> list[Check]:
    folder = Path(state.root)
    if not folder.exists():
        return []
    free = shutil.disk_usage(folder).free
    detail = f"{free / GIB:.1f} GiB free for images"
    if free < IMAGE_SPACE:
        return [
            Check(
                "disk",
                "fail",
                detail,
                f"make room: the build takes {IMAGE_SPACE // GIB} GiB (docker system df)",
            )
        ]
    return [Check("disk", "ok", detail)]


def _port(stack: Stack, engine: Engine) -> Check:
    reranker = stack.reranker
    if stack.host_url is None or reranker.port is False:
        return Check("port", "ok", "nothing is published")
    holders = [
        one
        for one in engine.containers()
        if any(host_port == reranker.port for _, host_port, _ in one.published)
    ]
    where = f"{reranker.publish}:{reranker.port}"
    if strangers := [one.name for one in holders if one.name != reranker.name]:
        remedy = "set another port under [reranker]; RAGFlow's ClickHouse profile takes 8123 from v0.27 on"
        return Check("port", "fail", f"{where} is taken by {', '.join(strangers)}", remedy)
    if not holders and _listens(reranker.publish, reranker.port):
        remedy = "ss -ltnp shows the process; set another port, or port = false, under [reranker]"
        return Check("port", "fail", f"{where} is taken by a process of this host", remedy)
    return Check("port", "ok", f"{where} is {'ours' if holders else 'free'}")


def _listens(address: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as trial:
        trial.settimeout(1)
        return trial.connect_ex((address, port)) == 0


def _networks(stack: Stack, engine: Engine) -> list[Check]:
    try:
        network = engine.network(stack.network.name)
        found = discovery.find(engine.containers(), stack.ragflow)
    except RagopsError as error:
        return [Check("network and RAGFlow", "fail", _first(error), error.hint)]
    state = "is there" if network else "will be made"
    owner = ", not made by ragops" if network and not network.ours else ""
    checks = [Check("network", "ok", f"{stack.network.name} {state}{owner}")]
    if not found:
        remedy = "start RAGFlow, or a stand-in: ragops demo up"
        return [*checks, Check("RAGFlow", "warn", "no container of RAGFlow's server found", remedy)]
    return checks + [_ragflow(one, stack) for one in found]


def _ragflow(one: discovery.RagflowContainer, stack: Stack) -> Check:
    if one.obstacle:
        remedy = "take network_mode out of its compose file and recreate it"
        return Check("RAGFlow", "fail", f"{one.name} can't join a network: {one.obstacle}", remedy)
    release = one.release or ("demo client, a stand-in" if one.demo else "release unknown")
    moves = planning.moves_route(one.container, stack.network.name, internal=stack.network.internal)
    if moves:
        remedy = "name the network so that it sorts after RAGFlow's own, or set internal = true"
        return Check("RAGFlow", "warn", f"{one.name} ({release}): joining moves its default route", remedy)
    return Check("RAGFlow", "ok", f"{one.name} ({release}), {one.container.status}")


def _first(error: RagopsError) -> str:
    return " - ".join(part for part in (error.message, *error.evidence.splitlines()[:1]) if part)
