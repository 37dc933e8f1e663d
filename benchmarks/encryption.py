"""Measures what encryption of an overlay network costs a rerank request, in a Linux kernel that has IPsec.

::

    apt-get download user-mode-linux && dpkg -x user-mode-linux_*.deb uml
    python -m benchmarks.encryption docs/_data/encryption.json uml

takes two minutes. User Mode Linux is a Linux kernel that runs as a process: the kernel of this machine needs
no IPsec, and the machine no virtualization. ``data/encryption.py`` is its first process: two nodes, a VXLAN
between them, and ESP with the parameters that Docker sets. The cost is the processor time of that kernel, so
that other programs hardly disturb it: the work of both nodes together, with AES without the processor's
instructions for it, hence an upper limit. The kind ``null`` is ESP without a cipher.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import gateways, overlay, write
from benchmarks.gateways import Machine
from ragops.checks.latency import interval_ranks
from ragops.errors import RagopsError
from tests.support import replicas

KINDS = ("plain", "null", "encrypted")
REQUESTS, ROUNDS, BULK = 50, 12, 16 << 20
SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <string.h>
#include <sys/uio.h>

long ptrace(int request, ...) {
    static long (*original)(int, ...);
    static char state[1 << 16];
    va_list rest;
    va_start(rest, request);
    long process = va_arg(rest, long), kind = va_arg(rest, long);
    struct iovec *part = va_arg(rest, void *), whole = {state, sizeof state};
    va_end(rest);
    if (!original) original = dlsym(RTLD_NEXT, "ptrace");
    if (request != 0x4205 || kind != 0x202) return original(request, process, kind, part);
    if (original(0x4204, process, kind, &whole) < 0) return -1;
    memcpy(state, part->iov_base, part->iov_len < whole.iov_len ? part->iov_len : whole.iov_len);
    return original(request, process, kind, &whole);
}
"""
"""Sets all registers, as Linux requires: this kernel knows fewer than a processor with AMX has."""


@dataclass(frozen=True)
class Kind:
    """One kind of network."""

    name: str
    p50_ms: float
    """Of all requests, with what other programs of the machine delay."""
    kernel_ms: tuple[float, ...]
    """Processor time of the kernel for one request, and the start of its client, in each round."""
    added_ms: float
    """The median, over the rounds, of the difference to ``plain`` in the same round."""
    added_interval_ms: tuple[float, float]
    """Of 95 %."""
    bulk_added_ms: float
    """The same for each MB that is transferred in bulk."""


@dataclass(frozen=True)
class Measured:
    """The record."""

    machine: Machine
    kernel: str
    documents: int
    request_bytes: int
    requests: int
    kinds: tuple[Kind, ...]
    cipher_mb_s: float | None
    """What one core of the machine encrypts with AES instructions; see :mod:`benchmarks.overlay`."""


def measure(package: Path) -> Measured:
    """Boot the kernel of the unpacked package, and read what it measured."""
    watch = gateways.Watch()
    (modules,) = (package / "usr/lib/uml/modules").iterdir()
    order = {
        "modules": str(modules.resolve()),
        "kinds": KINDS,
        "documents": overlay.DOCUMENTS,
        "bytes": overlay.BYTES,
        "requests": REQUESTS,
        "warm_up": overlay.WARM_UP,
        "rounds": ROUNDS,
        "bulk": BULK,
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "order.json").write_text(json.dumps(order))
        (folder / "client.py").write_text(overlay.CLIENT)
        shutil.copy(replicas.__file__, folder)
        shutil.copy(Path(__file__).parent / "data/encryption.py", folder)
        results, seconds = boot(package / "usr/bin/linux.uml", folder)
    return Measured(
        machine=watch.machine(),
        kernel=results["kernel"],
        documents=overlay.DOCUMENTS,
        request_bytes=overlay.BYTES,
        requests=ROUNDS * REQUESTS,
        kinds=kinds(results["times"], seconds),
        cipher_mb_s=overlay.cipher(),
    )


def boot(kernel: Path, folder: Path) -> tuple[dict[str, Any], list[float]]:
    """Run the kernel until it halts: its results, and its processor time at each stamp."""
    (folder / "shim.c").write_text(SHIM)
    shim = folder / "shim.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, folder / "shim.c"], check=True)
    options = ["mem=512M", "root=/dev/root", "rootfstype=hostfs", "rw", "con=null", "con0=null,fd:1"]
    init = ["init=/usr/bin/python3", "--", str(folder / "encryption.py"), str(folder)]
    environment = os.environ | {"LD_PRELOAD": str(shim)}
    seconds: list[float] = []
    with (folder / "console.txt").open("wb") as console:
        process = subprocess.Popen(
            [kernel, *options, *init],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
        )
        while process.poll() is None:
            if (folder / f"wanted-{len(seconds)}").exists():
                spent, *_ = Path(f"/proc/{process.pid}/schedstat").read_text().split()
                (folder / f"stamp-{len(seconds)}").touch()
                seconds.append(int(spent) / 1e9)
            time.sleep(0.005)
    if not (folder / "results.json").exists():
        file = folder / "error.txt" if (folder / "error.txt").exists() else folder / "console.txt"
        raise RagopsError(
            "User Mode Linux did not measure.", evidence=file.read_text(errors="replace")[-2000:]
        )
    return json.loads((folder / "results.json").read_text()), seconds


def kinds(times: dict[str, list[float]], seconds: list[float]) -> tuple[Kind, ...]:
    """The record of each kind, of the kernel's processor time before, between and after its two steps."""
    requests: dict[str, list[float]] = {name: [] for name in KINDS}
    bulk: dict[str, list[float]] = {name: [] for name in KINDS}
    for turn in range(len(seconds) // 3):
        number, place = divmod(turn, len(KINDS))
        name = KINDS[:: 1 if number % 2 else -1][place]
        before, between, after = seconds[3 * turn : 3 * turn + 3]
        requests[name].append(1000 * (between - before) / (REQUESTS + overlay.WARM_UP))
        bulk[name].append(1000 * (after - between) / (BULK / 1e6))
    return tuple(
        Kind(
            name=name,
            p50_ms=median(times[name]),
            kernel_ms=tuple(requests[name]),
            added_ms=median(added(requests, name)),
            added_interval_ms=interval(added(requests, name)),
            bulk_added_ms=median(added(bulk, name)),
        )
        for name in KINDS
    )


def added(values: dict[str, list[float]], name: str) -> list[float]:
    """Differences to ``plain``, in ascending order."""
    return sorted(mine - plain for mine, plain in zip(values[name], values["plain"], strict=True))


def interval(ordered: list[float]) -> tuple[float, float]:
    """Of the median with 95 %; with too few values, of all."""
    low, high = interval_ranks(len(ordered), 0.5) or (1, len(ordered))
    return ordered[low - 1], ordered[high - 1]


if __name__ == "__main__":
    write(measure(Path(sys.argv[2])), sys.argv[1], digits=3)
