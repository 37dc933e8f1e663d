"""The model name in RAGFlow's rerank requests; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ragops.errors import RagflowError
from ragops.ragflow import releases

if TYPE_CHECKING:
    from ragops.ragflow.releases import Release

SUFFIX = "___VLLM"
"""What RAGFlow up to v0.25 puts behind the name in its own tables."""

LONGEST = 128
"""Characters of a name that its tables hold; of ``model_name`` and of ``rerank_id``."""

_KEEPS_SUFFIX = ("v0.17.1", "v0.17.2")
_SPLITS_FROM_THE_RIGHT = "v0.26.4"


def assumed(text: str) -> tuple[Release, str]:
    """The release, or the newest in place of an unknown one, and then why.

    For checks only: what changes RAGFlow calls :func:`ragops.ragflow.releases.of`, which refuses.
    """
    try:
        return releases.of(text), ""
    except RagflowError:
        why = f"release {text} is unknown" if text else "the release is unknown"
        return releases.of(releases.NEWEST), f"{why}, {releases.NEWEST} is assumed"


def sent(name: str, release: Release) -> str:
    """The ``model`` of RAGFlow's rerank request, for a model that was registered under this name.

    Slashes go through as they are.
    """
    return f"{name}{SUFFIX}" if release.name in _KEEPS_SUFFIX else name.split("___", maxsplit=1)[0]


def trouble(name: str, release: Release) -> str:
    """Why RAGFlow can't send this name as it is; empty when it can."""
    if "___" in name:
        return f"RAGFlow cuts a name at ___ and sends {sent(name, release)}"
    known = releases.KNOWN
    if "@" in name and known.index(release.name) < known.index(_SPLITS_FROM_THE_RIGHT):
        return f"RAGFlow {release.name} cuts a rerank id at its first @, which is a part of the name"
    if len(name) > LONGEST:
        return f"RAGFlow keeps {LONGEST} characters of a name, this one has {len(name)}"
    return ""
