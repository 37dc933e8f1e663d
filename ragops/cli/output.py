"""What every verb shares: common options, exit codes, and how results, messages and progress are shown.

Results go to standard output, as text or with ``--json`` as JSON; messages go to standard error. On a
terminal both have colours (not with ``NO_COLOR``) and long steps a spinner or a bar, elsewhere plain lines.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import logging
import re
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from ragops.configuration import Stack
    from ragops.docker.engine import Engine

OK, FAILED, USAGE, PENDING = 0, 1, 2, 3
"""Exit codes."""
START, KEEP, MEASURE, REMOVE, SETUP = "Start", "Keep running", "Measure", "Remove", "Set up"
"""Groups of verbs in the help."""

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red", "skip": "dim", "error:": "bold red"}
_COLOURS |= {"+": "green", "~": "yellow", "-": "red", "hint:": "bold", "next:": "bold", "note:": "yellow"}


@dataclass(frozen=True)
class Call:
    """The common options of one command line."""

    json: bool
    file: Path | None
    """Configuration file that ``--stack`` names."""
    quiet: bool

    def stack(self) -> Stack:
        """The configuration."""
        from ragops.configuration import load

        return load(self.file)

    def engine(self) -> Engine:
        """A connection to the Docker engine."""
        return connect_engine()

    def show(self, record: Any, text: str | None = None) -> None:
        """Print a result: as JSON with ``--json``, else the text, else the record's own text."""
        if self.json:
            print(as_json(record))
        else:
            _print(str(record) if text is None else text, sys.stdout)

    def message(self, line: str) -> None:
        """Print a message, unless ``--quiet``."""
        if not self.quiet:
            _print(line, sys.stderr)


def connect_engine() -> Engine:
    """Connect to the Docker engine."""
    from ragops.docker.engine import connect

    return connect()


def option(metavar: str, text: str, *flags: str, panel: str | None = None) -> Any:
    """An option of a verb: its value and help; flags where they differ from the parameter's name."""
    return typer.Option(*flags, help=text, metavar=metavar or None, rich_help_panel=panel)


def _common(
    *,
    json: Annotated[bool, option("", "Print the result as JSON.", "--json")] = False,
    stack: Annotated[Path | None, option("FILE", "Configuration file (default: ./ragops.toml).")] = None,
    quiet: Annotated[bool, option("", "Print only the result and errors.", "--quiet", "-q")] = False,
) -> Call:
    return Call(json, stack, quiet)


def verb(
    app: typer.Typer, group: str | None = None, *examples: str, name: str | None = None
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Add a function to the command: it takes a :class:`Call` and its options, and returns the exit code."""

    def add(function: Callable[..., int]) -> Callable[..., int]:
        def command(**options: Any) -> None:
            call = _common(**{name: options.pop(name) for name in ("json", "stack", "quiet")})
            raise typer.Exit(run(call, lambda: function(call, **options)))

        own, common = (inspect.signature(call, eval_str=True).parameters for call in (function, _common))
        parameters = [*list(own.values())[1:], *common.values()]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        epilog = "\n\n".join(f"Example: {example}" for example in examples) or None
        app.command(name, rich_help_panel=group, epilog=epilog)(command)
        return function

    return add


def run(call: Call, function: Callable[[], int]) -> int:
    """Call a verb and print its errors; returns the exit code."""
    from ragops.errors import RagopsError

    try:
        with _reporting(call.quiet):
            return function()
    except RagopsError as error:
        if call.json:
            print(as_json(error))
        _print(f"error: {error}", sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        _print("stopped; completed changes remain: ragops status, ragops down", sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return FAILED


@contextmanager
def _reporting(quiet: bool) -> Iterator[None]:
    """Show log messages and progress on standard error."""
    from ragops import progress

    display = _Display() if sys.stderr.isatty() and not quiet else None
    handler = _Handler(display)
    logger = logging.getLogger("ragops")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        if display is None:
            yield
        else:
            _Display.current = display
            with progress.receiver(display), display.bars:
                yield
    finally:
        _Display.current = None
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Handler(logging.Handler):
    """Prints log messages with the time of day."""

    def __init__(self, display: _Display | None) -> None:
        super().__init__()
        self.display = display
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        if self.display:
            self.display.bars.console.print(line, markup=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)


class _Display:
    """Progress on a terminal: a spinner and the elapsed time; with a total a bar and the remaining time."""

    current: _Display | None = None

    def __init__(self) -> None:
        from rich import progress

        self.bars = progress.Progress(
            progress.SpinnerColumn(finished_text="✓"),
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=20),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            console=_console(sys.stderr),
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task: Any = None

    def step(self, text: str) -> None:
        if self._task is not None:
            done = self.bars.tasks[self._task].completed or 1
            self.bars.update(self._task, completed=done, total=done)
        self._task = self.bars.add_task(text, total=None)

    def advance(self, done: int, total: int, text: str = "") -> None:
        if self._task is None:
            self.step(text)
        self.bars.update(self._task, completed=done, total=total, description=text or None)


def _console(stream: Any) -> Console:
    from rich.console import Console
    from rich.highlighter import RegexHighlighter
    from rich.theme import Theme

    names = {f"state{number}": word for number, word in enumerate(_COLOURS)}
    highlighter = RegexHighlighter()
    highlighter.highlights = [rf"(?m)^ *(?P<{name}>{re.escape(word)})(?= )" for name, word in names.items()]  # type: ignore[misc]
    theme = Theme({name: _COLOURS[word] for name, word in names.items()})
    return Console(file=stream, theme=theme, highlighter=highlighter, soft_wrap=True)


def _print(text: str, stream: Any) -> None:
    """Print lines, below the progress; on a terminal with colours for states and changes."""
    if _Display.current:
        _Display.current.bars.stop()
    if stream.isatty():
        _console(stream).print(text, markup=False)
    else:
        print(text, file=stream, flush=True)


def as_json(record: Any) -> str:
    """A record as one JSON document."""
    return json.dumps(plain(record), indent=2, ensure_ascii=False)


def plain(record: Any) -> Any:
    """A record as objects, lists, strings and numbers: its ``to_json()`` if it has one, else its fields."""
    if hasattr(record, "to_json"):
        return plain(record.to_json())
    if hasattr(record, "model_dump"):
        return record.model_dump(mode="json")
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {field.name: plain(getattr(record, field.name)) for field in dataclasses.fields(record)}
    if isinstance(record, Mapping):
        return {str(key): plain(value) for key, value in record.items()}
    if isinstance(record, (tuple, list)):
        return [plain(value) for value in record]
    return str(record) if isinstance(record, Path) else record
