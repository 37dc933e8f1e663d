"""Tables of records, as plain text, HTML and JSON.

A record that derives from :class:`Shown` has ``table()``, the source of its text, its notebook output and
what the command shows on a terminal.
"""

import re
from dataclasses import dataclass
from html import escape
from itertools import zip_longest

_CONTROL = re.compile(r"[\0-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

Row = tuple[str, ...] | str
"""A cell for each column; or a string, the heading of the rows below it."""


@dataclass(frozen=True)
class Column:
    """A column of a :class:`Table`."""

    name: str
    code: bool = False
    """HTML shows its cells in a fixed-width font."""
    state: bool = False
    """Its cells are states such as ``ok``; HTML gives each the class ``ragops-ok``."""
    html_only: bool = False
    folded: bool = False
    """HTML shows the first line of each cell, and the others when it is opened."""
    bar: bool = False
    """Its cells are numbers up to 1; HTML draws each as a bar too."""


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
    below: "tuple[Table, ...]" = ()
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

    def __repr__(self) -> str:
        shown = [number for number, column in enumerate(self.columns) if not column.html_only]
        rows = (tuple(column.name for column in self.columns), *self.rows) if self.header else self.rows
        cells = [
            row if isinstance(row, str) else [row[number].split("\n") for number in shown] for row in rows
        ]
        aligned = [row for row in cells if not isinstance(row, str)]
        widths = [max(len(line) for cell in column for line in cell) for column in zip(*aligned, strict=True)]
        indent = "" if len(aligned) == len(cells) else "  "
        lines = [self.title] if self.title else []
        for row in cells:
            if isinstance(row, str):
                lines.append(row)
                continue
            for parts in zip_longest(*row, fillvalue=""):
                padded = (part.ljust(width) for part, width in zip(parts, widths, strict=True))
                lines.append((indent + "  ".join(padded)).rstrip())
        return "\n\n".join([printable("\n".join([*lines, *self.notes])), *map(str, self.below)])

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


def printable(text: str) -> str:
    """Text with its control characters as escape sequences: they must not reach the terminal."""
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


class Shown:
    """A record whose text and notebook output are those of its table."""

    def table(self) -> Table:
        """The record as rows."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def _paragraphs(lines: tuple[str, ...] | list[str]) -> str:
    return "".join(f"<p>{escape(line)}</p>" for line in lines if line)


def _html_cell(column: Column, cell: str) -> str:
    content = escape(cell).replace("\n", "<br>")
    if column.code:
        content = f"<code>{content}</code>"
    if column.folded and "\n" in cell:
        first = escape(cell.split("\n", 1)[0].rstrip(" \\"))
        content = f"<details><summary>{first}</summary>{content}</details>"
    if column.bar:
        box = f"display: inline-block; width: {max(0.0, float(cell)) * 10:.1f}em; height: 0.8em"
        content = f'{content} <span style="{box}; background: #0072b2"></span>'
    style = f' class="ragops-{escape(cell)}"' if column.state else ""
    return f"<td{style}>{content}</td>"
