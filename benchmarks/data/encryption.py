"""Runs as the first process of a User Mode Linux: measures an overlay network, encrypted as Docker does it.

The first argument is a folder with ``order.json``, ``replicas.py`` (the stub) and ``client.py``. The results
go to ``results.json`` there, an error to ``error.txt``. Each of two nodes is a network namespace; what would
be its containers has another one, with a VXLAN device for each kind of network.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys
import time
import traceback
from pathlib import Path

MODULES = (
    *("veth", "vxlan", "xfrm_user", "esp4", "authenc", "ctr", "ghash-generic", "gcm"),
    *("hmac", "sha512_generic", "jitterentropy_rng", "drbg", "seqiv", "echainiv"),
    *("xt_tcpudp", "xt_u32", "xt_mark", "xt_policy", "iptable_mangle", "iptable_filter"),
)
MTU = {"plain": 1450}
"""As Docker sets it: less the headers of VXLAN, and 26 bytes less for ESP."""
REQID, ENCRYPTED_MTU = 0xD0C4E3, 1424
CIPHERS = {
    "null": ("enc", "ecb(cipher_null)", "", "auth", "digest_null", ""),
    "encrypted": ("aead", "rfc4106(gcm(aes))", "0x" + "5a" * 20, "64"),
}
"""Docker's: a key of 16 bytes, a salt of 4 and a check value of 8; and none, for the cost of ESP alone."""
FINIT_MODULE, POWER_OFF = 313, 0x4321FEDC
"""Numbers of a system call of x86-64, and of an order to the kernel."""
NODES = {"a": "192.168.0.1", "b": "192.168.0.2"}
SINK = """
import socket
with socket.create_server(("0.0.0.0", 9000)) as server:
    while True:
        connection, _ = server.accept()
        while connection.recv(1 << 18):
            pass
        connection.sendall(b"x")
        connection.close()
"""
SOURCE = """
import socket, sys
data = bytes(1 << 16)
with socket.create_connection((sys.argv[1], 9000), timeout=60) as connection:
    for _ in range(int(sys.argv[2]) // len(data)):
        connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)
    connection.recv(1)
"""


def main() -> None:
    """Measure, and stop the machine."""
    folder = Path(sys.argv[1])
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    try:
        results = measure(folder, json.loads((folder / "order.json").read_text()))
        (folder / "results.json").write_text(json.dumps(results))
    except Exception:
        (folder / "error.txt").write_text(traceback.format_exc())
    finally:
        ctypes.CDLL(None).reboot(POWER_OFF)


def measure(folder: Path, order: dict) -> dict:
    """Times of the requests in ms, by kind."""
    call("mount", "-t", "proc", "proc", "/proc")
    call("mount", "-t", "tmpfs", "run", "/run")
    load(Path(order["modules"]))
    connect()
    for number, kind in enumerate(order["kinds"], 1):
        network(kind, number)
    inside = ("ip", "netns", "exec")
    python = "/usr/bin/python3"
    subprocess.Popen([*inside, "b-box", python, str(folder / "replicas.py"), "--port", "8000"])
    subprocess.Popen([*inside, "b-box", python, "-c", SINK])
    address = {kind: f"10.0.{number}.2" for number, kind in enumerate(order["kinds"], 1)}
    client = (*inside, "a-box", python, str(folder / "client.py"))
    size = [str(order[name]) for name in ("documents", "bytes", "requests", "warm_up")]
    for _ in range(60):
        if subprocess.run([*client, address["plain"], *size[:2], "1", "0"], check=False).returncode == 0:
            break
        time.sleep(1)
    times = {kind: [] for kind in order["kinds"]}
    source = (*inside, "a-box", python, "-c", SOURCE)
    for number in range(order["rounds"]):
        for kind in order["kinds"][:: 1 if number % 2 else -1]:
            stamp(folder)
            times[kind] += map(float, call(*client, address[kind], *size).split())
            stamp(folder)
            call(*source, address[kind], str(order["bulk"]))
            stamp(folder)
    return {"kernel": platform.release(), "times": times}


def stamp(folder: Path) -> None:
    """Wait until the program outside has read the processor time of this kernel."""
    number = len(list(folder.glob("wanted-*")))
    (folder / f"wanted-{number}").touch()
    while not (folder / f"stamp-{number}").exists():
        time.sleep(0.02)


def load(folder: Path) -> None:
    """Load the modules, and before each what it needs."""
    lines = [line.split(":") for line in (folder / "modules.dep").read_text().splitlines()]
    needs = {name: rest.split() for name, rest in lines}
    names = {Path(name).stem: name for name in needs}
    ordered = [one for module in MODULES for one in (*reversed(needs[names[module]]), names[module])]
    libc = ctypes.CDLL(None, use_errno=True)
    for name in dict.fromkeys(ordered):
        with (folder / name).open("rb") as file:
            if libc.syscall(FINIT_MODULE, file.fileno(), b"", 0):
                raise OSError(ctypes.get_errno(), name)


def connect() -> None:
    """Two nodes, joined by a cable."""
    for node in NODES:
        for space in (node, f"{node}-box"):
            call("ip", "netns", "add", space)
            call("ip", "-n", space, "link", "set", "lo", "up")
    call("ip", "-n", "a", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", "b")
    for node, address in NODES.items():
        call("ip", "-n", node, "address", "add", f"{address}/24", "dev", "eth0")
        call("ip", "-n", node, "link", "set", "eth0", "up")


def network(kind: str, number: int) -> None:
    """A VXLAN between the nodes; where it is encrypted, a packet that is not is dropped."""
    mtu = str(MTU.get(kind, ENCRYPTED_MTU))
    for node, other in (("a", "b"), ("b", "a")):
        ends = ("local", NODES[node], "remote", NODES[other], "dstport", "4789")
        call("ip", "-n", node, "link", "add", kind, "type", "vxlan", "id", str(number), *ends)
        call("ip", "-n", node, "link", "set", kind, "netns", f"{node}-box")
        address = f"10.0.{number}.{'ab'.index(node) + 1}/24"
        call("ip", "-n", f"{node}-box", "address", "add", address, "dev", kind)
        call("ip", "-n", f"{node}-box", "link", "set", kind, "mtu", mtu, "up")
        if kind in CIPHERS:
            encrypt(node, other, kind, number)


def encrypt(node: str, other: str, kind: str, number: int) -> None:
    """What Docker programs on one node: marks by the network's number, the states, and the policy."""
    vni = ("-p", "udp", "--dport", "4789", "-m", "u32", "--u32", f"0>>22&0x3C@12&0xFFFFFF00={number << 8}")
    mark = hex(REQID + number)
    tables = ("ip", "netns", "exec", node, "iptables-legacy")
    call(*tables, "-t", "mangle", "-A", "OUTPUT", *vni, "-j", "MARK", "--set-mark", mark)
    policy = ("-m", "policy", "--dir", "in", "--pol", "ipsec")
    call(*tables, "-A", "INPUT", *policy, *vni, "-j", "ACCEPT")
    call(*tables, "-A", "INPUT", *vni, "-j", "DROP")
    common = ("proto", "esp", "spi", hex(0x1000 + number), "reqid", hex(REQID + number), "mode", "transport")
    for here, there in ((node, other), (other, node)):
        ends = ("src", NODES[here], "dst", NODES[there])
        call("ip", "-n", node, "xfrm", "state", "add", *ends, *common, *CIPHERS[kind])
    ends = ("src", NODES[node], "dst", NODES[other])
    what = ("proto", "udp", "dport", "4789", "dir", "out", "mark", mark, "tmpl", *ends, *common)
    call("ip", "-n", node, "xfrm", "policy", "add", *ends, *what)


def call(*command: str) -> str:
    """Run a command and return its output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
