"""The folder of a recorded run: ``run.json``, ``requests.jsonl`` and ``samples.jsonl``.

Lines are appended as requests end and never changed, so that a killed client or a full disk loses none.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from pydantic import TypeAdapter, ValidationError

from ragops.bench.records import READS, RequestRecord, Run, RunInfo, Sample
from ragops.errors import BenchError, file_errors, reason

if TYPE_CHECKING:
    from collections.abc import Iterator

INFO, REQUESTS, SAMPLES = "run.json", "requests.jsonl", "samples.jsonl"

_T = TypeVar("_T")

_INFO = TypeAdapter(RunInfo)
_REQUEST = TypeAdapter(RequestRecord)
_SAMPLE = TypeAdapter(Sample)


class RunFolder:
    """The folder of a run that is being recorded; its files are append-only.

    Args:
        path: The folder.
        again: Whether an incomplete run is resumed; otherwise the folder must be new.

    Raises:
        BenchError: It exists, can't be created, or another process writes to it.
    """

    def __init__(self, path: Path, *, again: bool = False) -> None:
        hint = "recorded runs are never overwritten: give another name or results folder"
        with file_errors(BenchError, f"can't make {path}", path, code="run-unreadable", hint=hint):
            path.mkdir(parents=True, exist_ok=again)
        self.path = path
        self._requests, self._samples = (opened(path / name) for name in (REQUESTS, SAMPLES))

    def write_info(self, info: RunInfo) -> None:
        """Replace ``run.json`` atomically."""
        draft = self.path / ".run.json.new"
        with room(self.path, "run", "bench"):
            draft.write_bytes(_INFO.dump_json(info, indent=2) + b"\n")
            draft.replace(self.path / INFO)

    def add_request(self, record: RequestRecord) -> None:
        """Append one line, and flush it."""
        with room(self.path, "run", "bench"):
            append(self._requests, _REQUEST.dump_json(record))

    def add_sample(self, sample: Sample) -> None:
        """Append one line, and flush it."""
        with room(self.path, "run", "bench"):
            append(self._samples, _SAMPLE.dump_json(sample))

    def close(self) -> None:
        """Sync and close the files."""
        for file in (self._requests, self._samples):
            with suppress(OSError):
                os.fsync(file.fileno())
            with suppress(OSError):
                file.close()


def opened(file: Path) -> IO[bytes]:
    """Open to append without a buffer, and truncate an incomplete last line."""
    stream = file.open("a+b", buffering=0)
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with this process, however that ends
    except BlockingIOError as error:
        stream.close()
        hint = "wait until it is done, or stop it"
        raise BenchError(
            f"another process is recording {file.parent}", code="run-busy", hint=hint, file=file.parent
        ) from error
    stream.seek(0)
    stream.truncate(stream.read().rfind(b"\n") + 1)
    return stream


def append(stream: IO[bytes], line: bytes) -> None:
    """Write a complete line, or nothing of it when the disk is full."""
    end = os.fstat(stream.fileno()).st_size
    data = line + b"\n"
    try:
        if stream.write(data) == len(data):
            return
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as caught:
        error = caught
    with suppress(OSError):
        stream.truncate(end)
    raise error


@contextmanager
def room(path: Path, what: str, verb: str) -> Iterator[None]:
    """Turn write errors, as of a full disk, into a BenchError.

    Args:
        path: The folder.
        what: Name of the recording, such as ``run``.
        verb: The command that resumes it.

    Raises:
        BenchError: The disk is full, or the folder can't be written to.
    """
    try:
        yield
    except OSError as error:
        raise BenchError(
            f"can't write to {path}, so the {what} ends here and keeps what it had",
            code="disk-full",
            evidence=str(error),
            hint=f"free disk space, then resume: ragops {verb} --resume {path}",
            file=path,
        ) from error


def load_run(path: Path | str) -> Run:
    """Read a recorded run.

    Args:
        path: Its folder.

    Returns:
        The run. An incomplete last line is left out and listed in ``problems``.

    Raises:
        BenchError: The folder holds no run, one of another format, or an invalid line before the last.
    """
    folder = Path(path)
    info = _load_info(folder)
    problems: list[str] = []
    requests = _load_lines(folder / REQUESTS, _REQUEST, problems)
    samples = _load_lines(folder / SAMPLES, _SAMPLE, problems)
    run = Run(folder, info, requests, samples)
    if not info.complete:
        problems.append(f"run.json says incomplete: {info.reason}")
        problems += [f"{level.name}, repeat {n}: {left} requests missing" for level, n, left in run.missing]
    return replace(run, problems=tuple(problems))


def _load_info(folder: Path) -> RunInfo:
    hint = "name a folder under results/ that ragops bench has made"
    with file_errors(BenchError, f"{folder} holds no recorded run", folder, code="run-unreadable", hint=hint):
        data = (folder / INFO).read_bytes()
    what, hint = f"{folder / INFO} can't be read", "it was changed by hand, or by another release of ragops"
    with file_errors(BenchError, what, folder / INFO, code="run-unreadable", hint=hint):
        info = _INFO.validate_json(data)
    if info.schema_version not in READS:
        raise BenchError(
            f"{folder}/run.json has schema version {info.schema_version}",
            code="run-unreadable",
            evidence=f"this ragops reads versions {READS[0]} to {READS[-1]}",
            hint="read it with the release that wrote it",
            file=folder / INFO,
        )
    return info


def _load_lines(file: Path, adapter: TypeAdapter[_T], problems: list[str]) -> tuple[_T, ...]:
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        problems.append(f"{file.name} can't be read: {error.strerror}")
        return ()
    rows: list[_T] = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(adapter.validate_json(line))
        except ValidationError as error:
            if number < len(lines):
                hint = "the lines after it are good, so it was not cut off: restore the file"
                raise BenchError(
                    f"{file}:{number} is broken",
                    code="run-unreadable",
                    evidence=reason(error),
                    hint=hint,
                    file=file,
                ) from error
            problems.append(f"{file.name}: last line cut off, left out")
    return tuple(rows)
