"""Servers that receive alternating requests on the same cores; all but one are paused.

``launches.py`` decides which are compared. One is the launch command that users copy (the recipe).
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from benchmarks import free_port, targets
from benchmarks.targets import Timed
from ragops.bench import measure, wire
from ragops.bench.measure import Sampler
from ragops.checks import ready
from ragops.configuration import Network, Ragflow, Reranker, Stack
from ragops.docker.objects import ContainerSpec, Mount
from ragops.errors import BenchError, EngineError
from ragops.reranker import architectures, options, sizing
from ragops.session import Deployment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ragops.bench.records import GemmPeak, Provenance
    from ragops.checks.traffic import Request
    from ragops.docker.engine import Engine
    from ragops.reranker.host import Host
    from ragops.reranker.model import Model

PREFIX = "ragops-launches"

TIMEOUT = 600.0

RECIPE = ("--runner", "pooling", "--dtype", "float32", "--port", "8000", "--trust-remote-code")
"""Options of published compose files, without ``--task score``, which vLLM rejects since 0.13."""
RECIPE_VARIABLES = (
    ("VLLM_HF_OVERRIDES", architectures.by_kind("qwen3-reranker").hf_overrides),
    ("VLLM_CPU_KVCACHE_SPACE", "2"),
    ("HF_HUB_OFFLINE", "1"),
    ("VLLM_NO_USAGE_STATS", "1"),
)
"""vLLM does not know the first, which is the recipe's. The second lets two servers share the memory."""
RECIPE_CHANGES = (
    "--runner pooling instead of --task score, which vLLM rejects; a key-value cache of 2 GiB; no CPU quota"
)


@dataclass(frozen=True)
class Server:
    """A reranker on this host, paused between its requests."""

    engine: Engine
    name: str
    url: str
    served: str
    ready: float
    """Seconds from its start to its first response."""

    def send(self, request: Request) -> Timed:
        """Send one request while every other server is paused.

        Raises:
            BenchError: The request failed.
        """
        self.engine.unpause(self.name)
        try:
            sampler = Sampler(self.url, self.engine, (self.name,))
            before = sampler()
            reply = asyncio.run(_post(wire.Server(self.url, self.served), request))
            after = sampler()
        finally:
            self.engine.pause(self.name)
        if reply.error:
            raise BenchError(f"{self.name} did not respond", code="server-silent", evidence=reply.error)
        tokens = reply.tokens or 0
        computed = tokens - (after.cached_tokens or 0) + (before.cached_tokens or 0)
        took, count = (reply.t_done - reply.t_send) / 1e9, len(request.documents)
        return Timed(took, count, tokens, computed, reply.scores, targets.others(before, after))


async def _post(server: wire.Server, request: Request) -> wire.RerankResponse:
    with closing(wire.Client(server, TIMEOUT)) as client:
        body = wire.encode(server.model, request.query, request.documents)
        return await client.post(body, len(request.documents))


@dataclass(frozen=True)
class LaunchRunner:
    """The engine, image, host and models of a comparison of launches."""

    engine: Engine
    image: str
    host: Host
    model: Model
    int8: Model

    def stack(self, name: str, cores: str = "auto") -> Stack:
        """The default configuration with its own names and port, without gateway and without RAGFlow."""
        reranker = Reranker(name=f"{PREFIX}-{name}", port=free_port(), served_name=PREFIX, cores=cores)
        ragflow = Ragflow(project=PREFIX)  # else several on this engine would be an error
        return Stack(network=Network(name=PREFIX), reranker=reranker, ragflow=ragflow, gateway=False)

    def default_spec(self, name: str, model: Model, cores: str = "auto") -> ContainerSpec:
        """The container that ``ragops up`` starts."""
        stack = self.stack(name, cores)
        return options.container_spec(stack, model, sizing.size(stack, model, self.host), image=self.image)

    def recipe_spec(self) -> ContainerSpec:
        """The container of the recipe, on the same cores and without its CPU quota."""
        default = self.default_spec("recipe", self.model)
        where = "/models/recipe"
        return ContainerSpec(
            name=default.name,
            image=self.image,
            entrypoint=options.ENTRYPOINT,
            command=("--model", where, *RECIPE, "--max-model-len", str(min(8192, self.model.max_tokens))),
            environment=RECIPE_VARIABLES,
            mounts=(Mount(str(self.model.folder), where, read_only=True),),
            network=PREFIX,
            publish=default.publish,
            cpuset_cpus=default.cpuset_cpus,
            memory=min(16 * sizing.GIB, self.host.usable_memory // 2),
            shm_size=4 * sizing.GIB,
        )

    @contextmanager
    def started(self, spec: ContainerSpec, served: str = PREFIX) -> Iterator[Server]:
        """Start a server, wait for its first response, pause it, and remove it at the end."""
        log(f"start {spec.name}")
        self.engine.create_container(spec)
        try:
            self.engine.start(spec.name)
            took = ready.wait(self.engine, spec.name, served, TIMEOUT)
            log(f"{spec.name} is ready after {took:.0f} s")
            self.engine.pause(spec.name)
            container = self.engine.container(spec.name)
            root = container.host_url(options.PORT) if container else None
            yield Server(self.engine, spec.name, f"{root}/v1", served, took)
        finally:
            with suppress(EngineError):  # it may not be paused
                self.engine.unpause(spec.name)
            self.engine.remove_container(spec.name)

    def gemm_peak(self, spec: ContainerSpec) -> GemmPeak:
        """The matrix multiplication peak on the cores of a launch."""
        return measure.gemm_peak(self._deployment(spec), self.engine, self.image)

    def provenance(self, spec: ContainerSpec) -> Provenance:
        """Provenance of the record."""
        container = self.engine.container(spec.name)
        if container is None:
            raise BenchError(f"{spec.name} does not exist", container=spec.name)
        provenance = measure.provenance(self._deployment(spec), container, self.engine)
        return replace(provenance, client_is_stand_in="")

    def _deployment(self, spec: ContainerSpec) -> Deployment:
        stack = self.stack("default")
        return Deployment(stack, self.model, self.host, sizing.sizes(stack, self.model, self.host), (spec,))


def log(line: str) -> None:
    """Log a line of progress."""
    sys.stderr.write(f"{line}\n")
