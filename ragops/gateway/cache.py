"""Least recently used scores."""

from __future__ import annotations

from collections import OrderedDict


class ScoreCache:
    """Scores by a digest of query, document and whatever else they depend on; ``limit`` 0 stores none."""

    def __init__(self, limit: int) -> None:
        self.limit, self.hits, self.misses = limit, 0, 0
        self._scores: OrderedDict[bytes, float] = OrderedDict()
        self._truncated: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._scores)

    def get(self, key: bytes) -> float | None:
        """The score, which is now the most recently used."""
        score = self._scores.get(key)
        if score is not None:
            self._scores.move_to_end(key)
        return score

    def truncated(self, key: bytes) -> bool:
        """Whether the document was cut before it was ranked."""
        return key in self._truncated

    def store(self, key: bytes, score: float, *, truncated: bool) -> None:
        """Add a score; the least recently used one makes way."""
        if not self.limit:
            return
        self._scores[key] = score
        self._scores.move_to_end(key)
        if truncated:
            self._truncated.add(key)
        if len(self._scores) > self.limit:
            oldest, _ = self._scores.popitem(last=False)
            self._truncated.discard(oldest)

    def clear(self) -> None:
        """Forget all scores: the model has changed."""
        self._scores.clear()
        self._truncated.clear()
