"""Parts of pages that are generated from ``ragops/checks``: layers of verify and causes."""  # noqa: INP001 - a folder of Sphinx extensions is no package

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from generated import PARTS, inline, row_of, title

from ragops import configuration
from ragops.checks import budget, connection, rules, verify
from ragops.checks.probe import NEEDS, TITLES
from ragops.ragflow.request import RERANK_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sphinx.application import Sphinx

HOST = configuration.Stack().reranker.name

PROVES = {
    "dns": ("both share a network", "getent hosts {host}"),
    "tcp": ("the server listens, and not only on its own localhost", "curl http://{host}:8000"),
    "health": ("vLLM's engine is alive", "curl …:8000/health"),
    "routes": (
        "vLLM was started as a reranker; else the flags that are missing are named",
        "curl …:8000/openapi.json",
    ),
    "models": ("the name that RAGFlow will send is a served one", "curl …:8000/v1/models"),
    "rerank": ("one score for each document, and the right one first", "RAGFlow's own client library"),
}
"""What a layer proves, and a command that tests it in the container without ragops."""

BELOW: Mapping[str, tuple[tuple[str, str], ...]] = {
    "scores": tuple((name, (inspect.getdoc(rule) or "").rstrip(".")) for name, rule in rules.RULES),
    "budget": (
        (
            budget.IN_TIME,
            "calls of RAGFlow's sizes and texts, against the timeout of this release",
        ),
        (
            budget.CAPACITY,
            "how many chunks fit that time; a release sends 64 to 90 at once, at its default page sizes",
        ),
        (budget.REGISTRATION, "the test call of a registration, of which newer releases wait 10 s"),
        (
            budget.LONG,
            "up to v0.27.1 RAGFlow cuts nothing: a chunk longer than the model takes makes the call a 400",
        ),
    ),
    "exposure": (
        (verify.CLOSED, "a container outside the network gets no response"),
        (verify.PUBLISHED, "other machines get no access"),
    ),
}
"""The checks of those layers that have several."""


MORE = {
    "Name or service not known": (
        "Also: Unknown host, Temporary failure in name resolution, Could not resolve host. It often "
        "happens after an upgrade of RAGFlow, because compose then created a new container, which is in "
        "the networks of its compose file alone. Docker's default network has no names at all."
    ),
    "Connection refused": (
        "When only RAGFlow says so, its base URL names localhost, 127.0.0.1 or port 8123, which inside "
        "its container all mean RAGFlow itself: it is http://ragflow-vllm-reranker:8000/v1."
    ),
    "timed out": (
        "Packets between two containers of one network pass the host's firewall where "
        "net.bridge.bridge-nf-call-iptables is 1, and a rule of the firewall can come before Docker's."
    ),
    "HTTP_PROXY ... would catch the call": (
        "NO_PROXY takes names, with all below them, and names with a port; a range of addresses such as "
        "172.16.0.0/12 excepts no name, as none is looked up. Where both spellings are set, the one in "
        "small letters counts, in v1.0 the other one. Compose reads .env when it creates a container: a "
        "restart is not enough."
    ),
    "HTML instead of JSON": "RAGFlow says: Expecting value: line 1 column 1 (char 0).",
    '401 {"error": "Unauthorized"}': (
        "RAGFlow shows it as if your own login had ended. A reranker that ragops started wants no key, and "
        "takes any but an empty one."
    ),
    "401 Unauthorized": "RAGFlow shows it as if your own login had ended.",
    "The model ... does not exist": (
        "RAGFlow v0.17.1 and v0.17.2 append ___VLLM to the name: upgrade those two."
    ),
    "404 {'detail': 'Not Found'}": (
        "A path of /v1/rerank/v1/rerank or /v1/rerank/rerank in the server's log shows that the base URL"
        " is too long. A server that writes text lists its model and has no such route either."
    ),
    "This model's maximum context length is": (
        "RAGFlow's VLLM provider cuts nothing. A table or paragraph can be longer than the chunk size."
    ),
    "The read operation timed out": (
        "RAGFlow waits 30 s, and 300 s before v0.25.3, for one call, and never tries again."
    ),
}
"""Further text for causes of a failure of verify, by their words."""


def layers() -> Iterator[str]:
    """Every check of verify: what it depends on, what it proves, and a command for it."""
    yield from [".. list-table::", "   :header-rows: 1", "   :widths: 22 20 36 22", ""]
    yield from row_of(("layer", "depends on", "proves", "by hand, in the container"))
    for layer, heading in TITLES.items():
        needs = ", ".join(TITLES[need] for need in NEEDS[layer]) or "none"
        proves, hand = PROVES.get(layer, ("", ""))
        hand = hand.format(host=HOST)
        checks = BELOW.get(layer) or ((heading, proves),)
        for name, proves in checks:
            command = f"``{hand}``" if hand.startswith(("curl", "getent")) else hand
            yield from row_of((name, needs, proves, command))
    yield ""


def recognised() -> Iterator[str]:
    """Every failure that verify recognizes, titled by its message."""
    for number, rule in enumerate(connection.RULES):
        yield from title(rule.words, "~", f"cause-{number}")
        cause = f"{rule.cause[0].upper()}{rule.cause[1:]}."
        yield from [inline(f"{cause} {MORE.get(rule.words, '')}"), ""]
        names = {"host": HOST, "where": "CONTAINER", "bridge": "BRIDGE", "tokens": "N"}
        remedy = rule.remedy.format(**names, timeout=RERANK_TIMEOUT)
        yield from [f"**What to do:** {inline(remedy)}.", ""]


def setup(_: Sphinx) -> dict[str, bool]:
    """Add the parts to those of ``generated.py``."""
    PARTS.update({"layers": layers, "causes": recognised})
    return {"parallel_read_safe": True, "parallel_write_safe": True}
