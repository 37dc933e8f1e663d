"""Causes of a failed layer of ``ragops verify``, and proxies that would get RAGFlow's request; pure.

:data:`RULES` is one table, the first match counts; the troubleshooting page is generated from it. Its texts
are in ``data/causes.toml``. The proxy rules are those of httpx, on which cohere is built: the lower-case
variable goes before the upper-case one, ``NO_PROXY`` holds names with everything below them, names with a
port, addresses, ``.suffix`` for the names below alone, and ``*``. No name is looked up, so that a range such
as ``172.16.0.0/12`` excepts no name.
"""

import ipaddress
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from ragops.checks.probe import Layer, Step
from ragops.ragflow.releases import Release
from ragops.ragflow.request import PLACEHOLDER_KEY, RerankRequest, over_long, sent_name
from ragops.reranker.architectures import Architecture

_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Target:
    """What a RAGFlow container must reach, and how RAGFlow would."""

    where: str
    """RAGFlow's container; empty for this host."""
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
    key: str = field(default=PLACEHOLDER_KEY, repr=False)
    """What the server requires of each request."""

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

    layer: Layer
    step: Step
    target: Target
    client: str
    """Library that sent RAGFlow's request."""
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


def explain(failure: Failure) -> tuple[str, str]:
    """Detail and remedy of a layer that failed: the cause in one line with its evidence, what to do."""
    rule = next(rule for rule in (*RULES, OTHER) if rule.matches(failure))
    target, (_, tokens) = failure.target, over_long(failure.text) or (0, 0)
    names = {"host": target.host, "where": target.where, "bridge": target.bridge}
    remedy = rule.remedy.format(**names, timeout=target.release.timeout, tokens=tokens)
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
