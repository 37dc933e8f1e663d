"""Models by name: files of a Hugging Face hub, or of a mirror of it, in ragops' data folder.

:func:`folder` is where a model is, or would be; :func:`listing` requests what the hub has; :func:`pull`
downloads. Each commit has a folder of its own, so that a running reranker keeps its files; a branch or a tag
is a link to the commit that it was at the last pull. The library is huggingface_hub (extra ``hub``), with
its variables: ``HF_ENDPOINT`` for a mirror, ``HF_TOKEN`` for private models, ``HF_HUB_OFFLINE``.
"""

import fcntl
import hashlib
import io
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ragops import progress
from ragops.configuration import data_folder, home
from ragops.errors import ModelError, file_errors
from ragops.reranker import files

_NEEDED = re.compile(r"(?:\d+_\w+/)?\w[\w.-]*\.(?:safetensors|json|txt|model|jinja)|README\.md")
"""Files that vLLM reads or that name the model's kind, those of sentence-transformers' modules included."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_MB = 1_000_000
_AGAIN = "ragops model pull continues it"


@dataclass(frozen=True)
class HubFile:
    """A file of a model in a hub."""

    name: str
    size: int
    digest: str
    """Its sha256, or git's hash of a small file."""


@dataclass(frozen=True)
class Listing:
    """What a hub has of a model at a commit, as far as it is needed."""

    name: str
    commit: str
    files: tuple[HubFile, ...]

    @property
    def folder(self) -> Path:
        """The folder of this commit."""
        return folder(self.name, self.commit)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def missing(self) -> int:
        """Bytes that a pull would fetch."""
        here = self.folder if self.folder.exists() else _stage(self.folder)
        paths = (here / file.name for file in self.files)
        return self.size - sum(path.stat().st_size for path in paths if path.exists())

    def __str__(self) -> str:
        size = f"{self.missing / _MB:.1f} of {self.size / _MB:.1f} MB in {len(self.files)} files"
        return f"{self.name} at {self.commit[:12]}: {size}"


def folder(name: str, revision: str) -> Path:
    """The folder of a model; it exists once the model is pulled."""
    *_, own = name.split("/")
    return home() / "hub" / name.replace("/", "--") / revision / own


def listing(name: str, revision: str) -> Listing:
    """The files that the hub has of a model, without downloading one."""
    with _hub(name) as hub:
        info = hub.HfApi(endpoint=_endpoint()).model_info(name, revision=revision, files_metadata=True)
        siblings, commit = info.siblings or (), info.sha or ""
        found = tuple(
            HubFile(item.rfilename, int(item.size), item.lfs.sha256 if item.lfs else item.blob_id)
            for item in sorted(siblings, key=lambda item: item.size)
            if _NEEDED.fullmatch(item.rfilename)
        )
        if not _COMMIT.fullmatch(commit) or not all(_DIGEST.fullmatch(file.digest) for file in found):
            raise ValueError("it names no commit or no checksums")
    if not any(file.name.endswith(".safetensors") for file in found):
        raise ModelError(
            f"{name} has no safetensors files",
            code="model-pickled",
            evidence=", ".join(item.rfilename for item in siblings)[:300],
            hint="a pickle runs code when it is read; take a model with safetensors files",
        )
    return Listing(name, commit, found)


def pull(name: str, revision: str) -> Listing:
    """Download a model as it is now; what an interrupted pull left is continued. Idempotent."""
    found = listing(name, revision)
    target, link = found.folder, folder(name, revision).parent
    base = data_folder(link.parent)
    hint = "free space or make it writable; RAGOPS_HOME names another folder"
    with (
        file_errors(ModelError, f"can't write to {base}", base, code="home-unusable", hint=hint),
        (base / "lock").open("w") as handle,
    ):
        fcntl.flock(handle, fcntl.LOCK_EX)  # another pull of the model ends first
        if not target.exists():
            _download(found, _stage(target))
            target.parent.mkdir(exist_ok=True)
            _stage(target).rename(target)
        if link != target.parent:
            draft = link.with_name(f".{link.name}.new")
            draft.unlink(missing_ok=True)
            draft.symlink_to(target.parent.name)
            draft.replace(link)
    return found


def _stage(target: Path) -> Path:
    """Where the files are until all are complete."""
    return target.parent.with_name(f".{target.parent.name}.part")


def _download(found: Listing, stage: Path) -> None:
    """Download the files, continue those that are incomplete, and compare each with its checksum."""
    stage.mkdir(exist_ok=True)
    if found.missing > (free := shutil.disk_usage(stage).free):
        message = f"{found}: only {free / _MB:.0f} MB of the disk are free"
        raise ModelError(message, code="disk-full", hint="RAGOPS_HOME names another folder", file=stage)
    progress.step(f"fetching {found}")
    before, sums = 0, list[str]()
    for file in found.files:
        path = stage / file.name
        path.parent.mkdir(exist_ok=True)
        _fetch(found, file, path, before)
        before += file.size
        if not files.matches(path, file.digest):
            path.unlink()
            message, evidence = f"{found.name} was changed on its way", f"{file.name} is not {file.digest}"
            raise ModelError(message, code="model-fetch", evidence=evidence, hint=_AGAIN)
        with path.open("rb") as stream:
            sums.append(f"{hashlib.file_digest(stream, 'sha256').hexdigest()}  {file.name}\n")
    (stage / "SHA256SUMS").write_text("".join(sums))  # ragops doctor compares


def _fetch(found: Listing, file: HubFile, path: Path, before: int) -> None:
    """Download a file from where an earlier download ended."""
    with _hub(found.name) as hub, _Counted(path, "ab") as stream:
        stream.before, stream.total = before, found.size
        if stream.tell() > file.size:
            stream.truncate(0)
            stream.seek(0)
        hub.utils.disable_progress_bars("huggingface_hub.http_get")
        hub.file_download.http_get(
            hub.hf_hub_url(found.name, file.name, revision=found.commit, endpoint=_endpoint()),
            stream,
            resume_size=stream.tell(),
            headers=hub.utils.build_hf_headers(),
            expected_size=file.size,
            displayed_filename=file.name,
        )


class _Counted(io.FileIO):
    """A file that reports the progress of all files."""

    before = total = 0

    def write(self, data: Any, /) -> int:
        """Write, and report how many bytes are here."""
        written = super().write(data)
        done = self.before + self.tell()
        progress.advance(done, self.total, f"{done / _MB:.0f} of {self.total / _MB:.0f} MB")
        return written


def _endpoint() -> str | None:
    """The address of a mirror; the library reads it only once."""
    return os.environ.get("HF_ENDPOINT")


@contextmanager
def _hub(name: str) -> Iterator[Any]:
    """The library; its exceptions become errors."""
    try:
        _ = urlsplit(_endpoint()).port  # ValueError, as of the import
        import huggingface_hub as hub  # noqa: PLC0415 - an extra, and slow to import
        from huggingface_hub import errors, file_download, utils  # noqa: F401, PLC0415
    except ImportError as error:
        message, hint = f"{error.name} is not installed", "pip install 'ragops-rerank[hub]'"
        raise ModelError(message, code="extra-missing", hint=hint) from error
    except ValueError as error:
        message, hint = f"HF_ENDPOINT is not an address: {_endpoint()}", "HF_ENDPOINT=https://HOST"
        raise ModelError(message, code="hub-silent", evidence=str(error), hint=hint) from error
    transport: Any = errors.HfHubHTTPError.__bases__[0]  # of its HTTP library
    refusals = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError)
    try:
        yield hub
    except refusals as error:
        hint = "check model and revision under [reranker]; a private or gated model needs HF_TOKEN"
        evidence = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"the hub has no {name}", code="hub-refused", evidence=evidence, hint=hint
        ) from error
    except (OSError, ValueError, TypeError, LookupError, AttributeError, transport) as error:
        if getattr(error, "errno", None):  # of the disk
            raise
        raise ModelError(
            f"the hub did not send {name}",
            code="hub-silent",
            evidence=f"{_endpoint() or hub.constants.ENDPOINT}: {str(error).strip()[:300] or error!r}",
            hint=f"{_AGAIN}; a mirror: HF_ENDPOINT=URL; without a network: copy the model's folder from a "
            "machine that has it, and set model under [reranker] to it",
        ) from error
