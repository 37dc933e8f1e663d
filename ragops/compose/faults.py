"""Faults of a compose file, each with its line, its reason and its fix; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragops.compose import container as container_rules
from ragops.compose import vllm as vllm_rules
from ragops.compose.advice import Case, Fault, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ragops.compose.advice import Severity
    from ragops.compose.read import Service
    from ragops.host import Host


@dataclass(frozen=True)
class Finding:
    """One fault at one place."""

    code: str
    severity: Severity
    """``error``: the server does not start or its scores are wrong; ``warning``: slower or less safe."""
    line: int
    message: str
    fix: str
    service: str


def _obsolete_version(case: Case) -> Iterator[Fault]:
    if case.version_line:
        message = "compose ignores version: and prints a warning each time"
        yield Fault("warning", case.version_line, message, "remove the line")


RULES: tuple[Rule, ...] = (
    Rule("compose-version", "an obsolete line, which compose ignores with a warning", _obsolete_version),
    *vllm_rules.RULES,
    *container_rules.RULES,
)
"""All rules; the table of the documentation is made from them."""


def find(rerankers: tuple[Service, ...], version_line: int, host: Host) -> tuple[Finding, ...]:
    """All faults of a file's rerankers, in the order of their lines; ``version_line`` as in :class:`Case`."""
    findings: list[Finding] = []
    for index, service in enumerate(rerankers):
        case = Case(service, host, 0 if index else version_line)
        for rule in RULES:
            for fault in rule.find(case):
                finding = Finding(
                    rule.code, fault.severity, fault.line, fault.message, fault.fix, service.name
                )
                findings.append(finding)
    return tuple(sorted(findings, key=lambda finding: (finding.line, finding.service)))
