"""How fast a reranker would be on a machine, estimated before anything is installed.

A token takes ``FLOP / rate + OVERHEAD`` seconds. The rate is that of vLLM on recorded machines with the same
instructions; or that of matrix multiplication, which :func:`probe` measures in the image, by the share of it
that vLLM usually reached. Each estimate has the largest error that results when one recorded machine is left
out and estimated from the others: a factor, so that 100 % is twice or half the time.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from itertools import groupby
from statistics import geometric_mean, median
from typing import Any, Literal

from pydantic import TypeAdapter

from ragops.configuration import Stack
from ragops.docker.engine import Engine, sidecar
from ragops.errors import BenchError, ModelError, StackError
from ragops.ragflow import releases
from ragops.reranker import gateway, hub, options, sizing
from ragops.reranker import model as models
from ragops.reranker.host import INSTRUCTION_SETS, Host, read_host
from ragops.reranker.model import Model, Shape
from ragops.reranker.sizing import GIB
from ragops.table import Column, Shown, Table

GEMM = {"dtypes": ("float32", "bfloat16", "int8"), "seconds": 3.0, "tokens": 2048}
"""What :func:`probe` measures; seconds for each data type, rows of the left matrix (a step of vLLM)."""
CALLS = (("usual", 8, 280), ("heavy", 30, 500))
"""RAGFlow's calls, their page size, and tokens of query and document together."""
OVERHEAD = 20e-6
"""Seconds of a token that do not depend on the model: tokenizer, HTTP and engine; of the runs with MiniLM."""
SERIAL = 0.053
"""Share of the work that more cores do not speed up: two cores do 1.9 times the work of one."""
IMAGE_BYTES = 2_100_000_000
"""Of the image that ragops builds."""
UNKNOWN = 1.0
"""Error that is assumed where only one machine of a kind is recorded: twice or half the time."""
_QUERY, _SUFFIX = 15, 16
"""Tokens of a query, and of the template behind the document: what is before the document is shared."""
_VERDICTS = {True: "fits", False: "does not fit", None: "may fit"}
_X86 = list(INSTRUCTION_SETS.values())[:5]


@dataclass(frozen=True)
class Recorded:
    """Speed of vLLM and of matrix multiplication on a recorded machine; 0 where not measured."""

    machine: str
    date: str
    instruction_set: str
    arithmetic: str
    cpus: int
    tflops: float
    """Of matrix multiplication on these CPUs."""
    flop: float
    """Of a token of the model."""
    source: str
    tokens_per_s: float = 0.0
    """Computed by vLLM."""
    starts: tuple[float, float] = (0.0, 0.0)
    """Seconds to the first response with an empty and with a filled compile cache."""

    @property
    def reached(self) -> float:
        """TFLOP/s of vLLM, besides :data:`OVERHEAD`; 0 where it was not measured."""
        return self.flop / (1 / self.tokens_per_s - OVERHEAD) / 1e12 if self.tokens_per_s else 0.0

    @property
    def share(self) -> float:
        """Part of the matrix multiplication rate that vLLM reached; 0 where not both were measured."""
        return self.reached / self.tflops if self.tflops else 0.0


def _lines(name: str) -> list[str]:
    return files("ragops").joinpath("data", name).read_text(encoding="utf-8").splitlines()


RECORDED = tuple(map(TypeAdapter(Recorded).validate_json, _lines("machines.jsonl")))
"""Recorded machines; several rows have one machine."""
MODELS = {str(m.folder): m for m in map(TypeAdapter(Model).validate_json, _lines("published_models.jsonl"))}
"""Published models by repository, for an estimate without their folder; largest first.

Sizes as in public copies of their ``config.json``; for Qwen3-Reranker-0.6B and 4B, of Qwen3's.
"""
DEFAULT = "Qwen/Qwen3-Reranker-0.6B"
"""What is estimated where no model is configured."""


@dataclass(frozen=True)
class Machine:
    """What decides the speed of a machine; rates of :func:`probe` replace those of recorded machines."""

    instruction_set: str
    cpus: tuple[int, ...]
    """That compute, of each replica."""
    measured: Mapping[str, float] = field(default_factory=dict)
    """TFLOP/s of all of them by data type."""

    def speed(self, flop: float, arithmetic: str, rows: Sequence[Recorded]) -> float:
        """Computed tokens a second; 0 where no recorded machine resembles this one."""
        part, like = share(rows, arithmetic), nearest(rows, self.instruction_set, arithmetic)
        reached = self.measured.get(arithmetic, 0.0) * part
        if not reached and part and like:
            each = geometric_mean((row.reached or row.tflops * part) / speedup(row.cpus) for row in like)
            reached = each * sum(map(speedup, self.cpus))
        return 1 / (flop / (reached * 1e12) + OVERHEAD) if reached else 0.0

    def error(self, arithmetic: str) -> float | None:
        """Largest error of the recorded machines of this kind; with a measured rate of all, int8 apart."""
        if self.measured.get(arithmetic):
            int8 = arithmetic == "int8"
            errors = [e for row, e in left_out(probed=True) if (row.arithmetic == "int8") == int8]
        else:
            kind = (self.instruction_set, arithmetic)
            errors = [e for row, e in left_out(probed=False) if (row.instruction_set, row.arithmetic) == kind]
        return max(errors, default=None)

    def margin(self, arithmetic: str) -> float:
        """Factor between the estimate and both ends of its error."""
        error = self.error(arithmetic)
        return 1 + (UNKNOWN if error is None else error)


def left_out(*, probed: bool) -> Iterator[tuple[Recorded, float]]:
    """Each recorded run of vLLM, and the error of its estimate from all other machines."""
    for row in RECORDED:
        others = [other for other in RECORDED if other.machine != row.machine]
        machine = Machine(row.instruction_set, (row.cpus,), {row.arithmetic: row.tflops} if probed else {})
        speed, reached = machine.speed(row.flop, row.arithmetic, others), row.tokens_per_s
        if speed and reached and (row.tflops or not probed):
            yield row, max(speed / reached, reached / speed) - 1


def speedup(cpus: int) -> float:
    """Work of so many CPUs of one replica, relative to one CPU."""
    return cpus / (1 + SERIAL * (cpus - 1))


def nearest(rows: Sequence[Recorded], instruction_set: str, arithmetic: str) -> list[Recorded]:
    """Those of the same instruction set; in float32 else of the next slower, else of the next faster one.

    Other arithmetic needs instructions that a slower set does not have.
    """
    like = [row for row in rows if row.arithmetic == arithmetic]
    sets = [name for name in _X86 if name in {row.instruction_set for row in like}]
    if arithmetic == "float32" and instruction_set in _X86 and sets:
        slower = _X86[_X86.index(instruction_set) :]
        instruction_set = next((name for name in slower if name in sets), sets[-1])
    return [row for row in like if row.instruction_set == instruction_set]


def share(rows: Sequence[Recorded], arithmetic: str) -> float:
    """Share of the matrix multiplication rate that vLLM reaches, in int8 or floating point; 0 if unknown.

    The median, because one recording was on a machine that was not steady.
    """
    alike = [row.share for row in rows if row.share and (row.arithmetic == "int8") == (arithmetic == "int8")]
    return median(alike) if alike else 0.0


@dataclass(frozen=True)
class CallEstimate:
    """One of RAGFlow's calls, for consecutive releases that send it alike."""

    name: str
    """``usual`` or ``heavy``."""
    releases: str
    documents: int
    tokens: int
    """Of query and document together, without the score template."""
    seconds: float
    low: float
    high: float
    """Seconds with the error of the estimate, or with :data:`UNKNOWN`."""
    timeout: float
    fits: bool | None
    """Whether it ends within RAGFlow's timeout; None within the error."""


@dataclass(frozen=True)
class Remedy:
    """What would make the usual call faster."""

    action: str
    setting: str
    seconds: float
    fits: bool


@dataclass(frozen=True, repr=False)
class Estimate(Shown):
    """Speed and needs of a model on a machine; sizes in bytes, times in seconds."""

    model: str
    substitute: str
    processor: str
    instruction_set: str
    arithmetic: str
    cores: int
    """That compute, of all replicas."""
    replicas: int
    basis: Literal["recorded runs", "probe"]
    flop_per_token: float
    tokens_per_s: float
    """Computed tokens; those of the prefix cache are not computed."""
    share: float
    """Of the matrix multiplication rate, on the recorded machines."""
    error: float | None
    calls: tuple[CallEstimate, ...]
    remedies: tuple[Remedy, ...]
    memory: int
    disk: int
    download: int
    """Image, and a model that has no folder."""
    first_start: float
    later_start: float
    records: tuple[str, ...]
    """Sources of the recorded values."""

    @property
    def usual(self) -> CallEstimate:
        """The usual call of the newest release."""
        return next(call for call in self.calls if call.releases.endswith(releases.NEWEST))

    @property
    def headline(self) -> str:
        """The most important numbers in one line."""
        call, error = self.usual, "error unknown, assumed" if self.error is None else f"± {self.error:.0%}:"
        return (
            f"{self.model} in {self.arithmetic} on {self.cores} cores ({self.instruction_set}): about "
            f"{call.seconds:.3g} s ({error} {call.low:.3g} to {call.high:.3g} s) for "
            f"{call.documents} documents of {call.tokens} tokens, which {_VERDICTS[call.fits]} RAGFlow's "
            f"{call.timeout:g} s"
        )

    def table(self) -> Table:
        """The calls by release; the needs of the machine; what would make the usual call fit."""
        rows = []
        for call in self.calls:
            size, limit = f"{call.documents} x {call.tokens}", f"{call.timeout:g} s"
            rows.append(
                (_VERDICTS[call.fits], call.name, size, f"{call.seconds:.3g} s", limit, call.releases)
            )
        memory, disk, download = (f"{size / GIB:.1f} GiB" for size in (self.memory, self.disk, self.download))
        speed = f"{self.tokens_per_s:,.0f} tokens/s of {self.flop_per_token / 1e9:.3g} GFLOP"
        part = f", {self.share:.0%} of the measured rate" if self.basis == "probe" else ""
        notes = (
            f"from {self.basis}: {speed}{part}",
            *(f"record: {source}" for source in self.records),
            f"needs: memory {memory}, disk {disk}, download {download}",
            f"start: first about {self.first_start:.0f} s, later ones {self.later_start:.0f} s",
            *([f"note: a substitute model: {self.substitute}"] if self.substitute else []),
        )
        faster = tuple(
            (_VERDICTS[item.fits], f"{item.seconds:.3g} s", f"{item.action}: {item.setting}")
            for item in self.remedies
        )
        title = "what would make the usual call faster, in this order:"
        changes = Table(tuple(map(Column, ("result", "estimate", "change"))), faster, title)
        columns = ("result", "call", "documents x tokens", "estimate", "timeout", "RAGFlow")
        shown, below = tuple(map(Column, columns)), (changes,) if faster else ()
        return Table(shown, tuple(rows), self.headline, notes, header=True, below=below)


def estimate(
    stack: Stack | None = None, engine: Engine | None = None, *, host: Host | None = None, name: str = ""
) -> Estimate:
    """Estimate the configured model on this machine, or Qwen3-Reranker-0.6B where none is configured.

    Args:
        stack: The configuration; the defaults when left out.
        engine: A Docker engine; if it has the image, matrix multiplication is measured for ten seconds.
        host: Another machine than this one.
        name: Published name of another model than the configured one.

    Raises:
        StackError: No recorded machine resembles this one, and there is no image to measure it.
        ModelError: The configured folder cannot be served.
    """
    stack, host = stack or Stack(), host or read_host()
    model, missing = configured(stack, name)
    sizings, shape = sizing.sizes(stack, model, host.unlimited), model.shape
    arithmetic = sizings[0].arithmetic
    machine = Machine(host.instruction_set, tuple(len(item.compute) for item in sizings))
    if engine is not None and engine.image(stack.reranker.image):
        used = ",".join(str(core.cpu) for item in sizings for core in item.cores)
        rates = probe(engine, stack.reranker.image, shape, cpus=used, threads=sum(machine.cpus))
        machine = replace(machine, measured={name: row.get("median") or 0.0 for name, row in rates.items()})
    if not (speed := machine.speed(shape.flop_per_token, arithmetic, RECORDED)):
        raise StackError(
            f"no recorded machine resembles this one: {host.cpu_model} ({host.instruction_set or 'unknown'})",
            code="estimate-unknown",
            evidence=f"recorded: {', '.join(sorted({row.machine for row in RECORDED}))}",
            hint="ragops image, then ragops estimate measures it",
        )
    like = nearest(RECORDED, host.instruction_set, arithmetic)
    started = [row.starts for row in like if any(row.starts)] or [row.starts for row in RECORDED]
    return Estimate(
        model=model.name,
        substitute=model.substitute,
        processor=host.cpu_model,
        instruction_set=host.instruction_set,
        arithmetic=arithmetic,
        cores=sum(machine.cpus),
        replicas=len(machine.cpus),
        basis="probe" if machine.measured.get(arithmetic) else "recorded runs",
        flop_per_token=shape.flop_per_token,
        tokens_per_s=speed,
        share=share(RECORDED, arithmetic),
        error=machine.error(arithmetic),
        calls=tuple(_calls(stack, model, speed, machine.margin(arithmetic))),
        remedies=tuple(_remedies(stack, model, machine, host, arithmetic)),
        memory=sum(item.memory_limit for item in sizings),
        disk=IMAGE_BYTES + GIB + model.weight_bytes,
        download=IMAGE_BYTES + missing * model.weight_bytes,
        first_start=max(first for first, _ in started),
        later_start=max(later for _, later in started),
        records=tuple(dict.fromkeys(f"{row.machine}, {row.date}: {row.source}" for row in like)),
    )


def configured(stack: Stack, named: str = "") -> tuple[Model, bool]:
    """The named or configured model, from its folder if there is one; else as published, and True."""
    folder, source = (None, None) if named else (models.named_folder(stack), models.hub_source(stack))
    name = named or (source[0] if source else folder.name if folder else DEFAULT)
    published = next((m for m in MODELS.values() if name in (str(m.folder), m.name)), None)
    if folder is None:
        folder = hub.folder(str(published.folder) if published else name, "main")
    if folder.exists():
        return models.describe(folder, None if named else stack.reranker.kind), False
    if published:
        return published, True
    if named:
        hint = f"published models: {', '.join(MODELS)}"
        raise ModelError(f"the shape of {named} is unknown", code="estimate-unknown", hint=hint)
    return models.resolve(stack), False


def seconds(stack: Stack, model: Model, speed: float, documents: int, tokens: int) -> float:
    """Seconds of a request; the beginning that causal models share is computed once."""
    template = options.template_tokens(options.known(model), stack.reranker.instruction)
    block, shared = stack.reranker.block_size or 32, 0
    if model.causal and stack.reranker.prefix_caching is not False and template > _SUFFIX:
        shared = (template + _QUERY - _SUFFIX) // block * block
    length = min(tokens + template, stack.reranker.max_model_len or model.max_tokens)
    return (documents * length - (documents - 1) * shared) / speed


def _calls(stack: Stack, model: Model, speed: float, margin: float) -> Iterator[CallEstimate]:
    """RAGFlow's calls by timeout and number of documents, with the supported releases that send them."""
    known = [item for name in reversed(releases.KNOWN) if not (item := releases.of(name)).obstacle]
    for name, page, tokens in CALLS:
        windows = [(item.timeout, releases.window(item, page), item.name) for item in known]
        for (timeout, documents), group in groupby(windows, lambda row: row[:2]):
            newest, *_, oldest = [row[2] for row in group] * 2
            span = newest if newest == oldest else f"{oldest} to {newest}"
            took = seconds(stack, model, speed, documents, tokens)
            low, high = took / margin, took * margin
            fits = True if high <= timeout else False if low > timeout else None
            yield CallEstimate(name, span, documents, tokens, took, low, high, timeout, fits)


def _remedies(stack: Stack, model: Model, machine: Machine, host: Host, arithmetic: str) -> Iterator[Remedy]:
    """What would make the usual call faster, in the order to try; nothing where it fits."""
    newest, (_, page, tokens) = releases.of(releases.NEWEST), CALLS[0]
    limit = newest.timeout / machine.margin(arithmetic)

    def usual(other: Model, kind: str) -> float:
        speed = machine.speed(other.shape.flop_per_token, kind, RECORDED)
        return seconds(stack, other, speed, releases.window(newest, page), tokens) if speed else math.inf

    if (now := usual(model, arithmetic)) <= limit:
        return
    if host.has_int8 and (took := usual(model, "int8")) < now:
        yield Remedy("int8 weights", "ragops int8, then compare the ranking", took, took <= limit)
    cpus = max(machine.cpus)
    for more in range(cpus + 1, 2 * sizing.DEFAULT_SEQUENCES):
        if (took := now * speedup(cpus) / speedup(more)) <= limit:
            yield Remedy("more cores", f"{more} in place of {cpus}", took, fits=True)
            break
    if options.known(model).splits:
        count = math.ceil(now / limit)
        command = f"ragops scale {count * len(machine.cpus)} --swarm"
        text = f"{command} on {count} machines like this one, or replicas on {count} times the cores"
        yield Remedy("replicas", text, now / count, fits=True)
        if 0 < (within := gateway.deadline(stack, newest.timeout)) < now:
            text = f"RAGFlow gets a response in time, with about {within / now:.0%} of the documents ranked"
            yield Remedy("the gateway's deadline", text, within, fits=True)
    flop, data_type = model.shape.flop_per_token, sizing.dtype(stack, host)
    smaller = [m for m in MODELS.values() if m.shape.flop_per_token < flop and not m.substitute]
    for other in [m for m in smaller if usual(m, data_type) <= limit][:1] or smaller[-1:]:
        took = usual(other, data_type)
        yield Remedy("a smaller model", f"{other.folder}, then compare the ranking", took, took <= limit)


def probe(engine: Engine, image: str, shape: Shape, *, cpus: str, threads: int) -> dict[str, dict[str, Any]]:
    """Measure matrix multiplication of a model's layers in a temporary container, for about ten seconds.

    Returns:
        For each data type ``tflops``, the best of all repetitions, and their ``median``; or an ``error``.

    Raises:
        BenchError: The image has no torch, or the shape is not known.
        EngineError: The engine refused.
    """
    order = json.dumps({"threads": threads, "shapes": shape.linear_layers, **GEMM})
    program = ("python3", "-c", "\n".join(_lines("gemm.py")))
    with sidecar(engine, "none", image, cpus=cpus, memory=4 << 30) as container:
        output = engine.execute(container, program, stdin=order, timeout=180.0)
    try:
        return dict(json.loads(output.stdout)["gemms"])
    except json.JSONDecodeError as error:
        evidence = (output.stderr or output.stdout)[-600:]
        message, hint = f"{image} can't multiply matrices", "ragops image --build"
        raise BenchError(message, code="limit-unknown", evidence=evidence, hint=hint) from error
