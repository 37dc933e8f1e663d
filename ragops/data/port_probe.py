"""Runs inside a container: which of some addresses accept a connection? Standard library only.

Reads a JSON request from standard input and writes a JSON object to standard output, with each
``ADDRESS:PORT`` and whether it does; ``checks/verify.py`` writes the one and reads the other. Works from
Python 3.8 on.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def main():
    request = json.loads(sys.stdin.readline())
    targets = [(host, port) for host, port in request["targets"]]
    targets += [(gateway(), port) for port in request["gateway_ports"]]
    with ThreadPoolExecutor(len(targets) or 1) as pool:  # each may take its whole timeout
        results = {target: pool.submit(is_open, target, request["timeout"]) for target in targets}
        json.dump({f"{host}:{port}": open_.result() for (host, port), open_ in results.items()}, sys.stdout)


def gateway():
    """The Docker host, as the default route of this container has it."""
    with Path("/proc/net/route").open() as routes:
        row = next(row.split() for row in routes if row.split()[1] == "00000000")
    return socket.inet_ntoa(struct.pack("<L", int(row[2], 16)))


def is_open(target, timeout):
    """Whether a connection is accepted."""
    try:
        socket.create_connection(target, timeout=timeout).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
