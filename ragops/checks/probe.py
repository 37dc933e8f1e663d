"""The layers of ``verify`` in their order, and which stands on which: one table; pure.

Asks from inside a container what it can reach, with what the container has.

Its own Python first (RAGFlow's, with RAGFlow's client library), else its curl, else a probe
container in its network namespace. The program that runs there is ``data/probe.py``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from ragops.docker.temporary import sidecar
from ragops.errors import EngineError
from ragops.ragflow.request import PLACEHOLDER_KEY, RERANK_TIMEOUT, RerankRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from ragops.docker.engine import Engine
    from ragops.docker.objects import ExecResult

Layer = Literal["dns", "tcp", "health", "routes", "models", "rerank", "scores", "budget", "exposure"]


@dataclass(frozen=True)
class Row:
    """One layer."""

    layer: Layer
    title: str
    needs: tuple[Layer, ...]
    """Layers without which it can't be asked; the failure of any other does not stop it."""
    proves: str
    by_hand: str = ""
    """How to ask it in the container without ragops; empty where nobody would."""


TABLE = (
    Row("dns", "name resolves", (), "both share a network", "getent hosts {host}"),
    Row(
        "tcp",
        "port answers",
        ("dns",),
        "the server listens, and not only on its own localhost",
        "curl http://{host}:8000",
    ),
    Row("health", "server is healthy", ("tcp",), "vLLM's engine is alive", "curl …:8000/health"),
    Row(
        "routes",
        "rerank is served",
        ("tcp",),
        "vLLM was started as a reranker; else the flags that are missing are named",
        "curl …:8000/openapi.json",
    ),
    Row(
        "models",
        "model is served",
        ("tcp",),
        "the name that RAGFlow will send is a served one",
        "curl …:8000/v1/models",
    ),
    Row(
        "rerank",
        "RAGFlow's call",
        ("tcp", "routes"),
        "one score for each document, and the right one first",
        "RAGFlow's own client library",
    ),
    Row("scores", "scores are right", ("rerank",), "see the checks below it"),
    Row("budget", "time is enough", ("rerank",), "see the checks below it"),
    Row("exposure", "nobody else gets in", (), "see the checks below it"),
)
"""In the order in which they are asked."""

TITLES: Mapping[Layer, str] = {row.layer: row.title for row in TABLE}
NEEDS: Mapping[Layer, tuple[Layer, ...]] = {row.layer: row.needs for row in TABLE}


def stopped_by(layer: Layer, broken: Collection[Layer]) -> Layer | None:
    """The first layer that this one needs and that failed, or was itself stopped."""
    return next((need for need in NEEDS[layer] if need in broken), None)


LAYERS: tuple[Layer, ...] = ("dns", "tcp", "health", "routes", "models", "rerank")
"""Those that are asked in one go; the HTTP ones don't wait for each other's answer to be right."""

PYTHONS = ("/ragflow/.venv/bin/python", "python3", "python")
"""RAGFlow's own interpreter first: it has RAGFlow's client library."""

_NOT_FOUND = (126, 127)
_CONNECT_TIMEOUT = 3.0
_LOOK_TIMEOUT = 10.0
_CURL_LAYER: Mapping[int, Layer] = {6: "dns", 7: "tcp"}
_CURL_TIMEOUT = 28
_CURL_FORM = r"\n%{http_code} %{redirect_url} %{content_type}"
_KEPT = 600


@dataclass(frozen=True)
class Question:
    """One POST to the reranker."""

    path: str
    """From the server's root, such as ``/v1/rerank``."""
    body: str
    """JSON."""


@dataclass(frozen=True)
class Reply:
    """What came back; ``ms`` in milliseconds."""

    status: int
    """HTTP status; 0 when nothing came back, and then the text says why."""
    text: str
    """JSON without the documents or the tokens that it repeats; else the first 600 characters."""
    ms: float = 0.0


@dataclass(frozen=True)
class Round:
    """Many questions, and how they are asked."""

    questions: tuple[Question, ...]
    """In the order in which they are asked."""
    seconds: float = 25.0
    """Time after which no further question is asked."""
    timeout: float = RERANK_TIMEOUT
    """Seconds that one of them may take."""
    at_once: int = 1
    """Questions under way, each over a connection of its own; 1 where they are timed."""
    needed: int = 1 << 30
    """How many of the questions have all that time; by default all."""
    spare: float = 0.0
    """Time after which none of the others is asked."""

    @property
    def patience(self) -> float:
        """Seconds after which nothing comes any more."""
        return self.seconds + 2 * self.timeout

    def order(self) -> dict[str, Any]:
        """What ``data/probe.py`` is told of it."""
        posts = [(one.path, one.body) for one in self.questions]
        times = {"seconds": self.seconds, "spare": self.spare, "timeout": self.timeout}
        return {**times, "needed": self.needed, "at_once": self.at_once, "posts": posts}


@dataclass(frozen=True)
class Step:
    """How one layer answered; ``ms`` in milliseconds.

    Of an HTTP answer that is not the wanted one the status, the type, the place that it leads to and
    the beginning of its body are kept.
    """

    ok: bool
    detail: str
    ms: float = 0.0
    error: str = ""
    """Name of the exception."""
    status: int = 0
    kind: str = ""
    location: str = ""
    text: str = ""


@dataclass(frozen=True)
class Answer:
    """What a container can reach. Layers that could not be asked are missing."""

    vehicle: str
    """``python``, ``curl`` or ``probe container``."""
    steps: Mapping[Layer, Step]
    paths: tuple[str, ...] = ()
    """Routes that the server lists."""
    models: tuple[str, ...] = ()
    client: str = ""
    """Library that makes the rerank call, such as ``cohere 5.6.2``."""
    scores: tuple[tuple[int, float], ...] = ()
    """(index, score) as answered."""
    replies: tuple[Reply, ...] | None = None
    """To the questions that were asked on the way; None when they were not."""


def ask_all(engine: Engine, container: str, image: str, base_url: str, asked: Round) -> tuple[Reply, ...]:
    """Ask many questions in one go from inside a container.

    Args:
        engine: Where the container runs.
        container: Its name or id; it must be running.
        image: An image with Python, for the probe container if one is needed.
        base_url: The reranker's address, as RAGFlow would be given it.
        asked: The questions.

    Returns:
        A reply for each question that was asked: fewer than there are when the time was over, or
        when one got no answer.
    """
    said = json.dumps({"base_url": base_url, "headers": RerankRequest.headers(), **asked.order()})
    done = _by_python(engine, container, program(), said, asked.patience)
    if done is None:
        with sidecar(engine, f"container:{container}", image) as probe:
            done = engine.execute(probe, ("python3", "-c", program()), stdin=said, timeout=asked.patience)
    return _replies(answered(done)["replies"])


def ask(  # noqa: PLR0913 - one keyword for each thing that may differ
    engine: Engine,
    container: str,
    image: str,
    base_url: str,
    request: RerankRequest,
    *,
    depth: int = len(LAYERS),
    connect_timeout: float = _CONNECT_TIMEOUT,
    beside: Round | None = None,
) -> Answer:
    """Try each layer from inside a container.

    Args:
        engine: Where the container runs.
        container: Its name or id; it must be running.
        image: An image with Python, for the probe container if one is needed.
        base_url: The reranker's address, as RAGFlow would be given it.
        request: The rerank call to make.
        depth: How many layers to try, from the name on.
        connect_timeout: Seconds for the port to answer.
        beside: More questions, asked on the way while RAGFlow's client library is loaded; curl asks none.
    """
    said = order(base_url, request, depth=depth, connect_timeout=connect_timeout, beside=beside)
    patience = 3 * RERANK_TIMEOUT + (beside.patience if beside else 0)
    done = _by_python(engine, container, program(), said, patience)
    if done is not None:
        return _read(done, "python")
    done = _execute(engine, container, ("curl", "--version"), "")
    if done is not None:
        return _by_curl(engine, container, base_url, request, depth)
    with sidecar(engine, f"container:{container}", image) as probe:
        argv = ("python3", "-c", program())
        return _read(engine.execute(probe, argv, stdin=said, timeout=patience), "probe container")


def order(
    base_url: str,
    request: RerankRequest,
    *,
    depth: int = len(LAYERS),
    connect_timeout: float = _CONNECT_TIMEOUT,
    timeout: float = RERANK_TIMEOUT,
    beside: Round | None = None,
) -> str:
    """What ``data/probe.py`` is told: the request's own bytes, and which layers stand on which."""
    asked = LAYERS[:depth]
    return json.dumps(
        {
            **(beside.order() if beside else {}),
            "base_url": base_url,
            "key": PLACEHOLDER_KEY,
            "headers": RerankRequest.headers(),
            "body": request.body().decode(),
            "timeout": timeout,
            "look_timeout": _LOOK_TIMEOUT,
            "connect_timeout": connect_timeout,
            "layers": [(one, [need for need in NEEDS[one] if need in {"dns", "tcp"}]) for one in asked],
        }
    )


def program() -> str:
    """The source of ``data/probe.py``."""
    return (resources.files("ragops.data") / "probe.py").read_text()


def _by_python(engine: Engine, container: str, program: str, said: str, patience: float) -> ExecResult | None:
    tries = (_execute(engine, container, (python, "-c", program), said, patience) for python in PYTHONS)
    return next((done for done in tries if done is not None), None)


def _execute(
    engine: Engine, container: str, argv: tuple[str, ...], stdin: str, patience: float = 2 * RERANK_TIMEOUT
) -> ExecResult | None:
    """The result, or None when the container has no such program."""
    try:
        done = engine.execute(container, argv, stdin=stdin, timeout=patience)
    except EngineError as error:
        if "executable file not found" in error.evidence or "no such file or directory" in error.evidence:
            return None
        raise
    return None if done.exit_code in _NOT_FOUND else done


def answered(done: ExecResult) -> Any:
    """The JSON that a program in a container wrote; an :class:`EngineError` with its last words if none."""
    try:
        return json.loads(done.stdout)
    except json.JSONDecodeError as error:
        raise EngineError(
            "the probe inside the container gave no answer",
            code="probe-silent",
            evidence=(done.stderr or done.stdout)[-600:],
            hint=f"it ended with exit code {done.exit_code}; does the container have a working Python?",
        ) from error


def _read(done: ExecResult, vehicle: str) -> Answer:
    said = answered(done)
    steps = said["steps"]
    return Answer(
        vehicle=vehicle,
        steps={name: _step(steps[name]) for name in LAYERS if name in steps},
        paths=tuple(steps.get("routes", {}).get("names", ())),
        models=tuple(steps.get("models", {}).get("names", ())),
        client=said["client"],
        scores=tuple((index, score) for index, score in steps.get("rerank", {}).get("scores", ())),
        replies=_replies(said["replies"]) if "replies" in said else None,
    )


def _replies(rows: Sequence[Mapping[str, Any]]) -> tuple[Reply, ...]:
    return tuple(_reply(one) for one in rows)


def _reply(raw: Mapping[str, Any]) -> Reply:
    return Reply(raw.get("status", 0), raw.get("text") or raw.get("detail", ""), raw["ms"])


def _step(raw: Mapping[str, Any]) -> Step:
    known = ("ok", "detail", "ms", "error", "status", "kind", "location", "text")
    return Step(**{"detail": "", **{name: raw[name] for name in known if name in raw}})


def _by_curl(engine: Engine, container: str, base_url: str, request: RerankRequest, depth: int) -> Answer:
    root = base_url.removesuffix(urlsplit(base_url).path)
    health = _curl(engine, container, f"{root}/health")
    if failed := _curl_failure(health):
        reached: dict[Layer, Step] = {name: Step(True, "") for name in LAYERS[: LAYERS.index(failed)]}
        return Answer("curl", {**reached, failed: _curl_step(health)})
    steps = {"dns": Step(True, "resolved by curl"), "tcp": Step(True, "connected by curl")}
    steps["health"] = _curl_health(health)
    found: dict[str, tuple[Any, ...]] = {}
    asked = (
        ("routes", f"{root}/openapi.json", "", lambda data: sorted(data["paths"])),
        ("models", f"{base_url}/models", "", lambda data: [one["id"] for one in data["data"]]),
        ("rerank", f"{base_url}/rerank", request.body().decode(), _pairs),
    )
    for name, url, body, pick in asked[: max(0, depth - len(steps))]:
        found[name], steps[name] = _curl_json(_curl(engine, container, url, body), pick)
    return Answer(
        "curl",
        {name: steps[name] for name in LAYERS if name in steps},
        paths=found.get("routes", ()),
        models=found.get("models", ()),
        client="curl",
        scores=found.get("rerank", ()),
    )


def _pairs(data: Any) -> list[tuple[int, float]]:
    return [(one["index"], one["relevance_score"]) for one in data["results"]]


def _curl_failure(done: ExecResult) -> Layer | None:
    """The layer below HTTP that curl failed in; one exit code stands for three kinds of time-out."""
    if done.exit_code == _CURL_TIMEOUT:
        if "Resolving" in done.stderr:
            return "dns"
        return "health" if "bytes received" in done.stderr else "tcp"
    return _CURL_LAYER.get(done.exit_code)


def _curl(engine: Engine, container: str, url: str, stdin: str = "") -> ExecResult:
    """One call past every proxy, as the Python program makes it; its last line tells of the answer."""
    times = ("--connect-timeout", f"{_CONNECT_TIMEOUT:g}", "--max-time", f"{RERANK_TIMEOUT:g}")
    headers = [f"{name}: {value}" for name, value in RerankRequest.headers().items()]
    sent = [part for header in headers for part in ("--header", header)]
    posted = ("--data-binary", "@-") if stdin else ()
    shown = ("--silent", "--show-error", "--noproxy", "*", "--write-out", _CURL_FORM)
    return engine.execute(container, ("curl", *shown, *times, *sent, *posted, url), stdin=stdin)


def _curl_step(done: ExecResult) -> Step:
    """What curl's exit code and the line below the body say."""
    if done.exit_code:
        return Step(False, done.stderr.strip(), error=f"curl exit code {done.exit_code}")
    text, _, line = done.stdout.rpartition("\n")
    status, location, kind = (*line.split(" ", 2), "", "")[:3]
    if status == "200":
        return Step(True, "HTTP 200", status=200, kind=kind, text=text)
    seen = f"HTTP {status}: {text[:300]}".rstrip(": ")
    return Step(False, seen, 0.0, "HttpError", int(status or 0), kind, location, text[:_KEPT])


def _curl_health(done: ExecResult) -> Step:
    step = _curl_step(done)
    is_page = step.ok and "html" in step.kind
    return replace(step, ok=False, detail="HTTP 200", error="HttpError") if is_page else step


def _curl_json(done: ExecResult, pick: Callable[[Any], list[Any]]) -> tuple[tuple[Any, ...], Step]:
    step = _curl_step(done)
    if not step.ok:
        return (), step
    try:
        return tuple(pick(json.loads(step.text))), Step(True, "answered")
    except (ValueError, KeyError, TypeError):
        seen = f"HTTP 200: {step.text[:300]}"
        return (), Step(False, seen, 0.0, "HttpError", 200, step.kind, "", step.text[:_KEPT])
