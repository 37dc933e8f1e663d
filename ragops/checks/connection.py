"""Connection of one RAGFlow container: name, port, server, routes, model, and RAGFlow's own call.

``probe.py`` tests the layers from inside the container; :func:`check_layers`, which is pure, turns the result
into checks with causes (``causes.py``) and remedies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ragops.checks import Check, failed_check, ready
from ragops.checks.causes import Failure, explain, is_refused, proxy_for, proxy_settings
from ragops.checks.probe import LAYERS, TITLES, ProbeResult, Step, run_probe, stopped_by
from ragops.errors import EngineError
from ragops.ragflow.request import RELEVANT, RerankRequest, name_problem, sent_name

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ragops.checks.causes import Listens
    from ragops.checks.probe import Batch, Layer, ProbeResponse
    from ragops.docker.engine import Engine
    from ragops.ragflow.discovery import RagflowContainer
    from ragops.ragflow.releases import Release
    from ragops.reranker.architectures import Architecture

PROXY = "no proxy in between"
RUNS = "reranker runs"
_NO_ROUTE = (404, 405)
_GENERATES = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses"})
_OTHER_SERVER = (
    "another server than vLLM, or a gateway, responds: RAGFlow's call below shows whether it ranks"
)


@dataclass(frozen=True)
class Target:
    """What a RAGFlow container must reach, and how RAGFlow would."""

    where: str
    """RAGFlow's container."""
    url: str
    """The reranker's address as RAGFlow has it, ending in ``/v1``."""
    name: str
    """The model's name as registered in RAGFlow."""
    known: Architecture
    release: Release
    proxies: Mapping[str, str]
    trained: bool = True
    """Whether an order can be expected; random weights have none."""
    bridge: str = "BRIDGE"
    """Interface of the common network on the Docker host."""

    @property
    def host(self) -> str:
        """The reranker's name in the network."""
        return urlsplit(self.url).hostname or ""

    @property
    def request(self) -> RerankRequest:
        """The request, with the name that RAGFlow derives from the registered one."""
        return RerankRequest(sent_name(self.name, self.release), client=self.release.client)

    @property
    def proxy(self) -> str:
        """The proxy that would get the request; empty for none."""
        return proxy_for(self.proxies, self.url)


@dataclass(frozen=True)
class ConnectionResult:
    """How far one RAGFlow container gets."""

    checks: tuple[Check, ...]
    responses: Mapping[int, ProbeResponse] = field(default_factory=dict)
    """To the extra requests that were sent, by their place."""

    @property
    def rerank_succeeded(self) -> bool:
        """Whether RAGFlow's own call succeeded."""
        return any(c.name == TITLES["rerank"] and c.status in {"ok", "warn"} for c in self.checks)


def target(
    ragflow: RagflowContainer, url: str, name: str, known: Architecture, *, trained: bool = True
) -> Target:
    """How one RAGFlow container would reach the reranker."""
    proxies = proxy_settings(ragflow.container.environment, ragflow.contract.client.language)
    return Target(ragflow.name, url, name, known, ragflow.contract, proxies, trained)


def check(
    engine: Engine,
    ragflow: RagflowContainer,
    image: str,
    target: Target,
    reranker: str,
    extra: Batch | None = None,
) -> ConnectionResult:
    """Test the layers from inside one RAGFlow container and judge the result.

    ``image`` is one with Python, for a container that has none. The server's container ``reranker`` is
    inspected when the port refuses. The responses to ``extra`` are returned as they are.
    """
    status = ragflow.container.status
    if status != "running":
        check = Check("container runs", "fail", f"it is {status}", ragflow.start, ragflow.name)
        return ConnectionResult((check,))
    server = engine.container(reranker)
    # No probe without a running server in a common network: the site's name server would get its name.
    if (server is None or not server.running) and (error := ready.problem(engine, reranker, server)):
        return ConnectionResult((failed_check(RUNS, error, ragflow.name),))
    own = ragflow.container.endpoints  # none if it is in another container's networks
    shared = [endpoint for endpoint in own if server and server.endpoint(endpoint.network)]
    if own and not shared:
        unknown = ProbeResult("", {"dns": Step(False, "the name is not looked up")})
        return ConnectionResult(tuple(check_layers(unknown, target)))
    if shared:
        target = replace(target, bridge=f"br-{shared[0].network_id[:12]}")
    result = run_probe(engine, ragflow.name, image, target.url, target.request, extra=extra)
    tcp = result.steps.get("tcp")
    refused = tcp is not None and not tcp.ok and is_refused(tcp)
    listens = _listens(engine, reranker, image) if refused else ""
    return ConnectionResult(tuple(check_layers(result, target, listens)), result.responses)


def check_layers(result: ProbeResult, target: Target, listens: Listens = "") -> list[Check]:
    """Checks from the result of a probe."""
    checks: list[Check] = []
    failed: set[Layer] = set()
    for layer in LAYERS:
        step = result.steps.get(layer)
        if need := stopped_by(layer, failed):
            check = Check(TITLES[layer], "skip", f"it needs: {TITLES[need]}", "", target.where)
        elif step is None:
            check = Check(
                TITLES[layer], "skip", "not tested: a layer above got no response", "", target.where
            )
        else:
            check = _check_layer(layer, step, result, target, listens)
        if check.status == "fail" or step is None or need:
            failed.add(layer)
        checks.append(check)
    if target.proxy:
        detail = f"HTTP_PROXY={target.proxy} would catch {target.host}"
        if excepted := target.proxies.get("no", ""):
            detail += f", NO_PROXY={excepted} does not except it"
        remedy = f"add {target.host} to NO_PROXY and no_proxy in RAGFlow's .env, then recreate {target.where}"
        checks.append(Check(PROXY, "warn", detail, remedy, target.where))
    return checks


def check_routes(paths: Collection[str], wanted: str, known: Architecture, where: str) -> Check:
    """Whether the server ranks, and ranks as this kind of model does.

    vLLM 0.32 adds routes by how the model was loaded (``entrypoints/pooling/factories.py``): rerank comes
    with ``/classify`` for a head with one label, and with ``/v1/embeddings`` as a cosine. ``wanted`` is the
    route that RAGFlow calls, such as ``/v1/rerank``; ``paths`` are those of ``/openapi.json``.
    """
    title = TITLES["routes"]
    ranks = sorted(path for path in paths if path.endswith("/rerank"))
    if wanted not in paths:
        if not ranks:
            return Check(title, "fail", *_missing_route(paths, known), where)
        detail = f"wrong path: RAGFlow would call {wanted}, the server has {', '.join(ranks)}"
        remedy = "the base URL in RAGFlow ends in /v1 and nothing behind it"
        return Check(title, "fail", detail, remedy, where)
    if known.kind != "embedding" and "/v1/embeddings" in paths and "/classify" not in paths:
        detail = f"{wanted} exists, but as a cosine: this model is served as one of embeddings"
        return Check(title, "fail", detail, f"missing: {_flags(known, '')}; ragops up sets them", where)
    return Check(title, "ok", f"{wanted} is one of {len(paths)} routes", "", where)


def _missing_route(paths: Collection[str], known: Architecture) -> tuple[str, str]:
    """Detail and remedy for a server without a rerank route: which flags were missing at its start."""
    generates = sorted(_GENERATES & set(paths))
    if generates:
        cause, flag = f"the server writes text ({generates[0]})", "--runner pooling"
    elif "/classify" in paths:
        cause = "the model is loaded as a classifier, and not of one label (/classify)"
        flag = "--convert classify"
    elif "/v1/embeddings" in paths or "/embed" in paths:
        cause, flag = "the server returns embeddings only (/v1/embeddings)", "--runner pooling"
    elif "/pooling" in paths:
        cause, flag = "the model returns a vector for each token (/pooling)", "--convert classify"
    else:
        cause = f"another kind of server, with {', '.join(sorted(paths)[:5]) or 'no routes'}"
        return f"no rerank route: {cause}", "is this the reranker's address? ragops status shows it"
    return f"no rerank route: {cause}", f"missing: {_flags(known, flag)}; ragops up sets them"


def _flags(known: Architecture, first: str) -> str:
    """The flags that this kind of model needs; those of the model replace a bare ``--convert``."""
    flags = []
    if known.overrides:
        flags.append(f"--hf-overrides '{known.hf_overrides}'")
    if known.template:
        flags.append(f"--chat-template {known.template}")
    if first and not (first == "--convert classify" and flags):
        flags.insert(0, first)
    return " ".join(flags) or "--runner pooling"


def _listens(engine: Engine, reranker: str, image: str) -> Listens:
    """Whether the port is open to the server's own container alone."""
    try:
        own = run_probe(engine, reranker, image, "http://127.0.0.1:8000/v1", RerankRequest(""), depth=2)
    except EngineError:  # it does not run
        return "nowhere"
    return "loopback" if "tcp" in own.steps and own.steps["tcp"].ok else "nowhere"


def _check_layer(layer: Layer, step: Step, result: ProbeResult, target: Target, listens: Listens) -> Check:
    title, where = TITLES[layer], target.where
    if layer == "routes":
        if step.ok:
            return check_routes(result.paths, f"{urlsplit(target.url).path}/rerank", target.known, where)
        return Check(title, "skip", f"the server lists no routes ({step.detail[:80]})", "", where)
    if not step.ok:
        if layer in {"health", "models"} and step.status in _NO_ROUTE:
            return Check(title, "warn", f"no such route here ({step.detail[:80]})", _OTHER_SERVER, where)
        failure = Failure(
            layer,
            step,
            where,
            target.host,
            proxy=target.proxy,
            client=result.client,
            listens=listens,
            bridge=target.bridge,
            timeout=target.release.timeout,
        )
        return Check(title, "fail", *explain(failure), where)
    if layer in {"models", "rerank"}:
        return _check_model_name(result, target) if layer == "models" else _check_ranking(result, target)
    timing = f" in {step.ms:.0f} ms" if step.ms else ""
    return Check(title, "ok", f"{step.detail}{timing} ({result.transport})", "", where)


def _check_model_name(result: ProbeResult, target: Target) -> Check:
    title, sent = TITLES["models"], target.request.model
    served = ", ".join(result.models) or "none"
    if problem := name_problem(target.name, target.release):
        remedy = "set served_name under [reranker] without ___ and @, and register that"
        return Check(title, "fail", f"{problem}; served: {served}", remedy, target.where)
    if sent not in result.models:
        renamed = "" if sent == target.name else f" (RAGFlow {target.release.name} makes it of {target.name})"
        remedy = f"set served_name under [reranker] to the name in RAGFlow; served now: {served}"
        return Check(title, "fail", f"{sent}{renamed} is not among: {served}", remedy, target.where)
    return Check(title, "ok", f"RAGFlow sends {sent}, served: {served}", "", target.where)


def _check_ranking(result: ProbeResult, target: Target) -> Check:
    where, title, count = target.where, TITLES["rerank"], len(target.request.documents)
    indices = sorted(index for index, _ in result.scores)
    if indices != list(range(count)):
        detail = f"{count} documents went out, scores for {indices} came back"
        return Check(title, "fail", detail, "the server is no vLLM reranker, or cuts documents off", where)
    if not all(math.isfinite(score) for _, score in result.scores):
        detail, remedy = f"scores {result.scores}", "the model computes NaN: try dtype float32"
        return Check(title, "fail", detail, remedy, where)
    best, score = max(result.scores, key=lambda pair: pair[1])
    timing = f"{result.steps['rerank'].ms:.0f} ms, {result.client}"
    if best != RELEVANT and target.trained:
        detail = f"document {best} is best with {score:.3f}, document {RELEVANT} is right ({timing})"
        return Check(title, "warn", detail, "scores look wrong: the checks of the scores say why", where)
    return Check(title, "ok", f"{count} documents, {count} scores, best {score:.3f} ({timing})", "", where)
