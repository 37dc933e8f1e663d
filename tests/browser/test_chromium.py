"""The browser that the tests use."""

import os
from pathlib import Path

from tests.support.chromium import open_chromium


def descendants(process):
    """The process and those that it started, directly or not."""
    children = [int(child) for file in task_files(process, "children") for child in file.read_text().split()]
    return [process, *(each for child in children for each in descendants(child))]


def task_files(process, name):
    return Path(f"/proc/{process}/task").glob(f"*/{name}")


def sockets(process):
    try:
        return {str(file.readlink()) for file in Path(f"/proc/{process}/fd").iterdir()}
    except FileNotFoundError:  # it has ended, or a file was closed
        return set()


def test_no_change_of_network_interfaces_reaches_it():
    with open_chromium() as browser:
        tab = browser.new_page()
        tab.goto("data:text/html,<title>open</title>")
        assert tab.title() == "open"
        family = descendants(os.getpid())
        programs = [one for one in family if Path(f"/proc/{one}/comm").read_text().startswith("chrom")]
        assert programs
        rows = Path("/proc/net/netlink").read_text().splitlines()[1:]
        netlink = {f"socket:[{row.split()[-1]}]" for row in rows}
        assert netlink
        assert [one for one in programs if sockets(one) & netlink] == []
