"""Wheels from the user's own package index: the only module that calls pip.

pip runs on the host with the user's settings (index, certificates, proxy), so that no setting
of that kind ever enters an image.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from ragops.errors import RagopsError

if TYPE_CHECKING:
    from pathlib import Path

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
