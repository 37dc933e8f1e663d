"""Order check: a query whose relevant document is known, sent before and after a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from ragops.bench import wire
from ragops.errors import BenchError


class OrderCheck(NamedTuple):
    """A query, documents, and the index of the relevant one."""

    query: str
    """The query."""
    documents: tuple[str, ...]
    """Two or more."""
    best: int
    """Index of the relevant document, from 0."""


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
"""The default check."""


@dataclass(frozen=True)
class Ordering:
    """Result of one check."""

    right: bool
    scores: tuple[float, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class OrderReport:
    """The check, and its results before and after the run."""

    query: str
    documents: tuple[str, ...]
    best: int
    before: Ordering | None = None
    after: Ordering | None = None
    skipped: str = ""
    """Why it was skipped, such as ``random weights``; empty when it was not."""

    @classmethod
    def of(cls, check: OrderCheck, skipped: str) -> OrderReport:
        """The report of a check without results."""
        return cls(check.query, tuple(check.documents), check.best, skipped=skipped)

    @property
    def check(self) -> OrderCheck:
        """The check."""
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
        """Whether a result was wrong."""
        return any(result is not None and not result.right for result in (self.before, self.after))


def judge(scores: tuple[float, ...], best: int) -> bool:
    """Whether the best document has a finite score above that of every other."""
    others = scores[:best] + scores[best + 1 :]
    return all(math.isfinite(score) for score in scores) and all(scores[best] > score for score in others)


async def ask(http: wire.Client, target: wire.Target, check: OrderCheck) -> Ordering:
    """Send the check with each document first in turn, so that no position can pass by chance.

    Returns:
        The first result if all were right, else the first wrong one, with scores in the order of the
        check.

    Raises:
        BenchError: The check has fewer than two documents, or no such index.
    """
    if not (len(check.documents) >= 2 and 0 <= check.best < len(check.documents)):
        raise BenchError(
            "the order check is invalid",
            code="order-wrong",
            evidence=f"{len(check.documents)} documents, the best at {check.best}",
            hint="give two or more documents and the index of the relevant one, from 0",
        )
    results = [await _ask(http, target, check, first) for first in range(len(check.documents))]
    for result in results:
        if not result.right:
            return result
    return results[0]


async def _ask(http: wire.Client, target: wire.Target, check: OrderCheck, first: int) -> Ordering:
    turned = check.documents[first:] + check.documents[:first]
    body = wire.encode(target.model, check.query, tuple(turned))
    reply = await wire.post(http, target, body, len(turned))
    if reply.error:
        return Ordering(right=False, error=reply.error)
    scores = reply.scores[len(turned) - first :] + reply.scores[: len(turned) - first]
    return Ordering(right=judge(scores, check.best), scores=scores)


def refusal(ordering: Ordering, target: wire.Target) -> BenchError:
    """The error for a wrong result before a run."""
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
