"""The contract server's routes for health and the release."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support.contract.state import done, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.responses import Response
    from starlette.routing import Route

    from tests.support.contract.state import Call, ServerState

_HEALTHY = {"db": "ok", "doc_engine": "ok", "redis": "ok", "status": "ok", "storage": "ok"}


def routes(state: ServerState) -> Iterator[Route]:
    """Those that the release has: no ping before v0.21.0, the release without a token from v0.25.2 on."""

    async def ping(_: Call) -> Response:
        return text("pong")

    async def healthz(_: Call) -> Any:
        return _HEALTHY  # whatever is broken: v0.27.0 said so with no object store running

    async def version(_: Call) -> Any:
        return done(state.version or state.release.name, message="success")

    base = "/v1/system" if state.before("v0.25.0") else "/api/v1/system"
    if not state.before("v0.21.0"):
        yield state.route("GET", f"{base}/ping", ping, public=True)
        yield state.route("GET", f"{base}/healthz", healthz, public=True)
    yield state.route("GET", f"{base}/version", version, public=not state.before("v0.25.2"))
