"""``.. error-index::``: the page of errors, generated from the code.

Every call that creates an error is read from its source, so each code is shown with the
message that is printed, variable parts in capital letters. ``tests/unit/test_errors.py`` compares the table
of codes with these calls.
"""  # noqa: INP001 - a folder of Sphinx extensions is no package

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import error_codes as codes
from error_examples import KINDS, Example, by_code, known, places
from generated import inline
from sphinx.util.docutils import SphinxDirective

from ragops import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docutils import nodes
    from sphinx.application import Sphinx

MANY = 3
"""Largest number of examples for one code."""


class ErrorIndex(SphinxDirective):
    """``.. error-index::``."""

    def run(self) -> list[nodes.Node]:
        """Parse the lines of :func:`page`."""
        return self.parse_text_to_nodes("\n".join(page()), allow_section_headings=True)


def page() -> Iterator[str]:
    """A section for each kind of error, below it one for each code."""
    examples = [*known(), *places()]
    grouped = by_code(examples)
    done: set[str] = set()
    for kind in _order():
        used = {example.code for example in examples if example.kind == kind} - done
        if used:
            doc = inspect.getdoc(KINDS[kind]) or ""
            yield from [f"``{kind}``", "-" * (len(kind) + 4), "", doc.splitlines()[0], ""]
        for name in sorted(used, key=list(codes.CODES | codes.EXPLAINED).index):
            yield from _section(name, grouped[name])
        done |= used


def _section(name: str, examples: list[Example]) -> Iterator[str]:
    title, code = f"``{name}``", codes.EXPLAINED[name]
    yield from [title, "~" * len(title), "", inline(code.meaning), ""]
    if name in codes.CODES and code.remedy:
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
