"""What to enter in RAGFlow, as rows."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ragops.stack import Stack


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


def _cells(row: tuple[str, ...]) -> str:
    first, *others = row
    return f"<td>{escape(first)}</td>" + "".join(f"<td><code>{escape(cell)}</code></td>" for cell in others)
