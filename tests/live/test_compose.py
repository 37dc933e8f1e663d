"""The output of ``check --fix`` starts and passes verify: real and random weights."""

import os
import subprocess
import time
from importlib import resources
from pathlib import Path

import pytest

from benchmarks import free_port
from ragops import configuration
from ragops.cli import main
from ragops.compose import check_file
from ragops.docker.objects import NetworkSpec
from ragops.reranker.files import bundled_minilm
from ragops.stack import verbs
from tests.support import names

CASES = Path(__file__).parents[1] / "data" / "compose"
PROJECT = f"{names.PROJECT}-compose"
NAME = f"{names.PROJECT}-compose-reranker"
NETWORK = f"{names.PROJECT}-compose"


@pytest.fixture(scope="module")
def network(engine):
    engine.create_network(NetworkSpec(NETWORK))
    yield NETWORK
    engine.remove_network(NETWORK)


@pytest.fixture
def compose(engine, network, tmp_path, monkeypatch):
    """Runs docker-compose on a file; removes the containers afterwards."""
    monkeypatch.setenv("DOCKER_HOST", engine.state().address)
    for name, value in (("NAME", NAME), ("PORT", str(free_port())), ("NETWORK", network)):
        monkeypatch.setenv(name, value)
    # The package's own script loses the exit code.
    program = resources.files("compose") / "docker-compose"

    def run(file, *arguments):
        argv = [str(program), "--project-name", PROJECT, "--file", str(file), *arguments]
        return subprocess.run(argv, capture_output=True, text=True, check=False, env=os.environ)

    yield run
    down = run(tmp_path / "fixed.yaml", "down", "--volumes", "--timeout", "5")
    assert down.returncode == 0, down.stderr
    assert engine.container(NAME) is None


def fix(case, tmp_path, monkeypatch, model, capsys):
    """The output of ``check --fix`` as a file in the folder of the case's copy."""
    monkeypatch.setenv("MODEL", str(model))
    (tmp_path / "docker-compose.yaml").write_text((CASES / case).read_text())
    assert main(["check", "--fix", str(tmp_path / "docker-compose.yaml")]) == 1
    fixed = tmp_path / "fixed.yaml"
    fixed.write_text(capsys.readouterr().out)
    assert {finding.code for finding in check_file(fixed).findings} <= {"image-unpinned"}
    return fixed


@pytest.fixture(params=["minilm", "qwen3"])
def model(request):
    """A folder that can be served: real weights of an embedding model, or random ones of Qwen3-Reranker."""
    name = {"minilm": "bundled", "qwen3": "qwen3"}[request.param]
    return request.param, request.getfixturevalue(name)


@pytest.fixture(scope="module")
def bundled():
    return bundled_minilm(configuration.home())


def test_a_fixed_file_passes_verify(
    engine, image, client, compose, network, model, share_cache, tmp_path, monkeypatch, capsys
):
    case, folder = model
    share_cache(NAME)
    monkeypatch.setenv("RAGOPS_MODEL_DIR", str(folder))
    fixed = fix(f"{case}.yaml", tmp_path, monkeypatch, folder, capsys)
    config = compose(fixed, "config")
    assert config.returncode == 0, config.stderr
    up = compose(fixed, "up", "--detach", "--wait", "--wait-timeout", "600")
    assert up.returncode == 0, up.stderr + engine.logs(NAME)
    declared = configuration.Stack(
        network=configuration.Network(name=network),
        reranker=configuration.Reranker(name=NAME, model=folder),
        ragflow=configuration.Ragflow(containers=(client,)),
        gateway=False,
    )
    verbs.connect(declared, client, engine)
    try:
        report = verbs.verify(declared, engine, budget=False)
    finally:
        verbs.disconnect(declared, client, engine)
    assert report.ok, str(report)
    said = {one.name: one.detail for one in report.checks}
    judged = {"minilm": "right documents come first", "qwen3": "prompt is the model's"}[case]
    assert {"minilm": "pairwise accuracy 0.9", "qwen3": "of the model card's prompt"}[case] in said[judged]


def test_the_original_file_never_starts(engine, image, compose, tmp_path, monkeypatch, capsys):
    fixed = fix("minilm.yaml", tmp_path, monkeypatch, bundled_minilm(configuration.home()), capsys)
    text = fixed.with_name("docker-compose.yaml").read_text()
    # Its quota may be refused at once by a small machine; --task is what this is about.
    fixed.write_text(text.replace('cpus: "1.5", ', "").replace("unless-stopped", '"no"'))
    assert compose(fixed, "up", "--detach").returncode == 0
    deadline = time.monotonic() + 600
    while engine.container(NAME).running and time.monotonic() < deadline:
        time.sleep(1)
    assert engine.container(NAME).exit_code == 2
    assert "unrecognized arguments" in engine.logs(NAME)
