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
_CURL_LAYER = {6: "dns", 7: "tcp", 28: "tcp"}


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
    program = (resources.files("ragops.data") / "probe.py").read_text()
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
    for python in PYTHONS:
        done = _execute(engine, container, (python, "-c", program), order)
        if done is not None:
            return _read(done, "python")
    done = _execute(engine, container, ("curl", "--version"), "")
    if done is not None:
        return _by_curl(engine, container, base_url, request, depth)
    with engine.sidecar(f"container:{container}", image) as probe:
        return _read(engine.execute(probe, ("python3", "-c", program), stdin=order), "probe container")


def _execute(engine: Engine, container: str, argv: tuple[str, ...], stdin: str) -> ExecResult | None:
    """The result, or None when the container has no such program."""
    try:
        done = engine.execute(container, argv, stdin=stdin)
    except EngineError as error:
        if "executable file not found" in error.evidence or "no such file or directory" in error.evidence:
            return None
        raise
    return None if done.exit_code in _NOT_FOUND else done


def _read(done: ExecResult, vehicle: str) -> Answer:
    try:
        said = json.loads(done.stdout)
    except json.JSONDecodeError as error:
        raise EngineError(
            "the probe inside the container gave no answer",
            evidence=(done.stderr or done.stdout)[-600:],
            hint=f"it ended with exit code {done.exit_code}; does the container have a working Python?",
        ) from error
    steps = said["steps"]
    return Answer(
        vehicle=vehicle,
        steps={name: _step(steps[name]) for name in LAYERS if name in steps},
        models=tuple(steps.get("models", {}).get("names", ())),
        client=steps.get("rerank", {}).get("client", ""),
        scores=tuple((index, score) for index, score in steps.get("rerank", {}).get("scores", ())),
        proxies=said["proxies"],
    )


def _step(raw: Mapping[str, Any]) -> Step:
    return Step(raw["ok"], raw.get("detail", ""), raw.get("ms", 0.0), raw.get("error", ""))


def _by_curl(engine: Engine, container: str, base_url: str, request: RerankRequest, depth: int) -> Answer:
    root = base_url.removesuffix(urlsplit(base_url).path)
    steps: dict[Layer, Step] = {}
    health = _curl(engine, container, (f"{root}/health",))
    if health.exit_code in _CURL_LAYER:
        failed: Any = _CURL_LAYER[health.exit_code]
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
