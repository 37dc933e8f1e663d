"""Texts of generated workloads, as written or stemmed as by RAGFlow's tokenizer.

Number and length of the documents in RAGFlow's rerank requests; pure.

The lengths are an estimate from chunks of 512 tokens and one published trace of RAGFlow's requests.

Workloads: reproducible requests, identified by their sha256; ``text.py`` generates the texts.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.resources import files
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass as checked_dataclass

from ragops.bench.records import WorkloadInfo
from ragops.errors import BenchError, file_errors
from ragops.ragflow import releases

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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


Form = Literal["natural", "stemmed"]

MOST_TOKENS_PER_WORD = 2.2
"""Upper bound: long German words, split by a vocabulary for English."""

_SHORTEST = 8

_Text = Annotated[str, Field(min_length=1)]


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Request:
    """One rerank request: a query and its documents."""

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
        description: How it was generated, with all parameters.
        seed: Seed of the texts; None for the user's own.
        requests: The requests.
        cut_to: Words of the longest pair where documents were truncated for the model.
        cut_documents: Number of truncated documents.
        release: Release of RAGFlow with this window; empty for others.
        recipe: JSON for :func:`again`; empty for the user's own texts.
    """

    name: str
    profile: str
    description: str
    seed: int | None
    requests: tuple[Request, ...]
    cut_to: int | None = None
    cut_documents: int = 0
    release: str = ""
    recipe: str = ""

    def __post_init__(self) -> None:
        if not self.requests:
            raise BenchError("a workload needs at least one request", code="workload-refused")

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
        """Its entry in ``run.json``."""
        words = sum(count_words(request.query) * len(request.documents) for request in self.requests)
        return WorkloadInfo(
            name=self.name,
            profile=self.profile,
            description=self.description,
            seed=self.seed,
            sha256=self.sha256,
            requests=len(self.requests),
            cut_to=self.cut_to,
            cut_documents=self.cut_documents,
            documents=self.documents,
            query_words=round(words / self.documents, 2),
            release=self.release,
            recipe=self.recipe,
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
        requests: Number of requests.
        documents: Documents in each.
        words: Words in each document.
        seed: Seed of the texts.
        max_words: Longest query and document together, for a model with a short context; see
            :func:`words_for_context`.
        unique: New texts in every request; otherwise all requests are the same, the best case for
            caches.

    Raises:
        BenchError: There are not so many different texts of that length.
    """
    writer = Writer(seed)
    drawn = [_drawn(writer, [words] * documents, max_words) for _ in range(requests if unique else 1)]
    texts = tuple(drawn if unique else drawn * requests)
    what = "new texts in every request" if unique else "the same request again and again"
    text = f"{requests} requests of {documents} documents of {words} words, {what}"
    made = Workload(f"synthetic-{documents}x{words}", "synthetic", text, seed, texts)
    recipe = {"requests": requests, "documents": documents, "words": words, "unique": unique}
    return _finished(made, max_words, recipe)


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
        seed: Seed of the texts and the order.
        max_words: As for :func:`synthetic`.
    """
    writer = Writer(seed)
    sizes = list(product(documents, words)) * each
    writer.chance.shuffle(sizes)
    requests = tuple(_drawn(writer, [length] * count, max_words) for count, length in sizes)
    text = f"{each} requests each of {_list(documents)} documents x {_list(words)} words"
    made = Workload(f"grid-{len(sizes)}", "grid", text, seed, requests)
    return _finished(made, max_words, {"documents": documents, "words": words, "each": each})


def ragflow(  # noqa: PLR0913 - one keyword for each thing that may differ
    requests: int = 100,
    seed: int = 1,
    *,
    form: Form = "natural",
    window: tuple[tuple[int, float], ...] | None = None,
    release: str = "",
    page_size: int | None = None,
    tail: float = 0.0,
    max_words: int | None = None,
) -> Workload:
    """Requests of the sizes that RAGFlow sends.

    The number of documents follows from release and page size, see
    :func:`ragops.bench.workload.windows`; their length from chunks of 512 tokens, see
    :data:`ragops.bench.workload.RAGFLOW_PAIR_TOKENS`.

    Args:
        requests: Number of requests.
        seed: Seed of the texts.
        form: ``natural`` text, as RAGFlow sends with Infinity as its document engine, or
            ``stemmed``, as it sends with the others.
        window: Documents in one request and their fraction; otherwise the release's.
        release: Such as ``v0.25.3``; the newest window when left out.
        page_size: RAGFlow's page size; a mixture when None.
        tail: Fraction of documents of 2,000 to 8,000 tokens.
        max_words: As for :func:`synthetic`; makes the load lighter than RAGFlow's, as the description
            says.

    Raises:
        RagflowError: The release is not known.
    """
    writer = Writer(seed)
    window = window or (windows(release, page_size) if release else RAGFLOW_WINDOW)
    counts = [count for count, _ in window]
    shares = [share for _, share in window]
    drawn = writer.chance.choices(counts, weights=shares, k=requests)
    texts = tuple(_drawn_pairs(writer, count, form, max_words, tail) for count in drawn)
    counted = Counter(drawn)
    sent = ", ".join(f"{counted[count]} of {count}" for count in counts)
    long = f", {tail:.1%} of {TAIL_TOKENS[0]} to {TAIL_TOKENS[1]} tokens" if tail else ""
    text = (
        f"{requests} requests ({sent} documents), {form} text, pairs of p50 280, p90 480, p99 650 tokens"
        f"{long} at {TOKENS_PER_WORD} tokens a word"
    )
    made = Workload(f"ragflow-{form}", "ragflow", text, seed, texts, release=release)
    recipe = {"requests": requests, "form": form, "window": window, "release": release, "tail": tail}
    return _finished(made, max_words, recipe)


def again(info: WorkloadInfo) -> Workload:
    """The workload of a recorded run, generated again.

    Raises:
        BenchError: Its texts were the user's own, or this release of ragops generates others.
    """
    makers: dict[str, Callable[..., Workload]] = {"synthetic": synthetic, "grid": grid, "ragflow": ragflow}
    if info.profile not in makers or not info.recipe:
        raise BenchError(
            f"the texts of {info.name} can't be generated again",
            code="run-not-continued",
            evidence=f"its profile is {info.profile}",
            hint="give them: ragops bench --resume RUN --workload FILE",
        )
    arguments = {name: _frozen(value) for name, value in json.loads(info.recipe).items()}
    made = makers[info.profile](**arguments)
    if made.sha256 != info.sha256:
        raise BenchError(
            f"the texts of {info.name} are generated differently by this release of ragops",
            code="run-not-continued",
            evidence=f"sha256 {made.sha256[:12]}, the run has {info.sha256[:12]}",
            hint="resume with the release that recorded the run",
        )
    return made


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def words_for_context(tokens: int, template: int = 0) -> int:
    """A ``max_words`` with which no pair exceeds a model's context.

    Args:
        tokens: The model's context, such as 256 for all-MiniLM-L6-v2.
        template: Tokens that the score template adds to a pair; 75 for Qwen3-Reranker.
    """
    spare = 9  # the prefix of the trial, and special tokens
    return max(1, int((tokens - template - spare) / MOST_TOKENS_PER_WORD))


def from_jsonl(path: Path | str) -> Workload:
    """The user's own requests.

    Args:
        path: A file with ``{"query": "...", "documents": ["...", ...]}`` on each line.

    Raises:
        BenchError: The file can't be read, or a line is of another form; the line is named.
    """
    file = Path(path)
    with file_errors(BenchError, f"can't read {file}", file, code="workload-refused"):
        lines = file.read_bytes().splitlines()
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    requests = tuple(_parsed(file, number, line) for number, line in numbered)
    if not requests:
        raise BenchError(f"{file} has no request", code="workload-refused", hint=_FORM, file=file)
    return Workload(file.stem, "own", f"{len(requests)} requests of the user's own", None, requests)


_REQUEST = TypeAdapter(Request)
_FORM = 'each line is {"query": "...", "documents": ["...", ...]}'


def _parsed(file: Path, number: int, line: bytes) -> Request:
    what = f"{file}:{number} is not a request"
    with file_errors(BenchError, what, file, code="workload-refused", hint=_FORM):
        return _REQUEST.validate_json(line)


def _drawn(writer: Writer, lengths: list[int], max_words: int | None) -> Request:
    query = writer.query()
    room = _room(query, max_words)
    passages = [writer.passage(min(words, room)) for words in lengths]
    return Request(query, tuple(passage.text for passage in passages))


def _drawn_pairs(writer: Writer, count: int, form: Form, max_words: int | None, tail: float) -> Request:
    query = writer.query()
    words, room = count_words(query), _room(query, max_words)
    pairs = [pair_tokens(writer.chance, tail) / TOKENS_PER_WORD for _ in range(count)]
    passages = [writer.passage(min(max(round(pair) - words, _SHORTEST), room)) for pair in pairs]
    return Request(query, tuple(_formed(passage, form, room) for passage in passages))


def _formed(passage: Passage, form: Form, room: int) -> str:
    return cut(stemmed(passage), room) if form == "stemmed" else passage.text


def _room(query: str, max_words: int | None) -> int:
    """Most words of a document with this query."""
    return sys.maxsize if max_words is None else max(1, max_words - count_words(query))


def _finished(made: Workload, max_words: int | None, recipe: Mapping[str, object]) -> Workload:
    """With its recipe, and a note where the limit on words was reached."""
    whole = {**recipe, "seed": made.seed, "max_words": max_words}
    made = replace(made, recipe=json.dumps(whole, separators=(",", ":")))
    cut = sum(_cut(request, max_words) for request in made.requests) if max_words else 0
    if not cut:
        return made
    text = f"{made.description}; cut to {max_words} words a pair (max_words), so lighter than the sizes say"
    return replace(made, description=text, cut_to=max_words, cut_documents=cut)


def _cut(request: Request, max_words: int) -> int:
    """Documents that reach the limit."""
    words = count_words(request.query)
    return sum(words + count_words(text) >= max_words for text in request.documents)


def _list(numbers: tuple[int, ...]) -> str:
    return "/".join(map(str, numbers))
