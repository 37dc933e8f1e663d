"""``.. error-index:: [PAGE]``: the pages of errors, generated from the code: an index, or one page.

Every call that creates an error is read from its source, so each code is shown with the
message that is printed, variable parts in capital letters. The meanings are in ``ragops/data/errors.tsv``;
``tests/unit/test_errors.py`` compares them with these calls.
"""  # noqa: INP001 - a folder of Sphinx extensions is no package

from __future__ import annotations

import inspect
from functools import cache
from typing import TYPE_CHECKING

from error_examples import KINDS, Example, by_code, known, places
from generated import inline
from sphinx.util.docutils import SphinxDirective

from ragops import errors
from ragops.cli.setup import error_codes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from docutils import nodes
    from sphinx.application import Sphinx

CODES = error_codes()
MANY = 3
"""Largest number of examples for one code."""
PAGES = {
    "errors_configuration": ("StackError", "ModelError", "ComposeError"),
    "errors_docker": (
        "EngineError",
        "NotFoundError",
        "LaunchError",
        "ImageError",
        "InUseError",
        "LockedError",
    ),
    "errors_ragflow": ("RagflowError",),
    "errors_bench": ("BenchError", "RagopsError"),
}
"""The pages of errors with their classes; the page ``errors`` is an index of all codes."""


class ErrorIndex(SphinxDirective):
    """``.. error-index:: [PAGE]``."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse the lines of :func:`page`, or of :func:`index` without an argument."""
        lines = page(self.arguments[0]) if self.arguments else index()
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def index() -> Iterator[str]:
    """A row for each code, with the page that explains it; the code is an anchor."""
    for name, kinds in PAGES.items():
        yield from [f".. rubric:: :doc:`{name}`", "", ".. list-table::", "   :class: ragops-fields", ""]
        for code in (code for kind in kinds for code in _codes()[kind]):
            meaning = CODES[code][0].cause.replace("``", "")  # a link has no literals
            link = f"`{inline(meaning)} <{name}.html#{code}>`__"
            yield from [f"   * - _`{code}`", f"     - {link}"]
        yield ""


def page(name: str) -> Iterator[str]:
    """A section for each class of errors of a page, below it one for each code."""
    examples = by_code([*known(), *places()])
    for kind in PAGES[name]:
        if _codes()[kind]:
            doc = inspect.getdoc(KINDS[kind]) or ""
            yield from [f"``{kind}``", "-" * (len(kind) + 4), "", doc.splitlines()[0], ""]
        for code in _codes()[kind]:
            yield from _section(code, examples[code])


@cache
def _codes() -> Mapping[str, list[str]]:
    """The codes of each class of errors; a code of several belongs to the first."""
    examples, order = [*known(), *places()], list(CODES)
    result: dict[str, list[str]] = {}
    for kind in _order():
        done = {code for names in result.values() for code in names}
        used = {example.code for example in examples if example.kind == kind} - done
        result[kind] = sorted(used, key=order.index)
    return result


def _section(name: str, examples: list[Example]) -> Iterator[str]:
    title, code = f"``{name}``", CODES[name][0]
    yield from [title, "~" * len(title), "", inline(code.cause), ""]
    if not examples[0].hint:
        yield from [f"**What to do:** {inline(code.remedy)}.", ""]
    for example in examples[:MANY]:
        yield from [".. code-block:: none", "", *(f"   {line}" for line in example.lines()), ""]


def _order() -> Iterator[str]:
    """The error classes in the order of their definition, the base class last."""
    base, *kinds = (name for name in vars(errors) if name in KINDS)
    yield from [*kinds, base]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("error-index", ErrorIndex)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
