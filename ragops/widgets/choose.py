"""What a person decides in a notebook: which containers to connect, and whether a plan is carried out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ragops.engine import connect
from ragops.errors import RagopsError
from ragops.ragflow.discovery import RagflowContainer, find, is_ragflow
from ragops.registration import Access, Registered, register
from ragops.stack import Ragflow
from ragops.widgets.parts import Text, choice, column, display, live, page, switch

if TYPE_CHECKING:
    from ragops.engine import Engine
    from ragops.planning import Plan
    from ragops.stack import Stack


class Picker:
    """Lets one pick the containers that join the network; all that look like RAGFlow at first.

    Args:
        found: Containers that look like RAGFlow.
        stack: The declaration; containers that it names are the ones picked at first.
    """

    def __init__(self, found: tuple[RagflowContainer, ...], stack: Stack) -> None:
        self._found = {one.name: one for one in found}
        names = [name for name in self._found if name in stack.ragflow.containers] or list(self._found)
        self._stack, self._names = stack, tuple(names)
        self._widget: Any = None

    @property
    def picked(self) -> tuple[str, ...]:
        """Names of the containers that are picked at this moment."""
        return tuple(self._widget.value) if self._widget is not None else self._names

    @property
    def stack(self) -> Stack:
        """The declaration, with the picked containers in it."""
        return self._stack.model_copy(update={"ragflow": Ragflow(containers=self.picked)})

    def __str__(self) -> str:
        """One line a container."""
        lines = [
            f"{'*' if name in self.picked else ' '} {_described(self._found[name])}" for name in self._found
        ]
        return "\n".join(lines) or "no container here looks like RAGFlow"

    __repr__ = __str__

    def _ipython_display_(self) -> None:
        if not (live() and self._found):
            display(Text(str(self)))
            return
        rows = [(_described(one), name) for name, one in self._found.items()]
        self._widget = choice(rows, self._names, "Connect")
        display(self._widget)


def pick(stack: Stack, engine: Engine | None = None) -> Picker:
    """Offer the containers of the engine that look like RAGFlow, or stand in for it.

    Args:
        stack: The declaration.
        engine: Where; connected when left out.
    """
    containers = (engine or connect()).containers()
    return Picker(tuple(RagflowContainer(one) for one in containers if is_ragflow(one)), stack)


class Approval:
    """A plan, and whether somebody said yes to it. Where nobody can be asked, it counts as given.

    Args:
        plan: What would be done.
        given: Whether it was approved beforehand.
    """

    def __init__(self, plan: Plan, *, given: bool = False) -> None:
        self.plan = plan
        self._given = given or plan.empty
        self._switch: Any = None

    @property
    def given(self) -> bool:
        """Whether the plan may be carried out now."""
        return self._given or (self._switch is not None and bool(self._switch.value))

    def require(self) -> None:
        """Go on only with an approved plan.

        Raises:
            RagopsError: It was shown with a button, and the button was not pressed.
        """
        if not self.given:
            raise RagopsError(
                "the plan is not approved, so nothing was changed",
                evidence=str(self.plan),
                hint="press Approve below the plan, then run this cell again",
            )

    def __str__(self) -> str:
        """The plan in words and as docker commands."""
        return "\n\n".join(part for part in (str(self.plan), "\n".join(self.plan.commands())) if part)

    __repr__ = __str__

    def _ipython_display_(self) -> None:
        if self._given or not live():
            self._given = True
            display(self.plan)
            return
        self._switch = switch("Approve")
        display(column(page(self.plan._repr_html_()), self._switch))


def approve(plan: Plan, *, given: bool = False) -> Approval:
    """Show a plan and ask for a yes; a live frontend gets a button, else the yes is given.

    Args:
        plan: What would be done.
        given: True asks nobody.
    """
    return Approval(plan, given=given)


def enter(stack: Stack, *, wanted: bool) -> Registered | Text:
    """Enter the reranker into RAGFlow through its API, or say what it would take.

    RAGFlow's API token is taken from ``RAGOPS_RAGFLOW_TOKEN``; it is shown nowhere.

    Args:
        stack: The declaration.
        wanted: Whether to do it.

    Raises:
        RagflowError: RAGFlow refuses, or is of an unknown release; nothing half made stays.
    """
    found = find(connect().containers(), stack.ragflow)
    if any(one.demo for one in found):
        return Text(f"{found[0].name} is the demo client, a stand-in: it has no settings")
    if not wanted:
        return Text("nothing was entered: REGISTER = True does it, with a token in RAGOPS_RAGFLOW_TOKEN")
    return register(stack, Access.given())


def _described(one: RagflowContainer) -> str:
    kind = "demo client, a stand-in" if one.demo else one.release or one.container.image
    return f"{one.name} ({kind}, {one.container.status})"
