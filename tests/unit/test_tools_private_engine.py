"""The private engine: only where none answers, only with the means; another's is never touched."""

import json
import os
import shutil
import subprocess
import sys

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


FILTER = """\
-P INPUT ACCEPT
-P FORWARD DROP
-N DOCKER
-N DOCKER-USER
-N GUESTS
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i br-087e74acc59d ! -o br-087e74acc59d -j ACCEPT
-A FORWARD -s 172.17.0.0/16 -j GUESTS
-A DOCKER-USER -j RETURN
"""
NAT = """\
-P POSTROUTING ACCEPT
-N DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
"""


@pytest.fixture
def host(monkeypatch, tmp_path):
    """A stopped engine on a host with these rules; gives its folder and the commands that are run."""
    ran = []

    def output(*argv):
        ran.append(argv)
        if argv[-1] != "--list-rules":
            return ""
        return FILTER if "filter" in argv else NAT

    monkeypatch.setattr(private_engine, "_output", output)
    monkeypatch.setattr(private_engine, "_daemons", list)
    monkeypatch.setattr(private_engine, "_FORWARDING", tmp_path / "ip_forward")
    (tmp_path / "engine").mkdir()
    return tmp_path / "engine", ran


def before(folder, **changed):
    settings = {"docker0": False, "forwarding": "0", "policy": "ACCEPT", "rules": {}} | changed
    (folder / "before.json").write_text(json.dumps(settings))


def deleted(ran):
    return [
        " ".join(argv[4:]) for argv in ran if argv[0] == "iptables" and any("--delete" in a for a in argv)
    ]


def test_rules_of_the_daemon_are_removed_jumps_before_chains(host):
    folder, ran = host
    before(folder)
    assert private_engine.stop(folder.parent)
    assert deleted(ran) == [
        "--delete FORWARD -j DOCKER-USER",
        "--delete FORWARD -o docker0 -j DOCKER",
        "--delete FORWARD -i br-087e74acc59d ! -o br-087e74acc59d -j ACCEPT",
        "--delete DOCKER-USER -j RETURN",
        "--delete-chain DOCKER",
        "--delete-chain DOCKER-USER",
        "--delete POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
        "--delete-chain DOCKER",
    ]
    assert ("iptables", "--wait", "--policy", "FORWARD", "ACCEPT") in ran
    assert (folder.parent / "ip_forward").read_text() == "0"


@pytest.mark.parametrize(
    ("settings", "daemons"),
    [({"docker0": True}, []), ({}, [4711])],
    ids=["engine installed earlier", "engine installed later"],
)
def test_rules_of_another_engine_stay(host, monkeypatch, settings, daemons):
    folder, ran = host
    before(folder, **settings)
    monkeypatch.setattr(private_engine, "_daemons", lambda: daemons)
    assert private_engine.stop(folder.parent)
    assert ran == []
    assert not folder.exists()


def test_rules_that_were_there_before_the_daemon_stay(host):
    folder, ran = host
    before(folder, rules={"filter": FILTER.splitlines(), "nat": NAT.splitlines()[:2]})
    private_engine.stop(folder.parent)
    assert deleted(ran) == ["--delete POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE"]


def test_the_settings_of_the_host_are_recorded_before_the_daemon_starts(host):
    folder, _ = host
    (folder.parent / "ip_forward").write_text("1\n")
    private_engine._record_host(folder)
    recorded = json.loads((folder / "before.json").read_text())
    assert recorded["policy"] == "DROP"
    assert recorded["forwarding"] == "1"
    assert recorded["rules"] == {"filter": FILTER.splitlines(), "nat": NAT.splitlines()}


def test_mounts_below_a_path_with_spaces_are_unmounted(host, monkeypatch, tmp_path):
    _, ran = host
    home = tmp_path / "my checkout\\"
    (home / "engine").mkdir(parents=True)
    escaped = str(home / "engine").replace("\\", "\\134").replace(" ", "\\040")
    mounts = tmp_path / "mounts"
    mounts.write_text(f"proc /proc proc rw 0 0\nnsfs {escaped}/exec/net nsfs rw 0 0\n")
    monkeypatch.setattr(private_engine, "_MOUNTS", mounts)
    private_engine.stop(home)
    assert ran == [("umount", "--lazy", f"{home}/engine/exec/net")]


def test_a_command_that_hangs_ends_in_its_timeout(monkeypatch):
    def run(argv, *, timeout, **_):
        raise subprocess.TimeoutExpired(argv, timeout)

    monkeypatch.setattr(subprocess, "run", run)
    assert private_engine._output("iptables", "--wait") == ""
    with pytest.raises(EngineError) as caught:
        private_engine._apt("update")
    assert "timed out after 900" in caught.value.evidence


def test_daemons_are_found_by_their_name(tmp_path):
    (tmp_path / "dockerd").symlink_to(sys.executable)
    program = "print(flush=True); input()"
    with subprocess.Popen(
        [tmp_path / "dockerd", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        assert process.pid in private_engine._daemons()
        process.communicate(b"\n")
    assert process.pid not in private_engine._daemons()
