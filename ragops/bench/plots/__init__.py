"""Charts of a recorded run; the only package that imports matplotlib.

Colours are Okabe and Ito's, and every series has its own marker or line with its name beside it, readable in
grey too. With ``narrow`` a chart is laid out for a phone: panels below each other, text in the same size.
"""

from ragops.bench.plots.charts import (
    latency_by_size,
    latency_map,
    percentile_curve,
    resources,
    throughput,
    timeline,
)
from ragops.bench.plots.frame import png, svg

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
