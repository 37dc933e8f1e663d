"""A test server: an ASGI application on a free port of this machine, in a thread or alone."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import TYPE_CHECKING, Literal, Self

import uvicorn

if TYPE_CHECKING:
    from starlette.types import ASGIApp

START_SECONDS = 120.0
_POLL = 0.005
_STOP_SECONDS = 0.5


class _Quick(uvicorn.Server):
    """A server that stops within milliseconds; uvicorn's own needs 0.2 to 0.4 s."""

    async def main_loop(self) -> None:
        """Serve until the end."""
        await self.on_tick(0)
        while not self.should_exit:  # noqa: ASYNC110 - a plain flag, set by another thread
            await asyncio.sleep(_POLL)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close what listens and idle connections; wait a little for responses on their way."""
        for listening in (*self.servers, *(sockets or ())):
            listening.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        deadline = time.monotonic() + _STOP_SECONDS
        while time.monotonic() < deadline:
            if not (self.server_state.connections or self.server_state.tasks):
                break
            await asyncio.sleep(_POLL)
        await self.lifespan.shutdown()


def _config(app: ASGIApp, lifespan: Literal["on", "off"] = "off") -> uvicorn.Config:
    return uvicorn.Config(app, ws="none", http="h11", loop="asyncio", lifespan=lifespan, log_config=None)


def server(app: ASGIApp) -> uvicorn.Server:
    """A server that only waits to be run."""
    return uvicorn.Server(_config(app))


def listen() -> socket.socket:
    """A listening socket on a free port; clients may connect before the server has started.

    asyncio sends without delay only where the socket names its protocol; ``create_server`` doesn't.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(512)
    listener.set_inheritable(True)
    return listener


class Served:
    """An application that answers inside a ``with`` block.

    Args:
        app: The application.
        listener: Where it answers; a free port when left out.
        lifespan: Whether the application has work of its own between start and end.
    """

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket | None = None,
        lifespan: Literal["on", "off"] = "off",
    ) -> None:
        self._listener = listener or listen()
        self.url = f"http://127.0.0.1:{int(self._listener.getsockname()[1])}"
        """Its address."""
        self._server = _Quick(_config(app, lifespan))
        sockets = [self._listener]
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": sockets}, daemon=True)

    def __enter__(self) -> Self:
        """Start; returns when the server answers."""
        self._thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not self._server.started and time.monotonic() < deadline:
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and close the port."""
        self._server.should_exit = True
        self._thread.join(START_SECONDS)
        self._listener.close()
