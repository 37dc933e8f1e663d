"""Every docker and pip command on a page, run as written but with names of the tests."""

import io
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from ragops.docker.objects import ContainerSpec
from ragops.stack.plan import RunContainer
from tests.support.names import PROJECT

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.rst"))
NAME = f"{PROJECT}-pages"
NAMES = {"ragflow-rerank": NAME, "docker-ragflow-cpu-1": NAME, "vllm-cpu:latest": f"{NAME}:latest"}
NAMES |= {"ragflow-vllm-reranker": NAME, "ragflow-vllm-reranker-1": f"{NAME}-1"}
PARTS = ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "notebooks", "ragops")
"""Of a checkout: what the wheel is built from."""


def lines(page, command):
    """What a reader of a page types."""
    text = re.sub(r" \\\n +", " ", page.read_text())
    result = re.findall(r"^ +\$ (.*)$", text, re.MULTILINE)
    return [shlex.split(line) for line in result if line.startswith(f"{command} ")]


def run(argv, folder):
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(argv)}: {done.stderr}"
    return done.stdout


@pytest.fixture
def things(engine, image, tmp_path):
    """Two containers and a small image under the names that are put in; all is taken away afterwards."""
    tar = tmp_path / "small.tar"
    with tarfile.open(tar, "w") as archive:
        archive.addfile(tarfile.TarInfo("empty"), io.BytesIO())
    engine.import_image(tar, NAMES["vllm-cpu:latest"], role="test")
    containers = (NAME, f"{NAME}-1")
    for name in containers:
        spec = ContainerSpec(name=name, image=image.id, entrypoint=("sleep", "600"), role="test")
        RunContainer(spec).apply(engine)
    yield
    for name in containers:
        engine.remove_container(name)
    engine.remove_image(NAMES["vllm-cpu:latest"])
    if engine.network(NAME):
        engine.remove_network(NAME)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if lines(page, "docker")], ids=lambda page: page.stem
)
def test_docker_commands_do_what_the_page_says(engine, things, tmp_path, page, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", engine.state().address)
    for line in lines(page, "docker"):
        if line[1] in {"compose", "run", "node", "service", "stack", "swarm"}:
            # tests/unit/test_docs_code.py has the first, test_benchmarks_peer.py the second; test_swarm*.py
            # have the others, on engines of their own: they would change all of this one.
            continue
        argv = [NAMES.get(word, word) for word in line]
        message = run(argv, tmp_path)
        if argv[1:3] == ["network", "connect"]:
            assert engine.container(NAME).endpoint(NAME)
        if argv[1:3] == ["network", "disconnect"]:
            assert not engine.container(NAME).endpoint(NAME)
        if argv[1:3] == ["ps", "--all"]:
            assert NAME in message


def test_pip_commands_carry_the_package_to_another_machine(tmp_path):
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        (tmp_path / part).parent.mkdir(exist_ok=True)
        copy(ROOT / part, tmp_path / part)
    typed = lines(ROOT / "docs" / "airgap.rst", "pip")
    assert [line[1] for line in typed] == ["wheel", "install"]
    for line in typed:  # what others make is left out; the target keeps this environment as it is
        target = ["--target", str(tmp_path / "there")] if line[1] == "install" else []
        run([sys.executable, "-m", *line, "--no-deps", *target], tmp_path)
    there = tmp_path / "there"
    files = ("ragops/__init__.py", "ragops/data/errors.tsv", "share/man/man1/ragops.1")
    assert [file for file in files if not (there / file).exists()] == []
