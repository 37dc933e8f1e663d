"""A Docker daemon of a test's own, in a network namespace of its own, and images that need no registry.

Beside the engine that the other tests use, a second daemon would take that one's firewall rules away.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import time
from pathlib import Path

from ragops.docker import engine as engines
from ragops.errors import EngineError
from tools import private_engine


class Daemon:
    """A Docker daemon in a folder and a network namespace of its own; ``hidden`` is empty for it."""

    def __init__(self, folder, *options, hidden=None):
        self.folder = folder
        self.options = options
        self.address = f"unix://{folder}/docker.sock"
        hide = f"mount -t tmpfs none {hidden} && " if hidden else ""
        argv = ["unshare", "--net", "--mount", "sh", "-c", f"{hide}exec sleep infinity"]
        self.space = subprocess.Popen(argv)
        while Path(f"/proc/{self.space.pid}/comm").read_text() != "sleep\n":
            time.sleep(0.01)
        self._spaces = [f"--net=/proc/{self.space.pid}/ns/net"]
        self._spaces += [f"--mount=/proc/{self.space.pid}/ns/mnt"] if hidden else []
        self._process = None

    def start(self):
        argv = ["nsenter", *self._spaces, "dockerd", "--host", self.address]
        argv += ["--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec"]
        argv += ["--pidfile", f"{self.folder}/pid", "--containerd-namespace", "ragopstest"]
        argv += ["--containerd-plugins-namespace", "ragopstest-plugins", *self.options]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log, cwd="/")
        deadline = time.monotonic() + 240
        while True:
            try:
                return engines.connect(self.address)
            except EngineError:
                assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def stop(self):
        """As systemctl does before a reboot: it stops its containers first."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(240)

    def kill(self):
        self._process.kill()
        self._process.wait()
        for left in ("pid", "exec/containerd/containerd.pid"):  # a zombie holds these, and counts as alive
            (self.folder / left).unlink()

    def _shims(self):
        """Processes that belong to containers of this daemon."""
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                command = file.read_bytes()
                if command.startswith(b"/usr/bin/containerd-shim") and str(self.folder).encode() in command:
                    yield int(file.parent.name)

    def remove(self):
        if self._process:
            self.stop()
        for shim in self._shims():  # none, unless the daemon did not come back
            for pid in Path(f"/proc/{shim}/task/{shim}/children").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
            os.kill(shim, signal.SIGKILL)
        self.space.kill()
        self.space.wait()
        private_engine._unmount(self.folder)
        shutil.rmtree(self.folder)


def root_file_system(folder):
    """A root file system with ``sleep``, the Python that runs the tests, and what they link to."""
    python = Path(sys.executable).resolve()
    library = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}))
    programs = {"bin/sleep": Path(shutil.which("sleep")).resolve(), str(python).lstrip("/"): python}
    extensions = sorted((library / "lib-dynload").glob("*.so"))
    with tarfile.open(folder / "root.tar", "w") as tar:
        for name, program in programs.items():
            tar.add(program, name)
        link = tarfile.TarInfo("bin/python3")
        link.type, link.linkname = tarfile.SYMTYPE, str(python)
        tar.addfile(link)
        for needed in sorted(linked([*programs.values(), *extensions])):
            tar.add(Path(needed).resolve(), needed.lstrip("/"))
        tar.add(library, str(library).lstrip("/"), filter=_needed)
        everyone = tarfile.TarInfo("var/tmp")
        everyone.type, everyone.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(everyone)
    return folder / "root.tar"


def linked(programs):
    """Paths of the shared libraries that programs link to."""
    argv = ["ldd", *map(str, programs)]
    output = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return {path for path in re.findall(r"(/\S+) \(", output) if Path(path).exists()}


def _needed(entry):
    left_out = {"__pycache__", "site-packages", "dist-packages", "test", "idlelib", "tkinter", "lib2to3"}
    return None if left_out & set(Path(entry.name).parts) or "/config-3" in entry.name else entry
