"""Tables of records, as plain text, HTML and JSON.

A record that derives from :class:`Shown` has ``table()``, which gives its text and its notebook output.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from html import escape
from itertools import zip_longest

Row = tuple[str, ...] | str
"""Cells, one a column; a plain string is the heading of the rows below it."""


@dataclass(frozen=True)
class Column:
    """A column of a :class:`Table`."""

    name: str
    code: bool = False
    """HTML shows its cells in a fixed-width font."""
    state: bool = False
    """Its cells are states such as ``ok``; HTML gives each the class ``ragops-ok``."""
    html_only: bool = False


@dataclass(frozen=True, repr=False)
class Table:
    """Rows of cells, with lines above and below them; a cell may have several lines."""

    columns: tuple[Column, ...] = ()
    rows: tuple[Row, ...] = ()
    title: str = ""
    notes: tuple[str, ...] = ()
    header: bool = False
    """Plain text names the columns too; HTML always does."""
    css_class: str = ""
    below: tuple[Table, ...] = ()
    """Further tables, each after an empty line."""

    def to_json(self) -> list[dict[str, str]]:
        """The rows as JSON objects, by column; a heading is the field ``group`` of its rows."""
        names, objects, group = [column.name for column in self.columns], list[dict[str, str]](), {}
        for row in self.rows:
            if isinstance(row, str):
                group = {"group": row}
            else:
                objects.append({**group, **dict(zip(names, row, strict=True))})
        return objects

    def text(self, width: int | None = None) -> str:
        """Aligned plain text; title, notes and the last column are wrapped to ``width`` characters."""
        shown = [place for place, column in enumerate(self.columns) if not column.html_only]
        rows = (tuple(column.name for column in self.columns), *self.rows) if self.header else self.rows
        cells = [row if isinstance(row, str) else [row[place].split("\n") for place in shown] for row in rows]
        aligned = [row for row in cells if not isinstance(row, str)]
        widths = [max(len(line) for cell in column for line in cell) for column in zip(*aligned, strict=True)]
        indent = "" if len(aligned) == len(cells) else "  "
        room = width and max(20, width - len(indent) - sum(size + 2 for size in widths[:-1]))
        lines = _wrapped(self.title.split("\n"), width) if self.title else []
        for row in cells:
            if isinstance(row, str):
                lines.append(row)
                continue
            for parts in zip_longest(*row[:-1], _wrapped(row[-1], room), fillvalue=""):
                padded = (part.ljust(size) for part, size in zip(parts, widths, strict=True))
                lines.append((indent + "  ".join(padded)).rstrip())
        lines += _wrapped(self.notes, width)
        return "\n\n".join(["\n".join(lines), *(table.text(width) for table in self.below)])

    def __repr__(self) -> str:
        """Aligned plain text."""
        return self.text()

    def _repr_html_(self) -> str:
        lines = ["".join(f"<th>{escape(column.name)}</th>" for column in self.columns)]
        heading = f'<th colspan="{len(self.columns)}" scope="rowgroup">'
        for row in self.rows:
            cells = map(_html_cell, self.columns, row)
            lines.append(f"{heading}{escape(row)}</th>" if isinstance(row, str) else "".join(cells))
        style = f' class="{self.css_class}"' if self.css_class else ""
        table = f"<table{style}>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>" if self.rows else ""
        title, notes = _paragraphs(self.title.split("\n")), _paragraphs(self.notes)
        return title + table + notes + "".join(table._repr_html_() for table in self.below)


class Shown:
    """A record whose text and notebook output are those of its table."""

    def table(self) -> Table:
        """The record as rows."""
        raise NotImplementedError

    def __repr__(self) -> str:
        """The table as plain text."""
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def _paragraphs(lines: tuple[str, ...] | list[str]) -> str:
    return "".join(f"<p>{escape(line)}</p>" for line in lines if line)


def _html_cell(column: Column, cell: str) -> str:
    content = escape(cell).replace("\n", "<br>")
    style = f' class="ragops-{escape(cell)}"' if column.state else ""
    return f"<td{style}><code>{content}</code></td>" if column.code else f"<td{style}>{content}</td>"


def _wrapped(lines: tuple[str, ...] | list[str], width: int | None) -> list[str]:
    if width is None:
        return list(lines)
    wrapper = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    return [part for line in lines for part in wrapper.wrap(line) or [""]]
