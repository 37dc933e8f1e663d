"""The undo record: what ragops entered into which RAGFlow, and the settings before that.

One small file for each user of a RAGFlow and each instance under ``RAGOPS_HOME/ragflow``, readable
by its owner only. It holds names and addresses, and no key or token.
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
class UndoRecord:
    """What ``register`` changed in one RAGFlow, for one of its users."""

    url: str
    user: str
    instance: str
    release: str
    model: str
    entered: bool = False
    """Whether ragops entered the model; else it existed before."""
    provider: bool = False
    """Whether ragops added the provider."""
    default: str | None = None
    """The default rerank model before ragops set one, empty for none; None when it never did."""
    chats: Mapping[str, str] = field(default_factory=dict)
    """Each chat's rerank id before ragops set one."""

    def file(self, home: Path) -> Path:
        """Where the record is stored below ``RAGOPS_HOME``."""
        owner = self.user or self.url  # a user's id lasts, an address changes with the container
        digest = hashlib.sha256(f"{owner}\n{self.instance}".encode()).hexdigest()[:12]
        return home / "ragflow" / f"{digest}.json"


def load(home: Path, new: UndoRecord) -> UndoRecord | None:
    """The stored record of the user and instance of a new one; None without a file.

    Raises:
        RagflowError: The file can't be read.
    """
    file = new.file(home)
    try:
        return UndoRecord(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise RagflowError(
            f"can't read the record of RAGFlow's previous settings, {file}",
            code="undo-unreadable",
            evidence=str(error),
            hint="repair the file, or move it away and restore the default and the chats by hand",
            file=file,
        ) from None


def save(home: Path, record: UndoRecord) -> None:
    """Write the record atomically, readable by its owner only."""
    file = record.file(home)
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = file.with_suffix(".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        json.dump(asdict(record), out, indent=2, ensure_ascii=False)
        out.write("\n")
        out.flush()
        os.fsync(out.fileno())
    draft.replace(file)


def delete(home: Path, record: UndoRecord) -> None:
    """Delete the record once everything is undone."""
    record.file(home).unlink(missing_ok=True)
