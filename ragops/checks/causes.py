"""Causes of a failed layer of ``ragops verify``, and proxies that would get RAGFlow's request; pure.

:data:`RULES` is one table, the first match counts; the troubleshooting page is generated from it. The proxy
rules are those of httpx, on which cohere is built: the lower-case variable goes before the upper-case one,
``NO_PROXY`` holds names with everything below them, names with a port, addresses, ``.suffix`` for the names
below alone, and ``*``. No name is looked up, so that a range such as ``172.16.0.0/12`` excepts no name.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from ragops.ragflow.request import over_long

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ragops.checks.probe import Layer, Step

Listens = Literal["", "loopback", "nowhere"]
"""Where the server listens in its own container, when that was tested."""

_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_TIMEOUTS = frozenset({"TimeoutError", "timeout", "ReadTimeout"})
_RESETS = (
    *("ConnectionResetError", "RemoteDisconnected", "BrokenPipeError", "IncompleteRead"),
    *("RemoteProtocolError", "ReadError"),
)
_QUEUE = ("cannot accept new requests", "backlog limit")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True)
class Failure:
    """A layer that failed, and where."""

    layer: Layer
    step: Step
    where: str
    """RAGFlow's container; empty for this host."""
    host: str
    """The reranker's name in the network."""
    proxy: str = ""
    """The proxy that would get RAGFlow's request; empty for none."""
    client: str = ""
    """Library that sent RAGFlow's request."""
    listens: Listens = ""
    bridge: str = "BRIDGE"
    """The interface of the Docker network on its host."""
    timeout: float = 30.0
    """Seconds that RAGFlow waits."""

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
    evidence: Callable[[Failure], str] = lambda failure: failure.step.detail


def explain(failure: Failure) -> tuple[str, str]:
    """Detail and remedy of a layer that failed: the cause in one line with its evidence, what to do."""
    rule = next((rule for rule in RULES if rule.matches(failure)), OTHER)
    names = {"host": failure.host, "where": failure.where, "bridge": failure.bridge}
    _, tokens = over_long(failure.text) or (0, 0)
    remedy = rule.remedy.format(**names, timeout=failure.timeout, tokens=tokens)
    return f"{rule.cause} ({rule.evidence(failure)[:400]})", remedy


def is_refused(step: Step) -> bool:
    """Whether no process listens on the port."""
    return "refused" in step.detail.lower()


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
    """Whether one entry of ``NO_PROXY`` excepts a host."""
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
    below = not slashes and name != "localhost" and not _is_address(name)
    return host == name or (below and host.endswith(f".{name}"))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _http(*statuses: int, words: str = "") -> Callable[[Failure], bool]:
    return lambda failure: failure.step.status in statuses and words in failure.text


def _is_html(failure: Failure) -> bool:
    start = failure.step.text.lstrip()[:15].lower()
    return "html" in failure.step.kind or start.startswith(("<!doctype", "<html"))


def _is_other_client(failure: Failure) -> bool:
    """RAGFlow's library failed where the same bytes, which no proxy gets, did not."""
    is_own = failure.client.startswith("cohere") and failure.step.error != "HttpError"
    return failure.layer == "rerank" and bool(failure.proxy) and is_own


def _is_queue(failure: Failure) -> bool:
    return failure.step.status == 503 and any(words in failure.text for words in _QUEUE)


_FIREWALL = (
    "ufw route allow in on {bridge} out on {bridge}; or firewall-cmd --permanent --zone=trusted "
    "--change-interface={bridge}, then firewall-cmd --reload; else iptables -S FORWARD shows the rule. A "
    "restart of the engine removes no foreign rule: it helps only if iptables -S has none for {bridge}"
)
"""Packets inside a bridge pass the host's firewall where ``net.bridge.bridge-nf-call-iptables`` is 1."""

RULES: tuple[Rule, ...] = (
    Rule(
        "this host does not reach the address",
        lambda failure: failure.layer in {"dns", "tcp"} and not failure.where,
        "this host does not reach the address of verify --address",
        "ragops status shows the reranker's address here; other hosts reach it through a gateway, or with "
        "publish and expose = true under [reranker]",
    ),
    Rule(
        "Name or service not known",
        lambda failure: failure.layer == "dns",
        "the name is not known there: the two containers share no network",
        "ragops connect {where}",
    ),
    Rule(
        "Connection refused, though the container is healthy",
        lambda failure: failure.layer == "tcp" and failure.listens == "loopback",
        "the server listens on 127.0.0.1 of its own container, where only its own health check reaches it",
        "start it with --host 0.0.0.0, or without --host: ragops up does so",
    ),
    Rule(
        "Connection refused",
        lambda failure: failure.layer == "tcp" and is_refused(failure.step),
        "no process listens there: the server is loading its model, or has ended",
        "ragops status; while it is loading, ragops up waits for it",
    ),
    Rule(
        "No route to host",
        lambda failure: failure.layer == "tcp" and "no route" in failure.text.lower(),
        "a firewall, such as firewalld, rejects the connection inside the Docker network",
        _FIREWALL,
    ),
    Rule(
        "timed out",
        lambda failure: failure.layer == "tcp",
        "no response to the connection: a firewall, such as ufw, drops packets inside the Docker network",
        _FIREWALL,
    ),
    Rule(
        "'socksio' package is not installed",
        lambda failure: "socksio" in failure.text,
        "a SOCKS proxy is set for RAGFlow, whose client can't use one and then sends no request",
        "take the socks:// address out of ALL_PROXY and HTTP_PROXY in RAGFlow's .env, then recreate {where}",
    ),
    Rule(
        "HTTP_PROXY ... would catch the call",
        _is_other_client,
        "a proxy is between RAGFlow's client and the reranker",
        "add {host} to NO_PROXY and no_proxy in RAGFlow's .env, then recreate {where}",
        lambda failure: f"{failure.proxy}: {failure.step.detail}",
    ),
    Rule(
        "HTTP 307, a redirect to ...",
        lambda failure: failure.step.status in _REDIRECTS,
        "a redirect: another server responds at this name and redirects requests",
        "give RAGFlow the address that it leads to, or stop what responds in place of {host}:8000: a "
        "reranker never redirects, and on 301 and 302 RAGFlow's POST becomes a GET",
        lambda failure: f"HTTP {failure.step.status} to {without_secret(failure.step.location) or 'nowhere'}",
    ),
    Rule(
        "HTML instead of JSON",
        _is_html,
        "HTML instead of JSON: the page of a proxy or another server",
        "docker network inspect shows which container has the name {host}; a gateway's own error "
        "page means that its connection to the reranker is broken",
        lambda failure: f'HTTP {failure.step.status}, "{failure.title}"',
    ),
    Rule(
        '401 {"error": "Unauthorized"}',
        lambda failure: (
            failure.step.status == 401 and '"error"' in failure.text and '"message"' not in failure.text
        ),
        "vLLM wants the key of its --api-key",
        "enter that key in RAGFlow, or take --api-key and VLLM_API_KEY away: ragops up starts it without",
    ),
    Rule(
        "401 Unauthorized",
        _http(401, 403),
        "something before the reranker, a gateway as a rule, wants a key of its own",
        "enter the gateway's key in RAGFlow, or give RAGFlow the reranker's own address",
    ),
    Rule(
        "The model ... does not exist",
        _http(404, words="does not exist"),
        "wrong model: the path is right, the server knows no model of this name",
        "RAGFlow must send the name that is served: ragops status shows it (served_name sets it)",
    ),
    Rule(
        "404 {'detail': 'Not Found'}",
        _http(404, 405),
        "wrong path: the server has no such route, whatever the model",
        "the base URL in RAGFlow ends in /v1 and nothing behind it; when it does, the server is no reranker: "
        "ragops up starts it with --runner pooling",
    ),
    Rule(
        "This model's maximum context length is",
        lambda failure: failure.step.status == 400 and over_long(failure.text) is not None,
        "over-long: one document is longer than the model takes, and the whole call is refused for it",
        "a chunk has {tokens} tokens or more, with its query: raise max_model_len under [reranker] if the "
        "model can, or a smaller chunk_token_num in RAGFlow",
    ),
    Rule(
        "The model does not support Rerank (Score) API",
        lambda failure: "does not support" in failure.text and "Rerank" in failure.text,
        "an old vLLM that was started to write text: it responds 200 with an error, of which RAGFlow makes "
        "'NoneType' object is not iterable",
        "ragops up starts it with --runner pooling and what the model needs besides",
    ),
    Rule(
        "The engine is currently busy and cannot accept new requests",
        _is_queue,
        "the queue is full: every document of a call counts, and vLLM was started with a limit on them",
        "take --max-num-queued-reqs and --max-num-queued-tokens away, or set them above 128 documents",
    ),
    Rule(
        "HTTP 503",
        _http(503),
        "the server's engine has died, or it is not ready",
        "ragops status, then ragops up; docker logs {host} shows why",
    ),
    Rule(
        "HTTP 502",
        _http(502, 504),
        "a gateway responds, and the reranker behind it does not",
        "repair the gateway's connection to the reranker, or give RAGFlow the reranker's own address",
    ),
    Rule(
        "Connection reset by peer",
        lambda failure: failure.step.error in _RESETS,
        "the connection was cut before the response: the server died during this call, or a device cuts it",
        "docker logs {host} shows a server that ended; ragops status",
    ),
    Rule(
        "The read operation timed out",
        lambda failure: failure.step.error in _TIMEOUTS,
        "the connection was accepted and no response came: the server hangs, is paused, or is too slow",
        "ragops status; when it is healthy, ragops verify says how many documents it ranks in {timeout:g} s",
    ),
    Rule(
        "HTTP 500",
        lambda failure: failure.step.status >= 400,
        "the server refused the call",
        "docker logs {host} shows why",
    ),
    Rule(
        "A response that is no ranking",
        lambda failure: failure.step.status == 200,
        "a response that is no ranking: another kind of server",
        "docker network inspect shows which container has the name {host}",
    ),
)
"""The first that matches is the cause."""

OTHER = Rule("", lambda _: True, "the call failed", "docker logs {host} shows whether it arrived")
