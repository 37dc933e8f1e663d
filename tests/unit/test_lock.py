"""One ragops at a time: another thread or process is refused, and a dead one's lock is gone."""

import subprocess
import sys

import pytest

from ragops.errors import LockedError
from ragops.stack.lock import held

HOLDER = """
import sys, pathlib
from ragops.stack.lock import held
with held(pathlib.Path(sys.argv[1]), "unix:///a", "stack"):
    print("held", flush=True)
    sys.stdin.read()
"""


def take(home, address="unix:///a", name="stack"):
    with held(home, address, name):
        return True


def test_second_holder_is_refused_with_the_file(tmp_path):
    with held(tmp_path, "unix:///a", "stack"):
        with pytest.raises(LockedError, match="another ragops is changing the stack of stack") as caught:
            take(tmp_path)
        assert str(tmp_path) in caught.value.evidence
        assert caught.value.hint
    assert take(tmp_path)


def test_other_stacks_and_engines_are_free(tmp_path):
    with held(tmp_path, "unix:///a", "stack"):
        assert take(tmp_path, name="other")
        assert take(tmp_path, address="unix:///b")


def test_failure_lets_go(tmp_path):
    with pytest.raises(ZeroDivisionError), held(tmp_path, "unix:///a", "stack"):
        raise ZeroDivisionError
    assert take(tmp_path)


def test_folder_is_made(tmp_path):
    assert take(tmp_path / "new" / "home")


def test_killed_process_leaves_no_lock(tmp_path):
    argv = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LockedError):
            take(tmp_path)
        holder.kill()
        holder.wait()
    assert take(tmp_path)
