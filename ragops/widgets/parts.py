"""What widgets are made of; the only module that imports ipywidgets.

Each widget has a plain twin. With a live frontend the widget moves while the work goes on and is
replaced by its twin at the end; without one only the twin is shown. So no stored output ever
needs a frontend to be read.
"""

from __future__ import annotations

import os
from html import escape
from typing import TYPE_CHECKING, Any

from IPython import display as shown
from IPython import get_ipython

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

display: Any = shown.display  # it has no types

WIDGETS = "RAGOPS_WIDGETS"
"""Environment variable: ``1`` shows widgets, ``0`` plain text, else the frontend is asked for."""


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


def choice(rows: Sequence[tuple[str, str]], chosen: Sequence[str], title: str) -> Any:
    """A list of which several may be marked; rows are (what is read, its value)."""
    return _library().SelectMultiple(
        options=list(rows),
        value=tuple(chosen),
        rows=max(2, len(rows)),
        description=title,
        layout=_library().Layout(width="100%"),
    )


def switch(title: str) -> Any:
    """A button that stays down."""
    return _library().ToggleButton(description=title, button_style="primary")


def page(content: str) -> Any:
    """HTML as a widget."""
    return _library().HTML(content)


def column(*parts: Any) -> Any:
    """Widgets below each other."""
    return _library().VBox(list(parts))


class Box:
    """A place in the output that is written again and again, and holds plain text in the end.

    Args:
        bar: Whether a bar shows how far it is.
        stop: Called when its button is pressed; no button when left out.
    """

    def __init__(self, *, bar: bool = False, stop: Callable[[], None] | None = None) -> None:
        self._handle: Any = None
        if live():
            self._open(bar, stop)

    @property
    def live(self) -> bool:
        """Whether somebody sees it move."""
        return self._handle is not None

    def _open(self, bar: bool, stop: Callable[[], None] | None) -> None:
        library = _library()
        self._bar = library.FloatProgress(max=1.0, layout=library.Layout(width="60%"))
        self._stop = library.Button(description="Stop", tooltip="ends it, and keeps what there is")
        self._text, self._log = library.HTML(), library.HTML()
        self._picture = library.Image(format="png", layout=library.Layout(max_width="100%", display="none"))
        if stop is not None:
            self._stop.on_click(lambda _: stop())
        head = [part for part, wanted in ((self._bar, bar), (self._stop, stop is not None)) if wanted]
        parts = [library.HBox(head), self._text, self._picture, self._log]
        self._handle = display(library.VBox(parts if head else parts[1:]), display_id=True)

    def show(self, text: str, share: float = 0.0) -> None:
        """Write a text, and how far it is, from 0 to 1."""
        if self.live:
            self._text.value = f"<pre>{escape(text)}</pre>"
            self._bar.value = share

    def tail(self, log: str) -> None:
        """Write the last lines of a log."""
        if self.live:
            self._log.value = f"<pre>{escape(log)}</pre>"

    def picture(self, png: bytes) -> None:
        """Show a picture below the text."""
        if self.live:
            self._picture.value = png
            self._picture.layout.display = "block"

    def end(self, text: str) -> None:
        """Put the plain twin in its place."""
        if self.live:
            self._handle.update(Text(text))
        else:
            display(Text(text))


def _library() -> Any:
    import ipywidgets  # noqa: PLC0415 - an extra, and only for a live frontend

    return ipywidgets
