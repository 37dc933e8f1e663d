"""One ragops process at a time changes a stack, whatever its home; the lock of a killed process is free."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ragops.configuration import Gateway, Reranker, Stack
from ragops.docker.objects import COMPOSE_PROJECT, COMPOSE_SERVICE, LABEL_STACK
from ragops.errors import LockedError
from ragops.session import Session, create_folder, lock
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


class TestDeployment:
    @pytest.fixture
    def session(self, here, fake):
        return lambda **keys: Session(Stack(**keys), fake)

    def test_gateway_has_the_name_and_the_port(self, session, fake):
        stack = {"reranker": Reranker(name="rr", replicas=2)}
        create_folder(Stack(**stack), fake.state())
        deployment = session(**stack).deployment
        front = deployment.gateway
        assert (front.name, front.role) == ("rr", "gateway")
        assert [replica.name for replica in deployment.replicas] == ["rr-1", "rr-2"]
        assert {spec.labels[-1] for spec in (front, *deployment.replicas)} == {(LABEL_STACK, "rr")}
        cpus = [spec.cpuset_cpus for spec in deployment.replicas]
        assert len(set(cpus)) == 2
        (folder,) = [mount for mount in front.mounts if mount.target == "/reference"]
        assert (Path(folder.source).stat().st_mode & 0o777, folder.read_only) == (0o755, True)

    def test_without_a_gateway_is_as_before(self, session):
        deployment = session(gateway=False).deployment
        assert deployment.gateway is None
        assert deployment.spec.name == Stack().reranker.name
        assert LABEL_STACK not in deployment.spec.all_labels()

    @pytest.mark.parametrize(
        ("options", "images", "deadline"),
        [
            ({}, [], 27),
            ({}, ["infiniflow/ragflow:v0.25.6"], 27),
            ({}, ["infiniflow/ragflow:v1.0.0-rc1"], 108),
            ({}, ["infiniflow/ragflow:v1.0.0-rc1", "infiniflow/ragflow:v0.25.6"], 27),
            ({"deadline": 12.5}, ["infiniflow/ragflow:v0.25.6"], 12.5),
            ({"deadline": False}, ["infiniflow/ragflow:v0.25.6"], 0),
        ],
    )
    def test_deadline(self, session, fake, options, images, deadline):
        for number, image in enumerate(images):
            fake.add_image(image)
            labels = {COMPOSE_SERVICE: "ragflow-cpu", COMPOSE_PROJECT: "docker"}
            fake.add_container(f"ragflow-{number}", image=image, labels=labels)
        environment = dict(session(gateway=Gateway(**options)).deployment.gateway.environment)
        assert float(environment["GATEWAY_DEADLINE"]) == deadline
