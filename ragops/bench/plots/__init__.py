"""Figures of a recorded run; the only package that imports matplotlib.

Each takes what ``records.load_run`` gives and returns a Figure; what is drawn comes from
``series.py``, ``shape.py`` and ``stats.py``. Colours are Okabe and Ito's, and every series has a
marker or line of its own and its name beside it, so that a print in grey can be read too. With
``narrow`` a figure is drawn for a phone: panels below each other, letters as large as on a page.
"""

from __future__ import annotations

from ragops.bench.plots.clock import resources, timeline
from ragops.bench.plots.frame import png, svg
from ragops.bench.plots.levels import percentile_curve, throughput
from ragops.bench.plots.sizes import latency_by_size, latency_map

__all__ = [
    "latency_by_size",
    "latency_map",
    "percentile_curve",
    "png",
    "resources",
    "svg",
    "throughput",
    "timeline",
]
