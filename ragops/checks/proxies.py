"""Would a proxy in RAGFlow's environment catch its call to the reranker; pure.

The rules are those of httpx, on which cohere stands: the lower-case variable goes before the
upper-case one, ``NO_PROXY`` holds names with everything below them, names with a port, addresses,
``.suffix`` for what is below a name alone, and ``*``. It never looks a name up, so that an address
range such as ``172.16.0.0/12`` excepts no name.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


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
