"""Asks from inside a container what it can reach, with what the container has.

Its own Python first (RAGFlow's, with RAGFlow's client library), else its curl, else a probe
container in its network namespace. The program that runs there is ``data/probe.py``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from ragops.errors import EngineError
from ragops.ragflow.request import KEY, TIMEOUT, RerankRequest
from ragops.sidecar import sidecar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ragops.engine import Engine
    from ragops.state import ExecResult

Layer = Literal["dns", "tcp", "health", "models", "rerank"]
LAYERS: tuple[Layer, ...] = ("dns", "tcp", "health", "models", "rerank")

PYTHONS = ("/ragflow/.venv/bin/python", "python3", "python")
"""RAGFlow's own interpreter first: it has RAGFlow's client library."""

_NOT_FOUND = (126, 127)
_CONNECT_TIMEOUT = 3
_CURL_LAYER: Mapping[int, Layer] = {6: "dns", 7: "tcp"}
_CURL_TIMEOUT = 28


@dataclass(frozen=True)
class Step:
    """How one layer answered; ``ms`` in milliseconds."""

    ok: bool
    detail: str
    ms: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Answer:
    """What a container can reach. Layers after the first failure are missing."""

    vehicle: str
    """``python``, ``curl`` or ``probe container``."""
    steps: Mapping[Layer, Step]
    models: tuple[str, ...] = ()
    client: str = ""
    """Library that made the rerank call, such as ``cohere 5.6.2``."""
    scores: tuple[tuple[int, float], ...] = ()
    """(index, score) as answered."""
    proxies: Mapping[str, str] = field(default_factory=dict)


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


def ask_all(
    engine: Engine,
    container: str,
    image: str,
    base_url: str,
    questions: tuple[Question, ...],
    *,
    seconds: float = 25.0,
) -> tuple[Reply, ...]:
    """Ask many questions in one go from inside a container, over one connection.

    Args:
        engine: Where the container runs.
        container: Its name or id; it must be running.
        image: An image with Python, for the probe container if one is needed.
        base_url: The reranker's address, as RAGFlow would be given it.
        questions: In the order in which they are asked.
        seconds: Time after which no further question is asked.

    Returns:
        A reply for each question that was asked: fewer than there are when the time was over, or
        when one got no answer.
    """
    program = _program()
    posts = [(one.path, one.body) for one in questions]
    order = json.dumps(
        {"base_url": base_url, "key": KEY, "timeout": TIMEOUT, "seconds": seconds, "posts": posts}
    )
    done = _by_python(engine, container, program, order)
    if done is None:
        with sidecar(engine, f"container:{container}", image) as probe:
            done = engine.execute(probe, ("python3", "-c", program), stdin=order)
    return tuple(_reply(one) for one in _said(done)["replies"])


def ask(
    engine: Engine,
    container: str,
    image: str,
    base_url: str,
    request: RerankRequest,
    *,
    depth: int = len(LAYERS),
) -> Answer:
    """Try each layer from inside a container.

    Args:
        engine: Where the container runs.
        container: Its name or id; it must be running.
        image: An image with Python, for the probe container if one is needed.
        base_url: The reranker's address, as RAGFlow would be given it.
        request: The rerank call to make.
        depth: How many layers to try, from the name on.
    """
    program = _program()
    order = json.dumps(
        {
            "base_url": base_url,
            "key": KEY,
            "model": request.model,
            "query": request.query,
            "documents": request.documents,
            "timeout": TIMEOUT,
            "connect_timeout": _CONNECT_TIMEOUT,
            "depth": depth,
        }
    )
    done = _by_python(engine, container, program, order)
    if done is not None:
        return _read(done, "python")
    done = _execute(engine, container, ("curl", "--version"), "")
    if done is not None:
        return _by_curl(engine, container, base_url, request, depth)
    with sidecar(engine, f"container:{container}", image) as probe:
        return _read(engine.execute(probe, ("python3", "-c", program), stdin=order), "probe container")


def _program() -> str:
    return (resources.files("ragops.data") / "probe.py").read_text()


def _by_python(
    engine: Engine, container: str, program: str, order: str, patience: float = 2 * TIMEOUT
) -> ExecResult | None:
    tries = (_execute(engine, container, (python, "-c", program), order, patience) for python in PYTHONS)
    return next((done for done in tries if done is not None), None)


def _execute(
    engine: Engine, container: str, argv: tuple[str, ...], stdin: str, patience: float = 2 * TIMEOUT
) -> ExecResult | None:
    """The result, or None when the container has no such program."""
    try:
        done = engine.execute(container, argv, stdin=stdin, timeout=patience)
    except EngineError as error:
        if "executable file not found" in error.evidence or "no such file or directory" in error.evidence:
            return None
        raise
    return None if done.exit_code in _NOT_FOUND else done


def _said(done: ExecResult) -> Any:
    try:
        return json.loads(done.stdout)
    except json.JSONDecodeError as error:
        raise EngineError(
            "the probe inside the container gave no answer",
            evidence=(done.stderr or done.stdout)[-600:],
            hint=f"it ended with exit code {done.exit_code}; does the container have a working Python?",
        ) from error


def _read(done: ExecResult, vehicle: str) -> Answer:
    said = _said(done)
    steps = said["steps"]
    return Answer(
        vehicle=vehicle,
        steps={name: _step(steps[name]) for name in LAYERS if name in steps},
        models=tuple(steps.get("models", {}).get("names", ())),
        client=steps.get("rerank", {}).get("client", ""),
        scores=tuple((index, score) for index, score in steps.get("rerank", {}).get("scores", ())),
        proxies=said["proxies"],
    )


def _reply(raw: Mapping[str, Any]) -> Reply:
    return Reply(raw.get("status", 0), raw.get("text") or raw.get("detail", ""), raw["ms"])


def _step(raw: Mapping[str, Any]) -> Step:
    return Step(raw["ok"], raw.get("detail", ""), raw.get("ms", 0.0), raw.get("error", ""))


def _by_curl(engine: Engine, container: str, base_url: str, request: RerankRequest, depth: int) -> Answer:
    root = base_url.removesuffix(urlsplit(base_url).path)
    steps: dict[Layer, Step] = {}
    health = _curl(engine, container, (f"{root}/health",))
    if failed := _curl_failure(health):
        steps |= {name: Step(True, "") for name in LAYERS[: LAYERS.index(failed)]}
        return Answer("curl", {**steps, failed: Step(False, health.stderr.strip())})
    steps |= {"dns": Step(True, "resolved by curl"), "tcp": Step(True, "connected by curl")}
    steps["health"] = Step(health.exit_code == 0, health.stderr.strip() or "HTTP 200")
    if not steps["health"].ok or depth <= LAYERS.index("models"):
        return Answer("curl", steps)
    listed = _curl(engine, container, (f"{base_url}/models",))
    names, steps["models"] = _curl_json(listed, lambda data: tuple(one["id"] for one in data["data"]))
    if not steps["models"].ok:
        return Answer("curl", steps)
    post = ("--header", "Content-Type: application/json", "--data-binary", "@-", f"{base_url}/rerank")
    answered = _curl(engine, container, post, request.body().decode())
    scores, steps["rerank"] = _curl_json(
        answered, lambda data: tuple((one["index"], one["relevance_score"]) for one in data["results"])
    )
    return Answer("curl", steps, models=names, client="curl", scores=scores)


def _curl_failure(done: ExecResult) -> Layer | None:
    """The layer below HTTP that curl failed in; one exit code stands for three kinds of time-out."""
    if done.exit_code == _CURL_TIMEOUT:
        if "Resolving" in done.stderr:
            return "dns"
        return "health" if "bytes received" in done.stderr else "tcp"
    return _CURL_LAYER.get(done.exit_code)


def _curl(engine: Engine, container: str, argv: tuple[str, ...], stdin: str = "") -> ExecResult:
    timeouts = ("--connect-timeout", str(_CONNECT_TIMEOUT), "--max-time", str(int(TIMEOUT)))
    key = ("--header", f"Authorization: Bearer {KEY}")
    return engine.execute(
        container,
        ("curl", "--silent", "--show-error", "--fail-with-body", *timeouts, *key, *argv),
        stdin=stdin,
    )


def _curl_json(done: ExecResult, pick: Any) -> tuple[Any, Step]:
    if done.exit_code:
        return (), Step(False, f"{done.stderr.strip()} {done.stdout[:300]}".strip())
    try:
        return pick(json.loads(done.stdout)), Step(True, "answered")
    except (ValueError, KeyError, TypeError):
        return (), Step(False, f"not the expected JSON: {done.stdout[:200]}")
