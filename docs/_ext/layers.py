"""Parts of pages that are generated from ``ragops/checks``: layers of verify and causes."""  # noqa: INP001 - a folder of Sphinx extensions is no package

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from generated import PARTS, inline, row_of, title

from ragops import configuration
from ragops.checks import budget, causes, rules, verify
from ragops.checks.probe import TABLE, TITLES
from ragops.ragflow.request import RERANK_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sphinx.application import Sphinx

HOST = configuration.Stack().reranker.name

BELOW: Mapping[str, tuple[tuple[str, str], ...]] = {
    "scores": tuple((name, (inspect.getdoc(rule) or "").rstrip(".")) for name, rule in rules.RULES),
    "budget": tuple(budget.PROVES.items()),
    "exposure": tuple(verify.PROVES.items()),
}
"""The checks of those layers that have several."""


def layers() -> Iterator[str]:
    """Every check of verify: what it depends on, what it proves, and a command for it."""
    yield from [".. list-table::", "   :header-rows: 1", "   :widths: 22 20 36 22", ""]
    yield from row_of(("layer", "depends on", "proves", "by hand, in the container"))
    for row in TABLE:
        needs = ", ".join(TITLES[need] for need in row.needs) or "none"
        hand = row.by_hand.format(host=HOST)
        checks = BELOW.get(row.layer) or ((row.title, row.proves),)
        for name, proves in checks:
            command = f"``{hand}``" if hand.startswith(("curl", "getent")) else hand
            yield from row_of((name, needs, proves, command))
    yield ""


def recognised() -> Iterator[str]:
    """Every failure that verify recognizes, titled by its message."""
    for number, rule in enumerate(causes.RULES):
        yield from title(rule.words, "~", f"cause-{number}")
        cause = f"{rule.cause[0].upper()}{rule.cause[1:]}."
        yield from [inline(f"{cause} {rule.more}"), ""]
        remedy = rule.remedy.format(host=HOST, where="CONTAINER", timeout=RERANK_TIMEOUT)
        yield from [f"**What to do:** {inline(remedy)}.", ""]


def setup(_: Sphinx) -> dict[str, bool]:
    """Add the parts to those of ``generated.py``."""
    PARTS.update({"layers": layers, "causes": recognised})
    return {"parallel_read_safe": True, "parallel_write_safe": True}
