"""Checks: each says ok, warn, fail or skip, what was seen, and what to do about it.

``host`` before anything changes; from inside RAGFlow's container ``serving``, ``scores`` and
``budget``, and from outside ``exposure``. ``layers`` is the table of what stands on what.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Literal

Status = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True)
class Check:
    """One question and its answer."""

    name: str
    status: Status
    detail: str
    remedy: str = ""
    where: str = ""
    """The container from which it was asked; empty for the host."""


@dataclass(frozen=True, repr=False)
class Report:
    """The answers of one verb, in the order in which they were asked."""

    title: str
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing failed (a warning is no failure)."""
        return all(check.status != "fail" for check in self.checks)

    def first_failure(self) -> Check | None:
        """The failure to mend first; later ones often follow from it."""
        return next((check for check in self.checks if check.status == "fail"), None)

    def __str__(self) -> str:
        """One line a check, its remedy below it."""
        width = max((len(check.name) for check in self.checks), default=0)
        lines = [self.title]
        where = ""
        for check in self.checks:
            if check.where != where:
                where = check.where
                lines.append(f"from {where}" if where else "on this host")
            lines.append(f"  {check.status:<4}  {check.name:<{width}}  {check.detail}")
            if check.remedy and check.status in {"warn", "fail"}:
                lines.append(f"        {'':<{width}}  hint: {check.remedy}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The same as a table, for notebooks."""
        rows, where = [], ""
        for check in self.checks:
            if check.where != where:
                where = check.where
                asked = f"from {where}" if where else "on this host"
                rows.append(f'<tr><th colspan="3" scope="rowgroup">{escape(asked)}</th></tr>')
            rows.append(_row(check))
        notes = "".join(f"<p>note: {escape(note)}</p>" for note in self.notes)
        head = "<tr><th>check</th><th>result</th><th>seen</th></tr>"
        table = f'<table class="ragops-checks">{head}{"".join(rows)}</table>'
        return f"<p>{escape(self.title)}</p>{table}{notes}"


def _row(check: Check) -> str:
    seen = escape(check.detail)
    if check.remedy and check.status in {"warn", "fail"}:
        seen += f"<br>hint: {escape(check.remedy)}"
    result = f'<td class="ragops-{check.status}">{check.status}</td>'
    return f"<tr><td>{escape(check.name)}</td>{result}<td>{seen}</td></tr>"
