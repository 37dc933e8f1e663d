"""reranker/files.py detects truncated and changed files of a model folder."""

import hashlib
import json
import subprocess

import pytest

from ragops.errors import ModelError
from ragops.reranker import files
from ragops.reranker.model import describe


@pytest.fixture
def shards(tmp_path, safetensors):
    """Two shards and the index that names their tensors."""
    safetensors(tmp_path / "model-1.safetensors", a=100, b=28)
    safetensors(tmp_path / "model-2.safetensors", c=72)
    names = {"a": "model-1.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}
    index = {"metadata": {"total_size": 200}, "weight_map": names}
    (tmp_path / files.INDEX).write_text(json.dumps(index))
    return tmp_path


def reindexed(folder, **changed):
    file = folder / files.INDEX
    index = json.loads(file.read_text())
    file.write_text(json.dumps(index | changed))


class TestTensors:
    def test_a_complete_file(self, tmp_path, safetensors):
        tensors = files.tensors(safetensors(tmp_path / "m.safetensors", a=100))
        assert list(tensors) == ["a"]
        assert files.data_bytes(tensors) == 100

    @pytest.mark.parametrize("size", [0, 4, 8, 20, -1])
    def test_a_truncated_file(self, tmp_path, safetensors, size):
        file = safetensors(tmp_path / "m.safetensors", a=100)
        file.write_bytes(file.read_bytes()[:size])
        with pytest.raises(ValueError, match=r"."):
            files.tensors(file)

    @pytest.mark.parametrize(
        "content",
        [b"<html>not found</html>", b"\0" * 64, b"\2" + b"\0" * 7 + b"[]", b"\2" + b"\0" * 7 + b"{x"],
    )
    def test_other_content(self, tmp_path, content):
        (tmp_path / "m.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=r"."):
            files.tensors(tmp_path / "m.safetensors")

    @pytest.mark.parametrize("difference", [-7, 4])
    def test_the_reason_has_both_sizes(self, tmp_path, safetensors, difference):
        file = safetensors(tmp_path / "m.safetensors", a=100)
        content = file.read_bytes()
        file.write_bytes((content + b"tail")[: len(content) + difference])
        with pytest.raises(ValueError, match=rf"{len(content) + difference} bytes.* {len(content)}"):
            files.tensors(file)


class TestIndex:
    def test_none_is_no_fault(self, tmp_path):
        assert files.index_errors(tmp_path) == ()

    def test_shards_as_it_says(self, shards):
        assert files.index_errors(shards) == ()

    def test_a_tensor_that_its_shard_lacks(self, shards, safetensors):
        safetensors(shards / "model-2.safetensors", d=72)
        assert files.index_errors(shards) == ("1 tensors of the index are in no shard, such as c",)

    def test_another_size_in_all(self, shards):
        reindexed(shards, metadata={"total_size": 300})
        assert files.index_errors(shards) == ("the shards hold 200 bytes of tensors, the index says 300",)

    def test_an_index_without_a_size(self, shards):
        reindexed(shards, metadata={})
        assert files.index_errors(shards) == ()


class TestSums:
    def test_a_list_as_sha256sum_writes_it(self, shards):
        names = ("model-1.safetensors", "model-2.safetensors")
        with (shards / "SHA256SUMS").open("w") as out:
            subprocess.run(["sha256sum", *names], cwd=shards, check=True, stdout=out)
        assert set(files.checksums(shards)) == set(names)
        assert files.changed_files(shards) == ()
        one = shards / "model-2.safetensors"
        one.write_bytes(one.read_bytes()[:-1] + b"\2")  # one bit, the size stays
        assert list(files.tensors(one)) == ["c"]
        assert files.changed_files(shards) == ("model-2.safetensors",)

    def test_files_that_are_not_there_are_left_alone(self, tmp_path):
        (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  pytorch_model.bin\n# a remark\n")
        assert files.checksums(tmp_path) == {"pytorch_model.bin": "0" * 64}
        assert files.changed_files(tmp_path) == ()

    def test_what_a_hub_left(self, shards):
        kept = shards / ".cache" / "huggingface" / "download"
        (kept / "1_Pooling").mkdir(parents=True)
        (shards / "1_Pooling").mkdir()
        (shards / "1_Pooling" / "config.json").write_text("{}")
        git = ["git", "hash-object", "1_Pooling/config.json"]
        blob = subprocess.run(git, cwd=shards, check=True, capture_output=True, text=True).stdout.strip()
        big = hashlib.sha256((shards / "model-1.safetensors").read_bytes()).hexdigest()
        (kept / "model-1.safetensors.metadata").write_text(f"{'c' * 40}\n{big}\n1700000000.0\n")
        (kept / "1_Pooling" / "config.json.metadata").write_text(f"{'c' * 40}\n{blob}\n1700000000.0\n")
        (kept / "odd.metadata").write_text("not one\n")
        assert files.checksums(shards) == {"model-1.safetensors": big, "1_Pooling/config.json": blob}
        assert files.changed_files(shards) == ()
        (shards / "1_Pooling" / "config.json").write_text("{ }")
        assert files.changed_files(shards) == ("1_Pooling/config.json",)


class TestPointers:
    POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4' * 64}\nsize 1191588280\n"

    def test_none(self, model_folder):
        assert files.lfs_pointers(model_folder) == ()

    @pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "onnx/model.onnx"])
    def test_they_are_named_and_the_folder_is_refused(self, model_folder, name):
        (model_folder / name).parent.mkdir(exist_ok=True)
        (model_folder / name).write_text(self.POINTER)
        assert files.lfs_pointers(model_folder) == (name,)
        with pytest.raises(ModelError, match="git-lfs pointers") as caught:
            describe(model_folder)
        assert caught.value.evidence == name
        assert caught.value.hint == f"git -C {model_folder} lfs pull"

    def test_a_cut_file_is_refused_before_anything_starts(self, model_folder):
        file = model_folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(ModelError, match="not a complete model") as caught:
            describe(model_folder)
        assert caught.value.evidence.startswith("model.safetensors: ")
