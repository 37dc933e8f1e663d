"""Run coroutines from synchronous code, and cancel them."""

from __future__ import annotations

import asyncio
import functools
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Coroutine

P = ParamSpec("P")
T = TypeVar("T")

_STOP_EVERY = 0.1


async def cancel_when(stop: threading.Event, task: asyncio.Task[Any]) -> None:
    """Cancel a task as soon as the event is set."""
    while not stop.is_set():  # noqa: ASYNC110 - it is set in another thread, which knows no loop
        await asyncio.sleep(_STOP_EVERY)
    task.cancel()


def this() -> asyncio.Task[Any]:
    """The task that runs."""
    return cast("asyncio.Task[Any]", asyncio.current_task())


async def end(watch: asyncio.Task[None] | None) -> None:
    """Cancel a task, if there is one, and wait until it has ended."""
    if watch is not None:
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch


def in_any_thread(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Blocking form of a coroutine function, also inside a running event loop, as in Jupyter."""

    @functools.wraps(function)
    def blocking(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(function(*args, **kwargs))
        return _in_thread(function(*args, **kwargs))

    return blocking


def _in_thread(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run in a thread with a loop of its own, and pass an interrupt on to it."""
    handle: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

    async def registered() -> T:
        handle.append((asyncio.get_running_loop(), this()))
        return await coroutine

    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(asyncio.run, registered())
        try:
            return job.result()
        except KeyboardInterrupt:
            for loop, task in handle:
                loop.call_soon_threadsafe(task.cancel)
            raise
