"""One ragops at a time changes a stack."""

from __future__ import annotations

import fcntl
import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ragops.errors import LockedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def held(home: Path, address: str, name: str) -> Iterator[None]:
    """Hold a stack's lock while changing it; it goes with the process.

    Args:
        home: Folder for the lock file.
        address: The engine's address.
        name: The reranker's name, which is the stack's.

    Raises:
        LockedError: Another process holds it.
    """
    home.mkdir(parents=True, exist_ok=True)
    file = home / f"lock-{hashlib.sha256(f'{address} {name}'.encode()).hexdigest()[:12]}"
    with file.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockedError(
                f"another ragops is changing the stack of {name}",
                evidence=f"{file} is locked",
                hint="wait until it is done, then try again",
            ) from error
        yield
