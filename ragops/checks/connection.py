"""Connection of one RAGFlow container: name, port, server, routes, model, and RAGFlow's own call.

``probe.py`` tests the layers from inside the container; :func:`check_layers`, which is pure, turns the result
into checks with causes (``causes.py``) and remedies.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from ragops.checks import Check, failed_check, probe, ready
from ragops.checks.causes import Failure, Target, explain, is_refused, proxy_settings
from ragops.docker.engine import Engine
from ragops.errors import EngineError
from ragops.ragflow.discovery import RagflowContainer
from ragops.ragflow.request import RELEVANT, RerankRequest, name_problem
from ragops.reranker.architectures import Architecture

PROXY = "no proxy in between"
RUNS = "reranker runs"
_NO_ROUTE = (404, 405)
_LOADED_AS = (
    ("/v1/chat/completions", "the server writes text", "--runner pooling"),
    ("/v1/completions", "the server writes text", "--runner pooling"),
    ("/v1/responses", "the server writes text", "--runner pooling"),
    ("/classify", "the model is loaded as a classifier, and not of one label", "--convert classify"),
    ("/v1/embeddings", "the server returns embeddings only", "--runner pooling"),
    ("/embed", "the server returns embeddings only", "--runner pooling"),
    ("/pooling", "the model returns a vector for each token", "--convert classify"),
)
"""By its first route here: how a server without a rerank route was started, and the flag that it lacks."""
_OTHER_SERVER = "another server than vLLM, or a proxy, responds: RAGFlow's call below shows whether it ranks"


@dataclass(frozen=True)
class ConnectionResult:
    """How far one RAGFlow container gets."""

    checks: tuple[Check, ...]
    responses: Mapping[int, probe.ProbeResponse] = field(default_factory=dict)
    """To the extra requests that were sent, by their place."""

    @property
    def rerank_succeeded(self) -> bool:
        """Whether RAGFlow's own call succeeded."""
        return any(c.name == probe.TITLES["rerank"] and c.status in {"ok", "warn"} for c in self.checks)


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
    extra: probe.Batch | None = None,
) -> ConnectionResult:
    """Test the layers from inside one RAGFlow container and judge the result.

    ``image`` is one with Python, for a container that has none. The server's container ``reranker`` is
    inspected when the port refuses. The responses to ``extra`` are returned as they are.
    """
    status = ragflow.container.status
    if status != "running":
        return ConnectionResult((Check("container runs", "fail", f"it is {status}", ragflow.start),))
    server = engine.container(reranker)
    # No probe without a running server in a common network: the site's name server would get its name.
    if (server is None or not server.running) and (error := ready.problem(engine, reranker, server)):
        return ConnectionResult((failed_check(RUNS, error),))
    own = ragflow.container.endpoints  # none if it is in another container's networks
    shared = [endpoint for endpoint in own if server and server.endpoint(endpoint.network)]
    if own and not shared:
        unknown = probe.ProbeResult("", {"dns": probe.Step(False, "the name is not looked up")})
        return ConnectionResult(tuple(check_layers(unknown, target)))
    if shared:
        target = replace(target, bridge=f"br-{shared[0].network_id[:12]}")
    result = probe.run_probe(engine, ragflow.name, image, target.url, target.request, extra=extra)
    tcp = result.steps.get("tcp")
    refused = tcp is not None and not tcp.ok and is_refused(tcp)
    is_local = refused and _is_open_inside(engine, reranker, image)
    return ConnectionResult(tuple(check_layers(result, target, is_local=is_local)), result.responses)


def check_layers(result: probe.ProbeResult, target: Target, *, is_local: bool = False) -> list[Check]:
    """Checks from the result of a probe."""
    checks: list[Check] = []
    failed: set[probe.Layer] = set()
    for layer in probe.LAYERS:
        step = result.steps.get(layer)
        if need := probe.stopped_by(layer, failed):
            check = Check(probe.TITLES[layer], "skip", f"it needs: {probe.TITLES[need]}")
        elif step is None:
            check = Check(probe.TITLES[layer], "skip", "not tested: a layer above got no response")
        elif step.ok:
            check = _check_layer(layer, step, result, target)
        else:
            check = _check_failed(Failure(layer, step, target, result.client, is_local))
        if check.status == "fail" or step is None or need:
            failed.add(layer)
        checks.append(check)
    if target.proxy:
        detail = f"HTTP_PROXY={target.proxy} would catch {target.host}"
        if excepted := target.proxies.get("no", ""):
            detail += f", NO_PROXY={excepted} does not except it"
        remedy = f"add {target.host} to NO_PROXY and no_proxy in RAGFlow's .env, then recreate {target.where}"
        checks.append(Check(PROXY, "warn", detail, remedy))
    return checks


def _check_routes(paths: Collection[str], target: Target) -> Check:
    """Whether the server ranks, and ranks as this kind of model does.

    vLLM 0.32 adds routes by how the model was loaded (``entrypoints/pooling/factories.py``): rerank comes
    with ``/classify`` for a head with one label, and with ``/v1/embeddings`` as a cosine.
    """
    title, known, wanted = probe.TITLES["routes"], target.known, f"{urlsplit(target.url).path}/rerank"
    ranks = sorted(path for path in paths if path.endswith("/rerank"))
    if wanted not in paths:
        if not ranks:
            route, cause, flag = next((row for row in _LOADED_AS if row[0] in paths), ("", "", ""))
            if route:
                remedy = f"missing: {_flags(known, flag)}; ragops up sets them"
                return Check(title, "fail", f"no rerank route: {cause} ({route})", remedy)
            detail = (
                f"no rerank route: another kind of server, with {', '.join(sorted(paths)[:5]) or 'no routes'}"
            )
            return Check(title, "fail", detail, "is this the reranker's address? ragops status shows it")
        detail = f"wrong path: RAGFlow would call {wanted}, the server has {', '.join(ranks)}"
        return Check(title, "fail", detail, "the base URL in RAGFlow ends in /v1 and nothing behind it")
    if known.kind != "embedding" and "/v1/embeddings" in paths and "/classify" not in paths:
        detail = f"{wanted} exists, but as a cosine: this model is served as one of embeddings"
        return Check(title, "fail", detail, f"missing: {_flags(known, '')}; ragops up sets them")
    return Check(title, "ok", f"{wanted} is one of {len(paths)} routes")


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


def _is_open_inside(engine: Engine, reranker: str, image: str) -> bool:
    """Whether the port accepts a connection in the server's own container."""
    try:
        own = probe.run_probe(engine, reranker, image, "http://127.0.0.1:8000/v1", RerankRequest(""), depth=2)
    except EngineError:  # it does not run
        return False
    return "tcp" in own.steps and own.steps["tcp"].ok


def _check_failed(failure: Failure) -> Check:
    title, step = probe.TITLES[failure.layer], failure.step
    if failure.layer == "routes" and step.status:  # without a response nothing below is tested
        return Check(title, "skip", f"the server lists no routes ({step.detail[:80]})")
    if failure.layer in {"health", "models"} and step.status in _NO_ROUTE:
        return Check(title, "warn", f"no such route here ({step.detail[:80]})", _OTHER_SERVER)
    return Check(title, "fail", *explain(failure))


def _check_layer(layer: probe.Layer, step: probe.Step, result: probe.ProbeResult, target: Target) -> Check:
    if layer == "routes":
        return _check_routes(step.names, target)
    if layer == "models":
        return _check_model_name(step.names, target)
    if layer == "rerank":
        return _check_ranking(step, target, result.client)
    timing = f" in {step.ms:.0f} ms" if step.ms else ""
    return Check(probe.TITLES[layer], "ok", f"{step.detail}{timing} ({result.transport})")


def _check_model_name(models: Sequence[str], target: Target) -> Check:
    title, sent = probe.TITLES["models"], target.request.model
    served = ", ".join(models) or "none"
    if problem := name_problem(target.name, target.release):
        remedy = "set served_name under [reranker] without ___ and @, and register that"
        return Check(title, "fail", f"{problem}; served: {served}", remedy)
    if sent not in models:
        renamed = "" if sent == target.name else f" (RAGFlow {target.release.name} makes it of {target.name})"
        remedy = f"set served_name under [reranker] to the name in RAGFlow; served now: {served}"
        return Check(title, "fail", f"{sent}{renamed} is not among: {served}", remedy)
    return Check(title, "ok", f"RAGFlow sends {sent}, served: {served}")


def _check_ranking(step: probe.Step, target: Target, client: str) -> Check:
    title, count = probe.TITLES["rerank"], len(target.request.documents)
    indices = sorted(index for index, _ in step.scores)
    if indices != list(range(count)):
        detail = f"{count} documents went out, scores for {indices} came back"
        return Check(title, "fail", detail, "the server is no vLLM reranker, or cuts documents off")
    if not all(math.isfinite(score) for _, score in step.scores):
        return Check(title, "fail", f"scores {step.scores}", "the model computes NaN: try dtype float32")
    best, score = max(step.scores, key=lambda pair: pair[1])
    timing = f"{step.ms:.0f} ms, {client}"
    if best != RELEVANT and target.trained:
        detail = f"document {best} is best with {score:.3f}, document {RELEVANT} is right ({timing})"
        return Check(title, "warn", detail, "scores look wrong: the checks of the scores say why")
    return Check(title, "ok", f"{count} documents, {count} scores, best {score:.3f} ({timing})")
