"""Charts of a recorded run; the only package that imports matplotlib.

Colours are Okabe and Ito's, and every series has its own marker or line with its name beside it, readable in
grey too. With ``narrow`` a chart is laid out for a phone: panels below each other, text in the same size.
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
