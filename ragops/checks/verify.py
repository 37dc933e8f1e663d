"""Checks of one RAGFlow container, layer by layer: connection, scores, response times."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ragops.checks import Check, budget, connection, failed_check, rules
from ragops.checks.connection import ConnectionResult
from ragops.checks.probe import TITLES, stopped_by
from ragops.checks.questions import Expected, parse_responses, plan_requests
from ragops.progress import step
from ragops.reranker import options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ragops.checks.probe import Layer
    from ragops.docker.engine import Engine
    from ragops.docker.objects import ContainerState
    from ragops.ragflow.discovery import RagflowContainer
    from ragops.session import Deployment


@dataclass(frozen=True)
class VerifyContext:
    """What the checks of all RAGFlow containers share."""

    engine: Engine
    deployment: Deployment
    reranker: ContainerState
    full: bool
    """The whole golden set and all timed calls, however long they take."""
    budget: bool
    """Whether RAGFlow's calls are timed."""

    @property
    def url(self) -> str:
        """The reranker's address as RAGFlow has it."""
        return self.deployment.stack.internal_url

    @property
    def expected(self) -> Expected:
        """The reranker as it is configured."""
        model, length = self.deployment.model, self.deployment.sizing.max_model_len
        return Expected(self.deployment.served_name, model.kind, length, model.substitute)


def checks_for(ragflow: RagflowContainer, context: VerifyContext) -> Iterator[Check]:
    """The checks from one RAGFlow container, in the order of :data:`~ragops.checks.probe.TABLE`.

    An exception in one of them is a failed check; those that do not need it go on.
    """
    engine, image, url, expected = context.engine, context.reranker.image, context.url, context.expected
    plan = plan_requests(expected, full=context.full)
    spare = rules.SPARE if context.budget else rules.HURRIED
    batch = rules.batch(expected, plan, url, full=context.full, spare=spare)
    duration = "the whole golden set" if context.full else f"{batch.seconds:.0f} s at most"
    step(f"{ragflow.name}: connection and scores, {duration}")
    known = options.known(context.deployment.model)
    target = connection.target(ragflow, url, expected.model, known, trained=expected.trained)
    try:
        result = connection.check(engine, ragflow, image, target, context.reranker.name, batch)
    except Exception as error:  # noqa: BLE001 - reported as a failed check
        result = ConnectionResult((failed_check(TITLES["rerank"], error, ragflow.name),))
    yield from result.checks
    failed: set[Layer] = set() if result.rerank_succeeded else {"rerank"}
    layers: tuple[Layer, ...] = ("scores", "budget")
    for layer in layers:
        if need := stopped_by(layer, failed):
            yield Check(TITLES[layer], "skip", f"it needs: {TITLES[need]}", "", ragflow.name)
            continue
        try:
            if layer == "budget":
                yield from _budget(ragflow, context)
                continue
            results = parse_responses(plan, result.responses)
            yield from rules.check_scores(expected, results, ragflow.name)
        except Exception as error:  # noqa: BLE001 - reported as a failed check
            yield failed_check(TITLES[layer], error, ragflow.name)


def _budget(ragflow: RagflowContainer, context: VerifyContext) -> list[Check]:
    if not context.budget:
        return [Check(TITLES["budget"], "skip", "not requested", "", ragflow.name)]
    reranker, model, expected = context.reranker, context.deployment.model, context.expected
    calls = budget.time_calls(
        context.engine, ragflow, reranker.image, context.url, expected, full=context.full
    )
    advice = budget.speed_advice(reranker, model, context.deployment.host)
    profile = budget.call_profile(ragflow, expected)
    checks = budget.check_calls(calls, profile, expected, model.max_tokens, advice)
    return [replace(check, where=ragflow.name) for check in checks]
