"""A question whose right answer is known, asked before and after a run.

A fast reranker that sorts wrongly is no reranker; ``run.py`` refuses to measure one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from ragops.bench import wire
from ragops.errors import BenchError


class OrderCheck(NamedTuple):
    """A query, documents, and the place of the one document that answers it."""

    query: str
    """What is asked."""
    documents: tuple[str, ...]
    """Two or more."""
    best: int
    """Place of the one that answers it, from 0."""


DEFAULT_CHECK = OrderCheck(
    query="How do I silence the alarm of the cooling pump?",
    documents=(
        "The canteen is open from eleven to two; soup of the day is on the board at the door.",
        "Travel costs are refunded within ten days when the receipts are handed in complete.",
        "Visitors sign the book at the gate and wear the badge where it can be seen.",
        "To silence the alarm of the cooling pump, hold the green button until its lamp is out.",
        "Invoices without an order number go back to the sender.",
    ),
    best=3,
)
"""The question asked when the caller brings none."""


@dataclass(frozen=True)
class Ordering:
    """How the question was answered once."""

    right: bool
    scores: tuple[float, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class OrderReport:
    """The question, and how it was answered before and after the run."""

    query: str
    documents: tuple[str, ...]
    best: int
    before: Ordering | None = None
    after: Ordering | None = None
    skipped: str = ""
    """Why it was not asked, such as ``random weights``; empty when it was."""

    @classmethod
    def of(cls, check: OrderCheck, skipped: str) -> OrderReport:
        """The report of a question that has not been asked yet."""
        return cls(check.query, tuple(check.documents), check.best, skipped=skipped)

    @property
    def check(self) -> OrderCheck:
        """The question."""
        return OrderCheck(self.query, self.documents, self.best)

    @property
    def verdict(self) -> str:
        """One clause for a report."""
        if self.skipped:
            return f"order of the scores not checked: {self.skipped}"
        if self.before and self.after and self.before.right and self.after.right:
            return "order of a known question right before and after"
        if self.after and not self.after.right:
            return "order of a known question wrong after the run"
        return "order of a known question not asked after the run"

    @property
    def failed(self) -> bool:
        """Whether an answer was wrong."""
        return any(asked is not None and not asked.right for asked in (self.before, self.after))


def judge(scores: tuple[float, ...], best: int) -> bool:
    """Whether the best document has a finite score above that of every other."""
    others = scores[:best] + scores[best + 1 :]
    return all(math.isfinite(score) for score in scores) and all(scores[best] > score for score in others)


async def ask(http: wire.Client, target: wire.Target, check: OrderCheck) -> Ordering:
    """Ask, each time with another document first, so that neither luck nor a place can be right.

    Returns:
        The first answer if all were right, else the first that was wrong. Its scores are those of
        the documents in the order of the check.

    Raises:
        BenchError: The check names a document that it doesn't have.
    """
    if not (len(check.documents) >= 2 and 0 <= check.best < len(check.documents)):
        raise BenchError(
            "the order check is no question",
            code="order-wrong",
            evidence=f"{len(check.documents)} documents, the best at {check.best}",
            hint="give two or more documents and the place of the best one, counted from 0",
        )
    found = [await _ask(http, target, check, first) for first in range(len(check.documents))]
    return next((one for one in found if not one.right), found[0])


async def _ask(http: wire.Client, target: wire.Target, check: OrderCheck, first: int) -> Ordering:
    turned = check.documents[first:] + check.documents[:first]
    body = wire.encode(target.model, check.query, tuple(turned))
    reply = await wire.post(http, target, body, len(turned))
    if reply.error:
        return Ordering(right=False, error=reply.error)
    scores = reply.scores[len(turned) - first :] + reply.scores[: len(turned) - first]
    return Ordering(right=judge(scores, check.best), scores=scores)


def refusal(ordering: Ordering, target: wire.Target) -> BenchError:
    """The error for a wrong answer before a run."""
    if ordering.error:
        return BenchError(
            f"{target.url} did not answer",
            code="server-silent",
            evidence=ordering.error,
            hint="ragops status shows whether the reranker is up and what its model is called",
            url=target.url,
        )
    return BenchError(
        f"{target.model} sorts a known question wrongly, so its speed is not measured",
        code="order-wrong",
        evidence=f"scores: {', '.join(f'{score:.3f}' for score in ordering.scores)}",
        hint="look at the score template and at hf-overrides; "
        "for random weights give no_order_check='random weights'",
        url=target.url,
    )
