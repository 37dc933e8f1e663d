"""What a search found, setting by setting; pure."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Literal

from ragops.bench.agreement import Agreement  # noqa: TC001 - pydantic reads the rows' types
from ragops.tuning.candidates import INT8, Settings
from ragops.tuning.compare import NEAR, Ratio

if TYPE_CHECKING:
    from pathlib import Path

Verdict = Literal[
    "kept", "no difference", "slower", "scores moved", "score gate failed", "did not start", "failed"
]


@dataclass(frozen=True)
class Row:
    """What came of one candidate."""

    name: str
    settings: Settings
    why: str
    """What could have made it faster."""
    verdict: Verdict
    against: str
    """What it was measured against: ``default``, or the settings kept before it."""
    ratio: Ratio | None = None
    agreement: Agreement | None = None
    """Of its scores with those of the default launch."""
    detail: str = ""
    """Why it could not be kept, where speed is not the reason."""

    def cells(self) -> tuple[str, str, str, str]:
        """Name, gain, verdict and reason, for a table."""
        reasons = (self.detail, str(self.agreement) if self.agreement else "", self.why)
        said = next(part for part in reasons if part) if self.verdict != "kept" else f"{self.agreement}"
        return self.name, str(self.ratio or "-"), self.verdict, said


@dataclass(frozen=True, repr=False)
class Tuned:
    """The whole search."""

    folder: Path
    model: str
    stand_in: str
    machine: str
    request: str
    """What was sent, in words."""
    rows: tuple[Row, ...]
    untried: tuple[str, ...]
    settings: Settings
    """What the best launch sets; empty when that is the launch without tuning."""
    total: Ratio | None
    """Of the best launch against the one without tuning; None when they are the same."""
    gate: str
    """What the score gate said of the best launch."""
    written: Path | None = None
    """The declaration that has them now."""
    notes: tuple[str, ...] = ()

    @property
    def behind(self) -> float:
        """Speed of the best launch of the same checkpoint, in that of the launch without tuning."""
        other = next((row.ratio for row in self.rows if row.name == INT8 and row.verdict == "kept"), None)
        whole = self.total.middle if self.total else 1.0
        return whole / other.middle if other else whole

    @property
    def near(self) -> bool:
        """Whether the launch without tuning is within 10 % of the best one of the same checkpoint."""
        return self.behind <= NEAR

    @property
    def sentence(self) -> str:
        """What the reader should remember."""
        if self.total is None:
            return "The launch without tuning is the best found: nothing was surely faster."
        how = "within" if self.near else "more than"
        end = "of the best found for this checkpoint" if self.near else "behind the best for this checkpoint"
        best = f"with all that was kept it has {self.total} times the speed"
        return f"The launch without tuning is {how} {NEAR - 1:.0%} {end} ({self.behind:.2f}); {best}."

    def __str__(self) -> str:
        """Rows, then what was kept and where it is written."""
        cells = [("setting", "gain", "verdict", "seen"), *(row.cells() for row in self.rows)]
        widths = [max(len(row[place]) for row in cells) for place in range(3)]
        lines = [
            "  ".join([*(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)), row[3]])
            for row in cells
        ]
        return "\n".join([f"{self.model} on {self.machine}", "", *lines, "", *self._ending()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The same as a table, for notebooks."""
        rows = "".join(
            f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row.cells())}</tr>" for row in self.rows
        )
        head = "<tr><th>setting</th><th>gain</th><th>verdict</th><th>seen</th></tr>"
        ending = "".join(f"<p>{escape(line)}</p>" for line in self._ending())
        return f"<p>{escape(f'{self.model} on {self.machine}')}</p><table>{head}{rows}</table>{ending}"

    def _ending(self) -> tuple[str, ...]:
        kept = ", ".join(f"{key} = {value}" for key, value in self.settings) or "none"
        where = f"; written to {self.written}" if self.written else ""
        stand_in = (f"note: {self.model} is a stand-in: {self.stand_in}",) if self.stand_in else ()
        return (
            self.sentence,
            f"settings to keep: {kept}{where}",
            *((f"score gate: {self.gate}",) if self.gate else ()),
            *((f"not tried, as the time was over: {', '.join(self.untried)}",) if self.untried else ()),
            f"measured with {self.request}",
            *stand_in,
            *(f"note: {note}" for note in self.notes),
            f"recorded in {self.folder}",
        )
