"""``python -m tools.executed``: keeps the notebooks that ``make run`` executed, for sites without Docker.

Paths and addresses of this machine are replaced. The site shows the present text and code of a notebook, with
the kept output below each cell whose code is still the same.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ragops.cli.output import Call, run_verb
from ragops.configuration import home
from ragops.errors import RagopsError
from tools import site

if TYPE_CHECKING:
    from collections.abc import Mapping

_PRIVATE = re.compile(r"/(?:work|root|home|Users)/[\w./-]*|/tmp/(?:ragops|pytest)[\w./-]*")


def keep(executed: Path, into: Path, replaced: Mapping[str, str]) -> Path:
    """Keep a set of executed notebooks, without paths of this machine.

    Args:
        executed: Folder of the notebooks, as ``make run`` leaves it.
        into: Folder for the copies; an earlier set is replaced.
        replaced: Texts of this machine with those that are kept instead.

    Returns:
        The folder of the copies.

    Raises:
        RagopsError: The set is not complete, or a notebook has an error or a path of this machine.
    """
    if not (executed / site.ORIGIN).exists():
        raise RagopsError(
            f"no complete set of notebooks in {executed}",
            code="notebook-refused",
            hint="make run executes them",
        )
    texts = {}
    for file in sorted(executed.glob("*.ipynb")):
        texts[file.name] = text = neutral(file.read_text(encoding="utf-8"), replaced)
        private = _PRIVATE.search(text)
        if private or '"output_type": "error"' in text:
            reason = f"it has {private[0]}" if private else "a cell failed"
            raise RagopsError(
                f"{file.name} cannot be kept: {reason}",
                code="notebook-refused",
                hint="make run again",
                file=file,
            )
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    for name, text in texts.items():
        (into / name).write_text(text, encoding="utf-8")
    shutil.copy(executed / site.ORIGIN, into / site.ORIGIN)
    return into


def neutral(text: str, replaced: Mapping[str, str]) -> str:
    """A text with the longest names replaced first."""
    for name in sorted(replaced, key=len, reverse=True):
        text = text.replace(name, replaced[name])
    return text


def main() -> int:
    """Keep what ``make run`` executed in the checkout in the working folder; returns the exit code."""
    checkout = Path.cwd()
    replaced = {
        str(checkout): "~/ragops",
        str(home()): "~/ragops/.ragops",
        sys.prefix: "~/ragops/.venv",
        sys.base_prefix: "/usr",
        str(Path.home()): "~",
    }
    if address := os.environ.get("DOCKER_HOST"):
        replaced[address] = "unix:///var/run/docker.sock"
    call = Call()
    kept = checkout / site.KEPT
    return run_verb(call, lambda: call.show(str(keep(checkout / site.EXECUTED, kept, replaced))))


if __name__ == "__main__":
    raise SystemExit(main())
