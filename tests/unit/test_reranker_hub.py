"""Models by name: what is fetched from a hub on loopback, how it continues, and what is never kept."""

import errno
import json
import os
from pathlib import Path

import pytest

from ragops import cli, progress
from ragops.checks import doctor
from ragops.configuration import load
from ragops.docker.objects import LABEL_MODEL
from ragops.errors import ModelError
from ragops.reranker import files, hub
from ragops.reranker import model as models
from ragops.stack import verbs
from tests.support import hub as hubs

NAME = "Qwen/Tiny-Reranker"


@pytest.fixture
def server(here, monkeypatch, model_folder):
    """A hub with one model beside files that nobody needs; ragops.toml names the model."""
    content = {file.name: file.read_bytes() for file in model_folder.iterdir()}
    content |= {
        "README.md": b"# Tiny",
        "tokenizer.json": b"{}".ljust(300) + b"}",
        "1_Pooling/config.json": b"{}",
    }
    others = {"onnx/model.onnx": b"x" * 500, "pytorch_model.bin": b"x" * 500, "openvino/x.json": b"{}"}
    Path("ragops.toml").write_text(f'[reranker]\nmodel = "{NAME}"\n')
    monkeypatch.delenv("RAGOPS_MODEL_DIR")
    monkeypatch.setattr("time.sleep", lambda _: None)  # between the library's retries
    with hubs.serving(NAME, content | others) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        running.needed = content
        yield running


def error_of(call, *arguments):
    with pytest.raises(ModelError) as caught:
        call(*arguments)
    assert caught.value.hint
    return caught.value


class TestPull:
    def test_fetches_what_vllm_needs_verifies_it_and_records_the_commit(self, server, capsys):
        assert cli.main(["model", "pull"]) == 0
        folder = models.named_folder(load())
        assert {file.relative_to(folder).as_posix() for file in folder.rglob("*.*")} == {*server.needed}
        assert {name: (folder / name).read_bytes() for name in server.needed} == server.needed
        assert files.checksums(folder).keys() == server.needed.keys()
        assert files.changed_files(folder) == ()
        assert folder.parts[-3:] == ("Qwen--Tiny-Reranker", hubs.COMMIT, "Tiny-Reranker")
        output = capsys.readouterr()
        assert f'revision = "{hubs.COMMIT}"' in output.err
        assert output.out.startswith("Tiny-Reranker  embedding")

    def test_is_idempotent_and_sends_no_file_twice(self, server):
        hub.pull(NAME, "main")
        server.requests.clear()
        hub.pull(NAME, "main")
        assert [path for path, _ in server.requests if "/resolve/" in path] == []

    def test_a_broken_connection_is_continued(self, server, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 50)
        server.break_off = 100
        hub.pull(NAME, "main")
        assert (hub.folder(NAME, "main") / "tokenizer.json").read_bytes() == server.needed["tokenizer.json"]
        assert "bytes=100-" in [ranges for _, ranges in server.requests]

    def test_an_interrupted_pull_is_continued(self, server, monkeypatch):
        class Interrupted(progress.Progress):
            def advance(self, done, total, text=""):
                if total - done < 200:
                    raise KeyboardInterrupt

        monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 50)
        with progress.receiver(Interrupted()), pytest.raises(KeyboardInterrupt):
            hub.pull(NAME, "main")
        assert not hub.folder(NAME, "main").exists()
        server.requests.clear()
        assert hub.listing(NAME, "main").missing < 200
        hub.pull(NAME, "main")
        sent = {path.rpartition("/")[2]: ranges for path, ranges in server.requests if "/resolve/" in path}
        assert list(sent) == ["tokenizer.json"]
        assert sent["tokenizer.json"].startswith("bytes=")
        assert (hub.folder(NAME, "main") / "tokenizer.json").read_bytes() == server.needed["tokenizer.json"]

    @pytest.mark.parametrize("name", ["README.md", "config.json", "model.safetensors"])
    def test_a_file_that_was_changed_on_its_way_is_not_kept(self, server, name):
        server.files["model.safetensors"] += b"Weights" * 50
        server.altered = (name,)
        error = error_of(hub.pull, NAME, "main")
        assert (error.code, name in error.evidence) == ("model-fetch", True)
        assert not hub.folder(NAME, "main").exists()
        server.altered = ()
        hub.pull(NAME, "main")
        assert (hub.folder(NAME, "main") / name).read_bytes() == server.files[name]

    def test_a_file_that_became_too_long_is_fetched_from_its_beginning(self, server):
        file = hub._stage(hub.folder(NAME, hubs.COMMIT)) / "config.json"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"x" * 5000)
        hub.pull(NAME, "main")
        assert (hub.folder(NAME, "main") / "config.json").read_bytes() == server.needed["config.json"]

    def test_shows_progress_in_bytes(self, server):
        class Receiver(progress.Progress):
            steps, counts = [], []

            def step(self, text):
                self.steps.append(text)

            def advance(self, done, total, text=""):
                self.counts.append((done, total))

        with progress.receiver(Receiver()):
            listing = hub.pull(NAME, "main")
        assert listing.commit[:12] in Receiver.steps[0]
        assert Receiver.counts == sorted(Receiver.counts)
        assert Receiver.counts[-1] == (listing.size, listing.size)

    def test_a_newer_commit_has_a_folder_of_its_own(self, server):
        hub.pull(NAME, "main")
        old = hub.folder(NAME, "main").resolve()
        server.commit, server.files["README.md"] = "f" * 40, b"# Newer"
        assert models.named_folder(load()) == old  # a branch moves by a pull only
        hub.pull(NAME, "main")
        assert models.named_folder(load()).parent.name == "f" * 40
        assert (old / "README.md").read_bytes() == b"# Tiny"

    def test_a_pinned_commit_needs_no_link(self, server):
        Path("ragops.toml").write_text(f'[reranker]\nmodel = "{NAME}"\nrevision = "{hubs.COMMIT}"\n')
        models.fetch(load())
        assert models.resolve(load()).folder == hub.folder(NAME, hubs.COMMIT)
        assert not hub.folder(NAME, "main").exists()


class TestRefusals:
    @pytest.mark.parametrize(("name", "revision"), [("Qwen/Other", "main"), (NAME, "v9")])
    def test_unknown_model_or_revision(self, server, name, revision):
        assert error_of(hub.pull, name, revision).code == "hub-refused"

    def test_no_hub_names_mirror_and_copy(self, server, monkeypatch):
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        error = error_of(hub.listing, NAME, "main")
        assert (error.code, "127.0.0.1:9" in error.evidence) == ("hub-silent", True)
        assert "HF_ENDPOINT=URL" in error.hint
        assert "copy the model's folder" in error.hint

    @pytest.mark.parametrize("page", [b"<html>log in</html>", b"{}", b'{"siblings": [{}]}', b"[]"])
    def test_a_page_of_a_proxy(self, server, page):
        server.page = page
        assert error_of(hub.listing, NAME, "main").code == "hub-silent"

    def test_weights_that_run_code(self, server):
        del server.files["model.safetensors"]
        error = error_of(hub.pull, NAME, "main")
        assert (error.code, "pytorch_model.bin" in error.evidence) == ("model-pickled", True)

    @pytest.mark.parametrize("file", ["../x.json", "/etc/x.json", "1_a/../../x.json", ".x.json", "a/b.json"])
    def test_no_file_is_written_outside_the_folder(self, server, file):
        server.files[file] = b"{}"
        assert file not in [item.name for item in hub.listing(NAME, "main").files]

    def test_a_disk_that_is_too_small(self, server, monkeypatch):
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("", (), {"free": 10}))
        assert error_of(hub.pull, NAME, "main").code == "disk-full"

    def test_a_disk_that_is_full_during_the_download(self, server, monkeypatch):
        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(hub._Counted, "write", full)
        error = error_of(hub.pull, NAME, "main")
        assert (error.code, os.strerror(errno.ENOSPC) in error.evidence) == ("home-unusable", True)
        assert not hub.folder(NAME, "main").exists()

    @pytest.mark.parametrize("address", ["http://[hub", "http://hub:99999"])
    def test_a_mirror_whose_address_is_wrong(self, server, monkeypatch, address):
        monkeypatch.setenv("HF_ENDPOINT", address)
        error = error_of(hub.listing, NAME, "main")
        assert (error.code, address in error.message) == ("hub-silent", True)

    def test_without_the_library(self, server, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
        error = error_of(hub.listing, NAME, "main")
        assert (error.code, "[hub]" in error.hint) == ("extra-missing", True)


class TestVerbs:
    def test_plan_says_how_much_would_be_fetched_and_fetches_nothing(self, server, capsys):
        assert cli.main(["plan", "--json"]) == 3
        (change,) = json.loads(capsys.readouterr().out)["changes"]
        assert change["change"].startswith(
            f"+ fetch model {NAME} at {hubs.COMMIT[:12]}: 0.0 of 0.0 MB in 6 files"
        )
        assert change["commands"] == [["ragops", "model", "pull"]]
        assert [path for path, _ in server.requests if "/resolve/" in path] == []

    def test_doctor_and_status_name_the_pull(self, server, fake):
        checks = {check.name: check for check in doctor.doctor(load(), fake).checks}
        assert (checks["model"].status, "ragops model pull" in checks["model"].remedy) == ("warn", True)
        assert error_of(verbs.status, load(), fake).code == "model-missing"

    def test_up_fetches_it_once(self, server, serving, ragflow):
        assert verbs.up(load(), serving).served_name == "tiny-reranker"
        replica = serving.container("ragflow-vllm-reranker-1")
        assert dict(replica.labels)[LABEL_MODEL] == str(models.named_folder(load()))
        server.requests.clear()
        assert verbs.plan(load(), serving).empty
        assert server.requests == []


class TestName:
    def test_a_folder_of_that_name_is_the_model(self, server):
        folder = Path(NAME)
        folder.mkdir(parents=True)
        assert (models.hub_source(load()), models.named_folder(load())) == (None, folder.resolve())

    def test_the_environment_overrides_it(self, server, monkeypatch, model_folder):
        Path("ragops.toml").write_text(f'[reranker]\nmodel = "{NAME}"\nrevision = "v1"\n')
        for value, source in (
            (NAME, (NAME, "v1")),
            ("Qwen/Other", ("Qwen/Other", "main")),
            (str(model_folder), None),
        ):
            monkeypatch.setenv("RAGOPS_MODEL_DIR", value)
            assert models.hub_source(load()) == source

    @pytest.mark.parametrize("model", ["../Qwen/x", "/Qwen/x", "x", "a/b/c", "~/x", "Qwen/.x"])
    def test_other_paths_are_folders(self, server, model):
        Path("ragops.toml").write_text(f'[reranker]\nmodel = "{model}"\n')
        assert models.hub_source(load()) is None
        assert load().reranker.model.is_absolute()
