"""Several Docker daemons on this machine, each as if it were a machine of its own, for tests of Swarm.

Each has its own process, mount, host name and network namespace; their links meet at a bridge in one more
namespace. Nothing of it is in the namespaces of the host, so no address and no firewall rule collides, and
all of it ends with the first process of each namespace, which the kernel kills when the test process ends.
"""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import docker
from docker.errors import DockerException

from ragops.configuration import home
from ragops.docker import engine as engines
from ragops.reranker import gateway
from ragops.reranker import image as images_of_vllm
from tests.support import replicas
from tests.support.fleet import STEADY
from tests.support.names import PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ragops.docker.engine import Engine

READY = 240.0
"""Seconds until a daemon responds or a node has a state."""
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
_FIRST = "trap : TERM; sleep infinity & while :; do wait; done"
"""First process of a namespace: it reaps what the daemon leaves."""
STUB, WORSE = f"{PROJECT}-stub-vllm:latest", f"{PROJECT}-stub-vllm:worse"
BEHAVIOUR = "/var/tmp/behaviour.json"  # noqa: S108 - in the volume that a node keeps
_SERVER = f"""
import asyncio, os, sys
from vllm.entrypoints.openai import replicas

if "--served-model-name" in sys.argv:
    replicas.MODEL = sys.argv[sys.argv.index("--served-model-name") + 1]
sys.argv[1:] = ["--file", "{BEHAVIOUR}", os.environ["STUB"]]
asyncio.run(replicas._main())
"""
_CLEAN = """
cat > /dev/null
for _ in 1 2 3 4 5 6 7 8 9 10; do
  umount --lazy "$1" 2> /dev/null
  rm -rf "$1" 2> /dev/null
  find /sys/fs/cgroup -depth -type d -path "*/$(basename "$1")*" -exec rmdir {} + 2> /dev/null
  test -e "$1" || exit 0
  sleep 0.5
done
exit 1
"""
"""Removes files and cgroups when its input is closed, also by the end of the test process."""


class Node:
    """A machine of the lab."""

    def __init__(self, folder: Path, number: int) -> None:
        self.name = f"node{number}"
        self.address = f"192.168.213.{number + 10}"
        self.folder = folder / self.name
        (self.folder / "etc").mkdir(parents=True)
        self.cgroup = f"/{folder.name}/{self.name}"
        self.socket = f"unix://{self.folder}/sock"
        self._first: subprocess.Popen[bytes] | None = None
        self._daemon: subprocess.Popen[bytes] | None = None
        self._client: docker.DockerClient | None = None

    @property
    def pid(self) -> int:
        """Its first process, as the host numbers it."""
        assert self._first
        return int(_children(self._first.pid)[0])

    def boot(self) -> None:
        """Create its namespaces, without a network link and without the daemon."""
        argv = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--uts", "--ipc", "--pid"]
        own = f"mkdir -p /etc/docker; mount --bind {self.folder}/etc /etc/docker"  # and the engine's id
        first = f"{own}; hostname {self.name}; ip link set lo up; {_FIRST}"
        with (self.folder / "log").open("ab") as log:
            argv += ["--mount-proc", "--kill-child", "sh", "-c", first]
            self._first = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        _until(lambda: b"sleep" in self.output("ps", "-e", "-o", "comm"), f"{self.name} has no processes")

    def argv(self, *argv: str) -> list[str]:
        """The command that runs a program on this machine."""
        return ["nsenter", f"--target={self.pid}", "--net", "--uts", "--ipc", "--pid", "--mount", *argv]

    def output(self, *argv: str) -> bytes:
        """Output of a program that runs on this machine."""
        with suppress(IndexError):  # it starts
            return subprocess.run(self.argv(*argv), capture_output=True, check=False, cwd="/").stdout
        return b""

    @contextmanager
    def inside(self) -> Iterator[None]:
        """This thread and what it starts have the network of this machine."""
        with Path("/proc/thread-self/ns/net").open() as ours, Path(f"/proc/{self.pid}/ns/net").open() as its:
            _enter(its.fileno())
            try:
                yield
            finally:
                _enter(ours.fileno())

    def start(self) -> None:
        """Start the daemon and wait until it responds."""
        folder = self.folder
        argv = ["dockerd", "--host", self.socket]
        argv += [
            "--data-root",
            f"{folder}/data",
            "--exec-root",
            f"{folder}/exec",
            "--pidfile",
            f"{folder}/pid",
        ]
        argv += ["--cgroup-parent", self.cgroup, "--log-level", "info"]
        for left in ("pid", "exec/containerd/containerd.pid"):  # numbers that mean another process by now
            (folder / left).unlink(missing_ok=True)
        with (folder / "log").open("ab") as log:
            self._daemon = subprocess.Popen(
                self.argv(*argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"
            )
        _until(self._responds, f"dockerd of {self.name} does not respond, see {folder}/log")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop the daemon, as systemctl does; with SIGKILL its containers go on running."""
        assert self._daemon
        for child in _children(self._daemon.pid):
            os.kill(int(child), number)
        self._daemon.wait(READY)

    def lose(self) -> None:
        """Cut the power: no process gets a signal that it can handle."""
        if self._first and self._first.poll() is None:
            with suppress(IndexError, ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._first.wait()
        if self._daemon:
            self._daemon.wait()

    def link(self, state: str) -> None:
        """Cut the link to the other machines (``down``), or restore it (``up``)."""
        subprocess.run(self.argv("ip", "link", "set", "uplink", state), check=True)

    @property
    def client(self) -> docker.DockerClient:
        """Docker's library with this machine's daemon."""
        if self._client is None:
            self._client = docker.DockerClient(base_url=self.socket, timeout=300)
        return self._client

    def engine(self) -> Engine:
        """Our library with this machine's daemon."""
        return engines.connect(self.socket)

    def docker(self, *argv: str, check: bool = True) -> str:
        """Output of the docker command on this machine."""
        command = ["docker", "--host", self.socket, *argv]
        return subprocess.run(command, capture_output=True, text=True, check=check, cwd="/").stdout.strip()

    def containers(self, text: str) -> list[Any]:
        """Running containers whose name contains the text."""
        return list(self.client.containers.list(filters={"name": text}))

    def signal(self, container: str, name: str) -> None:
        """Send a signal to the first process of a container, as the kernel does it."""
        pid = self.client.api.inspect_container(container)["State"]["Pid"]
        subprocess.run(self.argv("kill", f"-{name}", str(pid)), check=True)

    def _responds(self) -> bool:
        assert self._daemon
        if self._daemon.poll() is not None:
            raise RuntimeError((self.folder / "log").read_text()[-2000:])
        with suppress(DockerException, OSError):
            return bool(self.client.ping())
        return False


class SwarmLab:
    """Machines on one link; with :meth:`join` they are one Swarm, whose manager is the first."""

    def __init__(self, nodes: int = 2) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lab-", dir="/tmp"))
        memory = ["mount", "-t", "tmpfs", "-o", "size=8g,mode=755", "none", str(self.folder)]
        subprocess.run(memory, check=True)  # nothing in it has to last, and a disk takes minutes
        self.nodes = [Node(self.folder, number + 1) for number in range(nodes)]
        self._hub: subprocess.Popen[bytes] | None = None
        reading, self._writing = os.pipe()
        argv = ["sh", "-c", _CLEAN, "clean", str(self.folder)]
        self._clean = subprocess.Popen(argv, stdin=reading, start_new_session=True, cwd="/")
        os.close(reading)

    @property
    def manager(self) -> Node:
        """The machine with the control plane."""
        return self.nodes[0]

    def __enter__(self) -> Self:
        """Start all daemons."""
        try:
            argv = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sh", "-c"]
            bridge = "ip link add bridge type bridge && ip link set bridge up && exec sleep infinity"
            self._hub = subprocess.Popen([*argv, bridge], stdin=subprocess.DEVNULL)
            hub = self._hub.pid
            _until(lambda: Path(f"/proc/{hub}/comm").read_text() == "sleep\n", "there is no bridge")
            for node in self.nodes:
                self.boot(node)
            self.each(Node.start)
        except BaseException:
            self.__exit__()
            raise
        return self

    def boot(self, node: Node) -> None:
        """Start a machine without its daemon, for the first time or after :meth:`Node.lose`.

        The kernel ends it with the calling thread.
        """
        assert self._hub
        node.boot()
        hub, port = ["nsenter", f"--target={self._hub.pid}", "--net"], node.name
        create = (
            f"ip link del {port} 2> /dev/null; ip link add {port} type veth peer name uplink netns {node.pid}"
        )
        script = f"{create} && ip link set {port} master bridge up"
        subprocess.run([*hub, "sh", "-c", script], check=True)
        route = "ip route add default via 192.168.213.1"  # Swarm needs none, but dockerd looks for it
        up = f"ip addr add {node.address}/24 dev uplink && ip link set uplink up && {route}"
        subprocess.run(node.argv("sh", "-c", up), check=True)

    def __exit__(self, *_: object) -> None:
        """Remove everything; also after a failure."""
        for node in self.nodes:
            node.lose()
        if self._hub:
            self._hub.kill()
            self._hub.wait()
        os.close(self._writing)
        assert self._clean.wait(300) == 0, f"{self.folder} could not be removed"

    def each(self, action: Any, nodes: Sequence[Node] | None = None) -> list[Any]:
        """Results of an action for each machine, all at once."""
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            return list(pool.map(action, self.nodes if nodes is None else nodes))

    def join(self) -> list[str]:
        """Make one Swarm of the machines, with the commands that Docker names; returns those."""
        init = ["swarm", "init", "--advertise-addr", self.manager.address]
        nodes = ["node", "ls", "--filter", "membership=accepted", "--format", "{{.Status}}"]
        self.manager.docker(*init, check=False)  # after 20 s Docker no longer waits, but it goes on
        _until(lambda: self.manager.docker(*nodes, check=False).split() == ["Ready"], "there is no Swarm")
        printed = self.manager.docker("swarm", "join-token", "worker")
        (command,) = (line.strip() for line in printed.splitlines() if "swarm join" in line)
        self.each(lambda node: node.docker(*command.split()[1:], check=False), self.nodes[1:])
        wanted = ["Ready"] * len(self.nodes)
        _until(lambda: self.manager.docker(*nodes, check=False).split() == wanted, "not all nodes are ready")
        return ["docker " + " ".join(init), command]

    def load(self, image: bytes) -> None:
        """Load an image, as ``docker save`` writes it, in each daemon."""
        self.each(lambda node: node.client.images.load(image))


def images(engine: Engine) -> tuple[dict[str, str], bytes]:
    """Ids by name of the gateway's image and of two with a stub for vLLM, and what ``docker save`` writes.

    The stub takes vLLM's arguments. Its scores in the image :data:`WORSE` are those of another model.
    """
    built = {gateway.tag(): gateway.ensure(engine, images_of_vllm.DEFAULT, home())}
    for name, behaviour in {STUB: STEADY, WORSE: replace(STEADY, seed="worse")}.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            package = folder / "app" / "vllm" / "entrypoints" / "openai"
            package.mkdir(parents=True)
            shutil.copy(replicas.__file__, package)
            (package / "api_server.py").write_text(_SERVER)
            (folder / "var" / "tmp").mkdir(parents=True)
            (folder / "var" / "tmp").chmod(0o1777)
            (folder / "bin").mkdir()
            (folder / "bin" / "sleep").write_text("#!/usr/bin/python3\nimport signal\nsignal.pause()\n")
            (folder / "bin" / "sleep").chmod(0o755)
            recipe = f"FROM {gateway.tag()}\nCOPY app /app\nCOPY var /var\nCOPY bin /usr/bin\n"
            (folder / "Dockerfile").write_text(
                f"{recipe}ENV STUB={shlex.quote(json.dumps(asdict(behaviour)))}\n"
            )
            deque(engine.build(folder, name, arguments={}))
        image = engine.image(name)
        assert image
        built[name] = image
    api = engine._client.api
    saved = api._get(api._url("/images/get"), params={"names": list(built)})
    for name in (STUB, WORSE):
        engine.remove_image(name)
    return {name: image.id for name, image in built.items()}, saved.content


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _enter(space: int) -> None:
    if _LIBC.setns(space, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def _until(holds: Any, problem: str, seconds: float = READY) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(problem)
        time.sleep(0.02)
