"""``python -m tools.versions FOLDER SITE VERSION``: puts a built site among those of other versions.

``FOLDER`` is published whole: ``dev`` is the newest commit, each release has a folder of its name, ``stable``
is a copy of the newest one. The files beside them lead readers and search engines to the right version.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ragops.cli.output import Call, run_verb
from ragops.errors import RagopsError
from tools import addresses

if TYPE_CHECKING:
    from collections.abc import Sequence

DEVELOPMENT, STABLE = "dev", "stable"
RELEASE = re.compile(r"\d+(\.\d+)+")


def add(folder: Path, site: Path, version: str, address: str) -> Path:
    """Put a built site into the folder, in place of an earlier one of its version.

    Args:
        folder: Folder with the sites of other versions; it may be missing.
        site: Folder of the built site.
        version: ``dev`` or a release such as ``0.1.0``.
        address: Where the folder will be published; ends in a slash.

    Returns:
        The folder of the version.

    Raises:
        RagopsError: The version is neither, or there is no site in ``site``.
    """
    if version != DEVELOPMENT and not RELEASE.fullmatch(version):
        raise RagopsError(
            f"{version} is no version of the site",
            code="site-refused",
            hint="dev, or a release such as 0.1.0",
        )
    if not (site / "index.html").exists():
        raise RagopsError(f"no site in {site}", code="site-refused", hint="make docs builds one", file=site)
    target = _replaced(folder / version, site)
    releases = released(folder)
    if releases and version == releases[0]:
        _replaced(folder / STABLE, site)
    shown = STABLE if releases else DEVELOPMENT
    names = [*releases, *([DEVELOPMENT] if (folder / DEVELOPMENT).exists() else [])]
    rows = [_row(name, address, preferred=name == names[0]) for name in names]
    (folder / "switcher.json").write_text(json.dumps(rows, indent=2), encoding="utf-8")
    (folder / "index.html").write_text(_redirect(f"{shown}/index.html"), encoding="utf-8")
    for name in ("404.html", "robots.txt"):
        if (folder / shown / name).exists():
            shutil.copy(folder / shown / name, folder / name)
    (folder / ".nojekyll").touch()
    return target


def released(folder: Path) -> list[str]:
    """The releases that have a site, the newest first."""
    names = [file.name for file in folder.iterdir() if RELEASE.fullmatch(file.name)]
    return sorted(names, key=lambda name: tuple(map(int, name.split("."))), reverse=True)


def _replaced(target: Path, site: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(site, target)
    return target


def _row(name: str, address: str, *, preferred: bool) -> dict[str, object]:
    row: dict[str, object] = {"version": name, "url": f"{address}{name}/"}
    shown = f"{name} ({STABLE})" if preferred and name != DEVELOPMENT else name
    return row | {"name": shown, "preferred": preferred}


def _redirect(target: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>ragops</title>'
        f'<meta http-equiv="refresh" content="0; url={target}"><link rel="canonical" href="{target}"></head>'
        f'<body><p><a href="{target}">Documentation of ragops</a></p></body></html>\n'
    )


def main(arguments: Sequence[str] = ()) -> int:
    """Add the site that the arguments name; returns the exit code."""
    call = Call()
    folder, site, version = arguments or sys.argv[1:]
    address = addresses.read().site
    return run_verb(call, lambda: call.show(str(add(Path(folder), Path(site), version, address))))


if __name__ == "__main__":
    raise SystemExit(main())
