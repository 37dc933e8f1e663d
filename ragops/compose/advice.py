"""What the rules look at, and the values that they recommend; pure.

The values come from ``vllm.py`` and ``sizing.py``, so they are those that ``ragops up`` uses.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ragops import sizing, vllm
from ragops.errors import StackError
from ragops.host import format_cpu_list
from ragops.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ragops.compose.read import Service
    from ragops.host import Host
    from ragops.vllm import Known

Severity = Literal["error", "warning"]

_UNITS = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)(?:i?b)?", re.IGNORECASE)
_DEFAULTS = Stack()


@dataclass(frozen=True)
class Fault:
    """A fault at one place."""

    severity: Severity
    """``error``: the server does not start or its scores are wrong; ``warning``: slower or less safe."""
    line: int
    message: str
    fix: str


@dataclass(frozen=True)
class Case:
    """One reranker on one machine: the input of a rule."""

    service: Service
    host: Host
    version_line: int = 0
    """Line of the file's obsolete ``version:``, for its first reranker; 0 if there is none."""

    @property
    def known(self) -> Known | None:
        """What the model's kind needs from vLLM; None if the kind is unknown."""
        for row in vllm.KNOWN:
            if row.kind == self.service.served.kind:
                return row
        return None

    @property
    def overrides(self) -> str:
        """Value of ``--hf-overrides`` for the model's kind; empty if it needs none."""
        return self.known.overrides if self.known else ""

    @property
    def causal(self) -> bool:
        """Whether the model has a key-value cache; a model of unknown kind may have one."""
        return self.service.served.kind not in {"cross-encoder", "embedding"}

    @property
    def dtype(self) -> str:
        """The fastest data type on this machine's processor."""
        return sizing.dtype(_DEFAULTS, self.host)

    @property
    def max_len(self) -> int:
        """``--max-model-len`` of the file, else the default, at most the model's maximum."""
        wanted = parse_size(self.service.command.value("--max-model-len")) or sizing.LONGEST
        model = self.service.served.model
        return min(wanted, (model.max_tokens if model else None) or wanted)

    @property
    def kv_need(self) -> int:
        """Bytes of key-value cache for one document of the greatest length."""
        small = "0.6b" in f"{self.service.served.name} {self.service.served.path}".lower()
        per_token = (112 if small else 144) * 1024 * (2 if self.dtype == "float32" else 1)
        return per_token * self.max_len if self.causal else 0

    @property
    def kv_cache(self) -> int:
        """Recommended key-value cache in bytes: whole GiB, at least two; 64 MiB for an encoder."""
        if not self.causal:
            return 64 * sizing.MIB
        return max(2, math.ceil(self.kv_need / sizing.GIB)) * sizing.GIB

    @property
    def name(self) -> str:
        """Recommended served name, which RAGFlow and URLs take unchanged."""
        name = self.service.served.name or self.service.name
        return re.sub(r"[^a-z0-9._-]+|_{3,}", "-", name.lower()).strip("-._") or "reranker"

    @property
    def cpuset(self) -> str:
        """Recommended CPU list; empty if the machine's cores are unknown."""
        try:
            return format_cpu_list(core.cpu for core in sizing.cores(_DEFAULTS, self.host))
        except StackError:
            return ""


@dataclass(frozen=True)
class Rule:
    """A kind of fault, with a stable code."""

    code: str
    summary: str
    find: Callable[[Case], Iterator[Fault]]


def parse_size(text: str) -> int | None:
    """Bytes or tokens from ``4g``, ``512mb`` or ``8192``; None for anything else."""
    match = _SIZE.fullmatch(text.strip())
    return int(float(match[1]) * 1024 ** _UNITS[match[2].lower()]) if match else None


def parse_object(text: str) -> dict[str, object] | None:
    """A JSON object; None for anything else."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
