"""The golden set: queries with documents of which the right ones are known.

``data/golden/README.md`` says how it was written and reviewed. A document has two forms: as written, and as
RAGFlow's tokenizer leaves it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import zip_longest
from typing import TYPE_CHECKING, Literal

from ragops.checks.traffic import Passage, stemmed

if TYPE_CHECKING:
    from collections.abc import Iterable

Form = Literal["natural", "ragflow"]
Kind = Literal["right", "near-duplicate", "hard", "other"]

LANGUAGES = ("en", "de", "zh")


@dataclass(frozen=True)
class Document:
    """One document of an item."""

    title: str
    text: str
    kind: Kind
    """``near-duplicate`` is the right sentence with another number, thing or negation; ``hard``
    shares words with the query; ``other`` is from another field."""

    @property
    def right(self) -> bool:
        """Whether it answers the query."""
        return self.kind == "right"

    def written(self, form: Form) -> str:
        """The text to send.

        Args:
            form: ``natural`` is the title, a newline and the text. ``ragflow`` is lower case without
                punctuation, stemmed, the title's words behind the text's; Chinese stays unspaced.
        """
        if form == "ragflow":
            return stemmed(Passage(self.title, self.text))
        return f"{self.title}\n{self.text}"


@dataclass(frozen=True)
class Item:
    """A query and its six to ten documents, in random order."""

    id: str
    lang: str
    domain: str
    query: str
    documents: tuple[Document, ...]

    def texts(self, form: Form = "natural") -> tuple[str, ...]:
        """All documents as they are sent."""
        return tuple(document.written(form) for document in self.documents)


@cache
def load() -> tuple[Item, ...]:
    """The whole set, in the order of the file."""
    text = files("ragops").joinpath("data/golden/golden.jsonl").read_text(encoding="utf-8")
    return tuple(_item(line) for line in text.splitlines())


def subset(counts: Iterable[tuple[str, int]]) -> tuple[Item, ...]:
    """A number of items of each language, spread evenly over the file; always the same ones.

    The languages alternate, so that the first few items have some of each.

    Args:
        counts: Pairs of a language and a number of items.
    """
    rounds = zip_longest(*(_spread(lang, count) for lang, count in counts))
    return tuple(item for items in rounds for item in items if item)


def _spread(lang: str, count: int) -> tuple[Item, ...]:
    items = [item for item in load() if item.lang == lang]
    size = min(count, len(items))
    return tuple(items[number * len(items) // size] for number in range(size))


def _item(line: str) -> Item:
    raw = json.loads(line)
    documents = tuple(Document(row["title"], row["text"], row["kind"]) for row in raw["documents"])
    return Item(raw["id"], raw["lang"], raw["domain"], raw["query"], documents)
