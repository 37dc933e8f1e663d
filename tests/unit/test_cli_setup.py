"""``ragops lab`` opens JupyterLab with the notebooks, on this machine only."""

import errno
import io
import json
import os
import re
import sys
from pathlib import Path

import pytest

from ragops import cli, configuration, errors
from ragops.cli.setup import NOTEBOOKS


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Runs ``ragops lab`` in an empty folder; gives the folder, arguments and environment of JupyterLab."""

    def run(*argv):
        started = []

        def execve(_program, arguments, environment):
            started.append((arguments, environment))
            raise SystemExit(0)

        monkeypatch.setattr("os.execve", execve)
        code = cli.main(["lab", *argv])
        return (code, *(started[0] if started else ([], {})))

    data = tmp_path / "package"
    (data / "notebooks").mkdir(parents=True)
    (data / "notebooks" / "01_setup.ipynb").write_text("packaged")
    monkeypatch.setattr("importlib.resources.files", lambda _: data)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return run


@pytest.mark.parametrize("name", NOTEBOOKS)
@pytest.mark.parametrize("notebook", ["01_setup.ipynb", "02_verify.ipynb", "mine.ipynb"])
def test_existing_notebooks_are_opened_in_place(lab, tmp_path, name, notebook):
    file = tmp_path / "work" / name / notebook
    file.parent.mkdir()
    file.write_text("mine")
    _, argv, _ = lab()
    assert argv[-1] == str(file.parent)
    assert {path.name: path.read_text() for path in file.parent.iterdir()} == {notebook: "mine"}


def test_without_notebooks_the_copies_of_the_package_are_opened(lab, tmp_path):
    _, argv, _ = lab()
    folder = tmp_path / "work" / "ragops-notebooks"
    assert (argv[-1], (folder / "01_setup.ipynb").read_text()) == (str(folder), "packaged")


def test_without_any_notebooks_it_fails(lab, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.resources.files", lambda _: tmp_path)
    assert lab()[0] == 1
    assert "no notebooks below" in capsys.readouterr().err


def test_it_listens_on_this_machine_only_and_contacts_no_other(lab):
    code, argv, environment = lab("--port", "8901", "--no-browser")
    assert (code, argv[:3]) == (0, [sys.executable, "-m", "jupyterlab"])
    assert {"--ip=127.0.0.1", "--port=8901", "--no-browser", "--LabApp.news_url=None"} <= set(argv)
    assert "RAGOPS_STACK" not in environment
    assert "--no-browser" not in lab()[1]


def test_without_jupyterlab_it_names_the_extra(lab, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert lab()[0] == 1
    assert "ragops-rerank[notebooks]" in capsys.readouterr().err


def test_the_configuration_is_passed_to_the_notebooks(lab, tmp_path):
    (tmp_path / "work" / "ragops.toml").write_text("")
    assert lab()[2]["RAGOPS_STACK"] == str(tmp_path / "work" / "ragops.toml")


def test_the_configuration_of_the_environment_comes_before_that_of_the_folder(lab, tmp_path, monkeypatch):
    for name in ("ragops.toml", "other.toml"):
        (tmp_path / "work" / name).write_text("")
    monkeypatch.setenv("RAGOPS_STACK", "other.toml")
    assert lab()[2]["RAGOPS_STACK"] == str(tmp_path / "work" / "other.toml")


class TestConfiguration:
    @pytest.fixture(autouse=True)
    def folder(self, here, tmp_path):
        return tmp_path

    def test_init_writes_a_file_once(self, folder, capsys):
        assert cli.main(["init"]) == 0
        text = (folder / "ragops.toml").read_text()
        assert text == configuration.commented()
        assert capsys.readouterr().out.startswith("ragops.toml ")
        (folder / "ragops.toml").write_text("# mine")
        assert cli.main(["init"]) == 1
        assert (folder / "ragops.toml").read_text() == "# mine"
        assert "hint: " in capsys.readouterr().err
        assert cli.main(["init", "--stack", "other.toml"]) == 0
        assert (folder / "other.toml").exists()

    def test_init_leaves_no_empty_file_on_a_full_disk(self, folder, capsys, monkeypatch):
        class Full(io.TextIOWrapper):
            def flush(self):
                del Full.flush  # it closes
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        plain = Path.open
        monkeypatch.setattr(Path, "open", lambda file, *_, **__: Full(plain(file, "xb")))
        assert cli.main(["init"]) == 1
        assert os.strerror(errno.ENOSPC) in capsys.readouterr().err
        assert not (folder / "ragops.toml").exists()

    def test_config_shows_values_and_what_sets_them(self, folder, capsys, model_folder):
        (folder / "ragops.toml").write_text("[reranker]\nport = false\n")
        assert cli.main(["config", "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
        assert record["reranker.port"] == {"value": False, "source": "ragops.toml:2"}
        assert record["reranker.model"] == {"value": str(model_folder), "source": "RAGOPS_MODEL_DIR"}
        assert record["reranker.replicas"] == {"value": 1, "source": "default"}
        assert cli.main(["config"]) == 0
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert ["reranker.port", "false", "ragops.toml:2"] in lines
        assert ["network.subnet", "-", "default"] in lines

    def test_a_wrong_file_is_an_error(self, folder, capsys):
        (folder / "ragops.toml").write_text("a = 1\nb = 2\n")
        assert cli.main(["config"]) == 1
        assert "settings-refused" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "name"),
    [(["doctr"], "doctor"), (["bench", "--clinets", "2"], "--clients"), (["demo", "upp"], "up")],
)
def test_mistyped_verbs_and_options_get_the_nearest(capsys, argv, name):
    assert cli.main(argv) == 2
    assert re.search(rf"(Did you mean|Possible options:).*{name}", capsys.readouterr().err)


class TestExplain:
    @pytest.mark.parametrize(
        ("code", "words"),
        [
            ("port-taken", ("Another container publishes the port.", "port = false", "ss -ltnp")),
            ("engine-refused", ("Fix: look at the engine's log: journalctl --unit docker.",)),
            ("model-missing", ("RAGOPS_MODEL_DIR=FOLDER",)),
        ],
    )
    def test_meaning_fix_and_known_messages(self, capsys, code, words):
        assert cli.main(["explain", code]) == 0
        text = capsys.readouterr().out
        assert text.startswith(f"{code}: ")
        assert [word for word in words if word not in text] == []

    def test_as_json(self, capsys):
        assert cli.main(["explain", "disk-full", "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
        assert record["code"] == "disk-full"
        assert record["remedy"].startswith("free disk space")
        assert [row["words"] for row in record["messages"]] == ["no space left on device"]

    def test_every_known_message_of_a_code_is_listed(self, capsys):
        assert cli.main(["explain", "engine-tls", "--json"]) == 0
        words = [row["words"] for row in json.loads(capsys.readouterr().out)["messages"]]
        assert words[0] == "HTTP request to an HTTPS server"
        assert "CERTIFICATE_VERIFY_FAILED" in words

    def test_no_program_of_the_site_is_imported(self):
        before = list(sys.path)
        assert cli.main(["explain", "locked"]) == 0
        assert sys.path == before

    @pytest.mark.parametrize(
        ("code", "hint"), [("port-takn", "did you mean port-taken?"), ("?", "an error shows its code")]
    )
    def test_unknown_code(self, capsys, code, hint):
        assert cli.main(["explain", code]) == 1
        assert f"hint: {hint}" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("site", "place"),
        [
            ("", "ragops explain locked"),
            ("https://example.org/ragops/", "https://example.org/ragops/errors.html#locked"),
        ],
    )
    def test_errors_name_the_site_once_it_is_published(self, monkeypatch, site, place):
        monkeypatch.setattr(errors, "_site", lambda: site)
        assert f"see: {place}" in str(errors.LockedError("m")).splitlines()
