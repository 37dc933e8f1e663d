"""Number and length of the documents in RAGFlow's rerank requests; pure.

The lengths are an estimate from chunks of 512 tokens and one published trace of RAGFlow's requests.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING

from ragops.ragflow import releases

if TYPE_CHECKING:
    import random

TOKENS_PER_WORD = 1.3
"""Tokens of a word of the source text, about; converts lengths in tokens into words."""

PAGES = ((8, 0.63), (6, 0.16), (10, 0.105), (30, 0.105))
"""Page sizes and their fraction: chats and agents as they are set, chats made through the API, the test
page, and the retrieval API."""

RAGFLOW_WINDOW = ((64, 0.63), (66, 0.16), (70, 0.105), (90, 0.105))
"""Documents in one rerank request and their fraction: page sizes of 8, 6, 10 and 30.

Of RAGFlow v0.21.1 to v0.24 and from v0.26 on; v0.25 never sends more than 64."""

RAGFLOW_PAIR_TOKENS = ((0.0, 80), (0.1, 150), (0.5, 280), (0.9, 480), (0.99, 650), (1.0, 700))
"""Quantiles of the tokens of a query and a document together, for chunks of 512 tokens (an estimate)."""

TAIL = 0.001
"""Fraction of documents longer than the chunk size, such as tables and laws (an estimate)."""

TAIL_TOKENS = (2000, 8000)
"""Their length, from and to."""


def windows(release: str, page_size: int | None = None) -> tuple[tuple[int, float], ...]:
    """Documents in one request and their fraction, for a release.

    Args:
        release: Such as ``v0.25.3``.
        page_size: RAGFlow's page size; :data:`PAGES` in their fractions when None.

    Raises:
        RagflowError: The release is not known.
    """
    contract, shares = releases.of(release), defaultdict[int, float](float)
    for page, share in PAGES if page_size is None else ((page_size, 1.0),):
        shares[releases.window(contract, page)] += share
    return tuple((count, round(share, 6)) for count, share in shares.items())


def pair_tokens(chance: random.Random, tail: float) -> float:
    """Random tokens of a query and a document together."""
    if tail and chance.random() < tail:
        return chance.uniform(*TAIL_TOKENS)
    return _quantile(chance.random())


def _quantile(share: float) -> float:
    """Tokens of a pair at this quantile, by linear interpolation."""
    for (low, start), (high, end) in pairwise(RAGFLOW_PAIR_TOKENS):
        if share <= high:
            return start + (end - start) * (share - low) / (high - low)
    return RAGFLOW_PAIR_TOKENS[-1][1]
