"""What to do next, for the state that is found; what ``ragops`` alone says.

:func:`step` is pure; :func:`look` asks the engine first, and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragops import verbs
from ragops.engine import connect
from ragops.errors import EngineError

if TYPE_CHECKING:
    from ragops.engine import Engine
    from ragops.stack import Stack
    from ragops.verbs import Status


@dataclass(frozen=True)
class Step:
    """What is, and the command that comes next."""

    found: str
    command: str
    does: str

    def __str__(self) -> str:
        """Two lines."""
        return f"{self.found}\nnext: {self.command}  ({self.does})"


def look(stack: Stack, engine: Engine | None = None) -> Step:
    """The next step on this machine.

    Raises:
        RagopsError: The declaration can't be worked out; its hint is the next step then.
    """
    try:
        engine = engine or connect()
    except EngineError as error:
        return Step(error.message, "ragops engine start", "uses or starts one; see also: ragops doctor")
    image = stack.reranker.image
    return step(verbs.status(stack, engine), image=image, image_there=engine.image(image) is not None)


def step(status: Status, *, image: str, image_there: bool) -> Step:
    """The next step for a state.

    Args:
        status: What the engine has, beside what is declared.
        image: Name of the image that serves.
        image_there: Whether the engine has it.
    """
    if not image_there:
        return Step(f"the engine has no image {image}", "ragops image", "pulls or builds it")
    if status.reranker is None:
        return Step("no reranker runs here yet", "ragops plan", "shows what ragops up would do")
    if not status.drift.empty:
        return Step(f"something differs from its declaration:\n{status.drift}", "ragops up", "mends it")
    if status.reranker.health != "healthy":
        state = f"{status.reranker.status} {status.reranker.health}".strip()
        return Step(f"the reranker is {state}", "ragops up", "waits for its first answer, or says why not")
    if not status.ragflow:
        return Step(
            "the reranker runs, and there is no RAGFlow", "ragops demo up", "a stand-in; or start RAGFlow"
        )
    names = ", ".join(one.name for one in status.ragflow)
    does = "proves connection, scores and time; then ragops bench measures"
    return Step(f"the reranker runs, connected to {names}", "ragops verify", does)
