"""What ``ragops`` without a verb prints: the next step for each state."""

import pytest

from ragops import cli
from ragops.configuration import Stack
from ragops.errors import EngineError
from ragops.stack import verbs

RERANKER = "ragflow-vllm-reranker"
REPLICA = f"{RERANKER}-1"


@pytest.fixture
def next_command(here, fake):
    return lambda: verbs.next_step(Stack(), fake).command


def test_no_engine(monkeypatch):
    def silent():
        raise EngineError("no Docker engine answers")

    monkeypatch.setattr("ragops.docker.engine.connect", silent)
    step = verbs.next_step(Stack())
    assert (step.state, step.command) == ("no Docker engine answers", "ragops doctor")


def test_no_image(next_command, fake):
    fake.remove_image("vllm-cpu:latest")
    assert next_command() == "ragops image"


def test_from_nothing_to_a_connected_reranker(next_command, serving, ragflow):
    assert next_command() == "ragops plan"
    assert cli.main(["up"]) == 0
    serving.change(REPLICA, health="healthy")
    serving.change(RERANKER, status="paused")
    assert next_command() == "ragops up"
    serving.change(RERANKER, status="running", health="starting")  # it responds before its first check
    assert next_command() == "ragops verify"
    serving.disconnect("ragflow-rerank", ragflow)
    assert next_command() == "ragops up"


def test_no_ragflow(next_command, serving):
    assert cli.main(["up"]) == 0
    for name in (RERANKER, REPLICA):
        serving.change(name, health="healthy")
    assert next_command() == "ragops demo up"


def test_command_without_a_verb_prints_the_next_step(here, fake, capsys):
    assert cli.main([]) == 0
    output = capsys.readouterr()
    assert "next: ragops plan" in output.out
    assert "ragops --help" in output.err
    assert fake.calls == []


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_script_calls_the_command(capsys, shell):
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "_RAGOPS_COMPLETE" in script
