"""Checks: each has a status (ok, warn, fail, skip), a detail and a remedy.

``doctor.py`` checks the host before anything changes. ``verify.py`` checks one RAGFlow container from the
inside: ``probe.py`` and ``connection.py`` the connection, ``rules.py`` the scores, ``budget.py`` the response
times; and access from outside.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ragops.errors import RagopsError
from ragops.table import Column, Row, Shown, Table

Status = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True)
class Check:
    """Result of one check."""

    name: str
    status: Status
    detail: str
    remedy: str = ""
    where: str = ""
    """Container that it ran in; empty for the host."""


def failed_check(name: str, error: Exception) -> Check:
    """A check that ended with an exception."""
    if isinstance(error, RagopsError):
        return Check(name, "fail", error.short, error.hint)
    return Check(name, "fail", f"unexpected error: {error!r}"[:400], "run it again; see ragops logs")


def run_checks(*subjects: tuple[str, Callable[[], Check | Iterable[Check]]]) -> Iterator[Check]:
    """The checks of each subject; an exception is a failed check, and the next subject is checked."""
    for title, subject in subjects:
        try:
            checks = subject()
            yield from (checks,) if isinstance(checks, Check) else checks
        except Exception as error:  # noqa: BLE001 - reported as a failed check
            yield failed_check(title, error)


@dataclass(frozen=True, repr=False)
class Report(Shown):
    """Results of the checks of one verb, in order."""

    title: str
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing failed (a warning is no failure)."""
        return all(check.status != "fail" for check in self.checks)

    @property
    def summary(self) -> str:
        """How many checks have each result, in one line."""
        counts = Counter(check.status for check in self.checks)
        warnings = f"{counts['warn']} warning{'s' * (counts['warn'] != 1)}"
        return f"{counts['ok']} ok, {warnings}, {counts['fail']} failed, {counts['skip']} skipped"

    def first_failure(self) -> Check | None:
        """The failure to repair first; later ones often follow from it."""
        return next((check for check in self.checks if check.status == "fail"), None)

    def to_json(self) -> dict[str, Any]:
        """Its fields, and whether it is ok."""
        return {"title": self.title, "ok": self.ok, "checks": self.checks, "notes": self.notes}

    def table(self) -> Table:
        """One row for each check, grouped by container, with the hint below the detail."""
        rows, group = list[Row](), ""
        for check in self.checks:
            heading = f"from {check.where}" if check.where else "on this host"
            if heading != group:
                rows.append(heading)
                group = heading
            hint = f"\nhint: {check.remedy}" if check.remedy and check.status in {"warn", "fail"} else ""
            rows.append((check.status, check.name, check.detail + hint))
        columns = (Column("result", state=True), Column("check"), Column("detail"))
        notes = tuple(f"note: {note}" for note in self.notes)
        return Table(columns, tuple(rows), self.title, notes, css_class="ragops-checks")
