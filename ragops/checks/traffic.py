"""Rerank requests like RAGFlow's: texts, number and length of documents, reproducible by their seed.

The texts come from ``data/workload.txt``, as written or stemmed as by RAGFlow's tokenizer. The lengths are an
estimate from chunks of 512 tokens and one published trace of RAGFlow's requests. ``checks/budget.py`` and
:mod:`ragops.bench.workload` use this module.
"""

import random
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from itertools import pairwise
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass

from ragops.errors import BenchError
from ragops.ragflow import releases
from ragops.ragflow.releases import Form

_WORD = re.compile(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+(?:['-][^\W\u4e00-\u9fff]+)*")
_BETWEEN_CHINESE = re.compile(r"(?<=[\u4e00-\u9fff]) (?=[\u4e00-\u9fff])")
_SUFFIXES = (
    "ization", "ational", "ations", "ation", "ments", "ment", "ness", "ings", "ing", "edly", "ed",
    "ies", "ers", "er", "es", "ly", "al", "s", "e",
)  # fmt: skip
_TRIES = 100


@dataclass(frozen=True)
class Topic:
    """One part of the source text; ``{n}`` in its lines is replaced by a number."""

    title: str
    questions: tuple[str, ...]
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Passage:
    """A document and the title of its file."""

    title: str
    text: str


@cache
def topics() -> tuple[Topic, ...]:
    """The source text that ships with ragops."""
    source = files("ragops").joinpath("data/workload.txt").read_text(encoding="utf-8")
    blocks = []
    for block in source.strip().split("\n\n"):
        title, *lines = block.splitlines()
        questions = tuple(line[2:] for line in lines if line.startswith("? "))
        sentences = tuple(line for line in lines if not line.startswith(("? ", "# ")))
        blocks.append(Topic(title.removeprefix("# "), questions, sentences))
    return tuple(blocks)


def count_words(text: str) -> int:
    """Words of a text; a Chinese character counts as one."""
    return len(_WORD.findall(text))


def cut(text: str, words: int) -> str:
    """The text up to the end of its n-th word."""
    for number, word in enumerate(_WORD.finditer(text), start=1):
        if number == words:
            return text[: word.end()]
    return text


@lru_cache(maxsize=16_384)
def stem(word: str) -> str:
    """One suffix off a word in lower case, three letters at least being left; a last y becomes i.

    Far simpler than the Porter stemmer that RAGFlow uses, but it shortens words about as much,
    which is what matters for the number of tokens.
    """
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word[: -len(suffix)]
            break
    return f"{word[:-1]}i" if len(word) > 2 and word.endswith("y") else word


def stemmed(passage: Passage) -> str:
    """A passage as RAGFlow sends it to a reranker.

    In lower case, without punctuation, stemmed, the words of the title behind it.

    Source: ``search.py`` of RAGFlow v0.27.0, which joins ``content_ltks`` and ``title_tks``.
    """
    words = _WORD.findall(f"{passage.text} {passage.title}".lower())
    parts = [stem(part) for word in words for part in re.split(r"['-]", word)]
    return _BETWEEN_CHINESE.sub("", " ".join(parts))


def table(passage: Passage) -> str:
    """A passage as an HTML table, as RAGFlow v0.27.2 and later send one: four cells of five words in a row.

    It has 1.9 times the tokens of the plain text in Qwen3's vocabulary, and 2.3 times in BERT's (measured).
    """
    words = passage.text.split()
    cells = [f"<td>{' '.join(words[place : place + 5])}</td>" for place in range(0, len(words), 5)]
    rows = (f"<tr>{''.join(cells[place : place + 4])}</tr>" for place in range(0, len(cells), 4))
    return f"<table><caption>{passage.title}</caption>{''.join(rows)}</table>"


class Writer:
    """Generates queries and documents, none twice; the same seed gives the same texts."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - a repeatable workload, no secret
        self._seen: set[str] = set()

    def query(self) -> str:
        """One to three questions about one topic."""
        return self._new(self._query)

    def passage(self, words: int) -> Passage:
        """A document of exactly this many words, which continues with the next topics."""
        start = self.chance.randrange(len(topics()))
        title = topics()[start].title
        return Passage(title, self._new(lambda: self._passage(start, words)))

    def _query(self) -> str:
        topic = self.chance.choice(topics())
        count = self.chance.choices((1, 2, 3), weights=(75, 20, 5))[0]
        chosen = self.chance.sample(topic.questions, min(count, len(topic.questions)))
        return self._filled(" ".join(chosen))

    def _passage(self, start: int, words: int) -> str:
        parts = [f"{topics()[start].title}, section {self._number()}.{self._number()}."]
        count = count_words(parts[0])
        while count < words:
            topic = topics()[(start + len(parts) - 1) % len(topics())]
            parts.append(self._filled(" ".join(self.chance.sample(topic.sentences, len(topic.sentences)))))
            count += count_words(parts[-1])
        return cut(" ".join(parts), words)

    def _filled(self, text: str) -> str:
        return re.sub(r"\{n\}", lambda _: str(self._number()), text)

    def _number(self) -> int:
        return self.chance.randrange(2, 1000)

    def _new(self, draw: Callable[[], str]) -> str:
        for _ in range(_TRIES):
            text = draw()
            if text not in self._seen:
                self._seen.add(text)
                return text
        raise BenchError(
            f"no new text after {_TRIES} attempts",
            code="workload-refused",
            evidence=f"the last text: {text[:80]!r}",
            hint="use longer or fewer documents",
        )


TOKENS_PER_WORD = 1.3
"""Tokens of a word of the source text, about; converts lengths in tokens into words."""

PAGES = ((8, 0.63), (6, 0.16), (10, 0.105), (30, 0.105))
"""Page sizes and their fraction: chats and agents as they are set, chats made through the API, the test
page, and the retrieval API."""

RAGFLOW_PAIR_TOKENS = ((0.0, 80), (0.1, 150), (0.5, 280), (0.9, 480), (0.99, 650), (1.0, 700))
"""Quantiles of the tokens of a query and a document together, for chunks of 512 tokens (an estimate)."""

TAIL = 0.001
"""Fraction of documents longer than the chunk size, such as tables and laws (an estimate)."""

TAIL_TOKENS = (2000, 8000)
"""Their length, from and to."""


def windows(release: str, page_size: int | None = None) -> tuple[tuple[int, float], ...]:
    """Documents in one request and their fraction, for a release; by default of :data:`PAGES`."""
    contract, shares = releases.of_or_nearest(release), defaultdict[int, float](float)
    for page, share in PAGES if page_size is None else ((page_size, 1.0),):
        shares[releases.window(contract, page)] += share
    return tuple((count, round(share, 6)) for count, share in shares.items())


def pair_tokens(chance: random.Random, tail: float) -> float:
    """Random tokens of a query and a document together."""
    if tail and chance.random() < tail:
        return chance.uniform(*TAIL_TOKENS)
    share, parts = chance.random(), pairwise(RAGFLOW_PAIR_TOKENS)
    (low, start), (high, end) = next(part for part in parts if share <= part[1][0])
    return start + (end - start) * (share - low) / (high - low)


MOST_TOKENS_PER_WORD = 2.2
"""Upper bound: long German words, split by a vocabulary for English."""

TABLES = 10
"""One of so many documents with markup is a table (an estimate)."""

_SHORTEST = 8


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Request:
    """One rerank request: a query and its documents."""

    query: Annotated[str, Field(min_length=1)]
    documents: Annotated[tuple[str, ...], Field(min_length=1)]

    @property
    def words(self) -> int:
        """Mean words a document, at least 1."""
        return max(1, round(sum(map(count_words, self.documents)) / len(self.documents)))


def ragflow_requests(
    count: int,
    seed: int,
    *,
    form: Form,
    window: Sequence[tuple[int, float]],
    tail: float = 0.0,
    max_words: int | None = None,
) -> tuple[Request, ...]:
    """Requests of the sizes that RAGFlow sends, reproducible by their seed.

    ``window`` has numbers of documents in one request and their fraction, ``tail`` is the fraction of
    documents of 2,000 to 8,000 tokens, ``max_words`` the longest query and document together.
    """
    writer = Writer(seed)
    documents, fractions = zip(*window, strict=True)
    sizes = writer.chance.choices(documents, fractions, k=count)
    return tuple(_request(writer, size, form, max_words, tail) for size in sizes)


def _request(writer: Writer, size: int, form: Form, max_words: int | None, tail: float) -> Request:
    query = writer.query()
    words, limit = count_words(query), document_words(query, max_words)
    pairs = [pair_tokens(writer.chance, tail) / TOKENS_PER_WORD for _ in range(size)]
    passages = [writer.passage(min(max(round(pair) - words, _SHORTEST), limit)) for pair in pairs]
    if form == "stemmed":
        return Request(query, tuple(cut(stemmed(passage), limit) for passage in passages))
    texts = [passage.text for passage in passages]
    if form == "markup":  # a word of a table has up to 2.8 tokens in BERT's vocabulary
        texts[TABLES - 1 :: TABLES] = [cut(table(p), limit * 3 // 4) for p in passages[TABLES - 1 :: TABLES]]
    return Request(query, tuple(texts))


def document_words(query: str, max_words: int | None) -> int:
    """Most words of a document with this query, where both together have at most ``max_words``."""
    return sys.maxsize if max_words is None else max(1, max_words - count_words(query))


def count_cut(requests: Sequence[Request], max_words: int) -> int:
    """Number of documents that reach ``max_words`` together with their query."""
    pairs = ((request.query, text) for request in requests for text in request.documents)
    return sum(count_words(query) + count_words(text) >= max_words for query, text in pairs)


def words_for_context(tokens: int, template: int = 0) -> int:
    """A ``max_words`` with which no pair exceeds a model's context, of which a score template has a part."""
    spare = 9  # the prefix of the trial, and special tokens
    return max(1, int((tokens - template - spare) / MOST_TOKENS_PER_WORD))
