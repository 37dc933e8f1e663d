"""Layers of ``ragops verify``, and the probe that tests them from inside a container.

The program ``data/probe.py`` runs in the container's own Python (RAGFlow's, with RAGFlow's client library),
else curl does, else a probe container in its network namespace. ``connection.py`` judges the result.
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
    from collections.abc import Callable, Collection, Mapping

    from ragops.docker.engine import Engine
    from ragops.docker.objects import ExecResult

Layer = Literal["dns", "tcp", "health", "routes", "models", "rerank", "scores", "budget", "exposure"]


@dataclass(frozen=True)
class LayerInfo:
    """One layer."""

    layer: Layer
    title: str
    needs: tuple[Layer, ...]
    """Layers whose failure stops this one; the failure of any other does not."""
    proves: str
    by_hand: str = ""
    """A command for it in the container, without ragops; empty where there is none."""


TABLE = (
    LayerInfo("dns", "name resolves", (), "both share a network", "getent hosts {host}"),
    LayerInfo(
        "tcp",
        "port answers",
        ("dns",),
        "the server listens, and not only on its own localhost",
        "curl http://{host}:8000",
    ),
    LayerInfo("health", "server is healthy", ("tcp",), "vLLM's engine is alive", "curl …:8000/health"),
    LayerInfo(
        "routes",
        "rerank is served",
        ("tcp",),
        "vLLM was started as a reranker; else the flags that are missing are named",
        "curl …:8000/openapi.json",
    ),
    LayerInfo(
        "models",
        "model is served",
        ("tcp",),
        "the name that RAGFlow will send is a served one",
        "curl …:8000/v1/models",
    ),
    LayerInfo(
        "rerank",
        "RAGFlow's call",
        ("tcp", "routes"),
        "one score for each document, and the right one first",
        "RAGFlow's own client library",
    ),
    LayerInfo("scores", "scores are right", ("rerank",), "see the checks below it"),
    LayerInfo("budget", "time is enough", ("rerank",), "see the checks below it"),
    LayerInfo("exposure", "no other access", (), "see the checks below it"),
)
"""In the order in which they are tested."""

TITLES: Mapping[Layer, str] = {row.layer: row.title for row in TABLE}
NEEDS: Mapping[Layer, tuple[Layer, ...]] = {row.layer: row.needs for row in TABLE}
LAYERS: tuple[Layer, ...] = ("dns", "tcp", "health", "routes", "models", "rerank")
"""Those that one run of the probe tests; the HTTP ones do not depend on each other's result."""

PYTHONS = ("/ragflow/.venv/bin/python", "python3", "python")
"""RAGFlow's own interpreter first: it has RAGFlow's client library."""

_NOT_FOUND = (126, 127)
_CONNECT_TIMEOUT = 3.0
_GET_TIMEOUT = 10.0
_CURL_LAYER: Mapping[int, Layer] = {6: "dns", 7: "tcp"}
_CURL_TIMEOUT = 28
_CURL_FORMAT = r"\n%{http_code} %{redirect_url} %{content_type}"
_BODY_LENGTH = 600


def stopped_by(layer: Layer, failed: Collection[Layer]) -> Layer | None:
    """The first layer that this one needs and that failed, or was itself stopped."""
    return next((need for need in NEEDS[layer] if need in failed), None)


@dataclass(frozen=True)
class ProbeRequest:
    """One POST to the reranker."""

    path: str
    """From the server's root, such as ``/v1/rerank``."""
    body: str
    """JSON."""


@dataclass(frozen=True)
class ProbeResponse:
    """Its response; ``ms`` in milliseconds."""

    status: int
    """HTTP status; 0 without a response, and then the text is the reason."""
    text: str
    """JSON without the documents and tokens that it repeats; else the first 600 characters."""
    ms: float = 0.0


@dataclass(frozen=True)
class Batch:
    """Requests that one run of the probe sends, with time limits in seconds."""

    requests: tuple[ProbeRequest, ...]
    """In the order in which they are sent."""
    seconds: float = 25.0
    """Time after which no further request is sent."""
    timeout: float = RERANK_TIMEOUT
    """Timeout of one request."""
    at_once: int = 1
    """Concurrent requests, each over its own connection; 1 where they are timed."""
    needed: int = 1 << 30
    """How many of the requests have all that time; by default all."""
    spare: float = 0.0
    """Time after which none of the others is sent."""

    @property
    def deadline(self) -> float:
        """Time after which the probe has ended."""
        return self.seconds + 2 * self.timeout

    def to_input(self) -> dict[str, Any]:
        """Its part of the input of ``data/probe.py``."""
        return {
            "seconds": self.seconds,
            "spare": self.spare,
            "timeout": self.timeout,
            "needed": self.needed,
            "at_once": self.at_once,
            "posts": [(request.path, request.body) for request in self.requests],
        }


@dataclass(frozen=True)
class Step:
    """Result of one layer; ``ms`` in milliseconds.

    Of an HTTP response that is not the expected one it has status, content type, location and the beginning
    of the body.
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
class ProbeResult:
    """What a container can reach. Layers that could not be tested are missing."""

    transport: str
    """``python``, ``curl`` or ``probe container``."""
    steps: Mapping[Layer, Step]
    paths: tuple[str, ...] = ()
    """Routes that the server lists."""
    models: tuple[str, ...] = ()
    client: str = ""
    """Library that makes the rerank request, such as ``cohere 5.6.2``."""
    scores: tuple[tuple[int, float], ...] = ()
    """(index, score) in the order of the response."""
    responses: tuple[ProbeResponse, ...] | None = None
    """To the extra requests; None when they were not sent."""


def send_batch(
    engine: Engine, container: str, image: str, base_url: str, batch: Batch
) -> tuple[ProbeResponse, ...]:
    """Send many requests from inside a container.

    Args:
        engine: The Docker engine.
        container: Name or id of a running container.
        image: An image with Python, for the probe container if one is needed.
        base_url: The reranker's address, as RAGFlow has it.
        batch: The requests.

    Returns:
        A response for each request that was sent: fewer than requests when the time was over, or when one
        got no response.
    """
    stdin = json.dumps({"base_url": base_url, "headers": RerankRequest.headers(), **batch.to_input()})
    output = _run_python(engine, container, stdin, batch.deadline)
    if output is None:
        output = _run_probe_container(engine, container, image, stdin, batch.deadline)
    return _responses(parse_output(output)["responses"])


def run_probe(  # noqa: PLR0913 - one keyword for each thing that may differ
    engine: Engine,
    container: str,
    image: str,
    base_url: str,
    request: RerankRequest,
    *,
    depth: int = len(LAYERS),
    extra: Batch | None = None,
) -> ProbeResult:
    """Test each layer from inside a container.

    Args:
        engine: The Docker engine.
        container: Name or id of a running container.
        image: An image with Python, for the probe container if one is needed.
        base_url: The reranker's address, as RAGFlow has it.
        request: The rerank request to send.
        depth: Number of layers to test, from the name on.
        extra: More requests, sent while RAGFlow's client library is imported; curl sends none.
    """
    stdin = probe_input(base_url, request, depth=depth, extra=extra)
    timeout = 3 * RERANK_TIMEOUT + (extra.deadline if extra else 0)
    output = _run_python(engine, container, stdin, timeout)
    if output is not None:
        return _parse_result(output, "python")
    if _execute(engine, container, ("curl", "--version"), "") is not None:
        return _probe_with_curl(engine, container, base_url, request, depth)
    output = _run_probe_container(engine, container, image, stdin, timeout)
    return _parse_result(output, "probe container")


def probe_input(
    base_url: str,
    request: RerankRequest,
    *,
    depth: int = len(LAYERS),
    connect_timeout: float = _CONNECT_TIMEOUT,
    timeout: float = RERANK_TIMEOUT,
    extra: Batch | None = None,
) -> str:
    """JSON that ``data/probe.py`` reads: the request's own bytes, and the layers that each layer needs."""
    needs = {layer: [need for need in NEEDS[layer] if need in {"dns", "tcp"}] for layer in LAYERS[:depth]}
    return json.dumps(
        {
            **(extra.to_input() if extra else {}),
            "base_url": base_url,
            "key": PLACEHOLDER_KEY,
            "headers": RerankRequest.headers(),
            "body": request.body().decode(),
            "timeout": timeout,
            "get_timeout": _GET_TIMEOUT,
            "connect_timeout": connect_timeout,
            "layers": list(needs.items()),
        }
    )


def program() -> str:
    """The source of ``data/probe.py``."""
    return (resources.files("ragops.data") / "probe.py").read_text()


def parse_output(output: ExecResult) -> Any:
    """The JSON that a program in a container wrote.

    Raises:
        EngineError: It wrote none; the evidence is the end of its error output.
    """
    try:
        return json.loads(output.stdout)
    except json.JSONDecodeError as error:
        raise EngineError(
            "the probe inside the container wrote no result",
            code="probe-silent",
            evidence=(output.stderr or output.stdout)[-600:],
            hint=f"it ended with exit code {output.exit_code}; does the container have a working Python?",
        ) from error


def _run_python(engine: Engine, container: str, stdin: str, timeout: float) -> ExecResult | None:
    for python in PYTHONS:
        output = _execute(engine, container, (python, "-c", program()), stdin, timeout)
        if output is not None:
            return output
    return None


def _run_probe_container(
    engine: Engine, container: str, image: str, stdin: str, timeout: float
) -> ExecResult:
    with sidecar(engine, f"container:{container}", image) as name:
        return engine.execute(name, ("python3", "-c", program()), stdin=stdin, timeout=timeout)


def _execute(
    engine: Engine, container: str, argv: tuple[str, ...], stdin: str, timeout: float = 2 * RERANK_TIMEOUT
) -> ExecResult | None:
    """The result, or None when the container has no such program."""
    try:
        output = engine.execute(container, argv, stdin=stdin, timeout=timeout)
    except EngineError as error:
        if "executable file not found" in error.evidence or "no such file or directory" in error.evidence:
            return None
        raise
    return None if output.exit_code in _NOT_FOUND else output


def _parse_result(output: ExecResult, transport: str) -> ProbeResult:
    data = parse_output(output)
    steps = data["steps"]
    return ProbeResult(
        transport=transport,
        steps={layer: _step(steps[layer]) for layer in LAYERS if layer in steps},
        paths=tuple(steps.get("routes", {}).get("names", ())),
        models=tuple(steps.get("models", {}).get("names", ())),
        client=data["client"],
        scores=tuple((index, score) for index, score in steps.get("rerank", {}).get("scores", ())),
        responses=_responses(data["responses"]) if "responses" in data else None,
    )


def _responses(rows: list[dict[str, Any]]) -> tuple[ProbeResponse, ...]:
    return tuple(
        ProbeResponse(row.get("status", 0), row.get("text") or row.get("detail", ""), row["ms"])
        for row in rows
    )


def _step(raw: Mapping[str, Any]) -> Step:
    known = ("ok", "detail", "ms", "error", "status", "kind", "location", "text")
    return Step(**{"detail": "", **{name: raw[name] for name in known if name in raw}})


def _probe_with_curl(
    engine: Engine, container: str, base_url: str, request: RerankRequest, depth: int
) -> ProbeResult:
    root = base_url.removesuffix(urlsplit(base_url).path)
    health = _curl(engine, container, f"{root}/health")
    if failed := _curl_failure(health):
        steps = {layer: Step(True, "") for layer in LAYERS[: LAYERS.index(failed)]}
        return ProbeResult("curl", {**steps, failed: _curl_step(health)})
    step = _curl_step(health)
    if step.ok and "html" in step.kind:
        step = replace(step, ok=False, detail="HTTP 200", error="HttpError")
    steps = {"dns": Step(True, "resolved by curl"), "tcp": Step(True, "connected by curl"), "health": step}
    values: dict[Layer, tuple[Any, ...]] = {}
    requests: tuple[tuple[Layer, str, str, Callable[[Any], list[Any]]], ...] = (
        ("routes", f"{root}/openapi.json", "", lambda data: sorted(data["paths"])),
        ("models", f"{base_url}/models", "", lambda data: [model["id"] for model in data["data"]]),
        ("rerank", f"{base_url}/rerank", request.body().decode(), _index_score_pairs),
    )
    for layer, url, body, parse in requests[: max(0, depth - len(steps))]:
        values[layer], steps[layer] = _curl_json(_curl(engine, container, url, body), parse)
    return ProbeResult(
        "curl",
        steps,
        paths=values.get("routes", ()),
        models=values.get("models", ()),
        client="curl",
        scores=values.get("rerank", ()),
    )


def _index_score_pairs(data: Any) -> list[tuple[int, float]]:
    return [(row["index"], row["relevance_score"]) for row in data["results"]]


def _curl_failure(output: ExecResult) -> Layer | None:
    """The layer below HTTP that curl failed in; one exit code stands for three kinds of timeout."""
    if output.exit_code == _CURL_TIMEOUT:
        if "Resolving" in output.stderr:
            return "dns"
        return "health" if "bytes received" in output.stderr else "tcp"
    return _CURL_LAYER.get(output.exit_code)


def _curl(engine: Engine, container: str, url: str, stdin: str = "") -> ExecResult:
    """One request past every proxy, as the Python program sends it; status and type are in the last line."""
    times = ("--connect-timeout", f"{_CONNECT_TIMEOUT:g}", "--max-time", f"{RERANK_TIMEOUT:g}")
    headers: list[str] = []
    for name, value in RerankRequest.headers().items():
        headers += ["--header", f"{name}: {value}"]
    body = ("--data-binary", "@-") if stdin else ()
    options = ("--silent", "--show-error", "--noproxy", "*", "--write-out", _CURL_FORMAT)
    return engine.execute(container, ("curl", *options, *times, *headers, *body, url), stdin=stdin)


def _curl_step(output: ExecResult) -> Step:
    if output.exit_code:
        return Step(False, output.stderr.strip(), error=f"curl exit code {output.exit_code}")
    text, _, line = output.stdout.rpartition("\n")
    status, location, kind = (*line.split(" ", 2), "", "")[:3]
    if status == "200":
        return Step(True, "HTTP 200", status=200, kind=kind, text=text)
    detail = f"HTTP {status}: {text[:300]}".rstrip(": ")
    return Step(False, detail, 0.0, "HttpError", int(status or 0), kind, location, text[:_BODY_LENGTH])


def _curl_json(output: ExecResult, parse: Callable[[Any], list[Any]]) -> tuple[tuple[Any, ...], Step]:
    step = _curl_step(output)
    if not step.ok:
        return (), step
    try:
        return tuple(parse(json.loads(step.text))), Step(True, "answered")
    except (ValueError, KeyError, TypeError):
        detail = f"HTTP 200: {step.text[:300]}"
        return (), Step(False, detail, 0.0, "HttpError", 200, step.kind, "", step.text[:_BODY_LENGTH])
