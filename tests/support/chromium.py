"""A real Chromium for tests/browser and tests/live/test_lab.py."""

import shlex
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.support import undisturbed

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)

LIMIT = 600_000
"""Milliseconds that a page or an element may take; on a loaded machine a page loads for minutes."""


@contextmanager
def open_chromium():
    """A running Chromium; while it is open, no other event loop may run in this thread.

    Changes of the machine's network interfaces abort none of its requests.
    """
    path = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if path is None:
        pytest.fail("there is no Chromium: apt-get install chromium, or run make test as root on Debian")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "chromium"
        command = shlex.join([sys.executable, undisturbed.__file__, path])
        program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        program.chmod(0o755)
        browser = playwright.chromium.launch(executable_path=program, args=SWITCHES, timeout=LIMIT)
        expect.set_options(timeout=LIMIT)
        yield browser
        browser.close()
