"""JupyterLab with the notebooks: where they are, and the command that opens it.

Notebooks of a checkout are opened where they lie. The package carries copies for those who
installed it; they are laid into the working folder once, and never over what is there.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from importlib import resources
from pathlib import Path

from ragops.errors import RagopsError

FOLDERS = ("notebooks", "ragops-notebooks")
"""Where notebooks are looked for, below the working folder; copies go to the last one."""

_FIRST = "01_setup.ipynb"


def notebooks(here: Path) -> Path:
    """The folder with the notebooks, made of the package's copies if there is none.

    Args:
        here: The working folder.

    Raises:
        RagopsError: There is none, and the package has no copies (as in an editable install).
    """
    for name in FOLDERS:
        if (here / name / _FIRST).exists():
            return here / name
    packaged = resources.files("ragops.data") / "notebooks"
    if not packaged.is_dir():
        raise RagopsError(
            f"no notebooks below {here}",
            code="notebook-refused",
            evidence=f"looked for {' and '.join(f'{name}/{_FIRST}' for name in FOLDERS)}",
            hint="go to the checkout of ragops, then: ragops lab",
            file=here,
        )
    with resources.as_file(packaged) as folder:
        return Path(shutil.copytree(folder, here / FOLDERS[-1], dirs_exist_ok=True))


def command(folder: Path, *, port: int, browser: bool) -> list[str]:
    """The command line that opens JupyterLab on this machine only, asking no other host.

    Args:
        folder: Folder with the notebooks.
        port: TCP port; a free one near it is taken when it is in use.
        browser: Whether a browser is opened.

    Raises:
        RagopsError: JupyterLab is not installed.
    """
    if importlib.util.find_spec("jupyterlab") is None:
        raise RagopsError(
            "JupyterLab is not installed", code="extra-missing", hint="pip install 'ragops-rerank[notebooks]'"
        )
    quiet = ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    root = ["--allow-root"] if os.geteuid() == 0 else []
    silent = [] if browser else ["--no-browser"]
    where = ["--ip=127.0.0.1", f"--port={port}"]
    return [sys.executable, "-m", "jupyterlab", *where, *quiet, *root, *silent, str(folder)]
