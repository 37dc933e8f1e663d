"""JupyterLab is opened with the notebooks, on this machine only."""

import sys

import pytest

from ragops import cli, lab
from ragops.errors import RagopsError


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """A package that carries one notebook."""
    data = tmp_path / "package"
    (data / "notebooks").mkdir(parents=True)
    (data / "notebooks" / "01_setup.ipynb").write_text("packaged")
    monkeypatch.setattr("ragops.lab.resources.files", lambda _: data)
    return data


@pytest.mark.parametrize("name", lab.FOLDERS)
def test_notebooks_that_are_there_are_opened_where_they_lie(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "01_setup.ipynb").write_text("mine")
    assert lab.notebooks(tmp_path) == tmp_path / name


def test_else_the_packages_copies_are_laid_down_once(tmp_path, packaged):
    folder = lab.notebooks(tmp_path)
    assert folder == tmp_path / "ragops-notebooks"
    (folder / "01_setup.ipynb").write_text("mine")
    assert lab.notebooks(tmp_path) == folder
    assert (folder / "01_setup.ipynb").read_text() == "mine"


def test_none_anywhere_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("ragops.lab.resources.files", lambda _: tmp_path)
    with pytest.raises(RagopsError, match="no notebooks below"):
        lab.notebooks(tmp_path)


def test_the_command_listens_here_only_and_asks_no_other_host(tmp_path):
    argv = lab.command(tmp_path, port=8901, browser=False)
    assert argv[:3] == [sys.executable, "-m", "jupyterlab"]
    assert {"--ip=127.0.0.1", "--port=8901", "--no-browser", "--LabApp.news_url=None"} <= set(argv)
    assert argv[-1] == str(tmp_path)
    assert "--no-browser" not in lab.command(tmp_path, port=8901, browser=True)


def test_without_jupyterlab_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("ragops.lab.importlib.util.find_spec", lambda _: None)
    with pytest.raises(RagopsError) as caught:
        lab.command(tmp_path, port=8888, browser=True)
    assert "ragops-rerank[notebooks]" in caught.value.hint


def test_the_verb_hands_the_declaration_on(tmp_path, monkeypatch, capsys):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_setup.ipynb").write_text("{}")
    (tmp_path / "ragops.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    started = []

    def execve(*call):
        started.append(call)
        raise SystemExit(0)

    monkeypatch.setattr("os.execve", execve)
    assert cli.main(["lab", "--no-browser"]) == 0
    program, argv, environment = started[0]
    assert (program, argv[-1]) == (sys.executable, str(tmp_path / "notebooks"))
    assert environment["RAGOPS_STACK"] == str(tmp_path / "ragops.toml")
