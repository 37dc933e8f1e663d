"""Least recently used scores."""

from collections import OrderedDict

Score = tuple[float, bool]
"""A document's score, and whether the document was cut for it."""


class ScoreCache(OrderedDict[bytes, Score]):
    """Scores by a digest of all that they depend on."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit, self.hits, self.misses = limit, 0, 0

    def find(self, key: bytes) -> Score | None:
        """The score, which is now the most recently used."""
        if key in self:
            self.move_to_end(key)
        return self.get(key)

    def store(self, key: bytes, score: Score) -> None:
        """Add a score in place of the least recently used."""
        self[key] = score
        self.move_to_end(key)
        if len(self) > self.limit:
            self.popitem(last=False)
