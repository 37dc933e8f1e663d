"""The Universal Scalability Law: throughput against clients, where its assumptions hold.

``X(N) = gamma N / (1 + alpha (N - 1) + beta N (N - 1))``: gamma is one client's throughput, alpha the
share of work that waits in a line, beta what clients cost each other. Source: N. J. Gunther,
Guerrilla Capacity Planning, 2007.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragops.bench.stats import passes, rates
from ragops.errors import BenchError

if TYPE_CHECKING:
    from ragops.bench.records import Run

FEWEST = 6
"""Numbers of clients that a fit of three parameters needs, one client among them."""

Point = tuple[float, float]
"""Clients, and documents a second."""


@dataclass(frozen=True)
class Scalability:
    """The fitted law; each parameter with half its 95 % interval."""

    gamma: float
    gamma_error: float
    alpha: float
    alpha_error: float
    beta: float
    beta_error: float
    residual: float
    """Standard error of the fit as a share of the throughput."""
    levels: int

    @property
    def best(self) -> float:
        """Clients with the highest throughput; infinite where more never cost."""
        return math.sqrt((1 - self.alpha) / self.beta) if self.beta > 0 else math.inf

    def throughput(self, clients: float) -> float:
        """Documents a second."""
        slowed = 1 + self.alpha * (clients - 1) + self.beta * clients * (clients - 1)
        return self.gamma * clients / slowed

    def __str__(self) -> str:
        """The parameters with their errors."""
        return (
            f"one client {self.gamma:.3g} ± {self.gamma_error:.2g} documents/s, "
            f"waiting {self.alpha:.3f} ± {self.alpha_error:.2g}, "
            f"crosstalk {self.beta:.2g} ± {self.beta_error:.2g}, residual {self.residual:.1%}"
        )


def scalability(run: Run) -> tuple[Scalability | None, str]:
    """The law fitted to the closed levels of a run, or None and which assumption does not hold.

    Raises:
        BenchError: numpy is not installed.
    """
    points = [
        (float(level.clients), rates(turn, level.clients).documents)
        for level in run.info.levels
        if level.clients
        for turn in passes(run, level.name)
    ]
    return fit(points)


def fit(points: list[Point]) -> tuple[Scalability | None, str]:
    """Weighted least squares on ``N / X``, which is linear in ``1, N - 1, N (N - 1)``.

    Args:
        points: Clients and throughput, several for a number of clients where it was repeated.
    """
    clients = {n for n, rate in points if rate > 0}
    if len(clients) < FEWEST or 1 not in clients:
        return None, f"it takes {FEWEST} numbers of clients, 1 among them; there are {len(clients)}"
    found = _solved([point for point in points if point[1] > 0])
    low_alpha, low_beta = found.alpha + found.alpha_error, found.beta + found.beta_error
    if low_alpha < 0 or found.alpha > 1:
        return None, "several clients get more done than one by one, as work is batched: alpha < 0"
    if low_beta < 0:
        return None, "throughput rises faster than the law allows: beta < 0"
    return found, ""


def _solved(points: list[Point]) -> Scalability:
    try:
        import numpy as np  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise BenchError(
            "the fit needs numpy", code="extra-missing", hint="pip install 'ragops-rerank[bench]'"
        ) from error
    n, rate = np.array(points).T
    weight = rate / n  # so that the error of each point is relative to its throughput
    table = np.stack([np.ones_like(n), n - 1, n * (n - 1)], axis=1) * weight[:, None]
    inverse = np.linalg.inv(table.T @ table)
    a, b, c = inverse @ table.T @ np.ones_like(n)
    off = table @ np.array([a, b, c]) - 1
    residual = math.sqrt(float(off @ off) / max(1, len(n) - 3))
    deviation = 1.96 * residual * np.sqrt(np.diag(inverse))
    return Scalability(
        gamma=float(1 / a),
        gamma_error=float(deviation[0] / a**2),
        alpha=float(b / a),
        alpha_error=float(deviation[1] / a),
        beta=float(c / a),
        beta_error=float(deviation[2] / a),
        residual=residual,
        levels=len({one for one, _ in points}),
    )
