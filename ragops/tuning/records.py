"""What a search keeps below ``results/``, as frozen declarations; ``folder.py`` writes and reads them."""

from __future__ import annotations

from dataclasses import dataclass

from ragops.tuning.candidates import Candidate, Settings, merged
from ragops.tuning.compare import Ratio, Rule, Scores  # noqa: TC001 - pydantic reads it
from ragops.tuning.report import Row  # noqa: TC001 - pydantic reads it

FORM = 1
"""Version of the folder's form; rises when a reader of the old form would err."""


@dataclass(frozen=True)
class Size:
    """The requests of one block, chosen so that the first launch takes some seconds for it."""

    documents: int
    """In each request."""
    requests: int
    max_words: int
    """Longest query and document together."""
    queries: int
    """Golden queries whose scores are compared."""

    def __str__(self) -> str:
        """In words."""
        return f"blocks of {self.requests} requests of {self.documents} documents, each block with new texts"


@dataclass(frozen=True)
class Launch:
    """The launch without tuning, and what it runs on; a search is continued only with the same."""

    model_sha256: str
    image_id: str
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    cores: str
    memory: int
    """Limit of its container in bytes."""
    cpu_model: str


@dataclass(frozen=True)
class TuneInfo:
    """``tune.json``: what is searched, and what was decided so far."""

    started: str
    """Date and time in UTC."""
    machine: str
    model: str
    stand_in: str
    """Why scores aren't those of a trained reranker; empty when they are."""
    launch: Launch
    candidates: tuple[Candidate, ...]
    tolerance: float
    rule: Rule
    size: Size | None = None
    reference: Scores = ()
    """Scores of the launch without tuning."""
    gate: str = ""
    """What the score gate said of the best launch so far."""
    rows: tuple[Row, ...] = ()
    total: Ratio | None = None
    resumed: tuple[str, ...] = ()
    """When it was continued."""
    complete: bool = False
    reason: str = "still running"
    """Why it is not complete."""
    form: int = FORM

    @property
    def kept(self) -> tuple[Row, ...]:
        """Candidates that won."""
        return tuple(row for row in self.rows if row.verdict == "kept")

    @property
    def settings(self) -> Settings:
        """Those of the best launch so far."""
        found: Settings = ()
        for row in self.kept:
            found = merged(found, row.settings)
        return found

    @property
    def king(self) -> str:
        """Name of the best launch so far: what won, on top of the default."""
        return "+".join(["default", *(row.name for row in self.kept)])

    @property
    def left(self) -> tuple[Candidate, ...]:
        """Candidates that were not decided yet."""
        done = {row.name for row in self.rows}
        return tuple(one for one in self.candidates if one.name not in done)


@dataclass(frozen=True)
class Trial:
    """A line of ``trials.jsonl``: one block, as one of two launches answered it."""

    challenger: str
    king: str
    pair: int
    """Which pair of blocks of these two, from 0 on."""
    who: str
    """Which of the two answered."""
    block: int
    """Which texts; both launches get the same ones, and nobody gets them again."""
    documents: int
    seconds: float
    tokens: int
    others: float = 0.0
    """Cores that other programs, or the hypervisor, used meanwhile."""
    error: str = ""

    @property
    def rate(self) -> float:
        """Documents a second."""
        return self.documents / self.seconds
