"""int8 folders: which models are refused, which folders are reused, and that a failure leaves nothing."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest

from ragops import cli
from ragops.checks import doctor
from ragops.configuration import Stack
from ragops.data.task import fingerprint
from ragops.docker.objects import ExecResult
from ragops.errors import EngineError, ImageError, ModelError
from ragops.reranker import int8, sizing
from ragops.reranker import model as models
from ragops.stack import verbs

IMAGE = "vllm-cpu:latest"
SAID = json.dumps({"linear": 14, "compressed_tensors": "0.17.0"})
METHOD = {"quant_method": "compressed-tensors"}


def i8(file, plain, quantized):
    """A safetensors file with some bytes of float32 and some of int8."""
    entries = {
        "embed.weight": {"dtype": "F32", "shape": [plain // 4], "data_offsets": [0, plain]},
        "q.weight": {"dtype": "I8", "shape": [quantized], "data_offsets": [plain, plain + quantized]},
    }
    text = json.dumps(entries).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(plain + quantized))


def configured(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


@pytest.fixture
def program(fake):
    """Stands for the program in the container: writes into the mounted folder, then says its line."""
    seen = []

    def respond(box, argv, stdin):
        spec = fake._specs[box.id]
        source, made = (Path(one.source) for one in spec.mounts)
        seen.append((spec, made))
        for file in source.iterdir():
            shutil.copyfile(file, made / file.name)
        i8(made / "model.safetensors", 40, 100)
        configured(made, quantization_config=METHOD)
        return ExecResult(0, f"a library's chatter\n{SAID}", "")

    fake.respond = respond
    return seen


def make(fake, folder, **fields):
    return int8.int8(folder, engine=fake, image=IMAGE, **fields)


class TestMade:
    def test_beside_the_model_which_is_only_read(self, fake, program, model_folder):
        before = fingerprint(model_folder)
        made = make(fake, model_folder)
        assert made == model_folder.with_name("tiny-int8")
        ((spec, _),) = program
        assert [(one.target, one.read_only) for one in spec.mounts] == [("/model", True), ("/made", False)]
        assert spec.network == "none"
        assert fingerprint(model_folder) == before
        assert sorted(one.name for one in made.parent.iterdir()) == ["tiny", "tiny-int8"]
        assert fake.containers() == ()

    def test_it_says_what_it_is(self, fake, program, model_folder):
        (model_folder / models.SUBSTITUTE_FILE).write_text("random weights\n")
        model = models.describe(make(fake, model_folder))
        assert (model.quantized, model.int8_bytes, model.substitute) == (
            "compressed-tensors",
            100,
            "random weights",
        )

    def test_a_second_time_it_is_found(self, fake, program, model_folder):
        assert make(fake, model_folder) == make(fake, model_folder)
        assert len(program) == 1

    def test_another_model_in_the_same_folder_makes_it_again(self, fake, program, model_folder):
        make(fake, model_folder)
        configured(model_folder, vocab_size=7)
        made = make(fake, model_folder)
        assert len(program) == 2
        record = json.loads((made / int8.RECORD).read_text())
        assert record["source_sha256"] == fingerprint(model_folder)
        assert sorted(one.name for one in made.parent.iterdir()) == ["tiny", "tiny-int8"]

    def test_in_our_own_folder_where_nobody_may_write(self, fake, program, here, model_folder, monkeypatch):
        monkeypatch.setattr(os, "access", lambda *_: False)
        assert make(fake, model_folder) == here / "models" / "tiny-int8"

    def test_where_it_is_asked_for(self, fake, program, model_folder, tmp_path):
        target = tmp_path / "deep" / "q8"
        assert make(fake, model_folder, target=target) == target
        assert (target / "model.safetensors").is_file()


class TestRefused:
    def test_what_is_quantized_already(self, fake, model_folder):
        configured(model_folder, quantization_config={"quant_method": "awq"})
        with pytest.raises(ModelError, match="already quantized") as caught:
            make(fake, model_folder)
        assert "awq" in caught.value.evidence
        assert caught.value.code == "model-not-int"

    def test_an_architecture_that_is_not_known(self, fake, model_folder):
        configured(model_folder, architectures=["MPNetModel"])
        with pytest.raises(ModelError, match="its architecture is MPNetModel"):
            make(fake, model_folder)

    def test_somebody_elses_folder_stays_as_it_is(self, fake, program, model_folder):
        other = model_folder.with_name("tiny-int8")
        other.mkdir()
        (other / "notes.txt").write_text("mine")
        with pytest.raises(ModelError, match="not an int8 folder") as caught:
            make(fake, model_folder)
        assert caught.value.code == "model-not-int"
        assert [one.name for one in other.iterdir()] == ["notes.txt"]
        assert program == []

    def test_a_disk_that_is_full(self, fake, program, model_folder, monkeypatch):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1000))
        with pytest.raises(ModelError, match="no space for an int8 folder") as caught:
            make(fake, model_folder)
        assert "0.00 GB are free" in caught.value.evidence
        assert program == []


def left(model_folder):
    return sorted(one.name for one in model_folder.parent.iterdir())


class TestFailed:
    @pytest.mark.parametrize(
        ("stderr", "error", "code"),
        [
            ("ModuleNotFoundError: No module named 'compressed_tensors'", ImageError, "image-lacks-library"),
            ("RuntimeError: No space left on device", ModelError, "model-not-int"),
            ("", ModelError, "model-not-int"),
        ],
    )
    def test_the_program_says_why_and_nothing_is_left(self, fake, model_folder, stderr, error, code):
        fake.respond = lambda *_: ExecResult(1, "", f"Traceback\n{stderr}")
        with pytest.raises(error) as caught:
            make(fake, model_folder)
        assert stderr in caught.value.evidence
        assert caught.value.code == code
        assert left(model_folder) == ["tiny"]
        assert fake.containers() == ()

    def test_files_without_a_linear_layer(self, fake, model_folder):
        fake.respond = lambda *_: ExecResult(0, json.dumps({"linear": 0, "compressed_tensors": "1"}), "")
        with pytest.raises(ModelError, match="no linear layer"):
            make(fake, model_folder)
        assert left(model_folder) == ["tiny"]

    def test_a_result_that_is_no_model(self, fake, model_folder):
        fake.respond = lambda *_: ExecResult(0, SAID, "")
        with pytest.raises(ModelError):
            make(fake, model_folder)
        assert left(model_folder) == ["tiny"]

    def test_an_image_that_is_not_there(self, fake, model_folder):
        with pytest.raises(EngineError):
            int8.int8(model_folder, engine=fake, image="none:1")
        assert left(model_folder) == ["tiny"]


class TestServed:
    @pytest.fixture
    def model(self, model_folder):
        i8(model_folder / "model.safetensors", 40, 100)
        configured(model_folder, quantization_config=METHOD, dtype="bfloat16")
        return models.describe(model_folder)

    def test_what_is_int8_keeps_its_size_in_any_arithmetic(self, model):
        header = model.weight_bytes - 140
        assert model.weights_as("bfloat16") == model.weight_bytes
        assert model.weights_as("float32") == 100 + 2 * (40 + header)

    def test_its_limit_is_that_of_int8(self, model, machine):
        assert sizing.size(Stack(), model, machine).arithmetic == "int8"
        plain = dataclasses.replace(model, int8_bytes=0)
        assert sizing.size(Stack(), plain, machine).arithmetic == "bfloat16"

    @pytest.mark.parametrize("feature", ["avx512_vnni", "avx_vnni", "amx_int8", "asimddp"])
    def test_a_processor_that_sums_int8_without_overflow(self, machine, feature):
        plain = dataclasses.replace(machine, features=frozenset({"avx2"}))
        assert "sums overflow" in int8.unfit(plain)
        assert int8.unfit(dataclasses.replace(machine, features=frozenset({"avx2", feature}))) == ""

    def test_plan_says_when_scores_will_be_wrong(self, here, fake, model):
        fake.add_image(IMAGE)
        assert any("sums overflow" in note for note in verbs.plan(Stack(), fake).notes)


def test_doctor_says_so_before_it_is_served(here, model_folder, machine):
    i8(model_folder / "model.safetensors", 40, 100)
    configured(model_folder, quantization_config=METHOD)
    found = {check.name: check for check in doctor.check_model(Stack(), machine, reranker=None)}
    assert found["model"].status == "fail"
    assert "sums overflow" in found["model"].detail
    able = dataclasses.replace(machine, features=machine.features | {"avx512_vnni"})
    assert next(doctor.check_model(Stack(), able, reranker=None)).status == "warn"  # an encoder stands in


def test_the_command_prints_the_folder(each_host, here, fake, program, model_folder, monkeypatch, capsys):
    monkeypatch.setattr("ragops.reranker.host.read_host", lambda: each_host)
    assert cli.main(["int8"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{model_folder.with_name('tiny-int8')}\n"
    assert bool(printed.err) == (not each_host.has_int8)
