"""The record of the overlay network's cost: what is computed of the times, and what the page says of it."""

import importlib
import json
import subprocess
from pathlib import Path

import pytest

from benchmarks import overlay

RECORD = json.loads((Path(__file__).parents[2] / "docs/_data/overlay.json").read_text())


def test_a_kind_has_the_median_of_all_and_of_each_round():
    assert overlay.kind("plain", [[1.0, 2.0, 9.0], [3.0]]) == overlay.Kind("plain", 2.5, (2.0, 3.0), "")


def test_a_kind_that_fails_once_has_no_times():
    kind = overlay.kind("encrypted", [[1.0], "TimeoutError: timed out"])
    assert (kind.p50_ms, kind.rounds_ms, kind.error) == (None, (), "TimeoutError: timed out")


def test_the_record_has_all_kinds_of_ragflows_request():
    assert [kind["name"] for kind in RECORD["kinds"]] == list(overlay.KINDS)
    assert (RECORD["documents"], RECORD["request_bytes"]) == (64, 120_000)
    assert all(bool(kind["error"]) == (kind["p50_ms"] is None) for kind in RECORD["kinds"])


@pytest.mark.parametrize(
    ("output", "speed"), [("type    1400 bytes\nAES-128-GCM    1663239.38k\n", 1663.23938), ("", None)]
)
def test_the_cipher_alone(monkeypatch, output, speed):
    done = subprocess.CompletedProcess([], 0, output)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    assert overlay.cipher() == speed


@pytest.mark.parametrize("measured", [None, 31.4])
def test_the_page_says_whether_encryption_was_measured(monkeypatch, tmp_path, measured):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "docs/_ext"))
    generated = importlib.import_module("generated")
    kinds = [kind | ({"p50_ms": measured} if kind["name"] == "encrypted" else {}) for kind in RECORD["kinds"]]
    (tmp_path / "overlay.json").write_text(json.dumps(RECORD | {"kinds": kinds}))
    monkeypatch.setattr(generated, "DATA", tmp_path)
    text = " ".join(generated.overlay())
    assert ("is not measured" in text) is (measured is None)
    assert ("estimated" in text) is (measured is None)
    assert ("31.4 ms" in text) is (measured is not None)
