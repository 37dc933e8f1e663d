"""What all verbs share: common options, exit codes, and the display of results, messages and progress.

Results go to standard output, as text or with ``--json`` as JSON; messages go to standard error. On a
terminal rich shows tables, colours (none with ``NO_COLOR``) and progress; elsewhere all is plain text.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import ragops
from ragops.errors import RagopsError
from ragops.progress import Progress, receiver
from ragops.table import Shown, Table, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, Group
    from rich.text import Text

OK, FAILED, PENDING = 0, 1, 3
"""Exit codes; typer exits with 2 for wrong usage."""
GROUPS = START, KEEP, MEASURE, REMOVE, SETUP = "Start", "Keep running", "Measure", "Remove", "Set up"

Verb = Callable[..., int | None]
_STATES = {"ok": "green", "warn": "yellow", "fail": "red", "skip": "dim", "error:": "bold red"}
_STATES |= {"+": "green", "~": "yellow", "-": "red", "hint:": "bold", "next:": "bold", "note:": "yellow"}
"""Words that begin a line or a cell, and their styles on a terminal."""


def option(
    metavar: str, text: str, *flags: str, panel: str | None = None, between: tuple[int, int] | None = None
) -> Any:
    """An option with a value, or a number ``between`` two; flags that differ from the parameter's name."""
    least, most = between or (None, None)
    return typer.Option(*flags, help=text, metavar=metavar, rich_help_panel=panel, min=least, max=most)


def flag(name: str, text: str, *more: str, panel: str | None = None) -> Any:
    """An option without a value."""
    return typer.Option(name, *more, help=text, rich_help_panel=panel)


@dataclass(frozen=True, kw_only=True)
class Call:
    """The common options of a command line; verbs load, connect and print through it."""

    json: Annotated[bool, flag("--json", "Print the result as JSON.")] = False
    stack_file: Annotated[
        Path | None, option("FILE", "Configuration file (default: ragops.toml).", "--stack")
    ] = None
    quiet: Annotated[bool, flag("--quiet", "Print only the result and errors.", "-q")] = False

    def stack(self) -> ragops.Stack:
        """Load the configuration."""
        return ragops.load_stack(self.stack_file)

    def engine(self) -> ragops.Engine:
        """Connect to the Docker engine."""
        from ragops.docker import engine

        return engine.connect()

    def show(self, record: Any, view: Any = None) -> None:
        """Print a result: the record as JSON with ``--json``, else the view of it, by default itself."""
        view = record if view is None else view
        if self.json:
            print(as_json(record))
        else:
            view = view.table() if isinstance(view, Shown) else view
            _print(view if isinstance(view, Table) else str(view), sys.stdout)

    def message(self, line: str) -> None:
        """Print a message, unless ``--quiet``."""
        if not self.quiet:
            _print(line, sys.stderr)


def verb(app: typer.Typer, group: str | None = None, *examples: str) -> Callable[[Verb], Verb]:
    """Add a function to the command: it takes a :class:`Call` and options, and returns the exit code."""

    def add(function: Verb) -> Verb:
        own, common = (inspect.signature(call, eval_str=True).parameters for call in (function, Call))

        def command(**options: Any) -> None:
            call = Call(**{key: options.pop(key) for key in common})
            raise typer.Exit(run_verb(call, partial(function, call, **options)))

        parameters = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in (*list(own.values())[1:], *common.values())
        ]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        command.__doc__ = function.__doc__
        epilog = "\n\n".join(f"Example: {example}" for example in examples) or None
        app.command(function.__name__, rich_help_panel=group, epilog=epilog)(command)
        return function

    return add


def run_verb(call: Call, function: Callable[[], int | None]) -> int:
    """Call a verb, print its errors and return the exit code."""
    try:
        with _reporting(call.quiet):
            code = function() or OK
            sys.stdout.flush()
            return code
    except typer.BadParameter:
        raise
    except KeyboardInterrupt:
        _print("stopped; completed changes remain: ragops status, ragops down", sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        _discard_output()
    except Exception as exception:  # noqa: BLE001 - no traceback reaches a user
        error = exception if isinstance(exception, RagopsError) else _translated(exception)
        if call.json:
            print(as_json(error))
        _print(f"error: {error}", sys.stderr)
    return FAILED


def _translated(exception: Exception) -> RagopsError:
    """The error for an exception that no code expected; its traceback is written to a file."""
    if isinstance(exception, OSError):
        _discard_output()
        return RagopsError(
            f"can't use {exception.filename or 'the output'}: {exception.strerror}",
            code="file-refused",
            hint="check permissions and disk space; RAGOPS_HOME names another folder for ragops' files",
        )
    with tempfile.NamedTemporaryFile("w", prefix="ragops-", suffix=".log", delete=False) as log:
        log.writelines(traceback.format_exception(exception))
    return RagopsError(
        f"unexpected {type(exception).__name__}",
        code="unexpected",
        evidence=str(exception)[:300],
        hint=f"please report it with the traceback in {log.name}",
    )


def _discard_output() -> None:
    """Drop what is buffered for an output that can't be written: Python would write it again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _escape(record: logging.LogRecord) -> bool:
    """A log filter that escapes control characters."""
    record.msg, record.args = printable(record.getMessage()), ()
    return True


@contextmanager
def _reporting(quiet: bool) -> Iterator[None]:
    """Show log messages with the time of day, and progress, on standard error."""
    terminal = sys.stderr.isatty() and not quiet
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if terminal:
        from rich.logging import RichHandler

        _Display.current = display = _Display()
        console = display.bars.console
        handler = RichHandler(console=console, show_level=False, show_path=False, log_time_format="%H:%M:%S")
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.addFilter(_escape)
    logger = logging.getLogger("ragops")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        if terminal:
            with receiver(display), display.bars:
                yield
        else:
            yield
    finally:
        _Display.current = None
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Display(Progress):
    """Progress on a terminal: a spinner and the elapsed time; with a total a bar and the remaining time."""

    current: _Display | None = None

    def __init__(self) -> None:
        from rich import progress

        columns = (
            progress.SpinnerColumn(finished_text="✓"),
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=20),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
        )
        self.bars = progress.Progress(*columns, console=_console(sys.stderr), redirect_stdout=False)
        self._task: Any = None

    def step(self, text: str) -> None:
        if self._task is not None:
            total = self.bars.tasks[self._task].completed or 1
            self.bars.update(self._task, completed=total, total=total)
        self._task = self.bars.add_task(printable(text), total=None)

    def advance(self, done: int, total: int, text: str = "") -> None:
        if self._task is None:
            self.step(text)
        self.bars.update(self._task, completed=done, total=total, description=printable(text) or None)


def _console(stream: Any) -> Console:
    from rich.console import Console

    return Console(file=stream, highlight=False)


def _print(output: str | Table, stream: Any) -> None:
    """Print below the progress; on a terminal with its width and with coloured states and changes."""
    if _Display.current:
        _Display.current.bars.stop()
    if not stream.isatty():
        print(printable(str(output)), file=stream, flush=True)
    elif isinstance(output, str):
        console, copied = _console(stream), stream is sys.stdout  # commands stay whole there
        console.print(_styled(output if copied else _folded(output, console.width)), soft_wrap=copied)
    else:
        _console(stream).print(rich_table(output))


def rich_table(table: Table) -> Group:
    """A table for a terminal; its title, headings and notes are lines of text."""
    from rich.console import Group
    from rich.table import Table as Grid

    parts: list[Any] = [_styled(_folded(table.title))] if table.title else []
    shown = [number for number, column in enumerate(table.columns) if not column.html_only]
    rows = [row for row in table.rows if not isinstance(row, str)]
    widths = {n: max(len(line) for row in rows for line in row[n].split("\n")) for n in shown[:-1] if rows}
    if 3 * sum(widths.values()) > 2 * shutil.get_terminal_size().columns:
        widths = {}  # all columns are folded
    grid: Grid | None = None
    for row in table.rows:
        if isinstance(row, str):
            parts.append(_styled(row, "bold"))
            grid = None
            continue
        if grid is None:
            grid = Grid(box=None, show_header=table.header, pad_edge=False, padding=(0, 2, 0, 0))
            for number in shown:
                name = table.columns[number].name
                grid.add_column(name, min_width=widths.get(number), overflow="fold")
            parts.append(grid)
        grid.add_row(*(_styled(row[number]) for number in shown))
    parts += (_styled(_folded(note)) for note in table.notes)
    for other in table.below:
        parts += ["", rich_table(other)]
    return Group(*parts)


def _folded(text: str, width: int = 0) -> str:
    """Text for the width of the terminal; what continues a line has its indentation."""
    width = width or shutil.get_terminal_size().columns
    lines = [(line, " " * (len(line) - len(line.lstrip()))) for line in text.split("\n")]
    fill = partial(textwrap.fill, width=width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(fill(line, subsequent_indent=indentation) for line, indentation in lines)


def _styled(text: str, style: str = "") -> Text:
    """Text with the words of states and changes that begin a line in their colours."""
    from rich.text import Text

    styled = Text(printable(text), style)
    for word, colour in _STATES.items():
        styled.highlight_regex(rf"(?m)^ *{re.escape(word)}(?= |$)", colour)
    return styled


def as_json(record: Any) -> str:
    """A record as one JSON document."""
    return printable(json.dumps(record, default=plain, indent=2, ensure_ascii=False))


def plain(record: Any) -> Any:
    """An object as JSON has it: its ``to_json()`` if it has one, else its fields; for others their text."""
    if hasattr(record, "to_json"):
        return record.to_json()
    if hasattr(record, "model_dump"):
        return record.model_dump(mode="json")
    if dataclasses.is_dataclass(record):
        return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    return dict(record) if isinstance(record, Mapping) else str(record)
