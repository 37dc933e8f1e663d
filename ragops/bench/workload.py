"""Workloads: reproducible requests, identified by their sha256; pure.

:func:`ragflow`, :func:`synthetic` and :func:`grid` generate a :class:`Workload`, :func:`from_jsonl` reads the
user's own, :func:`regenerate` repeats that of a recorded run. ``checks/traffic.py`` writes the texts.
Recorded runs name the sha256: the order of the random draws must not change.
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ragops.bench.records import WorkloadInfo
from ragops.checks import traffic
from ragops.errors import BenchError, file_errors
from ragops.ragflow import releases
from ragops.ragflow.releases import Form

MAX_LINE = 16 << 20

_LINE_FORM = 'each line is {"query": "...", "documents": ["...", ...]}'


@dataclass(frozen=True)
class Workload:
    """Requests in a fixed order.

    Args:
        name: Short name.
        profile: ``synthetic``, ``grid``, ``ragflow`` or ``own``.
        description: How it was generated.
        seed: Seed of the texts; None for the user's own.
        requests: The requests.
        cut_to: Words of the longest pair where documents were truncated for the model.
        cut_documents: Number of truncated documents.
        release: Release of RAGFlow with this window; empty for others.
        recipe: JSON for :func:`regenerate`; empty for the user's own texts.

    Raises:
        BenchError: There is no request.
    """

    name: str
    profile: str
    description: str
    seed: int | None
    requests: tuple[traffic.Request, ...]
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
        fields: dict[str, Any] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields |= {"requests": len(self.requests), "documents": self.documents, "sha256": self.sha256}
        return WorkloadInfo(**fields)


def synthetic(
    requests: int, documents: int, words: int, seed: int = 1, *, max_words: int | None = None
) -> Workload:
    """Requests of one size, with new texts in every request.

    Args:
        requests: Number of requests.
        documents: Documents in each.
        words: Words in each document.
        seed: Seed of the texts.
        max_words: Longest query and document together, for a model with a short context; see
            :func:`ragops.checks.traffic.words_for_context`.

    Raises:
        BenchError: There are not so many different texts of that length.
    """
    writer = traffic.Writer(seed)
    texts = tuple(_request(writer, [words] * documents, max_words) for _ in range(requests))
    text = f"{requests} requests of {documents} documents of {words} words, new texts in every request"
    workload = Workload(f"synthetic-{documents}x{words}", "synthetic", text, seed, texts)
    return _with_recipe(workload, max_words, {"requests": requests, "documents": documents, "words": words})


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
    writer = traffic.Writer(seed)
    sizes = list(product(documents, words)) * each
    writer.chance.shuffle(sizes)
    requests = tuple(_request(writer, [length] * count, max_words) for count, length in sizes)
    counts, lengths = ("/".join(map(str, numbers)) for numbers in (documents, words))
    text = f"{each} requests each of {counts} documents x {lengths} words"
    workload = Workload(f"grid-{len(sizes)}", "grid", text, seed, requests)
    return _with_recipe(workload, max_words, {"documents": documents, "words": words, "each": each})


def ragflow(  # noqa: PLR0913 - one keyword for each thing that may differ
    requests: int = 100,
    seed: int = 1,
    *,
    form: Form | None = None,
    window: tuple[tuple[int, float], ...] | None = None,
    release: str = "",
    page_size: int | None = None,
    tail: float = 0.0,
    max_words: int | None = None,
) -> Workload:
    """Requests of the sizes that RAGFlow sends.

    The number of documents follows from release and page size, see
    :func:`ragops.checks.traffic.windows`; their length from chunks of 512 tokens, see
    :data:`ragops.checks.traffic.RAGFLOW_PAIR_TOKENS`.

    Args:
        requests: Number of requests.
        seed: Seed of the texts.
        form: ``natural``, ``stemmed`` or ``markup`` text (:mod:`ragops.ragflow.releases`); the usual
            one of the release when left out, and ``natural`` without a release.
        window: Documents in one request and their fraction; otherwise the release's.
        release: Such as ``v0.25.3``; the window of v0.27.0 when left out.
        page_size: RAGFlow's page size; a mixture when None.
        tail: Fraction of documents of 2,000 to 8,000 tokens.
        max_words: As for :func:`synthetic`; makes the load lighter than RAGFlow's, as the description
            says.

    Raises:
        RagflowError: The text is not a release's name.
    """
    form = form or (releases.of_or_nearest(release).texts[0] if release else "natural")
    window = window or traffic.windows(release or "v0.27.0", page_size)
    texts = traffic.ragflow_requests(requests, seed, form=form, window=window, tail=tail, max_words=max_words)
    sizes = Counter(len(request.documents) for request in texts)
    sent = ", ".join(f"{sizes[count]} of {count}" for count, _ in window)
    long = f", {tail:.1%} of {traffic.TAIL_TOKENS[0]} to {traffic.TAIL_TOKENS[1]} tokens" if tail else ""
    text = (
        f"{requests} requests ({sent} documents), {form} text, pairs of p50 280, p90 480, p99 650 tokens"
        f"{long} at {traffic.TOKENS_PER_WORD} tokens a word"
    )
    workload = Workload(f"ragflow-{form}", "ragflow", text, seed, texts, release=release)
    recipe = {"requests": requests, "form": form, "window": window, "release": release, "tail": tail}
    return _with_recipe(workload, max_words, recipe)


def regenerate(info: WorkloadInfo) -> Workload:
    """The workload of a recorded run, generated again.

    Raises:
        BenchError: Its texts were the user's own, or this release of ragops generates others.
    """
    generators: dict[str, Callable[..., Workload]]
    generators = {"synthetic": synthetic, "grid": grid, "ragflow": ragflow}
    code = "run-not-continued"
    if info.profile not in generators or not info.recipe:
        hint = "name the file with them: --workload FILE"
        raise BenchError(f"the texts of {info.name} can't be generated again", code=code, hint=hint)
    arguments = {name: _as_tuple(value) for name, value in json.loads(info.recipe).items()}
    arguments.pop("unique", None)  # earlier runs have it
    workload = generators[info.profile](**arguments)
    if workload.sha256 != info.sha256:
        what = f"the texts of {info.name} are generated differently by this release of ragops"
        evidence = f"sha256 {workload.sha256[:12]}, the run has {info.sha256[:12]}"
        hint = "use the release of ragops that recorded the run"
        raise BenchError(what, code=code, evidence=evidence, hint=hint)
    return workload


def from_jsonl(path: Path | str) -> Workload:
    """The user's own requests.

    Args:
        path: A regular file with ``{"query": "...", "documents": ["...", ...]}`` on each line, of at most
            :data:`MAX_LINE` bytes.

    Raises:
        BenchError: The file can't be read, or a line is of another form; the line is named.
    """
    file, requests, code = Path(path), [], "workload-refused"
    with file_errors(BenchError, f"can't read {file}", file, code=code, hint=_LINE_FORM):
        if file.exists() and not file.is_file():
            raise OSError("it is not a regular file")
        with file.open("rb") as stream:
            for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE + 1), b""), start=1):
                what = f"{file}:{number} is not a request"
                with file_errors(BenchError, what, file, code=code, hint=_LINE_FORM):
                    if len(line) > MAX_LINE:
                        raise ValueError(f"the line is longer than {MAX_LINE >> 20} MiB")
                    if line.strip():
                        requests.append(_REQUEST.validate_json(line))
    if not requests:
        raise BenchError(f"{file} has no request", code=code, hint=_LINE_FORM, file=file)
    text = f"{len(requests)} requests of the user's own"
    return Workload(file.stem, "own", text, None, tuple(requests))


_REQUEST = TypeAdapter(traffic.Request)


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def _request(writer: traffic.Writer, lengths: list[int], max_words: int | None) -> traffic.Request:
    query = writer.query()
    limit = traffic.document_words(query, max_words)
    return traffic.Request(query, tuple(writer.passage(min(words, limit)).text for words in lengths))


def _with_recipe(workload: Workload, max_words: int | None, recipe: Mapping[str, object]) -> Workload:
    """With its recipe, and a note where documents were truncated to the limit on words."""
    arguments = {**recipe, "seed": workload.seed, "max_words": max_words}
    workload = replace(workload, recipe=json.dumps(arguments, separators=(",", ":")))
    if max_words is None or not (truncated := traffic.count_cut(workload.requests, max_words)):
        return workload
    note = f"cut to {max_words} words a pair (max_words), so lighter than the sizes say"
    text = f"{workload.description}; {note}"
    return replace(workload, description=text, cut_to=max_words, cut_documents=truncated)
