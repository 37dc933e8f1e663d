"""Commands and code blocks on pages work; live/test_pages.py runs those that need a Docker engine."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
from importlib import resources
from pathlib import Path
from textwrap import dedent

import pytest

import ragops
from ragops.compose import check_texts
from ragops.errors import StackError
from ragops.ragflow.request import RERANK_TIMEOUT
from tests.support.command import parse

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.rst"))
RAGFLOW = """
services:
  ragflow-cpu: {image: "infiniflow/ragflow:v0.27.0", networks: [ragflow]}
networks:
  ragflow: {}
"""


def blocks(language):
    """(page, text) of every block of a language."""
    block = re.compile(rf"^( *)\.\. code-block:: {language}\n\n((?:\1   .*\n|\n)+)", re.MULTILINE)
    return [(page.stem, dedent(lines)) for page in PAGES for _, lines in block.findall(page.read_text())]


def compose(*files):
    """The result of ``docker-compose config`` for the files; needs no Docker engine."""
    program = resources.files("compose") / "docker-compose"
    named = [part for file in files for part in ("--file", str(file))]
    argv = [str(program), "--project-name", "docker", *named, "config"]
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=dict(os.environ))


def test_every_code_block_has_a_tested_language():
    kinds = {kind for page in PAGES for kind in re.findall(r"code-block:: (\w+)", page.read_text())}
    assert kinds <= {"console", "toml", "yaml", "python", "text"}
    assert len(blocks("python")) >= 2
    assert len(blocks("yaml")) >= 2


def test_every_command_line_has_a_tested_command():
    command = r"\$ (export \w+=\S+$|(\w+=\S+ )?(ragops|make|docker|pip|python3?|kubectl) )"
    for page, text in blocks("console"):
        for line in text.replace(" \\\n", " ").strip().splitlines():
            assert re.match(command, line), f"{page}: {line}"


def test_programs_on_pages_exist():
    named = {
        name
        for page in PAGES
        for name in re.findall(r"python -m ((?:ragops|benchmarks)[\w.]*)", page.read_text())
    }
    assert len(named) > 2
    for name in named:
        assert callable(importlib.import_module(name).main)


def test_commands_of_the_readme_are_valid():
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = re.findall(r"^ragops (.*?)(?: +#.*)?$", "".join(blocks), re.MULTILINE)
    assert len(lines) > 4
    for line in lines:
        parse(shlex.split(line))


@pytest.mark.parametrize(
    ("page", "text"),
    [one for one in blocks("python") if one[0] != "other_servers"],  # in test_benchmarks_peer.py
    ids=lambda value: value[:12],
)
def test_python_on_the_pages_runs(page, text, recorded, tmp_path, monkeypatch, capsys):
    for name in ("a", "b"):
        shutil.copytree(recorded, tmp_path / "results" / name)
    monkeypatch.chdir(tmp_path)
    exec(compile(text, page, "exec"), {})  # noqa: S102 - it is our own page
    assert capsys.readouterr().out


def test_compose_accepts_the_files_on_the_pages(tmp_path):
    (tmp_path / "base.yaml").write_text(RAGFLOW)
    for page, text in blocks("yaml"):
        file = tmp_path / f"{page}.yaml"
        file.write_text(text)
        done = compose(tmp_path / "base.yaml", file)
        assert done.returncode == 0, f"{page}: {done.stderr}"
        assert "name: ragflow-rerank" in done.stdout
        assert "name: docker_ragflow" in done.stdout


def test_files_that_start_a_reranker_have_no_faults(machine):
    starting = [(page, text) for page, text in blocks("yaml") if "image:" in text]
    assert starting
    for page, text in starting:
        assert check_texts({Path(f"/nowhere/{page}.yaml"): text}, machine, {}).findings == ()


def test_a_reranker_that_ragops_did_not_create_is_verified_but_not_changed(here, serving, ragflow):
    network, declared = "ragflow-rerank", ragops.load_stack()
    serving.create_network(ragops.docker.objects.NetworkSpec(network))
    serving.add_container("ragflow-vllm-reranker", network=network, image="vllm/vllm-openai:v0.29.0")
    ragops.connect(declared, ragflow, serving)
    assert ragops.verify(declared, serving).ok
    with pytest.raises(StackError, match="ragflow-vllm-reranker"):
        ragops.up(declared, serving)


def test_the_diagram_of_a_request_names_ragflows_timeout():
    source = (ROOT / "images" / "request.dot").read_text()
    assert f"{RERANK_TIMEOUT:.0f} s since v0.25.3" in source


def test_the_diagram_of_layers_names_every_package_and_only_modules_that_exist():
    source = (ROOT / "images" / "layers.dot").read_text()
    modules = set(re.findall(r'label="([\w/.]+)\\n', source))
    packages = {f"{file.parent.name}/" for file in (ROOT / "ragops").glob("*/__init__.py")} - {"data/"}
    assert packages <= modules
    assert [module for module in modules if not (ROOT / "ragops" / module).exists()] == []
