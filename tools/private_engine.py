"""``python -m tools.private_engine start|stop``: a Docker engine for machines without one.

Its socket, data and pid file are in ``<home>/engine``, where ``ragops.docker.engine`` finds the socket. Needs
root on Debian or Ubuntu. :func:`stop` removes everything.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ragops.cli.output import Call, run_verb
from ragops.configuration import home as ragops_home
from ragops.docker.engine import connect
from ragops.errors import EngineError
from ragops.progress import step

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

READY = 240.0
"""Seconds until a new daemon must respond."""
INSTALLED = 900.0
"""Seconds for a call of apt-get; another one may hold its lock."""
_COMMAND = 60.0
"""Seconds for any other command."""

_POLICY = Path("/usr/sbin/policy-rc.d")
_MOUNTS = Path("/proc/self/mounts")
_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
_TABLES = ("filter", "nat")
_RULE = re.compile(r"\b(DOCKER|docker0|br-[0-9a-f]{12})\b")
"""In each rule and chain of a daemon: its chains, and the bridges of its networks."""


def ensure(home: Path) -> str:
    """Return the address of the reachable Docker engine; start a private one if there is none.

    Args:
        home: Folder for its data.

    Raises:
        EngineError: None is reachable, and one can be neither installed nor started on this machine.
    """
    try:
        address = connect().state().address
    except EngineError as unreachable:
        if os.environ.get("DOCKER_HOST"):
            raise
        _require_dockerd(unreachable)
        step("starting a private Docker engine")
        return _start(home / "engine")
    step(f"using the Docker engine at {address}")
    return address


def running(home: Path) -> int | None:
    """The process id of the private engine; None if it does not run."""
    try:
        pid = int((home / "engine" / "docker.pid").read_text())
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except (OSError, ValueError):
        return None
    return pid if name == "dockerd" else None


def stop(home: Path) -> bool:
    """Stop the private engine, remove its containers, images, networks and data; False if there is none.

    Other engines are not changed.
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
    _record_host(folder)
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


def _require_dockerd(unreachable: EngineError) -> None:
    if os.geteuid() != 0:
        raise EngineError(
            "no Docker engine is reachable, and starting one needs root",
            code="engine-not-started",
            evidence=unreachable.evidence,
            hint=unreachable.hint or "start Docker, or run this as root",
        )
    if shutil.which("dockerd"):
        return
    if not shutil.which("apt-get"):
        raise EngineError(
            "no Docker engine is reachable, and this is neither Debian nor Ubuntu",
            code="engine-not-started",
            evidence=unreachable.evidence,
            hint="install Docker Engine with your system's packages and start it",
        )
    step("installing docker.io")
    _install()


def _install() -> None:
    """Install the packages without starting the distribution's own daemon."""
    create_policy = not _POLICY.exists()
    if create_policy:
        _POLICY.write_text("#!/bin/sh\nexit 101\n")
        _POLICY.chmod(0o755)
    try:
        _apt("update", "-q")
        _apt("install", "-q", "-y", "--no-install-recommends", "docker.io", "iptables")
    finally:
        if create_policy:
            _POLICY.unlink()


def _apt(*argv: str) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        result = subprocess.run(
            ["apt-get", *argv],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
            timeout=INSTALLED,
        )
        evidence = "" if result.returncode == 0 else result.stdout + result.stderr or "no output"
    except subprocess.TimeoutExpired as error:
        evidence = str(error)
    if evidence:
        raise EngineError(
            "docker.io could not be installed",
            code="engine-not-started",
            evidence="\n".join(evidence.splitlines()[-8:]),
            hint="apt-get install docker.io shows the complete output",
        )


def _end(pid: int) -> None:
    """Stop the daemon and its containers; kill it after a minute."""
    for number, timeout in ((signal.SIGTERM, 60), (signal.SIGKILL, 10)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if _ended(pid):
                return
            time.sleep(0.2)


def _unmount(folder: Path) -> None:
    """Unmount what a stopped daemon leaves mounted, such as its network namespace."""
    for line in reversed(_MOUNTS.read_text().splitlines()):
        target = re.sub(
            r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), line.split()[1]
        )  # \040: a space
        if Path(target).is_relative_to(folder.resolve()):
            _output("umount", "--lazy", target)


def _ended(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


@dataclass(frozen=True)
class _HostNetwork:
    """Network settings of the host that a daemon changes."""

    docker0: bool
    forwarding: str
    policy: str
    rules: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def read(cls) -> _HostNetwork:
        rules = {table: _rules(table) for table in _TABLES}
        policy = next(
            (rule.split()[-1] for rule in rules["filter"] if rule.startswith("-P FORWARD")), "ACCEPT"
        )
        docker0 = Path("/sys/class/net/docker0").exists()
        return cls(docker0, _FORWARDING.read_text().strip(), policy, rules)


def _rules(table: str) -> list[str]:
    return _output("iptables", "--wait", "--table", table, "--list-rules").splitlines()


def _record_host(folder: Path) -> None:
    file = folder / "before.json"
    if not file.exists():
        file.write_text(json.dumps(asdict(_HostNetwork.read())))


def _restore(folder: Path) -> None:
    """Remove the daemon's bridge and firewall rules, unless another engine created or uses the same."""
    file = folder / "before.json"
    before = _HostNetwork(**json.loads(file.read_text())) if file.exists() else None
    if before is None or before.docker0 or _daemons():
        return
    _output("ip", "link", "delete", "docker0")
    for table in _TABLES:
        for command in _deletions(_rules(table), before.rules.get(table, ())):
            _output("iptables", "--wait", "--table", table, *command)
    _output("iptables", "--wait", "--policy", "FORWARD", before.policy)
    _FORWARDING.write_text(before.forwarding)


def _daemons() -> list[int]:
    """Process ids of the Docker daemons in this network namespace."""
    pids = []
    for file in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if file.read_text() == "dockerd\n" and (file.parent / "ns/net").samefile("/proc/self/ns/net"):
                pids.append(int(file.parent.name))
    return pids


def _deletions(rules: Sequence[str], before: Sequence[str]) -> list[list[str]]:
    """Arguments of iptables that delete a daemon's rules, jumps before chains; those from before it stay."""
    new = [rule.split() for rule in rules if _RULE.search(rule) and rule not in before]
    deletions = [["--delete", *rule[1:]] for rule in new if rule[0] == "-A"]
    return deletions + [["--delete-chain", rule[1]] for rule in new if rule[0] == "-N"]


def _output(*argv: str) -> str:
    """Run a command and return its output; its failure is ignored."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=_COMMAND).stdout
    return ""


def main() -> int:
    """Start or stop the private engine; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.private_engine", description=__doc__)
    parser.add_argument("action", choices=("start", "stop"))
    action = parser.parse_args().action
    call = Call()

    def run() -> None:
        if action == "start":
            call.show(f"DOCKER_HOST={ensure(ragops_home())}")
        else:
            call.show("stopped and removed" if stop(ragops_home()) else "there is no private engine")

    return run_verb(call, run)


if __name__ == "__main__":
    raise SystemExit(main())
