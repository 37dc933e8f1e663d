"""Benchmarks of the running stack, and of any other server.

Joins ``bench`` (which knows no Docker) with the engine: :func:`benchmark` is the verb.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ragops import bench, limit, origins, sizing, verbs, vllm
from ragops import host as hosts
from ragops import model as models
from ragops.bench import Gemm, Limit
from ragops.engine import connect as connect_engine
from ragops.errors import BenchError, NotFoundError, RagopsError
from ragops.ragflow import discovery, releases
from ragops.telemetry import Sampler

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from ragops.bench import Level, Provenance, Workload
    from ragops.engine import Engine
    from ragops.model import Model
    from ragops.stack import Stack
    from ragops.state import ContainerState
    from ragops.verbs import Desired


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
    seed: int = 1,
    fresh: bool = True,
    with_limits: bool = True,
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
        seed: Seed of the arrivals and of the order of levels.
        fresh: New texts in each pass; False where the server's cache is what is measured.
        with_limits: Also measure, beforehand, what the machine can do at most and what the client
            costs; takes about half a minute.
        engine: The engine; connected when left out.

    Raises:
        NotFoundError: The reranker does not run.
        BenchError: It is not published on this host, ranks wrongly, or nothing was measured.
    """
    found = _running(stack, engine)
    return bench.record_sync(
        base_url=found.url,
        model=found.wanted.served,
        workload=workload,
        levels=levels,
        name=name,
        results=Path(results),
        provenance=found.provenance(),
        sampler=found.sampler(),
        warmup=warmup,
        repeats=repeats,
        progress=progress,
        stop=stop,
        no_order_check=no_order_check or _untrained(found.wanted.model),
        timeout=patience(workload),
        seed=seed,
        fresh=fresh,
        floor=with_limits,
        limit=found.limit() if with_limits else None,
        template_tokens=_template_tokens(found.wanted.model),
    )


def resume(
    stack: Stack,
    run: Path,
    *,
    workload: Workload | None = None,
    progress: Callable[[bench.Progress], None] | None = None,
    stop: threading.Event | None = None,
    engine: Engine | None = None,
) -> Path:
    """Go on with a run that was cut short; what it has stays, and what is missing is measured.

    Args:
        stack: The declaration that the run was made with.
        run: The run's folder.
        workload: Its texts where they were the user's own.
        progress: Called after each request.
        stop: When it is set, from any thread, the run ends and keeps what there is.
        engine: The engine; connected when left out.

    Raises:
        NotFoundError: The reranker does not run.
        BenchError: The run is complete, or another reranker or other texts are there now.
    """
    if bench.load_run(run).info.provenance.vantage == origins.BY_URL:
        return bench.resume_sync(
            run,
            workload=workload,
            sampler=Sampler(bench.load_run(run).info.base_url),
            progress=progress,
            stop=stop,
        )
    found = _running(stack, engine)
    return bench.resume_sync(
        run,
        workload=workload,
        provenance=found.provenance(),
        sampler=found.sampler(),
        progress=progress,
        stop=stop,
    )


def benchmark_url(  # noqa: PLR0913 - one keyword for each thing that a run may vary
    url: str,
    model: str,
    *,
    workload: Workload,
    levels: tuple[Level, ...],
    name: str = "bench",
    results: Path | str = "results",
    warmup: int = 3,
    repeats: int = 1,
    progress: Callable[[bench.Progress], None] | None = None,
    no_order_check: str = "",
    seed: int = 1,
    fresh: bool = True,
    api_key: str = "x",
) -> Path:
    """Measure any server that answers ``/v1/rerank``, of which nothing else is known.

    Args:
        url: Its address, ending in ``/v1``.
        model: The model's name as it serves it.
        workload: As for :func:`benchmark`, like all that follows.
        levels: How it arrives.
        name: Part of the folder's name.
        results: Folder below which the run's own folder is made.
        warmup: Requests at the head of each level that no figure counts.
        repeats: How often each level is played.
        progress: Called after each request.
        no_order_check: Why the right order is not asked for.
        seed: Seed of the arrivals and of the order of levels.
        fresh: New texts in each pass.
        api_key: Sent as the bearer, and kept nowhere.

    Raises:
        BenchError: It does not answer, or ranks wrongly.
    """
    return bench.record_sync(
        base_url=url,
        model=model,
        workload=workload,
        levels=levels,
        name=name,
        results=Path(results),
        provenance=origins.of_url(model),
        sampler=Sampler(url),
        warmup=warmup,
        repeats=repeats,
        progress=progress,
        no_order_check=no_order_check,
        timeout=patience(workload),
        api_key=api_key,
        seed=seed,
        fresh=fresh,
        floor=True,
    )


def patience(workload: Workload) -> float:
    """Seconds until a request is given up: twice what RAGFlow waits, to see by how much a call is late."""
    return 2 * releases.of(workload.release or releases.NEWEST).timeout


@dataclass(frozen=True)
class _Running:
    """The reranker that runs, worked out and looked up."""

    wanted: Desired
    container: ContainerState
    engine: Engine
    url: str

    def provenance(self) -> Provenance:
        return origins.of_container(self.wanted, self.container, self.engine)

    def sampler(self) -> Sampler:
        return Sampler(self.url, self.engine, self.container.id)

    def limit(self) -> Limit:
        """What the machine can do at most; what keeps it from being measured is in it."""
        stack, host = self.wanted.stack, hosts.read_host()
        served = sizing.arithmetic(stack, self.wanted.model, host)
        threads = len(sizing.compute(stack, host))
        cpus, model = self.wanted.spec.cpuset_cpus, self.wanted.model
        try:
            return limit.measure(self.engine, self.container.image_id, model, served, cpus, threads)
        except RagopsError as error:
            return Limit(served, 0.0, threads, (Gemm(served, None, error.message),))


def _running(stack: Stack, engine: Engine | None) -> _Running:
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
    return _Running(wanted, reranker, engine, stack.host_url)


def _template_tokens(model: Model) -> int:
    return vllm.TEMPLATE_TOKENS if vllm.template_file(model) else 0


def release(stack: Stack, engine: Engine | None = None) -> str:
    """RAGFlow's release as its container tells it; the newest known one where it doesn't."""
    found = discovery.find((engine or connect_engine()).containers(), stack.ragflow)
    told = [one.release for one in found if one.release in releases.KNOWN]
    return told[0] if told else releases.NEWEST


def _untrained(model: Model) -> str:
    return model.stand_in if (model.folder / models.STAND_IN_FILE).exists() else ""


def max_words(stack: Stack) -> int:
    """Longest query and document together, in words, that the served model surely takes."""
    model = verbs.desired(stack).model
    return bench.words_for_context(sizing.max_model_len(stack, model), _template_tokens(model))
