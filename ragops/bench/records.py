"""What a recorded run holds, as frozen declarations; ``folder.py`` writes and reads the files.

``run.py`` makes one, ``stats.py``, ``verdict.py``, ``compare.py`` and ``plots.py`` only read what
:func:`~ragops.bench.folder.load_run` gives.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ragops.bench.level import Level  # noqa: TC001 - pydantic reads it
from ragops.bench.order import OrderReport  # noqa: TC001 - pydantic reads it

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = 2
"""Version of the folder's form; rises when a reader of the old form would err.

2 has sessions: a run that was continued has its requests and its times in several of them. It also
has what the server counted, and the limit of the machine; a run of form 1 is read with those unknown."""

READS = (1, SCHEMA)
"""Versions that this release reads."""

Phase = Literal["warmup", "measure"]


@dataclass(frozen=True)
class Provenance:
    """Where a run comes from; what is not known stays empty.

    Sizes in bytes, features and arguments in their own order.
    """

    machine: str = ""
    """Short name of the machine, part of the folder's name."""
    vantage: str = ""
    """Where the client stood, such as ``inside the network`` or ``host, published port``."""
    launch_arguments: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    image: str = ""
    image_digest: str = ""
    model: str = ""
    model_sha256: str = ""
    model_is_stand_in: str = ""
    """What the model stands in for and why; empty when it is the one meant."""
    client_is_stand_in: str = ""
    """What the client stands in for; empty when it is RAGFlow."""
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
    """The reranker at one moment; counters only rise. None where a value can't be read."""

    t: int
    """When it was begun, in ns of ``time.perf_counter_ns``, the clock of the requests."""
    cpu_ns: int | None = None
    """CPU time used since the container's start."""
    throttled_ns: int | None = None
    throttled_periods: int | None = None
    memory_bytes: int | None = None
    running: int | None = None
    """Documents that vLLM is working on."""
    waiting: int | None = None
    """Documents that wait in vLLM's queue."""
    calls: int | None = None
    """Rerank calls that the server has answered, from whomever."""
    prompt_tokens: int | None = None
    """Tokens of all prompts that the server has taken, whether computed or found in its cache."""
    cached_tokens: int | None = None
    """Of those, tokens that its prefix cache had."""
    host_busy_ns: int | None = None
    """CPU time that the whole machine has spent."""
    host_stolen_ns: int | None = None
    """CPU time that the hypervisor kept from it."""
    client_ns: int | None = None
    """CPU time of the process that measures."""


@dataclass(frozen=True)
class RequestRecord:
    """One request. Times in ns of one clock; ``error`` is empty when the answer was good."""

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
    """How often the run had been continued."""

    @property
    def latency(self) -> float:
        """Seconds from when it was due; what a user waits."""
        return (self.t_done - self.t_sched) / 1e9

    @property
    def service(self) -> float:
        """Seconds from when it was sent; what the server was seen to take."""
        return (self.t_done - self.t_send) / 1e9

    @property
    def is_cancelled(self) -> bool:
        """Whether the client gave it up because the run was stopped."""
        return self.error == "cancelled"


@dataclass(frozen=True)
class WorkloadInfo:
    """Which workload was played; its texts are found again by recipe and sha256."""

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
class Floor:
    """What the client costs by itself, measured against a server that takes no time."""

    requests: int
    p50_ns: int
    cpu_ns_per_request: int
    errors: int


@dataclass(frozen=True)
class ClientReport:
    """CPU time of the thread that sent the requests."""

    requests: int
    cpu_ns: int
    floor: Floor | None = None

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
class Limit:
    """What the machine could do at most, measured beside the run on the reranker's own CPUs."""

    served: str
    """Arithmetic of the reranker, one of those below."""
    flop_per_token: float
    """Multiplications and additions of the model's linear layers; attention comes on top."""
    threads: int
    gemms: tuple[Gemm, ...]

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens a second if nothing but those multiplications took time; None where not measured."""
        found = [one.tflops for one in self.gemms if one.dtype == self.served]
        return found[0] * 1e12 / self.flop_per_token if found and found[0] and self.flop_per_token else None


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
    """Seconds until a request was given up."""
    workload: WorkloadInfo
    levels: tuple[Level, ...]
    order_played: tuple[str, ...]
    repeats: int
    warmup: int
    """Requests at the head of each pass that no figure counts."""
    seed: int
    fresh: bool
    """Whether each pass was numbered in its queries, so that no request was sent twice."""
    order: OrderReport
    provenance: Provenance
    schema_version: int = SCHEMA
    ended: str = ""
    complete: bool = False
    reason: str = "still running"
    """Why it is not complete; empty when it is."""
    client: ClientReport | None = None
    sampler_errors: tuple[str, ...] = ()
    limit: Limit | None = None
    template_tokens: int = 0
    """Tokens that the score template adds to each pair, about."""
    resumed: tuple[str, ...] = ()
    """When it was continued; UTC, ISO 8601."""

    def planned(self, level: Level) -> int:
        """Requests of one repeat of a level that are to be measured."""
        return min(level.requests or self.workload.requests, self.workload.requests)


@dataclass(frozen=True)
class Run:
    """A run as read back."""

    path: Path
    info: RunInfo
    requests: tuple[RequestRecord, ...]
    samples: tuple[Sample, ...] = ()
    problems: tuple[str, ...] = field(default=())
    """What was wrong with the files but did not keep them from being read."""

    @property
    def measured(self) -> tuple[RequestRecord, ...]:
        """The requests that figures count: no warm-up, none that the user stopped."""
        return tuple(r for r in self.requests if r.phase == "measure" and not r.is_cancelled)

    @property
    def missing(self) -> tuple[tuple[Level, int, int], ...]:
        """Level, repeat, and how many of its requests have not ended; none when all have."""
        done = Counter((record.level, record.repeat) for record in self.measured)
        turns = [(level, repeat) for level in self.info.levels for repeat in range(self.info.repeats)]
        left = [(one, repeat, self.info.planned(one) - done[one.name, repeat]) for one, repeat in turns]
        return tuple(row for row in left if row[2] > 0)
