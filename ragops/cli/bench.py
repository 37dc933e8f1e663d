"""The verbs that measure, and show and compare recorded runs."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import ragops
from ragops.cli.output import FAILED, MEASURE, OK, Call, flag, option, verb

if TYPE_CHECKING:
    from collections.abc import Callable

    from ragops.bench.records import LoadLevel, Run
    from ragops.bench.report import Verdict
    from ragops.bench.workload import Workload
    from ragops.session import Session

app = typer.Typer()
_workload = partial(option, panel="Workload")
_load = partial(option, panel="Load")
_output = partial(option, panel="Server and output")
Results = Annotated[Path, _output("FOLDER", "Folder of recorded runs.")]


def _show(call: Call, run: Run, release: str) -> Verdict | None:
    """Show a run: its levels, client, disturbances and verdict, which only RAGFlow's workload has."""
    from ragops.bench.report import PROFILES, judge
    from ragops.bench.statistics import disturbances, level_statistics, summary

    verdict = judge(run, release=release) if run.info.workload.profile in PROFILES else None
    rows, causes, client = level_statistics(run), disturbances(run), run.info.client
    cpu_s = client.cpu_seconds_per_request if client else None
    notes = [f"disturbed: {cause}" for cause in causes]
    if cpu_s is not None:
        notes.append(f"client: {cpu_s * 1e3:.2f} ms of CPU a request")
    if verdict:
        notes += ["", *str(verdict).splitlines()]
    table = replace(summary(run), title="", notes=(*notes, f"recorded in {run.path}"))
    record = {"verdict": verdict, "figures": rows, "disturbances": causes, "client_cpu_s": cpu_s}
    call.show({**record, "folder": run.path}, table)
    return verdict


def _levels(requests: int | None, *lists: str) -> tuple[LoadLevel, ...]:
    """A load level for each number of the comma-separated lists: clients, rates, constant rates, bursts."""
    from ragops.bench.records import LoadLevel as Level

    kinds: tuple[Callable[..., LoadLevel], ...] = (Level.closed, Level.poisson, Level.constant, Level.burst)
    levels = []
    for kind, number, text in zip(kinds, (int, float, float, int), lists, strict=True):
        try:
            levels += [kind(number(part), requests=requests) for part in text.split(",") if part]
        except ValueError:
            raise typer.BadParameter(f"{text!r} is not a comma-separated list of numbers") from None
    return tuple(levels)


@verb(app, MEASURE, "ragops bench --clients 1,2,4", "ragops bench --url http://HOST:8000/v1 --model NAME")
def bench(
    call: Call,
    profile: Annotated[
        Literal["ragflow", "grid"], _workload("ragflow|grid", "RAGFlow's requests, or a grid of sizes.")
    ] = "ragflow",
    workload: Annotated[Path | None, _workload("FILE", "Your own requests, a JSON object a line.")] = None,
    form: Annotated[
        Literal["natural", "stemmed", "markup"] | None,
        _workload("FORM", "natural, stemmed, markup (with tables); default: the release's."),
    ] = None,
    release: Annotated[
        str, _workload("VERSION", "RAGFlow release: window, timeout (default: running).")
    ] = "",
    page_size: Annotated[
        int | None, _workload("N", "Documents RAGFlow shows (default: a mixture).", between=(1, 10_000))
    ] = None,
    max_words: Annotated[
        int | None, _workload("N", "Truncate pairs (default: the model's maximum).", between=(1, 1_000_000))
    ] = None,
    seed: Annotated[int, _workload("N", "Seed of texts, arrivals and order.")] = 1,
    same_texts: Annotated[
        bool, flag("--same-texts", "Repeat the same texts; measures the prefix cache.", panel="Workload")
    ] = False,
    no_order_check: Annotated[str, _workload("REASON", "Skip the ranking check; state the reason.")] = "",
    requests: Annotated[
        int, _load("N", "Requests at each level (72 are enough for p95).", between=(1, 10_000))
    ] = 72,
    clients: Annotated[str, _load("N,...", "Closed loop: concurrent clients; '' for none.")] = "1",
    rate: Annotated[str, _load("RATE,...", "Open loop, Poisson arrivals: requests per second.")] = "",
    constant: Annotated[str, _load("RATE,...", "Open loop, constant intervals: requests per second.")] = "",
    burst: Annotated[str, _load("N,...", "Requests sent at the same moment.")] = "",
    warmup: Annotated[int, _load("N", "Warm-up requests, excluded from results.", between=(0, 1_000))] = 3,
    repeats: Annotated[int, _load("N", "Repetitions of each level.", between=(1, 1_000))] = 1,
    url: Annotated[str, _output("URL", "Another server, address up to /v1; requires --model.")] = "",
    model: Annotated[str, _output("NAME", "Model name on that server.")] = "",
    key_file: Annotated[
        Path | None, _output("FILE", "File with that server's API key (or RAGOPS_RERANKER_KEY).")
    ] = None,
    name: Annotated[
        str, _output("NAME", "Part of the run folder's name; default: bench, or as --like.")
    ] = "",
    results: Results = Path("results"),
    resume: Annotated[Path | None, _output("RUN", "Continue an interrupted run.")] = None,
    like: Annotated[
        str, _output("RUN", "Repeat texts and load of a recorded run; replaces the options of both.")
    ] = "",
) -> int:
    """Measure latency and throughput, record every request, and check RAGFlow's timeout."""
    from ragops.bench import BenchmarkConfig, from_jsonl
    from ragops.bench.run import same_load
    from ragops.bench.wire import NO_KEY
    from ragops.ragflow.api import KEY_VARIABLE, read_secret
    from ragops.session import Session

    api_key = read_secret(KEY_VARIABLE, key_file) or NO_KEY
    stack = call.stack()
    if resume and like:
        raise typer.BadParameter("--resume continues a run, --like repeats one: only one of them is possible")
    if bool(url) != bool(model):
        raise ragops.BenchError(
            "--url and --model go together", hint="--url http://HOST:PORT/v1 --model NAME"
        )
    own = from_jsonl(workload) if workload else None
    if resume:
        folder = ragops.resume_benchmark(stack, resume, workload=own, api_key=api_key)
    else:
        session = None if url else Session(stack, call.engine())
        window = {"form": form, "release": release, "page_size": page_size}
        if like:
            config = same_load(_find(results, like).info, results, own)
            config = replace(config, name=name or config.name)
        else:
            config = BenchmarkConfig(
                workload=own or _synthetic(session, profile, requests + warmup, seed, max_words, window),
                levels=_levels(None if own else requests, clients, rate, constant, burst),
                name=name or "bench",
                results=results,
                warmup=warmup,
                repeats=repeats,
                seed=seed,
                fresh=not same_texts,
                no_order_check=no_order_check,
            )
        if session:
            folder = ragops.benchmark(session, config)
        else:
            folder = ragops.benchmark_url(url, model, config, api_key=api_key)
    run = ragops.load_run(folder)
    verdict = _show(call, run, release)
    return FAILED if run.info.order.failed or (verdict and verdict.fits is False) else OK


def _synthetic(
    session: Session | None,
    profile: str,
    count: int,
    seed: int,
    max_words: int | None,
    window: dict[str, Any],
) -> Workload:
    """A synthetic workload; the release and the maximum words are those of the session, if there is one."""
    from ragops import bench
    from ragops.checks.traffic import TAIL
    from ragops.ragflow import discovery, releases

    words = max_words or (ragops.max_words(session) if session else None)
    if profile == "grid":
        longest = 512 if words is None else words - 16
        sizes = tuple(sorted({16, longest // 3, longest}))
        return bench.grid((1, 8, 32), sizes, each=-(-count // 9), seed=seed, max_words=words)
    if session and not window["release"]:
        found = discovery.find(session.engine.containers(), session.stack.ragflow)
        window["release"] = next((ragflow.release for ragflow in found if ragflow.release), releases.NEWEST)
    return bench.ragflow(count, seed, tail=TAIL, max_words=words, **window)


@verb(app, MEASURE, "ragops report results/RUN --out report.html")
def report(
    call: Call,
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run folder, or its name below --results.")],
    out: Annotated[Path | None, option("FILE", "The page; default: the run's name with .html.")] = None,
    results: Results = Path("results"),
) -> None:
    """Write a recorded run as an HTML page: verdict, charts, values, provenance, raw data."""
    from ragops.bench.report import headline, write_report

    recorded = _find(results, run)
    page = write_report(recorded, out or Path(f"{recorded.path.name}.html"))
    state, verdict, notes = headline(recorded)
    record = {"run": recorded.path.name, "state": state, "verdict": verdict, "notes": notes, "page": page}
    call.show(record, "\n".join((verdict, *(f"note: {note}" for note in notes), str(page))))


@verb(app, MEASURE, "ragops runs", "ragops runs --json")
def runs(call: Call, results: Results = Path("results")) -> int:
    """List the recorded runs, newest first, and whether each fits; exit code 1 if one can't be read."""
    from ragops.bench.gallery import recorded_runs

    recorded = recorded_runs(results)
    call.show(recorded)
    return FAILED if recorded.problems else OK


@verb(app, MEASURE, "ragops compare results/BASELINE results/CANDIDATE --fail-over 5")
def compare(
    call: Call,
    a: Annotated[str, typer.Argument(metavar="BASELINE", help="Run folder or name of the baseline.")],
    b: Annotated[str, typer.Argument(metavar="CANDIDATE", help="Run folder or name of the candidate.")],
    fail_over: Annotated[
        float | None, option("PERCENT", "Exit code 1 if significantly worse by more.")
    ] = None,
    across_models: Annotated[bool, flag("--across-models", "Allow runs of different models.")] = False,
    results: Results = Path("results"),
) -> int:
    """Compare two recorded runs of one workload, with confidence intervals."""
    from ragops.bench import compare_runs

    comparison = compare_runs(_find(results, a), _find(results, b), across_models=across_models)
    regressions = () if fail_over is None else comparison.regressions(fail_over)
    call.show({"comparison": comparison, "regressions": regressions}, comparison)
    for line in regressions:
        call.message(f"regression: {line}")
    return FAILED if regressions else OK


def _find(results: Path, name: str) -> Run:
    """A run by its folder, or by its name in the folder of results."""
    for folder in (Path(name), results / name):
        with suppress(OSError):  # a name that is too long
            if (folder / "run.json").exists():
                return ragops.load_run(folder)
    known = sorted(file.parent.name for file in results.glob("*/run.json"))
    raise ragops.BenchError(
        f"there is no recorded run {name}",
        code="run-unreadable",
        file=results,
        evidence=f"in {results}: {', '.join(known[-5:]) or 'no run'}",
        hint="ragops runs lists them, ragops bench records one; --results names another folder of runs",
    )


@verb(app, MEASURE, "ragops tune --only batched-4096,eager --no-write")
def tune(
    call: Call,
    only: Annotated[str, option("NAME,...", "Candidates to compare (default: all but int8).")] = "",
    no_write: Annotated[bool, flag("--no-write", "Do not change ragops.toml.")] = False,
    results: Results = Path("results"),
) -> None:
    """Compare vLLM options on this machine; write faster ones with equal scores into ragops.toml."""
    from ragops.configuration import configuration_file

    result = ragops.tune(
        call.stack(),
        only=tuple(filter(None, only.split(","))),
        results=results,
        write=None if no_write else configuration_file(call.stack_file),
    )
    call.show(result)
    if result.written:
        call.message("ragops plan shows what the new configuration changes, ragops up applies it")


@verb(app, MEASURE)
def int8(
    call: Call,
    target: Annotated[Path | None, option("FOLDER", "Folder to create; default: beside the model.")] = None,
) -> None:
    """Create an int8 copy of the model folder and print its path; set reranker.model to it to serve it."""
    from ragops.configuration import home
    from ragops.reranker import image
    from ragops.reranker import int8 as quantize
    from ragops.reranker.host import read_host
    from ragops.session import Session

    stack, engine = call.stack(), call.engine()
    source = Session(stack, engine).deployment.model.folder
    base = image.ensure(engine, stack.reranker.image, home())
    folder = quantize.int8(source, engine=engine, image=base.id, target=target)
    if reason := quantize.unfit(read_host()):
        call.message(f"note: not suitable for this machine: {reason}")
    call.show({"folder": folder}, str(folder))
