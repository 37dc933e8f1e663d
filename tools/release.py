"""``python -m tools.release VERSION``: builds wheel and source distribution, tests the installed wheel.

The source distribution is unpacked into a folder of its own, whose environment gets the locked packages and
the wheel; its fast tests then run against the installed package. A second environment gets the wheel alone,
with the newest packages that its metadata allows, as a user does.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
from pathlib import Path

from ragops.progress import step

FAST = ("-n", "auto", "--dist", "loadfile", "-m", "not live and not browser", "tests/unit")


def check(version: str, checkout: Path) -> None:
    """End the program unless a checkout is ready for a release of this version."""
    stated = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    if stated != version:
        raise SystemExit(f"the tag names {version}, pyproject.toml {stated}")
    changes = (checkout / "CHANGELOG.md").read_text(encoding="utf-8")
    if f"\n## {version}" not in changes:
        raise SystemExit(f"CHANGELOG.md has no section {version}")


def build(checkout: Path, dist: Path) -> tuple[Path, Path]:
    """Build both distributions of a checkout; returns the wheel and the source distribution."""
    shutil.rmtree(dist, ignore_errors=True)
    _run(checkout, sys.executable, "-m", "hatchling", "build", "--directory", str(dist.resolve()))
    return next(dist.glob("*.whl")).resolve(), next(dist.glob("*.tar.gz")).resolve()


def run_alone(wheel: Path, folder: Path) -> None:
    """Install the wheel with the newest allowed packages, and run its command."""
    venv.create(folder, with_pip=True)
    _run(folder, "bin/pip", "install", "--quiet", "--disable-pip-version-check", str(wheel))
    _run(folder, "bin/ragops", "--version")


def run_tests(wheel: Path, source: Path, folder: Path) -> None:
    """Run the fast tests of the source distribution against the installed wheel."""
    with tarfile.open(source) as archive:
        archive.extractall(folder, filter="data")
    (checkout,) = folder.iterdir()
    _run(checkout, "make", ".venv/tests")
    _run(checkout, ".venv/bin/pip", "install", "--quiet", "--no-deps", "--force-reinstall", str(wheel))
    (installed,) = checkout.glob(".venv/lib/python*/site-packages/ragops")
    shutil.rmtree(checkout / "ragops")
    (checkout / "ragops").symlink_to(installed)
    _run(checkout, ".venv/bin/pytest", *FAST)


def _run(folder: Path, *argv: str) -> None:
    if subprocess.run(argv, cwd=folder, check=False).returncode:
        raise SystemExit(f"{' '.join(argv)}: failed")


def main() -> None:
    """Build and test a release of the checkout in the working folder."""
    version, checkout = sys.argv[1], Path.cwd()
    check(version, checkout)
    step("distributions")
    wheel, source = build(checkout, checkout / "build" / "dist")
    with tempfile.TemporaryDirectory(prefix="ragops-release-") as name:
        step("the wheel alone")
        run_alone(wheel, Path(name) / "alone")
        step("fast tests of the wheel")
        run_tests(wheel, source, Path(name) / "tested")


if __name__ == "__main__":
    main()
