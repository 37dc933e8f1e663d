"""The record of the overlay network's cost: what is computed of the times, and what the page says of it."""

import importlib
import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import encryption, overlay
from benchmarks.data import encryption as inside
from ragops.errors import RagopsError

ROOT = Path(__file__).parents[2]
RECORD, ENCRYPTION = (
    json.loads((ROOT / f"docs/_data/{name}.json").read_text()) for name in ("overlay", "encryption")
)


@pytest.fixture
def generated(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs/_ext"))
    return importlib.import_module("generated")


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
def test_the_page_says_whether_docker_encrypted(monkeypatch, tmp_path, generated, measured):
    kinds = [kind | ({"p50_ms": measured} if kind["name"] == "encrypted" else {}) for kind in RECORD["kinds"]]
    (tmp_path / "overlay.json").write_text(json.dumps(RECORD | {"kinds": kinds}))
    (tmp_path / "encryption.json").write_text(json.dumps(ENCRYPTION))
    monkeypatch.setattr(generated, "DATA", tmp_path)
    text = " ".join(generated.overlay())
    assert ("User Mode Linux" in text) is (measured is None)
    assert ("31.4 ms" in text) is (measured is not None)


def test_the_page_has_both_limits_of_encryption_and_marks_the_estimate(monkeypatch, tmp_path, generated):
    kinds = [
        {"name": "plain", "added_ms": 0.0, "bulk_added_ms": 0.0},
        {"name": "null", "added_ms": 2.5},
        {"name": "encrypted", "added_ms": 11.0, "bulk_added_ms": 33.3},
    ]
    kinds = [{"added_interval_ms": [10.0, 12.0]} | kind for kind in kinds]
    record = ENCRYPTION | {"kinds": kinds, "request_bytes": 120_000, "cipher_mb_s": 2000.0}
    (tmp_path / "encryption.json").write_text(json.dumps(record))
    monkeypatch.setattr(generated, "DATA", tmp_path)
    text = " ".join(generated.encryption())
    for value in ("11.0 ms", "10.0 to 12.0", "33 ms", "0.12 ms", "2.6 ms"):
        assert value in text
    assert all(word in text for word in ("upper limit", "lower limit", "an estimate"))


def test_a_kind_is_compared_with_the_plain_one_of_the_same_round(monkeypatch):
    monkeypatch.setattr(encryption, "REQUESTS", 90)
    monkeypatch.setattr(encryption, "BULK", 10_000_000)
    times = {"plain": [5.0], "null": [6.0], "encrypted": [8.0, 9.0, 30.0]}
    rounds = [(1.5, 1.0), (0.6, 0.2), (0.5, 0.1)], [(0.7, 0.2), (0.8, 0.4), (2.5, 2.0)]
    seconds, now = [], 3.0
    for spent, moved in (step for steps in rounds for step in steps):
        seconds += [now, now + spent, now + spent + moved]
        now += spent + moved + 1.0
    plain, null, encrypted = encryption.kinds(times, seconds)
    assert plain.added_ms == 0
    assert [null.added_ms, encrypted.added_ms] == pytest.approx([1.0, 14.0])
    assert encrypted.kernel_ms == pytest.approx((15.0, 25.0))
    assert encrypted.added_interval_ms == pytest.approx((10.0, 18.0))
    assert [null.bulk_added_ms, encrypted.bulk_added_ms] == pytest.approx([15.0, 135.0])
    assert encrypted.p50_ms == 9.0


def test_the_record_of_encryption_is_of_the_same_request_and_encryption_costs_more_than_none():
    kinds = {kind["name"]: kind for kind in ENCRYPTION["kinds"]}
    assert list(kinds) == list(encryption.KINDS)
    assert all(len(kind["kernel_ms"]) == encryption.ROUNDS for kind in kinds.values())
    assert ENCRYPTION["requests"] == encryption.ROUNDS * encryption.REQUESTS
    assert [ENCRYPTION[name] for name in ("documents", "request_bytes")] == [64, 120_000]
    added = [kinds[name]["added_ms"] for name in encryption.KINDS]
    assert added == sorted(added)
    assert kinds["encrypted"]["added_interval_ms"][0] > 0


def test_a_kernel_that_does_not_measure_is_an_error_with_its_console(monkeypatch, tmp_path):
    for program in ("cc", "linux.uml"):
        (tmp_path / program).write_text("#!/bin/sh\necho Kernel panic\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(RagopsError) as error:
        encryption.boot(tmp_path / "linux.uml", tmp_path)
    assert "Kernel panic" in error.value.evidence


def test_modules_are_loaded_after_what_they_need(monkeypatch, tmp_path):
    loaded = []
    needs = dict.fromkeys(inside.MODULES, "") | {
        "vxlan": " kernel/tunnel.ko kernel/base.ko",
        "tunnel": "",
        "base": "",
    }
    (tmp_path / "kernel").mkdir()
    for name in needs:
        (tmp_path / f"kernel/{name}.ko").touch()
    dependencies = "".join(f"kernel/{name}.ko:{needed}\n" for name, needed in needs.items())
    (tmp_path / "modules.dep").write_text(dependencies)

    def load(_, number, *__):
        loaded.append(Path(f"/proc/self/fd/{number}").readlink().stem)
        return 0

    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: SimpleNamespace(syscall=load))
    inside.load(tmp_path)
    assert loaded[:4] == ["veth", "base", "tunnel", "vxlan"]
    assert sorted(loaded) == sorted(needs)
