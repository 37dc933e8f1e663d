"""Would a proxy in RAGFlow's environment catch its call to the reranker; pure.

The rules are those of httpx, on which cohere stands: the lower-case variable goes before the
upper-case one, ``NO_PROXY`` holds names with everything below them, names with a port, addresses,
``.suffix`` for what is below a name alone, and ``*``. It never looks a name up, so that an address
range such as ``172.16.0.0/12`` excepts no name.

Why a layer of ``verify`` failed: what came back, recognised and named; pure.

:data:`RULES` is one table, first match first. The troubleshooting page is generated from it.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ragops.checks.probe import Layer, Step


def settings(environment: Iterable[str]) -> dict[str, str]:
    """Proxy variables by the first word of their name: ``http``, ``all``, ``no`` and others.

    Args:
        environment: ``NAME=value`` each. An empty lower-case variable takes its upper-case one away.
    """
    pairs = [tuple(line.split("=", 1)) for line in environment if "=" in line]
    found = {name.lower(): value for name, value in pairs if name.lower().endswith("_proxy")}
    found |= {name: value for name, value in pairs if name == name.lower() and name.endswith("_proxy")}
    return {name.removesuffix("_proxy"): value for name, value in found.items() if value}


def catcher(proxies: Mapping[str, str], url: str) -> str:
    """The proxy that would be asked for this address, without user and password; empty for none.

    Args:
        proxies: From :func:`settings`.
        url: An address that begins with ``http://``.
    """
    proxy = proxies.get("http") or proxies.get("all") or ""
    target = urlsplit(url)
    host, port = (target.hostname or "").lower(), target.port
    excepted = [one.strip() for one in proxies.get("no", "").split(",")]
    if not proxy or "*" in excepted or any(_excepts(one.lower(), host, port) for one in excepted):
        return ""
    return without_secret(proxy if "://" in proxy else f"http://{proxy}")


def without_secret(url: str) -> str:
    """An address without user, password and query."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _excepts(entry: str, host: str, port: int | None) -> bool:
    """Whether one entry of ``NO_PROXY`` takes a host out."""
    scheme, slashes, rest = entry.rpartition("://")
    if slashes and scheme not in {"http", "all"}:
        return False
    name, number = _parted(rest.partition("/")[0])
    if not name or number not in {None, port}:
        return False
    if name.startswith("."):
        return host.endswith(name)
    below = not slashes and name != "localhost" and not _is_address(name)
    return host == name or (below and host.endswith(f".{name}"))


def _parted(entry: str) -> tuple[str, int | None]:
    name, colon, number = entry.rpartition(":")
    return (name, int(number)) if colon and number.isdigit() and ":" not in name else (entry, None)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


Listens = Literal["", "loopback", "nowhere"]
"""Where the server listens in its own container, when that was looked at."""

_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_TIMEOUTS = frozenset({"TimeoutError", "timeout", "ReadTimeout", "curl exit code 28"})
_RESETS = frozenset(
    {
        *("ConnectionResetError", "RemoteDisconnected", "BrokenPipeError", "IncompleteRead"),
        *("RemoteProtocolError", "ReadError", "curl exit code 52", "curl exit code 56"),
    }
)
_QUEUE = ("cannot accept new requests", "backlog limit")
_PERMANENT = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True)
class Seen:
    """One layer that failed, and what is known about where."""

    layer: Layer
    step: Step
    where: str
    """RAGFlow's container."""
    host: str
    """The reranker's name in the network."""
    proxy: str = ""
    """The proxy that would catch RAGFlow's call; empty for none."""
    client: str = ""
    """Library that made RAGFlow's call."""
    listens: Listens = ""
    timeout: float = 30.0
    """Seconds that RAGFlow waits."""

    @property
    def text(self) -> str:
        """All words that came back."""
        return f"{self.step.text} {self.step.detail}"

    @property
    def title(self) -> str:
        """Of an HTML page; its first words when it has none."""
        found = _TITLE.search(self.step.text)
        words = found[1] if found else re.sub(r"<[^>]*>", " ", self.step.text)
        return " ".join(words.split())[:80] or "no title"


@dataclass(frozen=True)
class Rule:
    """One cause: how it is told, what it is, what to do."""

    words: str
    """Words of the message, by which a reader searches."""
    matches: Callable[[Seen], bool]
    cause: str
    remedy: str
    """May name ``{host}``, ``{where}`` and ``{timeout}``."""
    evidence: Callable[[Seen], str] = lambda seen: seen.step.detail
    more: str = ""
    """What else the page says."""


def is_refused(step: Step) -> bool:
    """Whether nobody listens on the port; curl has its own words for it."""
    return "refused" in step.detail.lower() or step.error == "curl exit code 7"


def _http(*statuses: int, words: str = "") -> Callable[[Seen], bool]:
    return lambda seen: seen.step.status in statuses and words in seen.text


def _is_html(seen: Seen) -> bool:
    return "html" in seen.step.kind or seen.step.text.lstrip()[:15].lower().startswith(("<!doctype", "<html"))


def _is_other_client(seen: Seen) -> bool:
    """RAGFlow's library failed where the same bytes by hand, which pass a proxy by, did not."""
    is_own = seen.client.startswith("cohere") and seen.step.error != "HttpError"
    return seen.layer == "rerank" and bool(seen.proxy) and is_own


def _is_queue(seen: Seen) -> bool:
    return seen.step.status == 503 and any(words in seen.text for words in _QUEUE)


RULES: tuple[Rule, ...] = (
    Rule(
        "Name or service not known",
        lambda seen: seen.layer == "dns",
        "the name is not known there: the two containers share no network",
        "ragops connect {where}",
        more="Also: Unknown host, Temporary failure in name resolution, Could not resolve host. It often "
        "happens after an upgrade of RAGFlow, because compose then made a new container, which is in the "
        "networks of its compose file alone. Docker's default network has no names at all.",
    ),
    Rule(
        "Connection refused, though the container is healthy",
        lambda seen: seen.layer == "tcp" and seen.listens == "loopback",
        "the server listens on 127.0.0.1 of its own container, where its own health check is the only guest",
        "start it with --host 0.0.0.0, or without --host: ragops up does so",
    ),
    Rule(
        "Connection refused",
        lambda seen: seen.layer == "tcp" and is_refused(seen.step),
        "nobody listens there: the server is loading its model, or has ended",
        "ragops status; when it is still loading, ragops up waits for it",
        more="When only RAGFlow says so, its base URL names localhost, 127.0.0.1 or port 8123, which inside "
        "its container all mean RAGFlow itself: it is http://ragflow-vllm-reranker:8000/v1.",
    ),
    Rule(
        "No route to host",
        lambda seen: seen.layer == "tcp",
        "no answer to the connection: a firewall between the containers, or one that is paused",
        "ragops status; a firewall tool that replaced Docker's rules: restart the engine",
    ),
    Rule(
        "'socksio' package is not installed",
        lambda seen: "socksio" in seen.text,
        "a SOCKS proxy is set for RAGFlow, whose client can't use one and then makes no call at all",
        "take the socks:// address out of ALL_PROXY and HTTP_PROXY in RAGFlow's .env, then recreate {where}",
    ),
    Rule(
        "HTTP_PROXY ... would catch the call",
        _is_other_client,
        "a proxy stands between RAGFlow's client and the reranker",
        "add {host} to NO_PROXY and no_proxy in RAGFlow's .env, then recreate {where}",
        lambda seen: f"{seen.proxy}: {seen.step.detail}",
        more="NO_PROXY takes names, with all below them, and names with a port; a range of addresses such as "
        "172.16.0.0/12 excepts no name, as none is looked up. Where both spellings are set, the one in small "
        "letters counts. Compose reads .env when it makes a container: a restart is not enough.",
    ),
    Rule(
        "HTTP 307, a redirect to ...",
        lambda seen: seen.step.status in _PERMANENT,
        "a redirect: another server answers at this name and sends callers on",
        "give RAGFlow the address that it leads to, or stop what answers in place of {host}:8000: a reranker "
        "redirects nobody, and on 301 and 302 RAGFlow's POST becomes a GET",
        lambda seen: f"HTTP {seen.step.status} to {without_secret(seen.step.location) or 'nowhere'}",
    ),
    Rule(
        "HTML instead of JSON",
        _is_html,
        "HTML instead of JSON: a web page answers, which is a proxy's or another server's",
        "find what answers as {host}: docker network inspect shows whose name it is; a gateway's own error "
        "page means that its way to the reranker is broken",
        lambda seen: f'HTTP {seen.step.status}, "{seen.title}"',
        more="RAGFlow says: Expecting value: line 1 column 1 (char 0).",
    ),
    Rule(
        '401 {"error": "Unauthorized"}',
        lambda seen: seen.step.status == 401 and '"error"' in seen.text and '"message"' not in seen.text,
        "vLLM wants the key of its --api-key",
        "enter that key in RAGFlow, or take --api-key and VLLM_API_KEY away: ragops up starts it without",
        more="RAGFlow shows it as if your own login had ended. A reranker that ragops started wants no key, "
        "and takes any but an empty one.",
    ),
    Rule(
        "401 Unauthorized",
        _http(401, 403),
        "something before the reranker, a gateway as a rule, wants a key of its own",
        "enter the gateway's key in RAGFlow, or give RAGFlow the reranker's own address",
        more="RAGFlow shows it as if your own login had ended.",
    ),
    Rule(
        "The model ... does not exist",
        _http(404, words="does not exist"),
        "wrong model: the path is right, the server knows no model of this name",
        "RAGFlow must send the name that is served: ragops status shows it (served_name sets it)",
        more="RAGFlow v0.17.1 and v0.17.2 append ___VLLM to the name: upgrade those two.",
    ),
    Rule(
        "404 {'detail': 'Not Found'}",
        _http(404, 405),
        "wrong path: the server has no such route, whatever the model",
        "the base URL in RAGFlow ends in /v1 and nothing behind it; when it does, the server is no reranker: "
        "ragops up starts it with --runner pooling",
        more="A path of /v1/rerank/v1/rerank or /v1/rerank/rerank in the server's log tells that the base "
        "URL is too long. A server that writes text lists its model and has no such route either.",
    ),
    Rule(
        "This model's maximum context length is",
        lambda seen: seen.step.status == 400 and "maximum context length" in seen.text,
        "over-long: one document is longer than the model takes, and the whole call is refused for it",
        "raise max_model_len under [reranker] if the model can, or a smaller chunk_token_num in RAGFlow",
        more="RAGFlow's VLLM provider cuts nothing. A table or paragraph can be longer than the chunk size.",
    ),
    Rule(
        "The model does not support Rerank (Score) API",
        lambda seen: "does not support" in seen.text and "Rerank" in seen.text,
        "an old vLLM that was started to write text: it answers 200 with an error, of which RAGFlow makes "
        "'NoneType' object is not iterable",
        "ragops up starts it with --runner pooling and what the model needs besides",
    ),
    Rule(
        "The engine is currently busy and cannot accept new requests",
        _is_queue,
        "the queue is full: every document of a call counts, and vLLM was told to take only so many",
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
        "a gateway answers, and the reranker behind it does not",
        "mend the gateway's way to the reranker, or give RAGFlow the reranker's own address",
    ),
    Rule(
        "Connection reset by peer",
        lambda seen: seen.step.error in _RESETS,
        "the connection was cut before the answer: the server died over this call, or something cuts it off",
        "docker logs {host} shows a server that ended; ragops status",
    ),
    Rule(
        "The read operation timed out",
        lambda seen: seen.step.error in _TIMEOUTS,
        "the connection was taken and no answer came: the server hangs, is paused, or is too slow",
        "ragops status; when it is healthy, ragops verify says how many documents it does in {timeout:g} s",
        more="RAGFlow waits 30 s, and 300 s before v0.25.3, for one call, and never tries again.",
    ),
    Rule(
        "HTTP 500",
        lambda seen: seen.step.status >= 400,
        "the server refused the call",
        "docker logs {host} shows why",
    ),
    Rule(
        "An answer that is no ranking",
        lambda seen: seen.step.status == 200,
        "an answer that is no ranking: another kind of server",
        "find what answers as {host}: docker network inspect shows whose name it is",
    ),
)
"""The first that matches is the cause."""

OTHER = Rule("", lambda _: True, "the call failed", "docker logs {host} shows whether it arrived")


def explain(seen: Seen) -> tuple[str, str]:
    """Detail and remedy of a layer that failed: the cause in one line with its evidence, what to do."""
    rule = next((one for one in RULES if one.matches(seen)), OTHER)
    remedy = rule.remedy.format(host=seen.host, where=seen.where, timeout=seen.timeout)
    return f"{rule.cause} ({rule.evidence(seen)[:400]})", remedy
