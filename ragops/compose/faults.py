"""Faults of a compose file, each with its line, its reason and its fix; pure.

The rules are in ``vllm.py`` and ``container.py``; :data:`RULES` is their table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragops.compose import container as container_rules
from ragops.compose import vllm as vllm_rules
from ragops.compose.advice import Case, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ragops.compose.advice import Fault, Severity
    from ragops.compose.read import ComposeFile
    from ragops.host import Host


@dataclass(frozen=True)
class Finding:
    """One fault at one place."""

    code: str
    severity: Severity
    """``error``: it can't work or gives wrong scores; ``warning``: slower or less safe than it could be."""
    line: int
    message: str
    fix: str
    service: str = ""
    """Empty for what concerns the whole file."""

    def to_json(self) -> dict[str, str | int]:
        """What ``ragops check --json`` says about it."""
        names = ("code", "severity", "line", "message", "fix")
        return {name: getattr(self, name) for name in names}


def _nothing(_: Case) -> Iterator[Fault]:
    """For a fault of the file, which no service has."""
    yield from ()


RULES: tuple[Rule, ...] = (
    Rule("compose-version", "a line that compose ignores and warns of", _nothing),
    *vllm_rules.RULES,
    *container_rules.RULES,
)
"""All that can be told; the documentation's table is made from it."""


def find(file: ComposeFile, host: Host) -> tuple[Finding, ...]:
    """All faults, in the order of their lines. A file without a vLLM reranker has none."""
    found = list(_version(file)) if file.rerankers else []
    for case in cases(file, host):
        for rule in (*vllm_rules.RULES, *container_rules.RULES):
            found += [_finding(rule.code, fault, case) for fault in rule.find(case)]
    return tuple(sorted(found, key=lambda one: (one.line, one.service)))


def cases(file: ComposeFile, host: Host) -> tuple[Case, ...]:
    """Each reranker on the machine, with its share of the cores."""
    count = len(file.rerankers)
    return tuple(Case(service, host, (index, count)) for index, service in enumerate(file.rerankers))


def _version(file: ComposeFile) -> Iterator[Finding]:
    if found := file.source.root.get("version"):
        message = "compose ignores version: and warns of it each time"
        yield Finding("compose-version", "warning", found.line, message, "take the line out")


def _finding(code: str, fault: Fault, case: Case) -> Finding:
    return Finding(code, fault.severity, fault.line, fault.message, fault.fix, case.service.name)
