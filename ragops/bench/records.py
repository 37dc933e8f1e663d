"""The data model of a recorded run, and its folder; imports no module of ragops but ``ragops.errors``.

``run.json`` contains a :class:`RunInfo`, each line of ``requests.jsonl`` a :class:`RequestRecord`, and each
line of ``samples.jsonl`` a :class:`Sample`. Lines are appended as requests end and never changed, so that a
killed client or a full disk loses none. :class:`RunFolder` writes the files, :func:`load_run` reads them.
The fields have the names of the JSON keys.
"""

import fcntl
import os
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import accumulate, product
from pathlib import Path
from typing import IO, Literal, Self, TypeVar

from pydantic import TypeAdapter, ValidationError

from ragops.errors import BenchError, file_errors, read_text, reason
from ragops.reranker.host import instruction_set

Kind = Literal["closed", "poisson", "constant", "burst"]
Phase = Literal["warmup", "measure"]

SCHEMA = 3
"""Version of the folder's format. Version 2 added sessions of resumed runs, the server's counters and the
machine's GEMM peak, version 3 what the gateway reports; they are empty in older runs."""

MIN_LOAD, MAX_LOAD = 0.001, 10_000
"""Of a load level: requests a second, clients, or requests at once."""

INFO, REQUESTS, SAMPLES = "run.json", "requests.jsonl", "samples.jsonl"


@dataclass(frozen=True)
class LoadLevel:
    """One load level.

    Create one with :meth:`closed`, :meth:`poisson`, :meth:`constant` or :meth:`burst`.
    """

    kind: Kind
    value: float
    """Clients (closed), requests a second (poisson, constant), or requests at once (burst)."""
    requests: int | None = None
    """Number of measured requests of the workload; None for all."""

    def __post_init__(self) -> None:
        is_valid = MIN_LOAD <= self.value <= MAX_LOAD and (self.requests is None or self.requests > 0)
        if not is_valid or (self.kind in {"closed", "burst"} and self.value != int(self.value)):
            what = f"load level {self.kind} {str(self.value)[:20]}, requests={self.requests}, is invalid"
            numbers = f"a number from {MIN_LOAD:g} to {MAX_LOAD:g}"
            hint = f"set {numbers} (an integer for clients and bursts), at least one request"
            raise BenchError(what, code="load-refused", hint=hint)

    @property
    def name(self) -> str:
        """Short name, such as ``closed-4`` or ``poisson-0.5``."""
        return f"{self.kind}-{self.value:g}"

    @property
    def clients(self) -> int | None:
        """Concurrent clients of a closed loop; None for other loads."""
        return int(self.value) if self.kind == "closed" else None

    @classmethod
    def closed(cls, clients: int, *, requests: int | None = None) -> Self:
        """Concurrent clients; each sends its next request when its previous one is complete."""
        return cls("closed", clients, requests)

    @classmethod
    def poisson(cls, rate: float, *, requests: int | None = None) -> Self:
        """Poisson arrivals, ``rate`` per second on average; requests do not wait for earlier ones."""
        return cls("poisson", rate, requests)

    @classmethod
    def constant(cls, rate: float, *, requests: int | None = None) -> Self:
        """Requests at constant intervals, ``rate`` per second; they do not wait for earlier ones."""
        return cls("constant", rate, requests)

    @classmethod
    def burst(cls, size: int, *, requests: int | None = None) -> Self:
        """``size`` requests at once; the next burst is sent when all are complete."""
        return cls("burst", size, requests)


def due_times(level: LoadLevel, count: int, seed: int) -> list[int]:
    """When the requests of a Poisson or constant level are due, in ns after the first."""
    gaps = [1 / level.value] * (count - 1)
    if level.kind == "poisson":
        generator = random.Random(f"{seed} {level.name}")  # noqa: S311 - a repeatable load, no secret
        gaps = [generator.expovariate(level.value) for _ in gaps]
    return [round(seconds * 1e9) for seconds in accumulate(gaps, initial=0.0)][:count]


def trial_order(levels: tuple[LoadLevel, ...], repeats: int, seed: int) -> list[tuple[LoadLevel, int]]:
    """Pairs of a level and its repetition, counted from 0.

    Each repeat has another random order of the levels, so that drift affects all alike.
    """
    generator = random.Random(seed)  # noqa: S311 - a repeatable order, no secret
    orders = [generator.sample(levels, len(levels)) for _ in range(repeats)]
    return [(level, repeat) for repeat, order in enumerate(orders) for level in order]


@dataclass(frozen=True)
class Provenance:
    """Machine, image, model and versions of a run; unknown fields are empty."""

    machine: str = ""
    """Part of the folder's name."""
    vantage: str = ""
    """Location of the client, such as ``host``."""
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
    gateway: str = ""
    """Image and settings of the gateway; empty without one."""
    configuration: str = ""
    """Settings of ``ragops.toml`` that differ from the defaults, without paths."""
    cores: str = ""
    """CPU list of the reranker, such as ``0-3``; of several replicas ``0-3;4-7``."""
    cgroup_cpu_cores: float | None = None
    cgroup_memory_bytes: int | None = None
    memory_bytes: int | None = None
    kernel: str = ""
    docker: str = ""
    vllm: str = ""
    ragops: str = ""
    python: str = ""
    git_commit: str = ""
    git_dirty: bool | None = None

    @property
    def instruction_set(self) -> str:
        """That of the reranker's kernels, such as ``amx``; empty when no CPU feature is known."""
        return instruction_set(self.cpu_features)

    @property
    def machine_label(self) -> str:
        """The machine with its instruction set, which labels of older runs do not have."""
        kind = self.instruction_set
        return f"{self.machine} ({kind})" if kind and kind not in self.machine else self.machine


@dataclass(frozen=True)
class Sample:
    """Counters and gauges at one moment; None where a value can't be read."""

    t: int
    """Start of the sample in ns of ``time.perf_counter_ns``, the clock of the requests."""
    cpu_ns: int | None = None
    """CPU time used since the container's start."""
    throttled_ns: int | None = None
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
    """CPU time of the whole machine; ``host_stolen_ns`` was withheld by the hypervisor (steal)."""
    host_stolen_ns: int | None = None
    client_ns: int | None = None
    """CPU time of the measuring process."""


@dataclass(frozen=True)
class GatewayCounts:
    """What the gateway reports of one request; None where the response has no such header."""

    ranked: int | None = None
    """Documents with a score of the model, computed or cached; the others follow in their order."""
    cached: int | None = None
    """Documents whose score came from the gateway's cache."""
    own_ms: float | None = None
    """Time of the gateway itself, which the request would not have taken without it."""


NO_GATEWAY = GatewayCounts()


@dataclass(frozen=True)
class RequestRecord:
    """One request; times are in ns of one clock, ``error`` is empty if it succeeded."""

    level: str
    repeat: int
    phase: Phase
    index: int
    """Place in the workload."""
    documents: int
    words: int
    """Mean number of words per document."""
    t_sched: int
    """Time at which the request was due."""
    t_send: int
    t_done: int
    tokens: int | None
    status: int | None
    error: str = ""
    session: int = 0
    """Number of times that the run had been resumed."""
    gateway: GatewayCounts = NO_GATEWAY

    @property
    def ranked(self) -> int:
        """Documents with a score of the model: without a gateway all of them, if the request succeeded."""
        if self.error:
            return 0
        return self.documents if self.gateway.ranked is None else self.gateway.ranked

    @property
    def latency(self) -> float:
        """Seconds from the due time to the response: what the user waits."""
        return (self.t_done - self.t_sched) / 1e9

    @property
    def service(self) -> float:
        """Seconds from sending to the response: the time of the server."""
        return (self.t_done - self.t_send) / 1e9

    @property
    def is_cancelled(self) -> bool:
        """Whether it was cancelled because the run was stopped."""
        return self.error == "cancelled"


@dataclass(frozen=True)
class WorkloadInfo:
    """Fields of :class:`ragops.bench.workload.Workload`; the recipe and sha256 identify its texts."""

    name: str
    profile: str
    description: str
    seed: int | None
    sha256: str
    requests: int
    cut_to: int | None = None
    cut_documents: int | None = None
    documents: int | None = None
    release: str = ""
    recipe: str = ""


@dataclass(frozen=True)
class ClientReport:
    """CPU time of the thread that sent the requests."""

    requests: int
    cpu_ns: int

    @property
    def cpu_seconds_per_request(self) -> float:
        """CPU seconds of the client for each request."""
        return self.cpu_ns / 1e9 / max(1, self.requests)


@dataclass(frozen=True)
class Gemm:
    """Matrix multiplication of the model's shapes in one arithmetic."""

    dtype: str
    tflops: float | None
    """1e12 multiplications and additions a second; None where ``error`` says why it was not measured."""
    error: str = ""


@dataclass(frozen=True)
class GemmPeak:
    """Peak of the matrix multiplication, measured with the run on the reranker's CPUs."""

    served: str
    """Arithmetic of the reranker, one of those below."""
    flop_per_token: float
    """Multiplications and additions per token in the linear layers; attention is not included."""
    threads: int
    gemms: tuple[Gemm, ...]

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens per second if only the linear layers took time; None if not measured."""
        for gemm in self.gemms:
            if gemm.dtype == self.served and gemm.tflops and self.flop_per_token:
                return gemm.tflops * 1e12 / self.flop_per_token
        return None


@dataclass(frozen=True)
class OrderResult:
    """Result of one order check."""

    right: bool
    scores: tuple[float, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class OrderReport:
    """A query whose relevant document is known, and its ranking before and after the run."""

    query: str = "How do I silence the alarm of the cooling pump?"
    documents: tuple[str, ...] = (
        "The canteen is open from eleven to two; soup of the day is on the board at the door.",
        "Travel costs are refunded within ten days when the receipts are handed in complete.",
        "Visitors sign the book at the gate and wear the badge where it can be seen.",
        "To silence the alarm of the cooling pump, hold the green button until its lamp is out.",
        "Invoices without an order number go back to the sender.",
    )
    best: int = 3
    """Index of the relevant document, from 0."""
    before: OrderResult | None = None
    after: OrderResult | None = None
    skipped: str = ""
    """Why it was skipped, such as ``random weights``; empty when it was not."""

    @property
    def verdict(self) -> str:
        """Result of the order check as one clause."""
        if self.skipped:
            return f"order of the scores not checked: {self.skipped}"
        if self.before and self.after and self.before.right and self.after.right:
            return "order of a known query right before and after"
        if self.after and not self.after.right:
            return "order of a known query wrong after the run"
        return "order of a known query not checked after the run"

    @property
    def failed(self) -> bool:
        """Whether the ranking was wrong before or after."""
        return any(result is not None and not result.right for result in (self.before, self.after))


@dataclass(frozen=True)
class RunInfo:
    """Content of ``run.json``: settings, provenance and state of a run."""

    name: str
    started: str
    """Start time in UTC, ISO 8601."""
    started_ns: int
    """Start time on the clock of the requests."""
    base_url: str
    model: str
    timeout: float
    workload: WorkloadInfo
    levels: tuple[LoadLevel, ...]
    order_played: tuple[str, ...]
    repeats: int
    warmup: int
    """Number of warm-up requests at the start of each trial, which are not measured."""
    seed: int
    fresh: bool
    """Whether each trial has a number in its texts, so that no text is sent twice."""
    order: OrderReport
    provenance: Provenance
    schema_version: int = SCHEMA
    complete: bool = False
    reason: str = "still running"
    """Why the run is incomplete; empty if it is complete."""
    client: ClientReport | None = None
    sampler_errors: tuple[str, ...] = ()
    limit: GemmPeak | None = None
    resumed: tuple[str, ...] = ()
    """Times at which the run was resumed; UTC, ISO 8601."""

    def planned(self, level: LoadLevel) -> int:
        """Measured requests of one repetition of a load level."""
        return min(level.requests or self.workload.requests, self.workload.requests)


@dataclass(frozen=True)
class Run:
    """A recorded run, read from its folder."""

    path: Path
    info: RunInfo
    requests: tuple[RequestRecord, ...]
    samples: tuple[Sample, ...] = ()
    problems: tuple[str, ...] = ()
    """Defects of the files that did not prevent reading them."""

    @property
    def measured(self) -> tuple[RequestRecord, ...]:
        """Measured requests, without warm-up and cancelled ones."""
        return tuple(r for r in self.requests if r.phase == "measure" and not r.is_cancelled)

    @property
    def missing(self) -> tuple[tuple[LoadLevel, int, int], ...]:
        """Load level, repetition and number of missing requests."""
        done = Counter((record.level, record.repeat) for record in self.measured)
        trials = product(self.info.levels, range(self.info.repeats))
        rows = ((level, n, self.info.planned(level) - done[level.name, n]) for level, n in trials)
        return tuple(row for row in rows if row[2] > 0)


_T = TypeVar("_T")

_INFO = TypeAdapter(RunInfo)
_REQUEST = TypeAdapter(RequestRecord)
_SAMPLE = TypeAdapter(Sample)
_LINE = TypeAdapter[RequestRecord | Sample](RequestRecord | Sample)


class RunFolder:
    """The folder of a run that is being recorded; its files are append-only.

    Only with ``resume`` it may exist. Each method raises an error when the disk is full.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        hint = "recorded runs are never overwritten: use another name or results folder"
        with file_errors(BenchError, f"can't create {path}", path, code="run-unreadable", hint=hint):
            path.mkdir(parents=True, exist_ok=resume)
        self.path = path
        self._requests, self._samples = (_open(path / name) for name in (REQUESTS, SAMPLES))
        what = f"can't write to {path}, so the run was stopped; its recorded requests are kept"
        hint = f"free disk space, then resume: ragops bench --resume {path}"
        self._write_errors = partial(file_errors, BenchError, what, path, code="disk-full", hint=hint)

    def write_info(self, info: RunInfo) -> None:
        """Replace ``run.json`` atomically."""
        draft = self.path / ".run.json.new"
        with self._write_errors():
            draft.write_bytes(_INFO.dump_json(info, indent=2) + b"\n")
            draft.replace(self.path / INFO)

    def add(self, record: RequestRecord | Sample) -> None:
        """Append one line to the file of its kind, and flush it."""
        file = self._samples if isinstance(record, Sample) else self._requests
        with self._write_errors():
            file.write(_LINE.dump_json(record) + b"\n")
            file.flush()

    def close(self) -> None:
        """Sync and close the files."""
        for file in (self._requests, self._samples):
            with suppress(OSError), file:
                os.fsync(file.fileno())


def _open(file: Path) -> IO[bytes]:
    """Lock and open to append; an incomplete last line is removed."""
    stream = file.open("a+b")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with this process, however that ends
    except BlockingIOError as error:
        stream.close()
        what, hint = f"another process is recording {file.parent}", "wait until that process ends, or stop it"
        raise BenchError(what, code="run-busy", hint=hint, file=file.parent) from error
    stream.seek(0)
    stream.truncate(stream.read().rfind(b"\n") + 1)
    return stream


def load_run(path: Path | str) -> Run:
    """Read a recorded run from its folder; an incomplete last line is left out and listed in ``problems``.

    Raises:
        BenchError: The folder holds no run, one of another format, or an invalid line before the last.
    """
    folder = Path(path)
    if folder.name in {"", ".."}:
        folder = folder.resolve()  # reports have the folder's name
    file, code = folder / INFO, "run-unreadable"
    hint = "name a folder under results/ that ragops bench has created"
    data = read_text(BenchError, f"{folder} holds no recorded run", file, 16 << 20, code=code, hint=hint)
    hint = "it was changed by hand, or by another release of ragops"
    with file_errors(BenchError, f"{file} can't be read", file, code=code, hint=hint):
        info = _INFO.validate_json(data)
        datetime.fromisoformat(info.started)
    if not 1 <= info.schema_version <= SCHEMA:
        what, evidence = f"{file} has schema version {info.schema_version}", f"the latest known is {SCHEMA}"
        hint = "read it with the release that wrote it"
        raise BenchError(what, code=code, evidence=evidence, hint=hint, file=file)
    problems: list[str] = []
    requests = _load_lines(folder / REQUESTS, _REQUEST, problems)
    samples = _load_lines(folder / SAMPLES, _SAMPLE, problems)
    run = Run(folder, info, requests, samples)
    if not info.complete:
        problems.append(f"run.json says incomplete: {info.reason}")
        problems += [f"{level.name}, repeat {n}: {left} requests missing" for level, n, left in run.missing]
    return replace(run, problems=tuple(problems))


def _load_lines(file: Path, adapter: TypeAdapter[_T], problems: list[str]) -> tuple[_T, ...]:
    try:
        lines = file.read_bytes().splitlines() if file.is_file() or not file.exists() else []
    except OSError as error:
        problems.append(f"{file.name} can't be read: {error.strerror}")
        return ()
    rows: list[_T] = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(adapter.validate_json(line))
        except ValidationError as error:
            if number < len(lines):
                what = f"{file}:{number} is broken"
                hint = "later lines are valid, so the file was not cut off: restore it"
                details = {"code": "run-unreadable", "evidence": reason(error), "hint": hint}
                raise BenchError(what, file=file, **details) from error
            problems.append(f"{file.name}: last line cut off, left out")
    return tuple(rows)
