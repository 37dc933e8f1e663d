"""Least recently used scores."""

from collections import OrderedDict


class ScoreCache(OrderedDict[bytes, tuple[float, bool]]):
    """Scores by a digest of all that they depend on, each with whether its document was cut."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit, self.hits, self.misses = limit, 0, 0

    def find(self, key: bytes) -> tuple[float, bool] | None:
        """The score, which is now the most recently used."""
        if key in self:
            self.move_to_end(key)
        return self.get(key)

    def store(self, key: bytes, score: float, *, cut: bool) -> None:
        """Add a score in place of the least recently used."""
        self[key] = (score, cut)
        self.move_to_end(key)
        if len(self) > self.limit:
            self.popitem(last=False)
