"""A Docker engine of our own, for machines without one: own socket, data folder and pid file.

Everything lies in ``<home>/engine``. Needs root on Debian or Ubuntu. ``engine.py`` finds its
socket there; :func:`stop` takes all of it away again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from ragops.docker.engine import connect
from ragops.errors import EngineError
from ragops.progress import step

READY = 60.0
"""Seconds in which a new daemon must answer."""

_POLICY = Path("/usr/sbin/policy-rc.d")
_MOUNTS = Path("/proc/self/mounts")
_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
_DEFAULT_POOL = "172.17.0.0/16"


def ensure(home: Path) -> str:
    """The address of the engine that answers; a private one is started where none does.

    Args:
        home: Folder below which its data goes.

    Raises:
        EngineError: None answers, and one can be neither installed nor started here.
    """
    try:
        address = connect().state().address
    except EngineError as none_answers:
        if os.environ.get("DOCKER_HOST"):
            raise
        _require_dockerd(none_answers)
        step("starting a private Docker engine")
        return _start(home / "engine")
    step(f"using the Docker engine at {address}")
    return address


def running(home: Path) -> int | None:
    """The process id of the private engine, if it runs."""
    try:
        pid = int((home / "engine" / "docker.pid").read_text())
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except (OSError, ValueError):
        return None
    return pid if name == "dockerd" else None


def stop(home: Path) -> bool:
    """Stop the private engine and remove its data; False when there is none.

    Its containers, images and networks go with it. Other engines are not touched.
    """
    folder = home / "engine"
    if not folder.exists():
        return False
    if pid := running(home):
        _end(pid)
    _unmount(folder)
    _restore(folder)
    shutil.rmtree(folder)
    return True


def _start(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    socket, log = folder / "docker.sock", folder / "dockerd.log"
    address = f"unix://{socket}"
    _remember(folder)
    argv = ["dockerd", "--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")]
    argv += ["--host", address, "--pidfile", str(folder / "docker.pid")]
    with log.open("ab") as out:
        daemon = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/", start_new_session=True
        )
    deadline = time.monotonic() + READY
    while time.monotonic() < deadline and daemon.poll() is None:
        try:
            connect(address)
        except EngineError:
            time.sleep(0.2)
        else:
            return address
    _end(daemon.pid)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
    raise EngineError(
        "the private Docker engine did not start",
        code="engine-not-started",
        evidence=tail,
        hint=f"its log is {log}",
        file=log,
    )


def _require_dockerd(none_answers: EngineError) -> None:
    if os.geteuid() != 0:
        raise EngineError(
            "no Docker engine answers, and starting one needs root",
            code="engine-not-started",
            evidence=none_answers.evidence,
            hint=none_answers.hint or "start Docker, or run this as root",
        )
    if shutil.which("dockerd"):
        return
    if not shutil.which("apt-get"):
        raise EngineError(
            "no Docker engine answers, and this is neither Debian nor Ubuntu",
            code="engine-not-started",
            evidence=none_answers.evidence,
            hint="install Docker Engine with your system's packages and start it",
        )
    step("installing docker.io")
    _install()


def _install() -> None:
    """Install the packages without starting the distribution's own daemon."""
    holds = not _POLICY.exists()
    if holds:
        _POLICY.write_text("#!/bin/sh\nexit 101\n")
        _POLICY.chmod(0o755)
    try:
        _apt("update", "-q")
        _apt("install", "-q", "-y", "--no-install-recommends", "docker.io", "iptables")
    finally:
        if holds:
            _POLICY.unlink()


def _apt(*argv: str) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(["apt-get", *argv], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise EngineError(
            "docker.io could not be installed",
            code="engine-not-started",
            evidence="\n".join((done.stdout + done.stderr).splitlines()[-8:]),
            hint="apt-get install docker.io shows the whole reason",
        )


def _end(pid: int) -> None:
    """Ask the daemon to end, and its containers with it; by force after a minute."""
    for sign, patience in ((signal.SIGTERM, 60), (signal.SIGKILL, 10)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sign)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if _gone(pid):
                return
            time.sleep(0.2)


def _unmount(folder: Path) -> None:
    """Let go of what a daemon leaves mounted when it ends, such as its network namespace."""
    for line in reversed(_MOUNTS.read_text().splitlines()):
        target = line.split()[1]
        if Path(target).is_relative_to(folder.resolve()):
            _quietly("umount", "--lazy", target)


def _gone(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


@dataclass(frozen=True)
class _Before:
    """What a daemon changes on the host, as it was before ours came."""

    docker0: bool
    forwarding: str
    policy: str

    @classmethod
    def read(cls) -> _Before:
        rules = _quietly("iptables", "--wait", "--list-rules", "FORWARD").splitlines()
        policy = rules[0].split()[-1] if rules else "ACCEPT"
        return cls(Path("/sys/class/net/docker0").exists(), _FORWARDING.read_text().strip(), policy)


def _remember(folder: Path) -> None:
    file = folder / "before.json"
    if not file.exists():
        file.write_text(json.dumps(asdict(_Before.read())))


def _restore(folder: Path) -> None:
    """Take the bridge and firewall rules away, unless another engine had made its own before."""
    file = folder / "before.json"
    before = _Before(**json.loads(file.read_text())) if file.exists() else None
    if before is None or before.docker0:
        return
    _quietly("ip", "link", "delete", "docker0")
    for rule in _rules():
        _quietly("iptables", "--wait", *rule)
    _quietly("iptables", "--wait", "--policy", "FORWARD", before.policy)
    _FORWARDING.write_text(before.forwarding)


def _rules() -> list[list[str]]:
    """The commands that take the daemon's firewall rules out again, jumps before chains."""
    commands: list[list[str]] = []
    for table in ("filter", "nat"):
        listed = _quietly("iptables", "--wait", "--table", table, "--list-rules")
        ours = [line.split() for line in listed.splitlines() if "DOCKER" in line or "docker0" in line]
        ours += [
            line.split() for line in listed.splitlines() if _DEFAULT_POOL in line and "docker0" not in line
        ]
        commands += [["--table", table, "--delete", *rule[1:]] for rule in ours if rule[0] == "-A"]
        commands += [["--table", table, "--delete-chain", rule[1]] for rule in ours if rule[0] == "-N"]
    return commands


def _quietly(*argv: str) -> str:
    """Run a command whose failure does not matter; gives back what it wrote."""
    if shutil.which(argv[0]) is None:
        return ""
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout
