"""ragops: a self-hosted vLLM reranker for RAGFlow: connected, verified and measured.

::

    stack = ragops.load_stack()
    ragops.up(stack)
    print(ragops.verify(stack))

Names are imported when they are first used. The verbs are in :mod:`ragops.stack.verbs`, benchmarks in
:mod:`ragops.bench`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ragops.bench.measure import benchmark, benchmark_url, max_words
    from ragops.bench.measure import resume as resume_benchmark
    from ragops.bench.records import load_run
    from ragops.bench.tune import TuneResult, tune
    from ragops.checks import Check, Report
    from ragops.checks.doctor import doctor as doctor
    from ragops.compose import check_file
    from ragops.configuration import Stack
    from ragops.configuration import load as load_stack
    from ragops.docker.engine import Engine
    from ragops.docker.engine import connect as connect_engine
    from ragops.errors import (
        BenchError,
        ComposeError,
        EngineError,
        ImageError,
        InUseError,
        LaunchError,
        LockedError,
        ModelError,
        NotFoundError,
        RagflowError,
        RagopsError,
        StackError,
    )
    from ragops.ragflow.api import Secret
    from ragops.reranker.estimate import Estimate, estimate
    from ragops.stack.plan import Plan
    from ragops.stack.registration import Registration, register, unregister
    from ragops.stack.verbs import (
        Status,
        connect,
        disconnect,
        down,
        override,
        plan,
        scale,
        status,
        up,
        verify,
    )

__all__ = [
    "BenchError",
    "Check",
    "ComposeError",
    "Engine",
    "EngineError",
    "Estimate",
    "ImageError",
    "InUseError",
    "LaunchError",
    "LockedError",
    "ModelError",
    "NotFoundError",
    "Plan",
    "RagflowError",
    "RagopsError",
    "Registration",
    "Report",
    "Secret",
    "Stack",
    "StackError",
    "Status",
    "TuneResult",
    "benchmark",
    "benchmark_url",
    "check_file",
    "connect",
    "connect_engine",
    "disconnect",
    "doctor",
    "down",
    "estimate",
    "load_run",
    "load_stack",
    "max_words",
    "override",
    "plan",
    "register",
    "resume_benchmark",
    "scale",
    "status",
    "tune",
    "unregister",
    "up",
    "verify",
]

_MODULES = {
    "bench": "load_run",
    "bench.measure": "benchmark benchmark_url max_words resume:resume_benchmark",
    "bench.tune": "TuneResult tune",
    "checks": "Check Report",
    "checks.doctor": "doctor",
    "compose": "check_file",
    "configuration": "Stack load:load_stack",
    "docker.engine": "Engine connect:connect_engine",
    "errors": "BenchError ComposeError EngineError ImageError InUseError LaunchError LockedError ModelError "
    "NotFoundError RagflowError RagopsError StackError",
    "ragflow.api": "Secret",
    "reranker.estimate": "Estimate estimate",
    "stack.plan": "Plan",
    "stack.registration": "Registration register unregister",
    "stack.verbs": "Status connect disconnect down override plan scale status up verify",
}
"""The modules of the public names, as above; ``name:alias`` where the public name is another."""


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        for entry in names.split():
            attribute, _, alias = entry.partition(":")
            if name == (alias or attribute):
                value = getattr(importlib.import_module(f"ragops.{module}"), attribute)
                globals()[name] = value
                return value
    msg = f"module 'ragops' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return __all__
