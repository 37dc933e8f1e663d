"""ragops: a self-hosted vLLM reranker beside RAGFlow, connected, verified and measured.

::

    stack = ragops.load_stack()
    ragops.up(stack)
    print(ragops.verify(stack))

The verbs are in :mod:`ragops.verbs`, benchmarks in :mod:`ragops.bench`, stand-ins for tests and
demonstrations in :mod:`ragops.testing`.
"""

from __future__ import annotations

from ragops.bench import load_run
from ragops.bench.tune import TuneResult, tune
from ragops.checks import Check, Report
from ragops.checks.host import check as doctor
from ragops.compose import check_file
from ragops.engine import Engine
from ragops.engine import connect as connect_engine
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
from ragops.measure import benchmark, benchmark_url, max_words
from ragops.measure import resume as resume_benchmark
from ragops.planning import Plan
from ragops.ragflow.secret import Secret
from ragops.registration import Registration, register, unregister
from ragops.stack import Stack
from ragops.stack import load as load_stack
from ragops.verbs import Status, connect, disconnect, down, override, plan, status, up, verify

__all__ = [
    "BenchError",
    "Check",
    "ComposeError",
    "Engine",
    "EngineError",
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
    "load_run",
    "load_stack",
    "max_words",
    "override",
    "plan",
    "register",
    "resume_benchmark",
    "status",
    "tune",
    "unregister",
    "up",
    "verify",
]
