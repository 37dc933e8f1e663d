"""Compare vLLM options on this machine and keep the faster ones: ``ragops tune``.

A candidate runs in a container beside the baseline's; one of them computes, the other is paused. Both get the
same requests in interleaved pairs of rounds, each an ordinary recorded run. A candidate that is faster at
equal scores is the baseline of the next one. :func:`candidates` and :func:`decide` are pure.
"""

import math
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from pydantic import TypeAdapter

from ragops.bench.compare import agreement
from ragops.bench.measure import machine_name, max_words, running_server
from ragops.bench.records import load_run
from ragops.bench.run import BenchmarkConfig, record
from ragops.bench.statistics import extra, level_statistics
from ragops.bench.wire import Server
from ragops.bench.workload import ragflow
from ragops.checks import ready, rules
from ragops.checks.questions import Expected
from ragops.configuration import Reranker, Stack, home, write_settings
from ragops.docker.engine import Engine
from ragops.errors import BenchError, NotFoundError, RagopsError, StackError
from ragops.progress import Progress, receiver, step
from ragops.reranker import image as images
from ragops.reranker import int8, sizing
from ragops.reranker.host import Host
from ragops.reranker.model import Model
from ragops.reranker.options import PORT
from ragops.session import Session, lock
from ragops.table import Column, Shown, Table

Settings = Mapping[str, str | int | bool]
"""Keys of ``[reranker]`` and their values."""
Decision = Literal["faster", "slower", "no gain", "inconclusive", "rejected", "failed"]

GAIN = 1.03
"""A candidate has to be faster by more than this: two starts of the same options differ by up to 3 %."""
TOLERANCE, MIN_TAU = 0.02, 0.95
"""Largest difference of a score and smallest Kendall's tau that count as equal; first ranks never differ."""
MIN_PAIRS, MAX_PAIRS, ALPHA = 3, 8, 0.05
"""Pairs of rounds before the first decision and at most; probability of a wrong one in all of them."""
REQUEST_S, ROUND_S, DOCUMENTS = 2.5, 5.0, (4, 64)
"""Seconds of a request and of a round with the configuration; fewest and most documents in a request."""


@dataclass(frozen=True)
class CandidateResult:
    """The result of one candidate."""

    candidate: str
    settings: Settings
    decision: Decision = "failed"
    reason: str = ""
    ratio: float | None = None
    """Its documents per second divided by the baseline's, with its confidence interval."""
    interval: tuple[float, float] | None = None
    pairs: int = 0


@dataclass(frozen=True, repr=False)
class TuneResult(Shown):
    """The candidates that were compared; ``tune.json`` in a folder that also has a run for each round."""

    folder: Path
    model: str
    rows: tuple[CandidateResult, ...]
    settings: Settings
    """Of the fastest options; ``before`` are their configured values, None for vLLM's own."""
    before: Mapping[str, str | int | bool | None]
    written: Path | None = None
    """The configuration file that has the settings now; all its other settings stay."""
    schema_version: int = 2

    def table(self) -> Table:
        """One row for each candidate; then the settings to keep."""
        cells = []
        for row in self.rows:
            ratio = f"{row.ratio:.2f} " + "({:.2f} to {:.2f})".format(*row.interval) if row.interval else ""
            cells.append((row.candidate, ratio, str(row.pairs), row.decision, row.reason))
        columns = tuple(map(Column, ("candidate", "ratio", "pairs", "decision", "reason")))
        settings = [f"{key} = {value} (before: {self.before[key]})" for key, value in self.settings.items()]
        written = f"written to: {self.written}" if self.written else "not written"
        notes = (f"faster settings: {', '.join(settings) or 'none'}", written, f"run: {self.folder}")
        return Table(columns, tuple(cells), self.model, notes, header=True)


def tune(
    stack: Stack,
    *,
    only: Sequence[str] = (),
    results: Path | str = "results",
    write: Path | str | None = None,
    engine: Engine | None = None,
) -> TuneResult:
    """Compare vLLM options with the configuration; its reranker has to be stopped meanwhile.

    Args:
        stack: The configuration; it is the first baseline.
        only: Names of the candidates to try; all but ``int8`` when left out, which copies the model folder.
        results: Folder below which a folder for the search is created.
        write: Configuration file that gets the settings of the fastest options; none when left out.
        engine: The Docker engine; connected when left out.

    Raises:
        RagopsError: The reranker runs, a candidate is unknown, scipy is missing, or the configuration fails.
    """
    extra("scipy.stats")  # raises before a container is started
    reranker = stack.reranker.model_copy(update={"replicas": 1})
    session = Session.open(stack.model_copy(update={"gateway": False, "reranker": reranker}), engine)
    with lock(session.state.id, reranker.name, unwatched=True):
        images.ensure(session.engine, reranker.image, home())
        deployment = session.deployment
        model, host, needed = deployment.model, deployment.host, 2 * deployment.spec.memory
        names = dict.fromkeys((reranker.name, *stack.replica_names))
        states = [state for name in names if (state := session.engine.container(name))]
        if active := [state.name for state in states if state.status in {"running", "restarting"}]:
            what, hint = f"{active[0]} runs, and would share the cores", f"docker stop {' '.join(active)}"
            raise BenchError(what, hint=hint, code="cores-shared")
        available = min(host.usable_memory, host.available or host.usable_memory)
        if needed > available:
            what = f"two rerankers need {needed / sizing.GIB:.1f} of {available / sizing.GIB:.1f} GiB"
            raise StackError(what, hint="set a smaller kv_cache_gib or memory_gib", code="memory-short")
        table = candidates(stack, model, host)
        if unknown := [name for name in only if name not in table]:
            hint = "int8 needs VNNI or AMX; block sizes need a model that is no encoder"
            raise BenchError(f"{unknown[0]} is no candidate here", evidence=", ".join(table), hint=hint)
        folder = Path(results) / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{machine_name(host)}-tune"
        search = Search(session, folder)
        search.run({name: table[name] for name in only or table if only or name != "int8"})
    written = Path(write) if write and search.settings else None
    if written:
        write_settings(written, search.settings)
    name, rows = f"{model.name} {model.substitute}".strip(), tuple(search.rows)
    before = {key: reranker.model_dump(mode="json")[key] for key in search.settings}
    result = TuneResult(folder, name, rows, search.settings, before, written)
    (folder / "tune.json").write_bytes(TypeAdapter(TuneResult).dump_json(result, indent=2) + b"\n")
    return result


def candidates(stack: Stack, model: Model, host: Host) -> dict[str, Settings]:
    """Name and settings of each candidate in the order of trial, without those of the configuration; pure.

    An encoder has no cache blocks and takes each document in one step. ``int8`` has no settings yet.
    """
    current, sizes = stack.reranker, sizing.size(stack, model, host)
    least = 1 if model.causal else sizes.max_model_len
    tokens = [n for n in (1024, 2048, 4096, 8192) if n >= least and n != sizes.batched_tokens]
    sequences = [n for n in (32, 128) if n != (current.max_num_seqs or sizing.DEFAULT_SEQUENCES)]
    blocks = [n for n in (32, 64, 128) if model.causal and n != (current.block_size or 32)]
    table: dict[str, Settings] = {f"batched-{n}": {"max_num_batched_tokens": n} for n in tokens}
    table |= {f"sequences-{n}": {"max_num_seqs": n} for n in sequences}
    table |= {f"block-{n}": {"block_size": n} for n in blocks}
    table["compiled" if current.eager else "eager"] = {"eager": not current.eager}
    return table if int8.unfit(host) or model.quantized else {**table, "int8": {}}


def ratio_interval(ratios: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Geometric mean of two ratios or more, and its interval by Student's t of their logarithms."""
    logs = [math.log(ratio) for ratio in ratios]
    alpha = ALPHA / (MAX_PAIRS - MIN_PAIRS + 1)  # Bonferroni: a decision is tried after each pair
    t = float(extra("scipy.stats").t.ppf(1 - alpha / 2, len(logs) - 1))
    mean, half = fmean(logs), t * stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean), (math.exp(mean - half), math.exp(mean + half))


def decide(ratios: Sequence[float]) -> Decision | None:
    """The decision after some pairs; None when more are needed."""
    low, high = ratio_interval(ratios)[1] if len(ratios) >= MIN_PAIRS else (0.0, math.inf)
    if low > GAIN:
        return "faster"
    if high < GAIN:
        return "slower" if high < 1 else "no gain"
    return "inconclusive" if len(ratios) >= MAX_PAIRS else None


class Search:
    """Compares each candidate with the fastest options so far, in two containers outside the network."""

    def __init__(self, session: Session, folder: Path) -> None:
        self._session, self._folder = session, folder
        self._engine, self._deployment = session.engine, session.deployment
        self.baseline, self.other = (f"{session.stack.reranker.name}-tune-{letter}" for letter in "ab")
        self._servers: dict[str, Server] = {}
        self._documents, self._requests, self._round = DOCUMENTS[0], 1, 0
        self.rows, self.settings = list[CandidateResult](), dict[str, str | int | bool]()

    def run(self, table: Mapping[str, Settings]) -> None:
        """Start the configuration, compare each candidate, and remove the containers in any case."""
        try:
            self.start(self.baseline, {})
            rate = self.documents_per_s(self.baseline, "calibration")
            self._documents = min(max(round(rate * REQUEST_S), DOCUMENTS[0]), DOCUMENTS[1])
            self._requests = max(1, round(rate * ROUND_S / self._documents))
            failed, self._scores = self.score(self.baseline)
            if failed:
                what, hint = "the configuration fails a score check", "ragops verify names the cause"
                raise BenchError(what, evidence=failed, hint=hint)
            for candidate, settings in table.items():
                step(f"{candidate} is starting")
                row = self._compare(CandidateResult(candidate, settings))
                self.rows.append(row)
                step(f"{candidate}: {row.decision} {row.reason}")
                if row.decision == "faster":
                    self.settings |= row.settings
                    self.baseline, self.other = self.other, self.baseline
        finally:
            for name in (self.baseline, self.other):
                self._remove(name)
                with suppress(NotFoundError):
                    self._engine.remove_volume(f"{name}-compiled")

    def _compare(self, row: CandidateResult) -> CandidateResult:
        """Pairs of rounds, A B, then B A, until a decision; a faster one with unequal scores is rejected."""
        ratios, name = list[float](), self.other
        try:
            row = replace(row, settings=row.settings or self._int8())
            self.start(name, {**self.settings, **row.settings})
            while (decision := decide(ratios)) is None:
                self._round, rates = self._round + 1, dict[str, float]()
                for name in sorted((self.baseline, self.other), reverse=len(ratios) % 2 == 1):
                    role = "baseline" if name == self.baseline else "candidate"
                    rates[name] = self.documents_per_s(name, f"{row.candidate}-{len(ratios)}-{role}")
                ratios.append(rates[self.other] / rates[self.baseline])
                step(f"{row.candidate}: pair {len(ratios)}, ratio {ratios[-1]:.2f}")
            name, (ratio, interval) = self.other, ratio_interval(ratios)
            row = replace(row, decision=decision, ratio=ratio, interval=interval, pairs=len(ratios))
            if decision != "faster":
                return row
            failed, scores = self.score(name)
            queries = [query for query in self._scores if query in scores]
            result = agreement([self._scores[q] for q in queries], [scores[q] for q in queries])
            is_close = result.kendall_tau >= MIN_TAU and result.max_difference <= TOLERANCE
            decision = "rejected" if failed or result.top1 < 1 or not is_close else "faster"
            return replace(row, decision=decision, reason=failed or str(result))
        except RagopsError as error:
            if name == self.baseline:
                raise
            parts = (error.message, *error.evidence.splitlines()[-1:], error.hint)
            return replace(row, decision="failed", reason=" - ".join(filter(None, parts)))

    def start(self, name: str, settings: Settings) -> None:
        """Start a reranker with these settings; it is paused after its first response."""
        self._remove(name)
        stack, served_name = self._session.stack, self._deployment.spec.served_name
        own: dict[str, Any] = {"name": name, "publish": "127.0.0.1", "served_name": served_name}
        with socket.create_server(("127.0.0.1", 0)) as server:
            own["port"] = server.getsockname()[1]
        reranker = Reranker.model_validate(
            {**stack.reranker.model_dump(exclude_unset=True), **settings, **own}
        )
        session = Session(Stack(reranker=reranker, ragflow=stack.ragflow, gateway=False), self._engine)
        session.deployment.write_template()
        spec = session.deployment.spec
        spec = replace(spec, network=None, restart="no", health=None, role="tune")
        self._engine.create_volume(f"{name}-compiled", role="cache")
        self._engine.create_container(spec)
        self._engine.start(name)
        ready.wait(self._engine, name, served_name, reranker.ready_timeout)
        self._servers[name] = running_server(session)
        self._engine.pause(name)

    def documents_per_s(self, name: str, run_name: str) -> float:
        """Record a round with one client; both rounds of a pair have the same texts, all others new ones."""
        window, words = ((self._documents, 1),), max_words(self._session)
        workload = ragflow(self._requests, self._round, window=window, max_words=words)
        config = BenchmarkConfig(workload, name=run_name, results=self._folder, warmup=1, with_limits=False)
        self._engine.unpause(name)
        with receiver(Progress()):  # pairs are reported, not their requests
            run = load_run(record(self._servers[name], config))
        self._engine.pause(name)
        errors = [request.error for request in run.measured if request.error]
        if errors or run.info.order.failed:
            raise BenchError(f"{run_name} failed", evidence=(*errors, run.info.order.verdict)[0])
        return level_statistics(run)[0].documents_per_s

    def score(self, name: str) -> tuple[str, dict[str, tuple[float, ...]]]:
        """The score check that fails, if one does, and the scores of each golden query."""
        expected = Expected.of(self._deployment)
        image, url = self._session.stack.reranker.image, f"http://127.0.0.1:{PORT}/v1"
        self._engine.unpause(name)
        transcript = rules.collect(self._engine, name, image, url, expected)
        self._engine.pause(name)
        golden = {a.call.query: a.scores for a in transcript.of("golden") if a.rows}
        checks = rules.check_scores(expected, transcript)
        failed = [f"{check.name}: {check.detail}" for check in checks if check.status == "fail"]
        return failed[0] if failed and expected.trained else "", golden

    def _int8(self) -> Settings:
        if os.environ.get("RAGOPS_MODEL_DIR"):
            raise StackError("RAGOPS_MODEL_DIR overrides the int8 model", hint="set model in ragops.toml")
        image = self._session.stack.reranker.image
        model, kind = self._deployment.model, self._session.stack.reranker.kind
        folder = int8.int8(model.folder, engine=self._engine, image=image, kind=kind)
        return {"model": str(folder), "served_name": self._deployment.spec.served_name}

    def _remove(self, name: str) -> None:
        container = self._engine.container(name)
        if container and container.ours:
            self._engine.remove_container(container.id)
