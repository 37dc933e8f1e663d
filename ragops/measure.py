"""Benchmarks of the running reranker, and of any other server; joins ``bench`` with the Docker engine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ragops import bench, limit, origins, sizing, verbs, vllm
from ragops import host as hosts
from ragops import model as models
from ragops.bench import Gemm, GemmPeak
from ragops.engine import connect as connect_engine
from ragops.errors import BenchError, NotFoundError, RagopsError
from ragops.ragflow import discovery, releases
from ragops.telemetry import Sampler

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from pathlib import Path

    from ragops.bench import BenchmarkConfig, Provenance, Workload
    from ragops.engine import Engine
    from ragops.model import Model
    from ragops.stack import Stack
    from ragops.state import ContainerState
    from ragops.verbs import Desired


def benchmark(
    stack: Stack,
    config: BenchmarkConfig,
    *,
    progress: Callable[[bench.Progress], None] | None = None,
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
        running.wanted.served,
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
    progress: Callable[[bench.Progress], None] | None = None,
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
    if bench.load_run(run).info.provenance.vantage == origins.BY_URL:
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
    progress: Callable[[bench.Progress], None] | None = None,
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
    server = bench.Server(url, model, api_key, origins.of_url(model), Sampler(url))
    return bench.record_sync(server, config, progress=progress, stop=stop)


@dataclass(frozen=True)
class _Running:
    """The running reranker."""

    wanted: Desired
    container: ContainerState
    engine: Engine
    url: str

    def provenance(self) -> Provenance:
        return origins.of_container(self.wanted, self.container, self.engine)

    def sampler(self) -> Sampler:
        return Sampler(self.url, self.engine, self.container.id)

    def limit(self) -> GemmPeak:
        """The matrix multiplication peak, or why it could not be measured."""
        stack, host = self.wanted.stack, hosts.read_host()
        served = sizing.arithmetic(stack, self.wanted.model, host)
        threads = len(sizing.compute(stack, host))
        cpus, model = self.wanted.spec.cpuset_cpus, self.wanted.model
        try:
            return limit.measure(self.engine, self.container.image_id, model, served, cpus, threads)
        except RagopsError as error:
            return GemmPeak(served, 0.0, threads, (Gemm(served, None, error.message),))


def _running(stack: Stack, engine: Engine | None) -> _Running:
    engine = engine or connect_engine()
    wanted = verbs.desired(stack)
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
    return vllm.TEMPLATE_TOKENS if vllm.template_file(model) else 0


def release(stack: Stack, engine: Engine | None = None) -> str:
    """RAGFlow's release by its container; the newest known one otherwise."""
    for ragflow in discovery.find((engine or connect_engine()).containers(), stack.ragflow):
        if ragflow.release in releases.KNOWN:
            return ragflow.release
    return releases.NEWEST


def _untrained(model: Model) -> str:
    return model.stand_in if (model.folder / models.STAND_IN_FILE).exists() else ""


def max_words(stack: Stack) -> int:
    """Longest query and document together, in words, that fit the served model's context."""
    model = verbs.desired(stack).model
    return bench.words_for_context(sizing.max_model_len(stack, model), _template_tokens(model))
