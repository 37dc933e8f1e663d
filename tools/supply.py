"""``python -m tools.supply lock|sbom|audit``: locked requirements, bill of materials, known vulnerabilities.

``pyproject.toml`` has ranges; ``requirements/run.txt`` (``make run``), ``dev.txt`` (``make test``) and the
gateway's lock have version and hashes of each package, for Python 3.11 to 3.13 on Linux, x86-64 and arm64.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragops.cli.output import FAILED, OK, Call, run_verb
from ragops.errors import RagopsError
from ragops.reranker.image import TORCH

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).parents[1]
LOCKED = {
    "ragops": ROOT / "requirements" / "run.txt",
    "image": ROOT / "ragops" / "data" / "image" / "requirements.lock",
    "gateway": ROOT / "ragops" / "data" / "gateway" / "requirements.lock",
    "demo": ROOT / "ragops" / "data" / "demo" / "requirements.lock",
}
"""Locked requirements of what ``make run`` installs: in the virtual environment and in three images."""

_TIMEOUT = 600.0
_EXTRAS = {"dev": ("dev",), "run": ("docs", "hub", "testing")}
"""Extras in each file; ``run.txt`` has the versions of ``dev.txt``."""


def lock() -> None:
    """Resolve the newest versions within the ranges of ``pyproject.toml``.

    Raises:
        RagopsError: uv found no versions that fit together.
    """
    argv = ["uv", "pip", "compile", "--upgrade", "--quiet", "--universal", "--python-version", "3.11"]
    argv += ["--fork-strategy", "fewest", "--generate-hashes", "--no-annotate"]
    argv += ["--custom-compile-command", "make lock"]
    tested = ("--constraint", "requirements/dev.txt")
    for name, extras in _EXTRAS.items():
        sources = ["pyproject.toml", "--group", "build", *(f"--extra={extra}" for extra in extras)]
        constraint = tested if name != "dev" else ()
        _run(*argv, *sources, *constraint, "--output-file", f"requirements/{name}.txt")
    _run(*argv, "--group", "gateway", *tested, "--output-file", str(LOCKED["gateway"]))


def write_sbom(folder: Path) -> list[Path]:
    """Write a CycloneDX bill of materials (JSON, validated) for each of :data:`LOCKED`; returns the files.

    Raises:
        RagopsError: A requirement file cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, requirements in LOCKED.items():
        file = folder / f"{name}.cdx.json"
        source = requirements
        if name == "image":  # torch is installed by its local version, apart from the others
            source = folder / "image.txt"
            source.write_text(f"{TORCH}\n{requirements.read_text()}")
        argv = ["cyclonedx-py", "requirements", str(source), "--output-reproducible", "-o", str(file)]
        _run(*argv, *(["--pyproject", "pyproject.toml"] if name == "ragops" else []))
        written.append(file)
    return written


def audit(requirements: Path) -> list[dict[str, Any]]:
    """Look up the known vulnerabilities of locked requirements.

    Returns:
        The dependencies of pip-audit's report.

    Raises:
        RagopsError: The advisory source is not reachable.
    """
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        argv = ["pip-audit", "--disable-pip", "--require-hashes", "--requirement", str(requirements)]
        argv += ["--format", "json", "--output", file.name, "--progress-spinner", "off", "--timeout", "15"]
        errors = _run(*argv, codes=(0, 1))  # 1: vulnerabilities, or a traceback
        report = Path(file.name).read_text()
    if not report:
        raise RagopsError("pip-audit wrote no report", evidence=errors)
    dependencies: list[dict[str, Any]] = json.loads(report)["dependencies"]
    return dependencies


def summary(dependencies: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each vulnerability of pip-audit's dependencies in a line, then the counts."""
    audited = [package for package in dependencies if "skip_reason" not in package]
    if not audited:
        return [f"not audited: the advisory source has none of {len(dependencies)} packages"]
    lines = [
        f"{package['name']} {package['version']}: {entry['id']}, "
        f"fixed in {', '.join(entry['fix_versions']) or 'no version'}"
        for package in audited
        for entry in package["vulns"]
    ]
    return [
        *lines,
        f"{len(lines)} known vulnerabilities; {len(audited)} of {len(dependencies)} packages audited",
    ]


def _run(*argv: str, codes: tuple[int, ...] = (0,)) -> str:
    """Run a program of this virtual environment in the checkout; returns the last lines of its messages."""
    program = str(Path(sys.executable).parent / argv[0])
    result = subprocess.run(
        [program, *argv[1:]], cwd=ROOT, capture_output=True, text=True, check=False, timeout=_TIMEOUT
    )
    messages = "\n".join(result.stderr.strip().splitlines()[-5:])
    if result.returncode not in codes:
        raise RagopsError(f"{argv[0]} failed with exit code {result.returncode}", evidence=messages)
    return messages


def _audit_all() -> tuple[list[str], bool]:
    """The lines to print for all of :data:`LOCKED`, and whether a package has a known vulnerability."""
    lines: list[str] = []
    vulnerable = False
    for name, requirements in LOCKED.items():
        try:
            dependencies = audit(requirements)
        except RagopsError as error:
            lines.append(f"{name}: not audited: {error.evidence.splitlines()[-1]}")
        else:
            lines += [f"{name}: {line}" for line in summary(dependencies)]
            vulnerable = vulnerable or any(package.get("vulns") for package in dependencies)
    return lines, vulnerable


def main() -> int:
    """Lock, list or audit the dependencies; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.supply", description=__doc__)
    parser.add_argument("action", choices=("lock", "sbom", "audit"))
    action = parser.parse_args().action
    call = Call()

    def run() -> int:
        lines: list[str] = []
        vulnerable = False
        if action == "lock":
            lock()
        elif action == "sbom":
            lines = [str(file) for file in write_sbom(ROOT / "build" / "sbom")]
        else:
            lines, vulnerable = _audit_all()
        call.show("\n".join(lines))
        return FAILED if vulnerable else OK

    return run_verb(call, run)


if __name__ == "__main__":
    raise SystemExit(main())
