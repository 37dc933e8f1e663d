"""What notebooks show: pick containers, approve a plan, watch what runs, read what to enter.

Everything has a plain twin, so that a notebook reads the same without a live frontend; see ``parts.py``.
"""

from __future__ import annotations

from ragops.widgets.choose import Approval, Picker, approve, enter, pick
from ragops.widgets.parts import WIDGETS, Text, live
from ragops.widgets.tables import Table, address_table
from ragops.widgets.watch import progress, telling, watch

__all__ = [
    "WIDGETS",
    "Approval",
    "Picker",
    "Table",
    "Text",
    "address_table",
    "approve",
    "enter",
    "live",
    "pick",
    "progress",
    "telling",
    "watch",
]
