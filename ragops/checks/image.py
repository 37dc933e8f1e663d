"""The image that serves: is it there, has its name moved, is there room, can this CPU run it."""

from __future__ import annotations

import platform
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ragops import image as images
from ragops.checks import Check
from ragops.stack import home

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ragops.host import Host
    from ragops.stack import Stack
    from ragops.state import ContainerState, EngineState, ImageState

GIB = 1024**3
IMAGE_SPACE = 8 * GIB
"""Disk that building the image takes at its height: base, wheels, build stage, image."""
CACHE_SPACE = 1 * GIB
"""Disk for what the first start compiles, and for logs."""

_OFFICIAL = re.compile(r"(?:vllm-openai-cpu|vllm-cpu-release-repo):v(\d+)\.(\d+)")
_AVX2_SINCE = (0, 17)
"""Releases before it were compiled for AVX-512 alone (vllm#18660)."""
_FAST = ("amx_bf16", "avx512_bf16", "bf16")
"""Instructions that multiply bfloat16, the fastest first; the last is Arm's."""
_SIGILL = "vLLM would end with SIGILL (exit code 132)"


def instructions(host: Host, name: str) -> Check:
    """Whether the processor has what the image of that name was compiled for, and what is fast."""
    title, needs = "CPU instructions", needed(name)
    x86 = platform.machine() == "x86_64"
    if x86 and needs not in host.features:
        detail = f"{host.cpu_model} has no {needs}, which {name} needs: {_SIGILL}"
        return Check(title, "fail", detail, _without(needs, host))
    fast = [one for one in _FAST if one in host.features]
    asked = f"; the image needs {needs}" if x86 else ""
    if fast:
        return Check(title, "ok", f"{host.cpu_model}: {fast[0]}, so bfloat16{asked}")
    if not x86 or "avx512f" in host.features:
        return Check(title, "ok", f"{host.cpu_model}: no bfloat16, so float32{asked}")
    remedy = "expect a fraction of the speed: send fewer or shorter documents, and measure: ragops bench"
    return Check(title, "warn", f"{host.cpu_model}: AVX2 only", remedy)


def needed(name: str) -> str:
    """The instructions without which an image can't start, as ``/proc/cpuinfo`` names them.

    Official releases tell by their tag; ours, and those of an unknown release, are taken for new.
    """
    found = _OFFICIAL.search(name)
    old = found is not None and (int(found[1]), int(found[2])) < _AVX2_SINCE
    return "avx512f" if old else "avx2"


def image(stack: Stack, found: ImageState | None, runs: ContainerState | None) -> Check:
    """The image and its digest, and whether its name has moved away from what runs."""
    name = stack.reranker.image
    if found is None:
        how = "it is pulled or built from package registries" if name == images.DEFAULT else "it is pulled"
        return Check("image", "warn", f"the engine has no {name}", f"ragops image ({how})")
    digest = found.digests[0].partition("@")[2] if found.digests else found.id
    detail = f"{name}, {found.size / 1e9:.2f} GB, {digest}"
    if runs and runs.ours and runs.image_id != found.id:
        remedy = f"ragops up starts it anew; to go back: docker tag {runs.image_id[7:19]} {name}"
        moved = f"{name} has moved to {found.id[7:19]}, {runs.name} runs {runs.image_id[7:19]}"
        return Check("image", "warn", moved, remedy)
    return Check("image", "ok", detail)


def disk(engine: EngineState, *, missing: bool) -> Iterator[Check]:
    """Room for the image where it is missing, else for what the first start compiles."""
    title, folder = "disk", Path(engine.root)
    needs, what = (IMAGE_SPACE, "the image") if missing else (CACHE_SPACE, "the compile cache")
    if engine.socket is None or not folder.exists():
        yield Check(title, "skip", f"{folder} of the engine can't be seen from here")
        return
    yield _room(title, folder, needs, what, "docker system df shows what takes it")
    if missing:
        # ragops home may not exist yet; the nearest folder above it is on the same disk.
        place = next(one for one in (home(), *home().parents) if one.exists())
        yield _room("disk for building", place, needs, "wheels", "RAGOPS_HOME names another folder")


def _room(title: str, folder: Path, needs: int, what: str, remedy: str) -> Check:
    free = shutil.disk_usage(folder).free
    detail = f"{free / GIB:.1f} GiB free under {folder}, {what} may take {needs // GIB}"
    if free < needs:
        return Check(title, "fail", detail, f"make room: {remedy}")
    return Check(title, "ok", detail)


def _without(needs: str, host: Host) -> str:
    if needs == "avx512f" and "avx2" in host.features:
        return f'take a newer one, which needs only avx2: image = "{images.DEFAULT}" under [reranker]'
    return "use another machine; in a virtual one, let the hypervisor pass the processor's features through"
