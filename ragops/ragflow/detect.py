"""Detect RAGFlow's release from the configuration, the image, the server or the container.

The only part of discovery with effects: it sends requests without a token, and reads one file
inside the container. The routes that exist only narrow the release down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragops.errors import EngineError, RagflowError
from ragops.ragflow import releases
from ragops.ragflow.answers import Request
from ragops.ragflow.api import Api
from ragops.ragflow.discovery import FINGERPRINTS, candidates

if TYPE_CHECKING:
    from ragops.engine import Engine
    from ragops.ragflow.discovery import RagflowContainer
    from ragops.ragflow.releases import Release

VERSION_FILE = "/ragflow/VERSION"
VERSION_ROUTE = "/api/v1/system/version"
"""Needs no token from v0.25.2 on (api/apps/restful_apis/system_api.py)."""


@dataclass(frozen=True)
class Detected:
    """A release, and where it was read."""

    release: Release
    source: str


def detect(
    configured: str | None,
    *,
    url: str = "",
    container: RagflowContainer | None = None,
    engine: Engine | None = None,
) -> Detected:
    """The release: as configured, else of the image's tag, the server, or a file in the container.

    Raises:
        RagflowError: It is in none of them, or not known to ragops; the evidence says what was found.
    """
    if configured:
        return Detected(releases.of(configured), "ragops.toml")
    if container is not None and container.release:
        return Detected(releases.of(container.release), f"the tag of {container.container.image}")
    failures = []
    if url:
        name, source = server_release(url)
        if name:
            return Detected(releases.of(name), source)
        failures.append(source)
    if container is not None and engine is not None:
        name, source = file_release(engine, container.name)
        if name:
            return Detected(releases.of(name), source)
        failures.append(source)
    raise RagflowError(
        "the release of RAGFlow is unknown",
        code="ragflow-release",
        evidence="\n".join([*failures, "nothing was changed"]),
        hint='its pages show it; then add to ragops.toml: [ragflow] release = "vX.Y.Z"',
        url=url,
    )


def server_release(url: str) -> tuple[str, str]:
    """The release that the server reports without a token, and its source; else empty, and the reason."""
    with Api(url) as api:
        version = api.send(Request("GET", VERSION_ROUTE))
        if version.ok and (name := releases.spelled(str(version.data))):
            return name, f"{api.url}{VERSION_ROUTE}"
        statuses = {path: api.send(Request("GET", path)).status for path in FINGERPRINTS}
    if all(status >= 500 for status in statuses.values()):
        return "", f"{url} responds with HTTP {max(statuses.values())}: RAGFlow is starting, or is none"
    possible = candidates(statuses)
    if not possible:
        return "", f"{url} has routes of no release that ragops knows"
    routes = f"{url} has the routes of {possible[0]} to {possible[-1]}"
    return "", f"{routes}; its version route reports {version.data or 'no version'}"


def file_release(engine: Engine, container: str) -> tuple[str, str]:
    """The release in a file of the container, and its source; else empty, and the reason."""
    source = f"{VERSION_FILE} in {container}"
    try:
        result = engine.execute(container, ("cat", VERSION_FILE))
    except EngineError as error:
        return "", f"{source}: {error.message}"
    text = result.stdout.strip()
    if name := releases.spelled(text):
        return name, source
    return "", f"{source}: {text or result.stderr.strip() or 'empty'}"
