"""The folder of a search: ``tune.json`` and ``trials.jsonl``, good at each moment for going on from."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from ragops.bench.folder import append, opened, room
from ragops.errors import BenchError
from ragops.tuning.records import FORM, Trial, TuneInfo

if TYPE_CHECKING:
    from pathlib import Path

INFO, TRIALS = "tune.json", "trials.jsonl"

_INFO = TypeAdapter(TuneInfo)
_TRIAL = TypeAdapter(Trial)


class TuneFolder:
    """Keeps a search; lines are only added, and ``tune.json`` is replaced as a whole.

    Args:
        path: The folder.
        again: Whether a search is continued; otherwise the folder must be new.

    Raises:
        BenchError: It is there already, can't be made, or another process writes to it.
    """

    def __init__(self, path: Path, *, again: bool = False) -> None:
        try:
            path.mkdir(parents=True, exist_ok=again)
        except OSError as error:
            hint = "give another folder: --results FOLDER"
            raise BenchError(
                f"can't make {path}", code="run-unreadable", evidence=str(error), hint=hint
            ) from error
        self.path = path
        self._trials = opened(path / TRIALS)

    def write(self, info: TuneInfo) -> None:
        """Put ``tune.json`` in place at once."""
        draft = self.path / ".tune.json.new"
        with room(self.path, "search", "tune"):
            draft.write_bytes(_INFO.dump_json(info, indent=2) + b"\n")
            draft.replace(self.path / INFO)

    def add(self, trial: Trial) -> None:
        """Append one line, and flush it."""
        with room(self.path, "search", "tune"):
            append(self._trials, _TRIAL.dump_json(trial))

    def close(self) -> None:
        """Put everything on disk."""
        with suppress(OSError):
            os.fsync(self._trials.fileno())
        self._trials.close()


def load(path: Path) -> tuple[TuneInfo, tuple[Trial, ...]]:
    """Read a search; a last line that was cut off is left out.

    Raises:
        BenchError: The folder holds none, or one of another form.
    """
    try:
        info = _INFO.validate_json((path / INFO).read_bytes())
        lines = (path / TRIALS).read_bytes().split(b"\n")[:-1]
        trials = tuple(map(_TRIAL.validate_json, lines))
    except OSError as error:
        hint = "name a folder that ragops tune has made"
        raise BenchError(
            f"{path} holds no recorded run of tune", code="run-unreadable", evidence=str(error), hint=hint
        ) from error
    except ValidationError as error:
        hint = "it was changed by hand, or by another release of ragops"
        seen = str(error.errors(include_url=False)[0]["msg"])
        raise BenchError(
            f"the recorded run {path} is broken", code="run-unreadable", evidence=seen, hint=hint
        ) from error
    if info.form != FORM:
        raise BenchError(
            f"the recorded run {path} is broken",
            code="run-unreadable",
            evidence=f"form {info.form}, this ragops reads {FORM}",
            hint="go on with the release that began it",
        )
    return info, trials
