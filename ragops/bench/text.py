"""Texts of generated workloads, as written or stemmed as by RAGFlow's tokenizer."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from ragops.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable

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
    return tuple(_topic(block.splitlines()) for block in source.strip().split("\n\n"))


def _topic(lines: list[str]) -> Topic:
    questions = tuple(line[2:] for line in lines if line.startswith("? "))
    sentences = tuple(line for line in lines if not line.startswith(("? ", "# ")))
    return Topic(lines[0].removeprefix("# "), questions, sentences)


def count_words(text: str) -> int:
    """Words of a text; a Chinese character counts as one."""
    return sum(1 for _ in _WORD.finditer(text))


def cut(text: str, words: int) -> str:
    """The text up to the end of its n-th word."""
    for number, word in enumerate(_WORD.finditer(text), start=1):
        if number == words:
            return text[: word.end()]
    return text


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


class Writer:
    """Generates queries and documents, none twice.

    Args:
        seed: The same seed gives the same texts.
    """

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
        text = f"{topics()[start].title}, section {self._number()}.{self._number()}."
        place = start
        while count_words(text) < words:
            topic = topics()[place % len(topics())]
            body = self.chance.sample(topic.sentences, len(topic.sentences))
            text = f"{text} {self._filled(' '.join(body))}"
            place += 1
        return cut(text, words)

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
            f"no new text after {_TRIES} draws",
            code="workload-refused",
            evidence=f"the last one drawn: {text[:80]!r}",
            hint="ask for longer documents or fewer of them, or for unique=False",
        )
