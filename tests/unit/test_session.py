"""One ragops process at a time changes a stack, whatever its home; the lock of a killed process is free."""

import os
import subprocess
import sys

import pytest

from ragops.errors import LockedError
from ragops.session import lock
from tests.support.names import PROJECT

ENGINE = f"{__file__} {PROJECT}"
"""An id that no other process of the tests has; the same each time, so that few lock files are left."""
HOLDER = f"""
import os, sys
from ragops.session import lock
os.umask(0o077)
if os.geteuid() == 0:  # another user, who may not read the home of root
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
with lock("{ENGINE}", *sys.argv[1:]):
    print("locked", flush=True)
    sys.stdin.read()
"""


class Holder:
    """Another process with a lock: of another home, and as root also of another user."""

    def __init__(self, tmp_path, *key):
        path = os.pathsep.join(sys.path)
        self.environment = {**os.environ, "RAGOPS_HOME": str(tmp_path), "PYTHONPATH": path}
        self.key = key

    def __enter__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, *self.key],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.environment,
        )
        assert self.process.stdout.readline() == b"locked\n"
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


def take(name="stack", engine=ENGINE, purpose="change"):
    with lock(engine, name, purpose):
        return True


@pytest.mark.parametrize(
    ("held", "refused", "free"),
    [
        (("stack",), [("stack",), ("",)], [("other",), ("stack", "another"), ("stack", ENGINE, "watch")]),
        (("stack", "watch"), [("stack", ENGINE, "watch"), ("",)], [("stack",), ("other",)]),
        (("",), [("stack",), ("other", ENGINE, "watch"), ("",)], [("stack", "another"), ("", "another")]),
    ],
    ids=["a change", "a watch", "all stacks"],
)
def test_lock_of_another_process_home_and_user(tmp_path, held, refused, free):
    with Holder(tmp_path, *held):
        for key in refused:
            with pytest.raises(LockedError) as caught:
                take(*key)
            assert str(caught.value.file) in caught.value.evidence
            assert caught.value.hint
        assert all(take(*key) for key in free)
    assert all(take(*key) for key in (*refused, *free))  # it was killed


def test_removal_names_the_watch():
    with lock(ENGINE, "stack", "watch"), pytest.raises(LockedError) as caught:
        lock(ENGINE, "stack", unwatched=True).__enter__()
    assert "end ragops watch first" in caught.value.hint


def test_failure_releases_the_lock():
    with pytest.raises(ZeroDivisionError), lock(ENGINE, "stack"):
        raise ZeroDivisionError
    assert take()
