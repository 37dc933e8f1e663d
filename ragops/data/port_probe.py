"""Runs inside a container: which of some addresses answer there? Standard library only.

Reads a JSON request from standard input and writes the addresses that answered to standard output;
``checks/exposure.py`` sends the one and reads the other. Works from Python 3.8 on.
"""

from __future__ import annotations

import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor


def main():
    ask = json.load(sys.stdin)
    with ThreadPoolExecutor(len(ask["hosts"])) as pool:  # each may take its whole time
        tries = [(host, pool.submit(answers, host, ask["port"], ask["timeout"])) for host in ask["hosts"]]
        json.dump([host for host, answered in tries if answered.result()], sys.stdout)


def answers(host, port, timeout):
    """Whether a connection is taken; a name that can't be found is no answer either."""
    try:
        socket.create_connection((host, port), timeout=timeout).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
