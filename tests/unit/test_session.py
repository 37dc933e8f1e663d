"""One ragops process at a time changes a stack; the lock of a process that was killed is free."""

import subprocess
import sys

import pytest

from ragops.errors import LockedError
from ragops.session import lock

HOLDER = """
import sys
from ragops.session import lock
with lock("unix:///a", "stack"):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RAGOPS_HOME", str(tmp_path / "new" / "home"))


def take(address="unix:///a", name="stack"):
    with lock(address, name):
        return True


def test_second_process_is_refused_with_the_file(tmp_path):
    with lock("unix:///a", "stack"):
        with pytest.raises(LockedError) as caught:
            take()
        assert str(tmp_path) in caught.value.evidence
        assert caught.value.hint
    assert take()


def test_other_stacks_and_engines_are_free():
    with lock("unix:///a", "stack"):
        assert take(name="other")
        assert take(address="unix:///b")
        with lock("unix:///a", "stack", "watch"):
            pass


def test_failure_releases_the_lock():
    with pytest.raises(ZeroDivisionError), lock("unix:///a", "stack"):
        raise ZeroDivisionError
    assert take()


def test_killed_process_leaves_no_lock():
    argv = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(LockedError):
            take()
        holder.kill()
        holder.wait()
    assert take()
