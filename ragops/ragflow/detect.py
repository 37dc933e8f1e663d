"""Which release of RAGFlow runs: asked of the declaration, the image, the server, the container.

The only part of discovery that has effects: it sends requests without a token, and reads one file
inside the container. Routes that answer only narrow the release down, and are told as such.
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
    """A release, and what told it."""

    release: Release
    source: str


def detect(
    declared: str | None,
    *,
    url: str = "",
    found: RagflowContainer | None = None,
    engine: Engine | None = None,
) -> Detected:
    """The release: as declared, as tagged, as the server says, as a file in the container says.

    Raises:
        RagflowError: Nobody tells it, or it is none that ragops knows; says what was seen.
    """
    if declared:
        return Detected(releases.of(declared), "ragops.toml")
    if found is not None and found.release:
        return Detected(releases.of(found.release), f"the tag of {found.container.image}")
    seen = []
    if url:
        said, source = ask(url)
        if said:
            return Detected(releases.of(said), source)
        seen.append(source)
    if found is not None and engine is not None:
        said, source = read(engine, found.name)
        if said:
            return Detected(releases.of(said), source)
        seen.append(source)
    raise RagflowError(
        "nothing tells which release of RAGFlow this is",
        code="ragflow-release",
        evidence="\n".join([*seen, "nothing was changed"]),
        hint='its pages show it; then add to ragops.toml: [ragflow] release = "vX.Y.Z"',
        url=url,
    )


def ask(url: str) -> tuple[str, str]:
    """The release that the server tells to anybody; empty, with what was seen, when it tells none."""
    route = VERSION_ROUTE
    with Api(url) as api:
        told = api.send(Request("GET", route))
        if told.ok and releases.spelled(str(told.data)):
            return releases.spelled(str(told.data)), f"{api.url}{route}"
        answers = {path: api.send(Request("GET", path)).status for path in FINGERPRINTS}
    if all(status >= 500 for status in answers.values()):
        return "", f"{url} answers with HTTP {max(answers.values())}: RAGFlow is starting, or is none"
    near = candidates(answers)
    if not near:
        return "", f"{url} has routes of no release that ragops knows"
    return (
        "",
        f"{url} has the routes of {near[0]} to {near[-1]}, and tells no more: {told.data or 'no version'}",
    )


def read(engine: Engine, container: str) -> tuple[str, str]:
    """The release in the container's own file; empty, with what was seen, when there is none."""
    source = f"{VERSION_FILE} in {container}"
    try:
        done = engine.execute(container, ("cat", VERSION_FILE))
    except EngineError as error:
        return "", f"{source}: {error.message}"
    said = done.stdout.strip()
    plain = releases.spelled(said)
    return plain, source if plain else f"{source}: {said or done.stderr.strip() or 'empty'}"
