"""A gateway in a test's own event loop, in front of stub replicas on real sockets."""

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager

import httpx

from ragops.gateway.app import Gateway
from tests.support import replicas


class Client:
    """Sends requests to a gateway's application."""

    def __init__(self, gateway, http):
        self.gateway, self.http = gateway, http
        self.pool, self.dispatcher = gateway.pool, gateway.dispatcher

    async def rerank(self, query="which one", documents=(), headers=None, path="/v1/rerank", **fields):
        body = {"model": replicas.MODEL, "query": query, "documents": documents, **fields}
        return await self.http.post(path, json=body, headers=headers)

    async def until(self, condition, seconds=60.0):
        """Wait until a condition of the gateway holds."""
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - states of another task
                await asyncio.sleep(0.005)

    async def admitted(self, number):
        await self.until(lambda: len(self.pool.admitted) == number)

    async def state(self):
        return (await self.http.get("/replicas")).json()


@asynccontextmanager
async def serving(tmp_path, *stubs, reference=None, expected=None, **settings):
    """A gateway before stub replicas, which are started; all or the expected number of them are admitted."""
    file = tmp_path / "reference.json"
    file.write_text(json.dumps(reference or replicas.reference()))
    async with AsyncExitStack() as stack:
        for stub in stubs:
            await stack.enter_async_context(stub)
        fixed = {"replicas": ",".join(stub.address for stub in stubs), "reference": file}
        environment = {f"GATEWAY_{name.upper()}": str(value) for name, value in {**fixed, **settings}.items()}
        gateway = Gateway(environment)
        application = gateway.application
        await stack.enter_async_context(application.router.lifespan_context(application))
        transport = httpx.ASGITransport(application)
        http = await stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://gateway")
        )
        client = Client(gateway, http)
        await client.admitted(len(stubs) if expected is None else expected)
        yield client
