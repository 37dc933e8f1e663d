"""The launches whose arguments another release of vLLM accepted, as docs/_data/arguments.json says."""

import json
import zipfile
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import arguments
from ragops.errors import ImageError
from ragops.reranker import architectures, files
from tests.support.fake_engine import ExecResult

RECORDED = json.loads((Path(__file__).parents[2] / "docs/_data/arguments.json").read_text(encoding="utf-8"))


def test_the_record_has_the_launches_of_today():
    """Else: python -m benchmarks.arguments 0.33.0 docs/_data/arguments.json."""
    assert RECORDED["rows"] == [asdict(row) for row in arguments.launches()]
    assert RECORDED["vllm"] == "0.33.0"


def test_each_row_of_the_table_has_one():
    table = [(row.name, row.kind) for row in architectures.SERVED]
    assert [(row.architecture, row.kind) for row in arguments.launches()] == table
    overridden = [row for row in arguments.launches() if row.kind == "cross-encoder"]
    assert all("activation.Sigmoid" in row.arguments for row in overridden)


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A download of a wheel with a Python file and a library."""

    def download(folder, *_):
        with zipfile.ZipFile(folder / "vllm-0.33.0-cp38-abi3-any.whl", "w") as archive:
            archive.writestr("vllm/version.py", "")
            archive.writestr("vllm/_C.abi3.so", "")

    monkeypatch.setattr("ragops.reranker.files.download", download)


def test_only_python_files_are_unpacked(wheel, tmp_path):
    files.download(tmp_path)
    arguments.unpack(next(tmp_path.glob("*.whl")), tmp_path / "tree", "0.33.0")
    names = {file.name for file in (tmp_path / "tree").rglob("*") if file.is_file()}
    assert names == {"version.py", "METADATA"}


@pytest.mark.parametrize("code", [0, 1])
def test_a_refusal_is_an_error_with_the_parsers_message(wheel, fake, code):
    sent = []

    def respond(_container, argv, stdin):
        sent.append((argv, json.loads(stdin)))
        return ExecResult(code, "", "unrecognized arguments: --gone")

    fake.respond = respond
    if code:
        with pytest.raises(ImageError) as error:
            arguments.parse(fake, "vllm-cpu:latest", "0.33.0")
        assert "--gone" in error.value.evidence
    else:
        record = arguments.parse(fake, "vllm-cpu:latest", "0.33.0")
        assert record.rows == arguments.launches()
    argv, order = sent[0]
    assert "PYTHONPATH=/tree" in argv
    assert order["launches"][0][:2] == ["--model", "/models/example"]
    assert fake.containers() == ()
