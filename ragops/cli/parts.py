"""What the modules of the command share: a verb as a row of a table, and how it shows what came back.

Data goes to standard output, as text or with ``--json`` as JSON, and messages to standard error.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ragops.render import as_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

OK, FAILED, USAGE, PENDING = 0, 1, 2, 3
"""Exit codes."""

Options = argparse.Namespace
"""A command line, parsed."""

Option = tuple[tuple[str, ...], dict[str, Any]]


@dataclass(frozen=True)
class Verb:
    """What a word on the command line does, or the words that may follow it."""

    run: Callable[[Options], int] | Mapping[str, Verb]
    text: str
    options: tuple[Option, ...] = ()


def option(*flags: str, **settings: Any) -> Option:
    """One argument of a verb, as argparse takes it."""
    return flags, settings


def show(options: Options, record: Any, text: str | None = None) -> None:
    """Print what came back: the record as JSON when asked for, else the text, else the record."""
    print(as_json(record) if options.json else (str(record) if text is None else text))


def tell(line: str) -> None:
    """Print a message for the person who waits."""
    print(line, file=sys.stderr, flush=True)
