"""The data model of a recorded run; ``folder.py`` writes and reads the files."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ragops.bench.level import Level  # noqa: TC001 - pydantic reads it
from ragops.bench.order import OrderReport  # noqa: TC001 - pydantic reads it

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = 2
"""Version of the folder's format. Version 2 added sessions of resumed runs, the server's counters and the
machine's GEMM peak; they are empty in runs of version 1."""

READS = (1, SCHEMA)
"""Versions that this release reads."""

Phase = Literal["warmup", "measure"]


@dataclass(frozen=True)
class Provenance:
    """Machine, image, model and versions of a run; unknown fields are empty.

    Sizes in bytes, features and arguments in their own order.
    """

    machine: str = ""
    """Short name of the machine, part of the folder's name."""
    vantage: str = ""
    """Location of the client, such as ``inside the network`` or ``host, published port``."""
    launch_arguments: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    image: str = ""
    image_digest: str = ""
    model: str = ""
    model_sha256: str = ""
    model_is_stand_in: str = ""
    """Why the model is a substitute; empty when it is not."""
    client_is_stand_in: str = ""
    """What the client substitutes; empty when it is RAGFlow."""
    cpu_model: str = ""
    cpu_features: tuple[str, ...] = ()
    cores: str = ""
    """CPU list of the reranker, such as ``0-3``."""
    core_count: int | None = None
    cgroup_cpu_cores: float | None = None
    """CPU quota in cores; None when there is none."""
    cgroup_memory_bytes: int | None = None
    memory_bytes: int | None = None
    kernel: str = ""
    docker: str = ""
    vllm: str = ""
    ragops: str = ""
    python: str = ""
    git_commit: str = ""
    git_dirty: bool | None = None
    gemm_tflops: float | None = None
    """Matrix multiplication limit measured beside the run, in TFLOP/s."""
    gemm_dtype: str = ""


@dataclass(frozen=True)
class Sample:
    """Counters and gauges at one moment; None where a value can't be read."""

    t: int
    """When it was begun, in ns of ``time.perf_counter_ns``, the clock of the requests."""
    cpu_ns: int | None = None
    """CPU time used since the container's start."""
    throttled_ns: int | None = None
    throttled_periods: int | None = None
    memory_bytes: int | None = None
    running: int | None = None
    """Documents in processing by vLLM."""
    waiting: int | None = None
    """Documents in vLLM's queue."""
    calls: int | None = None
    """Rerank requests served, from all clients."""
    prompt_tokens: int | None = None
    """Prompt tokens of all requests, computed or cached."""
    cached_tokens: int | None = None
    """Prompt tokens found in the prefix cache."""
    host_busy_ns: int | None = None
    """CPU time of the whole machine."""
    host_stolen_ns: int | None = None
    """CPU time withheld by the hypervisor (steal)."""
    client_ns: int | None = None
    """CPU time of the measuring process."""


@dataclass(frozen=True)
class RequestRecord:
    """One request. Times in ns of one clock; ``error`` is empty when it succeeded."""

    level: str
    repeat: int
    phase: Phase
    index: int
    """Place of the request in the workload."""
    documents: int
    words: int
    """Mean words a document."""
    t_sched: int
    """When it was due."""
    t_send: int
    t_done: int
    tokens: int | None
    status: int | None
    error: str = ""
    session: int = 0
    """Number of times that the run had been resumed."""

    @property
    def latency(self) -> float:
        """Seconds from when it was due: the user's waiting time."""
        return (self.t_done - self.t_sched) / 1e9

    @property
    def service(self) -> float:
        """Seconds from when it was sent: the server's time."""
        return (self.t_done - self.t_send) / 1e9

    @property
    def is_cancelled(self) -> bool:
        """Whether it was cancelled because the run was stopped."""
        return self.error == "cancelled"


@dataclass(frozen=True)
class WorkloadInfo:
    """The workload; its texts can be generated again from the recipe and verified by sha256."""

    name: str
    profile: str
    description: str
    seed: int | None
    sha256: str
    requests: int
    cut_to: int | None = None
    """Words of the longest pair where documents were cut for the model; None where none was."""
    cut_documents: int | None = None
    """How many were cut."""
    documents: int | None = None
    """Documents of all requests together."""
    query_words: float | None = None
    """Mean words of a query."""
    release: str = ""
    """Release of RAGFlow whose window it has; empty where it has none's."""
    recipe: str = ""
    """JSON from which ``ragops.bench.workload.again`` makes the same texts; empty for hand-made ones."""


@dataclass(frozen=True)
class ClientOverhead:
    """Overhead of the client, measured against a server whose response takes no time."""

    requests: int
    p50_ns: int
    cpu_ns_per_request: int
    errors: int


@dataclass(frozen=True)
class ClientReport:
    """CPU time of the thread that sent the requests."""

    requests: int
    cpu_ns: int
    floor: ClientOverhead | None = None

    @property
    def cpu_seconds_per_request(self) -> float:
        """Seconds of CPU that the client used for each request."""
        return self.cpu_ns / 1e9 / max(1, self.requests)


@dataclass(frozen=True)
class Gemm:
    """Matrix multiplication of the model's shapes in one arithmetic."""

    dtype: str
    tflops: float | None
    """1e12 multiplications and additions a second; None where it could not be measured."""
    error: str = ""
    """Why not."""


@dataclass(frozen=True)
class GemmPeak:
    """Peak of the matrix multiplication, measured with the run on the reranker's CPUs."""

    served: str
    """Arithmetic of the reranker, one of those below."""
    flop_per_token: float
    """Multiplications and additions of the model's linear layers; attention comes on top."""
    threads: int
    gemms: tuple[Gemm, ...]

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens a second if only those multiplications took time; None where not measured."""
        for gemm in self.gemms:
            if gemm.dtype == self.served and gemm.tflops and self.flop_per_token:
                return gemm.tflops * 1e12 / self.flop_per_token
        return None


@dataclass(frozen=True)
class RunInfo:
    """``run.json``."""

    name: str
    started: str
    """UTC, ISO 8601."""
    started_ns: int
    """The same moment on the clock of the requests."""
    base_url: str
    model: str
    timeout: float
    """Seconds until a request was cancelled."""
    workload: WorkloadInfo
    levels: tuple[Level, ...]
    order_played: tuple[str, ...]
    repeats: int
    warmup: int
    """Requests at the head of each trial that are not counted."""
    seed: int
    fresh: bool
    """Whether the texts of each trial were numbered, so that none was sent twice."""
    order: OrderReport
    provenance: Provenance
    schema_version: int = SCHEMA
    ended: str = ""
    complete: bool = False
    reason: str = "still running"
    """Why it is not complete; empty when it is."""
    client: ClientReport | None = None
    sampler_errors: tuple[str, ...] = ()
    limit: GemmPeak | None = None
    template_tokens: int = 0
    """Tokens that the score template adds to each pair, about."""
    resumed: tuple[str, ...] = ()
    """When it was resumed; UTC, ISO 8601."""

    def planned(self, level: Level) -> int:
        """Measured requests of one repetition of a load level."""
        return min(level.requests or self.workload.requests, self.workload.requests)


@dataclass(frozen=True)
class Run:
    """A run as read back."""

    path: Path
    info: RunInfo
    requests: tuple[RequestRecord, ...]
    samples: tuple[Sample, ...] = ()
    problems: tuple[str, ...] = field(default=())
    """Defects of the files that did not prevent reading them."""

    @property
    def measured(self) -> tuple[RequestRecord, ...]:
        """The requests that are counted: neither warm-up nor cancelled."""
        return tuple(r for r in self.requests if r.phase == "measure" and not r.is_cancelled)

    @property
    def missing(self) -> tuple[tuple[Level, int, int], ...]:
        """Level, repeat, and number of its requests that are missing."""
        done = Counter((record.level, record.repeat) for record in self.measured)
        turns = [(level, repeat) for level in self.info.levels for repeat in range(self.info.repeats)]
        left = [(one, repeat, self.info.planned(one) - done[one.name, repeat]) for one, repeat in turns]
        return tuple(row for row in left if row[2] > 0)
