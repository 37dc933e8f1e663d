"""Load levels, and when their requests are due; pure."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from ragops.errors import BenchError

Kind = Literal["closed", "poisson", "constant", "burst"]

_KINDS: dict[str, Kind] = {"closed": "closed", "poisson": "poisson", "constant": "constant", "burst": "burst"}
_NANO = 1_000_000_000


@dataclass(frozen=True)
class Level:
    """One load level.

    Create one with :meth:`closed`, :meth:`poisson`, :meth:`constant` or :meth:`burst`.
    """

    kind: Kind
    value: float
    """Clients (closed), requests a second (poisson, constant), or requests at once (burst)."""
    requests: int | None = None
    """How many requests of the workload are measured; all when None."""

    def __post_init__(self) -> None:
        counted = self.kind in ("closed", "burst") and self.value != int(self.value)
        if not self.value > 0 or counted or (self.requests is not None and self.requests < 1):
            raise BenchError(
                f"{self.kind} level with {self.value:g} and {self.requests} requests is no load",
                code="load-refused",
                hint="give a number above 0, a whole one of clients, and at least one request",
            )

    @property
    def name(self) -> str:
        """Short name, such as ``closed-4`` or ``poisson-0.5``."""
        return f"{self.kind}-{self.value:g}"

    @property
    def clients(self) -> int | None:
        """Concurrent clients of a closed loop; None for other loads."""
        return int(self.value) if self.kind == "closed" else None

    @classmethod
    def closed(cls, clients: int, *, requests: int | None = None) -> Level:
        """As many clients, each sending its next request when the last is complete."""
        return cls("closed", clients, requests)

    @classmethod
    def poisson(cls, rate: float, *, requests: int | None = None) -> Level:
        """Requests at random, ``rate`` a second on average, whether or not earlier ones are complete."""
        return cls("poisson", rate, requests)

    @classmethod
    def constant(cls, rate: float, *, requests: int | None = None) -> Level:
        """Requests at even distances, ``rate`` a second, whether or not earlier ones are complete."""
        return cls("constant", rate, requests)

    @classmethod
    def burst(cls, size: int, *, requests: int | None = None) -> Level:
        """``size`` requests at the same moment; the next burst when all are complete."""
        return cls("burst", size, requests)

    @classmethod
    def parse(cls, text: str, *, requests: int | None = None) -> Level:
        """A level from its :attr:`name`, such as ``closed-4``.

        Raises:
            BenchError: There is no such kind, or no number behind it.
        """
        kind, _, value = text.strip().partition("-")
        try:
            return cls(_KINDS[kind], float(value), requests)
        except (KeyError, ValueError) as error:
            hint = "closed-4, poisson-0.5, constant-2 and burst-8 are levels"
            raise BenchError(f"{text!r} is no level", code="load-refused", hint=hint) from error


def due_times(level: Level, count: int, seed: int) -> list[int]:
    """When the requests of an open loop are due.

    Args:
        level: A Poisson or constant level.
        count: Number of requests.
        seed: Seed of the Poisson arrivals.

    Returns:
        Nanoseconds after the start, rising; the first is 0.

    Raises:
        BenchError: The level has no due times of its own.
    """
    if level.kind == "constant":
        gaps = [1 / level.value] * (count - 1)
    elif level.kind == "poisson":
        chance = random.Random(f"{seed} {level.name}")  # noqa: S311 - a repeatable load, no secret
        gaps = [chance.expovariate(level.value) for _ in range(count - 1)]
    else:
        raise BenchError(f"{level.name} is a closed loop without due times", code="load-refused")
    return [round(seconds * _NANO) for seconds in accumulate(gaps, initial=0.0)][:count]


def trial_order(levels: tuple[Level, ...], repeats: int, seed: int) -> list[tuple[Level, int]]:
    """Each level once a repeat, in a new random order each time, so that drift affects all alike.

    Args:
        levels: The levels.
        repeats: Repetitions of each.
        seed: Seed of the order.

    Returns:
        Pairs of a level and its repeat, counted from 0.
    """
    chance = random.Random(seed)  # noqa: S311 - a repeatable order, no secret
    order: list[tuple[Level, int]] = []
    for repeat in range(repeats):
        order += [(level, repeat) for level in chance.sample(levels, len(levels))]
    return order
