"""Layers of ``ragops verify``, and the probe that tests them from inside a container.

The program ``data/probe.py`` runs in the container's own Python (RAGFlow's, with RAGFlow's client library),
else in a probe container in its network namespace. The client of RAGFlow in Go can't be run: there curl or
wget of the container, if it has one, sends its request. ``connection.py`` judges the result.
"""

import json
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import resources
from typing import Any, Literal, NamedTuple

from ragops.docker.engine import Engine, sidecar
from ragops.docker.objects import ExecResult
from ragops.errors import EngineError
from ragops.ragflow.releases import Client
from ragops.ragflow.request import CLIENT, PLACEHOLDER_KEY, RERANK_TIMEOUT, RerankRequest

Layer = Literal["dns", "tcp", "health", "routes", "models", "rerank", "scores", "budget", "exposure"]

_TABLE: tuple[tuple[Layer, str, tuple[Layer, ...]], ...] = (
    ("dns", "name resolves", ()),
    ("tcp", "port answers", ("dns",)),
    ("health", "server is healthy", ("tcp",)),
    ("routes", "rerank is served", ("tcp",)),
    ("models", "model is served", ("tcp",)),
    ("rerank", "RAGFlow's call", ("tcp", "routes")),
    ("scores", "scores are right", ("rerank",)),
    ("budget", "time is enough", ("rerank",)),
    ("exposure", "no other access", ()),
)
TITLES = {layer: title for layer, title, _ in _TABLE}
"""Title of each layer, in the order in which they are tested."""
NEEDS = {layer: needs for layer, _, needs in _TABLE}
"""Layers whose failure stops a layer; the failure of any other does not."""
LAYERS = tuple(TITLES)[:6]
"""Layers that one run of the probe tests; the HTTP layers are independent of each other."""

PYTHONS = ("/ragflow/.venv/bin/python", "python3", "python")
"""RAGFlow's own interpreter first: it has RAGFlow's client library."""

CLIENTS = {
    "curl": (("curl", "-sS", "--noproxy", "*"), "--data-raw"),
    "busybox wget": (("busybox", "wget", "-Y", "off", "-O", "-"), "--post-data"),  # Debian's crashes at -T
    "wget": (("wget", "-nv", "-t", "1", "--no-proxy", "-O", "-"), "--post-data"),
}
"""Programs that send RAGFlow's request past any proxy, and their option for the body."""

STRICT = {"Prefer": "handling=strict"}
"""Headers with which the gateway ranks every document whole, by a replica, or refuses the request."""
UNCACHED = {"Cache-Control": "no-cache"}
"""Headers with which the gateway uses no score of an earlier request."""

_NOT_FOUND = (126, 127)
_NO_PROGRAM = ("executable file not found", "no such file or directory")
_CONNECT_TIMEOUT = 3.0
_GET_TIMEOUT = 10.0


def stopped_by(layer: Layer, failed: Collection[Layer]) -> Layer | None:
    """The first layer that this one needs and that failed, or was itself stopped."""
    return next((need for need in NEEDS[layer] if need in failed), None)


class ProbeRequest(NamedTuple):
    """One POST to the reranker."""

    path: str
    body: str


@dataclass(frozen=True)
class ProbeResponse:
    """Response to a :class:`ProbeRequest`; ``ms`` is its time in milliseconds."""

    status: int
    """HTTP status; 0 without a response, ``text`` is the reason then."""
    text: str
    """JSON without its copies of documents and tokens; if it is not JSON, the first 600 characters."""
    ms: float = 0.0
    ranked: str = ""
    """Documents with a replica's score and all, such as ``28/64``; empty without a gateway."""
    truncated: int = 0
    """Documents of which the gateway sent a part only."""


@dataclass(frozen=True)
class Batch:
    """Requests that one run of the probe sends, with time limits in seconds: input of ``data/probe.py``."""

    posts: tuple[ProbeRequest, ...]
    seconds: float = 25.0
    """Time after which no further request is sent."""
    timeout: float = RERANK_TIMEOUT
    at_once: int = 1
    """Number of concurrent requests, each over its own connection; 1 for timed requests."""
    needed: int = 1 << 30
    """Number of requests at the start of the batch that may use all of ``seconds``; by default all."""
    spare: float = 0.0
    """Time after which no request beyond ``needed`` is sent."""
    post_headers: Mapping[str, str] = field(default_factory=dict)
    """Headers beside those of RAGFlow's client, such as :data:`STRICT`."""

    @property
    def deadline(self) -> float:
        """Time by which the probe must have ended."""
        return self.seconds + 2 * self.timeout


@dataclass(frozen=True)
class Step:
    """Result of one layer; ``ms`` in milliseconds.

    For an unexpected HTTP response it has status, content type, location and the beginning of the body.
    """

    ok: bool
    detail: str = ""
    ms: float = 0.0
    error: str = ""
    status: int = 0
    kind: str = ""
    location: str = ""
    text: str = ""
    names: Sequence[str] = ()
    """Routes of the server, or its models."""
    scores: Sequence[tuple[int, float]] = ()
    """(index, score) in the order of the response."""


@dataclass(frozen=True)
class ProbeResult:
    """Result of each layer that could be tested from inside a container."""

    transport: str
    """``python`` or ``probe container``."""
    steps: Mapping[Layer, Step]
    client: str = ""
    """Library or program that makes the rerank request, such as ``cohere 5.6.2`` or ``curl``."""
    responses: Mapping[int, ProbeResponse] = field(default_factory=dict)
    """By the place of the request in the batch; only requests that were sent have one."""


def send_batch(  # noqa: PLR0913, PLR0917 - where, what and as which client
    engine: Engine,
    container: str,
    image: str,
    base_url: str,
    batch: Batch,
    client: Client = CLIENT,
    key: str = PLACEHOLDER_KEY,
) -> dict[int, ProbeResponse]:
    """Send many requests of a client from inside a running container; ``image`` as in :func:`run_probe`.

    The responses are by the place of their request: not all when the time was over, or one got no
    response.
    """
    headers = RerankRequest("", client=client, key=key).headers()
    stdin = json.dumps({"base_url": base_url, "headers": headers, **asdict(batch)})
    output, _ = _run(engine, container, image, stdin, batch.deadline)
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
    """Test the first ``depth`` layers from inside a running container; with an empty name from this host.

    ``image`` is one with Python, for the probe container if one is needed. The requests in ``extra`` are
    sent while RAGFlow's client library is imported.
    """
    stdin = probe_input(base_url, request, depth=depth, extra=extra)
    timeout = 3 * RERANK_TIMEOUT + (extra.deadline if extra else 0)
    output, transport = _run(engine, container, image, stdin, timeout)
    result = parse_result(output, transport)
    ranks = "rerank" in result.steps and result.steps["rerank"].ok
    is_secret = request.key != PLACEHOLDER_KEY  # arguments of a program can be read by others
    if request.client.language == "Python" or not ranks or not container or is_secret:
        return result
    return _sent_inside(engine, container, base_url, request, result)


def probe_input(
    base_url: str,
    request: RerankRequest,
    *,
    depth: int = len(LAYERS),
    connect_timeout: float = _CONNECT_TIMEOUT,
    timeout: float = RERANK_TIMEOUT,
    extra: Batch | None = None,
) -> str:
    """Input of ``data/probe.py``: the rerank request, and the layers that each layer depends on."""
    needs = {layer: [need for need in NEEDS[layer] if need in {"dns", "tcp"}] for layer in LAYERS[:depth]}
    return json.dumps(
        {
            **({**asdict(extra), "post_timeout": extra.timeout} if extra else {}),
            "base_url": base_url,
            "key": request.key,
            "headers": request.headers(),
            "cohere": request.client.language == "Python",
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
    """Parse the JSON that a program in a container wrote."""
    try:
        return json.loads(output.stdout)
    except json.JSONDecodeError as error:
        raise EngineError(
            "the probe inside the container wrote no result",
            code="probe-silent",
            evidence=(output.stderr or output.stdout)[-600:],
            hint=f"it ended with exit code {output.exit_code}; does the container have a working Python?",
        ) from error


def parse_result(output: ExecResult, transport: str) -> ProbeResult:
    """Parse the output of the probe."""
    data = parse_output(output)
    known = [field.name for field in fields(Step)]
    steps = {
        layer: Step(**{name: raw[name] for name in known if name in raw})
        for layer, raw in data["steps"].items()
    }
    return ProbeResult(transport, steps, data["client"], _responses(data.get("responses", [])))


def _run(engine: Engine, container: str, image: str, stdin: str, timeout: float) -> tuple[ExecResult, str]:
    if not container:
        return _run_here(stdin, timeout), "this host"
    for python in PYTHONS:
        if output := _execute(engine, container, (python, "-c", program()), timeout, stdin):
            return output, "python"
    with sidecar(engine, f"container:{container}", image) as name:
        argv = ("python3", "-c", program())
        return engine.execute(name, argv, stdin=stdin, timeout=timeout), "probe container"


def _execute(
    engine: Engine, container: str, argv: tuple[str, ...], timeout: float, stdin: str = ""
) -> ExecResult | None:
    try:
        output = engine.execute(container, argv, stdin=stdin, timeout=timeout)
    except EngineError as error:
        if not any(text in error.evidence for text in _NO_PROGRAM):
            raise
        return None
    return None if output.exit_code in _NOT_FOUND else output


def _sent_inside(
    engine: Engine, container: str, base_url: str, request: RerankRequest, result: ProbeResult
) -> ProbeResult:
    """The result with RAGFlow's request sent again by a program of the container, if it has one.

    ``data/probe.py`` sent it already, and has more details of a failure.
    """
    headers = [text for pair in request.headers().items() for text in ("--header", ": ".join(pair))]
    for client, (command, option) in CLIENTS.items():
        begin = time.perf_counter()
        argv = (*command, *headers, option, request.body().decode(), f"{base_url}/rerank")
        output = _execute(engine, container, argv, RERANK_TIMEOUT)
        if output is None or output.exit_code > max(_NOT_FOUND):  # it was killed, or crashed
            continue
        timing = 1e3 * (time.perf_counter() - begin)
        try:
            scores = [(row["index"], row["relevance_score"]) for row in json.loads(output.stdout)["results"]]
            step = replace(result.steps["rerank"], ms=timing, scores=scores)
        except (ValueError, KeyError, TypeError):
            lines = (output.stderr or output.stdout).strip().splitlines()
            step = Step(False, lines[-1] if lines else f"exit code {output.exit_code}", timing)
        return replace(result, client=client, steps={**result.steps, "rerank": step})
    return replace(result, client=f"{result.client}, {result.transport}")


def _run_here(stdin: str, timeout: float) -> ExecResult:
    argv = [sys.executable, "-c", program()]
    try:
        ended = subprocess.run(
            argv, input=f"{stdin}\n", check=False, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        message = f"the probe on this host did not end within {timeout:g} s"
        raise EngineError(message, code="command-hangs", hint="run it again") from None
    return ExecResult(ended.returncode, ended.stdout, ended.stderr)


def _responses(rows: list[dict[str, Any]]) -> dict[int, ProbeResponse]:
    return {
        row["place"]: ProbeResponse(
            row.get("status", 0),
            row.get("text") or row.get("detail", ""),
            row["ms"],
            row.get("ranked") or "",
            int(row.get("truncated") or 0),
        )
        for row in rows
    }
