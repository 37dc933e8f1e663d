"""What a benchmark sends: frozen requests, the same for the same arguments, named by their sha256.

The texts come from ``text.py``; ``run.py`` sends them.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from ragops.bench.records import WorkloadInfo
from ragops.bench.text import Passage, Writer, count_words, cut, stemmed
from ragops.errors import BenchError

Form = Literal["natural", "stemmed"]

TOKENS_PER_WORD = 1.3
"""Tokens that a word of the source text costs, about; used to turn lengths in tokens into words."""

MOST_TOKENS_PER_WORD = 2.2
"""What a word may cost at most: long German ones, split up by a vocabulary made for English."""

RAGFLOW_WINDOW = ((64, 0.63), (66, 0.16), (70, 0.105), (90, 0.105))
"""Documents in one rerank call and their share: page sizes of 8, 6, 10 and 30.

Of RAGFlow v0.21.1 to v0.24 and from v0.26 on; v0.25 never sends more than 64."""

RAGFLOW_PAIR_TOKENS = ((0.0, 80), (0.1, 150), (0.5, 280), (0.9, 480), (0.99, 650), (1.0, 700))
"""Quantiles of the tokens of a query and a document together, for chunks of 512 tokens (an estimate)."""

_SHORTEST = 8

_Text = Annotated[str, Field(min_length=1)]


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Request:
    """One rerank call: a query and the documents to be sorted."""

    query: _Text
    documents: Annotated[tuple[_Text, ...], Field(min_length=1)]

    @property
    def words(self) -> int:
        """Mean words a document."""
        return round(sum(map(count_words, self.documents)) / len(self.documents))


@dataclass(frozen=True)
class Workload:
    """Requests in a fixed order.

    Args:
        name: Short name.
        profile: ``synthetic``, ``grid``, ``ragflow`` or ``own``.
        description: How it was made, with every number, so that it can be made again.
        seed: What the texts were drawn with; None for the user's own.
        requests: The requests.
        cut_to: Words of the longest pair where documents were cut for the model.
    """

    name: str
    profile: str
    description: str
    seed: int | None
    requests: tuple[Request, ...]
    cut_to: int | None = None

    def __post_init__(self) -> None:
        if not self.requests:
            raise BenchError("a workload needs at least one request")

    @cached_property
    def sha256(self) -> str:
        """Of the requests as JSON with sorted keys, no spaces, UTF-8; the name does not count."""
        content = [{"query": r.query, "documents": r.documents} for r in self.requests]
        text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def documents(self) -> int:
        """Documents in all requests together."""
        return sum(len(request.documents) for request in self.requests)

    def info(self) -> WorkloadInfo:
        """What ``run.json`` keeps of it."""
        count = len(self.requests)
        return WorkloadInfo(
            self.name, self.profile, self.description, self.seed, self.sha256, count, self.cut_to
        )


def synthetic(
    requests: int,
    documents: int,
    words: int,
    seed: int = 1,
    *,
    max_words: int | None = None,
    unique: bool = True,
) -> Workload:
    """Requests of one size.

    Args:
        requests: How many.
        documents: Documents in each.
        words: Words in each document.
        seed: What to draw the texts with.
        max_words: Longest query and document together, for a model with a short context; see
            :func:`words_for_context`.
        unique: New texts in every request; otherwise all requests are the same, which is the
            best case for the server's caches.

    Raises:
        BenchError: There are not so many different texts of that length.
    """
    writer = Writer(seed)
    drawn = [_drawn(writer, [words] * documents, max_words) for _ in range(requests if unique else 1)]
    texts = tuple(drawn if unique else drawn * requests)
    what = "new texts in every request" if unique else "the same request again and again"
    text = f"{requests} requests of {documents} documents of {words} words, {what}"
    return _made(f"synthetic-{documents}x{words}", "synthetic", text, seed, texts, max_words)


def grid(
    documents: tuple[int, ...],
    words: tuple[int, ...],
    each: int = 3,
    seed: int = 1,
    *,
    max_words: int | None = None,
) -> Workload:
    """Requests of every pair of a number of documents and a length, in mixed order.

    Args:
        documents: Numbers of documents.
        words: Words in each document.
        each: Requests of each pair.
        seed: What to draw the texts and the order with.
        max_words: As for :func:`synthetic`.
    """
    writer = Writer(seed)
    sizes = list(product(documents, words)) * each
    writer.chance.shuffle(sizes)
    requests = tuple(_drawn(writer, [length] * count, max_words) for count, length in sizes)
    text = f"{each} requests each of {_list(documents)} documents x {_list(words)} words"
    return _made(f"grid-{len(sizes)}", "grid", text, seed, requests, max_words)


def ragflow(
    requests: int = 100,
    seed: int = 1,
    *,
    form: Form = "natural",
    window: tuple[tuple[int, float], ...] = RAGFLOW_WINDOW,
    max_words: int | None = None,
) -> Workload:
    """Requests of the sizes that RAGFlow sends.

    The number of documents follows from the page size, see :data:`RAGFLOW_WINDOW`; their length
    from chunks of 512 tokens, see :data:`RAGFLOW_PAIR_TOKENS`.

    Args:
        requests: How many.
        seed: What to draw the texts with.
        form: ``natural`` text, as RAGFlow sends with Infinity as its document engine, or
            ``stemmed``, as it sends with the others.
        window: Documents in one call and their share, for a release or page size of your own.
        max_words: As for :func:`synthetic`. It makes the load lighter than RAGFlow's, and the
            description says so.
    """
    writer = Writer(seed)
    counts = [count for count, _ in window]
    shares = [share for _, share in window]
    drawn = writer.chance.choices(counts, weights=shares, k=requests)
    texts = tuple(_drawn_pairs(writer, count, form, max_words) for count in drawn)
    seen = Counter(drawn)
    windows = ", ".join(f"{seen[count]} of {count}" for count in counts)
    text = (
        f"{requests} requests ({windows} documents), {form} text, pairs of p50 280, p90 480, p99 650 tokens "
        f"at {TOKENS_PER_WORD} tokens a word"
    )
    return _made(f"ragflow-{form}", "ragflow", text, seed, texts, max_words)


def words_for_context(tokens: int, template: int = 0) -> int:
    """A ``max_words`` with which no pair is too long for a model.

    Args:
        tokens: The model's context, such as 256 for all-MiniLM-L6-v2.
        template: What the server's score template adds to a pair; 75 for Qwen3-Reranker.
    """
    spare = 8  # the number of the pass before the query, and the marks between the texts
    return max(1, int((tokens - template - spare) / MOST_TOKENS_PER_WORD))


def from_jsonl(path: Path | str) -> Workload:
    """The user's own requests.

    Args:
        path: A file with ``{"query": "...", "documents": ["...", ...]}`` on each line.

    Raises:
        BenchError: The file can't be read, or a line is of another form; the line is named.
    """
    file = Path(path)
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise BenchError(f"can't read {file}", evidence=str(error)) from error
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    requests = tuple(_parsed(file, number, line) for number, line in numbered)
    if not requests:
        raise BenchError(f"{file} holds no request", hint=_FORM)
    return Workload(file.stem, "own", f"{len(requests)} requests of the user's own", None, requests)


_REQUEST = TypeAdapter(Request)
_FORM = 'each line is {"query": "...", "documents": ["...", ...]}'


def _parsed(file: Path, number: int, line: bytes) -> Request:
    try:
        return _REQUEST.validate_json(line)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in detail["loc"])
        evidence = f"{where}: {detail['msg']}" if where else detail["msg"]
        raise BenchError(f"{file}:{number} is no request", evidence=evidence, hint=_FORM) from error


def _drawn(writer: Writer, lengths: list[int], max_words: int | None) -> Request:
    query = writer.query()
    room = _room(query, max_words)
    passages = [writer.passage(min(words, room)) for words in lengths]
    return Request(query, tuple(passage.text for passage in passages))


def _drawn_pairs(writer: Writer, count: int, form: Form, max_words: int | None) -> Request:
    query = writer.query()
    asked, room = count_words(query), _room(query, max_words)
    pairs = [_quantile(writer.chance.random()) / TOKENS_PER_WORD for _ in range(count)]
    passages = [writer.passage(min(max(round(pair) - asked, _SHORTEST), room)) for pair in pairs]
    return Request(query, tuple(_formed(passage, form, room) for passage in passages))


def _formed(passage: Passage, form: Form, room: int) -> str:
    return cut(stemmed(passage), room) if form == "stemmed" else passage.text


def _room(query: str, max_words: int | None) -> int:
    """Words that a document may have at most beside this query."""
    return sys.maxsize if max_words is None else max(1, max_words - count_words(query))


def _quantile(share: float) -> float:
    """Tokens of a pair at this share of all pairs, on straight lines between the known ones."""
    for (low, start), (high, end) in pairwise(RAGFLOW_PAIR_TOKENS):
        if share <= high:
            return start + (end - start) * (share - low) / (high - low)
    return RAGFLOW_PAIR_TOKENS[-1][1]


def _made(
    name: str, profile: str, text: str, seed: int, requests: tuple[Request, ...], max_words: int | None
) -> Workload:
    """The workload, which says so when the limit on words was reached."""
    if max_words is None or max(map(_longest, requests), default=0) < max_words:
        return Workload(name, profile, text, seed, requests)
    text = f"{text}; cut to {max_words} words a pair (max_words), so lighter than the sizes say"
    return Workload(name, profile, text, seed, requests, max_words)


def _longest(request: Request) -> int:
    """Words of the longest pair."""
    return count_words(request.query) + max(map(count_words, request.documents))


def _list(numbers: tuple[int, ...]) -> str:
    return "/".join(map(str, numbers))
