"""The verbs that read recorded runs: one as a page, or two side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ragops.bench import compare, load_run, page
from ragops.cli.parts import FAILED, OK, Verb, option, show, tell
from ragops.errors import BenchError

if TYPE_CHECKING:
    from ragops.bench import Run
    from ragops.cli.parts import Options


def _report(options: Options) -> int:
    run = _find(options, options.run_folder)
    out = options.out or Path(f"{run.path.name}.html")
    show(options, page.write(run, out, figures=options.figures))
    return OK


def _compare(options: Options) -> int:
    a, b = (_find(options, name) for name in (options.a, options.b))
    found = compare(a, b, across_models=options.across_models)
    worse = () if options.fail_over is None else found.regressions(options.fail_over)
    show(options, {"comparison": found, "regressions": worse}, str(found))
    for line in worse:
        tell(f"regression: {line}")
    return FAILED if worse else OK


def _find(options: Options, name: str) -> Run:
    """A run by its folder, or by its name below the folder of results."""
    for folder in (Path(name), options.results / name):
        if (folder / "run.json").exists():
            return load_run(folder)
    known = sorted(file.parent.name for file in options.results.glob("*/run.json"))
    raise BenchError(
        f"there is no recorded run {name}",
        code="run-unreadable",
        evidence=f"below {options.results}: {', '.join(known[-5:]) or 'no run'}",
        hint="ragops bench records one; --results names another folder of runs",
        file=options.results,
    )


_RESULTS = option(
    "--results", type=Path, default=Path("results"), help="where runs named by name are (%(default)s)"
)

VERBS = {
    "report": Verb(
        _report,
        "show a recorded run as one page: verdict, figures, numbers, origin",
        (
            option("run_folder", metavar="RUN", help="a run's folder, or its name below results"),
            option("--out", type=Path, metavar="FILE", help="the page (default: the run's name, .html)"),
            option("--figures", type=Path, metavar="FOLDER", help="write each figure as SVG too"),
            _RESULTS,
        ),
    ),
    "compare": Verb(
        _compare,
        "put two recorded runs of one workload side by side, with intervals",
        (
            option("a", metavar="A", help="the run to compare with"),
            option("b", metavar="B", help="the run in question"),
            option(
                "--fail-over",
                type=float,
                metavar="PERCENT",
                help="exit with 1 if B is worse by more than this, and told apart from noise",
            ),
            option("--across-models", action="store_true", help="compare runs of different models"),
            _RESULTS,
        ),
    ),
}
"""By name."""
