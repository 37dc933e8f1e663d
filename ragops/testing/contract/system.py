"""The stand-in's routes for logging in, tokens, health and versions."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from ragops.testing.contract.world import done, failed, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.routing import Route

    from ragops.testing.contract.world import Asked, World

_HEALTHY = {"db": "ok", "doc_engine": "ok", "redis": "ok", "status": "ok", "storage": "ok"}


def routes(world: World) -> Iterator[Route]:
    """Those that the release has."""
    release = world.release

    async def ping(_: Asked) -> Response:
        return text("pong")

    async def healthz(_: Asked) -> Any:
        return _HEALTHY  # whatever is broken: v0.27.0 said so with no object store running

    async def version(_: Asked) -> Any:
        return done(world.version or release.name, message="success")

    async def login(asked: Asked) -> Response:
        return _login(world, asked.body or {})

    async def new_token(_: Asked) -> Any:
        return done({"tenant_id": world.tenant["tenant_id"], "token": world.token}, message="success")

    if release.ping:
        yield world.route("GET", release.ping, ping, allow="all")
        yield world.route("GET", release.ping.replace("ping", "healthz"), healthz, allow="all")
    yield world.route("GET", release.version, version, allow="all" if release.open_version else "web")
    yield world.route("POST", release.login, login, allow="all")
    old = world.before("v0.25.0")
    yield world.route("POST", "/v1/system/new_token" if old else "/api/v1/system/tokens", new_token)


def _login(world: World, body: dict[str, Any]) -> Response:
    email, password = body.get("email", ""), _decrypted(world, str(body.get("password", "")))
    if password is None:
        return JSONResponse(failed("Fail to crypt password", 500, data=False))
    if email != world.email:
        return JSONResponse(failed(f"Email: {email} is not registered!", 109, data=False))
    if password != world.password:
        return JSONResponse(failed("Email and password do not match!", 109, data=False))
    world.sessions += 1
    world.session = f"SESSION-TOKEN-{world.sessions}"  # the one before is worth nothing from now on
    user = {"email": email, "id": world.tenant["tenant_id"], "nickname": "ops"}
    return JSONResponse(done(user, message="Welcome back!"), headers={"Authorization": world.session})


def _decrypted(world: World, sent: str) -> str | None:
    """The password; None when it is not encrypted with RAGFlow's key."""
    if world.private_key is None:
        return sent
    from cryptography.hazmat.primitives.asymmetric import padding  # noqa: PLC0415 - an extra

    try:
        clear = world.private_key.decrypt(base64.b64decode(sent, validate=True), padding.PKCS1v15())
        return base64.b64decode(clear, validate=True).decode()
    except ValueError:
        return None
