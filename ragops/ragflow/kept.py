"""What ragops has entered into which RAGFlow, and what was there before, so that it can be undone.

One small file for each user of a RAGFlow and each instance under ``RAGOPS_HOME/ragflow``, for its owner
alone. It holds names and addresses, and no key, token or password.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from ragops.errors import RagflowError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Kept:
    """What was done to one RAGFlow, for one of its users."""

    url: str
    user: str
    instance: str
    release: str
    model: str
    entered: bool = False
    """Whether ragops entered the model; else it was there."""
    provider: bool = False
    """Whether ragops added the provider."""
    default: str | None = None
    """The default rerank model before ragops set one, empty for none; None when it never did."""
    chats: Mapping[str, str] = field(default_factory=dict)
    """Each chat's rerank id before ragops set one."""


def load(home: Path, url: str, user: str, instance: str) -> Kept | None:
    """What is kept for a RAGFlow; None when nothing is.

    Raises:
        RagflowError: The file can't be read.
    """
    file = _file(home, url, user, instance)
    try:
        return Kept(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise RagflowError(
            "can't read what was in RAGFlow before",
            evidence=f"{file}: {error}",
            hint="mend the file, or move it away and set the default and the chats by hand",
        ) from None


def save(home: Path, kept: Kept) -> None:
    """Write it, whole or not at all, readable by its owner alone."""
    file = _file(home, kept.url, kept.user, kept.instance)
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = file.with_suffix(".new")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as out:
        json.dump(asdict(kept), out, indent=2, ensure_ascii=False)
        out.write("\n")
        out.flush()
        os.fsync(out.fileno())
    draft.replace(file)


def forget(home: Path, kept: Kept) -> None:
    """Take it away, when all is undone."""
    _file(home, kept.url, kept.user, kept.instance).unlink(missing_ok=True)


def _file(home: Path, url: str, user: str, instance: str) -> Path:
    owner = user or url  # a user's id is RAGFlow's own and stays, an address changes with the container
    number = hashlib.sha256(f"{owner}\n{instance}".encode()).hexdigest()[:12]
    return home / "ragflow" / f"{number}.json"
