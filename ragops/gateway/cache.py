"""Least recently used scores."""

from collections import OrderedDict


class ScoreCache:
    """Scores by a digest of all that they depend on, and which documents were cut."""

    def __init__(self, limit: int) -> None:
        self.limit, self.hits, self.misses = limit, 0, 0
        self.scores: OrderedDict[bytes, float] = OrderedDict()
        self.cut: set[bytes] = set()

    def get(self, key: bytes) -> float | None:
        """The score, which is now the most recently used."""
        if key in self.scores:
            self.scores.move_to_end(key)
        return self.scores.get(key)

    def store(self, key: bytes, score: float, *, cut: bool) -> None:
        """Add a score in place of the least recently used."""
        self.scores[key] = score
        self.scores.move_to_end(key)
        if cut:
            self.cut.add(key)
        if len(self.scores) > self.limit:
            self.cut.discard(self.scores.popitem(last=False)[0])

    def clear(self) -> None:
        """Drop all scores: the model has changed."""
        self.scores.clear()
        self.cut.clear()
