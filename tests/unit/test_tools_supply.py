"""Locked requirements satisfy ``pyproject.toml`` on each supported Python and machine, and have hashes."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ragops.errors import RagopsError
from tools import supply

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUN, DEV = ROOT / "requirements" / "run.txt", ROOT / "requirements" / "dev.txt"
ENVIRONMENTS = [
    {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "platform_machine": machine,
        "sys_platform": "linux",
        "os_name": "posix",
        "platform_system": "Linux",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    for python in ("3.11", "3.12", "3.13")
    for machine in ("x86_64", "aarch64")
]


def entries(file):
    """The requirement and the number of hashes of each entry."""
    text = file.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(Requirement(line.partition("--hash")[0]), line.count("--hash=sha256:")) for line in lines]


def required(*extras):
    """Requirements of the project and of these extras, and what is needed to build it."""
    project = PROJECT["project"]
    lines = project["dependencies"] + PROJECT["dependency-groups"]["build"]
    lines = lines + PROJECT["build-system"]["requires"]
    for extra in extras:
        lines = lines + project["optional-dependencies"][extra]
    for requirement in map(Requirement, lines):
        if requirement.name == project["name"]:
            yield from required(*requirement.extras)
        else:
            yield requirement


@pytest.mark.parametrize(("file", "extras"), [(RUN, ("docs", "hub", "testing")), (DEV, ("dev",))])
@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda value: value["python_version"])
def test_locked_versions_are_in_the_ranges(file, extras, environment):
    locked = {}
    for entry, _ in entries(file):
        if entry.marker is None or entry.marker.evaluate(environment):
            assert entry.name not in locked
            locked[entry.name] = str(entry.specifier).removeprefix("==")
    for need in required(*extras):
        if need.marker is None or need.marker.evaluate(environment):
            assert need.specifier.contains(locked[canonicalize_name(need.name)]), need


@pytest.mark.parametrize("file", [RUN, DEV, *supply.LOCKED.values()], ids=lambda file: file.parent.name)
def test_each_package_has_a_version_and_hashes_and_no_index_is_named(file):
    wrong = [str(entry) for entry, hashes in entries(file) if not hashes or "==" not in str(entry.specifier)]
    assert wrong == []
    assert re.findall(r"https?:|^--(?!hash)", file.read_text(), re.MULTILINE) == []


def test_the_tests_run_with_the_versions_of_make_run():
    run, dev = ({str(entry) for entry, _ in entries(file)} for file in (RUN, DEV))
    assert run <= dev


SKIPPED = {"name": "b", "version": "2", "skip_reason": "not on the index"}
HARMLESS = {"name": "a", "version": "1", "vulns": []}
VULNERABLE = {
    "name": "c",
    "version": "3",
    "vulns": [{"id": "CVE-1", "fix_versions": ["4"]}, {"id": "CVE-2", "fix_versions": []}],
}


@pytest.mark.parametrize(
    ("dependencies", "lines", "code"),
    [
        ([SKIPPED, SKIPPED], ["not audited: the advisory source has none of 2 packages"], 0),
        ([HARMLESS, SKIPPED], ["0 known vulnerabilities; 1 of 2 packages audited"], 0),
        (
            [HARMLESS, VULNERABLE],
            [
                "c 3: CVE-1, fixed in 4",
                "c 3: CVE-2, fixed in no version",
                "2 known vulnerabilities; 2 of 2 packages audited",
            ],
            1,
        ),
    ],
)
def test_the_result_of_the_audit_or_its_absence_is_printed(dependencies, lines, code, monkeypatch, capsys):
    monkeypatch.setattr(supply, "audit", lambda _: dependencies)
    monkeypatch.setattr("sys.argv", ["supply", "audit"])
    assert supply.main() == code
    expected = [f"{name}: {line}" for name in supply.LOCKED for line in lines]
    assert capsys.readouterr().out.splitlines() == expected


def test_an_advisory_source_that_is_not_reachable_is_no_failure(monkeypatch, capsys):
    def unreachable(_):
        raise RagopsError("pip-audit wrote no report", evidence="Traceback\nno route to host")

    monkeypatch.setattr(supply, "audit", unreachable)
    monkeypatch.setattr("sys.argv", ["supply", "audit"])
    assert supply.main() == 0
    assert "ragops: not audited: no route to host" in capsys.readouterr().out
