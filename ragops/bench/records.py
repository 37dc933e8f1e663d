"""Load levels, and when their requests are due; pure.

The data model of a recorded run; ``folder.py`` writes and reads the files.

The folder of a recorded run: ``run.json``, ``requests.jsonl`` and ``samples.jsonl``.

Lines are appended as requests end and never changed, so that a killed client or a full disk loses none.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from ragops.bench.order import OrderReport  # noqa: TC001 - pydantic reads it
from ragops.errors import BenchError, file_errors, reason

if TYPE_CHECKING:
    from collections.abc import Iterator

Kind = Literal["closed", "poisson", "constant", "burst"]

_KINDS: dict[str, Kind] = {"closed": "closed", "poisson": "poisson", "constant": "constant", "burst": "burst"}
_NANO = 1_000_000_000


@dataclass(frozen=True)
class Level:
    """One load level.

    Create one with :meth:`closed`, :meth:`poisson`, :meth:`constant` or :meth:`burst`.
    """

    kind: Kind
    value: float
    """Clients (closed), requests a second (poisson, constant), or requests at once (burst)."""
    requests: int | None = None
    """How many requests of the workload are measured; all when None."""

    def __post_init__(self) -> None:
        counted = self.kind in ("closed", "burst") and self.value != int(self.value)
        if not self.value > 0 or counted or (self.requests is not None and self.requests < 1):
            raise BenchError(
                f"{self.kind} level with {self.value:g} and {self.requests} requests is no load",
                code="load-refused",
                hint="give a number above 0, a whole one of clients, and at least one request",
            )

    @property
    def name(self) -> str:
        """Short name, such as ``closed-4`` or ``poisson-0.5``."""
        return f"{self.kind}-{self.value:g}"

    @property
    def clients(self) -> int | None:
        """Concurrent clients of a closed loop; None for other loads."""
        return int(self.value) if self.kind == "closed" else None

    @classmethod
    def closed(cls, clients: int, *, requests: int | None = None) -> Level:
        """As many clients, each sending its next request when the last is complete."""
        return cls("closed", clients, requests)

    @classmethod
    def poisson(cls, rate: float, *, requests: int | None = None) -> Level:
        """Requests at random, ``rate`` a second on average, whether or not earlier ones are complete."""
        return cls("poisson", rate, requests)

    @classmethod
    def constant(cls, rate: float, *, requests: int | None = None) -> Level:
        """Requests at even distances, ``rate`` a second, whether or not earlier ones are complete."""
        return cls("constant", rate, requests)

    @classmethod
    def burst(cls, size: int, *, requests: int | None = None) -> Level:
        """``size`` requests at the same moment; the next burst when all are complete."""
        return cls("burst", size, requests)

    @classmethod
    def parse(cls, text: str, *, requests: int | None = None) -> Level:
        """A level from its :attr:`name`, such as ``closed-4``.

        Raises:
            BenchError: There is no such kind, or no number behind it.
        """
        kind, _, value = text.strip().partition("-")
        try:
            return cls(_KINDS[kind], float(value), requests)
        except (KeyError, ValueError) as error:
            hint = "closed-4, poisson-0.5, constant-2 and burst-8 are levels"
            raise BenchError(f"{text!r} is no level", code="load-refused", hint=hint) from error


def due_times(level: Level, count: int, seed: int) -> list[int]:
    """When the requests of an open loop are due.

    Args:
        level: A Poisson or constant level.
        count: Number of requests.
        seed: Seed of the Poisson arrivals.

    Returns:
        Nanoseconds after the start, rising; the first is 0.

    Raises:
        BenchError: The level has no due times of its own.
    """
    if level.kind == "constant":
        gaps = [1 / level.value] * (count - 1)
    elif level.kind == "poisson":
        chance = random.Random(f"{seed} {level.name}")  # noqa: S311 - a repeatable load, no secret
        gaps = [chance.expovariate(level.value) for _ in range(count - 1)]
    else:
        raise BenchError(f"{level.name} is a closed loop without due times", code="load-refused")
    return [round(seconds * _NANO) for seconds in accumulate(gaps, initial=0.0)][:count]


def trial_order(levels: tuple[Level, ...], repeats: int, seed: int) -> list[tuple[Level, int]]:
    """Each level once a repeat, in a new random order each time, so that drift affects all alike.

    Args:
        levels: The levels.
        repeats: Repetitions of each.
        seed: Seed of the order.

    Returns:
        Pairs of a level and its repeat, counted from 0.
    """
    chance = random.Random(seed)  # noqa: S311 - a repeatable order, no secret
    order: list[tuple[Level, int]] = []
    for repeat in range(repeats):
        order += [(level, repeat) for level in chance.sample(levels, len(levels))]
    return order


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


INFO, REQUESTS, SAMPLES = "run.json", "requests.jsonl", "samples.jsonl"

_T = TypeVar("_T")

_INFO = TypeAdapter(RunInfo)
_REQUEST = TypeAdapter(RequestRecord)
_SAMPLE = TypeAdapter(Sample)


class RunFolder:
    """The folder of a run that is being recorded; its files are append-only.

    Args:
        path: The folder.
        again: Whether an incomplete run is resumed; otherwise the folder must be new.

    Raises:
        BenchError: It exists, can't be created, or another process writes to it.
    """

    def __init__(self, path: Path, *, again: bool = False) -> None:
        hint = "recorded runs are never overwritten: give another name or results folder"
        with file_errors(BenchError, f"can't make {path}", path, code="run-unreadable", hint=hint):
            path.mkdir(parents=True, exist_ok=again)
        self.path = path
        self._requests, self._samples = (opened(path / name) for name in (REQUESTS, SAMPLES))

    def write_info(self, info: RunInfo) -> None:
        """Replace ``run.json`` atomically."""
        draft = self.path / ".run.json.new"
        with room(self.path, "run", "bench"):
            draft.write_bytes(_INFO.dump_json(info, indent=2) + b"\n")
            draft.replace(self.path / INFO)

    def add_request(self, record: RequestRecord) -> None:
        """Append one line, and flush it."""
        with room(self.path, "run", "bench"):
            append(self._requests, _REQUEST.dump_json(record))

    def add_sample(self, sample: Sample) -> None:
        """Append one line, and flush it."""
        with room(self.path, "run", "bench"):
            append(self._samples, _SAMPLE.dump_json(sample))

    def close(self) -> None:
        """Sync and close the files."""
        for file in (self._requests, self._samples):
            with suppress(OSError):
                os.fsync(file.fileno())
            with suppress(OSError):
                file.close()


def opened(file: Path) -> IO[bytes]:
    """Open to append without a buffer, and truncate an incomplete last line."""
    stream = file.open("a+b", buffering=0)
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with this process, however that ends
    except BlockingIOError as error:
        stream.close()
        hint = "wait until it is done, or stop it"
        raise BenchError(
            f"another process is recording {file.parent}", code="run-busy", hint=hint, file=file.parent
        ) from error
    stream.seek(0)
    stream.truncate(stream.read().rfind(b"\n") + 1)
    return stream


def append(stream: IO[bytes], line: bytes) -> None:
    """Write a complete line, or nothing of it when the disk is full."""
    end = os.fstat(stream.fileno()).st_size
    data = line + b"\n"
    try:
        if stream.write(data) == len(data):
            return
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as caught:
        error = caught
    with suppress(OSError):
        stream.truncate(end)
    raise error


@contextmanager
def room(path: Path, what: str, verb: str) -> Iterator[None]:
    """Turn write errors, as of a full disk, into a BenchError.

    Args:
        path: The folder.
        what: Name of the recording, such as ``run``.
        verb: The command that resumes it.

    Raises:
        BenchError: The disk is full, or the folder can't be written to.
    """
    try:
        yield
    except OSError as error:
        raise BenchError(
            f"can't write to {path}, so the {what} ends here and keeps what it had",
            code="disk-full",
            evidence=str(error),
            hint=f"free disk space, then resume: ragops {verb} --resume {path}",
            file=path,
        ) from error


def load_run(path: Path | str) -> Run:
    """Read a recorded run.

    Args:
        path: Its folder.

    Returns:
        The run. An incomplete last line is left out and listed in ``problems``.

    Raises:
        BenchError: The folder holds no run, one of another format, or an invalid line before the last.
    """
    folder = Path(path)
    info = _load_info(folder)
    problems: list[str] = []
    requests = _load_lines(folder / REQUESTS, _REQUEST, problems)
    samples = _load_lines(folder / SAMPLES, _SAMPLE, problems)
    run = Run(folder, info, requests, samples)
    if not info.complete:
        problems.append(f"run.json says incomplete: {info.reason}")
        problems += [f"{level.name}, repeat {n}: {left} requests missing" for level, n, left in run.missing]
    return replace(run, problems=tuple(problems))


def _load_info(folder: Path) -> RunInfo:
    hint = "name a folder under results/ that ragops bench has made"
    with file_errors(BenchError, f"{folder} holds no recorded run", folder, code="run-unreadable", hint=hint):
        data = (folder / INFO).read_bytes()
    what, hint = f"{folder / INFO} can't be read", "it was changed by hand, or by another release of ragops"
    with file_errors(BenchError, what, folder / INFO, code="run-unreadable", hint=hint):
        info = _INFO.validate_json(data)
    if info.schema_version not in READS:
        raise BenchError(
            f"{folder}/run.json has schema version {info.schema_version}",
            code="run-unreadable",
            evidence=f"this ragops reads versions {READS[0]} to {READS[-1]}",
            hint="read it with the release that wrote it",
            file=folder / INFO,
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
                raise BenchError(
                    f"{file}:{number} is broken",
                    code="run-unreadable",
                    evidence=reason(error),
                    hint=hint,
                    file=file,
                ) from error
            problems.append(f"{file.name}: last line cut off, left out")
    return tuple(rows)
