"""The recorded runs of a folder as a list: what each measured, on which machine, and whether it fits."""

from dataclasses import dataclass
from pathlib import Path

from ragops.bench import statistics
from ragops.bench.records import INFO, Run, load_run
from ragops.bench.report import headline, release_of
from ragops.checks.latency import Percentile
from ragops.errors import RagopsError
from ragops.table import Column, Shown, Table


@dataclass(frozen=True)
class RunRow:
    """One recorded run; its values are those of its lightest load."""

    run: str
    """Its folder, relative to the folder of results."""
    started: str
    machine: str
    model: str
    substitute: str
    """Why the model is a substitute, or its scores were not checked; else empty."""
    workload: str
    load: str
    n: int
    p50: Percentile
    p95: Percentile
    documents_per_s: float
    state: str
    """``fits``, ``does not fit``, ``inconclusive``, ``wrong scores``, or ``measured`` without a verdict."""
    timeout: float


@dataclass(frozen=True, repr=False)
class RunList(Shown):
    """The recorded runs of a folder, newest first."""

    folder: Path
    rows: tuple[RunRow, ...]
    problems: tuple[str, ...]
    """Folders that can't be read, or without measured requests."""

    def table(self) -> Table:
        """A row for each run."""
        names = ("run", "model", "load", "p50, s", "p95, s", "documents/s", "RAGFlow's timeout")
        cells = []
        for row in self.rows:
            times = ("-" if p.value is None else f"{p.value:.3g}" for p in (row.p50, row.p95))
            model = f"{row.model} (substitute)" if row.substitute else row.model
            load = f"{row.load}, n={row.n}"
            cells.append((row.run, model, load, *times, f"{row.documents_per_s:.3g}", row.state))
        notes = (
            *self.problems,
            "" if self.rows else f"no recorded run in {self.folder}: ragops bench records one",
        )
        return Table(
            tuple(map(Column, names)), tuple(cells), "", tuple(filter(None, notes)), header=bool(cells)
        )


def recorded_runs(folder: Path | str) -> RunList:
    """The recorded runs below a folder of results, newest first; a folder that can't be read is a problem."""
    results, rows, problems = Path(folder), list[RunRow](), []
    for file in results.rglob(INFO):
        name = file.parent.relative_to(results).as_posix()
        try:
            rows.append(_row(name, load_run(file.parent)))
        except RagopsError as error:
            problems.append(f"{name}: {error.message}")
    rows.sort(key=lambda row: (row.started, row.run), reverse=True)
    return RunList(results, tuple(rows), tuple(sorted(problems)))


def _row(name: str, run: Run) -> RunRow:
    level, _ = statistics.lightest_level(run)
    (row,) = (row for row in statistics.level_statistics(run) if row.level == level)
    origin = run.info.provenance
    return RunRow(
        run=name,
        started=run.info.started,
        machine=origin.machine_label,
        model=origin.model or run.info.model,
        substitute=origin.model_is_stand_in or run.info.order.skipped,
        workload=run.info.workload.name,
        load=statistics.load_name(level.name),
        n=row.n,
        p50=row.latency[0],
        p95=row.latency[2],
        documents_per_s=row.documents_per_s,
        state=headline(run).state,
        timeout=release_of(run).timeout,
    )
