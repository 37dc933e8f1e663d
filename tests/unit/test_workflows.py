"""The workflows of a public repository: what they may do and call, and their steps that need no service."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from tools import release

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SITE = "https://team.test/ragops"
WRITES = {
    ("docs", "build"): {"contents"},
    ("docs", "deploy"): {"pages", "id-token"},
    ("release", "publish"): {"id-token"},
}
"""Each job that may write, and what."""


def load(file):
    workflow = yaml.safe_load(file.read_text())
    return workflow, workflow["jobs"]


def scripts(text):
    """The shell commands of a workflow or of the build of Read the Docs."""
    found = []
    if isinstance(text, dict):
        for name, value in text.items():
            found += [value] if name == "run" and isinstance(value, str) else scripts(value)
    if isinstance(text, list):
        for value in text:
            found += scripts(value)
    return found


def commands():
    """Name and text of every script."""
    read_the_docs = yaml.safe_load((ROOT / ".readthedocs.yaml").read_text())["build"]["jobs"]
    pairs = [(file.stem, script) for file in FILES for script in scripts(load(file)[0])]
    lines = [*read_the_docs["install"], *read_the_docs["build"]["html"]]
    return [*pairs, *(("readthedocs", line) for line in lines)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_job_may_write_only_what_it_needs(file):
    workflow, jobs = load(file)
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in jobs.items():
        writes = {kind for kind, level in job.get("permissions", {}).items() if level == "write"}
        assert writes == WRITES.get((file.stem, name), set()), name
        assert "secrets." not in yaml.safe_dump(job), name


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_action_has_a_version_and_a_known_owner(file):
    used = [step["uses"] for job in load(file)[1].values() for step in job["steps"] if "uses" in step]
    assert used
    assert [name for name in used if not re.fullmatch(r"(actions|pypa)/[\w-]+@(release/)?v\d+", name)] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_scripts_take_values_of_an_event_from_the_environment_only(file):
    assert [script for script in scripts(load(file)[0]) if "${{ github" in script] == []


@pytest.mark.parametrize(("name", "script"), commands())
def test_every_script_is_valid_and_calls_what_exists(name, script):
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    rules = re.findall(r"^([\w./$()-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    targets = {rule.replace("$(VENV)", ".venv") for rule in rules}
    assert set(re.findall(r"\bmake ([\w./]+)", script)) <= targets
    assert [module for module in re.findall(r"-m (tools\.\w+)", script) if find_spec(module) is None] == []
    assert [file for file in re.findall(r" (\.ci/\w+)", script) if not os.access(ROOT / file, os.X_OK)] == []


def git(folder, *words):
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(tmp_path):
    """A clone with a remote repository, a built site and the programs that the steps call."""
    git(tmp_path, "init", "--quiet", "--bare", "remote")
    git(tmp_path, "init", "--quiet", "checkout")
    folder = tmp_path / "checkout"
    git(folder, "remote", "add", "origin", str(tmp_path / "remote"))
    (folder / "build" / "site").mkdir(parents=True)
    program = folder / ".venv" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    program.chmod(0o755)
    return folder


def publish(checkout, kind, name, page):
    """Run the steps of the docs workflow without those that need GitHub; returns the published folder."""
    (checkout / "build" / "site" / "index.html").write_text(page)
    shutil.rmtree(checkout / "published", ignore_errors=True)
    (checkout / "published.index").unlink(missing_ok=True)
    known = checkout / "environment"
    known.write_text("")
    event = {"GITHUB_REF_TYPE": kind, "GITHUB_REF_NAME": name, "GITHUB_SHA": "0" * 40}
    environment = {**os.environ, **event, "GITHUB_ENV": str(known), "ADDRESS": SITE, "PYTHONPATH": str(ROOT)}
    steps = load(ROOT / ".github" / "workflows" / "docs.yml")[1]["build"]["steps"]
    for step in steps:
        if "run" in step and step["run"] != "make docs":
            own = {key: value for key, value in step.get("env", {}).items() if "${{" not in value}
            given = dict(line.split("=", 1) for line in known.read_text().splitlines())
            argv = ["bash", "-e", "-o", "pipefail", "-c", step["run"]]
            subprocess.run(argv, cwd=checkout, check=True, env={**environment, **own, **given})
    return checkout / "published"


def test_the_site_of_a_release_joins_the_others_and_all_are_kept_as_one_commit(checkout):
    first = publish(checkout, "branch", "main", "of the newest commit")
    assert "url=dev/index.html" in (first / "index.html").read_text()
    folder = publish(checkout, "tag", "v0.1.0", "of the release")
    shown = {name: (folder / name / "index.html").read_text() for name in ("dev", "0.1.0", "stable")}
    assert shown == {"dev": "of the newest commit", "0.1.0": "of the release", "stable": "of the release"}
    assert f"{SITE}/0.1.0/" in (folder / "switcher.json").read_text()
    remote = checkout.parent / "remote"
    assert git(remote, "rev-list", "--count", "gh-pages").strip() == "1"
    kept = git(remote, "ls-tree", "-r", "--name-only", "gh-pages").split()
    assert kept == sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_a_release_needs_its_version_and_its_changes(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "0.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n")
    with pytest.raises(SystemExit, match=r"names 0\.1\.0"):
        release.check("0.1.0", tmp_path)
    with pytest.raises(SystemExit, match=r"no section 0\.2\.0"):
        release.check("0.2.0", tmp_path)
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 0.2.0 (2026-12-01)\n")
    release.check("0.2.0", tmp_path)


def test_both_distributions_have_the_package_and_the_tests(tmp_path):
    wheel, source = release.build(ROOT, tmp_path / "dist")
    assert wheel.name.endswith("-py3-none-any.whl")
    names = subprocess.run(["tar", "-tzf", source], check=True, capture_output=True, text=True).stdout
    for part in ("ragops/__main__.py", "tests/unit/test_workflows.py", "requirements/dev.txt", "Makefile"):
        assert f"/{part}\n" in names
