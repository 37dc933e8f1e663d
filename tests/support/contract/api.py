"""A contract server: RAGFlow's registration routes of one release from v0.24 on, with their defects.

It responds as RAGFlow's own servers did when they were recorded (v0.25.6, v0.27.0), and for the
other releases as their source says; what v1.0 does otherwise is in :mod:`~tests.support.contract.golang`.
Tests compare it with the recordings. It calls the reranker as
RAGFlow's client does, keeps its state in memory, and has no documents and no other routes::

    with RagflowServer("v0.27.0") as ragflow, StubReranker() as reranker:
        httpx.get(ragflow.url + "/api/v1/system/ping").text      # pong
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from starlette.applications import Starlette

from ragops.ragflow import releases
from tests.support.contract import chat_routes, golang, llm, providers, system
from tests.support.contract.state import ServerState, not_found
from tests.support.served import Served

if TYPE_CHECKING:
    from typing import Any

    from tests.support.contract.state import Call

__all__ = ["RagflowServer", "ServerState", "application"]


def application(state: ServerState) -> Starlette:
    """The routes that a release has, over one state."""
    routes = (
        *system.routes(state),
        *llm.tenant_routes(state),
        *(llm.routes(state) if state.before("v0.27.0") else ()),
        *providers.routes(state, _handlers(state)),
        *chat_routes.routes(state),
    )
    return Starlette(routes=routes, exception_handlers={404: not_found, 405: not_found})


def _handlers(state: ServerState) -> providers.Handlers:
    if state.before("v0.26.0"):
        return {}
    return providers.handlers(state) | (golang.HANDLERS if state.go else {})


def from_environment() -> Starlette:
    """The application in a container: ``CONTRACT`` is JSON with the release and other fields of its state."""
    fields = json.loads(os.environ["CONTRACT"])
    return application(ServerState(releases.of(fields.pop("release")), **fields))


class RagflowServer(Served):
    """The contract server in a thread of this process.

    Args:
        release: The release that it answers as.
        limit: Seconds for the test call of a registration, where the release has a limit.
    """

    def __init__(self, release: str = releases.NEWEST, *, limit: float | None = None, **changed: Any) -> None:
        known = releases.of(release)
        waits = known.registration_limit if limit is None else limit
        self.state = ServerState(release=known, limit=waits if known.registration_limit else None, **changed)
        super().__init__(application(self.state))

    @property
    def calls(self) -> list[Call]:
        """The requests that arrived, oldest first."""
        return self.state.calls
