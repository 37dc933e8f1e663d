"""Sample the counters of a running reranker: its container, vLLM's metrics, and the machine."""

from __future__ import annotations

import os
import re
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from ragops.bench import Sample

if TYPE_CHECKING:
    from ragops.engine import Engine

_LINE = re.compile(r"^([a-z_:]+)(?:\{([^}]*)\})? ([-+0-9.e]+)$", re.MULTILINE)
_NAMES = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:prefix_cache_hits_total": "cached_tokens",
    "http_requests_total": "calls",
}
_NANO = 1_000_000_000


@dataclass(frozen=True)
class Sampler:
    """Takes one sample; values that can't be read are None.

    Args:
        base_url: Address of the reranker, ending in ``/v1``.
        engine: The Docker engine; None for a server without a container of ragops.
        container: The container's id.
        proc: The machine's CPU counters.
    """

    base_url: str
    engine: Engine | None = None
    container: str = ""
    proc: Path = Path("/proc/stat")

    def __call__(self) -> Sample:
        """One sample; its time is that of the start."""
        t = time.perf_counter_ns()
        used = self.engine.stats(self.container) if self.engine else None
        metrics = self._metrics()
        busy, stolen = _machine(self.proc)
        return Sample(
            t=t,
            cpu_ns=used.cpu_ns if used else None,
            throttled_ns=used.throttled_ns if used else None,
            throttled_periods=used.throttled_periods if used else None,
            memory_bytes=used.memory_bytes if used else None,
            running=metrics.get("running"),
            waiting=metrics.get("waiting"),
            calls=metrics.get("calls"),
            prompt_tokens=metrics.get("prompt_tokens"),
            cached_tokens=metrics.get("cached_tokens"),
            host_busy_ns=busy,
            host_stolen_ns=stolen,
            client_ns=time.process_time_ns(),
        )

    def _metrics(self) -> dict[str, int]:
        try:
            address = self.base_url.removesuffix("/v1") + "/metrics"
            return parse(httpx.get(address, timeout=2, trust_env=False).raise_for_status().text)
        except httpx.HTTPError:
            return {}


def parse(metrics: str) -> dict[str, int]:
    """The values of a sample in the text of ``/metrics``, summed over engines and models.

    Of HTTP requests only those of the rerank routes count. A counter that vLLM creates at its first use
    is 0 until then.
    """
    found: dict[str, float] = defaultdict(float)
    for name, labels, value in _LINE.findall(metrics):
        if name in _NAMES and (name != "http_requests_total" or "rerank" in labels):
            found[_NAMES[name]] += float(value)
    if "http_requests_total" in metrics:
        found["calls"] += 0.0
    return {name: int(value) for name, value in found.items()}


def _machine(proc: Path) -> tuple[int | None, int | None]:
    """CPU time of the whole machine, and withheld by the hypervisor, in ns."""
    try:
        first = proc.read_text(encoding="ascii").partition("\n")[0].split()[1:9]
    except (OSError, UnicodeDecodeError):
        return None, None
    user, nice, system, _, _, irq, softirq, steal = map(int, first)
    tick = _NANO // os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) * tick, steal * tick
