"""One ragops at a time changes a stack."""

from __future__ import annotations

import fcntl
import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from ragops.errors import LockedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Doing = Literal["changing", "watching"]

_PREFIX = {"changing": "lock", "watching": "watch"}
_HINT = {
    "changing": "wait until it is done, then try again",
    "watching": "end ragops watch first: it would put everything back within seconds",
}


@contextmanager
def held(home: Path, address: str, name: str, doing: Doing = "changing") -> Iterator[None]:
    """Hold a stack's lock while changing it; it goes with the process.

    Args:
        home: Folder for the lock file.
        address: The engine's address.
        name: The reranker's name, which is the stack's.
        doing: What is done to it; ``ragops watch`` has a lock of its own beside that of each change.

    Raises:
        LockedError: Another process holds it.
    """
    home.mkdir(parents=True, exist_ok=True)
    file = home / f"{_PREFIX[doing]}-{hashlib.sha256(f'{address} {name}'.encode()).hexdigest()[:12]}"
    with file.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockedError(
                f"another ragops is {doing} the stack of {name}",
                evidence=f"{file} is locked",
                hint=_HINT[doing],
                file=file,
            ) from error
        yield


def refuse_while_watched(home: Path, address: str, name: str) -> None:
    """Refuse to take away what ``ragops watch`` keeps.

    Raises:
        LockedError: It is running.
    """
    with held(home, address, name, "watching"):
        pass
