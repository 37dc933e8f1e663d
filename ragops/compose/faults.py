"""Faults of a compose file, each with its line, its reason and its fix; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragops.compose.advice import Case, Fault
from ragops.compose.container import CONTAINER_RULES
from ragops.compose.vllm import VLLM_RULES

if TYPE_CHECKING:
    from ragops.compose.read import Service
    from ragops.host import Host

RULES = (*VLLM_RULES, *CONTAINER_RULES)
"""All rules; the table of the documentation is made from them."""


@dataclass(frozen=True)
class Finding(Fault):
    """A fault with the code of its rule and the name of its service."""

    code: str
    service: str


def find(rerankers: tuple[Service, ...], version_line: int, host: Host) -> tuple[Finding, ...]:
    """All faults of a file's rerankers, in the order of their lines; ``version_line`` as in :class:`Case`."""
    findings: list[Finding] = []
    for index, service in enumerate(rerankers):
        case = Case(service, host, 0 if index else version_line)
        for rule in RULES:
            faults = rule.find(case)
            findings += [Finding(**vars(fault), code=rule.code, service=service.name) for fault in faults]
    return tuple(sorted(findings, key=lambda finding: (finding.line, finding.service)))
