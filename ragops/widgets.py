"""What notebooks show while something runs; the only module that imports ipywidgets.

Each widget has a plain twin. With a live frontend the widget moves while the work goes on and is
replaced by its twin at the end; without one only the twin is shown. So no stored output ever
needs a frontend to be read.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any, Protocol

from IPython import display as shown
from IPython import get_ipython

from ragops.engine import connect
from ragops.ragflow.discovery import RagflowContainer, is_ragflow
from ragops.stack import Ragflow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ragops.engine import Engine
    from ragops.stack import Stack

display: Any = shown.display  # it has no types

WIDGETS = "RAGOPS_WIDGETS"
"""Environment variable: ``1`` shows widgets, ``0`` plain text, else the frontend is asked for."""

_TAIL = 8


class Step(Protocol):
    """How far a benchmark is, see ``ragops.bench.Progress``."""

    done: int
    total: int
    errors: int
    level: str
    folder: Path


class Text:
    """Plain text that looks the same in a notebook, in its stored output and in a terminal."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        """The text itself."""
        return self.text


def live() -> bool:
    """Whether somebody watches who can be shown widgets.

    JupyterLab, Notebook and VS Code name the cell in each request to run one; nbclient,
    nbconvert and papermill do not. Asking the browser instead would take an answer that the
    kernel only reads after the cell has ended.
    """
    wanted = os.environ.get(WIDGETS, "")
    if wanted in {"0", "1"}:
        return wanted == "1"
    kernel = getattr(get_ipython(), "kernel", None)
    request = kernel.get_parent("shell") if kernel is not None else {}
    return "cellId" in request.get("metadata", {})


@contextmanager
def telling(title: str) -> Iterator[Callable[[str], None]]:
    """Show the lines that a long verb tells, with the time of each.

    Use it as ``with telling("ragops up") as told: ragops.up(stack, told=told)``. The lines stay,
    also when the verb fails.

    Args:
        title: What is going on.
    """
    box = _Box()
    start, lines = time.monotonic(), list[str]()

    def told(line: str) -> None:
        lines.append(f"{time.monotonic() - start:6.1f} s  {line}")
        box.show("\n".join([title, *lines[-_TAIL:]]))

    ended = "failed"
    try:
        yield told
        ended = "done"
    finally:
        lines.append(f"{time.monotonic() - start:6.1f} s  {ended}")
        box.end("\n".join([title, *lines]))


@contextmanager
def progress(title: str) -> Iterator[Callable[[Step], None]]:
    """Show how far a benchmark is; the stop button of the notebook ends it and keeps what it has.

    Use it as ``with progress("benchmark") as moved: ragops.bench(..., progress=moved)``.

    Args:
        title: What is going on.
    """
    box = _Box(bar=True)
    start, last = time.monotonic(), list[Step]()

    def moved(step: Step) -> None:
        last[:] = [step]
        box.show(f"{_counted(title, step)} · {step.level}", step.done / max(1, step.total))

    try:
        yield moved
    finally:
        said = _counted(title, last[0]) if last else f"{title}: no request was made"
        kept = f" · kept in {last[0].folder.name}" if last else ""
        box.end(f"{said} · {time.monotonic() - start:.1f} s{kept}")


class Picker:
    """Lets one pick the containers that join the network; all that look like RAGFlow at first.

    Args:
        found: Containers that look like RAGFlow.
        stack: The declaration; containers that it names are the ones picked at first.
    """

    def __init__(self, found: tuple[RagflowContainer, ...], stack: Stack) -> None:
        self._found = {one.name: one for one in found}
        names = [name for name in self._found if name in stack.ragflow.containers] or list(self._found)
        self._stack, self._names = stack, tuple(names)
        self._widget: Any = None

    @property
    def picked(self) -> tuple[str, ...]:
        """Names of the containers that are picked at this moment."""
        return tuple(self._widget.value) if self._widget is not None else self._names

    @property
    def stack(self) -> Stack:
        """The declaration, with the picked containers in it."""
        return self._stack.model_copy(update={"ragflow": Ragflow(containers=self.picked)})

    def __str__(self) -> str:
        """One line a container."""
        lines = [
            f"{'*' if name in self.picked else ' '} {_described(self._found[name])}" for name in self._found
        ]
        return "\n".join(lines) or "no container here looks like RAGFlow"

    __repr__ = __str__

    def _ipython_display_(self) -> None:
        if not (live() and self._found):
            display(Text(str(self)))
            return
        import ipywidgets  # noqa: PLC0415 - an extra, and only for a live frontend

        rows = [(_described(one), name) for name, one in self._found.items()]
        self._widget = ipywidgets.SelectMultiple(
            options=rows, value=self._names, rows=max(2, len(rows)), description="Connect",
            layout=ipywidgets.Layout(width="100%"),
        )  # fmt: skip
        display(self._widget)


def pick(stack: Stack, engine: Engine | None = None) -> Picker:
    """Offer the containers of the engine that look like RAGFlow, or stand in for it.

    Args:
        stack: The declaration.
        engine: Where; connected when left out.
    """
    containers = (engine or connect()).containers()
    return Picker(tuple(RagflowContainer(one) for one in containers if is_ragflow(one)), stack)


def address_table(stack: Stack, served: str) -> Table:
    """What to enter in RAGFlow, and where the reranker answers on this host."""
    rows = (
        ("provider in RAGFlow", "VLLM"),
        ("model type", "rerank"),
        ("base URL", stack.internal_url),
        ("model name", served),
        ("API key", "x"),
        ("on this host", stack.host_url or "not published"),
    )
    return Table(("setting", "value"), rows)


class Table:
    """Rows of text, aligned in a terminal, a table in a notebook.

    Args:
        head: Names of the columns.
        rows: The rows, as long as the head.
    """

    def __init__(self, head: tuple[str, ...], rows: tuple[tuple[str, ...], ...]) -> None:
        self.head, self.rows = head, rows

    def __str__(self) -> str:
        """One line a row."""
        widths = [max(map(len, column)) for column in zip(self.head, *self.rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in self.rows
        ]
        return "\n".join(line.rstrip() for line in lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(cell)}</th>" for cell in self.head)
        rows = "".join(f"<tr>{_cells(row)}</tr>" for row in self.rows)
        return f"<table><tr>{head}</tr>{rows}</table>"


class _Box:
    """A place in the output that is written again and again, and holds plain text in the end."""

    def __init__(self, *, bar: bool = False) -> None:
        self._bar: Any = None
        self._text: Any = None
        self._handle: Any = None
        if live():
            self._open(bar)

    def _open(self, bar: bool) -> None:
        import ipywidgets  # noqa: PLC0415 - an extra, and only for a live frontend

        self._text = ipywidgets.HTML()
        self._bar = ipywidgets.FloatProgress(max=1.0) if bar else None
        parts = [part for part in (self._bar, self._text) if part is not None]
        self._handle = display(ipywidgets.VBox(parts), display_id=True)

    def show(self, text: str, share: float = 0.0) -> None:
        if self._text is not None:
            self._text.value = f"<pre>{escape(text)}</pre>"
        if self._bar is not None:
            self._bar.value = share

    def end(self, text: str) -> None:
        if self._handle is not None:
            self._handle.update(Text(text))
        else:
            display(Text(text))


def _counted(title: str, step: Step) -> str:
    return f"{title}: {step.done}/{step.total} requests · {step.errors} errors"


def _described(one: RagflowContainer) -> str:
    kind = "demo client, a stand-in" if one.demo else one.release or one.container.image
    return f"{one.name} ({kind}, {one.container.status})"


def _cells(row: tuple[str, ...]) -> str:
    first, *others = row
    return f"<td>{escape(first)}</td>" + "".join(f"<td><code>{escape(cell)}</code></td>" for cell in others)
