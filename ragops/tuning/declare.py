"""The winner goes into ``ragops.toml``: the only module that imports ``tomlkit``, which keeps comments."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomlkit
import tomlkit.exceptions

from ragops import stack as stacks
from ragops.errors import StackError
from ragops.tuning.candidates import OWN

if TYPE_CHECKING:
    from ragops.tuning.candidates import Settings


def changed(text: str, settings: Settings) -> str:
    """A declaration with the settings in ``[reranker]``, and without those of an earlier search.

    Everything else stays as it is written: comments, order, spaces.

    Raises:
        StackError: It is not TOML.
    """
    try:
        document = tomlkit.parse(text)
    except tomlkit.exceptions.TOMLKitError as error:
        what = "the declaration is not TOML"
        raise StackError(
            what, code="stack-unreadable", evidence=str(error), hint="see https://toml.io for the form"
        ) from error
    table: Any = document.get("reranker")
    if table is None:
        if not settings:
            return text
        table = document["reranker"] = tomlkit.table()
        table = document["reranker"]
    wanted = dict(settings)
    for key in [key for key in OWN if key in table and key not in wanted]:
        del table[key]
    for key, value in wanted.items():
        if table.get(key) != value:
            table[key] = value
    return tomlkit.dumps(document)


def write(file: Path, settings: Settings) -> bool:
    """Change a declaration on disk, at once and whole; gives back whether anything changed.

    Args:
        file: The declaration; made where there is none.
        settings: What ``[reranker]`` is to say.

    Raises:
        StackError: The file can't be read or written, or would no longer be a declaration.
    """
    try:
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        after = changed(before, settings)
        if after == before:
            return False
        stacks.parse(after, file)
        _replace(file.resolve(), after)
    except OSError as error:
        what = f"can't read or write {file}"
        raise StackError(
            what, code="stack-unreadable", evidence=str(error), hint="name another with --stack FILE"
        ) from error
    return True


def _replace(file: Path, text: str) -> None:
    """Put a new file in the old one's place, with the same permissions."""
    mode = file.stat().st_mode & 0o777 if file.exists() else 0o644
    handle, draft = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(draft).chmod(mode)
        Path(draft).replace(file)
    except OSError:
        Path(draft).unlink(missing_ok=True)
        raise
