"""What a rule says about a service, and the values that would be right for it; pure.

The values come from ``vllm.py`` and ``sizing.py``, so that a mended file and ``ragops up`` agree.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ragops import sizing, vllm
from ragops.compose.read import OVERRIDES_VARIABLE
from ragops.errors import StackError
from ragops.host import format_cpu_list
from ragops.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ragops.compose.read import Service
    from ragops.host import Core, Host
    from ragops.vllm import Known

Severity = Literal["error", "warning"]

_UNITS = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?", re.IGNORECASE)
_DEFAULTS = Stack()


@dataclass(frozen=True)
class Fault:
    """What one rule found at one place."""

    severity: Severity
    line: int
    message: str
    fix: str


@dataclass(frozen=True)
class Case:
    """One reranker on one machine: all that a rule looks at."""

    service: Service
    host: Host
    share: tuple[int, int] = (0, 1)
    """Which of how many rerankers in the file; they divide the cores."""

    @property
    def known(self) -> Known | None:
        """What the model's kind needs from vLLM; None when the kind isn't known."""
        return next((row for row in vllm.KNOWN if row.kind == self.service.served.kind), None)

    @property
    def causal(self) -> bool:
        """Whether the model keeps a key-value cache; unknown ones may."""
        return self.service.served.kind not in {"cross-encoder", "embedding"}

    @property
    def dtype(self) -> str:
        """The fastest arithmetic of this machine's processor."""
        return sizing.dtype(_DEFAULTS, self.host)

    @property
    def max_len(self) -> int:
        """Longest input that the file asks for, else the usual one, within what the model can."""
        wanted = parse_size(self.service.launch.value("--max-model-len")) or sizing.LONGEST
        return min(wanted, self.service.served.max_tokens or wanted)

    @property
    def kv_need(self) -> int:
        """Bytes of key-value cache that one document of the greatest length takes."""
        small = "0.6b" in f"{self.service.served.name} {self.service.served.path}".lower()
        per_token = (112 if small else 144) * 1024 * (2 if self.dtype == "float32" else 1)
        return per_token * self.max_len if self.causal else 0

    @property
    def kv_cache(self) -> int:
        """Key-value cache in bytes: whole GiB, at least two; an encoder has to be told a size too."""
        if not self.causal:
            return 64 * sizing.MIB
        return max(2, math.ceil(self.kv_need / sizing.GIB)) * sizing.GIB

    @property
    def name(self) -> str:
        """Name to serve under: what RAGFlow and URLs take as it is."""
        found = self.service.served.name or self.service.name
        return re.sub(r"[^a-z0-9._-]+|_{3,}", "-", found.lower()).strip("-._") or "reranker"

    @property
    def overrides(self) -> str:
        """Value of ``--hf-overrides``: what the model needs over what the file says; may be empty."""
        said = _overrides(self.service)
        needed = json.loads(self.known.overrides) if self.known and self.known.overrides else {}
        return json.dumps({**said, **needed}) if said or needed else ""

    @property
    def cores(self) -> tuple[Core, ...]:
        """CPUs for this reranker: as many as its quota, at most its share of the machine's."""
        try:
            free = sizing.cores(_DEFAULTS, self.host)
        except StackError:
            return ()
        index, count = self.share
        size = len(free) // count or len(free)
        own = free[index * size : (index + 1) * size] or free
        return own[: max(1, int(self.quota))] if self.quota else own

    @property
    def cpuset(self) -> str:
        """The CPUs as a list; empty when this machine's aren't known."""
        return format_cpu_list(core.cpu for core in self.cores)

    @property
    def threads(self) -> str:
        """CPUs that compute, as a list."""
        return format_cpu_list(sizing.compute_cpus(self.cores))

    @property
    def quota(self) -> float:
        """The CPU quota in cores that the file sets; 0 for none."""
        texts = (self.service.text(*keys) for keys in (("deploy", "resources", "limits", "cpus"), ("cpus",)))
        return next((float(text) for text in texts if re.fullmatch(r"\d*\.?\d+", text)), 0.0)


@dataclass(frozen=True)
class Rule:
    """A fault that can be told, under a name of its own."""

    code: str
    summary: str
    find: Callable[[Case], Iterator[Fault]]


def parse_size(text: str) -> int | None:
    """Bytes or tokens in texts such as ``4g``, ``512mb`` and ``8192``; None for anything else."""
    match = _SIZE.fullmatch(text.strip())
    return int(float(match[1]) * 1024 ** _UNITS[match[2].lower()]) if match else None


def as_map(text: str) -> dict[str, object] | None:
    """A JSON object, or None."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _overrides(service: Service) -> dict[str, object]:
    """Overrides that the file gives, as a flag or in a variable that nothing reads."""
    texts = [view.text for name, view in service.environment.items() if OVERRIDES_VARIABLE.fullmatch(name)]
    texts.append(service.launch.value("--hf-overrides"))
    return {key: value for text in texts if text for key, value in (as_map(text) or {}).items()}
