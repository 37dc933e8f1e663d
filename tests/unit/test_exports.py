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
import tests.support.fake_engine
"""


@pytest.mark.parametrize("package", [ragops, bench])
def test_all_names_what_is_public(package):
    """Names that are imported when first used are listed as well; nothing else is public."""
    values = {name: getattr(package, name) for name in package.__all__}
    own = {
        name for name, value in vars(package).items() if getattr(value, "__module__", "") == package.__name__
    }
    assert {name for name in own if not name.startswith("_")} <= set(values)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError):
        ragops.nonsense  # noqa: B018
    assert dir(ragops) == ragops.__all__


def test_all_is_sorted():
    assert sorted(ragops.__all__) == ragops.__all__


def test_public_names_have_docstrings():
    assert [name for name in ragops.__all__ if not inspect.getdoc(getattr(ragops, name))] == []


def test_help_works_with_nothing_but_the_core():
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Measure" in done.stdout


def test_command_loads_nothing_optional():
    program = "import sys, ragops.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & OPTIONAL == set()
    assert set(done.stdout.split()) & {"docker", "httpx", "pydantic", "rich", "yaml"} == set()
