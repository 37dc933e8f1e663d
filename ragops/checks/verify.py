"""All that is asked from inside one RAGFlow container, layer upon layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ragops.checks import Check, budget, connection, questions, rules
from ragops.checks import budget as calls
from ragops.checks import budget as speed
from ragops.checks.probe import TITLES, ask_all, stopped_by
from ragops.checks.questions import Expected
from ragops.progress import step
from ragops.reranker import options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ragops.checks.probe import Layer, Reply, Round
    from ragops.checks.questions import Plan
    from ragops.docker.engine import Engine
    from ragops.docker.objects import ContainerState
    from ragops.ragflow.discovery import RagflowContainer
    from ragops.session import Deployment


@dataclass(frozen=True)
class Look:
    """What is looked at, and how closely."""

    engine: Engine
    wanted: Deployment
    reranker: ContainerState
    full: bool
    """Everything, however long it takes."""
    budget: bool
    """Whether RAGFlow's calls are timed."""

    @property
    def url(self) -> str:
        """The reranker's address as RAGFlow has it."""
        return self.wanted.stack.internal_url

    @property
    def expected(self) -> Expected:
        """The reranker as it is declared."""
        model = self.wanted.model
        longest = self.wanted.sizing.max_model_len
        return Expected(self.wanted.served_name, model.kind, longest, model.stand_in)

    def inside(self, found: RagflowContainer) -> Iterator[Check]:
        """The checks from one container, in the order of the table of layers."""
        image, served = self.reranker.image, self.wanted.served_name
        known, expected = options.known(self.wanted.model), self.expected
        about = connection.asked(found, self.url, served, known, trained=expected.trained)
        asked = questions.plan(expected, full=self.full)
        spare = rules.SPARE if self.budget else rules.HURRIED
        gate = rules.sent(expected, asked, self.url, full=self.full, spare=spare)
        most = "the whole golden set" if self.full else f"{gate.seconds:.0f} s at most"
        step(f"{found.name}: connection and scores, {most}")
        reached = connection.check(self.engine, found, image, about, self.reranker.name, gate)
        yield from reached.checks
        broken: set[Layer] = set() if reached.through else {"rerank"}
        asks: tuple[tuple[Layer, Callable[[], list[Check]]], ...]
        asks = (
            ("scores", lambda: self._scores(found, asked, gate, reached.replies)),
            ("budget", lambda: self._budget(found)),
        )
        for layer, ask in asks:
            if need := stopped_by(layer, broken):
                yield Check(TITLES[layer], "skip", f"it needs: {TITLES[need]}", "", found.name)
            else:
                yield from ask()

    def _scores(
        self, found: RagflowContainer, asked: Plan, gate: Round, replies: tuple[Reply, ...] | None
    ) -> list[Check]:
        if replies is None:  # curl can't ask so many
            replies = ask_all(self.engine, found.name, self.reranker.image, self.url, gate)
        return rules.judge(self.expected, questions.read(asked, replies), found.name)

    def _budget(self, found: RagflowContainer) -> list[Check]:
        if not self.budget:
            return [Check(TITLES["budget"], "skip", "not asked for", "", found.name)]
        model, expected = self.wanted.model, self.expected
        seen = calls.measure(self.engine, found, self.reranker.image, self.url, expected, full=self.full)
        faster = speed.advice(self.reranker, model, self.wanted.host)
        judged = budget.judge(seen, calls.profile(found, expected), expected, model.max_tokens, faster)
        return [replace(check, where=found.name) for check in judged]
