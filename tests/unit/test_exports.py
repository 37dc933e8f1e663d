"""The public names are the ones that are listed; the command needs the core alone."""

import inspect
import subprocess
import sys

import pytest

import ragops
from ragops import bench

OPTIONAL = {
    "pandas", "matplotlib", "jinja2", "numpy", "ipywidgets", "nbclient", "nbformat", "sphinx", "starlette",
    "uvicorn", "cryptography",
}  # fmt: skip

BLOCKED = f"""
import sys
for name in {sorted(OPTIONAL)!r}:
    sys.modules[name] = None  # importing it now fails
from ragops.cli import main
main(["--help"])
import ragops.testing.fake_engine
"""


@pytest.mark.parametrize("package", [ragops, bench])
def test_all_names_what_is_public(package):
    public = {
        name
        for name, value in vars(package).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name != "annotations"
    }
    assert public == set(package.__all__)


def test_all_is_sorted():
    assert sorted(ragops.__all__) == ragops.__all__


def test_public_names_have_docstrings():
    assert [name for name in ragops.__all__ if not inspect.getdoc(getattr(ragops, name))] == []


def test_help_works_with_nothing_but_the_core():
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "verbs:" in done.stdout


def test_command_loads_nothing_optional():
    program = "import sys, ragops.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & OPTIONAL == set()
    assert "docker" in done.stdout.split()
