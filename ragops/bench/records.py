"""What a recorded run holds, as frozen declarations, and the folder that keeps it.

A folder has ``run.json``, ``requests.jsonl`` and ``samples.jsonl``. ``run.py`` writes one,
``stats.py``, ``verdict.py``, ``compare.py`` and ``plots.py`` only read what :func:`load_run` gives.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from ragops.bench.level import Level  # noqa: TC001 - pydantic reads it
from ragops.bench.order import OrderReport  # noqa: TC001 - pydantic reads it
from ragops.errors import BenchError

SCHEMA = 1
"""Version of the folder's form; rises when a reader of the old form would err."""

Phase = Literal["warmup", "measure"]

_T = TypeVar("_T")


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
    """Nanoseconds of ``time.perf_counter_ns``, the clock of the requests."""
    cpu_ns: int | None = None
    """CPU time used since the container's start."""
    throttled_ns: int | None = None
    throttled_periods: int | None = None
    memory_bytes: int | None = None
    running: int | None = None
    """Documents that vLLM is working on."""
    waiting: int | None = None
    """Documents that wait in vLLM's queue."""


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


_INFO = TypeAdapter(RunInfo)
_REQUEST = TypeAdapter(RequestRecord)
_SAMPLE = TypeAdapter(Sample)


class RunFolder:
    """A new folder for a run; its files are only added to, and an old folder is never written.

    Args:
        path: The folder.

    Raises:
        BenchError: It is there already, or can't be made.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.mkdir(parents=True)
        except OSError as error:
            hint = "recorded runs are never overwritten: give another name or results folder"
            raise BenchError(f"can't make {path}", evidence=str(error), hint=hint) from error
        self.path = path
        self._requests = (path / "requests.jsonl").open("ab")
        self._samples = (path / "samples.jsonl").open("ab")

    def write_info(self, info: RunInfo) -> None:
        """Put ``run.json`` in place at once, so that no reader meets half of it."""
        draft = self.path / ".run.json.new"
        draft.write_bytes(_INFO.dump_json(info, indent=2) + b"\n")
        draft.replace(self.path / "run.json")

    def add_request(self, record: RequestRecord) -> None:
        """Append one line, and flush it."""
        _append(self._requests, _REQUEST.dump_json(record))

    def add_sample(self, sample: Sample) -> None:
        """Append one line, and flush it."""
        _append(self._samples, _SAMPLE.dump_json(sample))

    def close(self) -> None:
        """Put everything on disk and close the files."""
        for file in (self._requests, self._samples):
            os.fsync(file.fileno())
            file.close()


def _append(file: IO[bytes], line: bytes) -> None:
    file.write(line + b"\n")
    file.flush()


def load_run(path: Path | str) -> Run:
    """Read a recorded run.

    Args:
        path: Its folder.

    Returns:
        The run. A last line that was cut off is left out and named in ``problems``.

    Raises:
        BenchError: The folder holds no run, one of another form, or a broken line before the last.
    """
    folder = Path(path)
    info = _load_info(folder)
    problems: list[str] = []
    requests = _load_lines(folder / "requests.jsonl", _REQUEST, problems)
    samples = _load_lines(folder / "samples.jsonl", _SAMPLE, problems)
    if not info.complete:
        problems.append(f"run.json says incomplete: {info.reason}")
    return Run(folder, info, requests, samples, tuple(problems))


def _load_info(folder: Path) -> RunInfo:
    try:
        info = _INFO.validate_json((folder / "run.json").read_bytes())
    except OSError as error:
        hint = "name a folder under results/ that ragops bench has made"
        raise BenchError(f"{folder} holds no recorded run", evidence=str(error), hint=hint) from error
    except ValidationError as error:
        hint = "it was changed by hand, or by another release of ragops"
        raise BenchError(f"{folder}/run.json can't be read", evidence=_first(error), hint=hint) from error
    if info.schema_version != SCHEMA:
        raise BenchError(
            f"{folder}/run.json has schema version {info.schema_version}",
            evidence=f"this ragops reads version {SCHEMA}",
            hint="read it with the release that wrote it",
        )
    return info


def _load_lines(file: Path, adapter: TypeAdapter[_T], problems: list[str]) -> tuple[_T, ...]:
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        problems.append(f"{file.name} can't be read: {error.strerror}")
        return ()
    rows: list[_T] = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(adapter.validate_json(line))
        except ValidationError as error:
            if number < len(lines):
                hint = "the lines after it are good, so it was not cut off: restore the file"
                raise BenchError(f"{file}:{number} is broken", evidence=_first(error), hint=hint) from error
            problems.append(f"{file.name}: last line cut off, left out")
    return tuple(rows)


def _first(error: ValidationError) -> str:
    detail = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in detail["loc"])
    return f"{where}: {detail['msg']}" if where else detail["msg"]
