"""One ragops at a time changes an engine."""

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
def held(home: Path, address: str) -> Iterator[None]:
    """Hold the lock of an engine while changing it; it goes with the process.

    Raises:
        LockedError: Another process holds it.
    """
    home.mkdir(parents=True, exist_ok=True)
    file = home / f"lock-{hashlib.sha256(address.encode()).hexdigest()[:12]}"
    with file.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockedError(
                "another ragops is changing this engine",
                evidence=f"{file} is locked",
                hint="wait until it is done, then try again",
            ) from error
        yield
