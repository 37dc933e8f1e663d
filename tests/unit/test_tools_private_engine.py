"""The private engine: only where none answers, only with the means; another's is never touched."""

import os
import shutil

import pytest

from ragops.errors import EngineError
from tools import private_engine


@pytest.fixture
def none_answers(monkeypatch):
    def nobody(*_):
        raise EngineError("no Docker engine answers", evidence="a socket", hint="start one")

    monkeypatch.setattr(private_engine, "connect", nobody)
    monkeypatch.delenv("DOCKER_HOST", raising=False)


def refused(home, words):
    with pytest.raises(EngineError, match=words) as caught:
        private_engine.ensure(home)
    assert not (home / "engine").exists()
    return caught.value


def test_engine_that_answers_is_used(fake, monkeypatch, tmp_path, steps):
    monkeypatch.setattr(private_engine, "connect", lambda: fake)
    assert private_engine.ensure(tmp_path) == fake.state().address
    assert fake.state().address in steps[0]
    assert not (tmp_path / "engine").exists()


def test_one_that_is_named_is_never_replaced(none_answers, monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", "unix:///named.sock")
    assert refused(tmp_path, "no Docker engine answers").hint == "start one"


def test_needs_root(none_answers, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert refused(tmp_path, "needs root").evidence == "a socket"


def test_needs_apt_or_dockerd(none_answers, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert "install Docker Engine" in refused(tmp_path, "neither Debian nor Ubuntu").hint


def test_nothing_to_stop(tmp_path):
    assert private_engine.stop(tmp_path) is False


@pytest.mark.parametrize("text", ["", "words", pytest.param(str(os.getpid()), id="pytest"), "4194305"])
def test_pid_file_of_something_else_is_no_engine(tmp_path, text):
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "docker.pid").write_text(text)
    assert private_engine.running(tmp_path) is None


def test_stopping_removes_the_folder_and_ends_no_other_process(tmp_path):
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "docker.pid").write_text(str(os.getpid()))
    assert private_engine.stop(tmp_path) is True
    assert not (tmp_path / "engine").exists()


def test_start_and_stop_are_commands(fake, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("RAGOPS_HOME", str(tmp_path))
    monkeypatch.setattr(private_engine, "connect", lambda: fake)
    for action, output in (
        ("start", f"DOCKER_HOST={fake.state().address}"),
        ("stop", "there is no private engine"),
    ):
        monkeypatch.setattr("sys.argv", ["private_engine", action])
        assert private_engine.main() == 0
        assert capsys.readouterr().out.strip() == output
