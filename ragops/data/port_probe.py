"""Runs inside a container: which of some addresses accept a connection? Standard library only.

Reads a JSON request from standard input and writes a JSON list of these addresses to standard output;
``checks/verify.py`` writes the one and reads the other. Works from Python 3.8 on.
"""

from __future__ import annotations

import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor


def main():
    request = json.loads(sys.stdin.readline())
    port, timeout = request["port"], request["timeout"]
    with ThreadPoolExecutor(len(request["hosts"])) as pool:  # each may take its whole timeout
        results = [(host, pool.submit(is_open, host, port, timeout)) for host in request["hosts"]]
        json.dump([host for host, accepted in results if accepted.result()], sys.stdout)


def is_open(host, port, timeout):
    """Whether a connection is accepted; a name that does not resolve has none."""
    try:
        socket.create_connection((host, port), timeout=timeout).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
