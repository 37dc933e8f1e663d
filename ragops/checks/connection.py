"""Connection of one RAGFlow container: name, port, server, routes, model, and RAGFlow's own call.

``probe.py`` tests the layers from inside the container; :func:`check_layers`, which is pure, turns the result
into checks. The cause of a failed layer is the first match of :data:`RULES`, the table ``data/causes.toml``,
from which the troubleshooting page is generated.

The proxy rules are those of httpx, on which cohere is built: the lower-case variable goes before the
upper-case one, ``NO_PROXY`` holds names with everything below them, names with a port, addresses, ``.suffix``
for the names below alone, and ``*``. No name is looked up, so that a range such as ``172.16.0.0/12`` excepts
no name.
"""

import ipaddress
import math
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from ragops.checks import Check, failed_check, probe, ready
from ragops.docker.engine import Engine
from ragops.errors import EngineError
from ragops.ragflow.discovery import RagflowContainer
from ragops.ragflow.releases import Release
from ragops.ragflow.request import (
    PLACEHOLDER_KEY,
    RELEVANT,
    RerankRequest,
    name_problem,
    over_long,
    sent_name,
)
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
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Target:
    """What a RAGFlow container must reach, and how RAGFlow would."""

    where: str
    """RAGFlow's container; empty for this host."""
    url: str
    """The reranker's address as RAGFlow has it, ending in ``/v1``."""
    name: str
    known: Architecture
    release: Release
    proxies: Mapping[str, str]
    trained: bool = True
    bridge: str = "BRIDGE"
    """Interface of the common network on the Docker host."""
    key: str = field(default=PLACEHOLDER_KEY, repr=False)

    @property
    def host(self) -> str:
        """The reranker's name in the network."""
        return urlsplit(self.url).hostname or ""

    @property
    def request(self) -> RerankRequest:
        """The request, with the name that RAGFlow derives from the registered one."""
        name = sent_name(self.name, self.release)
        return RerankRequest(name, client=self.release.client, key=self.key)

    @property
    def proxy(self) -> str:
        """The proxy that would get the request; empty for none."""
        return proxy_for(self.proxies, self.url)


@dataclass(frozen=True)
class Failure:
    """A layer that failed."""

    layer: probe.Layer
    step: probe.Step
    target: Target
    client: str
    is_local: bool
    """Whether the port is open to the server's own container alone."""

    @property
    def text(self) -> str:
        """All text of the response."""
        return f"{self.step.text} {self.step.detail}"

    @property
    def title(self) -> str:
        """Title of an HTML page; its first words when it has none."""
        match = _TITLE.search(self.step.text)
        words = match[1] if match else re.sub(r"<[^>]*>", " ", self.step.text)
        return " ".join(words.split())[:80] or "no title"


@dataclass(frozen=True)
class Rule:
    """One cause: how it is recognized, what it is, what to do."""

    words: str
    """Words of the message, by which a reader searches."""
    matches: Callable[[Failure], bool]
    cause: str
    remedy: str
    """May contain ``{host}``, ``{where}``, ``{bridge}``, ``{timeout}`` and ``{tokens}``."""
    evidence: Callable[[Failure], str]


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
    refused = tcp is not None and not tcp.ok and "refused" in tcp.detail.lower()
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
            routes = ", ".join(sorted(paths)[:5]) or "no routes"
            detail = f"no rerank route: another kind of server, with {routes}"
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
    rule = next(rule for rule in (*RULES, OTHER) if rule.matches(failure))
    target, (_, tokens) = failure.target, over_long(failure.text) or (0, 0)
    names = {"host": target.host, "where": target.where, "bridge": target.bridge}
    remedy = rule.remedy.format(**names, timeout=target.release.timeout, tokens=tokens)
    return Check(title, "fail", f"{rule.cause} ({rule.evidence(failure)[:400]})", remedy)


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


def proxy_settings(environment: Iterable[str], language: str = "Python") -> dict[str, str]:
    """Proxy variables by the first word of their name: ``http``, ``all``, ``no`` and others.

    An empty lower-case variable takes its upper-case one away. For RAGFlow in Go, whose client clones Go's
    ``http.DefaultTransport``, the upper-case variable goes first, and ``ALL_PROXY`` does not count.
    """
    pairs = [tuple(line.split("=", 1)) for line in environment if "=" in line]
    if language == "Go":
        pairs = [(name.swapcase(), value) for name, value in pairs if value and name.lower() != "all_proxy"]
    values = {name.lower(): value for name, value in pairs if name.lower().endswith("_proxy")}
    values |= {name: value for name, value in pairs if name == name.lower() and name.endswith("_proxy")}
    return {name.removesuffix("_proxy"): value for name, value in values.items() if value}


def proxy_for(proxies: Mapping[str, str], url: str) -> str:
    """The proxy of a request to an ``http`` address, without user and password; empty for none."""
    proxy = proxies.get("http") or proxies.get("all") or ""
    target = urlsplit(url)
    host, port = (target.hostname or "").lower(), target.port
    entries = [entry.strip().lower() for entry in proxies.get("no", "").split(",")]
    if not proxy or "*" in entries or any(_excepts(entry, host, port) for entry in entries):
        return ""
    return without_secret(proxy if "://" in proxy else f"http://{proxy}")


def without_secret(url: str) -> str:
    """An address without user, password and query."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _excepts(entry: str, host: str, port: int | None) -> bool:
    scheme, slashes, rest = entry.rpartition("://")
    if slashes and scheme not in {"http", "all"}:
        return False
    name = rest.partition("/")[0]
    before, colon, number = name.rpartition(":")
    if colon and number.isdigit() and ":" not in before:
        if int(number) != port:
            return False
        name = before
    if not name:
        return False
    if name.startswith("."):
        return host.endswith(name)
    below = not slashes and name != "localhost"
    with suppress(ValueError):
        ipaddress.ip_address(name)
        below = False
    return host == name or (below and host.endswith(f".{name}"))


def _is_html(failure: Failure) -> bool:
    start = failure.step.text.lstrip()[:15].lower()
    return "html" in failure.step.kind or start.startswith(("<!doctype", "<html"))


def _is_other_client(failure: Failure) -> bool:
    """RAGFlow's library failed where the same bytes, which no proxy gets, did not."""
    is_own = failure.client.startswith("cohere") and failure.step.error != "HttpError"
    return bool(failure.target.proxy) and is_own


_SPECIAL: dict[str, Callable[[Failure], bool]] = {
    "this host does not reach the address": lambda f: not f.target.where,
    "Connection refused, though the container is healthy": lambda f: f.is_local,
    "HTTP_PROXY ... would catch the call": _is_other_client,
    "HTML instead of JSON": _is_html,
    "This model's maximum context length is": lambda f: over_long(f.text) is not None,
    "HTTP 500": lambda f: f.step.status >= 400,
}
_EVIDENCE: dict[str, Callable[[Failure], str]] = {
    "HTTP_PROXY ... would catch the call": lambda f: f"{f.target.proxy}: {f.step.detail}",
    "HTTP 307, a redirect to ...": lambda f: (
        f"HTTP {f.step.status} to {without_secret(f.step.location) or 'nowhere'}"
    ),
    "HTML instead of JSON": lambda f: f'HTTP {f.step.status}, "{f.title}"',
}


def _read_rule(words: str, cause: str, remedy: str, condition: Mapping[str, Any] | None = None) -> Rule:
    lists = dict(condition or {})
    text, special = re.compile(lists.pop("text", ""), re.IGNORECASE | re.DOTALL), _SPECIAL.get(words)

    def matches(failure: Failure) -> bool:
        step = failure.step
        values = {"layer": failure.layer, "status": step.status, "error": step.error}
        is_listed = all(values[name] in allowed for name, allowed in lists.items())
        return is_listed and bool(text.search(failure.text)) and (special is None or special(failure))

    return Rule(words, matches, cause, remedy, _EVIDENCE.get(words, lambda f: f.step.detail))


_TEXTS = tomllib.loads((resources.files("ragops.data") / "causes.toml").read_text(encoding="utf-8"))
*RULES, OTHER = (_read_rule(words, *row) for words, row in _TEXTS.items())
"""The first that matches is the cause."""
