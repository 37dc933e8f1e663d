"""Every verb in a hostile environment: an error with a hint, no traceback, no last resort.

The verbs are those of the command itself, so that new ones are included.
"""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

from ragops import cli
from ragops.checks import ready
from ragops.docker import engine as docker_engine
from ragops.errors import EngineError, LaunchError
from ragops.stack.watch import Watcher
from tools.commands import commands

CONNECT = docker_engine.connect
"""The real one, before a fixture replaces it."""
READING = ((), ("doctor",), ("plan",), ("status",))
"""Verbs that change nothing in the engine and download nothing; the first is ``ragops`` alone."""


def every_verb():
    """A command line of each verb, with a value for each required argument."""
    for name, command in commands().items():
        required = [parameter for parameter in command.params if parameter.required]
        yield (*name.split(), *("bash" if one.metavar == "SHELL" else "missing" for one in required))


@pytest.fixture
def outside(monkeypatch):
    """Attempts to reach other machines and to run programs; they fail."""
    attempts = []

    def connect(connection, address, name="connect"):
        if connection.family != socket.AF_UNIX and not ip_address(address[0]).is_loopback:
            attempts.append(address)
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        return getattr(original, name)(connection, address)

    def run(argv, *_, **__):
        attempts.append(argv)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", argv[0])

    original = socket.socket
    methods = {"connect": connect, "connect_ex": lambda *_: errno.ENETUNREACH, "__module__": "socket"}
    monkeypatch.setattr(socket, "socket", type("socket", (original,), methods))
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(subprocess, "Popen", run)
    return attempts


@pytest.fixture
def walk(here, capsys, monkeypatch, outside):
    """Runs command lines; each ends as it should, and what they print is returned."""
    monkeypatch.setattr(os, "execve", lambda *_: sys.exit(0))
    monkeypatch.setattr(Watcher, "_next", lambda watcher, *_: watcher.stop())
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # watch's handlers would stay
    wait = ready.wait

    def wait_for_up(engine, name, *more, **named):  # a reranker of tune has no server here
        if "-tune-" in name:
            raise LaunchError(f"{name} did not start", hint="none")
        return wait(engine, name, *more, **named)

    monkeypatch.setattr(ready, "wait", wait_for_up)

    def run(*lines):
        results, faults = {}, []
        for argv in lines:
            code = cli.main(argv)
            output = capsys.readouterr()
            results[" ".join(argv)] = code, output.out, output.err
            words = "Traceback", "#unexpected", "#file-refused", "\x1b"
            is_error = "error: " in output.err
            without_hint = is_error and code != 2 and not output.err.splitlines()[-1].startswith("hint: ")
            wrong_code = code not in ({1, 2} if is_error else {0, 1, 2, 3})
            if without_hint or wrong_code or any(word in output.out + output.err for word in words):
                faults.append(f"{argv}: {code}\n{output.out[-500:]}{output.err[-500:]}")
        assert not faults, "\n".join(faults)
        return results

    return run


@pytest.fixture
def real_connect(monkeypatch, here, tmp_path):
    """The real connection in place of the fake engine; there is no default socket."""
    monkeypatch.setattr(docker_engine, "connect", CONNECT)
    monkeypatch.setattr(docker_engine, "DEFAULT_SOCKET", f"unix://{tmp_path}/none.sock")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    for name in ("DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "docker").mkdir()
    return tmp_path / "docker"


ENGINES = {
    "stale context": ({}, '{"currentContext": "gone"}'),
    "damaged configuration": ({}, "{"),
    "missing context": ({"DOCKER_CONTEXT": "gone"}, "{}"),
    "no socket": ({"DOCKER_HOST": "unix:///nowhere.sock"}, "{}"),
    "ssh": ({"DOCKER_HOST": "ssh://me@example.org"}, "{}"),
    "closed port": ({"DOCKER_HOST": "tcp://127.0.0.1:1"}, "{}"),
    "remote": ({"DOCKER_HOST": "tcp://192.0.2.1:2375"}, "{}"),
    "no certificates": ({"DOCKER_HOST": "tcp://127.0.0.1:1", "DOCKER_TLS_VERIFY": "1"}, "{}"),
    "no port": ({"DOCKER_HOST": "tcp://127.0.0.1:23a"}, "{}"),
    "no protocol": ({"DOCKER_HOST": "foo://\x1b[31m"}, "{}"),
    "long name": ({"DOCKER_HOST": f"tcp://{'x' * 300}:2375"}, "{}"),
}


@pytest.mark.parametrize("name", ENGINES)
def test_without_a_usable_engine(walk, real_connect, monkeypatch, outside, name):
    variables, config = ENGINES[name]
    (real_connect / "config.json").write_text(config)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    results = walk((), *every_verb())
    assert results["doctor"][0] == 1
    assert "engine answers" in results["doctor"][1]
    assert {results[verb][0] for verb in ("plan", "up", "status", "verify", "watch", "demo up")} == {1}
    assert not [attempt for attempt in outside if "192.0.2.1" not in attempt]


def test_with_an_unwritable_home_and_no_image(walk, serving, ragflow, monkeypatch):
    serving._images.clear()
    monkeypatch.setenv("RAGOPS_HOME", "/dev/null/ragops")
    lines = ("image",), ("image", "--build"), ("demo", "up"), ("up",)
    assert {code for code, _, _ in walk(*lines).values()} == {1}


def replace_with_links(folder):
    for file in folder.iterdir():
        file.rename(folder.parent / file.name)
        file.symlink_to("missing.safetensors")


ENVIRONMENTS = {
    "home below a file": {"RAGOPS_HOME": "/dev/null/ragops"},
    "home of an unknown user": {"RAGOPS_HOME": "~nosuchuser/x"},
    "home with a long name": {"RAGOPS_HOME": "/tmp/" + "x" * 300},  # noqa: S108 - is never created
    "no model is named": {"RAGOPS_MODEL_DIR": ""},
    "no model": {"RAGOPS_MODEL_DIR": "/nowhere"},
    "model of an unknown user": {"RAGOPS_MODEL_DIR": "~nosuchuser/x"},
    "model with a long name": {"RAGOPS_MODEL_DIR": "x" * 5000},
    "model in proc": {"RAGOPS_MODEL_DIR": "/proc/self"},
    "model is a file": {"RAGOPS_MODEL_DIR": "/dev/zero"},
    "endless configuration": {"RAGOPS_STACK": "/dev/zero"},
    "configuration is a folder": {"RAGOPS_STACK": "/"},
    "secret that is none": {"RAGOPS_RAGFLOW_TOKEN": "a\x1bb", "RAGOPS_RERANKER_KEY": "ä"},
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_with_hostile_variables(walk, serving, ragflow, monkeypatch, outside, name):
    for variable, value in ENVIRONMENTS[name].items():
        monkeypatch.setenv(variable, value)
    walk(*READING)
    assert serving.calls == []
    assert outside == []
    walk(*every_verb())


@pytest.mark.parametrize(
    "text",
    [
        "port = 1",
        "[reranker",
        "[reranker]\nimage = '-v/:/host'",
        "[network]\nname = 'a\x1bb'",
        "a = " + "[" * 5000,
    ],
)
def test_with_a_hostile_configuration(walk, serving, ragflow, here, text):
    (here.parent / "ragops.toml").write_text(text)
    results = walk(*READING, *every_verb())
    assert results["plan"][0] == 1
    assert serving.calls == []


class TestWithAnEngine:
    def test_that_has_no_image_and_no_registry(self, walk, serving, ragflow, outside):
        serving._images.clear()
        walk(*READING)
        assert serving.calls == []
        assert outside == []
        walk(*every_verb())

    def test_whose_image_tag_has_moved(self, walk, serving, ragflow):
        assert walk(("up",))["up"][0] == 0
        serving._images.clear()
        walk(*READING, *every_verb())

    def test_that_ends(self, walk, fake, monkeypatch):
        def refuse(*_, **__):
            raise EngineError("the engine has ended", hint="start it")

        for method in ("networks", "containers", "container", "image", "volumes"):
            monkeypatch.setattr(fake, method, refuse)
        results = walk(*READING, *every_verb())
        assert results["status"][0] == 1

    def test_with_dangling_links_in_the_model_folder(self, walk, serving, ragflow, model_folder):
        replace_with_links(model_folder)
        results = walk(*READING, *every_verb())
        assert results["up"][0] == 1

    def test_with_a_hostile_name(self, walk, fake):
        fake.add_container("evil", image="infiniflow/ragflow:v0.25.3", labels={"a": "\x1b[31m"})
        fake.change("evil", name="evil\x1b]0;owned\x07")
        results = walk(*READING)
        assert not any("\x1b" in out + err for _, out, err in results.values())

    def test_on_a_full_disk(self, walk, serving, ragflow, monkeypatch):
        def full(path, *_, **__):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

        monkeypatch.setattr(Path, "mkdir", full)
        walk(*READING, *every_verb())


URLS = (
    *(
        "http://127.0.0.1:81a3/v1",
        "http://127.0.0.1:938O",
        "..",
        "http://[::1",
        "http://",
        "ftp://127.0.0.1/v1",
    ),
    *(
        f"http://{'x' * 300}/v1",
        "http://127.0.0.1:99999",
        "http://a\x1bb/v1",
        "http://127.0.0.1:1/v1",
        "http://ä..b",
    ),
)


@pytest.mark.parametrize("url", URLS)
def test_with_invalid_addresses(walk, serving, ragflow, monkeypatch, url):
    monkeypatch.setenv("RAGOPS_RAGFLOW_TOKEN", "ragflow-x")
    measured = ("--model", "m", "--requests", "1", "--warmup", "0", "--max-words", "60")
    lines = ("bench", "--url", url, *measured), ("register", "--url", url), ("unregister", "--url", url)
    assert {code for code, _, _ in walk(*lines).values()} == {1}


def test_with_files_that_are_none(walk, serving, ragflow, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x80")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").symlink_to("/dev/zero")
    names = ["/dev/zero", "/proc/self", "/proc/self/mem", "x" * 300, "/dev/null/x"]
    for name in [*names, *(str(tmp_path / name) for name in ("pipe", "binary", "run"))]:
        lines = [("check", name), ("check", name, "--fix"), ("report", name), ("compare", name, name)]
        lines += [("plan", "--stack", name), ("bench", "--workload", name), ("bench", "--resume", name)]
        lines += [("register", "--token-file", name), ("register", "--key-file", name)]
        codes = {line: code for line, (code, _, _) in walk(*lines).items()}
        assert set(codes.values()) == {1}, codes


@pytest.mark.parametrize("folder", ["/dev/null", "x" * 300])
def test_with_folders_that_can_not_be_written(walk, serving, ragflow, recorded, folder):
    lines = ("report", str(recorded), "--out", f"{folder}/x"), ("int8", "--target", f"{folder}/x")
    assert {code for code, _, _ in walk(*lines, ("bench", "--results", f"{folder}/x")).values()} == {1}


@pytest.mark.parametrize(
    "argv", [(), ("doctor",), ("plan", "--stack", "/dev/zero"), ("bench", "--clients", "9" * 5000)]
)
def test_in_a_process_of_its_own(tmp_path, argv):
    environment = {"PATH": os.environ["PATH"], "HOME": "/dev/null", "DOCKER_CONFIG": str(tmp_path)}
    environment |= {
        "DOCKER_HOST": "tcp://127.0.0.1:1",
        "DOCKER_TLS_VERIFY": "1",
        "DOCKER_CERT_PATH": "/nowhere",
    }
    command = [sys.executable, "-m", "ragops", *argv]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in ({1, 2} if argv else {0})
    assert "Traceback" not in done.stderr
    assert not list(Path(tmp_path).iterdir())
    assert json.dumps(done.stdout).count("u001b") == 0
